"""Figures and tables of algos/hill_climbing.py beside random search and a policy gradient, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.figures import random_search
from benchmarks.figures.random_search import FOUND, STEPS, cpu_per_trial, episodes_to_solve, share_within, trials
from benchmarks.plot import Result, Results, number

RETURN = "charts/episodic_return"
PLATEAU = ["plateau/weight", "plateau/value", "plateau/start", "plateau/share_unsolved", "plateau/share_fallen"]
COLUMNS = [*random_search.COLUMNS, RETURN, f"{RETURN}_se", *PLATEAU]
METHODS = {  # row: what it is called, line style
    "random-v0": ("random search", "-"),
    "hill-plain": ("hill climbing, noise 0.1 (the post's)", "-"),
    "hill-growth-0.01": ("noise grows by 0.01 per failure", "-"),
    "hill-growth-0.1": ("noise grows by 0.1 per failure", "--"),
    "hill-episodes-5": ("5 episodes per update", "-"),
    "hill-noise-0.3": ("noise 0.3", "--"),
    "hill-noise-3": ("noise 3", "-"),
    "hill-gradient": ("policy gradient (the post's)", "-"),
}
WIDE = {
    "random": ("random search", "random-v0"),
    "growth": ("hill climbing, growing noise", "hill-growth-0.01"),
    "gradient": ("policy gradient", "hill-gradient"),
}
INPUTS, LIMIT = [4, 16, 64, 256], 1000
LIMITS = [20, 50, 100, 200, 500, 1000, 2000]
OBSERVATIONS = ["position", "velocity", "angle", "angular velocity"]


def percent(share: float, error: float | None = None) -> str:
    return f"{100 * share:.1f}" + (f" ± {100 * error:.1f} %" if error else " %")


def error_of(share: float, seeds: list[Result]) -> float:
    return math.sqrt(share * (1 - share) / trials(seeds))


def within(episodes: int):
    """A column: the fraction of the trials solved within so many episodes, and its standard error."""

    def cell(seeds: list[Result]) -> str:
        share = float(share_within(seeds, episodes))
        return percent(share, error_of(share, seeds))

    return cell


def median_of_all(seeds: list[Result]) -> str:
    """The median over all trials, "never" if half of them are not solved."""
    k = np.arange(1, LIMIT + 1)
    return number(plot.first_reached({"k": k, "share": share_within(seeds, k)}, "share", 0.5, "k"))


def plain(seeds: list[Result]) -> dict[str, str]:
    """The post's loop beside an independent measurement, and what becomes of its 7.43."""
    theirs = {row["quantity"]: row for row in plot.published("search", method="hill climbing")}
    reference, columns = theirs["not solved by 2000"], {f"{k:,}": within(k) for k in LIMITS}
    mean, error, median = episodes_to_solve(seeds)
    columns |= {
        "mean of the solved": lambda seeds: f"{mean:.0f} ± {error:.0f}",
        "median": lambda seeds: f"{median}",
    }
    last = [f"{100 * float(theirs[f'solved by {k}']['value']):g} %" for k in LIMITS]
    last += [theirs[f"{what} of the solved by 2000"]["value"] for what in ("mean", "median")]
    solved = float(share_within(seeds, 2000))
    ours = {f"`algos/hill_climbing.py`, {trials(seeds):,} trials": seeds}
    return {
        "plain": plot.beside("solved within", ours, columns, [[theirs["solved by 20"]["source"], *last]]),
        "stuck": percent(1 - solved, error_of(solved, seeds)),
        "reference": f"{reference['source']}: {percent(float(reference['value']), float(reference['error']))}",
        "mean": f"{mean:.0f} ± {error:.0f}",
        "quotient": f"{100 * solved * mean / 1000:.1f}",
    }


def plateau_figure(result: Result, path: Path):
    with plot.figure(path, columns=4, size=(11, 3.2), sharey=True) as panels:
        for j, axes in enumerate(panels):
            mine = result["plateau/weight"] == j
            value, mean, error = (result[column][mine] for column in ("plateau/value", RETURN, f"{RETURN}_se"))
            start = result["plateau/start"][mine][0]
            axes.axvspan(start - 0.1, start + 0.1, color=plot.SKY, alpha=0.5, label="candidates with noise 0.1")
            axes.fill_between(value, mean - error, mean + error, color=plot.BLUE, alpha=0.3, linewidth=0)
            axes.plot(value, mean, color=plot.BLUE)
            axes.axvline(start, color=plot.VERMILLION, label="a trial that is stuck")
            axes.axhline(200, color=plot.GREY, linestyle=":")
            axes.set(xlabel=f"weight of the {OBSERVATIONS[j]}", ylabel="return" if j == 0 else "")
        panels[0].legend(loc="center right")
        axes.figure.suptitle(
            "The return over one weight, the other three fixed: mean and standard error of 20 episodes"
        )


def wide(results: Results, four: dict[str, list[Result]]) -> str:
    """The fraction solved and the median over the number of observations."""
    rows = []
    for method, (label, name) in WIDE.items():
        runs = [four[name], *(results[f"hill-wide-{method}-{n}"] for n in INPUTS[1:])]
        medians = [median_of_all(seeds).replace("never", "more than 1,000") for seeds in runs]
        shares = [f"{100 * float(share_within(seeds, LIMIT)):.0f} %" for seeds in runs]
        rows.append([label, *map(", ".join, zip(shares, medians, strict=True))])
    return plot.table(["solved within 1,000, median of all", *(f"{n} observations" for n in INPUTS)], rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    random = Results(folder.parent / "random_search")
    runs = {name: (random if name == "random-v0" else results)[name] for name in METHODS}
    with plot.figure(folder / "methods.png", size=(9, 5)) as (axes,):
        k = np.unique(np.geomspace(1, LIMIT, 200).round())
        for name, seeds in runs.items():
            label, style = METHODS[name]
            axes.plot(k, share_within(seeds, k), linestyle=style, label=label)
        axes.set(
            xscale="log", xlim=(1, LIMIT), ylim=(0, 1.02), xlabel="episodes", ylabel="fraction of the trials solved"
        )
        axes.set_title("CartPole-v0: trials with an episode of 200 steps")
    columns = {
        "trials": lambda seeds: f"{trials(seeds):,}",
        **{f"solved within {k:,} episodes": within(k) for k in (10, 100, LIMIT)},
        "median episodes of all trials": median_of_all,
        "return in new episodes": lambda seeds: number(plot.mean(seed.final(FOUND) for seed in seeds)),
        "steps per trial": lambda seeds: f"{plot.mean(seed.final(STEPS) for seed in seeds):,.0f}",
        "CPU ms per trial": cpu_per_trial,
    }
    (plateau,) = results["hill-plateau"]
    plateau_figure(plateau, folder / "plateau.png")
    freed = 1 - float(share_within(runs["hill-growth-0.1"], LIMIT))
    blocks = plain(runs["hill-plain"])
    return blocks | {
        "methods": plot.beside("CartPole-v0", {METHODS[name][0]: seeds for name, seeds in runs.items()}, columns),
        "unsolved": f"{100 * plateau['plateau/share_unsolved'][-1]:.0f} %",
        "fallen": f"{100 * plateau['plateau/share_fallen'][-1]:.0f} %",
        "wide": wide(results, runs),
        "number": f"{blocks['stuck']} stuck after 2,000 episodes (the post: more than half); {100 * freed:.0f} % with "
        "growing noise",
    }
