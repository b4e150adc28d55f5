"""Figures and page of algos/hill_climbing.py beside random search and a policy gradient, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.random_search import COLUMNS as SEARCH
from benchmarks.figures.random_search import FOUND, MEAN, MEDIAN, STEPS, pooled, share_within, trials
from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    SKY,
    VERMILLION,
    Result,
    Results,
    machines,
    number,
    read_rows,
    save,
    table,
)

RETURN = "charts/episodic_return"
PLATEAU = ["plateau/weight", "plateau/value", "plateau/start", "plateau/share_unsolved", "plateau/share_fallen"]
COLUMNS = [*SEARCH, RETURN, f"{RETURN}_se", *PLATEAU]
METHODS = {  # row: what it is called, colour and line style
    "random-v0": ("random search", BLACK, "-"),
    "hill-plain": ("hill climbing, noise 0.1 (the post's)", BLUE, "-"),
    "hill-growth-0.01": ("noise grows by 0.01 per failure", GREEN, "-"),
    "hill-growth-0.1": ("noise grows by 0.1 per failure", GREEN, "--"),
    "hill-episodes-5": ("5 episodes per update", SKY, "-"),
    "hill-noise-0.3": ("noise 0.3", BLUE, "--"),
    "hill-noise-3": ("noise 3", ORANGE, "-"),
    "hill-gradient": ("policy gradient (the post's)", VERMILLION, "-"),
}
WIDE = {
    "random": ("random search", BLACK, "random-v0"),
    "growth": ("hill climbing, growing noise", GREEN, "hill-growth-0.01"),
    "gradient": ("policy gradient", VERMILLION, "hill-gradient"),
}
INPUTS, LIMIT = [4, 16, 64, 256], 1000
LIMITS = [20, 50, 100, 200, 500, 1000, 2000]
OBSERVATIONS = ["position", "velocity", "angle", "angular velocity"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def percent(share: float, error: float | None = None) -> str:
    return f"{100 * share:.1f}" + (f" ± {100 * error:.1f} %" if error else " %")


def error_of(share: float, num_trials: int) -> float:
    return math.sqrt(share * (1 - share) / num_trials)


def median_of_all(seeds: list[Result]) -> float:
    """The median over all trials, infinite if half of them are not solved."""
    k = np.arange(1, LIMIT + 1)
    reached = share_within(seeds, k) >= 0.5
    return float(k[reached.argmax()]) if reached.any() else math.inf


def methods_figure(runs: dict[str, list[Result]], path: Path):
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes, k = figure.subplots(), np.unique(np.geomspace(1, LIMIT, 200).round())
    for name, seeds in runs.items():
        label, color, style = METHODS[name]
        axes.plot(k, share_within(seeds, k), color=color, linestyle=style, label=label)
    axes.set(xscale="log", xlim=(1, LIMIT), ylim=(0, 1.02), xlabel="episodes", ylabel="fraction of the trials solved")
    axes.set_title("CartPole-v0: trials with an episode of 200 steps")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, path)


def methods_table(runs: dict[str, list[Result]]) -> str:
    rows = []
    for name, seeds in runs.items():
        total = sum(map(trials, seeds))
        within = [float(share_within(seeds, k)) for k in (10, 100, LIMIT)]
        shares = [percent(share, error_of(share, total)) for share in within]
        scores = [np.mean([seed.final(column) for seed in seeds]) for column in (FOUND, STEPS)]
        cpu = 1000 * sum(seed.summary["cpu_seconds"] for seed in seeds) / total
        cells = [number(median_of_all(seeds)), number(float(scores[0])), f"{scores[1]:,.0f}", f"{cpu:.2f}"]
        rows.append([METHODS[name][0], f"{total:,}", *shares, *cells])
    header = ["CartPole-v0", "trials", "solved within 10 episodes", "100", "1,000", "median episodes of all trials",
              "return of the weights found", "steps per trial", "CPU ms per trial"]  # fmt: skip
    return table(header, rows)


def plain_text(seeds: list[Result], published: list[dict]) -> list[str]:
    """The post's loop beside an independent measurement, and what becomes of its 7.43."""
    theirs = {row["quantity"]: row for row in published if row["method"] == "hill climbing"}
    total, reference = sum(map(trials, seeds)), theirs["not solved by 2000"]
    ours = [float(share_within(seeds, k)) for k in LIMITS]
    mean, error = pooled(seeds, MEAN)
    middle = np.mean([seed.final(MEDIAN) for seed in seeds])
    rows = [
        [f"`algos/hill_climbing.py`, {total:,} trials", *(percent(x, error_of(x, total)) for x in ours),
         f"{mean:.0f} ± {error:.0f}", number(float(middle))],
        [theirs["solved by 20"]["source"], *(f"{100 * float(theirs[f'solved by {k}']['value']):g} %" for k in LIMITS),
         theirs["mean of the solved by 2000"]["value"], theirs["median of the solved by 2000"]["value"]],
    ]  # fmt: skip
    stuck = 1 - ours[-1]
    return [
        table(["solved within", *(f"{k:,}" for k in LIMITS), "mean of the solved", "median"], rows),
        f"Not solved after 2,000 episodes: **{percent(stuck, error_of(stuck, total))}** of {total:,} trials "
        f"({reference['source']}: {percent(float(reference['value']), float(reference['error']))}). The post: more "
        "than half.",
        f"The post's 7.43 episodes are no mean of any trials. Those that are solved take {mean:.0f} ± {error:.0f} "
        f"episodes on average, with a median of {middle:.0f}. The first version of the post's program (commit dc7f8a0 "
        "of kvfrans/openai-cartpole) ran 100 trials, left out those that were given up after 2,000 episodes, and "
        "divided the sum of the others by 1,000. For 100 of our trials that quotient is "
        f"{100 * ours[-1] * mean / 1000:.1f} on average.",
    ]


