"""VAE: its terms against closed forms, quadrature and Monte Carlo, its training against principal components."""

import csv
import hashlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image
from torch import distributions as D

from gen import vae
from gen.vae import VAE, Args, Order, UsageError, bernoulli, evaluate, log_evidence, losses, train, update

CLOCKS = {"charts/SPS", "time/elapsed"}
pytestmark = pytest.mark.usefixtures("no_figures")
SMALL = {"hidden": (16,), "latent_dim": 3, "batch_size": 100, "nll_samples": 20, "nll_images": 20, "torch_threads": 1}


@pytest.fixture
def no_figures(monkeypatch, request):
    """Matplotlib takes longer than the trainings of these tests: one of them looks at its figures."""
    if "leaves_its_pictures" in request.node.name:
        return
    monkeypatch.setattr(vae, "draw_latents", lambda *_: None)
    monkeypatch.setattr(vae.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(shape=(1, 2, 3), seed=0, scale=1.0, **flags):
    """A model with random weights and biases; shape of a picture [c, h, w]."""
    args = Args(**{"latent_dim": 2, "hidden": (5,)} | flags)
    torch.manual_seed(seed)
    model = VAE(args, torch.full(shape, 0.4))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.normal_().mul_(scale)
        for parameter in model.decoder.parameters():
            parameter.normal_().mul_(scale)
    return model, args


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the terms -------------------------------------------------------------------------------


def test_the_kl_divergence_is_the_known_one_and_what_sampling_says():
    mu, logvar = torch.randn(4, 3, generator=generator()), torch.randn(4, 3, generator=generator(1))
    kl = vae.kl_divergence(mu, logvar)
    q, prior = D.Normal(mu.double(), (0.5 * logvar.double()).exp()), D.Normal(0.0, 1.0)
    assert torch.allclose(kl.double(), D.kl_divergence(q, prior), atol=1e-5)
    z = vae.reparameterize(mu, logvar, torch.randn(4, 200_000, 3, generator=generator(2))).double()  # [4, k, 3]
    assert torch.allclose(z.mean(1), q.mean, atol=0.02) and torch.allclose(z.std(1), q.stddev, rtol=0.01)
    q = D.Normal(q.mean.unsqueeze(1), q.stddev.unsqueeze(1))
    assert torch.allclose((q.log_prob(z) - prior.log_prob(z)).mean(1), kl.double(), atol=0.02)
    noise = (z - q.mean) / q.stddev
    ratio = (prior.log_prob(z) - q.log_prob(z)).sum(2)
    assert torch.allclose(vae.log_ratio(z, noise, logvar.double()), ratio, atol=1e-9)


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_reconstruction_is_the_sum_of_log_densities_over_pixels(network, likelihood):
    model, _ = make((2, 4, 8), network=network, likelihood=likelihood, hidden=(5, 3)[:2])
    x = torch.rand(6, 2, 4, 8, generator=generator())
    x = x.round() if likelihood == "bernoulli" else x
    z = torch.randn(6, 7, 2, generator=generator(1))
    found = model.log_likelihood(x, z)
    for i in range(6):
        for j in range(7):
            decoded = model.decode(z[i, j].unsqueeze(0)).squeeze(0)
            if likelihood == "bernoulli":
                expected = D.Bernoulli(logits=decoded).log_prob(x[i]).sum()
                assert torch.allclose(model.recon(z[i, j].unsqueeze(0)), decoded.sigmoid())
            else:
                expected = D.Normal(decoded, 0.2).log_prob(x[i]).sum()
            assert found[i, j].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_is_the_sum_of_both_terms_and_with_k_codes_the_log_of_the_mean_weight():
    model, _ = make()
    x, noise = torch.rand(5, 1, 2, 3, generator=generator()).round(), torch.randn(5, 4, 2, generator=generator(1))
    mu, logvar = model.encode(x)
    kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1)
    loss, recon, found = losses(model, x, noise[:, :1], 3.0)
    assert torch.allclose(found, kl, atol=1e-5) and torch.allclose(loss, recon + 3 * kl, rtol=1e-5)
    weights = []
    for k in range(4):
        z = mu + (logvar / 2).exp() * noise[:, k]
        log_p = D.Bernoulli(logits=model.decode(z)).log_prob(x).flatten(1).sum(1)
        log_q = D.Normal(mu, (logvar / 2).exp()).log_prob(z).sum(1)
        weights.append(log_p + D.Normal(0.0, 1.0).log_prob(z).sum(1) - log_q)
    bound = torch.stack(weights).double().exp().mean(0).log()
    assert torch.allclose(losses(model, x, noise, 1.0)[0].double(), -bound, atol=1e-4)


