# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Dyna-2 in Connect Four: a long-term memory learned from real games, corrected by a short-term one learned in search.

    python algos/dyna2.py
    python algos/dyna2.py --simulations 0 --num-games 256 --total-episodes 61440

Both memories are weights of the same features, and actions are selected from the sum of both. Before every real move,
simulated games from the current position update the short-term memory by SARSA(lambda); it is cleared at the end of
the game. The long-term memory learns by SARSA from the real moves and is kept. With the long-term memory at 0 this is
temporal-difference search; with --simulations 0 it is SARSA in self-play. The model is the rules of the game.

Silver, Sutton & Mueller 2008, "Sample-based learning and search with permanent and transient memories": Dyna-2.
Silver, Sutton & Mueller 2012, "Temporal-difference search in computer Go": the short-term memory alone.
Differences:
1. Connect Four in place of 9x9 Go. The local features are the 69 lines of four cells: a cell is out of reach, next to
   be filled, the mover's or the opponent's stone; that makes 256 patterns a line, each with a weight of its own.
2. A value is tanh of the sum of weights, between a lost game and a won one, and a weight moves by the error without
   tanh's derivative (the gradient of a cross-entropy; the paper's logistic function likewise).
3. The short-term memory learns after each simulated game, by its lambda-returns. The long-term memory has lambda 0.
4. Games side by side share the long-term memory; where several change a weight at once, it moves by their mean.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
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

    total_episodes: PositiveInt = 512
    """games of self-play to learn from"""
    num_games: Annotated[int, Field(ge=1, le=4096)] = 64
    """games side by side"""
    simulations: NonNegativeInt = 10
    """simulated games before every move of the games to learn from; 0 learns without search"""
    learning_rate: PositiveFloat = 1.0
    """step size of the long-term memory, for all features of a move together"""
    search_learning_rate: PositiveFloat = 0.2
    """step size of the short-term memory, likewise"""
    td_lambda: Annotated[float, Field(ge=0, le=1)] = 0.5
    """lambda of the short-term memory"""
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1
    """probability of a random action, in real and in simulated games"""
    eval_games: Annotated[int, Field(ge=1, le=4096)] = 64
    """games of each match at the end"""
    eval_simulations: PositiveInt = 20
    """simulated games before every move of these matches"""


# --- Connect Four ----------------------------------------------------------------------------

WIDTH, HEIGHT = 7, 6
LINES = [
    [(x + i * dx, y + i * dy) for i in range(4)]
    for x in range(WIDTH)
    for y in range(HEIGHT)
    for dx, dy in ((0, 1), (1, 0), (1, 1), (1, -1))
    if x + 3 * dx < WIDTH and 0 <= y + 3 * dy < HEIGHT
]  # cells are (column, row from the bottom)
OUT_OF_REACH, NEXT, OWN, OTHER = range(4)  # what a cell holds, seen by the player to move
NUM_FEATURES = len(LINES) * 4**4
GAMMA = -1.0  # the next value is the opponent's: it changes sign


