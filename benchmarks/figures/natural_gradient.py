"""Figures and tables of algos/natural_gradient.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREY,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    median,
    number,
    save,
    sorted_median,
    spread,
    table,
)

RETURN, EVALUATION, KL, CPU = "charts/episodic_return_100", "eval/episodic_return", "losses/kl", "time/cpu"
COLUMNS = ["global_step", RETURN, KL, "losses/distance", "losses/entropy", "time/elapsed", CPU, EVALUATION]
SOLVED = 475.0  # CartPole-v1's reward_threshold
SIZES = {
    "kl": ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05"],
    "parameters": ["0.005", "0.02", "0.05", "0.2", "0.5", "2"],
}
METRICS = {"kl": "KL divergence, nats", "parameters": "parameters, half the squared distance"}
LABELS = {"kl": "measured in KL divergence", "parameters": "measured in parameters"}
UNITS = {"kl": "KL divergence (nats)", "parameters": "half the squared distance"}
COLORS = {"kl": BLUE, "parameters": VERMILLION}
DEFAULT = {"kl": "ng-kl-0.002", "parameters": "ng-parameters-0.2"}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Steps until the last hundred training episodes are worth 475; least and greatest KL divergence of an update."""
    reached = columns[RETURN] >= SOLVED
    steps = float(columns["global_step"][reached.argmax()]) if reached.any() else math.inf
    return {"steps": steps, "least_kl": float(columns[KL].min()), "greatest_kl": float(columns[KL].max())}


def best(results: Results, metric: str) -> str | None:
    """The length of step with which the last hundred training episodes were worth most, on average."""
    run = [name for name in (f"ng-{metric}-{size}" for size in SIZES[metric]) if results[name]]
    return max(run, key=lambda name: np.mean([seed.final(RETURN) for seed in results[name]]), default=None)


