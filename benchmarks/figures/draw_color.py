"""Figures and tables of gen/draw_color.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.figures.draw import animate, load_model, made_by, steps_figure
from benchmarks.plot import Results, machines, table

ERROR = "eval/squared_error"
COLUMNS = ["global_step", "charts/epoch", "losses/loss", "losses/kl", "eval/loss", "eval/kl", ERROR]
RUNS = {  # the post's proposals: row of benchmark.sh -> latents, T, epochs
    "draw-color-base": ("10", "10", "2"),
    "draw-color-z": ("100", "10", "2"),
    "draw-color-steps": ("10", "32", "2"),
    "draw-color-long": ("10", "10", "20"),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write results/draw_color/README.md and its pictures; returns the README's blocks."""
    from gen import draw_color as script

    model, test = load_model(folder, "draw-color-long", script)
    if model:
        torch.manual_seed(0)
        script.save_drawing(model, test[:4], folder / "drawing.png")
        animate(model, test[:16], folder / "drawing.gif")
        steps_figure(model, test, folder / "steps.png")
    rows, errors = [], {}
    for name, cells in RUNS.items():
        for seed in results[name]:
            errors[name] = seed.final(ERROR)
            numbers = [f"{errors[name]:.0f}", f"{seed.final('eval/kl'):.0f}", f"{seed.summary['cpu_seconds']:.0f}"]
            rows.append([*cells, *numbers, made_by(seed).removeprefix(", ")])
    header = ["latents per step", "T", "epochs", "squared error, test", "KL (nats)", "CPU seconds", ""]
    base, z, steps, long = (errors.get(name, float("nan")) for name in RUNS)
    parts = [
        "# DRAW in colour",
        "The post on DRAW in colour trained one epoch of 2,400 updates on faces at 64 x 64 and found the images "
        "blurry. It proposed to train longer, a larger code and more steps, and has no numbers. Here the cartoons of "
        "Noto Color Emoji (3,514 to train on, 385 to test on, no variants shared) stand for the faces: two epochs are "
        "110 updates. The runs of the old file were tested on 412, drawn from the mean codes.",
        "```\npython benchmarks/emoji.py gen/draw_color.py --data-dir data/emoji --epochs 20\n```",
        table(header, rows, left=0),
        f"All three proposals help. The squared error per image (12,288 numbers in [0, 1]) is {base:.0f} at first, "
        f"{z:.0f} with the larger code, {steps:.0f} with 32 steps, and {long:.0f} after ten times as many updates. "
        "One seed each.",
        "Ten steps from left to right: what is read of four test images (orange), what is written (green), and four "
        "new images from the prior:",
        "![Drawing, step by step](drawing.png)",
        "The post saw the patch shrink from the whole image to its middle, in nearly the same place for every image:",
        "![Patches over the steps](steps.png)",
        f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {
        "draw_color-number": f"cartoons, squared error {base:.0f} after 2 epochs, {long:.0f} after 20 "
        "([figures](results/draw_color/README.md))",
        "draw_color-picture": '<img src="results/draw_color/drawing.gif" width="240" alt="Cartoons, step by step">',
    }
