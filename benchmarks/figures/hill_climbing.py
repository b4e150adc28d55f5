"""Figures and tables of algos/hill_climbing.py, beside random search and a policy gradient, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures.random_search import COLUMNS as SEARCH
from benchmarks.figures.random_search import EPISODE, FOUND, RETURN, SHARE, solved_after
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

PLATEAU = ["plateau/weight", "plateau/value", "plateau/start", "plateau/share_unsolved", "plateau/share_fallen"]
COLUMNS = [*SEARCH, *PLATEAU]
METHODS = {  # entry: what it is called, how many trials, colour and style in the figure of all methods
    "random-v0": ("random search", 1000, BLACK, "-"),
    "hill-plain": ("hill climbing, noise 0.1 (the post's)", 1000, BLUE, "-"),
    "hill-growth-0.01": ("noise grows by 0.01 a failure", 300, GREEN, "-"),
    "hill-growth-0.1": ("noise grows by 0.1 a failure", 300, GREEN, "--"),
    "hill-episodes-5": ("5 episodes an update", 300, SKY, "-"),
    "hill-noise-0.03": ("noise 0.03", 300, BLUE, ":"),
    "hill-noise-0.3": ("noise 0.3", 300, BLUE, "--"),
    "hill-noise-3": ("noise 3", 300, ORANGE, "-"),
    "hill-gradient": ("policy gradient (the post's)", 100, VERMILLION, "-"),
}
HISTOGRAMS = ["random-v0", "hill-plain", "hill-growth-0.01", "hill-episodes-5", "hill-noise-0.3", "hill-gradient"]
WIDE = {
    "random": ("random search", BLACK),
    "growth": ("hill climbing, growing noise", GREEN),
    "gradient": ("policy gradient", VERMILLION),
}
NARROW = {"random": "random-v0", "growth": "hill-growth-0.01", "gradient": "hill-gradient"}
INPUTS = [4, 16, 64, 256]
WIDE_TRIALS = 60
LIMIT = 1000  # episodes by which methods are compared
OBSERVATIONS = ["position", "velocity", "angle", "angular velocity"]


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def share_within(result: Result, episodes: int) -> float:
    """Share of the trials that were solved within so many episodes."""
    within = result[SHARE][result[EPISODE] <= episodes]
    return float(within[-1]) if len(within) else 0.0


def middle(episodes: np.ndarray, trials: int) -> float:
    """The median over all trials, of which those that are not solved take for ever."""
    return float(np.median(np.append(episodes, np.full(trials - len(episodes), math.inf))))


def found(results: dict[str, Results], names: dict) -> dict[str, Result]:
    """The first seed of every entry that there is."""
    seeds = {name: results[name.split("-")[0]][name] for name in names}
    return {name: runs[0] for name, runs in seeds.items() if runs}


def methods_figure(runs: dict[str, Result], path: Path):
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=[1.5, 1, 1])
    shares = figure.add_subplot(grid[0, :])
    for name, result in runs.items():
        label, _, color, style = METHODS[name]
        known = result[EPISODE] <= LIMIT
        x, y = result[EPISODE][known], result[SHARE][known]
        shares.step([*x, LIMIT], [*y, y[-1]], color=color, linestyle=style, label=label, where="post")
    shares.set(xscale="log", xlim=(1, LIMIT), ylim=(0, 1.02), xlabel="episodes", ylabel="share of the trials solved")
    shares.set_title("CartPole-v0: episodes until the first that stands for 200 steps")
    shares.legend(frameon=False, fontsize=8, ncols=2)
    edges = np.append(0, 2.0 ** np.arange(11)) + 0.5  # 1, 2, 3 to 4, 5 to 8, ..., 513 to 1,024
    labels = [*(f"{2**k}" for k in range(10)), "1k", "not\nsolved"]
    for k, name in enumerate(HISTOGRAMS):
        axes = figure.add_subplot(grid[1 + k // 3, k % 3])
        label, trials, color, _ = METHODS[name]
        axes.set(title=label, xlabel="episodes, up to", ylabel="share of the trials", ylim=(0, 0.7))
        axes.tick_params(labelsize=7)
        if name in runs:
            episodes = solved_after(runs[name], trials)
            episodes = episodes[episodes <= LIMIT]
            axes.bar(labels[:-1], np.histogram(episodes, edges)[0] / trials, color=color)
            axes.bar(labels[-1], 1 - len(episodes) / trials, color=GREY)
    save(figure, path)


def methods_table(runs: dict[str, Result]) -> str:
    rows = []
    for name, result in runs.items():
        label, trials, _, _ = METHODS[name]
        episodes = solved_after(result, trials)
        solved = episodes[episodes <= LIMIT]
        shares = [f"{100 * share_within(result, k):.1f} %" for k in (10, 100, LIMIT)]
        steps = result.final("global_step") / trials
        rows.append(
            [
                f"{label} ({trials:,} trials)",
                *shares,
                number(float(solved.mean())) if len(solved) else "-",
                number(float(np.median(solved))) if len(solved) else "-",
                number(middle(solved, trials)),
                number(result.final(FOUND)),
                f"{steps:,.0f}",
                f"{1000 * result.final('time/cpu') / trials:.1f}",
            ]
        )
    header = ["CartPole-v0", "solved within 10 episodes", "100", "1,000", "mean of the solved", "median of the solved"]
    return table([*header, "median of all", "return of the solved", "steps a trial", "CPU ms a trial"], rows)


def plain_text(plain: Result, published: list[dict]) -> list[str]:
    """The post's loop, beside an independent measurement; what becomes of its 7.43."""
    theirs = {row["quantity"]: row for row in published if row["method"] == "hill climbing"}
    episodes, trials = solved_after(plain, 1000), 1000
    limits = [20, 50, 100, 200, 500, 1000, 2000]
    ours = [f"{100 * share_within(plain, k):.1f} %" for k in limits]
    other = [f"{100 * float(theirs[f'solved by {k}']['value']):g} %" for k in limits]
    mean, error = plain.final("charts/episodes_to_solve"), plain.final("charts/episodes_to_solve_se")
    median = plain.final("charts/episodes_to_solve_median")
    rows = [
        ["`algos/hill_climbing.py`, 1,000 trials", *ours, f"{mean:.0f} ± {error:.0f}", number(median)],
        [theirs["solved by 20"]["source"], *other, theirs["mean of the solved by 2000"]["value"], "22"],
    ]
    each = np.append(episodes, np.zeros(trials - len(episodes)))
    quotient, spread = 100 * each.mean() / 1000, 10 * each.std() / 1000
    return [
        table(["share solved within", *(f"{k:,}" for k in limits), "mean of the solved", "median"], rows),
        f"The post says that the trials which were solved took 7.43 episodes. They took {mean:.0f}, and half of them "
        f"more than {median:.0f}. The first version of the post's program ran 100 trials, left out those that were "
        "given up after 2,000 episodes, and divided the sum of the others by 1,000. Of 100 of our trials that quotient "
        f"is {quotient:.1f}, with a standard deviation of {spread:.1f}: most likely this is what the 7.43 is, and no "
        "mean of any trials. More than half stuck is right.",
    ]


