"""Figures and tables of gen/colorizer.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.draw import OLD_CODE, made_by
from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
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

RUNS = {  # row of benchmark.sh -> what it is, colour
    "colorizer-first": ("squared error, no skips, no hint", GREY),
    "colorizer-none": ("adversary and skips, no hint", PURPLE),
    "colorizer-blur": ("hint: the blurred image", BLUE),
    "colorizer-holes": ("hint: squares whited out, then blurred", ORANGE),
}
OLD_COLUMNS = (
    "image, lines, full hint, its result, result of an empty hint, strokes, their result (made by the file at commit "
    f"{OLD_CODE}, with half that weight of L1)"
)
COLUMNS = [
    "global_step", "charts/epoch", "losses/error", "losses/adversarial", "losses/discriminator", "eval/l1", "eval/ab",
    "eval/empty_hint_l1", "eval/empty_hint_ab", "eval/blur_l1", "eval/blur_ab", "time/elapsed",
]  # fmt: skip


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Images per CPU second of the fastest update, where speed is measured."""
    if name not in ("colorizer-speed", "plain-pix2pix"):
        return {}
    return {"images per second": float((np.diff(columns["global_step"]) / np.diff(columns["time/elapsed"])).max())}


def empty_hint(result: Result, key: str) -> float:
    """The error with white paper for a hint; before the rewriting its column had another name."""
    return result.final(f"eval/empty_{key}" if made_by(result) else f"eval/empty_hint_{key}")


def rate(result) -> float:
    return result.summary["facts"].get("images per second", math.nan)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write results/colorizer/README.md and its pictures; returns the README's blocks."""
    axes, rows, errors, pictures = Figure(figsize=(6.5, 4), layout="constrained").subplots(), [], {}, []
    for name, (label, color) in RUNS.items():
        curves(axes, results[name], "charts/epoch", "eval/ab", color, label)
        for seed in results[name]:
            errors[name] = seed.final("eval/ab")
            empty = [empty_hint(seed, key) for key in ("l1", "ab")]
            cells = [f"{seed.final('eval/l1'):.3f}", f"{errors[name]:.1f}", *map(number, empty)]
            rows.append([label + made_by(seed), *cells, f"{seed.summary['cpu_seconds']:,.0f}"])
        run = folder.parents[1] / "runs" / "benchmark" / name / "seed1"
        if (run / "samples.png").exists():
            shutil.copy(run / "samples.png", folder / f"{name}.png")
        for file, columns in (
            (f"{name}.png", "image, lines, blurred image, painted with the full hint, painted with an empty hint"),
            (name.replace("colorizer-", "old_") + ".png", OLD_COLUMNS),
        ):
            if (folder / file).exists():
                pictures += [f"{label[0].upper()}{label[1:]}. From left to right: {columns}.", f"![{label}]({file})"]
                break
    known = next(seed for seeds in results.all.values() for seed in seeds if seed.final("eval/blur_ab") > 0)
    rows.append(
        ["the blurred image itself", f"{known.final('eval/blur_l1'):.3f}", f"{known.final('eval/blur_ab'):.1f}"]
    )
    rows[-1] += ["-", "-", "-"]
    axes.axhline(known.final("eval/blur_ab"), color=GREEN, linestyle=":", label="the blurred image itself")
    axes.set(xlabel="epochs", ylabel="error in Lab's a and b, test", ylim=(0, None), title="Cartoons")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "learning.png")
    header = ["cartoons, one seed each", "L1", "Lab a, b", "L1, empty hint", "Lab a, b, empty hint", "CPU seconds"]
    speeds, plain = results["colorizer-speed"], results["plain-pix2pix"]
    parts = [
        "# Colorizer",
        "The post on deepcolor reports pictures and no numbers: a network trained with the squared error paints no "
        "colour, an adversary and skip connections paint the wrong ones, a blurred hint makes it accurate but "
        "dependent on the hint, and squares whited out of the hint make it complete what a person leaves out.",
        "```\npython benchmarks/emoji.py gen/colorizer.py --data-dir data/emoji --width 32 --epochs 3\n```",
        table(header, rows),
        "![Error in colour over epochs](learning.png)",
        "An empty hint is white paper: what the network makes of the lines alone. The loss is pix2pix's, 100 times L1 "
        "of images in [-1, 1] beside the adversarial loss; L1 in the table is of images in [0, 1]. Runs of the file at "
        f"commit {OLD_CODE} had half that weight, and those with a hint were of 128 pixels.",
    ]
    if speeds:
        words = f"{spread(map(rate, speeds))} images per CPU second at 256 pixels in batches of 4"
        parts.append(f"Speed: {words}, {spread(ratios(speeds, plain, rate))} times plain pix2pix code.")
    parts += [
        *pictures,
        "Not run here: the post's network at 256 pixels for 100 epochs (rows `colorizer-*-long`, for a GPU).",
        f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    names = {"colorizer-blur": "from blurs", "colorizer-holes": "with squares"}
    found = [f"{errors[name]:.1f} {words}" for name, words in names.items() if name in errors]
    picture = next(name for name in ("colorizer-holes.png", "old_holes.png") if (folder / name).exists())
    return {
        "colorizer-number": f"error in Lab a and b on unseen cartoons: {', '.join(found)}",
        "colorizer-picture": f'<img src="results/colorizer/{picture}" width="240" alt="Lines, hints and results">',
    }
