"""What counting does: an interpolated Kneser-Ney trigram on the messages, split and vocabulary of gen/chat_rnn.py.

    python benchmarks/kneser_ney.py --data chat.txt --run-dir runs/kneser_ney

    p(w|uv) = max(c(uvw) - D, 0) / c(uv) + D n(uv) / c(uv) p(w|v)

where n(uv) words were seen after uv; the bigram below is the same, but counts in how many contexts a word was seen, not
how often, and so does the unigram, without a discount (Kneser & Ney 1995; interpolated, Chen & Goodman 1999). Discounts
D are n1 / (n1 + 2 n2) of each order, from the numbers of n-grams counted once and twice. Two begins stand before every
message; ends are predicted like words.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import write_rows
from gen.chat_rnn import END, MAX_WORDS, Args, load_data


def trigrams(rows: torch.Tensor) -> np.ndarray:
    """Every word and end that counts with the two words before it [m, 3], of messages [n, 21]."""
    lengths = np.minimum((rows != END).sum(1).numpy() + 1, MAX_WORDS)
    rows = rows.numpy()
    before = np.pad(rows[:, :-1], [(0, 0), (1, 0)])[:, :-1]  # END stands before the first word, too
    triples = np.stack([before, rows[:, :-1], rows[:, 1:]], 2)
    return triples[np.arange(MAX_WORDS) < lengths[:, None]]


class Order:
    """One order of the model: counts of n-grams, each a number made of its context's and its last word's."""

    def __init__(self, contexts: np.ndarray, words: np.ndarray, size: int):
        """Contexts [n] and words [n] of all n-grams that count."""
        self.size = size
        self.keys, self.counts = np.unique(contexts * size + words, return_counts=True)
        self.contexts, index = np.unique(self.keys // size, return_inverse=True)
        self.totals, self.kinds = np.bincount(index, self.counts), np.bincount(index)
        once, twice = (self.counts == 1).sum(), (self.counts == 2).sum()
        self.discount = once / (once + 2 * twice)

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
    def __init__(self, triples: np.ndarray, size: int):
        """Counts of trigrams [m, 3] of `size` different words."""
        before, last, word = triples.T
        self.size = size
        self.trigrams = Order(before * size + last, word, size)
        pairs = self.trigrams.keys % size**2  # one for each different trigram: counts contexts
        self.bigrams = Order(pairs // size, pairs % size, size)
        self.unigrams = np.bincount(self.bigrams.keys % size, minlength=size) / len(self.bigrams.keys)

    def probability(self, triples: np.ndarray) -> np.ndarray:
        """p(last | the two before) of numbers [n, 3]."""
        before, last, word = triples.T
        lower = self.bigrams.probability(last, word, self.unigrams[word])
        return self.trigrams.probability(before * self.size + last, word, lower)


def main(run_dir: Path, data: Path | None = None, max_vocabulary: int = 50_000, seed: int = 1):
    """Text with one message a line (default: the built-in grammar's); nothing here is random."""
    train, test, words = load_data(Args(data=data, max_vocabulary=max_vocabulary))
    model = KneserNey(trigrams(train), len(words))
    nats = -np.log(model.probability(trigrams(test)))
    row = {"global_step": len(train), "eval/nll": nats.mean(), "eval/perplexity": math.exp(nats.mean())}
    row |= {"charts/vocabulary": len(words), "charts/discount_2": model.bigrams.discount}
    write_rows(run_dir, [row | {"charts/discount_3": model.trigrams.discount}])
    print(f"perplexity {row['eval/perplexity']:.2f} of {len(nats):,} held-out words and ends")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
