"""Natural gradient: Fisher matrices against enumeration, steps against brute force, paths against closed forms."""

import csv
import itertools
import json
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from algos import natural_gradient, trpo
from algos.natural_gradient import (
    CPU,
    Args,
    CategoricalPolicy,
    Envs,
    NetworkValue,
    UsageError,
    as_function,
    climb,
    estimate_advantages,
    evaluate,
    flatten,
    freeze,
    gaussian_kl,
    hessian_of_kl,
    main,
    mean_outer_product_of_scores,
    natural_step,
    policy_metric,
    set_parameters,
    sphere,
    squared_length,
    steepest_step,
    sum_of_td_errors,
    train,
    unflatten,
)

SMALL = {"num_envs": 4, "num_steps": 50, "total_timesteps": 1_000, "checkpoint_every": 2, "value_units": (8,)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_policy(*units: int, obs_dim: int = 3, num_actions: int = 4) -> CategoricalPolicy:
    """A policy in float64 that is far from uniform."""
    policy = CategoricalPolicy([obs_dim, *units, num_actions], generator(3)).double()
    with torch.no_grad():
        for x in policy.parameters():
            x.add_(torch.randn(x.shape, generator=generator(x.numel()), dtype=torch.float64), alpha=0.7)
    return policy


def make_batch(n: int = 40, obs_dim: int = 3, num_actions: int = 4) -> tuple:
    obs = torch.randn(n, obs_dim, generator=generator(1), dtype=torch.float64)
    actions = torch.randint(num_actions, (n, 1), generator=generator(2))
    return obs, actions, torch.randn(n, generator=generator(4), dtype=torch.float64)


def policy_gradient(policy, obs, actions, advantages) -> torch.Tensor:
    logprobs = torch.distributions.Categorical(logits=policy(obs)).log_prob(actions[:, 0])
    return flatten(torch.autograd.grad((logprobs * advantages).mean(), list(policy.parameters())))


def change(policy, *batch, **flags) -> tuple[torch.Tensor, dict]:
    """What one update adds to the parameters [d], and its losses; the parameters are put back."""
    theta = flatten(policy.parameters()).detach()
    losses = natural_step(policy, *batch, Args(**flags))
    step = flatten(policy.parameters()).detach() - theta
    set_parameters(policy, theta)
    return step, losses


def mean_kl(policy, obs, step) -> float:
    """KL divergence between the policy and the one that a step leads to, by torch.distributions."""
    logits, theta = as_function(policy, obs), flatten(policy.parameters()).detach()
    old, new = (torch.distributions.Categorical(logits=logits(x)) for x in (theta, theta + step))
    return torch.distributions.kl_divergence(old, new).mean().item()


# --- distributions ---------------------------------------------------------------------------


def test_distributions_agree_with_torchs():
    torch.manual_seed(1)
    a, b, chosen = torch.randn(5, 6), torch.randn(5, 6), torch.tensor([[0.0], [1], [2], [3], [5]])
    p, q = (torch.distributions.Categorical(logits=x) for x in (a, b))
    torch.testing.assert_close(CategoricalPolicy.log_prob(a, chosen), p.log_prob(chosen[:, 0]))
    torch.testing.assert_close(CategoricalPolicy.entropy(a), p.entropy())
    torch.testing.assert_close(CategoricalPolicy.kl(a, b), torch.distributions.kl_divergence(p, q))
    p, q = (torch.distributions.Normal(mean, log_std.exp()) for mean, log_std in (a[0, :2], b[0, :2]))
    torch.testing.assert_close(gaussian_kl(a[0, :2], b[0, :2]), torch.distributions.kl_divergence(p, q))


def test_the_posts_two_gaussians_move_by_the_same_2_and_change_by_far_from_the_same():
    kls = []
    for std in (0.5, 3.0):
        old, new = (torch.tensor([mean, math.log(std)]).double() for mean in (-1, 1))
        assert squared_length(new - old, torch.eye(2).double()).sqrt() == 2
        kls.append(gaussian_kl(old, new).item())
    assert kls == pytest.approx([2 / 0.5**2, 2 / 3**2])


# --- the metric ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [(), (5,)])
def test_the_hessian_of_the_kl_is_the_mean_outer_product_of_scores(units):
    policy, (obs, _, _) = make_policy(*units), make_batch(6)
    logits, theta = as_function(policy, obs), flatten(policy.parameters()).detach()
    hessian = hessian_of_kl(lambda old, new: policy.kl(logits(old), logits(new)).mean(), theta)
    scores = mean_outer_product_of_scores(lambda new: logits(new).log_softmax(dim=1), theta)

    expected = torch.zeros_like(hessian)  # by going through all states and actions, one gradient at a time
    for state, action in itertools.product(range(6), range(4)):
        logprob = torch.distributions.Categorical(logits=policy(obs[state])).log_prob(torch.tensor(action))
        score = flatten(torch.autograd.grad(logprob, list(policy.parameters())))
        expected += logprob.detach().exp() * torch.outer(score, score) / 6
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(hessian, expected)
    torch.testing.assert_close(policy_metric(policy, obs, Args(damping=0.3)), expected + 0.3 * torch.eye(len(theta)))
    metric = policy_metric(policy, obs, Args(damping=0.3, metric="scores"))
    torch.testing.assert_close(metric, expected + 0.3 * torch.eye(len(theta)))


def test_a_gaussians_fisher_matrix_is_the_closed_form_and_the_mean_outer_product_of_scores():
    theta = torch.tensor([0.4, -0.7], dtype=torch.float64)
    fisher = hessian_of_kl(gaussian_kl, theta)
    torch.testing.assert_close(fisher, torch.diag(torch.tensor([math.exp(1.4), 2.0]).double()))
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # exact for the scores' polynomials
    z, w = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    scores = torch.stack([z * math.exp(0.7), z**2 - 1], dim=1)  # d log p / d mean, d log p / d log std
    torch.testing.assert_close(scores.T @ (w[:, None] * scores), fisher)


def test_two_gradients_in_a_row_as_in_the_post_are_the_row_sums_of_the_matrix():
    policy, (obs, _, _) = make_policy(5), make_batch()
    theta = list(policy.parameters())
    logits = policy(obs)
    kl_fixed = policy.kl(logits.detach(), logits).mean()
    first_derivative = torch.autograd.grad(kl_fixed, theta, create_graph=True)
    post = flatten(torch.autograd.grad(flatten(first_derivative).sum(), theta))
    fisher = policy_metric(policy, obs, Args(damping=1e-300))
    torch.testing.assert_close(post, fisher.sum(dim=1))
    assert fisher.shape == (len(post), len(post))


def test_half_the_squared_length_is_the_kl_to_second_order():
    policy, (obs, _, _) = make_policy(5), make_batch()
    fisher = policy_metric(policy, obs, Args(damping=1e-300))
    delta = torch.randn(len(fisher), generator=generator(), dtype=torch.float64)
    by_hand = 0.0
    for i, j in itertools.product(range(len(fisher)), repeat=2):
        by_hand += delta[i] * delta[j] * fisher[i][j]
    assert squared_length(delta, fisher).item() == pytest.approx(by_hand.item())
    errors = [abs(mean_kl(policy, obs, e * delta) - e**2 * by_hand.item() / 2) for e in (1e-2, 5e-3, 2.5e-3)]
    assert errors[0] < 0.05 * 1e-4 * by_hand / 2
    for larger, smaller in itertools.pairwise(errors):  # what is left is of third order
        assert larger / smaller == pytest.approx(8, rel=0.1)
    assert squared_length(delta, torch.eye(len(delta)).double()).item() == pytest.approx(delta.norm().item() ** 2)


# --- the step --------------------------------------------------------------------------------


def test_the_identity_as_metric_gives_the_plain_gradient():
    policy, batch = make_policy(5), make_batch()
    gradient = policy_gradient(policy, *batch)
    identity = torch.eye(len(gradient)).double()
    torch.testing.assert_close(natural_gradient.natural_gradient(identity, gradient), gradient)
    torch.testing.assert_close(steepest_step(identity, gradient, 0.02), 0.2 * gradient / gradient.norm())
    step, losses = change(policy, *batch, metric="parameters", step_size=0.02)
    torch.testing.assert_close(step, 0.2 * gradient / gradient.norm())
    assert losses["losses/distance"].item() == pytest.approx(0.2)
    assert losses["losses/gradient_norm"].item() == pytest.approx(gradient.norm().item())
    assert not steepest_step(identity, torch.zeros_like(gradient), 0.02).any()  # where all actions are equal


class TwoParameters(nn.Module):
    """A policy of two parameters: the logits of its three actions are linear in them."""

    kl, log_prob, entropy = map(
        staticmethod, (CategoricalPolicy.kl, CategoricalPolicy.log_prob, CategoricalPolicy.entropy)
    )

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def forward(self, obs):
        both, each = self.weight.sum(), self.weight[0] - self.weight[1]
        return torch.stack([4 * both * obs[:, 0], each * obs[:, 1], torch.zeros_like(obs[:, 2])], dim=1)


def test_no_step_on_the_kl_sphere_of_a_two_parameter_policy_is_better():
    """Brute force: 720 directions, each walked until the KL divergence itself is what was asked for."""
    policy, (obs, actions, advantages) = TwoParameters(), make_batch(num_actions=3)
    logits, theta, size = torch.vmap(as_function(policy, obs)), policy.weight.detach().clone(), 1e-8
    old = torch.distributions.Categorical(logits=logits(theta[None]))

    def kl(steps):  # [m, 2] -> [m]
        new = torch.distributions.Categorical(logits=logits(theta + steps))
        return torch.distributions.kl_divergence(old, new).mean(dim=1)

    def gain(steps):  # [m, 2] -> [m]
        logprobs = torch.distributions.Categorical(logits=logits(theta + steps)).log_prob(actions[:, 0])
        return ((logprobs - old.log_prob(actions[:, 0])).exp() * advantages).mean(dim=1) - advantages.mean()

    def to_sphere(directions):  # [m, 2] -> [m, 2]
        low, high = torch.zeros(len(directions), 1).double(), torch.ones(len(directions), 1).double()
        for _ in range(50):
            middle = (low + high) / 2
            within = kl(middle * directions)[:, None] < size
            low, high = torch.where(within, middle, low), torch.where(within, high, middle)
        return low * directions

    with torch.no_grad():
        angles = torch.arange(720).double() * math.pi / 360
        steps = to_sphere(torch.stack([angles.cos(), angles.sin()], dim=1))
        torch.testing.assert_close(kl(steps), torch.full((720,), size).double(), rtol=1e-5, atol=0)
        gains = gain(steps)
    natural, losses = change(policy, obs, actions, advantages, step_size=size, damping=1e-12)
    assert mean_kl(policy, obs, natural) == pytest.approx(size, rel=0.01) == losses["losses/kl"].item()
    assert losses["losses/surrogate_gain"].item() == pytest.approx(gain(natural[None]).item())
    assert gain(to_sphere(natural[None] / natural.norm())) >= gains.max() * (1 - 1e-4)
    assert torch.cosine_similarity(natural, steps[gains.argmax()], dim=0) > 0.9999
    plain = policy_gradient(policy, obs, actions, advantages)
    assert gain(to_sphere(plain[None] / plain.norm())) < 0.9 * gains.max()


def test_the_sphere_is_all_steps_of_one_length():
    root = torch.randn(2, 2, generator=generator(), dtype=torch.float64)
    metric = root @ root.T + 0.1 * torch.eye(2)
    points = sphere(metric, 0.03)
    assert [squared_length(point, metric).item() / 2 for point in points] == pytest.approx([0.03] * len(points))
    gradient = torch.tensor([1.0, 2.0]).double()
    best = points[(points @ gradient).argmax()]
    assert torch.cosine_similarity(best, steepest_step(metric, gradient, 0.03), dim=0) > 0.999


@pytest.mark.parametrize("metric", ["kl", "scores"])
def test_the_step_is_trpos_conjugate_gradient_step(metric):
    """trpo.py solves the same system by products alone, and without a line search it takes the same step."""
    policy, (obs, actions, advantages) = make_policy(5), make_batch()
    theirs = trpo.CategoricalPolicy(3, 4, generator()).double()
    theirs.net = make_policy(5).net
    gradient = policy_gradient(policy, obs, actions, advantages)
    product = trpo.fisher_vector_product(theirs, obs, 1e-3)
    direction = trpo.conjugate_gradient(product, gradient, 100)
    fisher = policy_metric(policy, obs, Args(metric=metric, damping=1e-3))
    torch.testing.assert_close(natural_gradient.natural_gradient(fisher, gradient), direction, rtol=1e-5, atol=1e-6)

    step, losses = change(policy, obs, actions, advantages, metric=metric, damping=1e-3, step_size=0.01)
    before = flatten(theirs.parameters()).detach().clone()
    args = trpo.Args(cg_damping=1e-3, cg_iterations=100, line_search=False)
    expected = trpo.trpo_step(theirs, obs, actions, advantages, obs, 0.01, args)
    torch.testing.assert_close(step, flatten(theirs.parameters()).detach() - before, rtol=1e-5, atol=1e-7)
    for name in ("surrogate_gain", "kl", "entropy", "gradient_norm"):
        assert float(losses[f"losses/{name}"]) == pytest.approx(float(expected[f"losses/{name}"]), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_with_an_outlier_moves_the_natural_step_less_than_the_plain_one(seed):
    """Both steps change the policy equally on a good batch; then one far-off state comes with a huge advantage."""
    policy, (obs, actions, _) = make_policy(), make_batch(200)
    advantages = torch.randn(200, generator=generator(10 + seed), dtype=torch.float64)
    size = 1e-3
    natural, _ = change(policy, obs, actions, advantages, step_size=size)
    gradient, rate = policy_gradient(policy, obs, actions, advantages), 1e-3
    for _ in range(10):  # the learning rate with which the plain step makes the same KL divergence
        rate *= math.sqrt(mean_kl(policy, obs, natural) / mean_kl(policy, obs, rate * gradient))
    assert mean_kl(policy, obs, rate * gradient) == pytest.approx(mean_kl(policy, obs, natural))

    bad_obs, bad_advantages, row = obs.clone(), advantages.clone(), 7 * seed
    bad_obs[row] *= 10
    bad_advantages[row] = 1000
    bad = bad_obs, actions, bad_advantages
    natural_bad, _ = change(policy, *bad, step_size=size)
    assert mean_kl(policy, bad_obs, natural_bad) < 1.1 * size and mean_kl(policy, obs, natural_bad) < 1.2 * size
    identity = torch.eye(len(gradient)).double()  # with the same learning rate as before the outlier came
    plain_bad = rate * natural_gradient.natural_gradient(identity, policy_gradient(policy, *bad))
    assert mean_kl(policy, obs, plain_bad) > 100 * mean_kl(policy, obs, natural_bad)


class Hidden(nn.Module):
    """One hidden layer whose activation is given."""

    kl, log_prob, entropy = map(
        staticmethod, (CategoricalPolicy.kl, CategoricalPolicy.log_prob, CategoricalPolicy.entropy)
    )

    def __init__(self, activation, *weights):
        super().__init__()
        self.activation, self.weights = activation, nn.ParameterList(nn.Parameter(weight) for weight in weights)

    def forward(self, obs):
        a, b, c, d = self.weights
        return self.activation(obs @ a + b) @ c + d


def test_replacing_tanh_by_sigmoid_changes_the_plain_step_but_not_the_natural_one():
    """The post's claim: tanh(x) = 2 sigmoid(2 x) - 1, so the same policy can be written either way."""
    shapes = (3, 2), (2,), (2, 4), (4,)
    a, b, c, d = (torch.randn(shape, generator=generator(sum(shape)), dtype=torch.float64) for shape in shapes)
    obs, actions, advantages = make_batch(200)
    policies = Hidden(torch.tanh, a, b, c, d), Hidden(torch.sigmoid, 2 * a, 2 * b, 2 * c, d - c.sum(0))
    probs = [policy(obs).softmax(dim=1).detach() for policy in policies]
    torch.testing.assert_close(*probs)

    def moves(**flags):
        after = []
        for policy in policies:
            theta = flatten(policy.parameters()).detach()
            step, _ = change(policy, obs, actions, advantages, **flags)
            after.append(as_function(policy, obs)(theta + step).softmax(dim=1) - probs[0])
        return [x.detach().flatten() for x in after]

    first, second = moves(step_size=1e-8, damping=1e-9)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 * first.abs().max().item())
    first, second = moves(step_size=1e-8, metric="parameters")
    assert torch.cosine_similarity(first, second, dim=0) < 0.95


def test_the_paths_are_the_flows_of_their_closed_forms():
    """In KL the mean's error shrinks as the variance; in parameters as exp(-1 / (2 variance))."""
    start = torch.tensor([-2.0, math.log(2)], dtype=torch.float64)
    fisher = lambda theta: torch.diag(torch.stack([(-2 * theta[1]).exp(), torch.full_like(theta[1], 2.0)]))  # noqa: E731
    mean, std = climb(fisher, start, 4e-6, 600).T
    std = std.exp()
    assert std[-1] < 1.2
    torch.testing.assert_close(1 - mean, 3 * (std / 2) ** 2, rtol=5e-3, atol=0)
    mean, std = climb(lambda theta: torch.eye(2).double(), start, 4e-6, 600).T
    std = std.exp()
    assert std[-1] < 1.2
    torch.testing.assert_close(1 - mean, 3 * (0.5 / 4 - 0.5 / std**2).exp(), rtol=5e-3, atol=0)


# --- advantages and values -------------------------------------------------------------------


def test_the_sum_of_td_errors_is_a_return_less_a_value():
    rng, gamma, time = np.random.default_rng(0), 0.9, 9
    rewards, values, next_values = rng.normal(size=(3, time, 2))
    terminations = rng.random((time, 2)) < 0.2
    cuts = terminations | (rng.random((time, 2)) < 0.2)
    next_values[:-1] = np.where(cuts[:-1], next_values[:-1], values[1:])
    expected = np.zeros((time, 2))
    for i, t in itertools.product(range(2), range(time)):
        last = next((k for k in range(t, time) if cuts[k, i]), time - 1)
        total = sum(gamma ** (k - t) * rewards[k, i] for k in range(t, last + 1))
        after = 0 if terminations[last, i] else gamma ** (last + 1 - t) * next_values[last, i]
        expected[t, i] = total + after - values[t, i]
    inputs = [torch.tensor(x.astype(float)) for x in (rewards, values, next_values, terminations, cuts)]
    np.testing.assert_allclose(sum_of_td_errors(*inputs, gamma).numpy(), expected)


def test_a_truncated_episode_is_bootstrapped_from_its_own_last_state_and_a_terminated_one_is_not():
    obs = torch.tensor([[[1.0], [1.0]], [[7.0], [7.0]], [[3.0], [3.0]], [[4.0], [4.0]]])  # [time + 1, n, 1]
    batch = {
        "obs": obs,
        "rewards": torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
        "terminations": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        "cuts": torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
    }
    estimated = estimate_advantages(batch, lambda x: x.squeeze(-1), Args(gamma=0.9))
    assert estimated["returns"][0].tolist() == pytest.approx([1.0, 1 + 0.9 * 7])
    assert estimated["advantages"][0].tolist() == pytest.approx([1.0 - 1, 1 + 0.9 * 7 - 1])
    assert estimated["advantages"][2].tolist() == pytest.approx(
        [1 + 0.9 * 4 - 3] * 2
    )  # the batch ends, not the episode


def test_the_value_network_learns_returns():
    value = NetworkValue([3, 16, 1], 0.01, generator(), CPU)
    obs = torch.randn(256, 3, generator=generator(1))
    returns = 5 + 3 * torch.tanh(obs[:, 0] - obs[:, 1])
    value.fit(obs, returns, 300)
    assert ((value(obs) - returns) ** 2).mean() < 0.03 * returns.var()


# --- playing ---------------------------------------------------------------------------------

CELLS, LIMIT = 5, 7


class Corridor(gym.Env):
    """One-hot cells, actions 1 (left) and 2 (right). Going right from the last cell ends it, with a reward of 1."""

    observation_space = gym.spaces.Box(0, 1, (CELLS,), np.float32)
    action_space = gym.spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(CELLS))
        return np.eye(CELLS, dtype=np.float32)[self.cell], {}

    def step(self, action):
        assert action in self.action_space
        ended = self.cell == CELLS - 1 and action == 2
        self.cell = min(max(self.cell + (1 if action == 2 else -1), 0), CELLS - 1)
        return np.eye(CELLS, dtype=np.float32)[self.cell], float(ended), ended, False, {}


