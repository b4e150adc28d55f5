"""Colorizer: lines, hints and colours against OpenCV, sampling and closed forms, the update against plain pix2pix."""

import copy
import csv
import math
from colorsys import hsv_to_rgb
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.colorizer_judge import judge, region_areas
from gen import colorizer
from gen.colorizer import (
    VISIBLE,
    Args,
    Generator,
    UsageError,
    blur,
    errors,
    find_lines,
    hint_in_use,
    load_images,
    make_discriminator,
    paint,
    save_samples,
    train,
    update,
    white_out,
)


@pytest.fixture
def folder(tmp_path):
    """16 images to train on and 8 to test on: a coloured disc on white."""
    for kind, n in (("train", 16), ("test", 8)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(n):
            image, centre = np.full((64, 64, 3), 255, np.uint8), (24 + 7 * i % 16, 24 + 11 * i % 16)
            cv2.circle(image, centre, 20, [int(200 * c) for c in hsv_to_rgb(i / n, 1, 1)], thickness=-1)
            Image.fromarray(image).save(tmp_path / "data" / kind / f"{i:02}.png")
    return tmp_path / "data"


# --- lines and hints -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 256])
def test_the_lines_are_opencvs(size):
    image = np.random.default_rng(0).integers(256, size=(size, size, 3)).astype(np.uint8)
    lines = find_lines(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)[0, 0].numpy()
    grey, block = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), {64: 3, 256: 9}[size]
    theirs = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 2) / 127.5 - 1
    mean = cv2.blur(grey.astype(float), (block, block), borderType=cv2.BORDER_REPLICATE)
    sure = np.abs(grey - (mean - 2)) > 2  # not a matter of rounding
    assert (lines == theirs)[sure].all() and sure.mean() > 0.9 and set(np.unique(lines)) == {-1, 1}


