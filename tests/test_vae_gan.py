"""VAE/GAN: its terms against torch.distributions and logarithms, its updates against algorithm 1 by hand."""

import csv
import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal, kl_divergence

from gen import vae_gan
from gen.vae_gan import Args, Discriminator, UsageError, losses, make_decoder, train

SMALL = {"epochs": 1, "batch_size": 500, "width": 2, "latent_dim": 3}


def make(seed=0):
    torch.manual_seed(seed)
    networks = [Discriminator(2, 1, 28, 6), make_decoder(3, 2, 1, 28), Discriminator(2, 1, 28)]
    return [network.apply(vae_gan.initialize) for network in networks]


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_terms_are_those_of_the_paper():
    networks, x = make(), torch.rand(6, 1, 28, 28) * 2 - 1
    encoder, decoder, discriminator = networks
    with torch.no_grad():
        encoder.head.bias.uniform_(-1, 1)  # a posterior that is not the prior
        discriminator.head.bias.fill_(0.3)
        codes = []
        decoder.register_forward_pre_hook(lambda _, inputs: codes.append(inputs[0]))
        torch.manual_seed(5)
        found = losses(networks, x, 3.0)
        torch.manual_seed(5)
        mu, logvar = encoder(x)[1].chunk(2, 1)
        q = Normal(mu, (logvar / 2).exp())
        z, prior = q.mean + q.stddev * torch.randn(6, 3), torch.randn(6, 3)
        assert torch.allclose(codes[0], torch.cat([z, prior]), atol=1e-5)
        recon, fake = decoder(torch.cat([z, prior])).split(6)
        (features, d), (recon_features, d_recon), (_, d_fake) = (discriminator(kind) for kind in (x, recon, fake))
        d, d_recon, d_fake = d.sigmoid(), d_recon.sigmoid(), d_fake.sigmoid()
    n = Normal(features, 3.0)
    llike = (n.log_prob(features) - n.log_prob(recon_features)).sum(1).mean()  # but for the constant
    expected = {"kl": kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean(), "errors": llike}
    expected["discriminator"] = -(d.log() + (1 - d_recon).log() + (1 - d_fake).log()).mean()
    expected["deception"] = -(d_recon.log() + d_fake.log()).mean()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=2e-3), name


def algorithm_1(args):
    """One epoch: gradients of all three networks with the same parameters, then Adam's steps, written out."""
    torch.manual_seed(args.seed)
    images = vae_gan.load_images(args)[0]
    networks = [Discriminator(2, 1, 28, 6), make_decoder(3, 2, 1, 28), Discriminator(2, 1, 28)]
    networks = [network.apply(vae_gan.initialize) for network in networks]
    moments = {}
    for t, idx in enumerate(torch.randperm(1500).split(500), 1):
        terms = losses(networks, images[idx].float() / 127.5 - 1, args.noise_std)
        totals = [terms["kl"] + terms["errors"], 0.05 * terms["errors"] + terms["deception"], terms["discriminator"]]
        steps = []
        for network, total in zip(networks, totals, strict=True):
            for name, p in network.named_parameters():
                (grad,) = torch.autograd.grad(total, p, retain_graph=True)
                m, v = moments.setdefault((id(network), name), [torch.zeros_like(p), torch.zeros_like(p)])
                m.mul_(0.5).add_(0.5 * grad)
                v.mul_(0.999).add_(0.001 * grad**2)
                steps.append((p, args.learning_rate * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)))
        with torch.no_grad():
            for p, step in steps:
                p.sub_(step)
    return dict(zip(("encoder", "decoder", "discriminator"), networks, strict=True))


def test_the_updates_are_algorithm_1(tmp_path):
    args = Args(run_dir=tmp_path / "run", **SMALL)
    train(args)
    found = torch.load(tmp_path / "run/model.pt")
    for name, network in algorithm_1(args).items():
        for key, tensor in network.state_dict().items():
            assert torch.allclose(found[name][key], tensor, atol=2e-4), (name, key)


def test_sharpness_is_the_squared_difference_of_neighbours():
    image = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).view(1, 1, 2, 2)
    assert vae_gan.sharpness(image) == pytest.approx((0.25 + 0.25) / 2 + (1 + 0) / 2)
    assert vae_gan.sharpness(torch.ones(2, 3, 4, 4)) == 1e-9  # of images that are all black: it is divided by


