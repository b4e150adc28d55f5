# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""DRAW in colour: one attention for the three channels, squared error in place of cross-entropy.

    python gen/draw_color.py
    python benchmarks/emoji.py gen/draw_color.py --data-dir data/emoji --epochs 20  # cartoons of a font

It differs from draw.py in this: images have three channels, which the same filters read and write, and a colour is a
Gaussian around the sigmoid of the canvas, so that -log p(x|z) is the squared error over 2 sigma^2 plus a constant that
the loss omits. --noise-std is sigma, the balance with the KL divergence. The post's loss sums half the squared error
over a batch of 64 but averages the KL divergence: sigma = 1/8. The "one-to-one" of its text would be sigma = 1.

Frans 2016, the post on DRAW in colour (https://kvfrans.com/colorizing-the-draw-model/): these settings (T = 10, 10
latents, 5 x 5 filters, batches of 64) and its proposals for sharper images: longer training, a larger code, more steps.
Gregor et al. 2015, "DRAW: a recurrent neural network for image generation" (arXiv 1502.04623), equations 1 to 29.
Differences from the paper: 1. The canvas starts at the mean image and the filters overlap at first, see `attention`.
2. The learning rate falls linearly to 0.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
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

    data_dir: Path | None = None
    """folder of images in train/ and test/; default: crops of scikit-learn's two photographs"""
    image_size: Annotated[int, Field(ge=8, le=80)] = 64
    """side of the images in pixels"""
    noise_std: Annotated[float, Field(gt=0, le=100)] = 0.125
    """sigma of the colours around the canvas; smaller: better reconstructions, more nats in the codes"""
    epochs: PositiveInt = 8
    """passes over the training set"""
    batch_size: PositiveInt = 64
    """images per update"""
    learning_rate: PositiveFloat = 2e-3
    """Adam's learning rate at the start; it falls linearly to 0"""
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """T, steps per image"""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 256
    """units of each LSTM"""
    latent_dim: Annotated[int, Field(ge=1, le=10_000)] = 10
    """size of each step's code z"""


# --- the model -------------------------------------------------------------------------------

N = 5  # both kinds of patches have N x N filters


