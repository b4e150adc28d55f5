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
"""Generative adversarial network: a forger learns to draw by deceiving a detective, who learns from every forgery.

    python gen/gan.py
    python gen/gan.py --dataset mnist --codes 10 --epochs 6 --learning-rate 0.0002 --generator-learning-rate 0.001
    python gen/gan.py --dataset cifar10 --epochs 8 --minibatch-discrimination --bf16
    torchrun --nproc-per-node 2 gen/gan.py --dataset cifar10 --image-size 64 --width 64

The generator G turns noise z into a picture; the discriminator D says how likely a picture is to be a real one. D
learns to tell them apart; G learns, through D's gradient, which way to change its pictures so that D takes them for
real. No likelihood is computed. Nothing in this keeps G from drawing one good picture for ever, so each row measures
how far apart its pictures are, beside real ones, and the run says so when it has collapsed.

--minibatch-discrimination lets D see how alike the pictures of a batch are. --codes 10 gives a part of the noise a
meaning that nobody states: G is rewarded when its picture tells which of ten codes it was made from (InfoGAN), and on
MNIST the codes become the digits.

Expect, from the default on scikit-learn's digits, digits that can be read for the most part after 938 updates, about
70 CPU seconds, at a Frechet distance of 186 (one seed; the 297 unseen real ones, from other writers, are at 231). At 64
pixels with --width 64 --bf16, 79 and 121 pictures of CIFAR-10 per CPU second (a busy core, a quiet one), 2.1 and 2.3
times as many as PyTorch's example takes. On MNIST with ten codes, noise of 62 numbers and the step sizes above, after
5,719 updates (285 seconds): the codes take 16.7 % of the test pictures for another digit, after 13,125 11.7 %
(published: 5 %); Frechet distance 14.7 and 12.2 (unseen real digits: 15.7). The 100,000 updates that published
distances are measured after were not run.

A run leaves samples.png (always the same noise), progress.png (real pictures, then after 300, 900, 5,700 updates and
the last), animation.gif, interpolations.png, sweep.png (one coordinate of the noise from -1 to 1 in each row, the
others held; continuous codes first), codes.png (a code in each column), curve.png.

Papers
    Goodfellow et al. 2014, "Generative adversarial nets" (arXiv 1406.2661): the game, and the loss of G that does not
    saturate: it raises log D(G(z)) where the game itself would lower log(1 - D(G(z))).
    Radford, Metz & Chintala 2016, "DCGAN" (arXiv 1511.06434): the networks, the weights' first values, Adam's settings.
    Salimans et al. 2016, "Improved techniques for training GANs" (arXiv 1606.03498): --minibatch-discrimination.
    Chen et al. 2016, "InfoGAN" (arXiv 1606.03657): --codes and --continuous-codes.
    Heusel et al. 2017 (arXiv 1706.08500): the Frechet distance. Theirs is between features of Inception; here, between
    those of a small classifier that the script trains on the same labelled set: the numbers do not compare.
    Kevin Frans 2016 (the post): noise from -1 to 1, the updates after which pictures are shown, the sweep.

Differences from the papers and the post
    1. At 28 and 32 pixels the networks lose levels from the middle; --width 64 --image-size 64 are DCGAN's own.
    2. D's weights are frozen while G learns, which saves the gradients that would be thrown away.
    3. With codes, both networks get InfoGAN's dense layer, smaller; Q's loss does not change D's features (without
       both, codes had little to do with MNIST's digits); Q's Gaussians have a standard deviation of 1.
    4. Samples for figures and scores are made with the running statistics of batch normalization.
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
    """compile both networks with torch.compile: needs a C++ compiler, takes a while to begin"""
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
    """Frechet distance of 10,000 samples of the model in this folder: no other flag may stand beside"""

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

    epochs: float = 40.0
    """passes over the pictures; half a one is fine"""
    batch_size: int = 64
    """pictures per update, over all processes"""
    learning_rate: float = 5e-4
    """Adam's step size (DCGAN: 2e-4)"""
    generator_learning_rate: float = 0.0
    """that of the generator, 0 for the same (InfoGAN on MNIST: 1e-3, with 2e-4 for the discriminator)"""
    beta1: float = 0.5
    """Adam's decay of the mean gradient"""
    width: int = 32
    """channels at the highest resolution, doubled at each lower one (DCGAN: 64)"""
    latent_dim: int = 100
    """numbers of noise, each from -1 to 1"""
    minibatch_discrimination: bool = False
    """let the discriminator see how alike the pictures of a batch are"""
    codes: int = 0
    """values of a categorical code beside the noise, which the pictures are to tell (InfoGAN on MNIST: 10)"""
    continuous_codes: int = 0
    """codes from -1 to 1 beside the noise, which the pictures are to tell (InfoGAN on MNIST: 2)"""
    information_weight: float = 1.0
    """weight of what the pictures tell of their codes, in nats"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    judge_updates: int = 600
    """updates of the classifier whose features the Frechet distance is measured in, 0 for no such distance"""
    eval_images: int = 2000
    """generated pictures to measure it with at every row, as many as there are to train on at most"""
    save_samples: int = 0
    """write so many fresh samples, and the discriminator's features of pictures, to samples.npz at the end"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds paths as text
        self.folder, self.font = (path and Path(path) for path in (self.folder, self.font))
        self.image_size = self.image_size or (28 if self.dataset in ("digits", "mnist") else 32)
        for name in ["batch_size", "width", "latent_dim", "checkpoint_every", "eval_images"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        least_zero = ["seed", "torch_threads", "train_images", "codes", "continuous_codes", "log_every"]
        for name in [*least_zero, "judge_updates", "save_samples"]:
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.beta1 < 1:
            raise UsageError("--beta1 must be at least 0 and below 1")
        for name in ["generator_learning_rate", "information_weight"]:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        self.generator_learning_rate = self.generator_learning_rate or self.learning_rate
        if self.codes == 1:
            raise UsageError("--codes must be at least 2, or 0 for none: one value tells nothing")
        if self.batch_size < 2:
            raise UsageError("--batch-size must be at least 2: batch normalization compares pictures")
        if self.image_size < 8 or levels(self.image_size)[1] > 7:
            raise UsageError("--image-size must be 4 to 7 times a power of two, 8 at least: 28, 32 and 64 are")
        if (self.dataset == "folder") != (self.folder is not None):
            raise UsageError("--folder names the pictures of --dataset folder: the two go together")


# --- the networks ----------------------------------------------------------------------------


DENSE = 256  # units of the dense layer that both networks have where there are codes (InfoGAN: 1,024)


def num_codes(args: Args) -> int:
    return args.codes + args.continuous_codes


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


class MinibatchDiscrimination(nn.Module):
    """How alike a picture is to the others of its batch, in directions that are learned (Salimans et al.)."""

    def __init__(self, num_features: int, kernels: int = 50, dims: int = 5):
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.randn(num_features, kernels * dims) * 0.3 / num_features**0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features f [n, a] -> o [n, b]: o(x_i)_b is the sum over j of exp(-|M_i,b - M_j,b|_1), where M = f T."""
        ours = (features @ self.weight).float().view(len(features), self.kernels, -1).transpose(0, 1)  # M [b, n, c]
        everyone = ours
        if num_processes() > 1:  # each process adds its rows where the others add zeros
            num = len(features)
            before, after = process_rank() * num, (num_processes() - 1 - process_rank()) * num
            everyone = SumOverProcesses.apply(F.pad(ours, (0, 0, before, after)))
        return (-torch.cdist(ours, everyone, p=1)).exp().sum(2).T


class Generator(nn.Module):
    """DCGAN's: noise and codes -> picture, through transposed convolutions that double the side.

    Codes, as in InfoGAN, meet the noise in a dense layer before that: a convolution over a single place.
    """

    def __init__(self, channels: int, args: Args):
        super().__init__()
        count, side = levels(args.image_size)
        widths = [args.width * 2**i for i in reversed(range(count))]  # from the lowest resolution to the highest
        size, layers = args.latent_dim + num_codes(args), []
        if num_codes(args):
            layers, size = [nn.Conv2d(size, DENSE, 1, bias=False), BatchNorm(DENSE), nn.ReLU(True)], DENSE
        layers += [nn.ConvTranspose2d(size, widths[0], side, 1, 0, bias=False)]  # [n, size, 1, 1] -> [n, c, side, side]
        for before, after in pairwise(widths):
            layers += [BatchNorm(before), nn.ReLU(True), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        layers += [BatchNorm(widths[-1]), nn.ReLU(True), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [n, noise and codes] -> pictures [n, c, h, w], from -1 to 1."""
        return self.layers(latents.view(*latents.shape, 1, 1)).float()


class Discriminator(nn.Module):
    """DCGAN's: picture -> logit of being real. With codes also Q, which guesses them from the same features."""

    def __init__(self, channels: int, args: Args):
        super().__init__()
        count, side = levels(args.image_size)
        widths = [args.width * 2**i for i in range(count)]
        layers = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), BatchNorm(after), nn.LeakyReLU(0.2, True)]
        size, self.alike, self.guess = widths[-1] * side**2, None, None
        if num_codes(args):
            layers += [nn.Conv2d(widths[-1], DENSE, side, bias=False), BatchNorm(DENSE), nn.LeakyReLU(0.2, True)]
            guess, size = [nn.Conv2d(DENSE, 128, 1, bias=False), BatchNorm(128), nn.LeakyReLU(0.2, True)], DENSE
            self.guess = nn.Sequential(*guess, nn.Conv2d(128, num_codes(args), 1), nn.Flatten())
        self.layers = nn.Sequential(*layers)
        if args.minibatch_discrimination:
            self.alike = MinibatchDiscrimination(size)
        self.verdict = nn.Linear(size + (self.alike.kernels if self.alike else 0), 1)

    def forward(self, x: torch.Tensor, teach: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures [n, c, h, w], from -1 to 1 -> logits [n], guesses [n, codes] or None.

        Without `teach`, Q's gradient ends at the features: they are there to tell real from generated.
        """
        maps = self.layers(x)
        guesses = self.guess(maps if teach else maps.detach()).float() if self.guess else None
        features = maps.flatten(1)
        if self.alike:
            features = torch.cat([features, self.alike(features)], 1)
        return self.verdict(features).squeeze(1).float(), guesses


def initialize(module: nn.Module):
    """DCGAN's first values: weights from N(0, 0.02), those of batch normalization from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | BatchNorm):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, BatchNorm) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- the game --------------------------------------------------------------------------------


def draw_latents(args: Args, num: int, rng: torch.Generator) -> torch.Tensor:
    """[num, noise, one-hot code, continuous codes]: what a picture is made from, uniformly distributed."""
    noise = torch.rand(num, args.latent_dim, generator=rng, device=rng.device) * 2 - 1
    codes = torch.randint(max(args.codes, 1), (num,), generator=rng, device=rng.device)
    one_hot = F.one_hot(codes, max(args.codes, 1)).float()[:, : args.codes]  # no columns where there are no codes
    continuous = torch.rand(num, args.continuous_codes, generator=rng, device=rng.device) * 2 - 1
    return torch.cat([noise, one_hot, continuous], 1)


def ignorance(guesses: torch.Tensor | None, latents: torch.Tensor, args: Args) -> torch.Tensor:
    """-log Q(c|x) in nats: of the categorical code [n], and of the continuous ones [n] but for a constant: [2, n].

    The entropy of c minus its mean bounds the mutual information of code and picture from below: G and Q both lower it.
    """
    nats = torch.zeros(2, len(latents), device=latents.device)
    told = latents[:, args.latent_dim :]  # the codes without the noise
    if args.codes:
        nats[0] = F.cross_entropy(guesses[:, : args.codes], told[:, : args.codes], reduction="none")
    if args.continuous_codes:  # log of a Gaussian with standard deviation 1
        nats[1] = 0.5 * ((guesses[:, args.codes :] - told[:, args.codes :]) ** 2).sum(1)
    return nats


def discriminator_loss(discriminator: Discriminator, real, fake, latents, args: Args) -> tuple[torch.Tensor, ...]:
    """-log D(x) - log(1 - D(G(z))) - log Q(c|G(z)) [n]; D(x), D(G(z)) and nats of the categorical code [3, n]."""
    on_real, _ = discriminator(real)
    on_fake, guesses = discriminator(fake, teach=False)  # a batch of its own: the two have different statistics
    nats = ignorance(guesses, latents, args)
    loss = F.softplus(-on_real) + F.softplus(on_fake) + args.information_weight * nats.sum(0)
    return loss, torch.stack([on_real.sigmoid(), on_fake.sigmoid(), nats[0]]).detach()


def generator_loss(discriminator: Discriminator, fake, latents, args: Args) -> torch.Tensor:
    """-log D(G(z)), which pulls hardest while D is sure, and what the pictures do not tell of their codes [n]."""
    on_fake, guesses = discriminator(fake)
    return F.softplus(-on_fake) + args.information_weight * ignorance(guesses, latents, args).sum(0)


def update(generator, discriminator, optimizers, pictures: torch.Tensor, latents, args: Args) -> torch.Tensor:
    """One update of D, then one of G, from this process's share of a batch, uint8 [n, c, h, w].

    Returns sums over the share [5]: both losses, D(x), D(G(z)), -log Q of the categorical code.
    """
    real = pictures.to(memory_format=torch.channels_last) / 127.5 - 1
    autocast = torch.autocast(pictures.device.type, torch.bfloat16, enabled=args.bf16)
    with autocast:
        fake = generator(latents)
        loss_d, facts = discriminator_loss(discriminator, real, fake.detach(), latents, args)
    optimizers[1].zero_grad()
    (loss_d.sum() / args.batch_size).backward()
    sum_gradients(discriminator)
    optimizers[1].step()

    discriminator.requires_grad_(False)  # the gradient flows through D, not into it
    with autocast:
        loss_g = generator_loss(discriminator, fake, latents, args)
    optimizers[0].zero_grad()
    (loss_g.sum() / args.batch_size).backward()
    sum_gradients(generator)
    optimizers[0].step()
    discriminator.requires_grad_(True)
    return torch.cat([torch.stack([loss_d, loss_g]).detach(), facts]).sum(1)


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

WEIGHTS, ORDER, NOISE, SCORES, FIXED, SHOWN, FRESH = range(7)
MILESTONES = 300, 900, 5700  # the updates after which the post shows pictures
COLLAPSED = 0.3  # of the real pictures' variety


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


def make_networks(args: Args, channels: int, device: torch.device) -> tuple[Generator, Discriminator]:
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        networks = Generator(channels, args).apply(initialize), Discriminator(channels, args).apply(initialize)
    return tuple(network.to(device, memory_format=torch.channels_last) for network in networks)


@torch.no_grad()
def draw(generator: Generator, latents: torch.Tensor) -> torch.Tensor:
    """The pictures of these latents [n, noise and codes], one by one and not as a batch: uint8 [n, c, h, w]."""
    generator.eval()
    parts = [((generator(part) + 1) * 127.5).round().byte() for part in latents.split(250)]
    generator.train()
    return torch.cat(parts).contiguous()


@torch.no_grad()
def read_features(discriminator: Discriminator, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of uint8 [n, c, h, w]: D's last features, the largest of every 2x2 places [n, k], and the guessed codes."""
    discriminator.eval()
    features, guesses = [], []
    for part in pictures.split(250):
        maps = discriminator.layers(part / 127.5 - 1)
        features.append((F.max_pool2d(maps, 2) if maps.shape[2] > 1 else maps).flatten(1))
        guesses.append(discriminator.guess(maps) if discriminator.guess else features[-1][:, :0])
    discriminator.train()
    return torch.cat(features), torch.cat(guesses)


def variety(pictures: torch.Tensor) -> float:
    """Mean distance of the first 500 of uint8 [n, c, h, w] to the nearest other one of them: 0 for one picture."""
    x = pictures[:500].flatten(1).float()
    return torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values.mean().item()


def code_error(discriminator: Discriminator, args: Args, train, labels, test, test_labels) -> float:
    """Share of test pictures whose guessed code does not stand for their label.

    A code stands for the label that most of the training pictures have (10,000 at most) for which it is guessed.
    """
    guessed, found = (
        read_features(discriminator, pictures)[1][:, : args.codes].argmax(1) for pictures in (train[:10_000], test)
    )
    counts = F.one_hot(guessed, args.codes).double().T @ F.one_hot(labels[:10_000].long()).double()  # [code, label]
    return (counts.argmax(1)[found] != test_labels).double().mean().item()


class Scores:
    """Judges the generator: Frechet distance and variety, beside the same of real pictures."""

    def __init__(self, args: Args, train, labels, test, test_labels):
        self.args, self.num = args, min(args.eval_images, len(train))
        self.data = train, labels, test, test_labels
        self.real_variety, self.classifier = variety(train), None
        self.facts = {"eval/frechet_real": None, "eval/judge_accuracy": None}
        if labels is not None and args.judge_updates:
            self.classifier = train_classifier(train, labels, args.judge_updates)
            self.real = classifier_features(self.classifier, train[:10_000])
            unseen = frechet_distance(classifier_features(self.classifier, test[: self.num]), self.real)
            accuracy = classifier_accuracy(self.classifier, test, test_labels)
            self.facts = {"eval/frechet_real": unseen, "eval/judge_accuracy": accuracy}

    def of(self, generator: Generator, discriminator: Discriminator, num: int) -> dict:
        """The columns eval/ of a row, from so many generated pictures."""
        rng = generator_of(self.data[0].device, self.args.seed, SCORES)
        pictures = draw(generator, draw_latents(self.args, num, rng))
        distance = error = None
        if self.classifier:
            distance = frechet_distance(classifier_features(self.classifier, pictures), self.real)
        if self.args.codes and self.data[1] is not None:
            error = code_error(discriminator, self.args, *self.data)
        share = variety(pictures) / self.real_variety
        return {"eval/frechet": distance, **self.facts, "eval/variety": share, "eval/code_error": error}


# --- pictures of what it learned -------------------------------------------------------------


def grid(pictures: torch.Tensor, columns: int) -> np.ndarray:
    """uint8 [n, c, h, w] in rows of so many with a grey line between them: [h, w] or [h, w, 3]."""
    framed = F.pad(pictures.cpu(), (0, 1, 0, 1), value=128)
    n, c, h, w = framed.shape
    rows = framed.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, c]
    return rows.reshape(n // columns * h, columns * w, c).squeeze(2).numpy()


def enlarged(pictures: torch.Tensor, columns: int):
    """The grid as a picture of PIL's, each pixel two wide."""
    from PIL import Image

    image = Image.fromarray(grid(pictures, columns))
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)


def save_grid(run: Run, name: str, pictures: torch.Tensor, columns: int):
    enlarged(pictures, columns).save(run.dir / f"{name}.png")
    run.picture(run.dir / f"{name}.png")


def first(pictures: torch.Tensor, num: int) -> torch.Tensor:
    """The first ones, from the start again where there are fewer [num, c, h, w]."""
    return pictures[torch.arange(num) % len(pictures)]


def draw_progress(run: Run, frames: dict[int, torch.Tensor], real: torch.Tensor):
    """progress.png: real pictures beside generated ones. animation.gif: one grid of noise through the training."""
    from matplotlib.figure import Figure

    last = max(frames)
    shown = {"real": real} | {f"after {step:,} updates": frames[step] for step in (*MILESTONES, last) if step in frames}
    panels = Figure(figsize=(4 * len(shown), 4.3), layout="constrained").subplots(1, len(shown))
    for axes, (title, pictures) in zip(panels, shown.items(), strict=True):
        axes.imshow(grid(first(pictures, 64), 8), cmap="gray", vmin=0, vmax=255)
        axes.set(title=title, xticks=[], yticks=[])
    panels[0].figure.savefig(run.dir / "progress.png", dpi=100)
    run.picture(run.dir / "progress.png")

    images = [enlarged(frames[step], 8) for step in sorted(frames)]
    durations = [150] * (len(images) - 1) + [2000]  # milliseconds
    images[0].save(run.dir / "animation.gif", save_all=True, append_images=images[1:], duration=durations, loop=0)
    run.picture(run.dir / "animation.gif")


def draw_directions(run: Run, generator: Generator, args: Args, device: torch.device):
    """interpolations.png, sweep.png and, where there are codes, codes.png."""
    latents = draw_latents(args, 26, generator_of(device, args.seed, SHOWN))
    steps = torch.linspace(0, 1, 10, device=device).view(1, 10, 1)
    starts, ends = latents[:8].unsqueeze(1), latents[8:16].unsqueeze(1).clone()
    ends[:, :, args.latent_dim :] = starts[:, :, args.latent_dim :]  # the code stays: half of one is none
    save_grid(run, "interpolations", draw(generator, ((1 - steps) * starts + steps * ends).flatten(0, 1)), 10)

    size = latents.shape[1]
    chosen = [*range(size - args.continuous_codes, size), *range(args.latent_dim)][:8]
    rows = latents[16].repeat(len(chosen), 10, 1)  # [coordinates, steps, latents]
    for row, coordinate in zip(rows, chosen, strict=True):
        row[:, coordinate] = torch.linspace(-1, 1, 10, device=device)
    save_grid(run, "sweep", draw(generator, rows.flatten(0, 1)), 10)

    if args.codes:
        rows = latents[16:].unsqueeze(1).repeat(1, args.codes, 1)  # [10, codes, latents]
        rows[:, :, args.latent_dim : args.latent_dim + args.codes] = torch.eye(args.codes, device=device)
        save_grid(run, "codes", draw(generator, rows.flatten(0, 1)), args.codes)


def write_samples(run: Run, generator: Generator, discriminator: Discriminator, args: Args, data: tuple):
    """samples.npz: fresh samples, the seconds they took, and the discriminator's last features of real pictures."""
    train, labels, test, test_labels = data
    latents = draw_latents(args, args.save_samples, generator_of(train.device, args.seed, FRESH))
    start = time.perf_counter()
    arrays = {"samples": draw(generator, latents).numpy(force=True)}
    arrays["seconds"] = np.float64(time.perf_counter() - start)
    if labels is not None:
        for name, pictures, known in (("train", train, labels), ("test", test, test_labels)):
            arrays[f"{name}_codes"] = read_features(discriminator, pictures[:10_000])[0].numpy(force=True)
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
    settings, rates = {"betas": (args.beta1, 0.999), "fused": True}, (args.generator_learning_rate, args.learning_rate)
    optimizers = [torch.optim.Adam(n.parameters(), lr=lr, **settings) for n, lr in zip(networks, rates, strict=True)]
    parts = dict(zip(("generator", "discriminator", "adam_g", "adam_d"), (*networks, *optimizers), strict=True))
    generator, discriminator = networks
    order = Order(len(pictures), args.batch_size, args.seed, device)
    total_steps = math.ceil(args.epochs * len(pictures) / args.batch_size)
    per_row = args.log_every or len(pictures) / args.batch_size  # updates
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    fixed = draw_latents(args, 64, generator_of(device, args.seed, FIXED))
    step, row_number, elapsed, varied = 0, 0, 0.0, False
    frames = {0: draw(generator, fixed).cpu()}  # update -> the pictures of that noise

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed, "varied": varied}
        return {name: part.state_dict() for name, part in parts.items()} | {"frames": frames} | counters

    if checkpoint:
        try:
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            step, row_number, elapsed, varied = (checkpoint[k] for k in ("step", "row_number", "elapsed", "varied"))
            frames = checkpoint["frames"]
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
                latents = draw_latents(args, args.batch_size, rng)[share]
                sums += update(*networks, optimizers, batch, latents, args)
                step += 1
                if step in MILESTONES:
                    frames[step] = draw(generator, fixed).cpu()
            means = (sum_over_processes(sums) / ((step - first_step) * args.batch_size)).tolist()
            elapsed += time.perf_counter() - start
            if not all(map(math.isfinite, means)):
                raise FloatingPointError(f"a loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(pictures),
                "losses/discriminator": means[0],
                "losses/generator": means[1],
                "charts/d_real": means[2],
                "charts/d_fake": means[3],
                "losses/information": math.log(args.codes) - means[4] if args.codes else None,
                **scores.of(generator, discriminator, scores.num),
                "charts/SPS": step * args.batch_size / elapsed,
                "time/elapsed": elapsed,
            }
            run.log(row)
            collapsed = row["eval/variety"] < COLLAPSED
            if collapsed and varied:
                tqdm.write(f"update {step:,}: the generator has collapsed: {summary(row)}", file=sys.stderr)
            varied = not collapsed
            if finished or step >= 1.1 * max(frames):  # ever rarer, as the changes become slower
                frames[step] = draw(generator, fixed).cpu()
            save_grid(run, "samples", draw(generator, fixed), 8)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(frechet=row["eval/frechet"], variety=row["eval/variety"])

        if run:
            run.plot("eval/variety" if row["eval/frechet"] is None else "eval/frechet")
            draw_progress(run, frames, pictures)
            draw_directions(run, generator, args, device)
            if args.save_samples:
                write_samples(run, generator, discriminator, args, data)
            speed = f"after {step:,} updates at {row['charts/SPS']:,.0f} pictures/s"
            print(f"{summary(row)} {speed}: {run.dir}")
    return row


