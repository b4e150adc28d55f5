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
"""Variational autoencoder: squeeze a picture through a noisy code, and learn to draw new ones from noise alone.

    python gen/vae.py
    python gen/vae.py --dataset mnist --epochs 10
    python gen/vae.py --dataset mnist --binarize dynamic --hidden 200 200 --latent-dim 50 --importance-samples 50
    torchrun --nproc-per-node 2 gen/vae.py --dataset cifar10 --network conv --likelihood gaussian

The encoder turns a picture x into a Gaussian q(z|x) over codes z; a code drawn from it is all that the decoder gets to
draw x again. Two costs are traded against each other: the nats that the picture needs given its code, and the nats
that the code tells beyond the prior N(0, I), KL(q(z|x) || N(0, I)). Their sum bounds -log p(x) from above, and because
codes look like N(0, I), a code drawn from N(0, I) becomes a picture too.

Both terms are SUMS over all pixels and all latents, in nats per picture, averaged over pictures only. Averaging the
first over pixels, as many do, multiplies the weight of the second by 784 on MNIST, and the code tells nothing any more.

Expect, from the default on scikit-learn's digits, a test loss of 281 nats after 50 epochs, 6 CPU seconds; on MNIST's
grey pictures, with --epochs 10 --bf16, 105.5 (three seeds) at 1.9 CPU seconds an epoch on one core, 3.2 in float32,
where PyTorch's example of the same network takes 5.6.

A run leaves samples.png (codes from N(0, I)), reconstructions.png (originals, after epochs 1 and 9, after the last),
plane.png (the two most telling latents walked from end to end), interpolations.png (from one picture's code to
another's), latents.png (nats that each latent tells, and where the pictures lie in the two most telling ones); with
--save-samples also samples.npz, fresh pictures and the codes of labelled ones, for programs that compare models.

Papers
    Kingma & Welling 2014, "Auto-encoding variational Bayes" (arXiv 1312.6114): the bound, the closed form of the KL
    divergence (appendix B), the reparametrization.
    Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders" (arXiv 1509.00519): --importance-samples, the
    likelihood of 5,000 samples (tables 1 and 3), active units, --schedule stages, the bias that starts at the mean.
    Kevin Frans 2016, "Variational autoencoders explained" (the post): --network conv, the pictures of epochs 1 and 9.

Differences from the papers and the post
    1. Weights begin as Glorot's, biases at 0, but the decoder's last one at the mean picture (as Burda et al. do).
    2. The encoder gives log-variances; the post's standard deviations could become negative.
    3. The post's loss averages squared errors and sums the KL divergence; here both are summed, see above.
    4. Grey pictures are targets of the cross-entropy as they are (--binarize none), as in the post and in PyTorch's
       example. That is no probability of anything: likelihoods compare only with others of --binarize static or
       dynamic. Test pictures are binarized once, the same for every seed.
    5. --binarize static draws its own pixels once; Larochelle's file of fixed ones is another draw.
    6. An epoch's last pictures and the next one's first may share a batch, so that every batch is full.
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

    epochs: float = 50.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 128
    """pictures per update, over all processes"""
    learning_rate: float = 1e-3
    """Adam's step size"""
    adam_eps: float = 1e-8
    """Adam's epsilon (Burda et al.: 1e-4)"""
    schedule: Literal["constant", "stages"] = "constant"
    """step size: constant, or 10^(-i/7) of it for 3^i epochs, i = 0 to 7, 3,280 in all (Burda et al.)"""
    network: Literal["dense", "conv"] = "dense"
    """fully connected, or convolutions of 5x5 with stride 2"""
    hidden: tuple[int, ...] | None = None
    """units of the encoder's layers, channels of conv; the decoder's backwards (default: 400; conv: 16 32)"""
    activation: Literal["relu", "tanh"] = "relu"
    """between the layers"""
    latent_dim: int = 20
    """latents: the size of the code z"""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """what a pixel is given the code: black or white, or a number with Gaussian noise"""
    noise_std: float = 0.0
    """standard deviation of that noise, 0 to learn it; 1 makes the loss half the squared error"""
    kl_weight: float = 1.0
    """weight of the KL divergence; 0 is the plain autoencoder, without noise"""
    importance_samples: int = 1
    """codes per picture; with more than one, train on the tighter bound of Burda et al."""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    nll_samples: int = 5000
    """codes per picture to estimate its likelihood with, in the last row and in --evaluate"""
    nll_images: int = 100
    """test pictures to estimate it for in the last row, 0 for all; --evaluate takes all"""
    save_samples: int = 0
    """when training ends, write so many new pictures, and the codes of labelled ones, to samples.npz; 0 for none"""

    def __post_init__(self):
        default = (16, 32) if self.network == "conv" else (400,)
        self.hidden = default if self.hidden is None else tuple(self.hidden)
        self.data_dir = Path(self.data_dir)  # args.json holds paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        least_one = ["image_size", "batch_size", "latent_dim", "importance_samples", "checkpoint_every", "nll_samples"]
        for name in least_one:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "train_images", "log_every", "nll_images", "save_samples"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate", "adam_eps"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        for name in ["noise_std", "kl_weight"]:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        if not all(units > 0 for units in self.hidden) or (self.network == "conv" and not self.hidden):
            raise UsageError("--hidden must be positive numbers, for --network conv at least one")
        if self.importance_samples > 1 and self.kl_weight != 1:
            raise UsageError("--importance-samples takes no --kl-weight: its bound has no separate KL term")
        if self.likelihood == "gaussian" and self.binarize != "none":
            raise UsageError("--binarize makes pixels for --likelihood bernoulli")
        if self.noise_std and self.likelihood == "bernoulli":
            raise UsageError("--noise-std is for --likelihood gaussian")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- the model -------------------------------------------------------------------------------


