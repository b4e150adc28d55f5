"""DQN: buffer, TD errors, exploration against closed forms; training against action values that are known exactly."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import dqn
from algos.dqn import Args, ReplayBuffer, act, evaluate, q_network, td_errors, train

CPU = torch.device("cpu")
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


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=LIMIT)
SMALL = {"env_id": "Corridor-v0", "num_envs": 4, "total_timesteps": 480, "learning_starts": 40, "train_frequency": 8}
SMALL |= {"target_frequency": 40, "buffer_size": 200, "batch_size": 16, "log_every": 80}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def filled(steps, n=2, size=10):
    """A buffer after `steps` steps of n environments, every number of which tells which transition it is."""
    buffer = ReplayBuffer(size, 3, CPU)
    for t in range(steps):
        ids = np.arange(n) + n * t
        buffer.add(
            ids[:, None] + np.array([[0.1, 0.2, 0.3]]), -ids[:, None].repeat(3, 1), ids % 2, ids * 10.0, ids % 3 == 0
        )
    return buffer


@pytest.mark.parametrize("steps", [5, 7, 13])
def test_the_buffer_holds_the_newest_transitions_and_samples_each_of_them_once(steps):
    newest = list(range(2 * steps))[-10:]
    obs, next_obs, actions, rewards, terminations = filled(steps).sample(10, np.random.default_rng(0))
    ids = (rewards / 10).round().int()
    assert sorted(ids.tolist()) == newest
    assert torch.allclose(obs, ids[:, None] + torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(next_obs, -ids[:, None].expand(10, 3).float())
    assert torch.equal(actions, (ids % 2).long()) and torch.equal(terminations, (ids % 3 == 0).float())


def test_a_minibatch_is_uniform_over_what_was_added():
    buffer, rng = filled(3), np.random.default_rng(0)
    counts = sum(torch.bincount((buffer.sample(2, rng)[3] / 10).int(), minlength=6) for _ in range(3000))
    assert len(counts) == 6 and (counts / 6000 - 1 / 6).abs().max() < 0.02


def test_td_errors_bootstrap_unless_the_episode_terminated():
    torch.manual_seed(0)
    network, target_network = q_network(3, 4), q_network(3, 4)
    obs, next_obs, rewards = torch.randn(5, 3), torch.randn(5, 3), torch.arange(5.0)
    actions, terminations = torch.tensor([3, 0, 1, 2, 2]), torch.tensor([0.0, 1, 0, 1, 0])
    errors, q = td_errors(network, target_network, [obs, next_obs, actions, rewards, terminations], 0.9)
    for i in range(5):
        best = max(target_network(next_obs[i]).tolist())
        target = i + (0 if terminations[i] else 0.9 * best)
        assert errors[i].item() == pytest.approx(network(obs[i])[actions[i]].item() - target, abs=1e-5)
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
    assert torch.allclose(gradient, 2 * errors.detach() * torch.tensor([0.0, 1.0]))  # dQ(s, a) / db is one-hot


def test_act_is_greedy_except_with_probability_epsilon():
    network, obs = q_network(3, 4), np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    best = network(torch.from_numpy(obs)).argmax(1).numpy()
    assert (act(network, obs, 0.0, np.random.default_rng(1)) == best).all()
    actions = act(network, obs, 0.4, np.random.default_rng(1))
    assert abs((actions == best).mean() - (0.6 + 0.4 / 4)) < 0.015
    assert set(actions[actions != best]) == {0, 1, 2, 3}


def test_the_action_values_of_the_corridor_are_exact_although_most_episodes_are_truncated(tmp_path):
    """Optimal values by hand: gamma to the power of the steps to the end. A truncation is no termination."""
    flags = {"total_timesteps": 7_000, "learning_rate": 4e-3, "gamma": 0.8, "learning_starts": 400, "end_e": 1.0}
    flags |= {"target_frequency": 100, "buffer_size": 4_000, "batch_size": 64, "log_every": 1_000}
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


@pytest.mark.parametrize("frequency", [1, 40])
def test_the_target_network_is_frozen_for_so_many_steps(tmp_path, monkeypatch, frequency):
    seen = spy_on_updates(monkeypatch)
    train(Args(**SMALL | {"target_frequency": frequency}, run_dir=tmp_path / "run"))
    assert len(seen) == (480 - 40) // 8
    for i in range(1, len(seen)):
        online, target, before = seen[i][0], seen[i][1], seen[i - 1][1]
        if frequency == 1 or i % 5 == 0:  # just copied: 40 steps are five updates
            assert torch.equal(target, online)
        else:
            assert torch.equal(target, before) and not torch.equal(target, online)


@pytest.mark.parametrize("num_envs", [4, 8, 32])
def test_without_replay_every_transition_is_learned_from_once(tmp_path, monkeypatch, num_envs):
    """Also with more environments than --train-frequency, where a buffer of as many transitions is one step of all."""
    played, add, seen = [], ReplayBuffer.add, spy_on_updates(monkeypatch)

    def spy_on_add(buffer, *transitions):
        played.extend(zip(*[np.asarray(x, np.float32).tolist() for x in transitions], strict=True))
        add(buffer, *transitions)

    monkeypatch.setattr(ReplayBuffer, "add", spy_on_add)
    size = max(8, num_envs)
    flags = {"num_envs": num_envs, "buffer_size": size, "batch_size": size, "train_frequency": size}
    train(Args(**SMALL | flags | {"learning_starts": 0}, run_dir=tmp_path / "run"))
    learned = [row for step in seen for row in zip(*[x.tolist() for x in step[2:]], strict=True)]
    assert len(learned) == len(played) == 480
    for i in range(0, 480, size):
        assert sorted(learned[i : i + size]) == sorted(played[i : i + size])


def test_more_environments_than_the_train_frequency_make_several_updates_a_step(tmp_path, monkeypatch):
    seen = spy_on_updates(monkeypatch)
    train(Args(**SMALL | {"num_envs": 20, "learning_starts": 0}, run_dir=tmp_path / "run"))
    assert len(seen) == 480 // 8
    assert len({str(step[2].tolist()) for step in seen}) == len(seen)  # a new minibatch each


def test_epsilon_is_annealed_linearly_and_then_constant(tmp_path):
    flags = {"total_timesteps": 1000, "num_envs": 1, "log_every": 1, "learning_starts": 2000}
    train(Args(**SMALL | flags, start_e=0.9, end_e=0.1, exploration_fraction=0.4, run_dir=tmp_path / "run"))
    epsilon = [float(row["charts/epsilon"]) for row in rows(tmp_path / "run")]
    assert [epsilon[i] for i in (0, 100, 200, 400, 700)] == pytest.approx([0.9, 0.7, 0.5, 0.1, 0.1])


def test_episode_statistics_and_evaluation_count_every_reward_once(tmp_path):
    network = q_network(4, 2)
    with torch.no_grad():
        network[-1].weight.zero_()
        network[-1].bias.copy_(torch.tensor([0.0, 1.0]))  # always to the right: CartPole falls after 8 to 11 steps
    returns = evaluate(network, Args(), tmp_path, num_episodes=20)
    assert returns.min() >= 8 and returns.max() <= 11
    assert evaluate(network, Args(), tmp_path, num_episodes=3, max_steps=5).tolist() == [5, 5, 5]
    row = train(
        Args(
            env_id="CartPole-v1",
            total_timesteps=3000,
            learning_starts=5000,
            start_e=1,
            end_e=1,
            run_dir=tmp_path / "run",
        )
    )
    assert row["charts/episodic_return"] == row["charts/episodic_length"]  # CartPole pays 1 a step
    assert 18 < row["charts/episodic_return_100"] < 28  # of the uniform policy: 22


def test_it_learns_cartpole_and_writes_its_folder(tmp_path):
    flags = {"total_timesteps": 8_000, "learning_starts": 1_000, "learning_rate": 1e-3, "exploration_fraction": 0.3}
    assert train(Args(**flags, target_frequency=200, run_dir=tmp_path / "run"))["eval/episodic_return"] > 100
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "model.pt", "curve.png"}


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 6


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
        ({"num_envs": 20_000}, "num_envs"),
        ({"buffer_size": 15}, "--buffer-size"),
        ({"gamma": 1.1}, "gamma"),
        ({"end_e": float("nan")}, "end_e"),
        ({"exploration_fraction": 0.0}, "exploration_fraction"),
        ({"learning_starts": -1}, "learning_starts"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
