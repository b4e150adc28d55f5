"""Dyna-Q: its tables, its updates and its planners against enumeration and linear solves, its training as a whole."""

import csv
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos.dyna_q import (
    DYNA_MAZE,
    Args,
    UsageError,
    act,
    draw,
    imagine,
    plan,
    play_greedily,
    positions,
    tabulate,
    td_update,
    train,
    transition_table,
    value_iteration,
)

CLOCKS = {"charts/SPS", "time/elapsed"}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loop_table():
    """Two states, two actions: chances of 1/4 and 3/4, a reward below zero, an end."""
    outcomes = {
        0: {0: [(0.25, 0, -1.0, False), (0.75, 1, 2.0, False)], 1: [(1.0, 1, 0.0, True)]},
        1: {0: [(0.5, 0, 1.0, False), (0.5, 1, 1.0, True)], 1: [(1.0, 0, 0.5, False)]},
    }
    return tabulate(outcomes, [1.0, 0.0])


# --- tables ----------------------------------------------------------------------------------


def walk(cell, action):
    """A move in the maze's text, on its own: where it leads, and whether that is the goal."""
    maze = DYNA_MAZE.split()
    y, x = (c + d for c, d in zip(cell, [(-1, 0), (0, 1), (1, 0), (0, -1)][action], strict=True))
    if not (0 <= y < 6 and 0 <= x < 9) or maze[y][x] == "#":
        return cell, False
    return (y, x), maze[y][x] == "G"


def test_every_move_in_the_maze_and_its_shortest_way_of_14():
    table = transition_table("DynaMaze")
    assert len(table.cells) == 6 * 9 - 7
    assert table.probs.shape[2] == 1 and (table.probs == 1).all()
    for s, cell in enumerate(table.cells):
        for a in range(4):
            reached, goal = walk(cell, a)
            if cell == (0, 8):  # the goal: the episode is over, nobody moves from here
                continue
            expected = len(table.cells) if goal else table.cells.index(reached)
            assert table.next_states[s, a, 0] == expected and table.rewards[s, a, 0] == goal
    frontier, steps = {table.cells[int(table.start.argmax())]}, 0
    assert frontier == {(2, 0)}
    while not any(goal for cell in frontier for _, goal in [walk(cell, a) for a in range(4)]):
        frontier, steps = {walk(cell, a)[0] for cell in frontier for a in range(4)} | frontier, steps + 1
    assert steps + 1 == 14


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1", "Taxi"])
def test_a_gymnasium_table_holds_what_the_environment_does(env_id):
    table = transition_table(env_id)
    assert torch.allclose(table.probs.sum(-1), torch.ones(()).double()) and torch.isclose(
        table.start.sum(), table.start.sum() * 0 + 1
    )
    env = gym.make(env_id if env_id != "Taxi" else "Taxi-v4")
    assert table.time_limit == env.spec.max_episode_steps
    rng = np.random.default_rng(0)
    state, _ = env.reset(seed=0)
    for _ in range(300):
        assert state in range(len(table.start))
        action = int(rng.integers(table.probs.shape[1]))
        before = state
        state, reward, terminated, truncated, _ = env.step(action)
        after = len(table.start) if terminated else state
        found = (table.next_states[before, action] == after) & (table.rewards[before, action] == reward)
        assert table.probs[before, action][found].sum() > 0
        if terminated or truncated:
            state, _ = env.reset()
    env.close()


def test_equal_outcomes_become_one():
    table = tabulate({0: {0: [(0.25, 0, 1.0, False), (0.25, 0, 1.0, False), (0.5, 0, 1.0, True)]}}, [1.0])
    assert table.probs.tolist() == [[[0.5, 0.5]]] and table.next_states.tolist() == [[[0, 1]]]


# --- chance ----------------------------------------------------------------------------------


