"""TRPO: its maths against dense matrices, quadrature and brute force, its training against what it promises."""

import csv
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributed as dist
from gymnasium.spaces import Discrete
from torch import nn

from algos import trpo
from algos.trpo import (
    CPU,
    Args,
    CategoricalPolicy,
    GaussianPolicy,
    Group,
    LinearValue,
    NetworkValue,
    ObsNormalizer,
    UsageError,
    adapt,
    conjugate_gradient,
    estimate_advantages,
    evaluate,
    fisher_vector_product,
    flatten,
    freeze,
    gae,
    set_parameters,
    train,
    trpo_step,
    unflatten,
)

SMALL = {"num_envs": 4, "group_size": 2, "num_steps": 64, "num_actors": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class SmallGaussian(nn.Module):
    """A linear Gaussian policy, whose Fisher matrix is small and has an inverse; its parameters are scale * theta."""

    fisher, kl, log_prob = map(staticmethod, (GaussianPolicy.fisher, GaussianPolicy.kl, GaussianPolicy.log_prob))
    entropy = staticmethod(GaussianPolicy.entropy)

    def __init__(self, weight, log_std, scale=1.0):
        super().__init__()
        self.scale = scale
        self.weight, self.log_std = nn.Parameter(weight / scale), nn.Parameter(log_std.clone())

    def forward(self, obs):
        mean = obs @ (self.scale * self.weight)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)


class SmallCategorical(nn.Module):
    fisher, kl, log_prob = map(
        staticmethod, (CategoricalPolicy.fisher, CategoricalPolicy.kl, CategoricalPolicy.log_prob)
    )
    entropy = staticmethod(CategoricalPolicy.entropy)

    def __init__(self, obs_dim, num_actions):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim, 4), nn.Tanh(), nn.Linear(4, num_actions))

    def forward(self, obs):
        return self.net(obs)


def policies() -> list:
    torch.manual_seed(0)
    gaussian = GaussianPolicy(3, 2, -0.5, generator()).double()
    gaussian.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return [gaussian, SmallCategorical(3, 3).double()]


def outcomes(policy, params) -> list:
    """Actions and their probabilities such that an expectation of score products over them is exact.

    Enumeration for a softmax; Gauss-Hermite quadrature for a Gaussian, whose scores are quadratic in the action.
    """
    if isinstance(policy, SmallCategorical):
        return [(torch.full((len(params), 1), float(a)), params.softmax(1)[:, a]) for a in range(params.shape[1])]
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    mean, log_std = params.chunk(2, dim=1)
    pairs = itertools.product(range(5), repeat=2)
    return [
        (
            mean + log_std.exp() * torch.tensor([nodes[i], nodes[j]]),
            torch.full((len(params),), weights[i] * weights[j] / weights.sum() ** 2, dtype=torch.float64),
        )
        for i, j in pairs
    ]


# --- distributions ---------------------------------------------------------------------------


def test_distributions_agree_with_torchs():
    torch.manual_seed(1)
    a, b, actions = torch.randn(5, 6), torch.randn(5, 6), torch.randn(5, 3)
    p, q = (torch.distributions.Normal(x[:, :3], x[:, 3:].exp()) for x in (a, b))
    torch.testing.assert_close(GaussianPolicy.log_prob(a, actions), p.log_prob(actions).sum(1))
    torch.testing.assert_close(GaussianPolicy.entropy(a), p.entropy().sum(1))
    torch.testing.assert_close(GaussianPolicy.kl(a, b), torch.distributions.kl_divergence(p, q).sum(1))
    p, q = (torch.distributions.Categorical(logits=x) for x in (a, b))
    chosen = torch.tensor([[0.0], [1], [2], [3], [5]])
    torch.testing.assert_close(CategoricalPolicy.log_prob(a, chosen), p.log_prob(chosen[:, 0]))
    torch.testing.assert_close(CategoricalPolicy.entropy(a), p.entropy())
    torch.testing.assert_close(CategoricalPolicy.kl(a, b), torch.distributions.kl_divergence(p, q))


