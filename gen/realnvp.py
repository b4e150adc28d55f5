# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "pillow>=10",
#     "scikit-learn>=1.4",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""NICE and RealNVP: a network that runs in both directions, so that the likelihood of a picture is exact.

    python gen/realnvp.py
    python gen/realnvp.py --dataset rings
    python gen/realnvp.py --dataset mnist --coupling additive
    python gen/realnvp.py --dataset cifar10 --channels 64 --blocks 8 --batch-size 64 --flip --no-anneal-lr
    torchrun --nproc-per-node 2 gen/realnvp.py --dataset photos --bf16

A code z is drawn from a simple prior and a bijection f^-1 makes a picture x of it; so x = f^-1(z) and z = f(x), and
log p(x) = log p(z) + log |det df/dx|. A coupling layer makes the determinant free: it leaves one half of x as it is,
and shifts (and scales) the other half by what a network says about the first. The network may be anything, for
nobody inverts it: from the half that is still there it says the same again, and the shift is taken back. The Jacobian
is triangular, and its determinant the product of the scales. Halves take turns, so that everything changes.

--coupling additive (NICE) only shifts: every coupling's log-determinant is exactly 0. With --no-scaling that is all,
and the flow preserves volume; else a factor for each latent at the end says how much it matters. --coupling affine
(RealNVP) scales in every coupling. The log-determinant in the loss is what keeps f from mapping everything to 0.

"Why is the loss 7,000?" It is a sum over all pixels and channels, in nats. A picture of D = 3 * 32 * 32 = 3,072 numbers
of 8 bits costs D * 8 * ln 2 = 17,035 nats as it is. A density is no probability of whole numbers, so a number from 0 to
1 is added to each of them (dequantization); the density of the sum bounds their probability. Three ways to say it:

    nats per picture      -log p(x), pixels from 0 to 256                       RealNVP on CIFAR-10: 7,431
    bits per dimension    nats / (D ln 2)                                       7,431 / 2,129 = 3.49
    NICE's nats           log p(x), pixels from 0 to 1: D ln 256 - nats         NICE on MNIST: 1980.50, so that
                          bits per dimension = (D ln 256 - 1980.50) / (D ln 2) = 4.36 with D = 784

Expect half a minute on one core for the default, two moons, which end .012 nats above their entropy. Rings, spirals and
separate Gaussians are harder: a bijection can neither tear nor make a hole, so it leaves threads. With --couplings 24
--batch-size 1000 --max-grad-norm 5 rings and spirals end at .025 after 60 epochs, a minute, eight Gaussians at .039
after 120 (means of 3 seeds; without the shorter gradients one of three ended at .24). With --bf16, CIFAR-10 trains at
7.2 pictures a CPU second with 8 blocks of 64 channels in batches of 16, 1.7 times as many as chrischute/real-nvp's, and
at 70 with 2 blocks of 32, 1.4 times; in float32 as many as there. The papers' schedules take a GPU and have not been
run.

