"""Dynamic programming: the book's figures, the linear solve, linear programming, and episodes played."""

import csv
import itertools
import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linprog

from algos.dynamic_programming import (
    ARROWS,
    Args,
    Model,
    UsageError,
    action_values,
    can_end,
    check_discount,
    expected_return,
    greedy,
    iterate,
    optimal_since,
    play,
    sweep,
    train,
    transition_table,
    world_map,
)

ENVS = ["gridworld-4x4", "gridworld-5x5", "FrozenLake-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1"]
GAMMAS = {"gridworld-4x4": 1.0, "CliffWalking-v1": 1.0}  # elsewhere 0.9
VARIANTS = [(k, in_place) for k in (1, 3, 0) for in_place in (False, True)]


def dense(env_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Gymnasium's own table, summed up: probability of going on in s' [states, actions, states], mean reward [s, a]."""
    table = gym.make(env_id).unwrapped.P
    going_on, rewards = np.zeros((len(table), len(table[0]), len(table))), np.zeros((len(table), len(table[0])))
    for state, action in itertools.product(table, table[0]):
        for probability, next_state, reward, terminated in table[state][action]:
            rewards[state, action] += probability * reward
            going_on[state, action, next_state] += 0.0 if terminated else probability
    return going_on, rewards


def gridworld(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for the book's two, from their pictures: each state by its coordinates."""
    places = [(row, column) for row in range(side) for column in range(side)]
    going_on, rewards = np.zeros((side**2, 4, side**2)), np.zeros((side**2, 4))
    for (row, column), (action, (down, right)) in itertools.product(
        places, enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)])
    ):
        state, target = side * row + column, (row + down, column + right)
        if side == 4:
            if (row, column) in ((0, 0), (3, 3)):
                continue
            rewards[state, action] = -1
            target = target if target in places else (row, column)
            going_on[state, action, places.index(target)] = target not in ((0, 0), (3, 3))
        elif (row, column) in ((0, 1), (0, 3)):
            rewards[state, action] = 10 if column == 1 else 5
            going_on[state, action, places.index((4, 1) if column == 1 else (2, 3))] = 1
        else:
            rewards[state, action] = 0 if target in places else -1
            going_on[state, action, places.index(target if target in places else (row, column))] = 1
    return going_on, rewards


def oracle(env_id: str) -> tuple[np.ndarray, np.ndarray, float]:
    table = gridworld(int(env_id[-1])) if env_id.startswith("gridworld") else dense(env_id)
    return *table, GAMMAS.get(env_id, 0.9)


def solve(going_on: np.ndarray, rewards: np.ndarray, policy: np.ndarray, gamma: float) -> np.ndarray:
    """v = (I - gamma P)^-1 r, the values of a policy [states, actions]."""
    transitions = np.einsum("sa,sat->st", policy, going_on)
    return np.linalg.solve(np.eye(len(rewards)) - gamma * transitions, (policy * rewards).sum(axis=1))


def random_policy(model: Model) -> torch.Tensor:
    return torch.full_like(model.rewards[:, :, 0], 1 / model.rewards.shape[1])


def random_model(num_states: int, num_actions: int, num_outcomes: int) -> Model:
    """Ends anywhere, and pays whatever follows."""
    generator, shape = torch.Generator().manual_seed(0), (num_states, num_actions, num_outcomes)
    return Model(
        torch.rand(shape, generator=generator, dtype=torch.float64).softmax(dim=2),
        torch.randint(num_states, shape, generator=generator),
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.rand(shape, generator=generator) < 0.3,
        torch.full((num_states,), 1 / num_states, dtype=torch.float64),
    )


def last(sweeps):
    *_, final = sweeps
    return final


# --- policy evaluation -----------------------------------------------------------------------


