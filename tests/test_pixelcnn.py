"""PixelCNN: what it may see by brute force, its probabilities by enumeration, its drawing against the whole network."""

import csv
import itertools
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
from PIL import Image

from gen import pixelcnn
from gen.pixelcnn import Args, PixelCNN, UsageError, draw, evaluate, negative_log_likelihood, scaled, train

CLOCKS = {"charts/SPS", "time/elapsed"}
pytestmark = pytest.mark.usefixtures("no_figures")
SMALL = {"channels": 4, "layers": 2, "kernel_size": 3, "batch_size": 16, "train_images": 64, "eval_images": 8}
SMALL |= {"binarize": "dynamic", "torch_threads": 1}


@pytest.fixture
def no_figures(monkeypatch, request):
    """Drawing takes longer than the trainings of these tests: one of them looks at the pictures."""
    if "leaves_its_pictures" in request.node.name:
        return
    monkeypatch.setattr(pixelcnn, "draw_pictures", lambda *_: None)
    monkeypatch.setattr(pixelcnn.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(colours=1, levels=2, layers=3, channels=6, kernel_size=3, seed=0):
    """A model with random weights, large enough that every path shows, and none is cut off by a rectifier."""
    torch.manual_seed(seed)
    model = PixelCNN(colours, levels, layers, channels, kernel_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_().mul_(0.3)
        model.layers[-1].out.bias += 3
        model.head[1].bias += 3
    return model


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- what a prediction may see ---------------------------------------------------------------


@pytest.mark.parametrize("colours, layers, kernel_size", [(1, 1, 3), (1, 3, 3), (3, 1, 5), (3, 3, 3), (3, 2, 5)])
def test_changing_a_pixel_changes_no_prediction_before_it(colours, layers, kernel_size):
    """For every pixel and colour of a small picture: nothing before it and not itself, but what comes next."""
    model, side = make(colours, 4, layers, 12, kernel_size).double(), 5
    x = torch.rand(1, colours, side, side, generator=generator(), dtype=torch.float64) * 2 - 1
    places = list(itertools.product(range(side), range(side), range(colours)))  # in the order of drawing
    changed = x.repeat(len(places), 1, 1, 1)
    for n, (i, j, colour) in enumerate(places):
        changed[n, colour, i, j] += 1
    with torch.no_grad():
        difference = model(changed) - model(x.expand_as(changed))  # [n, h, w, c, levels]
    for n in range(len(places)):
        moved = difference[n].abs().amax(-1).flatten()  # [places]
        assert moved[: n + 1].max() < 1e-12
        if n + 1 < len(places) and places[n + 1][0] == places[n][0]:
            assert moved[n + 1] > 1e-6


@pytest.mark.parametrize("colours", [1, 3])
def test_there_is_no_blind_spot(colours):
    """With layers enough, a prediction depends on every pixel and colour before it, right above as well."""
    model, side = make(colours, 2, 5, 12), 6
    x = torch.zeros(1, colours, side, side, requires_grad=True)
    for i, j, colour in itertools.product(range(side), range(side), range(colours)):
        (gradient,) = torch.autograd.grad(model(x)[0, i, j, colour, 0], x)
        seen = gradient[0].permute(1, 2, 0).flatten() != 0  # in the order of drawing
        assert seen.tolist() == [k < (i * side + j) * colours + colour for k in range(len(seen))]


def test_masks_order_the_colours():
    """Two halves of six maps for three colours, from three maps: A sees earlier colours, B its own as well."""
    a = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0]]).float().repeat_interleave(2, 0)
    assert torch.equal(pixelcnn.colour_mask("A", 12, 3, 3, halves=2), a.repeat(2, 1))
    b = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).float().repeat_interleave(2, 0)
    assert torch.equal(pixelcnn.colour_mask("B", 12, 3, 3, halves=2), b.repeat(2, 1))
    assert torch.equal(pixelcnn.colour_mask("B", 6, 6, 3), b.repeat_interleave(2, 1))


