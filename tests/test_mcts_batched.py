"""Batched search: the rules against mcts.py's, every tree against a recursive search, play over all lines."""

import csv
import math
import random

import numpy as np
import pytest
import torch

from algos import mcts, mcts_batched
from algos.mcts_batched import BOARDS, Args, best_moves, random_moves, rollout, search, train

TTT, FOUR = BOARDS["tic-tac-toe"], BOARDS["connect-four"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_states(game, count):
    """Positions of random games in which somebody has yet to move, and own, other as tensors."""
    board, rng, states = mcts.BOARDS[game], random.Random(0), []
    while len(states) < count:
        state, terminated = (0, 0), False
        while not terminated:
            states.append(state)
            state, _, terminated = board.step(state, rng.choice(board.legal(state)))
    return states[:count], *torch.tensor(states[:count]).T


@pytest.mark.parametrize("game", BOARDS)
def test_the_rules_on_tensors_are_those_on_numbers(game):
    board, single, wins = BOARDS[game], mcts.BOARDS[game], 0
    states, own, other = some_states(game, 300)
    legal = board.legal(own | other)
    for action in range(len(board.masks)):
        moved = board.move(own, other, torch.full_like(own, action))
        won = board.won(moved)
        for i, state in enumerate(states):
            assert legal[i, action] == (action in single.legal(state))
            if legal[i, action]:
                after, reward, _ = single.step(state, action)
                assert after == (state[1], int(moved[i])) and bool(won[i]) == (reward == 1)
                wins += reward
            else:
                assert int(moved[i]) == state[0]
    assert wins > 10


def test_a_random_move_is_any_legal_one_equally_often():
    n, full = 14_000, FOUR.masks[2]
    own, other = torch.full((n,), int(full)), torch.zeros(n, dtype=torch.int64)
    moved = random_moves(FOUR, own, other, torch.rand(n, 7, generator=seeded()))
    counts = [int((moved == own | (1 << 7 * x)).sum()) for x in range(7)]
    assert counts[2] == 0 and sum(counts) == n
    assert all(abs(counts[x] - n / 6) < 4 * (n * 5 / 36) ** 0.5 for x in range(7) if x != 2)


def test_rollouts_have_the_known_results():
    n = 20_000
    empty = torch.zeros(n, dtype=torch.int64)
    results = rollout(TTT, empty, empty, 9, seeded())
    for outcome, share in ((1.0, 0.5849), (-1.0, 0.2881), (0.0, 0.1270)):
        assert abs((results == outcome).double().mean() - share) < 4 * 0.5 / n**0.5
    results = rollout(FOUR, empty[:4000], empty[:4000], 42, seeded())
    assert abs((results == 1).double().mean() - 0.554) < 4 * 0.5 / 4000**0.5
    assert rollout(TTT, empty[:2], empty[:2], 0, seeded()).tolist() == [0, 0]


def recursive_visits(game, state, orders, exploration, evaluate):
    """UCT written a second time, for one root: visits and sums at the root after len(orders) simulations."""
    board, tree = mcts.BOARDS[game], {}

    def visit(path, state, order):
        legal = board.legal(state)
        if path not in tree:  # a node belongs to a path
            tree[path] = {a: [0, 0.0] for a in legal}
            if path:
                return evaluate(state)
        node = tree[path]
        if untried := [a for a in legal if node[a][0] == 0]:
            action = max(untried, key=lambda a: order[a])
        else:
            log = math.log(sum(count for count, _ in node.values()))  # the current visit is not counted
            action = max(legal, key=lambda a: node[a][1] / node[a][0] + exploration * (log / node[a][0]) ** 0.5)
        next_state, reward, terminated = board.step(state, action)
        result = reward if terminated else -visit((*path, action), next_state, order)
        node[action][0] += 1
        node[action][1] += result
        return result

    for order in orders:
        visit((), state, order)
    return tree[()]


@pytest.mark.parametrize("game", BOARDS)
def test_every_tree_is_that_of_a_recursive_search(game, monkeypatch):
    board, n, exploration = BOARDS[game], 70, 0.8
    states, own, other = some_states(game, 24)
    monkeypatch.setattr(mcts_batched, "rollout", lambda board, own, other, *_: torch.sin(3.0 * (own % 97) - other % 89))
    args = Args(simulations=n, exploration=exploration)
    visits, totals = search(board, own, other, args, seeded(5))
    generator = seeded(5)
    orders = torch.stack([torch.rand(len(states), len(board.masks), generator=generator) for _ in range(n)])
    for i, state in enumerate(states):

        def evaluate(state):
            return float(np.sin(3.0 * (state[0] % 97) - state[1] % 89))

        node = recursive_visits(game, state, orders[:, i].tolist(), exploration, evaluate)
        for action in range(len(board.masks)):
            count, total = node.get(action, (0, -math.inf))
            assert visits[i, action] == count
            assert float(totals[i, action]) == pytest.approx(total, abs=1e-3)


def test_most_visits_decide_then_the_better_average_then_the_lowest_action():
    visits = torch.tensor([[5.0, 7.0, 7.0], [3.0, 3.0, 0.0], [2.0, 2.0, 2.0]])
    totals = torch.tensor([[5.0, -1.0, 2.0], [1.0, 3.0, -math.inf], [1.0, 1.0, 0.0]])
    assert best_moves(visits, totals).tolist() == [2, 1, 0]


def rows(folder):
    timed = ("time/simulations_per_second", "charts/SPS")
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)]


