"""Figures and tables of gen/vae.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, ORANGE, VERMILLION, Result, Results, curves, machines, number, save, spread, table

LOSS, RECON, KL = "eval/loss", "eval/recon", "eval/kl"
COLUMNS = ["global_step", "losses/loss", LOSS, RECON, KL, "charts/SPS", "time/elapsed", "squared_error"]
WEIGHTS = ["0.1", "0.3", "1", "3", "10"]
PICTURES = {  # name in results/vae/ -> run, its picture
    "steps.png": ("vae-steps", "steps.png"),
    "samples.png": ("vae-mnist-float32", "samples.png"),
    "reconstructions.png": ("vae-mnist-float32", "reconstructions.png"),
    "interpolation.png": ("vae-mnist-float32", "interpolation.png"),
    "traversal.png": ("vae-plane", "traversal.png"),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of the fastest epoch but the first, which warms up."""
    if name == "examples-speed":
        return {"least seconds of an epoch": float(np.diff(columns["time/elapsed"]).min())}
    return {"least seconds of an epoch": float(60_000 / columns["charts/SPS"][1:].max())} if "speed" in name else {}


def seconds(result: Result) -> float:
    return result.summary["facts"].get("least seconds of an epoch", float("nan"))


def losses(seeds: list[Result]) -> str:
    """Mean test loss, and its standard deviation over seeds, with two decimals."""
    values = [seed.final(LOSS) for seed in seeds]
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "") if values else "-"


def example_part(results: Results, folder: Path) -> list[str]:
    """Test loss over epochs, and CPU seconds per epoch, beside PyTorch's example."""
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    peer, rows = np.mean([seconds(seed) for seed in results["examples-speed"]] or [np.nan]), []
    for label, color, name, timed in (
        ("gen/vae.py", BLUE, "vae-mnist-float32", "vae-speed-float32"),
        ("gen/vae.py --bf16", ORANGE, "vae-mnist-bf16", "vae-speed-bf16"),
        ("pytorch/examples", VERMILLION, "examples-vae", "examples-speed"),
    ):
        speed = [seconds(seed) for seed in results[timed]]
        curves(axes, results[name], "global_step", LOSS, color, label, scale=1 / 60_000)
        ratio = f"{peer / np.mean(speed):.2f}" if speed and peer == peer else "-"
        rows.append([label, str(len(results[name])), losses(results[name]), spread(speed), ratio])
    axes.set(xlabel="epochs", ylabel="test loss (nats per image)", ylim=(102, 130), title="MNIST, 784-400-20")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "example.png")
    header = ["MNIST, grey, batches of 128, Adam 1e-3", "seeds", "test loss, 10 epochs", "CPU s an epoch", "speed"]
    note = (
        "CPU seconds of training on one core, of the fastest epoch after the first, measured one after another on one "
        "machine. The gain is a preloaded tensor, fused Adam and a cross-entropy of logits. The example's curve was "
        "measured on another machine; the loss does not depend on it."
    )
    return [table(header, rows), note, "![test loss](example.png)"]


def steps_part(results: Results, pictures: set[str]) -> list[str]:
    words = ["one image, input of ones", "ten images, one-hot inputs", "autoencoder, test images", "VAE, test images"]
    rows = []
    for seed in results["vae-steps"]:
        rows = [[word, number(error)] for word, error in zip(words, seed["squared_error"], strict=True)]
    if not rows or "steps.png" not in pictures:
        return []
    note = (
        "From the top: ten test images; a decoder that memorises the first of them, after more and more updates; a "
        "decoder that has memorised all ten, from one-hot inputs; the autoencoder's reconstructions; the VAE's; "
        "samples of N(0, I) decoded by the autoencoder; by the VAE."
    )
    parts = ["## The post's four steps", "`python benchmarks/vae_steps.py --run-dir runs/vae-steps`"]
    return [*parts, "![steps](steps.png)", note, table(["", "squared error per image"], rows)]


