# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control,mujoco]>=1.4", "matplotlib", "moviepy", "numpy", "pydantic>=2.6", "torch>=2.4",
#     "scipy", "tqdm", "tyro>=0.9.2", "wandb",
# ]
# ///
"""Evolution strategies: a gradient estimated from perturbed parameters, without backpropagation.

    python algos/es.py
    torchrun --nproc-per-node 2 algos/es.py --env-id HalfCheetah-v5 --total-timesteps 1600000 --learning-rate 0.02

An update perturbs the parameters theta by Gaussian noise in antithetic pairs and runs one episode of each perturbed
policy. The noise, weighted by the ranks F of the returns, estimates the gradient of E F(theta + sigma eps). The policy
is deterministic and may be discontinuous (--activation sign), where backpropagation finds no gradient.

Under torchrun, every process draws the noise of all processes from shared seeds, so they exchange only returns and the
moments of the observations, and the curve is the same for any number of processes. Each episode runs alone on a CPU
core, as in the paper: there is no --cuda.

Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning" (arXiv 1703.03864),
algorithm 2, table 3; the authors' code is openai/evolution-strategies-starter. Differences:

1. The two episodes of a pair begin in the same state.
2. Observations are normalized by the moments of all episodes, not of one in a hundred, and there is no action noise.
3. Equal returns share a rank. Weight decay is decoupled (AdamW).
4. The population is 32 and not 10,000 episodes: for budgets of a million steps.
"""

import csv
import json
import math
import os
import re
import sys
import time
from dataclasses import asdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers.utils import RunningMeanStd
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: NonNegativeInt = 1
    """seed of the experiment"""
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
    """environment steps, excluding evaluations"""
    population: Annotated[int, Field(ge=2, le=100_000, multiple_of=2)] = 32
    """perturbed policies per update, in antithetic pairs, one episode each"""
    sigma: Annotated[float, Field(gt=0, le=100)] = 0.05
    """standard deviation of the perturbations"""
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 0.05
    """Adam's learning rate"""
    weight_decay: NonNegativeFloat = 0.1
    """decoupled weight decay"""
    centered_ranks: bool = True
    """replace returns by their ranks, from -0.5 for the worst to 0.5 for the best"""
    normalize_obs: bool = True
    """normalize observations by their running mean and standard deviation"""
    activation: Literal["tanh", "sign"] = "tanh"
    """nonlinearity of the two hidden layers; the derivative of sign is 0"""
    eval_every: PositiveInt = 5
    """updates between evaluations of the unperturbed policy, ten episodes each"""


# --- the algorithm ---------------------------------------------------------------------------


def draw(seed: int, update: int, pair: int, size: int) -> tuple[np.ndarray, int]:
    """Noise eps [size] of a pair and the seed of its episodes, the same in every process."""
    rng = np.random.default_rng([seed, update, pair])
    return rng.standard_normal(size, dtype=np.float32), int(rng.integers(2**31))


def centered_ranks(returns: np.ndarray) -> np.ndarray:
    """Returns [n] -> ranks from -0.5 to 0.5; equal returns share the mean of their ranks."""
    from scipy.stats import rankdata

    return (rankdata(returns) - 1) / (len(returns) - 1) - 0.5


def estimate_gradient(fitness: np.ndarray, args: Args, update: int, size: int) -> np.ndarray:
    """1 / (n sigma) sum_i F_i eps_i (algorithm 2, line 11): F [pairs, 2] of +eps and -eps -> [size]."""
    gradient = np.zeros(size, np.float32)
    for pair, (plus, minus) in enumerate(fitness):
        gradient += np.float32(plus - minus) * draw(args.seed, update, pair, size)[0]
    return gradient / np.float32(fitness.size * args.sigma)


def layers(theta: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Views of theta [d], one per layer [in + 1, out]; the last row is the bias."""
    ends = np.cumsum([(n_in + 1) * n_out for n_in, n_out in pairwise(sizes)])
    return [part.reshape(-1, n) for part, n in zip(np.split(theta, ends[:-1]), sizes[1:], strict=True)]


def initial_theta(sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Each unit's weights have norm 1, in the last layer 0.01; biases are 0."""
    theta = np.zeros(sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes)), np.float32)
    for i, layer in enumerate(layers(theta, sizes), 1):
        weights = rng.standard_normal(layer[:-1].shape)
        layer[:-1] = (0.01 if i == len(sizes) - 1 else 1) * weights / np.linalg.norm(weights, axis=0)
    return theta


