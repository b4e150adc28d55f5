"""Figures and tables of algos/random_search.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, PUBLISHED, VERMILLION, Result, Results, machines, number, read_rows, save, table

EPISODE, SHARE, MEAN, MEDIAN = (
    "charts/episode",
    "charts/share_solved",
    "charts/episodes_to_solve",
    "charts/episodes_to_solve_median",
)
RETURN, FOUND = "charts/episodic_return", "eval/episodic_return_solved"
COLUMNS = ["global_step", EPISODE, SHARE, RETURN, f"{RETURN}_se", MEAN, f"{MEAN}_se", MEDIAN, FOUND]
COLUMNS += ["eval/episodic_return", "time/elapsed", "time/cpu"]
TRIALS = 1000  # of a seed
LIMITS = {"random-v0": 200, "random-v1": 500}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def pooled(seeds: list[Result]) -> tuple[float, float]:
    """Mean episodes until solved over all trials of all seeds, and its standard error."""
    errors = [seed.final(f"{MEAN}_se") for seed in seeds]
    return float(np.mean([seed.final(MEAN) for seed in seeds])), math.hypot(*errors) / len(seeds)


def solved_after(result: Result, trials: int) -> np.ndarray:
    """Episodes that each solved trial took; in the middle between two rows of the metrics that are further apart."""
    counts = np.diff(result[SHARE] * trials, prepend=0).round().astype(int)
    return np.repeat((result[EPISODE] + np.append(0, result[EPISODE][:-1]) + 1) / 2, counts)


def histogram_figure(results: Results, path: Path):
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, limit) in zip(figure.subplots(1, 2), LIMITS.items(), strict=True):
        seeds = results[name]
        if not seeds:
            continue
        mean, _ = pooled(seeds)
        episodes = np.concatenate([solved_after(seed, TRIALS) for seed in seeds])
        width = round(limit / 50)
        edges = np.arange(0, 6 * mean, width) + 0.5
        axes.hist(episodes, bins=edges, color=BLUE, label=f"{len(episodes):,} trials")
        k = (edges[:-1] + edges[1:]) / 2
        law = len(episodes) * ((1 - 1 / mean) ** (edges[:-1] - 0.5) - (1 - 1 / mean) ** (edges[1:] - 0.5))
        axes.plot(k, law, color=VERMILLION, label=f"geometric law, mean {mean:.2f}")
        axes.set(title=f"Random search, {limit} steps to stand", xlabel="episodes until solved", ylabel="trials")
        axes.legend(frameon=False)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published = {
        row["quantity"]: row for row in read_rows(PUBLISHED / "search.csv") if row["method"] == "random search"
    }
    rows, used = [], []
    for name, limit in LIMITS.items():
        seeds, theirs = results[name], float(published[f"mean {limit}"]["value"])
        for seed in seeds:
            mean, error = seed.final(MEAN), seed.final(f"{MEAN}_se")
            middle, steps = number(seed.final(MEDIAN)), f"{seed.final('global_step') / TRIALS:,.0f}"
            seconds, score = number(seed.final("time/cpu")), number(seed.final(FOUND))
            found = [f"{mean:.2f} ± {error:.2f}", middle, steps, score, seconds, "-"]
            rows.append([f"{limit} steps, seed {seed.seed}", *found])
        if seeds:
            mean, error = pooled(seeds)
            apart = f"{theirs} ({(mean - theirs) / error:+.1f} standard errors)"
            rows.append([f"**{limit} steps, all**", f"**{mean:.2f} ± {error:.2f}**", *["-"] * 4, apart])
        used += seeds
    if not used:
        return {}
    histogram_figure(results, folder / "histogram.png")
    header = [
        "CartPole-v1 cut off after",
        "episodes until solved",
        "median",
        "steps a trial",
        "return of the weights found",
    ]
    law = "The number of episodes follows the geometric law, as it must when nothing is learned from a failure."
    for name, limit in LIMITS.items():
        for share in results[name.replace("random", "random-share")]:
            p, error = share.final(SHARE), share.final(f"{SHARE}_se")
            law += (
                f" Of 40,000 other weights {100 * p:.2f} ± {100 * error:.2f} % solve {limit} steps, which makes "
                f"{1 / p:.2f} ± {error / p**2:.2f} episodes."
            )
    acrobot = results["random-acrobot"]
    used += acrobot
    more = [
        f"Acrobot-v1, three actions and six observations, so 18 weights, solved by an episode of -100: "
        f"{100 * seed.final(SHARE):.0f} % of 20 trials within 60 episodes, {seed.final(MEAN):.1f} ± "
        f"{seed.final(f'{MEAN}_se'):.1f} in the mean of those; their weights come to {seed.final(FOUND):.0f} in new "
        "episodes. A larger task need not be harder to search: many weights will do."
        for seed in acrobot
    ]
    text = [
        "# Random search",
        "1,000 independent trials a seed. Mean episodes until the first that stands to the end, ± its standard error; "
        "the mean return of the weights found in 20 new episodes; CPU seconds of the 1,000 trials on one core of a "
        "busy machine, without imports and pictures.",
        table([*header, "CPU s", "published or expected"], rows),
        law,
        "![histogram](histogram.png)",
        "; ".join(f"{key.split()[1]} steps: {row['source']}" for key, row in published.items())
        + ". Standard errors are ours alone: what is published and expected comes from samples, too.",
        *more,
        f"Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    if not results["random-v0"]:
        return {}
    mean, error = pooled(results["random-v0"])
    return {"random-number": f"{mean:.2f} ± {error:.2f} episodes on CartPole-v0 (the post: 13.53)"}
