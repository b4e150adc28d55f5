"""Figures and tables of gen/gan.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    read_rows,
    save,
    spread,
    table,
)

COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "charts/d_real", "charts/d_fake", "charts/SPS",
    "eval/diversity", "eval/frechet", "eval/frechet_real", "eval/judge_accuracy", "time/elapsed",
]  # fmt: skip
RUNS = {"gan-mnist": ("MNIST", BLUE), "gan-cifar10": ("CIFAR-10", VERMILLION), "gan-cifar10-long": ("CIFAR-10", GREEN)}
PICTURES = {
    "progress.png": "the same noise after every 300 updates",
    "samples.png": "samples after the last update",
    "interpolation.png": "from one noise to another",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Images per CPU second over all rows but the first, which warms up."""
    if name == "examples-dcgan":
        known = ~np.isnan(columns["time/elapsed"])
        steps, seconds = columns["global_step"][known], columns["time/elapsed"][known]
        return {"pictures per CPU second": float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))}
    if "speed" in name:  # every row counts as many images
        return {"pictures per CPU second": float(1 / (1 / columns["charts/SPS"][1:]).mean())}
    return {}


def speed(result: Result) -> float:
    return result.summary["facts"].get("pictures per CPU second", float("nan"))


def distance_part(results: Results, folder: Path) -> list[str]:
    """Where the Frechet distance ends, and diversity over updates."""
    axes, rows = Figure(figsize=(6, 4), layout="constrained").subplots(), []
    for name, (label, color) in RUNS.items():
        if seeds := results.all.get(name):
            cells = [
                spread(seed.final(f"eval/{key}") for seed in seeds) for key in ("frechet", "frechet_real", "diversity")
            ]
            rows.append([label, str(len(seeds)), f"{seeds[0].final('global_step'):,.0f}", *cells])
            curves(axes, seeds, "global_step", "eval/diversity", color, label)
    if not rows:
        return ["Frechet distances and diversity: not run yet with the classifier that has not seen its reference."]
    axes.set(xlabel="updates", ylabel="distance to the nearest other image, real images = 1")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "diversity.png")
    note = (
        "Frechet distance of 2,000 samples in the features of a small classifier (`benchmarks/frechet.py`): it is "
        "trained on one half of the training images, the other half is the reference. Test images: their own distance. "
        "Diversity: the distance of a generated image to the nearest other one, divided by that of training images; "
        "near 0 the generator has collapsed."
    )
    header = ["", "seeds", "updates", "Frechet distance", "of test images", "diversity"]
    return ["## Samples", table(header, rows), note, "![diversity](diversity.png)"]


def speed_part(results: Results) -> tuple[list[str], str]:
    """Images per CPU second beside PyTorch's example, and the ratio with --bf16 in words."""
    peer, rows, ratio = [speed(seed) for seed in results["examples-dcgan"]], [], ""
    for label, name in (("gen/gan.py", "gan-speed-float32"), ("gen/gan.py --bf16", "gan-speed-bf16")):
        if ours := [speed(seed) for seed in results[name]]:
            quotient = f"{np.mean(ours) / np.mean(peer):.2f}" if peer else "-"
            rows.append([label, str(len(ours)), spread(ours), quotient])
            ratio = quotient if name.endswith("bf16") else ratio
    if not rows:
        return [], ratio
    rows += [["pytorch/examples, dcgan", str(len(peer)), spread(peer), "1"]] if peer else []
    header = ["64 x 64 pixels, batches of 64, widths 64 to 512", "runs", "images per CPU second", "times the example"]
    note = (
        "CPU seconds of the process, one thread, from the fifth update on, measured one after another on one machine. "
        "The gain: no gradients of D's weights while G learns, channels last, a fused optimizer, bfloat16."
    )
    return ["## Beside PyTorch's example", table(header, rows), note], ratio


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        for picture in PICTURES:
            path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
            if path.exists():
                shutil.copy(path, folder / f"{run}-{picture}")
    beside, ratio = speed_part(results)
    claim = (
        "[The post](https://kvfrans.com/generative-adversial-networks-explained/) shows images after 300, 900 and "
        "5,700 updates, with no number. Published numbers are Frechet distances in the features of Inception on "
        "CIFAR-10 (below), which do not compare with ours.\n\n`python gen/gan.py --dataset mnist --bf16 --updates 5700`"
    )
    parts = ["# Generative adversarial network", claim, *distance_part(results, folder)]
    for run, (label, _) in RUNS.items():
        lines = [f"![{w}]({run}-{name})\n\n{w}" for name, w in PICTURES.items() if (folder / f"{run}-{name}").exists()]
        parts += [f"## {label}", *lines] if lines else []
    published = [[row["model"], row["fid"], row["settings"]] for row in read_rows(PUBLISHED / "gan.csv")]
    parts += [*beside, "## What was published on CIFAR-10", table(["", "FID", "settings"], published, left=3)]
    parts += ["Not run: our 100,000 updates (gan-cifar10-long)."]
    if old := [name for name, seeds in results.all.items() if "--torch-threads" in seeds[0].summary["command"]]:
        parts += [f"Made by the longer file at commit 7b0c269, not yet again: {', '.join(old)}."]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    blocks = {}
    if ratio:
        words = f"{ratio} times the images per CPU second of PyTorch's example with `--bf16`"
        blocks["gan-number"] = f"{words} ([figures](results/gan/README.md))"
    if (folder / "gan-mnist-samples.png").exists():
        blocks["gan-picture"] = '<img src="results/gan/gan-mnist-samples.png" width="160" alt="Generated digits">'
    return blocks
