"""Figures and tables of algos/es.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    SKY,
    VERMILLION,
    Results,
    curves,
    machines,
    median,
    not_run,
    number,
    read_rows,
    save,
    sorted_median,
    spread,
    table,
)

TRAINING, SCORE = "charts/episodic_return", "eval/episodic_return"
SPEEDS = ["raw/steps_per_cpu_second", "es/steps_per_cpu_second", "share_of_cpu"]
SPEEDS += ["raw/all_cores_SPS", "es/all_cores_SPS", "share_on_all_cores", "cores"]
SPEEDS += ["evotorch/steps_per_cpu_second", "evotorch/length", "es/length", "times_faster"]
COLUMNS = ["global_step", TRAINING, SCORE, "charts/SPS", "time/elapsed", *SPEEDS]
SOLVED = 475.0  # CartPole-v1's reward_threshold
VARIANTS = {
    "algorithm1": ("algorithm 1", GREY),
    "antithetic": ("+ antithetic pairs", SKY),
    "ranks": ("+ centered ranks", ORANGE),
    "adam": ("+ Adam", GREEN),
    "decay": ("+ weight decay", PURPLE),
    "all": ("+ normalized observations (the defaults)", BLUE),
    "sign": ("the defaults with sign units", VERMILLION),
}


def asked(name: str, published: list[dict]) -> float:
    """The return that a row of the benchmark is to reach."""
    returns = {f"es-table3-{row['environment'].lower()}": float(row["return"]) for row in published}
    return returns.get(name, SOLVED)


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Steps to the return that is asked for, by the unperturbed policy's score; or the medians of the speeds."""
    if SCORE not in columns:
        return {speed: float(np.median(columns[speed])) for speed in SPEEDS if speed in columns}
    reached = columns[SCORE] >= asked(name, read_rows(PUBLISHED / "es.csv"))
    return {"steps": float(columns["global_step"][reached.argmax()]) if reached.any() else math.inf}


def steps_of(seed) -> float:
    return float(seed.summary["facts"]["steps"])


def table3(results: Results, published: list[dict], folder: Path) -> list[str]:
    """The paper's Table 3 beside ours: a table, and a panel each."""
    rows, figure = [], Figure(figsize=(12, 3.8), layout="constrained")
    for axes, row in zip(figure.subplots(1, 3), published, strict=True):
        env, bar, steps = row["environment"], float(row["return"]), float(row["steps"])
        seeds = results[f"es-table3-{env.lower()}"]
        curves(axes, seeds, "global_step", SCORE, BLUE, "ours, unperturbed policy", scale=1e-6)
        axes.plot(steps * 1e-6, bar, "*", color=VERMILLION, markersize=12, label="Salimans et al. 2017")
        axes.axhline(bar, color=VERMILLION, linestyle=":", linewidth=1)
        axes.set(title=f"{env}-v5", xlabel="million steps", ylabel="return, 10 episodes")
        axes.legend(frameon=False, fontsize=8, loc="center right")
        if not seeds:
            not_run(axes)
            continue
        arrived = [steps_of(seed) for seed in seeds]
        ratio = steps / sorted_median(arrived)
        rows.append(
            [
                f"{env}-v5",
                number(bar),
                f"{steps:,.0f}",
                median(arrived, lambda x: "never" if math.isinf(x) else f"{x:,.0f}"),
                f"{sum(map(math.isfinite, arrived))} of {len(seeds)}",
                f"{ratio:.1f}x" if ratio else "-",
                f"{spread(seed.final(SCORE) for seed in seeds)} after {seeds[0]['global_step'][-1] / 1e6:.2g} M",
            ]
        )
    save(figure, folder / "table3.png")
    header = ["environment", "return", "steps, Salimans et al. 2017", "steps, ours", "seeds that arrive"]
    return [table([*header, "fewer steps", "score at the end"], rows)] if rows else []


