# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[toy-text]>=1.4", "matplotlib", "numpy", "pydantic>=2.6", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Dynamic programming: policy evaluation, policy iteration and value iteration for a known environment.

    python algos/dynamic_programming.py                                   # value iteration
    python algos/dynamic_programming.py --evaluation-sweeps 1000000       # policy iteration
    python algos/dynamic_programming.py --evaluation-sweeps 0             # evaluation of the random policy

A sweep sets the value of every state to the expected reward plus the discounted value of the next state. Under a fixed
policy the sweeps converge to that policy's values: policy evaluation. The policy that is greedy on them is better, and
is evaluated in its turn: policy iteration. To improve after every k sweeps works as well (modified policy iteration);
for k = 1 each sweep takes the best action: value iteration.

The model is known, so returns are computed exactly and nothing is played. Tables this small gain nothing from a GPU.

Sutton & Barto 2018, "Reinforcement learning", 2nd edition: equations 4.5, 4.6 and 4.10, examples 3.5 and 4.1.
Puterman & Shin 1978, "Modified policy iteration algorithms for discounted Markov decision problems".
Differences: 1. the greedy policy takes all best actions (within 1e-9) with equal probability, as the book draws it.
2. The sweeps end when no value differs by theta from that of its best action; without improvement, when none changes.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: NonNegativeInt = 1
    """seed of the experiment; only names the run, since nothing is random"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    env_id: str = "gridworld-4x4"
    """gridworld-4x4, gridworld-5x5, or a Gymnasium environment with a transition table P, such as FrozenLake-v1"""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """discount per step; gridworld-5x5 never ends and needs one below 1, in the book 0.9"""
    evaluation_sweeps: NonNegativeInt = 1
    """sweeps between improvements, fewer where values have converged: 1 is value iteration, 0 improves never"""
    in_place: bool = False
    """sweeps use the values that they have already updated"""
    theta: PositiveFloat = 1e-10
    """sweeps end when the Bellman residual (without improvement: the largest change) is below this"""
    total_sweeps: PositiveInt = 10_000
    """sweeps at most"""
    max_episode_steps: PositiveInt = 500
    """time limit for the return of the greedy policy; the values know none"""


# --- the algorithm: P [s, a, s'] is p(s' | s, a) without transitions that terminate; R [s, a] is r(s, a) -----


def action_values(P: np.ndarray, R: np.ndarray, v: np.ndarray, gamma: float) -> np.ndarray:
    """q(s, a) = r(s, a) + gamma sum over s' of p(s' | s, a) v(s'), equation 4.6: [..., actions]."""
    return R + gamma * P @ v


def sweep(P: np.ndarray, R: np.ndarray, v: np.ndarray, policy: np.ndarray | None, gamma: float, in_place: bool = False):
    """New values of all states: the policy's mean over actions (4.5); without a policy, the best action's (4.10)."""
    v = v.copy()
    for states in range(len(v)) if in_place else [slice(None)]:  # in place: one after the other
        q = action_values(P[states], R[states], v, gamma)
        v[states] = q.max(axis=-1) if policy is None else (policy[states] * q).sum(axis=-1)
    return v


def greedy(q: np.ndarray) -> np.ndarray:
    """All best actions with equal probability: q [states, actions] -> policy [states, actions]."""
    best = q >= q.max(axis=1, keepdims=True) - 1e-9
    return best / best.sum(axis=1, keepdims=True)


def expected_returns(P: np.ndarray, R: np.ndarray, policy: np.ndarray, gamma: float, num_steps: int) -> np.ndarray:
    """Expected returns [states] of episodes of at most num_steps steps, from every state."""
    P, R = np.einsum("sa,sat->st", policy, P), (policy * R).sum(axis=1)
    v = np.zeros(len(policy))
    for _ in range(num_steps):
        v = R + gamma * P @ v
    return v


def check_bounded(P: np.ndarray, R: np.ndarray, improve: bool):
    """Without a discount: every state must be able to reach an end, and no policy may collect rewards for ever."""
    may_end = P.sum(axis=2) < 1 - 1e-9  # at once: [states, actions]
    ends, stays = np.zeros(len(P), bool), np.ones(len(P), bool)
    for _ in range(len(P)):
        ends = (may_end | (P @ ends > 0)).any(axis=1)
        safe = ~may_end & (P @ ~stays == 0)  # pairs that never lead out of the states below
        stays = safe.any(axis=1)  # the states from which some policy never ends an episode
    if not ends.all():
        raise UsageError(f"--gamma 1: no end can be reached from state {ends.argmin()}; try --gamma 0.9")
    rewarding = (safe & (R > 0)).any(axis=1)
    if improve and rewarding.any():
        raise UsageError(f"--gamma 1: rewards without end may begin in state {rewarding.argmax()}")


# --- environments ----------------------------------------------------------------------------


def gridworld(side: int) -> dict:
    """The book's grids as Gymnasium's P: up, down, right, left; off the grid means no move.

    4 x 4, Example 4.1: every step costs 1 until one of two opposite corners is reached. 5 x 5, Example 3.5: every
    action leads from A to A' for 10 and from B to B' for 5; a step off the grid costs 1.
    """
    jumps, table = {1: (21, 10.0), 3: (13, 5.0)}, {s: {} for s in range(side**2)}
    for s in table:
        for a, (down, right) in enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)]):
            row, column = s // side + down, s % side + right
            inside = 0 <= row < side and 0 <= column < side
            s2 = row * side + column if inside else s
            if side == 5:
                table[s][a] = [(1.0, *jumps.get(s, (s2, 0.0 if inside else -1.0)), False)]
            else:
                table[s][a] = [(1.0, s2, 0.0, True) if s in (0, 15) else (1.0, s2, -1.0, s2 in (0, 15))]
    return table


