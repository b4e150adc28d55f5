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
"""Temporal differences: learn what a state is worth by looking ahead one step, n steps, or to the episode's end.

    python algos/td_lambda.py --method true-online --trace-lambda 0.8
    python algos/td_lambda.py --env-id walk-5 --method td --batch --learning-rate 0.1 --total-episodes 100
    python algos/td_lambda.py --env-id walk-1000 --features fourier --num-features 5 --num-units 16 --learning-rate 0.01
    python algos/td_lambda.py --env-id FrozenLake-v1 --method monte-carlo --learning-rate 0.01 --total-episodes 100

Monte Carlo moves the value of a visited state towards the return that followed it: right on average, but noisy. TD(0)
moves it towards the next reward plus the next state's value: steadier, but only as good as that value. n-step TD stands
between them; TD(lambda) averages over all n, with weights that fall as lambda's powers. The forward view
(lambda-return) computes that average after the episode. The backward view (td-lambda) needs no future: a trace of what
was visited takes its share of every new TD error. True online TD(lambda) makes the two agree exactly, at every step.

What is learned does not change what is visited, so the next episode of every run is played first and then learned from
with all step sizes at once. Independent runs advance in lockstep: weights are tensors [runs, step sizes, weights].

Expect, on average over the first ten episodes of walk-19 and at the best step size, an RMS error of .261 with n-step
(n = 4) and of .255 with lambda-return (lambda = .8), standard error .002 with 500 runs: the lowest points of Figures
7.2 and 12.3. With 24 step sizes that takes 4 s on one CPU core, 3 of them for the imports.

Book
    Sutton & Barto 2018, "Reinforcement learning: an introduction", second edition: equations 6.2, 7.2, 12.3 to 12.7,
    sections 6.3 (batch updating) and 12.5 (true online TD), Examples 6.2, 7.1 and 9.1 (the random walks).

Differences from the book
    1. The book leaves open by which weights the lambda-return algorithm bootstraps after an episode. Here by those that
       the update finds: so it is TD(0) for lambda 0 and Monte Carlo for lambda 1.
    2. --batch solves for what sweeps with a small step size converge to, instead of sweeping.
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

WALKS = {  # number of states, farthest step, reward for leaving on the left (on the right it is 1), first value
    "walk-5": (5, 1, 0.0, 0.5),  # Example 6.2
    "walk-19": (19, 1, -1.0, 0.0),  # Example 7.1
    "walk-1000": (1000, 100, -1.0, 0.0),  # Example 9.1
}


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds episodes and networks; the same seed gives the same curve"""
    cuda: bool = False
    """use a GPU if there is one; it pays from thousands of runs on"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""

    env_id: str = "walk-19"
    """walk-5, walk-19, walk-1000: the book's random walks; or a Gymnasium environment with a transition table, such as
    FrozenLake-v1, Taxi-v4 or CliffWalking-v1, where all actions are equally likely"""
    num_runs: int = 100
    """independent runs, side by side"""
    total_episodes: int = 10
    """episodes of each run"""
    method: Literal["monte-carlo", "td", "n-step", "lambda-return", "td-lambda", "true-online"] = "td-lambda"
    """what to learn by; td is n-step with one step, monte-carlo with all there are"""
    n: int = 4
    """how many steps n-step looks ahead"""
    trace_lambda: float = 0.8
    """lambda of lambda-return, td-lambda and true-online, in [0, 1]: how slowly the weights of longer returns fall"""
    learning_rate: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """step sizes; each learns from the same episodes"""
    gamma: float = 1.0
    """discount per step, in (0, 1]"""
    batch: bool = False
    """after each episode learn from all so far until no value changes any more, whatever the step size; for td, n-step
    and monte-carlo with linear values"""
    features: Literal["table", "fourier"] = "table"
    """what is known of a state: its group of neighbours, or cosines of its number"""
    num_features: int = 0
    """groups or cosines, 0 for as many as there are states"""
    num_units: int = 0
    """tanh units of a network between features and value, 0 for a value that is linear in the features"""

    def __post_init__(self):
        if min(self.total_episodes, self.n) < 1 or self.num_runs < 2:
            raise UsageError("--total-episodes and --n must be at least 1, --num-runs 2, to have a standard error")
        if min(self.seed, self.num_features, self.num_units) < 0:
            raise UsageError("--seed, --num-features and --num-units must not be negative")
        if not 0 <= self.trace_lambda <= 1 or not 0 < self.gamma <= 1:
            raise UsageError("--trace-lambda must lie in [0, 1] and --gamma in (0, 1]")
        if not self.learning_rate or not all(0 < alpha < math.inf for alpha in self.learning_rate):
            raise UsageError("--learning-rate takes one or more positive step sizes")
        if len({f"{alpha:g}" for alpha in self.learning_rate}) < len(self.learning_rate):
            raise UsageError("--learning-rate must not name a step size twice")
        if self.num_units and (self.batch or self.method in ("lambda-return", "true-online")):
            raise UsageError("--batch, --method lambda-return and true-online need linear values: --num-units 0")
        if self.batch and (METHODS[self.method] is not n_step_td or len(self.learning_rate) > 1):
            raise UsageError("--batch goes with --method td, n-step or monte-carlo, and with a single --learning-rate")


# --- the value function: of weights w [runs, alphas, weights] and the features x(s) of k states ---------------


def linear(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """v(s, w) = w . x(s): [runs, alphas, k]. x: [runs, k, features], or [k, features] for the same states in all runs.

    A table is the case of one-hot features.
    """
    return w @ x.mT


def network(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """v(s, w) = c . tanh(A x(s) + b) + d with w = (A, b, c, d); shapes as above."""
    units = (w.shape[-1] - 1) // (x.shape[-1] + 2)
    a, b, c, d = w.split([units * x.shape[-1], units, units, 1], dim=-1)
    a = a.unflatten(-1, (units, -1))  # [runs, alphas, units, features]
    hidden = torch.tanh(a @ x.unsqueeze(-3).mT + b.unsqueeze(-1))  # [runs, alphas, units, k]
    values = (c.unsqueeze(-1) * hidden).sum(dim=-2) + d
    return values * (x != 0).any(dim=-1).unsqueeze(-2)  # only the end has no features at all: nothing follows


def gradient(v, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of v(s, w) in w for one state of each run: x [runs, 1, features] -> [runs, alphas or 1, weights]."""
    if v is linear:
        return x
    w = w.detach().requires_grad_()
    return torch.autograd.grad(v(w, x).sum(), w)[0]  # no value depends on the weights of another


