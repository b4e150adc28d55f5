# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control,mujoco]>=1.1",
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
"""Trust region policy optimization: the largest step that keeps the new policy close to the old one.

    python algos/trpo.py --env-id Reacher
    python algos/trpo.py --env-id HalfCheetah --num-envs 10 --group-size 5 --adapt both
    torchrun --nproc-per-node 2 algos/trpo.py --env-id Hopper --num-actors 1

A policy gradient says which way to change the parameters, but not how far: the same step can leave the policy as it
was or wreck it. TRPO measures the step in what matters, the KL divergence between the old and the new policy. It turns
the gradient into the natural gradient (the Fisher matrix is the curvature of the KL), takes the step that reaches the
bound, and checks it with a line search. Actors in parallel processes gather each batch with the same frozen policy, so
the curve is the same for any number of them.

Expect a mean return of -5 on Reacher-v5 after 100,000 to 140,000 steps (5 seeds), in 4 to 7 s on two CPU cores, and
-3.8 after a million steps, in two minutes on one (a slow machine takes three times as long); on HalfCheetah-v5 4,700 to
5,800 after a million steps (5 seeds). InvertedPendulum-v5 ends at its 1,000 (5 seeds), which it reaches after 120,000
to 140,000 steps, once after 730,000.

Papers
    Schulman et al. 2015, "Trust region policy optimization" (arXiv 1502.05477): equation 14, appendix C.
    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation"
    (arXiv 1506.02438): equations 10 and 16.
    Kevin Frans 2016, "Speeding up TRPO through parallelization and parameter adaptation" (the post): the parallel
    actors, --adapt, --value linear; Duan et al. 2016 (arXiv 1604.06778) describe the linear baseline.

Differences from the paper and the post
    1. The networks have two tanh layers of 64 units; observations are normalized by running moments and clipped at 10.
    2. The value function is a network and advantages are GAE's; the post's Monte-Carlo returns minus a linear baseline
       are --value linear. Its episodes end at the time limit, which its time features know; the network does not know
       the time and bootstraps there.
    3. The first log standard deviation is -1, not 0, and actions are clipped to the space: actions in [-1, 1] need no
       wider search, and Reacher's control cost of wide actions hides the task for the first half million steps.
    4. The post took the full step even when the line search had failed; here the old parameters come back, bit for bit.
    5. The post let an actor run whole episodes; here each environment makes the same number of steps per batch and goes
       on from there in the next. A return is known when its episode ends, maybe in a later batch.
    6. Where --gamma is not given it is 0.99, and 0.95 on Reacher: its reward is dense and its reach takes ten steps, so
       a longer horizon adds noise only (half the steps to a return of -5). Swimmer's stroke pays late instead: give it
       --gamma 0.9999 --value-epochs 15 --max-kl 0.01 --log-std-init 0. Walker2d's gait takes a wider search in smaller
       steps: with the same, but for gamma, its most likely actions end at 3,690 and not at 2,560 (5 seeds, 1M).
       Ant observes a hundred numbers, and a Fisher matrix averaged over 205 states is blind to most directions, along
       which the natural gradient then goes too far: --cg-damping 3 holds it back (2,180 and not 1,020 in training after
       1M, 5 and 2 seeds), and so does --fisher-stride 1, which averages over all 2,048 (1,850, 2 seeds).
    7. The KL bound shrinks when the advantages fall below what the value function can resolve (see trust). Without,
       InvertedPendulum was solved after 135,000 steps at the latest, and lost again by 1M (3 of 3 seeds).
"""

import csv
import importlib.util
import json
import math
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.spaces import Box, Discrete
from torch import nn
from tqdm import tqdm

