"""Figures and tables of gen/nice.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREY, ORANGE, PUBLISHED, Results, curves, machines, number, read_rows, save, table

NATS, BITS, ERROR = "eval/log_likelihood", "eval/bits_per_dim", "eval/inversion_error"
COLUMNS = ["global_step", "charts/epoch", "losses/log_likelihood", NATS, BITS, ERROR, "charts/SPS"]
RUNS = {"nice-mnist": ORANGE, "nice-mnist-long": BLUE}


def facts(name: str, columns: dict) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    (published,) = read_rows(PUBLISHED / "nice.csv")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, rows, old = figure.subplots(), [], False
    for name, color in RUNS.items():
        seeds = results[name]
        for seed in seeds:
            epochs = f"{seed.final('charts/epoch'):.0f}"
            curves(axes, [seed], "charts/epoch", NATS, color, f"{epochs} epochs")
            cells = [f"{seed.final(NATS):,.1f}", f"{seed.final(BITS):.3f}", f"{seed.final(ERROR):.0e}"]
            made_before = "gen/realnvp.py" in seed.summary["command"]
            old |= made_before
            rows.append(
                [
                    f"gen/nice.py{' *' if made_before else ''}",
                    str(seed.seed),
                    epochs,
                    *cells,
                    number(seed.summary["cpu_seconds"]),
                ]
            )
    nats, epochs = float(published["nats"]), int(published["epochs"])
    bits = 8 - nats / (784 * math.log(2))
    rows.append([published["model"], "-", f"{epochs:,}", f"{nats:,.1f}", f"{bits:.3f}", "-", "-"])
    axes.axhline(nats, color=GREY, linestyle=":", label=f"published, {epochs:,} epochs: {nats:,.1f}")
    axes.set(xlabel="epochs", ylabel="test log p(x), nats", title="NICE on MNIST")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "mnist.png")
    picture = folder.parent.parent / "runs" / "benchmark" / "nice-mnist-long" / "seed1" / "samples.png"
    if picture.exists():
        shutil.copy(picture, folder / "samples.png")
    best = max((seed for seeds in results.all.values() for seed in seeds), key=lambda seed: seed.final(NATS))
    ours, trained = f"{best.final(NATS):,.1f}", f"{best.final('charts/epoch'):.0f}"
    parts = [
        "# NICE",
        "[Dinh, Krueger & Bengio 2014](https://arxiv.org/abs/1410.8516) report a test log-likelihood of "
        f"{nats:,.2f} nats on MNIST (dequantized, pixels in [0, 1]) after {epochs:,} epochs.",
        "    ./benchmark.sh nice",
        "![test log-likelihood over epochs](mnist.png)",
        table(["MNIST", "seed", "epochs", "nats", "bits per dimension", "inversion error", "CPU seconds"], rows),
        f"{ours} nats after {trained} epochs is {nats - best.final(NATS):,.1f} below the published value, which took "
        f"{epochs / best.final('charts/epoch'):.0f} times as many epochs; the curve ends where the learning rate is 0, "
        "not where it is flat. The paper's schedule (row nice-paper of benchmark.sh) takes a GPU and was not run. "
        "One seed. Inversion error: the largest |x - f^-1(f(x))| of 100 test images in float32, pixels in [0, 1].",
    ]
    if old:
        parts.append(
            "\\* made by gen/realnvp.py at commit 7b0c269 with --bf16: the same network, batches and optimizer."
        )
    if (folder / "samples.png").exists():
        parts.append(f"Samples after {trained} epochs:\n\n![samples](samples.png)")
    parts.append(f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {"nice-number": f"{ours} nats after {trained} epochs ({nats:,.2f} after {epochs:,})"}
