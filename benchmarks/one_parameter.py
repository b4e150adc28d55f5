"""The return as a function of one parameter, for a policy that is certain and for one that acts at random.

    python benchmarks/one_parameter.py --run-dir runs/one-parameter

The lecture's picture. CartPole-v1 from one fixed start: all weights of a linear policy of algos/reinforce.py but the
angle's stay where they are; each value of that one plays one episode of the most likely actions, which is all there is
to know, and many of sampled ones. And the aliased gridworld, exactly: the parameter is how much better east seems than
west where two cells look alike. A row of metrics.csv per value.
"""

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.reinforce import FrozenPolicy, gridworld_values

WEIGHTS = np.array([0.2, 0.6, 0.0, 2.0])  # of position, speed, angle, angular speed: push to the side to which it falls
START = {"low": 0.03, "high": 0.03}
GAMMA = 0.9


@dataclass
class ParameterArgs:
    seed: int = 1
    """seeds the sampled actions"""
    run_dir: Path = Path("runs", "one-parameter")
    """where metrics.csv goes"""
    num_points: int = 193
    """values of the parameter, from -4 to 8"""
    num_episodes: int = 400
    """sampled episodes of each"""


def cartpole_returns(weight: float, num_episodes: int, rng: np.random.Generator | None) -> np.ndarray:
    """Returns from the fixed start with this weight on the angle; of the most likely actions without a generator."""
    envs = gym.make_vec("CartPole-v1", num_episodes, vectorization_mode="vector_entry_point")
    obs, _ = envs.reset(seed=0, options=START)
    lean = np.array([*WEIGHTS[:2], weight, WEIGHTS[3]])
    policy = FrozenPolicy([(np.stack([-lean, lean], axis=1), np.zeros(2))], None)
    returns, alive = np.zeros(num_episodes), np.ones(num_episodes, bool)
    while alive.any():
        noise = policy.noise(rng, (num_episodes,)) if rng else 0
        obs, rewards, terminations, truncations, _ = envs.step(policy.act(obs, noise)[:, 0])
        returns += rewards * alive
        alive &= ~(terminations | truncations)
    return returns


def gridworld_return(preference: float, deterministic: bool) -> float:
    """Exact mean value when, where cells look alike, east is better than west by so much; elsewhere the best moves."""
    east = float(preference > 0) if deterministic else 1 / (1 + np.exp(-preference))
    probs = np.zeros((5, 4))
    probs[0, 1] = probs[2, 2] = probs[4, 3] = 1
    probs[[1, 3], 1], probs[[1, 3], 3] = east, 1 - east
    return float(gridworld_values(probs, GAMMA).mean())


def main(args: ParameterArgs):
    args.run_dir.mkdir(parents=True, exist_ok=True)
    rng, start, steps = np.random.default_rng(args.seed), time.perf_counter(), 0
    with (args.run_dir / "metrics.csv").open("x", newline="") as file:
        for number, weight in enumerate(np.linspace(-4, 8, args.num_points)):
            certain = cartpole_returns(weight, 1, None)
            sampled = cartpole_returns(weight, args.num_episodes, rng)
            preference = weight - 2  # the same row serves the other panel, from -6 to 6
            steps += int(certain.sum() + sampled.sum())
            row = {
                "global_step": steps,
                "charts/weight": weight,
                "eval/deterministic": certain[0],
                "eval/stochastic": sampled.mean(),
                "eval/stochastic_error": sampled.std(ddof=1) / args.num_episodes**0.5,
                "charts/preference": preference,
                "eval/gridworld_deterministic": gridworld_return(preference, True),
                "eval/gridworld_stochastic": gridworld_return(preference, False),
                "time/elapsed": time.perf_counter() - start,
            }
            writer = csv.DictWriter(file, row)
            if number == 0:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main(tyro.cli(ParameterArgs, description=__doc__))
