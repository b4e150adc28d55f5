"""Q-learning: its update against a plain loop, off-policy learning, the cliff's published returns, the two doors."""

import csv
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

import algos.q_learning
from algos.q_learning import Args, World, epsilon_greedy, evaluate, mean_and_error, train


def test_epsilon_greedy_breaks_ties_at_random_and_explores_with_probability_epsilon():
    q = np.tile([1.0, 3.0, 3.0, -2.0], (100_000, 1))
    for epsilon in (0.0, 0.4):
        shares = np.bincount(epsilon_greedy(q, epsilon, np.random.default_rng(0)), minlength=4) / len(q)
        best, other = (1 - epsilon) / 2 + epsilon / 4, epsilon / 4
        assert shares == pytest.approx([other, best, best, other], abs=0.006)


def test_epsilon_may_differ_from_run_to_run():
    actions = epsilon_greedy(np.tile([0.0, 1.0], (10_000, 1)), np.repeat([0.0, 1.0], 5_000), np.random.default_rng(0))
    assert actions[:5_000].all() and actions[5_000:].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "FrozenLake-v1"])
def test_the_world_is_gymnasiums_table(env_id):
    P, world, rng, n = gym.make(env_id).unwrapped.P, World(env_id), np.random.default_rng(0), 4000
    assert world.shape == (len(P), 4)
    assert set(world.reset(100, rng)) == {gym.make(env_id).reset(seed=0)[0]}
    for s, a in np.ndindex(world.shape):
        counts, expected = {}, {}
        for outcome in zip(*(x.tolist() for x in world.step(np.full(n, s), np.full(n, a), rng)), strict=True):
            counts[outcome] = counts.get(outcome, 0) + 1 / n
        for probability, *outcome in P[s][a]:
            expected[tuple(outcome)] = expected.get(tuple(outcome), 0) + probability
        assert counts == pytest.approx(expected, abs=0.04)


def test_the_update_is_that_of_a_plain_loop(tmp_path, monkeypatch):
    events, step = [], World.step

    def spy(world, states, actions, rng):
        result = step(world, states, actions, rng)
        events.append([*states, *actions, *(x[0].item() for x in result)])
        return result

    monkeypatch.setattr(World, "step", spy)
    monkeypatch.setattr(algos.q_learning, "evaluate", lambda *args: np.zeros(1))
    args = {"num_runs": 1, "total_episodes": 3, "gamma": 0.9, "start_e": 0.5, "end_e": 0.5}
    train(Args(run_dir=tmp_path / "run", **args))

    q = np.zeros((48, 4))
    for s, a, s2, r, terminated in events:
        target = r if terminated else r + 0.9 * max(q[s2])
        q[s, a] += 0.5 * (target - q[s, a])
    assert np.load(tmp_path / "run/model.npz")["q"][0] == pytest.approx(q)
    assert len(events) > 300 and sum(terminated for *_, terminated in events) == 3
    assert all(after[0] == before[2] for before, after in pairwise(events) if not before[4])


