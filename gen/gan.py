# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Generative adversarial network (GAN) with DCGAN's convolutions: a generator learns from a discriminator's gradient.

    python gen/gan.py
    python gen/gan.py --dataset cifar10 --image-size 32 --updates 5700 --learning-rate 0.0002
    python gen/gan.py --dataset folder --data-dir photos --image-size 64 --width 64

The generator G maps noise z to an image, the discriminator D an image to the probability that it is a training image. D
minimizes -log D(x) - log(1 - D(G(z))) and G minimizes -log D(G(z)), the non-saturating loss: its gradient is largest
while D rejects the image. Nothing keeps G from mapping all z to one image (mode collapse): eval/diversity, the mean
distance of a generated image to the nearest other one divided by that of training images, shows it. samples.png has a
row for each row of metrics.csv, of images from the same noise.

Goodfellow et al. 2014, "Generative adversarial nets" (arXiv 1406.2661): algorithm 1.
Radford, Metz & Chintala 2016, "Unsupervised representation learning with deep convolutional GANs" (DCGAN,
arXiv 1511.06434): networks, initialization, Adam's beta1.
Kevin Frans 2016, "Generative adversarial networks explained" (https://kvfrans.com/generative-adversial-networks-explained/)
Differences: (1) Narrower by default; --image-size 64 --width 128 has the feature maps of DCGAN's figure 1. (2) Kernels
of 4 (DCGAN: 5). (3) G's update reuses the noise of D's.
"""

import csv
import gzip
import json
import math
import re
import tarfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    torch_deterministic: bool = True
    """deterministic convolutions on a GPU"""
    cuda: bool = True
    """use a GPU if there is one"""
    bf16: bool = False
    """train in bfloat16 by autocast"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "mnist", "cifar10", "folder"] = "digits"
    """scikit-learn's digits; MNIST or CIFAR-10, downloaded on first use; or the images below --data-dir"""
    data_dir: Path = Path("data")
    """where MNIST and CIFAR-10 are kept, or a folder of images"""
    image_size: Literal[28, 32, 64] = 28
    """images are resized to this side, in pixels"""
    updates: PositiveInt = 1000
    """updates of each network"""
    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 64
    """images per update"""
    learning_rate: PositiveFloat = 5e-4
    """Adam's learning rate (DCGAN: 2e-4)"""
    width: PositiveInt = 32
    """channels at the highest resolution, doubled at each lower one (DCGAN's figure 1: 128)"""
    latent_dim: PositiveInt = 100
    """dimensions of the noise z, uniform in [-1, 1]"""
    log_every: PositiveInt = 100
    """updates between rows of metrics.csv"""


# --- the model -------------------------------------------------------------------------------

SHAPES = {28: (7, 2), 32: (4, 3), 64: (4, 4)}  # side of the smallest feature maps, and how often it is doubled


def make_generator(latent_dim: int, width: int, channels: int, size: int) -> nn.Sequential:
    """Noise z [n, latent_dim] -> images [n, channels, size, size] in [-1, 1]."""
    side, levels = SHAPES[size]
    widths = [width * 2**i for i in reversed(range(levels))]
    layers = [nn.Unflatten(1, (latent_dim, 1, 1)), nn.ConvTranspose2d(latent_dim, widths[0], side, bias=False)]
    for before, after in pairwise(widths):
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers)


def make_discriminator(width: int, channels: int, size: int) -> nn.Sequential:
    """Images [n, channels, size, size] -> logits of being a training image [n]."""
    side, levels = SHAPES[size]
    widths = [width * 2**i for i in range(levels)]
    layers = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, side), nn.Flatten(0))


