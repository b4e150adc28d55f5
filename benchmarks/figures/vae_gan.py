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
WORDS = "test images, below each its reconstruction, then samples: decoded codes from N(0, I)"
PICTURES = {
    f"{row}-samples.png": (row, "samples.png", f"{data}, {label}: {WORDS}") for row, (data, label) in RUNS.items()
}


def draw(results: Results, folder) -> dict[str, str]:
    columns = {
        "seeds": plot.count,
        "epochs": lambda seeds: f"{seeds[0].final('charts/epoch'):.3g}",
        "sharpness of samples": SHARP,
        "of reconstructions": SHARP_RECON,
        "squared error": ERROR,
        "KL (nats)": KL,
        "Frechet distance of samples": "eval/frechet",
        "distance of reconstructions": "eval/frechet_recon",
        "distance of test images": "eval/frechet_real",
    }
    ours, plain = (plot.column(SHARP)(results[f"vaegan-mnist-{errors}"]) for errors in ("vae-gan", "vae"))
    return {
        "table": plot.beside(("", ""), {cells: results[name] for name, cells in RUNS.items()}, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"samples {ours} times as sharp as real digits, {plain} with errors of pixels",
    }