def plateau_figure(result: Result, path: Path):
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for j, axes in enumerate(figure.subplots(1, 4, sharey=True)):
        mine = result["plateau/weight"] == j
        value, mean, error = (result[column][mine] for column in ("plateau/value", RETURN, f"{RETURN}_se"))
        start = result["plateau/start"][mine][0]
        axes.axvspan(start - 0.1, start + 0.1, color=SKY, alpha=0.5, label="where noise 0.1 looks")
        axes.fill_between(value, mean - error, mean + error, color=BLUE, alpha=0.3, linewidth=0)
        axes.plot(value, mean, color=BLUE)
        axes.axvline(start, color=VERMILLION, label="a trial that is stuck")
        axes.axhline(200, color=GREY, linestyle=":")
        axes.set(xlabel=f"weight of the {OBSERVATIONS[j]}", ylabel="return" if j == 0 else "")
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle("The return over one weight, the other three as they are: mean and standard error of 20 episodes")
    save(figure, path)


def wide_runs(results: dict[str, Results]) -> dict[tuple[str, int], tuple[Result, int]]:
    """(method, inputs) -> its result and its number of trials; four inputs are CartPole itself."""
    runs = {}
    for method in WIDE:
        for inputs in INPUTS:
            name = NARROW[method] if inputs == 4 else f"hill-wide-{method}-{inputs}"
            seeds = results[name.split("-")[0]][name]
            if seeds:
                runs[method, inputs] = seeds[0], METHODS[name][1] if inputs == 4 else WIDE_TRIALS
    return runs


