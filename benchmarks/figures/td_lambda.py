"""Figures and tables of algos/td_lambda.py, for benchmarks/plot.py."""

import math

from benchmarks import plot
from benchmarks.figures.sarsa import line
from benchmarks.plot import Result, Results

RATES = [*(i / 200 for i in range(1, 11)), 0.06, 0.07, *(i / 20 for i in range(2, 21))]
ERROR, ERROR_SE = "eval/rms_error_{:g}", "eval/rms_error_se_{:g}"
AVERAGE, AVERAGE_SE = "eval/average_rms_error_{:g}", "eval/average_rms_error_se_{:g}"
COLUMNS = ["global_step", *(name.format(rate) for rate in RATES for name in (ERROR, ERROR_SE, AVERAGE, AVERAGE_SE))]
LAMBDAS = ["0", "0.4", "0.8", "0.9", "0.95", "0.975", "0.99", "1"]
PANELS = {  # method: figure of the book, title, settings
    "n-step": ("7.2", "n-step TD", [str(2**i) for i in range(10)]),
    "lambda-return": ("12.3", "offline λ-return", LAMBDAS),
    "td-lambda": ("12.6", "TD(λ), accumulating traces", LAMBDAS),
    "true-online": ("12.8", "true online TD(λ)", LAMBDAS),
}


def rates(result: Result) -> list[float]:
    """The step sizes of a run."""
    return [rate for rate in RATES if ERROR.format(rate) in result.columns]


def average(result: Result, rate: float) -> tuple[float, float]:
    """RMS error on average over the episodes, and its standard error."""
    return result.final(AVERAGE.format(rate)), result.final(AVERAGE_SE.format(rate))


def best(result: Result) -> float:
    """The step size with the least error on average over the episodes."""
    return min(rates(result), key=lambda rate: average(result, rate))


def decimals(pair: tuple[float, float], digits: int) -> str:
    return " ± ".join(f"{x:.{digits}f}".removeprefix("0") for x in pair)


def draw(results: Results, folder) -> dict[str, str]:
    # a cross without a published step size stands at our best one
    with plot.figure(folder / "rates.png", 2, 2, size=(15, 9), sharey=True) as panels:
        for axes, (method, (number, title, settings)) in zip(panels, PANELS.items(), strict=True):
            axes.set_prop_cycle(color=[*plot.COLORS, "#7F4F24", "#BBBBBB"])
            for setting in settings:
                (result,) = results[f"td-{method}-{setting}"]
                errors = zip(*(average(result, rate) for rate in rates(result)), strict=True)
                color = line(axes, rates(result), *errors, f"{'n' if method == 'n-step' else 'λ'} = {setting}")
                for row in plot.published("td_lambda", figure=number, setting=setting):
                    x = float(row["step_size"] or best(result))
                    axes.plot(x, float(row["rms"]), "x", color=color, markersize=7, markeredgewidth=1.6, zorder=5)
            axes.plot([], [], "x", color=plot.GREY, label="published best")
            axes.set(title=f"{title} (Figure {number})", xlabel="step size", ylim=(0.23, 0.55), xlim=(0, 1))
            axes.set_ylabel("RMS error, average over states\nand first 10 episodes")
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    lines, within = [], 0
    for row in plot.published("td_lambda"):
        kind, method, episode = row["figure"].removeprefix("6.2 "), row["method"], row["episode"]
        (result,) = results[f"td-{kind}-{method}" if episode else f"td-{method}-{row['setting']}"]
        if episode:
            rate, words = float(row["step_size"] or rates(result)[0]), f"after {episode} episodes"
            ours, error = (result[column.format(rate)][int(episode) - 1] for column in (ERROR, ERROR_SE))
        else:
            rate, words = best(result), f"{'n' if method == 'n-step' else 'λ'} = {row['setting']}"
            ours, error = average(result, rate)
        # theirs has the same spread over fewer runs; where the source gives a range, the smaller number counts
        theirs = error * math.sqrt(500 / int(row["runs"].split("-")[0]))
        off = (ours - float(row["rms"])) / math.hypot(error, theirs)
        within += abs(off) <= 2
        cells = [row["figure"], method, words, f"{rate:g}", decimals((ours, error), 4)]
        lines.append([*cells, row["rms"].removeprefix("0"), row["runs"], f"{off:+.1f}"])
    header = ["figure", "method", "", "step size", "RMS error ± standard error", "published", "runs", "difference"]
    (four,), (point_eight,) = results["td-n-step-4"], results["td-lambda-return-0.8"]
    four, point_eight = average(four, best(four)), average(point_eight, best(point_eight))
    seconds = [seed.cpu for seed in results]
    return {
        "within": f"{within} of {len(lines)}",
        "converged": " ± ".join(f"{x:.4f}" for x in point_eight),
        "table": plot.table(header, lines, left=3),
        "cpu": f"{min(seconds):.0f} to {max(seconds):.0f}; of all {len(seconds)} commands: {sum(seconds):.0f}",
        "number": f"RMS error, 19-state walk: n = 4 {decimals(four, 3)} (.262); λ = .8 {decimals(point_eight, 3)} "
        "(.243)",
    }