def test_draw_follows_the_weights_and_never_takes_a_zero():
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    drawn = draw(weights, 40_000, generator())
    for weight, line in zip(weights, drawn, strict=True):
        share = torch.bincount(line, minlength=5) / len(line)
        assert torch.allclose(share.double(), weight / weight.sum(), atol=0.012)
        assert (share[weight == 0] == 0).all()


def test_act_is_epsilon_greedy_with_ties_broken_at_random():
    q = torch.tensor([2.0, 1.0, 2.0, 0.0], dtype=torch.float64).expand(60_000, 4)
    share = torch.bincount(act(q, 0.2, generator()), minlength=4) / len(q)
    assert torch.allclose(share, torch.tensor([0.45, 0.05, 0.45, 0.05]), atol=0.008)
    assert set(act(q, 0.0, generator()).tolist()) == {0, 2}


# --- updates and the model -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["q-learning", "sarsa"])
def test_an_update_moves_one_value_of_each_run_towards_its_target(method):
    args = Args(method=method, gamma=0.9, epsilon=0.0 if method == "q-learning" else 0.4)
    q = torch.randn(3, 6, 4, dtype=torch.float64, generator=generator())
    q[:, 5] = 0  # the end
    states, actions, nexts = torch.tensor([0, 4, 2]), torch.tensor([3, 0, 1]), torch.tensor([1, 5, 2])
    rewards, step_sizes = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 0.25, 0.0]).double()
    mean, times = torch.zeros_like(q), 1 if method == "q-learning" else 3000
    draws = generator(1)
    for _ in range(times):
        after = q.clone()
        pairs, next_rows = positions(q, states, actions, nexts)
        td_update(after, pairs, rewards, next_rows, step_sizes, args, draws)
        mean += after / times
    for run in range(3):
        expected = q[run].clone()
        s, a, following = states[run], actions[run], q[run, nexts[run]]
        value = following.max() if method == "q-learning" else 0.6 * following.max() + 0.4 * following.mean()
        expected[s, a] = q[run, s, a] + step_sizes[run] * (rewards[run] + 0.9 * value - q[run, s, a])
        assert torch.allclose(mean[run], expected, atol=1e-12 if method == "q-learning" else 0.03)
    assert torch.equal(mean[2], q[2]) or method == "sarsa"  # a step size of 0 changes nothing


def test_only_what_was_tried_is_imagined_states_alike_and_then_actions_alike():
    table = loop_table()
    counts = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    counts[0, 0, 0] = torch.tensor([1.0, 3.0])
    counts[0, 1, 0, 0] = counts[0, 1, 1, 0] = 5
    counts[1, 1, 1, 0] = 1
    states, actions, rewards, next_states = imagine(counts, table, 20_000, generator())
    assert states.shape == actions.shape == rewards.shape == next_states.shape == (20_000, 2)
    found = {}
    for step in zip(
        states[:, 0].tolist(), actions[:, 0].tolist(), rewards[:, 0].tolist(), next_states[:, 0].tolist(), strict=True
    ):
        found[step] = found.get(step, 0) + 1 / 20_000
    expected = {(0, 0, -1.0, 0): 0.125, (0, 0, 2.0, 1): 0.375, (1, 0, 1.0, 0): 0.25, (1, 1, 0.5, 0): 0.25}
    assert found.keys() == expected.keys()
    assert all(abs(found[step] - share) < 0.015 for step, share in expected.items())
    assert (states[:, 1] == 1).all() and (actions[:, 1] == 1).all()


