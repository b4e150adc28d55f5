"""VAE/GAN: its three losses and who learns from which, against plain gradients; sharper pictures than the VAE's."""

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
from PIL import Image
from torch import distributions as D

from gen import vae_gan
from gen.vae_gan import Args, UsageError, frechet_distance, train, update

CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
SMALL = {"image_size": 8, "batch_size": 50, "width": 4, "latent_dim": 3, "judge_updates": 2, "eval_images": 60}
SMALL |= {"torch_threads": 1}


@pytest.fixture(autouse=True)
def no_curve(monkeypatch, request):
    """Matplotlib takes longer than the trainings of these tests: one of them looks at its figure."""
    if "leaves_its_pictures" not in request.node.name:
        monkeypatch.setattr(vae_gan.Run, "plot", lambda *_: None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**flags):
    """Networks with weights large enough to matter, plain gradient descent, real pictures and noise of a batch of 6."""
    args = Args(**SMALL | {"batch_size": 6} | flags)
    networks = vae_gan.make_networks(args, 1, CPU)
    for i, network in enumerate(networks):
        for j, weight in enumerate(network.parameters()):
            weight.data.normal_(generator=generator(100 * i + j)).mul_(0.3)
    optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for network in networks]
    real = torch.randint(256, (6, 1, 8, 8), generator=generator(1)).byte()
    return networks, optimizers, args, real, torch.randn(6, 2, args.latent_dim, generator=generator(2))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the losses ------------------------------------------------------------------------------


def test_the_prior_and_the_errors_are_what_distributions_say():
    mu, logvar = torch.randn(2, 5, 3, generator=generator())
    q = D.Normal(mu, (logvar / 2).exp())
    assert torch.allclose(vae_gan.kl_divergence(mu, logvar), D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(1), atol=1e-5)
    x, recon = torch.randn(2, 5, 1, 2, 3, generator=generator(1))
    constant = 6 * math.log(0.7 * math.sqrt(2 * math.pi))
    expected = -D.Normal(recon, 0.7).log_prob(x).flatten(1).sum(1) - constant
    assert torch.allclose(vae_gan.error_nats(x, recon, 0.7), expected, atol=1e-4)


def test_the_game_is_cross_entropy_over_three_kinds_of_pictures():
    verdicts = torch.randn(12, generator=generator())
    p = verdicts.sigmoid().view(3, 4)
    loss = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log())
    assert torch.allclose(vae_gan.discriminator_loss(verdicts), loss, atol=1e-5)
    assert torch.allclose(vae_gan.deception_loss(verdicts), -(p[1].log() + p[2].log()), atol=1e-5)


def test_each_network_learns_from_its_own_losses():
    """Plain gradients of each loss by itself; the step size is 1, so weights change by minus the gradient."""
    networks, optimizers, args, real, noise = make(error_weight=0.2, noise_std=2.0)
    encoder, decoder, discriminator = networks
    before = [[weight.detach().clone() for weight in network.parameters()] for network in networks]
    x = real.float() / 127.5 - 1
    mu, logvar = encoder(x)
    z = mu + (logvar / 2).exp() * noise[:, 0]
    drawn = torch.cat([x, decoder(torch.cat([z, noise[:, 1]]))])
    logits = [discriminator(kind)[1] for kind in drawn.detach().chunk(3)]  # each kind is normalized by itself
    game = vae_gan.discriminator_loss(torch.cat(logits)).mean()
    expected_d = torch.autograd.grad(game, list(discriminator.parameters()), retain_graph=True)
    with torch.no_grad():  # the others learn from the discriminator as it is after its own step
        for weight, grad in zip(discriminator.parameters(), expected_d, strict=True):
            weight.sub_(grad)
    (real_features, on_real), (recon_features, on_recon), (_, on_sample) = map(discriminator, drawn.chunk(3))
    real_features, verdicts = real_features.detach(), torch.cat([on_real, on_recon, on_sample])
    nats = (0.5 * ((real_features - recon_features) / 2) ** 2).sum(1).mean()
    prior = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1).mean()
    deception = vae_gan.deception_loss(verdicts).mean()
    expected_e = torch.autograd.grad(prior + nats, list(encoder.parameters()), retain_graph=True)
    expected_g = torch.autograd.grad(0.2 * nats + deception, list(decoder.parameters()))
    with torch.no_grad():
        for weight, old in zip(discriminator.parameters(), before[2], strict=True):
            weight.copy_(old)

    sums = update(networks, optimizers, real, noise, args)
    assert sums[:3].tolist() == pytest.approx([6 * prior.item(), 6 * nats.item(), 6 * game.item()], rel=1e-3)
    for network, old, grads in zip(networks, before, (expected_e, expected_g, expected_d), strict=True):
        for (name, new), start, grad in zip(network.named_parameters(), old, grads, strict=True):
            assert torch.allclose(start - new, grad, rtol=2e-3, atol=2e-4 * grad.abs().max().item() + 1e-5), name
    assert all(weight.requires_grad for weight in discriminator.parameters())


