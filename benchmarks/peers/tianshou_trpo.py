# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[mujoco]==1.4.0",
#     "tianshou==2.0.1",
#     "torch==2.13.0",
# ]
# ///
"""Tianshou's TRPO, timed as algos/trpo_parallel.py times itself.

    python benchmarks/peers/tianshou_trpo.py --run-dir runs/tianshou

Networks, initialization and settings are those of the library's own MuJoCo example, but for the decay of the critic's
learning rate, which would depend on the budget, and its 16 processes, one per environment, which are slower here than
16 environments in one. A clock stands around collect and update; a row is written after every update, with the mean
return of the last 100 training episodes (sampled actions), empty until there are 100.
"""

import argparse
import math
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import TRPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, VectorEnvNormObs
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch.distributions import Independent, Normal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rows import write_rows


class StopReturnReached(Exception):
    """The bar of --stop-return is cleared: the library stops only after test episodes, whose time is not training."""


def watch(collector: Collector, algorithm: TRPO, stop_return: float) -> list[dict]:
    """Put clocks around collecting and updating; the list returned gets a row after every update."""
    rows, returns, collect, update = [], deque(maxlen=100), collector.collect, algorithm.update
    first = before = between = steps = 0

    def timed_collect(**kwargs):
        nonlocal first, before, between, steps
        before = time.perf_counter()
        first = first or before
        stats = collect(**kwargs)
        between, steps = time.perf_counter(), steps + stats.n_collected_steps
        returns.extend(stats.returns)
        return stats

    def timed_update(**kwargs):
        stats, now = update(**kwargs), time.perf_counter()
        mean_return = float(np.mean(returns)) if len(returns) == 100 else None
        times = {"time/rollout": between - before, "time/learn": now - between, "time/elapsed": now - first}
        row = {"global_step": steps, "charts/episodic_return_100": mean_return, "charts/SPS": steps / (now - first)}
        rows.append(row | times)
        if mean_return is not None and mean_return >= stop_return:
            raise StopReturnReached
        return stats

    collector.collect, algorithm.update = timed_collect, timed_update
    return rows


def make_algorithm(env: gym.Env) -> TRPO:
    """TRPO as the library's MuJoCo example builds it."""
    net = {"state_shape": env.observation_space.shape, "hidden_sizes": [64, 64], "activation": torch.nn.Tanh}
    shape = env.action_space.shape
    actor = ContinuousActorProbabilistic(preprocess_net=Net(**net), action_shape=shape, unbounded=True)
    critic = ContinuousCritic(preprocess_net=Net(**net))
    torch.nn.init.constant_(actor.sigma_param, -0.5)
    for module in [*actor.modules(), *critic.modules()]:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, gain=math.sqrt(2))
            torch.nn.init.zeros_(module.bias)
    for module in actor.mu.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(0.01)
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda loc_scale: Independent(Normal(*loc_scale), 1),
        action_scaling=True,
        action_bound_method="clip",
        action_space=env.action_space,
    )
    settings = {"gamma": 0.99, "gae_lambda": 0.95, "return_scaling": True, "optim_critic_iters": 20, "max_kl": 0.01}
    return TRPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3), **settings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="Reacher-v5", help="Gymnasium environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, default=1_000_000, help="environment steps to train for")
    parser.add_argument("--stop-return", type=float, default=math.inf, help="mean return of 100 episodes to stop at")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=64, help="steps of each environment per update")
    args = parser.parse_args()
    np.random.seed(args.seed)  # noqa: NPY002 (the library draws from the global generator)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    envs = VectorEnvNormObs(DummyVectorEnv([lambda: gym.make(args.env_id) for _ in range(args.num_envs)]))
    envs.seed(args.seed)
    algorithm, batch = make_algorithm(gym.make(args.env_id)), args.num_envs * args.num_steps
    buffer = VectorReplayBuffer(max(4096, batch), args.num_envs)
    collector = Collector[CollectStats](algorithm, envs, buffer, exploration_noise=True)
    rows = watch(collector, algorithm, args.stop_return)
    settings = {"max_epochs": 1, "epoch_num_steps": args.total_timesteps, "collection_step_num_env_steps": batch}
    settings |= {"batch_size": None, "show_progress": False}
    with suppress(StopReturnReached):
        algorithm.run_training(OnPolicyTrainerParams(training_collector=collector, **settings))
    write_rows(args.run_dir, rows)


if __name__ == "__main__":
    main()
