"""How gen/draw.py's first updates go: MNIST, T = 10, the paper's 2 x 2 and 5 x 5 filters.

    python -m benchmarks.draw_start --zero-canvas --zero-filters --run-dir runs/start

With --zero-filters the biases of the attention start at 0, with --zero-canvas the canvas does, as in most code. A row
is the mean bound of 20 updates.
"""

from pathlib import Path

import torch
import tyro

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
    optimizer, rows, losses = torch.optim.Adam(model.parameters(), lr=1e-3), [], []
    for step, idx in enumerate(torch.randperm(len(images)).split(128)[:updates], start=1):
        loss = model.losses(images[idx].bernoulli()).sum(0).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            rows.append({"global_step": step * 128, "losses/loss": sum(losses[-20:]) / 20})
    write_rows(run_dir, rows)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
