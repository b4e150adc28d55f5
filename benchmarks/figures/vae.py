"""Figures and tables of gen/vae.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    ORANGE,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    number,
    read_rows,
    save,
    spread,
    table,
)

LOSS, NLL, KL, ERROR = "eval/loss", "eval/nll", "eval/kl", "eval/squared_error"
COLUMNS = [
    "global_step", "charts/epoch", "losses/loss", LOSS, "eval/recon", KL, ERROR, "eval/train_loss",
    "eval/train_squared_error", NLL, "eval/nll_error", "eval/active_units", "time/elapsed", "time/test",
]  # fmt: skip
WEIGHTS = ["0.1", "0.3", "1", "3", "10"]
PICTURES = {  # which run's pictures are shown: name in results/vae/ -> run, its picture
    "samples.png": ("vae-mnist-float32", "samples.png"),
    "interpolations.png": ("vae-mnist-float32", "interpolations.png"),
    "latents.png": ("vae-mnist-float32", "latents.png"),
    "reconstructions.png": ("vae-post", "reconstructions.png"),
    "plane.png": ("vae-plane", "plane.png"),
    "plane_latents.png": ("vae-plane", "latents.png"),
    "autoencoder.png": ("vae-autoencoder", "samples.png"),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Seconds of each epoch but the first, which warms up: the least, which neighbours disturbed least."""
    seconds = np.diff(columns["time/elapsed"])
    return {"least seconds of an epoch": float(seconds.min())} if "speed" in name and len(seconds) else {}


def seconds_of_an_epoch(result: Result) -> float:
    return result.summary["facts"].get("least seconds of an epoch", float("nan"))


def losses(seeds: list[Result]) -> str:
    """Mean test loss, and its standard deviation over seeds: two decimals, as the peer prints."""
    values = [seed.final(LOSS) for seed in seeds]
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "") if values else "-"


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    for name, (run, picture) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in PICTURES if (folder / name).exists()}


def example_part(results: Results, folder: Path) -> list[str]:
    """Test loss over epochs, and CPU seconds per epoch, beside PyTorch's example."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    runs = [
        ("gen/vae.py", BLUE, "vae-mnist-float32", "vae-speed-float32"),
        ("gen/vae.py --bf16", ORANGE, "vae-mnist-bf16", "vae-speed-bf16"),
        ("pytorch/examples", VERMILLION, "examples-vae", "examples-speed"),
    ]
    rows = []
    for label, color, name, timed in runs:
        speed = [seconds_of_an_epoch(seed) for seed in results[timed]]
        seeds = results[name]
        curves(axes, seeds, "global_step", LOSS, color, label, scale=1 / 60_000)
        rows.append([label, str(len(seeds)), losses(seeds), spread(speed)])
    axes.set(xlabel="epochs", ylabel="test loss (nats per picture)", ylim=(102, 130), title="MNIST, 784-400-20")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "example.png")
    peer = [seconds_of_an_epoch(seed) for seed in results["examples-speed"]]
    ratios = []
    for label, name in (("float32", "vae-speed-float32"), ("--bf16", "vae-speed-bf16")):
        if peer and (ours := [seconds_of_an_epoch(seed) for seed in results[name]]):
            ratios.append(f"{np.mean(peer) / np.mean(ours):.2f} times with {label}")
    note = (
        "CPU seconds of training, one core, the least of the epochs after the first, measured one after another on the "
        f"same machine. Ours is faster {' and '.join(ratios) or 'by what was not measured yet'}."
    )
    header = ["MNIST, grey, batches of 128, Adam 1e-3", "seeds", "test loss after 10 epochs", "CPU s an epoch"]
    return ["## Beside PyTorch's example", table(header, rows), note, "![test loss](example.png)"]


def iwae_part(results: Results, folder: Path) -> list[str]:
    """-log p(x) of the network of Burda et al., as far as it was trained, beside their tables."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = []
    for codes, color in ((1, BLUE), (50, ORANGE)):
        seeds = results[f"vae-iwae-k{codes}"]
        curves(axes, seeds, "charts/epoch", LOSS, color, f"bound on test pictures, k = {codes}")
        for theirs in read_rows(PUBLISHED / "vae.csv"):
            if int(theirs["codes"]) != codes:
                continue
            axes.axhline(float(theirs["nll"]), color=color, linestyle=":", label=f"{theirs['nll']} after 3,280 epochs")
            epochs = " ".join(number(seed.final("charts/epoch")) for seed in seeds)
            units = " ".join(f"{seed.final('eval/active_units'):.0f}" for seed in seeds)
            ours = " ".join(f"{seed.final(NLL):.2f} ± {seed.final('eval/nll_error'):.2f}" for seed in seeds)
            rows.append(
                [f"k = {codes}", epochs or "-", ours or "-", theirs["nll"], units or "-", theirs["active_units"]]
            )
    axes.set(xlabel="epochs", ylabel="nats per picture", title="MNIST, binarized anew for each batch, 200-200-50")
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(figure, folder / "iwae.png")
    header = ["codes per picture", "epochs", "-log p(x), 5,000 samples", "published", "active latents", "published"]
    note = (
        "Ours over 1,000 test pictures (± standard error); published over all 10,000, after 3,280 epochs, of which the "
        "CPU allowed the first, at the same step sizes."
    )
    return ["## Beside Burda et al.", table(header, rows), note, "![bounds](iwae.png)"]


