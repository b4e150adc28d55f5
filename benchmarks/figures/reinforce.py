"""Figures and tables of algos/reinforce.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from algos.reinforce import best_deterministic, gridworld_values
from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    PUBLISHED,
    VERMILLION,
    Results,
    curves,
    machines,
    median,
    not_run,
    read_rows,
    save,
    spread,
    table,
)

RETURN, RUNNING, EPISODES = "charts/episodic_return_100", "charts/running_return", "charts/episodes"
EXACT, EAST, EVALUATION = "eval/exact_return", "eval/east_where_alike", "eval/episodic_return"
PARAMETER = ["charts/weight", "eval/deterministic", "eval/stochastic", "eval/stochastic_error", "charts/preference"]
PARAMETER += ["eval/gridworld_deterministic", "eval/gridworld_stochastic"]
COLUMNS = ["global_step", EPISODES, RETURN, RUNNING, "charts/SPS", EXACT, EAST, "time/elapsed", EVALUATION, *PARAMETER]
CREDITS = {"return": "all rewards of the episode", "togo": "rewards that came after"}
BASELINES = {"none": VERMILLION, "mean": GREEN, "value": BLUE}
BAR, GAMMA = 475, 0.9


def first(reached: np.ndarray, column: np.ndarray) -> float:
    """The column where something was first reached, infinite where it never was."""
    return float(column[reached.argmax()]) if reached.any() else math.inf


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    if RUNNING not in columns or EXACT in columns:
        return {}
    hundred = (columns[RETURN] >= BAR) & (columns[EPISODES] >= 100)
    return {
        "steps_to_475": first(hundred, columns["global_step"]),
        "episodes_to_475": first(hundred, columns[EPISODES]),
        "episodes_running": first(columns[RUNNING] > BAR, columns[EPISODES]),
    }


def combinations_figure(results: Results, path: Path, panel: str | None = None):
    """Learning curves of the six combinations; of one credit alone for the thumbnail."""
    shown = [panel] if panel else list(CREDITS)
    figure = Figure(figsize=(5 * len(shown), 3.8), layout="constrained")
    for axes, credit in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown, strict=True):
        for baseline, color in BASELINES.items():
            curves(axes, results[f"reinforce-{credit}-{baseline}"], "global_step", RETURN, color, baseline, scale=1e-3)
        axes.axhline(BAR, color=GREY, linestyle=":")
        axes.set(title=f"credit: {CREDITS[credit]}", xlabel="thousand steps", ylabel="return, last 100 episodes")
        if axes.lines[1:]:
            axes.legend(frameon=False, fontsize=8, title="baseline")
        else:
            not_run(axes)
    save(figure, path)


def parameter_figure(result, path: Path):
    """The lecture's picture: return over one parameter, deterministic and stochastic."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    cartpole, grid = figure.subplots(1, 2)
    weight, preference = result["charts/weight"], result["charts/preference"]
    mean, error = result["eval/stochastic"], result["eval/stochastic_error"]
    cartpole.plot(weight, result["eval/deterministic"], color=VERMILLION, label="deterministic", linewidth=1)
    cartpole.plot(weight, mean, color=BLUE, label="stochastic, in the mean")
    cartpole.fill_between(weight, mean - 2 * error, mean + 2 * error, color=BLUE, alpha=0.2, linewidth=0)
    cartpole.set(title="CartPole-v1, one start", xlabel="weight of the pole's angle", ylabel="return")
    # a line would be drawn through the jump: two pieces
    for piece in (preference <= 0, preference > 0):
        label = "deterministic" if piece[0] else None
        grid.plot(preference[piece], result["eval/gridworld_deterministic"][piece], color=VERMILLION, label=label)
    grid.plot(preference, result["eval/gridworld_stochastic"], color=BLUE, label="stochastic")
    grid.set(title="two cells that look alike (exact)", xlabel="preference for east there", ylabel="value")
    for axes in (cartpole, grid):
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
    save(figure, path)


