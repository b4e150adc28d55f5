"""Figures and tables of algos/mcts.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

ORDERS = ("first", "second")
COLUMNS = ["global_step", "eval/episodic_return", "eval/episodic_return_error", "match/score"]
COLUMNS += [f"{who}/{what}_{order}" for who in ("random", "perfect") for what in ("won", "lost") for order in ORDERS]
COLUMNS += [f"perfect_play/won_{order}" for order in ORDERS]
SEARCHES = {
    "simple": "simple Monte-Carlo search",
    "greedy": "tree, greedy on the averages (exploration 0)",
    "uct": "UCT",
}
LOST = [f"{who}/lost_{order}" for who in ("random", "perfect") for order in ORDERS]
CONNECT = (10, 30, 100)  # simulations per move


def draw_figure(results: Results, path: Path):
    """Tic-tac-toe, moving second, and UCT against simple search at Connect Four, over simulations per move."""
    exact = results["mcts-tictactoe-uct"][0]["global_step"]
    with plot.figure(path, columns=3, size=(13, 4)) as (won, lost, connect):
        for name, label in SEARCHES.items():
            for axes, column in ((won, "random/won_second"), (lost, "perfect/lost_second")):
                lines = [100 * seed[column] for seed in results[f"mcts-tictactoe-{name}"]]
                (thick,) = axes.plot(exact, np.mean(lines, axis=0), "o-", linewidth=2, label=label)
                for line in lines:
                    axes.plot(exact, line, color=thick.get_color(), linewidth=0.5, alpha=0.6)
        share = 100 * results["mcts-tictactoe-uct"][0].final("perfect_play/won_second")
        won.axhline(share, color=plot.ORANGE, linestyle="--", label="perfect play, ties at random")
        games = [results[f"mcts-connect-{n}"][0] for n in CONNECT]  # independent games: nothing is kept between them
        scores = [50 + 50 * seed.final("eval/episodic_return") for seed in games]
        errors = [50 * seed.final("eval/episodic_return_error") for seed in games]
        connect.errorbar(CONNECT, scores, errors, fmt="o-", capsize=3)
        connect.axhline(50, color=plot.GREY, linewidth=0.8)
        won.set(title="Tic-tac-toe, second, against random", ylabel="won (%), over all lines of play")
        lost.set(title="Tic-tac-toe, second, against perfect", ylabel="lost (%), over all lines of play")
        connect.set(title="Connect Four: UCT against simple search", ylabel="points (%), 200 games", ylim=(45, 101))
        for axes, counts in ((won, exact), (lost, exact), (connect, CONNECT)):
            axes.set(xscale="log", xlabel="simulations per move")
            axes.minorticks_off()
            axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
        won.legend()


def never_lost(seeds: list[Result], simulations: int = 3000) -> str:
    """How many seeds lose no line of play, to a random or a perfect opponent, in either order."""
    return f"{sum(not any(seed.at(simulations, column) for column in LOST) for seed in seeds)} of {len(seeds)}"


def draw(results: Results, folder: Path) -> dict[str, str]:
    draw_figure(results, folder / "searches.png")
    columns = {
        "beats random, first": plot.column("random/won_first", scale=100),
        "beats random, second": plot.column("random/won_second", scale=100),
        "loses to perfect, first": plot.column("perfect/lost_first", scale=100),
        "loses to perfect, second": plot.column("perfect/lost_second", scale=100),
        "seeds that lose no line": never_lost,
    }
    uct = results["mcts-tictactoe-uct"]
    perfect = [plot.number(100 * uct[0].final(f"perfect_play/won_{order}")) for order in ORDERS]
    searches = {f"{label}, {len(results[f'mcts-tictactoe-{name}'])} seeds": results[f"mcts-tictactoe-{name}"]
                for name, label in SEARCHES.items()}  # fmt: skip
    speed = [
        [game, *(plot.median(seed.final(f"{game}/{c}") for seed in results["openspiel-speed"])
                 for c in ("ours", "theirs", "ratio"))]
        for game in ("tic-tac-toe", "connect-four")
    ]  # fmt: skip
    (match,) = results["openspiel-match"]
    score, error = (100 * match.final(f"match/{column}") for column in ("score", "standard_error"))
    return {
        "table": plot.beside(
            "3,000 simulations per move (%)",
            searches,
            columns,
            [["perfect play, ties at random", *perfect, "0.00", "0.00", "-"]],
        ),
        "never-lost-1000": never_lost(uct, 1000),
        "never-lost": never_lost(uct),
        "match": f"{score:.1f} ± {error:.1f} % of the points in {match.final('global_step'):,.0f} games",
        "speed": plot.table(["simulations per CPU second", "mcts.py", "open_spiel, Python", "quotient"], speed),
        "number": f"tic-tac-toe, 3,000 simulations: no line of play lost against any reply, {never_lost(uct)} seeds",
    }
