"""Figures and tables of algos/random_search.py, for benchmarks/plot.py."""

import math
import re

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, pooled

SHARE, FOUND = "charts/share_solved", "eval/episodic_return"
LIMITS = {"random-v0": "200", "random-v1": "500"}
COLUMNS = ["global_step", SHARE, "charts/episodes_per_trial", "charts/steps_per_trial", "charts/SPS"]
COLUMNS += ["mean/200", "mean/200_se", "mean/500", "mean/500_se"]


def trials(seeds: list[Result]) -> int:
    """Number of independent trials of runs, from their commands."""
    found = [re.search(r"--num-runs (\d+)", seed.command) for seed in seeds]
    return sum(int(match[1]) if match else 10_000 for match in found)


def share_within(seeds: list[Result], episodes) -> np.ndarray:
    """Fraction of the trials solved within so many episodes, mean over the seeds."""
    return np.mean([np.interp(episodes, seed["global_step"], seed[SHARE], left=0) for seed in seeds], axis=0)


def episodes_to_solve(seeds: list[Result]) -> tuple[float, float, float]:
    """Of the trials that were solved: the mean, its standard error, and the median."""
    k = np.arange(1, 2001)
    within = share_within(seeds, k)
    share = np.diff(within, prepend=0) / within[-1]
    mean = share @ k
    error = math.sqrt((share @ (k - mean) ** 2) / (trials(seeds) * within[-1]))
    return mean, error, k[within.searchsorted(within[-1] / 2)]


def with_error(mean: float, error: float, *_) -> str:
    return f"{mean:.2f} ± {error:.2f}"


def cpu_per_trial(seeds: list[Result]) -> str:
    return f"{1000 * sum(seed.cpu for seed in seeds) / trials(seeds):.2f}"


def draw(results: Results, folder) -> dict[str, str]:
    ours = {limit: results[name] for name, limit in LIMITS.items()}
    published = {row["quantity"].split()[1]: row for row in plot.published("search", method="random search")}

    with plot.figure(folder / "distribution.png", columns=2, size=(10.4, 3.8)) as panels:
        for axes, (steps, seeds) in zip(panels, ours.items(), strict=True):
            expected = episodes_to_solve(seeds)[0]
            k = np.unique(np.geomspace(1, 7 * expected, 60).round())
            axes.plot(k, 1 - share_within(seeds, k), "o", markersize=4, label=f"{trials(seeds):,} trials")
            axes.plot(k, (1 - 1 / expected) ** k, label=f"geometric distribution, mean {expected:.2f}")
            axes.set(title=f"CartPole, {steps} steps", xlabel="episodes", yscale="log")
            axes.set_ylabel("fraction not solved yet")
    columns = {
        "trials": lambda seeds: f"{trials(seeds):,}",
        "episodes until solved": lambda seeds: f"**{with_error(*episodes_to_solve(seeds))}**",
        "reference": lambda seeds: "{value} ± {error}".format(**published[LIMITS[seeds[0].name]]),
        "independent simulation": lambda seeds: with_error(
            *pooled(results["random-weights"], f"mean/{LIMITS[seeds[0].name]}")
        ),
        "return in new episodes": lambda seeds: f"{plot.mean(seed.final(FOUND) for seed in seeds):.0f}",
        "CPU ms per trial": cpu_per_trial,
    }
    found = with_error(*episodes_to_solve(ours["200"]))
    return {
        "table": plot.beside("time limit", ours, columns),
        "references": "; ".join(f"{steps} steps, {row['source']}" for steps, row in published.items()),
        "number": f"{found} episodes on CartPole-v0 (the post: 13.53 ± 0.41)",
    }
