"""The figure and the page of algos/dyna2.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, GREY, ORANGE, Results, machines, median, number, save, table

RANDOM, SHORT, LONG = "eval/points_random", "eval/points_short", "eval/points_long"
PLAYERS = {
    "both": "both memories",
    "short": "short-term memory alone",
    "long": "long-term memory alone, no search",
    "uct": "UCT (mcts.py)",
}
PAIRS = ["both:uct", "short:uct", "long:uct", "both:short", "both:long"]
OLD = {pair: f"dyna2-{pair.replace(':', '-')}" for pair in PAIRS}  # what the file at commit 7b0c269 made
COLUMNS = ["global_step", "charts/games", RANDOM, SHORT, LONG, *(f"match/{pair}" for pair in PAIRS)]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def percent(points: list[float]) -> str:
    """Mean points in percent and their standard error over seeds, each of which has a long-term memory of its own."""
    if not points:
        return "-"
    error = f" ± {100 * np.std(points, ddof=1) / len(points) ** 0.5:.1f}" if len(points) > 1 else ""
    return f"{100 * np.mean(points):.1f}{error}"


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    search, plain, matches = results["dyna2"], results["dyna2-no-search"], results["dyna2-match"]
    points = {pair: [seed.final(f"match/{pair}") for seed in matches] for pair in PAIRS}
    made_by, games, learned_from = "", 32, 61440
    if not matches:
        points = {pair: [seed.final("match/points") for seed in results[OLD[pair]]] for pair in PAIRS}
        made_by = "The matches and the curve without search were made by the file at commit 7b0c269, not by this one. "
        games, plain = 128, results["dyna2-learn"]
    if not all(points.values()):
        return {}
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    learning, panel = figure.subplots(1, 2)
    for seeds, color, label in ((search, GREEN, "Dyna-2, 10 simulations per move"), (plain, BLUE, "no search (Sarsa)")):
        for seed in seeds:
            known = ~np.isnan(seed[RANDOM])
            line = seed["charts/games"][known], seed[RANDOM][known]
            learning.plot(*line, ".-", color=color, linewidth=0.8, label=label if seed is seeds[0] else None)
    learning.set(title="Long-term memory alone, against random moves", xscale="log", ylim=(0.35, 1.01))
    learning.set(xlabel="games of self-play", ylabel="points")
    learning.legend(frameon=False)
    for y, pair in enumerate(reversed(PAIRS)):
        panel.plot([100 * x for x in points[pair]], [y] * len(points[pair]), "o", color=ORANGE, markersize=4)
        panel.plot(100 * np.mean(points[pair]), y, "|", color="black", markersize=18)
    labels = ["\nagainst ".join(PLAYERS[name] for name in pair.split(":")) for pair in reversed(PAIRS)]
    panel.set_yticks(range(len(PAIRS)), labels, fontsize=8)
    panel.axvline(50, color=GREY, linewidth=0.8)
    panel.set(title="Connect Four, 100 simulations per move", xlabel="points (%), a dot per seed", xlim=(0, 101))
    save(figure, folder / "dyna2.png")
    rows = [[*(PLAYERS[name] for name in pair.split(":")), percent(points[pair])] for pair in PAIRS]
    header = ["player", "against", f"points (%), {len(points[PAIRS[0]])} seeds"]
    learners = {"Dyna-2, 10 simulations per move": search, "no search (Sarsa)": results["dyna2-no-search"]}
    learned = [
        [f"{name}, seeds: {len(seeds)}", number(seeds[0].final("charts/games"), like=1000)]
        + [percent([seed.final(column) for seed in seeds]) for column in (RANDOM, SHORT, LONG)]
        + [median(seed.summary["cpu_seconds"] for seed in seeds)]
        for name, seeds in learners.items()
        if seeds
    ]
    head = ["learned by", "games", "long alone against random (%)", "both against short (%)", "both against long (%)"]
    text = f"""# Dyna-2

Silver, Sutton & Mueller 2008, "Sample-based learning and search with permanent and transient memories", 9x9 Go: the
transient (short-term) memory alone is at least as good as UCT at equal simulations, both memories are significantly
better. Here the game is Connect Four.

    ./benchmark.sh dyna2        # python algos/dyna2.py, python benchmarks/dyna2_match.py --pairs both:uct short:uct ...

![Learning curves of the long-term memory, and who beats whom](dyna2.png)

{table(header, rows, left=2)}

{verdict(points)} {made_by}{games} games per match and seed, first move in turns, a draw is half a point, 100
simulations before every move of a player that searches; ± is the standard error over seeds. Each seed has a long-term
memory of its own, learned from {learned_from:,} games of self-play without search. UCT keeps nothing from move
to move; the short-term memory is cleared after the game.

The default run learns by Dyna-2 itself, with search before every real move; evaluation at 20 simulations per move:

{table([*head, "CPU seconds"], learned)}

The search's step size, lambda and epsilon are the best of seven settings that were tried in matches with the same UCT.

Measured on: {machines(result for seeds in results.all.values() for result in seeds)}.
"""
    (folder / "README.md").write_text(text)
    short, both = percent(points["short:uct"]), percent(points["both:uct"])
    text = f"Connect Four against UCT: short-term memory {short} % of the points, both {both} %"
    return {"dyna2-number": text}


def verdict(points: dict[str, list[float]]) -> str:
    mean = {pair: np.mean(values) for pair, values in points.items()}
    above = [pair for pair in ("both:uct", "both:short", "both:long") if mean[pair] > 0.5]
    if len(above) == 3 and mean["short:uct"] >= 0.5:
        return "As in the paper, the short-term memory alone beats UCT, and both memories beat either alone and UCT."
    return f"Of the paper's claims these hold: above one half in {', '.join(above)}."
