"""Figures and tables of algos/reinforce.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (  # fmt: skip
    BLUE,
    GREEN,
    GREY,
    PUBLISHED,
    VERMILLION,
    Results,
    curves,
    machines,
    median,
    number,
    read_rows,
    save,
    spread,
    table,
)

RETURN, LENGTH, BAR = "charts/episodic_return_100", "charts/episodic_length", 475
COLUMNS = ["global_step", "charts/episodic_return", RETURN, LENGTH, "losses/entropy"]
CREDITS = {"return": "return of the episode", "togo": "reward-to-go"}
BASELINES = {"none": VERMILLION, "mean": GREEN, "value": BLUE}
TEXT = """# REINFORCE

[Williams 1992](https://doi.org/10.1007/BF00992696): credit assignment (an action is credited with the return of its
episode, or with the rewards that follow it) and the baseline change the gradient's variance, not its mean. With
reward-to-go and a learned value function every seed solves CartPole-v1. Of the other five combinations only what the
table lists was run with this file.

```bash
./benchmark.sh reinforce-togo reinforce-return
```

One run of them:

```bash
python algos/reinforce.py --credit reward-to-go --baseline value
```
"""


def first(reached: np.ndarray, column: np.ndarray) -> float:
    """The column where something was first reached, infinite where it never was."""
    return float(column[reached.argmax()]) if reached.any() else math.inf


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Steps and episodes to 475; an update plays eight episodes."""
    episodes = 8 * np.arange(1, len(columns["global_step"]) + 1)
    reached = (columns[RETURN] >= BAR) & (episodes >= 100)
    return {"steps": first(reached, columns["global_step"]), "episodes": first(reached, episodes)}


def combinations_figure(results: Results, path: Path):
    """Learning curves of the six combinations."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (credit, label) in zip(figure.subplots(1, 2, sharey=True), CREDITS.items(), strict=True):
        for baseline, color in BASELINES.items():
            curves(axes, results[f"reinforce-{credit}-{baseline}"], "global_step", RETURN, color, baseline, scale=1e-3)
        axes.axhline(BAR, color=GREY, linestyle=":")
        axes.set(title=f"credit: {label}", xlabel="thousand steps", ylabel="return, last 100 episodes", ylim=(0, 505))
        if len(axes.lines) > 1:
            axes.legend(frameon=False, title="baseline")
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's block."""
    peer, rows = read_rows(PUBLISHED / "reinforce.csv")[0], []
    for credit, label in CREDITS.items():
        for baseline in BASELINES:
            if seeds := results[f"reinforce-{credit}-{baseline}"]:
                steps, episodes = ([s.summary["facts"][key] for s in seeds] for key in ("steps", "episodes"))
                solved = f"{sum(map(math.isfinite, steps))} of {len(seeds)}"
                ends = spread(seed.final(RETURN) for seed in seeds)
                rows.append([label, baseline, solved, median(steps), median(episodes), ends])
    combinations_figure(results, folder / "combinations.png")
    header = ["credit", "baseline", "reached 475", "steps", "episodes", "return at the end"]
    text = f"""{TEXT}
![Learning curves](combinations.png)

{table(header, rows, left=2)}

CartPole-v1, 200,000 steps. 475 is the mean of the last 100 training episodes; medians (least to greatest) over seeds.
Published: {peer["value"]} episodes ({peer["source"]}).

Measured on: {machines([seed for name in results.all for seed in results[name]])}.
"""
    (folder / "README.md").write_text(text)
    steps = [seed.summary["facts"]["steps"] for seed in results["reinforce-togo-value"]]
    solved = sum(map(math.isfinite, steps))
    middle = number(float(np.median(steps))) if steps else "-"
    return {"reinforce-number": f"475 on CartPole-v1 in {solved} of {len(steps)} seeds, median {middle} steps"}
