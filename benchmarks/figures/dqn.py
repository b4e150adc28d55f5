"""Figures and tables of algos/dqn.py, for benchmarks/plot.py."""

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


def draw(results: Results, folder) -> dict[str, str]:
    ours = {env: results[name] for name, env in ENVIRONMENTS.items()}
    peer, published = results["cleanrl-cartpole"], {row["environment"]: row for row in plot.published("dqn")}
    tricks = {label: results[name] for name, label in TRICKS.items()}
    with plot.figure(folder / "curves.png", columns=2, size=(10.4, 3.8)) as (cartpole, acrobot):
        words = {"xlabel": "million environment steps", "ylabel": "return, last 100 episodes", "scale": 1e-6}
        for axes, env, shown in (
            (cartpole, "CartPole-v1", tricks),
            (acrobot, "Acrobot-v1", {"DQN": ours["Acrobot-v1"]}),
        ):
            levels = {"CleanRL, published": float(published[env]["return"])}
            plot.panel(axes, shown, "global_step", RETURN, levels, title=env, **words)
        plot.curves(cartpole, peer, "global_step", RETURN, "CleanRL, run here", plot.BLACK, "--", scale=1e-6)
        cartpole.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
        acrobot.legend(loc="lower right")
    scores = {"seeds": plot.count, "training, last 100 episodes": RETURN, "greedy, 100 episodes": EVALUATION}

    def theirs(seeds: list) -> str:
        return "{return} ± {spread}".format(**published[ENVIRONMENTS[seeds[0].name]])

    def here(seeds: list) -> str:
        return plot.spread(seed.final(RETURN) for seed in (peer if seeds[0].name == "dqn-cartpole" else []))

    def largest(seeds: list) -> str:
        return plot.spread(seed.facts["largest_q"] for seed in seeds)

    columns = scores | {"CleanRL, published": theirs, "CleanRL, run here": here, "CPU seconds": plot.cpu}
    cartpole = ours["CartPole-v1"]
    trained = plot.spread(seed.final(RETURN) for seed in cartpole)
    return {
        "table": plot.beside("500,000 steps", ours, columns),
        "peer-cpu": f"{plot.cpu(peer)} ({len(peer)} seeds)",
        "tricks": plot.beside("CartPole-v1", tricks, scores | {"largest absolute Q": largest}),
        "number": f"training return {trained} on CartPole-v1 after 500,000 steps (CleanRL: {theirs(cartpole)})",
    }
