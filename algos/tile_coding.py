# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]>=1.1",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""SARSA(lambda) with tile coding: action values of continuous observations, linear in overlapping grids of tiles.

    python algos/tile_coding.py
    python algos/tile_coding.py --num-runs 30 --total-episodes 500 --max-steps 5000

A table needs discrete states. Tile coding cuts the space of observations into tiles, several times over, each grid a
little displaced: an observation is the set of tiles that it lies in, one of each grid, and its value is the sum of
their weights. What is learned about it holds for its neighbours, too, as far as they share tiles. The rest is SARSA:
the gradient of a linear value is the features, so each active tile gets its part of the error (semi-gradient SARSA).

Expect a greedy return of -112 on MountainCar-v0 after a hundred episodes (two seeds of ten runs; standard error 2). The
environments are stepped on the host, one copy for each run; the weights and their traces are tensors and go to the GPU
with --cuda.

Papers
    Singh & Sutton 1996, "Reinforcement learning with replacing eligibility traces": mountain car with such traces.
    Sutton & Barto 2018, "Reinforcement learning", second edition (the book): tile coding, mountain car, traces.
    Kevin Frans 2016, "Model-free prediction and control" and "Value function approximation" (the posts).
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
from gymnasium.spaces import Box, Discrete
from tqdm import tqdm

PLAYING, END, HALT = range(3)  # states of a run
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

    env_id: str = "MountainCar-v0"
    """Gymnasium environment with a few bounded observations and discrete actions; without a version, the newest"""
    num_runs: int = 10
    """independent runs, side by side; each has an environment, stepped on the host"""
    total_episodes: int = 100
    """episodes of each run"""
    max_steps: int | None = None
    """steps after which an episode is cut off (not given: as Gymnasium has it for this environment, or never)"""
    eval_episodes: int = 10
    """episodes of the greedy policy that each run is scored by at the end; cut off after --max-steps, or after 1,000"""
    num_tilings: int = 8
    """grids of tiles, each displaced against the others"""
    num_tiles: int = 8
    """tiles of a grid along each observation"""
    learning_rate: float = 0.5
    """step size; each of an observation's tiles gets its share of it"""
    gamma: float = 1.0
    """discount per step, in (0, 1]"""
    trace_lambda: float = 0.9
    """decay of the eligibility traces, in [0, 1]: 0 is one-step SARSA, 1 Monte-Carlo control"""
    trace: Literal["replacing", "accumulating"] = "replacing"
    """what a repeated visit does to a trace: set it to 1, or add 1"""
    start_e: float = 0.0
    """share of random actions in the first episode; with negative rewards the first values, 0, explore by themselves"""
    end_e: float = 0.0
    """share of random actions in the end"""
    exploration_fraction: float = 1.0
    """share of the episodes over which it goes from the one to the other, in a straight line"""

    def __post_init__(self):
        for name in ["num_runs", "total_episodes", "eval_episodes", "num_tilings", "num_tiles"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError("--max-steps must be at least 1")
        for name in ["trace_lambda", "start_e", "end_e"]:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must lie in [0, 1]")
        for name in ["learning_rate", "gamma", "exploration_fraction"]:
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must lie in (0, 1]")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")


# --- tiles -----------------------------------------------------------------------------------


class TileCoder:
    """Displaced grids over a box: each observation lies in one tile of every grid."""

    def __init__(self, space: Box, num_tilings: int, num_tiles: int, device: torch.device):
        self.low, self.high = (torch.tensor(x, dtype=torch.float64, device=device) for x in (space.low, space.high))
        dims, side = len(self.low), num_tiles + 1  # a displaced grid needs one tile more to cover the box
        self.num_tiles, self.num_features = num_tiles, num_tilings * side**dims
        # Displacing by 1, 3, 5, ... parts of a tile, not all by the same, leaves fewer lines along which grids agree.
        steps = torch.arange(num_tilings, device=device)[:, None] * (2 * torch.arange(dims, device=device) + 1)
        self.offsets = (steps % num_tilings).double() / num_tilings  # [tilings, dims], in tiles
        self.strides = side ** torch.arange(dims, device=device)
        self.first = torch.arange(num_tilings, device=device) * side**dims

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        """obs [runs, dims] -> the numbers of the active tiles [runs, tilings]."""
        scaled = ((obs - self.low) / (self.high - self.low)).clamp(0, 1) * self.num_tiles
        tiles = (scaled[:, None] + self.offsets).floor().long().clamp(max=self.num_tiles)  # [runs, tilings, dims]
        return self.first + (tiles * self.strides).sum(dim=2)


# --- worlds ----------------------------------------------------------------------------------


