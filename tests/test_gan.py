"""GAN: its networks against DCGAN's sizes, its losses against logarithms, its updates against algorithm 1 by hand."""

import csv
import gzip
import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from gen import gan
from gen.gan import Args, UsageError, diversity, make_discriminator, make_generator, train

SMALL = {"updates": 3, "batch_size": 8, "width": 2, "latent_dim": 5, "log_every": 2}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_the_networks_have_dcgans_sizes():
    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):  # PyTorch's example of DCGAN has 3,576,704 and 2,765,568, without its three biases
        generator, discriminator = make_generator(100, 64, 3, 64), make_discriminator(64, 3, 64)
        assert (count(generator), count(discriminator)) == (3_576_704 + 3, 2_765_568 + 64 + 1)
        for size in (28, 32, 64):
            images = make_generator(5, 2, 3, size)(torch.empty(6, 5))
            assert images.shape == (6, 3, size, size) and make_discriminator(2, 3, size)(images).shape == (6,)


def test_the_initialization_is_dcgans():
    torch.manual_seed(0)
    layers = nn.Conv2d(9, 99, 5), nn.ConvTranspose2d(99, 9, 5), nn.BatchNorm2d(9999)
    for layer, mean in zip(nn.Sequential(*layers).apply(gan.initialize), (0, 0, 1), strict=True):
        assert layer.weight.mean().item() == pytest.approx(mean, abs=1e-3)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03) and (layer.bias == 0).all()


def algorithm_1(args):
    """What train() does, with nothing to make it fast: every gradient is computed, Adam is written out."""
    torch.manual_seed(args.seed)
    images = interpolate(gan.load_images(args), 28, mode="bilinear", antialias=True)
    g = make_generator(args.latent_dim, args.width, 1, 28).apply(gan.initialize)
    d = make_discriminator(args.width, 1, 28).apply(gan.initialize)
    moments = {id(p): [torch.zeros_like(p), torch.zeros_like(p)] for p in [*g.parameters(), *d.parameters()]}

    def adam(network, loss, t):
        parameters = list(network.parameters())
        for p, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            m, v = moments[id(p)]
            m.mul_(0.5).add_(0.5 * grad)
            v.mul_(0.999).add_(0.001 * grad**2)
            with torch.no_grad():
                p.sub_(args.learning_rate * (m / (1 - 0.5**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))

    for t in range(1, args.updates + 1):
        x = images[torch.randint(1500, (args.batch_size,))].float() / 127.5 - 1
        fake = g(torch.rand(args.batch_size, args.latent_dim) * 2 - 1)
        adam(d, -(d(x).sigmoid().log() + (1 - d(fake.detach()).sigmoid()).log()).mean(), t)
        adam(g, -d(fake).sigmoid().log().mean(), t)
    return {"generator": g.state_dict(), "discriminator": d.state_dict()}


def test_the_updates_are_algorithm_1(tmp_path):
    args = Args(run_dir=tmp_path / "run", **SMALL | {"log_every": 3})
    train(args)
    found, expected = torch.load(tmp_path / "run/model.pt"), algorithm_1(args)
    for network, weights in expected.items():
        for name, tensor in weights.items():
            if "running" not in name:  # the two forward passes of D are counted differently, nothing uses them
                assert torch.allclose(found[network][name], tensor, atol=2e-5), (network, name)
    for name in expected["generator"]:
        assert torch.allclose(found["generator"][name], expected["generator"][name], atol=1e-4), name


def test_diversity_is_the_distance_to_the_nearest_other():
    points = torch.tensor([[0.0, 0], [3, 4], [3, 5], [9, 9]]).view(4, 1, 1, 2)
    assert diversity(points) == pytest.approx((5 + 1 + 1 + 52**0.5) / 4, rel=1e-5)
    assert diversity(torch.ones(9, 1, 2, 2)) == 1e-9  # of images that are all black: it is divided by


def test_data_sets_are_read_and_a_damaged_file_is_named(tmp_path):
    rng = np.random.default_rng(0)
    mnist = rng.integers(256, size=(9, 28, 28), dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + mnist.tobytes()))
    cifar = rng.integers(256, size=(10, 3, 32, 32), dtype=np.uint8)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for i in range(5):
            content = b"".join(bytes([7]) + image.tobytes() for image in cifar[2 * i : 2 * i + 2])
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{i + 1}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert np.array_equal(gan.load_images(Args(dataset="mnist", data_dir=tmp_path))[:, 0].numpy(), mnist)
    assert np.array_equal(gan.load_images(Args(dataset="cifar10", data_dir=tmp_path)).numpy(), cifar)
    for name, dataset in (("train-images-idx3-ubyte.gz", "mnist"), ("cifar-10-binary.tar.gz", "cifar10")):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
        with pytest.raises(UsageError, match=rf"--data-dir.*{name}"):
            train(Args(dataset=dataset, data_dir=tmp_path, run_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_folder_is_read_without_its_damaged_files(tmp_path, capsys):
    args = Args(dataset="folder", data_dir=tmp_path, image_size=32)
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "text.png").write_text("no image either")
    with pytest.raises(UsageError, match=r"--data-dir.* 2 other files"):
        gan.load_images(args)
    with pytest.raises(UsageError, match="--data-dir"):
        gan.load_images(Args(dataset="folder", data_dir=tmp_path / "absent"))
    Image.new("RGB", (40, 20), (255, 128, 0)).save(tmp_path / "sub/a.PNG")
    Image.new("L", (9, 33), 200).save(tmp_path / "b.jpg")
    whole = (tmp_path / "sub/a.PNG").read_bytes()
    damaged = {"cut.png": whole[:60], "length.png": whole[:8] + b"\xff" + whole[9:], "bad.png": whole[:41] + bytes(30)}
    for name, content in (damaged | {"cut.jpg": (tmp_path / "b.jpg").read_bytes()[:300]}).items():
        (tmp_path / name).write_bytes(content)
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)  # a decompression bomb
    chunk = b"IHDR" + header
    bomb = whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    capsys.readouterr()
    images = gan.load_images(args)
    assert images.shape == (2, 3, 32, 32)
    assert {tuple(image[:, 5, 5].tolist()) for image in images} == {(255, 128, 0), (200, 200, 200)}
    assert "7 unreadable files are skipped" in capsys.readouterr().out