def summary(row: dict) -> str:
    """What the scores of a row say, in words."""
    words = []
    if row["eval/frechet"] is not None:
        real = f"(unseen real pictures: {row['eval/frechet_real']:.2f})"
        words.append(f"Frechet distance {row['eval/frechet']:.2f} in the features of a small classifier {real}")
    if row["eval/code_error"] is not None:
        words.append(f"the codes take {row['eval/code_error']:.1%} of the test pictures for another label")
    words.append(f"generated pictures {row['eval/variety']:.2f} times as far from each other as real ones")
    if row["eval/variety"] < COLLAPSED:
        words.append("THEY ARE ALL ALIKE: the generator has collapsed, or has learned too little")
    return ", ".join(words)


def evaluate(folder: Path) -> dict:
    """Scores of 10,000 samples of a run's generator, or as many as there are pictures to train on."""
    args, checkpoint = load_run(folder, "--evaluate", Args)
    with torch_settings(args), device_settings(args) as device:
        data = load_data(args, device)
        networks = make_networks(args, data[0].shape[1], device)
        try:
            for name, network in zip(("generator", "discriminator"), networks, strict=True):
                network.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--evaluate {folder}: the checkpoint does not fit ({error})") from None
        args.eval_images = 10_000
        scores = Scores(args, *data)
        row = scores.of(*networks, scores.num)
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
