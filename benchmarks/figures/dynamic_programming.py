"""Figures and tables of algos/dynamic_programming.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from algos.dynamic_programming import action_values, greedy, load_model
from benchmarks.plot import BLUE, PUBLISHED, VERMILLION, Result, Results, machines, number, read_rows, save, table

COLUMNS = [
    "global_step", "charts/episodic_return", "charts/greedy_value", "charts/promised_value", "charts/improvements",
    "losses/bellman_residual", "losses/change",
]  # fmt: skip
WORLDS = {
    "5x5": "5x5 gridworld, discount .9",
    "frozenlake8x8": "FrozenLake8x8-v1, discount .99",
    "cliff": "CliffWalking-v1",
    "taxi": "Taxi-v4",
}
SWEEPS = ["k1", "k2", "k5", "k10", "k100", "all"]  # per policy
SHOWN = {"frozenlake": "FrozenLake-v1"} | {world: WORLDS[world] for world in ("frozenlake8x8", "cliff", "taxi")}
FIGURE_4_1 = {"1": "dp-random-4x4-1", "2": "dp-random-4x4-2", "3": "dp-random-4x4-3", "10": "dp-random-4x4-10"}
FIGURE_4_1 |= {"last": "dp-random-4x4"}
BOOK = {("gridworld-4x4", sweep): name for sweep, name in FIGURE_4_1.items()}
BOOK |= {("gridworld-5x5", "last"): "dp-random-5x5", ("gridworld-5x5 optimal", "last"): "dp-5x5-k1"}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: the first sweep from which on the greedy policy earns what the last one does."""
    values = columns["charts/greedy_value"]
    below = np.flatnonzero(values < values[-1] - 1e-6)
    return {"sweeps": len(values) - 1, "earns_it_all_after": int(below[-1]) + 1 if len(below) else 0}


def keep_values(folder: Path):
    """The values of the book's worlds, from runs/benchmark/ where these are, to results/<row>/values.csv."""
    for name in BOOK.values():
        model = folder.parents[1] / "runs" / "benchmark" / name / "seed1" / "model.npz"
        if model.exists():
            np.savetxt(folder / name / "values.csv", np.load(model)["v"], fmt="%.10g", header="value", comments="")


def values_of(folder: Path, name: str) -> np.ndarray:
    return np.array([float(row["value"]) for row in read_rows(folder / name / "values.csv")])


def converged(result: Result) -> bool:
    return result.final("losses/bellman_residual") < 1e-10


# --- figures ---------------------------------------------------------------------------------


def figure_4_1(folder: Path, path: Path):
    """Values of the random policy after some sweeps, above the policies that are greedy on them."""
    model = load_model("gridworld-4x4")
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(2, 6)
    for column, (k, name) in enumerate({"0": None, **FIGURE_4_1}.items()):
        v = values_of(folder, name) if name else np.zeros(16)
        policy = greedy(action_values(model, v, 1.0))
        panels[0, column].set_title(f"k = {k}" if k != "last" else "k = ∞")
        for axes in panels[:, column]:
            axes.set(xlim=(0, 4), ylim=(4, 0), xticks=range(5), yticks=range(5), aspect="equal")
            axes.set(xticklabels=[], yticklabels=[])
            axes.grid(color="black", linewidth=0.6)
        for s in range(16):
            x, y = s % 4 + 0.5, s // 4 + 0.5
            panels[0, column].text(x, y, f"{v[s]:.1f}", ha="center", va="center", fontsize=8)
            for a, (dx, dy) in enumerate([(0, -0.3), (0, 0.3), (0.3, 0), (-0.3, 0)]):
                if s not in (0, 15) and policy[s, a]:
                    panels[1, column].arrow(x, y, dx, dy, width=0.02, head_width=0.13, length_includes_head=True)
    panels[0, 0].set_ylabel("values of the random policy")
    panels[1, 0].set_ylabel("greedy policy")
    save(figure, path)


def sweeps_figure(results: Results, path: Path):
    """Sweeps to the final greedy policy's return, and until the values have converged, over the sweeps per policy."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (world, label) in zip(figure.subplots(2, 2).flat, WORLDS.items(), strict=True):
        runs = [results[f"dp-{world}-{k}"][0] for k in SWEEPS]
        done = [place for place, run in enumerate(runs) if converged(run)]
        earned = [runs[place].summary["facts"]["earns_it_all_after"] for place in done]
        axes.plot(done, earned, "o-", color=BLUE, label="to the optimal return")
        axes.plot(done, [runs[p].final("global_step") for p in done], "s--", color=VERMILLION, label="to the values")
        cut = [place for place in range(len(runs)) if place not in done]
        if cut:
            axes.plot(cut, [10_000] * len(cut), "^", color=VERMILLION, fillstyle="none", label="not converged")
        axes.set(title=label, xlabel="sweeps per policy", ylabel="sweeps in all", yscale="log")
        axes.set_xticks(range(len(SWEEPS)), [k.lstrip("k") for k in SWEEPS])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    save(figure, path)


def returns_figure(results: Results, path: Path):
    """Value iteration: what the greedy policy earns after each sweep, beside the value of the first state."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (world, label) in zip(figure.subplots(2, 2).flat, SHOWN.items(), strict=True):
        run = results[f"dp-{world}-k1"][0]
        axes.plot(run["global_step"], run["charts/greedy_value"], ".-", color=BLUE, label="return of the greedy policy")
        axes.plot(run["global_step"], run["charts/promised_value"], ".-", color=VERMILLION, label="value of the start")
        axes.set(title=label, xlabel="sweeps of value iteration", ylabel="discounted return")
        axes.set_xscale("symlog", linthresh=1)
        if run["charts/greedy_value"].min() < -100:  # policies that walk off the cliff, or in circles
            axes.set_yscale("symlog", linthresh=10)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    save(figure, path)


