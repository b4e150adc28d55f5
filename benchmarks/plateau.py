"""Where hill climbing gets stuck: the return of a linear policy on CartPole over each of its weights, the others fixed.

    python -m benchmarks.plateau --run-dir runs/plateau

Takes the first trial of algos/hill_climbing.py whose weights still let the pole fall at once after a hundred episodes.
Around them, one weight at a time takes a hundred values from -2 to 2, and each of those policies plays twenty episodes:
a row of metrics.csv.
"""

from pathlib import Path

import numpy as np
import tyro

from algos.hill_climbing import Args, run_episode, train
from benchmarks.rows import write_rows

VALUES = np.linspace(-2, 2, 100)
AT_ONCE = 12  # steps in which the pole falls if it is always pushed to the same side


def main(run_dir: Path, seed: int = 1):
    rng, climbing = np.random.default_rng(seed), run_dir / "climbing"
    unsolved = 1 - train(Args(num_runs=400, max_episodes=100, seed=seed, run_dir=climbing))["charts/share_solved"]
    weights = np.load(climbing / "weights.npy")
    fallen = run_episode(weights, 200, rng) < AT_ONCE
    stuck = weights[fallen][0]
    policies = np.tile(stuck, (400, 1))
    for j in range(4):
        policies[100 * j : 100 * (j + 1), j] = VALUES
    returns = np.stack([run_episode(policies, 200, rng) for _ in range(20)], axis=1)  # [policies, episodes]
    shares, rows = {"plateau/share_unsolved": unsolved, "plateau/share_fallen": fallen.mean()}, []
    for k, x in enumerate(returns):
        j, value = divmod(k, 100)
        policy = {"plateau/weight": j, "plateau/value": VALUES[value], "plateau/start": stuck[j]}
        found = {"charts/episodic_return": x.mean(), "charts/episodic_return_se": x.std(ddof=1) / 20**0.5}
        rows.append({"global_step": k} | policy | found | shares)
    write_rows(run_dir, rows)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
