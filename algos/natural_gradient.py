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
"""Natural policy gradient: the steepest step, where distance is how much the policy changes.

    python algos/natural_gradient.py --env-id CartPole-v1
    python algos/natural_gradient.py --metric parameters

The gradient is the direction in which a small step gains the most. But what is a small step? Moved by the same 2, a
wide Gaussian hardly changes and a narrow one becomes another. So measure a step not in the parameters but in the KL
divergence between the old policy and the new: for small steps it is d^T F d / 2, with F the Fisher matrix, and the
steepest step of a given length points along F^-1 g, the natural gradient. Here F is a matrix that one can look at, and
it is inverted as it stands; trpo.py takes the same step without ever forming the matrix.

Expect CartPole-v1 at 475, mean of the last 100 training episodes, after 77,000 to 85,000 steps (5 seeds), and at 500
after the default 150,000, in some four seconds of a CPU core besides those that importing takes.

Papers
    Kevin Frans 2016, two posts on the natural gradient: the metric, the Fisher matrix as the Hessian of the KL, the
    two Gaussians, the step of constant KL.
    Amari 1998, "Natural gradient works efficiently in learning"; Kakade 2001, "A natural policy gradient".
    Schulman et al. 2015, "Trust region policy optimization" (arXiv 1502.05477): equation 14, appendix C.

Differences from the posts
    1. The loop that measures a distance sums delta[i] * delta[i] * metric[i][j]; a metric needs delta[i] * delta[j],
       and the sum is the distance squared.
    2. `fisher_matrix = gradients(first_derivative, parameters)` differentiates the sum of the first derivatives and
       gives the sums of the Hessian's rows; here it is the matrix.
    3. A softmax does not notice a number added to all its logits, so the Fisher matrix has no inverse: a small multiple
       of the identity is added to it (--damping).
    4. That an outlier cannot do much harm is owed to the constant length of the steps: a learning rate times the
       gradient is thrown far. Here all steps have one length (--step-size), and only what measures it differs.
"""

import csv
import importlib.util
import json
import math
import os
import pickle
import sys
import time
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from torch import nn
from tqdm import tqdm

CPU = torch.device("cpu")
MAX_PARAMETERS = 1_000
STEP_SIZES = {"kl": 0.002, "scores": 0.002, "parameters": 0.2}  # where --step-size is not given


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds networks, actions and episodes; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 1
    """threads of the learner: these networks are too small to share. They decide a curve's last bits"""
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

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and discrete actions; without a version, the newest"""
    total_timesteps: int = 150_000
    """environment steps to train for; the update that reaches it is finished"""
    num_envs: int = 16
    """environments, stepped together"""
    num_steps: int = 128
    """steps of each environment per update, whose TD errors are summed up"""
    gamma: float = 0.99
    """discount per step, in (0, 1]"""
    metric: Literal["kl", "scores", "parameters"] = "kl"
    """what a step is measured in: the KL divergence, by its Hessian; the same matrix from the policy's scores; or the
    parameters themselves, which makes it a step along the plain gradient"""
    step_size: float | None = None
    """half the squared length of a step: the KL divergence it makes, in nats, or half the squared change of the
    parameters; not given: 0.002, and 0.2 for the parameters"""
    damping: float = 1e-3
    """multiple of the identity added to the Fisher matrix, which has no inverse"""
    policy_units: tuple[int, ...] = ()
    """tanh units in each hidden layer of the policy; none for a linear one, whose Fisher matrix is small"""
    value_units: tuple[int, ...] = (64, 64)
    """tanh units in each layer of the value network"""
    value_learning_rate: float = 0.01
    """Adam step of the value network"""
    value_epochs: int = 10
    """gradient steps of the value network on each batch"""
    checkpoint_every: int = 50
    """updates between checkpoints; all environments start over at each, so that --resume repeats the run exactly"""

    def __post_init__(self):
        for name in ["total_timesteps", "num_envs", "value_epochs", "checkpoint_every", "torch_threads"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.num_steps < 2:
            raise UsageError("--num-steps must be at least 2: one step of all environments may only begin episodes")
        if not self.value_units or min(self.value_units + self.policy_units) < 1:
            raise UsageError("--policy-units and --value-units must be numbers of at least 1, such as 64 64")
        if not 0 < self.value_learning_rate < math.inf:
            raise UsageError("--value-learning-rate must be positive")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise UsageError("--step-size must be positive")
        if not 0 < self.damping < math.inf:
            raise UsageError("--damping must be positive: the Fisher matrix has no inverse")
        if not 0 < self.gamma <= 1:
            raise UsageError("--gamma must lie in (0, 1]")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")


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


class CategoricalPolicy(nn.Module):
    """Softmax over discrete actions. forward: obs [n, obs] -> logits [n, actions]."""

    def __init__(self, sizes: list[int], generator: torch.Generator):
        super().__init__()
        self.net = mlp(sizes, 0.01, generator)

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


class NetworkValue(nn.Module):
    """A network, fitted to every batch by a few epochs of Adam."""

    def __init__(self, sizes: list[int], learning_rate: float, generator: torch.Generator, device: torch.device):
        super().__init__()
        self.net = mlp(sizes, 1.0, generator).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=learning_rate, fused=True)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Values [...] of obs [..., obs]."""
        return self.net(obs).squeeze(-1)

    def fit(self, obs: torch.Tensor, returns: torch.Tensor, epochs: int):
        """Least squares: obs [n, obs], returns [n]."""
        for _ in range(epochs):
            loss = ((self(obs) - returns) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def state(self) -> dict:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict):
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


