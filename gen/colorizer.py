# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gradio>=6",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "opencv-python-headless>=4.10",
#     "pillow>=10",
#     "scikit-learn>=1.4",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Colorizer: draw a few strokes of colour on line art, and see it finished.

    python gen/colorizer.py
    python gen/colorizer.py --dataset emoji --size 128 --width 32 --bf16 --epochs 3 --hint holes
    python gen/colorizer.py --demo RUN_DIR
    python gen/colorizer.py --paint drawing.png --with-hint strokes.png --model RUN_DIR

Any picture makes an example to learn from: its lines, found by an adaptive threshold, are what the network sees, and
the picture is what it should paint. A U-Net paints; a second network learns to tell its pictures from real ones, given
the same lines, and the first one learns to deceive it while it stays near the original (L1). Because nobody can know
the colour of a shirt from its outline, the network also sees a hint: the original, blurred until only patches of colour
are left. Trained on that, it relies on the hint alone, and where a person leaves a spot out, so does the network.
Therefore --hint holes whites out 30 squares before the blur, as dropout does with activations, so that it learns to
complete; in use nothing is taken away, but all is bleached by the share that the squares leave on average.

The default learns from scikit-learn's two photographs, the only colour pictures that come with the packages, in a CPU
minute. It shows how the thing works, not how well: trees and a blurred ground have no lines between their colours, so
that the blurred original itself (L1 .045) is nearer to them than what is painted (.074; luminance alone .051). The real
thing is --dataset emoji, the 3,900 cartoons of a font (Debian's fonts-noto-color-emoji).

Expect, from the second command, 8 CPU minutes of training on one core, an L1 of .083 and an error of 11.5 in Lab's a
and b on cartoons that have no twin among the training ones; with --epochs 10, 19 minutes, .076 and 9.7; with --hint
blur .044 and 7.0 after three. The blurred original itself is off by .157 and 13.3, its luminance without colour by .069
and 17.4. With strokes as a person makes them it is the other way round: .101 with holes (.086 after ten epochs), .158
with blurs, which leave white what was not painted.

A run leaves training.png (test pictures: original, lines, hint, result through time), inputs.png (original, lines,
blur, squares and blur, bleached) and hints.png (original, lines, full hint, its result, the result of an empty one,
messy strokes, their result).

Papers
    Kevin Frans 2017, the post on deepcolor: lines, hints, squares, the order of its experiments.
    Isola et al. 2017, "Image-to-image translation with conditional adversarial networks" (arXiv 1611.07004): pix2pix,
    the networks' layers, 100 times L1 beside the adversarial loss.
    Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric" (arXiv 1801.03924): how
    features are compared.

Differences from the papers and the post
    1. The post bleaches by 0.3. Thirty squares of 50/256 of the side leave 0.383 on average; share_left computes it. On
       unseen cartoons 0.3 was a little better all the same (L1 .078 against .083), and no bleaching much worse (.147).
    2. The post says squares of 10x10 and a radius of 100 pixels; its code takes 50x50 of 256 and a box of 100. Here
       both are shares of the side, so that smaller pictures get hints of the same kind.
    3. Group normalization in place of batch normalization: a picture's colours never depend on the batch around it.
    4. Both networks learn from one forward pass of the discriminator over the painted pictures (pix2pix does a second
       one after the discriminator's update).
    5. The output's tanh is moved to the pictures' range, 0 to 1 (the post leaves it from -1 to 1). No dropout.
    6. The discriminator judges patches, as pix2pix's (the post's judges the whole picture).
    7. Adam's step size is 1e-3 (both: 2e-4), because runs here last minutes: after 300 updates on cartoons of 64 pixels
       the error in a and b was 14.2 with 1e-3, 16.8 with 4e-4.
"""

import csv
import io
import json
import math
import os
import pickle
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from torch import nn
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds weights, order and holes; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 0
    """threads on the CPU, 0 for one per core. They decide a curve's last bits"""
    cuda: bool = True
    """train on a GPU if there is one"""
    compile: bool = False
    """compile both networks with torch.compile: needs a C++ compiler, takes a while to begin"""
    bf16: bool = False
    """train in bfloat16 where autocast finds it safe; evaluation stays in float32. For GPUs and for
    CPUs with such instructions (lscpu: avx512_bf16); several times slower on others"""
    fast_matmul: bool = False
    """faster, coarser float32 products: TF32 on a GPU, bfloat16 on some CPUs, another library on others"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""
    resume: Path | None = None
    """go on with the run in this folder, under its own arguments: no other flag may stand beside"""
    demo: Path | None = None
    """open a page on this machine to paint with the model in this folder: only --port may stand beside"""
    port: int = 7860
    """the page of --demo is http://localhost:PORT"""
    paint: Path | None = None
    """colour the middle square of this picture or drawing, with --model: only --with-hint may stand beside"""
    with_hint: Path | None = None
    """strokes on white, as large as the picture of --paint (default: none)"""
    model: Path | None = None
    """the run's folder that holds the model for --paint"""

    dataset: Literal["photos", "emoji", "folder"] = "photos"
    """pictures: photos come with scikit-learn, emoji from a font, a folder's pictures are yours"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    size: Literal[64, 128, 256] = 64
    """side of the pictures in pixels"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""

    hint: Literal["none", "blur", "holes"] = "holes"
    """the hint of colours: none, the original blurred, or the original with squares whited out and blurred"""
    loss: Literal["l2", "gan"] = "gan"
    """squared error, or 100 times the absolute error with an adversary"""
    skip: bool = True
    """let every layer on the way up see the layer of its size on the way down"""
    width: int = 16
    """channels of the first layer, up to eight times as many further in (pix2pix: 64)"""

    epochs: float = 1.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 4
    """pictures per update, over all processes"""
    learning_rate: float = 1e-3
    """Adam's step size, of both networks; it falls to 0 over the second half of the run, as pix2pix's does"""
    log_every: int = 250
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    eval_images: int = 250
    """test pictures to measure on, 0 for all"""

    def __post_init__(self):
        paths = ["folder", "font", "demo", "paint", "with_hint", "model"]  # args.json holds paths as text
        for name in paths:
            setattr(self, name, getattr(self, name) and Path(getattr(self, name)))
        for name in ["width", "batch_size", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "eval_images"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 < self.port < 2**16:
            raise UsageError("--port must be from 1 to 65535")
        if self.dataset == "photos" and self.size != 64:
            raise UsageError("--size: --dataset photos is too small for squares of more than 64 pixels; take emoji")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")
        if (self.paint is None) != (self.model is None) or (self.with_hint and not self.paint):
            raise UsageError("--paint PICTURE needs --model RUN_DIR, and --with-hint goes with both")

    @property
    def image_size(self) -> int:  # as the readers of pictures call it
        return self.size


# --- lines and hints -------------------------------------------------------------------------

NUM_HOLES, HOLE, BLUR = 30, 50 / 256, 100 / 256  # squares to white out, their side and the blur's as shares of ours


def find_lines(pictures: torch.Tensor) -> torch.Tensor:
    """Line art of uint8 [n, 3, s, s]: black where a pixel is darker than the mean of those around it [n, 1, s, s]."""
    import cv2

    found = []
    block = max(3, pictures.shape[-1] * 9 // 256 | 1)  # 9 at 256 pixels; OpenCV takes odd ones
    for picture in pictures.permute(0, 2, 3, 1).numpy(force=True):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        found.append(cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 2))
    return torch.from_numpy(np.stack(found)).unsqueeze(1)


def white_out(x: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """x [n, 3, s, s] with white squares, whose upper left corners [n, k, 2] are y and x."""
    pixel, hole = torch.arange(x.shape[-1], device=x.device), round(HOLE * x.shape[-1])
    inside = (pixel >= corners.unsqueeze(3)) & (pixel < corners.unsqueeze(3) + hole)  # [n, k, 2, s]
    y, x_ = inside.float().unbind(2)
    covered = y.transpose(1, 2) @ x_  # [n, s, s], the number of squares that lie on a pixel
    return torch.where(covered.unsqueeze(1) > 0, 1.0, x)


def share_left(size: int) -> float:
    """The share of a picture that the squares leave, on average over their places."""
    hole, pixel = round(HOLE * size), torch.arange(size, dtype=torch.float64)
    last = size - hole  # corners are from 0 to here
    reach = (pixel.clamp(max=last) - (pixel - hole + 1).clamp(min=0) + 1) / (last + 1)  # chance to lie on this row
    return ((1 - reach.unsqueeze(1) * reach) ** NUM_HOLES).mean().item()


def blur(x: torch.Tensor) -> torch.Tensor:
    """Mean over a box around each pixel, mirrored at the border as OpenCV's blur does: x [n, 3, s, s]."""
    size, box = x.shape[-1], round(BLUR * x.shape[-1])
    columns = torch.arange(size, device=x.device).unsqueeze(1) + torch.arange(box, device=x.device) - box // 2
    columns = (size - 1) - (columns.abs() - (size - 1)).abs()  # -1 is 1 again, and size is size - 2
    mean = torch.zeros(size, size, device=x.device).scatter_add_(
        1, columns, torch.full_like(columns, 1 / box, dtype=x.dtype)
    )
    return mean @ x @ mean.T  # a box is as wide as it is high: rows, then columns


def training_hint(x: torch.Tensor, corners: torch.Tensor, args: Args) -> torch.Tensor:
    """What the network sees of the colours x [n, 3, s, s] while it learns: no channels at all, or three."""
    if args.hint == "none":
        return x[:, :0]
    return blur(white_out(x, corners) if args.hint == "holes" else x)


def hint_in_use(x: torch.Tensor, args: Args) -> torch.Tensor:
    """The hint from what a person painted, x [n, 3, s, s]: without holes, but as pale as they make it on average."""
    if args.hint == "none":
        return x[:, :0]
    left = share_left(args.size) if args.hint == "holes" else 1.0
    return blur(left * x + (1 - left))


def scribble(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Messy strokes on white, in the colours of uint8 [n, 3, s, s]: they miss regions and run out of bounds."""
    import cv2

    size, found = pictures.shape[-1], []
    for picture in pictures.permute(0, 2, 3, 1).numpy(force=True):
        canvas = np.full(picture.shape, 255, np.uint8)
        places = np.argwhere((picture < 230).any(2))  # nobody paints white on white
        for _ in range(10 if len(places) else 0):
            y, x = places[rng.integers(len(places))]
            walk = np.cumsum(rng.normal(0, size / 12, (4, 2)), 0)
            path = (np.array([x, y]) + np.concatenate([np.zeros((1, 2)), walk])).round().astype(np.int32)
            cv2.polylines(canvas, [path], False, picture[y, x].tolist(), thickness=max(2, size // 14))
        found.append(canvas)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(pictures.device)


# --- the two networks ------------------------------------------------------------------------


def normalized(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


class Generator(nn.Module):
    """U-Net: convolutions halve the picture down to one pixel, transposed ones double it back to its size."""

    def __init__(self, args: Args):
        super().__init__()
        levels = args.size.bit_length() - 1
        widths = [args.width * min(2**i, 8) for i in range(levels)]  # pix2pix at 256: 64 128 256 512 512 512 512 512
        self.skip, self.down, self.up = args.skip, nn.ModuleList(), nn.ModuleList()
        for i in range(levels):
            plain = i in (0, levels - 1)  # neither the first layer nor the last pixel is normalized
            before = widths[i - 1] if i else (1 if args.hint == "none" else 4)
            layers = [nn.Conv2d(before, widths[i], 4, stride=2, padding=1, bias=plain)]
            self.down.append(nn.Sequential(*layers, *([] if plain else [normalized(widths[i])]), nn.LeakyReLU(0.2)))
        for i in reversed(range(levels)):
            before, after = widths[i] * (2 if args.skip and i < levels - 1 else 1), widths[i - 1] if i else 3
            layers = [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=i == 0)]
            self.up.append(nn.Sequential(*layers, *([normalized(after), nn.ReLU()] if i else [nn.Tanh()])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lines and hint [n, 1 or 4, s, s] -> the painted picture [n, 3, s, s]; all from 0 to 1."""
        x, kept = 2 * x - 1, []
        for down in self.down:
            x = down(x)
            kept.append(x)
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, kept[-1 - i]], 1) if self.skip and i else x)
        return (x.float() + 1) / 2


class Discriminator(nn.Sequential):
    """Lines, hint, picture [n, 4 or 7, s, s] -> logits of being real, one for each patch of 70 pixels [n, 1, p, p]."""

    def __init__(self, args: Args):
        layers, before = [], 4 if args.hint == "none" else 7
        for factor, stride in ((1, 2), (2, 2), (4, 2), (8, 1)):
            after = args.width * factor
            layers += [nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=factor == 1)]
            layers += [*([normalized(after)] if factor > 1 else []), nn.LeakyReLU(0.2)]
            before = after
        super().__init__(*layers, nn.Conv2d(before, 1, 4, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * x - 1).float()


def make_networks(args: Args, device: torch.device) -> nn.ModuleDict:
    """Generator and, for --loss gan, discriminator; weights are N(0, 0.02) as pix2pix's."""
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        networks = nn.ModuleDict({"generator": Generator(args)})
        if args.loss == "gan":
            networks["discriminator"] = Discriminator(args)
        for layer in networks.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return networks.to(device, memory_format=torch.channels_last)


def update(networks, optimizers, pictures, lines, corners, args: Args) -> torch.Tensor:
    """One update from this process's share of a batch: uint8 [n, 3, s, s], [n, 1, s, s], corners [n, 30, 2].

    Returns the sums over pictures of the error, the generator's and the discriminator's adversarial loss [3].
    """
    generator, x = networks["generator"], pictures.float() / 255
    seen = torch.cat([lines.float() / 255, training_hint(x, corners, args)], 1)
    autocast = torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16)
    with autocast:
        y = generator(seen)
    if args.loss == "l2":
        error = ((y - x) ** 2).mean((1, 2, 3)).sum()
        terms = [error, torch.zeros_like(error), torch.zeros_like(error)]
        optimizers["generator"].zero_grad()
        (error / args.batch_size).backward()
    else:
        discriminator, painted = networks["discriminator"], y.detach().requires_grad_()
        with autocast:
            real, fake = discriminator(torch.cat([seen, x], 1)), discriminator(torch.cat([seen, painted], 1))
        error = (y - x).abs().mean((1, 2, 3)).sum()
        deceive = F.softplus(-fake).mean((1, 2, 3)).sum()  # -log D: its gradient does not vanish where D is sure
        detect = (F.softplus(-real) + F.softplus(fake)).mean((1, 2, 3)).sum() / 2  # pix2pix halves it
        terms = [error, deceive, detect]
        # Both losses' gradients come from the same pass. The generator's goes to the picture only, no further ...
        (toward_real,) = torch.autograd.grad(deceive / args.batch_size, painted, retain_graph=True)
        optimizers["generator"].zero_grad()
        torch.autograd.backward([100 * error / args.batch_size, y], [None, toward_real])
        optimizers["discriminator"].zero_grad()  # ... and the discriminator's to its weights only
        (detect / args.batch_size).backward(inputs=list(discriminator.parameters()))
    for name, optimizer in optimizers.items():
        sum_gradients(networks[name])
        optimizer.step()
    return torch.stack(terms).detach()