def first_weights(args, x: torch.Tensor, value: float, generator: torch.Generator) -> torch.Tensor:
    """Weights with which every state has this value: [runs, 1, weights]."""
    if args.num_units == 0:
        w = torch.linalg.lstsq(x[:-1], torch.full_like(x[:-1, :1], value)).solution
        return w.mT.repeat(args.num_runs, 1, 1)
    drawn = args.num_units * (x.shape[1] + 1)  # A and b; c is zero
    w = torch.zeros(args.num_runs, 1, drawn + args.num_units + 1, dtype=x.dtype, device=x.device)
    w[..., :drawn].normal_(generator=generator).div_(x[0].norm())
    w[..., -1] = value
    return w


def make_features(args, num_states: int) -> torch.Tensor:
    """x(s) of every state and, in the last row, of the end, which has none: [states + 1, features]."""
    numbers, k = torch.arange(num_states, dtype=torch.float64), args.num_features or num_states
    if args.features == "table":  # a weight for each state, or for each group of neighbours (state aggregation)
        x = torch.nn.functional.one_hot((numbers * k / num_states).long(), k).double()
    else:  # cos(i pi s) for i = 0, 1, ..., where s goes from 0 at the first state to 1 at the last
        x = torch.cos(math.pi * numbers[:, None] / max(1, num_states - 1) * torch.arange(k))
    return torch.cat([x, torch.zeros(1, k, dtype=torch.float64)])


