# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium>=1.1",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Dyna-Q: learn from every real step, learn a model of the world as well, and practise in it.

    python algos/dyna_q.py --planning-steps 50
    python algos/dyna_q.py --planning-steps 0
    python algos/dyna_q.py --planner value-iteration
    python algos/dyna_q.py --env-id FrozenLake-v1 --total-episodes 500

Model-free learning throws a step away once it has learned from it. Dyna also counts where each action led; between two
real steps it repeats what it remembers, n simulated steps a time, with the same update. The loop: act, learn from the
real step, learn the model, n simulated updates. With n = 0 it is plain Q-learning; with --planner value-iteration the
learner is purely model-based: nothing is learned from the step itself, and the counted model is solved after each.

Expect the Dyna maze (mean of 30 runs) below 20 steps from episode 27, 6 and 3 on with n = 0, 5 and 50; the shortest way
takes 14. That is 5,200, 2,000 and 1,800 real steps a run, in 4, 6 and 10 seconds of one busy CPU core.

All runs advance in lockstep: tables are tensors [runs, states, actions], and the environment is its transition table,
so a thousand runs take little longer than one, and --cuda --num-runs 100000 is no foolish thing to ask. With
--planner value-iteration a GPU waits after each sweep for the news whether it was the last.

Papers
    Sutton 1990, "Integrated architectures for learning, planning, and reacting based on approximating dynamic
    programming": Dyna.
    Sutton & Barto 2018, "Reinforcement learning: an introduction", 2nd edition: Figure 8.2, the Dyna maze.
    Kevin Frans 2016, on model-based learning (the post): the loop, with counted transitions.

Differences from the book and the post
    1. The book's model remembers the last outcome of a pair; this one counts all of them and draws from the ratios, as
       the post has it. In the deterministic maze that is the same.
    2. The post updates with SARSA; the default is the book's Q-learning. In --method sarsa the next action is drawn
       for the update alone, in real and in simulated steps: planning changes the values before the agent acts.
    3. An outcome is counted under its number in the environment's table, which saves a dimension of states. What was
       never seen has the count 0, and no step of the learner looks at it.
"""

import csv
import json
import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from tqdm import tqdm

# Figure 8.2: from S to G around the walls. Moves into a wall or over the edge change nothing; reaching G pays 1.
DYNA_MAZE = """
    .......#G
    ..#....#.
    S.#....#.
    ..#......
    .....#...
    .........
