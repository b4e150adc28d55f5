"""Figures and tables of algos/trpo_parallel.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, median, number, ratios

RETURN, KL, STEPS = "charts/episodic_return_100", "charts/max_kl", "charts/steps_per_update"
COLUMNS = [
    "global_step", RETURN, "charts/SPS", KL, STEPS, "time/rollout", "time/learn", "time/elapsed", "raw/one_core_SPS",
    "raw/all_cores_SPS", "raw/cores",
]  # fmt: skip
BAR = -5.0  # mean return that the race on Reacher runs to
BUDGETS, COMPARED = {"Reacher": 1e6, "Swimmer": 2e6, "HalfCheetah": 3e6}, {"HalfCheetah": 2e6}  # the post's logs end
FIXED = {
    "steps1000": "1,000 steps, KL .001",
    "steps5000": "5,000 steps, KL .001",
    "steps20000": "20,000 steps, KL .001 (the post's)",
    "kl005": "20,000 steps, KL .005",
    "kl010": "20,000 steps, KL .010",
}
ADAPTED = {f"adapt-{what}": f"adapt {what}".replace("kl", "KL") for what in ("steps", "kl", "both")}
MARGIN = {f"{name}-margin": f"{label}, 5 % margin" for name, label in ADAPTED.items()}
SETTINGS = FIXED | ADAPTED | MARGIN | {"linear": "20,000 steps, KL .001, linear value function"}
GROUPS = {
    "steps per update": ["steps1000", "steps5000", "steps20000"],
    "maximum KL": ["steps20000", "kl005", "kl010"],
    "adaptation": ["steps1000", *ADAPTED, "steps20000", "best"],
    "adaptation with a margin": ["steps1000", *MARGIN, "steps20000", "best"],
    "value function": ["steps20000", "linear"],
}
LOGGED = {"steps1000": "steps1500"}  # the nearest there is in the post's logs
SPEED = {"trpo": "`algos/trpo_parallel.py`", "sb3": "sb3-contrib", "tianshou": "Tianshou"}
RACE = {
    "trpo-to5-ours": "`algos/trpo_parallel.py`, 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-best": "sb3-contrib, its best settings: 16 x 312 steps, KL .01",
    "sb3-to5-ours": "sb3-contrib with our settings: 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-same-kl": "sb3-contrib with our settings and our KL bound: the same, its KL .015",
    "tianshou-to5": "Tianshou, its MuJoCo example's settings: 16 x 64 steps, KL .01",
    "trpo-post-start": "`algos/trpo_parallel.py` as the post starts: 1 actor, 20,000 steps, KL .001, log std 0",
}


# --- one run ---------------------------------------------------------------------------------


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: when the bar was reached, the time of a usual update, the largest fall."""
    found = {"updates": len(columns["update"])}
    if name in RACE:
        found["bar"] = reached(columns, BAR)
    if RETURN in columns:
        returns = columns[RETURN][~np.isnan(columns[RETURN])]
        found["largest_fall"] = float((np.maximum.accumulate(returns) - returns).max()) if len(returns) else None
    for column in {"time/rollout", "time/learn"} & columns.keys():
        found[f"median {column}"] = float(np.median(columns[column][len(columns[column]) > 1 :]))  # the first warms up
    return found


def reached(columns: dict[str, np.ndarray], bar: float) -> dict | None:
    """Steps and seconds of the first row whose last hundred episodes have this mean return. None if there is none.

    A row of ours has a mean of fewer episodes before there are a hundred: they are counted from their lengths.
    """
    steps, enough = columns["global_step"], np.ones(len(columns[RETURN]), dtype=bool)
    if "charts/episodic_length" in columns:
        length = columns["charts/episodic_length"]
        ended = np.diff(steps, prepend=0) / np.where(np.isnan(length), np.inf, length)
        enough = np.cumsum(ended) >= 100
    rows = np.flatnonzero(enough & (columns[RETURN] >= bar))
    if not len(rows):
        return None
    elapsed = columns["time/elapsed"] if "time/elapsed" in columns else steps / columns["charts/SPS"]
    return {"global_step": int(steps[rows[0]]), "seconds": float(elapsed[rows[0]])}


def to_bar(key: str):
    """The function result -> steps ("global_step") or seconds to the bar, infinite where it was never reached."""
    return lambda result: (result.facts.get("bar") or {key: math.inf})[key]


def steps_per_second(result: Result) -> float:
    return result.final("charts/SPS")


def gathering_rate(result: Result) -> float:
    """Steps per second while gathering, in a usual update."""
    return result.final("global_step") / result.facts["updates"] / result.facts["median time/rollout"]


def rollout_share(result: Result) -> float:
    times = [result.facts[f"median {column}"] for column in ("time/rollout", "time/learn")]
    return times[0] / sum(times)


def times(x: float) -> str:
    return f"{number(x)}x"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def each(value):
    """A column of a table: one figure per seed."""
    return lambda seeds: " / ".join(number(value(seed)) for seed in seeds)


