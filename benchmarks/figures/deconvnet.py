"""Figures and tables of gen/deconvnet.py, for benchmarks/plot.py."""

from pathlib import Path

from benchmarks import plot
from benchmarks.plot import Results

COLUMNS = ["global_step", "losses/loss", "eval/accuracy"]
COLUMNS += [f"eval/{fact}_{layer}" for layer in (1, 2) for fact in ("correlation", "likeness", "dead")]
WORDS = (
    "ten features of layer 1, then of layer 2: the image that activates each most, its projection with switches, copies"
)
PICTURES = {"deconvnet-cifar10.png": ("deconvnet-cifar10", "features.png", WORDS)}
PICTURES |= {  # of the longer file
    f"old_features{layer}.png": ("", "", f"An image of CIFAR-10 and all features of layer {layer}") for layer in (1, 2)
}


def each(column: str, form: str):
    """A column of the table: one figure per seed."""
    return lambda seeds: " / ".join(form.format(seed.final(f"eval/{column}")) for seed in seeds)


def draw(results: Results, folder: Path) -> dict[str, str]:
    columns = {
        "seeds": plot.count,
        "epochs": lambda seeds: f"{seeds[0].final('global_step') / 50_000:.0f}",
        "test accuracy": each("accuracy", "{:.2%}"),
        "correlation, layer 1": each("correlation_1", "{:.2f}"),
        "correlation, layer 2": each("correlation_2", "{:.2f}"),
        "likeness, layer 1": each("likeness_1", "{:.2f}"),
        "likeness, layer 2": each("likeness_2", "{:.2f}"),
        "dead of 32, 64": lambda seeds: plot.number(seeds[0].final("eval/dead_1") + seeds[0].final("eval/dead_2")),
        "CPU seconds": lambda seeds: " / ".join(plot.cpu([seed]) for seed in seeds),
    }
    seeds = results["deconvnet-cifar10"]
    return {
        "table": plot.beside("", {"CIFAR-10": seeds}, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"CIFAR-10 {100 * plot.mean(seed.final('eval/accuracy') for seed in seeds):.1f} %",
    }
