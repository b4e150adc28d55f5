"""Figures and tables of algos/dqn.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    median,
    number,
    ratios,
    read_rows,
    save,
    spread,
    table,
)

RETURN, LARGEST, EVALUATION = "charts/episodic_return_100", "losses/largest_q", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, LARGEST, "losses/td_loss", "charts/SPS", "time/elapsed", EVALUATION]
TRICKS = {
    "dqn-cartpole": ("both tricks", BLUE),
    "dqn-no-replay": ("no replay", GREEN),
    "dqn-no-target": ("target network copied every step", ORANGE),
    "dqn-no-tricks": ("neither", VERMILLION),
}
HIGHEST = 100  # no discounted return of CartPole, at 1 a step and a discount of .99, is larger


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {"largest_q": float(np.nanmax(columns[LARGEST]))} if LARGEST in columns else {}  # CleanRL's says none


def curves_figure(results: Results, published: list[dict], path: Path):
    """What was run, beside CleanRL's published return, and on CartPole beside CleanRL itself."""
    published = [row for row in published if results[f"dqn-{row['environment'].split('-')[0].lower()}"]]
    figure = Figure(figsize=(5.2 * len(published), 3.8), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(published), squeeze=False)[0], published, strict=True):
        seeds = results[f"dqn-{row['environment'].split('-')[0].lower()}"]
        curves(axes, seeds, "global_step", RETURN, BLUE, "ours", scale=1e-6)
        if row["environment"] == "CartPole-v1":
            curves(axes, results["cleanrl-cartpole"], "global_step", RETURN, GREY, "CleanRL, run here", scale=1e-6)
        axes.axhline(float(row["return"]), color=VERMILLION, linestyle="--", label="CleanRL, published")
        axes.set(title=row["environment"], xlabel="million steps", ylabel="return, last 100 episodes")
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def tricks_figure(results: Results, path: Path):
    """The post's two tricks: return and largest |Q|, with both, with one, with none."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    returns, largest = figure.subplots(1, 2)
    for name, (label, color) in TRICKS.items():
        curves(returns, results[name], "global_step", RETURN, color, label, scale=1e-6)
        curves(largest, results[name], "global_step", LARGEST, color, label, scale=1e-6)
    returns.set(title="CartPole-v1", xlabel="million steps", ylabel="return, last 100 episodes")
    largest.axhline(HIGHEST, color="black", linestyle=":", label="no true value is higher")
    largest.set(title="CartPole-v1", xlabel="million steps", ylabel="largest |Q|", yscale="log")
    largest.legend(frameon=False, fontsize=8)
    save(figure, path)


def cpu(result: Result) -> float:
    return result.summary["cpu_seconds"]


def speed_table(results: Results) -> str:
    """CPU seconds of 500,000 steps beside CleanRL's, imports and the last evaluation included."""
    ours, theirs = results["dqn-cartpole"], results["cleanrl-cartpole"]
    rows = [[label, str(len(seeds)), median(map(cpu, seeds))] for label, seeds in (("ours", ours), ("CleanRL", theirs))]
    rows.append(["quotient", str(len(ratios(ours, theirs, cpu))), median(ratios(ours, theirs, cpu))])
    return table(["CartPole-v1, 500,000 steps, one core", "seeds", "CPU seconds, median (range)"], rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published, rows, blocks = read_rows(PUBLISHED / "dqn.csv"), [], {}
    for row in published:
        seeds = results[f"dqn-{row['environment'].split('-')[0].lower()}"]
        if seeds:
            ours, theirs = spread(seed.final(RETURN) for seed in seeds), f"{row['return']} ± {row['spread']}"
            rows.append([row["environment"], str(len(seeds)), ours, spread(s.final(EVALUATION) for s in seeds), theirs])
            if row["environment"] == "CartPole-v1":
                mean = number(float(np.mean([seed.final(EVALUATION) for seed in seeds])))
                text = f"{mean} on CartPole-v1 after 500,000 steps, greedy ({len(seeds)} seeds; CleanRL: {theirs})"
                blocks["dqn-number"] = text
    if not rows:
        return {}
    curves_figure(results, published, folder / "curves.png")
    header = ["environment, 500,000 steps", "seeds", "training, last 100 episodes", "greedy, 100 episodes", "CleanRL"]
    text = ["# DQN", table(header, rows), f"CleanRL: {published[0]['source']}."]
    tricks = [[label, str(len(results[name])), spread(s.final(RETURN) for s in results[name]),
               spread(s.final(EVALUATION) for s in results[name]),
               spread(s.summary["facts"]["largest_q"] for s in results[name])]
              for name, (label, _) in TRICKS.items() if results[name]]  # fmt: skip
    if len(tricks) > 1:
        tricks_figure(results, folder / "tricks.png")
        header = [
            "CartPole-v1",
            "seeds",
            "training, last 100 episodes",
            "greedy, 100 episodes",
            "largest Q ever, in size",
        ]
        text += ["## The two tricks", table(header, tricks)]
    if results["cleanrl-cartpole"]:
        text += [
            "## Time",
            speed_table(results),
            "Ours includes a hundred greedy episodes at the end, CleanRL's does not.",
        ]
    used = [seed for name in results.all for seed in results[name]]
    (folder / "dqn.md").write_text("\n\n".join([*text, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
