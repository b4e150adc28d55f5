"""Figures and tables of algos/td_lambda.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

RATES = [*(i / 200 for i in range(1, 11)), 0.06, 0.07, *(i / 20 for i in range(2, 21))]
ERROR, ERROR_SE = "eval/rms_error_{:g}", "eval/rms_error_se_{:g}"
AVERAGE, AVERAGE_SE = "eval/average_rms_error_{:g}", "eval/average_rms_error_se_{:g}"
COLUMNS = ["global_step", *(name.format(rate) for rate in RATES for name in (ERROR, ERROR_SE, AVERAGE, AVERAGE_SE))]
LAMBDAS = ["0", "0.4", "0.8", "0.9", "0.95", "0.975", "0.99", "1"]
SETTINGS = {
    "n-step": [str(2**i) for i in range(10)],
    "lambda-return": LAMBDAS,
    "td-lambda": LAMBDAS,
    "true-online": LAMBDAS,
}
PANELS = {  # method: figure of the book, title
    "n-step": ("7.2", "n-step TD"),
    "lambda-return": ("12.3", "offline λ-return"),
    "td-lambda": ("12.6", "TD(λ), accumulating traces"),
    "true-online": ("12.8", "true online TD(λ)"),
}


def rates(result: Result) -> list[float]:
    """The step sizes of a run."""
    return [rate for rate in RATES if ERROR.format(rate) in result.columns]


def best(result: Result) -> float:
    """The step size with the least error on average over the episodes."""
    return min(rates(result), key=lambda rate: result.final(AVERAGE.format(rate)))


def average(result: Result, rate: float) -> tuple[float, float]:
    """RMS error on average over the episodes, and its standard error."""
    return result.final(AVERAGE.format(rate)), result.final(AVERAGE_SE.format(rate))


def decimals(pair: tuple[float, float], digits: int = 3) -> str:
    return " ± ".join(f"{x:.{digits}f}".replace("0.", ".", 1) for x in pair)


# --- figures ---------------------------------------------------------------------------------


def line(axes, x, mean, error, label: str, linestyle="-") -> str:
    """A line with two standard errors on either side; returns its colour."""
    mean, error = np.array(mean), np.array(error)
    (drawn,) = axes.plot(x, mean, label=label, linestyle=linestyle)
    axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=drawn.get_color(), alpha=0.2, linewidth=0)
    return drawn.get_color()


def walk_figure(results: Results, path: Path):
    """Example 6.2 and Figure 6.2, published numbers as crosses."""
    with plot.figure(path, columns=2, size=(11, 4.4)) as panels:
        for axes, kind, title in zip(
            panels, ("walk", "batch"), ("Example 6.2", "batch updating, Figure 6.2"), strict=True
        ):
            for method, name, linestyle in (("td", "TD(0)", "-"), ("monte-carlo", "Monte Carlo", "--")):
                (result,) = results[f"td-{kind}-{method}"]
                for rate in rates(result):
                    errors = (result[column.format(rate)] for column in (ERROR, ERROR_SE))
                    color = line(axes, result["update"], *errors, f"{name}, step size {rate:g}", linestyle)
                    for row in plot.published("td_lambda", figure=f"6.2 {kind}", method=method):
                        if float(row["step_size"] or rate) == rate:
                            axes.plot(int(row["episode"]), float(row["rms"]), "x", color=color, markersize=7)
            axes.plot([], [], "x", color=plot.GREY, label="published")
            axes.set(title=f"Five-state walk ({title})", xlabel="episodes", xlim=(0, 103), ylim=(0, 0.25))
            axes.set_ylabel("RMS error over states")


def rates_figure(results: Results, path: Path):
    """Figures 7.2, 12.3, 12.6 and 12.8; a cross without a published step size stands at our best one."""
    with plot.figure(path, 2, 2, size=(15, 9), sharey=True) as panels:
        for axes, (method, (number, title)) in zip(panels, PANELS.items(), strict=True):
            axes.set_prop_cycle(color=[*plot.COLORS, "#7F4F24", "#BBBBBB"])
            for setting in SETTINGS[method]:
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


# --- tables ----------------------------------------------------------------------------------


def compare(results: Results) -> tuple[str, str]:
    """The table of all published numbers beside ours; how many lie within two standard errors."""
    lines, within = [], 0
    for row in plot.published("td_lambda"):
        kind, method, episode = row["figure"].removeprefix("6.2 "), row["method"], row["episode"]
        (result,) = results[f"td-{kind}-{method}" if episode else f"td-{method}-{row['setting']}"]
        rate = rates(result)[0] if kind == "batch" else float(row["step_size"]) if episode else best(result)
        ours, error = average(result, rate)
        if episode:
            ours, error = (result[column.format(rate)][int(episode) - 1] for column in (ERROR, ERROR_SE))
        # theirs has the same spread over fewer runs; where the source gives a range, the smaller number counts
        num_runs = int(result.command.split("--num-runs ")[1].split()[0])
        theirs = error * math.sqrt(num_runs / int(row["runs"].split("-")[0]))
        off = (ours - float(row["rms"])) / math.hypot(error, theirs)
        within += abs(off) <= 2
        sign = "" if episode else "n = " if method == "n-step" else "λ = "
        their_rate = f" (step size {float(row['step_size']):g})" if row["step_size"] and not episode else ""
        measured = f"after {episode} episodes" if episode else "episodes 1 to 10"
        cells = [row["figure"], method, sign + row["setting"], measured, "" if kind == "batch" else f"{rate:g}"]
        cells += [decimals((ours, error), 4), decimals((float(row["rms"]),)) + their_rate, row["runs"], f"{off:+.1f}"]
        lines.append(cells)
    header = ["figure", "method", "", "measured", "step size", "RMS error ± standard error", "published", "runs"]
    return plot.table([*header, "difference"], lines, left=4), f"{within} of {len(lines)}"


def draw(results: Results, folder: Path) -> dict[str, str]:
    walk_figure(results, folder / "figure_6_2.png")
    rates_figure(results, folder / "rates.png")
    comparison, within = compare(results)
    least = []
    for method, settings in SETTINGS.items():
        runs = {setting: results[f"td-{method}-{setting}"][0] for setting in settings}
        setting = min(runs, key=lambda setting: average(runs[setting], best(runs[setting]))[0])
        rate = best(runs[setting])
        sign = "n" if method == "n-step" else "λ"
        least.append([method, f"{sign} = {setting}", f"{rate:g}", decimals(average(runs[setting], rate), 4)])

    def beside(name: str, figure: str, setting: str) -> str:
        (result,), (row,) = results[name], plot.published("td_lambda", figure=figure, setting=setting)
        return f"{decimals(average(result, best(result)))} ({decimals((float(row['rms']),))})"

    four, point_eight = beside("td-n-step-4", "7.2", "4"), beside("td-lambda-return-0.8", "12.3", "0.8")
    (converged,) = results["td-lambda-return-0.8"]
    seconds = [seed.cpu for seed in results]
    return {
        "within": within,
        "converged": " ± ".join(f"{x:.4f}" for x in average(converged, best(converged))),
        "table": comparison,
        "least": plot.table(["method", "best", "step size", "RMS error ± standard error"], least, left=2),
        "cpu": f"{min(seconds):.0f} to {max(seconds):.0f}; of all {len(seconds)} commands: {sum(seconds):.0f}",
        "number": f"RMS error, 19-state walk: n = 4 {four}; λ = .8 {point_eight}",
    }
