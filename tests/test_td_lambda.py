"""Temporal differences: the methods against their definitions in plain loops, fixed points against linear systems."""

import csv
import math
import subprocess
import sys
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos.td_lambda import (
    WALKS,
    Args,
    Episodes,
    Process,
    UsageError,
    batch_weights,
    first_weights,
    gradient,
    lambda_return,
    linear,
    make_features,
    n_step_rewards,
    n_step_td,
    network,
    play,
    random_walk,
    td_lambda,
    train,
    transition_table,
    true_online_td,
    true_values,
    with_end,
)

GAMMA = 0.9
ALPHAS = torch.tensor([[0.1], [0.3]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_process(seed: int = 0, num_states: int = 6, outcomes: int = 3) -> Process:
    """Any transitions, any rewards, and two ways out."""
    g = generator(seed)
    probs = torch.rand(num_states, outcomes, dtype=torch.float64, generator=g)
    to = torch.randint(num_states, (num_states, outcomes), generator=g)
    to[1, 0] = to[4, 1] = num_states
    rewards = torch.randn(num_states, outcomes, dtype=torch.float64, generator=g)
    return with_end(probs / probs.sum(dim=1, keepdim=True), to, rewards, torch.full((num_states,), 1 / num_states))


def random_features(num_states: int = 6, k: int = 4, seed: int = 1) -> torch.Tensor:
    x = torch.randn(num_states + 1, k, dtype=torch.float64, generator=generator(seed)) / 2
    x[-1] = 0
    return x


def random_weights(runs: int, k: int, alphas: int = 2) -> torch.Tensor:
    return torch.randn(runs, alphas, k, dtype=torch.float64, generator=generator(2))


def single(episodes: Episodes, run: int) -> tuple[list[int], list[float]]:
    """One run's episode: S_0 ... S_T and R_1 ... R_T."""
    length = sum(run < runs for runs in episodes.running)
    return episodes.states[: length + 1, run].tolist(), episodes.rewards[:length, run].flatten().tolist()


@pytest.fixture
def episodes() -> Episodes:
    played, _ = play(random_process(), random_features(), 7, generator())
    assert len({len(single(played, run)[1]) for run in range(7)}) > 3  # of many lengths
    return played


def by_hand(episodes: Episodes, w: torch.Tensor, algorithm) -> torch.Tensor:
    """algorithm(x(S_0) ... x(S_T), R_1 ... R_T, w, alpha) -> w, run by run and step size by step size, in numpy."""
    out = w.clone()
    for run in range(w.shape[0]):
        states, rewards = single(episodes, run)
        for i, alpha in enumerate(ALPHAS.flatten().tolist()):
            out[run, i] = torch.as_tensor(
                algorithm(episodes.x[states].numpy(), rewards, w[run, i].numpy().copy(), alpha)
            )
    return out


def n_step_return(x, rewards, t: int, n: int, w) -> float:
    """G_t:t+n from its definition; beyond the end the whole return."""
    horizon = min(t + n, len(rewards))
    paid = sum(GAMMA ** (i - t) * rewards[i] for i in range(t, horizon))
    return paid + (GAMMA**n * x[t + n] @ w if t + n < len(rewards) else 0.0)


def truncated_lambda_return(x, rewards, t: int, horizon: int, lambda_: float, w_at) -> float:
    """Equation 12.9: the n-step returns up to the horizon, the last with what remains of the weights.

    w_at(time) are the weights that value the state at that time."""
    total = 0.0
    for n in range(1, horizon - t):
        total += (1 - lambda_) * lambda_ ** (n - 1) * n_step_return(x, rewards, t, n, w_at(t + n))
    return total + lambda_ ** (horizon - t - 1) * n_step_return(x, rewards, t, horizon - t, w_at(horizon))


# --- each method against its definition ------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 1000])
def test_n_step_td_is_the_books_loop(episodes, n):
    def algorithm(x, rewards, w, alpha):  # with its clock: the update of time tau at time tau + n - 1
        length = len(rewards)
        for t in range(length + n):
            tau = t - n + 1
            if 0 <= tau < length:
                w += alpha * (n_step_return(x, rewards, tau, n, w) - x[tau] @ w) * x[tau]
        return w

    w = random_weights(7, 4)
    expected = by_hand(episodes, w, algorithm)
    n_step_td(linear, w, episodes, ALPHAS, GAMMA, min(n, len(episodes.running)))
    torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 0.9, 1.0])
