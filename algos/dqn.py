# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]>=1.1",
#     "matplotlib>=3.8",
#     "mujoco>=3.1.5",
#     "numpy>=1.26",
#     "pillow>=10",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Deep Q-network: Q-learning with a network, kept from blowing up by two tricks.

    python algos/dqn.py --env-id CartPole-v1
    python algos/dqn.py --env-id Acrobot-v1 --capture-video
    python algos/dqn.py --no-replay --target-frequency 1

Where there are too many states for a table, a network gives the action values, and each Q-learning update becomes a
step of regression. But its targets come from the network itself, which may chase its own tail off to infinity. Trick
one: keep experience in a buffer, and learn from random batches of it, which are less alike than successive steps and
are used more than once. Trick two: take the targets from a second copy of the network, frozen for N steps.

Expect CartPole-v1 at its highest return, 500, after the default 500,000 steps (three seeds: over the last hundred
training episodes, and greedily) in a minute on one core, and at about 208 with --total-timesteps 50000.

Several copies of the environment advance in lockstep, one forward pass for all. They are played on the host; with
--cuda the networks and the replay buffer, one tensor, are on the GPU, and only observations and actions travel.

Papers
    Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518): replay, target network.
    Kevin Frans 2016, on function approximation (the post): the two tricks, "after 1000 steps or so".

Differences from the paper
    1. Settings are those of CleanRL's dqn.py for classic control (two layers of 120 and 84, Adam, squared error that is
       not clipped, a step of learning every 10 of the environment), but for ten environments in place of one.
    2. An episode that is cut off by its time limit would have gone on: its last value is bootstrapped.
