"""Figures and tables of algos/actor_critic.py, for benchmarks/plot.py."""

from benchmarks import plot

RETURN = "charts/episodic_return_100"
COLUMNS = ["global_step", RETURN, "losses/entropy"]
BARS = {"ac-cartpole": 475, "ac-pendulum": 950}
STEPS = {"32 steps per update": "ac-cartpole", "1 (the post's)": "ac-steps-1", "4": "ac-steps-4", "16": "ac-steps-16",
         "128": "ac-steps-128"}  # fmt: skip


def facts(name: str, columns: dict) -> dict:
    return {"steps": plot.first_reached(columns, RETURN, BARS.get(name, 475))}


def cpu_to_bar(result: plot.Result) -> float:
    """CPU seconds of the whole run, start-up and evaluation included, times the share of its steps."""
    return result.cpu * result.facts["steps"] / result.final("global_step")


def draw(results: plot.Results, folder) -> dict[str, str]:
    ours, pendulum = results["ac-cartpole"], results["ac-pendulum"]
    with plot.figure(folder / "curves.png") as (axes,):
        words = {"title": "CartPole-v1", "xlabel": "thousand steps", "ylabel": "return, last 100 episodes"}
        shown = {label: results[name] for label, name in STEPS.items()}
        plot.panel(axes, shown, "global_step", RETURN, {"bar: 475": 475}, scale=1e-3, **words)
    columns = {
        "bar": lambda seeds: str(BARS[seeds[0].name]),
        "seeds that reach it": lambda seeds: plot.arrived(seed.facts["steps"] for seed in seeds),
        "steps": plot.fact("steps"),
        "return at the end": RETURN,
        "deterministic actions": "eval/episodic_return",
    }
    speed = {
        "seeds": plot.count,
        "steps": plot.fact("steps"),
        "CPU seconds": lambda seeds: plot.median(map(cpu_to_bar, seeds)),
        "times ours": lambda seeds: plot.median(plot.ratios(seeds, ours, cpu_to_bar), lambda x: f"{plot.number(x)}x"),
    }
    programs = {"algos/actor_critic.py": ours, "stable-baselines3, A2C": results["sb3-to475-a2c"]}
    middle = plot.number(plot.sorted_median([seed.facts["steps"] for seed in ours]))
    return {
        "table": plot.beside("environment", {"CartPole-v1": ours, "InvertedPendulum-v5": pendulum}, columns),
        "speed": plot.beside("CartPole-v1", programs, speed),
        "number": f"475 on CartPole-v1 in {columns['seeds that reach it'](ours)} seeds, median {middle} steps",
    }
