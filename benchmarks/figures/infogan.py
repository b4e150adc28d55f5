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
WORDS = {  # the longer file's had the continuous codes on a picture of their own
    "codes.png": "a code in each column, the same noise in each row",
    "sweep.png": "one coordinate from -1 to 1 in each row: the two continuous codes, then noise",
}
PICTURES = {
    f"{row}-{file}": (row, file, f"{label}: {words}") for row, label in RUNS.items() for file, words in WORDS.items()
}
OLD = (
    "It scored the code with running statistics of batch normalization, which mix real and generated images; now they "
    "are those of the real images alone."
)


def draw(results: Results, folder: Path) -> dict[str, str]:
    ours = {label: results[name] for name, label in RUNS.items()}
    with plot.figure(folder / "code_error.png") as (axes,):
        for label, seeds in ours.items():
            scale = 1 / 64 if seeds and seeds[0].old else 1  # the longer file counted images
            plot.curves(axes, seeds, "global_step", CODE_ERROR, label, scale=scale)
        axes.axhline(0.05, color=plot.GREY, linestyle=":", label="published: 5 %")
        axes.set(xlabel="updates", ylabel="error on MNIST's test images", ylim=(0, 1), title="the code as a classifier")

    def frechet(seeds: list) -> str:
        return "-" if seeds[0].old else plot.spread(seed.final(FRECHET) for seed in seeds)

    columns = {
        "seeds": plot.count,
        "code error, %": plot.column(CODE_ERROR, scale=100),
        "published, %": lambda seeds: "5",
        "nats told of 2.30": "losses/information",
        "Frechet distance": frechet,
    }
    least = min(seed.final(CODE_ERROR) for seed in results)
    return {
        "table": plot.beside("", ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"the codes tell MNIST's digits apart with {least:.1%} error (published: 5 %)",
    }