def mlp(sizes: list[int], activation) -> list[nn.Module]:
    """Linear layers of these sizes with an activation between them, but none after the last."""
    layers = [nn.Linear(sizes[0], sizes[1])]
    for before, after in pairwise(sizes[1:]):
        layers += [activation(), nn.Linear(before, after)]
    return layers


def dense_networks(shape: tuple[int, int, int], args: Args) -> tuple[list, list]:
    """x [n, c, h, w] -> mu and logvar [n, 2 z], and z [n, z] -> [n, c, h, w]."""
    activation = nn.Tanh if args.activation == "tanh" else nn.ReLU
    encoder = mlp([math.prod(shape), *args.hidden, 2 * args.latent_dim], activation)
    decoder = mlp([args.latent_dim, *reversed(args.hidden), math.prod(shape)], activation)
    return [nn.Flatten(), *encoder], [*decoder, nn.Unflatten(1, shape)]


def conv_networks(shape: tuple[int, int, int], args: Args) -> tuple[list, list]:
    """The same with convolutions, each of which halves height and width on the way in and doubles them back out."""
    activation = nn.Tanh if args.activation == "tanh" else nn.ReLU
    channels, scale = [shape[0], *args.hidden], 2 ** len(args.hidden)
    if shape[1] % scale or shape[2] % scale:
        raise UsageError(f"--hidden: {len(args.hidden)} convolutions of stride 2 need sides that {scale} divides")
    small = (channels[-1], shape[1] // scale, shape[2] // scale)  # [c, h, w] in the middle
    encoder, decoder = [], []
    for i in range(len(args.hidden)):
        encoder += [nn.Conv2d(channels[i], channels[i + 1], 5, stride=2, padding=2), activation()]
    for i in reversed(range(len(args.hidden))):
        up = nn.ConvTranspose2d(channels[i + 1], channels[i], 5, stride=2, padding=2, output_padding=1)
        decoder += [activation(), up]
    encoder += [nn.Flatten(), nn.Linear(math.prod(small), 2 * args.latent_dim)]
    return encoder, [nn.Linear(args.latent_dim, math.prod(small)), nn.Unflatten(1, small), *decoder]


class VAE(nn.Module):
    """Encoder and decoder: q(z|x) and p(x|z), each independent over latents or pixels."""

    def __init__(self, args: Args, mean: torch.Tensor):
        """`mean` [c, h, w] is the mean picture, from 0 to 1."""
        super().__init__()
        encoder, decoder = (conv_networks if args.network == "conv" else dense_networks)(tuple(mean.shape), args)
        for layer in encoder + decoder:
            if hasattr(layer, "weight"):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.log_std = None
        if args.likelihood == "gaussian":
            start = torch.tensor(math.log(args.noise_std or 0.2))
            self.log_std = nn.Parameter(start, requires_grad=args.noise_std == 0)
        last = next(layer for layer in reversed(decoder) if hasattr(layer, "bias"))
        mean = mean if args.network == "dense" else mean.mean((1, 2))  # a bias per pixel, or per channel
        with torch.no_grad():
            last.bias.copy_((mean if self.log_std is not None else mean.clamp(0.001, 0.999).logit()).flatten())

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [n, c, h, w] -> mu and logvar [n, z] of q(z|x)."""
        return self.encoder(x).float().chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """z [n, z] -> logits of the pixels, or their means for the Gaussian likelihood [n, c, h, w]."""
        return self.decoder(z).float()

    def recon(self, z: torch.Tensor) -> torch.Tensor:
        """z [n, z] -> the pictures that these codes stand for [n, c, h, w], from 0 to 1."""
        return self.decode(z).sigmoid() if self.log_std is None else self.decode(z).clamp(0, 1)

    def log_likelihood(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """log p(x|z), SUMMED over pixels: x [n, c, h, w], z [n, k, z] -> [n, k]."""
        decoded = self.decode(z.flatten(0, 1)).view(len(x), -1, *x.shape[1:])  # [n, k, c, h, w]
        x = x.unsqueeze(1).expand_as(decoded)
        if self.log_std is None:  # on logits: exact where the sigmoid itself would round to 0 or 1
            return -F.binary_cross_entropy_with_logits(decoded, x, reduction="none").flatten(2).sum(2)
        log_p = -0.5 * ((x - decoded) / self.log_std.exp()) ** 2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return log_p.flatten(2).sum(2)


# --- the bound -------------------------------------------------------------------------------


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) in closed form (Kingma & Welling, appendix B), per picture and latent [n, z]."""
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1)


