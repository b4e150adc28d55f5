"""Figures and tables of algos/sarsa_lambda.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures import sarsa
from benchmarks.figures.sarsa import BOOK, GREEDY, ONLINE, RETURN, curve, facts, pooled, share, with_error
from benchmarks.plot import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, Result, Results, machines, save, table

__all__ = ["COLUMNS", "draw", "facts"]

COLUMNS = [
    *sarsa.COLUMNS,
    *("hand/ace", "hand/total", "hand/dealer", "hand/hit", "hand/best_hit", "hand/loss"),
]
WINDY = {
    "sl-windy-0": ("λ = 0 (SARSA), step size 0.5", VERMILLION),
    "sl-windy-replacing": ("λ = 0.8, replacing traces", BLUE),
    "sl-windy-clearing": ("λ = 0.8, clearing", GREEN),
    "sl-windy-accumulating": ("λ = 0.8, accumulating traces", ORANGE),
    "sl-windy-watkins": ("Watkins's Q(0.8)", PURPLE),
}
ZHANG_WINDY = f"Published: 20.4 steps in episodes 400 to 500 for one-step SARSA ({sarsa.ZHANG}, run for 50 runs)."
CLIFF = {"sl-cliff-sarsa": "SARSA(0.8)", "sl-cliff-watkins": "Watkins's Q(0.8)"}


def windy_figure(results: Results, path: Path):
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (label, color) in WINDY.items():
        curve(axes, results[name], RETURN, label, color, sign=-1)
    axes.axhline(15, color=GREY, linestyle=":", label="shortest path: 15")
    axes.set(xscale="log", yscale="log", xlabel="episode", ylabel="steps", title="Windy gridworld, mean of 50 runs")
    axes.set(xlim=(1, 500), ylim=(12, 2000))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)


def blackjack_figure(result: Result, path: Path):
    """Figure 5.2: where to hit, without and with a usable ace; a cross where the best policy does otherwise."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for ace, axes in enumerate(figure.subplots(1, 2)):
        mine = result["hand/ace"] == ace
        hits, best = (result[column][mine].reshape(9, 10) for column in ("hand/hit", "hand/best_hit"))
        axes.imshow(hits, origin="lower", extent=(0.5, 10.5, 11.5, 20.5), cmap="Blues", vmin=-0.3, vmax=1.6)
        for total, dealer in np.argwhere(hits != best):
            axes.plot(dealer + 1, total + 12, "x", color=VERMILLION, markersize=9)
        axes.set_xticks(range(1, 11), ["A", *map(str, range(2, 11))])
        title = "usable ace" if ace else "no usable ace"
        axes.set(yticks=range(12, 21), xlabel="dealer shows", ylabel="player's total", title=title)
    figure.suptitle("Blackjack: dark is hit, light is stick; a cross where the exact solution does otherwise")
    save(figure, path)


def blackjack_text(result: Result) -> str:
    value, optimum, different = (result.final(f"eval/{name}") for name in ("value", "optimum", "different"))
    lost = result["hand/loss"].max()
    at_most = f", where the other action is worth at most {lost:.4f} more" if different else ""
    alone = f"{result.final('eval/value_alone'):.4f} ± {result.final('eval/value_alone_se'):.4f}"
    return (
        f"{BOOK}, Figure 5.2: the optimal policy by Monte-Carlo control with exploring starts. Ours: λ = 1, epsilon "
        f"from 0.2 to 0.02, step size n^-0.9; {int(result.final('global_step')):,} steps of eight runs, whose values "
        f"are averaged by visits. The policy's exact value from a random deal is {value:.4f}; the optimum, by dynamic "
        f"programming, {optimum:.4f}: missed by {optimum - value:.4f}. {different:.0f} of 180 "
        f"decisions differ{at_most}. The policies of single runs: "
        f"{alone} (error over the eight runs)."
    )


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    if not all(results[name] for name in [*WINDY, *CLIFF]):
        return {}
    windy_figure(results, folder / "windy.png")
    header = ["online, last 100 of 500 episodes", "greedy afterwards", "greedy episodes that end"]
    windy, cliff = (
        [
            [label, with_error(results[name], ONLINE), with_error(results[name], GREEDY), share(results[name])]
            for name, label in names.items()
        ]
        for names in ({name: label for name, (label, _) in WINDY.items()}, CLIFF)
    )
    parts = [
        "# SARSA(lambda), Watkins's Q(lambda), Monte-Carlo control",
        f"{BOOK}, section 12.7: traces learn faster than one-step SARSA, replacing or accumulating; section 12.10: "
        "Watkins's Q(lambda) cuts its trace at each exploratory action.",
        "    ./benchmark.sh sarsa_lambda\n    python benchmarks/plot.py sarsa_lambda",
        "## Windy gridworld (Example 6.5)",
        "![windy gridworld](windy.png)",
        table(["return", *header], windy),
        "Mean ± standard error over 50 runs; epsilon 0.1, step size 0.2 with traces. "
        f"{ZHANG_WINDY} The shortest path takes 15 steps. SARSA without traces needs fewer steps in the first two "
        "episodes; replacing and accumulating traces need fewer from the fourth on, clearing (the traces of the "
        "state's other actions) from about the twelfth.",
        "## Cliff (Example 6.6)",
        table(["return", *header], cliff),
        "Step size 0.2 where [one-step SARSA and Q-learning](../sarsa/README.md) take 0.5; no published numbers are "
        "known to us.",
    ]
    blackjack = results["sl-blackjack"]
    if blackjack:
        blackjack_figure(blackjack[0], folder / "blackjack.png")
        parts += ["## Blackjack (Example 5.3)", "![Blackjack](blackjack.png)", blackjack_text(blackjack[0])]
    parts.append("Measured on: " + machines(seed for seeds in results.all.values() for seed in seeds) + ".")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    steps = -pooled(results["sl-windy-replacing"], ONLINE)[0]
    number = f"{steps:.1f} steps through the wind (SARSA: {-pooled(results['sl-windy-0'], ONLINE)[0]:.1f})"
    if blackjack:
        number += (
            f"; Blackjack {blackjack[0].final('eval/value'):.4f} (optimum {blackjack[0].final('eval/optimum'):.4f})"
        )
    return {"sarsa_lambda-number": number}
