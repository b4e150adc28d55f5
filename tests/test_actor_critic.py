"""Actor-critic: TD errors against brute-force returns, gathered steps against environments played one by one."""

import csv
import json
import subprocess
import sys
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import actor_critic
from algos.actor_critic import (
    Args,
    CategoricalPolicy,
    Envs,
    GaussianPolicy,
    NetworkValue,
    UsageError,
    estimate_advantages,
    evaluate,
    freeze,
    policy_gradient_loss,
    sum_of_td_errors,
    train,
    update_networks,
)

CLOCKS = {"charts/SPS", "time/cpu", "time/elapsed"}
CPU = torch.device("cpu")
SMALL = {
    "num_envs": 4,
    "num_steps": 8,
    "total_timesteps": 300,
    "checkpoint_every": 3,
    "value_epochs": 2,
    "log_every": 2,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- TD errors -------------------------------------------------------------------------------


def random_batch(time=9, n=4):
    """Rewards, values, next values, terminations, cuts: an end anywhere, half of them by the time limit."""
    gen = generator(1)
    rewards, values, next_values = (torch.randn(time, n, generator=gen, dtype=torch.float64) for _ in range(3))
    cuts = (torch.rand(time, n, generator=gen) < 0.4).double()
    terminations = cuts * (torch.rand(time, n, generator=gen) < 0.5).double()
    assert 3 < terminations.sum() < cuts.sum() - 3
    return rewards, values, next_values, terminations, cuts


def test_advantages_are_n_step_returns_less_a_value():
    """By the definition: rewards up to the cut or the batch's end, then the value there unless it terminated."""
    rewards, values, _, terminations, cuts = random_batch()
    next_values = torch.cat([values[1:], torch.full((1, 4), 2.5, dtype=torch.float64)])
    next_values[cuts.bool()] += 1  # what a cut step led to is not the state that the next row begins with
    got = sum_of_td_errors(rewards, values, next_values, terminations, cuts, 0.9)
    for i in range(4):
        for t in range(9):
            total, k = 0.0, t
            while True:
                total += 0.9 ** (k - t) * rewards[k, i].item()
                if cuts[k, i] or k == 8:
                    break
                k += 1
            if not terminations[k, i]:
                total += 0.9 ** (k + 1 - t) * next_values[k, i].item()
            assert got[t, i].item() == pytest.approx(total - values[t, i].item())


def test_of_a_single_step_the_advantage_is_the_posts_td_error():
    """The post's example: a state worth 100, a reward of 10, a next state whose discounted value is 95."""
    numbers = (torch.tensor([[x]]) for x in (10.0, 100.0, 95 / 0.9, 0.0, 0.0))
    assert sum_of_td_errors(*numbers, 0.9).item() == pytest.approx(5)
    numbers = (torch.tensor([[x]]) for x in (10.0, 100.0, 95 / 0.9, 1.0, 1.0))
    assert sum_of_td_errors(*numbers, 0.9).item() == pytest.approx(-90)


def test_with_the_true_values_the_mean_td_error_is_the_advantage():
    """A state, two actions that end the episode or come back, one by one: q - v by the Bellman equation."""
    gamma, p = 0.8, 0.3  # action 1 with probability p: reward 2, ends; action 0: reward 1, comes back
    v = (2 * p + (1 - p)) / (1 - gamma * (1 - p))
    q = [1 + gamma * v, 2.0]
    for action, (reward, ends) in enumerate([(1.0, 0.0), (2.0, 1.0)]):
        numbers = (torch.tensor([[x]], dtype=torch.float64) for x in (reward, v, v, ends, ends))
        assert sum_of_td_errors(*numbers, gamma).item() == pytest.approx(q[action] - v)
    assert p * (q[1] - v) + (1 - p) * (q[0] - v) == pytest.approx(0)


# --- environments ----------------------------------------------------------------------------


class Ladder(gym.Env):
    """Observes the number of the episode and the step. Action 6 ends it; rewards are 10 x step + action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3, start=5)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action):
        assert action in self.action_space
        reward = 10 * self.count + action
        self.count += 1
        return np.array([self.episode, self.count]), float(reward), action == 6, False, {}


gym.register("RungLadder-v0", entry_point=Ladder, max_episode_steps=6)


def test_gather_goes_on_from_batch_to_batch_and_marks_what_is_no_transition():
    """Every step is that of the ladder; a row that only begins an episode is not alive, and no end is missed."""
    envs, policy = Envs("RungLadder-v0", 3), freeze(CategoricalPolicy([2, 3], generator()))
    rng, parts, found = np.random.default_rng(0), [], []
    envs.reset(rng)
    for _ in range(4):
        arrays, episodes = envs.gather(policy, 10, rng)
        assert all(len(x) == (11 if name == "obs" else 10) for name, x in arrays.items())
        parts.append(arrays)
        found += episodes
    assert all((a["obs"][-1] == b["obs"][0]).all() for a, b in pairwise(parts))
    joined = {name: np.concatenate([p[name][:10] for p in parts]) for name in parts[0]}
    after = np.concatenate([p["obs"][1:] for p in parts])
    expected, begins = [], 0
    terminated, truncated = 0, 0
    totals = np.zeros(3)
    for t in range(40):
        for i in range(3):
            (episode, count), action = joined["obs"][t, i], joined["actions"][t, i, 0]
            ends = action == 1 or count == 5
            if joined["alive"][t, i]:
                assert joined["rewards"][t, i] == 10 * count + action + 5
                assert after[t, i].tolist() == [episode, count + 1]  # the last state of an episode, before any reset
                assert joined["cuts"][t, i] == ends and joined["terminations"][t, i] == (action == 1)
                totals[i] += joined["rewards"][t, i]
                if ends:
                    expected.append((totals[i], count + 1))
                    totals[i] = 0
                    terminated, truncated = terminated + (action == 1), truncated + (action != 1)
            else:
                assert joined["cuts"][t - 1, i] and after[t, i].tolist() == [episode + 1, 0]
                assert joined["rewards"][t, i] == joined["cuts"][t, i] == 0
                begins += 1
    assert found == expected and terminated > 5 and truncated > 2 and begins >= len(found) - 3
    envs.envs.close()


def test_cartpoles_own_vector_is_cartpole():
    envs, env = Envs("CartPole-v1", 3), gym.make("CartPole-v1")
    assert not isinstance(envs.envs, gym.vector.SyncVectorEnv)
    rng = np.random.default_rng(0)
    envs.reset(rng)
    arrays, episodes = envs.gather(freeze(CategoricalPolicy([4, 2], generator())), 60, rng)
    assert len(episodes) > 3 and (~arrays["alive"]).sum() >= len(episodes) - 3
    env.reset(seed=0)
    for i in range(3):
        for t in range(60):
            if arrays["alive"][t, i]:
                env.reset()
                env.unwrapped.state = arrays["obs"][t, i].astype(np.float64)
                obs, reward, terminated, _, _ = env.step(int(arrays["actions"][t, i, 0]))
                assert np.allclose(obs, arrays["obs"][t + 1, i], atol=1e-5)
                assert reward == arrays["rewards"][t, i] and terminated == arrays["terminations"][t, i]


def test_continuous_actions_are_clipped_for_the_environment_only():
    envs = Envs("InvertedPendulum-v5", 2)
    envs.reset(np.random.default_rng(0))
    assert envs.for_envs(np.array([[-30.0], [0.7]], np.float32)).ravel().tolist() == pytest.approx([-3, 0.7])
    policy = GaussianPolicy([4, 1], 3.0, generator())
    arrays, _ = envs.gather(freeze(policy), 20, np.random.default_rng(0))
    assert abs(arrays["actions"]).max() > 10 and arrays["actions"].dtype == np.float32
    envs.envs.close()


# --- updates ---------------------------------------------------------------------------------


def gathered(num_steps=24):
    envs = Envs("RungLadder-v0", 3)
    rng = np.random.default_rng(3)
    envs.reset(rng)
    arrays, _ = envs.gather(freeze(CategoricalPolicy([2, 3], generator())), num_steps, rng)
    envs.envs.close()
    return {name: torch.as_tensor(x) for name, x in arrays.items()}


def test_a_truncated_end_is_worth_what_the_critic_says_and_a_terminated_one_nothing():
    batch, args = gathered(), Args(gamma=0.9)

    def value(obs):
        return 100 * obs[..., 0] + obs[..., 1]  # tells every state apart

    result = estimate_advantages(batch, value, args)
    kinds = set()
    for t in range(24):
        for i in range(3):
            if batch["alive"][t, i] and batch["cuts"][t, i]:
                terminated = bool(batch["terminations"][t, i])
                last = 0 if terminated else 0.9 * value(batch["obs"][t + 1, i])
                assert result["returns"][t, i].item() == pytest.approx(float(batch["rewards"][t, i] + last), rel=1e-5)
                kinds.add(terminated)
    assert kinds == {True, False}


def test_the_loss_has_the_mean_of_advantage_times_score_as_its_gradient():
    policy = CategoricalPolicy([2, 3], generator()).double()
    obs, actions = torch.randn(7, 2, generator=generator(1), dtype=torch.float64), torch.arange(7.0)[:, None] % 3
    advantages = torch.randn(7, generator=generator(2), dtype=torch.float64)
    policy_gradient_loss(policy, obs, actions, advantages).backward()
    scores = torch.eye(3, dtype=torch.float64)[actions[:, 0].long()] - policy(obs).softmax(1)  # in the logits
    expected = torch.einsum("n,na,no->ao", advantages, scores, obs) / 7
    torch.testing.assert_close(-policy.net[0].weight.grad, expected.detach())


def test_what_is_no_transition_changes_nothing_and_the_critic_moves_to_its_targets():
    def updated(noise):
        policy, value = CategoricalPolicy([2, 3], generator()), NetworkValue([2, 8, 1], 0.05, generator(), CPU)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        batch = estimate_advantages(gathered(), value, Args())
        dead = ~batch["alive"]
        assert dead.sum() > 5
        for name in ("advantages", "returns", "actions"):
            batch[name][dead] = batch[name][dead] * 0 + noise
        before = ((value(batch["obs"][:-1]) - batch["returns"])[~dead] ** 2).mean().item()
        losses = update_networks(policy, optimizer, value, batch, Args(value_epochs=20))
        after = ((value(batch["obs"][:-1]) - batch["returns"])[~dead] ** 2).mean().item()
        assert after < 0.9 * before
        return [*policy.parameters(), *value.parameters()], losses

    (a, losses), (b, others) = updated(0.0), updated(2.0)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and losses == others


def test_distributions_agree_with_torchs():
    a, actions = torch.randn(5, 6, generator=generator()), torch.randn(5, 3, generator=generator(1))
    normal = torch.distributions.Normal(a[:, :3], a[:, 3:].exp())
    torch.testing.assert_close(GaussianPolicy.log_prob(a, actions), normal.log_prob(actions).sum(1))
    torch.testing.assert_close(GaussianPolicy.entropy(a), normal.entropy().sum(1))
    categorical, chosen = torch.distributions.Categorical(logits=a), torch.tensor([[0.0], [1], [2], [3], [5]])
    torch.testing.assert_close(CategoricalPolicy.log_prob(a, chosen), categorical.log_prob(chosen[:, 0]))
    torch.testing.assert_close(CategoricalPolicy.entropy(a), categorical.entropy())


@pytest.mark.parametrize("gaussian", [False, True])
def test_the_frozen_policy_draws_from_the_policys_distribution(gaussian):
    policy = GaussianPolicy([3, 8, 2], -0.7, generator()) if gaussian else CategoricalPolicy([3, 8, 3], generator())
    with torch.no_grad():
        policy.net[-1].weight *= 200  # else all actions are as likely
    frozen, obs = freeze(policy), np.tile(np.array([[0.5, -1.0, 2.0]], np.float32), (40_000, 1))
    actions = frozen.act(obs, frozen.noise(np.random.default_rng(0), (len(obs),)))
    params = policy(torch.from_numpy(obs[:1])).detach()[0]
    if gaussian:
        assert np.allclose(actions.mean(axis=0), params[:2], atol=0.02)
        assert np.allclose(actions.std(axis=0), np.exp(-0.7), rtol=0.02)
        assert np.allclose(frozen.act(obs[:1], 0)[0], params[:2], atol=1e-5)
    else:
        shares = np.bincount(actions[:, 0], minlength=3) / len(obs)
        assert np.allclose(shares, params.softmax(0), atol=0.01) and 0.05 < shares.max() < 0.95
        assert frozen.act(obs[:1], 0)[0, 0] == params.argmax()


# --- training --------------------------------------------------------------------------------


class Stay(gym.Env):
    """A reward of 1 for action 1, for ever: only the time limit ends it. Worth 1 / (1 - gamma) to who knows that."""

    observation_space, action_space = gym.spaces.Box(0, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action), False, False, {}


gym.register("Stay-v0", entry_point=Stay, max_episode_steps=4)


@pytest.mark.parametrize("num_steps", [1, 8])
def test_the_critic_sees_beyond_the_time_limit(tmp_path, num_steps):
    """Episodes of four steps, all cut off: the value is that of going on, 1 / (1 - 0.8) = 5, not 4 at most."""
    flags = {"num_envs": 4, "num_steps": num_steps, "gamma": 0.8, "policy": "linear", "learning_rate": 0.05}
    flags |= {"value_units": (8,), "value_learning_rate": 0.02, "log_every": 32 // num_steps, "value_epochs": 4}
    row = train(Args(env_id="Stay-v0", total_timesteps=6_000 // (9 - num_steps), run_dir=tmp_path / "run", **flags))
    value = NetworkValue([1, 8, 1], 0.01, generator(), CPU)
    value.restore(torch.load(tmp_path / "run/checkpoint.pt")["value"])
    assert value(torch.ones(1, 1)).item() == pytest.approx(5, abs=0.35)
    assert row["charts/episodic_return_100"] > 3.5 and row["eval/episodic_return"] == 4


def test_it_learns_cartpole(tmp_path):
    """Random play gets 22 a game."""
    row = train(Args(total_timesteps=15_000, log_every=5, run_dir=tmp_path / "run"))
    assert row["charts/episodic_return_100"] > 60 and row["eval/episodic_return"] > 120
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_row_counts_transitions_only(tmp_path, monkeypatch):
    seen, shipped = [], Envs.gather

    def spy(*args):
        seen.append(shipped(*args))
        return seen[-1]

    monkeypatch.setattr(Envs, "gather", spy)
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    steps, found = 0, rows(tmp_path / "run")
    assert len(seen) == 2 * len(found)
    for number, row in enumerate(found):
        two = seen[2 * number : 2 * number + 2]
        steps += sum(arrays["alive"].sum() for arrays, _ in two)
        returns = [episode[0] for _, episodes in two for episode in episodes]
        assert int(row["global_step"]) == steps
        assert (row["charts/episodic_return"] == "") == (not returns)
        assert not returns or float(row["charts/episodic_return"]) == pytest.approx(np.mean(returns))
    assert steps >= 300 > int(found[-2]["global_step"])


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    train(Args(**SMALL, run_dir=tmp_path / "whole"))
    log, logged = actor_critic.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 5:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(actor_critic.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**SMALL, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 4  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    assert all(torch.equal(whole["policy"][key], half["policy"][key]) for key in whole["policy"])
    assert all(torch.equal(whole["value"]["net"][key], half["value"]["net"][key]) for key in whole["value"]["net"])


def test_evaluate_repeats_the_score_of_the_last_row(tmp_path):
    row = train(Args(**SMALL, run_dir=tmp_path / "run"))
    assert evaluate(tmp_path / "run")[0] == row["eval/episodic_return"]


def test_losses_that_are_no_numbers_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(actor_critic, "update_networks", lambda *args: {"losses/entropy": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"num_envs": 0}, "--num-envs"),
        ({"num_steps": 0}, "--num-steps"),
        ({"log_every": 0}, "--log-every"),
        ({"gamma": 0.0}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"value_learning_rate": float("inf")}, "--value-learning-rate"),
        ({"value_units": ()}, "--value-units"),
        ({"log_std_init": 30.0}, "--log-std-init"),
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
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"policy": "linear"}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit CartPole-v1"):
            verb()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/actor_critic.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