def test_figure_4_1():
    """The book's numbers; it prints them with one decimal, cut or rounded, so these have more."""
    _, model = transition_table("gridworld-4x4")
    values, policy = torch.zeros(16, dtype=torch.float64), random_policy(model)
    figure = {0: values}
    for k in range(1, 500):
        figure[k] = values = sweep(model, values, policy, gamma=1.0)
    assert figure[1].view(4, 4)[0].tolist() == [0, -1, -1, -1]
    assert figure[2].view(4, 4)[:2].tolist() == [[0, -1.75, -2, -2], [-1.75, -2, -2, -2]]
    assert figure[3].view(4, 4)[:2].tolist() == [[0, -2.4375, -2.9375, -3], [-2.4375, -2.875, -3, -2.9375]]
    assert figure[10].view(4, 4)[0].numpy().round(2).tolist() == [0, -6.14, -8.35, -8.97]
    assert figure[10].view(4, 4)[1].numpy().round(2).tolist() == [-6.14, -7.74, -8.43, -8.35]
    end = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    assert figure[499].view(4, 4).numpy().round(6).tolist() == end
    for values in figure.values():  # the grid is the same from both corners, and seen in a mirror
        assert torch.allclose(values, values.flip(0)) and torch.allclose(values.view(4, 4), values.view(4, 4).T)


def test_figure_4_1s_greedy_policies():
    """Its right column, every tied arrow (up, down, right, left) of it: optimal from k = 3 on."""
    _, model = transition_table("gridworld-4x4")
    arrows = {}
    for point in itertools.islice(iterate(model, 1.0, 0, improve=False), 20):
        arrows[point.number] = ["".join("udrl"[a] for a in np.flatnonzero(row)) for row in point.greedy.numpy()]
    everything = "udrl"
    assert arrows[0] == [everything] * 16
    assert arrows[1][1:8] == ["l", everything, everything, "u", everything, everything, everything]
    assert arrows[2][1:8] == ["l", "l", everything, "u", "ul", everything, "d"]
    assert arrows[3][1:8] == ["l", "l", "dl", "u", "ul", "dl", "d"]
    assert arrows[3][8:15] == ["u", "ur", "dr", "d", "ur", "r", "r"]
    assert all(arrows[k] == arrows[3] for k in range(3, 20))


@pytest.mark.parametrize("in_place, sweeps", [(False, 172), (True, 113)])
def test_sweeps_until_nothing_changes_by_a_ten_thousandth(in_place, sweeps):
    _, model = transition_table("gridworld-4x4")
    points = list(iterate(model, 1.0, 0, improve=False, in_place=in_place, theta=1e-4))
    assert sum(point.change >= 1e-4 for point in points[1:]) == sweeps


