"""Figures and tables of algos/mcts_batched.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results, median, number

SPEED = "time/simulations_per_second"
COLUMNS = ["global_step", SPEED, "eval/episodic_return"]
ROOTS = (16, 64, 256, 1024)
GAMES = {"tictactoe": ("tic-tac-toe", ROOTS), "connect": ("Connect Four", (64, 256))}


def speed(result: plot.Result) -> float:
    return result.final(SPEED)


def draw(results: Results, folder) -> dict[str, str]:
    ours, theirs, rows = results["mcts-batched-tictactoe-256"], results["mctx-speed"], {}
    with plot.figure(folder / "speed.png", size=(6.5, 4)) as (axes,):
        for game, (label, positions) in GAMES.items():
            runs = {roots: results[f"mcts-batched-{game}-{roots}"] for roots in positions}
            rows |= {(label, str(roots)): seeds for roots, seeds in runs.items()}
            points = [(roots, speed(seed)) for roots, seeds in runs.items() for seed in seeds]
            axes.plot(*zip(*points, strict=True), "o-", label=label)
        axes.plot([256] * len(theirs), list(map(speed, theirs)), "x", color="black", label="mctx, tic-tac-toe")
        axes.set(xscale="log", yscale="log", xlabel="positions side by side")
        axes.set(ylabel="simulations per CPU second, one core", ylim=(1e4, 1e6))
    columns = {"simulations per CPU second": lambda seeds: median(map(speed, seeds))}
    middle, peer = (number(plot.sorted_median(list(map(speed, seeds)))) for seeds in (ours, theirs))
    return {
        "table": plot.beside(("100 simulations per move", "positions"), rows, columns),
        "ours": median(map(speed, ours)),
        "mctx": median(map(speed, theirs)),
        "quotient": median(plot.ratios(ours, theirs, speed)),
        "number": f"{middle} simulations of tic-tac-toe per CPU second (mctx: {peer})",
    }