# --- advantages ------------------------------------------------------------------------------


def sum_of_td_errors(rewards, values, next_values, terminations, cuts, gamma: float) -> torch.Tensor:
    """How much better than expected it went from each step on: five tensors [time, n] -> [time, n].

    next_values[t] is the value of the state that step t led to, before any reset. It counts unless the episode
    terminated there; the sum ends at every cut: a termination, a truncation, the end of the batch. All values but the
    first and the last cancel, so what is left is an n-step return less a value; of a single step, the TD error.
    """
    delta = rewards + gamma * next_values * (1 - terminations) - values  # the post's TD error
    advantages, running = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + gamma * (1 - cuts[t]) * running
        advantages[t] = running
    return advantages


def estimate_advantages(batch: dict, value, args: Args) -> dict:
    """The batch, beside it values, advantages and the returns they add up to: all [time, n]."""
    with torch.no_grad():
        values = value(batch["obs"])  # the state after a step is in the next row, after an episode's last step as well
    inputs = (batch["rewards"], values[:-1], values[1:], batch["terminations"], batch["cuts"])
    advantages = sum_of_td_errors(*inputs, args.gamma)
    return batch | {"values": values[:-1], "advantages": advantages, "returns": advantages + values[:-1]}


# --- the natural gradient --------------------------------------------------------------------


def flatten(tensors) -> torch.Tensor:
    """Tensors of any shapes -> one vector [d]."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """A vector [d] -> tensors shaped like these."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


@torch.no_grad()
def set_parameters(module: nn.Module, vector: torch.Tensor):
    """Copy a vector [d] into the module's parameters."""
    theta = list(module.parameters())
    for parameter, part in zip(theta, unflatten(vector, theta), strict=True):
        parameter.copy_(part)


def as_function(policy: nn.Module, obs: torch.Tensor):
    """The function theta [d] -> logits [n, actions] in obs [n, obs]: the policy, if these were its parameters."""
    names, like = [name for name, _ in policy.named_parameters()], list(policy.parameters())

    def logits(theta: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, unflatten(theta, like), strict=True))
        return torch.func.functional_call(policy, parameters, (obs,))

    return logits


def hessian_of_kl(kl, theta: torch.Tensor) -> torch.Tensor:
    """The Fisher matrix [d, d]: the second derivative of KL(old || new) in new, where new is old, theta [d].

    The KL and its gradient are zero there, so what grows with a small step is d^T F d / 2.
    """
    return torch.func.hessian(lambda new: kl(theta, new))(theta)


def mean_outer_product_of_scores(log_probs, theta: torch.Tensor) -> torch.Tensor:
    """The Fisher matrix [d, d] again: the mean of score score^T, where the score is the gradient of log pi(a|s).

    log_probs: theta [d] -> log pi of all actions in some states [n, actions]. The mean over the actions is the policy's
    own, and exact; the actions that happened to be chosen do not matter.
    """
    scores = torch.func.jacfwd(log_probs)(theta)  # [n, actions, d]
    probs = log_probs(theta).exp().unsqueeze(2)
    weighted = (probs.sqrt() * scores).flatten(0, 1)  # [n * actions, d]
    return weighted.T @ weighted / len(probs)