def exact_values() -> tuple[float, float]:
    """The best deterministic policy's value in the gridworld, and that of a coin where two cells look alike."""
    coin = best_deterministic(GAMMA)
    coin[0], coin[2], coin[4] = np.eye(4)[1], np.eye(4)[2], np.eye(4)[3]
    coin[[1, 3]] = [0, 0.5, 0, 0.5]
    return float(gridworld_values(best_deterministic(GAMMA), GAMMA).mean()), float(gridworld_values(coin, GAMMA).mean())


def gridworld_figure(seeds: list, path: Path):
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    value, east = figure.subplots(1, 2)
    best, coin = exact_values()
    curves(value, seeds, "global_step", EXACT, BLUE, "learned, exact value", scale=1e-3)
    value.axhline(best, color=VERMILLION, linestyle="--", label=f"best deterministic policy: {best:.3f}")
    value.axhline(coin, color=GREEN, linestyle="--", label=f"a coin where cells look alike: {coin:.3f}")
    value.set(title="aliased gridworld", xlabel="thousand steps", ylabel="mean value of a start")
    curves(east, seeds, "global_step", EAST, BLUE, scale=1e-3)
    east.axhline(0.5, color=GREEN, linestyle="--", label="a coin")
    east.set(title="where two cells look alike", xlabel="thousand steps", ylabel="probability of east", ylim=(0, 1))
    for axes in (value, east):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    peer, blocks, rows, text = read_rows(PUBLISHED / "reinforce.csv")[0], {}, [], ["# REINFORCE"]
    for credit, label in CREDITS.items():
        for baseline in BASELINES:
            if seeds := results[f"reinforce-{credit}-{baseline}"]:
                known = [seed.summary["facts"] for seed in seeds]
                solved = sum(math.isfinite(fact["steps_to_475"]) for fact in known)
                rows.append([label, baseline, f"{solved} of {len(seeds)}",
                             median(fact["steps_to_475"] for fact in known),
                             median(fact["episodes_to_475"] for fact in known),
                             median(fact["episodes_running"] for fact in known),
                             spread(seed.final(RETURN) for seed in seeds)])  # fmt: skip
                if (credit, baseline) == ("togo", "value"):
                    steps, episodes = (
                        median(fact[key] for fact in known) for key in ("steps_to_475", "episodes_running")
                    )
                    blocks["reinforce-number"] = (
                        f"475 on CartPole-v1 in {solved} of {len(seeds)} seeds, after {steps} steps; "
                        f"{episodes} episodes by pytorch/examples' criterion (theirs: {peer['value']})"
                    )
    if rows:
        combinations_figure(results, folder / "combinations.png")
        combinations_figure(results, folder / "thumbnail.png", "togo")
        header = ["an action answers for", "baseline", "reached 475", "steps", "episodes", "episodes, moving average",
                  "return at the end"]  # fmt: skip
        blocks["reinforce-results"] = table(header, rows, left=2)
        text += [
            "CartPole-v1 with its 200,000 steps. 475 is the mean of the last 100 training episodes; medians (least to "
            f"greatest) over the seeds. Moving average: {peer['source']} after {peer['value']} episodes.",
            blocks["reinforce-results"],
            "![six combinations](combinations.png)",
        ]
    if parameter := results["reinforce-parameter"]:
        parameter_figure(parameter[0], folder / "parameter.png")
        text += ["## The return over one parameter",
                 "The return of a deterministic policy jumps, or does not move at all; the mean return of one that "
                 "acts at random is smooth.", "![return over one parameter](parameter.png)"]  # fmt: skip
    if seeds := results["reinforce-gridworld"]:
        gridworld_figure(seeds, folder / "gridworld.png")
        best, coin = exact_values()
        learned, east = (" ".join(f"{seed.final(column):.3f}" for seed in seeds) for column in (EXACT, EAST))
        header = ["policy", "exact value, mean over the starts", "probability of east where cells look alike"]
        text += ["## Two cells that look alike",
                 table(header, [["best of the 256 deterministic ones", f"{best:.3f}", "0 or 1"],
                                ["a coin there, the best moves elsewhere", f"{coin:.3f}", "0.500"],
                                ["learned, seed by seed", learned, east]]),
                 "![aliased gridworld](gridworld.png)"]  # fmt: skip
    used = [seed for name in results.all for seed in results[name]]
    (folder / "README.md").write_text("\n\n".join([*text, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
