"""The figure and the page of algos/dyna_q.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
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

LENGTH, ERROR = "charts/episodic_length", "charts/episodic_length_error"
COLUMNS = ["global_step", LENGTH, ERROR, "eval/episodic_length"]
COLORS = {0: ORANGE, 5: GREEN, 50: BLUE}
BAR = 20  # steps
BARS = {0: 28, 5: 7, 50: 3}  # the first episode whose mean is below the bar, in the published runs
EPISODES = [1, 2, 3, 5, 10, 25, 50]
RUNS = 30  # of every seed


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def below_bar(lengths: np.ndarray) -> int:
    """The first episode, counted from 1, whose mean length is below the bar."""
    return int(np.flatnonzero(lengths < BAR)[0]) + 1


def pooled(seeds: list[Result]) -> tuple[np.ndarray, np.ndarray]:
    """Mean length of each episode over the runs of all seeds, and its standard error."""
    lengths, errors = (np.array([seed[column] for seed in seeds]) for column in (LENGTH, ERROR))
    return lengths.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(seeds)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    published = read_rows(PUBLISHED / "dyna_q.csv")
    theirs = {(int(row["planning_steps"]), int(row["episode"])): float(row["steps"]) for row in published}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes, lines, middle = figure.subplots(), [], []
    for n, color in COLORS.items():
        seeds = results[f"dyna-maze-n{n}"]
        if not seeds:
            return {}
        mean, error = pooled(seeds)
        episodes = np.arange(1, len(mean) + 1)
        axes.fill_between(episodes, mean - error, mean + error, color=color, alpha=0.3, linewidth=0)
        axes.plot(episodes, mean, color=color, label=f"n = {n}")
        cells = [f"{number(mean[e - 1])} ± {number(error[e - 1], like=mean[e - 1])}" for e in EPISODES]
        first = ", ".join(str(below_bar(seed[LENGTH])) for seed in seeds)
        greedy = number(float(np.mean([seed.final("eval/episodic_length") for seed in seeds])))
        seconds = number(float(np.median([seed.summary["cpu_seconds"] for seed in seeds])))
        lines.append([f"n = {n}, {len(seeds) * RUNS} runs", *cells, first, greedy, seconds])
        cells = [number(theirs.get((n, e)), like=1000) for e in EPISODES]
        lines.append([f"published code, n = {n}, {RUNS} runs", *cells, str(BARS[n]), "-", "-"])
        middle.append(str(below_bar(mean)))
    points = [(int(row["episode"]), float(row["steps"])) for row in published]
    axes.plot(*zip(*points, strict=True), "x", color=VERMILLION, label=f"published code, mean of {RUNS} runs")
    axes.axhline(14, color=GREY, linestyle=":", label="shortest path: 14")
    axes.set(title="Dyna maze", xlabel="episode", ylabel="real steps per episode", yscale="log")
    axes.legend(frameon=False)
    save(figure, folder / "maze.png")
    header = ["real steps in episode", *map(str, EPISODES), f"first below {BAR}", "greedy afterwards", "CPU seconds"]
    text = f"""# Dyna-Q

[Sutton & Barto 2018](http://incompleteideas.net/book/the-book-2nd.html), Figure 8.2: in the Dyna maze (gamma .95,
alpha .1, epsilon .1) n planning steps per real step cut the episodes until near-optimal paths from about 25 (n = 0) to
about 5 (n = 5) and 3 (n = 50).

    ./benchmark.sh dyna_q          # python algos/dyna_q.py --planning-steps 0, 5 and 50, three seeds each

![Steps per episode in the Dyna maze](maze.png)

{table(header, lines)}

{verdict(middle)} `published code` is {published[0]["source"].split(":")[0]}. With all values at 0 the first episode is
a random walk whatever n is; a linear solve gives 868.7 steps. Errors are standard errors over independent runs. `first
below {BAR}`: the episode whose mean over a seed's {RUNS} runs is below {BAR} for the first time, seed by seed. `greedy
afterwards`: steps of the greedy policy (the shortest path takes 14). CPU seconds are those of the whole command, per
seed. Not run: the model-based learner and Dyna with SARSA that the post describes.

Measured on: {machines(seed for n in COLORS for seed in results[f"dyna-maze-n{n}"])}.
"""
    (folder / "README.md").write_text(text)
    bars = ", ".join(map(str, BARS.values()))
    text = f"Dyna maze below {BAR} steps at episode {', '.join(middle)} for n = 0, 5, 50 (published code: {bars})"
    return {"dyna_q-number": text}


def verdict(ours: list[str]) -> str:
    return (
        f"The mean of all runs falls below {BAR} steps at episode {', '.join(ours)} for n = 0, 5, 50; in the published "
        f"code's 30 runs at {', '.join(map(str, BARS.values()))}."
    )