def test_a_gate_lets_features_through():
    x = torch.randn(2, 6, 3, 4, generator=generator())
    for k in range(3):
        expected = torch.tanh(x[:, k]) / (1 + torch.exp(-x[:, 3 + k]))
        assert torch.allclose(pixelcnn.gate(x)[:, k], expected, atol=1e-6)


def test_the_stacks_are_the_masked_convolutions_of_the_paper():
    """One layer against kernels of full size whose later half is masked."""
    model = make(1, 2, 2, 4)
    layer, x = model.layers[0], torch.randn(2, 1, 6, 7, generator=generator())
    with torch.no_grad():
        for parameter in model.layers[1].out.parameters():
            parameter.zero_()  # of the second layer the residual remains
    vertical = torch.zeros(8, 1, 7, 7)
    vertical[:, :, :3] = layer.vertical.weight[:, :, 1:]  # three rows above; the fourth lies beyond the kernel of 7
    vertical = torch.cat([layer.vertical.weight[:, :, :1], vertical], 2)  # which reaches a row further here: 4 + 4
    horizontal = torch.zeros(8, 1, 1, 7)
    horizontal[..., :3] = layer.horizontal.weight[..., :3]  # mask A: not the pixel itself
    padded = torch.nn.functional.pad(x, (3, 3, 4, 3))
    above = torch.nn.functional.conv2d(padded, vertical, layer.vertical.bias)
    left = torch.nn.functional.conv2d(x, horizontal, layer.horizontal.bias, padding=(0, 3))
    expected = layer.out(pixelcnn.gate(left + layer.across(above)))
    assert torch.allclose(model.hidden(x), expected, atol=1e-5)


