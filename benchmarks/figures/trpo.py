"""Figures and tables of algos/trpo.py, for benchmarks/plot.py; ppo.py's are drawn by the same functions."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PUBLISHED,
    PURPLE,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    number,
    read_rows,
    save,
    spread,
    table,
)

RETURN, EVALUATION = "charts/episodic_return_100", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, "losses/kl", "losses/step_fraction", "losses/kl_scale", "losses/entropy"]
ENVIRONMENTS = ["Reacher", "Swimmer", "HalfCheetah", "Hopper", "Walker2d", "Ant", "InvertedPendulum"]
COLORS = {  # of the published codes
    "OpenAI baselines": VERMILLION, "sb3-contrib": PURPLE, "Tianshou": GREEN, "Spinning Up": ORANGE, "CleanRL": GREEN,
}  # fmt: skip
TEXT = """# TRPO

[Schulman et al. 2015](https://arxiv.org/abs/1502.05477) claim monotonic improvement for little tuning. Our training
returns are above those of OpenAI baselines and Spinning Up on every environment. Deterministic actions are below
sb3-contrib's published returns, on older versions, on Swimmer, Hopper and Walker2d, and above on HalfCheetah and Ant
(one seed). One of three seeds on Hopper hardly leaves a gait of one small hop in 700,000 steps. Five seeds a row are
listed and fewer were run, see the column; the versions v4 were not run. The curves:

```bash
./benchmark.sh trpo-envs
```

One run of them:

```bash
python algos/trpo.py --env-id Hopper --total-timesteps 1000000
```
"""


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    reached = columns[RETURN] >= -5
    return {"steps_to_minus_5": float(columns["global_step"][reached.argmax()])} if reached.any() else {}


def runs_of(results: Results, prefix: str, env: str) -> list[Result]:
    return results[f"{prefix}-{env.lower()}"]


def environments_figure(results: Results, prefix: str, environments: list[str], published: list[dict], path: Path):
    """One panel per environment: training returns, deterministic returns at the end, published returns as lines."""
    columns = 4
    figure = Figure(figsize=(3.4 * columns, 3.0 * -(-len(environments) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(environments) // columns), columns, squeeze=False).flatten()
    for axes, env in zip(panels, environments, strict=False):
        seeds = runs_of(results, prefix, env)
        curves(axes, seeds, "global_step", RETURN, BLUE, "training, last 100 episodes", scale=1e-6)
        ends = [seed.final("global_step") * 1e-6 for seed in seeds]
        label = "deterministic actions"
        axes.plot(
            ends, [s.final(EVALUATION) for s in seeds], "D", markersize=4, color=BLACK, clip_on=False, label=label
        )
        for row in published:
            if row["environment"] == env:
                label = f"{row['code']} ({row['measured']})"
                axes.axhline(
                    float(row["return"]), color=COLORS[row["code"]], linestyle="--", linewidth=1.2, label=label
                )
        axes.set(title=f"{env}-v5, {len(seeds)} seeds", xlabel="million steps", xlim=(0, 1.03))
        axes.grid(alpha=0.25)
        if env == "Reacher":
            axes.set_ylim(-20, -2)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    for axes in panels[len(environments) :]:
        axes.axis("off")
    panels[0].set_ylabel("return")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path, dpi=110)


def environments_table(results: Results, prefix: str, environments: list[str], published: list[dict]) -> str:
    """Ours beside the published returns after a million steps."""
    codes = list(dict.fromkeys(row["code"] for row in published))
    rows = []
    for env in environments:
        if seeds := runs_of(results, prefix, env):
            cells = [spread(seed.final(column) for seed in seeds) for column in (RETURN, EVALUATION)]
            cpu = number(float(np.median([seed.summary["cpu_seconds"] for seed in seeds])))
            theirs = {row["code"]: row for row in published if row["environment"] == env}
            named = [f"{r['return']} {'± ' + r['spread'] if r['spread'] else ''} ({r['version']})".replace("  ", " ")
                     if (r := theirs.get(code)) else "-" for code in codes]  # fmt: skip
            rows.append([f"{env}-v5", str(len(seeds)), *cells, cpu, *named])
    measured = {code: next(row["measured"] for row in published if row["code"] == code) for code in codes}
    header = ["environment", "seeds", "ours, training", "ours, deterministic", "CPU seconds"]
    return table([*header, *(f"{code}, {measured[code]}" for code in codes)], rows)


def fractions(results: Results) -> str:
    """How often the line search takes the full step, and the KL divergence it makes."""
    rows = []
    for env in ENVIRONMENTS:
        if seeds := runs_of(results, "trpo-envs", env):
            fraction, kl = (np.concatenate([s[c] for s in seeds]) for c in ("losses/step_fraction", "losses/kl"))
            shares = [f"{np.mean(x):.0%}" for x in (fraction == 1, (fraction < 1) & (fraction > 0), fraction == 0)]
            rows.append([f"{env}-v5", *shares, f"{np.median(kl):.4f}"])
    return table(["environment", "full step", "shortened", "none", "median KL divergence"], rows)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's block."""
    codes = ("OpenAI baselines", "sb3-contrib", "Tianshou", "Spinning Up")
    published = [row for row in read_rows(PUBLISHED / "trpo.csv")
                 if row["code"] in codes and int(row["timesteps"]) == 1_000_000]  # fmt: skip
    environments_figure(results, "trpo-envs", ENVIRONMENTS, published, folder / "envs.png")
    reacher = results["trpo-envs-reacher"]
    steps = sorted(seed.summary["facts"].get("steps_to_minus_5", np.inf) for seed in reacher)
    mean = number(float(np.mean([seed.final(RETURN) for seed in reacher])))
    used = [seed for name in results.all for seed in results[name] if name.startswith("trpo")]
    text = f"""{TEXT}
![Learning curves](envs.png)

{environments_table(results, "trpo-envs", ENVIRONMENTS, published)}

Returns after a million steps, mean ± standard deviation over seeds. Training: mean of the last 100 episodes, sampled
actions. Deterministic: 100 new episodes of the policy's mode. Published columns name their environments' version: v5
pays no alive bonus on the last step of Hopper, Walker2d, Ant and InvertedPendulum, charges Ant for contacts, changed
Walker2d's feet and Reacher's reward. Tianshou's figure is the maximum over training. CPU seconds on one shared core.

Steps to a return of -5 on Reacher-v5 (mean of the last 100 episodes), seed by seed: {", ".join(map(number, steps))}.

## The line search

{fractions(results)}

Measured on: {machines(used)}.
"""
    (folder / "README.md").write_text(text)
    return {"trpo-number": f"Reacher-v5 {mean} after 1 M steps (baselines, v2: -4.82)"}
