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
"""Actor-critic: do not wait for the episode's end, ask a critic what will become of it.

    python algos/actor_critic.py --env-id CartPole-v1
    python algos/actor_critic.py --num-steps 1 --log-every 32 --learning-rate 0.001 --value-epochs 1
    python algos/actor_critic.py --env-id InvertedPendulum-v5 --capture-video

REINFORCE learns once an episode is over, from a sum of everything that happened by chance until then. A value function
estimates that sum instead: reward plus discounted value of the next state, less the value of this one, is the TD error,
and it says how much better than expected an action was, one step after it was taken. With --num-steps n the errors
of up to n steps are summed up: less trust in the critic, more noise. The critic learns from the same errors.

Expect CartPole-v1 at 475, mean of the last 100 training episodes, after 61,000 to 126,000 steps (5 seeds), in 1.6 to
2.9 seconds of a busy CPU core, one step at a time (the second command) after 118,000 steps (one seed), in 25 seconds;
and InvertedPendulum-v5 at 950 after 118,000 to 198,000 steps (3 seeds).

Papers
    Kevin Frans 2016, on policies (the post): the TD error in place of the return.
    Jimmy Ba, CSC413/2516, lecture 10 (the lecture): actor-critic as REINFORCE's next step.
    Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning" (arXiv 1602.01783): n-step returns in
    several environments at once.

Differences from the post
    1. Several environments advance together, and an update is one step of Adam on their mean; the critic makes several.
    2. An episode that is cut off by its time limit would have gone on: its last value is bootstrapped. Once terminated,
       nothing follows.
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
    """Gymnasium environment with flat observations; without a version, the newest"""
    total_timesteps: int = 500_000
    """environment steps to train for; the update that reaches it is finished"""
    num_envs: int = 16
    """environments, stepped together"""
    num_steps: int = 32
    """steps of each environment per update, whose TD errors are summed up; 1 is the post's"""
    gamma: float = 0.99
    """discount per step, in (0, 1]"""
    policy: Literal["linear", "mlp"] = "mlp"
    """one layer, or two tanh layers of 64 units below it"""
    learning_rate: float = 0.005
    """Adam step of the policy"""
    log_std_init: float = -0.5
    """first log standard deviation of continuous actions"""
    value_units: tuple[int, ...] = (64, 64)
    """tanh units in each layer of the value network"""
    value_learning_rate: float = 0.01
    """Adam step of the value network"""
    value_epochs: int = 5
    """gradient steps of the value network on each batch"""
    log_every: int = 1
    """updates between rows of metrics.csv"""
    checkpoint_every: int = 200
    """rows between checkpoints; all environments start over at each, so that --resume repeats the run exactly"""

    def __post_init__(self):
        least_one = ["total_timesteps", "num_envs", "num_steps", "value_epochs", "log_every", "checkpoint_every"]
        for name in [*least_one, "torch_threads"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["learning_rate", "value_learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not self.value_units or min(self.value_units) < 1:
            raise UsageError("--value-units must be numbers of at least 1, such as 64 64")
        if not 0 < self.gamma <= 1:
            raise UsageError("--gamma must lie in (0, 1]")
        if self.seed < 0 or not abs(self.log_std_init) < 20:
            raise UsageError("--seed must not be negative, --log-std-init within 20 of 0")


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

    def __init__(self, sizes: list[int], log_std_init: float, generator: torch.Generator):
        super().__init__()
        self.net = mlp(sizes, 0.01, generator)
        self.log_std = nn.Parameter(torch.full((sizes[-1],), float(log_std_init)))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        mean = self.net(obs)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)

    @staticmethod
    def log_prob(params: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a|s): params [n, 2 * actions], actions [n, actions] -> [n]."""
        mean, log_std = params.chunk(2, dim=1)
        return (-0.5 * ((actions - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=1)

    @staticmethod
    def entropy(params: torch.Tensor) -> torch.Tensor:
        """Differential entropy in nats: [n, 2 * actions] -> [n]."""
        return (params.chunk(2, dim=1)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=1)


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


# --- the policy gradient ---------------------------------------------------------------------


def policy_gradient_loss(policy, obs, actions, advantages) -> torch.Tensor:
    """Minus the mean of advantage times log pi(a|s): obs [n, obs], actions [n, actions], advantages [n]."""
    return -(policy.log_prob(policy(obs), actions) * advantages).mean()


def update_networks(policy, optimizer, value, batch: dict, args: Args) -> dict:
    """One step of the policy, then the value function's fit. Returns the row's losses/*, on the device."""
    flat = {name: x[: len(batch["alive"])][batch["alive"]] for name, x in batch.items()}  # [samples, ...]
    loss = policy_gradient_loss(policy, flat["obs"], flat["actions"], flat["advantages"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value.fit(flat["obs"], flat["returns"], args.value_epochs)
    with torch.no_grad():
        gradient_norm = torch.stack([parameter.grad.norm() for parameter in policy.parameters()]).norm()
        explained = 1 - (flat["advantages"] ** 2).mean() / flat["returns"].var(correction=0).clamp(min=1e-8)
        entropy = policy.entropy(policy(flat["obs"])).mean()
    return {"losses/entropy": entropy, "losses/gradient_norm": gradient_norm, "losses/explained_variance": explained}


def stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for every key: one of the three below, then what tells its uses apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


NETWORKS, EPISODES, EVALUATION = range(3)


# --- environments in lockstep ----------------------------------------------------------------


@dataclass
class FrozenPolicy:
    """The policy of one batch in plain numpy, which serves a handful of environments three times faster than torch."""

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
        x = obs
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        x = x @ weight + bias + noise
        return x if self.std is not None else x.argmax(axis=1)[:, None]


def freeze(policy: nn.Module) -> FrozenPolicy:
    """The policy as the environments get it."""
    linears = [layer for layer in policy.net if isinstance(layer, nn.Linear)]
    layers = [(layer.weight.T.numpy(force=True).copy(), layer.bias.numpy(force=True).copy()) for layer in linears]
    return FrozenPolicy(layers, policy.log_std.exp().numpy(force=True) if isinstance(policy, GaussianPolicy) else None)


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
        """Actions [n, actions] as the environments take them: clipped to the space, or whole numbers [n]."""
        if isinstance(self.action_space, Discrete):
            return actions[:, 0] + self.action_space.start
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def step(self, actions: np.ndarray) -> tuple:
        """actions [n, actions] -> rewards, terminations, ends [n], the (return, length) of the episodes that ended."""
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


def check_spaces(args: Args) -> tuple[int, gym.Space]:
    """Size of the observations and the action space. Completes env_id. Raises UsageError for other spaces."""
    env = make_env(args.env_id)
    obs_space, action_space, args.env_id = env.observation_space, env.action_space, env.spec.id
    env.close()
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if not isinstance(action_space, Discrete) and not (isinstance(action_space, Box) and len(action_space.shape) == 1):
        raise UsageError(f"--env-id {args.env_id}: needs discrete or flat continuous actions, has {action_space}")
    return obs_space.shape[0], action_space


def make_networks(args: Args, obs_dim: int, action_space: gym.Space, device: torch.device) -> tuple:
    generator = torch.Generator().manual_seed(int(stream(args.seed, NETWORKS).integers(2**63)))
    layers = [obs_dim] if args.policy == "linear" else [obs_dim, 64, 64]
    if isinstance(action_space, Discrete):
        policy = CategoricalPolicy([*layers, int(action_space.n)], generator).to(device)
    else:
        policy = GaussianPolicy([*layers, action_space.shape[0]], args.log_std_init, generator).to(device)
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
    obs_dim, action_space = check_spaces(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    envs = Envs(args.env_id, args.num_envs)
    try:
        with torch_settings(args):
            return learn(args, checkpoint, envs, *make_networks(args, obs_dim, action_space, device), device)
    finally:
        envs.envs.close()


def learn(args: Args, checkpoint: dict | None, envs: Envs, policy, value, device: torch.device) -> dict:
    """The loop: gather, estimate, update, log."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate, fused=True)
    row_number, global_step, elapsed, cpu = 0, 0, 0.0, 0.0
    last_returns = deque(maxlen=100)

    def state() -> dict:
        counters = {"row_number": row_number, "global_step": global_step, "elapsed": elapsed, "cpu": cpu}
        learned = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "value": value.state()}
        return learned | counters | {"last_returns": list(last_returns)}

    if checkpoint:
        try:
            policy.load_state_dict(checkpoint["policy"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            value.restore(checkpoint["value"])
            last_returns.extend(checkpoint["last_returns"])
            row_number, global_step, elapsed, cpu = (
                checkpoint[key] for key in ("row_number", "global_step", "elapsed", "cpu")
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
            start, cpu_start, before = time.perf_counter(), time.process_time(), global_step
            if row_number % args.checkpoint_every == 0:  # everything random begins anew: no state of it is saved
                rng = stream(args.seed, EPISODES, row_number)
                envs.reset(rng)
            episodes = []
            for _ in range(args.log_every):
                arrays, ended = envs.gather(freeze(policy), args.num_steps, rng)
                if not arrays["alive"].any():  # all that happened is that episodes began: never in a run's first batch
                    continue
                batch = {name: torch.as_tensor(x, device=device) for name, x in arrays.items()}
                losses = update_networks(policy, optimizer, value, estimate_advantages(batch, value, args), args)
                episodes += ended
                global_step += int(arrays["alive"].sum())
            losses = {name: float(x) for name, x in losses.items()}
            returns, lengths = [r for r, _ in episodes], [length for _, length in episodes]
            last_returns.extend(returns)
            row_number += 1
            elapsed, cpu = elapsed + time.perf_counter() - start, cpu + time.process_time() - cpu_start
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(np.mean(returns)) if returns else None,
                "charts/episodic_return_100": float(np.mean(last_returns)) if last_returns else None,
                "charts/episodic_length": float(np.mean(lengths)) if lengths else None,
                "charts/SPS": global_step / elapsed,
                **losses,
                "time/cpu": cpu,
                "time/elapsed": elapsed,
                "eval/episodic_return": None,
            }
            if not all(math.isfinite(x) for x in losses.values()):
                raise FloatingPointError(f"the learning diverged at step {global_step:,}: {losses}")
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/episodic_return"], std = score(freeze(policy), args)
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.update(global_step - before)
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

        run.plot("charts/episodic_return_100")
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
