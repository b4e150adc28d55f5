# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Temporal-difference prediction: n-step TD, the lambda-return, TD(lambda), true online TD(lambda), batch updating.

    python algos/td_lambda.py
    python algos/td_lambda.py --method n-step 4 --learning-rate 0.3 0.4 0.5
    python algos/td_lambda.py --env-id walk-5 --method batch 0 --learning-rate 0.1 --total-episodes 100

The value of a state moves towards a target. n-step 1 is TD(0), which bootstraps from the next state: low variance, but
biased by that state's value. n-step with n as large as the episode is Monte Carlo: unbiased, high variance. The
lambda-return averages over all n, with weights that fall as the powers of lambda; it needs the rest of the episode
(forward view). TD(lambda) needs no future: an eligibility trace propagates each TD error to the earlier states
(backward view). True online TD(lambda) is exactly the forward view that ends at the present step (section 12.4).

The environments are the book's random walks. Every episode is learned from with all step sizes at once: values are an
array [step sizes, states] for each of many independent runs. A table this small gains nothing from a GPU.

Sutton & Barto 2018, "Reinforcement learning", 2nd edition: chapters 6, 7, 12; examples 6.2, 6.3 and 7.1.
van Seijen et al. 2016, "True online temporal-difference learning".
Differences: 1. the lambda-return bootstraps from values already updated in this pass, so that lambda 0 is TD(0).
2. batch updating solves for what sweeps over all episodes converge to: LSTD(lambda) (Boyan 2002).
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

