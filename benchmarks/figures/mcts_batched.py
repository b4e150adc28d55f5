"""The figure and the page of algos/mcts_batched.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, ORANGE, Result, Results, machines, median, number, ratios, save, table

SPEED = "time/simulations_per_second"
COLUMNS = ["global_step", "charts/running", SPEED, "eval/episodic_return", "eval/losses"]
ROOTS = (16, 64, 256, 1024)
GAMES = {"tictactoe": ("tic-tac-toe", BLUE, ROOTS), "connect": ("Connect Four", ORANGE, (64, 256))}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing that a thinned csv would blur."""
    return {}


def speed(result: Result) -> float:
    return result.final(SPEED)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    ours, theirs = results["mcts-batched-tictactoe-256"], results["mctx-speed"]
    if not ours or not theirs:
        return {}
    figure, rows = Figure(figsize=(6.5, 4), layout="constrained"), []
    axes = figure.subplots()
    for game, (label, color, positions) in GAMES.items():
        for roots in positions:
            seeds = results[f"mcts-batched-{game}-{roots}"]
            if seeds:
                score = number(float(np.mean([seed.final("eval/episodic_return") for seed in seeds])))
                lost = number(100 * float(np.mean([seed.final("eval/losses") for seed in seeds])))
                rows.append([label, str(roots), median(map(speed, seeds)), score, lost])
        points = [(roots, speed(seed)) for roots in positions for seed in results[f"mcts-batched-{game}-{roots}"]]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    axes.plot([256] * len(theirs), list(map(speed, theirs)), "x", color="black", label="mctx, tic-tac-toe")
    axes.set(xscale="log", yscale="log", xlabel="positions side by side", ylabel="simulations per CPU second, one core")
    axes.set_xticks(ROOTS, [f"{roots:,}" for roots in ROOTS])
    axes.minorticks_off()
    axes.set_yticks((20_000, 50_000, 100_000, 200_000), ("20,000", "50,000", "100,000", "200,000"))
    axes.legend(frameon=False)
    save(figure, folder / "speed.png")
    quotient = ratios(ours, theirs, speed)
    header = ["100 simulations per move", "positions", "simulations per CPU second", "mean result", "games lost (%)"]
    text = f"""# Batched Monte-Carlo tree search

The algorithm is [mcts.py](../mcts/README.md)'s UCT ([Kocsis & Szepesvari 2006](https://doi.org/10.1007/11871842_29));
the claim here is speed from many positions at once, beside mctx 0.0.71, whose search is batched as well.

    ./benchmark.sh mcts_batched    # python algos/mcts_batched.py --total-episodes 512 --simulations 100, ...

![Simulations per CPU second over the number of positions](speed.png)

{table(header, rows)}

256 positions of tic-tac-toe at 100 simulations, one core, median (range) of {len(ours)} seeds: ours
{median(map(speed, ours))}, mctx {median(map(speed, theirs))} simulations per CPU second, quotient {median(quotient)}.
mctx selects by PUCT with equal priors, so it is another search at equal simulations; compiling it is not timed; its
board and rollout are benchmarks/peers/mctx_search.py. Results are against random moves, first move in
turns; of two games side by side one is searched at a time, so `positions` is half of --total-episodes.

Measured on: {machines(result for seeds in results.all.values() for result in seeds)}.
"""
    (folder / "README.md").write_text(text)
    mean, peer = (number(float(np.median([speed(seed) for seed in seeds]))) for seeds in (ours, theirs))
    return {"mcts_batched-number": f"{mean} simulations of tic-tac-toe per CPU second (mctx: {peer})"}
