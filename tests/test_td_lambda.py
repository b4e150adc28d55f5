"""Each algorithm against its definition; the random walks against closed forms and published errors."""

import csv

import numpy as np
import pytest

from algos.td_lambda import Args, Batch, lambda_return, n_step_td, random_walk, td_lambda, train, true_online_td

ALPHA, GAMMA = np.array([0.1, 0.37, 0.8]), 0.9


def episode(seed: int = 0, length: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [3 step sizes, 4 states + the end], states that come again, rewards at every step."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(3, 5))
    v[:, 4] = 0
    return v, np.append(rng.integers(4, size=length), 4), rng.normal(size=length)


def n_step_return(v, states, rewards, t, n):
    """Equation 7.1 for one step size; v [states + 1]."""
    end = min(t + n, len(rewards))
    return sum(GAMMA ** (k - t) * rewards[k] for k in range(t, end)) + GAMMA ** (end - t) * v[states[end]]


def truncated_lambda_return(v_at, states, rewards, t, horizon, lambda_):
    """Equation 12.9: n-step returns up to the horizon; v_at(t) are the values that a return to S_t bootstraps from."""
    total = lambda_ ** (horizon - t - 1) * n_step_return(v_at(horizon), states, rewards, t, horizon - t)
    for n in range(1, horizon - t):
        total += (1 - lambda_) * lambda_ ** (n - 1) * n_step_return(v_at(t + n), states, rewards, t, n)
    return total


@pytest.mark.parametrize("n", [1, 2, 4, 1000])
def test_n_step_td_is_the_books_box(n):
    v, states, rewards = episode()
    expected, T = v.copy(), len(rewards)
    for row, alpha in zip(expected, ALPHA, strict=True):
        for t in range(T + n):  # as it is written in Section 7.1, online
            if 0 <= (tau := t - n + 1) < T:
                row[states[tau]] += alpha * (n_step_return(row, states, rewards, tau, n) - row[states[tau]])
    n_step_td(v, states, rewards, ALPHA, GAMMA, n)
    assert v == pytest.approx(expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_the_lambda_return_averages_all_n_step_returns(lambda_):
    v, states, rewards = episode()
    expected, T = v.copy(), len(rewards)
    for row, alpha in zip(expected, ALPHA, strict=True):
        for t in range(T):
            target = truncated_lambda_return(lambda _, row=row: row, states, rewards, t, T, lambda_)
            row[states[t]] += alpha * (target - row[states[t]])
    lambda_return(v, states, rewards, ALPHA, GAMMA, lambda_)
    assert v == pytest.approx(expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_the_backward_view_is_the_forward_view_for_small_steps(lambda_):
    alpha, changes = np.full(3, 1e-7), []
    for update in (lambda_return, td_lambda, true_online_td):
        v, states, rewards = episode()
        before = v.copy()
        update(v, states, rewards, alpha, GAMMA, lambda_)
        changes.append((v - before) / 1e-7)
    assert changes[1] == pytest.approx(changes[0], abs=1e-4)
    assert changes[2] == pytest.approx(changes[0], abs=1e-4)
    assert not changes[0][:, 4].any()  # the terminal state


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_true_online_td_is_the_online_lambda_return_algorithm(lambda_):
    """Section 12.4: at every horizon h all updates are made anew, with returns that end at h."""
    v, states, rewards = episode()
    expected = []
    for row, alpha in zip(v, ALPHA, strict=True):
        values = [row.copy()]  # w_h after horizon h
        for h in range(1, len(rewards) + 1):
            w = row.copy()
            for t in range(h):
                target = truncated_lambda_return(lambda k: values[k - 1], states, rewards, t, h, lambda_)  # noqa: B023
                w[states[t]] += alpha * (target - w[states[t]])
            values.append(w)
        expected.append(values[-1])
    true_online_td(v, states, rewards, ALPHA, GAMMA, lambda_)
    assert v == pytest.approx(np.array(expected))


def test_td_lambda_with_large_steps():
    v, states, rewards = episode()
    expected = v.copy()
    for row, alpha in zip(expected, ALPHA, strict=True):
        visits = []  # of every earlier step, instead of traces
        for t, (s, r, s2) in enumerate(zip(states, rewards, states[1:], strict=False)):
            delta, visits = r + GAMMA * row[s2] - row[s], [*visits, s]
            for k, visited in enumerate(visits):
                row[visited] += alpha * (GAMMA * 0.7) ** (t - k) * delta
    td_lambda(v, states, rewards, ALPHA, GAMMA, 0.7)
    assert v == pytest.approx(expected)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_batch_updating_is_where_sweeps_converge_to(lambda_):
    batch, v, w = Batch(5), np.full((2, 6), 0.5), np.full((1, 6), 0.5)
    v[:, 5] = w[:, 5] = 0
    paths = [2, 3, 4, 5], [2, 1, 2, 3, 2, 3, 4, 3, 4, 5]  # the leftmost state is not seen
    episodes = [(np.array(path), np.array([0.0] * (len(path) - 2) + [1.0])) for path in paths]
    for states, rewards in episodes:
        batch(v, states, rewards, None, GAMMA, lambda_)
    for _ in range(3000):
        change = np.zeros_like(w)
        for states, rewards in episodes:
            after = w.copy()
            td_lambda(after, states, rewards, np.array([1e-7]), GAMMA, lambda_)
            change += (after - w) / 1e-7
        w += 0.02 * change
    assert v[0] == pytest.approx(w[0], abs=1e-4) and (v[0] == v[1]).all()
    assert v[0, 0] == 0.5


def test_batch_td_1_is_the_mean_return():
    batch, v, returns = Batch(5), np.zeros((1, 6)), {s: [] for s in range(5)}
    for seed in range(30):
        states, rewards = random_walk(5, -1.0, np.random.default_rng(seed))
        batch(v, states, rewards, None, 1.0, 1.0)
        for s in states[:-1]:
            returns[s].append(rewards.sum())
    assert v[0, :5] == pytest.approx([np.mean(returns[s]) for s in range(5)])


def test_the_random_walks():
    rng, lengths, rights = np.random.default_rng(0), [], []
    for _ in range(2000):
        states, rewards = random_walk(5, -1.0, rng)
        assert states[0] == 2 and states[-1] == 5 and (np.abs(np.diff(states[:-1])) == 1).all()
        assert len(rewards) == len(states) - 1 and not rewards[:-1].any()
        assert rewards[-1] == {0: -1, 4: 1}[states[-2]]
        lengths.append(len(rewards))
        rights.append(rewards[-1] == 1)
    assert np.mean(lengths) == pytest.approx(9, abs=0.5) and np.mean(rights) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    "method, alpha, published",
    [(("n-step", 4), 0.4, 0.262), (("true-online", 0.8), 0.4, 0.243), (("n-step", 1), 0.8, 0.345)],
)
def test_published_errors(method, alpha, published, tmp_path):
    row = train(Args(run_dir=tmp_path / "run", method=method, learning_rate=(alpha, 0.01), num_runs=50))
    error, se = row[f"eval/average_rms_error_{alpha:g}"], row[f"eval/average_rms_error_se_{alpha:g}"]
    assert 0.001 < se < 0.015  # under two other base seeds .0016 and .0022 were seen
    assert abs(error - published) < 4 * se + 0.005  # theirs, of 60 runs or 10, has an error too
    assert row["eval/average_rms_error_0.01"] > 0.45  # hardly learned
    v = np.load(tmp_path / "run/model.npz")["v"]
    rms = np.sqrt(((v[:, 0, :19] - np.arange(-9, 10) / 10) ** 2).mean(axis=1))
    assert row[f"eval/rms_error_{alpha:g}"] == pytest.approx(rms.mean())
    assert row[f"eval/rms_error_se_{alpha:g}"] == pytest.approx(rms.std(ddof=1) / 50**0.5)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_true_values_of_five_states_are_sixths(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", num_runs=2, total_episodes=1, env_id="walk-5", learning_rate=(1e-9,)))
    assert row["eval/rms_error_1e-09"] == pytest.approx(np.std(np.arange(1, 6) / 6))  # of values that are all 1/2


def test_the_average_is_over_the_episodes_so_far_and_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, num_runs=5, total_episodes=4, env_id="walk-5", seed=seed))
    a = rows(tmp_path / "a")
    assert a == rows(tmp_path / "b") != rows(tmp_path / "c") and len(a) == 4
    assert a[3]["eval/average_rms_error_0.1"] == pytest.approx(np.mean([row["eval/rms_error_0.1"] for row in a]))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"method": ("n-step", 0)}, "--method n-step 0"),
        ({"method": ("n-step", 1.5)}, "--method n-step 1.5"),
        ({"method": ("td-lambda", 1.2)}, "--method td-lambda 1.2"),
        ({"method": ("sarsa", 0.5)}, "method"),
        ({"learning_rate": ()}, "learning_rate"),
        ({"learning_rate": (-0.1,)}, "learning_rate"),
        ({"num_runs": 1}, "num_runs"),
        ({"env_id": "walk-7"}, "env_id"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
