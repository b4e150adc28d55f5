"""Figures and tables of algos/trpo_parallel.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    PURPLE,
    SKY,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    median,
    not_run,
    number,
    ratios,
    read_rows,
    save,
    sorted_median,
    table,
)

RETURN = "charts/episodic_return_100"
COLUMNS = [
    "global_step", RETURN, "charts/SPS", "charts/max_kl", "charts/steps_per_update", "time/rollout", "time/learn",
    "time/elapsed", "raw/one_core_SPS", "raw/all_cores_SPS", "raw/cores",
]  # fmt: skip
BAR = -5.0  # mean return that the race on Reacher runs to
BATCH = 4992  # steps per update in the speed test
OLD = "python algos/trpo.py "  # results that were made before the actors had a file of their own
POST = {"Reacher": 1e6, "Swimmer": 2e6, "HalfCheetah": 3e6}
POST_COMPARED_AT = {"Reacher": 1e6, "Swimmer": 2e6, "HalfCheetah": 2e6}  # a point of the post's own logs, within ours
FIXED = {
    "steps1000": "1,000 steps, KL .001",
    "steps5000": "5,000 steps, KL .001",
    "steps20000": "20,000 steps, KL .001 (the post's)",
    "kl005": "20,000 steps, KL .005",
    "kl010": "20,000 steps, KL .010",
}
ADAPTED = {
    "adapt-steps": "adapt steps",
    "adapt-kl": "adapt KL",
    "adapt-both": "adapt both",
    "adapt-steps-margin": "adapt steps, 5 % margin",
    "adapt-kl-margin": "adapt KL, 5 % margin",
    "adapt-both-margin": "adapt both, 5 % margin",
}
LINEAR = {"linear": "20,000 steps, KL .001, linear value function"}
LOGGED = {"steps1000": "steps1500"}  # the nearest there is in the post's logs
AGAIN = {"steps1000": "1,000 steps, KL .001", "adapt-both": "adapt both"}


# --- one run ---------------------------------------------------------------------------------


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """What a thinned csv would blur: when the bar was reached, the time of a usual update, the largest fall."""
    found = {"updates": len(columns["update"])}
    if name in RACE:
        found["bar"] = reached(columns, BAR)
    if RETURN in columns:
        returns = columns[RETURN][~np.isnan(columns[RETURN])]
        found["largest_fall"] = float((np.maximum.accumulate(returns) - returns).max()) if len(returns) else None
    for column in ("time/rollout", "time/learn"):
        if column in columns:
            usual = columns[column][1:] if len(columns[column]) > 1 else columns[column]  # the first one warms up
            found[f"median {column}"] = float(np.median(usual))
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


def seconds_to_bar(result: Result) -> float:
    return result.summary["facts"]["bar"]["seconds"] if result.summary["facts"].get("bar") else math.inf


def steps_to_bar(result: Result) -> float:
    return result.summary["facts"]["bar"]["global_step"] if result.summary["facts"].get("bar") else math.inf


def steps_per_second(result: Result) -> float:
    return result.final("charts/SPS")


def gathering_rate(result: Result) -> float:
    """Steps per second while gathering, in a usual update."""
    steps = result.final("global_step") / result.summary["facts"]["updates"]
    return steps / result.summary["facts"]["median time/rollout"]


def rollout_share(result: Result) -> float:
    times = [result.summary["facts"][f"median {column}"] for column in ("time/rollout", "time/learn")]
    return times[0] / sum(times)


def old(results: list[Result]) -> str:
    """A mark for results that were made by algos/trpo.py at commit 7b0c269."""
    return " *" if any(result.summary.get("command", "").startswith(OLD) for result in results) else ""


OLD_NOTE = "\\* made by the file at commit 7b0c269, when the actors were a part of `algos/trpo.py`."


# --- the post's experiments --------------------------------------------------------------


def best_fixed(results: Results, env: str) -> str | None:
    """The fixed setting with the best mean return at the end."""
    ends = {}
    for setting in FIXED:
        seeds = results[f"trpo-post-{env.lower()}-{setting}"]
        ends |= {setting: np.mean([seed.final(RETURN) for seed in seeds])} if seeds else {}
    return max(ends, key=ends.get) if ends else None


def post_logs(published: list[dict], env: str, setting: str) -> list[dict]:
    """What the post's own logs hold for a setting."""
    return [row for row in published if (row["environment"], row["setting"]) == (env, LOGGED.get(setting, setting))]


def post_environments(results: Results) -> dict[str, float]:
    """Those that any of the experiments was run on, and their budgets."""
    run = [name.split("-")[2] for name in results.all if name.startswith("trpo-post-") and name != "trpo-post-start"]
    return {env: budget for env, budget in POST.items() if env.lower() in run}


