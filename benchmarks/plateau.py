"""Where hill climbing gets stuck: the return of a linear policy on CartPole over each of its weights, the others fixed.

    python benchmarks/plateau.py --run-dir runs/plateau

Lets trials of algos/hill_climbing.py climb for a hundred episodes and takes the first whose weights still let the pole
fall at once. Around them, one weight at a time takes a hundred values from -2 to 2, and each of those policies plays
twenty episodes. A row of metrics.csv for every policy.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.hill_climbing import Args, evaluate, make_envs, search

VALUES = np.linspace(-2, 2, 100)
AT_ONCE = 12  # steps in which the pole falls if it is always pushed to the same side


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()
    settings, rng = Args(num_runs=400, num_envs=400, max_episodes=100), np.random.default_rng(args.seed)
    envs = make_envs(settings)
    _, solved, weights, _ = search(envs, settings, rng)
    fallen = ~solved & (evaluate(envs, weights, seed=args.seed) < AT_ONCE)
    stuck = weights[np.flatnonzero(fallen)[0]]
    policies = np.tile(stuck, (400, 1))
    for j in range(4):
        policies[100 * j : 100 * (j + 1), j] = VALUES
    returns = np.stack([evaluate(envs, policies, seed) for seed in range(20)], axis=1)  # [policies, episodes]
    args.run_dir.mkdir(parents=True, exist_ok=True)
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["global_step", "plateau/weight", "plateau/value", "plateau/start", "charts/episodic_return"]
        writer.writerow([*names, "charts/episodic_return_se", "plateau/share_unsolved", "plateau/share_fallen"])
        for k, x in enumerate(returns):
            j, value = divmod(k, 100)
            shares = [1 - solved.mean(), fallen.mean()]
            writer.writerow([k, j, VALUES[value], stuck[j], x.mean(), x.std(ddof=1) / 20**0.5, *shares])


if __name__ == "__main__":
    main()
