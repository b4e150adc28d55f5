# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "tqdm==4.70.1"]
# ///
"""The RealNVP of chrischute/real-nvp on CIFAR-10, timed in CPU seconds.

    python -m benchmarks.peers.chrischute_realnvp --run-dir runs/chrischute --updates 350

Its files run untouched, from a clone at a pinned commit: its model, its loss, its epoch of training (train.train, which
is handed as many batches as there are updates). From outside, Tensor.view is reshape, because today's PyTorch refuses a
view of what its channel-wise couplings make; and a clock stands in optimizer.step. A row is --log-every updates:
losses/bits_per_dim is their mean, time/elapsed the CPU seconds without the first update, which warms up.
"""

import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

from benchmarks.rows import clone, flags_of, write_rows

REPOSITORY, COMMIT = "https://github.com/chrischute/real-nvp", "df51ad570baf681e77df4d2265c0f1eb1b5b646c"
SOURCE = Path("runs", "peers", "real-nvp")
NATS = 3 * 32 * 32 * np.log(2)  # of a bit per dimension


def read_images(name: str) -> torch.Tensor:
    """[n, 3, 32, 32], from 0 to 1 as torchvision's ToTensor makes them."""
    rows = np.fromfile(Path("data", "cifar-10-batches-bin", name), np.uint8).reshape(-1, 3073)
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255


class Batches:
    """Random batches, each with half of its images mirrored; what the epoch of training asks of a DataLoader."""

    def __init__(self, images: torch.Tensor, batch_size: int, num: int):
        self.dataset, self.order = images, torch.randperm(len(images)).split(batch_size)[:num]

    def __iter__(self):
        for idx in self.order:
            x = self.dataset[idx]
            yield torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x), None


def main():
    args = flags_of(__doc__, updates=350, batch_size=16, channels=64, blocks=8, log_every=50, eval_images=500)
    clone(REPOSITORY, COMMIT, SOURCE)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    torch.Tensor.view = torch.Tensor.reshape
    sys.path.insert(0, str(SOURCE))
    sys.modules.update({name: MagicMock() for name in ("torchvision", "torchvision.transforms")})  # for its main()
    import models
    import train
    import util

    net = models.RealNVP(num_scales=2, in_channels=3, mid_channels=args.channels, num_blocks=args.blocks)
    optimizer = torch.optim.Adam(util.get_param_groups(net, 5e-5, norm_suffix="weight_g"), lr=1e-3)
    losses, seconds, loss_fn, step = [], [], models.RealNVPLoss(), optimizer.step

    def timed_step():
        step()
        seconds.append(time.process_time())

    def remembered_loss(*outputs) -> torch.Tensor:
        loss = loss_fn(*outputs)
        losses.append(loss.item() / NATS)
        return loss

    optimizer.step = timed_step
    batches = Batches(read_images("data_batch_1.bin"), args.batch_size, args.updates)
    train.train(0, net, batches, "cpu", optimizer, remembered_loss, 100.0)
    net.eval()
    test = read_images("test_batch.bin")[: args.eval_images]
    with torch.no_grad():
        scores = [loss_fn(*net(part, reverse=False)).item() * len(part) for part in test.split(50)]
    rows = []
    for start in range(0, args.updates, args.log_every):
        end = min(start + args.log_every, args.updates)
        elapsed, bits = seconds[end - 1] - seconds[0], np.mean(losses[start:end])
        row = {"global_step": end * args.batch_size, "losses/bits_per_dim": bits, "eval/bits_per_dim": None}
        row["charts/SPS"] = args.batch_size * (end - 1) / elapsed if end > 1 else None
        rows.append(row | {"time/elapsed": elapsed})
    rows[-1]["eval/bits_per_dim"] = sum(scores) / len(test) / NATS
    write_rows(args.run_dir, rows)


if __name__ == "__main__":
    main()
