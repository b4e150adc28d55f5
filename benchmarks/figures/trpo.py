"""Figures and tables of algos/trpo.py, for benchmarks/plot.py."""

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
    spread,
    table,
)

RETURN, EVALUATION = "charts/episodic_return_100", "eval/episodic_return"
COLUMNS = [
    "global_step", RETURN, "charts/max_kl", "charts/steps_per_update", "time/rollout", "time/learn", "time/elapsed",
    "raw/one_core_SPS", "raw/all_cores_SPS", "raw/cores",
]  # fmt: skip
BAR = -5.0  # mean return that the race on Reacher runs to
BATCH = 4992  # steps per update in the speed test
ENVIRONMENTS = ["Reacher", "Swimmer", "HalfCheetah", "Hopper", "Walker2d", "Ant", "InvertedPendulum"]
HIGHER_ELSEWHERE = ["Swimmer", "Hopper", "Walker2d", "Ant"]  # where sb3-contrib's published return is above ours
CODES = {  # published after one million steps: colour and line
    "OpenAI baselines": (VERMILLION, "--"),
    "Spinning Up": (ORANGE, "-."),
    "Tianshou": (GREEN, ":"),
    "sb3-contrib": (PURPLE, "--"),
    "RL Zoo": (SKY, "-."),
}
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
LOGGED = {"steps1000": "steps1500"}  # the nearest there is in the post's logs
CPU_SECONDS = "time/cpu"  # a column that add_cpu_seconds makes
POST_FIGURES = {"environment steps": "", "updates": "_updates", "CPU seconds": "_seconds"}
LINEAR = {"linear": "20,000 steps, KL .001, linear value function"}


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
    enough = np.ones(len(columns[RETURN]), dtype=bool)
    if "charts/episodic_length" in columns:
        length = columns["charts/episodic_length"]
        ended = np.diff(columns["global_step"], prepend=0) / np.where(np.isnan(length), np.inf, length)
        enough = np.cumsum(ended) >= 100
    rows = np.flatnonzero(enough & (columns[RETURN] >= bar))
    if not len(rows):
        return None
    return {"global_step": int(columns["global_step"][rows[0]]), "seconds": float(columns["time/elapsed"][rows[0]])}


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


# --- (a) learning curves beside the published tables -----------------------------------------


def environments_figure(results: Results, published: list[dict], path: Path):
    """One panel per environment; published returns after a million steps as horizontal lines."""
    figure = Figure(figsize=(14, 6.6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for env, axes in zip(ENVIRONMENTS, panels, strict=False):
        seeds = results[f"trpo-envs-{env.lower()}"]
        curves(axes, seeds, "global_step", RETURN, BLUE, scale=1e-6)
        if seeds:
            ends = [seed.final("global_step") * 1e-6 for seed in seeds]
            axes.plot(ends, [seed.final(EVALUATION) for seed in seeds], "D", markersize=4, color=BLACK, clip_on=False)
        else:
            not_run(axes)
        for row in published:
            if row["environment"] == env and int(row["timesteps"]) == 1_000_000:
                color, linestyle = CODES[row["code"]]
                axes.axhline(float(row["return"]), color=color, linestyle=linestyle, linewidth=1.3)
        count = f", {len(seeds)} seed{'s' * (len(seeds) > 1)}" if seeds else ""
        axes.set(title=f"{env}-v5{count}", xlabel="environment steps (millions)", xlim=(0, 1.02))
        axes.grid(alpha=0.25)
        if env == "Reacher":
            axes.set_ylim(-30, -2)
        if env in ("Reacher", "Walker2d"):
            axes.set_ylabel("return (last 100 episodes)")
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="algos/trpo.py: mean of the seeds, training (± std of five)"),
        Line2D([], [], color=BLUE, linewidth=0.6, alpha=0.6, label="each seed"),
        Line2D([], [], color=BLACK, marker="D", linestyle="", markersize=4, label="each seed, most likely actions"),
    ]
    for code, (color, linestyle) in CODES.items():
        rows = [row for row in published if row["code"] == code and int(row["timesteps"]) == 1_000_000]
        what = {"training": "training", "evaluation": "deterministic", "maximum": "best test"}[rows[0]["measured"]]
        versions = "/".join(sorted({row["version"] for row in rows}))
        label = f"{code} ({versions} environments, {what})"
        handles.append(Line2D([], [], color=color, linestyle=linestyle, linewidth=1.3, label=label))
    *_, last = figure.axes
    last.axis("off")
    title = "Lines across: published, TRPO after 1 M steps"
    last.legend(handles=handles, loc="center left", frameon=False, fontsize=9, title=title)
    save(figure, path, dpi=110)


