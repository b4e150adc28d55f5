"""Q-learning: its updates against a loop in plain Python, its values against value iteration; cliff, wind, doors."""

import csv
import itertools
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import q_learning
from algos.q_learning import (
    ActionValues,
    Args,
    Copies,
    Table,
    UsageError,
    act,
    evaluate,
    exploration,
    make_world,
    play,
    train,
    transition_table,
    windy_gridworld,
)

CPU = torch.device("cpu")


def random_world(seed: int, num_states: int = 5, num_actions: int = 3, end: float = 0.25) -> tuple[dict, dict]:
    """Random transitions and rewards; every step may be the last."""
    rng, P = np.random.default_rng(seed), {}
    for s in range(num_states):
        P[s] = {}
        for a in range(num_actions):
            p = rng.dirichlet(np.ones(num_states)) * (1 - end)
            P[s][a] = [(float(x), n, float(rng.normal()), False) for n, x in enumerate(p)]
            P[s][a].append((end, 0, float(rng.normal()), True))
    return P, {0: 0.5, num_states - 1: 0.5}


def learn(args: Args, world=None, epsilon=None) -> tuple:
    world = world or make_world(args, CPU)
    values, generator = ActionValues(world, args, CPU), torch.Generator().manual_seed(args.seed)
    epsilon = exploration(args) if epsilon is None else epsilon
    *_, (returns, lengths, finished) = play(world, values, epsilon, args.max_steps, True, generator)
    assert finished == args.total_episodes
    return values, returns, lengths


class Recorder:
    """A world that remembers what went through it: per run a list of (state, action, reward, next state)."""

    def __init__(self, world, num_runs: int):
        self.world, self.log = world, [[] for _ in range(num_runs)]
        self.num_states, self.num_actions = world.num_states, world.num_actions

    def step(self, states, actions):
        next_states, rewards = self.world.step(states, actions)
        for log, *step in zip(self.log, *(x.tolist() for x in (states, actions, rewards, next_states)), strict=True):
            log.append(step)
        return next_states, rewards

    def episodes(self, run: int) -> list[list]:
        """What was played, without the ticks that start an episode or wait."""
        found = []
        for state, action, reward, next_state in self.log[run]:
            if state == self.num_states:
                found.append([])
            elif state < self.num_states:
                found[-1].append((state, action, reward, next_state))
        return found


def table(args: Args, P: dict, starts: dict) -> Table:
    return Table(P, starts, torch.Generator().manual_seed(args.seed + 100))


# --- worlds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "FrozenLake-v1", "Taxi-v4"])
def test_the_table_holds_every_probability_of_gymnasiums(env_id):
    env = gym.make(env_id, disable_env_checker=True).unwrapped
    starts = {s: float(p) for s, p in enumerate(env.initial_state_distrib) if p}
    cumulative, next_states, rewards = (x.tolist() for x in transition_table(env.P, starts))
    num_states, num_actions = len(env.P), len(env.P[0])
    found, before = {}, 0.0
    for end, n, r in zip(cumulative, next_states, rewards, strict=True):
        pair = divmod(math.ceil(end) - 1, num_actions)
        found[*pair, n, r] = found.get((*pair, n, r), 0) + end - before
        before = end
    expected = {}
    for s, a in itertools.product(range(num_states), range(num_actions)):
        for p, n, r, over in env.P[s][a]:
            key = s, a, num_states if over else int(n), float(r)
            expected[key] = expected.get(key, 0) + p
    for a in range(num_actions):
        expected |= {(num_states, a, s, 0.0): p for s, p in starts.items()}
        expected[num_states + 1, a, num_states + 1, 0.0] = 1.0
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], abs=1e-9) for key in expected)


def test_a_step_draws_the_outcomes_with_their_probabilities():
    P, starts = random_world(0)
    world = table(Args(), P, starts)
    n = 40_000
    for s, a in [(0, 0), (3, 2)]:
        next_states, rewards = world.step(torch.full((n,), s), torch.full((n,), a))
        for p, to, r, over in P[s][a]:
            share = float(((next_states == (5 if over else to)) & (rewards == r)).double().mean())
            assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))
    begun, rewards = world.step(torch.full((n,), 5), torch.zeros(n, dtype=torch.int64))
    assert float((begun == 0).double().mean()) == pytest.approx(0.5, abs=0.02) and set(begun.tolist()) == {0, 4}
    assert not rewards.any()


