"""The lecture's trade-offs between four kinds of generative models, measured on the same pictures.

    python benchmarks/tradeoffs.py --dataset digits --run-dir runs/tradeoffs
    python benchmarks/tradeoffs.py --dataset mnist --run-dir runs/tradeoffs-mnist

Runs gen/pixelcnn.py, gan.py, realnvp.py and vae.py as commands, one after another, each in a folder of its own below
--run-dir, and reads what they leave there; it imports none of them. Everything is measured in CPU seconds of one core
(benchmarks/cpu_clock.py). metrics.csv gets a row for each model, and for real pictures:

    bits_per_dim     what an unseen picture of 8 bits costs, per pixel. Exact for PixelCNN; for RealNVP a bound, because
                     whole numbers are made continuous; for the VAE the density of its Gaussian pixels at the picture
                     times their distance of 1/255, by importance sampling; a GAN says nothing
    binary_nats      the same in nats, of pictures whose pixels were made black or white at random (VAE and PixelCNN)
    frechet          Frechet distance between new pictures and training ones, in the last hidden features of a small
                     classifier that is trained here; of real pictures: test pictures instead of new ones
    probe_accuracy   of a linear classifier on the codes, on test pictures; of real pictures: on their pixels
    seconds_per_training_picture, seconds_per_sample

and one for each model and picture size (crops of photographs, one sample at a time) with the last two only.
"""

import argparse
import csv
import gzip
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
REAL = -1  # stands for no model
COLUMNS = [
    "global_step", "model", "image_size", "bits_per_dim", "binary_nats", "frechet", "probe_accuracy",
    "seconds_per_training_picture", "seconds_per_sample", "time/elapsed",
]  # fmt: skip


class RunError(RuntimeError):
    """A command failed, or left something else than was expected."""


@dataclass(frozen=True)
class Model:
    """One row of the lecture's table: a script, and its flags."""

    script: str
    epochs: dict[str, float]
    """passes over the pictures of each data set, for training times of the same order"""
    flags: str
    binary: str | None
    """flags of a second run on black and white pictures; None where there is no likelihood of them"""
    sized: str
    """flags for pictures of any size"""


MODELS = [  # in the order of the lecture's table
    Model(
        "gen/pixelcnn.py",
        {"digits": 3, "mnist": 0.2},
        "--channels 32 --batch-size 16 --bf16",
        "--channels 32 --batch-size 16 --bf16 --binarize dynamic",
        "--channels 24 --eval-images 10",
    ),
    Model(
        "gen/gan.py",
        {"digits": 30, "mnist": 2},
        "--bf16 --judge-updates 0",
        None,
        "--judge-updates 0 --eval-images 10",
    ),
    Model(
        "gen/realnvp.py",
        {"digits": 30, "mnist": 2},
        "--batch-size 125 --bf16",
        None,
        "--eval-images 10",
    ),
    Model(
        "gen/vae.py",
        {"digits": 100, "mnist": 10},
        "--likelihood gaussian --nll-samples 500 --nll-images 300",
        "--binarize dynamic --nll-samples 500 --nll-images 300",
        "--network conv --nll-samples 2 --nll-images 2",
    ),
]


# --- the runs --------------------------------------------------------------------------------


def run_script(model: Model, folder: Path, flags: list[str]) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """A training in a process of its own -> the rows of its metrics.csv, NaN for empty cells, and its samples.npz."""
    words = [sys.executable, "benchmarks/cpu_clock.py", model.script, *flags, "--torch-threads", "1", "--no-cuda"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("w") as log:
        done = subprocess.run([*words, "--run-dir", str(folder)], cwd=ROOT, stdout=log, stderr=log, check=False)
    if done.returncode:
        last = folder.with_suffix(".log").read_text().strip().splitlines()[-1:]
        raise RunError(f"{model.script} failed: {' '.join(last)} ({folder.with_suffix('.log')})")
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: float(cell or "nan") for key, cell in row.items()} for row in csv.DictReader(file)]
    with np.load(folder / "samples.npz") as saved:
        return rows, dict(saved)


def seconds_per_picture(rows: list[dict[str, float]]) -> float:
    """Of training, between the first row, before which all is set up, and the last."""
    first = rows[0] if len(rows) > 1 else dict.fromkeys(rows[0], 0.0)
    passed = {key: rows[-1][key] - first[key] for key in ("time/elapsed", "global_step")}
    return passed["time/elapsed"] / passed["global_step"]


