"""IWAE: its bound against a sum by hand and the integral over codes, its schedule, its training."""

import csv
import gzip
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal

from gen import iwae
from gen.iwae import IWAE, Args, UsageError, learning_rates, train

SMALL = {"hidden": 16, "latent_dim": 4, "stages": 2, "batch_size": 100, "nll_samples": 20, "k": 3}


def test_a_diverging_run_stops_with_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        train(Args(run_dir=tmp_path / "run", **SMALL | {"learning_rate": 1e20}))


def make(d=6, hidden=5, latent_dim=1, seed=0):
    torch.manual_seed(seed)
    model = IWAE(torch.linspace(0.2, 0.8, d), hidden, latent_dim)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
        model.encoder[4].bias[latent_dim:] = 0.5  # wider than the posterior, so that weights do not vary too much
    return model


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def evidence(model, x):
    """log p(x) by the integral over a code of one dimension."""
    z = torch.linspace(-9, 9, 4001)
    with torch.no_grad():
        p = Bernoulli(logits=model.decoder(z[:, None]).double())
    log_joint = p.log_prob(x[:, None].double()).sum(2) + Normal(0, 1).log_prob(z.double())
    return torch.trapezoid(log_joint.exp(), z.double()).log()


def test_a_weight_is_the_joint_probability_over_that_of_the_code():
    model, x, codes = make(latent_dim=3), torch.rand(4, 6).round(), []
    model.decoder.register_forward_pre_hook(lambda _, inputs: codes.append(inputs[0]))
    found = model.log_weights(x, 5)
    z, (mu, logvar) = codes[0], model.encoder(x).chunk(2, 1)
    assert z.shape == (5, 4, 3) and found.shape == (5, 4)
    for k in range(5):
        for i in range(4):
            log_p = Bernoulli(logits=model.decoder(z[k, i])).log_prob(x[i]).sum() + Normal(0, 1).log_prob(z[k, i]).sum()
            log_q = Normal(mu[i], (logvar[i] / 2).exp()).log_prob(z[k, i]).sum()
            assert found[k, i].item() == pytest.approx((log_p - log_q).item(), abs=1e-4)


def test_codes_are_samples_of_q_through_which_gradients_flow():
    model, x, codes = make(latent_dim=2), torch.rand(1, 6).round(), []
    model.decoder.register_forward_pre_hook(lambda _, inputs: codes.append(inputs[0]))
    (model.decoder(model.encode(x).rsample((50_000,)))).sum().backward()
    mu, logvar = model.encoder(x)[0].chunk(2)
    assert torch.allclose(codes[0].mean((0, 1)), mu, atol=0.03)
    assert torch.allclose(codes[0].var((0, 1)), logvar.exp(), rtol=0.05)
    model.zero_grad()
    model.bound(x, 5).sum().backward()
    assert (model.encoder[4].weight.grad.abs().sum(1) > 0).all()


def test_the_bound_is_the_log_of_the_mean_weight_and_rises_to_the_evidence():
    model, x = make(), torch.rand(20, 6).round()
    torch.manual_seed(3)
    weights = model.log_weights(x, 7).double()
    torch.manual_seed(3)
    assert torch.allclose(model.bound(x, 7).double(), weights.exp().mean(0).log(), atol=1e-5)
    exact = evidence(model, x)
    with torch.no_grad():
        bounds = [torch.stack([model.bound(x, k) for _ in range(2000 // k)]).mean().item() for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < exact.mean() + 0.01
    assert bounds[0] < exact.mean() - 0.05


def test_many_codes_estimate_the_likelihood():
    model, x = make(), torch.rand(20, 6).round()
    with torch.no_grad():
        assert torch.allclose(model.bound(x, 20_050).double(), evidence(model, x), atol=0.03)
    torch.manual_seed(4)
    found = model.bound(x, 150)  # in two parts, of 100 and 50
    torch.manual_seed(4)
    weights = torch.cat([model.log_weights(x, 100), model.log_weights(x, 50)]).double()
    assert torch.allclose(found.double(), weights.exp().mean(0).log(), atol=1e-5)


def test_eight_stages_are_the_papers_schedule():
    rates = learning_rates(1e-3, 8)
    assert len(rates) == 3280
    starts = [0, 1, 4, 13, 40, 121, 364, 1093]
    for i, start in enumerate(starts):
        assert rates[start] == pytest.approx(1e-3 * 10 ** (-i / 7))
        assert start == 0 or rates[start - 1] > rates[start]
    assert learning_rates(1e-3, 3) == rates[:13]


def test_bound_and_likelihood_are_measured_on_the_same_images(tmp_path, monkeypatch):
    measured, evaluate = [], iwae.evaluate
    monkeypatch.setattr(iwae, "evaluate", lambda m, x, k: measured.append((k, x)) or evaluate(m, x, k))
    row = train(Args(run_dir=tmp_path / "run", **SMALL))
    assert [k for k, _ in measured] == [3, 3, 3, 3, 20] and row["eval/nll"] < row["eval/loss"]
    test = iwae.load_images(Args())[1].flatten(1) / 255
    test = test.bernoulli(generator=torch.Generator().manual_seed(0))  # for every seed the same
    assert all(torch.equal(x, test) for _, x in measured)


def test_training_lowers_both_and_counts_active_dimensions(tmp_path, monkeypatch):
    trained, batches, bound = [], [], IWAE.bound

    def recorded(model, x, k):
        (trained if torch.is_grad_enabled() else batches).append(x)
        return bound(model, x, k)

    monkeypatch.setattr(IWAE, "bound", recorded)
    row = train(Args(run_dir=tmp_path / "run", stages=2, batch_size=40, nll_samples=50, k=5))
    intensities, trained = iwae.load_images(Args())[0].flatten(1) / 255, torch.cat(trained)
    assert set(trained.unique().tolist()) == {0, 1} and len(trained) == 4 * 1500
    assert torch.allclose(trained.mean(0), intensities.mean(0), atol=0.04)  # six standard errors
    assert row["eval/loss"] < 326  # without a code: 351
    left = {"args.json", "metrics.csv", "model.pt", "samples.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == left
    model, test = IWAE(torch.full((784,), 0.5), 200, 50), torch.cat(batches[-15:])  # fifteen parts of twenty, at most
    model.load_state_dict(torch.load(tmp_path / "run/model.pt")["model"])
    means = model.encoder(test)[:, :50].detach().numpy()
    assert row["eval/active_units"] == (means.var(0, ddof=1) > 0.01).sum()
    learned = [r["eval/nll"] for r in rows(tmp_path / "run")]
    assert learned[:-1] == [""] * 3 and float(learned[-1]) == row["eval/nll"]


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, **SMALL | {"stages": 1}, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_mnist_is_read_and_a_damaged_file_is_named(tmp_path):
    array = np.random.default_rng(0).integers(256, size=(30, 28, 28), dtype=np.uint8)
    for name in iwae.MNIST_SHA256:
        (tmp_path / name).write_bytes(gzip.compress(bytes(16) + array.tobytes()))
    args = Args(dataset="mnist", data_dir=tmp_path)
    assert all(np.array_equal(images[:, 0].numpy(), array) for images in iwae.load_images(args))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(999)))
    with pytest.raises(UsageError, match=r"--data-dir.*t10k-images"):
        iwae.load_images(args)


@pytest.mark.parametrize("flags", [{"k": 0}, {"stages": 0}, {"learning_rate": math.inf}, {"nll_samples": 0}])
def test_what_cannot_work_is_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
