"""Tile coding: the tiles against their geometry, the updates against a loop in plain Python; mountain car learned."""

import csv
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from algos.tile_coding import (
    END,
    HALT,
    PLAYING,
    ActionValues,
    Args,
    TileCoder,
    UsageError,
    exploration,
    make_world,
    play,
    train,
)

CPU = torch.device("cpu")
SQUARE = Box(np.array([-1.0, 0.0]), np.array([3.0, 8.0]), dtype=np.float64)


class Ring:
    """One number on a ring of length 1: action 1 moves it on, action 0 ends the episode. Remembers its steps."""

    def __init__(self, num_runs: int):
        self.num_actions, self.obs, self.log = 2, torch.zeros(num_runs, 1), [[] for _ in range(num_runs)]

    def step(self, states, actions):
        before, playing = self.obs.clone(), states == PLAYING
        self.obs = torch.where((playing & (actions == 1))[:, None], (before + 0.17) % 1, before)
        self.obs[states == END] = 0.05
        next_states = torch.where(playing & (actions == 0), END, torch.where(states == END, PLAYING, states))
        rewards = torch.where(playing, before[:, 0].double() + actions, 0.0)
        for i, log in enumerate(self.log):
            if states[i] == END:
                log.append([])
            elif states[i] == PLAYING:
                step = before[i].tolist(), int(actions[i]), float(rewards[i]), self.obs[i].tolist()
                log[-1].append((*step, bool(next_states[i] == END)))
        return self.obs.double(), next_states, rewards


