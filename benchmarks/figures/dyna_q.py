"""Figures and tables of algos/dyna_q.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
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

LENGTH, ERROR, REWARD = "charts/episodic_length", "charts/episodic_length_error", "charts/reward_so_far"
COLUMNS = ["global_step", LENGTH, ERROR, "charts/episodic_return", REWARD, "time/elapsed", "eval/episodic_length"]
LEARNERS = {
    "dyna-maze-n0": ("model-free, n = 0", ORANGE),
    "dyna-maze-n5": ("Dyna, n = 5", GREEN),
    "dyna-maze-n50": ("Dyna, n = 50", BLUE),
    "dyna-maze-model": ("model-based, value iteration", BLACK),
    "dyna-maze-sarsa-n5": ("Dyna with SARSA, n = 5", GREY),
}
BAR = 20  # steps that the mean of a seed's runs falls below
BARS = {0: 28, 5: 7, 50: 3}  # the episode in which the published runs do
EPISODES = [1, 2, 3, 5, 10, 25, 50]
RUNS = 30  # of every seed


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {"below_bar": below_bar(columns[LENGTH])}


def below_bar(lengths: np.ndarray) -> int | None:
    """The first episode, counted from 1, whose mean length is below the bar."""
    under = np.flatnonzero(lengths < BAR)
    return int(under[0]) + 1 if len(under) else None


def pooled(seeds: list[Result]) -> tuple[np.ndarray, np.ndarray]:
    """Mean length of each episode over the runs of all seeds, and its standard error."""
    lengths, errors = (np.array([seed[column] for seed in seeds]) for column in (LENGTH, ERROR))
    within = errors**2 * RUNS  # variance over a seed's runs
    variance = within.mean(axis=0) + lengths.var(axis=0)
    return lengths.mean(axis=0), np.sqrt(variance / (RUNS * len(seeds)))


def maze_figure(results: Results, published: list[dict], path: Path):
    """Figure 8.2, and reward over real steps."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    steps, reward = figure.subplots(1, 2)
    for name, (label, color) in LEARNERS.items():
        seeds = results[name]
        if not seeds:
            continue
        mean, error = pooled(seeds)
        episodes = np.arange(1, len(mean) + 1)
        for seed in seeds:
            steps.plot(episodes, seed[LENGTH], color=color, linewidth=0.4, alpha=0.5)
        steps.fill_between(episodes, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        steps.plot(episodes, mean, color=color, label=label)
        # read across: the mean number of real steps that so much reward took
        at = np.mean([seed["global_step"] / RUNS for seed in seeds], axis=0)
        reward.plot(np.append(0, at), np.append(0, np.mean([seed[REWARD] for seed in seeds], axis=0)), color=color)
    points = [(int(row["episode"]), float(row["steps"])) for row in published]
    steps.plot(*zip(*points, strict=True), "x", color=VERMILLION, label="usual code, n = 0, 5, 50 (mean of 30 runs)")
    steps.axhline(14, color=GREY, linestyle=":", label="shortest way: 14")
    steps.set(title="Dyna maze", xlabel="episode", ylabel="real steps per episode", yscale="log")
    steps.legend(frameon=False, fontsize=8)
    reward.set(title="Reward over real steps", xlabel="real steps so far (mean of runs)", ylabel="reward so far")
    reward.set_xlim(0, 5000)
    save(figure, path)


def maze_table(results: Results, published: list[dict]) -> str:
    theirs = {(int(row["planning_steps"]), int(row["episode"])): float(row["steps"]) for row in published}
    rows = []
    for name, (label, _) in LEARNERS.items():
        seeds = results[name]
        if not seeds:
            continue
        mean, error = pooled(seeds)
        cells = [f"{number(mean[e - 1])} ± {number(error[e - 1], like=mean[e - 1])}" for e in EPISODES]
        first = ", ".join(str(seed.summary["facts"]["below_bar"] or "never") for seed in seeds)
        greedy = number(float(np.mean([seed.final("eval/episodic_length") for seed in seeds])))
        seconds = number(float(np.median([seed.final("time/elapsed") for seed in seeds])))
        rows.append([f"{label} ({len(seeds)} x {RUNS} runs)", *cells, first, greedy, seconds])
    for n, bar in BARS.items():
        cells = [number(theirs.get((n, e)), like=1000) for e in EPISODES]
        rows.append([f"usual code, n = {n} ({RUNS} runs)", *cells, str(bar), "-", "-"])
    header = ["real steps in episode", *map(str, EPISODES), f"first below {BAR}", "greedy afterwards", "seconds"]
    return table(header, rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the table that there are results for; returns the README's blocks."""
    published = read_rows(PUBLISHED / "dyna_q.csv")
    used = [seed for name in LEARNERS for seed in results[name]]
    if not used:
        return {}
    maze_figure(results, published, folder / "maze.png")
    text = [
        "# The Dyna maze",
        "gamma .95, alpha .1, epsilon .1. Mean real steps per episode over all runs, ± its standard error; the first "
        f"episode whose mean over a seed's {RUNS} runs is below {BAR}, seed by seed; expected steps of the greedy "
        "policy after the last episode (the shortest way takes 14); median seconds of a seed, on a shared machine.",
        maze_table(results, published),
        "With all values at 0 the first episode is a random walk whatever n is: a linear solve of the maze gives 868.7 "
        "steps.",
        f"The usual code: {published[0]['source']}. Measured on: {machines(used)}.",
    ]
    (folder / "maze.md").write_text("\n\n".join(text) + "\n")
    ours = {n: results[f"dyna-maze-n{n}"] for n in BARS}
    if not all(ours.values()):
        return {}
    middle = ", ".join(str(below_bar(pooled(seeds)[0])) for seeds in ours.values())
    bars = ", ".join(map(str, BARS.values()))
    return {"dyna_q-number": f"Dyna maze below {BAR} steps at episode {middle} for n = 0, 5, 50 (usual code: {bars})"}
