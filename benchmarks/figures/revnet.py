"""Figures and tables of gen/revnet.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREY,
    ORANGE,
    PUBLISHED,
    Result,
    Results,
    curves,
    machines,
    number,
    ratios,
    read_rows,
    save,
    table,
)

ACCURACY, ERROR = "eval/accuracy", "eval/inversion_error"
MEMORY = ["blocks", "computed_mb", "stored_mb", "inversion_error"]  # of benchmarks/revnet_memory.py
COLUMNS = ["global_step", "charts/epoch", "losses/loss", "eval/loss", ACCURACY, ERROR, "charts/SPS", *MEMORY]
BATCH = 100  # images of an update


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of an update: the least of the rows after the first, which neighbours disturbed least."""
    if "speed" not in name or len(columns["charts/SPS"]) < 2:
        return {}
    return {"least seconds of an update": float(BATCH / columns["charts/SPS"][1:].max())}


def seconds(result: Result) -> float:
    return result.summary["facts"].get("least seconds of an update", float("nan"))


def kept_of_38(results: Results) -> tuple[float, float]:
    """MB an image that RevNet-38 keeps for the backward pass, recomputed and stored; NaN where it was not measured."""
    for seed in results["revnet-memory"]:
        (row,) = (seed["blocks"] == 9).nonzero()[0]
        return seed["computed_mb"][row], seed["stored_mb"][row]
    return np.nan, np.nan


def blocks_part(results: Results, folder: Path) -> list[str]:
    """Bytes kept for the backward pass over the number of blocks; nothing where it was not run."""
    if not results["revnet-memory"]:
        return []
    memory = results["revnet-memory"][0]
    columns = [memory[column] for column in MEMORY]
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot(columns[0], columns[1], "o-", color=BLUE, label="activations recomputed")
    axes.plot(columns[0], columns[2], "o-", color=ORANGE, label="activations stored")
    axes.set(xlabel="blocks", ylabel="MB an image, stored for the backward pass", title="CIFAR-10, 32-64-112")
    axes.set(xscale="log", yscale="log", xticks=columns[0], xticklabels=[f"{blocks:.0f}" for blocks in columns[0]])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "blocks.png")
    rows = [
        [f"{n:.0f}", f"{4 * n + 2:.0f}", f"{stored:.3f}", f"{computed:.3f}", f"{computed / stored:.3f}", f"{error:.0e}"]
        for n, computed, stored, error in zip(*columns, strict=True)
    ]
    header = ["blocks", "layers", "stored, MB an image", "recomputed", "ratio", "largest inversion error"]
    note = (
        "Every tensor that PyTorch saves for the backward pass, each memory once, parameters not counted. While a "
        "block is differentiated, its own activations exist as well, one block's at a time. The last column is at "
        "initialization: rounding errors grow with depth, so gradients are the less exact the deeper the network is."
    )
    return ["## What is stored for the backward pass", table(header, rows), note, "![bytes over blocks](blocks.png)"]


def speed_part(results: Results) -> list[str]:
    """CPU seconds of an update and bytes of RevNet-38, both ways, beside MemCNN's two networks."""
    ways = results["revnet-speed-computed"], results["revnet-speed-stored"]
    rows, kept = [], kept_of_38(results)
    for label, seeds, size in zip(("activations recomputed", "activations stored"), ways, kept, strict=True):
        if seeds:
            times = np.mean([seconds(seed) for seed in seeds])
            rows.append([label, f"{len(seeds)}", number(size * BATCH), f"{times:.3f}"])
    if times := ratios(*ways, seconds):
        words = f"{np.mean(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        rows.append(["ratio", f"{len(times)}", number(kept[0] / kept[1]), words])
    published = {row["model"]: float(row["activations_mb"]) for row in read_rows(PUBLISHED / "revnet.csv")}
    note = (
        "CPU seconds of an update of 100 images, one core, the least over groups of five updates, measured one after "
        "another on the same machine; ratios seed by seed. MemCNN publishes "
        f"{published['RevNet-38']} MB for RevNet-38 and {published['ResNet-32']} MB for ResNet-32, a ratio of "
        f"{published['RevNet-38'] / published['ResNet-32']:.2f}."
    )
    header = ["RevNet-38, CIFAR-10, batches of 100", "seeds", "MB stored", "CPU s an update"]
    return ["## RevNet-38, both ways", table(header, rows), note]


