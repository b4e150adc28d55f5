"""Figures and tables of algos/td_lambda.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    SKY,
    VERMILLION,
    Result,
    Results,
    machines,
    read_rows,
    save,
    table,
)

RATES = [*(i / 200 for i in range(1, 11)), 0.06, 0.07, *(i / 20 for i in range(2, 21))]
ERROR, ERROR_SE = "eval/rms_error_{:g}", "eval/rms_error_se_{:g}"
AVERAGE, AVERAGE_SE = "eval/average_rms_error_{:g}", "eval/average_rms_error_se_{:g}"
COLUMNS = ["global_step", *(name.format(rate) for rate in RATES for name in (ERROR, ERROR_SE, AVERAGE, AVERAGE_SE))]
COLORS = [BLACK, BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE, GREY]
STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
LAMBDAS = ["0", "0.4", "0.8", "0.9", "0.95", "0.975", "0.99", "1"]
METHODS = {
    "lambda-return": ("12.3", "offline λ-return"),
    "td-lambda": ("12.6", "TD(λ), accumulating traces"),
    "true-online": ("12.8", "true online TD(λ)"),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Nothing beyond the csv, which is not thinned."""
    return {}


def rates(result: Result) -> list[float]:
    """The step sizes of a run."""
    return [rate for rate in RATES if ERROR.format(rate) in result.columns]


def best(result: Result) -> float:
    """The step size with the least error on average over the episodes."""
    return min(rates(result), key=lambda rate: result.final(AVERAGE.format(rate)))


def average(result: Result, rate: float) -> tuple[float, float]:
    """RMS error on average over the episodes, and its standard error."""
    return result.final(AVERAGE.format(rate)), result.final(AVERAGE_SE.format(rate))


def at(result: Result, rate: float, episode: int) -> tuple[float, float]:
    """RMS error after so many episodes, and its standard error."""
    return tuple(float(result[name.format(rate)][episode - 1]) for name in (ERROR, ERROR_SE))


# --- figures ---------------------------------------------------------------------------------


def over_episodes(axes, result: Result, rate: float, color: str, label: str, linestyle="-"):
    """RMS error over episodes, with two standard errors on either side."""
    mean, error = result[ERROR.format(rate)], result[ERROR_SE.format(rate)]
    axes.plot(result["update"], mean, color=color, label=label, linestyle=linestyle, linewidth=1.5)
    axes.fill_between(result["update"], mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, linewidth=0)


def over_rates(axes, result: Result, color: str, label: str):
    """RMS error on average over the episodes, over step sizes, with two standard errors on either side."""
    mean, error = np.array([average(result, rate) for rate in rates(result)]).T
    axes.plot(rates(result), mean, color=color, label=label, linewidth=1.5)
    axes.fill_between(rates(result), mean - 2 * error, mean + 2 * error, color=color, alpha=0.25, linewidth=0)


def cross(axes, row: dict, x: float, color: str, label: str | None = None):
    """A published number."""
    axes.plot(x, float(row["rms"]), "x", color=color, markersize=7, markeredgewidth=1.6, label=label, zorder=5)


