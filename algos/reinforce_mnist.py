# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "scikit-learn>=1.4",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""REINFORCE as a classifier: guess a digit, be told only whether the guess was right.

    python algos/reinforce_mnist.py
    python algos/reinforce_mnist.py --reward-wrong 10 --reward-right 11 --baseline mean
    python algos/reinforce_mnist.py --dataset mnist --total-timesteps 1200000 --cross-entropy

Classification as the shortest of decisions: the state is an image, the action a digit, the episode one step long, the
reward a little higher for a right guess than for a wrong one. The accuracy is a step function of the weights, with no
gradient to follow; the expected reward of a policy that guesses at random is smooth. REINFORCE follows its gradient
without knowing the label. Adding a constant to all rewards changes nothing about what is best, but it does change what
an update does: a baseline takes the constant out again.

Expect 81 % of scikit-learn's test digits after the default 200,000 guesses, in 10 s on one CPU core, and 93 % with
--cross-entropy (one seed each). With rewards of 10 and 11 it is 81 % again with a baseline, and 10 % without one, even
at --learning-rate 0.01. MNIST's curves are in results/.

Papers
    Jimmy Ba, CSC413/2516, lecture 10 (the lecture): "Optimizing Discontinuous Objectives", "Reward Baselines".
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

Differences from the lecture
    1. An update is the mean over a batch of guesses, not one guess.
    2. The baseline is the mean reward of the other guesses in the batch: with its own it would not be independent of
       the action, and the gradient would shrink by 1 - 1/N.
"""

import csv
import gzip
import hashlib
import json
import math
import os
import pickle
import sys
import time
import urllib.request
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds the network, the images shown and the guesses; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 1
    """threads of the learner: this network is too small to share. They decide a curve's last bits"""
    cuda: bool = False
    """learn on a GPU if there is one"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""
    resume: Path | None = None
    """go on with the run in this folder, under its own arguments: no other flag may stand beside"""

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's 1,797 digits, which need no download, or MNIST"""
    data_dir: Path = Path("data")
    """where MNIST's four files are, or are downloaded to"""
    total_timesteps: int = 200_000
    """guesses to learn from; the update that reaches it is finished"""
    batch_size: int = 100
    """guesses per update"""
    learning_rate: float = 0.1
    """step size alpha of plain gradient ascent"""
    num_units: int = 100
    """hidden units of the policy network"""
    reward_wrong: float = 0.0
    """reward of a wrong guess"""
    reward_right: float = 1.0
    """reward of a right guess"""
    baseline: Literal["none", "mean"] = "none"
    """what is subtracted from a reward: nothing, or the mean reward of the batch's other guesses"""
    cross_entropy: bool = False
    """supervised learning for comparison: the label in place of a guess, and 1 in place of its reward"""
    log_every: int = 10_000
    """guesses between rows of metrics.csv"""
    checkpoint_every: int = 10
    """rows between checkpoints"""

    def __post_init__(self):
        self.data_dir = Path(self.data_dir)  # args.json holds it as text
        least_one = ["total_timesteps", "batch_size", "num_units", "log_every", "checkpoint_every", "torch_threads"]
        for name in least_one:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError("--learning-rate must be positive")
        if self.seed < 0:
            raise UsageError("--seed must not be negative")
        if not -math.inf < self.reward_wrong < self.reward_right < math.inf:
            raise UsageError("--reward-right must be higher than --reward-wrong, or there is nothing to learn")
        if self.baseline == "mean" and self.batch_size < 2:
            raise UsageError("--baseline mean takes the mean of the other guesses: --batch-size must be at least 2")
        if self.baseline == "mean" and self.cross_entropy:
            raise UsageError("--cross-entropy has no rewards to subtract a baseline from: take --baseline none")


# --- the algorithm ---------------------------------------------------------------------------


def policy_network(num_units: int) -> nn.Sequential:
    """pi(a|x): images [n, 784] -> logits z of the ten digits [n, 10]."""
    return nn.Sequential(nn.Linear(784, num_units), nn.ReLU(), nn.Linear(num_units, 10))


