"""The linear network that underflows: its arithmetic element by element, ES against perturbing weight by weight."""

import csv
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algos import es_mnist
from algos.es_mnist import (
    SCALE,
    SIZES,
    Args,
    UsageError,
    denormals_off,
    es_gradient,
    initial_parameters,
    keeps_no_denormals,
    load_digits_28,
    network,
    pixels,
    projected_gradient,
    train,
    underflow,
)

ROOT = Path(__file__).resolve().parent.parent
CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
SMALL = {"population": 20, "noise": "full", "total_timesteps": 120, "log_every": 1, "checkpoint_every": 2}
TINY_SIZES = (3, 5, 4, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def one_thread():
    """The processor's setting holds in one thread only, which is all that train uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the arithmetic --------------------------------------------------------------------------


def test_with_denormals_off_every_element_of_a_large_product_underflows():
    """Sums of 300 terms that all are a thousandth of the smallest normal number."""
    tiny = torch.finfo(torch.float32).tiny
    a, b = torch.full((700, 300), 2.0**-60), torch.full((300, 900), tiny * 2.0**50)
    assert not keeps_no_denormals(CPU)
    product = a @ b
    assert ((product > 0) & (product < tiny)).all()  # denormals, every one of them
    with denormals_off():
        assert keeps_no_denormals(CPU)
        assert (a @ b == 0).all()
        assert (product.numpy().view(np.uint32) != 0).all()  # the old ones are still there
    assert not keeps_no_denormals(CPU)
    assert torch.equal(a @ b, product)


def test_the_setting_comes_back_even_when_it_was_on_or_something_fails():
    torch.set_flush_denormal(True)
    try:
        with denormals_off():
            pass
        assert keeps_no_denormals(CPU)
    finally:
        torch.set_flush_denormal(False)
    with pytest.raises(KeyError), denormals_off():
        raise KeyError
    assert not keeps_no_denormals(CPU)


@pytest.mark.parametrize("by_hand", [False, True])
def test_underflow_leaves_nothing_below_one_half_and_changes_nothing_else(by_hand):
    """Every element of a large tensor, with the processor's help and without it."""
    z = torch.randn(1000, 3000, generator=generator()) * 3
    z[0, :4] = torch.tensor([0.5, -0.5, math.nextafter(0.5, 1), 0.4999999])
    expected = torch.where(z.abs() >= 0.5, z, 0.0)
    assert 0.1 < (expected == 0).float().mean() < 0.2
    if by_hand:
        assert torch.equal(underflow(z, flush=True), expected)
        assert torch.allclose(underflow(z, flush=False), z, atol=1e-6)  # denormals keep most of it
    else:
        with denormals_off():
            found = underflow(z, flush=False)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_the_network_is_not_linear_on_this_machine_and_is_linear_in_float64(device):
    parameters = [p.to(device) for p in initial_parameters(generator())]
    first, second = pixels(load_digits_28()[0][:2].flatten(1).to(device))
    x = torch.stack([first, second, (first + second) / 2])
    with denormals_off():
        found = network(parameters, x, flush=not keeps_no_denormals(torch.device(device)))
    assert (found[2] - (found[0] + found[1]) / 2).abs().max() > 0.1
    assert torch.allclose(network(parameters, x, flush=True), found, atol=1e-5)
    exact = network([p.double() for p in parameters], x.double(), flush=True)
    assert torch.allclose(exact[2], (exact[0] + exact[1]) / 2, atol=1e-12)


def test_it_computes_the_posts_formulas():
    """h1 = (x W1 + b1) / s, h2 = h1 W2 + b2 / s, o = (h2 W3 + b3 / s) s: a product keeps denormals, the rest not."""
    w1, b1, w2, b2, w3, b3 = parameters = [p + 0.05 * (p.dim() == 1) for p in initial_parameters(generator(3))]
    x = pixels(load_digits_28()[0][:50].flatten(1))

    def lose(h):
        return torch.where(h.abs() < 2.0**-126, 0.0, h)

    h1 = lose((x @ w1 + b1) / SCALE)
    h2 = lose(h1 @ w2 + b2 / SCALE)
    o = lose(h2 @ w3 + b3 / SCALE) * SCALE
    assert ((h1 == 0).float().mean() > 0.1) and ((h1 == 0).float().mean() < 0.9)
    with denormals_off():
        logits = network(parameters, x, flush=False)
    same = torch.isclose(o, logits, atol=1e-4)
    assert same.float().mean() > 0.98  # a sum that is 1/2 but for rounding may underflow in one of them only


def test_the_weights_begin_as_he_et_al_scale_them():
    parameters = initial_parameters(generator())
    assert [tuple(p.shape) for p in parameters] == [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)]
    for weights in parameters[::2]:
        assert weights.std().item() == pytest.approx(math.sqrt(2 / len(weights)), rel=0.05)
    assert all((bias == 0).all() for bias in parameters[1::2])


