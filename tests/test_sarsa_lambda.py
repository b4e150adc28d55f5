"""Traces against the list of visits that they stand for, Monte Carlo against mean returns, the book's worlds."""

import csv
import math
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete

import algos.sarsa_lambda
from algos.sarsa_lambda import Args, WindyGridworld, epsilon_greedy, mean_and_error, play, train
from benchmarks.blackjack import solve


class RandomWorld(gym.Env):
    """Random transitions between few states, so that states come again; keeps what happened."""

    observation_space, action_space = Discrete(4), Discrete(3)

    def __init__(self, ends_after: int = 30, truncates_after: int = 1000):
        self.ends_after, self.truncates_after = ends_after, truncates_after
        self.rng, self.steps = np.random.default_rng(0), []

    def reset(self, seed=None, options=None):
        self.state = 0
        return 0, {}

    def step(self, action):
        next_state, reward = int(self.rng.integers(4)), float(self.rng.normal())
        terminated = len(self.steps) + 1 == self.ends_after
        self.steps.append((self.state, action, reward, next_state, terminated))
        self.state = next_state
        return next_state, reward, terminated, len(self.steps) >= self.truncates_after, {}


def replay(steps, choices, args, learning_rate):
    """Q after an episode, with every visit on a list instead of traces. choices: the action chosen after each step."""
    q, visits, count = np.zeros((4, 3)), [], np.zeros((4, 3))  # a visit: [state, action, step size, time]
    for t, ((s, a, r, s2, terminated), a2) in enumerate(zip(steps, choices, strict=True)):
        value = max(q[s2]) if args.watkins else q[s2, a2]
        delta, greedy = r + args.gamma * (0 if terminated else value) - q[s, a], q[s2, a2] == max(q[s2])
        count[s, a] += 1
        if args.trace != "accumulating":
            visits = [v for v in visits if v[:2] != [s, a]]
        if args.trace == "clearing":
            visits = [v for v in visits if v[0] != s]
        visits.append([s, a, learning_rate / count[s, a] ** args.learning_rate_power, t])
        for state, action, step_size, time in visits:
            q[state, action] += step_size * (args.gamma * args.trace_lambda) ** (t - time) * delta
        if args.watkins and not greedy:
            visits = []
    return q, count


@pytest.mark.parametrize("trace", ["replacing", "clearing", "accumulating"])
@pytest.mark.parametrize("watkins", [False, True])
@pytest.mark.parametrize("trace_lambda, power", [(0.0, 0.0), (0.8, 0.0), (0.7, 0.5), (1.0, 1.0)])
def test_an_episode_updates_every_earlier_visit(trace, watkins, trace_lambda, power, monkeypatch):
    choices, act = [], epsilon_greedy
    monkeypatch.setattr(algos.sarsa_lambda, "epsilon_greedy", lambda *a: choices.append(act(*a)) or choices[-1])
    env, q, visits = RandomWorld(), np.zeros((4, 3)), np.zeros((4, 3))
    args = Args(trace=trace, watkins=watkins, trace_lambda=trace_lambda, learning_rate_power=power, gamma=0.9)
    total, length, terminated = play(env, q, visits, 0.4, 0.3, args, np.random.default_rng(1))
    expected, count = replay(env.steps, choices[1:], args, 0.3)
    assert q == pytest.approx(expected) and visits.tolist() == count.tolist()
    assert total == pytest.approx(sum(r for _, _, r, *_ in env.steps)) and length == len(env.steps) == 30
    assert [a for _, a, *_ in env.steps] == choices[:-1]  # the action in the target is the one taken
    assert terminated == env.steps[-1][-1]


@pytest.mark.parametrize("env, max_steps", [(RandomWorld(truncates_after=8), 100), (RandomWorld(), 8)])
def test_an_episode_that_is_cut_off_bootstraps(env, max_steps, monkeypatch):
    monkeypatch.setattr(algos.sarsa_lambda, "MAX_STEPS", max_steps)
    q, args = np.full((4, 3), 2.0), Args(trace_lambda=0)
    *_, length, terminated = play(env, q, np.zeros((4, 3)), 0, 1.0, args, np.random.default_rng(0))
    s, a, r, s2, _ = env.steps[-1]
    assert length == len(env.steps) == 8 and not terminated and s2 != s
    assert q[s, a] == pytest.approx(r + q[s2].max())


@pytest.mark.parametrize("limit", [14, 15])
def test_an_episode_that_terminates_on_the_last_allowed_step_has_ended(limit, monkeypatch):
    monkeypatch.setattr(algos.sarsa_lambda, "MAX_STEPS", limit)
    q, env = np.zeros((70, 4)), WindyGridworld()
    state, _ = env.reset()
    for action in ["URDL".index(letter) for letter in "RRRRRRRRRDDDDLL"]:  # the shortest path
        q[state, action] = 1
        state, *_, terminated, _, _ = env.step(action)
    assert terminated
    assert play(env, q, np.zeros_like(q), 0.0, 0.0, Args(), np.random.default_rng(0)) == (-limit, limit, limit == 15)


