"""Figures and tables of algos/dyna2.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Results

RANDOM, SHORT, LONG = "eval/points_random", "eval/points_short", "eval/points_long"
PLAYERS = {
    "both": "both memories",
    "short": "short-term memory alone",
    "long": "long-term memory alone, no search",
    "uct": "UCT (mcts.py)",
}
PAIRS = ["both:uct", "short:uct", "long:uct", "both:short", "both:long"]
COLUMNS = ["global_step", "charts/games", RANDOM, SHORT, LONG, *(f"match/{pair}" for pair in PAIRS)]


def percent(points: list[float]) -> str:
    """Mean points in percent and their standard error over seeds, each of which has a long-term memory of its own."""
    error = f" ± {100 * np.std(points, ddof=1) / len(points) ** 0.5:.1f}" if len(points) > 1 else ""
    return f"{100 * np.mean(points):.1f}{error}"


def draw(results: Results, folder) -> dict[str, str]:
    points = {pair: [seed.final(f"match/{pair}") for seed in results["dyna2-match"]] for pair in PAIRS}
    learners = {
        "Dyna-2, 10 simulations per move": results["dyna2"],
        "no search (Sarsa)": results["dyna2-no-search"],
    }
    with plot.figure(folder / "dyna2.png") as (axes,):
        words = {"title": "Long-term memory alone, against random moves", "xlabel": "games of self-play"}
        plot.panel(axes, learners, "charts/games", RANDOM, xscale="log", ylim=(0.35, 1.01), **words)
        axes.set_ylabel("share of the points")
    rows = [[*(PLAYERS[name] for name in pair.split(":")), percent(points[pair])] for pair in PAIRS]

    def score(column: str):
        return lambda seeds: percent([seed.final(column) for seed in seeds])

    columns = {
        "seeds": plot.count,
        "games": lambda seeds: f"{seeds[0].final('charts/games'):.0f}",
        "long alone against random (%)": score(RANDOM),
        "both against short (%)": score(SHORT),
        "both against long (%)": score(LONG),
        "CPU seconds": plot.cpu,
    }
    short, both = percent(points["short:uct"]), percent(points["both:uct"])
    return {
        "table": plot.table(["player", "against", f"points (%), {len(points[PAIRS[0]])} seeds"], rows, left=2),
        "learned": plot.beside("learned by", learners, columns),
        "number": f"Connect Four against UCT: short-term memory {short} % of the points, both {both} %",
    }
