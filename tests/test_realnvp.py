"""NICE and RealNVP: Jacobians by autograd, probabilities by quadrature, entropies that are known, inversion."""

import csv
import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributions as D

from gen import realnvp
from gen.realnvp import Args, Coupling, Flow, Order, UsageError, evaluate, negative_log_density, train

CLOCKS = {"charts/SPS", "time/elapsed"}
pytestmark = pytest.mark.usefixtures("no_figures")
PLANE = {
    "dataset": "moons",
    "couplings": 4,
    "hidden": (16,),
    "torch_threads": 1,
    "train_images": 2000,
    "eval_images": 500,
}
DENSE = {"dataset": "digits", "couplings": 4, "hidden": (12,), "batch_size": 100, "eval_images": 50, "torch_threads": 1}
CONV = {
    "dataset": "photos",
    "network": "conv",
    "image_size": 8,
    "channels": 3,
    "blocks": 1,
    "batch_size": 10,
    "train_images": 100,
}
CONV |= {"eval_images": 20, "torch_threads": 1}
DIGITS = realnvp.load_digits_28()[0].unsqueeze(1)


@pytest.fixture
def no_figures(monkeypatch, request):
    """Matplotlib takes longer than the trainings of these tests: one of them looks at its figures."""
    if "leaves_its_pictures" in request.node.name:
        return
    for name in ("draw_plane", "draw_samples", "draw_interpolations"):
        monkeypatch.setattr(realnvp, name, lambda *_: None)
    monkeypatch.setattr(realnvp.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


def in_two_processes(work):
    """Let two processes, as torchrun would start them, do work(rank)."""
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
                work(rank)
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]


def randomized(module, seed=0, scale=0.3):
    """Random parameters, as after training: at first dense couplings are the identity. Running averages, too."""
    rng = generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = scale * torch.randn(parameter.shape, generator=rng)
            parameter.copy_(noise.abs() + 0.5 if "norm" in name or "original0" in name else noise)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                noise = torch.rand(buffer.shape, generator=rng)
                buffer.copy_(noise + 0.5 if "var" in name else noise)
    return module.double().eval()


def make(shape, seed=0, scale=0.3, **flags):
    return randomized(Flow(shape, Args(**flags)), seed, scale)