def published_columns(published: list[dict]) -> dict[str, dict[str, dict]]:
    """One column per code and budget: its header and its rows by environment."""
    columns = {}
    for row in published:
        columns.setdefault((row["code"], int(row["timesteps"])), {})[row["environment"]] = row
    named = {}
    for (code, steps), rows in columns.items():
        versions = "/".join(sorted({row["version"] for row in rows.values()}))
        named[f"{code} ({versions}, {steps // 10**6} M)"] = rows
    return named


def shortfall(row: dict, training: float, evaluation: float) -> float:
    """How far we are below a published return, like measured against like; negative above it."""
    return float(row["return"]) - (training if row["measured"] == "training" else evaluation)


def environments_tables(results: Results, published: list[dict]) -> tuple[str, str]:
    """The full table for results/, and the compact one for the README: a million steps, more than one run."""
    columns = published_columns(published)
    million = {name: rows for name, rows in columns.items() if name.endswith(" 1 M)")}
    short = {name.replace(", 1 M)", ")"): rows for name, rows in million.items() if not name.startswith("RL Zoo")}
    full, compact, used = [], [], []
    for env in ENVIRONMENTS:
        seeds = results[f"trpo-envs-{env.lower()}"]
        used += seeds
        training, evaluation = ([seed.final(c) for seed in seeds] for c in (RETURN, EVALUATION))
        ours = [spread(training), spread(evaluation)]
        missed = "not run"
        if seeds:
            gaps = {
                name: shortfall(rows[env], np.mean(training), np.mean(evaluation))
                for name, rows in million.items()
                if env in rows
            }
            name = max(gaps, key=gaps.get)
            missed = f"{number(gaps[name])} below {name.split(' (')[0]}" if gaps[name] > 0 else "none"
        first = [f"{env}-v5", f"**{ours[0]}**", f"**{ours[1]}**"]
        full.append([*first, missed, *(published_cell(rows.get(env)) for rows in columns.values())])
        compact.append([*first, *(published_cell(rows.get(env)) for rows in short.values())])
    counts = {len(results[f"trpo-envs-{env.lower()}"]) for env in ENVIRONMENTS} - {0}
    seeds = f"{' or '.join(map(str, sorted(counts)))} seeds"
    ours = [f"`algos/trpo.py`, training ({seeds})", "same, most likely actions"]
    notes = [
        "Returns after training, mean ± standard deviation over seeds. Training: last 100 episodes, actions sampled. "
        "Most likely actions: 100 fresh episodes after training. The environments of the published columns are older "
        "versions (in brackets, with the budget): v5 pays no alive bonus on the last step of Hopper, Walker2d, Ant and "
        "InvertedPendulum, charges Ant for contacts, changed Walker2d's feet and Reacher's reward.",
        "Largest shortfall: against the published returns at the same budget of a million steps; training returns with "
        "training returns, the others with our most likely actions.",
        "KL bounds are not comparable between codes: sb3-contrib, and RL Zoo with it, takes the mean of the KL "
        "divergence over the numbers of an action instead of their sum, so its .01 allows .08 on Ant, .06 on Walker2d "
        "and HalfCheetah.",
        "Measured on: " + machines(used) + ".",
    ]
    sources = [
        [name, *dict.fromkeys(row["protocol"] for row in rows.values()), next(iter(rows.values()))["source"]]
        for name, rows in columns.items()
    ]
    text = "\n\n".join(
        [
            "# TRPO after a million steps",
            table(["environment", *ours, "largest shortfall", *columns], full),
            *notes,
            "## The same versions",
            "Most likely actions over 100 episodes after a million steps (number of seeds). The oldest version that "
            "Gymnasium still has is v4, whose curves are v3's, its documentation says. sb3-contrib measured here: RL "
            "Zoo's settings, from which the published returns come.",
            versions_table(results, published),
            "## Ant and the Fisher matrix",
            "Ant-v5 has 105 observations. Averaged over every tenth step of a batch, 205 states, the Fisher matrix is "
            "blind to most directions; more of the identity beside it, or more states, keep the step out of those.",
            fisher_table(results),
            "## Where the published returns stand",
            table(["code (environments, steps)", "protocol", "place"], sources, left=3),
        ]
    )
    return text + "\n", table(["environment", *ours, *short], compact)


