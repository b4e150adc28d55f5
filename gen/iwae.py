# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Importance weighted autoencoder (IWAE): a VAE trained on a tighter bound, from k codes per image.

    python gen/iwae.py
    python gen/iwae.py --dataset mnist --k 50 --stages 8

With k codes z_1 ... z_k from q(z|x), log 1/k sum_i p(x, z_i) / q(z_i|x) is in expectation a lower bound of log p(x):
for k = 1 the ELBO of a VAE, tighter with growing k. The test likelihood is estimated by this bound with 5,000 codes.
Images are binarized: each pixel is 1 with its intensity as probability, sampled anew for every training batch.

Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders" (arXiv 1509.00519): the bound is equation 8; the
network, the schedule and Adam's settings are those of section 5, the results are in table 1. A latent dimension is
active if its mean's variance over images exceeds 0.01. Difference: only the first four of the paper's eight stages by
default, 40 of its 3,280 epochs.
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
from torch.distributions import Normal
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
    """scikit-learn's digits, enlarged to 28x28, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    k: Annotated[int, Field(ge=1, le=1000)] = 5
    """codes per image; 1: the VAE's bound"""
    stages: Annotated[int, Field(ge=1, le=12)] = 4
    """stages i = 0, 1, ... of the paper's eight: 3^i epochs at 10^(-i/7) times the learning rate"""
    batch_size: PositiveInt = 20
    """images per update"""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate in the first stage"""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 200
    """units of each hidden layer, two in the encoder and two in the decoder"""
    latent_dim: Annotated[int, Field(ge=1, le=10_000)] = 50
    """dimensions of the code z"""
    nll_samples: PositiveInt = 5000
    """codes per test image to estimate the likelihood with, after the last epoch"""


# --- the model -------------------------------------------------------------------------------


def mlp(a: int, b: int, c: int, d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c), nn.Tanh(), nn.Linear(c, d))


class IWAE(nn.Module):
    """Binary images x [n, d], k codes per image z [k, n, latent_dim]."""

    def __init__(self, mean: torch.Tensor, hidden: int, latent_dim: int):
        super().__init__()
        self.encoder = mlp(len(mean), hidden, hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, hidden, hidden, len(mean))
        for layer in [*self.encoder[::2], *self.decoder[::2]]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.decoder[4].bias.data.copy_(mean.logit(0.001))  # start from the mean image

    def encode(self, x: torch.Tensor) -> Normal:
        """q(z|x): independent Gaussians."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return Normal(mu, (0.5 * logvar).exp(), validate_args=False)  # Run.log reports NaN, with its step

    def log_weights(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """log p(x, z_i) / q(z_i|x) for k codes from q(z|x): [k, n]."""
        q, prior = self.encode(x), Normal(0.0, 1.0, validate_args=False)
        z = q.rsample((k,))
        x = x.expand(k, -1, -1)
        log_p = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(2)
        return log_p + (prior.log_prob(z) - q.log_prob(z)).sum(2)

    def bound(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """Equation 8: [n], at most log p(x) in expectation. A hundred codes at a time: evaluation takes less memory."""
        log_weights = torch.cat([self.log_weights(x, min(100, k - i)) for i in range(0, k, 100)])
        return log_weights.logsumexp(0) - math.log(k)


def learning_rates(initial: float, stages: int) -> list[float]:
    """Of every epoch: stage i takes 3^i epochs at initial * 10^(-i / 7)."""
    return [initial * 10 ** (-i / 7) for i in range(stages) for _ in range(3**i)]


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


@torch.no_grad()
def evaluate(model: IWAE, test: torch.Tensor, k: int) -> float:
    """Nats per image of test images [n, d] by the bound with k codes; -log p(x) if they are many."""
    return -torch.cat([model.bound(x, k) for x in test.split(20)]).mean().item()


def save_grid(images: torch.Tensor, path: Path):
    """Images [64, 28 * 28] in [0, 1] as an 8 x 8 grid."""
    from PIL import Image

    grid = images.view(8, 8, 28, 28).transpose(1, 2).reshape(224, 224)
    Image.fromarray((grid * 255).byte().cpu().numpy()).resize((448, 448), Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device).flatten(1) / 255 for x in load_images(args))  # float [n, 784] in [0, 1]
    test = test.bernoulli(generator=torch.Generator(device).manual_seed(0))  # binarized once, the same for every seed
    model = IWAE(images.mean(0), args.hidden, args.latent_dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=1e-4, fused=True)
    run, rates = Run(args, args.dataset), learning_rates(args.learning_rate, args.stages)

    for epoch, rate in enumerate(tqdm(rates, unit="epoch", disable=None), start=1):
        loss_sum, start = torch.zeros((), device=device), time.perf_counter()
        optimizer.param_groups[0]["lr"] = rate
        for idx in torch.randperm(len(images), device=device).split(args.batch_size):
            loss = -model.bound(images[idx].bernoulli(), args.k).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(idx)
        mean_loss, seconds = loss_sum.item() / len(images), time.perf_counter() - start  # of training alone
        row = {
            "global_step": epoch * len(images),
            "losses/loss": mean_loss,
            "eval/loss": evaluate(model, test, args.k),
            "eval/nll": evaluate(model, test, args.nll_samples) if epoch == len(rates) else None,
            "eval/active_units": (model.encode(test).mean.var(0) > 0.01).sum().item(),
            "charts/SPS": len(images) / seconds,
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_grid(model.decoder(torch.randn(64, args.latent_dim, device=device)).sigmoid(), run.dir / "samples.png")
    run.close("samples.png")
    print(f"test -log p(x) {row['eval/nll']:.2f} nats, bound with k = {args.k}: {row['eval/loss']:.2f} nats, {run.dir}")
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