def make_model(table: dict) -> tuple[np.ndarray, np.ndarray]:
    """P and R from Gymnasium's table[s][a] = [(probability, next state, reward, terminated), ...]."""
    P, R = np.zeros((len(table), len(table[0]), len(table))), np.zeros((len(table), len(table[0])))
    for s, a in np.ndindex(R.shape):
        for probability, s2, reward, terminated in table[s][a]:
            R[s, a] += probability * reward
            P[s, a, s2] += probability * (not terminated)
    return P, R


def load_model(env_id: str) -> tuple[np.ndarray, ...]:
    """P, R and the distribution of the first state."""
    if env_id in ("gridworld-4x4", "gridworld-5x5"):
        side = int(env_id[-1])
        return *make_model(gridworld(side)), np.full(side**2, 1 / side**2)
    try:
        env = gym.make(env_id).unwrapped
        return *make_model(env.P), np.asarray(env.initial_state_distrib)
    except Exception as error:  # an environment may raise anything
        raise UsageError(f"--env-id {env_id}: needs a transition table P ({error})") from None


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Sweep; returns the last row of metrics.csv."""
    P, R, first = load_model(args.env_id)
    if args.gamma == 1:
        check_bounded(P, R, improve=args.evaluation_sweeps > 0)
    run, start = Run(args, args.env_id), time.perf_counter()
    v, change, since, best = np.zeros(len(P)), math.inf, 0, None
    policy = None if args.evaluation_sweeps == 1 else greedy(np.zeros(R.shape))  # the random policy

    for number in tqdm(range(args.total_sweeps + 1), unit="sweep", disable=None):
        q = action_values(P, R, v, args.gamma)
        if best is None or (greedy(q) != best).any():
            best = greedy(q)
            value, total = (expected_returns(P, R, best, g, args.max_episode_steps) for g in (args.gamma, 1))
        residual = np.abs(q.max(axis=1) - v).max()
        row = {
            "global_step": number,
            "charts/episodic_return": first @ total,
            "charts/greedy_value": first @ value,
            "charts/start_value": first @ v,
            "losses/bellman_residual": residual,
            "charts/SPS": number / (time.perf_counter() - start),
        }
        run.log(row)
        error = residual if args.evaluation_sweeps else change
        if error < args.theta or number == args.total_sweeps:
            break
        if args.evaluation_sweeps > 1 and (since == args.evaluation_sweeps or change < args.theta):  # improvement
            policy, since = best, 0
        before, v = v, sweep(P, R, v, policy, args.gamma, args.in_place)
        change, since = np.abs(v - before).max(), since + 1

    np.savez(run.dir / "model.npz", v=v, policy=best)
    save_curve(run, "charts/greedy_value", "sweeps")
    run.close("curve.png")
    print(f"exact greedy return {first @ total:.3f}, to {error:.1e}, after {number} sweeps: {run.dir}")
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
