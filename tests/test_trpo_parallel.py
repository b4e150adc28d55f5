import csv
import multiprocessing
import os
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import kl_divergence
from torch.nn.utils import parameters_to_vector

from algos import trpo_parallel
from algos.trpo_parallel import (
    Actor,
    Args,
    Critic,
    LinearValue,
    Policy,
    Standardize,
    UsageError,
    act,
    adapt,
    conjugate_gradient,
    freeze,
    gae,
    train,
    trpo_step,
)

BOX, DISCRETE = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3, start=5)


def make_policy(space, obs_dim=4) -> Policy:
    """A policy that acts, on observations that are standardized."""
    torch.manual_seed(0)
    standardize = Standardize(obs_dim)
    standardize.update(torch.randn(50, obs_dim) * 2 + 1)
    policy = Policy(standardize, obs_dim, space, -0.7)
    policy.net[-1].weight.data *= 100
    return policy


# --- actors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [BOX, DISCRETE])
def test_the_numpy_policy_is_the_torch_policy(space):
    policy, obs = make_policy(space), np.random.default_rng(0).normal(1, 9, (200, 4)).astype(np.float32)
    distribution, frozen = policy(torch.tensor(obs)), freeze(policy)
    assert act(frozen, obs, 0) == pytest.approx(distribution.mode.detach().numpy(), abs=1e-5)
    rng = np.random.default_rng(1)
    if space is BOX:
        noise = rng.normal(size=(200, 2)).astype(np.float32)
        expected = distribution.mean + torch.tensor(noise) * np.exp(-0.7)
        assert act(frozen, obs, noise) == pytest.approx(expected.detach().numpy(), abs=1e-5)
    else:
        obs = np.repeat(obs[:1], 20_000, axis=0)
        actions = act(frozen, obs, rng.gumbel(size=(20_000, 3)))
        probs = policy(torch.tensor(obs[:1])).probs[0].detach().numpy()
        assert np.bincount(actions, minlength=3) / 20_000 == pytest.approx(probs, abs=0.02)
    alone = np.concatenate([act(frozen, row[None], 0) for row in obs[:50]])
    np.testing.assert_array_equal(act(frozen, obs[:50], 0), alone)  # bit for bit, in any company


@pytest.mark.parametrize("env_id", ["CartPole-v1", "InvertedPendulum-v5"])
def test_a_rollout_is_what_lone_environments_do_with_its_actions(env_id):
    args = Args(env_id=env_id, num_envs=3)
    actor, env = Actor(args, 0, 1), gym.make(env_id)
    policy = make_policy(env.action_space)
    first, first_episodes = actor.rollout(freeze(policy), 30)
    second, second_episodes = actor.rollout(freeze(policy), 30)
    batch = [np.concatenate(x) for x in zip(first, second, strict=True)]
    ended = [*first_episodes, *((t + 30, *rest) for t, *rest in second_episodes)]
    episodes = []
    for i in range(3):
        (obs, _), total, length = env.reset(seed=int(np.random.default_rng([1, i]).integers(2**31))), 0.0, 0
        for t, x in enumerate(zip(*(array[:, i] for array in batch), strict=True)):
            seen, action, reward, next_obs, termination, done, time = x
            np.testing.assert_allclose(seen, obs, atol=1e-6)
            assert time == length
            space = env.action_space
            action = int(action) if space.shape == () else np.clip(action, space.low, space.high)
            obs, expected, terminated, truncated, _ = env.step(action)
            np.testing.assert_allclose(next_obs, obs, atol=1e-6)
            total, length = total + expected, length + 1
            assert (reward, termination, done) == (pytest.approx(expected), terminated, terminated or truncated)
            if done:
                episodes.append((t, i, total, length))
                (obs, _), total, length = env.reset(), 0.0, 0
    assert len(episodes) >= 3
    expected = [(t, total, length) for t, i, total, length in sorted(episodes)]
    assert [x[0] for x in ended] == [x[0] for x in expected]
    assert np.array(ended, float) == pytest.approx(np.array(expected, float))


def test_an_evaluation_plays_the_mode_and_counts_every_environments_first_episodes(monkeypatch):
    args = Args(env_id="CartPole-v1", num_envs=3)
    actor, noises = Actor(args, 0, 1), []
    frozen = freeze(make_policy(actor.space))

    def spy(frozen, obs, noise):
        noises.append(noise)
        return act(frozen, obs, noise)

    monkeypatch.setattr(trpo_parallel, "act", spy)
    actor.rollout(frozen, 5)
    noises.clear()
    returns = actor.evaluate(frozen, 4)
    assert len(returns) == 12 and not np.any(noises) and min(returns) >= 8  # no CartPole falls within 8 steps


