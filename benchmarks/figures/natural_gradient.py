"""Figures and tables of algos/natural_gradient.py and of the classifier beside it, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.reinforce import first
from benchmarks.plot import BLUE, GREY, VERMILLION, Results, curves, machines, median, save, spread, table

RETURN, KL = "charts/episodic_return_100", "losses/kl"
COLUMNS = ["global_step", RETURN, KL, "losses/distance", "losses/entropy"]
SIZES = ["0.0005", "0.002", "0.005", "0.02"]
DIRECTIONS = {"natural": BLUE, "plain": VERMILLION}
TEXT = """# Natural policy gradient

Kakade 2001, "A natural policy gradient": the steepest direction, with distance measured by the KL divergence that a
step makes and not by the change of the parameters. Both directions below make steps of one KL divergence (a damping
of a thousand turns the natural into the plain gradient), so only the direction differs. The natural direction needs
fewer steps to 475 at each of the four sizes; the plain one solves CartPole-v1 too when its steps are measured so. On
Acrobot-v1 the plain direction was not run.

```bash
./benchmark.sh natural_gradient
```

One run of them:

```bash
python algos/natural_gradient.py --env-id CartPole-v1 --step-size 0.002
```
"""


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    if RETURN not in columns:
        return {}
    return {"steps": first(columns[RETURN] >= 475, columns["global_step"])}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figures and the page; returns the README's block."""
    figure, rows = Figure(figsize=(14, 3.4), layout="constrained"), []
    for axes, size in zip(figure.subplots(1, len(SIZES), sharey=True), SIZES, strict=True):
        for direction, color in DIRECTIONS.items():
            seeds = results[f"ng-{direction}-{size}"]
            curves(axes, seeds, "global_step", RETURN, color, f"{direction} gradient", scale=1e-3)
            if seeds:
                steps = [seed.summary["facts"]["steps"] for seed in seeds]
                made = median([float(np.median(seed[KL])) for seed in seeds], lambda x: f"{x:.4f}")
                solved = f"{sum(map(math.isfinite, steps))} of {len(seeds)}"
                rows.append([size, direction, solved, median(steps), spread(s.final(RETURN) for s in seeds), made])
        axes.axhline(475, color=GREY, linestyle=":")
        axes.set(title=f"steps of {size} nats", xlabel="thousand steps", ylim=(0, 505))
    figure.axes[0].set_ylabel("return, last 100 episodes")
    figure.axes[0].legend(frameon=False)
    save(figure, folder / "curves.png")
    acrobot = [[direction, str(len(seeds)), spread(seed.final(RETURN) for seed in seeds)]
               for direction in DIRECTIONS if (seeds := results[f"ng-acrobot-{direction}"])]  # fmt: skip
    header = [
        "KL divergence of a step, nats",
        "direction",
        "reach 475",
        "steps",
        "return at the end",
        "KL made, median",
    ]
    text = f"""{TEXT}
![Learning curves](curves.png)

{table(header, rows, left=2)}

CartPole-v1, a linear policy, 150,000 steps; returns are means of the last 100 training episodes, ± standard deviation
over seeds; medians (least to greatest).

Acrobot-v1, steps of .005 nats:

{table(["direction", "seeds", "return at the end"], acrobot)}

## A classifier

Three kinds of iris for the apple, the banana and the orange of Kevin Frans's post on the natural gradient: a softmax
classifier by plain and natural gradient from the same start. The Fisher matrix as the Hessian of the KL divergence and
as the mean outer product of the scores is the same matrix; the natural gradient does not notice when a feature is
measured in mm instead of cm.

```bash
python benchmarks/classifier_natural_gradient.py --run-dir runs/classifier
```

![Plain and natural gradient of a classifier](classifier.png)

Measured on: {machines([seed for name in results.all for seed in results[name]])}.
"""
    (folder / "README.md").write_text(text)
    default = next((row for row in rows if row[:2] == ["0.002", "natural"]), ["-"] * 6)
    plain = next((row for row in rows if row[:2] == ["0.002", "plain"]), ["-"] * 6)
    return {"natural_gradient-number": f"CartPole-v1, 150,000 steps: {default[4]}; plain gradient {plain[4]}"}
