# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[toy-text]>=1.1",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "pillow>=10",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Dynamic programming: the best policy of a known environment, by sweeps over its transition table.

    python algos/dynamic_programming.py
    python algos/dynamic_programming.py --env-id FrozenLake-v1 --evaluation-sweeps 1
    python algos/dynamic_programming.py --env-id gridworld-5x5 --no-improve --in-place

A sweep sets the value of every state to the mean reward of the next step plus the value of the state that follows.
Under a fixed policy the sweeps end at that policy's values: policy evaluation. Acting greedily on these values gives a
better policy, to be evaluated in its turn: policy iteration. Improving after every k sweeps works too; with k = 1 the
policy drops out, and each sweep takes the best action there is: value iteration.

Expect, within seconds on one core: Figure 4.1 and, beside its first five columns, the optimal values in values.png, the
sweeps one by one in sweeps.gif, and in curve.png the return of every greedy policy on the way. Value iteration finds
the optimal policy after 14 sweeps on CliffWalking-v1 (return -13), 17 on Taxi-v4 (7.93) and 37 on FrozenLake-v1, where
the values then promise about half of what it earns, and need 805 sweeps to tell the truth within 1e-10. Unbounded
evaluation is slow where the random policy seldom comes to an end: more than 10,000 sweeps on the cliff and in the taxi.
On FrozenLake8x8-v1 take --gamma 0.99: without a discount most squares are worth 1, and a greedy policy strolls.

Papers
    Sutton & Barto 2018, "Reinforcement learning: an introduction", 2nd edition: chapter 4, equations 4.1 and 4.10,
    Figure 4.1, Example 3.5.
    Puterman & Shin 1978, "Modified policy iteration algorithms for discounted Markov decision problems": any k.
    Kevin Frans 2016, the post on value iteration: its small gridworld is the book's Example 4.1.

Differences from the book and the post
    1. The greedy policy takes every best action with equal probability, as the book draws it. So a policy cannot
       change back and forth between equally good actions, and with no discount it is not caught in a circle of them.
    2. The sweeps end when no state's value differs by --theta from its best action's (4.1), for any k; the book's
       policy iteration waits for a policy that stays as it is.
    3. The post says that value iteration's intermediate values cannot be used, because they are no policy's values.
       The policy that is greedy on them can, and may be good long before the values are (FrozenLake) or poor until the
       end (the cliff): its return is in every row, beside what the values promise.
