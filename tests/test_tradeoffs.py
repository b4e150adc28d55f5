"""The trade-offs: distances, probes, conversions against closed forms; commands as the scripts understand them."""

import csv
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from scipy.linalg import sqrtm

from benchmarks import tradeoffs
from benchmarks.figures import tradeoffs as figures
from benchmarks.plot import Results
from benchmarks.tradeoffs import MODELS, RunError, bits_per_dimension, frechet_distance, linear_probe, run_script
from gen.vae import load_digits_28

PIXELCNN, GAN, REALNVP, VAE = MODELS


def test_the_frechet_distance_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected) and frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, 3 + a) == pytest.approx(36)  # as far as one was moved
    a = a - a.mean(0)
    assert frechet_distance(a, 2 * a) == pytest.approx(np.trace(np.cov(a, rowvar=False)))  # |2 - 1|^2 of the variance
    flat = np.concatenate([a, np.zeros((500, 2))], 1)  # features that never fire
    assert frechet_distance(flat, 2 * flat) == pytest.approx(np.trace(np.cov(a, rowvar=False)))


def test_a_linear_probe_finds_what_is_linear():
    rng = np.random.default_rng(0)
    codes, labels = rng.normal(size=(900, 5)) * [1, 100, 0.01, 1, 1] + 7, np.arange(900) % 3
    told = codes.copy()
    told[:, 2] += 0.2 * labels  # in the smallest of them
    assert linear_probe(told[:600], labels[:600], told[600:], labels[600:]) > 0.99
    assert linear_probe(codes[:600], labels[:600], codes[600:], labels[600:]) < 0.45


