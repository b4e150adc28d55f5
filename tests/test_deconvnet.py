"""Deconvnet: projections against gradients and direct loops, receptive fields by perturbation, statistics, training."""

import csv
import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from gen import deconvnet
from gen.deconvnet import (
    Args,
    ConvNet,
    UsageError,
    load_data,
    project,
    project_each,
    receptive_field,
    save_features,
    save_strongest,
    signed,
    statistics,
    strongest,
    train,
)


@pytest.fixture
def images():
    return torch.randint(256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model(images):
    torch.manual_seed(0)
    model = ConvNet(images, 10).eval()
    nn.init.zeros_(model.convs[0].bias)
    nn.init.zeros_(model.convs[1].bias)
    return model


def test_the_network_is_two_convolutions_and_a_classifier(model, images):
    x = (images / 1.0 - images.float().mean((0, 2, 3), keepdim=True)) / images.float().std((0, 2, 3), keepdim=True)
    assert torch.allclose(model.standardize(images), x, atol=1e-5)
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
    x = model.standardize(images[:2]).requires_grad_()
    pooled = F.max_pool2d(model.convs[0](x), 2)  # without ReLU, whose way back the deconvnet changes
    features, switches = model.features(images[:2])[0]
    expected = torch.autograd.grad(pooled, x, features)[0]
    assert torch.allclose(project(model, features, [switches]), expected, atol=1e-4)


def test_without_switches_each_value_is_copied_to_its_square(model):
    features = torch.zeros(1, 32, 8, 8)
    features[0, 5, 2, 3] = 1.5
    spread = torch.zeros(1, 32, 16, 16)
    spread[0, 5, 4:6, 6:8] = 1.5
    expected = torch.zeros(1, 3, 20, 20)
    for y in (4, 5):
        for x in (6, 7):
            expected[0, :, y : y + 5, x : x + 5] += 1.5 * model.convs[0].weight[5]
    assert torch.allclose(project(model, features, None), expected[:, :, 2:-2, 2:-2], atol=1e-5)


def test_the_second_layer_is_rectified_between_its_filters(model, images):
    (_, s1), (features, s2) = model.features(images[:1])
    x = torch.zeros(1, 64, 8, 8)
    x.flatten(2).scatter_(2, s2.flatten(2), features.flatten(2))
    x = F.conv_transpose2d(x, model.convs[1].weight, padding=2)
    assert (x < 0).any()
    back = torch.zeros(1, 32, 16, 16)
    back.flatten(2).scatter_(2, s1.flatten(2), x.clamp(min=0).flatten(2))
    expected = F.conv_transpose2d(back, model.convs[0].weight, padding=2)
    assert torch.allclose(project(model, features, [s1, s2]), expected, atol=1e-4)


@pytest.mark.parametrize("use_switches", [True, False])
def test_features_are_projected_one_at_a_time(model, images, use_switches):
    for layer in (0, 1):
        layers = model.features(images[:1])[: layer + 1]
        alone = torch.zeros_like(layers[-1][0])
        alone[0, 7] = layers[-1][0][0, 7]
        expected = project(model, alone, [switches for _, switches in layers] if use_switches else None)
        found = project_each(model, images[:1], layer, use_switches)
        assert len(found) == (32, 64)[layer] and torch.allclose(found[7], expected[0], atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_receptive_field_is_where_a_change_of_the_image_matters(layer):
    torch.manual_seed(0)
    model = ConvNet(torch.randint(256, (2, 1, 40, 40), dtype=torch.uint8), 10).double()
    model.std.fill_(1.0)
    x = torch.rand(1, 1, 40, 40, dtype=torch.float64, requires_grad=True)
    y = x
    for conv in model.convs[: layer + 1]:  # mean pooling and no ReLU: whatever could matter does
        y = F.avg_pool2d(conv(y), 2)
    y[0, :, 4, 5].sum().backward()
    where = x.grad[0, 0].abs() > 1e-12
    top, left, side = receptive_field(layer, 4, 5)
    rows, columns = where.any(1).nonzero().flatten().tolist(), where.any(0).nonzero().flatten().tolist()
    assert rows == list(range(top, top + side)) and columns == list(range(left, left + side))


def test_the_strongest_activations_are_found_and_dead_features_left_out(model, images):
    model.convs[0].bias.data[3] = -100.0  # never active
    found = strongest(model, images, 0, 3)
    features = model.features(images)[0][0]
    assert 3 not in found and len(found) == 31
    for k, places in found.items():
        best = features[:, k].flatten(1).max(1).values
        assert [features[i, k, y, x].item() for i, y, x in places] == best.topk(3).values.tolist()
        assert len({i for i, _, _ in places}) == 3


def test_statistics_are_numpys_correlations_of_live_features(model, images):
    model.convs[0].bias.data[3] = -100.0
    found = statistics(model, images, 0)
    features = np.delete(model.features(images)[0][0].detach().transpose(0, 1).flatten(1).numpy(), 3, axis=0)
    r = np.abs(np.corrcoef(features))
    assert found["eval/correlation_1"] == pytest.approx((r.sum() - 31) / (31 * 30), rel=1e-4)
    likeness = []
    for image in images[:10].split(1):
        pixels = project_each(model, image, 0).flatten(1).numpy()
        x = model.standardize(image).flatten().numpy()
        likeness += [abs(np.corrcoef(x, p)[0, 1]) for p in np.delete(pixels, 3, axis=0)]
    assert found["eval/likeness_1"] == pytest.approx(np.mean(likeness), rel=1e-3)
    assert found["eval/dead_1"] == 1 and statistics(model, images, 1)["eval/dead_2"] < 64


def test_figures_show_patches_beside_their_projections(model, images, tmp_path, monkeypatch):
    assert signed(torch.tensor([-2.0, 0.0, 1.0])).tolist() == [0, 0.5, 0.75]
    sheets = []
    monkeypatch.setattr(deconvnet, "save_sheet", lambda rows, path: sheets.append(rows))
    save_strongest(model, images, tmp_path / "x.png")
    save_features(model, images, tmp_path / "y.png")
    strong, features = ([[np.asarray(image) for image in row] for row in rows] for rows in sheets)
    i, y, x = strongest(model, images, 1, 3)[next(iter(strongest(model, images, 1, 3)))][0]
    top, left, side = receptive_field(1, y, x)
    patch = F.pad(images[i] / 255, (8, 8, 8, 8), value=0.5)[:, top + 8 : top + 8 + side, left + 8 : left + 8 + side]
    assert np.array_equal(strong[4][0], np.asarray(deconvnet.tile(patch)))
    assert len(strong) == 8 and len(strong[0]) == 24
    below = strong[5][0].astype(float) - 127  # one activation's projection: all of it lies within the crop
    assert np.abs(below).max() > 120
    assert len(features) == 4 and len(features[0]) == 11 and not np.array_equal(features[0][1], features[1][1])


def test_an_update_mixes_no_devices(model, images):
    model, images = model.to("meta"), images.to("meta")  # a tensor that is made on the CPU raises here
    F.cross_entropy(model(images), torch.zeros(12, dtype=torch.int64, device="meta")).backward()
    assert project_each(model, images[:1], 1, use_switches=False).device.type == "meta"


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
    images, labels, test, test_labels = load_data(Args(dataset="cifar10", data_dir=tmp_path))
    assert images.shape == (50_000, 3, 32, 32) and test.shape == (10_000, 3, 32, 32)
    assert labels[123] == 4 and test_labels[-1] == 9 and labels.dtype == torch.int64
    assert images[7, 1, 2, 3] == 200 and images.sum() == 200


def test_mnist_is_read_after_its_headers(tmp_path):
    for name, (_, header, shape) in deconvnet.MNIST.items():
        data = bytes(header) + bytes(i % 10 for i in range(2 * (784 if len(shape) == 4 else 1)))
        (tmp_path / name).write_bytes(gzip.compress(data))
    images, labels, test, test_labels = load_data(Args(dataset="mnist", data_dir=tmp_path))
    assert images.shape == test.shape == (2, 1, 28, 28) and images[0, 0, 0, 3] == 3
    assert labels.tolist() == test_labels.tolist() == [0, 1]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(100_000))[:-9], gzip.compress(bytes(100))])
