# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy", "opencv-python-headless", "pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2",
#     "wandb",
# ]
# ///
"""Colorizer: a conditional GAN that paints line art, given a rough hint of the colours.

    python gen/colorizer.py
    python benchmarks/emoji.py gen/colorizer.py --data-dir data/emoji --size 128 --width 32 --epochs 3

Every image is a training example: its lines, found by an adaptive threshold, are the input, the image is the target. A
U-Net paints; a discriminator learns to tell painted images from real ones given the same lines. Lines do not say what
colour a shirt has, so the generator also sees a hint: the image, blurred until only patches of colour remain.

Trained on that (--hint blur), it relies on the hint alone and leaves white what a person did not paint. --hint holes
whites out 30 random squares before the blur, as dropout does with activations, so that it learns to complete. In use
nothing is removed; the hint is faded towards white by the share of the image that the squares leave on average.

Frans 2017 (https://kvfrans.com/coloring-and-shading-line-art-automatically-through-conditional-gans/), the post on
deepcolor: lines, hints, squares, and the experiments (--hint, --loss).
Isola et al. 2017, "Image-to-image translation with conditional adversarial networks" (arXiv 1611.07004): pix2pix, its
networks and its loss, 100 times L1 of images in [-1, 1] beside the adversarial loss.
Differences: 1. The post fades by 0.3; its code's squares of 50/256 of the side leave 0.39. 2. Group normalization for
batch normalization: the colours of an image do not depend on its batch. 3. No dropout. 4. Adam's learning rate is 1e-3
(both: 2e-4), since runs here last minutes.
"""

import csv
import json
import math
import re
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
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    data_dir: Path | None = None
    """folder of images, in train/ and test/ or, a tenth to test on, anywhere; default: scikit-learn's photographs"""
    size: Literal[64, 128, 256] = 64
    """side of the images in pixels"""
    hint: Literal["none", "blur", "holes"] = "holes"
    """hint of the colours: white paper, the image blurred, or squares of it whited out and then blurred"""
    loss: Literal["gan", "l2"] = "gan"
    """100 times L1 and an adversary, or the squared error alone"""
    width: Annotated[int, Field(ge=1, le=256)] = 16
    """channels of the first layer, up to eight times as many further in (pix2pix: 64)"""
    epochs: PositiveInt = 4
    """passes over the training set"""
    batch_size: PositiveInt = 4
    """images per update"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate of both networks; it falls linearly to 0 over the second half, as pix2pix's does"""


# --- lines and hints -------------------------------------------------------------------------

NUM_HOLES, HOLE, BLUR = 30, 50 / 256, 100 / 256  # squares to white out; their side and the blur's as shares of ours
VISIBLE = 0.39  # share of an image that the squares leave on average


