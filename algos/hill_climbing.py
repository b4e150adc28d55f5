# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "tqdm",
#                 "tyro>=0.9.2", "wandb"]
# ///
"""Hill climbing in weight space: perturb the weights of a linear policy, keep what has a higher return.

    python algos/hill_climbing.py
    python algos/hill_climbing.py --noise-growth 0.1

A candidate is the best weights so far plus uniform noise; the sign of the weighted sum of the observations is the
action. A trial ends with the first episode that lasts to the time limit. Small noise may not lead out of a plateau
where the pole falls at once. The post proposes two remedies: noise that grows with every failure (--noise-growth), and
several episodes per candidate, whose returns are added up (--episodes-per-update).

Kevin Frans 2016, "Simple reinforcement learning methods to learn CartPole" (the post),
http://kvfrans.com/simple-algoritms-for-solving-cartpole/. It plays CartPole-v0, which is CartPole-v1 with 200 steps.
Many independent trials play side by side in Gymnasium's vectorized CartPole, numpy on the host: there is no --cuda.
Difference: the loop printed in the post compares a variable that stays 0 and would accept nothing.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
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

    max_episode_steps: PositiveInt = 200
    """time limit of an episode, and the return that solves the task"""
    num_runs: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """independent trials"""
    max_episodes: PositiveInt = 1000
    """episodes after which a trial is given up"""
    noise: PositiveFloat = 0.1
    """candidates differ by at most this in each weight"""
    noise_growth: NonNegativeFloat = 0.0
    """what every candidate that is rejected adds to the noise, until one is accepted"""
    episodes_per_update: PositiveInt = 1
    """episodes of a candidate, whose returns are added up"""


# --- the algorithm ---------------------------------------------------------------------------

OBS_DIM = 4  # position and velocity of the cart, angle and angular velocity of the pole


def run_episode(weights: np.ndarray, max_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [n] of an episode of each linear policy: weights [n, obs]."""
    envs = gym.make_vec("CartPole-v1", num_envs=len(weights), max_episode_steps=max_steps)
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    returns, running = np.zeros(len(weights)), np.ones(len(weights), bool)
    while running.any():
        actions = (weights * obs).sum(axis=1) >= 0
        obs, rewards, terminations, truncations, _ = envs.step(actions.astype(int))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return returns


def train(args: Args) -> dict:
    """Climb; returns the last row of metrics.csv."""
    rng = np.random.default_rng(args.seed)
    run, start, num_steps = Run(args, "CartPole-v1"), time.perf_counter(), 0
    weights, best = rng.uniform(-1, 1, (args.num_runs, OBS_DIM)), np.zeros(args.num_runs)
    noise = np.full((args.num_runs, 1), args.noise)
    trials = np.arange(args.num_runs)  # those that are not solved yet

    for episode in tqdm(range(0, args.max_episodes, args.episodes_per_update), unit="update", disable=None):
        candidates = weights[trials] + noise[trials] * rng.uniform(-1, 1, (len(trials), OBS_DIM))
        episodes = [run_episode(candidates, args.max_episode_steps, rng) for _ in range(args.episodes_per_update)]
        solved = np.max(episodes, axis=0) >= args.max_episode_steps
        returns = np.sum(episodes, axis=0)
        accepted = solved | (returns > best[trials])
        weights[trials[accepted]], best[trials[accepted]] = candidates[accepted], returns[accepted]
        noise[trials] = np.where(accepted[:, None], args.noise, noise[trials] + args.noise_growth)
        num_steps += returns.sum()
        trials = trials[~solved]
        row = {
            "global_step": episode + args.episodes_per_update,
            "charts/share_solved": 1 - len(trials) / args.num_runs,
            "charts/steps_per_trial": num_steps / args.num_runs,
            "charts/SPS": num_steps / (time.perf_counter() - start),
        }
        run.log(row)
        if not len(trials):
            break

    np.save(run.dir / "weights.npy", weights)
    save_curve(run, "charts/share_solved", xlabel="episodes")
    run.close("curve.png")
    returns = run_episode(weights, args.max_episode_steps, rng)
    print(f"{row['charts/share_solved']:.1%} solved, return {returns.mean():.1f} in new episodes: {run.dir}")
    return row


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
