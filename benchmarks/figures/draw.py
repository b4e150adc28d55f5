"""Figures and tables of gen/draw.py, for benchmarks/plot.py."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
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

COLUMNS = ["global_step", "charts/epoch", "losses/loss", "losses/kl", "eval/loss", "eval/kl", "time/elapsed"]
OLD_CODE = "7b0c269"  # runs that were made by the file as it was at this commit say so
MNIST = {  # row of benchmark.sh -> attention, T, binarization, colour
    "draw-mnist-attention": ("yes", "10", "dynamic", BLUE),
    "draw-mnist-whole": ("no", "10", "dynamic", GREEN),
    "draw-mnist-fixed": ("yes", "10", "static", ORANGE),
    "draw-full-attention": ("yes", "10", "dynamic", BLUE),
    "draw-full-whole": ("no", "10", "dynamic", GREEN),
    "draw-paper": ("yes", "64", "static", VERMILLION),
}
STARTS = {  # row -> label, colour
    "draw-start-default": ("draw.py: filters overlap, canvas at the mean image", BLUE),
    "draw-start-canvas": ("filters overlap, canvas at zero", SKY),
    "draw-start-filters": ("filters at zero, canvas at the mean image", ORANGE),
    "draw-start-both": ("filters and canvas at zero", VERMILLION),
    "draw-start-plain": ("plain code (benchmarks/peers/plain_draw.py)", GREY),
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of an update in the 20 that neighbours disturbed least."""
    if "start" not in name:
        return {}
    return {"seconds of an update": float((np.diff(columns["time/elapsed"]) / 20).min())}


def made_by(result: Result) -> str:
    """A remark on runs of the code before it was rewritten, whose commands had other flags."""
    old = any(flag in result.summary["command"] for flag in ("--torch-threads", "--dataset emoji"))
    return f", made by the file at commit {OLD_CODE}" if old else ""


def load_model(folder: Path, run: str, module) -> tuple:
    """The trained model of a finished run and its test images, None where the run's folder is not there any more."""
    run_dir = folder.parents[1] / "runs" / "benchmark" / run / "seed1"
    if not (run_dir / "model.pt").exists() or not (run_dir / "args.json").exists():
        return None, None
    saved = json.loads((run_dir / "args.json").read_text())
    args = module.Args(**saved)
    _, test = module.load_images(args)
    model = module.DRAW(args, test[0])
    model.load_state_dict(torch.load(run_dir / "model.pt", weights_only=True)["model"])
    return model, test


