"""Figures and tables of algos/dyna_q.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.figures.sarsa import line
from benchmarks.plot import Results, mean, number

LENGTH, ERROR = "charts/episodic_length", "charts/episodic_length_error"
COLUMNS = ["global_step", LENGTH, ERROR, "eval/episodic_length"]
BARS = {0: 28, 5: 7, 50: 3}  # planning steps: the first episode whose mean is below 20 steps, in the published runs
EPISODES = [1, 2, 3, 5, 10, 25, 50]
RUNS = 30  # of every seed


def below_bar(lengths: np.ndarray) -> str:
    """The first episode, counted from 1, whose mean length is below 20."""
    return str(int(np.flatnonzero(lengths < 20)[0]) + 1)


def draw(results: Results, folder) -> dict[str, str]:
    published = plot.published("dyna_q")
    theirs = {(int(row["planning_steps"]), int(row["episode"])): float(row["steps"]) for row in published}
    lines, middle = [], []
    with plot.figure(folder / "maze.png", size=(7, 4.2)) as (axes,):
        for n, bar in BARS.items():
            seeds = results[f"dyna-maze-n{n}"]
            lengths, errors = (np.array([seed[column] for seed in seeds]) for column in (LENGTH, ERROR))
            length, error = lengths.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(seeds)
            line(axes, np.arange(1, len(length) + 1), length, error, f"n = {n}")
            cells = [f"{number(length[e - 1])} ± {number(error[e - 1], like=length[e - 1])}" for e in EPISODES]
            cells += [", ".join(map(below_bar, lengths)), number(mean(s.final("eval/episodic_length") for s in seeds))]
            lines.append([f"n = {n}, {len(seeds) * RUNS} runs", *cells, plot.cpu(seeds)])
            cells = [number(theirs.get((n, e)), like=1000) for e in EPISODES]
            lines.append([f"published code, n = {n}, {RUNS} runs", *cells, str(bar), "-", "-"])
            middle.append(below_bar(length))
        points = [(int(row["episode"]), float(row["steps"])) for row in published]
        axes.plot(*zip(*points, strict=True), "x", color="black", label=f"published code, mean of {RUNS} runs")
        axes.axhline(14, color=plot.GREY, linestyle=":", label="shortest path: 14")
        axes.set(title="Dyna maze", xlabel="episode", ylabel="real steps per episode", yscale="log")
    header = ["real steps in episode", *map(str, EPISODES), "first below 20", "greedy afterwards", "CPU seconds"]
    found, bars = ", ".join(middle), ", ".join(map(str, BARS.values()))
    return {
        "table": plot.table(header, lines),
        "episodes": found,
        "number": f"Dyna maze below 20 steps at episode {found} for n = 0, 5, 50 (published code: {bars})",
    }
