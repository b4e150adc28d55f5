# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]>=1.4", "matplotlib", "moviepy", "numpy", "pydantic>=2.6", "torch>=2.4", "tqdm",
#     "tyro>=0.9.2", "wandb",
# ]
# ///
"""Deep Q-network: off-policy Q-learning with a neural network, experience replay and a target network.

    python algos/dqn.py --env-id CartPole-v1

An epsilon-greedy policy fills a replay buffer; on minibatches from it, Q(s, a) is regressed on the TD targets
r + gamma max_a' Q'(s', a'), where Q' is a copy of the network that is renewed every --target-frequency steps. Replay
makes minibatches less correlated and the target network slows the feedback of Q on its own targets.

Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518), algorithm 1. Differences:
1. Settings of CleanRL's dqn.py for classic control: layers of 120 and 84 units, Adam, a squared error that is not
   clipped, an update for every 10 transitions, here one of each of ten environments.
2. A minibatch is drawn without replacement, so --buffer-size 10 --batch-size 10 means no replay: an update learns from
   the ten newest transitions, once. --target-frequency 1 means no target network: it is copied after every step.
3. A truncated episode bootstraps from its last observation; only a termination does not.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm


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
    """environments that are stepped together; every step is followed by one update"""
    learning_rate: PositiveFloat = 2.5e-4
    """Adam's learning rate"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """discount factor"""
    buffer_size: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """transitions in the replay buffer"""
    batch_size: PositiveInt = 128
    """transitions per update"""
    target_frequency: PositiveInt = 500
    """environment steps between copies of the network into the target network"""
    end_e: Annotated[float, Field(ge=0, le=1)] = 0.05
    """final epsilon; the initial one is 1"""
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """fraction of training over which epsilon is annealed"""
    learning_starts: NonNegativeInt = 10_000
    """environment steps before the first update"""


# --- the algorithm ---------------------------------------------------------------------------


def q_network(obs_dim: int, num_actions: int) -> nn.Sequential:
    """obs [n, obs] -> action values [n, actions]."""
    return nn.Sequential(nn.Linear(obs_dim, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_actions))


