"""Figures and tables of gen/vae_gan.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREY, VERMILLION, Results, curves, machines, save, spread, table

FRECHET, RECON, REAL = "eval/frechet", "eval/frechet_recon", "eval/frechet_real"
SHARP, SHARP_RECON, ERROR, KL = "eval/sharpness", "eval/sharpness_recon", "eval/squared_error", "eval/kl"
COLUMNS = [
    "global_step", "charts/epoch", "losses/kl", "losses/errors", "losses/discriminator", FRECHET, RECON, REAL,
    "eval/judge_accuracy", SHARP, SHARP_RECON, ERROR, KL, "charts/SPS",
]  # fmt: skip
RUNS = {  # name -> set, label, colour
    "vaegan-mnist-vae": ("MNIST", "VAE, errors of pixels", BLUE),
    "vaegan-mnist-vae-gan": ("MNIST", "VAE/GAN", VERMILLION),
    "vaegan-cifar10-vae": ("CIFAR-10", "VAE, errors of pixels", BLUE),
    "vaegan-cifar10-vae-gan": ("CIFAR-10", "VAE/GAN", VERMILLION),
}
PICTURES = {
    "reconstructions.png": "Test images, and below each its reconstruction",
    "samples.png": "Samples: decoded codes from N(0, I)",
    "interpolation.png": "From one test image's code to another's",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def is_old(seed) -> bool:
    return "--torch-threads" in seed.summary["command"]


def comparison(results: Results, folder: Path) -> list[str]:
    """Sharpness over epochs; a table of where everything ends."""
    found = [name for name in RUNS if results[name]]
    if not found:
        return []
    sets, rows = list(dict.fromkeys(RUNS[name][0] for name in found)), []
    panels = Figure(figsize=(5 * len(sets), 4), layout="constrained").subplots(1, len(sets), squeeze=False)[0]
    for name in found:
        data, label, color = RUNS[name]
        seeds, axes = results[name], panels[sets.index(data)]
        curves(axes, seeds, "charts/epoch", SHARP, color, f"{label}, samples")
        curves(axes, seeds, "charts/epoch", SHARP_RECON, color, f"{label}, reconstructions", linestyle="--")
        distances = [
            "-" if is_old(seeds[0]) else spread(seed.final(c) for seed in seeds) for c in (FRECHET, RECON, REAL)
        ]
        cells = [spread(seed.final(column) for seed in seeds) for column in (SHARP, SHARP_RECON, ERROR, KL)]
        rows.append([data, label, str(len(seeds)), f"{seeds[0].final('charts/epoch'):.3g}", *distances, *cells])
    for data, axes in zip(sets, panels, strict=True):
        axes.axhline(1, color=GREY, linestyle=":", label="test images")
        axes.set(title=data, xlabel="epochs", ylabel="sharpness, test images = 1")
        axes.grid(alpha=0.25)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save(axes.figure, folder / "comparison.png")
    header = ["", "", "seeds", "epochs", "Frechet distance of samples", "of reconstructions", "of test images"]
    header += ["sharpness of samples", "of reconstructions", "squared error", "KL (nats)"]
    note = (
        "The same encoder and decoder with two errors (`benchmarks/pixel_vae.py` is the baseline). Sharpness: mean "
        "squared difference of neighbouring pixels, divided by that of test images. Squared error: of reconstructions "
        "of test images, pixels from 0 to 1, summed over an image. Frechet distance: `benchmarks/frechet.py`, in the "
        "features of a classifier trained on one half of the training images, to the other half."
    )
    return [table(header, rows, left=2), note, "![sharpness](comparison.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    for run in RUNS:
        for picture in PICTURES:
            path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
            if path.exists():
                shutil.copy(path, folder / f"{run}-{picture}")
    claim = (
        "[Larsen et al. 2016](https://arxiv.org/abs/1512.09300) show that faces reconstructed with errors in a "
        "discriminator's features are sharper than with errors of pixels; their measures are attributes of faces (not "
        "run).\n\n`python gen/vae_gan.py --dataset mnist --bf16 --epochs 3`"
    )
    parts = ["# VAE/GAN", claim, *comparison(results, folder)]
    for name, words in PICTURES.items():
        there = [run for run in RUNS if (folder / f"{run}-{name}").exists()]
        images = [f"{' '.join(RUNS[run][:2])}:\n\n![{words}]({run}-{name})" for run in there]
        parts += [f"## {words}", *images] if images else []
    if old := [name for name, seeds in results.all.items() if is_old(seeds[0])]:
        parts += [
            f"Made by the longer file at commit 7b0c269, not yet again: {', '.join(old)}. It updated the discriminator "
            "before it computed the features. Its Frechet distances are left out: the classifier had been trained on "
            "the images that were its reference."
        ]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    blocks, ours, plain = {}, results["vaegan-mnist-vae-gan"], results["vaegan-mnist-vae"]
    if ours and plain:
        sharp = [f"{np.mean([seed.final(SHARP) for seed in seeds]):.2f}" for seeds in (ours, plain)]
        words = f"samples {sharp[0]} times as sharp as real digits, {sharp[1]} with errors of pixels"
        blocks["vae_gan-number"] = f"{words} ([figures](results/vae_gan/README.md))"
    if (folder / "vaegan-mnist-vae-gan-samples.png").exists():
        source = "results/vae_gan/vaegan-mnist-vae-gan-samples.png"
        blocks["vae_gan-picture"] = f'<img src="{source}" width="160" alt="Digits decoded from noise">'
    return blocks
