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
"""Dyna-2: a long-term memory of what is good in general, and a short-term one of what is good just here.

    python algos/dyna2.py
    python algos/dyna2.py --total-episodes 400 --simulations 100
    python algos/dyna2.py --env-id CliffWalking-v1 --num-runs 10 --total-episodes 8 --simulations 4 --max-depth 15

Two sets of weights on the same features. The long-term memory learns by Sarsa from real steps and is kept; before every
real step, simulated episodes from the current state correct it in the short-term memory, which learns by Sarsa too
and is cleared when the episode is over. Whoever acts looks at the sum of both. With --memory short what is left is TD
search, with --memory long plain Sarsa.

In Connect Four the agent plays itself, the features are local shapes on the board, and the model is the rules. In
mazes (DynaMaze, FrozenLake-v1, CliffWalking-v1, Taxi) a feature is a pair of state and action, and the model is counted
from experience: the share in which each outcome followed.

Expect 98 % of the points against random play, without any search, after 15,000 games that it played against itself,
and 90 % for both memories against the short-term one at 20 simulations a move: the default run, 13 seconds of a busy
CPU core. At 100 simulations a move on either side, against UCT (mcts.py): 64 % of the points for the short-term memory
alone, 82 % for the long-term one of 61,000 games without search (9 CPU seconds), 96 % for both. A search of 128 games
side by side makes some 5,000 simulations a CPU second. On the cliff, with 4 simulations a step and a counted model,
the second episode takes 65 steps with both memories, 109 with the short-term one and 353 with the long-term one.

All games or runs advance in lockstep: states and memories are tensors with a leading axis of games, and the patterns of
all moves follow from those on the board by one look into a table.

Papers
    Silver, Sutton & Mueller 2008, "Sample-based learning and search with permanent and transient memories": Dyna-2.
    Silver, Sutton & Mueller 2012, "Temporal-difference search in computer Go": what --memory short leaves.
    Kevin Frans 2016, on model-based learning (the post): long-term and short-term policy, the counted model.

Differences from the papers and the post
    1. Connect Four instead of 9x9 Go, and so other shapes: the 69 lines of four cells that win. Each of the four cells
       is out of reach, next to be filled, a stone of the player to move or of the other: 256 patterns a line, 17,664
       features, 69 of them active. Weights are not shared between places, but between the two colours.
    2. The short-term memory learns from a simulated episode when it is over, from lambda-returns, not after each step.
    3. The long-term memory learns one step deep (lambda 0). Games that are played side by side share it: where several
       of them change a weight at once, it moves by the mean.
    4. It learns from games that are played without search unless --practice-simulations says otherwise: a game with
       search takes as long as hundreds without.
    5. A last step that a time limit cuts off is not learned from, nor is a simulated one that the model has never seen.
"""

import csv
import json
import math
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from tqdm import tqdm

