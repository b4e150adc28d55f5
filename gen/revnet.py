# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Reversible residual network: a classifier that recomputes its activations in the backward pass, from the output.

    python gen/revnet.py
    python gen/revnet.py --dataset cifar10 --batch-size 100 --updates 80000 --log-every 500

A residual network stores every layer's activations for the backward pass, so its memory grows with depth. Here the
channels are split into two halves, each changed by a function of the other:

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

The right side inverts the left one for any F and G. So a sequence of blocks stores its last output only, for the price
of one more forward pass. A block that halves the resolution is not reversible: its input is stored.
inversion.png shows the first stage's input and what is recomputed, eval/inversion_error the largest error anywhere.

Gomez, Ren, Urtasun & Grosse 2017, "The reversible residual network: backpropagation without storing activations"
(arXiv 1707.04585), algorithm 1; the sizes are those of its code, renmengye/revnet-public: RevNet-38 is the default,
RevNet-110 has --blocks 9 --channels 16 32 64.
Differences: 1. Each F begins with batch normalization, also the first. 2. Batches are drawn with replacement. 3. The
learning rate rises and falls in one cycle (theirs falls in steps). 4. Weight decay is on all parameters.
"""

import csv
import json
import math
import re
import tarfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    torch_deterministic: bool = True
    """deterministic convolutions on a GPU"""
    cuda: bool = True
    """use a GPU if there is one"""
    bf16: bool = False
    """train in bfloat16 by autocast; sums of halves and evaluation stay in float32"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "cifar10"] = "digits"
    """scikit-learn's 8x8 digits enlarged to 28x28, or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where CIFAR-10 is kept"""
    updates: PositiveInt = 90
    """gradient steps"""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 50
    """images per update"""
    learning_rate: PositiveFloat = 0.1
    """peak of SGD's learning rate, in one cycle"""
    blocks: Annotated[int, Field(ge=1, le=1000)] = 3
    """blocks of each stage, of four layers each"""
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 32, 56)
    """channels of either half in each stage, none fewer than before"""
    store_activations: bool = False
    """the same network with PyTorch's own backward pass, to compare"""
    log_every: PositiveInt = 30
    """updates per row of metrics.csv"""


# --- the model -------------------------------------------------------------------------------


def residual(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """F or G: batch normalization, ReLU and a convolution, twice."""
    return nn.Sequential(
        *(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)),
        *(nn.BatchNorm2d(c_out), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)),
    )


class Block(nn.Module):
    """Two halves [n, c_in, h, w] -> [n, c_out, h / stride, w / stride]; reversible if both have the same shape."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.f, self.g = residual(c_in, c_out, stride), residual(c_out, c_out, 1)
        new = c_out - c_in
        pad = nn.ConstantPad3d((0, 0, 0, 0, new // 2, new - new // 2), 0.0)  # zeros in the new channels
        self.shortcut = nn.Sequential(nn.AvgPool2d(stride), pad) if stride > 1 else nn.Identity()

    def forward(self, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        x1, x2 = x
        y1 = self.shortcut(x1) + self.f(x2)
        return y1, self.shortcut(x2) + self.g(y1)

    def inverse(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2

    def backward(self, y: tuple, dy: tuple) -> tuple[tuple, tuple]:
        """Algorithm 1: output and its gradient -> input and its gradient; adds to the gradients of the parameters."""
        (y1, y2), (dy1, dy2) = y, dy
        with torch.enable_grad():
            y1 = y1.detach().requires_grad_()
            g = self.g(y1)
            x2 = (y2 - g).detach().requires_grad_()
            f = self.f(x2)
            g.backward(dy2)
            dx1 = dy1 + y1.grad  # y1 is an output, and the input of G
            f.backward(dx1)
            return ((y1 - f).detach(), x2.detach()), (dx1, dy2 + x2.grad)


@contextmanager
def frozen_averages(module: nn.Module):
    """Batch normalization that leaves its running averages alone: recomputing must not count a batch twice."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = 0.1


