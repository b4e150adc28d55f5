# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[toy-text]>=1.1",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""SARSA: learn the action values of the policy that is being followed, while it becomes greedy towards them.

    python algos/sarsa.py
    python algos/sarsa.py --expected
    python algos/sarsa.py --env-id windy --num-runs 50 --total-episodes 200
    python algos/sarsa.py --env-id Blackjack-v1 --num-runs 8 --trace-lambda 1 --learning-rate 1 --learning-rate-power 1

Without a model nobody knows which action leads to a good state, so actions get values instead of states. Each step
moves Q(s, a) towards the reward plus the value of the action that comes next, exploration included: SARSA prefers the
path on which its own random actions do no harm. --expected takes the mean over the next action in place of one sample;
--trace-lambda hands each error on to the earlier steps, and with 1 this is Monte-Carlo control.

Expect on the cliff, 500 runs of 500 episodes: a return of -27.0 in the last hundred episodes (three seeds; standard
error 0.2), with --expected -20.8 (0.05); greedy afterwards -17, where the walk comes to an end, as in 84 % of the runs,
and -15. Two seconds of a CPU core, a sixtieth of what the usual loop over the runs takes. A table of transitions goes
to the GPU with --cuda; an environment without one, such as Blackjack-v1, is stepped on the host, a copy for each run.

Papers
    Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems".
    Singh & Sutton 1996, "Reinforcement learning with replacing eligibility traces".
    Sutton & Barto 2018, "Reinforcement learning", second edition (the book): examples 5.3, 6.5, 6.6; sections 6.4, 6.6.
    Kevin Frans 2016, "Model-free prediction and control" (the post): action values, exploration that fades, traces.

Differences from the book
    1. Values closer than 1e-9 are a tie, broken at random: exact equality would let rounding decide.
    2. The step size stands in the trace, so that one which falls (--learning-rate-power) is that of the visit.
    3. --trace-lambda 1 with means is Monte-Carlo control exactly where no state comes twice in an episode, as in
       Blackjack; elsewhere its targets use values that the same episode has already changed.
"""

import csv
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Discrete, MultiDiscrete, Tuple
from tqdm import tqdm

TIE = 1e-9  # values closer than this are equal: what is between them is rounding
BLOCK = 64  # ticks between two looks at how far the runs are: a GPU is waited for only then


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds actions, ties and environments; the same seed gives the same curve"""
    cuda: bool = False
    """use a GPU if there is one: it pays from ten thousand runs on"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "CliffWalking-v1"
    """windy, or a Gymnasium environment with discrete observations and actions; without a version, the newest"""
    num_runs: int = 500
    """independent runs, side by side"""
    total_episodes: int = 500
    """episodes of each run"""
    max_steps: int | None = None
    """steps after which an episode is cut off (not given: as Gymnasium has it for this environment, or never)"""
    eval_episodes: int = 1
    """episodes of the greedy policy that each run is scored by at the end; cut off after --max-steps, or after 1,000"""
    expected: bool = False
    """Expected SARSA: the mean over the next action in place of the one taken"""
    learning_rate: float = 0.5
    """step size"""
    learning_rate_power: float = 0.0
    """how fast it falls: the n-th update of a value has step size learning_rate / n ** power, so 1 and 1 give means"""
    gamma: float = 1.0
    """discount per step, in (0, 1]"""
    trace_lambda: float = 0.0
    """decay of the eligibility traces, in [0, 1]: 0 is one-step SARSA, 1 Monte-Carlo control"""
    trace: Literal["replacing", "accumulating"] = "replacing"
    """what a repeated visit does to a trace: set it to 1, or add 1"""
    start_e: float = 0.1
    """share of random actions in the first episode"""
    end_e: float = 0.1
    """share of random actions in the end"""
    exploration_fraction: float = 1.0
    """share of the episodes over which it goes from the one to the other, in a straight line"""

    def __post_init__(self):
        for name in ["num_runs", "total_episodes", "eval_episodes"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError("--max-steps must be at least 1")
        for name in ["trace_lambda", "start_e", "end_e", "learning_rate_power"]:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must lie in [0, 1]")
        for name in ["learning_rate", "gamma", "exploration_fraction"]:
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must lie in (0, 1]")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")


# --- worlds ----------------------------------------------------------------------------------


def windy_gridworld() -> tuple[dict, dict]:
    """The book's example 6.5 as Gymnasium's P[s][a], and {start: probability}: 7 x 10 cells, up, right, down, left."""
    wind, goal = [0, 0, 0, 1, 1, 1, 2, 2, 1, 0], (3, 7)
    P = {}
    for s in range(70):
        row, column = divmod(s, 10)
        P[s] = {}
        for a, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            cell = min(max(row + down - wind[column], 0), 6), min(max(column + right, 0), 9)
            P[s][a] = [(1.0, cell[0] * 10 + cell[1], -1.0, cell == goal)]
    return P, {30: 1.0}


WORLDS = {"windy": windy_gridworld}
GRIDS = {"windy": ((7, 10), "URDL"), "CliffWalking": ((4, 12), "URDL"), "FrozenLake": ((4, 4), "LDRU")}  # to draw them


def transition_table(P: dict, starts: dict[int, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P[s][a] = [(probability, next state, reward, terminated), ...] as one list of outcomes: three tensors [outcomes].

    cumulative (float64), next states, rewards (float64). The outcomes of action a in state s share out the interval
    from i to i + 1, i = s * actions + a, by their probabilities: cumulative is where each ends. Two states come after
    the last: END, which stands for every terminal state and leads to a start, and HALT, which leads to itself.
    """
    end, halt = len(P), len(P) + 1
    pairs = [
        [(p, end if over else s, r) for p, s, r, over in outcomes] for row in P.values() for outcomes in row.values()
    ]
    pairs += [[(p, s, 0.0) for s, p in starts.items()]] * len(P[0]) + [[(1.0, halt, 0.0)]] * len(P[0])
    cumulative = [i + np.cumsum([p for p, _, _ in pair]) for i, pair in enumerate(pairs)]
    for i, ends in enumerate(cumulative):
        ends[-1] = i + 1  # whatever the rounding
    _, next_states, rewards = zip(*(outcome for pair in pairs for outcome in pair), strict=True)
    rewards = torch.tensor(rewards, dtype=torch.float64)
    return torch.tensor(np.concatenate(cumulative)), torch.tensor(next_states), rewards


