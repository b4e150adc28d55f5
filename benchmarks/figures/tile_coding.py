"""Figures and tables of algos/tile_coding.py, for benchmarks/plot.py."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.figures.sarsa import BOOK, COLUMNS, GREEDY, LENGTH, ONLINE, curve, facts, pooled, share, with_error
from benchmarks.plot import BLUE, GREEN, ORANGE, Results, machines, save, table

__all__ = ["COLUMNS", "draw", "facts"]

COLUMNS = [*COLUMNS, f"{LENGTH}_se"]
TRACES = {
    "replacing": ("replacing", BLUE),
    "clearing": ("replacing, clearing the other actions", GREEN),
    "accumulating": ("accumulating, step size 0.1", ORANGE),
}


def figure_of(results: Results, path: Path):
    """Steps per episode, with Gymnasium's time limit and without."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    titles = {"car": "MountainCar-v0, at most 200 steps", "book": "at most 10,000 steps"}
    for (name, title), axes in zip(titles.items(), figure.subplots(1, 2), strict=True):
        for trace, (label, color) in TRACES.items():
            curve(axes, results[f"tiles-{name}-{trace}"], LENGTH, label, color)
        axes.set(xlabel="episode", ylabel="steps", title=f"{title}: mean of 50 runs")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    axes.set(yscale="log", xticks=range(2, 21, 2))
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables; returns the README's blocks."""
    car, book = ({trace: results[f"tiles-{name}-{trace}"] for trace in TRACES} for name in ("car", "book"))
    if not (all(car.values()) and all(book.values())):
        return {}
    figure_of(results, folder / "car.png")
    rows = [
        [label, with_error(car[t], GREEDY), share(car[t]), with_error(book[t], ONLINE)]
        for t, (label, _) in TRACES.items()
    ]
    header = ["SARSA(0.9), traces", "greedy return after 100 episodes", "greedy episodes that end"]
    (a, a_error), (b, b_error) = (pooled(car[t], GREEDY) for t in ("replacing", "clearing"))
    apart = abs(a - b) / math.hypot(a_error, b_error)
    parts = [
        "# Tile coding",
        f"{BOOK}, Figure 12.11: on mountain car SARSA(lambda) with replacing traces, with replacing traces that clear "
        "those of the other actions (as Singh & Sutton 1996 did), and with accumulating traces. The "
        "figure shows the return of the first 20 episodes, mean of 100 runs, over step sizes; it has no table.",
        "    ./benchmark.sh tile_coding\n    python benchmarks/plot.py tile_coding",
        "![mountain car](car.png)",
        table([*header, "return per episode, first 20 episodes, no time limit of 200"], rows),
        f"Replacing traces that leave the other actions' traces (the book's algorithm, and our default) end at "
        f"{a:.1f} ± {a_error:.1f}, with clearing at {b:.1f} ± {b_error:.1f}: {apart:.1f} standard "
        "errors apart. Errors are over 50 independent runs; the episodes of one run are not independent. The greedy "
        "return counts an episode that is cut off as -200. 8 tilings of 8 x 8 tiles, step size 0.5 / 8 (accumulating "
        "traces need a smaller one), no epsilon. No published number is known to us for MountainCar-v0 with these "
        "settings; Gymnasium's threshold for solving it is -110. Not run: true online SARSA(lambda), other step sizes.",
        "Measured on: " + machines(seed for seeds in results.all.values() for seed in seeds) + ".",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {
        "tiles-number": f"{a:.0f} ± {a_error:.0f} on MountainCar-v0, greedy after 100 episodes (no published number)"
    }
