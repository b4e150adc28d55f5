# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""RealNVP: a normalizing flow of affine couplings on several scales, convolutional, with an exact likelihood.

    python gen/realnvp.py
    python gen/realnvp.py --dataset cifar10 --channels 64 --blocks 8 --batch-size 64 --updates 80000 --bf16
    torchrun --nproc-per-node 2 gen/realnvp.py --dataset cifar10

A coupling layer keeps the part of x where a mask is 1; a network of that part scales and shifts the rest. The Jacobian
is triangular, its log-determinant the sum of the log-scales. Three couplings with checkerboard masks are followed by a
squeeze (each 2x2 square of pixels becomes four times as many channels) and three with channel-wise masks; then half of
the components are factored out as finished, and four more couplings transform the rest. The latents are Gaussian.
Likelihoods are -log2 p(x) / d of dequantized images, in bits per dimension: a bound on those of the 8-bit images.

Dinh, Sohl-Dickstein & Bengio 2016, "Density estimation using Real NVP" (arXiv 1605.08803): equation 9 (coupling),
sections 3.4 to 3.7 (masks, scales, batch normalization), 4.1 (logit, residual networks, one squeeze for CIFAR-10).
Differences: 1. The logit is taken of .05 + .9 x: the paper's .05 + .95 x reaches 1. 2. Batch normalization is in the
couplings' networks alone (the paper: between couplings as well) and trains with the batch's statistics (the paper:
running averages). 3. The learning rate decreases linearly to 0, gradients are clipped, weights do not decay. 4. Batches
are drawn with replacement.
With torchrun, processes on CPUs normalize their shares of a batch separately, those on GPUs together (SyncBatchNorm).
"""

import csv
import json
import math
import os
import re
import tarfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
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
    """train in bfloat16 by autocast; evaluation stays in float32"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["photos", "cifar10"] = "photos"
    """32x32 patches of scikit-learn's two photographs, or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where CIFAR-10 is kept"""
    updates: PositiveInt = 120
    """gradient steps"""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 16
    """images per update, over all processes"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, annealed to 0"""
    channels: Annotated[int, Field(ge=1, le=1024)] = 32
    """channels of the residual networks before the squeeze, twice as many after it"""
    blocks: Annotated[int, Field(ge=1, le=100)] = 2
    """residual blocks of each coupling's network"""
    log_every: PositiveInt = 40
    """updates per row of metrics.csv"""
    eval_images: PositiveInt = 500
    """test images that a row evaluates"""


# --- the model -------------------------------------------------------------------------------

ALPHA = 0.05  # keeps the argument of the logit away from 0 and 1


def conv(c_in: int, c_out: int, size: int) -> nn.Module:
    return weight_norm(nn.Conv2d(c_in, c_out, size, padding=size // 2))


class ResNet(nn.Module):
    """[n, c_in, h, w] -> [n, c_out, h, w]: residual blocks with skip connections from each block to the output."""

    def __init__(self, c_in: int, channels: int, blocks: int, c_out: int):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c_in), conv(2 * c_in, channels, 3)
        self.blocks, self.skips = nn.ModuleList(), nn.ModuleList([conv(channels, channels, 1)])
        for _ in range(blocks):
            layers = [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels, 3)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels, 3)]
            self.blocks.append(nn.Sequential(*layers))
            self.skips.append(conv(channels, channels, 1))
        self.output = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, c_out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        x = self.conv(torch.cat([x, -x], dim=1).relu())
        total = self.skips[0](x)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            x = x + block(x)
            total = total + skip(x)
        return self.output(total)


