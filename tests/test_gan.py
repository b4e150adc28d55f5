"""GAN: its distance against closed forms, its losses and updates against plain ones, its training against two modes."""

import copy
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
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from torch import distributions as D

from gen import gan
from gen.gan import Args, UsageError, frechet_distance, train, update

CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
SMALL = {"image_size": 8, "batch_size": 50, "width": 4, "latent_dim": 4, "judge_updates": 2, "eval_images": 60}
SMALL |= {"torch_threads": 1}
pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def no_figures(monkeypatch, request):
    """Matplotlib takes longer than the trainings of these tests: one of them looks at its figures."""
    if "leaves_its_pictures" in request.node.name:
        return
    monkeypatch.setattr(gan, "draw_progress", lambda *_: None)
    monkeypatch.setattr(gan, "draw_directions", lambda *_: None)
    monkeypatch.setattr(gan.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(channels=1, **flags):
    """Both networks, with weights large enough to matter; arguments, real pictures and latents of a batch of 6."""
    args = Args(**SMALL | {"batch_size": 6} | flags)
    networks = gan.make_networks(args, channels, CPU)
    for i, network in enumerate(networks):
        for j, weight in enumerate(network.parameters()):
            weight.data.normal_(generator=generator(100 * i + j)).mul_(0.3)
    real = torch.randint(256, (6, channels, args.image_size, args.image_size), generator=generator(1)).byte()
    return *networks, args, real, gan.draw_latents(args, 6, generator(2))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the Frechet distance --------------------------------------------------------------------


def test_the_frechet_distance_is_that_of_gaussians_in_closed_form_and_with_a_matrix_root():
    rng = generator()
    a = torch.randn(400, 5, generator=rng) @ torch.randn(5, 5, generator=rng) + 1
    b = torch.randn(300, 5, generator=rng) @ torch.randn(5, 5, generator=rng)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    means, covs = zip(*((x.double().mean(0).numpy(), np.cov(x.double().numpy().T)) for x in (a, b)), strict=True)
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covs[0] + covs[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6) == pytest.approx(frechet_distance(b, a))

    white = torch.randn(5000, 3, generator=rng).double()  # made exactly N(0, 1), then stretched: the standard
    white = (white - white.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T  # deviations differ
    stretched = white * torch.tensor([1.0, 3.0, 0.0]) + torch.tensor([0.0, 2.0, 0.0])
    assert frechet_distance(white, stretched) == pytest.approx(4 + 0 + 4 + 1)


def test_the_classifier_learns_the_digits_and_its_features_are_what_it_decides_by():
    train, labels, test, test_labels = gan.load_digits_28()
    train, test = train.unsqueeze(1), test.unsqueeze(1)
    classifier = gan.train_classifier(train, labels, 120)
    assert gan.classifier_accuracy(classifier, test, test_labels) > 0.85
    features = gan.classifier_features(classifier, train)
    assert features.shape == (1500, 64)
    assert torch.allclose(classifier[-1](features[:9]), classifier(train[:9].float() / 255), atol=1e-4)
    again, other = (gan.train_classifier(train, labels, num) for num in (2, 2))
    assert torch.equal(again[0].weight, other[0].weight)
    blurred = F.avg_pool2d(train[:750].float(), 5, 1, 2).byte()
    blurred = gan.classifier_features(classifier, blurred)
    assert 3 * frechet_distance(features[:750], features[750:]) < frechet_distance(blurred, features[750:])


# --- the networks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, channels, count_g, count_d", [(64, 3, 3_576_704, 2_765_568), (32, 3, 1_068_928, 663_296)]
)
def test_the_networks_are_those_of_dcgan(size, channels, count_g, count_d):
    """PyTorch's example counts so many weights; ours has biases where no batch normalization follows."""
    g, d = gan.make_networks(Args(dataset="cifar10", image_size=size, width=64), 3, CPU)
    assert sum(weight.numel() for weight in g.parameters()) == count_g + 3
    assert sum(weight.numel() for weight in d.parameters()) == count_d + 64 + 1
    assert g.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert g.layers[1].weight.mean().item() == pytest.approx(1, abs=0.01) and d.verdict.bias.item() == 0


@pytest.mark.parametrize("size", [8, 20, 28, 32, 48])
def test_the_generator_draws_what_the_discriminator_reads(size):
    g, d, _, real, latents = make(image_size=size, codes=3, continuous_codes=1, minibatch_discrimination=True)
    fake = g(latents)
    assert fake.shape == real.shape and fake.abs().max() <= 1
    verdict, guesses = d(fake)
    assert verdict.shape == (6,) and guesses.shape == (6, 4)


def test_minibatch_features_are_those_of_a_loop():
    layer = gan.MinibatchDiscrimination(7, kernels=3, dims=2)
    torch.nn.init.normal_(layer.weight, generator=generator())
    f = torch.randn(5, 7, generator=generator(1))
    found, t = layer(f), layer.weight.view(7, 3, 2)
    for i in range(5):
        for b in range(3):
            closeness = [math.exp(-sum(abs((f[i] - f[j]) @ t[:, b, c]).item() for c in range(2))) for j in range(5)]
            assert found[i, b].item() == pytest.approx(sum(closeness), rel=1e-5)
    same = layer(f[:1].expand(5, 7))
    assert torch.allclose(same, torch.full((5, 3), 5.0))  # a generator that has collapsed gives itself away


def test_latents_are_noise_and_codes_all_equally_likely():
    args = Args(latent_dim=3, codes=4, continuous_codes=2)
    latents = gan.draw_latents(args, 20_000, generator())
    assert latents.shape == (20_000, 9)
    uniform = latents[:, [0, 1, 2, 7, 8]]
    assert uniform.min() < -0.99 and uniform.max() > 0.99 and uniform.mean(0).abs().max() < 0.02
    assert uniform.var(0).sub(1 / 3).abs().max() < 0.02
    assert set(latents[:, 3:7].unique().tolist()) == {0, 1} and (latents[:, 3:7].sum(1) == 1).all()
    assert latents[:, 3:7].mean(0).sub(0.25).abs().max() < 0.02
    assert latents.T.corrcoef().fill_diagonal_(0)[:, [0, 1, 2, 7, 8]].abs().max() < 0.03
    assert gan.draw_latents(Args(latent_dim=3), 5, generator()).shape == (5, 3)


# --- the game --------------------------------------------------------------------------------


def test_the_losses_are_cross_entropies_and_what_q_does_not_know():
    args = Args(latent_dim=2, codes=3, continuous_codes=2, information_weight=0.7)
    latents = gan.draw_latents(args, 6, generator())
    logits, guesses = torch.randn(2, 6, generator=generator(1)), torch.randn(6, 5, generator=generator(2))
    answers = {"real": (logits[0], None), "fake": (logits[1], guesses)}
    q = D.Categorical(logits=guesses[:, :3]).log_prob(latents[:, 2:5].argmax(1))
    gaussian = D.Normal(guesses[:, 3:], 1.0).log_prob(latents[:, 5:]).sum(1) + math.log(2 * math.pi)
    ignorance = -q - gaussian
    loss, facts = gan.discriminator_loss(lambda x, teach=True: answers[x], "real", "fake", latents, args)
    ones, cross_entropy = torch.ones(6), F.binary_cross_entropy
    plain = cross_entropy(logits[0].sigmoid(), ones, reduction="none")
    plain = plain + cross_entropy(logits[1].sigmoid(), 0 * ones, reduction="none")
    assert torch.allclose(loss, plain + 0.7 * ignorance, atol=1e-5)
    assert torch.allclose(facts, torch.stack([logits[0].sigmoid(), logits[1].sigmoid(), -q]), atol=1e-6)
    expected = cross_entropy(logits[1].sigmoid(), ones, reduction="none") + 0.7 * ignorance
    assert torch.allclose(gan.generator_loss(answers.get, "fake", latents, args), expected, atol=1e-5)


@pytest.mark.parametrize("flags", [{}, {"codes": 3, "continuous_codes": 1, "minibatch_discrimination": True}])
def test_an_update_is_a_plain_step_of_d_and_then_one_of_g(flags):
    g, d, args, real, latents = make(**flags, learning_rate=0.01)
    plain_g, plain_d = copy.deepcopy(g), copy.deepcopy(d)
    settings = {"lr": 0.01, "betas": (0.5, 0.999)}
    optimizers = [torch.optim.Adam(network.parameters(), **settings, fused=True) for network in (g, d)]
    plain = [torch.optim.Adam(network.parameters(), **settings) for network in (plain_g, plain_d)]
    for _ in range(2):
        sums = update(g, d, optimizers, real, latents, args)
        x = real.float() / 127.5 - 1
        loss_d, facts = gan.discriminator_loss(plain_d, x, plain_g(latents).detach(), latents, args)
        plain[1].zero_grad()
        loss_d.mean().backward()
        plain[1].step()
        for layer in plain_g.modules():  # this is a second pass over the same batch, which counts only once
            if isinstance(layer, gan.BatchNorm):
                layer.momentum = 0.0
        loss_g = gan.generator_loss(plain_d, plain_g(latents), latents, args)
        for layer in plain_g.modules():
            if isinstance(layer, gan.BatchNorm):
                layer.momentum = 0.1
        plain[0].zero_grad()
        loss_g.mean().backward()
        plain[0].step()
        assert torch.allclose(sums, torch.cat([torch.stack([loss_d, loss_g]), facts]).sum(1), rtol=1e-4)
    for ours, theirs in ((g, plain_g), (d, plain_d)):
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert "num_batches" in name or torch.allclose(a, b, rtol=1e-3, atol=1e-4), name


def test_q_learns_from_features_that_it_does_not_change_and_the_generator_learns_from_q():
    _, d, args, real, latents = make(codes=3, information_weight=5.0)
    fake = (real / 127.5 - 1).requires_grad_()
    grads = []
    for weight in (0.0, 5.0):
        args.information_weight = weight
        d.zero_grad()
        gan.discriminator_loss(d, fake.detach(), fake.detach(), latents, args)[0].sum().backward()
        grads.append([parameter.grad.clone() for parameter in d.layers.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))
    assert d.guess[0].weight.grad.abs().max() > 0
    args.information_weight = 0.0
    (plain,) = torch.autograd.grad(gan.generator_loss(d, fake, latents, args).sum(), fake)
    args.information_weight = 5.0
    (told,) = torch.autograd.grad(gan.generator_loss(d, fake, latents, args).sum(), fake)
    assert not torch.allclose(plain, told)


# --- the scores ------------------------------------------------------------------------------


def test_variety_is_the_mean_distance_to_the_nearest_other_picture():
    pictures = torch.randint(256, (9, 1, 4, 4), generator=generator()).byte()
    x = pictures.double().flatten(1)
    nearest = [min((x[i] - x[j]).norm().item() for j in range(9) if i != j) for i in range(9)]
    assert gan.variety(pictures) == pytest.approx(sum(nearest) / 9, rel=1e-4)
    assert gan.variety(pictures[:1].repeat(9, 1, 1, 1)) < 1
    assert gan.variety(pictures[:3].repeat(3, 1, 1, 1)) < 1  # three modes and nothing else: collapsed, too


def test_a_code_stands_for_the_label_that_most_training_pictures_have(monkeypatch):
    args = Args(codes=3)
    train_codes, labels = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([5, 5, 7, 7, 7, 0, 0])
    test_codes, test_labels = torch.tensor([0, 1, 2, 2]), torch.tensor([5, 7, 0, 5])
    monkeypatch.setattr(gan, "read_features", lambda d, codes: (None, F.one_hot(codes, 3).float()))
    assert gan.code_error(None, args, train_codes, labels, test_codes, test_labels) == 0.25


def test_pictures_are_resized_as_they_are():
    pictures, labels, test, _ = gan.load_data(Args(image_size=8, train_images=30, batch_size=30), CPU)
    assert pictures.shape == (30, 1, 8, 8) and test.shape == (297, 1, 8, 8) and len(labels) == 30
    full = gan.load_digits_28()[0][:30].float()
    assert torch.allclose(pictures.float().mean((1, 2, 3)), full.mean((1, 2)), rtol=0.05)
    assert gan.resize(pictures, 16).shape == (30, 1, 16, 16)


# --- training --------------------------------------------------------------------------------


def two_modes(*_):
    """300 pictures of one channel, bright on the left or on the right, with a little noise; the label says where."""
    labels = torch.randint(2, (300,), generator=generator(5))
    pictures = torch.full((300, 1, 8, 8), 30.0)
    pictures[labels == 0, :, :, :4] = 220
    pictures[labels == 1, :, :, 4:] = 220
    pictures = (pictures + 8 * torch.randn(pictures.shape, generator=generator(6))).clamp(0, 255).byte()
    return pictures[:250], labels[:250], pictures[250:], labels[250:]


def test_it_learns_both_modes_and_its_codes_tell_them_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(gan, "load_pictures", two_modes)
    monkeypatch.setattr(gan, "DENSE", 64)
    flags = {"width": 16, "codes": 2, "latent_dim": 8, "batch_size": 50, "judge_updates": 40}
    row = train(Args(**SMALL | flags, epochs=70, log_every=350, learning_rate=1e-3, run_dir=tmp_path / "run"))
    assert row["eval/code_error"] == 0 and row["losses/information"] > 0.9 * math.log(2)
    samples = np.asarray(Image.open(tmp_path / "run/samples.png"), float)[::2, ::2]  # each pixel is two wide
    samples = samples.reshape(8, 9, 8, 9).transpose(0, 2, 1, 3)[:, :, :8, :8].reshape(64, 8, 8)
    left, right = samples[:, :, :4].mean((1, 2)), samples[:, :, 4:].mean((1, 2))
    assert 16 < (left > right).sum() < 48
    assert np.abs(np.maximum(left, right) - 220).max() < 40 and np.abs(np.minimum(left, right) - 30).max() < 40


def test_it_learns_digits_and_leaves_its_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gan, "MILESTONES", (3, 100))
    monkeypatch.setattr(gan, "DENSE", 64)
    flags = {"width": 16, "batch_size": 50, "latent_dim": 20, "judge_updates": 100, "eval_images": 500}
    flags |= {"codes": 10, "continuous_codes": 1, "save_samples": 30, "log_every": 100, "learning_rate": 2e-3}
    row = train(Args(**SMALL | flags, epochs=14, run_dir=tmp_path / "run"))
    first = rows(tmp_path / "run")[0]
    assert row["eval/frechet"] < 0.5 * float(first["eval/frechet"])
    assert row["eval/judge_accuracy"] > 0.7 and row["eval/variety"] > 0.5
    said = capsys.readouterr().out
    assert f"Frechet distance {row['eval/frechet']:.2f} in the features of a small classifier" in said
    assert "COLLAPSED" not in said.upper()
    pictures = ["samples", "progress", "interpolations", "sweep", "codes", "curve"]
    names = {"args.json", "metrics.csv", "checkpoint.pt", "animation.gif", "samples.npz"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names | {f"{name}.png" for name in pictures}
    assert Image.open(tmp_path / "run/codes.png").size == (10 * 18, 10 * 18)
    assert Image.open(tmp_path / "run/sweep.png").size == (10 * 18, 8 * 18)
    frames = torch.load(tmp_path / "run/checkpoint.pt")["frames"]
    assert {0, 3, 100, 420} <= set(frames) and frames[3].shape == (64, 1, 8, 8)
    assert Image.open(tmp_path / "run/animation.gif").n_frames == len(frames)
    arrays = np.load(tmp_path / "run/samples.npz")
    assert arrays["samples"].shape == (30, 1, 8, 8) and arrays["samples"].dtype == np.uint8 and arrays["seconds"] > 0
    assert arrays["train_codes"].shape[0] == len(arrays["train_labels"]) == 1500
    assert arrays["test_codes"].shape == (297, arrays["train_codes"].shape[1])
    assert gan.evaluate(tmp_path / "run")["eval/code_error"] == row["eval/code_error"]


def test_a_collapsed_generator_is_noticed_and_said(tmp_path, monkeypatch, capsys):
    shipped, drawn = gan.draw, []

    def collapsing(generator, latents):
        pictures = shipped(generator, latents)
        if len(latents) > 64:  # for the scores
            drawn.append(len(latents))
            noise = torch.randint(256, pictures.shape, generator=torch.Generator().manual_seed(0)).byte()
            return noise if len(drawn) == 1 else noise[:1].expand_as(noise)
        return pictures

    monkeypatch.setattr(gan, "draw", collapsing)
    row = train(Args(**SMALL | {"eval_images": 100}, epochs=0.3, log_every=3, run_dir=tmp_path / "run"))
    said = capsys.readouterr()
    assert row["eval/variety"] < 0.01
    assert said.err.count("update 6: the generator has collapsed") == 1 and said.err.count("collapsed:") == 1
    assert "ALL ALIKE" in said.out


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.2, "log_every": 2, "codes": 2, "minibatch_discrimination": True, "image_size": 16}
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
        for key in filter(a.get, a):
            # after six updates its pictures are hardly apart: a single pixel that rounds the other way shows
            tolerance = {"rel": 2e-3, "abs": 1e-4 if key == "eval/variety" else 0.0}
            assert float(a[key]) == pytest.approx(float(b[key]), **tolerance), key


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.2, log_every=2, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    real = "eval/frechet_real"
    assert rows(tmp_path / "a")[0][real] == rows(tmp_path / "c")[0][real]  # judged in the same features


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"epochs": 0.5, "log_every": 3, "checkpoint_every": 2, "codes": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = gan.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(gan.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    assert (tmp_path / "half/samples.png").read_bytes() == (tmp_path / "whole/samples.png").read_bytes()
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    for part in ("generator", "discriminator"):
        assert all(torch.equal(whole[part][key], half[part][key]) for key in whole[part])
    assert whole["frames"].keys() == half["frames"].keys()
    assert all(torch.equal(whole["frames"][step], half["frames"][step]) for step in whole["frames"])


def test_bfloat16_learns_and_differs_in_the_last_digits(tmp_path):
    found = [train(Args(**SMALL, epochs=0.3, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["losses/generator"] != found[1]["losses/generator"]
    assert found[1]["losses/generator"] == pytest.approx(found[0]["losses/generator"], rel=0.02)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gan, "generator_loss", lambda d, fake, *_: fake.sum((1, 2, 3)) * math.nan)
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_pictures_without_labels_have_no_distance(tmp_path):
    for i in range(40):
        pixels = np.random.default_rng(i).integers(256, size=(9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    flags = SMALL | {"dataset": "folder", "folder": tmp_path, "batch_size": 10, "codes": 2, "epochs": 2.0}
    row = train(Args(**flags, save_samples=3, run_dir=tmp_path / "run"))
    assert row["eval/frechet"] is None and row["eval/code_error"] is None and row["eval/variety"] > 0
    assert set(np.load(tmp_path / "run/samples.npz")) == {"samples", "seconds"}


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"epochs": math.inf}, "--epochs"),
        ({"batch_size": 1}, "--batch-size"),
        ({"batch_size": 1501}, "--batch-size: at most 1500"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"generator_learning_rate": -1.0}, "--generator-learning-rate"),
        ({"beta1": 1.0}, "--beta1"),
        ({"width": 0}, "--width"),
        ({"codes": 1}, "--codes"),
        ({"codes": -2}, "--codes"),
        ({"information_weight": math.nan}, "--information-weight"),
        ({"image_size": 27}, "--image-size"),
        ({"image_size": 4}, "--image-size"),
        ({"eval_images": 0}, "--eval-images"),
        ({"save_samples": -1}, "--save-samples"),
        ({"folder": Path("x")}, "--folder"),
        ({"dataset": "folder"}, "--folder"),
        ({"dataset": "folder", "folder": Path("nowhere")}, "at least 20 pictures"),
        ({"dataset": "emoji", "font": Path("nowhere.ttf")}, "--font"),
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
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"latent_dim": 5}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: gan.evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    whole = (tmp_path / "run/checkpoint.pt").read_bytes()
    (tmp_path / "run/checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"--resume .*run: "):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "gen/gan.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
