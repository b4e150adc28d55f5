# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[classic-control,mujoco]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "torch>=2.4",
#                 "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""TRPO with parallel actors and adaptive batch sizes and KL bounds: trpo.py for several cores and machines.

    torchrun --nproc-per-node 2 algos/trpo_parallel.py --env-id Reacher-v5 --gamma 0.95
    python algos/trpo_parallel.py --env-id HalfCheetah-v5 --num-envs 10 --num-steps 100 --max-kl 0.001 --adapt both

Every process that torchrun starts steps its share of the environments with a frozen numpy copy of the policy; the
first one also learns. They communicate once per batch, and each environment has its own random numbers, so the curve is
the same for any number of processes. --adapt changes the steps per update and the KL bound with the progress of the
mean return. --value linear is the post's value function: ridge regression on observation and time (LinearValue).

Frans 2016 (kvfrans.com), "Speeding up TRPO through parallelization and parameter adaptation" (the post).
Schulman et al. 2015, "Trust region policy optimization" (arXiv 1502.05477): equation 14, appendix C.
Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation" (arXiv 1506.02438):
equations 11 and 16. Duan et al. 2016 (arXiv 1604.06778): the linear value function; their code, rllab, has t^3, too.

Differences from the post: every environment makes the same number of steps in a batch and continues in the next one,
and the old policy is restored when no step passes the line search. Differences from trpo.py: the Fisher matrix is
averaged over a tenth of the states (appendix C), and there is no --capture-video.
"""

import csv
import json
import math
import os
import re
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from gymnasium.spaces import Box, Discrete
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
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: str = "Reacher-v5"
    """Gymnasium environment with flat observations; without a version, the newest"""
    total_timesteps: PositiveInt = 500_000
    """environment steps"""
    num_envs: Annotated[int, Field(ge=1, le=4096)] = 16
    """environments, over all processes"""
    num_steps: Annotated[int, Field(ge=1, le=100_000)] = 128
    """steps of each environment per update"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """discount factor"""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """lambda of generalized advantage estimation"""
    log_std_init: Annotated[float, Field(ge=-5, le=5)] = -1.0
    """initial log standard deviation of continuous actions"""
    value: Literal["network", "linear"] = "network"
    """value function: trpo.py's critic, or the post's linear one"""
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
    adapt: Literal["none", "steps", "kl", "both"] = "none"
    """what to adapt to the progress of the mean return: steps per update, the KL bound"""
    adapt_margin: NonNegativeFloat = 0.0
    """relative improvement that counts as progress; unless it is 0, batches grow to 10,000 steps, not to 20,000"""


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


class LinearValue(nn.Module):
    """Ridge regression of Monte-Carlo returns on o, o^2, t/100, (t/100)^2, 1: observation o, step t of the episode."""

    def __init__(self, obs_dim: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(2 * obs_dim + 3, dtype=torch.float64))
        self.standardize_returns = Standardize()  # its std alone is used: the noise floor of the advantages

    def features(self, obs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """obs [..., obs], steps since the start of the episode [...] -> [..., 2 obs + 3]."""
        obs, t = obs.double(), times.double().unsqueeze(-1) / 100
        return torch.cat([obs, obs**2, t, t**2, torch.ones_like(t)], dim=-1)

    def forward(self, obs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return (self.features(obs, times) @ self.weights).to(obs.dtype)

    def fit(self, obs: torch.Tensor, times: torch.Tensor, returns: torch.Tensor):
        self.standardize_returns.update(returns)
        x = self.features(obs, times)
        gram = x.T @ x + 2 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        self.weights.copy_(torch.linalg.solve(gram, x.T @ returns.double()))


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
    fisher_obs = obs[torch.randperm(len(obs), device=obs.device)[: math.ceil(len(obs) / 10)]]
    with torch.no_grad():
        old, old_fisher = policy(obs), policy(fisher_obs)
        old_log_probs = old.log_prob(actions)

    def surrogate() -> torch.Tensor:  # equation 14
        return ((policy(obs).log_prob(actions) - old_log_probs).exp() * advantages).mean()

    def mean_kl(old, obs) -> torch.Tensor:  # it and its gradient are 0 at the old policy, its Hessian is F
        return kl_divergence(old, policy(obs)).mean()

    gradient = parameters_to_vector(grad(surrogate(), parameters))
    kl_gradient = parameters_to_vector(grad(mean_kl(old_fisher, fisher_obs), parameters, create_graph=True))

    def fisher_vector_product(v: torch.Tensor) -> torch.Tensor:
        return parameters_to_vector(grad(kl_gradient @ v, parameters, retain_graph=True)) + args.cg_damping * v

    direction = conjugate_gradient(fisher_vector_product, gradient, args.cg_iterations)  # (F + damping I)^-1 g, nearly
    curvature = (direction @ fisher_vector_product(direction)).clamp(min=1e-12)
    full_step = (2 * max_kl / curvature).sqrt() * direction  # appendix C: d^T (F + damping I) d / 2 = max_kl

    with torch.no_grad():
        for fraction in 0.9 ** np.arange(20):  # the full step's true KL often exceeds the bound slightly
            vector_to_parameters(theta + fraction * full_step, parameters)
            kl, gain = mean_kl(old, obs), surrogate() - advantages.mean()
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


def adapt(before: float, now: float, steps: int, max_kl: float, args: Args) -> tuple[int, float]:
    """The rule of the post's code: where returns improve, smaller batches and a larger KL bound, else the reverse.

    before, now: mean return of the last two windows of 10 updates. Returns the new steps per update and KL bound.
    """
    improving = now > before + args.adapt_margin * abs(before)
    if args.adapt in ("steps", "both"):
        if improving and steps > 1200:
            steps -= 300
        elif not improving and steps < (10_000 if args.adapt_margin else 20_000):
            steps += 300
    if args.adapt in ("kl", "both"):
        if improving and max_kl < 0.01:
            max_kl += 0.0005
        elif not improving and max_kl > 0.001:
            max_kl -= 0.0005
    return steps, max_kl


# --- actors ----------------------------------------------------------------------------------


def freeze(policy: Policy) -> dict:
    """The policy as numpy arrays: for a handful of observations several times faster than torch."""
    standardize, *layers = policy.net
    return {
        "obs_mean": standardize.mean.numpy(force=True),
        "obs_std": standardize.std.numpy(force=True),
        "layers": [(m.weight.T.numpy(force=True), m.bias.numpy(force=True)) for m in layers[::2]],
        "std": None if policy.log_std is None else policy.log_std.exp().numpy(force=True),
    }


def act(frozen: dict, obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """obs [n, obs] -> actions [n] or [n, actions]; noise [n, outputs] is Gaussian or Gumbel, 0 gives the mode."""
    x = ((obs - frozen["obs_mean"]) / frozen["obs_std"]).clip(-10, 10)
    x = x[:, None]  # [n, 1, obs]: each row is a product of its own, whose digits do not depend on n
    for weights, bias in frozen["layers"][:-1]:
        x = np.tanh(x @ weights + bias)
    weights, bias = frozen["layers"][-1]
    outputs = (x @ weights + bias)[:, 0]
    return (outputs + noise).argmax(axis=1) if frozen["std"] is None else outputs + frozen["std"] * noise


class Actor:
    """This process's share of the environments."""

    def __init__(self, args: Args, rank: int, world: int):
        share = np.array_split(range(args.num_envs), world)[rank]
        self.envs, self.rngs = [make_env(args) for _ in share], [np.random.default_rng([args.seed, i]) for i in share]
        self.space = self.envs[0].action_space
        self.obs = np.zeros((len(share), *self.envs[0].observation_space.shape), np.float32)
        self.returns, self.lengths = np.zeros(len(share)), np.zeros(len(share), int)
        for i, rng in enumerate(self.rngs):
            self.reset(i, int(rng.integers(2**31)))

    def reset(self, i: int, seed: int | None = None):
        self.obs[i], _ = self.envs[i].reset(seed=seed)
        self.returns[i] = self.lengths[i] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """One step of each environment: rewards, terminations, dones [n]."""
        if isinstance(self.space, Box):
            actions = actions.clip(self.space.low, self.space.high)
        else:
            actions = actions + self.space.start
        rewards, terminations, dones = np.zeros(len(self.envs)), np.zeros(len(self.envs)), np.zeros(len(self.envs))
        for i, env in enumerate(self.envs):
            self.obs[i], rewards[i], terminations[i], truncated, _ = env.step(actions[i])
            dones[i] = terminations[i] or truncated
        self.returns += rewards
        self.lengths += 1
        return rewards, terminations, dones

    def rollout(self, frozen: dict, num_steps: int) -> tuple[list[np.ndarray], list]:
        """The batch, arrays [num_steps, n, ...], and the episodes that ended: (step, return, length).

        The batch: obs, actions, rewards, next obs, terminations, dones, steps since the start of the episode.
        """
        shape = (num_steps, len(frozen["layers"][-1][1]))
        draw = np.random.Generator.gumbel if frozen["std"] is None else np.random.Generator.standard_normal
        noise = np.stack([draw(rng, size=shape).astype(np.float32) for rng in self.rngs], axis=1)
        steps, episodes = [], []
        for t in range(num_steps):
            obs, times = self.obs.copy(), self.lengths.copy()
            actions = act(frozen, obs, noise[t])
            rewards, terminations, dones = self.step(actions)
            steps.append((obs, actions, rewards, self.obs.copy(), terminations, dones, times))
            for i in dones.nonzero()[0]:
                episodes.append((t, self.returns[i], self.lengths[i]))
                self.reset(i)
        return [np.stack(x).astype(np.float32) for x in zip(*steps, strict=True)], episodes

    def evaluate(self, frozen: dict, num_episodes: int) -> list[float]:
        """Returns of num_episodes episodes of deterministic (mode) actions in each environment."""
        returns = [[] for _ in self.envs]
        for i in range(len(self.envs)):
            self.reset(i)
        while min(map(len, returns)) < num_episodes:
            _, _, dones = self.step(act(frozen, self.obs, 0))
            for i in dones.nonzero()[0]:
                returns[i].append(self.returns[i])
                self.reset(i)
        return [x for env_returns in returns for x in env_returns[:num_episodes]]