class Coupling(nn.Module):
    """y = b x + (1 - b) (x exp(s(b x)) + t(b x)) with a mask b (equation 9)."""

    def __init__(self, mask: torch.Tensor, c: int, channels: int, blocks: int):
        super().__init__()
        self.register_buffer("mask", mask.float())
        self.network = ResNet(c, channels, blocks, 2 * c)
        self.s_scale = nn.Parameter(torch.ones(c, 1, 1))

    def scale_and_shift(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, t = self.network(kept).float().chunk(2, dim=1)
        s = self.s_scale * s.tanh()  # bounded, by learned limits
        return (1 - self.mask) * s, (1 - self.mask) * t

    def forward(self, x_and_log_det: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Also adds its own log-determinant to those of the layers before it [n]."""
        x, log_det = x_and_log_det
        s, t = self.scale_and_shift(self.mask * x)
        return x * s.exp() + t, log_det + s.sum(dim=(1, 2, 3))

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        s, t = self.scale_and_shift(self.mask * y)
        return (y - t) * (-s).exp()


class RealNVP(nn.Module):
    """Images x [n, c, h, w] in [0, 1], of even height and width <-> Gaussian latents z [n, 4c, h/2, w/2]."""

    def __init__(self, shape: tuple[int, int, int], channels: int, blocks: int):
        super().__init__()
        c, h, w = shape
        self.latent_shape = 4 * c, h // 2, w // 2
        board = (torch.arange(h).unsqueeze(1) + torch.arange(w)) % 2  # a checkerboard [h, w]
        small, half = board[: h // 2, : w // 2], (torch.arange(4 * c).view(-1, 1, 1) < 2 * c).long()

        def couplings(c: int, channels: int, *masks: torch.Tensor) -> nn.Sequential:
            return nn.Sequential(*(Coupling(mask, c, channels, blocks) for mask in masks))

        self.checkerboard = couplings(c, channels, board, 1 - board, board)
        self.channel_wise = couplings(4 * c, 2 * channels, half, 1 - half, half)
        self.last = couplings(2 * c, 2 * channels, small, 1 - small, small, 1 - small)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents z = f(x) and log |det df/dx| [n]."""
        p = ALPHA + (1 - 2 * ALPHA) * x
        log_det = (math.log(1 - 2 * ALPHA) - p.log() - (1 - p).log()).sum(dim=(1, 2, 3))
        y, log_det = self.checkerboard((p.logit(), log_det))
        y = F.pixel_unshuffle(y, 2)  # the four pixels of the first colour, then those of the next
        y, log_det = self.channel_wise((y, log_det))
        finished, y = y.chunk(2, dim=1)
        y, log_det = self.last((y, log_det))
        return torch.cat([finished, y], dim=1), log_det

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """x = f^-1(z)."""
        finished, y = z.chunk(2, dim=1)
        for layer in reversed(self.last):
            y = layer.inverse(y)
        y = torch.cat([finished, y], dim=1)
        for layer in reversed(self.channel_wise):
            y = layer.inverse(y)
        y = F.pixel_shuffle(y, 2)
        for layer in reversed(self.checkerboard):
            y = layer.inverse(y)
        return (y.sigmoid() - ALPHA) / (1 - 2 * ALPHA)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) [n] in nats, of images in [0, 1]."""
        z, log_det = self.encode(x)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=(1, 2, 3))


def bits_per_dim(log_p: torch.Tensor, d: int) -> float:
    """Mean log p(x) in nats, of d pixels in [0, 1] -> bits for each 8-bit pixel."""
    return 8 - log_p.mean().item() / (d * math.log(2))


def dequantize(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """uint8 [n, c, h, w] -> [n, c, h, w] in [0, 1], uniform within each pixel's interval of width 1/256."""
    return (images + torch.rand(images.shape, generator=generator, device=images.device)) / 256


# --- data ------------------------------------------------------------------------------------

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a"


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, 3, 32, 32]; for CIFAR-10 also the training images' mirror images."""
    if args.dataset == "photos":
        from sklearn.datasets import load_sample_images
        from sklearn.feature_extraction.image import extract_patches_2d

        photos = [photo[::2, ::2] for photo in load_sample_images().images]  # 214 x 320
        train = [extract_patches_2d(photo[:, :240], (32, 32), max_patches=2500, random_state=0) for photo in photos]
        test = [extract_patches_2d(photo[:, 240:], (32, 32), max_patches=250, random_state=0) for photo in photos]
        return [torch.from_numpy(np.concatenate(part)).permute(0, 3, 1, 2) for part in (train, test)]
    path = args.data_dir / "cifar-10-binary.tar.gz"
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(CIFAR10_URL, str(path), hash_prefix=CIFAR10_SHA256)
        with tarfile.open(path, "r:gz") as tar:  # data_batch_1.bin to data_batch_5.bin, test_batch.bin
            files = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".bin")]
        rows = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8).view(-1, 3073)
        train, test = rows[:, 1:].unflatten(1, (3, 32, 32)).split(len(rows) * 5 // 6)  # without the labels
        return [torch.cat([train, train.flip(3)]), test]
    except Exception as error:  # no connection, or a damaged or foreign file
        raise UsageError(f"--data-dir: cannot read {path}, or download it from {CIFAR10_URL}: {error}") from None


# --- training --------------------------------------------------------------------------------


def save_grid(images: torch.Tensor, path: Path):
    """Images [64, 3, h, w] in [0, 1] as an 8x8 grid."""
    from PIL import Image, ImageOps

    rows = F.pad(images.nan_to_num().clamp(0, 1), (1, 1, 1, 1), value=0.5).unflatten(0, (8, 8))
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    ImageOps.scale(Image.fromarray((grid * 255).byte().cpu().numpy()), 2, Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv ({} in all processes but the first)."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(args.seed)  # the same in all processes: each draws the whole batch and takes its share
    torch.set_num_threads(1)  # one core for each process: torchrun uses more
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    images, test = load_images(args)
    if args.batch_size % world_size:
        raise UsageError(f"--batch-size {args.batch_size}: needs a multiple of {world_size}, the number of processes")
    test = dequantize(test[: args.eval_images], torch.Generator().manual_seed(0)).to(device)  # the same for every seed
    model = RealNVP(images.shape[1:], args.channels, args.blocks).to(device)
    if world_size > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.updates)
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    net = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    run = Run(args, args.dataset) if rank == 0 else None

    log_ps, start = [], time.perf_counter()
    for step in tqdm(range(1, args.updates + 1), unit="update", disable=None if run else True):
        x = dequantize(images[torch.randint(len(images), (args.batch_size,))])[rank::world_size].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            log_p = net(x).mean()
        optimizer.zero_grad()
        (-log_p).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        anneal.step()
        log_ps.append(log_p.detach())
        if run and (step % args.log_every == 0 or step == args.updates):
            bits, seconds = bits_per_dim(torch.stack(log_ps), test[0].numel()), time.perf_counter() - start
            model.eval()
            with torch.no_grad():
                test_log_p = torch.cat([model(x) for x in test.split(100)])
            model.train()
            row = {
                "global_step": step * args.batch_size,
                "losses/bits_per_dim": bits,
                "eval/bits_per_dim": bits_per_dim(test_log_p, test[0].numel()),
                "charts/SPS": len(log_ps) * args.batch_size / seconds,
            }
            run.log(row)
            torch.save({"model": model.state_dict()}, run.dir / "model.pt")
            log_ps, start = [], time.perf_counter()

    if world_size > 1:
        del net  # DDP, if freed after the group, joins its threads with the GIL held, for which they wait: a deadlock
        dist.destroy_process_group()
    if not run:
        return {}
    model.eval()
    with torch.no_grad():
        save_grid(model.decode(torch.randn(64, *model.latent_shape, device=device)), run.dir / "samples.png")
    run.close("samples.png")
    print(f"{row['eval/bits_per_dim']:.3f} bits per dimension on {len(test)} test images: {run.dir}")
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
