"""RevNet: its gradients against PyTorch's own backward pass, what it keeps counted by hand, its inverse exact."""

import copy
import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import nn

from gen import revnet
from gen.revnet import Args, BatchNorm, Block, Order, RevNet, UsageError, evaluate, kept_for_backward, train, update

CLOCKS = {"charts/SPS", "time/elapsed"}
pytestmark = pytest.mark.usefixtures("no_figures", "digits_of_8_pixels")
DIGITS = tuple(
    F.interpolate(part.float().unsqueeze(1), size=8, mode="area").squeeze(1).byte() if part.dim() == 3 else part
    for part in revnet.load_digits_28()
)
TINY_NET = {"filters": (4, 4, 8), "blocks": (2, 2)}
SMALL = TINY_NET | {"batch_size": 20, "train_images": 200, "eval_images": 50, "torch_threads": 1}
BOTTLENECK = {"filters": (4, 4, 6), "blocks": (2, 3), "bottleneck": True}


@pytest.fixture
def no_figures(monkeypatch, request):
    """Matplotlib takes longer than the trainings of these tests: one of them looks at its figures."""
    if "leaves_its_pictures" in request.node.name:
        return
    for name in ("draw_inversion", "draw_memory"):
        monkeypatch.setattr(revnet, name, lambda *_: None)
    monkeypatch.setattr(revnet.Run, "plot", lambda *_: None)


