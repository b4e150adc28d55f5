"""Figures and tables of algos/actor_critic.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.reinforce import first
from benchmarks.plot import (  # fmt: skip
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    median,
    number,
    ratios,
    save,
    spread,
    table,
)

RETURN, EVALUATION = "charts/episodic_return_100", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, "losses/entropy", "losses/explained_variance"]
BARS = {"ac-cartpole": ("CartPole-v1", 475), "ac-pendulum": ("InvertedPendulum-v5", 950)}
STEPS = {
    "ac-steps-1": ("1 (the post's)", VERMILLION), "ac-steps-4": ("4", ORANGE), "ac-steps-16": ("16", GREEN),
    "ac-cartpole": ("32 (default)", BLUE), "ac-steps-128": ("128", PURPLE),
}  # fmt: skip
PEERS = {"sb3-to475-a2c": "stable-baselines3, A2C"}
TEXT = """# Actor-critic

[Mnih et al. 2016](https://arxiv.org/abs/1602.01783): the TD error of a learned critic says at once how good an action
was, with less variance than a return and some bias. All five seeds solve CartPole-v1 after 54,000 to 55,000 steps. Not
run with this file: InvertedPendulum, the number of steps per update, stable-baselines3's PPO.

```bash
./benchmark.sh actor_critic
```

One run of them:

```bash
python algos/actor_critic.py --env-id CartPole-v1
```
"""


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {"steps": first(columns[RETURN] >= BARS.get(name, ("", 475))[1], columns["global_step"])}


def cpu_to_bar(result: Result) -> float:
    """CPU seconds of the whole run, start-up and evaluation included, times the share of its steps."""
    return result.summary["cpu_seconds"] * result.summary["facts"]["steps"] / result.final("global_step")


def steps(seeds: list[Result]) -> list[float]:
    return [seed.summary["facts"]["steps"] for seed in seeds]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figures and the page; returns the README's block."""
    figure, rows, speed = Figure(figsize=(14, 3.8), layout="constrained"), [], []
    *panels, sums = figure.subplots(1, 3)
    for axes, (name, (env_id, bar)) in zip(panels, BARS.items(), strict=True):
        seeds = results[name]
        curves(axes, seeds, "global_step", RETURN, BLUE, scale=1e-3)
        axes.axhline(bar, color=GREY, linestyle=":")
        axes.set(title=f"{env_id}, {len(seeds)} seeds", xlabel="thousand steps", ylabel="return, last 100 episodes")
        solved = f"{sum(map(math.isfinite, steps(seeds)))} of {len(seeds)}"
        ends = [spread(seed.final(column) for seed in seeds) for column in (RETURN, EVALUATION)]
        if seeds:
            rows.append([env_id, str(bar), solved, median(steps(seeds)), *ends])
    for name, (label, color) in STEPS.items():
        curves(sums, results[name], "global_step", RETURN, color, label, scale=1e-3)
    sums.set(title="CartPole-v1: steps per update", xlabel="thousand steps", ylabel="return, last 100 episodes")
    sums.legend(frameon=False, fontsize=8)
    save(figure, folder / "curves.png")

    ours = results["ac-cartpole"]
    for name, label in {"ac-cartpole": "algos/actor_critic.py", **PEERS}.items():
        if seeds := results[name]:
            faster = median(ratios(seeds, ours, cpu_to_bar), lambda x: f"{number(x)}x")
            speed.append([label, str(len(seeds)), median(steps(seeds)), median(map(cpu_to_bar, seeds)), faster])
    header = ["environment", "bar", "seeds that reach it", "steps", "return at the end", "deterministic actions"]
    text = f"""{TEXT}
![Learning curves](curves.png)

{table(header, rows)}

The bar is the mean of the last 100 training episodes; medians (least to greatest) over seeds. With one step per update
the learning rates are smaller: see `benchmark.sh`.

## CPU seconds to 475

{table(["CartPole-v1", "seeds", "steps", "CPU seconds", "times ours"], speed)}

CPU seconds of the whole run, start-up included, times the share of its steps that the bar took.

Measured on: {machines([seed for name in results.all for seed in results[name]])}.
"""
    (folder / "README.md").write_text(text)
    middle = number(float(np.median(steps(ours)))) if ours else "-"
    return {"actor-critic-number": f"475 on CartPole-v1 in {rows[0][2]} seeds, median {middle} steps"}