# --- probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_of_all_small_pictures_sum_to_one(seed):
    pictures = torch.tensor(list(itertools.product([0, 255], repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    model = make(seed=seed)
    nats = negative_log_likelihood(model, pictures).double()
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-5) and nats.std() > 0.1
    coloured = torch.tensor(list(itertools.product([0, 255], repeat=6)), dtype=torch.uint8).view(-1, 3, 1, 2)
    nats = negative_log_likelihood(make(3, seed=seed), coloured).double()
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-5) and nats.std() > 0.1


def test_the_likelihood_is_the_product_of_its_factors():
    """256 values, three colours: each factor from the network's answer to a picture of which nothing later is known."""
    model = make(3, 256)
    pictures = torch.randint(256, (2, 3, 2, 3), generator=generator()).byte()
    expected = torch.zeros(2).double()
    known = torch.zeros(2, 3, 2, 3)
    for i, j, colour in itertools.product(range(2), range(3), range(3)):
        log_p = model(known)[:, i, j, colour].double().log_softmax(1)
        expected -= log_p[torch.arange(2), pictures[:, colour, i, j].long()].detach()
        known[:, colour, i, j] = scaled(pictures[:, colour, i, j])
    assert torch.allclose(negative_log_likelihood(model, pictures).double(), expected, rtol=1e-5)
    bits = pixelcnn.bits_per_dimension(expected.mean().item(), (3, 2, 3))
    assert bits == pytest.approx(expected.mean().item() / 18 / 0.6931472, rel=1e-6)
    assert pixelcnn.bits_per_dimension(math.log(256) * 3072, (3, 32, 32)) == pytest.approx(8)  # knowing nothing
    assert scaled(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


# --- drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("colours, levels, kernel_size", [(1, 2, 3), (3, 256, 5)])
def test_drawing_from_kept_features_is_what_the_whole_network_says(colours, levels, kernel_size, monkeypatch):
    model = make(colours, levels, 3, 6, kernel_size)
    pictures = torch.randint(2, (3, colours, 6, 5), generator=generator()).byte() * 255
    seen, shipped = [], PixelCNN.logits
    monkeypatch.setattr(PixelCNN, "logits", lambda self, h: seen.append(shipped(self, h)) or seen[-1])
    drawn = draw(model, pictures, 2, generator(1))
    assert torch.equal(drawn[:, :, :2], pictures[:, :, :2]) and not torch.equal(drawn, pictures)
    steps = seen[:]
    with torch.no_grad():
        whole = model(scaled(drawn))
    places = list(itertools.product(range(2, 6), range(5), range(colours)))
    assert len(steps) == len(places)
    for (i, j, colour), logits in zip(places, steps, strict=True):
        assert torch.allclose(logits[:, 0, 0, colour], whole[:, i, j, colour], atol=1e-4)
    assert torch.equal(draw(model, pictures, 2, generator(1)), drawn)  # the generator decides
    assert not torch.equal(draw(model, pictures, 2, generator(2)), drawn)


def test_pictures_are_drawn_as_often_as_they_are_likely():
    model = make(seed=3)
    pictures = torch.tensor(list(itertools.product([0, 255], repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    p = torch.exp(-negative_log_likelihood(model, pictures)).detach()
    n = 20_000
    drawn = draw(model, torch.zeros(n, 1, 2, 2, dtype=torch.uint8), 0, generator())
    found = ((drawn > 0).flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16) / n
    assert ((found - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-4).all()
    upper = torch.tensor([[0, 255], [0, 0]], dtype=torch.uint8).expand(n, 1, 2, 2)  # completed: given its upper half
    drawn = draw(model, upper, 1, generator(1))
    found = ((drawn > 0).flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16) / n
    assert found[4:8].sum() == 1
    given = p[4:8] / p[4:8].sum()
    assert ((found[4:8] - given).abs() < 4 * (given * (1 - given) / n).sqrt() + 1e-4).all()


# --- training --------------------------------------------------------------------------------


def chains(n, seed):
    """Binary pictures of 4x4 whose pixels copy the one above with P = .9, and in the first row the one to the left.

    The entropy is that of one coin and of 15 biased ones.
    """
    rng = generator(seed)
    flips = torch.rand(n, 4, 4, generator=rng) < 0.1
    flips[:, 0, 0] = torch.rand(n, generator=rng) < 0.5
    x = torch.zeros(n, 4, 4, dtype=torch.bool)
    for i, j in itertools.product(range(4), range(4)):
        before = x[:, i - 1, j] if i else (x[:, 0, j - 1] if j else torch.zeros(n, dtype=torch.bool))
        x[:, i, j] = before ^ flips[:, i, j]
    return (x.byte() * 255).unsqueeze(1)


def test_it_learns_the_entropy_of_a_source_that_is_known():
    entropy = math.log(2) - 15 * (0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    args = Args(batch_size=64, channels=8, layers=2, kernel_size=3, binarize="static")
    pictures = chains(4000, 0)
    model = pixelcnn.make_model(args, pictures, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    order = pixelcnn.Order(4000, 64, 0, torch.device("cpu"))
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        pixelcnn.update(model, optimizer, pictures[order.batch(step)], args, negative_log_likelihood)
    found = pixelcnn.score(model, chains(4000, 1))
    assert entropy - 0.1 < found < entropy + 0.15  # its own standard error is 0.04


def test_a_new_model_knows_how_frequent_values_are():
    pictures = torch.randint(2, (500, 3, 4, 4), generator=generator()).byte() * 9 + 100
    pictures[:, 2] = 7
    model = pixelcnn.make_model(Args(channels=6, layers=1), pictures, torch.device("cpu"))
    p = model.head[-1].bias.detach().view(3, 256).exp()
    assert torch.allclose(p.sum(1), torch.ones(3))
    assert p[0, [100, 109]].tolist() == pytest.approx([0.5, 0.5], abs=0.05) and p[2, 7] > 0.95
    assert p[2, 8].item() == pytest.approx(1 / (8000 + 256))


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    """Independent pixels of the best brightness cost 356 nats, of one brightness for all 400."""
    flags = SMALL | {"channels": 8, "train_images": 300, "eval_images": 40, "batch_size": 8, "save_samples": 5}
    args = Args(**flags, epochs=2.0, learning_rate=1e-2, run_dir=tmp_path / "run")
    row = train(args)
    assert row["eval/nats"] < 340
    assert row["eval/bits_per_dim"] == pytest.approx(row["eval/nats"] / 784 / math.log(2))
    names = {"samples.png", "completions.png", "curve.png", "samples.npz"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names | {"args.json", "metrics.csv", "checkpoint.pt"}
    assert Image.open(tmp_path / "run/samples.png").size == (8 * 58, 8 * 58)
    shown = np.asarray(Image.open(tmp_path / "run/completions.png")).reshape(5, 58, 10, 58)[:, :56, :, :56]
    assert (shown[0, :28] == shown[1, :28]).all() and (shown[1, 28:] == 127).all()
    for k in (2, 3, 4):
        assert (shown[k, :28] == shown[0, :28]).all() and (shown[k, 28:] != shown[0, 28:]).any()
    assert (shown[2] != shown[3]).any() and set(np.unique(shown[2])) == {0, 255}

    saved = np.load(tmp_path / "run/samples.npz")
    assert saved["samples"].shape == (5, 1, 28, 28) and saved["samples"].dtype == np.uint8 and saved["seconds"] > 0
    assert set(np.unique(saved["samples"])) == {0, 255}
    args, checkpoint = pixelcnn.load_run(tmp_path / "run", "--run", Args)
    pictures, test, labels, test_labels = pixelcnn.load_data(args, torch.device("cpu"))
    model = pixelcnn.make_model(args, pictures, torch.device("cpu"))
    model.load_state_dict(checkpoint["model"])
    for name, x, y in (("train", pictures, labels), ("test", test, test_labels)):
        with torch.no_grad():
            codes = model.head[2](model.head[1](model.head[0](model.hidden(scaled(x[:20]))))).mean((2, 3)).numpy()
        assert saved[f"{name}_codes"].shape == (len(x), 8) and np.allclose(
            saved[f"{name}_codes"][:20], codes, atol=1e-5
        )
        assert saved[f"{name}_labels"].tolist() == y[: len(x)].tolist()


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 1.0, "log_every": 2}
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
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-4) for key in a if a[key])


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.5, log_every=1, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 2


@pytest.mark.parametrize("binarize", ["dynamic", "none"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, binarize):
    flags = SMALL | {"epochs": 1.25, "log_every": 1, "checkpoint_every": 2, "binarize": binarize}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = pixelcnn.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(pixelcnn.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)
    rates = [float(row["charts/learning_rate"]) for row in rows(tmp_path / "whole")]
    assert rates == pytest.approx([2e-3 * (1 - step / 5) for step in range(5)])


def test_evaluate_repeats_the_likelihood_of_the_last_row(tmp_path):
    row = train(Args(**SMALL | {"eval_images": 0, "epochs": 0.25, "run_dir": tmp_path / "run"}))
    assert evaluate(tmp_path / "run") == row["eval/nats"]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pixelcnn, "negative_log_likelihood", lambda model, x: model(scaled(x)).sum((1, 2, 3, 4)) * math.nan
    )
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_bfloat16_learns_what_float32_learns(tmp_path):
    found = [train(Args(**SMALL, epochs=1.0, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["eval/nats"] != found[1]["eval/nats"]
    assert found[1]["eval/nats"] == pytest.approx(found[0]["eval/nats"], rel=0.01)


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"epochs": math.nan}, "--epochs"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"layers": 0}, "--layers"),
        ({"kernel_size": 4}, "--kernel-size"),
        ({"kernel_size": -1}, "--kernel-size"),
        ({"channels": 16, "dataset": "photos", "image_size": 8}, "--channels: a multiple of 3"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder"}, "--folder"),
        ({"eval_images": -1}, "--eval-images"),
        ({"save_samples": -1}, "--save-samples"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    train(Args(**SMALL, epochs=0.25, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, epochs=0.25, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"layers": 3}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    (tmp_path / "run/checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UsageError, match="damaged"):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "gen/pixelcnn.py", "--resume", tmp_path / "x", "--seed", "1"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