def test_an_observation_lies_in_one_tile_of_every_grid():
    tiles = TileCoder(SQUARE, 8, 4, CPU)
    assert tiles.num_features == 8 * 5 * 5
    obs = torch.rand(1000, 2, dtype=torch.float64) * torch.tensor([4.0, 8.0]) + torch.tensor([-1.0, 0.0])
    found = tiles(obs)
    assert found.shape == (1000, 8)
    assert torch.equal(found // 25, torch.arange(8).expand(1000, 8))
    corners = tiles(torch.tensor([[-1.0, 0.0], [3.0, 8.0], [9.0, -9.0]]))  # outside is as on the edge
    assert int(corners.min()) >= 0 and int(corners.max()) < tiles.num_features
    assert len(tiles(torch.cartesian_prod(torch.linspace(-1, 3, 99), torch.linspace(0, 8, 99))).unique()) >= 190


def test_a_tile_is_as_wide_as_it_should_be_and_the_grids_are_displaced():
    tiles = TileCoder(SQUARE, 8, 4, CPU)
    for dim, width in ((0, 1.0), (1, 2.0)):
        obs = torch.tensor([[0.3, 3.1]] * 1601, dtype=torch.float64)
        obs[:, dim] += torch.linspace(0, width, 1601, dtype=torch.float64)
        found = tiles(obs)
        assert ((found[1:] != found[:-1]).sum(dim=0) == 1).all()  # over one width every grid changes its tile once
        changes = (found[1:] != found[:-1]).int().argmax(dim=0)
        assert len(changes.unique()) == 8  # and no two of them at the same place
        assert (changes.sort().values.diff() - 200).abs().max() <= 1  # but evenly spread


def test_what_is_learned_holds_for_neighbours_as_far_as_they_share_tiles():
    tiles = TileCoder(SQUARE, 8, 4, CPU)
    here = tiles(torch.tensor([[0.5, 4.0]]))
    for step, least, most in ((0.01, 7, 8), (0.5, 3, 5), (1.01, 0, 0)):
        shared = int((tiles(torch.tensor([[0.5 + step, 4.0]])) == here).sum())
        assert least <= shared <= most


@pytest.mark.parametrize("trace", ["replacing", "accumulating"])
@pytest.mark.parametrize("trace_lambda", [0.0, 0.7])
def test_it_learns_what_the_textbooks_loop_learns(trace, trace_lambda):
    args = Args(num_runs=3, total_episodes=10, num_tilings=4, num_tiles=3, gamma=0.9, learning_rate=0.4)
    args.trace, args.trace_lambda, args.start_e, args.end_e = trace, trace_lambda, 0.5, 0.5
    world, tiles = Ring(3), TileCoder(Box(0.0, 1.0, (1,), np.float64), 4, 3, CPU)
    values = ActionValues(world, tiles, args, CPU)
    generator = torch.Generator().manual_seed(0)
    *_, (returns, lengths, _) = play(world, values, exploration(args), None, True, generator)
    for run, episodes in enumerate(world.log):
        weights = np.zeros((tiles.num_features, 2))
        assert lengths[run].tolist() == [len(episode) for episode in episodes]
        for episode, total in zip(episodes, returns[run].tolist(), strict=True):
            e = np.zeros_like(weights)
            assert total == pytest.approx(sum(step[2] for step in episode))
            for t, (obs, action, reward, next_obs, over) in enumerate(episode):
                active = tiles(torch.tensor([obs], dtype=torch.float64))[0].numpy()
                following = tiles(torch.tensor([next_obs], dtype=torch.float64))[0].numpy()
                target = reward + (0 if over else 0.9 * weights[following, episode[t + 1][1]].sum())
                delta = target - weights[active, action].sum()
                e *= 0.9 * trace_lambda
                e[active, action] = 1 if trace == "replacing" else e[active, action] + 1
                weights += 0.4 / 4 * delta * e
        assert values.weights[run].numpy() == pytest.approx(weights, abs=1e-12)


def test_an_episode_that_is_cut_off_is_bootstrapped():
    args = Args(num_runs=2, total_episodes=60, num_tilings=2, num_tiles=1, gamma=0.5, max_steps=4, trace_lambda=0.0)

    class Standing(Ring):
        def step(self, states, actions):
            obs, next_states, _ = super().step(states, torch.ones_like(actions))
            return torch.zeros_like(obs), next_states, (states == PLAYING).double()

    world, tiles = Standing(2), TileCoder(Box(0.0, 1.0, (1,), np.float64), 2, 1, CPU)
    values = ActionValues(world, tiles, args, CPU)
    *_, (returns, lengths, _) = play(world, values, exploration(args), 4, True, torch.Generator().manual_seed(0))
    rows = values.rows(torch.zeros(2, 1, dtype=torch.float64))
    assert values.q(rows).amax(dim=1).tolist() == pytest.approx([2.0, 2.0], rel=1e-3)  # 1 / (1 - gamma)
    assert returns.unique().tolist() == lengths.unique().tolist() == [4.0]


def test_halted_runs_stay_where_they_are():
    world, _ = make_world(Args(num_runs=2), CPU)
    obs, states, rewards = world.step(torch.tensor([HALT, END]), torch.zeros(2, dtype=torch.int64))
    again, states, rewards = world.step(torch.tensor([HALT, PLAYING]), torch.tensor([2, 2]))
    assert states.tolist() == [HALT, PLAYING] and rewards.tolist() == [0, -1]
    assert torch.equal(obs[0], again[0]) and not torch.equal(obs[1], again[1])


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        clocks = ("charts/SPS", "time/elapsed")
        return [{k: v for k, v in row.items() if k not in clocks} for row in csv.DictReader(file)]


def test_it_drives_out_of_the_valley(tmp_path):
    row = train(Args(num_runs=3, total_episodes=50, eval_episodes=3, run_dir=tmp_path))
    assert row["eval/episodic_return"] > -170  # a car that has learned nothing gets -200
    names = {"args.json", "metrics.csv", "curve.png", "costs.png", "weights.npy"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert np.load(tmp_path / "weights.npy").shape == (3, 8 * 81, 3)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        args = Args(env_id="Acrobot-v1", num_tiles=1, num_runs=2, total_episodes=2, max_steps=40, eval_episodes=1)
        args.seed, args.run_dir, args.start_e = seed, tmp_path / name, 0.5
        train(args)
    a, b, c = (np.load(tmp_path / name / "weights.npy") for name in "abc")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "CartPole-v1"}, "bounds"),
        ({"env_id": "FrozenLake-v1"}, "a few numbers"),
        ({"env_id": "Pendulum-v1"}, "discrete actions"),
        ({"env_id": "Acrobot-v1", "num_tiles": 20}, "--num-tiles"),
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"num_tilings": 0}, "--num-tilings"),
        ({"trace_lambda": 1.5}, "--trace-lambda"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/tile_coding.py", "--env-id", "CartPole-v1", "--run-dir", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr


def test_the_offsets_leave_no_two_grids_alike():
    for num_tilings, dims in itertools.product((2, 4, 8, 16), (1, 2, 3)):
        tiles = TileCoder(Box(0.0, 1.0, (dims,), np.float64), num_tilings, 2, CPU)
        assert len(set(map(tuple, tiles.offsets.tolist()))) == num_tilings
