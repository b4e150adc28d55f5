"""Figures and tables of gen/revnet.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, number

ACCURACY, ERROR = "eval/accuracy", "eval/inversion_error"
MEMORY = ["blocks", "computed_mb", "stored_mb", "inversion_error"]  # of benchmarks/revnet_memory.py
COLUMNS = ["global_step", "losses/loss", ACCURACY, ERROR, "charts/SPS", *MEMORY]
WAYS = {"activations recomputed": "", "activations stored": "-stored"}
BATCH, IMAGES = 100, 50_000  # images of an update, and of an epoch
PICTURES = {"inversion.png": ("revnet-cifar10", "inversion.png", "features that enter, and recomputed")}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of an update: the least of the rows after the first, which neighbours disturbed least."""
    return {"least seconds of an update": float(BATCH / columns["charts/SPS"][1:].max())} if "speed" in name else {}


def seconds(result: Result) -> float:
    return result.facts["least seconds of an update"]


def blocks(memory: Result, path: Path) -> str:
    """MB kept for the backward pass over the number of blocks: the figure and the table."""
    blocks, computed, stored, errors = (memory[column] for column in MEMORY)
    with plot.figure(path) as (axes,):
        axes.plot(blocks, computed, "o-", label="activations recomputed")
        axes.plot(blocks, stored, "o-", label="activations stored")
        axes.set(xlabel="blocks", ylabel="MB an image, stored for the backward pass", title="CIFAR-10, 32-64-112")
        axes.set(xscale="log", yscale="log", xticks=blocks, xticklabels=[f"{n:.0f}" for n in blocks])
        axes.minorticks_off()
    rows = [
        [f"{n:.0f}", f"{4 * n + 2:.0f}", f"{kept:.3f}", f"{less:.3f}", f"{less / kept:.3f}", f"{error:.0e}"]
        for n, less, kept, error in zip(blocks, computed, stored, errors, strict=True)
    ]
    header = ["blocks", "layers", "stored, MB an image", "recomputed", "ratio", "largest inversion error"]
    return plot.table(header, rows)


def cifar(results: Results, path: Path) -> str:
    """Accuracy on CIFAR-10 as far as it was trained: the figure and the table."""
    rows, (published,) = [], plot.published("revnet", model="RevNet-38")
    with plot.figure(path) as (axes,):
        for name in ("revnet-cifar10", "revnet-hour", "revnet-long"):
            for (way, suffix), line in zip(WAYS.items(), ("-", "--"), strict=True):
                seeds = results.by_name.get(name + suffix, [])
                plot.curves(axes, seeds, "global_step", ACCURACY, way, linestyle=line, scale=1 / IMAGES)
                for seed in seeds:
                    cells = [
                        number(seed.final("global_step") / IMAGES),
                        plot.cpu([seed]),
                        f"{seed.final(ACCURACY):.1%}",
                    ]
                    rows.append([way, *cells, f"{seed.final('losses/loss'):.4f}", f"{seed.final(ERROR):.0e}"])
        line = float(published["accuracy_memcnn"]) / 100
        axes.axhline(line, color=plot.GREY, linestyle=":", label="MemCNN, 160 epochs")
        axes.set(xlabel="epochs", ylabel="test accuracy", title="RevNet-38 on CIFAR-10")
    header = ["CIFAR-10", "epochs", "CPU seconds", "test accuracy", "training loss", "inversion error"]
    return plot.table(header, rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    (memory,), computed, stored = (results[f"revnet-{row}"] for row in ("memory", "speed-computed", "speed-stored"))
    kept = [memory[column][memory["blocks"] == 9][0] for column in ("computed_mb", "stored_mb")]
    size, times = kept[0] / kept[1], plot.ratios(computed, stored, seconds)
    rows = [
        [way, plot.count(seeds), number(megabytes * BATCH), f"{plot.mean(map(seconds, seeds)):.3f}"]
        for way, seeds, megabytes in zip(WAYS, (computed, stored), kept, strict=True)
    ]
    ratio = f"{plot.mean(times):.2f} ({min(times):.2f} to {max(times):.2f})"
    header = ["RevNet-38, CIFAR-10, batches of 100", "seeds", "MB stored", "CPU s an update"]
    return {
        "blocks": blocks(memory, folder / "blocks.png"),
        "speed": plot.table(header, [*rows, ["ratio", str(len(times)), number(size), ratio]]),
        "cifar": cifar(results, folder / "cifar10.png"),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"RevNet-38 stores {size:.2f} of the bytes (MemCNN: .36) in {plot.mean(times):.2f} times the CPU "
        "time",
    }