def post_groups() -> dict[str, dict[str, tuple]]:
    """Rows of the figure: setting -> label, colour, line. "best" stands for the environment's best fixed setting."""
    start = {"steps1000": ("start: 1,000 steps, KL .001", SKY, "-")}
    fixed = {"steps20000": (FIXED["steps20000"], GREY, "-"), "best": ("best fixed setting of the grid", BLACK, "--")}
    colors = {"adapt-steps": GREEN, "adapt-kl": ORANGE, "adapt-both": PURPLE}
    return {
        "steps per update": {
            "steps1000": (FIXED["steps1000"], SKY, "-"),
            "steps5000": (FIXED["steps5000"], GREEN, "-"),
            "steps20000": (FIXED["steps20000"], BLUE, "-"),
        },
        "maximum KL": {
            "steps20000": (FIXED["steps20000"], BLUE, "-"),
            "kl005": (FIXED["kl005"], ORANGE, "-"),
            "kl010": (FIXED["kl010"], VERMILLION, "-"),
        },
        "adaptation": start | {name: (ADAPTED[name], color, "-") for name, color in colors.items()} | fixed,
        "adaptation with a margin": start
        | {f"{name}-margin": (ADAPTED[f"{name}-margin"], color, "-") for name, color in colors.items()}
        | fixed,
        "value function": {
            "steps20000": ("network, 20,000 steps, KL .001", BLUE, "-"),
            "linear": ("linear, 20,000 steps, KL .001", VERMILLION, "-"),
        },
    }


