"""Figures and tables of algos/trpo_parallel.py, for benchmarks/plot.py."""

import math

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results, median, number, ratios

RETURN = "charts/episodic_return_100"
COLUMNS = ["global_step", RETURN, "charts/SPS", "charts/max_kl", "charts/steps_per_update"]
COLUMNS += ["time/rollout", "time/learn", "time/elapsed", "raw/all_cores_SPS"]
ENVIRONMENTS = {  # where training ends, where the post's logs are compared, limits of the figure
    "Reacher": (1e6, 1e6, (-25, -3)),
    "Swimmer": (2e6, 2e6, (-5, 112)),
    "HalfCheetah": (3e6, 2e6, (-450, 8000)),
}
SETTINGS = {
    "steps1000": "1,000 steps, KL .001",
    "steps5000": "5,000 steps, KL .001",
    "steps20000": "20,000 steps, KL .001 (the post's)",
    "kl005": "20,000 steps, KL .005",
    "kl010": "20,000 steps, KL .010",
    "adapt-steps": "adapt steps",
    "adapt-kl": "adapt KL",
    "adapt-both": "adapt both",
    "adapt-steps-margin": "adapt steps, 5 % margin",
    "adapt-kl-margin": "adapt KL, 5 % margin",
    "adapt-both-margin": "adapt both, 5 % margin",
    "linear": "20,000 steps, KL .001, linear value function",
    "adapt-kl-linear": "adapt KL, linear value function",
}
COLORS = dict(zip(SETTINGS, [plot.COLORS[i] for i in (0, 1, 6, 1, 2, 3, 4, 5, 3, 4, 5)], strict=False))
FIXED = ["steps1000", "steps20000", "kl010"]  # the best of each environment, and the post's
GROUPS = {
    "steps per update": ["steps1000", "steps5000", "steps20000"],
    "maximum KL": ["steps20000", "kl005", "kl010"],
    "adaptation": [*FIXED, "adapt-steps", "adapt-kl", "adapt-both"],
    "adaptation with a margin": [*FIXED, "adapt-steps-margin", "adapt-kl-margin", "adapt-both-margin"],
}
RACE = {
    "trpo-to5-ours": "`algos/trpo_parallel.py`, 16 x 128 steps, KL .03, log std -1",
    "trpo-to5-single": "`algos/trpo.py`, one process, 16 x 128 steps, KL .02, log std -1",
    "sb3-to5-best": "sb3-contrib, its best settings: 16 x 312 steps, KL .01",
    "sb3-to5-ours": "sb3-contrib with our settings: 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-same-kl": "sb3-contrib with our settings and our KL bound: the same, its KL .015",
    "trpo-post-start": "`algos/trpo_parallel.py` as the post starts: 1 actor, 20,000 steps, KL .001, log std 0",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: when the bar was reached, and the time of a usual update."""
    found = {"updates": len(columns["update"])}
    if name in RACE:
        found["bar"] = reached(columns, -5)
    for column in [name for name in ("time/rollout", "time/learn") if name in columns]:
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


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def at(steps: float):
    """A column of a table: the return after so many steps, one figure per seed."""
    return lambda seeds: " / ".join(number(seed.at(steps)) for seed in seeds) or "-"


def logs(env: str, setting: str) -> list[dict[str, str]]:
    """What the post's logs hold; for 1,000 steps the nearest that it published, 1,500."""
    return plot.published("trpo_post", environment=env, setting=setting.replace("steps1000", "steps1500"))


def post_figure(results: Results, path):
    """Groups down, environments across; what the post's own logs hold as crosses."""
    with plot.figure(path, len(GROUPS), 3, size=(15.1, 12.5), dpi=110) as panels:
        grid = iter(panels)
        for group, settings in GROUPS.items():
            for env, (budget, _, limits) in ENVIRONMENTS.items():
                axes = next(grid)
                for setting in settings:
                    seeds = results[f"trpo-post-{env.lower()}-{setting}"]
                    plot.curves(axes, seeds, "global_step", RETURN, SETTINGS[setting], COLORS[setting], scale=1e-6)
                    rows = logs(env, setting)
                    steps, returns = ([float(row[key]) for row in rows] for key in ("timesteps", "return"))
                    axes.plot(1e-6 * np.array(steps), returns, "x", color=COLORS[setting])
                axes.set(title=f"{env}-v5: {group}", xlabel="environment steps (millions)")
                axes.set(xlim=(0, 1.02e-6 * budget), ylim=limits)
                axes.set_ylabel("return (last 100 episodes)" if env == "Reacher" else "")
            axes.plot([], [], "x", color=plot.GREY, label="the post's logs (Gym v1;\n1,500 steps beside our 1,000)")
            axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)


