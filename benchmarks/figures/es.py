"""Figures and tables of algos/es.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    ORANGE,
    PUBLISHED,
    VERMILLION,
    Results,
    curves,
    machines,
    median,
    not_run,
    number,
    read_rows,
    save,
    spread,
    table,
)

TRAINING, SCORE = "charts/episodic_return", "eval/episodic_return"
SPEEDS = ["evotorch/steps_per_cpu_second", "evotorch/length", "es/steps_per_cpu_second", "es/length", "times_faster"]
COLUMNS = ["global_step", TRAINING, SCORE, "charts/SPS", *SPEEDS]
SOLVED = 475.0  # CartPole-v1's reward_threshold
VARIANTS = {
    "defaults": ("the defaults", BLUE),
    "returns": ("returns in place of ranks", ORANGE),
    "raw-obs": ("observations as they are", GREEN),
    "sign": ("sign units", VERMILLION),
}


def steps_text(steps: float) -> str:
    return "never" if math.isinf(steps) else f"{steps:,.0f}"


def first_reached(steps: np.ndarray, scores: np.ndarray, bar: float) -> float:
    reached = scores >= bar
    return float(steps[reached.argmax()]) if reached.any() else math.inf


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Steps to the return that is asked for, by the evaluations; or the medians of the speeds."""
    if SCORE not in columns:
        return {speed: float(np.median(columns[speed])) for speed in SPEEDS if speed in columns}
    bars = {f"es-table3-{row['environment'].lower()}": float(row["return"]) for row in read_rows(PUBLISHED / "es.csv")}
    return {"steps": first_reached(columns["global_step"], columns[SCORE], bars.get(name, SOLVED))}


def steps_of(seed) -> float:
    return float(seed.summary["facts"]["steps"])


def steps_of_mean_curve(seeds, bar: float) -> float:
    """Steps to the bar by the mean of the seeds' curves; a curve keeps its last value after its run."""
    steps = np.unique(np.concatenate([seed["global_step"] for seed in seeds]))
    lines = []
    for seed in seeds:
        known = ~np.isnan(seed[SCORE])
        lines.append(np.interp(steps, seed["global_step"][known], seed[SCORE][known]))
    return first_reached(steps, np.mean(lines, axis=0), bar)


def table3(results: Results, published: list[dict], folder: Path) -> tuple[str, str]:
    """The paper's Table 3 beside ours, and the README's number; draws a panel for each environment."""
    rows, numbers, shown = [], [], [row for row in published if results[f"es-table3-{row['environment'].lower()}"]]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = iter(figure.subplots(1, 3))
    for row in published:
        env, bar, steps = row["environment"], float(row["return"]), float(row["steps"])
        seeds = results[f"es-table3-{env.lower()}"]
        if row not in shown:
            rows.append([env, number(bar), f"{steps:,.0f}", "not run", "not run", "-", "-", "-"])
            continue
        axes = next(panels)
        curves(axes, seeds, "global_step", SCORE, BLUE, "ours, unperturbed policy", scale=1e-6)
        axes.plot(steps * 1e-6, bar, "*", color=VERMILLION, markersize=12, label="Salimans et al. 2017")
        axes.axhline(bar, color=VERMILLION, linestyle=":", linewidth=1)
        axes.set(title=f"{env}-v5", xlabel="million steps", ylabel="return, 10 episodes")
        axes.legend(frameon=False, fontsize=8, loc="center right")
        arrived, mean_curve = [steps_of(seed) for seed in seeds], steps_of_mean_curve(seeds, bar)
        seconds = [seed.summary["cpu_seconds"] for seed in seeds]
        end = f"{spread(seed.final(SCORE) for seed in seeds)} after {seeds[0]['global_step'][-1] / 1e6:.2g} M"
        old = " \\*" if any("--num-actors 1" in seed.summary["command"] for seed in seeds) else ""
        cells = [f"{env}-v5{old}", number(bar), f"{steps:,.0f}", steps_text(mean_curve), median(arrived, steps_text)]
        rows.append([*cells, f"{sum(map(math.isfinite, arrived))} of {len(seeds)}", end, number(np.mean(seconds))])
        numbers.append(f"{env} {mean_curve / 1e6:.2f} M ({steps / 1e6:.2f} M)")
    for axes in panels:
        not_run(axes)
    save(figure, folder / "table3.png")
    header = [
        "environment",
        "return",
        "steps, published mean curve",
        "steps, our mean curve",
        "each seed's first touch",
    ]
    return table([*header, "seeds that arrive", "return at the end", "CPU seconds"], rows), ", ".join(numbers)


