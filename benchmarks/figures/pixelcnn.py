"""Figures and tables of gen/pixelcnn.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    Results,
    curves,
    machines,
    read_rows,
    save,
    table,
)

BITS, NATS, SECONDS = "eval/bits_per_dim", "eval/nats", "time/elapsed"
COLUMNS = ["global_step", "charts/epoch", "losses/nats", "losses/bits_per_dim", NATS, BITS, "charts/SPS", SECONDS]
PICTURES = {  # name in results/pixelcnn/ -> run, its picture
    "mnist_samples.png": ("pixelcnn-mnist", "samples.png"),
    "mnist_completions.png": ("pixelcnn-mnist", "completions.png"),
    "cifar10_samples.png": ("pixelcnn-cifar10", "samples.png"),
    "cifar10_completions.png": ("pixelcnn-cifar10", "completions.png"),
}


def facts(name: str, columns: dict) -> dict:
    return {}


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    for name, (run, picture) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in PICTURES if (folder / name).exists()}


def likelihood_part(results: Results, folder: Path) -> list[str]:
    """What a test picture costs over CPU seconds, beside the published models."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    rows = []
    panels = [
        ("mnist", NATS, "MNIST, binarized anew for each batch", "nats per picture"),
        ("cifar10", BITS, "CIFAR-10", "bits per dimension"),
    ]
    for axes, (dataset, column, title, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        seeds = results[f"pixelcnn-{dataset}"]
        curves(axes, seeds, SECONDS, column, BLUE, "gen/pixelcnn.py, test pictures")
        published = [row for row in read_rows(PUBLISHED / "pixelcnn.csv") if row["dataset"] == dataset]
        for row, color in zip(published, (ORANGE, GREEN, PURPLE, GREY), strict=False):
            axes.axhline(float(row["value"]), color=color, linestyle=":", label=f"{row['model']}: {row['value']}")
        axes.set(xlabel="CPU seconds of training, one core", ylabel=unit, title=title)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        for seed in seeds:
            epochs, seconds = seed.final("charts/epoch"), seed.final(SECONDS)
            rows.append(
                [f"{title}: ours, small", f"{seed.final(column):.2f} {unit}", f"{epochs:.2g}", f"{seconds:.0f}"]
            )
        rows += [[f"{title}: {row['model']}", f"{row['value']} {unit}", "-", "-"] for row in published]
    save(figure, folder / "curves.png")
    header = ["", "test pictures", "epochs", "CPU seconds"]
    note = (
        "Ours are small networks, trained for minutes on one core and scored on 1,000 (CIFAR-10: 500) test pictures; "
        "the published ones are large and were trained for many epochs on GPUs. The rows for a GPU in benchmark.sh "
        "(`-long`) have not been run. With four layers a pixel's prediction sees ten rows up: below a gap of that "
        "height such a network may begin a second digit."
    )
    return ["## Likelihood", table(header, rows), note, "![curves](curves.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# Gated PixelCNN", *likelihood_part(results, folder)]
    words = {
        "mnist_samples.png": "Drawn pixel by pixel, after half an epoch of MNIST",
        "mnist_completions.png": "Test pictures, their upper halves, three ways to go on",
        "cifar10_samples.png": "Drawn pixel by pixel, after a fifth of an epoch of CIFAR-10",
        "cifar10_completions.png": "CIFAR-10: test pictures, their upper halves, three ways to go on",
    }
    for name, title in words.items():
        if name in pictures:
            parts += [f"## {title}", f"![{title}]({name})"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    numbers = []
    if seeds := results["pixelcnn-cifar10"]:
        ours = f"{seeds[0].final(BITS):.2f} bits per dimension after {seeds[0].final('charts/epoch'):.1g} epochs"
        numbers.append(f"CIFAR-10: a small network, {ours} (published, converged: 3.14, gated 3.03)")
    if seeds := results["pixelcnn-mnist"]:
        ours = f"{seeds[0].final(NATS):.1f} nats after {seeds[0].final('charts/epoch'):.1g} epochs"
        numbers.append(f"binarized MNIST: {ours}")
    if numbers:
        blocks["pixelcnn-number"] = "; ".join(numbers)
    if "mnist_completions.png" in pictures:
        shown = '<img src="results/pixelcnn/mnist_completions.png" width="200" alt="Digits completed from their upper'
        blocks["pixelcnn-picture"] = f'{shown} halves">'
    return blocks
