"""Figures and tables of gen/infogan.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

CODE_ERROR = "eval/code_error"
COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "losses/information", CODE_ERROR, "eval/frechet",
    "eval/frechet_real", "eval/judge_accuracy", "charts/SPS",
]  # fmt: skip
RUNS = {"infogan-mnist": "5,700 updates", "infogan-mnist-longer": "13,000 updates"}
CODES, SWEEP = "a code in each column, the same noise in each row", "one coordinate from -1 to 1 in each row"
PICTURES = {
    "infogan-mnist-codes.png": ("infogan-mnist", "codes.png", f"5,700 updates: {CODES}"),
    "infogan-mnist-sweep.png": ("", "", f"5,700 updates: {SWEEP}: the two continuous codes, then noise"),
    "infogan-mnist-longer-codes.png": ("infogan-mnist-longer", "codes.png", f"13,000 updates: {CODES}"),
    "infogan-mnist-longer-sweep.png": ("", "", f"13,000 updates: {SWEEP}: the two continuous codes, then noise"),
}
OLD = (
    "It scored the code with running statistics of batch normalization, which mix real and generated images; now they "
    "are those of the real images alone."
)


def draw(results: Results, folder) -> dict[str, str]:
    ours = {label: results[name] for name, label in RUNS.items()}
    with plot.figure(folder / "code_error.png") as (axes,):
        words = {"xlabel": "updates", "ylabel": "error on MNIST's test images", "title": "the code as a classifier"}
        plot.panel(axes, ours, "global_step", CODE_ERROR, {"published: 5 %": 0.05}, ylim=(0, 1), **words)
    columns = {
        "seeds": plot.count,
        "code error, %": plot.column(CODE_ERROR, scale=100),
        "published, %": lambda seeds: "5",
        "nats told of 2.30": "losses/information",
        "CPU seconds": plot.cpu,
    }
    least = min(seed.final(CODE_ERROR) for seed in results)
    return {
        "table": plot.beside("", ours, columns),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"the codes tell MNIST's digits apart with {least:.1%} error (published: 5 %)",
    }