class Copies:
    """One environment per run, stepped one after the other on the host."""

    def __init__(self, env_id: str, seeds: list[int], device: torch.device):
        self.envs, self.device = [make_env(env_id, max_episode_steps=-1) for _ in seeds], device  # no limit but ours
        self.obs = torch.tensor(np.array([env.reset(seed=s)[0] for env, s in zip(self.envs, seeds, strict=True)]))
        self.num_actions, self.first_action = int(self.envs[0].action_space.n), int(self.envs[0].action_space.start)

    def step(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What states, actions [runs] lead to: observations [runs, dims], states, rewards [runs].

        PLAYING leads to PLAYING or to END, when it terminates, END to a new episode, HALT to itself.
        """
        next_states, rewards = states.tolist(), [0.0] * len(self.envs)
        for i, (state, action) in enumerate(zip(states.tolist(), actions.tolist(), strict=True)):
            if state == END:
                obs, next_states[i] = self.envs[i].reset()[0], PLAYING
            elif state == PLAYING:
                obs, rewards[i], terminated, truncated, _ = self.envs[i].step(action + self.first_action)
                if truncated:
                    raise UsageError(
                        "--env-id: it cuts off episodes by itself, which only Gymnasium's TimeLimit may do"
                    )
                next_states[i] = END if terminated else PLAYING
            else:
                continue
            self.obs[i] = torch.as_tensor(obs)
        rewards = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        return self.obs.to(self.device).double(), torch.tensor(next_states, device=self.device), rewards


def make_env(env_id: str, **kwargs) -> gym.Env:
    """gym.make, with the newest version of an id without one. Raises UsageError when there is no such environment."""
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            return gym.make(env_id, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error}") from None


def make_world(args: Args, device: torch.device) -> tuple[Copies, TileCoder]:
    """The world and its tiles; completes env_id and max_steps. Raises UsageError for one that tiles cannot cover."""
    env = make_env(args.env_id)
    space, args.env_id, args.max_steps = (
        env.observation_space,
        env.spec.id,
        args.max_steps or env.spec.max_episode_steps,
    )
    if not isinstance(space, Box) or len(space.shape) != 1 or not isinstance(env.action_space, Discrete):
        raise UsageError(f"--env-id {args.env_id}: tiles need a few numbers to see and discrete actions, not {space}")
    if not (np.abs([space.low, space.high]) < 1e6).all():
        raise UsageError(f"--env-id {args.env_id}: tiles need bounds for what is observed, not {space}")
    if args.num_tilings * (args.num_tiles + 1) ** space.shape[0] > 10_000_000:
        raise UsageError(f"--num-tiles: {args.num_tiles} along each of {space.shape[0]} observations are too many")
    rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(0,)))
    world = Copies(args.env_id, rng.integers(2**31, size=args.num_runs).tolist(), device)
    return world, TileCoder(space, args.num_tilings, args.num_tiles, device)


# --- the algorithm ---------------------------------------------------------------------------


class ActionValues:
    """Action values that are sums of tiles' weights, and what each weight has yet to learn from the steps to come.

    weights, trace: [runs, features, actions].
    """

    def __init__(self, world: Copies, tiles: TileCoder, args: Args, device: torch.device):
        self.args, self.tiles, shape = args, tiles, (args.num_runs, tiles.num_features, world.num_actions)
        self.weights = torch.zeros(shape, dtype=torch.float64, device=device)
        self.trace = torch.zeros_like(self.weights)
        self.first_row = torch.arange(args.num_runs, device=device)[:, None] * tiles.num_features

    def rows(self, obs: torch.Tensor) -> torch.Tensor:
        """obs [runs, dims] -> where the weights of its tiles are: [runs, tilings] rows of all weights [.., actions]."""
        return self.first_row + self.tiles(obs)

    def q(self, rows: torch.Tensor) -> torch.Tensor:
        """Action values [runs, actions] of rows [runs, tilings]."""
        weights = self.weights.flatten(0, 1).index_select(0, rows.view(-1))
        return weights.view(*rows.shape, -1).sum(dim=1)

    def update(self, states: torch.Tensor, rows: torch.Tensor, actions: torch.Tensor, delta: torch.Tensor):
        """Move the weights along the traces by the TD error delta [runs]; rows [runs, tilings], actions [runs]."""
        args, playing = self.args, (states == PLAYING).double()  # starting over is no transition
        self.trace *= (args.gamma * args.trace_lambda * playing).view(-1, 1, 1)  # an episode has its own
        entries = (rows * self.trace.shape[2] + actions[:, None]).view(-1)
        active = playing.repeat_interleave(args.num_tilings)
        if args.trace == "accumulating":
            self.trace.view(-1).index_add_(0, entries, active)
        else:
            self.trace.view(-1).index_copy_(0, entries, active)
        step_size = args.learning_rate / args.num_tilings
        self.weights.addcmul_(self.trace, (step_size * delta).view(-1, 1, 1))


def act(q: torch.Tensor, ties: torch.Tensor, explore: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Epsilon-greedy actions [runs]: q, ties [runs, actions]; random actions [runs] where explore [runs] says so.

    Ties, noise of at most TIE, decides between values that are equal but for rounding.
    """
    return torch.where(explore, random, (q + ties).argmax(dim=1))


def exploration(args: Args) -> torch.Tensor:
    """Epsilon in each episode [episodes]: a straight line from start_e to end_e, and end_e from there on."""
    progress = torch.arange(args.total_episodes).double() / (args.exploration_fraction * args.total_episodes)
    return args.start_e + (args.end_e - args.start_e) * progress.clamp(max=1)


@torch.inference_mode()
def play(
    world: Copies, values: ActionValues, epsilon: torch.Tensor, max_steps: int | None, learn: bool, generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Play len(epsilon) episodes in every run, all in lockstep; yields after every block of ticks, to the very end.

    Yields returns and lengths [runs, episodes] so far, and how many episodes all the runs have finished. A run whose
    episode has ended is in state END for a tick, which starts it over (next-step autoreset); one that has played all
    its episodes is in HALT. An episode cut off after max_steps is bootstrapped, then goes to END as well.
    """
    (num_runs, _, num_actions), device, num_episodes = values.weights.shape, values.weights.device, len(epsilon)
    epsilon = torch.cat([epsilon, epsilon[-1:]]).to(device)
    episodes = torch.zeros(num_runs, dtype=torch.int64, device=device)  # finished ones
    states, actions, clock = torch.full_like(episodes, END), torch.zeros_like(episodes), torch.zeros_like(episodes)
    totals = torch.zeros(2, num_runs * (num_episodes + 1), dtype=torch.float64, device=device)  # the last: in HALT
    first_total = torch.arange(num_runs, device=device) * (num_episodes + 1)
    rows = values.rows(world.obs.to(device).double())

    finished = 0
    while finished < num_episodes:
        ties = TIE * torch.rand(BLOCK, num_runs, num_actions, generator=generator, device=device).double()
        uniform = torch.rand(BLOCK, num_runs, generator=generator, device=device)
        random = torch.randint(num_actions, (BLOCK, num_runs), generator=generator, device=device)
        history = []
        for noise, u, some in zip(ties, uniform, random, strict=True):
            obs, next_states, rewards = world.step(states, actions)
            next_rows = values.rows(obs)
            next_q = values.q(next_rows)
            next_actions = act(next_q, noise, u < epsilon[episodes], some)
            if learn:
                next_values = next_q.gather(1, next_actions[:, None]).squeeze(1) * (next_states != END)
                old_values = values.q(rows).gather(1, actions[:, None]).squeeze(1)
                delta = rewards + values.args.gamma * next_values - old_values  # semi-gradient: the target stays put
                values.update(states, rows, actions, delta)
            if max_steps:
                clock = (clock + 1).masked_fill(states == END, 0)
                next_states = next_states.masked_fill((clock == max_steps) & (next_states == PLAYING), END)
            history.append((episodes, rewards, states))
            episodes = episodes + (next_states == END)
            states = next_states.masked_fill(episodes == num_episodes, HALT)
            rows, actions = next_rows, next_actions
        which, rewards, left = (torch.stack(column) for column in zip(*history, strict=True))  # [BLOCK, runs] each
        for total, x in zip(totals, (rewards, (left == PLAYING).double()), strict=True):
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


def evaluate(world: Copies, values: ActionValues, args: Args, generator: torch.Generator) -> dict:
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


def draw_costs(path: Path, values: ActionValues, title: str):
    """What is left to pay, the negative value of the best action, over two observations; mean over the runs."""
    from matplotlib.figure import Figure

    tiles, device = values.tiles, values.weights.device
    x, y = (torch.linspace(0, 1, 80, dtype=torch.float64, device=device) for _ in range(2))
    points = tiles.low + torch.cartesian_prod(x, y) * (tiles.high - tiles.low)  # [6400, 2]
    weights = values.weights.mean(dim=0)  # of tiles: the mean of linear functions is linear
    costs = -weights[tiles(points)].sum(dim=1).amax(dim=1).view(80, 80).T.numpy(force=True)
    (left, bottom), (right, top) = tiles.low.tolist(), tiles.high.tolist()
    axes = Figure(figsize=(6, 4.5), layout="constrained").subplots()
    image = axes.imshow(costs, origin="lower", aspect="auto", extent=(left, right, bottom, top), cmap="viridis")
    axes.figure.colorbar(image, label="cost to go")
    axes.set(xlabel="first observation (position)", ylabel="second observation (velocity)", title=title)
    axes.figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Learn, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the values have diverged.
    """
    args = replace(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    world, tiles = make_world(args, device)
    seed = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(1,))).integers(2**63)
    generator = torch.Generator(device).manual_seed(int(seed))
    values = ActionValues(world, tiles, args, device)
    every = math.ceil(args.total_episodes / 500)  # episodes in a row of the metrics
    start, global_step, logged, row = time.perf_counter(), 0, 0, {}
    with Run(args, args.env_id) as run, tqdm(total=args.total_episodes, unit="episode", disable=None) as bar:
        for returns, lengths, finished in play(world, values, exploration(args), args.max_steps, True, generator):
            if not values.weights.isfinite().all():
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
        np.save(run.dir / "weights.npy", values.weights.numpy(force=True))
        run.plot("charts/episodic_return")
        if len(tiles.low) == 2:
            draw_costs(run.dir / "costs.png", values, run.name)
            run.picture(run.dir / "costs.png")
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