"""
HORIZON = 1000  # steps after which the evaluation of an environment without a time limit gives up
LOOK_EVERY = 64  # steps between two looks at how far the runs are: a GPU has to wait for each


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds outcomes, actions and simulated steps; the same seed gives the same curve"""
    cuda: bool = False
    """use a GPU if there is one: it pays from some thousand runs on"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "DynaMaze"
    """DynaMaze, or a Gymnasium environment with a transition table: FrozenLake-v1, CliffWalking-v1, Taxi"""
    num_runs: int = 30
    """independent runs, side by side"""
    total_episodes: int = 50
    """episodes of each run"""
    method: Literal["q-learning", "sarsa"] = "q-learning"
    """what an update takes the next state to be worth: its best action, or the one the policy draws there"""
    planner: Literal["simulation", "value-iteration"] = "simulation"
    """practise n simulated steps, or learn from the model alone and solve it after every real step"""
    planning_steps: int = 50
    """n: simulated updates per real step; 0 is model-free. Value iteration sweeps until nothing changes instead"""
    learning_rate: float = 0.1
    """step size alpha of an update, in (0, 1]; value iteration has none"""
    epsilon: float = 0.1
    """probability of a random action, in [0, 1]"""
    gamma: float = 0.95
    """discount per step, between 0 and 1"""

    def __post_init__(self):
        if self.num_runs < 1 or self.total_episodes < 1:
            raise UsageError("--num-runs and --total-episodes must be at least 1")
        if self.planning_steps < 0 or self.seed < 0:
            raise UsageError("--planning-steps and --seed must not be negative")
        if not 0 < self.learning_rate <= 1 or not 0 <= self.epsilon <= 1:
            raise UsageError("--learning-rate must lie in (0, 1] and --epsilon in [0, 1]")
        if not 0 < self.gamma < 1:
            raise UsageError("--gamma must lie between 0 and 1: without a discount the shortest way is worth no more")


# --- the environment as a table --------------------------------------------------------------


@dataclass
class Table:
    """S states, A actions, K outcomes at most. A step that ends the episode leads to state S, "the end"."""

    probs: torch.Tensor
    """[S, A, K] probability of outcome k; 0 where there are fewer"""
    rewards: torch.Tensor
    """[S, A, K]"""
    next_states: torch.Tensor
    """[S, A, K], whole numbers from 0 to S"""
    start: torch.Tensor
    """[S] probability of starting there"""
    time_limit: int | None = None
    """steps after which an episode is cut off, or None"""
    cells: list[tuple[int, int]] | None = None
    """row and column of each state of a maze"""

    def to(self, device: torch.device) -> "Table":
        tensors = ("probs", "rewards", "next_states", "start")
        return Table(*(getattr(self, name).to(device) for name in tensors), self.time_limit, self.cells)


def tabulate(outcomes, start) -> Table:
    """A table from Gymnasium's form, outcomes[s][a] = [(probability, next state, reward, whether it ends), ...].

    Equal outcomes become one: FrozenLake lists a slip against the wall and a step against it apart.
    """
    num_states, num_actions = len(outcomes), len(outcomes[0])
    merged = {}
    for s in range(num_states):
        for a in range(num_actions):
            pair = merged.setdefault((s, a), {})
            for prob, next_state, reward, ends in outcomes[s][a]:
                outcome = (num_states if ends else int(next_state), float(reward))
                pair[outcome] = pair.get(outcome, 0.0) + float(prob)
    shape = (num_states, num_actions, max(map(len, merged.values())))
    probs, rewards = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    next_states = torch.zeros(shape, dtype=torch.long)
    for (s, a), pair in merged.items():
        for k, ((next_state, reward), prob) in enumerate(pair.items()):
            probs[s, a, k], rewards[s, a, k], next_states[s, a, k] = prob, reward, next_state
    return Table(probs, rewards, next_states, torch.as_tensor(start, dtype=torch.float64))


def maze_table(maze: str) -> Table:
    """The table of a maze drawn in text: # is a wall, S the start, G the goal. Actions: up, right, down, left."""
    rows = maze.split()
    cells = [(i, j) for i, row in enumerate(rows) for j, letter in enumerate(row) if letter != "#"]
    number = {cell: state for state, cell in enumerate(cells)}
    outcomes = []
    for i, j in cells:
        neighbours = [(i - 1, j), (i, j + 1), (i + 1, j), (i, j - 1)]
        reached = [cell if cell in number else (i, j) for cell in neighbours]
        at_goal = [rows[y][x] == "G" for y, x in reached]
        outcomes.append([[(1.0, number[cell], float(g), g)] for cell, g in zip(reached, at_goal, strict=True)])
    table = tabulate(outcomes, [float(rows[i][j] == "S") for i, j in cells])
    table.cells = cells
    return table


def transition_table(env_id: str) -> Table:
    """The environment's table. Raises UsageError when it has none, or when its episodes never end."""
    if env_id == "DynaMaze":
        return maze_table(DYNA_MAZE)
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            env = gym.make(env_id, disable_env_checker=True)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error}") from None
    outcomes, start = (getattr(env.unwrapped, name, None) for name in ("P", "initial_state_distrib"))
    if outcomes is None or start is None:
        raise UsageError(
            f"--env-id {env_id}: has no transition table; FrozenLake-v1, CliffWalking-v1 and Taxi have one"
        )
    table = tabulate(outcomes, start)
    table.time_limit = env.spec.max_episode_steps
    env.close()
    if table.time_limit is None and not (table.next_states == len(table.start)).any():
        raise UsageError(f"--env-id {env_id}: has neither a terminal state nor a time limit: no episode would end")
    return table


# --- chance ----------------------------------------------------------------------------------


def draw(weights: torch.Tensor, num: int, generator: torch.Generator) -> torch.Tensor:
    """Indices drawn in proportion to weights [..., n], which need not add up to 1 -> [..., num]."""
    shares = weights.cumsum(-1)
    noise = torch.rand(*weights.shape[:-1], num, dtype=weights.dtype, device=weights.device, generator=generator)
    return torch.searchsorted(shares, noise * shares[..., -1:], right=True)