gym.register("Corridor-v1", entry_point=Corridor, max_episode_steps=LIMIT)


def test_a_step_that_only_begins_an_episode_is_no_transition():
    """Corridor's rules, replayed on what was gathered, step by step."""
    envs, rng = Envs("Corridor-v1", 6), np.random.default_rng(0)
    envs.reset(rng)
    policy = freeze(CategoricalPolicy([CELLS, 2], generator()))
    batches = [envs.gather(policy, num_steps, rng) for num_steps in (30, 11)]
    played, at = [], np.zeros(6, int)
    for batch, episodes in batches:
        steps, total, lengths = len(batch["alive"]), np.zeros(6), []
        cells = batch["obs"].argmax(axis=2)
        for t, i in itertools.product(range(steps), range(6)):
            if not batch["alive"][t, i]:
                assert batch["rewards"][t, i] == 0 and at[i] == 0 and not batch["cuts"][t, i]
                continue
            move = 1 if batch["actions"][t, i, 0] == 1 else -1
            assert cells[t + 1, i] == min(max(cells[t, i] + move, 0), CELLS - 1)  # even where the episode ended
            won = cells[t, i] == CELLS - 1 and move == 1
            at[i] += 1
            assert batch["rewards"][t, i] == batch["terminations"][t, i] == won
            assert batch["cuts"][t, i] == (won or at[i] == LIMIT)
            if batch["cuts"][t, i]:
                lengths.append(at[i])
                at[i] = 0
            total[i] += won
        assert [length for _, length in episodes] == lengths
        assert sum(episodic_return for episodic_return, _ in episodes) == total.sum()
        played += lengths
    assert len(played) > 20 and (~batches[0][0]["alive"]).any()
    assert (batches[0][0]["obs"][-1] == batches[1][0]["obs"][0]).all()