def versions_table(results: Results, published: list[dict]) -> str:
    """Ours on an older version and sb3-contrib on the newest, where its published return is higher than ours."""
    rows = []
    for env in HIGHER_ELSEWHERE:
        measured = [results[f"{name}-{env.lower()}"] for name in ("trpo-envs", "sb3-envs", "trpo-v4")]
        evaluations = [[seed.final(EVALUATION) for seed in seeds] for seeds in measured]
        cells = [f"{spread(values)} ({len(values)})" if values else "-" for values in evaluations]
        theirs = {row["code"]: row for row in published if row["environment"] == env and row["timesteps"] == "1000000"}
        rows.append([env, *cells, *(published_cell(theirs.get(code)) for code in ("sb3-contrib", "RL Zoo"))])
    header = ["", "v5: `algos/trpo.py`", "v5: sb3-contrib, measured here", "v4: `algos/trpo.py`"]
    header += ["v3: sb3-contrib, published", "v3: RL Zoo, published"]
    return table(header, rows)


def fisher_table(results: Results) -> str:
    """Ant with few states in the Fisher matrix, with more damping, and with more states."""
    settings = {
        "trpo-ant-plain": "every tenth step, damping .1 (the defaults)",
        "trpo-envs-ant": "every tenth step, damping 3",
        "trpo-ant-stride1": "every step, damping .1",
    }
    rows = []
    for name, label in settings.items():
        seeds = results[name]
        returns = [spread(seed.final(column) for seed in seeds) for column in (RETURN, EVALUATION)]
        rows.append([label, str(len(seeds)), *returns])
    return table(["Fisher matrix of", "seeds", "training", "most likely actions"], rows)


def published_cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return row["return"] + (f" ± {row['spread']}" if row["spread"] else "")


# --- (b) the post's experiments --------------------------------------------------------------


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


def add_cpu_seconds(results: Results):
    """A column of seconds of training on one core, without those in which the core was another run's.

    The summary has them for the whole process; training has had the same share of the core as that.
    """
    for name in results.all:
        for seed in results[name] if name.startswith("trpo-post-") else []:
            share = seed.summary["cpu_seconds"] / seed.summary["seconds"]
            seed.columns[CPU_SECONDS] = seed["time/elapsed"] * share


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