StepSize = Annotated[float, Field(gt=0, le=1)]


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
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: Literal["walk-5", "walk-19"] = "walk-19"
    """random walk of 5 states (Example 6.2) or 19 (Example 7.1)"""
    num_runs: Annotated[int, Field(ge=2, le=100_000)] = 100
    """independent runs"""
    total_episodes: PositiveInt = 10
    """episodes of each run"""
    method: tuple[Literal["n-step", "lambda-return", "td-lambda", "true-online", "batch"], float] = ("td-lambda", 0.8)
    """algorithm, and its n or lambda"""
    learning_rate: Annotated[tuple[StepSize, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """step sizes alpha; each learns from the same episodes"""


# --- the algorithms: v [step sizes, states + 1] learns from an episode S_0 R_1 S_1 ... R_T S_T, v(S_T) = 0 ----


def n_step_td(v: np.ndarray, states: np.ndarray, rewards: np.ndarray, alpha: np.ndarray, gamma: float, n: float):
    """Equations 7.1 and 7.2; S_t is updated at time t + n or at the end of the episode, always after S_t-1."""
    for t, s in enumerate(states[:-1]):
        end = min(t + int(n), len(rewards))
        target = rewards[t:end] @ gamma ** np.arange(end - t) + gamma ** (end - t) * v[:, states[end]]
        v[:, s] += alpha * (target - v[:, s])


def lambda_return(v: np.ndarray, states: np.ndarray, rewards: np.ndarray, alpha: np.ndarray, gamma: float, lambda_):
    """Equation 12.4; the lambda-return is G_t = R_t+1 + gamma (1 - lambda) v(S_t+1) + gamma lambda G_t+1."""
    decay = (gamma * lambda_) ** np.arange(len(rewards))
    for t, s in enumerate(states[:-1]):
        terms = rewards[t:] + gamma * (1 - lambda_) * v[:, states[t + 1 :]]  # [step sizes, T - t]
        v[:, s] += alpha * (terms @ decay[: len(rewards) - t] - v[:, s])


def td_lambda(v: np.ndarray, states: np.ndarray, rewards: np.ndarray, alpha: np.ndarray, gamma: float, lambda_):
    """Equations 12.5 to 12.7: accumulating traces."""
    z = np.zeros(v.shape[1])
    for s, r, s2 in zip(states, rewards, states[1:], strict=False):
        z *= gamma * lambda_
        z[s] += 1
        delta = r + gamma * v[:, s2] - v[:, s]
        v += np.outer(alpha * delta, z)


def true_online_td(v: np.ndarray, states: np.ndarray, rewards: np.ndarray, alpha: np.ndarray, gamma: float, lambda_):
    """Section 12.5: the dutch trace."""
    z, old = np.zeros_like(v), 0.0
    for s, r, s2 in zip(states, rewards, states[1:], strict=False):
        value, next_value = v[:, s].copy(), v[:, s2].copy()
        delta = r + gamma * next_value - value
        z *= gamma * lambda_
        z[:, s] += 1 - alpha * z[:, s]
        v += (alpha * (delta + value - old))[:, None] * z
        v[:, s] -= alpha * (value - old)
        old = next_value


class Batch:
    """Batch updating (Section 6.3): after each episode, the values to which sweeps over all episodes so far converge.

    A sweep of TD(lambda) over all episodes changes v by alpha (b - A v); here v solves A v = b, for any alpha.
    """

    def __init__(self, num_states: int):
        self.A, self.b = np.zeros((num_states, num_states + 1)), np.zeros(num_states)

    def __call__(self, v: np.ndarray, states: np.ndarray, rewards: np.ndarray, alpha, gamma: float, lambda_: float):
        z = np.zeros(len(self.b))
        for s, r, s2 in zip(states, rewards, states[1:], strict=False):
            z *= gamma * lambda_
            z[s] += 1
            self.A[:, s] += z
            self.A[:, s2] -= gamma * z
            self.b += r * z
        A, first = self.A[:, :-1], v[0, :-1]
        v[:, :-1] = first + np.linalg.lstsq(A, self.b - A @ first)[0]  # states never visited keep their value


METHODS = {"n-step": n_step_td, "lambda-return": lambda_return, "td-lambda": td_lambda, "true-online": true_online_td}


# --- the random walks ------------------------------------------------------------------------


def random_walk(num_states: int, left_reward: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An episode from the middle: S_0 ... S_T (the last is num_states, terminal) and R_1 ... R_T; 1 on the right."""
    states = [num_states // 2]
    while 0 <= states[-1] < num_states:
        states.append(states[-1] + (1 if rng.random() < 0.5 else -1))
    rewards = np.zeros(len(states) - 1)
    rewards[-1] = 1.0 if states[-1] == num_states else left_reward
    states[-1] = num_states
    return np.array(states), rewards


# --- training --------------------------------------------------------------------------------


def save_errors(run, alphas: tuple[float, ...], row: dict):
    """RMS error over the step size, with two standard errors."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    mean, error = ([row[f"eval/average_rms_error{kind}_{a:g}"] for a in alphas] for kind in ("", "_se"))
    axes.errorbar(alphas, mean, 2 * np.array(error), marker=".", capsize=3)
    axes.set(xlabel="step size", ylabel=f"RMS error, mean of {len(run.rows)} episodes")
    axes.figure.savefig(run.dir / "curve.png", dpi=120)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    method, parameter = args.method
    if (parameter < 1 or parameter % 1) if method == "n-step" else not 0 <= parameter <= 1:
        raise UsageError(f"--method {method} {parameter:g}: n must be a whole number from 1, lambda within 0 and 1")
    num_states, left_reward, first = {"walk-5": (5, 0.0, 0.5), "walk-19": (19, -1.0, 0.0)}[args.env_id]
    rng, alpha = np.random.default_rng(args.seed), np.array(args.learning_rate)
    updates = [Batch(num_states) if method == "batch" else METHODS[method] for _ in range(args.num_runs)]
    v = np.full((args.num_runs, len(alpha), num_states + 1), first)
    v[:, :, -1] = 0  # the terminal state
    truth, errors = np.linspace(left_reward, 1, num_states + 2)[1:-1], []  # linear between the rewards of the two ends
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0

    for _ in tqdm(range(args.total_episodes), unit="episode", disable=None):
        for i, update in enumerate(updates):
            states, rewards = random_walk(num_states, left_reward, rng)
            update(v[i], states, rewards, alpha, 1.0, parameter)  # no discount
            global_step += len(rewards)
        errors.append(np.sqrt(((v[:, :, :-1] - truth) ** 2).mean(axis=2)))  # over states: [runs, step sizes]
        row = {"global_step": global_step, "charts/SPS": global_step / (time.perf_counter() - start)}
        for name, x in (("rms_error", errors[-1]), ("average_rms_error", np.mean(errors, axis=0))):
            for j, a in enumerate(args.learning_rate):
                row[f"eval/{name}_{a:g}"] = x[:, j].mean()
                row[f"eval/{name}_se_{a:g}"] = x[:, j].std(ddof=1) / math.sqrt(args.num_runs)
        run.log(row)

    np.savez(run.dir / "model.npz", v=v)
    save_errors(run, args.learning_rate, row)
    run.close("curve.png")
    best = min(args.learning_rate, key=lambda a: row[f"eval/average_rms_error_{a:g}"])
    error, se = (row[f"eval/average_rms_error{kind}_{best:g}"] for kind in ("", "_se"))
    print(f"RMS error {error:.4f} +- {se:.4f} on average over {len(errors)} episodes, at step size {best:g}: {run.dir}")
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


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
