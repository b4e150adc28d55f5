"""Dynamic programming against linear systems, all policies one by one, and the numbers printed in the book."""

import csv
import itertools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import algos.dynamic_programming
from algos.dynamic_programming import (
    Args,
    UsageError,
    action_values,
    check_bounded,
    expected_returns,
    greedy,
    load_model,
    make_model,
    sweep,
    train,
)

PUBLISHED = Path("benchmarks/published/dynamic_programming.csv")


def random_world(seed: int = 0) -> dict:
    """Four states, two actions, up to three outcomes, some of which terminate."""
    rng, P = np.random.default_rng(seed), {}
    for s in range(4):
        P[s] = {}
        for a in range(2):
            n = int(rng.integers(1, 4))
            probabilities, over = rng.dirichlet(np.ones(n)), rng.random(n) < 0.3
            rows = zip(probabilities, rng.integers(4, size=n), rng.normal(size=n), over, strict=True)
            P[s][a] = [(float(p), int(s2), float(r), bool(t)) for p, s2, r, t in rows]
    return P


def exact_values(P: dict, policy: np.ndarray, gamma: float) -> np.ndarray:
    """The solution of v = r + gamma P v for a policy [states, actions]."""
    A, b = np.eye(len(P)), np.zeros(len(P))
    for s, a in np.ndindex(policy.shape):
        for probability, s2, reward, terminated in P[s][a]:
            b[s] += policy[s, a] * probability * reward
            A[s, s2] -= policy[s, a] * probability * gamma * (not terminated)
    return np.linalg.solve(A, b)


def run(tmp_path, **args) -> tuple[dict, np.ndarray, np.ndarray]:
    folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    row, saved = train(Args(run_dir=folder, **args)), np.load(folder / "model.npz")
    return row, saved["v"], saved["policy"]


def test_action_values_are_expectations_over_the_table():
    P, v = random_world(), np.array([1.0, -2.0, 3.0, 0.5])
    expected = [
        [sum(p * (r + 0.9 * v[s2] * (not over)) for p, s2, r, over in P[s][a]) for a in range(2)] for s in range(4)
    ]
    assert action_values(*make_model(P), v, 0.9) == pytest.approx(np.array(expected))


def test_a_sweep_in_place_uses_what_it_has_updated():
    model, policy = make_model(random_world()), np.array([[0.2, 0.8]] * 4)
    v = expected = np.arange(4.0)
    for s in range(4):
        q = action_values(*model, expected, 0.9)
        expected = np.where(np.arange(4) == s, (policy * q).sum(axis=1), expected)
    assert sweep(*model, v, policy, 0.9, in_place=True) == pytest.approx(expected)
    assert sweep(*model, v, policy, 0.9) == pytest.approx((policy * action_values(*model, v, 0.9)).sum(axis=1))
    assert v.tolist() == [0, 1, 2, 3]


def test_the_greedy_policy_takes_all_best_actions():
    q = np.array([[1.0, 2.0, 2.0 + 1e-12], [0.0, -1.0, -2.0]])
    assert greedy(q).tolist() == [[0, 0.5, 0.5], [1, 0, 0]]


@pytest.mark.parametrize(
    "grid, gamma", [("gridworld-4x4", 1.0), ("gridworld-5x5", 0.9), ("gridworld-5x5 optimal", 0.9)]
)
def test_every_number_printed_in_the_book(grid, gamma):
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["grid"] == grid]
    P, R, first = load_model(grid.split()[0])
    policy = None if "optimal" in grid else np.full((len(P), 4), 0.25)
    for number in {row["sweep"] for row in rows}:
        v = np.zeros(len(P))
        for _ in range(1000 if number == "last" else int(number)):
            v = sweep(P, R, v, policy, gamma)
        for row in rows:
            if row["sweep"] == number:  # rounded as printed
                allowed = 0.5 * 10 ** -int(row["decimals"]) + 1e-9
                assert abs(v[int(row["state"])] - float(row["value"])) <= allowed
    assert len(rows) >= 5 and first == pytest.approx(1 / len(P))


@pytest.mark.parametrize("in_place", [False, True])
def test_policy_evaluation_solves_the_linear_system(in_place, tmp_path):
    args = {"env_id": "FrozenLake-v1", "gamma": 0.97, "evaluation_sweeps": 0}
    row, v, _ = run(tmp_path, in_place=in_place, **args)
    exact = exact_values(gym.make("FrozenLake-v1").unwrapped.P, np.full((16, 4), 0.25), 0.97)
    assert v == pytest.approx(exact, abs=1e-8)
    assert row["charts/start_value"] == pytest.approx(exact[0], abs=1e-8)