def plateau_figure(result: Result, path: Path):
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for j, axes in enumerate(figure.subplots(1, 4, sharey=True)):
        mine = result["plateau/weight"] == j
        value, mean, error = (result[column][mine] for column in ("plateau/value", RETURN, f"{RETURN}_se"))
        start = result["plateau/start"][mine][0]
        axes.axvspan(start - 0.1, start + 0.1, color=SKY, alpha=0.5, label="candidates with noise 0.1")
        axes.fill_between(value, mean - error, mean + error, color=BLUE, alpha=0.3, linewidth=0)
        axes.plot(value, mean, color=BLUE)
        axes.axvline(start, color=VERMILLION, label="a trial that is stuck")
        axes.axhline(200, color=GREY, linestyle=":")
        axes.set(xlabel=f"weight of the {OBSERVATIONS[j]}", ylabel="return" if j == 0 else "")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="center right")
    figure.suptitle("The return over one weight, the other three fixed: mean and standard error of 20 episodes")
    save(figure, path)


def old_rows(runs: dict) -> str:
    """What was measured before the scripts were rewritten."""
    names = [seeds[0].name for seeds in runs.values() if seeds[0].summary["date"] < "2026-11-29"]
    return f" Made by the files at commit 7b0c269: {', '.join(names)}." if names else ""


