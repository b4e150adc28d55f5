# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control]>=1.1", "matplotlib", "numpy", "pydantic>=2", "tqdm", "tyro>=0.9", "wandb"]
# ///
"""Random search in weight space: draw the weights of a linear policy until an episode solves the task.

    python algos/random_search.py
    python algos/random_search.py --max-episode-steps 500

A trial is the loop of the post (Kevin Frans 2016, "Simple reinforcement learning methods to learn CartPole"):

    for episode in range(max_episodes):
        weights = uniform(-1, 1)        # one per observation; the sign of the weighted sum is the action
        if run_episode(weights) == 200:
            break

Many independent trials run side by side in Gymnasium's vectorized CartPole. With 200 steps CartPole-v1 is CartPole-v0,
which the post plays. The work is numpy on the host: there is no --cuda.
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
from pydantic import Field, NonNegativeInt, PositiveInt
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

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and two actions"""
    max_episode_steps: PositiveInt = 200
    """time limit of an episode, and the return that solves the task"""
    num_runs: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """independent trials"""
    max_episodes: PositiveInt = 1000
    """episodes after which a trial is given up"""


# --- the algorithm ---------------------------------------------------------------------------


def act(weights: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Actions [n] of a linear policy per row: weights and obs [n, obs]."""
    return (np.einsum("no,no->n", weights, obs) >= 0).astype(np.int64)


def search(envs: gym.vector.VectorEnv, args: Args, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One trial per environment: its episodes [n], whether it was solved [n], its last weights [n, obs]; all steps."""
    n, obs_dim = envs.num_envs, envs.single_observation_space.shape[0]
    weights, episodes, returns, steps = rng.uniform(-1, 1, (n, obs_dim)), np.zeros(n, int), np.zeros(n), 0
    solved, over, running = np.zeros(n, bool), np.zeros(n, bool), np.ones(n, bool)
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    with tqdm(total=n, unit="trial", disable=None) as bar:
        while running.any():
            steps += int((running & ~over).sum())
            obs, rewards, terminations, truncations, _ = envs.step(act(weights, obs))
            if np.isnan(rewards).any():
                raise ValueError("a reward is NaN")
            returns = np.where(over, 0, returns + rewards)  # the step after an end resets: it is no transition
            over = terminations | truncations

            ended = over & running
            episodes += ended
            solved |= ended & (returns >= args.max_episode_steps)
            running &= ~solved & (episodes < args.max_episodes)
            again = ended & running
            weights[again] = rng.uniform(-1, 1, (again.sum(), obs_dim))
            bar.update(int((ended & ~running).sum()))
    return episodes, solved, weights, steps


def evaluate(envs: gym.vector.VectorEnv, weights: np.ndarray, seed: int) -> np.ndarray:
    """Returns [n] of an episode of each policy, weights [n, obs]."""
    obs, _ = envs.reset(seed=seed)
    returns, running = np.zeros(len(weights)), np.ones(len(weights), bool)
    while running.any():
        obs, rewards, terminations, truncations, _ = envs.step(act(weights, obs))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return returns


# --- a run -----------------------------------------------------------------------------------


def make_envs(args: Args) -> gym.vector.VectorEnv:
    try:
        envs = gym.make_vec(args.env_id, num_envs=args.num_runs, max_episode_steps=args.max_episode_steps)
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {args.env_id}: {error}") from None
    obs_shape, action_space = envs.single_observation_space.shape, envs.single_action_space
    if len(obs_shape or ()) != 1 or action_space != gym.spaces.Discrete(2):
        raise UsageError(f"--env-id {args.env_id}: needs flat observations and two actions")
    return envs


def train(args: Args) -> dict:
    """Search; returns the last row of metrics.csv."""
    envs, rng = make_envs(args), np.random.default_rng(args.seed)
    run, start = Run(args, args.env_id), time.perf_counter()
    try:
        episodes, solved, weights, steps = search(envs, args, rng)
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
    sps = steps / (time.perf_counter() - start)
    returns = evaluate(envs, weights, int(rng.integers(2**31)))

    some = solved.sum() > 1  # enough for a standard error
    summary = {
        "charts/episodes_to_solve": episodes[solved].mean() if some else None,
        "charts/episodes_to_solve_se": episodes[solved].std(ddof=1) / math.sqrt(solved.sum()) if some else None,
        "charts/episodes_to_solve_median": np.median(episodes[solved]) if some else None,
        "charts/steps_per_trial": steps / args.num_runs,
        "charts/SPS": sps,
        "eval/episodic_return": returns[solved].mean() if some else None,  # of the weights found, in new episodes
    }
    for k in range(1, episodes.max() + 1):
        row = {"global_step": k, "charts/share_solved": (solved & (episodes <= k)).mean()}
        row |= summary if k == episodes.max() else dict.fromkeys(summary)
        run.log(row)
    np.save(run.dir / "weights.npy", weights)
    save_curve(run, "charts/share_solved", xlabel="episodes")
    run.close("curve.png")
    result = f"{solved.mean():.1%} of the trials solved, {episodes.mean():.2f} episodes on average"
    print(f"{result}, return {returns.mean():.1f} in new ones: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            try:
                wandb.login()  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)
        if args.track:
            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            wandb.init(**names, config=asdict(args), dir=self.dir)

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
    except (UsageError, FloatingPointError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
