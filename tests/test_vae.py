"""VAE: its terms against quadrature and sampling, its loss against a sum by hand, its training to a known loss."""

import csv
import gzip
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal, kl_divergence

from gen import vae
from gen.vae import VAE, Args, UsageError, train

RUN = {"args.json", "metrics.csv", "model.pt"}
PICTURES = {"samples.png", "traversal.png", "interpolation.png"}


def test_a_diverging_run_stops_with_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        train(Args(run_dir=tmp_path / "run", learning_rate=1e20, epochs=2, hidden=8))


def make(d=6, hidden=5, latent_dim=2, seed=0):
    torch.manual_seed(seed)
    return VAE(torch.linspace(0, 1, d), hidden, latent_dim)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_kl_divergence_is_the_integral_over_each_dimension():
    model, x = make(), torch.rand(3, 6)
    with torch.no_grad():
        model.encoder[2].bias.copy_(torch.tensor([0.7, -0.4, -1.0, 0.5]))  # far from the prior
        kl, out = model.losses(x)[1], model.encoder(x).double()
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    for i in range(3):
        for j in range(2):
            mu, variance = out[i, j], out[i, 2 + j].exp()
            q = (-((z - mu) ** 2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()
            log_ratio = -((z - mu) ** 2) / (2 * variance) - variance.log() / 2 + z**2 / 2
            assert kl[i, j].item() == pytest.approx(torch.trapezoid(q * log_ratio, z).item(), abs=1e-5)


def test_codes_are_samples_of_q_through_which_gradients_flow(monkeypatch):
    model, x = make(), torch.rand(1, 6).expand(100_000, 6)
    codes = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: codes.append(inputs[0]))
    recon, _ = model.losses(x)
    recon.sum().backward()
    mu, logvar = model.encoder(x[:1])[0].chunk(2)
    assert torch.allclose(codes[0].mean(0), mu, atol=0.02)
    assert torch.allclose(codes[0].var(0), logvar.exp(), rtol=0.03)
    assert (model.encoder[2].weight.grad.abs().sum(1) > 0).all()  # of mu's rows and of logvar's
    model.losses(x[:4], noise=False)
    assert torch.allclose(codes[1], mu.expand(4, 2))


def test_the_reconstruction_is_the_cross_entropy_summed_over_pixels():
    model, x = make(), torch.rand(4, 6)
    recon, _ = model.losses(x, noise=False)
    with torch.no_grad():
        p = model.decode(model.encode(x).mean).double()
    assert ((p > 0) & (p < 1)).all()
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    assert torch.allclose(recon.double(), expected, atol=1e-4)


def test_the_decoder_starts_from_the_mean_image():
    mean = torch.tensor([0.0, 0.2, 0.5, 1.0])
    assert torch.allclose(VAE(mean, 5, 2).decoder[2].bias.sigmoid(), mean, atol=2e-3)


def test_digits_are_enlarged_and_split_as_said():
    images, test = vae.load_images(Args())
    assert images.shape == (1500, 1, 28, 28) and test.shape == (297, 1, 28, 28)
    assert images.dtype == torch.uint8 and images.max() == 255 and images.min() == 0
    from sklearn.datasets import load_digits

    small = Image.fromarray((load_digits().images[1500] * 255 / 16).astype(np.float32))
    big = np.asarray(small.resize((28, 28), Image.Resampling.BILINEAR))
    assert np.abs(test[0, 0].float().numpy() - big).max() <= 1


def write_mnist(folder, num=(40, 30)):
    folder.mkdir()
    arrays = [np.random.default_rng(n).integers(256, size=(n, 28, 28), dtype=np.uint8) for n in num]
    for name, array in zip(vae.MNIST_SHA256, arrays, strict=True):
        (folder / name).write_bytes(gzip.compress(bytes(16) + array.tobytes()))
    return arrays


def test_mnist_is_read_from_its_files_and_a_damaged_one_is_named(tmp_path):
    arrays = write_mnist(tmp_path / "data")
    args = Args(dataset="mnist", data_dir=tmp_path / "data", epochs=1, run_dir=tmp_path / "run")
    for images, array in zip(vae.load_images(args), arrays, strict=True):
        assert np.array_equal(images[:, 0].numpy(), array)
    train(args)
    args.run_dir, path = tmp_path / "none", tmp_path / "data/t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:5000], b"<html>", gzip.compress(bytes(999)), whole[:2000] + bytes(99) + whole[2099:], b""):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"--data-dir.*t10k-images"):
            train(args)
    path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "MNIST_URL", "file:///nowhere/")
        with pytest.raises(UsageError, match=r"--data-dir.*t10k-images"):
            train(args)
    assert not (tmp_path / "none").exists()


