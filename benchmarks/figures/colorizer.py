"""Figures and tables of gen/colorizer.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Result,
    Results,
    curves,
    machines,
    number,
    ratios,
    save,
    spread,
    table,
)

MEASURES = ["l1", "ab", "perceptual"]
TRIED, BASELINES = ["full", "empty", "messy"], ["bleached", "blur", "grey"]
COLUMNS = [
    "global_step", "charts/epoch", "losses/error", "losses/deceive", "losses/detect", "losses/l1", "eval/l1", "eval/ab",
    "eval/perceptual", "eval/judge_accuracy", *(f"eval/{name}_{key}" for name in TRIED + BASELINES for key in MEASURES),
    "charts/learning_rate", "time/elapsed", "time/picture",
]  # fmt: skip
PICTURES = {  # which run's pictures are shown: name in results/colorizer/ -> run, its picture, what it shows
    "first.png": (
        "colorizer-first",
        "training.png",
        "The post's first network: squared error, no skips, no hint. Original, lines, result through time",
    ),
    "no_hint.png": (
        "colorizer-no-hint",
        "training.png",
        "An adversary and skips, no hint. Original, lines, result through time",
    ),
    "inputs.png": ("colorizer-holes", "inputs.png", "Original, lines, blur, squares and blur, bleached as in use"),
    "blur.png": ("colorizer-blur", "training.png", "Trained on blurs. Original, lines, hint, result through time"),
    "blur_hints.png": (
        "colorizer-blur",
        "hints.png",
        "Trained on blurs. Original, lines, full hint, its result, result of an empty hint, strokes, their result",
    ),
    "holes.png": (
        "colorizer-holes",
        "training.png",
        "Trained with squares. Original, lines, hint, result through time",
    ),
    "holes_hints.png": (
        "colorizer-holes",
        "hints.png",
        "Trained with squares. Original, lines, full hint, its result, result of an empty hint, strokes, their result",
    ),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Pictures per CPU second of the fastest row but the first, which warms up, where speed is measured."""
    if "speed" not in name and name != "plain-pix2pix":
        return {}
    rates = np.diff(columns["global_step"]) / np.diff(columns["time/elapsed"])
    return {"pictures per second": float(rates.max())} if len(rates) else {}


def rate(result: Result) -> float:
    return result.summary["facts"].get("pictures per second", math.nan)


def copy_pictures(folder: Path) -> set[str]:
    """From the runs, where they are still there -> the names of those in the folder."""
    for name, (run, picture, _) in PICTURES.items():
        path = folder.parent.parent / "runs" / "benchmark" / run / "seed1" / picture
        if path.exists():
            shutil.copy(path, folder / name)
    return {name for name in PICTURES if (folder / name).exists()}


def cells(seeds: list[Result], prefix: str = "") -> list[str]:
    """L1, Lab's a and b, the judge's distance."""
    found = [[seed.final(f"eval/{prefix}{key}") for seed in seeds] for key in MEASURES]
    return [f"{np.mean(values):.{digits}f}" if values else "-" for values, digits in zip(found, (4, 2, 4), strict=True)]


