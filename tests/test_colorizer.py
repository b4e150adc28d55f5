"""Colorizer: lines, hints, colours against OpenCV and loops, gradients against autograd's, its page in a browser."""

import csv
import io
import json
import math
import os
import re
import shutil
import socket
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.peers import plain_pix2pix
from gen import colorizer
from gen.colorizer import Args, UsageError, blur, colorize, hint_in_use, train, training_hint, update, white_out

CLOCKS = {"charts/SPS", "time/elapsed", "time/picture"}
SMALL = {"width": 2, "batch_size": 4, "log_every": 3, "torch_threads": 1, "eval_images": 8}


def shapes(num, seed=0):
    """Discs and squares of one colour each on white, uint8 [num, 3, 64, 64]."""
    rng, found = np.random.default_rng(seed), np.full((num, 64, 64, 3), 255, np.uint8)
    for picture in found:
        for _ in range(2):
            color, (x, y) = rng.integers(200, size=3).tolist(), rng.integers(12, 52, size=2).tolist()
            if rng.integers(2):
                cv2.circle(picture, (x, y), int(rng.integers(6, 14)), color, -1)
            else:
                cv2.rectangle(picture, (x - 8, y - 8), (x + 8, y + 8), color, -1)
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, request):
    """Forty shapes to train on in place of 5,000 crops, a judge of a few updates, no curves but for one test."""
    monkeypatch.setattr(colorizer, "load_photos", lambda size: (shapes(40), None, shapes(10, 1), None))
    if "judge" not in request.node.name:
        monkeypatch.setattr(colorizer, "train_judge", partial(colorizer.train_judge, updates=3))
    if "leaves_its_pictures" not in request.node.name:
        monkeypatch.setattr(colorizer.Run, "plot", lambda *_: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run, and the last row of its metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colorizer, "load_photos", lambda size: (shapes(40), None, shapes(10, 1), None))
        patch.setattr(colorizer, "train_judge", partial(colorizer.train_judge, updates=3))
        patch.setattr(colorizer.Run, "plot", lambda *_: None)
        folder = tmp_path_factory.mktemp("trained") / "run"
        return folder, train(Args(**SMALL, epochs=0.3, run_dir=folder))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- lines and hints -------------------------------------------------------------------------


