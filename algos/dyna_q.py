# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Tabular Dyna-Q: Q-learning from real steps, and n more updates per step from a learned model of the environment.

    python algos/dyna_q.py --planning-steps 50

Model-free learning uses a real step once. Dyna-Q also stores where each action led, and after every real step replays
n stored transitions, chosen at random, with the same update; --planning-steps 0 is Q-learning.

Sutton 1990, "Integrated architectures for learning, planning, and reacting": Dyna.
Sutton & Barto 2018, "Reinforcement learning", 2nd edition: section 8.2, the box "Tabular Dyna-Q", the maze and the
settings of Figure 8.2. As there, the model keeps a pair's last outcome: a stochastic world needs counts. The table is
Python on the host, where a GPU has nothing to do: there is no --cuda.
"""

import csv
import json
import math
import random
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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

    num_runs: Annotated[int, Field(ge=2, le=10_000)] = 30
    """independent runs to average over"""
    total_episodes: PositiveInt = 50
    """episodes of each run"""
    planning_steps: NonNegativeInt = 50
    """n: updates from the model per real step; 0 is Q-learning"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """step size alpha"""
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1
    """probability of a random action"""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """discount per step"""


# --- the algorithm ---------------------------------------------------------------------------

MAZE = [
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
]  # Figure 8.2: from S to G around the walls (#), in 14 steps at best
CELLS = {(i, j): letter for i, row in enumerate(MAZE) for j, letter in enumerate(row) if letter != "#"}
START = next(cell for cell, letter in CELLS.items() if letter == "S")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def move(state: tuple, action: int) -> tuple[tuple, float, bool]:
    """Next state, reward, terminated: walls and edges stop a move; reaching G pays 1 and ends the episode."""
    next_state = (state[0] + MOVES[action][0], state[1] + MOVES[action][1])
    next_state = next_state if next_state in CELLS else state
    terminated = CELLS[next_state] == "G"
    return next_state, float(terminated), terminated


def greedy(values: list[float], rng: random.Random) -> int:
    """The action of the highest value, ties broken at random."""
    best = max(values)
    return rng.choice([action for action, value in enumerate(values) if value == best])


def update(q: dict, state: tuple, action: int, reward: float, next_state: tuple, args: Args):
    """Q-learning. The values of G are never updated, so what follows the end is worth 0."""
    target = reward + args.gamma * max(q[next_state])
    q[state][action] += args.learning_rate * (target - q[state][action])


def play_episode(q: dict, model: dict, args: Args, rng: random.Random) -> int:
    """An episode of Tabular Dyna-Q; returns its real steps. q[state][action]; model[state][action] = reward, next."""
    state, terminated, steps = START, False, 0
    while not terminated:
        explore = rng.random() < args.epsilon
        action = rng.randrange(len(MOVES)) if explore else greedy(q[state], rng)
        next_state, reward, terminated = move(state, action)
        update(q, state, action, reward, next_state, args)
        model.setdefault(state, {})[action] = (reward, next_state)
        for _ in range(args.planning_steps):
            visited = rng.choice(list(model))
            taken, outcome = rng.choice(list(model[visited].items()))
            update(q, visited, taken, *outcome, args)
        state, steps = next_state, steps + 1
    return steps


def evaluate(q: dict, rng: random.Random, limit: int = 1000) -> int:
    """Steps of a greedy episode, at most `limit`."""
    state, terminated, steps = START, False, 0
    while not terminated and steps < limit:
        state, _, terminated = move(state, greedy(q[state], rng))
        steps += 1
    return steps


# --- training --------------------------------------------------------------------------------


def save_picture(rows: list[dict], path: Path):
    """Figure 8.2: real steps per episode, mean of the runs."""
    from matplotlib.figure import Figure

    mean, error = ([row[f"charts/episodic_length{end}"] for row in rows] for end in ("", "_error"))
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.errorbar(range(1, len(rows) + 1), mean, error, capsize=2)
    axes.set(xlabel="episode", ylabel="real steps (mean of runs ± standard error)", yscale="log")
    axes.figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    rng = random.Random(args.seed)
    tables = [{state: [0.0] * len(MOVES) for state in CELLS} for _ in range(args.num_runs)]
    models = [{} for _ in tables]
    run, start, global_step = Run(args, "dyna-maze"), time.perf_counter(), 0
    for episode in tqdm(range(1, args.total_episodes + 1), unit="episode", disable=None):
        lengths = [play_episode(q, model, args, rng) for q, model in zip(tables, models, strict=True)]
        global_step += sum(lengths)
        evaluated = [evaluate(q, rng) for q in tables] if episode == args.total_episodes else None
        row = {
            "global_step": global_step,
            "charts/episodic_length": np.mean(lengths),
            "charts/episodic_length_error": np.std(lengths, ddof=1) / len(lengths) ** 0.5,
            "charts/SPS": global_step / (time.perf_counter() - start),
            "eval/episodic_length": np.mean(evaluated) if evaluated else None,
        }
        run.log(row)

    np.savez(run.dir / "model.npz", q=[list(table.values()) for table in tables])
    save_picture(run.rows, run.dir / "curve.png")
    run.close("curve.png")
    print(f"{row['eval/episodic_length']:.1f} steps (greedy policy, mean of {args.num_runs} runs): {run.dir}")
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


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
