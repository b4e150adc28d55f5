"""Figures and tables of gen/draw.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    SKY,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    number,
    read_rows,
    save,
    table,
)

LOSS, KL, ERROR = "eval/loss", "eval/kl", "eval/squared_error"
PATCHES = [
    f"eval/{name}_{what}" for name in ("read", "write") for what in ("first_width", "last_width", "centre_spread")
]
COLUMNS = [
    "global_step", "charts/epoch", "losses/loss", "losses/kl", LOSS, "eval/recon", KL, ERROR, *PATCHES, "time/elapsed",
]  # fmt: skip
MNIST = {  # runs whose bound is shown: name -> attention, T, binarization
    "draw-mnist-attention": ("yes", "10", "dynamic"),
    "draw-mnist-whole": ("no", "10", "dynamic"),
    "draw-mnist-fixed": ("yes", "10", "fixed"),
    "draw-full-attention": ("yes", "10", "dynamic"),
    "draw-full-whole": ("no", "10", "dynamic"),
    "draw-paper": ("yes", "64", "fixed"),
}
STARTS = {  # what begins how -> label, colour
    "draw-start-overlapping-mean": ("filters touch, mean picture (default)", BLUE),
    "draw-start-overlapping-zero": ("filters touch, canvas at zero", SKY),
    "draw-start-sparse-mean": ("sparse filters, mean picture", ORANGE),
    "draw-start-sparse-zero": ("sparse filters, canvas at zero", VERMILLION),
    "draw-start-rate": ("default, step size 2e-3 for 1e-3", GREEN),
    "draw-start-clip": ("default, gradients up to 50 for 5", PURPLE),
    "draw-start-read": ("default, 5 x 5 filters that read for 2 x 2", BLACK),
}
COLOURS = {  # the second post's proposals: run -> z, T, times as long
    "draw-colour-base": ("10", "10", "1"),
    "draw-colour-z": ("100", "10", "1"),
    "draw-colour-steps": ("10", "32", "1"),
    "draw-colour-long": ("10", "10", "10"),
}
SHOWN = {  # pictures that runs leave: name in results/draw/ -> run, words
    "mnist": ("draw-mnist-attention", "MNIST, with attention"),
    "whole": ("draw-mnist-whole", "MNIST, without attention"),
    "colour": ("draw-colour-long", "Cartoons at 64x64"),
}
PICTURES = ["drawing.png", "drawing.gif", "prior.png", "prior.gif", "reconstructions.png", "samples.png", "steps.png"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of an update in the row that neighbours disturbed least, the first ones left out."""
    if "speed" not in name or len(columns["time/elapsed"]) < 3:
        return {}
    updates = np.diff(columns["global_step"]) / 128
    return {"least seconds of an update": float((np.diff(columns["time/elapsed"]) / updates).min())}


def seconds_of_an_update(result: Result) -> float:
    return result.summary["facts"].get("least seconds of an update", float("nan"))


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    names = {f"{key}_{picture}": (run, picture) for key, (run, _) in SHOWN.items() for picture in PICTURES}
    for name, (run, picture) in names.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in names if (folder / name).exists()}