# --- advantages and value functions ----------------------------------------------------------


def test_gae_is_the_sum_of_discounted_td_errors_within_each_episode():
    rng, gamma, lam = np.random.default_rng(0), 0.9, 0.7
    rewards, values, next_values = rng.normal(size=(3, 12, 2))
    dones = rng.random((12, 2)) < 0.3
    terminations = dones & (rng.random((12, 2)) < 0.5)
    inputs = (torch.tensor(x, dtype=torch.float64) for x in (rewards, values, next_values, terminations, dones))
    found = gae(*inputs, gamma, lam)
    for t, env in np.ndindex(12, 2):
        total, weight = 0.0, 1.0
        for k in range(t, 12):
            bootstrap = 0 if terminations[k, env] else gamma * next_values[k, env]
            total += weight * (rewards[k, env] + bootstrap - values[k, env])
            weight *= gamma * lam
            if dones[k, env]:
                break
        assert found[t, env].item() == pytest.approx(total)


def test_the_linear_value_function_is_ridge_regression():
    torch.manual_seed(0)
    obs, times, returns = torch.randn(40, 3), torch.randint(200, (40,)).float(), torch.randn(40)
    value = LinearValue(3)
    assert not value(obs, times).any()
    value.fit(obs, times, returns)
    t = times.double()[:, None] / 100
    x = torch.cat([obs.double(), obs.double() ** 2, t, t**2, torch.ones_like(t)], dim=1)
    padded = torch.cat([x, 2**0.5 * torch.eye(9, dtype=torch.float64)])  # the penalty 2 |w|^2 as nine more samples
    w = torch.linalg.lstsq(padded, torch.cat([returns.double(), torch.zeros(9, dtype=torch.float64)])[:, None]).solution
    torch.testing.assert_close(value(obs, times), (x @ w)[:, 0].float(), rtol=1e-4, atol=1e-5)
    assert value.standardize_returns.std.item() == pytest.approx(returns.std(correction=0).item(), rel=1e-3)


def test_networks_start_orthogonal_and_the_policy_nearly_the_same_everywhere():
    networks = [(Policy(Standardize(3), 3, BOX, 0.0).net, 0.01), (Critic(Standardize(3), 3).net, 1.0)]
    for net, last in networks:
        for layer, gain in zip(net[1::2], (2**0.5, 2**0.5, last), strict=True):
            assert torch.allclose(torch.linalg.svdvals(layer.weight), torch.tensor(gain))
            assert not layer.bias.any()


def test_the_critic_learns_returns_of_any_scale():
    torch.manual_seed(0)
    standardize, obs = Standardize(2), torch.randn(1000, 2)
    standardize.update(obs)
    critic, returns = Critic(standardize, 2), 100 + 300 * obs[:, 0]
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(5):
        critic.fit(optimizer, obs, returns, epochs=10)
    assert (critic(obs) - returns).std() < 0.2 * returns.std()


# --- the trust region ------------------------------------------------------------------------


def test_conjugate_gradient_solves_a_positive_definite_system():
    torch.manual_seed(0)
    root = torch.randn(8, 8, dtype=torch.float64)
    a, b = root @ root.T + torch.eye(8), torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(lambda v: a @ v, b, 20), torch.linalg.solve(a, b))