def curves_figure(results: Results, path: Path):
    """Learning curves of both metrics, the KL divergence of each update; and Acrobot, if it was run."""
    more = any(results[f"ng-acrobot-{metric}"] for metric in LABELS)
    figure = Figure(figsize=(13 if more else 9, 3.8), layout="constrained")
    cartpole, kl, *acrobot = panels = figure.subplots(1, 3 if more else 2)
    for metric, label in LABELS.items():
        seeds, usual = results[best(results, metric) or DEFAULT[metric]], results[DEFAULT[metric]]
        size = seeds[0].name.rsplit("-", 1)[1] if seeds else ""
        curves(cartpole, seeds, "global_step", RETURN, COLORS[metric], f"steps of {size}, {label}", scale=1e-3)
        for i, seed in enumerate(usual):
            at, name = seed["global_step"] * 1e-3, f"steps {label}" if i == 0 else None
            kl.plot(at, seed[KL], color=COLORS[metric], linewidth=0.7, alpha=0.7, label=name)
        for axes in acrobot:
            curves(
                axes,
                results[f"ng-acrobot-{metric}"],
                "global_step",
                RETURN,
                COLORS[metric],
                f"steps {label}",
                scale=1e-3,
            )
            axes.set(title="Acrobot-v1, steps of 0.005 nats or 0.05", ylabel="return, last 100 episodes")
    cartpole.axhline(SOLVED, color=GREY, linestyle=":", label="solved: 475")
    cartpole.set(title="CartPole-v1, each at the best of six lengths", ylabel="return, last 100 episodes")
    kl.set(title="CartPole-v1, defaults", ylabel="KL divergence of an update (nats)", yscale="log")
    for axes in panels:
        axes.set_xlabel("thousand environment steps")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def sizes_figure(results: Results, path: Path):
    """The return at the end of training over the length of a step: every seed, and their mean."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), SIZES, strict=True):
        finals = {float(size): [s.final(RETURN) for s in results[f"ng-{metric}-{size}"]] for size in SIZES[metric]}
        finals = {size: values for size, values in finals.items() if values}
        for size, values in finals.items():
            axes.plot([size] * len(values), values, ".", color=COLORS[metric], alpha=0.5)
        axes.plot(list(finals), [np.mean(values) for values in finals.values()], color=COLORS[metric])
        axes.axhline(SOLVED, color=GREY, linestyle=":")
        axes.set(title=f"steps {LABELS[metric]}", xlabel=UNITS[metric], xscale="log", ylim=(0, 520))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("return, last 100 episodes")
    save(figure, path)


def row(label: str, seeds: list[Result]) -> list[str]:
    found = [seed.summary["facts"] for seed in seeds]
    steps = sorted_median([fact["steps"] for fact in found])
    least, greatest = min(fact["least_kl"] for fact in found), max(fact["greatest_kl"] for fact in found)
    return [
        label,
        str(len(seeds)),
        spread(seed.final(RETURN) for seed in seeds),
        spread(seed.final(EVALUATION) for seed in seeds),
        f"{sum(not math.isinf(fact['steps']) for fact in found)} of {len(seeds)}",
        number(steps),
        f"{least:.2g} to {greatest:.2g}",
        median(seed.final(CPU) for seed in seeds),
    ]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    cartpole = [
        [METRICS[metric], *row(size, results[f"ng-{metric}-{size}"])]
        for metric in SIZES
        for size in SIZES[metric]
        if results[f"ng-{metric}-{size}"]
    ]
    if not cartpole:
        return {}
    curves_figure(results, folder / "curves.png")
    sizes_figure(results, folder / "sizes.png")
    picture = folder.parents[1] / "runs" / "benchmark" / DEFAULT["kl"] / "seed1" / "metric.png"
    if picture.exists():
        shutil.copy(picture, folder)
    header = ["seeds", "training, last 100 episodes", "most likely actions, 100 episodes", "reach 475", "steps to 475"]
    header += ["KL divergence of an update", "CPU seconds"]
    text = [
        "# The natural gradient",
        "Every update is the steepest step of one length; what differs is how the length is measured. 150,000 steps; "
        "mean ± standard deviation of the seeds, median of the steps (never: for more than half of the seeds), least "
        "and greatest KL divergence of all updates, median (least to greatest) of the CPU seconds, import left out.",
        "![Learning curves](curves.png)",
        "## CartPole-v1, a linear policy of 10 parameters",
        table(["steps are measured in", "length", *header], cartpole),
        "A step of constant length never rests: once every episode reaches the limit of 500, all that is left to "
        "follow is noise, and the longer the steps, the sooner the policy is lost again for a while. trpo.py has the "
        "same weakness.",
        "![Return over the length of a step](sizes.png)",
    ]
    hidden = {
        "ng-units-kl": "KL divergence, by its Hessian",
        "ng-units-scores": "KL divergence, by the scores",
        "ng-units-parameters": "parameters",
    }
    rows = [row(label, results[name]) for name, label in hidden.items() if results[name]]
    if rows:
        about = "The same at a damping of 0.01, with steps of 0.005 nats or 0.05. Hessian and scores are two ways to "
        about += "the same matrix; that the curves differ is float32's rounding, which CartPole amplifies."
        text += ["## CartPole-v1, 16 tanh units, 114 parameters", about, table(["measured in", *header], rows)]
    rows = [
        row(label, results[f"ng-acrobot-{metric}"])
        for metric, label in LABELS.items()
        if results[f"ng-acrobot-{metric}"]
    ]
    if rows:
        rows = [[*cells[:4], *cells[6:]] for cells in rows]
        text += ["## Acrobot-v1, steps of 0.005 nats or 0.05", table(["steps", *header[:3], *header[5:]], rows)]
    text += [
        "## What the posts draw",
        "Left, two Gaussians that move by the same 2. Middle, a Gaussian policy of two parameters climbs to its best "
        "action by steps of one length in KL divergence and in parameters. The plain gradient gives up its spread "
        "before its mean has arrived, and at the end its steps are too long for so narrow a policy. Right, the Fisher "
        "matrix of the policy that learned CartPole (seed 1), a row and a column for each parameter.",
        "![Metric](metric.png)",
        f"Measured on: {machines([seed for name in results.all for seed in results[name]])}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    natural, plain = results[DEFAULT["kl"]], results[best(results, "parameters") or DEFAULT["parameters"]]
    if not natural or not plain:
        return {}
    count = len(natural)
    ours = sum(seed.final(RETURN) >= SOLVED for seed in natural)
    steps = number(sorted_median([seed.summary["facts"]["steps"] for seed in natural]))
    theirs = number(float(np.mean([seed.final(RETURN) for seed in plain])))
    number_block = (
        f"CartPole-v1 at 475 after {steps} steps (median of {count} seeds, {ours} of them at 475 or better in "
    )
    number_block += f"the end); plain steps of the best length: {theirs} after 150,000"
    return {"natural_gradient-number": number_block}
