# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "open_spiel==2.0.2",
#     "pydantic==2.14.4",
#     "tqdm==4.70.1",
#     "tyro==1.0.16",
# ]
# ///
"""open_spiel's Monte-Carlo tree search beside algos/mcts.py's: speed in one process, and a match at Connect Four.

    python benchmarks/peers/openspiel_mcts.py --run-dir runs/speed
    python benchmarks/peers/openspiel_mcts.py --games 1000 --simulations 400 --run-dir runs/match

Speed: both search from the empty board, one after the other, in turns; CPU seconds of one thread, open_spiel's Python
search (`open_spiel.python.algorithms.mcts`). Match: open_spiel's C++ search, which is the same algorithm, moves first
in every other game, both with the same number of simulations per move and one random rollout each; neither uses
open_spiel's solver, neither keeps its tree.
"""

import argparse
import csv
import random
import sys
import time
from pathlib import Path

import numpy as np
import pyspiel
from open_spiel.python.algorithms import mcts

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from algos.mcts import BOARDS, Args, Board, choose, uct_search

NAMES = {"tic-tac-toe": "tic_tac_toe", "connect-four": "connect_four"}
UCT_C = 2.0  # open_spiel's


def their_speed(game: pyspiel.Game, simulations: int, seed: int) -> float:
    """Simulations per CPU second of open_spiel's Python search from the first position."""
    rng = np.random.RandomState(seed)
    bot = mcts.MCTSBot(game, UCT_C, simulations, mcts.RandomRolloutEvaluator(1, rng), solve=False, random_state=rng)
    start = time.process_time()
    bot.mcts_search(game.new_initial_state())
    return simulations / (time.process_time() - start)


def our_speed(board: Board, args: Args, seed: int) -> float:
    """Simulations per CPU second of algos/mcts.py's UCT from the first position."""
    rng, start = random.Random(seed), time.process_time()
    uct_search(board, (0, 0), args, rng)
    return args.simulations / (time.process_time() - start)


def measure_speed(flags: argparse.Namespace) -> list[dict]:
    """One row: medians over the turns, and of the quotients of neighbouring turns."""
    args, row = Args(simulations=flags.simulations, exploration=UCT_C), {"global_step": flags.simulations * flags.turns}
    for name, their_name in NAMES.items():
        game, seeds = pyspiel.load_game(their_name), [flags.seed + 1000 * turn for turn in range(flags.turns)]
        pairs = [(our_speed(BOARDS[name], args, s), their_speed(game, flags.simulations, s)) for s in seeds]
        ours, theirs = np.array(pairs).T
        row |= {f"{name}/ours": np.median(ours), f"{name}/theirs": np.median(theirs)}
        row[f"{name}/ratio"] = np.median(ours / theirs)
    return [row]


def play_match(flags: argparse.Namespace) -> list[dict]:
    """A row after every game: our results so far, moving first and moving second."""
    game, board, rng = pyspiel.load_game("connect_four"), BOARDS["connect-four"], random.Random(flags.seed)
    args = Args(simulations=flags.simulations, exploration=flags.exploration)
    evaluator = pyspiel.RandomRolloutEvaluator(1, flags.seed)
    bot = pyspiel.MCTSBot(game, evaluator, UCT_C, flags.simulations, 100, False, flags.seed, False)
    rows, results = [], []
    for number in range(flags.games):
        ours = number % 2  # the player that we are
        state, stones = game.new_initial_state(), (0, 0)
        while not state.is_terminal():
            us = state.current_player() == ours
            move = choose(board, stones, "uct", args, rng)[0] if us else bot.step(state)
            state.apply_action(move)
            stones, _, _ = board.step(stones, move)
        results.append(state.returns()[ours])
        points = (np.array(results) + 1) / 2
        error = np.std(points, ddof=1) / len(points) ** 0.5 if number else None
        row = {"global_step": number + 1, "match/score": points.mean(), "match/standard_error": error}
        for order, games in (("first", results[::2]), ("second", results[1::2])):
            for outcome, result in (("won", 1.0), ("drawn", 0.0), ("lost", -1.0)):
                row[f"match/{outcome}_{order}"] = games.count(result)
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--games", type=int, default=0, help="games of the match; 0 measures speed")
    parser.add_argument("--simulations", type=int, default=1000, help="per move")
    parser.add_argument("--exploration", type=float, default=UCT_C, help="our weight of UCT's bonus in the match")
    parser.add_argument("--turns", type=int, default=15, help="searches of each, in the speed test")
    flags = parser.parse_args()
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    rows = play_match(flags) if flags.games else measure_speed(flags)
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
