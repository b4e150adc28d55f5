"""CartPole with more observations: does search fail as the number of weights grows, and does a policy gradient?

    python -m benchmarks.wide_cartpole --method random --num-inputs 16 --num-runs 60 --run-dir runs/wide

CartPole's four observations and beside them noise of standard deviation 0.1, about that of the pole's angle: nothing
changes but the number of weights that have to be right. The methods are those of algos/random_search.py,
algos/hill_climbing.py with growing noise and benchmarks/policy_gradient_post.py.
"""

from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from algos import hill_climbing, random_search
from benchmarks import policy_gradient_post


class WideCartPole(gym.vector.VectorObservationWrapper):
    """Gymnasium's vectorized CartPole with num_inputs observations."""

    def __init__(self, num_envs: int, max_episode_steps: int, num_inputs: int):
        super().__init__(CartPoleVectorEnv(num_envs, max_episode_steps))
        self.extra = num_inputs - 4
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (num_inputs,))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (num_envs, num_inputs))

    def observations(self, obs: np.ndarray) -> np.ndarray:
        """obs [envs, 4] -> [envs, num_inputs]."""
        noise = 0.1 * self.np_random.standard_normal((self.num_envs, self.extra), dtype=np.float32)
        return np.concatenate([obs, noise], axis=1)


def widen(num_inputs: int):
    """Let Gymnasium's CartPole-v1 be the wide one, and the searches have a weight for every input."""
    gym.registry["CartPole-v1"] = gym.envs.registration.EnvSpec(
        "CartPole-v1", vector_entry_point=WideCartPole, kwargs={"num_inputs": num_inputs}
    )
    random_search.OBS_DIM = hill_climbing.OBS_DIM = num_inputs


def main(run_dir: Path, method: Literal["random", "growth", "gradient"], num_inputs: int, num_runs: int, seed: int = 1):
    widen(num_inputs)
    flags = {"num_runs": num_runs, "seed": seed, "run_dir": run_dir}
    if method == "random":
        random_search.train(random_search.Args(**flags))
    elif method == "growth":
        hill_climbing.train(hill_climbing.Args(**flags, noise_growth=0.01))
    else:
        policy_gradient_post.main(**flags)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
