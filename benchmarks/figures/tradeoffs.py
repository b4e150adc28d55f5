"""Figures and tables of benchmarks/tradeoffs.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, ORANGE, VERMILLION, Result, Results, machines, number, save, table

REAL = -1  # no model: real pictures
COLUMNS = [
    "global_step", "model", "image_size", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample",
]  # fmt: skip
LECTURE = [  # likelihood, samples, representation, computation
    ("Autoregressive", "PixelCNN", "Tractable", "Good", "Poor", "O(#pixels)"),
    ("GANs", "GAN", "Intractable", "Good", "Good", "O(#layers)"),
    ("Reversible", "RealNVP", "Tractable", "Poor", "Poor", "O(#layers)"),
    ("VAEs", "VAE", "Tractable*", "Poor", "Good", "O(#layers)"),
]
DATASETS = {"tradeoffs-mnist": "MNIST", "tradeoffs-digits": "scikit-learn's digits"}


def facts(name: str, columns: dict) -> dict:
    return {}


def rows_of(result: Result, model: int) -> list[dict[str, float]]:
    """A model's rows of a run: on the labelled pictures first, then those for sizes."""
    columns = {key: result[key] for key in COLUMNS}
    rows = [{key: column[i] for key, column in columns.items()} for i in range(len(columns["model"]))]
    return [row for row in rows if row["model"] == model]


def seconds(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2g} s" if x >= 1 else f"{1000 * x:.2g} ms"


def percent(x: float) -> str:
    return "-" if math.isnan(x) else f"{100 * x:.1f} %"


def table_part(result: Result, title: str) -> list[str]:
    """The lecture's words, and below each what was measured."""
    header = [title, "log-likelihood", "binary", "samples", "representation", "per sample"]
    header += ["per training image", "training"]
    lines = []
    for k, (kind, name, likelihood, samples, representation, computation) in enumerate(LECTURE):
        row = rows_of(result, k)[0]
        bits = f"{number(row['bits_per_dim'])} bits/dim" if not math.isnan(row["bits_per_dim"]) else "-"
        nats = f"{number(row['binary_nats'])} nats" if not math.isnan(row["binary_nats"]) else "-"
        costs = [seconds(row[key]) for key in ("seconds_per_sample", "seconds_per_training_picture")]
        costs.append(seconds(row["seconds_per_training_picture"] * row["global_step"]))
        lines.append([f"**{kind}** (the lecture)", likelihood, "", samples, representation, computation, "", ""])
        lines.append([name, bits, nats, number(row["frechet"]), percent(row["probe_accuracy"]), *costs])
    real = rows_of(result, REAL)[0]
    lines.append(["test images", "", "", number(real["frechet"]), percent(real["probe_accuracy"]), "", "", ""])
    return [f"## {title}", table(header, lines)]


def size_figure(result: Result, folder: Path) -> list[str]:
    """Seconds per sample and per training picture over the number of pixels, drawn on logarithmic axes."""
    if not any(len(rows_of(result, k)) > 1 for k in range(len(LECTURE))):
        return []
    axes, lines = Figure(figsize=(6, 4), layout="constrained").subplots(), []
    for k, color in enumerate((VERMILLION, ORANGE, GREEN, BLUE)):
        sized = rows_of(result, k)[1:]
        points = [row["image_size"] for row in sized], [row["seconds_per_sample"] for row in sized]
        axes.plot(*points, "o-", color=color, label=LECTURE[k][1])
    axes.set(xscale="log", yscale="log", xlabel="side of the image (pixels)", ylabel="CPU seconds", title="one sample")
    axes.set_xticks([row["image_size"] for row in sized], [f"{row['image_size']:.0f}" for row in sized])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(axes.figure, folder / "sizes.png")
    for k, words in enumerate(LECTURE):
        sized = rows_of(result, k)[1:]
        lines.append([words[1], words[-1], *(seconds(row["seconds_per_sample"]) for row in sized)])
    header = ["one sample", "the lecture", *(f"{row['image_size']:.0f}x{row['image_size']:.0f}" for row in sized)]
    note = (
        "Colour images, one at a time, one core. The lecture counts steps that follow one another: a layer of a GAN, a "
        "flow or a VAE is one step for all pixels, but its arithmetic grows with their number, which one core shows as "
        "soon as images are large; PixelCNN takes the steps of all its layers for every pixel and colour."
    )
    return ["## Over the size of pictures", table(header, lines), note, "![seconds](sizes.png)"]


NOTE = """Every model was trained once (one seed), small and for minutes; the last column says for how long. Bits per
dimension are of 8-bit test images (lower is better): exact for PixelCNN, a bound for RealNVP, and for a VAE with
Gaussian pixels an estimate by importance sampling (the lecture's asterisk); a GAN has none. "Binary": second runs on
images with random binary pixels. Samples: Frechet distance of 1,000 samples in the features of a small classifier
(lower is better; the last row is of test images). The VAE's samples are the means of its pixels, without their noise.
Representation: accuracy of a linear classifier on codes (VAE: mu; GAN: the discriminator's last features; RealNVP: z;
PixelCNN: its last features, averaged over positions); the last row is on the pixels themselves. Seconds: CPU, one core;
samples in batches."""


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    parts, blocks = ["# The trade-offs, measured", NOTE.replace("\n", " ")], {}
    for name, title in DATASETS.items():
        if not (seeds := results[name]):
            continue
        parts += table_part(seeds[0], title)
        link = "[Figures, and what each column means](results/tradeoffs/README.md)."
        blocks.setdefault("tradeoffs-table", f"\n\n{parts[-1]}\n\n{link}\n")
        picture = folder.parent.parent / "runs" / "benchmark" / name / "seed1" / "samples.png"
        if picture.exists():
            shutil.copy(picture, folder / f"{name}.png")
        if (folder / f"{name}.png").exists():
            rows = ", ".join(["test images", *(words[1] for words in LECTURE)])
            parts += [f"From the top: {rows}.", f"![samples]({name}.png)"]
        parts += size_figure(seeds[0], folder)
    used = [seed for seeds in results.all.values() for seed in seeds]
    if any("time/elapsed" in seed.summary["final"] for seed in used):
        parts += [
            "Made by the longer files at commit 7b0c269, not yet again: everything here. The classifier had been "
            "trained on the images that were the reference of the Frechet distances."
        ]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