def test_lambda_1_with_sample_averages_is_monte_carlo_control():
    """In Blackjack no hand comes twice in an episode, so first and every visits are the same."""
    env, rng, args = gym.make("Blackjack-v1").unwrapped, np.random.default_rng(0), Args(trace_lambda=1)
    args.learning_rate_power, shape = 1.0, (32, 11, 2, 2)
    q, visits, sums, hands = np.zeros(shape), np.zeros(shape), np.zeros(shape), []
    step = env.step
    env.step = lambda action: hands.append((*env._get_obs(), action)) or step(action)
    env.reset(seed=0)
    for _ in range(1000):
        hands.clear()
        total, *_ = play(env, q, visits, 0.1, 1.0, args, rng)
        for hand in hands:
            sums[tuple(map(int, hand))] += total
    assert visits.sum() > 1000
    assert q == pytest.approx(sums / np.maximum(visits, 1))


def test_the_shortest_path_through_the_wind_takes_fifteen_steps():
    frontier, seen, steps = {(3, 0)}, set(), 0
    while (3, 7) not in frontier:
        seen, steps, following = seen | frontier, steps + 1, set()
        for (row, column), action in product(frontier, range(4)):
            env = WindyGridworld()
            env.row, env.column = row, column
            state, reward, terminated, truncated, _ = env.step(action)
            following.add(divmod(state, 10))
            assert reward == -1 and terminated == (divmod(state, 10) == (3, 7)) and not truncated
        frontier = following - seen
    assert steps == 15 and WindyGridworld().reset()[0] == 30


def test_the_policy_explores_and_breaks_ties_at_random():
    q, rng = np.array([1.0, 3.0, 3.0, -2.0]), np.random.default_rng(0)
    shares = np.bincount([epsilon_greedy(q, 0.4, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert shares == pytest.approx([0.1, 0.4, 0.4, 0.1], abs=0.015)


def test_errors_are_over_runs(monkeypatch, tmp_path):
    assert mean_and_error("x", np.array([1.0, 2.0, 6.0])) == {"x": 3.0, "x_se": pytest.approx(7**0.5 / 3**0.5)}
    calls, episodes = (
        [],
        [(1.0, 1, True), (3.0, 1, True), (5.0, 1, True), (3.0, 1, True), (5.0, 1, True), (7.0, 1, True)],
    )
    returns = iter([*episodes, (1.0, 9, False), (3.0, 1, True), (7.0, 1, True)])
    monkeypatch.setattr(algos.sarsa_lambda, "play", lambda *args: calls.append(args[3:5]) or next(returns))
    row = train(Args(num_runs=3, total_episodes=2, run_dir=tmp_path / "run"))
    assert (row["charts/episodic_return"], row["charts/episodic_return_100"]) == (5.0, 4.0)
    assert row["charts/episodic_return_100_se"] == pytest.approx(2 / 3**0.5)  # of three runs, not of six episodes
    assert (row["eval/episodic_return"], row["eval/episodic_return_se"]) == (5.0, 2.0)  # an endless one has no return
    assert row["eval/share_ended"] == pytest.approx(2 / 3)
    assert calls == [(0.1, 0.2)] * 6 + [(0.0, 0.0)] * 3  # the greedy policy, which does not learn


@pytest.mark.parametrize("watkins, online, greedy", [(False, (-45, -23), -17.5), (True, (-60, -25), -16.2)])
def test_the_cliff(watkins, online, greedy, tmp_path):
    row = train(Args(run_dir=tmp_path / "run", num_runs=5, total_episodes=200, watkins=watkins))
    assert online[0] < row["charts/episodic_return_100"] < online[1]
    assert row["eval/episodic_return"] == pytest.approx(greedy, abs=1.3)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def test_monte_carlo_control_learns_to_play_blackjack(tmp_path):
    args = {"trace_lambda": 1.0, "learning_rate": 1.0, "learning_rate_power": 0.9}
    args |= {"env_id": "Blackjack-v1", "num_runs": 1, "total_episodes": 20_000}
    row = train(Args(run_dir=tmp_path / "run", **args))
    q = np.load(tmp_path / "run/model.npz")["q"][0]
    value, _ = solve(q[..., 1] > q[..., 0])
    assert -0.09 < value < -0.0465  # the optimum is -0.0466
    assert row["charts/episode"] == 20_000 and len(rows(tmp_path / "run")) == 20_000


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, env_id="Blackjack-v1", num_runs=2, total_episodes=20, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "discrete observations"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"num_runs": 0}, "num_runs"),
        ({"trace_lambda": 1.1}, "trace_lambda"),
        ({"trace": "dutch"}, "trace"),
        ({"learning_rate": math.inf}, "learning_rate"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
