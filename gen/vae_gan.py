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
"""VAE/GAN: an autoencoder that compares pictures not pixel by pixel, but as a discriminator sees them.

    python gen/vae_gan.py
    python gen/vae_gan.py --loss vae
    python gen/vae_gan.py --dataset mnist --epochs 5 --bf16
    torchrun --nproc-per-node 2 gen/vae_gan.py --dataset cifar10 --noise-std 0.5 --latent-dim 128

A VAE that is unsure where an edge lies draws it everywhere at once, since a squared error of pixels punishes a sharp
edge in the wrong place twice: hence the blur. Here the error is measured in the features of a discriminator, which
learns meanwhile to tell real pictures from reconstructions and from pictures of random codes, and which forgives a
stroke that moved but not one that is smeared. The decoder is at the same time the generator of that game.

--loss vae is the baseline: the same encoder and decoder, squared errors of pixels, no discriminator. Each row measures
for both how far their pictures are from real ones (a Frechet distance) and how sharp they are beside real ones.

Expect, on scikit-learn's digits after the default's 469 updates (one seed; --eval-images 1000): with --bf16, 50 CPU
seconds, samples at a Frechet distance of 169 and 0.98 times as sharp as real digits; with --loss vae at 860 and 0.74
times as sharp. What it pays: the squared error of reconstructions is 6.5 instead of 2.4 per picture.

A run leaves samples.png (codes from N(0, I)), reconstructions.png (pictures that it never saw, and below each what it
makes of them), interpolations.png (from one picture's code to another's), curve.png.

Papers
    Larsen, Sonderby, Larochelle & Winther 2016, "Autoencoding beyond pixels using a learned similarity metric" (arXiv
    1512.09300): three networks, three losses, what each of them learns from.
    Kingma & Welling 2014 (arXiv 1312.6114): the KL divergence (appendix B), the reparametrization.
    Heusel et al. 2017 (arXiv 1706.08500): the Frechet distance. Theirs is between features of Inception; here, between
    those of a small classifier that the script trains on the same labelled set: the numbers do not compare.

Differences from the paper
    1. The networks are DCGAN's, for 28 and 32 pixels and more, and learn by Adam.
    2. The decoder maximizes log D(G(z)), which does not saturate, where the paper has -log(1 - D(G(z))).
    3. A feature or a pixel has the standard deviation of --noise-std given the code, where the paper has 1: the prior
       would count for little beside thousands of features. Its 3 is for digits: on CIFAR-10 it leaves the code next to
       nothing, and reconstructions grey; 0.5 leaves 179 nats, and a Frechet distance of 0.47 (10 epochs, one seed).
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
    """compile the networks with torch.compile: needs a C++ compiler, takes a while to begin"""
    bf16: bool = False
    """train in bfloat16 where autocast finds it safe; samples and scores stay in float32. For GPUs and for
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
    """scores of 10,000 samples of the model in this folder: no other flag may stand beside"""

    dataset: Literal["digits", "photos", "emoji", "mnist", "cifar10", "folder"] = "digits"
    """pictures: digits and photos come with scikit-learn, emoji from a font, mnist and cifar10 are downloaded once"""
    data_dir: Path = Path("data")
    """where mnist and cifar10 are kept"""
    folder: Path | None = None
    """the pictures of --dataset folder, in subfolders too"""
    font: Path | None = None
    """the colour font of --dataset emoji (default: Noto Color Emoji, where fontconfig finds it)"""
    image_size: int = 0
    """side of the pictures in pixels, such as 32 or 64; 0 for 28 of digits and mnist, 32 of the others"""
    train_images: int = 0
    """train on so many pictures only, 0 for all"""

    loss: Literal["vae-gan", "vae"] = "vae-gan"
    """errors in the features of a discriminator, or of pixels"""
    noise_std: float = 0.0
    """standard deviation, given the code, of a feature or of a pixel from -1 to 1; 0 for 3, which suits digits (0.5 for
    CIFAR-10's features), and for 0.5"""
    error_weight: float = 0.05
    """gamma: weight of the errors in the decoder's loss, beside that of deceiving the discriminator"""
    epochs: float = 20.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 64
    """pictures per update, over all processes"""
    learning_rate: float = 5e-4
    """Adam's step size"""
    beta1: float = 0.5
    """Adam's decay of the mean gradient"""
    width: int = 32
    """channels at the highest resolution, doubled at each lower one"""
    latent_dim: int = 32
    """latents: the size of the code z"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    judge_updates: int = 600
    """updates of the classifier whose features the Frechet distance is measured in, 0 for no such distance"""
    eval_images: int = 2000
    """pictures to measure it with at every row, as many as there are to train or to test on at most"""
    save_samples: int = 0
    """when training ends, write so many new pictures, and the codes of labelled ones, to samples.npz; 0 for none"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        self.image_size = self.image_size or (28 if self.dataset in ("digits", "mnist") else 32)
        for name in ["batch_size", "width", "latent_dim", "checkpoint_every", "eval_images"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "judge_updates", "save_samples"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        for name in ["noise_std", "error_weight"]:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        self.noise_std = self.noise_std or {"vae": 0.5, "vae-gan": 3.0}[self.loss]
        if not 0 <= self.beta1 < 1:
            raise UsageError("--beta1 must be at least 0 and below 1")
        if self.batch_size < 2:
            raise UsageError("--batch-size must be at least 2: batch normalization compares pictures")
        if self.image_size < 8 or levels(self.image_size)[1] > 7:
            raise UsageError("--image-size must be 4 to 7 times a power of two, 8 at least: 28, 32 and 64 are")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- the networks ----------------------------------------------------------------------------


def levels(size: int) -> tuple[int, int]:
    """How often a side is halved, and what is left of it, 4 to 7: 28 -> 2, 7; 32 -> 3, 4; 64 -> 4, 4."""
    count = 0
    while size % 2 == 0 and size >= 8:
        size, count = size // 2, count + 1
    return count, size


class SumOverProcesses(torch.autograd.Function):
    """sum_over_processes as a step of the computation: a sum of gradients on the way back."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(x.clone())

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return sum_over_processes(grad.clone())


class BatchNorm(nn.BatchNorm2d):
    """Normalizes each channel by mean and variance over the batch: over the whole one, where processes share it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or num_processes() == 1:
            return super().forward(x)
        count = num_processes() * x.numel() // x.shape[1]  # all shares are of one size
        sums = SumOverProcesses.apply(torch.stack([x.float().sum((0, 2, 3)), (x.float() ** 2).sum((0, 2, 3))]))
        mean, variance = sums[0] / count, sums[1] / count - (sums[0] / count) ** 2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(-1, 1, 1) + (self.bias - mean * scale).view(-1, 1, 1)


def reading_layers(channels: int, args: Args) -> tuple[nn.Sequential, int]:
    """Convolutions that halve the side, of the encoder and of the discriminator, and the size of what comes out."""
    count, side = levels(args.image_size)
    widths = [args.width * 2**i for i in range(count)]
    layers = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), BatchNorm(after), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers), widths[-1] * side**2