def test_lambda_return_is_the_weighted_sum_of_all_n_step_returns(episodes, lambda_):
    def algorithm(x, rewards, w, alpha):
        for t in range(len(rewards)):
            target = truncated_lambda_return(x, rewards, t, len(rewards), lambda_, lambda _, w=w: w)
            w = w + alpha * (target - x[t] @ w) * x[t]
        return w

    w = random_weights(7, 4)
    expected = by_hand(episodes, w, algorithm)
    lambda_return(linear, w, episodes, ALPHAS, GAMMA, lambda_)
    torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 0.9, 1.0])
def test_td_lambda_gives_each_error_to_all_states_before_it(episodes, lambda_):
    def algorithm(x, rewards, w, alpha):  # without a trace: the sum that it stands for
        for t, reward in enumerate(rewards):
            following = x[t + 1] @ w if t + 1 < len(rewards) else 0.0
            delta = reward + GAMMA * following - x[t] @ w
            w = w + alpha * delta * sum((GAMMA * lambda_) ** (t - k) * x[k] for k in range(t + 1))
        return w

    w = random_weights(7, 4)
    expected = by_hand(episodes, w, algorithm)
    td_lambda(linear, w, episodes, ALPHAS, GAMMA, lambda_)
    torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 0.9, 1.0])
def test_true_online_td_equals_the_online_lambda_return_algorithm(episodes, lambda_):
    def algorithm(x, rewards, w, alpha):  # section 12.4: at every horizon all updates are made anew
        first, found = w, [w]  # found[h]: the weights at time h, w_h^h, which bootstrap from S_h+1 on
        for horizon in range(1, len(rewards) + 1):
            w = first
            for t in range(horizon):
                target = truncated_lambda_return(x, rewards, t, horizon, lambda_, lambda time: found[time - 1])
                w = w + alpha * (target - x[t] @ w) * x[t]
            found.append(w)
        return found[-1]

    w = random_weights(7, 4)
    expected = by_hand(episodes, w, algorithm)
    true_online_td(linear, w, episodes, ALPHAS, GAMMA, lambda_)
    torch.testing.assert_close(w, expected)


def change(method, v, w: torch.Tensor, episodes: Episodes, how: float, alpha: float = 1e-7) -> torch.Tensor:
    """What a method changes per step size, in the limit of small ones: the sum of its updates by the same weights."""
    learned = w.clone()
    method(v, learned, episodes, torch.tensor([[alpha]], dtype=torch.float64), GAMMA, how)
    return (learned - w) / alpha


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.8, 1.0])
def test_the_forward_view_equals_the_backward_view(episodes, lambda_):
    w = random_weights(7, 4)
    forward = change(lambda_return, linear, w, episodes, lambda_)
    for backward in (td_lambda, true_online_td):
        torch.testing.assert_close(change(backward, linear, w, episodes, lambda_), forward, atol=1e-4, rtol=1e-4)
    assert forward.abs().max() > 0.1


def test_the_ends_of_the_spectrum_are_td_and_monte_carlo(episodes):
    def learned(method, how):
        w = random_weights(7, 4)
        method(linear, w, episodes, ALPHAS, GAMMA, how)
        return w

    td, monte_carlo = learned(n_step_td, 1), learned(n_step_td, len(episodes.running))
    for method in (lambda_return, td_lambda, true_online_td):
        torch.testing.assert_close(learned(method, 0.0), td)
    torch.testing.assert_close(learned(lambda_return, 1.0), monte_carlo)
    assert not torch.allclose(td, monte_carlo)


