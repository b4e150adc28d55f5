"""Figures and the page of algos/dqn.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PUBLISHED,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    median,
    number,
    ratios,
    read_rows,
    save,
    spread,
    table,
)

RETURN, LARGEST, EVALUATION = "charts/episodic_return_100", "losses/largest_q", "eval/episodic_return"
COLUMNS = ["global_step", RETURN, LARGEST, "losses/td_loss", "charts/SPS", EVALUATION]
TRICKS = {
    "dqn-cartpole": ("replay and target network", BLUE),
    "dqn-no-replay": ("target network only", GREEN),
    "dqn-no-target": ("replay only", ORANGE),
    "dqn-no-tricks": ("neither", VERMILLION),
}
HIGHEST = 100  # the discounted return of an endless episode of CartPole, at 1 a step and a discount of .99


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {"largest_q": float(np.nanmax(columns[LARGEST]))} if LARGEST in columns else {}


def cpu(result: Result) -> float:
    return result.summary["cpu_seconds"]


def speed(ours: list[Result], peer: list[Result]) -> str:
    processors = [{seed.summary["hardware"]["cpu"] for seed in seeds} for seeds in (ours, peer)]
    if processors[0] == processors[1]:
        return f"Ours over CleanRL's, seed by seed: {median(ratios(ours, peer, cpu))}."
    return (
        "The two were measured on different machines, and ours beside some thirty other processes, so their quotient "
        "says nothing about speed. On one machine the file at commit 7b0c269, with a gradient written by hand, took "
        "0.35 of CleanRL's CPU seconds (results/dqn of that commit)."
    )


def curves_figure(results: Results, published: list[dict], path: Path):
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    for axes, row in zip(figure.subplots(1, 2), published, strict=True):
        seeds = results[f"dqn-{row['environment'].split('-')[0].lower()}"]
        curves(axes, seeds, "global_step", RETURN, BLUE, "algos/dqn.py", scale=1e-6)
        if row["environment"] == "CartPole-v1":
            curves(axes, results["cleanrl-cartpole"], "global_step", RETURN, GREY, "CleanRL, run here", scale=1e-6)
        axes.axhline(float(row["return"]), color=VERMILLION, linestyle="--", label="CleanRL, published")
        axes.set(title=row["environment"], xlabel="million environment steps", ylabel="return, last 100 episodes")
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def tricks_figure(results: Results, path: Path):
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    returns, largest = figure.subplots(1, 2)
    for name, (label, color) in TRICKS.items():
        curves(returns, results[name], "global_step", RETURN, color, label, scale=1e-6)
        curves(largest, results[name], "global_step", LARGEST, color, label, scale=1e-6)
    returns.set(title="CartPole-v1", xlabel="million environment steps", ylabel="return, last 100 episodes")
    largest.axhline(HIGHEST, color="black", linestyle=":", label="upper bound of the true values")
    largest.set(title="CartPole-v1", xlabel="million environment steps", ylabel="largest |Q|", yscale="log")
    largest.legend(frameon=False, fontsize=8)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figures and the page; returns the README's blocks."""
    published, rows = read_rows(PUBLISHED / "dqn.csv"), []
    peer, cartpole = results["cleanrl-cartpole"], results["dqn-cartpole"]
    for row in published:
        seeds = results[f"dqn-{row['environment'].split('-')[0].lower()}"]
        if seeds:
            here = spread(s.final(RETURN) for s in peer) if row["environment"] == "CartPole-v1" else "-"
            ours = [spread(s.final(column) for s in seeds) for column in (RETURN, EVALUATION)]
            seconds = median(map(cpu, seeds))
            theirs = f"{row['return']} ± {row['spread']}"
            rows.append([row["environment"], str(len(seeds)), *ours, theirs, here, seconds])
    if not rows:
        return {}
    curves_figure(results, published, folder / "curves.png")
    header = ["500,000 steps", "seeds", "training, last 100 episodes", "greedy, 100 episodes", "CleanRL, published",
              "CleanRL, run here", "CPU seconds, median (range)"]  # fmt: skip
    text = [
        "# DQN",
        "The [paper](https://www.nature.com/articles/nature14236) (Mnih et al. 2015) and the post on function "
        "approximation (Kevin Frans 2016) claim that Q-learning with a network needs two tricks to be stable: a replay "
        "buffer and a target network that is frozen for a while.",
        "    ./benchmark.sh dqn",
        "![learning curves](curves.png)",
        table(header, rows),
        f"{published[0]['source']}. CPU seconds of CleanRL's dqn.py: {median(map(cpu, peer))} ({len(peer)} seeds). "
        f"{speed(cartpole, peer)} Ours include the hundred greedy episodes at the end.",
    ]
    tricks = [[label, str(len(results[name])), spread(s.final(RETURN) for s in results[name]),
               spread(s.final(EVALUATION) for s in results[name]),
               spread(s.summary["facts"]["largest_q"] for s in results[name])]
              for name, (label, _) in TRICKS.items() if results[name]]  # fmt: skip
    if len(tricks) > 1:
        tricks_figure(results, folder / "tricks.png")
        header = ["CartPole-v1", "seeds", "training, last 100 episodes", "greedy, 100 episodes", "largest absolute Q"]
        text += [
            "## The two tricks",
            table(header, tricks),
            "![the two tricks](tricks.png)",
            "Without replay an update learns from the ten newest transitions, each of them once (`--buffer-size 10 "
            "--batch-size 10`); without a target network it is copied after every step (`--target-frequency 1`).",
        ]
        text.append(verdict(results))
    text.append(f"{old_rows(results)}Not run: Atari, the paper's benchmark. Errors: standard deviations over seeds.")
    text.append(f"Measured on: {machines([seed for name in results.all for seed in results[name]])}.")
    (folder / "README.md").write_text("\n\n".join(text) + "\n")
    mean = number(float(np.mean([seed.final(EVALUATION) for seed in cartpole])))
    theirs = f"{published[0]['return']} ± {published[0]['spread']}"
    block = f"{mean} on CartPole-v1 after 500,000 steps, greedy ({len(cartpole)} seeds; CleanRL: {theirs})"
    return {"dqn-number": block}


def verdict(results: Results) -> str:
    both, neither, replay, target = (
        f"{spread(s.final(RETURN) for s in results[name])} (largest absolute Q "
        f"{spread(s.summary['facts']['largest_q'] for s in results[name])})"
        for name in ("dqn-cartpole", "dqn-no-tricks", "dqn-no-target", "dqn-no-replay")
    )
    return (
        "Verdict: the claim that both tricks are needed is not confirmed on CartPole. The return in training at the "
        f"end is {both} with both and {neither} with neither of them; with replay only, {replay}, and with the target "
        f"network only, {target}. No true value is larger than {HIGHEST}: all overestimate, and replay with targets "
        "that follow at once overestimates most."
    )


def old_rows(results: Results) -> str:
    """What was measured before the script was rewritten."""
    names = [
        name for name, seeds in results.all.items() if name[:3] == "dqn" and seeds[0].summary["date"] < "2026-11-29"
    ]
    return f"Made by the file at commit 7b0c269: {', '.join(names)}. " if names else ""
