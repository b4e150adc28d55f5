# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "pydantic>=2.6", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Batched Monte-Carlo tree search: UCT from many positions at once, every step of all searches one tensor operation.

    python algos/mcts_batched.py
    python algos/mcts_batched.py --env-id connect-four --total-episodes 4096

The search is mcts.py's: UCB1 selects, one node is added per simulation, a random game evaluates it, its result is
backed up. All trees grow by one node per simulation, so the nodes fit into one tensor [roots * (simulations + 1)], and
a simulation descends all trees level by level; trees that have passed their leaf wait in a dummy node. Positions
are bits of int64 tensors. On a GPU the host waits once a level, which pays for thousands of positions.

Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning": UCT.
Differences: a node belongs to a path, so transpositions are not shared (mcts.py shares them); random games run to the
full board and the first line decides, so that no step has to ask who has won.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = True
    """use a GPU if there is one"""
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
    total_episodes: Annotated[int, Field(ge=1, le=100_000)] = 512
    """games against random moves, all side by side; the search moves first in every other one"""
    simulations: Annotated[int, Field(ge=1, le=100_000)] = 200
    """simulated games before every move, for each position"""
    exploration: Annotated[float, Field(ge=0, le=100)] = 1.4
    """weight of the exploration bonus, for results in [-1, 1]"""


# --- the games -------------------------------------------------------------------------------


