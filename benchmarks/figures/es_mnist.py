"""Figures and tables of algos/es_mnist.py, for benchmarks/plot.py."""

import re
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PUBLISHED,
    VERMILLION,
    Results,
    curves,
    machines,
    number,
    read_rows,
    save,
    table,
)

TEST, TRAIN, LINEAR = "eval/test_accuracy", "eval/train_accuracy", "eval/test_accuracy_float64"
COLUMNS = ["global_step", "losses/loss", "charts/SPS", "time/elapsed", TEST, TRAIN, LINEAR]
METHODS = {
    "es-mnist-projected": ("ES, projected noise", "ES", BLUE),
    "es-mnist-hour": ("ES, projected noise, longer", "ES", VERMILLION),
    "es-mnist-low-rank": ("ES, low-rank noise", "ES", GREEN),
    "es-mnist-full": ("ES, full noise", "ES", ORANGE),
    "es-mnist-backprop": ("backpropagation", "backpropagation", BLACK),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def accuracy_figure(results: Results, published: dict[str, dict], path: Path):
    """Test accuracy over the images read, all members counted."""
    axes = Figure(figsize=(7.5, 4), layout="constrained").subplots()
    for name, (label, _, color) in METHODS.items():
        curves(axes, results[name], "global_step", TEST, color, label)
    for method, linestyle in (("ES", "--"), ("backpropagation", ":")):
        value = float(published[method]["test_accuracy"]) / 100
        axes.axhline(value, color="grey", linestyle=linestyle, label=f"published, {method}: {value:.1%}")
    axes.set(xscale="log", ylim=(0, 1), xlabel="images read, by all members", ylabel="accuracy on 10,000 test digits")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
    save(axes.figure, path)
    save(axes.figure, path.with_name("thumbnail.png"), dpi=50)


def percent(seeds, column: str) -> str:
    values = [100 * seed.final(column) for seed in seeds]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "") + " %"


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published = {row["method"]: row for row in read_rows(PUBLISHED / "es_mnist.csv")}
    rows, used = [], []
    for name, (label, method, _) in METHODS.items():
        seeds, theirs = results[name], published[method]
        if seeds:
            used += seeds
            seconds = float(np.mean([seed.summary["cpu_seconds"] for seed in seeds]))
            population = re.search(r"--population (\d+)", seeds[0].summary["command"])
            cells = [label, str(len(seeds)), population[1] if population else "960"]
            cells += [f"{seeds[0].final('global_step'):,.0f}", number(seconds)]
            cells += [percent(seeds, TRAIN), f"{theirs['train_accuracy']} %", percent(seeds, TEST)]
            rows.append([*cells, f"{theirs['test_accuracy']} %", percent(seeds, LINEAR)])
    if not rows:
        return {}
    accuracy_figure(results, published, folder / "accuracy.png")
    run = folder.parents[1] / "runs" / "benchmark" / "es-mnist-hour" / "seed1"
    line = folder / "line.png"
    if (run / "summary.json").exists():
        shutil.copy(run / "line.png", line)
    header = [
        "MNIST",
        "seeds",
        "population",
        "images read",
        "CPU seconds",
        "training",
        "published",
        "test",
        "published",
    ]
    header += ["test, same weights in float64"]
    text = [
        "# The linear network that underflows",
        table(header, rows),
        "![Accuracy over images read](accuracy.png)",
        *(["![Ten logits between two digits, in float32 and in float64](line.png)"] if line.exists() else []),
        f"Published: {published['ES']['source']}. An image read is one forward pass of one perturbed network; for "
        "backpropagation, one image forwards and backwards. In float64 nothing underflows, and the network is linear.",
        f"Measured on: {machines(used)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    tried = [results[name] for name, (_, method, _) in METHODS.items() if method == "ES" and results[name]]
    if not tried:
        return {}
    best = max(tried, key=lambda seeds: seeds[0].final(TEST))
    text = f"{METHODS[best[0].name][0]}: {percent(best, TRAIN)} training, {percent(best, TEST)} test"
    ours = f"{text} after {best[0].final('global_step') / 1e6:.1f} M images"
    theirs = f"published: {published['ES']['train_accuracy']} %, {published['ES']['test_accuracy']} %"
    return {"es_mnist-number": f"{ours} ({theirs})"}