def test_cartpoles_own_vectorised_version_is_played_by_cartpoles_rules():
    envs, rng = Envs("CartPole-v1", 3), np.random.default_rng(0)
    envs.reset(rng)
    batch, episodes = envs.gather(freeze(CategoricalPolicy([4, 2], generator())), 60, rng)
    env = gym.make("CartPole-v1").unwrapped
    env.reset()
    for t, i in zip(*batch["alive"].nonzero(), strict=True):
        env.state, env.steps_beyond_terminated = batch["obs"][t, i].astype(float), None
        obs, reward, terminated, _, _ = env.step(int(batch["actions"][t, i, 0]))
        np.testing.assert_allclose(batch["obs"][t + 1, i], obs, atol=1e-5)
        assert batch["rewards"][t, i] == reward and batch["terminations"][t, i] == terminated
    assert len(episodes) >= 3 and all(episodic_return == length for episodic_return, length in episodes)
    assert batch["alive"].sum() == 180 - batch["cuts"][:-1].sum()


def test_the_frozen_policy_samples_as_the_network_says():
    policy = make_policy(5).float()
    obs = torch.randn(1, 3, generator=generator(9)).expand(20_000, 3)
    frozen = freeze(policy)
    actions = frozen.act(obs.numpy(), frozen.noise(np.random.default_rng(0), (20_000,)))[:, 0]
    probs = policy(obs[:1]).softmax(dim=1)[0].detach().numpy()
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 20_000, probs, atol=0.015)
    assert (frozen.act(obs.numpy()[:5], 0) == probs.argmax()).all()


