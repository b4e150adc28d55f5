"""Hill climbing: each trial against the post's loop in plain Python, the fractions against an independent measurement.

The policy gradient that benchmarks/ sets beside it: its gradient in the closed form of a linear softmax.
"""

import csv
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import hill_climbing
from algos.hill_climbing import Args, act, make_envs, search, train
from benchmarks.policy_gradient_post import loss, networks, values
from benchmarks.policy_gradient_post import search as policy_gradient
from benchmarks.wide_cartpole import register


class Hill(gym.vector.VectorEnv):
    """Episodes whose return falls with the distance of the weights to a summit, plus noise; keeps what was tried."""

    def __init__(self, n, std):
        self.num_envs, self.std, self.rng = n, std, np.random.default_rng(0)
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
            rewards[i] = 50 - round(10 * math.dist(self.weights[i], (1.5, -1.5))) + round(self.std * self.rng.normal())
            self.tried[i].append((self.weights[i], rewards[i]))
        self.over = over
        return np.zeros((self.num_envs, 2)), rewards, over, np.zeros(self.num_envs, bool), {}


@pytest.mark.parametrize("std", [0, 5])
@pytest.mark.parametrize("episodes_per_update", [1, 3])
@pytest.mark.parametrize("noise_growth", [0, 0.05])
def test_a_trial_is_the_posts_loop(std, episodes_per_update, noise_growth, monkeypatch):
    """The best weights follow from what was tried and its returns; the candidates lie around them."""
    envs = Hill(30, std)
    monkeypatch.setattr(hill_climbing, "act", envs.act)
    flags = {"noise": 0.2, "noise_growth": noise_growth, "episodes_per_update": episodes_per_update}
    args = Args(num_runs=70, num_envs=30, max_episodes=60, max_episode_steps=49, **flags)
    episodes, solved, weights, _ = search(envs, args, np.random.default_rng(0))
    furthest = 0
    for i in range(30):  # the first trial of each environment
        tried, best, best_total, failures = envs.tried[i][: episodes[i]], None, -math.inf, 0
        for k in range(0, len(tried), episodes_per_update):
            group = tried[k : k + episodes_per_update]
            candidate, returns = group[0][0], [episodic_return for _, episodic_return in group]
            assert all((candidate == other).all() for other, _ in group)  # the same weights in all of its episodes
            if best is not None:
                distance = abs(candidate - best).max()
                assert 0 < distance <= 0.2 + noise_growth * failures + 1e-9
                furthest = max(furthest, distance / 0.2)
            success = max(returns) >= 49
            assert not success or (k + len(group) == len(tried) and returns[-1] >= 49)  # over with that episode
            if success or (len(group) == episodes_per_update and sum(returns) > best_total):
                best, best_total, failures = candidate, sum(returns), 0
            else:
                failures += 1
        assert solved[i] == success and (success or len(tried) == 60)
        assert (weights[i] == best).all()
    assert (furthest > 1.2) == (noise_growth > 0)
    assert len(solved) == 70 and solved.sum() > 0


def test_the_first_candidate_of_each_trial_is_its_start_and_noise(monkeypatch):
    envs = Hill(500, 0)
    monkeypatch.setattr(hill_climbing, "act", envs.act)
    args = Args(num_runs=2000, num_envs=500, max_episodes=1, noise=0.5, max_episode_steps=100)
    _, _, weights, steps = search(envs, args, np.random.default_rng(0))
    assert 1.2 < abs(weights).max() <= 1.5 and weights.var(axis=0) == pytest.approx(1 / 3 + 0.25 / 3, abs=0.04)
    assert abs(steps / 2000 - 1 / 0.6) < 0.1  # resets are not counted


