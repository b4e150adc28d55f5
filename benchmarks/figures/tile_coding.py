"""Figures and tables of algos/tile_coding.py, for benchmarks/plot.py."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.figures.sarsa import COLUMNS, GREEDY, LENGTH, curve, facts, pooled, with_error
from benchmarks.plot import BLUE, Results, machines, save, table

__all__ = ["COLUMNS", "draw", "facts"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    seeds = results["tiles-car"]
    if not seeds:
        return {}
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    curve(axes, seeds, LENGTH, "SARSA(0.9)", BLUE)
    axes.set(xlabel="episode", ylabel="steps", title="MountainCar-v0: mean of all runs, two standard errors")
    axes.grid(alpha=0.25)
    save(figure, folder / "car.png")
    rows = [["MountainCar-v0", f"{len(seeds)} x 10", with_error(seeds, GREEDY)]]
    header = ["environment", "seeds x runs", "greedy return after 100 episodes"]
    parts = ["# Tile coding", table(header, rows), "![mountain car](car.png)", "Measured on: " + machines(seeds) + "."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {"tiles-number": f"{pooled(seeds, GREEDY)[0]:.0f} on MountainCar-v0, greedy after 100 episodes"}
