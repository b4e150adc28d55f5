"""Figures and tables of gen/gan.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.realnvp import facts, speeds
from benchmarks.plot import Results

__all__ = ["COLUMNS", "draw", "facts"]

COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "charts/SPS",
    "eval/diversity", "eval/frechet", "eval/frechet_real", "eval/judge_accuracy", "time/elapsed",
]  # fmt: skip
RUNS = {"gan-mnist": "MNIST", "gan-cifar10": "CIFAR-10", "gan-cifar10-long": "CIFAR-10, longer"}
RATES = {f"gan-rate-{rate[2:]}": f"MNIST, learning rate {rate}" for rate in ("0.00005", "0.0005", "0.005", "0.05")}
SPEED = {
    "gen/gan.py": "gan-speed-float32",
    "gen/gan.py --bf16": "gan-speed-bf16",
    "pytorch/examples, dcgan": "examples-dcgan",
}
WORDS = "images from the same noise, a row for every 300 updates"
PICTURES = {f"{row}.png": (row, "samples.png", f"{data}: {WORDS}") for row, data in RUNS.items()}


def draw(results: Results, folder) -> dict[str, str]:
    samples = {
        "seeds": plot.count,
        "updates": lambda seeds: f"{seeds[0].final('global_step'):,.0f}",
        "Frechet distance": "eval/frechet",
        "of test images": "eval/frechet_real",
        "diversity": "eval/diversity",
    }
    peer = plot.mean(speeds(results["examples-dcgan"]))
    columns = {
        "runs": plot.count,
        "images per CPU second": lambda seeds: plot.spread(speeds(seeds)),
        "times the example": lambda seeds: f"{plot.mean(speeds(seeds)) / peer:.2f}",
    }
    published = [[row["model"], row["fid"], row["settings"]] for row in plot.published("gan")]
    mnist = results["gan-mnist"]
    frechet, real = plot.column("eval/frechet")(mnist), plot.number(mnist[0].final("eval/frechet_real"))
    programs = {label: results[name] for label, name in SPEED.items()}
    return {
        "samples": plot.beside("", {label: results[name] for name, label in (RUNS | RATES).items()}, samples),
        "pictures": plot.pictures(folder, PICTURES),
        "speed": plot.beside("64 x 64 pixels, batches of 64, widths 64 to 512", programs, columns),
        "published": plot.table(["", "FID", "settings"], published, left=3),
        "number": f"MNIST: Frechet distance {frechet} in a small classifier (test images {real})",
    }
