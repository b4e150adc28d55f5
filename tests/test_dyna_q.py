"""Dyna-Q: moves, updates and planning against enumeration, search and a linear solve; training to Figure 8.2."""

import csv
import random

import numpy as np
import pytest

from algos.dyna_q import CELLS, MAZE, MOVES, START, Args, evaluate, greedy, move, play_episode, train, update


def empty_table():
    return {state: [0.0] * 4 for state in CELLS}


def distances():
    """Steps to G from every cell, by breadth-first search from G on the drawing itself."""
    goal, found = (0, 8), {(0, 8): 0}
    frontier = [goal]
    for i, j in frontier:
        for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            inside = 0 <= cell[0] < 6 and 0 <= cell[1] < 9
            if inside and MAZE[cell[0]][cell[1]] != "#" and cell not in found:
                found[cell] = found[i, j] + 1
                frontier.append(cell)
    return found


def test_the_maze_is_the_book_s():
    assert START == (2, 0) and len(CELLS) == 6 * 9 - 7
    assert distances()[START] == 14
    assert [move((2, 1), action)[0] for action in range(4)] == [(1, 1), (2, 1), (3, 1), (2, 0)]  # a wall on the right
    assert [move((5, 0), action)[0] for action in range(4)] == [(4, 0), (5, 1), (5, 0), (5, 0)]  # a corner
    assert move((1, 8), 0) == ((0, 8), 1.0, True) and move((1, 8), 2) == ((2, 8), 0.0, False)


def test_an_update_moves_one_value_towards_reward_plus_discounted_best_next_value():
    q, args = empty_table(), Args(learning_rate=0.25, gamma=0.9)
    q[2, 0], q[3, 0] = [1.0, 2.0, 3.0, 4.0], [-1.0, 5.0, 2.0, 0.0]
    update(q, (2, 0), 2, 0.5, (3, 0), args)
    assert q[2, 0] == [1.0, 2.0, pytest.approx(3 + 0.25 * (0.5 + 0.9 * 5 - 3)), 4.0]
    assert q[3, 0] == [-1.0, 5.0, 2.0, 0.0]


def test_greedy_takes_the_best_and_breaks_ties_evenly():
    rng = random.Random(0)
    drawn = [greedy([2.0, 1.0, 2.0, 0.0], rng) for _ in range(4000)]
    assert set(drawn) == {0, 2} and abs(drawn.count(0) - 2000) < 4 * 1000**0.5


def one_step_episodes(monkeypatch):
    """Every episode ends after its first step."""
    monkeypatch.setattr("algos.dyna_q.move", lambda state, action: (*move(state, action)[:2], True))


def test_planning_replays_visited_states_alike_and_then_their_actions_alike(monkeypatch):
    one_step_episodes(monkeypatch)
    q, replayed = empty_table(), []
    q[2, 0][1] = 1.0  # the real step goes to the right, which the model knows already
    model = {(2, 0): {1: (0.0, (2, 1))}, (1, 8): {0: (1.0, (0, 8)), 2: (0.0, (2, 8))}}
    monkeypatch.setattr("algos.dyna_q.update", lambda q, *transition: replayed.append(transition[:4]))
    play_episode(q, model, Args(planning_steps=8000, epsilon=0), random.Random(0))
    expected = {((2, 0), 1, 0.0, (2, 1)): 4000, ((1, 8), 0, 1.0, (0, 8)): 2000, ((1, 8), 2, 0.0, (2, 8)): 2000}
    assert len(replayed) == 8001 and set(replayed) == set(expected)
    assert all(abs(replayed.count(transition) - n) < 4 * 45 for transition, n in expected.items())


def test_planning_in_the_full_model_converges_to_the_discounted_shortest_paths(monkeypatch):
    one_step_episodes(monkeypatch)
    model, q = {}, empty_table()
    for state in CELLS:
        if state != (0, 8):
            moves = {action: move(state, action) for action in range(4)}
            model[state] = {action: (reward, next_state) for action, (next_state, reward, _) in moves.items()}
    play_episode(q, model, Args(planning_steps=60_000, learning_rate=1.0, gamma=0.9), random.Random(0))
    for state, steps in distances().items():
        assert max(q[state]) == pytest.approx(0.9 ** (steps - 1) if steps else 0, abs=1e-9)
    monkeypatch.undo()
    assert [evaluate(q, random.Random(seed)) for seed in range(5)] == [14] * 5
    assert evaluate(empty_table(), random.Random(0), limit=3) == 3


