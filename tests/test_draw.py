"""DRAW: filters against direct sums, the model against a plain one, its bound against Monte Carlo, and its training."""

import csv
import gc
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
from torch import distributions as D
from torch import nn

from benchmarks.peers.plain_draw import DrawModel
from gen import draw
from gen.draw import DRAW, LSTM, Args, UsageError, evaluate, filter_grid, losses, read_patch, train, write_patch

CLOCKS = {"charts/SPS", "time/elapsed"}
pytestmark = pytest.mark.usefixtures("no_figures")
SMALL = {"hidden_size": 8, "latent_dim": 3, "num_steps": 3, "batch_size": 100, "test_images": 50, "read_size": 2}
SMALL |= {"torch_threads": 1}


@pytest.fixture
def no_figures(monkeypatch, request):
    """Figures take longer than the trainings of these tests: one of them looks at them."""
    if "leaves_its_pictures" in request.node.name:
        return
    for name in ("draw_steps", "draw_while_learning"):
        monkeypatch.setattr(draw, name, lambda *_: None)
    monkeypatch.setattr(draw.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(shape=(1, 5, 5), seed=0, scale=1.0, **flags):
    """A model in float64 with larger random weights; shape of a picture [c, size, size]."""
    args = Args(**SMALL | {"dataset": "digits" if shape[0] == 1 else "photos"} | flags)
    torch.manual_seed(seed)
    model = DRAW(args, torch.rand(shape).clamp(0.1, 0.9)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "canvas" and not name.endswith("attention.bias"):
                parameter.normal_().mul_(scale / parameter.shape[-1] ** 0.5)
    return model, args


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- attention -------------------------------------------------------------------------------


def direct_filters(parameters, num_filters, size):
    """The paper's formulas for one picture, number by number: F_x, F_y [N, size] and gamma."""
    g_x, g_y, log_variance, log_stride, log_gamma = parameters
    centres = (size + 1) / 2 * (g_x + 1), (size + 1) / 2 * (g_y + 1)
    stride, banks = (size - 1) / (num_filters - 1) * math.exp(log_stride), []
    for centre in centres:
        bank = np.zeros((num_filters, size))
        for i in range(1, num_filters + 1):
            mean = centre + (i - num_filters / 2 - 0.5) * stride
            for a in range(1, size + 1):
                bank[i - 1, a - 1] = math.exp(-((a - mean) ** 2) / (2 * math.exp(log_variance)))
        banks.append(bank / bank.sum(1, keepdims=True))
    return *banks, math.exp(log_gamma)


@pytest.mark.parametrize("num_filters", [2, 3])
def test_filters_read_and_write_what_direct_sums_do(num_filters):
    size, n, channels = 6, 3, 3
    parameters = torch.randn(n, 5, generator=generator()).double() * 0.4
    pictures = torch.randn(n, channels, size, size, generator=generator(1)).double()
    strokes = torch.randn(n, channels, num_filters, num_filters, generator=generator(2)).double()
    grid = filter_grid(parameters, num_filters, size)
    seen, painted = read_patch(pictures, grid), write_patch(strokes, grid)
    for k in range(n):
        F_x, F_y, gamma = direct_filters(parameters[k].tolist(), num_filters, size)
        for c in range(channels):  # one attention for all channels
            for i in range(num_filters):
                for j in range(num_filters):
                    terms = (F_y[i, b] * pictures[k, c, b, a] * F_x[j, a] for a in range(size) for b in range(size))
                    assert seen[k, c, i, j].item() == pytest.approx(gamma * sum(terms).item(), abs=1e-9)
            for b in range(size):
                for a in range(size):
                    rows_, columns = F_y[:, b], F_x[:, a]
                    expected = rows_ @ strokes[k, c].numpy() @ columns / gamma
                    assert painted[k, c, b, a].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_writing_what_was_read_at_full_resolution_gives_the_picture_back(channels):
    size = 28
    picture = torch.rand(2, channels, size, size, generator=generator())
    parameters = torch.tensor([[0.0, 0.0, -6.0, 0.0, 0.7], [0.0, 0.0, -6.0, 0.0, -1.0]])  # as many filters as pixels
    grid = filter_grid(parameters, size, size)
    assert torch.allclose(grid.F_x, torch.eye(size).expand(2, -1, -1), atol=1e-6)
    assert torch.allclose(write_patch(read_patch(picture, grid), grid), picture, atol=1e-5)


def test_the_centre_moves_across_and_down_on_its_own():
    picture = torch.zeros(1, 1, 9, 9)
    picture[0, 0, 2, 6] = 1  # the third row, the seventh column
    for g_x, g_y, sees in ((0.4, -0.4, True), (-0.4, 0.4, False), (0.4, 0.4, False), (-0.4, -0.4, False)):
        grid = filter_grid(torch.tensor([[g_x, g_y, -3.0, math.log(0.25), 0.0]]), 3, 9)
        assert grid.centre.tolist()[0] == pytest.approx([5 + 5 * g_x, 5 + 5 * g_y]) and grid.stride.item() == 1
        patch = read_patch(picture, grid)[0, 0]
        assert patch[1, 1].item() == pytest.approx(1.0 if sees else 0.0, abs=1e-3)
        assert patch.sum().item() == pytest.approx(1.0 if sees else 0.0, abs=1e-2)


def test_filters_far_outside_the_picture_are_numbers():
    parameters = torch.tensor([[9.0, -9.0, -9.0, 2.0, 0.0]], requires_grad=True)
    grid = filter_grid(parameters, 2, 28)
    assert torch.allclose(grid.F_x.sum(2), torch.ones(1, 2))
    read_patch(torch.rand(1, 1, 28, 28), grid).sum().backward()
    assert parameters.grad.isfinite().all()


def test_filters_that_touch_see_digits_from_the_start_and_sparse_ones_their_black_corners():
    pictures = draw.load_digits_28()[0][:300].unsqueeze(1).float() / 255
    spread, painted = {}, {}
    for start in ("sparse", "overlapping"):
        args = Args(start_attention=start)
        for writes in (False, True):
            num_filters = 5 if writes else 2
            layer = draw.attention(4, num_filters, 28, args, writes)
            grid = filter_grid(layer(torch.zeros(300, 4)), num_filters, 28)
            if writes:
                painted[start] = write_patch(torch.ones(300, 1, 5, 5), grid)[0, 0]
            else:
                spread[start] = read_patch(pictures, grid).flatten(1).std(0).mean().item()
    assert spread["overlapping"] > 2 * spread["sparse"], spread
    assert painted["sparse"][7:21, 7:21].min() < 0.01  # between the filters nothing can be drawn
    assert 0.8 < painted["overlapping"][7:21, 7:21].min() < painted["overlapping"].max() < 1.2


# --- the model -------------------------------------------------------------------------------


def torch_cell(lstm, inputs):
    """PyTorch's LSTM cell with the weights of ours, whose gates come in another order."""
    hidden = lstm.gates.weight.shape[0] // 4
    cell = nn.LSTMCell(inputs, hidden).to(lstm.gates.weight.dtype)
    order = torch.cat([torch.arange(k * hidden, (k + 1) * hidden) for k in (1, 0, 3, 2)])
    with torch.no_grad():
        cell.weight_ih.copy_(lstm.gates.weight[order, :inputs])
        cell.weight_hh.copy_(lstm.gates.weight[order, inputs:])
        cell.bias_ih.copy_(lstm.gates.bias[order])
        cell.bias_hh.zero_()
    return cell, order


@pytest.mark.parametrize("compiling", [False, True])
def test_the_lstm_and_its_derivative_are_pytorchs(compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    torch.manual_seed(0)
    lstm = LSTM(3, 4).double()
    cell, order = torch_cell(lstm, 3)
    inputs = [torch.randn(3, 5, 3).double().requires_grad_() for _ in range(2)]
    inputs[1] = inputs[0].detach().clone().requires_grad_()
    if compiling:
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    state, theirs, loss, expected = lstm.begin(5), (torch.zeros(5, 4).double(),) * 2, 0.0, 0.0
    for t in range(3):
        state, theirs = lstm([inputs[0][t]], state), cell(inputs[1][t], theirs)
        loss, expected = loss + (t + 1) * (state.h**2).sum(), expected + (t + 1) * (theirs[0] ** 2).sum()
    assert torch.allclose(state.h, theirs[0]) and torch.allclose(state.cell, theirs[1])
    loss.backward()
    expected.backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad)
    assert torch.allclose(lstm.gates.bias.grad[order], cell.bias_ih.grad)
    assert torch.allclose(lstm.gates.weight.grad[order], torch.cat([cell.weight_ih.grad, cell.weight_hh.grad], 1))


def test_an_update_leaves_nothing_in_memory():
    def tensors():
        gc.collect()
        return sum(type(found) is torch.Tensor for found in gc.get_objects())

    model, _ = make()
    counts = []
    for _ in range(3):
        losses(model, torch.rand(4, 1, 5, 5).double(), torch.randn(4, 3, 3).double())[0].sum().backward()
        counts.append(tensors())
    assert counts[0] == counts[1] == counts[2]


def test_the_whole_model_and_its_gradient_are_those_of_a_plain_one(monkeypatch):
    """Of the one in benchmarks/peers, which was written on its own."""
    plain = DrawModel(T=3, z_size=3, enc_size=8, dec_size=8)
    torch.manual_seed(0)
    model = DRAW(Args(**SMALL, start_canvas="zero"), torch.full((1, 28, 28), 0.5))
    with torch.no_grad():
        for ours, theirs in ((model.encoder, plain.encoder), (model.decoder, plain.decoder)):
            theirs.load_state_dict(torch_cell(ours, theirs.input_size)[0].state_dict())
        plain.fc_mu.weight.copy_(model.posterior.weight[:3])
        plain.fc_sigma.weight.copy_(model.posterior.weight[3:])
        plain.fc_mu.bias.copy_(model.posterior.bias[:3])
        plain.fc_sigma.bias.copy_(model.posterior.bias[3:])
    pairs = ("read_attention", "fc_read"), ("write_attention", "fc_attention"), ("stroke", "fc_write")
    for ours, theirs in pairs:
        getattr(plain, theirs).load_state_dict(getattr(model, ours).state_dict())
    noise, steps = torch.randn(4, 3, 3, generator=generator(2)), iter(range(3))
    monkeypatch.setattr(torch, "randn", lambda *_: noise[:, next(steps)])
    x = torch.rand(4, 1, 28, 28, generator=generator(1)).round()
    loss, expected = losses(model, x, noise)[0].mean(), plain(x.flatten(1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for ours, theirs in pairs:
        assert torch.allclose(
            getattr(model, ours).weight.grad, getattr(plain, theirs).weight.grad, rtol=1e-3, atol=1e-5
        )
    assert torch.allclose(model.posterior.bias.grad[:3], plain.fc_mu.bias.grad, rtol=1e-3, atol=1e-5)
    assert torch.allclose(model.encoder.gates.bias.grad.sum(), plain.encoder.bias_ih.grad.sum(), rtol=1e-3, atol=1e-5)


def test_without_attention_all_pixels_are_read_and_written_at_every_step():
    model, args = make((2, 3, 3), attention=False, dataset="photos")
    x, noise = torch.rand(4, 2, 3, 3).double(), torch.randn(4, 3, 3).double()
    drawing, parts = model(x, noise), (18, 8, 8)
    error_weight, from_decoder, from_encoder = model.encoder.gates.weight.split(parts, 1)
    whole = LSTM(18 + 18 + 8, 8).double()
    with torch.no_grad():
        whole.gates.weight.copy_(torch.cat([model.look.weight, error_weight, from_decoder, from_encoder], 1))
        whole.gates.bias.copy_(model.encoder.gates.bias)
    encoder, decoder = torch_cell(whole, 44)[0], torch_cell(model.decoder, 3)[0]
    enc = dec = (torch.zeros(4, 8).double(),) * 2
    canvas = model.canvas.expand(4, -1, -1, -1)
    for t in range(args.num_steps):
        error = x - canvas.sigmoid()
        enc = encoder(torch.cat([x.flatten(1), error.flatten(1), dec[0]], 1), enc)
        mu, logsigma = model.posterior(enc[0]).chunk(2, 1)
        dec = decoder(mu + logsigma.exp() * noise[:, t], dec)
        canvas = canvas + model.stroke(dec[0]).view_as(x)
        assert torch.allclose(drawing.canvases[t], canvas, atol=1e-5)  # the look is taken in float32
    assert drawing.reads == drawing.writes == []


@pytest.mark.parametrize("attention", [True, False])
def test_the_same_codes_are_drawn_to_the_same_canvases_without_the_picture(attention):
    model, _ = make(attention=attention)
    codes, noise = [], torch.randn(4, 3, 3, generator=generator()).double()

    def keep(module, inputs, output):
        mu, logsigma = output.chunk(2, 1)
        codes.append(mu + logsigma.exp() * noise[:, len(codes)])

    hook = model.posterior.register_forward_hook(keep)
    drawing = model(torch.rand(4, 1, 5, 5).double(), noise)
    hook.remove()
    again = model.generate(torch.stack(codes, 1))
    assert len(again.canvases) == 3
    for one, two in zip(drawing.canvases, again.canvases, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_every_step_has_noise_of_its_own_which_later_steps_see():
    model, _ = make()
    x, noise = torch.rand(2, 1, 5, 5).double(), torch.randn(2, 3, 3).double()
    before = model(x, noise).canvases
    noise[:, 1] += 1
    after = model(x, noise).canvases
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1]) and not torch.allclose(before[2], after[2])


# --- the bound -------------------------------------------------------------------------------


def test_the_kl_divergence_of_all_steps_is_what_sampling_says():
    model, args = make(scale=1.5)
    samples = 20_000
    x, noise = torch.rand(1, 1, 5, 5).double().expand(samples, -1, -1, -1), None
    noise, found = torch.randn(samples, 3, 3, generator=generator()).double(), []

    def keep(module, inputs, output):
        mu, logsigma = output.chunk(2, 1)
        q = D.Normal(mu, logsigma.exp())
        z = mu + logsigma.exp() * noise[:, len(found)]
        found.append((q.log_prob(z) - D.Normal(0.0, 1.0).log_prob(z)).sum(1))

    model.posterior.register_forward_hook(keep)
    with torch.no_grad():
        bound, recon, kl = losses(model, x, noise)
    assert len(found) == args.num_steps
    ratio = torch.stack(found).sum(0)  # log q(z_1 ... z_T | x) - log p(z_1 ... z_T)
    error = (ratio - kl).std().item() / samples**0.5
    assert kl.mean().item() > 1 and ratio.mean().item() == pytest.approx(kl.mean().item(), abs=5 * error)
    assert error < 0.03 * kl.mean().item() and torch.allclose(bound, recon + kl)
    mu, logsigma = torch.randn(2, 4, 3, generator=generator()).double()
    expected = D.kl_divergence(D.Normal(mu, logsigma.exp()), D.Normal(torch.zeros(()).double(), 1.0))
    assert torch.allclose(draw.kl_divergence(mu, logsigma), expected)


def test_the_reconstruction_is_a_sum_of_log_densities_over_pixels():
    canvas = torch.randn(4, 1, 3, 3, generator=generator())
    x = torch.rand(4, 1, 3, 3, generator=generator(1)).round()
    expected = D.Bernoulli(logits=canvas).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(draw.reconstruction(x, canvas, Args()), -expected, rtol=1e-5)
    canvas, x = torch.randn(4, 3, 2, 2, generator=generator()), torch.rand(4, 3, 2, 2, generator=generator(1))
    pixels = D.Normal(canvas.sigmoid(), 0.3)
    constant = 12 * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
    found = draw.reconstruction(x, canvas, Args(dataset="photos", noise_std=0.3))
    assert torch.allclose(found + constant, -pixels.log_prob(x).flatten(1).sum(1), rtol=1e-5)
    half = draw.reconstruction(x, canvas, Args(dataset="photos", noise_std=1.0))
    assert torch.allclose(2 * half, ((x - canvas.sigmoid()) ** 2).flatten(1).sum(1))


# --- training --------------------------------------------------------------------------------


def test_it_learns_digits_and_leaves_its_pictures(tmp_path):
    """Without a code, the best independent pixels cost 356 nats; pixels whose brightness is known, 244."""
    flags = SMALL | {"hidden_size": 40, "latent_dim": 10, "num_steps": 3, "read_size": 5}
    row = train(Args(**flags, epochs=7.0, log_every=100, learning_rate=5e-3, run_dir=tmp_path / "run"))
    mean = draw.load_digits_28()[0].double().mean(0) / 255
    assert D.Bernoulli(mean).entropy().nansum() > 350
    assert row["eval/loss"] < 335 and row["eval/kl"] > 3
    assert row["eval/recon"] + row["eval/kl"] == pytest.approx(row["eval/loss"], rel=1e-5)
    assert 0 < row["eval/write_last_width"] < 100 and row["eval/write_centre_spread"] > 0
    pictures = ["samples.png", "reconstructions.png", "drawing.png", "drawing.gif", "prior.png", "prior.gif"]
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "steps.png", *pictures}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert Image.open(tmp_path / "run/reconstructions.png").size == (10 * 58, 4 * 58)
    assert Image.open(tmp_path / "run/drawing.png").size == (3 * 86 + 2, 8 * 86 + 2)  # 3 steps of 4 pictures
    for name in ("drawing", "prior"):
        assert Image.open(tmp_path / f"run/{name}.gif").n_frames == 4  # the last without the grids
    samples = np.asarray(Image.open(tmp_path / "run/samples.png"), float).reshape(8, 58, 8, 58)[:, :56, :, :56]
    assert 0.5 < samples.mean() / (mean.mean().item() * 255) < 2  # as much ink as digits have


def test_grids_are_drawn_where_the_filters_are():
    grid = filter_grid(torch.tensor([[0.0, -0.5, 0.0, math.log(0.5), 0.0]]), 3, 28)
    image = np.asarray(draw.tile(torch.zeros(1, 28, 28), grid, 0, (255, 0, 0)))
    assert image.shape == (84, 84, 3)
    rows_, columns = image[:, :, 0].nonzero()
    x, y = grid.centre[0].tolist()
    assert x == 14.5 and y == 7.25 and grid.stride.item() == 6.75
    assert (columns.min() + columns.max()) / 2 == pytest.approx((x - 0.5) * 3, abs=1)
    assert (rows_.min() + rows_.max()) / 2 == pytest.approx((y - 0.5) * 3, abs=1)
    assert columns.max() - columns.min() == pytest.approx(2 * 6.75 * 3 + 3, abs=2)


def test_what_metrics_say_of_the_patches():
    model, _ = make((1, 28, 28), hidden_size=4)
    pictures = torch.randint(0, 256, (30, 1, 28, 28), generator=generator(), dtype=torch.uint8)
    found = draw.patch_columns(model.float(), pictures)
    drawing = draw.redraw(model, pictures)
    first, last = drawing.writes[0], drawing.writes[-1]
    assert found["eval/write_first_width"] == pytest.approx(4 * first.stride.mean().item())
    assert found["eval/write_last_width"] == pytest.approx(4 * last.stride.mean().item())
    spread = np.mean([grid.centre.numpy(force=True).std(0, ddof=1) for grid in drawing.reads])
    assert found["eval/read_centre_spread"] == pytest.approx(spread, rel=1e-4)
    assert set(draw.patch_columns(make((1, 28, 28), attention=False)[0].float(), pictures).values()) == {None}


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.4, "log_every": 2}
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
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-3, abs=1e-6) for key in a if a[key])