# --- the natural gradient --------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_fisher_vector_product_is_the_dense_hessian_of_the_kl(index):
    policy, obs = policies()[index], torch.randn(7, 3, dtype=torch.float64)
    theta, old = list(policy.parameters()), policy(obs).detach()
    names = [name for name, _ in policy.named_parameters()]

    def kl(vector):
        params = dict(zip(names, unflatten(vector, theta), strict=True))
        return policy.kl(old, torch.func.functional_call(policy, params, (obs,))).mean()

    hessian = torch.autograd.functional.hessian(kl, flatten(theta).detach())
    product = fisher_vector_product(policy, obs, damping=0.3)
    dense = torch.stack([product(row) for row in torch.eye(len(hessian), dtype=torch.float64)])
    torch.testing.assert_close(dense, hessian + 0.3 * torch.eye(len(hessian), dtype=torch.float64))


@pytest.mark.parametrize("index", [0, 1])
def test_fisher_vector_product_is_the_mean_outer_product_of_scores(index):
    policy, obs = policies()[index], torch.randn(4, 3, dtype=torch.float64)
    theta = list(policy.parameters())
    expected = 0
    for actions, probabilities in outcomes(policy, policy(obs).detach()):
        for row in range(len(obs)):
            score = torch.autograd.grad(policy.log_prob(policy(obs), actions)[row], theta)
            expected += probabilities[row] * torch.outer(flatten(score), flatten(score)) / len(obs)
    product = fisher_vector_product(policy, obs, damping=0.0)
    dense = torch.stack([product(row) for row in torch.eye(len(expected), dtype=torch.float64)])
    torch.testing.assert_close(dense, expected)


def test_conjugate_gradient_solves_a_linear_system():
    root = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=generator(1), dtype=torch.float64)
    expected = torch.tensor(np.linalg.solve(matrix.numpy(), b.numpy()))
    torch.testing.assert_close(conjugate_gradient(lambda v: matrix @ v, b, 6), expected)
    # iterations beyond the solution divide 0 by 0, and must leave it alone
    torch.testing.assert_close(conjugate_gradient(lambda v: 2 * v, b, 10), b / 2)
    assert conjugate_gradient(lambda v: matrix @ v, torch.zeros(6, dtype=torch.float64), 10).tolist() == [0] * 6


def step_of(policy, obs, actions, advantages, max_kl=1e-6, **flags):
    """The change of the parameters in one update with the exact Fisher matrix."""
    before = flatten(policy.parameters()).detach().clone()
    args = Args(cg_damping=0.0, cg_iterations=50, **flags)
    losses = trpo_step(policy, obs, actions, advantages, obs, max_kl, args)
    return flatten(policy.parameters()).detach() - before, losses


def data(n=64, obs_dim=3, seed=0):
    draws = [torch.randn(n, d, generator=generator(seed + d), dtype=torch.float64) for d in (obs_dim, 2, 1)]
    return draws[0], draws[1], draws[2][:, 0]


def test_the_natural_gradient_does_not_depend_on_the_parametrization_and_the_plain_one_does():
    obs, actions, advantages = data()
    weight, log_std = torch.randn(3, 2, generator=generator(5)).double(), torch.tensor([-0.3, 0.2]).double()
    scale = torch.tensor([[1.0, 3.0], [0.2, 1.0], [2.0, 7.0]]).double()
    plain, reparametrized = SmallGaussian(weight, log_std), SmallGaussian(weight, log_std, scale)
    natural, _ = step_of(plain, obs, actions, advantages)
    other, _ = step_of(reparametrized, obs, actions, advantages)
    in_weights = torch.cat([scale.reshape(-1) * other[:6], other[6:]])
    torch.testing.assert_close(in_weights, natural, rtol=1e-5, atol=1e-9)

    def gradient(policy):
        loss = (policy.log_prob(policy(obs), actions) * advantages).mean()
        return flatten(torch.autograd.grad(loss, list(policy.parameters())))

    a, b = gradient(SmallGaussian(weight, log_std)), gradient(SmallGaussian(weight, log_std, scale))
    in_weights = torch.cat([scale.reshape(-1) * b[:6], b[6:]])
    assert torch.cosine_similarity(in_weights, a, dim=0) < 0.9


