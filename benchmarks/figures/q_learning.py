"""Figures and tables of algos/q_learning.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.sarsa import COLUMNS, EPISODE, GREEDY, ONLINE, RETURN, pooled, share_ended, with_error

__all__ = ["COLUMNS", "draw"]

DOORS = {"greedy": "no exploration", "fixed": "epsilon 0.1", "decaying": "epsilon from 1 to 0"}


def draw(results: plot.Results, folder) -> dict[str, str]:
    doors = {label: results[f"q-doors-{kind}"] for kind, label in DOORS.items()}
    with plot.figure(folder / "doors.png", size=(7.5, 4)) as (axes,):
        for (label, (result,)), color in zip(doors.items(), (plot.VERMILLION, plot.BLUE, plot.GREEN), strict=True):
            axes.plot(result[EPISODE], result[RETURN], color=color, linewidth=0.4, alpha=0.4)
            axes.plot(result[EPISODE], result[ONLINE], color=color, label=label)
        axes.axhline(10, color=plot.GREY, linestyle=":", label="always the second door: 10")
        axes.axhline(20 / 11, color=plot.GREY, linestyle="--", label="no exploration, exact: 20/11")
        axes.set(xlabel="episode", ylabel="return (mean of the last 100 episodes)")
        axes.set_title("Two doors, mean of 2,000 runs")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.2))
    theirs = {row["quantity"]: row["value"] for row in plot.published("cliff", method="Q-learning")}
    columns = {"online, last 100 episodes": with_error(ONLINE), "greedy afterwards": with_error(GREEDY)}
    cliff = {
        "epsilon 0.1": results["q-cliff"],
        "epsilon 1: a random policy, 30 episodes of 100 runs": results["q-cliff-random"],
    }
    both, last = columns | {"greedy episodes that end": share_ended}, [theirs["online"], theirs["greedy"], "100 %"]
    online, greedy = (pooled(results["q-cliff"], column)[0] for column in (ONLINE, GREEDY))
    return {
        "doors": plot.beside("two doors, 500 episodes of 2,000 runs", doors, columns),
        "cliff": plot.beside("cliff", cliff, both, [["published", *last]]),
        "number": f"{online:.1f} online, {greedy:.0f} greedy on the cliff (published: -50.6, -13)",
    }
