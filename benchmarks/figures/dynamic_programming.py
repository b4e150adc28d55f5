"""Figures and tables of algos/dynamic_programming.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

EARNED, VALUE, RETURN = "charts/greedy_value", "charts/start_value", "charts/episodic_return"
COLUMNS = ["global_step", RETURN, EARNED, VALUE, "losses/bellman_residual"]
WORLDS = {
    "5x5": "5x5 gridworld, discount .9",
    "frozenlake8x8": "FrozenLake8x8-v1, discount .99",
    "cliff": "CliffWalking-v1",
    "taxi": "Taxi-v4",
}
BOOK = {("gridworld-4x4", k): f"dp-random-4x4-{k}" for k in ("1", "2", "3", "10")} | {
    ("gridworld-4x4", "last"): "dp-random-4x4",
    ("gridworld-5x5", "last"): "dp-random-5x5",
    ("gridworld-5x5 optimal", "last"): "dp-5x5-k1",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: the first sweep from which on the greedy policy earns what the last one does."""
    below = np.flatnonzero(columns[EARNED] < columns[EARNED][-1] - 1e-6)
    return {"sweeps": len(columns[EARNED]) - 1, "earns_it_all_after": int(below[-1]) + 1 if len(below) else 0}


def sweeps(run: Result) -> str:
    """Sweeps until the greedy policy's return is the optimal one for good, and until the values have converged."""
    if run.final("losses/bellman_residual") >= 1e-10:
        return "over 10,000"
    return f"{run.facts['earns_it_all_after']} / {run.final('global_step'):,.0f}"


def draw(results: Results, folder) -> dict[str, str]:
    # the values of the book's worlds, from runs/benchmark/ where these are, to results/<row>/values.csv
    for name in BOOK.values():
        model = folder.parents[1] / "runs" / "benchmark" / name / "seed1" / "model.npz"
        if model.exists():
            np.savetxt(folder / name / "values.csv", np.load(model)["v"], fmt="%.10g", header="value", comments="")
    with plot.figure(folder / "returns.png", 2, 2, size=(11, 7)) as panels:
        for axes, world in zip(panels, ("frozenlake", "frozenlake8x8", "cliff", "taxi"), strict=True):
            (run,) = results[f"dp-{world}-k1"]
            axes.plot(run["global_step"], run[EARNED], ".-", label="return of the greedy policy")
            axes.plot(run["global_step"], run[VALUE], ".-", label="value of the start")
            axes.set(title=WORLDS.get(world, "FrozenLake-v1"), xlabel="sweeps of value iteration")
            axes.set_ylabel("discounted return")
            axes.set_xscale("symlog", linthresh=1)
            if run[EARNED].min() < -100:  # policies that walk off the cliff, or in circles
                axes.set_yscale("symlog", linthresh=10)
    groups, book, different = {}, [], 0
    for row in plot.published("dynamic_programming"):
        groups.setdefault((row["source"], row["grid"], row["sweep"]), []).append(row)
    for (source, grid, sweep), printed in groups.items():
        v = [float(row["value"]) for row in plot.read_rows(folder / BOOK[grid, sweep] / "values.csv")]
        off = [abs(v[int(r["state"])] - float(r["value"])) > 0.5 * 10 ** -int(r["decimals"]) + 1e-9 for r in printed]
        book.append([source, sweep.replace("last", "the end"), str(len(off)), str(len(off) - sum(off))])
        different += sum(off)
    header = {"k1": "1", "k2": "2", "k5": "5", "k10": "10", "k100": "100", "all": "all", "k1-in-place": "1, in place"}
    rows = [[label, *(sweeps(results[f"dp-{world}-{k}"][0]) for k in header)] for world, label in WORLDS.items()]
    (synchronous,), (in_place,) = results["dp-theta"], results["dp-theta-in-place"]
    exact = "Figure 4.1 exactly" if not different else f"{different} printed numbers differ"
    names = ("dp-cliff-k1", "dp-taxi-k1", "dp-frozenlake-100")
    cliff, taxi, limited = (results[name][0].final(RETURN) for name in names)
    seconds = [seed.cpu for seed in results]
    return {
        "book": plot.table(["numbers", "after sweep", "printed", "agree"], book),
        "theta": f"{synchronous.facts['sweeps'] - 1} sweeps and {in_place.facts['sweeps'] - 1} in place",
        "sweeps": plot.table(["sweeps per policy", *header.values()], rows),
        "frozenlake": sweeps(results["dp-frozenlake-k1"][0]),
        "limited": f"{limited:.2f}",
        "cpu": f"{min(seconds):.1f} to {max(seconds):.1f}",
        "number": f"{exact}; {cliff:.0f} on the cliff, {taxi:.2f} in the taxi; {limited:.2f} on FrozenLake (0.74)",
    }