def sample(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """a ~ pi(.|x): logits [n, 10] -> guesses [n]. The first of ten alarm clocks to ring, each at a rate of its pi."""
    y = logits.detach().softmax(dim=1)
    return (torch.empty_like(y).exponential_(generator=generator) / y).argmin(dim=1)


def reward(actions: torch.Tensor, labels: torch.Tensor, wrong: float, right: float) -> torch.Tensor:
    """r(a, t): all that the learner hears of the labels [n] -> [n]."""
    return torch.where(actions == labels, right, wrong)


def advantage(rewards: torch.Tensor, baseline: str) -> torch.Tensor:
    """r - b: rewards [n] -> [n]. b is the mean of the other rewards, so it does not depend on the guess itself."""
    if baseline == "none":
        return rewards
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def policy_loss(logits: torch.Tensor, actions: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Minus the batch's mean of (r - b) log pi(a|x), whose gradient is REINFORCE's.

    In the logits it is minus (r - b) (a_k - y_k), the guess one-hot, y the softmax. With the label t for a and 1 for
    r - b it is the cross-entropy, and its gradient minus (t_k - y_k).
    """
    return -(advantages * logits.log_softmax(dim=1).gather(1, actions.unsqueeze(1)).squeeze(1)).mean()


def signal_and_noise(logits: torch.Tensor, labels: torch.Tensor, args: Args) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of an image's gradient in the logits, and its standard deviation over guesses, exact: [n, 10], [n].

    Every guess's gradient (r - b) (a_k - y_k) is known, and so is its probability y. b is the mean reward, or 0.
    """
    y = logits.softmax(dim=1)
    guesses = torch.eye(10, device=logits.device)  # [guess, k]
    if args.cross_entropy:
        return guesses[labels] - y, torch.zeros_like(y[:, 0])  # no guess, no noise
    rewards = torch.where(guesses[labels] > 0, args.reward_right, args.reward_wrong)  # [n, guess]
    b = (y * rewards).sum(dim=1).mean() if args.baseline == "mean" else 0.0
    gradients = (rewards - b).unsqueeze(2) * (guesses - y.unsqueeze(1))  # [n, guess, k]
    mean = (y.unsqueeze(2) * gradients).sum(dim=1)
    square = (y * (gradients**2).sum(dim=2)).sum(dim=1)
    return mean, (square - (mean**2).sum(dim=1)).clamp(min=0).sqrt()


# --- one run: the same in every file of this folder ------------------------------------------


class Run:
    """The folder of one run: args.json, metrics.csv, checkpoint.pt, pictures. With --track also Weights & Biases."""

    def __init__(self, args, task: str, rows: int | None = None):
        """A new run; with `rows`, the one in args.run_dir goes on after so many rows of its metrics."""
        name = f"{task}__{args.exp_name}__{args.seed}__{int(time.time())}"
        self.dir = args.run_dir or Path("runs", name)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rows, self.csv, self.wandb = rows or 0, None, None
        metrics = self.dir / "metrics.csv"
        if rows is None:
            try:  # "x" creates the file or fails: no run is overwritten, and no two runs share a folder
                self.file = metrics.open("x", newline="", buffering=1)
            except FileExistsError:
                raise UsageError(f"--run-dir {self.dir}: there is a run in it already; name another folder") from None
            saved = {"run_name": name} | asdict(args)
            (self.dir / "args.json").write_text(json.dumps(saved, indent=2, default=str))
        else:
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(lines[: rows + 1 if rows else 0]))
            self.file = metrics.open("a", newline="", buffering=1)
        self.name = json.loads((self.dir / "args.json").read_text())["run_name"]
        if args.track:
            import wandb

            self.wandb, again = wandb, {"id": self.name[-128:], "resume": "allow"}
            config = json.loads((self.dir / "args.json").read_text())
            project, entity = args.wandb_project_name, args.wandb_entity
            wandb.init(project=project, entity=entity, name=self.name, config=config, dir=self.dir, **again)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def log(self, row: dict):
        """Append one row: global_step and metrics, None for what was not measured now. The first row names them all."""
        if self.csv is None:
            self.csv = csv.DictWriter(self.file, row)
            if self.rows == 0:
                self.csv.writeheader()
        self.csv.writerow(row)
        self.rows += 1
        if self.wandb:
            self.wandb.log({key: value for key, value in row.items() if value is not None})

    def save(self, checkpoint: dict):
        """Write checkpoint.pt under another name, then rename it: a kill leaves the old one or the new one."""
        torch.save(checkpoint | {"rows": self.rows}, self.dir / "checkpoint.tmp")
        (self.dir / "checkpoint.tmp").replace(self.dir / "checkpoint.pt")

    def plot(self, metric: str):
        """Draw one column of metrics.csv over global_step into curve.png."""
        from matplotlib.figure import Figure

        with (self.dir / "metrics.csv").open(newline="") as file:
            points = [(int(row["global_step"]), float(row[metric])) for row in csv.DictReader(file) if row[metric]]
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(xlabel="environment steps", ylabel=metric, title=self.name)
        axes.figure.savefig(self.dir / "curve.png", dpi=120)
        self.picture(self.dir / "curve.png")

    def picture(self, path: Path):
        """Hand a picture or an animation of the folder to Weights & Biases as well."""
        if self.wandb:
            kind = self.wandb.Video if path.suffix == ".gif" else self.wandb.Image
            self.wandb.log({path.stem: kind(str(path))})


def load_run(folder: Path, flag: str, args_type) -> tuple:
    """What a run left in its folder: its arguments and its checkpoint. Raises UsageError that names the flag."""
    try:
        saved = json.loads((folder / "args.json").read_text())
        checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
        (folder / "metrics.csv").stat()
        del saved["run_name"]
        return replace(args_type(**saved), run_dir=folder, resume=None), checkpoint
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{flag} {folder}: no run to load there ({error.strerror}: {error.filename})") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{flag} {folder}: damaged, or the run of another script ({error})") from None


