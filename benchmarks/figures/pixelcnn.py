"""Figures and tables of gen/pixelcnn.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

BITS, NATS = "eval/bits_per_dim", "eval/nats"
COLUMNS = ["global_step", "losses/nats", NATS, BITS, "charts/SPS"]
IMAGES = {"mnist": 60_000, "cifar10": 50_000}  # of an epoch
PANELS = {
    "mnist": ("pixelcnn-mnist-hour", NATS, "MNIST, binarized anew for each batch", "nats per image"),
    "cifar10": ("pixelcnn-cifar10-hours", BITS, "CIFAR-10", "bits per dimension"),
}
WORDS = "test images, completions of their upper halves, samples"
PICTURES = {
    "mnist.png": ("pixelcnn-mnist-hour", "samples.png", f"MNIST: {WORDS}"),
    "cifar10.png": ("pixelcnn-cifar10-hours", "samples.png", f"CIFAR-10: {WORDS}"),
}


def draw(results: Results, folder) -> dict[str, str]:
    rows, numbers = [], {}
    with plot.figure(folder / "curves.png", columns=2, size=(10, 4)) as panels:
        for axes, (dataset, (run, column, title, unit)) in zip(panels, PANELS.items(), strict=True):
            for seed in results[run]:
                epochs = f"{seed.final('global_step') / IMAGES[dataset]:.2g} epochs"
                found = f"{seed.final(column):.2f} {unit}"
                plot.curves(axes, [seed], "global_step", column, f"ours, {epochs}", scale=1 / IMAGES[dataset])
                rows.append([f"{title}: ours", found, str(seed.seed), epochs.split()[0], plot.cpu([seed])])
                which = "the first" if dataset == "mnist" else "random"
                numbers[dataset] = f"{title.split(',')[0]} {found} on {which} 1,000 test images after {epochs}"
            for row, color in zip(plot.published("pixelcnn", dataset=dataset), plot.COLORS[2:], strict=False):
                label = f"{row['model']}: {row['value']}"
                axes.axhline(float(row["value"]), color=color, linestyle=":", label=label)
                rows.append([f"{title}: {row['model']}", f"{row['value']} {unit}", "-", "-", "-"])
            axes.set(xlabel="epochs", ylabel=unit, title=title)
    return {
        "table": plot.table(["", "test images", "seed", "epochs", "CPU seconds"], rows),
        "pictures": plot.pictures(folder, PICTURES),
        "number": "; ".join(numbers.values()),
    }
