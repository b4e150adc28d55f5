# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
#     "torchvision==0.28.0",
# ]
# ///
"""PyTorch's own example of a word language model (pytorch/examples, word_language_model), timed in CPU seconds.

    python benchmarks/peers/examples_wlm.py --data chat.txt --run-dir runs/examples

The example runs untouched, from a clone of its repository at a pinned commit; a clock stands where it prints. Its own
settings: LSTM of two layers of 200, batches of 20 times 35 words. It gets the messages of --data as gen/chat_rnn.py
cleans and cuts them, one after another, --train-words of them; its test.txt lists every word of the vocabulary, so that
the output layer has the size asked for. A row is 20 updates: global_step counts words, time/elapsed CPU seconds since
the first row's.
"""

import argparse
import builtins
import csv
import gzip
import os
import re
import runpy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

REPOSITORY, COMMIT = "https://github.com/pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"
FOLDER = "word_language_model"
FILES = [f"{FOLDER}/{name}.py" for name in ("main", "data", "model")]  # its texts are not needed
WORDS_PER_UPDATE, UPDATES_PER_ROW = 20 * 35, 20


def clone(folder: Path):
    if not (folder / FILES[0]).exists():
        if not (folder / ".git").exists():
            subprocess.run(["git", "clone", "--filter=blob:none", "--no-checkout", REPOSITORY, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", COMMIT, "--", *FILES], check=True)
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "-C", folder, "diff", "--quiet", COMMIT, "--", *FILES], check=False).returncode
    if changed:
        raise SystemExit(f"{folder} holds another version ({commit.stdout.strip()}): remove it")


def write_texts(path: Path, folder: Path, vocabulary: int, train_words: int):
    """train.txt, valid.txt and test.txt, as the example wants them: the end of a message is its own <eos>."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8", "replace")
    messages = [re.sub(r"[^0-9a-z ]", "", re.sub(r"\s", " ", line).lower()).split()[:20] for line in text.split("\n")]
    messages = [message for message in messages if len(message) >= 2]
    counts = Counter(word for message in messages for word in message)
    known = {word for word, _ in counts.most_common(vocabulary - 2)}  # besides <eos> and <unk>
    lines, left = [], train_words
    for message in messages:
        lines.append(" ".join(word if word in known else "<unk>" for word in message))
        left -= len(message) + 1
        if left < 0:
            break
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    (folder / "valid.txt").write_text("\n".join(lines[:200]) + "\n")
    (folder / "test.txt").write_text("\n".join([*sorted(known), "<unk>"]) + "\n")


class Clock:
    """Takes the place of print: a row of metrics.csv whenever the example reports."""

    def __init__(self, path: Path):
        self.file = path.open("w", newline="", buffering=1)
        self.rows = csv.writer(self.file)
        self.rows.writerow(["global_step", "losses/loss", "time/elapsed"])
        self.start, self.print = None, builtins.print

    def __call__(self, *words, **options):
        now, text = time.process_time(), " ".join(map(str, words))
        if match := re.search(r"\| +(\d+)/ *\d+ batches .*loss +([\d.]+)", text):
            self.start = self.start or now  # after the first updates, which warm up
            self.rows.writerow([int(match[1]) * WORDS_PER_UPDATE, match[2], now - self.start])
        self.print(*words, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=10_000, help="different words, <eos> and <unk> among them")
    parser.add_argument("--train-words", type=int, default=150_000)
    parser.add_argument("--data", type=Path, required=True, help="text with one message a line, gzipped or not")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--source", type=Path, default=Path("runs/peers/pytorch-examples"), help="the clone")
    args = parser.parse_args()
    clone(args.source)
    script, folder = (args.source / FOLDER / "main.py").absolute(), (args.run_dir / "work").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(args.data, folder, args.vocabulary, args.train_words)
    torch.set_num_threads(1)
    builtins.print = Clock(args.run_dir / "metrics.csv")
    os.chdir(folder)
    sys.path.insert(0, str(script.parent))  # its data.py and model.py
    sys.argv = [str(script), "--data", str(folder), "--epochs", "1", "--seed", str(args.seed)]
    sys.argv += ["--log-interval", str(UPDATES_PER_ROW), "--save", str(folder / "model.pt")]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
