"""RevNet: its gradients against autograd's own, its memory over its depth, its inverse in float32."""

import csv
import io
import tarfile

import pytest
import torch
import torch.nn.functional as F

from benchmarks.revnet_memory import stored_bytes
from gen.revnet import Args, Block, RevNet, augmented, load_data, train

SMALL = {"channels": (4, 8, 8), "blocks": 2, "updates": 6, "log_every": 2, "batch_size": 10}
NETWORKS = [(2, (4, 8, 8)), (1, (4, 5, 8))]  # blocks, channels; in the second nothing follows the widening blocks


def pair(blocks, channels, dtype=torch.double) -> list[RevNet]:
    """The same random network twice: recomputing its activations, and storing them."""
    torch.manual_seed(0)
    models = [RevNet(3, blocks, channels, store_activations=store).to(dtype) for store in (False, True)]
    for parameter in models[0].parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    models[1].load_state_dict(models[0].state_dict())
    return models


def random_images(n: int) -> torch.Tensor:
    return 255 * torch.rand(n, 3, 8, 8, dtype=torch.double)


@pytest.mark.parametrize("blocks, channels", NETWORKS)
def test_gradients_and_running_averages_are_those_of_the_network_that_stores_its_activations(blocks, channels):
    models, x = pair(blocks, channels), random_images(4)
    for model in models:
        F.cross_entropy(model(x), torch.arange(4)).backward()
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-6, atol=1e-9), name
    buffers = (dict(model.named_buffers()) for model in models)
    a, b = ({name: x for name, x in part.items() if "running" in name} for part in buffers)
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name]) for name in a)


def test_in_bfloat16_sums_of_halves_and_what_is_recomputed_are_float32():
    models, x, gradients = pair(*NETWORKS[0], torch.float), random_images(8).float(), []
    for model in models:
        halves = []
        for block in model.parts[2]:
            block.register_forward_hook(lambda _, x, y, halves=halves: halves.extend([*x[0], *y]))
        with torch.autocast("cpu", torch.bfloat16):
            F.cross_entropy(model(x), torch.arange(8)).backward()
        assert halves and all(half.dtype == torch.float for half in halves)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    with torch.autocast("cpu", torch.bfloat16):
        assert all((before - back).abs().max() < 0.05 for before, back in models[0].invert(x))


def test_gradients_are_what_finite_differences_say():
    model, x = pair(*NETWORKS[0])[0], random_images(3)
    labels, step = torch.arange(3), 1e-6
    F.cross_entropy(model(x), labels).backward()
    for parameter in (model.stem.weight, model.parts[2][0].f[2].weight, model.parts[0][1].g[0].bias):
        direction = torch.randn_like(parameter)
        losses = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            losses.append(F.cross_entropy(model(x), labels).item())
            parameter.data -= sign * step * direction
        assert (parameter.grad * direction).sum().item() == pytest.approx(
            (losses[0] - losses[1]) / (2 * step), rel=1e-4
        )


def test_the_network_inverts_what_it_has_changed():
    model, x = pair(3, (16, 32, 32), torch.float)[0], random_images(8).float()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    pairs = model.invert(x)
    assert [first.shape[1] for first, _ in pairs] == [32, 64, 64]
    assert torch.equal(pairs[0][0], model.stem(x / 127.5 - 1))
    assert 0 < max((first - back).abs().max().item() for first, back in pairs) < 1e-3
    assert all(torch.equal(model.get_buffer(name), buffer) for name, buffer in before.items())


def test_a_block_inverts_exactly_and_an_irreversible_one_adds_to_the_mean_of_each_square():
    block = Block(8, 8, 1).double()
    x = torch.randn(4, 8, 6, 6, dtype=torch.double), torch.randn(4, 8, 6, 6, dtype=torch.double)
    y = block(x)
    assert all(torch.allclose(a, b) for a, b in zip(block.inverse(*y), x, strict=True))
    assert torch.allclose(y[0], x[0] + block.f(x[1])) and torch.allclose(y[1], x[1] + block.g(y[0]))
    block = Block(8, 12, 2).double()
    for parameter in block.parameters():
        parameter.data.zero_()
    y = block(x)
    assert y[0].shape == (4, 12, 3, 3)
    assert (
        torch.allclose(y[1][:, 2:10, 1, 2], x[1][:, :, 2:4, 4:6].mean((2, 3))) and y[1][:, [0, 1, 10, 11]].eq(0).all()
    )


def test_what_is_stored_does_not_grow_with_depth():
    x, stored = torch.randn(2, 3, 8, 8), {}
    for store in (False, True):
        for depth in (2, 8):
            model = RevNet(3, depth, (4, 8, 8), store_activations=store)
            stored[store, depth] = stored_bytes(model, x)
    assert stored[False, 8] == stored[False, 2] < stored[True, 2] / 2
    assert stored[True, 8] > 3 * stored[True, 2]