@contextmanager
def torch_settings(args):
    """The threads and the determinism that args ask for; what was set before comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if args.cuda and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's products refuse
    torch.set_num_threads(args.torch_threads)
    torch.use_deterministic_algorithms(args.torch_deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


# --- handwritten digits: the same in every file that reads them ------------------------------

MNIST_MIRRORS = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST_FILES = {  # name: shape of the array in it, SHA-256 of the original archive
    "train-images-idx3-ubyte.gz": (
        (60_000, 28, 28),
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        (60_000,),
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        (10_000, 28, 28),
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        (10_000,),
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}


def load_digits_28() -> tuple[torch.Tensor, ...]:
    """Scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 28x28; the last 297 are there to test on.

    Returns images [n, 28, 28] and labels [n] to train on, then those to test on; both are uint8.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)  # [1797, 1, 8, 8], ink from 0 to 255
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear").squeeze(1).round().byte()
    labels = torch.from_numpy(digits.target).byte()
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def load_mnist(data_dir: Path) -> tuple[torch.Tensor, ...]:
    """MNIST as load_digits_28 returns its digits: 60,000 and 10,000. What data_dir lacks is downloaded into it once."""
    arrays = []
    for name, (shape, digest) in MNIST_FILES.items():
        try:
            array = read_idx(data_dir / name, shape)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            download_mnist(data_dir / name, digest, error)
            array = read_idx(data_dir / name, shape)
        arrays.append(array)
    return tuple(arrays)