def post_figure(results: Results, published: list[dict], path: Path):
    """Groups down, environments across; the post's own figures as crosses."""
    groups, environments = post_groups(), post_environments(results)
    figure = Figure(figsize=(4 + 3.7 * len(environments), 3.1 * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), len(environments), squeeze=False)
    for (group, settings), line in zip(groups.items(), grid, strict=True):
        for (env, budget), axes in zip(environments.items(), line, strict=True):
            shown, empty = [], True
            for setting, (label, color, linestyle) in settings.items():
                actual = best_fixed(results, env) if setting == "best" else setting
                seeds = results[f"trpo-post-{env.lower()}-{actual}"] if actual else []
                curves(axes, seeds, "global_step", RETURN, color, label, linestyle, 1e-6)
                empty &= not seeds
                for seed in seeds:
                    later = seed[RETURN][(seed["global_step"] >= 0.05 * budget) & ~np.isnan(seed[RETURN])]
                    shown += later.tolist()
                for row in post_logs(published, env, setting):
                    if float(row["timesteps"]) <= budget:
                        axes.plot(float(row["timesteps"]) * 1e-6, float(row["return"]), "x", color=color, markersize=6)
            if shown:  # the steep beginning would press the rest together
                margin = 0.06 * (max(shown) - min(shown)) + 1e-9
                axes.set_ylim(min(shown) - margin, max(shown) + margin)
            if empty:
                not_run(axes)
            axes.set(title=f"{env}-v5: {group}", xlabel="environment steps (millions)")
            axes.grid(alpha=0.25)
        line[0].set_ylabel("return (last 100 episodes)")
        handles = [Line2D([], [], color=c, linestyle=ls, label=label) for label, c, ls in settings.values()]
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="", label="the post's logs (Gym v1)"))
        line[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    save(figure, path, dpi=110)


def post_tables(results: Results, published: list[dict]) -> list[str]:
    """Every setting of the post's experiments, beside what the post's logs hold at the same number of steps."""
    parts, used = [], []
    for env, budget in post_environments(results).items():
        step, rows = POST_COMPARED_AT[env], []
        for setting, label in (FIXED | ADAPTED | LINEAR).items():
            seeds = results[f"trpo-post-{env.lower()}-{setting}"]
            used += seeds
            logs = [row["return"] for row in post_logs(published, env, setting) if float(row["timesteps"]) == step]
            best = " (best fixed)" if setting == best_fixed(results, env) else ""
            rows.append(
                [
                    label + best + old(seeds),
                    each(seed.at(step) for seed in seeds),
                    " / ".join(logs) or "-",
                    *([each(seed.final(RETURN) for seed in seeds)] if budget != step else []),
                    each(seed.summary["facts"]["largest_fall"] for seed in seeds),
                    each(seed.summary["facts"]["updates"] for seed in seeds),
                    each(seed.summary["cpu_seconds"] for seed in seeds),
                ]
            )
        compared, end = f"{step / 1e6:g} M", f"{budget / 1e6:g} M"
        header = ["setting", f"return at {compared}", f"the post's logs at {compared}"]
        header += [f"return at {end}"] if budget != step else []
        parts += [f"### {env}-v5", table([*header, "largest fall", "updates", "CPU seconds"], rows)]
    return [
        *parts,
        "One figure per seed. Return: mean of the last 100 training episodes. Largest fall: how far that mean ever lay "
        "below an earlier one. The post ran Gym's v1 environments with a ReLU policy, a first standard deviation of "
        "about 1 and the linear value function throughout; beside our 1,000 steps stand its logs of 1,500, the nearest "
        "it published.",
        "Measured on: " + machines(used) + ".",
    ]


def again_table(results: Results) -> str:
    """Two of the post's settings by the new file beside the old one's seeds."""
    points, rows = (0.05e6, 0.1e6, 0.145e6), []
    for setting, label in AGAIN.items():
        for name in (f"trpo-again-reacher-{setting}", f"trpo-post-reacher-{setting}"):
            seeds = results[name]
            cells = [each(seed.at(step) for seed in seeds) for step in points]
            rows.append([label + old(seeds), str(len(seeds)), *cells])
    return table(["Reacher-v5, mean return after", "seeds", *(f"{step / 1e6:g} M steps" for step in points)], rows)


def each(values) -> str:
    return " / ".join(map(number, values)) or "-"


# --- speed -------------------------------------------------------------------------------

SPEED = {
    "trpo-speed-reacher": "`algos/trpo_parallel.py`",
    "sb3-speed-reacher": "sb3-contrib",
    "tianshou-speed-reacher": "Tianshou",
}
RACE = {
    "trpo-to5-ours": "`algos/trpo_parallel.py`, 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-best": "sb3-contrib, its best settings: 16 x 312 steps, KL .01",
    "sb3-to5-ours": "sb3-contrib with our settings: 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-same-kl": "sb3-contrib with our settings and our KL bound: the same, its KL .015",
    "tianshou-to5": "Tianshou, its MuJoCo example's settings: 16 x 64 steps, KL .01",
    "trpo-post-start": "`algos/trpo_parallel.py` as the post starts: 1 actor, 20,000 steps, KL .001, log std 0",
}


def times(x: float) -> str:
    return f"{number(x)}x"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def elapsed(result: Result) -> float:
    return result.final("global_step") / result.final("charts/SPS")


def compare(ours: list[Result], theirs: list[Result], value) -> str:
    """Median of the seeds' ratios, theirs / ours. Where a seed of theirs never arrived it is a lower bound."""
    found = ratios(theirs, ours, value)
    if not found:
        return "-"
    if math.isinf(sorted_median(found)):
        least = [elapsed(result) if math.isinf(value(result)) else value(result) for result in theirs]
        return f"over {times(sorted_median(least) / sorted_median([value(result) for result in ours]))}"
    return median(found, times)


def elsewhere(measured: dict[str, dict], name: str, column: str) -> str:
    row = measured.get(name)
    return number(float(row[column])) if row and row[column] else "-"


def speed_table(results: Results, measured: dict[str, dict]) -> str:
    """Steps per second at the same batch, seconds and memory."""
    ours, rows = results["trpo-speed-reacher"], []
    for name, label in SPEED.items():
        seeds = results[name]
        ratio = ratios(ours, seeds, steps_per_second)
        rows.append(
            [
                label + old(seeds),
                median(map(steps_per_second, seeds)),
                "1" if name == "trpo-speed-reacher" else median(ratio, times),
                median(map(gathering_rate, seeds)),
                median(map(rollout_share, seeds), percent),
                median(seed.summary["peak_memory_mb"] for seed in seeds),
                elsewhere(measured, name, "steps_per_second"),
            ]
        )
    header = ["program", "steps/s", "ours is faster", "gathering, steps/s", "share of gathering", "memory, MB"]
    return table([*header, "measured elsewhere, steps/s"], rows)


def gathering_table(results: Results, measured: dict[str, dict]) -> str:
    """Our gathering against what the environment allows."""
    raw, ours = results["raw-stepping-reacher"], results["trpo-speed-reacher"]
    limits = {
        "one core, times the cores": lambda result: result.final("raw/one_core_SPS") * result.final("raw/cores"),
        "all cores at once": lambda result: result.final("raw/all_cores_SPS"),
    }
    rows = []
    for label, limit in limits.items():
        shares = [ratios(ours, raw, value, limit) for value in (gathering_rate, steps_per_second)]
        rows.append([label, median(map(limit, raw)), *(median(share, percent) for share in shares)])
    one = median(result.final("raw/one_core_SPS") for result in raw)
    there = elsewhere(measured, "raw-stepping-reacher", "steps_per_second")
    note = f"Raw stepping on one core: {one} steps/s; measured elsewhere: {there}."
    header = ["raw `env.step` on Reacher-v5", "steps/s", "our gathering reaches", "our whole training reaches"]
    return table(header, rows) + "\n\n" + note


def race_table(results: Results, measured: dict[str, dict]) -> str:
    """Steps and seconds to the bar."""
    ours, rows = results["trpo-to5-ours"], []
    for name, label in RACE.items():
        seeds = results[name]
        arrived = sum(not math.isinf(seconds_to_bar(seed)) for seed in seeds)
        rows.append(
            [
                label + old(seeds),
                f"{arrived} of {len(seeds)}" if seeds else "not run",
                median(map(steps_to_bar, seeds)),
                median(map(seconds_to_bar, seeds)),
                "1" if name == "trpo-to5-ours" else compare(ours, seeds, seconds_to_bar),
                elsewhere(measured, name, "seconds_to_bar"),
            ]
        )
    header = ["program and settings", "seeds that arrive", "steps", "seconds", "ours is faster"]
    return table([*header, "measured elsewhere, seconds"], rows)


def actors_table(counts: dict[int, list[Result]]) -> str:
    rows = []
    for actors, seeds in counts.items():
        rollout, learn = (
            median(seed.summary["facts"][f"median {column}"] for seed in seeds)
            for column in ("time/rollout", "time/learn")
        )
        rows.append(
            [str(actors) + old(seeds), rollout, learn, median(seed.summary["peak_memory_mb"] for seed in seeds)]
        )
    header = ["actors", "seconds gathering", "seconds learning", "memory of the largest process, MB"]
    return table(header, rows)


# --- Humanoid and actors -------------------------------------------------------------


def humanoid_figure(results: Results, path: Path):
    """Return, and under it the steps per update and the KL bound."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    labels = {
        "trpo-humanoid-none": ("fixed: 5,000 steps, KL .01", BLUE),
        "trpo-humanoid-both": ("adapt both, 5 % margin, from 1,000 steps, KL .001", VERMILLION),
    }
    columns = {
        RETURN: "return (last 100 episodes)",
        "charts/steps_per_update": "steps per update",
        "charts/max_kl": "KL bound (nats)",
    }
    for name, (label, color) in labels.items():
        for axes, (column, ylabel) in zip(panels, columns.items(), strict=True):
            curves(axes, results[name], "global_step", column, color, label, scale=1e-6)
            axes.set_ylabel(ylabel)
            axes.grid(alpha=0.25)
    panels[0].set_title("Humanoid-v5: each seed, their mean and band")
    panels[0].legend(loc="lower right", frameon=False)
    panels[-1].set_xlabel("environment steps (millions)")
    save(figure, path)


def actors_figure(counts: dict[int, list[Result]], published: list[dict], path: Path):
    """Seconds per update, and how much faster an update becomes, beside the post's."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    seconds, speedup = figure.subplots(1, 2)
    usual = {
        column: [np.median([seed.summary["facts"][f"median {column}"] for seed in seeds]) for seeds in counts.values()]
        for column in ("time/rollout", "time/learn")
    }
    rollout, learn, places = *(np.array(values) for values in usual.values()), np.arange(len(counts))
    seconds.bar(places, rollout, color=BLUE, label="gathering 20,000 steps")
    seconds.bar(places, learn, bottom=rollout, color=ORANGE, label="learning from them")
    seconds.set_xticks(places, [str(actors) for actors in counts])
    seconds.set(title="Reacher-v5: one update", xlabel="actors", ylabel="seconds (median of updates)")
    seconds.set_ylim(0, 1.25 * (rollout + learn).max())  # room for the legend
    seconds.legend(frameon=False, ncols=2, loc="upper center")
    total = rollout + learn
    theirs = [(int(row["actors"]), float(row["rollout_seconds"]) + float(row["learn_seconds"])) for row in published]
    theirs = [(actors, theirs[0][1] / whole) for actors, whole in theirs if actors <= max(*counts, 4)]
    speedup.plot(list(counts), total[0] / total, "o-", color=BLUE, label="ours, whole update")
    speedup.plot(list(counts), rollout[0] / rollout, "s--", color=SKY, label="ours, gathering alone")
    speedup.plot(*zip(*theirs, strict=True), "x:", color=VERMILLION, label="the post, whole update (5 cores)")
    speedup.set(title="Speed-up over one actor", xlabel="actors", ylabel="times faster")
    speedup.set_xticks(sorted({*counts, *(actors for actors, _ in theirs)}))
    speedup.grid(alpha=0.25)
    speedup.legend(frameon=False)
    save(figure, path)


# --- everything ------------------------------------------------------------------------------


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    logs, measured = (read_rows(PUBLISHED / f"{name}.csv") for name in ("trpo_post", "trpo_speed"))
    measured = {row["name"]: row for row in measured}
    counts = {actors: results[f"trpo-actors-{actors}"] for actors in (1, 2, 4, 8, 16)}
    counts = {actors: seeds for actors, seeds in counts.items() if seeds}
    text = [
        "# TRPO with parallel actors and adaptive parameters",
        "The post [Speeding up TRPO through parallelization and parameter adaptation]"
        "(http://kvfrans.com/speeding-up-trpo-through-parallelization-and-parameter-adaptation/) makes an update three "
        "times faster with five actors, and reaches returns in fewer steps by smaller batches, larger KL bounds and by "
        "adapting both. With [trpo_parallel.py](../../algos/trpo_parallel.py):",
        "    ./benchmark.sh trpo-post trpo-actors trpo-humanoid trpo-speed trpo-to5",
        OLD_NOTE,
    ]
    if post_environments(results):
        post_figure(results, logs, folder / "post.png")
        text += [
            "## The post's experiments",
            "![Returns over environment steps](post.png)",
            *post_tables(results, logs),
        ]
        text += ["### The new file beside the old one", again_table(results)]
    if counts:
        actors_figure(counts, read_rows(PUBLISHED / "trpo_actors.csv"), folder / "actors.png")
        text += ["## Actors", "Seconds per update of 20,000 steps.", "![Actors](actors.png)", actors_table(counts)]
    if results["trpo-humanoid-none"] or results["trpo-humanoid-both"]:
        humanoid_figure(results, folder / "humanoid.png")
        marks = old(results["trpo-humanoid-none"] + results["trpo-humanoid-both"])
        text += [f"## Humanoid{marks}", "![Humanoid with fixed and adapted parameters](humanoid.png)"]
    used = [seed for name in [*SPEED, *RACE, "raw-stepping-reacher"] for seed in results[name]]
    blocks = {}
    if used:
        machine = f"Measured on: {machines(used)}."
        text += [
            "## Speed",
            f"Training on Reacher-v5 with updates of {BATCH:,} steps (16 environments), 64-64 networks. Gathering: the "
            "steps of an update over its median seconds of gathering. Memory: of the largest process.",
            speed_table(results, measured),
            gathering_table(results, measured),
            f"Seconds from the first environment step to the end of the first update after which the last 100 training "
            f"episodes have a mean return of {BAR:g}:",
            race_table(results, measured),
            "sb3-contrib takes the mean of the KL divergence over the numbers of an action, where the KL is their sum: "
            "its .015 is our .03 on Reacher.",
            "Median (least to greatest) of seeds; ratios are taken seed by seed. Measured elsewhere, with no ratio: "
            f"{'; '.join(dict.fromkeys(row['where'] for row in measured.values()))}.",
            machine,
        ]
        blocks["trpo-speed"] = speed_block(results) + "\n\n" + machine
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    if seeds := results["trpo-post-reacher-adapt-both-margin"]:
        ours = number(float(np.mean([seed.at(1e6) for seed in seeds])))
        blocks["trpo_parallel-number"] = f"Reacher-v5 {ours} after 1 M steps, both adapted (the post, v1: -5.2)"
    return blocks


def speed_block(results: Results) -> str:
    """The README's short table: steps per second and seconds to the bar, side by side."""
    best = {"trpo": "trpo-to5-ours", "sb3": "sb3-to5-best", "tianshou": "tianshou-to5"}
    ours, race, rows = results["trpo-speed-reacher"], results["trpo-to5-ours"], []
    for program, name in best.items():
        fast, arrive = results[f"{program}-speed-reacher"], results[name]
        own = program == "trpo"
        rows.append(
            [
                SPEED[f"{program}-speed-reacher"],
                number(sorted_median([steps_per_second(s) for s in fast])) if fast else "-",
                "1" if own else median(ratios(ours, fast, steps_per_second), times),
                number(sorted_median([seconds_to_bar(s) for s in arrive])) if arrive else "-",
                "1" if own else compare(race, arrive, seconds_to_bar),
            ]
        )
    header = ["Reacher-v5", f"steps/s, {BATCH:,} an update", "ours is faster"]
    return table([*header, f"seconds to a return of {BAR:g}", "ours is faster"], rows)
