"""Evolution strategies: the estimate against known gradients, play against lone environments, every process alike."""

import csv
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from algos import es
from algos.es import (
    EPISODES,
    OBS_CLIP,
    Args,
    Group,
    ObsNormalizer,
    Policies,
    Search,
    UsageError,
    centered_ranks,
    draw_noise,
    evaluate,
    initial_parameters,
    stream,
    train,
)

PLAIN = {
    "antithetic": False,
    "centered_ranks": False,
    "adam": False,
    "weight_decay": 0.0,
    "normalize_obs": False,
}
MOMENTS = (1, np.zeros(3), np.ones(3))


# --- the estimate ----------------------------------------------------------------------------


def estimates(function, updates=400, **flags):
    """The search's gradient of function(theta), again and again with other noise: [updates, 4]."""
    search = Search(Args(population=16, group_size=8, sigma=0.3, **flags), [3, 1])
    search.theta[:] = [0.5, -1, 2, 0.25]
    found = []
    for search.updates in range(updates):
        members = np.concatenate([search.population(group) for group in range(2)])
        found.append(search.gradient(np.array([function(member.astype(float)) for member in members])))
    return search.theta.astype(float), np.array(found)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_estimate_is_unbiased_for_the_gradient_of_the_smoothed_return(antithetic):
    """A cubic's: of E f(theta + sigma eps) = sum c_i (theta_i^3 + 3 theta_i sigma^2), the noise's own part included."""
    c = np.array([1.0, -2, 0.5, 3])
    theta, found = estimates(lambda x: (c * x**3).sum(), **PLAIN | {"antithetic": antithetic})
    exact = 3 * c * (theta**2 + 0.3**2)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 4 * error).all()
    assert (error < 0.1 * np.abs(exact).max()).all()  # and the interval is narrow enough to tell


def test_the_update_is_algorithm_1_number_for_number():
    args = Args(population=6, group_size=3, sigma=0.2, learning_rate=0.7, **PLAIN)
    search, returns = Search(args, [3, 1]), np.array([3.0, -1, 4, 1, -5, 9])
    before = search.theta.astype(float)
    noise = np.concatenate([(search.population(group) - search.theta) / 0.2 for group in range(2)])
    expected = before + 0.7 / (6 * 0.2) * sum(f * e for f, e in zip(returns, noise, strict=True))
    search.update([{"returns": part, "moments": MOMENTS} for part in np.split(returns, 2)])
    np.testing.assert_allclose(search.theta, expected, rtol=1e-4)
    assert noise.std() == pytest.approx(1, abs=0.5) and len(np.unique(noise)) == noise.size


def test_pairs_oppose_each_other_and_need_no_baseline():
    noise = draw_noise(Args(group_size=8), 3, 1, 5)
    np.testing.assert_array_equal(noise[:4], -noise[4:])
    offset = 1000.0  # what every member gets whatever it does
    spread = {}
    for antithetic in (False, True):
        _, found = estimates(lambda x: offset + x.sum(), 100, **PLAIN | {"antithetic": antithetic})
        spread[antithetic] = found.std()
    assert spread[True] < 0.02 * spread[False]


def test_noise_is_regenerated_from_its_numbers_and_is_standard_normal():
    args = Args(population=64, group_size=64, antithetic=False)
    noise = draw_noise(args, 7, 2, 500)
    np.testing.assert_array_equal(noise, draw_noise(args, 7, 2, 500))
    others = [draw_noise(args, 8, 2, 500), draw_noise(args, 7, 3, 500), draw_noise(replace(args, seed=2), 7, 2, 500)]
    assert not any((noise[:32] == other[:32]).any() for other in others)
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.2


@pytest.mark.parametrize("returns", [[3, 1, 2], [5, 5, 5, 5], [1, 2, 2, 9, -4, 2.0], [500, 20, 500, 21]])
def test_ranks_count_the_members_that_did_worse_and_half_of_those_that_did_the_same(returns):
    returns = np.array(returns, float)
    worse = [(returns < x).sum() + ((returns == x).sum() - 1) / 2 for x in returns]
    np.testing.assert_allclose(centered_ranks(returns), np.array(worse) / (len(returns) - 1) - 0.5)


def test_ranks_do_not_see_an_outlier_or_a_unit():
    returns = np.random.default_rng(0).normal(size=16)
    search = Search(Args(population=16, group_size=8), [3, 1])
    outlier = np.where(returns == returns.max(), 1e6, 10 * returns)
    np.testing.assert_array_equal(search.gradient(returns), search.gradient(outlier))
    assert not search.gradient(np.full(16, 500.0)).any()  # nothing to tell apart, nothing to follow