def test_more_than_half_of_the_trials_are_stuck():
    """2,000 trials of the post's loop in plain Python were solved by 22 % and 27 % within 20 and 50 episodes."""
    args = Args(num_runs=1000, max_episodes=50)
    episodes, solved, weights, _ = search(make_envs(args), args, np.random.default_rng(0))
    for limit, share in ((20, 0.22), (50, 0.27)):
        found = (solved & (episodes <= limit)).mean()
        assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) * (1 / 1000 + 1 / 2000)))
    assert abs(weights[~solved]).max() < 1 + 50 * 0.1 and (episodes[~solved] == 50).all()


def test_growing_noise_frees_the_stuck():
    args = Args(num_runs=100, num_envs=100, max_episodes=150, noise_growth=0.1)
    assert search(make_envs(args), args, np.random.default_rng(0))[1].mean() > 0.9


def test_the_sign_of_the_weighted_sum_decides():
    weights, obs = np.random.default_rng(0).normal(size=(2, 50, 4))
    assert act(weights, obs).tolist() == [int(w @ o >= 0) for w, o in zip(weights, obs, strict=True)]


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number_and_a_run_leaves_its_folder(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(num_runs=50, num_envs=20, max_episodes=20, seed=seed, run_dir=tmp_path / name))
    a, b, c = (rows(tmp_path / name) for name in "abc")
    assert a == b != c and a[-1]["global_step"] == "20"
    shares = [float(row["charts/share_solved"]) for row in a]
    assert shares[0] > 0 and shares == sorted(shares) and shares[-1] < 0.6
    solved = np.diff(np.round(50 * np.array(shares)), prepend=0).astype(int)  # trials by their episodes
    took = np.repeat([int(row["global_step"]) for row in a], solved)
    assert float(a[-1]["charts/episodes_to_solve"]) == pytest.approx(took.mean())
    assert float(a[-1]["charts/episodes_to_solve_se"]) == pytest.approx(took.std(ddof=1) / len(took) ** 0.5)
    assert 80 < float(a[-1]["eval/episodic_return"]) <= 200
    names = {"args.json", "metrics.csv", "weights.npy", "curve.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"noise": 0.0}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"noise_growth": -0.1}, "noise_growth"),
        ({"episodes_per_update": 0}, "episodes_per_update"),
        ({"num_runs": 0}, "num_runs"),
        ({"env_id": "Acrobot-v1"}, "--env-id"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(flags, words, tmp_path):
    with pytest.raises(ValueError, match=words):  # UsageError, or pydantic's ValidationError
        train(Args(**flags, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_posts_policy_gradient():
    """Two trials of five and of three steps: score times advantage for the policy, the error for the value network."""
    rng = np.random.default_rng(0)
    net = networks(2, 4, rng)
    obs = torch.tensor(rng.normal(size=(2, 5, 4)), dtype=torch.float32)
    actions, mask = torch.tensor(rng.integers(2, size=(2, 5))), torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2])
    loss(net, obs, actions, mask.clone(), mask, 0.9).backward()
    for i, length in enumerate((5, 3)):
        policy, bias, expected = net["policy"][i].detach().numpy(), 0.0, np.zeros((4, 2))
        for t in range(length):
            o, value = obs[i, t].numpy(), float(values(net, obs)[i, t].detach())
            advantage = sum(0.9**k for k in range(length - t)) - value
            pi = np.exp(o @ policy) / np.exp(o @ policy).sum()
            expected -= advantage * np.outer(o, np.eye(2)[actions[i, t]] - pi)
            bias -= advantage
        assert net["policy"].grad[i].numpy() == pytest.approx(expected, abs=1e-4)
        assert net["b2"].grad[i].item() == pytest.approx(bias, abs=1e-4)


def test_the_policy_gradient_improves_on_a_wide_pole():
    args = Args(env_id=register(6), max_episode_steps=60, num_runs=10, num_envs=10, max_episodes=100)
    episodes, solved, weights, steps = policy_gradient(make_envs(args), args, np.random.default_rng(0))
    assert weights.shape == (10, 6) and solved.mean() > 0.7 and (episodes[~solved] == 100).all()
    assert 15 < steps / episodes.sum() < 60
