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
"""Gated PixelCNN: predict every pixel from all those before it, and draw pictures one pixel at a time.

    python gen/pixelcnn.py
    python gen/pixelcnn.py --dataset mnist --binarize dynamic --epochs 1
    python gen/pixelcnn.py --dataset cifar10 --channels 96 --layers 8 --bf16
    torchrun --nproc-per-node 2 gen/pixelcnn.py --dataset mnist

The probability of a picture is a product: of each pixel given the pixels above it and to its left, and of its green
given its red, of its blue given both. One network predicts all factors at once, because its convolutions see nothing
that comes later: the vertical stack looks at the rows above, the horizontal one at the row's left part and at what the
vertical one found. So the likelihood is exact and training takes one pass; drawing takes a step for every pixel.

A factor is a softmax over the 256 values of a pixel (over 2, with --binarize), so the loss is -log P(x): nats summed
over a picture's pixels and colours, and bits per dimension, which are the same divided by their number and by ln 2.

Expect, from the default on scikit-learn's digits, 3.26 bits per dimension on test pictures after 4 epochs, 50 CPU
seconds: strokes and loops that are almost digits. On one core with --bf16, 32 channels reach 90.5 nats on binarized
MNIST after half an epoch, 210 CPU seconds; 48 channels 4.84 bits per dimension on CIFAR-10 after a fifth of an epoch,
262. The published 3.14 and 3.03 are of large networks after long training on GPUs; here they have not been tried. Give
it one thread (--torch-threads 1) where others use the cores, too: threads that wait for each other took four times as
long.

Drawing costs as much arithmetic as one pass of the network per colour, not one pass per pixel: a row of the vertical
stack is computed once, when the row above is known, and of the horizontal stack only the pixel whose turn it is, from
features that are kept. What remains is that the steps follow one another, as many as there are pixels and colours.

A run leaves samples.png, completions.png (test pictures, their upper halves, and three ways to go on) and curve.png;
with --save-samples also samples.npz, new pictures and features of labelled ones, for programs that compare models.

Papers
    van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks" (arXiv 1601.06759): the product,
    masks A and B with the order of colours, the softmax over 256 values. PixelCNN: 3.14 bits per dimension on CIFAR-10.
    van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders" (arXiv 1606.05328): gated units
    (equation 2), the two stacks that leave no blind spot (figure 2). Gated PixelCNN: 3.03 (2.90 on training pictures).

Differences from the papers
    1. Small by default, and no conditioning on a label.
    2. Kernels are cut to what they may see (rows above, pixels to the left), so most of the masks need not be stored;
       only a pixel's own colours are masked. The picture goes into the vertical stack one row down instead.
    3. The step size falls linearly to 0.
    4. An epoch's last pictures and the next one's first may share a batch, so that every batch is full.
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
    """train in bfloat16 where autocast finds it safe; evaluation and drawing stay in float32. For GPUs and for
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

    dataset: Literal["digits", "photos", "emoji", "mnist", "cifar10", "folder"] = "digits"
    """pictures: digits and photos come with scikit-learn, emoji from a font, mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    image_size: int = 32
    """side of photos, emoji and a folder's pictures, in pixels"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""
    binarize: Literal["none", "static", "dynamic"] = "none"
    """make pixels black or white at random, white as likely as they are bright: once, or for each batch anew"""

    epochs: float = 4.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 8
    """pictures per update, over all processes"""
    learning_rate: float = 2e-3
    """Adam's step size, which falls to 0 linearly"""
    layers: int = 4
    """gated layers"""
    channels: int = 16
    """feature maps of either stack, a multiple of the colours"""
    kernel_size: int = 5
    """side of the layers' kernels, odd; of the first layer's, 7"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    eval_images: int = 1000
    """test pictures to score in every row, 0 for all; --evaluate takes all"""
    save_samples: int = 0
    """when training ends, write so many new pictures, and features of labelled ones, to samples.npz; 0 for none"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        for name in ["image_size", "batch_size", "layers", "channels", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "eval_images", "save_samples"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        if self.kernel_size % 2 == 0 or self.kernel_size < 1:
            raise UsageError("--kernel-size must be odd")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- the model -------------------------------------------------------------------------------


def gate(x: torch.Tensor) -> torch.Tensor:
    """Half of the maps, each let through as far as its partner in the other half says: 2p maps -> p."""
    features, gates = x.chunk(2, dim=1)
    return features.tanh() * gates.sigmoid()  # equation (2)


