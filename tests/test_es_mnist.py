import csv
import gzip
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from algos import es_mnist
from algos.es_mnist import SCALE, Args, estimate_gradient, initial_parameters, load_data, network, train, underflow

# --- the network that is linear on paper -----------------------------------------------------


def test_underflow_is_what_a_processor_makes_of_it_that_flushes_denormals():
    z = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)) * 3
    z[0, :4] = torch.tensor([0.5, -0.5, 0.50000006, 0.4999999])
    assert torch.equal(underflow(z), torch.where(z.abs() >= 0.5, z, 0.0))
    assert torch.equal(underflow(z.double()), z.double())
    assert not torch.equal(z / SCALE * SCALE, underflow(z))  # without the setting
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(z / SCALE * SCALE, underflow(z))
    finally:
        torch.set_flush_denormal(False)


def test_it_computes_the_posts_formulas():
    """h1 = (x W1 + b1) / s, h2 = h1 W2 + b2 / s, o = (h2 W3 + b3 / s) s; products keep denormals."""
    torch.manual_seed(3)
    w1, b1, w2, b2, w3, b3 = parameters = [p + 0.05 * (p.dim() == 1) for p in initial_parameters(64)]
    x = load_data(Args())[0][:50]
    lose = lambda h: torch.where(h.abs() < 2.0**-126, 0.0, h)  # noqa: E731
    h1 = lose((x @ w1 + b1) / SCALE)
    h2 = lose(h1 @ w2 + b2 / SCALE)
    o = lose(h2 @ w3 + b3 / SCALE) * SCALE
    assert 0.1 < (h1 == 0).float().mean() < 0.9
    same = torch.isclose(o, network(parameters, x), atol=1e-4)
    assert same.float().mean() > 0.98  # a sum that is 1/2 but for rounding may underflow in one of them only


def test_it_is_not_linear_in_float32_and_linear_in_float64():
    torch.manual_seed(0)
    parameters, x = initial_parameters(64), load_data(Args())[0][:2]
    x = torch.cat([x, x.mean(dim=0, keepdim=True)])
    for p, bent in ((parameters, True), ([p.double() for p in parameters], False)):
        y = network(p, x.to(p[0].dtype))
        assert ((y[2] - (y[0] + y[1]) / 2).abs().max() > 0.1) == bent


def test_initial_weights_are_he_et_als():
    parameters = initial_parameters()
    assert [tuple(p.shape) for p in parameters] == [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)]
    for weights in parameters[::2]:
        assert weights.std().item() == pytest.approx((2 / len(weights)) ** 0.5, rel=0.05)
    assert SCALE == 2**125
    assert not any(bias.any() for bias in parameters[1::2])


# --- the estimate ----------------------------------------------------------------------------


def small_network() -> list[torch.Tensor]:
    """Layers 3-5-4-3, of a size at which some sums underflow."""
    torch.manual_seed(0)
    return [torch.randn(shape) for n_in, n_out in pairwise((3, 5, 4, 3)) for shape in ((n_in, n_out), (n_out,))]


def test_the_estimate_is_that_of_networks_perturbed_one_by_one():
    parameters, pairs = small_network(), 20
    x, labels = torch.rand(pairs, 2, 3), torch.randint(3, (pairs, 2))
    torch.manual_seed(7)
    gradients, losses = estimate_gradient(parameters, x, labels, 0.3)
    torch.manual_seed(7)
    epsilon = []
    for n_in, n_out in pairwise((3, 5, 4, 3)):
        a, b, c = (torch.randn(pairs, n) for n in (n_in, n_out, n_out))
        epsilon += [torch.einsum("pi,po->pio", a, b), c]
    expected = [torch.zeros_like(p) for p in parameters]
    for i in range(pairs):
        up, down = (
            F.cross_entropy(
                network([p + sign * 0.3 * e[i] for p, e in zip(parameters, epsilon, strict=True)], x[i]), labels[i]
            )
            for sign in (1, -1)
        )
        assert losses[:, i].tolist() == pytest.approx([up.item(), down.item()], abs=1e-4)
        expected = [total + (up - down) * e[i] / (2 * 0.3 * pairs) for total, e in zip(expected, epsilon, strict=True)]
    for found, total in zip(gradients, expected, strict=True):
        assert torch.allclose(found, total, atol=1e-4)