def test_damaged_data_are_named_in_one_line(tmp_path, dataset, content):
    for name in deconvnet.MNIST | deconvnet.CIFAR10:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"train-images|cifar-10-binary"):
        train(Args(dataset=dataset, data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_it_learns_digits_and_the_seed_decides_every_number(tmp_path, monkeypatch):
    data = load_data(Args())
    train_16, test_16 = (F.pad(x[:, :, ::2, ::2], (1, 1, 1, 1)) for x in data[::2])  # 16 x 16
    small = [train_16[:400], data[1][:400], test_16[:200], data[3][:200]]
    monkeypatch.setattr(deconvnet, "load_data", lambda args: small)
    rates, step, logs = [], torch.optim.Adam.step, []

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        if name == "b":
            monkeypatch.setattr(deconvnet, "save_strongest", lambda *_: None)
        row = train(Args(epochs=2, batch_size=20, seed=seed, run_dir=tmp_path / name))
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            logs.append([{k: v for k, v in line.items() if k != "charts/SPS"} for line in csv.DictReader(file)])
        assert row["eval/accuracy"] > 0.6
    assert logs[0] == logs[1] != logs[2]
    assert rates[:40] == pytest.approx([1e-3 * (1 - i / 40) for i in range(40)])
    files = {"args.json", "metrics.csv", "model.pt", "features.png", "strongest.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == files
    assert np.asarray(Image.open(tmp_path / "a/strongest.png")).std() > 20
    model = ConvNet(small[0], 10).eval()
    model.load_state_dict(torch.load(tmp_path / "c/model.pt", weights_only=True)["model"])
    accuracy = (model(small[2]).argmax(1) == small[3]).float().mean().item()
    assert accuracy == pytest.approx(row["eval/accuracy"])  # without dropout


@pytest.mark.parametrize("flags", [{"epochs": 0}, {"dataset": "faces"}, {"learning_rate": -1.0}])
def test_bad_flags_are_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
