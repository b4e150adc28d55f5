"""Figures and tables of gen/revnet.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, number

ACCURACY, ERROR = "eval/accuracy", "eval/inversion_error"
MEMORY = ["blocks", "computed_mb", "stored_mb", "inversion_error"]  # of benchmarks/revnet_memory.py
COLUMNS = ["global_step", "losses/loss", ACCURACY, ERROR, "charts/SPS", *MEMORY]
WAYS = {"activations recomputed": "", "activations stored": "-stored"}
BATCH = 100
PICTURES = {"inversion.png": ("revnet-hour", "inversion.png", "features that enter, and recomputed in bfloat16")}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of an update: the least of the rows after the first, which neighbours disturbed least."""
    return {"least seconds of an update": float(BATCH / columns["charts/SPS"][1:].max())} if "speed" in name else {}


def seconds(result: Result) -> float:
    return result.facts["least seconds of an update"]


def draw(results: Results, folder) -> dict[str, str]:
    ours = {
        f"{way}, {epochs}": results.by_name.get(f"revnet-{name}{suffix}", [])
        for name, epochs in (("cifar10", "half an epoch"), ("hour", "12 epochs"), ("long", "160 epochs"))
        for way, suffix in WAYS.items()
    }
    with plot.figure(folder / "cifar10.png") as (axes,):
        words = {"xlabel": "epochs", "ylabel": "test accuracy", "title": "RevNet-38 on CIFAR-10"}
        (row,) = plot.published("revnet", model="RevNet-38")
        levels = {"MemCNN, 160 epochs": float(row["accuracy_memcnn"]) / 100}
        plot.panel(axes, ours, "global_step", ACCURACY, levels, scale=1 / 50_000, **words)
    columns = {
        "CPU seconds": plot.cpu,
        "test accuracy": plot.column(ACCURACY, ".1%"),
        "training loss": plot.column("losses/loss", ".4f"),
        "inversion error": plot.column(ERROR, ".0e"),
    }
    (memory,), computed, stored = (results[f"revnet-{row}"] for row in ("memory", "speed-computed", "speed-stored"))
    kept = {way: memory[column][memory["blocks"] == 9][0] for way, column in zip(WAYS, MEMORY[1:3], strict=True)}
    size, times = kept["activations recomputed"] / kept["activations stored"], plot.ratios(computed, stored, seconds)
    blocks = [
        [f"{n:.0f}", f"{kept:.3f}", f"{less:.3f}", f"{less / kept:.3f}", f"{error:.0e}"]
        for n, less, kept, error in zip(*(memory[column] for column in MEMORY), strict=True)
    ]
    rows = [
        [way, plot.count(seeds), number(kept[way] * BATCH), f"{plot.mean(map(seconds, seeds)):.3f}"]
        for way, seeds in zip(WAYS, (computed, stored), strict=True)
    ]
    (hour,) = results["revnet-hour"]
    ratio = f"{plot.mean(times):.2f} ({min(times):.2f} to {max(times):.2f})"
    header = ["RevNet-38, CIFAR-10, batches of 100", "seeds", "MB stored", "CPU s an update"]
    return {
        "blocks": plot.table(["blocks", "stored, MB an image", "recomputed", "ratio", "inversion error"], blocks),
        "speed": plot.table(header, [*rows, ["ratio", str(len(times)), number(size), ratio]]),
        "cifar": plot.beside("CIFAR-10", ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"RevNet-38: {hour.final(ACCURACY):.1%} on CIFAR-10 after 12 epochs (93.14 % after 160); stores "
        f"{size:.2f} of the bytes",
    }