def find_lines(x: torch.Tensor) -> torch.Tensor:
    """Line art [n, 1, s, s] of x [n, 3, s, s]: -1 where a pixel is 2 levels darker than the mean around it."""
    block = max(3, x.shape[-1] * 9 // 256 | 1)  # 9 at 256 pixels; must be odd
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    mean = F.avg_pool2d(F.pad(grey, [block // 2] * 4, mode="replicate"), block, stride=1)
    return torch.where(grey > mean - 2 / 127.5, 1.0, -1.0)


def white_out(x: torch.Tensor) -> torch.Tensor:
    """x [n, 3, s, s] with random squares of 1, which is white."""
    x, hole = x.clone(), round(HOLE * x.shape[-1])
    for image in x:
        for top, left in torch.randint(x.shape[-1] - hole + 1, (NUM_HOLES, 2)).tolist():
            image[:, top : top + hole, left : left + hole] = 1
    return x


def blur(x: torch.Tensor) -> torch.Tensor:
    """Mean over a box around each pixel, mirrored at the border: x [n, 3, s, s]."""
    box = round(BLUR * x.shape[-1])
    x = F.pad(x, (box // 2, box - 1 - box // 2) * 2, mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(x, (box, 1), stride=1), (1, box), stride=1)


def hint_in_use(x: torch.Tensor, hint: str) -> torch.Tensor:
    """The hint from what a person painted, x [n, 3, s, s] in [-1, 1]: no squares, but as pale as they make it."""
    if hint == "none":
        return torch.ones_like(x)
    return blur(VISIBLE * x + (1 - VISIBLE) if hint == "holes" else x)


# --- the networks ----------------------------------------------------------------------------


def normalize(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


class Generator(nn.Module):
    """U-Net: strided convolutions down to one pixel, transposed ones back up. All images are in [-1, 1]."""

    def __init__(self, size: int, width: int):
        super().__init__()
        levels = size.bit_length() - 1
        widths = [4] + [width * min(2**i, 8) for i in range(levels)]  # pix2pix: 64 128 256 512 512 ...
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            down = [nn.Conv2d(before, after, 4, stride=2, padding=1), normalize(after), nn.LeakyReLU(0.2)]
            if i in (0, levels - 1):  # neither the first layer nor the last pixel is normalized
                del down[1]
            up = [nn.ConvTranspose2d(after if i == levels - 1 else 2 * after, before, 4, stride=2, padding=1)]
            self.down.append(nn.Sequential(*down))
            self.up.insert(0, nn.Sequential(*up, normalize(before), nn.ReLU()))
        self.up[-1] = nn.Sequential(nn.ConvTranspose2d(2 * width, 3, 4, stride=2, padding=1), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lines and hint [n, 4, s, s] -> painted image [n, 3, s, s]."""
        skipped = []
        for down in self.down:
            x = down(x)
            skipped.append(x)
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, skipped[-1 - i]], dim=1) if i else x)
        return x


def make_discriminator(width: int) -> nn.Sequential:
    """PatchGAN: lines, hint and image [n, 7, s, s] -> logits of being real, one per 70 x 70 patch [n, 1, p, p]."""
    layers = [nn.Conv2d(7, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for before, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(before, 2 * before, 4, stride, padding=1), normalize(2 * before), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))


def update(networks: nn.ModuleDict, optimizers: dict, x: torch.Tensor, seen: torch.Tensor, loss: str) -> torch.Tensor:
    """One update of both networks from images x [n, 3, s, s] and what the generator sees of them [n, 4, s, s].

    Returns the error, the generator's and the discriminator's adversarial loss [3].
    """
    y, zero = networks["generator"](seen), torch.zeros((), device=x.device)
    if loss == "l2":
        total, losses = F.mse_loss(y, x), [F.mse_loss(y, x), zero, zero]
    else:
        discriminator = networks["discriminator"]
        real, fake = (discriminator(torch.cat([seen, image], dim=1)) for image in (x, y.detach()))
        detect = (F.softplus(-real) + F.softplus(fake)).mean() / 2  # pix2pix halves it
        optimizers["discriminator"].zero_grad()
        detect.backward()
        optimizers["discriminator"].step()
        error, adversarial = F.l1_loss(y, x), F.softplus(-discriminator(torch.cat([seen, y], dim=1))).mean()
        total, losses = 100 * error + adversarial, [error, adversarial, detect]
    optimizers["generator"].zero_grad()
    total.backward()
    optimizers["generator"].step()
    return torch.stack(losses).detach()


# --- data and evaluation ---------------------------------------------------------------------


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, 3, size, size]."""
    size = (args.size, args.size)
    if args.data_dir is None:  # crops of the left three quarters of both photographs; test: of the rest
        from sklearn.datasets import load_sample_images
        from sklearn.feature_extraction.image import extract_patches_2d

        if args.size > 64:
            raise UsageError("--size: scikit-learn's photographs are too small for more than 64; set --data-dir")
        photos = [photo[::2, ::2] for photo in load_sample_images().images]  # 214 x 320
        train = [extract_patches_2d(photo[:, :240], size, max_patches=500, random_state=0) for photo in photos]
        test = [extract_patches_2d(photo[:, 240:], size, max_patches=50, random_state=0) for photo in photos]
        return [torch.from_numpy(np.concatenate(part)).permute(0, 3, 1, 2) for part in (train, test)]
    from PIL import Image, ImageOps

    images, skipped = {}, []
    for path in sorted(path for path in args.data_dir.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            images[path] = np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
        except Exception as error:  # no image, or damaged, over which PIL raises nearly anything
            skipped.append(f"{path} ({error})")
    if skipped:
        print(f"--data-dir {args.data_dir}: {len(skipped)} unreadable files are skipped, the first is {skipped[0]}")
    test = [path for path in images if "test" in path.relative_to(args.data_dir).parts] or list(images)[::10]
    train = sorted(images.keys() - set(test))
    if not train:
        raise UsageError(f"--data-dir {args.data_dir}: no readable images to train on")
    return [torch.from_numpy(np.stack([images[path] for path in part])).permute(0, 3, 1, 2) for part in (train, test)]


@torch.no_grad()
def paint(generator: Generator, lines: torch.Tensor, colors: torch.Tensor, hint: str) -> torch.Tensor:
    """What the generator makes of lines [n, 1, s, s] and a person's colours [n, 3, s, s], all in [-1, 1]."""
    seen = torch.cat([lines, hint_in_use(colors, hint)], dim=1)
    return torch.cat([generator(part) for part in seen.split(20)])


def errors(painted: torch.Tensor, images: torch.Tensor, name: str = "") -> dict[str, float]:
    """Mean absolute error of images in [0, 1] and mean distance in the plane of CIE Lab's a and b."""
    import cv2

    x, y = (((part + 1) / 2).permute(0, 2, 3, 1).flatten(0, 1).cpu().numpy() for part in (painted, images))
    ab_x, ab_y = (cv2.cvtColor(part, cv2.COLOR_RGB2LAB)[..., 1:] for part in (x, y))  # images one below the other
    distance = np.linalg.norm(ab_x - ab_y, axis=-1)
    return {f"eval/{name}l1": float(np.abs(x - y).mean()), f"eval/{name}ab": float(distance.mean())}


def save_samples(columns: list[torch.Tensor], path: Path):
    """Columns of images [n, 1 or 3, s, s] in [-1, 1], side by side."""
    from PIL import Image

    columns = [F.pad(column.expand(-1, 3, -1, -1).cpu(), (1, 1, 1, 1)) for column in columns]
    sheet = torch.stack(columns, 1).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [n * s, columns * s, 3]
    image = Image.fromarray(((sheet + 1) * 127.5).round().byte().numpy())
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = load_images(args)
    test = test.to(device) / 127.5 - 1
    lines, white, baseline = find_lines(test), torch.ones_like(test), errors(blur(test), test, "blur_")
    generator, discriminator = Generator(args.size, args.width), make_discriminator(args.width)
    networks = nn.ModuleDict({"generator": generator, "discriminator": discriminator}).to(device)
    for layer in networks.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)  # as pix2pix's
            nn.init.zeros_(layer.bias)
    adam = {"lr": args.learning_rate, "betas": (0.5, 0.999)}
    optimizers = {name: torch.optim.Adam(network.parameters(), **adam) for name, network in networks.items()}
    run, start = Run(args, args.data_dir.name if args.data_dir else "photos"), time.perf_counter()
    updates = math.ceil(len(images) / args.batch_size)  # per epoch

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        losses = torch.zeros(3, device=device)
        for i, idx in enumerate(torch.randperm(len(images)).split(args.batch_size)):
            progress = (epoch - 1 + i / updates) / args.epochs
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = args.learning_rate * min(1, 2 - 2 * progress)
            x = images[idx].to(device) / 127.5 - 1
            hint = blur(white_out(x)) if args.hint == "holes" else hint_in_use(x, args.hint)
            losses += update(networks, optimizers, x, torch.cat([find_lines(x), hint], dim=1), args.loss)
        error, adversarial, detect = (losses / updates).tolist()
        painted, unhinted = (paint(generator, lines, colors, args.hint) for colors in (test, white))
        row = {
            "global_step": epoch * len(images),
            "losses/error": error,
            "losses/adversarial": adversarial,
            "losses/discriminator": detect,
            **errors(painted, test),
            **errors(unhinted, test, "empty_hint_"),
            **baseline,
            "charts/SPS": epoch * len(images) / (time.perf_counter() - start),
        }
        run.log(row)
        torch.save({"generator": generator.state_dict()}, run.dir / "model.pt")

    some = torch.linspace(0, len(test) - 1, min(8, len(test)), device=device).long()
    save_samples([x[some] for x in (test, lines, blur(test), painted, unhinted)], run.dir / "samples.png")
    run.close("samples.png")
    print(f"test error in Lab a, b {row['eval/ab']:.2f} (the blurred image: {row['eval/blur_ab']:.2f}): {run.dir}")
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
