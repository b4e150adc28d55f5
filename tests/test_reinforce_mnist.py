"""REINFORCE as a classifier: its gradient against enumeration, its reader of digits against archives made here."""

import csv
import gzip
import hashlib
import itertools
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algos import reinforce_mnist
from algos.reinforce_mnist import (
    Args,
    UsageError,
    advantage,
    load_digits_28,
    load_mnist,
    main,
    make_network,
    pixels,
    policy_loss,
    reward,
    sample,
    signal_and_noise,
    train,
    update,
)

ROOT = Path(__file__).resolve().parent.parent
CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
SMALL = {"num_units": 10, "batch_size": 20, "total_timesteps": 400, "log_every": 100, "checkpoint_every": 2}
OFFSETS = [(0.0, 1.0), (10.0, 11.0), (-10.0, -9.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the gradient ----------------------------------------------------------------------------


def test_the_reward_tells_right_from_wrong():
    actions, labels = torch.tensor([3, 4, 5]), torch.tensor([3, 5, 5])
    assert reward(actions, labels, -10.0, -9.0).tolist() == [-9.0, -10.0, -9.0]


def test_guesses_are_drawn_from_the_policy():
    logits = torch.randn(1, 10, generator=generator())
    guesses = sample(logits.expand(200_000, 10), generator(1))
    share = torch.bincount(guesses, minlength=10) / 200_000
    p = logits.softmax(1).squeeze()
    assert ((share - p).abs() < 4 * (p * (1 - p) / 200_000).sqrt()).all()


@pytest.mark.parametrize("baseline", ["none", "mean"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_the_update_is_unbiased(baseline, offset):
    """Its mean over all guesses of a batch of three images is the gradient of the expected reward."""
    logits = torch.randn(3, 10, generator=generator(), dtype=torch.float64).requires_grad_()
    labels, y = torch.tensor([1, 1, 7]), logits.softmax(dim=1)
    mean = torch.zeros(3, 10, dtype=torch.float64)
    for guesses in itertools.product(range(10), repeat=3):
        actions = torch.tensor(guesses)
        advantages = advantage(reward(actions, labels, *offset).double(), baseline)
        (gradient,) = torch.autograd.grad(policy_loss(logits, actions, advantages), logits, retain_graph=True)
        mean -= y[range(3), actions].prod().item() * gradient
    expected_reward = (offset[0] + y[range(3), labels] * (offset[1] - offset[0])).mean()
    (exact,) = torch.autograd.grad(expected_reward, logits)
    assert torch.allclose(mean, exact, atol=1e-12)


def test_the_lectures_formulas():
    """Ascent by (r - b) (a_k - y_k), and by t_k - y_k where the label is learned from, which is the cross-entropy."""
    logits = torch.randn(4, 10, generator=generator()).requires_grad_()
    actions, advantages = torch.tensor([0, 3, 3, 9]), torch.tensor([1.0, -2.0, 0.0, 10.0])
    (gradient,) = torch.autograd.grad(policy_loss(logits, actions, advantages), logits)
    by_hand = advantages[:, None] * (F.one_hot(actions, 10) - logits.softmax(1)) / 4
    assert torch.allclose(-gradient, by_hand, atol=1e-6)
    assert policy_loss(logits, actions, torch.ones(4)).item() == pytest.approx(F.cross_entropy(logits, actions).item())


def test_the_baseline_is_the_mean_of_the_others():
    rewards = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    by_hand = [rewards[i] - np.mean([rewards[j] for j in range(5) if j != i]) for i in range(5)]
    assert torch.allclose(advantage(rewards, "mean"), torch.tensor(by_hand))
    assert advantage(rewards, "none").tolist() == rewards.tolist()


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_signal_and_noise_are_the_moments_over_all_guesses(baseline):
    logits = torch.randn(5, 10, generator=generator(), dtype=torch.float64).requires_grad_()
    labels, args = torch.tensor([1, 2, 2, 9, 0]), Args(baseline=baseline, reward_wrong=-10.0, reward_right=-9.0)
    signal, noise = signal_and_noise(logits.detach(), labels, args)
    y = logits.softmax(dim=1).detach()
    rewards = torch.full((5, 10), -10.0).double()
    rewards[range(5), labels] = -9.0
    b = (y * rewards).sum().item() / 5 if baseline == "mean" else 0.0
    for i in range(5):
        moments = torch.zeros(2, 10).double()
        for guess in range(10):
            loss = policy_loss(logits[[i]], torch.tensor([guess]), rewards[i, [guess]] - b)
            gradient = -torch.autograd.grad(loss, logits)[0][i]
            moments += y[i, guess] * torch.stack([gradient, gradient**2])
        assert torch.allclose(signal[i], moments[0])
        assert noise[i].item() == pytest.approx((moments[1] - moments[0] ** 2).sum().sqrt().item())


def test_a_baseline_takes_out_noise_and_leaves_the_signal():
    logits, labels = torch.randn(5, 10, generator=generator()), torch.tensor([1, 2, 2, 9, 0])
    each = {
        (offset, baseline): signal_and_noise(
            logits, labels, Args(reward_wrong=offset[0], reward_right=offset[1], baseline=baseline)
        )
        for offset in OFFSETS
        for baseline in ("none", "mean")
    }
    first = each[OFFSETS[0], "mean"]
    for (offset, baseline), (signal, noise) in each.items():
        assert torch.allclose(signal, first[0], atol=1e-5)
        if baseline == "mean":
            assert torch.allclose(noise, first[1], atol=1e-4)
        elif offset != (0.0, 1.0):
            assert (noise > 5 * first[1]).all()
    signal, noise = signal_and_noise(logits, labels, Args(cross_entropy=True))
    assert torch.allclose(signal, F.one_hot(labels, 10) - logits.softmax(1)) and (noise == 0).all()


# --- an update -------------------------------------------------------------------------------


def one_update(args, images, labels, seed=5):
    """The parameters before and after one update, the guesses it made, and the sums it returned."""
    network = make_network(args, CPU)
    before = [p.detach().clone() for p in network.parameters()]
    guesses = labels if args.cross_entropy else sample(network(pixels(images)), generator(seed))
    optimizer = torch.optim.SGD(network.parameters(), lr=args.learning_rate)
    sums = update(network, optimizer, images, labels, generator(seed), args)
    return network, before, guesses, sums


@pytest.mark.parametrize("flags", [{}, {"baseline": "mean", "reward_wrong": 2.0, "reward_right": 5.0}])
def test_an_update_is_a_step_of_gradient_ascent(flags):
    args = Args(num_units=7, **flags)
    images, labels = load_digits_28()[0][:6].flatten(1), load_digits_28()[1][:6].long()
    network, before, guesses, sums = one_update(args, images, labels)
    rewards = [args.reward_right if a == t else args.reward_wrong for a, t in zip(guesses, labels, strict=True)]
    w1, b1, w2, b2 = (p.requires_grad_() for p in before)
    logits = F.relu(images.float() / 255 @ w1.T + b1) @ w2.T + b2
    b = [np.mean(rewards[:i] + rewards[i + 1 :]) if args.baseline == "mean" else 0.0 for i in range(6)]
    objective = sum((rewards[i] - b[i]) * logits[i].softmax(0)[guesses[i]].log() for i in range(6)) / 6
    for p, old, slope in zip(
        network.parameters(), before, torch.autograd.grad(objective, [w1, b1, w2, b2]), strict=True
    ):
        assert torch.allclose(p, old + args.learning_rate * slope, atol=1e-6)

    after = network(images.float() / 255).log_softmax(1)
    more_likely = (after - logits.log_softmax(1))[range(6), guesses]
    right, entropy = guesses == labels, torch.distributions.Categorical(logits=logits).entropy().sum()
    by_hand = [right.sum(), (~right).sum(), sum(rewards), entropy, more_likely[right].sum(), more_likely[~right].sum()]
    assert torch.allclose(sums.double(), torch.stack([torch.as_tensor(x).double() for x in by_hand]), atol=1e-5)


@pytest.mark.parametrize(
    "offset, when_wrong, when_right", [((0.0, 1.0), 0, 1), ((10.0, 11.0), 1, 1), ((-10.0, -9.0), -1, -1)]
)
def test_what_the_lecture_says_an_update_does_to_its_guess(offset, when_wrong, when_right):
    images, labels = load_digits_28()[0][:1].flatten(1), load_digits_28()[1][:1].long()
    seen, args = {}, Args(reward_wrong=offset[0], reward_right=offset[1], learning_rate=1e-3)
    for seed in range(60):
        _, _, guesses, sums = one_update(args, images, labels, seed)
        seen[guesses.item() == labels.item()] = np.sign((sums[4] + sums[5]).item())
    assert seen == {False: when_wrong, True: when_right}


def test_with_a_baseline_a_constant_in_the_rewards_makes_no_difference():
    images, labels = load_digits_28()[0][:50].flatten(1), load_digits_28()[1][:50].long()
    weights = []
    for wrong, right in OFFSETS:
        args = Args(reward_wrong=wrong, reward_right=right, baseline="mean")
        weights.append(one_update(args, images, labels)[0][0].weight)
    assert torch.allclose(weights[0], weights[1], atol=1e-6) and torch.allclose(weights[0], weights[2], atol=1e-6)


# --- training --------------------------------------------------------------------------------


def test_it_learns_to_read_from_right_and_wrong_alone(tmp_path):
    """The share of the test digits that it reads; guessing gets a tenth."""
    flags = {"total_timesteps": 60_000, "log_every": 30_000, "learning_rate": 0.1, "baseline": "mean"}
    row = train(Args(**flags, run_dir=tmp_path / "run"))
    assert row["eval/test_accuracy"] > 0.6
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "guesses.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    images, labels = (x.numpy() for x in load_digits_28()[2:])
    weights = [x.numpy() for x in torch.load(tmp_path / "run/checkpoint.pt")["network"].values()]
    hidden = np.maximum(images.reshape(-1, 784) / 255 @ weights[0].T + weights[1], 0)
    digits = (hidden @ weights[2].T + weights[3]).argmax(1)
    assert row["eval/test_accuracy"] == pytest.approx((digits == labels).mean())


def test_the_labels_themselves_teach_faster(tmp_path):
    row = train(Args(total_timesteps=20_000, cross_entropy=True, run_dir=tmp_path / "run"))
    assert row["eval/test_accuracy"] > 0.85
    assert row["charts/accuracy"] == row["charts/episodic_return"] == 1 and row["charts/wrong_more_likely"] is None


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert [row["global_step"] for row in rows(tmp_path / "a")] == ["100", "200", "300", "400"]


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    train(Args(**SMALL, run_dir=tmp_path / "whole"))
    log, logged = reinforce_mnist.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(reinforce_mnist.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**SMALL, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["network"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_torch_is_left_as_it_was(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        before = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
        train(Args(**SMALL, torch_threads=1, run_dir=tmp_path / "run"))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert before[0] == torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[1], torch.get_rng_state())


def test_values_that_are_no_numbers_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        train(Args(**SMALL, learning_rate=1e30, run_dir=tmp_path / "run"))
    assert rows(tmp_path / "run") == []


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 1, "baseline": "mean"}, "--batch-size"),
        ({"cross_entropy": True, "baseline": "mean"}, "--cross-entropy"),
        ({"reward_wrong": 1.0}, "--reward-right"),
        ({"reward_right": float("inf")}, "--reward-right"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"seed": -1}, "--seed"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"resume": Path("nowhere")}, "no run to load"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**{"run_dir": tmp_path / "run"} | args))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    saved = tmp_path / "run/args.json"
    saved.write_text(saved.read_text().replace('"num_units": 10', '"num_units": 11'))
    with pytest.raises(UsageError, match="does not fit"):
        train(Args(resume=tmp_path / "run"))


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/reinforce_mnist.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr


# --- handwritten digits ----------------------------------------------------------------------


def test_scikit_learns_digits_are_enlarged_linearly():
    from sklearn.datasets import load_digits

    images, labels, test_images, test_labels = load_digits_28()
    assert images.shape == (1500, 28, 28) and test_images.shape == (297, 28, 28) and images.dtype == torch.uint8
    assert torch.equal(torch.cat([labels, test_labels]), torch.tensor(load_digits().target, dtype=torch.uint8))
    at = (np.arange(28) + 0.5) * 8 / 28 - 0.5  # where the middle of each pixel lies among the old ones
    for new, old in ((images[0], load_digits().images[0]), (test_images[-1], load_digits().images[-1])):
        wide = np.array([np.interp(at, range(8), row) for row in old])
        both = np.array([np.interp(at, range(8), column) for column in wide.T]).T
        assert np.abs(new.numpy() - both * 255 / 16).max() < 0.51


def idx(array):
    """The array as a gzipped IDX file, by the format's definition."""
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


class Mirror(BaseHTTPRequestHandler):
    """Serves what stands in `files`: the bytes, and the length that is claimed for them."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path not in self.server.files:
            return self.send_error(404)
        data, length = self.server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        return self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """Three training and two test digits on two local mirrors, the second of which is complete."""
    rng = np.random.default_rng(0)
    shapes = [(3, 28, 28), (3,), (2, 28, 28), (2,)]
    arrays = [rng.integers(256 if len(shape) == 3 else 10, size=shape, dtype=np.uint8) for shape in shapes]
    names = list(reinforce_mnist.MNIST_FILES)
    assert [name[:10] for name in names] == ["train-imag", "train-labe", "t10k-image", "t10k-label"]
    table = {name: (a.shape, hashlib.sha256(idx(a)).hexdigest()) for name, a in zip(names, arrays, strict=True)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.asked, server.names, server.arrays = [], names, arrays
    server.files = {f"/b/{name}": (idx(a), len(idx(a))) for name, a in zip(names, arrays, strict=True)}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(reinforce_mnist, "MNIST_FILES", table)
    monkeypatch.setattr(reinforce_mnist, "MNIST_MIRRORS", (f"{address}/a/", f"{address}/b/"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_mnist_is_downloaded_once(mirror, tmp_path):
    folder = tmp_path / "some/data"
    for _ in range(2):
        for tensor, array in zip(load_mnist(folder), mirror.arrays, strict=True):
            assert tensor.dtype == torch.uint8 and np.array_equal(tensor.numpy(), array)
    assert mirror.asked == [f"/{m}/{name}" for name in mirror.names for m in "ab"]  # the first has nothing
    served = {name: mirror.files[f"/b/{name}"][0] for name in mirror.names}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == served


@pytest.mark.parametrize("damage", ["digest", "partial"])
def test_a_damaged_download_is_never_moved_into_place(damage, mirror, tmp_path):
    for name, array in zip(mirror.names, mirror.arrays, strict=True):
        other = idx(array[::-1])
        mirror.files[f"/a/{name}"] = (other, len(other)) if damage == "digest" else (idx(array)[:-3], len(idx(array)))
    assert all(np.array_equal(*pair) for pair in zip(load_mnist(tmp_path / "b"), mirror.arrays, strict=True))
    mirror.files = {path: file for path, file in mirror.files.items() if path.startswith("/a/")}
    for path in list(mirror.files):
        mirror.files[path.replace("/a/", "/b/")] = mirror.files[path]
    with pytest.raises(UsageError, match=r"digest|IncompleteRead"):
        load_mnist(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        idx(np.zeros((3, 28, 28), np.uint8))[:-4],
        idx(np.zeros((3, 28, 28), np.uint8))[:20] + b"?" * 30,
        idx(np.zeros((4, 28, 28), np.uint8)),
        gzip.compress(gzip.decompress(idx(np.zeros((3, 28, 28), np.uint8)))[:-1], mtime=0),
        gzip.compress(gzip.decompress(idx(np.zeros((3, 28, 28), np.uint8))) + b"\0", mtime=0),
        gzip.compress(b"\0\0\x09" + gzip.decompress(idx(np.zeros((3, 28, 28), np.uint8)))[3:], mtime=0),
    ],
    ids=["empty", "no archive", "cut", "noise", "other shape", "a byte less", "a byte more", "other type"],
)
def test_a_damaged_file_is_fetched_again_or_named(content, mirror, tmp_path):
    load_mnist(tmp_path)
    path = tmp_path / mirror.names[0]
    path.write_bytes(content)
    load_mnist(tmp_path)
    assert path.read_bytes() == idx(mirror.arrays[0])
    path.write_bytes(content)
    mirror.files.clear()
    with pytest.raises(UsageError, match=f"{path.name} cannot be used.*--dataset digits"):
        load_mnist(tmp_path)
    assert path.read_bytes() == content


def test_without_a_network_it_says_what_to_do_and_writes_nothing(mirror, tmp_path, monkeypatch):
    mirror.files.clear()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"train-images.* is not there.*--data-dir.*--dataset digits"):
        main(["--dataset", "mnist", "--data-dir", "nothing"])
    assert list(tmp_path.iterdir()) == []


def test_it_trains_on_mnist_and_goes_on_with_it(mirror, tmp_path):
    load_mnist(tmp_path / "data")
    flags = SMALL | {"dataset": "mnist", "data_dir": tmp_path / "data", "log_every": 200, "checkpoint_every": 1}
    row = train(Args(**flags, run_dir=tmp_path / "run"))
    assert row["global_step"] == 400
    saved = tmp_path / "run/args.json"
    saved.write_text(saved.read_text().replace('"total_timesteps": 400', '"total_timesteps": 600'))
    assert train(Args(resume=tmp_path / "run"))["global_step"] == 600


def test_the_reader_is_the_same_in_every_file_that_has_it():
    line, sections = "# --- handwritten digits: ", {}
    for path in sorted([*ROOT.glob("algos/*.py"), *ROOT.glob("gen/*.py")]):
        before, found, after = path.read_text().partition(line)
        if found:
            sections[path.name] = after.partition("\n# --- ")[0].strip()
        assert "def load_mnist" not in before, f"{path} reads MNIST in another section"
    assert "reinforce_mnist.py" in sections
    for name, section in sections.items():
        assert section == sections["reinforce_mnist.py"], f"the reader of digits in {name} differs"