def broadcast(x):
    """x of the first process."""
    box = [x]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


def gather(x) -> list | None:
    """In the first process the x of every process, by rank; None in the others."""
    if not dist.is_initialized():
        return [x]
    everyone = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(x, everyone)
    return everyone


# --- training --------------------------------------------------------------------------------


def make_env(args: Args) -> gym.Env:
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)  # else it prints and writes MUJOCO_LOG.TXT
    gym.logger.min_level = gym.logger.ERROR  # no warning that Reacher means Reacher-v5
    try:
        env = gym.make(args.env_id, disable_env_checker=True)
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
    obs_space, action_space = env.observation_space, env.action_space
    flat = [isinstance(space, Box) and len(space.shape) == 1 for space in (obs_space, action_space)]
    if not flat[0] or not (flat[1] or isinstance(action_space, Discrete)):
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, and flat actions or discrete ones")
    return env if env.spec.max_episode_steps else gym.wrappers.TimeLimit(env, 10_000)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv, and the evaluation."""
    linear = args.value == "linear"
    networks = ("gae_lambda", "value_learning_rate", "value_epochs")
    if linear and any(getattr(args, name) != getattr(Args, name) for name in networks):
        raise UsageError("--value linear has no --gae-lambda, --value-learning-rate or --value-epochs")
    if args.adapt == "none" and args.adapt_margin:
        raise UsageError("--adapt-margin: give --adapt steps, kl or both as well")
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    if args.num_envs < world:
        raise UsageError(f"--num-envs {args.num_envs}: every process needs an environment")
    actor = Actor(args, rank, world)
    obs_dim, batch_steps, max_kl = actor.obs.shape[1], args.num_envs * args.num_steps, args.max_kl
    fewest_steps = min(batch_steps, 900) if args.adapt in ("steps", "both") else batch_steps
    if linear and fewest_steps < args.num_envs * (actor.envs[0].spec.max_episode_steps or 10_000):
        raise UsageError("--value linear: --num-envs times --num-steps must hold an episode of every environment")
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    Distribution.set_default_validate_args(False)  # NaN is reported by Run.log
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() and rank == 0 else "cpu")
    standardize = Standardize(obs_dim)
    policy = Policy(standardize, obs_dim, actor.space, args.log_std_init).to(device)
    critic = (LinearValue(obs_dim) if linear else Critic(standardize, obs_dim)).to(device)
    critic_optimizer = None if linear else torch.optim.Adam(critic.parameters(), lr=args.value_learning_rate)
    if world > 1:
        dist.init_process_group("gloo")
    run = Run(args, args.env_id) if rank == 0 else None
    start, global_step = time.perf_counter(), 0
    last_returns, window, before = deque(maxlen=100), [], None

    with tqdm(total=args.total_timesteps, unit="step", disable=True if rank else None) as bar:
        while global_step < args.total_timesteps:
            update_start = time.perf_counter()
            frozen, num_steps = broadcast((freeze(policy), math.ceil(batch_steps / args.num_envs)))
            try:
                results = gather(actor.rollout(frozen, num_steps))
            except Exception as error:  # an environment may raise anything
                raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
            global_step += num_steps * args.num_envs
            if rank > 0:
                continue  # the first process learns
            rollout_time = time.perf_counter() - update_start
            arrays = zip(*(batch for batch, _ in results), strict=True)
            batch = [torch.as_tensor(np.concatenate(x, axis=1), device=device) for x in arrays]
            obs, actions, rewards, next_obs, terminations, dones, times = batch
            episodes = [episode for _, ended in results for episode in ended]
            episodes.sort(key=lambda episode: episode[0])  # by step, then by environment

            with torch.no_grad():
                if linear:  # Monte-Carlo returns of the episodes that have ended
                    zero, valid = torch.zeros_like(rewards), dones.flip(0).cummax(0).values.flip(0) > 0
                    values = critic(obs, times)
                    advantages = gae(rewards, zero, zero, dones, dones, args.gamma, 1.0) - values
                else:
                    values, next_values, valid = critic(obs), critic(next_obs), torch.ones_like(dones) > 0
                    advantages = gae(rewards, values, next_values, terminations, dones, args.gamma, args.gae_lambda)
            obs, actions, values, advantages, times = (x[valid] for x in (obs, actions, values, advantages, times))
            returns = values + advantages
            std, mean = torch.std_mean(advantages, correction=0)
            floor = args.advantage_floor * critic.standardize_returns.std
            kl_scale = (std / (floor + 1e-8)).square().clamp(max=1)
            losses = trpo_step(policy, obs, actions, (advantages - mean) / (std + 1e-8), kl_scale * max_kl, args)
            if linear:
                critic.fit(obs, times, returns)
            else:
                critic.fit(critic_optimizer, obs, returns, args.value_epochs)
            if kl_scale == 1:  # moments change the policy as well, and no KL bound limits that
                standardize.update(obs)

            last_returns.extend(x[1] for x in episodes)
            row = {
                "global_step": global_step,
                "charts/episodic_return": np.mean([x[1] for x in episodes]) if episodes else None,
                "charts/episodic_return_100": np.mean(last_returns) if last_returns else None,
                "charts/episodic_length": np.mean([x[2] for x in episodes]) if episodes else None,
                "charts/SPS": global_step / (time.perf_counter() - start),
                "charts/steps_per_update": num_steps * args.num_envs,
                "charts/max_kl": max_kl,
                **losses,
                "losses/kl_scale": kl_scale.item(),
                "time/rollout": rollout_time,
                "time/learn": time.perf_counter() - update_start - rollout_time,
            }
            run.log(row)
            if episodes:
                window.append(row["charts/episodic_return"])
            if len(run.rows) % 10 == 0 and window:
                now = np.mean(window)
                if before is not None:
                    batch_steps, max_kl = adapt(before, now, batch_steps, max_kl, args)
                window, before = [], now
            bar.update(num_steps * args.num_envs)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

    results = gather(actor.evaluate(broadcast(freeze(policy)), math.ceil(100 / args.num_envs)))
    if world > 1:
        dist.destroy_process_group()
    if rank > 0:
        return {}
    returns = np.concatenate(results)
    torch.save({"policy": policy.cpu().state_dict(), "critic": critic.cpu().state_dict()}, run.dir / "model.pt")
    save_curve(run, "charts/episodic_return_100")
    run.close("curve.png")
    result = f"return {returns.mean():.1f} +- {returns.std():.1f} ({len(returns)} episodes, deterministic actions)"
    print(f"{result}: {run.dir}")
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
