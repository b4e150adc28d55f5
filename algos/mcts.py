# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Monte-Carlo tree search (UCT), and simple Monte-Carlo search: plan each move by simulating games from the position.

    python algos/mcts.py
    python algos/mcts.py --env-id connect-four --opponent simple

Simple Monte-Carlo search plays every legal move equally often, continues with random moves to the end of the game, and
takes the move with the best average result. UCT stores averages for all positions of a tree: where all moves were tried
it selects by the bandit rule UCB1, elsewhere it adds one position and plays on at random from there, and the result is
backed up along the path. So simulations concentrate on good replies, and the averages approach the minimax values.

Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning": UCT.
Browne et al. 2012, "A survey of Monte Carlo tree search methods", algorithm 2: the form with one new node a simulation.
Differences:
1. The tree is a table of positions, so transpositions share their averages.
2. The move with the most visits is played; equal visits are decided by the average.
3. Nothing is kept from one move's search to the next.

A tree in Python lives on the host: there is no --cuda. mcts_batched.py searches many positions at once on a GPU.
"""

import csv
import json
import math
import random
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
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

    env_id: Literal["tic-tac-toe", "connect-four"] = "tic-tac-toe"
    """the game"""
    total_episodes: PositiveInt = 100
    """games to play; the search moves first in every other one"""
    search: Literal["simple", "uct"] = "uct"
    """simple Monte-Carlo search, or UCT"""
    opponent: Literal["random", "simple", "uct"] = "random"
    """random moves, or a search with the same settings"""
    simulations: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """simulated games before every move"""
    exploration: NonNegativeFloat = 1.4
    """UCT's weight of the exploration bonus, for results in [-1, 1]"""


# --- the games -------------------------------------------------------------------------------


class Board:
    """A position is (own, other): the stones of the player to move and of the other one, as bits of two integers.

    Each column has height + 1 bits, the last of which stays empty, so that no line runs from one column into the next.
    """

    def __init__(self, width: int, height: int, line: int, falling: bool):
        self.falling = falling
        columns = [(2**height - 1) << (height + 1) * x for x in range(width)]
        squares = [1 << (height + 1) * x + y for y in reversed(range(height)) for x in range(width)]  # from the top
        self.cells, self.bottom = sum(columns), sum(1 << (height + 1) * x for x in range(width))
        self.masks = columns if falling else squares  # an action is a column, or a cell
        # up, along, rising, falling; two pairs of neighbours `apart` from each other are a line of 3 or 4
        self.directions = [(shift, (line - 2) * shift) for shift in (1, height + 1, height + 2, height)]

    def free(self, occupied: int) -> int:
        """The cells that a stone can be put into; adding the bottom row carries to each column's lowest free cell."""
        return occupied + self.bottom & self.cells if self.falling else occupied ^ self.cells

    def won(self, stones: int) -> bool:
        for shift, apart in self.directions:
            pairs = stones & stones >> shift
            if pairs & pairs >> apart:
                return True
        return False

    def legal(self, state: tuple[int, int]) -> list[int]:
        free = self.free(state[0] | state[1])
        return [action for action, mask in enumerate(self.masks) if free & mask]

    def step(self, state: tuple[int, int], action: int) -> tuple[tuple[int, int], float, bool]:
        """The position as the other player sees it, the mover's reward, terminated."""
        own, other = state
        own |= self.free(own | other) & self.masks[action]
        won = self.won(own)
        return (other, own), float(won), won or own | other == self.cells


BOARDS = {"tic-tac-toe": Board(3, 3, 3, falling=False), "connect-four": Board(7, 6, 4, falling=True)}


# --- the algorithm ---------------------------------------------------------------------------


def rollout(board: Board, state: tuple[int, int], rng: random.Random) -> float:
    """The result for the player to move when both play at random."""
    (own, other), masks, draw, result = state, board.masks, rng.random, 1.0
    while own | other != board.cells:
        free = board.free(own | other)
        while not (stone := free & masks[int(draw() * len(masks))]):
            pass  # an illegal move: sample again
        own |= stone
        if board.won(own):
            return result
        own, other, result = other, own, -result
    return 0.0