def test_example_3_5():
    _, model = transition_table("gridworld-5x5")
    values = last(iterate(model, 0.9, 0, improve=False)).values
    assert values.view(5, 5).numpy().round(1).tolist() == [
        [3.3, 8.8, 4.4, 5.3, 1.5],
        [1.5, 3.0, 2.3, 1.9, 0.5],
        [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2],
        [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]
    best = last(iterate(model, 0.9, 1)).values
    assert best.view(5, 5)[0].numpy().round(1).tolist() == [22.0, 24.4, 22.0, 19.4, 17.5]


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("in_place", [False, True])
def test_evaluation_ends_at_the_linear_solve(env_id, in_place):
    going_on, rewards, _ = oracle(env_id)
    _, model = transition_table(env_id)
    policy = np.random.default_rng(0).dirichlet([1.0] * 4, size=len(rewards))
    values = torch.zeros_like(model.start)
    for _ in range(120):
        values = sweep(model, values, torch.from_numpy(policy), 0.8, in_place)
    assert np.allclose(values.numpy(), solve(going_on, rewards, policy, 0.8), atol=1e-8)


@pytest.mark.parametrize("env_id", ["gridworld-4x4", "FrozenLake-v1"])
def test_without_a_discount_evaluation_ends_at_the_linear_solve(env_id):
    going_on, rewards, _ = oracle(env_id)
    policy = np.full_like(rewards, 0.25)
    _, model = transition_table(env_id)
    point = last(iterate(model, 1.0, 0, improve=False, theta=1e-12))
    assert np.allclose(point.values.numpy(), solve(going_on, rewards, policy, 1.0), atol=1e-9)


@pytest.mark.parametrize("policy", [None, torch.tensor([[0.25, 0.75]] * 3, dtype=torch.float64)])
def test_a_sweep_in_place_uses_what_it_has_just_written(policy):
    """Against plain loops over the list of outcomes."""
    model = random_model(3, 2, 2)
    for in_place in (False, True):
        before = [1.0, -2.0, 4.0]
        after = list(before)
        for state in range(3):
            seen, q = after if in_place else before, [0.0, 0.0]
            for action, outcome in itertools.product(range(2), range(2)):
                p, s, r, end = (x[state, action, outcome].item() for x in model[:4])
                q[action] += p * (r + (0 if end else 0.9 * seen[s]))
            after[state] = max(q) if policy is None else 0.25 * q[0] + 0.75 * q[1]
        swept = sweep(model, torch.tensor(before, dtype=torch.float64), policy, 0.9, in_place)
        assert swept.tolist() == pytest.approx(after, abs=1e-12)


# --- the optimal policy ----------------------------------------------------------------------


def linear_program(env_id: str) -> np.ndarray:
    """The optimal values: the least v with v(s) >= r(s, a) + gamma sum of p(s'|s, a) v(s') everywhere."""
    going_on, rewards, gamma = oracle(env_id)
    num_states, num_actions = rewards.shape
    bound = gamma * going_on.reshape(-1, num_states) - np.repeat(np.eye(num_states), num_actions, axis=0)
    solution = linprog(np.ones(num_states), A_ub=bound, b_ub=-rewards.reshape(-1), bounds=(None, None))
    assert solution.success
    return solution.x


@pytest.mark.parametrize("env_id", ENVS)
def test_every_variant_ends_at_the_linear_programs_optimum(env_id):
    going_on, rewards, gamma = oracle(env_id)
    expected = linear_program(env_id)
    for k, in_place in VARIANTS:
        if env_id.startswith("CliffWalking") and k == 0:
            continue  # its random policy takes tens of thousands of sweeps: with a discount, it is evaluated below
        point = last(itertools.islice(iterate(transition_table(env_id)[1], gamma, k, in_place=in_place), 3000))
        assert point.converged
        assert np.allclose(point.values.numpy(), expected, atol=1e-6), (k, in_place)
        assert np.allclose(solve(going_on, rewards, point.greedy.numpy(), gamma), expected, atol=1e-6), (k, in_place)


@pytest.mark.parametrize("env_id", ["gridworld-5x5", "FrozenLake-v1", "CliffWalking-v1"])
def test_unbounded_evaluation_is_policy_iteration(env_id):
    """Against a policy iteration that solves for its values: the same policies, one after the other."""
    going_on, rewards, _ = oracle(env_id)
    _, model = transition_table(env_id)
    points = list(iterate(model, 0.9, 0))
    policy, improvements = np.full_like(rewards, 0.25), 0
    while True:
        values = solve(going_on, rewards, policy, 0.9)
        evaluated = [point for point in points if point.improvements == improvements][-1]
        assert np.allclose(evaluated.values.numpy(), values, atol=1e-7)
        q = rewards + 0.9 * going_on @ values
        if np.allclose(q.max(axis=1), values, atol=1e-9):
            break
        best = q >= q.max(axis=1, keepdims=True) - 1e-9
        policy, improvements = best / best.sum(axis=1, keepdims=True), improvements + 1
    assert improvements == points[-1].improvements > 0


def test_one_sweep_per_policy_is_value_iteration():
    going_on, rewards, gamma = oracle("FrozenLake-v1")
    values = np.zeros(16)
    for point in itertools.islice(iterate(transition_table("FrozenLake-v1")[1], gamma, 1), 30):
        assert np.allclose(point.values.numpy(), values, atol=1e-12)
        assert point.residual == pytest.approx(np.abs((rewards + gamma * going_on @ values).max(axis=1) - values).max())
        values = (rewards + gamma * going_on @ values).max(axis=1)


def test_the_policy_is_improved_after_every_k_sweeps():
    """k = 3 on the small grid: three sweeps of the random policy, as in Figure 4.1, then the optimal one."""
    _, model = transition_table("gridworld-4x4")
    points = list(iterate(model, 1.0, 3))
    assert [point.improvements for point in points] == [0, 0, 0, 0, 1, 1, 1][: len(points)]
    values, policy = torch.zeros(16, dtype=torch.float64), random_policy(model)
    for number, point in enumerate(points):
        assert torch.equal(point.values, values)
        policy = point.greedy if number and number % 3 == 0 else policy
        values = sweep(model, values, policy, 1.0)


def test_known_optima():
    returns = {}
    for env_id in ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"):
        _, model = transition_table(env_id)
        point = last(iterate(model, 1.0, 1))
        returns[env_id] = (model.start @ point.values).item()
    assert returns["FrozenLake-v1"] == pytest.approx(14 / 17)  # without a time limit
    assert returns["CliffWalking-v1"] == -13
    assert returns["Taxi-v4"] == pytest.approx(7.93)  # of all 300 starts alike, counted below
    _, model = transition_table("Taxi-v4")
    (starts,) = model.start.nonzero(as_tuple=True)
    assert len(starts) == 300 and expected_return(model, point.greedy, 1.0, 20) == pytest.approx(7.93)


def test_ties_share_the_probability():
    q = torch.tensor([[1.0, 1.0 + 1e-12, 0.0], [2.0, 3.0, 2.999]], dtype=torch.float64)
    assert greedy(q).tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]