def test_epsilon_goes_linearly_from_the_first_episode_to_the_last(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(algos.q_learning, "epsilon_greedy", lambda q, e, rng: seen.append(e) or np.zeros(len(q), int))
    train(Args(run_dir=tmp_path / "run", env_id="doors", num_runs=1, total_episodes=4, start_e=0.8, end_e=0.2))
    assert np.ravel(seen[:4]) == pytest.approx([0.8, 0.6, 0.4, 0.2]) and np.ravel(seen[4:]) == pytest.approx(0)


def test_what_follows_a_termination_does_not_matter(tmp_path, monkeypatch):
    def world_whose_goal_leads_to_the_start(env_id):
        world = World(env_id)
        world.next_states[world.terminations] = 36
        return world

    args = {"num_runs": 3, "total_episodes": 60}
    train(Args(run_dir=tmp_path / "a", **args))
    monkeypatch.setattr(algos.q_learning, "World", world_whose_goal_leads_to_the_start)
    train(Args(run_dir=tmp_path / "b", **args))
    assert (np.load(tmp_path / "a/model.npz")["q"] == np.load(tmp_path / "b/model.npz")["q"]).all()


class Corridor:
    """Every episode terminates after so many steps, each of which costs 1."""

    def __init__(self, length):
        self.length, self.steps = length, 0

    def reset(self, n, rng):
        return np.zeros(n, int)

    def step(self, states, actions, rng):
        self.steps += 1
        return states, -np.ones(len(states)), np.full(len(states), self.steps == self.length)


def test_greedy_policies_are_followed_to_the_end_and_those_in_circles_left_out():
    world, q, rng = World("CliffWalking-v1"), np.zeros((3, 48, 4)), np.random.default_rng(0)
    q[:, 36, 0] = q[:, 24:35, 1] = q[:, 35, 2] = 1  # up, along the cliff, down: 13 steps
    assert evaluate(world, q, rng).tolist() == [-13] * 3
    q[1, 36, 3] = 2  # stays at the start
    assert evaluate(world, q, rng).tolist() == [-13] * 2
    assert evaluate(Corridor(1000), q, rng).tolist() == [-1000] * 3  # the last step that is allowed
    assert not len(evaluate(Corridor(1001), q, rng))


def test_errors_are_over_runs(tmp_path, monkeypatch):
    assert mean_and_error("x", np.array([1.0, 2.0, 6.0])) == {"x": 3.0, "x_se": pytest.approx(7**0.5 / 3**0.5)}
    assert mean_and_error("x", np.array([1.0])) == {"x": 1.0, "x_se": None}
    assert mean_and_error("x", np.array([])) == {"x": None, "x_se": None}
    seen = []
    monkeypatch.setattr(
        algos.q_learning, "mean_and_error", lambda name, x: seen.append((name, x.copy())) or {name: 0.0}
    )
    train(Args(run_dir=tmp_path / "run", num_runs=3, total_episodes=120))
    episodes = np.stack([x for name, x in seen if name == "charts/episodic_return"], axis=1)
    last_100 = [x for name, x in seen if name == "charts/episodic_return_100"]
    assert last_100[119] == pytest.approx(episodes[:, 20:].mean(axis=1))  # of each run, not of 300 episodes


def test_the_cliff(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", num_runs=60))
    assert -52.6 < row["charts/episodic_return_100"] < -48.2  # published: -50.6
    assert row["eval/episodic_return"] == -13 and row["eval/share_ended"] == 1  # the shortest path, in every run
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def test_a_policy_that_falls_off_the_cliff_teaches_the_shortest_path(tmp_path):
    args = {"num_runs": 10, "total_episodes": 150, "start_e": 0.5, "end_e": 0.5, "learning_rate": 1.0}
    row = train(Args(run_dir=tmp_path / "run", **args))
    assert row["charts/episodic_return_100"] < -500 and row["eval/episodic_return"] == -13


@pytest.mark.parametrize("start, end, low, high", [(0, 0, 1.5, 2.2), (0.1, 0.1, 8.0, 9.5), (1, 0, 8.9, 10)])
def test_two_doors(start, end, low, high, tmp_path):
    """Without exploration ten of eleven runs stay with the first door: (10 * 1 + 10) / 11 = 1.82 on average."""
    args = {"env_id": "doors", "num_runs": 1000, "learning_rate": 0.02}
    row = train(Args(run_dir=tmp_path / "run", start_e=start, end_e=end, **args))
    assert low < row["charts/episodic_return_100"] < high


def test_no_run_learns_from_more_episodes_than_it_was_asked_for(tmp_path, monkeypatch):
    steps, step, episodes, reset = [], World.step, [], World.reset
    monkeypatch.setattr(World, "step", lambda *args: steps.append(len(args[1])) or step(*args))
    monkeypatch.setattr(World, "reset", lambda world, n, rng: episodes.append(n) or reset(world, n, rng))
    monkeypatch.setattr(algos.q_learning, "evaluate", lambda *args: np.zeros(1))
    row = train(Args(run_dir=tmp_path / "run", num_runs=5, total_episodes=7))
    assert episodes == [5] * 7
    assert row["global_step"] == sum(steps)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, num_runs=3, total_episodes=5, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 5


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "transition table"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"num_runs": 0}, "num_runs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"start_e": 1.5}, "start_e"),
        ({"gamma": float("nan")}, "gamma"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
