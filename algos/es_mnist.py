# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""Evolution strategies on MNIST: a deep linear network whose only nonlinearity is the underflow of float32.

    python algos/es_mnist.py
    python algos/es_mnist.py --dataset mnist

Three linear layers are one linear layer, except close to 2^-126, the smallest normal number of float32: with denormals
flushed to zero, activations divided by 2^125 lose what was below 1/2. Backpropagation differentiates the linear
network, so its gradient ignores the underflow. Evolution strategies perturb the weights in antithetic pairs, compare
the losses of each pair, and so follow the network as it is computed.

OpenAI 2017, "Nonlinear computation in deep linear networks" (the post, openai.com): network, scaling, accuracies.
Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement learning" (arXiv 1703.03864).
Differences from the post, which does not state population, sigma or learning rate:
1. Activations are kept in units of 2^-125, which changes no digit of the mantissa, so that only sums underflow: a CPU
   that flushes denormals would lose the terms of the products, too.
2. The noise of a layer's weights is an outer product of Gaussian vectors, whose entries are uncorrelated and have
   variance 1: the whole population is evaluated by a few batched products.
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

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

SCALE = 2.0**125


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
    """scikit-learn's 8x8 digits, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    total_timesteps: PositiveInt = 1_000_000
    """images evaluated, over all perturbed networks"""
    population: Annotated[int, Field(ge=2, le=10_000, multiple_of=2)] = 1000
    """perturbed networks per update, in antithetic pairs"""
    images: Annotated[int, Field(ge=1, le=512)] = 8
    """images that a pair is evaluated on"""
    sigma: PositiveFloat = 0.02
    """standard deviation of the perturbations"""
    learning_rate: PositiveFloat = 0.005
    """Adam's initial learning rate; it is annealed linearly to 0"""
    weight_decay: NonNegativeFloat = 0.1
    """decoupled weight decay"""


# --- the network and its perturbations -------------------------------------------------------


def underflow(z: torch.Tensor) -> torch.Tensor:
    """z / 2^125 * 2^125 with denormals flushed to zero, as not every device does; in float64 nothing underflows."""
    return torch.where(z.abs() < SCALE * torch.finfo(z.dtype).tiny, 0.0, z)


def initial_parameters(num_pixels: int = 784) -> list[torch.Tensor]:
    """Weights [in, out] and biases [out] of the three layers (He et al. 2015)."""
    shapes = pairwise((num_pixels, 512, 512, 10))
    return [p for n, m in shapes for p in (torch.randn(n, m) * (2 / n) ** 0.5, torch.zeros(m))]


def network(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Images [..., pixels] -> logits [..., 10]."""
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = underflow(x @ weights + bias)
    return x


def estimate_gradient(parameters: list[torch.Tensor], x: torch.Tensor, labels: torch.Tensor, sigma: float) -> tuple:
    """sum_i (L(theta + sigma eps_i) - L(theta - sigma eps_i)) eps_i / (2 sigma pairs), section 2.1 of Salimans et al.

    x [pairs, images, pixels], labels [pairs, images] -> gradient of each parameter, losses [2, pairs].
    """
    pairs = len(labels)
    sign = torch.tensor([1.0, -1.0], device=x.device).view(2, 1, 1, 1)
    h, noise = x, []
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        a, b, c = (torch.randn(pairs, n, device=x.device) for n in (*weights.shape, len(bias)))
        h_eps = (h @ a.unsqueeze(2)) * b.unsqueeze(1) + c.unsqueeze(1)  # eps is a b^T for the weights, c for the biases
        h = underflow(h @ weights + bias + sigma * sign * h_eps)
        noise.append((a, b, c))
    losses = F.cross_entropy(h.movedim(3, 1), labels.expand(2, -1, -1), reduction="none").mean(dim=2)
    f = (losses[0] - losses[1]) / (2 * sigma * pairs)
    return [gradient for a, b, c in noise for gradient in ((f.unsqueeze(1) * a).T @ b, f @ c)], losses


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546f",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbe",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6d",
}


def load_data(args: Args) -> list[torch.Tensor]:
    """Training images [n, pixels] in [0, 1] and labels [n], then those of the test set."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = torch.from_numpy(digits.data / 16).float(), torch.from_numpy(digits.target).long()
        return [images[:1500], labels[:1500], images[1500:], labels[1500:]]
    data = []
    for name, sha256 in MNIST_SHA256.items():
        path, header = args.data_dir / name, 16 if "images" in name else 8  # bytes of the IDX format's header
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            array = torch.tensor(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
            data.append(array.view(-1, 784) / 255 if header == 16 else array.long())
        except Exception as error:  # no network, or a damaged file
            raise UsageError(f"--data-dir: cannot read {path}, or download it: {error}") from None
    return data


# --- training --------------------------------------------------------------------------------


def accuracy(parameters: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> float:
    return (network(parameters, images).argmax(1) == labels).double().mean().item()


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, labels, test_images, test_labels = (x.to(device) for x in load_data(args))
    parameters = [p.to(device) for p in initial_parameters(images.shape[1])]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay)
    num_updates = math.ceil(args.total_timesteps / (args.population * args.images))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_updates)
    run, start = Run(args, args.dataset), time.perf_counter()

    for update in tqdm(range(1, num_updates + 1), unit="update", disable=None):
        idx = torch.randint(len(images), (args.population // 2, args.images), device=device)
        gradients, losses = estimate_gradient(parameters, images[idx], labels[idx], args.sigma)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        schedule.step()
        if update % math.ceil(num_updates / 100) == 0 or update == num_updates:
            step, exact = update * args.population * args.images, [p.double() for p in parameters]
            row = {
                "global_step": step,
                "losses/loss": losses.mean().item(),
                "charts/SPS": step / (time.perf_counter() - start),
                "eval/test_accuracy": accuracy(parameters, test_images, test_labels),
                "eval/test_accuracy_float64": accuracy(exact, test_images.double(), test_labels),  # no underflow
                "eval/train_accuracy": accuracy(parameters, images, labels) if update == num_updates else None,
            }
            run.log(row)

    torch.save({"parameters": [p.cpu() for p in parameters]}, run.dir / "model.pt")
    save_curve(run, "eval/test_accuracy", "images evaluated")
    run.close("curve.png")
    print(f"test accuracy {row['eval/test_accuracy']:.1%} after {step:,} images: {run.dir}")
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


def save_curve(run: Run, metric: str, xlabel: str = "environment steps"):
    from matplotlib.figure import Figure

    points = [(row["global_step"], row[metric]) for row in run.rows if row[metric] is not None]
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], ".-", markersize=3)
    axes.set(xlabel=xlabel, ylabel=metric)
    axes.figure.savefig(run.dir / "curve.png", dpi=120)


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