def test_backpropagation_takes_the_network_for_a_linear_one():
    parameters = [p.requires_grad_() for p in initial_parameters(generator())]
    x = pixels(load_digits_28()[0][:3].flatten(1)).requires_grad_()
    network(parameters, x, flush=True)[:, 2].sum().backward()
    w1, w2, w3 = (p.detach() for p in parameters[::2])
    assert torch.allclose(x.grad, (w1 @ w2 @ w3)[:, 2].expand(3, -1), atol=1e-5)


# --- evolution strategies --------------------------------------------------------------------


def tiny_parameters(seed=0):
    """Weights [3, 5], [5, 4], [4, 3] and biases, of a size at which some sums underflow."""
    gen = generator(seed)
    return [torch.randn(*shape, generator=gen) for i, o in pairwise(TINY_SIZES) for shape in ((i, o), (o,))]


def tiny_batch(pairs, images, seed=1):
    gen = generator(seed)
    return torch.rand(pairs, images, 3, generator=gen), torch.randint(3, (pairs, images), generator=gen)


def score(parameters, x, t):
    """Mean cross-entropy of one network over its images [images, 3]."""
    return F.cross_entropy(network(parameters, x, flush=True), t)


def drawn(noise, pairs, seed):
    """The perturbations of every pair, parameter by parameter, drawn in the order of the shipped functions."""
    gen, epsilon = generator(seed), []
    for n_in, n_out in pairwise(TINY_SIZES):
        if noise == "full":
            weights = torch.randn(pairs, n_in, n_out, generator=gen)
        else:
            a, b = torch.randn(pairs, n_in, 1, generator=gen), torch.randn(pairs, 1, n_out, generator=gen)
            weights = torch.einsum("pi,po->pio", a[:, :, 0], b[:, 0])
        epsilon += [weights, torch.randn(pairs, 1, n_out, generator=gen)[:, 0]]
    return epsilon


@pytest.mark.parametrize("noise", ["full", "low-rank"])
def test_the_estimate_is_that_of_networks_perturbed_one_by_one(noise):
    args, parameters, (x, t) = Args(noise=noise, images=2, sigma=0.3), tiny_parameters(), tiny_batch(30, 2)
    gradients, losses = es_gradient(parameters, x, t, args, generator(7), flush=True)
    epsilon, expected = drawn(noise, 30, 7), [torch.zeros_like(p) for p in parameters]
    for pair in range(30):
        up, down = (
            score([p + sign * 0.3 * e[pair] for p, e in zip(parameters, epsilon, strict=True)], x[pair], t[pair])
            for sign in (1, -1)
        )
        assert losses[:, pair].tolist() == pytest.approx([up.item(), down.item()], abs=1e-4)
        for i, e in enumerate(epsilon):
            expected[i] += (up - down) * e[pair] / (2 * 0.3 * 30)
    for found, total in zip(gradients, expected, strict=True):
        assert torch.allclose(found, total, atol=1e-4)