def test_when_the_greedy_policy_is_optimal_for_good():
    _, model = transition_table("gridworld-4x4")
    values = last(iterate(model, 1.0, 1)).values
    best = greedy(action_values(model, values, 1.0))
    one = torch.nn.functional.one_hot(best.argmax(dim=1), 4).double()  # one of the best actions will do
    bad, slip = random_policy(model), one.clone()
    slip[1] = torch.tensor([0.0, 0.5, 0.0, 0.5])  # right in one state half of the time only
    assert optimal_since(model, values, 1.0, [(0, bad), (2, one), (3, best)]) == 2
    assert optimal_since(model, values, 1.0, [(0, best), (2, slip), (5, one)]) == 5
    assert optimal_since(model, values, 1.0, [(0, best), (2, slip)]) is None


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take a second, and these tests do not look at them."""
    for name in ("draw_sweeps", "draw_returns"):
        monkeypatch.setattr(f"algos.dynamic_programming.{name}", lambda *_: None)


# --- episodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "random"])
def test_episodes_played_agree_with_what_is_expected(env_id):
    model = random_model(5, 4, 3) if env_id == "random" else transition_table(env_id)[1]
    policy = torch.from_numpy(np.random.default_rng(1).dirichlet([1.0] * 4, size=len(model.start)))
    returns, lengths = play(model, policy, 4000, 12, torch.Generator().manual_seed(1))
    error = returns.std().item() / 4000**0.5
    assert error > 0
    assert abs(returns.mean().item() - expected_return(model, policy, 1.0, 12)) < 4 * error
    assert lengths.max() == 12 and lengths.min() < 12  # some end, some are cut


def test_the_expected_return_sums_the_rewards_of_every_step():
    """Against the distribution over states, pushed forward step by step."""
    going_on, rewards, gamma = oracle("FrozenLake-v1")
    _, model = transition_table("FrozenLake-v1")
    policy = np.random.default_rng(2).dirichlet([1.0] * 4, size=16)
    here, total = model.start.numpy(), 0.0
    for step in range(40):
        total += gamma**step * (here @ (policy * rewards).sum(axis=1))
        here = here @ np.einsum("sa,sat->st", policy, going_on)
        assert expected_return(model, torch.from_numpy(policy), gamma, step + 1) == pytest.approx(total, abs=1e-12)


def test_a_deterministic_episode_is_the_one_gymnasium_plays():
    env, (_, model) = gym.make("CliffWalking-v1"), transition_table("CliffWalking-v1")
    policy = last(iterate(model, 1.0, 1)).greedy
    one = torch.nn.functional.one_hot(policy.argmax(dim=1), 4).double()
    (obs, _), total, length, ended = env.reset(seed=0), 0.0, 0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(int(one[obs].argmax()))
        total, length, ended = total + reward, length + 1, terminated or truncated
    returns, lengths = play(model, one, 3, 100, torch.Generator().manual_seed(0))
    assert returns.tolist() == [total] * 3 and lengths.tolist() == [length] * 3


@pytest.mark.usefixtures("undrawn")
def test_with_a_discount_the_return_of_an_episode_is_still_counted_without(tmp_path):
    """Gymnasium states the best return within its time limit of 100 steps as 0.74."""
    row = train(Args(run_dir=tmp_path, env_id="FrozenLake-v1", gamma=0.999, max_episode_steps=100))
    assert row["charts/episodic_return"] == pytest.approx(0.74, abs=0.005)
    assert row["charts/greedy_value"] < row["charts/episodic_return"] - 0.01
    assert row["charts/greedy_value"] < row["charts/promised_value"]  # which knows no time limit
    assert abs(row["eval/episodic_return"] - 0.74) < 4 * row["eval/episodic_return_stderr"]


def test_greedy_policies_are_good_long_before_the_values_are():
    """The post holds that value iteration's intermediate values are of no use as a policy."""
    _, model = transition_table("FrozenLake-v1")
    points = list(iterate(model, 1.0, 1))
    best = expected_return(model, points[-1].greedy, 1.0, 500)
    returns = [expected_return(model, points[number].greedy, 1.0, 500) for number in (0, 11, 37)]
    assert returns[0] < 0.05 * best and returns[1] > 0.9 * best and returns[2] > best - 1e-6
    assert (model.start @ points[37].values).item() < 0.55 * best and len(points) > 500


