"""How fast the environment itself can be stepped: the limit of every program that learns in it.

    python benchmarks/raw_stepping.py --env-id Reacher-v5 --run-dir runs/raw

Steps one environment with random actions drawn beforehand, starting over where an episode ends; first in one process,
then in one process per core at once. The only row of metrics.csv holds the median of the repetitions.
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


def step(env_id: str, num_steps: int, seed: int, ready=None, clock=time.perf_counter) -> tuple[float, float]:
    """Step one environment; with `ready`, a barrier, start together. Returns what the clock said before and after."""
    env = gym.make(env_id)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(num_steps)]
    if ready:
        ready.wait()
    start = clock()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    end = clock()
    env.close()
    return start, end


def work(env_id: str, num_steps: int, seed: int, ready, connection):
    connection.send(step(env_id, num_steps, seed, ready))


def step_on_all_cores(env_id: str, num_steps: int, seeds: list[int]) -> float:
    """Steps per second of one process per seed, all at once, from the first one's start to the last one's end."""
    ready, processes, connections = multiprocessing.Barrier(len(seeds)), [], []
    for seed in seeds:
        here, there = multiprocessing.Pipe(duplex=False)
        processes.append(multiprocessing.Process(target=work, args=(env_id, num_steps, seed, ready, there)))
        connections.append(here)
        processes[-1].start()
        there.close()
    times = [connection.recv() for connection in connections]
    for process in processes:
        process.join()
    return num_steps * len(seeds) / (max(end for _, end in times) - min(start for start, _ in times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="Reacher-v5", help="Gymnasium environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, default=100_000, help="steps of each process and repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    one, every = [], []
    for sequence in np.random.SeedSequence(args.seed).spawn(args.repetitions):
        first, *others = (int(seed) % 2**31 for seed in sequence.generate_state(cores + 1))
        start, end = step(args.env_id, args.total_timesteps, first)
        one.append(args.total_timesteps / (end - start))
        every.append(step_on_all_cores(args.env_id, args.total_timesteps, others))
    row = {
        "global_step": args.total_timesteps * args.repetitions * (cores + 1),
        "raw/one_core_SPS": statistics.median(one),
        "raw/all_cores_SPS": statistics.median(every),
        "raw/cores": cores,
    }
    args.run_dir.mkdir(parents=True, exist_ok=True)
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    rates = f"{row['raw/one_core_SPS']:,.0f} steps/s on one core, {row['raw/all_cores_SPS']:,.0f} on {cores}"
    print(f"{args.env_id}: {rates}")


if __name__ == "__main__":
    main()
