"""Figures and tables of gen/realnvp.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

BITS, TRAIN = "eval/bits_per_dim", "losses/bits_per_dim"
COLUMNS = ["global_step", TRAIN, BITS, "charts/SPS", "time/elapsed"]
SIZES = {"2 blocks of 32 channels": ("realnvp-cifar10", "small"), "8 blocks of 64 channels": ("realnvp-large", "large")}
PICTURES = {"cifar10.png": ("realnvp-cifar10-float32", "samples.png", "Samples after 350 updates")}
OLD = "It did not flip images."


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Images per CPU second over all rows but the first, which warms up."""
    steps = columns["global_step"]
    if len(steps) < 2:
        return {}
    if "time/elapsed" in columns:  # the peer's seconds since its first update
        seconds = columns["time/elapsed"][-1] - columns["time/elapsed"][0]
    else:  # our images per second of each row
        seconds = (np.diff(steps) / columns["charts/SPS"][1:]).sum()
    return {"images per second": float((steps[-1] - steps[0]) / seconds)}


def speeds(seeds: list[Result]) -> list[float]:
    return [seed.facts.get("images per second", seed.facts.get("pictures per second")) for seed in seeds]


def draw(results: Results, folder: Path) -> dict[str, str]:
    runs, peers = {}, {}
    for size, (ours, theirs) in SIZES.items():
        names = [f"chrischute-{theirs}", f"{ours}-float32", f"{ours}-bf16"]
        for name, program in zip(
            names, ("chrischute/real-nvp", "gen/realnvp.py", "gen/realnvp.py --bf16"), strict=True
        ):
            runs[size, program], peers[name] = results[name], results[names[0]]
    published = plot.published("realnvp")
    with plot.figure(folder / "bits_cifar10.png") as (axes,):
        for (size, program), seeds in runs.items():
            if size in next(iter(SIZES)):
                plot.curves(axes, seeds, "global_step", TRAIN, program, scale=1 / 16)
        for row in published:
            bits = float(row["bits_per_dim"])
            axes.axhline(bits, color=plot.GREY, linestyle=":")
            axes.annotate(f"{row['model']}: {bits:.2f}", (50, bits), fontsize=8, color=plot.GREY, va="bottom")
        axes.set(xlabel="updates of 16 images", ylabel="bits per dimension, training", title="CIFAR-10", ylim=(3, 8))

    def faster(seeds: list[Result]) -> str:
        return f"{plot.mean(speeds(seeds)) / plot.mean(speeds(peers[seeds[0].name])):.2f}x"

    def bits(seeds: list[Result]) -> str:
        return "-" if "large" in seeds[0].name else plot.spread((seed.final(BITS) for seed in seeds), ".3f")

    columns = {
        "images per CPU second": lambda seeds: plot.spread(speeds(seeds)),
        "faster": faster,
        "bits per dimension, test": bits,
        "CPU seconds": plot.cpu,
    }
    theirs = [[row["model"], "published", "-", "-", f"{float(row['bits_per_dim']):.2f}", "-"] for row in published]
    best = min(seed.final(BITS) for name in ("float32", "bf16") for seed in results[f"realnvp-cifar10-{name}"])
    return {
        "table": plot.beside(("CIFAR-10, batches of 16", ""), runs, columns, theirs),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"{best:.2f} bits per dimension after 0.1 epochs (3.49)",
    }
