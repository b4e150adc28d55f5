"""TRPO: its maths against closed forms, dense matrices and enumeration; a short training; what is refused."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import kl_divergence
from torch.nn.utils import parameters_to_vector

from algos.trpo import (
    Args,
    Critic,
    Policy,
    Standardize,
    UsageError,
    conjugate_gradient,
    evaluate,
    gae,
    make_envs,
    rollout,
    train,
    trpo_step,
)


class Clock(gym.Env):
    """Shows the time as (t, 1), pays 1 a step, and ends after `length` steps in either way."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,))

    def __init__(self, length: int, terminates: bool, blind: bool = False):
        self.length, self.terminates, self.blind, self.taken = length, terminates, blind, []

    def obs(self):
        return np.array([0 if self.blind else self.t, 1], np.float32)

    def reset(self, seed=None, options=None):
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        self.taken.append(float(action[0]))
        end = self.t == self.length
        return self.obs(), 1.0, end and self.terminates, end and not self.terminates, {}


for name, terminates in (("Terminates", True), ("Truncates", False)):
    gym.register(f"{name}-v0", Clock, kwargs={"length": 5, "terminates": terminates})
    gym.register(f"{name}Blind-v0", Clock, kwargs={"length": 5, "terminates": terminates, "blind": True})


def linear_policy(space: gym.Space, obs: torch.Tensor) -> Policy:
    """A policy without hidden layers, whose Fisher matrix is small enough to be formed."""
    policy = Policy(Standardize(obs.shape[1]), obs.shape[1], space, log_std_init=-0.5)
    outputs = policy.net[-1].out_features
    policy.net = torch.nn.Sequential(policy.net[0], torch.nn.Linear(obs.shape[1], outputs))
    return policy


def dense_fisher(policy: Policy, obs: torch.Tensor) -> torch.Tensor:
    """E[score score^T] of a linear policy in closed form, parameters in the order of policy.parameters()."""
    x = torch.cat([obs, torch.ones(len(obs), 1)], dim=1)  # the bias last
    outputs, n_in = policy.net[-1].weight.shape
    if policy.log_std is not None:
        m = torch.diag_embed((-2 * policy.log_std.detach()).exp().expand(len(obs), outputs))
    else:
        p = policy(obs).probs.detach()
        m = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    full = torch.einsum("nab,ni,nj->aibj", m, x, x) / len(obs)  # [output, input, output, input]
    order = [(a, i) for a in range(outputs) for i in range(n_in)] + [(a, n_in) for a in range(outputs)]
    rows = torch.tensor(order)
    fisher = full[rows[:, 0], rows[:, 1]][:, rows[:, 0], rows[:, 1]]
    return fisher if policy.log_std is None else torch.block_diag(2 * torch.eye(outputs), fisher)


def test_networks_start_orthogonal_and_the_policy_nearly_the_same_everywhere():
    policy, critic = Policy(Standardize(200), 200, Discrete(2), 0.0).net, Critic(Standardize(200), 200).net
    assert (policy[1].weight.norm(dim=1) < 0.7).all()  # rows of an orthogonal layer with more inputs than units: 1.4
    for layer, gain in zip((*critic[1::2], *policy[3::2]), (2**0.5, 2**0.5, 1.0, 2**0.5, 0.01), strict=True):
        assert torch.allclose(torch.linalg.svdvals(layer.weight), torch.tensor(gain))
        assert not layer.bias.any()


def test_new_moments_of_the_returns_change_no_value():
    torch.manual_seed(0)
    critic, obs = Critic(Standardize(2), 2), torch.rand(64, 2)
    for returns in (5 + 3 * torch.randn(64), 1000 * torch.randn(64)):
        before = critic(obs).detach()
        critic.fit(torch.optim.Adam(critic.parameters()), obs, returns, epochs=0)
        assert torch.allclose(critic(obs), before, rtol=1e-4, atol=1e-3)  # float32, at a scale of 1,000


def test_gae_is_the_discounted_sum_of_td_errors_up_to_the_episodes_end():
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 7, 4).unbind()
    terminations = (torch.rand(7, 4) < 0.2).float()
    dones = torch.maximum(terminations, (torch.rand(7, 4) < 0.3).float())
    gamma, lam = 0.9, 0.7
    got = gae(rewards, values, next_values, terminations, dones, gamma, lam)
    for t in range(7):
        for i in range(4):
            total, weight = 0.0, 1.0
            for k in range(t, 7):
                bootstrap = 0 if terminations[k, i] else gamma * next_values[k, i]
                total += weight * (rewards[k, i] + bootstrap - values[k, i])
                weight *= gamma * lam
                if dones[k, i]:
                    break
            assert got[t, i] == pytest.approx(float(total), abs=1e-5)


