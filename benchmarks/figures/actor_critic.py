"""Figures and tables of algos/actor_critic.py, for benchmarks/plot.py."""

from benchmarks import plot

RETURN = "charts/episodic_return_100"
COLUMNS = ["global_step", RETURN, "losses/entropy"]
STEPS = {"32 steps per update": "ac-cartpole"} | {n: f"ac-steps-{n}" for n in ("1", "4", "16", "128")}


def facts(name: str, columns: dict) -> dict:
    return {"steps": plot.first_reached(columns, RETURN, 950 if name == "ac-pendulum" else 475)}


def cpu_to_bar(result: plot.Result) -> float:
    """CPU seconds of the whole run, start-up and evaluation included, times the share of its steps."""
    return result.cpu * result.facts["steps"] / result.final("global_step")


def draw(results: plot.Results, folder) -> dict[str, str]:
    ours = results["ac-cartpole"]
    with plot.figure(folder / "curves.png") as (axes,):
        words = {"title": "CartPole-v1", "xlabel": "thousand steps", "ylabel": "return, last 100 episodes"}
        shown = {label: results[name] for label, name in STEPS.items()}
        plot.panel(axes, shown, "global_step", RETURN, {"bar: 475": 475}, scale=1e-3, **words)
    columns = {
        "seeds that reach it": lambda seeds: plot.arrived(seed.facts["steps"] for seed in seeds),
        "steps": plot.fact("steps"),
        "return at the end": RETURN,
        "CPU seconds": lambda seeds: plot.median(map(cpu_to_bar, seeds)),
        "times ours": lambda seeds: plot.median(plot.ratios(seeds, ours, cpu_to_bar), lambda x: f"{plot.number(x)}x"),
    }
    programs = {
        ("CartPole-v1", "algos/actor_critic.py", "475"): ours,
        ("CartPole-v1", "stable-baselines3, A2C", "475"): results["sb3-to475-a2c"],
        ("InvertedPendulum-v5", "algos/actor_critic.py", "950"): results["ac-pendulum"],
    }
    middle = plot.number(plot.sorted_median([seed.facts["steps"] for seed in ours]))
    return {
        "table": plot.beside(("environment", "program", "bar"), programs, columns),
        "number": f"475 on CartPole-v1 in {columns['seeds that reach it'](ours)} seeds, median {middle} steps",
    }
