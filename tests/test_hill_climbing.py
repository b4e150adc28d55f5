"""Hill climbing: each trial against the post's loop in plain Python, the fractions against an independent measurement.

The policy gradient that benchmarks/ sets beside it: its gradient in the closed form of a linear softmax.
"""

import csv
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import hill_climbing, random_search
from algos.hill_climbing import Args, run_episode, train
from benchmarks.policy_gradient_post import loss, networks, values
from benchmarks.policy_gradient_post import search as policy_gradient
from benchmarks.wide_cartpole import widen


@pytest.mark.parametrize("std", [0, 5])
@pytest.mark.parametrize("episodes_per_update", [1, 3])
@pytest.mark.parametrize("noise_growth", [0, 0.05])
def test_a_trial_is_the_posts_loop(std, episodes_per_update, noise_growth, monkeypatch, tmp_path):
    """The best weights follow from what was tried and its returns; the candidates lie around them."""
    calls, world = [], np.random.default_rng(0)

    def hill(weights, max_steps, rng):
        """The return falls with the distance of the weights to a summit, plus noise."""
        distance = np.linalg.norm(weights - (1.5, -1.5), axis=1)
        calls.append((weights.copy(), np.round(50 - 10 * distance + std * world.normal(size=len(weights)))))
        return calls[-1][1]

    monkeypatch.setattr(hill_climbing, "run_episode", hill)
    monkeypatch.setattr(hill_climbing, "OBS_DIM", 2)
    flags = {"noise": 0.2, "noise_growth": noise_growth, "episodes_per_update": episodes_per_update}
    row = train(
        Args(
            num_runs=50, max_episodes=60 * episodes_per_update, max_episode_steps=49, run_dir=tmp_path / "run", **flags
        )
    )
    calls.pop()  # the evaluation
    trials, furthest, saved = dict.fromkeys(range(50)), 0, np.load(tmp_path / "run/weights.npy")
    best, best_total, failures, steps = dict(trials), dict.fromkeys(trials, 0), dict.fromkeys(trials, 0), 0
    for k in range(0, len(calls), episodes_per_update):
        updates = calls[k : k + episodes_per_update]
        assert all((updates[0][0] == weights).all() for weights, _ in updates)  # the same candidates in each episode
        for row_number, i in enumerate(list(trials)):
            candidate, returns = updates[0][0][row_number], [episode[1][row_number] for episode in updates]
            steps += sum(returns)
            if best[i] is not None:
                distance = abs(candidate - best[i]).max()
                assert 0 < distance <= 0.2 + noise_growth * failures[i] + 1e-9
                furthest = max(furthest, distance / 0.2)
            if max(returns) >= 49 or sum(returns) > best_total[i]:
                best[i], best_total[i], failures[i] = candidate, sum(returns), 0
            else:
                failures[i] += 1
            if max(returns) >= 49:
                del trials[i]
    assert len(calls) == 60 * episodes_per_update or not trials
    assert (np.array(list(best.values())) == saved).all()
    assert row["charts/share_solved"] == 1 - len(trials) / 50 > 0
    assert row["charts/steps_per_trial"] == pytest.approx(steps / 50)
    assert (furthest > 1.2) == (noise_growth > 0) and furthest > 0.95


def test_the_first_candidate_of_each_trial_is_its_start_and_noise(monkeypatch, tmp_path):
    monkeypatch.setattr(hill_climbing, "run_episode", lambda weights, max_steps, rng: np.ones(len(weights)))
    train(Args(num_runs=2000, max_episodes=1, noise=0.5, run_dir=tmp_path / "run"))
    weights = np.load(tmp_path / "run/weights.npy")
    assert 1.2 < abs(weights).max() <= 1.5 and weights.var(axis=0) == pytest.approx(1 / 3 + 0.25 / 3, abs=0.04)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_more_than_half_of_the_trials_are_stuck(tmp_path):
    """2,000 trials of the post's loop in plain Python were solved by 22 % and 27 % within 20 and 50 episodes."""
    train(Args(num_runs=1000, max_episodes=50, run_dir=tmp_path / "run"))
    found = {int(row["global_step"]): float(row["charts/share_solved"]) for row in rows(tmp_path / "run")}
    assert list(found) == list(range(1, 51)) and list(found.values()) == sorted(found.values())
    for limit, share in ((20, 0.22), (50, 0.27)):
        assert found[limit] == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) * (1 / 1000 + 1 / 2000)))


def test_growing_noise_frees_the_stuck(tmp_path):
    flags = {"num_runs": 100, "max_episodes": 150, "noise_growth": 0.1}
    assert train(Args(**flags, run_dir=tmp_path / "run"))["charts/share_solved"] > 0.9


def test_an_episode_is_that_of_random_search():
    weights = np.random.default_rng(0).uniform(-1, 1, (50, 4))
    theirs = random_search.run_episode(weights, 200, np.random.default_rng(1))
    assert (run_episode(weights, 200, np.random.default_rng(1)) == theirs).all()


def test_the_seed_decides_every_number_and_a_run_leaves_its_folder(tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(num_runs=50, max_episodes=20, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert 20 < float(re.search(r"return ([\d.]+)", capsys.readouterr().out)[1]) < 120
    names = {"args.json", "metrics.csv", "weights.npy", "curve.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names


@pytest.mark.parametrize(
    "flags",
    [
        {"noise": 0.0},
        {"noise": math.inf},
        {"noise_growth": -0.1},
        {"episodes_per_update": 0},
        {"num_runs": 0},
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(flags, tmp_path):
    with pytest.raises(ValueError, match=next(iter(flags))):
        train(Args(**flags, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_posts_policy_gradient():
    """Two trials of five and of three steps: score times advantage for the policy, the error for the value network."""
    rng = np.random.default_rng(0)
    net = networks(2, 4, rng)
    obs = torch.tensor(rng.normal(size=(2, 5, 4)), dtype=torch.float32)
    actions, mask = torch.tensor(rng.integers(2, size=(2, 5))), torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2])
    loss(net, obs, actions, mask, 0.9).backward()
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


def test_the_policy_gradient_improves_on_a_wide_pole(monkeypatch):
    monkeypatch.setitem(gym.registry, "CartPole-v1", gym.spec("CartPole-v1"))  # restored, like the dimensions
    for module in (hill_climbing, random_search):
        monkeypatch.setattr(module, "OBS_DIM", 4)
    widen(6)
    obs, _ = gym.make_vec("CartPole-v1", num_envs=1000, max_episode_steps=60).reset(seed=0)
    assert obs.shape == (1000, hill_climbing.OBS_DIM) and abs(obs[:, :4]).max() <= 0.05
    assert obs[:, 4:].std() == pytest.approx(0.1, abs=0.01) and abs(obs[:, 4:].mean()) < 0.01
    *_, row = policy_gradient(10, 6, max_episodes=100, limit=60, rng=np.random.default_rng(0))
    assert row["charts/share_solved"] > 0.7 and 500 < row["charts/steps_per_trial"] < 60 * 100
