# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "numpy", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""REINFORCE as a classifier: choose a digit, and be told only a reward, a little higher if the choice was correct.

    python algos/reinforce_mnist.py
    python algos/reinforce_mnist.py --reward-wrong 10 --baseline mean

The lecture's example of a discontinuous objective (Jimmy Ba, CSC413/2516, lecture 10, "Optimizing Discontinuous
Objectives" and "Reward Baselines"): an episode is one decision, the state an image, the action a digit. Accuracy is a
step function of the weights, but the expected reward of a stochastic policy is smooth, and REINFORCE follows its
gradient without seeing the label. A constant added to all rewards does not change the optimum but the updates: with 10
and 11 a wrong choice, too, becomes more likely. Subtracting a baseline removes the constant.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
Differences from the lecture:
1. An update is the mean over a batch of decisions.
2. The baseline of a decision is the mean reward of the batch's other decisions: independent of its action.
"""

import csv
import gzip
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributions import Categorical
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = True
    """use a GPU if there is one"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's 8x8 digits, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    total_timesteps: PositiveInt = 200_000
    """decisions, one image each"""
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 100
    """decisions per update"""
    learning_rate: PositiveFloat = 0.1
    """SGD's learning rate"""
    reward_wrong: float = 0.0
    """reward of a wrong decision; that of a correct one is larger by 1"""
    baseline: Literal["none", "mean"] = "none"
    """what is subtracted from a reward: nothing, or the mean reward of the batch's other decisions"""


# --- the algorithm ---------------------------------------------------------------------------


def policy_network(num_pixels: int) -> nn.Sequential:
    """pi(a | x): images [n, pixels] -> logits [n, 10]."""
    return nn.Sequential(nn.Linear(num_pixels, 100), nn.ReLU(), nn.Linear(100, 10))


def policy_loss(log_probs: torch.Tensor, rewards: torch.Tensor, baseline: str) -> torch.Tensor:
    """Minus the mean of (r - b) log pi(a | x), so its gradient is minus REINFORCE's: log_probs, rewards [n] -> scalar.

    Its gradient in the logits is (r - b) (softmax - onehot(a)) / n; with the label as a and r - b = 1, cross-entropy's.
    """
    if baseline == "mean":
        rewards = rewards - (rewards.sum() - rewards) / (len(rewards) - 1)
    return -(rewards * log_probs).mean()


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546f",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbe",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6d",
}


def load_data(args: Args) -> list[torch.Tensor]:
    """Training images [n, pixels] in [0, 1] and labels [n], then those of the test set."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = torch.from_numpy(digits.data / 16).float(), torch.from_numpy(digits.target).long()
        return [images[:1500], labels[:1500], images[1500:], labels[1500:]]
    data = []
    for name, sha256 in MNIST_SHA256.items():
        path, header = args.data_dir / name, 16 if "images" in name else 8  # bytes of the IDX format's header
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            array = torch.tensor(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
            data.append(array.view(-1, 784) / 255 if header == 16 else array.long())
        except Exception as error:  # no network, or a damaged file
            raise UsageError(f"--data-dir: cannot read {path}, or download it: {error}") from None
    return data


# --- training --------------------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, labels, test_images, test_labels = (x.to(device) for x in load_data(args))
    policy = policy_network(images.shape[1]).to(device)
    optimizer = torch.optim.SGD(policy.parameters(), lr=args.learning_rate)
    num_updates = math.ceil(args.total_timesteps / args.batch_size)
    run, start = Run(args, args.dataset), time.perf_counter()
    corrects, changes = [], []

    for update in tqdm(range(1, num_updates + 1), unit="update", disable=None):
        idx = torch.randint(len(images), (args.batch_size,), device=device)
        logits = policy(images[idx])
        if not logits.isfinite().all():
            raise FloatingPointError(f"logits are not finite at update {update}: lower --learning-rate")
        decisions = Categorical(logits=logits)
        actions = decisions.sample()
        log_probs, correct = decisions.log_prob(actions), actions == labels[idx]
        loss = policy_loss(log_probs, args.reward_wrong + correct.float(), args.baseline)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # what the update did to the actions it was made from
            after = policy(images[idx]).log_softmax(1).gather(1, actions.unsqueeze(1)).squeeze(1)
            changes.append(after - log_probs)
        corrects.append(correct)

        if update % 100 == 0 or update == num_updates:
            step, correct, change = update * args.batch_size, torch.cat(corrects), torch.cat(changes)
            row = {
                "global_step": step,
                "charts/right_more_likely": change[correct].mean().item() if correct.any() else None,
                "charts/wrong_more_likely": change[~correct].mean().item() if (~correct).any() else None,
                "charts/SPS": step / (time.perf_counter() - start),
                "eval/test_accuracy": (policy(test_images).argmax(1) == test_labels).float().mean().item(),
            }
            run.log(row)
            corrects, changes = [], []

    torch.save({"policy": policy.state_dict()}, run.dir / "model.pt")
    save_curve(run, "eval/test_accuracy", xlabel="decisions, one image each")
    run.close("curve.png")
    print(f"test accuracy {row['eval/test_accuracy']:.1%} after {step:,} decisions: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


def save_curve(run: Run, metric: str, xlabel: str = "environment steps"):
    from matplotlib.figure import Figure

    points = [(row["global_step"], row[metric]) for row in run.rows if row[metric] is not None]
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], ".-", markersize=3)
    axes.set(xlabel=xlabel, ylabel=metric)
    axes.figure.savefig(run.dir / "curve.png", dpi=120)


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
