"""Figures and tables of benchmarks/tradeoffs.py, for benchmarks/plot.py."""

import math

from benchmarks import plot
from benchmarks.plot import Result, Results, number

REAL = -1  # no model: real pictures
COLUMNS = [
    "global_step", "model", "image_size", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample",
]  # fmt: skip
LECTURE = {  # likelihood, samples, representation, computation
    "PixelCNN": ("Autoregressive", "Tractable", "Good", "Poor", "O(#pixels)"),
    "GAN": ("GANs", "Intractable", "Good", "Good", "O(#layers)"),
    "RealNVP": ("Reversible", "Tractable", "Poor", "Poor", "O(#layers)"),
    "VAE": ("VAEs", "Tractable*", "Poor", "Good", "O(#layers)"),
}
SAMPLES = "From the top: test images, PixelCNN, GAN, RealNVP, VAE"
DATASETS = {"mnist": "MNIST", "digits": "scikit-learn's digits"}
OLD = "The classifier had been trained on the images that were the reference of the Frechet distances."


def rows_of(result: Result, model: int) -> list[dict[str, float]]:
    """A model's rows of a run: on the labelled pictures first, then those for sizes."""
    columns = {key: result[key] for key in COLUMNS}
    rows = [{key: column[i] for key, column in columns.items()} for i in range(len(columns["model"]))]
    return [row for row in rows if row["model"] == model]


def seconds(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2g} s" if x >= 1 else f"{1000 * x:.2g} ms"


def lecture_table(result: Result, title: str) -> str:
    """The lecture's words, and below each what was measured."""
    lines = []
    for k, (name, (kind, likelihood, samples, representation, computation)) in enumerate(LECTURE.items()):
        row = rows_of(result, k)[0]
        training = row["seconds_per_training_picture"]
        cells = [
            f"{number(row['bits_per_dim'])} bits/dim",
            f"{number(row['binary_nats'])} nats",
            number(row["frechet"]),
        ]
        cells.append(f"{100 * row['probe_accuracy']:.1f} %")
        cells += map(seconds, (row["seconds_per_sample"], training, training * row["global_step"]))
        lines.append([f"**{kind}** (the lecture)", likelihood, "", samples, representation, computation, "", ""])
        lines.append([name, *(cell.replace("- bits/dim", "-").replace("- nats", "-") for cell in cells)])
    (real,) = rows_of(result, REAL)
    lines.append(["test images", "", "", number(real["frechet"]), f"{100 * real['probe_accuracy']:.1f} %", "", "", ""])
    header = [title, "log-likelihood", "binary", "samples", "representation", "per sample", "per training image"]
    return plot.table([*header, "training"], lines)


def draw(results: Results, folder) -> dict[str, str]:
    runs, blocks = {name: results[f"tradeoffs-{name}"][0] for name in DATASETS}, {}
    for name, run in runs.items():
        shown = plot.pictures(folder, {f"tradeoffs-{name}.png": (f"tradeoffs-{name}", "samples.png", SAMPLES)})
        blocks[name] = lecture_table(run, DATASETS[name]) + "\n\n" + shown
    lines = []
    for k, (name, words) in enumerate(LECTURE.items()):
        sized = rows_of(runs["digits"], k)[1:]
        lines.append([name, words[-1], *(seconds(row["seconds_per_sample"]) for row in sized)])
    header = ["one sample", "the lecture", *(f"{row['image_size']:.0f} pixels" for row in sized)]
    return blocks | {"sizes": plot.table(header, lines)}