def cifar_part(results: Results, folder: Path) -> list[str]:
    """Accuracy on CIFAR-10 as far as it was trained, beside the published one."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, rows = figure.subplots(), []
    ways = [("recomputed", BLUE, "-", ""), ("stored", ORANGE, "--", "-stored")]
    for length in ("cifar10", "long"):
        for label, color, line, suffix in ways:
            if length == "long" and f"revnet-long{suffix}" not in results.all:
                continue  # for a GPU
            seeds = results[f"revnet-{length}{suffix}"]
            curves(axes, seeds, "charts/epoch", ACCURACY, color, f"activations {label}", line)
            for seed in seeds:
                accuracy, epochs = f"{seed.final(ACCURACY):.1%}", number(seed.final("charts/epoch"))
                cells = [f"activations {label}", epochs, f"{seed.summary['cpu_seconds']:,.0f}", accuracy]
                rows.append([*cells, f"{seed.final('losses/loss'):.4f}", f"{seed.final(ERROR):.0e}"])
    published = {row["model"]: row for row in read_rows(PUBLISHED / "revnet.csv")}["RevNet-38"]
    axes.axhline(float(published["accuracy_memcnn"]) / 100, color=GREY, linestyle=":", label="MemCNN, 160 epochs")
    axes.set(xlabel="epochs", ylabel="test accuracy", title="RevNet-38 on CIFAR-10")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "cifar10.png")
    header = ["CIFAR-10", "epochs", "CPU seconds", "test accuracy", "training loss", "inversion error"]
    note = (
        f"Published after 160 epochs: {published['accuracy']} % (the authors' code) and "
        f"{published['accuracy_memcnn']} % (MemCNN). Short runs are evaluated on 1,000 test images. The whole "
        "schedule, `./benchmark.sh revnet-long`, is for a GPU and "
        + ("has been run." if "revnet-long" in results.all else "has not been run.")
    )
    return ["## CIFAR-10", table(header, rows), note, "![accuracy](cifar10.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    parts = [
        "# Reversible residual network",
        "[Gomez et al. 2017](https://arxiv.org/abs/1707.04585) store a constant number of activations however deep the "
        "network is, and lose no accuracy: RevNet-38 has 93.14 % on CIFAR-10, ResNet-32 92.74 %.",
        "    ./benchmark.sh revnet",
    ]
    parts += [*blocks_part(results, folder), *speed_part(results)]
    parts += cifar_part(results, folder)
    picture = folder.parent.parent / "runs" / "benchmark" / "revnet-cifar10" / "seed1" / "inversion.png"
    if picture.exists():
        shutil.copy(picture, folder / "inversion.png")
    if (folder / "inversion.png").exists():
        parts += ["## The first stage inverted", "![features before, after, and recomputed](inversion.png)"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    if any("--epochs" in seed.summary["command"] for seed in used):
        names = sorted({seed.name for seed in used if "--epochs" in seed.summary["command"]})
        parts.append(f"Made by the file at commit 7b0c269: {', '.join(names)}.")
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    times = ratios(results["revnet-speed-computed"], results["revnet-speed-stored"], seconds)
    computed, stored = kept_of_38(results)
    if not times or np.isnan(stored):
        return {}
    stores = f"RevNet-38 stores {computed / stored:.2f} of the bytes (MemCNN: .36)"
    return {"revnet-number": f"{stores} in {np.mean(times):.2f} times the CPU time"}