def test_likelihoods_are_said_in_bits_per_dimension():
    assert bits_per_dimension(PIXELCNN, {"eval/nats": 5.0, "eval/bits_per_dim": 1.5}, 784) == 1.5
    assert bits_per_dimension(VAE, {"eval/nll": 0.0}, 784) == pytest.approx(math.log2(255))  # uniform from 0 to 1
    std, x = 0.1, np.arange(256) / 255  # a wide Gaussian's density times the distance of values is their probability
    density = np.exp(-0.5 * ((x - 0.5) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    p = np.array([2.0 ** -bits_per_dimension(VAE, {"eval/nll": -math.log(value)}, 1) for value in density])
    assert p.sum() == pytest.approx(1, abs=1e-4)
    assert math.isnan(bits_per_dimension(GAN, {"eval/frechet": 3.0}, 784))


def test_training_is_timed_between_the_first_row_and_the_last():
    rows = [{"time/elapsed": 10.0, "global_step": 100}, {"time/elapsed": 13.0, "global_step": 400}]
    assert tradeoffs.seconds_per_picture(rows) == pytest.approx(0.01)
    assert tradeoffs.seconds_per_picture(rows[:1]) == pytest.approx(0.1)


def test_the_judge_sees_what_the_scripts_train_on():
    for ours, theirs in zip(tradeoffs.load_labelled("digits", Path("data")), load_digits_28(), strict=True):
        assert np.array_equal(ours.squeeze(), theirs.numpy())
    pictures, labels, test, test_labels = tradeoffs.load_labelled("digits", Path("data"))
    judge = tradeoffs.train_judge(pictures, labels, 60, seed=1)
    assert (tradeoffs.apply(judge, test).argmax(1) == test_labels).mean() > 0.8
    features = tradeoffs.apply(torch.nn.Sequential(*judge[:-1]), test)
    assert features.shape == (297, 64) and features.min() == 0


def test_a_run_is_a_command_whose_folder_is_read(tmp_path):
    flags = "--epochs 0.3 --hidden 16 --nll-samples 5 --nll-images 5 --save-samples 7"
    rows, saved = run_script(VAE, tmp_path / "vae", flags.split())
    assert rows[-1]["global_step"] > 0 and rows[-1]["eval/nll"] > 0
    assert saved["samples"].shape == (7, 1, 28, 28) and saved["seconds"] > 0
    with pytest.raises(RunError, match=r"gen/nowhere.py failed: .*No such file or directory"):
        run_script(tradeoffs.Model("gen/nowhere.py", {}, "", None, ""), tmp_path / "nowhere", [])


@pytest.fixture
def fake(monkeypatch):
    """Runs that take no time: the calls, whose flags the scripts themselves must understand."""
    calls = []

    def answer(model, folder, words):
        module = importlib.import_module(model.script.removesuffix(".py").replace("/", "."))
        args = tyro.cli(module.Args, args=[*words, "--torch-threads", "1", "--no-cuda"])
        calls.append((model, folder, args))
        rng = np.random.default_rng(len(calls))
        side = args.image_size if args.dataset == "photos" else 28
        row = {"global_step": 400.0, "time/elapsed": 4.0}
        row |= {
            "gen/pixelcnn.py": {"eval/nats": 90.0, "eval/bits_per_dim": 1.1},
            "gen/gan.py": {},
            "gen/realnvp.py": {"eval/nll": 900.0, "eval/bits_per_dim": 1.3},
            "gen/vae.py": {"eval/nll": -500.0},
        }[model.script]
        saved = {"samples": rng.integers(256, size=(args.save_samples, 1, side, side), dtype=np.uint8), "seconds": 2.0}
        for name, n in (("train", 1500), ("test", 297)):
            saved |= {f"{name}_codes": rng.normal(size=(n, 4)), f"{name}_labels": np.arange(n) % 10}
        return [row], saved

    monkeypatch.setattr(tradeoffs, "run_script", answer)
    return calls


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_every_model_is_measured_and_the_tables_are_drawn(fake, dataset, tmp_path, monkeypatch):
    pictures = tradeoffs.load_labelled("digits", Path("data"))
    monkeypatch.setattr(tradeoffs, "load_labelled", lambda *_: pictures)
    folder = tmp_path / "runs/benchmark" / f"tradeoffs-{dataset}" / "seed1"
    tradeoffs.main(
        f"--dataset {dataset} --run-dir {folder} --samples 40 --codes 200 --judge-updates 5 --sizes 8 16".split()
    )
    assert len(fake) == 4 + 2 + 2 * 4 and len({name for _, name, _ in fake}) == len(fake)
    assert [args.dataset for *_, args in fake] == [dataset] * 6 + ["photos"] * 8
    assert {args.binarize for model, name, args in fake if name.name.endswith("-binary")} == {"dynamic"}
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["-1", *"0123", *"0123", *"0123"]
    assert list(rows[0]) == tradeoffs.COLUMNS == figures.COLUMNS
    real, pixelcnn, gan, realnvp, vae = rows[:5]
    assert [row["bits_per_dim"] for row in (pixelcnn, gan, realnvp)] == ["1.1", "", "1.3"]
    assert [row["binary_nats"] for row in rows[:5]] == ["", "90.0", "", "", "-500.0"]
    assert float(real["frechet"]) < float(vae["frechet"]) and float(real["probe_accuracy"]) > 0.7
    assert all(float(row["seconds_per_training_picture"]) == 0.01 for row in rows[1:])
    assert float(vae["seconds_per_sample"]) == 2 / 40 and float(rows[-1]["seconds_per_sample"]) == 2
    assert Image.open(folder / "samples.png").size == (16 * 58, 5 * 58)
    with pytest.raises(SystemExit, match="a run in it already"):
        tradeoffs.main(["--run-dir", str(folder)])

    results = tmp_path / "results/tradeoffs"
    (results / f"tradeoffs-{dataset}").mkdir(parents=True)
    lines = (folder / "metrics.csv").read_text().splitlines()
    numbered = ["update," + lines[0], *(f"{i},{line}" for i, line in enumerate(lines[1:], 1))]
    (results / f"tradeoffs-{dataset}/seed1.csv").write_text("\n".join(numbered))
    summary = {"seed": 1, "final": {}, "versions": {}, "hardware": {"cpu": "a processor", "cores": 1, "gpus": []}}
    (results / f"tradeoffs-{dataset}/seed1.json").write_text(json.dumps(summary))
    blocks = figures.draw(Results(results), results)
    text = (results / "README.md").read_text()
    assert "| PixelCNN | 1.10 bits/dim | 90.0 nats |" in text and "| GAN | - | - |" in text and "a processor" in text
    assert "| PixelCNN | O(#pixels) | 2 s | 2 s |" in text and "**VAEs** (the lecture)" in blocks["tradeoffs-table"]
    assert (results / "sizes.png").exists() and (results / f"tradeoffs-{dataset}.png").exists()


def test_a_run_that_fails_ends_in_one_line(monkeypatch, tmp_path):
    def fail(*_):
        raise RunError("gen/pixelcnn.py failed: no network")

    monkeypatch.setattr(tradeoffs, "run_script", fail)
    with pytest.raises(SystemExit, match="no network"):
        tradeoffs.main(["--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run/metrics.csv").exists()
