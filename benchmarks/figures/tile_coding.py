"""Figures and tables of algos/tile_coding.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.sarsa import COLUMNS, GREEDY, ONLINE, RETURN, curve, pooled, share_ended, with_error

__all__ = ["COLUMNS", "draw"]

TRACES = {
    "replacing": "replacing",
    "clearing": "replacing, clearing the other actions",
    "accumulating": "accumulating, step size 0.1",
}


def draw(results: plot.Results, folder) -> dict[str, str]:
    car = {label: results[f"tiles-car-{trace}"] for trace, label in TRACES.items()}
    book = {label: results[f"tiles-book-{trace}"] for trace, label in TRACES.items()}
    titles = {"MountainCar-v0, at most 200 steps": car, "at most 10,000 steps": book}
    with plot.figure(folder / "car.png", columns=2, size=(11, 4)) as panels:
        for axes, (title, runs) in zip(panels, titles.items(), strict=True):
            for label, seeds in runs.items():
                curve(axes, seeds, RETURN, label, sign=-1)
            axes.set(xlabel="episode", ylabel="steps", title=f"{title}: mean of 50 runs")
        axes.set(yscale="log", xticks=range(2, 21, 2))
    columns = {
        "greedy return after 100 episodes": with_error(GREEDY),
        "greedy episodes that end": share_ended,
        "return per episode, first 20 episodes, no time limit of 200": lambda seeds: with_error(ONLINE)(
            results[seeds[0].name.replace("car", "book")]
        ),
    }
    mean, error = pooled(results["tiles-car-replacing"], GREEDY)
    return {
        "table": plot.beside("SARSA(0.9), traces", car, columns),
        "number": f"{mean:.0f} ± {error:.0f} on MountainCar-v0, greedy after 100 episodes (no published number)",
    }