class Table:
    """A world that is its transition table: a step of all runs is a few tensor operations."""

    def __init__(self, P: dict, starts: dict[int, float], generator: torch.Generator):
        self.num_states, self.num_actions, self.generator = len(P), len(P[0]), generator
        self.cumulative, self.next_states, self.rewards = (x.to(generator.device) for x in transition_table(P, starts))
        self.deterministic = len(self.cumulative) == (self.num_states + 2) * self.num_actions

    def step(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """states, actions [runs] -> next states, rewards [runs]."""
        outcomes = torch.add(actions, states, alpha=self.num_actions)
        if not self.deterministic:
            uniform = torch.rand(len(states), generator=self.generator, device=states.device, dtype=torch.float64)
            outcomes = torch.searchsorted(self.cumulative, outcomes + uniform, right=True)
        return self.next_states.index_select(0, outcomes), self.rewards.index_select(0, outcomes)


class Copies:
    """A world without a table: one environment per run, stepped one after the other on the host."""

    def __init__(self, env_id: str, seeds: list[int], device: torch.device):
        self.envs, self.device = [make_env(env_id, max_episode_steps=-1) for _ in seeds], device  # no limit but ours
        for env, seed in zip(self.envs, seeds, strict=True):
            env.reset(seed=seed)  # decides all episodes to come
        self.spaces = discrete_parts(self.envs[0].observation_space)
        self.num_states = math.prod(int(space.n) for space in self.spaces)
        self.num_actions, self.first_action = int(self.envs[0].action_space.n), int(self.envs[0].action_space.start)

    def number(self, obs) -> int:
        """An observation as a whole number in [0, num_states): its parts are the digits."""
        state = 0
        for part, space in zip(np.atleast_1d(obs).tolist(), self.spaces, strict=True):
            state = state * int(space.n) + part - int(space.start)
        return state

    def step(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """states, actions [runs] -> next states, rewards [runs]; END and HALT as in transition_table."""
        next_states, rewards = states.tolist(), [0.0] * len(self.envs)
        for i, (state, action) in enumerate(zip(states.tolist(), actions.tolist(), strict=True)):
            if state == self.num_states:
                next_states[i] = self.number(self.envs[i].reset()[0])
            elif state < self.num_states:
                obs, rewards[i], terminated, truncated, _ = self.envs[i].step(action + self.first_action)
                if truncated:
                    raise UsageError(
                        "--env-id: it cuts off episodes by itself, which only Gymnasium's TimeLimit may do"
                    )
                next_states[i] = self.num_states if terminated else self.number(obs)
        rewards = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        return torch.tensor(next_states, device=self.device), rewards


def discrete_parts(space: gym.Space) -> list[Discrete]:
    """The whole numbers that an observation is made of; none where it is made of anything else."""
    if isinstance(space, MultiDiscrete):
        return [Discrete(int(n), start=int(start)) for n, start in zip(space.nvec.flat, space.start.flat, strict=True)]
    parts = space.spaces if isinstance(space, Tuple) else [space]
    return list(parts) if all(isinstance(part, Discrete) for part in parts) else []


def make_env(env_id: str, **kwargs) -> gym.Env:
    """gym.make, with the newest version of an id without one. Raises UsageError when there is no such environment."""
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            return gym.make(env_id, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error} (or take {', '.join(WORLDS)})") from None


def make_world(args: Args, device: torch.device) -> Table | Copies:
    """The world; completes env_id and max_steps. Raises UsageError for one that a table of values cannot learn."""
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(0,)))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    if args.env_id in WORLDS:
        P, starts = WORLDS[args.env_id]()
    else:
        env = make_env(args.env_id)
        args.env_id, args.max_steps = env.spec.id, args.max_steps or env.spec.max_episode_steps
        if not discrete_parts(env.observation_space) or not isinstance(env.action_space, Discrete):
            raise UsageError(
                f"--env-id {args.env_id}: a table needs discrete observations and actions, not {env.observation_space} "
                f"and {env.action_space}; for a few continuous observations there is tile_coding.py"
            )
        if not hasattr(env.unwrapped, "P") or not hasattr(env.unwrapped, "initial_state_distrib"):
            return Copies(args.env_id, rng.integers(2**31, size=args.num_runs).tolist(), device)
        P = env.unwrapped.P
        starts = {s: float(p) for s, p in enumerate(env.unwrapped.initial_state_distrib) if p > 0}
    if not args.max_steps and not any(over for row in P.values() for outcomes in row.values() for *_, over in outcomes):
        raise UsageError(f"--max-steps: {args.env_id} has no terminal state, so its episodes need a length")
    return Table(P, starts, generator)