# --- training --------------------------------------------------------------------------------


@pytest.fixture
def no_picture(monkeypatch):
    """The posts' picture is the same in every run: once is enough."""
    monkeypatch.setattr(natural_gradient, "draw_metric", lambda run, fisher: None)


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "charts/SPS" and not k.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def test_solves_cartpole_and_writes_its_folder(tmp_path):
    last = train(Args(env_id="CartPole", run_dir=tmp_path, step_size=0.005, total_timesteps=60_000))
    policy = CategoricalPolicy([4, 2], generator())
    policy.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["policy"])
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(10):  # played here, not read from the run's own bookkeeping
        (obs, _), total, done = env.reset(seed=1_000 + seed), 0.0, False
        while not done:
            with torch.no_grad():
                action = policy(torch.tensor(obs)[None]).argmax().item()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) >= 475  # CartPole-v1's own reward_threshold
    assert last["eval/episodic_return"] >= 475
    files = {"args.json", "metrics.csv", "curve.png", "metric.png", "checkpoint.pt"}
    assert {p.name for p in tmp_path.iterdir()} == files
    assert json.loads((tmp_path / "args.json").read_text())["env_id"] == "CartPole-v1"
    assert evaluate(tmp_path)[0] == last["eval/episodic_return"]


def test_every_natural_step_changes_the_policy_by_as_much_as_was_asked_for_and_plain_ones_do_not(tmp_path, no_picture):
    for metric in ("kl", "parameters"):
        train(Args(run_dir=tmp_path / metric, metric=metric, step_size=0.01, total_timesteps=12_000))
    natural, plain = (np.array([float(r["losses/kl"]) for r in rows(tmp_path / m)]) for m in ("kl", "parameters"))
    assert natural.min() > 0.008 and natural.max() < 0.012
    assert plain.max() > 2 * plain.min()
    distances = [float(row["losses/distance"]) for row in rows(tmp_path / "parameters")]
    assert distances == pytest.approx([0.02**0.5] * len(distances), rel=1e-3)


