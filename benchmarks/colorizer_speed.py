"""gen/colorizer.py's update at 256 pixels with pix2pix's widths in batches of 4, timed in CPU seconds.

    python benchmarks/colorizer_speed.py --run-dir runs/speed

To be compared with benchmarks/peers/plain_pix2pix.py. A row is an update on noise, which costs as much as images;
time/elapsed are the CPU seconds so far, the first update, which warms up, left out.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gen.colorizer import Args, Generator, make_discriminator, update


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    args = Args(size=256, width=64)
    networks = nn.ModuleDict(
        {"generator": Generator(256, 64, 4, skip=True), "discriminator": make_discriminator(64, 7)}
    )
    networks.to(memory_format=torch.channels_last)
    optimizers = {name: torch.optim.Adam(network.parameters()) for name, network in networks.items()}
    given.run_dir.mkdir(parents=True, exist_ok=True)
    with (given.run_dir / "metrics.csv").open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(["global_step", "time/elapsed"])
        for step in range(given.updates + 1):
            if step == 1:
                start = time.process_time()
            update(networks, optimizers, torch.rand(4, 3, 256, 256), torch.rand(4, 4, 256, 256), args)
            if step:
                rows.writerow([4 * step, time.process_time() - start])


if __name__ == "__main__":
    main()