def generalization_part(results: Results) -> list[str]:
    """The post says that the KL term helps with unseen images: the gap between training and test."""
    rows = []
    for label, name in (("autoencoder (--kl-weight 0)", "vae-autoencoder"), ("VAE", "vae-mnist-float32")):
        for seed in results[name][:1]:
            seen, unseen = seed.final("losses/loss"), seed.final(LOSS)
            rows.append([label, number(seen), number(unseen), number(unseen - seen), number(seed.final(RECON))])
    header = ["10 epochs, seed 1", "training loss", "test loss", "difference", "cross-entropy, test"]
    note = (
        "The training loss is the mean over the last epoch's updates, a little higher than that of the weights at its "
        "end. The post expects the KL term to help with unseen images. Reconstructions of test images are better "
        "without it; what it gives is samples."
    )
    return ["## Autoencoder and VAE", table(header, rows), note] if len(rows) == 2 else []


def weights_part(results: Results, folder: Path) -> list[str]:
    """Squared error of test images against the KL divergence, over the weight of the latter."""
    points = [
        (seed.final(KL), 2 * seed.final(RECON), weight)
        for weight in WEIGHTS
        for seed in results[f"vae-weight-{weight}"]
    ]
    if not points:
        return []
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot([point[0] for point in points], [point[1] for point in points], "o-", color=BLUE)
    for kl, error, weight in points:
        axes.annotate(weight, (kl, error), textcoords="offset points", xytext=(6, 4))
    axes.set(xlabel="KL divergence (nats)", ylabel="squared error of test images", title="MNIST, weight of the KL term")
    axes.margins(0.08)  # room for the last number
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "weights.png")
    rows = [[weight, number(error), number(kl)] for kl, error, weight in points]
    note = (
        "The colour DRAW post leaves open which weight the KL term should have beside half the squared error. Five "
        "epochs of `benchmarks/squared_error_vae.py`, seed 1. At 3 and above nearly nothing is left in the code."
    )
    header = ["weight", "squared error, test", "KL (nats)"]
    return ["## The weight of the KL term beside squared errors", table(header, rows), note, "![weights](weights.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    for name, (run, picture) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    pictures, blocks = {name for name in PICTURES if (folder / name).exists()}, {}
    claim = (
        "[Kingma & Welling 2014](https://arxiv.org/abs/1312.6114) and "
        "[the post](https://kvfrans.com/variational-autoencoders-explained/) publish pictures and curves, no table. "
        "The number here is that of [PyTorch's example](https://github.com/pytorch/examples/tree/main/vae), which has "
        "the same network: a test loss of 105.55 after ten epochs.\n\n`python gen/vae.py --dataset mnist --epochs 10`"
    )
    parts = ["# Variational autoencoder", claim, *example_part(results, folder), *steps_part(results, pictures)]
    parts += [*generalization_part(results), *weights_part(results, folder)]
    shown = {
        "samples.png": "Samples of N(0, I), decoded",
        "reconstructions.png": "Test images, and below each its reconstruction",
        "interpolation.png": "From one test image's code to another's",
        "traversal.png": "A code of two dimensions (--latent-dim 2): traversal of both",
    }
    for name, words in shown.items():
        parts += [f"## {words}", f"![{words}]({name})"] if name in pictures else []
    used = [seed for seeds in results.all.values() for seed in seeds]
    if old := [name for name, seeds in results.all.items() if "--torch-threads" in seeds[0].summary["command"]]:
        parts += [f"Made by the longer file at commit 7b0c269, not yet again: {', '.join(old)}, and their pictures."]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    if seeds := results["vae-mnist-float32"]:
        found = f"test loss {losses(seeds)} on grey MNIST after 10 epochs (PyTorch's example: 105.55)"
        blocks["vae-number"] = f"{found} ([figures](results/vae/README.md))"
    if "samples.png" in pictures:
        blocks["vae-picture"] = '<img src="results/vae/samples.png" width="160" alt="Digits decoded from noise">'
    return blocks