# --- the post's experiments --------------------------------------------------------------


def best_fixed(results: Results, env: str) -> str:
    """The fixed setting with the best mean return at the end."""
    return max(FIXED, key=lambda name: plot.mean(s.final(RETURN) for s in results[f"trpo-post-{env.lower()}-{name}"]))


def post_figure(results: Results, path: Path):
    """Groups down, environments across; what the post's own logs hold as crosses."""
    with plot.figure(path, len(GROUPS), 3, size=(15.1, 15.5), dpi=110) as panels:
        grid = iter(panels)
        for group, settings in GROUPS.items():
            for env, budget in BUDGETS.items():
                axes, late = next(grid), []
                for i, setting in enumerate(settings):
                    best = setting == "best"
                    seeds = results[f"trpo-post-{env.lower()}-{best_fixed(results, env) if best else setting}"]
                    color, line = (plot.BLACK, "--") if best else (plot.COLORS[i], "-")
                    label = "best fixed setting of the grid" if best else SETTINGS[setting]
                    plot.curves(axes, seeds, "global_step", RETURN, label, color, line, scale=1e-6)
                    late += [seed[RETURN][seed["global_step"] >= 0.05 * budget] for seed in seeds]
                    for row in plot.published("trpo_post", environment=env, setting=LOGGED.get(setting, setting)):
                        if float(row["timesteps"]) <= budget:
                            axes.plot(float(row["timesteps"]) * 1e-6, float(row["return"]), "x", color=color)
                late = np.concatenate(late)  # the steep beginning would press the rest together
                margin = 0.06 * (np.nanmax(late) - np.nanmin(late))
                axes.set_ylim(np.nanmin(late) - margin, np.nanmax(late) + margin)
                axes.set(title=f"{env}-v5: {group}", xlabel="environment steps (millions)")
                axes.set_ylabel("return (last 100 episodes)" if env == "Reacher" else "")
            axes.plot([], [], "x", color=plot.GREY, label="the post's logs (Gym v1)")
            axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)


def post_table(results: Results, env: str) -> str:
    """Every setting of the post's experiments, beside what the post's logs hold at the same number of steps."""
    budget, best = BUDGETS[env], best_fixed(results, env)
    step = COMPARED.get(env, budget)

    def logs(seeds: list[Result]) -> str:
        setting = seeds[0].name.split("-", 3)[3]
        rows = plot.published("trpo_post", environment=env, setting=LOGGED.get(setting, setting))
        return " / ".join(row["return"] for row in rows if float(row["timesteps"]) == step) or "-"

    columns = {
        f"return at {step / 1e6:g} M": each(lambda seed: seed.at(step)),
        f"the post's logs at {step / 1e6:g} M": logs,
        **({f"return at {budget / 1e6:g} M": each(lambda seed: seed.final(RETURN))} if step < budget else {}),
        "largest fall": each(lambda seed: seed.facts["largest_fall"]),
        "updates": each(lambda seed: seed.facts["updates"]),
        "CPU seconds": each(lambda seed: seed.cpu),
    }
    ours = {
        label + " (best fixed)" * (setting == best): results[f"trpo-post-{env.lower()}-{setting}"]
        for setting, label in SETTINGS.items()
    }
    return plot.beside("setting", ours, columns)


def again_table(results: Results) -> str:
    """Two of the post's settings by the new file beside the old one's seeds."""
    ours = {}
    for setting in ("steps1000", "adapt-both"):
        ours[SETTINGS[setting]] = results[f"trpo-again-reacher-{setting}"]
        ours[f"{SETTINGS[setting]}, the table's"] = results[f"trpo-post-reacher-{setting}"]
    points = {f"{step:g} M steps": each(lambda seed, step=step: seed.at(step * 1e6)) for step in (0.05, 0.1, 0.145)}
    return plot.beside("Reacher-v5, mean return after", ours, {"seeds": plot.count, **points})


# --- speed -------------------------------------------------------------------------------


def compare(ours: list[Result], value):
    """A column: median of the seeds' ratios, theirs / ours. Where a seed never arrived it is a lower bound."""

    def cell(theirs: list[Result]) -> str:
        found = ratios(theirs, ours, value)
        if theirs is ours or not found:
            return "1" if theirs is ours else "-"
        if math.isinf(plot.sorted_median(found)):
            seconds = [min(value(seed), seed.final("global_step") / steps_per_second(seed)) for seed in theirs]
            return f"over {times(plot.sorted_median(seconds) / plot.sorted_median(list(map(value, ours))))}"
        return median(found, times)

    return cell


def speed_table(results: Results) -> str:
    """Steps per second at the same batch, seconds and memory."""
    ours = results["trpo-speed-reacher"]
    columns = {
        "steps/s": lambda seeds: median(map(steps_per_second, seeds)),
        "ours is faster": compare(ours, lambda result: 1 / steps_per_second(result)),
        "gathering, steps/s": lambda seeds: median(map(gathering_rate, seeds)),
        "share of gathering": lambda seeds: median(map(rollout_share, seeds), percent),
        "memory, MB": lambda seeds: median(seed.summary["peak_memory_mb"] for seed in seeds),
    }
    programs = {label: results[f"{name}-speed-reacher"] for name, label in SPEED.items()}
    return plot.beside("program", programs, columns)


