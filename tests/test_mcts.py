"""Monte-Carlo tree search: boards against naive ones, averages against exact values, play against every line of it."""

import csv
import itertools
import math
import random
import subprocess
import sys
from dataclasses import replace
from functools import cache

import gymnasium as gym
import numpy as np
import pytest

from algos.mcts import (
    GAMES,
    Args,
    Board,
    CopiedEnv,
    Node,
    Table,
    UsageError,
    count_model,
    four_leaves,
    make_model,
    make_world,
    maze,
    perfect_moves,
    play_game,
    search,
    simple_search,
    train,
    tree_search,
)
from benchmarks.exact_maze import best_actions, measure
from benchmarks.exact_tictactoe import decided_once, exact_result


def make_board(game: str, seed: int = 0) -> Board:
    return Board(*GAMES[game], random.Random(seed))


# --- the boards, against boards of plain lists -----------------------------------------------


class NaiveBoard:
    """cells[row from the top][column], "" or a player's name."""

    def __init__(self, game: str):
        self.width, self.height, self.line, self.falling = GAMES[game]
        self.cells = [[""] * self.width for _ in range(self.height)]

    def actions(self) -> list[int]:
        if self.falling:
            return [x for x in range(self.width) if not self.cells[0][x]]
        return [i for i in range(self.width * self.height) if not self.cells[i // self.width][i % self.width]]

    def put(self, action: int, player: str) -> bool:
        """Whether that wins."""
        if self.falling:
            row, column = max(y for y in range(self.height) if not self.cells[y][action]), action
        else:
            row, column = divmod(action, self.width)
        self.cells[row][column] = player
        return any(
            all(self.at(y + i * dy, x + i * dx) == player for i in range(self.line))
            for y, x in itertools.product(range(self.height), range(self.width))
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))
        )

    def at(self, y: int, x: int) -> str:
        return self.cells[y][x] if 0 <= y < self.height and 0 <= x < self.width else "outside"


@pytest.mark.parametrize("game", GAMES)
def test_a_board_of_bits_equals_one_of_lists_move_by_move(game):
    rng, ends = random.Random(1), []
    for _ in range(150):
        board, naive = make_board(game), NaiveBoard(game)
        state, done, player = board.start(), False, "X"
        while not done:
            assert board.actions(state) == naive.actions()
            action = rng.choice(naive.actions())
            wins = naive.put(action, player)
            assert board.next_states(state, action) == [board.step(state, action)[0]]
            state, reward, done = board.step(state, action)
            assert (reward, done) == (float(wins), wins or not naive.actions())
            player = "O" if player == "X" else "X"
            assert board.text(state) == "\n".join("".join(cell or "." for cell in row) for row in naive.cells)
        ends.append(reward)
    assert 0.0 in ends or game == "connect-four"
    assert 1.0 in ends


@cache
def random_value(state: tuple[int, int]) -> float:
    """Tic-tac-toe between two random players: the exact mean result of the one to move."""
    board, total = make_board("tic-tac-toe"), 0.0
    for action in board.actions(state):
        next_state, reward, done = board.step(state, action)
        total += reward if done else -random_value(next_state)
    return total / len(board.actions(state))


def test_random_play_has_the_known_mean_and_rollouts_agree():
    assert random_value((0, 0)) == pytest.approx(0.5849 - 0.2881, abs=1e-4)  # by enumeration of all games
    board, n = make_board("tic-tac-toe"), 20_000
    for state in ((0, 0), (0b1, 0b10000)):
        mean = sum(board.rollout(state, 99) for _ in range(n)) / n
        assert abs(mean - random_value(state)) < 4 / n**0.5


def test_connect_four_at_random_is_won_by_the_first_as_often_as_is_known():
    board, n = make_board("connect-four"), 4000
    results = [board.rollout((0, 0), 99) for _ in range(n)]
    assert abs(results.count(1.0) / n - 0.554) < 4 * 0.5 / n**0.5
    assert abs(results.count(-1.0) / n - 0.443) < 4 * 0.5 / n**0.5


# --- the other models ------------------------------------------------------------------------


def world_and_model(env_id: str, **flags):
    args = Args(env_id=env_id, **flags)
    _, world, limit = make_world(args, random.Random(1))
    return world, make_model(world, limit, args, random.Random(2))


