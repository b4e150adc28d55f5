"""Figures and the page of algos/reinforce_gridworld.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from algos.reinforce_gridworld import best_deterministic, exact_objective, exact_values
from benchmarks.plot import BLUE, GREEN, GREY, VERMILLION, Results, curves, machines, median, save, table

EXACT, EAST, COSINE = "eval/exact_return", "eval/east_where_alike", "losses/gradient_cosine"
PARAMETER = ["charts/weight", "eval/deterministic", "eval/stochastic", "eval/stochastic_error", "charts/preference"]
PARAMETER += ["eval/gridworld_deterministic", "eval/gridworld_stochastic"]
COLUMNS = ["global_step", EXACT, EAST, COSINE, "charts/SPS", *PARAMETER]
GAMMA = 0.9


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def exact_ascent(num_updates: int, learning_rate: float = 0.05) -> np.ndarray:
    """Values [num_updates] when Adam follows the exact gradient from the same start."""
    logits, values = torch.zeros(4, 4, requires_grad=True), []
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    for _ in range(num_updates):
        value = exact_objective(logits, GAMMA)
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
        values.append(value.item())
    return np.array(values)


def best_stochastic() -> float:
    """The value of a fair coin where the states look the same and of the best actions elsewhere."""
    probs = best_deterministic(GAMMA)
    probs[[0, 2, 4]] = torch.eye(4, dtype=probs.dtype)[[1, 2, 3]]
    probs[[1, 3]] = torch.tensor([0, 0.5, 0, 0.5], dtype=probs.dtype)
    return exact_values(probs, GAMMA).mean().item()


def learning_figure(seeds: list, best: float, coin: float, path: Path):
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    value, east = figure.subplots(1, 2)
    curves(value, seeds, "update", EXACT, BLUE, "REINFORCE, exact value of its policy")
    exact = exact_ascent(int(max(seed["update"][-1] for seed in seeds)))
    value.plot(np.arange(1, len(exact) + 1), exact, color=GREY, label="exact gradient in its place")
    value.axhline(best, color=VERMILLION, linestyle="--", label=f"best deterministic policy: {best:.3f}")
    value.axhline(coin, color=GREEN, linestyle="--", label=f"fair coin where states look the same: {coin:.3f}")
    value.set(title="aliased gridworld", xlabel="updates of 32 episodes", ylabel="mean value over the starts")
    curves(east, seeds, "update", EAST, BLUE, "REINFORCE")
    east.axhline(0.5, color=GREEN, linestyle="--", label="fair coin")
    east.set(title="states 1 and 3", xlabel="updates of 32 episodes", ylabel="probability of east", ylim=(0, 1))
    for axes in (value, east):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def parameter_figure(result, path: Path):
    """The lecture's picture: the return over one parameter, deterministic and stochastic."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    cartpole, grid = figure.subplots(1, 2)
    weight, preference = result["charts/weight"], result["charts/preference"]
    mean, error = result["eval/stochastic"], result["eval/stochastic_error"]
    cartpole.plot(weight, result["eval/deterministic"], color=VERMILLION, label="deterministic", linewidth=1)
    cartpole.plot(weight, mean, color=BLUE, label="stochastic, mean of 400 episodes")
    cartpole.fill_between(weight, mean - 2 * error, mean + 2 * error, color=BLUE, alpha=0.2, linewidth=0)
    cartpole.set(title="CartPole-v1, one start", xlabel="weight of the pole's angle", ylabel="return")
    for piece in (preference <= 0, preference > 0):  # the value jumps in between
        label = "deterministic" if piece[0] else None
        grid.plot(preference[piece], result["eval/gridworld_deterministic"][piece], color=VERMILLION, label=label)
    grid.plot(preference, result["eval/gridworld_stochastic"], color=BLUE, label="stochastic")
    grid.set(title="aliased gridworld (exact)", xlabel="logit of east minus logit of west in 1 and 3", ylabel="value")
    for axes in (cartpole, grid):
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figures and the page; returns the README's blocks."""
    seeds, parameter, blocks = results["gridworld"], results["gridworld-parameter"], {}
    best, coin = exact_values(best_deterministic(GAMMA), GAMMA).mean().item(), best_stochastic()
    text = [
        "# REINFORCE in the aliased gridworld",
        "David Silver's course on reinforcement learning (lecture 7) claims that where two states look the same, the "
        "best memoryless policy is stochastic, and that policy gradients find it while greedy policies cannot. The "
        "[lecture on policy gradients](../reinforce_mnist/README.md) says that the stochastic policy makes the "
        "expected return a continuous function of the parameters.",
        "    ./benchmark.sh reinforce_gridworld",
    ]
    if seeds:
        learning_figure(seeds, best, coin, folder / "learning.png")
        header = ["policy", "seeds", "exact value, mean over the starts", "probability of east in 1 and 3"]
        learned = [str(len(seeds)), *(f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}" for x in (
            [seed.final(EXACT) for seed in seeds], [seed.final(EAST) for seed in seeds]))]  # fmt: skip
        cosine = np.mean([np.nanmean(seed[COSINE][seed["update"] <= 100]) for seed in seeds])
        seconds = median(seed.summary["cpu_seconds"] for seed in seeds)
        text += [
            "![learning curves](learning.png)",
            table(header, [["best of the 256 deterministic policies", "exact", f"{best:.3f}", "0 or 1"],
                           ["fair coin there, best actions elsewhere", "exact", f"{coin:.3f}", "0.5"],
                           ["`python algos/reinforce_gridworld.py`, 100,000 steps", *learned]]),
            f"Verdict: the claim holds. Every seed ends above the best deterministic policy and within "
            f"{coin - min(s.final(EXACT) for s in seeds):.3f} of the coin. In the first 100 updates a sampled gradient "
            f"of 32 episodes has a cosine of {cosine:.2f} with the exact one on average. A run takes {seconds} CPU "
            "seconds, the picture included. There is no published number and no peer.",
        ]  # fmt: skip
        value = f"value {np.mean([seed.final(EXACT) for seed in seeds]):.3f} ({len(seeds)} seeds)"
        block = f"{value}; best deterministic policy {best:.3f}, fair coin {coin:.3f}"
        blocks["reinforce_gridworld-number"] = block
    if parameter:
        parameter_figure(parameter[0], folder / "parameter.png")
        text += [
            "## The return as a function of one parameter",
            "`python benchmarks/one_parameter.py`: the return of a deterministic policy jumps or does not change at "
            "all; the expected return of a stochastic one is smooth, so that it has a gradient to follow.",
            "![return over one parameter](parameter.png)",
        ]
    text.append(f"Measured on: {machines([*seeds, *parameter])}.")
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    return blocks
