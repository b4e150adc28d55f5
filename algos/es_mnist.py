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
"""Evolution strategies train a linear network that is not linear: numbers too small for float32 become zero.

    python algos/es_mnist.py
    python algos/es_mnist.py --backprop
    python algos/es_mnist.py --dataset mnist --noise low-rank --images 8 --total-timesteps 20000000

Three linear layers make one linear layer, and that reads 92 % of MNIST. Unless they are computed near 2^-126, the
smallest number that float32 holds with all its digits: with denormals off, what is smaller becomes zero, so a layer
whose outputs are divided by 2^125 sets those below 1/2 to zero. Backpropagation takes the derivative of what is written
down, a linear network, and knows nothing of it. Evolution strategies only try: they perturb the weights, compare how
well pairs of perturbed networks read, and so find out what the arithmetic really does.

Expect 87 % of scikit-learn's test digits after the default million images, in 8 s on one CPU core. On MNIST, with
--learning-rate 0.0003 --total-timesteps 20000000, 92.7 % in two minutes, no better than a linear network; with
--learning-rate 0.00005 --weight-decay 0.03 --total-timesteps 300000000 95.3 % (96.3 % of the training digits) in 32
minutes, and the same weights in float64 read 88.0 %: by then the network has learned to use what underflows. The post
reports 96.7 and 99 %, whose budget is not known. --noise low-rank and full are far from there after 1.2 million images,
45 and 42 %. Backpropagation gets 93.5 % after 600,000 (--backprop --population 100 --weight-decay 0; in float64:
90.2 %), the post's 92 %. All of these are single seeds.

Papers
    OpenAI 2017, "Nonlinear computation in deep linear networks" (the post): network, scaling, accuracies.
    Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning" (arXiv 1703.03864).

Differences from the post
    1. It does not say population, sigma or learning rate. Here networks come in pairs, one perturbed in a direction and
       one against it, and the two are scored by their cross-entropy on --images images of their own.
    2. On the post's GPU, products keep denormals and everything else loses them. A CPU with denormals off loses them
       within a product, too, term by term, and with them nearly all of a layer. So h is multiplied by 2^125 before a
       product, and the sum divided by it afterwards: a power of two changes no digit, and only sums underflow.
    3. --noise low-rank perturbs a layer by an outer product of two Gaussian vectors, which costs a vector product per
       member in place of a matrix of noise. --noise projected draws of the full noise only what an image sees, for one
       layer at a time, and is far less noisy for it (see the function), but has to know what a layer's input is.
"""

import csv
import gzip
import hashlib
import json
import math
import os
import pickle
import sys
import time
import urllib.request
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

