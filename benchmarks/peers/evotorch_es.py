# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "evotorch==0.6.1",
#     "gymnasium[classic-control,mujoco]==1.4.0",
#     "matplotlib==3.11.2",
#     "pydantic==2.14.4",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.16",
# ]
# ///
"""evotorch's PGPE beside algos/es.py: environment steps per CPU second of one process.

    python benchmarks/peers/evotorch_es.py --run-dir runs/speed

Both play CartPole-v1 with populations of 64 in antithetic pairs, a network of two hidden layers of 64 tanh units and
normalized observations, in turns; evotorch through GymNE, its problem class for Gymnasium, whose clock starts after a
first generation. A row of metrics.csv for every turn. How long episodes are matters to both, so it is logged, too; with
--no-learn step sizes are next to nothing, and both play the short episodes of an untrained policy throughout.
"""

import argparse
import csv
import logging
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401  (imported before the clock starts)
import torch
from evotorch.algorithms import PGPE
from evotorch.neuroevolution import GymNE

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from algos.es import Args, train

NETWORK = "Linear(obs_length, 64) >> Tanh() >> Linear(64, 64) >> Tanh() >> Linear(64, act_length)"


def measure(generation, generations: int) -> dict[str, float]:
    """Call generation(), which returns the steps and episodes so far, so many times after a first one."""
    first, start = generation(), time.process_time()
    for _ in range(generations):
        last = generation()
    steps, episodes = last[0] - first[0], last[1] - first[1]
    return {"steps": steps, "steps_per_cpu_second": steps / (time.process_time() - start), "length": steps / episodes}


def theirs(flags: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(flags.seed)
    problem = GymNE(flags.env_id, NETWORK, observation_normalization=True)
    settings = {"center_learning_rate": 0.5, "stdev_learning_rate": 0.1, "optimizer_config": {"max_speed": 1.0}}
    if not flags.learn:
        settings = {"center_learning_rate": 1e-9, "stdev_learning_rate": 0.0, "optimizer_config": {"max_speed": 1e-9}}
    searcher = PGPE(problem, popsize=flags.population, stdev_init=0.3, optimizer="clipup", **settings)

    def generation() -> tuple[int, int]:
        searcher.step()
        return problem.status["total_interaction_count"], problem.status["total_episode_count"]

    return measure(generation, flags.generations)


def ours(flags: argparse.Namespace, folder: Path) -> dict[str, float]:
    """A whole training of algos/es.py, with what it writes and the last evaluation's single episode."""
    settings = {"env_id": flags.env_id, "seed": flags.seed, "population": flags.population, "eval_episodes": 1}
    args = Args(**settings, eval_every=10**6, total_timesteps=flags.total_timesteps, run_dir=folder)
    args.learning_rate *= 1 if flags.learn else 1e-9
    start = time.process_time()
    steps = train(args)["global_step"]
    seconds = time.process_time() - start
    with (folder / "metrics.csv").open(newline="") as file:
        episodes = args.population * len(list(csv.DictReader(file)))
    return {"steps": steps, "steps_per_cpu_second": steps / seconds, "length": steps / episodes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="CartPole-v1", help="Gymnasium environment")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--total-timesteps", type=int, default=200_000, help="of algos/es.py")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--learn", action=argparse.BooleanOptionalAction, default=True)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # evotorch announces its seed and device at every turn
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    step = 0
    for turn in range(flags.turns):
        evotorch, es = theirs(flags), ours(flags, flags.run_dir / f"es{turn}")
        step += int(evotorch["steps"] + es["steps"])
        row = {"global_step": step} | {f"evotorch/{key}": value for key, value in evotorch.items()}
        row |= {f"es/{key}": value for key, value in es.items()}
        row["times_faster"] = es["steps_per_cpu_second"] / evotorch["steps_per_cpu_second"]
        with (flags.run_dir / "metrics.csv").open("a" if turn else "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            if not turn:
                writer.writeheader()
            writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