@pytest.mark.parametrize("evaluation_sweeps", [1, 3, 10**6])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_every_iteration_finds_the_best_of_all_policies(evaluation_sweeps, gamma, tmp_path, monkeypatch):
    P = random_world(seed=5)
    for s in range(4):  # every state can end, so that gamma 1 is allowed
        P[s] = {a: [(0.9 * p, s2, -abs(r), over) for p, s2, r, over in P[s][a]] + [(0.1, 0, 0.0, True)] for a in P[s]}
    first = np.array([0.5, 0, 0, 0.5])
    values = [exact_values(P, np.eye(2)[list(actions)], gamma) for actions in itertools.product(range(2), repeat=4)]
    monkeypatch.setattr(algos.dynamic_programming, "load_model", lambda _: (*make_model(P), first))
    row, v, policy = run(tmp_path, gamma=gamma, evaluation_sweeps=evaluation_sweeps)
    assert v == pytest.approx(np.max(values, axis=0), abs=1e-8)
    assert exact_values(P, policy, gamma) == pytest.approx(v, abs=1e-8)
    assert row["charts/greedy_value"] == pytest.approx((v[0] + v[3]) / 2, abs=1e-8)


def test_the_number_of_sweeps(tmp_path):
    def sweeps(**args):
        return run(tmp_path, **args)[0]["global_step"]

    # ShangtongZhang's code for the book needs 172 and 113, not counting the one whose change is below theta
    assert sweeps(evaluation_sweeps=0, theta=1e-4) == 173
    assert sweeps(evaluation_sweeps=0, theta=1e-4, in_place=True) == 114
    assert sweeps() == 3  # value iteration: three steps from the farthest corner
    assert sweeps(env_id="CliffWalking-v1", evaluation_sweeps=2) == 17  # an improvement after every second sweep
    row, v, _ = run(tmp_path, evaluation_sweeps=0, total_sweeps=3)
    assert row["global_step"] == 3 and v[:4] == pytest.approx([0, -2.4375, -2.9375, -3])  # Figure 4.1, k = 3


@pytest.mark.parametrize(
    "env_id, args, expected",
    [
        ("CliffWalking-v1", {}, -13),
        ("Taxi-v4", {}, 7.93),
        ("FrozenLake-v1", {"gamma": 0.999, "max_episode_steps": 100}, 0.74),  # Gymnasium's reward threshold: 0.7
    ],
)
def test_the_return_of_the_optimal_policy(env_id, args, expected, tmp_path):
    row, _, policy = run(tmp_path, env_id=env_id, **args)
    assert row["charts/episodic_return"] == pytest.approx(expected, abs=0.005)
    assert policy.sum(axis=1) == pytest.approx(1)
    assert {p.name for p in (tmp_path / "run0").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.npz"}


def test_the_expected_return_has_a_time_limit():
    """A chain that ends with probability 1/2 at every step, and pays 1: 1 + 1/2 + 1/4 steps of the first three."""
    model = make_model({0: {0: [(0.5, 0, 1.0, False), (0.5, 0, 1.0, True)]}})
    assert expected_returns(*model, np.ones((1, 1)), 1.0, 3) == 1.75
    assert expected_returns(*model, np.ones((1, 1)), 0.5, 2) == 1.25


def test_worlds_whose_returns_have_no_bound_are_refused(tmp_path):
    exit_and_loop = {0: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 0, 5.0, True)]}}  # a rewarding loop beside an exit
    with pytest.raises(UsageError, match="rewards without end"):
        check_bounded(*make_model(exit_and_loop), improve=True)
    check_bounded(*make_model(exit_and_loop), improve=False)  # the random policy leaves the loop
    detour = {0: {0: [(0.9, 1, 0.0, False), (0.1, 0, 0.0, False)], 1: [(1.0, 0, 0.0, True)]}}
    detour[1] = {0: [(1.0, 0, 0.1, False)], 1: [(1.0, 0, 0.0, True)]}  # and one of two states, by chance
    with pytest.raises(UsageError, match="rewards without end"):
        check_bounded(*make_model(detour), improve=True)
    leaks = {0: {0: [(0.9, 0, 1.0, False), (0.1, 0, 0.0, True)], 1: [(1.0, 0, -1.0, False)]}}  # ends sooner or later
    check_bounded(*make_model(leaks), improve=True)
    paid_once = {0: {0: [(1.0, 1, 1.0, False)]}, 1: {0: [(1.0, 0, 0.0, True)]}}
    check_bounded(*make_model(paid_once), improve=True)
    trap = {0: {0: [(1.0, 1, -1.0, False)], 1: [(1.0, 0, 0.0, True)]}, 1: {a: [(1.0, 1, -1.0, False)] for a in (0, 1)}}
    for improve in (False, True):
        with pytest.raises(UsageError, match="no end can be reached from state 1"):
            check_bounded(*make_model(trap), improve)
    for env_id in ("gridworld-4x4", "FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"):
        check_bounded(*load_model(env_id)[:2], improve=True)


def test_the_same_rows_again(tmp_path):
    for name in "ab":
        train(Args(run_dir=tmp_path / name, env_id="FrozenLake-v1", evaluation_sweeps=5))
    a, b = ([*csv.DictReader((tmp_path / name / "metrics.csv").open())] for name in "ab")
    assert [{**x, "charts/SPS": 0} for x in a] == [{**x, "charts/SPS": 0} for x in b] and len(a) > 10


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "gridworld-5x5"}, "--gamma 1"),
        ({"env_id": "CartPole-v1"}, "transition table"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"gamma": 1.1}, "gamma"),
        ({"theta": 0.0}, "theta"),
        ({"evaluation_sweeps": -1}, "evaluation_sweeps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
