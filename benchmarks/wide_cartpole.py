"""CartPole with more observations: does search fail as the number of weights grows, and does a policy gradient?

    python benchmarks/wide_cartpole.py --method random --num-inputs 16 --run-dir runs/wide

CartPole's four observations and beside them noise, drawn anew in every step with mean 0 and standard deviation 0.1,
about that of the pole's angle. The best policy is the same and its other weights are 0: nothing changes but the number
of weights that have to be right. The methods are those of algos/random_search.py, algos/hill_climbing.py with growing
noise and benchmarks/policy_gradient_post.py.
"""

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector.utils import batch_space

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos import hill_climbing, random_search
from benchmarks import policy_gradient_post

STD = 0.1


class WideCartPole(CartPoleVectorEnv):
    """Gymnasium's vectorized CartPole with num_inputs observations."""

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="random", choices=["random", "growth", "gradient"])
    parser.add_argument("--num-inputs", type=int, default=16)
    parser.add_argument("--num-runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()
    flags = {"env_id": register(args.num_inputs), "num_runs": args.num_runs, "seed": args.seed}
    flags["run_dir"] = args.run_dir
    if args.method == "random":
        random_search.train(random_search.Args(**flags))
    elif args.method == "growth":
        hill_climbing.train(hill_climbing.Args(**flags, num_envs=args.num_runs, noise_growth=0.01))
    else:
        policy_gradient_post.main(random_search.Args(**flags))


if __name__ == "__main__":
    main()
