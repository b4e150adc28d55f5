"""Figures and tables of algos/sarsa.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    machines,
    number,
    read_rows,
    save,
    table,
)

RETURN, LENGTH, ONLINE = "charts/episodic_return", "charts/episodic_length", "charts/episodic_return_100"
GREEDY, SHARE, EPISODE = "eval/episodic_return", "eval/share_ended", "charts/episode"
HAND = ["hand/ace", "hand/total", "hand/dealer", "hand/hit", "hand/best_hit", "hand/loss"]
COLUMNS = [
    "global_step",
    EPISODE,
    RETURN,
    f"{RETURN}_se",
    ONLINE,
    f"{ONLINE}_se",
    LENGTH,
    f"{LENGTH}_se",
    GREEDY,
    *HAND,
]
CLIFF = {  # method: entry, section, colour
    "SARSA": ("sarsa-cliff", "sarsa", BLUE),
    "Expected SARSA": ("sarsa-cliff-expected", "sarsa", GREEN),
    "Q-learning": ("q-cliff", "q_learning", VERMILLION),
}
WINDY = {"SARSA": ("sarsa-windy", BLUE), "SARSA(0.8), step size 0.2": ("sarsa-windy-lambda", GREEN)}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def pooled(seeds: list[Result], column: str) -> tuple[float, float]:
    """Mean of the seeds' last values, and its standard error from theirs; all seeds have the same number of runs."""
    errors = [seed.final(f"{column}_se") for seed in seeds]
    return float(np.mean([seed.final(column) for seed in seeds])), math.hypot(*errors) / len(seeds)


def with_error(seeds: list[Result], column: str) -> str:
    mean, error = pooled(seeds, column)
    return f"{mean:.1f} ± {error:.2f}"


def curve(axes, seeds: list[Result], column: str, label: str, color: str):
    """Mean over the seeds, and two standard errors around it."""
    if not seeds:
        return
    mean = np.mean([seed[column] for seed in seeds], axis=0)
    error = np.sqrt(np.sum([seed[f"{column}_se"] ** 2 for seed in seeds], axis=0)) / len(seeds)
    episodes = seeds[0][EPISODE]
    axes.fill_between(episodes, mean - 2 * error, mean + 2 * error, color=color, alpha=0.25, linewidth=0)
    axes.plot(episodes, mean, color=color, linewidth=1, label=label)


def cliff_results(folder: Path) -> dict[str, tuple[list[Result], str]]:
    sections = {section: Results(folder.parent / section) for section in ("sarsa", "q_learning")}
    return {method: (sections[section][name], color) for method, (name, section, color) in CLIFF.items()}


def cliff_figure(found: dict, published: list[dict], path: Path):
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, (seeds, color) in found.items():
        curve(axes, seeds, RETURN, method, color)
        for row in published:
            if (row["method"], row["quantity"]) == (method, "online"):
                axes.plot([400, 500], [float(row["value"])] * 2, color="black", linestyle="--", linewidth=1.5)
    axes.plot([], [], color="black", linestyle="--", linewidth=1.5, label="usual code, episodes 400 to 500")
    axes.set(ylim=(-100, -10), xlabel="episode", ylabel="return while learning", title="Cliff walking")
    axes.legend(frameon=False, loc="lower right")
    axes.grid(alpha=0.25)
    save(figure, path)


def cliff_table(found: dict, published: list[dict]) -> str:
    theirs, rows = {(row["method"], row["quantity"]): row["value"] for row in published}, []
    for method, (seeds, _) in found.items():
        if seeds:
            runs = [
                with_error(seeds, ONLINE),
                theirs[method, "online"],
                with_error(seeds, GREEDY),
                theirs[method, "greedy"],
            ]
            rows.append([method, *runs, f"{100 * np.mean([seed.final(SHARE) for seed in seeds]):.0f} %"])
    header = ["cliff walking", "online, episodes 400 to 500", "usual code", "greedy afterwards", "usual code"]
    return table([*header, "greedy walks that arrive"], rows)


def speed_table() -> str:
    rows = read_rows(PUBLISHED / "cliff_speed.csv")
    lines = [[r["repetition"], r["method"], r["usual_cpu_seconds"], r["our_cpu_seconds"], ratio([r])] for r in rows]
    for repetition in dict.fromkeys(r["repetition"] for r in rows):
        both = [r for r in rows if r["repetition"] == repetition]
        sums = [f"{sum(float(r[c]) for r in both):.2f}" for c in ("usual_cpu_seconds", "our_cpu_seconds")]
        lines.append([repetition, "**both**", *sums, f"**{ratio(both)}**"])
    return table(["repetition", "method", "usual code, CPU s", "ours, CPU s", "faster"], lines, left=2)