def post_figure(results: Results, published: list[dict], x: str, xlabel: str, path: Path, scale: float = 1.0):
    """Groups down, environments across; over environment steps with the post's own figures as crosses."""
    groups, environments = post_groups(), post_environments(results)
    figure = Figure(figsize=(4 + 3.7 * len(environments), 3.1 * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), len(environments), squeeze=False)
    for (group, settings), line in zip(groups.items(), grid, strict=True):
        for (env, budget), axes in zip(environments.items(), line, strict=True):
            shown, empty = [], True
            for setting, (label, color, linestyle) in settings.items():
                actual = best_fixed(results, env) if setting == "best" else setting
                seeds = results[f"trpo-post-{env.lower()}-{actual}"] if actual else []
                curves(axes, seeds, x, RETURN, color, label, linestyle, scale)
                empty &= not seeds
                for seed in seeds:
                    later = seed[RETURN][(seed["global_step"] >= 0.05 * budget) & ~np.isnan(seed[RETURN])]
                    shown += later.tolist()
                for row in post_logs(published, env, setting) if x == "global_step" else []:
                    if float(row["timesteps"]) <= budget:
                        axes.plot(float(row["timesteps"]) * scale, float(row["return"]), "x", color=color, markersize=6)
            if shown:  # the steep beginning would press the rest together
                margin = 0.06 * (max(shown) - min(shown)) + 1e-9
                axes.set_ylim(min(shown) - margin, max(shown) + margin)
            if empty:
                not_run(axes)
            axes.set(title=f"{env}-v5: {group}", xlabel=xlabel)
            axes.grid(alpha=0.25)
            if x == "update":
                axes.set_xscale("log")
        line[0].set_ylabel("return (last 100 episodes)")
        handles = [Line2D([], [], color=c, linestyle=ls, label=label) for label, c, ls in settings.values()]
        if x == "global_step":
            handles.append(Line2D([], [], color=GREY, marker="x", linestyle="", label="the post's logs (Gym v1)"))
        line[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    save(figure, path, dpi=110)


def post_tables(results: Results, published: list[dict]) -> str:
    """Every setting of the post's experiments, beside what the post's logs hold at the same number of steps."""
    environments = post_environments(results)
    missing = [f"{env}-v5" for env in POST if env not in environments]
    parts, used = ["# The post's experiments"], []
    if missing:
        parts += [f"Not run yet: {' and '.join(missing)} (`./benchmark.sh trpo-post`)."]
    parts += [f"![Returns over {x}](post{name}.png)" for x, name in POST_FIGURES.items()]
    for env, budget in environments.items():
        step, rows = POST_COMPARED_AT[env], []
        for setting, label in (FIXED | ADAPTED | LINEAR).items():
            seeds = results[f"trpo-post-{env.lower()}-{setting}"]
            used += seeds
            logs = [row["return"] for row in post_logs(published, env, setting) if float(row["timesteps"]) == step]
            best = " (best fixed)" if setting == best_fixed(results, env) else ""
            rows.append(
                [
                    label + best,
                    each(seed.at(step) for seed in seeds),
                    " / ".join(logs) or "-",
                    *([each(seed.final(RETURN) for seed in seeds)] if budget != step else []),
                    each(seed.summary["facts"]["largest_fall"] for seed in seeds),
                    each(seed.summary["facts"]["updates"] for seed in seeds),
                    each(seed[CPU_SECONDS][-1] for seed in seeds),
                ]
            )
        compared, end = f"{step / 1e6:g} M", f"{budget / 1e6:g} M"
        header = ["setting", f"return at {compared}", f"the post's logs at {compared}"]
        header += [f"return at {end}"] if budget != step else []
        parts += [f"## {env}-v5", table([*header, "largest fall", "updates", "CPU seconds"], rows)]
    parts += [
        "One figure per seed. Return: mean of the last 100 training episodes. Largest fall: how far that mean ever lay "
        "below an earlier one, a measure of steadiness. CPU seconds: of training, on one core, the others busy. The "
        "post ran Gym's v1 environments with a ReLU policy, a first standard deviation of about 1 and the linear value "
        "function throughout; beside our 1,000 steps stand its logs of 1,500, the nearest it published.",
        "Measured on: " + machines(used) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def post_block(results: Results, published: list[dict]) -> str:
    """The README's tables: mean return after so many steps, and in brackets that of the post's logs."""
    parts = []
    for env, budget in post_environments(results).items():
        logs = [row for row in published if row["environment"] == env and float(row["timesteps"]) <= budget]
        points, rows = sorted({float(row["timesteps"]) for row in logs}), []
        for setting, label in (FIXED | ADAPTED | LINEAR).items():
            seeds, cells = results[f"trpo-post-{env.lower()}-{setting}"], []
            for step in points:
                theirs = [float(r["return"]) for r in post_logs(logs, env, setting) if float(r["timesteps"]) == step]
                ours = number(float(np.mean([seed.at(step) for seed in seeds])) if seeds else None)
                cells.append(ours + (f" ({number(float(np.mean(theirs)))})" if theirs else ""))
            rows.append([label, *cells])
        header = [f"{env}-v5, mean return after", *(f"{step / 1e6:g} M steps" for step in points)]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def each(values) -> str:
    return " / ".join(map(number, values)) or "-"


# --- (c) speed -------------------------------------------------------------------------------

SPEED = {
    "trpo-speed-reacher": "`algos/trpo.py`",
    "sb3-speed-reacher": "sb3-contrib",
    "tianshou-speed-reacher": "Tianshou",
}
RACE = {
    "trpo-to5-ours": "`algos/trpo.py`, defaults: 16 x 128 steps, KL .03, log std -1",
    "trpo-to5-careful": "the same with ten value passes, every step in the Fisher matrix, damping .5",
    "sb3-to5-best": "sb3-contrib, its best settings: 16 x 312 steps, KL .01",
    "sb3-to5-ours": "sb3-contrib with our settings: 16 x 128 steps, KL .03, log std -1",
    "sb3-to5-same-kl": "sb3-contrib with our settings and our KL bound: the same, its KL .015",
    "tianshou-to5": "Tianshou, its MuJoCo example's settings: 16 x 64 steps, KL .01",
    "trpo-post-start": "`algos/trpo.py` as the post starts: 1 actor, 20,000 steps, KL .001, log std 0",
}


def times(x: float) -> str:
    return f"{number(x)}x"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def compare(ours: list[Result], theirs: list[Result], value) -> str:
    """Median of the seeds' ratios, theirs / ours. Where a seed of theirs never arrived it is a lower bound."""
    found = ratios(theirs, ours, value)
    if not found:
        return "-"
    if math.isinf(sorted_median(found)):
        least = [result.final("time/elapsed") if math.isinf(value(result)) else value(result) for result in theirs]
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
                label,
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
                label,
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
        rows.append([str(actors), rollout, learn, median(seed.summary["peak_memory_mb"] for seed in seeds)])
    header = ["actors", "seconds gathering", "seconds learning", "memory of the largest process, MB"]
    return table(header, rows)


# --- (d) Humanoid and (e) actors -------------------------------------------------------------


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


def thumbnail(results: Results, path: Path):
    """A small picture for the README's table: the learning curves on Reacher."""
    figure = Figure(figsize=(2.4, 1.5), layout="constrained")
    axes = figure.subplots()
    curves(axes, results["trpo-envs-reacher"], "global_step", RETURN, BLUE, scale=1e-6)
    axes.set(ylim=(-20, -2))
    axes.set_title("Reacher-v5: return", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.set_xlabel("million steps", fontsize=6)
    save(figure, path, dpi=110)


# --- everything ------------------------------------------------------------------------------


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    blocks = {}
    published = read_rows(PUBLISHED / "trpo.csv")
    if any(results[f"trpo-envs-{env.lower()}"] for env in ENVIRONMENTS):
        environments_figure(results, published, folder / "envs.png")
        text, blocks["trpo-results"] = environments_tables(results, published)
        (folder / "envs.md").write_text(text)
        blocks["trpo-versions"] = versions_table(results, published)
    reacher = results["trpo-envs-reacher"]
    if reacher:
        thumbnail(results, folder / "thumbnail.png")
        theirs = next(float(r["return"]) for r in published if r["environment"] == "Reacher")
        ours = number(np.mean([seed.final(RETURN) for seed in reacher]))
        blocks["trpo-number"] = f"{ours} on Reacher-v5 after 1 M steps (baselines: {number(theirs)} on v2)"
    if any(name.startswith("trpo-post-") and name != "trpo-post-start" for name in results.all):
        logs = read_rows(PUBLISHED / "trpo_post.csv")
        post_figure(results, logs, "global_step", "environment steps (millions)", folder / "post.png", 1e-6)
        post_figure(results, logs, "update", "updates", folder / "post_updates.png")
        add_cpu_seconds(results)
        post_figure(results, logs, CPU_SECONDS, "CPU seconds on one core", folder / "post_seconds.png")
        (folder / "post.md").write_text(post_tables(results, logs))
        blocks["trpo-post"] = post_block(results, logs)
    if results["trpo-humanoid-none"] or results["trpo-humanoid-both"]:
        humanoid_figure(results, folder / "humanoid.png")
    counts = {actors: results[f"trpo-actors-{actors}"] for actors in (1, 2, 4, 8, 16)}
    counts = {actors: seeds for actors, seeds in counts.items() if seeds}
    if counts:
        actors_figure(counts, read_rows(PUBLISHED / "trpo_actors.csv"), folder / "actors.png")
    blocks |= speed_texts(results, counts, folder)
    return blocks


def speed_texts(results: Results, counts: dict, folder: Path) -> dict[str, str]:
    """speed.md and time_to_5.md; returns the README's block."""
    measured = {row["name"]: row for row in read_rows(PUBLISHED / "trpo_speed.csv")}
    names = [*SPEED, *RACE, "raw-stepping-reacher"]
    used = [seed for name in names for seed in results[name]]
    if not used:
        return {}
    machine = "Measured on: " + machines(used) + "."
    notes = [
        "Median (least to greatest) of seeds that run one at a time, nothing else of the benchmark beside them, each "
        "program given all cores; ratios are taken seed by seed. The machine drifts by a third within hours.",
        f"Measured elsewhere: {'; '.join(dict.fromkeys(row['where'] for row in measured.values()))}. No ratio is taken "
        "with these figures.",
    ]
    steps = [
        "# Steps per second",
        f"Training on Reacher-v5 with updates of {BATCH:,} steps (16 environments), 64-64 networks. Gathering: the "
        "steps of an update over its median seconds of gathering. Memory: of the largest process.",
        speed_table(results, measured),
        gathering_table(results, measured),
        "## Seconds per update of 20,000 steps",
        actors_table(counts) if counts else "not run yet",
        *notes,
        machine,
    ]
    (folder / "speed.md").write_text("\n\n".join(steps) + "\n")
    race = [
        f"# Seconds to a return of {BAR:g} on Reacher-v5",
        "From the first environment step to the end of the first update after which the last 100 training episodes "
        "(actions sampled, at least 100 of them) have this mean return.",
        race_table(results, measured),
        "The same number is not the same bound: sb3-contrib 2.9.2 takes the mean of the KL divergence over the numbers "
        "of an action (`kl_divergence(...).mean()` in its trpo.py), where the KL is their sum, so its .03 lets "
        "Reacher's two go as far as .06 here. Its row with .015 has our bound.",
        *notes,
        machine,
    ]
    (folder / "time_to_5.md").write_text("\n\n".join(race) + "\n")
    return {"trpo-speed": speed_block(results) + "\n\n" + machine}


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
