"""DQN: buffer, TD errors, exploration against closed forms; training against action values that are known exactly."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import dqn
from algos.dqn import Args, evaluate, greedy_actions, make_envs, q_network, td_errors, train

CELLS, LIMIT = 5, 7


class Corridor(gym.Env):
    """One-hot cells, actions left and right. Going right from the last cell terminates with a reward of 1."""

    observation_space = gym.spaces.Box(0, 1, (CELLS,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(CELLS))
        return np.eye(CELLS, dtype=np.float32)[self.cell], {}

    def step(self, action):
        terminated = bool(self.cell == CELLS - 1 and action == 1)
        self.cell = min(max(self.cell + 2 * int(action) - 1, 0), CELLS - 1)
        return np.eye(CELLS, dtype=np.float32)[self.cell], float(terminated), terminated, False, {}


class Numbered(gym.Env):
    """Every transition says which it is: rewards are the observation's number plus half the action."""

    observation_space, action_space = gym.spaces.Box(0, 1e6, (1,), np.float32), gym.spaces.Discrete(2)
    number, played = 0, []

    def reset(self, *, seed=None, options=None):
        Numbered.number += 1
        self.obs = Numbered.number
        return np.array([self.obs], np.float32), {}

    def step(self, action):
        Numbered.played.append(self.obs + action / 2)
        obs, _ = self.reset()
        return obs, Numbered.played[-1], self.obs % 7 == 0, self.obs % 5 == 0, {}


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=LIMIT)
gym.register("Numbered-v0", entry_point=Numbered)
SMALL = {"env_id": "Corridor-v0", "num_envs": 4, "total_timesteps": 480, "learning_starts": 40}
SMALL |= {"target_frequency": 20, "buffer_size": 200, "batch_size": 16}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_td_errors_bootstrap_unless_the_episode_terminated():
    torch.manual_seed(0)
    network, target_network = q_network(3, 4), q_network(3, 4)
    obs, next_obs, rewards = torch.randn(5, 3), torch.randn(5, 3), torch.arange(5.0)
    actions, terminations = torch.tensor([3, 0, 1, 2, 2]), torch.tensor([0.0, 1, 0, 1, 0])
    errors, q = td_errors(network, target_network, [obs, next_obs, actions, rewards, terminations], 0.9)
    for i in range(5):
        best = max(target_network(next_obs[i]).tolist())
        target = i + (0 if terminations[i] else 0.9 * best)
        assert errors[i].item() == pytest.approx(target - network(obs[i])[actions[i]].item(), abs=1e-5)
    assert torch.allclose(q, network(obs)) and not q.requires_grad
    errors.square().mean().backward()
    assert all(parameter.grad is None for parameter in target_network.parameters())


def test_the_gradient_on_one_network_is_the_semi_gradient():
    """Although the network is its own target here, the gradient is that of Q(s, a) alone."""
    torch.manual_seed(1)
    network = q_network(3, 2).double()
    batch = [torch.randn(1, 3).double(), torch.randn(1, 3).double(), torch.tensor([1]), torch.ones(1), torch.zeros(1)]
    errors, _ = td_errors(network, network, batch, 0.9)
    bias = network[-1].bias
    (gradient,) = torch.autograd.grad(errors.square().mean(), bias)
    assert torch.allclose(gradient, -2 * errors.detach() * torch.tensor([0.0, 1.0]))  # dQ(s, a) / db is one-hot


def test_the_action_values_of_the_corridor_are_exact_although_most_episodes_are_truncated(tmp_path):
    """Optimal values by hand: gamma to the power of the steps to the end. A truncation is no termination."""
    flags = {"total_timesteps": 10_000, "learning_rate": 4e-3, "gamma": 0.8, "learning_starts": 400, "end_e": 1.0}
    flags |= {"target_frequency": 100, "buffer_size": 4_000, "batch_size": 64}
    row = train(Args(**SMALL | flags, run_dir=tmp_path / "run"))
    network = q_network(CELLS, 2)
    network.load_state_dict(torch.load(tmp_path / "run/model.pt")["network"])
    right = torch.tensor([0.8 ** (CELLS - 1 - s) for s in range(CELLS)])
    left = 0.8 * torch.tensor([0.8 ** (CELLS - 1 - max(s - 1, 0)) for s in range(CELLS)])
    assert torch.allclose(network(torch.eye(CELLS)), torch.stack([left, right], dim=1), atol=0.05)
    assert row["eval/episodic_return"] == 1.0  # from every start, within the time limit
    assert row["losses/largest_q"] == pytest.approx(1.0, abs=0.07)


def spy_on_updates(monkeypatch):
    """Records the weights of both networks and the minibatch of each update."""
    seen, shipped = [], dqn.td_errors

    def spy(network, target_network, batch, gamma):
        weights = [network[0].weight.detach().clone(), target_network[0].weight.detach().clone()]
        seen.append((*weights, *batch))
        return shipped(network, target_network, batch, gamma)

    monkeypatch.setattr(dqn, "td_errors", spy)
    return seen


