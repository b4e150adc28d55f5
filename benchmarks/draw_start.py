"""How gen/draw.py's first updates go, and how long they take: MNIST, T = 10, the paper's 2 x 2 and 5 x 5 filters.

    python benchmarks/draw_start.py --zero-canvas --zero-filters --run-dir runs/start

With --zero-filters the biases of the attention start at 0, with --zero-canvas the canvas does, as in most code. Rows of
20 updates and settings are those of benchmarks/peers/plain_draw.py.
"""

import sys
from pathlib import Path

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.plain_draw import train
from benchmarks.rows import write_rows
from gen.draw import DRAW, Args, load_images


def main(run_dir: Path, seed: int = 1, updates: int = 400, zero_canvas: bool = False, zero_filters: bool = False):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    args = Args(dataset="mnist", read_size=2)
    images, _ = load_images(args)
    model = DRAW(args, images.mean(0))
    with torch.no_grad():
        model.canvas.mul_(0 if zero_canvas else 1)
        for layer in (model.read_attention, model.write_attention):
            layer.bias.mul_(0 if zero_filters else 1)
    batches = (images[idx] for idx in torch.randperm(len(images)).split(128)[:updates])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    write_rows(run_dir, train(model, lambda x: model.losses(x).sum(0).mean(), batches, optimizer))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
