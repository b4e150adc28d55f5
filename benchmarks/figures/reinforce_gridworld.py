"""Figures and tables of algos/reinforce_gridworld.py, for benchmarks/plot.py."""

import numpy as np
import torch

from algos.reinforce_gridworld import OBSERVATION, exact_values
from benchmarks import plot
from benchmarks.plot import Results

EXACT, EAST = "eval/exact_return", "eval/east_where_alike"
PARAMETER = ["charts/weight", "eval/deterministic", "eval/stochastic", "eval/stochastic_error", "charts/preference"]
PARAMETER += ["eval/gridworld_deterministic", "eval/gridworld_stochastic"]
COLUMNS = ["global_step", EXACT, EAST, "charts/SPS", *PARAMETER]
GAMMA = 0.9


def best_deterministic(gamma: float) -> torch.Tensor:
    """The best of the 256 policies with one action per observation: probs [5 cells, 4 actions]."""
    actions = torch.cartesian_prod(*[torch.arange(4)] * 4)  # [256, 4]
    policies = torch.eye(4, dtype=torch.float64)[actions[:, OBSERVATION]]  # [256, 5, 4]
    return policies[exact_values(policies, gamma).mean(1).argmax()]


def draw(results: Results, folder) -> dict[str, str]:
    seeds, (parameter,) = results["gridworld"], results["gridworld-parameter"]
    best = exact_values(best_deterministic(GAMMA), GAMMA).mean().item()
    probs = best_deterministic(GAMMA)  # a fair coin where states look the same, the best actions elsewhere
    probs[[0, 2, 4]] = torch.eye(4, dtype=probs.dtype)[[1, 2, 3]]
    probs[[1, 3]] = torch.tensor([0, 0.5, 0, 0.5], dtype=probs.dtype)
    coin = exact_values(probs, GAMMA).mean().item()
    with plot.figure(folder / "learning.png") as (axes,):
        levels = {
            f"best deterministic policy: {best:.3f}": best,
            f"fair coin where states look the same: {coin:.3f}": coin,
        }
        words = {
            "title": "aliased gridworld",
            "xlabel": "updates of 32 episodes",
            "ylabel": "mean value over the starts",
        }
        plot.panel(axes, {"REINFORCE, exact value of its policy": seeds}, "update", EXACT, levels, **words)
    weight, preference = parameter["charts/weight"], parameter["charts/preference"]
    with plot.figure(folder / "parameter.png", columns=2, size=(11, 3.8)) as (cartpole, grid):
        cartpole.plot(weight, parameter["eval/stochastic"], label="stochastic, mean of 400 episodes")
        cartpole.plot(weight, parameter["eval/deterministic"], label="deterministic", linewidth=1)
        cartpole.set(title="CartPole-v1, one start", xlabel="weight of the pole's angle", ylabel="return")
        grid.plot(preference, parameter["eval/gridworld_stochastic"], label="stochastic")
        jumping = parameter["eval/gridworld_deterministic"].copy()
        jumping[np.flatnonzero(preference > 0)[0]] = np.nan  # no line where it jumps
        grid.plot(preference, jumping, label="deterministic")
        grid.set(title="aliased gridworld (exact)", xlabel="logit of east minus logit of west in 1 and 3")
        grid.set_ylabel("value")
    learned = [plot.spread((seed.final(column) for seed in seeds), ".3f") for column in (EXACT, EAST)]
    rows = [
        ["best of the 256 deterministic policies", "exact", f"{best:.3f}", "0 or 1"],
        ["fair coin there, best actions elsewhere", "exact", f"{coin:.3f}", "0.5"],
        ["`python algos/reinforce_gridworld.py`, 100,000 steps", str(len(seeds)), *learned],
    ]
    header = ["policy", "seeds", "exact value, mean over the starts", "probability of east in 1 and 3"]
    mean = plot.mean(seed.final(EXACT) for seed in seeds)
    return {
        "table": plot.table(header, rows),
        "distance": f"{coin - min(seed.final(EXACT) for seed in seeds):.3f}",
        "cpu": plot.cpu(seeds),
        "number": f"value {mean:.3f} ({len(seeds)} seeds); best deterministic policy {best:.3f}, fair coin {coin:.3f}",
    }