"""

import csv
import importlib.util
import json
import os
import pickle
import sys
import time
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from torch import nn
from torch.nn.functional import linear
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the network, exploration, episodes and batches; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 1
    """threads of the learner: these networks are too small to share. They decide a curve's last bits"""
    cuda: bool = False
    """networks and replay buffer on a GPU if there is one"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""
    capture_video: bool = False
    """play one episode of the trained policy and save it as episode.gif"""
    resume: Path | None = None
    """go on with the run in this folder, under its own arguments: no other flag may stand beside"""
    evaluate: Path | None = None
    """score the greedy policy of the run in this folder over 100 episodes: no other flag may stand beside"""

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and discrete actions; without a version, the newest"""
    total_timesteps: int = 500_000
    """environment steps to train for, over all environments"""
    num_envs: int = 10
    """environments that are played in lockstep"""
    learning_rate: float = 2.5e-4
    """Adam's step size"""
    gamma: float = 0.99
    """discount per step, in [0, 1]"""
    replay: bool = True
    """learn from random batches of the past; without: from the newest --train-frequency steps, once"""
    buffer_size: int = 10_000
    """steps that the replay buffer remembers, a multiple of --num-envs"""
    batch_size: int = 128
    """steps in a random batch"""
    target_frequency: int = 500
    """environment steps for which the target network stays frozen; 1 is no trick at all"""
    start_e: float = 1.0
    """first probability of a random action"""
    end_e: float = 0.05
    """last probability of a random action"""
    exploration_fraction: float = 0.5
    """share of --total-timesteps over which it falls, in a straight line"""
    learning_starts: int = 10_000
    """environment steps before the first update"""
    train_frequency: int = 10
    """environment steps per update"""
    log_every: int = 2_000
    """environment steps between rows of metrics.csv, a multiple of --num-envs"""
    checkpoint_every: int = 25
    """rows between checkpoints; all environments start over at each, so that --resume repeats the run exactly"""

    def __post_init__(self):
        least_one = ["total_timesteps", "num_envs", "buffer_size", "batch_size", "target_frequency", "train_frequency"]
        for name in [*least_one, "log_every", "checkpoint_every", "torch_threads"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["buffer_size", "log_every"]:
            if getattr(self, name) % self.num_envs:
                raise UsageError(f"--{name.replace('_', '-')} must be a multiple of --num-envs {self.num_envs}")
        if self.buffer_size < self.train_frequency:
            raise UsageError(f"--buffer-size must hold --train-frequency {self.train_frequency} steps at least")
        for name in ["gamma", "start_e", "end_e"]:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must lie in [0, 1]")
        if not 0 < self.exploration_fraction <= 1:
            raise UsageError("--exploration-fraction must lie in (0, 1]")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError("--learning-rate must be positive")
        if min(self.seed, self.learning_starts) < 0:
            raise UsageError("--seed and --learning-starts must not be negative")


# --- the algorithm ---------------------------------------------------------------------------


def q_network(obs_dim: int, num_actions: int) -> nn.ModuleList:
    """Two hidden layers, and one whose outputs are the values of the actions."""
    return nn.ModuleList([nn.Linear(obs_dim, 120), nn.Linear(120, 84), nn.Linear(84, num_actions)])


def action_values(network, obs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """obs [n, obs] -> the value of each action [n, actions], and what each layer was given: [n, obs], then ReLUs."""
    *hidden, last = network
    inputs = [obs]
    for layer in hidden:
        inputs.append(linear(inputs[-1], layer.weight, layer.bias).relu_())
    return linear(inputs[-1], last.weight, last.bias), inputs


class ReplayBuffer:
    """The newest steps in one tensor [capacity, 2 * obs + 3], so that a batch is one lookup and a write one copy.

    A row is an observation, the one it led to, the action, the reward, and whether the episode terminated there.
    """

    def __init__(self, capacity: int, obs_dim: int, device: torch.device):
        self.rows = torch.zeros(capacity, 2 * obs_dim + 3, device=device)
        self.obs_dim, self.added = obs_dim, 0

    def add(self, obs, next_obs, actions, rewards, terminations):
        """Arrays [n, obs] twice and [n] thrice: one step of each environment, over the oldest ones."""
        rows = np.concatenate([obs, next_obs, np.stack([actions, rewards, terminations], axis=1)], axis=1)
        at = self.added % len(self.rows)  # n divides the capacity: no wrapping around within a step
        self.rows[at : at + len(rows)] = torch.from_numpy(rows.astype(np.float32, copy=False))
        self.added += len(rows)

    def newest(self, num: int) -> torch.Tensor:
        """The newest rows [num, 2 * obs + 3], in the order in which they came."""
        at = torch.arange(self.added - num, self.added, device=self.rows.device) % len(self.rows)
        return self.rows[at]

    def sample(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Random rows [num, 2 * obs + 3] with replacement."""
        filled, device = min(self.added, len(self.rows)), self.rows.device
        return self.rows.index_select(0, torch.randint(filled, (num,), generator=generator, device=device))

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows [n, 2 * obs + 3] -> obs, next_obs [n, obs], actions [n] as whole numbers, rewards, terminations [n]."""
        obs, next_obs, rest = rows.split([self.obs_dim, self.obs_dim, 3], dim=1)
        actions, rewards, terminations = rest.unbind(1)
        return obs, next_obs, actions.long(), rewards, terminations


@torch.no_grad()
def td_targets(target_network, next_obs, rewards, terminations, gamma: float) -> torch.Tensor:
    """Reward plus the discounted value of the best next action, of which there is none after a termination: [n]."""
    next_q, _ = action_values(target_network, next_obs)
    return rewards + gamma * (1 - terminations) * next_q.amax(1)


@torch.no_grad()
def update(network, target_network, optimizer, obs, next_obs, actions, rewards, terminations, gamma: float):
    """One step of regression on the targets. Returns the batch's errors [n] and values [n, actions], on the device.

    The gradient is written out, last layer first: for matrices this small, autograd takes as long again to do the same.
    """
    targets = td_targets(target_network, next_obs, rewards, terminations, gamma)
    q, inputs = action_values(network, obs)
    taken = actions.unsqueeze(1)
    delta = q.gather(1, taken).squeeze(1) - targets
    gradient = torch.zeros_like(q).scatter_(1, taken, 2 / len(q) * delta.unsqueeze(1))  # of the mean of delta^2, by q
    for layer, x in zip(list(network)[::-1], inputs[::-1], strict=True):
        layer.weight.grad, layer.bias.grad = gradient.T @ x, gradient.sum(0)
        if x is not obs:
            gradient = (gradient @ layer.weight).mul_(x.sign())  # through the ReLU, where it let something through
    optimizer.step()
    return delta, q


def exploration(args: Args, step: int) -> float:
    """The probability of a random action: from start_e to end_e in a straight line, then constant."""
    progress = min(1.0, step / (args.exploration_fraction * args.total_timesteps))
    return args.start_e + progress * (args.end_e - args.start_e)


@torch.no_grad()
def act(network, obs: np.ndarray, epsilon: float, rng: np.random.Generator, device: torch.device) -> np.ndarray:
    """Epsilon-greedy: obs [n, obs] -> actions [n], counted from 0."""
    q, _ = action_values(network, torch.from_numpy(obs).to(device))
    explore = rng.random(len(obs)) < epsilon
    return np.where(explore, rng.integers(q.shape[1], size=len(obs)), q.argmax(1).numpy(force=True))


def stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for every key: one of the four below, then what tells its uses apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


NETWORK, PLAY, BATCHES, EVALUATION = range(4)


# --- environments in lockstep ----------------------------------------------------------------


class Envs:
    """Environments that are stepped together and reset by hand, each as soon as its episode ends."""

    def __init__(self, env_id: str, num_envs: int):
        self.envs = [make_env(env_id) for _ in range(num_envs)]
        self.first_action = int(self.envs[0].action_space.start)
        self.obs = np.zeros((num_envs, *self.envs[0].observation_space.shape), np.float32)
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)

    def reset(self, i: int, seed: int | None = None):
        """Start a new episode in environment i; the first one's seed decides the ones that follow."""
        self.obs[i], _ = self.envs[i].reset(seed=seed)
        self.returns[i] = self.lengths[i] = 0

    def step(self, actions: np.ndarray) -> tuple:
        """actions [n] -> next_obs [n, obs] before any reset, rewards, terminations [n], the episodes that ended."""
        next_obs = np.empty_like(self.obs)
        rewards, terminations, episodes = np.empty(len(actions)), np.zeros(len(actions), bool), []
        for i, action in enumerate(actions.tolist()):
            next_obs[i], rewards[i], terminations[i], truncated, _ = self.envs[i].step(action + self.first_action)
            self.returns[i] += rewards[i]
            self.lengths[i] += 1
            if terminations[i] or truncated:
                episodes.append((float(self.returns[i]), int(self.lengths[i])))
                self.reset(i)
            else:
                self.obs[i] = next_obs[i]
        return next_obs, rewards, terminations, episodes

    def close(self):
        for env in self.envs:
            env.close()


# --- one run: the same in every file of this folder ------------------------------------------


class Run:
    """The folder of one run: args.json, metrics.csv, checkpoint.pt, pictures. With --track also Weights & Biases."""

    def __init__(self, args, task: str, rows: int | None = None):
        """A new run; with `rows`, the one in args.run_dir goes on after so many rows of its metrics."""
        name = f"{task}__{args.exp_name}__{args.seed}__{int(time.time())}"
        self.dir = args.run_dir or Path("runs", name)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rows, self.csv, self.wandb = rows or 0, None, None
        metrics = self.dir / "metrics.csv"
        if rows is None:
            try:  # "x" creates the file or fails: no run is overwritten, and no two runs share a folder
                self.file = metrics.open("x", newline="", buffering=1)
            except FileExistsError:
                raise UsageError(f"--run-dir {self.dir}: there is a run in it already; name another folder") from None
            saved = {"run_name": name} | asdict(args)
            (self.dir / "args.json").write_text(json.dumps(saved, indent=2, default=str))
        else:
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(lines[: rows + 1 if rows else 0]))
            self.file = metrics.open("a", newline="", buffering=1)
        self.name = json.loads((self.dir / "args.json").read_text())["run_name"]
        if args.track:
            import wandb

            self.wandb, again = wandb, {"id": self.name[-128:], "resume": "allow"}
            config = json.loads((self.dir / "args.json").read_text())
            project, entity = args.wandb_project_name, args.wandb_entity
            wandb.init(project=project, entity=entity, name=self.name, config=config, dir=self.dir, **again)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def log(self, row: dict):
        """Append one row: global_step and metrics, None for what was not measured now. The first row names them all."""
        if self.csv is None:
            self.csv = csv.DictWriter(self.file, row)
            if self.rows == 0:
                self.csv.writeheader()
        self.csv.writerow(row)
        self.rows += 1
        if self.wandb:
            self.wandb.log({key: value for key, value in row.items() if value is not None})

    def save(self, checkpoint: dict):
        """Write checkpoint.pt under another name, then rename it: a kill leaves the old one or the new one."""
        torch.save(checkpoint | {"rows": self.rows}, self.dir / "checkpoint.tmp")
        (self.dir / "checkpoint.tmp").replace(self.dir / "checkpoint.pt")

    def plot(self, metric: str):
        """Draw one column of metrics.csv over global_step into curve.png."""
        from matplotlib.figure import Figure

        with (self.dir / "metrics.csv").open(newline="") as file:
            points = [(int(row["global_step"]), float(row[metric])) for row in csv.DictReader(file) if row[metric]]
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(xlabel="environment steps", ylabel=metric, title=self.name)
        axes.figure.savefig(self.dir / "curve.png", dpi=120)
        self.picture(self.dir / "curve.png")

    def picture(self, path: Path):
        """Hand a picture or an animation of the folder to Weights & Biases as well."""
        if self.wandb:
            kind = self.wandb.Video if path.suffix == ".gif" else self.wandb.Image
            self.wandb.log({path.stem: kind(str(path))})


def load_run(folder: Path, flag: str, args_type) -> tuple:
    """What a run left in its folder: its arguments and its checkpoint. Raises UsageError that names the flag."""
    try:
        saved = json.loads((folder / "args.json").read_text())
        checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
        (folder / "metrics.csv").stat()
        del saved["run_name"]
        return replace(args_type(**saved), run_dir=folder, resume=None), checkpoint
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{flag} {folder}: no run to load there ({error.strerror}: {error.filename})") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{flag} {folder}: damaged, or the run of another script ({error})") from None


