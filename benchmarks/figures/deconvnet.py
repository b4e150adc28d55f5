"""Figures and tables of gen/deconvnet.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

COLUMNS = ["global_step", "losses/loss", "eval/accuracy"]
COLUMNS += [f"eval/{fact}_{layer}" for layer in (1, 2) for fact in ("correlation", "likeness", "dead")]
WORDS = (
    "Ten features of layer 1, then of layer 2: the image that activates each most, its projection with switches, copies"
)
PICTURES = {"deconvnet-cifar10.png": ("deconvnet-cifar10", "features.png", WORDS)}


def draw(results: Results, folder) -> dict[str, str]:
    columns = {
        "seeds": plot.count,
        "epochs": plot.column("global_step", ".0f", 1 / 50_000),
        "test accuracy": plot.column("eval/accuracy", ".2%"),
        "correlation, layer 1": "eval/correlation_1",
        "correlation, layer 2": "eval/correlation_2",
        "likeness, layer 1": "eval/likeness_1",
        "likeness, layer 2": "eval/likeness_2",
        "CPU seconds": plot.cpu,
    }
    seeds = results["deconvnet-cifar10"]
    return {
        "table": plot.beside("", {"CIFAR-10": seeds}, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"CIFAR-10 {plot.column('eval/accuracy', '.1f', 100)(seeds)} %",
    }