def test_the_cliff_is_the_books():
    world = make_world(Args(), CPU)
    assert world.deterministic and world.num_states == 48
    for s in range(36):
        for a, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            row, column = min(max(s // 12 + down, 0), 3), min(max(s % 12 + right, 0), 11)
            falls, goal = row == 3 and 1 <= column <= 10, (row, column) == (3, 11)
            n, r = world.step(torch.tensor([s]), torch.tensor([a]))
            assert (int(n), float(r)) == (36 if falls else 48 if goal else row * 12 + column, -100 if falls else -1)


def test_the_wind_is_the_books():
    P, starts = windy_gridworld()
    assert starts == {3 * 10 + 0: 1.0}
    distance, edge = {30: 0}, [30]  # breadth first
    while edge:
        s = edge.pop(0)
        for ((_, n, r, over),) in P[s].values():
            assert r == -1
            if not over and n not in distance:
                distance[n] = distance[s] + 1
                edge.append(n)
            if over:
                distance.setdefault("goal", distance[s] + 1)
    assert distance["goal"] == 15
    assert P[37 - 1][1][0][1] == 17  # from column 6, where the wind is 2, to the right: two rows up
    assert P[48][3] == [(1.0, 37, -1.0, True)]  # from column 8 to the left, one row up: the goal


def test_copies_are_the_same_world_as_the_table():
    rng, runs = np.random.default_rng(0), 3
    copies, world = Copies("CliffWalking-v1", [1, 2, 3], CPU), make_world(Args(), CPU)
    assert (copies.num_states, copies.num_actions) == (world.num_states, world.num_actions)
    states = torch.full((runs,), 48)
    for _ in range(300):
        actions = torch.tensor(rng.integers(4, size=runs))
        (theirs, rewards), (ours, expected) = copies.step(states, actions), world.step(states, actions)
        assert theirs.tolist() == ours.tolist() and rewards.tolist() == expected.tolist()
        states = ours
    halted, _ = copies.step(torch.full((runs,), 49), torch.zeros(runs, dtype=torch.int64))
    assert halted.tolist() == [49] * runs


def test_every_observation_of_blackjack_has_its_own_number():
    copies = Copies("Blackjack-v1", [1], CPU)
    numbers = {copies.number(obs) for obs in itertools.product(range(32), range(11), range(2))}
    assert numbers == set(range(704)) and copies.num_states == 704


# --- acting ----------------------------------------------------------------------------------


def test_ties_are_broken_evenly_and_exploration_is_uniform():
    n, generator = 30_000, torch.Generator().manual_seed(0)
    q = torch.tensor([-1.0, 2.0, 0.5, 2.0 + 1e-15], dtype=torch.float64).repeat(n, 1)
    ties = q_learning.TIE * torch.rand(n, 4, generator=generator).double()
    explore, random = torch.rand(n, generator=generator) < 0.2, torch.randint(4, (n,), generator=generator)
    actions = act(q, ties, explore, random)
    share = torch.bincount(actions, minlength=4) / n
    assert share.tolist() == pytest.approx([0.05, 0.45, 0.05, 0.45], abs=0.015)


def test_exploration_falls_in_a_straight_line():
    assert exploration(Args(total_episodes=3)).tolist() == [0.1] * 3
    args = Args(total_episodes=8, start_e=1.0, end_e=0.2, exploration_fraction=0.5)
    assert exploration(args).tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2])


def test_each_episode_explores_as_much_as_it_should():
    P = {0: {a: [(1.0, 0, float(a == 0), True)] for a in range(2)}}  # learned at once: action 0
    args = Args(num_runs=4000, total_episodes=6, start_e=1.0, end_e=0.0, learning_rate=1.0)
    _, returns, _ = learn(args, table(args, P, {0: 1.0}))
    for k, epsilon in enumerate(exploration(args).tolist()):
        if k >= 3:  # by then nearly all have seen action 0
            assert 1 - float(returns[:, k].mean()) == pytest.approx(epsilon / 2, abs=0.08)


# --- learning --------------------------------------------------------------------------------


