"""Deconvnet: projections against gradients and direct loops, statistics against numpy, training."""

import csv
import io
import math
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from gen import deconvnet
from gen.deconvnet import Args, ConvNet, UsageError, load_data, project, save_features, statistics, train


@pytest.fixture
def images():
    return torch.randint(256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model(images):
    torch.manual_seed(0)
    model = ConvNet(3, 16).eval()
    nn.init.zeros_(model.convs[0].bias)
    nn.init.zeros_(model.convs[1].bias)
    return model


def test_the_network_is_two_convolutions_and_a_classifier(model, images):
    x = images / 127.5 - 1
    for i, conv in enumerate(model.convs):
        x = F.conv2d(x, conv.weight, conv.bias, padding=2).clamp(min=0)
        blocks = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)  # the four values of each square
        pooled, switches = model.features(images)[i]
        assert torch.allclose(pooled, blocks.amax(4), atol=1e-5)
        assert torch.allclose(x.flatten(2).gather(2, switches.flatten(2)), pooled.flatten(2), atol=1e-5)
        x = pooled
    hidden = F.relu(F.linear(x.flatten(1), model.head[0].weight, model.head[0].bias))
    assert torch.allclose(model(images), F.linear(hidden, model.head[3].weight, model.head[3].bias), atol=1e-5)
    assert [conv.weight.shape[:2] for conv in model.convs] == [(32, 3), (64, 32)] and hidden.shape[1] == 1024


def test_with_switches_the_first_layers_projection_is_the_gradient(model, images):
    """Unpooling by switches and transposed filters are the derivative of max pooling and convolution."""
    x = (images[:1] / 127.5 - 1).requires_grad_()
    pooled = F.max_pool2d(model.convs[0](x), 2)  # without ReLU, whose way back the deconvnet changes
    features = model.features(images[:1])[0][0]
    found = project(model, images[:1], 0)
    for k in (0, 5):
        alone = torch.zeros_like(features)
        alone[:, k] = features[:, k]
        expected = torch.autograd.grad(pooled, x, alone, retain_graph=True)[0]
        assert torch.allclose(found[k], expected[0], atol=1e-5)