def test_a_small_step_is_the_damped_solution_and_reaches_the_kl_bound():
    obs, actions, advantages = data()
    policy = SmallGaussian(torch.zeros(3, 2).double(), torch.zeros(2).double())
    theta = list(policy.parameters())
    loss = (policy.log_prob(policy(obs), actions) * advantages).mean()
    g = flatten(torch.autograd.grad(loss, theta))
    product = fisher_vector_product(policy, obs, 0.0)
    fisher = torch.stack([product(row) for row in torch.eye(len(g), dtype=torch.float64)])
    direction = torch.linalg.solve(fisher, g)
    expected = (2e-6 / (direction @ fisher @ direction)).sqrt() * direction
    step, losses = step_of(policy, obs, actions, advantages, line_search=False)
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-12)
    assert losses["losses/kl"].item() == pytest.approx(1e-6, rel=1e-2)
    assert losses["losses/surrogate_gain"].item() == pytest.approx((g @ expected).item(), rel=1e-2)


def test_the_line_search_demands_both_conditions_and_its_failure_changes_no_bit(monkeypatch):
    obs, actions, advantages = data()
    make = lambda: SmallGaussian(torch.zeros(3, 2).double(), torch.zeros(2).double())  # noqa: E731
    # a bound where the quadratic underestimates the KL: without a line search it is broken, with one it is not
    _, losses = step_of(make(), obs, actions, advantages, max_kl=2.0, line_search=False)
    assert losses["losses/kl"] > 2.0 and losses["losses/step_fraction"] == 1
    _, losses = step_of(make(), obs, actions, advantages, max_kl=2.0)
    assert 0 < losses["losses/kl"] <= 2.0 and losses["losses/surrogate_gain"] > 0

    policy = make()
    monkeypatch.setattr(policy, "kl", lambda old, new: torch.full((len(old),), 9.0).double())
    before = [p.detach().clone() for p in policy.parameters()]
    _, losses = step_of(policy, obs, actions, advantages)
    assert losses["losses/step_fraction"] == 0 and losses["losses/kl"] == 0
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before, strict=True))

    policy = make()  # the KL would pass, the surrogate never improves
    log_prob = policy.log_prob
    monkeypatch.setattr(policy, "log_prob", lambda params, a: log_prob(params, a) - 100 * params.detach().abs().sum())
    losses = step_of(policy, obs, actions, advantages.abs())[1]
    assert losses["losses/step_fraction"] == 0
    assert flatten(policy.parameters()).tolist() == [0] * 8


# --- advantages and value functions ----------------------------------------------------------


def test_gae_is_the_sum_it_stands_for():
    rng, (steps, n), gamma, lam = np.random.default_rng(0), (9, 3), 0.9, 0.7
    rewards, values, next_values = (torch.tensor(rng.normal(size=(steps, n))) for _ in range(3))
    terminations, truncations = torch.zeros(steps, n, dtype=torch.bool), torch.zeros(steps, n, dtype=torch.bool)
    terminations[4, 0] = truncations[2, 1] = truncations[6, 1] = terminations[8, 2] = True
    for t in range(steps - 1):  # where nothing ends, the next value is the next state's
        for i in range(n):
            if not (terminations[t, i] or truncations[t, i]):
                next_values[t, i] = values[t + 1, i]
    cuts = terminations | truncations
    result = gae(rewards, values, next_values, terminations.double(), cuts.double(), gamma, lam)
    for t, i in itertools.product(range(steps), range(n)):
        end = next((k for k in range(t, steps) if cuts[k, i]), steps - 1)
        # equation 16 of GAE as the weighted average of k-step advantages (its equation 15)
        k_step, total, discounted = [], 0.0, 0.0
        for k in range(t, end + 1):
            discounted += gamma ** (k - t) * rewards[k, i].item()
            tail = 0.0 if terminations[k, i] else gamma ** (k - t + 1) * next_values[k, i].item()
            k_step.append(discounted + tail - values[t, i].item())
        for j, advantage in enumerate(k_step):
            weight = lam**j if j == len(k_step) - 1 else (1 - lam) * lam**j
            total += weight * advantage
        assert result[t, i].item() == pytest.approx(total, abs=1e-12)