def test_reconstructions_are_of_the_image_that_was_encoded(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", epochs=10, width=8, learning_rate=1e-3))
    test = vae_gan.load_images(Args())[1] / 255
    encoder, decoder = Discriminator(8, 1, 28, 64).eval(), make_decoder(32, 8, 1, 28).eval()
    states = torch.load(tmp_path / "run/model.pt")
    encoder.load_state_dict(states["encoder"])
    decoder.load_state_dict(states["decoder"])
    with torch.no_grad():  # one by one: no image depends on the others
        mu = torch.cat([encoder(x * 2 - 1)[1][:, :32] for x in test.split(1)])
        recon = torch.cat([decoder(z) for z in mu.split(1)]) * 0.5 + 0.5
    error = (recon - test).square().flatten(1).sum(1).mean().item()
    assert row["eval/squared_error"] == pytest.approx(error, rel=1e-3)
    other = (recon.roll(1, 0) - test).square().flatten(1).sum(1).mean().item()
    assert error < 0.85 * other  # than of another image
    assert row["eval/sharpness_recon"] == pytest.approx(vae_gan.sharpness(recon) / vae_gan.sharpness(test), rel=1e-3)
    left = {"args.json", "metrics.csv", "model.pt", "samples.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == left
    picture = np.asarray(Image.open(tmp_path / "run/samples.png"))[..., 0] / 255
    grid = picture.reshape(10, 60, 10, 60)[:, 2:-2:2, :, 2:-2:2]
    assert np.abs(grid[0, :, 3] - test[3, 0].numpy()).max() < 0.01  # an original in the first row
    assert np.abs(grid[1, :, 3] - recon[3, 0].numpy()).max() < 0.01 and grid[2:].std((0, 2)).mean() > 0.05


def test_data_sets_are_read_and_a_damaged_file_is_named(tmp_path):
    mnist = np.random.default_rng(0).integers(256, size=(9, 28, 28), dtype=np.uint8)
    for url in vae_gan.SHA256["mnist"]:
        (tmp_path / url.rpartition("/")[2]).write_bytes(gzip.compress(bytes(16) + mnist.tobytes()))
    args = Args(dataset="mnist", data_dir=tmp_path, run_dir=tmp_path / "none")
    assert all(np.array_equal(images[:, 0].numpy(), mnist) for images in vae_gan.load_images(args))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"text")
    with pytest.raises(UsageError, match=r"--data-dir.*t10k-images"):
        train(args)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"text")
    with pytest.raises(UsageError, match=r"--data-dir.*cifar-10"):
        train(Args(dataset="cifar10", data_dir=tmp_path, run_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_folder_is_read_without_its_damaged_files(tmp_path, capsys):
    args = Args(dataset="folder", data_dir=tmp_path / "photos")
    with pytest.raises(UsageError, match=r"--data-dir.* 100 readable images, has 0 and 0 others"):
        vae_gan.load_images(args)
    (tmp_path / "photos/sub").mkdir(parents=True)
    for i in range(100):
        Image.new("RGB", (40, 20), (i, 128, 0)).save(tmp_path / f"photos/sub/{i:03}.png")
    (tmp_path / "photos/sub/005.txt").write_text("no image")
    images, test = vae_gan.load_images(args)
    assert images.shape == (90, 3, 32, 32) and test[:3, 0, 5, 5].tolist() == [9, 19, 29]
    assert "1 unreadable files" in capsys.readouterr().out


def test_cifar10_is_read_after_its_labels(tmp_path):
    rows = np.random.default_rng(0).integers(256, size=(6, 2, 3073), dtype=np.uint8)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, part in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], rows, strict=True):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = part.size
            tar.addfile(info, io.BytesIO(part.tobytes()))
    images, test = vae_gan.load_images(Args(dataset="cifar10", data_dir=tmp_path))
    assert np.array_equal(images.numpy(), rows[:5, :, 1:].reshape(10, 3, 32, 32))
    assert np.array_equal(test.numpy(), rows[5, :, 1:].reshape(2, 3, 32, 32))


def test_updates_are_made_in_training_mode(tmp_path, monkeypatch):
    seen, forward = set(), Discriminator.forward

    def recorded(self, x):
        seen.add((torch.is_grad_enabled(), self.training))
        return forward(self, x)

    monkeypatch.setattr(Discriminator, "forward", recorded)
    train(Args(run_dir=tmp_path / "run", **SMALL | {"epochs": 2}))
    assert seen == {(True, True), (False, False)}


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, **SMALL, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize("flags", [{"noise_std": 0}, {"epochs": 0}, {"batch_size": 1}, {"error_weight": -1}])
def test_what_cannot_work_is_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
