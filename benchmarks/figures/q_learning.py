"""Figures and tables of algos/q_learning.py, for benchmarks/plot.py."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.figures.sarsa import BOOK, COLUMNS, GREEDY, ONLINE, RETURN, facts, pooled, share, with_error
from benchmarks.plot import BLUE, GREEN, GREY, PUBLISHED, VERMILLION, Results, machines, read_rows, save, table

__all__ = ["COLUMNS", "draw", "facts"]

POST = "[The post](https://kvfrans.com/model-free-prediction-and-control/)"
CLIFF = {"q-cliff": "epsilon 0.1", "q-cliff-random": "epsilon 1: a random policy, 30 episodes of 100 runs"}
DOORS = {
    "greedy": ("no exploration", VERMILLION),
    "fixed": ("epsilon 0.1", BLUE),
    "decaying": ("epsilon from 1 to 0", GREEN),
}


def doors_figure(results: Results, path: Path):
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for kind, (label, color) in DOORS.items():
        for result in results[f"q-doors-{kind}"]:
            axes.plot(result["charts/episode"], result[RETURN], color=color, linewidth=0.4, alpha=0.4)
            axes.plot(result["charts/episode"], result[ONLINE], color=color, label=label)
    axes.axhline(10, color=GREY, linestyle=":", label="always the second door: 10")
    axes.axhline(20 / 11, color=GREY, linestyle="--", label="no exploration, exact: 20/11")
    axes.set(xlabel="episode", ylabel="return (mean of the last 100 episodes)", title="Two doors, mean of 2,000 runs")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.2))
    axes.grid(alpha=0.25)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables; returns the README's blocks."""
    doors = {kind: results[f"q-doors-{kind}"] for kind in DOORS}
    if not (all(doors.values()) and all(results[name] for name in CLIFF)):
        return {}
    doors_figure(results, folder / "doors.png")
    theirs = {r["quantity"]: r["value"] for r in read_rows(PUBLISHED / "cliff.csv") if r["method"] == "Q-learning"}
    header = ["online, last 100 episodes", "greedy afterwards", "greedy episodes that end"]
    cliff = [
        [label, with_error(results[name], ONLINE), with_error(results[name], GREEDY), share(results[name])]
        for name, label in CLIFF.items()
    ]
    rows = [[DOORS[kind][0], with_error(doors[kind], ONLINE), with_error(doors[kind], GREEDY)] for kind in DOORS]
    mean, greedy = (pooled(results["q-cliff"], column)[0] for column in (ONLINE, GREEDY))
    parts = [
        "# Q-learning",
        f"{BOOK}, Example 6.6: Q-learning finds the shortest path along the cliff and falls off it as long as it "
        f"explores. {POST}: with two doors, of which the second pays more on average but seldom, a learner that does "
        "not explore stays with the first.",
        "    ./benchmark.sh q_learning\n    python benchmarks/plot.py q_learning",
        "![two doors](doors.png)",
        table(["two doors, 500 episodes of 2,000 runs", *header[:2]], rows),
        "The first door pays 1, the second 10 on average (100 one time in ten). Without exploration a run stays with "
        "the first door once it has opened it, so only 1 of 11 runs finds the second: 20/11 = 1.82 on average, as "
        "measured. Epsilon that decreases earns more in the end than a fixed one, as the post says. The last column "
        "is a single episode of each run.",
        table(["cliff", *header], [*cliff, ["published", theirs["online"], theirs["greedy"], "100 %"]]),
        "Mean ± standard error over the runs (three seeds of 500 in the first row). A random policy falls off the "
        "cliff again and again, and what is learned from it is still the shortest path: off-policy. The curves are "
        "on [SARSA's page](../sarsa/README.md), with the source of the published numbers. Not run: GPUs.",
        "Measured on: " + machines(seed for seeds in results.all.values() for seed in seeds) + ".",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {"q-number": f"{mean:.1f} online, {greedy:.0f} greedy on the cliff (published: -50.6, -13)"}