def solve_model(counts, table, gamma, untried=0.0):
    """The counted model's action values by trying every deterministic policy with a linear solve: [S, A].

    A pair that was never tried is worth `untried`.
    """
    counts, num_states, num_actions = counts.numpy(), *counts.shape[:2]
    total = counts.sum(-1)
    best = np.full((num_states, num_actions), -np.inf)
    for choice in np.ndindex(*[num_actions] * num_states):
        transition, gain = np.zeros((num_states, num_states)), np.zeros(num_states)
        for s, a in enumerate(choice):
            gain[s] = 0 if total[s, a] else untried
            for k in np.flatnonzero(counts[s, a]):
                share, after = counts[s, a, k] / total[s, a], int(table.next_states[s, a, k])
                gain[s] += share * float(table.rewards[s, a, k])
                if after < num_states:
                    transition[s, after] += gamma * share
        values = np.append(np.linalg.solve(np.eye(num_states) - transition, gain), 0.0)
        q = np.where(total > 0, 0.0, untried)
        for s, a in np.ndindex(num_states, num_actions):
            for k in np.flatnonzero(counts[s, a]):
                after = int(table.next_states[s, a, k])
                q[s, a] += counts[s, a, k] / total[s, a] * (float(table.rewards[s, a, k]) + gamma * values[after])
        best = np.maximum(best, q)
    return torch.tensor(best)


def random_model(seed):
    """Four states, two actions, three outcomes each, an end, and counts with gaps: a table and counts [1, 4, 2, 3]."""
    rng = np.random.default_rng(seed)
    outcomes = [
        [[(1 / 3, int(s), float(rng.normal()), bool(s == 4)) for s in rng.permutation(5)[:3]] for _ in range(2)]
        for _ in range(4)
    ]
    outcomes = [[[(p, min(s, 3), r, ends) for p, s, r, ends in pair] for pair in state] for state in outcomes]
    counts = torch.tensor(rng.integers(0, 4, size=(1, 4, 2, 3)), dtype=torch.float64)
    counts[0, 1, 0] = 0  # never tried
    return tabulate(outcomes, np.full(4, 0.25)), counts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_iteration_solves_the_counted_model(seed):
    table, counts = random_model(seed)
    q = torch.zeros(1, 5, 2, dtype=torch.float64)
    q[:, :4][counts.sum(-1) == 0] = 0.7  # what is never tried keeps the value it has
    value_iteration(q, counts, table, 0.8, tolerance=1e-12)
    assert torch.allclose(q[0, :4], solve_model(counts[0], table, 0.8, untried=0.7), atol=1e-9)
    assert (q[0, 4] == 0).all() and q[0, 1, 0] == 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planning_to_convergence_is_value_iteration_when_the_model_is_deterministic(seed):
    table, counts = random_model(seed)
    for s, a in np.ndindex(4, 2):  # only one outcome of each pair was ever seen
        seen = (s + a) % 3
        counts[0, s, a, [k for k in range(3) if k != seen]] = 0
    q = torch.zeros(1, 5, 2, dtype=torch.float64)
    args = Args(gamma=0.8, planning_steps=3000)
    plan(q, counts, table, torch.ones(1, dtype=torch.float64), args, generator())
    assert torch.allclose(q[0, :4], solve_model(counts[0], table, 0.8), atol=1e-9)


def test_play_greedily_is_the_expected_return_and_length_of_the_greedy_policy():
    table = loop_table()
    q = torch.zeros(2, 3, 2, dtype=torch.float64)
    q[0, 0, 0] = q[0, 1, 0] = 1  # run 0 takes action 0 in both states; run 1 either, as both tie
    returns, lengths = play_greedily(q, table)
    for run, half in ((0, 0.0), (1, 0.5)):
        stay = np.array([[0.25 * (1 - half), 0.75 * (1 - half)], [0.5 * (1 - half) + half, 0.0]])
        gain = np.array([(1 - half) * (-0.25 + 1.5), (1 - half) * 1.0 + half * 0.5])
        assert np.isclose(returns[run], np.linalg.solve(np.eye(2) - stay, gain)[0])
        assert np.isclose(lengths[run], np.linalg.solve(np.eye(2) - stay, np.ones(2))[0])
    table.time_limit = 1
    assert play_greedily(q, table)[1].tolist() == [1.0, 1.0]