def by_hand(episodes: list[list], args: Args, shape: tuple) -> np.ndarray:
    """The textbook's loop over one run, with dictionaries for traces."""
    q, visits = np.zeros(shape), np.zeros(shape)
    for episode in episodes:
        trace = {}
        for s, a, r, n in episode:
            if q[s, a] < max(q[s]):  # not greedy: what follows is no lesson for what came before
                trace = {}
            delta = r + args.gamma * (0.0 if n == shape[0] else max(q[n])) - q[s, a]
            visits[s, a] += 1
            rate = args.learning_rate / visits[s, a] ** args.learning_rate_power
            trace = {key: args.gamma * args.trace_lambda * e for key, e in trace.items()}
            trace[s, a] = rate + (trace.get((s, a), 0) if args.trace == "accumulating" else 0)
            for key, e in trace.items():
                q[key] += e * delta
    return q


@pytest.mark.parametrize("behaviour", ["epsilon-greedy", "random"])
@pytest.mark.parametrize("power", [0.0, 0.7])
@pytest.mark.parametrize("trace_lambda, trace", [(0.0, "replacing"), (0.7, "replacing"), (0.7, "accumulating")])
def test_it_learns_what_the_textbooks_loop_learns(behaviour, power, trace_lambda, trace):
    args = Args(num_runs=3, total_episodes=12, gamma=0.9, learning_rate=0.4, learning_rate_power=power)
    args.behaviour, args.trace_lambda, args.trace, args.start_e, args.end_e = behaviour, trace_lambda, trace, 0.3, 0.3
    world = Recorder(table(args, *random_world(1)), 3)
    values, returns, lengths = learn(args, world)
    for run in range(3):
        episodes = world.episodes(run)
        assert len(episodes) == 12
        assert lengths[run].tolist() == [len(episode) for episode in episodes]
        assert returns[run].tolist() == pytest.approx([sum(r for _, _, r, _ in episode) for episode in episodes])
        q = by_hand(episodes, args, (5, 3))
        assert values.q[run, :5].numpy() == pytest.approx(q, abs=1e-12)
    assert not values.q[:, 5:].any()


def test_watching_a_random_policy_it_finds_the_optimal_values():
    P, starts = random_world(3)
    args = Args(num_runs=400, total_episodes=250, gamma=0.9, learning_rate=1.0, learning_rate_power=0.8)
    args.behaviour = "random"
    values, _, _ = learn(args, table(args, P, starts))
    q = np.zeros((5, 3))
    for _ in range(200):  # value iteration
        q = np.array([[sum(p * (r + 0.9 * (not o) * q[n].max()) for p, n, r, o in P[s][a]) for a in P[s]] for s in P])
    assert values.q[:, :5].mean(dim=0).numpy() == pytest.approx(q, abs=0.1)


def test_an_episode_that_is_cut_off_is_bootstrapped():
    P = {0: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 0, 1.0, False)]}}
    args = Args(num_runs=2, total_episodes=200, gamma=0.9, max_steps=3)
    values, returns, lengths = learn(args, table(args, P, {0: 1.0}))
    assert values.q[:, 0].flatten().tolist() == pytest.approx([10.0] * 4, rel=1e-3)  # 1 / (1 - gamma)
    assert returns.unique().tolist() == lengths.unique().tolist() == [3.0]


def test_it_learns_from_its_episodes_and_no_more():
    args = Args(num_runs=5, total_episodes=7, learning_rate_power=1.0)
    values, _, lengths = learn(args, table(args, *random_world(4)))
    assert values.visits[:, :5].sum(dim=(1, 2)).tolist() == lengths.sum(dim=1).tolist()
    before = values.q.clone()
    evaluate(table(args, *random_world(4)), values, args, torch.Generator().manual_seed(0))
    assert torch.equal(before, values.q)


# --- training --------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour, episodes", [("epsilon-greedy", 200), ("random", 8)])
def test_it_finds_the_shortest_path_along_the_cliff(behaviour, episodes, tmp_path):
    num_runs = 50 if behaviour == "epsilon-greedy" else 2
    row = train(Args(num_runs=num_runs, total_episodes=episodes, behaviour=behaviour, run_dir=tmp_path / "run"))
    assert (row["eval/episodic_return"], row["eval/share_ended"]) == (-13, 1)
    if behaviour == "epsilon-greedy":
        assert -55 < row["charts/episodic_return_100"] < -44
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "args.json", "metrics.csv", "curve.png", "policy.png", "q.npy",
    }  # fmt: skip
    P = gym.make("CliffWalking-v1").unwrapped.P
    for q in np.load(tmp_path / "run" / "q.npy"):  # every run's greedy path, walked here
        state, total, over = 36, 0, False
        while not over and total > -30:
            ((_, state, reward, over),) = P[int(state)][int(q[int(state)].argmax())]
            total += reward
        assert total == -13