"""

import csv
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice, product
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro
from tqdm import tqdm

TIE = 1e-9  # actions whose values differ by less are equally good
OPTIMAL = 1e-6  # a policy is optimal when each of its actions is worth its state's optimal value, less this at most


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the episodes that score the policy found; the same seed gives the same score"""
    cuda: bool = False
    """use a GPU if there is one; every sweep's numbers come to the host"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""
    capture_video: bool = True
    """draw values and greedy policy after every sweep as an animation, sweeps.gif"""

    env_id: str = "gridworld-4x4"
    """gridworld-4x4, gridworld-5x5, or a Gymnasium environment with a transition table P, such as FrozenLake-v1"""
    gamma: float | None = None
    """discount per step, in [0, 1]; not given: 1 where every episode can end, 0.9 elsewhere"""
    evaluation_sweeps: int = 10
    """sweeps between improvements of the policy: 1 is value iteration; 0, as many as it takes, is policy iteration"""
    improve: bool = True
    """improve the policy; without, the random policy is evaluated, and --evaluation-sweeps says nothing"""
    in_place: bool = False
    """let a sweep use the values that it has already changed, instead of the last sweep's only"""
    theta: float = 1e-10
    """values that change by less than this stay"""
    total_sweeps: int = 10_000
    """end after so many sweeps, whether the values stay or not"""
    num_runs: int = 1000
    """episodes, side by side, that score the greedy policy at the end"""
    max_episode_steps: int = 500
    """steps after which an episode is cut when a policy is scored; the values know no such limit"""

    def __post_init__(self):
        for name in ["total_sweeps", "max_episode_steps"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.num_runs < 2:
            raise UsageError("--num-runs must be at least 2, for a standard error")
        if min(self.seed, self.evaluation_sweeps) < 0:
            raise UsageError("--seed and --evaluation-sweeps must not be negative")
        if not (self.gamma is None or 0 <= self.gamma <= 1):
            raise UsageError("--gamma must lie in [0, 1]")
        if not 0 < self.theta < math.inf:
            raise UsageError("--theta must be positive")


# --- the algorithm ---------------------------------------------------------------------------


class Model(NamedTuple):
    """p(s', r | s, a) as a list of outcomes: each of the first four tensors is [states, actions, outcomes].

    Where a state and action have fewer outcomes than another, the rest have probability 0. What follows a termination
    does not count, so the end of an episode needs no state of its own.
    """

    probabilities: torch.Tensor
    next_states: torch.Tensor
    rewards: torch.Tensor
    terminations: torch.Tensor
    start: torch.Tensor
    """[states]: probability of beginning there"""


def action_values(model: Model, values: torch.Tensor, gamma: float, states=slice(None)) -> torch.Tensor:
    """q(s, a) = sum over s' and r of p(s', r | s, a) [r + gamma v(s')]: [states] -> [states, actions]."""
    next_values = values[model.next_states[states]].masked_fill(model.terminations[states], 0.0)
    return (model.probabilities[states] * (model.rewards[states] + gamma * next_values)).sum(dim=-1)


def backup(model: Model, values: torch.Tensor, policy: torch.Tensor | None, gamma: float, states=slice(None)):
    """New values of these states: the policy's mean over actions (Section 4.1); with no policy the best one (4.10)."""
    q = action_values(model, values, gamma, states)
    return q.amax(dim=-1) if policy is None else (policy[states] * q).sum(dim=-1)


def sweep(
    model: Model, values: torch.Tensor, policy: torch.Tensor | None, gamma: float, in_place: bool = False
) -> torch.Tensor:
    """One sweep over all states: values [states], policy [states, actions] or None -> values [states]."""
    if not in_place:
        return backup(model, values, policy, gamma)
    values = values.clone()
    for state in range(len(values)):
        values[state] = backup(model, values, policy, gamma, state)  # with what this sweep has already written
    return values


def greedy(q: torch.Tensor) -> torch.Tensor:
    """Every best action, with equal probability: [states, actions] -> policy [states, actions]."""
    best = (q >= q.amax(dim=-1, keepdim=True) - TIE).to(q.dtype)
    return best / best.sum(dim=-1, keepdim=True)


class Sweep(NamedTuple):
    """Where the iteration stands after a sweep."""

    number: int
    values: torch.Tensor
    """[states]"""
    greedy: torch.Tensor
    """[states, actions]: the policy that is greedy on these values"""
    improvements: int
    """how often the policy has changed"""
    change: float
    """largest change of a value by this sweep"""
    residual: float
    """largest distance of a value from its best action's: 0 for the optimal values (4.1)"""
    converged: bool


def iterate(
    model: Model, gamma: float, evaluation_sweeps: int, improve: bool = True, in_place: bool = False, theta=1e-10
) -> Iterator[Sweep]:
    """Policy iteration with so many sweeps for each policy, 0 for as many as it takes: what there is after every sweep.

    It begins with values of 0 and the random policy, and ends when the values stay.
    """
    values = torch.zeros_like(model.start)
    policy = greedy(torch.zeros_like(model.rewards[:, :, 0]))  # all actions alike: the random policy
    no_policy = improve and evaluation_sweeps == 1
    improvements, since, change = 0, 0, math.inf
    for number in count():
        q = action_values(model, values, gamma)
        best, residual = greedy(q), (q.amax(dim=1) - values).abs().max().item()
        converged = (residual if improve else change) < theta
        yield Sweep(number, values, best, improvements, change, residual, converged)
        if converged:
            return
        if improve and since and (since == evaluation_sweeps or change < theta):
            improvements += not torch.equal(policy, best)
            policy, since = best, 0
        before, values = values, sweep(model, values, None if no_policy else policy, gamma, in_place)
        change, since = (values - before).abs().max().item(), since + 1


def expected_return(model: Model, policy: torch.Tensor, gamma: float, num_steps: int) -> float:
    """Mean discounted return of episodes of so many steps at most: that is what as many sweeps from 0 compute."""
    values = torch.zeros_like(model.start)
    for _ in range(num_steps):
        before, values = values, sweep(model, values, policy, gamma)
        if torch.equal(before, values):
            break
    return (model.start @ values).item()


def play(
    model: Model, policy: torch.Tensor, num_runs: int, num_steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Episodes in lockstep, of so many steps at most -> their undiscounted returns [runs], lengths [runs]."""
    states = torch.multinomial(model.start, num_runs, replacement=True, generator=generator)
    returns, lengths = model.start.new_zeros(num_runs), model.start.new_zeros(num_runs)
    alive = torch.ones_like(states, dtype=torch.bool)
    for _ in range(num_steps):
        actions = torch.multinomial(policy[states], 1, generator=generator).squeeze(1)
        outcomes = torch.multinomial(model.probabilities[states, actions], 1, generator=generator).squeeze(1)
        chosen = states, actions, outcomes
        returns += alive * model.rewards[chosen]
        lengths += alive
        alive &= ~model.terminations[chosen]
        states = model.next_states[chosen]
        if not alive.any():
            break
    return returns, lengths


def can_end(model: Model) -> torch.Tensor:
    """Whether some policy reaches the end of an episode from there: [states], bool."""
    possible = model.probabilities > 0
    found = (possible & model.terminations).any(dim=2).any(dim=1)
    while True:
        before, found = found, found | (possible & found[model.next_states]).any(dim=2).any(dim=1)
        if torch.equal(before, found):
            return found


def optimal_since(
    model: Model, values: torch.Tensor, gamma: float, policies: list[tuple[int, torch.Tensor]]
) -> int | None:
    """The first sweep from which on every greedy policy is optimal, given the optimal values [states]. None: never.

    policies: where the greedy policy changed, (sweep, policy [states, actions]). With --gamma 1 and rewards of 0 an
    action may keep the value and still lead in a circle for ever; this function does not notice.
    """
    worse = action_values(model, values, gamma) < values[:, None] - OPTIMAL
    since = None
    for number, policy in policies:
        if (worse & (policy > 0)).any():
            since = None
        elif since is None:
            since = number
    return since


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


# --- environments ----------------------------------------------------------------------------


def build_model(outcomes: dict[int, dict[int, list[tuple]]], start: np.ndarray) -> Model:
    """Gymnasium's table, {state: {action: [(probability, next state, reward, terminated), ...]}}, as tensors."""
    num_states, num_actions = len(outcomes), len(outcomes[0])
    most = max(len(listed) for actions in outcomes.values() for listed in actions.values())
    columns = np.zeros((4, num_states, num_actions, most))
    for state, actions in outcomes.items():
        for action, listed in actions.items():
            columns[:, state, action, : len(listed)] = np.array(listed, dtype=float).T
    probabilities, next_states, rewards, terminations = torch.from_numpy(columns)
    return Model(probabilities, next_states.long(), rewards, terminations.bool(), torch.as_tensor(start).double())


GRIDWORLDS = {"gridworld-4x4": 4, "gridworld-5x5": 5}


def build_gridworld(side: int) -> Model:
    """The book's grids, with actions up, down, right, left. Off the grid means no move.

    4 x 4, Example 4.1: every step costs 1 until one of two opposite corners is reached. 5 x 5, Example 3.5, which has
    no end: any step from A pays 10 and leads to A', from B 5 and to B', and a step off the grid costs 1.
    """
    jumps = {1: (21, 10.0), 3: (13, 5.0)}  # A and B, at the top
    outcomes = {state: {} for state in range(side**2)}
    for state, (action, (down, right)) in product(outcomes, enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)])):
        row, column = state // side + down, state % side + right
        inside = 0 <= row < side and 0 <= column < side
        next_state, ended = side * row + column if inside else state, state in (0, 15)
        if side == 4:
            outcome = (1.0, next_state, 0.0 if ended else -1.0, ended or next_state in (0, 15))
        else:
            outcome = (1.0, *jumps.get(state, (next_state, 0.0 if inside else -1.0)), False)
        outcomes[state][action] = [outcome]
    start = [state not in (0, 15) or side == 5 for state in outcomes]
    return build_model(outcomes, np.array(start) / sum(start))


