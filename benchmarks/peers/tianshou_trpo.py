# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[mujoco]==1.4.0",
#     "tianshou==2.0.1",
#     "torch==2.13.0",
# ]
# ///
"""Tianshou's TRPO, timed as algos/trpo.py times itself.

    python benchmarks/peers/tianshou_trpo.py --run-dir runs/tianshou

Networks, initialisation and settings are those of the library's own MuJoCo example, but for the decay of the critic's
learning rate, which would depend on the budget, and its 16 processes, one per environment, which are slower here than
16 environments in one. The library's trainer, collector and update run untouched; a clock stands around collect and
update. It starts at the first environment step, a row is written after every update, and what the rows call
charts/episodic_return_100 is the mean return of the last 100 training episodes (sampled actions), empty until there
are 100.
"""

import argparse
import csv
import math
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


class StopReturnReached(Exception):
    """The bar of --stop-return is cleared: the library stops only after test episodes, whose time is not training."""


class Log:
    """Times collecting and updating, keeps the last hundred returns, writes a row after every update."""

    def __init__(self, path: Path, stop_return: float):
        self.path, self.stop_return, self.first_step = path, stop_return, None
        self.returns, self.global_step = deque(maxlen=100), 0

    def collect(self, collect):
        """Wrap the collector's collect."""

        def timed(**kwargs):
            self.before_rollout = time.perf_counter()
            self.first_step = self.first_step or self.before_rollout
            stats = collect(**kwargs)
            self.before_learning = time.perf_counter()
            self.global_step += stats.n_collected_steps
            self.returns.extend(stats.returns)
            return stats

        return timed

    def update(self, update):
        """Wrap the algorithm's update."""

        def timed(**kwargs):
            stats = update(**kwargs)
            self.write(time.perf_counter())
            return stats

        return timed

    def write(self, now: float):
        mean_return = float(np.mean(self.returns)) if len(self.returns) == 100 else None
        row = {
            "global_step": self.global_step,
            "charts/episodic_return_100": mean_return,
            "charts/SPS": self.global_step / (now - self.first_step),
            "time/rollout": self.before_learning - self.before_rollout,
            "time/learn": now - self.before_learning,
            "time/elapsed": now - self.first_step,
        }
        first = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if first:
                writer.writeheader()
            writer.writerow(row)
        if mean_return is not None and mean_return >= self.stop_return:
            raise StopReturnReached


def make_algorithm(env: gym.Env, max_kl: float) -> TRPO:
    """TRPO as the library's MuJoCo example builds it."""
    shape = env.observation_space.shape
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=shape, hidden_sizes=[64, 64], activation=torch.nn.Tanh),
        action_shape=env.action_space.shape,
        unbounded=True,
    )
    critic = ContinuousCritic(preprocess_net=Net(state_shape=shape, hidden_sizes=[64, 64], activation=torch.nn.Tanh))
    torch.nn.init.constant_(actor.sigma_param, -0.5)
    for module in [*actor.modules(), *critic.modules()]:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, gain=math.sqrt(2))
            torch.nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in actor.mu.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(0.01)
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda loc_scale: Independent(Normal(*loc_scale), 1),
        action_scaling=True,
        action_bound_method="clip",
        action_space=env.action_space,
    )
    return TRPO(
        policy=policy,
        critic=critic,
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.99,
        gae_lambda=0.95,
        return_scaling=True,
        optim_critic_iters=20,
        max_kl=max_kl,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="Reacher-v5", help="Gymnasium environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--torch-threads", type=int, default=1, help="threads of the learner")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, default=1_000_000, help="environment steps to train for")
    parser.add_argument("--stop-return", type=float, default=math.inf, help="mean return of 100 episodes to stop at")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=64, help="steps of each environment per update")
    parser.add_argument("--max-kl", type=float, default=0.01, help="bound on the KL divergence of one update")
    return parser.parse_args()


def main():
    args = parse_arguments()
    args.run_dir.mkdir(parents=True, exist_ok=True)
    np.random.seed(args.seed)  # noqa: NPY002 (the library draws from the global generator)
    torch.set_num_threads(args.torch_threads)
    torch.manual_seed(args.seed)
    env = gym.make(args.env_id)
    envs = VectorEnvNormObs(DummyVectorEnv([lambda: gym.make(args.env_id) for _ in range(args.num_envs)]))
    envs.seed(args.seed)
    algorithm = make_algorithm(env, args.max_kl)
    batch = args.num_envs * args.num_steps
    collector = Collector[CollectStats](
        algorithm, envs, VectorReplayBuffer(max(4096, batch), args.num_envs), exploration_noise=True
    )
    log = Log(args.run_dir / "metrics.csv", args.stop_return)
    collector.collect, algorithm.update = log.collect(collector.collect), log.update(algorithm.update)
    with suppress(StopReturnReached):
        algorithm.run_training(
            OnPolicyTrainerParams(
                training_collector=collector,
                max_epochs=1,
                epoch_num_steps=args.total_timesteps,
                collection_step_num_env_steps=batch,
                batch_size=None,
                show_progress=False,
            )
        )
    envs.close()


if __name__ == "__main__":
    main()