def test_every_update_has_noise_of_its_own(monkeypatch, tmp_path):
    seen, shipped = [], draw.update

    def spy(model, optimizer, pictures, noise, *rest):
        seen.append(noise.clone())
        return shipped(model, optimizer, pictures, noise, *rest)

    monkeypatch.setattr(draw, "update", spy)
    train(Args(**SMALL, epochs=0.4, log_every=2, run_dir=tmp_path / "run"))
    noise = torch.cat(seen)
    assert noise.shape == (600, 3, 3) and len(noise.unique()) > 5390
    assert abs(noise.mean().item()) < 0.06 and noise.std().item() == pytest.approx(1, abs=0.04)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.3, log_every=3, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 2


@pytest.mark.parametrize("attention, binarize", [(True, "dynamic"), (False, "static")])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, attention, binarize):
    flags = SMALL | {"epochs": 0.9, "log_every": 3, "checkpoint_every": 2, "binarize": binarize}
    flags["attention"] = attention
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = draw.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(draw.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_evaluate_repeats_the_last_row(tmp_path, capsys):
    row = train(Args(**SMALL | {"epochs": 0.3, "run_dir": tmp_path / "run"}))
    mean, error = evaluate(tmp_path / "run")
    assert mean == pytest.approx(row["eval/loss"], rel=1e-5) and 0 < error < 10
    assert "297 test pictures, binarized: dynamic" in capsys.readouterr().out


def test_colours_are_learned_by_the_squared_error(tmp_path):
    flags = SMALL | {"dataset": "photos", "image_size": 8, "train_images": 400, "batch_size": 50, "hidden_size": 16}
    before = train(Args(**flags, epochs=0.1, run_dir=tmp_path / "a"))
    after = train(Args(**flags, epochs=8.0, learning_rate=1e-2, run_dir=tmp_path / "b"))
    assert after["eval/squared_error"] < 0.7 * before["eval/squared_error"]
    evaluate(tmp_path / "b")


def test_gradients_are_shortened_and_the_step_size_falls(monkeypatch, tmp_path):
    norms, rates, shipped = [], [], draw.update

    def spy(model, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"])
        found = shipped(model, optimizer, *rest)
        norms.append(torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item())
        return found

    monkeypatch.setattr(draw, "update", spy)
    train(Args(**SMALL, epochs=0.4, max_grad_norm=0.5, run_dir=tmp_path / "run"))
    assert len(norms) == 6 and norms == pytest.approx([0.5] * 6, rel=1e-4)
    assert rates == pytest.approx([2e-3 * (1 - k / 6) for k in range(6)])
    rates.clear()
    train(Args(**SMALL, epochs=0.4, anneal_lr=False, run_dir=tmp_path / "constant"))
    assert rates == [2e-3] * 6


def test_pixels_are_drawn_once_or_for_each_batch_anew_and_test_pictures_once(monkeypatch, tmp_path):
    for binarize in ("none", "static", "dynamic"):
        seen, shipped = [], draw.update

        def spy(model, optimizer, pictures, *rest, seen=seen, shipped=shipped):
            seen.append(pictures)
            return shipped(model, optimizer, pictures, *rest)

        monkeypatch.setattr(draw, "update", spy)
        flags = SMALL | {"num_steps": 1, "epochs": 3, "binarize": binarize, "train_images": 100}
        train(Args(**flags, run_dir=tmp_path / binarize))
        monkeypatch.setattr(draw, "update", shipped)
        pictures = torch.cat(seen)
        different = len(pictures.flatten(1).unique(dim=0))
        assert len(pictures) == 300 and (different > 250 if binarize == "dynamic" else different == 100)
        assert (binarize == "none") == (len(pictures.unique()) > 2)
    first, second = (draw.load_data(Args(seed=seed), torch.device("cpu"))[1] for seed in (1, 2))
    assert torch.equal(first, second) and set(first.unique().tolist()) == {0, 255}


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "losses", lambda model, x, noise: model.canvas.sum() * math.nan * torch.ones(3, len(x)))
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


@pytest.mark.parametrize("attention", [True, False])
def test_bfloat16_gives_nearly_the_gradient_of_float32(attention):
    torch.manual_seed(0)
    args = Args(**SMALL | {"hidden_size": 32}, attention=attention)
    model = DRAW(args, torch.full((1, 28, 28), 0.3))
    x, noise, found = torch.rand(20, 1, 28, 28).round(), torch.randn(20, 3, 3), []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = losses(model, x, noise)[0].mean()
        loss.backward()
        found.append((loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])))
    (loss, gradient), (low_loss, low_gradient) = found
    assert low_loss != loss and low_loss == pytest.approx(loss, rel=0.005)
    assert torch.cosine_similarity(gradient, low_gradient, dim=0).item() > 0.99


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"max_grad_norm": math.nan}, "--max-grad-norm"),
        ({"num_steps": 0}, "--num-steps"),
        ({"read_size": 1}, "--read-size"),
        ({"write_size": 0}, "--write-size"),
        ({"noise_std": 0.0}, "--noise-std"),
        ({"dataset": "photos", "binarize": "static"}, "--binarize"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder", "folder": Path("nowhere")}, "at least 20 pictures"),
        ({"dataset": "photos", "image_size": 200}, "--image-size"),
        ({"test_images": -1}, "--test-images"),
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
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"latent_dim": 4}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    (tmp_path / "run/checkpoint.pt").write_bytes(before["checkpoint.pt"][:1000])
    with pytest.raises(UsageError, match="damaged"):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "gen/draw.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
