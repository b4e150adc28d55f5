"""Figures and the page of algos/random_search.py, for benchmarks/plot.py."""

import math
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, PUBLISHED, VERMILLION, Result, Results, machines, read_rows, save, table

SHARE, MEAN, MEDIAN = "charts/share_solved", "charts/episodes_to_solve", "charts/episodes_to_solve_median"
STEPS, FOUND = "charts/steps_per_trial", "eval/episodic_return"
REFERENCE = ["mean/200", "mean/200_se", "mean/500", "mean/500_se"]
COLUMNS = ["global_step", SHARE, MEAN, f"{MEAN}_se", MEDIAN, STEPS, FOUND, "charts/SPS", *REFERENCE]
LIMITS = {"random-v0": 200, "random-v1": 500}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def trials(result: Result) -> int:
    """Number of independent trials of a run, from its command."""
    command = result.summary["command"]
    found = re.search(r"--num-runs (\d+)", command)
    return int(found[1]) if found else 60 if "wide_cartpole" in command else 10_000


def pooled(seeds: list[Result], column: str) -> tuple[float, float]:
    """Mean over the trials of all seeds, which have the same number of them, and its standard error."""
    error = math.hypot(*(seed.final(f"{column}_se") for seed in seeds)) / len(seeds)
    return float(np.mean([seed.final(column) for seed in seeds])), error


def share_within(seeds: list[Result], episodes) -> np.ndarray:
    """Fraction of the trials solved within so many episodes, mean over the seeds."""
    # csv files from before the scripts were rewritten have the episodes in a column of their own
    columns = ["charts/episode" if "charts/episode" in seed.columns else "global_step" for seed in seeds]
    inside = [np.interp(episodes, seed[x], seed[SHARE], left=0) for seed, x in zip(seeds, columns, strict=True)]
    return np.mean(inside, axis=0)


def distribution_figure(results: Results, path: Path):
    """The fraction that is not solved yet, over episodes, beside the geometric distribution."""
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    for axes, (name, limit) in zip(figure.subplots(1, 2), LIMITS.items(), strict=True):
        seeds = results[name]
        if not seeds:
            continue
        mean, _ = pooled(seeds, MEAN)
        k = np.unique(np.geomspace(1, 7 * mean, 60).round())
        axes.plot(k, 1 - share_within(seeds, k), "o", color=BLUE, markersize=4,
                  label=f"{sum(map(trials, seeds)):,} trials")  # fmt: skip
        axes.plot(k, (1 - 1 / mean) ** k, color=VERMILLION, label=f"geometric distribution, mean {mean:.2f}")
        axes.set(title=f"CartPole, {limit} steps", xlabel="episodes", ylabel="fraction not solved yet", yscale="log")
        axes.legend(frameon=False)
    save(figure, path)


def reference(results: Results, limit: int) -> tuple[float, float] | None:
    """Mean number of episodes by the independent simulation, and its standard error."""
    seeds = results["random-weights"]
    return pooled(seeds, f"mean/{limit}") if seeds else None


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    published = [row for row in read_rows(PUBLISHED / "search.csv") if row["method"] == "random search"]
    rows, used, blocks = [], [], {}
    for name, limit in LIMITS.items():
        seeds, expected = results[name], reference(results, limit)
        if seeds:
            (mean, error), total = pooled(seeds, MEAN), sum(map(trials, seeds))
            theirs = [f"{row['value']} ± {row['error']}" for row in published if row["quantity"] == f"mean {limit}"]
            cpu = sum(seed.summary["cpu_seconds"] for seed in seeds) / total * 1000
            means = [np.mean([seed.final(column) for seed in seeds]) for column in (MEDIAN, STEPS, FOUND)]
            rows.append([f"{limit}", f"{total:,}", f"**{mean:.2f} ± {error:.2f}**", *theirs])
            rows[-1] += [f"{expected[0]:.2f} ± {expected[1]:.2f}" if expected else "-"]
            rows[-1] += [f"{means[0]:.1f}", f"{means[1]:,.0f}", f"{means[2]:.0f}", f"{cpu:.2f}"]
            if limit == 200:
                blocks["random-number"] = f"{mean:.2f} ± {error:.2f} episodes on CartPole-v0 (the post: 13.53 ± 0.41)"
        used += seeds
    if not used:
        return {}
    distribution_figure(results, folder / "distribution.png")
    header = ["time limit", "trials", "episodes until solved", "reference", "independent simulation", "median",
              "steps per trial", "return of the weights found", "CPU ms per trial"]  # fmt: skip
    text = [
        "# Random search",
        "The [post](http://kvfrans.com/simple-algoritms-for-solving-cartpole/) (Kevin Frans 2016) draws the four "
        "weights of a linear policy until an episode of CartPole-v0 lasts 200 steps, and took 13.53 episodes on "
        "average of 1,000 trials. The number of episodes has a geometric distribution, so the standard error of that "
        "average is 0.41.",
        "    ./benchmark.sh random_search",
        "![episodes until solved](distribution.png)",
        table(header, rows),
        "Reference: " + "; ".join(f"{row['quantity'].split()[1]} steps, {row['source']}" for row in published) + ". "
        "The independent simulation (`benchmarks/random_weights.py`) plays an episode of each of a million random "
        "weight vectors a seed; one over the fraction that solves the task is the mean of the geometric distribution.",
        "Verdict: the post's number is reproduced, and the distribution is geometric, as it must be when nothing is "
        "learned from a failure. For 500 steps the reference, another program's, is lower than ours and than that "
        "of the simulation here, by one to two standard errors. One solved episode does not make a good policy: "
        "in new episodes the weights found do not reach the limit on average.",
        f"Errors are standard errors over independent trials. Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    return blocks