def transition_table(env_id: str) -> tuple[str, Model]:
    """The full id and the transition table of a gridworld above or of a Gymnasium environment. Raises UsageError."""
    if env_id in GRIDWORLDS:
        return env_id, build_gridworld(GRIDWORLDS[env_id])
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            env = gym.make(env_id)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error}") from None
    outcomes, start = getattr(env.unwrapped, "P", None), getattr(env.unwrapped, "initial_state_distrib", None)
    env.close()
    if outcomes is None or start is None:
        tables = "FrozenLake-v1, Taxi-v4 or CliffWalking-v1"
        raise UsageError(f"--env-id {env_id}: has no transition table P; take {', '.join(GRIDWORLDS)}, {tables}")
    return env.spec.id, build_model(outcomes, start)


# --- pictures --------------------------------------------------------------------------------

ARROWS = {"←": (-1, 0), "→": (1, 0), "↑": (0, 1), "↓": (0, -1)}


def world_map(env_id: str, num_states: int, num_actions: int) -> tuple[np.ndarray, str]:
    """Where to draw each state, as state numbers [rows, columns] with -1 for nothing, and a symbol for each action."""
    states = np.arange(num_states)
    if env_id in GRIDWORLDS or env_id.startswith("FrozenLake"):
        side = math.isqrt(num_states)
        return states.reshape(side, side), "↑↓→←" if env_id in GRIDWORLDS else "←↓→↑"
    if env_id.startswith("CliffWalking"):
        return states.reshape(4, 12), "↑→↓←"
    if env_id.startswith("Taxi"):  # 5 x 5 places for each of 5 whereabouts of the passenger (down), 4 goals (across)
        return states.reshape(5, 5, 5, 4).transpose(2, 0, 3, 1).reshape(25, 20), "↓↑→←PD"
    columns = math.ceil(math.sqrt(num_states))
    cells = np.full(math.ceil(num_states / columns) * columns, -1)
    cells[:num_states] = states
    return cells.reshape(-1, columns), "abcdefghijklmnopqrstuvwxyz"[:num_actions].ljust(num_actions, "?")


