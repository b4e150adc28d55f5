"""Figures and tables of gen/realnvp.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
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

BITS, NLL, ABOVE, NATS = "eval/bits_per_dim", "eval/nll", "eval/above_source", "eval/log_likelihood"
ERROR, TRAIN = "eval/inversion_error", "losses/bits_per_dim"
COLUMNS = [
    "global_step", "charts/epoch", "losses/nll", TRAIN, NLL, BITS, NATS, ABOVE, ERROR, "charts/SPS", "time/elapsed",
]  # fmt: skip
SOURCES = {"moons": BLUE, "rings": ORANGE, "spirals": GREEN, "gaussians": VERMILLION}
SMALL = {  # run -> label, colour
    "nice-small-factors": ("shifts, factors (NICE)", BLUE),
    "nice-small-volume": ("shifts alone (--no-scaling)", GREY),
    "nice-small-affine": ("shifts and scales (RealNVP)", ORANGE),
    "nice-mnist": ("NICE, its own network", GREEN),
    "nice-paper": ("NICE, its own network, 1,500 epochs", VERMILLION),
}
PICTURES = {  # which run's pictures are shown: name in results/realnvp/ -> run, its picture
    **{f"{name}.png": (f"realnvp-{name}", "density.png") for name in SOURCES},
    "mnist.png": ("nice-small-factors", "samples.png"),
    "mnist_interpolations.png": ("nice-small-factors", "interpolations.png"),
    "mnist_affine.png": ("nice-small-affine", "samples.png"),
    "cifar10.png": ("realnvp-cifar10-bf16", "samples.png"),
    "cifar10_interpolations.png": ("realnvp-cifar10-bf16", "interpolations.png"),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Pictures per CPU second over all rows but the first, which warms up."""
    steps, seconds = columns["global_step"], columns["time/elapsed"]
    measured = name.startswith(("realnvp-cifar10", "realnvp-large", "chrischute")) and len(steps) > 1
    return {"pictures per second": float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))} if measured else {}


def speed(result: Result) -> float:
    return result.summary["facts"].get("pictures per second", float("nan"))


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    for name, (run, picture) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in PICTURES if (folder / name).exists()}