def test_conjugate_gradient_solves_in_as_many_iterations_as_dimensions():
    torch.manual_seed(0)
    root, b = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    a = root @ root.T + torch.eye(6)
    assert torch.allclose(conjugate_gradient(lambda v: a @ v, b, 6), torch.linalg.solve(a, b), atol=1e-6)
    one = conjugate_gradient(lambda v: a @ v, b, 1)  # the exact line search along b
    assert torch.allclose(one, (b @ b) / (b @ a @ b) * b)
    assert conjugate_gradient(lambda v: a @ v, 0 * b, 6).tolist() == [0] * 6


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Discrete(3)])
def test_the_step_is_the_natural_gradients_with_the_length_of_the_bound(space):
    torch.manual_seed(1)
    obs = torch.randn(500, 3)
    policy = linear_policy(space, obs)
    with torch.no_grad():
        old = policy(obs)
    actions, theta = old.sample(), parameters_to_vector(policy.parameters()).detach()
    advantages = torch.randn(500)
    objective = (policy(obs).log_prob(actions) * advantages).mean()  # its gradient is the surrogate's
    gradient = parameters_to_vector(torch.autograd.grad(objective, list(policy.parameters())))
    damping = 0.01
    damped = dense_fisher(policy, obs) + damping * torch.eye(len(theta))
    direction = torch.linalg.solve(damped, gradient)
    expected = (2 * 1e-4 / (direction @ damped @ direction)).sqrt() * direction
    args = Args(cg_damping=damping, cg_iterations=60)
    losses = trpo_step(policy, obs, actions, advantages, torch.tensor(1e-4), args)
    step = parameters_to_vector(policy.parameters()).detach() - theta
    assert torch.allclose(step, losses["losses/step_fraction"] * expected, atol=2e-3 * float(expected.norm()))
    assert losses["losses/step_fraction"] > 0.8  # so small a step is within the quadratic model
    assert losses["losses/kl"] == pytest.approx(kl_divergence(old, policy(obs)).mean().item(), rel=1e-3)
    gain = ((policy(obs).log_prob(actions) - old.log_prob(actions)).exp() * advantages).mean() - advantages.mean()
    assert losses["losses/surrogate_gain"] == pytest.approx(gain.item(), rel=1e-3)
    assert losses["losses/surrogate_gain"] > 0


def test_the_line_search_keeps_the_bound_where_the_quadratic_model_fails():
    torch.manual_seed(2)
    obs = torch.randn(300, 3)
    for max_kl in (0.5, 3.0):
        policy = Policy(Standardize(3), 3, Box(-1, 1, (2,)), log_std_init=-1.0)
        with torch.no_grad():
            old = policy(obs)
        losses = trpo_step(policy, obs, old.sample(), torch.randn(300), torch.tensor(max_kl), Args(cg_damping=1e-3))
        assert losses["losses/kl"] <= max_kl
        assert losses["losses/kl"] == pytest.approx(kl_divergence(old, policy(obs)).mean().item(), rel=1e-3)


def test_where_no_trial_passes_the_policy_stays_bit_for_bit():
    torch.manual_seed(3)
    policy, obs = Policy(Standardize(3), 3, Box(-1, 1, (2,)), 0.0), torch.randn(50, 3)
    with torch.no_grad():
        actions = policy(obs).sample()
    less_noise = -actions.square().sum(dim=1)  # a smaller std: KL(old || new) grows exponentially with the step
    before = parameters_to_vector(policy.parameters()).detach()
    for advantages, max_kl in ((torch.zeros(50), 0.1), (less_noise, 1e4)):
        losses = trpo_step(policy, obs, actions, advantages, torch.tensor(max_kl), Args())
        assert torch.equal(before, parameters_to_vector(policy.parameters()))
        assert losses["losses/step_fraction"] == losses["losses/kl"] == losses["losses/surrogate_gain"] == 0


def test_standardize_has_the_moments_of_everything_it_has_seen():
    torch.manual_seed(0)
    x, layer = 5 + 3 * torch.randn(400, 2), Standardize(2)
    layer.update(x[:100].view(10, 10, 2).flatten(0, 1))
    layer.update(x[100:])
    expected = (x - x.mean(0)) / x.std(0, correction=0)
    assert torch.allclose(layer(x), expected, atol=1e-4)
    assert layer(torch.tensor([[1e9, -1e9]])).tolist() == [[10, -10]]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_critic_fits_returns_of_any_scale_and_saturates_no_unit(scale):
    torch.manual_seed(0)
    obs = torch.rand(512, 2)
    returns, standardize = scale * (0.5 + obs @ torch.tensor([1.0, -2.0])), Standardize(2)
    standardize.update(obs)
    critic = Critic(standardize, 2)
    critic.fit(torch.optim.Adam(critic.parameters(), lr=0.01), obs, returns, epochs=100)
    with torch.no_grad():
        assert ((critic(obs) - returns) ** 2).mean() < 0.01 * returns.var()
        assert (critic.net[:-1](obs).abs() > 0.99).all(dim=0).sum() == 0


