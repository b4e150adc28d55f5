"""Figures and tables of benchmarks/tradeoffs.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, ORANGE, VERMILLION, Result, Results, machines, number, save, table

REAL = -1  # no model: real pictures
COLUMNS = [
    "global_step", "model", "image_size", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample", "time/elapsed",
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
    header = [title, "log-likelihood", "black and white", "samples", "representation", "per sample"]
    header += ["per training picture", "training"]
    lines = []
    for k, (kind, name, likelihood, samples, representation, computation) in enumerate(LECTURE):
        row = rows_of(result, k)[0]
        bits = f"{number(row['bits_per_dim'])} bits/dim" if not math.isnan(row["bits_per_dim"]) else "-"
        nats = f"{number(row['binary_nats'])} nats" if not math.isnan(row["binary_nats"]) else "-"
        costs = [seconds(row[key]) for key in ("seconds_per_sample", "seconds_per_training_picture", "time/elapsed")]
        lines.append([f"**{kind}** (the lecture)", likelihood, "", samples, representation, computation, "", ""])
        lines.append([name, bits, nats, number(row["frechet"]), percent(row["probe_accuracy"]), *costs])
    real = rows_of(result, REAL)[0]
    lines.append(["unseen pictures", "", "", number(real["frechet"]), percent(real["probe_accuracy"]), "", "", ""])
    return [f"## {title}", table(header, lines)]


def size_figure(result: Result, folder: Path) -> list[str]:
    """Seconds per sample and per training picture over the number of pixels, drawn on logarithmic axes."""
    if not any(len(rows_of(result, k)) > 1 for k in range(len(LECTURE))):
        return []
    figure = Figure(figsize=(10, 4), layout="constrained")
    lines = []
    panels = [("seconds_per_sample", "one new picture"), ("seconds_per_training_picture", "one training picture")]
    for axes, (column, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for k, color in enumerate((VERMILLION, ORANGE, GREEN, BLUE)):
            sized = rows_of(result, k)[1:]
            axes.plot([row["image_size"] for row in sized], [row[column] for row in sized], "o-", color=color,
                      label=LECTURE[k][1])  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="side of the picture (pixels)", ylabel="CPU seconds", title=title)
        axes.set_xticks([row["image_size"] for row in sized], [f"{row['image_size']:.0f}" for row in sized])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(figure, folder / "sizes.png")
    for k, words in enumerate(LECTURE):
        sized = rows_of(result, k)[1:]
        lines.append([words[1], words[-1], *(seconds(row["seconds_per_sample"]) for row in sized)])
    header = ["one sample", "the lecture", *(f"{row['image_size']:.0f}x{row['image_size']:.0f}" for row in sized)]
    note = (
        "Colour crops of photographs, batches of 16 to train and one picture at a time to draw, one core. The lecture "
        "counts steps that follow one another: a layer of a GAN, a flow or a VAE is one step for all pixels, but its "
        "arithmetic grows with their number, which one core shows as soon as pictures are large; PixelCNN takes the "
        "steps of all its layers for every pixel and colour."
    )
    return ["## Over the size of pictures", table(header, lines), note, "![seconds](sizes.png)"]


NOTE = """Every model was trained once (one seed), small and for minutes; the last column says for how long. Bits per
dimension are of unseen pictures of 8 bits (lower is better): exact for PixelCNN, a bound for RealNVP, and for the VAE,
whose pixels are Gaussian with one standard deviation, an estimate by importance sampling (the lecture's asterisk); a
GAN has none. "Black and white": second runs on pictures with random binary pixels. Samples: Frechet distance of 1,000
new pictures in the features of a small classifier (lower is better; the last row is of unseen real pictures). The VAE's
samples are the means of its pixels, without their noise. Representation: accuracy of a linear classifier on codes (VAE:
mu; GAN: the discriminator's last features; RealNVP: z; PixelCNN: its last features, averaged over the positions); the
last row is on the pixels themselves. Seconds: CPU, one core; samples in batches."""


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
            rows = ", ".join(["real pictures", *(words[1] for words in LECTURE)])
            parts += [f"From the top: {rows}.", f"![samples]({name}.png)"]
        parts += size_figure(seeds[0], folder)
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    return blocks
