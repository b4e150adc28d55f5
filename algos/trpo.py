# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control,mujoco]>=1.4", "matplotlib", "moviepy", "numpy", "pydantic>=2.6",
#                 "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Trust region policy optimization (TRPO): the longest natural-gradient step within a bound on the KL divergence.

    python algos/trpo.py --env-id Reacher --gamma 0.95
    python algos/trpo.py --env-id Hopper --total-timesteps 1000000

The surrogate objective, the mean of probability ratio times advantage, agrees with the expected return only to first
order at the old policy, so TRPO maximizes it under a bound on the mean KL divergence. Conjugate gradient with
Fisher-vector products gives the step's direction, the natural gradient; the quadratic model of the KL gives its length;
a backtracking line search checks surrogate and KL themselves on the sampled states.

Schulman et al. 2015, "Trust region policy optimization" (arXiv 1502.05477): equation 14, appendix C.
Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation" (arXiv 1506.02438):
equations 11 and 16.

Differences from the papers
1. The critic is fitted by Adam, on standardized returns (Pop-Art). Observations are standardized by running moments.
2. A truncated episode bootstraps from the value of its last observation; episodes continue across batches.
3. Advantages are standardized, and the KL bound shrinks when their standard deviation is below --advantage-floor times
   that of the returns: once a task is solved, advantages are mostly the critic's error, and standardized they would
   still cause steps of full length. The KL is quadratic in the step, so a step's length shrinks in proportion. Then
   the observations' moments stand still: those of a balanced pole shrink, and would drive the policy ever harder.
"""

import csv
import json
import math
import os
import re
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.utils import RunningMeanStd
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.autograd import grad
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters
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

    env_id: str = "Reacher-v5"
    """Gymnasium environment with flat observations; without a version, the newest"""
    total_timesteps: PositiveInt = 500_000
    """environment steps"""
    num_envs: Annotated[int, Field(ge=1, le=4096)] = 16
    """environments, stepped together"""
    num_steps: Annotated[int, Field(ge=1, le=100_000)] = 128
    """steps of each environment per update"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """discount factor"""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """lambda of generalized advantage estimation"""
    log_std_init: Annotated[float, Field(ge=-5, le=5)] = -1.0
    """initial log standard deviation of continuous actions"""
    value_learning_rate: PositiveFloat = 3e-3
    """Adam's learning rate for the critic"""
    value_epochs: PositiveInt = 10
    """passes of the critic over a batch"""
    max_kl: PositiveFloat = 0.02
    """trust region: bound on the mean KL divergence of an update, in nats"""
    cg_iterations: PositiveInt = 10
    """iterations of conjugate gradient"""
    cg_damping: NonNegativeFloat = 0.1
    """multiple of the identity added to the Fisher matrix"""
    advantage_floor: NonNegativeFloat = 0.01
    """noise floor of the advantages, in standard deviations of the returns; below it the KL bound shrinks"""


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
        # orthogonal, but for the first layer, which many observations would saturate; at first hardly dependent on obs
        for layer, gain in zip(self.net[3::2], (2**0.5, 0.01), strict=True):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, obs: torch.Tensor) -> Distribution:
        if self.log_std is None:
            logits = self.net(obs)  # no probability of 0, for which kl_divergence would be infinite
            return Categorical(logits=logits.clamp(min=logits.amax(-1, keepdim=True) - 80))
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


