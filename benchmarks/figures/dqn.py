"""Figures and tables of algos/dqn.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Results

RETURN, LARGEST, EVALUATION = "charts/episodic_return_100", "losses/largest_q", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, LARGEST, "losses/td_loss", "charts/SPS", EVALUATION]
ENVIRONMENTS = {"dqn-cartpole": "CartPole-v1", "dqn-acrobot": "Acrobot-v1"}
TRICKS = {
    "dqn-cartpole": "replay and target network",
    "dqn-no-replay": "target network only",
    "dqn-no-target": "replay only",
    "dqn-no-tricks": "neither",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {"largest_q": float(np.nanmax(columns[LARGEST]))} if LARGEST in columns else {}


def largest(seeds: list) -> str:
    return plot.spread(seed.facts["largest_q"] for seed in seeds)


def draw(results: Results, folder: Path) -> dict[str, str]:
    ours = {env: results[name] for name, env in ENVIRONMENTS.items()}
    peer, published = results["cleanrl-cartpole"], {row["environment"]: row for row in plot.published("dqn")}
    tricks = {label: results[name] for name, label in TRICKS.items()}
    with plot.figure(folder / "curves.png", columns=2, size=(10.4, 3.8)) as panels:
        for axes, (env, seeds) in zip(panels, ours.items(), strict=True):
            plot.curves(axes, seeds, "global_step", RETURN, "algos/dqn.py", scale=1e-6)
            if env == "CartPole-v1":
                plot.curves(axes, peer, "global_step", RETURN, "CleanRL, run here", plot.GREY, scale=1e-6)
            line = float(published[env]["return"])
            axes.axhline(line, color=plot.VERMILLION, linestyle="--", label="CleanRL, published")
            axes.set(title=env, xlabel="million environment steps", ylabel="return, last 100 episodes")
    with plot.figure(folder / "tricks.png", columns=2, size=(10.4, 3.8)) as (returns, values):
        words = {"title": "CartPole-v1", "xlabel": "million environment steps", "scale": 1e-6}
        plot.panel(returns, tricks, "global_step", RETURN, ylabel="return, last 100 episodes", **words)
        bound = {"upper bound of the true values": 100}  # 1 a step for ever, at a discount of .99
        plot.panel(values, tricks, "global_step", LARGEST, bound, ylabel="largest |Q|", yscale="log", **words)
        values.legend()
    scores = {"seeds": plot.count, "training, last 100 episodes": RETURN, "greedy, 100 episodes": EVALUATION}

    def theirs(seeds: list) -> str:
        return "{return} ± {spread}".format(**published[ENVIRONMENTS[seeds[0].name]])

    def here(seeds: list) -> str:
        return plot.spread(seed.final(RETURN) for seed in (peer if seeds[0].name == "dqn-cartpole" else []))

    columns = scores | {"CleanRL, published": theirs, "CleanRL, run here": here, "CPU seconds": plot.cpu}
    cartpole = ours["CartPole-v1"]
    greedy = plot.number(plot.mean(seed.final(EVALUATION) for seed in cartpole))
    return {
        "table": plot.beside("500,000 steps", ours, columns),
        "peer-cpu": f"{plot.cpu(peer)} ({len(peer)} seeds)",
        "tricks": plot.beside("CartPole-v1", tricks, scores | {"largest absolute Q": largest}),
        "number": f"{greedy} on CartPole-v1 after 500,000 steps, greedy ({len(cartpole)} seeds; CleanRL: "
        f"{theirs(cartpole)})",
    }
