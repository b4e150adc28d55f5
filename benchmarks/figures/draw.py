"""Figures and tables of gen/draw.py, for benchmarks/plot.py; draw_color.py's pictures are made by the same code."""

import json

import numpy as np
import torch

from benchmarks import plot
from benchmarks.plot import Results

LOSS, KL = "eval/loss", "eval/kl"
COLUMNS = ["global_step", "losses/loss", LOSS, KL, "time/elapsed"]
MNIST = {  # row of benchmark.sh: attention, T, binarization
    "draw-mnist-attention": ("yes", "10", "dynamic"),
    "draw-mnist-whole": ("no", "10", "dynamic"),
    "draw-mnist-fixed": ("yes", "10", "static"),
    "draw-full-attention": ("yes", "10", "dynamic"),
    "draw-full-whole": ("no", "10", "dynamic"),
    "draw-paper": ("yes", "64", "static"),
}
PICTURES = {
    "mnist_drawing.png": ("draw-mnist-attention", "drawing.png", "with attention"),
    "whole_drawing.png": ("draw-mnist-whole", "drawing.png", "without attention"),
}
STARTS = {
    "draw.py: filters overlap, canvas at the mean image": "draw-start-default",
    "filters overlap, canvas at zero": "draw-start-canvas",
    "filters at zero, canvas at the mean image": "draw-start-filters",
    "filters and canvas at zero": "draw-start-both",
}


def load_model(folder, run: str, module) -> tuple:
    """The trained model of a finished run and its test images, None where the run's folder is not there any more."""
    run_dir = folder.parents[1] / "runs" / "benchmark" / run / "seed1"
    if not (run_dir / "model.pt").exists():
        return None, None
    args = module.Args(**json.loads((run_dir / "args.json").read_text()))
    _, test = module.load_images(args)
    model = module.DRAW(args, test[0])
    model.load_state_dict(torch.load(run_dir / "model.pt", weights_only=True)["model"])
    torch.manual_seed(0)
    return model, test


@torch.no_grad()
def steps_figure(model, images: torch.Tensor, path):
    """Width and centre of the patches and nats told at each step: mean and standard deviation over images."""
    _, told, reads, writes = model(len(images), images)

    def line(axes, values: torch.Tensor, label: str | None, color: str, style: str = "-"):
        mean, std, x = values.mean(1).numpy(), values.std(1).numpy(), np.arange(1, len(values) + 1)
        axes.plot(x, mean, label=label, color=color, linestyle=style)
        axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)

    with plot.figure(path, columns=3, size=(12, 3.6)) as (width, centre, kl):
        for places, name, color in ((reads, "read", plot.ORANGE), (writes, "written", plot.GREEN)):
            if places:
                x, y = torch.stack(places).unbind(2)  # of the filters [T, n, N]
                line(width, x[..., -1] - x[..., 0], name, color)
                line(centre, x.mean(2), f"{name}, x", color)
                line(centre, y.mean(2), f"{name}, y", color, "--")
        line(kl, torch.stack(told), None, plot.BLUE)
        for axes, label in ((width, "patch's width (pixels)"), (centre, "patch's centre (pixels)"), (kl, "KL (nats)")):
            axes.set(xlabel="step", ylabel=label)


def draw(results: Results, folder) -> dict[str, str]:
    from gen import draw as script

    plot.pictures(folder, PICTURES)
    model, test = load_model(folder, "draw-mnist-attention", script)
    if model:
        steps_figure(model, test[:500].bernoulli(), folder / "mnist_steps.png")
    ours = {("draw.py", *cells): seeds for name, cells in MNIST.items() if (seeds := results[name])}
    keys = ("model", "attention", "steps", "binarization", "epochs", "bound")
    published = [[*(row[key] or "not stated" for key in keys), "-", "-"] for row in plot.published("draw")]
    with plot.figure(folder / "bound.png", size=(6.5, 4.2)) as (axes,):
        shown = {f"T = {cells[2]}, attention: {cells[1]}, {cells[3]} pixels": seeds for cells, seeds in ours.items()}
        levels = {"Gregor et al. 2015, T = 64, attention: 80.97": 80.97}
        words = {"xlabel": "epochs", "ylabel": "bound on -log p(x), test (nats)", "title": "Binarized MNIST"}
        plot.panel(axes, shown, "global_step", LOSS, levels, scale=1 / 60_000, **words)
    columns = {
        "epochs": plot.column("global_step", ".0f", 1 / 60_000),
        "test bound (nats)": plot.column(LOSS, ".2f"),
        "of it KL": plot.column(KL, ".2f"),
        "CPU seconds": plot.cpu,
    }
    with plot.figure(folder / "start.png", size=(6.5, 4.2)) as (axes,):
        starts, levels = {label: results[name] for label, name in STARTS.items()}, {"independent pixels: 206": 206}
        words = {"xlabel": "updates", "ylabel": "training bound (nats)", "title": "T = 10, 2 x 2 filters read"}
        plot.panel(axes, starts, "global_step", "losses/loss", levels, scale=1 / 128, ylim=(140, 300), **words)
    with_, without = (f"{results[f'draw-mnist-{way}'][0].final(LOSS):.1f}" for way in ("attention", "whole"))
    return {
        "table": plot.beside(("one seed each", "attention", "T", "pixels"), ours, columns, published),
        "with": with_,
        "without": without,
        "number": f"MNIST, T = 10: <= {with_} nats with attention, {without} without (T = 64: 80.97)",
    }
