# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Monte-Carlo tree search from many positions side by side: every step of every search is one tensor operation.

    python algos/mcts_batched.py
    python algos/mcts_batched.py --env-id connect-four --num-runs 4096 --cuda

The search is mcts.py's UCT, on trees in place of tables of states. All trees grow by one position per simulation, so
that their nodes fit into one tensor [roots, simulations + 1] and a simulation goes down all trees at once; trees that
have reached their leaf wait for the deepest one. The boards are bits of int64 tensors. Random games run to the full
board without a look at who has won: all their positions are tested for lines at once, and the first line counts.

Expect a mean return of 0.93 over the default 1,024 games of tic-tac-toe against a random player. Simulations per CPU
second grow with the number of positions, here on a core that others use as well: tic-tac-toe 165,000 at 256 positions
and 280,000 at 1,024, Connect Four 64,000, 110,000 at 1,024 and 154,000 at 4,096. On a GPU the
host asks once for every level of the trees whether there is one more, which pays for thousands of positions only.

Papers
    Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning": UCT.

Differences from the paper
    1. Most visits decide the move, then the better average.
"""

import csv
import json
import math
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the searches and the opponent; the same seed gives the same games"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 1
    """threads of the search; with tensors this small more than one only wait for each other"""
    cuda: bool = False
    """use a GPU if there is one"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: Literal["tic-tac-toe", "connect-four"] = "tic-tac-toe"
    """the game"""
    total_episodes: int = 1024
    """games to play against a random opponent; the search moves first in every other one"""
    num_runs: int = 256
    """games side by side"""
    simulations: int = 200
    """simulated games before every move, for each position"""
    exploration: float = 1.4
    """weight of UCT's bonus for what was tried seldom; 0 is greedy, open_spiel takes 2"""

    def __post_init__(self):
        if min(self.total_episodes, self.num_runs, self.simulations, self.torch_threads) < 1:
            raise UsageError("--total-episodes, --num-runs, --simulations and --torch-threads must be at least 1")
        if not 0 <= self.exploration < math.inf or self.seed < 0:
            raise UsageError("--exploration and --seed must not be negative")


# --- the games -------------------------------------------------------------------------------

GAMES = {"tic-tac-toe": (3, 3, 3, False), "connect-four": (7, 6, 4, True)}


