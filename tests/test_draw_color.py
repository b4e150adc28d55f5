"""DRAW in colour: the model against a direct loop, its loss against a Gaussian density, its data and its training."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributions as D

from gen import draw_color
from gen.draw_color import DRAW, Args, N, UsageError, attention, filterbank, load_images, train

SMALL = {"hidden": 16, "latent_dim": 4, "num_steps": 3, "cuda": False}


def make(size=7, **flags):
    """A model with random weights, and images [5, 3, size, size]."""
    torch.manual_seed(0)
    model = DRAW(Args(**SMALL | flags), torch.rand(3, size, size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, torch.rand(5, 3, size, size)


@pytest.fixture
def folder(tmp_path):
    """16 random images to train on and 8 to test on, of 10 x 8 pixels."""
    rng = np.random.default_rng(0)
    for kind, n in (("train", 16), ("test", 8)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(n):
            color = rng.integers(256, size=3)
            Image.fromarray(np.full((8, 10, 3), color, np.uint8)).save(tmp_path / "data" / kind / f"{i:02}.png")
    return tmp_path / "data"


def test_the_grid_is_that_of_equations_19_to_26():
    p, size = torch.tensor([0.3, -0.2, -0.4, -0.7, 0.5]), 9
    F_x, F_y, gamma, means = filterbank(p[None], size)
    for F, places, g in ((F_x[0, 0], means[0, 0], 1.3 * 5), (F_y[0, 0], means[0, 1], 0.8 * 5)):
        for i in range(5):
            mu = g + (i + 1 - 5 / 2 - 0.5) * (8 / 4) * np.exp(-0.7)
            row = np.exp(-((np.arange(1, 10) - mu) ** 2) / (2 * np.exp(-0.4)))
            assert F[i].numpy() == pytest.approx(row / row.sum(), abs=1e-5) and places[i].item() == pytest.approx(mu)
    assert gamma.item() == pytest.approx(np.exp(0.5))


def test_at_first_filters_overlap_in_the_middle_and_write_as_bright_as_the_patch():
    layer = attention(4, 64, writes=True)
    F_x, F_y, gamma, means = filterbank(layer(torch.zeros(1, 4)), 64)
    assert means.mean(2).tolist() == [[32.5, 32.5]] and means.diff()[0, 0, 0].item() == pytest.approx(0.75 * 63 / 4)
    assert layer.bias[2].exp().item() ** 0.5 == pytest.approx(0.75 * 63 / 4 / 2)
    painted = F_y.mT @ torch.ones(5, 5) @ F_x / gamma
    assert painted[0, 0, 31, 31].item() == pytest.approx(1, abs=0.1)
    assert filterbank(attention(4, 64, writes=False)(torch.zeros(1, 4)), 64)[2].item() == 1


def test_the_loss_is_that_of_a_direct_loop():
    model, x = make(noise_std=0.3)
    torch.manual_seed(5)
    error, kl = model.losses(x)
    torch.manual_seed(5)
    canvas, total = model.canvas.expand(5, -1, -1, -1), 0
    enc, dec = (model.h_enc.expand(5, -1), torch.zeros(5, 16)), (model.h_dec.expand(5, -1), torch.zeros(5, 16))
    for _ in range(3):
        F_x, F_y, gamma, _ = filterbank(model.read_attention(dec[0]), 7)
        seen = [
            gamma[i, 0, 0] * F_y[i, 0] @ part[i, c] @ F_x[i, 0].T
            for i in range(5)
            for part in (x, x - 1 / (1 + (-canvas).exp()))
            for c in range(3)
        ]
        enc = model.encoder(torch.cat([torch.stack(seen).view(5, -1), dec[0]], 1), enc)
        mu, log_sigma = model.posterior(enc[0]).split(4, 1)
        total = total + D.kl_divergence(D.Normal(mu, log_sigma.exp()), D.Normal(0, 1)).sum(1)
        dec = model.decoder(mu + log_sigma.exp() * torch.randn(5, 4), dec)
        (F_x, F_y, gamma, _), patch = filterbank(model.write_attention(dec[0]), 7), model.stroke(dec[0])
        patch = patch.view(5, 3, N, N)
        strokes = [F_y[i, 0].T @ patch[i, c] @ F_x[i, 0] / gamma[i, 0, 0] for i in range(5) for c in range(3)]
        canvas = canvas + torch.stack(strokes).view(5, 3, 7, 7)
    log_density = D.Normal(canvas.sigmoid(), 0.3).log_prob(x).flatten(1).sum(1)
    constant = 3 * 49 * D.Normal(0.0, 0.3).log_prob(torch.tensor(0.0))
    assert torch.allclose(kl, total, rtol=1e-4) and torch.allclose(error, constant - log_density, rtol=1e-4)


def test_codes_from_the_prior_are_drawn_by_the_same_decoder():
    model, x = make()
    model.posterior.weight.data.zero_()
    model.posterior.bias.data.zero_()  # q(z|x) is the prior
    drawings = []
    for given in (x, None):
        torch.manual_seed(4)
        canvases, kl, reads, writes = model(5, given)
        drawings.append(torch.stack(canvases))
        assert len(reads) == len(kl) == (3 if given is x else 0) and len(writes) == 3
        assert not any(step.any() for step in kl)
    assert torch.equal(*drawings) and (drawings[1].diff(dim=0).flatten(2).std(1) > 0).any()


def test_an_update_mixes_no_devices():
    model = make()[0].to("meta")  # a tensor that is made on the CPU raises here
    model.losses(torch.ones(5, 3, 7, 7, device="meta")).sum().backward()
    assert len(model(2)[0]) == 3


def test_photographs_are_split_where_train_and_test_cannot_overlap(monkeypatch):
    columns = np.broadcast_to(np.arange(640)[:, None], (427, 640, 1))
    photo = np.concatenate([columns % 256, columns // 256, columns * 0], axis=2).astype(np.uint8)  # shows its columns
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: SimpleNamespace(images=[photo, photo]))
    images, test = load_images(Args(image_size=16))
    assert images.shape == (2000, 3, 16, 16) and test.shape == (200, 3, 16, 16)
    assert images.min() == 0 and 0.9 < images.max() <= 1
    train_columns, test_columns = ((255 * x[:, 0]).round() + 256 * (255 * x[:, 1]).round() for x in (images, test))
    assert train_columns.max() < test_columns.min()


def test_it_learns_colours_and_the_seed_decides_every_number(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(draw_color, "save_drawing", lambda *args: args[-1].write_bytes(b""))
    flags = {"data_dir": folder, "image_size": 8, "batch_size": 8, "epochs": 16, "learning_rate": 0.03}
    images, test = load_images(Args(data_dir=folder, image_size=8))
    bar = 0.75 * ((test - images.mean(0)) ** 2).sum().item() / len(test)  # the mean image gets 1
    logs, rates, step = [], [], torch.optim.Adam.step

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        norms = torch.stack([p.grad.norm() for p in self.param_groups[0]["params"]])
        assert norms.norm() <= 5.001
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        row = train(Args(**SMALL | flags, seed=seed, run_dir=tmp_path / name))
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            logs.append([{k: v for k, v in line.items() if k != "charts/SPS"} for line in csv.DictReader(file)])
        assert row["eval/squared_error"] < bar
        assert row["eval/loss"] == pytest.approx(row["eval/squared_error"] * 32 + row["eval/kl"], rel=1e-4)
    assert logs[0] == logs[1] != logs[2]
    assert rates[0] == 0.03 and rates[16] == pytest.approx(0.015) and rates[31] == pytest.approx(0.03 / 32)
    assert "model" in torch.load(tmp_path / "a/model.pt", weights_only=True)


def test_a_run_leaves_its_picture(tmp_path, folder):
    train(Args(**SMALL, data_dir=folder, image_size=8, epochs=1, run_dir=tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "args.json",
        "metrics.csv",
        "model.pt",
        "drawing.png",
    }
    assert np.asarray(Image.open(tmp_path / "run/drawing.png").convert("RGB")).std() > 10


@pytest.mark.parametrize("broken", ["missing", "empty", "text"])
def test_a_folder_without_images_is_named(tmp_path, broken):
    if broken != "missing":
        (tmp_path / "train").mkdir()
    if broken == "text":
        (tmp_path / "train/a.png").write_text("no image")
    with pytest.raises(UsageError, match=r"--data-dir.*train"):
        train(Args(data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_is_read_without_its_damaged_files(folder, capsys):
    (folder / "train/text.png").write_text("no image")
    images, test = load_images(Args(data_dir=folder, image_size=8))
    assert len(images) == 16 and len(test) == 8 and "1 unreadable files" in capsys.readouterr().out
    (folder / "test/sub").mkdir()
    (folder / "test/00.png").rename(folder / "test/sub/00.png")
    images, test = load_images(Args(data_dir=folder, image_size=8))
    color = np.asarray(Image.open(folder / "test/01.png"))[0, 0]
    assert len(test) == 8 and (test[0] * 255)[:, 3, 3].tolist() == pytest.approx(color.tolist())


@pytest.mark.parametrize("flags", [{"image_size": 81}, {"num_steps": 0}, {"noise_std": 0}])
def test_bad_flags_are_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