# --- likelihoods that are known --------------------------------------------------------------


def linear_gaussian(seed=0, off=0.3):
    """A linear VAE, its exact log p(x), and pictures from it. The encoder is `off` the exact posterior."""
    model, _ = make((1, 2, 5), hidden=(), likelihood="gaussian", noise_std=0.4)
    rng = generator(seed)
    weight, bias = torch.randn(10, 2, generator=rng) * 0.5, torch.randn(10, generator=rng)
    precision = torch.eye(2) + weight.T @ weight / 0.16
    posterior = torch.linalg.solve(precision, weight.T / 0.16)  # mu = posterior (x - bias)
    with torch.no_grad():
        model.decoder[0].weight.copy_(weight)
        model.decoder[0].bias.copy_(bias)
        model.encoder[1].weight.zero_()
        model.encoder[1].weight[:2] = posterior
        model.encoder[1].bias[:2] = -posterior @ bias + off * precision.diagonal().rsqrt()
        model.encoder[1].bias[2:] = -precision.diagonal().log() + 0.3
    exact = D.MultivariateNormal(bias.double(), weight.double() @ weight.double().T + 0.16 * torch.eye(10).double())
    x = exact.mean.float() + torch.randn(300, 2, generator=rng) @ weight.T + 0.4 * torch.randn(300, 10, generator=rng)
    return model, exact.log_prob(x.double()), x.view(300, 1, 2, 5)


def test_importance_sampling_finds_the_evidence_of_a_linear_gaussian_model(monkeypatch):
    model, exact, x = linear_gaussian()
    found = log_evidence(model, x, 5000, generator())
    assert torch.allclose(found.double(), exact, atol=0.15)
    assert found.double().mean().item() == pytest.approx(exact.mean().item(), abs=0.01)
    many = log_evidence(model, x[:2], 300_000, generator())  # in several passes: 2^22 numbers fit in one
    assert torch.allclose(many.double(), exact[:2], atol=0.01)


def test_bounds_rise_with_the_number_of_codes_towards_the_evidence():
    model, exact, x = linear_gaussian()
    bounds = []
    for k in (1, 2, 10, 100):
        noise = torch.randn(300 * 40, k, 2, generator=generator(k))
        bounds.append(-losses(model, x.repeat(40, 1, 1, 1), noise, 1.0)[0].mean().item())
    assert all(low + 0.01 < high for low, high in pairwise(bounds))
    assert bounds[-1] < exact.mean().item() + 0.005 and exact.mean().item() - bounds[-1] < 0.02


def test_importance_sampling_agrees_with_quadrature_for_bernoulli_pixels():
    model, _ = make((1, 2, 4), latent_dim=1, hidden=(6,))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(0.1)  # q(z|x) near the prior, from which every code can come
    x = torch.rand(20, 1, 2, 4, generator=generator()).round()
    z = torch.linspace(-12, 12, 8001)
    log_p = model.log_likelihood(x, z.view(1, -1, 1).expand(20, -1, -1)).double() + D.Normal(0, 1).log_prob(z).double()
    evidence = (log_p.logsumexp(1) + math.log(24 / 8000)).detach()
    found = log_evidence(model, x, 20_000, generator())
    assert torch.allclose(found.double(), evidence, atol=0.05)
    assert found.mean().item() == pytest.approx(evidence.mean().item(), abs=0.01)


# --- training --------------------------------------------------------------------------------


