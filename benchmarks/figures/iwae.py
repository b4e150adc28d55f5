"""Figures and tables of gen/iwae.py, for benchmarks/plot.py."""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, ORANGE, PUBLISHED, Results, curves, machines, not_run, number, read_rows, save, table

COLUMNS = ["global_step", "charts/epoch", "losses/loss", "eval/loss", "eval/nll", "eval/active_units", "charts/SPS"]
EPOCHS = {"stages3": 13, "stages4": 40, "stages5": 121, "paper": 3280}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    published = {int(row["codes"]): row for row in read_rows(PUBLISHED / "iwae.csv")}
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    rows, missing, best = [], [], {}
    for stages, epochs in EPOCHS.items():
        for k, color in ((1, BLUE), (50, ORANGE)):
            seeds, theirs = results.all.get(f"iwae-k{k}-{stages}", []), published[k]
            if not seeds:
                missing.append(f"k = {k} for {epochs:,} epochs")
                continue
            seed = best[k] = seeds[0]
            label = f"k = {k}, {epochs} epochs"
            curves(axes, seeds, "charts/epoch", "eval/loss", color, label, linestyle="-" if epochs > 13 else "--")
            cells = [f"{seed.final('eval/nll'):.2f}", theirs["nll"], f"{seed.final('eval/loss'):.2f}"]
            units = [f"{seed.final('eval/active_units'):.0f}", theirs["active_units"]]
            cpu_minutes = number(seed.summary["cpu_seconds"] / 60)
            rows.append([f"k = {k}", f"{epochs:,}", str(len(seeds)), *cells, *units, cpu_minutes])
    for k, color in ((1, BLUE), (50, ORANGE)):
        axes.axhline(float(published[k]["nll"]), color=color, linestyle=":", label=f"published -log p(x), k = {k}")
    axes.set(xlabel="epochs", ylabel="nats per image", title="bound on test images, MNIST binarized", xscale="log")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8) if rows else not_run(axes)
    save(axes.figure, folder / "iwae.png")
    picture = folder.parent.parent / "runs" / "benchmark" / "iwae-k50-stages3" / "seed1" / "samples.png"
    if picture.exists():
        shutil.copy(picture, folder / "samples.png")
    header = ["codes per image", "epochs", "seeds", "-log p(x), 5,000 codes", "published", "bound with k codes"]
    header += ["active dimensions", "published", "CPU minutes"]
    claim = (
        "[Burda et al. 2016](https://arxiv.org/abs/1509.00519), table 1, one stochastic layer, binarized anew for each "
        "batch: 86.76 nats with the VAE's bound (k = 1), 84.78 with k = 50, after 3,280 epochs in eight stages.\n\n"
        "`python gen/iwae.py --dataset mnist --stages 8 --k 50`"
    )
    note = (
        "Ours: -log p(x) and the bound of the last epoch are measured on the same 1,000 test images, evenly spaced in "
        "the test set; published: on all 10,000. With fewer than eight stages the learning rate falls to a tenth in "
        f"fewer steps. Not run: {'; '.join(missing)}."
    )
    parts = ["# Importance weighted autoencoder", claim, table(header, rows), note, "![bounds](iwae.png)"]
    if (folder / "samples.png").exists():
        parts += ["## Samples, k = 50: the pixels' probabilities", "![samples](samples.png)"]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    words = [
        f"{seed.final('eval/nll'):.1f} nats with k = {k} after {seed.final('charts/epoch'):.0f} epochs "
        f"(published, after 3,280: {published[k]['nll']})"
        for k, seed in sorted(best.items())
    ]
    return {"iwae-number": f"{'; '.join(words)} ([figures](results/iwae/README.md))"} if words else {}
