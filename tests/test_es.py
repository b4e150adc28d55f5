import csv
import multiprocessing
import os
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd
from torch import nn

from algos import es
from algos.es import Args, centered_ranks, draw, estimate_gradient, initial_theta, layers, play, train

# --- the estimate ----------------------------------------------------------------------------


def estimates(function, theta, sigma, pairs=8, updates=800) -> np.ndarray:
    """The gradient of function(theta), estimated again and again with other noise: [updates, d]."""
    args, found = Args(sigma=sigma), []
    for update in range(updates):
        noise = np.array([draw(args.seed, update, pair, len(theta))[0] for pair in range(pairs)], float)
        fitness = np.array([[function(theta + sigma * eps), function(theta - sigma * eps)] for eps in noise])
        found.append(estimate_gradient(fitness, args, update, len(theta)))
    return np.array(found)


def test_the_estimate_is_unbiased_for_the_gradient_of_the_smoothed_return():
    """A cubic's: E sum c_i (theta_i + sigma eps)^3 = sum c_i (theta_i^3 + 3 theta_i sigma^2)."""
    c, theta = np.array([1.0, -2, 0.5, 3]), np.array([0.5, -1, 2, 0.25])
    found = estimates(lambda x: (c * x**3).sum(), theta, sigma=0.3)
    exact, error = 3 * c * (theta**2 + 0.3**2), found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 4 * error).all()
    assert (error < 0.1 * np.abs(exact).max()).all()  # and the interval is narrow enough to tell


def test_antithetic_pairs_need_no_baseline():
    theta = np.zeros(3)
    plain, offset = (estimates(lambda x, o=o: o + x.sum(), theta, 0.1, updates=5) for o in (0, 1000))
    np.testing.assert_allclose(plain, offset, rtol=1e-3)


def test_noise_is_the_same_wherever_it_is_drawn_and_differs_between_pairs_updates_and_seeds():
    eps, episode = draw(1, 2, 3, 2000)
    np.testing.assert_array_equal(eps, draw(1, 2, 3, 2000)[0])
    assert episode == draw(1, 2, 3, 2000)[1]
    others = [draw(*key, 2000) for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert all(abs(np.corrcoef(eps, other)[0, 1]) < 0.1 and seed != episode for other, seed in others)
    assert abs(eps.mean()) < 0.1 and eps.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("returns", [[3, 1, 2], [5, 5, 5, 5], [1, 2, 2, 9, -4, 2.0], [500, 20, 500, 21]])
def test_ranks_count_the_members_that_did_worse_and_half_of_the_ties(returns):
    returns = np.array(returns, float)
    worse = [sum(y < x for y in returns) + (sum(y == x for y in returns) - 1) / 2 for x in returns]
    np.testing.assert_allclose(centered_ranks(returns), np.array(worse) / (len(returns) - 1) - 0.5)


# --- policies and episodes -------------------------------------------------------------------


def test_initial_units_have_norm_1_and_the_last_layer_hardly_acts():
    first, second, last = layers(initial_theta([5, 64, 64, 3], np.random.default_rng(0)), [5, 64, 64, 3])
    assert [layer.shape for layer in (first, second, last)] == [(6, 64), (65, 64), (65, 3)]
    for layer, norm in ((first, 1), (second, 1), (last, 0.01)):
        np.testing.assert_allclose(np.linalg.norm(layer[:-1], axis=0), norm, rtol=1e-5)
        assert not layer[-1].any()


class Sign(nn.Module):
    def forward(self, x):
        return torch.sign(x)


def network(theta: np.ndarray, sizes: list[int], activation: str) -> nn.Sequential:
    """The policy as a PyTorch module, cut out of theta by hand."""
    kind, parts, start = nn.Tanh if activation == "tanh" else Sign, [], 0
    for n_in, n_out in pairwise(sizes):
        linear, end = nn.Linear(n_in, n_out), start + n_in * n_out
        linear.weight.data = torch.tensor(theta[start:end]).view(n_in, n_out).T
        linear.bias.data = torch.tensor(theta[end : end + n_out])
        start, parts = end + n_out, [*parts, linear, kind()]
    assert start == len(theta)
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize(
    "env_id, activation, normalize", [("CartPole-v1", "sign", False), ("InvertedPendulum-v5", "tanh", True)]
)
def test_an_episode_is_the_one_that_the_networks_actions_make(env_id, activation, normalize):
    args, env, lengths = Args(env_id=env_id, activation=activation, normalize_obs=normalize), gym.make(env_id), set()
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    sizes, obs_rms = [4, 64, 64, 2 if discrete else 1], RunningMeanStd(shape=(4,))
    obs_rms.update_from_moments(np.full(4, 0.1), np.full(4, 0.3), 1000)
    for seed in range(4):
        theta = np.random.default_rng(seed).normal(0, 0.4, (4 + 1) * 64 + 65 * 64 + 65 * sizes[-1]).astype(np.float32)
        net, total, seen, done = network(theta, sizes, activation), 0.0, [], False
        obs, _ = env.reset(seed=seed)
        while not done:
            seen.append(obs)
            x = np.clip((obs - obs_rms.mean) / np.sqrt(obs_rms.var), -5, 5) if normalize else obs
            output = net(torch.tensor(x, dtype=torch.float32)).detach().numpy()
            action = int(output.argmax()) if discrete else output.clip(env.action_space.low, env.action_space.high)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        episode = play(env, theta, sizes, obs_rms, args, seed)
        assert episode["return"] == pytest.approx(total) and episode["length"] == len(seen)
        mean, var, count = episode["moments"]
        np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(var, np.var(seen, axis=0), rtol=1e-3, atol=1e-5)
        assert count == len(seen)
        lengths.add(len(seen))
    assert len(lengths) > 1


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_learns_cartpole_and_writes_its_folder(tmp_path):
    last = train(Args(run_dir=tmp_path / "run", total_timesteps=20_000, eval_every=1000))
    saved = torch.load(tmp_path / "run/model.pt", weights_only=True)
    net = network(saved["theta"].numpy(), [4, 64, 64, 2], "tanh")
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(5):  # played here, not read from the run's own bookkeeping
        (obs, _), total, done = env.reset(seed=1_000 + seed), 0.0, False
        while not done:
            x = ((torch.tensor(obs) - saved["obs_mean"]) / saved["obs_var"].sqrt()).clip(-5, 5).float()
            obs, reward, terminated, truncated, _ = env.step(int(net(x).argmax()))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) >= 100  # policies at the start get 10 to 30
    assert last["eval/episodic_return"] >= 100
    returns = sum(32 * float(row["charts/episodic_return"]) for row in rows(tmp_path / "run"))
    assert last["global_step"] == round(returns) >= 20_000  # a reward of 1 per step
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.pt"}


