"""Figures and tables of algos/reinforce_mnist.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

TEST, RIGHT, WRONG = "eval/test_accuracy", "charts/right_more_likely", "charts/wrong_more_likely"
COLUMNS = ["global_step", RIGHT, WRONG, "charts/SPS", TEST]
REWARDS = {"0": "0 wrong, 1 right", "10": "10 wrong, 11 right", "minus10": "-10 wrong, -9 right"}
BASELINES = {"none": "no baseline", "mean": "baseline: mean of the others"}
LECTURE = {
    "0": "the lecture: wrong, do nothing;\nright, more likely",
    "10": "the lecture: wrong, more likely;\nright, slightly more so",
    "minus10": "the lecture: wrong, less likely;\nright, slightly less so",
}
percent = plot.column(TEST, ".1f", 100, " %")
ROWS = {  # rewards, update, learning rate
    ("0, 1", "no baseline", "0.1"): "reward-0-none",
    ("0, 1", "baseline", "0.1"): "reward-0-mean",
    ("10, 11", "no baseline", "0.01"): "reward-10-none",
    ("10, 11", "no baseline", "0.1"): "full-step-10",
    ("10, 11", "baseline", "0.1"): "reward-10-mean",
    ("-10, -9", "no baseline", "0.01"): "reward-minus10-none",
    ("-10, -9", "no baseline", "0.1"): "full-step-minus10",
    ("-10, -9", "baseline", "0.1"): "reward-minus10-mean",
    ("0, 1", "no baseline", "0.3"): "rate-0.3-none",
    ("0, 1", "baseline", "0.3"): "rate-0.3-mean",
    ("0, 1", "no baseline", "1"): "rate-1-none",
    ("0, 1", "baseline", "1"): "rate-1-mean",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What the first 10,000 decisions' updates did to their actions, while the policy is still near uniform."""
    return {key: columns[column][0] for key, column in {"right": RIGHT, "wrong": WRONG}.items() if column in columns}


def change(seeds: list[Result], key: str) -> float:
    return plot.mean(seed.facts[key] for seed in seeds)


def rewards_figure(results: Results, path: Path):
    """Above, test accuracy over decisions; below, what an update does to right and to wrong actions."""
    options = {"sharey": "row", "gridspec_kw": {"height_ratios": [3, 2]}}
    with plot.figure(path, 2, 3, size=(11, 6), **options) as panels:
        for above, below, (key, rewards) in zip(panels[:3], panels[3:], REWARDS.items(), strict=True):
            for k, (baseline, label) in enumerate(BASELINES.items()):
                seeds = results[f"digits-reward-{key}-{baseline}"]
                plot.curves(above, seeds, "global_step", TEST, label, scale=1e-3)
                below.bar([0.36 * k - 0.18, 0.36 * k + 0.82], [change(seeds, "wrong"), change(seeds, "right")], 0.34)
            seeds = results["digits-cross-entropy"]
            plot.curves(above, seeds, "global_step", TEST, "cross-entropy", plot.BLACK, "--", scale=1e-3)
            rate = "" if key == "0" else "\n(no baseline: learning rate 0.01)"
            above.set(title=f"reward {rewards}{rate}", xlabel="thousand decisions, one image each", ylim=(0, 1))
            below.axhline(0, color="black", linewidth=0.8)
            below.set_xticks([0, 1], ["wrong actions", "right actions"])
            below.set_title(LECTURE[key], fontsize=9)
        panels[0].set_ylabel("accuracy on 10,000 test images")
        panels[2].legend(loc="lower right", bbox_to_anchor=(1, 0.3))
        panels[3].set_ylabel("change of log pi per update\n(first 10,000 decisions)")


def draw(results: Results, folder: Path) -> dict[str, str]:
    rewards_figure(results, folder / "rewards.png")
    columns = {
        "seeds": plot.count,
        "test accuracy": percent,
        "wrong actions": lambda seeds: f"{change(seeds, 'wrong'):+.4f}",
        "right actions": lambda seeds: f"{change(seeds, 'right'):+.4f}",
        "CPU seconds": plot.cpu,
    }
    ours, labels = {cells: results[f"digits-{name}"] for cells, name in ROWS.items()}, results["digits-cross-entropy"]
    last = ["-", "cross-entropy of the labels", "0.1", str(len(labels)), percent(labels), "-", "-", plot.cpu(labels)]
    names = ["reward-0-mean", "reward-0-none", "rate-0.3-mean", "rate-0.3-none"]
    with_, without = (percent(results[f"digits-reward-10-{baseline}"]) for baseline in ("mean", "none"))
    return {name: percent(results[f"digits-{name}"]) for name in names} | {
        "table": plot.beside(("rewards", "update", "learning rate"), ours, columns, [last]),
        "number": f"MNIST, rewards 10 and 11: {with_} with a baseline, {without} without",
    }
