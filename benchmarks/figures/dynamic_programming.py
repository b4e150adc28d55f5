"""Figures and tables of algos/dynamic_programming.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    machines,
    not_run,
    number,
    read_rows,
    save,
    table,
)

COLUMNS = [
    "global_step", "charts/episodic_return", "charts/greedy_value", "charts/promised_value", "charts/improvements",
    "losses/bellman_residual", "losses/change", "time/elapsed",
]  # fmt: skip
WORLDS = {
    "5x5": "5x5 gridworld, discount .9",
    "frozenlake8x8": "FrozenLake8x8-v1, discount .99",
    "cliff": "CliffWalking-v1",
    "taxi": "Taxi-v4",
}
SWEEPS = ["1", "2", "5", "10", "30", "100", "0"]  # per policy; 0 is as many as it takes
SHOWN = {"frozenlake": "FrozenLake-v1"} | {world: WORLDS[world] for world in ("frozenlake8x8", "cliff", "taxi")}
BOOK = {"gridworld-4x4": "dp-random-4x4", "gridworld-5x5": "dp-random-5x5", "gridworld-5x5 optimal": "dp-5x5-k10"}
KEPT = {
    "dp-random-4x4": ["values.csv", "values.png", "sweeps.gif"],
    "dp-random-5x5": ["values.csv", "values.png"],
    "dp-4x4": ["values.png", "sweeps.gif"],
    "dp-frozenlake-k1": ["values.png", "sweeps.gif"],
    "dp-5x5-k10": ["values.csv", "values.png"],
    "dp-frozenlake8x8-k1": ["values.png", "sweeps.gif"],
    "dp-cliff-k1": ["values.png", "sweeps.gif"],
    "dp-taxi-k1": ["values.png"],
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: the first sweep whose greedy policy earns what the last one does, to stay so."""
    values = columns["charts/greedy_value"]
    below = np.flatnonzero(values < values[-1] - 1e-6)
    return {"sweeps": len(values) - 1, "earns_it_all_after": int(below[-1]) + 1 if len(below) else 0}


def keep_pictures(folder: Path):
    """Pictures and values of a few runs, from runs/benchmark/ where these are, to results/."""
    for name, files in KEPT.items():
        run = folder.parents[1] / "runs" / "benchmark" / name / "seed1"
        for file in files if (run / "summary.json").exists() else ():
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(run / file, folder / name)


def optimal_after(result: Result) -> float:
    """Sweeps until the greedy policy is optimal for good; NaN for a run that ended before its values stayed."""
    return result.final("eval/optimal_after")


# --- sweeps over k ---------------------------------------------------------------------------


def sweeps_figure(results: Results, path: Path):
    """Sweeps to the optimal policy, and until the values stay, over the sweeps per policy."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (world, label) in zip(figure.subplots(2, 2).flat, WORLDS.items(), strict=True):
        axes.set(title=label, xlabel="sweeps per policy", ylabel="sweeps in all", yscale="log")
        axes.set_xticks(range(len(SWEEPS)), [*SWEEPS[:-1], "all"])
        runs = {place: seeds[0] for place, k in enumerate(SWEEPS) if (seeds := results[f"dp-{world}-k{k}"])}
        if not runs:
            not_run(axes)
            continue
        done = {place: run for place, run in runs.items() if not np.isnan(optimal_after(run))}
        cut = {place: run for place, run in runs.items() if place not in done}
        axes.plot(
            list(done), [optimal_after(run) for run in done.values()], "o-", color=BLUE, label="to the optimal policy"
        )
        totals = [run.final("global_step") for run in done.values()]
        axes.plot(list(done), totals, "s--", color=VERMILLION, label="until the values stay")
        if cut:
            totals = [run.final("global_step") for run in cut.values()]
            axes.plot(list(cut), totals, "^", color=VERMILLION, fillstyle="none", label="not yet")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    save(figure, path)


def cell(result: Result) -> str:
    """Sweeps to the optimal policy / until the values stay (improvements)."""
    total = number(int(result.final("global_step")))
    if np.isnan(optimal_after(result)):
        return f"- / over {total} ({result.final('charts/improvements'):.0f})"
    return f"{number(int(optimal_after(result)))} / {total} ({result.final('charts/improvements'):.0f})"


def sweeps_table(results: Results) -> str:
    rows = []
    for world, label in WORLDS.items():
        runs = [results[f"dp-{world}-{k}"] for k in [*(f"k{k}" for k in SWEEPS), "k1-in-place"]]
        rows.append([label, *(cell(seeds[0]) if seeds else "-" for seeds in runs)])
    return table(["sweeps per policy", *SWEEPS[:-1], "all it takes", "1, in place"], rows)


# --- what greedy policies earn ---------------------------------------------------------------


def returns_figure(results: Results, path: Path):
    """Value iteration: what the greedy policy earns after each sweep, beside what the values promise."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (world, label) in zip(figure.subplots(2, 2).flat, SHOWN.items(), strict=True):
        axes.set(title=label, xlabel="sweeps of value iteration", ylabel="discounted return")
        seeds = results[f"dp-{world}-k1"]
        if not seeds:
            not_run(axes)
            continue
        (run,) = seeds
        axes.plot(run["global_step"], run["charts/greedy_value"], ".-", color=BLUE, label="the greedy policy earns")
        axes.plot(run["global_step"], run["charts/promised_value"], ".-", color=VERMILLION, label="the values promise")
        axes.set_xscale("symlog", linthresh=1)
        if run["charts/greedy_value"].min() < -100:  # policies that walk off the cliff, or in circles
            axes.set_yscale("symlog", linthresh=10)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    save(figure, path)