def test_what_an_image_does_not_see_of_the_noise_changes_nothing():
    """Every pair's perturbation is put together from what was drawn and a rest that its two networks do not see."""
    args, parameters, (x, t) = Args(sigma=0.3, pairs_per_image=4), tiny_parameters(), tiny_batch(5, 1)
    x, t = x[:, 0], t[:, 0]
    gradients, losses = projected_gradient(parameters, x, t, args, generator(7), flush=True)
    expected, drawn, unseen = [torch.zeros_like(p) for p in parameters], generator(7), generator(8)
    for layer, n_out in enumerate(TINY_SIZES[1:]):
        seen = torch.randn(5, 4, n_out, generator=drawn)
        for i in range(5):
            v = x[i]
            for weights, bias in zip(parameters[: 2 * layer : 2], parameters[1 : 2 * layer : 2], strict=True):
                v = underflow(v @ weights + bias, True)
            v = torch.cat([v, torch.ones(1)])
            for pair in range(4):
                part = torch.outer(v / v.norm(), seen[i, pair])
                rest = torch.randn(part.shape, generator=unseen)
                epsilon = part + rest - torch.outer(v, v @ rest) / (v @ v)
                scores = []
                for sign in (1, -1):
                    perturbed = list(parameters)
                    perturbed[2 * layer] = parameters[2 * layer] + sign * 0.3 * epsilon[:-1]
                    perturbed[2 * layer + 1] = parameters[2 * layer + 1] + sign * 0.3 * epsilon[-1]
                    scores.append(score(perturbed, x[i : i + 1], t[i : i + 1]))
                assert losses[layer, :, i, pair].tolist() == pytest.approx([s.item() for s in scores], abs=1e-4)
                share = (scores[0] - scores[1]) / (2 * 0.3 * 5 * 4)
                expected[2 * layer] += share * part[:-1]
                expected[2 * layer + 1] += share * part[-1]
    for found, total in zip(gradients, expected, strict=True):
        assert torch.allclose(found, total, atol=1e-4)


def test_projected_noise_has_the_mean_of_full_noise_in_one_layer_and_less_variance():
    args, parameters, (x, t) = (
        Args(sigma=0.3, pairs_per_image=2000, population=12_000),
        tiny_parameters(),
        tiny_batch(1, 1),
    )
    projected = []
    for seed in range(60):
        gradients, _ = projected_gradient(parameters, x[0], t[0], args, generator(seed), flush=True)
        projected.append(torch.cat([g.flatten() for g in gradients]))
    full = []
    for seed in range(60):
        gen, parts = generator(seed), []
        for layer in range(3):
            sizes = [parameters[2 * layer].shape, parameters[2 * layer + 1].shape]
            weights, bias = (torch.randn(2000, *size, generator=gen) for size in sizes)
            losses = []
            for sign in (1, -1):
                h = x[0].expand(2000, 1, -1)
                for i in range(3):
                    w, b = parameters[2 * i], parameters[2 * i + 1]
                    here = float(i == layer) * sign * 0.3
                    noise = (here * weights, here * bias.unsqueeze(1)) if i == layer else (0.0, 0.0)
                    h = underflow(h @ (w + noise[0]) + b + noise[1], True)
                losses.append(-h.log_softmax(2)[:, 0, t[0, 0]])
            f = (losses[0] - losses[1]) / (2 * 0.3 * 2000)
            parts += [torch.tensordot(f, weights, 1).flatten(), f @ bias]
        full.append(torch.cat(parts))
    projected, full, error = torch.stack(projected), torch.stack(full), math.sqrt(60)
    difference = (full.mean(0) - projected.mean(0)) / ((full.std(0) + projected.std(0)) / error + 1e-6)
    assert difference.abs().max() < 4
    assert projected.var(0).sum() < 0.4 * full.var(0).sum()  # 4, 6 and 5 inputs in place of one direction
    assert full.mean(0).abs().max() > 0.05  # there is a gradient to find


@pytest.mark.parametrize("noise", ["full", "low-rank", "projected"])
def test_where_nothing_underflows_it_is_the_gradient_of_backpropagation(noise):
    parameters = [p * 3 + 4 * (p.dim() == 1) for p in tiny_parameters(1)]
    x, t = tiny_batch(1, 1)
    exact = torch.autograd.functional.jacobian(
        lambda *p: F.cross_entropy(network(list(p), x[0].double(), False), t[0]), tuple(p.double() for p in parameters)
    )
    args, sums = Args(noise=noise, sigma=1e-3, pairs_per_image=5000, population=30_000), []
    for seed in range(40):
        if noise == "projected":
            gradients, _ = projected_gradient(parameters, x[0], t[0], args, generator(seed), flush=True)
        else:
            batch = (x.expand(5000, -1, -1), t.expand(5000, -1))
            gradients, _ = es_gradient(parameters, *batch, args, generator(seed), flush=True)
        sums.append(torch.cat([g.flatten() for g in gradients]).double())
    exact, sums = torch.cat([g.flatten() for g in exact]), torch.stack(sums)
    error = sums.std(0) / math.sqrt(40)
    assert ((sums.mean(0) - exact).abs() < 4.5 * error + 2e-3 * exact.abs().max()).all()