def plane_part(results: Results, folder: Path) -> list[str]:
    """How many nats a flow needs more than the source has, over the epochs."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = []
    for name, color in SOURCES.items():
        seeds = results[f"realnvp-{name}"]
        curves(axes, seeds, "charts/epoch", ABOVE, color, name)
        if seeds:
            finals = [seed.final(ABOVE) for seed in seeds]
            cells = [spread([seed.final(NLL) for seed in seeds]), f"{np.mean(finals):.3f}", f"{max(finals):.3f}"]
            rows.append([name, str(len(seeds)), *cells, spread([seed.final("time/elapsed") for seed in seeds])])
    axes.axhline(0.05, color=GREY, linestyle=":", label="a twentieth of a nat")
    axes.set(xlabel="epochs of 50,000 points", ylabel="nats above the source", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "plane.png")
    header = ["density", "seeds", "nats per point", "above the source: mean", "worst seed", "seconds, one core"]
    note = (
        "How much more -log p(x) of 10,000 new points is under the flow than under the density that they come from, a "
        "mixture whose density is known: the KL divergence between the two. "
        "Affine couplings of 64 64 units: 12 for the moons, 24 for the others."
    )
    return ["## Densities in the plane", table(header, rows), note, "![nats above the source](plane.png)"]


def mnist_part(results: Results, folder: Path) -> list[str]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = []
    for name, (label, color) in SMALL.items():
        seeds = results[name]
        curves(axes, seeds, "charts/epoch", BITS, color, label)
        for seed in seeds:
            network = "5 x 1,000" if name in ("nice-mnist", "nice-paper") else "3 x 400"
            cells = [f"{seed.final(NATS):,.1f}", f"{seed.final(BITS):.3f}", f"{seed.final(ERROR):.0e}"]
            rows.append(
                [label, network, number(seed.final("charts/epoch")), *cells, number(seed.final("time/elapsed"))]
            )
    published = next(row for row in read_rows(PUBLISHED / "realnvp.csv") if row["data"] == "MNIST")
    rows.append([published["model"], "5 x 1,000", "1,500", published["nice_nats"], published["bits_per_dim"], "-", "-"])
    axes.axhline(float(published["bits_per_dim"]), color=GREY, linestyle=":", label="NICE, published")
    axes.set(xlabel="epochs", ylabel="bits per dimension, test pictures", title="MNIST, four couplings")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(figure, folder / "bits_mnist.png")
    header = ["MNIST", "hidden units", "epochs", "NICE's nats", "bits per dimension", "inversion error", "seconds"]
    note = (
        "Test pictures, log p(x) with pixels from 0 to 1, and bits with pixels of 8 bits. The published number took "
        "1,500 epochs. Inversion error: greatest |x - f^-1(f(x))| of 64 test pictures in float32, pixels from 0 to 1."
    )
    return ["## MNIST", table(header, rows), note, "![bits per dimension](bits_mnist.png)"]


def cifar10_part(results: Results, folder: Path) -> list[str]:
    """Bits over updates and pictures per second, beside chrischute/real-nvp."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = {
        "2 blocks of 32 channels": ("realnvp-cifar10", "small"),
        "8 blocks of 64 channels": ("realnvp-large", "large"),
    }
    rows = []
    for label, (ours, theirs) in sizes.items():
        peer = [speed(seed) for seed in results[f"chrischute-{theirs}"]]
        runs = [("chrischute/real-nvp", f"chrischute-{theirs}", VERMILLION)]
        runs += [("gen/realnvp.py", f"{ours}-float32", BLUE), ("gen/realnvp.py --bf16", f"{ours}-bf16", ORANGE)]
        for name, run, color in runs:
            seeds = results[run]
            found = [speed(seed) for seed in seeds]
            faster = f"{np.mean(found) / np.mean(peer):.2f}x" if found and peer else "-"
            small = theirs == "small"
            if small:
                curves(axes, seeds, "global_step", TRAIN, color, name, scale=1 / 16)
            bits = f"{np.mean([seed.final(BITS) for seed in seeds]):.3f}" if small and seeds else "-"
            rows.append([label, name, spread(found), faster, bits])
    axes.set(
        xlabel="updates of 16 pictures",
        ylabel="bits per dimension, training",
        title="CIFAR-10, 2 blocks of 32 channels",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "bits_cifar10.png")
    header = ["CIFAR-10, batches of 16", "", "pictures per CPU second", "faster", "bits per dimension, unseen"]
    note = (
        "One core, CPU seconds of training, one run after another on the same machine; bits per dimension of 500 test "
        "pictures after 350 updates. "
    )
    halves = [
        np.mean([seed.final(BITS) for seed in results[f"realnvp-cifar10-{kind}"]] or [np.nan])
        for kind in ("float32", "bf16")
    ]
    if not np.isnan(halves).any():
        note += f"With --bf16 they are {100 * (halves[1] / halves[0] - 1):+.2f} % of float32's. "
    note += "Published, after many more: 3.49 (the paper), 3.70 after 20 epochs (chrischute's README)."
    errors = [seed.final(ERROR) for seed in results["realnvp-cifar10-float32"] + results["realnvp-cifar10-bf16"]]
    if errors:
        note += f" Inversion error in float32, pixels from 0 to 1: {max(errors):.0e}."
    return ["## CIFAR-10", table(header, rows, 2), note, "![bits per dimension](bits_cifar10.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# NICE and RealNVP", *plane_part(results, folder)]
    parts += [f"![{name}]({name}.png)" for name in SOURCES if f"{name}.png" in pictures]
    parts += mnist_part(results, folder)
    words = {
        "mnist.png": "Samples: shifts and factors",
        "mnist_affine.png": "Samples: shifts and scales",
        "mnist_interpolations.png": "From one test picture's code to another's, on an arc: shifts and factors",
    }
    parts += [f"{label}:\n\n![{label}]({name})" for name, label in words.items() if name in pictures]
    parts += cifar10_part(results, folder)
    words = {"cifar10.png": "Samples after 350 updates", "cifar10_interpolations.png": "From one code to another"}
    parts += [f"{label}:\n\n![{label}]({name})" for name, label in words.items() if name in pictures]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = []
    if seeds := results["realnvp-moons"]:
        found.append(f"two moons: {np.mean([seed.final(ABOVE) for seed in seeds]):.3f} nats above their entropy")
    if seeds := results["nice-mnist"]:
        epochs = number(seeds[0].final("charts/epoch"))
        found.append(f"NICE on MNIST: {seeds[0].final(NATS):,.0f} nats after {epochs} epochs (1980.50 after 1,500)")
    if found:
        blocks["realnvp-number"] = f"{'; '.join(found)} ([figures](results/realnvp/README.md))"
    if "moons.png" in pictures:
        blocks["realnvp-picture"] = '<img src="results/realnvp/moons.png" width="400" alt="Two moons as a warped grid">'
    return blocks
