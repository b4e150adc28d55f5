# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Deconvnet: project features of a convolutional network back to the pixels that activate them.

    python gen/deconvnet.py
    python gen/deconvnet.py --dataset cifar10 --epochs 5 --batch-size 100

A classifier of two convolutions, each with ReLU and 2x2 max pooling, is trained first. Then all feature maps but one
are set to zero and passed backwards: unpooled, rectified, and through the same filters transposed. What arrives are the
pixels that the feature responded to. Biases are not undone.

Pooling forgets which of four values was the maximum. Zeiler & Fergus record these switches and put the value back in
its place; the post copies it to all four, which blurs. features.png shows, for ten features of each layer, the test
image that activates the feature most, and its projection there with switches and with copies.

Zeiler & Fergus 2013, "Visualizing and understanding convolutional networks" (arXiv 1311.2901).
Frans 2016, the post (http://kvfrans.com/visualizing-features-from-a-convolutional-neural-network/): the network, and
what eval/* measures of its observations: features of a layer should be little correlated, and the image is easy to see
in the first layer's features, hard in the second's (eval/likeness: mean |r| of a feature's projection and the image).
Differences: a whole feature map is projected (paper: its largest activation); the learning rate falls linearly from
1e-3 to 0 (post: 1e-4); unseen images are scored.
"""

import csv
import json
import math
import re
import tarfile
import time
from dataclasses import asdict
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
    torch_deterministic: bool = True
    """deterministic convolutions on a GPU"""
    cuda: bool = True
    """use a GPU if there is one"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "cifar10"] = "digits"
    """scikit-learn's digits enlarged to 28x28, or CIFAR-10, downloaded on first use"""
    data_dir: Path = Path("data")
    """where CIFAR-10 is kept"""
    epochs: PositiveInt = 8
    """passes over the training set"""
    batch_size: PositiveInt = 50
    """images per update"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, annealed to 0"""


# --- the network, forwards and backwards -----------------------------------------------------


class ConvNet(nn.Module):
    """Two convolutions, each with ReLU and 2x2 max pooling, and a classifier of images [n, c, s, s], 0 to 255."""

    def __init__(self, colours: int, size: int):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(colours, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)])
        self.head = nn.Sequential(nn.Linear(64 * (size // 4) ** 2, 1024), nn.ReLU(), nn.Dropout(0.5))
        self.head.append(nn.Linear(1024, 10))

    def features(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of both layers the pooled features and the switches, where each maximum was: [n, channels, h, w]."""
        x, layers = images / 127.5 - 1, []
        for conv in self.convs:
            x, switches = F.max_pool2d(conv(x).relu(), 2, return_indices=True)
            layers.append((x, switches))
        return layers

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10]."""
        return self.head(self.features(images)[-1][0].flatten(1))


@torch.no_grad()
def project(model: ConvNet, image: torch.Tensor, layer: int, use_switches: bool = True) -> torch.Tensor:
    """Each feature of a layer (0 or 1) alone, of one image [1, c, s, s]: pixels [channels, c, s, s], 0 is grey.

    Without switches, values are copied to all four places.
    """
    layers = model.features(image)[: layer + 1]
    x = layers[-1][0]
    x = torch.eye(x.shape[1], device=x.device)[:, :, None, None] * x  # a feature in each row, all others are 0
    for i in range(layer, -1, -1):
        switches = layers[i][1].expand(len(x), -1, -1, -1)
        x = F.max_unpool2d(x, switches, 2) if use_switches else F.interpolate(x, scale_factor=2)
        x = F.conv_transpose2d(x.relu(), model.convs[i].weight, padding=2)
    return x


@torch.no_grad()
def statistics(model: ConvNet, images: torch.Tensor, layer: int) -> dict[str, float]:
    """What the post saw: correlation of live features over images and places, likeness to the image, dead features."""
    features = model.features(images)[layer][0].transpose(0, 1).flatten(1)  # [channels, n h w]
    alive = features.amax(1) > 0
    r = torch.atleast_2d(torch.corrcoef(features[alive])).abs()  # of one row it is a number
    pairs = r[~torch.eye(len(r), dtype=torch.bool, device=r.device)]
    likeness = []
    for image in images[:10].split(1):
        pixels = project(model, image, layer).flatten(1)
        pixels = pixels[pixels.std(1) > 0]
        both = torch.cat([image.float().flatten(1), pixels])
        likeness.append(torch.atleast_2d(torch.corrcoef(both))[0, 1:].abs())
    return {
        f"eval/correlation_{layer + 1}": pairs.mean().item(),
        f"eval/likeness_{layer + 1}": torch.cat(likeness).mean().item(),
        f"eval/dead_{layer + 1}": (~alive).sum().item(),
    }


# --- data ------------------------------------------------------------------------------------

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a"


def load_data(args: Args) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images uint8 [n, c, s, s], labels [n], and how many of them, from the first on, are to train on."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images = F.interpolate(pixels.float().view(-1, 1, 8, 8) * (255 / 16), size=28, mode="bilinear").round().byte()
        return images, labels, 1500
    path = args.data_dir / "cifar-10-binary.tar.gz"
    try:
        if not path.exists():
            args.data_dir.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(CIFAR10_URL, str(path), hash_prefix=CIFAR10_SHA256)
        with tarfile.open(path, "r:gz") as tar:  # data_batch_1.bin to data_batch_5.bin, test_batch.bin
            files = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".bin")]
        rows = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8).view(-1, 3073)
    except Exception as error:  # no connection, or a damaged or foreign file
        raise UsageError(f"--data-dir: cannot read {path}, or download it from {CIFAR10_URL}: {error}") from None
    return rows[:, 1:].unflatten(1, (3, 32, 32)), rows[:, 0].long(), 50_000


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def save_features(model: ConvNet, images: torch.Tensor, path: Path):
    """Three rows for each layer: the images that activate ten features most, the features' projections with switches,
    and with copies; grey is 0."""
    from PIL import Image

    rows = []
    for layer in (0, 1):
        active = torch.cat([model.features(part)[layer][0].amax((2, 3)) for part in images.split(500)])  # [n, channels]
        shown = [(k, images[active[:, k].argmax(), None]) for k in active.mean(0).topk(10).indices]
        rows.append(torch.cat([image / 255 for _, image in shown]))
        for use_switches in (True, False):
            pixels = torch.stack([project(model, image, layer, use_switches)[k] for k, image in shown])
            rows.append(0.5 + 0.5 * pixels / pixels.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
    grid = F.pad(torch.stack(rows), (1, 1, 1, 1), value=1.0)  # [rows, 10, c, height, width]
    grid = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [rows * height, 10 * width, c]
    grid = (grid.expand(-1, -1, 3) * 255).byte().cpu().numpy()
    Image.fromarray(grid).resize((3 * grid.shape[1], 3 * grid.shape[0]), Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, labels, n = load_data(args)
    images, labels = images.to(device), labels.to(device)
    test, test_labels = images[n:], labels[n:]
    model = ConvNet(*images.shape[1:3]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.epochs * math.ceil(n / args.batch_size))
    run, start = Run(args, args.dataset), time.perf_counter()

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        loss_sum = torch.zeros((), device=device)
        model.train()
        for idx in torch.randperm(n).to(device).split(args.batch_size):
            loss = F.cross_entropy(model(images[idx]), labels[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            anneal.step()
            loss_sum += loss.detach() * len(idx)
        model.eval()
        with torch.no_grad():
            predictions = torch.cat([model(part).argmax(1) for part in test.split(500)])
        row = {
            "global_step": epoch * n,
            "losses/loss": loss_sum.item() / n,
            "eval/accuracy": (predictions == test_labels).float().mean().item(),
            **statistics(model, test[:200], 0),
            **statistics(model, test[:200], 1),
            "charts/SPS": epoch * n / (time.perf_counter() - start),
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_features(model, test, run.dir / "features.png")
    run.close("features.png")
    print(f"test accuracy {row['eval/accuracy']:.2%} after {args.epochs} epochs: {run.dir}")
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