# --- the methods: each changes the weights w [runs, alphas, weights] by what one episode of each run tells ----


@dataclass
class Episodes:
    """An episode of each run, the longest first, so that those under way at any time are the first ones."""

    x: torch.Tensor  # features of the states and of the end [states + 1, features]
    states: torch.Tensor  # states[t] is S_t [T + 1 or more, runs]; what is over stays at the end
    rewards: torch.Tensor  # rewards[t] is R_t+1, paid for leaving S_t [T or more, runs, 1, 1]; 0 when it is over
    running: list[int]  # how many are under way at time t < T

    def steps(self, n: int = 1):
        """At each time, of the episodes under way: their number, t, x(S_t), x(S_t+n) [runs, 1, features] both."""
        for t, runs in enumerate(self.running):
            later = min(t + n, len(self.running))
            yield runs, t, self.x[self.states[t, :runs], None], self.x[self.states[later, :runs], None]


def n_step_rewards(episodes: Episodes, gamma: float, n: int) -> torch.Tensor:
    """R_t+1 + gamma R_t+2 + ... + gamma^(n-1) R_t+n at all times: [T, runs, 1, 1]."""
    time = len(episodes.running)
    returns = episodes.rewards.new_zeros(time + n, *episodes.rewards.shape[1:])
    for t in reversed(range(time)):
        returns[t] = episodes.rewards[t] + gamma * returns[t + 1]
    return returns[:time] - gamma**n * returns[n:]  # the whole return without what comes later


def n_step_td(v, w: torch.Tensor, episodes: Episodes, alpha: torch.Tensor, gamma: float, n: int):
    """n-step TD: TD(0) for n = 1, constant-alpha Monte Carlo for n as large as the longest episode.

    The update of S_t is due n steps later, or after the end, but never before that of S_t-1: so they come in order.
    """
    rewards = n_step_rewards(episodes, gamma, n)
    for runs, t, x, x_n in episodes.steps(n):
        w_t = w[:runs]
        target = rewards[t, :runs] + gamma**n * v(w_t, x_n)  # G_t:t+n
        w_t += alpha * (target - v(w_t, x)) * gradient(v, w_t, x)  # equation 7.2; with n = 1, equation 6.2


