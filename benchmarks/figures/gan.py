"""Figures and tables of gen/gan.py, for benchmarks/plot.py."""

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
    not_run,
    number,
    read_rows,
    save,
    spread,
    table,
)

FRECHET, REAL, VARIETY, ERROR = "eval/frechet", "eval/frechet_real", "eval/variety", "eval/code_error"
COLUMNS = [
    "global_step", "charts/epoch", "losses/discriminator", "losses/generator", "charts/d_real", "charts/d_fake",
    "losses/information", FRECHET, REAL, "eval/judge_accuracy", VARIETY, ERROR, "charts/SPS", "time/elapsed",
]  # fmt: skip
BATCH = 64
RUNS = {  # name -> label, colour
    "gan-mnist": ("MNIST", BLUE),
    "gan-minibatch": ("MNIST, --minibatch-discrimination", ORANGE),
    "gan-codes": ("MNIST, --codes 10 --continuous-codes 2", GREEN),
    "gan-longer-codes": ("MNIST, --codes 10 --continuous-codes 2, longer", VERMILLION),
    "gan-cifar10": ("CIFAR-10", BLUE),
    "gan-cifar10-long": ("CIFAR-10, width 128", GREEN),
    "gan-cifar10-long-minibatch": ("CIFAR-10, width 128, --minibatch-discrimination", VERMILLION),
}
PICTURES = ["progress.png", "samples.png", "sweep.png", "interpolations.png", "codes.png", "animation.gif"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Pictures per CPU second over all rows but the first, which warms up."""
    if "speed" not in name and "examples" not in name:
        return {}
    known = ~np.isnan(columns["time/elapsed"])
    steps, seconds = columns["global_step"][known], columns["time/elapsed"][known]
    return {"pictures per CPU second": float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))}


def speed(result: Result) -> float:
    return result.summary["facts"].get("pictures per CPU second", float("nan"))


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder, <run>-<picture>."""
    for run in RUNS:
        for picture in PICTURES:
            path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
            if path.exists():
                shutil.copy(path, folder / f"{run}-{picture}")
    return {path.name for run in RUNS for path in folder.glob(f"{run}-*.*")}


def distance_part(results: Results, folder: Path) -> list[str]:
    """The Frechet distance over updates, and where it ends, beside the variety and unseen real pictures."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    rows = []
    for axes, data in zip(figure.subplots(1, 2), ("mnist", "cifar10"), strict=True):
        for name, (label, color) in RUNS.items():
            if (data == "cifar10") != ("cifar10" in name):
                continue
            seeds = results[name]
            curves(axes, seeds, "global_step", FRECHET, color, label.partition(", ")[2] or "plain", scale=1 / BATCH)
            if seeds:
                cells = [spread(seed.final(column) for seed in seeds) for column in (FRECHET, REAL, VARIETY)]
                updates = number(int(seeds[0].final("global_step") / BATCH))
                rows.append([label, str(len(seeds)), updates, *cells])
        axes.set(title={"mnist": "MNIST", "cifar10": "CIFAR-10"}[data], xlabel="updates", yscale="log")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
        else:
            not_run(axes)
    figure.axes[0].set_ylabel("Frechet distance, small classifier")
    save(figure, folder / "frechet.png")
    if not rows:
        return []
    header = ["", "seeds", "updates", "Frechet distance", "unseen real pictures", "variety"]
    note = (
        "Frechet distance in the features of a small classifier that the script trains on the same set: no other "
        "number compares with it, least of all one measured with Inception. Unseen real pictures: the distance of the "
        "test set. Variety: how far a generated picture is from the nearest other "
        "one, as a share of what it is for real pictures; below 0.3 the generator is said to have collapsed."
    )
    return ["## How good, and how varied", table(header, rows), note, "![Frechet distance](frechet.png)"]


def published_part() -> list[str]:
    rows = [[row["model"], row["fid"], row["settings"]] for row in read_rows(PUBLISHED / "gan.csv")]
    note = (
        "Published on CIFAR-10, for orientation only: their distance is between features of Inception, over other "
        "numbers of samples. Our rows with 100,000 updates (gan-cifar10-long) stand in benchmark.sh and were not run."
    )
    return ["## What was published", table(["", "FID", "settings"], rows, left=3), note]


def codes_part(results: Results, folder: Path) -> list[str]:
    seeds = results["gan-codes"] + results["gan-longer-codes"]
    if not seeds:
        return []
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, color, label in (("gan-codes", GREEN, "5,700 updates"), ("gan-longer-codes", VERMILLION, "longer")):
        curves(axes, results[name], "global_step", ERROR, color, label, scale=1 / BATCH)
    axes.axhline(0.05, color=GREY, linestyle=":", label="published: 5 %")
    axes.set(
        xlabel="updates", ylabel="error on MNIST's test pictures", ylim=(0, 1), title="InfoGAN's code as a classifier"
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "code_error.png")
    updates = [number(int(seed.final("global_step") / BATCH)) for seed in seeds]
    ends = ", ".join(f"{seed.final(ERROR):.1%} after {num} updates" for seed, num in zip(seeds, updates, strict=True))
    told = spread(seed.final("losses/information") for seed in seeds)
    words = (
        f"Test pictures whose guessed code stands for another digit than theirs: {ends} (published: 5 %). "
        f"Nats that a generated picture tells of its code: {told} of 2.30. No label is used in training; a code stands "
        "for the digit that most of its training pictures are."
    )
    return ["## Ten codes, and ten digits", words, "![code error](code_error.png)"]


def speed_part(results: Results) -> tuple[list[str], str]:
    """Pictures per CPU second beside PyTorch's example, and the ratio with --bf16 in words."""
    peer = [speed(seed) for seed in results["examples-dcgan"]]
    rows, ratio = [], ""
    for label, name in (("gen/gan.py", "gan-speed-float32"), ("gen/gan.py --bf16", "gan-speed-bf16")):
        ours = [speed(seed) for seed in results[name]]
        if ours:
            quotient = f"{np.mean(ours) / np.mean(peer):.2f}" if peer else "-"
            rows.append([label, str(len(ours)), spread(ours), quotient])
            ratio = quotient if name.endswith("bf16") else ratio
    if peer:
        rows.append(["pytorch/examples, dcgan", str(len(peer)), spread(peer), "1"])
    if not rows:
        return [], ratio
    header = ["64 x 64 pixels, batches of 64, widths 64 to 512", "runs", "pictures per CPU second", "times the example"]
    note = (
        "CPU seconds of the process, one thread, from the fifth update on, measured one after another on the same "
        "machine. The gain: no gradients of D's weights while G learns, channels last, a fused optimizer, bfloat16."
    )
    return ["## Beside PyTorch's example", table(header, rows), note], ratio


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, blocks = copy_pictures(folder), {}
    beside, ratio = speed_part(results)
    parts = ["# Generative adversarial network", *distance_part(results, folder), *codes_part(results, folder)]
    shown = {
        "codes.png": "each column another code, each row other noise",
        "progress.png": "real pictures, and generated ones after 300, 900, 5,700 updates and the last",
        "sweep.png": "one coordinate in each row from -1 to 1, the others held (continuous codes first)",
        "interpolations.png": "from one noise to another",
        "animation.gif": "the same noise through the training",
    }
    for run, (label, _) in RUNS.items():
        lines = [
            f"{words}:\n\n![{words}]({run}-{name})" for name, words in shown.items() if f"{run}-{name}" in pictures
        ]
        parts += [f"## {label}", *lines] if lines else []
    parts += [*beside, *published_part()]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    facts_found = []
    if ratio:
        facts_found.append(f"{ratio} times the pictures per CPU second of PyTorch's example with `--bf16`")
    if seeds := results["gan-longer-codes"] or results["gan-codes"]:
        errors = [seed.final(ERROR) for seed in seeds]
        facts_found.append(f"the codes tell MNIST's digits apart with {min(errors):.0%} error (published: 5 %)")
    if facts_found:
        blocks["gan-number"] = f"{'; '.join(facts_found)} ([figures](results/gan/README.md))"
    if "gan-codes-codes.png" in pictures:
        source, words = "results/gan/gan-codes-codes.png", "Generated digits, in each column those of one code"
        blocks["gan-picture"] = f'<img src="{source}" width="160" alt="{words}">'
    return blocks
