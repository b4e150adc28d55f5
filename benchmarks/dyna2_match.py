"""Matches at Connect Four between the memories of algos/dyna2.py and the UCT of algos/mcts.py.

    python -m benchmarks.dyna2_match --pairs both:uct short:uct --run-dir runs/match

The players: short (search with the short-term memory alone), long (the long-term memory alone, without search), both,
uct. Each searches equally often before a move. One long-term memory is learned for all matches, in self-play without
search. metrics.csv has one row, with a column per match: the points of the player named first, who moves first in every
other game; a draw is half a point.
"""

import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro

from algos import mcts
from algos.dyna2 import HEIGHT, LINES, NUM_FEATURES, OTHER, OWN, Args, ConnectFour, make_player, play_match, train
from benchmarks.rows import write_rows


def bitboards(state: torch.Tensor) -> list[tuple[int, int]]:
    """The position as algos/mcts.py has it, from the patterns of the lines: [n, 76] -> n pairs of integers."""
    where = {cell: (line, i) for line, cells in enumerate(LINES) for i, cell in enumerate(cells)}
    stones = np.zeros((2, len(state)), np.int64)
    for (x, y), (line, i) in where.items():
        digit = (state[:, line] // 4**i % 4).numpy()
        for player, owner in enumerate((OWN, OTHER)):
            stones[player] |= (digit == owner).astype(np.int64) << (HEIGHT + 1) * x + y
    return list(zip(*stones.tolist(), strict=True))


def uct_player(simulations: int, seed: int):
    board, rng, args = mcts.BOARDS["connect-four"], random.Random(seed), mcts.Args(simulations=simulations)

    def player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        return torch.tensor([mcts.choose(board, position, "uct", args, rng)[0] for position in bitboards(state)])

    return player


def learned_memory(episodes: int, seed: int) -> torch.Tensor:
    """The long-term memory of a run of algos/dyna2.py."""
    flags = {"total_episodes": episodes, "num_games": 256, "simulations": 0, "eval_games": 2, "eval_simulations": 1}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        train(Args(**flags, seed=seed, run_dir=run_dir))
        return torch.load(run_dir / "model.pt", weights_only=True)["long"]


def main(
    run_dir: Path, pairs: list[str], games: int = 64, simulations: int = 100, episodes: int = 61440, seed: int = 1
):
    """Pairs such as both:uct; games of each match and simulations before every move of it; games to learn from."""
    torch.set_num_threads(1)
    world, args, begin = ConnectFour(torch.device("cpu")), Args(), time.process_time()
    generator = torch.Generator().manual_seed(seed + 2**33)
    long = learned_memory(episodes, seed)
    row = {"global_step": episodes, "time/learning": time.process_time() - begin, "match/games": games}

    def player(name: str):
        if name == "uct":
            return uct_player(simulations, seed)
        weights = torch.zeros(NUM_FEATURES) if name == "short" else long
        return make_player(world, weights, games, 0 if name == "long" else simulations, args, generator)

    for pair in pairs:
        ours, theirs = map(player, pair.split(":"))
        row[f"match/{pair}"] = play_match(world, ours, theirs, games).mean().item()
    write_rows(run_dir, [row])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
