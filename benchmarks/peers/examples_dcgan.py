# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "torchvision==0.28.0"]
# ///
"""PyTorch's own example of a DCGAN (pytorch/examples, dcgan/main.py) on CIFAR-10 at 64 pixels, in CPU seconds.

    python -m benchmarks.peers.examples_dcgan --run-dir runs/examples --updates 30

It loads its images in its own process; a stand-in takes the place of torchvision's CIFAR10, which does not read the
binary files in data/. A row is an update: charts/SPS images per CPU second since the fifth, losses/* what it prints.
"""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.peers import examples
from benchmarks.rows import flags_of, write_rows

torchvision, OPERATORS = examples.import_torchvision()
BATCH_SIZE, FIRST = 64, 5
LOSSES = re.compile(r"Loss_D: ([-\d.]+) Loss_G: ([-\d.]+)")


class Images(torch.utils.data.Dataset):
    def __init__(self, root: str, download: bool, transform):
        paths = sorted(Path(root, "cifar-10-batches-bin").glob("data_batch_*.bin"))
        rows = np.concatenate([np.fromfile(path, np.uint8) for path in paths]).reshape(-1, 3073)
        self.labels, self.transform = rows[:, 0], transform
        self.images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def rows(printed: list[tuple[float, str]]):
    """The example's lines, with their CPU seconds -> a row for each update."""
    updates = [(now, match) for now, text in printed if (match := LOSSES.search(text))]
    for count, (now, match) in enumerate(updates, start=1):
        elapsed = now - updates[FIRST - 1][0] if count > FIRST else None
        row = {"global_step": count * BATCH_SIZE, "losses/discriminator": match[1], "losses/generator": match[2]}
        speed = (count - FIRST) * BATCH_SIZE / elapsed if elapsed else None
        yield row | {"charts/SPS": speed, "time/elapsed": elapsed}


def main():
    args = flags_of(__doc__, updates=30)
    torchvision.datasets.CIFAR10 = Images

    def enough(text: str) -> bool:
        return text.startswith(f"[0/1][{args.updates - 1}/")  # epoch, update

    flags = ["--dataset", "cifar10", "--dataroot", Path("data").absolute(), "--workers", "0", "--niter", "1"]
    flags += ["--manualSeed", args.seed]
    write_rows(args.run_dir, rows(examples.run("dcgan/main.py", flags, args.run_dir / "work", enough)))


if __name__ == "__main__":
    main()
