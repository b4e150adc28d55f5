"""Figures and tables of gen/flow_2d.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

NLL, ABOVE = "eval/nll", "eval/above_source"
COLUMNS = ["global_step", NLL, ABOVE, "charts/SPS"]
SOURCES = ["moons", "rings", "spirals", "gaussians"]
PICTURES = {f"{name}.png": (f"flow-{name}", "density.png", name) for name in SOURCES}


def draw(results: Results, folder) -> dict[str, str]:
    ours = {name: results[f"flow-{name}"] for name in SOURCES}
    with plot.figure(folder / "above_source.png") as (axes,):
        words = {"xlabel": "million points", "ylabel": "nats above the source", "yscale": "log"}
        plot.panel(axes, ours, "global_step", ABOVE, scale=1e-6, **words)
    columns = {
        "seeds": plot.count,
        "-log p(x), nats": NLL,
        "above the source: mean": lambda seeds: f"{plot.mean(seed.final(ABOVE) for seed in seeds):.3f}",
        "worst seed": lambda seeds: f"{max(seed.final(ABOVE) for seed in seeds):.3f}",
        "CPU seconds": plot.cpu,
    }
    return {
        "table": plot.beside("source", ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"two moons {plot.mean(seed.final(ABOVE) for seed in ours['moons']):.3f} nats above entropy",
    }