def bound_part(results: Results, folder: Path) -> list[str]:
    """The bound over epochs, as far as it was trained, beside published ones."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    rows = []
    colors = (BLUE, GREEN, ORANGE, BLUE, GREEN, PURPLE)
    for (name, (attention, steps, binarization)), color in zip(MNIST.items(), colors, strict=True):
        label = f"attention: {attention}, T = {steps}, {binarization}"
        curves(axes, results[name], "charts/epoch", LOSS, color, label)
        for seed in results[name]:
            cells = [f"{seed.final('charts/epoch'):.3g}", f"{seed.final(LOSS):.2f}", f"{seed.final(KL):.2f}"]
            rows.append([f"gen/draw.py ({name})", attention, steps, binarization, *cells])
    for theirs in read_rows(PUBLISHED / "draw.csv"):
        cells = [theirs[key] for key in ("attention", "steps", "binarization")]
        rows.append([theirs["model"], *cells, theirs["epochs"] or "not stated", f"<= {theirs['bound']}", "-"])
        axes.axhline(float(theirs["bound"]), color=GREY, linestyle=":", linewidth=0.8)
        name = f"{theirs['model']}, attention: {theirs['attention']}, {theirs['epochs'] or '?'} epochs"
        axes.text(0.99, float(theirs["bound"]), name, transform=axes.get_yaxis_transform(), ha="right", fontsize=7)
    axes.set(xlabel="epochs", ylabel="bound on test pictures (nats)", ylim=(78, 170), title="MNIST, binarized")
    if any(results[name] for name in MNIST):
        axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(figure, folder / "bound.png")
    header = ["", "attention", "T", "binarized", "epochs", "bound on test pictures (nats)", "of it KL"]
    note = (
        "Rows between the first and the last score 1,000 test pictures, the last row all 10,000. The full schedules "
        "(draw-full-*, draw-paper) stand in benchmark.sh; those that are missing here have not been run."
    )
    return ["## The bound on binarized MNIST", table(header, rows, left=4), note, "![bound](bound.png)"]


def start_part(results: Results, folder: Path) -> list[str]:
    """Why learning stands still near 200 nats: four beginnings, and the most common code."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    rows = []
    runs = {**STARTS, "draw-speed-plain": ("plain code (benchmarks/peers/plain_draw.py)", GREY)}
    for name, (label, color) in runs.items():
        curves(axes, results[name], "global_step", "losses/loss", color, label, scale=1 / 128)
        for seed in results[name]:
            below = np.flatnonzero(seed["losses/loss"] < 180)
            reached = f"{seed['global_step'][below[0]] / 128:,.0f}" if len(below) else "not reached"
            at = [seed.at(updates * 128, "losses/loss") for updates in (100, 200, 400)]
            kl = seed.at(200 * 128, "losses/kl")
            rows.append([label, *map(number, at), number(kl), reached])
    axes.axhline(206, color=GREY, linestyle=":", linewidth=0.8)
    axes.text(0.99, 207, "every pixel on its own: 206", transform=axes.get_yaxis_transform(), ha="right", fontsize=7)
    axes.set(
        xlabel="updates", ylabel="training bound (nats)", ylim=(140, 300), title="How the first updates go, T = 10"
    )
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(figure, folder / "start.png")
    header = ["beginning", "bound at 100 updates", "at 200", "at 400", "KL at 200", "updates to 180 nats"]
    note = (
        "A set of independent pixels, each as bright as on the average, costs 206 nats: the plateau. As most code "
        "begins, all biases of the attention at 0, the 2 x 2 filters that read are a pixel wide and 27 pixels apart: "
        "they see the four corners, black in nearly every digit, so that codes tell nothing and only the mean "
        "picture is learned, through 25 dots far apart. Filters that touch see the digit at once."
    )
    return ["## Why learning stands still, and how it does not", table(header, rows), note, "![start](start.png)"]


def speed_part(results: Results) -> list[str]:
    rows = []
    plain = [seconds_of_an_update(seed) for seed in results["draw-speed-plain"]]
    runs = {
        "plain eager code, float32": "draw-speed-plain",
        "gen/draw.py": "draw-speed-float32",
        "gen/draw.py --bf16": "draw-speed-bf16",
        "gen/draw.py --bf16 --compile": "draw-speed-compiled",
        "gen/draw.py --bf16 --no-attention": "draw-speed-whole",
    }
    for label, name in runs.items():
        for seed in results[name]:
            seconds = seconds_of_an_update(seed)
            ratio = f"{np.mean(plain) / seconds:.2f}" if plain and "whole" not in name else "-"
            rows.append([label, f"{1 / seconds:.1f}", f"{1000 * seconds:.0f}", ratio])
    if not rows:
        return []
    header = ["MNIST, T = 10, z = 100, LSTM 256, batches of 128", "updates a CPU second", "ms", "times plain"]
    note = (
        "One core, the least disturbed 20 updates, measured one after another on the same machine. What "
        "bounds it: the products of the two LSTMs, 6.9 of 7.3 GFLOP an update. In float32 they take as long in any "
        "code, so that only bfloat16 gains much; what remains are some thousand small operations on gates, filters and "
        "canvases, which --compile fuses, after minutes of compiling (not counted here)."
    )
    return ["## Speed", table(header, rows), note]


