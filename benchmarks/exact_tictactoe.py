"""How good a search is at tic-tac-toe, exactly: all lines of play against every reply, not a sample of games.

    python benchmarks/exact_tictactoe.py --simulations 1000 --run-dir runs/exact

The search of algos/mcts.py decides once for every position that it can come to; the opponent's replies are weighed as
a random and as a perfect player with random ties would make them. metrics.csv holds the shares won, drawn and lost,
moving first and second, and beside them those of perfect play with random ties against the same random player.
"""

import argparse
import csv
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.mcts import GAMES, Args, Board, perfect_moves, search


def exact_result(
    board: Board, choices: Callable, replies: Callable, first: bool
) -> tuple[Fraction, Fraction, Fraction]:
    """The shares won, drawn and lost by a player, over all lines of play.

    choices(state) and replies(state) list the moves that the player and the opponent make there, equally likely.
    """

    @cache
    def result(state, ours: bool) -> tuple[Fraction, Fraction, Fraction]:
        moves, total = (choices if ours else replies)(state), [Fraction(0)] * 3
        for move in moves:
            next_state, reward, done = board.step(state, move)
            if done:
                outcome = (0, 1, 0) if reward == 0 else (1, 0, 0) if ours else (0, 0, 1)
            else:
                outcome = result(next_state, not ours)
            total = [sum_ + Fraction(share) / len(moves) for sum_, share in zip(total, outcome, strict=True)]
        return tuple(total)

    return result(board.start(), first)


def decided_once(args: Args, board: Board) -> Callable:
    """The function state -> [move] of a search, which answers the same whenever it is asked about a state again."""
    return cache(lambda state: [search(board, state, args)[0]])


def measure(args: Args, seed: int) -> dict:
    """The row of metrics for one seed."""
    board = Board(*GAMES["tic-tac-toe"], random.Random(seed))
    perfect, ours = perfect_moves(board), decided_once(args, board)
    row = {"global_step": args.simulations}
    for opponent, replies in (("random", board.actions), ("perfect", perfect)):
        for order, first in (("first", True), ("second", False)):
            shares = exact_result(board, ours, replies, first)
            row |= {
                f"{opponent}/{name}_{order}": float(x) for name, x in zip(("won", "drawn", "lost"), shares, strict=True)
            }
    for order, first in (("first", True), ("second", False)):
        row[f"perfect_play/won_{order}"] = float(exact_result(board, perfect, board.actions, first)[0])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", choices=["simple", "tree", "td"], default="tree")
    parser.add_argument("--simulations", type=int, nargs="+", default=[1000], help="per move; one row for each")
    parser.add_argument("--exploration", type=float, default=Args.exploration, help="weight of UCT's bonus")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    flags = parser.parse_args()
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        for i, simulations in enumerate(flags.simulations):
            args = Args(search=flags.search, simulations=simulations, exploration=flags.exploration)
            row = measure(args, flags.seed)
            writer = csv.DictWriter(file, row)
            if i == 0:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
