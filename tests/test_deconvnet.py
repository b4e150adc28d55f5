"""Deconvnet: its way back against the transposed map, autograd and brute force; its training against a bar."""

import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gen import deconvnet
from gen.deconvnet import Args, ConvNet, Order, UsageError, evaluate, project, train, unpool

CLOCKS = {"charts/SPS", "time/elapsed"}
DIGITS = tuple(
    F.interpolate(part.float().unsqueeze(1), size=8, mode="area").squeeze(1).byte() if part.dim() == 3 else part
    for part in deconvnet.load_digits_28()
)
DRAW_FIGURES = deconvnet.draw_figures  # which most tests do without
SMALL = {"channels": (4, 6), "hidden": 16, "batch_size": 20, "train_images": 200, "torch_threads": 1}
pytestmark = pytest.mark.usefixtures("no_figures", "digits_of_8_pixels")


@pytest.fixture
def no_figures(monkeypatch, request):
    if "leaves_its_pictures" in request.node.name:
        return
    monkeypatch.setattr(deconvnet, "draw_figures", lambda *_: None)
    monkeypatch.setattr(deconvnet.Run, "plot", lambda *_: None)


@pytest.fixture
def digits_of_8_pixels(monkeypatch):
    monkeypatch.setattr(deconvnet, "load_digits_28", lambda: DIGITS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_pictures(n=5, size=8, channels=3, seed=0):
    return torch.randint(256, (n, channels, size, size), generator=generator(seed)).byte()


def normal(*shape, seed=1):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def make(size=8, channels=(4, 6), seed=0):
    """A network with random weights in float64."""
    torch.manual_seed(seed)
    mean, std = torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.2, 0.3, 0.25])
    model = ConvNet(Args(channels=channels, hidden=7), (3, size, size), 10, mean, std).double()
    with torch.no_grad():
        for conv in model.convs:
            conv.bias.normal_(0, 0.3)
    return model


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- forwards --------------------------------------------------------------------------------


