"""Figures and tables of gen/infogan.py, for benchmarks/plot.py."""

from pathlib import Path

from benchmarks import plot
from benchmarks.plot import Results

CODE_ERROR, FRECHET = "eval/code_error", "eval/frechet"
COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "losses/information", CODE_ERROR, FRECHET,
    "eval/frechet_real", "eval/judge_accuracy", "charts/SPS",
]  # fmt: skip
RUNS = {"infogan-mnist": "5,700 updates", "infogan-mnist-longer": "13,000 updates"}
WORDS = "a code in each column, the same noise in each row; in the last two rows a continuous code from -1 to 1"
PICTURES = {f"{row}-codes.png": (row, "codes.png", f"{label}: {WORDS}") for row, label in RUNS.items()}


def draw(results: Results, folder: Path) -> dict[str, str]:
    ours = {label: results[name] for name, label in RUNS.items()}
    with plot.figure(folder / "code_error.png") as (axes,):
        for label, seeds in ours.items():
            plot.curves(axes, seeds, "global_step", CODE_ERROR, label)
        axes.axhline(0.05, color=plot.GREY, linestyle=":", label="published: 5 %")
        axes.set(xlabel="updates", ylabel="error on MNIST's test images", ylim=(0, 1), title="the code as a classifier")

    columns = {
        "seeds": plot.count,
        "code error, %": plot.column(CODE_ERROR, scale=100),
        "published, %": lambda seeds: "5",
        "nats told of 2.30": "losses/information",
        "Frechet distance": FRECHET,
    }
    least = min(seed.final(CODE_ERROR) for seed in results)
    return {
        "table": plot.beside("", ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"the codes tell MNIST's digits apart with {least:.1%} error (published: 5 %)",
    }