@contextmanager
def torch_settings(args):
    """The threads and the determinism that args ask for; what was set before comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if args.cuda and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's products refuse
    torch.set_num_threads(args.torch_threads)
    torch.use_deterministic_algorithms(args.torch_deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


# --- environments: the same in every file that plays Gymnasium's one by one ------------------


def make_env(env_id: str, **kwargs) -> gym.Env:
    """gym.make, with the newest version of an id without one. Raises UsageError when there is no such environment."""
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            if importlib.util.find_spec("mujoco"):
                import mujoco  # told to warn here, or it writes MUJOCO_LOG.TXT into the working folder

                mujoco.set_mju_user_warning(lambda message: warnings.warn(f"MuJoCo: {message}", stacklevel=2))
            return gym.make(env_id, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error}") from None


def record_episode(env_id: str, policy, run: Run, seed: int):
    """Play one episode of `policy(obs) -> action`; save every other frame, at half size, as episode.gif."""
    from PIL import Image

    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # draw without a screen
    env = make_env(env_id, render_mode="rgb_array")
    obs, _ = env.reset(seed=seed)
    frames = []
    terminated = truncated = False
    while not (terminated or truncated):
        frames.append(Image.fromarray(env.render()).reduce(2).quantize(64))
        for _ in range(2):
            if not (terminated or truncated):
                obs, _, terminated, truncated, _ = env.step(policy(obs))
    milliseconds = 2000 // env.metadata.get("render_fps", 30)
    path = run.dir / "episode.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    env.close()
    run.picture(path)


# --- training --------------------------------------------------------------------------------


def check_spaces(args: Args) -> tuple[int, int]:
    """Size of the observations and number of actions. Completes env_id. Raises UsageError for other spaces."""
    env = make_env(args.env_id)
    obs_space, action_space, args.env_id = env.observation_space, env.action_space, env.spec.id
    env.close()
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if not isinstance(action_space, Discrete):
        raise UsageError(f"--env-id {args.env_id}: needs discrete actions, has {action_space}")
    return obs_space.shape[0], int(action_space.n)


def score(network, args: Args, device: torch.device, num_episodes: int = 100) -> tuple[float, float]:
    """Mean and standard deviation of the return of the greedy policy, over new episodes."""
    rng, returns = stream(args.seed, EVALUATION), []
    envs = Envs(args.env_id, num_episodes)
    for i, seed in enumerate(rng.integers(2**31, size=num_episodes).tolist()):
        envs.reset(i, seed)
    while envs.envs:
        actions, playing = act(network, envs.obs, 0.0, rng, device), []
        for i, action in enumerate(actions.tolist()):
            envs.obs[i], reward, terminated, truncated, _ = envs.envs[i].step(action + envs.first_action)
            envs.returns[i] += float(reward)
            if terminated or truncated:
                returns.append(float(envs.returns[i]))
                envs.envs[i].close()
            else:
                playing.append(i)
        if len(playing) < len(actions):
            envs.envs = [envs.envs[i] for i in playing]
            envs.obs, envs.returns = envs.obs[playing], envs.returns[playing]
    return float(np.mean(returns)), float(np.std(returns))


def make_network(args: Args, obs_dim: int, num_actions: int, device: torch.device) -> nn.ModuleList:
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(int(stream(args.seed, NETWORK).integers(2**63)))
        return q_network(obs_dim, num_actions).to(device)


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    obs_dim, num_actions = check_spaces(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    envs = Envs(args.env_id, args.num_envs)
    try:
        with torch_settings(args):
            network, target_network = (make_network(args, obs_dim, num_actions, device) for _ in range(2))
            return learn(args, checkpoint, envs, network, target_network, device)
    finally:
        envs.close()


def learn(args: Args, checkpoint: dict | None, envs: Envs, network, target_network, device: torch.device) -> dict:
    """The loop: act, remember, learn, now and then copy the network, log."""
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, fused=True)
    buffer = ReplayBuffer(args.buffer_size, envs.obs.shape[1], device)
    parts = {"network": network, "target_network": target_network, "optimizer": optimizer}
    row_number, global_step, elapsed = 0, 0, 0.0
    last_returns = deque(maxlen=100)

    def state() -> dict:
        counters = {"row_number": row_number, "global_step": global_step, "elapsed": elapsed, "added": buffer.added}
        learned = {name: part.state_dict() for name, part in parts.items()}
        return learned | counters | {"buffer": buffer.rows, "last_returns": list(last_returns)}

    if checkpoint:
        try:
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            buffer.rows.copy_(checkpoint["buffer"])
            last_returns.extend(checkpoint["last_returns"])
            row_number, global_step, elapsed, buffer.added = (
                checkpoint[key] for key in ("row_number", "global_step", "elapsed", "added")
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit {args.env_id} ({error})") from None
        if global_step >= args.total_timesteps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.env_id, checkpoint and checkpoint["rows"])
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", disable=None)
    with run, bar:
        if not checkpoint:
            run.save(state())
        while global_step < args.total_timesteps:
            start = time.perf_counter()
            if row_number % args.checkpoint_every == 0:  # everything random begins anew: no state of it is saved
                rng = stream(args.seed, PLAY, row_number)
                for i, seed in enumerate(rng.integers(2**31, size=args.num_envs).tolist()):
                    envs.reset(i, seed)
                batch_seed = int(stream(args.seed, BATCHES, row_number).integers(2**63))
                batches = torch.Generator(device).manual_seed(batch_seed)
            episodes, deltas, values = [], [], []
            for _ in range(args.log_every // args.num_envs):
                before = global_step
                obs = envs.obs.copy()
                actions = act(network, obs, exploration(args, global_step), rng, device)
                next_obs, rewards, terminations, ended = envs.step(actions)
                buffer.add(obs, next_obs, actions, rewards, terminations)
                episodes += ended
                global_step += args.num_envs
                if global_step > args.learning_starts:
                    for _ in range(global_step // args.train_frequency - before // args.train_frequency):
                        if args.replay:
                            rows = buffer.sample(args.batch_size, batches)
                        else:
                            rows = buffer.newest(args.train_frequency)
                        delta, q = update(network, target_network, optimizer, *buffer.split(rows), args.gamma)
                        deltas.append(delta)
                        values.append(q)
                if global_step // args.target_frequency > before // args.target_frequency:
                    target_network.load_state_dict(network.state_dict())
            returns, lengths = [r for r, _ in episodes], [length for _, length in episodes]
            last_returns.extend(returns)

            row_number += 1
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(np.mean(returns)) if returns else None,
                "charts/episodic_return_100": float(np.mean(last_returns)) if last_returns else None,
                "charts/episodic_length": float(np.mean(lengths)) if lengths else None,
                "charts/epsilon": exploration(args, global_step),
                "losses/td_loss": torch.cat(deltas).square().mean().item() if deltas else None,
                "losses/largest_q": torch.cat(values).abs().amax().item() if values else None,
            }
            if not all(np.isfinite(row[name]) for name in ("losses/td_loss", "losses/largest_q") if deltas):
                raise FloatingPointError(f"the values diverged before step {global_step:,}: raise --target-frequency?")
            elapsed += time.perf_counter() - start
            row |= {"charts/SPS": global_step / elapsed, "time/elapsed": elapsed, "eval/episodic_return": None}
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/episodic_return"], std = score(network, args, device)
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.update(args.log_every)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

        run.plot("charts/episodic_return_100")
        if args.capture_video:
            nobody = stream(args.seed, EVALUATION)

            def greedy(obs):
                actions = act(network, np.asarray(obs, np.float32)[None], 0.0, nobody, device)
                return int(actions[0]) + envs.first_action

            record_episode(args.env_id, greedy, run, args.seed)
        result = f"return {row['eval/episodic_return']:.1f} +- {std:.1f} (greedy, 100 episodes)"
        print(f"{result} after {global_step:,} steps at {row['charts/SPS']:,.0f} steps/s: {run.dir}")
    return row


def evaluate(folder: Path) -> tuple[float, float]:
    """Play 100 episodes of the greedy policy of a run: mean and standard deviation."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    device = torch.device("cpu")
    network = make_network(args, *check_spaces(args), device)
    try:
        network.load_state_dict(checkpoint["network"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"--evaluate {folder}: the checkpoint does not fit {args.env_id} ({error})") from None
    mean, std = score(network, args, device)
    print(f"return {mean:.2f} +- {std:.2f} (greedy, 100 episodes) after {checkpoint['global_step']:,} steps")
    return mean, std


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    if (args.resume or args.evaluate) and sum(word.startswith("--") for word in argv) > 1:
        raise UsageError("--resume and --evaluate take every argument from the run's folder: leave out the other flags")
    if args.evaluate:
        evaluate(args.evaluate)
    else:
        train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
