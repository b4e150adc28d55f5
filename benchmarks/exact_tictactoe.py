"""How good a search is at tic-tac-toe, exactly: over all lines of play against every reply, not a sample of games.

    python -m benchmarks.exact_tictactoe --simulations 1000 --run-dir runs/exact

The search of algos/mcts.py decides once for every position that it can reach; the opponent is a random and a perfect
player, who chooses at random among equally good moves. metrics.csv holds the shares won, drawn and lost, moving first
and second, and those of perfect play against the random player.
"""

import random
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import tyro

from algos.mcts import BOARDS, Args, choose
from benchmarks.rows import write_rows

BOARD = BOARDS["tic-tac-toe"]


@cache
def value(state) -> float:
    """The minimax value for the player to move."""
    return max(action_value(state, action) for action in BOARD.legal(state))


def action_value(state, action: int) -> float:
    next_state, reward, terminated = BOARD.step(state, action)
    return reward if terminated else -value(next_state)


def perfect_moves(state) -> list[int]:
    return [action for action in BOARD.legal(state) if action_value(state, action) == value(state)]


def exact_result(choices: Callable, replies: Callable, first: bool) -> tuple[Fraction, Fraction, Fraction]:
    """The shares won, drawn and lost by a player, over all lines of play.

    choices(state) and replies(state) list the moves that the player and the opponent make there, equally likely.
    """

    @cache
    def result(state, ours: bool) -> tuple:
        moves, outcomes = (choices if ours else replies)(state), []
        for move in moves:
            next_state, reward, terminated = BOARD.step(state, move)
            end = (0, 1, 0) if reward == 0 else (1, 0, 0) if ours else (0, 0, 1)
            outcomes.append(end if terminated else result(next_state, not ours))
        return tuple(Fraction(sum(shares)) / len(moves) for shares in zip(*outcomes, strict=True))

    return result((0, 0), first)


def decided_once(search: str, args: Args, seed: int) -> Callable:
    """The function state -> [move] of a search, which decides once for every state."""
    rng = random.Random(seed)
    return cache(lambda state: [choose(BOARD, state, search, args, rng)[0]])


def measure(search: str, args: Args, seed: int) -> dict:
    """The row of metrics for one seed."""
    ours, row = decided_once(search, args, seed), {"global_step": args.simulations}
    for opponent, replies in (("random", BOARD.legal), ("perfect", perfect_moves)):
        for order in ("first", "second"):
            shares = map(float, exact_result(ours, replies, order == "first"))
            row |= {f"{opponent}/{name}_{order}": x for name, x in zip(("won", "drawn", "lost"), shares, strict=True)}
    for order in ("first", "second"):
        row[f"perfect_play/won_{order}"] = float(exact_result(perfect_moves, BOARD.legal, order == "first")[0])
    return row


def main(
    run_dir: Path,
    search: Literal["simple", "uct"] = "uct",
    simulations: tuple[int, ...] = (1000,),
    exploration: float = Args.exploration,
    seed: int = 1,
):
    """A row for each number of simulations per move; the weight of UCT's bonus."""
    write_rows(run_dir, (measure(search, Args(simulations=n, exploration=exploration), seed) for n in simulations))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