def results_part(results: Results, folder: Path) -> list[str]:
    """What the two models reach on unseen pictures, beside the baselines, over epochs and at the end."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    runs = [
        ("trained with squares", ORANGE, "colorizer-holes"),
        ("trained on blurs", BLUE, "colorizer-blur"),
        ("trained with squares, longer", GREEN, "colorizer-holes-longer"),
    ]
    if not any(results[name] for _, _, name in runs):
        return []
    rows = []
    for axes, key, label in zip(figure.subplots(1, 2), ("l1", "ab"), ("L1", "error in Lab a and b"), strict=True):
        for name, color, run in runs:
            curves(axes, results[run], "charts/epoch", f"eval/{key}", color, name)
        some = next(results[run] for _, _, run in runs if results[run])[0]
        for baseline, words, style in (("blur", "the blur itself", "--"), ("grey", "luminance only", ":")):
            axes.axhline(some.final(f"eval/{baseline}_{key}"), color=GREY, linestyle=style, label=words)
        axes.set(xlabel="epochs", ylabel=label, title="unseen cartoons, 128 pixels", ylim=(0, None))
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    save(figure, folder / "learning.png")
    for name, _, run in runs:
        rows.append([name, *cells(results[run])])
    for words, baseline in (
        ("the blur itself", "blur"),
        ("the bleached blur", "bleached"),
        ("luminance only", "grey"),
    ):
        rows.append([words, *cells([some], f"{baseline}_")])
    saved = []
    for name, _, run in runs:
        if seeds := results[run]:
            less = np.mean([1 - seed.final("eval/ab") / seed.final("eval/blur_ab") for seed in seeds])
            spent = np.mean([seed.final("time/elapsed") for seed in seeds]) / 60
            saved.append(f"{name}: {100 * less:.0f} % less error in a and b than the blur, {spent:.1f} CPU minutes")
    header = ["unseen cartoons, 128 pixels, full hint", "L1", "Lab a, b", "distance in the judge's features"]
    note = (
        "Means over the test pictures that are farther than .05 (rms luminance) from every training picture. Lab a, b: "
        "distance in the plane of a and b. The judge is a small classifier that learned which training picture a crop "
        f"is from. {'; '.join(saved)}."
    )
    return ["## On unseen pictures", table(header, rows), note, "![learning](learning.png)"]


def hints_part(results: Results) -> list[str]:
    """The experiment that decides for the squares."""
    rows = []
    for name, run in (("trained with squares", "colorizer-holes"), ("trained on blurs", "colorizer-blur")):
        if seeds := results[run]:
            rows += [[name, hint, *cells(seeds, f"{hint}_")] for hint in TRIED]
    header = ["model", "hint in use", "L1", "Lab a, b", "distance in the judge's features"]
    return ["## What a full, an empty and a messy hint become", table(header, rows, left=2)] if rows else []


def speed_part(results: Results) -> list[str]:
    """Training pictures per CPU second beside plain code, and seconds to paint one."""
    plain, rows = results["plain-pix2pix"], []
    for label, name in (
        ("`gen/colorizer.py --bf16`", "colorizer-speed-bf16"),
        ("`gen/colorizer.py`", "colorizer-speed-float32"),
        ("plain code (`benchmarks/peers/plain_pix2pix.py`)", "plain-pix2pix"),
    ):
        seeds = results[name]
        faster = spread(ratios(seeds, plain, rate)) if seeds is not plain else "1"
        rows.append([label, spread(map(rate, seeds)), faster, spread(seed.final("time/picture") for seed in seeds)])
    if all(row[1] == "-" for row in rows):
        return []
    header = ["256 pixels, batches of 4, pix2pix's layers", "pictures per CPU second", "times plain", "s to paint one"]
    return ["## Speed of training on one core", table(header, rows)]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    pictures, blocks = copy_pictures(folder), {}
    parts = ["# Colorizer", *results_part(results, folder), *hints_part(results), *speed_part(results)]
    parts += ["## The post's figures, redrawn on cartoons"]
    for name, (_, _, words) in PICTURES.items():
        if name in pictures:
            parts += [f"{words}:", f"![{words}]({name})"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = []
    for words, run in (("trained on blurs", "colorizer-blur"), ("with squares", "colorizer-holes")):
        if seeds := results[run]:
            ours, hint = (number(np.mean([seed.final(f"eval/{key}") for seed in seeds])) for key in ("ab", "blur_ab"))
            found.append(f"{ours} {words}")
    if found:
        theirs = f"the blurred hint itself: {hint}"
        blocks["colorizer-number"] = f"error in Lab a and b on unseen cartoons: {', '.join(found)} ({theirs})"
    if "holes_hints.png" in pictures:
        words = "Cartoons, their lines, hints and results"
        blocks["colorizer-picture"] = f'<img src="results/colorizer/holes_hints.png" width="240" alt="{words}">'
    return blocks
