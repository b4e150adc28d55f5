"""Figures and tables of gen/iwae.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

NLL, BOUND, UNITS = "eval/nll", "eval/loss", "eval/active_units"
COLUMNS = ["global_step", "losses/loss", BOUND, NLL, UNITS, "charts/SPS"]
EPOCHS = {"stages3": "13", "stages4": "40", "stages5": "121", "stages6": "364", "paper": "3,280"}
PICTURES = {"samples.png": ("iwae-k50-stages3", "samples.png", "Samples, k = 50: the pixels' probabilities")}


def draw(results: Results, folder) -> dict[str, str]:
    published = {row["codes"]: row for row in plot.published("iwae")}
    ours = {
        (f"k = {k}", epochs): results.by_name.get(f"iwae-k{k}-{stages}", [])
        for stages, epochs in EPOCHS.items()
        for k in ("1", "50")
    }
    ours = {cells: seeds for cells, seeds in ours.items() if seeds}
    with plot.figure(folder / "iwae.png") as (axes,):
        shown = {f"{k}, {epochs} epochs": seeds for (k, epochs), seeds in ours.items()}
        words = {"xlabel": "epochs", "ylabel": "nats per image", "title": "MNIST: bound (lines), -log p(x) (dots)"}
        plot.panel(axes, shown, "global_step", BOUND, scale=1 / 60_000, xscale="log", **words)
        for line, seeds in zip(axes.get_lines(), shown.values(), strict=True):
            axes.plot(seeds[0].final("global_step") / 60_000, seeds[0].final(NLL), "o", color=line.get_color())
        for k, nll in ((k, published[k]["nll"]) for k in ("1", "50")):
            axes.axhline(float(nll), color=plot.GREY, linestyle=":", label=f"published, k = {k}: {nll}")

    def theirs(column: str):
        return lambda seeds: published[seeds[0].name.split("-")[1][1:]][column]

    columns = {
        "seeds": plot.count,
        "-log p(x), 5,000 codes": plot.column(NLL, ".2f"),
        "published": theirs("nll"),
        "bound with k codes": plot.column(BOUND, ".2f"),
        "active dimensions": plot.column(UNITS, ".0f"),
        "published, active": theirs("active_units"),
        "CPU seconds": plot.cpu,
    }
    found = {cells: f"{seeds[0].final(NLL):.1f}" for cells, seeds in ours.items()}
    one, fifty, longer = (found[cells] for cells in (("k = 1", "13"), ("k = 50", "13"), ("k = 1", "121")))
    return {
        "table": plot.beside(("codes per image", "epochs"), ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"{one} nats with k = 1, {fifty} with k = 50 (13 epochs); {longer} with k = 1 (121; 3,280: 86.76)",
    }
