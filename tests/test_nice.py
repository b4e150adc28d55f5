"""NICE: its density against a dense Jacobian and an integral, its training against what the docstring promises."""

import csv
import gzip

import numpy as np
import pytest
import torch
from scipy import stats

from gen import nice
from gen.nice import NICE, Args, dequantize, load_images, train

SMALL = {"hidden": 64, "layers": 2, "batch_size": 50, "epochs": 4, "learning_rate": 1e-3}


def random_model(d: int) -> NICE:
    torch.manual_seed(0)
    model = NICE(d, layers=2, hidden=16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def test_the_log_likelihood_is_the_change_of_variables_with_a_dense_jacobian():
    model, x = random_model(6), torch.rand(5, 6, dtype=torch.double)
    for row, log_p in zip(x, model.log_likelihood(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], row)
        prior = stats.logistic.logpdf(model(row[None]).detach().numpy()).sum()
        assert log_p.item() == pytest.approx(prior + torch.linalg.slogdet(jacobian).logabsdet.item())


def test_the_density_integrates_to_one():
    model, step = random_model(2), 0.1
    side = torch.arange(-30, 30, step, dtype=torch.double)
    with torch.no_grad():
        total = sum(model.log_likelihood(x).exp().sum() for x in torch.cartesian_prod(side, side).split(50_000))
    assert total.item() * step**2 == pytest.approx(1, abs=1e-3)


def test_f_and_its_inverse_undo_each_other_and_every_component_depends_on_all_inputs():
    model, x = random_model(8), torch.rand(10, 8, dtype=torch.double)
    assert torch.allclose(model.inverse(model(x)), x) and torch.allclose(model(model.inverse(x)), x)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x[0])
    assert (jacobian != 0).all()


def test_a_new_model_is_a_permutation_of_even_and_odd_components():
    assert NICE(6, 2, 16)(torch.arange(6.0)[None]).tolist() == [[0, 2, 4, 1, 3, 5]]


def test_dequantization_is_uniform_within_each_pixels_interval():
    images = torch.arange(256, dtype=torch.uint8).repeat(400, 1)
    x = dequantize(images, torch.Generator().manual_seed(0))
    assert torch.equal((x * 256).floor().byte(), images) and x.min() >= 0 and x.max() < 1
    assert stats.kstest((x * 256 - images).flatten().numpy(), "uniform").pvalue > 0.01


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_learns_digits_and_writes_its_folder(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", **SMALL | {"epochs": 8}))
    assert row["eval/log_likelihood"] > 1300 and row["losses/log_likelihood"] > 1300
    assert row["eval/bits_per_dim"] == pytest.approx(8 - row["eval/log_likelihood"] / (784 * np.log(2)))
    assert row["global_step"] == 8 * 1500
    files = {"args.json", "metrics.csv", "samples.png", "model.pt"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    model = NICE(784, SMALL["layers"], SMALL["hidden"])  # scored here, not read from the run's own bookkeeping
    model.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["model"])
    x = dequantize(load_images(Args())[1], torch.Generator().manual_seed(0))
    assert model.log_likelihood(x).mean().item() == pytest.approx(row["eval/log_likelihood"], rel=1e-4)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **SMALL | {"epochs": 2}))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_one_update_touches_no_tensor_of_another_device():
    with torch.device("meta"):
        model = NICE(784, 2, 16)
    optimizer = torch.optim.Adam(model.parameters())
    loss = -model.log_likelihood(dequantize(torch.zeros(5, 784, dtype=torch.uint8, device="meta"))).mean()
    loss.backward()
    optimizer.step()
    assert loss.is_meta and model.inverse(model(torch.zeros(5, 784, device="meta"))).is_meta


def test_mnist_is_read_from_its_files(tmp_path):
    for value, name in enumerate(nice.MNIST_SHA256, start=7):
        (tmp_path / name).write_bytes(gzip.compress(bytes(16) + bytes([value]) * 3 * 784))
    for value, images in enumerate(load_images(Args(dataset="mnist", data_dir=tmp_path)), start=7):
        assert images.shape == (3, 784) and (images == value).all()


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00truncated")
    for args, complaint in (
        ({"dataset": "mnist", "data_dir": tmp_path}, "train-images-idx3-ubyte.gz"),
        ({"hidden": 0}, "hidden"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
            train(Args(**SMALL | args, run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()
