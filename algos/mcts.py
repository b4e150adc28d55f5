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
"""Monte-Carlo tree search: before every move, play to the end in the head, many times, and move as went best.

    python algos/mcts.py --env-id connect-four --simulations 1000
    python algos/mcts.py --env-id dyna-maze --exploration 0.2 --simulations 200 --max-depth 500 --model-steps 10000
    python algos/mcts.py --env-id four-leaves --exploration 0 --simulations 100

Simple Monte-Carlo search plays at random from the current state and averages the returns of each first action. The
tree search keeps an average for every state and action on its way, and goes where the averages are best: the random
player turns into a good one along the lines that matter. UCT adds to each average a bonus for what was tried seldom.
TD search hands up the tree not the return alone, but what the next pair's average says of it. The picture of a run
is the tree of its first search.

Expect no lost line of tic-tac-toe at 1,000 simulations per move, and 99.0 % of the games won moving first and 91.6 %
moving second against a random player: over all lines of play, three seeds; perfect play with random ties wins 96.8 %
and 77.8 %. The default hundred games take seconds: 65,000 simulations of tic-tac-toe and 36,000 of Connect Four per
CPU second, on a core that others use as well. What pays late and by luck is beyond it: on FrozenLake's ice a thousand
random simulations see the goal too seldom to tell the actions apart (1 success in 10 episodes).

Papers
    Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning": UCT.
    Silver, Sutton & Mueller 2012, "Temporal-difference search in computer Go": TD search.
    Kevin Frans 2016, on model-based learning (the post): simple search, and the tree search of --exploration 0, which
    is greedy on the averages and random in new states; a model counted from experience (--model-steps).

Differences from the papers and the post
    1. Averages belong to states, not to paths: where two orders of moves lead to one board, they share what they know.
    2. A simulation adds one state to the tree, as in UCT; the post keeps averages for all states that it comes across.
       A state is new until each of its actions was tried once, so --exploration 0 tries them all before it is greedy.
       A simulation that comes back to a state goes on at random, so that each pair counts once in it.
    3. TD search chooses by UCT's bonus as well, not epsilon-greedily, and on a table, not on features: it differs
       from the tree search in what is handed up, and in nothing else.
    4. Nothing is kept from one move's search to the next.

The work stays on the host, in plain Python on whole numbers; many positions side by side are mcts_batched.py's.
"""

