"""Figure and tables of algos/dyna2.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Result,
    Results,
    machines,
    median,
    not_run,
    number,
    save,
    table,
)

COLUMNS = ["global_step", "charts/episodic_length", "charts/episodic_length_error", "charts/games"]
COLUMNS += ["eval/points_random", "match/points", "match/error", "match/games"]
MATCHES = {
    "dyna2-short-uct": ("short-term memory alone", "UCT", 100),
    "dyna2-both-uct": ("both memories", "UCT", 100),
    "dyna2-long-uct": ("long-term memory alone, no search", "UCT", 100),
    "dyna2-both-short": ("both memories", "short-term memory alone", 100),
    "dyna2-both-long": ("both memories", "long-term memory alone, no search", 100),
    "dyna2-short-uct-30": ("short-term memory alone", "UCT", 30),
    "dyna2-both-uct-30": ("both memories", "UCT", 30),
}
MEMORIES = {"long": ("long-term memory alone", BLUE), "short": ("short-term alone", ORANGE), "both": ("both", GREEN)}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def pooled(seeds: list[Result], column: str = "match/points") -> tuple[float, float, int]:
    """All seeds' games as one match: points and their standard error in percent, games. NaN without any."""
    if not seeds:
        return math.nan, math.nan, 0
    games = np.array([seed.final("match/games") for seed in seeds])
    points = np.array([seed.final(column) for seed in seeds])
    variances = (games * np.array([seed.final("match/error") for seed in seeds])) ** 2  # of the sums of points
    total = games.sum()
    return 100 * (games * points).sum() / total, 100 * variances.sum() ** 0.5 / total, int(total)


def draw_figure(results: Results, path: Path):
    """The long-term memory while it learns; who beats whom; the cliff."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    learning, matches, cliff = figure.subplots(1, 3)
    empty = {learning: True, matches: True, cliff: True}
    for seed in results["dyna2-learn"]:
        known = ~np.isnan(seed["eval/points_random"])
        line = seed["charts/games"][known], 100 * seed["eval/points_random"][known]
        label = "against random play" if empty[learning] else None
        learning.plot(*line, "o-", color=GREY, markersize=3, linewidth=0.8, label=label)
        empty[learning] = False
    for i, seed in enumerate(results["dyna2-long-uct"]):
        line = seed["global_step"], 100 * seed["match/points"], 100 * seed["match/error"]
        label = "against UCT, 100 simulations" if i == 0 else None
        learning.errorbar(*line, fmt="o-", color=BLUE, markersize=4, capsize=3, label=label)
        empty[learning] = False
    learning.set(title="Long-term memory alone, without search", xscale="log")
    learning.set(xlabel="games played against itself", ylabel="points (%)", ylim=(0, 119))

    shown = [(name, pooled(results[name])) for name in MATCHES]
    shown = [(name, *found) for name, found in shown if found[2]][::-1]
    for y, (_, points, error, _) in enumerate(shown):
        matches.errorbar(points, y, xerr=error, fmt="o", color=GREEN if points > 50 else BLUE, capsize=4)
        matches.text(min(points, 88), y + 0.18, f"{points:.1f} ± {error:.1f}", ha="center", fontsize=8)
        empty[matches] = False
    labels = [f"{MATCHES[name][0]}\nagainst {MATCHES[name][1]} ({MATCHES[name][2]})" for name, *_ in shown]
    matches.set_yticks(range(len(shown)), labels, fontsize=8)
    matches.axvline(50, color=GREY, linewidth=0.8)
    matches.set(title="Connect Four (simulations per move)", xlabel="points (%), standard errors", xlim=(0, 101))
    matches.set_ylim(-0.5, max(0.5, len(shown) - 0.4))

    for memory, (label, color) in MEMORIES.items():
        for i, seed in enumerate(results[f"dyna2-cliff-{memory}"]):
            mean, error = seed["charts/episodic_length"], seed["charts/episodic_length_error"]
            cliff.fill_between(seed["update"], mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
            cliff.plot(seed["update"], mean, color=color, label=label if i == 0 else None)
            empty[cliff] = False
    cliff.axhline(13, color="black", linestyle=":", linewidth=1, label="shortest way")
    cliff.set(title="CliffWalking with a counted model", xlabel="episode", ylabel="real steps", yscale="log")
    for axes, is_empty in empty.items():
        axes.grid(alpha=0.25)
        if is_empty:
            not_run(axes)
        elif axes is not matches:
            axes.legend(frameon=False)
    save(figure, path)


def match_table(results: Results) -> str:
    rows = []
    for name, (ours, theirs, simulations) in MATCHES.items():
        seeds = results[name]
        points, error, games = pooled(seeds)
        first, second = (pooled(seeds, f"match/points_{order}")[0] for order in ("first", "second"))
        result = f"{points:.1f} ± {error:.1f}" if games else "not run"
        seconds = median([seed.final("time/ours") / seed.final("match/games") for seed in seeds])
        theirs_seconds = median([seed.final("time/theirs") / seed.final("match/games") for seed in seeds])
        cells = [ours, theirs, str(simulations), str(games), result, number(first), number(second)]
        rows.append([*cells, seconds, theirs_seconds])
    header = ["player", "against", "simulations per move", "games", "points (%)", "moving first", "moving second"]
    return table([*header, "CPU s a game", "its opponent's"], rows, left=2)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the tables. Returns the README's blocks."""
    draw_figure(results, folder / "dyna2.png")
    everything = [result for seeds in results.all.values() for result in seeds]
    learned = max((seed.final("global_step") for seed in results["dyna2-both-uct"]), default=math.nan)
    notes = (
        "Points: a win 1, a draw half. They move first in turns; ± is the standard error over all games. Each seed has "
        f"a long-term memory of its own, which has learned from {number(learned)} games that it played against itself "
        "without search. The short-term memory is kept from move to move and cleared after the game; UCT "
        "(algos/mcts.py, bonus 1.4) keeps nothing from one move to the next. CPU seconds: a shared and busy machine. "
        "The search's step size, lambda and epsilon are the best of seven settings tried in matches with the same UCT."
    )
    parts = ["# Dyna-2", match_table(results), "![Dyna-2](dyna2.png)", notes]
    parts.append(f"Measured on: {machines(everything)}.")
    (folder / "dyna2.md").write_text("\n\n".join(parts) + "\n")
    found = {name: pooled(results[name]) for name in ("dyna2-short-uct", "dyna2-both-uct")}
    if not all(games for _, _, games in found.values()):
        return {}
    short, both = (f"{points:.1f} ± {error:.1f} %" for points, error, _ in found.values())
    text = f"Connect Four against UCT, 100 simulations each: short-term memory alone {short} of the points, both {both}"
    return {"dyna2-number": f"{text} (paper, 9x9 Go: at least equal, and significantly better)"}
