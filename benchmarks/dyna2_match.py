"""Matches at Connect Four between the memories of algos/dyna2.py and the UCT of algos/mcts.py.

    python benchmarks/dyna2_match.py --pairs both:uct short:uct --run-dir runs/match

The players: short (search with the short-term memory alone), long (the long-term memory alone, without search), both,
uct. Each searches equally often before a move. One long-term memory is learned for all matches, in self-play without
search unless --learn-simulations says otherwise. metrics.csv has one row, with a column per match: the points of the
player named first, who moves first in every other game; a draw is half a point.
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
from algos.dyna2 import HEIGHT, LINES, NUM_FEATURES, OTHER, OWN, Args, ConnectFour, make_player, play_match, train


def bitboards(state: torch.Tensor) -> list[tuple[int, int]]:
    """The position as algos/mcts.py has it, from the patterns of the lines: [n, 76] -> n pairs of integers."""
    where = {cell: (line, i) for line, cells in enumerate(LINES) for i, cell in enumerate(cells)}
    stones = np.zeros((2, len(state)), dtype=np.int64)
    for (x, y), (line, i) in where.items():
        digit = (state[:, line] // 4**i % 4).numpy()
        for player, owner in enumerate((OWN, OTHER)):
            stones[player] |= (digit == owner).astype(np.int64) << (HEIGHT + 1) * x + y
    return list(zip(*stones.tolist(), strict=True))


def uct_player(simulations: int, exploration: float, seed: int):
    board, rng = mcts.BOARDS["connect-four"], random.Random(seed)
    args = mcts.Args(simulations=simulations, exploration=exploration)

    def player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        return torch.tensor([mcts.choose(board, position, "uct", args, rng)[0] for position in bitboards(state)])

    return player


def learned_memory(flags: argparse.Namespace) -> torch.Tensor:
    """The long-term memory of a run of algos/dyna2.py."""
    with tempfile.TemporaryDirectory() as folder:
        learning = {"total_episodes": flags.episodes, "simulations": flags.learn_simulations, "seed": flags.seed}
        evaluation = {"eval_games": 2, "eval_simulations": 1}
        run_dir = Path(folder, "run")
        train(Args(**learning, **evaluation, num_games=flags.num_games, run_dir=run_dir))
        return torch.load(run_dir / "model.pt", weights_only=True)["long"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", required=True, help="such as both:uct, of short, long, both, uct")
    parser.add_argument("--games", type=int, default=64, help="of each match")
    parser.add_argument("--simulations", type=int, default=100, help="before every move of a match")
    parser.add_argument("--episodes", type=int, default=61440, help="games to learn from")
    parser.add_argument("--num-games", type=int, default=256, help="of them side by side")
    parser.add_argument("--learn-simulations", type=int, default=0, help="before every move of these games")
    parser.add_argument("--exploration", type=float, default=mcts.Args.exploration, help="weight of UCT's bonus")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    world, args, begin = ConnectFour(torch.device("cpu")), Args(), time.process_time()
    generator = torch.Generator().manual_seed(flags.seed + 2**33)
    long = learned_memory(flags)
    row = {"global_step": flags.episodes, "time/learning": time.process_time() - begin, "match/games": flags.games}

    def player(name: str):
        if name == "uct":
            return uct_player(flags.simulations, flags.exploration, flags.seed)
        weights = torch.zeros(NUM_FEATURES) if name == "short" else long
        return make_player(world, weights, flags.games, 0 if name == "long" else flags.simulations, args, generator)

    for pair in flags.pairs:
        ours, theirs = map(player, pair.split(":"))
        row[f"match/{pair}"] = play_match(world, ours, theirs, flags.games).mean().item()
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