# --- the algorithm ---------------------------------------------------------------------------


class ActionValues:
    """A table of action values for every run, and what each of its entries has yet to learn from the steps to come.

    q, trace, visits: [runs, states + 2, actions]. The last two states are END and HALT: a step out of them is no
    transition, its step size is 0 and the value of its actions stays 0, which is what follows a terminal state.
    """

    def __init__(self, world: Table | Copies, args: Args, device: torch.device):
        self.args, self.end = args, world.num_states
        self.q = torch.zeros(args.num_runs, world.num_states + 2, world.num_actions, dtype=torch.float64, device=device)
        self.trace = torch.zeros_like(self.q)
        self.visits = torch.zeros_like(self.q)
        self.step_size = torch.full_like(self.q[0, :, 0], args.learning_rate)  # of the first visit: [states + 2]
        self.step_size[self.end :] = 0

    def update(self, states: torch.Tensor, entries: torch.Tensor, targets: torch.Tensor):
        """Move q towards targets [runs]: from states [runs], entries [runs] of the flat table for the actions taken."""
        q, trace, visits, args = self.q.view(-1), self.trace.view(-1), self.visits.view(-1), self.args
        delta = targets - q.index_select(0, entries)
        step_size = self.step_size.index_select(0, states)
        if args.learning_rate_power:
            visits.index_add_(0, entries, torch.ones_like(step_size))
            step_size *= visits.index_select(0, entries) ** -args.learning_rate_power
        if not args.trace_lambda:
            q.index_add_(0, entries, step_size * delta)
            return
        # The trace holds the step size of each visit as well: it is the visit's, whenever the error comes.
        same_episode = (states < self.end).double().view(-1, 1, 1)
        self.trace *= args.gamma * args.trace_lambda * same_episode
        if args.trace == "accumulating":
            trace.index_add_(0, entries, step_size)
        else:
            trace.index_copy_(0, entries, step_size)
        self.q.addcmul_(self.trace, delta.view(-1, 1, 1))