# --- how far a painted picture is from the original ------------------------------------------


def linear(x: torch.Tensor) -> torch.Tensor:
    """sRGB from 0 to 1 -> linear light, IEC 61966-2-1."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def lab(x: torch.Tensor) -> torch.Tensor:
    """sRGB [n, 3, s, s] from 0 to 1 -> CIE L, a, b under daylight (D65) [n, 3, s, s]."""
    to_xyz = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    white = torch.tensor([0.950456, 1.0, 1.088754], device=x.device).view(3, 1, 1)
    xyz = torch.einsum("ij,njhw->nihw", torch.tensor(to_xyz, device=x.device), linear(x)) / white
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def grey(x: torch.Tensor) -> torch.Tensor:
    """The luminance of sRGB [n, 3, s, s] as three equal channels: the same L, but a = b = 0."""
    y = torch.einsum("j,njhw->nhw", torch.tensor([0.212671, 0.715160, 0.072169], device=x.device), linear(x))
    y = torch.where(y <= 0.0031308, 12.92 * y, 1.055 * y.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
    return y.unsqueeze(1).expand_as(x)


class Judge(nn.Module):
    """A small classifier, which has learned which of its training pictures a crop is from. Its features see alike."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = [3, 16, 32, 64]
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(3))
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Pictures [n, 3, s, s] -> what each layer makes of them."""
        found = [2 * x - 1]
        for layer in self.layers:
            found.append(layer(found[-1]).relu())
        return found[1:]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x)[-1].amax((2, 3)))

    def distance(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Squared distance of features scaled to length 1 at each place, mean over places and layers (Zhang et al.)."""
        parts = []
        for a, b in zip(self.features(x), self.features(y), strict=True):
            difference = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
            parts.append((difference**2).sum(1).mean((1, 2)))
        return torch.stack(parts).mean(0)  # [n]


