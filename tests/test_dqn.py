"""DQN: its buffer, targets and updates against closed forms, its training against values that are known exactly."""

import csv
import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from algos import dqn
from algos.dqn import Args, Envs, ReplayBuffer, UsageError, act, evaluate, exploration, td_targets, train, update

CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
CELLS, LIMIT = 5, 7


class Corridor(gym.Env):
    """One-hot cells, actions 1 (left) and 2 (right). Going right from the last cell ends it, with a reward of 1."""

    observation_space = gym.spaces.Box(0, 1, (CELLS,), np.float32)
    action_space = gym.spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(CELLS))
        return np.eye(CELLS, dtype=np.float32)[self.cell], {}

    def step(self, action):
        assert action in self.action_space
        ended = self.cell == CELLS - 1 and action == 2
        self.cell = min(max(self.cell + (1 if action == 2 else -1), 0), CELLS - 1)
        return np.eye(CELLS, dtype=np.float32)[self.cell], float(ended), ended, False, {}


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=LIMIT)
SMALL = {
    "env_id": "Corridor-v0",
    "num_envs": 4,
    "total_timesteps": 480,
    "learning_starts": 40,
    "train_frequency": 8,
    "target_frequency": 40,
    "buffer_size": 200,
    "batch_size": 16,
    "log_every": 80,
    "checkpoint_every": 2,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- replay ----------------------------------------------------------------------------------


def fill(buffer, steps, n=2):
    """Add `steps` steps of n environments, every number of which tells which it is."""
    added = []
    for t in range(steps):
        ids = np.arange(n) + n * t
        obs, next_obs = ids[:, None] + np.array([[0.1, 0.2, 0.3]]), ids[:, None] + np.array([[0.4, 0.5, 0.6]])
        buffer.add(obs, next_obs, ids % 2, ids * 10.0, ids % 3 == 0)
        added += [(obs[i], next_obs[i], ids[i] % 2, ids[i] * 10.0, ids[i] % 3 == 0) for i in range(n)]
    return added


@pytest.mark.parametrize("steps", [3, 5, 7, 13])
def test_the_buffer_holds_the_newest_steps_and_gives_them_back_as_they_came(steps):
    buffer = ReplayBuffer(10, 3, CPU)
    added = fill(buffer, steps)[-10:]
    newest = buffer.split(buffer.newest(4))
    for column, part in enumerate(newest):
        assert np.allclose(part.numpy(), np.array([row[column] for row in added[-4:]]))
    assert newest[2].dtype == torch.long
    obs, _, _, rewards, _ = buffer.split(buffer.sample(20_000, generator()))
    values, counts = np.unique(rewards.numpy(), return_counts=True)
    assert values.tolist() == sorted(row[3] for row in added)  # every one that was added and not yet overwritten
    assert abs(counts / 20_000 - 1 / len(added)).max() < 0.02
    assert np.allclose(obs[:, 0].numpy() - 0.1, rewards.numpy() / 10, atol=1e-4)  # rows stay together


# --- targets and updates ---------------------------------------------------------------------


def plain(network) -> nn.Sequential:
    """The same weights as PyTorch's own network, with its own gradients."""
    first, second, last = network
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def test_targets_bootstrap_unless_the_episode_terminated():
    network = dqn.q_network(3, 4)
    next_obs, rewards = torch.randn(5, 3, generator=generator()), torch.arange(5.0)
    terminations = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    targets = td_targets(network, next_obs, rewards, terminations, 0.9)
    for i in range(5):
        values = plain(network)(next_obs[i]).tolist()
        assert targets[i].item() == pytest.approx(i + (0 if i in (1, 3) else 0.9 * max(values)), abs=1e-6)
    assert not targets.requires_grad


def test_on_one_hot_states_an_update_is_tabular_q_learning():
    """A linear network of one-hot observations is a table, and a gradient step on one sample an update of one cell."""
    gen = generator()
    table, frozen = torch.randn(4, 6, generator=gen), torch.randn(4, 6, generator=gen)  # [actions, states]
    network, target_network = (nn.ModuleList([nn.Linear(6, 4)]) for _ in range(2))
    with torch.no_grad():
        for (layer,), values in ((network, table), (target_network, frozen)):
            layer.weight.copy_(values)
            layer.bias.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    states, following = torch.eye(6)[[2]], torch.eye(6)[[5]]
    step = (states, following, torch.tensor([3]), torch.tensor([1.5]), torch.tensor([0.0]))
    errors, values = update(network, target_network, optimizer, *step, 0.9)
    delta = 1.5 + 0.9 * frozen[:, 5].max() - table[3, 2]
    expected = table.clone()
    expected[3, 2] += 2 * 0.05 * delta
    assert torch.allclose(network[0].weight, expected, atol=1e-6)
    assert torch.equal(target_network[0].weight, frozen)
    assert errors.item() == pytest.approx(-delta.item(), rel=1e-5)
    assert torch.equal(values[0], table[:, 2])


def test_the_gradient_written_out_is_that_of_autograd():
    gen = generator()
    network, target_network = dqn.q_network(3, 4), dqn.q_network(3, 4)
    obs, next_obs = torch.randn(2, 50, 3, generator=gen)
    actions, rewards = torch.randint(4, (50,), generator=gen), torch.randn(50, generator=gen)
    terminations = (torch.rand(50, generator=gen) < 0.3).float()
    targets = rewards + 0.9 * (1 - terminations) * plain(target_network)(next_obs).max(1).values
    loss = nn.functional.mse_loss(plain(network)(obs)[torch.arange(50), actions], targets.detach())
    expected = torch.autograd.grad(loss, list(network.parameters()))
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    errors, _ = update(network, target_network, still, obs, next_obs, actions, rewards, terminations, 0.9)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert errors.square().mean().item() == pytest.approx(loss.item(), rel=1e-5)


def test_exploration_falls_in_a_straight_line_and_stays():
    args = Args(total_timesteps=1000, start_e=0.9, end_e=0.1, exploration_fraction=0.4)
    assert [exploration(args, step) for step in (0, 100, 200, 400, 700)] == pytest.approx([0.9, 0.7, 0.5, 0.1, 0.1])


def test_act_is_greedy_but_for_epsilon():
    network, obs = dqn.q_network(3, 4), np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    best = plain(network)(torch.from_numpy(obs)).argmax(1).numpy()
    assert (act(network, obs, 0.0, np.random.default_rng(1), CPU) == best).all()
    actions = act(network, obs, 0.4, np.random.default_rng(1), CPU)
    assert abs((actions == best).mean() - (0.6 + 0.4 / 4)) < 0.015
    assert set(actions[actions != best]) == {0, 1, 2, 3}


# --- environments ----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Corridor-v0"])
def test_stepping_together_equals_playing_each_environment_alone(env_id):
    envs = Envs(env_id, 3)
    alone = [gym.make(env_id) for _ in range(3)]
    for i in range(3):
        envs.reset(i, 7 + i)
        assert (envs.obs[i] == alone[i].reset(seed=7 + i)[0]).all()
    rng, totals, cut = np.random.default_rng(0), [0.0] * 3, 0
    for _ in range(60):
        actions = rng.integers(2, size=3)
        next_obs, rewards, terminations, episodes = envs.step(actions)
        ended = []
        for i, env in enumerate(alone):
            obs, reward, terminated, truncated, _ = env.step(int(actions[i]) + int(env.action_space.start))
            assert (next_obs[i] == obs).all() and rewards[i] == reward and terminations[i] == terminated
            totals[i] += reward
            if terminated or truncated:
                cut += truncated and not terminated
                ended.append(totals[i])
                totals[i], (obs, _) = 0.0, env.reset()
            assert (envs.obs[i] == obs).all()
        assert [episode[0] for episode in episodes] == ended
    assert cut > 3 or env_id == "CartPole-v1"


# --- training --------------------------------------------------------------------------------


def test_the_values_of_the_corridor_come_out_exact_though_most_episodes_are_cut_off(tmp_path):
    """Optimal values by hand: gamma to the power of the steps to the end. A cut-off end is no termination."""
    args = Args(
        env_id="Corridor-v0",
        num_envs=4,
        total_timesteps=12_000,
        learning_rate=2e-3,
        gamma=0.8,
        learning_starts=400,
        train_frequency=8,
        target_frequency=100,
        buffer_size=4_000,
        batch_size=64,
        start_e=1.0,
        end_e=1.0,
        log_every=2_000,
        run_dir=tmp_path / "run",
    )
    row = train(args)
    checkpoint = torch.load(tmp_path / "run/checkpoint.pt")
    network = dqn.q_network(CELLS, 2)
    network.load_state_dict(checkpoint["network"])
    q = plain(network)(torch.eye(CELLS)).detach()
    right = torch.tensor([0.8 ** (CELLS - 1 - s) for s in range(CELLS)])
    left = 0.8 * torch.tensor([0.8 ** (CELLS - 1 - max(s - 1, 0)) for s in range(CELLS)])
    assert torch.allclose(q, torch.stack([left, right], dim=1), atol=0.04)
    assert row["eval/episodic_return"] == 1.0  # from every start, within the time limit
    assert row["losses/largest_q"] == pytest.approx(1.0, abs=0.05)


def spy_on_updates(monkeypatch, seen):
    shipped = dqn.update

    def spy(network, target_network, optimizer, *batch):
        weights = [next(net.parameters()).detach().clone() for net in (network, target_network)]
        seen.append((*weights, *batch[:-1]))
        return shipped(network, target_network, optimizer, *batch)

    monkeypatch.setattr(dqn, "update", spy)


def test_the_target_network_is_frozen_for_so_many_steps(tmp_path, monkeypatch):
    for frequency in (1, 40):  # the environment makes 8 steps per update
        seen = []
        with monkeypatch.context() as patch:
            spy_on_updates(patch, seen)
            train(Args(**SMALL | {"target_frequency": frequency, "run_dir": tmp_path / str(frequency)}))
        assert len(seen) == (480 - 40) // 8
        online, target = [step[0] for step in seen], [step[1] for step in seen]
        for i in range(1, len(seen)):
            if frequency == 1 or i % 5 == 0:  # just copied: 40 steps are five updates
                assert torch.equal(target[i], online[i])
            else:
                assert torch.equal(target[i], target[i - 1]) and not torch.equal(target[i], online[i])


def test_without_replay_every_step_is_learned_from_once_and_in_order(tmp_path, monkeypatch):
    played, seen, add = [], [], ReplayBuffer.add

    def spy_on_add(buffer, *step):
        played.append([torch.as_tensor(np.array(x, np.float32)) for x in step])
        add(buffer, *step)

    monkeypatch.setattr(ReplayBuffer, "add", spy_on_add)
    spy_on_updates(monkeypatch, seen)
    train(Args(**SMALL | {"replay": False, "run_dir": tmp_path / "run"}))
    for column in range(5):
        learned = torch.cat([step[2 + column].float() for step in seen])
        assert torch.equal(learned, torch.cat([step[column] for step in played])[40:])


def test_with_replay_batches_are_drawn_from_all_that_is_remembered(tmp_path, monkeypatch):
    seen = []
    spy_on_updates(monkeypatch, seen)
    train(Args(**SMALL | {"run_dir": tmp_path / "run"}))
    assert all(len(step[2]) == 16 for step in seen)
    assert len({tuple(step[2].argmax(1).tolist()) for step in seen}) > 50


def test_it_learns_cartpole(tmp_path):
    """Random play gets 22 a game."""
    args = Args(
        total_timesteps=12_000,
        learning_starts=1_000,
        learning_rate=1e-3,
        exploration_fraction=0.3,
        target_frequency=200,
        run_dir=tmp_path / "run",
    )
    assert train(args)["eval/episodic_return"] > 120
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 6


@pytest.mark.parametrize("replay", [True, False])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, replay):
    flags = SMALL | {"replay": replay}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = dqn.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(dqn.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    for part in ("network", "target_network"):
        assert all(torch.equal(whole[part][key], half[part][key]) for key in whole[part])
    assert torch.equal(whole["buffer"], half["buffer"])


def test_evaluate_repeats_the_score_of_the_last_row(tmp_path):
    row = train(Args(**SMALL, run_dir=tmp_path / "run"))
    assert evaluate(tmp_path / "run")[0] == row["eval/episodic_return"]


def test_score_is_the_mean_return_of_games_played_one_by_one():
    balance = nn.ModuleList([nn.Linear(4, 2)])  # push to the side to which the pole leans: games of many lengths
    with torch.no_grad():
        balance[0].weight.copy_(torch.tensor([[0.0, 0, -1, 0], [0, 0, 1, 0]]))
        balance[0].bias.zero_()
    args = Args(env_id="CartPole-v1", seed=3)
    mean, std = dqn.score(balance, args, CPU, num_episodes=12)
    seeds, returns = dqn.stream(3, dqn.EVALUATION).integers(2**31, size=12).tolist(), []
    for seed in seeds:
        env = gym.make("CartPole-v1")
        (obs, _), total, done = env.reset(seed=seed), 0.0, False
        while not done:
            lean = obs[2]
            obs, reward, terminated, truncated, _ = env.step(int(lean > -lean))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert mean == pytest.approx(np.mean(returns)) and std == pytest.approx(np.std(returns))
    assert len(set(returns)) > 1


def test_values_that_are_no_numbers_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(dqn, "update", lambda *batch: (torch.tensor([float("nan")]), torch.ones(1)))
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "Pendulum-v1"}, "discrete actions"),
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"num_envs": 0}, "--num-envs"),
        ({"num_envs": 3}, "multiple of --num-envs 3"),
        ({"buffer_size": 15}, "--buffer-size"),
        ({"train_frequency": 20_000}, "--buffer-size"),
        ({"gamma": 1.1}, "--gamma"),
        ({"end_e": float("nan")}, "--end-e"),
        ({"exploration_fraction": 0.0}, "--exploration-fraction"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"learning_starts": -1}, "--learning-starts"),
        ({"target_frequency": 0}, "--target-frequency"),
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
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"env_id": "CartPole-v1"}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit CartPole-v1"):
            verb()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "algos/dqn.py", "--resume", tmp_path / "x", "--seed", "1"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