def act(q: torch.Tensor, ties: torch.Tensor, explore: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Epsilon-greedy actions [runs]: q, ties [runs, actions]; random actions [runs] where explore [runs] says so.

    Ties, noise of at most TIE, decides between values that are equal but for rounding.
    """
    return torch.where(explore, random, (q + ties).argmax(dim=1))


def expected_value(q: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """The mean of q [runs, actions] over the epsilon-greedy action, whichever way its ties are broken -> [runs]."""
    return (1 - epsilon) * q.amax(dim=1) + epsilon * q.mean(dim=1)


def exploration(args: Args) -> torch.Tensor:
    """Epsilon in each episode [episodes]: a straight line from start_e to end_e, and end_e from there on."""
    progress = torch.arange(args.total_episodes).double() / (args.exploration_fraction * args.total_episodes)
    return args.start_e + (args.end_e - args.start_e) * progress.clamp(max=1)


@torch.inference_mode()
def play(
    world: Table | Copies, values: ActionValues, epsilon: torch.Tensor, max_steps: int | None, learn: bool, generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Play len(epsilon) episodes in every run, all in lockstep; yields after every block of ticks, to the very end.

    Yields returns and lengths [runs, episodes] so far, and how many episodes all the runs have finished. A run whose
    episode has ended is in state END for a tick, which starts it over (next-step autoreset); one that has played all
    its episodes is in HALT. An episode cut off after max_steps is bootstrapped, then goes to END as well.
    """
    num_runs, num_states, num_actions = values.q.shape
    end, halt, device, num_episodes = num_states - 2, num_states - 1, values.q.device, len(epsilon)
    rows, gamma = values.q.view(-1, num_actions), values.args.gamma  # rows: [runs * states, actions]
    first_row = torch.arange(num_runs, device=device) * num_states
    epsilon = torch.cat([epsilon, epsilon[-1:]]).to(device)
    episodes = torch.zeros(num_runs, dtype=torch.int64, device=device)  # finished ones
    states, actions, clock = torch.full_like(episodes, end), torch.zeros_like(episodes), torch.zeros_like(episodes)
    totals = torch.zeros(2, num_runs * (num_episodes + 1), dtype=torch.float64, device=device)  # the last: in HALT
    first_total = torch.arange(num_runs, device=device) * (num_episodes + 1)

    finished = 0
    while finished < num_episodes:
        ties = TIE * torch.rand(BLOCK, num_runs, num_actions, generator=generator, device=device).double()
        uniform = torch.rand(BLOCK, num_runs, generator=generator, device=device)
        random = torch.randint(num_actions, (BLOCK, num_runs), generator=generator, device=device)
        history = []
        for noise, u, some in zip(ties, uniform, random, strict=True):
            next_states, rewards = world.step(states, actions)
            next_rows, epsilons = first_row + next_states, epsilon.index_select(0, episodes)
            next_q = rows.index_select(0, next_rows)
            next_actions = act(next_q, noise, u < epsilons, some)
            if learn:
                if values.args.expected:
                    next_values = expected_value(next_q, epsilons)
                else:
                    next_values = rows.view(-1).index_select(0, torch.add(next_actions, next_rows, alpha=num_actions))
                entries = torch.add(actions, first_row + states, alpha=num_actions)
                values.update(states, entries, torch.add(rewards, next_values, alpha=gamma))  # sections 6.4 and 6.6
            if max_steps:
                clock = (clock + 1).masked_fill(states == end, 0)
                next_states = next_states.masked_fill((clock == max_steps) & (next_states < end), end)
            history.append((episodes, rewards, states))
            episodes = episodes + (next_states == end)
            states, actions = next_states.masked_fill(episodes == num_episodes, halt), next_actions
        which, rewards, left = (torch.stack(column) for column in zip(*history, strict=True))  # [BLOCK, runs] each
        for total, x in zip(totals, (rewards, (left < end).double()), strict=True):
            total.index_add_(0, (first_total + which).view(-1), x.view(-1))
        finished = int(episodes.min())
        returns, lengths = totals.view(2, num_runs, -1)[:, :, :-1]
        yield returns, lengths, finished


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


# --- training --------------------------------------------------------------------------------


def mean_and_error(x: torch.Tensor) -> tuple[float, float | None]:
    """Mean of x [runs] and its standard error; none of a single run."""
    return float(x.mean()), float(x.std() / math.sqrt(len(x))) if len(x) > 1 else None


def evaluate(world: Table | Copies, values: ActionValues, args: Args, generator: torch.Generator) -> dict:
    """The row's eval/*: greedy episodes of every run, with nothing learned from them.

    Where nothing else cuts off an episode, 1,000 steps do, and it has no return: the greedy policy may walk in circles.
    """
    greedy, limit = torch.zeros(args.eval_episodes, dtype=torch.float64), args.max_steps or 1000
    *_, (returns, lengths, _) = play(world, values, greedy, limit, False, generator)
    ended = lengths < limit
    scored = returns.flatten() if args.max_steps else returns[ended]
    mean, error = mean_and_error(scored) if len(scored) else (None, None)
    share = float(ended.double().mean())
    return {"eval/episodic_return": mean, "eval/episodic_return_se": error, "eval/share_ended": share}


def draw_policy(path: Path, q: torch.Tensor, env_id: str, title: str):
    """A map of a grid: its colour is the value of the best action, the strength of an arrow the runs that take it."""
    from matplotlib.figure import Figure

    (height, width), letters = GRIDS[env_id]
    q = q[:, : height * width].cpu()
    known = (q != 0).any(dim=2).any(dim=0).view(height, width)  # the others were never left
    value = torch.where(known, q.mean(dim=0).amax(dim=1).view(height, width), math.nan)
    share = torch.nn.functional.one_hot(q.argmax(dim=2), q.shape[2]).double().mean(dim=0)  # [states, actions]
    figure = Figure(figsize=(0.6 * width + 1.6, 0.6 * height + 0.8), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(value.numpy(), cmap="viridis"), label="value of the best action")
    for a, letter in enumerate(letters):
        dx, dy = {"U": (0, -1), "R": (1, 0), "D": (0, 1), "L": (-1, 0)}[letter]
        for row, column in known.nonzero().tolist():
            look = {"color": "white", "alpha": float(share[row * width + column, a]), "width": 0.05, "head_width": 0.25}
            axes.arrow(column, row, 0.22 * dx, 0.22 * dy, **look)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), title=title)
    figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Learn, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the values have diverged.
    """
    args = replace(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    world = make_world(args, device)
    seed = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(1,))).integers(2**63)
    generator = torch.Generator(device).manual_seed(int(seed))
    values = ActionValues(world, args, device)
    every = math.ceil(args.total_episodes / 500)  # episodes in a row of the metrics
    start, global_step, logged, row = time.perf_counter(), 0, 0, {}
    with Run(args, args.env_id) as run, tqdm(total=args.total_episodes, unit="episode", disable=None) as bar:
        for returns, lengths, finished in play(world, values, exploration(args), args.max_steps, True, generator):
            if not values.q.isfinite().all():
                raise FloatingPointError("the values diverged: try a smaller --learning-rate, or replacing traces")
            last = args.total_episodes if finished == args.total_episodes else finished // every * every
            for k in [*range(logged + every, last, every), last] if last > logged else []:
                global_step += int(lengths[:, logged:k].sum())
                mean, error = mean_and_error(returns[:, logged:k].mean(dim=1))
                mean_100, error_100 = mean_and_error(returns[:, max(k - 100, 0) : k].mean(dim=1))
                length, length_error = mean_and_error(lengths[:, logged:k].mean(dim=1))
                elapsed = time.perf_counter() - start
                row = {
                    "global_step": global_step,
                    "charts/episode": k,
                    "charts/episodic_return": mean,
                    "charts/episodic_return_se": error,
                    "charts/episodic_return_100": mean_100,
                    "charts/episodic_return_100_se": error_100,
                    "charts/episodic_length": length,
                    "charts/episodic_length_se": length_error,
                    "charts/SPS": global_step / elapsed,
                    "time/elapsed": elapsed,
                }
                scores = evaluate(world, values, args, generator) if k == args.total_episodes else None
                row |= scores or dict.fromkeys(["eval/episodic_return", "eval/episodic_return_se", "eval/share_ended"])
                run.log(row)
                bar.update(k - logged)
                bar.set_postfix(episodic_return_100=mean_100)
                logged = k
        np.save(run.dir / "q.npy", values.q[:, : world.num_states].numpy(force=True))
        run.plot("charts/episodic_return")
        if (task := args.env_id.split("-v")[0]) in GRIDS:
            draw_policy(run.dir / "policy.png", values.q, task, run.name)
            run.picture(run.dir / "policy.png")
        result, share = row["eval/episodic_return"], row["eval/share_ended"]
        online = f"return {row['charts/episodic_return_100']:.1f} in the last hundred episodes"
        greedily = f"greedy {result:.2f}, {share:.0%} come to an end" if result is not None else "greedy without end"
        print(f"{online}, {greedily}; {args.num_runs} runs, {row['time/elapsed']:.2f} s: {run.dir}")
    return row


def main(argv: list[str]):
    train(tyro.cli(Args, description=__doc__, args=argv))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
