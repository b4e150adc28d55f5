"""Figures and tables of algos/mcts.py and algos/mcts_batched.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    Result,
    Results,
    machines,
    median,
    not_run,
    number,
    save,
    spread,
    table,
)

ORDERS = ("first", "second")
COLUMNS = ["global_step", "charts/episodic_return", "charts/mean_return", "charts/standard_error", "match/score"]
COLUMNS += [f"random/{outcome}_{order}" for order in ORDERS for outcome in ("won", "drawn", "lost")]
COLUMNS += [f"perfect/{outcome}_{order}" for order in ORDERS for outcome in ("won", "drawn", "lost")]
COLUMNS += [f"perfect_play/won_{order}" for order in ORDERS]
COLUMNS += ["maze/right", "maze/right_by_chance"]
SEARCHES = {
    "simple": ("simple Monte-Carlo search", GREY),
    "post": ("the post's rule: greedy on the averages", ORANGE),
    "uct": ("UCT", BLUE),
    "td": ("TD search", GREEN),
}
EXACT, CONNECT = (10, 30, 100, 300, 1000), (30, 100)  # simulations per move
MOST = {"first": 0.9948, "second": 0.9164}  # won by the best of all perfect players against a random one


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def searches_figure(results: Results, path: Path):
    """Tic-tac-toe against random and perfect play, the maze, Connect Four against UCT: over simulations per move."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    (random_play, perfect_play), (cells, connect) = figure.subplots(2, 2)
    empty = {random_play: True, perfect_play: True, cells: True, connect: True}
    for name, (label, color) in SEARCHES.items():
        panels = [(random_play, "tictactoe", "random/won_second"), (perfect_play, "tictactoe", "perfect/lost_second")]
        for axes, task, column in [*panels, (cells, "maze", "maze/right")]:
            seeds = results[f"mcts-{task}-{name}"]
            for seed in seeds:
                axes.plot(seed["global_step"], 100 * seed[column], "o-", color=color, markersize=3, linewidth=0.6)
            if seeds:
                mean = 100 * np.mean([seed[column] for seed in seeds], axis=0)
                axes.plot(seeds[0]["global_step"], mean, color=color, linewidth=2, label=label)
                empty[axes] = False
        games = [(n, seed) for n in CONNECT for seed in results[f"mcts-connect-{n}-{name}"]]
        if games:
            scores = [50 + 50 * game.final("charts/mean_return") for _, game in games]
            errors = [50 * game.final("charts/standard_error") for _, game in games]
            x = [n * 1.03 ** (list(SEARCHES).index(name) - 1.5) for n, _ in games]
            connect.errorbar(x, scores, errors, fmt="o-", color=color, capsize=3, label=label)
            empty[connect] = False
    bars = [seed[f"perfect_play/won_{order}"] for order in ORDERS[1:] for seed in results["mcts-tictactoe-uct"][:1]]
    for bar in bars:
        random_play.axhline(
            100 * bar[0], color=VERMILLION, linestyle="--", linewidth=1, label="perfect play, ties random"
        )
        random_play.axhline(100 * MOST["second"], color=VERMILLION, linestyle=":", linewidth=1, label="its best case")
    for seed in results["mcts-maze-uct"][:1]:
        cells.axhline(100 * seed["maze/right_by_chance"][0], color=GREY, linestyle=":", linewidth=1, label="by chance")
        cells.legend(frameon=False, fontsize=8, handles=cells.lines[-1:])
    connect.axhline(50, color=GREY, linewidth=0.8)
    random_play.set(title="Tic-tac-toe, moving second, against random", ylabel="won (%), over all lines of play")
    perfect_play.set(title="Tic-tac-toe, moving second, against perfect", ylabel="lost (%), over all lines of play")
    cells.set(title="Dyna maze, one player", ylabel="a step nearer to the goal (%), over 46 cells")
    connect.set(title="Connect Four against UCT at equal simulations", ylabel="score (%), 200 games")
    for axes, is_empty in empty.items():
        counts = {random_play: EXACT, perfect_play: EXACT, cells: EXACT[:-1], connect: CONNECT}[axes]
        axes.set(xscale="log", xlabel="simulations per move")
        axes.minorticks_off()
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.grid(alpha=0.25)
        if is_empty:
            not_run(axes)
    connect.set_xlim(CONNECT[0] / 1.5, CONNECT[-1] * 1.5)  # the points stand beside each other around the ticks
    if not empty[random_play]:
        figure.legend(*random_play.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def percent(seeds: list[Result], column: str) -> str:
    """The last row's share, all seeds."""
    return spread(100 * seed.final(column) for seed in seeds)


def tictactoe_table(results: Results) -> str:
    rows = []
    for name, (label, _) in SEARCHES.items():
        seeds = results[f"mcts-tictactoe-{name}"]
        lost = (
            [
                max(100 * seed.final(f"{who}/lost_{order}") for seed in seeds)
                for who in ("random", "perfect")
                for order in ORDERS
            ]
            if seeds
            else [math.nan]
        )
        won = [percent(seeds, f"random/won_{order}") for order in ORDERS]
        rows.append([label, *won, *(percent(seeds, f"perfect/lost_{order}") for order in ORDERS), number(max(lost))])
    uct = results["mcts-tictactoe-uct"][:1]
    rows.append(
        [
            "perfect play, ties at random",
            *(percent(uct, f"perfect_play/won_{order}") for order in ORDERS),
            "0.00",
            "0.00",
            "0.00",
        ]
    )
    header = [
        "1,000 simulations per move (%)",
        "beats random, first",
        "second",
        "loses to perfect, first",
        "second",
        "most lost, any seed",
    ]
    return table(header, rows)


def speed_table(results: Results) -> str:
    speed, batched, mctx = results["openspiel-speed"], results["mcts-batched-speed"], results["mctx-speed"]
    rows = []
    for game in ("tic-tac-toe", "connect-four"):
        numbers = [median(seed.final(f"{game}/{column}") for seed in speed) for column in ("ours", "theirs", "ratio")]
        rows.append([f"one tree, {game}: open_spiel's Python search", *numbers])
    ours, theirs = ([seed.final("time/simulations_per_second") for seed in seeds] for seeds in (batched, mctx))
    ratio = [a / b for a, b in zip(ours, theirs, strict=False)]
    rows.append(["256 positions side by side, tic-tac-toe: mctx", median(ours), median(theirs), median(ratio)])
    return table(["simulations per CPU second, median (range)", "ours", "the other", "quotient"], rows)


def match_line(results: Results) -> str:
    for seed in results["openspiel-match"]:
        games, score, error = (seed.final(c) for c in ("global_step", "match/score", "match/standard_error"))
        return f"{100 * score:.1f} % ± {100 * error:.1f} of the points in {games:,.0f} games"
    return "not run"


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the tables. Returns the README's blocks."""
    searches_figure(results, folder / "searches.png")
    everything = [result for seeds in results.all.values() for result in seeds]
    match = (
        "Connect Four against open_spiel's C++ search, which is the same algorithm, 100 simulations per move on either "
        f"side, its bonus 2, ours 1.4, first move in turns: {match_line(results)}."
    )
    notes = (
        "Tic-tac-toe is judged over all lines of play, each reply weighed as the opponent would choose it; ± is over "
        "seeds. `most lost` is the largest share lost to a random or a perfect opponent in either order: 0.00 means "
        "that no line of play loses. Connect Four in the figure: 200 games each, bars are standard errors. The maze: "
        "one decision in each of the 46 cells; right is one that leads a step nearer to the goal."
    )
    parts = ["# Monte-Carlo tree search", tictactoe_table(results), speed_table(results), match, notes]
    parts.append(
        "Speed was measured on a shared and busy machine, in CPU seconds of one thread; open_spiel's and one tree of "
        "ours in turns in one process, mctx's and ours from many positions one process after the other. "
        f"Measured on: {machines(everything)}."
    )
    (folder / "tables.md").write_text("\n\n".join(parts) + "\n")
    blocks = {}
    batched = [seed.final("time/simulations_per_second") for seed in results["mcts-batched-speed"]]
    if batched:
        blocks["mcts_batched-number"] = f"{median(batched)} simulations of tic-tac-toe per CPU second, 256 side by side"
    uct = results["mcts-tictactoe-uct"]
    if not uct:
        return blocks
    lost = max(seed.final(f"{who}/lost_{order}") for seed in uct for who in ("random", "perfect") for order in ORDERS)
    won = [percent(uct, f"random/won_{order}") for order in ORDERS]
    perfect = [percent(uct[:1], f"perfect_play/won_{order}") for order in ORDERS]
    never = "loses no line of tic-tac-toe" if lost == 0 else f"loses {100 * lost:.2f} % of the lines of tic-tac-toe"
    text = f"{never} at 1,000 simulations ({len(uct)} seeds); beats random {won[0]} % first, {won[1]} % second"
    return blocks | {"mcts-number": f"{text} (perfect play, ties at random: {perfect[0]} %, {perfect[1]} %)"}