@pytest.mark.parametrize("size, block", [(64, 3), (128, 5), (256, 9)])
def test_a_line_is_where_a_pixel_is_darker_than_those_around_it(size, block):
    picture = torch.randint(256, (1, 3, size, size), generator=generator(), dtype=torch.uint8)
    found = colorizer.find_lines(picture)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    dark = (picture[0].double() * weights).sum(0).round()
    padded = F.pad(dark.view(1, 1, size, size), [block // 2] * 4, mode="replicate")
    mean = F.avg_pool2d(padded, block, stride=1)[0, 0].round()
    assert found.shape == (1, 1, size, size) and found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 255}
    assert ((found[0, 0] == 255) == (dark > mean - 2)).double().mean() > 0.98  # grey levels are rounded differently
    assert (colorizer.find_lines(torch.full((2, 3, size, size), 77, dtype=torch.uint8)) == 255).all()


def test_squares_are_white_and_the_rest_is_as_it_was():
    x = torch.rand(3, 3, 64, 64, generator=generator()) * 0.9
    corners = colorizer.random_corners(3, Args(), generator(1))
    found, expected = white_out(x, corners), x.clone()
    assert corners.shape == (3, 30, 2) and corners.min() >= 0
    hole = round(64 * 50 / 256)
    assert corners.max() <= 64 - hole
    for i in range(3):
        for y, x_ in corners[i].tolist():
            expected[i, :, y : y + hole, x_ : x_ + hole] = 1
    assert torch.equal(found, expected) and torch.equal(white_out(x, corners[:, :0]), x)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_share_that_is_left_is_what_squares_at_random_places_leave(size):
    args = Args(size=size, dataset="emoji")
    left = [
        1 - white_out(torch.zeros(50, 1, size, size), colorizer.random_corners(50, args, generator(seed))).mean()
        for seed in range(2 if size == 256 else 10)
    ]
    assert colorizer.share_left(size) == pytest.approx(np.mean(left), abs=0.01)
    if size == 256:
        assert colorizer.share_left(size) == pytest.approx(0.383, abs=0.0005)  # not the post's 0.3


def test_every_corner_where_a_square_fits_is_drawn_equally_often():
    corners = colorizer.random_corners(5000, Args(), generator())
    counts = corners.flatten().bincount()
    assert len(counts) == 64 - 12 + 1 and counts.min() > 0.9 * counts.max() * 0.95


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_blur_is_opencvs_box(size):
    x = torch.rand(2, 3, size, size, generator=generator())
    box = round(size * 100 / 256)
    for picture, found in zip(x, blur(x), strict=True):
        expected = cv2.blur(picture.permute(1, 2, 0).numpy(), (box, box))
        assert torch.allclose(found.permute(1, 2, 0), torch.from_numpy(expected), atol=1e-5)


def test_the_hint_in_use_is_as_pale_as_training_hints_are_on_average():
    x = torch.rand(1, 3, 64, 64, generator=generator())
    args = Args(hint="holes")
    drawn = training_hint(x.expand(3000, -1, -1, -1), colorizer.random_corners(3000, args, generator(1)), args)
    assert hint_in_use(x, args).mean().item() == pytest.approx(drawn.mean().item(), abs=0.01)
    black = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(hint_in_use(black, args), torch.tensor(1 - colorizer.share_left(64)))
    white = torch.ones(1, 3, 64, 64)
    assert torch.allclose(hint_in_use(white, args), white)
    assert torch.equal(hint_in_use(x, Args(hint="blur")), blur(x))
    assert torch.equal(training_hint(x, None, Args(hint="blur")), blur(x))
    assert hint_in_use(x, Args(hint="none")).shape == training_hint(x, None, Args(hint="none")).shape == (1, 0, 64, 64)


def test_messy_strokes_have_colours_of_the_picture_miss_some_of_it_and_leave_its_bounds():
    picture = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    picture[0, :, 20:44, 20:44] = torch.tensor([200, 30, 40], dtype=torch.uint8).view(3, 1, 1)
    found = colorizer.scribble(picture, np.random.default_rng(0))[0]
    assert {tuple(pixel) for pixel in found.flatten(1).T.tolist()} == {(255, 255, 255), (200, 30, 40)}
    painted, inside = found[0] == 200, picture[0, 0] == 200
    assert 0.2 < painted[inside].float().mean() < 1 and 0.02 < painted[~inside].float().mean() < 0.6
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert torch.equal(colorizer.scribble(white, np.random.default_rng(0)), white)


# --- the networks and their losses -----------------------------------------------------------


def kernels(module):
    return [
        (type(m), m.weight.shape, m.stride) for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_layers_are_pix2pix_s(size):
    with torch.device("meta"):
        args = Args(size=size, width=64, dataset="emoji")
        ours = kernels(colorizer.Generator(args)), kernels(colorizer.Discriminator(args))
        theirs = kernels(plain_pix2pix.unet(4, 3, size)), kernels(plain_pix2pix.patch_discriminator(7))
    assert sorted(map(str, ours[0])) == sorted(map(str, theirs[0])) and ours[1] == theirs[1]


@pytest.mark.parametrize("skip", [True, False])
def test_without_skips_everything_passes_through_the_last_pixel(skip):
    painter = colorizer.Generator(Args(width=4, skip=skip))
    seen = []
    painter.down[-1].register_forward_hook(lambda _, __, out: seen.append(out.shape) or torch.zeros_like(out))
    x = torch.rand(2, 4, 64, 64, generator=generator())
    first, second = painter(x)
    assert seen == [(2, 32, 1, 1)] and first.shape == (3, 64, 64)
    assert torch.equal(first, second) != skip
    assert first.min() > 0 and first.max() < 1


@pytest.mark.parametrize("loss, hint", [("gan", "holes"), ("gan", "none"), ("l2", "blur")])
def test_an_update_takes_the_gradients_of_the_losses_as_they_are_defined(loss, hint):
    args = Args(loss=loss, hint=hint, width=4, batch_size=6)  # of which this process has half
    networks = colorizer.make_networks(args, torch.device("cpu"))
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.mul_(3)
    pictures, before = shapes(3), {key: value.clone() for key, value in networks.state_dict().items()}
    lines, corners = colorizer.find_lines(pictures), colorizer.random_corners(3, args, generator())
    x = pictures / 255
    seen = torch.cat([lines / 255, training_hint(x, corners, args)], 1)
    y = networks["generator"](seen)
    expected = {}
    if loss == "l2":
        total = F.mse_loss(y, x) / 2
        terms = [F.mse_loss(y, x) * 3, 0, 0]
    else:
        adversary = networks["discriminator"]
        on_real, on_fake = adversary(torch.cat([seen, x], 1)), adversary(torch.cat([seen, y], 1))
        bce, one, zero = F.binary_cross_entropy_with_logits, torch.ones_like(on_real), torch.zeros_like(on_real)
        total = (100 * F.l1_loss(y, x) + bce(on_fake, one)) / 2
        detect = (bce(on_real, one) + bce(on_fake, zero)) / 2
        weights = dict(adversary.named_parameters(prefix="discriminator"))
        grads = torch.autograd.grad(detect / 2, list(weights.values()), retain_graph=True)
        expected |= dict(zip(weights, grads, strict=True))
        terms = [F.l1_loss(y, x) * 3, bce(on_fake, one) * 3, detect * 3]
    weights = dict(networks["generator"].named_parameters(prefix="generator"))
    expected |= dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))

    optimizers = {name: torch.optim.SGD(network.parameters(), lr=1.0) for name, network in networks.items()}
    found = update(networks, optimizers, pictures, lines, corners, args)
    assert found.tolist() == pytest.approx([torch.as_tensor(term).item() for term in terms], rel=1e-4)
    assert expected.keys() == before.keys()
    for name, value in networks.state_dict().items():
        assert torch.allclose(before[name] - value, expected[name], rtol=1e-3, atol=1e-5), name


