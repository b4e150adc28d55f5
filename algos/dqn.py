# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]>=1.1", "matplotlib", "moviepy", "numpy", "pydantic>=2", "torch>=2.4", "tqdm",
#     "tyro>=0.9", "wandb",
# ]
# ///
"""Deep Q-network: off-policy Q-learning with a neural network, experience replay and a target network.

    python algos/dqn.py --env-id CartPole-v1

An epsilon-greedy policy fills a replay buffer; minibatches of it are regressed on the TD targets
r + gamma max_a' Q'(s', a'), where Q' is a copy of the network that is renewed every --target-frequency steps. Replay
makes minibatches less correlated and the target network slows the feedback of Q on its own targets. Whether CartPole
needs the two is measured in results/dqn.

Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518), algorithm 1. Differences:
1. Settings of CleanRL's dqn.py for classic control: layers of 120 and 84 units, Adam, a squared error that is not
   clipped, an update every 10 steps. Ten environments are stepped together in place of one.
2. A minibatch is drawn without replacement, so --buffer-size 10 --batch-size 10 means no replay: an update learns from
   the ten newest transitions, once. --target-frequency 1 means no target network: it is copied after every step.
3. A truncated episode bootstraps from its last observation; only a termination does not.
"""

import csv
import json
import math
import re
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = False
    """networks and replay buffer on a GPU if there is one; these networks are too small to gain from it"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    capture_video: bool = False
    """record the first episode of the evaluation"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and discrete actions"""
    total_timesteps: PositiveInt = 500_000
    """environment steps, all environments together"""
    num_envs: Annotated[int, Field(ge=1, le=4096)] = 10
    """environments that are stepped together"""
    learning_rate: PositiveFloat = 2.5e-4
    """Adam's learning rate"""
    gamma: Probability = 0.99
    """discount factor"""
    buffer_size: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """transitions in the replay buffer"""
    batch_size: PositiveInt = 128
    """transitions per update"""
    target_frequency: PositiveInt = 500
    """environment steps between copies of the network into the target network"""
    start_e: Probability = 1.0
    """initial epsilon"""
    end_e: Probability = 0.05
    """final epsilon"""
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """fraction of training over which epsilon is annealed"""
    learning_starts: NonNegativeInt = 10_000
    """environment steps before the first update"""
    train_frequency: PositiveInt = 10
    """environment steps per update"""
    log_every: PositiveInt = 2_000
    """environment steps between rows of metrics.csv"""


# --- the algorithm ---------------------------------------------------------------------------


def q_network(obs_dim: int, num_actions: int) -> nn.Sequential:
    """obs [n, obs] -> action values [n, actions]."""
    layer1, layer2, layer3 = nn.Linear(obs_dim, 120), nn.Linear(120, 84), nn.Linear(84, num_actions)
    return nn.Sequential(layer1, nn.ReLU(), layer2, nn.ReLU(), layer3)


class ReplayBuffer:
    """The newest transitions, in columns: obs and next_obs [size, obs], actions, rewards, terminations [size]."""

    def __init__(self, size: int, obs_dim: int, device: torch.device):
        obs, next_obs = torch.zeros(2, size, obs_dim, device=device)
        actions, (rewards, terminations) = torch.zeros(size, device=device).long(), torch.zeros(2, size, device=device)
        self.columns = obs, next_obs, actions, rewards, terminations
        self.size, self.added = size, 0

    def add(self, *transitions: np.ndarray):
        """One transition per environment, [n, ...] for each column; the oldest are overwritten."""
        rows = torch.arange(self.added, self.added + len(transitions[0])) % self.size
        for column, values in zip(self.columns, transitions, strict=True):
            column[rows] = torch.as_tensor(values, dtype=column.dtype, device=column.device)
        self.added += len(rows)

    def sample(self, n: int, rng: np.random.Generator) -> list[torch.Tensor]:
        """A minibatch of n transitions, drawn uniformly without replacement."""
        rows = torch.from_numpy(rng.choice(min(self.added, self.size), n, replace=False)).to(self.columns[0].device)
        return [column[rows] for column in self.columns]


