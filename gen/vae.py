# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Variational autoencoder (VAE): an autoencoder with Gaussian codes, so that new codes can be sampled and decoded.

    python gen/vae.py
    python gen/vae.py --dataset mnist --epochs 10
    python gen/vae.py --kl-weight 0

The encoder maps an image x to a Gaussian q(z|x) over codes z, the decoder a code sampled from it back to an image. The
loss has the form of the negative evidence lower bound (ELBO): the cross-entropy of the reconstruction plus
KL(q(z|x) || N(0, I)), both SUMMED over pixels and dimensions of z: with an average over pixels the KL term weighs 784
times as much, and the posterior collapses. The KL term keeps codes close to N(0, I): its samples decode to new images.

Kingma & Welling 2014, "Auto-encoding variational Bayes" (arXiv 1312.6114): equation 10 with one sample, appendix B.
Kevin Frans 2016, "Variational autoencoders explained" (https://kvfrans.com/variational-autoencoders-explained/).
Differences: (1) The network is that of PyTorch's example: dense layers, ReLU, Adam (the post: convolutions). (2) Grey
levels are targets of the cross-entropy, as in the example and the post, so the loss is not a negative log-likelihood;
gen/iwae.py measures one. (3) The bias of the output starts at the mean image.
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
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributions import Normal, kl_divergence
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
    """train in bfloat16 by autocast"""
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
    epochs: PositiveInt = 50
    """passes over the training set"""
    batch_size: PositiveInt = 128
    """images per update"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate"""
    hidden: Annotated[int, Field(ge=1, le=10_000)] = 400
    """hidden units of the encoder and of the decoder"""
    latent_dim: Annotated[int, Field(ge=2, le=10_000)] = 20
    """dimensions of the code z"""
    kl_weight: NonNegativeFloat = 1.0
    """weight of the KL divergence; 0: the plain autoencoder, without noise"""


# --- the model -------------------------------------------------------------------------------


class VAE(nn.Module):
    """Images x [n, d] in [0, 1], codes z [n, latent_dim]."""

    def __init__(self, mean: torch.Tensor, hidden: int, latent_dim: int):
        super().__init__()
        d = len(mean)
        self.encoder = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, d))
        self.decoder[2].bias.data.copy_(mean.logit(0.001))  # start from the mean image

    def encode(self, x: torch.Tensor) -> Normal:
        """q(z|x): independent Gaussians."""
        mu, logvar = self.encoder(x).float().chunk(2, dim=1)
        return Normal(mu, (0.5 * logvar).exp(), validate_args=False)  # Run.log reports NaN, with its step

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The pixels' means [n, d] in [0, 1]."""
        return self.decoder(z).sigmoid()

    def losses(self, x: torch.Tensor, noise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of the reconstruction, summed over pixels [n]; KL divergence of each dimension [n, latent]."""
        q = self.encode(x)
        z = q.rsample() if noise else q.mean  # reparametrization: z = mu + std * noise
        recon = F.binary_cross_entropy_with_logits(self.decoder(z).float(), x, reduction="none").sum(1)
        return recon, kl_divergence(q, Normal(0.0, 1.0))


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {"train-images-idx3-ubyte.gz": "440fcabf73cc546f", "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79"}


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, 1, 28, 28]."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) * (255 / 16)
        return F.interpolate(images, size=28, mode="bilinear").round().byte().split(1500)
    splits = []
    for name, sha256 in MNIST_SHA256.items():
        path = args.data_dir / name
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            content = bytearray(gzip.decompress(path.read_bytes()))
            splits.append(torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28))
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {MNIST_URL}: {error}") from None
    return splits


# --- training --------------------------------------------------------------------------------


def save_grid(images: torch.Tensor, columns: int, path: Path):
    """Images [n, 28 * 28] in [0, 1] as a grid."""
    from PIL import Image, ImageOps

    grid = F.pad(images.view(-1, columns, 28, 28), (1, 1, 1, 1), value=0.5).transpose(1, 2).flatten(2).flatten(0, 1)
    ImageOps.scale(Image.fromarray((grid * 255).byte().cpu().numpy()), 2, Image.Resampling.NEAREST).save(path)


@torch.no_grad()
def save_pictures(model: VAE, test: torch.Tensor, most: torch.Tensor, folder: Path):
    """Samples; latent traversal of two dimensions; interpolation between the codes of pairs of test images."""
    latent_dim, device = model.decoder[0].in_features, test.device
    save_grid(model.decode(torch.randn(64, latent_dim, device=device)), 8, folder / "samples.png")
    z, steps = torch.zeros(225, latent_dim, device=device), torch.linspace(-2, 2, 15, device=device)
    z[:, most] = torch.cartesian_prod(steps, steps)
    save_grid(model.decode(z), 15, folder / "traversal.png")
    start, end = model.encode(test[:16]).mean.unsqueeze(1).split(8)
    path = model.decode(torch.lerp(start, end, torch.linspace(0, 1, 10, device=device).unsqueeze(1)))
    path = torch.cat([test[:8].unsqueeze(1), path, test[8:16].unsqueeze(1)], dim=1)
    save_grid(path.flatten(0, 1), 12, folder / "interpolation.png")


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device).flatten(1) / 255 for x in load_images(args))  # float [n, 784] in [0, 1]
    model = VAE(images.mean(0), args.hidden, args.latent_dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    run, noise = Run(args, args.dataset), args.kl_weight > 0

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        loss_sum, start = torch.zeros((), device=device), time.perf_counter()
        for idx in torch.randperm(len(images), device=device).split(args.batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                recon, kl = model.losses(images[idx], noise)
            loss = recon.mean() + args.kl_weight * kl.sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(idx)
        mean_loss, seconds = loss_sum.item() / len(images), time.perf_counter() - start  # of training alone
        with torch.no_grad():
            recon, kl = (loss.mean(0) for loss in model.losses(test, noise))
        row = {
            "global_step": epoch * len(images),
            "losses/loss": mean_loss,
            "eval/loss": (recon + args.kl_weight * kl.sum()).item(),
            "eval/recon": recon.item(),
            "eval/kl": kl.sum().item(),
            "charts/SPS": len(images) / seconds,
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_pictures(model, test, kl.topk(2).indices, run.dir)
    run.close("samples.png", "traversal.png", "interpolation.png")
    print(f"test loss {row['eval/loss']:.2f} nats an image after {args.epochs} epochs: {run.dir}")
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
