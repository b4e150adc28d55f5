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
"""Evolution strategies: try random changes of the parameters, and go where the better ones went.

    python algos/es.py
    python algos/es.py --activation sign
    torchrun --nproc-per-node 2 algos/es.py --env-id Swimmer --num-actors 1

Every update perturbs the parameters with Gaussian noise, plays one episode with each perturbed policy, and adds up the
perturbations, weighted by how well they did: a gradient of the expected return, without backpropagation, so policies
may be deterministic and even discontinuous (--activation sign). All randomness comes from numbers that every process
knows, so each regenerates the others' noise: only returns, and the moments of the observations, are exchanged, and the
curve is the same for any number of processes and machines. Noise and environments stay on the host; --cuda evaluates
the networks on a GPU, which pays for thousands of members side by side only.

Expect a score of 475 on CartPole-v1 after 7,000 to 28,000 steps, with --activation sign after 32,000 to 69,000 (3 seeds
each), in seconds on a CPU core; the paper's 1,000 on InvertedPendulum-v5 after 77,000 to 171,000 and its 128 on
Swimmer-v5 after 160,000 to 320,000 (3 seeds); its 2,386 on HalfCheetah-v5 after 1.0 to 1.3 million (3 seeds) with
--learning-rate 0.02. The default of 0.05 got there after a million with one seed, with another not within 800,000.
A score once reached may dip again: Adam makes full steps, even where few members still differ.

Papers
    Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning" (arXiv 1703.03864):
    algorithm 1, table 3; and its code, openai/evolution-strategies-starter, here called the paper's.
    Jimmy Ba, "Generative models & reinforcement learning" (CSC413/2516, lecture 10): the same algorithm, explained.

Algorithm 1 alone is --no-antithetic --no-centered-ranks --no-adam --weight-decay 0 --no-normalize-obs. Its returns are
no ranks, so its step size is another: --learning-rate 0.00002 on CartPole.

Differences from the paper
    1. Observations are normalized by running moments and clipped at 5 standard deviations, as in the paper's code for
       MuJoCo; the moments are of all episodes, not of one in a hundred. There is no virtual batch normalization.
    2. Actions are what the network says, clipped to the space; the paper's ten bins a dimension for Swimmer and Hopper,
       and the action noise of its code, are left out.
    3. Members with equal returns share a rank, so that noise is not followed where nothing can be told apart.
    4. Weight decay is taken off the parameters and does not go through Adam; the paper's code adds it to the gradient.
    5. An update plays one episode per member; the paper's code goes on until 10,000 episodes and 100,000 steps on
       Humanoid. The population of 32 is for budgets of hundreds or thousands of episodes.
    6. The noise is drawn again from its seed; the paper's code looks it up in a table that every process holds.
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
from contextlib import nullcontext
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
from tqdm import tqdm

HIDDEN = (64, 64)
OBS_CLIP = 5.0  # in standard deviations
BETA1, BETA2 = 0.9, 0.999  # Adam's


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the network, the perturbations and the episodes; the same seed gives the same curve"""
    cuda: bool = False
    """evaluate the networks on a GPU if there is one; the environments stay on the CPU"""
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
    total_timesteps: int = 200_000
    """environment steps to train for, those of scoring not counted; the update that reaches it is finished"""
    population: int = 32
    """perturbed policies per update, one episode each: the n of algorithm 1"""
    group_size: int = 16
    """members that are played side by side: the unit of work, an actor takes whole groups"""
    num_actors: int = 0
    """processes that play, this one among them; 0 for one per core. Does not change the curve"""
    sigma: float = 0.05
    """standard deviation of the perturbations"""
    learning_rate: float = 0.05
    """step size alpha"""
    antithetic: bool = True
    """perturb in pairs, once in a direction and once against it"""
    centered_ranks: bool = True
    """replace returns by their ranks, from -0.5 for the worst member to 0.5 for the best"""
    adam: bool = True
    """give the gradient to Adam; without: plain gradient ascent"""
    weight_decay: float = 0.1
    """share of every parameter that each update takes off, in units of the learning rate"""
    normalize_obs: bool = True
    """normalize observations by their running moments"""
    activation: Literal["tanh", "sign"] = "tanh"
    """nonlinearity of the two hidden layers; sign is flat wherever it is continuous: backpropagation learns nothing"""
    eval_every: int = 5
    """updates between scores of the unperturbed policy"""
    eval_episodes: int = 10
    """episodes of a score; their steps do not count"""
    checkpoint_every: int = 50
    """updates between checkpoints"""

    def __post_init__(self):
        for name in ["total_timesteps", "group_size", "eval_every", "eval_episodes", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.population < 2:
            raise UsageError("--population must be at least 2: members are weighed against each other")
        if self.population % self.group_size:
            raise UsageError(f"--population {self.population} must be a multiple of --group-size {self.group_size}")
        if self.antithetic and self.group_size % 2:
            raise UsageError(f"--group-size {self.group_size} must be even for pairs, or give --no-antithetic")
        for name in ["sigma", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.weight_decay * self.learning_rate < 1:
            raise UsageError("--weight-decay times --learning-rate must lie in [0, 1)")
        if min(self.seed, self.num_actors) < 0:
            raise UsageError("--seed and --num-actors must not be negative")


# --- the algorithm ---------------------------------------------------------------------------


def draw_noise(args: Args, update: int, group: int, num_parameters: int) -> np.ndarray:
    """The perturbations epsilon of a group's members in an update: [group_size, d].

    They follow from the seed and these numbers, so that whoever needs them draws them again.
    """
    rows = args.group_size // 2 if args.antithetic else args.group_size
    noise = stream(args.seed, NOISE, update, group).standard_normal((rows, num_parameters), dtype=np.float32)
    return np.concatenate([noise, -noise]) if args.antithetic else noise


def centered_ranks(returns: np.ndarray) -> np.ndarray:
    """Returns [n] -> ranks [n] from -0.5 to 0.5; equal returns share the mean of their ranks."""
    _, which, counts = np.unique(returns, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2  # of each different return: from 0 for the lowest to n - 1
    return ranks[which] / (len(returns) - 1) - 0.5


class Search:
    """The search distribution and what moves it.

    Every process has one of its own, and all of them stay the same: they see the same returns and regenerate the same
    noise. Sums are taken element by element, never as a matrix product, whose bits depend on the kind of processor.
    """

    def __init__(self, args: Args, sizes: list[int]):
        self.args, self.sizes = args, sizes
        self.theta = initial_parameters(sizes, stream(args.seed, NETWORK))  # the mean, [d]
        self.first, self.second = np.zeros_like(self.theta), np.zeros_like(self.theta)  # Adam's moments
        self.normalizer = ObsNormalizer(sizes[0])
        self.updates = 0

    def population(self, group: int) -> np.ndarray:
        """The perturbed parameters of a group: [group_size, d]."""
        noise = draw_noise(self.args, self.updates, group, len(self.theta))
        noise *= self.args.sigma
        noise += self.theta  # algorithm 1, line 4: theta + sigma epsilon
        return noise

    def gradient(self, returns: np.ndarray) -> np.ndarray:
        """Of the expected return in theta, estimated from the members' returns [n]: [d]."""
        fitness = centered_ranks(returns) if self.args.centered_ranks else returns
        total = np.zeros(len(self.theta))
        for group, weights in enumerate(fitness.reshape(-1, self.args.group_size)):
            noise = draw_noise(self.args, self.updates, group, len(self.theta))
            total += (weights[:, None].astype(np.float32) * noise).sum(axis=0)
        return (total / (len(returns) * self.args.sigma)).astype(np.float32)  # algorithm 1, line 5

    def update(self, results: list[dict]) -> dict:
        """One step from what all groups played, in their order. Returns the row's losses/*."""
        step = gradient = self.gradient(np.concatenate([result["returns"] for result in results]))
        for result in results:
            self.normalizer.update(*result["moments"])
        self.updates += 1
        if self.args.adam:
            self.first += (1 - BETA1) * (gradient - self.first)
            self.second += (1 - BETA2) * (gradient**2 - self.second)
            mean, square = self.first / (1 - BETA1**self.updates), self.second / (1 - BETA2**self.updates)
            step = mean / (np.sqrt(square) + 1e-8)
        # Off the parameters, not into Adam: where all returns tie, it would blow the decay up to full steps.
        self.theta += self.args.learning_rate * (step - self.args.weight_decay * self.theta)
        names = ("losses/gradient_norm", "losses/parameter_norm")
        return dict(zip(names, (float(np.linalg.norm(x)) for x in (gradient, self.theta)), strict=True))

    def state(self) -> dict:
        arrays = {name: torch.tensor(getattr(self, name)) for name in ("theta", "first", "second")}
        return arrays | {"normalizer": self.normalizer.state(), "updates": self.updates}

    def restore(self, state: dict):
        for name in ("theta", "first", "second"):
            if state[name].shape != self.theta.shape:
                raise RuntimeError(f"{name} has {len(state[name])} numbers, not {len(self.theta)}")
            setattr(self, name, state[name].numpy())
        self.normalizer.restore(state["normalizer"])
        self.updates = state["updates"]


def stream(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for every key: one of the four below, then what tells its uses apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


NETWORK, NOISE, EPISODES, EVALUATION = range(4)


# --- the policies ----------------------------------------------------------------------------


def initial_parameters(sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Weights and biases of all layers in one vector [d]; a unit's weights have length 1, of the last layer 0.01."""
    parts = []
    for n_in, n_out in pairwise(sizes):
        weights = rng.standard_normal((n_in, n_out))
        weights *= (0.01 if len(parts) == 2 * len(HIDDEN) else 1.0) / np.linalg.norm(weights, axis=0)
        parts += [weights.ravel(), np.zeros(n_out)]
    return np.concatenate(parts).astype(np.float32)


class Policies:
    """One network per member. NumPy evaluates them on the CPU, PyTorch on a GPU; both have the functions used here.

    A product of stacked matrices multiplies each member's on its own: what a member does depends on no other.
    """

    def __init__(self, parameters: np.ndarray, sizes: list[int], activation: str, device: torch.device | None = None):
        """parameters [n, d]; device None for NumPy."""
        self.device, self.activation = device, getattr(np if device is None else torch, activation)
        stack = parameters if device is None else torch.as_tensor(parameters, device=device)
        self.layers, start = [], 0
        for n_in, n_out in pairwise(sizes):
            middle, end = start + n_in * n_out, start + (n_in + 1) * n_out
            weights = stack[:, start:middle].reshape(-1, n_in, n_out)  # [n, n_in * n_out] -> [n, n_in, n_out]
            self.layers.append((weights, stack[:, middle:end].reshape(-1, 1, n_out)))  # the biases [n, 1, n_out]
            start = end

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """obs [n, obs] -> outputs [n, out]: an action, or a preference for each of them."""
        x = obs[:, None] if self.device is None else torch.as_tensor(obs[:, None], device=self.device)  # [n, 1, obs]
        for i, (weights, bias) in enumerate(self.layers):
            if i:
                x = self.activation(x)
            x = x @ weights + bias
        return x[:, 0] if self.device is None else x[:, 0].numpy(force=True)

    def keep(self, rows: np.ndarray):
        """Forget all members but these: rows [n] bool."""
        rows = rows if self.device is None else torch.as_tensor(rows, device=self.device)
        self.layers = [(weights[rows], bias[rows]) for weights, bias in self.layers]


class ObsNormalizer:
    """Moments of all observations so far. They change between updates only, as theta does."""

    def __init__(self, obs_dim: int):
        self.count, self.mean, self.var = 0, np.zeros(obs_dim), np.ones(obs_dim)

    def update(self, count: int, mean: np.ndarray, var: np.ndarray):
        """Merge the moments of more observations (Chan et al. 1979): mean and variance [obs]."""
        total, delta = self.count + count, mean - self.mean
        squares = self.var * self.count + var * count + delta**2 * self.count * count / total
        self.count, self.mean, self.var = total, self.mean + delta * count / total, squares / total

    def state(self) -> dict:
        return {"count": self.count, "mean": torch.tensor(self.mean), "var": torch.tensor(self.var)}

    def restore(self, state: dict):
        self.count, self.mean, self.var = state["count"], state["mean"].numpy(), state["var"].numpy()

    def function(self):
        """What the policies see of obs [n, obs], as a function that has its constants at hand."""
        mean, scale = self.mean.astype(np.float32), (1 / np.sqrt(self.var + 1e-8)).astype(np.float32)
        return lambda obs: np.minimum(np.maximum((obs - mean) * scale, -OBS_CLIP), OBS_CLIP)


# --- episodes side by side -------------------------------------------------------------------


class Copies:
    """Environments stepped one by one, called as Gymnasium's vectors of them are; an ended one stands still."""

    def __init__(self, env_id: str, num_envs: int):
        self.envs = [make_env(env_id) for _ in range(num_envs)]
        self.single_action_space = self.envs[0].action_space
        self.obs = np.zeros((num_envs, *self.envs[0].observation_space.shape), np.float32)

    def reset(self, seed: int, options: dict) -> tuple[np.ndarray, dict]:
        """Start a new episode in the first options["num_envs"] of them."""
        seeds = np.random.default_rng(seed).integers(2**31, size=len(self.envs)).tolist()
        self.playing = list(range(options["num_envs"]))
        for i in self.playing:
            self.obs[i], _ = self.envs[i].reset(seed=seeds[i])
        return self.obs, {}

    def step(self, actions: np.ndarray) -> tuple:
        rewards = np.zeros(len(self.envs))
        terminations, truncations = np.zeros(len(self.envs), bool), np.zeros(len(self.envs), bool)
        for i in self.playing.copy():
            self.obs[i], rewards[i], terminations[i], truncations[i], _ = self.envs[i].step(actions[i])
            if terminations[i] or truncations[i]:
                self.playing.remove(i)
        return self.obs, rewards, terminations, truncations, {}

    def close(self):
        for env in self.envs:
            env.close()


class Group:
    """Members of the population that are played side by side: their index decides what they do, not who plays them."""

    def __init__(self, args: Args, index: int):
        self.args, self.index = args, index
        gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        self.device = gpu if args.cuda and torch.cuda.is_available() else None  # asked only after the actors' fork
        if gym.spec(args.env_id).vector_entry_point:
            self.envs = gym.make_vec(args.env_id, args.group_size, vectorization_mode="vector_entry_point")
        else:
            self.envs = Copies(args.env_id, args.group_size)

    def for_envs(self, outputs: np.ndarray) -> np.ndarray:
        """The networks' outputs [n, out] as the environments take them: clipped to the space, or whole numbers [n]."""
        space = self.envs.single_action_space
        if isinstance(space, Discrete):
            return outputs.argmax(axis=1) + space.start
        return np.minimum(np.maximum(outputs, space.low), space.high)

    def play(self, search: Search, parameters: np.ndarray, rng: np.random.Generator) -> dict:
        """An episode of each of the policies [n, d]: returns [n], lengths [n] and the moments of the observations.

        Next-step autoreset: a vector's ended environment starts over by itself, and what it does then does not count.
        """
        n, policies = len(parameters), Policies(parameters, search.sizes, self.args.activation, self.device)
        normalize = search.normalizer.function() if self.args.normalize_obs else lambda obs: obs
        returns, lengths, seen = np.zeros(n), np.zeros(n, int), []
        rows = np.arange(n)  # the members whose episode goes on
        obs, _ = self.envs.reset(seed=int(rng.integers(2**31)), options={"num_envs": n})
        space = self.envs.single_action_space
        actions = np.zeros((self.args.group_size, *space.shape), space.dtype)
        while len(rows):
            seen.append(obs[rows])
            actions[rows] = self.for_envs(policies(normalize(seen[-1])))
            obs, rewards, terminations, truncations, _ = self.envs.step(actions)
            returns[rows] += rewards[rows]
            lengths[rows] += 1
            going_on = ~(terminations | truncations)[rows]
            if not going_on.all():
                policies.keep(going_on)
                rows = rows[going_on]
        seen = np.concatenate(seen).astype(np.float64)
        return {"returns": returns, "lengths": lengths, "moments": (len(seen), seen.mean(axis=0), seen.var(axis=0))}

    def evolve(self, search: Search) -> dict:
        """An episode of every member."""
        rng = stream(self.args.seed, EPISODES, search.updates, self.index)  # from numbers: no state has to be kept
        return self.play(search, search.population(self.index), rng)

    def score(self, search: Search, num_episodes: int) -> list[float]:
        """Returns of the unperturbed policy in this group's share of so many new episodes."""
        groups, rng = self.args.population // self.args.group_size, stream(self.args.seed, EVALUATION, self.index)
        left, returns = len(range(self.index, num_episodes, groups)), []
        while left > 0:
            n = min(left, self.args.group_size)
            returns += self.play(search, np.tile(search.theta, (n, 1)), rng)["returns"].tolist()
            left -= n
        return returns


# --- processes: they share out the groups, and tell each other returns -----------------------


class Actors:
    """Groups shared out to processes, each with its own copy of the search. This process is one of them."""

    def __init__(self, args: Args, search: Search):
        indices, world = np.arange(args.population // args.group_size), int(os.environ.get("WORLD_SIZE", "1"))
        local = np.array_split(indices, world)[int(os.environ.get("RANK", "0"))]
        shares = np.array_split(local, max(1, min(args.num_actors or count_cores(), len(local))))
        self.search, self.connections, self.processes = search, [], []
        for share in shares[1:]:
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(target=actor, args=(there, args, search, share.tolist()), daemon=True)
            process.start()
            there.close()  # so that its death is the end of the file here, not silence
            self.connections.append(here)
            self.processes.append(process)
        self.groups = [Group(args, index) for index in shares[0].tolist()]

    def call(self, method: str, *args) -> list:
        """Group.method(search, *args) of every group of every process, in their order, whoever works on them."""
        try:
            for connection in self.connections:
                connection.send((method, args))
            results = [getattr(group, method)(self.search, *args) for group in self.groups]
            for connection in self.connections:
                results += connection.recv()
        except (EOFError, ConnectionError):
            codes = [process.exitcode for process in self.processes]
            raise RuntimeError(f"an actor process died (exit codes {codes}): out of memory?") from None
        return gather_lists(results)

    def update(self, results: list[dict]) -> dict:
        """Everyone's search makes the same step."""
        for connection in self.connections:
            connection.send(("update", results))
        return self.search.update(results)

    def close(self):
        for process in self.processes:
            process.terminate()
            process.join()
        for group in self.groups:
            group.envs.close()


def actor(connection, args: Args, search: Search, indices: list[int]):
    """An actor process: make these groups, then do as told until the one who asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process to handle
    groups = [Group(args, index) for index in indices]
    while connection in wait([connection, multiprocessing.parent_process().sentinel]):
        method, arguments = connection.recv()
        if method == "update":
            search.update(arguments)
        else:
            connection.send([getattr(group, method)(search, *arguments) for group in groups])


def gather_lists(local: list) -> list:
    """The lists of torchrun's processes, one after the other."""
    if not dist.is_initialized():
        return local
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, local)
    return [item for one in everyone for item in one]


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


def check_spaces(args: Args) -> list[int]:
    """Sizes of the network's layers. Completes env_id. Raises UsageError for spaces that it cannot play."""
    env = make_env(args.env_id)
    obs_space, action_space, args.env_id = env.observation_space, env.action_space, env.spec.id
    env.close()
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if isinstance(action_space, Discrete):
        return [obs_space.shape[0], *HIDDEN, int(action_space.n)]
    if isinstance(action_space, Box) and len(action_space.shape) == 1:
        return [obs_space.shape[0], *HIDDEN, action_space.shape[0]]
    raise UsageError(f"--env-id {args.env_id}: needs discrete or flat continuous actions, has {action_space}")


def make_search(args: Args, checkpoint: dict | None, flag: str) -> Search:
    """The search of a new run, or the one that a checkpoint holds; `flag` asked for that."""
    search = Search(args, check_spaces(args))
    if checkpoint:
        try:
            search.restore(checkpoint["search"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"{flag} {args.run_dir}: the checkpoint does not fit {args.env_id} ({error})") from None
    return search


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when a return is not a finite number: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    search = make_search(args, checkpoint, "--resume")
    if checkpoint and checkpoint["global_step"] >= args.total_timesteps:
        raise UsageError(f"--resume {args.run_dir}: that run is finished")
    actors = Actors(args, search)
    if "WORLD_SIZE" in os.environ:  # torchrun
        dist.init_process_group("gloo")
    try:
        return learn(args, checkpoint, search, actors)
    finally:
        actors.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def learn(args: Args, checkpoint: dict | None, search: Search, actors: Actors) -> dict:
    """The loop: play, update, score, log."""
    global_step, elapsed, last_returns = 0, 0.0, deque(maxlen=100)
    if checkpoint:
        global_step, elapsed = checkpoint["global_step"], checkpoint["elapsed"]
        last_returns.extend(checkpoint["last_returns"])

    def state() -> dict:
        counters = {"global_step": global_step, "elapsed": elapsed, "last_returns": list(last_returns)}
        return {"search": search.state()} | counters

    first = not dist.is_initialized() or dist.get_rank() == 0  # it alone writes
    run = Run(args, args.env_id, checkpoint and checkpoint["rows"]) if first else None
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while global_step < args.total_timesteps:
            start = time.perf_counter()
            results = actors.call("evolve")
            play_time = time.perf_counter() - start

            returns, lengths = (np.concatenate([result[key] for result in results]) for key in ("returns", "lengths"))
            if not np.isfinite(returns).all():
                raise FloatingPointError(f"a return is not a finite number after step {global_step:,}: {returns}")
            losses = actors.update(results)
            update_time = time.perf_counter() - start - play_time

            last_returns.extend(returns.tolist())
            global_step += int(lengths.sum())
            elapsed += play_time + update_time
            row = {
                "global_step": global_step,
                "charts/episodic_return": float(returns.mean()),
                "charts/best_return": float(returns.max()),
                "charts/episodic_return_100": float(np.mean(last_returns)),
                "charts/episodic_length": float(lengths.mean()),
                "charts/SPS": global_step / elapsed,
                **losses,
                "time/play": play_time,
                "time/update": update_time,
                "time/elapsed": elapsed,
                "eval/episodic_return": None,
            }
            finished = global_step >= args.total_timesteps
            if finished or search.updates % args.eval_every == 0:
                scores = actors.call("score", args.eval_episodes)
                row["eval/episodic_return"] = float(np.mean([x for group in scores for x in group]))
            if run:
                run.log(row)
                if finished or search.updates % args.checkpoint_every == 0:
                    run.save(state())
            bar.update(int(lengths.sum()))
            bar.set_postfix(episodic_return=row["charts/episodic_return_100"])

        if run:
            run.plot("eval/episodic_return")
            if args.capture_video:
                group, normalize = actors.groups[0], search.normalizer.function() if args.normalize_obs else np.asarray
                policy = Policies(search.theta[None], search.sizes, args.activation)
                record_episode(args.env_id, lambda obs: group.for_envs(policy(normalize(obs[None])))[0], run, args.seed)
            result = f"return {row['eval/episodic_return']:.1f} (unperturbed policy, {args.eval_episodes} episodes)"
            print(f"{result} after {global_step:,} steps at {row['charts/SPS']:,.0f} steps/s: {run.dir}")
    return row


def evaluate(folder: Path) -> tuple[float, float]:
    """Play 100 episodes of the unperturbed policy of a run: mean and standard deviation of the return."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    search = make_search(args, checkpoint, "--evaluate")
    actors = Actors(args, search)
    try:
        returns = [x for group in actors.call("score", 100) for x in group]
    finally:
        actors.close()
    mean, std = float(np.mean(returns)), float(np.std(returns))
    print(f"return {mean:.2f} +- {std:.2f} (100 episodes) after {checkpoint['global_step']:,} steps")
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