def variants(results: Results, folder: Path) -> list[str]:
    """CartPole from algorithm 1 alone to everything: a table and a figure."""
    rows, figure = [], Figure(figsize=(11, 3.8), layout="constrained")
    score, training = figure.subplots(1, 2)
    for name, (label, color) in VARIANTS.items():
        seeds = results[f"es-steps-{name}"]
        curves(score, seeds, "global_step", SCORE, color, label, scale=1e-6)
        curves(training, seeds, "global_step", TRAINING, color, label, scale=1e-6)
        if seeds:
            arrived = [steps_of(seed) for seed in seeds]
            late = [np.nanmean(s[SCORE][s["global_step"] > 100_000]) for s in seeds]
            members = [np.nanmean(s[TRAINING][s["global_step"] > 100_000]) for s in seeds]
            form = lambda x: "never" if math.isinf(x) else f"{x:,.0f}"  # noqa: E731
            rows.append([label, str(len(seeds)), median(arrived, form), spread(late), spread(members)])
    if not rows:
        return []
    score.set(title="CartPole-v1: unperturbed policy", xlabel="million steps", ylabel="return, 10 episodes")
    training.set(title="CartPole-v1: the population", xlabel="million steps", ylabel="mean return of the members")
    training.legend(frameon=False, fontsize=7, loc="lower right")
    save(figure, folder / "variants.png")
    header = ["CartPole-v1, 200,000 steps", "seeds", f"steps to a score of {SOLVED:g}"]
    return [table([*header, "score after 100,000 steps", "members' mean return"], rows)]


def speed(results: Results) -> list[str]:
    text = []
    for seed in results["es-speed-reacher"]:
        found = seed.summary["facts"]
        rows = [
            ["one process, per CPU second", *(number(found[x]) for x in SPEEDS[:2]), f"{100 * found[SPEEDS[2]]:.0f} %"],
            [f"{found['cores']:.0f} cores, per second by the clock", *(number(found[x]) for x in SPEEDS[3:5]),
             f"{100 * found[SPEEDS[5]]:.0f} %"],
        ]  # fmt: skip
        text += [table(["Reacher-v5, steps", "raw stepping", "es.py", "share"], rows)]
    rows, labels = [], {"learning": "both learn", "standing": "neither learns"}
    for name, label in labels.items():
        for seed in results[f"evotorch-speed-{name}"]:
            found = seed.summary["facts"]
            rates = [
                f"{number(found[f'{x}/steps_per_cpu_second'])} ({found[f'{x}/length']:.0f})" for x in ("evotorch", "es")
            ]
            rows.append([label, *rates, f"{found['times_faster']:.1f}x"])
    if rows:
        header = ["CartPole-v1, steps per CPU second (steps of an episode)", "evotorch, PGPE on GymNE", "es.py"]
        elsewhere = "; ".join(f"{r['steps_per_second']}, {r['where']}" for r in read_rows(PUBLISHED / "es_speed.csv"))
        text += [table([*header, "ours is faster"], rows), f"Measured elsewhere, no ratio taken: {elsewhere}."]
    if text:
        text = ["## Speed", "Medians of turns that alternate.", *text]
    return text


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published, blocks, text = read_rows(PUBLISHED / "es.csv"), {}, ["# Evolution strategies"]
    theirs = table3(results, published, folder)
    if theirs:
        ours = (
            "Ours: the first score, a mean of ten episodes of the unperturbed policy every five updates, that reaches "
            "the return. The ten episodes' steps do not count."
        )
        text += [f"{published[0]['source']}. {ours}", *theirs]
        blocks["es-results"] = theirs[0]
    arrived = []
    for row in published:
        seeds = results[f"es-table3-{row['environment'].lower()}"]
        middle = sorted_median([steps_of(seed) for seed in seeds]) if seeds else math.inf
        if math.isfinite(middle):
            arrived.append(f"{row['environment']} {middle / 1e6:.2f} M ({float(row['steps']) / 1e6:.2f} M)")
    if arrived:
        blocks["es-number"] = f"steps to TRPO's return (the paper's): {', '.join(arrived)}"
    steps = variants(results, folder)
    text += ["## One addition at a time", *steps] if steps else []
    text += speed(results)
    used = [seed for name in results.all for seed in results[name]]
    (folder / "es.md").write_text("\n\n".join([*text, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
