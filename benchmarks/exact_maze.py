"""How good a search is in the Dyna maze, from everywhere: the share of the cells in which it takes a shortest way.

    python benchmarks/exact_maze.py --simulations 100 --run-dir runs/maze

The search of algos/mcts.py decides once in each of the 46 cells around the goal; a choice is right if it leads one
step nearer. metrics.csv holds the share of right choices, and beside it what a random player would get.
"""

import argparse
import csv
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.mcts import Args, Table, maze, search


def best_actions(world: Table) -> dict:
    """{state: the set of its actions on shortest ways to the goal}, breadth first from the goal."""
    goals = {next_state for ((_, next_state, _, done),) in world.outcomes.values() if done}
    actions, border = dict.fromkeys(goals), goals
    while border:
        found = {}
        for (state, action), ((_, next_state, _, _),) in world.outcomes.items():
            if state not in actions and next_state in border:
                found.setdefault(state, set()).add(action)
        actions |= found
        border = set(found)
    return {state: best for state, best in actions.items() if best}


def measure(args: Args, seed: int) -> dict:
    """The row of metrics for one seed."""
    world = maze(args.gamma, random.Random(seed))
    best = best_actions(world)
    right = [search(world, state, args)[0] in actions for state, actions in best.items()]
    by_chance = [len(actions) / len(world.all_actions) for actions in best.values()]
    return {
        "global_step": args.simulations,
        "maze/right": sum(right) / len(right),
        "maze/right_by_chance": sum(by_chance) / len(by_chance),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", choices=["simple", "tree", "td"], default="tree")
    parser.add_argument("--simulations", type=int, nargs="+", default=[100], help="per choice; one row for each")
    parser.add_argument("--exploration", type=float, default=0.05, help="weight of UCT's bonus, in units of the return")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    flags = parser.parse_args()
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        for i, simulations in enumerate(flags.simulations):
            args = Args(search=flags.search, simulations=simulations, exploration=flags.exploration)
            row = measure(args, flags.seed)
            writer = csv.DictWriter(file, row)
            if i == 0:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
