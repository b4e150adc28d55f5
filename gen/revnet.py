# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "scikit-learn>=1.4",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""Reversible residual network: a classifier that forgets its activations, and computes them again going backwards.

    python gen/revnet.py
    python gen/revnet.py --dataset cifar10 --augment --batch-size 100 --epochs 160
    python gen/revnet.py --dataset cifar10 --augment --batch-size 100 --epochs 160 --store-activations

A residual network keeps what every layer computed until the backward pass has used it, so memory grows with depth.
Here the channels are split into two halves that change in turns, each by a function of the other:

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

Whatever F and G are, the right side undoes the left one. Going backwards, a block's input is computed from its output,
so that only the last output has to be kept, however many blocks there are. The price is one more forward pass: 4/3 of
the time if a backward pass takes twice a forward one. Blocks that halve the picture cannot be undone: their input is
kept (the output of the block before), and nothing else.

Expect, from the default on scikit-learn's digits, 92 % of the unseen ones named right after 42 CPU seconds (one seed).
At depth 38 it keeps 0.53 MB for each picture of CIFAR-10, the network with stored activations 3.1 MB. The 160 epochs
are for a GPU, and have not been run.

A run leaves curve.png (accuracy on unseen pictures), memory.png (bytes kept for the backward pass over depth, with
and without stored activations), inversion.png (what the first stage makes of pictures, and what is computed back).

Papers
    Gomez, Ren, Urtasun & Grosse 2017, "The reversible residual network: backpropagation without storing activations"
    (arXiv 1707.04585). Sizes and recipe are those of the authors' code (renmengye/revnet-public, cifar_configs.py):
    RevNet-38 is the default; --depth 110 --filters 32 32 64 128 is RevNet-110, with --bottleneck --depth 164 it is
    RevNet-164. 80,000 updates of 100 pictures are 160 epochs of CIFAR-10.
    Ba, CSC413/2516, lecture 10: the blocks, step by step from residual ones.

Differences from the paper and its code
    1. Inputs are recomputed and differentiated in one pass; the authors' code recomputes, then passes once more.
    2. Pictures are standardized by channel; running averages of batch statistics move by 0.1 an update, as PyTorch's
       do; weights begin normal, not truncated.
    3. An epoch's last pictures and the next one's first may share a batch, so that every batch is full.
