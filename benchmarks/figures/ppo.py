"""Figures and tables of algos/ppo.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.figures.trpo import RETURN, environments

COLUMNS = ["global_step", RETURN, "losses/kl", "losses/clip_fraction", "losses/entropy"]
ENVIRONMENTS = ["HalfCheetah", "Walker2d", "Hopper", "InvertedPendulum", "Humanoid", "Reacher", "Swimmer"]
ENVIRONMENTS += ["InvertedDoublePendulum"]


def draw(results: plot.Results, folder) -> dict[str, str]:
    cheetah = plot.number(plot.mean(seed.final(RETURN) for seed in results["ppo-halfcheetah"]))
    return {
        "table": environments(results, "ppo", ENVIRONMENTS, plot.published("ppo"), folder),
        "number": f"HalfCheetah-v5 {cheetah} after 1 M steps (CleanRL, v4: 1,443)",
    }
