"""Figures and tables of gen/nice.py, for benchmarks/plot.py."""

import math

from benchmarks import plot
from benchmarks.plot import Results, number

NATS, BITS, IMAGES = "eval/log_likelihood", "eval/bits_per_dim", 60_000  # of an epoch
COLUMNS = ["global_step", "losses/log_likelihood", NATS, BITS, "charts/SPS"]
PICTURES = {"samples.png": ("nice-mnist-long", "samples.png", "Samples after 40 epochs")}


def draw(results: Results, folder) -> dict[str, str]:
    (published,) = plot.published("nice")
    nats, epochs, rows = float(published["nats"]), int(published["epochs"]), []
    with plot.figure(folder / "mnist.png") as (axes,):
        for seed in [*results["nice-mnist"], *results["nice-mnist-long"]]:
            trained = f"{seed.final('global_step') / IMAGES:.0f}"
            plot.curves(axes, [seed], "global_step", NATS, f"{trained} epochs", scale=1 / IMAGES)
            cells = [f"{seed.final(NATS):,.1f}", f"{seed.final(BITS):.3f}", number(seed.cpu)]
            rows.append(["gen/nice.py", str(seed.seed), trained, *cells])
        label = f"published, {epochs:,} epochs: {nats:,.1f}"
        axes.axhline(nats, color=plot.GREY, linestyle=":", label=label)
        axes.set(xlabel="epochs", ylabel="test log p(x), nats", title="NICE on MNIST")
    bits = 8 - nats / (784 * math.log(2))
    rows.append([published["model"], "-", f"{epochs:,}", f"{nats:,.1f}", f"{bits:.3f}", "-"])
    best = max(results, key=lambda seed: seed.final(NATS))
    trained = best.final("global_step") / IMAGES
    ours = f"{best.final(NATS):,.1f} nats after {trained:.0f} epochs"
    header = ["MNIST", "seed", "epochs", "nats", "bits per dimension", "CPU seconds"]
    return {
        "table": plot.table(header, rows),
        "ours": ours,
        "below": f"{nats - best.final(NATS):,.1f}",
        "times": f"{epochs / trained:.0f} times",
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"{ours} ({nats:,.2f} after {epochs:,})",
    }
