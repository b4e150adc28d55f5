# /// script
# requires-python = ">=3.11"
# dependencies = ["open_spiel==2.0.2", "pydantic==2.14.4", "tqdm==4.70.1", "tyro==1.0.16"]
# ///
"""open_spiel's Monte-Carlo tree search beside algos/mcts.py's: speed in one process, and a match at Connect Four.

    python -m benchmarks.peers.openspiel_mcts --run-dir runs/speed
    python -m benchmarks.peers.openspiel_mcts --games 1000 --simulations 400 --run-dir runs/match

Speed: both search from the empty board, in turns; CPU seconds of one thread, open_spiel's Python search. Match:
open_spiel's C++ search, the same algorithm, moves first in every other game, both with as many simulations per move and
one random rollout each; neither uses open_spiel's solver, neither keeps its tree.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyspiel
import tyro
from open_spiel.python.algorithms import mcts

from algos.mcts import BOARDS, Args, choose, uct_search
from benchmarks.rows import write_rows

NAMES = {"tic-tac-toe": "tic_tac_toe", "connect-four": "connect_four"}
UCT_C = 2.0  # open_spiel's


def measure_speed(simulations: int, turns: int, seed: int) -> Iterator[dict]:
    """One row of simulations per CPU second: medians over the turns, and of the quotients of neighbouring turns."""
    args, row = Args(simulations=simulations, exploration=UCT_C), {"global_step": simulations * turns}
    for name, their_name in NAMES.items():
        game, pairs = pyspiel.load_game(their_name), []
        for s in range(seed, seed + 1000 * turns, 1000):
            rng = np.random.RandomState(s)
            rollout = mcts.RandomRolloutEvaluator(1, rng)
            bot = mcts.MCTSBot(game, UCT_C, simulations, rollout, solve=False, random_state=rng)
            first = time.process_time()
            uct_search(BOARDS[name], (0, 0), args, random.Random(s))
            between = time.process_time()
            bot.mcts_search(game.new_initial_state())
            pairs.append((between - first, time.process_time() - between))
        ours, theirs = simulations / np.array(pairs).T
        row |= {f"{name}/ours": np.median(ours), f"{name}/theirs": np.median(theirs)}
        row[f"{name}/ratio"] = np.median(ours / theirs)
    yield row


def play_match(games: int, simulations: int, exploration: float, seed: int) -> Iterator[dict]:
    """A row after every game: our share of the points so far, and its standard error."""
    game, board, rng = pyspiel.load_game("connect_four"), BOARDS["connect-four"], random.Random(seed)
    args = Args(simulations=simulations, exploration=exploration)
    evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
    bot, points = pyspiel.MCTSBot(game, evaluator, UCT_C, simulations, 100, False, seed, False), []
    for number in range(games):
        ours = number % 2  # the player that we are
        state, stones = game.new_initial_state(), (0, 0)
        while not state.is_terminal():
            us = state.current_player() == ours
            move = choose(board, stones, "uct", args, rng)[0] if us else bot.step(state)
            state.apply_action(move)
            stones, _, _ = board.step(stones, move)
        points.append((state.returns()[ours] + 1) / 2)
        error = np.std(points, ddof=1) / len(points) ** 0.5 if number else None
        yield {"global_step": number + 1, "match/score": np.mean(points), "match/standard_error": error}


def main(run_dir: Path, games: int = 0, simulations: int = 1000, exploration: float = UCT_C, seed: int = 1):
    """A match of so many games, ours with this weight of UCT's bonus; without games the speed, in 15 turns."""
    match = play_match(games, simulations, exploration, seed)
    write_rows(run_dir, match if games else measure_speed(simulations, 15, seed))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
