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
"""Random search: draw the weights of a linear policy until one of them solves the task.

    python algos/random_search.py
    python algos/random_search.py --max-episode-steps 500
    python algos/random_search.py --env-id Acrobot-v1 --max-episode-steps 500 --solved-return -100 --num-runs 100

The policy is one weight per observation: below zero, the weighted sum says left, otherwise right. How good weights are,
one episode tells. So guess: draw them from [-1, 1] again and again, and stop at the first that keep the pole up to the
end of the episode. Nothing is learned from a failure, so the guesses needed follow a geometric distribution. Many
independent trials run in lockstep, each with an environment of its own.

Expect 13.65 ± 0.41 episodes in the mean of 1,000 trials (mean and standard error of seed 1; seeds 2 and 3: 13.82 and
12.97), half of them solved by the tenth, in 1.0 to 1.3 s of a CPU core; with --max-episode-steps 500, 32.1 ± 1.0. The
weights found then stand for 176 of 200 steps in new episodes: one good episode is no proof. Of 20 trials on Acrobot,
which has 18 weights, 17 are solved within 60 episodes, in half a minute.

Papers
    Kevin Frans 2016, on simple ways to learn CartPole (the post): 13.53 episodes in the mean of 1,000 trials on
    CartPole-v0, whose episodes end after 200 steps.

Differences from the post
    1. A task with more than two actions has a row of weights for each and takes the one with the largest sum.
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

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tqdm import tqdm

BLOCK = 100  # steps of every environment between two looks at how far the trials are


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds weights and episodes; the same seed gives the same trials"""
    cuda: bool = False
    """let the policies act on a GPU if there is one; the environments stay on the host: it pays for large policies"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and discrete actions"""
    max_episode_steps: int = 200
    """steps after which an episode is cut off: 200 in CartPole-v0, which the post plays, 500 in v1"""
    solved_return: float | None = None
    """return of the episode that ends a trial (not given: the most that CartPole pays, 1 for every step)"""
    num_runs: int = 1000
    """independent trials, side by side"""
    max_episodes: int = 500
    """episodes after which a trial is given up"""
    eval_episodes: int = 10
    """new episodes that each trial's best weights are scored by at the end"""

    def __post_init__(self):
        for name in ["max_episode_steps", "num_runs", "max_episodes", "eval_episodes"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.solved_return is not None and not math.isfinite(self.solved_return):
            raise UsageError("--solved-return must be finite")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")


# --- the policy and its environments ---------------------------------------------------------


def act(weights: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
    """One linear policy per trial: weights [runs, rows, obs], obs [runs, obs] -> actions [runs].

    A single row decides between two actions by the sign of its sum; several rows by which sum is the largest.
    """
    sums = (weights * obs[:, None]).sum(dim=2)  # [runs, rows]
    return (sums[:, 0] >= 0).long() if weights.shape[1] == 1 else sums.argmax(dim=1)


class Lockstep:
    """Environments side by side, each at its own place in its own episode.

    Next-step autoreset: the step after the end of an episode only starts the next one. It is no transition: its action
    is not played, and neither its reward nor the step itself counts.
    """

    def __init__(self, envs: gym.vector.VectorEnv, seeds: np.ndarray, device: torch.device):
        self.envs, self.device = envs, device
        # CartPole's own vector environment has one generator for all starts, other environments have one each
        self.reset(seed=seeds.tolist() if isinstance(envs, SyncVectorEnv) else int(seeds[0]))

    def reset(self, seed=None):
        """Give up the episodes under way and start new ones; without a seed the generators go on."""
        self.obs = torch.as_tensor(self.envs.reset(seed=seed)[0], device=self.device)  # [runs, obs]
        self.returns, self.lengths = np.zeros(len(self.obs)), np.zeros(len(self.obs), dtype=int)
        self.over = np.zeros(len(self.obs), dtype=bool)

    def step(self, weights: torch.Tensor) -> np.ndarray:
        """One step of every policy, weights [runs, rows, obs]: the indices [m] of those whose episode is over now.

        What it came to stands in `returns` and `lengths` until the next step.
        """
        obs, rewards, terminations, truncations, _ = self.envs.step(act(weights, self.obs).numpy(force=True))
        self.obs = torch.as_tensor(obs, device=self.device)
        self.returns = np.where(self.over, 0, self.returns + rewards)
        self.lengths = np.where(self.over, 0, self.lengths + 1)
        self.over = terminations | truncations
        return np.flatnonzero(self.over)


# --- the algorithm ---------------------------------------------------------------------------


@dataclass
class Trials:
    """What the trials came to so far."""

    weights: torch.Tensor  # [runs, rows, obs], the best that each of them has tried
    returns: np.ndarray  # [runs, max_episodes], of every episode
    lengths: np.ndarray  # [runs, max_episodes], 0 where none was played
    episodes: np.ndarray  # [runs], how many were played
    solved: np.ndarray  # [runs]
    searching: np.ndarray  # [runs], neither solved nor given up

    @classmethod
    def start(cls, args: Args, rows: int, obs_dim: int, device: torch.device):
        weights = torch.zeros(args.num_runs, rows, obs_dim, device=device)
        returns = np.zeros((args.num_runs, args.max_episodes), dtype=np.float32)
        episodes = np.zeros(args.num_runs, dtype=int)
        return cls(weights, returns, returns.astype(np.int32), episodes, episodes > 0, episodes == 0)

    def record(self, i: np.ndarray, world: Lockstep, args: Args) -> np.ndarray:
        """Note the episodes that are over in the trials i [n]; returns those of the trials that were searching [m]."""
        i = i[self.searching[i]]
        episodes, returns = self.episodes[i], world.returns[i]
        self.returns[i, episodes], self.lengths[i, episodes] = returns, world.lengths[i]
        self.episodes[i] = episodes + 1
        solved = returns >= args.solved_return
        self.solved[i], self.searching[i] = solved, ~solved & (episodes + 1 < args.max_episodes)
        return i


def uniform(shape: tuple, generator: torch.Generator) -> torch.Tensor:
    """Random numbers in [-1, 1], all equally likely."""
    return 2 * torch.rand(shape, generator=generator, device=generator.device) - 1


@torch.inference_mode()
def search(world: Lockstep, trials: Trials, args: Args, generator: torch.Generator) -> Iterator[int]:
    """All trials in lockstep, to the very end; yields after every block how many episodes are over in each of them."""
    best_returns = np.full(args.num_runs, -math.inf)
    weights = uniform(trials.weights.shape, generator)
    while trials.searching.any():
        for _ in range(BLOCK):
            i = trials.record(world.step(weights), world, args)  # [m]: their episodes are over now, others go on
            better = i[world.returns[i] > best_returns[i]]
            best_returns[better], trials.weights[better] = world.returns[better], weights[better]
            weights[i] = uniform((len(i), *weights.shape[1:]), generator)  # whatever the last ones came to
        under_way = trials.episodes[trials.searching]
        yield int(under_way.min() if len(under_way) else trials.episodes.max())


@torch.inference_mode()
def evaluate(world: Lockstep, weights: torch.Tensor, num_episodes: int) -> np.ndarray:
    """Mean return [runs] of each policy, weights [runs, rows, obs], over so many new episodes."""
    world.reset()
    total, episodes = np.zeros_like(world.returns), np.zeros_like(world.lengths)
    while (episodes < num_episodes).any():
        i = world.step(weights)
        i = i[episodes[i] < num_episodes]
        total[i] += world.returns[i]
        episodes[i] += 1
    return total / num_episodes


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


def make_envs(args: Args) -> tuple[gym.vector.VectorEnv, int]:
    """An environment for every trial, and how many rows of weights a policy has; completes env_id and solved_return.

    Raises UsageError for an environment that a linear policy with discrete actions cannot play.
    """
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            envs = gym.make_vec(args.env_id, num_envs=args.num_runs, max_episode_steps=args.max_episode_steps)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {args.env_id}: {error}") from None
    args.env_id, obs_space, action_space = envs.spec.id, envs.single_observation_space, envs.single_action_space
    if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
        raise UsageError(f"--env-id {args.env_id}: needs flat observations, has {obs_space}")
    if not isinstance(action_space, Discrete) or action_space.start != 0:
        raise UsageError(f"--env-id {args.env_id}: needs discrete actions from 0, has {action_space}")
    if envs.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise UsageError(f"--env-id {args.env_id}: its vector environment does not start over in the next step")
    if args.solved_return is None:
        if envs.spec.name != "CartPole":
            raise UsageError(f"--solved-return: say which return solves {args.env_id}")
        args.solved_return = float(args.max_episode_steps)
    return envs, 1 if action_space.n == 2 else int(action_space.n)


def mean_and_error(x: np.ndarray) -> tuple[float | None, float | None]:
    """Mean of x [n] and its standard error; no mean of nothing, no error of a single number."""
    error = x.std(ddof=1, dtype=float) / math.sqrt(len(x)) if len(x) > 1 else None
    return float(x.mean(dtype=float)) if len(x) else None, error


def measure(trials: Trials, first: int, last: int) -> dict:
    """The row's charts/* after so many episodes: returns and lengths are those of the episodes first + 1 to last."""
    returns, lengths = trials.returns[:, first:last], trials.lengths[:, first:last]
    share, error = mean_and_error(trials.solved & (trials.episodes <= last))
    row = {"charts/episode": last, "charts/share_solved": share, "charts/share_solved_se": error}
    for name, x in {"charts/episodic_return": returns, "charts/episodic_length": lengths}.items():
        row[name], row[f"{name}_se"] = mean_and_error(x[lengths > 0])
    return row


def summarize(trials: Trials, scores: np.ndarray) -> dict:
    """What stands in the last row only: episodes until solved, and scores [runs] of each trial's best weights."""
    episodes = trials.episodes[trials.solved]
    mean, error = mean_and_error(episodes)
    row = {"charts/episodes_to_solve": mean, "charts/episodes_to_solve_se": error}
    row["charts/episodes_to_solve_median"] = float(np.median(episodes)) if len(episodes) else None
    for name, x in {"eval/episodic_return": scores, "eval/episodic_return_solved": scores[trials.solved]}.items():
        row[name], row[f"{name}_se"] = mean_and_error(x)
    return row


def draw_histogram(path: Path, trials: Trials, title: str):
    """How many trials took how many episodes; those that were given up stand at the right."""
    from matplotlib.figure import Figure

    episodes, limit = trials.episodes[trials.solved], trials.returns.shape[1]
    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    low, high = 1, 1
    while low <= limit:  # a bar for 1, 2, 3 to 4, 5 to 8, and so on
        count = ((low <= episodes) & (episodes <= high)).sum()
        axes.bar(f"{low}\nto {high}" if low < high else f"{low}", count, color="tab:blue")
        low, high = high + 1, 2 * high
    axes.bar("not\nsolved", len(trials.solved) - len(episodes), color="tab:red")
    axes.set(xlabel="episodes until solved", ylabel="trials", title=title)
    axes.figure.savefig(path, dpi=120)


def train(args: Args) -> dict:
    """Search, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes."""
    args = replace(args)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    envs, rows = make_envs(args)
    starts, draws = map(np.random.default_rng, np.random.SeedSequence(args.seed).spawn(2))
    world = Lockstep(envs, starts.integers(2**31, size=args.num_runs), device)
    generator = torch.Generator(device).manual_seed(int(draws.integers(2**63)))
    trials = Trials.start(args, rows, world.obs.shape[1], device)
    start, cpu_start, global_step, logged = time.perf_counter(), time.process_time(), 0, 0
    with Run(args, args.env_id) as run, tqdm(total=args.num_runs, unit="trial", disable=None) as bar:

        def log(k: int, summary: dict) -> dict:
            """A row up to the k-th episode of every trial."""
            nonlocal global_step, logged
            global_step += int(trials.lengths[:, logged:k].sum())
            clock = {"charts/SPS": global_step / elapsed, "time/elapsed": elapsed, "time/cpu": cpu}
            row = {"global_step": global_step} | measure(trials, logged, k) | clock | summary
            run.log(row)
            logged = k
            return row

        for finished in search(world, trials, args, generator):
            elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            for k in range(logged + 1, finished):
                if k <= 100 or k % 10 == 0:
                    log(k, dict.fromkeys(summarize(trials, world.returns)))
            bar.update(args.num_runs - int(trials.searching.sum()) - bar.n)
        row = log(finished, summarize(trials, evaluate(world, trials.weights, args.eval_episodes)))
        found = {"weights": trials.weights.numpy(force=True), "episodes": trials.episodes, "solved": trials.solved}
        np.savez(run.dir / "trials.npz", **found)
        draw_histogram(run.dir / "histogram.png", trials, run.name)
        run.picture(run.dir / "histogram.png")
        run.plot("charts/share_solved")
    envs.close()
    print(f"{describe(row)}; {args.num_runs} trials, {elapsed:.2f} s ({cpu:.2f} s of CPU time): {run.dir}")
    return row


def describe(row: dict) -> str:
    """The summary line: how many trials were solved, how soon, and what the weights found are worth."""
    text = f"{row['charts/share_solved']:.1%} solved"
    if row["charts/episodes_to_solve"] is None:
        return text
    error = "" if row["charts/episodes_to_solve_se"] is None else f" ± {row['charts/episodes_to_solve_se']:.2f}"
    mean, median = row["charts/episodes_to_solve"], row["charts/episodes_to_solve_median"]
    text += f" after {mean:.2f}{error} episodes (median {median:.0f})"
    return f"{text}, then return {row['eval/episodic_return_solved']:.1f} in new episodes"


def main(argv: list[str]):
    train(tyro.cli(Args, description=__doc__, args=argv))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
