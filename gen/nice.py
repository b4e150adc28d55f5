# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""NICE: a normalizing flow of additive couplings, an invertible network with an exact likelihood.

    python gen/nice.py
    python gen/nice.py --dataset mnist --epochs 40 --batch-size 250 --layers 5 --hidden 1000 --bf16

A coupling layer keeps one half of x and adds m(kept half) to the other, where m is any network: the inverse subtracts
the same shift, and the Jacobian is triangular with ones on its diagonal. The halves swap roles from layer to layer; a
diagonal scaling exp(s) at the end is large for components that vary little. With h = f(x) and independent logistic
components, log p(x) = sum_i [log p(h_i) + s_i], a density over pixels in [0, 1]; a sample is f^-1 of a logistic h.

Dinh, Krueger & Bengio 2014, "NICE: non-linear independent components estimation" (arXiv 1410.8516): the additive
coupling, the scaling, and the networks for MNIST (4 couplings, each m with 5 layers of 1,000 units).
Differences: 1. Each m starts at 0, its hidden layers as He et al. (2015) initialize them, and exp(s) where it gives the
components the prior's standard deviation. 2. s has 100 times the learning rate of the networks: with theirs it changes
too slowly. 3. The learning rate decreases linearly to 0, the last epoch counts (paper: the best one on a validation
set). 4. The gradient's norm is clipped at 100.
"""

import csv
import gzip
import json
import math
import re
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

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

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's digits, enlarged to 28x28, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    epochs: PositiveInt = 30
    """passes over the training set"""
    batch_size: PositiveInt = 20
    """images per update"""
    learning_rate: PositiveFloat = 1e-4
    """Adam's learning rate for the networks, annealed to 0"""
    layers: Annotated[int, Field(ge=1, le=100)] = 3
    """hidden layers of each coupling's network m"""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 300
    """units of each hidden layer"""


# --- the model -------------------------------------------------------------------------------


class NICE(nn.Module):
    """x [n, d] in [0, 1] <-> h [n, d], independent and logistic."""

    def __init__(self, d: int, layers: int, hidden: int, couplings: int = 4):
        super().__init__()
        self.s, self.m = nn.Parameter(torch.zeros(d)), nn.ModuleList()
        for _ in range(couplings):
            widths = [d // 2] + layers * [hidden]
            net = [layer for width in pairwise(widths) for layer in (nn.Linear(*width), nn.ReLU())]
            self.m.append(nn.Sequential(*net, nn.Linear(hidden, d // 2)))
            for layer in self.m[-1][::2]:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(self.m[-1][-1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """h = f(x)."""
        kept, changed = x[:, 0::2], x[:, 1::2]
        for m in self.m:
            kept, changed = changed + m(kept), kept  # the next coupling keeps the half that this one has changed
        return torch.cat([kept, changed], dim=1) * self.s.exp()

    def inverse(self, h: torch.Tensor) -> torch.Tensor:
        """x = f^-1(h)."""
        kept, changed = (h * (-self.s).exp()).chunk(2, dim=1)
        for m in reversed(self.m):
            kept, changed = changed, kept - m(changed)
        return torch.stack([kept, changed], dim=2).flatten(1)

    def log_likelihood(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) [n] = sum_i log p(h_i) + s_i; the logistic density is sigmoid(h) sigmoid(-h)."""
        h = self(x)
        return (F.logsigmoid(h) + F.logsigmoid(-h) + self.s).sum(dim=1)


def dequantize(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """uint8 [n, d] -> [n, d] in [0, 1], uniform within each pixel's interval of width 1/256."""
    return (images + torch.rand(images.shape, generator=generator, device=images.device)) / 256


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {"train-images-idx3-ubyte.gz": "440fcabf73cc546f", "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79"}


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, 784]."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) * (255 / 16)
        return F.interpolate(images, size=28, mode="bilinear").round().byte().flatten(1).split(1500)
    splits = []
    for name, sha256 in MNIST_SHA256.items():
        path = args.data_dir / name
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            content = bytearray(gzip.decompress(path.read_bytes()))
            splits.append(torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 784))  # after the header
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {MNIST_URL}: {error}") from None
    return splits


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device) for x in load_images(args))
    test, d = dequantize(test, torch.Generator(device).manual_seed(0)), test.shape[1]  # the same noise for every seed
    model = NICE(d, args.layers, args.hidden).to(device)
    with torch.no_grad():  # components start with the standard deviation of the logistic distribution, pi / sqrt(3)
        model.s += math.log(math.pi / math.sqrt(3)) - model(dequantize(images[:1000])).std(dim=0).log()
    groups = [{"params": model.m.parameters()}, {"params": [model.s], "lr": 100 * args.learning_rate}]
    optimizer = torch.optim.Adam(groups, lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.epochs * math.ceil(len(images) / args.batch_size))
    run = Run(args, args.dataset)

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        total, start = torch.zeros((), device=device), time.perf_counter()
        for idx in torch.randperm(len(images), device=device).split(args.batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                log_p = model.log_likelihood(dequantize(images[idx]))
            optimizer.zero_grad()
            (-log_p.mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 100)
            optimizer.step()
            anneal.step()
            total += log_p.detach().sum()
        total, seconds = total.item() / len(images), time.perf_counter() - start
        with torch.no_grad():
            test_log_p = torch.cat([model.log_likelihood(x) for x in test.split(1000)]).mean().item()
        row = {
            "global_step": epoch * len(images),
            "losses/log_likelihood": total,
            "eval/log_likelihood": test_log_p,
            "eval/bits_per_dim": 8 - test_log_p / (d * math.log(2)),
            "charts/SPS": len(images) / seconds,
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    from PIL import Image

    with torch.no_grad():
        x = model.inverse(torch.rand(64, d, device=device).logit(eps=1e-6)).clamp(0, 1)  # of logistic h
    grid = (x * 255).byte().view(8, 8, 28, 28).transpose(1, 2).reshape(224, 224).cpu().numpy()
    Image.fromarray(grid).resize((448, 448), Image.Resampling.NEAREST).save(run.dir / "samples.png")
    run.close("samples.png")
    print(f"test log p(x) {test_log_p:,.1f} nats, {row['eval/bits_per_dim']:.3f} bits per dimension: {run.dir}")
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