def lambda_returns(episodes: Episodes, gamma: float, lambda_: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The lambda-returns (equation 12.3) of linear values: at time t, for weights w, rewards[t] + w . features[t].

    Both come from G_t = R_t+1 + gamma ((1 - lambda) v(S_t+1) + lambda G_t+1): [T, runs, 1, 1], [T, runs, 1, features].
    """
    shape = len(episodes.running) + 1, episodes.rewards.shape[1], 1
    rewards, features = (episodes.x.new_zeros(*shape, k) for k in (1, episodes.x.shape[1]))
    for runs, t, _, x_next in reversed(list(episodes.steps())):
        rewards[t, :runs] = episodes.rewards[t, :runs] + gamma * lambda_ * rewards[t + 1, :runs]
        features[t, :runs] = gamma * ((1 - lambda_) * x_next + lambda_ * features[t + 1, :runs])
    return rewards[:-1], features[:-1]


def lambda_return(v, w: torch.Tensor, episodes: Episodes, alpha: torch.Tensor, gamma: float, lambda_: float):
    """The offline lambda-return algorithm for linear values: the forward view, taken when the episode is over."""
    rewards, features = lambda_returns(episodes, gamma, lambda_)
    for runs, t, x, _ in episodes.steps():
        w_t = w[:runs]
        target = rewards[t, :runs] + v(w_t, features[t, :runs])
        w_t += alpha * (target - v(w_t, x)) * gradient(v, w_t, x)  # equation 12.4


def td_lambda(v, w: torch.Tensor, episodes: Episodes, alpha: torch.Tensor, gamma: float, lambda_: float):
    """Semi-gradient TD(lambda) with accumulating traces: the backward view."""
    trace = torch.zeros_like(w)
    for runs, t, x, x_next in episodes.steps():
        w_t, z = w[:runs], trace[:runs]
        z.mul_(gamma * lambda_).add_(gradient(v, w_t, x))  # equation 12.5
        delta = episodes.rewards[t, :runs] + gamma * v(w_t, x_next) - v(w_t, x)  # equation 12.6
        w_t += alpha * delta * z  # equation 12.7


def true_online_td(v, w: torch.Tensor, episodes: Episodes, alpha: torch.Tensor, gamma: float, lambda_: float):
    """True online TD(lambda) for linear values, with its dutch trace (section 12.5)."""
    trace, old_values = torch.zeros_like(w), torch.zeros_like(w[..., :1])
    for runs, t, x, x_next in episodes.steps():
        w_t, z, old = w[:runs], trace[:runs], old_values[:runs]
        value, next_value = v(w_t, x), v(w_t, x_next)
        delta = episodes.rewards[t, :runs] + gamma * next_value - value
        z.copy_(gamma * lambda_ * z + (1 - alpha * gamma * lambda_ * (z @ x.mT)) * x)
        w_t += alpha * (delta + value - old) * z - alpha * (value - old) * x
        old.copy_(next_value)  # by the weights before this update


METHODS = {"monte-carlo": n_step_td, "td": n_step_td, "n-step": n_step_td}
METHODS |= {"lambda-return": lambda_return, "td-lambda": td_lambda, "true-online": true_online_td}


def batch_weights(a: torch.Tensor, b: torch.Tensor, first: torch.Tensor, episodes: Episodes, gamma: float, n: int):
    """Batch updating: where sweeps over all n-step updates lead from the first weights [runs, 1, features].

    All updates together move weights w by alpha (b - a w): a [runs, features, features] and b [runs, features, 1] hold
    the sums over earlier episodes; this one's are added to them. On a table TD(0) ends at the values of the Markov
    process that fits the episodes best, Monte Carlo at the mean returns; what was never seen stays at its first weight.
    """
    rewards = n_step_rewards(episodes, gamma, n)
    for runs, t, x, x_n in episodes.steps(n):
        a[:runs] += x.mT @ (x - gamma**n * x_n)
        b[:runs] += x.mT * rewards[t, :runs]
    return first + (torch.linalg.pinv(a) @ (b - a @ first.mT)).mT


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


@dataclass
class Process:
    """A Markov reward process. The last of its states is the end, which leads to itself and pays nothing."""

    probs: torch.Tensor  # of each outcome of a state [states + 1, outcomes]
    next_states: torch.Tensor  # [states + 1, outcomes]
    rewards: torch.Tensor  # [states + 1, outcomes]
    start: torch.Tensor  # probability to begin in a state [states]


def random_walk(num_states: int, farthest: int, left_reward: float) -> Process:
    """From the middle, again and again, to one of the `farthest` neighbours on either side, until it leaves."""
    steps = torch.cat([torch.arange(-farthest, 0), torch.arange(1, farthest + 1)])
    to = torch.arange(num_states)[:, None] + steps
    rewards = left_reward * (to < 0) + 1.0 * (to >= num_states)
    to = torch.where((to < 0) | (to >= num_states), num_states, to)
    start = torch.nn.functional.one_hot(torch.tensor((num_states - 1) // 2), num_states).double()
    return with_end(torch.full(to.shape, 1 / len(steps), dtype=torch.float64), to, rewards, start)


def transition_table(env_id: str) -> Process:
    """A Gymnasium environment by its table env.P, when all actions are equally likely: outcomes of all actions."""
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            env = gym.make(env_id, disable_env_checker=True).unwrapped
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error} The walks are {', '.join(WALKS)}") from None
    if not hasattr(env, "P") or not hasattr(env, "initial_state_distrib"):
        raise UsageError(
            f"--env-id {env_id}: has no transition table P, as FrozenLake-v1 has one; or take {', '.join(WALKS)}"
        )
    table = [[(p / len(actions), *rest) for o in actions.values() for p, *rest in o] for actions in env.P.values()]
    for outcomes in table:  # all rows of the same length
        outcomes.extend([(0.0, *outcomes[0][1:])] * (max(map(len, table)) - len(outcomes)))
    probs, to, rewards, over = torch.tensor(table, dtype=torch.float64).unbind(-1)  # [states, outcomes] each
    return with_end(probs, torch.where(over > 0, len(probs), to.long()), rewards, env.initial_state_distrib)


def with_end(probs, next_states, rewards, start) -> Process:
    """The process of these outcomes [states, outcomes], with the end added to them."""
    end = torch.full_like(next_states[:1], len(probs))
    pieces = (probs, probs[:1]), (next_states, end), (rewards, 0 * rewards[:1])
    probs, next_states, rewards = (torch.cat(pair) for pair in pieces)
    return Process(probs, next_states, rewards.double(), torch.as_tensor(start, dtype=torch.float64))


def true_values(process: Process, gamma: float, env_id: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values by the linear system v = r + gamma P v, and whether an episode ever comes to a state: [states] both."""
    num_states = len(process.start)
    p = torch.zeros(num_states + 1, num_states + 1, dtype=torch.float64)
    p = p.scatter_add_(1, process.next_states, process.probs)[:-1, :-1]
    sums, singular = torch.linalg.inv_ex(torch.eye(num_states) - p)  # of all powers of P
    visits = process.start @ sums
    if singular or not visits.sum() < 1e9:
        raise UsageError(f"--env-id {env_id}: its episodes do not end")
    rewards = (process.probs * process.rewards).sum(dim=1)[:-1]
    return torch.linalg.solve(torch.eye(num_states) - gamma * p, rewards), visits > 1e-12


def play(process: Process, x: torch.Tensor, num_runs: int, generator: torch.Generator) -> tuple[Episodes, torch.Tensor]:
    """The next episode of each run, and the order of the runs in it: [runs]."""
    end, below = len(process.start), process.probs.cumsum(dim=1)
    below /= below[:, -1:].clone()  # exactly 1 for the last outcome that is possible
    states, rewards = [process.start.multinomial(num_runs, replacement=True, generator=generator)], []
    while (states[-1] != end).any():  # asked only now and then, because a GPU has to wait for the answer
        for uniform in torch.rand(64, num_runs, 1, dtype=x.dtype, device=x.device, generator=generator):
            outcome = torch.searchsorted(below[states[-1]], uniform, right=True).squeeze(1)
            rewards.append(process.rewards[states[-1], outcome])
            states.append(process.next_states[states[-1], outcome])
    states, rewards = torch.stack(states), torch.stack(rewards)
    under_way = states != end
    order = under_way.sum(dim=0).argsort(descending=True, stable=True)
    running = [runs for runs in under_way.sum(dim=1).tolist() if runs]
    return Episodes(x, states[:, order], rewards[:, order, None, None], running), order


# --- training --------------------------------------------------------------------------------


def draw_values(run, truth: torch.Tensor, estimates: dict[int, torch.Tensor], title: str):
    """values.png: true values [states], and estimates [runs, states] after some episodes as mean and spread."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    for episodes, values in estimates.items():
        mean, std = values.mean(dim=0), values.std(dim=0)
        (line,) = axes.plot(mean, label=f"after {episodes} episode{'s' * (episodes > 1)}")
        axes.fill_between(range(len(mean)), mean - std, mean + std, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.plot(truth, "k--", label="true values")
    axes.set(xlabel="state", ylabel="value: mean and standard deviation of the runs", title=title)
    axes.legend(frameon=False)
    axes.figure.savefig(run.dir / "values.png", dpi=120)
    run.picture(run.dir / "values.png")


def train(args: Args) -> dict:
    """Learn, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when a step size is too large.
    """
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    *walk, first_value = WALKS.get(args.env_id, (0.0,))
    process = random_walk(*walk) if walk else transition_table(args.env_id)
    truth, reached = true_values(process, args.gamma, args.env_id)
    if args.num_features > len(truth):
        raise UsageError(f"--num-features {args.num_features}: {args.env_id} has only {len(truth)} states")
    process = Process(*(tensor.to(device) for tensor in vars(process).values()))
    truth, reached, x = truth.to(device), reached.to(device), make_features(args, len(truth)).to(device)
    seeds = np.random.SeedSequence(args.seed).generate_state(2, np.uint64) >> 1
    luck, drawn = (torch.Generator(device).manual_seed(int(seed)) for seed in seeds)

    v, learn = network if args.num_units else linear, METHODS[args.method]
    alpha = torch.tensor(args.learning_rate, dtype=x.dtype, device=device)[:, None]
    first = first_weights(args, x, first_value, drawn)  # [runs, 1, weights]
    w = first.repeat(1, len(alpha), 1)  # [runs, alphas, weights]
    sums = [x.new_zeros(args.num_runs, x.shape[1], k if args.batch else 0) for k in (x.shape[1], 1)]
    total_error, estimates, global_step, start = x.new_zeros(w.shape[:2]), {}, 0, time.perf_counter()
    with Run(args, args.env_id) as run, tqdm(total=args.total_episodes, unit="episode", disable=None) as bar:
        for episode in range(1, args.total_episodes + 1):
            episodes, order = play(process, x, args.num_runs, luck)
            first, w, *sums, total_error = (each[order] for each in (first, w, *sums, total_error))
            n = min({"td": 1, "n-step": args.n}.get(args.method, math.inf), len(episodes.running))
            if args.batch:
                w = batch_weights(*sums, first, episodes, args.gamma, n)
            else:
                learn(v, w, episodes, alpha, args.gamma, n if learn is n_step_td else args.trace_lambda)

            values = v(w, x[:-1])  # [runs, alphas, states]
            error = ((values - truth)[..., reached] ** 2).mean(dim=2).sqrt()  # RMS over the states [runs, alphas]
            total_error += error
            global_step += sum(episodes.running)
            row = {
                "global_step": global_step,
                "charts/episodic_return": episodes.rewards.sum().item() / args.num_runs,
                "charts/episodic_length": sum(episodes.running) / args.num_runs,
                "charts/SPS": global_step / (time.perf_counter() - start),
            }
            averages = {"rms_error": error, "average_rms_error": total_error / episode}
            for name, each in averages.items():
                mean, standard_error = each.mean(dim=0).tolist(), (each.std(dim=0) / args.num_runs**0.5).tolist()
                for i, rate in enumerate(args.learning_rate):
                    row |= {f"eval/{name}_{rate:g}": mean[i], f"eval/{name}_se_{rate:g}": standard_error[i]}
            if not all(math.isfinite(number) for number in row.values()):
                raise FloatingPointError(f"the values diverged in episode {episode}: --learning-rate must be smaller")
            run.log(row)
            bar.update()
            best = min(args.learning_rate, key=lambda rate: row[f"eval/average_rms_error_{rate:g}"])
            bar.set_postfix(rms_error=f"{row[f'eval/rms_error_{best:g}']:.3f}")
            if episode in (1, 10, 100, 1000, args.total_episodes):
                estimates[episode] = values[..., reached].cpu()

        if args.num_units:
            run.save({"weights": w.cpu()})
        run.plot(f"eval/rms_error_{best:g}")
        estimates = {episode: values[:, args.learning_rate.index(best)] for episode, values in estimates.items()}
        draw_values(run, truth[reached].cpu(), estimates, f"{args.env_id}, {args.method}, step size {best:g}")
        error, standard_error = (row[f"eval/{name}_{best:g}"] for name in ("rms_error", "rms_error_se"))
        average = f"on average {row[f'eval/average_rms_error_{best:g}']:.4f} with {best:g}, the best step size"
        print(f"RMS error {error:.4f} +- {standard_error:.4f} after {episode} episodes, {average}: {run.dir}")
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
