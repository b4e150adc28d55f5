"""How gen/draw.py's first updates go, and how long they take: MNIST, T = 10, the paper's 2 x 2 and 5 x 5 filters.

    python benchmarks/draw_start.py --updates 400 --run-dir runs/start
    python benchmarks/draw_start.py --zero-canvas --zero-filters --run-dir runs/start

With --zero-filters the biases of the attention start at 0, with --zero-canvas the canvas does, as in most code. A row
of metrics.csv is 20 updates: losses/loss is their mean bound in nats, time/elapsed the CPU seconds so far. The same
settings as benchmarks/peers/plain_draw.py.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gen.draw import DRAW, Args, load_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--zero-canvas", action="store_true")
    parser.add_argument("--zero-filters", action="store_true")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of MNIST")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    args = Args(dataset="mnist", data_dir=given.data_dir, read_size=2)
    images, _ = load_images(args)
    model = DRAW(args, images.mean(0))
    with torch.no_grad():
        if given.zero_canvas:
            model.canvas.zero_()
        if given.zero_filters:
            model.read_attention.bias.zero_()
            model.write_attention.bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    given.run_dir.mkdir(parents=True, exist_ok=True)
    with (given.run_dir / "metrics.csv").open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(["global_step", "losses/loss", "losses/kl", "time/elapsed"])
        total, start = torch.zeros(2), time.process_time()
        for step, idx in enumerate(torch.randperm(len(images)).split(128)[: given.updates], start=1):
            losses = model.losses(images[idx].bernoulli())
            optimizer.zero_grad()
            losses.sum(0).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            total += losses.detach().mean(1)
            if step % 20 == 0:
                rows.writerow([step * 128, total.sum().item() / 20, total[1].item() / 20, time.process_time() - start])
                total.zero_()


if __name__ == "__main__":
    main()
