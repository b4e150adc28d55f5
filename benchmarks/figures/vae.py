"""Figures and tables of gen/vae.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, number

LOSS, RECON, KL = "eval/loss", "eval/recon", "eval/kl"
COLUMNS = ["global_step", "losses/loss", LOSS, RECON, KL, "charts/SPS", "time/elapsed", "squared_error"]
PROGRAMS = {  # label: rows of the loss and of the speed
    "gen/vae.py": ("vae-mnist-float32", "vae-speed-float32"),
    "gen/vae.py --bf16": ("vae-mnist-bf16", "vae-speed-bf16"),
    "pytorch/examples": ("examples-vae", "examples-speed"),
}
WEIGHTS = ["0.1", "0.3", "1", "3", "10"]
PICTURES = {
    "samples.png": ("vae-mnist-float32", "samples.png", "Samples of N(0, I), decoded"),
    "interpolation.png": (
        "vae-mnist-float32",
        "interpolation.png",
        "From one test image's code to another's, between the images themselves",
    ),
    "traversal.png": ("vae-plane", "traversal.png", "A code of two dimensions (--latent-dim 2): traversal of both"),
}
STEPS = {
    "steps.png": (
        "vae-steps",
        "steps.png",
        "From the top: ten test images; a decoder that memorises the first of them, after more and more updates; a "
        "decoder that has memorised all ten, from one-hot inputs; the autoencoder's reconstructions; the VAE's; "
        "samples of N(0, I) decoded by the autoencoder; by the VAE",
    )
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of the fastest epoch but the first, which warms up."""
    if name == "examples-speed":
        return {"least seconds of an epoch": float(np.diff(columns["time/elapsed"]).min())}
    return {"least seconds of an epoch": float(60_000 / columns["charts/SPS"][1:].max())} if "speed" in name else {}


def seconds(seeds: list[Result]) -> list[float]:
    return [seed.facts["least seconds of an epoch"] for seed in seeds]


def example(results: Results, path: Path) -> str:
    """Test loss over epochs, and CPU seconds per epoch, beside PyTorch's example: the figure and the table."""
    ours = {label: results[name] for label, (name, _) in PROGRAMS.items()}
    with plot.figure(path) as (axes,):
        words = {"xlabel": "epochs", "ylabel": "test loss (nats per image)", "title": "MNIST, 784-400-20"}
        plot.panel(axes, ours, "global_step", LOSS, scale=1 / 60_000, ylim=(102, 130), **words)
    timed, peer = dict(PROGRAMS.values()), plot.mean(seconds(results["examples-speed"]))
    columns = {
        "seeds": plot.count,
        "test loss, 10 epochs": plot.column(LOSS, ".2f"),
        "CPU s an epoch": lambda seeds: plot.spread(seconds(results[timed[seeds[0].name]])),
        "speed": lambda seeds: f"{peer / plot.mean(seconds(results[timed[seeds[0].name]])):.2f}",
    }
    return plot.beside("MNIST, grey, batches of 128, Adam 1e-3", ours, columns)


def weights(results: Results) -> str:
    """Squared error of test images and the KL divergence, over the weight of the latter."""
    runs = {weight: seeds for weight in WEIGHTS if (seeds := results[f"vae-weight-{weight}"])}
    columns = {"squared error, test": plot.column(RECON, scale=2), "KL (nats)": KL}
    return plot.beside("weight", runs, columns) if runs else "Not run."


def draw(results: Results, folder: Path) -> dict[str, str]:
    words = ["one image, input of ones", "ten images, one-hot inputs", "autoencoder, test images", "VAE, test images"]
    steps = "Not run."
    for seed in results["vae-steps"]:
        rows = [[word, number(error)] for word, error in zip(words, seed["squared_error"], strict=True)]
        steps = plot.pictures(folder, STEPS) + "\n\n" + plot.table(["", "squared error per image"], rows)
    both = {"autoencoder (--kl-weight 0)": results["vae-autoencoder"], "VAE": results["vae-mnist-float32"][:1]}
    columns = {
        "training loss": "losses/loss",
        "test loss": LOSS,
        "difference": lambda seeds: plot.spread(seed.final(LOSS) - seed.final("losses/loss") for seed in seeds),
        "cross-entropy, test": RECON,
    }
    loss = plot.column(LOSS, ".2f")(results["vae-mnist-float32"])
    return {
        "table": example(results, folder / "example.png"),
        "steps": steps,
        "generalization": plot.beside("10 epochs, seed 1", both, columns),
        "weights": weights(results),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"test loss {loss} on grey MNIST after 10 epochs (PyTorch's example: 105.55)",
    }
