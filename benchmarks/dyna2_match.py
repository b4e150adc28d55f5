"""Matches at Connect Four between the memories of algos/dyna2.py and the UCT of algos/mcts.py.

    python benchmarks/dyna2_match.py --players short uct --run-dir runs/match

The players: short (search with the short-term memory alone), long (the long-term memory alone, without search), both,
uct. Who searches simulates equally often before each move. The long-term memory learns from --episodes times 256 games
against itself; metrics.csv has a row for each number of episodes asked for. They move first in turns; a draw is half a
point.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos import mcts
from algos.dyna2 import HEIGHT, OTHER, OWN, Args, ConnectFour, make_player, play_match, train

PLAYERS = ("short", "long", "both", "uct")


def make_uct(world: ConnectFour, flags: argparse.Namespace, seed: int):
    """UCT as a player of dyna2's matches, and the board it searches on."""
    board = mcts.Board(*mcts.GAMES["connect-four"], random.Random(seed))
    args = mcts.Args(env_id="connect-four", simulations=flags.simulations, exploration=flags.exploration)

    def player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        return torch.tensor([mcts.search(board, stones, args)[0] for stones in bitboards(world, state)])

    return player


def bitboards(world: ConnectFour, state: torch.Tensor) -> list[tuple[int, int]]:
    """The stones of the player to move and of the other, as bits of whole numbers, each column one bit higher."""
    digits = world.cells(state).flatten(1).tolist()
    bits = [1 << (HEIGHT + 1) * (i // HEIGHT) + i % HEIGHT for i in range(len(digits[0]))]
    return [
        tuple(sum(bit for bit, digit in zip(bits, row, strict=True) if digit == owner) for owner in (OWN, OTHER))
        for row in digits
    ]


def learned_memory(episodes: int, seed: int) -> tuple[torch.Tensor, int, float]:
    """The long-term memory after so many episodes, the games it took, and the CPU seconds."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        args = Args(memory="long", total_episodes=episodes, seed=seed, run_dir=Path(folder, "run"))
        train(args)
        weights = torch.load(args.run_dir / "checkpoint.pt", weights_only=True)["weights"]
    return weights, episodes * args.num_runs, time.process_time() - start


def measure(flags: argparse.Namespace, episodes: int) -> dict:
    """The row of metrics for a long-term memory of so many episodes."""
    world = ConnectFour(torch.device("cpu"))
    *seeds, uct_seed = np.random.SeedSequence([flags.seed, episodes]).generate_state(4, np.uint64).tolist()
    long, games, seconds = torch.zeros(1, world.num_features), 0, 0.0
    if {"long", "both"} & set(flags.players):
        long, games, seconds = learned_memory(episodes, flags.seed)
    args = Args(simulations=flags.simulations, search_learning_rate=flags.search_learning_rate)
    players, times = [], [0.0, 0.0]
    for i, (name, seed) in enumerate(zip(flags.players, seeds, strict=False)):
        if name == "uct":
            player = make_uct(world, flags, uct_seed)
        else:
            generator = torch.Generator().manual_seed(seed)
            player = make_player(world, long, name, flags.games, args, generator)
        players.append(timed(player, times, i))
    points = play_match(world, *players, flags.games, torch.Generator())
    row = {"global_step": games, "match/games": flags.games, "match/points": points.mean().item()}
    row["match/error"] = points.std().item() / len(points) ** 0.5
    row |= {"match/points_first": points[::2].mean().item(), "match/points_second": points[1::2].mean().item()}
    row |= {"match/draws": (points == 0.5).float().mean().item(), "match/simulations": flags.simulations}
    return row | {"time/learning": seconds, "time/ours": times[0], "time/theirs": times[1]}


def timed(player, times: list[float], i: int):
    """The player, whose CPU seconds are added up."""

    def asked(state, games):
        start = time.process_time()
        actions = player(state, games)
        times[i] += time.process_time() - start
        return actions

    return asked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--players", nargs=2, choices=PLAYERS, required=True, help="whose points count, and whom it meets"
    )
    parser.add_argument("--games", type=int, default=128, help="of the match")
    parser.add_argument("--simulations", type=int, default=100, help="before every move")
    parser.add_argument("--episodes", type=int, nargs="+", default=[240], help="of 256 games each, to learn from")
    parser.add_argument("--search-learning-rate", type=float, default=0.2, help="of the short-term memory")
    parser.add_argument("--exploration", type=float, default=mcts.Args.exploration, help="weight of UCT's bonus")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    with (flags.run_dir / "metrics.csv").open("w", newline="", buffering=1) as file:
        for i, episodes in enumerate(flags.episodes):
            row = measure(flags, episodes)
            writer = csv.DictWriter(file, row)
            if i == 0:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
