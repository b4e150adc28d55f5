# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
#     "torchvision==0.28.0",
# ]
# ///
"""PyTorch's own example of a DCGAN (pytorch/examples, dcgan/main.py) on CIFAR-10 at 64 pixels, in CPU seconds.

    python benchmarks/peers/examples_dcgan.py --run-dir runs/examples --updates 30

The example runs untouched, from a clone of its repository at a pinned commit, and loads its pictures in its own
process (--workers 0); a clock stands where it prints. CIFAR-10 is read from the binary files in --data-dir, which
torchvision's class, for which a stand-in with the same items is put, does not read. A row is an update: charts/SPS
pictures per CPU second since the fifth update, losses/* what it prints.
"""

import argparse
import builtins
import csv
import importlib
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

REPOSITORY, COMMIT = "https://github.com/pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"
BATCH_SIZE, FIRST = 64, 5  # the first updates warm up, and pictures are saved after the very first


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
    if not (folder / "dcgan" / "main.py").exists():
        if not folder.exists():
            subprocess.run(["git", "clone", "--filter=blob:none", "--no-checkout", REPOSITORY, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", COMMIT, "--", "dcgan"], check=True)
    if subprocess.run(["git", "-C", folder, "diff", "--quiet", COMMIT, "--", "dcgan"], check=False).returncode:
        raise SystemExit(f"{folder} holds another version than {COMMIT}: remove it")


class Pictures(torch.utils.data.Dataset):
    """Takes the place of torchvision's CIFAR10: the same pictures of PIL's, from the binary files."""

    def __init__(self, root: str, download: bool, transform):
        paths = [Path(root, "cifar-10-batches-bin", f"data_batch_{i}.bin") for i in range(1, 6)]
        rows = np.concatenate([np.fromfile(path, np.uint8) for path in paths]).reshape(-1, 3073)
        self.labels, self.transform = rows[:, 0], transform
        self.pictures = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple:
        return self.transform(Image.fromarray(self.pictures[i])), int(self.labels[i])


class Finished(Exception):
    pass


class Clock:
    """Takes the place of print: a row of metrics.csv after every update."""

    def __init__(self, path: Path, updates: int):
        self.file = path.open("w", newline="", buffering=1)
        self.rows = csv.writer(self.file)
        names = ["losses/discriminator", "losses/generator", "charts/SPS", "time/elapsed"]
        self.rows.writerow(["global_step", *names])
        self.updates, self.count, self.mark, self.print = updates, 0, None, builtins.print

    def __call__(self, *words, **options):
        text, now = " ".join(map(str, words)), time.process_time()
        if match := re.search(r"Loss_D: ([-\d.]+) Loss_G: ([-\d.]+)", text):
            self.count += 1
            if self.count == FIRST:
                self.mark = now
            elapsed = now - self.mark if self.count > FIRST else None
            speed = (self.count - FIRST) * BATCH_SIZE / elapsed if elapsed else None
            self.rows.writerow([self.count * BATCH_SIZE, match[1], match[2], speed, elapsed])
        self.print(*words, **options)
        if self.count == self.updates:
            raise Finished


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of cifar-10-batches-bin/")
    parser.add_argument("--source", type=Path, default=Path("runs/peers/pytorch-examples"), help="the clone")
    args = parser.parse_args()
    clone(args.source)
    script, data, work = (args.source / "dcgan/main.py").absolute(), args.data_dir.absolute(), args.run_dir / "work"
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torchvision.datasets.CIFAR10 = Pictures
    builtins.print = Clock(args.run_dir / "metrics.csv", args.updates)
    os.chdir(work)
    sys.argv = [str(script), "--dataset", "cifar10", "--dataroot", str(data), "--workers", "0", "--niter", "1"]
    sys.argv += ["--manualSeed", str(args.seed)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Finished:
        return


if __name__ == "__main__":
    main()
