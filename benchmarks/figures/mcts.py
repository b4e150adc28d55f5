"""The figure and the page of algos/mcts.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
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
COLUMNS = ["global_step", "eval/episodic_return", "eval/episodic_return_error", "match/score"]
COLUMNS += [f"{who}/{what}_{order}" for who in ("random", "perfect") for what in ("won", "lost") for order in ORDERS]
COLUMNS += [f"perfect_play/won_{order}" for order in ORDERS]
SEARCHES = {
    "simple": ("simple Monte-Carlo search", GREY),
    "greedy": ("tree, greedy on the averages (exploration 0)", ORANGE),
    "uct": ("UCT", BLUE),
}
EXACT, CONNECT = (10, 30, 100, 300, 1000, 3000), (10, 30, 100)  # simulations per move


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def draw_figure(results: Results, path: Path):
    """Tic-tac-toe, moving second, and UCT against simple search at Connect Four, over simulations per move."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    random_play, perfect_play, connect = figure.subplots(1, 3)
    for name, (label, color) in SEARCHES.items():
        seeds = results[f"mcts-tictactoe-{name}"]
        for axes, column in ((random_play, "random/won_second"), (perfect_play, "perfect/lost_second")):
            for seed in seeds:
                axes.plot(seed["global_step"], 100 * seed[column], color=color, linewidth=0.5, alpha=0.6)
            if seeds:
                mean = 100 * np.mean([seed[column] for seed in seeds], axis=0)
                axes.plot(seeds[0]["global_step"], mean, "o-", color=color, linewidth=2, label=label)
    for seed in results["mcts-tictactoe-uct"][:1]:
        share = 100 * seed.final("perfect_play/won_second")
        random_play.axhline(share, color=VERMILLION, linestyle="--", label="perfect play, ties at random")
    games = [(n, seed) for n in CONNECT for seed in results[f"mcts-connect-{n}"]]
    if games:  # independent games: neither side keeps anything from game to game
        scores = [50 + 50 * seed.final("eval/episodic_return") for _, seed in games]
        errors = [50 * seed.final("eval/episodic_return_error") for _, seed in games]
        connect.errorbar([n for n, _ in games], scores, errors, fmt="o-", color=BLUE, capsize=3)
        connect.axhline(50, color=GREY, linewidth=0.8)
    else:
        not_run(connect)
    random_play.set(title="Tic-tac-toe, second, against random", ylabel="won (%), over all lines of play")
    perfect_play.set(title="Tic-tac-toe, second, against perfect", ylabel="lost (%), over all lines of play")
    connect.set(title="Connect Four: UCT against simple search", ylabel="points (%), 200 games", ylim=(45, 101))
    for axes, counts in ((random_play, EXACT), (perfect_play, EXACT), (connect, CONNECT)):
        axes.set(xscale="log", xlabel="simulations per move")
        axes.minorticks_off()
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.grid(alpha=0.25)
    random_play.legend(frameon=False, fontsize=8)
    save(figure, path)


def tictactoe_table(results: Results) -> str:
    rows = []
    for name, (label, _) in SEARCHES.items():
        seeds = results[f"mcts-tictactoe-{name}"]
        won = [spread(100 * seed.final(f"random/won_{order}") for seed in seeds) for order in ORDERS]
        lost = [spread(100 * seed.final(f"perfect/lost_{order}") for seed in seeds) for order in ORDERS]
        rows.append([f"{label}, {len(seeds)} seeds", *won, *lost, f"{never_lost(seeds)} of {len(seeds)}"])
    for seed in results["mcts-tictactoe-uct"][:1]:
        won = [number(100 * seed.final(f"perfect_play/won_{order}")) for order in ORDERS]
        rows.append(["perfect play, ties at random", *won, "0.00", "0.00", "-"])
    header = ["3,000 simulations per move (%)", "beats random, first", "second", "loses to perfect, first", "second"]
    return table([*header, "seeds that lose no line"], rows)


def never_lost(seeds: list, simulations: int = EXACT[-1]) -> int:
    """How many seeds lose no line of play, to a random or a perfect opponent, in either order."""
    columns = [f"{who}/lost_{order}" for who in ("random", "perfect") for order in ORDERS]
    return sum(all(seed[column][seed["global_step"] == simulations] == 0 for column in columns) for seed in seeds)


def speed_table(results: Results) -> str:
    rows, speed = [], results["openspiel-speed"]
    for game in ("tic-tac-toe", "connect-four"):
        numbers = [median(seed.final(f"{game}/{column}") for seed in speed) for column in ("ours", "theirs", "ratio")]
        rows.append([game, *numbers])
    header = ["simulations per CPU second, median (range) of seeds", "mcts.py", "open_spiel, Python", "quotient"]
    return table(header, rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    draw_figure(results, folder / "searches.png")
    uct, match = results["mcts-tictactoe-uct"], "not run"
    for seed in results["openspiel-match"]:
        games, score, error = (seed.final(c) for c in ("global_step", "match/score", "match/standard_error"))
        match = f"{100 * score:.1f} ± {100 * error:.1f} % of the points in {games:,.0f} games"
    if not uct:
        return {}
    text = f"""# Monte-Carlo tree search

[Kocsis & Szepesvari 2006](https://doi.org/10.1007/11871842_29): UCT's averages converge to the minimax values, where
averages of random games do not. They give no numbers for these games; perfect play and open_spiel are the references.

    ./benchmark.sh mcts     # python benchmarks/exact_tictactoe.py, python algos/mcts.py --env-id connect-four ...

![Three searches at equal simulations](searches.png)

{tictactoe_table(results)}

UCT loses no line of tic-tac-toe with {never_lost(uct, 1000)} of {len(uct)} seeds at 1,000 simulations and with
{never_lost(uct)} of {len(uct)} at 3,000; simple search and the greedy tree still lose to perfect play, since random
replies hide a refutation. Tic-tac-toe is judged over all lines of play (`benchmarks/exact_tictactoe.py`): the search
decides once in every position it can reach, each reply is weighed as the opponent would choose it; ± is the standard
deviation over seeds, thin lines are seeds. UCT beats random play more often than perfect play with random ties does,
because it prefers moves after which random replies lose.

Connect Four against open_spiel's C++ search (`mcts.py`'s algorithm, bonus 2), 100 simulations per move on either side,
ours with the bonus 1.4, first move in turns: {match}. The figure's games are independent; bars are standard errors.

{speed_table(results)}

Both search from the empty board with a bonus of 2, in turns in one process, one thread. Not run: open_spiel's C++
search in the speed table, since it is compiled code.

Measured on: {machines(result for seeds in results.all.values() for result in seeds)}.
"""
    (folder / "README.md").write_text(text)
    text = f"tic-tac-toe, 3,000 simulations: no line of play lost against any reply, {never_lost(uct)} of {len(uct)}"
    return {"mcts-number": f"{text} seeds"}