def gae(rewards, values, next_values, terminations, dones, gamma: float, gae_lambda: float) -> torch.Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16): five tensors [time, envs] -> [time, envs].

    next_values are of the observations before any reset, so a truncated episode is bootstrapped, a terminated one not.
    """
    delta = rewards + gamma * next_values * (1 - terminations) - values  # equation 11
    advantages, running = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + gamma * gae_lambda * (1 - dones[t]) * running
        advantages[t] = running
    return advantages


# --- the trust region ------------------------------------------------------------------------


def conjugate_gradient(product, b: torch.Tensor, iterations: int) -> torch.Tensor:
    """Approximate solution x of A x = b, with A given as the function v -> A v: b [d] -> x [d]."""
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    rr = residual @ residual
    for _ in range(iterations):
        if rr < 1e-10:
            break
        a_direction = product(direction)
        alpha = rr / (direction @ a_direction)
        x += alpha * direction
        residual -= alpha * a_direction
        rr_old, rr = rr, residual @ residual
        direction = residual + rr / rr_old * direction
    return x


def trpo_step(policy: Policy, obs, actions, advantages, max_kl: torch.Tensor, args: Args) -> dict:
    """Maximize the surrogate within the KL bound: obs [n, obs], actions [n, ...], advantages [n]. Returns losses/*."""
    parameters = list(policy.parameters())
    theta = parameters_to_vector(parameters).detach()
    with torch.no_grad():
        old = policy(obs)
        old_log_probs = old.log_prob(actions)

    def surrogate() -> torch.Tensor:  # equation 14
        return ((policy(obs).log_prob(actions) - old_log_probs).exp() * advantages).mean()

    def mean_kl() -> torch.Tensor:  # it and its gradient are 0 at the old policy, its Hessian is the Fisher matrix F
        return kl_divergence(old, policy(obs)).mean()

    gradient = parameters_to_vector(grad(surrogate(), parameters))
    kl_gradient = parameters_to_vector(grad(mean_kl(), parameters, create_graph=True))

    def fisher_vector_product(v: torch.Tensor) -> torch.Tensor:
        return parameters_to_vector(grad(kl_gradient @ v, parameters, retain_graph=True)) + args.cg_damping * v

    direction = conjugate_gradient(fisher_vector_product, gradient, args.cg_iterations)  # (F + damping I)^-1 g, nearly
    curvature = (direction @ fisher_vector_product(direction)).clamp(min=1e-12)
    full_step = (2 * max_kl / curvature).sqrt() * direction  # appendix C: d^T (F + damping I) d / 2 = max_kl

    with torch.no_grad():
        for fraction in 0.9 ** np.arange(20):  # the full step's true KL often exceeds the bound slightly
            vector_to_parameters(theta + fraction * full_step, parameters)
            kl, gain = mean_kl(), surrogate() - advantages.mean()
            if kl <= max_kl and gain > 0:
                break
        else:
            vector_to_parameters(theta, parameters)
            fraction, kl, gain = 0.0, 0.0, 0.0
    return {
        "losses/surrogate_gain": float(gain),
        "losses/kl": float(kl),
        "losses/step_fraction": float(fraction),
        "losses/entropy": old.entropy().mean().item(),
    }


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
def rollout(envs: VectorEnv, obs: np.ndarray, policy: Policy, num_steps: int) -> tuple:
    """Step each environment num_steps times, from obs: the current obs, the batch, and the episodes that ended.

    The batch: obs, actions, rewards, next obs, terminations, dones, as float tensors [num_steps, envs, ...].
    """
    steps, episodes = [], []
    for _ in range(num_steps):
        actions = policy(torch.as_tensor(obs)).sample().cpu().numpy()
        reset_obs, rewards, terminations, truncations, infos = envs.step(actions)
        next_obs, dones = reset_obs.copy(), terminations | truncations
        if dones.any():  # reset_obs is the first of a new episode there
            next_obs[dones] = np.stack(infos["final_obs"][dones])
            episodes += zip(infos["episode"]["r"][dones], infos["episode"]["l"][dones], strict=True)  # return, length
        steps.append((obs, actions, rewards, next_obs, terminations, dones))
        obs = reset_obs
    device = next(policy.parameters()).device
    batch = [torch.as_tensor(np.stack(x), dtype=torch.float32, device=device) for x in zip(*steps, strict=True)]
    return obs, batch, episodes


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
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.value_learning_rate)
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0
    current_obs, _ = envs.reset(seed=rng.integers(2**31, size=args.num_envs).tolist())

    with tqdm(total=args.total_timesteps, unit="step", disable=None) as bar:
        while global_step < args.total_timesteps:
            try:
                current_obs, batch, episodes = rollout(envs, current_obs, policy, args.num_steps)
            except Exception as error:  # an environment may raise anything
                raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
            obs, actions, rewards, next_obs, terminations, dones = batch
            with torch.no_grad():
                values, next_values = critic(obs), critic(next_obs)
            advantages = gae(rewards, values, next_values, terminations, dones, args.gamma, args.gae_lambda)
            obs, actions, values, advantages = (x.flatten(0, 1) for x in (obs, actions, values, advantages))
            returns = values + advantages
            std, mean = torch.std_mean(advantages, correction=0)
            floor = args.advantage_floor * critic.standardize_returns.std
            kl_scale = (std / (floor + 1e-8)).square().clamp(max=1)
            losses = trpo_step(policy, obs, actions, (advantages - mean) / (std + 1e-8), kl_scale * args.max_kl, args)
            critic.fit(critic_optimizer, obs, returns, args.value_epochs)
            if kl_scale == 1:  # moments change the policy as well, and no KL bound limits that
                standardize.update(obs)

            global_step += len(obs)
            row = {
                "global_step": global_step,
                "charts/episodic_return": np.mean([r for r, _ in episodes]) if episodes else None,
                "charts/episodic_return_100": np.mean(envs.return_queue) if envs.return_queue else None,
                "charts/episodic_length": np.mean([length for _, length in episodes]) if episodes else None,
                "charts/SPS": global_step / (time.perf_counter() - start),
                **losses,
                "losses/kl_scale": kl_scale.item(),
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
