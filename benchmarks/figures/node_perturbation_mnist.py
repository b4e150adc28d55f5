"""Figures and tables of algos/node_perturbation_mnist.py, for benchmarks/plot.py."""

from pathlib import Path

import torch

from algos.node_perturbation_mnist import Args, load_data, network
from benchmarks import plot
from benchmarks.figures.es_mnist import COLUMNS, TEST, TRAIN, accuracies, percent

__all__ = ["COLUMNS", "draw"]

METHODS = {"node-mnist-20m": "node perturbation", "node-mnist-300m": "node perturbation, longer"}


def draw_line(run: Path, path: Path):
    """The ten logits between two test digits, in float32, where they are not linear, and in float64."""
    parameters = torch.load(run / "model.pt", weights_only=True)["parameters"]
    _, _, images, labels = load_data(Args(dataset="mnist"))
    share = torch.linspace(0, 1, 501).unsqueeze(1)
    with plot.figure(path, columns=2, size=(9, 3.6), sharey=True) as panels:
        for axes, dtype in zip(panels, (torch.float32, torch.float64), strict=True):
            x = torch.lerp(images[:1], images[1:2], share).to(dtype)
            axes.plot(share, network([p.to(dtype) for p in parameters], x), linewidth=1)
            axes.set(title=str(dtype).removeprefix("torch."), xlabel=f"from a {labels[0]} to a {labels[1]}")
        panels[0].set_ylabel("logits of the ten digits")


def draw(results: plot.Results, folder: Path) -> dict[str, str]:
    long, run = results["node-mnist-300m"], folder.parents[1] / "runs" / "benchmark" / "node-mnist-300m" / "seed1"
    if (run / "model.pt").exists():
        draw_line(run, folder / "line.png")
    return {
        "table": accuracies(results, METHODS, folder / "accuracy.png", lowest=0.85),
        "number": f"{percent(TRAIN)(long)} training, {percent(TEST)(long)} test after 300 M images (ES over weights, "
        "published: > 99 %, 96.7 %)",
    }
