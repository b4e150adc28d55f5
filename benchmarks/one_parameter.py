"""The return as a function of one parameter, for a deterministic and for a stochastic policy.

    python -m benchmarks.one_parameter --run-dir runs/one-parameter

CartPole-v1 from one fixed start: a linear policy whose weights are fixed except that of the pole's angle; each value
plays one episode of the deterministic policy and 400 of the stochastic one (logistic in the same sum). And the aliased
gridworld, exactly: the parameter is the logit of east minus that of west where two states look the same. A row of
metrics.csv per value.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

from algos.reinforce_gridworld import exact_values
from benchmarks.rows import write_rows

EPISODES = 400  # of the stochastic policy


def cartpole_returns(weight: float, num_episodes: int, rng: np.random.Generator | None) -> np.ndarray:
    """Returns [episodes] from the fixed start with this weight of the angle; deterministic without a generator."""
    envs = gym.make_vec("CartPole-v1", num_episodes, vectorization_mode="vector_entry_point")
    obs, _ = envs.reset(seed=0, options={"low": 0.03, "high": 0.03})
    weights = np.array([0.2, 0.6, weight, 2.0])  # of position, velocity, angle, angular velocity
    returns, running = np.zeros(num_episodes), np.ones(num_episodes, bool)
    while running.any():
        noise = rng.logistic(size=num_episodes) if rng else 0
        obs, rewards, terminations, truncations, _ = envs.step((2 * obs @ weights + noise > 0).astype(int))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return returns


def gridworld_return(preference: float, deterministic: bool) -> float:
    """Exact mean value with this preference for east in the states 1 and 3 and the best actions elsewhere."""
    east = float(preference > 0) if deterministic else 1 / (1 + np.exp(-preference))
    probs = torch.zeros(5, 4, dtype=torch.float64)
    probs[0, 1] = probs[2, 2] = probs[4, 3] = 1
    probs[1, 1] = probs[3, 1] = east
    probs[1, 3] = probs[3, 3] = 1 - east
    return exact_values(probs, 0.9).mean().item()


def measure(seed: int):
    rng, steps = np.random.default_rng(seed), 0
    for weight in np.linspace(-4, 8, 193):
        deterministic, stochastic = cartpole_returns(weight, 1, None), cartpole_returns(weight, EPISODES, rng)
        preference = weight - 2  # the same row serves the other panel, from -6 to 6
        steps += int(deterministic.sum() + stochastic.sum())
        yield {
            "global_step": steps,
            "charts/weight": weight,
            "eval/deterministic": deterministic[0],
            "eval/stochastic": stochastic.mean(),
            "eval/stochastic_error": stochastic.std(ddof=1) / EPISODES**0.5,
            "charts/preference": preference,
            "eval/gridworld_deterministic": gridworld_return(preference, True),
            "eval/gridworld_stochastic": gridworld_return(preference, False),
        }


def main(run_dir: Path, seed: int = 1):
    write_rows(run_dir, measure(seed))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