def wide_figure(runs: dict, path: Path):
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    shares, medians = figure.subplots(1, 2)
    for method, (label, color) in WIDE.items():
        mine = [(inputs, *runs[method, inputs]) for inputs in INPUTS if (method, inputs) in runs]
        if not mine:
            continue
        inputs = [n for n, _, _ in mine]
        share = np.array([share_within(result, LIMIT) for _, result, _ in mine])
        error = np.sqrt(share * (1 - share) / [trials for _, _, trials in mine])
        shares.errorbar(inputs, share, 2 * error, color=color, marker="o", label=label)
        half = [middle(e[e <= LIMIT], trials) for e, trials in ((solved_after(r, t), t) for _, r, t in mine)]
        medians.plot(inputs, np.minimum(half, 2 * LIMIT), color=color, marker="o", label=label)
    shares.set(xscale="log", xticks=INPUTS, xticklabels=INPUTS, ylim=(-0.03, 1.03))
    shares.set(xlabel="observations", ylabel=f"share solved within {LIMIT:,} episodes")
    medians.set(xscale="log", yscale="log", xticks=INPUTS, xticklabels=INPUTS)
    medians.axhline(2 * LIMIT, color=GREY, linestyle=":", label=f"more than {LIMIT:,}")
    medians.set(xlabel="observations", ylabel="median episodes of all trials")
    shares.legend(frameon=False, fontsize=8)
    medians.legend(frameon=False, fontsize=8)
    for axes in (shares, medians):
        axes.minorticks_off()
    figure.suptitle("CartPole with observations that mean nothing beside its four")
    save(figure, path)


def wide_table(runs: dict) -> str:
    rows = []
    for method, (label, _) in WIDE.items():
        cells = []
        for inputs in INPUTS:
            if (method, inputs) not in runs:
                cells.append("-")
                continue
            result, trials = runs[method, inputs]
            episodes = solved_after(result, trials)
            half = middle(episodes[episodes <= LIMIT], trials)
            share = f"{100 * share_within(result, LIMIT):.0f} %"
            cells.append(f"{share}, {number(half) if half < math.inf else 'more than 1,000'}")
        rows.append([label, *cells])
    return table(["solved within 1,000, median of all", *(f"{n} observations" for n in INPUTS)], rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    both = {"random": Results(folder.parent / "random_search"), "hill": results}
    published, runs = read_rows(PUBLISHED / "search.csv"), found(both, METHODS)
    if not runs:
        return {}
    methods_figure(runs, folder / "methods.png")
    text = [
        "# Hill climbing, beside random search and a policy gradient",
        "## The post's loop",
        *(plain_text(runs["hill-plain"], published) if "hill-plain" in runs else []),
        "## One criterion for all: the first episode of 200 steps",
        methods_table(runs),
        "Means and medians of what was solved within 1,000 episodes; trials are given up after so many, those of the "
        "post's loop after 2,000. The return of the solved: their weights in 20 new episodes, likeliest actions. CPU "
        "ms: on one core of a busy machine, all trials in lockstep.",
        "Growing noise frees the trials that are stuck, several episodes an update only few of them. Noise 3 is nearly "
        "random search, as the post says, but not quite: once a change has been kept, the weights are as large as the "
        "noise, and what is tried next still resembles them. No method is as fast as random search, as long as there "
        "are four weights; the policy gradient is the slowest here, but its policies are the best.",
        "![methods](methods.png)",
    ]
    if results["hill-plateau"]:
        (plateau, *_) = results["hill-plateau"]
        plateau_figure(plateau, folder / "plateau.png")
        unsolved, fallen = (100 * plateau["plateau/share_" + name][-1] for name in ("unsolved", "fallen"))
        text += [
            "## Where it sticks",
            f"After 100 episodes {unsolved:.0f} % of the trials are not solved, and {fallen:.0f} % of all never stood "
            "for 12 steps: wherever noise looks, the pole falls as fast as it can. The others climbed somewhat, until "
            "a lucky episode set a mark that their neighbours do not beat.",
            "![plateau](plateau.png)",
        ]
    wide = wide_runs(both)
    if any(inputs > 4 for _, inputs in wide):
        wide_figure(wide, folder / "wide.png")
        text += [
            "## More weights",
            "Beside CartPole's four observations, numbers that mean nothing: drawn anew in every step, with standard "
            "deviation 0.1. Search has to come upon weights that hardly listen to them, all at once; of the gradient "
            "they change nothing but the noise.",
            wide_table(wide),
            "![more observations](wide.png)",
        ]
    text.append(f"Measured on: {machines(runs.values())}.")
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    if "hill-plain" not in runs:
        return {}
    plain = runs["hill-plain"]
    stuck = 100 * (1 - share_within(plain, 2000))
    blocks = {"hill-number": f"{stuck:.0f} % stuck after 2,000 episodes (the post: more than half)"}
    if "hill-growth-0.1" in runs:
        freed = 100 * (1 - share_within(runs["hill-growth-0.1"], LIMIT))
        blocks["hill-number"] += f"; {freed:.0f} % after 1,000 with growing noise"
    return blocks