def reparameterize(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Codes from q(z|x) as a function of its parameters, through which gradients flow: noise [n, k, z] -> z."""
    return mu.unsqueeze(1) + (0.5 * logvar).exp().unsqueeze(1) * noise


def log_ratio(z: torch.Tensor, noise: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """log p(z) - log q(z|x) of codes z [n, k, z] that this noise made: [n, k]. The two -z/2 log(2 pi) cancel."""
    return 0.5 * (noise**2 + logvar.unsqueeze(1) - z**2).sum(2)


def log_mean_exp(log_w: torch.Tensor) -> torch.Tensor:
    """Log of the mean of e^log_w over the last dimension."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def losses(model: VAE, x: torch.Tensor, noise: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Nats per picture: x [n, c, h, w], noise [n, k, z] -> [3, n], the loss, the reconstruction's and the KL term.

    With one code the loss is reconstruction + kl_weight * KL, minus the evidence lower bound where the weight is 1;
    with k codes it is minus the bound of Burda et al., the log of the mean of k importance weights.
    """
    mu, logvar = model.encode(x)
    z = reparameterize(mu, logvar, noise)
    log_p = model.log_likelihood(x, z)  # [n, k]
    recon, kl = -log_p.mean(1), kl_divergence(mu, logvar).sum(1)  # SUMMED over latents
    if noise.shape[1] == 1:
        return torch.stack([recon + kl_weight * kl, recon, kl])
    return torch.stack([-log_mean_exp(log_p + log_ratio(z, noise, logvar)), recon, kl])


@torch.no_grad()
def log_evidence(model: VAE, x: torch.Tensor, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """log p(x) by importance sampling from q(z|x), a lower bound in expectation: x [n, c, h, w] -> [n]."""
    per_pass = max(1, 2**22 // (math.prod(x.shape[1:]) * len(x)))  # codes per picture that fit in 16 MB of pixels
    mu, logvar = model.encode(x)
    total = torch.full((len(x),), -math.inf, device=x.device)
    for start in range(0, num_samples, per_pass):
        k = min(per_pass, num_samples - start)
        noise = torch.randn(len(x), k, mu.shape[1], generator=generator, device=x.device)
        z = reparameterize(mu, logvar, noise)
        log_w = model.log_likelihood(x, z) + log_ratio(z, noise, logvar)  # log p(x, z) / q(z|x)
        total = torch.logaddexp(total, log_w.logsumexp(1))
    return total - math.log(num_samples)


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

WEIGHTS, ORDER, NOISE, SCORES, LIKELIHOOD, PRIOR, SAMPLES = range(7)
BINARIZE_STATIC, BINARIZE_TEST, BINARIZE_SCORED = range(3)  # of a stream of their own, the same for every --seed


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


def learning_rate(args: Args, epoch: float) -> float:
    """Adam's step size after so many epochs: stage i of eight lasts 3^i of them and ends after (3^(i+1) - 1) / 2."""
    if args.schedule == "constant":
        return args.learning_rate
    stage = next(i for i in range(8) if epoch < (3 ** (i + 1) - 1) / 2 or i == 7)
    return args.learning_rate * 10 ** (-stage / 7)


def load_data(args: Args, device: torch.device) -> tuple:
    """Training pictures, test pictures [n, c, h, w] as uint8 on the device, their labels [n] or None each."""
    train, labels, test, test_labels = load_pictures(args)
    train, test = train[: args.train_images or None].to(device), test.to(device)
    if args.batch_size > len(train):
        raise UsageError(f"--batch-size: at most {len(train)}, as many as there are pictures to train on")
    if args.binarize == "static":
        train = bernoulli(train, generator(device, 0, BINARIZE_STATIC))
    if args.binarize != "none":
        test = bernoulli(test, generator(device, 0, BINARIZE_TEST))
    return train, test, labels, test_labels


def make_model(args: Args, train: torch.Tensor, device: torch.device) -> VAE:
    mean = train.sum(0, dtype=torch.float64).div(255 * len(train)).float().cpu()
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        return VAE(args, mean).to(device)


def draw_noise(args: Args, num_pictures: int, num_codes: int, rng: torch.Generator) -> torch.Tensor:
    """Standard normal numbers [n, k, z]; zeros for the plain autoencoder, whose code is mu."""
    shape = (num_pictures, num_codes, args.latent_dim)
    if args.kl_weight == 0:
        return torch.zeros(shape, device=rng.device)
    return torch.randn(shape, generator=rng, device=rng.device)


def update(model, optimizer, pictures: torch.Tensor, noise: torch.Tensor, args: Args, loss_function) -> torch.Tensor:
    """One update from this process's share of a batch, uint8 [n, c, h, w]. Returns the sums of losses' rows [3]."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16):
        terms = loss_function(model, pictures.float() / 255, noise, args.kl_weight)
    optimizer.zero_grad()
    (terms[0].sum() / args.batch_size).backward()
    sum_gradients(model)
    optimizer.step()
    return terms.detach().sum(1)


@torch.no_grad()
def score(model: VAE, pictures: torch.Tensor, args: Args) -> list[float]:
    """Means over pictures, uint8 [n, c, h, w]: loss, recon, kl, and the squared error of what mu is decoded to."""
    rng = generator(pictures.device, args.seed, SCORES)
    sums = torch.zeros(4, device=pictures.device)
    for part in pictures.split(500):
        x = part.float() / 255
        terms = losses(model, x, draw_noise(args, len(x), args.importance_samples, rng), args.kl_weight)
        errors = ((model.recon(model.encode(x)[0]) - x) ** 2).sum()
        sums += torch.cat([terms.sum(1), errors.unsqueeze(0)])
    return (sums / len(pictures)).tolist()


@torch.no_grad()
def latent_statistics(model: VAE, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of uint8 [n, c, h, w]: mu [n, z], mean KL divergence of each latent [z], variance of each latent's mu [z]."""
    parts = [model.encode(part.float() / 255) for part in pictures.split(500)]
    mu, logvar = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return mu, kl_divergence(mu, logvar).mean(0), mu.var(0)


ACTIVE = 0.01  # a latent is active when its mu varies by more from picture to picture (Burda et al.)


def negative_log_likelihood(model: VAE, pictures: torch.Tensor, args: Args) -> tuple[float, float]:
    """-log p(x) in nats, mean over uint8 [n, c, h, w] and its standard error."""
    rng = generator(pictures.device, args.seed, LIKELIHOOD)
    parts = tqdm(pictures.split(20), desc="likelihood", leave=False, disable=None)
    nll = -torch.cat([log_evidence(model, part.float() / 255, args.nll_samples, rng) for part in parts]).double()
    return nll.mean().item(), (nll.std(correction=0) / len(nll) ** 0.5).item()


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


@torch.no_grad()
def draw_while_learning(run: Run, model: VAE, test: torch.Tensor, early: list[torch.Tensor], args: Args):
    """samples.png, 8 rows of 8, and reconstructions.png: originals, after the epochs kept in `early`, now."""
    z = torch.randn(64, args.latent_dim, generator=generator(test.device, args.seed, PRIOR), device=test.device)
    save_grid(run, "samples", model.recon(z), 8)
    originals = first(test, 10)
    rows = [originals, *(kept.to(test.device).float() / 255 for kept in early), model.recon(model.encode(originals)[0])]
    save_grid(run, "reconstructions", torch.cat(rows), 10)


@torch.no_grad()
def draw_latents(run: Run, model: VAE, test: torch.Tensor, labels: torch.Tensor | None, args: Args):
    """interpolations.png, plane.png and latents.png, of the trained model."""
    from matplotlib.figure import Figure

    mu, kl, variance = latent_statistics(model, test)
    steps = torch.linspace(0, 1, 10, device=mu.device).view(1, 10, 1)
    ends = model.encode(first(test, 16))[0].view(8, 2, 1, -1)
    save_grid(run, "interpolations", model.recon(((1 - steps) * ends[:, 0] + steps * ends[:, 1]).flatten(0, 1)), 10)

    most, next_most = kl.argsort(descending=True)[[0, min(1, len(kl) - 1)]].tolist()  # the two that tell most
    quantiles = torch.special.ndtri(torch.linspace(0.02, 0.98, 15, device=mu.device))  # of N(0, 1), evenly likely
    z = torch.zeros(15, 15, args.latent_dim, device=mu.device)
    z[:, :, most] = quantiles
    z[:, :, next_most] = quantiles.flip(0).unsqueeze(1)
    save_grid(run, "plane", model.recon(z.flatten(0, 1)), 15)

    bars, plane = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    active = int((variance > ACTIVE).sum())
    bars.bar(range(len(kl)), kl.sort(descending=True).values.tolist(), color="#0072B2")
    bars.set(xlabel="latents, sorted", ylabel="KL divergence (nats)", title=f"{active} of {len(kl)} latents active")
    colors = labels.tolist() if labels is not None else "#0072B2"
    places = mu[:, [most, next_most]].numpy(force=True)
    points = plane.scatter(places[:, 0], places[:, 1], s=4, c=colors, cmap="tab10" if labels is not None else None)
    if labels is not None:
        plane.figure.colorbar(points, ax=plane, label="label")
    plane.set(xlabel=f"mu of latent {most}", ylabel=f"mu of latent {next_most}", title="test pictures")
    bars.figure.savefig(run.dir / "latents.png", dpi=120)
    run.picture(run.dir / "latents.png")


@torch.no_grad()
def save_samples(run: Run, model: VAE, args: Args, pictures: torch.Tensor, test: torch.Tensor, labels, test_labels):
    """samples.npz: new pictures uint8 [n, c, h, w], seconds that drawing them took, codes (mu) of labelled pictures."""
    rng, start = generator(pictures.device, args.seed, SAMPLES), time.perf_counter()
    z = torch.randn(args.save_samples, args.latent_dim, generator=rng, device=pictures.device)
    samples = torch.cat([(model.recon(part) * 255).round().byte() for part in z.split(500)])
    samples = samples if args.binarize == "none" else bernoulli(samples, rng)  # as the pictures it has learned from
    arrays = {"samples": samples.numpy(force=True), "seconds": time.perf_counter() - start}
    if labels is not None:
        for name, x, y in (("train", pictures, labels), ("test", test, test_labels)):
            arrays[f"{name}_codes"] = latent_statistics(model, x[:10_000])[0].numpy(force=True)
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


def learn(args: Args, checkpoint: dict | None, model: VAE, pictures, test, labels, test_labels) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics, pictures, a checkpoint."""
    device, row = pictures.device, {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=args.adam_eps, fused=True)
    loss_function = torch.compile(losses) if args.compile else losses
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    step, row_number, elapsed, early = 0, 0, 0.0, []
    scored = pictures[: len(test)]  # training pictures to compare with as many that it never saw
    if args.binarize == "dynamic":
        scored = bernoulli(scored, generator(device, 0, BINARIZE_SCORED))

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed}
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "early": early} | counters

    if checkpoint:
        try:
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            step, row_number, elapsed, early = (checkpoint[key] for key in ("step", "row_number", "elapsed", "early"))
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
                noise = draw_noise(args, len(batch), args.importance_samples, rng)
                optimizer.param_groups[0]["lr"] = learning_rate(args, step * args.batch_size / len(pictures))
                sums += update(model, optimizer, batch[share], noise[share], args, loss_function)
                step += 1
            loss, recon, kl = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished, epoch = step >= total_steps, step * args.batch_size / len(pictures)
            scores = score(model, test, args)
            train_scores = score(model, scored, args)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": epoch,
                "losses/loss": loss,
                "losses/recon": recon,
                "losses/kl": kl,
                "eval/loss": scores[0],
                "eval/recon": scores[1],
                "eval/kl": scores[2],
                "eval/squared_error": scores[3],
                "eval/train_loss": train_scores[0],
                "eval/train_squared_error": train_scores[3],
                "eval/nll": None,
                "eval/nll_error": None,
                "eval/active_units": None,
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            for kept in (1, 9):
                if first_step * args.batch_size < kept * len(pictures) <= step * args.batch_size:
                    with torch.no_grad():
                        recon = model.recon(model.encode(first(test, 10))[0])
                    early.append((recon * 255).round().byte().cpu())
            if finished:
                row["eval/active_units"] = int((latent_statistics(model, test)[2] > ACTIVE).sum())
                if args.kl_weight:
                    chosen = torch.linspace(0, len(test) - 1, args.nll_images or len(test), device=device).long()
                    row["eval/nll"], row["eval/nll_error"] = negative_log_likelihood(model, test[chosen], args)
            run.log(row)
            draw_while_learning(run, model, test, early, args)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(loss=f"{scores[0]:.2f}")

        if run:
            run.plot("eval/loss")
            draw_latents(run, model, test, test_labels, args)
            if args.save_samples:
                save_samples(run, model, args, pictures, test, labels, test_labels)
            nll = f", -log p(x) {row['eval/nll']:.2f} +- {row['eval/nll_error']:.2f}" if args.kl_weight else ""
            result = f"test loss {row['eval/loss']:.2f} nats per picture{nll}"
            print(f"{result} after {row['charts/epoch']:g} epochs at {row['charts/SPS']:,.0f} pictures/s: {run.dir}")
    return row


def evaluate(folder: Path) -> tuple[float, float]:
    """-log p(x) of every test picture under the model of a run: mean and standard error, in nats."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    if args.kl_weight == 0:
        raise UsageError(f"--evaluate {folder}: an autoencoder (--kl-weight 0) gives no likelihood")
    with torch_settings(args), device_settings(args) as device:
        pictures, test, *_ = load_data(args, device)
        model = make_model(args, pictures, device)
        try:
            model.load_state_dict(checkpoint["model"])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        mean, error = negative_log_likelihood(model, test, args)
        active = int((latent_statistics(model, test)[2] > ACTIVE).sum())
    print(
        f"-log p(x) {mean:.2f} +- {error:.2f} nats ({len(test):,} test pictures, {args.nll_samples:,} codes each), "
        f"{active} of {args.latent_dim} latents active, after {checkpoint['step']:,} updates"
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
