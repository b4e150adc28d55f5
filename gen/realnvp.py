# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "pydantic>=2", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9", "wandb"]
# ///
"""RealNVP: affine couplings on several scales, an invertible convolutional network with an exact likelihood.

    python gen/realnvp.py
    python gen/realnvp.py --dataset cifar10 --channels 64 --blocks 8 --batch-size 64 --updates 80000 --bf16
    torchrun --nproc-per-node 2 gen/realnvp.py --dataset cifar10

A coupling layer keeps the part of x where a mask is 1; a network of that part scales and shifts the rest. The Jacobian
is triangular, its log-determinant the sum of the log-scales. On each scale, three couplings with checkerboard masks are
followed by a squeeze (each 2x2 square of pixels becomes four channels) and three with channel-wise masks; then half of
the components are factored out as finished and the next scale transforms the rest. The latents are Gaussian.
Likelihoods are -log2 p(x) / d of dequantized images, in bits per dimension: a bound on those of the 8-bit images.

Dinh, Sohl-Dickstein & Bengio 2016, "Density estimation using Real NVP" (arXiv 1605.08803): equation 9 (coupling),
sections 3.4 to 3.7 (masks, scales, batch normalization), 4.1 (logit, residual networks).
Differences: 1. The logit is taken of .05 + .9 x: the paper's .05 + .95 x reaches 1. 2. Batch normalization is in the
couplings' networks, not between couplings, and trains with the batch's statistics instead of running averages. 3. The
learning rate decreases linearly to 0; gradients are clipped. 4. What is factored out is a diagonal of each 2x2 square.
With torchrun, processes on CPUs normalize their shares of a batch separately, those on GPUs together (SyncBatchNorm).
"""

import csv
import json
import math
import os
import re
import tarfile
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
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
    compile: bool = False
    """compile the model with torch.compile; needs a C++ compiler"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""
    resume: Path | None = None
    """continue from this run's checkpoint.pt, with the same flags; its rows are copied into the new run's folder"""

    dataset: Literal["photos", "cifar10"] = "photos"
    """32x32 patches of scikit-learn's two photographs, or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where CIFAR-10 is kept"""
    updates: PositiveInt = 150
    """gradient steps"""
    batch_size: PositiveInt = 16
    """images per update, over all processes"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, annealed to 0"""
    channels: Annotated[int, Field(ge=1, le=1024)] = 32
    """channels of the residual networks on the first scale, twice as many on the second"""
    blocks: Annotated[int, Field(ge=1, le=100)] = 2
    """residual blocks of each coupling's network"""
    log_every: PositiveInt = 50
    """updates per row of metrics.csv and per checkpoint"""
    eval_images: PositiveInt = 500
    """test images that a row evaluates"""


# --- the model -------------------------------------------------------------------------------

