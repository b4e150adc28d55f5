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
"""Deconvnet: what does a feature of a convolutional network look for? Send it back to the pixels that made it.

    python gen/deconvnet.py
    python gen/deconvnet.py --dataset cifar10 --batch-size 100 --epochs 5
    python gen/deconvnet.py --dataset emoji --size 64 --unpool copy

A picture passes two layers, each a convolution, a rectification and 2x2 pooling, and a classifier learns to name it.
Then all features but one are set to zero, and what is left goes the same way backwards: each pooled number back into
its square, rectified again, and through the same filters transposed. What arrives are the pixels that the feature saw.

Pooling forgets which of four cells was the greatest. Zeiler & Fergus record it, and put the number back there
(--unpool switches); the post that this file follows fills the whole square (--unpool copy).

Expect, from the default on scikit-learn's digits, 93.6 % of the unseen ones named right after 25 CPU seconds; on MNIST,
with --epochs 1 --batch-size 100, 98.9 % (three seeds); on CIFAR-10, as above, 74.4 % (one seed).

A run leaves, for both layers: features1.png and features2.png (one picture, then all features of it), one1.png and
one2.png (one feature: pictures, and what it sees in them), strongest1.png and strongest2.png (each feature's three
strongest activations in unseen pictures, each beside its picture); unpooling.png (a picture, and features with the
switches and, below, without); curve.png.

Papers
    Zeiler & Fergus 2013, "Visualizing and understanding convolutional networks" (arXiv 1311.2901): unpooling by
    switches, rectification, transposed filters; each feature's strongest activations.
    Kevin Frans 2016, "Visualizing features from a convolutional network" (the post): the network, its figures, and its
    wishes: features that are correlated little (eval/correlation, the mean of |r| over all pairs of features, over
    pictures and places), and larger pictures (--size). That the picture is easy to see in the first layer's features
    and hard in the second's is eval/likeness, the mean of |r| between a feature's pixels and the picture's.

Differences from the post and its code
    1. Steps from 1e-3 to 0, not of 1e-4; weights begin as PyTorch's do; pictures are standardized by channel.
    2. Its code trains on CIFAR-10's first 10,000 pictures and validates on 50 of those; here unseen ones are scored.
    3. Where pictures have no labels (emoji, folder) the network learns to tell by how many quarters they were turned.
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
    """seeds weights, order and dropout; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 0
    """threads on the CPU, 0 for one per core. They decide a curve's last bits"""
    cuda: bool = True
    """train on a GPU if there is one"""
    compile: bool = False
    """compile the network with torch.compile: needs a C++ compiler, takes a while to begin"""
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
    """accuracy of the network in this folder on all test pictures: no other flag may stand beside"""

    dataset: Literal["digits", "photos", "emoji", "mnist", "cifar10", "folder"] = "digits"
    """pictures: digits and photos come with scikit-learn, emoji from a font, mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    size: int = 0
    """side of the pictures, in pixels, a multiple of 4; 0 takes them as they are, photos, emoji and folders at 32"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""

    epochs: float = 8.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 50
    """pictures per update, over all processes"""
    learning_rate: float = 1e-3
    """Adam's step size"""
    anneal_lr: bool = True
    """let it fall to 0 in a straight line"""
    channels: tuple[int, int] = (32, 64)
    """features of the two layers"""
    hidden: int = 1024
    """units between the second layer and the classes"""
    dropout: float = 0.5
    """share of these units that is set to 0 in an update"""
    unpool: Literal["switches", "copy"] = "switches"
    """on the way back: each number into the cell it came from, or into all four of its square"""
    picture: int = 0
    """which test picture all features are shown of, counted from 0"""
    feature: tuple[int, int] = (0, 0)
    """the feature of each layer that is shown over many pictures, counted from 1; 0: the one they differ in most"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""

    def __post_init__(self):
        self.channels, self.feature = tuple(self.channels), tuple(self.feature)  # args.json holds lists
        self.data_dir = Path(self.data_dir)  # and paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        for name in ["batch_size", "hidden", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "size", "picture"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.dropout < 1:
            raise UsageError("--dropout must lie in [0, 1)")
        if min(self.channels) < 2:
            raise UsageError("--channels must be at least 2")
        if any(not 0 <= k <= n for k, n in zip(self.feature, self.channels, strict=True)):
            raise UsageError(f"--feature: 1 to {self.channels[0]} and 1 to {self.channels[1]}, or 0")
        if self.size % 4:
            raise UsageError("--size must be a multiple of 4: two layers halve it")
        if self.dataset == "photos" and self.size > 80:
            raise UsageError("--size: squares of --dataset photos are at most 80 pixels wide")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")

    @property
    def image_size(self) -> int:
        """What the readers of pictures ask for."""
        return self.size or 32


# --- the network -----------------------------------------------------------------------------


def squares(x: torch.Tensor) -> torch.Tensor:
    """[n, c, h, w] -> the four cells of each 2x2 square [n, c, h/2, w/2, 4]."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)


