# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""DRAW: a variational autoencoder with recurrent encoder and decoder that draws an image in T steps.

    python gen/draw.py
    python gen/draw.py --dataset mnist --epochs 12
    python gen/draw.py --dataset mnist --epochs 12 --no-attention

At each step the encoder reads a patch of the image and of the error so far and sends the decoder a latent code z_t; the
decoder adds a patch to the canvas. A patch is a grid of N x N Gaussian filters. The decoder chooses its place, stride
and width, and all of it is differentiable. Codes from the prior N(0, I) generate new images. The loss is a bound on
-log p(x): cross-entropy of the last canvas plus the KL divergences of the codes of all steps. drawing.png reproduces
the post's figure of the attention patches.

Gregor et al. 2015, "DRAW: a recurrent neural network for image generation" (arXiv 1502.04623), equations 1 to 29.
Frans 2016, "What is DRAW" (https://kvfrans.com/what-is-draw-deep-recurrent-attentive-writer/).
Differences from the paper: 1. The canvas starts at the mean image and the filters overlap at first, see `attention`;
from zeros, learning takes a thousand updates to start. 2. The learning rate falls linearly to 0. 3. By default it takes
T = 10 steps and reads 5 x 5 filters (paper: 64, 2 x 2). 4. --binarize static is not Larochelle's set of binary images.
"""

import csv
import gzip
import json
import math
import re
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

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's digits enlarged to 28x28, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    binarize: Literal["dynamic", "static"] = "dynamic"
    """binary pixels, with the intensity as probability: anew for every batch, or once"""
    epochs: PositiveInt = 30
    """passes over the training set"""
    batch_size: PositiveInt = 128
    """images per update"""
    learning_rate: PositiveFloat = 2e-3
    """Adam's learning rate at the start; it falls linearly to 0"""
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """T, steps per image"""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 256
    """units of each LSTM"""
    latent_dim: Annotated[int, Field(ge=1, le=10_000)] = 100
    """size of each step's code z"""
    attention: bool = True
    """read and write patches; without it the whole image at every step"""
    read_size: Annotated[int, Field(ge=2, le=100)] = 5
    """N of the N x N filters that read"""
    write_size: Annotated[int, Field(ge=2, le=100)] = 5
    """N of the N x N filters that write"""


# --- the model -------------------------------------------------------------------------------


def filterbank(parameters: torch.Tensor, num_filters: int, size: int) -> tuple[torch.Tensor, ...]:
    """The N x N Gaussian filters that five numbers per image [n, 5] stand for: F_x and F_y [n, 1, N, size], whose rows
    sum to 1, the intensity gamma [n, 1, 1, 1], and the filters' centres along x and y, pixel 1 the first [n, 2, N]."""
    centre, log_variance, log_stride, log_gamma = parameters.split([2, 1, 1, 1], dim=1)
    centre = (size + 1) / 2 * (centre + 1)  # (22) (23)
    stride = (size - 1) / (num_filters - 1) * log_stride.exp()  # (24)
    steps = torch.arange(1, num_filters + 1, device=parameters.device) - num_filters / 2 - 0.5
    means = centre.unsqueeze(2) + steps * stride.unsqueeze(2)  # (19) (20)
    pixels = torch.arange(1, size + 1, device=parameters.device)
    exponents = -((pixels - means.unsqueeze(3)) ** 2) / (2 * log_variance.exp()).view(-1, 1, 1, 1)
    F_x, F_y = exponents.softmax(dim=3).split(1, dim=1)  # (25) (26): Z makes rows sum to 1
    return F_x, F_y, log_gamma.exp().view(-1, 1, 1, 1), means


def attention(hidden: int, num_filters: int, size: int, writes: bool) -> nn.Linear:
    """The five parameters of a grid as a linear function of the decoder's state (21). At first the filters lie in the
    middle of the image, half as wide as their stride, so that they overlap. With a bias of 0 they would be a pixel wide
    and as far apart as the image allows: most pixels would be neither read nor written. Two filters start closer."""
    layer, spread = nn.Linear(hidden, 5), 0.5 if num_filters == 2 else 0.75
    stride = spread * (size - 1) / (num_filters - 1)
    gamma = stride**-2 if writes else 1.0  # what is written is spread over stride^2 pixels
    layer.bias.data = torch.tensor([0, 0, 2 * math.log(stride / 2), math.log(spread), math.log(gamma)])
    return layer


class DRAW(nn.Module):
    def __init__(self, args: Args, mean: torch.Tensor):
        """`mean` is the mean training image [1, size, size], where the canvas starts."""
        super().__init__()
        self.args, self.size, hidden = args, mean.shape[2], args.hidden
        read_pixels = write_pixels = mean.numel()
        if args.attention:
            read_pixels, write_pixels = args.read_size**2, args.write_size**2
            self.read_attention = attention(hidden, args.read_size, self.size, writes=False)
            self.write_attention = attention(hidden, args.write_size, self.size, writes=True)
        self.encoder = nn.LSTMCell(2 * read_pixels + hidden, hidden)
        self.posterior = nn.Linear(hidden, 2 * args.latent_dim)
        self.decoder = nn.LSTMCell(args.latent_dim, hidden)
        self.stroke = nn.Linear(hidden, write_pixels)
        self.canvas = nn.Parameter(mean.logit(0.001))  # the states before the first step are learned
        self.h_enc, self.h_dec = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, n: int, x: torch.Tensor | None = None) -> tuple[list, ...]:
        """Draw x [n, 1, size, size] again with codes from q(z|x), or n new images with codes from the prior. For each
        step: canvas, logits [n, 1, size, size]; KL(q(z_t | ...) || N(0, I)) [n], of x only; places of the filters that
        read and that write [n, 2, N], if there are any."""
        args, canvases, kl, reads, writes = self.args, [], [], [], []
        canvas, h_enc, h_dec = (start.expand(n, *start.shape) for start in (self.canvas, self.h_enc, self.h_dec))
        cell_enc, cell_dec = torch.zeros_like(h_enc), torch.zeros_like(h_dec)
        for _ in range(args.num_steps):
            z = torch.randn(n, args.latent_dim, device=canvas.device)
            if x is not None:
                glimpse = torch.cat([x, x - canvas.sigmoid()], 1)  # (3); without attention (17)
                if args.attention:
                    F_x, F_y, gamma, means = filterbank(self.read_attention(h_dec), args.read_size, self.size)
                    glimpse = gamma * (F_y @ glimpse @ F_x.mT)  # (4) (27)
                    reads.append(means)
                h_enc, cell_enc = self.encoder(torch.cat([glimpse.flatten(1), h_dec], 1), (h_enc, cell_enc))  # (5)
                mu, log_sigma = self.posterior(h_enc).chunk(2, 1)  # (1) (2)
                kl.append((0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(1))  # (11), the term of step t
                z = mu + log_sigma.exp() * z  # (6)
            h_dec, cell_dec = self.decoder(z, (h_dec, cell_dec))  # (7)
            stroke = self.stroke(h_dec)  # (28); without attention (18)
            if args.attention:
                F_x, F_y, gamma, means = filterbank(self.write_attention(h_dec), args.write_size, self.size)
                stroke = (F_y.mT @ stroke.view(n, 1, args.write_size, -1) @ F_x) / gamma  # (29)
                writes.append(means)
            canvas = canvas + stroke.view_as(canvas)  # (8)
            canvases.append(canvas)
        return canvases, kl, reads, writes

    def losses(self, x: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (9) and KL divergence (10) in nats, summed over pixels, latents and steps: [2, n]."""
        canvases, kl, _, _ = self(len(x), x)
        recon = F.binary_cross_entropy_with_logits(canvases[-1], x, reduction="none").flatten(1).sum(1)
        return torch.stack([recon, torch.stack(kl).sum(0)])


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {"train-images-idx3-ubyte.gz": "440fcabf73cc546f", "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79"}


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images [n, 1, 28, 28] in [0, 1]."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
        return F.interpolate(images, size=28, mode="bilinear").split(1500)
    splits = []
    for name, sha256 in MNIST_SHA256.items():
        path = args.data_dir / name
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            content = bytearray(gzip.decompress(path.read_bytes()))
            splits.append(torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28) / 255)
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {MNIST_URL}: {error}") from None
    return splits


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def save_drawing(model: DRAW, images: torch.Tensor, path: Path):
    """Steps from left to right: canvases of four images [4, 1, size, size] and of four from the prior, with frames
    around what is read (orange) and written (green)."""
    from PIL import Image, ImageDraw

    side = 3 * model.size
    picture = Image.new("RGB", (model.args.num_steps * (side + 3), 8 * (side + 3)), "grey")
    for top, (canvases, _, reads, writes) in ((0, model(4, images)), (4, model(4))):
        for t, canvas in enumerate(canvases):
            for i, pixels in enumerate((canvas.squeeze(1).sigmoid() * 255).byte().cpu().numpy()):
                tile = Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                for means, color in ((reads, "orange"), (writes, "lime")):
                    if means:
                        (left, right), (upper, lower) = (3 * (means[t][i, :, [0, -1]] - 0.5)).tolist()
                        ImageDraw.Draw(tile).rectangle((left, upper, right, lower), outline=color)
                picture.paste(tile, (t * (side + 3), (top + i) * (side + 3)))
    picture.save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device) for x in load_images(args))  # your own: [n, 1, size, size] in [0, 1]
    model = DRAW(args, images.mean(0)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    test = test.bernoulli(generator=torch.Generator(device).manual_seed(0))  # the same pixels for every seed
    if args.binarize == "static":
        images = images.bernoulli()
    run, start = Run(args, args.dataset), time.perf_counter()

    for epoch in tqdm(range(args.epochs), unit="epoch", disable=None):
        loss_sum = torch.zeros((), device=device)
        batches = torch.randperm(len(images), device=device).split(args.batch_size)
        for update, idx in enumerate(batches):
            x = images[idx].bernoulli() if args.binarize == "dynamic" else images[idx]
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (epoch + update / len(batches)) / args.epochs)
            loss = model.losses(x).sum(0).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            loss_sum += loss.detach() * len(x)
        with torch.no_grad():
            recon, kl = torch.cat([model.losses(x) for x in test.split(500)], 1).mean(1).tolist()
        row = {
            "global_step": (epoch + 1) * len(images),
            "losses/loss": loss_sum.item() / len(images),
            "eval/loss": recon + kl,
            "eval/kl": kl,
            "charts/SPS": (epoch + 1) * len(images) / (time.perf_counter() - start),
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_drawing(model, test[:4], run.dir / "drawing.png")
    run.close("drawing.png")
    print(f"test -log p(x) <= {row['eval/loss']:.2f} nats (KL {row['eval/kl']:.2f}), {args.epochs} epochs: {run.dir}")
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