SIZES = (784, 512, 512, 10)
SCALE = 2.0**125  # the smallest normal number of float32 is 2^-126: what is below 1/2 before scaling underflows


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the network, the images and the perturbations; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    cuda: bool = False
    """learn on a GPU if there is one"""
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

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's 1,797 digits, which need no download, or MNIST"""
    data_dir: Path = Path("data")
    """where MNIST's four files are, or are downloaded to"""
    total_timesteps: int = 1_000_000
    """images to read, over all members; the update that reaches it is finished"""
    population: int = 960
    """perturbed networks per update, an even number; with --backprop, images per update"""
    noise: Literal["full", "low-rank", "projected"] = "projected"
    """perturbations: Gaussian (2.7 MB a pair), an outer product of vectors, or one layer's Gaussian, of which only what
    an image sees is drawn"""
    images: int = 1
    """images that the two networks of a pair are scored on (--noise full or low-rank)"""
    pairs_per_image: int = 16
    """pairs that perturb each layer for the same image, and share what is below it (--noise projected)"""
    sigma: float = 0.02
    """standard deviation of a weight's perturbation"""
    learning_rate: float = 0.001
    """Adam's first step size; it falls to 0 in a straight line"""
    weight_decay: float = 0.3
    """share of every parameter that an update takes off, in step sizes: noise must not add up in what has no say"""
    backprop: bool = False
    """for comparison: the gradient of the network as it is written down, linear"""
    log_every: int = 20
    """updates between rows of metrics.csv"""
    checkpoint_every: int = 10
    """rows between checkpoints"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds it as text
        for name in ["total_timesteps", "images", "pairs_per_image", "log_every", "checkpoint_every"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if self.population < 2 or self.population % 2:
            raise UsageError("--population must be an even number, at least 2: members come in pairs")
        for name in ["sigma", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if self.noise == "projected" and self.images != 1:
            raise UsageError("--noise projected is what one image sees: give --images 1, or another --noise")
        if self.noise == "projected" and not self.backprop and self.population % self.members_per_image:
            raise UsageError(
                f"--population must be a multiple of {self.members_per_image}: for each image, --pairs-per-image pairs "
                f"of networks for each of {len(SIZES) - 1} layers"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError("--weight-decay must not be negative")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")

    @property
    def members_per_image(self) -> int:
        """Perturbed networks that read one image under --noise projected."""
        return 2 * self.pairs_per_image * (len(SIZES) - 1)

    @property
    def torch_threads(self) -> int:
        """PyTorch flushes denormals only in the thread that asked for it, and its helpers do not ask."""
        return 1


# --- the network that is written down as a linear one ----------------------------------------


@contextmanager
def denormals_off():
    """Let the processor replace denormals by zero in this thread, if it can; what was set before comes back."""
    before = keeps_no_denormals(torch.device("cpu"))
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keeps_no_denormals(device: torch.device) -> bool:
    """Whether every number of a large tensor that gets below 2^-126 on this device becomes zero."""
    smallest = torch.full((1 << 16,), torch.finfo(torch.float32).tiny, device=device)
    return bool(((smallest / 2) * 2 == 0).all())


def underflow(z: torch.Tensor, flush: bool) -> torch.Tensor:
    """z, through numbers so small that what is below 1/2 does not come back; flush: the device needs help with it."""
    tiny = z / SCALE
    if flush:
        with torch.no_grad():  # backpropagation is not told, as it is not told of what the processor does
            tiny.masked_fill_(tiny.abs() < torch.finfo(tiny.dtype).tiny, 0.0)
    return tiny * SCALE


def initial_parameters(generator: torch.Generator) -> list[torch.Tensor]:
    """Weights [in, out] and biases [out] of the three layers, scaled as by He et al. 2015."""
    parameters = []
    for n_in, n_out in pairwise(SIZES):
        parameters += [torch.randn(n_in, n_out, generator=generator) * math.sqrt(2 / n_in), torch.zeros(n_out)]
    return parameters


def network(parameters: list[torch.Tensor], x: torch.Tensor, flush: bool) -> torch.Tensor:
    """Images [..., 784] -> logits [..., 10]. A product, a sum, a division and a multiplication: linear on paper."""
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = underflow(x @ weights + bias, flush)
    return x


# --- evolution strategies --------------------------------------------------------------------


def full(h: torch.Tensor, n_out: int, generator: torch.Generator) -> tuple:
    """Gaussian perturbations epsilon of a layer's weights and bias, one of each for every pair.

    h [signs, pairs, images, in] are the layer's inputs in the networks perturbed by +epsilon and by -epsilon, or one
    for both. Returns h epsilon [signs, pairs, images, out], and a function that adds up the pairs' epsilon, weighted by
    numbers [pairs]: of the weights [in, out] and of the bias [out].
    """
    _, n, _, n_in = h.shape
    weights, bias = normal(generator, n, n_in, n_out), normal(generator, n, 1, n_out)
    delta = torch.einsum("snmi,nio->snmo", h, weights) + bias  # h @ weights would copy the weights for either sign
    return delta, lambda f: (torch.tensordot(f, weights, 1), f @ bias.squeeze(1))


def low_rank(h: torch.Tensor, n_out: int, generator: torch.Generator) -> tuple:
    """The same for perturbations a b^T of the weights: h a is one vector product more, and a number times b."""
    _, n, _, n_in = h.shape
    a, b, bias = normal(generator, n, n_in, 1), normal(generator, n, 1, n_out), normal(generator, n, 1, n_out)
    return (h @ a) * b + bias, lambda f: ((f * a.squeeze(2).T) @ b.squeeze(1), f @ bias.squeeze(1))


NOISES = {"full": full, "low-rank": low_rank}


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def es_gradient(
    parameters: list[torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    args: Args,
    generator: torch.Generator,
    flush: bool,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradient of the mean loss of perturbed networks: images [pairs, images, 784], labels [pairs, images].

    It is the pairs' mean of (F(theta + sigma epsilon) - F(theta - sigma epsilon)) epsilon / (2 sigma), as in section
    2.1 of Salimans et al. Returns it for every parameter, and the members' losses [2, pairs].
    """
    sign = torch.tensor([1.0, -1.0], device=images.device).view(2, 1, 1, 1)
    h, sums = images.unsqueeze(0), []
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        delta, weighted_sum = NOISES[args.noise](h, len(bias), generator)
        h = underflow(h @ weights + bias + args.sigma * sign * delta, flush)
        sums.append(weighted_sum)
    log_p = h.log_softmax(dim=3)  # [2, pairs, images, 10]
    losses = -log_p.gather(3, labels.expand(2, -1, -1).unsqueeze(3)).squeeze(3).mean(dim=2)
    weight = (losses[0] - losses[1]) / (2 * args.sigma * len(images))
    return [gradient for weighted_sum in sums for gradient in weighted_sum(weight)], losses


