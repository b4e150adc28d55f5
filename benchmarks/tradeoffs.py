"""The lecture's trade-offs between four kinds of generative models, measured on the same images.

    python -m benchmarks.tradeoffs --run-dir runs/tradeoffs

Trains gen/pixelcnn.py, gan.py, realnvp.py and vae.py, each by its own train() on the same tensors, into folders below
--run-dir. All times are CPU seconds of one core. metrics.csv gets a row for each model, and one for real images:

    bits_per_dim     of 8-bit test images: exact for PixelCNN; a bound for RealNVP, whose values are continuous; for a
                     VAE with Gaussian pixels estimated with 500 codes, the density times 1/255; a GAN has none
    binary_nats      of images with random binary pixels (PixelCNN; IWAE with k = 1)
    frechet          Frechet distance of samples, or of the real test images (benchmarks/frechet.py)
    probe_accuracy   of a linear classifier on the codes of test images, or on their pixels
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.distributions import Normal, kl_divergence

from benchmarks.figures.tradeoffs import COLUMNS, REAL
from benchmarks.frechet import Judge, load_labelled
from benchmarks.rows import write_rows
from gen import gan, iwae, pixelcnn, realnvp, vae
from gen.gan import save_grid

SAMPLES, CODES = 500, 5000  # samples of each model; labelled training images for the linear probe


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


# --- the four models: training and test images, folder, seed -> last row, sampler, codes -----


def run(module, data, folder: Path, networks: dict[str, nn.Module], **flags) -> dict:
    """module.train() on these images in place of its own, without pictures -> the last row; loads the networks."""
    module.load_images, module.save_grid = lambda args: data, lambda *_: None
    row = module.train(module.Args(run_dir=folder, cuda=False, **flags))
    states = torch.load(folder / "model.pt")
    for name, network in networks.items():
        network.load_state_dict(states[name])
        network.eval()
    return row


def train_pixelcnn(data: list[torch.Tensor], folder: Path, seed: int):
    flags, model = {"seed": seed, "updates": 560, "eval_images": 300}, pixelcnn.PixelCNN(1, 256, 4, 32)
    flags |= {"channels": 32, "batch_size": 16}
    row = run(pixelcnn, data, folder, {"model": model}, levels=256, **flags)
    binary = run(pixelcnn, data, folder.with_name("pixelcnn-binary"), {}, levels=2, **flags)

    def codes(x: torch.Tensor) -> torch.Tensor:
        """The last hidden features, averaged over positions."""
        h = x.float() / 127.5 - 1
        v = nn.functional.pad(h, (0, 0, 1, -1))
        for layer in model.layers:
            v, h = layer(v, h)
        return model.head[:3](h).mean((2, 3))

    row |= {"bits_per_dim": row["eval/bits_per_dim"], "binary_nats": binary["eval/nats"]}
    return row, lambda n: model.sample(torch.zeros(n, 1, 28, 28, dtype=torch.uint8)) / 255, codes


def train_gan(data: list[torch.Tensor], folder: Path, seed: int):
    generator, discriminator = gan.make_generator(100, 32, 1, 28), gan.make_discriminator(32, 1, 28)
    networks = {"generator": generator, "discriminator": discriminator}
    row = run(gan, data[0], folder, networks, seed=seed, updates=1900)
    row["global_step"] *= 64  # images
    features = nn.Sequential(*discriminator[:-2], nn.Flatten())
    return row, lambda n: generator(torch.rand(n, 100) * 2 - 1) / 2 + 0.5, lambda x: features(x.float() / 127.5 - 1)


def train_realnvp(data: list[torch.Tensor], folder: Path, seed: int):
    model = realnvp.RealNVP((1, 28, 28), 32, 2)
    row = run(realnvp, data, folder, {"model": model}, seed=seed, updates=960, batch_size=125)

    def sample(n: int) -> torch.Tensor:
        return model.decode(torch.randn(n, *model.latent_shape)).clamp(0, 1)

    row["bits_per_dim"] = row["eval/bits_per_dim"]
    return row, sample, lambda x: model.encode((x + 0.5) / 256)[0].flatten(1)


def train_vae(data: list[torch.Tensor], folder: Path, seed: int):
    vae.VAE, model = GaussianVAE, GaussianVAE(torch.full((784,), 0.5), 400, 20)
    row = run(vae, data, folder, {"model": model}, seed=seed, epochs=10)
    binary = run(iwae, data, folder.with_name("iwae"), {}, seed=seed, k=1, stages=2, nll_samples=500)
    log_p = model.log_density(data[1][:300].flatten(1) / 255, 500).mean().item()
    row |= {"bits_per_dim": density_to_bits(log_p, 784), "binary_nats": binary["eval/nll"]}

    def sample(n: int) -> torch.Tensor:
        return model.decode(torch.randn(n, 20)).view(n, 1, 28, 28)

    return row, sample, lambda x: model.encode(x.flatten(1) / 255).mean


MODELS = train_pixelcnn, train_gan, train_realnvp, train_vae  # in the order of the lecture's table


# --- what is measured of them ----------------------------------------------------------------


def linear_probe(codes: torch.Tensor, labels: torch.Tensor, test_codes: torch.Tensor, test_labels: torch.Tensor):
    """Accuracy of logistic regression on codes [n, k]; a fifth of those trained on chooses the penalty."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    fifth = ShuffleSplit(1, test_size=0.2, random_state=0)
    search = GridSearchCV(regression, {"logisticregression__C": [0.01, 1.0]}, cv=fifth)
    return search.fit(codes, labels).score(test_codes, test_labels)


@torch.no_grad()
def timed_samples(sample: Callable[[int], torch.Tensor], num: int) -> tuple[torch.Tensor, float]:
    """Samples, 250 at a time, and the seconds that each took."""
    start = time.process_time()
    samples = torch.cat([sample(min(250, num - i)) for i in range(0, num, 250)])
    return samples, (time.process_time() - start) / num


def main(run_dir: Path, seed: int = 1, dataset: Literal["digits", "mnist"] = "mnist"):
    time.perf_counter = time.process_time  # what the scripts time is in CPU seconds
    torch.set_num_threads(1)
    images, labels, test, test_labels = load_labelled(dataset, Path("data"))
    judge = Judge(dataset, Path("data"))

    def probe(codes: Callable[[torch.Tensor], torch.Tensor]) -> float:
        with torch.no_grad():
            found, of_test = (torch.cat([codes(part) for part in x.split(250)]) for x in (images[:CODES], test))
        return linear_probe(found, labels[:CODES], of_test, test_labels)

    real = {"model": REAL, "frechet": judge.distance(test[:SAMPLES]), "probe_accuracy": probe(lambda x: x.flatten(1))}
    rows, shown = [dict.fromkeys(COLUMNS) | {"global_step": 0} | real], [test[:16] / 255]
    for k, train_model in enumerate(MODELS):
        row, sample, codes = train_model([images, test], run_dir / train_model.__name__.removeprefix("train_"), seed)
        torch.manual_seed(seed)
        samples, seconds = timed_samples(sample, SAMPLES)
        found = {"model": k, "frechet": judge.distance(samples), "probe_accuracy": probe(codes)}
        found |= {"seconds_per_training_picture": 1 / row["charts/SPS"], "seconds_per_sample": seconds}
        rows.append(found | {name: row.get(name) for name in ("global_step", "bits_per_dim", "binary_nats")})
        shown.append(samples[:16])
    write_rows(run_dir, rows)
    save_grid(torch.cat(shown), 16, run_dir / "samples.png")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
