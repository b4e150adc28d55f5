# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control]>=1.1", "matplotlib", "numpy", "pydantic>=2", "tqdm", "tyro>=0.9", "wandb"]
# ///
"""Hill climbing in weight space: add noise to the weights of a linear policy, keep it if the return improves.

    python algos/hill_climbing.py
    python algos/hill_climbing.py --noise-growth 0.1

A trial is the loop of the post (Kevin Frans 2016, "Simple reinforcement learning methods to learn CartPole"):

    weights, best_return = uniform(-1, 1), 0
    for episode in range(max_episodes):
        candidate = weights + noise * uniform(-1, 1)
        episodic_return = run_episode(candidate)
        if episodic_return > best_return:
            weights, best_return = candidate, episodic_return
        if episodic_return == 200:
            break

Most trials get stuck where the pole falls at once whatever the noise. The post proposes two remedies: noise that grows
with every failure (--noise-growth) and several episodes per candidate, whose returns are added up
(--episodes-per-update). Many independent trials run side by side; there is no --cuda.

Difference from the post: the loop printed there compares a variable that stays 0 and would accept nothing.
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

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and two actions"""
    max_episode_steps: PositiveInt = 200
    """time limit of an episode, and the return that solves the task"""
    num_runs: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """independent trials"""
    num_envs: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """trials that run side by side"""
    max_episodes: PositiveInt = 1000
    """episodes after which a trial is given up"""
    noise: PositiveFloat = 0.1
    """candidates differ by at most this in each weight"""
    noise_growth: NonNegativeFloat = 0.0
    """what every candidate that is rejected adds to the noise, until one is accepted"""
    episodes_per_update: PositiveInt = 1
    """episodes of a candidate, whose returns are added up"""


# --- the algorithm ---------------------------------------------------------------------------


def act(weights: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Actions [n] of a linear policy per row: weights and obs [n, obs]."""
    return (np.einsum("no,no->n", weights, obs) >= 0).astype(np.int64)


def search(envs: gym.vector.VectorEnv, args: Args, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """All trials: episodes [num_runs], whether they were solved [num_runs], the best weights [num_runs, obs], steps.

    Each environment plays one trial at a time, and then the next one that has not been started.
    """
    n, obs_dim = envs.num_envs, envs.single_observation_space.shape[0]
    trials, num_started, finished, steps = np.arange(n), n, [], 0
    episodes, returns, over = np.zeros(n, int), np.zeros(n), np.zeros(n, bool)
    weights, best, total, failures = rng.uniform(-1, 1, (n, obs_dim)), np.full(n, -np.inf), np.zeros(n), np.zeros(n)
    candidates = weights + args.noise * rng.uniform(-1, 1, (n, obs_dim))
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    bar = tqdm(total=args.num_runs, unit="trial", disable=None)
    while trials.min() < args.num_runs:
        steps += int(((trials < args.num_runs) & ~over).sum())
        obs, rewards, terminations, truncations, _ = envs.step(act(candidates, obs))
        returns = np.where(over, 0, returns + rewards)  # the step after an end resets: it is no transition
        over = terminations | truncations
        if not over.any():
            continue

        i = np.flatnonzero(over)  # an episode of each of these trials is over
        episodes[i] += 1
        total[i] += returns[i]
        solved = returns[i] >= args.max_episode_steps
        judged = solved | (episodes[i] % args.episodes_per_update == 0)  # after the last episode of a candidate
        accepted = judged & (solved | (total[i] > best[i]))
        accept, reject = i[accepted], i[judged & ~accepted]
        weights[accept], best[accept], failures[accept] = candidates[accept], total[accept], 0
        failures[reject] += 1

        ended = solved | (episodes[i] == args.max_episodes)
        j = i[ended]  # these trials are over: the next ones start in their environments
        finished.append((trials[j], episodes[j], solved[ended], weights[j]))
        trials[j], num_started = np.arange(num_started, num_started + len(j)), num_started + len(j)
        episodes[j], failures[j], best[j], weights[j] = 0, 0, -np.inf, rng.uniform(-1, 1, (len(j), obs_dim))
        bar.update(min(len(j), bar.total - bar.n))

        j = i[judged | ended]
        total[j], noise = 0, args.noise + args.noise_growth * failures[j, None]
        candidates[j] = weights[j] + noise * rng.uniform(-1, 1, (len(j), obs_dim))
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


# --- a run -----------------------------------------------------------------------------------


def make_envs(args: Args) -> gym.vector.VectorEnv:
    try:
        envs = gym.make_vec(args.env_id, num_envs=args.num_envs, max_episode_steps=args.max_episode_steps)
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
    found = np.resize(weights[solved], (args.num_envs, weights.shape[1]))  # zeros if no trial was solved
    returns = evaluate(envs, found, int(rng.integers(2**31)))

    some = solved.sum() > 1  # enough for a standard error
    summary = {
        "charts/episodes_to_solve": episodes[solved].mean() if some else None,
        "charts/episodes_to_solve_se": episodes[solved].std(ddof=1) / math.sqrt(solved.sum()) if some else None,
        "charts/episodes_to_solve_median": np.median(episodes[solved]) if some else None,
        "charts/steps_per_trial": steps / args.num_runs,
        "charts/SPS": sps,
        "eval/episodic_return": returns.mean(),
    }
    for k in np.unique(np.geomspace(1, episodes.max(), 200).round().astype(int)):
        row = {"global_step": k, "charts/share_solved": (solved & (episodes <= k)).mean()}
        row |= summary if k == episodes.max() else dict.fromkeys(summary)
        run.log(row)
    np.save(run.dir / "weights.npy", weights)
    save_curve(run, "charts/share_solved", xlabel="episodes")
    run.close("curve.png")
    print(f"{solved.mean():.1%} of the trials solved, return {returns.mean():.1f} in new episodes: {run.dir}")
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