@pytest.mark.parametrize("name, terminated", [("Terminates", 1.0), ("Truncates", 0.0)])
def test_the_rollout_holds_what_was_played_across_resets_and_batches(name, terminated):
    torch.manual_seed(0)
    envs = make_envs(Args(env_id=f"{name}-v0"), 2)
    policy = Policy(Standardize(2), 2, envs.single_action_space, log_std_init=1.0)
    start, _ = envs.reset(seed=0)
    obs, first, episodes = rollout(envs, start, policy, 4)
    assert episodes == []
    obs, second, episodes = rollout(envs, obs, policy, 4)
    assert episodes == [(5.0, 5)] * 2
    times, actions, rewards, next_times, terminations, dones = (torch.cat(x) for x in zip(first, second, strict=True))
    assert times[:, :, 0].T.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]] * 2
    assert next_times[:, :, 0].T.tolist() == [[1, 2, 3, 4, 5, 1, 2, 3]] * 2  # the last observation, not the reset's
    assert rewards.unique().tolist() == [1]
    assert dones.T.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]] * 2
    assert (terminations == terminated * dones).all()
    taken = torch.tensor([env.unwrapped.taken for env in envs.unwrapped.envs]).T
    assert torch.allclose(actions[:, :, 0].clamp(-1, 1), taken)
    assert (actions.abs() > 1).any()  # the environment got the clipped action, the batch has the sampled one


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not(tmp_path, monkeypatch):
    seen, update = [], Standardize.update
    monkeypatch.setattr(Standardize, "update", lambda self, x: seen.append(x.ndim) or update(self, x))
    flags = {"gamma": 0.9, "num_envs": 4, "num_steps": 25, "total_timesteps": 2_500, "value_learning_rate": 0.03}
    values = {}
    for name in ("Terminates", "Truncates"):
        row = train(Args(env_id=f"{name}Blind-v0", run_dir=tmp_path / name, **flags))
        critic = Critic(Standardize(2), 2)
        critic.load_state_dict(torch.load(tmp_path / name / "model.pt", weights_only=True)["critic"])
        values[name] = critic(torch.tensor([[0.0, 1.0]])).item()
        assert row["charts/episodic_return_100"] == row["eval/episodic_return"] == row["charts/episodic_length"] == 5
    assert values["Truncates"] == pytest.approx(10, abs=1.0)  # 1 / (1 - gamma): as if it went on
    assert values["Terminates"] < 5
    # of equal returns only noise is left in the advantages, and the KL bound has shrunk with it
    assert row["losses/kl_scale"] < 0.5
    assert row["losses/kl"] <= row["losses/kl_scale"] * Args().max_kl * 1.001
    scales = [float(row["losses/kl_scale"]) for name in values for row in rows(tmp_path / name)]
    assert seen.count(2) == scales.count(1.0) < len(scales) == seen.count(1)  # observations, returns


def test_evaluate_plays_one_episode_of_mode_actions_in_each_environment():
    envs = make_envs(Args(env_id="CartPole-v1"), 6)
    torch.manual_seed(3)
    policy, seeds = Policy(Standardize(4), 4, envs.single_action_space, 0.0), np.arange(50, 56)
    returns = evaluate(envs, policy, seeds)
    env, expected = gym.make("CartPole-v1"), []
    for seed in seeds.tolist():
        (obs, _), total, done = env.reset(seed=seed), 0.0, False
        while not done:
            action = policy(torch.tensor(obs)).probs.argmax().item()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        expected.append(total)
    assert returns.tolist() == expected


def test_the_kl_divergence_of_a_probability_that_underflows_is_finite():
    old, new = (Policy(Standardize(1), 1, Discrete(2), 0.0) for _ in range(2))
    for policy, bias in ((old, 5.0), (new, 300.0)):
        policy.net[-1].weight.data.zero_()
        policy.net[-1].bias.data = torch.tensor([bias, 0.0])
    p = 1 / (1 + np.exp(5.0))  # of the second action; the new policy's log-probability is held at -80
    expected = p * (np.log(p) + 80) + (1 - p) * np.log(1 - p)
    assert kl_divergence(old(torch.zeros(1, 1)), new(torch.zeros(1, 1))).item() == pytest.approx(expected, rel=1e-4)


def test_learns_cartpole_and_writes_its_folder(tmp_path):
    row = train(Args(env_id="CartPole-v1", run_dir=tmp_path / "run", total_timesteps=12_000, num_steps=64))
    assert row["charts/episodic_return_100"] > 40  # 22 at the beginning
    assert row["eval/episodic_return"] > 120
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.pt"}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(
            Args(
                env_id="CartPole-v1", run_dir=tmp_path / name, total_timesteps=400, num_envs=2, num_steps=60, seed=seed
            )
        )
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "FrozenLake-v1"}, "--env-id FrozenLake-v1: needs flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id NoSuchEnv-v0: .*doesn't exist"),
        ({"env_id": "Truncates-v0", "capture_video": True}, "--env-id Truncates-v0: .*render"),
        ({"max_kl": 0.0}, "max_kl"),
        ({"gamma": 1.1}, "gamma"),
        ({"log_std_init": float("nan")}, "log_std_init"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert issubclass(UsageError, ValueError)


def test_the_video_holds_the_whole_first_episode_of_the_evaluation(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    flags = {"num_envs": 2, "num_steps": 32, "total_timesteps": 64, "capture_video": True}
    train(Args(env_id="CartPole-v1", run_dir=tmp_path / "run", **flags))
    (video,) = (tmp_path / "run" / "videos").glob("*.mp4")
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert frames >= 8  # no policy loses the pole sooner
