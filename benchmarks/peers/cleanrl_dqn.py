# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[classic-control]==0.29.1",
#     "numpy==1.26.4",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tyro==1.0.17",
# ]
# ///
"""CleanRL's dqn.py, as it is, on one thread: what it printed becomes rows, CPU seconds among them.

    python benchmarks/peers/cleanrl_dqn.py --run-dir runs/cleanrl

Its repository is cloned beside the packages of this interpreter's environment, once, at a fixed commit, and its own
gymnasium, 0.29.1, is used. Its settings are its defaults, which algos/dqn.py has, too; that one environment is played
at a time there and ten here is part of the difference. The clock counts from its first line, imports included.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY, COMMIT = "https://github.com/vwxyzjn/cleanrl", "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"
ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")


def source() -> Path:
    """The folder with CleanRL at the commit above, cloned if it is not there."""
    folder = Path(sys.prefix, "cleanrl")
    if not (folder / "cleanrl" / "dqn.py").exists():
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", "--quiet", COMMIT], check=True)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--total-timesteps", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True)
    args = parser.parse_args()
    if (args.run_dir / "metrics.csv").exists():
        raise SystemExit(f"--run-dir {args.run_dir}: there is a run in it already")
    args.run_dir.mkdir(parents=True, exist_ok=True)
    folder = source()

    flags = {"--env-id": args.env_id, "--total-timesteps": args.total_timesteps, "--seed": args.seed}
    words = [
        sys.executable,
        folder / "cleanrl" / "dqn.py",
        "--no-cuda",
        *(str(word) for pair in flags.items() for word in pair),
    ]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": str(folder)}
    process = subprocess.Popen(words, cwd=args.run_dir, env=env, stdout=subprocess.PIPE, text=True)
    returns, rows = [], []
    for line in process.stdout:
        found = re.match(r"global_step=(\d+), episodic_return=\[?([-\d.]+)", line)
        if found:
            returns.append(float(found[2]))
            step = int(found[1])
            if not rows or step - rows[-1]["global_step"] >= args.total_timesteps // 250:
                rows.append(
                    {"global_step": step, "charts/episodic_return_100": sum(returns[-100:]) / len(returns[-100:])}
                )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"CleanRL's dqn.py ended with status {os.waitstatus_to_exitcode(status)}")
    if not returns:
        raise SystemExit("CleanRL's dqn.py reported no episode")
    last = {
        "global_step": args.total_timesteps,
        "charts/episodic_return_100": sum(returns[-100:]) / len(returns[-100:]),
    }
    last["time/cpu"] = usage.ru_utime + usage.ru_stime
    last["charts/SPS"] = args.total_timesteps / last["time/cpu"]
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["global_step", "charts/episodic_return_100", "charts/SPS", "time/cpu"])
        writer.writeheader()
        writer.writerows([*rows, last])
    print(f"return {last['charts/episodic_return_100']:.1f} after {last['time/cpu']:.0f} CPU seconds: {args.run_dir}")


if __name__ == "__main__":
    main()