def filterbank(parameters: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """The N x N Gaussian filters that five numbers per image [n, 5] stand for: F_x and F_y [n, 1, N, size], whose rows
    sum to 1, the intensity gamma [n, 1, 1, 1], and the filters' centres along x and y, pixel 1 the first [n, 2, N]."""
    centre, log_variance, log_stride, log_gamma = parameters.split([2, 1, 1, 1], dim=1)
    centre = (size + 1) / 2 * (centre + 1)  # (22) (23)
    stride = (size - 1) / (N - 1) * log_stride.exp()  # (24)
    steps = torch.arange(1, N + 1, device=parameters.device) - N / 2 - 0.5
    means = centre.unsqueeze(2) + steps * stride.unsqueeze(2)  # (19) (20)
    pixels = torch.arange(1, size + 1, device=parameters.device)
    exponents = -((pixels - means.unsqueeze(3)) ** 2) / (2 * log_variance.exp()).view(-1, 1, 1, 1)
    F_x, F_y = exponents.softmax(dim=3).split(1, dim=1)  # (25) (26): Z makes rows sum to 1
    return F_x, F_y, log_gamma.exp().view(-1, 1, 1, 1), means


def attention(hidden: int, size: int, writes: bool) -> nn.Linear:
    """The five parameters of a grid as a linear function of the decoder's state (21). At first the filters lie in the
    middle of the image, half as wide as their stride, so that they overlap. With a bias of 0 they would be a pixel wide
    and as far apart as the image allows: most pixels would be neither read nor written."""
    layer, stride = nn.Linear(hidden, 5), 0.75 * (size - 1) / (N - 1)
    gamma = stride**-2 if writes else 1.0  # what is written is spread over stride^2 pixels
    layer.bias.data = torch.tensor([0, 0, 2 * math.log(stride / 2), math.log(0.75), math.log(gamma)])
    return layer


class DRAW(nn.Module):
    def __init__(self, args: Args, mean: torch.Tensor):
        """`mean` is the mean training image [3, size, size], where the canvas starts."""
        super().__init__()
        self.args, self.size, hidden = args, mean.shape[2], args.hidden
        self.read_attention = attention(hidden, self.size, writes=False)
        self.write_attention = attention(hidden, self.size, writes=True)
        self.encoder = nn.LSTMCell(2 * 3 * N**2 + hidden, hidden)
        self.posterior = nn.Linear(hidden, 2 * args.latent_dim)
        self.decoder = nn.LSTMCell(args.latent_dim, hidden)
        self.stroke = nn.Linear(hidden, 3 * N**2)
        self.canvas = nn.Parameter(mean.logit(0.001))  # the states before the first step are learned
        self.h_enc, self.h_dec = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, n: int, x: torch.Tensor | None = None) -> tuple[list, ...]:
        """Draw x [n, 3, size, size] again with codes from q(z|x), or n new images with codes from the prior. For each
        step: canvas, whose sigmoid is the image [n, 3, size, size]; KL(q(z_t | ...) || N(0, I)) [n] and places of the
        filters that read [n, 2, N], of x only; places of the filters that write [n, 2, N]."""
        args, canvases, kl, reads, writes = self.args, [], [], [], []
        canvas, h_enc, h_dec = (start.expand(n, *start.shape) for start in (self.canvas, self.h_enc, self.h_dec))
        cell_enc, cell_dec = torch.zeros_like(h_enc), torch.zeros_like(h_dec)
        for _ in range(args.num_steps):
            z = torch.randn(n, args.latent_dim, device=canvas.device)
            if x is not None:
                F_x, F_y, gamma, means = filterbank(self.read_attention(h_dec), self.size)
                glimpse = gamma * (F_y @ torch.cat([x, x - canvas.sigmoid()], 1) @ F_x.mT)  # (3) (4) (27)
                reads.append(means)
                h_enc, cell_enc = self.encoder(torch.cat([glimpse.flatten(1), h_dec], 1), (h_enc, cell_enc))  # (5)
                mu, log_sigma = self.posterior(h_enc).chunk(2, 1)  # (1) (2)
                kl.append((0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(1))  # (11), the term of step t
                z = mu + log_sigma.exp() * z  # (6)
            h_dec, cell_dec = self.decoder(z, (h_dec, cell_dec))  # (7)
            F_x, F_y, gamma, means = filterbank(self.write_attention(h_dec), self.size)
            canvas = canvas + (F_y.mT @ self.stroke(h_dec).view(n, 3, N, N) @ F_x) / gamma  # (8) (28) (29)
            writes.append(means)
            canvases.append(canvas)
        return canvases, kl, reads, writes

    def losses(self, x: torch.Tensor) -> torch.Tensor:
        """Squared error over 2 sigma^2, and KL divergence (10), summed over pixels, latents and steps: [2, n]."""
        canvases, kl, _, _ = self(len(x), x)
        squared_error = ((x - canvases[-1].sigmoid()) ** 2).flatten(1).sum(1)
        return torch.stack([squared_error / (2 * self.args.noise_std**2), torch.stack(kl).sum(0)])


# --- data ------------------------------------------------------------------------------------


def read_folder(folder: Path, size: int) -> np.ndarray:
    """The readable images below a folder, cut to squares of this side: uint8 [n, size, size, 3]."""
    from PIL import Image, ImageOps

    images, skipped = [], []
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        try:
            with Image.open(path) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (size, size))))
        except Exception as error:  # no image, or damaged, over which PIL raises nearly anything
            skipped.append(f"{path} ({error})")
    if len(images) < 4:
        raise UsageError(f"--data-dir: {folder} needs 4 readable images and has {len(images)}, {len(skipped)} others")
    if skipped:
        print(f"--data-dir {folder}: {len(skipped)} unreadable files are skipped, the first is {skipped[0]}")
    return np.stack(images)


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images [n, 3, size, size] in [0, 1]."""
    if args.data_dir is None:  # crops of the left three quarters of both photographs; test: of the rest
        from sklearn.datasets import load_sample_images
        from sklearn.feature_extraction.image import extract_patches_2d

        side = (args.image_size, args.image_size)
        photos = [photo[::2, ::2] for photo in load_sample_images().images]  # 214 x 320
        train = [extract_patches_2d(photo[:, :240], side, max_patches=1000, random_state=0) for photo in photos]
        test = [extract_patches_2d(photo[:, 240:], side, max_patches=100, random_state=0) for photo in photos]
        splits = [np.concatenate(train), np.concatenate(test)]
    else:
        splits = [read_folder(args.data_dir / kind, args.image_size) for kind in ("train", "test")]
    return [torch.from_numpy(images).permute(0, 3, 1, 2) / 255 for images in splits]


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def save_drawing(model: DRAW, images: torch.Tensor, path: Path):
    """Steps from left to right: canvases of four images [4, 3, size, size] and of four from the prior, with frames
    around what is read (orange) and written (green)."""
    from PIL import Image, ImageDraw

    side = 2 * model.size
    picture = Image.new("RGB", (model.args.num_steps * (side + 2), 8 * (side + 2)), "grey")
    for top, (canvases, _, reads, writes) in ((0, model(4, images)), (4, model(4))):
        for t, canvas in enumerate(canvases):
            for i, pixels in enumerate((canvas.sigmoid() * 255).byte().permute(0, 2, 3, 1).cpu().numpy()):
                tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
                for means, color in ((reads, "orange"), (writes, "lime")):
                    if means:
                        (left, right), (upper, lower) = (2 * (means[t][i, :, [0, -1]] - 0.5)).tolist()
                        ImageDraw.Draw(tile).rectangle((left, upper, right, lower), outline=color)
                picture.paste(tile, (t * (side + 2), (top + i) * (side + 2)))
    picture.save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device) for x in load_images(args))
    model = DRAW(args, images.mean(0)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    run, start = Run(args, args.data_dir.name if args.data_dir else "photos"), time.perf_counter()

    for epoch in tqdm(range(args.epochs), unit="epoch", disable=None):
        loss_sum = torch.zeros((), device=device)
        batches = torch.randperm(len(images), device=device).split(args.batch_size)
        for update, idx in enumerate(batches):
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (epoch + update / len(batches)) / args.epochs)
            loss = model.losses(images[idx]).sum(0).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            loss_sum += loss.detach() * len(idx)
        with torch.no_grad():
            recon, kl = torch.cat([model.losses(x) for x in test.split(500)], 1).mean(1).tolist()
        row = {
            "global_step": (epoch + 1) * len(images),
            "losses/loss": loss_sum.item() / len(images),
            "eval/loss": recon + kl,
            "eval/kl": kl,
            "eval/squared_error": 2 * args.noise_std**2 * recon,
            "charts/SPS": (epoch + 1) * len(images) / (time.perf_counter() - start),
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_drawing(model, test[:4], run.dir / "drawing.png")
    run.close("drawing.png")
    print(f"test squared error {row['eval/squared_error']:.1f} per image, KL {row['eval/kl']:.1f} nats: {run.dir}")
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