def test_with_a_network_td_1_is_monte_carlo_for_small_steps(episodes):
    w = random_weights(7, 3 * (4 + 2) + 1)
    monte_carlo = change(n_step_td, network, w, episodes, len(episodes.running))
    torch.testing.assert_close(change(td_lambda, network, w, episodes, 1.0), monte_carlo, atol=1e-4, rtol=1e-4)
    td = change(n_step_td, network, w, episodes, 1)
    torch.testing.assert_close(change(td_lambda, network, w, episodes, 0.0), td, atol=1e-4, rtol=1e-4)
    # semi-gradient: the target is no function of the weights
    by_hand = torch.zeros_like(w)
    for run in range(7):
        states, rewards = single(episodes, run)
        for t, reward in enumerate(rewards):
            now, later = (episodes.x[states[i]].expand(7, 1, -1) for i in (t, t + 1))
            error = reward + GAMMA * network(w, later) - network(w, now)
            by_hand[run] += (error * gradient(network, w, now))[run]
    torch.testing.assert_close(td, by_hand, atol=1e-4, rtol=1e-4)


def test_an_episode_may_fill_the_last_block():
    states = torch.tensor([[0]] * 64 + [[6]])
    rewards = torch.randn(64, 1, 1, 1, dtype=torch.float64, generator=generator())
    episodes, ends = Episodes(random_features(), states, rewards, [1] * 64), []
    for method, how in ((n_step_td, 64), (lambda_return, 1.0)):
        w = random_weights(1, 4)
        method(linear, w, episodes, ALPHAS, GAMMA, how)
        ends.append(w)
    torch.testing.assert_close(*ends)


def test_rewards_of_n_steps_are_brute_force_sums(episodes):
    for n in (1, 3, len(episodes.running)):
        found = n_step_rewards(episodes, GAMMA, n)
        for run in range(7):
            _, rewards = single(episodes, run)
            expected = [sum(GAMMA**i * r for i, r in enumerate(rewards[t : t + n])) for t in range(len(rewards))]
            assert found[: len(rewards), run].flatten().tolist() == pytest.approx(expected, abs=1e-12)


# --- the value functions ---------------------------------------------------------------------


@pytest.mark.parametrize("v, num_weights", [(linear, 4), (network, 3 * (4 + 2) + 1)])
def test_gradients_are_finite_differences(v, num_weights):
    w, x = random_weights(5, num_weights), random_features()[:5].unsqueeze(1)
    found = gradient(v, w, x).expand_as(w)
    for i in range(num_weights):
        step = torch.zeros(num_weights, dtype=torch.float64)
        step[i] = 1e-6
        difference = (v(w + step, x) - v(w - step, x)).squeeze(-1) / 2e-6
        torch.testing.assert_close(found[..., i], difference, atol=1e-8, rtol=0)


def test_network_is_what_torch_computes_and_zero_at_the_end():
    w, x = random_weights(5, 3 * (4 + 2) + 1), random_features()
    values = network(w, x)
    assert values.shape == (5, 2, 7) and not values[..., -1].any()
    hidden, out = torch.nn.Linear(4, 3).double(), torch.nn.Linear(3, 1).double()
    for run in range(5):
        parameters = list(hidden.parameters()) + list(out.parameters())
        torch.nn.utils.vector_to_parameters(w[run, 1], parameters)
        torch.testing.assert_close(values[run, 1, :-1], out(torch.tanh(hidden(x[:-1]))).squeeze(1).detach())


@pytest.mark.parametrize(
    "flags", [{}, {"num_features": 4}, {"features": "fourier", "num_features": 3}, {"num_units": 8}]
)
def test_at_first_every_state_has_the_first_value(flags):
    args = Args(num_runs=3, **flags)
    x = make_features(args, 10)
    w = first_weights(args, x, 0.5, generator())
    values = (network if args.num_units else linear)(w, x)
    torch.testing.assert_close(values[..., :-1], torch.full((3, 1, 10), 0.5, dtype=torch.float64))
    assert not values[..., -1].any()
    assert args.num_units == 0 or len(w.unique(dim=0)) == 3  # every run has its own network


def test_features():
    assert torch.equal(make_features(Args(), 3), torch.eye(4, 3, dtype=torch.float64))
    groups = make_features(Args(num_features=3), 7)
    assert groups.sum(dim=0).tolist() == [3, 2, 2] and groups[-1].sum() == 0
    assert (groups[:-1].argmax(dim=1).diff() >= 0).all()  # neighbours share a group
    cosines = make_features(Args(features="fourier", num_features=3), 5)
    expected = [[math.cos(i * math.pi * s / 4) for i in range(3)] for s in range(5)]
    torch.testing.assert_close(cosines, torch.tensor([*expected, [0.0] * 3], dtype=torch.float64))


