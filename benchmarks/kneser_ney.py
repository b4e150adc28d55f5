"""What counting does: an interpolated Kneser-Ney trigram on the messages, split and vocabulary of gen/chat_rnn.py.

    python benchmarks/kneser_ney.py --data chat.txt --run-dir runs/kneser_ney

    p(w|uv) = max(c(uvw) - D, 0) / c(uv) + D n(uv) / c(uv) p(w|v)

where n(uv) words were seen after uv; the bigram below is the same, but counts in how many contexts a word was seen, not
how often, and so does the unigram, without a discount (Kneser & Ney 1995; interpolated, Chen & Goodman 1999). Discounts
D are n1 / (n1 + 2 n2) of each order, from the numbers of n-grams counted once and twice. Two begins stand before every
message; ends are predicted like words.
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gen.chat_rnn import MAX_WORDS, Args, Chat, UsageError, bits_per_character, load_chat, mean_over_targets


def trigrams(chat: Chat) -> np.ndarray:
    """Every target of a chat with the two numbers before it [n, 3], message by message."""
    before = np.pad(chat.rows[:, :-1], [(0, 0), (1, 0)]).astype(np.int64)  # 0 stands before the first word, too
    triples = np.stack([before[:, :-1], chat.rows[:, :-1], chat.rows[:, 1:]], 2)
    return triples[np.arange(MAX_WORDS) < chat.targets[:, None]]


class Order:
    """One order of the model: counts of n-grams, each a number made of its context's and its last word's."""

    def __init__(self, contexts: np.ndarray, words: np.ndarray, size: int, discount: float | None):
        """Contexts [n] and words [n] of all n-grams that count."""
        self.size = size
        self.keys, self.counts = np.unique(contexts * size + words, return_counts=True)
        self.contexts, index = np.unique(self.keys // size, return_inverse=True)
        self.totals, self.kinds = np.bincount(index, self.counts), np.bincount(index)
        once, twice = (self.counts == 1).sum(), (self.counts == 2).sum()
        self.discount = once / (once + 2 * twice) if discount is None else discount

    def probability(self, contexts: np.ndarray, words: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """p(word | context) [n], given what the next lower order says; just that where the context was never seen."""
        place, known = find(self.keys, contexts * self.size + words)
        counts = np.where(known, self.counts[place], 0)
        place, known = find(self.contexts, contexts)
        higher = np.maximum(counts - self.discount, 0) + self.discount * self.kinds[place] * lower
        return np.where(known, higher / self.totals[place], lower)


def find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the sorted keys the wanted ones stand, and whether they do."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted


class KneserNey:
    def __init__(self, train: Chat, size: int, discount: float | None = None):
        """Counts of a chat of `size` different words; with a discount, the same one for all orders."""
        before, last, word = trigrams(train).T
        self.size = size
        self.trigrams = Order(before * size + last, word, size, discount)
        pairs = self.trigrams.keys % size**2  # one for each different trigram: counts contexts
        self.bigrams = Order(pairs // size, pairs % size, size, discount)
        self.unigrams = np.bincount(self.bigrams.keys % size, minlength=size) / len(self.bigrams.keys)

    def probability(self, triples: np.ndarray) -> np.ndarray:
        """p(last | the two before) of numbers [n, 3]."""
        before, last, word = triples.T
        lower = self.bigrams.probability(last, word, self.unigrams[word])
        return self.trigrams.probability(before * self.size + last, word, lower)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="text with one message a line (default: the built-in grammar's)")
    parser.add_argument("--max-vocabulary", type=int, default=0, help="as for gen/chat_rnn.py")
    parser.add_argument("--seed", type=int, default=1, help="nothing here is random")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    args = parser.parse_args()
    try:
        train, test, words = load_chat(Args(data=args.data, max_vocabulary=args.max_vocabulary))
    except UsageError as error:
        raise SystemExit(str(error)) from None
    start = time.process_time()
    model = KneserNey(train, len(words))
    trained = time.process_time()
    nats = -np.log(model.probability(trigrams(test)))
    positions = np.broadcast_to(np.arange(MAX_WORDS), (len(test.rows), MAX_WORDS))
    positions = positions[positions < test.targets[:, None]]
    by_position = np.bincount(positions, nats, MAX_WORDS) / np.maximum(np.bincount(positions, minlength=MAX_WORDS), 1)
    loss = mean_over_targets(by_position, test)
    row = {
        "global_step": len(train.rows),
        "charts/tokens": int(train.targets.sum()),
        "eval/loss": loss,
        "eval/perplexity": math.exp(loss),
        "eval/bits_per_character": bits_per_character(loss, test),
        **{f"eval/perplexity_word_{k}": math.exp(by_position[k - 1]) for k in (1, 2, 3, 5, 10, 20)},
        "charts/vocabulary": len(words),
        "charts/discount_2": model.bigrams.discount,
        "charts/discount_3": model.trigrams.discount,
        "time/elapsed": trained - start,
    }
    args.run_dir.mkdir(parents=True, exist_ok=True)
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    print(f"perplexity {math.exp(loss):.2f} of {len(nats):,} held-out words and ends, {len(words):,} different ones")


if __name__ == "__main__":
    main()