def test_the_step_is_adam_with_decoupled_decay():
    """Adam's moments as what they stand for: exponentially weighted means of all gradients so far."""
    args = Args(population=8, group_size=4, learning_rate=0.03, weight_decay=0.2)
    search, rng, gradients = Search(args, [3, 1]), np.random.default_rng(0), []
    for t in range(1, 6):
        before, returns = search.theta.astype(float), rng.normal(size=8)
        gradients.append(search.gradient(returns).astype(float))
        first, second = (0.9 ** np.arange(t)[::-1], 0.999 ** np.arange(t)[::-1])
        mean, square = first @ gradients / first.sum(), second @ np.square(gradients) / second.sum()
        search.update([{"returns": part, "moments": MOMENTS} for part in np.split(returns, 2)])
        expected = before + 0.03 * mean / (np.sqrt(square) + 1e-8) - 0.03 * 0.2 * before
        np.testing.assert_allclose(search.theta, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("flags", [PLAIN | {"learning_rate": 0.01, "sigma": 0.5}, PLAIN | {"antithetic": True}, {}])
def test_it_climbs_a_quadratic_to_its_known_optimum(flags):
    optimum = np.array([1.5, -0.5, 3.0, 0.0])
    args = Args(
        **{"population": 32, "group_size": 16, "learning_rate": 0.05, "sigma": 0.1, "weight_decay": 0.0} | flags
    )
    search = Search(args, [3, 1])
    for _ in range(200):
        returns = [-((search.population(group) - optimum) ** 2).sum(axis=1) for group in range(2)]
        search.update([{"returns": part, "moments": MOMENTS} for part in returns])
    np.testing.assert_allclose(search.theta, optimum, atol=0.2)


# --- policies and play -----------------------------------------------------------------------


class Sign(nn.Module):
    def forward(self, x):
        return torch.sign(x)


@pytest.mark.parametrize("device, activation", list(itertools.product([None, torch.device("cpu")], ["tanh", "sign"])))
def test_each_member_is_a_network_of_its_own(device, activation):
    rng, sizes = np.random.default_rng(0), [3, 64, 64, 2]
    parameters = np.stack([initial_parameters(sizes, rng) for _ in range(5)])
    parameters += 0.1 * rng.standard_normal(parameters.shape, dtype=np.float32)
    obs = rng.standard_normal((5, 3), dtype=np.float32)
    policies, expected = Policies(parameters, sizes, activation, device), []
    kind = nn.Tanh if activation == "tanh" else Sign
    for row, o in zip(torch.tensor(parameters), torch.tensor(obs), strict=True):
        net = nn.Sequential(nn.Linear(3, 64), kind(), nn.Linear(64, 64), kind(), nn.Linear(64, 2))
        parts = iter(row.split([3 * 64, 64, 64 * 64, 64, 64 * 2, 2]))  # first to last, weights before biases
        for linear in net[::2]:
            linear.weight.data = next(parts).view(linear.in_features, linear.out_features).T
            linear.bias.data = next(parts)
        expected.append(net(o).detach().numpy())
    np.testing.assert_allclose(policies(obs), expected, rtol=1e-4, atol=1e-5)
    policies.keep(np.array([True, False, False, True, False]))
    np.testing.assert_allclose(policies(obs[[0, 3]]), np.array(expected)[[0, 3]], rtol=1e-4, atol=1e-5)


def test_a_member_does_the_same_in_any_company():
    rng, sizes = np.random.default_rng(0), [3, 64, 64, 2]
    parameters = np.stack([initial_parameters(sizes, rng) for _ in range(64)])
    obs = rng.standard_normal((64, 3), dtype=np.float32)
    alone = [Policies(parameters[i : i + 1], sizes, "tanh")(obs[i : i + 1])[0] for i in range(64)]
    np.testing.assert_array_equal(Policies(parameters, sizes, "tanh")(obs), alone)  # bit for bit


def test_the_first_network_has_units_of_length_1_and_hardly_acts():
    parameters, start = initial_parameters([5, 64, 64, 3], np.random.default_rng(0)), 0
    for n_in, n_out, length in [(5, 64, 1), (64, 64, 1), (64, 3, 0.01)]:
        weights = parameters[start : start + n_in * n_out].reshape(n_in, n_out)
        np.testing.assert_allclose(np.linalg.norm(weights, axis=0), length, rtol=1e-5)
        start += (n_in + 1) * n_out
        assert not parameters[start - n_out : start].any()
    assert start == len(parameters)


def test_the_normalizer_merges_moments_in_any_portions_and_clips():
    x = np.random.default_rng(0).normal(3, 2, size=(100, 2))
    normalizer = ObsNormalizer(2)
    for part in (x[:10], x[10:75], x[75:]):
        normalizer.update(len(part), part.mean(0), part.var(0))
    np.testing.assert_allclose(normalizer.mean, x.mean(0))
    np.testing.assert_allclose(normalizer.var, x.var(0))
    seen = normalizer.function()(np.array([[3.0, 1e9], [3.0, -1e9]], np.float32))
    np.testing.assert_allclose(seen[:, 0], (3 - x.mean(0)[0]) / x.std(0)[0], rtol=1e-5)
    assert seen[:, 1].tolist() == [OBS_CLIP, -OBS_CLIP]


def lone_start(group, env, i: int, seed: int):
    """The observation with which member i's episode begins, in a lone environment set to the same state."""
    if isinstance(group.envs, es.Copies):
        return env.reset(seed=np.random.default_rng(seed).integers(2**31, size=len(group.envs.envs)).tolist()[i])[0]
    obs, _ = group.envs.reset(seed=seed)
    env.reset(seed=0)
    env.unwrapped.state = group.envs.unwrapped.state[:, i]
    return obs[i]


@pytest.mark.parametrize(
    "env_id, normalize", [("CartPole-v1", False), ("Acrobot-v1", True), ("InvertedPendulum-v5", True)]
)
def test_side_by_side_is_what_each_member_does_alone(env_id, normalize):
    args = Args(env_id=env_id, population=8, group_size=8, sigma=1.0, normalize_obs=normalize)
    search, group, env = Search(args, es.check_spaces(args)), Group(args, 0), gym.make(args.env_id)
    search.normalizer.update(10, np.full(search.sizes[0], 0.1), np.full(search.sizes[0], 0.5))
    parameters = search.population(0)
    result = group.play(search, parameters, np.random.default_rng(5))
    seed = int(np.random.default_rng(5).integers(2**31))
    returns, lengths, seen = [], [], []
    for i in range(8):
        obs, total, length, done = lone_start(group, env, i, seed), 0.0, 0, False
        policy = Policies(parameters[i : i + 1], search.sizes, "tanh")
        while not done:
            seen.append(obs)
            inputs = ((obs - search.normalizer.mean) / np.sqrt(search.normalizer.var)).clip(-OBS_CLIP, OBS_CLIP)
            output = policy((inputs if normalize else obs)[None].astype(np.float32))[0]
            space = env.action_space
            action = int(output.argmax()) if space.shape == () else output.clip(space.low, space.high)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length, done = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    np.testing.assert_allclose(result["returns"], returns, rtol=1e-6)
    assert result["lengths"].tolist() == lengths and len(set(lengths)) > 2
    count, mean, var = result["moments"]
    assert count == sum(lengths)
    np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(var, np.var(seen, axis=0), rtol=1e-3, atol=1e-4)


def test_a_score_is_made_of_as_many_episodes_as_asked_for_of_the_unperturbed_policy():
    args = Args(env_id="CartPole-v1", population=12, group_size=4)
    search = Search(args, es.check_spaces(args))
    groups, played = [Group(args, index) for index in range(3)], []
    for group in groups:
        play = group.play
        group.play = lambda search, parameters, rng, play=play: (
            played.append((parameters == search.theta).all()),
            play(search, parameters, rng),
        )[1]
    scores = [group.score(search, 10) for group in groups]
    assert [len(score) for score in scores] == [4, 3, 3] and all(played)
    assert len(groups[0].score(search, 25)) == 9 and len(played) == 3 + 3


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "charts/SPS" and not k.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def play_cartpole(folder, episodes=10):
    """Mean return of the policy that a run's folder holds, played here and not by the script."""
    saved, args = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["search"],
        json.loads((folder / "args.json").read_text()),
    )
    policy = Policies(saved["theta"].numpy()[None], [4, 64, 64, 2], args["activation"])
    mean, std = saved["normalizer"]["mean"].numpy(), saved["normalizer"]["var"].sqrt().numpy()
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(episodes):
        (obs, _), total, done = env.reset(seed=1_000 + seed), 0.0, False
        while not done:
            inputs = ((obs - mean) / std).clip(-OBS_CLIP, OBS_CLIP) if args["normalize_obs"] else obs
            obs, reward, terminated, truncated, _ = env.step(int(policy(inputs[None].astype(np.float32))[0].argmax()))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return np.mean(returns)