def one_of(candidates: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The index of one of the candidates, all equally likely: bool [..., n] -> [...]."""
    noise = torch.rand(candidates.shape, dtype=torch.float64, device=candidates.device, generator=generator)
    return (candidates * (1 - noise)).argmax(-1)  # 1 - noise is never 0, as those are that are no candidates


def act(q: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    """Epsilon-greedy, ties broken at random: action values [..., actions] -> actions [...]."""
    noise = torch.rand(q.shape[:-1], dtype=torch.float64, device=q.device, generator=generator)
    explore = (noise < epsilon).unsqueeze(-1)
    return one_of((q == q.amax(-1, keepdim=True)) | explore, generator)


# --- learning --------------------------------------------------------------------------------


def positions(q: torch.Tensor, states, actions, next_states) -> tuple[torch.Tensor, torch.Tensor]:
    """Where steps [..., runs] stand in q [runs, S + 1, A]: pairs in q.view(-1), next states in q.view(-1, A).

    One flat index takes half the time of q[runs, states, actions], and simulated steps get theirs all at once.
    """
    num_runs, num_states, num_actions = q.shape
    first_rows = num_states * torch.arange(num_runs, device=q.device)
    return (first_rows + states) * num_actions + actions, first_rows + next_states


def td_update(q: torch.Tensor, pairs, rewards, next_rows, step_sizes, args: Args, generator: torch.Generator):
    """One update in each run, from a real or a simulated step: all [runs], pairs and next_rows from positions.

    The end's row of q is never updated and stays 0: what a last step leads to is worth nothing.
    """
    next_q = q.view(-1, q.shape[2])[next_rows]  # [runs, A]
    if args.method == "q-learning":
        next_values = next_q.amax(1)
    else:  # SARSA
        next_values = next_q.gather(1, act(next_q, args.epsilon, generator).unsqueeze(1)).squeeze(1)
    targets = torch.add(rewards, next_values, alpha=args.gamma)  # reward + gamma * value of what comes next
    q.put_(pairs, torch.lerp(q.take(pairs), targets, step_sizes))  # so much of the way to the target


def imagine(counts: torch.Tensor, table: Table, num: int, generator: torch.Generator) -> tuple:
    """Steps of the counted model [runs, S, A, K], num for each run: states, actions, rewards, next states [num, runs].

    A random state that was seen, a random action that was taken there (the book's way, not any pair alike), and one of
    its outcomes in the ratio of their counts.
    """
    runs = torch.arange(len(counts), device=counts.device).unsqueeze(1)
    taken = counts.sum(-1) > 0  # [runs, S, A]
    states = draw(taken.any(-1).double(), num, generator)  # [runs, num]
    actions = one_of(taken[runs, states], generator)
    outcomes = draw(counts[runs, states, actions], 1, generator).squeeze(-1)
    rewards, next_states = (x[states, actions, outcomes] for x in (table.rewards, table.next_states))
    return states.T, actions.T, rewards.T, next_states.T


def plan(q: torch.Tensor, counts: torch.Tensor, table: Table, step_sizes, args: Args, generator: torch.Generator):
    """Practise: --planning-steps simulated updates of every run, one after the other."""
    states, actions, rewards, next_states = imagine(counts, table, args.planning_steps, generator)
    pairs, next_rows = positions(q, states, actions, next_states)  # [num, runs]
    for step in zip(pairs, rewards, next_rows, strict=True):
        td_update(q, *step, step_sizes, args, generator)


def value_iteration(q: torch.Tensor, counts: torch.Tensor, table: Table, gamma: float, tolerance: float = 1e-6):
    """Solve the counted model [runs, S, A, K] from where q [runs, S + 1, A] is: sweep until no value changes.

    A pair that was never tried keeps the value it has. With the true probabilities as counts it solves the environment.
    """
    total = counts.sum(-1, keepdim=True)
    tried = total.squeeze(-1) > 0
    ratios = counts / total.where(total > 0, 1)
    change = math.inf
    while change > tolerance:
        values = q.amax(-1)[:, table.next_states]  # [runs, S, A, K]; the end's is 0
        swept = (ratios * (table.rewards + gamma * values)).sum(-1).where(tried, q[:, :-1])
        change = (swept - q[:, :-1]).abs().max()
        q[:, :-1] = swept


def play_greedily(q: torch.Tensor, table: Table) -> tuple[torch.Tensor, torch.Tensor]:
    """What the greedy policy of each q [runs, S + 1, A] is expected to get, exactly: returns [runs], lengths [runs].

    Ties are broken at random. The episode is cut off at the time limit, or after HORIZON steps.
    """
    greedy = (q == q.amax(-1, keepdim=True))[:, :-1].double()
    policy = greedy / greedy.sum(-1, keepdim=True)  # [runs, S, A]
    num_states = len(table.start)
    leads_to = torch.nn.functional.one_hot(table.next_states, num_states + 1).double()  # [S, A, K, S + 1]
    moves = torch.einsum("rsa,sak,sakt->rst", policy, table.probs, leads_to[..., :-1])
    gains = torch.einsum("rsa,sak,sak->rs", policy, table.probs, table.rewards)
    where = table.start.expand(len(q), -1)  # [runs, S]: the probability of being there; the end is left out
    returns, lengths = torch.zeros_like(where[:, 0]), torch.zeros_like(where[:, 0])
    for _ in range(table.time_limit or HORIZON):
        returns += (where * gains).sum(1)
        lengths += where.sum(1)
        where = (where.unsqueeze(1) @ moves).squeeze(1)
    return returns, lengths


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
    """Mean over the runs [runs] and its standard error, which one run does not have."""
    return x.mean().item(), x.std().item() / math.sqrt(len(x)) if len(x) > 1 else None


def draw_picture(run: Run, returns: torch.Tensor, lengths: torch.Tensor, optimum: float, q: torch.Tensor, table: Table):
    """dyna.png: steps per episode, reward over real steps, and for a maze the first run's values and greedy actions.

    returns, lengths [runs, episodes]; optimum is the expected length of the best policy's episodes; q [S + 1, A].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14 if table.cells else 9, 3.8), layout="constrained")
    steps, reward, *rest = figure.subplots(1, 3 if table.cells else 2)
    mean, error = lengths.mean(0), lengths.std(0, correction=min(1, len(lengths) - 1)) / math.sqrt(len(lengths))
    episodes = torch.arange(1, lengths.shape[1] + 1)
    steps.fill_between(episodes, mean - error, mean + error, alpha=0.3)
    steps.plot(episodes, mean)
    steps.axhline(optimum, color="black", linestyle=":", label=f"best policy: {optimum:.1f}")
    steps.set(xlabel="episode", ylabel=f"real steps (mean of {len(lengths)} runs)", yscale="log")
    steps.legend(frameon=False)
    reward.plot(lengths.cumsum(1).mean(0), returns.cumsum(1).mean(0))
    reward.set(xlabel="real steps", ylabel="reward so far")
    for axes in rest:
        rows, columns = (max(cell[axis] for cell in table.cells) + 1 for axis in (0, 1))
        values = np.full((rows, columns), np.nan)
        for s, (i, j) in enumerate(table.cells):
            best = q[s].max().item()
            values[i, j] = best
            for a, (right, up) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)]):
                if best > 0 and q[s, a] == best:
                    axes.arrow(j - 0.2 * right, i + 0.2 * up, 0.3 * right, -0.3 * up, head_width=0.15, color="white")
            axes.text(j - 0.45, i - 0.2, DYNA_MAZE.split()[i][j].strip("."), color="red")
        axes.set_facecolor("black")  # the walls
        axes.imshow(values)
        axes.set(title="value of the best action, run 1", xticks=[], yticks=[])
    figure.suptitle(run.name)
    figure.savefig(run.dir / "dyna.png", dpi=120)
    run.picture(run.dir / "dyna.png")