def test_an_update_is_adam_on_the_estimate_with_decoupled_decay(tmp_path, monkeypatch):
    """Returns are a known function of theta; Adam's moments are written as what they stand for, weighted means."""
    seen = []

    def quadratic(env, theta, sizes, obs_rms, args, seed):
        seen.append(theta.astype(float))
        return {"return": -((theta - 1) ** 2).sum(), "length": 100, "moments": (np.zeros(4), np.ones(4), 100)}

    monkeypatch.setattr(es, "play", quadratic)
    flags = {"population": 4, "weight_decay": 0.2, "learning_rate": 0.03, "eval_every": 1}
    train(Args(**flags, total_timesteps=1_600, run_dir=tmp_path / "run"))
    assert len(seen) == 4 * (4 + 10)  # four members and the evaluation of each of four updates
    gradients = []
    for t in range(1, 5):
        members, after = np.array(seen[14 * t - 14 : 14 * t - 10]), seen[14 * t - 1]
        before = members[:2].mean(axis=0)  # an antithetic pair's mean
        ranks = centered_ranks(-((members - 1) ** 2).sum(axis=1))
        gradients.append((ranks[:, None] * (members - before)).sum(axis=0) / (4 * 0.05**2))
        weights, square_weights = 0.9 ** np.arange(t)[::-1], 0.999 ** np.arange(t)[::-1]
        mean = weights @ np.array(gradients) / weights.sum()
        square = square_weights @ np.square(gradients) / square_weights.sum()
        expected = before + 0.03 * mean / (np.sqrt(square) + 1e-8) - 0.03 * 0.2 * before
        np.testing.assert_allclose(after, expected, atol=2e-4)


SMALL = {"env_id": "InvertedPendulum-v5", "population": 6, "total_timesteps": 600, "eval_every": 2}


def torchrun_process(rank: int, world: int, folder: str, args: Args):
    """What torchrun starts, but for the rendezvous, which is a file here."""
    os.environ["WORLD_SIZE"] = str(world)
    init = torch.distributed.init_process_group
    es.dist.init_process_group = partial(init, init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    train(args)


@pytest.mark.timeout(600)  # processes that share a busy core take their time
def test_the_curve_is_the_same_for_any_number_of_processes_and_another_for_another_seed(tmp_path):
    for world in (2, 5):
        context, args = multiprocessing.get_context("fork"), Args(**SMALL, run_dir=tmp_path / str(world))
        places = [(rank, world, str(tmp_path), args) for rank in range(world)]
        processes = [context.Process(target=torchrun_process, args=place, daemon=True) for place in places]
        for process in processes:
            process.start()
        for process in processes:
            process.join(250)
            assert process.exitcode == 0
    for seed in (1, 2):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / f"seed{seed}"))
    assert rows(tmp_path / "seed1") == rows(tmp_path / "2") == rows(tmp_path / "5") != rows(tmp_path / "seed2")
    assert len(rows(tmp_path / "2")) > 3
    thetas = [torch.load(tmp_path / name / "model.pt")["theta"] for name in ("seed1", "2", "5")]
    assert torch.equal(thetas[0], thetas[1]) and torch.equal(thetas[0], thetas[2])


def test_a_return_that_is_nan_stops_the_training(tmp_path, monkeypatch):
    nan = {"return": np.nan, "length": 1, "moments": (np.zeros(4), np.ones(4), 1)}
    monkeypatch.setattr(es, "play", lambda *args: nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


# --- as a user meets it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "nowhere:NoSuchEnv-v0"}, "No module named"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"population": 9}, "population"),
        ({"sigma": 0.0}, "sigma"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"activation": "relu"}, "activation"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