def test_a_picture_s_colours_do_not_depend_on_the_batch_around_it():
    args = Args(width=4)
    painter = colorizer.make_networks(args, torch.device("cpu"))["generator"]
    pictures = shapes(5)
    lines = colorizer.find_lines(pictures)
    alone = torch.cat([colorize(painter, lines[i : i + 1], pictures[i : i + 1], args) for i in range(5)])
    assert torch.allclose(colorize(painter, lines, pictures, args), alone, atol=1e-6)


# --- measures --------------------------------------------------------------------------------


def test_lab_is_opencvs_and_grey_keeps_the_lightness_only():
    x = torch.rand(2, 3, 32, 32, generator=generator()) ** 2
    for picture, found in zip(x, colorizer.lab(x), strict=True):
        expected = cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2Lab)
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 0.6
    lightness, a, b = colorizer.lab(colorizer.grey(x)).unbind(1)
    assert torch.allclose(lightness, colorizer.lab(x)[:, 0], atol=0.01)
    assert a.abs().max() < 0.01 and b.abs().max() < 0.01
    red = colorizer.lab(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).flatten().tolist()
    assert red == pytest.approx([53.24, 80.09, 67.20], abs=0.1)


def test_differences_are_means_over_pixels_and_sums_over_pictures():
    x, y = torch.rand(2, 3, 3, 8, 8, generator=generator()).unbind(0)
    judge = colorizer.Judge(5)
    l1, chroma, distance = colorizer.differences(x, y, judge).tolist()
    a, b = (colorizer.lab(part)[:, 1:] for part in (x, y))
    assert l1 == pytest.approx(sum(F.l1_loss(x[i], y[i]).item() for i in range(3)), rel=1e-5)
    assert chroma == pytest.approx(3 * (a - b).pow(2).sum(1).sqrt().mean().item(), rel=1e-5)
    cosines = [F.cosine_similarity(p, q, dim=1) for p, q in zip(judge.features(x), judge.features(y), strict=True)]
    expected = sum((2 - 2 * cosine).mean((1, 2)) for cosine in cosines) / 3  # |a - b|^2 = 2 - 2 cos on the sphere
    assert distance == pytest.approx(expected.sum().item(), rel=1e-4)
    assert colorizer.differences(x, x, judge).abs().max() < 1e-3


def test_the_judge_knows_its_pictures_and_no_seed_of_the_run_changes_it():
    torch.manual_seed(0)
    judge, accuracy = colorizer.train_judge(shapes(20), updates=80)
    assert accuracy > 0.4  # by chance 0.05
    torch.manual_seed(1)
    again, _ = colorizer.train_judge(shapes(20), updates=80)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))