def squared_length(delta: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """The sum over i and j of delta[i] * delta[j] * metric[i][j]: delta [d], metric [d, d]."""
    return delta @ metric @ delta


def natural_gradient(metric: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The post's inverse(fisher) * standard_grad, [d, d] and [d] -> [d]; with the identity, the gradient itself."""
    return torch.linalg.inv(metric) @ gradient


def steepest_step(metric: torch.Tensor, gradient: torch.Tensor, step_size: float) -> torch.Tensor:
    """Of all steps d [d] with d^T metric d / 2 = step_size the one with the largest gradient . d."""
    direction = natural_gradient(metric, gradient)
    curvature = squared_length(direction, metric).clamp(min=1e-12)  # zero only for a zero gradient
    return (2 * step_size / curvature).sqrt() * direction  # Schulman et al. 2015, appendix C


def policy_metric(policy: nn.Module, obs: torch.Tensor, args: Args) -> torch.Tensor:
    """What measures a step in the policy's parameters [d, d], averaged over obs [n, obs]."""
    theta, logits = flatten(policy.parameters()).detach(), as_function(policy, obs)
    identity = torch.eye(len(theta)).to(theta)
    match args.metric:
        case "kl":
            fisher = hessian_of_kl(lambda old, new: policy.kl(logits(old), logits(new)).mean(), theta)
        case "scores":
            fisher = mean_outer_product_of_scores(lambda new: logits(new).log_softmax(dim=1), theta)
        case "parameters":
            return identity
    return fisher + args.damping * identity


def natural_step(policy: nn.Module, obs, actions, advantages, args: Args) -> dict:
    """One update: the steepest step for the surrogate (Schulman et al. 2015, equation 14) of the length asked for.

    obs [n, obs], actions [n], advantages [n]. Changes the policy. Returns the row's losses/*, on the device.
    """
    theta = flatten(policy.parameters()).detach()
    params = policy(obs)
    old_params = params.detach()
    old_logprobs = policy.log_prob(old_params, actions)

    def surrogate(params):  # the advantage, weighted by how much likelier the action has become
        return ((policy.log_prob(params, actions) - old_logprobs).exp() * advantages).mean()

    old_surrogate = surrogate(params)  # every ratio is 1 here, and the gradient is the policy gradient
    gradient = flatten(torch.autograd.grad(old_surrogate, list(policy.parameters())))
    metric = policy_metric(policy, obs, args)
    step = steepest_step(metric, gradient, args.step_size or STEP_SIZES[args.metric])
    set_parameters(policy, theta + step)

    with torch.no_grad():
        new_params = policy(obs)
        return {
            "losses/surrogate_gain": surrogate(new_params) - old_surrogate.detach(),
            "losses/kl": policy.kl(old_params, new_params).mean(),
            "losses/distance": step.norm(),
            "losses/entropy": policy.entropy(old_params).mean(),
            "losses/gradient_norm": gradient.norm(),
        }


def update_networks(policy, value, batch: dict, args: Args) -> dict:
    """One step of the policy, then the value function's fit. Returns the row's losses/*, on the device."""
    flat = {name: x[: len(batch["alive"])][batch["alive"]] for name, x in batch.items()}  # [samples, ...]
    std, mean = torch.std_mean(flat["advantages"], correction=0)
    losses = natural_step(policy, flat["obs"], flat["actions"], (flat["advantages"] - mean) / (std + 1e-8), args)
    value.fit(flat["obs"], flat["returns"], args.value_epochs)
    explained = 1 - (flat["advantages"] ** 2).mean() / flat["returns"].var(correction=0).clamp(min=1e-8)
    return losses | {"losses/explained_variance": explained}


def stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for every key: one of the three below, then what tells its uses apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


NETWORKS, EPISODES, EVALUATION = range(3)


# --- what the posts draw ---------------------------------------------------------------------


def gaussian_kl(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The post's gauss_KL, KL(old || new) in nats: mean and log standard deviation [2] twice -> a number."""
    (mean0, log_std0), (mean1, log_std1) = old, new
    return log_std1 - log_std0 + ((2 * log_std0).exp() + (mean0 - mean1) ** 2) / (2 * (2 * log_std1).exp()) - 0.5


def expected_reward(theta: torch.Tensor) -> torch.Tensor:
    """Of one action a from a Gaussian with this mean and log standard deviation [2], paid -(a - 1)^2."""
    mean, log_std = theta
    return -((mean - 1) ** 2) - (2 * log_std).exp()


def climb(metric, theta: torch.Tensor, step_size: float, num_steps: int) -> torch.Tensor:
    """Steps of one length up the expected reward, measured by metric(theta) [2, 2]: the path [num_steps + 1, 2]."""
    path = [theta]
    for _ in range(num_steps):
        gradient = torch.func.grad(expected_reward)(path[-1])
        path.append(path[-1] + steepest_step(metric(path[-1]), gradient, step_size))
    return torch.stack(path)


def sphere(metric: torch.Tensor, step_size: float, num_points: int = 200) -> torch.Tensor:
    """All steps d with d^T metric d / 2 = step_size, in two parameters: [num_points, 2]."""
    angle = torch.linspace(0, 2 * math.pi, num_points, dtype=metric.dtype)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)  # of rows u; with metric = L L^T, u L^-1 has length 1
    root = torch.linalg.cholesky(metric)
    return math.sqrt(2 * step_size) * torch.linalg.solve_triangular(root, circle, upper=False, left=False)


def draw_metric(run: "Run", fisher: torch.Tensor):
    """The posts' pictures and the learned policy's Fisher matrix [d, d], as metric.png."""
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1.5, 1.15])
    x = torch.linspace(-7, 7, 400, dtype=torch.float64)
    for row, std in enumerate((0.5, 3.0)):
        axes = figure.add_subplot(grid[row, 0])
        old, new = (torch.tensor([mean, math.log(std)], dtype=torch.float64) for mean in (-1.0, 1.0))
        for mean, log_std in (old, new):
            density = torch.distributions.Normal(mean, log_std.exp()).log_prob(x).exp()
            axes.plot(x, density, label=f"mean {mean:g}, standard deviation {std:g}")
            axes.fill_between(x, density, alpha=0.2)
        axes.set_title(f"mean moved by 2: KL divergence {gaussian_kl(old, new):.2f}", fontsize=10)
        axes.set(yticks=[], ylim=(0, 1.5 * float(density.max())))
        axes.legend(frameon=False, fontsize=8)

    axes = figure.add_subplot(grid[:, 1])
    sides = torch.linspace(-3, 1.6, 200).double(), torch.linspace(-2.6, 1.3, 200).double()
    mean, log_std = torch.meshgrid(*sides, indexing="xy")
    axes.contour(mean, log_std, (-expected_reward((mean, log_std))).log(), levels=20, colors="0.85", linewidths=0.8)
    start, step_size = torch.tensor([-2.0, math.log(2)], dtype=torch.float64), 0.01
    metrics = {
        "the KL divergence": ("C0", lambda theta: hessian_of_kl(gaussian_kl, theta)),
        "parameters": ("C3", lambda theta: torch.eye(2).to(theta)),
    }
    for label, (color, metric) in metrics.items():
        path = climb(metric, start, step_size, 60)
        axes.plot(*path.T, ".-", color=color, markersize=3, linewidth=1, label=f"steepest steps, measured in {label}")
        for theta in path[::12]:
            axes.plot(*(theta + sphere(metric(theta), step_size)).T, color=color, linewidth=0.8)
    axes.axvline(1, color="0.5", linestyle=":", label="best action")
    axes.set(xlabel="mean", ylabel="log standard deviation", xlim=(-3, 1.6), ylim=(-2.6, 1.3))
    axes.set_title("a Gaussian policy, paid $-(a - 1)^2$; rings: all steps of that length", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left")

    axes, largest = figure.add_subplot(grid[:, 2]), float(fisher.abs().max())
    norm = SymLogNorm(1e-3 * largest, vmin=-largest, vmax=largest)
    figure.colorbar(axes.imshow(fisher.numpy(force=True), cmap="RdBu", norm=norm), ax=axes, shrink=0.8)
    axes.set_title(f"Fisher matrix of the learned policy's {len(fisher)} parameters", fontsize=10)
    figure.savefig(run.dir / "metric.png", dpi=120)
    run.picture(run.dir / "metric.png")


# --- environments in lockstep ----------------------------------------------------------------


@dataclass
class FrozenPolicy:
    """The policy of one batch in plain numpy, which serves a handful of environments three times faster than torch."""

    layers: list[tuple[np.ndarray, np.ndarray]]  # weights [in, out] and bias [out] of each

    def noise(self, rng: np.random.Generator, shape: tuple) -> np.ndarray:
        """What act adds to sample: Gumbel noise, for an argmax of logits with it is a softmax sample."""
        return rng.gumbel(size=(*shape, len(self.layers[-1][1]))).astype(np.float32)

    def act(self, obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        """obs [n, obs], noise [n, actions] -> actions [n, 1]; without noise (0) the most likely ones."""
        x = obs
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        return (x @ weight + bias + noise).argmax(axis=1)[:, None]


def freeze(policy: nn.Module) -> FrozenPolicy:
    """The policy as the environments get it."""
    linears = [layer for layer in policy.net if isinstance(layer, nn.Linear)]
    return FrozenPolicy([(x.weight.T.numpy(force=True).copy(), x.bias.numpy(force=True).copy()) for x in linears])


class Envs:
    """Environments that are stepped together: all at once where Gymnasium has such a version, else one by one.

    All of them reset themselves in the step after an end (next-step autoreset): that step is no transition.
    """

    def __init__(self, env_id: str, num_envs: int):
        self.num_envs = num_envs
        if gym.spec(env_id).vector_entry_point:  # CartPole
            self.envs = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point")
        else:
            self.envs = gym.vector.SyncVectorEnv([partial(make_env, env_id)] * num_envs)
        self.action_space = self.envs.single_action_space

    def reset(self, rng: np.random.Generator):
        """Begin new episodes everywhere."""
        seeds = rng.integers(2**31, size=self.num_envs).tolist()
        many = isinstance(self.envs, gym.vector.SyncVectorEnv)
        self.obs = self.envs.reset(seed=seeds if many else seeds[0])[0].astype(np.float32)
        self.ended = np.zeros(self.num_envs, bool)
        self.returns, self.lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, int)

    def for_envs(self, actions: np.ndarray) -> np.ndarray:
        """Actions [n, 1] as the environments take them: whole numbers [n]."""
        return actions[:, 0] + self.action_space.start

    def step(self, actions: np.ndarray) -> tuple:
        """actions [n, 1] -> rewards, terminations, ends [n], the (return, length) of the episodes that ended."""
        self.lengths += ~self.ended
        obs, rewards, terminations, truncations, _ = self.envs.step(self.for_envs(actions))
        self.obs, self.ended = obs.astype(np.float32), terminations | truncations
        self.returns += rewards
        episodes = [(float(self.returns[i]), int(self.lengths[i])) for i in self.ended.nonzero()[0]]
        self.returns[self.ended] = self.lengths[self.ended] = 0
        return rewards, terminations, self.ended, episodes

    def gather(self, policy: FrozenPolicy, num_steps: int, rng: np.random.Generator) -> tuple[dict, list]:
        """num_steps of each of the n environments: arrays [num_steps, n, ...], and the episodes that ended.

        obs has a row more, for the state after the last step. `alive` is False where a step only began an episode.
        """
        names = ("actions", "rewards", "terminations", "cuts")
        noise, episodes = policy.noise(rng, (num_steps, self.num_envs)), []
        lists = {name: [] for name in ("obs", "alive", *names)}
        for t in range(num_steps):
            lists["obs"].append(self.obs)
            lists["alive"].append(~self.ended)
            actions = policy.act(self.obs, noise[t])
            *outcome, ended = self.step(actions)
            episodes += ended
            for name, x in zip(names, (actions, *outcome), strict=True):
                lists[name].append(x)
        lists["obs"].append(self.obs)
        dtypes = {"alive": bool}
        return {name: np.stack(x).astype(dtypes.get(name, np.float32)) for name, x in lists.items()}, episodes


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


def make_networks(args: Args, obs_dim: int, num_actions: int, device: torch.device) -> tuple:
    generator = torch.Generator().manual_seed(int(stream(args.seed, NETWORKS).integers(2**63)))
    policy = CategoricalPolicy([obs_dim, *args.policy_units, num_actions], generator).to(device)
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())
    if num_parameters > MAX_PARAMETERS:
        raise UsageError(
            f"--policy-units: a policy of {num_parameters:,} parameters, and here the matrix is written out: at most "
            f"{MAX_PARAMETERS:,}. trpo.py does without the matrix"
        )
    return policy, NetworkValue([obs_dim, *args.value_units, 1], args.value_learning_rate, generator, device)


