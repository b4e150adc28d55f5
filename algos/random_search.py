# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]>=1.1", "matplotlib", "numpy", "pydantic>=2", "tqdm", "tyro>=0.9", "wandb",
# ]
# ///
"""Random search in weight space: draw the weights of a linear policy until an episode solves the task.

    python algos/random_search.py
    python algos/random_search.py --max-episode-steps 500 --solved-return 500

A trial is the loop of the post (Kevin Frans 2016, "Simple reinforcement learning methods to learn CartPole"):

    for episode in range(max_episodes):
        weights = uniform(-1, 1)        # one per observation; the sign of the weighted sum is the action
        if run_episode(weights) == 200:
            break

Nothing is learned from a failure, so the number of episodes has a geometric distribution. Many independent trials run
side by side in Gymnasium's vectorized CartPole, which gives their mean a standard error. CartPole-v0, which the post
plays, is CartPole-v1 with --max-episode-steps 200. The work is numpy on the host: there is no --cuda.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro
from pydantic import NonNegativeInt, PositiveInt
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
    """time limit of an episode"""
    solved_return: float = 200.0
    """return of an episode that ends a trial"""
    num_runs: PositiveInt = 10_000
    """independent trials"""
    num_envs: PositiveInt = 1000
    """trials that run side by side"""
    max_episodes: PositiveInt = 1000
    """episodes after which a trial is given up"""


# --- the algorithm ---------------------------------------------------------------------------


def act(weights: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Actions [n] of a linear policy per row: weights and obs [n, obs]."""
    return (np.einsum("no,no->n", weights, obs) >= 0).astype(np.int64)


def search(envs: gym.vector.VectorEnv, args: Args, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """All trials: episodes [num_runs], whether they were solved [num_runs], the last weights [num_runs, obs], steps.

    Each environment plays one trial at a time, and then the next one that has not been started.
    """
    shape = envs.num_envs, envs.single_observation_space.shape[0]
    trials, num_started, finished, steps = np.arange(shape[0]), shape[0], [], 0
    episodes, returns, over = np.zeros(shape[0], int), np.zeros(shape[0]), np.zeros(shape[0], bool)
    weights = rng.uniform(-1, 1, shape)
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    bar = tqdm(total=args.num_runs, unit="trial", disable=None)
    while trials.min() < args.num_runs:
        steps += int(((trials < args.num_runs) & ~over).sum())
        obs, rewards, terminations, truncations, _ = envs.step(act(weights, obs))
        returns = np.where(over, 0, returns + rewards)  # the step after an end resets: it is no transition
        over = terminations | truncations

        i = np.flatnonzero(over)
        episodes[i] += 1
        solved = returns[i] >= args.solved_return
        ended = solved | (episodes[i] == args.max_episodes)
        j = i[ended]
        finished.append((trials[j], episodes[j], solved[ended], weights[j]))
        weights[i] = rng.uniform(-1, 1, (len(i), shape[1]))
        trials[j] = np.arange(num_started, num_started + len(j))
        num_started, episodes[j] = num_started + len(j), 0
        bar.update(min(len(j), bar.total - bar.n))
    bar.close()
    trials, *results = (np.concatenate(column) for column in zip(*finished, strict=True))
    first = trials.argsort()[: args.num_runs]  # the others were started while the last of these went on
    return *(result[first] for result in results), steps


def evaluate(envs: gym.vector.VectorEnv, weights: np.ndarray, seed: int) -> np.ndarray:
    """Returns [n] of an episode of each policy, weights [n, obs]."""
    obs, _ = envs.reset(seed=seed)
    returns, running = np.zeros(len(weights)), np.ones(len(weights), bool)
    while running.any():
        obs, rewards, terminations, truncations, _ = envs.step(act(weights, obs))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return returns


def mean_and_error(x: np.ndarray) -> tuple[float | None, float | None]:
    """Mean of independent samples [n] and its standard error; None where there are too few."""
    mean = float(x.mean()) if len(x) else None
    return mean, float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None


# --- a run -----------------------------------------------------------------------------------


def make_envs(args: Args) -> gym.vector.VectorEnv:
    try:
        envs = gym.make_vec(args.env_id, num_envs=args.num_envs, max_episode_steps=args.max_episode_steps)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {args.env_id}: {error}") from None
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 1 or action_space != gym.spaces.Discrete(2):
        raise UsageError(f"--env-id {args.env_id}: needs flat observations and two actions")
    return envs


def save_histogram(episodes: np.ndarray, solved: np.ndarray, folder: Path):
    """Episodes [n] until the trials were solved, beside the geometric distribution of the same mean."""
    from matplotlib.figure import Figure

    axes, k = Figure(figsize=(6, 4), layout="constrained").subplots(), np.arange(1, np.quantile(episodes, 0.99) + 1)
    axes.hist(episodes[solved], bins=np.append(k, k[-1] + 1) - 0.5, weights=np.full(solved.sum(), 1 / len(solved)))
    p = 1 / episodes.mean()
    axes.plot(k, p * (1 - p) ** (k - 1), label=f"geometric distribution, mean {episodes.mean():.2f}")
    axes.set(xlabel="episodes until solved", ylabel=f"fraction of {len(solved):,} trials")
    axes.set_title(folder.name, parse_math=False)
    axes.legend()
    axes.figure.savefig(folder / "histogram.png", dpi=120)


def train(args: Args) -> dict:
    """Search; returns the last row of metrics.csv."""
    envs, rng = make_envs(args), np.random.default_rng(args.seed)
    run, start = Run(args, args.env_id), time.perf_counter()
    episodes, solved, weights, steps = search(envs, args, rng)
    sps = steps / (time.perf_counter() - start)

    found = np.resize(weights[solved], (args.num_envs, weights.shape[1]))  # zeros if no trial was solved
    mean, error = mean_and_error(episodes[solved])
    summary = {
        "charts/episodes_to_solve": mean,
        "charts/episodes_to_solve_se": error,
        "charts/episodes_to_solve_median": np.median(episodes[solved]) if solved.any() else None,
        "charts/steps_per_trial": steps / args.num_runs,
        "charts/SPS": sps,
        "eval/episodic_return": evaluate(envs, found, int(rng.integers(2**31))).mean(),
    }
    for k in np.unique(np.geomspace(1, episodes.max(), 200).round().astype(int)):
        share, share_error = mean_and_error(solved & (episodes <= k))  # solved within k episodes
        row = {"global_step": k, "charts/share_solved": share, "charts/share_solved_se": share_error}
        row |= summary if k == episodes.max() else dict.fromkeys(summary)
        run.log(row)
    np.save(run.dir / "weights.npy", weights)
    save_histogram(episodes, solved, run.dir)
    run.close("histogram.png")
    print(f"{share:.1%} of {args.num_runs:,} trials solved, after {mean or math.nan:.2f} episodes on average; ", end="")
    print(f"return {row['eval/episodic_return']:.1f} of the weights found, in new episodes: {run.dir}")
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
        try:
            self.dir.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"--run-dir {self.dir}: {error.strerror}; it must be a new folder") from None
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
            self.wandb.log({name: value for name, value in row.items() if value is not None})

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the rows so far are in the run's folder") from None