def read_idx(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The bytes of a gzipped IDX file as a tensor of this shape. ValueError when header or size say something else."""
    with gzip.open(path) as file:
        data = bytearray(file.read())
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)  # 8: unsigned bytes
    if not data.startswith(header) or len(data) != len(header) + math.prod(shape):
        raise ValueError(f"no IDX file of {' x '.join(map(str, shape))} bytes")
    return torch.frombuffer(data, dtype=torch.uint8, offset=len(header)).reshape(shape)


def download_mnist(path: Path, digest: str, why: Exception):
    """Fetch one of MNIST's files; it is moved into place when its digest is right. UsageError when no mirror has it."""
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(mirror + path.name, timeout=30) as response:
                data = response.read()
            if hashlib.sha256(data).hexdigest() == digest:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.{os.getpid()}.part")
                part.write_bytes(data)
                part.replace(path)
                return
            problem = "it came with another digest: a damaged or partial download"
        except (OSError, HTTPException) as error:
            problem = str(error)
    state = "is not there" if isinstance(why, FileNotFoundError) else f"cannot be used ({why})"
    raise UsageError(
        f"--dataset mnist: {path} {state}, and downloading it failed ({mirror}: {problem}). Without a network, put "
        f"MNIST's four files ({', '.join(MNIST_FILES)}) into --data-dir, or take --dataset digits"
    )


# --- training --------------------------------------------------------------------------------


def stream(seed: int, key: int) -> int:
    """The seed of an independent generator for every key: one of the two below."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,))).integers(2**63))


NETWORK, GUESSES = range(2)


def load_data(args: Args, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Images [n, 784] with ink between 0 and 1 and labels [n] to learn from, then those to test on."""
    images, labels, test_images, test_labels = (
        load_mnist(args.data_dir) if args.dataset == "mnist" else load_digits_28()
    )
    flat = [x.to(device).flatten(1) for x in (images, test_images)]
    return flat[0], labels.to(device).long(), flat[1], test_labels.to(device).long()


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> ink between 0 and 1."""
    return images.float() / 255


def make_network(args: Args, device: torch.device) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, NETWORK))
        return policy_network(args.num_units).to(device)


@torch.no_grad()
def accuracy(network, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images [n, 784] whose most likely digit is the label."""
    right = sum(
        (network(pixels(x)).argmax(1) == t).sum() for x, t in zip(images.split(5000), labels.split(5000), strict=True)
    )
    return right.item() / len(labels)


def update(network, optimizer, images: torch.Tensor, labels: torch.Tensor, generator, args: Args) -> torch.Tensor:
    """One update from images [n, 784] and their labels [n]. Returns the row's sums, on the device [6].

    They are the number of guesses right and wrong, the sum of their rewards and of the entropies, and by how much the
    guesses that were right and those that were wrong have become more likely, in log pi(a|x).
    """
    x = pixels(images)
    logits = network(x)
    actions = labels if args.cross_entropy else sample(logits, generator)
    rewards = reward(actions, labels, args.reward_wrong, args.reward_right)
    advantages = torch.ones_like(rewards) if args.cross_entropy else advantage(rewards, args.baseline)
    loss = policy_loss(logits, actions, advantages)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        before, after = logits.log_softmax(dim=1), network(x).log_softmax(dim=1)
        more_likely = (after - before).gather(1, actions.unsqueeze(1)).squeeze(1)
        right = (actions == labels).float()
        entropy = -(before.exp() * before).sum(dim=1)
        sums = [right, 1 - right, rewards, entropy, more_likely * right, more_likely * (1 - right)]
        return torch.stack(sums).sum(dim=1)


def draw_guesses(run: Run, network, images: torch.Tensor, labels: torch.Tensor):
    """Save the first twelve images [n, 784] and, below each, pi(.|x): the right digit's bar green, the others red."""
    from matplotlib.figure import Figure

    images, labels = images[:12], labels[:12].tolist()
    probabilities = network(pixels(images)).softmax(dim=1).numpy(force=True)  # [12, 10]
    pictures, bars = Figure(figsize=(12, 2.6), layout="constrained").subplots(2, 1)
    pictures.imshow(images.reshape(-1, 28, 28).permute(1, 0, 2).flatten(1).numpy(force=True), cmap="gray_r")  # a row
    pictures.set_axis_off()
    colors = ["#009E73" if digit == label else "#D55E00" for label in labels for digit in range(10)]
    places = [12 * i + digit for i in range(len(labels)) for digit in range(10)]  # two bars' width between images
    bars.bar(places, probabilities.flatten(), color=colors)
    bars.set(xlim=(-1.5, 12 * len(labels) - 1.5), ylim=(0, 1), xlabel="pi(a|x) of the digits 0 to 9")
    bars.set_xticks(places, [str(place % 12) for place in places], fontsize=6)
    bars.figure.savefig(run.dir / "guesses.png", dpi=120)
    run.picture(run.dir / "guesses.png")


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    data = load_data(args, device)
    with torch_settings(args):
        return learn(args, checkpoint, make_network(args, device), data, device)


def learn(args: Args, checkpoint: dict | None, network, data: tuple[torch.Tensor, ...], device: torch.device) -> dict:
    """The loop: show images, guess, learn, now and then test and log."""
    images, labels, test_images, test_labels = data
    optimizer = torch.optim.SGD(network.parameters(), lr=args.learning_rate)
    generator = torch.Generator(device).manual_seed(stream(args.seed, GUESSES))
    row_number, global_step, elapsed = 0, 0, 0.0

    def state() -> dict:
        counters = {"row_number": row_number, "global_step": global_step, "elapsed": elapsed}
        return {"network": network.state_dict(), "generator": generator.get_state()} | counters

    if checkpoint:
        try:
            network.load_state_dict(checkpoint["network"])
            generator.set_state(checkpoint["generator"])
            row_number, global_step, elapsed = (checkpoint[key] for key in ("row_number", "global_step", "elapsed"))
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if global_step >= args.total_timesteps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    run = Run(args, args.dataset, checkpoint and checkpoint["rows"])
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="guess", disable=None)
    with run, bar:
        if not checkpoint:
            run.save(state())
        while global_step < args.total_timesteps:
            start = time.perf_counter()
            until = min(global_step + args.log_every, args.total_timesteps)
            shown, sums = 0, torch.zeros(6, device=device)
            while global_step + shown < until:
                chosen = torch.randint(len(images), (args.batch_size,), generator=generator, device=device)
                sums += update(network, optimizer, images[chosen], labels[chosen], generator, args)
                shown += args.batch_size
            right, wrong, rewards, entropy, more_right, more_wrong = sums.tolist()
            with torch.no_grad():
                logits = network(pixels(test_images))
                signal, noise = signal_and_noise(logits, test_labels, args)

            row_number += 1
            global_step += shown
            elapsed += time.perf_counter() - start
            row = {
                "global_step": global_step,
                "charts/episodic_return": rewards / shown,
                "charts/accuracy": right / shown,
                "charts/right_more_likely": more_right / right if right else None,
                "charts/wrong_more_likely": more_wrong / wrong if wrong else None,
                "losses/entropy": entropy / shown,
                "losses/signal": signal.norm(dim=1).mean().item(),
                "losses/noise": noise.mean().item(),
                "charts/SPS": global_step / elapsed,
                "time/elapsed": elapsed,
                "eval/test_accuracy": accuracy(network, test_images, test_labels),
                "eval/train_accuracy": None,
            }
            finished = global_step >= args.total_timesteps
            if finished:
                row["eval/train_accuracy"] = accuracy(network, images, labels)
            if not math.isfinite(row["losses/entropy"]) or not math.isfinite(row["losses/noise"]):
                raise FloatingPointError(f"the policy diverged before guess {global_step:,}: lower --learning-rate?")
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.update(shown)
            bar.set_postfix(test_accuracy=row["eval/test_accuracy"])

        run.plot("eval/test_accuracy")
        with torch.no_grad():
            draw_guesses(run, network, test_images, test_labels)
        result = f"test accuracy {row['eval/test_accuracy']:.1%}, training accuracy {row['eval/train_accuracy']:.1%}"
        print(f"{result} after {global_step:,} guesses at {row['charts/SPS']:,.0f} a second: {run.dir}")
    return row


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    if args.resume and sum(word.startswith("--") for word in argv) > 1:
        raise UsageError("--resume takes every argument from the run's folder: leave out the other flags")
    train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
