"""Figures and tables of algos/sarsa.py, for benchmarks/plot.py; what its neighbours share is here, too."""

import math

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, pooled

RETURN, ONLINE = "charts/episodic_return", "charts/episodic_return_100"
GREEDY, EPISODE = "eval/episodic_return", "charts/episode"
COLUMNS = ["global_step", EPISODE, RETURN, f"{RETURN}_se", ONLINE, f"{ONLINE}_se"]
CLIFF = {  # method: entry, section
    "SARSA": ("sarsa-cliff", "sarsa"),
    "Expected SARSA": ("sarsa-cliff-expected", "sarsa"),
    "Q-learning": ("q-cliff", "q_learning"),
}


def with_error(column: str):
    """A column of a table: mean and standard error over all runs."""
    return lambda seeds: "{:.1f} ± {:.2f}".format(*pooled(seeds, column))


def share_ended(seeds: list[Result]) -> str:
    return f"{100 * plot.mean(seed.final('eval/share_ended') for seed in seeds):.0f} %"


def line(axes, x, mean, error, label: str, **style) -> str:
    """A line and two standard errors on either side; returns its colour."""
    mean, error = np.array(mean), np.array(error)
    (drawn,) = axes.plot(x, mean, label=label, **style)
    axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=drawn.get_color(), alpha=0.25, linewidth=0)
    return drawn.get_color()


def curve(axes, seeds: list[Result], column: str, label: str, sign: int = 1):
    """The mean over the seeds, each of which has a standard error of its own."""
    error = np.sqrt(np.sum([seed[f"{column}_se"] ** 2 for seed in seeds], axis=0)) / len(seeds)
    line(axes, seeds[0][EPISODE], sign * np.mean([seed[column] for seed in seeds], axis=0), error, label, linewidth=1)


def draw(results: Results, folder) -> dict[str, str]:
    sections = {section: Results(folder.parent / section) for section in ("sarsa", "q_learning")}
    found = {method: sections[section][name] for method, (name, section) in CLIFF.items()}
    published = {(r["method"], r["quantity"]): float(r["value"]) for r in plot.published("cliff")}
    with plot.figure(folder / "cliff.png", size=(7.5, 4.5)) as (axes,):
        for method, seeds in found.items():
            curve(axes, seeds, RETURN, method)
            axes.plot([400, 500], [published[method, "online"]] * 2, color="black", linestyle="--", linewidth=1.5)
        axes.plot([], [], color="black", linestyle="--", linewidth=1.5, label="published, episodes 400 to 500")
        axes.set(xlabel="episode", ylabel="return while learning", ylim=(-100, -10))
        axes.set_title("Cliff walking (Example 6.6)")
    rows, within, seconds = [], 0, {}
    for method, seeds in found.items():
        cells = [method]
        for column, quantity, rounding in ((ONLINE, "online", 0.05), (GREEDY, "greedy", 0.5)):
            (mean, error), theirs = pooled(seeds, column), published[method, quantity]
            both = math.hypot(error, error * math.sqrt(500 * len(seeds) / 200))  # theirs: the same over 200 runs
            within += abs(mean - theirs) <= 2 * both + rounding
            cells += [with_error(column)(seeds), f"{theirs:g}"]
        ours = plot.mean(seed.cpu for seed in seeds)  # CPU seconds of 500 runs of 500 episodes
        peer = plot.mean(float(row["cpu_seconds"]) for row in plot.published("cliff_speed", method=method))
        rows.append([*cells, share_ended(seeds), f"{ours:.1f}", plot.number(peer)])
        seconds[method] = ours, peer
    header = ["cliff walking", "online, episodes 400 to 500", "published", "greedy afterwards", "published"]
    header += ["greedy episodes that end", "CPU seconds", "peer's"]
    ours, theirs = np.sum([seconds[method] for method in ("SARSA", "Q-learning")], axis=0)
    online, greedy = (pooled(found["SARSA"], column)[0] for column in (ONLINE, GREEDY))
    return {
        "table": plot.table(header, rows),
        "within": f"{within} of {2 * len(rows)}",
        "faster": f"{theirs / ours:.0f} times",
        "number": f"{online:.1f} online, {greedy:.0f} greedy on the cliff (published: -27.9, -17)",
    }
