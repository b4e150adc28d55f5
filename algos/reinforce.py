# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control,mujoco]>=1.4", "matplotlib", "moviepy", "numpy", "pydantic>=2.6",
#                 "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""REINFORCE: the Monte-Carlo policy gradient, with credit assignment and baselines that reduce its variance.

    python algos/reinforce.py --env-id CartPole-v1
    python algos/reinforce.py --credit return --baseline none
    python algos/reinforce.py --env-id InvertedPendulum-v5

The policy gradient is the expectation of the return times the score, the gradient of log pi(a|s) summed over the
episode. It needs no model of the environment and no differentiable reward. Two changes reduce the variance without
changing the expectation (with --gamma 1): an action is credited only with the rewards that follow it (--credit
reward-to-go), and an estimate of the expected return that does not depend on the action is subtracted (--baseline).

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", section 5.
Sutton and Barto, "Reinforcement learning: an introduction", 2nd edition, section 13.4: the value function as baseline.

Differences from Williams
1. A batch is one episode of each environment, and its gradient goes through Adam.
2. With --gamma below 1, reward-to-go is, as usual, discounted from the action on and not from the start of the episode:
   late actions weigh as much as early ones. Only --credit return estimates the discounted return's gradient.
3. Observations are standardized by running moments; the critic learns standardized returns (Pop-Art).
4. A truncated episode counts as terminated, since Monte-Carlo returns do not bootstrap; actor_critic.py does.
"""

import csv
import json
import math
import os
import re
import sys
import time
from collections import deque
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.utils import RunningMeanStd
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = False
    """use a GPU if there is one; these networks are too small to gain from it"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    capture_video: bool = False
    """record an episode of the trained policy"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations; without a version, the newest"""
    total_timesteps: PositiveInt = 200_000
    """environment steps"""
    num_envs: Annotated[int, Field(ge=2, le=4096)] = 8
    """environments, stepped together; each plays one episode per update"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """discount factor"""
    credit: Literal["return", "reward-to-go"] = "reward-to-go"
    """what an action is credited with: all rewards of its episode, or those that follow the action"""
    baseline: Literal["none", "mean", "value"] = "value"
    """what is subtracted: nothing, the mean return of the other environments, or a learned value function"""
    log_std_init: Annotated[float, Field(ge=-5, le=5)] = -1.0
    """initial log standard deviation of continuous actions"""
    learning_rate: PositiveFloat = 3e-3
    """Adam's learning rate for the policy"""


# --- the policy and the critic ---------------------------------------------------------------


class Standardize(nn.Module):
    """x [..., *shape] in standard deviations from the running mean, clipped at 10."""

    def __init__(self, *shape: int):
        super().__init__()
        self.moments = RunningMeanStd(shape=shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def update(self, x: torch.Tensor):
        self.moments.update(x.numpy(force=True))
        self.mean.copy_(torch.as_tensor(self.moments.mean))
        self.std.copy_(torch.as_tensor(self.moments.var + 1e-8).sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.to(self.mean) - self.mean) / self.std).clamp(-10, 10)


class Policy(nn.Module):
    """obs [n, obs] -> action distribution: categorical, or Gaussian with state-independent standard deviations."""

    def __init__(self, standardize: Standardize, obs_dim: int, action_space: gym.Space, log_std_init: float):
        super().__init__()
        self.log_std = nn.Parameter(torch.full(action_space.shape, log_std_init)) if action_space.shape else None
        outputs = action_space.shape[0] if action_space.shape else int(action_space.n)
        hidden = [nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
        self.net = nn.Sequential(standardize, *hidden, nn.Linear(64, outputs))
        for layer, gain in zip(self.net[1::2], (2**0.5, 2**0.5, 0.01), strict=True):  # at first hardly dependent on obs
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, obs: torch.Tensor) -> Distribution:
        if self.log_std is None:
            return Categorical(logits=self.net(obs))
        return Independent(Normal(self.net(obs), self.log_std.exp()), 1)