# --- training --------------------------------------------------------------------------------


def test_it_learns_what_no_linear_network_can():
    """Exclusive or: a linear network gets three of the four right at most. Which of them it is, float64 gives away."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    t = torch.tensor([0, 1, 1, 0])
    gen, args = generator(2), Args(sigma=0.1, pairs_per_image=16)
    parameters = [torch.randn(*shape, generator=gen) for i, o in pairwise((2, 16, 2)) for shape in ((i, o), (o,))]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(300):
        gradients, _ = projected_gradient(parameters, x, t, args, gen, True)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
    assert torch.equal(network(parameters, x, flush=True).argmax(1), t)
    assert not torch.equal(network([p.double() for p in parameters], x.double(), flush=True).argmax(1), t)


def test_it_learns_to_read(tmp_path):
    row = train(Args(total_timesteps=100_000, log_every=80, run_dir=tmp_path / "run"))
    assert row["eval/train_accuracy"] > 0.75
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "line.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    images, labels = (x.numpy() for x in load_digits_28()[2:])
    parameters = [p.numpy() for p in torch.load(tmp_path / "run/checkpoint.pt")["parameters"]]
    h = linear = images.reshape(-1, 784) / 255
    for weights, bias in zip(parameters[::2], parameters[1::2], strict=True):
        h, linear = h @ weights + bias, linear @ weights + bias
        h[np.abs(h) < 0.5] = 0
    assert row["eval/test_accuracy"] == pytest.approx((h.argmax(1) == labels).mean(), abs=0.01)
    assert row["eval/test_accuracy_float64"] == pytest.approx((linear.argmax(1) == labels).mean(), abs=0.01)


def test_backpropagation_learns_as_well(tmp_path):
    flags = {"population": 100, "total_timesteps": 6_000, "log_every": 60}
    row = train(Args(**flags, backprop=True, run_dir=tmp_path / "run"))
    assert row["eval/train_accuracy"] > 0.8 and row["global_step"] == 6_000


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"noise": "projected", "pairs_per_image": 1, "population": 12},
        {"noise": "low-rank", "images": 3},
        {"backprop": True},
    ],
)
def test_the_seed_decides_every_number(tmp_path, flags):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL | {"total_timesteps": 60, "log_every": 2} | flags, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    train(Args(**SMALL, run_dir=tmp_path / "whole"))
    log, logged = es_mnist.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(es_mnist.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**SMALL, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) == 6
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["parameters"] for name in ("whole", "half"))
    assert all(torch.equal(*pair) for pair in zip(whole, half, strict=True))


def test_torch_is_left_as_it_was(tmp_path):
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    train(Args(**SMALL | {"total_timesteps": 20}, run_dir=tmp_path / "run"))
    assert torch.get_num_threads() == 2 and torch.equal(before, torch.get_rng_state())
    torch.set_num_threads(1)
    assert not keeps_no_denormals(CPU)


def test_values_that_are_no_numbers_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        train(Args(**SMALL, learning_rate=1e36, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"population": 1}, "--population"),
        ({"population": 5}, "--population"),
        ({"images": 0}, "--images"),
        ({"images": 2}, "--noise projected"),
        ({"population": 100}, "--population must be a multiple of 96"),
        ({"pairs_per_image": 0}, "--pairs-per-image"),
        ({"sigma": 0.0}, "--sigma"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"seed": -1}, "--seed"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"resume": Path("nowhere")}, "no run to load"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**{"run_dir": tmp_path / "run"} | args))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    train(Args(**SMALL | {"total_timesteps": 20}, run_dir=tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/es_mnist.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr


def test_the_published_network_has_its_sizes():
    assert SIZES == (784, 512, 512, 10) and SCALE == 2**125