def draw_values(axes, cells: np.ndarray, symbols: str, over: np.ndarray, values: np.ndarray, policy: np.ndarray):
    """Values [states] as colours and, if there is room, numbers; the actions of policy [states, actions] as arrows."""
    hidden = (cells < 0) | over[cells]
    axes.imshow(np.ma.array(values[cells], mask=hidden), cmap="summer", alpha=0.7)
    axes.set(xticks=[], yticks=[], facecolor="0.85")
    for action, symbol in enumerate(symbols):
        y, x = np.nonzero((policy[cells, action] > 0) & ~hidden)
        if symbol in ARROWS:
            axes.quiver(x, y, *ARROWS[symbol], units="xy", scale=2.5, width=0.05, headwidth=4, headlength=4)
        for place in zip(x, y, strict=True) if symbol not in ARROWS else ():
            axes.text(*place, symbol, ha="center", va="center", fontsize=5)
    for y, x in np.argwhere(~hidden) if cells.size <= 64 else ():
        axes.text(
            x - 0.46, y - 0.46, f"{values[cells[y, x]]:.1f}", ha="left", va="top", fontsize=60 / max(8, *cells.shape)
        )


def draw_sweeps(run: Run, args: Args, model: Model, history: list[torch.Tensor]):
    """The sweeps of Figure 4.1 and the last as values.png and values.csv; with --capture-video more, as sweeps.gif."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    cells, symbols = world_map(args.env_id, *model.probabilities.shape[:2])
    moves = (model.probabilities > 0) & ~(model.terminations & (model.rewards == 0))
    over = ~moves.flatten(1).any(dim=1).numpy(force=True)  # nothing to decide, nothing to earn
    last, width = len(history) - 1, 3.2
    height = width * max(cells.shape[0] / cells.shape[1], 0.4) + 0.3

    def draw(axes, number: int):
        policy = greedy(action_values(model, history[number], args.gamma)).numpy(force=True)
        draw_values(axes, cells, symbols, over, history[number].numpy(force=True), policy)
        axes.set_title("1 sweep" if number == 1 else f"{number:,} sweeps")
        return policy

    numbers = [number for number in (0, 1, 2, 3, 10) if number < last] + [last]
    figure = Figure(figsize=(3 * width, 2 * height), layout="constrained")
    for place, number in enumerate(numbers, start=1):
        policy = draw(figure.add_subplot(2, 3, place), number)
    figure.savefig(run.dir / "values.png", dpi=100)
    run.picture(run.dir / "values.png")

    with (run.dir / "values.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["state", *(f"sweep {number}" for number in numbers), "best actions"])
        columns = torch.stack([history[number] for number in numbers], dim=1).tolist()
        for state, row in enumerate(columns):
            writer.writerow([state, *row, " ".join(str(action) for action in policy[state].nonzero()[0])])

    if args.capture_video:
        numbers = {*range(min(8, last + 1)), *np.geomspace(1, max(last, 1), 24).astype(int).tolist(), last}
        figure = Figure(figsize=(1.4 * width, 1.4 * height), layout="constrained")
        axes, canvas, frames = figure.subplots(), FigureCanvasAgg(figure), []
        for number in sorted(numbers):
            axes.clear()
            draw(axes, number)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64))
        path, durations = run.dir / "sweeps.gif", [500] * (len(frames) - 1) + [2500]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
        run.picture(path)


def draw_returns(run: Run):
    """What the greedy policy earns after every sweep, beside what the values promise, as curve.png."""
    from matplotlib.figure import Figure

    with (run.dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    columns = {
        "charts/greedy_value": "what the greedy policy earns",
        "charts/promised_value": "what the values promise",
    }
    for column, label in columns.items():
        axes.plot([int(row["global_step"]) for row in rows], [float(row[column]) for row in rows], ".-", label=label)
    axes.set(xlabel="sweeps", ylabel="mean discounted return", title=run.name, xscale="symlog")
    axes.legend()
    axes.figure.savefig(run.dir / "curve.png", dpi=120)
    run.picture(run.dir / "curve.png")


# --- training --------------------------------------------------------------------------------


def check_discount(model: Model, gamma: float | None) -> float:
    """The discount to use. Raises UsageError where returns without a discount have no bound."""
    endless = int((~can_end(model)).sum())
    if gamma == 1 and endless:
        raise UsageError(
            f"--gamma 1: from {endless} of {len(model.start)} states no policy reaches the end of an episode, "
            "so returns have no bound; take less than 1"
        )
    return gamma if gamma is not None else 0.9 if endless else 1.0


def train(args: Args) -> dict:
    """Sweep, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    args = replace(args)
    args.env_id, model = transition_table(args.env_id)
    args.gamma = gamma = check_discount(model, args.gamma)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    model = Model(*(tensor.to(device) for tensor in model))
    generator = torch.Generator(device).manual_seed(args.seed)

    history, policies = [], []  # the values after each sweep; (sweep, greedy policy) where that policy changed
    sweeps = iterate(model, gamma, args.evaluation_sweeps, args.improve, args.in_place, args.theta)
    start = time.perf_counter()
    with Run(args, args.env_id) as run, tqdm(total=args.total_sweeps, unit="sweep", disable=None) as bar:
        for number, values, best, improvements, change, residual, converged in islice(sweeps, args.total_sweeps + 1):
            history.append(values)
            if not policies or not torch.equal(best, policies[-1][1]):
                policies.append((number, best))
                best_return, best_value = (
                    expected_return(model, best, discount, args.max_episode_steps) for discount in (1.0, gamma)
                )
            elapsed = time.perf_counter() - start
            row = {
                "global_step": number,
                "charts/episodic_return": best_return,
                "charts/greedy_value": best_value,
                "charts/promised_value": (model.start @ values).item(),
                "charts/improvements": improvements,
                "charts/SPS": number / elapsed,
                "losses/bellman_residual": residual,
                "losses/change": change if number else None,
                "time/elapsed": elapsed,
                "eval/optimal_after": None,
                "eval/episodic_return": None,
                "eval/episodic_return_stderr": None,
                "eval/episodic_length": None,
            }
            if converged or number == args.total_sweeps:
                returns, lengths = play(model, best, args.num_runs, args.max_episode_steps, generator)
                row["eval/episodic_return"] = returns.mean().item()
                row["eval/episodic_return_stderr"] = returns.std().item() / math.sqrt(args.num_runs)
                row["eval/episodic_length"] = lengths.mean().item()
                if converged and args.improve:
                    row["eval/optimal_after"] = optimal_since(model, values, gamma, policies)
            run.log(row)
            bar.update(number - bar.n)
            bar.set_postfix(episodic_return=f"{best_return:.2f}", change=f"{change:.1e}")

        draw_sweeps(run, args, model, history)
        draw_returns(run)
        result = f"return {row['eval/episodic_return']:.3f} +- {row['eval/episodic_return_stderr']:.3f}"
        result += f" (greedy policy, {args.num_runs:,} episodes; expected {best_return:.3f})"
        if row["eval/optimal_after"] is not None:
            result += f", optimal after {row['eval/optimal_after']} sweeps"
        state = "the values stay" if converged else f"the values still change by {change:.1e}"
        print(f"{result}; {state} after {number:,} sweeps and {improvements} improvements: {run.dir}")
    return row


def main(argv: list[str]):
    train(tyro.cli(Args, description=__doc__, args=argv))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