import copy
import csv
import json
import math
import random
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Discrete, Tuple
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds simulations, the environment and the opponent; the same seed gives the same games"""
    cuda: bool = False
    """without effect here, where all work stays on the host; mcts_batched.py searches on a GPU"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "tic-tac-toe"
    """tic-tac-toe, connect-four, four-leaves, dyna-maze, or a Gymnasium environment with discrete states and actions"""
    total_episodes: int = 100
    """episodes to play; in a game the search moves first in every other one"""
    search: Literal["simple", "tree", "td"] = "tree"
    """simple Monte-Carlo search, Monte-Carlo tree search, or TD search"""
    simulations: int = 1000
    """simulated episodes before every move"""
    exploration: float = 1.4
    """weight of UCT's bonus for what was tried seldom, in units of the return; 0 is greedy, open_spiel takes 2"""
    gamma: float = 0.95
    """discount per step, in (0, 1]; the games are not discounted"""
    td_lambda: float = 0.8
    """of --search td: weight of the return beside the next pair's value, in [0, 1]; 1 is the tree search"""
    learning_rate: float = 0.02
    """of --search td: the least step towards a target; until then it is one over the number of visits"""
    max_depth: int = 200
    """steps after which a simulation ends, whatever it has reached; the games end sooner"""
    model_steps: int = 0
    """search with a model counted from so many real steps, taken at random; 0 searches with the true one"""
    opponent: Literal["random", "perfect", "uct"] = "random"
    """who plays against the search: anything allowed, the best moves (tic-tac-toe), or UCT with open_spiel's bonus"""
    opponent_simulations: int = 100
    """simulations of --opponent uct before every move"""

    def __post_init__(self):
        for name in ["total_episodes", "simulations", "max_depth", "opponent_simulations"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if not 0 <= self.exploration < math.inf or self.seed < 0 or self.model_steps < 0:
            raise UsageError("--exploration, --seed and --model-steps must not be negative")
        if not 0 < self.gamma <= 1 or not 0 <= self.td_lambda <= 1 or not 0 <= self.learning_rate <= 1:
            raise UsageError("--gamma must lie in (0, 1], --td-lambda and --learning-rate in [0, 1]")


# --- models: what a search simulates with ----------------------------------------------------


class Board:
    """A game of two players who take turns; who first has a line of three or four stones wins.

    A state is (own, other): the stones of the player to move and of the other one, as bits of two whole numbers. Each
    column has height + 1 bits, the last of which stays empty, so that no line runs from one column into the next.
    """

    discount = -1.0  # what is good for the one to move is bad for the other

    def __init__(self, width: int, height: int, line: int, falling: bool, rng: random.Random):
        self.width, self.height, self.falling, self.random = width, height, falling, rng.random
        column = 2**height - 1
        self.cells = sum(column << (height + 1) * x for x in range(width))
        self.bottom = sum(1 << (height + 1) * x for x in range(width))
        if falling:  # an action is a column, and the stone falls
            self.masks = [column << (height + 1) * x for x in range(width)]
        else:  # an action is a cell, row by row from the top
            self.masks = [1 << (height + 1) * x + y for y in reversed(range(height)) for x in range(width)]
        # Up, and one column on: level, rising, falling. Two pairs `apart` in one direction are a line of 3 or 4.
        self.directions = [(shift, (line - 2) * shift) for shift in (1, height + 1, height + 2, height)]

    def start(self) -> tuple[int, int]:
        return 0, 0

    def begin(self):
        """Nothing to prepare for a simulation."""

    def free(self, occupied: int) -> int:
        """The cells that a stone may be put into."""
        # Adding one to the lowest bit of a column carries through its stones to the first empty cell.
        return occupied + self.bottom & self.cells if self.falling else occupied ^ self.cells

    def won(self, stones: int) -> bool:
        for shift, apart in self.directions:
            pairs = stones & stones >> shift
            if pairs & pairs >> apart:
                return True
        return False

    def actions(self, state: tuple[int, int]) -> list[int]:
        free = self.free(state[0] | state[1])
        return [action for action, mask in enumerate(self.masks) if free & mask]

    def step(self, state: tuple[int, int], action: int) -> tuple[tuple[int, int], float, bool]:
        """The state as the other player sees it, the reward of the one who moved, and whether it is over."""
        own, other = state
        own |= self.free(own | other) & self.masks[action]
        if self.won(own):
            return (other, own), 1.0, True
        return (other, own), 0.0, own | other == self.cells

    def next_states(self, state: tuple[int, int], action: int) -> list:
        return [self.step(state, action)[0]]

    def rollout(self, state: tuple[int, int], max_steps: int) -> float:
        """The result for the one to move when both play at random."""
        own, other = state
        masks, choices, draw, result = self.masks, len(self.masks), self.random, 1.0
        while own | other != self.cells:
            free = self.free(own | other)
            while not (stone := free & masks[int(draw() * choices)]):
                pass  # not allowed here: draw again
            own |= stone
            if self.won(own):
                return result
            own, other, result = other, own, -result
        return 0.0

    def text(self, state: tuple[int, int]) -> str:
        """The board, X for the player who moved first."""
        x, o = state if state[0].bit_count() == state[1].bit_count() else state[::-1]
        bits = [[1 << (self.height + 1) * c + r for c in range(self.width)] for r in reversed(range(self.height))]
        return "\n".join("".join("X" if x & bit else "O" if o & bit else "." for bit in row) for row in bits)


class SingleAgent:
    """What the models of one player share: the same actions in every state, rewards that are discounted."""

    def __init__(self, actions: range, gamma: float, rng: random.Random):
        self.all_actions, self.discount, self.rng, self.random = list(actions), gamma, rng, rng.random

    def begin(self):
        """Nothing to prepare for a simulation."""

    def actions(self, state) -> list[int]:
        return self.all_actions.copy()

    def next_states(self, state, action: int) -> list:
        """What may follow, for the picture; nothing where the model cannot say."""
        return []

    def rollout(self, state, max_steps: int) -> float:
        """The discounted return of at most so many random steps."""
        total, weight = 0.0, 1.0
        for _ in range(max_steps):
            state, reward, done = self.step(state, self.all_actions[int(self.random() * len(self.all_actions))])
            total, weight = total + weight * reward, weight * self.discount
            if done:
                break
        return total

    def text(self, state) -> str:
        return str(state)


class Table(SingleAgent):
    """A model as a table: outcomes[state, action] = [(probability, next state, reward, terminated), ...]."""

    def __init__(self, outcomes: dict, starts: list[tuple], gamma: float, rng: random.Random):
        super().__init__(range(1 + max(action for _, action in outcomes)), gamma, rng)
        self.outcomes, self.starts = outcomes, starts

    def start(self):
        return random_choice(self.starts, self.random())[1]

    def step(self, state, action: int) -> tuple:
        listed = self.outcomes.get((state, action))
        if listed is None:  # a counted model knows nothing of it: we stay and get nothing
            return state, 0.0, False
        return random_choice(listed, self.random())[1:]

    real_step = step

    def next_states(self, state, action: int) -> list:
        return [outcome[1] for outcome in self.outcomes.get((state, action), [])]


def random_choice(listed: list[tuple], draw: float) -> tuple:
    """The entry that a draw from [0, 1) falls on; each begins with its probability."""
    for entry in listed:
        draw -= entry[0]
        if draw < 0:
            break
    return entry  # the last one, where rounding has left a rest


class CopiedEnv(SingleAgent):
    """An environment without a table: every simulation steps a copy of it. A state is its observation."""

    def __init__(self, env: gym.Env, gamma: float, rng: random.Random):
        first = int(env.action_space.start)
        super().__init__(range(first, first + int(env.action_space.n)), gamma, rng)
        self.env = env

    def start(self):
        return self.env.reset(seed=self.rng.getrandbits(31))[0]

    def real_step(self, state, action: int) -> tuple:
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, float(reward), terminated or truncated

    def begin(self):
        """Copy the environment as it is, but not its luck: a search must not foresee what will be drawn."""
        self.copy = copy.deepcopy(self.env.unwrapped)
        self.copy.np_random = np.random.default_rng(self.rng.getrandbits(63))

    def step(self, state, action: int) -> tuple:
        obs, reward, terminated, _, _ = self.copy.step(action)
        return obs, float(reward), terminated


def count_model(world: SingleAgent, num_steps: int, max_steps: int, rng: random.Random) -> Table:
    """The post's model: the share in which each outcome followed, over so many random steps in the real world."""
    counts, state, length = {}, world.start(), 0
    for _ in range(num_steps):
        action = rng.choice(world.all_actions)
        outcome = next_state, _, done = world.real_step(state, action)
        listed = counts.setdefault((state, action), {})
        listed[outcome] = listed.get(outcome, 0) + 1
        state, length = next_state, length + 1
        if done or length == max_steps:
            state, length = world.start(), 0
    outcomes = {pair: [(n / sum(seen.values()), *o) for o, n in seen.items()] for pair, seen in counts.items()}
    model = Table(outcomes, [], world.discount, rng)
    model.all_actions = world.all_actions  # some of them may never have been drawn
    return model


MAZE = """
.......#G
..#....#.
S.#....#.
..#......
.....#...
.........
"""  # Sutton & Barto's Dyna maze (figure 8.2): 14 steps from S to G


def maze(gamma: float, rng: random.Random) -> Table:
    """States are (row, column); up, right, down, left; a wall or the edge means no move; reaching G pays 1."""
    rows, outcomes, starts = MAZE.split(), {}, []
    cells = {(y, x): cell for y, row in enumerate(rows) for x, cell in enumerate(row) if cell != "#"}
    for (y, x), cell in cells.items():
        starts += [(1.0, (y, x))] if cell == "S" else []
        for action, (down, right) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
            there = (y + down, x + right)
            there = there if there in cells else (y, x)
            goal = cells[there] == "G"
            outcomes[(y, x), action] = [(1.0, there, float(goal), goal)]
    return Table(outcomes, starts, gamma, rng)


def four_leaves(gamma: float, rng: random.Random) -> Table:
    """The post's example, in which only the right of D is worth going to. Its numbers are lost: these are ours."""
    leaves = {("C", 0): 0.5, ("C", 1): 0.0, ("D", 0): 0.0, ("D", 1): 1.0}
    outcomes = {pair: [(1.0, "end", reward, True)] for pair, reward in leaves.items()}
    outcomes |= {("S", action): [(1.0, state, 0.0, False)] for action, state in enumerate("CD")}
    return Table(outcomes, [(1.0, "S")], gamma, rng)


# --- search ----------------------------------------------------------------------------------


class Node:
    """What the tree knows of a state: for each action that was tried there, how often, and the average return."""

    __slots__ = ("actions", "means", "total", "visits", "widths")

    def __init__(self, actions: list[int]):
        self.actions, self.visits, self.means = actions, [], []  # the lists grow as actions are tried
        self.widths, self.total = [], 0  # one over the root of each visit count; how often a choice was made here

    def choose(self, exploration: float, draw) -> int:
        """The place of the next action to simulate: one not tried yet, at random, or the best with UCT's bonus."""
        self.total += 1
        tried = len(self.visits)
        if tried < len(self.actions):
            other = tried + int(draw() * (len(self.actions) - tried))  # a shuffle, one card at a time
            self.actions[tried], self.actions[other] = self.actions[other], self.actions[tried]
            self.visits.append(0)
            self.means.append(0.0)
            self.widths.append(1.0)
            return tried
        bonus = exploration * math.sqrt(math.log(self.total))  # UCB1: mean + c sqrt(ln N / n)
        bounds = [mean + bonus * width for mean, width in zip(self.means, self.widths, strict=True)]
        return bounds.index(max(bounds))

    def update(self, i: int, target: float, learning_rate: float) -> float:
        """Move the mean of action i towards a target. Returns the new mean."""
        self.visits[i] = visits = self.visits[i] + 1
        self.widths[i] = visits**-0.5
        # 1 / visits makes it the average; TD's targets change as they are learned, so that it forgets the old ones
        self.means[i] += max(1 / visits, learning_rate) * (target - self.means[i])
        return self.means[i]


def simple_search(model, root, args: Args) -> dict:
    """Try each action at the root equally often and go on at random: {root: its Node}."""
    node = Node(model.actions(root))
    for simulation in range(args.simulations):
        model.begin()
        i = simulation % len(node.actions) if len(node.visits) == len(node.actions) else node.choose(0.0, model.random)
        state, reward, done = model.step(root, node.actions[i])
        value = 0.0 if done else model.rollout(state, args.max_depth - 1)
        node.update(i, reward + model.discount * value, 0.0)
    return {root: node}


def tree_search(model, root, args: Args) -> dict:
    """Monte-Carlo tree search, or TD search: {state: its Node} of the states that were added to the tree."""
    td_lambda, learning_rate = (args.td_lambda, args.learning_rate) if args.search == "td" else (1.0, 0.0)
    tree = {root: Node(model.actions(root))}
    for _ in range(args.simulations):
        model.begin()
        state, path, value, passed = root, [], 0.0, set()
        while len(path) < args.max_depth:
            node = tree.get(state)
            if node is None:  # a new state: add it
                tree[state] = Node(model.actions(state))
            # Play on at random from there, and where the way comes back to a state: what the tree says changes at a
            # simulation's end only, and would lead it round and round till then.
            if node is None or state in passed:
                value = model.rollout(state, args.max_depth - len(path))
                break
            passed.add(state)
            i = node.choose(args.exploration, model.random)
            state, reward, done = model.step(state, node.actions[i])
            path.append((node, i, reward))
            if done:
                break
        for node, i, reward in reversed(path):
            value = reward + model.discount * value  # the return from here on, for the one who acts here
            mean = node.update(i, value, learning_rate)
            value += (1 - td_lambda) * (mean - value)  # lambda-return: TD search takes the pair's word for a part of it
    return tree


def search(model, root, args: Args) -> tuple[int, dict]:
    """The action to take in this state, and the tree that says so."""
    tree = (simple_search if args.search == "simple" else tree_search)(model, root, args)
    node = tree[root]
    if args.search == "simple" or args.exploration == 0:
        score = node.means  # the post: greedy on the averages
    else:  # the most visited: an average of few visits is not to be trusted
        score = [(visits, mean) for visits, mean in zip(node.visits, node.means, strict=True)]
    return node.actions[score.index(max(score))], tree


# --- players ---------------------------------------------------------------------------------


def perfect_moves(board: Board):
    """The function state -> list of the best moves, which looks at every line of play."""

    def worth(state, action: int) -> float:
        next_state, reward, done = board.step(state, action)
        return reward if done else -value(next_state)

    @cache
    def value(state) -> float:
        return max(worth(state, action) for action in board.actions(state))

    return lambda state: [action for action in board.actions(state) if worth(state, action) == value(state)]


def make_opponent(board: Board, args: Args, rng: random.Random):
    """The function state -> action that --opponent names."""
    if args.opponent == "uct":
        theirs = replace(args, search="tree", exploration=2.0, simulations=args.opponent_simulations)
        return lambda state: search(board, state, theirs)[0]
    moves = perfect_moves(board) if args.opponent == "perfect" else board.actions
    return lambda state: rng.choice(moves(state))


def play_game(board: Board, first, second) -> tuple[float, int]:
    """The result for the first of two players, functions state -> action, and the number of moves."""
    state, done, moves, players = board.start(), False, 0, (first, second)
    while not done:
        state, reward, done = board.step(state, players[moves % 2](state))
        moves += 1
    return (reward if moves % 2 else -reward), moves  # the reward is the last mover's


def play_episode(world: SingleAgent, player, max_steps: int) -> tuple[float, int]:
    """The return, not discounted, and the length of one episode in the real world."""
    state, done, total, steps = world.start(), False, 0.0, 0
    while not done and steps < max_steps:
        state, reward, done = world.real_step(state, player(state))
        total, steps = total + reward, steps + 1
    return total, steps


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


# --- the tree picture ------------------------------------------------------------------------


def draw_tree(model, root, tree: dict, run: Run, levels: int = 4, expanded: int = 2):
    """The first search's tree as tree.png: of each level the two states visited most show what lies below them."""
    from matplotlib.figure import Figure

    boxes = [
        [(root, 0, sum(tree[root].visits), model.text(root))]
    ]  # of each level: state, parent's place, visits, text
    while len(boxes) < levels:
        above, below = boxes[-1], []
        most = sorted((i for i, box in enumerate(above) if box[0] in tree), key=lambda i: -above[i][2])
        for parent in sorted(most[:expanded]):
            state = above[parent][0]
            node = tree[state]
            for i, action in sorted(enumerate(node.actions[: len(node.visits)]), key=lambda pair: pair[1]):
                states = model.next_states(state, action) or ["?"]
                state_below = max(states, key=lambda s: tree[s].total if s in tree else 0)
                text = f"{model.text(state_below)}\n\n{node.visits[i]:,} x\n{node.means[i]:+.2f}"
                below.append((state_below, parent, node.visits[i], text))
        if not below:
            break
        boxes.append(below)
    width = max(len(level) for level in boxes)
    lines = max(box[3].count("\n") for level in boxes for box in level)
    axes = Figure(figsize=(max(6, width), (0.9 + 0.12 * lines) * len(boxes)), layout="constrained").subplots()
    for depth, level in enumerate(boxes):
        for place, (_, parent, visits, text) in enumerate(level):
            x = (place + 0.5) / len(level)
            if depth:
                start, share = (parent + 0.5) / len(boxes[depth - 1]), visits / boxes[0][0][2]
                axes.plot([start, x], [1 - depth, -depth], color="#0072B2", linewidth=0.4 + 6 * share, zorder=1)
            style = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#888888"}
            axes.text(x, -depth, text, ha="center", va="center", family="monospace", fontsize=7, bbox=style, zorder=2)
    axes.set(xlim=(0, 1), ylim=(0.5 - len(boxes), 0.5))
    axes.set_title(f"{run.name}\nafter {boxes[0][0][2]:,} simulations: visits, and average return for who moved there")
    axes.axis("off")
    axes.figure.savefig(run.dir / "tree.png", dpi=110)
    run.picture(run.dir / "tree.png")


# --- playing ---------------------------------------------------------------------------------

GAMES = {"tic-tac-toe": (3, 3, 3, False), "connect-four": (7, 6, 4, True)}
TABLES = {"dyna-maze": maze, "four-leaves": four_leaves}


def make_world(args: Args, rng: random.Random) -> tuple[str, Board | SingleAgent, int]:
    """The full id, the real world, and the steps after which an episode ends. Raises UsageError."""
    if args.env_id in GAMES:
        if args.model_steps:
            raise UsageError(
                f"--model-steps: the rules of {args.env_id} are known; it is for environments of one player"
            )
        if args.opponent == "perfect" and args.env_id != "tic-tac-toe":
            raise UsageError(f"--opponent perfect looks at every line of play: {args.env_id} has too many, take uct")
        return args.env_id, Board(*GAMES[args.env_id], rng), args.max_depth
    if args.opponent != "random":
        raise UsageError(f"--opponent {args.opponent}: there is one in {' and '.join(GAMES)} only")
    if args.env_id in TABLES:
        return args.env_id, TABLES[args.env_id](args.gamma, rng), args.max_depth
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            env = gym.make(args.env_id, disable_env_checker=True)
    except (gym.error.Error, ModuleNotFoundError) as error:
        own = ", ".join([*GAMES, *TABLES])
        raise UsageError(f"--env-id {args.env_id}: {error} (without Gymnasium there are {own})") from None
    parts = env.observation_space.spaces if isinstance(env.observation_space, Tuple) else [env.observation_space]
    if not all(isinstance(space, Discrete) for space in [*parts, env.action_space]):
        spaces = f"{env.observation_space} and {env.action_space}"
        raise UsageError(f"--env-id {args.env_id}: needs discrete observations and actions, has {spaces}")
    limit = env.spec.max_episode_steps or args.max_depth
    table = getattr(env.unwrapped, "P", None)
    if table is None:
        return env.spec.id, CopiedEnv(env, args.gamma, rng), limit
    outcomes = {
        (state, action): [(float(p), int(after), float(reward), bool(done)) for p, after, reward, done in listed]
        for state, actions in table.items()
        for action, listed in actions.items()
    }
    starts = [(float(p), state) for state, p in enumerate(env.unwrapped.initial_state_distrib) if p]
    return env.spec.id, Table(outcomes, starts, args.gamma, rng), limit


def make_model(world: Board | SingleAgent, limit: int, args: Args, rng: random.Random) -> Board | SingleAgent:
    """What the search simulates with, whose luck is another than the world's: the truth, or what was counted."""
    if args.model_steps:
        return count_model(world, args.model_steps, limit, rng)
    if isinstance(world, CopiedEnv):  # it copies the environment that is played in
        return world
    model = copy.copy(world)
    model.random = rng.random
    return model


def train(args: Args) -> dict:
    """Play, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    args = replace(args)
    seeds = np.random.SeedSequence(args.seed).generate_state(3, np.uint64).tolist()
    real_luck, search_luck, opponent_luck = (random.Random(seed) for seed in seeds)
    args.env_id, world, limit = make_world(args, real_luck)
    model = make_model(world, limit, args, search_luck)
    is_game, first_tree = isinstance(world, Board), None
    opponent = make_opponent(model, args, opponent_luck) if is_game else None
    returns, lengths, sizes, seconds = [], [], [], 0.0

    def player(state) -> int:
        nonlocal first_tree, seconds
        start = time.process_time()
        action, tree = search(model, state, args)
        seconds += time.process_time() - start
        sizes.append(len(tree))
        first_tree = first_tree or (state, tree)
        return action

    start = time.perf_counter()
    with Run(args, args.env_id) as run, tqdm(total=args.total_episodes, unit="episode", disable=None) as bar:
        for episode in range(args.total_episodes):
            if not is_game:
                result, length = play_episode(world, player, limit)
            elif episode % 2 == 0:
                result, length = play_game(world, player, opponent)
            else:
                result, length = play_game(world, opponent, player)
                result = -result
            returns.append(result)
            lengths.append(length)
            row = {
                "global_step": sum(lengths),
                "charts/episodic_return": result,
                "charts/episodic_length": length,
                "charts/mean_return": float(np.mean(returns)),
                "charts/standard_error": float(np.std(returns, ddof=1) / len(returns) ** 0.5) if episode else None,
                "charts/mean_length": float(np.mean(lengths)),
                "charts/tree_states": float(np.mean(sizes)),
            }
            if is_game:  # the share of games won and lost so far, moving first and moving second
                for name, games in (("first", returns[::2]), ("second", returns[1::2])):
                    row[f"charts/wins_{name}"] = games.count(1.0) / len(games) if games else None
                    row[f"charts/losses_{name}"] = games.count(-1.0) / len(games) if games else None
            row["charts/SPS"] = sum(lengths) / (time.perf_counter() - start)
            row["time/simulations_per_second"] = args.simulations * len(sizes) / seconds  # of one core's time
            run.log(row)
            bar.update()
            bar.set_postfix(mean_return=f"{row['charts/mean_return']:.3f}")
        run.plot("charts/mean_return")
        draw_tree(model, *first_tree, run)
        error = f" +- {row['charts/standard_error']:.3f}" if row["charts/standard_error"] is not None else ""
        played = f"return {row['charts/mean_return']:.3f}{error} over {args.total_episodes:,} episodes"
        print(f"{played}, {row['time/simulations_per_second']:,.0f} simulations per second: {run.dir}")
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