def play(env: gym.Env, theta: np.ndarray, sizes: list[int], obs_rms: RunningMeanStd, args: Args, seed: int) -> dict:
    """One episode of the policy theta: its return, length, and the moments of its observations."""
    activation, space = getattr(np, args.activation), env.action_space
    net = [(layer[:-1], layer[-1]) for layer in layers(theta, sizes)]
    mean, std = obs_rms.mean.astype(np.float32), np.sqrt(obs_rms.var + 1e-8).astype(np.float32)
    (obs, _), total, seen, done = env.reset(seed=seed), 0.0, [], False
    while not done:
        x = np.asarray(obs, np.float32)
        seen.append(x)
        if args.normalize_obs:
            x = ((x - mean) / std).clip(-5, 5)
        for weights, bias in net[:-1]:
            x = activation(x @ weights + bias)
        x = x @ net[-1][0] + net[-1][1]
        action = x.argmax() + space.start if isinstance(space, Discrete) else x.clip(space.low, space.high)
        try:
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        except Exception as error:  # an environment may raise anything
            raise UsageError(f"--env-id {args.env_id}: {error!r}") from None
    seen = np.array(seen, np.float64)
    return {"return": total, "length": len(seen), "moments": (seen.mean(axis=0), seen.var(axis=0), len(seen))}


def all_gather(local: list) -> list:
    """The episodes of all processes, in the order of the pairs."""
    if not dist.is_initialized():
        return local
    lists = [[]] * dist.get_world_size()
    dist.all_gather_object(lists, local)
    return list(chain(*lists))


# --- training --------------------------------------------------------------------------------


def make_env(args: Args) -> gym.Env:
    import mujoco

    mujoco.set_mju_user_warning(lambda message: None)  # else it prints and writes MUJOCO_LOG.TXT
    gym.logger.min_level = gym.logger.ERROR  # no warning that Reacher means Reacher-v5
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # renders without a display
    try:
        env = gym.make(args.env_id, render_mode="rgb_array" if args.capture_video else None, disable_env_checker=True)
        if args.capture_video:
            env.reset()
            assert env.render() is not None  # fails now and not after the training
    except Exception as error:  # an environment may raise anything
        flag = "--capture-video --env-id" if args.capture_video else "--env-id"
        raise UsageError(f"{flag} {args.env_id}: {error!r}") from None
    obs_space, action_space = env.observation_space, env.action_space
    flat = [isinstance(space, Box) and len(space.shape) == 1 for space in (obs_space, action_space)]
    if not flat[0] or not (flat[1] or isinstance(action_space, Discrete)):
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, and flat actions or discrete ones")
    return env if env.spec.max_episode_steps else gym.wrappers.TimeLimit(env, 10_000)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    env = make_env(args)
    space = env.action_space
    sizes = [env.observation_space.shape[0], 64, 64, int(space.n) if isinstance(space, Discrete) else space.shape[0]]
    rng = np.random.default_rng(args.seed)
    theta = initial_theta(sizes, rng)
    parameters = torch.from_numpy(theta)  # shares theta's memory: the optimizer changes theta
    optimizer = torch.optim.AdamW([parameters], lr=args.learning_rate, weight_decay=args.weight_decay, maximize=True)
    obs_rms = RunningMeanStd(shape=sizes[:1])
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    run = Run(args, args.env_id) if rank == 0 else None
    update, global_step, start = 0, 0, time.perf_counter()
    bar = tqdm(total=args.total_timesteps, unit="step", disable=None if run else True)

    while global_step < args.total_timesteps:
        update += 1
        episodes = []
        for pair in np.array_split(range(args.population // 2), world)[rank]:
            eps, seed = draw(args.seed, update, pair, theta.size)
            perturbed = theta + args.sigma * eps, theta - args.sigma * eps
            episodes += [play(env, x, sizes, obs_rms, args, seed) for x in perturbed]
        episodes = all_gather(episodes)

        returns = np.array([episode["return"] for episode in episodes])
        fitness = centered_ranks(returns) if args.centered_ranks else returns
        parameters.grad = torch.from_numpy(estimate_gradient(fitness.reshape(-1, 2), args, update, theta.size))
        optimizer.step()
        for episode in episodes:
            obs_rms.update_from_moments(*episode["moments"])

        steps = sum(episode["length"] for episode in episodes)
        global_step += steps
        row = {
            "global_step": global_step,
            "charts/episodic_return": returns.mean(),
            "charts/SPS": global_step / (time.perf_counter() - start),
            "eval/episodic_return": None,
        }
        if update % args.eval_every == 0 or global_step >= args.total_timesteps:
            seeds = np.array_split(rng.integers(2**31, size=10), world)[rank]
            evaluation = all_gather([play(env, theta, sizes, obs_rms, args, int(seed)) for seed in seeds])
            row["eval/episodic_return"] = np.mean([episode["return"] for episode in evaluation])
        if run:
            run.log(row)
        bar.update(steps)
        bar.set_postfix(episodic_return=f"{returns.mean():.1f}")

    bar.close()
    if run:
        moments = {"obs_mean": torch.from_numpy(obs_rms.mean), "obs_var": torch.from_numpy(obs_rms.var)}
        torch.save({"theta": parameters} | moments, run.dir / "model.pt")
        save_curve(run, "eval/episodic_return")
        if args.capture_video:
            video = gym.wrappers.RecordVideo(env, str(run.dir / "videos"), disable_logger=True)
            play(video, theta, sizes, obs_rms, args, args.seed)
            video.close()
        run.close("curve.png")
        print(f"return {row['eval/episodic_return']:.1f} (unperturbed policy, 10 episodes): {run.dir}")
    env.close()
    return row


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
