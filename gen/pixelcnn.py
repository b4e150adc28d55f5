# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Gated PixelCNN: an autoregressive model, each pixel's distribution given the ones before it, by causal convolutions.

    python gen/pixelcnn.py
    python gen/pixelcnn.py --dataset mnist --channels 32 --batch-size 16 --updates 1875
    torchrun --nproc-per-node 2 gen/pixelcnn.py --dataset cifar10 --levels 256 --channels 192 --layers 12

log P(x) = sum_i log P(x_i | x_1 ... x_(i-1)), pixel by pixel in raster order and, within a pixel, red, green, blue. One
network gives all factors in a single pass: the vertical stack sees the rows above, the horizontal stack the pixels
to the left and the vertical stack's features. Each factor is a softmax over the pixel's levels. So the likelihood is
exact, and sampling takes one pass for every pixel and colour. samples.png: test images, completions, samples.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks" (arXiv 1601.06759): masks A and B.
van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders" (arXiv 1606.05328): equation 2 (gates),
figure 2 (the two stacks, which leave no blind spot).
Differences: 1. No conditioning on labels, and small by default. 2. Kernels are cut to what they may see, so that only
the colours of the pixel itself need a mask. 3. The learning rate decreases linearly to 0. 4. Batches: with replacement.
"""

import csv
import gzip
import json
import math
import os
import re
import tarfile
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
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
    """train in bfloat16 by autocast; evaluation and sampling stay in float32"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "mnist", "cifar10"] = "digits"
    """scikit-learn's digits, enlarged to 28x28, or MNIST or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST and CIFAR-10 are kept"""
    levels: Literal[2, 256] = 2
    """levels of a pixel: 256, or 2, drawn anew for each batch with the pixel's intensity as probability of white"""
    updates: PositiveInt = 750
    """gradient steps"""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 8
    """images per update, over all processes"""
    learning_rate: PositiveFloat = 2e-3
    """Adam's learning rate, annealed to 0"""
    channels: Annotated[int, Field(ge=1, le=1024)] = 16
    """feature maps of either stack"""
    layers: Annotated[int, Field(ge=1, le=100)] = 4
    """gated layers; the first has kernels of 7, the others of 5"""
    log_every: PositiveInt = 250
    """updates per row of metrics.csv"""
    eval_images: PositiveInt = 1000
    """test images that a row evaluates"""


# --- the model -------------------------------------------------------------------------------


def gate(x: torch.Tensor) -> torch.Tensor:
    """tanh of one half of the maps times sigmoid of the other half (equation 2): 2p maps -> p."""
    features, gates = x.chunk(2, dim=1)
    return features.tanh() * gates.sigmoid()


class RowConv(nn.Conv2d):
    """A 1 x width convolution that ends at the pixel itself, of which a map sees earlier colours (mask A), or also its
    own (mask B). c_in and c_out hold the colour of each map: 0, 1 or 2."""

    def __init__(self, kind: Literal["A", "B"], c_in: torch.Tensor, c_out: torch.Tensor, width: int):
        super().__init__(len(c_in), len(c_out), (1, width))
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = (c_in < c_out[:, None]) if kind == "A" else (c_in <= c_out[:, None])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (self.kernel_size[1] - 1, 0))
        return F.conv2d(x, self.weight * self.mask, self.bias)


