"""The lecture's trade-offs between four kinds of generative models, measured on the same images.

    python benchmarks/tradeoffs.py --dataset digits --run-dir runs/tradeoffs
    python benchmarks/tradeoffs.py --dataset mnist --run-dir runs/tradeoffs-mnist

Trains gen/pixelcnn.py, gan.py, realnvp.py and vae.py, each by its own train() on the same tensors, into folders below
--run-dir. All times are CPU seconds of one core. metrics.csv gets a row for each model, and one for real images:

    bits_per_dim     what an 8-bit test image costs, per pixel. Exact for PixelCNN; for RealNVP a bound, because values
                     are made continuous; for a VAE with Gaussian pixels the density times the distance 1/255 of two
                     values, estimated with 500 codes; a GAN has none
    binary_nats      the same in nats, of images with pixels that were made 0 or 1 at random (PixelCNN; IWAE with k = 1)
    frechet          Frechet distance of samples (benchmarks/frechet.py); of real images: of the test images
    probe_accuracy   of a linear classifier on the codes of test images; of real images: on their pixels
    seconds_per_training_picture, seconds_per_sample

and one for each model and size of colour images with seconds_per_sample only, of one sample at a time.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn
from torch.distributions import Normal, kl_divergence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.frechet import Judge, load_labelled
from benchmarks.rows import write_rows
from gen import gan, iwae, pixelcnn, realnvp, vae

REAL = -1  # stands for no model
SAMPLES, CODES = 1000, 5000  # samples of each model; labelled training images for the linear probe
COLUMNS = [
    "global_step", "model", "image_size", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample",
]  # fmt: skip


class GaussianVAE(vae.VAE):
    """gen/vae.py with Gaussian pixels, one standard deviation for all: its loss is a bound of a density."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.log_std = nn.Parameter(torch.tensor(-1.0))

    def log_prob(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """log p(x|z), summed over pixels."""
        return Normal(self.decode(z), self.log_std.exp()).log_prob(x).sum(-1)

    def losses(self, x: torch.Tensor, noise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        q = self.encode(x)
        return -self.log_prob(x, q.rsample()), kl_divergence(q, Normal(0.0, 1.0))

    @torch.no_grad()
    def log_density(self, x: torch.Tensor, samples: int) -> torch.Tensor:
        """log p(x) by importance sampling [n]."""
        q, prior = self.encode(x), Normal(0.0, 1.0)
        z = q.sample((samples,))
        log_w = self.log_prob(x, z) + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
        return log_w.logsumexp(0) - math.log(samples)


def density_to_bits(log_p: float, dimensions: int) -> float:
    """Bits per dimension of 8-bit values 1/255 apart, from their log density in nats."""
    return (dimensions * math.log(255) - log_p) / (dimensions * math.log(2))


# --- the four models: train -> last row, sampler, codes --------------------------------------


def run(module, data: tuple, folder: Path, **flags) -> tuple[dict, dict]:
    """module.train() on these images in place of its own, without pictures -> the last row, the weights it left."""
    kept = module.load_images, module.save_grid
    module.load_images, module.save_grid = (lambda args: data), (lambda *_: None)
    try:
        row = module.train(module.Args(run_dir=folder, cuda=False, **flags))
    finally:
        module.load_images, module.save_grid = kept
    return row, torch.load(folder / "model.pt")


def train_pixelcnn(train: torch.Tensor, test: torch.Tensor, folder: Path, budget: float, seed: int):
    flags = {"seed": seed, "channels": 32, "batch_size": 16, "updates": round(560 * budget), "eval_images": 300}
    row, states = run(pixelcnn, (train, test), folder, levels=256, **flags)
    binary, _ = run(pixelcnn, (train, test), folder.with_name("pixelcnn-binary"), levels=2, **flags)
    model = pixelcnn.PixelCNN(1, 256, 4, 32)
    model.load_state_dict(states["model"])

    def codes(x: torch.Tensor) -> torch.Tensor:
        """The last hidden features, averaged over positions."""
        h = x.float() / 127.5 - 1
        v = nn.functional.pad(h, (0, 0, 1, -1))
        for layer in model.layers:
            v, h = layer(v, h)
        return model.head[:3](h).mean((2, 3))

    row |= {"bits_per_dim": row["eval/bits_per_dim"], "binary_nats": binary["eval/nats"]}
    return row, lambda n: model.sample(torch.zeros(n, 1, 28, 28, dtype=torch.uint8)) / 255, codes


def train_gan(train: torch.Tensor, test: torch.Tensor, folder: Path, budget: float, seed: int):
    row, states = run(gan, train, folder, seed=seed, updates=round(1900 * budget), bf16=True)
    generator, discriminator = gan.make_generator(100, 32, 1, 28), gan.make_discriminator(32, 1, 28)
    generator.load_state_dict(states["generator"])
    discriminator.load_state_dict(states["discriminator"])
    discriminator.eval()
    row["global_step"] *= 64  # images
    features = nn.Sequential(*discriminator[:-2], nn.Flatten())
    return row, lambda n: gan.sample(generator, torch.rand(n, 100) * 2 - 1), lambda x: features(x.float() / 127.5 - 1)


def train_realnvp(train: torch.Tensor, test: torch.Tensor, folder: Path, budget: float, seed: int):
    flags = {"seed": seed, "updates": round(960 * budget), "batch_size": 125, "bf16": True}
    row, states = run(realnvp, (train, test), folder, **flags)
    model = realnvp.RealNVP(tuple(train.shape[1:]), 32, 2)
    model.load_state_dict(states["model"])
    model.eval()

    def sample(n: int) -> torch.Tensor:
        return model.decode(torch.randn(n, *model.latent_shape)).clamp(0, 1)

    def codes(x: torch.Tensor) -> torch.Tensor:
        return model.encode((x + 0.5) / 256)[0].flatten(1)

    return row | {"bits_per_dim": row["eval/bits_per_dim"]}, sample, codes


def train_vae(train: torch.Tensor, test: torch.Tensor, folder: Path, budget: float, seed: int):
    kept, vae.VAE = vae.VAE, GaussianVAE
    epochs = max(1, round(budget * min(100, 600_000 / len(train))))
    try:
        row, states = run(vae, (train, test), folder, seed=seed, epochs=epochs)
    finally:
        vae.VAE = kept
    model = GaussianVAE(train.flatten(1).float().mean(0) / 255, 400, 20)
    model.load_state_dict(states["model"])
    log_p = model.log_density(test[:300].flatten(1) / 255, 500).mean().item()
    binary, _ = run(iwae, (train, test), folder.with_name("iwae"), seed=seed, k=1, stages=2, nll_samples=500)
    row |= {"bits_per_dim": density_to_bits(log_p, train[0].numel()), "binary_nats": binary["eval/nll"]}

    def sample(n: int) -> torch.Tensor:
        return model.decode(torch.randn(n, 20)).view(n, 1, 28, 28)

    return row, sample, lambda x: model.encode(x.flatten(1) / 255).mean


MODELS = train_pixelcnn, train_gan, train_realnvp, train_vae  # in the order of the lecture's table


def samplers(size: int) -> list[Callable[[int], torch.Tensor]]:
    """The four models, untrained, for colour images of this size: what they do for a sample takes as long."""
    levels = int(math.log2(size // 4))
    gan.SHAPES[size] = 4, levels
    model, generator = pixelcnn.PixelCNN(3, 256, 4, 24), gan.make_generator(100, 32, 3, size).eval()
    flow, plain = realnvp.RealNVP((3, size, size), 32, 2).eval(), vae.VAE(torch.full((3 * size**2,), 0.5), 400, 20)
    return [
        lambda n: model.sample(torch.zeros(n, 3, size, size, dtype=torch.uint8)),
        lambda n: generator(torch.rand(n, 100)),
        lambda n: flow.decode(torch.randn(n, *flow.latent_shape)),
        lambda n: plain.decode(torch.randn(n, 20)),
    ]


# --- what is measured of them ----------------------------------------------------------------


def linear_probe(codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy of logistic regression on standardized codes [n, k]; a fifth of those trained on chooses the penalty."""
    from sklearn.linear_model import LogisticRegression

    mean, std = codes.mean(0), codes.std(0) + 1e-6
    x, test_x = (codes - mean) / std, (test_codes - mean) / std
    kept = len(x) * 4 // 5

    def fit(strength: float, num: int) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(x[:num], labels[:num])

    best = max((1.0, 0.01), key=lambda strength: fit(strength, kept).score(x[kept:], labels[kept:]))
    return float(fit(best, len(x)).score(test_x, test_labels))


def measure(train_model: Callable, data: list, judge: Judge, folder: Path, budget: float, seed: int) -> tuple:
    """One model's row, and its samples."""
    images, labels, test, test_labels = data
    row, sample, codes = train_model(images, test, folder, budget, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        start = time.process_time()
        samples = torch.cat([sample(min(250, SAMPLES - i)) for i in range(0, SAMPLES, 250)])
        seconds = (time.process_time() - start) / SAMPLES
        found = [torch.cat([codes(part) for part in x.split(250)]).numpy() for x in (images[:CODES], test)]
    return {
        "global_step": row["global_step"],
        "image_size": 28,
        "bits_per_dim": row.get("bits_per_dim"),
        "binary_nats": row.get("binary_nats"),
        "frechet": judge.distance(samples),
        "probe_accuracy": linear_probe(found[0], labels[:CODES].numpy(), found[1], test_labels.numpy()),
        "seconds_per_training_picture": 1 / row["charts/SPS"],
        "seconds_per_sample": seconds,
    }, samples


def main(
    run_dir: Path,
    dataset: Literal["digits", "mnist"] = "digits",
    seed: int = 1,
    budget: float = 1.0,
    sizes: tuple[int, ...] = (8, 16, 32),
):
    """Labelled images of 28x28; the budget multiplies every model's updates; sides of colour images, timed."""
    time.perf_counter = time.process_time  # what the scripts time is in CPU seconds
    torch.set_num_threads(1)
    data, judge = load_labelled(dataset, Path("data")), Judge(dataset, Path("data"))
    images, labels, test, test_labels = data
    pixels = [x.flatten(1).numpy() / 255 for x in (images[:CODES], test)]
    real = {"global_step": 0, "model": REAL, "image_size": 28, "frechet": judge.distance(test[:SAMPLES])}
    real["probe_accuracy"] = linear_probe(pixels[0], labels[:CODES].numpy(), pixels[1], test_labels.numpy())
    rows, shown = [dict.fromkeys(COLUMNS) | real], [test[:16] / 255]
    for k, train_model in enumerate(MODELS):
        folder = run_dir / train_model.__name__.removeprefix("train_")
        row, samples = measure(train_model, data, judge, folder, budget, seed)
        rows.append(row | {"model": k})
        shown.append(samples[:16])
    for size in sizes:
        for k, sample in enumerate(samplers(size)):
            with torch.no_grad():
                start = time.process_time()
                sample(1)
            seconds = time.process_time() - start
            rows.append({"global_step": 0, "model": k, "image_size": size, "seconds_per_sample": seconds})
    write_rows(run_dir, rows)
    gan.save_grid(torch.cat(shown), 16, run_dir / "samples.png")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
