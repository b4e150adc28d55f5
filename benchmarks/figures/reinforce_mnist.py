"""Figures and the page of algos/reinforce_mnist.py, for benchmarks/plot.py."""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLACK, BLUE, ORANGE, Result, Results, curves, machines, median, save, table

TEST, RIGHT, WRONG = "eval/test_accuracy", "charts/right_more_likely", "charts/wrong_more_likely"
COLUMNS = ["global_step", "charts/accuracy", RIGHT, WRONG, "charts/SPS", TEST]
REWARDS = {"0": "0 wrong, 1 right", "10": "10 wrong, 11 right", "minus10": "-10 wrong, -9 right"}
BASELINES = {"none": ("no baseline", ORANGE), "mean": ("baseline: mean of the others", BLUE)}
LECTURE = {
    "0": "the lecture: wrong, do nothing;\nright, more likely",
    "10": "the lecture: wrong, more likely;\nright, slightly more so",
    "minus10": "the lecture: wrong, less likely;\nright, slightly less so",
}
ROWS = [f"digits-reward-{key}-{baseline}" for key in REWARDS for baseline in BASELINES]
ROWS += ["digits-full-step-10", "digits-full-step-minus10"]
ROWS += [f"digits-rate-{rate}-{baseline}" for rate in ("0.3", "1") for baseline in BASELINES]
ROWS += ["digits-cross-entropy"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What the first 10,000 decisions' updates did to their actions, while the policy is still near uniform."""
    if RIGHT not in columns:
        return {}
    return {key: None if np.isnan(columns[column][0]) else columns[column][0] for key, column in
            {"right": RIGHT, "wrong": WRONG}.items()}  # fmt: skip


def change(seeds: list[Result], key: str) -> float:
    values = [seed.summary["facts"].get(key) for seed in seeds]
    return float(np.mean(values)) if values and None not in values else float("nan")


def rewards_figure(results: Results, path: Path):
    """Above, test accuracy over decisions; below, what an update does to right and to wrong actions."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 3, sharey="row", gridspec_kw={"height_ratios": [3, 2]})
    for i, (key, rewards) in enumerate(REWARDS.items()):
        for k, (baseline, (label, color)) in enumerate(BASELINES.items()):
            seeds = results[f"digits-reward-{key}-{baseline}"]
            curves(above[i], seeds, "global_step", TEST, color, label, scale=1e-3)
            changes = [change(seeds, "wrong"), change(seeds, "right")]
            below[i].bar(np.arange(2) + 0.36 * k - 0.18, changes, 0.34, color=color)
        seeds = results["digits-cross-entropy"]
        curves(above[i], seeds, "global_step", TEST, BLACK, "cross-entropy", linestyle="--", scale=1e-3)
        rate = "" if key == "0" else "\n(no baseline: learning rate 0.01)"
        above[i].set(title=f"reward {rewards}{rate}", xlabel="thousand decisions, one image each", ylim=(0, 1))
        below[i].axhline(0, color="black", linewidth=0.8)
        below[i].set_xticks([0, 1], ["wrong actions", "right actions"])
        below[i].set_title(LECTURE[key], fontsize=9)
    above[0].set_ylabel("accuracy on 10,000 test images")
    above[2].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.3))
    below[0].set_ylabel("change of log pi per update\n(first 10,000 decisions)")
    save(figure, path)


def percent(seeds: list[Result]) -> str:
    values = [100 * seed.final(TEST) for seed in seeds]
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %" if len(values) > 1 else f"{values[0]:.1f} %"


def flag(seed: Result, name: str, default: str) -> str:
    found = re.search(rf"--{name}[ =](\S+)", seed.summary["command"])
    return found[1] if found else default


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    rows, used = [], []
    for name in ROWS:
        seeds = results[name]
        if not seeds:
            continue
        used += seeds
        if name == "digits-cross-entropy":
            cells = ["-", "cross-entropy of the labels", "0.1"]
        else:
            one = seeds[0]
            cells = [f"{flag(one, 'reward-wrong', '0')}, {flag(one, 'reward-right', '1')}"]
            cells += [BASELINES[flag(one, "baseline", "none")][0], flag(one, "learning-rate", "0.1")]
        changes = [change(seeds, key) for key in ("wrong", "right")]
        shown = ["-" if np.isnan(x) else f"{x:+.4f}" for x in changes]
        cpu = median(seed.summary["cpu_seconds"] for seed in seeds)
        rows.append([*cells, str(len(seeds)), percent(seeds), *shown, cpu])
    if not rows:
        return {}
    rewards_figure(results, folder / "rewards.png")
    header = ["rewards", "update", "learning rate", "seeds", "test accuracy", "wrong actions", "right actions",
              "CPU seconds"]  # fmt: skip
    text = [
        "# REINFORCE as a classifier",
        'The lecture (Jimmy Ba, CSC413/2516, lecture 10, "Optimizing Discontinuous Objectives" and "Reward Baselines") '
        "treats the classification of digits as decisions of one step with a reward of 1 or 0. It claims that the "
        "update depends on a constant added to all rewards (with 10 and 11 a wrong action, too, becomes more likely) "
        "and that a baseline removes it. It publishes no numbers.",
        "    ./benchmark.sh reinforce_mnist",
        "![What the constant in the reward does](rewards.png)",
        table(header, rows, left=2),
        "MNIST, 200,000 decisions in batches of 100, `python algos/reinforce_mnist.py --dataset mnist`; mean ± "
        "standard deviation over seeds. Wrong and right actions: the change of their log-probability by an update, "
        "mean over the first 10,000 decisions.",
        f"Verdict: with rewards of 0 and 1 the baseline does not pay at the learning rate of 0.1 "
        f"({percent(results['digits-reward-0-mean'])} against {percent(results['digits-reward-0-none'])} without, "
        f"where a wrong action moves nothing); at 0.3 it is {percent(results['digits-rate-0.3-mean'])} against "
        f"{percent(results['digits-rate-0.3-none'])}. Three seeds spread too widely to rank the two. The lecture's "
        "claims hold: the signs of the changes are those it names, without a baseline nothing is learned at the same "
        "learning rate when the constant is 10 or -10, and with one the constant is irrelevant. Cross-entropy, which "
        "sees the labels, is better than all of them.",
        f"Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    ours, bad = results["digits-reward-10-mean"], results["digits-reward-10-none"]
    if not (ours and bad):
        return {}
    text = f"MNIST, rewards 10 and 11: {percent(ours)} with a baseline, {percent(bad)} without"
    return {"reinforce_mnist-number": text}
