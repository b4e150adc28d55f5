"""RealNVP: its density against dense Jacobians, two processes against one."""

import csv
import gc
import io
import itertools
import math
import os
import socket
import tarfile
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gen import realnvp
from gen.realnvp import Args, Coupling, RealNVP, UsageError, bits_per_dim, dequantize, load_images, train

SMALL = {"channels": 4, "blocks": 1, "updates": 6, "log_every": 2, "batch_size": 8, "eval_images": 20}


@pytest.fixture(scope="module")
def photos():
    return load_images(Args())


@pytest.fixture(autouse=True)
def photographs_are_read_once(photos, monkeypatch):
    monkeypatch.setattr(realnvp, "load_images", lambda args: photos if args.dataset == "photos" else load_images(args))


def random_model() -> RealNVP:
    torch.manual_seed(0)
    model = RealNVP((2, 4, 4), channels=4, blocks=1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double().eval()


def test_the_likelihood_is_the_change_of_variables_with_a_dense_jacobian():
    model, x = random_model(), torch.rand(3, 2, 4, 4, dtype=torch.double)

    def f(x):
        return model.encode(x[None])[0].flatten()

    for row, log_p in zip(x, model(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(f, row).view(32, 32)
        prior = torch.distributions.Normal(0, 1).log_prob(f(row)).sum()
        assert log_p.item() == pytest.approx((prior + torch.linalg.slogdet(jacobian).logabsdet).item())


def test_decoding_inverts_encoding():
    model, x = random_model(), torch.rand(5, 2, 4, 4, dtype=torch.double)
    z, _ = model.encode(x)
    assert z.shape[1:] == model.latent_shape
    assert torch.allclose(model.decode(z), x)


def test_a_coupling_keeps_what_the_mask_shows_and_nothing_depends_on_what_it_changes_but_itself():
    torch.manual_seed(0)
    mask = torch.arange(32).view(2, 4, 4) % 2
    coupling = Coupling(mask, 2, channels=4, blocks=1).double().eval()
    x = torch.rand(2, 4, 4, dtype=torch.double)

    def f(x):
        return coupling((x[None], torch.zeros(1)))[0][0]

    jacobian = torch.autograd.functional.jacobian(f, x).view(32, 32)
    kept = mask.flatten().bool()
    assert torch.equal(f(x)[mask.bool()], x[mask.bool()])
    assert torch.equal(jacobian[~kept][:, ~kept], jacobian[~kept][:, ~kept].diag().diag())
    assert (jacobian[~kept][:, kept] != 0).any(dim=1).all()


def test_masks_take_turns_and_every_pixel_reaches_every_latent():
    model = random_model()
    for layers in (model.checkerboard, model.channel_wise, model.last):
        masks = [layer.mask for layer in layers]
        assert all(torch.equal(a, 1 - b) for a, b in itertools.pairwise(masks))
        assert all(mask.mean() == 0.5 for mask in masks)
    for mask in (model.checkerboard[0].mask, model.last[0].mask):
        assert (mask[1:] != mask[:-1]).all() and (mask[:, 1:] != mask[:, :-1]).all()
    x = torch.rand(1, 2, 4, 4, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x)[0], x)
    assert (jacobian != 0).all()


def test_each_square_is_squeezed_colour_by_colour_and_the_first_half_is_factored_out(monkeypatch):
    model, x = random_model(), torch.rand(1, 2, 4, 4, dtype=torch.double)
    for layer in (*model.checkerboard, *model.channel_wise, *model.last):
        monkeypatch.setattr(layer, "scale_and_shift", lambda x: (torch.zeros_like(x), torch.zeros_like(x)))
    z, y = model.encode(x)[0], (0.05 + 0.9 * x).logit()
    for colour in (0, 1):  # so that couplings with channel-wise masks see one colour to transform the other
        assert torch.equal(z[0, 4 * colour : 4 * colour + 4, 1, 1], y[0, colour, 2:, 2:].flatten())


def test_bits_and_dequantization():
    assert bits_per_dim(torch.zeros(3), 12) == 8  # uniform pixels
    assert bits_per_dim(torch.full((3,), 12 * math.log(2)), 12) == pytest.approx(7)
    images = torch.arange(256, dtype=torch.uint8).repeat(50, 1)
    x = dequantize(images)
    assert torch.equal((x * 256).floor().byte(), images) and abs((x * 256 - images).mean() - 0.5) < 0.02


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)["model"]


def test_learns_photographs_and_writes_its_folder(tmp_path):
    row = train(Args(run_dir=tmp_path / "run", **SMALL | {"updates": 40, "log_every": 40, "learning_rate": 5e-3}))
    assert row["eval/bits_per_dim"] < 7.6  # 8 bits are what uniform pixels take
    files = {"args.json", "metrics.csv", "samples.png", "model.pt"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    model = RealNVP((3, 32, 32), SMALL["channels"], SMALL["blocks"])  # scored here, not read from the run's rows
    model.load_state_dict(weights(tmp_path / "run"))
    x = dequantize(load_images(Args())[1][:20], torch.Generator().manual_seed(0))
    assert bits_per_dim(model.eval()(x), 3072) == pytest.approx(row["eval/bits_per_dim"], rel=1e-4)
    assert torch.allclose(model.decode(model.encode(x)[0]), x, atol=1e-4)


def test_updates_are_made_in_training_mode_and_measured_without(tmp_path, monkeypatch):
    seen, forward = set(), RealNVP.forward

    def recorded(self, x):
        seen.add((torch.is_grad_enabled(), self.training))
        return forward(self, x)

    monkeypatch.setattr(RealNVP, "forward", recorded)
    train(Args(run_dir=tmp_path / "run", **SMALL))
    assert seen == {(True, True), (False, False)}


def test_photographs_are_split_where_train_and_test_cannot_overlap(monkeypatch):
    columns = np.broadcast_to(np.arange(640)[:, None], (427, 640, 1))
    photo = np.concatenate([columns % 256, columns // 256, columns * 0], axis=2).astype(np.uint8)  # shows its columns
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: SimpleNamespace(images=[photo, photo]))
    train_columns, test_columns = (x[:, 0].int() + 256 * x[:, 1].int() for x in load_images(Args()))
    assert train_columns.max() < test_columns.min()


def test_the_seed_decides_every_number(tmp_path):
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
def test_two_processes_take_the_mean_of_the_gradients_of_their_halves_of_the_batch(tmp_path):
    args = Args(run_dir=tmp_path / "two", channels=4, blocks=1, updates=1, batch_size=8, eval_images=8)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [get_context("fork").Process(target=work, args=(rank, port, args), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=500)
    assert [process.exitcode for process in processes] == [0, 0]
    torch.manual_seed(1)
    images = load_images(Args())[0]
    model = RealNVP((3, 32, 32), 4, 1)
    x = dequantize(images[torch.randint(len(images), (8,))])
    for half in (x[0::2], x[1::2]):
        (-model(half).mean() / 2).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    torch.optim.Adam(model.parameters(), lr=1e-3).step()
    two = weights(tmp_path / "two")
    wrong = torch.cat([((two[name] - x).abs() > 1e-5).flatten() for name, x in model.named_parameters()])
    assert wrong.double().mean() < 0.1  # Adam's first step is the gradients' signs; some are rounding errors'


def test_one_update_touches_no_tensor_of_another_device():
    with torch.device("meta"):
        model = RealNVP((3, 8, 8), 4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        loss = -model(torch.zeros(5, 3, 8, 8, device="meta")).mean()
    loss.backward()
    optimizer.step()
    assert loss.is_meta and model.decode(model.encode(torch.zeros(5, 3, 8, 8, device="meta"))[0]).is_meta


def test_cifar10_is_read_from_its_archive(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = 2 * 3073
            tar.addfile(info, io.BytesIO((bytes([9]) + bytes([k]) * 1024 + bytes(range(32)) * 64) * 2))
    images, test = load_images(Args(dataset="cifar10", data_dir=tmp_path))
    assert images.shape == (20, 3, 32, 32) and images[:10:2, 0, 3, 4].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(images[10:], images[:10].flip(3))
    assert (test[:, 0] == 5).all() and (test[:, 1:] == torch.arange(32)).all()


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b\x08\x00truncated")
    for args, complaint in (
        ({"dataset": "cifar10", "data_dir": tmp_path}, "cifar-10-binary.tar.gz"),
        ({"channels": 0}, "channels"),
        ({"learning_rate": float("inf")}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=complaint):  # UsageError, or pydantic's ValidationError
            train(Args(**SMALL | args, run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="--batch-size 8: needs a multiple of 3"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
