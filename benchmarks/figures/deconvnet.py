"""Figures and tables of gen/deconvnet.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np

from benchmarks.figures.draw import OLD_CODE, made_by
from benchmarks.plot import Results, machines, table

COLUMNS = [
    "global_step", "charts/epoch", "losses/loss", "eval/accuracy", "eval/correlation_1", "eval/likeness_1",
    "eval/dead_1", "eval/correlation_2", "eval/likeness_2", "eval/dead_2",
]  # fmt: skip
RUNS = {"deconvnet-cifar10": ("CIFAR-10", "70 %"), "deconvnet-mnist": ("MNIST", "98.5 %")}  # row -> data, bar

OLD_PICTURES = [
    f"An image of CIFAR-10 and all features of layer 1, then of layer 2 (made by the file at commit {OLD_CODE}):",
    "![Layer 1](old_features1.png)",
    "![Layer 2](old_features2.png)",
]
WORDS = {  # picture of a run -> what it shows
    "features": "An image and its ten most active features, of layer 1 above, of layer 2 below; of each the projection "
    "with switches and, below it, with copies",
    "strongest": "Features' three strongest activations, the image's patch above the projection; the upper half of "
    "layer 1, the lower half of layer 2",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write results/deconvnet/README.md and its pictures; returns the README's blocks."""
    rows, numbers, pictures = [], [], []
    for name, (data, bar) in RUNS.items():
        for seed in results[name]:
            columns = ("correlation_1", "correlation_2", "likeness_1", "likeness_2")
            cells = [f"{seed.final(f'eval/{column}'):.2f}" for column in columns]
            dead = [seed.final(f"eval/dead_{layer}") for layer in (1, 2)]
            cells.append("-" if np.isnan(dead).any() else f"{dead[0]:.0f}, {dead[1]:.0f}")
            epochs, accuracy = f"{seed.final('charts/epoch'):.0f}", f"{100 * seed.final('eval/accuracy'):.2f} %"
            seconds = f"{seed.summary['cpu_seconds']:,.0f}"
            rows.append([data + made_by(seed), f"{seed.seed}", epochs, accuracy, bar, *cells, seconds])
        if results[name]:
            mean = {
                key: np.mean([seed.final(f"eval/{key}") for seed in results[name]])
                for key in ("accuracy", "correlation_1", "correlation_2")
            }
            numbers.append(
                f"{data} {100 * mean['accuracy']:.1f} %, features correlated {mean['correlation_1']:.2f} in layer 1, "
                f"{mean['correlation_2']:.2f} in layer 2"
            )
        for picture, words in WORDS.items():
            file, run = f"{name}_{picture}.png", folder.parents[1] / "runs" / "benchmark" / name / "seed1"
            if (run / f"{picture}.png").exists():
                shutil.copy(run / f"{picture}.png", folder / file)
            if (folder / file).exists():
                pictures += [f"{data}. {words}:", f"![{data}, {picture}]({file})"]
    header = ["", "seed", "epochs", "test accuracy", "bar", "correlation, layer 1", "layer 2", "likeness, layer 1"]
    header += ["layer 2", "dead features of 32, 64", "CPU seconds"]
    parts = [
        "# Deconvnet",
        "The post on visualizing features shows the projections of a small network's features on CIFAR-10 and reports "
        "no accuracy. It observes that features of a layer activate in different places, and that the image is easy to "
        "see in the first layer's features and much harder in the second's.",
        "```\npython gen/deconvnet.py --dataset cifar10 --epochs 5 --batch-size 100\n```",
        table(header, rows),
        "Correlation: mean |r| over all pairs of a layer's live features, over 200 test images and all places. "
        "Likeness: mean |r| between the pixels that a feature is projected to and the image's. Features are less "
        "correlated in the second layer, as the post hopes. That the image is hard to see there is not in the "
        "likeness: it is as large as in the first layer, on MNIST larger.",
        *(pictures or OLD_PICTURES),
        "Not run: the post's setting (10,000 images, a learning rate of 1e-4, 20,000 updates) and its wish for larger "
        "images.",
        f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    blocks = {"deconvnet-number": "; ".join(number.split(",")[0] for number in numbers)}
    for file in ("deconvnet-cifar10_strongest.png", "deconvnet-mnist_strongest.png", "old_features1.png"):
        if (folder / file).exists() and "deconvnet-picture" not in blocks:
            blocks["deconvnet-picture"] = (
                f'<img src="results/deconvnet/{file}" width="200" alt="Patches and the features they activate">'
            )
    return blocks
