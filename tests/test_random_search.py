"""Random search: the policy and the search against the post's loop, the number of episodes against its distribution."""

import csv

import gymnasium as gym
import numpy as np
import pytest

from algos import random_search
from algos.random_search import Args, act, evaluate, make_envs, search, train


def test_the_sign_of_the_weighted_sum_decides():
    weights, obs = np.random.default_rng(0).normal(size=(2, 50, 4))
    assert act(weights, obs).tolist() == [int(w @ o >= 0) for w, o in zip(weights, obs, strict=True)]
    assert act(np.zeros((1, 4)), np.ones((1, 4))).tolist() == [1]  # the post: left if the sum is less than 0


class Coin(gym.vector.VectorEnv):
    """Episodes of random lengths whose return is 1 if the first weight is positive; keeps what was tried."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, n, score):
        self.num_envs, self.score, self.rng = n, score, np.random.default_rng(0)
        self.single_observation_space = gym.spaces.Box(-1, 1, (2,))
        self.over, self.tried, self.weights = np.zeros(n, bool), [[] for _ in range(n)], None

    def act(self, weights, obs):  # in place of the script's, to see the weights
        self.weights = weights.copy()
        return np.zeros(len(weights), int)

    def reset(self, **options):
        return np.zeros((self.num_envs, 2)), {}

    def step(self, actions):
        over = ~self.over & (self.rng.random(self.num_envs) < 0.6)
        rewards = np.where(self.over, 99, 0.0)  # whatever a step after an end pays does not count
        for i in np.flatnonzero(over):
            rewards[i] = self.score(self.weights[i])
            self.tried[i].append((self.weights[i], rewards[i]))
        self.over = over
        return np.zeros((self.num_envs, 2)), rewards, over, np.zeros(self.num_envs, bool), {}


def test_a_trial_is_the_posts_loop(monkeypatch):
    envs = Coin(40, lambda w: float(w[0] > 0.6))
    monkeypatch.setattr(random_search, "act", envs.act)
    episodes, solved, weights, steps = search(envs, Args(max_episodes=6, max_episode_steps=1), np.random.default_rng(1))
    assert episodes.sum() / 0.6 < steps + 40 < episodes.sum() / 0.6 + 80
    for i, tried in enumerate(envs.tried):
        assert len({tuple(w) for w, _ in tried[:6]}) == min(len(tried), episodes[i])  # new weights in each episode
        returns = [episodic_return for _, episodic_return in tried[:6]]
        expected = returns.index(1) + 1 if 1 in returns else 6
        assert (episodes[i], solved[i]) == (expected, 1 in returns)
        assert (weights[i] == tried[expected - 1][0]).all()
    assert 0 < solved.sum() < 40 and ((weights[:, 0] > 0.6) == solved).all()


def test_weights_are_uniform_in_the_cube_and_the_number_of_episodes_is_geometric(monkeypatch):
    envs = Coin(2000, lambda w: float(w[0] > 0.5))
    monkeypatch.setattr(random_search, "act", envs.act)
    episodes, *_ = search(envs, Args(max_episode_steps=1), np.random.default_rng(1))
    tried = np.array([w for trial, k in zip(envs.tried, episodes, strict=True) for w, _ in trial[:k]])
    assert abs(tried).max() <= 1 and abs(tried.mean(axis=0)).max() < 0.04
    assert np.allclose(tried.var(axis=0), 1 / 3, atol=0.02)
    assert abs(episodes.mean() - 4) < 4 * np.sqrt(12 / 2000)  # p = 1/4
    assert abs((episodes == 1).mean() - 1 / 4) < 0.04 and abs((episodes > 4).mean() - 0.75**4) < 0.045


def test_an_episode_of_each_policy_equals_the_one_of_a_single_environment():
    envs, rng = make_envs(Args(num_runs=30)), np.random.default_rng(0)
    weights = rng.uniform(-1, 1, (30, 4))
    returns = evaluate(envs, weights, seed=3)
    obs, _ = envs.reset(seed=3)
    for i in range(30):
        env, total, done = gym.make("CartPole-v1", max_episode_steps=200), 0, False
        env.reset()
        env.unwrapped.state, o = obs[i].astype(float), obs[i]
        while not done:
            o, reward, terminated, truncated, _ = env.step(int(weights[i] @ o >= 0))
            total, done = total + reward, terminated or truncated
        assert abs(total - returns[i]) <= 2  # a sum near 0 may round to either side
    assert len(set(returns)) > 5 and returns.max() <= 200


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_cartpole_takes_thirteen_or_fourteen_episodes_and_a_run_leaves_its_folder(tmp_path):
    """7.4 % of the weights reach 200 steps: 13.6 on average; the post's 1,000 trials took 13.53."""
    row = train(Args(num_runs=2000, run_dir=tmp_path / "run"))
    assert abs(row["charts/episodes_to_solve"] - 13.6) < 1.2 and 0.25 < row["charts/episodes_to_solve_se"] < 0.35
    assert row["charts/share_solved"] == 1 and row["charts/episodes_to_solve_median"] in (9, 10)
    assert 160 < row["eval/episodic_return"] < 190
    shares = [float(row["charts/share_solved"]) for row in rows(tmp_path / "run")]
    assert shares == sorted(shares) and abs(shares[0] - 0.074) < 0.025
    assert np.load(tmp_path / "run/weights.npy").shape == (2000, 4)
    names = {"args.json", "metrics.csv", "weights.npy", "curve.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(num_runs=20, max_episodes=5, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_search_that_finds_nothing(tmp_path):
    row = train(Args(num_runs=2, max_episodes=1, max_episode_steps=10_000, run_dir=tmp_path / "run"))
    assert row["charts/share_solved"] == 0 and row["charts/episodes_to_solve"] is None


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "Pendulum-v1"}, "two actions"),
        ({"env_id": "Acrobot-v1"}, "two actions"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"num_runs": 0}, "num_runs"),
        ({"max_episodes": 0}, "max_episodes"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
