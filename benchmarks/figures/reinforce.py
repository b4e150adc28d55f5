"""Figures and tables of algos/reinforce.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot

RETURN, BAR = "charts/episodic_return_100", 475
COLUMNS = ["global_step", "charts/episodic_return", RETURN, "charts/episodic_length", "losses/entropy"]
CREDITS = {"return": "return of the episode", "togo": "reward-to-go"}
BASELINES = ["none", "mean", "value"]
KINDS = ["return", "reward-to-go", "reward-to-go - value", "GAE .95", "TD error"]
MEASURES = {"noise": "noise / signal", "cosine": "cosine"}
COLUMNS += ["gamma", "critic/reinforce", "critic/fitted", "time/maximum", "time/sample"]
COLUMNS += [f"{measure}/{kind}" for measure in ("variance", *MEASURES) for kind in KINDS]


def facts(name: str, columns: dict) -> dict:
    """Steps and episodes to 475; an update plays eight episodes."""
    if RETURN not in columns:
        return {}
    columns = columns | {"episodes": 8 * np.arange(1, len(columns["global_step"]) + 1)}
    columns[RETURN] = np.where(columns["episodes"] >= 100, columns[RETURN], 0)
    return {
        "steps": plot.first_reached(columns, RETURN, BAR),
        "episodes": plot.first_reached(columns, RETURN, BAR, "episodes"),
    }


def draw(results: plot.Results, folder) -> dict[str, str]:
    ours = {(label, b): results[f"reinforce-{credit}-{b}"] for credit, label in CREDITS.items() for b in BASELINES}
    with plot.figure(folder / "combinations.png", size=(9, 4)) as (axes,):
        shown = {f"{credit}, baseline: {baseline}": seeds for (credit, baseline), seeds in ours.items()}
        words = {"title": "CartPole-v1", "xlabel": "thousand steps", "ylabel": "return, last 100 episodes"}
        plot.panel(axes, shown, "global_step", RETURN, {"bar: 475": BAR}, scale=1e-3, **words)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    columns = {
        "reached 475": lambda seeds: plot.arrived(seed.facts["steps"] for seed in seeds),
        "steps": plot.fact("steps"),
        "episodes": plot.fact("episodes"),
        "return at the end": RETURN,
    }
    estimates = results["gradient-variance"]

    def cells(kind: str) -> list[str]:
        noise, cosine = (np.array([seed[f"{name}/{kind}"] for seed in estimates]) for name in MEASURES)
        noise = np.where(noise < 0, np.nan, noise)  # the signal is below its own error: no number
        return [kind, *map(plot.number, [*np.median(noise, axis=0), *cosine.mean(axis=0)])]

    (decision,) = results["action-maximum"]
    decisions = zip(*(decision[name] for name in ("global_step", "time/maximum", "time/sample")), strict=True)
    header = [f"{label}, {gamma:g}" for label in MEASURES.values() for gamma in estimates[0]["gamma"]]
    (peer,) = plot.published("reinforce")
    default = results["reinforce-togo-value"]
    middle = plot.number(plot.sorted_median([seed.facts["steps"] for seed in default]))
    return {
        "decisions": plot.table(
            ["actions", "maximum of Q, ms", "sample of the policy, ms"],
            [[f"{n:,.0f}", *(plot.number(1000 * x) for x in times)] for n, *times in decisions],
        ),
        "gradients": plot.table(["advantage", *header], map(cells, KINDS)),
        "table": plot.beside(("credit", "baseline"), ours, columns),
        "published": f"{peer['value']} episodes ({peer['source']})",
        "number": f"475 on CartPole-v1 in {columns['reached 475'](default)} seeds, median {middle} steps",
    }
