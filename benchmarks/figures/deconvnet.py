"""Figures and tables of gen/deconvnet.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, GREY, ORANGE, Results, curves, machines, number, save, table

ACCURACY = "eval/accuracy"
CORRELATION, LIKENESS = ("eval/correlation_1", "eval/correlation_2"), ("eval/likeness_1", "eval/likeness_2")
COLUMNS = [
    "global_step", "charts/epoch", "losses/loss", "losses/accuracy", "eval/loss", ACCURACY, *CORRELATION, *LIKENESS,
    "time/elapsed",
]  # fmt: skip
RUNS = {  # row of benchmark.sh -> what it is called, colour, the bar
    "deconvnet-cifar10": ("CIFAR-10, 50,000 pictures", BLUE, 0.70),
    "deconvnet-post": ("CIFAR-10, 10,000 pictures, as the post", ORANGE, None),
    "deconvnet-mnist": ("MNIST", GREEN, 0.985),
}
SIZES = {"deconvnet-size-32": "32", "deconvnet-size-64": "64"}
PICTURES = {  # which run's pictures are shown: name in results/deconvnet/ -> run, its picture
    **{f"{name}{layer}.png": ("deconvnet-cifar10", f"{name}{layer}.png")
       for name in ("features", "one", "strongest") for layer in (1, 2)},
    "unpooling.png": ("deconvnet-cifar10", "unpooling.png"),
    **{f"mnist_{name}.png": ("deconvnet-mnist", f"{name}.png")
       for name in ("features1", "features2", "one1", "one2", "unpooling")},
    "strongest2_32.png": ("deconvnet-size-32", "strongest2.png"),
    "strongest2_64.png": ("deconvnet-size-64", "strongest2.png"),
}  # fmt: skip


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    for name, (run, picture) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in PICTURES if (folder / name).exists()}


def accuracy_part(results: Results, folder: Path) -> list[str]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, rows = figure.subplots(), []
    for name, (label, color, bar) in RUNS.items():
        if name == "deconvnet-post" and name not in results.all:
            continue  # half an hour
        seeds = results[name]
        curves(axes, seeds, "global_step", ACCURACY, color, label, scale=1e-3)
        if bar:
            axes.axhline(bar, color=GREY, linestyle=":")
        for seed in seeds:
            cells = [seed.final(column) for column in (*CORRELATION, *LIKENESS)]
            numbers = [f"{seed.final(ACCURACY):.2%}", f"{bar:.1%}" if bar else "-", *(f"{cell:.3f}" for cell in cells)]
            words = [label, f"{seed.seed}", number(seed.final("charts/epoch")), f"{seed.summary['cpu_seconds']:,.0f}"]
            rows.append(words + numbers)
    axes.set(xlabel="thousands of pictures seen", ylabel="share of right answers, test pictures", ylim=(0.3, 1))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "accuracy.png")
    header = ["", "seed", "epochs", "CPU seconds", "test accuracy", "bar", "correlation, layer 1", "layer 2"]
    header += ["likeness, layer 1", "layer 2"]
    note = (
        "Correlation: mean |r| over all pairs of a layer's features, over 200 test pictures and all places; the post "
        "wants it small. Likeness: mean |r| between the pixels that a feature is projected to and the picture's; the "
        "post finds the picture easy to see in the first layer's features and hard in the second's."
    )
    return ["## The classifier, and its features in numbers", table(header, rows), note, "![accuracy](accuracy.png)"]


def sizes_part(results: Results, pictures: set[str]) -> list[str]:
    rows = []
    for name, size in SIZES.items():
        for seed in results[name]:
            cells = [f"{seed.final(column):.3f}" for column in (*CORRELATION, *LIKENESS)]
            rows.append([size, f"{seed.final(ACCURACY):.1%}", *cells])
    if not rows:
        return []
    header = ["emoji, pixels", "turns told right", "correlation, layer 1", "layer 2", "likeness, layer 1", "layer 2"]
    parts = ["## Larger pictures", table(header, rows, 1)]
    parts += ["The same cartoons at two sizes, trained to tell by how many quarters a picture was turned."]
    for name, size in (("strongest2_32.png", 32), ("strongest2_64.png", 64)):
        if name in pictures:
            parts += [f"The strongest activations of the second layer at {size} pixels:", f"![strongest]({name})"]
    return parts


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# Deconvnet", *accuracy_part(results, folder)]
    shown = {
        "features{}.png": "One picture, then all features of it, each scaled by itself",
        "one{}.png": "The feature that pictures differ in most: pictures, and what it sees in them",
        "strongest{}.png": "Each feature's three strongest activations in the test pictures, each beside its picture",
    }
    for layer in (1, 2):
        for name, words in shown.items():
            if name.format(layer) in pictures:
                parts += [f"## Layer {layer}. {words}", f"![{words}]({name.format(layer)})"]
    if "unpooling.png" in pictures:
        words = "A picture, its eight most active features of layer 1, and of layer 2; above with the switches, below "
        parts += [
            "## Switches, and the post's copies",
            words + "with the whole square filled.",
            "![both](unpooling.png)",
        ]
    if digits := [name for name in PICTURES if name.startswith("mnist_") and name in pictures]:
        parts += ["## The same on MNIST", *(f"![{name}]({name})" for name in digits)]
    parts += sizes_part(results, pictures)
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = []
    for name, what in (("deconvnet-cifar10", "CIFAR-10"), ("deconvnet-mnist", "MNIST")):
        if seeds := results[name]:
            r = [np.mean([seed.final(column) for seed in seeds]) for column in (ACCURACY, *CORRELATION)]
            found.append(f"{what} {r[0]:.1%}, features correlated {r[1]:.2f} in layer 1, {r[2]:.2f} in layer 2")
    if found:
        blocks["deconvnet-number"] = "; ".join(found)
    for name, words in (
        ("features1.png", "A picture, and its 32 features in pixels"),
        ("mnist_one2.png", "One feature"),
    ):
        if name in pictures and "deconvnet-picture" not in blocks:
            blocks["deconvnet-picture"] = f'<img src="results/deconvnet/{name}" width="200" alt="{words}">'
    return blocks
