"""InfoGAN: its losses against logarithms, its updates against the algorithm by hand, its codes as a classifier."""

import csv
import gzip
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from gen import infogan
from gen.infogan import Args, Discriminator, UsageError, code_nll, make_generator, sample_latents, train

SMALL = {"updates": 3, "batch_size": 8, "width": 2, "latent_dim": 5, "log_every": 2, "codes": 4}
CPU = torch.device("cpu")


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_latents_are_noise_a_one_hot_code_and_continuous_codes():
    z = sample_latents(5000, Args(**SMALL), CPU)
    noise, code, continuous = z.split([5, 4, 2], dim=1)
    assert (code.sum(1) == 1).all() and set(code.unique().tolist()) == {0, 1}
    assert torch.allclose(code.mean(0), torch.full((4,), 0.25), atol=0.04)
    for x in (noise, continuous):
        assert x.min() < -0.99 and x.max() > 0.99 and abs(x.mean().item()) < 0.03
        assert x.var().item() == pytest.approx(1 / 3, rel=0.05)


def test_code_nll_is_the_logarithm_of_a_softmax_and_of_a_gaussian():
    q, c = torch.randn(7, 6).double(), sample_latents(7, Args(**SMALL), CPU)[:, 5:].double()
    categorical, continuous = code_nll(q, c)
    picked = q[:, :4].softmax(1)[torch.arange(7), c[:, :4].argmax(1)]
    assert categorical.item() == pytest.approx(-picked.log().mean().item(), rel=1e-5)
    log_p = torch.distributions.Normal(q[:, 4:], 1.0).log_prob(c[:, 4:]).sum(1) + math.log(2 * math.pi)
    assert continuous.item() == pytest.approx(-log_p.mean().item(), rel=1e-5)


def algorithm(args):
    """What train() does, with nothing to make it fast: every gradient is computed, Adam is written out."""
    torch.manual_seed(args.seed)
    images = infogan.load_images(args)[0]
    g = make_generator(args.latent_dim + 6, args.width).apply(infogan.initialize)
    d = Discriminator(6, args.width).apply(infogan.initialize)
    moments = {id(p): [torch.zeros_like(p), torch.zeros_like(p)] for p in [*g.parameters(), *d.parameters()]}

    def logit_and_q(x):
        return d.logit(d.features(x)), d.q(d.features(x))

    def adam(parameters, loss, rate, t):
        for p, grad in zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            m, v = moments[id(p)]
            m.mul_(0.5).add_(0.5 * grad)
            v.mul_(0.999).add_(0.001 * grad**2)
            yield p, rate * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    for t in range(1, args.updates + 1):
        x = images[torch.randint(1500, (args.batch_size,))].float() / 127.5 - 1
        z = sample_latents(args.batch_size, args, CPU)
        fake, label, value = g(z), z[:, 5:9].argmax(1), z[:, 9:]
        on_fake, q = logit_and_q(fake.detach())
        told = F.cross_entropy(q[:, :4], label) + 0.5 * (q[:, 4:] - value).square().sum(1).mean()
        tells_apart = -(logit_and_q(x)[0].sigmoid().log() + (1 - on_fake.sigmoid()).log()).mean()
        shared = [*d.features.parameters(), *d.logit.parameters()]
        steps = [*adam(shared, tells_apart, args.learning_rate, t)]  # the features learn from D's loss alone
        steps += [*adam([*d.q.parameters()], told, args.learning_rate, t)]
        with torch.no_grad():
            for p, step in steps:
                p.sub_(step)
        on_fake, q = logit_and_q(fake)
        told = F.cross_entropy(q[:, :4], label) + 0.5 * (q[:, 4:] - value).square().sum(1).mean()
        steps = [*adam([*g.parameters()], told - on_fake.sigmoid().log().mean(), args.generator_learning_rate, t)]
        with torch.no_grad():
            for p, step in steps:
                p.sub_(step)
    return {"generator": g.state_dict(), "discriminator": d.state_dict()}