@pytest.mark.parametrize("space", [BOX, gym.spaces.Discrete(3)])
def test_a_step_is_the_natural_gradient_with_the_dense_fisher_matrix(space, monkeypatch):
    policy = make_policy(space)
    policy.net = torch.nn.Sequential(policy.net[0], torch.nn.Linear(4, 5), torch.nn.Tanh(), policy.net[-1])
    policy.net[-1] = torch.nn.Linear(5, 2 if space is BOX else 3)
    policy.double()
    args = Args(max_kl=1e-4, cg_iterations=100, cg_damping=0.05)
    torch.manual_seed(1)
    obs, advantages = torch.randn(64, 4, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
    monkeypatch.setattr(torch, "randperm", lambda n, device: torch.arange(n))  # Fisher: the first 7
    actions, parameters = policy(obs).sample(), dict(policy.named_parameters())
    names, shapes = list(parameters), [p.shape for p in parameters.values()]

    def at(theta, obs=obs):
        parts = theta.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(policy, values, (obs,))

    theta = parameters_to_vector(policy.parameters()).detach()
    old = at(theta)
    log_probs = old.log_prob(actions).detach()
    gradient = torch.autograd.functional.jacobian(
        lambda x: ((at(x).log_prob(actions) - log_probs).exp() * advantages).mean(), theta
    )
    frozen = policy(obs)
    tenth = policy(obs[:7])
    fisher = torch.autograd.functional.hessian(lambda x: kl_divergence(detached(tenth), at(x, obs[:7])).mean(), theta)
    matrix = fisher + 0.05 * torch.eye(len(theta))
    direction = torch.linalg.solve(matrix, gradient)
    step = (2 * 1e-4 / (direction @ matrix @ direction)).sqrt() * direction
    losses = trpo_step(policy, obs, actions, advantages, torch.tensor(1e-4), args)
    moved = parameters_to_vector(policy.parameters()).detach() - theta
    assert 0.5 < losses["losses/step_fraction"] <= 1
    torch.testing.assert_close(moved, losses["losses/step_fraction"] * step, rtol=1e-2, atol=2e-6)
    kl = kl_divergence(detached(frozen), policy(obs)).mean().item()
    assert losses["losses/kl"] == pytest.approx(kl, rel=1e-4) and kl <= 1e-4 and losses["losses/surrogate_gain"] > 0


def detached(distribution):
    if hasattr(distribution, "logits"):
        return torch.distributions.Categorical(logits=distribution.logits.detach())
    normal = torch.distributions.Normal(distribution.mean.detach(), distribution.stddev.detach())
    return torch.distributions.Independent(normal, 1)


def test_when_no_step_passes_the_policy_stays_bit_for_bit():
    policy = make_policy(BOX)
    before = parameters_to_vector(policy.parameters()).clone()
    obs = torch.randn(32, 4)
    losses = trpo_step(policy, obs, policy(obs).sample(), torch.zeros(32), torch.tensor(0.01), Args())
    assert losses["losses/step_fraction"] == losses["losses/kl"] == 0
    assert torch.equal(parameters_to_vector(policy.parameters()), before)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_fisher_matrix_of_a_tiny_batch_has_at_least_one_state(steps):
    policy, obs = make_policy(BOX), torch.randn(steps, 4)
    losses = trpo_step(policy, obs, policy(obs).sample(), torch.randn(steps), torch.tensor(0.01), Args())
    assert np.isfinite(list(losses.values())).all()


# --- adaptation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, now, steps, kl, flags, expected",
    [
        (-10, -9, 5000, 0.005, {"adapt": "both"}, (4700, 0.0055)),
        (-9, -10, 5000, 0.005, {"adapt": "both"}, (5300, 0.0045)),
        (-10, -9, 5000, 0.005, {"adapt": "steps"}, (4700, 0.005)),
        (-10, -9, 5000, 0.005, {"adapt": "kl"}, (5000, 0.0055)),
        (-10, -9, 5000, 0.005, {}, (5000, 0.005)),
        (-10, -9.6, 5000, 0.005, {"adapt": "both", "adapt_margin": 0.05}, (5300, 0.0045)),
        (-10, -9.4, 5000, 0.005, {"adapt": "both", "adapt_margin": 0.05}, (4700, 0.0055)),
        (-10, -9, 1200, 0.01, {"adapt": "both"}, (1200, 0.01)),
        (-9, -10, 20_000, 0.001, {"adapt": "both"}, (20_000, 0.001)),
        (-9, -10, 10_000, 0.001, {"adapt": "both", "adapt_margin": 0.05}, (10_000, 0.001)),
    ],
)
def test_the_posts_rule(before, now, steps, kl, flags, expected):
    assert adapt(before, now, steps, kl, Args(**flags)) == pytest.approx(expected)


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "charts/SPS" and not k.startswith("time/")} for row in table]


SMALL = {"env_id": "InvertedPendulum-v5", "num_envs": 6, "num_steps": 20, "total_timesteps": 600}