def test_generated_digits_become_like_real_ones(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", updates=200, width=8, log_every=100, learning_rate=1e-3))
    left = {"args.json", "metrics.csv", "model.pt", "samples.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == left
    generator = make_generator(100, 8, 1, 28)
    generator.load_state_dict(torch.load(tmp_path / "run/model.pt")["generator"])
    z = torch.rand(500, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():  # one by one: no image depends on the others
        images = torch.cat([generator.eval()(noise) for noise in z.split(1)]) * 0.5 + 0.5
    real = interpolate(gan.load_images(Args())[:500], 28, mode="bilinear", antialias=True) / 255
    assert row["eval/diversity"] == pytest.approx(diversity(images) / diversity(real), rel=1e-4)
    correlation = torch.corrcoef(torch.stack([images.mean(0).flatten(), real.mean(0).flatten()]))[0, 1]
    assert correlation > 0.9  # five seeds: 0.96 to 0.98
    picture = np.asarray(Image.open(tmp_path / "run/samples.png"))[..., 0]
    assert picture.shape == (2 * 60, 16 * 60)
    assert np.abs(picture[62:118:2, 62:118:2] / 255 - images[1, 0].numpy()).max() < 0.01
    assert [r["global_step"] for r in rows(tmp_path / "run")] == ["100", "200"]


def test_the_seed_decides_every_number_and_evaluating_none(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, **SMALL, seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    train(Args(run_dir=tmp_path / "once", **SMALL | {"log_every": 3}))
    weights, expected = (torch.load(tmp_path / name / "model.pt")["generator"] for name in ("once", "a"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("flags", [{"batch_size": 1}, {"updates": 0}, {"image_size": 30}, {"learning_rate": 0}])
def test_what_cannot_work_is_refused(flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        Args(**flags)
