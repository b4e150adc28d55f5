"""Figures and tables of algos/reinforce_mnist.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Results

TEST, RIGHT, WRONG = "eval/test_accuracy", "charts/right_more_likely", "charts/wrong_more_likely"
COLUMNS = ["global_step", RIGHT, WRONG, "charts/SPS", TEST]
REWARDS = {"0": "0 wrong, 1 right", "10": "10 wrong, 11 right", "minus10": "-10 wrong, -9 right"}
BASELINES = {"none": "no baseline", "mean": "baseline"}
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


def draw(results: Results, folder) -> dict[str, str]:
    with plot.figure(folder / "rewards.png", columns=3, size=(11, 4), sharey=True) as panels:
        for axes, (key, rewards) in zip(panels, REWARDS.items(), strict=True):
            shown = {label: results[f"digits-reward-{key}-{name}"] for name, label in BASELINES.items()}
            shown["cross-entropy"] = results["digits-cross-entropy"]
            words = {"title": f"reward {rewards}", "xlabel": "thousand decisions, one image each", "ylim": (0, 1)}
            plot.panel(axes, shown, "global_step", TEST, scale=1e-3, **words)
        panels[0].set_ylabel("accuracy on 10,000 test images")
        panels[2].legend(loc="lower right", bbox_to_anchor=(1, 0.3))
    columns = {
        "seeds": plot.count,
        "test accuracy": percent,
        "wrong actions": lambda seeds: f"{plot.mean(seed.facts['wrong'] for seed in seeds):+.4f}",
        "right actions": lambda seeds: f"{plot.mean(seed.facts['right'] for seed in seeds):+.4f}",
        "CPU seconds": plot.cpu,
    }
    ours, labels = {cells: results[f"digits-{name}"] for cells, name in ROWS.items()}, results["digits-cross-entropy"]
    last = ["-", "cross-entropy of the labels", "0.1", str(len(labels)), percent(labels), "-", "-", plot.cpu(labels)]
    with_, without = (percent(results[f"digits-reward-10-{baseline}"]) for baseline in ("mean", "none"))
    return {
        "table": plot.beside(("rewards", "update", "learning rate"), ours, columns, [last]),
        "number": f"MNIST, rewards 10 and 11: {with_} with a baseline, {without} without",
    }