def test_only_test_pictures_without_a_near_twin_count(monkeypatch):
    pictures, others = shapes(30), shapes(6, 1)
    noisy = (pictures[:4].float() + 5).clamp(0, 255).byte()
    test = torch.cat([others, noisy])
    grey = colorizer.grey(pictures / 255)[:, 0], colorizer.grey(test / 255)[:, 0]
    expected = torch.stack([((grey[0] - one) ** 2).mean((1, 2)).sqrt().min() for one in grey[1]])
    assert torch.allclose(colorizer.distance_to_nearest(test, pictures), expected, atol=1e-4)
    monkeypatch.setattr(colorizer, "load_photos", lambda size: (pictures, None, test, None))
    train_, lines, left, left_lines = colorizer.load_data(Args(train_images=20), torch.device("cpu"))
    assert torch.equal(left, test[expected > 0.05]) and len(left) == 6
    assert len(train_) == len(lines) == 20 and torch.equal(left_lines, colorizer.find_lines(left))
    assert len(colorizer.load_data(Args(eval_images=3), torch.device("cpu"))[2]) == 3


# --- training --------------------------------------------------------------------------------


def test_it_learns_to_put_the_colours_between_the_lines(tmp_path, monkeypatch):
    """Scenes on coloured ground, by heart: nearer to them than the hint, which has no lines, or lines and strokes."""
    pictures, rng = shapes(8), np.random.default_rng(7)
    for picture in pictures:
        picture[:, (picture == 255).all(0)] = torch.from_numpy(rng.integers(60, 240, size=(3, 1))).byte()
    monkeypatch.setattr(colorizer, "load_photos", lambda size: (pictures, None, pictures, None))
    flags = {"width": 8, "hint": "blur", "epochs": 100.0, "log_every": 200, "torch_threads": 1}
    row = train(Args(**flags, run_dir=tmp_path / "run"))
    assert row["eval/l1"] == row["eval/full_l1"] and row["eval/ab"] == row["eval/full_ab"]
    assert row["eval/l1"] < 0.75 * row["eval/blur_l1"] and row["eval/ab"] < 0.8 * row["eval/blur_ab"]
    assert row["eval/l1"] < 0.25 * row["eval/grey_l1"] and row["eval/l1"] < 0.25 * row["eval/messy_l1"]
    assert row["eval/messy_l1"] < row["eval/empty_l1"]


@pytest.mark.parametrize("flags", [{}, {"hint": "none", "loss": "l2", "skip": False}])
def test_a_run_leaves_its_pictures(tmp_path, flags):
    row = train(Args(**SMALL, **flags, epochs=0.8, run_dir=tmp_path / "run"))
    pictures = {"training", "inputs", "curve"} | ({"hints"} if not flags else set())
    names = {"args.json", "metrics.csv", "checkpoint.pt", *(f"{name}.png" for name in pictures)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert (row["eval/full_l1"] is None) == (row["losses/deceive"] is None) == bool(flags)
    assert row["eval/blur_ab"] > 0 and 0 < row["time/picture"] < 1
    side = 65 * 2  # drawn at twice their size; eight test pictures; originals, lines, hint, after 3, 6, 8 updates
    assert Image.open(tmp_path / "run/training.png").size == ((5 if flags else 6) * side, 8 * side)
    assert Image.open(tmp_path / "run/inputs.png").size == (5 * side, 8 * side)
    originals = np.asarray(Image.open(tmp_path / "run/inputs.png"))[:128:2, :128:2]
    assert any((picture.permute(1, 2, 0).numpy() == originals).all() for picture in shapes(10, 1))


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.6}
    train(Args(**flags, run_dir=tmp_path / "one"))
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
                train(Args(**flags, run_dir=tmp_path / "two"))
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-3) for key in a if a[key])


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.5, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"epochs": 1.5, "checkpoint_every": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = colorizer.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(colorizer.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    for name in ("training.png", "hints.png"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "half"))


def test_the_step_size_falls_over_the_second_half(tmp_path):
    assert colorizer.learning_rate(Args(), 0.5) == Args().learning_rate
    assert colorizer.learning_rate(Args(), 0.75) == pytest.approx(Args().learning_rate / 2)
    train(Args(**SMALL | {"log_every": 1}, epochs=0.4, run_dir=tmp_path / "run"))
    rates = [float(row["charts/learning_rate"]) for row in rows(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])