def colour_mask(kind: Literal["A", "B"], outputs: int, inputs: int, colours: int, halves: int = 1) -> torch.Tensor:
    """What a map sees of its own pixel: 1 for colours before its own (A), and for its own, too (B): [outputs, inputs].

    Maps belong to colours in equal parts: the first to red, the next to green, the last to blue. Before a gate there
    are two halves, each divided so.
    """
    size = outputs // halves
    of_output = torch.arange(outputs) % size * colours // size
    of_input = torch.arange(inputs) * colours // inputs
    seen = of_input < of_output.unsqueeze(1) if kind == "A" else of_input <= of_output.unsqueeze(1)
    return seen.float()


class RowConv(nn.Conv2d):
    """A convolution along the row that ends at the pixel itself, of which it sees the colours that its mask allows."""

    def __init__(self, kind: Literal["A", "B"], inputs: int, outputs: int, width: int, colours: int, halves: int = 1):
        super().__init__(inputs, outputs, (1, width))
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = colour_mask(kind, outputs, inputs, colours, halves)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2). Row i of v knows the rows before i, of h also what is left of the pixel."""

    def __init__(self, kind: Literal["A", "B"], inputs: int, channels: int, kernel_size: int, colours: int):
        super().__init__()
        self.inputs, self.reach, self.first = inputs, kernel_size // 2, kind == "A"
        self.vertical = nn.Conv2d(inputs, 2 * channels, (self.reach + 1, kernel_size), padding=(0, self.reach))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = RowConv(kind, inputs, 2 * channels, self.reach + 1, colours, halves=2)
        self.out = RowConv("B", channels, channels, 1, colours)

    def along_the_row(self, h: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """h [n, inputs, 1 or more rows, reach + w], above [n, 2p, as many rows, w] -> the next h [n, p, rows, w]."""
        found = self.out(gate(self.horizontal(h) + above))
        return found if self.first else h[..., self.reach :] + found  # a residual but where the input is the picture

    def forward(self, v: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """v and h [n, inputs, h, w] -> the next v and h [n, p, h, w]."""
        above = self.vertical(F.pad(v, (0, 0, self.reach, 0)))
        return gate(above), self.along_the_row(F.pad(h, (self.reach, 0)), self.across(above))


class PixelCNN(nn.Module):
    """log P(x) = sum over pixels i and colours of log P(x_i | x_1, ..., x_(i-1)), x_i one of so many levels."""

    def __init__(self, colours: int, levels: int, layers: int, channels: int, kernel_size: int):
        super().__init__()
        self.colours, self.levels = colours, levels
        others = [GatedLayer("B", channels, channels, kernel_size, colours) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([GatedLayer("A", colours, channels, 7, colours), *others])
        hidden = [nn.ReLU(), RowConv("B", channels, channels, 1, colours), nn.ReLU()]
        self.head = nn.Sequential(*hidden, RowConv("B", channels, colours * levels, 1, colours))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """The horizontal stack's last features of pictures [n, c, h, w] with values from -1 to 1: [n, p, h, w]."""
        x = x.contiguous(memory_format=torch.channels_last)
        v, h = F.pad(x, (0, 0, 1, -1)), x  # one row down: what stands in row i of v is row i - 1
        for layer in self.layers:
            v, h = layer(v, h)
        return h

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """[n, p, h, w] -> [n, h, w, colours, levels]."""
        return self.head(h).float().permute(0, 2, 3, 1).unflatten(3, (self.colours, self.levels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.hidden(x))


def scaled(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 -> from -1 to 1: black is not what stands beyond the edge, which is 0."""
    return pictures.float() / 127.5 - 1


def negative_log_likelihood(model: PixelCNN, pictures: torch.Tensor) -> torch.Tensor:
    """-log P(x) in nats, SUMMED over pixels and colours: uint8 [n, c, h, w] -> [n]."""
    logits = model(scaled(pictures))
    values = pictures.permute(0, 2, 3, 1).long() // (255 // (model.levels - 1))  # [n, h, w, c], 0 to levels - 1
    nats = F.cross_entropy(logits.flatten(0, 3), values.flatten(), reduction="none")
    return nats.view(len(pictures), -1).sum(1)


def bits_per_dimension(nats: float, shape: tuple[int, ...]) -> float:
    """Nats of a picture [c, h, w] -> bits for each of its c h w numbers."""
    return nats / (math.prod(shape) * math.log(2))


@torch.no_grad()
def draw(model: PixelCNN, pictures: torch.Tensor, first_row: int, rng: torch.Generator) -> torch.Tensor:
    """Pictures uint8 [n, c, h, w], kept above `first_row` and drawn from there on, pixel by pixel, colour by colour.

    `vs` and `hs` hold what each layer has read so far, with as much empty border as its kernel reaches.
    """
    pictures = pictures.clone()
    n, colours, height, width = pictures.shape
    known = scaled(pictures)
    vs = [known.new_zeros(n, layer.inputs, layer.reach + height, width) for layer in model.layers]
    aboves = [None] * len(model.layers)  # of every layer, what the row's pixels learn from the rows above
    for i in range(height):
        if i > 0:
            vs[0][:, :, model.layers[0].reach + i] = known[:, :, i - 1]
        for k, layer in enumerate(model.layers):  # one row of the vertical stack
            above = layer.vertical(vs[k][:, :, i : i + layer.reach + 1])  # [n, 2p, 1, w]
            aboves[k] = layer.across(above)
            if k + 1 < len(vs):
                vs[k + 1][:, :, model.layers[k + 1].reach + i] = gate(above).squeeze(2)
        if i < first_row:
            continue
        hs = [known.new_zeros(n, layer.inputs, 1, layer.reach + width) for layer in model.layers]
        for j in range(width):
            for colour in range(colours):
                for k, layer in enumerate(model.layers):  # one pixel of the horizontal stack
                    h = layer.along_the_row(hs[k][..., j : j + layer.reach + 1], aboves[k][..., j : j + 1])
                    if k + 1 < len(hs):
                        hs[k + 1][..., model.layers[k + 1].reach + j] = h.squeeze(3)
                logits = model.logits(h)[:, 0, 0, colour]  # [n, levels]
                noise = torch.rand(logits.shape, generator=rng, device=rng.device).clamp_min(1e-20)
                value = (logits - (-noise.log()).log()).argmax(1)  # the largest with Gumbel noise has P = softmax
                pictures[:, colour, i, j] = (value * (255 // (model.levels - 1))).byte()
                known[:, colour, i, j] = scaled(pictures[:, colour, i, j])
                hs[0][:, colour, 0, model.layers[0].reach + j] = known[:, colour, i, j]
    return pictures


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

WEIGHTS, ORDER, NOISE, PRIOR, COMPLETE, SAMPLES = range(6)
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


def load_data(args: Args, device: torch.device) -> tuple:
    """Training pictures, test pictures [n, c, h, w] as uint8 on the device, their labels [n] or None each."""
    train, labels, test, test_labels = load_pictures(args)
    train, test = train[: args.train_images or None].to(device), test.to(device)
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    if args.channels % train.shape[1]:
        raise UsageError(f"--channels: a multiple of {train.shape[1]}, as many as --dataset {args.dataset} has colours")
    if args.binarize == "static":
        train = bernoulli(train, generator(device, 0, BINARIZE_STATIC))
    if args.binarize != "none":
        test = bernoulli(test, generator(device, 0, BINARIZE_TEST))
    return train, test, labels, test_labels


def make_model(args: Args, train: torch.Tensor, device: torch.device) -> PixelCNN:
    """A new model, whose last bias says how frequent each value of each colour is."""
    levels, some = 256 if args.binarize == "none" else 2, train[:1000]
    if args.binarize == "dynamic":
        some = bernoulli(some, generator(device, args.seed, NOISE))
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        model = PixelCNN(train.shape[1], levels, args.layers, args.channels, args.kernel_size)
    values = (some // (255 // (levels - 1))).transpose(0, 1).flatten(1)  # [colours, all their pixels]
    counts = torch.stack([colour.bincount(minlength=levels) for colour in values]) + 1.0  # none is impossible
    with torch.no_grad():
        model.head[-1].bias.copy_((counts / counts.sum(1, keepdim=True)).log().flatten())
    return model.to(device, memory_format=torch.channels_last)


def update(model, optimizer, pictures: torch.Tensor, args: Args, loss_function) -> torch.Tensor:
    """One update from this process's share of a batch, uint8 [n, c, h, w]. Returns the sum of its nats."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16):
        nats = loss_function(model, pictures).sum()
    optimizer.zero_grad()
    # per dimension, which Adam does not notice, so that numbers stay near 1
    (nats / (args.batch_size * math.prod(pictures.shape[1:]))).backward()
    sum_gradients(model)
    optimizer.step()
    return nats.detach()


@torch.no_grad()
def score(model: PixelCNN, pictures: torch.Tensor) -> float:
    """Mean of -log P(x) over pictures, uint8 [n, c, h, w], in nats."""
    parts = tqdm(pictures.split(50), desc="likelihood", leave=False, disable=None)
    return torch.cat([negative_log_likelihood(model, part) for part in parts]).double().mean().item()


# --- pictures of what it learned -------------------------------------------------------------


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
    """The first ones of uint8 [n, c, h, w], from the start again where there are fewer: [num, c, h, w] from 0 to 1."""
    return pictures[torch.arange(num) % len(pictures)].float() / 255


def draw_pictures(run: Run, model: PixelCNN, test: torch.Tensor, args: Args):
    """samples.png, 8 rows of 8, and completions.png: originals, their upper halves, three ways to go on."""
    empty = torch.zeros(64, *test.shape[1:], dtype=torch.uint8, device=test.device)
    samples = draw(model, empty, 0, generator(test.device, args.seed, PRIOR))
    save_grid(run, "samples", samples.float() / 255, 8)
    originals, half = (first(test, 10) * 255).round().byte(), test.shape[2] // 2
    upper = originals.clone()
    upper[:, :, half:] = 127  # grey: not known
    completed = draw(model, originals.repeat(3, 1, 1, 1), half, generator(test.device, args.seed, COMPLETE))
    save_grid(run, "completions", torch.cat([originals, upper, completed]).float() / 255, 10)


@torch.no_grad()
def save_samples(run: Run, model: PixelCNN, args: Args, pictures, test, labels, test_labels):
    """samples.npz: new pictures uint8 [n, c, h, w], seconds that drawing them took, features of labelled pictures.

    The features are the last before the logits, averaged over the positions.
    """
    rng, start = generator(pictures.device, args.seed, SAMPLES), time.perf_counter()
    empty = torch.zeros(args.save_samples, *test.shape[1:], dtype=torch.uint8, device=test.device)
    samples = torch.cat([draw(model, part, 0, rng) for part in empty.split(500)]).numpy(force=True)
    arrays = {"samples": samples, "seconds": time.perf_counter() - start}
    if labels is not None:
        for name, x, y in (("train", pictures, labels), ("test", test, test_labels)):
            hidden = [model.head[:-1](model.hidden(scaled(part))) for part in x[:10_000].split(50)]
            arrays[f"{name}_codes"] = torch.cat([part.mean((2, 3)) for part in hidden]).numpy(force=True)
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


def learn(args: Args, checkpoint: dict | None, model: PixelCNN, pictures, test, labels, test_labels) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics, a checkpoint; pictures at the end."""
    device, shape, row = pictures.device, pictures.shape[1:], {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    loss_function = torch.compile(negative_log_likelihood) if args.compile else negative_log_likelihood
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    step, row_number, elapsed = 0, 0, 0.0
    chosen = torch.linspace(0, len(test) - 1, min(args.eval_images or len(test), len(test)), device=device).long()

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
            # Every process binarizes the whole batch and takes its share: the curve does not depend on how many there
            # are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, nats = generator(device, args.seed, NOISE, row_number), torch.zeros((), device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                batch = pictures.index_select(0, order.batch(step))
                if args.binarize == "dynamic":
                    batch = bernoulli(batch, rng)
                optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - step / total_steps)
                nats += update(model, optimizer, batch[share], args, loss_function)
                step += 1
                bar.update()
            loss = (sum_over_processes(nats) / ((step - first_step) * args.batch_size)).item()
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            if not run:
                continue

            scored = score(model, test[chosen])
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/nats": loss,
                "losses/bits_per_dim": bits_per_dimension(loss, shape),
                "eval/nats": scored,
                "eval/bits_per_dim": bits_per_dimension(scored, shape),
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            if step >= total_steps or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(bits_per_dim=f"{row['eval/bits_per_dim']:.3f}")

        if run:
            run.plot("eval/bits_per_dim")
            draw_pictures(run, model, test, args)
            if args.save_samples:
                save_samples(run, model, args, pictures, test, labels, test_labels)
            result = f"{row['eval/bits_per_dim']:.3f} bits per dimension, {row['eval/nats']:.2f} nats on test pictures"
            print(f"{result} after {row['charts/epoch']:g} epochs at {row['charts/SPS']:,.0f} pictures/s: {run.dir}")
    return row


def evaluate(folder: Path) -> float:
    """-log P(x) of every test picture under the model of a run: the mean in nats."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        pictures, test, *_ = load_data(args, device)
        model = make_model(args, pictures, device)
        try:
            model.load_state_dict(checkpoint["model"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        nats = score(model, test)
    bits = bits_per_dimension(nats, test.shape[1:])
    print(f"{bits:.3f} bits per dimension, {nats:.2f} nats on all {len(test):,} test pictures")
    return nats


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