@pytest.fixture
def digits_of_8_pixels(monkeypatch):
    monkeypatch.setattr(revnet, "load_digits_28", lambda: DIGITS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_pictures(n=6, size=8, channels=3, seed=0):
    return torch.randint(256, (n, channels, size, size), generator=generator(seed)).byte()


def make(channels=3, seed=0, **flags):
    """A network in float64 whose every number, batch normalization's too, is random."""
    torch.manual_seed(seed)
    model = RevNet(Args(**flags), torch.full((channels,), 0.4), torch.full((channels,), 0.3)).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model.train()


def stored(model):
    """The same network with PyTorch's own backward pass."""
    other = copy.deepcopy(model)
    for stage in other.stages:
        stage.store_activations = True
    return other


def gradients(model, pictures, labels):
    """The loss, the gradients of all parameters, and the buffers after forward and backward."""
    loss = F.cross_entropy(model(pictures, update_averages=True), labels)
    return loss, torch.autograd.grad(loss, list(model.parameters())), dict(model.named_buffers())


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the backward pass -----------------------------------------------------------------------


@pytest.mark.parametrize("flags", [TINY_NET, {"filters": (4, 6, 6), "blocks": (3, 1)}, BOTTLENECK], ids=str)
def test_gradients_and_averages_are_those_of_the_network_that_stores_its_activations(flags):
    model, labels = make(**flags), torch.tensor([0, 1, 2, 3, 4, 5])
    for _ in range(2):  # the second time from averages that moved already
        other = stored(model)
        loss, grads, buffers = gradients(model, some_pictures(), labels)
        their_loss, their_grads, their_buffers = gradients(other, some_pictures(), labels)
        assert loss.item() == pytest.approx(their_loss.item(), abs=1e-12)
        for grad, theirs in zip(grads, their_grads, strict=True):
            assert (grad - theirs).abs().max() <= 1e-10 * max(1, theirs.abs().max().item())
            assert theirs.abs().max() > 0
        assert all(torch.allclose(buffers[name], their_buffers[name], atol=1e-12) for name in buffers)


def test_gradients_agree_in_float32_at_the_papers_size():
    model = make().float()
    _, grads, _ = gradients(model, some_pictures(4, 32), torch.arange(4))
    _, theirs, _ = gradients(stored(model), some_pictures(4, 32), torch.arange(4))
    mine, theirs = (torch.cat([grad.flatten() for grad in part]) for part in (grads, theirs))
    assert (mine - theirs).norm() < 1e-3 * theirs.norm()


def test_gradients_are_what_finite_differences_say():
    model, pictures, labels = make(filters=(4, 4), blocks=(2,)), some_pictures(), torch.tensor([0, 1, 2, 3, 4, 5])
    _, grads, _ = gradients(model, pictures, labels)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        i = int(grad.abs().argmax())
        with torch.no_grad():
            losses = []
            for change in (1e-6, -2e-6):
                parameter.view(-1)[i] += change
                losses.append(F.cross_entropy(model(pictures), labels).item())
            parameter.view(-1)[i] += 1e-6
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(grad.view(-1)[i].item(), rel=1e-3, abs=1e-7)


def test_the_gradient_reaches_the_pictures_of_a_stage():
    model = make(**TINY_NET)
    x = torch.randn(3, 4, 8, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    mine = torch.autograd.grad(model.stages[0](x, False).square().sum(), x)[0]
    theirs = torch.autograd.grad(stored(model).stages[0](x, False).square().sum(), x)[0]
    assert torch.allclose(mine, theirs, rtol=1e-10)


def test_averages_move_once_in_an_update_and_not_without_being_told(tmp_path):
    model, pictures, labels = make(**TINY_NET), some_pictures(), torch.tensor([0, 1, 2, 3, 4, 5])
    seen = {}

    def look(name, before, x):
        seen.setdefault(name, (before, x))  # the first time, which is the forward pass

    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            before = module.running_mean.clone()
            module.register_forward_pre_hook(lambda _, inputs, name=name, before=before: look(name, before, inputs[0]))
    gradients(model, pictures, labels)
    modules = dict(model.named_modules())
    assert len(seen) == 2 + 4 * 4 - 1  # the first block's F gets what is normalized already
    for name, (before, x) in seen.items():
        assert torch.allclose(modules[name].running_mean, 0.9 * before + 0.1 * x.mean((0, 2, 3)), atol=1e-10)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    kept_for_backward(model, pictures)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_batch_normalization_is_pytorchs():
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        for part in (ours, theirs):
            part.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            part.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    for seed in range(3):
        x = torch.randn(4, 3, 5, 5, generator=generator(seed)) * 3 + 1
        assert torch.allclose(ours(x, True), theirs(x), atol=1e-6)
    assert torch.allclose(ours.running_mean, theirs.running_mean) and torch.allclose(
        ours.running_var, theirs.running_var
    )
    assert torch.allclose(ours.eval()(x, False), theirs.eval()(x), atol=1e-6)


# --- the blocks ------------------------------------------------------------------------------


def test_a_block_is_undone_exactly():
    torch.manual_seed(0)
    for bottleneck in (False, True):
        block = Block(8, 8, 1, bottleneck).double()
        x1, x2 = torch.randn(2, 5, 8, 6, 6, generator=generator(), dtype=torch.float64)
        y1, y2 = block(x1, x2)
        assert torch.allclose(y1, x1 + block.f(x2, False)) and torch.allclose(y2, x2 + block.g(y1, False))
        assert (y1 - x1).abs().max() > 0.1
        for found, wanted in zip(block.inverse(y1, y2), (x1, x2), strict=True):
            assert (found - wanted).abs().max() < 1e-13


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_8_bit_pictures_come_back_through_the_papers_network(dtype, error):
    model, pictures = make().to(dtype), some_pictures(4, 32)
    assert 0 < revnet.inversion_error(model, pictures) < error
    start, end, back = revnet.there_and_back(model.stages[0], model.stem(pictures))
    assert torch.equal(start, model.stem(pictures)) and (end - start).abs().max() > 0.1
    assert torch.equal(end, model.stages[0].run(start, False))
    assert (start - back).abs().max() < error


def test_a_block_that_halves_adds_to_the_mean_of_each_square():
    torch.manual_seed(0)
    block = Block(2, 5, 2, False).double()
    x1, x2 = torch.randn(2, 3, 2, 4, 4, generator=generator(), dtype=torch.float64)
    y1, y2 = block(x1, x2)
    added = torch.zeros(2, 3, 5, 2, 2, dtype=torch.float64)
    for half, x in enumerate((x1, x2)):
        for i in range(2):
            for j in range(2):
                added[half, :, 1:3, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
    assert not block.reversible
    assert torch.allclose(y1, added[0] + block.f(x2, False)) and torch.allclose(y2, added[1] + block.g(y1, False))


@pytest.mark.parametrize(
    "flags, depth, blocks, parameters",
    [
        ({}, 38, (3, 3, 3), 464_890),  # 2 + 9 blocks of 4; the weights of Table 2's sizes, added up below
        ({"depth": 110, "filters": (32, 32, 64, 128)}, 110, (9, 9, 9), None),
        ({"depth": 164, "filters": (32, 32, 64, 128), "bottleneck": True}, 164, (9, 9, 9), None),
    ],
)
def test_the_depth_counts_the_layers_on_the_longest_way(flags, depth, blocks, parameters):
    args = Args(**flags)
    model = RevNet(args, torch.ones(3), torch.ones(3))
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "shortcut" not in name]
    assert args.blocks == blocks and len(convs) + 1 == depth == args.depth
    assert not parameters or sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert Args(blocks=(2, 3, 3)).depth == 2 + 4 * 8


def test_the_papers_small_network_has_as_many_weights_as_its_sizes_say():
    model = RevNet(Args(), torch.ones(3), torch.ones(3))
    weights, before = 27 * 32 + 112 * 10, 16
    for after in (16, 32, 56):
        weights += 9 * before * after + 11 * 9 * after * after  # three blocks of four convolutions, the first widens
        before = after
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) == weights


# --- what is kept ----------------------------------------------------------------------------


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_depth():
    kept = {}
    for store in (False, True):
        for blocks in (1, 2, 8, 20):
            torch.manual_seed(0)
            args = Args(filters=(4, 4, 8), blocks=(blocks, blocks), store_activations=store)
            model = RevNet(args, torch.ones(3), torch.ones(3))
            kept[store, blocks] = kept_for_backward(model, some_pictures(5, 16))
    assert kept[False, 1] == kept[False, 2] == kept[False, 8] == kept[False, 20]
    # by hand, floats: the picture, the first convolution, its ReLU, both stages' outputs, the last ReLU, and the
    # statistics of two batch normalizations
    pixels, halved = 5 * 16 * 16, 5 * 8 * 8
    by_hand = 3 * pixels + 3 * 4 * pixels + 2 * 8 * halved + 2 * (4 + 8) + 0
    labels = kept[False, 1] / 4 - by_hand
    assert 0 <= labels <= 5 * 8  # what the linear layer keeps: a mean for each picture and channel
    # stored: what each of the four convolutions of a block takes, and what each of its normalizations takes
    grown = (kept[True, 20] - kept[True, 8]) / 12 / 4
    block = 8 * (2 * pixels + 4 * halved) + 8 * (2 + 4)
    assert grown == pytest.approx(block, rel=0.001)


def test_at_depth_38_it_keeps_a_fifth_of_what_the_stored_network_keeps():
    torch.manual_seed(0)
    model = RevNet(Args(), torch.ones(3), torch.ones(3))
    ratio = kept_for_backward(model, some_pictures(2, 32)) / kept_for_backward(stored(model), some_pictures(2, 32))
    assert ratio < 0.2  # MemCNN's published ratio of two networks: 85.6 / 238.6 = .36


# --- training --------------------------------------------------------------------------------


def test_augmented_pictures_are_shifted_by_up_to_four_pixels_and_half_of_them_mirrored():
    pictures = some_pictures(150, 9, 2)
    found = revnet.augmented(pictures, generator())
    assert found.dtype == torch.uint8 and found.shape == pictures.shape
    padded, seen = F.pad(pictures, (4, 4, 4, 4)), []
    for i in range(150):
        for mirrored in (False, True):
            for dy in range(9):
                for dx in range(9):
                    cut = padded[i, :, dy : dy + 9, dx : dx + 9]
                    if torch.equal(found[i], padded[i].flip(2)[:, dy : dy + 9, dx : dx + 9] if mirrored else cut):
                        seen.append((mirrored, dy, dx))
    assert len(seen) == 150
    mirrored, dy, dx = (torch.tensor(part, dtype=torch.float32) for part in zip(*seen, strict=True))
    assert 0.35 < mirrored.mean() < 0.65 and set(dy.tolist()) == set(dx.tolist()) == set(range(9))


def test_the_step_size_falls_at_half_and_at_three_quarters():
    args = Args(learning_rate=0.1)
    rates = [revnet.learning_rate(args, step / 80_000) for step in (0, 39_999, 40_000, 59_999, 60_000, 79_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_weights_decay_and_nothing_else_does():
    model = make(**TINY_NET).float()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = revnet.make_optimizer(model, Args(**TINY_NET, weight_decay=0.5, learning_rate=0.1, momentum=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decays = name.endswith("weight") and "norm" not in name
        assert torch.allclose(parameter, before[name] * (0.95 if decays else 1))


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    flags = {"filters": (8, 8, 16, 32), "blocks": (1, 1, 1), "batch_size": 25, "torch_threads": 1}
    row = train(Args(**flags, epochs=4.0, run_dir=tmp_path / "run"))
    assert row["eval/accuracy"] > 0.9 and row["losses/accuracy"] > 0.97
    assert row["eval/inversion_error"] < 1e-4
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "memory.png", "inversion.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert all(Image.open(tmp_path / "run" / name).size[0] > 500 for name in names if name.endswith("png"))


def test_both_backward_passes_train_alike(tmp_path):
    flags = SMALL | {"epochs": 0.4, "log_every": 1}
    for store in (False, True):
        train(Args(**flags, store_activations=store, run_dir=tmp_path / str(store)))
    mine, theirs = rows(tmp_path / "False"), rows(tmp_path / "True")
    assert len(mine) == len(theirs) == 4
    for a, b in zip(mine, theirs, strict=True):
        assert float(a["losses/loss"]) == pytest.approx(float(b["losses/loss"]), rel=1e-3)


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


def test_one_update_of_two_processes_is_that_of_one(tmp_path):
    """With batch statistics over both, forwards and backwards, and unequal shares."""
    args = Args(**TINY_NET, batch_size=5)
    pictures, labels = some_pictures(5), torch.arange(5)

    def one_update(share):
        model = make(**TINY_NET)
        sums = update(model, revnet.make_optimizer(model, args), pictures[share], labels[share], args)
        return model.state_dict(), sums

    def run(rank):
        dist.init_process_group("gloo")
        state, sums = one_update(slice(0, 2) if rank == 0 else slice(2, 5))
        dist.all_reduce(sums)
        if rank == 0:
            torch.save((state, sums), tmp_path / "two.pt")

    in_two_processes(run)
    state, sums = one_update(slice(0, 5))
    theirs, their_sums = torch.load(tmp_path / "two.pt")
    assert torch.allclose(sums, their_sums, rtol=1e-10)
    for name, tensor in state.items():
        assert (tensor - theirs[name]).abs().max() < 1e-10 * max(1, tensor.abs().max().item()), name


def test_torchrun_writes_the_rows_that_one_process_writes(tmp_path):
    flags = SMALL | {"epochs": 0.4, "log_every": 2, "augment": True, "learning_rate": 0.01}
    train(Args(**flags, run_dir=tmp_path / "one"))
    in_two_processes(lambda _: train(Args(**flags, run_dir=tmp_path / "two")))
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        for key in set(a) - {"eval/inversion_error", "charts/kept_mb"}:  # a rounding error; batch norm written out
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-3), key


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.4, log_every=2, augment=True, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"epochs": 1.0, "log_every": 2, "checkpoint_every": 2, "augment": True}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = revnet.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(revnet.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_evaluate_repeats_the_accuracy_of_the_last_row(tmp_path):
    row = train(Args(**SMALL | {"epochs": 0.2, "eval_images": 0, "run_dir": tmp_path / "run"}))
    assert evaluate(tmp_path / "run") == row["eval/accuracy"]


def test_the_accuracy_is_the_share_of_right_answers():
    model = make(1, **TINY_NET).float().eval()
    pictures, labels = some_pictures(510, 8, 1), torch.randint(10, (510,), generator=generator(1))
    with torch.no_grad():
        right = sum(
            int(model(picture.unsqueeze(0)).argmax()) == label for picture, label in zip(pictures, labels, strict=True)
        )
    assert revnet.score(model, pictures, labels)[1] == pytest.approx(int(right) / 510)


def test_every_update_takes_a_full_batch_and_every_epoch_each_picture_once():
    order = Order(10, 4, 3, torch.device("cpu"))
    taken = torch.cat([order.batch(step) for step in range(10)]).view(4, 10)
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in taken)
    assert len({tuple(epoch.tolist()) for epoch in taken}) == 4


def test_bfloat16_keeps_the_sums_exact_and_learns_what_float32_learns(tmp_path):
    """A stream of sums in bfloat16 could not be undone to three digits."""
    model, pictures = make(**TINY_NET).float(), some_pictures()
    with torch.autocast("cpu", torch.bfloat16):
        x = model.stages[0](model.stem(pictures), False)
        assert x.dtype == torch.float32
        assert revnet.inversion_error(model, pictures) < 1e-4
    found = [train(Args(**SMALL | {"epochs": 0.4}, bf16=on, run_dir=tmp_path / str(on))) for on in (False, True)]
    assert found[0]["losses/loss"] != found[1]["losses/loss"]
    assert found[1]["losses/loss"] == pytest.approx(found[0]["losses/loss"], rel=0.05)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(revnet, "update", lambda *_: torch.tensor([math.nan, 0.0]))
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"learning_rate": math.inf}, "--learning-rate"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"momentum": 1.0}, "--momentum"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"depth": 37}, "--depth must be 2 \\+ 12 times"),
        ({"depth": 2}, "--depth"),
        ({"blocks": (3, 3)}, "--blocks"),
        ({"blocks": (3, 0, 3)}, "--blocks"),
        ({"filters": (32, 31, 64)}, "--filters"),
        ({"filters": (32, 16)}, "--filters"),
        ({"filters": (4,) * 6, "depth": 22}, "--filters: pictures of 8 pixels cannot be halved 4 times"),
        ({"eval_images": -1}, "--eval-images"),
        ({"dataset": "cifar10", "data_dir": Path("/nowhere/at/all")}, "--dataset cifar10|Permission|nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(revnet, "download_cifar10", lambda *_: (_ for _ in ()).throw(UsageError("--dataset cifar10")))
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
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"filters": [4, 4, 6]}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    (tmp_path / "run/checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="damaged"):
        evaluate(tmp_path / "run")


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "gen/revnet.py", "--resume", tmp_path / "x", "--seed", "1"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
