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

BITS, NATS = "eval/bits_per_dim", "eval/nats"
COLUMNS = ["global_step", "charts/epoch", "losses/nats", NATS, BITS, "charts/SPS"]
PANELS = {
    "mnist": (NATS, "MNIST, binarized anew for each batch", "nats per image"),
    "cifar10": (BITS, "CIFAR-10", "bits per dimension"),
}


def facts(name: str, columns: dict) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    rows, pictures, numbers, old = [], [], [], False
    for axes, (dataset, (column, title, unit)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for name, color in ((f"pixelcnn-{dataset}", BLUE), (f"pixelcnn-{dataset}-hour", "black")):
            for seed in results.all.get(name, []):
                made_before = "--epochs" in seed.summary["command"]
                old |= made_before
                curves(axes, [seed], "charts/epoch", column, color, "gen/pixelcnn.py, test images")
                epochs = f"{seed.final('charts/epoch'):.2g}"
                seconds = f"{seed.summary['cpu_seconds']:.0f}"
                label = f"{title}: ours{' *' if made_before else ''}"
                rows.append([label, f"{seed.final(column):.2f} {unit}", str(seed.seed), epochs, seconds])
                numbers.append(f"{title.split(',')[0]} {seed.final(column):.2f} {unit} after {epochs} epochs")
                path = folder.parent.parent / "runs" / "benchmark" / name / "seed1" / "samples.png"
                if path.exists():
                    shutil.copy(path, folder / f"{dataset}.png")
        published = [row for row in read_rows(PUBLISHED / "pixelcnn.csv") if row["dataset"] == dataset]
        for row, color in zip(published, (ORANGE, GREEN, PURPLE, GREY), strict=False):
            axes.axhline(float(row["value"]), color=color, linestyle=":", label=f"{row['model']}: {row['value']}")
        rows += [[f"{title}: {row['model']}", f"{row['value']} {unit}", "-", "-", "-"] for row in published]
        axes.set(xlabel="epochs", ylabel=unit, title=title)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        if (folder / f"{dataset}.png").exists():
            words = "test images and completions of their upper halves"
            pictures.append(f"{title}: {words}\n\n![{words}]({dataset}.png)")
    save(figure, folder / "curves.png")
    parts = [
        "# Gated PixelCNN",
        "[van den Oord et al. 2016](https://arxiv.org/abs/1606.05328) report 3.03 bits per dimension on CIFAR-10 (2.90 "
        "on training images); [their first PixelCNN](https://arxiv.org/abs/1601.06759) has 3.14.",
        "    ./benchmark.sh pixelcnn",
        "![curves](curves.png)",
        table(["", "test images", "seed", "epochs", "CPU seconds"], rows),
        "Ours are small networks after minutes on one core, evaluated on 1,000 (CIFAR-10: 500) test images, and do not "
        "reach the published ones, which are large and were trained for many epochs on GPUs. The rows for a GPU in "
        "benchmark.sh (`-long`) were not run. With four layers a factor sees ten rows up: below a gap of that height "
        "such a network may begin a second digit.",
    ]
    if old:
        parts.append("\\* made by the file at commit 7b0c269, with --bf16.")
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, *pictures, f"Measured on: {machines(used)}."]) + "\n")
    blocks = {"pixelcnn-number": "; ".join(numbers)}
    if (folder / "mnist.png").exists():
        shown = '<img src="results/pixelcnn/mnist.png" width="200" alt="Digits completed from their upper halves">'
        blocks["pixelcnn-picture"] = shown
    return blocks
