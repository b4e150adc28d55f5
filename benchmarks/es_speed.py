"""What algos/es.py keeps of the environment's own speed: steps of whole updates beside raw stepping, in turns.

    python benchmarks/es_speed.py --env-id Reacher-v5 --run-dir runs/es-speed

Raw stepping is benchmarks/raw_stepping.py's: random actions drawn beforehand. The first ratio is of steps per CPU
second in one process, which a busy machine hardly changes; the second of steps per second on all cores at once, which
it does. A row of metrics.csv for every turn.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.es import Actors, Args, Search, check_spaces, count_cores
from benchmarks.raw_stepping import step, step_on_all_cores


def raw(env_id: str, num_steps: int, seeds: list[int]) -> tuple[float, float]:
    """Steps per CPU second of one process, and steps per second of one process per seed but the first, all at once."""
    start, end = step(env_id, num_steps, seeds[0], clock=time.process_time)
    return num_steps / (end - start), step_on_all_cores(env_id, num_steps, seeds[1:])


def es(args: Args, num_steps: int, clock) -> float:
    """Steps of whole updates, after a first one, per second of that clock."""
    search = Search(args, check_spaces(args))
    actors, start, steps = Actors(args, search), 0.0, 0
    try:
        while steps < num_steps:
            results = actors.call("evolve")
            actors.update(results)
            if not start:
                start = clock()
            else:
                steps += sum(int(result["lengths"].sum()) for result in results)
        return steps / (clock() - start)
    finally:
        actors.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="Reacher-v5", help="Gymnasium environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--total-timesteps", type=int, default=100_000, help="steps of each measurement and core")
    parser.add_argument("--population", type=int, default=128)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    flags = parser.parse_args()
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    cores = count_cores()
    same = {"env_id": flags.env_id, "seed": flags.seed, "population": flags.population, "group_size": flags.group_size}
    for turn, sequence in enumerate(np.random.SeedSequence(flags.seed).spawn(flags.turns)):
        seeds = [int(x) % 2**31 for x in sequence.generate_state(cores + 1)]
        one_raw, all_raw = raw(flags.env_id, flags.total_timesteps, seeds)
        one_es = es(Args(**same, num_actors=1), flags.total_timesteps, time.process_time)
        all_es = es(Args(**same, num_actors=cores), flags.total_timesteps * cores, time.perf_counter)
        row = {
            "global_step": (turn + 1) * flags.total_timesteps,
            "raw/steps_per_cpu_second": one_raw,
            "es/steps_per_cpu_second": one_es,
            "share_of_cpu": one_es / one_raw,
            "raw/all_cores_SPS": all_raw,
            "es/all_cores_SPS": all_es,
            "share_on_all_cores": all_es / all_raw,
            "cores": cores,
        }
        with (flags.run_dir / "metrics.csv").open("a" if turn else "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            if not turn:
                writer.writeheader()
            writer.writerow(row)
        print({name: round(value, 3) for name, value in row.items()})


if __name__ == "__main__":
    main()
