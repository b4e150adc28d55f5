"""Figures and tables of gen/deconvnet.py, for benchmarks/plot.py."""

from pathlib import Path

from benchmarks import plot
from benchmarks.plot import Results

COLUMNS = [
    "global_step", "charts/epoch", "losses/loss", "eval/accuracy", "eval/correlation_1", "eval/likeness_1",
    "eval/dead_1", "eval/correlation_2", "eval/likeness_2", "eval/dead_2",
]  # fmt: skip
RUNS = {"deconvnet-cifar10": ("CIFAR-10", "70 %"), "deconvnet-mnist": ("MNIST", "98.5 %")}  # row: data, bar
WORDS = (
    "ten features of layer 1, then of layer 2: the image that activates each most, its projection with switches, copies"
)
PICTURES = {f"{row}.png": (row, "features.png", f"{data}, {WORDS}") for row, (data, _) in RUNS.items()}
PICTURES |= {  # of the longer file
    f"old_features{layer}.png": ("", "", f"An image of CIFAR-10 and all features of layer {layer}") for layer in (1, 2)
}


def each(column: str, form: str):
    """A column of the table: one figure per seed."""
    return lambda seeds: " / ".join(form.format(seed.final(f"eval/{column}")) for seed in seeds)


def draw(results: Results, folder: Path) -> dict[str, str]:
    columns = {
        "seeds": plot.count,
        "epochs": lambda seeds: f"{seeds[0].final('charts/epoch'):.0f}",
        "test accuracy": each("accuracy", "{:.2%}"),
        "bar": lambda seeds: RUNS[seeds[0].name][1],
        "correlation, layer 1": each("correlation_1", "{:.2f}"),
        "correlation, layer 2": each("correlation_2", "{:.2f}"),
        "likeness, layer 1": each("likeness_1", "{:.2f}"),
        "likeness, layer 2": each("likeness_2", "{:.2f}"),
        "dead of 32, 64": lambda seeds: plot.number(seeds[0].final("eval/dead_1") + seeds[0].final("eval/dead_2")),
        "CPU seconds": lambda seeds: " / ".join(plot.cpu([seed]) for seed in seeds),
    }
    accuracy = [
        f"{data} {100 * plot.mean(seed.final('eval/accuracy') for seed in results[name]):.1f} %"
        for name, (data, _) in RUNS.items()
    ]
    return {
        "table": plot.beside("", {data: results[name] for name, (data, _) in RUNS.items()}, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": "; ".join(accuracy),
    }