def gathering_table(results: Results) -> str:
    """Our gathering against what the environment allows."""
    raw, ours, rows = results["raw-stepping-reacher"], results["trpo-speed-reacher"], []
    for label, limit in {
        "one core, times the cores": lambda result: result.final("raw/one_core_SPS") * result.final("raw/cores"),
        "all cores at once": lambda result: result.final("raw/all_cores_SPS"),
    }.items():
        shares = [ratios(ours, raw, value, limit) for value in (gathering_rate, steps_per_second)]
        rows.append([label, median(map(limit, raw)), *(median(share, percent) for share in shares)])
    header = ["raw `env.step` on Reacher-v5", "steps/s", "our gathering reaches", "our whole training reaches"]
    return plot.table(header, rows)


def race_table(results: Results) -> str:
    """Steps and seconds to the bar."""
    columns = {
        "seeds that arrive": lambda seeds: plot.arrived(map(to_bar("seconds"), seeds)),
        "steps": lambda seeds: median(map(to_bar("global_step"), seeds)),
        "seconds": lambda seeds: median(map(to_bar("seconds"), seeds)),
        "ours is faster": compare(results["trpo-to5-ours"], to_bar("seconds")),
    }
    return plot.beside("program and settings", {label: results[name] for name, label in RACE.items()}, columns)


def actors(results: Results, path: Path) -> str:
    """Seconds per update, and how much faster an update becomes, beside the post's: the table and the figure."""
    counts = {n: seeds for n in (1, 2, 4, 8, 16) if (seeds := results.by_name.get(f"trpo-actors-{n}"))}
    rollout = {n: plot.mean(seed.facts["median time/rollout"] for seed in seeds) for n, seeds in counts.items()}
    total = {n: rollout[n] + plot.mean(s.facts["median time/learn"] for s in seeds) for n, seeds in counts.items()}
    rows = plot.published("trpo_actors")
    theirs = {int(row["actors"]): float(row["rollout_seconds"]) + float(row["learn_seconds"]) for row in rows}
    theirs = {n: whole for n, whole in theirs.items() if n <= max(*counts, 4)}
    with plot.figure(path) as (axes,):
        for found, line, label in (
            (total, "o-", "ours, whole update"),
            (rollout, "s--", "ours, gathering alone"),
            (theirs, "x:", "the post, whole update (5 cores)"),
        ):
            axes.plot(found.keys(), [found[1] / x for x in found.values()], line, label=label)
        axes.set(title="Reacher-v5: speed-up over one actor", xlabel="actors", ylabel="times faster")
        axes.set_xticks(sorted({*counts, *theirs}))
    columns = {
        "seconds gathering": plot.fact("median time/rollout"),
        "seconds learning": plot.fact("median time/learn"),
        "memory of the largest process, MB": lambda seeds: median(seed.summary["peak_memory_mb"] for seed in seeds),
    }
    return plot.beside("actors", {str(n): seeds for n, seeds in counts.items()}, columns)


def humanoid_figure(results: Results, path: Path):
    """Return, and under it the steps per update and the KL bound."""
    labels = {
        "trpo-humanoid-none": "fixed: 5,000 steps, KL .01",
        "trpo-humanoid-both": "adapt both, 5 % margin, from 1,000 steps, KL .001",
    }
    ylabels = {RETURN: "return (last 100 episodes)", STEPS: "steps per update", KL: "KL bound (nats)"}
    with plot.figure(path, 3, size=(9, 8), sharex=True, height_ratios=[2, 1, 1]) as panels:
        for axes, (column, ylabel) in zip(panels, ylabels.items(), strict=True):
            for name, label in labels.items():
                plot.curves(axes, results[name], "global_step", column, label, scale=1e-6)
            axes.set_ylabel(ylabel)
        panels[0].set_title("Humanoid-v5: each seed, their mean and band")
        panels[0].legend(loc="lower right")
        panels[-1].set_xlabel("environment steps (millions)")


def draw(results: Results, folder: Path) -> dict[str, str]:
    post_figure(results, folder / "post.png")
    humanoid_figure(results, folder / "humanoid.png")
    raw, adapted = results["raw-stepping-reacher"], results["trpo-post-reacher-adapt-both-margin"]
    reacher = number(plot.mean(seed.at(1e6) for seed in adapted))
    return {
        **{env.lower(): post_table(results, env) for env in BUDGETS},
        "again": again_table(results),
        "actors": actors(results, folder / "actors.png"),
        "speed": speed_table(results),
        "gathering": gathering_table(results),
        "one-core": median(seed.final("raw/one_core_SPS") for seed in raw),
        "race": race_table(results),
        "number": f"Reacher-v5 {reacher} after 1 M steps, both adapted (the post, v1: -5.2)",
    }