def test_the_plain_vae_minimizes_its_bound():
    networks, optimizers, args, real, noise = make(loss="vae", noise_std=0.6)
    before = [weight.detach().clone() for network in networks for weight in network.parameters()]
    x = real.float() / 127.5 - 1
    mu, logvar = networks[0](x)
    recon = networks[1](mu + (logvar / 2).exp() * noise[:, 0])
    kl = D.kl_divergence(D.Normal(mu, (logvar / 2).exp()), D.Normal(0.0, 1.0)).sum(1)
    bound = (kl + ((x - recon) ** 2).flatten(1).sum(1) / (2 * 0.36)).mean()
    weights = [weight for network in networks for weight in network.parameters()]
    grads = torch.autograd.grad(bound, weights)
    sums = update(networks, optimizers, real, noise, args)
    assert (sums[0] + sums[1]).item() / 6 == pytest.approx(bound.item(), rel=1e-4) and len(networks) == 2
    for start, new, grad in zip(before, weights, grads, strict=True):
        assert torch.allclose(start - new, grad, rtol=1e-3, atol=1e-4)


# --- the scores ------------------------------------------------------------------------------


def test_blurred_pictures_are_less_sharp():
    pictures = torch.randint(256, (5, 3, 6, 7), generator=generator()).byte()
    x = pictures.double().numpy()
    expected = np.mean((x[:, :, 1:] - x[:, :, :-1]) ** 2) + np.mean((x[..., 1:] - x[..., :-1]) ** 2)
    assert vae_gan.sharpness(pictures) == pytest.approx(expected)
    assert vae_gan.sharpness(torch.nn.functional.avg_pool2d(pictures.float(), 3, 1)) < 0.4 * expected


def test_the_frechet_distance_of_gaussians_and_a_classifier_that_learns():
    rng = generator()
    a, b = torch.randn(2000, 2, generator=rng).double(), torch.randn(2000, 2, generator=rng).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, 3 * b + torch.tensor([0.0, 2.0])) == pytest.approx(4 + 4 + 4, rel=0.1)
    train_pictures, labels, test, test_labels = vae_gan.load_data(Args(image_size=8), CPU)
    classifier = vae_gan.train_classifier(train_pictures, labels, 100)
    assert vae_gan.classifier_accuracy(classifier, test, test_labels) > 0.75


# --- training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both losses on small digits: folder and last row of each."""
    found, folder = {}, tmp_path_factory.mktemp("trained")
    flags = {"image_size": 16, "width": 8, "latent_dim": 16, "judge_updates": 80, "eval_images": 500}
    stds = {"vae": 0.5, "vae-gan": 0.8}  # fewer features than the default's are compared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae_gan.Run, "plot", lambda *_: None)
        for loss in ("vae", "vae-gan"):
            args = Args(
                **SMALL | flags,
                loss=loss,
                noise_std=stds[loss],
                epochs=8,
                log_every=120,
                learning_rate=1e-3,
                run_dir=folder / loss,
            )
            found[loss] = train(args)
    return folder, found