class Critic(nn.Module):
    """obs [..., obs] -> values [...]; the network learns standardized returns, whatever their scale."""

    def __init__(self, standardize: Standardize, obs_dim: int):
        super().__init__()
        hidden = [nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
        self.net = nn.Sequential(standardize, *hidden, nn.Linear(64, 1))
        for layer, gain in zip(self.net[1::2], (2**0.5, 2**0.5, 1), strict=True):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.standardize_returns = Standardize()

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.net(obs).squeeze(-1) * self.standardize_returns.std + self.standardize_returns.mean

    def fit(self, optimizer: torch.optim.Optimizer, obs: torch.Tensor, returns: torch.Tensor, epochs: int):
        """Least squares on minibatches of 256: obs [n, obs], returns [n]."""
        scale, last = self.standardize_returns, self.net[-1]
        mean, std = scale.mean.clone(), scale.std.clone()
        scale.update(returns)
        with torch.no_grad():  # Pop-Art (van Hasselt et al. 2016): new moments change no value
            last.weight *= std / scale.std
            last.bias.copy_((std * last.bias + mean - scale.mean) / scale.std)
        targets = scale(returns)
        for _ in range(epochs):
            for idx in torch.randperm(len(obs), device=obs.device).split(256):
                loss = F.mse_loss(self.net(obs[idx]).squeeze(-1), targets[idx])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def rewards_to_go(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """Discounted sum of the rewards from each step on: [time, envs] -> [time, envs]."""
    returns, running = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        running = rewards[t] + gamma * running
        returns[t] = running
    return returns


def mean_of_others(returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean return of the other environments whose episodes have not ended: [time, envs] twice -> [time, envs].

    With its own return the gradient at t would be scaled by 1 - 1 / n, n episodes that have not ended.
    """
    returns = returns * mask
    return (returns.sum(1, keepdim=True) - returns) / (mask.sum(1, keepdim=True) - mask).clamp(min=1)


# --- the policy gradient ---------------------------------------------------------------------


def policy_gradient_step(policy: Policy, optimizer, obs, actions, advantages, num_episodes: int) -> dict:
    """A gradient step on log pi(a|s) times advantage, summed over steps, averaged over episodes: obs [n, obs],
    actions [n, ...], advantages [n] of all episodes' steps."""
    new = policy(obs)
    loss = -(new.log_prob(actions) * advantages).sum() / num_episodes
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"losses/policy_loss": loss.item(), "losses/entropy": new.entropy().mean().item()}


# --- environments ----------------------------------------------------------------------------


def make_envs(args: Args, num_envs: int, video_folder: Path | None = None) -> VectorEnv:
    """Environments that reset in the step that ends an episode; with a folder, videos of their first episodes."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)  # else it prints and writes MUJOCO_LOG.TXT
    gym.logger.min_level = gym.logger.ERROR  # no warning that Reacher means Reacher-v5
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # renders without a display
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
    continuous = isinstance(action_space, Box) and len(action_space.shape) == 1
    discrete = isinstance(action_space, Discrete) and action_space.start == 0
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1 or not (continuous or discrete):
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, and flat actions or discrete ones from 0")
    envs = gym.wrappers.vector.ClipAction(envs) if continuous else envs
    return gym.wrappers.vector.RecordEpisodeStatistics(envs)


@torch.no_grad()
def rollout(envs: VectorEnv, policy: Policy) -> tuple:
    """One whole episode of each environment: the batch, and the episodes.

    The batch: obs, actions, rewards, mask, as float tensors [time, envs, ...]; the mask is 0 after the episode's end.
    """
    obs, _ = envs.reset()
    steps, episodes, running = [], [], np.ones(envs.num_envs, bool)
    while running.any() and len(steps) < 10_000:  # some environments have no time limit
        actions = policy(torch.as_tensor(obs)).sample().cpu().numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        steps.append((obs, actions, rewards * running, running))
        ended = running & (terminations | truncations)
        if ended.any():
            episodes += zip(infos["episode"]["r"][ended], infos["episode"]["l"][ended], strict=True)  # return, length
        obs, running = next_obs, running & ~ended
    device = next(policy.parameters()).device
    batch = [torch.as_tensor(np.stack(x), dtype=torch.float32, device=device) for x in zip(*steps, strict=True)]
    return batch, episodes


@torch.no_grad()
def evaluate(envs: VectorEnv, policy: Policy, seeds: np.ndarray) -> np.ndarray:
    """Returns [envs] of one episode of deterministic (mode) actions in each environment."""
    obs, _ = envs.reset(seed=seeds.tolist())
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    for _ in range(10_000):  # some environments have no time limit
        obs, rewards, terminations, truncations, _ = envs.step(policy(torch.as_tensor(obs)).mode.cpu().numpy())
        returns += rewards * running
        running &= ~(terminations | truncations)
        if not running.any():
            break
    return returns


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv, and the evaluation."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(False)  # NaN is reported by Run.log
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    envs = make_envs(args, args.num_envs)
    obs_dim = envs.single_observation_space.shape[0]
    standardize = Standardize(obs_dim)
    policy = Policy(standardize, obs_dim, envs.single_action_space, args.log_std_init).to(device)
    critic = Critic(standardize, obs_dim).to(device)
    policy_optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0
    envs.reset(seed=rng.integers(2**31, size=args.num_envs).tolist())
    last_returns = deque(maxlen=100)

    with tqdm(total=args.total_timesteps, unit="step", disable=None) as bar:
        while global_step < args.total_timesteps:
            try:
                (obs, actions, rewards, mask), episodes = rollout(envs, policy)
            except Exception as error:  # an environment may raise anything
                raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
            returns = rewards_to_go(rewards, args.gamma)
            mean = mean_of_others(returns, mask)
            if args.credit == "return":
                returns, mean = returns[:1].expand_as(returns), mean[:1].expand_as(mean)
            with torch.no_grad():
                values = critic(obs)
            baselines = {"none": torch.zeros_like(returns), "mean": mean, "value": values}
            advantages = returns - baselines[args.baseline]
            obs, actions, returns, advantages = (x[mask.bool()] for x in (obs, actions, returns, advantages))
            losses = policy_gradient_step(policy, policy_optimizer, obs, actions, advantages, args.num_envs)
            critic.fit(critic_optimizer, obs, returns, epochs=10)
            standardize.update(obs)

            global_step += len(obs)
            last_returns.extend(episode[0] for episode in episodes)
            row = {
                "global_step": global_step,
                "charts/episodic_return": np.mean([r for r, _ in episodes]) if episodes else None,
                "charts/episodic_return_100": np.mean(last_returns) if last_returns else None,
                "charts/episodic_length": np.mean([length for _, length in episodes]) if episodes else None,
                "charts/SPS": global_step / (time.perf_counter() - start),
                **losses,
            }
            run.log(row)
            bar.update(len(obs))
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

    torch.save({"policy": policy.cpu().state_dict(), "critic": critic.cpu().state_dict()}, run.dir / "model.pt")
    save_curve(run, "charts/episodic_return_100")
    seeds = rng.integers(2**31, size=100)
    returns = evaluate(make_envs(args, 100), policy, seeds)
    if args.capture_video:
        evaluate(make_envs(args, 1, run.dir / "videos"), policy, seeds[:1])
    run.close("curve.png")
    print(f"return {returns.mean():.1f} +- {returns.std():.1f} (100 episodes, deterministic actions): {run.dir}")
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
