# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium==1.4.0",
#     "stable_baselines3==2.9.2",
#     "torch==2.13.0",
# ]
# ///
"""Stable-baselines3's A2C or PPO on CartPole-v1, timed as algos/actor_critic.py times itself.

    python benchmarks/peers/sb3_cartpole.py --algorithm a2c --run-dir runs/sb3

The library's algorithm runs untouched; a clock stands around each of its two halves (collect_rollouts, train), and what
this program does between them does not count. It stops when the mean return of the last 100 training episodes reaches
the bar. A2C: the library's defaults and eight environments. PPO: the settings of rl-zoo3 for CartPole-v1.
"""

import argparse
import csv
import math
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env


class StopReturnReached(Exception):
    """The bar of --stop-return is cleared: the library has no other way out of its loop after an update."""


class Timed:
    """Mixed into an algorithm: rows of metrics, and a stop at a return."""

    def follow(self, path: Path, stop_return: float):
        """Write a row to this file every 2,000 steps or a few more; raise StopReturnReached when 100 episodes do."""
        self.path, self.stop_return, self.next_row, self.elapsed, self.cpu = path, stop_return, 0, 0.0, 0.0

    def timed(self, half, *args, **kwargs):
        before, cpu_before = time.perf_counter(), time.process_time()
        result = half(*args, **kwargs)
        self.elapsed += time.perf_counter() - before
        self.cpu += time.process_time() - cpu_before
        return result

    def collect_rollouts(self, *args, **kwargs):
        return self.timed(super().collect_rollouts, *args, **kwargs)

    def train(self):
        self.timed(super().train)
        returns = [episode["r"] for episode in self.ep_info_buffer]  # the last hundred, from Monitor
        mean_return = float(np.mean(returns)) if len(returns) == 100 else None
        reached = mean_return is not None and mean_return >= self.stop_return
        if reached or self.num_timesteps >= self.next_row:
            self.next_row += 2000
            row = {
                "global_step": self.num_timesteps,
                "charts/episodic_return_100": mean_return,
                "charts/SPS": self.num_timesteps / self.elapsed,
                "time/cpu": self.cpu,
                "time/elapsed": self.elapsed,
            }
            first = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if first:
                    writer.writeheader()
                writer.writerow(row)
        if reached:
            raise StopReturnReached


class TimedA2C(Timed, A2C):
    pass


class TimedPPO(Timed, PPO):
    pass


def falling(start: float):
    """A number that falls to 0 in a straight line, as the zoo's lin_ settings do."""
    return lambda left: left * start


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=["a2c", "ppo"], required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, help="default: 500,000 for A2C; 100,000 for PPO, as in the zoo")
    parser.add_argument("--stop-return", type=float, default=math.inf, help="mean return of 100 episodes to stop at")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    envs = make_vec_env("CartPole-v1", n_envs=8, seed=args.seed)
    if args.algorithm == "a2c":
        model, steps = TimedA2C("MlpPolicy", envs, seed=args.seed, device="cpu"), 500_000
    else:
        zoo = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0}
        rates = {"learning_rate": falling(0.001), "clip_range": falling(0.2)}
        model, steps = TimedPPO("MlpPolicy", envs, seed=args.seed, device="cpu", **zoo, **rates), 100_000
    model.follow(args.run_dir / "metrics.csv", args.stop_return)
    with suppress(StopReturnReached):
        model.learn(args.total_timesteps or steps)
    envs.close()


if __name__ == "__main__":
    main()