def test_without_exploration_ten_of_eleven_stay_with_the_first_door():
    """The first door is chosen for good once it is tried; the second only when it pays. 1/2 against 1/2 * 1/10."""
    args = Args(env_id="doors", num_runs=20_000, total_episodes=60, start_e=0.0, end_e=0.0)
    args.learning_rate = 0.1  # larger, and many misses would bring the second door's value down to a tie
    values, returns, _ = learn(args)
    assert float((values.q[:, 0, 1] > values.q[:, 0, 0]).double().mean()) == pytest.approx(1 / 11, abs=0.007)
    assert float(returns[:, -1].mean()) == pytest.approx(1 * 10 / 11 + 10 / 11, abs=0.5)


def test_with_exploration_that_fades_all_find_the_second_door():
    args = Args(env_id="doors", num_runs=300, total_episodes=600, start_e=1.0, end_e=0.0, exploration_fraction=0.8)
    args.learning_rate = args.learning_rate_power = 1.0
    values, _, _ = learn(args)
    assert float((values.q[:, 0, 1] > values.q[:, 0, 0]).double().mean()) > 0.98
    assert float(values.q[:, 0, 1].mean()) == pytest.approx(10, abs=0.6)


def test_the_rows_are_what_the_episodes_were(tmp_path, monkeypatch):
    kept = {}

    def spy(*arguments):
        for returns, lengths, finished in play(*arguments):
            if arguments[4]:
                kept.update(returns=returns.clone(), lengths=lengths.clone())
            yield returns, lengths, finished

    monkeypatch.setattr(q_learning, "play", spy)
    train(Args(num_runs=6, total_episodes=120, run_dir=tmp_path))
    found = rows(tmp_path)
    assert len(found) == 120
    returns, lengths = kept["returns"].numpy(), kept["lengths"].numpy()
    for k in (0, 1, 99, 119):
        assert float(found[k]["charts/episodic_return"]) == pytest.approx(returns[:, k].mean())
        error = returns[:, k].std(ddof=1) / math.sqrt(6)
        assert float(found[k]["charts/episodic_return_se"]) == pytest.approx(error)
        assert int(found[k]["global_step"]) == lengths[:, : k + 1].sum()
    hundred = returns[:, 20:].mean(axis=1)
    assert float(found[-1]["charts/episodic_return_100"]) == pytest.approx(hundred.mean())
    assert float(found[-1]["charts/episodic_return_100_se"]) == pytest.approx(hundred.std(ddof=1) / math.sqrt(6))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        clocks = ("charts/SPS", "time/elapsed")
        return [{k: v for k, v in row.items() if k not in clocks} for row in csv.DictReader(file)]


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Blackjack-v1"])
def test_the_seed_decides_every_number(env_id, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(env_id=env_id, num_runs=3, total_episodes=3, max_steps=50, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


# --- what cannot work ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "MountainCar-v0"}, "tile_coding.py"),
        ({"env_id": "Pendulum-v1"}, "discrete observations"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"trace_lambda": 1.5}, "--trace-lambda"),
        ({"trace_lambda": float("nan")}, "--trace-lambda"),
        ({"gamma": 0.0}, "--gamma"),
        ({"start_e": -0.1}, "--start-e"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"num_runs": 0}, "--num-runs"),
        ({"total_episodes": 0}, "--total-episodes"),
        ({"max_steps": 0}, "--max-steps"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_world_without_an_end_needs_a_length(monkeypatch, tmp_path):
    monkeypatch.setitem(q_learning.WORLDS, "endless", lambda: ({0: {0: [(1.0, 0, 1.0, False)]}}, {0: 1.0}))
    with pytest.raises(UsageError, match="--max-steps"):
        train(Args(env_id="endless", run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    train(Args(num_runs=2, total_episodes=2, run_dir=tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(num_runs=2, total_episodes=2, run_dir=tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/q_learning.py", "--env-id", "NoSuchEnv-v0", "--run-dir", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr
