"""Figures and tables of algos/q_learning.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.sarsa import COLUMNS, GREEDY, LENGTH, ONLINE, RETURN, SHARE, curve, facts, pooled, with_error
from benchmarks.plot import BLUE, GREEN, GREY, PUBLISHED, VERMILLION, Results, machines, read_rows, save, table

__all__ = ["COLUMNS", "draw", "facts"]

CLIFF = {
    "q-cliff": "epsilon-greedy, epsilon 0.1",
    "q-cliff-lambda": "Watkins's Q(0.8), step size 0.2",
    "q-cliff-random": "watching a random policy, 30 episodes of 100 runs",
}
DOORS = {"greedy": VERMILLION, "fixed": BLUE, "decaying": GREEN}
WINDY = {"Q-learning": ("q-windy", BLUE), "Watkins's Q(0.8), step size 0.2": ("q-windy-lambda", GREEN)}


def doors_figure(results: Results, path: Path):
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for kind, color in DOORS.items():
        for result in results[f"q-doors-{kind}"]:
            axes.plot(result["charts/episode"], result[RETURN], color=color, linewidth=0.4, alpha=0.4)
            axes.plot(result["charts/episode"], result[ONLINE], color=color, label=f"{kind} exploration")
    axes.axhline(10, color=GREY, linestyle=":", label="always the second door: 10")
    axes.set(
        xlabel="episode", ylabel="reward (last hundred episodes)", title="The post's two doors, mean of 2,000 runs"
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)


def windy_figure(results: Results, path: Path):
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for label, (name, color) in WINDY.items():
        curve(axes, results[name], LENGTH, label, color)
    axes.axhline(15, color=GREY, linestyle=":", label="shortest path: 15")
    axes.set(yscale="log", xlabel="episode", ylabel="steps", title="Windy gridworld, mean of 500 runs")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)


def rows_of(results: Results, names: dict[str, str]) -> list[list[str]]:
    rows = []
    for name, label in names.items():
        if seeds := results[name]:
            share = f"{100 * np.mean([seed.final(SHARE) for seed in seeds]):.0f} %"
            rows.append([label, with_error(seeds, ONLINE), with_error(seeds, GREEDY), share])
    return rows


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    blocks, parts = {}, ["# Q-learning"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    header = ["return of the last hundred episodes", "greedy afterwards", "greedy walks that end"]
    if cliff := results["q-cliff"]:
        theirs = {r["quantity"]: r["value"] for r in read_rows(PUBLISHED / "cliff.csv") if r["method"] == "Q-learning"}
        mean, greedy = (pooled(cliff, column)[0] for column in (ONLINE, GREEDY))
        usual = f"usual code: {theirs['online']}, {theirs['greedy']}"
        blocks["q-number"] = f"{mean:.1f} online on the cliff, greedy {greedy:.0f} ({usual})"
        note = f"Mean ± standard error over the runs (500 a seed; three seeds of the first row); {usual}."
        parts += ["## Cliff walking", table(["behaviour", *header], rows_of(results, CLIFF)), note]
        parts.append("The curves are in [results/sarsa/cliff.png](../sarsa/cliff.png), beside SARSA's.")
    if results["q-windy"]:
        windy_figure(results, folder / "windy.png")
        names = {name: label for label, (name, _) in WINDY.items()}
        parts += ["## Windy gridworld", table(["", *header], rows_of(results, names)), "![wind](windy.png)"]
    if results["q-doors-greedy"]:
        doors_figure(results, folder / "doors.png")
        names = {f"q-doors-{kind}": f"{kind} exploration" for kind in DOORS}
        parts += ["## Two doors", table(["", *header[:2]], [row[:3] for row in rows_of(results, names)])]
        parts += [
            "The first door pays 1, the second 10 on average. A greedy learner opens the first door once, or the "
            "second until it pays. So 10 of 11 stay with the first for good: 1.82 on average.",
            "![two doors](doors.png)",
        ]
    (folder / "README.md").write_text("\n\n".join([*parts, "Measured on: " + machines(used) + "."]) + "\n")
    return blocks