class Board:
    """The rules on tensors of any shape: a position is own, other, the stones of the player to move and of the other.

    Each column has height + 1 bits, the last of which stays empty, so that no line runs from one column into the next.
    """

    def __init__(self, width: int, height: int, line: int, falling: bool, device: torch.device):
        self.width, self.height, self.falling = width, height, falling
        column = 2**height - 1
        self.cells = sum(column << (height + 1) * x for x in range(width))
        self.bottom = sum(1 << (height + 1) * x for x in range(width))
        if falling:  # an action is a column, and the stone falls
            masks = [column << (height + 1) * x for x in range(width)]
        else:  # an action is a cell, row by row from the top
            masks = [1 << (height + 1) * x + y for y in reversed(range(height)) for x in range(width)]
        self.masks = torch.tensor(masks, device=device)  # [actions]
        # Up, and one column on: level, rising, falling. Two pairs `apart` in one direction are a line of 3 or 4.
        self.directions = [(shift, (line - 2) * shift) for shift in (1, height + 1, height + 2, height)]

    def free(self, occupied: torch.Tensor) -> torch.Tensor:
        """The cells that a stone may be put into, as bits: [...] -> [...]."""
        # Adding one to the lowest bit of a column carries through its stones to the first empty cell.
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
        return (self.free(occupied)[:, None] & self.masks) != 0

    def put(self, own: torch.Tensor, other: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The mover's stones after a move; as they were where it is not allowed: three of [n] -> [n]."""
        return own | (self.free(own | other) & self.masks[action])

    def count(self, stones: torch.Tensor) -> torch.Tensor:
        """[n] -> how many stones, [n]."""
        bits = torch.arange(self.width * (self.height + 1), device=stones.device)
        return (stones[:, None] >> bits & 1).sum(dim=1)


def random_moves(board: Board, own: torch.Tensor, other: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """One legal action each, at random: own, other [n], draws from [0, 1) [n, actions] -> [n]; any where none is."""
    return torch.where(board.legal(own | other), draws, -1.0).argmax(dim=1)


def rollout(board: Board, own: torch.Tensor, other: torch.Tensor, plies: int, generator: torch.Generator):
    """The result for the one to move when both play at random, [n] -> [n]; every game is over after so many plies.

    They play on after a win, to the full board, because only then no step needs to know: the first line decides.
    """
    draws = torch.rand(plies, len(own), len(board.masks), generator=generator, device=own.device)
    moved = []
    for ply in range(plies):
        moved.append(board.put(own, other, random_moves(board, own, other, draws[ply])))
        own, other = other, moved[-1]
    if not moved:
        return torch.zeros(len(own), device=own.device)
    won = board.won(torch.stack(moved))  # [plies, n]
    first = won.int().argmax(dim=0)
    return torch.where(won.any(dim=0), 1.0 - 2.0 * (first % 2), 0.0)


# --- search ----------------------------------------------------------------------------------


def search(board: Board, own, other, simulations: int, exploration: float, generator: torch.Generator) -> tuple:
    """UCT from every position: own, other [roots] -> visits and sums of the returns at the roots, [roots, actions].

    Node r * (simulations + 1) + k is what the k-th simulation has added to tree r; edge node * actions + a leads on
    from there by action a. What a tree has nothing to do with goes to one node more, the last, and to its first edge.
    """
    device, roots, actions = own.device, len(own), len(board.masks)
    nodes = roots * (simulations + 1)
    nowhere = nodes * actions  # the edge
    boards_own, boards_other = (torch.zeros(nodes + 1, dtype=torch.int64, device=device) for _ in range(2))
    over, results = torch.zeros(nodes + 1, dtype=torch.bool, device=device), torch.zeros(nodes + 1, device=device)
    children = torch.full(((nodes + 1) * actions,), -1, device=device)
    visits, totals = torch.zeros(2, (nodes + 1) * actions, device=device)  # totals: for the one who moves there
    visits_of, totals_of = visits.view(nodes + 1, actions), totals.view(nodes + 1, actions)
    root = torch.arange(roots, device=device) * (simulations + 1)
    plies = board.cells.bit_count() - 1 - int(board.count(own | other).min())

    def add(node, own, other):  # an action that is not allowed has a sum of minus infinity
        boards_own[node], boards_other[node] = own, other
        totals_of[node] = torch.where(board.legal(own | other), 0.0, -math.inf)

    add(root, own, other)
    for simulation in range(simulations):
        node, leaf, path = root, torch.full_like(root, nowhere), []
        live = torch.ones(roots, dtype=torch.bool, device=device)  # on the way down
        order = 1e6 + torch.rand(roots, actions, generator=generator, device=device)
        while live.any():
            n, total = visits_of.index_select(0, node), totals_of.index_select(0, node)
            bound = total / n + exploration * (n.sum(dim=1, keepdim=True).log() / n).sqrt()  # UCB1
            action = torch.where(n == 0, total + order, bound).argmax(dim=1)  # what was not tried comes first
            edge = torch.where(live, node * actions + action, nowhere)
            path.append(edge)
            below = children.index_select(0, edge)
            inside = below >= 0
            leaf = torch.where(live & ~inside, edge, leaf)
            node = torch.where(inside, below, node)
            live = inside & ~over[node]

        # a tree that has come to the end of a game has no leaf, and adds nothing
        adds, parent, action = leaf != nowhere, leaf // actions, leaf % actions
        moved = board.put(boards_own[parent], boards_other[parent], action)
        waiting = boards_other[parent]
        won, full = board.won(moved), (moved | waiting) == board.cells
        new = torch.where(adds, root + simulation + 1, nodes)
        add(new, waiting, moved)
        over[new], results[new] = won | full, won.float()
        children[leaf] = new
        children[nowhere] = -1
        played = torch.where(won | full, won.float(), -rollout(board, waiting, moved, plies, generator))
        value = torch.where(adds, played, results[node])  # for the one who moved last

        edges = torch.stack(path)  # [depth, roots]
        left = (edges != nowhere).sum(dim=0) - 1 - torch.arange(len(path), device=device)[:, None]
        signs = 1.0 - 2.0 * (left % 2)  # what is good for the one who moved last is bad for the one before
        totals.index_add_(0, edges.flatten(), (signs * value).flatten())
        visits.index_add_(0, edges.flatten(), torch.ones(edges.numel(), device=device))
    return visits_of[root], totals_of[root]


def best_moves(visits: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
    """The most visited action, then the one with the better average: [n, actions] twice -> [n]."""
    means = torch.where(visits > 0, totals / visits, -1.0)  # in [-1, 1]
    return (visits + 0.25 * means).argmax(dim=1)


def play(board: Board, num_games: int, args: Args, generator: torch.Generator) -> tuple:
    """Games against a random opponent: results for the search [n], plies [n], simulations made, CPU seconds of them.

    The search moves first in the games of even number.
    """
    device = board.masks.device
    own, other = (torch.zeros(num_games, dtype=torch.int64, device=device) for _ in range(2))
    results, lengths = torch.zeros(num_games, device=device), torch.zeros(num_games, dtype=torch.int64, device=device)
    live, searches = torch.ones(num_games, dtype=torch.bool, device=device), torch.arange(num_games, device=device)
    made, seconds = 0, 0.0
    for ply in range(board.cells.bit_count()):
        draws = torch.rand(num_games, len(board.masks), generator=generator, device=device)
        action = random_moves(board, own, other, draws)
        ours = searches % 2 == ply % 2
        at = (live & ours).nonzero().flatten()
        if len(at):
            start = time.process_time()
            action[at] = best_moves(*search(board, own[at], other[at], args.simulations, args.exploration, generator))
            made, seconds = made + len(at) * args.simulations, seconds + time.process_time() - start
        moved = board.put(own, other, action)
        won = live & board.won(moved)
        results = torch.where(won, torch.where(ours, 1.0, -1.0), results)
        lengths += live
        live = live & ~won
        own, other = other, moved
        if not live.any():
            break
    return results, lengths, made, seconds


# --- one run: the same in every file of this folder ------------------------------------------


class Run:
    """The folder of one run: args.json, metrics.csv, checkpoint.pt, pictures. With --track also Weights & Biases."""

    def __init__(self, args, task: str, rows: int | None = None):
        """A new run; with `rows`, the one in args.run_dir goes on after so many rows of its metrics."""
        name = f"{task}__{args.exp_name}__{args.seed}__{int(time.time())}"
        self.dir = args.run_dir or Path("runs", name)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rows, self.csv, self.wandb = rows or 0, None, None
        metrics = self.dir / "metrics.csv"
        if rows is None:
            try:  # "x" creates the file or fails: no run is overwritten, and no two runs share a folder
                self.file = metrics.open("x", newline="", buffering=1)
            except FileExistsError:
                raise UsageError(f"--run-dir {self.dir}: there is a run in it already; name another folder") from None
            saved = {"run_name": name} | asdict(args)
            (self.dir / "args.json").write_text(json.dumps(saved, indent=2, default=str))
        else:
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(lines[: rows + 1 if rows else 0]))
            self.file = metrics.open("a", newline="", buffering=1)
        self.name = json.loads((self.dir / "args.json").read_text())["run_name"]
        if args.track:
            import wandb

            self.wandb, again = wandb, {"id": self.name[-128:], "resume": "allow"}
            config = json.loads((self.dir / "args.json").read_text())
            project, entity = args.wandb_project_name, args.wandb_entity
            wandb.init(project=project, entity=entity, name=self.name, config=config, dir=self.dir, **again)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def log(self, row: dict):
        """Append one row: global_step and metrics, None for what was not measured now. The first row names them all."""
        if self.csv is None:
            self.csv = csv.DictWriter(self.file, row)
            if self.rows == 0:
                self.csv.writeheader()
        self.csv.writerow(row)
        self.rows += 1
        if self.wandb:
            self.wandb.log({key: value for key, value in row.items() if value is not None})

    def save(self, checkpoint: dict):
        """Write checkpoint.pt under another name, then rename it: a kill leaves the old one or the new one."""
        torch.save(checkpoint | {"rows": self.rows}, self.dir / "checkpoint.tmp")
        (self.dir / "checkpoint.tmp").replace(self.dir / "checkpoint.pt")

    def plot(self, metric: str):
        """Draw one column of metrics.csv over global_step into curve.png."""
        from matplotlib.figure import Figure

        with (self.dir / "metrics.csv").open(newline="") as file:
            points = [(int(row["global_step"]), float(row[metric])) for row in csv.DictReader(file) if row[metric]]
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(xlabel="environment steps", ylabel=metric, title=self.name)
        axes.figure.savefig(self.dir / "curve.png", dpi=120)
        self.picture(self.dir / "curve.png")

    def picture(self, path: Path):
        """Hand a picture or an animation of the folder to Weights & Biases as well."""
        if self.wandb:
            kind = self.wandb.Video if path.suffix == ".gif" else self.wandb.Image
            self.wandb.log({path.stem: kind(str(path))})


@contextmanager
def torch_settings(args):
    """The threads and the determinism that args ask for; what was set before comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if args.cuda and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's products refuse
    torch.set_num_threads(args.torch_threads)
    torch.use_deterministic_algorithms(args.torch_deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


# --- playing ---------------------------------------------------------------------------------


def draw_first_moves(board: Board, args: Args, generator: torch.Generator, run: Run):
    """How the first move's visits and averages change from search to search: first_move.png."""
    from matplotlib.figure import Figure

    empty = torch.zeros(args.num_runs, dtype=torch.int64, device=board.masks.device)
    visits, totals = search(board, empty, empty, args.simulations, args.exploration, generator)
    visits, means = visits.cpu() / args.simulations, (totals / visits).cpu()
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = zip(figure.subplots(1, 2), (visits, means), ("share of the visits", "average return"), strict=True)
    for axes, values, label in panels:
        axes.plot(values.T.numpy(), "-", color="#0072B2", alpha=min(1.0, 0.03 + 3 / args.num_runs), linewidth=0.6)
        axes.plot(values.mean(dim=0).numpy(), "o-", color="#D55E00", label="mean")
        axes.set(xlabel="column" if board.falling else "cell", ylabel=label, xticks=range(len(board.masks)))
    axes.legend(frameon=False)
    figure.suptitle(f"{run.name}: {args.num_runs} searches of the first move, {args.simulations} simulations each")
    figure.savefig(run.dir / "first_move.png", dpi=110)
    run.picture(run.dir / "first_move.png")


def train(args: Args) -> dict:
    """Play, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(int(np.random.SeedSequence(args.seed).generate_state(1)[0]))
    board = Board(*GAMES[args.env_id], device)
    results, first, second = [], [], []
    global_step, made, seconds, start = 0, 0, 0.0, time.perf_counter()
    bar = tqdm(total=args.total_episodes, unit="game", disable=None)
    with torch_settings(args), Run(args, args.env_id) as run, bar:
        while len(results) < args.total_episodes:
            num_games = min(args.num_runs, args.total_episodes - len(results))
            games, lengths, more, spent = play(board, num_games, args, generator)
            made, seconds, global_step = made + more, seconds + spent, global_step + int(lengths.sum())
            results += games.tolist()
            first += games[::2].tolist()
            second += games[1::2].tolist()
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(games.mean()),
                "charts/episodic_length": float(lengths.double().mean()),
                "charts/mean_return": float(np.mean(results)),
                "charts/standard_error": float(np.std(results, ddof=1) / len(results) ** 0.5) if results[1:] else None,
                "charts/wins_first": first.count(1.0) / len(first),
                "charts/losses_first": first.count(-1.0) / len(first),
                "charts/wins_second": second.count(1.0) / len(second) if second else None,
                "charts/losses_second": second.count(-1.0) / len(second) if second else None,
                "charts/SPS": global_step / (time.perf_counter() - start),
                "time/simulations_per_second": made / seconds,  # of the CPU's time
            }
            run.log(row)
            bar.update(num_games)
            bar.set_postfix(mean_return=f"{row['charts/mean_return']:.3f}")
        run.plot("charts/mean_return")
        draw_first_moves(board, args, generator, run)
        played = f"return {row['charts/mean_return']:.3f} over {len(results):,} games against a random player"
        print(f"{played}, {row['time/simulations_per_second']:,.0f} simulations per second: {run.dir}")
    return row


def main(argv: list[str]):
    train(tyro.cli(Args, description=__doc__, args=argv))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