@pytest.mark.parametrize("frequency", [1, 20])
def test_the_target_network_is_frozen_for_so_many_steps(tmp_path, monkeypatch, frequency):
    seen = spy_on_updates(monkeypatch)
    train(Args(**SMALL | {"target_frequency": frequency}, run_dir=tmp_path / "run"))
    assert len(seen) == (480 - 40) // 4 + 1
    for i in range(1, len(seen)):
        online, target, before = seen[i][0], seen[i][1], seen[i - 1][1]
        if frequency == 1 or i % 5 == 1:  # just copied: 20 steps are five updates
            assert torch.equal(target, online)
        else:
            assert torch.equal(target, before) and not torch.equal(target, online)


@pytest.fixture
def played():
    Numbered.played.clear()
    return Numbered.played


def test_a_minibatch_is_uniform_over_the_newest_transitions_and_holds_none_twice(tmp_path, monkeypatch, played):
    seen, size = spy_on_updates(monkeypatch), 40
    flags = {"env_id": "Numbered-v0", "total_timesteps": 6000, "buffer_size": size, "batch_size": 8}
    train(Args(**SMALL | flags | {"learning_starts": 20}, run_dir=tmp_path / "run"))
    counts = np.zeros(size)
    for update, (_, _, obs, next_obs, actions, rewards, terminations) in enumerate(seen):
        assert torch.equal(rewards, obs.squeeze(1) + actions / 2) and (next_obs > obs).all()
        assert torch.equal(terminations, (next_obs.squeeze(1) % 7 == 0).float())
        newest = played[max(0, 4 * update + 20 - size) : 4 * update + 20]
        ages = [newest.index(reward) for reward in rewards.tolist()]
        assert len(set(ages)) == 8
        counts[ages] += len(newest) == size
    assert abs(counts / counts.mean() - 1).max() < 0.3  # five standard deviations


@pytest.mark.parametrize("n", [4, 32])
def test_without_replay_every_transition_is_learned_from_once(tmp_path, monkeypatch, played, n):
    seen = spy_on_updates(monkeypatch)
    flags = {"env_id": "Numbered-v0", "num_envs": n, "buffer_size": n, "batch_size": n, "learning_starts": 0}
    train(Args(**SMALL | flags, run_dir=tmp_path / "run"))
    assert [sorted(rewards.tolist()) for *_, rewards, _ in seen] == [
        sorted(played[i : i + n]) for i in range(0, 480, n)
    ]


def test_actions_are_random_with_probability_epsilon_which_is_annealed_linearly(tmp_path, monkeypatch, played):
    monkeypatch.setattr(dqn, "greedy_actions", lambda network, obs: np.zeros(len(obs), int))
    flags = {"env_id": "Numbered-v0", "num_envs": 2, "total_timesteps": 10_000, "learning_starts": 20_000}
    train(Args(**SMALL | flags, end_e=0.2, exploration_fraction=0.5, run_dir=tmp_path / "run"))
    ones = np.array(played[:10_000]) % 1 * 2
    assert ones[:1000].mean() == pytest.approx(0.92 / 2, abs=0.05)  # half of the random actions
    assert ones[2000:3000].mean() == pytest.approx(0.6 / 2, abs=0.05)
    assert ones[5000:].mean() == pytest.approx(0.2 / 2, abs=0.02)


def test_greedy_actions_have_the_largest_values():
    network, obs = q_network(3, 4), np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    assert (greedy_actions(network, obs) == network(torch.from_numpy(obs)).argmax(1).numpy()).all()


def test_episode_statistics_and_evaluation_count_every_reward_once(tmp_path):
    network = q_network(4, 2)
    with torch.no_grad():
        network[-1].weight.zero_()
        network[-1].bias.copy_(torch.tensor([0.0, 1.0]))  # always to the right: CartPole falls after 8 to 11 steps
    returns = evaluate(make_envs(Args(), 20), network, np.arange(20))
    assert returns.min() >= 8 and returns.max() <= 11
    row = train(Args(total_timesteps=3000, learning_starts=5000, end_e=1, run_dir=tmp_path / "run"))
    assert 18 < row["charts/episodic_return_100"] < 28  # of the uniform policy: 22


def test_it_learns_cartpole_and_writes_its_folder(tmp_path):
    flags = {"total_timesteps": 12_000, "learning_starts": 1_000, "learning_rate": 1e-3, "exploration_fraction": 0.3}
    row = train(Args(**flags, target_frequency=200, run_dir=tmp_path / "run"))
    assert row["eval/episodic_return"] > 100  # eight seeds: 161 to 306
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "model.pt", "curve.png"}


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_video_of_one_episode(tmp_path):
    train(Args(total_timesteps=20, capture_video=True, run_dir=tmp_path / "run"))
    assert len(list((tmp_path / "run").glob("videos/*.mp4"))) == 1


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "Pendulum-v1"}, "discrete actions"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"env_id": "Corridor-v0", "capture_video": True}, "--capture-video"),
        ({"num_envs": 0}, "num_envs"),
        ({"buffer_size": 15}, "--buffer-size"),
        ({"gamma": 1.1}, "gamma"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