def test_the_matrix_from_the_scores_trains_the_same_policy(tmp_path, no_picture):
    for metric in ("kl", "scores"):
        train(Args(**SMALL, run_dir=tmp_path / metric, metric=metric))
    a, b = (torch.load(tmp_path / m / "checkpoint.pt", weights_only=True)["policy"] for m in ("kl", "scores"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-3)


def test_the_seed_decides_every_number(tmp_path, no_picture):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) > 4


@pytest.mark.parametrize("flags", [{}, {"env_id": "Corridor-v1", "policy_units": (4,)}])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, no_picture, flags):
    flags = SMALL | flags
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = natural_gradient.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(natural_gradient.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) > 4
    with pytest.raises(UsageError, match="is finished"):
        train(Args(resume=tmp_path / "half"))


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(natural_gradient, "steepest_step", lambda metric, gradient, size: gradient * math.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path))
    policy = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["policy"]
    assert all(tensor.isfinite().all() for tensor in policy.values())


def test_train_leaves_torchs_settings_as_they_were(tmp_path, no_picture):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    train(Args(**SMALL, run_dir=tmp_path))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "Pendulum-v1"}, "discrete actions"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"step_size": 0.0}, "--step-size"),
        ({"step_size": math.nan}, "--step-size"),
        ({"damping": 0.0}, "--damping"),
        ({"gamma": 1.5}, "--gamma"),
        ({"policy_units": (0,)}, "--policy-units"),
        ({"policy_units": (64, 64)}, "--policy-units"),
        ({"num_steps": 1}, "--num-steps"),
        ({"value_units": ()}, "--value-units"),
        ({"value_learning_rate": math.inf}, "--value-learning-rate"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_left_alone_and_one_without_cannot_be_resumed(tmp_path, no_picture):
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    with pytest.raises(UsageError, match="--evaluate"):
        evaluate(tmp_path / "nowhere")


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    flags = ["--env-id", "NoSuchEnv-v0", "--run-dir", tmp_path / "x"]
    command = [sys.executable, "algos/natural_gradient.py", *flags]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(UsageError, match="leave out the other flags"):
        main(["--resume", "somewhere", "--seed", "2"])


def test_set_parameters_and_flatten_are_inverse():
    policy = make_policy(5)
    vector = torch.arange(sum(p.numel() for p in policy.parameters())).double()
    set_parameters(policy, vector)
    assert torch.equal(flatten(policy.parameters()), vector)
    shapes = [part.shape for part in unflatten(vector, list(policy.parameters()))]
    assert shapes == [p.shape for p in policy.parameters()]