def torchrun_process(rank: int, world: int, folder: str, args: Args):
    """What torchrun starts, but for the rendezvous, which is a file here."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    init, store = torch.distributed.init_process_group, f"file://{folder}/store{world}"
    trpo_parallel.dist.init_process_group = partial(init, init_method=store, rank=rank, world_size=world)
    train(args)


@pytest.mark.timeout(600)  # processes that share a busy core take their time
def test_the_curve_is_the_same_for_any_number_of_processes_and_another_for_another_seed(tmp_path, capfd):
    for world in (2, 4):
        context, args = multiprocessing.get_context("fork"), Args(**SMALL, run_dir=tmp_path / str(world))
        places = [(rank, world, str(tmp_path), args) for rank in range(world)]
        processes = [context.Process(target=torchrun_process, args=place, daemon=True) for place in places]
        for process in processes:
            process.start()
        for process in processes:
            process.join(250)
            assert process.exitcode == 0
        assert capfd.readouterr().out.count("return ") == 1  # the first process alone prints
    for seed in (1, 2):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / f"seed{seed}"))
    assert rows(tmp_path / "seed1") == rows(tmp_path / "2") == rows(tmp_path / "4") != rows(tmp_path / "seed2")
    assert len(rows(tmp_path / "2")) == 5
    one, many = (torch.load(tmp_path / name / "model.pt")["policy"] for name in ("seed1", "4"))
    assert all(torch.equal(one[key], many[key]) for key in one)


def test_linear_values_are_fitted_to_monte_carlo_returns_of_finished_episodes(tmp_path, monkeypatch):
    """No bootstrap: the unfinished steps at the batch's end are left out."""
    fitted = []
    monkeypatch.setattr(LinearValue, "fit", lambda value, obs, times, returns: fitted.append((times, returns)))
    monkeypatch.setattr(LinearValue, "forward", lambda value, obs, times: torch.full_like(times, 77.0))
    flags = {"env_id": "Reacher-v5", "num_envs": 2, "num_steps": 70, "gamma": 0.9, "value": "linear"}
    rollout, batches = Actor.rollout, []

    def spy(actor, *args):
        batches.append(rollout(actor, *args))
        return batches[-1]

    monkeypatch.setattr(Actor, "rollout", spy)
    train(Args(**flags, total_timesteps=280, run_dir=tmp_path / "run"))
    for (arrays, _), (times, returns), finished in zip(batches, fitted, (50, 30), strict=True):
        rewards, start, expected = arrays[2], int(arrays[6][0, 0]), []  # Reacher's episodes have 50 steps
        for t in range(finished):
            rest = 50 - (start + t) % 50
            expected.append(0.9 ** np.arange(rest) @ rewards[t : t + rest])
        np.testing.assert_allclose(returns.numpy(), np.concatenate(expected), rtol=1e-4, atol=1e-5)
        assert times.tolist() == [float((start + t) % 50) for t in range(finished) for _ in range(2)]


def test_it_learns_inverted_pendulum_and_writes_its_folder(tmp_path):
    last = train(Args(env_id="InvertedPendulum-v5", total_timesteps=16_000, run_dir=tmp_path / "run"))
    assert last["charts/episodic_return_100"] > 25  # 5 at the start
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.pt"}
    assert all(float(row["losses/kl"]) <= 0.03 for row in rows(tmp_path / "run"))


def test_where_the_kl_bound_shrinks_the_observations_moments_stand_still(tmp_path):
    flags = {"env_id": "CartPole-v1", "total_timesteps": 500, "num_steps": 20}
    for floor, moves in ((0.0, True), (1e9, False)):
        train(Args(**flags, advantage_floor=floor, run_dir=tmp_path / str(floor)))
        policy = torch.load(tmp_path / str(floor) / "model.pt", weights_only=True)["policy"]
        assert policy["net.0.mean"].any() == moves


def test_the_steps_per_update_follow_the_adapted_ones(tmp_path):
    flags = {"env_id": "CartPole-v1", "num_envs": 8, "num_steps": 10, "adapt": "both", "max_kl": 0.001}
    train(Args(**flags, total_timesteps=4_000, run_dir=tmp_path / "run"))
    table = rows(tmp_path / "run")
    steps, bounds = ([float(row[f"charts/{name}"]) for row in table] for name in ("steps_per_update", "max_kl"))
    returns = [float(row["charts/episodic_return"] or "nan") for row in table]  # empty where no episode ended
    windows = [np.nanmean(returns[i : i + 10]) for i in (0, 10)]
    assert steps[:20] == [80.0] * 20 and bounds[:20] == [0.001] * 20
    improved = windows[1] > windows[0]
    assert (steps[20], bounds[20]) == ((80.0, 0.0015) if improved else (384.0, 0.001))


# --- as a user meets it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "NoSuchEnv-v0"}, "doesn't exist"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"value": "linear"}, "--value linear"),  # Reacher's 50 steps fit, CartPole's 500 do not
        ({"value": "linear", "gae_lambda": 0.5}, "--gae-lambda"),
        ({"adapt_margin": 0.1}, "--adapt"),
        ({"gamma": 1.1}, "gamma"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**{"env_id": "CartPole-v1"} | args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_every_process_needs_an_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="--num-envs 2"):
        train(Args(env_id="CartPole-v1", num_envs=2, run_dir=tmp_path / "run"))


def test_a_diverged_training_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(trpo_parallel, "trpo_step", lambda *args: {"losses/kl": float("nan")})
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
