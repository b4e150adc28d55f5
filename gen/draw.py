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
"""DRAW: a network that draws a picture stroke by stroke, looking at one patch at a time.

    python gen/draw.py
    python gen/draw.py --dataset mnist --epochs 10 --bf16
    python gen/draw.py --dataset mnist --no-attention --epochs 10 --bf16
    python gen/draw.py --dataset emoji --latent-dim 10 --batch-size 64 --epochs 50 --bf16
    torchrun --nproc-per-node 2 gen/draw.py --dataset mnist --binarize static --num-steps 64 --epochs 60

A variational autoencoder that takes T steps. At each, the encoder looks at the picture and at what is still missing on
the canvas, through a small grid of Gaussian filters; it tells the decoder a few nats, as a noisy code z; the decoder
adds a stroke to the canvas, through a grid of its own. Where the grids lie, how far apart their filters are and how
wide, the decoder decides. Without the picture, codes from N(0, I) draw new ones.

The loss is a bound on -log p(x) in nats per picture: what the picture still costs given the last canvas, and the KL
divergences of the codes of ALL steps, summed over pixels, latents and steps. How pixels became black or white is part
of the number: --binarize dynamic draws them for every batch anew, static once, as the paper's fixed set was.

Expect, from the default on scikit-learn's digits, 283 nats on test pictures (one seed; every pixel on its own costs
356) after a minute or so on one core; on MNIST, T = 10, after 12 epochs, 93.1 with attention (--bf16, 10 minutes of one
core), 90.8 the same on pixels fixed once, and 91.1 without attention (one seed each; published: 99.7 after 60 epochs,
without attention 93.8 after 30). The paper's 80.97 nats, T = 64 and fixed pixels, are a schedule for a GPU, which has
not been run here.

A run leaves drawing.png and drawing.gif (test pictures: what is read, orange, above what is written, green, step by
step), prior.png and prior.gif (new pictures on the way), samples.png, reconstructions.png (originals above what they
are drawn to), steps.png (width and place of the patches, and nats told, at each step; mean and spread over pictures).

Papers
    Gregor, Danihelka, Graves, Rezende & Wierstra 2015, "DRAW: a recurrent neural network for image generation" (arXiv
    1502.04623): the equations, numbered as there.
    Kevin Frans 2016, the posts on DRAW and on DRAW in colour: one attention for all channels, the squared error, the
    figures of patches over time.

Differences from the paper and the posts
    1. The canvas begins at the mean picture, the filters half as wide as their distance, see attention(): that saves a
       thousand updates (--start-canvas zero --start-attention sparse begin as most code does).
    2. Colours: the squared error over twice --noise-std^2. The second post's loss sums that error over its batch of 64
       but averages the KL divergence: a noise of 1/8, the default here, is the same balance. 1 is what its text says.
    3. Gradients are shortened to --max-grad-norm, the step size falls to 0, batches may cross the end of an epoch.
    4. --binarize static draws its own pixels once; Larochelle's file of fixed ones is another draw.
    5. The LSTM's derivative is written by hand, see LSTMStep: an update takes about a fifth less time than by autograd.
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
from pathlib import Path
from typing import Literal, NamedTuple

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
    """bound of all test pictures under the model in this folder: no other flag may stand beside"""

    dataset: Literal["digits", "photos", "emoji", "mnist", "cifar10", "folder"] = "digits"
    """pictures: digits and photos come with scikit-learn, emoji from a font, mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    image_size: int = 64
    """side of photos, emoji and a folder's pictures, in pixels"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""
    binarize: Literal["none", "static", "dynamic"] | None = None
    """make grey pixels black or white at random, white as likely as they are bright: once, or for each batch anew
    (default: dynamic for digits and mnist; colours stay as they are)"""

    epochs: float = 20.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 128
    """pictures per update, over all processes"""
    learning_rate: float = 2e-3
    """Adam's step size"""
    anneal_lr: bool = True
    """let the step size fall linearly to 0"""
    max_grad_norm: float = 5.0
    """gradients longer than this are shortened to it"""
    num_steps: int = 10
    """T: strokes per picture"""
    hidden_size: int = 256
    """units of the encoder's and the decoder's LSTM"""
    latent_dim: int = 100
    """latents per step: the size of each code z"""
    attention: bool = True
    """read and write through a grid of filters; without it all pixels at every step"""
    read_size: int = 5
    """N of the N x N filters that read (the paper's MNIST: 2, which learns more slowly)"""
    write_size: int = 5
    """N of the N x N filters that write"""
    start_attention: Literal["overlapping", "sparse"] = "overlapping"
    """the first patches: filters as wide as their distance, or one pixel wide and as far apart as the picture allows"""
    start_canvas: Literal["mean", "zero"] = "mean"
    """the empty canvas: the mean picture, or zeros"""
    noise_std: float = 0.125
    """standard deviation of colours around what is drawn; 1 makes their loss half the squared error"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    test_images: int = 1000
    """test pictures to score in every row, 0 for all; the last row and --evaluate take all"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        grey = self.dataset in ("digits", "mnist")
        self.binarize = self.binarize or ("dynamic" if grey else "none")
        for name in ["image_size", "batch_size", "num_steps", "hidden_size", "latent_dim", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["read_size", "write_size"]:
            if getattr(self, name) < 2:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 2: a stride needs two filters")
        for name in ["seed", "torch_threads", "train_images", "log_every", "test_images"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate", "max_grad_norm", "noise_std"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if self.binarize != "none" and not grey:
            raise UsageError("--binarize is for the grey pictures of --dataset digits and mnist")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- attention -------------------------------------------------------------------------------


class Grid(NamedTuple):
    """N x N Gaussian filters on each of n square pictures. Pixels count from 1, as in the paper."""

    F_x: torch.Tensor
    """[n, N, size]: how much each column of filters takes of each column of pixels; rows sum to 1"""
    F_y: torch.Tensor
    """[n, N, size]: the same for rows"""
    intensity: torch.Tensor
    """gamma [n]"""
    centre: torch.Tensor
    """g_X and g_Y, in pixels [n, 2]"""
    stride: torch.Tensor
    """delta: pixels from filter to filter [n]"""


def filter_grid(parameters: torch.Tensor, num_filters: int, size: int) -> Grid:
    """What the five numbers per picture [n, 5] mean for pictures of size x size."""
    centre, logs = parameters.split([2, 3], 1)  # (21)
    centre = (size + 1) / 2 * (centre + 1)  # (22) (23): 0 is the middle
    variance, stride, intensity = logs.exp().unbind(1)
    stride = (size - 1) / (num_filters - 1) * stride  # (24): log 1 spans the picture
    steps = torch.arange(1.0, num_filters + 1, device=parameters.device) - num_filters / 2 - 0.5
    means = centre.unsqueeze(2) + steps * stride.view(-1, 1, 1)  # (19) (20): [n, 2, N], mu_X and mu_Y
    pixels = torch.arange(1.0, size + 1, device=parameters.device)
    exponents = (pixels - means.unsqueeze(3)) ** 2 * (-0.5 / variance).view(-1, 1, 1, 1)  # [n, 2, N, size]
    F_x, F_y = exponents.softmax(3).unbind(1)  # (25) (26), where Z makes rows sum to 1: a softmax never divides by 0
    return Grid(F_x, F_y, intensity, centre, stride)


def read_patch(pictures: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What the filters see: gamma F_y x F_x^T of every channel, (27). [n, c, size, size] -> [n, c, N, N]."""
    n, c, size, _ = pictures.shape
    rows = torch.bmm(grid.F_y, pictures.transpose(1, 2).reshape(n, size, c * size))  # [n, N, c * size]
    patch = torch.bmm(rows.view(n, -1, size), grid.F_x.mT) * grid.intensity.view(-1, 1, 1)  # [n, N * c, N]
    return patch.unflatten(1, (-1, c)).transpose(1, 2)


def write_patch(patch: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What the filters paint: F_y^T w F_x / gamma of every channel, (29). [n, c, N, N] -> [n, c, size, size]."""
    n, c, num_filters, _ = patch.shape
    patch = (patch / grid.intensity.view(-1, 1, 1, 1)).transpose(1, 2).reshape(n, num_filters, -1)  # [n, N, c * N]
    rows = torch.bmm(grid.F_y.mT, patch).view(n, -1, num_filters)  # [n, size * c, N]
    return torch.bmm(rows, grid.F_x).unflatten(1, (-1, c)).transpose(1, 2)


def attention(hidden: int, num_filters: int, size: int, args: Args, writes: bool) -> nn.Linear:
    """The five parameters of a grid as a linear function of the decoder's state, (21).

    Where they begin decides how long learning stands still. With biases at 0 the filters are a pixel wide and as far
    apart as the picture allows: four that read see the four corners, which are black in nearly every digit, so codes
    tell nothing; 25 that write reach a few pixels each. Here they begin in the middle of the picture, half as wide as
    their distance, so that they touch, and what is written is as bright as the patch.
    """
    layer = nn.Linear(hidden, 5)
    with torch.no_grad():
        layer.bias.zero_()
        if args.start_attention == "overlapping":
            share = 0.5 if num_filters == 2 else 0.75
            stride = share * (size - 1) / (num_filters - 1)
            layer.bias[2], layer.bias[3] = 2 * math.log(stride / 2), math.log(share)
            layer.bias[4] = -2 * math.log(stride) if writes else 0.0  # a stroke is spread over stride^2 pixels
    return layer


# --- the model -------------------------------------------------------------------------------


class State(NamedTuple):
    """What an LSTM remembers, and what its gradient will need."""

    h: torch.Tensor
    """[n, hidden]"""
    cell: torch.Tensor
    """[n, hidden]"""
    weight: torch.Tensor
    """the weights as the products take them: in bfloat16 under autocast, else as they are"""
    steps: list
    """one entry per step so far: what came in and, on the way back, the gradient of its gates"""


def tanh(x: torch.Tensor) -> torch.Tensor:
    """The hyperbolic tangent by way of the sigmoid, which PyTorch computes several times as fast on CPUs."""
    return (2 * x).sigmoid_().mul_(2).sub_(1)


class LSTMStep(torch.autograd.Function):
    """One step of a long short-term memory, its derivative by hand.

    Autograd would pass over the gates three times as often, and would add up T gradients of the weights; this adds up
    nothing: the weights get theirs by one product over all steps, when the last of them has been answered.
    """

    @staticmethod
    def forward(ctx, inputs, seen, cell, weight, bias, products, steps):
        """inputs [n, k], seen [n, 4h] or None, cell [n, h] -> state and cell [n, h]."""
        ctx.steps, ctx.step, hidden = steps, len(steps), cell.shape[1]
        inputs = inputs.detach().to(products.dtype)  # with its history it would keep the whole graph alive, in a circle
        steps.append([inputs, None])
        gates = F.linear(inputs, products).to(bias.dtype).add_(bias)
        if seen is not None:
            gates += seen
        opening, candidate = gates[:, : 3 * hidden].sigmoid(), tanh(gates[:, 3 * hidden :])
        keep, take, show = opening.chunk(3, 1)
        new = (keep * cell).addcmul_(take, candidate)
        shown = tanh(new)
        ctx.save_for_backward(opening, candidate, cell, shown, products)
        return show * shown, new

    @staticmethod
    def backward(ctx, d_h, d_cell):
        opening, candidate, cell, shown, products = ctx.saved_tensors
        keep, take, show = opening.chunk(3, 1)
        d_cell = d_cell + torch.ops.aten.tanh_backward(d_h * show, shown)
        d_opening = torch.cat([d_cell * cell, d_cell * candidate, d_h * shown], 1)
        d_opening = torch.ops.aten.sigmoid_backward(d_opening, opening)
        d_gates = torch.cat([d_opening, torch.ops.aten.tanh_backward(d_cell * take, candidate)], 1)
        answer = d_gates.to(products.dtype)
        ctx.steps[ctx.step][1] = answer
        d_weight = d_bias = None
        if all(answer is not None for _, answer in ctx.steps):
            inputs, answers = (torch.cat(parts) for parts in zip(*ctx.steps, strict=True))
            d_weight, d_bias = (answers.mT @ inputs).to(d_h.dtype), answers.sum(0, dtype=d_h.dtype)
        d_seen = d_gates if ctx.needs_input_grad[1] else None
        return (answer @ products).to(d_h.dtype), d_seen, d_cell * keep, d_weight, d_bias, None, None


class LSTM(nn.Module):
    """A long short-term memory, whose four gates are one product."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)

    def begin(self, n: int) -> State:
        weight = self.gates.weight
        zeros = weight.new_zeros(n, weight.shape[0] // 4)
        low = torch.is_autocast_enabled(weight.device.type)
        return State(zeros, zeros, weight.detach().bfloat16() if low else weight.detach(), [])

    def forward(self, inputs: list[torch.Tensor], before: State, seen: torch.Tensor | None = None) -> State:
        """Inputs [n, *]; `seen` [n, 4 hidden] is added to the gates."""
        inputs = torch.cat([*inputs, before.h], 1)
        if torch.compiler.is_compiling():  # the compiler finds the derivative, and fuses what LSTMStep is there to save
            gates = self.gates(inputs).float() + (0.0 if seen is None else seen)
            keep, take, show, candidate = gates.chunk(4, 1)
            cell = keep.sigmoid() * before.cell + take.sigmoid() * candidate.tanh()
            h = show.sigmoid() * cell.tanh()
        else:
            weights = self.gates.weight, self.gates.bias, before.weight, before.steps
            h, cell = LSTMStep.apply(inputs, seen, before.cell, *weights)
        return State(h, cell, before.weight, before.steps)


class Drawing(NamedTuple):
    """How pictures came about, step by step: lists of T."""

    canvases: list[torch.Tensor]
    """[n, c, size, size]: logits, or what becomes colours by the sigmoid"""
    kl: list[torch.Tensor]
    """[n]: nats that the step's code tells"""
    reads: list[Grid]
    """none without attention"""
    writes: list[Grid]


class DRAW(nn.Module):
    """Encoder and decoder, each an LSTM, that look at and add to a canvas T times."""

    def __init__(self, args: Args, mean: torch.Tensor):
        """`mean` [c, size, size] is the mean picture, from 0 to 1."""
        super().__init__()
        self.args, self.shape, hidden = args, mean.shape, args.hidden_size
        c, size, _ = mean.shape
        if args.attention:
            glimpse, stroke = 2 * c * args.read_size**2, c * args.write_size**2
            self.read_attention = attention(hidden, args.read_size, size, args, writes=False)
            self.write_attention = attention(hidden, args.write_size, size, args, writes=True)
        else:
            glimpse, stroke = mean.numel(), mean.numel()
            self.look = nn.Linear(glimpse, 4 * hidden, bias=False)
        self.encoder = LSTM(glimpse + hidden, hidden)
        self.posterior = nn.Linear(hidden, 2 * args.latent_dim)
        self.decoder = LSTM(args.latent_dim, hidden)
        self.stroke = nn.Linear(hidden, stroke)
        start = mean.clamp(0.001, 0.999).logit() if args.start_canvas == "mean" else torch.zeros_like(mean)
        self.canvas = nn.Parameter(start)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> Drawing:
        """Draw x [n, c, size, size] again, with codes from q(z|x) made of this noise [n, T, z]: new at every step."""
        args, n = self.args, len(x)
        canvas = self.canvas.expand(n, -1, -1, -1)
        enc, dec = self.encoder.begin(n), self.decoder.begin(n)
        seen = None if args.attention else self.look(x.flatten(1)).float()  # x stays: its part of (4) is needed once
        drawing = Drawing([], [], [], [])
        for step in range(args.num_steps):
            error = x - canvas.sigmoid()  # (3)
            if args.attention:
                with torch.autocast(x.device.type, enabled=False):  # many small products, which bfloat16 only slows
                    grid = filter_grid(self.read_attention(dec.h), args.read_size, self.shape[1])
                    glimpse = read_patch(torch.cat([x, error], 1), grid).flatten(1)  # (4) (27)
                drawing.reads.append(grid)
            else:
                glimpse = error.flatten(1)  # (4)
            enc = self.encoder([glimpse, dec.h], enc, seen)  # (5)
            mu, logsigma = self.posterior(enc.h).float().chunk(2, 1)  # (1) (2)
            z = mu + logsigma.exp() * noise[:, step]  # (6)
            drawing.kl.append(kl_divergence(mu, logsigma).sum(1))
            dec = self.decoder([z], dec)  # (7)
            canvas = self.write(canvas, dec.h, drawing)  # (8)
        return drawing

    def generate(self, z: torch.Tensor) -> Drawing:
        """Draw new pictures from codes z [n, T, z]: the decoder's half of the steps above."""
        canvas = self.canvas.expand(len(z), -1, -1, -1)
        dec = self.decoder.begin(len(z))
        drawing = Drawing([], [], [], [])
        for step in range(self.args.num_steps):
            dec = self.decoder([z[:, step]], dec)
            canvas = self.write(canvas, dec.h, drawing)
        return drawing

    def write(self, canvas: torch.Tensor, h_dec: torch.Tensor, drawing: Drawing) -> torch.Tensor:
        """The canvas with one more stroke, which is noted in the drawing, too."""
        stroke = self.stroke(h_dec).float()  # (28)
        if self.args.attention:
            num_filters, size = self.args.write_size, self.shape[1]
            with torch.autocast(stroke.device.type, enabled=False):
                grid = filter_grid(self.write_attention(h_dec), num_filters, size)
                stroke = write_patch(stroke.view(len(stroke), -1, num_filters, num_filters), grid)  # (29)
            drawing.writes.append(grid)
        canvas = canvas + stroke.reshape(canvas.shape)
        drawing.canvases.append(canvas)
        return canvas


# --- the bound -------------------------------------------------------------------------------


def kl_divergence(mu: torch.Tensor, logsigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in closed form, for each latent: the 1 is subtracted for EACH of them."""
    return 0.5 * (mu**2 + (2 * logsigma).exp() - 1) - logsigma


def reconstruction(x: torch.Tensor, canvas: torch.Tensor, args: Args) -> torch.Tensor:
    """-log p(x|z), SUMMED over pixels [n]; of colours without the constant of the Gaussian's density."""
    if x.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(canvas, x, reduction="none").flatten(1).sum(1)
    return ((x - canvas.sigmoid()) ** 2).flatten(1).sum(1) / (2 * args.noise_std**2)


def losses(model: DRAW, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Nats per picture: x [n, c, size, size], noise [n, T, z] -> bound, reconstruction and KL term [3, n].

    The KL divergences of all steps and latents are SUMMED: each step's code is drawn given those before it.
    """
    drawing = model(x, noise)
    recon, kl = reconstruction(x, drawing.canvases[-1], model.args), torch.stack(drawing.kl).sum(0)
    return torch.stack([recon + kl, recon, kl])


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

WEIGHTS, ORDER, NOISE, SCORES, PRIOR = range(5)
BINARIZE_STATIC, BINARIZE_TEST = range(2)  # of a stream of their own, the same for every --seed


def stream(seed: int, *key: int) -> int:
    """The seed of an independent generator for every key: one of the uses above, then what tells its turns apart."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).integers(2**63))


def generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream(seed, *key))


def bernoulli(pictures: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """uint8 -> each pixel 255 with probability pixel / 255, else 0, as uint8."""
    chosen = torch.rand(pictures.shape, generator=rng, device=pictures.device) < pictures / 255
    return chosen.byte() * 255


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


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Training pictures and test pictures [n, c, h, w] as uint8 on the device."""
    train, _, test, _ = load_pictures(args)
    train, test = train[: args.train_images or None].to(device), test.to(device)
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    if args.binarize == "static":
        train = bernoulli(train, generator(device, 0, BINARIZE_STATIC))
    if args.binarize != "none":
        test = bernoulli(test, generator(device, 0, BINARIZE_TEST))
    return train, test


def make_model(args: Args, train: torch.Tensor, device: torch.device) -> DRAW:
    mean = train.sum(0, dtype=torch.float64).div(255 * len(train)).float().cpu()
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        return DRAW(args, mean).to(device)


def draw_noise(args: Args, num_pictures: int, rng: torch.Generator) -> torch.Tensor:
    """Standard normal numbers [n, T, z]: every step has its own."""
    return torch.randn(num_pictures, args.num_steps, args.latent_dim, generator=rng, device=rng.device)


def update(model, optimizer, pictures: torch.Tensor, noise: torch.Tensor, args: Args, loss_function) -> torch.Tensor:
    """One update from this process's share of a batch, uint8 [n, c, h, w]. Returns the sums of losses' rows [3]."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16):
        terms = loss_function(model, pictures.float() / 255, noise)
    optimizer.zero_grad()
    (terms[0].sum() / args.batch_size).backward()
    sum_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
    optimizer.step()
    return terms.detach().sum(1)


@torch.no_grad()
def score(model: DRAW, pictures: torch.Tensor, args: Args) -> torch.Tensor:
    """Of every picture, uint8 [n, c, h, w]: loss, recon, kl, and the squared error of what mu leads to, [4, n]."""
    rng, found = generator(pictures.device, args.seed, SCORES), []
    for part in pictures.split(500):
        x = part.float() / 255
        terms, recon = losses(model, x, draw_noise(args, len(x), rng)), redraw(model, part).canvases[-1].sigmoid()
        found.append(torch.cat([terms, ((recon - x) ** 2).flatten(1).sum(1).unsqueeze(0)]))
    return torch.cat(found, 1)


@torch.no_grad()
def redraw(model: DRAW, pictures: torch.Tensor) -> Drawing:
    """Pictures, uint8 [n, c, h, w], drawn again with the mean codes."""
    noise = torch.zeros(len(pictures), model.args.num_steps, model.args.latent_dim, device=pictures.device)
    return model(pictures.float() / 255, noise)


# --- pictures of what it learned -------------------------------------------------------------

READ, WRITE = (213, 94, 0), (0, 158, 115)  # colours of the grids


def save_grid(run: Run, name: str, pictures: torch.Tensor, columns: int):
    """Pictures [n, c, h, w] from 0 to 1 in rows of so many, a grey line between them, each pixel two wide."""
    from PIL import Image

    framed = F.pad(pictures.clamp(0, 1), (0, 1, 0, 1), value=0.5)
    n, c, h, w = framed.shape
    rows = framed.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, c]
    array = (rows.reshape(n // columns * h, columns * w, c) * 255).round().byte().numpy(force=True)
    image = Image.fromarray(array.squeeze(2) if c == 1 else array)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


def first(pictures: torch.Tensor, num: int) -> torch.Tensor:
    """The first ones of uint8 [n, c, h, w], from the start again where there are fewer."""
    return pictures[torch.arange(num) % len(pictures)]


def tile(picture: torch.Tensor, grid: Grid | None, i: int, color: tuple[int, int, int]):
    """One picture [c, size, size] from 0 to 1, enlarged; on it the i-th grid: its frame, a dot for each filter."""
    from PIL import Image, ImageDraw

    scale = max(1, 84 // picture.shape[1])
    array = (picture.expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy(force=True)
    image = Image.fromarray(array).resize((array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST)
    if grid is not None:
        pen, steps = ImageDraw.Draw(image), np.arange(grid.F_x.shape[1]) - (grid.F_x.shape[1] - 1) / 2
        x, y = ((steps * grid.stride[i].item() + centre - 0.5) * scale for centre in grid.centre[i].tolist())
        pen.rectangle([x[0], y[0], x[-1], y[-1]], outline=color)
        for row in y:
            for column in x:
                pen.ellipse([column - 1.5, row - 1.5, column + 1.5, row + 1.5], fill=color)
    return image


def mosaic(rows: list[list]):
    """Tiles of one size in rows, grey between them."""
    from PIL import Image

    side = rows[0][0].width + 2
    image = Image.new("RGB", (side * len(rows[0]) + 2, side * len(rows) + 2), (128, 128, 128))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            image.paste(picture, (2 + x * side, 2 + y * side))
    return image


def save_drawing(run: Run, name: str, drawing: Drawing, originals: torch.Tensor | None = None):
    """NAME.png: a few pictures, step by step from left to right; NAME.gif: all 16, at one step after another.

    With originals [16, c, size, size], each stands above its canvas, and on it the grid that reads.
    """
    canvases, steps = [canvas.sigmoid() for canvas in drawing.canvases], len(drawing.canvases)

    def tiles(i: int, step: int, grids: bool = True) -> list:
        """The i-th picture: the original, if there is one, and the canvas."""
        read, write = (found[step] if grids and found else None for found in (drawing.reads, drawing.writes))
        canvas = tile(canvases[step][i], write, i, WRITE)
        return [canvas] if originals is None else [tile(originals[i], read, i, READ), canvas]

    def lines(stacks: list[list]) -> list[list]:
        return [list(line) for line in zip(*stacks, strict=True)]

    def frame(step: int, grids: bool = True):
        return mosaic([line for k in (0, 8) for line in lines([tiles(i, step, grids) for i in range(k, k + 8)])])

    shown = np.linspace(0, steps - 1, min(steps, 10)).round().astype(int).tolist()
    few = range(8 if originals is None else 4)
    stills = mosaic([line for i in few for line in lines([tiles(i, step) for step in shown])])
    stills.save(run.dir / f"{name}.png")
    frames, durations = [frame(step) for step in range(steps)], [max(60, 3000 // steps)] * steps
    frames.append(frame(steps - 1, grids=False))
    options = {"save_all": True, "append_images": frames[1:], "duration": [*durations, 2000], "loop": 0}
    frames[0].save(run.dir / f"{name}.gif", **options)
    for suffix in ("png", "gif"):
        run.picture(run.dir / f"{name}.{suffix}")


@torch.no_grad()
def draw_while_learning(run: Run, model: DRAW, test: torch.Tensor, args: Args):
    """samples.png, 8 rows of 8, and reconstructions.png: originals above what their mean codes are drawn to."""
    z = draw_noise(args, 64, generator(test.device, args.seed, PRIOR))
    save_grid(run, "samples", model.generate(z).canvases[-1].sigmoid(), 8)
    originals = first(test, 20)
    pairs = [originals.float() / 255, redraw(model, originals).canvases[-1].sigmoid()]  # two of [20, c, h, w]
    lines = torch.stack(pairs).unflatten(1, (2, 10)).transpose(0, 1)  # [2, originals or not, 10, c, h, w]
    save_grid(run, "reconstructions", lines.flatten(0, 2), 10)


def patches(grids: list[Grid]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of T grids on n pictures: the patch's width [T, n], from the first filter to the last, and centre [T, n, 2]."""
    widths = [(grid.F_x.shape[1] - 1) * grid.stride for grid in grids]
    return torch.stack(widths), torch.stack([grid.centre for grid in grids])


@torch.no_grad()
def draw_steps(run: Run, model: DRAW, test: torch.Tensor, args: Args):
    """How the trained model draws: drawing.png and .gif, prior.png and .gif, steps.png."""
    from matplotlib.figure import Figure

    originals = first(test, 16)
    save_drawing(run, "drawing", redraw(model, originals), originals.float() / 255)
    save_drawing(run, "prior", model.generate(draw_noise(args, 16, generator(test.device, args.seed, PRIOR))))

    x = test[:500].float() / 255
    drawing = model(x, draw_noise(args, len(x), generator(test.device, args.seed, SCORES)))
    panels = Figure(figsize=(13, 4), layout="constrained").subplots(1, 3)
    steps = np.arange(1, args.num_steps + 1)

    def band(axes, values: torch.Tensor, label: str | None, **style):
        """Mean over pictures, and one standard deviation to each side: values [T, n]."""
        mean, std = values.mean(1).numpy(force=True), values.std(1).numpy(force=True)
        axes.fill_between(steps, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(steps, mean, label=label, **style)

    for name, grids, color in (("read", drawing.reads, "#D55E00"), ("written", drawing.writes, "#009E73")):
        if grids:
            widths, centres = patches(grids)
            band(panels[0], widths, name, color=color)
            band(panels[1], centres[:, :, 0], f"{name}, x", color=color)
            band(panels[1], centres[:, :, 1], f"{name}, y", color=color, linestyle="--")
    band(panels[2], torch.stack(drawing.kl), "KL divergence", color="#0072B2")
    for axes, label in zip(panels, ("patch's width (pixels)", "patch's centre (pixels)", "nats"), strict=True):
        axes.set(xlabel="step", ylabel=label)
        if axes.has_data():
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "no attention", transform=axes.transAxes, ha="center")
    panels[1].set_title(f"{run.name}: mean and standard deviation over {len(x)} test pictures", fontsize=10)
    panels[0].figure.savefig(run.dir / "steps.png", dpi=120)
    run.picture(run.dir / "steps.png")


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        pictures, test = load_data(args, device)
        return learn(args, checkpoint, make_model(args, pictures, device), pictures, test)


def learn(args: Args, checkpoint: dict | None, model: DRAW, pictures: torch.Tensor, test: torch.Tensor) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics, pictures, a checkpoint."""
    device, row = pictures.device, {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    loss_function = torch.compile(losses) if args.compile else losses
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
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
            rng, sums = generator(device, args.seed, NOISE, row_number), torch.zeros(3, device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                batch = pictures.index_select(0, order.batch(step))
                if args.binarize == "dynamic":
                    batch = bernoulli(batch, rng)
                noise = draw_noise(args, len(batch), rng)
                if args.anneal_lr:
                    optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - step / total_steps)
                sums += update(model, optimizer, batch[share], noise[share], args, loss_function)
                step += 1
            loss, recon, kl = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            scored = test if finished else test[: args.test_images or None]
            scores = score(model, scored, args)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/loss": loss,
                "losses/recon": recon,
                "losses/kl": kl,
                "eval/loss": scores[0].mean().item(),
                "eval/recon": scores[1].mean().item(),
                "eval/kl": scores[2].mean().item(),
                "eval/squared_error": scores[3].mean().item(),
                **patch_columns(model, test),
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            draw_while_learning(run, model, test, args)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(loss=f"{row['eval/loss']:.2f}")

        if run:
            run.plot("eval/loss")
            draw_steps(run, model, test, args)
            speed = row["charts/SPS"] / args.batch_size
            result = f"test loss {row['eval/loss']:.2f} (KL {row['eval/kl']:.2f}), squared error"
            print(
                f"{result} {row['eval/squared_error']:.2f} per picture after {row['charts/epoch']:g} epochs at "
                f"{speed:.1f} updates/s: {run.dir}"
            )
    return row


def patch_columns(model: DRAW, test: torch.Tensor) -> dict:
    """What metrics.csv says of the patches on 100 test pictures: widths at the first and the last step, and how much
    the place depends on the picture, the standard deviation over pictures of the centre, mean over steps. In pixels."""
    drawing, columns = redraw(model, test[:100]), {}
    for name, grids in (("read", drawing.reads), ("write", drawing.writes)):
        found = [None] * 3
        if grids:
            widths, centres = patches(grids)
            found = [widths[0].mean().item(), widths[-1].mean().item(), centres.std(1).mean().item()]
        for column, value in zip(("first_width", "last_width", "centre_spread"), found, strict=True):
            columns[f"eval/{name}_{column}"] = value
    return columns


def evaluate(folder: Path) -> tuple[float, float]:
    """Bound of every test picture under the model of a run: mean and standard error, in nats."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        pictures, test = load_data(args, device)
        model = make_model(args, pictures, device)
        try:
            model.load_state_dict(checkpoint["model"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        scores = score(model, test, args).double()
    mean, error = scores[0].mean().item(), scores[0].std().item() / len(test) ** 0.5
    what = f"-log p(x) <= {mean:.2f} +- {error:.2f} nats" if test.shape[1] == 1 else f"loss {mean:.2f} +- {error:.2f}"
    print(
        f"{what} ({len(test):,} test pictures, binarized: {args.binarize}), squared error "
        f"{scores[3].mean().item():.2f}, after {checkpoint['step']:,} updates"
    )
    return mean, error


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
