"""Figures and tables of algos/node_perturbation_mnist.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.es_mnist import COLUMNS, TEST, TRAIN, accuracies, percent

__all__ = ["COLUMNS", "draw"]

METHODS = {"node-mnist-20m": "node perturbation", "node-mnist-300m": "node perturbation, longer"}


def draw(results: plot.Results, folder) -> dict[str, str]:
    long = results["node-mnist-300m"]
    return {
        "table": accuracies(results, METHODS, folder / "accuracy.png", lowest=0.85),
        "number": f"{percent(TRAIN)(long)} training, {percent(TEST)(long)} test after 300 M images (ES over weights, "
        "published: > 99 %, 96.7 %)",
    }