"""

import csv
import gzip
import hashlib
import json
import math
import os
import pickle
import shutil
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
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds weights, order and augmentation; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 0
    """threads on the CPU, 0 for one per core. They decide a curve's last bits"""
    cuda: bool = True
    """train on a GPU if there is one"""
    compile: bool = False
    """compile F and G with torch.compile: needs a C++ compiler, takes a while to begin"""
    bf16: bool = False
    """train in bfloat16 where autocast finds it safe; the sums and evaluation stay in float32. For GPUs and for
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
    """accuracy of the network in this folder on all test pictures: no other flag may stand beside"""

    dataset: Literal["digits", "mnist", "cifar10"] = "digits"
    """pictures and what they show: digits come with scikit-learn, mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""
    augment: bool = False
    """shift pictures by up to 4 pixels and mirror half of them: for photographs, not for digits"""

    epochs: float = 3.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 50
    """pictures per update, over all processes"""
    learning_rate: float = 0.1
    """step size; a tenth of it from half of --epochs on, a hundredth from three quarters on"""
    momentum: float = 0.9
    """of stochastic gradient descent"""
    weight_decay: float = 2e-4
    """pulls the weights of convolutions and of the last layer to 0"""
    depth: int = 38
    """layers: 2 + 4 per block (6 with --bottleneck), as many blocks in each stage"""
    blocks: tuple[int, ...] | None = None
    """blocks of each stage, where --depth does not say it"""
    filters: tuple[int, ...] = (32, 32, 64, 112)
    """channels of the first convolution and of each stage, four times as many there with --bottleneck"""
    bottleneck: bool = False
    """F and G have three convolutions, the middle one with a quarter of the channels"""
    store_activations: bool = False
    """the same network with PyTorch's own backward pass, to compare"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    eval_images: int = 0
    """test pictures that every row is scored on, 0 for all; --evaluate takes all"""

    def __post_init__(self):
        self.filters, self.data_dir = tuple(self.filters), Path(self.data_dir)  # args.json holds lists and text
        for name in ["batch_size", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "eval_images"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise UsageError("--momentum must lie in [0, 1), --weight-decay must not be negative")
        fewer = any(after < before for before, after in pairwise(self.filters))
        if len(self.filters) < 2 or any(n < 2 or n % 2 for n in self.filters) or fewer:
            raise UsageError("--filters must be two even numbers or more, none smaller than the one before")
        stages, layers = len(self.filters) - 1, 6 if self.bottleneck else 4
        if self.blocks is None:
            blocks, rest = divmod(self.depth - 2, stages * layers)
            if blocks < 1 or rest:
                raise UsageError(f"--depth must be 2 + {stages * layers} times the blocks of a stage, or set --blocks")
            self.blocks = (blocks,) * stages
        self.blocks = tuple(self.blocks)
        if len(self.blocks) != stages or min(self.blocks) < 1:
            raise UsageError(f"--blocks: a positive number for each of {stages} stages")
        self.depth = 2 + layers * sum(self.blocks)


# --- the network -----------------------------------------------------------------------------


class SumOverProcesses(torch.autograd.Function):
    """The sum over all processes of a tensor, whose gradient is the sum over all of them, too."""

    @staticmethod
    def forward(ctx, x):
        return sum_over_processes(x.clone())

    @staticmethod
    def backward(ctx, grad):
        return sum_over_processes(grad.clone())


class BatchNorm(nn.Module):
    """Batch normalization whose running averages move only when they are told to."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor, update_averages: bool) -> torch.Tensor:
        """x [n, c, h, w], normalized by its own statistics in training, else by the running averages."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        if num_processes() == 1:
            averages = (self.running_mean, self.running_var) if update_averages else (None, None)
            return F.batch_norm(x, *averages, self.weight, self.bias, training=True, momentum=0.1)
        x = x.to(self.weight.dtype)  # the same over the pictures of all processes, without bfloat16's rounding
        count = sum_over_processes(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = SumOverProcesses.apply(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        var = SumOverProcesses.apply((centred**2).sum((0, 2, 3))) / count
        if update_averages:
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var * count / (count - 1), 0.1)
        scale = self.weight * (var + 1e-5).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Residual(nn.Module):
    """F or G: batch normalization, ReLU and a convolution, two or three times."""

    def __init__(self, before: int, after: int, stride: int, bottleneck: bool, activated: bool):
        """`activated`: what comes in is normalized and rectified already."""
        super().__init__()
        kernels = [1, 3, 1] if bottleneck else [3, 3]
        sizes = [before, after // 4, after // 4, after] if bottleneck else [before, after, after]
        strides = [stride, 1, 1]
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        for i, kernel in enumerate(kernels):
            if i > 0 or not activated:
                self.norms.append(BatchNorm(sizes[i]))
            self.convs.append(nn.Conv2d(sizes[i], sizes[i + 1], kernel, strides[i], kernel // 2, bias=False))

    def forward(self, x: torch.Tensor, update_averages: bool) -> torch.Tensor:
        """x [n, before, h, w] -> [n, after, h / stride, w / stride]."""
        skipped = len(self.convs) - len(self.norms)
        for i, conv in enumerate(self.convs):
            if i >= skipped:
                x = F.relu(self.norms[i - skipped](x, update_averages))
            x = conv(x)
        return x


class Shortcut(nn.Module):
    """What a block that changes the shape adds to: the mean of each 2x2 square, zeros for the channels that are new."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.new, self.stride = after - before, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))