# --- tables ----------------------------------------------------------------------------------


def sweeps_table(results: Results) -> str:
    def cell(run: Result) -> str:
        if not converged(run):
            return "over 10,000"
        return f"{run.summary['facts']['earns_it_all_after']} / {number(int(run.final('global_step')))}"

    names = [*SWEEPS, "k1-in-place"]
    rows = [[label, *(cell(results[f"dp-{world}-{k}"][0]) for k in names)] for world, label in WORLDS.items()]
    return table(["sweeps per policy", *(k.lstrip("k") for k in SWEEPS), "1, in place"], rows)


def returns_table(results: Results) -> str:
    rows = []
    for world, label in (SHOWN | WORLDS).items():
        run = results[f"dp-{world}-k1"][0]
        after = run.summary["facts"]["earns_it_all_after"]
        promised = float(np.interp(after, run["global_step"], run["charts/promised_value"]))
        earned, total = run.final("charts/greedy_value"), run.final("charts/episodic_return")
        rows.append(
            [label, str(after), f"{earned:.3f}", f"{promised:.3f}", f"{run.final('global_step'):.0f}", f"{total:.3f}"]
        )
    header = [
        "value iteration",
        "sweeps to the optimal return",
        "it",
        "value of the start then",
        "sweeps to the values",
    ]
    return table([*header, "undiscounted return"], rows)


def book_table(folder: Path) -> tuple[str, int]:
    """Our values beside the printed ones, rounded alike; how many numbers do not agree."""
    rows, groups, different = [], {}, 0
    for row in read_rows(PUBLISHED / "dynamic_programming.csv"):
        groups.setdefault((row["source"], row["grid"], row["sweep"]), []).append(row)
    for (source, grid, sweep), printed in groups.items():
        v = values_of(folder, BOOK[grid, sweep])
        off = [abs(v[int(r["state"])] - float(r["value"])) > 0.5 * 10 ** -int(r["decimals"]) + 1e-9 for r in printed]
        agree = len(off) - sum(off)
        rows.append([source, "the end" if sweep == "last" else sweep, str(len(printed)), str(agree)])
        different += sum(off)
    return table(["numbers", "after sweep", "printed", "agree"], rows), different


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables; returns the README's blocks."""
    rows = [f"dp-{world}-{k}" for world in WORLDS for k in [*SWEEPS, "k1-in-place"]]
    rows += [*BOOK.values(), "dp-theta", "dp-theta-in-place", "dp-frozenlake-k1", "dp-frozenlake-100"]
    if not all([results[name] for name in rows]):  # noqa: C419, so that each missing one is named
        return {}
    keep_values(folder)
    figure_4_1(folder, folder / "figure_4_1.png")
    sweeps_figure(results, folder / "sweeps.png")
    returns_figure(results, folder / "returns.png")
    book, different = book_table(folder)
    synchronous, in_place = (results[name][0].summary["facts"]["sweeps"] for name in ("dp-theta", "dp-theta-in-place"))
    limited = results["dp-frozenlake-100"][0].final("charts/episodic_return")
    used = [seed for seeds in results.all.values() for seed in seeds]
    seconds = [seed.summary["cpu_seconds"] for seed in used]
    parts = [
        "# Dynamic programming",
        "[Sutton & Barto 2018](http://incompleteideas.net/book/the-book-2nd.html), Figure 4.1 and Examples 3.5 and "
        "3.8: the values of the random policy on a 4x4 and a 5x5 gridworld, and the optimal ones.",
        "    ./benchmark.sh dynamic_programming\n    python benchmarks/plot.py dynamic_programming",
        "![Figure 4.1](figure_4_1.png)",
        book,
        f"Evaluation of the random policy until no value changes by 0.0001: {synchronous - 1} sweeps and "
        f"{in_place - 1} in place, as in ShangtongZhang's code for the book (172 and 113), and one "
        "more whose change is below.",
        "## From value iteration to policy iteration",
        "![sweeps](sweeps.png)",
        sweeps_table(results),
        "Sweeps until the greedy policy's return is the optimal one for good / until the values have converged (within "
        "1e-10). Runs end at 10,000 sweeps: on the cliff and in the taxi the random policy, which all but value "
        "iteration begin with, seldom reaches the end, so that its evaluation takes too long.",
        "## The return of greedy policies on the way",
        "![returns](returns.png)",
        returns_table(results),
        "Kevin Frans 2016, the post on value iteration: its intermediate values cannot be used, because they are no "
        "policy's values. A policy can be greedy on them, and where transitions are random (FrozenLake) its return is "
        "optimal long before the values have converged. Where they are deterministic (cliff, taxi) it is poor until "
        "the goal's value has reached the start. Returns are exact, of at most 500 steps. FrozenLake-v1 with "
        f"Gymnasium's limit of 100 steps: {limited:.2f} (Gymnasium's source: 0.74 at best). Nothing is random, "
        "so there are no errors. Not run: asynchronous and prioritized sweeps, larger state spaces, GPUs.",
        f"CPU seconds of a run, imports and picture included: {min(seconds):.1f} to {max(seconds):.1f}. "
        f"Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    exact = "Figure 4.1 exactly" if not different else f"{different} printed numbers differ"
    cliff, taxi = (results[f"dp-{world}-k1"][0].final("charts/episodic_return") for world in ("cliff", "taxi"))
    return {
        "dp-number": f"{exact}; {cliff:.0f} on the cliff, {taxi:.2f} in the taxi; {limited:.2f} on FrozenLake (0.74)"
    }
