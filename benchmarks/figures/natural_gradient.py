"""Figures and tables of algos/natural_gradient.py and of the classifier beside it, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot

RETURN, KL = "charts/episodic_return_100", "losses/kl"
COLUMNS = ["global_step", RETURN, KL, "losses/distance", "losses/entropy"]
SIZES, DIRECTIONS = ["0.0005", "0.002", "0.005", "0.02"], ["natural", "plain"]


def facts(name: str, columns: dict) -> dict:
    return {"steps": plot.first_reached(columns, RETURN, 475)} if RETURN in columns else {}


def draw(results: plot.Results, folder) -> dict[str, str]:
    with plot.figure(folder / "curves.png", columns=4, size=(14, 3.4), sharey=True) as panels:
        for axes, size in zip(panels, SIZES, strict=True):
            shown = {f"{way} gradient": results[f"ng-{way}-{size}"] for way in DIRECTIONS}
            words = {"title": f"steps of {size} nats", "xlabel": "thousand steps", "ylim": (0, 505)}
            plot.panel(axes, shown, "global_step", RETURN, {"bar: 475": 475}, scale=1e-3, **words)
        panels[0].set_ylabel("return, last 100 episodes")
        panels[0].legend()
    columns = {
        "reach 475": lambda seeds: plot.arrived(seed.facts["steps"] for seed in seeds),
        "steps": plot.fact("steps"),
        "return at the end": RETURN,
        "KL made, median": lambda seeds: plot.median([np.median(seed[KL]) for seed in seeds], "{:.4f}".format),
    }
    ours = {(size, way): results[f"ng-{way}-{size}"] for size in SIZES for way in DIRECTIONS}
    natural, plain = (plot.spread(s.final(RETURN) for s in results[f"ng-{way}-0.002"]) for way in DIRECTIONS)
    plot.pictures(folder, {"classifier.png": ("ng-classifier", "classifier.png", "")})
    return {
        "table": plot.beside(("KL divergence of a step, nats", "direction"), ours, columns),
        "number": f"CartPole-v1, 150,000 steps: {natural}; plain gradient {plain}",
    }
