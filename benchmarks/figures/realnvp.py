"""Figures and tables of gen/realnvp.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

BITS, TRAIN = "eval/bits_per_dim", "losses/bits_per_dim"
COLUMNS = ["global_step", TRAIN, BITS, "charts/SPS", "time/elapsed"]
SMALL, LARGE = "2 blocks of 32 channels", "8 blocks of 64 channels"
RUNS = {
    (SMALL, "chrischute/real-nvp"): "chrischute-small",
    (SMALL, "gen/realnvp.py"): "realnvp-cifar10-float32",
    (SMALL, "gen/realnvp.py --bf16"): "realnvp-cifar10-bf16",
    (SMALL, "gen/realnvp.py --bf16, 10,000 updates"): "realnvp-cifar10-hour",
    (LARGE, "chrischute/real-nvp"): "chrischute-large",
    (LARGE, "gen/realnvp.py"): "realnvp-large-float32",
    (LARGE, "gen/realnvp.py --bf16"): "realnvp-large-bf16",
}
PICTURES = {"cifar10.png": ("realnvp-cifar10-hour", "samples.png", "Samples after 10,000 updates")}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Images per CPU second over all rows but the first, which warms up; from the peer's clock, or each row's rate."""
    clock = columns.get("time/elapsed", np.empty(0))
    steps, clock = (x[~np.isnan(clock)] if len(clock) else x for x in (columns["global_step"], clock))
    if len(steps) < 2:
        return {}
    seconds = clock[-1] - clock[0] if len(clock) else (np.diff(steps) / columns["charts/SPS"][1:]).sum()
    return {"images per second": float((steps[-1] - steps[0]) / seconds)}


def speeds(seeds: list[Result]) -> list[float]:
    return [rate for seed in seeds for rate in seed.facts.values()]


def draw(results: Results, folder) -> dict[str, str]:
    runs, published = {cells: results[name] for cells, name in RUNS.items()}, plot.published("realnvp")
    with plot.figure(folder / "bits_cifar10.png") as (axes,):
        small = {"gen/realnvp.py --bf16": results["realnvp-cifar10-hour"]}
        levels = {f"{row['model']}: {row['bits_per_dim']}": float(row["bits_per_dim"]) for row in published}
        words = {"xlabel": "updates of 16 images", "ylabel": "bits per dimension, test", "title": "CIFAR-10"}
        plot.panel(axes, small, "global_step", BITS, levels, scale=1 / 16, ylim=(3.4, 5), **words)

    def faster(seeds: list[Result]) -> str:
        peer = results["chrischute-large" if "large" in seeds[0].name else "chrischute-small"]
        return "-" if "hour" in seeds[0].name else f"{plot.mean(speeds(seeds)) / plot.mean(speeds(peer)):.2f}x"

    def bits(seeds: list[Result]) -> str:
        return "-" if "large" in seeds[0].name else plot.column(BITS, ".3f")(seeds)

    columns = {
        "images per CPU second": lambda seeds: "-" if "hour" in seeds[0].name else plot.spread(speeds(seeds)),
        "faster": faster,
        "bits per dimension, test": bits,
        "CPU seconds": plot.cpu,
    }
    theirs = [[row["model"], "published", "-", "-", f"{float(row['bits_per_dim']):.2f}", "-"] for row in published]
    (hour,) = results["realnvp-cifar10-hour"]
    return {
        "table": plot.beside(("CIFAR-10, batches of 16", ""), runs, columns, theirs),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"{hour.final(BITS):.2f} bits per dimension after 3.2 epochs (3.49)",
    }