# --- environments ----------------------------------------------------------------------------


def test_values_of_the_walks_are_known():
    for name, low in (("walk-5", 0.0), ("walk-19", -1.0)):
        num_states, *_ = WALKS[name]
        truth, reached = true_values(random_walk(*WALKS[name][:3]), 1.0, name)
        line = torch.linspace(low, 1, num_states + 2, dtype=torch.float64)[1:-1]
        torch.testing.assert_close(truth, line)
        assert reached.all()
    process = random_walk(*WALKS["walk-1000"][:3])
    torch.testing.assert_close(process.probs.sum(dim=1), torch.ones(1001, dtype=torch.float64), atol=1e-14, rtol=0)
    truth, _ = true_values(process, 1.0, "walk-1000")
    assert (truth.diff() > 0).all()
    torch.testing.assert_close(truth, -truth.flip(0))


@pytest.mark.parametrize("env_id, gamma", [("FrozenLake-v1", 1.0), ("FrozenLake-v1", 0.9), ("CliffWalking-v1", 0.9)])
def test_values_of_a_gymnasium_table_are_those_of_sweeps_over_it(env_id, gamma):
    env = gym.make(env_id).unwrapped
    values = np.zeros(env.observation_space.n)
    for _ in range(500):
        values = np.array(
            [
                np.mean(
                    [sum(p * (r + gamma * values[to] * (not over)) for p, to, r, over in a) for a in actions.values()]
                )
                for actions in env.P.values()
            ]
        )
    truth, reached = true_values(transition_table(env_id), gamma, env_id)
    np.testing.assert_allclose(truth, values, atol=1e-8)
    dead = {"FrozenLake-v1": {5, 7, 11, 12, 15}, "CliffWalking-v1": set(range(37, 48))}  # holes, cliff, goal
    assert set((~reached).nonzero().flatten().tolist()) == dead[env_id]


def test_episodes_follow_the_process():
    process = random_process()
    episodes, order = play(process, random_features(), 20_000, generator())
    assert sorted(order.tolist()) == list(range(20_000))
    assert episodes.running == sorted(episodes.running, reverse=True) and episodes.running[0] == 20_000
    started, ended = episodes.states[:-1].flatten(), episodes.states[1:].flatten()
    alive = started != 6
    p = torch.zeros(7, 7, dtype=torch.float64).scatter_add_(1, process.next_states, process.probs)
    counts = torch.zeros(7, 7, dtype=torch.float64)
    counts.index_put_((started[alive], ended[alive]), torch.ones(1, dtype=torch.float64), accumulate=True)
    n = counts.sum(dim=1, keepdim=True)[:-1]
    spread = (p[:-1] * (1 - p[:-1]) / n).sqrt()
    assert ((counts[:-1] / n - p[:-1]).abs() <= 4.5 * spread).all() and (spread > 0).sum() > 10
    assert not episodes.rewards.flatten(1)[episodes.states[:-1] == 6].any() and (ended[~alive] == 6).all()
    truth, _ = true_values(process, 1.0, "")
    returns = episodes.rewards.sum(dim=0).flatten()
    assert abs(returns.mean() - truth.mean()) < 4 * returns.std() / len(returns) ** 0.5


def test_walks_start_in_the_middle_and_take_a_hundred_steps():
    episodes, _ = play(random_walk(*WALKS["walk-19"][:3]), torch.zeros(20, 1), 5000, generator())
    assert (episodes.states[0] == 9).all()
    assert abs(sum(episodes.running) / 5000 - 100) < 5  # 10 x 10; standard error 1.2
    paid = episodes.rewards.sum(dim=0).flatten()
    assert set(paid.tolist()) == {-1.0, 1.0}
    for here, there in pairwise(episodes.states[:50, 0].tolist()):
        assert abs(here - there) == 1 or there == 19


# --- fixed points ----------------------------------------------------------------------------