# --- environments ----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [*ENVS, "Taxi-v4"])
def test_the_tensors_hold_the_table(env_id):
    going_on, rewards = gridworld(int(env_id[-1])) if env_id.startswith("gridworld") else dense(env_id)
    full_id, model = transition_table(env_id)
    assert full_id == env_id
    assert torch.allclose(model.probabilities.sum(dim=2), torch.ones(rewards.shape, dtype=torch.float64))
    assert np.allclose((model.probabilities * model.rewards).sum(dim=2), rewards)
    found = np.zeros_like(going_on)
    for state, action, outcome in itertools.product(*map(range, model.rewards.shape)):
        p, next_state, _, end = (x[state, action, outcome].item() for x in model[:4])
        found[state, action, next_state] += 0.0 if end else p
    assert np.allclose(found, going_on)
    assert model.start.sum().item() == pytest.approx(1)


def test_an_id_without_a_version_means_the_newest():
    assert transition_table("Taxi")[0] == "Taxi-v4"


def trap() -> Model:
    """State 0 leads to the end or to 1, from where nothing leads anywhere else."""
    outcomes = torch.tensor([[[1.0], [1.0]], [[1.0], [1.0]]], dtype=torch.float64)
    ends = torch.tensor([[[True], [False]], [[False], [False]]])
    return Model(outcomes, torch.ones(2, 2, 1, dtype=torch.long), -outcomes, ends, torch.tensor([1.0, 0.0]).double())


def test_where_an_episode_can_end():
    assert can_end(trap()).tolist() == [True, False]
    assert can_end(transition_table("FrozenLake-v1")[1]).all()
    assert can_end(transition_table("CliffWalking-v1")[1]).all()  # the way from the start has a dozen steps
    assert not can_end(transition_table("gridworld-5x5")[1]).any()


def test_the_discount_depends_on_whether_episodes_end():
    assert check_discount(transition_table("gridworld-4x4")[1], None) == 1
    assert check_discount(transition_table("gridworld-5x5")[1], None) == 0.9
    assert check_discount(trap(), 0.5) == 0.5
    with pytest.raises(UsageError, match="--gamma 1: from 1 of 2 states"):
        check_discount(trap(), 1.0)