def train_judge(pictures: torch.Tensor, updates: int = 150) -> tuple[Judge, float]:
    """The judge of uint8 [n, 3, s, s] and the share of its last crops that it knew. No --seed changes it."""
    device, size = pictures.device, pictures.shape[-1]
    shown = pictures[torch.linspace(0, len(pictures) - 1, min(200, len(pictures)), device=device).long()].float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(0, JUDGE))
        judge = Judge(len(shown)).to(device)
    rng, right = np.random.default_rng(stream(0, JUDGE, 1)), []
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3, fused=True)
    for _ in range(updates):
        labels = torch.from_numpy(rng.integers(len(shown), size=32)).to(device)
        y, x, mirrored = *rng.integers(size // 2 + 1, size=2), rng.integers(2)
        crops = shown[labels, :, y : y + size // 2, x : x + size // 2]
        logits = judge(crops.flip(3) if mirrored else crops)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        right.append((logits.argmax(1) == labels).float().mean())
    return judge, torch.stack(right[-20:]).mean().item()


def differences(x: torch.Tensor, y: torch.Tensor, judge: Judge) -> torch.Tensor:
    """Sums over pictures of: mean absolute error, distance in the plane of Lab's a and b, distance to the judge [3]."""
    chroma = torch.linalg.vector_norm(lab(x)[:, 1:] - lab(y)[:, 1:], dim=1)  # [n, s, s]
    return torch.stack([(x - y).abs().mean((1, 2, 3)).sum(), chroma.mean((1, 2)).sum(), judge.distance(x, y).sum()])


# --- one run: the same in every file of this folder ------------------------------------------


class Run:
    """The folder of one run: args.json, metrics.csv, checkpoint.pt, pictures. With --track also Weights & Biases."""

    def __init__(self, args, task: str, rows: int | None = None):
        """A new run; with `rows`, the one in args.run_dir goes on after so many rows of its metrics."""
        name = f"{task}__{args.exp_name}__{args.seed}__{int(time.time())}"
        self.dir = args.run_dir or Path("runs", name)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rows, self.csv, self.wandb = rows or 0, None, None
        metrics = self.dir / "metrics.csv"
        if rows is None:
            try:  # "x" creates the file or fails: no run is overwritten, and no two runs share a folder
                self.file = metrics.open("x", newline="", buffering=1)
            except FileExistsError:
                raise UsageError(f"--run-dir {self.dir}: there is a run in it already; name another folder") from None
            saved = {"run_name": name} | asdict(args)
            (self.dir / "args.json").write_text(json.dumps(saved, indent=2, default=str))
        else:
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(lines[: rows + 1 if rows else 0]))
            self.file = metrics.open("a", newline="", buffering=1)
        self.name = json.loads((self.dir / "args.json").read_text())["run_name"]
        if args.track:
            import wandb

            self.wandb, again = wandb, {"id": self.name[-128:], "resume": "allow"}
            config = json.loads((self.dir / "args.json").read_text())
            project, entity = args.wandb_project_name, args.wandb_entity
            wandb.init(project=project, entity=entity, name=self.name, config=config, dir=self.dir, **again)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def log(self, row: dict):
        """Append one row: global_step and metrics, None for what was not measured now. The first row names them all."""
        if self.csv is None:
            self.csv = csv.DictWriter(self.file, row)
            if self.rows == 0:
                self.csv.writeheader()
        self.csv.writerow(row)
        self.rows += 1
        if self.wandb:
            self.wandb.log({key: value for key, value in row.items() if value is not None})

    def save(self, checkpoint: dict):
        """Write checkpoint.pt under another name, then rename it: a kill leaves the old one or the new one."""
        torch.save(checkpoint | {"rows": self.rows}, self.dir / "checkpoint.tmp")
        (self.dir / "checkpoint.tmp").replace(self.dir / "checkpoint.pt")

    def plot(self, metric: str):
        """Draw one column of metrics.csv over global_step into curve.png."""
        from matplotlib.figure import Figure

        with (self.dir / "metrics.csv").open(newline="") as file:
            points = [(int(row["global_step"]), float(row[metric])) for row in csv.DictReader(file) if row[metric]]
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(xlabel="pictures or messages seen", ylabel=metric, title=self.name)
        axes.figure.savefig(self.dir / "curve.png", dpi=120)
        self.picture(self.dir / "curve.png")

    def picture(self, path: Path):
        """Hand a picture or an animation of the folder to Weights & Biases as well."""
        if self.wandb:
            kind = self.wandb.Video if path.suffix == ".gif" else self.wandb.Image
            self.wandb.log({path.stem: kind(str(path))})


def load_run(folder: Path, flag: str, args_type) -> tuple:
    """What a run left in its folder: its arguments and its checkpoint. Raises UsageError that names the flag."""
    try:
        saved = json.loads((folder / "args.json").read_text())
        checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
        (folder / "metrics.csv").stat()
        del saved["run_name"]
        return replace(args_type(**saved), run_dir=folder, resume=None), checkpoint
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{flag} {folder}: no run to load there ({error.strerror}: {error.filename})") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{flag} {folder}: damaged, or the run of another script ({error})") from None


