# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]==0.29.1", "numpy==1.26.4", "tensorboard==2.21.0", "torch==2.13.0", "tyro==1.0.17",
# ]
# ///
"""CleanRL's dqn.py, as it is: the episodes that it prints become rows.

    python -m benchmarks.peers.cleanrl_dqn --run-dir runs/cleanrl

It is cloned beside this interpreter's packages at a fixed commit and uses its own gymnasium, 0.29.1. Its settings are
its defaults, which algos/dqn.py has, too; that it plays one environment and ours ten is part of the difference.
"""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.rows import clone, flags_of, write_rows

REPOSITORY, COMMIT = "https://github.com/vwxyzjn/cleanrl", "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"


def main():
    args = flags_of(__doc__, env_id="CartPole-v1", total_timesteps=500_000)
    source = Path(sys.prefix, "cleanrl")
    clone(REPOSITORY, COMMIT, source)
    flags = ["--env-id", args.env_id, "--total-timesteps", str(args.total_timesteps), "--seed", str(args.seed)]
    words = [sys.executable, source / "cleanrl" / "dqn.py", "--no-cuda", *flags]
    env = os.environ | {"PYTHONPATH": str(source)}
    args.run_dir.mkdir(parents=True)
    printed = subprocess.run(words, cwd=args.run_dir, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    episodes = re.findall(r"^global_step=(\d+), episodic_return=\[?([-\d.]+)", printed, re.MULTILINE)
    returns, rows = [float(episode[1]) for episode in episodes], []
    for i, (step, _) in enumerate(episodes, start=1):
        rows.append({"global_step": int(step), "charts/episodic_return_100": statistics.mean(returns[:i][-100:])})
    rows[-1]["global_step"] = args.total_timesteps
    write_rows(args.run_dir, rows)


if __name__ == "__main__":
    main()