class StubValue:
    """A value that can be told apart everywhere: the sum of the observation."""

    std = torch.tensor(1000.0)  # of the returns so far: the advantages below are some thousandths of it

    def __call__(self, obs, steps=None):
        return obs.sum(-1)


def made_up_batch():
    """One group of two environments over three steps: a truncation at (1, 0), a termination at (0, 1)."""
    obs = np.arange(8, dtype=np.float32).reshape(4, 2, 1) / 10
    flags = np.zeros((2, 3, 2), bool)
    flags[0, 0, 1] = flags[1, 1, 0] = True
    rewards = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    return {
        "obs": obs, "steps": np.zeros((4, 2), np.float32), "rewards": rewards,
        "actions": np.zeros((3, 2, 1), np.float32),
        "terminations": flags[0], "truncations": flags[1], "final_obs": np.array([[0.9]], np.float32),
    }  # fmt: skip


def test_a_truncated_episode_is_bootstrapped_from_its_own_last_state_and_a_terminated_one_is_not():
    args = Args(gamma=0.5, gae_lambda=1.0)
    normalizer = ObsNormalizer(1)
    normalizer.var = np.ones(1) - 1e-8
    batch, earned = estimate_advantages([made_up_batch()], StubValue(), normalizer, args, CPU)
    targets = batch["targets"][0]
    last = 0.5 * torch.tensor([0.6, 0.7])  # the batch's end is bootstrapped, too
    expected = torch.tensor([
        [1 + 0.5 * (3 + 0.5 * 0.9), 2],
        [3 + 0.5 * 0.9, 4 + 0.5 * (6 + last[1])],
        [5 + last[0], 6 + last[1]],
    ])  # fmt: skip
    torch.testing.assert_close(targets, expected)
    standardized = batch["advantages"]
    assert standardized.mean().abs() < 1e-6 and (standardized**2).mean().item() == pytest.approx(1, abs=1e-5)
    raw = batch["targets"] - batch["values"]
    assert earned.item() == pytest.approx(raw.var(correction=0).item() / 10**2, rel=1e-5)  # 10: a hundredth of 1000
    linear, _ = estimate_advantages([made_up_batch()], StubValue(), normalizer, Args(gamma=0.5, value="linear"), CPU)
    assert linear["targets"][0, 1, 0] == 3 and linear["targets"][0, 0, 0] == 2.5  # Monte Carlo, up to the time limit


def test_small_advantages_earn_small_steps(tmp_path, monkeypatch):
    spread = torch.tensor([50.0])
    assert trpo.trust(torch.tensor(20.0), spread) == trpo.trust(torch.tensor(0.51), spread) == 1
    assert trpo.trust(torch.tensor(0.25), spread).item() == pytest.approx(1 / 4)
    assert trpo.trust(torch.tensor(0.05), spread).item() == pytest.approx(1 / 100)
    assert trpo.trust(torch.tensor(1e-3), torch.zeros(1)) == 1  # no scale known yet, or --value linear
    monkeypatch.setattr(trpo, "trust", lambda *_: torch.tensor(1e-4))
    train(Args(env_id="CartPole", run_dir=tmp_path, total_timesteps=8_000, num_actors=1))
    kls = [float(row["losses/kl"]) for row in rows(tmp_path)]
    assert 0 < max(kls) <= 1e-4 * Args.max_kl


def test_linear_value_is_the_ridge_regression_of_the_post():
    torch.manual_seed(0)
    obs, steps, returns = torch.randn(50, 2), torch.randint(0, 300, (50,)), torch.randn(50)
    value = LinearValue(2, CPU)
    assert value(obs, steps).abs().sum() == 0
    value.fit(obs, steps, returns, Args(), 0)
    t = steps[:, None] / 100
    x = np.hstack([obs, obs**2, t, t**2, np.ones((50, 1))]).astype(np.float64)
    augmented = np.vstack([x, np.sqrt(2.0) * np.eye(7)])  # ridge regression as least squares with seven more rows
    weights = np.linalg.lstsq(augmented, np.concatenate([returns.numpy(), np.zeros(7)]), rcond=None)[0]
    np.testing.assert_allclose(value.weights.numpy(), weights, rtol=1e-6)
    np.testing.assert_allclose(value(obs, steps).numpy(), x @ weights, rtol=1e-4, atol=1e-5)


