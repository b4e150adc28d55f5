"""Figures and tables of gen/flow_2d.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREEN, ORANGE, VERMILLION, Results, curves, machines, save, spread, table

NLL, ABOVE, ERROR = "eval/nll", "eval/above_source", "eval/inversion_error"
COLUMNS = ["global_step", "losses/nll", NLL, ABOVE, ERROR, "charts/SPS"]
SOURCES = {"moons": BLUE, "rings": ORANGE, "spirals": GREEN, "gaussians": VERMILLION}


def facts(name: str, columns: dict) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's blocks."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, rows, pictures, old = figure.subplots(), [], [], False
    for name, color in SOURCES.items():
        seeds = results[f"flow-{name}"]
        curves(axes, seeds, "global_step", ABOVE, color, name)
        if not seeds:
            continue
        made_before = any("gen/realnvp.py" in seed.summary["command"] for seed in seeds)
        old |= made_before
        above = [seed.final(ABOVE) for seed in seeds]
        cells = [spread([seed.final(NLL) for seed in seeds]), f"{np.mean(above):.3f}", f"{max(above):.3f}"]
        cells.append(spread([seed.summary["cpu_seconds"] for seed in seeds]))
        rows.append([name + (" *" if made_before else ""), str(len(seeds)), *cells])
        path = folder.parent.parent / "runs" / "benchmark" / f"flow-{name}" / "seed1" / "density.png"
        if path.exists():
            shutil.copy(path, folder / f"{name}.png")
        if (folder / f"{name}.png").exists():
            pictures.append(f"![{name}]({name}.png)")
    axes.set(xlabel="points", ylabel="nats above the source", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "above_source.png")
    header = ["source", "seeds", "-log p(x), nats", "above the source: mean", "worst seed", "CPU seconds"]
    parts = [
        "# RealNVP in the plane",
        "What affine couplings ([Dinh et al. 2016](https://arxiv.org/abs/1605.08803)) lose on densities that are known "
        "exactly. The paper has no such numbers.",
        "    ./benchmark.sh flow_2d",
        "![nats above the source](above_source.png)",
        table(header, rows),
        "Above the source: mean of log q(x) - log p(x) over 10,000 new points of the source q, an estimate of the KL "
        "divergence. The moons take 12 couplings and a million points; the others 24 couplings, larger batches and "
        "shorter gradients. Separate Gaussians are the hardest: thin filaments connect them.",
    ]
    if old:
        parts.append("\\* made by gen/realnvp.py at commit 7b0c269, from 50,000 points used again in each epoch.")
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, *pictures, f"Measured on: {machines(used)}."]) + "\n")
    blocks = {}
    if seeds := results["flow-moons"]:
        blocks["flow_2d-number"] = f"two moons {np.mean([seed.final(ABOVE) for seed in seeds]):.3f} nats above entropy"
    if (folder / "moons.png").exists():
        blocks["flow_2d-picture"] = '<img src="results/flow_2d/moons.png" width="400" alt="Two moons as a warped grid">'
    return blocks
