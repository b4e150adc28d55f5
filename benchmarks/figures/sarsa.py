"""Figures and tables of algos/sarsa.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, PUBLISHED, VERMILLION, Result, Results, machines, read_rows, save, table

RETURN, LENGTH, ONLINE = "charts/episodic_return", "charts/episodic_length", "charts/episodic_return_100"
GREEDY, SHARE, EPISODE = "eval/episodic_return", "eval/share_ended", "charts/episode"
COLUMNS = ["global_step", EPISODE, RETURN, f"{RETURN}_se", ONLINE, f"{ONLINE}_se", LENGTH]
CLIFF = {  # method: entry, section, colour
    "SARSA": ("sarsa-cliff", "sarsa", BLUE),
    "Expected SARSA": ("sarsa-cliff-expected", "sarsa", GREEN),
    "Q-learning": ("q-cliff", "q_learning", VERMILLION),
}
BOOK = "[Sutton & Barto 2018](http://incompleteideas.net/book/the-book-2nd.html)"
ZHANG = "[ShangtongZhang's code for the book](https://github.com/ShangtongZhang/reinforcement-learning-an-introduction)"


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def pooled(seeds: list[Result], column: str) -> tuple[float, float]:
    """Mean of the seeds' last values, and its standard error over all their runs; each seed has as many runs."""
    errors = [seed.final(f"{column}_se") for seed in seeds]
    return float(np.mean([seed.final(column) for seed in seeds])), math.hypot(*errors) / len(seeds)


def with_error(seeds: list[Result], column: str, digits: int = 1) -> str:
    mean, error = pooled(seeds, column)
    return f"{mean:.{digits}f} ± {error:.2f}"


def share(seeds: list[Result]) -> str:
    return f"{100 * np.mean([seed.final(SHARE) for seed in seeds]):.0f} %"


def curve(axes, seeds: list[Result], column: str, label: str, color: str, sign: int = 1):
    """Mean over the seeds, and two standard errors around it."""
    if not seeds:
        return
    mean = sign * np.mean([seed[column] for seed in seeds], axis=0)
    error = np.sqrt(np.sum([seed[f"{column}_se"] ** 2 for seed in seeds], axis=0)) / len(seeds)
    episodes = seeds[0][EPISODE]
    axes.fill_between(episodes, mean - 2 * error, mean + 2 * error, color=color, alpha=0.25, linewidth=0)
    axes.plot(episodes, mean, color=color, linewidth=1, label=label)


def cliff_figure(found: dict, published: dict, path: Path):
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, (seeds, color) in found.items():
        curve(axes, seeds, RETURN, method, color)
        axes.plot([400, 500], [published[method, "online"]] * 2, color="black", linestyle="--", linewidth=1.5)
    axes.plot([], [], color="black", linestyle="--", linewidth=1.5, label="published, episodes 400 to 500")
    axes.set(ylim=(-100, -10), xlabel="episode", ylabel="return while learning", title="Cliff walking (Example 6.6)")
    axes.legend(frameon=False, loc="lower right")
    axes.grid(alpha=0.25)
    save(figure, path)


def cliff_table(found: dict, published: dict) -> tuple[str, int, int]:
    """The table; how many published returns lie within two standard errors of both, and of how many."""
    rows, within, total = [], 0, 0
    for method, (seeds, _) in found.items():
        cells = [method]
        for column, quantity, rounding in ((ONLINE, "online", 0.05), (GREEDY, "greedy", 0.5)):
            (mean, error), theirs = pooled(seeds, column), published[method, quantity]
            num_runs = 500 * len(seeds)
            spread = math.hypot(error, error * math.sqrt(num_runs / 200))  # theirs: the same over 200 runs
            cells += [with_error(seeds, column), f"{theirs:g}"]
            within, total = within + (abs(mean - theirs) <= 2 * spread + rounding), total + 1
        rows.append([*cells, share(seeds)])
    header = ["cliff walking", "online, episodes 400 to 500", "published", "greedy afterwards", "published"]
    return table([*header, "greedy episodes that end"], rows), within, total


def speed_table(found: dict) -> tuple[str, float]:
    """CPU seconds of 500 runs of 500 episodes, and how many times faster both methods are together."""
    rows, sums = [], np.zeros(2)
    for method in ("SARSA", "Q-learning"):
        usual = [float(r["cpu_seconds"]) for r in read_rows(PUBLISHED / "cliff_speed.csv") if r["method"] == method]
        pair = np.mean(usual), np.mean([seed.summary["cpu_seconds"] for seed in found[method][0]])
        rows.append([method, f"{pair[0]:.0f}", f"{pair[1]:.1f}", f"{pair[0] / pair[1]:.0f}x"])
        sums += pair
    rows.append(["both", f"{sums[0]:.0f}", f"{sums[1]:.1f}", f"{sums[0] / sums[1]:.0f}x"])
    return table(["500 runs of 500 episodes", "peer, CPU s", "ours, CPU s", "faster"], rows), sums[0] / sums[1]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables; returns the README's blocks."""
    sections = {section: Results(folder.parent / section) for section in ("sarsa", "q_learning")}
    found = {method: (sections[section][name], color) for method, (name, section, color) in CLIFF.items()}
    if not all(seeds for seeds, _ in found.values()):
        return {}
    published = {(r["method"], r["quantity"]): float(r["value"]) for r in read_rows(PUBLISHED / "cliff.csv")}
    cliff_figure(found, published, folder / "cliff.png")
    (numbers, within, total), (speed, faster) = cliff_table(found, published), speed_table(found)
    mean, greedy = (pooled(found["SARSA"][0], column)[0] for column in (ONLINE, GREEDY))
    parts = [
        "# SARSA",
        f"{BOOK}, Example 6.6: on the cliff SARSA learns the longer, safe path and Q-learning the shortest one along "
        "the edge; while both explore, SARSA earns more. Expected SARSA (section 6.6) has less variance than SARSA.",
        "    ./benchmark.sh sarsa q-cliff\n    python benchmarks/plot.py sarsa",
        "![cliff walking](cliff.png)",
        numbers,
        f"{within} of {total} published returns, as rounded, lie within two standard errors of ours. Mean ± standard "
        f"error over 1,500 runs (three seeds of 500) of 500 episodes, step size 0.5, epsilon 0.1. Published: {ZHANG} "
        "(commit 96bc203, chapter06), run for 200 runs. Some of SARSA's greedy policies walk in circles, in both; an "
        "endless episode has no return.",
        "## Speed",
        speed,
        f"Peer: the same code, timed on 5 runs (three repetitions) and scaled to 500; it averages 50 as shipped. Ours: "
        f"the whole command, imports and picture included, mean of three seeds: {faster:.0f} times faster, since all "
        "runs advance in lockstep. Not run: GPUs (the table is in numpy), other step sizes than the book's.",
        "Measured on: " + machines(seed for seeds, _ in found.values() for seed in seeds) + ".",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    number = f"{mean:.1f} online, {greedy:.0f} greedy on the cliff (published: -27.9, -17)"
    return {"sarsa-results": numbers, "sarsa-number": number}
