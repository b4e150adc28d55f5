# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""REINFORCE where only a stochastic policy will do: a gridworld with two states that look the same.

    python algos/reinforce_gridworld.py

The aliased gridworld of David Silver's course on reinforcement learning (lecture 7, policy gradient):

    0  1  2  3  4      An agent starts in a random cell of the corridor and observes only the walls around its cell,
    5     6     7      so 1 and 3 look the same. 6 is a treasure (+1), 5 and 7 are skulls (-1); all three terminate.

A deterministic policy goes the same way in 1 and in 3 and never leaves one end of the corridor: its mean value is at
best .542 (gamma .9). A policy that tosses a coin there has .775. The policy is a table of logits, one row per
observation. The world is small enough for the exact value of a policy, and so for the exact gradient.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning". Differences:
1. Actions are credited with the rewards that follow them (reward-to-go), not with the whole return.
2. A step of Adam on the mean over a batch of episodes. A time limit of 100 steps truncates episodes.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch.distributions import Categorical
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = False
    """play and learn on a GPU if there is one; it pays for many environments only"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    total_timesteps: PositiveInt = 100_000
    """environment steps, all environments together"""
    num_envs: Annotated[int, Field(ge=1, le=100_000)] = 32
    """episodes per update, played side by side"""
    learning_rate: PositiveFloat = 0.05
    """Adam's learning rate"""
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """discount factor; below 1, as a policy may never reach an end"""


# --- the world -------------------------------------------------------------------------------

OBSERVATION = torch.tensor([0, 1, 2, 1, 3])  # of cells 0 to 4: which walls there are
NEXT_CELL = torch.tensor([[0, 1, 5, 0], [1, 2, 1, 0], [2, 3, 6, 1], [3, 4, 3, 2], [4, 4, 7, 3]])  # [cell, N E S W]
REWARD = torch.where(NEXT_CELL < 5, 0.0, torch.where(NEXT_CELL == 6, 1.0, -1.0))  # [cell, action]
TIME_LIMIT = 100


def exact_values(probs: torch.Tensor, gamma: float) -> torch.Tensor:
    """v = (I - gamma P)^-1 r without the time limit: probs [..., 5 cells, 4 actions] -> values [..., 5]."""
    moves = (NEXT_CELL[..., None] == torch.arange(5)).to(probs)  # [cell, action, next cell]; 0 for the ends
    transitions = torch.einsum("...sa,sat->...st", probs, moves)
    return torch.linalg.solve(torch.eye(5).to(probs) - gamma * transitions, (probs * REWARD.to(probs)).sum(-1))


def exact_objective(logits: torch.Tensor, gamma: float) -> torch.Tensor:
    """Mean value over the starts, differentiable: logits [4 observations, 4 actions] -> scalar."""
    return exact_values(logits.cpu().double().softmax(1)[OBSERVATION], gamma).mean()


# --- the algorithm ---------------------------------------------------------------------------


def rollout(logits: torch.Tensor, num_envs: int) -> tuple[torch.Tensor, ...]:
    """An episode of each environment: observations, actions, rewards and mask [time, n]; mask is 0 after an end."""
    next_cell, reward, observation = (x.to(logits.device) for x in (NEXT_CELL, REWARD, OBSERVATION))
    cells = torch.randint(5, (num_envs,), device=logits.device)
    running, steps = torch.ones_like(cells, dtype=torch.bool), []
    while running.any() and len(steps) < TIME_LIMIT:
        obs = observation[cells.clamp(max=4)]  # an environment at an end stays there and is masked
        actions = Categorical(logits=logits[obs]).sample()
        steps.append((obs, actions, reward[cells.clamp(max=4), actions] * running, running.float()))
        cells = torch.where(running, next_cell[cells.clamp(max=4), actions], cells)
        running = cells < 5
    return tuple(torch.stack(column) for column in zip(*steps, strict=True))


def policy_gradient_loss(logits, obs, actions, rewards, gamma: float) -> torch.Tensor:
    """Its gradient is minus REINFORCE's: the mean over episodes of sum_t gamma^t G_t grad log pi(a_t | o_t).

    With gamma^t, which is often left out, it is unbiased up to the time limit. obs, actions, rewards: [time, n].
    """
    discounted = rewards * gamma ** torch.arange(len(rewards), device=rewards.device).unsqueeze(1)
    credit = discounted.flip(0).cumsum(0).flip(0)  # gamma^t G_t, the sum over k >= t of gamma^k r_k
    return -(credit * Categorical(logits=logits[obs]).log_prob(actions)).sum(0).mean()


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    logits = torch.zeros(4, 4, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=args.learning_rate)
    run, start, global_step = Run(args, "AliasedGridworld"), time.perf_counter(), 0

    bar = tqdm(total=args.total_timesteps, unit="step", disable=None)
    while global_step < args.total_timesteps:
        with torch.no_grad():
            obs, actions, rewards, mask = rollout(logits, args.num_envs)
        loss = policy_gradient_loss(logits, obs, actions, rewards, args.gamma)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        global_step += int(mask.sum())
        row = {
            "global_step": global_step,
            "charts/episodic_return": rewards.sum(0).mean().item(),
            "eval/exact_return": exact_objective(logits.detach(), args.gamma).item(),
            "eval/east_where_alike": logits.detach().softmax(1)[1, 1].item(),
            "charts/SPS": global_step / (time.perf_counter() - start),
        }
        run.log(row)
        bar.update(int(mask.sum()))
    bar.close()

    torch.save({"logits": logits.detach().cpu()}, run.dir / "model.pt")
    save_curve(run, "eval/exact_return")
    run.close("curve.png")
    print(f"exact value {row['eval/exact_return']:.3f} after {global_step:,} steps: {run.dir}")
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
