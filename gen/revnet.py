# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib", "numpy", "pydantic>=2", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9", "wandb",
# ]
# ///
"""Reversible residual network: a classifier that recomputes its activations in the backward pass, from the output.

    python gen/revnet.py
    python gen/revnet.py --dataset cifar10 --augment --batch-size 100 --updates 80000

A residual network stores every layer's activations for the backward pass, so its memory grows with depth. Here the
channels are split into two halves, each changed by a function of the other:

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

The right side inverts the left one for any F and G. So any number of blocks in a row stores its last output only, for
the price of one more forward pass; a block that halves or widens the image is not reversible, and its input is stored.
The sums are float32 also with --bf16: a sum in bfloat16 loses what the inverse needs. inversion.png shows how well the
first blocks' input is recomputed; eval/inversion_error is the largest error anywhere in the network.

Gomez, Ren, Urtasun & Grosse 2017, "The reversible residual network: backpropagation without storing activations"
(arXiv 1707.04585), algorithm 1; sizes and training schedule of its code, renmengye/revnet-public: RevNet-38 is the
default, RevNet-110 has --blocks 9 9 9 --filters 32 64 128.
Differences: 1. Each F begins with batch normalization, also the first. 2. Images are standardized by channel. 3. The
learning rate falls to a tenth after half of the updates and again after three quarters.
"""

import csv
import json
import math
import re
import tarfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: NonNegativeInt = 1
    """seed of the experiment"""
    torch_deterministic: bool = True
    """deterministic convolutions on a GPU"""
    torch_threads: PositiveInt = 1
    """threads on the CPU; results differ in the last digits with their number"""
    cuda: bool = True
    """use a GPU if there is one"""
    bf16: bool = False
    """train in bfloat16 by autocast, but for the sums; accuracy is evaluated in float32"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""
    resume: Path | None = None
    """continue from this run's checkpoint.pt, with the same flags; its rows are copied into the new run's folder"""

    dataset: Literal["digits", "cifar10"] = "digits"
    """scikit-learn's 8x8 digits enlarged to 28x28, or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where CIFAR-10 is kept"""
    augment: bool = False
    """shift images by up to 4 pixels and mirror half of them: for photographs, not for digits"""
    updates: PositiveInt = 90
    """gradient steps"""
    batch_size: PositiveInt = 50
    """images per update"""
    learning_rate: PositiveFloat = 0.1
    """learning rate of SGD with momentum 0.9"""
    weight_decay: NonNegativeFloat = 2e-4
    """weight decay of convolutions and of the last layer"""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = (3, 3, 3)
    """blocks of each stage, of four layers each"""
    filters: tuple[PositiveInt, PositiveInt, PositiveInt] = (32, 64, 112)
    """channels of each stage"""
    store_activations: bool = False
    """the same network with PyTorch's own backward pass, to compare"""
    log_every: PositiveInt = 30
    """updates per row of metrics.csv and per checkpoint"""
    eval_images: PositiveInt = 10_000
    """test images that a row evaluates"""


# --- the model -------------------------------------------------------------------------------


def residual(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """F or G: batch normalization, ReLU and a convolution, twice."""
    return nn.Sequential(
        *(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)),
        *(nn.BatchNorm2d(c_out), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)),
    )


class Block(nn.Module):
    """Two halves [n, c_in, h, w] -> [n, c_out, h / stride, w / stride]; reversible if these are the same."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.f, self.g = residual(c_in, c_out, stride), residual(c_out, c_out, 1)
        self.reversible, new = stride == 1 and c_in == c_out, c_out - c_in
        pad = nn.ConstantPad3d((0, 0, 0, 0, new // 2, new - new // 2), 0.0)  # zeros in the new channels
        self.shortcut = nn.Identity() if self.reversible else nn.Sequential(nn.AvgPool2d(stride), pad)

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
            g.backward(dy2.to(g.dtype))
            dx1 = dy1 + y1.grad  # y1 is an output, and the input of G
            f.backward(dx1.to(f.dtype))
            return ((y1 - f).detach(), x2.detach()), (dx1, dy2 + x2.grad)


def forward_all(blocks: nn.ModuleList, halves: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """The halves after all blocks in a row."""
    for block in blocks:
        halves = block(*halves)
    return halves


@contextmanager
def frozen_averages(module: nn.Module):
    """Batch normalization by the batch's statistics that leaves the running averages alone."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