def test_where_nothing_underflows_it_is_the_gradient_of_backpropagation():
    parameters = [torch.full_like(p, 3) if p.dim() == 1 else 0.1 * p for p in small_network()]
    x, label = torch.rand(3, generator=torch.Generator().manual_seed(1)), torch.tensor([2])
    exact = torch.autograd.functional.jacobian(
        lambda *p: F.cross_entropy(network(list(p), x[None].double()), label), tuple(p.double() for p in parameters)
    )
    exact, found = torch.cat([g.flatten() for g in exact]), []
    for _ in range(40):
        batch = x.expand(3000, 1, 3), label.expand(3000, 1)
        gradients, _ = estimate_gradient(parameters, *batch, sigma=1e-3)
        found.append(torch.cat([g.flatten() for g in gradients]).double())
    found = torch.stack(found)
    error = found.std(dim=0) / 40**0.5
    assert ((found.mean(dim=0) - exact).abs() < 4.5 * error + 2e-3 * exact.abs().max()).all()
    assert error.max() < 0.1 * exact.abs().max()


# --- training --------------------------------------------------------------------------------


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


SMALL = {"population": 40, "images": 50, "total_timesteps": 4_000}


def test_it_learns_what_no_linear_network_can():
    """Exclusive or: a linear network gets three of the four right at most, which float64 confirms."""
    x, t = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 1, 0])
    torch.manual_seed(2)
    parameters = [torch.randn(*shape) for i, o in pairwise((2, 16, 2)) for shape in ((i, o), (o,))]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(300):
        gradients, _ = estimate_gradient(parameters, x.expand(100, 4, 2), t.expand(100, 4), sigma=0.1)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
    assert torch.equal(network(parameters, x).argmax(1), t)
    assert not torch.equal(network([p.double() for p in parameters], x.double()).argmax(1), t)


def test_the_folder_holds_what_the_row_says(tmp_path):
    row = train(Args(seed=3, population=100, images=10, total_timesteps=25_000, run_dir=tmp_path / "run"))
    assert row["global_step"] == 25_000 and len(rows(tmp_path / "run")) == 25
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "curve.png", "model.pt"}
    images, labels = (x.numpy() for x in load_data(Args())[2:])
    assert len(images) == len(labels) == 297  # the other 1,500 are trained on
    parameters = [p.numpy() for p in torch.load(tmp_path / "run/model.pt", weights_only=True)["parameters"]]
    h = linear = images
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        h, linear = h @ weights + bias, linear @ weights + bias
        h[np.abs(h) < 0.5] = 0
    assert row["eval/test_accuracy"] == pytest.approx((h.argmax(1) == labels).mean(), abs=0.007)
    assert row["eval/test_accuracy_float64"] == pytest.approx((linear.argmax(1) == labels).mean(), abs=0.007)


def test_an_update_is_adam_with_decoupled_decay_and_a_linearly_annealed_learning_rate(tmp_path, monkeypatch):
    seen = []

    def ones(parameters, x, labels, sigma):
        seen.append(parameters[0][0, 0].item())
        return [torch.ones_like(p) for p in parameters], torch.ones(2, 20)

    monkeypatch.setattr(es_mnist, "estimate_gradient", ones)
    flags = {"learning_rate": 0.01, "weight_decay": 5.0}
    train(Args(**SMALL | flags | {"total_timesteps": 8_000}, run_dir=tmp_path / "run"))
    seen.append(torch.load(tmp_path / "run/model.pt")["parameters"][0][0, 0].item())
    for update, (before, after) in enumerate(pairwise(seen)):  # Adam divides a constant gradient by itself
        assert after == pytest.approx(before - 0.01 * (1 - update / 4) * (1 + 5.0 * before), abs=1e-6)
    assert len(seen) == 5


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_mnist_is_read_as_it_is_written(tmp_path):
    rng = np.random.default_rng(0)
    pixels, digits = rng.integers(256, size=(5, 784), dtype=np.uint8), np.arange(5, dtype=np.uint8)
    for name in es_mnist.MNIST_SHA256:
        content = bytes(16) + pixels.tobytes() if "images" in name else bytes(8) + digits.tobytes()
        (tmp_path / name).write_bytes(gzip.compress(content))
    images, labels, _, test_labels = load_data(Args(dataset="mnist", data_dir=tmp_path))
    assert torch.equal((images * 255).round().byte(), torch.from_numpy(pixels))
    assert labels.tolist() == test_labels.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(ValueError, match=r"--data-dir: cannot read .*t10k-labels"):
        train(Args(dataset="mnist", data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, learning_rate=1e36, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args",
    [{"population": 5}, {"images": 0}, {"sigma": 0.0}, {"weight_decay": -0.1}],
)
def test_what_cannot_work_is_refused(args):
    with pytest.raises(ValueError, match=next(iter(args))):
        Args(**args)
