"""PixelCNN: what it may see by brute force, its probabilities by enumeration, two processes against one."""

import csv
import gc
import io
import itertools
import math
import os
import socket
import tarfile
from multiprocessing import get_context

import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gen.pixelcnn import Args, GatedLayer, PixelCNN, UsageError, gate, load_images, quantize, train

SMALL = {"channels": 4, "layers": 2, "updates": 6, "log_every": 2, "batch_size": 4, "eval_images": 10}


def random_model(colours=1, levels=2, layers=3, channels=6) -> PixelCNN:
    """Weights so large that every path shows, and none is cut off by a ReLU."""
    torch.manual_seed(0)
    model = PixelCNN(colours, levels, layers, channels)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.layers[-1].out.bias.data += 3
    model.head[1].bias.data += 3
    return model


@pytest.mark.parametrize("colours, layers", [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_a_factor_depends_on_all_pixels_before_it_and_on_nothing_else(colours, layers):
    """Neither on later pixels nor on itself; with four layers also on all earlier ones: there is no blind spot."""
    side, model = 5, random_model(colours, 2, layers, 12)
    x = torch.randint(2, (1, colours, side, side)).byte() * 255
    places = list(itertools.product(range(side), range(side), range(colours)))  # in raster order
    changed = x.repeat(len(places), 1, 1, 1)
    for k, (i, j, colour) in enumerate(places):
        changed[k, colour, i, j] = 255 - changed[k, colour, i, j]
    with torch.no_grad():
        moved = (model.logits(changed) - model.logits(x)).abs().amax(dim=1)  # [places, c, h, w]
    moved = moved.permute(0, 2, 3, 1).flatten(1)  # row: the changed pixel, column: the factor
    assert moved.tril().max() < 1e-5
    if layers == 4:
        assert moved[torch.ones_like(moved, dtype=torch.bool).triu(1)].min() > 5e-5


def test_the_masks_order_the_colours_within_each_half():
    image, maps = torch.arange(3), torch.arange(3).repeat_interleave(2)
    a = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0]]).float().repeat_interleave(2, 0)
    for kind, of_the_pixel in (("A", a), ("B", a + torch.eye(3).repeat_interleave(2, 0))):
        mask = GatedLayer(kind, image, maps, 5).horizontal.mask
        assert torch.equal(mask[:, :, 0, -1], of_the_pixel.repeat(2, 1)) and (mask[..., :-1] == 1).all()


def test_the_gate_is_equation_2():
    x = torch.randn(2, 6, 3, 4)
    assert torch.allclose(gate(x), torch.tanh(x[:, :3]) / (1 + torch.exp(-x[:, 3:])))


@pytest.mark.parametrize("colours, shape", [(1, (1, 2, 3)), (3, (3, 1, 2))])
def test_the_probabilities_of_all_images_sum_to_one(colours, shape):
    images = torch.tensor(list(itertools.product([0, 255], repeat=math.prod(shape)))).byte().view(-1, *shape)
    p = torch.exp(-random_model(colours)(images).double())
    assert p.sum().item() == pytest.approx(1, abs=1e-5) and p.std() > 1e-3


def test_the_likelihood_is_the_product_of_the_factors_given_earlier_pixels_only():
    model, x = random_model(3, 256), torch.randint(256, (2, 3, 2, 3)).byte()
    log_p, known = torch.zeros(2), torch.zeros(2, 3, 2, 3, dtype=torch.uint8)
    for i, j, colour in itertools.product(range(2), range(3), range(3)):
        factors = model.logits(known)[:, :, colour, i, j].log_softmax(dim=1)
        log_p += factors[torch.arange(2), x[:, colour, i, j].long()].detach()
        known[:, colour, i, j] = x[:, colour, i, j]
    assert torch.allclose(model(x), -log_p, rtol=1e-4)


