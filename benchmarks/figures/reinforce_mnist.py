"""Figures and tables of algos/reinforce_mnist.py, for benchmarks/plot.py."""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLACK, BLUE, ORANGE, Results, curves, machines, not_run, save, table

TEST, TRAIN = "eval/test_accuracy", "eval/train_accuracy"
RIGHT, WRONG = "charts/right_more_likely", "charts/wrong_more_likely"
COLUMNS = ["global_step", "charts/accuracy", RIGHT, WRONG, "losses/entropy", "losses/signal", "losses/noise"]
COLUMNS += ["charts/SPS", "time/elapsed", TRAIN, TEST]
REWARDS = {"0": "0 wrong, 1 right", "10": "10 wrong, 11 right", "minus10": "-10 wrong, -9 right"}
BASELINES = {"none": ("no baseline", ORANGE), "mean": ("baseline: mean of the others", BLUE)}
SAYS = {
    "0": "the lecture: wrong, do nothing;\nright, more likely",
    "10": "the lecture: wrong, more likely;\nright, slightly more so",
    "minus10": "the lecture: wrong, less likely;\nright, slightly less so",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What the first updates do to their guesses, and how noisy they are, while the policy is still near uniform."""
    first = {"right": RIGHT, "wrong": WRONG, "signal": "losses/signal", "noise": "losses/noise"}
    return {key: None if np.isnan(columns[column][0]) else float(columns[column][0]) for key, column in first.items()}


def mean_fact(seeds, key: str) -> float:
    values = [seed.summary["facts"][key] for seed in seeds]
    return float(np.mean(values)) if values and None not in values else float("nan")


def rewards_figure(results: Results, path: Path):
    """Above, test accuracy over guesses; below, what an update does to its guesses, right and wrong ones."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 3, sharey="row", gridspec_kw={"height_ratios": [3, 2]})
    for i, (key, rewards) in enumerate(REWARDS.items()):
        for k, (baseline, (label, color)) in enumerate(BASELINES.items()):
            seeds = results[f"digits-reward-{key}-{baseline}"]
            curves(above[i], seeds, "global_step", TEST, color, label, scale=1e-3)
            changes = [mean_fact(seeds, "wrong"), mean_fact(seeds, "right")]
            below[i].bar(np.arange(2) + 0.36 * k - 0.18, changes, 0.34, color=color)
            if not seeds:
                not_run(above[i])
        seeds = results["digits-cross-entropy"]
        curves(above[i], seeds, "global_step", TEST, BLACK, "cross-entropy", linestyle="--", scale=1e-3)
        above[i].set(title=f"reward {rewards}", xlabel="thousand guesses", ylim=(0, 1))
        below[i].axhline(0, color="black", linewidth=0.8)
        below[i].set_xticks([0, 1], ["wrong guesses", "right guesses"])
        below[i].set_title(SAYS[key], fontsize=9)
    above[0].set_ylabel("accuracy on 10,000 test digits")
    above[2].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.3))
    below[0].set_ylabel("more likely by, per update\n(in log pi, first 10,000 guesses)")
    save(figure, path)
    save(figure, path.with_name("thumbnail.png"), dpi=40)


def percent(seeds, column: str) -> str:
    values = [100 * seed.final(column) for seed in seeds]
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %" if len(values) > 1 else f"{values[0]:.1f} %"


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    names = {f"digits-reward-{key}-{baseline}": (rewards, label) for key, rewards in REWARDS.items()
             for baseline, (label, _) in BASELINES.items()}  # fmt: skip
    names |= {f"digits-full-step-{key}": (REWARDS[key], "no baseline, full step") for key in ("10", "minus10")}
    names["digits-cross-entropy"] = ("-", "cross-entropy")
    rows, used = [], []
    for name, (rewards, label) in names.items():
        seeds = results[name]
        if seeds:
            used += seeds
            changes = [mean_fact(seeds, key) for key in ("wrong", "right", "signal", "noise")]
            cells = ["-" if np.isnan(x) else f"{x:+.4f}" for x in changes[:2]] + [f"{x:.2f}" for x in changes[2:]]
            rate = re.search(r"--learning-rate (\S+)", seeds[0].summary["command"])[1]
            rows.append([rewards, label, rate, str(len(seeds)), percent(seeds, TEST), percent(seeds, TRAIN), *cells])
    if not rows:
        return {}
    rewards_figure(results, folder / "rewards.png")
    header = ["reward", "update", "step size", "seeds", "test accuracy", "training accuracy"]
    header += ["a wrong guess becomes more likely by", "a right guess by", "signal", "noise"]
    steps = int(used[0].final("global_step"))
    text = [
        "# REINFORCE as a classifier",
        f"MNIST, {steps:,} guesses in batches of 100; mean ± standard deviation over seeds.",
        "![What the constant in the reward does](rewards.png)",
        table(header, rows, left=2),
        "The last four columns are of the first 10,000 guesses: the mean change of log pi of the guess by an update, "
        "and size (of the mean over guesses) and standard deviation of an image's gradient in the logits: the baseline "
        "leaves the signal and takes out the noise. Without one, rewards of 10 and 11 get a tenth of the step size.",
        f"Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    blocks = {}
    ours, theirs, bad = (results[f"digits-{key}"] for key in ("reward-10-mean", "cross-entropy", "reward-10-none"))
    if ours and bad:
        text = f"MNIST, {steps:,} guesses, rewards 10 and 11: {percent(ours, TEST)} with a baseline, "
        text += f"{percent(bad, TEST)} without"
        blocks["reinforce_mnist-number"] = text + (f"; cross-entropy {percent(theirs, TEST)}" if theirs else "")
    return blocks
