"""What counting does: an interpolated Kneser-Ney trigram on the messages, split and vocabulary of gen/chat_rnn.py.

    python -m benchmarks.kneser_ney --data chat.txt --run-dir runs/kneser_ney

    p(w|uv) = max(c(uvw) - D, 0) / c(uv) + D n(uv) / c(uv) p(w|v)

where n(uv) words were seen after uv; bigram and unigram count in how many contexts a word was seen, not how often
(Kneser & Ney 1995; interpolated, Chen & Goodman 1999). Discounts D are n1 / (n1 + 2 n2) of each order, from the numbers
of n-grams counted once and twice. Two begins stand before every message; ends are predicted like words.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.rows import write_rows
from gen.chat_rnn import END, MAX_WORDS, Args, load_data


def trigrams(rows: torch.Tensor) -> np.ndarray:
    """Every word and end that counts with the two words before it [m, 3], of messages [n, 21]."""
    counts = (rows != END).sum(1, keepdim=True).numpy() + 1
    padded = np.pad(rows.numpy(), [(0, 0), (1, 0)])  # END stands before the first word, too
    return np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[np.arange(MAX_WORDS) < counts]


class KneserNey:
    def __init__(self, triples: np.ndarray, size: int):
        """Counts of trigrams [m, 3] of `size` different words."""
        counts = Counter(map(tuple, triples.tolist()))
        self.orders = []
        for _ in range(2):
            totals, kinds = Counter(), Counter(ngram[:-1] for ngram in counts)
            for ngram, count in counts.items():
                totals[ngram[:-1]] += count
            frequencies = Counter(counts.values())
            discount = frequencies[1] / (frequencies[1] + 2 * frequencies[2])
            self.orders.insert(0, (counts, totals, kinds, discount))
            counts = Counter(ngram[1:] for ngram in counts)  # in how many contexts: the next lower order's
        self.unigrams = np.bincount([word for (word,) in counts.elements()], minlength=size) / counts.total()

    def probability(self, triples: np.ndarray) -> np.ndarray:
        """p(last | the two before) of numbers [n, 3]."""
        return np.array([self.probability_of(triple) for triple in map(tuple, triples.tolist())])

    def probability_of(self, triple: tuple[int, int, int]) -> float:
        p = self.unigrams[triple[-1]]
        for n, (counts, totals, kinds, discount) in enumerate(self.orders, start=2):
            ngram, context = triple[-n:], triple[-n:-1]
            if context in totals:  # else what the lower order says
                p = (max(counts[ngram] - discount, 0) + discount * kinds[context] * p) / totals[context]
        return p


def main(run_dir: Path, data: Path | None = None, seed: int = 1):
    """Text with one message a line (default: the built-in grammar's); nothing here is random."""
    train, test, words = load_data(Args(data=data, max_vocabulary=50_000))
    model = KneserNey(trigrams(train), len(words))
    nats = -np.log(model.probability(trigrams(test)))
    row = {"global_step": len(train), "eval/nll": nats.mean(), "eval/perplexity": math.exp(nats.mean())}
    write_rows(run_dir, [row | {"charts/vocabulary": len(words)}])
    print(f"perplexity {row['eval/perplexity']:.2f} of {len(nats):,} held-out words and ends")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
