"""Figures and tables of gen/realnvp.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREY,
    ORANGE,
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

BITS, TRAIN, ERROR = "eval/bits_per_dim", "losses/bits_per_dim", "eval/inversion_error"
COLUMNS = ["global_step", "charts/epoch", TRAIN, BITS, ERROR, "charts/SPS", "time/elapsed"]
SIZES = {"2 blocks of 32 channels": ("realnvp-cifar10", "small"), "8 blocks of 64 channels": ("realnvp-large", "large")}


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


def speed(result: Result) -> float:
    found = result.summary["facts"]
    return found.get("images per second", found.get("pictures per second", float("nan")))


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, rows, old = figure.subplots(), [], False
    for label, (ours, theirs) in SIZES.items():
        peer = [speed(seed) for seed in results[f"chrischute-{theirs}"]]
        runs = [("chrischute/real-nvp", f"chrischute-{theirs}", VERMILLION)]
        runs += [("gen/realnvp.py", f"{ours}-float32", BLUE), ("gen/realnvp.py --bf16", f"{ours}-bf16", ORANGE)]
        for name, run, color in runs:
            seeds = results[run]
            if not seeds:
                continue
            made_before = "--epochs" in seeds[0].summary["command"]
            old |= made_before
            found = [speed(seed) for seed in seeds]
            faster = f"{np.mean(found) / np.mean(peer):.2f}x" if found and peer else "-"
            small = theirs == "small"
            if small:
                curves(axes, seeds, "global_step", TRAIN, color, name, scale=1 / 16)
            bits = f"{np.mean([seed.final(BITS) for seed in seeds]):.3f}" if small else "-"
            seconds = spread([seed.summary["cpu_seconds"] for seed in seeds])
            rows.append([label, name + (" *" if made_before else ""), spread(found), faster, bits, seconds])
    for row in read_rows(PUBLISHED / "realnvp.csv"):
        bits = float(row["bits_per_dim"])
        rows.append([row["model"], "published", "-", "-", f"{bits:.2f}", "-"])
        axes.axhline(bits, color=GREY, linestyle=":")
        axes.annotate(f"{row['model']}: {bits:.2f}", (50, bits), fontsize=8, color=GREY, va="bottom")
    axes.set(xlabel="updates of 16 images", ylabel="bits per dimension, training", title="CIFAR-10", ylim=(3, 8))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "bits_cifar10.png")
    header = [
        "CIFAR-10, batches of 16",
        "",
        "images per CPU second",
        "faster",
        "bits per dimension, test",
        "CPU seconds",
    ]
    parts = [
        "# RealNVP",
        "[Dinh, Sohl-Dickstein & Bengio 2016](https://arxiv.org/abs/1605.08803) report 3.49 bits per dimension on "
        "CIFAR-10, [chrischute/real-nvp](https://github.com/chrischute/real-nvp) 3.70 after 20 epochs.",
        "    ./benchmark.sh realnvp",
        "![bits per dimension](bits_cifar10.png)",
        table(header, rows, 2),
        "350 updates are 0.1 epochs: the published numbers are far away, and the paper's network and schedule (row "
        "realnvp-cifar10-paper of benchmark.sh) take a GPU and were not run. One core, one seed, one run after another "
        "on the same machine; 500 test images. bfloat16 is faster only on CPUs with fast instructions for it.",
    ]
    if old:
        parts.append("\\* made by the file at commit 7b0c269, whose images were not flipped.")
    path = folder.parent.parent / "runs" / "benchmark" / "realnvp-cifar10-float32" / "seed1" / "samples.png"
    if path.exists():
        shutil.copy(path, folder / "cifar10.png")
    if (folder / "cifar10.png").exists():
        parts.append("Samples after 350 updates:\n\n![samples](cifar10.png)")
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = [seed.final(BITS) for seed in results["realnvp-cifar10-float32"] + results["realnvp-cifar10-bf16"]]
    return {"realnvp-number": f"{min(found):.2f} bits per dimension after 0.1 epochs (3.49)"} if found else {}