class Block(nn.Module):
    """A reversible block, or, where it halves the picture or widens it, its counterpart that is none."""

    def __init__(self, before: int, after: int, stride: int, bottleneck: bool, activated: bool = False):
        """Channels are those of each half."""
        super().__init__()
        self.f = Residual(before, after, stride, bottleneck, activated)
        self.g = Residual(after, after, 1, bottleneck, False)
        self.reversible = stride == 1 and before == after
        if self.reversible:
            self.shortcuts = nn.ModuleList([nn.Identity(), nn.Identity()])
        elif bottleneck:
            self.shortcuts = nn.ModuleList(nn.Conv2d(before, after, 1, stride, bias=False) for _ in range(2))
        else:
            self.shortcuts = nn.ModuleList(Shortcut(before, after, stride) for _ in range(2))

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, update_averages: bool = False) -> tuple[torch.Tensor, ...]:
        """Both halves [n, before, h, w] -> [n, after, h / stride, w / stride]."""
        y1 = self.shortcuts[0](x1) + self.f(x2, update_averages)
        return y1, self.shortcuts[1](x2) + self.g(y1, update_averages)

    def inverse(self, y1: torch.Tensor, y2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x2 = y2 - self.g(y1, False)
        return y1 - self.f(x2, False), x2


def backward_reversible(block: Block, y: tuple, dy: tuple) -> tuple[tuple, tuple, list]:
    """From a block's output and its gradient: its input, the gradient of that, and those of its parameters.

    Only here do its activations exist, and they are gone when it returns.
    """
    (y1, y2), (dy1, dy2) = y, dy
    with torch.enable_grad():
        y1 = y1.detach().requires_grad_()
        g = block.g(y1, False)  # the forward pass has moved the running averages already
    dg = torch.autograd.grad(g, [y1, *block.g.parameters()], dy2.to(g.dtype))
    dy1 = dy1 + dg[0]  # y1 counts in itself, and by way of y2
    with torch.enable_grad():
        x2 = (y2 - g).detach().requires_grad_()
        f = block.f(x2, False)
    df = torch.autograd.grad(f, [x2, *block.f.parameters()], dy1.to(f.dtype))
    return ((y1 - f).detach(), x2.detach()), (dy1, dy2 + df[0]), [*df[1:], *dg[1:]]


def backward_stored(block: Block, x: tuple, dy: tuple) -> tuple[tuple, list]:
    """For a block that cannot be undone, from its input: the gradients of that and of its parameters."""
    with torch.enable_grad():
        x = [half.detach().requires_grad_() for half in x]
        y = block(*x, False)
    grads = torch.autograd.grad(y, [*x, *block.parameters()], dy)
    return grads[:2], list(grads[2:])


class WithoutActivations(torch.autograd.Function):
    """A stage that keeps its last output for the backward pass, and its input if the first block cannot be undone."""

    @staticmethod
    def forward(ctx, stage, update_averages: bool, x: torch.Tensor, *parameters):
        y = stage.run(x, update_averages)  # PyTorch records nothing within this function
        ctx.stage = stage
        ctx.save_for_backward(y, None if stage.blocks[0].reversible else x)
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return y

    @staticmethod
    def backward(ctx, dy):
        y, x = ctx.saved_tensors
        y, dy, grads = y.chunk(2, 1), dy.chunk(2, 1), []
        with torch.autocast(*ctx.autocast):
            for block in reversed(ctx.stage.blocks):
                if block.reversible:
                    y, dy, of_block = backward_reversible(block, y, dy)
                else:
                    dy, of_block = backward_stored(block, x.chunk(2, 1), dy)
                grads = of_block + grads  # in the order of stage.parameters()
        return None, None, torch.cat(dy, 1), *grads


class Stage(nn.Module):
    """Blocks on pictures of one size; only the first one may change the size or the channels."""

    def __init__(self, blocks: list[Block], store_activations: bool):
        super().__init__()
        self.blocks, self.store_activations = nn.ModuleList(blocks), store_activations

    def run(self, x: torch.Tensor, update_averages: bool) -> torch.Tensor:
        halves = x.chunk(2, 1)
        for block in self.blocks:
            halves = block(*halves, update_averages)
        return torch.cat(halves, 1)

    def forward(self, x: torch.Tensor, update_averages: bool) -> torch.Tensor:
        """x [n, c, h, w] -> [n, channels of the stage, h / stride, w / stride]."""
        if self.store_activations:
            return self.run(x, update_averages)
        return WithoutActivations.apply(self, update_averages, x, *self.parameters())


class RevNet(nn.Module):
    """A convolution, the stages, and a linear layer on the means of the last channels."""

    def __init__(self, args: Args, mean: torch.Tensor, std: torch.Tensor, num_classes: int = 10):
        """mean and std [c] of the pictures' channels."""
        super().__init__()
        wide, channels = args.filters[0], [args.filters[0]]
        channels += [n * 4 if args.bottleneck else n for n in args.filters[1:]]
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.conv, self.norm = nn.Conv2d(len(mean), wide, 3, padding=1, bias=False), BatchNorm(wide)
        stages = []
        for i, (before, after) in enumerate(pairwise(channels)):
            first = Block(before // 2, after // 2, 1 if i == 0 else 2, args.bottleneck, activated=i == 0)
            others = [Block(after // 2, after // 2, 1, args.bottleneck) for _ in range(args.blocks[i] - 1)]
            stages.append(Stage([first, *others], args.store_activations))
        self.stages = nn.ModuleList(stages)
        self.last_norm, self.head = BatchNorm(channels[-1]), nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_uniform_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def stem(self, pictures: torch.Tensor, update_averages: bool = False) -> torch.Tensor:
        """uint8 [n, c, h, w] -> what the first stage takes [n, filters, h, w], in float32 whatever autocast does."""
        x = (pictures.to(self.mean.dtype) / 255 - self.mean) / self.std
        return F.relu(self.norm(self.conv(x), update_averages)).to(self.mean.dtype)

    def forward(self, pictures: torch.Tensor, update_averages: bool = False) -> torch.Tensor:
        """uint8 [n, c, h, w] -> logits [n, classes]."""
        x = self.stem(pictures, update_averages)
        for stage in self.stages:
            x = stage(x, update_averages)
        return self.head(F.relu(self.last_norm(x, update_averages)).mean((2, 3))).to(self.mean.dtype)


# --- what it keeps, and how well it comes back -----------------------------------------------


def kept_for_backward(model: RevNet, pictures: torch.Tensor) -> int:
    """Bytes that a forward pass leaves for the backward pass, parameters not counted: uint8 [n, c, h, w].

    On the CPU every tensor that autograd saves, each memory once; on CUDA what the allocator holds at most, backward
    pass included, less what it held before.
    """
    if pictures.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(model(pictures).sum(), list(model.parameters()))
        return torch.cuda.max_memory_allocated() - before
    kept, parameters = {}, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(pictures)  # alive until all is counted: no memory is freed and used again meanwhile
    total = sum(kept.values())
    del logits
    return total


@torch.no_grad()
def there_and_back(stage: Stage, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the reversible blocks of a stage get, what they make of it, and what is computed back: [n, c, h, w] each."""
    start, blocks = x.chunk(2, 1), list(stage.blocks)
    if not blocks[0].reversible:
        start = blocks.pop(0)(*start)
    end = start
    for block in blocks:
        end = block(*end)
    back = end
    for block in reversed(blocks):
        back = block.inverse(*back)
    return torch.cat(start, 1), torch.cat(end, 1), torch.cat(back, 1)


@torch.no_grad()
def inversion_error(model: RevNet, pictures: torch.Tensor) -> float:
    """The largest difference between what a stage's reversible blocks got and what is computed back."""
    x, errors = model.stem(pictures), []
    for stage in model.stages:
        start, _, back = there_and_back(stage, x)
        errors.append((start - back).abs().max())
        x = stage.run(x, False)
    return torch.stack(errors).max().item()


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

WEIGHTS, ORDER, AUGMENT = range(3)


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
    """The step size after this share of the run."""
    return args.learning_rate * (1 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)


def augmented(pictures: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """uint8 [n, c, h, w] -> the same ones shifted by -4 to 4 pixels on black, every other one mirrored, at random."""
    n, _, h, w = pictures.shape
    shifts = torch.randint(9, (2, n, 1), generator=rng, device=pictures.device)
    mirrored = torch.rand(n, 1, generator=rng, device=pictures.device) < 0.5
    columns = torch.arange(w, device=pictures.device).expand(n, w)
    columns = torch.where(mirrored, columns.flip(1), columns) + shifts[1]  # [n, w]
    rows = torch.arange(h, device=pictures.device) + shifts[0]  # [n, h]
    which = torch.arange(n, device=pictures.device).view(n, 1, 1)
    shifted = F.pad(pictures, (4, 4, 4, 4))[which, :, rows.unsqueeze(2), columns.unsqueeze(1)]  # [n, h, w, c]
    return shifted.permute(0, 3, 1, 2)


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Pictures uint8 [n, c, h, w] and labels [n] to train on, then those to test on, all on the device."""
    if args.dataset == "cifar10":
        pictures, labels, test, test_labels = load_cifar10(args.data_dir)
    else:
        pictures, labels, test, test_labels = load_mnist(args.data_dir) if args.dataset == "mnist" else load_digits_28()
        pictures, test = pictures.unsqueeze(1), test.unsqueeze(1)
    pictures, labels = pictures[: args.train_images or None], labels[: args.train_images or None]
    if args.batch_size > len(pictures):
        raise UsageError(f"--batch-size: at most {len(pictures)}, as many as there are pictures to train on")
    halvings = len(args.blocks) - 1
    if pictures.shape[2] % 2**halvings:
        raise UsageError(f"--filters: pictures of {pictures.shape[2]} pixels cannot be halved {halvings} times")
    return tuple(x.to(device) for x in (pictures, labels.long(), test, test_labels.long()))


def make_model(args: Args, pictures: torch.Tensor, device: torch.device) -> RevNet:
    values = pictures.to(torch.float32).transpose(0, 1).flatten(1).div_(255).cpu()
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        model = RevNet(args, values.mean(1), values.std(1)).to(device)
    if args.compile:
        for module in model.modules():
            if isinstance(module, Residual):
                module.compile(dynamic=False)
    return model


def enough_graphs(args: Args):
    """Lets torch.compile keep more than 8 graphs of F and G: one a shape, in training, recomputing and evaluating."""
    return torch._dynamo.config.patch(cache_size_limit=64) if args.compile else nullcontext()


def make_optimizer(model: RevNet, args: Args) -> torch.optim.Optimizer:
    """Stochastic gradient descent that pulls weights to 0, but no bias and no batch normalization."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=args.learning_rate, momentum=args.momentum)


def update(model: RevNet, optimizer, pictures: torch.Tensor, labels: torch.Tensor, args: Args) -> torch.Tensor:
    """One update from this process's share of a batch, uint8 [n, c, h, w]. Returns sums [2]: losses, right answers."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16):
        logits = model(pictures, update_averages=True)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    optimizer.zero_grad()
    (loss / args.batch_size).backward()
    sum_gradients(model)
    optimizer.step()
    return torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])


@torch.no_grad()
def score(model: RevNet, pictures: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Loss and share of right answers on pictures, uint8 [n, c, h, w], with running averages."""
    model.eval()
    sums = torch.zeros(2, device=pictures.device)
    for part, answers in zip(pictures.split(500), labels.split(500), strict=True):
        logits = model(part)
        sums[0] += F.cross_entropy(logits, answers, reduction="sum")
        sums[1] += (logits.argmax(1) == answers).sum()
    loss, accuracy = (sums / len(pictures)).tolist()
    return loss, accuracy


# --- pictures of what it does ----------------------------------------------------------------


@torch.no_grad()
def draw_inversion(run: Run, model: RevNet, pictures: torch.Tensor):
    """inversion.png: pictures; means over channels before the first stage, after it, and computed back; errors."""
    from matplotlib.figure import Figure

    model.eval()
    pictures = pictures[torch.arange(8) % len(pictures)]
    start, end, back = (x.float().cpu() for x in there_and_back(model.stages[0], model.stem(pictures)))
    error = (start - back).abs().amax(1)
    rows = {
        "picture": pictures.permute(0, 2, 3, 1).cpu(),
        "into the stage": start.mean(1),
        "out of it": end.mean(1),
        "computed back": back.mean(1),
        f"error\n(at most {error.max().item():.0e})": error,
    }
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(len(rows), 8)
    for line, (words, images) in zip(axes, rows.items(), strict=True):
        for cell, image in zip(line, images, strict=True):
            cell.imshow(image.numpy(), cmap="gray" if words == "picture" else "viridis")
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(words)
    figure.suptitle(
        f"{len(model.stages[0].blocks)} blocks undone: one of {start.shape[1]} channels' means, each scaled"
    )
    figure.savefig(run.dir / "inversion.png", dpi=100)
    run.picture(run.dir / "inversion.png")


def draw_memory(run: Run, args: Args, picture: torch.Tensor):
    """memory.png: bytes kept for the backward pass of one picture [1, c, h, w], over the number of blocks."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    sizes = [1, 2, 4, 8, 16]
    for store in (True, False):
        kept = []
        for size in sizes:
            other = replace(args, blocks=(size,) * len(args.blocks), store_activations=store, compile=False)
            kept.append(kept_for_backward(make_model(other, picture, picture.device), picture) / 1e6)
        blocks = [size * len(args.blocks) for size in sizes]
        axes.plot(blocks, kept, "o-", label="activations stored" if store else "activations computed back")
    axes.set(xlabel="blocks", ylabel="MB a picture, kept for the backward pass", ylim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.figure.savefig(run.dir / "memory.png", dpi=120)
    run.picture(run.dir / "memory.png")


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device, enough_graphs(args):
        data = load_data(args, device)
        return learn(args, checkpoint, make_model(args, data[0], device), *data)


def learn(args: Args, checkpoint: dict | None, model: RevNet, pictures, labels, test, test_labels) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics and a checkpoint."""
    device, row = pictures.device, {}
    optimizer = make_optimizer(model, args)
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    scored, scored_labels = test[: args.eval_images or None], test_labels[: args.eval_images or None]
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
        model.train()
        kept = kept_for_backward(model, pictures[: args.batch_size][share]) / (share.stop - share.start)
        while step < total_steps:
            start, first_step = time.perf_counter(), step
            # Every process draws the noise of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, sums = generator(device, args.seed, AUGMENT, row_number), torch.zeros(2, device=device)
            row_number += 1
            model.train()
            while step < min(total_steps, math.ceil(row_number * per_row)):
                indices = order.batch(step)
                batch = pictures.index_select(0, indices)
                if args.augment:
                    batch = augmented(batch, rng)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(args, step / total_steps)
                sums += update(model, optimizer, batch[share], labels[indices[share]], args)
                step += 1
            loss, accuracy = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            eval_loss, eval_accuracy = score(model, scored, scored_labels)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/loss": loss,
                "losses/accuracy": accuracy,
                "eval/loss": eval_loss,
                "eval/accuracy": eval_accuracy,
                "eval/inversion_error": inversion_error(model, test[:100]),
                "charts/kept_mb": kept / 1e6,
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(accuracy=f"{eval_accuracy:.3f}")

        if run:
            run.plot("eval/accuracy")
            draw_inversion(run, model, test)
            draw_memory(run, args, test[:1])
            print(
                f"test accuracy {row['eval/accuracy']:.2%} after {row['charts/epoch']:g} epochs at "
                f"{row['charts/SPS']:,.0f} pictures/s, {row['charts/kept_mb']:.2f} MB a picture kept for the backward "
                f"pass of {args.depth} layers: {run.dir}"
            )
    return row


def evaluate(folder: Path) -> float:
    """Share of all test pictures that the network of a run names right."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device, enough_graphs(args):
        pictures, _, test, test_labels = load_data(args, device)
        model = make_model(args, pictures, device)
        try:
            model.load_state_dict(checkpoint["model"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        loss, accuracy = score(model, test, test_labels)
    updates = checkpoint["step"]
    print(f"test accuracy {accuracy:.2%}, loss {loss:.4f} ({len(test):,} pictures), after {updates:,} updates")
    return accuracy


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