def patch_part(results: Results) -> list[str]:
    rows = []
    for key, (name, words) in SHOWN.items():
        if key == "whole":
            continue
        for seed in results[name][:1]:
            for what in ("read", "write"):
                cells = ("first_width", "last_width", "centre_spread")
                rows.append([words, what, *(number(seed.final(f"eval/{what}_{cell}")) for cell in cells)])
    if not rows:
        return []
    header = [
        "",
        "patch",
        "width at the first step",
        "at the last",
        "how much its place varies from picture to picture",
    ]
    note = (
        "In pixels, over 100 test pictures; the last column is the standard deviation of the centre over pictures, "
        "mean over steps. The posts saw the first patch take in everything and the last the least, and places "
        "that hardly depend on the picture. Digits agree; on cartoons the patch is narrowest half-way (see the patches "
        "over the steps below), and the last steps go over the whole picture again."
    )
    return ["## Where it looks", table(header, rows, left=2), note]


def colour_part(results: Results) -> list[str]:
    rows = []
    for name, (latents, steps, times) in COLOURS.items():
        for seed in results[name][:1]:
            epochs, seconds = seed.final("charts/epoch"), seed.final("time/elapsed")
            cells = [number(seed.final(column)) for column in (ERROR, KL, LOSS)]
            rows.append([f"z = {latents}, T = {steps}, {times} x", number(epochs), *cells, number(seconds)])
    if not rows:
        return []
    header = ["", "epochs", "squared error, unseen", "KL (nats)", "loss", "seconds of training"]
    note = (
        "Cartoons of Noto Color Emoji at 64x64, batches of 64, one attention for the three channels. The post trained "
        "an epoch of 2,400 updates on faces and proposed ten, a larger code, more steps; here the short runs have 110 "
        "updates and the long one 1,100. Squared error of the mean code's drawing, summed over 12,288 numbers."
    )
    return ["## What the colour post proposed", table(header, rows), note]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# DRAW", *bound_part(results, folder), *start_part(results, folder), *speed_part(results)]
    parts += [*patch_part(results), *colour_part(results)]
    words = {
        "drawing.gif": "Test pictures drawn again, what is read (orange) above what is written (green)",
        "drawing.png": "The same, step by step",
        "prior.gif": "New pictures on the way",
        "prior.png": "The same, step by step",
        "samples.png": "New pictures",
        "reconstructions.png": "Originals above what they are drawn to",
        "steps.png": "Patches and nats over the steps",
    }
    for key, (_, title) in SHOWN.items():
        found = [(f"{key}_{picture}", words[picture]) for picture in words if f"{key}_{picture}" in pictures]
        parts += [f"## {title}"] * bool(found)
        parts += [f"{text}:\n\n![{text}]({name})" for name, text in found]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = []
    named = {
        "draw-mnist-attention": "with attention",
        "draw-mnist-whole": "without",
        "draw-mnist-fixed": "with attention on pixels fixed once",
    }
    for name, what in named.items():
        for seed in results[name][:1]:
            epochs = f"{seed.final('charts/epoch'):.3g}"
            found.append(f"{what} <= {seed.final(LOSS):.1f} nats after {epochs} epoch{'s' * (epochs != '1')}")
    if found:
        blocks["draw-number"] = (
            f"MNIST, T = 10, binarized anew for each batch: {', '.join(found)} (published: 99.7 after 60, 93.8 after "
            "30; T = 64, on fixed pixels: 80.97) ([figures](results/draw/README.md))"
        )
    if "mnist_drawing.gif" in pictures:
        blocks["draw-picture"] = (
            '<img src="results/draw/mnist_drawing.gif" width="240" alt="Digits drawn stroke by stroke">'
        )
    return blocks