def test_errors_in_features_make_sharper_samples_that_are_nearer_to_real_ones(trained):
    folder, found = trained
    assert found["vae-gan"]["eval/sharpness"] > 1.1 * found["vae"]["eval/sharpness"]
    assert found["vae-gan"]["eval/frechet"] < 0.8 * found["vae"]["eval/frechet"]
    assert found["vae-gan"]["eval/frechet"] < float(rows(folder / "vae-gan")[0]["eval/frechet"])
    blank = (vae_gan.load_data(Args(image_size=16), CPU)[2].float() / 255).square().flatten(1).sum(1).mean().item()
    assert found["vae"]["eval/squared_error"] < 0.3 * blank  # black paper
    assert found["vae-gan"]["eval/squared_error"] < 0.6 * blank
    assert found["vae"]["losses/discriminator"] is None and found["vae-gan"]["losses/discriminator"] > 0


def test_it_leaves_its_pictures(tmp_path):
    args = Args(
        **SMALL | {"batch_size": 100, "eval_images": 2000}, epochs=1.0, save_samples=20, run_dir=tmp_path / "run"
    )
    row = train(args)
    names = {"args.json", "metrics.csv", "checkpoint.pt", "samples.npz"}
    names |= {f"{name}.png" for name in ("samples", "reconstructions", "interpolations", "curve")}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    pairs = np.asarray(Image.open(tmp_path / "run/reconstructions.png"))[::2, ::2]
    assert pairs.shape == (6 * 9, 10 * 9)
    test = vae_gan.load_data(args, CPU)[2]
    assert (pairs[:8, :8] == test[0, 0].numpy()).all() and (pairs[18:26, 9:17] == test[11, 0].numpy()).all()
    arrays = np.load(tmp_path / "run/samples.npz")
    assert arrays["samples"].shape == (20, 1, 8, 8) and arrays["samples"].dtype == np.uint8 and arrays["seconds"] > 0
    assert arrays["train_codes"].shape == (1500, 3) and arrays["test_codes"].shape == (297, 3)
    assert arrays["train_codes"].dtype == np.float32 and len(arrays["test_labels"]) == 297
    assert vae_gan.evaluate(tmp_path / "run")["eval/frechet"] == row["eval/frechet"]


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.2, "log_every": 2, "image_size": 16}
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
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=2e-3) for key in a if a[key])


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.2, log_every=2, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize("loss", ["vae", "vae-gan"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch, loss):
    flags = SMALL | {"epochs": 0.5, "log_every": 3, "checkpoint_every": 2, "loss": loss}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = vae_gan.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(vae_gan.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    assert (tmp_path / "half/samples.png").read_bytes() == (tmp_path / "whole/samples.png").read_bytes()
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    for part in ("encoder", "decoder"):
        assert all(torch.equal(whole[part][key], half[part][key]) for key in whole[part])


def test_bfloat16_learns_and_differs_in_the_last_digits(tmp_path):
    found = [train(Args(**SMALL, epochs=0.3, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["losses/errors"] != found[1]["losses/errors"]
    assert found[1]["losses/errors"] == pytest.approx(found[0]["losses/errors"], rel=0.05)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_gan, "kl_divergence", lambda mu, logvar: (mu + logvar).sum(1) * math.nan)
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


def test_pictures_without_labels_have_no_distance(tmp_path):
    for i in range(40):
        pixels = np.random.default_rng(i).integers(256, size=(9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    flags = SMALL | {"dataset": "folder", "folder": tmp_path, "batch_size": 10, "epochs": 2.0}
    row = train(Args(**flags, save_samples=3, run_dir=tmp_path / "run"))
    assert row["eval/frechet"] is None and row["eval/squared_error"] > 0
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
        ({"beta1": 1.0}, "--beta1"),
        ({"width": 0}, "--width"),
        ({"error_weight": -1.0}, "--error-weight"),
        ({"noise_std": -1.0}, "--noise-std"),
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
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: vae_gan.evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    whole = (tmp_path / "run/checkpoint.pt").read_bytes()
    (tmp_path / "run/checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"--resume .*run: "):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "gen/vae_gan.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