@torch.no_grad()
def train(args: Args) -> dict:
    """Learn, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    table = transition_table(args.env_id).to(device)
    num_states, num_actions, num_outcomes = table.probs.shape
    num_runs, num_episodes = args.num_runs, args.total_episodes
    # One stream each: however much is practised, the world's dice are those of plain Q-learning.
    seeds = np.random.SeedSequence(args.seed).generate_state(3, np.uint64).tolist()
    world, policy, model = (torch.Generator(device).manual_seed(seed) for seed in seeds)

    best_q = torch.zeros(1, num_states + 1, num_actions, dtype=torch.float64, device=device)
    value_iteration(best_q, table.probs.unsqueeze(0), table, args.gamma)
    best_return, best_length = (x.item() for x in play_greedily(best_q, table))

    def zeros(*shape, dtype=torch.float64):
        return torch.zeros(num_runs, *shape, dtype=dtype, device=device)

    q, counts = zeros(num_states + 1, num_actions), zeros(num_states, num_actions, num_outcomes)
    runs, starts = torch.arange(num_runs, device=device), table.start.expand(num_runs, -1)
    states = draw(starts, 1, world).squeeze(1)
    episode, steps, gained = zeros(dtype=torch.long), zeros(dtype=torch.long), zeros()  # the episode under way
    returns, lengths = zeros(num_episodes + 1), zeros(num_episodes + 1)  # the last column is a bin
    logged, start = 0, time.perf_counter()

    with Run(args, args.env_id) as run, tqdm(total=num_episodes, unit="episode", disable=None) as bar:
        while logged < num_episodes:
            for _ in range(LOOK_EVERY):
                active = (episode < num_episodes).double()  # a run that is through learns no more
                # Act.
                actions = act(q[runs, states], args.epsilon, policy)
                outcomes = draw(table.probs[states, actions], 1, world).squeeze(1)
                rewards, next_states = (x[states, actions, outcomes] for x in (table.rewards, table.next_states))
                # Learn from the real step.
                step_sizes = args.learning_rate * active
                if args.planner == "simulation":
                    pairs, next_rows = positions(q, states, actions, next_states)
                    td_update(q, pairs, rewards, next_rows, step_sizes, args, policy)
                # Learn the model.
                counts[runs, states, actions, outcomes] += active
                # Learn from the model.
                if args.planner == "value-iteration":
                    value_iteration(q, counts, table, args.gamma)
                elif args.planning_steps:
                    plan(q, counts, table, step_sizes, args, model)

                steps += 1
                gained += rewards
                ended = next_states == num_states
                if table.time_limit:
                    ended |= steps >= table.time_limit
                column = torch.where(ended & (active > 0), episode, num_episodes)
                returns[runs, column], lengths[runs, column] = gained, steps.double()
                episode += ended
                steps, gained = steps * ~ended, gained * ~ended
                states = torch.where(ended, draw(starts, 1, world).squeeze(1), next_states)

            for e in range(logged, min(int(episode.min()), num_episodes)):
                global_step, elapsed = int(lengths[:, : e + 1].sum()), time.perf_counter() - start
                row = {"global_step": global_step}
                row["charts/episodic_return"], row["charts/episodic_return_error"] = mean_and_error(returns[:, e])
                row["charts/episodic_length"], row["charts/episodic_length_error"] = mean_and_error(lengths[:, e])
                row["charts/reward_so_far"] = returns[:, : e + 1].sum(1).mean().item()
                row |= {"charts/SPS": global_step / elapsed, "time/elapsed": elapsed}
                names = ["eval/episodic_return", "eval/episodic_return_error"]
                names += ["eval/episodic_length", "eval/episodic_length_error"]
                row |= dict.fromkeys([*names, "eval/best_return", "eval/best_length"])
                if e == num_episodes - 1:
                    greedy_returns, greedy_lengths = play_greedily(q, table)
                    results = [*mean_and_error(greedy_returns), *mean_and_error(greedy_lengths)]
                    row |= dict(
                        zip(
                            [*names, "eval/best_return", "eval/best_length"],
                            [*results, best_return, best_length],
                            strict=True,
                        )
                    )
                run.log(row)
                logged += 1
                bar.update()
                bar.set_postfix(steps=f"{row['charts/episodic_length']:.1f}")

        run.plot("charts/episodic_length")
        draw_picture(run, returns[:, :-1].cpu(), lengths[:, :-1].cpu(), best_length, q[0].cpu(), table.to("cpu"))
    greedy = f"return {row['eval/episodic_return']:.2f} in {row['eval/episodic_length']:.1f} steps"
    best = f"best policy {best_return:.2f} in {best_length:.1f}"
    print(f"{greedy} (greedy, {num_runs} runs; {best}) after {global_step / num_runs:,.0f} steps each: {run.dir}")
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
