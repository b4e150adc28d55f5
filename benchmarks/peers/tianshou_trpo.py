# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[mujoco]==1.4.0", "tianshou==2.0.1", "torch==2.13.0"]
# ///
"""Tianshou's TRPO, timed as algos/trpo_parallel.py times itself.

    python benchmarks/peers/tianshou_trpo.py --run-dir runs/tianshou

Networks, initialization and settings are those of the library's own MuJoCo example, but for the decay of the critic's
learning rate, which would depend on the budget, and its 16 processes, which are slower here than 16 environments in
one. A row is written after every update, with the mean return of the last 100 training episodes.
"""

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

from benchmarks.rows import flags_of, write_rows


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
        row = {"global_step": steps, "charts/episodic_return_100": mean_return, "charts/SPS": steps / (now - first)}
        rows.append(row | {"time/rollout": between - before, "time/learn": now - between, "time/elapsed": now - first})
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
    linear = [module for module in [*actor.modules(), *critic.modules()] if isinstance(module, torch.nn.Linear)]
    for module in linear:
        torch.nn.init.orthogonal_(module.weight, gain=math.sqrt(2))
        torch.nn.init.zeros_(module.bias)
        if module in set(actor.mu.modules()):
            module.weight.data.mul_(0.01)
    actions = {"action_space": env.action_space, "action_scaling": True, "action_bound_method": "clip"}
    policy = ProbabilisticActorPolicy(actor=actor, dist_fn=lambda both: Independent(Normal(*both), 1), **actions)
    settings = {"gamma": 0.99, "gae_lambda": 0.95, "return_scaling": True, "optim_critic_iters": 20, "max_kl": 0.01}
    return TRPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3), **settings)


def main():
    defaults = {"env_id": "Reacher-v5", "total_timesteps": 1_000_000, "stop_return": math.inf}
    args = flags_of(__doc__, **defaults, num_envs=16, num_steps=64)
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