class Encoder(nn.Module):
    def __init__(self, channels: int, args: Args):
        super().__init__()
        self.layers, size = reading_layers(channels, args)
        self.head = nn.Linear(size, 2 * args.latent_dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [n, c, h, w], from -1 to 1 -> mu and logvar [n, z] of q(z|x)."""
        return self.head(self.layers(x).flatten(1)).float().chunk(2, 1)


class Decoder(nn.Module):
    def __init__(self, channels: int, args: Args):
        super().__init__()
        count, side = levels(args.image_size)
        widths = [args.width * 2**i for i in reversed(range(count))]  # from the lowest resolution to the highest
        layers = [nn.ConvTranspose2d(args.latent_dim, widths[0], side, 1, 0, bias=False)]  # -> [n, c, side, side]
        for before, after in pairwise(widths):
            layers += [BatchNorm(before), nn.ReLU(True), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        layers += [BatchNorm(widths[-1]), nn.ReLU(True), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Codes [n, z] -> pictures [n, c, h, w], from -1 to 1."""
        return self.layers(z.view(*z.shape, 1, 1)).float()


class Discriminator(nn.Module):
    def __init__(self, channels: int, args: Args):
        super().__init__()
        self.layers, size = reading_layers(channels, args)
        self.verdict = nn.Linear(size, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [n, c, h, w] -> D_l(x), the features of its last convolution [n, k], and the logit of real [n]."""
        features = self.layers(x).flatten(1)
        return features.float(), self.verdict(features).squeeze(1).float()


def initialize(module: nn.Module):
    """DCGAN's first values: weights from N(0, 0.02), those of batch normalization from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | BatchNorm):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, BatchNorm) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- the three losses ------------------------------------------------------------------------


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """L_prior: KL(N(mu, e^logvar) || N(0, 1)) in closed form, SUMMED over latents [n]."""
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)


def error_nats(x: torch.Tensor, recon: torch.Tensor, std: float) -> torch.Tensor:
    """L_llike: -log N(x | recon, std^2) but for its constant, SUMMED over all numbers of a picture: [n, ...] -> [n]."""
    return 0.5 * ((x - recon) / std).square().flatten(1).sum(1)


def discriminator_loss(verdicts: torch.Tensor) -> torch.Tensor:
    """-L_GAN [n]: logits of n real pictures, n reconstructions, n samples [3 n] -> -log D - log(1 - D) - log(1 - D)."""
    real, recon, sample = verdicts.chunk(3)
    return F.softplus(-real) + F.softplus(recon) + F.softplus(sample)


def deception_loss(verdicts: torch.Tensor) -> torch.Tensor:
    """What the decoder makes of L_GAN [n]: -log D of reconstructions and of samples, which does not saturate."""
    _, recon, sample = verdicts.chunk(3)
    return F.softplus(-recon) + F.softplus(-sample)


def read(discriminator: Discriminator, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [3 n, k] and logits [3 n] of real pictures, reconstructions, samples: each kind a batch of its own."""
    return tuple(torch.cat(found) for found in zip(*(discriminator(kind) for kind in drawn.chunk(3)), strict=True))


def update(networks, optimizers, pictures: torch.Tensor, noise: torch.Tensor, args: Args) -> torch.Tensor:
    """One update from this process's share of a batch, uint8 [n, c, h, w], and noise [n, 2, z] for codes and samples.

    Returns sums over the share [5]: KL divergence, errors in nats, -L_GAN, D of real pictures, D of samples.
    """
    encoder, decoder, *adversary = networks
    real = pictures.to(memory_format=torch.channels_last) / 127.5 - 1
    autocast = torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16)
    with autocast:
        mu, logvar = encoder(real)
        z, kl = mu + (0.5 * logvar).exp() * noise[:, 0], kl_divergence(mu, logvar)
    if not adversary:
        with autocast:
            nats = error_nats(real, decoder(z), args.noise_std)
        learn_from((kl + nats).sum() / args.batch_size, networks, optimizers)
        return torch.stack([kl, nats, *torch.zeros(3, len(kl), device=kl.device)]).detach().sum(1)

    (discriminator,) = adversary
    with autocast:
        drawn = torch.cat([real, decoder(torch.cat([z, noise[:, 1]]))])  # real, reconstructions, samples
        _, verdicts = read(discriminator, drawn.detach())
        loss_d = discriminator_loss(verdicts)
    learn_from(loss_d.sum() / args.batch_size, adversary, optimizers[2:])

    discriminator.requires_grad_(False)  # the gradient flows through D, not into it
    with autocast:
        features, judged = read(discriminator, drawn)
        real_features, recon_features, _ = features.chunk(3)
        nats = error_nats(real_features.detach(), recon_features, args.noise_std)
        deception = deception_loss(judged)
    # The encoder learns from the prior and the errors alone, the decoder from weighted errors and the deception.
    for network in networks[:2]:
        network.zero_grad()
    (kl + nats).sum().div(args.batch_size).backward(inputs=list(encoder.parameters()), retain_graph=True)
    (args.error_weight * nats + deception).sum().div(args.batch_size).backward(inputs=list(decoder.parameters()))
    for network, optimizer in zip(networks[:2], optimizers[:2], strict=True):
        sum_gradients(network)
        optimizer.step()
    discriminator.requires_grad_(True)
    on_real, _, on_sample = verdicts.sigmoid().chunk(3)
    return torch.stack([kl, nats, loss_d, on_real, on_sample]).detach().sum(1)


def learn_from(loss: torch.Tensor, networks: list, optimizers: list):
    for network in networks:
        network.zero_grad()
    loss.backward()
    for network, optimizer in zip(networks, optimizers, strict=True):
        sum_gradients(network)
        optimizer.step()


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


# --- Frechet distance: the same in every file that measures it -------------------------------


def train_classifier(pictures: torch.Tensor, labels: torch.Tensor, num_updates: int) -> nn.Sequential:
    """A small network that learns to tell the labels [n] of uint8 [n, c, h, w]. The same for every --seed."""
    side = pictures.shape[2]
    for _ in range(3):
        side = (side + 1) // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(pictures.shape[1], 16, 3, 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(64 * side**2, 64), nn.ReLU(), nn.Linear(64, int(labels.max()) + 1)]
        classifier = nn.Sequential(*layers).to(pictures.device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3, fused=True)
    rng = torch.Generator(pictures.device).manual_seed(0)
    for _ in range(num_updates):
        batch = torch.randint(len(pictures), (128,), generator=rng, device=pictures.device)
        loss = F.cross_entropy(classifier(pictures[batch].float() / 255), labels[batch].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier


@torch.no_grad()
def classifier_features(classifier: nn.Sequential, pictures: torch.Tensor) -> torch.Tensor:
    """What its last layer reads from uint8 pictures [n, c, h, w]: [n, 64]."""
    return torch.cat([classifier[:-1](part.float() / 255) for part in pictures.split(500)])


@torch.no_grad()
def classifier_accuracy(classifier: nn.Sequential, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    return (classifier[-1](classifier_features(classifier, pictures)).argmax(1) == labels).double().mean().item()


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) between features [n, k] and [m, k] taken as Gaussians.

    C_a C_b has the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2), so the trace of its root is the sum of their
    roots. Few samples make it too large: compare only distances that were measured with as many.
    """
    a, b = a.double().cpu(), b.double().cpu()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum().add(cov_a.trace() + cov_b.trace() - 2 * both).item()


# --- training --------------------------------------------------------------------------------

WEIGHTS, ORDER, NOISE, SCORES, FIXED, FRESH = range(6)


def stream(seed: int, *key: int) -> int:
    """The seed of an independent generator for every key: one of the uses above, then what tells its turns apart."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).integers(2**63))


def generator_of(device: torch.device, seed: int, *key: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream(seed, *key))


class Order:
    """Shuffled epochs, end to end: every batch is full, and one may end an epoch and begin the next."""

    def __init__(self, num_pictures: int, batch_size: int, seed: int, device: torch.device):
        self.num_pictures, self.batch_size, self.seed, self.device = num_pictures, batch_size, seed, device
        self.epoch = None

    def shuffled(self, epoch: int) -> torch.Tensor:
        rng = generator_of(self.device, self.seed, ORDER, epoch)
        return torch.randperm(self.num_pictures, generator=rng, device=self.device)

    def batch(self, step: int) -> torch.Tensor:
        """Which pictures the update takes [batch]."""
        epoch, start = divmod(step * self.batch_size, self.num_pictures)
        if epoch != self.epoch:
            self.epoch, self.indices = epoch, torch.cat([self.shuffled(epoch), self.shuffled(epoch + 1)])
        return self.indices[start : start + self.batch_size]


def resize(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [n, c, h, w] -> uint8 [n, c, size, size]."""
    if pictures.shape[2] == size:
        return pictures
    scale = {"size": (size, size), "mode": "bilinear", "antialias": True}
    return torch.cat([F.interpolate(part.float(), **scale).round().byte() for part in pictures.split(500)])


def load_data(args: Args, device: torch.device) -> tuple:
    """Pictures, uint8 [n, c, size, size], and labels [n] or None to train on, then those to test on; on the device."""
    train, labels, test, test_labels = load_pictures(args)
    train = train[: args.train_images or None]
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    if args.batch_size % num_processes():
        raise UsageError(f"--batch-size: {num_processes()} processes must be able to share it evenly")
    train, test = (resize(pictures, args.image_size).to(device) for pictures in (train, test))
    if labels is None:
        return train, None, test, None
    return train, labels[: len(train)].to(device), test, test_labels.to(device)


def make_networks(args: Args, channels: int, device: torch.device) -> list[nn.Module]:
    """Encoder, decoder and, unless --loss is vae, discriminator."""
    kinds = [Encoder, Decoder] if args.loss == "vae" else [Encoder, Decoder, Discriminator]
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        networks = [kind(channels, args).apply(initialize) for kind in kinds]
    return [network.to(device, memory_format=torch.channels_last) for network in networks]


@torch.no_grad()
def draw(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    """The pictures of codes [n, z], each by itself and not as one of a batch: uint8 [n, c, h, w]."""
    decoder.eval()
    parts = [((decoder(part) + 1) * 127.5).round().byte() for part in z.split(250)]
    decoder.train()
    return torch.cat(parts).contiguous()


@torch.no_grad()
def encode(encoder: Encoder, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """mu and logvar [n, z] of uint8 [n, c, h, w]."""
    encoder.eval()
    parts = [encoder(part / 127.5 - 1) for part in pictures.split(250)]
    encoder.train()
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def sharpness(pictures: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels, which blur lowers: uint8 [n, c, h, w]."""
    x = pictures.float()
    return (x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()).item()


class Scores:
    """Judges samples and reconstructions, beside real pictures."""

    def __init__(self, args: Args, train, labels, test, test_labels):
        self.args, self.num = args, min(args.eval_images, len(train))
        self.test, self.real_sharpness, self.classifier = test[: args.eval_images], sharpness(test), None
        self.facts = {"eval/frechet_real": None, "eval/judge_accuracy": None}
        if labels is not None and args.judge_updates:
            self.classifier = train_classifier(train, labels, args.judge_updates)
            self.real = classifier_features(self.classifier, train[:10_000])
            accuracy = classifier_accuracy(self.classifier, test, test_labels)
            self.facts = {"eval/frechet_real": self.distance(self.test), "eval/judge_accuracy": accuracy}

    def distance(self, pictures: torch.Tensor) -> float | None:
        if self.classifier:
            return frechet_distance(classifier_features(self.classifier, pictures), self.real)
        return None

    def of(self, encoder: Encoder, decoder: Decoder) -> dict:
        """The columns eval/ of a row: of samples, and of reconstructions of pictures that were not trained on."""
        device = self.test.device
        z = torch.randn(
            self.num, self.args.latent_dim, generator=generator_of(device, self.args.seed, SCORES), device=device
        )
        samples, (mu, logvar) = draw(decoder, z), encode(encoder, self.test)
        recon = draw(decoder, mu)
        errors = ((recon.float() - self.test.float()) / 255).square().flatten(1).sum(1)
        return {
            "eval/frechet": self.distance(samples),
            "eval/frechet_recon": self.distance(recon),
            **self.facts,
            "eval/sharpness": sharpness(samples) / self.real_sharpness,
            "eval/sharpness_recon": sharpness(recon) / self.real_sharpness,
            "eval/squared_error": errors.mean().item(),
            "eval/kl": kl_divergence(mu, logvar).mean().item(),
        }


# --- pictures of what it learned -------------------------------------------------------------


def save_grid(run: Run, name: str, pictures: torch.Tensor, columns: int):
    """uint8 [n, c, h, w] in rows of so many, a grey line between them, each pixel two wide."""
    from PIL import Image

    framed = F.pad(pictures.cpu(), (0, 1, 0, 1), value=128)
    n, c, h, w = framed.shape
    rows = framed.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, c]
    image = Image.fromarray(rows.reshape(n // columns * h, columns * w, c).squeeze(2).numpy())
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


def first(pictures: torch.Tensor, num: int) -> torch.Tensor:
    """The first ones, from the start again where there are fewer [num, c, h, w]."""
    return pictures[torch.arange(num) % len(pictures)]


def draw_while_learning(run: Run, encoder: Encoder, decoder: Decoder, test: torch.Tensor, args: Args):
    """samples.png, reconstructions.png (originals and, below each, its reconstruction) and interpolations.png."""
    z = torch.randn(64, args.latent_dim, generator=generator_of(test.device, args.seed, FIXED), device=test.device)
    save_grid(run, "samples", draw(decoder, z), 8)
    originals = first(test, 30)
    pairs = torch.stack(
        [
            originals.view(3, 10, *test.shape[1:]),
            draw(decoder, encode(encoder, originals)[0]).view(3, 10, *test.shape[1:]),
        ],
        1,
    )
    save_grid(run, "reconstructions", pairs.flatten(0, 2), 10)
    steps = torch.linspace(0, 1, 10, device=test.device).view(1, 10, 1)
    ends = encode(encoder, first(test, 16))[0].view(8, 2, 1, -1)
    save_grid(run, "interpolations", draw(decoder, ((1 - steps) * ends[:, 0] + steps * ends[:, 1]).flatten(0, 1)), 10)


def write_samples(run: Run, encoder: Encoder, decoder: Decoder, args: Args, data: tuple):
    """samples.npz: new pictures uint8 [n, c, h, w], seconds that drawing them took, codes (mu) of labelled pictures."""
    train, labels, test, test_labels = data
    rng, start = generator_of(train.device, args.seed, FRESH), time.perf_counter()
    samples = draw(decoder, torch.randn(args.save_samples, args.latent_dim, generator=rng, device=train.device))
    arrays = {"samples": samples.numpy(force=True), "seconds": time.perf_counter() - start}
    if labels is not None:
        for name, pictures, known in (("train", train, labels), ("test", test, test_labels)):
            arrays[f"{name}_codes"] = encode(encoder, pictures[:10_000])[0].numpy(force=True)
            arrays[f"{name}_labels"] = known[:10_000].numpy(force=True)
    np.savez_compressed(run.dir / "samples.npz", **arrays)


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        return learn(args, checkpoint, device, load_data(args, device))


def learn(args: Args, checkpoint: dict | None, device: torch.device, data: tuple) -> dict:
    """The loop: a batch, an update of each network, and now and then a row of metrics, pictures, a checkpoint."""
    pictures, row = data[0], {}
    networks = make_networks(args, pictures.shape[1], device)
    encoder, decoder, *_ = networks
    settings = {"lr": args.learning_rate, "betas": (args.beta1, 0.999), "fused": True}
    optimizers = [torch.optim.Adam(network.parameters(), **settings) for network in networks]
    names = ("encoder", "decoder", "discriminator")[: len(networks)]
    parts = dict(zip((*names, *(f"adam_{name}" for name in names)), (*networks, *optimizers), strict=True))
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    step, row_number, elapsed = 0, 0, 0.0

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed}
        return {name: part.state_dict() for name, part in parts.items()} | counters

    if checkpoint:
        try:
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            step, row_number, elapsed = (checkpoint[key] for key in ("step", "row_number", "elapsed"))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if step >= total_steps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")
    if args.compile:
        for network in networks:
            network.compile()

    run = Run(args, args.dataset, checkpoint and checkpoint["rows"]) if process_rank() == 0 else None
    scores = Scores(args, *data) if run else None
    bar = tqdm(total=total_steps, initial=step, unit="update", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while step < total_steps:
            start, first_step = time.perf_counter(), step
            # Every process draws the noise of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, sums = generator_of(device, args.seed, NOISE, row_number), torch.zeros(5, device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                batch = pictures.index_select(0, order.batch(step)[share])
                noise = torch.randn(args.batch_size, 2, args.latent_dim, generator=rng, device=device)[share]
                sums += update(networks, optimizers, batch, noise, args)
                step += 1
            means = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not all(map(math.isfinite, means)):
                raise FloatingPointError(f"a loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished, adversarial = step >= total_steps, args.loss == "vae-gan"
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/kl": means[0],
                "losses/errors": means[1],
                "losses/discriminator": means[2] if adversarial else None,
                "charts/d_real": means[3] if adversarial else None,
                "charts/d_sample": means[4] if adversarial else None,
                **scores.of(encoder, decoder),
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            draw_while_learning(run, encoder, decoder, data[2], args)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(frechet=row["eval/frechet"], sharpness=row["eval/sharpness"])

        if run:
            run.plot("eval/squared_error" if row["eval/frechet"] is None else "eval/frechet")
            if args.save_samples:
                write_samples(run, encoder, decoder, args, data)
            speed = f"after {step:,} updates at {row['charts/SPS']:,.0f} pictures/s"
            print(f"{summary(row)} {speed}: {run.dir}")
    return row


def summary(row: dict) -> str:
    """What the scores of a row say, in words."""
    words = f"samples {row['eval/sharpness']:.2f} times as sharp as real pictures"
    if row["eval/frechet"] is not None:
        distance = f"{row['eval/frechet']:.2f} (unseen real pictures: {row['eval/frechet_real']:.2f})"
        words += f", Frechet distance {distance} in the features of a small classifier"
    return f"{words}, squared error {row['eval/squared_error']:.2f} per picture"


def evaluate(folder: Path) -> dict:
    """Scores of 10,000 samples of a run's model, or as many as there are pictures to train on."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        data = load_data(args, device)
        networks = make_networks(args, data[0].shape[1], device)
        try:
            for name, network in zip(("encoder", "decoder"), networks, strict=False):
                network.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        args.eval_images = 10_000
        scores = Scores(args, *data)
        row = scores.of(*networks[:2])
    print(f"{summary(row)} ({scores.num:,} samples), after {checkpoint['step']:,} updates")
    return row


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
