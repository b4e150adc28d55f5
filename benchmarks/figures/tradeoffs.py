"""Figures and tables of benchmarks/tradeoffs.py, for benchmarks/plot.py."""

import math

from benchmarks import plot
from benchmarks.plot import Results, number

REAL = -1  # no model: real images, the first row of a run
COLUMNS = [
    "global_step", "model", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample",
]  # fmt: skip
LECTURE = {  # likelihood, samples, representation, computation
    "PixelCNN": ("Autoregressive", "Tractable", "Good", "Poor", "O(#pixels)"),
    "GAN": ("GANs", "Intractable", "Good", "Good", "O(#layers)"),
    "RealNVP": ("Reversible", "Tractable", "Poor", "Poor", "O(#layers)"),
    "VAE": ("VAEs", "Tractable*", "Poor", "Good", "O(#layers)"),
}
PICTURES = {"samples.png": ("tradeoffs", "samples.png", "From the top: test images, PixelCNN, GAN, RealNVP, VAE")}
OLD = "All but the VAE in bfloat16, RealNVP fully connected; the classifier knew the images that were the reference."


def seconds(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2g} s" if x >= 1 else f"{1000 * x:.2g} ms"


def draw(results: Results, folder) -> dict[str, str]:
    """The lecture's words, and below each what was measured."""
    (result,), lines = results["tradeoffs"], []
    for k, (name, (kind, likelihood, samples, representation, computation)) in enumerate(LECTURE.items()):
        row = {key: result[key][k + 1] for key in COLUMNS}
        training = row["seconds_per_training_picture"]
        cells = [number(row[key]) for key in ("bits_per_dim", "binary_nats", "frechet")]
        cells.append(f"{100 * row['probe_accuracy']:.1f} %")
        cells += map(seconds, (row["seconds_per_sample"], training, training * row["global_step"]))
        lines.append([f"**{kind}** (the lecture)", likelihood, "", samples, representation, computation, "", ""])
        lines.append([name, *cells])
    accuracy = f"{100 * result['probe_accuracy'][0]:.1f} %"
    lines.append(["test images", "", "", number(result["frechet"][0]), accuracy, "", "", ""])
    header = ["", "bits per dimension", "binary pixels, nats", "samples", "representation"]
    return {
        "table": plot.table([*header, "per sample", "per training image", "training"], lines),
        "pictures": plot.pictures(folder, PICTURES),
    }