# --- training --------------------------------------------------------------------------------


def plain_q_learning(args):
    """Q-learning run by run in plain Python, with the world's and the policy's streams of the shipped loop."""
    table = transition_table(args.env_id)
    seeds = np.random.SeedSequence(args.seed).generate_state(3, np.uint64).tolist()
    world, policy = (generator(seed) for seed in seeds[:2])
    num_states, num_actions, _ = table.probs.shape

    def uniform(source, *shape):
        return torch.rand(*shape, dtype=torch.float64, generator=source).tolist()

    def pick(weights, u):
        total, cumulated = sum(weights), 0.0
        for index, weight in enumerate(weights):
            cumulated += weight
            if u * total < cumulated:
                return index
        raise AssertionError

    runs = range(args.num_runs)
    q = [[[0.0] * num_actions for _ in range(num_states + 1)] for _ in runs]
    states = [pick(table.start.tolist(), u) for (u,) in uniform(world, args.num_runs, 1)]
    steps, gained, episodes = [0] * args.num_runs, [0.0] * args.num_runs, [[] for _ in runs]
    while min(map(len, episodes)) < args.total_episodes:
        explore, noise = uniform(policy, args.num_runs), uniform(policy, args.num_runs, num_actions)
        chance, starts = uniform(world, args.num_runs, 1), uniform(world, args.num_runs, 1)
        for r in runs:
            values = q[r][states[r]]
            allowed = [a for a in range(num_actions) if explore[r] < args.epsilon or values[a] == max(values)]
            action = min(allowed, key=lambda a: noise[r][a])
            outcome = pick(table.probs[states[r], action].tolist(), chance[r][0])
            reward = table.rewards[states[r], action, outcome].item()
            following = table.next_states[states[r], action, outcome].item()
            if len(episodes[r]) < args.total_episodes:
                target = reward + args.gamma * max(q[r][following])
                values[action] += args.learning_rate * (target - values[action])
            steps[r], gained[r] = steps[r] + 1, gained[r] + reward
            states[r] = following
            if following == num_states or steps[r] == table.time_limit:
                episodes[r].append((gained[r], steps[r]))
                states[r], steps[r], gained[r] = pick(table.start.tolist(), starts[r][0]), 0, 0.0
    return torch.tensor([run[: args.total_episodes] for run in episodes], dtype=torch.float64)


@pytest.mark.parametrize("env_id, episodes", [("DynaMaze", 3), ("FrozenLake-v1", 10), ("Taxi", 2)])
def test_without_planning_it_is_q_learning_row_for_row(env_id, episodes, tmp_path):
    args = Args(env_id=env_id, num_runs=3, total_episodes=episodes, planning_steps=0, run_dir=tmp_path / "run")
    train(args)
    expected = plain_q_learning(args)  # [runs, episodes, 2]
    mean, error = expected.mean(0), expected.std(0) / 3**0.5
    for e, row in enumerate(rows(tmp_path / "run")):
        for i, name in enumerate(["charts/episodic_return", "charts/episodic_length"]):
            assert float(row[name]) == pytest.approx(mean[e, i].item())
            assert float(row[name + "_error"]) == pytest.approx(error[e, i].item())
        assert int(row["global_step"]) == expected[:, : e + 1, 1].sum()
        assert float(row["charts/reward_so_far"]) == pytest.approx(expected[:, : e + 1, 0].sum(1).mean().item())


def test_the_counted_model_converges_to_the_table(tmp_path, monkeypatch):
    kept = []

    def spy(q, counts, *rest):
        kept[:] = [counts]

    monkeypatch.setattr("algos.dyna_q.plan", spy)
    args = Args(env_id="FrozenLake-v1", num_runs=50, total_episodes=100, epsilon=1.0, run_dir=tmp_path / "run")
    row = train(args)
    table, counts = transition_table("FrozenLake-v1"), kept[0].sum(0)
    assert counts.sum() == row["global_step"]  # every real step was counted once
    total = counts.sum(-1, keepdim=True)
    often = total.squeeze(-1) > 500
    assert often.sum() >= 16
    spread = (table.probs * (1 - table.probs) / total).sqrt()
    assert ((counts / total - table.probs).abs() <= 5 * spread)[often].all()
    assert (counts[table.probs == 0] == 0).all()