def ratio(rows: list[dict]) -> str:
    usual, ours = (sum(float(row[column]) for row in rows) for column in ("usual_cpu_seconds", "our_cpu_seconds"))
    return f"{usual / ours:.0f}x"


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


def blackjack_figure(result: Result, path: Path):
    """Figure 5.2: where to hit, without and with a usable ace; a cross where the best policy does otherwise."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for ace, axes in enumerate(figure.subplots(1, 2)):
        mine = result["hand/ace"] == ace
        hits, best = (result[column][mine].reshape(9, 10) for column in ("hand/hit", "hand/best_hit"))
        axes.imshow(hits, origin="lower", extent=(0.5, 10.5, 11.5, 20.5), cmap="Blues", vmin=-0.3, vmax=1.6)
        for total, dealer in np.argwhere(hits != best):
            axes.plot(dealer + 1, total + 12, "x", color=VERMILLION, markersize=9)
        axes.set_xticks(range(1, 11), ["A", *map(str, range(2, 11))])
        title = "usable ace" if ace else "no usable ace"
        axes.set(yticks=range(12, 21), xlabel="dealer shows", ylabel="player's total", title=title)
    figure.suptitle("Blackjack: dark is hit, light is stick; a cross where the exact solution does otherwise")
    save(figure, path)


def blackjack_text(result: Result) -> str:
    lost = result["hand/loss"][result["hand/loss"] > 0]
    at_most = f", where the other action is worth {lost.max():.4f} more at most" if len(lost) else ""
    missed = result.final("eval/optimum") - result.final("eval/value")
    return (
        f"Learned from {int(result.final('global_step')):,} steps: a policy of exact value "
        f"{result.final('eval/value'):.5f} from a random deal; the best has {result.final('eval/optimum'):.5f}. "
        f"{int(result.final('eval/different'))} of 180 decisions differ{at_most}. The policies of the eight learners "
        f"alone: {result.final('eval/value_alone'):.5f} ± {result.final('eval/value_alone_se'):.5f}. The optimum "
        f"is missed by {missed:.4f}. Exploration falls from 0.2 to 0.02; an earlier try from 1 to 0.05, with as many "
        "hands, gave -0.0564 and stuck too early in 15 places: its means still held hands which random actions "
        "went on with."
    )


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    blocks, published, found = {}, read_rows(PUBLISHED / "cliff.csv"), cliff_results(folder)
    used = [seed for seeds in results.all.values() for seed in seeds]
    parts = ["# SARSA"]
    if found["SARSA"][0]:
        cliff_figure(found, published, folder / "cliff.png")
        blocks["sarsa-results"] = cliff_table(found, published)
        blocks["sarsa-number"] = f"{pooled(found['SARSA'][0], ONLINE)[0]:.1f} online on the cliff (usual code: -27.9)"
        parts += [
            "## Cliff walking (step size 0.5, epsilon 0.1)",
            blocks["sarsa-results"],
            "Mean ± standard error, 1,500 runs of 500 episodes each. A greedy walk in circles has no return. The "
            "usual code's column: " + published[0]["source"] + ".",
            "![cliff walking](cliff.png)",
            "## Speed: 500 runs of 500 episodes",
            speed_table(),
            "CPU seconds on one core of a shared machine, repetitions one after the other. The usual code is the one "
            "above, ties broken at random in both; its seconds are extrapolated from 5 runs to 500. Ours: from the "
            "first step to the last of the slowest run, without imports, csv and pictures.",
        ]
    if results["sarsa-windy"]:
        windy_figure(results, folder / "windy.png")
        rows = [
            [label, number(-results[name][0].final(ONLINE)), with_error(results[name], GREEDY)]
            for label, (name, _) in WINDY.items()
            if results[name]
        ]
        header = ["windy gridworld, 500 runs", "steps, episodes 400 to 500", "greedy return afterwards"]
        note = "The usual code takes 20.4 steps in episodes 400 to 500 (50 runs); the shortest path takes 15."
        parts += ["## Windy gridworld", table(header, rows), note, "![windy gridworld](windy.png)"]
    if results["sarsa-blackjack"]:
        result = results["sarsa-blackjack"][0]
        blackjack_figure(result, folder / "blackjack.png")
        parts += ["## Blackjack", blackjack_text(result), "![Blackjack](blackjack.png)"]
    (folder / "README.md").write_text("\n\n".join([*parts, "Measured on: " + machines(used) + "."]) + "\n")
    return blocks