def walk_figure(results: Results, published: list[dict], path: Path):
    """Example 6.2 and Figure 6.2."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    single, batch = figure.subplots(1, 2)
    for method, linestyle, colors in (("td", "-", [BLUE, SKY, GREEN]), ("monte-carlo", "--", [*COLORS[4:7], BLACK])):
        for result in results[f"td-walk-{method}"]:
            for rate, color in zip(rates(result), colors, strict=False):
                name = "TD(0)" if method == "td" else "Monte Carlo"
                over_episodes(single, result, rate, color, f"{name}, {rate:g}", linestyle)
                for row in published:
                    if (row["figure"], row["method"]) == ("6.2 walk", method) and float(row["step_size"]) == rate:
                        cross(single, row, 100, color)
        for result in results[f"td-batch-{method}"]:
            over_episodes(batch, result, rates(result)[0], colors[0], "TD(0)" if method == "td" else "Monte Carlo")
            for row in published:
                if (row["figure"], row["method"]) == ("6.2 batch", method):
                    cross(batch, row, int(row["episode"]), colors[0])
    single.set(title="Five-state walk (Example 6.2): method, step size", ylim=(0, 0.25))
    batch.set(title="Batch updating (Figure 6.2)", ylim=(0, 0.25))
    for axes in (single, batch):
        axes.set(xlabel="episodes", ylabel="RMS error over states", xlim=(0, 103))
        axes.plot([], [], "x", color=GREY, label="published")
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
        axes.grid(alpha=0.25)
    save(figure, path)


def n_step_figure(results: Results, published: list[dict], path: Path):
    """Figure 7.2."""
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.subplots()
    for n, color in zip(STEPS, [*COLORS[:7], GREY, "#7F4F24", "#BBBBBB"], strict=True):
        for result in results[f"td-n-step-{n}"]:
            over_rates(axes, result, color, f"n = {n}")
        for row in published:
            if row["figure"] == "7.2" and int(row["setting"]) == n:
                cross(axes, row, float(row["step_size"]), color)
    axes.plot([], [], "x", color=GREY, label="published,\nbest step size")
    axes.set(title="n-step TD, 19-state walk (Figure 7.2)", xlabel="step size", ylim=(0.23, 0.55), xlim=(0, 1))
    axes.set_ylabel("RMS error, average over states and first 10 episodes")
    figure.legend(frameon=False, fontsize=9, loc="outside right center")
    axes.grid(alpha=0.25)
    save(figure, path)


def lambda_figure(results: Results, published: list[dict], path: Path):
    """Figures 12.3, 12.6 and 12.8."""
    figure = Figure(figsize=(14, 4.9), layout="constrained")
    for axes, (method, (number, label)) in zip(figure.subplots(1, 3, sharey=True), METHODS.items(), strict=True):
        for setting, color in zip(LAMBDAS, COLORS, strict=True):
            found = results[f"td-{method}-{setting}"]
            for result in found:
                over_rates(axes, result, color, f"λ = {setting}")
                for row in published:  # without a published step size the cross stands at our best one
                    if (row["figure"], row["setting"]) == (number, setting):
                        cross(axes, row, float(row["step_size"] or best(result)), color)
        axes.plot([], [], "x", color=GREY, label="published best")
        axes.set(title=f"{label} (Figure {number})", xlabel="step size", ylim=(0.23, 0.55), xlim=(0, 1))
        axes.grid(alpha=0.25)
        if number == "12.3":
            axes.set_ylabel("RMS error, average over states and first 10 episodes")
            figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=9)
    save(figure, path)


# --- tables ----------------------------------------------------------------------------------


def find(results: Results, row: dict) -> tuple[Result, float] | None:
    """Our run beside a published number, and the step size to compare."""
    name = {
        "6.2 walk": f"td-walk-{row['method']}",
        "6.2 batch": f"td-batch-{row['method']}",
    }.get(row["figure"], f"td-{row['method']}-{row['setting']}")
    if not results[name]:
        return None
    result = results[name][0]
    if row["figure"] == "6.2 batch":
        return result, rates(result)[0]
    return result, float(row["step_size"]) if row["figure"] == "6.2 walk" else best(result)


def decimals(x: float, digits: int = 3) -> str:
    return f"{x:.{digits}f}".replace("0.", ".", 1)


def compare(results: Results, published: list[dict]) -> tuple[list[list[str]], int, int]:
    """Rows of the table; how many of the published numbers lie within two standard errors, and of how many."""
    lines, within, total = [], 0, 0
    for row in published:
        found = find(results, row)
        if found is None:
            continue
        result, rate = found
        ours, error = at(result, rate, int(row["episode"])) if row["episode"] else average(result, rate)
        num_runs = int(result.summary["command"].split("--num-runs ")[1].split()[0])
        # theirs has the same spread over fewer runs; where the source gives a range, the smaller number counts
        theirs = error * math.sqrt(num_runs / int(row["runs"].split("-")[0]))
        off = (ours - float(row["rms"])) / math.hypot(error, theirs)
        within, total = within + (abs(off) <= 2), total + 1
        what = {"n-step": "n = ", "lambda-return": "λ = ", "td-lambda": "λ = ", "true-online": "λ = "}
        setting = what.get(row["method"], "") + row["setting"]
        place = f"after {row['episode']} episodes" if row["episode"] else "episodes 1 to 10"
        rate_text = "" if row["figure"] == "6.2 batch" else f"{rate:g}"
        their_rate = f" (step size {float(row['step_size']):g})" if row["step_size"] and not row["episode"] else ""
        published_text = f"{decimals(float(row['rms']))}{their_rate}"
        line = [row["figure"], row["method"], setting, place, rate_text, f"{decimals(ours, 4)} ± {decimals(error, 4)}"]
        lines.append([*line, published_text, row["runs"], f"{off:+.1f}"])
    return lines, within, total


def best_line(results: Results, names: dict[str, str]) -> tuple[str, float, float, float] | None:
    """Of several entries the one with the least error: its label, step size, error and standard error."""
    found = [(label, results[name][0]) for label, name in names.items() if results[name]]
    if not found:
        return None
    label, result = min(found, key=lambda pair: average(pair[1], best(pair[1]))[0])
    return label, best(result), *average(result, best(result))


def published_of(published: list[dict], figure: str, setting: str) -> str:
    (rms,) = (row["rms"] for row in published if (row["figure"], row["setting"]) == (figure, setting))
    return rms


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables; returns the README's block."""
    published = read_rows(PUBLISHED / "td_lambda.csv")
    families = {"n-step": [("n", n) for n in map(str, STEPS)], **{m: [("λ", x) for x in LAMBDAS] for m in METHODS}}
    least = {
        method: best_line(results, {f"{kind} = {value}": f"td-{method}-{value}" for kind, value in settings})
        for method, settings in families.items()
    }
    if not all(least.values()):
        return {}
    walk_figure(results, published, folder / "figure_6_2.png")
    n_step_figure(results, published, folder / "figure_7_2.png")
    lambda_figure(results, published, folder / "figure_12_3.png")
    lines, within, total = compare(results, published)
    used = [seed for seeds in results.all.values() for seed in seeds]
    header = ["figure", "method", "", "measured", "step size", "RMS error ± standard error", "published", "runs"]
    converged = average(results["td-lambda-return-0.8"][0], best(results["td-lambda-return-0.8"][0]))
    parts = [
        "# Temporal-difference prediction",
        "[Sutton & Barto 2018](http://incompleteideas.net/book/the-book-2nd.html): TD(0) learns the random walk faster "
        "than Monte Carlo (Example 6.2, Figure 6.2); an n between the two is better than either (Figure 7.2); so is a "
        "lambda between 0 and 1 (Figure 12.3), and true online TD(lambda) equals the online lambda-return algorithm, "
        "the best of them (Figure 12.8).",
        "    ./benchmark.sh td_lambda\n    python benchmarks/plot.py td_lambda",
        "![Figure 7.2](figure_7_2.png)",
        "![Figures 12.3, 12.6 and 12.8](figure_12_3.png)",
        "![Example and Figure 6.2](figure_6_2.png)",
        f"{within} of {total} published numbers lie within two standard errors of ours (500 runs of each row). The "
        f"published {float(published_of(published, '12.3', '0.8')):.3f} for the lambda-return at λ = 0.8 is the least "
        "of a grid measured by ten repetitions, and so too low by chance: over 500 runs the least error is "
        f"{converged[0]:.4f} ± {converged[1]:.4f}. The same holds for 0.243 of true online TD(0.8).",
        table([*header, "difference"], lines, left=4),
        f"Published: {published[0]['source']}; where it shows averages over ten episodes, the least over all step "
        "sizes, as ours. The last column is the difference in standard errors of both; a published number's own is "
        "ours for its number of runs (10, where it was 10-20).",
        "## The least error of each method over all n or λ and step sizes",
    ]
    rows = [
        [method, label, f"{rate:g}", f"{decimals(mean, 4)} ± {decimals(error, 4)}"]
        for method, (label, rate, mean, error) in least.items()
    ]
    parts.append(table(["method", "best", "step size", "RMS error ± standard error"], rows, left=2))
    seconds = [seed.summary["cpu_seconds"] for seed in used]
    parts.append(
        f"CPU seconds of a command (500 runs, all its step sizes): {min(seconds):.0f} to {max(seconds):.0f}; of all "
        f"{len(used)} commands: {sum(seconds):.0f}. Not run: function approximation (the 1,000-state walk), GPUs. "
        f"Measured on: {machines(used)}."
    )
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    numbers = []
    for name, label, figure, setting in (
        ("td-n-step-4", "n = 4", "7.2", "4"),
        ("td-lambda-return-0.8", "λ = .8", "12.3", "0.8"),
    ):
        mean, error = average(results[name][0], best(results[name][0]))
        theirs = decimals(float(published_of(published, figure, setting)))
        numbers.append(f"{label} {decimals(mean)} ± {decimals(error)} ({theirs})")
    return {"td-number": "RMS error, 19-state walk: " + "; ".join(numbers)}
