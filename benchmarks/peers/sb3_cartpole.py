# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium==1.4.0",
#     "stable_baselines3==2.9.2",
#     "torch==2.13.0",
# ]
# ///
"""Stable-baselines3's A2C on CartPole-v1 with the library's defaults and eight environments.

    python benchmarks/peers/sb3_cartpole.py --algorithm a2c --run-dir runs/sb3

A row about every 2,000 steps; the run ends when the mean return of the last 100 training episodes reaches the bar.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rows import write_rows


class Rows(BaseCallback):
    """Collects rows before every rollout; ends the training at a mean return."""

    def __init__(self, stop_return: float):
        super().__init__()
        self.stop_return, self.rows = stop_return, []

    def _on_rollout_start(self):
        returns = [episode["r"] for episode in self.model.ep_info_buffer]  # the last hundred, from Monitor
        mean = float(np.mean(returns)) if len(returns) == 100 else None
        self.reached = mean is not None and mean >= self.stop_return
        if self.num_timesteps and (self.reached or self.num_timesteps >= 2000 * len(self.rows)):
            self.rows.append({"global_step": self.num_timesteps, "charts/episodic_return_100": mean})

    def _on_training_end(self):
        if not self.reached:
            self._on_rollout_start()

    def _on_step(self) -> bool:
        return not self.reached


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=["a2c"], required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, default=500_000)
    parser.add_argument("--stop-return", type=float, default=math.inf, help="mean return of 100 episodes to stop at")
    args = parser.parse_args()
    torch.set_num_threads(1)
    envs = make_vec_env("CartPole-v1", n_envs=8, seed=args.seed)
    callback = Rows(args.stop_return)
    A2C("MlpPolicy", envs, seed=args.seed, device="cpu").learn(args.total_timesteps, callback)
    write_rows(args.run_dir, callback.rows)


if __name__ == "__main__":
    main()