def test_solves_cartpole_and_writes_its_folder(tmp_path):
    last = train(Args(run_dir=tmp_path, total_timesteps=80_000, num_actors=1))
    assert play_cartpole(tmp_path) >= 475  # CartPole-v1's own reward_threshold
    assert last["eval/episodic_return"] >= 475
    assert last["global_step"] == round(sum(32 * float(row["charts/episodic_length"]) for row in rows(tmp_path)))
    assert {p.name for p in tmp_path.iterdir()} == {"args.json", "metrics.csv", "curve.png", "checkpoint.pt"}
    assert json.loads((tmp_path / "args.json").read_text())["env_id"] == "CartPole-v1"
    assert evaluate(tmp_path)[0] >= 475


def test_a_network_that_backpropagation_cannot_train_learns_cartpole(tmp_path):
    train(Args(activation="sign", run_dir=tmp_path, total_timesteps=110_000, num_actors=1))
    assert play_cartpole(tmp_path) >= 475


SMALL = {"env_id": "InvertedPendulum", "population": 12, "group_size": 4, "eval_every": 2, "eval_episodes": 5}


def test_the_curve_is_the_same_for_any_number_of_actors_and_another_for_another_seed(tmp_path):
    for name, actors, seed in (("one", 1, 1), ("two", 2, 1), ("other", 1, 2)):
        train(Args(**SMALL, num_actors=actors, seed=seed, total_timesteps=1_500, run_dir=tmp_path / name))
    assert rows(tmp_path / "one") == rows(tmp_path / "two") != rows(tmp_path / "other")
    assert len(rows(tmp_path / "one")) > 4