class Recompute(torch.autograd.Function):
    """Reversible blocks one after another, of which only the output is stored."""

    @staticmethod
    def forward(ctx, blocks: nn.Sequential, *x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.blocks, y = blocks, blocks(x)
        ctx.save_for_backward(*y)
        return y

    @staticmethod
    def backward(ctx, *dy: torch.Tensor) -> tuple:
        y = ctx.saved_tensors
        with frozen_averages(ctx.blocks):
            for block in reversed(ctx.blocks):
                y, dy = block.backward(y, dy)
        return None, *dy


class RevNet(nn.Module):
    """Images [n, c, h, w] with values 0 to 255 -> logits [n, 10]."""

    def __init__(self, colours: int, blocks: int, channels: tuple[int, int, int], store_activations: bool = False):
        super().__init__()
        self.store_activations = store_activations
        self.stem = nn.Conv2d(colours, 2 * channels[0], 3, padding=1, bias=False)
        self.parts = nn.ModuleList([nn.Sequential(*(Block(channels[0], channels[0], 1) for _ in range(blocks)))])
        for c_in, c_out in pairwise(channels):
            self.parts.append(Block(c_in, c_out, stride=2))
            self.parts.append(nn.Sequential(*(Block(c_out, c_out, 1) for _ in range(blocks - 1))))
        self.head = nn.Sequential(nn.BatchNorm2d(2 * c_out), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head.append(nn.Linear(2 * c_out, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = self.stem(x / 127.5 - 1).to(self.stem.weight.dtype).chunk(2, dim=1)
        for part in self.parts:
            if self.store_activations:
                halves = part(halves)
            elif isinstance(part, nn.Sequential):
                halves = Recompute.apply(part, *halves)
            else:
                contexts = nullcontext(), frozen_averages(part)  # of the forward pass, and of the recomputed one
                halves = checkpoint(part, halves, use_reentrant=False, context_fn=lambda c=contexts: c)
        return self.head(torch.cat(halves, dim=1))

    @torch.no_grad()
    def invert(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each sequence of reversible blocks the input [n, 2c, h, w], and the input recomputed from the output."""
        halves, pairs = self.stem(x / 127.5 - 1).to(self.stem.weight.dtype).chunk(2, dim=1), []
        with frozen_averages(self):
            for part in self.parts:
                before, halves = halves, part(halves)
                if isinstance(part, nn.Sequential):
                    back = halves
                    for block in reversed(part):
                        back = block.inverse(*back)
                    pairs.append((torch.cat(before, dim=1), torch.cat(back, dim=1)))
        return pairs


# --- data ------------------------------------------------------------------------------------

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a"


def load_data(args: Args) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images uint8 [n, c, h, w], labels [n], and how many of them, from the first on, are to train on."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images = F.interpolate(pixels.float().view(-1, 1, 8, 8) * (255 / 16), size=28, mode="bilinear").round().byte()
        return images, labels, 1500
    path = args.data_dir / "cifar-10-binary.tar.gz"
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(CIFAR10_URL, str(path), hash_prefix=CIFAR10_SHA256)
        with tarfile.open(path, "r:gz") as tar:  # data_batch_1.bin to data_batch_5.bin, test_batch.bin
            files = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".bin")]
        rows = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8).view(-1, 3073)
    except Exception as error:  # no connection, or a damaged or foreign file
        raise UsageError(f"--data-dir: cannot read {path}, or download it from {CIFAR10_URL}: {error}") from None
    return rows[:, 1:].unflatten(1, (3, 32, 32)), rows[:, 0].long(), 50_000


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Photographs [n, c, h, w], each shifted by up to 4 pixels on black, half of them mirrored."""
    n, _, h, w = images.shape
    shifts = torch.randint(9, (n, 2)).tolist()
    padded = zip(F.pad(images, (4, 4, 4, 4)), shifts, strict=True)
    shifted = torch.stack([image[:, top : top + h, left : left + w] for image, (top, left) in padded])
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, shifted.flip(3), shifted)


# --- training --------------------------------------------------------------------------------


def save_inversion(images: torch.Tensor, before: torch.Tensor, back: torch.Tensor, path: Path):
    """Eight images [8, c, h, w], and a stage's input and recomputed input for them, as means over channels."""
    from matplotlib.figure import Figure

    error = (before - back).abs()
    rows = {"image": images, "input": before, "recomputed": back, f"error to {error.max():.0e}": error}
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    for axes, (label, row) in zip(figure.subplots(4), rows.items(), strict=True):
        axes.imshow(torch.cat([*row.float().mean(dim=1)], dim=1).cpu().numpy())  # side by side
        axes.set(xticks=[], yticks=[], ylabel=label)
    figure.savefig(path, dpi=100)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, labels, n = load_data(args)
    test, test_labels = images[n:].to(device), labels[n:].to(device)
    model = RevNet(images.shape[1], args.blocks, args.channels, args.store_activations).to(device)
    model = model.to(memory_format=torch.channels_last)  # faster convolutions
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9, weight_decay=2e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.updates, cycle_momentum=False)
    run, losses, start = Run(args, args.dataset), [], time.perf_counter()

    for step in tqdm(range(1, args.updates + 1), unit="update", disable=None):
        idx = torch.randint(n, (args.batch_size,))
        x = augmented(images[idx]) if args.dataset == "cifar10" else images[idx]
        # no cache: in older PyTorch it holds weights that Recompute.forward has cast, without a gradient
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16, cache_enabled=False):
            loss = F.cross_entropy(model(x.to(device)), labels[idx].to(device))
            optimizer.zero_grad()
            loss.backward()  # recomputes activations, so in the same precision
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if step % args.log_every == 0 or step == args.updates:
            mean_loss, seconds = torch.stack(losses).mean().item(), time.perf_counter() - start
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                inverted = model.invert(test[:100])  # in training mode, as in the backward pass
            model.eval()
            with torch.no_grad():
                predictions = torch.cat([model(x).argmax(dim=1) for x in test.split(500)])
            model.train()
            row = {
                "global_step": step * args.batch_size,
                "losses/loss": mean_loss,
                "eval/accuracy": (predictions == test_labels).float().mean().item(),
                "eval/inversion_error": max((before - back).abs().max().item() for before, back in inverted),
                "charts/SPS": len(losses) * args.batch_size / seconds,
            }
            run.log(row)
            torch.save({"model": model.state_dict()}, run.dir / "model.pt")
            losses, start = [], time.perf_counter()

    save_inversion(test[:8], *(x[:8] for x in inverted[0]), run.dir / "inversion.png")
    run.close("inversion.png")
    print(f"test accuracy {row['eval/accuracy']:.2%}, inversion error {row['eval/inversion_error']:.0e}: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