def test_network_value_keeps_its_values_when_the_scale_changes_and_learns_returns_of_any_size():
    value = NetworkValue(2, 3e-3, generator(), CPU)
    obs = torch.randn(512, 2, generator=generator(1))
    returns = 500 + 200 * torch.sin(obs[:, 0])
    before = value(obs)
    standardized = value.standardize(returns)
    torch.testing.assert_close(value(obs), before, rtol=1e-3, atol=1e-2)
    assert standardized.mean().abs() < 1e-4 and standardized.std().item() == pytest.approx(1, abs=0.01)
    before = value(obs)
    value.standardize(2 * returns[:300])  # the unit is that of all returns so far
    torch.testing.assert_close(value(obs), before, rtol=1e-3, atol=1e-2)
    seen = torch.cat([returns, 2 * returns[:300]])
    assert value.mean.item() == pytest.approx(seen.mean().item(), rel=1e-4)
    assert value.std.item() == pytest.approx(seen.std(correction=0).item(), rel=1e-4)
    for update in range(150):
        value.fit(obs, obs[:, 0], returns, Args(), update)
    error = ((value(obs) - returns) ** 2).mean() / returns.var()
    assert error < 0.02


def test_adaptation_follows_the_posts_rule():
    rule = Args(adapt="both")
    table = [  # before, now, steps, KL -> steps, KL
        (100, 106, 5000, 0.005, 4700, 0.0055),
        (100, 105, 5000, 0.005, 5300, 0.0045),  # five percent exactly is no progress
        (-100, -94, 5000, 0.005, 4700, 0.0055),
        (-100, -96, 5000, 0.005, 5300, 0.0045),  # four percent of |-100|
        (100, 200, 1200, 0.010, 1200, 0.010),  # at the limits
        (100, 200, 1201, 0.0099, 901, 0.0104),  # lowered while above the limit, as in the post's code
        (100, 50, 10_000, 0.001, 10_000, 0.001),
    ]
    for before, now, steps, kl, new_steps, new_kl in table:
        assert adapt(before, now, steps, kl, rule) == (new_steps, pytest.approx(new_kl))
    assert adapt(100, 200, 5000, 0.005, Args(adapt="steps")) == (4700, 0.005)
    assert adapt(100, 200, 5000, 0.005, Args(adapt="kl")) == (5000, pytest.approx(0.0055))
    assert adapt(100, 200, 5000, 0.005, Args(adapt="none")) == (5000, 0.005)
    assert adapt(100, 101, 5000, 0.005, Args(adapt="steps", adapt_margin=0.0)) == (4700, 0.005)


# --- acting ----------------------------------------------------------------------------------


def test_the_frozen_policy_acts_as_the_network_says():
    normalizer = ObsNormalizer(4)
    normalizer.update(10, np.array([1.0, -2, 0, 3]), np.array([4.0, 0.25, 1, 9]))
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * [1, 1, 100, 1]
    obs = obs.astype(np.float32)
    policy = GaussianPolicy(4, 2, -0.7, generator())
    frozen, noise = freeze(policy, normalizer), np.random.default_rng(1)
    mean, log_std = policy(normalizer(torch.tensor(obs))).detach().chunk(2, dim=1)
    np.testing.assert_allclose(frozen.act(obs, 0), mean, rtol=1e-4, atol=1e-5)
    draws = np.concatenate([frozen.act(obs[:1], frozen.noise(noise, (1,))) for _ in range(4000)])
    np.testing.assert_allclose(draws.std(axis=0), log_std[0].exp(), rtol=0.05)
    np.testing.assert_allclose(draws.mean(axis=0), mean[0], atol=0.03)

    policy = CategoricalPolicy(4, 3, generator())
    with torch.no_grad():
        policy.net[-1].bias += torch.tensor([0.0, 1.0, -1.0])
    frozen = freeze(policy, normalizer)
    probabilities = policy(normalizer(torch.tensor(obs[:1]))).softmax(1).detach().numpy()[0]
    draws = frozen.act(np.repeat(obs[:1], 8000, axis=0), frozen.noise(noise, (8000,)))[:, 0]
    np.testing.assert_allclose(np.bincount(draws) / 8000, probabilities, atol=0.02)
    assert (frozen.act(obs, 0)[:, 0] == policy(normalizer(torch.tensor(obs))).argmax(1).numpy()).all()


