"""Where hill climbing sticks: the return of a linear policy on CartPole over each of its weights, the others fixed.

    python benchmarks/plateau.py --run-dir runs/plateau

Lets trials of algos/hill_climbing.py climb for a hundred episodes and takes the first that still lets the pole fall at
once. Around its weights, one weight at a time takes a hundred values from -2 to 2, and each of those policies plays
twenty episodes. A row of metrics.csv for every policy; the last one says how many trials were stuck, and how.
"""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.hill_climbing import Args, Lockstep, Trials, evaluate, make_envs, search

VALUES = np.linspace(-2, 2, 100, dtype=np.float32)
EPISODES = 20
AT_ONCE = 12  # steps in which the pole falls whatever a policy does that always pushes the wrong way


@dataclass
class PlateauArgs:
    seed: int = 1
    """seeds weights and episodes"""
    num_runs: int = 400
    """trials that climb; as many policies are scored afterwards"""
    max_episodes: int = 100
    """episodes for which they climb"""
    run_dir: Path = Path("runs", "plateau")
    """where metrics.csv goes"""


def main(args: PlateauArgs):
    settings = Args(seed=args.seed, num_runs=args.num_runs, max_episodes=args.max_episodes)
    envs, rows = make_envs(settings)
    world = Lockstep(envs, np.array([args.seed]), torch.device("cpu"))
    trials = Trials.start(settings, rows, 4, torch.device("cpu"))
    for _ in search(world, trials, settings, torch.Generator().manual_seed(args.seed)):
        pass
    fallen = ~trials.solved & (trials.returns.max(axis=1) < AT_ONCE)
    stuck = trials.weights[int(np.flatnonzero(fallen)[0])]  # [1, 4]
    weights = stuck.repeat(4 * len(VALUES), 1, 1)  # [400, 1, 4]
    for j in range(4):
        weights[j * len(VALUES) : (j + 1) * len(VALUES), 0, j] = torch.tensor(VALUES)
    scores = np.stack([evaluate(world, weights, 1) for _ in range(EPISODES)])  # [episodes, 400]
    errors = scores.std(axis=0, ddof=1) / math.sqrt(EPISODES)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        names = ["global_step", "plateau/weight", "plateau/value", "plateau/start", "charts/episodic_return"]
        writer = csv.writer(file)
        shares = ["plateau/share_unsolved", "plateau/share_fallen"]
        writer.writerow([*names, "charts/episodic_return_se", *shares])
        for k, (score, error) in enumerate(zip(scores.mean(axis=0), errors, strict=True)):
            j, value = divmod(k, len(VALUES))
            row = [k, j, VALUES[value], float(stuck[0, j]), score, error]
            writer.writerow([*row, 1 - trials.solved.mean(), fallen.mean()])


if __name__ == "__main__":
    main(tyro.cli(PlateauArgs, description=__doc__))
