"""DRAW: filters against direct sums, the model against plain code, its bound against distributions, its training."""

import csv
import gzip
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import distributions as D
from torch import nn

from gen import draw
from gen.draw import DRAW, Args, UsageError, attention, filterbank, load_images, save_drawing, train

SMALL = {"hidden": 32, "latent_dim": 8, "num_steps": 3, "cuda": False}


def make(size=7, scale=0.2, **flags):
    """A model with large random weights, and images [5, 1, size, size]."""
    torch.manual_seed(0)
    model = DRAW(Args(**SMALL | flags), torch.rand(1, size, size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model, torch.rand(5, 1, size, size).round()


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("n", [2, 5])
def test_filters_are_those_of_the_equations(n):
    size, p = 6, torch.tensor([0.3, -0.2, -0.4, -0.7, 0.5])
    F_x, F_y, gamma, means = filterbank(p[None], n, size)
    g_x, g_y, delta = 3.5 * 1.3, 3.5 * 0.8, 5 / (n - 1) * math.exp(-0.7)  # equations 22 to 24 by hand
    for matrix, places, g in ((F_x, means[0, 0], g_x), (F_y, means[0, 1], g_y)):
        for i in range(1, n + 1):
            mu = g + (i - n / 2 - 0.5) * delta
            row = [math.exp(-((a - mu) ** 2) / (2 * math.exp(-0.4))) for a in range(1, size + 1)]
            assert matrix[0, 0, i - 1].tolist() == pytest.approx([v / sum(row) for v in row], rel=1e-4)
            assert places[i - 1].item() == pytest.approx(mu, rel=1e-5)
    assert gamma.item() == pytest.approx(math.exp(0.5))


def test_filters_far_outside_the_image_are_finite():
    F_x, F_y, _, _ = filterbank(torch.tensor([[50.0, -50.0, -20.0, 3.0, 0.0]]), 5, 28)
    assert torch.allclose(F_x.sum(3), torch.ones(1, 1, 5)) and F_y.isfinite().all()


@pytest.mark.parametrize("n", [2, 5])
def test_at_first_filters_overlap_in_the_middle_and_write_as_bright_as_the_patch(n):
    layer = attention(4, n, 28, writes=True)
    F_x, F_y, gamma, means = filterbank(layer(torch.zeros(1, 4)), n, 28)
    assert means.mean(2).tolist() == [[14.5, 14.5]]
    assert (means[0, :, -1] - means[0, :, 0]).tolist() == pytest.approx(2 * [27 * (0.5 if n == 2 else 0.75)])
    stride = means[0, 0, 1] - means[0, 0, 0]
    assert layer.bias[2].exp().item() ** 0.5 == pytest.approx(stride.item() / 2)  # the filters' sigma
    painted = (F_y.mT @ torch.ones(n, n) @ F_x / gamma)[0, 0]
    assert 0.9 < painted[13, 13].item() < 1.3 and painted.min() >= 0
    assert filterbank(attention(4, n, 28, writes=False)(torch.zeros(1, 4)), n, 28)[2].item() == 1


A = B = 28


class DrawModel(nn.Module):
    """DRAW as it is most often written in PyTorch: an independent implementation to compare with."""

    def __init__(self, T=10, z_size=100, enc_size=256, dec_size=256, read_N=2, write_N=5):
        super().__init__()
        self.T, self.z_size, self.enc_size, self.dec_size = T, z_size, enc_size, dec_size
        self.read_N, self.write_N = read_N, write_N
        self.encoder = nn.LSTMCell(2 * read_N * read_N + dec_size, enc_size)
        self.fc_mu, self.fc_sigma = nn.Linear(enc_size, z_size), nn.Linear(enc_size, z_size)
        self.decoder = nn.LSTMCell(z_size, dec_size)
        self.fc_read, self.fc_attention = nn.Linear(dec_size, 5), nn.Linear(dec_size, 5)
        self.fc_write = nn.Linear(dec_size, write_N * write_N)

    def filterbank(self, parameters, N):
        gx, gy, log_sigma2, log_delta, log_gamma = parameters.split(1, 1)
        gx, gy = (A + 1) / 2 * (gx + 1), (B + 1) / 2 * (gy + 1)
        delta = (max(A, B) - 1) / (N - 1) * torch.exp(log_delta)
        grid = torch.arange(1, N + 1, dtype=torch.float32).view(1, -1)
        mu_x = (gx + (grid - N / 2 - 0.5) * delta).view(-1, N, 1)
        mu_y = (gy + (grid - N / 2 - 0.5) * delta).view(-1, N, 1)
        a = torch.arange(1, A + 1, dtype=torch.float32).view(1, 1, -1)
        b = torch.arange(1, B + 1, dtype=torch.float32).view(1, 1, -1)
        sigma2 = torch.exp(log_sigma2).view(-1, 1, 1)
        Fx = torch.exp(-((a - mu_x) ** 2) / (2 * sigma2))
        Fy = torch.exp(-((b - mu_y) ** 2) / (2 * sigma2))
        Fx, Fy = Fx / (Fx.sum(2, keepdim=True) + 1e-8), Fy / (Fy.sum(2, keepdim=True) + 1e-8)
        return Fx, Fy, torch.exp(log_gamma)

    def read(self, x, x_hat, h_dec):
        Fx, Fy, gamma = self.filterbank(self.fc_read(h_dec), self.read_N)

        def glimpse(image):
            return Fy.bmm(image.view(-1, B, A)).bmm(Fx.transpose(1, 2)).view(-1, self.read_N**2) * gamma

        return torch.cat([glimpse(x), glimpse(x_hat)], dim=1)

    def write(self, h_dec):
        w = self.fc_write(h_dec).view(-1, self.write_N, self.write_N)
        Fx, Fy, gamma = self.filterbank(self.fc_attention(h_dec), self.write_N)
        return Fy.transpose(1, 2).bmm(w).bmm(Fx).view(-1, B * A) / gamma

    def forward(self, x):
        n = x.size(0)
        h_enc, enc_state = torch.zeros(2, n, self.enc_size)
        h_dec, dec_state = torch.zeros(2, n, self.dec_size)
        c, kl = torch.zeros(n, B * A), 0
        for _ in range(self.T):
            x_hat = x - torch.sigmoid(c)
            r = self.read(x, x_hat, h_dec)
            h_enc, enc_state = self.encoder(torch.cat([r, h_dec], dim=1), (h_enc, enc_state))
            mu, log_sigma = self.fc_mu(h_enc), self.fc_sigma(h_enc)
            z = mu + torch.exp(log_sigma) * torch.randn(n, self.z_size)
            kl = kl + 0.5 * torch.sum(mu**2 + torch.exp(2 * log_sigma) - 2 * log_sigma - 1, dim=1)
            h_dec, dec_state = self.decoder(z, (h_dec, dec_state))
            c = c + self.write(h_dec)
        recon = F.binary_cross_entropy(torch.sigmoid(c), x, reduction="none").sum(1)
        return (recon + kl).mean()


def test_model_and_gradient_are_those_of_plain_code():
    model, _ = make(28, 0.03, read_size=2)
    x = torch.rand(5, 1, 28, 28).round()
    plain = DrawModel(T=3, z_size=8, enc_size=32, dec_size=32)
    for start in (model.canvas, model.h_enc, model.h_dec):
        start.data.zero_()
    plain.encoder, plain.decoder, plain.fc_read = model.encoder, model.decoder, model.read_attention
    plain.fc_attention, plain.fc_write = model.write_attention, model.stroke
    plain.fc_mu.weight.data, plain.fc_sigma.weight.data = (part.clone() for part in model.posterior.weight.chunk(2))
    plain.fc_mu.bias.data, plain.fc_sigma.bias.data = (part.clone() for part in model.posterior.bias.chunk(2))
    gradients = []
    for loss in (lambda: model.losses(x).sum(0).mean(), lambda: plain(x.flatten(1))):
        torch.manual_seed(3)
        value = loss()
        shared = [*model.encoder.parameters(), *model.read_attention.parameters(), *model.stroke.parameters()]
        gradients.append([value, *torch.autograd.grad(value, shared)])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_attention_it_reads_and_writes_all_pixels_from_learned_initial_states():
    model, x = make(attention=False)
    torch.manual_seed(5)
    recon, kl = model.losses(x)
    torch.manual_seed(5)
    canvas = model.canvas.flatten().expand(5, -1)
    enc, dec = (model.h_enc.expand(5, -1), torch.zeros(5, 32)), (model.h_dec.expand(5, -1), torch.zeros(5, 32))
    total = 0
    for _ in range(3):
        error = x.flatten(1) - 1 / (1 + (-canvas).exp())
        enc = model.encoder(torch.cat([x.flatten(1), error, dec[0]], 1), enc)
        mu, log_sigma = model.posterior(enc[0]).split(8, 1)
        q = D.Normal(mu, log_sigma.exp())
        total = total + D.kl_divergence(q, D.Normal(0, 1)).sum(1)
        dec = model.decoder(mu + log_sigma.exp() * torch.randn(5, 8), dec)
        canvas = canvas + model.stroke(dec[0])
    assert torch.allclose(kl, total, rtol=1e-4)
    assert torch.allclose(recon, -D.Bernoulli(logits=canvas).log_prob(x.flatten(1)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("with_attention", [True, False])
def test_codes_from_the_prior_are_drawn_by_the_same_decoder(with_attention):
    model, x = make(attention=with_attention)
    model.posterior.weight.data.zero_()
    model.posterior.bias.data.zero_()  # q(z|x) is the prior
    drawings = []
    for given in (x, None):
        torch.manual_seed(4)
        canvases, kl, reads, writes = model(5, given)
        drawings.append(torch.stack(canvases))
        assert len(reads) == 3 * (with_attention and given is x) and len(writes) == 3 * with_attention
        assert torch.stack(kl).abs().max() == 0 if given is x else not kl
    assert torch.equal(*drawings)
    steps = drawings[1]
    assert (steps.diff(dim=0).flatten(2).std(1) > 0).any()  # every image and step has noise of its own


@pytest.mark.parametrize("with_attention", [True, False])
def test_an_update_mixes_no_devices(with_attention):
    model = make(attention=with_attention)[0].to("meta")  # a tensor that is made on the CPU raises here
    model.losses(torch.ones(5, 1, 7, 7, device="meta")).sum().backward()
    assert len(model(2)[0]) == 3


def test_frames_are_drawn_where_the_filters_are(tmp_path):
    model, images = DRAW(Args(**SMALL), torch.rand(1, 28, 28)), torch.rand(4, 1, 28, 28)
    for layer in (model.read_attention, model.write_attention):
        layer.weight.data.zero_()
    model.read_attention.bias.data[0] = 0.5  # 7.25 pixels to the right of the middle, 14
    model.read_attention.bias.data[3] -= math.log(2)
    torch.manual_seed(3)
    save_drawing(model, images, tmp_path / "drawing.png")
    tiles = np.asarray(Image.open(tmp_path / "drawing.png")).reshape(8, 87, 3, 87, 3).swapaxes(1, 2)[:, :, :84, :84]
    torch.manual_seed(3)
    canvas = model(4, images)[0][2][1, 0].sigmoid().repeat_interleave(3, 1)
    assert np.abs(tiles[1, 2, ::3, :, 0][-1] / 255.0 - canvas[-1].detach().numpy()).max() < 0.01
    for color, rows, left, right in (((0, 255, 0), 8, 3.875, 24.125), ((255, 165, 0), 4, 16.1875, 26.3125)):
        framed = (tiles == color).all(-1)[:rows]
        assert framed.any((2, 3)).all()
        assert np.flatnonzero(framed.any((0, 1, 2)))[[0, -1]] == pytest.approx([3 * left, 3 * right], abs=1)
    assert not (tiles[4:] == (255, 165, 0)).all(-1).any()


# --- training --------------------------------------------------------------------------------


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(draw, "save_drawing", lambda *args: args[-1].write_bytes(b""))


def test_it_learns_digits(tmp_path):
    flags = {
        "hidden": 64,
        "num_steps": 4,
        "read_size": 4,
        "write_size": 4,
        "learning_rate": 0.01,
        "epochs": 3,
        "batch_size": 64,
    }
    row = train(Args(**SMALL | flags, run_dir=tmp_path / "run"))
    assert row["eval/loss"] < 330 and row["eval/kl"] > 3  # independent pixels: 356
    weights = torch.load(tmp_path / "run/model.pt", weights_only=True)["model"]
    _, test = load_images(Args())
    model = DRAW(Args(**SMALL | flags), test[0])
    model.load_state_dict(weights)
    with torch.no_grad():
        x = test.bernoulli()
        assert model.losses(x).sum(0).mean() == pytest.approx(row["eval/loss"], rel=0.02)
    names = {"args.json", "metrics.csv", "model.pt", "drawing.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


@pytest.mark.usefixtures("no_picture")
def test_seed_binarization_clipping_and_learning_rate(tmp_path, monkeypatch):
    seen, evaluated, rates, norms = [], [], [], []
    losses, step = DRAW.losses, torch.optim.Adam.step

    def spy_losses(self, x):
        (seen if torch.is_grad_enabled() else evaluated).append(x)
        return losses(self, x) * (10 if len(seen) % 2 else 1)  # every other gradient has to be clipped

    def spy_step(self, *args):
        rates.append(self.param_groups[0]["lr"])
        norms.append(torch.stack([p.grad.norm() for p in self.param_groups[0]["params"]]).norm().item())
        return step(self, *args)

    monkeypatch.setattr(DRAW, "losses", spy_losses)
    monkeypatch.setattr(torch.optim.Adam, "step", spy_step)
    args = SMALL | {"epochs": 2, "batch_size": 750, "num_steps": 1}
    tests = []
    for name, binarize, seed in (("a", "dynamic", 1), ("b", "dynamic", 1), ("c", "static", 2)):
        seen.clear(), evaluated.clear()
        train(Args(**args, run_dir=tmp_path / name, binarize=binarize, seed=seed))
        assert set(torch.cat(seen).unique().tolist()) == {0, 1}
        first, second = (torch.cat(seen[i : i + 2]).flatten(1).sum(1).sort()[0] for i in (0, 2))
        assert torch.equal(first, second) == (binarize == "static")
        assert torch.equal(evaluated[0], evaluated[1])
        tests.append(evaluated[0])
    assert torch.equal(tests[0], tests[2])  # the same test pixels for every seed
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert rates[:4] == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3])
    assert max(norms) == pytest.approx(5, rel=1e-3) and min(norms) < 2
    log = rows(tmp_path / "a")
    assert [float(row["global_step"]) for row in log] == [1500, 3000]


def test_mnist_is_read_after_the_header(tmp_path):
    for name, n in zip(draw.MNIST_SHA256, (3, 2), strict=True):
        pixels = bytes(range(16)) + bytes(i % 256 for i in range(n * 784))
        (tmp_path / name).write_bytes(gzip.compress(pixels))
    images, test = load_images(Args(dataset="mnist", data_dir=tmp_path))
    assert images.shape == (3, 1, 28, 28) and len(test) == 2 and images[0, 0, 0, 5].item() == pytest.approx(5 / 255)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(bytes(16 + 784))[:-9], gzip.compress(bytes(100))],
    ids=["foreign", "truncated", "short"],
)
def test_damaged_data_are_named_in_one_line(tmp_path, content):
    for name in draw.MNIST_SHA256:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="train-images"):
        train(Args(dataset="mnist", data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [{"read_size": 1}, {"num_steps": 0}, {"learning_rate": math.inf}, {"binarize": "no"}])
def test_bad_flags_are_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
