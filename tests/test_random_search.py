"""Random search: its episodes against Gymnasium's single environment, its trials against the geometric law."""

import csv
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos.random_search import (
    Args,
    Lockstep,
    Trials,
    UsageError,
    act,
    evaluate,
    make_envs,
    measure,
    search,
    summarize,
    train,
    uniform,
)

CPU = torch.device("cpu")
SOLVED = 0.0738  # the share of weights in [-1, 1] that keep CartPole's pole up for 200 steps


class Tasks:
    """Stands in for Lockstep: an episode's return is a function of the weights; it ends after a step or a few."""

    def __init__(self, runs: int, inputs: int = 2, seed: int = 0):
        self.rng, self.obs = np.random.default_rng(seed), torch.zeros(runs, inputs)
        self.returns, self.lengths = np.zeros(runs), np.zeros(runs, dtype=int)
        self.tried = [[] for _ in range(runs)]  # (weights, return) of every episode
        self.steps = 0

    def reset(self):
        self.tried = [[] for _ in self.tried]

    def step(self, weights: torch.Tensor) -> np.ndarray:
        self.steps += 1
        over = np.flatnonzero(self.rng.random(len(self.returns)) < 0.6)
        for i in over:
            w = weights[i].flatten().tolist()
            self.returns[i], self.lengths[i] = round(10 - sum(x * x for x in w), 1), 1 + i
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


def test_the_sign_of_the_sum_decides_between_two_actions():
    rng = np.random.default_rng(0)
    weights, obs = rng.normal(size=(50, 1, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    obs[:3] = 0  # a sum of zero is not below zero
    expected = [0 if np.matmul(w[0], o) < 0 else 1 for w, o in zip(weights, obs, strict=True)]
    assert act(torch.tensor(weights), torch.tensor(obs)).tolist() == expected and {0, 1} == set(expected)


def test_the_largest_sum_decides_between_more():
    rng = np.random.default_rng(0)
    weights, obs = rng.normal(size=(50, 3, 6)), rng.normal(size=(50, 6))
    expected = [
        int(np.argmax([sum(w * o for w, o in zip(row, x, strict=True)) for row in rows]))
        for rows, x in zip(weights, obs, strict=True)
    ]
    assert act(torch.tensor(weights), torch.tensor(obs)).tolist() == expected


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])
def test_lockstep_plays_the_same_episodes_as_a_single_environment(env_id):
    args = Args(env_id=env_id, num_runs=7, max_episode_steps=25, solved_return=1000.0)
    envs, rows = make_envs(args)
    world = Lockstep(envs, np.arange(7), CPU)
    single = gym.make(env_id, max_episode_steps=25)
    single.reset(seed=0)

    def state(i: int) -> np.ndarray:
        return np.array(envs.state[:, i] if env_id == "CartPole-v1" else envs.envs[i].unwrapped.state)

    weights = uniform((7, rows, world.obs.shape[1]), torch.Generator().manual_seed(0))
    weights[0, 0] = torch.tensor([0.1, 0.3, 0.9, 0.9]) if rows == 1 else weights[0, 0]  # to the time limit
    starts, before, played = [state(i) for i in range(7)], world.over.copy(), []
    for _ in range(120):
        for i in world.step(weights):
            single.reset()
            single.unwrapped.state = starts[i]
            obs, total, length, over = observation(env_id, starts[i]), 0.0, 0, False
            while not over:
                action = int(act(weights[i : i + 1], torch.tensor(obs)[None]))
                obs, reward, terminated, truncated, _ = single.step(action)
                total, length, over = total + reward, length + 1, terminated or truncated
            assert (world.returns[i], world.lengths[i]) == (total, length)
            played.append(length)
        for i in np.flatnonzero(before):
            starts[i] = state(i)
        before = world.over.copy()
    assert 25 in played and (env_id == "Acrobot-v1" or min(played) < 15)


def observation(env_id: str, state: np.ndarray) -> np.ndarray:
    if env_id == "CartPole-v1":
        return state.astype(np.float32)
    a, b, *velocities = state
    return np.array([np.cos(a), np.sin(a), np.cos(b), np.sin(b), *velocities], dtype=np.float32)


def test_every_trial_keeps_the_best_weights_it_tried_and_stops_at_the_first_that_solve():
    args, world = Args(num_runs=40, max_episodes=30, solved_return=9.9), Tasks(40)
    trials = find(args, world)
    assert 5 < trials.solved.sum() < 40
    for i, tried in enumerate(world.tried):
        returns = [result for _, result in tried]
        first = next((k + 1 for k, result in enumerate(returns) if result >= 9.9), None)
        episodes = first if first and first <= 30 else 30
        assert (trials.solved[i], trials.episodes[i]) == (first is not None and first <= 30, episodes)
        assert trials.returns[i, :episodes].tolist() == pytest.approx(returns[:episodes])
        assert trials.lengths[i].tolist() == [i + 1] * episodes + [0] * (30 - episodes)
        best = max(range(episodes), key=lambda k: returns[k])  # the first of equally good ones
        assert trials.weights[i].flatten().tolist() == tried[best][0]
        assert len({tuple(w) for w, _ in tried[:episodes]}) == episodes  # never the same twice


def test_weights_are_drawn_from_the_whole_cube():
    x = uniform((20_000, 2), torch.Generator().manual_seed(0)).numpy()
    assert x.min() == pytest.approx(-1, abs=0.01) and x.max() == pytest.approx(1, abs=0.01)
    assert x.mean() == pytest.approx(0, abs=0.02) and x.var() == pytest.approx(1 / 3, abs=0.01)
    world = Tasks(500)
    find(Args(num_runs=500, max_episodes=20, solved_return=11.0), world)
    drawn = np.array([w for tried in world.tried for w, _ in tried])
    assert abs(drawn).max() <= 1 and drawn.var(axis=0) == pytest.approx(1 / 3, abs=0.02)


