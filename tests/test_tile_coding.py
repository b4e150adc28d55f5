"""Tiles against counting, the update against a dense gradient, mountain car."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import algos.tile_coding
from algos.tile_coding import Args, TileCoder, greedy, mean_and_error, play, train

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 4.0])


def test_every_tiling_has_one_active_tile_whose_width_is_a_part_of_the_range():
    tiles, tiling_size = TileCoder(LOW, HIGH, num_tilings=4, num_tiles=5), 36
    assert tiles.num_features == 4 * tiling_size
    for obs in np.random.default_rng(0).uniform(LOW - 3, HIGH + 3, size=(500, 2)):
        active = tiles(obs)
        assert (active // tiling_size).tolist() == [0, 1, 2, 3]
        assert (active == tiles(obs.clip(LOW, HIGH))).all()  # outside the box the nearest tiles
    line = np.array([tiles(np.array([x, 1.0])) for x in np.linspace(-1, 1, 20_001)])
    for t in range(4):
        changes = np.flatnonzero(np.diff(line[:, t])) / 10_000 - 1
        assert changes == pytest.approx((np.arange(1, 6) - t / 4) * 0.4 - 1, abs=1e-3)


def test_tilings_are_offset_by_one_and_three_parts_of_a_tile():
    tiles = TileCoder(np.zeros(2), np.full(2, 8.0), num_tilings=8, num_tiles=8)  # tiles of width 1
    for t in range(8):
        x, y = (1 - t / 8) % 1, (1 - 3 * t / 8) % 1  # the first borders inside the box
        for axis, border in ((0, x), (1, y)):
            below, above = np.full(2, 0.01), np.full(2, 0.01)
            below[axis], above[axis] = border - 0.001, border + 0.001
            assert border == 0 or tiles(below)[t] != tiles(above)[t]


def test_different_corners_share_no_tile_and_neighbours_share_most():
    tiles = TileCoder(LOW, HIGH, num_tilings=8, num_tiles=8)
    corners = [tiles(np.array([x, y])) for x in (-1, 1) for y in (0, 4)]
    assert len(np.unique(corners)) == 32 and tiles.num_features > max(map(max, corners))
    near = set(tiles(np.array([0.01, 2.03]))) & set(tiles(np.array([0.02, 2.04])))
    assert len(near) >= 6


class RandomWorld(gym.Env):
    """Random observations and rewards; keeps what happened."""

    observation_space, action_space = Box(LOW, HIGH, dtype=np.float64), Discrete(3)

    def __init__(self, terminates: bool):
        self.rng, self.terminates, self.steps = np.random.default_rng(0), terminates, []

    def reset(self, seed=None, options=None):
        self.obs, self.steps = np.array([0.0, 1.0]), []
        return self.obs, {}

    def step(self, action):
        next_obs, reward = self.rng.uniform(LOW / 4, HIGH / 4), float(self.rng.normal())
        over = len(self.steps) == 24
        self.steps.append((self.obs, action, reward, next_obs, over and self.terminates))
        self.obs = next_obs
        return next_obs, reward, over and self.terminates, over, {}  # Gymnasium's TimeLimit truncates then, too


@pytest.mark.parametrize("trace", ["replacing", "clearing", "accumulating"])
@pytest.mark.parametrize("terminates", [False, True])
def test_the_update_is_semi_gradient_sarsa_with_a_trace_for_every_weight(trace, terminates, monkeypatch):
    choices, explore = [], np.random.default_rng(2)
    monkeypatch.setattr(algos.tile_coding, "greedy", lambda *a: choices.append(int(explore.integers(3))) or choices[-1])
    env, tiles = RandomWorld(terminates), TileCoder(LOW, HIGH, 4, 3)
    args = Args(trace=trace, num_tilings=4, gamma=0.9, trace_lambda=0.7)
    weights = np.zeros((tiles.num_features, 3))
    total, length, ended = play(env, tiles, weights, 0.3, args, np.random.default_rng(1))

    def x(obs, action):  # the binary features of an observation and an action
        features = np.zeros_like(w)
        features[tiles(obs), action] = 1
        return features

    w, z = np.zeros_like(weights), np.zeros_like(weights)
    for (obs, a, reward, next_obs, terminated), a2 in zip(env.steps, choices[1:], strict=True):
        target = reward + (0 if terminated else 0.9 * (w * x(next_obs, a2)).sum())
        delta, visited = target - (w * x(obs, a)).sum(), x(obs, a)
        z *= 0.9 * 0.7
        if trace == "accumulating":
            z += visited
        else:
            z[visited == 1] = 1
        if trace == "clearing":
            z[sum(x(obs, b) for b in range(3) if b != a) == 1] = 0
        w += 0.3 / 4 * delta * z
    assert weights == pytest.approx(w) and length == 25 and ended == terminates
    assert total == pytest.approx(sum(reward for _, _, reward, *_ in env.steps))
    assert [a for _, a, *_ in env.steps] == choices[:-1]  # the action in the target is the one taken


def test_without_a_learning_rate_it_plays_the_greedy_policy():
    env, tiles = RandomWorld(terminates=True), TileCoder(LOW, HIGH, 4, 3)
    weights = np.random.default_rng(2).normal(size=(tiles.num_features, 3))
    before = weights.copy()
    play(env, tiles, weights, 0.0, Args(num_tilings=4), np.random.default_rng(0))
    assert (weights == before).all()
    assert all(a == weights[tiles(obs)].sum(axis=0).argmax() for obs, a, *_ in env.steps)


def test_the_policy_breaks_ties_at_random():
    q, rng = np.array([1.0, 3.0, 3.0, -2.0]), np.random.default_rng(0)
    shares = np.bincount([greedy(q, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert shares == pytest.approx([0, 0.5, 0.5, 0], abs=0.015)


def test_errors_are_over_runs(monkeypatch, tmp_path):
    assert mean_and_error("x", np.array([1.0, 2.0, 6.0])) == {"x": 3.0, "x_se": pytest.approx(7**0.5 / 3**0.5)}
    calls = []

    def played(env, tiles, weights, learning_rate, *_):
        """Ten greedy episodes of each run have the returns 0 to 9 and more, by run; every second one terminates."""
        calls.append(learning_rate)
        k = len(calls) - 3
        return (float(k % 10 + 100 * (k // 10)), 1, k % 2 == 0) if k > 0 else (7.0, 1, True)

    monkeypatch.setattr(algos.tile_coding, "play", played)
    row = train(Args(run_dir=tmp_path / "run", num_runs=3, total_episodes=1))
    assert calls == [0.5] * 3 + [0.0] * 30
    assert row["eval/share_ended"] == 0.5 and row["global_step"] == 3
    means = [np.mean([(k % 10 + 100 * (k // 10)) for k in range(first, first + 10)]) for first in (1, 11, 21)]
    assert row["eval/episodic_return"] == pytest.approx(np.mean(means))
    assert row["eval/episodic_return_se"] == pytest.approx(np.std(means, ddof=1) / 3**0.5)  # of three runs


def test_mountain_car(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", num_runs=3, total_episodes=60))
    assert -160 < row["eval/episodic_return"] < -85 and row["eval/share_ended"] > 0.8
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, num_runs=2, total_episodes=3, seed=seed))
    a, b, c = (np.load(tmp_path / name / "model.npz")["weights"] for name in "abc")
    assert rows(tmp_path / "a") == rows(tmp_path / "b") and (a == b).all() and (a != c).any()
    assert (a[0] != a[1]).any()  # the runs differ


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "bounded"),
        ({"env_id": "MountainCarContinuous-v0"}, "discrete actions"),
        ({"env_id": "FrozenLake-v1"}, "vector of bounded observations"),
        ({"env_id": "Acrobot-v1"}, "--num-tiles"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"max_steps": 0}, "max_steps"),
        ({"trace": "dutch"}, "trace"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