class ConnectFour:
    """A state is a row of 76 integers: the pattern of each line, a number of four digits to base 4, then the heights
    of the columns. So a stone adds fixed numbers to the patterns of its lines."""

    def __init__(self, device: torch.device):
        added = torch.zeros(WIDTH, HEIGHT + 1, len(LINES), dtype=torch.int64)  # by a stone in (column, row)
        start = torch.zeros(len(LINES) + WIDTH, dtype=torch.int64)
        for line, cells in enumerate(LINES):
            for i, (x, y) in enumerate(cells):
                added[x, y, line] += (OWN - NEXT) * 4**i
                if y == 0:
                    start[line] += NEXT * 4**i
                else:  # the stone below brings the cell within reach
                    added[x, y - 1, line] += (NEXT - OUT_OF_REACH) * 4**i
        digits = torch.arange(4**4)[:, None] // 4 ** torch.arange(4) % 4  # [256, 4]
        swapped = torch.tensor([OUT_OF_REACH, NEXT, OTHER, OWN])[digits] * 4 ** torch.arange(4)
        self.added, self.swap, self.start_state = added.to(device), swapped.sum(1).to(device), start.to(device)
        self.columns = torch.arange(WIDTH, device=device)
        self.offsets = 4**4 * torch.arange(len(LINES), device=device)
        self.won = OWN * sum(4**i for i in range(4))

    def start(self, n: int) -> torch.Tensor:
        return self.start_state.repeat(n, 1)

    def legal(self, state: torch.Tensor) -> torch.Tensor:
        """[n, 76] -> bool [n, 7]."""
        return state[:, len(LINES) :] < HEIGHT

    def features(self, state: torch.Tensor) -> torch.Tensor:
        """The indices of the active features after each move: [n, 76] -> [n, 7, 69]."""
        patterns, heights = state[:, None, : len(LINES)], state[:, len(LINES) :]
        return patterns + self.added[self.columns, heights] + self.offsets

    def step(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The state as the other player sees it, the mover's reward, terminated: [n, 76], [n] -> three of [n, ...]."""
        heights = state[:, len(LINES) :]
        row = heights.gather(1, action[:, None])
        patterns = state[:, : len(LINES)] + self.added[action, row.squeeze(1)]
        won = (patterns == self.won).any(dim=1)
        heights = heights.scatter(1, action[:, None], row + 1)
        return torch.cat([self.swap[patterns], heights], 1), won.float(), won | (heights == HEIGHT).all(dim=1)


# --- the algorithm ---------------------------------------------------------------------------


def value(weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Values of moves, from the indices of their features in the flattened weights: [..., 69] -> [...]."""
    return weights.take(indices).sum(-1).tanh()


def act(q: torch.Tensor, legal: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    """Epsilon-greedy among the legal actions, ties broken at random: [n, 7] twice -> [n]."""
    noise = torch.rand(len(q), WIDTH + 1, generator=generator, device=q.device)
    best = q.masked_fill(~legal, -math.inf)
    candidates = torch.where(noise[:, WIDTH:] < epsilon, legal, best == best.amax(dim=1, keepdim=True))
    return torch.where(candidates, noise[:, :WIDTH], -1.0).argmax(dim=1)


def simulate(world: ConnectFour, state: torch.Tensor, memory: torch.Tensor, args: Args, generator: torch.Generator):
    """A simulated game from each state [n, 76]; then each row of memory [n, features], the sum of both, learns from it.

    SARSA(lambda), forward view: the value of each move moves towards its lambda-return.
    """
    horizon, rows = WIDTH * HEIGHT, torch.arange(len(state), device=state.device)
    errors, visited, moves = torch.zeros(len(state), horizon, device=state.device), [], []
    for t in range(horizon):
        indices = world.features(state) + NUM_FEATURES * rows[:, None, None]
        q = value(memory, indices)
        action = act(q, world.legal(state), args.epsilon, generator)
        chosen = q.gather(1, action[:, None]).squeeze(1)
        if t > 0:
            errors[rows, t - 1] += GAMMA * chosen
        visited.append(indices[torch.arange(len(rows), device=rows.device), action])
        moves.append(horizon * rows + t)
        state, reward, terminated = world.step(state, action)
        errors[rows, t] = reward - chosen
        rows, state = rows[~terminated], state[~terminated]
        if len(rows) == 0:
            break
    # lambda-return minus value: the sum over k of (gamma lambda)^k times the TD error k moves later
    steps = torch.arange(horizon, device=errors.device)
    decay = (GAMMA * args.td_lambda) ** (steps - steps[:, None]).clamp(min=0)
    errors = errors @ decay.triu().T
    changes = args.search_learning_rate / len(LINES) * errors.take(torch.cat(moves))
    memory.view(-1).index_add_(0, torch.cat(visited).flatten(), changes.repeat_interleave(len(LINES)))


def search(world: ConnectFour, state, long, short, simulations: int, args: Args, generator) -> torch.Tensor:
    """Update the short-term memories [n, features] at the states [n, 76]; returns the values of both memories [n, 7].

    The long-term memory [features] stays as it is. As the features are the same, search works on the sum of weights.
    """
    memory = long + short
    for _ in range(simulations):
        simulate(world, state, memory, args, generator)
    short.copy_(memory - long)
    rows = torch.arange(len(state), device=state.device)
    return value(memory, world.features(state) + NUM_FEATURES * rows[:, None, None])


def learn(long: torch.Tensor, visited: torch.Tensor, errors: torch.Tensor, learning_rate: float):
    """SARSA from moves with features visited [n, 69] and TD errors [n]; a shared weight moves by the mean error."""
    errors = errors.repeat_interleave(len(LINES))
    means = torch.zeros_like(long).scatter_reduce(0, visited.flatten(), errors, "mean", include_self=False)
    long += learning_rate / len(LINES) * means


def self_play(world: ConnectFour, long: torch.Tensor, n: int, args: Args, generator: torch.Generator) -> int:
    """Dyna-2 for n games side by side, from start to end; returns the number of moves."""
    state, short = world.start(n), torch.zeros(n, NUM_FEATURES, device=long.device)
    before, moves = torch.empty(0, len(LINES), dtype=torch.int64, device=long.device), 0
    while len(state) > 0:
        q = search(world, state, long, short, args.simulations, args, generator)
        action = act(q, world.legal(state), args.epsilon, generator)
        visited = world.features(state)[torch.arange(len(state), device=long.device), action]
        state, reward, terminated = world.step(state, action)
        # SARSA: the move before, now that the next one is known, and the last move of a game
        errors = GAMMA * value(long, visited)[: len(before)] - value(long, before)
        last_errors = (reward - value(long, visited))[terminated]
        learn(long, torch.cat([before, visited[terminated]]), torch.cat([errors, last_errors]), args.learning_rate)
        going, moves = ~terminated, moves + len(terminated)
        state, short, before = state[going], short[going], visited[going]
    return moves


# --- matches ---------------------------------------------------------------------------------


def make_player(world: ConnectFour, long: torch.Tensor, n: int, simulations: int, args: Args, generator):
    """A greedy player of n games, (states [k, 76], which of the games [k]) -> actions [k]; 0 simulations: no search."""
    short = torch.zeros(n, NUM_FEATURES, device=long.device)

    def player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        memory = short[games]
        q = search(world, state, long, memory, simulations, args, generator)
        short[games] = memory
        return act(q, world.legal(state), 0.0, generator)

    return player


def play_match(world: ConnectFour, ours, theirs, n: int) -> torch.Tensor:
    """Our points in each of n games, 1, 0.5 or 0: [n]. We move first in every other one."""
    state, games = world.start(n), torch.arange(n, device=world.columns.device)
    points, ply = torch.full((n,), 0.5, device=games.device), 0
    while len(games) > 0:
        action, our_turn = torch.zeros_like(games), games % 2 == ply % 2
        for player, mask in ((ours, our_turn), (theirs, ~our_turn)):
            if mask.any():
                action[mask] = player(state[mask], games[mask])
        state, reward, terminated = world.step(state, action)
        won = reward > 0
        points[games[won]] = our_turn[won].float()
        state, games, ply = state[~terminated], games[~terminated], ply + 1
    return points


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv, one per --num-games games."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    world, generator = ConnectFour(device), torch.Generator(device).manual_seed(args.seed)
    eval_generator = torch.Generator(device).manual_seed(args.seed + 2**32)
    long = torch.zeros(NUM_FEATURES, device=device)

    def player(weights: torch.Tensor, simulations: int):
        return make_player(world, weights, args.eval_games, simulations, args, eval_generator)

    def random_player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        return act(world.legal(state).float(), world.legal(state), 1.0, eval_generator)

    def match(ours, theirs) -> float:
        return play_match(world, ours, theirs, args.eval_games).mean().item()

    run, start, moves, n = Run(args, "connect-four"), time.perf_counter(), 0, args.eval_simulations
    num_batches = math.ceil(args.total_episodes / args.num_games)
    for batch in tqdm(range(1, num_batches + 1), unit="batch", disable=None):
        moves += self_play(world, long, args.num_games, args, generator)
        last = batch == num_batches
        row = {
            "global_step": moves,
            "charts/games": batch * args.num_games,
            "charts/SPS": moves / (time.perf_counter() - start),
            "eval/points_random": match(player(long, 0), random_player),
            "eval/points_short": match(player(long, n), player(torch.zeros_like(long), n)) if last else None,
            "eval/points_long": match(player(long, n), player(long, 0)) if last else None,
        }
        run.log(row)

    torch.save({"long": long.cpu()}, run.dir / "model.pt")
    save_curve(run, "eval/points_random", "moves of self-play")
    run.close("curve.png")
    short, alone = row["eval/points_short"], row["eval/points_long"]
    print(f"both memories' points against the short-term one {short:.0%}, the long-term one {alone:.0%}: {run.dir}")
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