def td_errors(network, target_network, batch: list[torch.Tensor], gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """r + gamma max_a' Q'(s', a') - Q(s, a) [n], no bootstrapping after a termination; and Q(s, .) [n, actions]."""
    obs, next_obs, actions, rewards, terminations = batch
    with torch.no_grad():  # semi-gradient: the target is a constant
        targets = rewards + gamma * (1 - terminations) * target_network(next_obs).amax(dim=1)
    q = network(obs)
    return targets - q.gather(1, actions.long().unsqueeze(1)).squeeze(1), q.detach()


@torch.no_grad()
def greedy_actions(network, obs: np.ndarray) -> np.ndarray:
    """obs [n, obs] -> actions [n]."""
    q = network(torch.as_tensor(obs, dtype=torch.float32, device=network[0].weight.device))
    return q.argmax(dim=1).numpy(force=True)


# --- environments ----------------------------------------------------------------------------


def make_envs(args: Args, num_envs: int, video_folder: Path | None = None) -> VectorEnv:
    """Environments that reset in the step that ends an episode; with a folder, videos of their first episodes."""
    options = {"render_mode": "rgb_array"} if args.capture_video else {}
    if video_folder:
        record = partial(gym.wrappers.RecordVideo, video_folder=str(video_folder), episode_trigger=lambda i: i == 0)
        options["wrappers"] = [record]
    try:
        envs = gym.make_vec(args.env_id, num_envs, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, **options)
        if args.capture_video and not video_folder:
            envs.reset()
            assert envs.envs[0].render() is not None  # fails now and not after the training
    except Exception as error:  # an environment may raise anything
        flag = "--capture-video --env-id" if args.capture_video else "--env-id"
        raise UsageError(f"{flag} {args.env_id}: {error!r}") from None
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    flat = isinstance(obs_space, Box) and len(obs_space.shape) == 1
    if not flat or not isinstance(action_space, Discrete) or action_space.start != 0:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations and discrete actions from 0")
    return gym.wrappers.vector.RecordEpisodeStatistics(envs)


def evaluate(envs: VectorEnv, network, seeds: np.ndarray) -> np.ndarray:
    """Returns [envs] of one greedy episode in each environment."""
    obs, _ = envs.reset(seed=seeds.tolist())
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    for _ in range(10_000):  # some environments have no time limit
        obs, rewards, terminations, truncations, _ = envs.step(greedy_actions(network, obs))
        returns += rewards * running
        running &= ~(terminations | truncations)
        if not running.any():
            break
    return returns


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv, and the evaluation."""
    if args.buffer_size < max(args.num_envs, args.batch_size):
        raise UsageError("--buffer-size must be at least --num-envs and at least --batch-size")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    envs = make_envs(args, args.num_envs)
    obs_dim, num_actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    network, target_network = (q_network(obs_dim, num_actions).to(device) for _ in range(2))
    target_network.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, fused=True)
    shapes = (obs_dim,), (obs_dim,), (), (), ()  # of obs, next_obs, action, reward, termination
    replay_buffer = [torch.zeros(args.buffer_size, *shape, device=device) for shape in shapes]
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0
    losses, largest_q = [], []

    obs, _ = envs.reset(seed=rng.integers(2**31, size=args.num_envs).tolist())
    bar = tqdm(total=args.total_timesteps, unit="step", disable=None)
    while global_step < args.total_timesteps:
        epsilon = np.interp(global_step, [0, args.exploration_fraction * args.total_timesteps], [1, args.end_e])
        explore = rng.random(args.num_envs) < epsilon
        actions = np.where(explore, rng.integers(num_actions, size=args.num_envs), greedy_actions(network, obs))
        try:
            reset_obs, rewards, terminations, truncations, infos = envs.step(actions)
        except Exception as error:  # an environment may raise anything
            raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
        next_obs = reset_obs.copy()
        for i in np.flatnonzero(terminations | truncations):
            next_obs[i] = infos["final_obs"][i]
        rows = torch.arange(global_step, global_step + args.num_envs) % args.buffer_size  # the oldest are overwritten
        for column, values in zip(replay_buffer, (obs, next_obs, actions, rewards, terminations), strict=True):
            column[rows] = torch.as_tensor(values, dtype=torch.float32, device=device)
        obs = reset_obs
        global_step += args.num_envs
        bar.update(args.num_envs)

        if global_step >= max(args.learning_starts, args.batch_size):
            rows = rng.choice(min(global_step, args.buffer_size), args.batch_size, replace=False)
            errors, q = td_errors(network, target_network, [column[rows] for column in replay_buffer], args.gamma)
            loss = errors.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            largest_q.append(q.abs().max().item())
        if global_step % args.target_frequency < args.num_envs:
            target_network.load_state_dict(network.state_dict())

        if global_step % 2000 < args.num_envs or global_step >= args.total_timesteps:
            row = {
                "global_step": global_step,
                "charts/episodic_return_100": np.mean(envs.return_queue) if envs.return_queue else None,
                "losses/td_loss": np.mean(losses) if losses else None,
                "losses/largest_q": max(largest_q, default=None),
                "charts/SPS": global_step / (time.perf_counter() - start),
            }
            run.log(row)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])
            losses, largest_q = [], []

    bar.close()
    torch.save({"network": network.cpu().state_dict()}, run.dir / "model.pt")
    save_curve(run, "charts/episodic_return_100")
    seeds = rng.integers(2**31, size=100)
    returns = evaluate(make_envs(args, 100), network, seeds)
    if args.capture_video:
        evaluate(make_envs(args, 1, run.dir / "videos"), network, seeds[:1])
    run.close("curve.png")
    print(f"return {returns.mean():.1f} +- {returns.std():.1f} (100 episodes, greedy): {run.dir}")
    return row | {"eval/episodic_return": returns.mean()}


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

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
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
