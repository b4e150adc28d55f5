"""Figures and tables of algos/actor_critic.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.reinforce import first
from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    VERMILLION,
    Results,
    curves,
    machines,
    median,
    not_run,
    number,
    ratios,
    read_rows,
    save,
    spread,
    table,
)

RETURN, CPU, EVALUATION = "charts/episodic_return_100", "time/cpu", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, "charts/SPS", "losses/entropy", CPU, "time/elapsed", EVALUATION]
BARS = {"ac-cartpole": ("CartPole-v1", 475), "ac-pendulum": ("InvertedPendulum-v5", 950)}
STEPS = {
    "ac-steps-1": ("1 (the post's)", VERMILLION),
    "ac-steps-4": ("4", ORANGE),
    "ac-steps-16": ("16", GREEN),
    "ac-cartpole": ("32 (default)", BLUE),
    "ac-steps-128": ("128", PURPLE),
}
PEERS = {"sb3-to475-a2c": ("a2c", "stable-baselines3, A2C"), "sb3-to475-ppo": ("ppo", "stable-baselines3, PPO")}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    reached = columns[RETURN] >= BARS.get(name, ("", 475))[1]
    return {"steps_to_bar": first(reached, columns["global_step"]), "cpu_to_bar": first(reached, columns[CPU])}


def fact(seeds: list, name: str) -> list[float]:
    return [seed.summary["facts"][name] for seed in seeds]


def bars_figure(results: Results, path: Path, names=tuple(BARS)):
    figure = Figure(figsize=(5 * len(names), 3.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        env_id, bar = BARS[name]
        curves(axes, results[name], "global_step", RETURN, BLUE, scale=1e-3)
        if not results[name]:
            not_run(axes)
        axes.axhline(bar, color=GREY, linestyle=":")
        axes.set(title=env_id, xlabel="thousand steps", ylabel="return, last 100 episodes")
    save(figure, path)


def steps_figure(results: Results, path: Path):
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, x, scale, label in zip(
        figure.subplots(1, 2), ("global_step", CPU), (1e-3, 1), ("thousand steps", "CPU seconds"), strict=True
    ):
        for name, (steps, color) in STEPS.items():
            curves(axes, results[name], x, RETURN, color, steps, scale=scale)
        axes.axhline(475, color=GREY, linestyle=":")
        axes.set(title="CartPole-v1", xlabel=label, ylabel="return, last 100 episodes")
        axes.legend(frameon=False, fontsize=8, title="steps summed up")
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    blocks, text, rows = {}, ["# Actor-critic"], []
    reached = {}
    for name, (env_id, bar) in BARS.items():
        if seeds := results[name]:
            steps = fact(seeds, "steps_to_bar")
            reached[name] = f"{sum(map(math.isfinite, steps))} of {len(seeds)}"
            rows.append([env_id, str(bar), reached[name], median(steps),
                         spread(seed.final(RETURN) for seed in seeds),
                         spread(seed.final(EVALUATION) for seed in seeds)])  # fmt: skip
    if rows:
        bars_figure(results, folder / "curves.png")
        bars_figure(results, folder / "thumbnail.png", ("ac-cartpole",))
        header = ["environment", "bar", "seeds that reached it", "steps", "return at the end, training",
                  "most likely actions"]  # fmt: skip
        text += ["The bar is the mean of the last 100 training episodes; medians (least to greatest) over the seeds.",
                 table(header, rows), "![learning curves](curves.png)"]  # fmt: skip
    ours = results["ac-cartpole"]
    speed = []
    if ours:
        speed.append(["`algos/actor_critic.py`", str(len(ours)), median(fact(ours, "steps_to_bar")),
                      median(fact(ours, "cpu_to_bar")), "1", "-"])  # fmt: skip
    published = {row["algorithm"]: row for row in read_rows(PUBLISHED / "actor_critic.csv")}
    for name, (algorithm, label) in PEERS.items():
        theirs = results[name]
        if theirs or ours:
            faster = ratios(theirs, ours, lambda result: result.summary["facts"]["cpu_to_bar"])
            factor = median(faster, lambda x: f"{number(x)}x") if faster else "-"
            speed.append([label, str(len(theirs)), median(fact(theirs, "steps_to_bar")),
                          median(fact(theirs, "cpu_to_bar")), factor, published[algorithm]["seconds"]])  # fmt: skip
    if speed:
        header = [
            "CartPole-v1 to 475",
            "seeds",
            "steps",
            "CPU seconds",
            "ours is faster",
            "seconds, measured elsewhere",
        ]
        blocks["actor-critic-speed"] = table(header, speed)
        text += ["## Seconds to 475",
                 "CPU seconds of playing and learning, start-up not counted, on a machine shared with other work: both "
                 "suffer from it, and only their ratio says something. Ratios are taken seed by seed.",
                 blocks["actor-critic-speed"]]  # fmt: skip
    if any(results[name] for name in STEPS if name != "ac-cartpole"):
        steps_figure(results, folder / "steps.png")
        rows = [[steps, str(len(results[name])), median(fact(results[name], "steps_to_bar")),
                 median(fact(results[name], "cpu_to_bar"))]
                for name, (steps, _) in STEPS.items() if results[name]]  # fmt: skip
        text += ["## From one step to many", table(["steps summed up", "seeds", "steps to 475", "CPU seconds"], rows),
                 "Learning rates differ: see `benchmark.sh`.", "![one step and many](steps.png)"]  # fmt: skip
    if ours:
        number_text = (
            f"475 on CartPole-v1 in {reached['ac-cartpole']} seeds, after {median(fact(ours, 'steps_to_bar'))} steps"
        )
        if "ac-pendulum" in reached:
            number_text += f"; 950 on InvertedPendulum-v5 in {reached['ac-pendulum']}"
        blocks["actor-critic-number"] = number_text
    used = [seed for name in results.all for seed in results[name]]
    (folder / "README.md").write_text("\n\n".join([*text, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
