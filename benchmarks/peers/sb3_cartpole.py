# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium==1.4.0", "stable_baselines3==2.9.2", "torch==2.13.0"]
# ///
"""Stable-baselines3's A2C on CartPole-v1 with the library's defaults and eight environments.

    python -m benchmarks.peers.sb3_cartpole --algorithm a2c --run-dir runs/sb3

A row for every rollout; the run ends when the mean return of the last 100 training episodes reaches the bar.
"""

import math

import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.rows import flags_of, write_rows


class Rows(BaseCallback):
    """Collects a row before every rollout and at the end; ends the training at a mean return."""

    def __init__(self, stop_return: float):
        super().__init__()
        self.stop_return, self.rows = stop_return, []

    def _on_rollout_start(self):
        returns = [episode["r"] for episode in self.model.ep_info_buffer]  # the last hundred, from Monitor
        mean = float(np.mean(returns)) if len(returns) == 100 else None
        self.reached = mean is not None and mean >= self.stop_return
        self.rows.append({"global_step": self.num_timesteps, "charts/episodic_return_100": mean})

    _on_training_end = _on_rollout_start

    def _on_step(self) -> bool:
        return not self.reached


def main():
    args = flags_of(__doc__, algorithm="a2c", total_timesteps=500_000, stop_return=math.inf)
    torch.set_num_threads(1)
    envs = make_vec_env("CartPole-v1", n_envs=8, seed=args.seed)
    callback = Rows(args.stop_return)
    A2C("MlpPolicy", envs, seed=args.seed, device="cpu").learn(args.total_timesteps, callback)
    write_rows(args.run_dir, callback.rows)


if __name__ == "__main__":
    main()