def test_looking_sees_what_the_classifier_sees_and_where_each_maximum_was():
    model, pictures = make(), some_pictures()
    (first, switches1), (second, switches2) = model.look(pictures)
    assert first.shape == (5, 4, 4, 4) and second.shape == (5, 6, 2, 2)
    x = (pictures.double() / 255 - model.mean) / model.std
    for pooled, switches, conv in ((first, switches1, model.convs[0]), (second, switches2, model.convs[1])):
        maps = F.relu(conv(x))
        assert torch.allclose(pooled, F.max_pool2d(maps, 2))
        for n, c, i, j in np.ndindex(*pooled.shape):
            k = int(switches[n, c, i, j])
            assert maps[n, c, 2 * i + k // 2, 2 * j + k % 2] == pooled[n, c, i, j]
        x = pooled
    logits = model.head(F.relu(model.hidden(second.flatten(1))))
    assert torch.allclose(model(pictures), logits.float())
    kept = torch.randint(2, (5, 7), generator=generator()).double() * 2
    dropped = model.head(F.relu(model.hidden(second.flatten(1))) * kept)
    assert torch.allclose(model(pictures, kept), dropped.float())


# --- and back --------------------------------------------------------------------------------


def test_unpooling_puts_a_number_where_it_came_from_or_into_its_whole_square():
    pooled, switches = normal(2, 3, 2, 4), torch.randint(4, (2, 3, 2, 4), generator=generator())
    back, copied = unpool(pooled, switches), unpool(pooled, None)
    assert back.shape == copied.shape == (2, 3, 4, 8)
    for n, c, i, j in np.ndindex(*pooled.shape):
        square, k = torch.zeros(2, 2, dtype=torch.float64), int(switches[n, c, i, j])
        square[k // 2, k % 2] = pooled[n, c, i, j]
        assert torch.equal(back[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], square)
        assert (copied[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] == pooled[n, c, i, j]).all()
    maps = F.relu(normal(2, 3, 4, 8, seed=3))
    pooled, indices = F.max_pool2d(maps, 2, return_indices=True)
    assert torch.equal(
        unpool(pooled, deconvnet.squares(maps).max(-1).indices), F.max_unpool2d(pooled, indices, 2)
    )  # where a square is all zeros, both put a zero


@pytest.mark.parametrize("layer", [0, 1])
def test_with_all_switches_recorded_the_way_back_is_the_transposed_linear_map(layer):
    """<A x, y> = <x, A' y>, A: convolve, take the recorded cell, convolve, take the recorded cell."""
    model, pictures = make(), some_pictures()
    switches = [cells for _, cells in model.look(pictures)][: layer + 1]
    for seed in range(3):
        x, y = normal(5, 3, 8, 8, seed=seed), normal(*switches[-1].shape, seed=seed + 10)
        forwards = x
        for conv, cells in zip(model.convs, switches, strict=False):
            forwards = F.conv2d(forwards, conv.weight, padding=2)
            h, w = forwards.shape[2:]
            chosen = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
            place = (torch.arange(h) % 2).view(-1, 1) * 2 + torch.arange(w) % 2  # 0 to 3 within its square
            forwards = F.avg_pool2d(forwards * (chosen == place), 2) * 4
        back = project(model, y, switches, rectify=lambda maps: maps)
        assert (forwards * y).sum().item() == pytest.approx((x * back).sum().item(), rel=1e-10)


def test_with_the_forward_rectifications_recorded_too_it_is_the_gradient():
    model, pictures = make(), some_pictures()
    x = model.standardized(pictures).requires_grad_()
    first = model.convs[0](x)
    pooled = F.max_pool2d(F.relu(first), 2)
    second = model.convs[1](pooled)
    y = normal(5, 6, 2, 2)
    (gradient,) = torch.autograd.grad((F.max_pool2d(F.relu(second), 2) * y).sum(), x)
    passed = [second > 0, first > 0]
    switches = [cells for _, cells in model.look(pictures)]
    assert torch.allclose(project(model, y, switches, rectify=lambda maps: maps * passed.pop(0)), gradient)


@pytest.mark.parametrize("how", ["switches", "copy"])
def test_one_activation_of_each_layer_by_brute_force(how):
    """Step by step, filter by filter, as the paper describes it."""
    model, pictures = make(), some_pictures(1)
    seen = model.look(pictures)
    for layer in (0, 1):
        features = torch.zeros_like(seen[layer][0])
        n, c, i, j = (seen[layer][0] == seen[layer][0].max()).nonzero()[0].tolist()
        features[n, c, i, j] = seen[layer][0].max()
        maps = features[0]
        for k in range(layer, -1, -1):
            weight, cells = model.convs[k].weight, seen[k][1][0]
            size = 2 * maps.shape[1]
            unpooled = torch.zeros(len(maps), size, size, dtype=torch.float64)
            for f, a, b in np.ndindex(*maps.shape):
                for cell in range(4) if how == "copy" else [int(cells[f, a, b])]:
                    unpooled[f, 2 * a + cell // 2, 2 * b + cell % 2] = maps[f, a, b].clamp_min(0)
            maps = torch.zeros(weight.shape[1], size, size, dtype=torch.float64)
            for f, a, b in unpooled.nonzero().tolist():
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        if 0 <= a + dy < size and 0 <= b + dx < size:
                            maps[:, a + dy, b + dx] += unpooled[f, a, b] * weight[f, :, dy + 2, dx + 2]
        switches = [cells if how == "switches" else None for _, cells in seen[: layer + 1]]
        assert torch.allclose(project(model, features, switches)[0], maps)
        only = torch.zeros_like(features)
        only[n, c, i, j] = 1
        assert torch.allclose(deconvnet.pixels_of(model, pictures, layer, only, how)[0], maps)


def test_all_features_of_a_picture_are_each_alone():
    model, picture = make(), some_pictures(1)
    for layer, channels in ((0, 4), (1, 6)):
        pixels = deconvnet.each_alone(model, picture, layer, "switches")
        assert pixels.shape == (channels, 3, 8, 8)
        for k in range(channels):
            only = F.one_hot(torch.tensor(k), channels).view(1, -1, 1, 1)
            assert torch.allclose(pixels[k], deconvnet.pixels_of(model, picture, layer, only, "switches")[0])


def test_the_strongest_pictures_of_each_feature():
    model, pictures = make(), some_pictures(700)
    top = deconvnet.strongest(model, pictures, 1, 3)
    values = model.look(pictures)[1][0].flatten(2).max(2).values
    assert top.shape == (6, 3)
    for k in range(6):
        assert top[k].tolist() == sorted(range(700), key=lambda i, k=k: -values[i, k].item())[:3]


def test_the_correlation_is_numpys():
    model, pictures = make(), some_pictures(20)
    for layer in (0, 1):
        values = model.look(pictures)[layer][0].transpose(0, 1).flatten(1).numpy()
        r = np.abs(np.corrcoef(values[values.max(1) > 0]))
        expected = r[~np.eye(len(r), dtype=bool)].mean()
        assert deconvnet.mean_correlation(model, pictures, layer) == pytest.approx(expected, rel=1e-9)
    with torch.no_grad():
        model.convs[0].bias[0] = -1e6  # a dead feature is correlated with nothing, and left out
    values = model.look(pictures)[0][0].transpose(0, 1).flatten(1).numpy()[1:]
    r = np.abs(np.corrcoef(values))
    expected = r[~np.eye(len(r), dtype=bool)].mean()
    assert deconvnet.mean_correlation(model, pictures, 0) == pytest.approx(expected, rel=1e-9)


def test_the_likeness_is_one_where_features_are_the_picture_and_small_where_they_are_noise():
    torch.manual_seed(0)
    model = ConvNet(Args(channels=(2, 2), hidden=3), (1, 8, 8), 10, torch.zeros(1), torch.ones(1)).double()
    with torch.no_grad():
        for conv in model.convs:
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[:, :, 2, 2] = torch.eye(2, conv.in_channels)
    coarse = some_pictures(3, 4, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)  # squares of one grey
    assert deconvnet.likeness(model, coarse, 0, "copy") == pytest.approx(1)
    assert deconvnet.likeness(model, coarse, 0, "switches") < 0.9
    r = deconvnet.correlations(normal(1, 50), normal(1, 50, seed=2)).item()
    assert r == pytest.approx(np.corrcoef(normal(1, 50), normal(1, 50, seed=2))[0, 1])


# --- training --------------------------------------------------------------------------------


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    flags = {"channels": (8, 16), "hidden": 64, "batch_size": 50, "torch_threads": 1}
    row = train(Args(**flags, epochs=10.0, learning_rate=4e-3, run_dir=tmp_path / "run"))
    assert row["eval/accuracy"] > 0.85 and row["losses/accuracy"] > 0.95
    assert 0 < row["eval/correlation_2"] < 1 and 0 < row["eval/likeness_2"] < 1
    figures = [*(f"{name}{layer}" for name in ("features", "one", "strongest") for layer in (1, 2)), "unpooling"]
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", *(f"{name}.png" for name in figures)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    tiles = {"features1": (11, 1), "features2": (11, 2), "one1": (16, 8), "strongest1": (24, 2), "unpooling": (17, 2)}
    for name, (across, down) in tiles.items():
        picture = Image.open(tmp_path / "run" / f"{name}.png")
        assert picture.size == (across * 18, down * 18)  # 8 pixels and a line, each two wide
        assert np.asarray(picture).std() > 10


def test_every_figure_shows_what_it_says(tmp_path, monkeypatch):
    """The tiles that the figures are made of, for a network whose features are the picture itself."""
    torch.manual_seed(0)
    args = Args(channels=(2, 3), hidden=3, unpool="copy", picture=2, feature=(2, 1))
    model = ConvNet(args, (1, 8, 8), 10, torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        for conv in model.convs:
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[:, 0, 2, 2] = torch.arange(1.0, conv.out_channels + 1)
    test = torch.zeros(70, 1, 8, 8, dtype=torch.uint8)
    test[:, 0, 2, 2] = torch.arange(70).byte() + 10
    saved = {}
    monkeypatch.setattr(deconvnet, "save_grid", lambda run, name, tiles, columns: saved.update({name: tiles}))
    DRAW_FIGURES(None, model, test, args)
    assert torch.equal(saved["features1"][0], test[2].float() / 255)
    square = torch.zeros(1, 8, 8)
    square[:, 2:4, 2:4] = 0.5
    assert torch.allclose(saved["features1"][1], 0.5 + square) and (saved["features1"][3:] == 0.5).all()
    one = saved["one1"].view(8, 16, 1, 8, 8)
    assert torch.equal(one[:, :8].reshape(64, 1, 8, 8), test[:64].float() / 255)
    brightness = one[:, 8:].reshape(64, 1, 8, 8)[:, 0, 2, 2] - 0.5  # all by one scale: as bright as the picture
    assert torch.allclose(brightness, (test[:64, 0, 2, 2] / 73 * 0.5).float(), atol=1e-6)
    strongest = saved["strongest1"].view(-1, 2, 1, 8, 8)
    assert torch.equal(strongest[:3, 1], test[[69, 68, 67]].float() / 255)
    assert torch.allclose(strongest[0, 0], 0.5 + square)
    compared = saved["unpooling"]
    assert torch.equal(compared[0], test[2].float() / 255)
    half = len(compared) // 2
    assert (compared[1] != 0.5).sum() == 1 and (compared[half + 1] != 0.5).sum() == 4


def in_two_processes(function):
    """Call function(rank) in two processes that torchrun would have started."""
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
                function(rank)
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]


def test_torchrun_writes_the_rows_that_one_process_writes(tmp_path):
    flags = SMALL | {"epochs": 0.5, "log_every": 2, "batch_size": 25}
    train(Args(**flags, run_dir=tmp_path / "one"))
    in_two_processes(lambda _: train(Args(**flags, run_dir=tmp_path / "two")))
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-3) for key in a)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.4, log_every=2, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"epochs": 1.0, "log_every": 2, "checkpoint_every": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = deconvnet.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(deconvnet.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_dropout_drops_its_share_keeps_the_mean_and_is_new_in_every_update(tmp_path, monkeypatch):
    seen, shipped = [], deconvnet.update

    def spy(model, optimizer, pictures, labels, kept, *rest):
        seen.append(kept)
        return shipped(model, optimizer, pictures, labels, kept, *rest)

    monkeypatch.setattr(deconvnet, "update", spy)
    train(Args(**SMALL | {"hidden": 200}, epochs=1.0, dropout=0.25, run_dir=tmp_path / "run"))
    kept = torch.stack(seen)
    assert kept.shape == (10, 20, 200) and len(kept.flatten(1).unique(dim=0)) == 10
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("anneal", [True, False])
def test_the_step_size_falls_in_a_straight_line_or_not_at_all(anneal, tmp_path, monkeypatch):
    seen, shipped = [], deconvnet.update

    def spy(model, optimizer, *rest):
        seen.append(optimizer.param_groups[0]["lr"])
        return shipped(model, optimizer, *rest)

    monkeypatch.setattr(deconvnet, "update", spy)
    train(Args(**SMALL, epochs=1.0, learning_rate=0.01, anneal_lr=anneal, run_dir=tmp_path / "run"))
    assert seen == pytest.approx([0.01 * (1 - i / 10 * anneal) for i in range(10)])


def test_evaluate_repeats_the_accuracy_of_the_last_row(tmp_path):
    row = train(Args(**SMALL | {"epochs": 0.3, "run_dir": tmp_path / "run"}))
    assert evaluate(tmp_path / "run") == row["eval/accuracy"]


def test_pictures_are_standardized_by_the_training_pictures():
    pictures = some_pictures(50)
    model = deconvnet.make_model(Args(**SMALL), pictures, torch.arange(50) % 10, torch.device("cpu"))
    x = model.standardized(pictures).transpose(0, 1).flatten(1)
    assert torch.allclose(x.mean(1), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std(1, correction=0), torch.ones(3), atol=1e-4)


def test_pictures_without_labels_are_turned_and_the_label_is_by_how_much():
    pictures = some_pictures(9)
    turned, labels = deconvnet.quarter_turns(pictures)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    for picture, found, k in zip(pictures, turned, labels.tolist(), strict=True):
        assert np.array_equal(found.numpy(), np.rot90(picture.numpy(), k, (1, 2)))


def test_larger_pictures_are_cut_larger_or_enlarged():
    _, _, test, _ = deconvnet.load_data(Args(dataset="photos", size=48), torch.device("cpu"))
    assert test.shape == (500, 3, 48, 48) and test.dtype == torch.uint8
    _, _, test, _ = deconvnet.load_data(Args(size=16), torch.device("cpu"))
    assert test.shape == (297, 1, 16, 16) and test.dtype == torch.uint8
    small = F.avg_pool2d(test.float(), 2)
    assert (small - DIGITS[2].unsqueeze(1)).abs().mean() < 20


def test_every_update_takes_a_full_batch_and_every_epoch_each_picture_once():
    order = Order(10, 4, 3, torch.device("cpu"))
    taken = torch.cat([order.batch(step) for step in range(10)]).view(4, 10)
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in taken)
    assert len({tuple(epoch.tolist()) for epoch in taken}) == 4


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(deconvnet, "update", lambda *_: torch.tensor([math.nan, 0.0]))
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_bfloat16_learns_what_float32_learns(tmp_path):
    found = [train(Args(**SMALL, epochs=0.5, bf16=on, run_dir=tmp_path / str(on))) for on in (False, True)]
    assert found[0]["losses/loss"] != found[1]["losses/loss"]
    assert found[1]["losses/loss"] == pytest.approx(found[0]["losses/loss"], rel=0.02)


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"learning_rate": math.nan}, "--learning-rate"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"dropout": 1.0}, "--dropout"),
        ({"size": 30}, "--size must be a multiple of 4"),
        ({"size": -4}, "--size"),
        ({"channels": (1, 64)}, "--channels"),
        ({"feature": (33, 1)}, "--feature: 1 to 32"),
        ({"picture": 297}, "--picture: at most 296"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder", "folder": Path("nowhere")}, "at least 20 pictures"),
        ({"dataset": "emoji", "font": Path("nowhere.ttf")}, "--font"),
        ({"dataset": "photos", "size": 100}, "--size: .* at most 80"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    train(Args(**SMALL, epochs=0.1, run_dir=tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, epochs=0.1, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"channels": [4, 8]}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    (tmp_path / "run/checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="damaged"):
        evaluate(tmp_path / "run")


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "gen/deconvnet.py", "--resume", tmp_path / "x", "--seed", "1"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
