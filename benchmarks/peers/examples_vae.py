# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
#     "torchvision==0.28.0",
# ]
# ///
"""PyTorch's own example of a VAE (pytorch/examples, vae/main.py), timed in CPU seconds.

    python benchmarks/peers/examples_vae.py --run-dir runs/examples

The example runs untouched, from a clone of its repository at a pinned commit; a clock stands where it prints. A row is
an epoch: time/elapsed are the CPU seconds of training so far (its DataLoader works in the same process), time/test
those of the test so far, losses/loss and eval/loss what it prints. MNIST is taken from --data-dir.
"""

import argparse
import builtins
import csv
import gzip
import importlib
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import torch

REPOSITORY, COMMIT = "https://github.com/pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"


def import_torchvision():
    """Beside CPU-only torch its compiled operators do not load: declare the two that it asks for, uncalled here."""
    try:
        return importlib.import_module("torchvision"), None
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision"), operators  # which vanish when nothing holds them


torchvision, OPERATORS = import_torchvision()


def clone(folder: Path):
    if not (folder / "vae" / "main.py").exists():
        subprocess.run(["git", "clone", "--filter=blob:none", "--no-checkout", REPOSITORY, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", COMMIT, "--", "vae"], check=True)
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "-C", folder, "diff", "--quiet", COMMIT, "--", "vae"], check=False).returncode
    if changed:
        raise SystemExit(f"{folder} holds another version ({commit.stdout.strip()}): remove it")


class Clock:
    """Takes the place of print: a row of metrics.csv after every epoch."""

    def __init__(self, path: Path):
        self.file = path.open("w", newline="", buffering=1)
        self.rows = csv.writer(self.file)
        self.rows.writerow(["global_step", "losses/loss", "eval/loss", "time/elapsed", "time/test"])
        self.trained = self.tested = 0.0
        self.mark, self.epoch, self.print = None, 0, builtins.print

    def __call__(self, *words, **options):
        text, now = " ".join(map(str, words)), time.process_time()
        if self.mark is None and text.startswith("Train Epoch"):
            self.mark = now  # after the first batch, which warms up
        if match := re.search(r"Epoch: (\d+) Average loss: ([\d.]+)", text):
            self.trained += now - self.mark
            self.mark, self.epoch, self.loss = now, int(match[1]), match[2]
        if match := re.search(r"Test set loss: ([\d.]+)", text):
            self.tested += now - self.mark
            self.rows.writerow([60_000 * self.epoch, self.loss, match[1], self.trained, self.tested])
            self.mark = time.process_time()
        self.print(*words, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of MNIST's four files")
    parser.add_argument("--source", type=Path, default=Path("runs/peers/pytorch-examples"), help="the clone")
    args = parser.parse_args()
    clone(args.source)
    script, folder = (args.source / "vae" / "main.py").absolute(), (args.run_dir / "work" / "vae").absolute()
    raw = folder.parent / "data" / "MNIST" / "raw"
    for path in (raw, folder / "results"):
        path.mkdir(parents=True, exist_ok=True)
    for path in args.data_dir.glob("*-ubyte.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    torch.set_num_threads(1)
    builtins.print = Clock(args.run_dir / "metrics.csv")
    os.chdir(folder)
    sys.argv = [str(script), "--epochs", str(args.epochs), "--seed", str(args.seed), "--no-accel"]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