def score(policy: FrozenPolicy, args: Args, num_episodes: int = 100) -> tuple[float, float]:
    """Mean and standard deviation of the return of the most likely actions, over new episodes."""
    envs = Envs(args.env_id, num_episodes)
    envs.reset(stream(args.seed, EVALUATION))
    returns, alive = np.zeros(num_episodes), np.ones(num_episodes, bool)
    while alive.any():
        rewards, _, ended, _ = envs.step(policy.act(envs.obs, 0))
        returns += rewards * alive
        alive &= ~ended
    envs.envs.close()
    return float(returns.mean()), float(returns.std())


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
            return learn(args, checkpoint, envs, *make_networks(args, obs_dim, num_actions, device), device)
    finally:
        envs.envs.close()


def learn(args: Args, checkpoint: dict | None, envs: Envs, policy, value, device: torch.device) -> dict:
    """The loop: gather, estimate, update, log."""
    update, global_step, elapsed, cpu = 0, 0, 0.0, 0.0
    last_returns = deque(maxlen=100)

    def state() -> dict:
        counters = {"update": update, "global_step": global_step, "elapsed": elapsed, "cpu": cpu}
        return counters | {"policy": policy.state_dict(), "value": value.state(), "last_returns": list(last_returns)}

    if checkpoint:
        try:
            policy.load_state_dict(checkpoint["policy"])
            value.restore(checkpoint["value"])
            last_returns.extend(checkpoint["last_returns"])
            update, global_step, elapsed, cpu = (checkpoint[key] for key in ("update", "global_step", "elapsed", "cpu"))
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
            start, cpu_start = time.perf_counter(), time.process_time()
            if update % args.checkpoint_every == 0:  # everything random begins anew: no state of it is saved
                rng = stream(args.seed, EPISODES, update)
                envs.reset(rng)
            arrays, episodes = envs.gather(freeze(policy), args.num_steps, rng)
            batch = {name: torch.as_tensor(x, device=device) for name, x in arrays.items()}
            losses = update_networks(policy, value, estimate_advantages(batch, value, args), args)
            losses = {name: float(x) for name, x in losses.items()}

            returns, lengths = [r for r, _ in episodes], [length for _, length in episodes]
            last_returns.extend(returns)
            update += 1
            steps = int(arrays["alive"].sum())
            global_step += steps
            elapsed, cpu = elapsed + time.perf_counter() - start, cpu + time.process_time() - cpu_start
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(np.mean(returns)) if returns else None,
                "charts/episodic_return_100": float(np.mean(last_returns)) if last_returns else None,
                "charts/episodic_length": float(np.mean(lengths)) if lengths else None,
                "charts/SPS": global_step / elapsed,
                **losses,
                "time/elapsed": elapsed,
                "time/cpu": cpu,
                "eval/episodic_return": None,
            }
            if not all(math.isfinite(x) for x in losses.values()):
                raise FloatingPointError(f"the learning diverged at step {global_step:,}: {losses}")
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/episodic_return"], std = score(freeze(policy), args)
            run.log(row)
            if finished or update % args.checkpoint_every == 0:
                run.save(state())
            bar.update(steps)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

        run.plot("charts/episodic_return_100")
        fisher = policy_metric(policy, batch["obs"][:-1][batch["alive"]], replace(args, metric="kl"))
        draw_metric(run, fisher)
        if args.capture_video:
            player = freeze(policy)
            record_episode(args.env_id, lambda obs: envs.for_envs(player.act(obs[None], 0))[0], run, args.seed)
        result = f"return {row['eval/episodic_return']:.1f} +- {std:.1f} (most likely actions, 100 episodes)"
        print(f"{result} after {global_step:,} steps at {row['charts/SPS']:,.0f} steps/s: {run.dir}")
    return row


def evaluate(folder: Path) -> tuple[float, float]:
    """Play 100 episodes of the most likely actions with the policy of a run: mean and standard deviation."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    policy, _ = make_networks(args, *check_spaces(args), CPU)
    try:
        policy.load_state_dict(checkpoint["policy"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"--evaluate {folder}: the checkpoint does not fit {args.env_id} ({error})") from None
    mean, std = score(freeze(policy), args)
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
