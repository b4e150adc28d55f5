"""Figures and tables of algos/trpo.py, for benchmarks/plot.py; ppo.py's are drawn by the same functions."""

from benchmarks import plot

RETURN, EVALUATION = "charts/episodic_return_100", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, "losses/kl", "losses/step_fraction", "losses/kl_scale", "losses/entropy"]
ENVIRONMENTS = ["Reacher", "Swimmer", "HalfCheetah", "Hopper", "Walker2d", "Ant", "InvertedPendulum"]


def environments(results: plot.Results, prefix: str, names: list[str], published: list[dict], folder, peer="") -> str:
    """The figure and the table of returns: training, deterministic, published; a panel per environment that was run."""
    runs = {env: seeds for env in names if (seeds := results[f"{prefix}-{env.lower()}"])}
    codes = list(dict.fromkeys(row["code"] for row in published))
    lines, columns = -(-len(runs) // 4), min(4, len(runs))
    with plot.figure(folder / "envs.png", lines, columns, size=(3.4 * columns, 3 * lines), dpi=110) as panels:
        for axes, (env, seeds) in zip(panels, runs.items(), strict=False):
            plot.curves(axes, seeds, "global_step", RETURN, "training, last 100 episodes", plot.BLUE, scale=1e-6)
            ends = [(seed.final("global_step") * 1e-6, seed.final(EVALUATION)) for seed in seeds]
            axes.plot(*zip(*ends, strict=True), "D", markersize=4, color=plot.BLACK, label="deterministic actions")
            for row in published:
                if row["environment"] == env:
                    words = f"{row['code']} ({row['measured']})"
                    level, color = float(row["return"]), plot.COLORS[1 + codes.index(row["code"])]
                    axes.axhline(level, color=color, linestyle="--", label=words)
            axes.set(title=f"{env}-v5", xlabel="million steps", xlim=(0, 1.03))
            if env == "Reacher":
                axes.set_ylim(-20, -2)
        for axes in panels[len(runs) :]:
            axes.axis("off")
        panels[0].set_ylabel("return")
        labels = dict(pair[::-1] for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True))
        axes.figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=columns)
    columns = {"seeds": plot.count, "ours, training": RETURN, "ours, deterministic": EVALUATION}
    columns["CPU seconds"] = lambda seeds: plot.number(plot.sorted_median([seed.cpu for seed in seeds]))
    if peer:
        columns[f"{peer}, v5, run here, evaluation, one seed"] = lambda seeds: plot.spread(
            s.final(EVALUATION) for s in results.by_name.get(seeds[0].name.replace(prefix, "sb3-envs"), [])
        )
    for code in codes:
        rows = {row["environment"].lower(): row for row in published if row["code"] == code}
        measured = next(iter(rows.values()))["measured"]

        def theirs(seeds, rows=rows) -> str:
            row = rows.get(seeds[0].name.split("-")[-1])
            return f"{row['return']}{' ± ' * bool(row['spread'])}{row['spread']} ({row['version']})" if row else "-"

        columns[f"{code}, {measured}"] = theirs
    return plot.beside("environment", {f"{env}-v5": seeds for env, seeds in runs.items()}, columns)


def draw(results: plot.Results, folder) -> dict[str, str]:
    codes = ("OpenAI baselines", "sb3-contrib", "Tianshou", "Spinning Up")
    published = [row for row in plot.published("trpo", timesteps="1000000") if row["code"] in codes]
    reacher = plot.number(plot.mean(seed.final(RETURN) for seed in results["trpo-envs-reacher"]))
    return {
        "table": environments(results, "trpo-envs", ENVIRONMENTS, published, folder, peer="sb3-contrib"),
        "number": f"Reacher-v5 {reacher} after 1 M steps (baselines, v2: -4.82)",
    }