def batch(process: Process, x: torch.Tensor, first: torch.Tensor, n: int, times: int) -> tuple:
    """Weights after so many episodes of each run, and the episodes [(xs, rewards)] of the runs."""
    runs, k, g = len(first), x.shape[1], generator(3)
    a, b, seen = first.new_zeros(runs, k, k), first.new_zeros(runs, k, 1), [[] for _ in range(runs)]
    for _ in range(times):
        episodes, order = play(process, x, runs, g)
        a, b, first, seen = a[order], b[order], first[order], [seen[i] for i in order.tolist()]
        w = batch_weights(a, b, first, episodes, GAMMA, min(n, len(episodes.running)))
        for run in range(runs):
            states, rewards = single(episodes, run)
            seen[run].append((x[states].numpy(), rewards))
    return w, seen


@pytest.mark.parametrize("n", [1, 2, 1000])
@pytest.mark.parametrize("table", [True, False])
def test_batch_weights_are_where_sweeps_converge(n, table):
    x = make_features(Args(), 6) if table else random_features()
    first = random_weights(2, x.shape[1], alphas=1)
    w, seen = batch(random_process(), x, first, n, times=2)
    assert not table or min(np.sum([xs[:-1].sum(axis=0) for xs, _ in run], axis=0).min() for run in seen) == 0  # unseen
    for run in range(2):

        def update(weights, run=run):  # of one sweep, per step size
            return sum(
                (n_step_return(xs, rewards, t, n, weights) - xs[t] @ weights) * xs[t]
                for xs, rewards in seen[run]
                for t in range(len(rewards))
            )

        k = x.shape[1]
        sweep = np.eye(k + 1)  # of (weights, 1): sweeps are affine
        sweep[:k, k] = 0.01 * update(np.zeros(k))
        for i in range(k):
            sweep[:k, i] += 0.01 * update(np.eye(k)[i]) - sweep[:k, k]
        many = np.linalg.matrix_power(sweep, 2**24)
        ends = [many[:k, :k] @ start + many[:k, k] for start in first[:, 0].numpy()]  # the runs were reordered
        assert any(np.allclose(end, w[run, 0], atol=1e-6) for end in ends)


def test_batch_td_on_a_table_is_the_value_of_the_likeliest_process():
    """Section 6.3: certainty equivalence, by counts; and batch Monte Carlo gives the mean returns."""
    first = torch.zeros(3, 1, 6, dtype=torch.float64)
    x = make_features(Args(), 6)
    td, seen = batch(random_process(), x, first, 1, times=20)
    monte_carlo, _ = batch(random_process(), x, first, 10_000, times=20)
    for run in range(3):
        counts, paid, returns = np.zeros((6, 7)), np.zeros(6), [[] for _ in range(6)]
        for xs, rewards in seen[run]:
            states = [*xs[:-1].argmax(axis=1), 6]
            for t, (here, there) in enumerate(pairwise(states)):
                counts[here, there] += 1
                paid[here] += rewards[t]
                returns[here].append(sum(GAMMA**i * r for i, r in enumerate(rewards[t:])))
        visits = counts.sum(axis=1)
        likeliest = np.linalg.solve(np.eye(6) - GAMMA * counts[:, :6] / visits[:, None], paid / visits)
        np.testing.assert_allclose(td[run, 0], likeliest, atol=1e-9)
        np.testing.assert_allclose(monte_carlo[run, 0], [np.mean(each) for each in returns], atol=1e-9)