def test_the_normalizer_merges_moments_in_any_portions():
    x = np.random.default_rng(0).normal(3, 2, size=(100, 2))
    normalizer = ObsNormalizer(2)
    for part in (x[:10], x[10:75], x[75:]):
        normalizer.update(len(part), part.mean(0), part.var(0))
    np.testing.assert_allclose(normalizer.mean, x.mean(0))
    np.testing.assert_allclose(normalizer.var, x.var(0))
    seen = normalizer(torch.tensor([[3.0, 1e9]]))
    assert seen[0, 1] == 10


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Reacher-v5"])
def test_gathered_arrays_tell_what_a_lone_environment_does(env_id):
    """Replays every recorded action in an environment of its own: also past the ends of episodes."""
    args = Args(env_id=env_id, num_envs=2, group_size=2)
    group = Group(args, 3)
    space = group.action_space
    if isinstance(space, Discrete):
        policy = CategoricalPolicy(4, int(space.n), generator())
    else:
        policy = GaussianPolicy(10, 2, 0.5, generator())
    frozen = freeze(policy, ObsNormalizer(group.obs.shape[1]))
    first, second = group.gather(frozen, 70, 0, True), group.gather(frozen, 70, 1, False)
    seeds = trpo.stream(args.seed, trpo.EPISODES, 0, 3).integers(2**31, size=2).tolist()
    episodes = sorted(first["episodes"] + [(70 + e[0], *e[1:]) for e in second["episodes"]])
    ended = {(t, i): (index, *rest) for t, index, i, *rest in episodes}
    final_obs = [list(part["final_obs"]) for part in (first, second)]
    for i in range(2):
        env = gym.make(env_id)
        obs, _ = env.reset(seed=seeds[i])
        total, length = 0.0, 0
        for k, part in enumerate((first, second)):
            for t in range(70):
                np.testing.assert_array_equal(part["obs"][t, i], obs.astype(np.float32))
                assert part["steps"][t, i] == length
                action = part["actions"][t, i]
                action = int(action[0]) if isinstance(space, Discrete) else action.clip(space.low, space.high)
                obs, reward, terminated, truncated, _ = env.step(action)
                total, length = total + float(reward), length + 1
                assert part["rewards"][t, i] == np.float32(reward)
                assert part["terminations"][t, i] == terminated and part["truncations"][t, i] == truncated
                if truncated and i == 0:
                    where = [tuple(x) for x in np.argwhere(part["truncations"])].index((t, 0))
                    np.testing.assert_array_equal(final_obs[k][where], obs.astype(np.float32))
                if terminated or truncated:
                    index, episode_return, episode_length = ended[70 * k + t, i]
                    assert (index, episode_length) == (3, length)
                    assert episode_return == pytest.approx(total, rel=1e-5)
                    (obs, _), total, length = env.reset(), 0.0, 0
            np.testing.assert_array_equal(part["obs"][70, i], obs.astype(np.float32))
            assert part["steps"][70, i] == length
    assert len(episodes) >= 4
    seen = first["obs"][:-1].reshape(-1, group.obs.shape[1])
    np.testing.assert_allclose(first["moments"][1], seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(first["moments"][2], seen.var(0), atol=1e-4)


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "charts/SPS" and not k.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def test_solves_cartpole_and_writes_its_folder(tmp_path):
    last = train(Args(env_id="CartPole", run_dir=tmp_path, total_timesteps=60_000, num_actors=1))
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    policy, normalizer = CategoricalPolicy(4, 2, generator()), ObsNormalizer(4)
    policy.load_state_dict(checkpoint["policy"])
    normalizer.restore(checkpoint["normalizer"])
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(10):  # played here, not read from the run's own bookkeeping
        (obs, _), total, done = env.reset(seed=1_000 + seed), 0.0, False
        while not done:
            with torch.no_grad():
                action = policy(normalizer(torch.tensor(obs)[None])).argmax().item()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) >= 475  # CartPole-v1's own reward_threshold
    assert last["eval/episodic_return"] >= 475 and last["global_step"] == 61_440
    assert {p.name for p in tmp_path.iterdir()} == {"args.json", "metrics.csv", "curve.png", "checkpoint.pt"}
    assert json.loads((tmp_path / "args.json").read_text())["env_id"] == "CartPole-v1"
    kls = [float(row["losses/kl"]) for row in rows(tmp_path)]
    assert max(kls) <= 0.03 and sum(kl > 0 for kl in kls) > 25  # every accepted step is within the bound
    assert evaluate(tmp_path)[0] == last["eval/episodic_return"]