def test_without_switches_each_value_is_copied_to_its_square(model, images):
    values, expected = model.features(images[:1])[0][0][0, 5], torch.zeros(3, 20, 20)
    for y in range(16):
        for x in range(16):
            expected[:, y : y + 5, x : x + 5] += values[y // 2, x // 2] * model.convs[0].weight[5]
    found = project(model, images[:1], 0, use_switches=False)
    assert len(found) == 32 and torch.allclose(found[5], expected[:, 2:-2, 2:-2], atol=1e-5)


def test_a_feature_of_the_second_layer_is_rectified_between_its_filters(model, images):
    (_, s1), (features, s2) = model.features(images[:1])
    x, back = torch.zeros(1, 64, 8, 8), torch.zeros(1, 32, 16, 16)
    k = features[0].flatten(1).sum(1).argmax()
    x[0, k].view(-1)[s2[0, k].flatten()] = features[0, k].flatten()
    x = F.conv_transpose2d(x, model.convs[1].weight, padding=2)
    assert (x < 0).any()
    back.flatten(2).scatter_(2, s1.flatten(2), x.clamp(min=0).flatten(2))
    expected = F.conv_transpose2d(back, model.convs[0].weight, padding=2)
    found = project(model, images[:1], 1)
    assert len(found) == 64 and torch.allclose(found[k], expected[0], atol=1e-5)


def test_statistics_are_numpys_correlations_of_live_features(model, images):
    model.convs[0].bias.data[3] = -100.0
    found = statistics(model, images, 0)
    features = np.delete(model.features(images)[0][0].detach().transpose(0, 1).flatten(1).numpy(), 3, axis=0)
    r = np.abs(np.corrcoef(features))
    assert found["eval/correlation_1"] == pytest.approx((r.sum() - 31) / (31 * 30), rel=1e-4)
    likeness = []
    for image in images[:10].split(1):
        pixels = project(model, image, 0).flatten(1).numpy()
        x = image.flatten().numpy()
        likeness += [abs(np.corrcoef(x, p)[0, 1]) for p in np.delete(pixels, 3, axis=0)]
    assert found["eval/likeness_1"] == pytest.approx(np.mean(likeness), rel=1e-3)
    assert found["eval/dead_1"] == 1 and statistics(model, images, 1)["eval/dead_2"] < 64
    for live in (1, 0):  # nothing to correlate
        model.convs[0].bias.data[live:] = -100.0
        found = statistics(model, images, 0)
        assert math.isnan(found["eval/correlation_1"]) and found["eval/dead_1"] == 32 - live


def test_the_picture_shows_what_activates_a_feature_most_above_its_projections(model, images, tmp_path):
    with torch.no_grad():
        model.convs[0].weight[9] *= 50  # the most active one
    save_features(model, images, tmp_path / "features.png")
    grid = np.asarray(Image.open(tmp_path / "features.png"))[::3, ::3].reshape(6, 18, 10, 18, 3).swapaxes(1, 2)
    tiles = grid[:, :, 1:-1, 1:-1]  # [row, column, 16, 16, 3], without the white gaps
    best = model.features(images)[0][0][:, 9].amax((1, 2)).argmax()
    assert np.array_equal(tiles[0, 0], images[best].permute(1, 2, 0).numpy())
    for row, use_switches in ((1, True), (2, False)):
        pixels = project(model, images[best, None], 0, use_switches)[9].permute(1, 2, 0).numpy()
        assert np.abs(tiles[row, 0] / 255 - (0.5 + 0.5 * pixels / np.abs(pixels).max())).max() < 0.01


def test_an_update_mixes_no_devices(model, images):
    model, images = model.to("meta"), images.to("meta")  # a tensor that is made on the CPU raises here
    F.cross_entropy(model(images), torch.zeros(12, dtype=torch.int64, device="meta")).backward()
    assert project(model, images[:1], 1, use_switches=False).device.type == "meta"


# --- data and training -----------------------------------------------------------------------


def write_cifar10(folder):
    rows = np.zeros((60_000, 3073), np.uint8)  # zeros, because they are quickly compressed
    rows[123, 0], rows[-1, 0], rows[7, 1 + 1024 + 2 * 32 + 3] = 4, 9, 200
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            data = rows[10_000 * i : 10_000 * (i + 1)].tobytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_cifar10_is_a_label_then_red_green_and_blue(tmp_path):
    write_cifar10(tmp_path)
    images, labels, n = load_data(Args(dataset="cifar10", data_dir=tmp_path))
    assert images.shape == (60_000, 3, 32, 32) and n == 50_000
    assert labels[123] == 4 and labels[-1] == 9 and labels.dtype == torch.int64
    assert images[7, 1, 2, 3] == 200 and images.sum() == 200


@pytest.mark.parametrize("content", [b"no gzip", b"\x1f\x8b\x08\x00truncated"], ids=["foreign", "truncated"])
def test_damaged_data_are_named_in_one_line(tmp_path, content):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"^--data-dir.*cifar-10-binary.*$"):
        train(Args(dataset="cifar10", data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_it_learns_digits_and_the_seed_decides_every_number(tmp_path, monkeypatch):
    images, labels, _ = load_data(Args())
    images, labels = F.pad(images[:600, :, ::2, ::2], (1, 1, 1, 1)), labels[:600]  # 16 x 16
    images[400:, :, 0, 0] = 9  # a mark of test images
    monkeypatch.setattr(deconvnet, "load_data", lambda args: (images, labels, 400))
    rates, step, logs, seen, shown, forward = [], torch.optim.Adam.step, [], set(), [], ConvNet.forward

    def recorded(self, x):
        seen.update((torch.is_grad_enabled(), self.training, mark) for mark in x[:, 0, 0, 0].tolist())
        return forward(self, x)

    def save(model, images, path):
        shown.extend(images[:, 0, 0, 0].tolist())
        save_features(model, images, path)

    monkeypatch.setattr(ConvNet, "forward", recorded)
    monkeypatch.setattr(deconvnet, "save_features", save)

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        row = train(Args(epochs=2, batch_size=20, seed=seed, run_dir=tmp_path / name))
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            logs.append([{k: v for k, v in line.items() if k != "charts/SPS"} for line in csv.DictReader(file)])
        assert row["eval/accuracy"] > 0.6
    assert logs[0] == logs[1] != logs[2]
    assert seen == {(True, True, 0), (False, False, 9)} and set(shown) == {9}
    assert rates[:40] == pytest.approx([1e-3 * (1 - i / 40) for i in range(40)])
    files = {"args.json", "metrics.csv", "model.pt", "features.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == files
    model = ConvNet(1, 16).eval()
    model.load_state_dict(torch.load(tmp_path / "c/model.pt", weights_only=True)["model"])
    accuracy = (model(images[400:]).argmax(1) == labels[400:]).float().mean().item()
    assert accuracy == pytest.approx(row["eval/accuracy"])  # without dropout


@pytest.mark.parametrize("flags", [{"epochs": 0}, {"dataset": "faces"}, {"learning_rate": -1.0}])
def test_bad_flags_are_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
