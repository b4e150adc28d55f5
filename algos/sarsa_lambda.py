# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[toy-text]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""SARSA(lambda), Watkins's Q(lambda) and Monte-Carlo control: eligibility traces with a table of action values.

    python algos/sarsa_lambda.py
    python algos/sarsa_lambda.py --watkins
    python algos/sarsa_lambda.py --env-id Blackjack-v1 --trace-lambda 1 --learning-rate 1 --learning-rate-power 1

The trace of a state and action decays by gamma lambda per step since its visit; every TD error updates all action
values in proportion to their traces. Lambda 0 is SARSA. Lambda 1 with sample averages (the third command) is
Monte-Carlo control, exactly so where no state is visited twice in an episode, as in Blackjack. Watkins's Q(lambda) is
off-policy: its targets use the best next action, and an action that is not greedy cuts the trace.

Python steps the environment for one run after the other; a table this small gains nothing from a GPU.

Watkins 1989, "Learning from delayed rewards": Q(lambda).
Singh & Sutton 1996, "Reinforcement learning with replacing eligibility traces".
Sutton & Barto 2018, "Reinforcement learning", 2nd edition: sections 5.4, 12.7 and 12.10, examples 5.3, 6.5 and 6.6.
Conventions: ties are broken at random; an episode is cut off and bootstrapped after 10,000 steps; the step size is part
of the trace, so that a decreasing one is that of the visit.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.spaces import Discrete, Tuple
from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

Fraction = Annotated[float, Field(ge=0, le=1)]


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

    env_id: str = "CliffWalking-v1"
    """WindyGridworld, or a Gymnasium environment with discrete observations (or a tuple of them) and actions"""
    num_runs: Annotated[int, Field(ge=1, le=10_000)] = 20
    """independent runs"""
    total_episodes: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """episodes of each run"""
    watkins: bool = False
    """Watkins's Q(lambda)"""
    trace_lambda: Fraction = 0.8
    """decay of the traces"""
    trace: Literal["replacing", "clearing", "accumulating"] = "replacing"
    """a visit sets the trace to 1; clearing: those of the state's other actions to 0 as well; accumulating: adds 1"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """step size alpha"""
    learning_rate_power: Fraction = 0.0
    """the n-th update of a value has step size learning_rate / n ** power: 0 is constant, 1 a sample average"""
    gamma: Fraction = 1.0
    """discount per step"""
    epsilon: Fraction = 0.1
    """probability of a random action"""


# --- the algorithm ---------------------------------------------------------------------------

MAX_STEPS = 10_000  # of an episode


def epsilon_greedy(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """An action for action values q [actions]; ties are broken at random."""
    if rng.random() < epsilon:
        return int(rng.integers(len(q)))
    best = np.flatnonzero(q == q.max())
    return int(best[rng.integers(len(best))])


def play(env: gym.Env, q: np.ndarray, visits: np.ndarray, epsilon: float, learning_rate: float, args: Args, rng):
    """An episode that updates q [*states, actions] and visits in place: return, length, terminated."""
    trace, total, length, ended = np.zeros_like(q), 0.0, 0, False
    state, _ = env.reset()
    action = epsilon_greedy(q[state], epsilon, rng)
    while not ended:
        next_state, reward, terminated, truncated, _ = env.step(action)
        total, length = total + reward, length + 1
        next_action = epsilon_greedy(q[next_state], epsilon, rng)
        greedy = q[next_state][next_action] == q[next_state].max()
        next_value = q[next_state].max() if args.watkins else q[next_state][next_action]
        delta = reward + args.gamma * (not terminated) * next_value - q[state][action]
        if not math.isfinite(delta):
            raise FloatingPointError("a reward or value is not finite: lower --learning-rate, or mend the environment")

        visits[state][action] += 1
        step_size = learning_rate / visits[state][action] ** args.learning_rate_power
        if args.trace == "clearing":
            trace[state] = 0
        if args.trace == "accumulating":
            trace[state][action] += step_size
        else:
            trace[state][action] = step_size
        q += delta * trace
        trace *= args.gamma * args.trace_lambda
        if args.watkins and not greedy:
            trace[:] = 0
        state, action, ended = next_state, next_action, terminated or truncated or length == MAX_STEPS
    return total, length, terminated


# --- environments ----------------------------------------------------------------------------


class WindyGridworld(gym.Env):
    """Example 6.5: 7 x 10 cells; up, right, down, left; the wind blows up the middle columns."""

    observation_space, action_space = Discrete(70), Discrete(4)

    def reset(self, seed: int | None = None, options: dict | None = None):
        self.row, self.column = 3, 0
        return 30, {}

    def step(self, action: int):
        down, right = [(-1, 0), (0, 1), (1, 0), (0, -1)][action]
        wind = [0, 0, 0, 1, 1, 1, 2, 2, 1, 0][self.column]
        self.row, self.column = min(max(self.row + down - wind, 0), 6), min(max(self.column + right, 0), 9)
        return self.row * 10 + self.column, -1.0, (self.row, self.column) == (3, 7), False, {}


def make_env(env_id: str) -> tuple[gym.Env, list[int]]:
    """The environment, without its own time limit, and the shape of its table of action values."""
    try:
        env = WindyGridworld() if env_id == "WindyGridworld" else gym.make(env_id).unwrapped
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {env_id}: {error}") from None
    observation = env.observation_space
    parts = [*(observation if isinstance(observation, Tuple) else [observation]), env.action_space]
    if not all(isinstance(part, Discrete) and part.start == 0 for part in parts):
        raise UsageError(f"--env-id {env_id}: needs discrete observations and actions, numbered from 0")
    return env, [int(part.n) for part in parts]


# --- training --------------------------------------------------------------------------------


def mean_and_error(name: str, x: np.ndarray) -> dict:
    """Mean over runs and its standard error, None where there are too few: x [runs]."""
    error = x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else None
    return {name: x.mean() if len(x) else None, f"{name}_se": error}


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    env, shape = make_env(args.env_id)
    env.reset(seed=args.seed)
    rng = np.random.default_rng(args.seed)
    q, visits = np.zeros((2, args.num_runs, *shape))
    returns = np.zeros((args.num_runs, args.total_episodes))
    run, start, global_step = Run(args, args.env_id), time.perf_counter(), 0

    for k in tqdm(range(args.total_episodes), unit="episode", disable=None):
        for i in range(args.num_runs):
            returns[i, k], length, _ = play(env, q[i], visits[i], args.epsilon, args.learning_rate, args, rng)
            global_step += length
        last = k + 1 == args.total_episodes
        played = [play(env, q[i], visits[i], 0.0, 0.0, args, rng) for i in range(args.num_runs)] if last else []
        greedy = np.array([total for total, _, terminated in played if terminated])  # others have no return
        row = {
            "global_step": global_step,
            "charts/episode": k + 1,
            **mean_and_error("charts/episodic_return", returns[:, k]),
            **mean_and_error("charts/episodic_return_100", returns[:, max(0, k - 99) : k + 1].mean(axis=1)),
            "charts/SPS": global_step / (time.perf_counter() - start),
            **mean_and_error("eval/episodic_return", greedy),
            "eval/share_ended": len(greedy) / args.num_runs if last else None,
        }
        run.log(row)

    np.savez(run.dir / "model.npz", q=q)
    save_curve(run, "charts/episodic_return_100")
    run.close("curve.png")
    result = f"{greedy.mean():.2f}" if len(greedy) else "none"
    print(f"greedy return {result}, {row['eval/share_ended']:.0%} of the runs reach an end: {run.dir}")
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