class GatedLayer(nn.Module):
    """Vertical and horizontal stack (figure 2). A row of v depends on the rows above, h also on pixels to the left."""

    def __init__(self, kind: Literal["A", "B"], c_in: torch.Tensor, c_out: torch.Tensor, kernel_size: int):
        super().__init__()
        self.reach, maps = kernel_size // 2, 2 * len(c_out)
        self.vertical = nn.Conv2d(len(c_in), maps, (self.reach + 1, kernel_size), padding=(0, self.reach))
        self.across = nn.Conv2d(maps, maps, 1)
        self.horizontal = RowConv(kind, c_in, c_out.repeat(2), self.reach + 1)
        self.out = RowConv("B", c_out, c_out, 1)
        self.residual = kind == "B"  # the first layer's input is the image itself, which h must not see

    def forward(self, v: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        above = self.vertical(F.pad(v, (0, 0, self.reach, 0)))
        update = self.out(gate(self.horizontal(h) + self.across(above)))
        return gate(above), h + update if self.residual else update


class PixelCNN(nn.Module):
    """Images x uint8 [n, c, h, w] with values in {0, 255} (2 levels) or 0 ... 255 (256 levels)."""

    def __init__(self, colours: int, levels: int, layers: int, channels: int):
        super().__init__()
        self.colours, self.levels = colours, levels
        image, maps = torch.arange(colours), torch.arange(channels) * colours // channels  # the colour of each map
        later = [GatedLayer("B", maps, maps, 5) for _ in range(layers - 1)]
        self.layers = nn.ModuleList([GatedLayer("A", image, maps, 7), *later])
        hidden, output = RowConv("B", maps, maps, 1), RowConv("B", maps, image.repeat_interleave(levels), 1)
        self.head = nn.Sequential(nn.ReLU(), hidden, nn.ReLU(), output)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] -> [n, levels, c, h, w]."""
        h = x.float() / 127.5 - 1  # in [-1, 1]: what lies outside the image is 0
        v = F.pad(h, (0, 0, 1, -1))  # one row down: row i holds row i - 1
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h).float().unflatten(1, (self.colours, self.levels)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """-log P(x) in nats, summed over pixels and colours: [n]."""
        values = x.long() // (255 // (self.levels - 1))
        return F.cross_entropy(self.logits(x), values, reduction="none").sum(dim=(1, 2, 3))

    @torch.no_grad()
    def sample(self, x: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """x [n, c, h, w] with all rows from first_row on drawn anew, pixel by pixel and colour by colour."""
        x = x.clone()
        c, h, w = x.shape[1:]
        for i, j, colour in product(range(first_row, h), range(w), range(c)):
            logits = self.logits(x[:, :, : i + 1])[:, :, colour, i, j]  # rows below are not needed
            value = logits.softmax(dim=1).multinomial(1).squeeze(1)
            x[:, colour, i, j] = (value * (255 // (self.levels - 1))).byte()
        return x


# --- data ------------------------------------------------------------------------------------

URLS = {"mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/", "cifar10": "https://www.cs.toronto.edu/~kriz/"}
SHA256 = {
    "mnist": {"train-images-idx3-ubyte.gz": "440fcabf73cc546f", "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79"},
    "cifar10": {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a"},
}


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, c, h, w]."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) * (255 / 16)
        return F.interpolate(images, size=28, mode="bilinear").round().byte().split(1500)
    splits = []
    for name, sha256 in SHA256[args.dataset].items():
        path, url = args.data_dir / name, URLS[args.dataset] + name
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
            if args.dataset == "mnist":
                content = bytearray(gzip.decompress(path.read_bytes()))
                splits.append(torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28))
            else:
                with tarfile.open(path, "r:gz") as tar:  # data_batch_1.bin to data_batch_5.bin, test_batch.bin
                    files = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".bin")]
                rows = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8).view(-1, 3073)
                splits = rows[:, 1:].unflatten(1, (3, 32, 32)).split(len(rows) * 5 // 6)  # without the labels
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {url}: {error}") from None
    return splits


def quantize(images: torch.Tensor, levels: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Images with 2 levels: 255 with the intensity as probability, else 0. With 256 levels, as they are."""
    if levels == 256:
        return images
    return (torch.rand(images.shape, generator=generator) < images / 255).byte() * 255


# --- training --------------------------------------------------------------------------------


def save_grid(images: torch.Tensor, path: Path):
    """Images uint8 [32, c, h, w] in four rows of eight."""
    from PIL import Image

    rows = F.pad(images.expand(-1, 3, -1, -1), (1, 1, 1, 1), value=128).unflatten(0, (4, 8))
    image = Image.fromarray(rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).cpu().numpy())
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(path)


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
    eval_rng = torch.Generator().manual_seed(0)  # the same images and pixels for every seed
    test = test[torch.randperm(len(test), generator=eval_rng)[: args.eval_images]]  # MNIST's first ones are easier
    test = quantize(test, args.levels, eval_rng).to(device)
    model = PixelCNN(images.shape[1], args.levels, args.layers, args.channels).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.updates)
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    net = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    run = Run(args, args.dataset) if rank == 0 else None

    losses, start = [], time.perf_counter()
    for step in tqdm(range(1, args.updates + 1), unit="update", disable=None if run else True):
        idx = torch.randint(len(images), (args.batch_size,))
        x = quantize(images[idx], args.levels)[rank::world_size].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            loss = net(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        anneal.step()
        losses.append(loss.detach())
        if run and (step % args.log_every == 0 or step == args.updates):
            loss, seconds = torch.stack(losses).mean().item(), time.perf_counter() - start
            with torch.no_grad():
                nats = torch.cat([model(x) for x in test.split(100)]).mean().item()
            row = {
                "global_step": step * args.batch_size,
                "losses/nats": loss,
                "eval/nats": nats,
                "eval/bits_per_dim": nats / (test[0].numel() * math.log(2)),
                "charts/SPS": len(losses) * args.batch_size / seconds,
            }
            run.log(row)
            torch.save({"model": model.state_dict()}, run.dir / "model.pt")
            losses, start = [], time.perf_counter()

    if world_size > 1:
        del net  # DDP, if freed after the group, joins its threads with the GIL held, for which they wait: a deadlock
        dist.destroy_process_group()
    if not run:
        return {}
    shown = test[torch.arange(8) % len(test)]
    completed = model.sample(shown.repeat(2, 1, 1, 1), first_row=shown.shape[2] // 2)
    save_grid(torch.cat([shown, completed, model.sample(shown)]), run.dir / "samples.png")
    run.close("samples.png")
    print(f"{nats:.2f} nats, {row['eval/bits_per_dim']:.4f} bits per dimension on {len(test)} test images: {run.dir}")
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
