"""Monte-Carlo tree search: the boards by brute force, the search against formulas, enumeration and perfect play."""

import csv
import math
import random
from functools import cache

import numpy as np
import pytest

from algos.mcts import BOARDS, Args, Node, choose, rollout, simple_search, train, uct_search
from benchmarks.exact_tictactoe import decided_once, exact_result, perfect_moves, value

TTT, FOUR = BOARDS["tic-tac-toe"], BOARDS["connect-four"]


# --- the games -------------------------------------------------------------------------------


def winner(grid, line):
    """The stone that has `line` in a row somewhere in grid[x][y], or None: every cell, direction and length."""
    for x, column in enumerate(grid):
        for y in range(len(column)):
            for dx, dy in ((0, 1), (1, 0), (1, 1), (1, -1)):
                cells = [(x + i * dx, y + i * dy) for i in range(line)]
                if all(0 <= i < len(grid) and 0 <= j < len(column) for i, j in cells):
                    stones = {grid[i][j] for i, j in cells}
                    if len(stones) == 1 and stones != {None}:
                        return stones.pop()
    return None


@pytest.mark.parametrize("board, w, h, line, falling", [(TTT, 3, 3, 3, False), (FOUR, 7, 6, 4, True)])
def test_the_rules_by_a_plain_grid_over_random_games(board, w, h, line, falling):
    rng, lengths = random.Random(0), set()
    for _ in range(60 if falling else 300):
        grid, state, ply, terminated = [[None] * h for _ in range(w)], (0, 0), 0, False
        while not terminated:
            if falling:
                legal = [x for x in range(w) if grid[x][-1] is None]
                action = rng.choice(legal)
                x, y = action, grid[action].index(None)
            else:
                legal = [i for i in range(w * h) if grid[i % w][h - 1 - i // w] is None]
                action = rng.choice(legal)
                x, y = action % w, h - 1 - action // w
            assert board.legal(state) == legal
            grid[x][y] = "XO"[ply % 2]
            state, reward, terminated = board.step(state, action)
            ply += 1
            assert reward == (winner(grid, line) is not None)
            assert terminated == (reward == 1 or ply == w * h)
            bits = [[state[1] >> (h + 1) * x + y & 1 for y in range(h)] for x in range(w)]
            assert bits == [[int(cell == "XO"[(ply - 1) % 2]) for cell in column] for column in grid]
        lengths.add(ply)
    assert len(lengths) > 3


@cache
def random_value(state):
    """The exact mean result for the player to move when both play at random."""
    total = 0.0
    for action in TTT.legal(state):
        next_state, reward, terminated = TTT.step(state, action)
        total += reward if terminated else -random_value(next_state)
    return total / len(TTT.legal(state))


def test_rollouts_average_to_the_value_of_random_play():
    rng, n = random.Random(0), 6000
    results = [rollout(TTT, (0, 0), rng) for _ in range(n)]
    assert random_value((0, 0)) == pytest.approx(0.5849 - 0.2881, abs=1e-4)  # the known shares of random games
    assert abs(np.mean(results) - random_value((0, 0))) < 4 / n**0.5
    results = [rollout(FOUR, (0, 0), rng) for _ in range(2000)]
    assert abs(np.mean(results) - 0.111) < 4 / 2000**0.5  # 55.4 % against 44.3 %


# --- search ----------------------------------------------------------------------------------


def test_a_node_tries_every_action_once_and_then_follows_ucb1():
    rng, node = random.Random(1), Node([4, 5, 6])
    firsts = [Node([4, 5, 6]).select(1.4, rng) for _ in range(300)]
    assert {firsts.count(i) // 60 for i in range(3)} == {1}  # about 100 each
    tried = []
    for result in (0.5, -0.25, 0.0):
        tried.append(node.select(1.4, rng))
        node.update(tried[-1], result)
    assert sorted(tried) == [0, 1, 2] and node.visits == [1, 1, 1]
    for result in (1.0, -1.0, 0.5, 0.25, -0.5, 0.0):
        n = sum(node.visits)  # without the current visit, as in the paper
        bounds = [m + 0.7 * (math.log(n) / v) ** 0.5 for m, v in zip(node.means, node.visits, strict=True)]
        i = node.select(0.7, rng)
        assert i == int(np.argmax(bounds))
        node.update(i, result)
    assert sum(node.visits) == 9


def test_the_current_visit_is_not_counted_and_ties_go_to_the_lowest_action():
    node = Node([0, 1])
    node.untried, node.visits, node.means = [], [1, 3], [0.0, 0.4]
    c = 0.4 / (math.log(4) ** 0.5 * (1 - 3**-0.5))  # where both bounds are equal with N = 4
    assert node.select(c * 1.01, random.Random()) == 0 and node.select(c * 0.99, random.Random()) == 1
    node.visits, node.means = [2, 2], [0.3, 0.3]
    assert node.select(1.0, random.Random()) == 0


def test_a_mean_is_the_average_of_its_results():
    node, results = Node([7]), [1.0, -1.0, 0.0, 1.0, 1.0]
    for result in results:
        node.update(0, result)
    assert node.means[0] == pytest.approx(np.mean(results)) and node.visits == [5]


def test_the_tree_holds_what_a_recursive_search_holds_that_sees_the_same_rollouts(monkeypatch):
    """A second implementation, recursive and with sums: the same choices, so the same counts and averages."""
    played, n = [], 150

    def recorded(board, state, rng):
        played.append(state)
        return math.sin(hash(state))  # some result that depends on the position, without ties

    monkeypatch.setattr("algos.mcts.rollout", recorded)
    tree = uct_search(TTT, (0, 0), Args(simulations=n), random.Random(5))
    monkeypatch.undo()
    rng, stats = random.Random(5), {}

    def visit(state):
        legal = TTT.legal(state)
        if state not in stats and state != (0, 0):
            stats[state] = {a: [0, 0.0] for a in legal}
            return math.sin(hash(state))
        node = stats.setdefault(state, {a: [0, 0.0] for a in legal})
        untried = [a for a in legal if node[a][0] == 0]
        if untried:
            action = untried[int(rng.random() * len(untried))]
        else:
            total = sum(count for count, _ in node.values())
            action = max(legal, key=lambda a: node[a][1] / node[a][0] + 1.4 * (math.log(total) / node[a][0]) ** 0.5)
        next_state, reward, terminated = TTT.step(state, action)
        result = reward if terminated else -visit(next_state)
        node[action][0] += 1
        node[action][1] += result
        return result

    for _ in range(n):
        visit((0, 0))
    assert len(tree) == len(stats) == 1 + len(played)  # one new position a simulation
    for state, node in tree.items():
        assert [stats[state][a][0] for a in node.actions] == node.visits
        means = [total / max(1, count) for count, total in (stats[state][a] for a in node.actions)]
        assert node.means == pytest.approx(means, abs=1e-9)
    assert sum(tree[0, 0].visits) == n


def test_simple_search_averages_random_play_and_gives_every_action_the_same_share():
    n = 9000
    node = simple_search(TTT, (0, 0), Args(simulations=n), random.Random(0))
    assert node.visits == [n // 9] * 9
    for action, mean in zip(node.actions, node.means, strict=True):
        exact = -random_value(TTT.step((0, 0), action)[0])
        assert abs(mean - exact) < 4 / (n // 9) ** 0.5
    assert choose(TTT, (0, 0), "simple", Args(simulations=n + 1), random.Random(0))[0] == 4  # by average, not by visits


def play(board, *actions):
    state = (0, 0)
    for action in actions:
        state, _, _ = board.step(state, action)
    return state


def test_both_searches_take_a_win_and_only_the_tree_refutes_a_reply():
    winning = play(FOUR, 3, 0, 3, 0, 3, 0)  # X wins in column 3, or O does in column 0
    for search in ("simple", "uct"):
        action, node = choose(FOUR, winning, search, Args(simulations=300), random.Random(0))
        assert action == 3 and node.means[3] == 1
        action, _ = choose(FOUR, play(FOUR, 3, 0, 3, 0, 3), search, Args(simulations=2000), random.Random(0))
        assert (action == 3) == (search == "uct")  # against random replies three of one's own weigh more than a block
    fork = play(TTT, 4, 1)  # O on an edge loses to perfect play; O on a corner draws
    means = {}
    for state in (fork, play(TTT, 4, 0)):
        node = uct_search(TTT, state, Args(simulations=4000), random.Random(0))[state]
        means[state] = node.means[int(np.argmax(node.visits))]
        assert value(state) == (1 if state == fork else 0)
    assert means[fork] > 0.85 > 0.4 > means[play(TTT, 4, 0)]


def test_a_thousand_simulations_never_lose_at_tic_tac_toe():
    """Every line of play against every reply, and so against perfect play, too."""
    ours = decided_once("uct", Args(), seed=1)
    for first, bar in ((True, 0.968), (False, 0.778)):  # what perfect play with random ties wins
        won, _, lost = exact_result(ours, TTT.legal, first)
        assert lost == 0 and won >= bar


def test_perfect_play_has_the_known_results():
    assert exact_result(perfect_moves, perfect_moves, True) == (0, 1, 0)
    assert float(exact_result(perfect_moves, TTT.legal, True)[0]) == pytest.approx(0.968, abs=6e-4)
    assert float(exact_result(perfect_moves, TTT.legal, False)[0]) == pytest.approx(2645 / 3402, abs=1e-9)


# --- a run -----------------------------------------------------------------------------------


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_rows_score_the_games_for_the_search_in_both_orders_and_the_seed_decides_them(tmp_path):
    flags = {"total_episodes": 7, "simulations": 25}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        row = train(Args(run_dir=tmp_path / name, seed=seed, **flags))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    results = [float(game["charts/episodic_return"]) for game in rows(tmp_path / "c")]
    assert row["eval/episodic_return"] == pytest.approx(np.mean(results))
    assert row["eval/episodic_return_error"] == pytest.approx(np.std(results, ddof=1) / 7**0.5)
    assert 7 * 5 <= row["global_step"] <= 7 * 9  # plies
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"args.json", "metrics.csv", "search.png"}


def test_the_opponent_is_who_it_is_said_to_be_and_each_side_has_its_own_search(tmp_path):
    flags = {"total_episodes": 40, "simulations": 60}
    results = {}
    for search, opponent in (("uct", "random"), ("uct", "simple"), ("simple", "uct"), ("uct", "uct")):
        args = Args(run_dir=tmp_path / f"{search}-{opponent}", search=search, opponent=opponent, **flags)
        results[search, opponent] = train(args)["eval/episodic_return"]
    assert results["uct", "random"] > 0.6
    assert abs(results["uct", "uct"]) < 0.45 and results["uct", "random"] > results["uct", "simple"]


@pytest.mark.parametrize(
    "name, bad", [("simulations", 0), ("exploration", -1.0), ("env_id", "chess"), ("exploration", math.nan)]
)
def test_bad_arguments_are_refused(name, bad):
    with pytest.raises(ValueError, match=name):
        Args(**{name: bad})