OBS_CLIP = 10.0  # in standard deviations
RESOLUTION = 0.01  # how exact the value function is, as a share of the returns' standard deviation (see trust)
CPU = torch.device("cpu")


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds networks, actions, episodes and minibatches; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 1
    """threads of the learner, 0 for one per core. They decide a curve's last bits; with these small networks more than
    one gain a tenth of the time on idle cores, and lose a multiple of it on busy ones"""
    cuda: bool = False
    """learn on a GPU if there is one; acting stays on the CPU"""
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
    """score the policy of the run in this folder over 100 episodes: no other flag may stand beside"""

    env_id: str = "Reacher-v5"
    """Gymnasium environment with flat observations; without a version, the newest"""
    total_timesteps: int = 1_000_000
    """environment steps to train for; the update that reaches it is finished"""
    num_envs: int = 16
    """environments, over all processes"""
    num_steps: int = 128
    """steps of each environment per update: num_envs x num_steps are the post's timesteps per batch"""
    group_size: int = 8
    """environments that share every forward pass: the unit of work, an actor takes whole groups"""
    num_actors: int = 0
    """processes that gather, the learner among them; 0 for one per core. Does not change the curve"""
    gamma: float | None = None
    """discount per step, in (0, 1]; not given: 0.95 on Reacher, 0.99 elsewhere"""
    gae_lambda: float = 0.95
    """weight of long returns in the advantage, in [0, 1]"""
    max_kl: float = 0.03
    """trust region: the bound delta on the mean KL divergence of one update, in nats"""
    log_std_init: float = -1.0
    """first log standard deviation of continuous actions"""
    cg_iterations: int = 10
    """conjugate gradient iterations"""
    cg_damping: float = 0.1
    """multiple of the identity added to the Fisher matrix; larger where it is an average over too few states"""
    fisher_stride: int = 10
    """average the Fisher matrix over every n-th time step only (appendix C of Schulman et al. 2015: a tenth)"""
    line_search: bool = True
    """shrink the step until the KL bound holds and the surrogate improves; without: the natural policy gradient"""
    value: Literal["network", "linear"] = "network"
    """value function: a network, or the post's ridge regression on each batch"""
    learning_rate: float = 3e-3
    """Adam step of the value network"""
    value_epochs: int = 5
    """passes of the value network over a batch"""
    value_minibatch: int = 256
    """samples per gradient step of the value network"""
    checkpoint_every: int = 50
    """updates between checkpoints; all environments start over at each, so that --resume repeats the run exactly"""

    adapt: Literal["none", "steps", "kl", "both"] = "none"
    """what to adapt to the progress made"""
    adapt_margin: float = 0.05
    """share by which the mean return must have risen to count as progress"""
    adapt_window: int = 10
    """updates whose returns are compared with those of as many before"""
    adapt_steps: int = 300
    """change of the steps per update"""
    adapt_min_steps: int = 1200
    """fewer steps per update only while above this"""
    adapt_max_steps: int = 10_000
    """more steps per update only while below this (the post: 10,000 with a margin, 20,000 without)"""
    adapt_kl: float = 0.0005
    """change of the KL bound, in nats"""
    adapt_min_kl: float = 0.001
    """a smaller KL bound only while above this"""
    adapt_max_kl: float = 0.01
    """a larger KL bound only while below this"""

    def __post_init__(self):
        least_one = ["total_timesteps", "num_envs", "num_steps", "group_size", "cg_iterations", "fisher_stride"]
        least_one += ["value_epochs", "value_minibatch", "checkpoint_every", "adapt_window", "adapt_steps"]
        for name in [*least_one, "adapt_min_steps", "adapt_max_steps"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["max_kl", "learning_rate", "adapt_kl", "adapt_min_kl", "adapt_max_kl"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if self.num_envs % self.group_size:
            raise UsageError(f"--num-envs {self.num_envs} must be a multiple of --group-size {self.group_size}")
        if self.fisher_stride > self.num_steps:
            raise UsageError(f"--fisher-stride {self.fisher_stride} must not exceed --num-steps {self.num_steps}")
        if self.adapt_min_steps <= self.adapt_steps or self.adapt_min_kl <= self.adapt_kl:
            raise UsageError("--adapt-steps and --adapt-kl must stay below --adapt-min-steps and --adapt-min-kl")
        if not (self.gamma is None or 0 < self.gamma <= 1) or not 0 <= self.gae_lambda <= 1:
            raise UsageError("--gamma must lie in (0, 1] and --gae-lambda in [0, 1]")
        if min(self.seed, self.num_actors, self.torch_threads) < 0:
            raise UsageError("--seed, --num-actors and --torch-threads must not be negative")
        if (
            not 0 <= self.cg_damping < math.inf
            or not 0 <= self.adapt_margin < math.inf
            or not abs(self.log_std_init) < 20
        ):
            raise UsageError("--cg-damping and --adapt-margin must not be negative, --log-std-init within 20 of 0")


# --- the policy and the value function -------------------------------------------------------


def mlp(sizes: list[int], last_std: float, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with tanh between them; orthogonal weights, the last layer's scaled by last_std."""
    layers = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
        last = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_std if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class GaussianPolicy(nn.Module):
    """Diagonal Gaussian whose mean a network gives and whose log standard deviation is the same in every state.

    forward: obs [n, obs] -> distribution parameters [n, 2 * actions], the means and then the log standard deviations.
    """

    def __init__(self, obs_dim: int, action_dim: int, log_std_init: float, generator: torch.Generator):
        super().__init__()
        self.net = mlp([obs_dim, 64, 64, action_dim], 0.01, generator)
        self.log_std = nn.Parameter(torch.full((action_dim,), float(log_std_init)))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        mean = self.net(obs)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)

    @staticmethod
    def log_prob(params: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a|s): params [n, 2 * actions], actions [n, actions] -> [n]."""
        mean, log_std = params.chunk(2, dim=1)
        return (-0.5 * ((actions - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=1)

    @staticmethod
    def kl(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """KL(old || new) in nats: [n, 2 * actions] twice -> [n]."""
        (mean0, log_std0), (mean1, log_std1) = old.chunk(2, dim=1), new.chunk(2, dim=1)
        ratio = (2 * (log_std0 - log_std1)).exp()
        return (log_std1 - log_std0 + 0.5 * (ratio + ((mean0 - mean1) / log_std1.exp()) ** 2 - 1)).sum(dim=1)

    @staticmethod
    def entropy(params: torch.Tensor) -> torch.Tensor:
        """Differential entropy in nats: [n, 2 * actions] -> [n]."""
        return (params.chunk(2, dim=1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=1)

    @staticmethod
    def fisher(params: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """The Fisher matrix in mean and log std, diag(1 / std^2, 2), times a tangent [n, 2 * actions]."""
        log_std = params.chunk(2, dim=1)[1]
        return tangent * torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)], dim=1)


class CategoricalPolicy(nn.Module):
    """Softmax over discrete actions. forward: obs [n, obs] -> logits [n, actions]."""

    def __init__(self, obs_dim: int, num_actions: int, generator: torch.Generator):
        super().__init__()
        self.net = mlp([obs_dim, 64, 64, num_actions], 0.01, generator)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.net(obs)

    @staticmethod
    def log_prob(params: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a|s): logits [n, actions], actions [n, 1] -> [n]."""
        return params.log_softmax(dim=1).gather(1, actions.long()).squeeze(1)

    @staticmethod
    def kl(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """KL(old || new) in nats: logits [n, actions] twice -> [n]."""
        log_p, log_q = old.log_softmax(dim=1), new.log_softmax(dim=1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)

    @staticmethod
    def entropy(params: torch.Tensor) -> torch.Tensor:
        """Entropy in nats: logits [n, actions] -> [n]."""
        log_p = params.log_softmax(dim=1)
        return -(log_p.exp() * log_p).sum(dim=1)

    @staticmethod
    def fisher(params: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        """The Fisher matrix in the logits, diag(p) - p p^T, times a tangent [n, actions]."""
        p = params.softmax(dim=1)
        return p * (tangent - (p * tangent).sum(dim=1, keepdim=True))


class NetworkValue(nn.Module):
    """A network, fitted to every batch by a few epochs of Adam.

    It learns returns of any size equally well, because it sees them standardized (Pop-Art, van Hasselt et al. 2016).
    """

    def __init__(self, obs_dim: int, learning_rate: float, generator: torch.Generator, device: torch.device):
        super().__init__()
        self.net = mlp([obs_dim, 64, 64, 1], 1.0, generator).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=learning_rate, fused=True)
        self.count, self.mean, self.std = 0, torch.zeros(1, device=device), torch.ones(1, device=device)

    def forward(self, obs: torch.Tensor, steps: torch.Tensor | None = None) -> torch.Tensor:
        """Values [...] of obs [..., obs]; the time is not used."""
        return self.net(obs).squeeze(-1) * self.std + self.mean

    @torch.no_grad()
    def standardize(self, returns: torch.Tensor) -> torch.Tensor:
        """Returns [n] in units of all returns so far; the last layer is rewritten so that no value changes.

        Not in units of this batch: once a task is solved, its returns are all alike, the unit shrinks to nothing, and
        the first failure afterwards finds last weights so large that their gradient wrecks the layers below.
        """
        new = len(returns) * num_processes()
        total, batch_mean = self.count + new, mean_over_processes(returns.mean())
        batch_var = mean_over_processes(((returns - batch_mean) ** 2).mean())
        delta = batch_mean - self.mean
        mean = self.mean + delta * new / total
        var = (self.std**2 * self.count + batch_var * new + delta**2 * self.count * new / total) / total
        std = (var + 1e-8).sqrt()
        last = self.net[-1]
        last.weight *= self.std / std
        last.bias.copy_((self.std * last.bias + self.mean - mean) / std)
        self.count, self.mean, self.std = total, mean, std
        return (returns - mean) / std

    def fit(self, obs: torch.Tensor, steps: torch.Tensor, returns: torch.Tensor, args: Args, update: int):
        """Least squares on minibatches: obs [n, obs], returns [n], n of the batch's samples in each process."""
        rank, world, n = process_rank(), num_processes(), len(obs)
        targets = self.standardize(returns)
        shuffle = torch.Generator().manual_seed(int(stream(args.seed, MINIBATCHES, update).integers(2**63)))
        for _ in range(args.value_epochs):
            order = torch.randperm(world * n, generator=shuffle).to(obs.device)  # the same in every process
            for minibatch in order.split(args.value_minibatch):
                mine = minibatch if world == 1 else minibatch[minibatch // n == rank] - rank * n
                loss = ((self.net(obs[mine]).squeeze(1) - targets[mine]) ** 2).sum() / len(minibatch)
                self.optimizer.zero_grad()
                loss.backward()
                for parameter in self.net.parameters():
                    sum_over_processes(parameter.grad)
                self.optimizer.step()

    def state(self) -> dict:
        scale = {"count": self.count, "mean": self.mean, "std": self.std}
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), **scale}

    def restore(self, state: dict):
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.count, self.mean, self.std = state["count"], state["mean"].to(self.mean), state["std"].to(self.std)


class LinearValue:
    """The post's value function: ridge regression on o, o^2, t/100, (t/100)^2, 1, refitted to each batch's returns."""

    def __init__(self, obs_dim: int, device: torch.device, ridge: float = 2.0):
        self.weights = torch.zeros(2 * obs_dim + 3, dtype=torch.float64, device=device)
        self.ridge, self.std = ridge, torch.zeros(1, device=device)  # its errors enter no return: see trust

    @staticmethod
    def features(obs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """obs [..., obs], steps since the episode's start [...] -> [..., 2 * obs + 3] in float64."""
        obs, t = obs.double(), steps.double().unsqueeze(-1) / 100
        return torch.cat([obs, obs**2, t, t**2, torch.ones_like(t)], dim=-1)

    def __call__(self, obs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Values [...] of obs [..., obs] after steps [...]; zero before the first fit."""
        return (self.features(obs, steps) @ self.weights).to(obs.dtype)

    def fit(self, obs: torch.Tensor, steps: torch.Tensor, returns: torch.Tensor, args: Args, update: int):
        """Minimise sum (w . features - return)^2 + ridge |w|^2; the processes add up their normal equations."""
        x = self.features(obs, steps)
        gram, moment = sum_over_processes(x.T @ x), sum_over_processes(x.T @ returns.double())
        self.weights = torch.linalg.solve(gram + self.ridge * torch.eye(len(gram)).to(gram), moment)

    def state(self) -> dict:
        return {"weights": self.weights}

    def restore(self, state: dict):
        self.weights.copy_(state["weights"])


# --- advantages ------------------------------------------------------------------------------


def gae(rewards, values, next_values, terminations, cuts, gamma: float, gae_lambda: float) -> torch.Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16): five tensors [time, ...] -> [time, ...].

    next_values[t] is the value of the state that step t led to, before any reset. It counts unless the episode
    terminated there; the sum of deltas ends at every cut: a termination, a truncation, the end of the batch.
    """
    delta = rewards + gamma * next_values * (1 - terminations) - values  # TD error, equation 10
    advantages, running = torch.empty_like(delta), torch.zeros_like(delta[0])
    discount = gamma * gae_lambda * (1 - cuts)
    for t in reversed(range(len(delta))):
        running = delta[t] + discount[t] * running
        advantages[t] = running
    return advantages


def trust(advantage_std: torch.Tensor, return_std: torch.Tensor) -> torch.Tensor:
    """Share of the KL bound, at most 1, that advantages of this size have earned; return_std is of all returns so far.

    The step to a given KL does not depend on the size of the advantages: were they all divided by a thousand, it would
    be the same. But once a task is solved and all returns are alike, what is left of them is the value function's own
    error, and full steps on that are a random walk away from the solution. Below the value function's resolution the
    step shrinks with the advantages (and its KL with their square), as a plain gradient step does.
    """
    return (advantage_std / (RESOLUTION * return_std + 1e-8)).square().clamp(max=1)


# --- the natural gradient --------------------------------------------------------------------


def flatten(tensors) -> torch.Tensor:
    """Tensors of any shapes -> one vector [d]."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """A vector [d] -> tensors shaped like these."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def fisher_vector_product(policy: nn.Module, obs: torch.Tensor, damping: float):
    """The function v -> (F + damping I) v, [d] -> [d], with F the Hessian of the mean KL over obs [n, obs].

    F is the mean of J^T M J (Schulman et al. 2015, appendix C): J is the Jacobian of the distribution's parameters in
    the network's, M the Fisher matrix in the former. That is the whole Hessian, because what it leaves out is
    multiplied by the KL's gradient in the distribution's parameters, and a policy's KL with itself is at its minimum.
    A product of this form cannot show negative curvature; differentiating the KL twice can, by rounding.
    """
    theta = list(policy.parameters())
    params = policy(obs)
    # J v without a forward-mode pass: J^T u is linear in u, and its derivative in u, weighted by v, is J v.
    # Both graphs are built here, once, and run again in every product: half the price of building them each time.
    u = torch.zeros_like(params, requires_grad=True)
    jt_u = torch.autograd.grad(params, theta, u, create_graph=True)

    def product(v: torch.Tensor) -> torch.Tensor:
        (j_v,) = torch.autograd.grad(jt_u, u, unflatten(v, theta), retain_graph=True)
        m_j_v = policy.fisher(params.detach(), j_v) / len(obs)
        return mean_over_processes(flatten(torch.autograd.grad(params, theta, m_j_v, retain_graph=True))) + damping * v

    return product


def conjugate_gradient(product, b: torch.Tensor, iterations: int) -> torch.Tensor:
    """Approximate solution x of A x = b, with A given as the function v -> A v: b [d] -> x [d].

    No early exit, for which a GPU would have to wait: the tiny number turns the 0/0 of a solved system into 0.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    tiny = torch.finfo(b.dtype).tiny
    rr = residual @ residual
    for _ in range(iterations):
        a_direction = product(direction)
        alpha = rr / (direction @ a_direction + tiny)
        x += alpha * direction
        residual -= alpha * a_direction
        rr_old, rr = rr, residual @ residual
        direction = residual + rr / (rr_old + tiny) * direction
    return x


@torch.no_grad()
def set_parameters(module: nn.Module, vector: torch.Tensor):
    """Copy a vector [d] into the module's parameters."""
    theta = list(module.parameters())
    for parameter, part in zip(theta, unflatten(vector, theta), strict=True):
        parameter.copy_(part)


def trpo_step(policy, obs, actions, advantages, fisher_obs, max_kl, args: Args) -> dict:
    """One update: maximise the surrogate (Schulman et al. 2015, equation 14) within the bound on the mean KL.

    obs [n, obs], actions [n, actions], advantages [n], fisher_obs [m, obs]. Changes the policy, or leaves it bit for
    bit as it was when no step along the search direction passes. Returns the row's losses/*, on the device.
    """
    theta = flatten(policy.parameters()).detach()
    params = policy(obs)
    old_params = params.detach()
    old_logprobs = policy.log_prob(old_params, actions)

    def surrogate(params):  # the advantage, weighted by how much likelier the action has become
        return ((policy.log_prob(params, actions) - old_logprobs).exp() * advantages).mean()

    old_surrogate = surrogate(params)  # every ratio is 1 here, and the gradient is the policy gradient
    gradient = mean_over_processes(flatten(torch.autograd.grad(old_surrogate, list(policy.parameters()))))
    old_surrogate = mean_over_processes(old_surrogate.detach())

    # The KL is zero here as well, and so is its gradient: what grows with a step d is the quadratic, d^T F d / 2.
    product = fisher_vector_product(policy, fisher_obs, args.cg_damping)
    direction = conjugate_gradient(product, gradient, args.cg_iterations)  # F^-1 g, the natural gradient
    curvature = (direction @ product(direction)).clamp(min=1e-12)  # zero only for a zero gradient
    full_step = (2 * max_kl / curvature).sqrt() * direction  # appendix C: as long as the quadratic allows

    with torch.no_grad():
        fraction = 1.0
        while True:
            set_parameters(policy, theta + fraction * full_step)
            new_params = policy(obs)
            kl = mean_over_processes(policy.kl(old_params, new_params).mean())
            gain = mean_over_processes(surrogate(new_params)) - old_surrogate
            # Both must hold: the quadratic is a model of the KL as the gradient is one of the surrogate.
            if not args.line_search or bool((kl <= max_kl) & (gain > 0)):
                break
            fraction *= 0.7
            if fraction < 0.01:  # after 13 trials: better no step than a wrong one
                set_parameters(policy, theta)
                fraction, kl, gain = 0.0, torch.zeros_like(kl), torch.zeros_like(gain)
                break
        entropy = mean_over_processes(policy.entropy(old_params).mean())
    names = ("surrogate_gain", "kl", "step_fraction", "entropy", "gradient_norm")
    return dict(zip((f"losses/{name}" for name in names), (gain, kl, fraction, entropy, gradient.norm()), strict=True))


def stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for every key: one of the four below, then what tells its uses apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


NETWORKS, MINIBATCHES, EPISODES, EVALUATION = range(4)


# --- several machines: torchrun's processes each gather and hold an equal share of the batch ---


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, in place; of one process, x as it is."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def mean_over_processes(x: torch.Tensor) -> torch.Tensor:
    """Mean over the processes; of one process, x as it is."""
    return sum_over_processes(x) / num_processes() if dist.is_initialized() else x


def gather_lists(local: list) -> list:
    """The lists of all processes, one after the other."""
    if not dist.is_initialized():
        return local
    everyone = [None] * num_processes()
    dist.all_gather_object(everyone, local)
    return [item for one in everyone for item in one]


# --- adaptation ------------------------------------------------------------------------------


def adapt(before: float, now: float, steps: int, max_kl: float, args: Args) -> tuple[int, float]:
    """The post's rule: progress earns cheaper and bolder updates, a standstill more careful ones.

    before, now: mean return of the last two windows. Returns the new steps per update and KL bound.
    """
    improving = now > before + args.adapt_margin * abs(before)
    if args.adapt in ("steps", "both"):
        if improving and steps > args.adapt_min_steps:
            steps -= args.adapt_steps
        elif not improving and steps < args.adapt_max_steps:
            steps += args.adapt_steps
    if args.adapt in ("kl", "both"):
        if improving and max_kl < args.adapt_max_kl:
            max_kl += args.adapt_kl
        elif not improving and max_kl > args.adapt_min_kl:
            max_kl -= args.adapt_kl
    return steps, max_kl


# --- parallel actors -------------------------------------------------------------------------


@dataclass
class FrozenPolicy:
    """The policy of one batch in plain numpy, which serves a handful of environments three times faster than torch."""

    obs_mean: np.ndarray  # [obs]
    obs_scale: np.ndarray  # [obs], one over the standard deviation
    layers: list[tuple[np.ndarray, np.ndarray]]  # weights [in, out] and bias [out] of each
    std: np.ndarray | None  # [actions] of a Gaussian, None for a categorical distribution

    def noise(self, rng: np.random.Generator, shape: tuple) -> np.ndarray:
        """What act adds to sample: Gaussian noise, or Gumbel noise: an argmax of logits with it is a softmax sample."""
        shape = (*shape, len(self.layers[-1][1]))
        if self.std is None:
            return rng.gumbel(size=shape).astype(np.float32)
        return rng.standard_normal(shape, dtype=np.float32) * self.std

    def act(self, obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        """obs [n, obs], noise [n, outputs] -> actions [n, actions]; without noise (0) the most likely ones."""
        x = (obs - self.obs_mean) * self.obs_scale
        np.maximum(x, -OBS_CLIP, out=x)
        np.minimum(x, OBS_CLIP, out=x)
        for weight, bias in self.layers[:-1]:
            x = x @ weight
            x += bias
            np.tanh(x, out=x)
        weight, bias = self.layers[-1]
        x = x @ weight + bias + noise
        return x if self.std is not None else x.argmax(axis=1)[:, None]


class Group:
    """Environments that share every forward pass. What they gather depends on seed, index and policy only."""

    def __init__(self, args: Args, index: int):
        self.envs = [make_env(args.env_id) for _ in range(args.group_size)]
        self.seed, self.index, self.action_space = args.seed, index, self.envs[0].action_space
        self.obs = np.zeros((args.group_size, *self.envs[0].observation_space.shape), np.float32)
        self.returns, self.lengths = np.zeros(args.group_size), np.zeros(args.group_size, int)

    def reset(self, i: int, seed: int | None = None):
        """Start a new episode in environment i; the first one's seed decides the ones that follow."""
        self.obs[i], _ = self.envs[i].reset(seed=seed)
        self.returns[i] = self.lengths[i] = 0

    def count(self, i: int, rewards: np.ndarray):
        """Add more rewards [steps] to the episode under way in environment i."""
        self.returns[i] += rewards.sum(dtype=np.float64)
        self.lengths[i] += len(rewards)

    def for_envs(self, actions: np.ndarray):
        """Actions [n, actions] as the environments take them: clipped to the space, or whole numbers [n]."""
        if isinstance(self.action_space, Discrete):
            return (actions[:, 0].astype(int) + self.action_space.start).tolist()
        return np.minimum(np.maximum(actions, self.action_space.low), self.action_space.high)

    def gather(self, policy: FrozenPolicy, num_steps: int, update: int, fresh: bool) -> dict:
        """num_steps steps of each of the n environments, from new episodes if `fresh`: arrays [num_steps, n, ...].

        obs and steps have a row more, for the state after the last step. Environments are reset here, by hand: obs
        after the end of an episode is the next one's first, and where it was truncated final_obs has the last one.
        """
        n, obs_dim = self.obs.shape
        rng = stream(self.seed, EPISODES, update, self.index)  # from its number, so that no state has to be kept
        if fresh:
            for i, seed in enumerate(rng.integers(2**31, size=n).tolist()):
                self.reset(i, seed)
        noise = policy.noise(rng, (num_steps, n))
        obs = np.empty((num_steps + 1, n, obs_dim), np.float32)
        actions = np.empty((num_steps, n, 1 if policy.std is None else noise.shape[2]), np.float32)
        rewards = np.empty((num_steps, n), np.float32)
        terminations, truncations = np.zeros((num_steps, n), bool), np.zeros((num_steps, n), bool)
        steps = np.tile(np.arange(num_steps + 1, dtype=np.float32)[:, None], (1, n)) + self.lengths
        final_obs, episodes = [], []
        since = np.zeros(n, int)  # where in this batch the episode under way begins
        for t in range(num_steps):
            obs[t] = self.obs
            actions[t] = policy.act(self.obs, noise[t])
            env_actions = self.for_envs(actions[t])
            for i, env in enumerate(self.envs):
                self.obs[i], rewards[t, i], terminated, truncated, _ = env.step(env_actions[i])
                if terminated or truncated:
                    terminations[t, i], truncations[t, i] = terminated, not terminated
                    if not terminated:
                        final_obs.append(self.obs[i].copy())
                    self.count(i, rewards[since[i] : t + 1, i])
                    episodes.append((t, self.index, i, float(self.returns[i]), int(self.lengths[i])))
                    self.reset(i)
                    since[i], steps[t + 1 :, i] = t + 1, np.arange(num_steps - t)
        for i in range(n):
            self.count(i, rewards[since[i] :, i])
        obs[-1] = self.obs
        seen = obs[:-1].reshape(-1, obs_dim).astype(np.float64)
        arrays = {"obs": obs, "steps": steps, "actions": actions, "rewards": rewards}
        arrays |= {"terminations": terminations, "truncations": truncations}
        final_obs = np.array(final_obs, np.float32).reshape(-1, obs_dim)  # in the order of truncations.nonzero()
        moments = len(seen), seen.mean(axis=0), seen.var(axis=0)
        return arrays | {"final_obs": final_obs, "moments": moments, "episodes": episodes}

    def evaluate(self, policy: FrozenPolicy, num_episodes: int) -> list[float]:
        """Returns of so many new episodes of the most likely actions; the episodes under way are given up."""
        seeds = stream(self.seed, EVALUATION, self.index).integers(2**31, size=num_episodes).tolist()
        playing = list(range(min(len(self.envs), num_episodes)))
        for i in playing:
            self.reset(i, seeds.pop())
        returns = []
        while playing:
            env_actions = self.for_envs(policy.act(self.obs, 0))
            for i in playing.copy():
                self.obs[i], reward, terminated, truncated, _ = self.envs[i].step(env_actions[i])
                self.returns[i] += float(reward)
                if terminated or truncated:
                    returns.append(float(self.returns[i]))
                    if seeds:
                        self.reset(i, seeds.pop())
                    else:
                        playing.remove(i)
        return returns


class Actors:
    """Groups shared out to processes, which talk once a batch and never between steps. This process is one of them."""

    def __init__(self, args: Args):
        groups, world = args.num_envs // args.group_size, int(os.environ.get("WORLD_SIZE", "1"))
        if groups % world:
            raise UsageError(f"--num-envs {args.num_envs}: {groups} groups have no equal share for {world} processes")
        local = np.arange(groups).reshape(world, -1)[int(os.environ.get("RANK", "0"))]
        shares = np.array_split(local, min(args.num_actors or count_cores(), len(local)))
        self.connections, self.processes = [], []
        for share in shares[1:]:
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(target=actor, args=(there, args, share.tolist()), daemon=True)
            process.start()
            there.close()  # so that its death is the end of the file here, not silence
            self.connections.append(here)
            self.processes.append(process)
        self.groups = [Group(args, index) for index in shares[0].tolist()]

    def call(self, method: str, *args) -> list:
        """Group.method(*args) of every local group, in their order, whoever works on them."""
        try:
            for connection in self.connections:
                connection.send((method, args))
            results = [getattr(group, method)(*args) for group in self.groups]
            for connection in self.connections:
                results += connection.recv()
        except (EOFError, ConnectionError):
            codes = [process.exitcode for process in self.processes]
            raise RuntimeError(f"an actor process died (exit codes {codes}): out of memory?") from None
        return results

    def close(self):
        for process in self.processes:
            process.terminate()
            process.join()
        for group in self.groups:
            for env in group.envs:
                env.close()


def actor(connection, args: Args, indices: list[int]):
    """An actor process: make these groups, then do as told until the learner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the learner to handle
    groups = [Group(args, index) for index in indices]
    while connection in wait([connection, multiprocessing.parent_process().sentinel]):
        method, arguments = connection.recv()
        connection.send([getattr(group, method)(*arguments) for group in groups])


class ObsNormalizer:
    """Moments of all observations so far. They change between batches only, as the policy does."""

    def __init__(self, obs_dim: int):
        self.count, self.mean, self.var = 0, np.zeros(obs_dim), np.ones(obs_dim)

    def update(self, count: int, mean: np.ndarray, var: np.ndarray):
        """Merge the moments of more observations (Chan et al. 1979): mean and variance [obs]."""
        total, delta = self.count + count, mean - self.mean
        squares = self.var * self.count + var * count + delta**2 * self.count * count / total
        self.count, self.mean, self.var = total, self.mean + delta * count / total, squares / total

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.var + 1e-8)

    def state(self) -> dict:
        return {"count": self.count, "mean": torch.tensor(self.mean), "var": torch.tensor(self.var)}

    def restore(self, state: dict):
        self.count, self.mean, self.var = state["count"], state["mean"].numpy(), state["var"].numpy()

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        """What the networks see of obs [..., obs]."""
        mean, std = torch.as_tensor(self.mean).to(obs), torch.as_tensor(self.std).to(obs)
        return ((obs - mean) / std).clamp(-OBS_CLIP, OBS_CLIP)


def freeze(policy: nn.Module, normalizer: ObsNormalizer) -> FrozenPolicy:
    """The policy and the normalizer as the actors get them."""
    linears = [layer for layer in policy.net if isinstance(layer, nn.Linear)]
    layers = [(layer.weight.T.numpy(force=True).copy(), layer.bias.numpy(force=True).copy()) for layer in linears]
    std = policy.log_std.exp().numpy(force=True) if isinstance(policy, GaussianPolicy) else None
    return FrozenPolicy(normalizer.mean.astype(np.float32), (1 / normalizer.std).astype(np.float32), layers, std)


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def check_spaces(args: Args) -> tuple[int, gym.Space]:
    """Size of the observations and the action space. Completes env_id and gamma. Raises UsageError for other spaces."""
    env = make_env(args.env_id)
    obs_space, action_space, spec = env.observation_space, env.action_space, env.spec
    env.close()
    args.env_id = spec.id
    if args.gamma is None:
        args.gamma = 0.95 if spec.name == "Reacher" else 0.99
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if not isinstance(action_space, Discrete) and not (isinstance(action_space, Box) and len(action_space.shape) == 1):
        raise UsageError(f"--env-id {args.env_id}: needs discrete or flat continuous actions, has {action_space}")
    batch_steps = args.num_envs * args.num_steps
    if args.adapt in ("steps", "both"):
        batch_steps = min(batch_steps, args.adapt_min_steps - args.adapt_steps)
    if args.value == "linear" and batch_steps < args.num_envs * (spec.max_episode_steps or 1):
        raise UsageError(
            f"--num-steps: --value linear learns from Monte-Carlo returns, so a batch must hold an episode of each "
            f"environment: {args.num_envs} times {spec.max_episode_steps} steps, but it may have only {batch_steps}"
        )
    return obs_space.shape[0], action_space


def estimate_advantages(
    batches: list[dict], value, normalizer: ObsNormalizer, args: Args, device: torch.device
) -> tuple[dict, torch.Tensor]:
    """The groups' arrays as tensors [groups, steps, group_size, ...], beside them values, standardized advantages and
    targets; and the share of the KL bound that the advantages have earned."""
    names = ("obs", "steps", "actions", "rewards", "terminations", "truncations")
    batch = {name: torch.as_tensor(np.stack([b[name] for b in batches]), device=device) for name in names}
    raw_obs, truncations = batch["obs"], batch["truncations"]
    batch["obs"] = normalizer(raw_obs)
    final_obs = torch.as_tensor(np.concatenate([b["final_obs"] for b in batches]), device=device)
    cuts = batch["terminations"] | truncations
    batch["value_obs"] = batch["obs"] if args.value == "network" else raw_obs
    with torch.no_grad():
        values = value(batch["value_obs"], batch["steps"])
        values, next_values = values[:, :-1], values[:, 1:].clone()
        if args.value == "network":
            next_values[truncations] = value(normalizer(final_obs))  # the episode would have gone on
            terminations, gae_lambda = batch["terminations"], args.gae_lambda
        else:  # Monte-Carlo returns up to the time limit, which the features know
            terminations, gae_lambda = cuts, 1.0
        inputs = (batch["rewards"], values, next_values, terminations.float(), cuts.float())
        time_first = (x.transpose(0, 1) for x in inputs)
        advantages = gae(*time_first, args.gamma, gae_lambda).transpose(0, 1)
        batch |= {"values": values, "targets": advantages + values}
        advantages = advantages - mean_over_processes(advantages.mean())
        advantage_std = mean_over_processes((advantages**2).mean()).sqrt()
        batch["advantages"] = advantages / (advantage_std + 1e-8)
    return batch, trust(advantage_std, value.std)


def update_networks(policy, value, batch: dict, max_kl: torch.Tensor, update: int, args: Args) -> dict:
    """One update of the policy and then of the value function. Returns the row's losses/*, on the device."""
    flat = {name: x[:, : batch["rewards"].shape[1]].flatten(0, 2) for name, x in batch.items()}  # [samples, ...]
    fisher_obs = batch["obs"][:, update % args.fisher_stride : -1 : args.fisher_stride].flatten(0, 2)
    losses = trpo_step(policy, flat["obs"], flat["actions"], flat["advantages"], fisher_obs, max_kl, args)
    value.fit(flat["value_obs"], flat["steps"], flat["targets"], args, update)
    errors = mean_over_processes(((flat["targets"] - flat["values"]) ** 2).mean())
    spread = mean_over_processes(((flat["targets"] - mean_over_processes(flat["targets"].mean())) ** 2).mean())
    return losses | {"losses/value_loss": errors, "losses/explained_variance": 1 - errors / spread}


def make_networks(args: Args, obs_dim: int, action_space: gym.Space, device: torch.device) -> tuple:
    generator = torch.Generator().manual_seed(int(stream(args.seed, NETWORKS).integers(2**63)))
    if isinstance(action_space, Discrete):
        policy = CategoricalPolicy(obs_dim, int(action_space.n), generator).to(device)
    else:
        policy = GaussianPolicy(obs_dim, action_space.shape[0], args.log_std_init, generator).to(device)
    if args.value == "network":
        return policy, NetworkValue(obs_dim, args.learning_rate, generator, device)
    return policy, LinearValue(obs_dim, device)


def score(actors: Actors, policy: FrozenPolicy, args: Args, num_episodes: int = 100) -> tuple[float, float]:
    """Mean and standard deviation of the return of the most likely actions, over as many new episodes or a few more."""
    per_group = math.ceil(num_episodes * args.group_size / args.num_envs)  # the same number in each
    returns = [x for group in gather_lists(actors.call("evaluate", policy, per_group)) for x in group]
    return float(np.mean(returns)), float(np.std(returns))


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or count_cores()
    obs_dim, action_space = check_spaces(args)
    actors = Actors(args)
    gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # touched only after the actors' fork
    device = gpu if args.cuda and torch.cuda.is_available() else CPU
    if "WORLD_SIZE" in os.environ:  # torchrun
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        with torch_settings(args):
            return learn(args, checkpoint, actors, *make_networks(args, obs_dim, action_space, device), obs_dim, device)
    finally:
        actors.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def learn(args, checkpoint: dict | None, actors: Actors, policy, value, obs_dim: int, device: torch.device) -> dict:
    """The loop: gather, estimate, update, log."""
    normalizer = ObsNormalizer(obs_dim)
    update, global_step, elapsed = 0, 0, 0.0
    batch_steps, max_kl = args.num_envs * args.num_steps, args.max_kl
    last_returns = deque(maxlen=100)
    window, before = [], None  # mean returns of the updates in this window of --adapt; their mean in the last one

    def state() -> dict:
        counters = {"update": update, "global_step": global_step, "elapsed": elapsed}
        adapted = {"batch_steps": batch_steps, "max_kl": max_kl, "window": window, "before": before}
        learned = {"policy": policy.state_dict(), "value": value.state(), "normalizer": normalizer.state()}
        return learned | counters | adapted | {"last_returns": list(last_returns)}

    if checkpoint:
        try:
            policy.load_state_dict(checkpoint["policy"])
            value.restore(checkpoint["value"])
            normalizer.restore(checkpoint["normalizer"])
            last_returns.extend(checkpoint["last_returns"])
            update, global_step, elapsed = (checkpoint[key] for key in ("update", "global_step", "elapsed"))
            batch_steps, max_kl, window, before = (checkpoint[k] for k in ("batch_steps", "max_kl", "window", "before"))
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit {args.env_id} ({error})") from None
        if global_step >= args.total_timesteps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.env_id, checkpoint and checkpoint["rows"]) if process_rank() == 0 else None
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while global_step < args.total_timesteps:
            start = time.perf_counter()
            num_steps = math.ceil(batch_steps / args.num_envs)
            fresh = update % args.checkpoint_every == 0
            batches = actors.call("gather", freeze(policy, normalizer), num_steps, update, fresh)
            rollout_time = time.perf_counter() - start

            batch, earned = estimate_advantages(batches, value, normalizer, args, device)
            losses = update_networks(policy, value, batch, earned * max_kl, update, args)
            gathered = gather_lists([(b["moments"], b["episodes"]) for b in batches])  # in the order of the groups
            for moments, _ in gathered:
                normalizer.update(*moments)
            episodes = sorted(episode for _, ended in gathered for episode in ended)  # in the order of time
            returns, lengths = [episode[3] for episode in episodes], [episode[4] for episode in episodes]
            last_returns.extend(returns)
            losses = {name: float(x) for name, x in losses.items()}
            learn_time = time.perf_counter() - start - rollout_time

            update += 1
            global_step += num_steps * args.num_envs
            elapsed += rollout_time + learn_time
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(np.mean(returns)) if returns else None,
                "charts/episodic_return_100": float(np.mean(last_returns)) if last_returns else None,
                "charts/episodic_length": float(np.mean(lengths)) if lengths else None,
                "charts/SPS": global_step / elapsed,
                "charts/steps_per_update": num_steps * args.num_envs,
                "charts/max_kl": max_kl,
                **losses,
                "time/rollout": rollout_time,
                "time/learn": learn_time,
                "time/elapsed": elapsed,
                "eval/episodic_return": None,
            }
            if not all(math.isfinite(x) for x in losses.values()):
                raise FloatingPointError(f"the learning diverged at step {global_step:,}: {losses}")
            window += [row["charts/episodic_return"]] if returns else []
            if update % args.adapt_window == 0 and window:
                now = float(np.mean(window))
                if before is not None:
                    batch_steps, max_kl = adapt(before, now, batch_steps, max_kl, args)
                window, before = [], now
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/episodic_return"], std = score(actors, freeze(policy, normalizer), args)
            if run:
                run.log(row)
                if finished or update % args.checkpoint_every == 0:
                    run.save(state())
            bar.update(num_steps * args.num_envs)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

        if run:
            run.plot("charts/episodic_return_100")
            if args.capture_video:
                player, group = freeze(policy, normalizer), actors.groups[0]
                record_episode(args.env_id, lambda obs: group.for_envs(player.act(obs[None], 0))[0], run, args.seed)
            result = f"return {row['eval/episodic_return']:.1f} +- {std:.1f} (most likely actions, 100 episodes)"
            print(f"{result} after {global_step:,} steps at {row['charts/SPS']:,.0f} steps/s: {run.dir}")
    return row


def evaluate(folder: Path) -> tuple[float, float]:
    """Play 100 episodes of the most likely actions with the policy of a run: mean and standard deviation."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    obs_dim, action_space = check_spaces(args)
    policy, _ = make_networks(args, obs_dim, action_space, CPU)
    normalizer = ObsNormalizer(obs_dim)
    try:
        policy.load_state_dict(checkpoint["policy"])
        normalizer.restore(checkpoint["normalizer"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"--evaluate {folder}: the checkpoint does not fit {args.env_id} ({error})") from None
    actors = Actors(args)
    try:
        mean, std = score(actors, freeze(policy, normalizer), args)
    finally:
        actors.close()
    print(
        f"return {mean:.2f} +- {std:.2f} (most likely actions, 100 episodes) after {checkpoint['global_step']:,} steps"
    )
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