def test_a_table_draws_its_outcomes_as_often_as_it_says():
    _, model = world_and_model("FrozenLake-v1")
    counts = {}
    for _ in range(6000):
        outcome = model.step(14, 2)  # beside the goal: it slips to either side
        counts[outcome] = counts.get(outcome, 0) + 1
    assert counts.keys() == {(10, 0.0, False), (14, 0.0, False), (15, 1.0, True)}
    assert all(abs(n / 6000 - 1 / 3) < 4 * 0.47 / 6000**0.5 for n in counts.values())
    assert sorted(model.next_states(14, 2)) == [10, 14, 15]


def test_the_shortest_way_through_the_maze_is_known():
    world = maze(1.0, random.Random(0))
    reached, border, steps = {world.start()}, [world.start()], 0
    while "goal" not in reached:
        steps += 1
        after = [world.step(state, action) for state in border for action in world.all_actions]
        border = [state for state, _, done in after if not done and state not in reached]
        reached |= set(border) | ({"goal"} if any(done and reward == 1 for _, reward, done in after) else set())
    assert steps == 14  # Sutton & Barto, figure 8.2


def test_a_copied_environment_leaves_the_real_one_alone_and_does_not_foresee_it():
    world, model = world_and_model("Blackjack-v1")
    seen, real = set(), set()
    for _ in range(40):
        state = world.start()
        before = world.env.unwrapped.player.copy()
        for _ in range(5):
            model.begin()
            copied = model.step(state, 1)[0][0] - state[0]
            seen.add(copied)
            assert world.env.unwrapped.player == before
        real.add((world.real_step(state, 1)[0][0] - state[0]) == copied)
    assert len(seen) > 5 and real == {True, False}


def test_a_counted_model_holds_the_shares_of_what_was_seen():
    world, model = world_and_model("FrozenLake-v1", model_steps=30_000)
    assert isinstance(model, Table) and model.all_actions == world.all_actions
    assert model.outcomes.keys() <= world.outcomes.keys()
    for action in range(4):  # the start: every episode begins there
        true = {}
        for p, *outcome in world.outcomes[0, action]:
            true[tuple(outcome)] = true.get(tuple(outcome), 0) + p
        counted = {tuple(outcome): p for p, *outcome in model.outcomes[0, action]}
        assert counted.keys() == true.keys() and sum(counted.values()) == pytest.approx(1)
        assert all(abs(counted[outcome] - true[outcome]) < 0.06 for outcome in true)
    assert model.step("never seen", 1) == ("never seen", 0.0, False)


def test_a_model_of_a_maze_becomes_exact_and_is_counted_from_real_steps_only():
    world = maze(0.9, random.Random(1))
    real_steps = []
    world.real_step = lambda state, action: real_steps.append(state) or Table.real_step(world, state, action)
    model = count_model(world, 5000, 100, random.Random(2))
    assert len(real_steps) == 5000 and model.discount == 0.9
    assert all(listed == world.outcomes[pair] for pair, listed in model.outcomes.items())
    assert len(model.outcomes) > 50


# --- the search ------------------------------------------------------------------------------


def test_untried_actions_come_first_each_once_and_in_any_order():
    rng, orders = random.Random(0), {}
    for _ in range(6000):
        node = Node([5, 6, 7])
        for k in range(3):
            assert node.choose(1.0, rng.random) == k
            node.update(k, 0.0, 0.0)
        assert sorted(node.actions) == [5, 6, 7]
        orders[tuple(node.actions)] = orders.get(tuple(node.actions), 0) + 1
    assert len(orders) == 6 and all(abs(n - 1000) < 4 * (6000 * 5 / 36) ** 0.5 for n in orders.values())