@torch.no_grad()
def animate(model, images: torch.Tensor | None, path: Path):
    """A gif of 16 canvases, step by step, with the patch that is written: these images [16, c, s, s], or new ones."""
    from PIL import Image, ImageDraw

    torch.manual_seed(0)
    drawing, scale, frames = model(16, images), 2 if model.size > 40 else 3, []
    side = model.size * scale + 2
    for canvas, grid in zip(drawing.canvases, drawing.writes, strict=True):
        frame = Image.new("RGB", (4 * side, 4 * side), "grey")
        for i in range(16):
            pixels = (canvas[i].sigmoid() * 255).byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels).resize((side - 2, side - 2), Image.Resampling.NEAREST)
            if grid is not None:
                (x, y), half = grid.centre[i].tolist(), (grid.F_x.shape[1] - 1) / 2 * grid.stride[i].item()
                box = [(v - 0.5) * scale for v in (x - half, y - half, x + half, y + half)]
                ImageDraw.Draw(tile).rectangle(box, outline="limegreen", width=2)
            frame.paste(tile, (i % 4 * side + 1, i // 4 * side + 1))
        frames.append(frame)
    pauses = [max(60, 3000 // len(frames))] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pauses, loop=0)


@torch.no_grad()
def steps_figure(model, images: torch.Tensor, path: Path):
    """Width and centre of the patches and nats told at each step: mean and standard deviation over images."""
    torch.manual_seed(0)
    drawing, panels = model(len(images), images), Figure(figsize=(12, 3.6), layout="constrained").subplots(1, 3)

    def band(axes, values: torch.Tensor, label: str | None, color: str, style: str = "-"):
        mean, std, x = values.mean(1).numpy(), values.std(1).numpy(), np.arange(1, len(values) + 1)
        axes.plot(x, mean, label=label, color=color, linestyle=style)
        axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)

    for grids, name, color in ((drawing.reads, "read", ORANGE), (drawing.writes, "written", GREEN)):
        if grids[0] is not None:
            band(panels[0], torch.stack([(grid.F_x.shape[1] - 1) * grid.stride for grid in grids]), name, color)
            centres = torch.stack([grid.centre for grid in grids])
            band(panels[1], centres[:, :, 0], f"{name}, x", color)
            band(panels[1], centres[:, :, 1], f"{name}, y", color, "--")
    band(panels[2], torch.stack(drawing.kl), None, BLUE)
    for axes, label in zip(panels, ("patch's width (pixels)", "patch's centre (pixels)", "KL (nats)"), strict=True):
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.25)
    for axes in panels[:2]:
        axes.legend(frameon=False, fontsize=8)
    save(panels[0].figure, path)


def bound_part(results: Results, folder: Path) -> list[str]:
    axes, rows = Figure(figsize=(6.5, 4.2), layout="constrained").subplots(), []
    for name, (attention, steps, binarized, color) in MNIST.items():
        if not results[name]:
            continue
        curves(axes, results[name], "charts/epoch", "eval/loss", color, f"attention: {attention}, {binarized} pixels")
        for seed in results[name]:
            cells = [f"{seed.final(key):.2f}" for key in ("eval/loss", "eval/kl")]
            epochs, seconds = f"{seed.final('charts/epoch'):.0f}", f"{seed.summary['cpu_seconds']:,.0f}"
            rows.append([f"draw.py{made_by(seed)}", attention, steps, binarized, epochs, *cells, seconds])
    for theirs in read_rows(PUBLISHED / "draw.csv"):
        cells = [theirs[key] for key in ("attention", "steps", "binarization")]
        rows.append([theirs["model"], *cells, theirs["epochs"] or "not stated", theirs["bound"], "-", "-"])
        axes.axhline(float(theirs["bound"]), color=GREY, linestyle=":", linewidth=0.8)
        text = f"{theirs['model']}, attention: {theirs['attention']}, {theirs['epochs'] or '?'} epochs"
        axes.text(0.99, float(theirs["bound"]), text, transform=axes.get_yaxis_transform(), ha="right", fontsize=7)
    axes.set(xlabel="epochs", ylabel="bound on -log p(x), test (nats)", ylim=(78, 150), title="Binarized MNIST")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "bound.png")
    header = ["one seed each", "attention", "T", "pixels", "epochs", "test bound (nats)", "of it KL", "CPU seconds"]
    return [table(header, rows, left=4), "![The bound over epochs](bound.png)"]


def start_part(results: Results, folder: Path) -> list[str]:
    axes, rows = Figure(figsize=(6.5, 4.2), layout="constrained").subplots(), []
    for name, (label, color) in STARTS.items():
        curves(axes, results[name], "global_step", "losses/loss", color, label, scale=1 / 128)
        for seed in results[name]:
            at = [number(seed.at(updates * 128, "losses/loss")) for updates in (100, 200, 400)]
            seconds = seed.summary["facts"].get("seconds of an update", math.nan)
            rows.append([label + made_by(seed), *at, number(1000 * seconds)])
    if not rows:
        return []
    axes.axhline(206, color=GREY, linestyle=":", linewidth=0.8)
    axes.text(0.99, 207, "independent pixels: 206", transform=axes.get_yaxis_transform(), ha="right", fontsize=7)
    axes.set(xlabel="updates", ylabel="training bound (nats)", ylim=(140, 300), title="T = 10, 2 x 2 filters read")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    save(axes.figure, folder / "start.png")
    header = ["start", "bound at 100 updates", "at 200", "at 400", "CPU ms per update"]
    words = (
        "Independent pixels, each as bright as on average, cost 206 nats. With all biases of the attention at 0, as in "
        "most code, the four filters that read are a pixel wide and 27 pixels apart: they see the corners, black in "
        "nearly every digit, so the codes carry nothing and only the mean image is learned."
    )
    return ["## How learning starts", table(header, rows), words, "![The first updates](start.png)"]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write results/draw/README.md and its pictures; returns the README's blocks."""
    from gen import draw as script

    for run, name in (("draw-mnist-attention", "mnist"), ("draw-mnist-whole", "whole")):
        model, test = load_model(folder, run, script)
        if model:
            torch.manual_seed(0)
            script.save_drawing(model, test[:4].bernoulli(), folder / f"{name}_drawing.png")
            animate(model, test[:16].bernoulli(), folder / f"{name}_drawing.gif")
            if name == "mnist":
                steps_figure(model, test[:500].bernoulli(), folder / "mnist_steps.png")
    best = {name: results[name][0] for name in ("draw-mnist-attention", "draw-mnist-whole") if results[name]}
    with_, without = (best[name].final("eval/loss") if name in best else math.nan for name in best)
    parts = [
        "# DRAW",
        "[Gregor et al. 2015](https://arxiv.org/abs/1502.04623) draw an image in T steps with a recurrent variational "
        "autoencoder and report a bound of 80.97 nats on binarized MNIST with attention (T = 64). The other published "
        "numbers are of a re-implementation with T = 10 (Wakeford et al. 2025).",
        "```\npython gen/draw.py --dataset mnist --epochs 12\npython gen/draw.py --dataset mnist --epochs 12 "
        "--no-attention\n```",
        *bound_part(results, folder),
        f"At T = 10, attention does not pay on MNIST: {with_:.1f} nats with it, {without:.1f} without, after the same "
        "12 epochs; the re-implementation sees the same order. Not run here: the paper's 80.97 (T = 64 for 100 epochs, "
        "row `draw-paper`, for a GPU) and 60 epochs at T = 10 (rows `draw-full-*`).",
        *start_part(results, folder),
        "## What it draws",
        "Ten steps from left to right: what is read of four test images (orange), what is written (green), and new "
        f"images from the prior (not in pictures of the file at commit {OLD_CODE}, which alternate the first two).",
        "![With attention](mnist_drawing.png)",
        "The same without attention; every step sees and changes all pixels:",
        "![Without attention](whole_drawing.png)",
        "Where it looks, over 500 test images. As the post saw, the first patch takes in nearly everything, later ones "
        "less, and its place depends little on the image:",
        "![Patches over the steps](mnist_steps.png)",
        f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    return {
        "draw-number": f"MNIST, T = 10: <= {with_:.1f} nats with attention, {without:.1f} without (T = 64: 80.97)",
        "draw-picture": '<img src="results/draw/mnist_drawing.gif" width="240" alt="Digits drawn step by step">',
    }
