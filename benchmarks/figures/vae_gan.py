"""Figures and tables of gen/vae_gan.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

SHARP, SHARP_RECON, ERROR, KL = "eval/sharpness", "eval/sharpness_recon", "eval/squared_error", "losses/kl"
COLUMNS = [
    "global_step", "charts/epoch", KL, "losses/errors", "losses/discriminator", "eval/frechet", "eval/frechet_recon",
    "eval/frechet_real", "eval/judge_accuracy", SHARP, SHARP_RECON, ERROR, "charts/SPS",
]  # fmt: skip
RUNS = {  # row: data, errors
    "vaegan-mnist-vae": ("MNIST", "VAE, errors of pixels"),
    "vaegan-mnist-vae-gan": ("MNIST", "VAE/GAN"),
    "vaegan-cifar10-vae": ("CIFAR-10", "VAE, errors of pixels"),
    "vaegan-cifar10-vae-gan": ("CIFAR-10", "VAE/GAN"),
}
PICTURES = {  # the first are of the longer file; the present one shows both in samples.png
    f"{row}-reconstructions.png": ("", "", f"Test images, and below each its reconstruction ({data}, {label})")
    for row, (data, label) in RUNS.items()
} | {
    f"{row}-samples.png": (row, "samples.png", f"Samples: decoded codes from N(0, I) ({data}, {label})")
    for row, (data, label) in RUNS.items()
}
OLD = (
    "It updated the discriminator before it computed the features. Its Frechet distances are left out: the classifier "
    "had been trained on the images that were its reference."
)


def draw(results: Results, folder) -> dict[str, str]:
    columns = {
        "seeds": plot.count,
        "epochs": lambda seeds: f"{seeds[0].final('charts/epoch'):.3g}",
        "sharpness of samples": SHARP,
        "of reconstructions": SHARP_RECON,
        "squared error": ERROR,
        "KL (nats)": lambda seeds: plot.spread(seed.final("eval/kl" if seed.old else KL) for seed in seeds),
    }
    ours, plain = (plot.column(SHARP)(results[f"vaegan-mnist-{errors}"]) for errors in ("vae-gan", "vae"))
    return {
        "table": plot.beside(("", ""), {cells: results[name] for name, cells in RUNS.items()}, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"samples {ours} times as sharp as real digits, {plain} with errors of pixels",
    }