class Recompute(torch.autograd.Function):
    """forward_all(), storing for the backward pass only the output of reversible blocks, or the input of others."""

    @staticmethod
    def forward(ctx, blocks: nn.ModuleList, *x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, device = forward_all(blocks, x), x[0].device.type
        ctx.save_for_backward(*(y if blocks[0].reversible else x))
        ctx.blocks = blocks
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return y

    @staticmethod
    def backward(ctx, *dy: torch.Tensor) -> tuple:
        stored = ctx.saved_tensors
        with torch.autocast(*ctx.autocast), frozen_averages(ctx.blocks):
            if ctx.blocks[0].reversible:
                for block in reversed(ctx.blocks):
                    stored, dy = block.backward(stored, dy)
                return None, *dy
            x = [half.detach().requires_grad_() for half in stored]
            with torch.enable_grad():
                y = forward_all(ctx.blocks, x)
            torch.autograd.backward(y, dy)
            return None, *(half.grad for half in x)


class RevNet(nn.Module):
    """Images [n, c, h, w] -> logits [n, 10]."""

    def __init__(self, colours: int, blocks: tuple, filters: tuple, store_activations: bool = False):
        super().__init__()
        self.store_activations, row = store_activations, []
        self.stem = nn.Conv2d(colours, filters[0], 3, padding=1, bias=False)
        for i, (before, after) in enumerate(pairwise((filters[0], *filters))):
            row.append(Block(before // 2, after // 2, 2 if i else 1))
            row += [Block(after // 2, after // 2, 1) for _ in range(blocks[i] - 1)]
        groups = groupby(row, lambda block: block.reversible)  # neighbours that are all reversible, or all not
        self.groups = nn.ModuleList(nn.ModuleList(group) for _, group in groups)
        self.head = nn.Sequential(nn.BatchNorm2d(filters[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head.append(nn.Linear(filters[-1], 10))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = self.stem(x).to(x.dtype).chunk(2, dim=1)
        for group in self.groups:
            halves = forward_all(group, halves) if self.store_activations else Recompute.apply(group, *halves)
        return self.head(torch.cat(halves, dim=1)).to(x.dtype)

    @torch.no_grad()
    def invert(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
        """Of each reversible group the input, the output, and the input recomputed from that."""
        before, passes = self.stem(x).to(x.dtype).chunk(2, dim=1), []
        with frozen_averages(self):
            for group in self.groups:
                after = back = forward_all(group, before)
                if group[0].reversible:
                    for block in reversed(group):
                        back = block.inverse(*back)
                    passes.append([torch.cat(halves, dim=1) for halves in (before, after, back)])
                before = after
        return passes


# --- data ------------------------------------------------------------------------------------

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a"


def load_data(args: Args) -> tuple[torch.Tensor, ...]:
    """Training images uint8 [n, c, h, w] and labels [n], then test images and labels."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * (255 / 16)).float().unsqueeze(1)
        images, labels = F.interpolate(images, size=(28, 28), mode="bilinear").round().byte(), digits.target
        return images[:1500], torch.from_numpy(labels[:1500]), images[1500:], torch.from_numpy(labels[1500:])
    path = args.data_dir / CIFAR10_URL.split("/")[-1]
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(CIFAR10_URL, str(path), hash_prefix=CIFAR10_SHA256)
        with tarfile.open(path) as tar:
            files = {Path(file.name).stem: tar.extractfile(file).read() for file in tar if file.name.endswith(".bin")}
        splits = []
        for part in (b"".join(files[f"data_batch_{i}"] for i in range(1, 6)), files["test_batch"]):
            rows = torch.from_numpy(np.frombuffer(part, np.uint8).reshape(-1, 3073).copy())
            splits += [rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()]
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, tarfile.TarError) as error:
        raise UsageError(f"--dataset cifar10: {path}: {error}; remove it to download it again") from None
    return tuple(splits)


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Images [n, c, h, w], each shifted by up to 4 pixels on black, half of them mirrored."""
    n, _, h, w = images.shape
    rows = (torch.randint(9, (n, 1)) + torch.arange(h)).view(n, h, 1)
    columns = (torch.randint(9, (n, 1)) + torch.arange(w)).view(n, 1, w)
    shifted = F.pad(images, (4, 4, 4, 4))[torch.arange(n).view(n, 1, 1), :, rows, columns]  # [n, h, w, c]
    shifted = shifted.permute(0, 3, 1, 2)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, shifted.flip(3), shifted)


# --- training --------------------------------------------------------------------------------


def save_inversion(images: torch.Tensor, before: torch.Tensor, after: torch.Tensor, back: torch.Tensor, path: Path):
    """Eight images uint8, and a group's input, output and recomputed input for them (means over channels)."""
    from matplotlib.figure import Figure

    error = (before - back).abs().amax(dim=1)
    rows = {"image": images.permute(0, 2, 3, 1), "input": before.mean(1), "output": after.mean(1)}
    rows |= {"recomputed": back.mean(1), f"error to {error.max():.0e}": error}
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (label, pictures) in zip(figure.subplots(len(rows)), rows.items(), strict=True):
        axes.imshow(np.concatenate(pictures.cpu().numpy(), axis=1), cmap="gray" if label == "image" else "viridis")
        axes.set(xticks=[], yticks=[], ylabel=label)
    figure.savefig(path, dpi=100)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    if any(n % 2 for n in args.filters) or list(args.filters) != sorted(args.filters):
        raise UsageError(f"--filters {args.filters}: must be even, none smaller than the one before")
    images, labels, test_images, test_labels = load_data(args)
    if args.batch_size > len(images):
        raise UsageError(f"--batch-size {args.batch_size}: there are only {len(images)} training images")
    pixels = images.transpose(0, 1).flatten(1).float() / 255
    mean, std = pixels.mean(dim=1).view(-1, 1, 1), pixels.std(dim=1).view(-1, 1, 1)
    test = ((test_images[: args.eval_images] / 255 - mean) / std).to(device)
    test_labels = test_labels[: args.eval_images].to(device)
    model = RevNet(images.shape[1], args.blocks, args.filters, args.store_activations).to(device)
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=args.learning_rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [args.updates // 2, args.updates * 3 // 4], gamma=0.1)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    checkpoint = {"step": 0, "rows": [], "order": torch.empty(0, dtype=torch.long)}
    if args.resume:
        try:
            checkpoint = torch.load(args.resume / "checkpoint.pt", weights_only=True, map_location="cpu")
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            torch.set_rng_state(checkpoint["rng"])
        except Exception as error:  # missing, truncated, or another network's
            raise UsageError(f"--resume {args.resume}: no checkpoint of these flags ({error})") from None
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    run = Run(args, args.dataset)
    for row in checkpoint["rows"]:
        run.log(row)

    order, losses, start = checkpoint["order"], [], time.perf_counter()
    steps = range(checkpoint["step"] + 1, args.updates + 1)
    for step in tqdm(steps, initial=checkpoint["step"], total=args.updates, unit="update", disable=None):
        if len(order) < args.batch_size:
            order = torch.randperm(len(images))
        batch, order = order.tensor_split([args.batch_size])
        x = augmented(images[batch]) if args.augment else images[batch]
        x, y = ((x / 255 - mean) / std).to(device), labels[batch].to(device)
        model.train()
        with autocast:
            logits = model(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if step % args.log_every and step < args.updates:
            continue
        seconds = time.perf_counter() - start
        with autocast:  # in training mode and precision, as the backward pass recomputes
            error = max((before - back).abs().max().item() for before, _, back in model.invert(test[:100]))
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(x) for x in test.split(500)])
        row = {
            "global_step": step * args.batch_size,
            "charts/epoch": step * args.batch_size / len(images),
            "losses/loss": torch.stack(losses).mean().item(),
            "eval/loss": F.cross_entropy(logits, test_labels).item(),
            "eval/accuracy": (logits.argmax(dim=1) == test_labels).float().mean().item(),
            "eval/inversion_error": error,
            "charts/SPS": len(losses) * args.batch_size / seconds,
        }
        run.log(row)
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": step, "rows": run.rows, "order": order, "rng": torch.get_rng_state()}
        torch.save(state, run.dir / "checkpoint.tmp")
        (run.dir / "checkpoint.tmp").replace(run.dir / "checkpoint.pt")  # a kill leaves the old or the new one
        losses, start = [], time.perf_counter()

    torch.save({"model": model.state_dict()}, run.dir / "model.pt")
    model.train()
    with autocast:
        first_stage = model.invert(test[:8])[0]
    save_inversion(test_images[: len(test)][:8], *first_stage, run.dir / "inversion.png")
    run.close("inversion.png")
    print(f"test accuracy {row['eval/accuracy']:.2%}, inversion error {error:.0e}: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            try:
                wandb.login()  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)
        if args.track:
            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            wandb.init(**names, config=asdict(args), dir=self.dir)

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
    except (UsageError, FloatingPointError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
