"""Figures and tables of gen/draw_color.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.draw import load_model, steps_figure
from benchmarks.plot import Results

ERROR, KL = "eval/squared_error", "eval/kl"
COLUMNS = ["global_step", "losses/loss", "eval/loss", KL, ERROR]
RUNS = {  # the post's proposals: latents, T, epochs
    "base": ("10", "10", "2"),
    "z": ("100", "10", "2"),
    "steps": ("10", "32", "2"),
    "long": ("10", "10", "20"),
    "post": ("10", "10", "44"),
}


def draw(results: Results, folder) -> dict[str, str]:
    from gen import draw_color as script

    plot.pictures(folder, {"drawing.png": ("draw-color-post", "drawing.png", "drawing")})
    model, test = load_model(folder, "draw-color-post", script)
    if model:
        steps_figure(model, test, folder / "steps.png")
    columns = {
        "squared error, test": plot.column(ERROR, ".0f"),
        "KL (nats)": plot.column(KL, ".0f"),
        "CPU seconds": plot.cpu,
    }
    ours = {cells: results[f"draw-color-{name}"] for name, cells in RUNS.items()}
    short, long = (plot.column(ERROR, ".0f")(results[f"draw-color-{name}"]) for name in ("base", "post"))
    return {
        "table": plot.beside(("latents per step", "T", "epochs"), ours, columns),
        "number": f"cartoons, squared error {short} after 2 epochs, {long} after 44",
    }
