"""How well algos/sarsa_lambda.py plays Blackjack-v1 as Monte-Carlo control, against the exact solution.

    python -m benchmarks.blackjack --run-dir runs/blackjack

The deck is infinite, so the game can be solved: the program computes the best policy and the exact value, from a random
deal, of the learned policy. metrics.csv has a row for every hand of 12 to 20 against every card of the dealer; the
values stand in the last one.
"""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from algos.sarsa_lambda import Args, make_env, play
from benchmarks.rows import add_to_last_row, write_rows

CARDS = {card: 4 / 13 if card == 10 else 1 / 13 for card in range(1, 11)}  # an ace is 1; ten, jack, queen and king: 10
HANDS = list(itertools.product((False, True), range(12, 21), range(1, 11)))  # usable ace, total, the dealer's card


def take(total: int, ace: bool, card: int) -> tuple[int, bool]:
    """A hand with one card more: its total, and whether an ace counts 11 in it."""
    total += card
    if card == 1 and total <= 11:
        total, ace = total + 10, True
    return (total - 10, False) if total > 21 and ace else (total, ace)


@cache
def dealer_ends(total: int, ace: bool) -> dict[int, float]:
    """Probabilities of the dealer's last total, who stops at 17; 0 for a bust."""
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    ends = dict.fromkeys((0, *range(17, 22)), 0.0)
    for card, p in CARDS.items():
        for end, q in dealer_ends(*take(total, ace, card)).items():
            ends[end] += p * q
    return ends


def solve(hits: np.ndarray | None = None) -> tuple[float, dict]:
    """Value from a random deal, and the values {hand: (stick, hit)}, of the policy hits[total, dealer, ace].

    Without a policy, of the best one. Hands below 12 and of 21 are played in the only sensible way.
    """
    values = {}

    @cache
    def value(ace: bool, total: int, dealer: int) -> float:
        if total > 21:
            return -1.0
        ends = dealer_ends(*take(0, False, dealer))
        stick = sum(p * ((total > end) - (total < end)) for end, p in ends.items())
        hit = -1.0
        if total < 21:
            following = ((p, take(total, ace, card)) for card, p in CARDS.items())
            hit = sum(p * value(usable, reached, dealer) for p, (reached, usable) in following)
        values[ace, total, dealer] = stick, hit
        if hits is None or not 12 <= total <= 20:
            return max(stick, hit)
        return hit if hits[total, dealer, int(ace)] else stick

    start = 0.0
    for (first, p), (second, q), (dealer, r) in itertools.product(CARDS.items(), repeat=3):
        total, ace = take(*take(0, False, first), second)
        start += p * q * r * value(ace, total, dealer)
    return start, values


def main(run_dir: Path, total_episodes: int = 125_000, seed: int = 1):
    """Hands that each of eight independent learners plays."""
    args = Args(trace_lambda=1.0, learning_rate_power=0.9)
    env, shape = make_env("Blackjack-v1")
    env.reset(seed=seed)
    rng, steps = np.random.default_rng(seed), 0
    q, visits = np.zeros((2, 8, *shape))  # [runs, total, dealer's card, usable ace, action]
    for episode in tqdm(range(total_episodes), disable=None):
        epsilon = 0.2 + (0.02 - 0.2) * episode / total_episodes
        for i in range(8):
            _, length, _ = play(env, q[i], visits[i], epsilon, 1.0, args, rng)
            steps += length
    pooled = (q * visits).sum(axis=0) / visits.sum(axis=0).clip(1)
    hits = pooled[..., 1] > pooled[..., 0]
    optimum, best = solve()
    value, _ = solve(hits)
    alone = [solve(table[..., 1] > table[..., 0])[0] for table in q]
    rows, different = [], 0
    for ace, total, dealer in HANDS:
        stick, hit = best[ace, total, dealer]
        ours, should = int(hits[total, dealer, int(ace)]), int(hit > stick)
        different += ours != should
        hand = {"hand/ace": int(ace), "hand/total": total, "hand/dealer": dealer, "hand/hit": ours}
        loss = abs(hit - stick) if ours != should else 0.0  # what the other action would have been worth more
        rows.append({"global_step": steps} | hand | {"hand/best_hit": should, "hand/loss": loss})
    error = np.std(alone, ddof=1) / len(alone) ** 0.5
    scores = {"value": value, "value_alone": np.mean(alone), "value_alone_se": error}
    scores |= {"optimum": optimum, "different": different}
    write_rows(run_dir, rows)
    add_to_last_row(run_dir, {f"eval/{name}": score for name, score in scores.items()})
    print(f"\nvalue {value:.5f}, {np.mean(alone):.5f} of a learner alone; best {optimum:.5f}; {different} differ")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