@pytest.mark.parametrize("size", [64, 256])
def test_the_blur_is_opencvs(size):
    x, box = np.random.default_rng(0).random((size, size, 3)).astype(np.float32), round(size * 100 / 256)
    ours = blur(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.allclose(ours, cv2.blur(x, (box, box)), atol=1e-4)


def test_squares_are_whited_out_anew_in_every_image():
    torch.manual_seed(0)
    x = torch.full((400, 3, 64, 64), -1.0)
    y = white_out(x)
    assert (x == -1).all() and set(y.unique().tolist()) == {-1, 1}
    assert torch.equal(y[:, 0], y[:, 2]) and not torch.equal(y[0], y[1])
    left = (y[:, 0] == -1).float().mean((1, 2))
    assert pytest.approx(left.mean().item(), abs=0.015) == VISIBLE  # and not the post's .3
    visible = (white_out(-torch.ones(60, 3, 256, 256))[:, 0] == -1).float().mean().item()
    assert visible == pytest.approx(VISIBLE, abs=0.02)
    row = (y[:1, 0] == 1).float().mean(2)[0]
    assert (row > 0).any() and round(64 * 50 / 256) == 12 and left.max() < 0.8


def test_the_hint_in_use_is_as_pale_as_in_training():
    x = torch.full((200, 3, 64, 64), -0.5)
    torch.manual_seed(0)
    trained = blur(white_out(x))
    assert hint_in_use(x, "holes").mean() == pytest.approx(trained.mean().item(), abs=0.02)
    assert torch.allclose(hint_in_use(x, "blur"), blur(x)) and (hint_in_use(x, "none") == 1).all()
    white = torch.ones(1, 3, 64, 64)
    assert torch.allclose(hint_in_use(white, "holes"), white)  # nothing painted is white paper


# --- the networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels, groups", [(1, 1), (25, 1), (50, 1), (32, 2), (48, 3), (512, 32)])
def test_any_number_of_channels_can_be_normalized(channels, groups):
    assert colorizer.normalize(channels).num_groups == groups


def test_the_generator_is_a_unet_whose_skips_carry_details():
    torch.manual_seed(0)
    generator, x = Generator(64, 4), torch.rand(2, 4, 64, 64) * 2 - 1
    y = generator(x)
    assert y.shape == (2, 3, 64, 64) and y.abs().max() <= 1
    assert [down[0].out_channels for down in generator.down] == [4, 8, 16, 32, 32, 32]
    assert torch.allclose(generator(x[:1]), y[:1], atol=1e-5)  # an image's colours do not depend on its batch
    for down in list(generator.down)[1:]:
        nn.init.zeros_(down[0].weight)  # nothing passes below the first layer
    assert (generator(x) - generator(torch.zeros_like(x))).abs().max() > 1e-4
    size = sum(p.numel() for p in Generator(256, 64).parameters())
    assert size == pytest.approx(54.4e6, rel=0.01)  # pix2pix's


def test_the_discriminator_judges_patches_of_70_pixels():
    discriminator = make_discriminator(2)
    for layer in discriminator:
        if isinstance(layer, nn.GroupNorm):
            layer.forward = lambda x: x  # its statistics would see everything
    x = torch.rand(1, 7, 256, 256, requires_grad=True)
    logits = discriminator(x)
    logits[0, 0, 15, 15].backward()
    assert logits.shape == (1, 1, 30, 30)
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def make_networks():
    torch.manual_seed(0)
    return nn.ModuleDict({"generator": Generator(64, 2), "discriminator": make_discriminator(2)})


def sgd(networks, lr=0.1):
    return {name: torch.optim.SGD(network.parameters(), lr) for name, network in networks.items()}


def test_an_update_is_pix2pixs():
    networks, x, seen = make_networks(), torch.rand(3, 3, 64, 64) * 2 - 1, torch.rand(3, 4, 64, 64) * 2 - 1
    plain, optimizers = copy.deepcopy(networks), sgd(networks)
    for _ in range(2):  # the second finds gradients of the first
        losses = update(networks, optimizers, x, seen, "gan")
        G, D, bce = plain["generator"], plain["discriminator"], nn.BCEWithLogitsLoss()
        fake = G(seen)
        real_logits, fake_logits = D(torch.cat([seen, x], 1)), D(torch.cat([seen, fake.detach()], 1))
        loss_d = 0.5 * (
            bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
        )
        for p, g in zip(D.parameters(), torch.autograd.grad(loss_d, list(D.parameters())), strict=True):
            p.data -= 0.1 * g
        fake_logits = D(torch.cat([seen, fake], 1))
        loss_g = bce(fake_logits, torch.ones_like(fake_logits))
        l1 = (x - fake).abs().mean()  # of images in [-1, 1], as pix2pix's 100 means it
        for p, g in zip(G.parameters(), torch.autograd.grad(loss_g + 100 * l1, list(G.parameters())), strict=True):
            p.data -= 0.1 * g
        assert losses.tolist() == pytest.approx([l1.item(), loss_g.item(), loss_d.item()], rel=1e-4)
        for a, b in zip(networks.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_an_update_mixes_no_devices():
    networks, x = make_networks().to("meta"), torch.ones(2, 3, 64, 64, device="meta")
    seen = torch.cat([find_lines(x), blur(white_out(x))], 1)  # a tensor that is made on the CPU raises here
    assert update(networks, sgd(networks), x, seen, "gan").device.type == "meta"
    assert paint(networks["generator"], x[:, :1], x, "holes").device.type == "meta"


def test_the_squared_error_needs_no_adversary():
    networks, x, seen = make_networks(), torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64)
    before, expected = copy.deepcopy(networks), F.mse_loss(networks["generator"](seen), x).item()
    losses = update(networks, sgd(networks), x, seen, "l2")
    assert losses.tolist() == pytest.approx([expected, 0, 0])
    pairs = {name: zip(networks[name].parameters(), before[name].parameters(), strict=True) for name in networks}
    assert all(torch.equal(a, b) for a, b in pairs["discriminator"])
    assert not all(torch.equal(a, b) for a, b in pairs["generator"])


def test_errors_are_distances_in_rgb_and_in_labs_plane():
    red, green = (torch.tensor(c).view(1, 3, 1, 1).expand(2, 3, 4, 4) for c in ([1.0, -1, -1], [-1.0, 1, -1]))
    found = errors(red, green, "x_")
    lab = {"red": (80.09, 67.20), "green": (-86.18, 83.18)}  # a and b of the sRGB primaries under D65
    assert found["eval/x_l1"] == pytest.approx(2 / 3)
    assert found["eval/x_ab"] == pytest.approx(math.dist(lab["red"], lab["green"]), rel=2e-3)
    assert errors(torch.zeros(1, 3, 4, 4), -torch.ones(1, 3, 4, 4))["eval/ab"] == pytest.approx(0, abs=1e-3)  # greys


# --- data and training -----------------------------------------------------------------------


def test_the_judge_of_a_perfect_painter_and_of_one_that_leaves_the_paper_white():
    test = load_images(Args())[1][:8]
    test[0] = 255  # nothing to take a stroke's colour from
    x = test / 127.5 - 1
    perfect = judge(lambda seen: x, test, "blur")
    image = perfect.pop("lightness/image")
    want = {"lightness": image, "shading": 1, "lines": 1, "area": 0, "eval": 0}  # lightness, correlation, ratio, errors
    assert perfect == pytest.approx({name: want[name.split("/")[0]] for name in perfect}, rel=1e-3, abs=1e-3)
    white = judge(lambda seen: torch.ones_like(x), test, "blur")
    assert white["lightness/full"] == pytest.approx(100) and white["lines/long"] == 0
    darkness = 1 - test.float().mean().item() / 255
    assert white["area/more"] > 1 and white["eval/strokes_l1"] == pytest.approx(darkness, rel=1e-4)


def test_regions_have_the_area_of_their_colour():
    image = np.zeros((6, 6, 3), np.uint8)
    image[1:3, 1:4] = (200, 10, 10)
    image[5, 5] = (205, 0, 20)  # the same colour, not connected
    areas = region_areas(image)
    assert (areas[1:3, 1:4] == 6).all() and areas[5, 5] == 1 and areas[0, 0] == 29


def rows(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_it_learns_to_paint_and_leaves_its_pictures(tmp_path, folder):
    args = {"data_dir": folder, "width": 8, "hint": "blur", "epochs": 20, "learning_rate": 1e-2, "cuda": False}
    row = train(Args(**args, run_dir=tmp_path / "run"))
    assert row["eval/l1"] < 0.05 and row["eval/ab"] < 8  # the blurred image: .113 and 14.9
    assert row["eval/empty_hint_l1"] > 0.15  # trained on blurs, it leaves white what is not painted
    generator = Generator(64, 8)
    generator.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["generator"])
    _, test = load_images(Args(data_dir=folder))
    x = test / 127.5 - 1
    assert errors(paint(generator, find_lines(x), x, "blur"), x)["eval/ab"] == pytest.approx(row["eval/ab"], rel=1e-3)
    files = {"args.json", "metrics.csv", "model.pt", "samples.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    sheet = np.asarray(Image.open(tmp_path / "run/samples.png"))
    assert sheet.shape == (8 * 66 * 2, 5 * 66 * 2, 3)
    assert np.abs(sheet[2:130:2, 2:130:2].astype(int) - test[0].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("hint", ["holes", "blur", "none"])
def test_what_the_network_sees_in_training(tmp_path, folder, monkeypatch, hint):
    calls, rates = [], []

    def spy(networks, optimizers, x, seen, loss):
        calls.append((x, seen))
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()])
        return torch.zeros(3)

    monkeypatch.setattr(colorizer, "update", spy)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(data_dir=folder, hint=hint, width=2, epochs=2, seed=seed, cuda=False, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert [rate[0] for rate in rates[:8]] == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])
    assert all(rate[0] == rate[1] for rate in rates)
    x, seen = calls[0]
    assert x.min() >= -1 and x.max() == 1 and seen.shape[1] == 4
    assert torch.equal(seen[:, :1], find_lines(x)) and (hint != "none" or (seen[:, 1:] == 1).all())
    if hint == "blur":
        assert torch.allclose(seen[:, 1:], blur(x), atol=1e-5)
    if hint == "holes":
        assert (seen[:, 1:] >= blur(x) - 1e-5).all() and (seen[:, 1:] - blur(x)).mean() > 0.1
    first, second = (torch.cat([x for x, _ in calls[i : i + 4]]) for i in (0, 4))
    assert sorted(x.sum().item() for x in first) == pytest.approx(sorted(x.sum().item() for x in second))


