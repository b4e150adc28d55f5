"""PPO: its maths against enumeration and closed forms; a short training; what is refused."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import kl_divergence

from algos.ppo import (
    Args,
    Critic,
    Policy,
    Standardize,
    UsageError,
    clipped_surrogate,
    evaluate,
    gae,
    make_envs,
    ppo_step,
    rollout,
    train,
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


def test_networks_start_orthogonal_and_the_policy_nearly_the_same_everywhere():
    networks = [(Policy(Standardize(3), 3, Discrete(2), 0.0).net, 0.01), (Critic(Standardize(3), 3).net, 1.0)]
    for net, last in networks:
        for layer, gain in zip(net[1::2], (2**0.5, 2**0.5, last), strict=True):
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


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_surrogate_is_clipped_where_the_ratio_has_moved_with_the_advantage(advantage):
    for ratio in (0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0):
        x = torch.tensor([ratio], requires_grad=True)
        clipped_surrogate(x, torch.tensor([advantage]), 0.2).backward()
        beyond = ratio > 1.2 if advantage > 0 else ratio < 0.8
        assert x.grad.item() == (0 if beyond else advantage)
        value = clipped_surrogate(x.detach(), torch.tensor([advantage]), 0.2).item()
        assert value == pytest.approx(min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Discrete(3)])
def test_the_first_step_is_the_policy_gradients(space):
    torch.manual_seed(1)
    obs, advantages = torch.randn(100, 3), 0.3 * torch.randn(100)
    policy = Policy(Standardize(3), 3, space, log_std_init=-0.5)
    with torch.no_grad():
        old = policy(obs)
    actions, before = old.sample(), [p.detach().clone() for p in policy.parameters()]
    objective = (policy(obs).log_prob(actions) * advantages).mean()
    gradients = torch.autograd.grad(objective, list(policy.parameters()))
    assert torch.stack([g.norm() for g in gradients]).norm() < 0.5  # not clipped
    args = Args(update_epochs=1, minibatch_size=100)
    losses = ppo_step(policy, torch.optim.SGD(policy.parameters(), lr=0.1), obs, actions, advantages, args)
    for parameter, start, gradient in zip(policy.parameters(), before, gradients, strict=True):
        assert torch.allclose(parameter, start + 0.1 * gradient, atol=1e-6)
    new = policy(obs)
    ratio = (new.log_prob(actions) - old.log_prob(actions)).exp()
    gain = (ratio * advantages).mean() - advantages.mean()
    assert losses["losses/surrogate_gain"] == pytest.approx(gain.item(), rel=1e-3, abs=1e-7)
    assert losses["losses/kl"] == pytest.approx(kl_divergence(old, new).mean().item(), rel=1e-3, abs=1e-7)
    assert losses["losses/surrogate_gain"] > 0


def test_many_epochs_stay_near_the_old_policy():
    torch.manual_seed(1)
    obs, advantages = torch.randn(256, 3), torch.randn(256)
    fractions = []
    for clip_coef in (0.1, 10.0):
        policy = Policy(Standardize(3), 3, Box(-1, 1, (2,)), log_std_init=-1.0)
        with torch.no_grad():
            old = policy(obs)
            actions = old.sample()
        args = Args(update_epochs=60, minibatch_size=64, clip_coef=clip_coef)
        losses = ppo_step(policy, torch.optim.Adam(policy.parameters(), 1e-3), obs, actions, advantages, args)
        with torch.no_grad():
            ratio = (policy(obs).log_prob(actions) - old.log_prob(actions)).exp()
        assert losses["losses/clip_fraction"] == pytest.approx(((ratio - 1).abs() > clip_coef).float().mean().item())
        fractions.append(((ratio - 1).abs() > 0.5).float().mean().item())
    assert fractions[0] < 0.1 < 0.3 < fractions[1]


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


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not(tmp_path):
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


def test_the_policys_learning_rate_is_annealed_and_the_critics_is_not(tmp_path, monkeypatch):
    rates, fit = [], Critic.fit
    monkeypatch.setattr("algos.ppo.ppo_step", lambda _, o, *a: rates.append(o.param_groups[0]["lr"]) or {})
    monkeypatch.setattr(
        Critic, "fit", lambda c, o, *a, **k: rates.append(o.param_groups[0]["lr"]) or fit(c, o, *a, **k)
    )
    flags = {"env_id": "CartPole-v1", "num_envs": 2, "num_steps": 20, "total_timesteps": 120}
    train(Args(**flags, learning_rate=0.3, value_learning_rate=0.1, run_dir=tmp_path / "run"))
    assert rates == pytest.approx([0.3, 0.1, 0.2, 0.1, 0.1, 0.1])


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
    assert float(rows(tmp_path / "a")[0]["losses/kl"]) > 0  # the learning rate falls to 0 and does not rise from it


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "FrozenLake-v1"}, "--env-id FrozenLake-v1: needs flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id NoSuchEnv-v0: .*doesn't exist"),
        ({"env_id": "Truncates-v0", "capture_video": True}, "--env-id Truncates-v0: .*render"),
        ({"clip_coef": 0.0}, "clip_coef"),
        ({"gamma": 1.1}, "gamma"),
        ({"log_std_init": float("nan")}, "log_std_init"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert issubclass(UsageError, ValueError)