class Board:
    """The rules on tensors of any shape. A position is own, other: the stones of the player to move and of the other.

    Each column has height + 1 bits, the last of which stays empty, so that no line runs from one column into the next.
    """

    def __init__(self, width: int, height: int, line: int, falling: bool):
        columns = [(2**height - 1) << (height + 1) * x for x in range(width)]
        squares = [1 << (height + 1) * x + y for y in reversed(range(height)) for x in range(width)]  # from the top
        self.falling = falling
        self.cells, self.bottom = sum(columns), sum(1 << (height + 1) * x for x in range(width))
        self.masks = torch.tensor(columns if falling else squares)  # an action is a column, or a cell
        # up, along, rising, falling; two pairs of neighbours `apart` from each other are a line of 3 or 4
        self.directions = [(shift, (line - 2) * shift) for shift in (1, height + 1, height + 2, height)]

    def free(self, occupied: torch.Tensor) -> torch.Tensor:
        """The cells that a stone can be put into; adding the bottom row carries to each column's lowest free cell."""
        return occupied + self.bottom & self.cells if self.falling else occupied ^ self.cells

    def won(self, stones: torch.Tensor) -> torch.Tensor:
        """Whether there is a line: [...] -> bool [...]."""
        lines = torch.zeros_like(stones)
        for shift, apart in self.directions:
            pairs = stones & stones >> shift
            lines |= pairs & pairs >> apart
        return lines != 0

    def legal(self, occupied: torch.Tensor) -> torch.Tensor:
        """[n] -> bool [n, actions]."""
        return (self.free(occupied)[:, None] & self.masks.to(occupied.device)) != 0

    def move(self, own: torch.Tensor, other: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The mover's stones after an action; unchanged where it is illegal: three of [n] -> [n]."""
        return own | (self.free(own | other) & self.masks.to(own.device)[action])


BOARDS = {"tic-tac-toe": Board(3, 3, 3, falling=False), "connect-four": Board(7, 6, 4, falling=True)}


# --- the algorithm ---------------------------------------------------------------------------


def random_moves(board: Board, own: torch.Tensor, other: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The mover's stones after a random legal move: own, other [n], draws from [0, 1) [n, actions] -> [n]."""
    return board.move(own, other, torch.where(board.legal(own | other), draws, -1.0).argmax(dim=1))


def rollout(board: Board, own: torch.Tensor, other: torch.Tensor, plies: int, generator: torch.Generator):
    """The result for the player to move when both play at random for at most `plies` plies: [n], [n] -> [n]."""
    draws = torch.rand(plies, len(own), len(board.masks), generator=generator, device=own.device)
    moved = torch.zeros(plies + 1, len(own), dtype=torch.int64, device=own.device)  # the last one stays without a line
    for ply in range(plies):
        moved[ply] = random_moves(board, own, other, draws[ply])
        own, other = other, moved[ply]
    won = board.won(moved)
    first = won.int().argmax(dim=0)
    return torch.where(won.any(dim=0), 1.0 - 2.0 * (first % 2), 0.0)


def search(board: Board, own: torch.Tensor, other: torch.Tensor, args: Args, generator: torch.Generator) -> tuple:
    """UCT from positions own, other [roots] -> visits and sums of results at the roots, [roots, actions] each.

    Node r * (simulations + 1) is the root of tree r; simulation i, from 0, adds the node i + 1 places behind it.
    An edge is node * actions + action. An edge without a child leads to the dummy node, the last one, and so do the
    dummy's own edges.
    """
    device, roots, actions = own.device, len(own), len(board.masks)
    dummy = roots * (args.simulations + 1)
    stones = torch.zeros(2, dummy + 1, dtype=torch.int64, device=device)  # own, other
    children = torch.full(((dummy + 1) * actions,), dummy, device=device)
    visits, totals = torch.zeros(2, dummy + 1, actions, device=device)  # totals: for the player to move; -inf: illegal
    root = torch.arange(roots, device=device) * (args.simulations + 1)
    plies = max((board.cells & ~occupied).bit_count() for occupied in (own | other).tolist()) - 1  # after a leaf's move
    stones[0, root], stones[1, root] = own, other
    totals[root] = torch.where(board.legal(own | other), 0.0, -math.inf)

    for simulation in range(args.simulations):
        # Selection: down all trees, level by level, until each has left its last node.
        untried = torch.rand(roots, actions, generator=generator, device=device) + 100 * (1 + args.exploration)
        node, path = root, []
        while (node != dummy).any():
            n, total = visits.index_select(0, node), totals.index_select(0, node)
            bound = total / n + args.exploration * (n.sum(dim=1, keepdim=True).log() / n).sqrt()  # UCB1
            # untried actions first, in random order; equal bounds go to the lowest action
            path.append(node * actions + torch.where(n == 0, total + untried, bound).argmax(dim=1))
            node = children.index_select(0, path[-1])
        edges = torch.stack(path)  # [depth, roots]
        depth = (edges < dummy * actions).sum(dim=0)
        leaf = edges.gather(0, depth[None] - 1)[0]

        # Expansion: the position behind the leaf. Where the game is over the edge gets no child and is a leaf again.
        mover, waiting = stones[:, leaf // actions]
        moved = board.move(mover, waiting, leaf % actions)
        won = board.won(moved)
        over = won | ((moved | waiting) == board.cells)
        new = root + simulation + 1
        stones[0, new], stones[1, new] = waiting, moved
        totals[new] = torch.where(board.legal(moved | waiting), 0.0, -math.inf)
        children[leaf] = torch.where(over, dummy, new)

        # A random game from there, and the backup: the sign changes from one player to the other.
        result = torch.where(over, won.float(), -rollout(board, waiting, moved, plies, generator))
        signs = 1.0 - 2.0 * ((depth - 1 - torch.arange(len(path), device=device)[:, None]) % 2)
        totals.view(-1).index_add_(0, edges.flatten(), (signs * result).flatten())
        visits.view(-1).index_add_(0, edges.flatten(), torch.ones(edges.numel(), device=device))
    return visits[root], totals[root]


def best_moves(visits: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
    """The most visited action; then the better average; then the lowest: [n, actions] twice -> [n]."""
    means = torch.where(visits > 0, totals / visits, -1.0)  # in [-1, 1]
    return (visits + 0.25 * means).argmax(dim=1)


# --- playing ---------------------------------------------------------------------------------


def save_picture(visits: torch.Tensor, totals: torch.Tensor, path: Path):
    """The searches of the empty board, [searches, actions] each: mean visits of a move, and its average result."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    bars = axes.bar(range(visits.shape[1]), visits.mean(dim=0).tolist())
    axes.bar_label(bars, [f"{mean:+.2f}" for mean in totals.sum(dim=0) / visits.sum(dim=0).clamp(min=1)])
    axes.set(xlabel="first move (above the bar: its average result)", ylabel="simulations", xticks=range(len(bars)))
    axes.figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Play all games; returns the last row of metrics.csv, one per ply."""
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    board = BOARDS[args.env_id]
    generator = torch.Generator(device).manual_seed(args.seed)
    own, other = torch.zeros(2, args.total_episodes, dtype=torch.int64, device=device)
    results = torch.zeros_like(own, dtype=torch.float)
    running = torch.ones_like(own, dtype=torch.bool)
    parity = torch.arange(args.total_episodes, device=device) % 2
    global_step, simulations, seconds = 0, 0, 0.0
    run, start = Run(args, args.env_id), time.perf_counter()
    for ply in tqdm(range(board.cells.bit_count()), unit="ply", disable=None):
        draws = torch.rand(len(own), len(board.masks), generator=generator, device=device)
        moved = random_moves(board, own, other, draws)
        searching = running & (parity == ply % 2)
        if searching.any():
            begin = time.process_time()
            visits, totals = search(board, own[searching], other[searching], args, generator)
            moved[searching] = board.move(own[searching], other[searching], best_moves(visits, totals))
            simulations += args.simulations * len(visits)
            seconds += time.process_time() - begin
        if ply == 0:
            save_picture(visits.cpu(), totals.cpu(), run.dir / "search.png")
        won = running & board.won(moved)
        results = torch.where(won, torch.where(parity == ply % 2, 1.0, -1.0), results)
        global_step += int(running.sum())
        running = running & ~won
        own, other = other, moved
        row = {
            "global_step": global_step,
            "charts/SPS": global_step / (time.perf_counter() - start),
            "time/simulations_per_second": simulations / seconds,  # of CPU time
            "eval/episodic_return": results.mean().item(),  # games that go on count as drawn
        }
        run.log(row)
        if not running.any():
            break

    run.close("search.png")
    score = f"mean result {row['eval/episodic_return']:+.3f} over {args.total_episodes} games against random moves"
    print(f"{score}, {row['time/simulations_per_second']:,.0f} simulations per CPU second: {run.dir}")
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