def test_balances_the_inverted_pendulum(tmp_path):
    last = train(Args(env_id="InvertedPendulum", run_dir=tmp_path, total_timesteps=120_000, num_actors=1))
    assert last["eval/episodic_return"] >= 950  # the environment's own reward_threshold


def test_the_posts_linear_value_function_solves_cartpole(tmp_path):
    flags = {"env_id": "CartPole", "value": "linear", "num_steps": 500, "num_actors": 1}
    assert train(Args(**flags, run_dir=tmp_path, total_timesteps=80_000))["eval/episodic_return"] >= 475


def test_the_curve_is_the_same_for_any_number_of_actors_and_another_for_another_seed(tmp_path):
    flags = SMALL | {"env_id": "InvertedPendulum", "num_envs": 8, "total_timesteps": 2_000}
    for name, actors, seed in (("one", 1, 1), ("two", 2, 1), ("four", 4, 1), ("other", 1, 2)):
        train(Args(**flags | {"num_actors": actors}, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "one") == rows(tmp_path / "two") == rows(tmp_path / "four") != rows(tmp_path / "other")
    assert len(rows(tmp_path / "one")) == 4


@pytest.mark.parametrize("flags", [{}, {"value": "linear", "num_steps": 50}, {"adapt": "both", "adapt_window": 2}])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, flags):
    flags = SMALL | {"env_id": "Reacher", "total_timesteps": 1_500, "checkpoint_every": 2} | flags
    if "adapt" in flags:
        flags |= {"adapt_min_steps": 150, "adapt_steps": 100, "adapt_max_steps": 600}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = trpo.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(trpo.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) > 4
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    assert all(torch.equal(whole["policy"][key], half["policy"][key]) for key in whole["policy"])
    if "adapt" in flags:
        assert len({row["charts/steps_per_update"] for row in rows(tmp_path / "whole")}) > 1


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    flags = SMALL | {"env_id": "InvertedPendulum", "total_timesteps": 2_000, "checkpoint_every": 1}
    step, calls = trpo.trpo_step, []

    def diverging(*args):
        calls.append(args)
        losses = step(*args)
        return losses | {"losses/kl": torch.tensor(float("nan"))} if len(calls) == 3 else losses

    monkeypatch.setattr(trpo, "trpo_step", diverging)
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**flags, run_dir=tmp_path))
    assert torch.load(tmp_path / "checkpoint.pt")["update"] == 2


