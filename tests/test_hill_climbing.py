"""Hill climbing: every trial against the post's loop in plain Python, its shares against an independent measurement.

And the policy gradient that benchmarks/ sets beside it: its gradient, in the closed form of a linear softmax.
"""

import csv
import math

import numpy as np
import pytest
import torch

from algos.hill_climbing import Args, Lockstep, Trials, UsageError, make_envs, search, train
from benchmarks.policy_gradient_post import PolicyGradientArgs, learn, loss, networks, values
from benchmarks.wide_cartpole import register

CPU = torch.device("cpu")


class Hill:
    """Stands in for Lockstep: an episode's return falls with the distance to the top, in steps, and is noisy."""

    def __init__(self, runs: int, luck: float = 0.0, seed: int = 0):
        self.rng, self.obs, self.luck = np.random.default_rng(seed), torch.zeros(runs, 2), luck
        self.returns, self.lengths = np.zeros(runs), np.ones(runs, dtype=int)
        self.tried = [[] for _ in range(runs)]  # (weights, return) of every episode

    def step(self, weights: torch.Tensor) -> np.ndarray:
        over = np.flatnonzero(self.rng.random(len(self.returns)) < 0.6)
        for i in over:
            w = weights[i].flatten().numpy().copy()
            self.returns[i] = 50 - round(10 * math.dist(w, (1.5, -1.5))) + round(self.luck * self.rng.normal())
            self.tried[i].append((w, self.returns[i]))
        return over


def find(args: Args, world=None, seed: int = 0) -> Trials:
    if world is None:
        envs, _ = make_envs(args)
        world = Lockstep(envs, np.arange(seed, seed + args.num_runs), CPU)
    trials = Trials.start(args, 1, world.obs.shape[1], CPU)
    *_, finished = search(world, trials, args, torch.Generator().manual_seed(seed))
    assert finished == trials.episodes.max() and not trials.searching.any()
    return trials


@pytest.mark.parametrize("luck", [0, 5])
@pytest.mark.parametrize("episodes_per_update", [1, 3])
@pytest.mark.parametrize("noise_growth", [0, 0.05])
def test_every_trial_climbs_as_the_posts_loop_does(luck, episodes_per_update, noise_growth):
    """The best weights follow from what was tried and what it came to; what is tried lies around them."""
    args = Args(num_runs=30, max_episodes=60, noise=0.2, noise_growth=noise_growth, solved_return=49)
    args.episodes_per_update = episodes_per_update
    world = Hill(30, luck)
    trials = find(args, world)
    furthest = 0
    for i, everything in enumerate(world.tried):
        tried = everything[: trials.episodes[i]]
        assert trials.returns[i, : len(tried)].tolist() == [result for _, result in tried]
        best, best_total, failures = None, -math.inf, 0
        for k in range(0, len(tried), episodes_per_update):
            group = tried[k : k + episodes_per_update]
            w, results = group[0][0], [result for _, result in group]
            assert all((w == other).all() for other, _ in group)  # the same weights for all of an update's episodes
            if best is not None:
                noise = 0.2 + noise_growth * failures
                distance = abs(w - best).max()
                assert 0 < distance <= noise + 1e-5
                furthest = max(furthest, distance / 0.2)
            solved = max(results) >= 49
            if solved:
                assert k + len(group) == len(tried) and max(results) == results[-1]  # over with that episode
            if solved or (len(group) == episodes_per_update and sum(results) > best_total):
                best, best_total, failures = w, sum(results), 0
            else:
                failures += 1
        assert trials.solved[i] == solved and (solved or len(tried) == 60)
        assert (trials.weights[i].flatten().numpy() == best).all()
    assert (furthest > 1.2) == (noise_growth > 0)
    assert trials.solved.any()


def test_the_first_weights_are_the_start_and_noise():
    world = Hill(1000)
    find(Args(num_runs=1000, max_episodes=1, noise=0.5, solved_return=100), world)
    first = np.array([tried[0][0] for tried in world.tried])
    assert 1 < abs(first).max() <= 1.5
    assert first.var(axis=0) == pytest.approx(1 / 3 + 0.25 / 3, abs=0.05)


def test_half_of_the_trials_are_stuck():
    """2,000 trials of the post's loop in plain Python were solved by 22 % and 27 % within 20 and 50 episodes."""
    trials = find(Args(num_runs=300, max_episodes=50, solved_return=200.0))
    for episodes, share in ((20, 0.22), (50, 0.27)):
        found = (trials.solved & (trials.episodes <= episodes)).mean()
        assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) * (1 / 300 + 1 / 2000)))
    assert (trials.returns[~trials.solved].max(axis=1) < 12).mean() > 0.3  # most have not moved the pole at all


def test_growing_noise_frees_the_stuck():
    assert find(Args(num_runs=60, max_episodes=150, noise_growth=0.1, solved_return=200.0)).solved.mean() > 0.9


def rows_of(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "charts/SPS" and "time/" not in k} for row in csv.DictReader(file)
        ]


def test_same_seed_same_rows_and_another_seed_other_rows(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(num_runs=20, max_episodes=20, seed=seed, run_dir=tmp_path / name))
    a, b, c = (rows_of(tmp_path / name) for name in "abc")
    assert a == b != c
    found = np.load(tmp_path / "a" / "trials.npz")
    assert int(a[-1]["charts/episode"]) == 20 and float(a[-1]["charts/share_solved"]) == found["solved"].mean() < 1


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"noise": 0.0}, "--noise"),
        ({"noise": math.inf}, "--noise"),
        ({"noise_growth": -0.1}, "--noise-growth"),
        ({"episodes_per_update": 0}, "--episodes-per-update"),
        ({"num_runs": 0}, "--num-runs"),
        ({"env_id": "Pendulum-v1", "solved_return": 0.0}, "needs discrete actions"),
        ({"env_id": "Acrobot-v1"}, "--solved-return"),
    ],
)
def test_a_users_mistake_is_named_before_anything_is_written(flags, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(Args(**{"num_runs": 2, "run_dir": tmp_path / "run"} | flags))
    assert not (tmp_path / "run").exists()


def test_the_posts_policy_gradient():
    """Two trials of five and of three steps: score times advantage for the policy, the error for the value network."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    net = networks(2, 4, 2, generator)
    obs, actions = (
        torch.tensor(rng.normal(size=(2, 5, 4)), dtype=torch.float32),
        torch.tensor(rng.integers(2, size=(2, 5))),
    )
    mask = torch.tensor([[1.0] * 5, [1.0] * 3 + [0.0] * 2])
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


def test_the_policy_gradient_learns_and_wide_poles_are_poles():
    env_id = register(6)
    args = PolicyGradientArgs(num_runs=20, eval_episodes=1)
    settings = Args(env_id=env_id, max_episode_steps=60, solved_return=100.0, num_runs=20, max_episodes=150)
    trials, _, _ = learn(args, settings)
    assert trials.weights.shape == (20, 2, 6) and not trials.solved.any()
    assert trials.returns[:, -10:].mean() > 1.7 * trials.returns[:, :10].mean()