def test_images_are_sampled_as_often_as_they_are_likely():
    model, n = random_model(), 4000
    images = torch.tensor(list(itertools.product([0, 255], repeat=4))).byte().view(-1, 1, 2, 2)
    p = torch.exp(-model(images)).detach()
    upper = torch.tensor([[0, 255], [9, 9]]).byte().expand(n, 1, 2, 2)
    given = torch.where(torch.arange(16) // 4 == 1, p, 0) / p[4:8].sum()
    for first_row, expected in ((0, p), (1, given)):
        drawn = model.sample(upper, first_row).flatten(1) // 255 @ torch.tensor([8, 4, 2, 1]).byte()
        found = drawn.long().bincount(minlength=16) / n
        assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_two_levels_are_white_as_often_as_the_intensity_says():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(20_000, 1)
    x = quantize(images, 2)
    assert x.unique().tolist() == [0, 255] and (x / 255.0).mean(0).tolist() == pytest.approx([0, 0.2, 1], abs=0.012)
    assert torch.equal(quantize(images, 256), images)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def test_learns_digits_and_writes_its_folder(tmp_path):
    flags = {"channels": 8, "updates": 150, "log_every": 150, "learning_rate": 5e-3}
    row = train(Args(run_dir=tmp_path / "run", **SMALL | flags))
    assert row["eval/nats"] < 310  # nine seeds: 280 to 290; independent pixels with their own means 328, fair coins 543
    assert row["eval/bits_per_dim"] == pytest.approx(row["eval/nats"] / 784 / math.log(2))
    files = {"args.json", "metrics.csv", "samples.png", "model.pt"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    model = PixelCNN(1, 2, SMALL["layers"], 8)  # scored here, not read from the run's own rows
    model.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["model"])
    rng = torch.Generator().manual_seed(0)
    x = quantize(load_images(Args())[1][torch.randperm(297, generator=rng)[:10]], 2, rng)
    assert model(x).mean().item() == pytest.approx(row["eval/nats"], rel=1e-4)


@pytest.fixture
def no_sampling(monkeypatch):
    monkeypatch.setattr(PixelCNN, "sample", lambda self, x, first_row=0: x)


def test_the_seed_decides_every_number(tmp_path, no_sampling):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **SMALL))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def work(rank: int, port: int, args: Args):
    """What torchrun does: the process's place is in the environment."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    destroy = dist.destroy_process_group

    def destroy_after_the_model():
        assert not any(type(x) is DistributedDataParallel for x in gc.get_objects())  # the other order may deadlock
        destroy()

    dist.destroy_process_group = destroy_after_the_model
    train(args)


@pytest.mark.timeout(600)  # processes that share a busy core take their time
def test_two_processes_learn_what_one_learns(tmp_path, no_sampling):
    flags = SMALL | {"learning_rate": 0.02}
    train(Args(run_dir=tmp_path / "one", **flags))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    args = Args(run_dir=tmp_path / "two", **flags)
    processes = [get_context("fork").Process(target=work, args=(rank, port, args), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=500)
    assert [process.exitcode for process in processes] == [0, 0]
    one, two = ([float(row["eval/nats"]) for row in rows(tmp_path / name)] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)


def test_one_update_touches_no_tensor_of_another_device():
    with torch.device("meta"):
        model, x = PixelCNN(3, 256, 2, 6), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    optimizer = torch.optim.Adam(model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).mean()
    loss.backward()
    optimizer.step()
    assert loss.is_meta and model.sample(x).is_meta


def test_cifar10_is_read_from_its_archive(tmp_path, no_sampling):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = 2 * 3073
            tar.addfile(info, io.BytesIO((bytes([9]) + bytes([k]) * 1024 + bytes([100]) * 2048) * 2))
    images, test = load_images(Args(dataset="cifar10", data_dir=tmp_path))
    assert images.shape == (10, 3, 32, 32) and images[::2, 0, 3, 4].tolist() == [0, 1, 2, 3, 4]
    assert (test[:, 0] == 5).all() and (test[:, 1:] == 100).all()
    flags = {"levels": 256, "updates": 1, "batch_size": 2, "channels": 3, "layers": 1}
    row = train(Args(dataset="cifar10", data_dir=tmp_path, run_dir=tmp_path / "run", **flags))
    assert row["eval/bits_per_dim"] == pytest.approx(row["eval/nats"] / (3072 * math.log(2)))


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    for name in ("train-images-idx3-ubyte.gz", "cifar-10-binary.tar.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08\x00truncated")
    for args, complaint in (
        ({"dataset": "mnist", "data_dir": tmp_path}, "train-images-idx3-ubyte.gz"),
        ({"dataset": "cifar10", "data_dir": tmp_path}, "cifar-10-binary.tar.gz"),
        ({"levels": 3}, "levels"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
            train(Args(**SMALL | args, run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="--batch-size 4: needs a multiple of 3"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
