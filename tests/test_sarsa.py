"""SARSA: its update against a plain loop, its environment against Gymnasium's table, the cliff's published returns."""

import csv
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

import algos.sarsa
from algos.sarsa import Args, UsageError, World, epsilon_greedy, evaluate, mean_and_error, train


def test_epsilon_greedy_breaks_ties_at_random_and_explores_with_probability_epsilon():
    q = np.tile([1.0, 3.0, 3.0, -2.0], (100_000, 1))
    for epsilon in (0.0, 0.4):
        shares = np.bincount(epsilon_greedy(q, epsilon, np.random.default_rng(0)), minlength=4) / len(q)
        best, other = (1 - epsilon) / 2 + epsilon / 4, epsilon / 4
        assert shares == pytest.approx([other, best, best, other], abs=0.006)


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


@pytest.mark.parametrize("expected", [False, True])
def test_the_update_is_that_of_a_plain_loop(expected, tmp_path, monkeypatch):
    events, step, act = [], World.step, epsilon_greedy

    def spy_step(world, states, actions, rng):
        result = step(world, states, actions, rng)
        events.append([*states, *actions, *(x[0].item() for x in result)])
        return result

    def spy_act(q, epsilon, rng):
        actions = act(q, epsilon, rng)
        if events and len(events[-1]) == 5:  # the first choice after a step is the next action
            events[-1].append(actions[0].item())
        return actions

    monkeypatch.setattr(World, "step", spy_step)
    monkeypatch.setattr(algos.sarsa, "epsilon_greedy", spy_act)
    monkeypatch.setattr(algos.sarsa, "evaluate", lambda *args: np.zeros(1))
    args = {"num_runs": 1, "total_episodes": 5, "gamma": 0.9, "epsilon": 0.3}
    train(Args(run_dir=tmp_path / "run", expected=expected, **args))

    q = np.zeros((48, 4))
    for s, a, s2, r, terminated, a2 in events:
        mean = sum((0.3 / 4 + 0.7 * (i == q[s2].argmax())) * q[s2, i] for i in range(4))
        bootstrap = 0 if terminated else mean if expected else q[s2, a2]
        q[s, a] += 0.5 * (r + 0.9 * bootstrap - q[s, a])
    assert np.load(tmp_path / "run/model.npz")["q"][0] == pytest.approx(q)
    assert len(events) > 300 and sum(terminated for *_, terminated, _ in events) == 5
    assert all(after[:2] == [before[2], before[5]] for before, after in pairwise(events) if not before[4])


def test_what_follows_a_termination_does_not_matter(tmp_path, monkeypatch):
    def world_whose_goal_leads_to_the_start(env_id):
        world = World(env_id)
        world.next_states[world.terminations] = 36
        return world

    args = {"num_runs": 3, "total_episodes": 60}
    train(Args(run_dir=tmp_path / "a", **args))
    monkeypatch.setattr(algos.sarsa, "World", world_whose_goal_leads_to_the_start)
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
    monkeypatch.setattr(algos.sarsa, "mean_and_error", lambda name, x: seen.append((name, x.copy())) or {name: 0.0})
    train(Args(run_dir=tmp_path / "run", num_runs=3, total_episodes=120))
    episodes = np.stack([x for name, x in seen if name == "charts/episodic_return"], axis=1)
    last_100 = [x for name, x in seen if name == "charts/episodic_return_100"]
    assert last_100[119] == pytest.approx(episodes[:, 20:].mean(axis=1))  # of each run, not of 300 episodes


@pytest.mark.parametrize("expected, online, greedy", [(False, (-29, -25.5), -17.2), (True, (-21.4, -20.2), -15.0)])
def test_the_cliff(expected, online, greedy, tmp_path):
    row = train(Args(run_dir=tmp_path / "run", num_runs=60, expected=expected))
    assert online[0] < row["charts/episodic_return_100"] < online[1]  # published: -27.9 and -21.0
    assert row["eval/episodic_return"] == pytest.approx(greedy, abs=0.4 if not expected else 0)
    assert 0.6 < row["eval/share_ended"] <= 1 and row["charts/episode"] == 500
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def test_no_run_learns_from_more_episodes_than_it_was_asked_for(tmp_path, monkeypatch):
    steps, step, episodes, reset = [], World.step, [], World.reset
    monkeypatch.setattr(World, "step", lambda *args: steps.append(len(args[1])) or step(*args))
    monkeypatch.setattr(World, "reset", lambda world, n, rng: episodes.append(n) or reset(world, n, rng))
    monkeypatch.setattr(algos.sarsa, "evaluate", lambda *args: np.zeros(1))
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
        ({"epsilon": 1.5}, "epsilon"),
        ({"gamma": float("nan")}, "gamma"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert issubclass(UsageError, ValueError)