ALPHA = 0.05  # keeps the logit away from 0 and 1


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

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y and the log-determinant [n]."""
        s, t = self.scale_and_shift(self.mask * x)
        return x * s.exp() + t, s.sum(dim=(1, 2, 3))

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        s, t = self.scale_and_shift(self.mask * y)
        return (y - t) * (-s).exp()


class Squeeze(nn.Module):
    """[n, c, h, w] -> [n, 4c, h/2, w/2]; the first half of the channels is one diagonal of each 2x2 square."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        corners = x[..., 0::2, 0::2], x[..., 1::2, 1::2], x[..., 0::2, 1::2], x[..., 1::2, 0::2]
        return torch.cat(corners, dim=1), 0.0

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        n, c, h, w = y.shape
        x = y.new_empty(n, c // 4, 2 * h, 2 * w)
        x[..., 0::2, 0::2], x[..., 1::2, 1::2], x[..., 0::2, 1::2], x[..., 1::2, 0::2] = y.chunk(4, dim=1)
        return x


class RealNVP(nn.Module):
    """Images x [n, c, h, w] in [0, 1] <-> Gaussian latents, one tensor per scale."""

    def __init__(self, shape: tuple[int, int, int], channels: int, blocks: int, scales: int = 2):
        super().__init__()
        self.scales, self.latent_shapes = nn.ModuleList(), []
        c, h, w = shape
        for scale in range(scales):
            last = scale == scales - 1
            mask = (torch.arange(h).unsqueeze(1) + torch.arange(w)) % 2  # a checkerboard [h, w]
            masks = [mask, 1 - mask] * 2 if last else [mask, 1 - mask, mask]
            layers = [Coupling(mask, c, channels, blocks) for mask in masks]
            if not last:
                c, h, w, channels = 4 * c, h // 2, w // 2, 2 * channels
                mask = (torch.arange(c).view(c, 1, 1) < c // 2).long()
                layers += [Squeeze(), *(Coupling(mask, c, channels, blocks) for mask in (mask, 1 - mask, mask))]
                c = c // 2  # the other half is factored out
            self.scales.append(nn.ModuleList(layers))
            self.latent_shapes.append((c, h, w))

    def encode(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Latents z = f(x) and log |det df/dx| [n]."""
        p = ALPHA + (1 - 2 * ALPHA) * x
        y, log_det, z = p.logit(), (math.log(1 - 2 * ALPHA) - p.log() - (1 - p).log()).sum(dim=(1, 2, 3)), []
        for scale, layers in enumerate(self.scales, start=1):
            for layer in layers:
                y, term = layer(y)
                log_det = log_det + term
            if scale < len(self.scales):
                y, factored_out = y.chunk(2, dim=1)
                z.append(factored_out)
        return [*z, y], log_det

    def decode(self, z: list[torch.Tensor]) -> torch.Tensor:
        """x = f^-1(z)."""
        *z, y = z
        for scale, layers in enumerate(reversed(self.scales)):
            y = torch.cat([y, z[-scale]], dim=1) if scale else y
            for layer in reversed(layers):
                y = layer.inverse(y)
        return (y.sigmoid() - ALPHA) / (1 - 2 * ALPHA)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) [n] in nats, of images in [0, 1]."""
        z, log_det = self.encode(x)
        return log_det - sum(0.5 * (part**2 + math.log(2 * math.pi)).sum(dim=(1, 2, 3)) for part in z)


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
    """Training and test images, uint8 [n, 3, 32, 32]."""
    if args.dataset == "photos":
        from sklearn.datasets import load_sample_images
        from sklearn.feature_extraction.image import extract_patches_2d

        photos = [photo[:426].reshape(213, 2, 320, 2, 3).mean((1, 3)) for photo in load_sample_images().images]
        splits = []
        for part, n in ((slice(0, 240), 2500), (slice(240, 320), 250)):  # test patches are from the right quarter
            patches = [extract_patches_2d(x[:, part], (32, 32), max_patches=n, random_state=0) for x in photos]
            splits.append(torch.from_numpy(np.concatenate(patches)).permute(0, 3, 1, 2).round().byte())
        return splits
    path = args.data_dir / "cifar-10-binary.tar.gz"
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(CIFAR10_URL, str(path), hash_prefix=CIFAR10_SHA256)
        with tarfile.open(path, "r:gz") as tar:
            names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
            files = [tar.extractfile(f"cifar-10-batches-bin/{name}.bin").read() for name in names]
        rows = torch.from_numpy(np.frombuffer(b"".join(files), np.uint8).copy()).view(6, -1, 3073)
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise UsageError(f"--data-dir: cannot read {path}, or download it from {CIFAR10_URL}: {error}") from None
    images = rows[:, :, 1:].unflatten(2, (3, 32, 32))  # after the label
    return [images[:5].flatten(0, 1), images[5]]


# --- training --------------------------------------------------------------------------------


def save_grid(images: torch.Tensor, path: Path):
    """Images [64, 3, h, w] in [0, 1] as an 8x8 grid."""
    from PIL import Image

    rows = nn.functional.pad(images.nan_to_num().clamp(0, 1), (1, 1, 1, 1), value=0.5).unflatten(0, (8, 8))
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    image = Image.fromarray((grid * 255).byte().cpu().numpy())
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)


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
    if args.batch_size > len(images) or args.batch_size % world_size:
        raise UsageError(f"--batch-size: needs a multiple of {world_size} processes, at most {len(images)} images")
    test = dequantize(test[: args.eval_images], torch.Generator().manual_seed(0)).to(device)  # the same for every seed
    model = RealNVP(images.shape[1:], args.channels, args.blocks).to(device)
    if world_size > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    parameters = dict(model.named_parameters())
    scales = [parameters.pop(name) for name in list(parameters) if name.endswith("original0")]  # of weight_norm
    groups = [{"params": scales, "weight_decay": 5e-5}, {"params": list(parameters.values())}]
    optimizer = torch.optim.Adam(groups, lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.updates)
    parts = {"model": model, "optimizer": optimizer, "anneal": anneal}
    rows, order = [], torch.empty(0, dtype=torch.long)
    if args.resume:
        try:
            checkpoint = torch.load(args.resume / "checkpoint.pt", weights_only=True, map_location="cpu")
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            torch.set_rng_state(checkpoint["rng"])
            rows, order = checkpoint["rows"], checkpoint["order"]
        except Exception as error:  # missing, truncated, or another network's
            raise UsageError(f"--resume {args.resume}: no checkpoint of these flags ({type(error).__name__})") from None
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    net = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    net = torch.compile(net) if args.compile else net
    run = Run(args, args.dataset) if rank == 0 else None
    for row in rows if run else []:
        run.log(row)

    log_ps, start, done = [], time.perf_counter(), rows[-1]["global_step"] // args.batch_size if rows else 0
    steps = range(done + 1, args.updates + 1)
    for step in tqdm(steps, unit="update", initial=done, total=args.updates, disable=None if run else True):
        if len(order) < args.batch_size:
            order = torch.randperm(len(images))
        idx, order = order.tensor_split([args.batch_size])
        x = dequantize(images[idx])
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)[rank::world_size].to(device)
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
                "charts/epoch": step * args.batch_size / len(images),
                "losses/bits_per_dim": bits,
                "eval/bits_per_dim": bits_per_dim(test_log_p, test[0].numel()),
                "charts/SPS": len(log_ps) * args.batch_size / seconds,
            }
            run.log(row)
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"rows": run.rows, "order": order, "rng": torch.get_rng_state()}
            torch.save(state, run.dir / "checkpoint.tmp")
            (run.dir / "checkpoint.tmp").replace(run.dir / "checkpoint.pt")  # a kill leaves the old or the new one
            log_ps, start = [], time.perf_counter()

    if world_size > 1:
        dist.destroy_process_group()
    if not run:
        return {}
    torch.save({"model": model.state_dict()}, run.dir / "model.pt")
    model.eval()
    with torch.no_grad():
        z = [torch.randn(64, *shape, device=device) for shape in model.latent_shapes]
        save_grid(model.decode(z), run.dir / "samples.png")
    run.close("samples.png")
    print(f"{row['eval/bits_per_dim']:.3f} bits per dimension on {len(test)} test images: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            try:
                wandb.login()  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)
        if args.track:
            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            wandb.init(**names, config=asdict(args), dir=self.dir)

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
    except (UsageError, FloatingPointError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
