"""Figures and tables of gen/vae.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, number

LOSS, RECON, KL = "eval/loss", "eval/recon", "eval/kl"
COLUMNS = ["global_step", "losses/loss", LOSS, RECON, KL, "charts/SPS", "time/elapsed", "squared_error"]
PROGRAMS = {  # label: rows of the loss and of the speed
    "gen/vae.py": ("vae-mnist-float32", "vae-speed-float32"),
    "gen/vae.py --bf16": ("vae-mnist-bf16", "vae-speed-bf16"),
    "pytorch/examples": ("examples-vae", "examples-speed"),
}
PICTURES = {
    "samples.png": ("vae-mnist-float32", "samples.png", "Samples of N(0, I), decoded"),
    "interpolation.png": (
        "vae-mnist-float32",
        "interpolation.png",
        "From one test image's code to another's, between the images themselves",
    ),
    "traversal.png": ("vae-plane", "traversal.png", "A code of two dimensions (--latent-dim 2): traversal of both"),
}
STEPS = ["one image, input of ones", "ten images, one-hot inputs", "autoencoder, test images", "VAE, test images"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """CPU seconds of the fastest epoch but the first, which warms up."""
    if name == "examples-speed":
        return {"least seconds of an epoch": float(np.diff(columns["time/elapsed"]).min())}
    return {"least seconds of an epoch": float(60_000 / columns["charts/SPS"][1:].max())} if "speed" in name else {}


def draw(results: Results, folder) -> dict[str, str]:
    ours = {label: results[name] for label, (name, _) in PROGRAMS.items()}
    with plot.figure(folder / "example.png") as (axes,):
        words = {"xlabel": "epochs", "ylabel": "test loss (nats per image)", "title": "MNIST, 784-400-20"}
        plot.panel(axes, ours, "global_step", LOSS, scale=1 / 60_000, ylim=(102, 130), **words)

    def seconds(seeds: list[Result]) -> list[float]:
        """CPU seconds of an epoch, of the row that is timed."""
        timed = dict(PROGRAMS.values())[seeds[0].name]
        return [seed.facts["least seconds of an epoch"] for seed in results[timed]]

    columns = {
        "seeds": plot.count,
        "test loss, 10 epochs": plot.column(LOSS, ".2f"),
        "CPU s an epoch": lambda seeds: plot.spread(seconds(seeds)),
        "speed": lambda seeds: f"{plot.mean(seconds(results['examples-vae'])) / plot.mean(seconds(seeds)):.2f}",
    }
    both = {"autoencoder (--kl-weight 0)": results["vae-autoencoder"], "VAE": results["vae-mnist-float32"][:1]}
    losses = {"training loss": "losses/loss", "test loss": LOSS, "cross-entropy, test": RECON}
    weights = {weight: results[f"vae-weight-{weight}"] for weight in ("0.1", "0.3", "1", "3", "10")}
    errors = {"squared error, test": plot.column(RECON, scale=2), "KL (nats)": KL}
    plot.pictures(folder, {"steps.png": ("vae-steps", "steps.png", "")})
    (steps,) = results["vae-steps"]
    loss = plot.column(LOSS, ".2f")(results["vae-mnist-float32"])
    return {
        "table": plot.beside("MNIST, grey, batches of 128, Adam 1e-3", ours, columns),
        "steps": plot.table(
            ["", "squared error per image"], zip(STEPS, map(number, steps["squared_error"]), strict=True)
        ),
        "generalization": plot.beside("10 epochs, seed 1", both, losses),
        "weights": plot.beside("weight", weights, errors) if any(weights.values()) else "Not run.",
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"test loss {loss} on grey MNIST after 10 epochs (PyTorch's example: 105.55)",
    }