def variants(results: Results, folder: Path) -> list[str]:
    """CartPole with and without the additions: a figure and a table."""
    rows, figure = [], Figure(figsize=(11, 3.8), layout="constrained")
    score, training = figure.subplots(1, 2)
    for name, (label, color) in VARIANTS.items():
        seeds = results[f"es-cartpole-{name}"]
        curves(score, seeds, "global_step", SCORE, color, label, scale=1e-3)
        curves(training, seeds, "global_step", TRAINING, color, label, scale=1e-3)
        if seeds:
            late = [np.nanmean(s[SCORE][s["global_step"] > 75_000]) for s in seeds]
            members = [np.nanmean(s[TRAINING][s["global_step"] > 75_000]) for s in seeds]
            steps = median([steps_of(seed) for seed in seeds], steps_text)
            rows.append([label, str(len(seeds)), steps, spread(late), spread(members)])
    if not rows:
        return []
    score.set(title="CartPole-v1: unperturbed policy", xlabel="thousand steps", ylabel="return, 10 episodes")
    training.set(title="CartPole-v1: perturbed policies", xlabel="thousand steps", ylabel="mean return")
    training.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, folder / "variants.png")
    header = [
        "CartPole-v1",
        "seeds",
        f"steps to a return of {SOLVED:g}",
        "return, last 25,000 steps",
        "perturbed policies",
    ]
    return [table(header, rows), "![CartPole, one change at a time](variants.png)"]


def speed(results: Results) -> list[str]:
    rows = []
    for name, label in {"learning": "both learn", "standing": "neither learns"}.items():
        for seed in results[f"evotorch-speed-{name}"]:
            found = seed.summary["facts"]
            rates = [
                f"{number(found[f'{x}/steps_per_cpu_second'])} ({found[f'{x}/length']:.0f})" for x in ("evotorch", "es")
            ]
            rows.append([label, *rates, f"{found['times_faster']:.1f}x"])
    header = ["CartPole-v1, steps per CPU second (steps of an episode)", "evotorch, PGPE on GymNE", "es.py", "faster"]
    return ["## Speed", table(header, rows)] if rows else []


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published = read_rows(PUBLISHED / "es.csv")
    theirs, numbers = table3(results, published, folder)
    text = [
        "# Evolution strategies",
        "[Salimans et al. 2017](https://arxiv.org/abs/1703.03864), Table 3: the environment steps that ES needs to "
        "reach the return of TRPO after 5 million steps. With [es.py](../../algos/es.py):",
        "    ./benchmark.sh es-table3",
        "![Returns over steps](table3.png)",
        theirs,
        f"Published: {published[0]['source'].split(': ')[1]}. Our mean curve is that of the seeds' evaluations, ten "
        "episodes of the unperturbed policy every five updates, whose steps do not count; a seed's first touch is its "
        "first evaluation at the return. The published steps are to be compared with those of the mean curve.",
    ]
    if "\\*" in theirs:
        text.append("\\* made by the file at commit 7b0c269.")
    steps = variants(results, folder)
    text += ["## What the additions do", *steps] if steps else []
    text += speed(results)
    used = [seed for name in results.all for seed in results[name]]
    (folder / "README.md").write_text("\n\n".join([*text, f"Measured on: {machines(used)}."]) + "\n")
    return {"es-number": f"steps: {numbers}"} if numbers else {}