def torchrun_process(rank: int, port: int, args: Args):
    """What torchrun starts; the processes are forked here, which saves importing everything again."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(args)


def test_two_processes_that_exchange_returns_make_the_curve_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = SMALL | {"num_actors": 1, "total_timesteps": 1_000}
    train(Args(**flags, run_dir=tmp_path / "one"))
    context = multiprocessing.get_context("fork")
    args = Args(**flags, run_dir=tmp_path / "two")
    workers = [context.Process(target=torchrun_process, args=(rank, port, args)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    one, two = (torch.load(tmp_path / name / "checkpoint.pt")["search"]["theta"] for name in ("one", "two"))
    assert torch.equal(one, two)


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"total_timesteps": 2_000, "num_actors": 1, "checkpoint_every": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = es.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(es.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) > 4
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["search"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in ("theta", "first", "second"))


def test_a_return_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    play = Group.play

    def broken(group, search, *args):
        result = play(group, search, *args)
        return result | {"returns": result["returns"] * (np.nan if search.updates == 2 else 1)}

    monkeypatch.setattr(Group, "play", broken)
    with pytest.raises(FloatingPointError, match="not a finite number"):
        train(Args(**SMALL, num_actors=1, checkpoint_every=1, run_dir=tmp_path))
    saved = torch.load(tmp_path / "checkpoint.pt")["search"]
    assert saved["updates"] == 2 and saved["theta"].isfinite().all()


# --- as a user meets it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "CarRacing-v3"}, "--env-id CarRacing-v3"),
        ({"population": 1, "group_size": 1}, "--population must be at least 2"),
        ({"population": 24}, "--group-size"),
        ({"population": 9, "group_size": 3}, "--no-antithetic"),
        ({"sigma": 0.0}, "--sigma"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"weight_decay": 30.0}, "--weight-decay"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    flags = SMALL | {"total_timesteps": 50, "num_actors": 1}
    train(Args(**flags, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**flags, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    saved = tmp_path / "run/args.json"
    saved.write_text(saved.read_text().replace("InvertedPendulum-v5", "Reacher-v5"))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit Reacher-v5"):
            verb()
    saved.write_text("{}")
    with pytest.raises(UsageError, match=r"--resume .* damaged"):
        train(Args(resume=tmp_path / "run"))


def test_ctrl_c_ends_every_process_and_leaves_a_run_to_resume(tmp_path):
    flags = ["--env-id", "InvertedPendulum", "--num-actors", "2", "--population", "8", "--group-size", "4"]
    command = [sys.executable, "algos/es.py", *flags, "--checkpoint-every", "2", "--run-dir", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.csv").exists() or len((tmp_path / "metrics.csv").read_text().splitlines()) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # the actors are gone, too
        os.killpg(process.pid, 0)
    assert torch.load(tmp_path / "checkpoint.pt")["search"]["updates"] >= 2


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    flags = ["--env-id", "NoSuchEnv-v0", "--run-dir", tmp_path / "x"]
    done = subprocess.run([sys.executable, "algos/es.py", *flags], capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--env-id" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_episodes_begin_anew_in_every_update():
    starts = [
        stream(1, EPISODES, update, group).integers(2**31) for update, group in itertools.product(range(3), range(3))
    ]
    assert len(set(starts)) == 9