def test_every_picture_of_a_batch_has_holes_of_its_own_and_its_own_lines(tmp_path, monkeypatch):
    seen, shipped = [], colorizer.update

    def spy(networks, optimizers, pictures, lines, corners, args):
        seen.append(corners.clone())
        assert torch.equal(lines, colorizer.find_lines(pictures))
        return shipped(networks, optimizers, pictures, lines, corners, args)

    monkeypatch.setattr(colorizer, "update", spy)
    train(Args(**SMALL, epochs=0.9, run_dir=tmp_path / "run"))
    corners = torch.cat(seen)
    assert corners.shape == (36, 30, 2) and len({tuple(one.flatten().tolist()) for one in corners}) == 36


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(colorizer, "update", lambda *_: torch.full((3,), math.nan))
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_bfloat16_learns_what_float32_learns(tmp_path):
    found = [train(Args(**SMALL, epochs=0.5, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["eval/l1"] != found[1]["eval/l1"]
    assert found[1]["losses/error"] == pytest.approx(found[0]["losses/error"], rel=0.02)


# --- painting with it ------------------------------------------------------------------------


def save(picture, path):
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return path


def test_paint_colours_a_file_with_the_hint(trained, tmp_path, capsys):
    folder, _ = trained
    picture = shapes(1, 5)[0]
    path, hint = save(picture, tmp_path / "drawing.png"), save(picture, tmp_path / "strokes.png")
    colorizer.main(["--paint", str(path), "--with-hint", str(hint), "--model", str(folder)])
    said = capsys.readouterr().out
    assert re.fullmatch(r".*drawing-painted.png: 64x64 pixels, painted in 0\.\d+ seconds\n", said)
    found = torch.from_numpy(np.array(Image.open(tmp_path / "drawing-painted.png"))).permute(2, 0, 1)
    args, painter, _ = colorizer.load_painter(folder, "--model")
    expected = colorize(painter, colorizer.find_lines(picture.unsqueeze(0)), picture.unsqueeze(0), args)[0]
    assert torch.equal(found, (expected * 255).round().byte())
    colorizer.main(["--paint", str(path), "--model", str(folder)])
    without = torch.from_numpy(np.array(Image.open(tmp_path / "drawing-painted.png"))).permute(2, 0, 1)
    assert not torch.equal(found, without)


def test_what_cannot_be_painted_is_refused_in_one_line(trained, tmp_path):
    folder, _ = trained
    picture = save(shapes(1)[0], tmp_path / "picture.png")
    small = save(shapes(1)[0][:, :5, :9], tmp_path / "small.png")
    other = save(shapes(1)[0][:, :40], tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:60])
    blind = tmp_path / "blind"
    train(Args(**SMALL, epochs=0.1, hint="none", run_dir=blind))
    for path, hint, model, complaint in (
        (tmp_path / "nowhere.png", None, folder, "--paint .*no picture that can be read"),
        (tmp_path / "text.png", None, folder, "no picture that can be read"),
        (broken, None, folder, "no picture that can be read"),
        (small, None, folder, "9x5 pixels are too few"),
        (picture, other, folder, "--with-hint .* is 64x40 pixels, the picture 64x64"),
        (picture, small, folder, "--with-hint .* too few"),
        (picture, picture, blind, "trained without hints"),
        (picture, None, tmp_path, "--model .*no run to load"),
    ):
        with pytest.raises(UsageError, match=complaint) as error:
            colorizer.paint(path, hint, model)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="trained without hints"):
        colorizer.demo(blind, 7860)
    assert not list(tmp_path.glob("*-painted.png"))


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    saved, checkpoint = json.loads((folder / "args.json").read_text()), torch.load(folder / "checkpoint.pt")
    picture = save(shapes(1)[0], tmp_path / "picture.png")

    def refused(complaint):
        for verb in (lambda: colorizer.paint(picture, None, folder), lambda: colorizer.demo(folder, 7860)):
            with pytest.raises(UsageError, match=complaint):
                verb()

    (folder / "args.json").write_text(json.dumps(saved | {"width": 4}))
    refused("does not fit")
    with pytest.raises(UsageError, match=r"--resume .*does not fit"):
        train(Args(resume=folder))
    (folder / "args.json").write_text(json.dumps(saved | {"latent_dim": 4}))
    refused("the run of another script")
    (folder / "args.json").write_text(json.dumps(saved))
    torch.save({"model": checkpoint["generator"]}, folder / "checkpoint.pt")
    refused("does not fit")
    (folder / "checkpoint.pt").write_bytes(b"nothing")
    refused("damaged")


def test_a_port_in_use_is_named(trained):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port}: cannot be used"):
            colorizer.demo(trained[0], port)


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["--epochs", "0"], "--epochs"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--batch-size", "41"], "--batch-size: at most 40"),
        (["--width", "0"], "--width"),
        (["--train-images", "-1"], "--train-images"),
        (["--port", "0"], "--port"),
        (["--size", "128"], "--size: --dataset photos"),
        (["--dataset", "folder"], "--folder"),
        (["--dataset", "folder", "--folder", "nowhere"], "at least 20 pictures"),
        (["--dataset", "emoji", "--font", "nowhere.ttf"], "--font"),
        (["--paint", "x.png"], "needs --model"),
        (["--model", "x"], "needs --model"),
        (["--with-hint", "x.png"], "--with-hint goes with both"),
        (["--paint", "x.png", "--model", "y", "--epochs", "3"], "leave out --epochs"),
        (["--demo", "x", "--hint", "blur"], "leave out --hint"),
        (["--resume", "x", "--batch_size", "3"], "leave out --batch-size"),
        (["--demo", "nowhere"], "--demo nowhere: no run to load"),
        (["--resume", "nowhere"], "--resume nowhere: no run to load"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(argv, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        colorizer.main(argv)
        said = ""
    except UsageError as error:
        said = str(error)
    except SystemExit:  # what the arguments alone show to be wrong, tyro says in a box
        said = " ".join(word for word in capsys.readouterr().err.split() if word != "│")
    assert complaint in said
    assert not list(tmp_path.iterdir())


# --- the page --------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")


@pytest.mark.timeout(600)  # a browser that draws without a GPU takes its time on a busy machine
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's chromium")
def test_a_stroke_of_colour_changes_what_the_page_paints(monkeypatch, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shipped, hints = colorizer.colorize, []
    monkeypatch.setattr(colorizer, "colorize", lambda *given: hints.append(given[2][0]) or shipped(*given))
    painter = colorizer.make_networks(Args(width=4), torch.device("cpu"))["generator"]
    with torch.no_grad():
        for parameter in painter.parameters():
            parameter.mul_(4)  # so that it does not paint grey on grey
    app = colorizer.page(painter, shapes(2), Args(width=4))
    _, url, _ = app.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    assert url.startswith("http://127.0.0.1:")
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.goto(url)
            box = wait_for_canvas(page)
            blank = press_paint(page, sync_api)
            page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.4, steps=10)
            page.mouse.up()
            page.wait_for_timeout(500)
            colored = press_paint(page, sync_api, blank[0])
            page.get_by_role("button", name="Another drawing").click()
            page.wait_for_timeout(1000)
            other = press_paint(page, sync_api, colored[0])
            browser.close()
    finally:
        app.close()
    assert blank[1].shape == colored[1].shape == (512, 512, 3)
    assert np.abs(colored[1] - blank[1]).max() > 5 and np.abs(other[1] - blank[1]).max() > 5
    assert (hints[0] == 255).all() and (hints[2] == 255).all()  # white paper before the stroke, and on the next drawing
    painted = (hints[1][0] > 200) & (hints[1][2] < 100)  # red, the brush's first colour
    y, x = painted.nonzero().float().mean(0).tolist()
    assert 0.02 < painted.float().mean() < 0.2 and (y, x) == pytest.approx((0.4 * 64, 0.5 * 64), abs=3)


def wait_for_canvas(page):
    """Where the canvas lies on the page, once it answers, a little after it is there."""
    canvas = page.locator("canvas").first
    canvas.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    return canvas.bounding_box()


def press_paint(page, sync_api, before=None):
    """Press the button and wait until another picture appears: its address and its pixels."""
    page.get_by_role("button", name="Paint", exact=True).click()
    image = page.locator("#painted img")
    if before:
        sync_api.expect(image).not_to_have_attribute("src", before, timeout=30_000)
    source = image.get_attribute("src", timeout=30_000)
    return source, np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"), float)