def test_the_papers_small_network_has_38_layers_and_the_weights_that_its_sizes_say():
    with torch.device("meta"):
        model = RevNet(3, 3, (16, 32, 56))
    weights, before = 27 * 32 + 112 * 10, 16
    for after in (16, 32, 56):
        weights += 9 * before * after + 11 * 9 * after * after  # three blocks of four convolutions, the first widens
        before = after
    layers = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert len(layers) == 38 and sum(layer.numel() for layer in layers) == weights


def test_augmented_images_are_shifted_by_up_to_four_pixels_and_half_of_them_mirrored():
    torch.manual_seed(0)
    image = torch.randint(1, 256, (1, 3, 12, 12)).byte()
    padded = F.pad(image[0], (4, 4, 4, 4))
    views = {
        (i, j, flip): (padded.flip(2) if flip else padded)[:, i : i + 12, j : j + 12]
        for i in range(9)
        for j in range(9)
        for flip in (False, True)
    }
    seen = [next(k for k, view in views.items() if torch.equal(x, view)) for x in augmented(image.repeat(400, 1, 1, 1))]
    assert 160 < sum(flip for _, _, flip in seen) < 240
    assert {i for i, _, _ in seen} == {j for _, j, _ in seen} == set(range(9))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def test_learns_digits_and_writes_its_folder(tmp_path):
    flags = SMALL | {"updates": 50, "batch_size": 30, "log_every": 50}
    row = train(Args(run_dir=tmp_path / "run", **flags))
    assert row["losses/loss"] < 2.29 and row["eval/accuracy"] > 0.13 and row["eval/inversion_error"] < 1e-3
    files = {"args.json", "metrics.csv", "inversion.png", "model.pt"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    model = RevNet(1, SMALL["blocks"], SMALL["channels"]).eval()  # scored here, not read from the run's rows
    model.load_state_dict(weights(tmp_path / "run"))
    images, labels, n = load_data(Args())
    correct = model(images[n:]).argmax(1) == labels[n:]
    assert correct.double().mean().item() == pytest.approx(row["eval/accuracy"], abs=0.01)


def test_updates_are_made_in_training_mode_and_the_largest_error_of_all_stages_is_logged(tmp_path, monkeypatch):
    seen, forward, (images, _, n) = set(), RevNet.forward, load_data(Args())

    def recorded(self, x):
        if torch.is_grad_enabled():
            assert (x[:, None] == images[:n]).flatten(2).all(2).any(1).all()  # no test image is trained on
        seen.add((torch.is_grad_enabled(), self.training))
        return forward(self, x)

    def invert(self, x):
        return [(torch.zeros(8, 3, 4, 4), torch.full((8, 3, 4, 4), error)) for error in (0.1, -0.3, 0.2)]

    monkeypatch.setattr(RevNet, "forward", recorded)
    monkeypatch.setattr(RevNet, "invert", invert)
    row = train(Args(run_dir=tmp_path / "run", **SMALL))
    assert seen == {(True, True), (False, False)}
    assert row["eval/inversion_error"] == pytest.approx(0.3)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **SMALL))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_one_update_touches_no_tensor_of_another_device():
    with torch.device("meta"):
        model, x = RevNet(3, 2, (4, 8, 8)), torch.zeros(4, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(x), torch.zeros(4, dtype=torch.long, device="meta"))
    loss.backward()
    optimizer.step()
    assert loss.is_meta and all(part.is_meta for parts in model.invert(x) for part in parts)


def test_cifar10_is_read_from_its_archive(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = 3073
            tar.addfile(info, io.BytesIO(bytes([9 - k]) + bytes([k]) * 1024 + bytes([100]) * 2048))
    images, labels, n = load_data(Args(dataset="cifar10", data_dir=tmp_path))
    assert images[:, 0, 3, 4].tolist() == [0, 1, 2, 3, 4, 5] and labels.tolist() == [9, 8, 7, 6, 5, 4]
    assert (images[:, 1:] == 100).all() and n == 50_000


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b\x08\x00truncated")
    for args, complaint in (
        ({"dataset": "cifar10", "data_dir": tmp_path}, "cifar-10-binary.tar.gz"),
        ({"channels": (4, 0, 8)}, "channels"),
        ({"blocks": 0}, "blocks"),
    ):
        with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
            train(Args(**SMALL | args, run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_with_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        train(Args(run_dir=tmp_path / "run", **SMALL | {"learning_rate": 1e20}))
