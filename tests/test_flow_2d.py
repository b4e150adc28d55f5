"""Flows in the plane: densities against integrals and dense Jacobians, the sources against their own samples."""

import csv

import pytest
import torch

from gen.flow_2d import Args, Flow, make_source, save_density, train

DATASETS = ["moons", "rings", "spirals", "gaussians"]
CPU = torch.device("cpu")


def random_flow() -> Flow:
    torch.manual_seed(0)
    flow = Flow(couplings=5, hidden=8)
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return flow.double()


def integral(f, limit: float = 4.5, step: float = 0.1) -> float:
    side = torch.arange(-limit, limit, step, dtype=torch.double)
    with torch.no_grad():
        return sum(f(x).sum().item() for x in torch.cartesian_prod(side, side).split(10_000)) * step**2


def test_the_log_density_is_the_change_of_variables_with_a_dense_jacobian():
    flow, x = random_flow(), torch.randn(10, 2, dtype=torch.double)
    for row, log_p in zip(x, flow.log_prob(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow.encode(x[None])[0][0], row)
        prior = torch.distributions.Normal(0, 1).log_prob(flow.encode(row[None])[0]).sum()
        assert log_p.item() == pytest.approx((prior + torch.linalg.slogdet(jacobian).logabsdet).item())
        assert (jacobian != 0).all()


def test_the_density_of_a_flow_integrates_to_one():
    assert integral(lambda x: random_flow().log_prob(x).exp(), limit=20) == pytest.approx(1, abs=1e-3)


def test_at_first_a_flow_is_the_same_affine_map_everywhere():
    torch.manual_seed(0)
    flow, x = Flow(couplings=5, hidden=8), 3 * torch.randn(100, 2)
    z, log_det = flow.encode(x)
    middle = flow.encode((x + x.flip(0)) / 2)[0]
    assert torch.allclose(middle, (z + z.flip(0)) / 2, atol=1e-5) and (log_det - log_det[0]).abs().max() < 1e-5


def test_decoding_inverts_encoding():
    flow, x = random_flow(), torch.randn(100, 2, dtype=torch.double)
    assert torch.allclose(flow.decode(flow.encode(x)[0]), x) and torch.allclose(flow.encode(flow.decode(x))[0], x)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_source_is_a_density_and_its_samples_have_its_entropy(dataset):
    source = make_source(dataset, CPU)
    torch.manual_seed(0)
    x = source.sample((5_000,))
    assert integral(lambda x: source.log_prob(x.float()).exp().double()) == pytest.approx(1, abs=1e-3)
    entropy = integral(lambda x: -(source.log_prob(x.float()).exp() * source.log_prob(x.float())).double().nan_to_num())
    assert -source.log_prob(x).mean().item() == pytest.approx(entropy, abs=0.04)  # standard error .012


def test_the_sources_have_the_shapes_that_their_names_say():
    means = {dataset: make_source(dataset, CPU).component_distribution.mean for dataset in DATASETS}
    assert set(means["rings"].norm(dim=1).round(decimals=3).tolist()) == {1, 2}
    assert means["gaussians"].norm(dim=1).allclose(torch.tensor(2.0)) and len(means["gaussians"]) == 8
    distances = [torch.cdist(x, -x, compute_mode="donot_use_mm_for_euclid_dist") for x in means.values()]
    assert all(distance.min(dim=1).values.max() < 1e-4 for distance in distances)  # point symmetry
    upper = means["moons"][:100]
    assert torch.allclose((upper + torch.tensor([1.0, 0.5])).norm(dim=1), torch.tensor(2.0))
    assert upper[:, 1].min() > -0.5
    arm = means["spirals"][:100]
    assert (arm.norm(dim=1).diff() > 0).all() and arm.norm(dim=1).max() < 2.5


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_learns_the_moons_and_writes_its_folder(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", couplings=8, hidden=32, updates=300))
    assert 0 < row["eval/above_source"] < 0.35
    files = {"args.json", "metrics.csv", "density.png", "model.pt"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    flow = Flow(8, 32)  # scored here, not read from the run's own bookkeeping
    flow.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["model"])
    source = make_source("moons", CPU)
    torch.manual_seed(0)
    x = source.sample((10_000,))  # both densities on the test points
    above = (source.log_prob(x) - flow.log_prob(x)).mean().item()
    assert above == pytest.approx(row["eval/above_source"], abs=1e-4)


def test_the_densities_are_drawn_with_x_to_the_right_and_y_upwards(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, p, **options: drawn.append((p, options)))
    source = make_source("moons", CPU)
    save_density(source, random_flow().float(), tmp_path / "density.png")
    (p, options), _ = drawn
    side = torch.linspace(-3.4, 3.4, 200)
    assert options["origin"] == "lower"
    for row, column in ((60, 150), (150, 60), (100, 20)):
        expected = source.log_prob(torch.stack([side[column], side[row]])).exp().item()
        assert p[row][column] == pytest.approx(expected, rel=1e-3)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, couplings=2, hidden=8, updates=30))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert [int(row["global_step"]) for row in rows(tmp_path / "a")] == list(range(500, 7501, 500))


def test_one_update_touches_no_tensor_of_another_device(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # it reads values
    with torch.device("meta"):
        flow = Flow(4, 8)
    optimizer = torch.optim.Adam(flow.parameters())
    x = make_source("spirals", torch.device("meta")).sample((5,))
    loss = -flow.log_prob(x).mean()
    loss.backward()
    optimizer.step()
    assert loss.is_meta and flow.decode(x).is_meta


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    for args, complaint in (({"couplings": 0}, "couplings"), ({"learning_rate": float("inf")}, "learning_rate")):
        with pytest.raises(ValueError, match=complaint):  # pydantic's ValidationError
            train(Args(**args, run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_with_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        train(Args(run_dir=tmp_path / "run", learning_rate=1e30, updates=20))