def initialize(module: nn.Module):
    """DCGAN: weights from N(0, 0.02), scales of batch normalization from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def diversity(images: torch.Tensor) -> float:
    """Mean distance of each image [n, c, h, w] to its nearest neighbour; not 0, as it is divided by."""
    x = images.flatten(1)
    return max(1e-9, torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values.mean().item())


# --- data ------------------------------------------------------------------------------------

URLS = {  # address, SHA-256
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz", "440fcabf73cc546f"),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a"),
}


def read_folder(folder: Path, size: int) -> torch.Tensor:
    """The readable images below a folder, cut to squares of this side: uint8 [n, 3, size, size]."""
    from PIL import Image, ImageOps

    images, skipped = [], []
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        try:
            with Image.open(path) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (size, size))))
        except Exception as error:  # no image, or damaged, over which PIL raises nearly anything
            skipped.append(f"{path} ({error})")
    if not images:
        raise UsageError(f"--data-dir {folder}: no readable images below it, {len(skipped)} other files")
    if skipped:
        print(f"--data-dir {folder}: {len(skipped)} unreadable files are skipped, the first is {skipped[0]}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def load_images(args: Args) -> torch.Tensor:
    """Training images, uint8 [n, channels, height, width]."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        return (torch.from_numpy(load_digits().images[:1500]) * (255 / 16)).byte().unsqueeze(1)  # 8 x 8
    if args.dataset == "folder":
        return read_folder(args.data_dir, args.image_size)
    url, sha256 = URLS[args.dataset]
    path = args.data_dir / url.rpartition("/")[2]
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
        if args.dataset == "mnist":
            pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)  # after the IDX header
            return torch.from_numpy(pixels.copy()).view(-1, 1, 28, 28)
        with tarfile.open(path, "r:gz") as tar:
            files = [tar.extractfile(f"cifar-10-batches-bin/data_batch_{i}.bin").read() for i in range(1, 6)]
        rows = torch.from_numpy(np.frombuffer(b"".join(files), np.uint8).copy()).view(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32)  # after the label
    except Exception as error:  # no connection, or a damaged or foreign file
        raise UsageError(f"--data-dir: cannot read {path}, or download it from {url}: {error}") from None


# --- training --------------------------------------------------------------------------------


def save_grid(images: torch.Tensor, columns: int, path: Path):
    """Images [n, c, h, w] in [0, 1] as a grid."""
    from PIL import Image, ImageOps

    rows = F.pad(images.expand(-1, 3, -1, -1), (1, 1, 1, 1), value=0.5).unflatten(0, (-1, columns))
    grid = (rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1) * 255).byte().cpu().numpy()
    ImageOps.scale(Image.fromarray(grid), 2, Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images = load_images(args)  # your own: uint8 [n, channels, height, width]
    images = F.interpolate(images, args.image_size, mode="bilinear", antialias=True).to(device)
    shape = args.width, images.shape[1], args.image_size
    generator = make_generator(args.latent_dim, *shape).apply(initialize).to(device)
    discriminator = make_discriminator(*shape).apply(initialize).to(device)
    adam_g = torch.optim.Adam(generator.parameters(), lr=args.learning_rate, betas=(0.5, 0.999), fused=True)
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=args.learning_rate, betas=(0.5, 0.999), fused=True)
    eval_rng = torch.Generator(device).manual_seed(0)  # evaluating does not change the training
    fixed, frames = torch.rand(500, args.latent_dim, generator=eval_rng, device=device) * 2 - 1, []
    run, real_diversity, start = Run(args, args.dataset), diversity(images[:500] / 255), time.perf_counter()

    for update in tqdm(range(1, args.updates + 1), unit="update", disable=None):
        real = images[torch.randint(len(images), (args.batch_size,), device=device)] / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            fake = generator(torch.rand(args.batch_size, args.latent_dim, device=device) * 2 - 1)
            on_real, on_fake = discriminator(real), discriminator(fake.detach())  # each with its batch's statistics
        loss_d = (F.softplus(-on_real.float()) + F.softplus(on_fake.float())).mean()  # -log D(x) - log(1 - D(G(z)))
        adam_d.zero_grad()
        loss_d.backward()
        adam_d.step()

        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            on_fake = discriminator(fake)
        loss_g = F.softplus(-on_fake.float()).mean()  # -log D(G(z))
        adam_g.zero_grad()
        loss_g.backward(inputs=list(generator.parameters()))
        adam_g.step()

        if update % args.log_every == 0 or update == args.updates:
            loss, seconds = loss_g.item(), time.perf_counter() - start  # .item() waits for a GPU
            with torch.no_grad():  # in eval mode (running statistics) no image depends on the others
                generated = generator.eval()(fixed) * 0.5 + 0.5
            generator.train()
            row = {
                "global_step": update,
                "losses/discriminator": loss_d.item(),
                "losses/generator": loss,
                "charts/SPS": ((update - 1) % args.log_every + 1) * args.batch_size / seconds,  # images
                "eval/diversity": diversity(generated) / real_diversity,
            }
            run.log(row)
            frames.append(generated[:16])
            save_grid(torch.cat(frames), 16, run.dir / "samples.png")
            states = {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}
            torch.save(states, run.dir / "model.pt")
            start = time.perf_counter()

    run.close("samples.png")
    print(f"diversity {row['eval/diversity']:.2f} of the training images' after {args.updates} updates: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