@pytest.mark.parametrize("env_id", ["gridworld-4x4", "gridworld-5x5", "FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_arrows_point_where_the_action_leads(env_id):
    """Slippery ice drifts to either side alike, so that the mean step is the one that was meant."""
    _, model = transition_table(env_id)
    cells, symbols = world_map(env_id, *model.rewards.shape[:2])
    assert sorted(cells.flat) == list(range(len(model.start))) and len(symbols) == model.rewards.shape[1]
    place = {state: (x, -y) for (y, x), state in np.ndenumerate(cells)}
    middle = {state for state, (x, y) in place.items() if 0 < x < cells.shape[1] - 1 and 0 < -y < cells.shape[0] - 1}
    for action, symbol in enumerate(symbols):
        steps = np.zeros(2)
        for state, outcome in itertools.product(middle, range(model.rewards.shape[2])):
            next_state = model.next_states[state, action, outcome].item()
            step = np.subtract(place[next_state], place[state])
            steps += model.probabilities[state, action, outcome].item() * step * (abs(step).sum() == 1)  # no jumps
        x, y = ARROWS.get(symbol, (0, 0))
        if symbol in ARROWS:
            assert steps @ (x, y) > 0 and steps @ (y, x) == pytest.approx(0), symbol
        else:
            assert not steps.any(), symbol


def test_an_unknown_table_is_drawn_as_a_square_of_states():
    cells, symbols = world_map("Unknown-v0", 7, 2)
    assert cells.tolist() == [[0, 1, 2], [3, 4, 5], [6, -1, -1]] and symbols == "ab"


# --- runs ------------------------------------------------------------------------------------


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        clocks = ("charts/SPS", "time/elapsed")
        return [{key: cell for key, cell in row.items() if key not in clocks} for row in csv.DictReader(file)]


def test_a_run_leaves_numbers_pictures_and_the_policy(tmp_path, capsys):
    row = train(Args(run_dir=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "args.json", "metrics.csv", "values.csv", "values.png", "sweeps.gif", "curve.png",
    }  # fmt: skip
    assert (
        row["charts/episodic_return"] == row["charts/greedy_value"] == row["charts/promised_value"] == pytest.approx(-2)
    )
    assert row["eval/episodic_return"] == pytest.approx(-2, abs=4 * row["eval/episodic_return_stderr"])
    assert row["eval/episodic_length"] == -row["eval/episodic_return"]
    assert row["eval/optimal_after"] == 3 and row["charts/improvements"] == 1
    assert json.loads((tmp_path / "args.json").read_text())["gamma"] == 1
    written = rows(tmp_path)
    assert [int(line["global_step"]) for line in written] == list(range(len(written)))
    assert written[0]["losses/change"] == "" and float(written[-1]["losses/bellman_residual"]) < 1e-10
    with (tmp_path / "values.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["sweep 3"]) for line in table[:4]] == [0, -2.4375, -2.9375, -3]  # Figure 4.1
    assert [float(line[f"sweep {len(written) - 1}"]) for line in table[:4]] == [0, -1, -2, -3]
    assert [line["best actions"] for line in table[:4]] == ["0 1 2 3", "3", "3", "1 3"]
    with Image.open(tmp_path / "sweeps.gif") as animation:
        assert animation.n_frames > 8
    assert "return -" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        args = {"env_id": "FrozenLake-v1", "total_sweeps": 20, "num_runs": 200}
        train(Args(run_dir=tmp_path / name, seed=seed, **args))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert rows(tmp_path / "a")[:-1] == rows(tmp_path / "c")[:-1]  # the seed plays, the sweeps are exact


@pytest.mark.usefixtures("undrawn")
def test_the_budget_ends_a_run_that_has_not_converged(tmp_path, capsys):
    row = train(Args(run_dir=tmp_path, env_id="Taxi", total_sweeps=4, evaluation_sweeps=0))
    assert row["global_step"] == 4 and row["eval/optimal_after"] is None
    assert "still change" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    args = {"total_sweeps": 1, "num_runs": 2}
    train(Args(run_dir=tmp_path, **args))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(run_dir=tmp_path, seed=2, **args))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "no transition table"),
        ({"env_id": "Blackjack-v1"}, "no transition table"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"env_id": "gridworld-5x5", "gamma": 1.0}, "--gamma 1"),
        ({"gamma": 1.1}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"theta": 0.0}, "--theta"),
        ({"evaluation_sweeps": -1}, "--evaluation-sweeps"),
        ({"total_sweeps": 0}, "--total-sweeps"),
        ({"max_episode_steps": 0}, "--max-episode-steps"),
        ({"num_runs": 1}, "--num-runs"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    flags = ["--env-id", "CartPole-v1", "--run-dir", str(tmp_path / "x")]
    command = [sys.executable, "algos/dynamic_programming.py", *flags]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and done.stderr.startswith("--env-id") and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
