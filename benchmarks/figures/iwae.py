"""Figures and tables of gen/iwae.py, for benchmarks/plot.py."""

from pathlib import Path

from benchmarks import plot
from benchmarks.plot import Results

NLL, BOUND, UNITS = "eval/nll", "eval/loss", "eval/active_units"
COLUMNS = ["global_step", "losses/loss", BOUND, NLL, UNITS, "charts/SPS"]
EPOCHS = {"stages3": 13, "stages4": 40, "stages5": 121, "paper": 3280}
PICTURES = {"samples.png": ("iwae-k50-stages3", "samples.png", "Samples, k = 50: the pixels' probabilities")}


def draw(results: Results, folder: Path) -> dict[str, str]:
    published = {row["codes"]: row for row in plot.published("iwae")}
    rows, missing, best = [], [], {}
    with plot.figure(folder / "iwae.png") as (axes,):
        for stages, epochs in EPOCHS.items():
            for k, color in (("1", plot.BLUE), ("50", plot.ORANGE)):
                seeds, theirs = results.by_name.get(f"iwae-k{k}-{stages}"), published[k]
                if not seeds:
                    missing.append(f"k = {k} for {epochs:,} epochs")
                    continue
                label, style = f"k = {k}, {epochs} epochs", "-" if epochs > 13 else "--"
                plot.curves(axes, seeds, "global_step", BOUND, label, color, style, scale=1 / 60_000)
                seed = best[k] = seeds[0]
                cells = [f"{seed.final(NLL):.2f}", theirs["nll"], f"{seed.final(BOUND):.2f}"]
                cells += [f"{seed.final(UNITS):.0f}", theirs["active_units"], plot.number(seed.cpu / 60)]
                rows.append([f"k = {k}", f"{epochs:,}", plot.count(seeds), *cells])
        for k, color in (("1", plot.BLUE), ("50", plot.ORANGE)):
            label = f"published -log p(x), k = {k}"
            axes.axhline(float(published[k]["nll"]), color=color, linestyle=":", label=label)
        axes.set(xlabel="epochs", ylabel="nats per image", title="bound on test images, MNIST binarized", xscale="log")
    header = ["codes per image", "epochs", "seeds", "-log p(x), 5,000 codes", "published", "bound with k codes"]
    words = [
        f"{seed.final(NLL):.1f} nats with k = {k} after {seed.final('global_step') / 60_000:.0f} epochs "
        f"(published, after 3,280: {published[k]['nll']})"
        for k, seed in best.items()
    ]
    return {
        "table": plot.table([*header, "active dimensions", "published", "CPU minutes"], rows),
        "missing": "; ".join(missing),
        "pictures": plot.pictures(folder, PICTURES),
        "number": "; ".join(words),
    }