def wide_figure(runs: dict, path: Path):
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for method, (label, color, _) in WIDE.items():
        mine = [(n, runs[method, n]) for n in INPUTS if (method, n) in runs]
        share = np.array([float(share_within(seeds, LIMIT)) for _, seeds in mine])
        error = [error_of(x, sum(map(trials, seeds))) for x, (_, seeds) in zip(share, mine, strict=True)]
        axes.errorbar([n for n, _ in mine], share, error, color=color, label=label, marker="o", capsize=3)
    axes.set(xscale="log", xlabel="observations, four of which are CartPole's", ylim=(0, 1.05))
    axes.set(ylabel=f"solved within {LIMIT:,} episodes", xticks=INPUTS, xticklabels=INPUTS)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def wide_table(runs: dict) -> str:
    rows = []
    for method, (label, _, _) in WIDE.items():
        cells = []
        for n in INPUTS:
            seeds = runs.get((method, n), [])
            share = f"{100 * float(share_within(seeds, LIMIT)):.0f} %" if seeds else "-"
            middle = median_of_all(seeds) if seeds else math.inf
            cells.append(f"{share}, {number(middle) if middle < math.inf else 'more than 1,000'}" if seeds else share)
        rows.append([label, *cells])
    return table(["solved within 1,000, median of all", *(f"{n} observations" for n in INPUTS)], rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figures and the page; returns the README's blocks."""
    random = Results(folder.parent / "random_search")
    published, runs = read_rows(PUBLISHED / "search.csv"), {}
    for name in METHODS:
        if seeds := (random if name == "random-v0" else results)[name]:
            runs[name] = seeds
    if not runs:
        return {}
    methods_figure(runs, folder / "methods.png")
    text = [
        "# Hill climbing, beside random search and a policy gradient",
        "The [post](http://kvfrans.com/simple-algoritms-for-solving-cartpole/) (Kevin Frans 2016) adds noise to the "
        "weights and keeps what improves. It claims that more than half of the trials on CartPole-v0 get stuck, that "
        "the others take 7.43 episodes on average, and that growing noise or several episodes per update may help.",
        "    ./benchmark.sh random_search hill_climbing",
        "![fraction solved over episodes](methods.png)",
        "## The post's loop",
        *(plain_text(runs["hill-plain"], published) if "hill-plain" in runs else ["not run yet"]),
        "## One criterion for all: the first episode of 200 steps",
        methods_table(runs),
        REMEDIES,
    ]
    if results["hill-plateau"]:
        (plateau, *_) = results["hill-plateau"]
        plateau_figure(plateau, folder / "plateau.png")
        unsolved, fallen = (100 * plateau["plateau/share_" + name][-1] for name in ("unsolved", "fallen"))
        text += [
            "## Where it gets stuck",
            f"After 100 episodes {unsolved:.0f} % of 400 trials are not solved, and the weights of {fallen:.0f} % let "
            "the pole fall within 12 steps: no candidate within the noise is better.",
            "![plateau](plateau.png)",
        ]
    wide = {(method, 4): runs[name] for method, (_, _, name) in WIDE.items() if name in runs}
    wide |= {(m, n): seeds for m in WIDE for n in INPUTS[1:] if (seeds := results[f"hill-wide-{m}-{n}"])}
    if any(inputs > 4 for _, inputs in wide):
        wide_figure(wide, folder / "wide.png")
        text += [
            "## More weights",
            "Beside CartPole's four observations stand others that are noise, drawn anew in every step with a standard "
            "deviation of 0.1. Search has to find weights that are small for all of them at once; to the gradient they "
            f"add nothing but variance. 60 trials each.{old_rows(wide)}",
            wide_table(wide),
            "![more observations](wide.png)",
        ]
    used = [seed for seeds in [*runs.values(), *wide.values()] for seed in seeds]
    text.append(f"Errors are standard errors over independent trials. Measured on: {machines(used)}.")
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    if "hill-plain" not in runs:
        return {}
    total, stuck = sum(map(trials, runs["hill-plain"])), 1 - float(share_within(runs["hill-plain"], 2000))
    block = f"{percent(stuck, error_of(stuck, total))} stuck after 2,000 episodes (the post: more than half)"
    if "hill-growth-0.1" in runs:
        freed = 1 - float(share_within(runs["hill-growth-0.1"], LIMIT))
        block += f"; {100 * freed:.0f} % with growing noise"
    return {"hill-number": block}


REMEDIES = (
    "Verdict: that more than half of the trials get stuck is right; 7.43 is not. Growing noise frees those that are "
    "stuck, several episodes per update only few of them. With noise 3 hill climbing is nearly random search, as the "
    "post says, but not quite: once a candidate has been accepted, the weights are as large as the noise, and the next "
    "candidates resemble them. With four weights no method is as fast as random search; the policy gradient is the "
    "slowest, and its policies are the best."
)