def test_the_updates_are_the_algorithm(tmp_path):
    args = Args(run_dir=tmp_path / "run", **SMALL | {"log_every": 3})
    row = train(args)
    found, expected = torch.load(tmp_path / "run/model.pt"), algorithm(args)
    for network, weights in expected.items():
        for name, tensor in weights.items():
            if network == "generator" or ("running" not in name and "tracked" not in name):  # nothing uses D's
                assert torch.allclose(found[network][name], tensor, atol=1e-4), (network, name)
    assert row["losses/information"] == pytest.approx(0, abs=0.3)  # nothing is told yet


def test_the_code_error_is_that_of_the_majority_digit_of_each_code():
    class Stub(torch.nn.Module):
        features, q = nn.Identity(), lambda _, x: F.one_hot(((x[:, 0, 0, 0] + 1) * 127.5).round().long(), 4)

    def images(guesses):
        return torch.tensor(guesses, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 28, 28)

    labels = torch.tensor([7, 7, 3, 3, 5, 5, 7], dtype=torch.uint8)  # code 0 is 7, code 1 is 3, code 2 is 5
    data = [images([0, 0, 1, 1, 2, 2, 1]), labels, images([0, 0, 1, 2, 2]), torch.tensor([7, 3, 3, 5, 7]).byte()]
    assert infogan.code_error(Stub(), data, 4) == pytest.approx(2 / 5)
    labels[:2] = 1  # only the training labels say which digit a code stands for
    assert infogan.code_error(Stub(), data, 4) == pytest.approx(3 / 5)


def test_real_images_are_scored_with_their_own_statistics():
    torch.manual_seed(0)
    d, real, labels = Discriminator(6, 2).apply(infogan.initialize), torch.rand(90, 1, 28, 28), torch.arange(90) % 4
    data = [(255 * real).byte(), labels, (255 * real[:30]).byte(), labels[:30]]
    before = infogan.code_error(d, data, 4)
    for _ in range(50):
        d.q(d.features(torch.randn(9, 1, 28, 28) * 9))
    assert infogan.code_error(d, data, 4) == before and d.training  # none of generated images


def test_mnist_is_read_with_its_labels_and_a_damaged_file_is_named(tmp_path):
    rng, expected = np.random.default_rng(0), []
    for name in infogan.MNIST_SHA256:
        header, shape = (16, (1, 28, 28)) if "images" in name else (8, ())
        expected.append(rng.integers(10, size=(9, *shape), dtype=np.uint8))
        (tmp_path / name).write_bytes(gzip.compress(bytes(header) + expected[-1].tobytes()))
    args = Args(dataset="mnist", data_dir=tmp_path, run_dir=tmp_path / "none")
    for found, array in zip(infogan.load_images(args), expected, strict=True):
        assert np.array_equal(found.numpy(), array)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UsageError, match=r"--data-dir.*t10k-labels"):
        train(args)
    assert not (tmp_path / "none").exists()


def test_codes_are_told_by_images_and_pictures_vary_one_code(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", updates=80, width=8, log_every=40))
    assert row["losses/information"] > 0.7  # of 2.30
    left = {"args.json", "metrics.csv", "model.pt", "codes.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == left
    rows = np.asarray(Image.open(tmp_path / "run/codes.png")).reshape(12, 60, 10, 60).astype(float)
    codes, sweep = rows[:10], rows[10:]
    assert codes.std(0).mean() > 1 and codes.std(2).mean() > 1  # over noise, and over codes
    assert 0 < np.abs(np.diff(sweep, axis=2)).mean() < np.abs(np.diff(codes, axis=2)).mean()  # in small steps


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, **SMALL, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize("flags", [{"codes": 1}, {"updates": 0}, {"batch_size": 1}])
def test_what_cannot_work_is_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