def test_photographs_are_split_where_train_and_test_cannot_overlap(monkeypatch):
    columns = np.broadcast_to(np.arange(640)[:, None], (427, 640, 1))
    photo = np.concatenate([columns % 256, columns // 256, columns * 0], axis=2).astype(np.uint8)  # shows its columns
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: SimpleNamespace(images=[photo, photo]))
    images, test = load_images(Args())
    assert images.shape == (1000, 3, 64, 64) and test.shape == (100, 3, 64, 64) and images.dtype == torch.uint8
    train_columns, test_columns = (x[:, 0].int() + 256 * x[:, 1].int() for x in (images, test))
    assert train_columns.max() < test_columns.min()


def test_a_folder_of_ones_own_images_is_read_on_white_and_a_tenth_held_out(tmp_path):
    folder = tmp_path / "test"  # only folders below it say what is to test on
    folder.mkdir()
    for i in range(20):
        Image.new("RGBA", (30 + i, 50), (255, i, 0, 0 if i == 19 else 255)).save(folder / f"{i:02}.png")
    images, test = load_images(Args(data_dir=folder))
    assert (len(images), test[:, 1, 5, 5].tolist()) == (18, [0, 10])
    assert images[0, :, 5, 5].tolist() == [255, 1, 0] and images[-1, :, 5, 5].tolist() == [255, 255, 255]


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    for args, complaint in (
        ({"data_dir": tmp_path / "data"}, "--data-dir"),
        ({"data_dir": tmp_path / "nowhere"}, "--data-dir"),
        ({"size": 128}, "--size"),
    ):
        with pytest.raises(UsageError, match=complaint):
            train(Args(**args, run_dir=tmp_path / "run"))
    for i in range(9):
        (tmp_path / "data" / f"{i}.png").write_text("no image")
    with pytest.raises(UsageError, match="--data-dir"):
        train(Args(data_dir=tmp_path / "data", run_dir=tmp_path / "run"))
    for flags in ({"size": 100}, {"width": 0}, {"hint": "all"}):
        with pytest.raises(ValueError, match=next(iter(flags))):
            Args(**flags)
    assert not (tmp_path / "run").exists()


def test_grey_lines_fill_the_sheet(tmp_path):
    save_samples([torch.ones(1, 1, 4, 4), -torch.ones(1, 3, 4, 4)], tmp_path / "x.png")
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert sheet[5, 5].tolist() == [255] * 3 and sheet[5, 17].tolist() == [0] * 3 and sheet[0, 0].tolist() == [128] * 3
