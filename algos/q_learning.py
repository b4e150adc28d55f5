# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[toy-text]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Q-learning: off-policy temporal-difference control with a table of action values.

    python algos/q_learning.py
    python algos/q_learning.py --start-e 1 --end-e 1 --total-episodes 30 --num-runs 100

Each step moves Q(s, a) towards the reward plus the discounted value of the best next action, whichever action the
behaviour policy takes there. So it learns the optimal values from any behaviour policy that keeps trying all actions:
the second command learns the shortest path along the cliff from a random policy.

--env-id doors is a two-armed bandit from the post below: the first door pays 1, the second 100 one time in ten. Without
exploration (--start-e 0 --end-e 0) most runs stay with the first door.

All runs advance side by side, one numpy operation for all of them; a table this small gains nothing from a GPU.

Watkins 1989, "Learning from delayed rewards".
Sutton & Barto 2018, "Reinforcement learning", 2nd edition: equation 6.8, Example 6.6 (the cliff).
Kevin Frans 2016, "Model-free prediction and control" (the post): the two doors, exploration that decreases,
https://kvfrans.com/model-free-prediction-and-control/.
Conventions: ties are broken at random; there is no time limit while learning, one of 1,000 steps in the evaluation.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: NonNegativeInt = 1
    """seed of the experiment"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: str = "CliffWalking-v1"
    """doors, or a Gymnasium environment with a transition table P, such as CliffWalking-v1 or FrozenLake-v1"""
    num_runs: Annotated[int, Field(ge=1, le=100_000)] = 500
    """independent runs, side by side"""
    total_episodes: Annotated[int, Field(ge=1, le=100_000)] = 500
    """episodes of each run"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """step size alpha"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """discount per step"""
    start_e: Annotated[float, Field(ge=0, le=1)] = 0.1
    """initial epsilon, the probability of a random action"""
    end_e: Annotated[float, Field(ge=0, le=1)] = 0.1
    """final epsilon; it changes linearly over the episodes"""


# --- the algorithm ---------------------------------------------------------------------------


def epsilon_greedy(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """Actions [n] for action values q [n, actions]; ties are broken at random."""
    explore = rng.random(len(q)) < epsilon
    candidates = explore[:, None] | (q == q.max(axis=1, keepdims=True))
    return (candidates * rng.random(q.shape)).argmax(axis=1)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    world, rng = World(args.env_id), np.random.default_rng(args.seed)
    q, returns = np.zeros((args.num_runs, *world.shape)), np.zeros((args.num_runs, args.total_episodes))
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0

    for k in tqdm(range(args.total_episodes), unit="episode", disable=None):
        epsilon = np.linspace(args.start_e, args.end_e, args.total_episodes)[k]
        runs, states = np.arange(args.num_runs), world.reset(args.num_runs, rng)
        while len(runs):  # those whose episode goes on
            actions = epsilon_greedy(q[runs, states], epsilon, rng)
            next_states, rewards, terminated = world.step(states, actions, rng)
            target = rewards + args.gamma * ~terminated * q[runs, next_states].max(axis=1)
            q[runs, states, actions] += args.learning_rate * (target - q[runs, states, actions])  # equation 6.8
            returns[runs, k] += rewards
            global_step += len(runs)
            runs, states = runs[~terminated], next_states[~terminated]

        last = k + 1 == args.total_episodes
        greedy = evaluate(world, q, rng) if last else np.array([])
        row = {
            "global_step": global_step,
            "charts/episode": k + 1,
            **mean_and_error("charts/episodic_return", returns[:, k]),
            **mean_and_error("charts/episodic_return_100", returns[:, max(0, k - 99) : k + 1].mean(axis=1)),
            "charts/SPS": global_step / (time.perf_counter() - start),
            **mean_and_error("eval/episodic_return", greedy),
            "eval/share_ended": len(greedy) / args.num_runs if last else None,
        }
        run.log(row)

    np.savez(run.dir / "model.npz", q=q)
    save_curve(run, "charts/episodic_return_100")
    run.close("curve.png")
    result = f"{greedy.mean():.1f}" if len(greedy) else "none"
    print(f"greedy return {result}, {row['eval/share_ended']:.0%} of the runs reach an end: {run.dir}")
    return row


# --- the environment, for all runs at once ---------------------------------------------------


DOORS = SimpleNamespace(
    P={0: {0: [(1.0, 0, 1.0, True)], 1: [(0.9, 0, 0.0, True), (0.1, 0, 100.0, True)]}}, initial_state_distrib=[1.0]
)


class World:
    """Gymnasium's P[s][a] = [(probability, next state, reward, terminated), ...] as arrays."""

    def __init__(self, env_id: str):
        try:
            env = DOORS if env_id == "doors" else gym.make(env_id).unwrapped
            P, self.starts = env.P, np.cumsum(env.initial_state_distrib)
        except Exception as error:  # an environment may raise anything
            raise UsageError(f"--env-id {env_id}: needs a transition table P ({error})") from None
        self.shape = len(P), len(P[0])  # states, actions
        outcomes = [outcome for s in range(len(P)) for a in range(len(P[0])) for outcome in P[s][a]]
        probabilities, next_states, self.rewards, terminations = np.array(outcomes, float).T
        self.next_states, self.terminations = next_states.astype(int), terminations.astype(bool)
        self.cumulative = probabilities.cumsum().round(9)  # the i-th pair (s, a) has the interval [i, i + 1)

    def reset(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.starts.searchsorted(rng.random(n), side="right")

    def step(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """States and actions [n] -> next states, rewards, terminations [n]."""
        pairs = states * self.shape[1] + actions
        drawn = self.cumulative.searchsorted(pairs + rng.random(len(pairs)), side="right")
        return self.next_states[drawn], self.rewards[drawn], self.terminations[drawn]


# --- evaluation ------------------------------------------------------------------------------


def evaluate(world: World, q: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns of a greedy episode of each run, those that do not terminate within 1,000 steps left out."""
    runs, states, returns = np.arange(len(q)), world.reset(len(q), rng), np.zeros(len(q))
    for _ in range(1000):
        states, rewards, terminated = world.step(states, epsilon_greedy(q[runs, states], 0, rng), rng)
        returns[runs] += rewards
        runs, states = runs[~terminated], states[~terminated]
    return np.delete(returns, runs)


def mean_and_error(name: str, x: np.ndarray) -> dict:
    """Mean over runs and its standard error, None where there are too few: x [runs]."""
    error = x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else None
    return {name: x.mean() if len(x) else None, f"{name}_se": error}


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


def save_curve(run: Run, metric: str, xlabel: str = "environment steps"):
    from matplotlib.figure import Figure

    points = [(row["global_step"], row[metric]) for row in run.rows if row[metric] is not None]
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], ".-", markersize=3)
    axes.set(xlabel=xlabel, ylabel=metric)
    axes.figure.savefig(run.dir / "curve.png", dpi=120)


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
