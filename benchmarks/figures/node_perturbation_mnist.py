"""Figures and tables of algos/node_perturbation_mnist.py, for benchmarks/plot.py."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from algos.node_perturbation_mnist import Args, load_data, network
from benchmarks.figures.es_mnist import (
    COLUMNS,  # noqa: F401  (benchmarks/plot.py reads it here)
    EXPLANATION,
    OLD_NOTE,
    TEST,
    TRAIN,
    accuracy_figure,
    accuracy_table,
    facts,  # noqa: F401
    old,
    percent,
)
from benchmarks.plot import BLUE, VERMILLION, Results, machines, save

METHODS = {
    "node-mnist-20m": ("node perturbation", "ES", BLUE),
    "node-mnist-300m": ("node perturbation, longer", "ES", VERMILLION),
}


def draw_line(run: Path, path: Path):
    """The ten logits between two test digits, in float32, where they are not linear, and in float64."""
    parameters = torch.load(run / "model.pt", weights_only=True)["parameters"]
    _, _, images, labels = load_data(Args(dataset="mnist"))
    share = torch.linspace(0, 1, 501).unsqueeze(1)
    panels = Figure(figsize=(9, 3.6), layout="constrained").subplots(1, 2, sharey=True)
    for axes, dtype in zip(panels, (torch.float32, torch.float64), strict=True):
        x = torch.lerp(images[:1], images[1:2], share).to(dtype)
        axes.plot(share, network([p.to(dtype) for p in parameters], x), linewidth=1)
        axes.set(title=str(dtype).removeprefix("torch."), xlabel=f"from a {labels[0]} to a {labels[1]}")
    panels[0].set_ylabel("logits of the ten digits")
    save(panels[0].figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    accuracy_figure(results, METHODS, folder / "accuracy.png", lowest=0.85)
    long = results["node-mnist-300m"][0]
    run = folder.parents[1] / "runs" / "benchmark" / long.name / "seed1"
    if (run / "model.pt").exists():
        draw_line(run, folder / "line.png")
    text = [
        "# Node perturbation on a linear network that underflows",
        "The network of OpenAI's post [Nonlinear computation in deep linear networks]"
        "(https://openai.com/index/nonlinear-computation-in-deep-linear-networks/), which evolution strategies over "
        "its weights train to more than 99 % of MNIST's training and 96.7 % of its test digits. Here its "
        "pre-activations are perturbed, one layer at a time, which is another algorithm. With "
        "[node_perturbation_mnist.py](../../algos/node_perturbation_mnist.py):",
        "    ./benchmark.sh node_perturbation_mnist",
        "![Accuracy over images evaluated](accuracy.png)",
        accuracy_table(results, METHODS),
        *([OLD_NOTE] if any(old(results[name]) for name in METHODS) else []),
        "Node perturbation stays 1.4 points below the post's test accuracy, yet in float64 the same weights lose 7 "
        "points: the network has learned to use what underflows.",
        EXPLANATION,
        "![Ten logits between two digits, in float32 and in float64](line.png)",
        f"Measured on: {machines(seed for name in METHODS for seed in results[name])}.",
    ]
    (folder / "README.md").write_text("\n\n".join(paragraph for paragraph in text if paragraph) + "\n")
    ours = f"{percent([long], TRAIN)} training, {percent([long], TEST)} test after 300 M images"
    return {"node_perturbation_mnist-number": f"{ours} (ES over weights, published: > 99 %, 96.7 %)"}
