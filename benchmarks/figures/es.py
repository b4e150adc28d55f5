"""Figures and tables of algos/es.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, number

TRAINING, SCORE = "charts/episodic_return", "eval/episodic_return"
COLUMNS = ["global_step", TRAINING, SCORE, "charts/SPS"]
SOLVED = 475.0  # CartPole-v1's reward_threshold
VARIANTS = {
    "defaults": "the defaults",
    "returns": "returns in place of ranks",
    "raw-obs": "observations not normalized",
    "sign": "sign activations",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Steps to the return that is asked for, by the evaluations."""
    bars = {f"es-table3-{row['environment'].lower()}": float(row["return"]) for row in plot.published("es")}
    return {"steps": plot.first_reached(columns, SCORE, bars.get(name, SOLVED))}


def steps_of_mean_curve(seeds: list[Result], bar: float) -> float:
    """Steps to the bar by the mean of the seeds' curves; a curve keeps its last value after its run."""
    steps, lines = np.unique(np.concatenate([seed["global_step"] for seed in seeds])), []
    for seed in seeds:
        known = ~np.isnan(seed[SCORE])
        lines.append(np.interp(steps, seed["global_step"][known], seed[SCORE][known]))
    return plot.first_reached({"global_step": steps, SCORE: np.mean(lines, axis=0)}, SCORE, bar)


def draw(results: Results, folder) -> dict[str, str]:
    rows, numbers = [], []
    with plot.figure(folder / "table3.png", columns=4, size=(15, 3.8)) as panels:
        for row in plot.published("es"):
            env, bar, theirs = row["environment"], float(row["return"]), float(row["steps"])
            seeds = results[f"es-table3-{env.lower()}"]
            if not seeds:
                rows.append([env, number(bar), number(theirs), "not run", *["-"] * 4])
                continue
            axes, ours = panels[len(numbers)], steps_of_mean_curve(seeds, bar)
            plot.curves(axes, seeds, "global_step", SCORE, "ours, unperturbed policy", scale=1e-6)
            axes.plot(theirs * 1e-6, bar, "*", color=plot.VERMILLION, markersize=12, label="Salimans et al. 2017")
            axes.axhline(bar, color=plot.VERMILLION, linestyle=":", linewidth=1)
            axes.set(title=f"{env}-v5", xlabel="million steps", ylabel="return, 10 episodes")
            arrived = [seed.facts["steps"] for seed in seeds]
            end = plot.spread(seed.final(SCORE) for seed in seeds)
            cells = [number(ours), plot.median(arrived), plot.arrived(arrived), end, plot.cpu(seeds)]
            rows.append([f"{env}-v5", number(bar), number(theirs), *cells])
            numbers.append(f"{env} {number(ours / 1e6)} M ({theirs / 1e6:.2f} M)")
    header = ["environment", "return", "steps, published mean curve", "steps, our mean curve"]
    header += ["each seed's first touch", "seeds that arrive", "return at the end", "CPU seconds"]
    variants = {label: results[f"es-cartpole-{name}"] for name, label in VARIANTS.items()}
    columns = {"seeds": plot.count, "steps to a return of 475": plot.fact("steps"), "return at the end": SCORE}
    return {
        "table": plot.table(header, rows),
        "variants": plot.beside("CartPole-v1", variants, columns),
        "number": "steps: " + ", ".join(numbers),
    }