def test_rows_count_the_running_games_and_the_seed_decides_them(tmp_path):
    flags = {"total_episodes": 31, "simulations": 12, "cuda": False}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        row = train(Args(run_dir=tmp_path / name, seed=seed, **flags))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    plies = np.diff([0, *(int(each["global_step"]) for each in rows(tmp_path / "c"))])  # of the games that go on
    assert (plies[:5] == 31).all() and (np.diff(plies) <= 0).all() and plies[7] < 31  # X wins after five or more
    assert 0.2 < row["eval/episodic_return"] <= 1
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"args.json", "metrics.csv", "search.png"}


def test_a_game_ends_with_its_first_line(tmp_path, monkeypatch):
    lines, won = [], mcts_batched.Board.won
    monkeypatch.setattr(mcts_batched.Board, "won", lambda board, x: lines.append(won(board, x)) or lines[-1])
    monkeypatch.setattr(mcts_batched, "search", lambda board, own, *_: (torch.rand(len(own), 9),) * 2)
    row = train(Args(total_episodes=300, run_dir=tmp_path / "run"))
    lines = torch.stack(lines)  # [plies, games]
    mine = lines.int().argmax(dim=0) % 2 == torch.arange(300) % 2  # it moves first in every other game
    expected = torch.where(lines.any(dim=0), torch.where(mine, 1.0, -1.0), 0.0)
    assert row["eval/episodic_return"] == pytest.approx(expected.mean().item(), abs=1e-6)


def test_games_are_scored_for_the_search_whichever_side_it_plays(tmp_path, monkeypatch):
    """A search that fills the first column, and opponents who fill the second: whoever moves first wins."""
    ones = torch.ones(4, 7)
    monkeypatch.setattr(mcts_batched, "search", lambda board, own, *_: (ones[: len(own)], ones[: len(own)]))
    monkeypatch.setattr(mcts_batched, "best_moves", lambda visits, totals: torch.zeros(len(visits), dtype=torch.int64))
    monkeypatch.setattr(mcts_batched, "random_moves", lambda board, own, other, _: board.move(own, other, own * 0 + 1))
    row = train(Args(env_id="connect-four", total_episodes=4, run_dir=tmp_path / "run"))
    assert row["eval/episodic_return"] == 0
    assert row["global_step"] == 4 * 7


@pytest.mark.parametrize(
    "name, bad", [("simulations", 0), ("exploration", math.inf), ("env_id", "chess"), ("total_episodes", 0)]
)
def test_bad_arguments_are_refused(name, bad):
    with pytest.raises(ValueError, match=name):
        Args(**{name: bad})
