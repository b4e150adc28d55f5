"""CartPole with more inputs: does search fail as the number of weights grows, and does a policy gradient?

    python benchmarks/wide_cartpole.py --method random --num-inputs 16 --run-dir runs/wide

CartPole's four observations and, beside them, numbers that mean nothing: drawn afresh in every step, with mean 0 and
standard deviation 0.1, about what the pole's angle has. The best policy is the same, its other weights are 0; nothing
but the number of weights that have to be right changes. The methods are those of algos/random_search.py,
algos/hill_climbing.py (without and with growing noise) and benchmarks/policy_gradient_post.py.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector.utils import batch_space

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos import hill_climbing, random_search
from benchmarks import policy_gradient_post

STD = 0.1


@dataclass
class WideArgs:
    method: Literal["random", "hill", "growth", "gradient"] = "random"
    """random search, hill climbing, hill climbing with growing noise, the post's policy gradient"""
    num_inputs: int = 16
    """observations, four of which are CartPole's"""
    seed: int = 1
    """seeds everything"""
    num_runs: int = 60
    """independent trials"""
    max_episodes: int = 1000
    """episodes after which a trial is given up"""
    run_dir: Path = Path("runs", "wide")
    """where metrics.csv goes"""


class WideCartPole(CartPoleVectorEnv):
    """Gymnasium's vectorised CartPole with num_inputs observations."""

    def __init__(self, num_envs: int, max_episode_steps: int, num_inputs: int):
        super().__init__(num_envs, max_episode_steps)
        self.extra = num_inputs - 4
        edge = np.full(self.extra, np.inf, dtype=np.float32)
        low, high = self.single_observation_space.low, self.single_observation_space.high
        self.single_observation_space = gym.spaces.Box(np.append(low, -edge), np.append(high, edge), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def widen(self, obs: np.ndarray) -> np.ndarray:
        """obs [envs, 4] -> [envs, num_inputs]."""
        noise = STD * self.np_random.standard_normal((self.num_envs, self.extra), dtype=np.float32)
        return np.concatenate([obs, noise], axis=1)

    def reset(self, **options):
        obs, info = super().reset(**options)
        return self.widen(obs), info

    def step(self, actions):
        obs, *rest = super().step(actions)
        return self.widen(obs), *rest


def register(num_inputs: int) -> str:
    """Make it known to Gymnasium: its id."""
    env_id = f"WideCartPole{num_inputs}-v0"
    gym.register(env_id, vector_entry_point=WideCartPole, kwargs={"num_inputs": num_inputs})
    return env_id


def main(args: WideArgs):
    settings = {"env_id": register(args.num_inputs), "solved_return": 200.0, "seed": args.seed, "run_dir": args.run_dir}
    settings |= {"num_runs": args.num_runs, "max_episodes": args.max_episodes, "eval_episodes": 20}
    match args.method:
        case "random":
            random_search.train(random_search.Args(**settings))
        case "hill":
            hill_climbing.train(hill_climbing.Args(**settings))
        case "growth":
            hill_climbing.train(hill_climbing.Args(**settings, noise_growth=0.01))
        case "gradient":
            policy_gradient_post.main(policy_gradient_post.PolicyGradientArgs(**settings))


if __name__ == "__main__":
    try:
        main(tyro.cli(WideArgs, description=__doc__))
    except (random_search.UsageError, hill_climbing.UsageError) as error:
        raise SystemExit(str(error)) from None
