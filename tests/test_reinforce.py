"""REINFORCE: its maths against enumeration and closed forms; a short training; what is refused."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from algos.reinforce import (
    Args,
    Critic,
    Policy,
    Standardize,
    UsageError,
    evaluate,
    make_envs,
    mean_of_others,
    policy_gradient_step,
    rewards_to_go,
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


def test_rewards_to_go_are_the_discounted_sums_of_what_follows():
    rewards = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    got = rewards_to_go(rewards, 0.9)
    for t in range(6):
        expected = sum(0.9 ** (k - t) * rewards[k] for k in range(t, 6))
        assert torch.allclose(got[t], expected, atol=1e-5)


def test_mean_of_others_leaves_the_own_return_and_ended_episodes_out():
    returns = torch.tensor([[1.0, 2.0, 9.0], [4.0, 5.0, 6.0], [7.0, 8.0, 3.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert mean_of_others(returns, mask)[mask.bool()].tolist() == [5.5, 5.0, 1.5, 5.0, 4.0, 0.0]


def test_credit_and_baseline_keep_the_expected_gradient_and_the_baseline_lowers_its_variance():
    theta = torch.tensor(0.3, requires_grad=True)
    probability = theta.sigmoid()
    (exact,) = torch.autograd.grad(3 * probability, theta)  # two steps; action 1 pays 1, then 2, besides 3 a step
    actions = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(-1, 2, 2)  # all pairs of episodes
    p = torch.where(actions == 1, probability.detach(), 1 - probability.detach()).prod(-1).prod(-1)
    variances = {}
    for to_go, baseline in ((False, 0), (False, 1), (True, 0), (True, 1)):
        gradients = []
        for action in actions:
            returns = rewards_to_go(3 + action * torch.tensor([[1.0], [2.0]]), 1.0)
            returns = returns if to_go else returns[:1].expand_as(returns)
            advantages = returns - baseline * mean_of_others(returns, torch.ones(2, 2))
            gradients.append(((action - probability.item()) * advantages).sum() / 2)
        gradients = torch.stack(gradients)
        assert (p * gradients).sum().item() == pytest.approx(exact.item(), abs=1e-5)
        variances[to_go, baseline] = (p * (gradients - exact.item()) ** 2).sum().item()
    assert variances[False, 1] < variances[False, 0]
    assert variances[True, 1] < variances[True, 0]


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Discrete(3)])
def test_the_step_ascends_the_sum_of_score_times_advantage_of_an_episode(space):
    torch.manual_seed(1)
    obs, advantages, policy = torch.randn(40, 3), torch.randn(40), Policy(Standardize(3), 3, space, log_std_init=-0.5)
    actions, before = policy(obs).sample(), [p.detach().clone() for p in policy.parameters()]
    expected = [torch.zeros_like(p) for p in before]
    for i in range(40):  # the score of each action by its formula
        out = policy.net(obs[i])
        if policy.log_std is None:
            log_prob = out[actions[i]] - out.exp().sum().log()
        else:
            z = (actions[i] - out) / policy.log_std.exp()
            log_prob = (-0.5 * z**2 - policy.log_std - 0.5 * np.log(2 * np.pi)).sum()
        for total, score in zip(expected, torch.autograd.grad(log_prob, list(policy.parameters())), strict=True):
            total.add_(score * advantages[i] / 5)
    losses = policy_gradient_step(policy, torch.optim.SGD(policy.parameters(), lr=0.1), obs, actions, advantages, 5)
    for parameter, start, gradient in zip(policy.parameters(), before, expected, strict=True):
        assert torch.allclose(parameter, start + 0.1 * gradient, atol=1e-6)
    entropy = 2 * (-0.5 + 0.5 * np.log(2 * np.pi * np.e)) if policy.log_std is not None else np.log(3)
    assert losses["losses/entropy"] == pytest.approx(entropy, abs=1e-2)  # untrained logits are only nearly equal


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


class Staggered(Clock):
    """Episodes of 3, 4, 5, ... steps."""

    def reset(self, seed=None, options=None):
        self.length += 1
        return super().reset()


gym.register("Staggered-v0", Staggered, kwargs={"length": 1, "terminates": True})


def test_the_rollout_is_one_whole_episode_of_each_environment():
    torch.manual_seed(0)
    envs = make_envs(Args(env_id="Staggered-v0"), 3)
    envs.unwrapped.envs[1].unwrapped.length, envs.unwrapped.envs[2].unwrapped.length = 4, 2
    policy = Policy(Standardize(2), 2, envs.single_action_space, log_std_init=1.0)
    envs.reset()
    (obs, actions, rewards, mask), episodes = rollout(envs, policy)
    assert sorted(episodes) == [(3.0, 3), (4.0, 4), (6.0, 6)]
    assert mask.sum(0).tolist() == rewards.sum(0).tolist() == [3, 6, 4]
    assert mask.shape == (6, 3)
    for i, length in enumerate((3, 6, 4)):
        assert obs[:length, i, 0].tolist() == list(range(length))
        taken = torch.tensor(envs.unwrapped.envs[i].unwrapped.taken[:length])
        assert torch.allclose(actions[:length, i, 0].clamp(-1, 1), taken)


@pytest.mark.parametrize("credit, expected", [("return", 4.0951), ("reward-to-go", 2.6856)])
def test_the_critic_learns_the_mean_return_that_actions_are_credited_with(credit, expected, tmp_path):
    flags = {"gamma": 0.9, "num_envs": 2, "total_timesteps": 600, "credit": credit}
    train(Args(env_id="TruncatesBlind-v0", run_dir=tmp_path / "run", **flags))
    critic = Critic(Standardize(2), 2)
    critic.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["critic"])
    assert critic(torch.tensor([[0.0, 1.0]])).item() == pytest.approx(expected, abs=0.1)  # nothing beyond step 5


def test_a_baseline_makes_the_policy_gradient_of_equal_returns_small(tmp_path):
    loss = {}
    for baseline in ("none", "mean", "value"):
        flags = {"num_envs": 2, "total_timesteps": 600, "baseline": baseline, "credit": "return"}
        loss[baseline] = train(Args(env_id="TruncatesBlind-v0", run_dir=tmp_path / baseline, **flags))[
            "losses/policy_loss"
        ]
    assert loss["mean"] == 0
    assert abs(loss["value"]) < 0.2 * abs(loss["none"])


def test_the_return_of_an_episode_is_compared_with_those_of_all_others(tmp_path, monkeypatch):
    seen, step = [], policy_gradient_step
    record = lambda *args: seen.append(args[4]) or step(*args)  # noqa: E731
    monkeypatch.setattr("algos.reinforce.policy_gradient_step", record)
    train(Args(credit="return", baseline="mean", num_envs=4, total_timesteps=200, run_dir=tmp_path / "run"))
    for advantages in seen:
        each = advantages.unique()
        assert len(each) in (2, 3, 4) and (len(each) < 4 or abs(each.sum()) < 1e-4)  # one for all steps of an episode


gym.register("Double-v0", lambda: gym.wrappers.TransformReward(Clock(5, terminates=True), lambda reward: 2 * reward))


def test_returns_and_lengths_are_logged_as_such(tmp_path):
    row = train(Args(env_id="Double-v0", run_dir=tmp_path / "run", num_envs=2, total_timesteps=100))
    names = ("charts/episodic_return", "charts/episodic_return_100", "eval/episodic_return")
    assert [row[name] for name in names] == [10, 10, 10] and row["charts/episodic_length"] == 5


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


def test_learns_cartpole_and_writes_its_folder(tmp_path):
    row = train(Args(env_id="CartPole-v1", run_dir=tmp_path / "run", total_timesteps=12_000))
    assert row["charts/episodic_return_100"] > 40  # 22 at the beginning
    assert row["eval/episodic_return"] > 120
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.pt"}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(env_id="CartPole-v1", run_dir=tmp_path / name, total_timesteps=400, num_envs=2, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "FrozenLake-v1"}, "--env-id FrozenLake-v1: needs flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id NoSuchEnv-v0: .*doesn't exist"),
        ({"env_id": "Truncates-v0", "capture_video": True}, "--env-id Truncates-v0: .*render"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"gamma": 1.1}, "gamma"),
        ({"log_std_init": float("nan")}, "log_std_init"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert issubclass(UsageError, ValueError)