@contextmanager
def torch_settings(args):
    """The threads and the determinism that args ask for; what was set before comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if args.cuda and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's products refuse
    torch.set_num_threads(args.torch_threads)
    torch.use_deterministic_algorithms(args.torch_deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


# --- more pictures: the same in every file that reads them -----------------------------------


def load_photos(size: int) -> tuple[torch.Tensor, ...]:
    """Random crops of scikit-learn's two photographs at half size; the label says which. Tests are from the right side.

    5,000 squares [3, size, size] to train on, from the left 3/4, and 500 to test on, from what lies to the right of it.
    """
    from sklearn.datasets import load_sample_images

    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)  # [2, 3, 427, 640]
    photos = F.interpolate(photos.float(), scale_factor=0.5, mode="area").round().byte()  # [2, 3, 213, 320]
    if size > 80:
        raise UsageError("--image-size: squares of --dataset photos are at most 80 pixels wide")
    rng, found = np.random.default_rng(0), []
    for count, left, right in ((5000, 0, 240), (500, 240, 320)):
        label, y = rng.integers(2, size=count), rng.integers(photos.shape[2] - size + 1, size=count)
        x = rng.integers(left, right - size + 1, size=count)
        crops = [photos[k, :, i : i + size, j : j + size] for k, i, j in zip(label, y, x, strict=True)]
        found += [torch.stack(crops), torch.from_numpy(label).byte()]
    return tuple(found)


def square(picture, size: int) -> torch.Tensor:
    """The middle of a picture of PIL's, of any mode and on white where it is transparent, as [3, size, size]."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)  # turned as the camera was held
    if picture.mode.startswith(("I", "F")):  # 16 bits
        picture = Image.fromarray((np.asarray(picture, np.float64) / 257).clip(0, 255).astype(np.uint8))
    picture = picture.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def load_emoji(args) -> tuple[torch.Tensor, torch.Tensor]:
    """The cartoons of a colour font [n, 3, size, size] on white, about a tenth of them to test on.

    A tenth of the code points that begin a spelling are test ones: no spelling of a training picture begins with one.
    """
    from fontTools.ttLib import TTFont, TTLibError
    from PIL import Image

    path = args.font
    try:
        if path is None:
            command = ["fc-match", "--format=%{file}", "Noto Color Emoji"]
            path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        font = TTFont(path)
        bitmaps = font["CBDT"].strikeData[0]
    except (OSError, KeyError, TTLibError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"--dataset emoji: no colour font with bitmaps in {path or 'the list of fontconfig'} ({error}). Install "
            "Debian's fonts-noto-color-emoji, or name its NotoColorEmoji.ttf with --font"
        ) from None
    firsts = {name: set() for name in font.getGlyphOrder()}  # the code points that begin a spelling of each glyph
    for code, name in font.getBestCmap().items():
        firsts[name].add(code)
    ligatures = [table for lookup in font["GSUB"].table.LookupList.Lookup for table in lookup.SubTable]
    for table in ligatures:
        for name, joined in getattr(table, "ligatures", {}).items():
            for ligature in joined:
                firsts[ligature.LigGlyph] |= firsts[name]
    names = [name for name in bitmaps if firsts[name]]
    codes = sorted(set().union(*(firsts[name] for name in names)))
    rng = np.random.default_rng(6)  # a draw without the persons and signs that begin hundreds of spellings
    held_out = set(rng.choice(codes, len(codes) // 10, replace=False).tolist())
    train, test = [], []
    for name in names:
        picture = square(Image.open(io.BytesIO(bitmaps[name].imageData)), args.image_size)
        (test if firsts[name] & held_out else train).append(picture)
    return torch.stack(train), torch.stack(test)


def load_folder(folder: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every picture below a folder [n, 3, size, size], a tenth to test on. Unreadable files are named and counted."""
    from PIL import Image

    pictures, unreadable = [], 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with Image.open(path) as picture:
                pictures.append(square(picture, size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unreadable += 1
            print(f"--folder {folder}: {path} is skipped ({error})", file=sys.stderr)
    if unreadable:
        print(f"--folder {folder}: {unreadable} files skipped, {len(pictures)} pictures read", file=sys.stderr)
    if len(pictures) < 20:
        raise UsageError(f"--folder {folder}: needs at least 20 pictures, has {len(pictures)}")
    order = np.random.default_rng(0).permutation(len(pictures))  # neighbours in a folder are often alike
    shuffled = torch.stack([pictures[i] for i in order])
    return shuffled[len(order) // 10 :], shuffled[: len(order) // 10]


# --- devices and processes: the same in every file of this folder ----------------------------


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    if num_processes() > 1:
        dist.all_reduce(x)
    return x


def sum_gradients(module: nn.Module):
    """Add up the gradients of all processes, in one exchange."""
    if num_processes() > 1:
        grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        summed = sum_over_processes(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


@contextmanager
def device_settings(args):
    """The device to train on, its float32 product, and torchrun's group of processes if there is one."""
    before = torch.get_float32_matmul_precision(), torch.utils.deterministic.fill_uninitialized_memory
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if args.cuda and torch.cuda.is_available() else torch.device("cpu")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.set_float32_matmul_precision("medium" if args.fast_matmul else before[0])
    torch.utils.deterministic.fill_uninitialized_memory = False  # else every new tensor is filled first: a tenth slower
    try:
        yield device
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
        if dist.is_initialized():
            dist.destroy_process_group()


# --- training --------------------------------------------------------------------------------

WEIGHTS, ORDER, HOLES, JUDGE, STROKES = range(5)
NEAR = 0.05  # a test picture whose luminance is nearer to a training picture's than this (rms) has a twin there


def stream(seed: int, *key: int) -> int:
    """The seed of an independent generator for every key: one of the uses above, then what tells its turns apart."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).integers(2**63))


def generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream(seed, *key))


class Order:
    """Shuffled epochs, end to end: every batch is full, and one may end an epoch and begin the next."""

    def __init__(self, num_pictures: int, batch_size: int, seed: int, device: torch.device):
        self.num_pictures, self.batch_size, self.seed, self.device = num_pictures, batch_size, seed, device
        self.epoch = None

    def shuffled(self, epoch: int) -> torch.Tensor:
        rng = generator(self.device, self.seed, ORDER, epoch)
        return torch.randperm(self.num_pictures, generator=rng, device=self.device)

    def batch(self, step: int) -> torch.Tensor:
        """Which pictures the update takes [batch]."""
        epoch, start = divmod(step * self.batch_size, self.num_pictures)
        if epoch != self.epoch:
            self.epoch, self.indices = epoch, torch.cat([self.shuffled(epoch), self.shuffled(epoch + 1)])
        return self.indices[start : start + self.batch_size]


def learning_rate(args: Args, progress: float) -> float:
    """Adam's step size after this share of the run."""
    return args.learning_rate * min(1.0, 2 * (1 - progress))


def distance_to_nearest(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Rms difference in luminance to the nearest of the others: uint8 [n, 3, s, s], [m, 3, s, s] -> [n]."""

    def luminances(x: torch.Tensor) -> torch.Tensor:  # at 64x64, where twins are as near as at any size
        parts = [grey(part.float() / 255)[:, :1] for part in x.split(200)]
        return torch.cat([F.adaptive_avg_pool2d(part, 64).flatten(1) for part in parts])

    return torch.cdist(luminances(pictures), luminances(others)).amin(1) / 64


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Training pictures and their lines, test pictures that have no near twin among them and theirs, all uint8."""
    if args.dataset == "photos":
        train, _, test, _ = load_photos(args.size)
    else:
        train, test = load_emoji(args) if args.dataset == "emoji" else load_folder(args.folder, args.size)
    far = distance_to_nearest(test, train) > NEAR
    test = test[far] if far.any() else test
    test = test[torch.linspace(0, len(test) - 1, min(len(test), args.eval_images or len(test))).long()]
    train = train[: args.train_images or None]
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    return tuple(part.to(device) for part in (train, find_lines(train), test, find_lines(test)))


@torch.no_grad()
def colorize(painter: Generator, lines: torch.Tensor, colors: torch.Tensor, args: Args) -> torch.Tensor:
    """What becomes of uint8 lines [n, 1, s, s] with these colours as the hint [n, 3, s, s]: from 0 to 1."""
    parts = []
    for line, color in zip(lines.split(20), colors.split(20), strict=True):
        parts.append(painter(torch.cat([line.float() / 255, hint_in_use(color.float() / 255, args)], 1)))
    return torch.cat(parts)


def score(found: torch.Tensor, test: torch.Tensor, judge: Judge, name: str = "") -> dict[str, float]:
    """Mean differences of pictures [n, 3, s, s] from the test pictures, uint8, under the columns' names."""
    pairs = zip(found.split(20), test.split(20), strict=True)
    with torch.no_grad():
        sums = sum(differences(x, y.float() / 255, judge) for x, y in pairs)
    return {f"eval/{name}{key}": v for key, v in zip(MEASURES, (sums / len(test)).tolist(), strict=True)}


def hints_to_try(test: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is fed to models that learned with holes and without: all colours, none, and messy strokes."""
    return {
        "full": test,
        "empty": torch.full_like(test, 255),
        "messy": scribble(test, np.random.default_rng(stream(0, STROKES))),
    }


MEASURES, TRIED, BASELINES = ("l1", "ab", "perceptual"), ("full", "empty", "messy"), ("bleached", "blur", "grey")
FINAL = [*(f"eval/{name}_{measure}" for name in TRIED + BASELINES for measure in MEASURES), "time/picture"]


def final_scores(painter: Generator, test: torch.Tensor, lines: torch.Tensor, judge: Judge, args: Args) -> dict:
    """The three hints, three baselines that need no network, and the seconds that one picture takes."""
    row, x = {}, test.float() / 255
    for name, colors in hints_to_try(test).items():
        scores = score(colorize(painter, lines, colors, args), test, judge, f"{name}_")
        row |= scores if args.hint != "none" else dict.fromkeys(scores)
    row |= score(hint_in_use(x, replace(args, hint="holes")), test, judge, "bleached_")
    row |= score(blur(x), test, judge, "blur_") | score(grey(x), test, judge, "grey_")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        colorize(painter, lines[:1], test[:1], args).sum().item()  # .item() waits for a GPU
        times.append(time.perf_counter() - start)
    return row | {"time/picture": float(np.median(times))}


# --- pictures of what it learned -------------------------------------------------------------


def save_rows(run: Run, name: str, columns: list[torch.Tensor]):
    """Columns of pictures [n, 1 or 3, s, s] from 0 to 1, side by side, a grey line between them."""
    from PIL import Image

    columns = [F.pad(column.expand(-1, 3, -1, -1).cpu(), (0, 1, 0, 1), value=0.5) for column in columns]
    rows = torch.stack(columns, 1).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [n * s, columns * s, 3]
    image, scale = Image.fromarray((rows * 255).round().byte().numpy()), 2 if columns[0].shape[-1] < 100 else 1
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


def draw_at_the_end(run: Run, painter: Generator, pictures: torch.Tensor, lines: torch.Tensor, args: Args):
    """inputs.png and hints.png of some test pictures, uint8 [n, 3, s, s] and [n, 1, s, s]."""
    x, holes = pictures.float() / 255, replace(args, hint="holes")
    corners = random_corners(len(x), args, generator(x.device, 0, HOLES))
    made = [blur(x), training_hint(x, corners, holes), hint_in_use(x, holes)]
    save_rows(run, "inputs", [x, lines.float() / 255, *made])
    if args.hint != "none":
        columns = [x, lines.float() / 255]
        for name, colors in hints_to_try(pictures).items():
            columns += [colors.float() / 255] if name == "messy" else []
            columns += [hint_in_use(colors.float() / 255, args)] if name == "full" else []
            columns.append(colorize(painter, lines, colors, args))
        save_rows(run, "hints", columns)


def random_corners(num_pictures: int, args: Args, rng: torch.Generator) -> torch.Tensor:
    """Where the squares lie that are whited out [n, 30, 2]."""
    last = args.size - round(HOLE * args.size)
    return torch.randint(last + 1, (num_pictures, NUM_HOLES, 2), generator=rng, device=rng.device)


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        data = load_data(args, device)
        return learn(args, checkpoint, make_networks(args, device), *data)


def learn(args: Args, checkpoint: dict | None, networks: nn.ModuleDict, pictures, lines, test, test_lines) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics, pictures, a checkpoint."""
    device, row, painter = pictures.device, {}, networks["generator"]
    adam = {"lr": args.learning_rate, "betas": (0.5, 0.999), "fused": True}
    optimizers = {name: torch.optim.Adam(network.parameters(), **adam) for name, network in networks.items()}
    if args.compile:
        for network in networks.values():
            network.compile()
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    step, row_number, elapsed, kept = 0, 0, 0.0, []
    chosen = torch.linspace(0, len(test) - 1, min(8, len(test)), device=device).long()  # the ones to look at

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed}
        trained = {"optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()}}
        trained |= {name: network.state_dict() for name, network in networks.items()}
        return trained | counters | {"kept": kept, "examples": test[chosen].cpu()}

    if checkpoint:
        try:
            for name, network in networks.items():
                network.load_state_dict(checkpoint[name])
                optimizers[name].load_state_dict(checkpoint["optimizers"][name])
            step, row_number, elapsed, kept = (checkpoint[key] for key in ("step", "row_number", "elapsed", "kept"))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if step >= total_steps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.dataset, checkpoint and checkpoint["rows"]) if process_rank() == 0 else None
    judge, accuracy = train_judge(pictures) if run else (None, None)
    bar = tqdm(total=total_steps, initial=step, unit="update", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while step < total_steps:
            start, first_step = time.perf_counter(), step
            # Every process draws the holes of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, sums = generator(device, args.seed, HOLES, row_number), torch.zeros(3, device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                chosen_now = order.batch(step)[share]
                batch = pictures.index_select(0, chosen_now), lines.index_select(0, chosen_now)
                corners = random_corners(args.batch_size, args, rng)[share]
                for optimizer in optimizers.values():
                    optimizer.param_groups[0]["lr"] = learning_rate(args, step / total_steps)
                sums += update(networks, optimizers, *batch, corners, args)
                step += 1
            error, deceive, detect = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not math.isfinite(error + deceive + detect):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            found = colorize(painter, test_lines, test, args)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/error": error,
                "losses/deceive": deceive if args.loss == "gan" else None,
                "losses/detect": detect if args.loss == "gan" else None,
                **score(found, test, judge),
                "eval/judge_accuracy": accuracy,
            }
            row |= final_scores(painter, test, test_lines, judge, args) if finished else dict.fromkeys(FINAL)
            row["charts/learning_rate"] = learning_rate(args, (step - 1) / total_steps)
            row |= {"charts/SPS": step * args.batch_size / elapsed, "time/elapsed": elapsed}
            run.log(row)
            hint = hint_in_use(test[chosen].float() / 255, args)
            columns = [test[chosen].float() / 255, test_lines[chosen].float() / 255, *([hint] if hint.shape[1] else [])]
            columns += [picture.to(device).float() / 255 for picture in kept] + [found[chosen]]
            save_rows(run, "training", columns)
            if row_number.bit_count() == 1:  # rows 1, 2, 4, 8 ... stay
                kept.append((found[chosen] * 255).round().byte().cpu())
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(l1=f"{row['eval/l1']:.4f}")

        if run:
            run.plot("eval/l1")
            draw_at_the_end(run, painter, test[chosen], test_lines[chosen], args)
            compared = f"L1 {row['eval/l1']:.4f} (blur {row['eval/blur_l1']:.4f}, grey {row['eval/grey_l1']:.4f})"
            compared += (
                f", Lab a and b {row['eval/ab']:.2f} (blur {row['eval/blur_ab']:.2f}, grey {row['eval/grey_ab']:.2f})"
            )
            seen = f"after {row['charts/epoch']:g} epochs at {row['charts/SPS']:,.1f} pictures/s"
            print(f"{compared} on {len(test)} unseen pictures {seen}: {run.dir}")
    return row


# --- painting with it ------------------------------------------------------------------------


def load_painter(folder: Path, flag: str) -> tuple[Args, Generator, torch.Tensor]:
    """Of a run: its arguments, its generator on the CPU, and some pictures that it was not trained on."""
    args, checkpoint = load_run(folder, flag, Args)
    painter = Generator(args)
    try:
        painter.load_state_dict(checkpoint["generator"])
        return args, painter, checkpoint["examples"]
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"{flag} {folder}: the checkpoint does not fit ({error})") from None


def read_picture(path: Path, flag: str):
    """A picture of PIL's. UsageError when it cannot be read or is tiny."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{flag} {path}: no picture that can be read ({error})") from None
    if min(picture.size) < 16:
        raise UsageError(f"{flag} {path}: {picture.width}x{picture.height} pixels are too few, at least 16x16 it takes")
    return picture


def paint(path: Path, hint: Path | None, folder: Path) -> Path:
    """Colour a picture or drawing with the model of a run: the new picture's path, beside the old one's."""
    from PIL import Image

    args, painter, _ = load_painter(folder, "--model")
    picture = read_picture(path, "--paint")
    colors = torch.full((1, 3, args.size, args.size), 255, dtype=torch.uint8)
    if hint:
        if args.hint == "none":
            raise UsageError(f"--with-hint {hint}: the model in {folder} was trained without hints (--hint none)")
        strokes = read_picture(hint, "--with-hint")
        if strokes.size != picture.size:
            sizes = "is {}x{} pixels, the picture {}x{}".format(*strokes.size, *picture.size)
            raise UsageError(f"--with-hint {hint}: {sizes}; they must be of one size")
        colors = square(strokes, args.size).unsqueeze(0)
    start = time.perf_counter()
    found = colorize(painter, find_lines(square(picture, args.size).unsqueeze(0)), colors, args)
    array = (found.squeeze(0).permute(1, 2, 0) * 255).round().byte().numpy()
    seconds, out = time.perf_counter() - start, path.with_name(f"{path.stem}-painted.png")
    Image.fromarray(array).save(out)
    print(f"{out}: {args.size}x{args.size} pixels, painted in {seconds:.2f} seconds")
    return out


def page(painter: Generator, examples: torch.Tensor, args: Args):
    """The page of --demo: line art to brush colours on, a button, and the result."""
    import gradio as gr
    from PIL import Image

    side = 512  # of what is shown

    def enlarge(x: torch.Tensor) -> np.ndarray:
        """uint8 [1 or 3, s, s] -> [512, 512, 3]."""
        return (
            x.expand(3, -1, -1)
            .permute(1, 2, 0)
            .repeat_interleave(side // args.size, 0)
            .repeat_interleave(side // args.size, 1)
            .numpy()
        )

    def show(lines: torch.Tensor) -> tuple[dict, np.ndarray]:
        return {"background": enlarge(lines), "layers": [], "composite": None}, lines.numpy()

    def another(number: int) -> tuple:
        number = (number + 1) % len(examples)
        return *show(find_lines(examples[number : number + 1])[0]), number

    def upload(path: str) -> tuple:
        try:
            return show(find_lines(square(read_picture(Path(path), "upload"), args.size).unsqueeze(0))[0])
        except UsageError as error:
            raise gr.Error(str(error)) from None

    def color(editor: dict, lines: np.ndarray) -> np.ndarray:
        strokes = Image.new("RGBA", (side, side))
        for layer in editor["layers"]:
            strokes.alpha_composite(layer.convert("RGBA").resize((side, side)))
        hint = square(strokes, args.size).unsqueeze(0)  # on white
        found = colorize(painter, torch.from_numpy(lines).unsqueeze(0), hint, args)[0]
        return enlarge((found * 255).round().byte())

    first, first_lines = show(find_lines(examples[:1])[0])
    with gr.Blocks(title="Colorizer", analytics_enabled=False) as blocks:
        gr.Markdown("Brush some colour on the lines, then press *Paint*. Messy is fine; white paper stays a guess.")
        number, lines = gr.State(0), gr.State(first_lines)
        with gr.Row():
            brush = gr.Brush(default_size=36, colors=["#d22", "#e91", "#fd4", "#4a3", "#27c", "#73b", "#642", "#222"])
            canvas = {"canvas_size": (side, side), "fixed_canvas": True, "layers": False, "transforms": ()}
            editor = gr.ImageEditor(first, type="pil", sources=(), brush=brush, label="Lines and hint", **canvas)
            result = gr.Image(label="Painted", format="png", interactive=False, elem_id="painted")
        with gr.Row():
            gr.Button("Paint", variant="primary").click(color, [editor, lines], result)
            gr.Button("Another drawing").click(another, number, [editor, lines, number])
            button = gr.UploadButton("Your own picture", file_types=["image"])
            button.upload(upload, button, [editor, lines])
    return blocks


def demo(folder: Path, port: int):
    """Serve the page to this machine only, until Ctrl-C."""
    args, painter, examples = load_painter(folder, "--demo")
    if args.hint == "none":
        raise UsageError(f"--demo {folder}: trained without hints (--hint none), so there is nothing to paint with")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise UsageError(f"--port {port}: cannot be used ({error.strerror}); name another one") from None
    with torch_settings(args):
        print(f"http://localhost:{port} (Ctrl-C ends it)", flush=True)
        page(painter, examples, args).launch(server_name="127.0.0.1", server_port=port, quiet=True)


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    flags = {word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    for verb, fellows in (("--resume", set()), ("--demo", {"--port"}), ("--paint", {"--with-hint", "--model"})):
        if verb in flags and flags - fellows != {verb}:
            others = ", ".join(sorted(flags - fellows - {verb}))
            raise UsageError(f"{verb} takes its arguments from the run's folder: leave out {others}")
    if args.demo:
        demo(args.demo, args.port)
    elif args.paint:
        paint(args.paint, args.with_hint, args.model)
    else:
        train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