@pytest.mark.parametrize("exploration", [0.0, 0.5, 2.0])
def test_choices_are_those_of_ucb1_on_a_bandit(exploration):
    rng, node, payoffs = random.Random(3), Node([0, 1, 2, 3]), random.Random(4)
    returns = {action: [] for action in range(4)}
    for t in range(300):
        i = node.choose(exploration, rng.random)
        action = node.actions[i]
        if t >= 4:  # another derivation, from all the returns
            bounds = {
                a: np.mean(seen) + exploration * math.sqrt(math.log(t + 1) / len(seen)) for a, seen in returns.items()
            }
            assert bounds[action] == pytest.approx(max(bounds.values()))
        payoff = float(payoffs.random() < 0.2 + 0.2 * action)
        returns[action].append(payoff)
        node.update(i, payoff, 0.0)
    for i, action in enumerate(node.actions):
        assert node.visits[i] == len(returns[action])
        assert node.means[i] == pytest.approx(np.mean(returns[action]))


def test_every_simulation_counts_once_and_adds_at_most_one_state():
    board, args = make_board("tic-tac-toe"), Args(simulations=500)
    tree = tree_search(board, board.start(), args)
    assert sum(tree[board.start()].visits) == 500
    assert 1 < len(tree) <= 501
    for state, node in tree.items():
        assert sorted(node.actions) == board.actions(state)
        # what went through here goes on below, all but the rollout of the simulation that has added the state
        assert all(-1 <= mean <= 1 for mean in node.means)
    ways_in, ways_out = {}, {state: sum(node.visits) for state, node in tree.items()}
    for state, node in tree.items():
        for action, visits in zip(node.actions, node.visits, strict=False):
            (below,) = board.next_states(state, action)
            ways_in[below] = ways_in.get(below, 0) + visits
    for state in tree.keys() - {board.start()}:
        assert ways_out[state] == ways_in[state] - 1


@pytest.mark.parametrize("exploration", [0.0, 0.5])
def test_a_simulation_that_comes_back_to_a_state_does_not_walk_in_circles(exploration):
    """Every pair of a state and an action counts at most once in a simulation, in a maze full of ways back."""
    world = maze(0.95, random.Random(0))
    tree = tree_search(world, (2, 0), Args(simulations=150, exploration=exploration))
    assert sum(tree[2, 0].visits) == 150
    assert all(sum(node.visits) == node.total <= 150 for node in tree.values()) and len(tree) > 3


def test_search_finds_shortest_ways_in_the_maze_more_often_than_chance():
    world = maze(0.95, random.Random(0))
    best, state, steps = best_actions(world), (2, 0), 0
    while state in best:
        state, steps = world.step(state, min(best[state]))[0], steps + 1
    assert steps == 14 and len(best) == 46
    row = measure(Args(simulations=100, exploration=0.05), 1)
    assert row["maze/right_by_chance"] == pytest.approx(sum(map(len, best.values())) / 4 / 46)
    assert row["maze/right"] > row["maze/right_by_chance"] + 0.15  # twice its standard error


def chain(rewards: list[float], gamma: float) -> Table:
    """One action per state: 0, 1, 2, ... to the end."""
    last = len(rewards) - 1
    return Table({(s, 0): [(1.0, s + 1, r, s == last)] for s, r in enumerate(rewards)}, [], gamma, random.Random(0))


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_td_search_moves_its_averages_towards_the_lambda_return(td_lambda):
    gamma, rate, drawn, luck = 0.9, 0.3, [], random.Random(5)
    world = chain([0.0] * 4, gamma)

    def step(state, action):  # rewards that are never twice the same, or averages would equal their targets
        drawn.append(luck.gauss(0, 1))
        return state + 1, drawn[-1], state == 3

    world.step = step
    args = Args(search="td", td_lambda=td_lambda, learning_rate=rate, simulations=9, gamma=gamma)
    tree = tree_search(world, 0, args)
    q, n = {}, {}
    for simulation in range(9):
        rewards = drawn[4 * simulation : 4 * simulation + 4]
        in_tree = min(simulation + 1, 4)  # the root at first, then one state more each time
        target = sum(gamma**k * r for k, r in enumerate(rewards[in_tree:]))  # a rollout goes the same way
        for s in reversed(range(in_tree)):
            if s == in_tree - 1:
                target = rewards[s] + gamma * target
            else:
                target = rewards[s] + gamma * ((1 - td_lambda) * q[s + 1] + td_lambda * target)
            n[s] = n.get(s, 0) + 1
            q[s] = q.get(s, 0.0) + max(rate, 1 / n[s]) * (target - q.get(s, 0.0))
    for s in range(4):
        assert tree[s].means[0] == pytest.approx(q[s])
        assert tree[s].visits[0] == n[s]


