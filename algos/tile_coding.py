# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "tqdm",
#                 "tyro>=0.9.2", "wandb"]
# ///
"""Tile coding with SARSA(lambda): action values of continuous observations, linear in binary features.

    python algos/tile_coding.py
    python algos/tile_coding.py --max-steps 10000 --total-episodes 20 --num-runs 30

Several grids (tilings), each offset against the others, cut the space of observations into tiles. An observation is
the set of its active tiles, one per tiling, and its action value is the sum of their weights. So neighbours share what
they learn, as far as they share tiles. The rest is semi-gradient SARSA(lambda) with a trace for every weight.

The policy is greedy: weights of 0 are optimistic where every step costs 1, so that no epsilon is needed to explore.
Python steps the environment for one run after the other; weights this few gain nothing from a GPU.

Sutton & Barto 2018, "Reinforcement learning", 2nd edition: sections 9.5.4 and 12.7, examples 10.1 and 12.2.
Singh & Sutton 1996, "Reinforcement learning with replacing eligibility traces": mountain car, --trace clearing.
Conventions: a visit sets the traces of the active tiles to 1 and leaves those of the other actions (the book's box),
unless --trace clearing sets these to 0; ties are broken at random; an episode cut off by the time limit is
bootstrapped.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.spaces import Box, Discrete
from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

Fraction = Annotated[float, Field(ge=0, le=1)]


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

    env_id: str = "MountainCar-v0"
    """Gymnasium environment with a few bounded observations and discrete actions"""
    num_runs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """independent runs"""
    total_episodes: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """episodes of each run"""
    max_steps: PositiveInt = 200
    """time limit of an episode, in steps (MountainCar-v0's own is 200)"""
    num_tilings: PositiveInt = 8
    """grids of tiles"""
    num_tiles: PositiveInt = 8
    """tiles of a grid along each observation"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """step size alpha, divided among the tilings"""
    gamma: Fraction = 1.0
    """discount per step"""
    trace_lambda: Fraction = 0.9
    """decay of the traces"""
    trace: Literal["replacing", "clearing", "accumulating"] = "replacing"
    """a visit sets the traces of its tiles to 1; clearing: other actions' to 0 as well; accumulating: it adds 1"""


# --- the features ----------------------------------------------------------------------------


class TileCoder:
    """Grids over a box, offset by (1, 3, 5, ...) / num_tilings of a tile against each other (section 9.5.4)."""

    def __init__(self, low: np.ndarray, high: np.ndarray, num_tilings: int, num_tiles: int):
        side = num_tiles + 1  # an offset grid needs one tile more to cover the box
        tilings, dims = np.arange(num_tilings), np.arange(len(low))
        self.low, self.scale, self.num_tiles = low, num_tiles / (high - low), num_tiles
        self.offsets = tilings[:, None] * (2 * dims + 1) % num_tilings / num_tilings  # [tilings, dims], in tiles
        self.strides, self.first = side**dims, tilings * side ** len(low)
        self.num_features = num_tilings * side ** len(low)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Indices of the active tiles [tilings]: obs [dims]."""
        position = np.clip((obs - self.low) * self.scale, 0, self.num_tiles)  # in tiles
        tiles = (position + self.offsets).astype(int)  # [tilings, dims], at most num_tiles
        return self.first + tiles @ self.strides


# --- the algorithm ---------------------------------------------------------------------------


def greedy(q: np.ndarray, rng: np.random.Generator) -> int:
    """The best action for action values q [actions]; ties are broken at random."""
    best = np.flatnonzero(q == q.max())
    return int(best[rng.integers(len(best))])


def play(env: gym.Env, tiles: TileCoder, weights: np.ndarray, learning_rate: float, args: Args, rng):
    """An episode of SARSA(lambda) that updates the weights [features, actions]: return, length, terminated."""
    trace, total, length, ended = np.zeros_like(weights), 0.0, 0, False
    active = tiles(env.reset()[0])
    action = greedy(weights[active].sum(axis=0), rng)
    while not ended:
        try:
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length = total + reward, length + 1
        except Exception as error:  # an environment may raise anything
            raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
        next_active = tiles(obs)
        next_q = weights[next_active].sum(axis=0)
        next_action = greedy(next_q, rng)
        target = reward + args.gamma * (not terminated) * next_q[next_action]
        delta = target - weights[active, action].sum()
        if not math.isfinite(delta):
            raise FloatingPointError("a reward or value is not finite: lower --learning-rate, or mend the environment")

        if args.trace == "clearing":
            trace[active] = 0
        if args.trace == "accumulating":
            trace[active, action] += 1
        else:
            trace[active, action] = 1
        weights += learning_rate / args.num_tilings * delta * trace
        trace *= args.gamma * args.trace_lambda
        active, action, ended = next_active, next_action, terminated or truncated
    return total, length, terminated


# --- training --------------------------------------------------------------------------------


def make_env(args: Args) -> gym.Env:
    try:
        env = gym.make(args.env_id, max_episode_steps=args.max_steps)
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {args.env_id}: {error}") from None
    space, actions = env.observation_space, env.action_space
    bounded = isinstance(space, Box) and len(space.shape) == 1 and (np.abs([space.low, space.high]) < 1e6).all()
    if not bounded or not isinstance(actions, Discrete) or actions.start != 0:
        raise UsageError(f"--env-id {args.env_id}: needs a vector of bounded observations and discrete actions from 0")
    if args.num_tilings * (args.num_tiles + 1) ** space.shape[0] > 1_000_000:
        raise UsageError(f"--num-tiles {args.num_tiles}: over a million tiles for {space.shape[0]} observations")
    return env


def mean_and_error(name: str, x: np.ndarray) -> dict:
    """Mean over runs and its standard error, None for a single run: x [runs]."""
    return {name: x.mean(), f"{name}_se": x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else None}


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    env = make_env(args)
    env.reset(seed=args.seed)
    rng = np.random.default_rng(args.seed)
    space = env.observation_space
    tiles = TileCoder(space.low.astype(float), space.high.astype(float), args.num_tilings, args.num_tiles)
    weights = np.zeros((args.num_runs, tiles.num_features, int(env.action_space.n)))
    returns = np.zeros((args.num_runs, args.total_episodes))
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0

    for k in tqdm(range(args.total_episodes), unit="episode", disable=None):
        for i in range(args.num_runs):
            returns[i, k], length, _ = play(env, tiles, weights[i], args.learning_rate, args, rng)
            global_step += length
        row = {
            "global_step": global_step,
            "charts/episode": k + 1,
            **mean_and_error("charts/episodic_return", returns[:, k]),
            **mean_and_error("charts/episodic_return_100", returns[:, max(0, k - 99) : k + 1].mean(axis=1)),
            "charts/SPS": global_step / (time.perf_counter() - start),
            **dict.fromkeys(["eval/episodic_return", "eval/episodic_return_se", "eval/share_ended"]),
        }
        if k + 1 == args.total_episodes:  # ten episodes of each run, without learning
            played = np.array([[play(env, tiles, w, 0.0, args, rng) for _ in range(10)] for w in weights])
            row |= mean_and_error("eval/episodic_return", played[:, :, 0].mean(axis=1))
            row["eval/share_ended"] = played[:, :, 2].mean()
        run.log(row)

    env.close()
    np.savez(run.dir / "model.npz", weights=weights)
    save_curve(run, "charts/episodic_return")
    run.close("curve.png")
    print(f"greedy return {row['eval/episodic_return']:.1f}, {row['eval/share_ended']:.0%} of episodes end: {run.dir}")
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