def post_table(results: Results) -> str:
    """Every setting of the post's experiments, beside what the post's logs hold at the same number of steps."""
    header, rows = ["setting"], {setting: [label] for setting, label in SETTINGS.items()}
    for env, (budget, compared, _) in ENVIRONMENTS.items():
        header += [f"{env}, {compared / 1e6:g} M", "the post's logs", *[f"{budget / 1e6:g} M"] * (compared < budget)]
        for setting, cells in rows.items():
            seeds = results[f"trpo-post-{env.lower()}-{setting}"]
            theirs = [row["return"] for row in logs(env, setting) if float(row["timesteps"]) == compared]
            cells += [at(compared)(seeds), " / ".join(theirs) or "-"]
            if compared < budget:
                cells.append(" / ".join(number(seed.final(RETURN)) for seed in seeds) or "-")
    return plot.table(header, [cells for cells in rows.values() if {*cells[1:]} != {"-"}])  # those that were run


def compare(ours: list[Result], value):
    """A column: median of the seeds' ratios, theirs / ours."""

    def times(x: float) -> str:
        return number(x) + "x" * math.isfinite(x)

    return lambda theirs: "1" if theirs is ours else median(ratios(theirs, ours, value), times)


def speed_table(results: Results) -> str:
    """Steps per second at the same batch, and where the time goes."""
    ours = results["trpo-speed-reacher"]

    def rollout_share(result: Result) -> float:
        rollout, learn = (result.facts[f"median time/{part}"] for part in ("rollout", "learn"))
        return rollout / (rollout + learn)

    programs = {"`algos/trpo_parallel.py`": ours, "sb3-contrib": results["sb3-speed-reacher"]}
    columns = {
        "steps/s": lambda seeds: median(map(steps_per_second, seeds)),
        "ours is faster": compare(ours, lambda result: 1 / steps_per_second(result)),
        "gathering, steps/s": lambda seeds: median(map(gathering_rate, seeds)),
        "share of gathering": lambda seeds: median(map(rollout_share, seeds), percent),
    }
    return plot.beside("program", programs, columns)


def raw_rate(result: Result) -> float:
    """Steps per second of the environment itself, on all cores."""
    return result.final("raw/all_cores_SPS")


def race_table(results: Results) -> str:
    """Steps and seconds to the bar."""
    columns = {
        "seeds that arrive": lambda seeds: plot.arrived(map(to_bar("seconds"), seeds)),
        "steps": lambda seeds: median(map(to_bar("global_step"), seeds)),
        "seconds": lambda seeds: median(map(to_bar("seconds"), seeds)),
        "ours is faster": compare(results["trpo-to5-ours"], to_bar("seconds")),
    }
    return plot.beside("program and settings", {label: results[name] for name, label in RACE.items()}, columns)


def draw(results: Results, folder) -> dict[str, str]:
    post_figure(results, folder / "post.png")
    actors = {("Reacher", n): results.by_name.get(f"trpo-actors-{n}") for n in ("1", "2", "4", "8", "16")}
    for env in ("Swimmer", "HalfCheetah"):
        actors |= {(env, n): results.by_name.get(f"trpo-actors-{env.lower()}-{n}") for n in ("1", "2")}
    theirs = {row["actors"]: row["rollout_seconds"] for row in plot.published("trpo_actors")}
    times = {
        "seconds gathering": plot.fact("median time/rollout"),
        "the post's": lambda seeds: theirs.get(seeds[0].name.removeprefix("trpo-actors-"), "-"),
        "seconds learning": plot.fact("median time/learn"),
    }
    humanoid = {
        "fixed: 5,000 steps, KL .01": results["trpo-humanoid-none"],
        "adapt both, 5 % margin, from 1,000 steps, KL .001": results["trpo-humanoid-both"],
    }
    returns = {"seeds": plot.count, "training": RETURN, "deterministic": "eval/episodic_return"}
    adapted = results["trpo-post-reacher-adapt-both-margin"]
    seconds = [seed.cpu for seed in results if seed.name.startswith("trpo-post-") and seed.name != "trpo-post-start"]
    raw, speed = results["raw-stepping-reacher"], results["trpo-speed-reacher"]
    return {
        "post": post_table(results),
        "cpu": median(seconds),
        "actors": plot.beside(("environment", "actors"), actors, times),
        "humanoid": plot.beside("Humanoid-v5, return after 1 M steps", humanoid, returns | {"CPU seconds": plot.cpu}),
        "speed": speed_table(results),
        "raw": median(map(raw_rate, raw)),
        "gathering": median(ratios(speed, raw, gathering_rate, raw_rate), percent),
        "training": median(ratios(speed, raw, steps_per_second, raw_rate), percent),
        "race": race_table(results),
        "number": f"Reacher-v5 {number(plot.mean(seed.at(1e6) for seed in adapted))} after 1 M steps, both adapted "
        "(the post, v1: -5.2)",
    }