def bits_per_dimension(model: Model, row: dict[str, float], dimensions: int) -> float:
    """What a test picture of 8 bits costs, from a run's last row. NaN for a GAN."""
    if "eval/bits_per_dim" in row:
        return row["eval/bits_per_dim"]
    if "eval/nll" in row:  # the density of pixels from 0 to 1, which are 1/255 apart: P(x) is about p(x) / 255^D
        return (row["eval/nll"] + dimensions * math.log(255)) / (dimensions * math.log(2))
    return math.nan


def load_labelled(dataset: str, data_dir: Path) -> tuple[np.ndarray, ...]:
    """What the scripts train and test on: pictures uint8 [n, 1, 28, 28], labels [n], of both sets. After a run of one.

    The scripts have checked MNIST's files, or fetched them.
    """
    if dataset == "mnist":
        names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
        files = [gzip.decompress((data_dir / f"{name}-ubyte.gz").read_bytes()) for name in names]
        data = [np.frombuffer(file, np.uint8) for file in files]
        return data[0][16:].reshape(-1, 1, 28, 28), data[1][8:], data[2][16:].reshape(-1, 1, 28, 28), data[3][8:]
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    images = F.interpolate(images, size=(28, 28), mode="bilinear").round().byte().numpy()
    return images[:1500], digits.target[:1500], images[1500:], digits.target[1500:]


# --- what is measured of them ----------------------------------------------------------------


def train_judge(pictures: np.ndarray, labels: np.ndarray, updates: int, seed: int) -> nn.Sequential:
    """A small classifier of uint8 [n, 1, 28, 28]; what comes before its last layer are the features [n, 64]."""
    torch.manual_seed(seed)
    judge = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
    x, y = torch.from_numpy(pictures.copy()), torch.from_numpy(labels.astype(np.int64))
    for _ in range(updates):
        chosen = torch.randint(len(x), (100,))
        loss = F.cross_entropy(judge(x[chosen].float() / 255), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge


@torch.no_grad()
def apply(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """A network's answer to uint8 [n, 1, 28, 28], as float64."""
    parts = torch.from_numpy(pictures.copy()).split(500)
    return torch.cat([network(part.float() / 255) for part in parts]).double().numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians with the means and covariances of two sets of features [n, k] and [m, k].

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)), A and B the covariances.
    """
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    between = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * between)


def linear_probe(codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy of logistic regression on standardized codes [n, k]; a fifth of those trained on chooses the penalty."""
    from sklearn.linear_model import LogisticRegression

    mean, std = codes.mean(0), codes.std(0) + 1e-6
    x, test_x = (codes - mean) / std, (test_codes - mean) / std
    kept = len(x) * 4 // 5

    def fit(strength: float, num: int) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(x[:num], labels[:num])

    best = max((1.0, 0.01), key=lambda strength: fit(strength, kept).score(x[kept:], labels[kept:]))
    return float(fit(best, len(x)).score(test_x, test_labels))


def save_rows(rows: list[np.ndarray], path: Path):
    """Rows of pictures uint8 [n, 1, h, w], each pixel two wide."""
    from PIL import Image

    framed = np.pad(np.stack(rows), ((0, 0), (0, 0), (0, 0), (0, 1), (0, 1)), constant_values=127)  # [rows, n, 1, h, w]
    image = Image.fromarray(np.concatenate(np.concatenate(framed.squeeze(2), 1), 1))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(path)


# --- all of it -------------------------------------------------------------------------------


