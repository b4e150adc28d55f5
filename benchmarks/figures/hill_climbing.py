"""Figures and tables of algos/hill_climbing.py beside random search and a policy gradient, for benchmarks/plot.py."""

import math

import numpy as np

from benchmarks import plot
from benchmarks.figures import random_search
from benchmarks.figures.random_search import FOUND, cpu_per_trial, episodes_to_solve, share_within, trials
from benchmarks.plot import Result, Results

RETURN = "charts/episodic_return"
PLATEAU = ["plateau/weight", "plateau/value", "plateau/start", "plateau/share_unsolved", "plateau/share_fallen"]
COLUMNS = [*random_search.COLUMNS, RETURN, f"{RETURN}_se", *PLATEAU]
METHODS = {
    "random-v0": "random search",
    "hill-plain": "hill climbing, noise 0.1 (the post's)",
    "hill-growth-0.01": "noise grows by 0.01 per failure",
    "hill-growth-0.1": "noise grows by 0.1 per failure",
    "hill-episodes-5": "5 episodes per update",
    "hill-noise-0.3": "noise 0.3",
    "hill-noise-3": "noise 3",
    "hill-gradient": "policy gradient (the post's)",
}
WIDE = {
    "random": ("random search", "random-v0"),
    "growth": ("hill climbing, growing noise", "hill-growth-0.01"),
    "gradient": ("policy gradient", "hill-gradient"),
}
EPISODES = np.arange(1, 1001)


def percent(share: float, seeds: list[Result]) -> str:
    """A fraction of the trials and its standard error."""
    error = math.sqrt(share * (1 - share) / trials(seeds))
    return f"{100 * share:.1f}" + (f" ± {100 * error:.1f} %" if error else " %")


def within(episodes: int):
    """A column: the fraction of the trials solved within so many episodes."""
    return lambda seeds: percent(float(share_within(seeds, episodes)), seeds)


def median_of_all(seeds: list[Result]) -> str:
    """The median over all trials, if half of them are solved."""
    reached = np.flatnonzero(share_within(seeds, EPISODES) >= 0.5)
    return str(EPISODES[reached[0]]) if len(reached) else "more than 1,000"


def draw(results: Results, folder) -> dict[str, str]:
    random = Results(folder.parent / "random_search")
    runs = {name: (random if name == "random-v0" else results)[name] for name in METHODS}
    with plot.figure(folder / "methods.png", size=(9, 5)) as (axes,):
        for name, seeds in runs.items():
            axes.plot(EPISODES, share_within(seeds, EPISODES), label=METHODS[name])
        axes.set(xscale="log", xlim=(1, 1000), ylim=(0, 1.02), xlabel="episodes", ylabel="fraction of trials solved")
        axes.set_title("CartPole-v0: trials with an episode of 200 steps")
    columns = {
        "trials": lambda seeds: f"{trials(seeds):,}",
        "solved within 10 episodes": within(10),
        "within 100": within(100),
        "within 1,000": within(1000),
        "median episodes of all trials": median_of_all,
        "return in new episodes": lambda seeds: plot.number(plot.mean(seed.final(FOUND) for seed in seeds)),
        "CPU ms per trial": cpu_per_trial,
    }
    rows = []
    for method, (label, name) in WIDE.items():
        shown = [runs[name], *(results[f"hill-wide-{method}-{n}"] for n in (16, 64, 256))]
        cells = [f"{100 * share_within(seeds, 1000):.0f} %, {median_of_all(seeds)}" for seeds in shown]
        rows.append([label, *cells])
    header = ["4 observations", "16 observations", "64 observations", "256 observations"]
    seeds, (plateau,) = runs["hill-plain"], results["hill-plateau"]
    (reference,) = plot.published("search", method="hill climbing", quantity="not solved by 2000")
    theirs, their_error = (100 * float(reference[key]) for key in ("value", "error"))
    solved, (mean, error, median) = float(share_within(seeds, 2000)), episodes_to_solve(seeds)
    stuck = percent(1 - solved, seeds)
    freed = 1 - float(share_within(runs["hill-growth-0.1"], 1000))
    return {
        "stuck": stuck,
        "reference": f"{reference['source']}: {theirs:.1f} ± {their_error:.1f} %",
        "mean": f"{mean:.0f} ± {error:.0f}",
        "median": f"{median}",
        "quotient": f"{100 * solved * mean / 1000:.1f}",
        "methods": plot.beside("CartPole-v0", {METHODS[name]: seeds for name, seeds in runs.items()}, columns),
        "unsolved": f"{100 * plateau['plateau/share_unsolved'][-1]:.0f} %",
        "fallen": f"{100 * plateau['plateau/share_fallen'][-1]:.0f} %",
        "wide": plot.table(["solved within 1,000, median of all", *header], rows),
        "number": f"{stuck} stuck after 2,000 episodes (the post: more than half); {100 * freed:.0f} % with growing "
        "noise",
    }