def dense_log_det(function, x):
    """log |det| of the Jacobian of one picture or point, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x.unsqueeze(0))[0].flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel()))[1]


def check(layer, x, bound=1e-9):
    """Exact log-determinants, and an inverse that is one."""
    y, log_det = layer(x)
    assert log_det.shape == (len(x),)
    expected = torch.stack([dense_log_det(lambda x: layer(x)[0], one) for one in x])
    assert torch.allclose(log_det, expected, atol=bound)
    assert torch.allclose(layer.inverse(y), x, atol=bound)
    return log_det


# --- layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("flipped", [True, False])
@pytest.mark.parametrize("halves", ["alternate", "channels", "checkerboard"])
def test_a_coupling_changes_one_half_by_the_other_and_its_log_determinant_is_exact(halves, flipped, affine):
    if halves == "alternate":
        x, network, shape = torch.randn(3, 8, generator=generator()), realnvp.mlp(4, (6,), 4 * (1 + affine)), (4,)
    else:
        num = 2 if halves == "channels" else 4
        x, shape = torch.randn(3, 4, 2, 4, generator=generator()), (num, 1, 1)
        network = realnvp.ResNet(num, 5, 1, num * (1 + affine), 1.0)
    layer = Coupling(halves, flipped, affine, network, shape)
    y, log_det = layer.eval()(x)
    if halves == "alternate":
        assert torch.equal(y, x) and not log_det.any(), "it begins as the identity"
    layer, x = randomized(layer), x.double()
    log_det = check(layer, x)
    assert (log_det.abs() > 1e-3).all() if affine else (log_det == 0).all()
    stays = (layer(x)[0] == x).all(0)
    expected = torch.zeros_like(x[0], dtype=torch.bool)
    if halves == "alternate":
        expected[int(flipped) :: 2] = True
    elif halves == "channels":
        expected[2 * flipped : 2 * flipped + 2] = True
    else:
        for row in range(2):
            for column in range(4):
                expected[:, row, column] = (row + column) % 2 != flipped
    assert torch.equal(stays, expected)
    swapped = x.clone()
    swapped[:, ~expected] += 1  # the network sees nothing of what is changed
    assert torch.allclose(layer(swapped)[1], log_det, atol=1e-12)


def test_the_logit_squeezing_and_scaling_are_exact():
    x = torch.rand(3, 2, 4, 4, generator=generator(), dtype=torch.float64)
    check(realnvp.Logit(0.05), x)
    p = 0.05 + 0.9 * x
    assert torch.allclose(realnvp.Logit(0.05)(x)[0], p.logit())
    assert torch.isfinite(realnvp.Logit(0.05)(torch.tensor([[0.0, 1.0]]))[0]).all()
    assert (check(realnvp.Squeeze(), x) == 0).all()
    squeezed = realnvp.Squeeze()(x)[0]
    assert squeezed[0, :4, 0, 1].tolist() == x[0, 0, :2, 2:].flatten().tolist()  # a square of 2x2 pixels
    check(randomized(realnvp.Scaling(6)), torch.randn(3, 6, generator=generator()).double())
    factor = realnvp.FactorOut()
    goes_on, done = factor.split(squeezed)
    assert torch.equal(factor.join(goes_on, done), squeezed)
    assert set(goes_on[0].flatten().tolist()) == set(x[0, :, 0::2, 0::2].flatten().tolist()) | set(
        x[0, :, 1::2, 1::2].flatten().tolist()
    )


@pytest.mark.parametrize(
    "shape, flags",
    [
        ((2,), {"dataset": "moons", "hidden": (5,), "couplings": 3}),
        ((1, 2, 4), {"dataset": "digits", "hidden": (5,)}),
        ((1, 2, 4), {"dataset": "digits", "hidden": (5, 4), "coupling": "additive"}),
        ((1, 4, 4), {"network": "conv", "dataset": "digits", "channels": 3, "blocks": 1}),
        ((3, 4, 4), {"dataset": "cifar10", "channels": 3, "blocks": 2, "scales": 3}),
        ((2, 4, 6), {"dataset": "cifar10", "channels": 3, "blocks": 1, "coupling": "additive"}),
        ((3, 3, 3), {"dataset": "cifar10", "channels": 3, "blocks": 1, "scales": 1, "logit": False}),
    ],
)
def test_the_log_determinant_of_the_whole_flow_is_that_of_its_jacobian(shape, flags):
    model = make(shape, **flags)
    x = torch.rand(2, *shape, generator=generator(), dtype=torch.float64)
    z, log_det = model(x)
    assert z.shape == (2, math.prod(shape))
    assert (check(model, x, 1e-6) != 0).all()
    prior = D.Normal(0.0, 1.0)
    if model.prior == "logistic":
        sigmoid = [D.transforms.SigmoidTransform().inv]
        prior = D.TransformedDistribution(D.Uniform(0.0, 1.0, validate_args=False), sigmoid, validate_args=False)
    log_p = prior.log_prob(z).sum(1)
    assert torch.allclose(negative_log_density(model, x), -(log_p + log_det), atol=1e-6)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_without_scaling_additive_couplings_preserve_volume_exactly(network):
    flags = {"network": network, "coupling": "additive", "hidden": (5,), "channels": 3, "blocks": 1}
    model = make((2, 4, 4), dataset="digits", scaling=False, **flags)
    x = torch.rand(4, 2, 4, 4, generator=generator()).double()
    assert (model(x)[1] == 0.0).all() and not torch.allclose(model(x)[0], x.flatten(1), atol=0.1)
    assert torch.allclose(dense_log_det(lambda x: model(x)[0], x[0]), torch.zeros(()).double(), atol=1e-6)


def test_additive_couplings_begin_with_latents_as_wide_as_the_prior():
    for flags in (DENSE, CONV):
        args = Args(**flags | {"coupling": "additive", "train_images": 500})
        pictures = realnvp.load_data(args, torch.device("cpu"))[0]
        model = realnvp.make_model(args, pictures, torch.device("cpu"))
        with torch.no_grad():
            z = model(realnvp.dequantize(pictures, generator()))[0]
        assert torch.allclose(z.std(0), torch.full((model.size,), math.pi / 3**0.5), rtol=0.1)
        assert len(model.scaling.log_scale.unique()) > 0.9 * model.size


def test_codes_are_drawn_from_the_prior():
    for prior, distribution in (("gaussian", "norm"), ("logistic", "logistic")):
        from scipy import stats

        model = Flow((2,), Args(prior=prior, couplings=1, hidden=()))
        z = model.draw_codes(20_000, generator()).flatten().numpy()
        assert stats.kstest(z, distribution).pvalue > 0.01
        assert np.isfinite(z).all()


# --- densities in the plane ------------------------------------------------------------------


def test_every_source_is_the_density_that_its_points_have():
    """A sum over a grid gives 1; points drawn give the entropy by quadrature; eight far Gaussians give a known one."""
    side = torch.arange(-5, 5, 0.1).double()
    for dataset, noise in realnvp.NOISE_OF.items():
        log_p = realnvp.source_log_density(dataset, torch.cartesian_prod(side, side))
        assert log_p.exp().sum().item() * 0.1**2 == pytest.approx(1, abs=1e-6)
        x = realnvp.draw_points(dataset, 4000, generator())
        sampled = -realnvp.source_log_density(dataset, x)
        entropy = realnvp.source_entropy(dataset)
        assert sampled.mean().item() == pytest.approx(entropy, abs=4 * sampled.std().item() / 4000**0.5)
        if dataset == "gaussians":
            assert entropy == pytest.approx(math.log(8) + math.log(2 * math.pi * math.e * noise**2), abs=0.01)
        means = realnvp.centres(dataset)
        mixture = D.MixtureSameFamily(
            D.Categorical(torch.ones(len(means))), D.Independent(D.Normal(means, torch.full_like(means, noise)), 1)
        )
        assert torch.allclose(mixture.log_prob(x[:500]), realnvp.source_log_density(dataset, x[:500]), atol=1e-3)


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_the_probability_of_the_plane_is_1(coupling):
    model = make((2,), coupling=coupling, couplings=5, hidden=(8,), scale=0.5)
    side = torch.arange(-30, 30, 0.05).double()
    with torch.no_grad():
        total = sum(
            (-negative_log_density(model, part)).exp().sum() for part in torch.cartesian_prod(side, side).split(200_000)
        )
    assert total.item() * 0.05**2 == pytest.approx(1, abs=2e-3)


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    """A real training: (last row, its folder)."""
    folder = tmp_path_factory.mktemp("moons") / "run"
    flags = {"couplings": 8, "hidden": (32, 32), "learning_rate": 5e-3, "batch_size": 400, "torch_threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realnvp, "draw_plane", lambda *_: None)
        patch.setattr(realnvp.Run, "plot", lambda *_: None)
        return train(Args(**flags, epochs=4.8, log_every=300, run_dir=folder)), folder


def test_it_learns_the_density_of_two_moons_to_within_a_twentieth_of_a_nat(moons):
    row, folder = moons
    assert 0 < row["eval/above_source"] < 0.05
    assert row["eval/nll"] == pytest.approx(realnvp.source_entropy("moons"), abs=0.1)  # of 10,000 points
    args, checkpoint = realnvp.load_run(folder, "--evaluate", Args)
    model = realnvp.make_model(args, torch.zeros(1, 2), torch.device("cpu"))
    model.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        side = torch.arange(-4, 4, 0.04)
        total = (-negative_log_density(model, torch.cartesian_prod(side, side))).exp().sum().item() * 0.04**2
        assert total == pytest.approx(1, abs=0.01)
        samples = model.inverse(model.draw_codes(4000, generator()))
    found = -realnvp.source_log_density("moons", samples).mean().item()  # samples lie where the source is dense
    assert found == pytest.approx(realnvp.source_entropy("moons"), abs=0.25)


def test_evaluate_repeats_the_likelihood_of_the_last_row(moons, capsys):
    row, folder = moons
    assert evaluate(folder) == -row["eval/log_likelihood"]
    assert f"{row['eval/above_source']:.4f} more than their source" in capsys.readouterr().out


def test_without_its_log_determinant_an_affine_flow_maps_everything_to_one_point(monkeypatch, tmp_path):
    """The density of the codes alone is greatest where all are 0; volume-preserving couplings cannot get there."""
    spread = {}
    for coupling in ("affine", "additive"):
        flags = PLANE | {
            "coupling": coupling,
            "scaling": coupling == "affine",
            "prior": "gaussian",
            "train_images": 25_000,
        }
        args = Args(**flags, learning_rate=2e-2, epochs=1.0)
        model = realnvp.make_model(args, torch.zeros(1, 2), torch.device("cpu"))
        x = realnvp.draw_points("moons", 2000, generator())
        with monkeypatch.context() as patch:
            patch.setattr(realnvp, "negative_log_density", lambda model, x: -model.log_prior(model(x)[0]))
            patch.setattr(realnvp, "make_model", lambda *_, model=model: model)
            train(realnvp.replace(args, run_dir=tmp_path / coupling))
        spread[coupling] = model(x)[0].std(0).prod().item()
    assert spread["affine"] < 0.05 * x.std(0).prod().item()
    assert spread["additive"] > 0.3 * x.std(0).prod().item()


# --- pictures --------------------------------------------------------------------------------


def test_units_are_what_the_docstring_says():
    assert realnvp.bits_per_dim(-1980.50, 784) == pytest.approx(4.36, abs=0.005)
    assert realnvp.picture_nats(0.0, 3072) == pytest.approx(3072 * 8 * math.log(2))
    assert 3.49 * 3072 * math.log(2) == pytest.approx(7431, abs=1)
    uniform = torch.full((1, 1, 2, 2), 0.3)
    model = Flow((1, 2, 2), Args(dataset="digits", hidden=(3,), logit=False))
    assert negative_log_density(model, uniform).item() == pytest.approx(-D.Normal(0, 1).log_prob(torch.tensor(0.3)) * 4)


def test_dequantized_pixels_lie_evenly_within_their_256th():
    pixels = torch.tensor([0, 7, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(20_000, 3, 1, 1)
    x = realnvp.dequantize(pixels, generator())
    offset = x * 256 - pixels
    assert offset.min() >= 0 and x.max() <= 1 and offset.max() <= 1
    assert torch.allclose(offset.mean((0, 2, 3)), torch.full((3,), 0.5), atol=0.02)
    assert torch.allclose(offset.var((0, 2, 3)), torch.full((3,), 1 / 12), atol=0.005)
    inside = x[offset.flatten(1).max(1).values < 0.99]
    assert torch.equal(realnvp.quantize(inside), pixels[: len(inside)])
    assert realnvp.quantize(torch.tensor([-0.1, 1.0, 7.0])).tolist() == [0, 255, 255]
    points = torch.randn(5, 2)
    assert realnvp.dequantize(points, generator()) is points
    picture = torch.arange(2, dtype=torch.uint8).view(1, 1, 1, 2).expand(400, 1, 1, 2) * 200
    mirrored = realnvp.dequantize(picture, generator(), flip=True)[:, 0, 0, 0] > 0.5
    assert 140 < mirrored.sum() < 260


@pytest.mark.parametrize("flags", [DENSE, DENSE | {"coupling": "additive"}, CONV, CONV | {"coupling": "additive"}])
def test_a_trained_flow_gives_pictures_back_in_float32(flags, tmp_path):
    row = train(Args(**flags | {"learning_rate": 3e-3, "epochs": 1.0, "run_dir": tmp_path / "run"}))
    assert row["eval/inversion_error"] < 1e-4
    args, checkpoint = realnvp.load_run(tmp_path / "run", "--resume", Args)
    data, _, pictures, _ = realnvp.load_data(args, torch.device("cpu"))
    model, pictures = realnvp.make_model(args, data, torch.device("cpu")).eval(), pictures[:30]
    model.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        z = realnvp.codes(model, pictures)
        x = model.inverse(z)
    assert (x - (pictures + 0.5) / 256).abs().max() < 1e-4
    assert torch.equal(realnvp.quantize(x), pictures)


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    """Independent Gaussian pixels, each of its own width, are far behind."""
    flags = {"dataset": "digits", "coupling": "additive", "hidden": (128, 128), "batch_size": 100, "torch_threads": 1}
    row = train(Args(**flags, learning_rate=2e-3, epochs=7.0, save_samples=30, run_dir=tmp_path / "run"))
    pictures = realnvp.load_digits_28()[0].unsqueeze(1)
    x = realnvp.dequantize(pictures, generator()).flatten(1).double()
    independent = -D.Normal(x.mean(0), x.std(0)).log_prob(x).sum(1).mean().item()
    assert row["eval/log_likelihood"] > -independent + 200
    assert row["eval/bits_per_dim"] == pytest.approx(realnvp.bits_per_dim(-row["eval/log_likelihood"], 784))
    assert row["eval/nll"] == pytest.approx(row["eval/bits_per_dim"] * 784 * math.log(2))
    names = {"args.json", "metrics.csv", "checkpoint.pt", "samples.npz"}
    names |= {"samples.png", "interpolations.png", "curve.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert Image.open(tmp_path / "run/interpolations.png").size == (10 * 58, 8 * 58)
    ends = np.asarray(Image.open(tmp_path / "run/interpolations.png")).reshape(8, 58, 10, 58)[:, :56:2, [0, 9], :56:2]
    known = realnvp.load_digits_28()[2][:16].view(8, 2, 28, 28).numpy()
    assert np.abs(ends.transpose(0, 2, 1, 3).astype(int) - known).max() <= 1
    saved = np.load(tmp_path / "run/samples.npz")
    assert saved["samples"].shape == (30, 1, 28, 28) and saved["samples"].dtype == np.uint8 and saved["seconds"] > 0
    assert len(np.unique(saved["samples"].reshape(30, -1), axis=0)) == 30
    assert saved["train_codes"].shape == (1500, 784) and saved["test_codes"].shape == (297, 784)
    assert saved["test_labels"].tolist() == realnvp.load_digits_28()[3].tolist()
    args, checkpoint = realnvp.load_run(tmp_path / "run", "--resume", Args)
    model = realnvp.make_model(args, DIGITS, torch.device("cpu")).eval()
    model.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        assert torch.equal(realnvp.quantize(model.inverse(torch.from_numpy(saved["train_codes"][:9]))), pictures[:9])


def test_the_density_of_a_run_in_the_plane_leaves_its_pictures(tmp_path):
    train(Args(**PLANE, epochs=0.5, run_dir=tmp_path / "run"))
    names = {"args.json", "metrics.csv", "checkpoint.pt", "density.png", "curve.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


# --- training --------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [DENSE | {"epochs": 0.2}, CONV | {"epochs": 0.3, "flip": True}])
def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path, flags):
    """Two processes, as torchrun starts them, write the rows that one writes, batch normalization included."""
    flags = flags | {"log_every": 1}
    train(Args(**flags, run_dir=tmp_path / "one"))
    in_two_processes(lambda _: train(Args(**flags, run_dir=tmp_path / "two")))
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"eval/inversion_error"}:
            # Adam makes steps even of rounding errors, the only gradient of a bias before a batch normalization:
            # no batch feels them, but running averages do.
            bound = (0.02 if key.startswith("eval") else 1e-3) if "network" in flags else 1e-4
            assert not a[key] or float(a[key]) == pytest.approx(float(b[key]), rel=bound), key


def test_batch_normalization_over_two_processes_is_that_over_one(tmp_path):
    """Outputs, running averages and gradients, from shares of different sizes."""
    x, weight = (torch.randn(5, 3, 4, 4, generator=generator(seed)) for seed in (0, 1))

    def gradients(share):
        norm, part = randomized(realnvp.BatchNorm(3)).float().train(), x[share].clone().requires_grad_()
        y = norm(part)
        (y * weight[share]).sum().backward()
        return [y.detach(), part.grad, norm.running_mean, norm.running_var], [norm.weight.grad, norm.bias.grad]

    shares = slice(0, 3), slice(3, 5)

    def work(rank):
        with realnvp.device_settings(Args(cuda=False)):
            torch.save(gradients(shares[rank]), tmp_path / f"{rank}.pt")

    in_two_processes(work)
    whole, summed = gradients(slice(None))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for share, (parts, _) in zip(shares, found, strict=True):
        for part, one in zip(parts, [tensor[share] for tensor in whole[:2]] + whole[2:], strict=True):
            assert torch.allclose(part, one, atol=1e-5)
    for a, b, one in zip(found[0][1], found[1][1], summed, strict=True):
        assert torch.allclose(a + b, one, atol=1e-5)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**PLANE, epochs=0.6, log_every=2, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 3


@pytest.mark.parametrize("flags", [PLANE, CONV | {"flip": True}], ids=["plane", "conv"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, flags):
    flags = flags | {"epochs": 0.5, "log_every": 1, "checkpoint_every": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = realnvp.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) in (4, 5)
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "half"))


def test_a_checkpoint_of_another_size_or_a_damaged_one_is_refused(tmp_path):
    train(Args(**PLANE, epochs=0.2, run_dir=tmp_path / "run"))
    arguments = (tmp_path / "run/args.json").read_text()
    (tmp_path / "run/args.json").write_text(arguments.replace('"couplings": 4', '"couplings": 6'))
    for call in (lambda: evaluate(tmp_path / "run"), lambda: train(Args(resume=tmp_path / "run"))):
        with pytest.raises(UsageError, match="does not fit"):
            call()
    (tmp_path / "run/args.json").write_text(arguments)
    whole = (tmp_path / "run/checkpoint.pt").read_bytes()
    (tmp_path / "run/checkpoint.pt").write_bytes(whole[:100])
    with pytest.raises(UsageError, match="damaged"):
        evaluate(tmp_path / "run")


def test_every_update_takes_a_full_batch_and_every_epoch_each_picture_once():
    order = Order(10, 4, 3, torch.device("cpu"))
    taken = torch.cat([order.batch(step) for step in range(10)]).view(4, 10)
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in taken)
    assert len({tuple(epoch.tolist()) for epoch in taken}) == 4
    assert order.batch(3).tolist() == taken.flatten()[12:16].tolist()


def test_every_update_has_noise_of_its_own_and_the_step_size_falls_to_zero(monkeypatch, tmp_path):
    seen, rates, shipped = [], [], realnvp.update

    def spy(model, optimizer, x, *rest):
        seen.append(x.clone())
        rates.extend(group["lr"] for group in optimizer.param_groups)
        return shipped(model, optimizer, x, *rest)

    monkeypatch.setattr(realnvp, "update", spy)
    train(Args(**DENSE | {"train_images": 100, "epochs": 4.0, "log_every": 2, "run_dir": tmp_path / "run"}))
    offsets = torch.cat([(x * 256) % 1 for x in seen])
    assert offsets.shape == (400, 1, 28, 28) and offsets[:, 0, 0].unique().numel() > 10_000
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_only_the_lengths_of_filters_decay_and_long_gradients_are_cut():
    args = Args(**CONV | {"weight_decay": 0.5})
    model = realnvp.make_model(args, DIGITS, torch.device("cpu"))
    groups = realnvp.make_optimizer(model, args).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0]
    lengths = sum(parameter.numel() for parameter in groups[0]["params"])
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert lengths == sum(module.out_channels for module in convolutions)
    args = Args(**PLANE, max_grad_norm=0.01)
    model = realnvp.make_model(args, torch.zeros(1, 2), torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    realnvp.update(model, optimizer, 5 * torch.randn(250, 2, generator=generator()), args, negative_log_density)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_batch_normalization_is_pytorchs_own_and_scores_take_running_averages():
    x = torch.randn(6, 3, 4, 4, generator=generator())
    ours, theirs = realnvp.BatchNorm(3), torch.nn.BatchNorm2d(3)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.running_var, theirs.running_var)
    model = make((1, 4, 4), **CONV).float()
    pictures = torch.randint(256, (9, 1, 4, 4), dtype=torch.uint8, generator=generator())
    args = Args(**CONV)
    model.train()
    together, _ = realnvp.score(model, pictures, args)
    rng, alone = realnvp.generator(torch.device("cpu"), 1, realnvp.SCORES), []
    x = realnvp.dequantize(pictures, rng)
    alone = [negative_log_density(model.eval(), one.unsqueeze(0)).item() for one in x]
    assert together == pytest.approx(np.mean(alone), rel=1e-5)  # no picture's likelihood depends on its neighbours


def test_bfloat16_learns_what_float32_learns(tmp_path):
    flags = DENSE | {"hidden": (32,), "epochs": 2.0, "coupling": "additive"}
    found = [train(Args(**flags, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["eval/bits_per_dim"] != found[1]["eval/bits_per_dim"]
    assert found[1]["eval/bits_per_dim"] == pytest.approx(found[0]["eval/bits_per_dim"], rel=0.005)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(realnvp, "negative_log_density", lambda model, x: model(x)[1] * math.nan)
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**PLANE, run_dir=tmp_path / "run"))


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 50_001}, "--batch-size: at most 50000"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"max_grad_norm": math.nan}, "--max-grad-norm"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"alpha": 0.5}, "--alpha"),
        ({"hidden": (0,)}, "--hidden"),
        ({"couplings": 0}, "--couplings"),
        ({"scaling": False}, "--no-scaling"),
        ({"network": "conv"}, "--network"),
        ({"flip": True}, "--flip"),
        ({"save_samples": 5}, "--save-samples"),
        ({"dataset": "digits", "network": "conv", "scales": 4}, "4 scales halve 28x28 pixels 3 times"),
        ({"dataset": "photos", "image_size": 31}, "--scales"),
        ({"dataset": "photos", "image_size": 31, "network": "dense"}, "even --image-size"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder"}, "--folder"),
        ({"eval_images": -1}, "--eval-images"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
