"""The trade-offs and Frechet distances: distances, densities, probes against closed forms; every model's adapter."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from benchmarks import frechet, tradeoffs
from benchmarks.figures import tradeoffs as figures
from benchmarks.frechet import Judge, frechet_distance
from benchmarks.plot import Results
from benchmarks.tradeoffs import GaussianVAE, density_to_bits, linear_probe
from gen import pixelcnn, vae

MODULES = tradeoffs.gan, pixelcnn, tradeoffs.realnvp, vae, tradeoffs.iwae


@pytest.fixture
def kept(monkeypatch):
    """What the program replaces comes back after the test."""
    for module in MODULES:
        monkeypatch.setattr(module, "load_images", module.load_images)
        monkeypatch.setattr(module, "save_grid", module.save_grid)
    monkeypatch.setattr(vae, "VAE", vae.VAE)
    monkeypatch.setattr(tradeoffs.time, "perf_counter", tradeoffs.time.perf_counter)


def test_the_frechet_distance_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    assert frechet_distance(a, b) == pytest.approx(expected) == frechet_distance(b, a)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, 3 + a) == pytest.approx(36)  # as far as one was moved
    flat = torch.cat([a, torch.zeros(500, 2)], 1)  # features that never fire
    assert frechet_distance(flat, 3 + flat) == pytest.approx(54)


def test_the_classifier_has_not_seen_its_reference(monkeypatch):
    seen, train_classifier, features = [], frechet.train_classifier, frechet.features
    monkeypatch.setattr(frechet, "train_classifier", lambda x, y: seen.append(x) or train_classifier(x, y, updates=30))
    monkeypatch.setattr(frechet, "features", lambda c, x: seen.append(x) or features(c, x))
    judge = Judge("digits", Path("data"))
    trained_on, reference = ({image.numpy().tobytes() for image in x} for x in seen[:2])
    assert len(trained_on) + len(reference) > 1490 and not trained_on & reference
    assert judge.reference.shape == (750, 64)
    noise = torch.rand(300, 1, 28, 28)
    assert judge.distance(judge.test) < judge.distance(noise)


def test_a_linear_probe_finds_what_is_linear():
    rng = np.random.default_rng(0)
    codes, labels = rng.normal(size=(900, 5)) * [1, 100, 0.01, 1, 1] + 7, torch.arange(900) % 3
    told = codes.copy()
    told[:, 2] += 0.2 * labels.numpy()  # in the smallest of them
    assert linear_probe(told[:600], labels[:600], told[600:], labels[600:]) > 0.99
    assert linear_probe(codes[:600], labels[:600], codes[600:], labels[600:]) < 0.45


def test_densities_become_bits():
    assert density_to_bits(0.0, 784) == pytest.approx(math.log2(255))  # uniform from 0 to 1
    x = np.arange(256) / 255
    density = np.exp(-0.5 * ((x - 0.5) / 0.1) ** 2) / (0.1 * math.sqrt(2 * math.pi))
    assert sum(2 ** -density_to_bits(math.log(p), 1) for p in density) == pytest.approx(1, abs=1e-4)


def test_the_gaussian_vae_finds_the_density_that_the_integral_says():
    torch.manual_seed(0)
    model, x = GaussianVAE(torch.full((4,), 0.5), 5, 1), torch.rand(6, 4)
    z = torch.linspace(-8, 8, 4001).double()
    with torch.no_grad():
        log_p = model.log_prob(x[:, None], z.float()[:, None]).double() + torch.distributions.Normal(0, 1).log_prob(z)
    exact = torch.trapezoid(log_p.exp(), z).log()
    assert torch.allclose(model.log_density(x, 20_000).double(), exact, atol=0.05)
    recon, kl = (loss.detach() for loss in model.losses(x.repeat(5000, 1)))
    assert -(recon + kl.sum(1)).view(5000, 6).mean(0).mean() < exact.mean()


def test_every_model_is_trained_on_the_images_given_and_gives_samples_and_codes(tmp_path, monkeypatch, kept):
    small = {"updates": 1, "epochs": 1, "stages": 1, "nll_samples": 50}

    def run(module, data, folder, networks, **flags):
        return trained(module, data, folder, networks, **flags | {k: v for k, v in small.items() if k in flags})

    trained = tradeoffs.run
    monkeypatch.setattr(tradeoffs, "run", run)
    monkeypatch.setattr(pixelcnn.PixelCNN, "sample", lambda self, x, first_row=0: x)  # a pass per pixel
    images = torch.randint(256, (130, 1, 28, 28), dtype=torch.uint8)
    for train_model in tradeoffs.MODELS:
        row, sample, codes = train_model([images, images[:40]], tmp_path / train_model.__name__, 1)
        with torch.no_grad():
            assert sample(3).shape == (3, 1, 28, 28) and 0 <= sample(3).min() <= sample(3).max() <= 1
            assert codes(images[:3]).dim() == 2 and len(codes(images[:3])) == 3
        assert row["charts/SPS"] > 0 and row["global_step"] > 0
        assert (train_model is tradeoffs.train_gan) == ("bits_per_dim" not in row)


def test_every_model_is_measured_and_the_tables_are_drawn(tmp_path, monkeypatch, kept):
    def fake(bits, nats):
        def train_model(data, folder, seed):
            row = {"charts/SPS": 100.0, "global_step": 400, "bits_per_dim": bits, "binary_nats": nats}
            return row, lambda n: torch.rand(n, 1, 28, 28), lambda x: x.flatten(1)[:, ::9] / 255

        return train_model

    monkeypatch.setattr(tradeoffs, "MODELS", [fake(1.1, 90.0), fake(None, None), fake(1.3, None), fake(2.0, 95.0)])
    folder = tmp_path / "runs/benchmark/tradeoffs/seed1"
    monkeypatch.setattr(tradeoffs, "SAMPLES", 40)
    monkeypatch.setattr(tradeoffs, "CODES", 200)
    tradeoffs.main(folder, dataset="digits")
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["-1", *"0123"]
    assert list(rows[0]) == tradeoffs.COLUMNS == figures.COLUMNS
    assert [row["bits_per_dim"] for row in rows[1:5]] == ["1.1", "", "1.3", "2.0"]
    assert float(rows[0]["frechet"]) < float(rows[4]["frechet"]) and float(rows[0]["probe_accuracy"]) > 0.7
    assert all(float(row["seconds_per_sample"]) > 0 for row in rows[1:])
    assert Image.open(folder / "samples.png").size == (16 * 60, 5 * 60)

    results = tmp_path / "results/tradeoffs"
    lines = (folder / "metrics.csv").read_text().splitlines()
    numbered = ["update," + lines[0], *(f"{i},{line}" for i, line in enumerate(lines[1:], 1))]
    (results / "tradeoffs").mkdir(parents=True)
    (results / "tradeoffs" / "seed1.csv").write_text("\n".join(numbered))
    (results / "tradeoffs" / "seed1.json").write_text(json.dumps({"seed": 1}))
    table = figures.draw(Results(results), results)["table"]
    assert "| PixelCNN | 1.10 | 90.0 |" in table and "| GAN | - | - |" in table and "**VAEs** (the lecture)" in table
    assert (results / "samples.png").exists()