def test_train_leaves_torchs_settings_as_they_were(tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(Args(**SMALL, env_id="CartPole", total_timesteps=200, torch_threads=2, run_dir=tmp_path))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


# --- several processes -----------------------------------------------------------------------


def one_update(rank: int, world: int, path: str):
    """An update of policy and value from this process's share of the same data; rank 0 saves what came out."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{path}.rendezvous", rank=rank, world_size=world)
    torch.set_num_threads(1)
    obs, actions, advantages = data(n=96)
    mine = slice(rank * 96 // world, (rank + 1) * 96 // world)
    policy = SmallGaussian(torch.full((3, 2), 0.1).double(), torch.zeros(2).double())
    losses = trpo_step(policy, obs[mine], actions[mine], advantages[mine], obs[mine][::2], 0.01, Args())
    networks = NetworkValue(3, 1e-3, generator(), CPU).double()
    networks.mean, networks.std = networks.mean.double(), networks.std.double()
    linear = LinearValue(3, CPU)
    for value in (networks, linear):
        value.fit(obs[mine], torch.arange(96)[mine], 3 + 2 * actions[mine, 0], Args(value_minibatch=40), 0)
    if rank == 0:
        result = {"policy": flatten(policy.parameters()), "value": flatten(networks.net.parameters())}
        torch.save(
            {k: v.detach() for k, v in result.items()} | {"linear": linear.weights, "kl": losses["losses/kl"]}, path
        )
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_make_the_update_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    one_update(0, 1, str(tmp_path / "one"))
    workers = [context.Process(target=one_update, args=(rank, 2, str(tmp_path / "two"))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    one, two = torch.load(tmp_path / "one"), torch.load(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(one["policy"][:6], torch.full((6,), 0.1).double())  # and it is an update


# --- as a user meets it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "Reacher-v5", "value": "linear", "num_steps": 49}, "--num-steps"),
        ({"value": "linear", "num_steps": 100, "adapt": "steps", "adapt_min_steps": 600}, "--num-steps"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"num_envs": 10}, "--group-size"),
        ({"fisher_stride": 200}, "--fisher-stride"),
        ({"max_kl": 0.0}, "--max-kl"),
        ({"max_kl": float("nan")}, "--max-kl"),
        ({"gamma": 1.5}, "--gamma"),
        ({"gae_lambda": -0.1}, "--gae-lambda"),
        ({"seed": -1}, "--seed"),
        ({"cg_damping": float("inf")}, "--cg-damping"),
        ({"adapt_steps": 2000}, "--adapt-steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    flags = SMALL | {"env_id": "InvertedPendulum", "total_timesteps": 500}
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    train(Args(**flags, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**flags, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    checkpoint, saved = tmp_path / "run/checkpoint.pt", tmp_path / "run/args.json"
    saved.write_text(saved.read_text().replace("InvertedPendulum-v5", "Reacher-v5"))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit Reacher-v5"):
            verb()
    whole = checkpoint.read_bytes()
    for rest in (0, 1000, len(whole) // 2, len(whole) - 100):
        checkpoint.write_bytes(whole[:rest])
        with pytest.raises(UsageError, match=r"--evaluate .* damaged"):
            evaluate(tmp_path / "run")
    saved.write_text("{}")
    with pytest.raises(UsageError, match=r"--resume .* damaged"):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    commands = [
        (["--env-id", "NoSuchEnv-v0", "--run-dir", tmp_path / "x"], 1),
        (["--num-envs", "0", "--run-dir", tmp_path / "x"], 2),
        (["--resume", tmp_path / "x", "--seed", "1"], 1),
    ]
    for flags, code in commands:
        done = subprocess.run([sys.executable, "algos/trpo.py", *flags], capture_output=True, check=False, text=True)
        assert done.returncode == code and flags[0] in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_ctrl_c_ends_every_process_and_leaves_a_run_to_resume(tmp_path):
    flags = ["--env-id", "InvertedPendulum", "--num-actors", "2", "--num-envs", "4", "--group-size", "2"]
    command = [sys.executable, "algos/trpo.py", *flags, "--checkpoint-every", "5", "--run-dir", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.csv").exists() or len((tmp_path / "metrics.csv").read_text().splitlines()) < 8:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # the actors are gone, too
        os.killpg(process.pid, 0)
    assert torch.load(tmp_path / "checkpoint.pt")["update"] >= 5


def test_set_parameters_and_flatten_are_inverse():
    policy = GaussianPolicy(3, 2, 0.0, generator())
    vector = torch.arange(float(len(flatten(policy.parameters()))))
    set_parameters(policy, vector)
    assert torch.equal(flatten(policy.parameters()), vector)
