"""Figures and tables of gen/vae_gan.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREY, VERMILLION, Results, curves, machines, save, spread, table

FRECHET, RECON, REAL = "eval/frechet", "eval/frechet_recon", "eval/frechet_real"
SHARP, SHARP_RECON, ERROR, KL = "eval/sharpness", "eval/sharpness_recon", "eval/squared_error", "eval/kl"
COLUMNS = [
    "global_step", "charts/epoch", "losses/kl", "losses/errors", "losses/discriminator", "charts/d_real",
    "charts/d_sample", FRECHET, RECON, REAL, "eval/judge_accuracy", SHARP, SHARP_RECON, ERROR, KL, "time/elapsed",
]  # fmt: skip
RUNS = {  # name -> set, label, colour
    "vaegan-mnist-vae": ("MNIST", "--loss vae", BLUE),
    "vaegan-mnist-vae-gan": ("MNIST", "VAE/GAN", VERMILLION),
    "vaegan-cifar10-vae": ("CIFAR-10", "--loss vae", BLUE),
    "vaegan-cifar10-vae-gan": ("CIFAR-10", "VAE/GAN", VERMILLION),
}
PICTURES = ["reconstructions.png", "samples.png", "interpolations.png"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder, <run>-<picture>."""
    for run in RUNS:
        for picture in PICTURES:
            path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
            if path.exists():
                shutil.copy(path, folder / f"{run}-{picture}")
    return {path.name for run in RUNS for path in folder.glob(f"{run}-*.*")}


def comparison(results: Results, folder: Path) -> list[str]:
    """Distance and sharpness over epochs, and where they end."""
    found = [name for name in RUNS if results[name]]
    if not found:
        return []
    sets = list(dict.fromkeys(RUNS[name][0] for name in found))
    figure = Figure(figsize=(10, 4 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 2, squeeze=False)
    rows = []
    for name in found:
        data, label, color = RUNS[name]
        seeds, (left, right) = results[name], panels[sets.index(data)]
        curves(left, seeds, "charts/epoch", FRECHET, color, f"{label}, samples")
        curves(left, seeds, "charts/epoch", RECON, color, f"{label}, reconstructions", linestyle="--")
        curves(right, seeds, "charts/epoch", SHARP, color, f"{label}, samples")
        curves(right, seeds, "charts/epoch", SHARP_RECON, color, f"{label}, reconstructions", linestyle="--")
        names = (FRECHET, RECON, REAL, SHARP, SHARP_RECON, ERROR, KL)
        cells = [spread(seed.final(column) for seed in seeds) for column in names]
        epochs = f"{seeds[0].final('charts/epoch'):.3g}"
        rows.append([data, label, str(len(seeds)), epochs, *cells])
    for data, (left, right) in zip(sets, panels, strict=True):
        left.set(title=data, xlabel="epochs", ylabel="Frechet distance, small classifier", yscale="log")
        right.axhline(1, color=GREY, linestyle=":", label="real pictures")
        right.set(title=data, xlabel="epochs", ylabel="sharpness, real pictures = 1")
        for axes in (left, right):
            axes.legend(frameon=False, fontsize=8)
            axes.grid(alpha=0.25)
    save(figure, folder / "comparison.png")
    header = ["", "", "seeds", "epochs", "Frechet distance of samples", "of reconstructions", "of unseen real pictures"]
    header += ["sharpness of samples", "of reconstructions", "squared error", "KL (nats)"]
    note = (
        "The same encoder and decoder, once with squared errors of pixels, once with errors in the discriminator's "
        "features. Frechet distance in the features of a small classifier that the script trains on the same set: no "
        "other number compares with it. Sharpness: mean squared difference of neighbouring pixels, beside that of real "
        "pictures. Squared error: of reconstructions of unseen pictures, pixels from 0 to 1, summed over a picture."
    )
    return [table(header, rows, left=2), note, "![Frechet distance and sharpness](comparison.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# VAE/GAN", *comparison(results, folder)]
    shown = {
        "reconstructions.png": "Unseen pictures, and below each its reconstruction",
        "samples.png": "Codes from N(0, I)",
        "interpolations.png": "From one unseen picture's code to another's",
    }
    for name, words in shown.items():
        there = [run for run in RUNS if f"{run}-{name}" in pictures]
        images = [f"{' '.join(RUNS[run][:2])}:\n\n![{words}]({run}-{name})" for run in there]
        parts += [f"## {words}", *images] if images else []
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    ours, plain = results["vaegan-mnist-vae-gan"], results["vaegan-mnist-vae"]
    if ours and plain:
        distances = [f"{np.mean([seed.final(FRECHET) for seed in seeds]):.0f}" for seeds in (ours, plain)]
        sharp = [f"{np.mean([seed.final(SHARP) for seed in seeds]):.2f}" for seeds in (ours, plain)]
        words = f"Frechet distance of samples {distances[0]}, of the VAE's with the same networks {distances[1]}; "
        words += f"{sharp[0]} and {sharp[1]} times as sharp as real digits"
        blocks["vae_gan-number"] = f"{words} ([figures](results/vae_gan/README.md))"
    if "vaegan-mnist-vae-gan-samples.png" in pictures:
        source = "results/vae_gan/vaegan-mnist-vae-gan-samples.png"
        blocks["vae_gan-picture"] = f'<img src="{source}" width="160" alt="Digits drawn from noise">'
    return blocks