def test_a_change_is_learned_by_td_search_and_averaged_by_tree_search():
    node, forgetful = Node([0]), Node([0])
    for target in [0.0] * 50 + [1.0] * 50:
        for each, rate in ((node, 0.0), (forgetful, 0.1)):
            each.choose(1.0, random.random)
            each.update(0, target, rate)
    assert node.means[0] == pytest.approx(0.5)
    assert forgetful.means[0] == pytest.approx(1 - 0.9**50)


def test_what_is_good_for_one_player_is_bad_for_the_other():
    board = make_board("tic-tac-toe")
    state = (0, 0)
    for action in (0, 3, 1, 4):  # X to move wins at 2, or else O at 5
        state, _, _ = board.step(state, action)
    for kind in ("tree", "td", "simple"):
        action, tree = search(board, state, Args(search=kind, simulations=400))
        means = dict(zip(tree[state].actions, tree[state].means, strict=True))
        assert action == 2 and means[2] == 1.0
        assert means[8] < 0.2


def test_simple_search_averages_random_play():
    board, n = make_board("tic-tac-toe"), 18_000
    tree = simple_search(board, board.start(), Args(search="simple", simulations=n))
    (node,) = tree.values()
    assert node.visits == [n // 9] * 9
    for action, mean in zip(node.actions, node.means, strict=True):
        exact = -random_value(board.step(board.start(), action)[0])
        assert abs(mean - exact) < 4 / (n // 9) ** 0.5


def test_simple_search_knows_the_first_step_only_and_the_tree_search_both():
    model = four_leaves(1.0, random.Random(1))
    simple = simple_search(model, "S", Args(search="simple", simulations=1000))
    assert list(simple) == ["S"]
    averages = dict(zip(simple["S"].actions, simple["S"].means, strict=True))
    assert averages == {0: pytest.approx(0.25, abs=0.05), 1: pytest.approx(0.5, abs=0.08)}
    tree = tree_search(model, "S", Args(simulations=1000))
    d = tree["D"]
    assert dict(zip(d.actions, d.means, strict=True)) == {0: 0.0, 1: 1.0}
    assert tree["S"].means[tree["S"].actions.index(1)] > 0.9


def test_the_rule_of_the_post_is_greedy_once_all_was_tried_and_can_be_stuck():
    stuck = 0
    for seed in range(200):
        model = four_leaves(1.0, random.Random(seed))
        action, tree = search(model, "S", Args(simulations=100, exploration=0.0))
        stuck += action == 0
        assert min(tree["S"].visits) == 1 or max(tree["S"].visits) < 100
    # it is lost when D's only trial goes left and C's average stays above 0: what follows is decided by two coins
    assert 0.3 < stuck / 200 < 0.7
    for seed in range(20):
        model = four_leaves(1.0, random.Random(seed))
        assert search(model, "S", Args(simulations=100, exploration=1.4))[0] == 1


def test_a_simulation_ends_after_max_depth_steps():
    world = maze(1.0, random.Random(0))
    steps = []
    world.step = lambda state, action: steps.append(state) or Table.step(world, state, action)
    for kind in ("simple", "tree"):
        steps.clear()
        search(world, (2, 0), Args(search=kind, simulations=10, max_depth=7))
        assert len(steps) == 70  # the goal is 14 steps away


# --- playing ---------------------------------------------------------------------------------


def test_perfect_play_has_the_known_results():
    board = make_board("tic-tac-toe")
    perfect = perfect_moves(board)
    assert exact_result(board, perfect, perfect, True) == (0, 1, 0)
    won, _, lost = exact_result(board, perfect, board.actions, True)
    assert float(won) == pytest.approx(0.968, abs=6e-4) and lost == 0
    won, _, lost = exact_result(board, perfect, board.actions, False)
    assert float(won) == pytest.approx(0.778, abs=6e-4) and lost == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_simulations_never_lose_at_tic_tac_toe_and_beat_random_more_often_than_perfect_play(seed):
    """Every line of play, all replies in it. 96.8 % and 77.8 % are what perfect play with random ties wins."""
    board = make_board("tic-tac-toe", seed)
    ours = decided_once(Args(), board)
    for first, bar in ((True, 0.968), (False, 0.778)):
        won, _, lost = exact_result(board, ours, board.actions, first)
        assert lost == 0
        assert won >= bar


def test_a_game_is_scored_for_the_first_player():
    board = make_board("tic-tac-toe")

    def follow(*moves):
        rest = iter(moves)
        return lambda state: next(rest)

    assert play_game(board, follow(0, 1, 2), follow(3, 4)) == (1.0, 5)
    assert play_game(board, follow(0, 1, 8), follow(3, 4, 5)) == (-1.0, 6)
    assert play_game(board, follow(0, 1, 5, 6, 8), follow(2, 3, 4, 7)) == (0.0, 9)


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of numbers: the pictures take longer than the games."""
    monkeypatch.setattr(train.__globals__["Run"], "plot", lambda run, metric: None)
    monkeypatch.setitem(train.__globals__, "draw_tree", lambda *pictured: None)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("flags", [{}, {"model_steps": 300}, {"search": "td"}])
def test_the_search_finds_its_way_with_the_true_model_and_with_a_counted_one(flags, tmp_path):
    args = Args(env_id="four-leaves", simulations=100, total_episodes=10, **flags)
    row = train(replace(args, run_dir=tmp_path / "run"))
    assert row["charts/mean_return"] == 1 and row["charts/mean_length"] == 2


# --- a run -----------------------------------------------------------------------------------


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "charts/SPS"))} for row in rows]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("env_id", ["tic-tac-toe", "Blackjack-v1"])
def test_the_seed_decides_every_number(env_id, tmp_path):
    flags = {"env_id": env_id, "total_episodes": 6, "simulations": 20, "opponent": "random"}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **flags))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 6


def test_rows_count_steps_and_keep_the_two_orders_apart(tmp_path):
    row = train(Args(total_episodes=9, simulations=60, opponent="perfect", run_dir=tmp_path))
    written = rows(tmp_path)
    assert row["global_step"] == sum(float(each["charts/episodic_length"]) for each in written)
    results = [float(each["charts/episodic_return"]) for each in written]
    assert row["charts/mean_return"] == pytest.approx(np.mean(results))
    assert row["charts/standard_error"] == pytest.approx(np.std(results, ddof=1) / 3)
    assert row["charts/losses_first"] == results[::2].count(-1) / 5
    assert row["charts/losses_second"] == results[1::2].count(-1) / 4
    assert max(results) <= 0  # nobody beats it
    assert {"tree.png", "curve.png", "args.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.usefixtures("no_pictures")
def test_the_opponent_is_who_it_is_said_to_be(tmp_path):
    scores = {}
    for opponent in ("random", "uct", "perfect"):
        flags = {"total_episodes": 30, "simulations": 10, "opponent": opponent, "opponent_simulations": 200}
        scores[opponent] = train(Args(**flags, run_dir=tmp_path / opponent))["charts/mean_return"]
    assert scores["random"] > 0.4
    assert scores["uct"] < 0.1 and scores["perfect"] <= 0


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "CartPole-v1"}, "discrete observations"),
        ({"env_id": "Pendulum-v1"}, "discrete observations"),
        ({"opponent": "perfect", "env_id": "connect-four"}, "--opponent perfect"),
        ({"opponent": "uct", "env_id": "FrozenLake-v1"}, "--opponent uct"),
        ({"model_steps": 10}, "--model-steps"),
        ({"simulations": 0}, "--simulations"),
        ({"exploration": float("nan")}, "--exploration"),
        ({"gamma": 1.5}, "--gamma"),
        ({"td_lambda": -0.1}, "--td-lambda"),
        ({"learning_rate": 2.0}, "--learning-rate"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/mcts.py", "--env-id", "NoSuchEnv-v0", "--run-dir", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr


def test_a_copied_environment_keeps_the_numbers_of_its_actions():
    class Shifted(gym.Wrapper):
        action_space = gym.spaces.Discrete(2, start=3)

    assert CopiedEnv(Shifted(gym.make("Blackjack-v1")), 1.0, random.Random(0)).all_actions == [3, 4]
