"""Figures and tables of gen/infogan.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

CODE_ERROR = "eval/code_error"
COLUMNS = [
    "global_step", "losses/discriminator", "losses/generator", "losses/information", CODE_ERROR, "eval/frechet",
    "eval/frechet_real", "eval/judge_accuracy", "charts/SPS",
]  # fmt: skip
WORDS = "A code in each column, the same noise in each row; in the last two rows the continuous codes from -1 to 1"


def draw(results: Results, folder) -> dict[str, str]:
    ours = {"5,700 updates": results["infogan-mnist"]}
    with plot.figure(folder / "code_error.png") as (axes,):
        words = {"xlabel": "updates", "ylabel": "error on MNIST's test images", "title": "the code as a classifier"}
        plot.panel(axes, ours, "global_step", CODE_ERROR, {"published: 5 %": 0.05}, ylim=(0, 1), **words)
    columns = {
        "seeds": plot.count,
        "code error, %": plot.column(CODE_ERROR, scale=100),
        "published, %": lambda seeds: "5",
        "mutual information, nats (at most 2.30)": "losses/information",
        "CPU seconds": plot.cpu,
    }
    errors = [seed.final(CODE_ERROR) for seed in results["infogan-mnist"]]
    return {
        "table": plot.beside("", ours, columns),
        "pictures": plot.pictures(folder, {"codes.png": ("infogan-mnist", "codes.png", WORDS)}),
        "number": f"error of the codes on MNIST {plot.mean(errors):.1%} ({len(errors)} seeds; best {min(errors):.1%}, "
        "published 5 %)",
    }
