# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "torchvision==0.28.0"]
# ///
"""PyTorch's own example of a VAE (pytorch/examples, vae/main.py), timed in CPU seconds.

    python -m benchmarks.peers.examples_vae --run-dir runs/examples

A row is an epoch: time/elapsed are the CPU seconds of training so far without the first batch, which warms up (its
DataLoader works in the same process), time/test those of the test so far, losses/loss and eval/loss what it prints.
"""

import gzip
import re
from pathlib import Path

from benchmarks.peers import examples
from benchmarks.rows import flags_of, write_rows

TORCHVISION = examples.import_torchvision()


def rows(printed: list[tuple[float, str]]):
    """The example's lines, with their CPU seconds -> a row for each epoch."""
    mark, trained, tested = None, 0.0, 0.0
    for now, text in printed:
        if mark is None and text.startswith("Train Epoch"):
            mark = now
        if match := re.search(r"Epoch: (\d+) Average loss: ([\d.]+)", text):
            trained, mark, epoch, loss = trained + now - mark, now, int(match[1]), match[2]
        if match := re.search(r"Test set loss: ([\d.]+)", text):
            tested, mark = tested + now - mark, now
            times = {"time/elapsed": trained, "time/test": tested}
            yield {"global_step": 60_000 * epoch, "losses/loss": loss, "eval/loss": match[1]} | times


def main():
    args = flags_of(__doc__, epochs=10)
    work = args.run_dir / "work" / "vae"
    raw = work.parent / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (work / "results").mkdir(parents=True)
    for path in Path("data").glob("*-ubyte.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    flags = ["--epochs", args.epochs, "--seed", args.seed, "--no-accel"]
    write_rows(args.run_dir, rows(examples.run("vae/main.py", flags, work)))


if __name__ == "__main__":
    main()
