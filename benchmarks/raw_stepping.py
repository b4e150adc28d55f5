"""How fast the environment itself can be stepped: the limit of every program that learns in it.

    python -m benchmarks.raw_stepping --env-id Reacher-v5 --run-dir runs/raw

Steps one environment with random actions drawn beforehand, in one process per core at once.
The only row of metrics.csv holds the median of three repetitions.
"""

import multiprocessing
import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

from benchmarks.rows import write_rows


def step(env_id: str, num_steps: int, seed: int, ready, times):
    """Step one environment when all are ready at the barrier; put the times before and after into the queue."""
    env = gym.make(env_id)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(num_steps)]
    ready.wait()
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    times.put((start, time.perf_counter()))


def steps_per_second(env_id: str, num_steps: int, seeds: list[int]) -> float:
    """Of one process per seed, all at once, from the first one's start to the last one's end."""
    ready, times = multiprocessing.Barrier(len(seeds)), multiprocessing.Queue()
    processes = [multiprocessing.Process(target=step, args=(env_id, num_steps, seed, ready, times)) for seed in seeds]
    for process in processes:
        process.start()
    starts, ends = zip(*(times.get() for _ in seeds), strict=True)
    for process in processes:
        process.join()
    return num_steps * len(seeds) / (max(ends) - min(starts))


def main(run_dir: Path, env_id: str = "Reacher-v5", seed: int = 1, total_timesteps: int = 100_000):
    """So many steps of each process and repetition."""
    cores, rates = len(os.sched_getaffinity(0)), []
    for sequence in np.random.SeedSequence(seed).spawn(3):
        seeds = [int(seed) % 2**31 for seed in sequence.generate_state(cores)]
        rates.append(steps_per_second(env_id, total_timesteps, seeds))
    write_rows(run_dir, [{"global_step": total_timesteps * 3 * cores, "raw/all_cores_SPS": np.median(rates)}])
    print(f"{np.median(rates):,.0f} steps/s on {cores} cores")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