class Node:
    """Visits and average results of a position's legal actions, for the player to move."""

    def __init__(self, actions: list[int]):
        self.actions, self.untried = actions, list(range(len(actions)))
        self.visits, self.means = [0] * len(actions), [0.0] * len(actions)

    def select(self, exploration: float, rng: random.Random) -> int:
        """Index of an action not tried yet, at random, or of the largest UCB1; equal bounds go to the lowest index."""
        if self.untried:
            return self.untried.pop(int(rng.random() * len(self.untried)))
        bonus = exploration * math.sqrt(math.log(sum(self.visits)))  # log N, the visits of the position before this one
        bounds = [mean + bonus / math.sqrt(n) for mean, n in zip(self.means, self.visits, strict=True)]
        return bounds.index(max(bounds))

    def update(self, i: int, result: float):
        self.visits[i] += 1
        self.means[i] += (result - self.means[i]) / self.visits[i]


def simple_search(board: Board, root: tuple[int, int], args: Args, rng: random.Random) -> Node:
    """Tries every action equally often, with random moves to the end of the game."""
    node = Node(board.legal(root))
    for simulation in range(args.simulations):
        i = simulation % len(node.actions)
        state, reward, terminated = board.step(root, node.actions[i])
        node.update(i, reward if terminated else -rollout(board, state, rng))
    return node


def uct_search(board: Board, root: tuple[int, int], args: Args, rng: random.Random) -> dict[tuple[int, int], Node]:
    """The tree after --simulations simulations from the root."""
    tree = {root: Node(board.legal(root))}
    for _ in range(args.simulations):
        state, path, terminated = root, [], False
        while not terminated and state in tree:  # selection
            node = tree[state]
            i = node.select(args.exploration, rng)
            state, reward, terminated = board.step(state, node.actions[i])
            path.append((node, i))
        if terminated:
            result = reward
        else:  # expansion, and a random game from the new position
            tree[state] = Node(board.legal(state))
            result = -rollout(board, state, rng)
        for node, i in reversed(path):  # backup: the result changes sign with the player
            node.update(i, result)
            result = -result
    return tree


def choose(board: Board, state: tuple[int, int], search: str, args: Args, rng: random.Random):
    """The move of a player, "random", "simple" or "uct", and its search's root node."""
    if search == "random":
        return rng.choice(board.legal(state)), None
    if search == "simple":
        node = simple_search(board, state, args, rng)
        scores = node.means
    else:  # the most visited: an average of few visits is unreliable
        node = uct_search(board, state, args, rng)[state]
        scores = list(zip(node.visits, node.means, strict=True))
    return node.actions[scores.index(max(scores))], node


# --- playing ---------------------------------------------------------------------------------


def save_picture(node: Node, path: Path):
    """The search of the empty board: how often each move was simulated, and its average result."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.bar_label(axes.bar(node.actions, node.visits), [f"{mean:+.2f}" for mean in node.means])
    axes.set(xlabel="first move (above the bar: its average result)", ylabel="simulations", xticks=node.actions)
    axes.figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Play --total-episodes games; returns the last row of metrics.csv."""
    if args.exploration != Args.exploration and "uct" not in (args.search, args.opponent):
        raise UsageError("--exploration: only --search uct and --opponent uct have an exploration bonus")
    rng, board = random.Random(args.seed), BOARDS[args.env_id]
    run, start, global_step, results = Run(args, args.env_id), time.perf_counter(), 0, []
    for game in tqdm(range(args.total_episodes), unit="game", disable=None):
        state, plies, terminated = (0, 0), 0, False
        while not terminated:
            ours = plies % 2 == game % 2
            action, _ = choose(board, state, args.search if ours else args.opponent, args, rng)
            state, reward, terminated = board.step(state, action)
            plies += 1
        results.append(reward if ours else -reward)
        global_step += plies
        row = {
            "global_step": global_step,
            "charts/episodic_return": results[-1],
            "charts/SPS": global_step / (time.perf_counter() - start),
            "eval/episodic_return": np.mean(results),  # of all games so far
            "eval/episodic_return_error": np.std(results, ddof=1) / len(results) ** 0.5 if game else None,
        }
        run.log(row)

    _, node = choose(board, (0, 0), args.search, args, rng)
    save_picture(node, run.dir / "search.png")
    run.close("search.png")
    print(f"mean result {row['eval/episodic_return']:+.3f} over {len(results)} games: {run.dir}")
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