A run leaves, for points in the plane, density.png (points and samples, the density, the codes, and the grid of codes as
f^-1 warps it); for pictures, samples.png (codes from the prior) and interpolations.png (from one picture's code to
another's); with --save-samples also samples.npz, fresh pictures and the codes of labelled ones.

Papers
    Dinh, Krueger & Bengio 2014, "NICE: Non-linear independent components estimation" (arXiv 1410.8516): --coupling
    additive; four couplings, five hidden layers of 1,000, a logistic prior and one scale per latent on MNIST.
    Dinh, Sohl-Dickstein & Bengio 2016, "Density estimation using Real NVP" (arXiv 1605.08803): --coupling affine;
    masks, squeezing (figure 3), factoring out, and the logit of the pixels (section 4.1).

Differences from the papers
    1. The logit is taken of alpha + (1 - 2 alpha) x: the paper's alpha + (1 - alpha) x reaches 1, where it is infinite.
    2. Layers of the flow are not batch-normalized, only the residual networks in the couplings are; running averages
       take the place of the batch's only when a picture is scored or drawn, not while it trains.
    3. Dense couplings begin as the identity, NICE's factors at one over what their latents vary by. The step size falls
       to 0 over the run (--no-anneal-lr: it stays).
    4. NICE trains for 1,500 epochs and keeps the best of them on held-out pictures; here the last one counts.
    5. An epoch's last pictures and the next one's first may share a batch, so that every batch is full.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import zlib
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


NOISE_OF = {"moons": 0.2, "rings": 0.16, "spirals": 0.16, "gaussians": 0.25}  # densities in the plane


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds weights, order and noise; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 0
    """threads on the CPU, 0 for one per core. They decide a curve's last bits"""
    cuda: bool = True
    """train on a GPU if there is one"""
    compile: bool = False
    """compile the loss with torch.compile: needs a C++ compiler, takes a while to begin"""
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
    evaluate: Path | None = None
    """likelihood of all test pictures under the model in this folder: no other flag may stand beside"""

    dataset: Literal[
        "moons", "rings", "spirals", "gaussians", "digits", "photos", "emoji", "mnist", "cifar10", "folder"
    ] = "moons"
    """points of a known density in the plane, or pictures: digits and photos come with scikit-learn, emoji from a font,
    mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    image_size: int = 32
    """side of photos, emoji and a folder's pictures, in pixels"""
    train_images: int = 0
    """train on so many pictures or points only, 0 for all"""
    flip: bool = False
    """mirror every second picture of a batch, left to right, at random"""

    epochs: float = 20.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 250
    """pictures per update, over all processes"""
    learning_rate: float | None = None
    """Adam's step size (default: 0.001; in the plane 0.005)"""
    anneal_lr: bool = True
    """let the step size fall to 0 in a straight line over --epochs"""
    max_grad_norm: float = 100.0
    """longer gradients are cut to this length"""
    weight_decay: float = 5e-5
    """L2 regularization of the lengths of weight-normalized filters (--network conv)"""
    coupling: Literal["affine", "additive"] = "affine"
    """what a network does to the other half: scale and shift (RealNVP), or only shift (NICE)"""
    scaling: bool = True
    """a factor for each latent at the end of additive couplings; without, the flow preserves volume"""
    prior: Literal["gaussian", "logistic"] | None = None
    """density of each latent (default: gaussian; logistic for --coupling additive)"""
    logit: bool | None = None
    """model the logit of pixels, which knows no limits (default: for --coupling affine)"""
    alpha: float = 0.05
    """the logit is taken of alpha + (1 - 2 alpha) x, away from where it is infinite"""
    network: Literal["dense", "conv"] | None = None
    """fully connected, or residual convolutions with checkerboard and channel masks on several scales (default:
    conv for colour pictures)"""
    couplings: int | None = None
    """couplings of --network dense, whose halves are the even and the odd numbers (default: 4; in the plane 12)"""
    hidden: tuple[int, ...] | None = None
    """hidden units of each coupling's dense network (default: 1000 1000 1000 1000 1000; in the plane 64 64)"""
    scales: int = 2
    """scales of --network conv: each but the last squeezes the picture to half its side and factors half of it out"""
    channels: int = 32
    """channels of the convolutions on the first scale, twice as many after each squeezing"""
    blocks: int = 2
    """residual blocks of each coupling's convolutional network"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    eval_images: int = 0
    """test pictures that a row scores, 0 for all; --evaluate takes all"""
    save_samples: int = 0
    """write so many new pictures, and the codes of known ones, to samples.npz in the end"""

    def __post_init__(self):
        self.plane = self.dataset in NOISE_OF
        additive = self.coupling == "additive"
        self.prior = self.prior or ("logistic" if additive else "gaussian")
        self.logit = (not additive and not self.plane) if self.logit is None else self.logit
        colour = self.dataset in ("photos", "emoji", "cifar10", "folder")
        self.network = self.network or ("conv" if colour else "dense")
        self.learning_rate = (5e-3 if self.plane else 1e-3) if self.learning_rate is None else self.learning_rate
        self.couplings = (12 if self.plane else 4) if self.couplings is None else self.couplings
        hidden = (64, 64) if self.plane else (1000,) * 5
        self.hidden = hidden if self.hidden is None else tuple(self.hidden)  # args.json holds a list, and paths as text
        self.data_dir = Path(self.data_dir)
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        least_one = ["image_size", "batch_size", "couplings", "scales", "channels", "blocks", "checkpoint_every"]
        for name in least_one:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "eval_images", "save_samples"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate", "max_grad_norm"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError("--weight-decay must not be negative")
        if not 0 < self.alpha < 0.5:
            raise UsageError("--alpha must be above 0 and below 0.5")
        if not all(units > 0 for units in self.hidden):
            raise UsageError("--hidden must be positive numbers")
        if not self.scaling and not additive:
            raise UsageError("--no-scaling is for --coupling additive: affine couplings scale as they please")
        if self.plane and (self.network == "conv" or self.logit or self.flip or self.save_samples):
            raise UsageError("--network conv, --logit, --flip and --save-samples are for pictures: name a --dataset")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- the networks of the couplings: they may be anything, nobody inverts them -----------------


def mlp(num_in: int, hidden: tuple[int, ...], num_out: int, activation=nn.ReLU) -> nn.Sequential:
    """[n, in] -> [n, out], 0 at first: the coupling begins as the identity."""
    layers = []
    for before, after in pairwise([num_in, *hidden]):
        layers += [nn.Linear(before, after), activation()]
    last = nn.Linear(hidden[-1] if hidden else num_in, num_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class DifferentiableSum(torch.autograd.Function):
    """sum_over_processes through which gradients flow: each process's part is in the loss of every one."""

    @staticmethod
    def forward(_, x: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(x.clone())

    @staticmethod
    def backward(_, grad: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(grad.clone())


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization over the pictures of all processes; with one process, PyTorch's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or num_processes() == 1:
            return super().forward(x)
        numbers = x.new_tensor([x.numel() / self.num_features], dtype=torch.float32)  # of each channel
        sums = DifferentiableSum.apply(torch.cat([x.float().sum((0, 2, 3)), numbers]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean.view(-1, 1, 1)
        var = DifferentiableSum.apply((centred**2).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)


def conv(num_in: int, num_out: int, size: int, bias: bool = True) -> nn.Module:
    return weight_norm(nn.Conv2d(num_in, num_out, size, padding=size // 2, bias=bias))


class ResNet(nn.Module):
    """[n, in, h, w] -> [n, out, h, w]: residual blocks, all of which also reach the output by a short way."""

    def __init__(self, num_in: int, channels: int, blocks: int, num_out: int, gain: float):
        super().__init__()
        self.gain = gain
        self.norm_in, self.conv_in = BatchNorm(num_in), conv(2 * num_in, channels, 3)
        self.skips = nn.ModuleList(conv(channels, channels, 1) for _ in range(blocks + 1))
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            half = [BatchNorm(channels), nn.ReLU(inplace=True), conv(channels, channels, 3, bias=False)]
            rest = [BatchNorm(channels), nn.ReLU(inplace=True), conv(channels, channels, 3)]
            self.blocks.append(nn.Sequential(*half, *rest))
        self.norm_out, self.conv_out = BatchNorm(channels), conv(channels, num_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gain * self.norm_in(x)
        features = [self.conv_in(torch.cat([x, -x], 1).relu_())]
        for block in self.blocks:
            features.append(features[-1] + block(features[-1]))
        # the sum of a convolution of each is one convolution of all of them, which is faster
        weight = torch.cat([skip.weight for skip in self.skips], 1)
        total = F.conv2d(torch.cat(features, 1), weight, sum(skip.bias for skip in self.skips))
        return self.conv_out(self.norm_out(total).relu_())


# --- the flow: layers that run in both directions ---------------------------------------------
# Each takes x and returns y with log |det dy/dx| of each picture [n]; inverse(y) is x.


class Logit(nn.Module):
    """Numbers from 0 to 1 -> the whole line."""

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x
        log_p, log_q = p.log(), (1 - p).log()
        log_slope = math.log(1 - 2 * self.alpha) - log_p - log_q  # the derivative of logit(p) is 1 / (p (1 - p))
        return log_p - log_q, log_slope.flatten(1).sum(1)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        return (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Coupling(nn.Module):
    """One half of x stays, the other is shifted, and scaled if it is affine, by what a network makes of the first.

    Halves: "alternate" numbers of [n, d], "channels" of [n, c, h, w], or the fields of a "checkerboard". With `flipped`
    the other half stays.
    """

    def __init__(self, halves: str, flipped: bool, affine: bool, network: nn.Module, scale_shape: tuple[int, ...] = ()):
        super().__init__()
        self.halves, self.flipped, self.network = halves, flipped, network
        self.max_log_scale = nn.Parameter(torch.ones(scale_shape)) if affine else None

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x -> what stays, what is changed. Halves of a checkerboard have the size of the whole, and 0 elsewhere."""
        if self.halves == "alternate":
            a, b = x[:, 0::2], x[:, 1::2]
        elif self.halves == "channels":
            a, b = x.chunk(2, 1)
        else:
            a = x * self.fields(x, self.flipped)
            return a, x - a
        return (b, a) if self.flipped else (a, b)

    def join(self, kept: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        if self.halves == "checkerboard":
            return kept + changed
        a, b = (changed, kept) if self.flipped else (kept, changed)
        return torch.stack([a, b], 2).flatten(1) if self.halves == "alternate" else torch.cat([a, b], 1)

    @staticmethod
    def fields(x: torch.Tensor, flipped: bool) -> torch.Tensor:
        """1 on every second field of a checkerboard [h, w], on the others if it is flipped."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        return ((rows.unsqueeze(1) + columns + flipped) % 2).to(x.dtype)

    def scale_and_shift(self, kept: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What stays -> log-scale (None if there is none) and shift of the other half."""
        s, t = None, self.network(kept).float()
        if self.max_log_scale is not None:
            s, t = t.chunk(2, 1)
            s = self.max_log_scale * s.tanh()  # between two limits that are learned
        if self.halves == "checkerboard":
            fields = self.fields(kept, not self.flipped)
            s, t = s if s is None else s * fields, t * fields
        return s, t

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept, changed = self.split(x)
        s, t = self.scale_and_shift(kept)
        if s is None:
            return self.join(kept, changed + t), x.new_zeros(len(x))
        return self.join(kept, changed * s.exp() + t), s.flatten(1).sum(1)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        kept, changed = self.split(y)
        s, t = self.scale_and_shift(kept)
        changed = changed - t
        return self.join(kept, changed if s is None else changed * (-s).exp())


class Scaling(nn.Module):
    """A factor for each latent [n, d]: how much its direction counts, which additive couplings alone cannot say."""

    def __init__(self, size: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(size))

    @torch.no_grad()
    def start(self, model: nn.Module, x: torch.Tensor):
        """Scale what a new model makes of x to the prior's standard deviation.

        Where a border is always black that is a factor of 1,000 or 2,000: Adam would be long on its way.
        """
        std = model.eval()(x)[0].std(0)
        self.log_scale.copy_(math.log(math.pi / 3**0.5 if model.prior == "logistic" else 1) - std.log())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        return y * (-self.log_scale).exp()


class Squeeze(nn.Module):
    """[n, c, h, w] -> [n, 4 c, h/2, w/2]: each square of 2x2 pixels becomes four channels (figure 3)."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(y, 2)


class FactorOut(nn.Module):
    """Half of a squeezed picture is code already: of each 2x2 square one diagonal; the other one goes on."""

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, 4 c, h, w] -> what goes on, what is done: both [n, 2 c, h, w]."""
        upper_left, upper_right, lower_left, lower_right = x.unflatten(1, (-1, 4)).unbind(2)  # [n, c, h, w] each
        return torch.cat([upper_left, lower_right], 1), torch.cat([upper_right, lower_left], 1)

    def join(self, goes_on: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        (upper_left, lower_right), (upper_right, lower_left) = goes_on.chunk(2, 1), done.chunk(2, 1)
        return torch.stack([upper_left, upper_right, lower_left, lower_right], 2).flatten(1, 2)


def dense_layers(size: int, args: Args) -> list[nn.Module]:
    if size % 2:
        raise UsageError(f"--network dense: halves of {size:,} numbers are not alike: take an even --image-size")
    half, affine, layers = size // 2, args.coupling == "affine", []
    activation = nn.SiLU if args.plane else nn.ReLU  # smooth densities in the plane, without the folds of ReLUs
    for i in range(args.couplings):
        network = mlp(half, args.hidden, half * (1 + affine), activation)
        layers.append(Coupling("alternate", bool(i % 2), affine, network, (half,)))
    return layers


def conv_layers(shape: tuple[int, int, int], args: Args) -> list[nn.Module]:
    """On each scale three couplings of checkerboards and three of channels; on the last one four of checkerboards."""
    (c, h, w), channels, affine, layers = shape, args.channels, args.coupling == "affine", []

    def add(halves: str, flipped: bool, num: int, channels: int):
        # half of the numbers that a checkerboard's network sees are 0: the rest count twice
        network = ResNet(num, channels, args.blocks, num * (1 + affine), 2.0 if halves == "checkerboard" else 1.0)
        layers.append(Coupling(halves, flipped, affine, network, (num, 1, 1)))

    for _ in range(args.scales - 1):
        if h % 2 or w % 2:
            raise UsageError(
                f"--scales: {args.scales} scales halve {shape[1]}x{shape[2]} pixels {args.scales - 1} times"
            )
        for i in range(3):
            add("checkerboard", bool(i % 2), c, channels)
        layers.append(Squeeze())
        for i in range(3):
            add("channels", bool(i % 2), 2 * c, 2 * channels)
        layers.append(FactorOut())
        c, h, w, channels = 2 * c, h // 2, w // 2, 2 * channels
    for i in range(4):
        add("checkerboard", bool(i % 2), c, channels)
    return layers


class Flow(nn.Module):
    """All layers: points [n, 2] or pictures [n, c, h, w] from 0 to 1 <-> codes z [n, d] of as many numbers."""

    def __init__(self, shape: tuple[int, ...], args: Args):
        super().__init__()
        self.shape, self.size, self.prior = shape, math.prod(shape), args.prior
        self.dense = args.network == "dense"
        layers = dense_layers(self.size, args) if self.dense else conv_layers(shape, args)
        self.layers = nn.ModuleList([Logit(args.alpha), *layers] if args.logit else layers)
        self.scaling = Scaling(self.size) if args.coupling == "additive" and args.scaling else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x -> z = f(x) and log |det dz/dx| [n]."""
        log_det, done = x.new_zeros(len(x)), []
        if self.dense:
            x = x.flatten(1)
        for layer in self.layers:
            if isinstance(layer, FactorOut):
                x, part = layer.split(x)
                done.append(part.flatten(1))
            else:
                x, term = layer(x)
                log_det = log_det + term
        z = torch.cat([*done, x.flatten(1)], 1)
        if self.scaling:
            z, term = self.scaling(z)
            log_det = log_det + term
        return z, log_det

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """z -> x = f^-1(z)."""
        z = self.scaling.inverse(z) if self.scaling else z
        if self.dense:
            x, done = z, []
        else:
            factored = sum(isinstance(layer, FactorOut) for layer in self.layers)
            c, h, w = self.shape
            shapes = [(2 * 2**i * c, h // 2 ** (i + 1), w // 2 ** (i + 1)) for i in range(factored)]
            shapes.append(shapes[-1] if shapes else self.shape)
            parts = z.split([math.prod(shape) for shape in shapes], 1)
            *done, x = (part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))
        for layer in reversed(self.layers):
            x = layer.join(x, done.pop()) if isinstance(layer, FactorOut) else layer.inverse(x)
        return x.reshape(-1, *self.shape)

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z) of independent latents: [n, d] -> [n]."""
        if self.prior == "logistic":
            return -(F.softplus(z) + F.softplus(-z)).sum(1)
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)

    def draw_codes(self, num: int, rng: torch.Generator) -> torch.Tensor:
        """Codes from the prior [num, d]."""
        if self.prior == "logistic":
            return torch.rand(num, self.size, generator=rng, device=rng.device).logit(eps=1e-7)
        return torch.randn(num, self.size, generator=rng, device=rng.device)


def negative_log_density(model: Flow, x: torch.Tensor) -> torch.Tensor:
    """-log p(x), in nats, of points or of pictures from 0 to 1 [n]: change of variables (equation 3 of Real NVP)."""
    z, log_det = model(x)
    return -(model.log_prior(z) + log_det)


def picture_nats(nll: float, size: int) -> float:
    """Nats for pixels from 0 to 1 -> for pixels from 0 to 256, each of which takes 1/256 of the room."""
    return nll + size * math.log(256)


def bits_per_dim(nll: float, size: int) -> float:
    """Nats of a picture of so many numbers, for pixels from 0 to 1 -> bits for each number, of 8 bits."""
    return picture_nats(nll, size) / (size * math.log(2))


# --- densities in the plane that are known ----------------------------------------------------


def centres(dataset: str) -> torch.Tensor:
    """A density is a mixture of equally likely round Gaussians, side by side along a curve: their centres [k, 2]."""
    if dataset == "gaussians":
        return 2 * circle(torch.arange(8) / 8)
    t = (torch.arange(400) + 0.5) / 400
    if dataset == "moons":
        moon = 2 * circle(t / 2) - torch.tensor([1.0, 0.5])
        return torch.cat([moon, -moon])
    if dataset == "rings":
        return torch.cat([circle(t), 2 * circle(t)])
    arm = 2.5 * t.sqrt().unsqueeze(1) * circle(1.25 * t.sqrt())
    return torch.cat([arm, -arm])


def circle(turns: torch.Tensor) -> torch.Tensor:
    """[k] -> [k, 2], on the circle of radius 1."""
    angles = 2 * math.pi * turns
    return torch.stack([angles.cos(), angles.sin()], 1)


def source_log_density(dataset: str, x: torch.Tensor) -> torch.Tensor:
    """[n, 2] -> [n], exactly."""
    means, noise = centres(dataset).to(x), NOISE_OF[dataset]
    log_p = -0.5 * torch.cdist(x, means, compute_mode="donot_use_mm_for_euclid_dist") ** 2 / noise**2
    return log_p.logsumexp(1) - math.log(len(means) * 2 * math.pi * noise**2)


def source_entropy(dataset: str) -> float:
    """-E log p(x) in nats, by quadrature: half as wide as the noise, a grid is as good as exact."""
    side = torch.arange(-4.5, 4.5, 0.08, dtype=torch.float64)
    log_p = torch.cat([source_log_density(dataset, part) for part in torch.cartesian_prod(side, side).split(5000)])
    return -(log_p.exp() * log_p).sum().item() * 0.08**2


def draw_points(dataset: str, num: int, rng: torch.Generator) -> torch.Tensor:
    """Points of the density [num, 2]."""
    means = centres(dataset)
    chosen = means[torch.randint(len(means), (num,), generator=rng)]
    return chosen + NOISE_OF[dataset] * torch.randn(num, 2, generator=rng)


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


# --- handwritten digits: the same in every file that reads them ------------------------------

MNIST_MIRRORS = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST_FILES = {  # name: shape of the array in it, SHA-256 of the original archive
    "train-images-idx3-ubyte.gz": (
        (60_000, 28, 28),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        (60_000,),
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        (10_000, 28, 28),
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        (10_000,),
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}


def load_digits_28() -> tuple[torch.Tensor, ...]:
    """Scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 28x28; the last 297 are there to test on.

    Returns images [n, 28, 28] and labels [n] to train on, then those to test on; both are uint8.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)  # [1797, 1, 8, 8], ink from 0 to 255
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear").squeeze(1).round().byte()
    labels = torch.from_numpy(digits.target).byte()
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def load_mnist(data_dir: Path) -> tuple[torch.Tensor, ...]:
    """MNIST as load_digits_28 returns its digits: 60,000 and 10,000. What data_dir lacks is downloaded into it once."""
    arrays = []
    for name, (shape, digest) in MNIST_FILES.items():
        try:
            array = read_idx(data_dir / name, shape)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            download_mnist(data_dir / name, digest, error)
            array = read_idx(data_dir / name, shape)
        arrays.append(array)
    return tuple(arrays)


def read_idx(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The bytes of a gzipped IDX file as a tensor of this shape. ValueError when header or size say something else."""
    with gzip.open(path) as file:
        data = bytearray(file.read())
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)  # 8: unsigned bytes
    if not data.startswith(header) or len(data) != len(header) + math.prod(shape):
        raise ValueError(f"no IDX file of {' x '.join(map(str, shape))} bytes")
    return torch.frombuffer(data, dtype=torch.uint8, offset=len(header)).reshape(shape)


def download_mnist(path: Path, digest: str, why: Exception):
    """Fetch one of MNIST's files; it is moved into place when its digest is right. UsageError when no mirror has it."""
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(mirror + path.name, timeout=30) as response:
                data = response.read()
            if hashlib.sha256(data).hexdigest() == digest:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.{os.getpid()}.part")
                part.write_bytes(data)
                part.replace(path)
                return
            problem = "it came with another digest: a damaged or partial download"
        except (OSError, HTTPException) as error:
            problem = str(error)
    state = "is not there" if isinstance(why, FileNotFoundError) else f"cannot be used ({why})"
    raise UsageError(
        f"--dataset mnist: {path} {state}, and downloading it failed ({mirror}: {problem}). Without a network, put "
        f"MNIST's four files ({', '.join(MNIST_FILES)}) into --data-dir, or take --dataset digits"
    )


# --- more pictures: the same in every file that reads them -----------------------------------

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


def load_pictures(args) -> tuple:
    """Pictures, uint8 [n, c, h, w], and labels [n] (None where there are none) to train on, then those to test on.

    Nothing here depends on --seed: runs with different seeds see the same pictures.
    """
    if args.dataset in ("digits", "mnist"):
        images, labels, *test = load_mnist(args.data_dir) if args.dataset == "mnist" else load_digits_28()
        return images.unsqueeze(1), labels, test[0].unsqueeze(1), test[1]
    if args.dataset == "photos":
        return load_photos(args.image_size)
    if args.dataset == "cifar10":
        return load_cifar10(args.data_dir)
    train, test = load_emoji(args) if args.dataset == "emoji" else load_folder(args.folder, args.image_size)
    return train, None, test, None


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


def load_cifar10(data_dir: Path) -> tuple[torch.Tensor, ...]:
    """CIFAR-10: 50,000 pictures [n, 3, 32, 32] and labels, and 10,000 to test on. What data_dir lacks is downloaded."""
    folder = data_dir / "cifar-10-batches-bin"
    paths = [folder / f"{name}.bin" for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]]
    for attempt in range(2):
        damaged = [path for path in paths if not path.is_file() or path.stat().st_size != 10_000 * 3073]
        if damaged and attempt == 0:
            download_cifar10(data_dir, damaged[0])
    rows = torch.from_numpy(np.concatenate([np.fromfile(path, np.uint8) for path in paths])).view(-1, 3073)
    labels, pictures = rows[:, 0].clone(), rows[:, 1:].reshape(-1, 3, 32, 32)  # a row is a label, then red, green, blue
    if labels.max() > 9:
        raise UsageError(f"--dataset cifar10: {folder} holds labels above 9, so it is damaged: remove it")
    return pictures[:50_000], labels[:50_000], pictures[50_000:], labels[50_000:]


def download_cifar10(data_dir: Path, lacking: Path):
    """Fetch the archive, again if its digest is wrong, and unpack it if it is right. UsageError if all was in vain."""
    part, problem = data_dir / f"cifar10.{os.getpid()}.part", None
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        for _ in range(2):
            try:
                with urllib.request.urlopen(CIFAR10_URL, timeout=30) as response, part.open("wb") as file:
                    shutil.copyfileobj(response, file)
                with part.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == CIFAR10_SHA256:
                        with tarfile.open(part) as archive:
                            archive.extractall(data_dir, filter="data")
                        return
                problem = "it came with another digest: a damaged or partial download"
            except (OSError, HTTPException) as error:
                problem = str(error)
    finally:
        part.unlink(missing_ok=True)
    raise UsageError(
        f"--dataset cifar10: {lacking} is not there or damaged, and downloading it failed ({CIFAR10_URL}: {problem}). "
        "Without a network, put CIFAR-10's cifar-10-batches-bin/ into --data-dir, or take --dataset photos"
    )


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

WEIGHTS, ORDER, NOISE, SCORES, PRIOR, SAMPLES, START = range(7)
POINTS_TRAIN, POINTS_TEST = range(2)  # of a stream of their own, the same for every --seed


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


def load_data(args: Args, device: torch.device) -> tuple:
    """Training data and labels, test data and labels: pictures uint8 [n, c, h, w] or points [n, 2], on the device.

    Labels [n] are None where there are none.
    """
    if args.plane:
        cpu = torch.device("cpu")
        train = draw_points(args.dataset, 50_000, generator(cpu, 0, POINTS_TRAIN))
        test = draw_points(args.dataset, 10_000, generator(cpu, 0, POINTS_TEST))
        labels = test_labels = None
    else:
        train, labels, test, test_labels = load_pictures(args)
    train = train[: args.train_images or None].to(device)
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    return train, labels, test.to(device), test_labels


def make_model(args: Args, data: torch.Tensor, device: torch.device) -> Flow:
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        model = Flow(tuple(data.shape[1:]), args).to(device)
    if model.scaling:
        model.scaling.start(model, dequantize(data[:500], generator(device, args.seed, START)))
    return model.to(memory_format=torch.channels_last) if args.network == "conv" else model


def make_optimizer(model: Flow, args: Args) -> torch.optim.Adam:
    """Adam, with --weight-decay on the lengths of weight-normalized filters."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith("original0")].append(parameter)
    groups = [{"params": groups[True], "weight_decay": args.weight_decay}, {"params": groups[False]}]
    return torch.optim.Adam([group for group in groups if group["params"]], lr=args.learning_rate, fused=True)


def dequantize(data: torch.Tensor, rng: torch.Generator, flip: bool = False) -> torch.Tensor:
    """Whole numbers 0 to 255 -> real ones from 0 to 1, evenly likely within 1/256; points stay as they are."""
    if data.is_floating_point():
        return data
    x = (data + torch.rand(data.shape, generator=rng, device=data.device)) / 256
    if flip:
        mirrored = torch.rand(len(x), 1, 1, 1, generator=rng, device=x.device) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
    return x


def quantize(x: torch.Tensor) -> torch.Tensor:
    """Numbers from 0 to 1, and what lies a little outside -> uint8: which of the 256 intervals each is in."""
    return (x * 256).floor().clamp(0, 255).byte()


def update(model: Flow, optimizer, x: torch.Tensor, args: Args, loss_function) -> torch.Tensor:
    """One update from this process's share of a batch. Returns the sum of -log p(x) over it."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=args.bf16):
        nll = loss_function(model, x)
    optimizer.zero_grad()
    (nll.sum() / args.batch_size).backward()
    sum_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
    optimizer.step()
    return nll.detach().sum()


@torch.no_grad()
def score(model: Flow, data: torch.Tensor, args: Args) -> tuple[float, float]:
    """Mean of -log p(x) over the data, for pixels from 0 to 1; greatest error of f^-1(f(x)) over the first of it."""
    model.eval()
    rng, total = generator(data.device, args.seed, SCORES), 0.0
    for part in data.split(10_000 if args.plane else 200):
        total += negative_log_density(model, dequantize(part, rng)).double().sum().item()
    x = dequantize(data[:64], rng)
    return total / len(data), (model.inverse(model(x)[0]) - x).abs().max().item()


def source_score(data: torch.Tensor, args: Args) -> float | None:
    """Mean of -log p(x) under the density that points come from: no model's is lower in expectation."""
    return -source_log_density(args.dataset, data).mean().item() if args.plane else None


def describe(nll: float, source_nll: float | None, args: Args, size: int) -> str:
    """The likelihood in words; of points beside that of the density they come from."""
    if source_nll is not None:
        entropy = source_entropy(args.dataset)
        return f"{nll:.4f} nats per point, {nll - source_nll:.4f} more than their source (entropy {entropy:.4f})"
    nats, bits = picture_nats(nll, size), bits_per_dim(nll, size)
    return f"{bits:.4f} bits per dimension ({nats:,.1f} nats per picture; {-nll:,.2f} as NICE counts)"


# --- pictures of what it learned -------------------------------------------------------------


def save_grid(run: Run, name: str, pictures: torch.Tensor, columns: int):
    """Pictures [n, c, h, w] from 0 to 1 in rows of so many, a grey line between them, each pixel two wide."""
    from PIL import Image

    framed = F.pad(pictures.nan_to_num().clamp(0, 1), (0, 1, 0, 1), value=0.5)
    n, c, h, w = framed.shape
    rows = framed.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, c]
    array = (rows.reshape(n // columns * h, columns * w, c) * 255).round().byte().numpy(force=True)
    image = Image.fromarray(array.squeeze(2) if c == 1 else array)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


@torch.no_grad()
def codes(model: Flow, pictures: torch.Tensor) -> torch.Tensor:
    """Codes [n, d] of uint8 [n, c, h, w], of the middle of each pixel's interval."""
    return torch.cat([model((part + 0.5) / 256)[0] for part in pictures.split(200)])


@torch.no_grad()
def draw_samples(run: Run, model: Flow, args: Args, device: torch.device):
    """samples.png: codes from the prior, always the same ones, 8 rows of 8."""
    z = model.draw_codes(64, generator(device, args.seed, PRIOR))
    save_grid(run, "samples", model.inverse(z).contiguous(), 8)


@torch.no_grad()
def draw_interpolations(run: Run, model: Flow, test: torch.Tensor):
    """interpolations.png: eight pairs of test pictures, and what lies between their codes.

    A straight line would pass nearer to 0 than any code from the prior does, so they are joined by an arc.
    """
    ends = codes(model, test[torch.arange(16) % len(test)]).view(8, 2, 1, -1)
    turn = torch.linspace(0, math.pi / 2, 10, device=test.device).view(1, 10, 1)
    z = turn.cos() * ends[:, 0] + turn.sin() * ends[:, 1]  # [8, 10, d]
    save_grid(run, "interpolations", model.inverse(z.flatten(0, 1)).contiguous(), 10)


@torch.no_grad()
def draw_plane(run: Run, model: Flow, test: torch.Tensor, args: Args):
    """density.png: points and samples, the density, the points' codes, and the grid of codes as f^-1 warps it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.9), layout="constrained")
    points, density, latent, warped = figure.subplots(1, 4)
    x = test[:4000]
    samples = model.inverse(model.draw_codes(len(x), generator(test.device, args.seed, PRIOR))).cpu()
    style = {"s": 2, "linewidths": 0}
    colors = torch.atan2(x[:, 1], x[:, 0]).tolist()
    points.scatter(*x.T.cpu(), color="#888888", label="source", **style)
    points.scatter(*samples.T, color="#D55E00", label="samples", alpha=0.6, **style)
    points.legend(loc="upper right", markerscale=4, frameon=False)
    limit = 3.4
    side = torch.linspace(-limit, limit, 240, device=test.device)
    log_p = -negative_log_density(model, torch.cartesian_prod(side, side)).view(240, 240).T.cpu()  # rows are y
    density.imshow(log_p.exp(), extent=(-limit, limit, -limit, limit), origin="lower", cmap="magma")
    latent.scatter(*model(x)[0].T.cpu(), c=colors, cmap="hsv", **style)
    warped.scatter(*x.T.cpu(), c=colors, cmap="hsv", **style)
    along = torch.linspace(-3, 3, 400, device=test.device)
    for value in torch.linspace(-3, 3, 13).tolist():
        line = torch.stack([along, torch.full_like(along, value)], 1)
        for z in (line, line.flip(1)):
            warped.plot(*model.inverse(z).T.cpu(), color="black", linewidth=0.6)
    for axes, title in zip(
        figure.axes, ["source and samples", "density p(x)", "codes z = f(x)", "f^-1 of a grid"], strict=True
    ):
        axes.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    figure.savefig(run.dir / "density.png", dpi=110)
    run.picture(run.dir / "density.png")


@torch.no_grad()
def save_samples(run: Run, model: Flow, args: Args, pictures: torch.Tensor, labels, test: torch.Tensor, test_labels):
    """samples.npz: new pictures uint8 [n, c, h, w], seconds that drawing them took, codes z of labelled pictures."""
    rng, start = generator(pictures.device, args.seed, SAMPLES), time.perf_counter()
    z = model.draw_codes(args.save_samples, rng)
    samples = torch.cat([quantize(model.inverse(part)) for part in z.split(200)])
    arrays = {"samples": samples.numpy(force=True), "seconds": time.perf_counter() - start}
    if labels is not None:
        for name, x, y in (("train", pictures, labels), ("test", test, test_labels)):
            arrays[f"{name}_codes"] = codes(model, x[:10_000]).numpy(force=True)
            arrays[f"{name}_labels"] = y[: len(x)][:10_000].numpy()  # fewer with --train-images
    np.savez_compressed(run.dir / "samples.npz", **arrays)


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        data = load_data(args, device)
        return learn(args, checkpoint, make_model(args, data[0], device), *data)


def learn(
    args: Args, checkpoint: dict | None, model: Flow, data: torch.Tensor, labels, test: torch.Tensor, test_labels
):
    """The loop: a batch, an update, and now and then a row of metrics, pictures, a checkpoint."""
    device, row, size = data.device, {}, model.size
    optimizer = make_optimizer(model, args)
    loss_function = torch.compile(negative_log_density) if args.compile else negative_log_density
    order = Order(len(data), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(data) / args.batch_size)
    per_row = args.log_every or len(data) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    scored = test[: args.eval_images or None]
    source_nll = source_score(scored, args)
    step, row_number, elapsed = 0, 0, 0.0

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed}
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()} | counters

    if checkpoint:
        try:
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            step, row_number, elapsed = (checkpoint[key] for key in ("step", "row_number", "elapsed"))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if step >= total_steps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.dataset, checkpoint and checkpoint["rows"]) if process_rank() == 0 else None
    bar = tqdm(total=total_steps, initial=step, unit="update", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while step < total_steps:
            start, first_step = time.perf_counter(), step
            # Every process draws the noise of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, total = generator(device, args.seed, NOISE, row_number), torch.zeros((), device=device)
            row_number += 1
            model.train()
            while step < min(total_steps, math.ceil(row_number * per_row)):
                x = dequantize(data.index_select(0, order.batch(step)), rng, args.flip)
                for group in optimizer.param_groups:
                    group["lr"] = args.learning_rate * (1 - step / total_steps if args.anneal_lr else 1)
                total += update(model, optimizer, x[share], args, loss_function)
                step += 1
            loss = sum_over_processes(total).item() / ((step - first_step) * args.batch_size)
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            nll, inversion_error = score(model, scored, args)
            row = {"global_step": step * args.batch_size, "charts/epoch": step * args.batch_size / len(data)}
            for name, value in (("losses", loss), ("eval", nll)):
                row[f"{name}/nll"] = value if args.plane else picture_nats(value, size)
                row[f"{name}/bits_per_dim"] = None if args.plane else bits_per_dim(value, size)
            row |= {
                "eval/log_likelihood": -nll,
                "eval/above_source": nll - source_nll if args.plane else None,
                "eval/inversion_error": inversion_error,
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            if not args.plane:
                draw_samples(run, model, args, device)
            if step >= total_steps or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(nats=f"{row['eval/nll']:.3f}")

        if run:
            run.plot("eval/nll" if args.plane else "eval/bits_per_dim")
            if args.plane:
                draw_plane(run, model, test, args)
            else:
                draw_interpolations(run, model, test)
            if args.save_samples:
                save_samples(run, model, args, data, labels, test, test_labels)
            result = f"test {describe(nll, source_nll, args, size)}"
            print(f"{result} after {row['charts/epoch']:g} epochs at {row['charts/SPS']:,.0f} per second: {run.dir}")
    return row


def evaluate(folder: Path) -> float:
    """-log p(x) of all test pictures or points under the model of a run, in nats (for pixels from 0 to 1)."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        data, _, test, _ = load_data(args, device)
        model = make_model(args, data, device)
        try:
            model.load_state_dict(checkpoint["model"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        nll, _ = score(model, test, args)
    said = describe(nll, source_score(test, args), args, model.size)
    print(f"{said}: {len(test):,} unseen, after {checkpoint['step']:,} updates")
    return nll


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    if (args.resume or args.evaluate) and sum(word.startswith("--") for word in argv) > 1:
        raise UsageError("--resume and --evaluate take every argument from the run's folder: leave out the other flags")
    if args.evaluate:
        evaluate(args.evaluate)
    else:
        train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