def weights_part(results: Results, folder: Path) -> list[str]:
    """Error on unseen pictures against the nats of the code, over the weight of the KL divergence."""
    rows, points = [], []
    for weight in WEIGHTS:
        for seed in results[f"vae-weight-{weight}"]:
            points.append((seed.final(KL), seed.final(ERROR), weight))
            cells = [seed.final(name) for name in (ERROR, KL, "eval/active_units", "eval/train_squared_error")]
            rows.append([weight, number(cells[0]), number(cells[1]), f"{cells[2]:.0f}", number(cells[3])])
    if not rows:
        return []
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([point[0] for point in points], [point[1] for point in points], "o-", color=BLUE)
    for kl, error, weight in points:
        axes.annotate(weight, (kl, error), textcoords="offset points", xytext=(6, 4))
    axes.set(xlabel="KL divergence (nats)", ylabel="squared error on unseen pictures", title="MNIST, weight of the KL")
    axes.margins(0.08)  # room for the last number
    axes.grid(alpha=0.25)
    save(figure, folder / "weights.png")
    header = ["weight", "squared error, unseen", "KL (nats)", "active latents", "squared error, seen"]
    note = "Loss: half the squared error, summed over pixels, plus the weight times the KL divergence; 5 epochs."
    return ["## How much the code should tell", table(header, rows), note, "![weights](weights.png)"]


def autoencoder_part(results: Results, pictures: set[str]) -> list[str]:
    rows = []
    for label, name in (("autoencoder (--kl-weight 0)", "vae-autoencoder"), ("VAE", "vae-mnist-float32")):
        for seed in results[name][:1]:
            seen, unseen = seed.final("eval/train_squared_error"), seed.final(ERROR)
            rows.append([label, number(seen), number(unseen), f"{unseen / seen:.3f}", number(seed.final("eval/recon"))])
    if not rows:
        return []
    header = ["", "squared error, seen", "unseen", "unseen / seen", "cross-entropy, unseen"]
    parts = ["## Does the KL divergence help with unseen pictures?", table(header, rows)]
    if {"autoencoder.png", "samples.png"} <= pictures:
        parts += ["Codes from N(0, I), decoded by the autoencoder and by the VAE:"]
        parts += ["![autoencoder](autoencoder.png) ![VAE](samples.png)"]
    return parts


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# Variational autoencoder", *example_part(results, folder), *iwae_part(results, folder)]
    parts += [*autoencoder_part(results, pictures), *weights_part(results, folder)]
    shown = {
        "reconstructions.png": "Originals, after epoch 1, after epoch 9, after the last (the post's convolutions)",
        "interpolations.png": "From one test picture's code to another's",
        "plane.png": "Two latents: the plane of codes",
        "plane_latents.png": "Two latents: where the test pictures lie",
        "latents.png": "Twenty latents: what each tells",
    }
    for name, words in shown.items():
        if name in pictures:
            parts += [f"## {words}", f"![{words}]({name})"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    if seeds := results["vae-mnist-float32"] or results["vae-mnist-bf16"]:
        found = f"test loss {losses(seeds)} on grey MNIST after 10 epochs"
        if theirs := results["examples-vae"]:
            found += f" (PyTorch's example: {losses(theirs)})"
        blocks["vae-number"] = f"{found} ([figures](results/vae/README.md))"
    if "samples.png" in pictures:
        blocks["vae-picture"] = '<img src="results/vae/samples.png" width="160" alt="Digits drawn from noise">'
    return blocks
