"""Figures and tables of algos/mcts.py, for benchmarks/plot.py."""

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


def never_lost(seeds: list[Result], simulations: int = 3000) -> str:
    """How many seeds lose no line of play, to a random or a perfect opponent, in either order."""
    return f"{sum(not any(seed.at(simulations, column) for column in LOST) for seed in seeds)} of {len(seeds)}"


def draw(results: Results, folder) -> dict[str, str]:
    ours = {label: results[f"mcts-tictactoe-{name}"] for name, label in SEARCHES.items()}
    with plot.figure(folder / "searches.png", columns=2, size=(10, 4)) as (lost, connect):
        words = {"title": "Tic-tac-toe, second, against perfect play", "ylabel": "share lost, over all lines of play"}
        plot.panel(lost, ours, "global_step", "perfect/lost_second", **words)
        games = [results[f"mcts-connect-{n}"][0] for n in CONNECT]  # independent games: nothing is kept between them
        scores = [0.5 + 0.5 * seed.final("eval/episodic_return") for seed in games]
        errors = [0.5 * seed.final("eval/episodic_return_error") for seed in games]
        connect.errorbar(CONNECT, scores, errors, fmt="o-", capsize=3)
        connect.axhline(0.5, color=plot.GREY, linewidth=0.8)
        connect.set(title="Connect Four: UCT against simple search", ylabel="share of the points, 200 games")
        for axes in (lost, connect):
            axes.set(xscale="log", xlabel="simulations per move", ylim=(-0.02, 1.02))
        lost.legend(loc="lower left")
    columns = {
        "seeds": plot.count,
        "beats random, first": plot.column("random/won_first", scale=100),
        "beats random, second": plot.column("random/won_second", scale=100),
        "loses to perfect, first": plot.column("perfect/lost_first", scale=100),
        "loses to perfect, second": plot.column("perfect/lost_second", scale=100),
        "seeds that lose no line": never_lost,
    }
    uct, (match,) = ours["UCT"], results["openspiel-match"]
    won = [plot.number(100 * uct[0].final(f"perfect_play/won_{order}")) for order in ORDERS]
    perfect = ["perfect play, ties at random", "-", *won, "0.00", "0.00", "-"]
    score, error = (100 * match.final(f"match/{column}") for column in ("score", "standard_error"))

    runs = results["openspiel-speed"]
    speeds = [
        [game, *(plot.median(seed.final(f"{game}/{who}") for seed in runs) for who in ("ours", "theirs", "ratio"))]
        for game in ("tic-tac-toe", "connect-four")
    ]
    return {
        "table": plot.beside("3,000 simulations per move (%)", ours, columns, [perfect]),
        "never-lost-1000": never_lost(uct, 1000),
        "never-lost": never_lost(uct),
        "match": f"{score:.1f} ± {error:.1f} % of the points in {match.final('global_step'):,.0f} games",
        "speed": plot.table(["simulations per CPU second", "mcts.py", "open_spiel, Python", "quotient"], speeds),
        "number": f"tic-tac-toe, 3,000 simulations: no line of play lost against any reply, {never_lost(uct)} seeds",
    }