def td_errors(network, target_network, batch: list[torch.Tensor], gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Q(s, a) - r - gamma max_a' Q'(s', a') [n], no bootstrapping after a termination; and Q(s, .) [n, actions]."""
    obs, next_obs, actions, rewards, terminations = batch
    with torch.no_grad():  # semi-gradient: the target is a constant
        targets = rewards + gamma * (1 - terminations) * target_network(next_obs).amax(dim=1)
    q = network(obs)
    return q.gather(1, actions.unsqueeze(1)).squeeze(1) - targets, q.detach()


@torch.no_grad()
def act(network, obs: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """Epsilon-greedy actions: obs [n, obs] -> [n]."""
    q = network(torch.as_tensor(obs, dtype=torch.float32, device=network[0].weight.device))
    explore = rng.random(len(obs)) < epsilon
    return np.where(explore, rng.integers(q.shape[1], size=len(obs)), q.argmax(dim=1).numpy(force=True))


# --- environments ----------------------------------------------------------------------------


def make_envs(args: Args) -> gym.vector.VectorEnv:
    """Environments that reset in the step that ends an episode, whose last observation is in info["final_obs"]."""
    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    try:
        envs = gym.make_vec(args.env_id, args.num_envs, vectorization_mode="sync", vector_kwargs=same_step)
        if args.capture_video:
            env = gym.make(args.env_id, render_mode="rgb_array")
            env.reset()
            assert env.render() is not None  # fails now and not after the training
    except Exception as error:  # an environment may raise anything
        flag = "--capture-video --env-id" if args.capture_video else "--env-id"
        raise UsageError(f"{flag} {args.env_id}: {error!r}") from None
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if not isinstance(action_space, gym.spaces.Discrete) or action_space.start != 0:
        raise UsageError(f"--env-id {args.env_id}: needs discrete actions from 0, has {action_space}")
    return envs


def evaluate(network, args: Args, run_dir: Path, num_episodes: int = 100, max_steps: int = 10_000) -> np.ndarray:
    """Returns [num_episodes] of the greedy policy, in episodes of at most max_steps."""

    def make_env(video: bool) -> gym.Env:
        if not video:
            return gym.make(args.env_id)
        env = gym.make(args.env_id, render_mode="rgb_array")
        return gym.wrappers.RecordVideo(env, str(run_dir / "videos"), lambda episode: episode == 0)

    envs = gym.vector.SyncVectorEnv([lambda i=i: make_env(args.capture_video and i == 0) for i in range(num_episodes)])
    rng = np.random.default_rng(args.seed + 1_000_000)  # episodes that training has not seen
    obs, _ = envs.reset(seed=rng.integers(2**31, size=num_episodes).tolist())
    returns, running, step = np.zeros(num_episodes), np.ones(num_episodes, bool), 0
    while running.any() and step < max_steps:
        obs, rewards, terminations, truncations, _ = envs.step(act(network, obs, 0.0, rng))
        returns += rewards * running  # what an environment plays after its first episode does not count
        running &= ~(terminations | truncations)
        step += 1
    envs.close()
    return returns


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    if args.buffer_size < max(args.num_envs, args.batch_size):
        raise UsageError("--buffer-size must be at least --num-envs and at least --batch-size")
    envs = make_envs(args)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    sizes = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    network, target_network = q_network(*sizes).to(device), q_network(*sizes).to(device)
    target_network.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, fused=True)
    buffer = ReplayBuffer(args.buffer_size, sizes[0], device)
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0
    returns, lengths = np.zeros(args.num_envs), np.zeros(args.num_envs)
    episodes, last_returns, losses, largest_q = [], deque(maxlen=100), [], []

    def due(every: int) -> int:
        """How many multiples of `every` the last step of the environments reached."""
        return global_step // every - (global_step - args.num_envs) // every

    obs, _ = envs.reset(seed=rng.integers(2**31, size=args.num_envs).tolist())
    bar = tqdm(total=args.total_timesteps, unit="step", disable=None)
    annealed = args.exploration_fraction * args.total_timesteps
    while global_step < args.total_timesteps:
        epsilon = np.interp(global_step, [0, annealed], [args.start_e, args.end_e])
        actions = act(network, obs, epsilon, rng)
        try:
            reset_obs, rewards, terminations, truncations, infos = envs.step(actions)
        except Exception as error:  # an environment may raise anything
            raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
        global_step, returns, lengths = global_step + args.num_envs, returns + rewards, lengths + 1
        next_obs = reset_obs.copy()
        for i in np.flatnonzero(terminations | truncations):
            next_obs[i] = infos["final_obs"][i]
            episodes.append((returns[i], lengths[i]))
            returns[i] = lengths[i] = 0
        buffer.add(obs, next_obs, actions, rewards, terminations)
        obs = reset_obs

        if global_step > args.learning_starts and buffer.added >= args.batch_size:
            for _ in range(due(args.train_frequency)):
                errors, q = td_errors(network, target_network, buffer.sample(args.batch_size, rng), args.gamma)
                loss = errors.square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                largest_q.append(q.abs().amax())
        if due(args.target_frequency):
            target_network.load_state_dict(network.state_dict())

        finished = global_step >= args.total_timesteps
        if due(args.log_every) or finished:
            last_returns.extend(total for total, _ in episodes)
            weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
            torch.save({"network": weights}, run.dir / "model.pt")
            row = {
                "global_step": global_step,
                "charts/episodic_return": np.mean([total for total, _ in episodes]) if episodes else None,
                "charts/episodic_return_100": np.mean(last_returns) if last_returns else None,
                "charts/episodic_length": np.mean([length for _, length in episodes]) if episodes else None,
                "charts/epsilon": epsilon,
                "losses/td_loss": torch.stack(losses).mean().item() if losses else None,
                "losses/largest_q": torch.stack(largest_q).amax().item() if losses else None,
                "charts/SPS": global_step / (time.perf_counter() - start),
                "eval/episodic_return": evaluate(network, args, run.dir).mean() if finished else None,
            }
            run.log(row)
            bar.update(global_step - bar.n)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])
            episodes, losses, largest_q = [], [], []

    bar.close()
    envs.close()
    save_curve(run, "charts/episodic_return_100")
    run.close("curve.png")
    print(f"return {row['eval/episodic_return']:.1f} (greedy, 100 episodes) after {global_step:,} steps: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            try:
                wandb.login()  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)
        if args.track:
            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            wandb.init(**names, config=asdict(args), dir=self.dir)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


def save_curve(run: Run, metric: str, xlabel: str = "environment steps"):
    from matplotlib.figure import Figure

    points = [(row["global_step"], row[metric]) for row in run.rows if row[metric] is not None]
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], ".-", markersize=3)
    axes.set(xlabel=xlabel, ylabel=metric)
    axes.figure.savefig(run.dir / "curve.png", dpi=120)


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
