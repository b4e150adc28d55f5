"""Figures and tables of algos/es_mnist.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
    GREEN,
    ORANGE,
    PUBLISHED,
    Results,
    curves,
    machines,
    number,
    read_rows,
    save,
    table,
)

TEST, TRAIN, LINEAR = "eval/test_accuracy", "eval/train_accuracy", "eval/test_accuracy_float64"
COLUMNS = ["global_step", "losses/loss", "charts/SPS", TEST, TRAIN, LINEAR]
METHODS = {
    "es-mnist-low-rank": ("ES, low-rank noise", "ES", GREEN),
    "es-mnist-full": ("ES, full noise", "ES", ORANGE),
    "es-mnist-backprop": ("backpropagation", "backpropagation", BLACK),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def accuracy_figure(results: Results, methods: dict, path: Path, lowest: float = 0.0):
    """Test accuracy over the images evaluated, those of all perturbed networks."""
    axes = Figure(figsize=(7.5, 4), layout="constrained").subplots()
    for name, (label, _, color) in methods.items():
        curves(axes, results[name], "global_step", TEST, color, label)
    for row, linestyle in zip(read_rows(PUBLISHED / "es_mnist.csv"), ("--", ":"), strict=True):
        label = f"published, {row['method']}: {row['test_accuracy']} %"
        axes.axhline(float(row["test_accuracy"]) / 100, color="grey", linestyle=linestyle, label=label)
    axes.set(xscale="log", ylim=(lowest, 1), xlabel="images evaluated", ylabel="accuracy on 10,000 test digits")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
    save(axes.figure, path)


def percent(seeds, column: str) -> str:
    values = [100 * seed.final(column) for seed in seeds]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "") + " %"


def old(seeds) -> str:
    """A mark for results that were made by algos/es_mnist.py at commit 7b0c269."""
    words = ("--log-every 10 ", "--backprop", "algos/es_mnist.py --dataset mnist --learning-rate")
    return " \\*" if any(word in seed.summary["command"] for seed in seeds for word in words) else ""


OLD_NOTE = "\\* made by the file at commit 7b0c269, when it held all three algorithms."


def accuracy_table(results: Results, methods: dict) -> str:
    published = {row["method"]: row for row in read_rows(PUBLISHED / "es_mnist.csv")}
    rows = []
    for name, (label, method, _) in methods.items():
        seeds, theirs = results[name], published[method]
        if not seeds:
            rows.append([label, "not run", *["-"] * 7])
            continue
        seconds = float(np.mean([seed.summary["cpu_seconds"] for seed in seeds]))
        cells = [label + old(seeds), str(len(seeds)), f"{seeds[0].final('global_step'):,.0f}", number(seconds)]
        cells += [percent(seeds, TRAIN), f"{theirs['train_accuracy']} %", percent(seeds, TEST)]
        rows.append([*cells, f"{theirs['test_accuracy']} %", percent(seeds, LINEAR)])
    header = ["MNIST", "seeds", "images", "CPU seconds", "training", "published", "test", "published"]
    return table([*header, "test in float64"], rows)


EXPLANATION = (
    "An image is a forward pass of a perturbed network; for backpropagation, a pass forwards and backwards. The last "
    "column evaluates the same weights in float64, where nothing underflows and the network is linear."
)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    accuracy_figure(results, METHODS, folder / "accuracy.png")
    text = [
        "# Evolution strategies on a linear network that underflows",
        "OpenAI's post [Nonlinear computation in deep linear networks]"
        "(https://openai.com/index/nonlinear-computation-in-deep-linear-networks/) trains a linear network by "
        "evolution strategies to more than 99 % of MNIST's training and 96.7 % of its test digits; backpropagation, "
        "which does not know that small numbers underflow, to 94 and 92 %. With "
        "[es_mnist.py](../../algos/es_mnist.py):",
        "    ./benchmark.sh es_mnist",
        "![Accuracy over images evaluated](accuracy.png)",
        accuracy_table(results, METHODS),
        *([OLD_NOTE] if any(old(results[name]) for name in METHODS) else []),
        "Evolution strategies over all 670,000 weights stay far below the post's accuracy with these budgets; the post "
        "states neither its budget nor its population. What reaches 95 % here is "
        "[node perturbation](../node_perturbation_mnist/README.md), which needs the input of each layer.",
        EXPLANATION,
        f"Measured on: {machines(seed for name in METHODS for seed in results[name])}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    best = max((results[name] for name in ("es-mnist-low-rank", "es-mnist-full")), key=lambda s: s[0].final(TEST))
    images = f"{best[0].final('global_step') / 1e6:.1f} M images"
    ours = f"{percent(best, TRAIN)} training, {percent(best, TEST)} test after {images}"
    return {"es_mnist-number": f"{ours} (published: > 99 %, 96.7 %, budget not stated)"}