class ConvNet(nn.Module):
    """Two layers of features, each a convolution, a rectification and 2x2 pooling; then a classifier."""

    def __init__(
        self, args: Args, shape: tuple[int, int, int], num_classes: int, mean: torch.Tensor, std: torch.Tensor
    ):
        """shape [c, h, w] of a picture, mean and std [c] of its channels."""
        super().__init__()
        c, h, w = shape
        first, second = args.channels
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.convs = nn.ModuleList([nn.Conv2d(c, first, 5, padding=2), nn.Conv2d(first, second, 5, padding=2)])
        self.hidden = nn.Linear(second * (h // 4) * (w // 4), args.hidden)
        self.head = nn.Linear(args.hidden, num_classes)

    def standardized(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 [n, c, h, w] -> each channel with mean 0 and variance 1 over the training pictures."""
        return (pictures.to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, pictures: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """uint8 [n, c, h, w] -> logits [n, classes]; `kept` [n, hidden] is 0 where dropout strikes."""
        x = self.standardized(pictures)
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = F.relu(self.hidden(x.flatten(1)))
        return self.head(x if kept is None else x * kept).float()

    @torch.no_grad()
    def look(self, pictures: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of both layers the pooled features, and the switches: which cell, 0 to 3, was the greatest.

        uint8 [n, c, h, w] -> two of [n, channels, h', w'], h' = h/2 and h/4.
        """
        x, seen = self.standardized(pictures), []
        for conv in self.convs:
            x, switches = squares(F.relu(conv(x))).max(-1)
            seen.append((x, switches))
        return seen


# --- and back --------------------------------------------------------------------------------


def unpool(pooled: torch.Tensor, switches: torch.Tensor | None) -> torch.Tensor:
    """[n, c, h, w] -> [n, c, 2h, 2w]: into the cells that the switches name, into all four where there are none."""
    n, c, h, w = pooled.shape
    cells = pooled.unsqueeze(-1).expand(n, c, h, w, 4)
    if switches is not None:
        cells = cells * F.one_hot(switches, 4)
    return cells.view(n, c, h, w, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


@torch.no_grad()
def project(model: ConvNet, features: torch.Tensor, switches: list, rectify=F.relu) -> torch.Tensor:
    """Features of the first layer, or of the second, [n, channels, h', w'] -> pixels [n, c, h, w].

    `switches` are those of the layers up to this one, or None for each. Nothing undoes the biases: what arrives is the
    part of the picture that the filters answered to, in standardized pixels.
    """
    x = features
    for conv, cells in reversed(list(zip(model.convs, switches, strict=False))):
        x = F.conv_transpose2d(rectify(unpool(x, cells)), conv.weight, padding=2)
    return x


def pixels_of(model: ConvNet, pictures: torch.Tensor, layer: int, only: torch.Tensor, how: str) -> torch.Tensor:
    """What is left of pictures, uint8 [n, c, h, w], when the features of layer 0 or 1 are multiplied by `only`.

    `only` broadcasts with [n, channels, h', w']. Returns standardized pixels [n, c, h, w].
    """
    seen = model.look(pictures)[: layer + 1]
    features = seen[-1][0] * only
    switches = [cells.expand(len(features), *cells.shape[1:]) if how == "switches" else None for _, cells in seen]
    return project(model, features, switches)


def each_alone(model: ConvNet, picture: torch.Tensor, layer: int, how: str) -> torch.Tensor:
    """All features of one picture, uint8 [1, c, h, w], one at a time: pixels [channels, c, h, w]."""
    channels = model.convs[layer].out_channels
    alone = torch.eye(channels, device=picture.device).view(channels, channels, 1, 1)
    return pixels_of(model, picture, layer, alone, how)


@torch.no_grad()
def strongest(model: ConvNet, pictures: torch.Tensor, layer: int, num: int) -> torch.Tensor:
    """Which pictures, uint8 [n, c, h, w], activate each feature most, anywhere in them: [channels, num]."""
    most = torch.cat([model.look(part)[layer][0].amax((2, 3)) for part in pictures.split(500)])  # [n, channels]
    return most.topk(min(num, len(pictures)), dim=0).indices.T


def correlations(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Between the rows of [a, n] and those of [b, n]: [a, b], 0 where a row is constant."""
    x, y = (part - part.mean(1, keepdim=True) for part in (x, y))
    x, y = (part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in (x, y))
    return x @ y.T


@torch.no_grad()
def mean_correlation(model: ConvNet, pictures: torch.Tensor, layer: int) -> float:
    """Mean of |r| over all pairs of features that are ever active, over pictures uint8 [n, c, h, w] and places."""
    values = model.look(pictures)[layer][0].transpose(0, 1).flatten(1)  # [channels, n h' w']
    values = values[values.amax(1) > 0]
    if len(values) < 2:
        return 0.0
    r = correlations(values, values).abs()
    return ((r.sum() - r.diagonal().sum()) / (len(r) * (len(r) - 1))).item()


@torch.no_grad()
def likeness(model: ConvNet, pictures: torch.Tensor, layer: int, how: str) -> float:
    """Mean of |r| between the pixels that an active feature is projected to and the picture's, uint8 [n, c, h, w]."""
    found = []
    for picture in pictures.split(1):
        pixels = each_alone(model, picture, layer, how).flatten(1)
        pixels = pixels[pixels.abs().amax(1) > 0]
        found.append(correlations(pixels, model.standardized(picture).flatten(1)).abs().flatten())
    found = torch.cat(found)
    return found.mean().item() if len(found) else 0.0


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

WEIGHTS, ORDER, DROPOUT = range(3)


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


def quarter_turns(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [n, c, s, s] turned by 0, 1, 2, 3, 0, ... quarters, and by how many [n]: labels for those without."""
    turned = [picture.rot90(i % 4, (1, 2)) for i, picture in enumerate(pictures)]
    return torch.stack(turned), torch.arange(len(pictures)) % 4


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Pictures uint8 [n, c, h, w] and labels [n] to train on, then those to test on, all on the device."""
    pictures, labels, test, test_labels = load_pictures(args)
    pictures, labels = (
        pictures[: args.train_images or None],
        None if labels is None else labels[: args.train_images or None],
    )
    if labels is None:
        (pictures, labels), (test, test_labels) = quarter_turns(pictures), quarter_turns(test)
    if args.size and args.size != pictures.shape[2]:
        resize = {"size": (args.size, args.size), "mode": "bilinear", "antialias": True}
        pictures, test = (F.interpolate(part, **resize) for part in (pictures, test))
    if args.batch_size > len(pictures):
        raise UsageError(f"--batch-size: at most {len(pictures)}, as many as there are pictures to train on")
    if args.picture >= len(test):
        raise UsageError(f"--picture: at most {len(test) - 1}, the last of the pictures to test on")
    return tuple(x.to(device) for x in (pictures, labels.long(), test, test_labels.long()))


def make_model(args: Args, pictures: torch.Tensor, labels: torch.Tensor, device: torch.device) -> ConvNet:
    channels = pictures.transpose(0, 1).flatten(1)  # [c, all pixels]: moments without a copy in floating point
    mean = channels.sum(1, dtype=torch.float64) / channels.shape[1] / 255
    square = torch.stack([channel.to(torch.int32).square().sum() for channel in channels]) / channels.shape[1] / 255**2
    std = (square - mean**2).sqrt().clamp_min(1e-3)
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        classes = int(labels.max()) + 1
        return ConvNet(args, tuple(pictures.shape[1:]), classes, mean.float().cpu(), std.float().cpu()).to(device)


def draw_kept(args: Args, rng: torch.Generator) -> torch.Tensor:
    """Dropout for a whole batch [batch, hidden]: 0, or what makes the mean 1."""
    kept = torch.rand(args.batch_size, args.hidden, generator=rng, device=rng.device) >= args.dropout
    return kept / (1 - args.dropout)


def update(model, optimizer, pictures: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor, args: Args, network):
    """One update from this process's share of a batch, uint8 [n, c, h, w]. Returns sums [2]: losses, right answers."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16):
        logits = network(pictures, kept)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    optimizer.zero_grad()
    (loss / args.batch_size).backward()
    sum_gradients(model)
    optimizer.step()
    return torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])


@torch.no_grad()
def score(model: ConvNet, pictures: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Loss and share of right answers on pictures, uint8 [n, c, h, w]."""
    sums = torch.zeros(2, device=pictures.device)
    for part, answers in zip(pictures.split(500), labels.split(500), strict=True):
        logits = model(part)
        sums += torch.stack([F.cross_entropy(logits, answers, reduction="sum"), (logits.argmax(1) == answers).sum()])
    loss, accuracy = (sums / len(pictures)).tolist()
    return loss, accuracy


# --- the post's figures ----------------------------------------------------------------------


def save_grid(run: Run, name: str, pictures: torch.Tensor, columns: int):
    """Pictures [n, c, h, w] from 0 to 1 in rows of so many, a grey line between them, each pixel two wide."""
    from PIL import Image

    missing = -len(pictures) % columns  # in the last row
    framed = F.pad(pictures.clamp(0, 1), (0, 1, 0, 1, 0, 0, 0, missing), value=0.5)
    n, c, h, w = framed.shape
    rows = framed.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, c]
    array = (rows.reshape(n // columns * h, columns * w, c) * 255).round().byte().numpy(force=True)
    image = Image.fromarray(array.squeeze(2) if c == 1 else array)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


def shown(pixels: torch.Tensor, together: bool = False) -> torch.Tensor:
    """Signed pixels [n, c, h, w] -> 0 to 1, grey where they are 0, scaled one by one or all together."""
    largest = pixels.abs().amax(() if together else (1, 2, 3), keepdim=True).clamp_min(1e-12)
    return 0.5 + 0.5 * pixels / largest


@torch.no_grad()
def draw_all_features(run: Run, model: ConvNet, picture: torch.Tensor, layer: int, how: str):
    """features1.png, features2.png: a picture, uint8 [1, c, h, w], and what each feature of the layer sees in it."""
    pixels = shown(each_alone(model, picture, layer, how))
    save_grid(run, f"features{layer + 1}", torch.cat([picture.float() / 255, pixels]), 11)


@torch.no_grad()
def draw_one_feature(run: Run, model: ConvNet, pictures: torch.Tensor, layer: int, number: int, how: str):
    """one1.png, one2.png: 64 pictures, uint8 [64, c, h, w], and what one feature sees in them, all on one scale."""
    means = model.look(pictures)[layer][0].mean((2, 3))  # [64, channels]
    feature = torch.tensor(number - 1, device=pictures.device) if number else means.std(0).argmax()
    alone = F.one_hot(feature, means.shape[1]).view(1, -1, 1, 1)
    pixels = shown(pixels_of(model, pictures, layer, alone, how), together=True)
    rows = [part.view(8, 8, *part.shape[1:]) for part in (pictures.float() / 255, pixels)]
    save_grid(run, f"one{layer + 1}", torch.cat(rows, 1).flatten(0, 1), 16)


@torch.no_grad()
def draw_strongest(run: Run, model: ConvNet, pictures: torch.Tensor, layer: int, how: str):
    """strongest1.png, strongest2.png: each feature's three strongest activations, each beside its picture."""
    top = strongest(model, pictures, layer, 3)  # [channels, 3]
    alone = torch.eye(len(top), device=top.device).repeat_interleave(top.shape[1], 0)[:, :, None, None]
    chosen = pictures[top.flatten()]  # [3 channels, c, h, w]
    features = model.look(chosen)[layer][0] * alone
    peak = features == features.amax((1, 2, 3), keepdim=True)  # where it is strongest, nothing else
    pixels = shown(pixels_of(model, chosen, layer, alone * peak, how))
    pairs = torch.stack([pixels, chosen.float() / 255], 1).flatten(0, 1)
    save_grid(run, f"strongest{layer + 1}", pairs, 8 * top.shape[1])


@torch.no_grad()
def draw_unpooling(run: Run, model: ConvNet, picture: torch.Tensor, pictures: torch.Tensor):
    """unpooling.png: a picture, and the most active features of both layers in it, above with the switches."""
    rows = [picture.float() / 255], [torch.full_like(picture, 0.5, dtype=torch.float32)]
    for layer, (features, _) in enumerate(model.look(pictures)):
        most = features.sum((0, 2, 3)).argsort(descending=True)[:8]
        for row, how in zip(rows, ("switches", "copy"), strict=True):
            row.append(shown(each_alone(model, picture, layer, how)[most]))
    above, below = (torch.cat(row) for row in rows)
    save_grid(run, "unpooling", torch.cat([above, below]), len(above))


def draw_figures(run: Run, model: ConvNet, test: torch.Tensor, args: Args):
    """The post's figures of both layers, from unseen pictures."""
    picture, pictures = test[args.picture : args.picture + 1], test[torch.arange(64) % len(test)]
    for layer in (0, 1):
        draw_all_features(run, model, picture, layer, args.unpool)
        draw_one_feature(run, model, pictures, layer, args.feature[layer], args.unpool)
        draw_strongest(run, model, test, layer, args.unpool)
    draw_unpooling(run, model, picture, pictures)


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        data = load_data(args, device)
        return learn(args, checkpoint, make_model(args, data[0], data[1], device), *data)


def learn(args: Args, checkpoint: dict | None, model: ConvNet, pictures, labels, test, test_labels) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics and a checkpoint; figures in the end."""
    device, row = pictures.device, {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    network = torch.compile(model) if args.compile else model
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
            # Every process draws the dropout of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, sums = generator(device, args.seed, DROPOUT, row_number), torch.zeros(2, device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - args.anneal_lr * step / total_steps)
                indices, kept = order.batch(step)[share], draw_kept(args, rng)[share]
                sums += update(model, optimizer, pictures[indices], labels[indices], kept, args, network)
                step += 1
            loss, accuracy = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            eval_loss, eval_accuracy = score(model, test, test_labels)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/loss": loss,
                "losses/accuracy": accuracy,
                "eval/loss": eval_loss,
                "eval/accuracy": eval_accuracy,
                "eval/correlation_1": mean_correlation(model, test[:200], 0),
                "eval/correlation_2": mean_correlation(model, test[:200], 1),
                "eval/likeness_1": likeness(model, test[:10], 0, args.unpool),
                "eval/likeness_2": likeness(model, test[:10], 1, args.unpool),
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(accuracy=f"{eval_accuracy:.3f}")

        if run:
            run.plot("eval/accuracy")
            draw_figures(run, model, test, args)
            print(
                f"test accuracy {row['eval/accuracy']:.2%} after {row['charts/epoch']:g} epochs at "
                f"{row['charts/SPS']:,.0f} pictures/s; correlation between features {row['eval/correlation_1']:.3f} "
                f"and {row['eval/correlation_2']:.3f}: {run.dir}"
            )
    return row


def evaluate(folder: Path) -> float:
    """Share of all test pictures that the network of a run names right."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        pictures, labels, test, test_labels = load_data(args, device)
        model = make_model(args, pictures, labels, device)
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