def test_the_episodes_until_solved_are_geometric():
    trials = find(Args(num_runs=300, solved_return=200.0))
    assert trials.solved.all()
    mean, error = trials.episodes.mean(), math.sqrt(1 - SOLVED) / SOLVED / math.sqrt(300)
    assert mean == pytest.approx(1 / SOLVED, abs=4 * error)
    for k in (1, 5, 20, 40):
        share = 1 - (1 - SOLVED) ** k
        assert (trials.episodes <= k).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 300))
    last = trials.returns[np.arange(300), trials.episodes - 1]
    assert (last == 200).all() and (np.where(trials.returns == 200, 1, 0).sum(axis=1) == 1).all()


def test_scores_are_means_over_the_next_episodes_of_each():
    world = Tasks(5)
    weights = uniform((5, 1, 2), torch.Generator().manual_seed(1))
    world.tried[0].append("before")
    scores = evaluate(world, weights, 4)
    assert scores.tolist() == pytest.approx([np.mean([r for _, r in tried[:4]]) for tried in world.tried])
    assert world.steps < 40 and max(map(len, world.tried)) > 4


def test_a_row_holds_means_over_what_was_played():
    returns = np.array([[1, 5, 0, 0], [2, 4, 6, 0], [3, 9, 9, 9]], dtype=np.float32)
    lengths = np.array([[1, 2, 0, 0], [1, 3, 4, 0], [1, 4, 4, 4]], dtype=np.int32)
    episodes, solved = np.array([2, 3, 4]), np.array([True, True, False])
    trials = Trials(torch.zeros(3, 1, 2), returns, lengths, episodes, solved, ~solved)
    row = measure(trials, 1, 3)
    assert row["charts/episode"] == 3 and row["charts/share_solved"] == pytest.approx(2 / 3)
    assert row["charts/share_solved_se"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 2))
    assert row["charts/episodic_return"] == pytest.approx(33 / 5)
    assert row["charts/episodic_return_se"] == pytest.approx(np.std([5, 4, 6, 9, 9], ddof=1) / math.sqrt(5))
    assert row["charts/episodic_length"] == pytest.approx(17 / 5)
    assert measure(trials, 0, 2)["charts/share_solved"] == pytest.approx(1 / 3)
    last = summarize(trials, np.array([10.0, 20.0, 60.0]))
    assert (last["charts/episodes_to_solve"], last["charts/episodes_to_solve_median"]) == (2.5, 2.5)
    assert last["charts/episodes_to_solve_se"] == pytest.approx(0.5)
    assert (last["eval/episodic_return"], last["eval/episodic_return_solved"]) == (30, 15)
    none = summarize(Trials(torch.zeros(3, 1, 2), returns, lengths, episodes, ~solved & solved, ~solved), np.zeros(3))
    assert none["charts/episodes_to_solve"] is None and none["eval/episodic_return_solved"] is None


def rows_of(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "charts/SPS" and "time/" not in k} for row in csv.DictReader(file)
        ]


def test_same_seed_same_rows_and_another_seed_other_rows(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        row = train(Args(num_runs=20, seed=seed, run_dir=tmp_path / name))
    a, b, c = (rows_of(tmp_path / name) for name in "abc")
    assert a == b != c
    found = np.load(tmp_path / "a" / "trials.npz")
    assert [int(x["charts/episode"]) for x in a] == list(range(1, int(found["episodes"].max()) + 1))
    assert float(a[-1]["charts/episodes_to_solve"]) == pytest.approx(found["episodes"].mean())
    assert float(a[-1]["charts/share_solved"]) == found["solved"].mean() == 1
    assert found["weights"].shape == (20, 1, 4)
    steps = [int(x["global_step"]) for x in a]
    assert steps == sorted(steps) and all(x["eval/episodic_return"] == "" for x in a[:-1])
    assert row["eval/episodic_return"] > 100  # weights that solved one episode are good in others


def test_a_larger_task(tmp_path):
    args = Args(env_id="Acrobot", max_episode_steps=300, solved_return=-150, num_runs=4, eval_episodes=1)
    row = train(Args(**vars(args) | {"run_dir": tmp_path / "run", "max_episodes": 3}))
    found = np.load(tmp_path / "run" / "trials.npz")
    assert found["weights"].shape == (4, 3, 6) and row["charts/share_solved"] == found["solved"].mean()


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"env_id": "CartPole-v99"}, "--env-id CartPole-v99"),
        ({"env_id": "NoSuchThing-v0"}, "--env-id NoSuchThing-v0"),
        ({"env_id": "Pendulum-v1", "solved_return": 0.0}, "needs discrete actions"),
        ({"env_id": "Taxi-v4", "solved_return": 0.0}, "needs flat observations"),
        ({"env_id": "Acrobot-v1"}, "--solved-return"),
        ({"num_runs": 0}, "--num-runs"),
        ({"max_episodes": 0}, "--max-episodes"),
        ({"max_episode_steps": 0}, "--max-episode-steps"),
        ({"eval_episodes": 0}, "--eval-episodes"),
        ({"solved_return": math.nan}, "--solved-return"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_a_users_mistake_is_named_before_anything_is_written(flags, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(Args(**{"num_runs": 2, "run_dir": tmp_path / "run"} | flags))
    assert not (tmp_path / "run").exists()
