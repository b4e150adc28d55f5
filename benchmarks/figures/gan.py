"""Figures and tables of gen/gan.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "charts/SPS",
    "eval/diversity", "eval/frechet", "eval/frechet_real", "eval/judge_accuracy", "time/elapsed",
]  # fmt: skip
RUNS = {"gan-mnist": "MNIST", "gan-cifar10": "CIFAR-10", "gan-cifar10-long": "CIFAR-10, longer"}
SPEED = {
    "gen/gan.py": "gan-speed-float32",
    "gen/gan.py --bf16": "gan-speed-bf16",
    "pytorch/examples, dcgan": "examples-dcgan",
}
WORDS = "images from the same noise, a row for every 300 updates (the longer run: 5,000)"
PICTURES = {f"{row}.png": (row, "samples.png", f"{data}: {WORDS}") for row, data in RUNS.items()}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Images per CPU second over all rows but the first, which warms up."""
    if name == "examples-dcgan":
        known = ~np.isnan(columns["time/elapsed"])
        steps, seconds = columns["global_step"][known], columns["time/elapsed"][known]
        return {"pictures per CPU second": float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))}
    if "speed" in name:  # every row counts as many images
        return {"pictures per CPU second": float(1 / (1 / columns["charts/SPS"][1:]).mean())}
    return {}


def speeds(seeds: list[Result]) -> list[float]:
    return [seed.facts["pictures per CPU second"] for seed in seeds]


def draw(results: Results, folder) -> dict[str, str]:
    samples = {
        "seeds": plot.count,
        "updates": lambda seeds: f"{seeds[0].final('global_step'):,.0f}",
        "Frechet distance": "eval/frechet",
        "of test images": "eval/frechet_real",
        "diversity": "eval/diversity",
    }
    peer = plot.mean(speeds(results["examples-dcgan"]))
    columns = {
        "runs": plot.count,
        "images per CPU second": lambda seeds: plot.spread(speeds(seeds)),
        "times the example": lambda seeds: f"{plot.mean(speeds(seeds)) / peer:.2f}",
    }
    published = [[row["model"], row["fid"], row["settings"]] for row in plot.published("gan")]
    faster = columns["times the example"](results["gan-speed-bf16"])
    programs = {label: results[name] for label, name in SPEED.items()}
    return {
        "samples": plot.beside("", {label: results[name] for name, label in RUNS.items()}, samples),
        "pictures": plot.pictures(folder, PICTURES),
        "speed": plot.beside("64 x 64 pixels, batches of 64, widths 64 to 512", programs, columns),
        "published": plot.table(["", "FID", "settings"], published, left=3),
        "number": f"{faster} times the images per CPU second of PyTorch's example with `--bf16`",
    }
