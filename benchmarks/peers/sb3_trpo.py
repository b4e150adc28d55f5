# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[mujoco]==1.4.0", "sb3_contrib==2.9.2", "torch==2.13.0"]
# ///
"""sb3-contrib's TRPO, timed as algos/trpo_parallel.py times itself.

    python -m benchmarks.peers.sb3_trpo --run-dir runs/sb3

The library's algorithm runs untouched, with clocks around its two halves (collect_rollouts, train). A row is written
after every update; charts/episodic_return_100 is the mean return of the last 100 training episodes, empty until there
are 100. The last row of a run that is not stopped has the mean return of deterministic actions over 100 more episodes.
The defaults are the best configuration known for Reacher, with normalised observations and rewards.
"""

import math
import time
from contextlib import suppress

import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

from benchmarks.rows import flags_of, write_rows


class StopReturnReached(Exception):
    """The bar of --stop-return is cleared: the library has no other way out of its loop after an update."""


class TimedTRPO(TRPO):
    """TRPO that keeps a row of metrics for every update and stops at a return."""

    first_step = None

    def collect_rollouts(self, *args, **kwargs):
        self.before_rollout = time.perf_counter()
        self.first_step = self.first_step or self.before_rollout
        return super().collect_rollouts(*args, **kwargs)

    def train(self):
        before_learning = time.perf_counter()
        super().train()
        now = time.perf_counter()
        returns = [episode["r"] for episode in self.ep_info_buffer]  # the last hundred, from Monitor: not normalised
        mean_return = float(np.mean(returns)) if len(returns) == 100 else None
        steps, elapsed, rollout = self.num_timesteps, now - self.first_step, before_learning - self.before_rollout
        row = {"global_step": steps, "charts/episodic_return_100": mean_return, "charts/SPS": steps / elapsed}
        row |= {"time/rollout": rollout, "time/learn": now - before_learning, "time/elapsed": elapsed}
        self.rows.append(row | {"eval/episodic_return": None})
        if mean_return is not None and mean_return >= self.stop_return:
            raise StopReturnReached
        if steps >= self._total_timesteps:
            sync_envs_normalization(self.env, self.eval_envs)
            self.rows[-1]["eval/episodic_return"] = evaluate_policy(self, self.eval_envs, n_eval_episodes=100)[0]


def main():
    defaults = {"env_id": "Reacher-v5", "total_timesteps": 1_000_000, "stop_return": math.inf, "num_envs": 16}
    defaults |= {"num_steps": 312, "gamma": 0.99, "gae_lambda": 0.97, "target_kl": 0.01, "log_std_init": 0.0}
    args = flags_of(__doc__, **defaults, cg_steps=15, critic_updates=10)
    torch.set_num_threads(1)  # a tenth faster than two on two idle cores
    envs = VecNormalize(make_vec_env(args.env_id, n_envs=args.num_envs, seed=args.seed), gamma=args.gamma)
    policy = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh, "log_std_init": args.log_std_init}
    settings = {key: getattr(args, key) for key in ("seed", "gamma", "gae_lambda", "target_kl")}
    settings |= {"cg_max_steps": args.cg_steps, "n_critic_updates": args.critic_updates, "n_steps": args.num_steps}
    model = TimedTRPO("MlpPolicy", envs, batch_size=128, device="cpu", policy_kwargs=policy, **settings)
    eval_envs = make_vec_env(args.env_id, n_envs=args.num_envs, seed=args.seed + 1000)
    model.eval_envs = VecNormalize(eval_envs, training=False, norm_reward=False)
    model.rows, model.stop_return = [], args.stop_return
    with suppress(StopReturnReached):
        model.learn(args.total_timesteps)
    write_rows(args.run_dir, model.rows)


if __name__ == "__main__":
    main()