def measure(model: Model, flags: argparse.Namespace, judge: nn.Module | None) -> tuple[dict, np.ndarray, nn.Module]:
    """One model's row, its new pictures, and the judge, who is trained when the first run has made sure of the data."""
    name = Path(model.script).stem
    common = ["--dataset", flags.dataset, "--seed", str(flags.seed), "--data-dir", str(flags.data_dir.absolute())]
    common += ["--epochs", str(model.epochs[flags.dataset] * flags.budget)]
    words = [*common, *model.flags.split(), "--save-samples", str(flags.samples)]
    rows, saved = run_script(model, flags.run_dir.absolute() / name, words)
    train, labels, test, _ = load_labelled(flags.dataset, flags.data_dir)
    judge = judge or train_judge(train, labels, flags.judge_updates, flags.seed)
    half = nn.Sequential(*judge[:-1])
    row = {
        "global_step": int(rows[-1]["global_step"]),
        "image_size": 28,
        "bits_per_dim": bits_per_dimension(model, rows[-1], test[0].size),
        "frechet": frechet_distance(apply(half, saved["samples"]), apply(half, train[:10_000])),
        "probe_accuracy": linear_probe(
            *(saved[key][: flags.codes] for key in ("train_codes", "train_labels")),
            *(saved[key] for key in ("test_codes", "test_labels")),
        ),
        "seconds_per_training_picture": seconds_per_picture(rows),
        "seconds_per_sample": float(saved["seconds"]) / flags.samples,
        "time/elapsed": rows[-1]["time/elapsed"],
    }
    if model.binary is not None:
        words = [*common, *model.binary.split(), "--save-samples", "1"]
        last = run_script(model, flags.run_dir.absolute() / f"{name}-binary", words)[0][-1]
        row["binary_nats"] = last["eval/nats"] if "eval/nats" in last else last["eval/nll"]
    return row, saved["samples"][:16], judge


def measure_size(model: Model, size: int, flags: argparse.Namespace) -> dict:
    """Seconds of one model for pictures of that size: 20 updates of 16, the second half counts; then one sample."""
    words = ["--dataset", "photos", "--image-size", str(size), "--seed", str(flags.seed), *model.sized.split()]
    words += [
        "--train-images",
        "320",
        "--batch-size",
        "16",
        "--epochs",
        "1",
        "--log-every",
        "10",
        "--save-samples",
        "1",
    ]
    folder = flags.run_dir.absolute() / f"{Path(model.script).stem}-{size}"
    rows, saved = run_script(model, folder, words)
    return {
        "global_step": int(rows[-1]["global_step"]),
        "image_size": size,
        "seconds_per_training_picture": seconds_per_picture(rows),
        "seconds_per_sample": float(saved["seconds"]),
        "time/elapsed": rows[-1]["time/elapsed"],
    }


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["digits", "mnist"], default="digits", help="labelled pictures of 28x28")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv and the runs")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where mnist is kept")
    parser.add_argument("--budget", type=float, default=1.0, help="multiplies every model's epochs")
    parser.add_argument("--samples", type=int, default=1000, help="new pictures of each model")
    parser.add_argument("--codes", type=int, default=5000, help="labelled training pictures for the linear probe")
    parser.add_argument("--judge-updates", type=int, default=600, help="updates of the judge, 100 pictures each")
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 16, 32], help="picture sizes for the timings")
    flags = parser.parse_args(argv)
    if (flags.run_dir / "metrics.csv").exists():
        raise SystemExit(f"--run-dir {flags.run_dir}: there is a run in it already; name another folder")
    flags.run_dir.mkdir(parents=True, exist_ok=True)
    rows, shown, judge = [], [], None
    try:
        for k, model in enumerate(MODELS):
            row, samples, judge = measure(model, flags, judge)
            rows.append(row | {"model": k})
            shown.append(samples)
        for size in flags.sizes:
            rows += [measure_size(model, size, flags) | {"model": k} for k, model in enumerate(MODELS)]
    except RunError as error:
        raise SystemExit(str(error)) from None

    train, labels, test, test_labels = load_labelled(flags.dataset, flags.data_dir)
    half = nn.Sequential(*judge[:-1])
    pixels = [part.reshape(len(part), -1) / 255 for part in (train[: flags.codes], test)]
    real = {
        "global_step": 0,
        "model": REAL,
        "image_size": 28,
        "frechet": frechet_distance(apply(half, test[: flags.samples]), apply(half, train[:10_000])),
        "probe_accuracy": linear_probe(pixels[0], labels[: flags.codes], pixels[1], test_labels),
    }
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in [real, *rows])
    save_rows([test[:16], *shown], flags.run_dir / "samples.png")
    accuracy = (apply(judge, test).argmax(1) == test_labels).mean()
    print(f"{len(rows)} rows; the judge's accuracy on test pictures {accuracy:.3f}: {flags.run_dir}")


if __name__ == "__main__":
    main()