def returns_table(results: Results) -> str:
    rows = []
    for world, label in (SHOWN | WORLDS).items():
        for run in results[f"dp-{world}-k1"]:
            after, values = run.summary["facts"]["earns_it_all_after"], run["charts/greedy_value"]
            promised = float(np.interp(after, run["global_step"], run["charts/promised_value"]))
            played, error = run.final("eval/episodic_return"), run.final("eval/episodic_return_stderr")
            rows.append(
                [
                    label,
                    number(after),
                    f"{values[-1]:.3f}",
                    f"{promised:.3f}",
                    number(int(run.final("global_step"))),
                    f"{run.final('charts/episodic_return'):.3f}",
                    f"{played:.3f} ± {error:.3f}",
                ]
            )
    header = ["value iteration", "sweeps until the greedy policy earns it all", "discounted return", "promised then"]
    return table([*header, "sweeps until the values stay", "return", "return played (1,000 episodes)"], rows)


# --- the book's numbers ----------------------------------------------------------------------


def book_table(folder: Path) -> tuple[str, float]:
    """Our values beside the printed ones, rounded alike; and the largest difference there is."""
    rows, groups = [], {}
    for row in read_rows(PUBLISHED / "dynamic_programming.csv"):
        groups.setdefault((row["source"], row["grid"], row["sweep"]), []).append(row)
    largest = 0.0
    for (source, grid, sweep), printed in groups.items():
        path = folder / BOOK[grid] / "values.csv"
        if not path.exists():
            rows.append([source, sweep, str(len(printed)), "not run"])
            continue
        ours = read_rows(path)
        column = [name for name in ours[0] if name.startswith("sweep ")][-1] if sweep == "last" else f"sweep {sweep}"
        error = max(abs(float(ours[int(row["state"])][column]) - float(row["value"])) for row in printed)
        allowed = 0.5 * 10 ** -int(printed[0]["decimals"])  # of a printed number, rounded
        largest = max(largest, error - allowed - 1e-9, 0.0)
        fits = "all" if error <= allowed + 1e-9 else f"off by {error:.4f}"
        rows.append([source, "the end" if sweep == "last" else sweep, str(len(printed)), fits])
    return table(["numbers", "after sweep", "how many", "agree as printed"], rows), largest


# --- everything ------------------------------------------------------------------------------


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    keep_pictures(folder)
    sweeps_figure(results, folder / "sweeps.png")
    returns_figure(results, folder / "returns.png")
    book, largest = book_table(folder)
    evaluated = [
        f"{label}: {run.summary['facts']['sweeps']} sweeps"
        for name, label in {"dp-theta": "synchronous", "dp-theta-in-place": "in place"}.items()
        for run in results[name]
    ]
    used = [seed for name in results.all for seed in results[name]]
    seconds = [seed.summary["cpu_seconds"] for seed in used]
    parts = [
        "# Dynamic programming",
        "## The book's numbers",
        book,
        "The random policy of the 4x4 gridworld until no value changes by 0.0001 or more, the sweep that shows it "
        f"included: {'; '.join(evaluated) or 'not run'}.",
        "## Sweeps over the sweeps per policy",
        sweeps_table(results),
        "Sweeps until the policy that is greedy on the values is optimal for good / until the values stay (within "
        "1e-10), and in brackets how often the policy changed. Runs end at 10,000 sweeps: where that comes first, the "
        "random policy, which all but value iteration begin with, takes too long to come to an end.",
        "## What greedy policies earn on the way",
        returns_table(results),
        "The post holds that the values on value iteration's way cannot be used, because they are no policy's values. "
        "They are not, but one can act greedily on them. Where luck decides (FrozenLake), that policy is good long "
        "before its values are: when it earns all there is to earn, they promise what the fourth column says. Where "
        "nothing is left to luck (the cliff, the taxi) it is poor until the goal's value has come back to the start, "
        "and then both are right at once. Returns are those of at most 500 steps.",
        f"CPU seconds of a run, imports and pictures included: {number(min(seconds))} to {number(max(seconds))}. "
        f"Measured on: {machines(used)}.",
    ]
    (folder / "dynamic_programming.md").write_text("\n\n".join(parts) + "\n")
    returns = [
        f"{results[f'dp-{world}-k1'][0].final('charts/episodic_return'):.3g} on {WORLDS[world].split('-')[0]}"
        for world in ("cliff", "taxi")
        if results[f"dp-{world}-k1"]
    ]
    limited = [f"{run.final('charts/episodic_return'):.2f}" for run in results["dp-frozenlake-100"]]
    returns += [f"{text} on FrozenLake in 100 steps (Gymnasium: 0.74)" for text in limited]
    exact = "Figure 4.1 exactly" if largest == 0 else f"Figure 4.1 within {largest:.2g}"
    return {"dp-number": "; ".join([exact, *returns])}