# Sutton & Barto's Dyna maze (Figure 8.2): from S to G around the walls; reaching G pays 1
DYNA_MAZE = """
    .......#G
    ..#....#.
    S.#....#.
    ..#......
    .....#...
    .........
"""
PATIENCE = 1000  # steps after which the evaluation gives up an episode that does not end


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds real and simulated steps; the same seed gives the same games"""
    cuda: bool = False
    """use a GPU if there is one: it has to wait whenever a simulated episode may be over"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "connect-four"
    """connect-four, DynaMaze, or a Gymnasium environment with a transition table: FrozenLake-v1, CliffWalking-v1"""
    memory: Literal["both", "long", "short"] = "both"
    """which memories the agent has; the long-term one alone does not search"""
    num_runs: int = 256
    """games side by side, which share the long-term memory; in mazes independent runs, which share nothing"""
    total_episodes: int = 60
    """episodes of each run to learn from"""
    simulations: int = 20
    """simulated episodes before every real step; in Connect Four before every move of the match at the end"""
    practice_simulations: int = 0
    """of Connect Four: simulated games before every move of the games it learns from"""
    match_games: int = 64
    """of Connect Four: games of the match at the end, both memories against the short-term one alone"""
    max_depth: int = 50
    """steps after which a simulated episode is cut off; those of Connect Four end by themselves"""
    learning_rate: float | None = None
    """of the long-term memory: how far a step goes, all its features together; 1 in Connect Four, else 0.1"""
    search_learning_rate: float | None = None
    """of the short-term memory, the same; 0.2 in Connect Four, else 0.1"""
    td_lambda: float = 0.5
    """of the short-term memory: weight of what came later beside the next value, in [0, 1]"""
    epsilon: float = 0.1
    """probability of a random action in real episodes that are learned from, in [0, 1]"""
    search_epsilon: float = 0.1
    """the same in simulated ones"""
    gamma: float = 0.95
    """discount per step of mazes, in (0, 1]; the game is not discounted"""

    def __post_init__(self):
        for name in ["num_runs", "total_episodes", "match_games", "max_depth"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.simulations < 0 or self.practice_simulations < 0 or self.seed < 0:
            raise UsageError("--simulations, --practice-simulations and --seed must not be negative")
        if not all(rate is None or 0 < rate < math.inf for rate in (self.learning_rate, self.search_learning_rate)):
            raise UsageError("--learning-rate and --search-learning-rate must be positive")
        if not all(0 <= share <= 1 for share in (self.td_lambda, self.epsilon, self.search_epsilon)):
            raise UsageError("--td-lambda, --epsilon and --search-epsilon must lie in [0, 1]")
        if not 0 < self.gamma <= 1:
            raise UsageError("--gamma must lie in (0, 1]")
        if self.memory != "long" and self.simulations == 0:
            raise UsageError("--simulations 0 leaves no short-term memory: take --memory long")


# --- Connect Four ----------------------------------------------------------------------------

WIDTH, HEIGHT = 7, 6
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # up, along, rising, falling
LINES = [
    [(x + i * dx, y + i * dy) for i in range(4)]
    for x in range(WIDTH)
    for y in range(HEIGHT)
    for dx, dy in DIRECTIONS
    if x + 3 * dx < WIDTH and 0 <= y + 3 * dy < HEIGHT
]  # the 69 lines of four cells (column, row from the bottom)
OUT_OF_REACH, NEXT, OWN, OTHER = range(4)  # the digits of a pattern: own is of the player to move
PATTERNS = 4**4


class ConnectFour:
    """The rules. A state is a row of 77 whole numbers: each line's pattern, each column's stones, all stones together.

    A pattern is a number of four digits to base 4, one a cell, so that a stone adds to the patterns what a table says.
    A feature is a line and its pattern after the move; so 69 of the 17,664 are active.
    """

    num_actions, num_active, num_features = WIDTH, len(LINES), len(LINES) * PATTERNS
    gamma, horizon = -1.0, WIDTH * HEIGHT  # what is good for the one to move is bad for the other

    def __init__(self, device: torch.device):
        added = torch.zeros(WIDTH, HEIGHT + 1, len(LINES), dtype=torch.int32)
        first = torch.zeros(len(LINES), dtype=torch.int32)
        for line, cells in enumerate(LINES):
            for i, (x, y) in enumerate(cells):
                added[x, y, line] += (OWN - NEXT) * 4**i
                if y == 0:
                    first[line] += (NEXT - OUT_OF_REACH) * 4**i
                else:  # a stone below brings the cell within reach
                    added[x, y - 1, line] += (NEXT - OUT_OF_REACH) * 4**i
        digits = torch.arange(PATTERNS)[:, None] // 4 ** torch.arange(4) % 4  # [256, 4]
        exchanged = torch.tensor([OUT_OF_REACH, NEXT, OTHER, OWN])[digits]
        self.added = added.view(-1, len(LINES)).to(device)  # [column * 7 + height, line]
        self.exchange = (exchanged * 4 ** torch.arange(4)).sum(1).int().to(device)  # as the other player sees it
        self.won = sum(OWN * 4**i for i in range(4))
        self.lines = PATTERNS * torch.arange(len(LINES), dtype=torch.int32, device=device)
        self.columns = (HEIGHT + 1) * torch.arange(WIDTH, dtype=torch.int32, device=device)
        self.empty = torch.cat([first, torch.zeros(WIDTH + 1, dtype=torch.int32)]).to(device)

    squash = staticmethod(torch.tanh)  # between a game lost and a game won

    def start(self, num: int, generator: torch.Generator) -> torch.Tensor:
        return self.empty.repeat(num, 1)

    def legal(self, state: torch.Tensor) -> torch.Tensor:
        return state[:, -1 - WIDTH : -1] < HEIGHT

    def features(self, state: torch.Tensor) -> torch.Tensor:
        """Those after each move: [n, 77] -> [n, 7, 69]."""
        cells = state[:, -1 - WIDTH : -1] + self.columns
        added = self.added.index_select(0, cells.view(-1)).view(len(state), WIDTH, len(LINES))
        return added.add_((state[:, : len(LINES)] + self.lines).unsqueeze(1))

    def step(self, state: torch.Tensor, actions: torch.Tensor, generator: torch.Generator) -> tuple:
        """The state as the other player sees it, the reward of the one who moved, whether it is over or cut off."""
        heights = pick(state[:, -1 - WIDTH : -1], actions)
        after = state[:, : len(LINES)] + self.added.index_select(0, self.columns[actions] + heights)
        won = (after == self.won).any(1)
        state = state.clone()
        state[:, : len(LINES)] = self.exchange.index_select(0, after.view(-1)).view(after.shape)
        state[:, -1 - WIDTH : -1].scatter_(1, actions.unsqueeze(1), heights.unsqueeze(1) + 1)
        state[:, -1] += 1
        return state, won.float(), won | (state[:, -1] == self.horizon), torch.zeros_like(won)

    def cells(self, state: torch.Tensor) -> torch.Tensor:
        """What is in each cell, seen by the player to move: [n, 77] -> digits [n, column, row]."""
        where = {cell: (line, i) for line, cells in enumerate(LINES) for i, cell in enumerate(cells)}
        found = [state[:, where[x, y][0]] // 4 ** where[x, y][1] % 4 for x in range(WIDTH) for y in range(HEIGHT)]
        return torch.stack(found, 1).view(-1, WIDTH, HEIGHT)


# --- mazes -----------------------------------------------------------------------------------


class Maze:
    """A world given as a table of transitions, and in the same class the model that is counted from its steps.

    probs, rewards [S, A, K], next_states [S, A, K] from 0 to S, where S is the end; start [S]. A state is a row
    (run, state, steps so far). weights [S, A, K] or counts [runs, S, A, K]: in what ratio the outcomes come.
    """

    num_active = 1  # a feature is a pair of state and action

    def __init__(self, table: dict[str, torch.Tensor], gamma: float, time_limit: int, horizon: int):
        self.table, self.gamma, self.time_limit, self.horizon = table, gamma, time_limit, horizon
        self.num_states, self.num_actions, _ = table["probs"].shape
        self.num_features = self.num_states * self.num_actions
        self.pairs = torch.arange(self.num_features, device=table["probs"].device).view(self.num_states, -1, 1)
        self.ratios = table["probs"].unsqueeze(0)  # [runs or 1, S, A, K]: in what ratio outcomes come

    @staticmethod
    def squash(x: torch.Tensor) -> torch.Tensor:
        return x

    def counted(self, num_runs: int) -> "Maze":
        """The model of this world before anything was seen of it, one for each run."""
        model = Maze(self.table, self.gamma, sys.maxsize, self.horizon)
        model.ratios = torch.zeros(num_runs, *self.table["probs"].shape, device=self.pairs.device)
        return model

    def start(self, num: int, generator: torch.Generator) -> torch.Tensor:
        states = draw(self.table["start"].expand(num, -1), generator)
        return torch.stack([torch.arange(num, device=states.device), states, torch.zeros_like(states)], 1)

    def legal(self, state: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(state), self.num_actions, dtype=torch.bool, device=state.device)

    def features(self, state: torch.Tensor) -> torch.Tensor:
        """[n, 3] -> [n, A, 1]."""
        return self.pairs[state[:, 1]]

    def step(self, state: torch.Tensor, actions: torch.Tensor, generator: torch.Generator) -> tuple:
        """Next states, rewards, whether it is over, whether it is cut off: by the time limit, or as never seen."""
        runs, states, steps = state.unbind(1)
        ratios = self.ratios[runs % len(self.ratios), states, actions]  # [n, K]
        self.outcomes = draw(ratios, generator)
        next_states, rewards = (self.table[name][states, actions, self.outcomes] for name in ("next_states", "rewards"))
        terminations = next_states == self.num_states
        truncations = ~terminations & (steps + 1 >= self.time_limit)
        truncations |= ratios.sum(1) == 0
        # the end has no row in the tables, and nobody looks at what stands there
        state = torch.stack([runs, next_states.clamp(max=self.num_states - 1), steps + 1], 1)
        return state, rewards, terminations, truncations


def draw(ratios: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index of each row, in proportion to ratios [n, k], which need not add up to 1; 0 where all are 0."""
    shares = ratios.cumsum(1)
    noise = torch.rand(len(ratios), 1, device=ratios.device, generator=generator)
    return (shares <= noise * shares[:, -1:]).sum(1).clamp(max=ratios.shape[1] - 1) * (shares[:, -1] > 0)


def transition_table(env_id: str) -> tuple[dict[str, torch.Tensor], int | None, list | None]:
    """The tables of Maze, the time limit, and row and column of each state of a drawn maze. Raises UsageError."""
    if env_id == "DynaMaze":
        rows = DYNA_MAZE.split()
        cells = [(i, j) for i, row in enumerate(rows) for j, letter in enumerate(row) if letter != "#"]
        number = {cell: state for state, cell in enumerate(cells)}
        outcomes, limit = {}, None
        for state, (i, j) in enumerate(cells):
            reached = [number.get(cell, state) for cell in ((i - 1, j), (i, j + 1), (i + 1, j), (i, j - 1))]
            goal = [rows[cells[s][0]][cells[s][1]] == "G" for s in reached]
            outcomes[state] = {a: [(1.0, s, float(g), g)] for a, (s, g) in enumerate(zip(reached, goal, strict=True))}
        start = [rows[i][j] == "S" for i, j in cells]
    else:
        try:
            with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
                warnings.simplefilter("ignore")
                env = gym.make(env_id, disable_env_checker=True)
        except (gym.error.Error, ModuleNotFoundError) as error:
            raise UsageError(
                f"--env-id {env_id}: {error} (without Gymnasium there are connect-four and DynaMaze)"
            ) from None
        outcomes, start = (getattr(env.unwrapped, name, None) for name in ("P", "initial_state_distrib"))
        limit, cells = env.spec.max_episode_steps, None
        if outcomes is None or start is None:
            raise UsageError(f"--env-id {env_id}: has no transition table; FrozenLake-v1 and CliffWalking-v1 have one")
    num_states, num_actions = len(outcomes), len(outcomes[0])
    shape = (num_states, num_actions, max(len(listed) for state in outcomes.values() for listed in state.values()))
    table = {name: torch.zeros(shape) for name in ("probs", "rewards")}
    table["next_states"] = torch.zeros(shape, dtype=torch.long)
    for state, action in np.ndindex(num_states, num_actions):
        for k, (prob, next_state, reward, ends) in enumerate(outcomes[state][action]):
            table["probs"][state, action, k], table["rewards"][state, action, k] = prob, reward
            table["next_states"][state, action, k] = num_states if ends else next_state
    table["start"] = torch.as_tensor(np.asarray(start, dtype=np.float32))
    if limit is None and not (table["next_states"] == num_states).any():
        raise UsageError(f"--env-id {env_id}: has neither a terminal state nor a time limit: no episode would end")
    return table, limit, cells


# --- two memories ----------------------------------------------------------------------------


def pick(x: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The entry of each row's action: [n, A, ...], [n] -> [n, ...]."""
    if x.dim() == 2:
        return x.gather(1, actions.unsqueeze(1)).squeeze(1)
    return x[torch.arange(len(x), device=x.device), actions]


def value(world, weights: torch.Tensor, rows: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """The squashed sum of the active features' weights: [m, F], which row [n], features [n, A, K] -> [n, A]."""
    places = features + (rows * weights.shape[1]).to(features.dtype).view(-1, 1, 1)
    return world.squash(weights.view(-1).index_select(0, places.view(-1)).view(places.shape).sum(-1))


def act(q: torch.Tensor, legal: torch.Tensor, epsilon: float | torch.Tensor, generator: torch.Generator):
    """Epsilon-greedy among what is allowed, ties broken at random: q, legal [n, A], epsilon [n] or one -> [n]."""
    noise = torch.rand(len(q), q.shape[1] + 1, device=q.device, generator=generator)
    best = q.masked_fill(~legal, -math.inf)
    best = torch.where((noise[:, -1] < epsilon).unsqueeze(1), legal, best == best.amax(1, keepdim=True))
    return (best * (1 - noise[:, :-1])).argmax(1)  # 1 - noise is never 0, as those are that are not among the best


def simulate(model, state: torch.Tensor, memory: torch.Tensor, args: Args, generator: torch.Generator):
    """One simulated episode from each state [n, ...]; then its row of memory [n, F], the sum of both, learns from it.

    TD(lambda), forward view: the value of each pair moves towards its lambda-return.
    """
    num, horizon, device = len(state), model.horizon, state.device
    rows, visited, places = torch.arange(num, device=device), [], []
    errors = torch.zeros(num, horizon, device=device)
    for t in range(horizon):
        features = model.features(state)
        q = value(model, memory, rows, features)
        actions = act(q, model.legal(state), args.search_epsilon, generator)
        values = pick(q, actions)
        if t:
            errors[rows, t - 1] += model.gamma * values  # of those that went on: Sarsa
        visited.append(pick(features, actions) + (rows * memory.shape[1]).to(features.dtype).unsqueeze(1))
        places.append(rows * horizon + t)
        state, rewards, terminations, truncations = model.step(state, actions, generator)
        errors[rows, t] = torch.where(truncations, 0.0, rewards - values)
        if (terminations | truncations).any():
            going = (~(terminations | truncations)).nonzero().squeeze(1)
            rows, state = rows[going], state[going]
            if len(rows) == 0:
                break
    errors[rows, -1] = 0  # cut off: what the last pair leads to was not looked at
    steps = torch.arange(horizon, device=device)
    decay = (model.gamma * args.td_lambda) ** (steps - steps.unsqueeze(1)).clamp(min=0).float()  # [from, to]
    errors = errors @ decay.triu().T  # lambda-return minus value: the sum of (gamma lambda)^k times the k-th next error
    changes = args.search_learning_rate / model.num_active * errors.view(-1)[torch.cat(places)]
    memory.view(-1).index_add_(0, torch.cat(visited).view(-1), changes.repeat_interleave(model.num_active))


def search(model, state: torch.Tensor, long: torch.Tensor, short: torch.Tensor, num: int, args: Args, generator):
    """Correct the short-term memory [n, F] by simulated episodes from the states: the values of both memories [n, A].

    long [n or 1, F] stays as it is. As both have the same features, the search works on the sum of their weights.
    """
    memory = long + short
    for _ in range(num):
        simulate(model, state, memory, args, generator)
    torch.sub(memory, long, out=short)
    return value(model, memory, torch.arange(len(state), device=state.device), model.features(state))


def learn(long: torch.Tensor, features: torch.Tensor, errors: torch.Tensor, learning_rate: float):
    """Sarsa from one real step of each run: long [m, F], features [n, K] with their place in it, errors [n].

    Where several runs share a weight, it moves by the mean of what they ask for.
    """
    places = features.reshape(-1)
    sums, counts = torch.zeros_like(long).view(-1), torch.zeros_like(long).view(-1)
    sums.index_add_(0, places, errors.repeat_interleave(features.shape[1]))
    counts.index_add_(0, places, torch.ones_like(places, dtype=long.dtype))
    long += (learning_rate / features.shape[1] * sums / counts.clamp(min=1)).view(long.shape)


# --- matches ---------------------------------------------------------------------------------


def make_player(world: ConnectFour, long: torch.Tensor, memory: str, num: int, args: Args, generator):
    """A player, the function (states [n, 77], which of its games [n]) -> actions [n]: greedy on its memories.

    Each game has a short-term memory of its own, which lives as long as the game.
    """
    long = long * (memory != "short")
    short = torch.zeros(num if memory != "long" else 1, world.num_features, device=long.device)

    def player(state: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        if memory == "long":
            q = value(world, long, torch.zeros_like(games), world.features(state))
        else:
            corrected = short[games]
            q = search(world, state, long, corrected, args.simulations, args, generator)
            short[games] = corrected
        return act(q, world.legal(state), 0.0, generator)

    return player


def random_player(world: ConnectFour, generator: torch.Generator):
    """A player who takes any move that is allowed."""
    return lambda state, games: act(state[:, :WIDTH].float(), world.legal(state), 1.0, generator)


def play_match(world: ConnectFour, ours, theirs, num: int, generator: torch.Generator) -> torch.Tensor:
    """Points of ours in each game [num]: 1, 0.5 or 0. Ours moves first in every other game.

    Each player is asked for all games at once: where theirs moves first, it moves before ours is asked at all.
    """
    state, points = world.start(num, generator), torch.full((num,), 0.5, device=world.empty.device)
    games = torch.arange(num, device=state.device)
    asked = games[1::2]  # only in these games theirs moves first
    while len(games):
        for player, won_points in ((theirs, 0.0), (ours, 1.0)):
            if len(asked):
                state[asked], rewards, over, _ = world.step(state[asked], player(state[asked], asked), generator)
                points[asked[rewards > 0]] = won_points
                games = games[~torch.isin(games, asked[over])]
            asked = games
    return points


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


# --- pictures --------------------------------------------------------------------------------


def draw_game(run: Run, curve: list, world: ConnectFour, long: torch.Tensor, args: Args, generator):
    """dyna2.png: points of the long-term memory against random play, and what both memories say of a position.

    curve: [(games, points), ...]. The position is one of a game that the long-term memory plays against itself.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    state, zero = world.start(1, generator), torch.zeros(1, dtype=torch.long, device=long.device)
    for _ in range(10):
        q = value(world, long, zero, world.features(state))
        next_state, _, over, _ = world.step(state, act(q, world.legal(state), 0.3, generator), generator)
        state = torch.where(over.unsqueeze(1), state, next_state)
    before, simulations = value(world, long, zero, world.features(state)), args.simulations * (args.memory != "long")
    after = search(world, state, long, torch.zeros_like(long), simulations, args, generator)
    left, right = Figure(figsize=(10, 4.4), layout="constrained").subplots(1, 2)
    left.plot([games for games, _ in curve], [100 * points for _, points in curve], "o-")
    left.set(xlabel="games played against itself", ylabel="points against random play (%)", ylim=(0, 101))
    left.set_title("long-term memory alone")
    colors = {OUT_OF_REACH: "white", NEXT: "white", OWN: "#D55E00", OTHER: "#E6C200"}
    for (x, y), digit in np.ndenumerate(world.cells(state)[0].numpy(force=True)):
        right.add_patch(Circle((x, y), 0.44, facecolor=colors[int(digit)], edgecolor="#0072B2"))
    for x in world.legal(state)[0].nonzero().squeeze(1).tolist():
        right.text(x, HEIGHT + 0.1, f"{before[0, x]:+.2f}\n{after[0, x]:+.2f}", ha="center", va="center", fontsize=9)
    right.set(xlim=(-0.6, WIDTH - 0.4), ylim=(-0.6, HEIGHT + 0.8), aspect="equal", xticks=[], yticks=[])
    right.set_title(f"red to move: long-term memory (above) and\nboth after {simulations} simulated games (below)")
    left.figure.suptitle(run.name)
    left.figure.savefig(run.dir / "dyna2.png", dpi=110)
    run.picture(run.dir / "dyna2.png")


def draw_maze(run: Run, lengths: torch.Tensor, cells: list | None, memories: dict[str, torch.Tensor]):
    """dyna2.png: real steps per episode, lengths [runs, episodes]; in a drawn maze each memory's best values [S]."""
    from matplotlib.figure import Figure

    maps = memories if cells else {}
    figure = Figure(figsize=(5 + 4 * len(maps), 3.8), layout="constrained")
    steps, *rest = figure.subplots(1, 1 + len(maps), squeeze=False)[0]
    mean, error = lengths.mean(0), lengths.std(0, correction=min(1, len(lengths) - 1)) / math.sqrt(len(lengths))
    episodes = torch.arange(1, lengths.shape[1] + 1)
    steps.fill_between(episodes, mean - error, mean + error, alpha=0.3)
    steps.plot(episodes, mean)
    steps.set(xlabel="episode", ylabel=f"real steps (mean of {len(lengths)} runs)", yscale="log")
    for axes, (name, best) in zip(rest, maps.items(), strict=True):
        values = np.full([max(cell[axis] for cell in cells) + 1 for axis in (0, 1)], np.nan)
        for state, (i, j) in enumerate(cells):
            values[i, j] = best[state]
            axes.text(j, i, DYNA_MAZE.split()[i][j].strip("."), color="red", ha="center", va="center")
        axes.set_facecolor("black")  # the walls
        axes.imshow(values)
        axes.set(title=f"{name}, run 1", xticks=[], yticks=[])
    figure.suptitle(run.name)
    figure.savefig(run.dir / "dyna2.png", dpi=110)
    run.picture(run.dir / "dyna2.png")


# --- training --------------------------------------------------------------------------------


def mean_and_error(x: torch.Tensor) -> tuple[float, float | None]:
    """Mean over runs or games [n] and its standard error, which one alone does not have."""
    return x.mean().item(), x.std().item() / math.sqrt(len(x)) if len(x) > 1 else None


@torch.no_grad()
def train(args: Args) -> dict:
    """Learn, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    args = replace(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    is_game = args.env_id == "connect-four"
    args.learning_rate = args.learning_rate or (1.0 if is_game else 0.1)
    args.search_learning_rate = args.search_learning_rate or (0.2 if is_game else 0.1)
    if is_game:
        world = model = ConnectFour(device)
    else:
        table, limit, cells = transition_table(args.env_id)
        table = {name: tensor.to(device) for name, tensor in table.items()}
        world = Maze(table, args.gamma, limit or sys.maxsize, args.max_depth)
        model = world.counted(args.num_runs)
    seeds = np.random.SeedSequence(args.seed).generate_state(4, np.uint64).tolist()
    chance, policy, dreams, judge = (torch.Generator(device).manual_seed(seed) for seed in seeds)
    num_runs, num_episodes = args.num_runs, args.total_episodes
    simulations = args.practice_simulations if is_game else args.simulations
    simulations *= args.memory != "long"
    runs = torch.arange(num_runs, device=device)
    owners = torch.zeros_like(runs) if is_game else runs  # whose long-term memory it is

    def zeros(*shape, dtype=torch.float32):
        return torch.zeros(*shape, dtype=dtype, device=device)

    long = zeros(1 if is_game else num_runs, world.num_features)
    short = zeros(num_runs if simulations else 1, world.num_features)
    state, previous = world.start(num_runs, chance), None
    episode, steps, gained = zeros(num_runs, dtype=torch.long), zeros(num_runs, dtype=torch.long), zeros(num_runs)
    returns, lengths = zeros(num_runs, num_episodes + 2), zeros(num_runs, num_episodes + 2)  # the last column is a bin
    logged, curve, last, start = 0, [], num_episodes - is_game, time.perf_counter()

    with Run(args, args.env_id) as run, tqdm(total=num_episodes, unit="episode", disable=None) as bar:
        while True:
            # Look ahead, and act on both memories; after the last episode of a maze follows a greedy one.
            features = world.features(state)
            q = value(world, long, owners, features)
            q_bar = search(model, state, long, short, simulations, args, dreams) if simulations else q
            actions = act(q_bar, world.legal(state), args.epsilon * (episode < num_episodes), policy)
            # Learn from the step before, now that the action after it is known.
            if previous and args.memory != "short":
                visited, values, rewards, ended, counts = previous
                errors = rewards + world.gamma * pick(q, actions) * ~ended - values  # Sarsa, of the long-term memory
                learn(long, visited[counts], errors[counts], args.learning_rate)
            if logged == num_episodes and int(episode.min()) > last:
                break
            # Step, and count what followed.
            visited = pick(features, actions) + (owners * world.num_features).to(features.dtype).unsqueeze(1)
            before, learning = state, episode < num_episodes
            state, rewards, terminations, truncations = world.step(state, actions, chance)
            if not is_game:
                model.ratios[runs, before[:, 1], actions, world.outcomes] += learning
                truncations |= ~terminations & (steps + 1 >= PATIENCE) & ~learning
            previous = visited, pick(q, actions), rewards, terminations, learning & ~truncations

            gained += rewards * (1 - 2 * (steps % 2)) if is_game else rewards  # the first player's result
            steps += 1
            ended = terminations | truncations
            column = torch.where(ended & (episode <= num_episodes), episode, num_episodes + 1)
            returns[runs, column], lengths[runs, column] = gained, steps.float()
            episode += ended
            steps, gained = steps * ~ended, gained * ~ended
            if ended.any():
                state = torch.where(ended.unsqueeze(1), world.start(num_runs, chance), state)
                if simulations:
                    short[ended] = 0  # forgotten, as the episode is over

            for e in range(logged, min(int(episode.min()), num_episodes)):
                final = e == num_episodes - 1
                if final and int(episode.min()) <= last:
                    break  # the last row waits for the evaluation
                logged += 1
                global_step, elapsed = int(lengths[:, : e + 1].sum()), time.perf_counter() - start
                row = {"global_step": global_step}
                row["charts/episodic_return"], row["charts/episodic_return_error"] = mean_and_error(returns[:, e])
                row["charts/episodic_length"], row["charts/episodic_length_error"] = mean_and_error(lengths[:, e])
                row |= {"charts/SPS": global_step / elapsed, "time/elapsed": elapsed}
                if is_game:
                    row |= {"charts/games": logged * num_runs, "eval/points_random": None}
                    if final or e % max(1, num_episodes // 12) == 0:
                        player = make_player(world, long, "long", 1, args, judge)
                        points = play_match(world, player, random_player(world, judge), 200, judge)
                        row["eval/points_random"] = points.mean().item()
                        curve.append((row["charts/games"], row["eval/points_random"]))
                    row |= {"eval/points_short": None, "eval/points_short_error": None}
                    if final and args.memory == "both":
                        both, alone = (
                            make_player(world, long, name, args.match_games, args, judge) for name in ("both", "short")
                        )
                        points = play_match(world, both, alone, args.match_games, judge)
                        row["eval/points_short"], row["eval/points_short_error"] = mean_and_error(points)
                else:
                    names = ["eval/episodic_return", "eval/episodic_return_error"]
                    names += ["eval/episodic_length", "eval/episodic_length_error"]
                    found = [*mean_and_error(returns[:, e + 1]), *mean_and_error(lengths[:, e + 1])]
                    row |= dict(zip(names, found if final else [None] * 4, strict=True))
                run.log(row)
                bar.update()
                bar.set_postfix(steps=f"{row['charts/episodic_length']:.1f}")

        run.plot("charts/episodic_length")
        if is_game:
            run.save({"weights": long.cpu()})
            draw_game(run, curve, world, long, args, judge)
            result = f"{100 * row['eval/points_random']:.1f} % of the points against random play, without search"
            if args.memory == "both":
                points, error = (100 * (row[name] or 0) for name in ("eval/points_short", "eval/points_short_error"))
                result += f"; both memories against the short-term one {points:.1f} % +- {error:.1f}"
        else:
            corrected = torch.zeros_like(long)
            search(model, world.start(num_runs, chance), long, corrected, simulations, args, dreams)
            memories = {"long-term memory": long, "both, at the start": long + corrected}
            best = {name: x[0].view(-1, world.num_actions).amax(1).cpu() for name, x in memories.items()}
            draw_maze(run, lengths[:, :num_episodes].cpu(), cells, best)
            result = f"return {row['eval/episodic_return']:.2f} in {row['eval/episodic_length']:.1f} steps (greedy)"
        print(f"{result} after {global_step / num_runs:,.0f} steps of each of {num_runs} runs: {run.dir}")
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