def test_the_linear_model_learns_the_likelihood_of_probabilistic_principal_components():
    """The best linear-Gaussian model has its likelihood in closed form, and the bound is tight there."""
    rng = generator(3)
    directions = torch.randn(2, 6, generator=rng) * torch.tensor([[0.15], [0.09]])
    data = 0.5 + torch.randn(2000, 2, generator=rng) @ directions + 0.06 * torch.randn(2000, 6, generator=rng)
    pictures = (data.clamp(0, 1) * 255).round().byte().view(-1, 1, 2, 3)
    x = pictures.float() / 255
    variances = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0)).flip(0)
    noise = variances[2:].mean()
    best = 3 * math.log(2 * math.pi) + 3 + 0.5 * (variances[:2].log().sum() + 4 * noise.log()).item()

    args = Args(hidden=(), latent_dim=2, likelihood="gaussian", batch_size=200)
    model = vae.make_model(args, pictures, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    order = Order(2000, 200, 0, torch.device("cpu"))
    for step in range(1200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 1200)
        update(model, optimizer, pictures[order.batch(step)], torch.randn(200, 1, 2, generator=rng), args, losses)
    assert vae.score(model, pictures, args)[0] == pytest.approx(best, abs=0.05)
    assert -log_evidence(model, x, 50, generator()).mean().item() == pytest.approx(best, abs=0.02)
    assert model.log_std.exp().item() == pytest.approx(noise.sqrt().item(), rel=0.02)


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    """Without a code, the best independent pixels cost 356 nats; pixels whose brightness is known, 244."""
    flags = {"hidden": (128,), "batch_size": 100, "nll_images": 50, "nll_samples": 200, "torch_threads": 1}
    args = Args(**flags, binarize="dynamic", epochs=14.0, learning_rate=3e-3, run_dir=tmp_path / "run")
    row = train(args)
    mean = vae.load_digits_28()[0].double().mean(0) / 255
    assert D.Bernoulli(mean).entropy().nansum() > 350
    assert row["eval/nll"] < row["eval/loss"] < 312
    assert row["eval/recon"] + row["eval/kl"] == pytest.approx(row["eval/loss"], rel=1e-5)
    assert row["eval/active_units"] >= 5
    pictures = ["samples", "reconstructions", "interpolations", "plane", "latents", "curve"]
    names = {"args.json", "metrics.csv", "checkpoint.pt", *(f"{name}.png" for name in pictures)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert Image.open(tmp_path / "run/reconstructions.png").size == (10 * 58, 4 * 58)  # originals, 1, 9, last
    samples = np.asarray(Image.open(tmp_path / "run/samples.png"), float).reshape(8, 58, 8, 58)[:, :56, :, :56]
    assert 0.5 < samples.mean() / (mean.mean().item() * 255) < 2  # as much ink as digits have


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.4, "log_every": 2, "binarize": "dynamic", "importance_samples": 2}
    train(Args(**flags, run_dir=tmp_path / "one"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(2):
        process = os.fork()
        if process == 0:
            status = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                train(Args(**flags, run_dir=tmp_path / "two"))
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-4) for key in a if a[key])


def test_the_plain_autoencoder_has_no_noise(tmp_path):
    args = Args(**SMALL | {"kl_weight": 0.0, "epochs": 1.0, "run_dir": tmp_path / "run"})
    row = train(args)
    assert row["eval/loss"] == row["eval/recon"] and row["losses/loss"] == row["losses/recon"]
    assert row["eval/nll"] is None
    assert vae.draw_noise(args, 3, 1, generator()).abs().sum() == 0
    with pytest.raises(UsageError, match="no likelihood"):
        evaluate(tmp_path / "run")


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.5, log_every=3, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 3


@pytest.mark.parametrize("binarize, k", [("dynamic", 1), ("static", 3)])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, binarize, k):
    flags = SMALL | {"epochs": 1.5, "log_every": 5, "checkpoint_every": 2, "binarize": binarize}
    flags |= {"importance_samples": k, "schedule": "stages"}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = vae.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(vae.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    rates = [float(row["charts/learning_rate"]) for row in rows(tmp_path / "whole")]
    assert rates[0] == Args.learning_rate and rates[-1] == pytest.approx(Args.learning_rate * 10 ** (-1 / 7))
    for name in ("samples.png", "reconstructions.png"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_evaluate_repeats_the_likelihood_of_the_last_row(tmp_path):
    row = train(Args(**SMALL | {"nll_images": 0, "epochs": 0.5, "run_dir": tmp_path / "run"}))
    assert evaluate(tmp_path / "run") == (row["eval/nll"], row["eval/nll_error"])


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_samples_and_codes_are_saved_when_asked_for(tmp_path, binarize):
    flags = SMALL | {"epochs": 1.0, "binarize": binarize, "train_images": 900, "save_samples": 700}
    train(Args(**flags, run_dir=tmp_path / "run"))
    saved = np.load(tmp_path / "run/samples.npz")
    assert saved["samples"].shape == (700, 1, 28, 28) and saved["samples"].dtype == np.uint8
    assert (set(np.unique(saved["samples"])) == {0, 255}) == (binarize == "dynamic")
    assert len(np.unique(saved["samples"].reshape(700, -1), axis=0)) == 700 and saved["seconds"] > 0
    args, checkpoint = vae.load_run(tmp_path / "run", "--run", Args)
    pictures, test, labels, test_labels = vae.load_data(args, torch.device("cpu"))
    model = vae.make_model(args, pictures, torch.device("cpu"))
    model.load_state_dict(checkpoint["model"])
    for name, x, y in (("train", pictures, labels), ("test", test, test_labels)):
        codes = model.encode(x.float() / 255)[0].numpy(force=True)
        assert saved[f"{name}_codes"].shape == (len(x), 3) and saved[f"{name}_codes"].dtype == np.float32
        assert np.allclose(saved[f"{name}_codes"], codes, atol=1e-4)
        assert saved[f"{name}_labels"].tolist() == y[: len(x)].tolist()
    ink = saved["samples"].mean() / 255
    assert ink == pytest.approx(pictures.float().mean().item() / 255, rel=0.4)  # as much as the pictures have


def test_every_update_takes_a_full_batch_and_every_epoch_each_picture_once():
    order = Order(10, 4, 3, torch.device("cpu"))
    taken = torch.cat([order.batch(step) for step in range(10)]).view(4, 10)
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in taken)
    assert len({tuple(epoch.tolist()) for epoch in taken}) == 4
    assert order.batch(3).tolist() == taken.flatten()[12:16].tolist()  # any update can be asked for, as after --resume


def test_the_stages_of_the_schedule_last_three_times_as_long_each():
    args = Args(schedule="stages", learning_rate=1e-3)
    rates = [vae.learning_rate(args, epoch + 0.5) for epoch in range(3280)]
    assert [rates.count(rate) for rate in dict.fromkeys(rates)] == [3**i for i in range(8)]
    assert list(dict.fromkeys(rates)) == pytest.approx([1e-3 * 10 ** (-i / 7) for i in range(8)])
    assert vae.learning_rate(args, 4000.0) == pytest.approx(1e-4) and vae.learning_rate(Args(), 70.0) == 1e-3


def test_pixels_are_white_as_often_as_they_are_bright():
    grey = torch.tensor([0, 51, 128, 204, 255], dtype=torch.uint8)
    drawn = bernoulli(grey.expand(50_000, 5), generator())
    assert drawn.dtype == torch.uint8 and set(drawn.unique().tolist()) == {0, 255}
    assert torch.allclose(drawn.float().mean(0), grey.float(), atol=2.5)
    assert drawn[:, 0].max() == 0 and drawn[:, 4].min() == 255


def test_pixels_are_drawn_once_or_for_each_batch_anew_and_test_pictures_once(monkeypatch, tmp_path):
    for binarize in ("none", "static", "dynamic"):
        seen, shipped = {}, vae.update

        def spy(model, optimizer, pictures, *rest, seen=seen, shipped=shipped):
            for picture in pictures:
                seen.setdefault(tuple((picture > 0).flatten().nonzero().flatten()[:1].tolist()), []).append(picture)
            return shipped(model, optimizer, pictures, *rest)

        monkeypatch.setattr(vae, "update", spy)
        args = Args(**SMALL | {"epochs": 3, "binarize": binarize, "train_images": 100})
        args.run_dir = tmp_path / binarize
        train(args)
        monkeypatch.setattr(vae, "update", shipped)
        pictures = torch.stack([picture for group in seen.values() for picture in group])
        assert len(pictures) == 300
        different = len(pictures.flatten(1).unique(dim=0))
        assert different > 250 if binarize == "dynamic" else different == 100
        assert (binarize == "none") == (len(pictures.unique()) > 2)
    first, second = (vae.load_data(Args(binarize="dynamic", seed=seed), torch.device("cpu"))[1] for seed in (1, 2))
    assert torch.equal(first, second) and set(first.unique().tolist()) == {0, 255}


def test_every_update_has_noise_of_its_own(monkeypatch, tmp_path):
    seen, shipped = [], vae.update

    def spy(model, optimizer, pictures, noise, *rest):
        seen.append(noise.clone())
        return shipped(model, optimizer, pictures, noise, *rest)

    monkeypatch.setattr(vae, "update", spy)
    train(Args(**SMALL, epochs=0.5, log_every=2, run_dir=tmp_path / "run"))
    noise = torch.cat(seen)
    assert noise.shape == (800, 1, 3) and len(noise.unique()) > 2390
    assert abs(noise.mean().item()) < 0.1 and noise.std().item() == pytest.approx(1, abs=0.06)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        vae, "losses", lambda model, x, noise, weight: model.encode(x)[0].sum(1).expand(3, -1) * math.nan
    )
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_bfloat16_learns_what_float32_learns(tmp_path):
    flags = SMALL | {"epochs": 2.0}
    found = [train(Args(**flags, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["eval/loss"] != found[1]["eval/loss"]
    assert found[1]["eval/loss"] == pytest.approx(found[0]["eval/loss"], rel=0.005)


# --- pictures --------------------------------------------------------------------------------


def test_a_folder_of_mixed_pictures_works_and_what_cannot_be_read_is_named_and_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "deeper").mkdir()
    for i in range(30):
        width, height = rng.integers(5, 60, size=2)
        rgb = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        mode = ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"][i % 7]
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.fromarray(rgb).convert(mode).save(tmp_path / ("deeper" if i % 2 else ".") / f"{i}.{suffix}")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    pictures, _, test, _ = vae.load_pictures(Args(dataset="folder", folder=tmp_path, image_size=8))
    assert pictures.shape == (28, 3, 8, 8) and test.shape == (3, 3, 8, 8) and pictures.dtype == torch.uint8
    said = capsys.readouterr().err
    assert "broken.png is skipped" in said and "1 files skipped, 31 pictures read" in said
    flags = SMALL | {"batch_size": 9, "epochs": 2.0, "image_size": 8}
    train(Args(**flags, dataset="folder", folder=tmp_path, run_dir=tmp_path / "run"))


def test_pictures_are_squared_on_white_and_turned_upright():
    clear = np.zeros((10, 20, 4), np.uint8)
    clear[:, 5:15] = [255, 0, 0, 255]
    found = vae.square(Image.fromarray(clear), 10)
    assert (found == torch.tensor([255, 0, 0]).view(3, 1, 1)).all()  # the middle of the wide picture
    assert (vae.square(Image.fromarray(np.zeros((9, 9, 4), np.uint8)), 9) == 255).all()  # transparent is white
    grey = vae.square(Image.fromarray(np.full((9, 9), 257 * 200, np.uint16)), 9)
    assert (grey == 200).all()
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255
    turned, exif = Image.fromarray(np.rot90(upright).copy()), Image.Exif()
    exif[0x0112] = 6  # the camera's top is at the right
    file = io.BytesIO()
    turned.save(file, "png", exif=exif)
    assert (vae.square(Image.open(file), 8).numpy() == upright.transpose(2, 0, 1)).mean() > 0.9


def test_crops_of_the_photographs_to_train_and_test_on_share_no_pixel():
    pictures, labels, test, test_labels = vae.load_photos(32)
    assert pictures.shape == (5000, 3, 32, 32) and test.shape == (500, 3, 32, 32)
    assert set(labels.tolist()) == set(test_labels.tolist()) == {0, 1}
    columns = {tuple(column.flatten().tolist()) for column in pictures[:, :, :8].unbind(3) for column in column}
    assert not columns & {tuple(column.flatten().tolist()) for column in test[:, :, :8].unbind(3) for column in column}


def test_cartoons_to_train_and_test_on_are_different_ones(monkeypatch):
    def fast(picture, size):  # the file's digest: decoding them all takes seconds
        picture.fp.seek(0)
        return torch.tensor(list(hashlib.sha256(picture.fp.read()).digest()))

    monkeypatch.setattr(vae, "square", fast)
    try:
        pictures, test = vae.load_emoji(Args(dataset="emoji"))
    except UsageError as error:
        pytest.skip(str(error))
    assert 3000 < len(pictures) + len(test) < 4500 and 0.05 < len(test) / len(pictures) < 0.2
    pictures, test = ({bytes(picture.tolist()) for picture in part} for part in (pictures, test))
    assert not pictures & test

    command = ["fc-match", "--format=%{file}", "Noto Color Emoji"]
    font = TTFont(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    bitmaps = font["CBDT"].strikeData[0]
    digests = {name: hashlib.sha256(bitmaps[name].imageData).digest() for name in bitmaps}
    tables = [table for lookup in font["GSUB"].table.LookupList.Lookup for table in lookup.SubTable]
    shapes = 0
    for ligatures in (table.ligatures for table in tables if hasattr(table, "ligatures")):
        for first, found in ligatures.items():
            if digests.get(first) in test:  # what begins with a test picture's character is a test picture, too
                shapes += len(found)
                assert all(digests[ligature.LigGlyph] in test for ligature in found if ligature.LigGlyph in digests)
    assert shapes > 50


def answers(monkeypatch, *bodies):
    """Let the network answer with these, one after another."""
    left = list(bodies)
    monkeypatch.setattr(vae.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(left.pop(0)))
    return left


def test_a_damaged_download_is_noticed_by_its_digest_and_fetched_again(tmp_path, monkeypatch):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"12345"))
    right = file.getvalue()
    monkeypatch.setattr(vae, "CIFAR10_SHA256", hashlib.sha256(right).hexdigest())
    left = answers(monkeypatch, right[:-3], right)
    vae.download_cifar10(tmp_path, tmp_path / "x")
    assert not left and (tmp_path / "cifar-10-batches-bin/test_batch.bin").read_bytes() == b"12345"
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-batches-bin"]

    answers(monkeypatch, right[:-3], b"")
    with pytest.raises(UsageError, match="another digest"):
        vae.load_cifar10(tmp_path)  # what is there has the wrong size


def test_cifar10_is_read_as_it_is_stored(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = np.zeros((10_000, 3073), np.uint8)
        rows[:, 0], rows[0, 1:], rows[1, 1 + 1024 + 33] = i, 7, 200
        rows.tofile(folder / f"{name}.bin")
    pictures, labels, test, test_labels = vae.load_cifar10(tmp_path)
    assert pictures.shape == (50_000, 3, 32, 32) and test.shape == (10_000, 3, 32, 32)
    assert labels[::10_000].tolist() == [0, 1, 2, 3, 4] and test_labels.unique().tolist() == [5]
    assert (pictures[0] == 7).all() and pictures[10_001].nonzero().tolist() == [[1, 1, 1]]  # green, second row, column


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_without_a_network_it_says_what_to_do(dataset, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(vae.urllib.request, "urlopen", fail)
    with pytest.raises(UsageError, match=r"no network.*Without a network"):
        train(Args(dataset=dataset, data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"epochs": math.inf}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"kl_weight": math.nan}, "--kl-weight"),
        ({"importance_samples": 5, "kl_weight": 0.5}, "--importance-samples"),
        ({"hidden": (0,)}, "--hidden"),
        ({"network": "conv", "hidden": ()}, "--hidden"),
        ({"network": "conv", "hidden": (4, 4, 4)}, "8 divides"),
        ({"likelihood": "gaussian", "binarize": "static"}, "--binarize"),
        ({"noise_std": 0.1}, "--noise-std"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder"}, "--folder"),
        ({"dataset": "folder", "folder": Path("nowhere")}, "at least 20 pictures"),
        ({"dataset": "emoji", "font": Path("nowhere.ttf")}, "--font"),
        ({"dataset": "photos", "image_size": 200}, "--image-size"),
        ({"latent_dim": 0}, "--latent-dim"),
        ({"nll_images": -1}, "--nll-images"),
        ({"save_samples": -1}, "--save-samples"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    train(Args(**SMALL, epochs=0.2, run_dir=tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, epochs=0.2, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"latent_dim": 4}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "gen/vae.py", "--resume", tmp_path / "x", "--seed", "1"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
