# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "torchvision==0.28.0"]
# ///
"""PyTorch's own example of a word language model (pytorch/examples, word_language_model), timed in CPU seconds.

    python -m benchmarks.peers.examples_wlm --data chat.txt.gz --run-dir runs/examples

Its own settings: LSTM of two layers of 200, batches of 20 times 35 words. It gets the messages of --data as
gen/chat_rnn.py cleans and cuts them, --train-words of them; its test.txt lists every word of the vocabulary, so that
the output layer has that size. A row is 20 updates: global_step counts words, time/elapsed CPU seconds since the first.
"""

import gzip
import re
from collections import Counter
from pathlib import Path

from benchmarks.peers import examples
from benchmarks.rows import flags_of, write_rows

WORDS_PER_UPDATE, UPDATES_PER_ROW = 20 * 35, 20


def write_texts(path: Path, folder: Path, vocabulary: int, train_words: int):
    """train.txt, valid.txt and test.txt, as the example wants them: the end of a message is its own <eos>."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
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


def rows(printed: list[tuple[float, str]]):
    """The example's lines, with their CPU seconds -> a row for each report."""
    start = None
    for now, text in printed:
        if match := re.search(r"\| +(\d+)/ *\d+ batches .*loss +([\d.]+)", text):
            start = start or now  # after the first updates, which warm up
            step = int(match[1]) * WORDS_PER_UPDATE
            yield {"global_step": step, "losses/loss": match[2], "time/elapsed": now - start}


def main():
    args = flags_of(__doc__, data=Path, vocabulary=10_000, train_words=150_000)
    folder = (args.run_dir / "work").absolute()
    folder.mkdir(parents=True)
    write_texts(args.data, folder, args.vocabulary, args.train_words)
    flags = ["--data", folder, "--epochs", 1, "--seed", args.seed, "--log-interval", UPDATES_PER_ROW]
    printed = examples.run("word_language_model/main.py", [*flags, "--save", folder / "model.pt"], folder)
    write_rows(args.run_dir, rows(printed))


if __name__ == "__main__":
    main()
