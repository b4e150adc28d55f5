"""Figures and tables of algos/sarsa_lambda.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.figures import sarsa
from benchmarks.figures.sarsa import GREEDY, ONLINE, RETURN, curve, pooled, share_ended, with_error
from benchmarks.plot import Results

HAND = ["hand/ace", "hand/total", "hand/dealer", "hand/hit", "hand/best_hit", "hand/loss"]
COLUMNS = [*sarsa.COLUMNS, *HAND]
WINDY = {
    "λ = 0 (SARSA), step size 0.5": "sl-windy-0",
    "λ = 0.8, replacing traces": "sl-windy-replacing",
    "λ = 0.8, clearing": "sl-windy-clearing",
    "λ = 0.8, accumulating traces": "sl-windy-accumulating",
    "Watkins's Q(0.8)": "sl-windy-watkins",
}
CLIFF = {"SARSA(0.8)": "sl-cliff-sarsa", "Watkins's Q(0.8)": "sl-cliff-watkins"}


def draw(results: Results, folder) -> dict[str, str]:
    windy, cliff = ({label: results[name] for label, name in names.items()} for names in (WINDY, CLIFF))
    with plot.figure(folder / "windy.png", size=(7.5, 4.2)) as (axes,):
        for label, seeds in windy.items():
            curve(axes, seeds, RETURN, label, sign=-1)
        axes.axhline(15, color=plot.GREY, linestyle=":", label="shortest path: 15")
        axes.set(xscale="log", yscale="log", xlabel="episode", ylabel="steps", title="Windy gridworld, mean of 50 runs")
        axes.set(xlim=(1, 500), ylim=(12, 2000))
    columns = {
        "online, last 100 of 500 episodes": with_error(ONLINE),
        "greedy afterwards": with_error(GREEDY),
        "greedy episodes that end": share_ended,
    }
    (blackjack,) = results["sl-blackjack"]
    # Figure 5.2: where to hit, without and with a usable ace
    with plot.figure(folder / "blackjack.png", columns=2, size=(9, 4)) as panels:
        for ace, axes in enumerate(panels):
            mine = blackjack["hand/ace"] == ace
            hits, best = (blackjack[column][mine].reshape(9, 10) for column in ("hand/hit", "hand/best_hit"))
            axes.imshow(hits, origin="lower", extent=(0.5, 10.5, 11.5, 20.5), cmap="Blues", vmin=-0.3, vmax=1.6)
            for total, dealer in np.argwhere(hits != best):
                axes.plot(dealer + 1, total + 12, "x", color=plot.VERMILLION, markersize=9)
            axes.set_xticks(range(1, 11), ["A", *map(str, range(2, 11))])
            axes.set(yticks=range(12, 21), xlabel="dealer shows", ylabel="player's total")
            axes.set_title("usable ace" if ace else "no usable ace")
            axes.grid(False)
        axes.figure.suptitle("Blackjack: dark is hit, light is stick; a cross where the exact solution does otherwise")
    value, optimum, different, alone, error = (
        blackjack.final(f"eval/{name}") for name in ("value", "optimum", "different", "value_alone", "value_alone_se")
    )
    traces, none = (-pooled(results[name], ONLINE)[0] for name in ("sl-windy-replacing", "sl-windy-0"))
    return {
        "windy": plot.beside("return", windy, columns),
        "cliff": plot.beside("return", cliff, columns),
        "steps": f"{int(blackjack.final('global_step')):,}",
        "value": f"{value:.4f}",
        "optimum": f"{optimum:.4f}, by dynamic programming: missed by {optimum - value:.4f}",
        "different": f"{different:.0f} of 180",
        "loss": f"{blackjack['hand/loss'].max():.4f}",
        "alone": f"{alone:.4f} ± {error:.4f}",
        "number": f"{traces:.1f} steps through the wind (SARSA: {none:.1f}); Blackjack {value:.4f} (optimum "
        f"{optimum:.4f})",
    }