def test_an_episode_stores_and_learns_from_every_real_step():
    q, model, visited = empty_table(), {}, []
    args, rng = Args(planning_steps=0, epsilon=0.3), random.Random(3)
    steps = play_episode(q, model, args, rng)
    for state, actions in model.items():
        for action, (reward, next_state) in actions.items():
            visited.append(state)
            assert move(state, action)[:2] == (next_state, reward)
    assert steps >= 14 and (1, 8) in model and (0, 8) not in model
    assert sum(value > 0 for values in q.values() for value in values) == 1  # one reward, no planning: one value
    assert q[0, 8] == [0.0] * 4 and q[1, 8][0] == pytest.approx(args.learning_rate)


def test_the_first_episode_is_a_random_walk_whose_length_a_linear_solve_gives():
    states = [cell for cell in CELLS if cell != (0, 8)]
    walk = np.zeros((len(states), len(states)))
    for row, state in enumerate(states):
        for action in range(len(MOVES)):
            next_state, _, terminated = move(state, action)
            if not terminated:
                walk[row, states.index(next_state)] += 1 / len(MOVES)
    expected = np.linalg.solve(np.eye(len(states)) - walk, np.ones(len(states)))[states.index(START)]
    rng, args = random.Random(0), Args(planning_steps=0)
    lengths = [play_episode(empty_table(), {}, args, rng) for _ in range(400)]
    assert abs(np.mean(lengths) - expected) < 4 * np.std(lengths) / len(lengths) ** 0.5
    assert expected == pytest.approx(868.7, abs=0.05)


def test_epsilon_is_the_probability_of_a_random_action():
    q = empty_table()
    for state, steps in distances().items():  # optimal values, ties kept exact
        for action in range(4):
            q[state][action] = -distances()[move(state, action)[0]] if steps else 0.0
    frozen = {"planning_steps": 0, "learning_rate": 1e-12}
    lengths = [play_episode(q, {}, Args(epsilon=0.0, **frozen), random.Random(seed)) for seed in range(5)]
    assert lengths == [14] * 5
    lengths = [play_episode(q, {}, Args(epsilon=0.1, **frozen), random.Random(seed)) for seed in range(300)]
    assert 15.3 < np.mean(lengths) < 17.3  # 16.4 +- .15 by 3,000 episodes


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("n, runs, first, last", [(0, 30, 25, 31), (5, 20, 5, 9), (50, 6, 3, 4)])
def test_fewer_than_20_steps_from_the_episode_of_figure_8_2(n, runs, first, last, tmp_path):
    row = train(Args(planning_steps=n, num_runs=runs, total_episodes=32 if n == 0 else 12, run_dir=tmp_path / "run"))
    lengths = [float(row["charts/episodic_length"]) for row in rows(tmp_path / "run")]
    below = next(episode for episode, length in enumerate(lengths, 1) if length < 20)
    assert first <= below <= last
    assert 14 <= row["eval/episodic_length"] < 20
    q = np.load(tmp_path / "run/model.npz")["q"]
    assert q.shape == (runs, 47, 4) and 0 < q.max() <= 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def test_rows_hold_mean_and_standard_error_over_runs_and_the_seed_decides_them(tmp_path, monkeypatch):
    flags = {"num_runs": 4, "total_episodes": 3, "planning_steps": 2}
    lengths, play, models = [], play_episode, {}

    def recorded(*args):
        lengths.append(play(*args))
        models[id(args[1])] = args[1]
        return lengths[-1]

    monkeypatch.setattr("algos.dyna_q.play_episode", recorded)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **flags))
    assert len(models) == 3 * 4, "every run has a model of its own"
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    for episode, row in enumerate(rows(tmp_path / "a")):
        runs = lengths[4 * episode : 4 * episode + 4]
        assert float(row["charts/episodic_length"]) == np.mean(runs)
        assert float(row["charts/episodic_length_error"]) == pytest.approx(np.std(runs, ddof=1) / 2)
        assert int(row["global_step"]) == sum(lengths[: 4 * episode + 4])


def test_bad_arguments_are_refused():
    for name, value in [("num_runs", 1), ("gamma", 1.0), ("epsilon", 1.5), ("planning_steps", -1)]:
        with pytest.raises(ValueError, match=name):
            Args(**{name: value})
