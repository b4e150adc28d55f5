"""The fraction of random linear policies that solve CartPole, by an independent simulation: a check of random search.

    python -m benchmarks.random_weights --run-dir runs/random-weights

CartPole's equations without Gymnasium: one episode of each of a million weight vectors from [-1, 1]^4. One over the
fraction of those that reach 200 or 500 steps is the mean number of episodes of a random search.
"""

from pathlib import Path

import numpy as np
import tyro

from benchmarks.rows import write_rows

BATCH = 20_000  # weight vectors


def main(run_dir: Path, seed: int = 1, batches: int = 50):
    rng, reached, steps = np.random.default_rng(seed), {200: 0, 500: 0}, 0
    for _ in range(batches):
        weights, state = rng.uniform(-1, 1, (4, BATCH)), rng.uniform(-0.05, 0.05, (4, BATCH))
        for step in range(1, 501):
            x, v, angle, omega = state
            force = np.where((weights * state).sum(axis=0) >= 0, 10.0, -10.0)
            push = (force + 0.05 * omega**2 * np.sin(angle)) / 1.1
            angular = (9.8 * np.sin(angle) - np.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
            acceleration = push - 0.05 * angular * np.cos(angle) / 1.1
            state = np.stack([x + 0.02 * v, v + 0.02 * acceleration, angle + 0.02 * omega, omega + 0.02 * angular])
            steps += state.shape[1]
            if step in reached:
                reached[step] += state.shape[1]  # a step is rewarded even if the pole falls in it
            standing = (abs(state[0]) <= 2.4) & (abs(state[2]) <= 12 * 2 * np.pi / 360)
            weights, state = weights[:, standing], state[:, standing]
    row, total = {"global_step": steps}, batches * BATCH
    for limit, count in reached.items():
        error = total / count * np.sqrt((1 - count / total) / count)
        row |= {f"mean/{limit}": total / count, f"mean/{limit}_se": error}
    write_rows(run_dir, [row])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