def test_training_reaches_the_loss_of_the_digits_and_the_prior(tmp_path, monkeypatch):
    traversed, save_pictures = [], vae.save_pictures
    monkeypatch.setattr(vae, "save_pictures", lambda *args: traversed.append(args[2]) or save_pictures(*args))
    row = train(Args(run_dir=tmp_path / "run", epochs=8))
    assert row["eval/loss"] < 303  # the mean image alone: 351; ten seeds: 296.7 to 298.6
    assert row["eval/loss"] == pytest.approx(row["eval/recon"] + row["eval/kl"], rel=1e-5)
    assert {p.name for p in (tmp_path / "run").iterdir()} == RUN | PICTURES
    weights = torch.load(tmp_path / "run/model.pt")["model"]  # the loss again, from what is left
    test = vae.load_images(Args())[1].flatten(1) / 255
    model = VAE(test.mean(0), 400, 20)
    model.load_state_dict(weights)
    torch.manual_seed(5)
    with torch.no_grad():
        again = sum(loss.sum() for loss in model.losses(test)).item() / len(test)
        kl = kl_divergence(model.encode(test), Normal(0.0, 1.0)).mean(0)
    assert set(traversed[0].tolist()) == set(kl.topk(2).indices.tolist())
    assert again == pytest.approx(row["eval/loss"], abs=1.5)
    samples = np.asarray(Image.open(tmp_path / "run/samples.png"))
    assert samples.shape == (480, 480)
    cells = samples.reshape(8, 60, 8, 60).transpose(0, 2, 1, 3).reshape(64, 60, 60)[:, 2:-2, 2:-2] / 255
    assert abs(cells.mean() - test.mean().item()) < 0.06 and cells.std(0).mean() > 0.04  # as bright, and all different


def test_the_traversal_walks_both_dimensions_and_interpolations_end_at_reconstructions(monkeypatch, tmp_path):
    saved, model, test = {}, make(784, 8, 3), torch.rand(40, 784)
    monkeypatch.setattr(vae, "save_grid", lambda images, columns, path: saved.update({path.stem: images}))
    model.decode = lambda z: torch.nn.functional.pad(z, (0, 781))  # the codes themselves
    vae.save_pictures(model, test, torch.tensor([2, 0]), tmp_path)
    plane = saved["traversal"].view(15, 15, 784)[..., :3]
    steps = torch.linspace(-2, 2, 15)
    assert torch.allclose(plane[3, :, 0], steps) and torch.allclose(plane[:, 3, 2], steps)
    assert (plane[..., 1] == 0).all()
    rows, mu = saved["interpolation"].view(8, 12, 784), model.encode(test).mean
    assert torch.equal(rows[:, 0], test[:8]) and torch.equal(rows[:, 11], test[8:16])
    walk = rows[1, 1:11, :3]
    assert torch.allclose(walk[0], mu[1]) and torch.allclose(walk[9], mu[9])
    assert torch.allclose(walk[3], (2 * mu[1] + mu[9]) / 3, atol=1e-6)


def test_a_heavier_kl_term_leaves_less_in_the_code_and_none_makes_an_autoencoder(tmp_path):
    found = {w: train(Args(run_dir=tmp_path / str(w), epochs=4, hidden=50, kl_weight=w)) for w in (0, 1, 20)}
    assert found[0]["eval/kl"] > 2 * found[1]["eval/kl"] > 20 * found[20]["eval/kl"]
    assert found[0]["eval/loss"] == found[0]["eval/recon"] < found[1]["eval/recon"] < found[20]["eval/recon"]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, epochs=2, hidden=20, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert [row["global_step"] for row in rows(tmp_path / "a")] == ["1500", "3000"]


@pytest.mark.parametrize("flags", [{"epochs": 0}, {"latent_dim": 1}, {"kl_weight": -1.0}, {"learning_rate": math.inf}])
def test_what_cannot_work_is_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