def test_the_fixed_point_of_linear_td_solves_the_projected_equations():
    """Both for batches of many episodes and for TD(0) itself with a small step size."""
    process, x = random_process(), random_features(k=3)
    p = torch.zeros(7, 7, dtype=torch.float64).scatter_add_(1, process.next_states, process.probs)[:6, :6]
    visits = torch.linalg.solve(torch.eye(6) - p.T, process.start)
    reward, d = (process.probs * process.rewards).sum(dim=1)[:6], torch.diag(visits)
    exact = torch.linalg.solve(x[:6].T @ d @ (torch.eye(6) - GAMMA * p) @ x[:6], x[:6].T @ d @ reward)
    runs = 20_000
    w = torch.cat([exact.expand(runs, 1, 3), exact.expand(runs, 1, 3) + 0.5], dim=1)
    a, b = w.new_zeros(runs, 3, 3), w.new_zeros(runs, 3, 1)
    episodes, _ = play(process, x, runs, generator())
    batch_weights(a, b, torch.zeros_like(w[:, :1]), episodes, GAMMA, 1)
    torch.testing.assert_close(torch.linalg.solve(a.mean(dim=0), b.mean(dim=0)).flatten(), exact, atol=0.05, rtol=0)
    drift = change(n_step_td, linear, w, episodes, 1)  # [runs, 2, 3]
    mean, error = drift.mean(dim=0), drift.std(dim=0) / runs**0.5
    assert (mean[0].abs() < 4 * error[0]).all(), "at the fixed point nothing changes on average"
    assert (mean[1].abs() > 4 * error[1]).any() and exact.norm() > 0.5


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of numbers: the pictures take longer than the training."""
    monkeypatch.setattr(train.__globals__["Run"], "plot", lambda run, metric: None)
    monkeypatch.setitem(train.__globals__, "draw_values", lambda *pictured: None)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "method, how, rate, bar",
    [
        ("n-step", {"n": 4}, 0.4, 0.263),
        ("n-step", {"n": 1}, 0.8, 0.345),
        ("lambda-return", {"trace_lambda": 0.8}, 0.4, 0.2575),
        ("td-lambda", {"trace_lambda": 0.8}, 0.3, 0.262),
        ("true-online", {"trace_lambda": 0.8}, 0.4, 0.254),
    ],
)
def test_errors_on_the_nineteen_states(tmp_path, method, how, rate, bar):
    """Our own long runs' averages over ten episodes (results/): the books' curves at their lowest points."""
    row = train(Args(run_dir=tmp_path / "run", method=method, learning_rate=(rate,), num_runs=100, **how))
    error, se = row[f"eval/average_rms_error_{rate}"], row[f"eval/average_rms_error_se_{rate}"]
    assert abs(error - bar) < 4 * se < 0.03


@pytest.mark.usefixtures("no_pictures")
def test_errors_on_the_five_states(tmp_path):
    """Example 6.2 after 100 episodes: TD(0) .036 with step size .05, Monte Carlo .096 with .01; and both in batches."""
    common = {"env_id": "walk-5", "total_episodes": 100, "num_runs": 80}
    for i, (method, rate, batch, bar) in enumerate(
        [("td", 0.05, False, 0.036), ("monte-carlo", 0.01, False, 0.096), ("td", 0.1, True, 0.036)]
    ):
        row = train(Args(run_dir=tmp_path / str(i), method=method, learning_rate=(rate,), batch=batch, **common))
        assert abs(row[f"eval/rms_error_{rate}"] - bar) < 4 * row[f"eval/rms_error_se_{rate}"] < 0.02, method


@pytest.mark.usefixtures("no_pictures")
def test_metrics_are_means_and_standard_errors_over_the_runs(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(train.__globals__, "draw_values", lambda run, truth, estimates, title: seen.append(estimates))
    row = train(Args(run_dir=tmp_path / "a", num_runs=5, total_episodes=3, learning_rate=(0.2,)))
    truth = torch.linspace(-0.9, 0.9, 19, dtype=torch.float64)
    errors = ((seen[0][3] - truth) ** 2).mean(dim=1).sqrt()
    assert row["eval/rms_error_0.2"] == pytest.approx(errors.mean().item())
    assert row["eval/rms_error_se_0.2"] == pytest.approx(errors.std(correction=1).item() / 5**0.5)
    column = [float(each["eval/rms_error_0.2"]) for each in rows(tmp_path / "a")]
    assert row["eval/average_rms_error_0.2"] == pytest.approx(np.mean(column))
    # the average's error is that of the runs' own averages: less than its parts', more than if they were independent
    parts = [float(each["eval/rms_error_se_0.2"]) for each in rows(tmp_path / "a")]
    assert np.linalg.norm(parts) / 3 / 2 < row["eval/average_rms_error_se_0.2"] <= np.mean(parts) + 1e-12


def test_networks_and_cosines_learn(tmp_path):
    common = {"env_id": "walk-5", "method": "td", "features": "fourier", "num_features": 2, "learning_rate": (0.01,)}
    for name, units, bar in (("a", 8, 0.13), ("b", 0, 0.1)):  # the first values are off by .236
        row = train(Args(run_dir=tmp_path / name, num_units=units, total_episodes=100, num_runs=20, **common))
        assert float(rows(tmp_path / name)[0]["eval/rms_error_0.01"]) > 0.2
        assert row["eval/rms_error_0.01"] < bar
    weights = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["weights"]
    assert weights.shape == (20, 1, 8 * (2 + 2) + 1)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"args.json", "metrics.csv", "curve.png", "values.png"}


@pytest.mark.usefixtures("no_pictures")
def test_a_gymnasium_table_is_learned(tmp_path):
    env = {"env_id": "FrozenLake-v1", "learning_rate": (0.1,), "num_runs": 30, "method": "td", "gamma": 0.9}
    row = train(Args(run_dir=tmp_path / "run", total_episodes=150, **env))
    first = float(rows(tmp_path / "run")[0]["eval/rms_error_0.1"])
    assert first == pytest.approx(0.13, abs=0.01) and row["eval/rms_error_0.1"] < 0.8 * first  # the goal is rare


@pytest.mark.usefixtures("no_pictures")
def test_the_seed_decides_every_number(tmp_path):
    small = {"num_runs": 3, "total_episodes": 2, "learning_rate": (0.1,), "num_units": 2}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **small))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.usefixtures("no_pictures")
def test_step_sizes_do_not_meet(tmp_path):
    both = train(Args(run_dir=tmp_path / "a", num_runs=6, total_episodes=3, learning_rate=(0.1, 0.4)))
    one = train(Args(run_dir=tmp_path / "b", num_runs=6, total_episodes=3, learning_rate=(0.4,)))
    assert all(both[key] == pytest.approx(one[key]) for key in one if key != "charts/SPS")
    assert both["eval/rms_error_0.1"] != both["eval/rms_error_0.4"]


# --- mistakes --------------------------------------------------------------------------------


class Endless(gym.Env):
    """Two states, back and forth."""

    observation_space = action_space = gym.spaces.Discrete(2)
    initial_state_distrib = (1.0, 0.0)
    P = {s: {a: [(1.0, 1 - s, 0.0, False)] for a in (0, 1)} for s in (0, 1)}  # noqa: RUF012


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"trace_lambda": 1.1}, "--trace-lambda"),
        ({"trace_lambda": -0.1}, "--trace-lambda"),
        ({"trace_lambda": math.nan}, "--trace-lambda"),
        ({"gamma": 0.0}, "--gamma"),
        ({"n": 0}, "--n"),
        ({"total_episodes": 0}, "--total-episodes"),
        ({"num_runs": 1}, "--num-runs"),
        ({"seed": -1}, "--seed"),
        ({"num_units": -1}, "--num-units"),
        ({"learning_rate": ()}, "--learning-rate"),
        ({"learning_rate": (0.1, 0.0)}, "--learning-rate"),
        ({"learning_rate": (math.nan,)}, "--learning-rate"),
        ({"learning_rate": (0.1, 0.1)}, "twice"),
        ({"batch": True, "learning_rate": (0.1,)}, "--method td, n-step or monte-carlo"),
        ({"batch": True, "method": "td"}, "single --learning-rate"),
        ({"batch": True, "method": "td", "learning_rate": (0.1,), "num_units": 2}, "--num-units 0"),
        ({"method": "true-online", "num_units": 2}, "--num-units 0"),
        ({"method": "lambda-return", "num_units": 2}, "--num-units 0"),
        ({"num_features": 20}, "only 19 states"),
        ({"env_id": "CartPole-v1"}, "no transition table"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "Endless-v0"}, "do not end"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path, monkeypatch):
    monkeypatch.setitem(gym.registry, "Endless-v0", gym.envs.registration.EnvSpec("Endless-v0", Endless))
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_step_size_that_is_too_large_is_named(tmp_path):
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        train(Args(run_dir=tmp_path / "run", method="td-lambda", trace_lambda=1.0, learning_rate=(0.1, 1e9)))


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    small = {"run_dir": tmp_path / "run", "num_runs": 2, "total_episodes": 1}
    train(Args(**small))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**small, seed=2))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/td_lambda.py", "--env-id", "CartPole-v1", "--run-dir", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id CartPole-v1" in done.stderr and "Traceback" not in done.stderr