def projected_gradient(
    parameters: list[torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    args: Args,
    generator: torch.Generator,
    flush: bool,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same for one layer perturbed at a time, and with far less noise: images [n, 784], labels [n].

    A layer whose input is v, with 1 at its end for the bias, turns a Gaussian epsilon into v epsilon = |v| seen, where
    seen is Gaussian, too, and has but one number for each output. The rest of epsilon, at right angles to v, has no say
    in how the pair is scored, so its mean, zero, stands for it in the estimate: epsilon is v^T seen / |v|. That leaves
    the expectation as it is, and takes out most of the variance. So does perturbing no other layer, whose luck would
    count as this one's; and then all pairs of an image share v, and a layer's output but for the noise.

    Returns the gradient for every parameter, and the losses [layers, 2, n, pairs per image].
    """
    layers, n = list(zip(parameters[::2], parameters[1::2], strict=True)), len(images)
    sign = torch.tensor([1.0, -1.0], device=images.device).view(2, 1, 1, 1)
    x, gradients, losses = images, [], []
    for i, (weights, bias) in enumerate(layers):
        v, z = torch.cat([x, torch.ones_like(x[:, :1])], dim=1), x @ weights + bias
        size = v.norm(dim=1).view(n, 1, 1)
        seen = normal(generator, n, args.pairs_per_image, len(bias))
        h = underflow(z.unsqueeze(1) + args.sigma * sign * (size * seen), flush)  # [2, n, pairs, out]
        log_p = network([p for layer in layers[i + 1 :] for p in layer], h, flush).log_softmax(dim=3)
        losses.append(-log_p.gather(3, labels.view(1, n, 1, 1).expand(*h.shape[:3], 1)).squeeze(3))
        weight = (losses[-1][0] - losses[-1][1]) / (2 * args.sigma * n * args.pairs_per_image)  # [n, pairs]
        total = (v / size.squeeze(2)).T @ (weight.unsqueeze(1) @ seen).squeeze(1)  # [in + 1, out]
        gradients += [total[:-1], total[-1]]
        x = underflow(z, flush)
    return gradients, torch.stack(losses)


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
        axes.set(xlabel="environment steps", ylabel=metric, title=self.name)
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


# --- training --------------------------------------------------------------------------------


def stream(seed: int, key: int) -> int:
    """The seed of an independent generator for every key: one of the two below."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,))).integers(2**63))


NETWORK, NOISE = range(2)


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Images [n, 784] as bytes and labels [n] to learn from, then those to test on."""
    data = load_mnist(args.data_dir) if args.dataset == "mnist" else load_digits_28()
    images, labels, test_images, test_labels = (x.to(device) for x in data)
    return images.flatten(1), labels.long(), test_images.flatten(1), test_labels.long()


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Bytes -> ink from 0 to 1."""
    return images.float() / 255


@torch.no_grad()
def accuracy(parameters: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor, flush: bool) -> float:
    """Share of images [n, 784] whose highest logit is the label's."""
    parts = zip(images.split(5000), labels.split(5000), strict=True)
    return sum(
        (network(parameters, pixels(x).to(parameters[0].dtype), flush).argmax(1) == t).sum() for x, t in parts
    ).item() / len(labels)


def draw_line(run: Run, parameters: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor, flush: bool):
    """Save the ten logits on the way from the test set's first image [784] to its second, in float32 and in float64."""
    from matplotlib.figure import Figure

    share = torch.linspace(0, 1, 501, device=images.device).unsqueeze(1)
    x = torch.lerp(pixels(images[:1]), pixels(images[1:2]), share)  # [501, 784]
    exact = [p.double() for p in parameters]
    panels = Figure(figsize=(9, 3.6), layout="constrained").subplots(1, 2, sharey=True)
    for axes, p, title in zip(panels, (parameters, exact), ("float32, denormals off", "float64: linear"), strict=True):
        axes.plot(share.cpu(), network(p, x.to(p[0].dtype), flush).cpu(), linewidth=1)
        axes.set(title=title, xlabel=f"share of a {labels[1]} that is mixed into a {labels[0]}")
    panels[0].set_ylabel("logits of the ten digits")
    panels[0].figure.savefig(run.dir / "line.png", dpi=120)
    run.picture(run.dir / "line.png")


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    data = load_data(args, device)
    with torch_settings(args), denormals_off():
        return learn(args, checkpoint, data, device)


def learn(args: Args, checkpoint: dict | None, data: tuple[torch.Tensor, ...], device: torch.device) -> dict:
    """The loop: perturb, compare, step, now and then test and log."""
    images, labels, test_images, test_labels = data
    flush = not keeps_no_denormals(device)
    parameters = initial_parameters(torch.Generator().manual_seed(stream(args.seed, NETWORK)))
    parameters = [p.to(device).requires_grad_(args.backprop) for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay, fused=True)
    generator = torch.Generator(device).manual_seed(stream(args.seed, NOISE))
    update, global_step, elapsed = 0, 0, 0.0
    if args.backprop:
        shape = (args.population,)  # of the images that an update draws
    elif args.noise == "projected":
        shape = (args.population // args.members_per_image,)
    else:
        shape = (args.population // 2, args.images)
    per_update = args.population * (1 if args.backprop else args.images)

    def state() -> dict:
        counters = {"update": update, "global_step": global_step, "elapsed": elapsed}
        learned = {"parameters": [p.detach() for p in parameters], "optimizer": optimizer.state_dict()}
        return learned | counters | {"generator": generator.get_state()}

    if checkpoint:
        try:
            for p, saved in zip(parameters, checkpoint["parameters"], strict=True):
                p.data.copy_(saved)
            optimizer.load_state_dict(checkpoint["optimizer"])
            generator.set_state(checkpoint["generator"])
            update, global_step, elapsed = (checkpoint[key] for key in ("update", "global_step", "elapsed"))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if global_step >= args.total_timesteps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.dataset, checkpoint and checkpoint["rows"])
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="image", disable=None)
    with run, bar:
        if not checkpoint:
            run.save(state())
        while global_step < args.total_timesteps:
            start = time.perf_counter()
            total, updates = torch.zeros((), device=device), 0
            while updates < args.log_every and global_step < args.total_timesteps:
                optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - global_step / args.total_timesteps)
                chosen = torch.randint(len(images), shape, generator=generator, device=device)
                x, t = pixels(images[chosen]), labels[chosen]
                if args.backprop:
                    loss = torch.nn.functional.cross_entropy(network(parameters, x, flush), t)
                    optimizer.zero_grad()
                    loss.backward()
                else:
                    estimate = projected_gradient if args.noise == "projected" else es_gradient
                    gradients, losses = estimate(parameters, x, t, args, generator, flush)
                    loss = losses.mean()
                    for p, gradient in zip(parameters, gradients, strict=True):
                        p.grad = gradient
                optimizer.step()
                total += loss.detach()
                updates += 1
                global_step += per_update
            loss = (total / updates).item()
            if not math.isfinite(loss):
                raise FloatingPointError(f"the learning diverged before image {global_step:,}: lower --learning-rate?")

            update += updates
            elapsed += time.perf_counter() - start
            row = {
                "global_step": global_step,
                "losses/loss": loss,
                "charts/SPS": global_step / elapsed,
                "time/elapsed": elapsed,
                "eval/test_accuracy": accuracy(parameters, test_images, test_labels, flush),
                "eval/train_accuracy": None,
                "eval/test_accuracy_float64": None,
            }
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/train_accuracy"] = accuracy(parameters, images, labels, flush)
                exact = [p.detach().double() for p in parameters]  # the same weights where nothing underflows
                row["eval/test_accuracy_float64"] = accuracy(exact, test_images, test_labels, flush)
            run.log(row)
            rows = -(-update // args.log_every)
            if finished or rows % args.checkpoint_every == 0:
                run.save(state())
            bar.update(updates * per_update)
            bar.set_postfix(test_accuracy=row["eval/test_accuracy"])

        run.plot("eval/test_accuracy")
        draw_line(run, [p.detach() for p in parameters], test_images, test_labels, flush)
        result = f"test accuracy {row['eval/test_accuracy']:.1%}, training accuracy {row['eval/train_accuracy']:.1%}"
        print(f"{result} after {global_step:,} images at {row['charts/SPS']:,.0f} a second: {run.dir}")
    return row


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    if args.resume and sum(word.startswith("--") for word in argv) > 1:
        raise UsageError("--resume takes every argument from the run's folder: leave out the other flags")
    train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