def test_the_more_it_plans_the_sooner_it_is_through_the_maze(tmp_path):
    """The book's experiment: the mean of 30 runs falls below 20 steps at episode 7 and 3 for n = 5, 50."""
    below = {}
    for n, episodes, num_runs in ((5, 10, 30), (50, 4, 4)):
        train(Args(planning_steps=n, total_episodes=episodes, num_runs=num_runs, run_dir=tmp_path / str(n)))
        first, *others = rows(tmp_path / str(n))
        # With all values at 0 the first episode is a random walk: 868.7 steps by a linear solve of the maze.
        length, error = float(first["charts/episodic_length"]), float(first["charts/episodic_length_error"])
        assert abs(length - 868.7) < 3.5 * error
        below[n] = next(e for e, row in enumerate(others, 2) if float(row["charts/episodic_length"]) < 20)
    assert 5 <= below[5] <= 8 and below[50] in (3, 4)


def test_the_model_based_learner_needs_one_reward_and_finds_the_shortest_way(tmp_path):
    row = train(Args(planner="value-iteration", num_runs=8, total_episodes=12, run_dir=tmp_path / "run"))
    assert float(rows(tmp_path / "run")[2]["charts/episodic_length"]) < 22
    assert row["eval/best_length"] == pytest.approx(14) and row["eval/episodic_length"] < 16
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "dyna.png"}


def test_the_seed_decides_every_number(tmp_path):
    options = {"env_id": "FrozenLake-v1", "num_runs": 4, "total_episodes": 6, "planning_steps": 3, "method": "sarsa"}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **options))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 6


def test_what_a_run_learns_after_its_last_episode_does_not_count(tmp_path, monkeypatch):
    tables = []
    monkeypatch.setattr("algos.dyna_q.draw_picture", lambda run, returns, lengths, best, q, table: tables.append(q))
    for look_every in (1, 200):  # the longer between two looks, the longer the runs go on
        monkeypatch.setattr("algos.dyna_q.LOOK_EVERY", look_every)
        options = {"env_id": "CliffWalking-v1", "num_runs": 2, "total_episodes": 2, "planning_steps": 2}
        train(Args(**options, run_dir=tmp_path / str(look_every)))
    assert torch.equal(*tables) and tables[0].any()
    assert rows(tmp_path / "1") == rows(tmp_path / "200")


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    train(Args(run_dir=tmp_path, num_runs=2, total_episodes=1, planning_steps=0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(run_dir=tmp_path, num_runs=2, total_episodes=1, planning_steps=0, seed=2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "no transition table"),
        ({"env_id": "Blackjack-v1"}, "no transition table"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "--env-id"),
        ({"num_runs": 0}, "--num-runs"),
        ({"total_episodes": 0}, "--total-episodes"),
        ({"planning_steps": -1}, "--planning-steps"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"epsilon": 1.5}, "--epsilon"),
        ({"gamma": 1.0}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_world_without_an_end_is_refused(monkeypatch):
    class Endless(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(1)
        P = {0: {0: [(1.0, 0, 1.0, False)]}}  # noqa: RUF012
        initial_state_distrib = np.ones(1)

    gym.register("Endless-v0", entry_point=Endless)
    with pytest.raises(UsageError, match="no episode would end"):
        transition_table("Endless-v0")
    del gym.registry["Endless-v0"]


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "algos/dyna_q.py", "--env-id", "CartPole-v1", "--run-dir", tmp_path / "x"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr
