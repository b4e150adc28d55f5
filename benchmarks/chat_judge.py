"""What gen/chat_rnn.py has learned: the grammar's own loss, copypasta, endless loops.

    python -m benchmarks.chat_judge --epochs 4 --run-dir runs/judge

Trains a run with these flags and adds to the last row of its metrics.csv: eval/floor, nats per word under the grammar
that made the messages; the shares of repeated messages (8 different words or more, 5 times or more in the training
set) that are completed greedily, word for word, from their first four words and from four words in their middle; the
shares of greedy and sampled completions that repeat themselves until the 20th word; and how often the rare word, which
completions exclude, is the most likely next one: after any word of 1,000 test messages, and after "a".
"""

import math
from collections import Counter

import torch
import tyro

from benchmarks.rows import add_to_last_row
from gen.chat_rnn import END, MAX_WORDS, TEMPLATES, UNK, WORDS, Args, ChatRNN, load_data, make_chat, train


def message_nats(message: list[str]) -> float:
    """-log p of a whole message under the grammar; infinite if it cannot be made."""
    p = 0.0
    for template, weight in TEMPLATES.items():
        tokens = [WORDS.get(token, token).split() for token in template.split()]
        if len(tokens) == len(message) and all(word in words for word, words in zip(message, tokens, strict=True)):
            shares = [1 / len(words) for words in tokens]
            p += weight / sum(TEMPLATES.values()) * math.prod(shares)
    return -math.log(p) if p else math.inf


def grammar_floor() -> float:
    """Nats per word that the grammar itself needs for the held-out messages."""
    messages = make_chat()
    test = messages[len(messages) * 9 // 10 :]
    return sum(map(message_nats, test)) / sum(min(len(message) + 1, MAX_WORDS) for message in test)


def is_loop(words: list[int]) -> bool:
    """Twenty words whose last twelve are periodic, with a period of at most four."""
    return len(words) >= MAX_WORDS and any(words[-12:-n] == words[-12 + n :] for n in (1, 2, 3, 4))


def judge(model: ChatRNN, rows: torch.Tensor, test: torch.Tensor, vocabulary: list[str]) -> dict:
    """Shares, from training messages and test messages [n, 21]."""
    counts = Counter(tuple(word for word in row[1:] if word != END) for row in rows.tolist())
    pastes = [list(words) for words, n in counts.items() if n >= 5 and len(set(words)) >= 8][:300]
    row = {}
    for name in ("beginning", "middle"):
        firsts = [0 if name == "beginning" else len(paste) // 2 - 2 for paste in pastes]
        hits = [model.complete(x[i : i + 4], 0.0) == x[i + 4 :] for x, i in zip(pastes, firsts, strict=True)]
        row[f"eval/copypasta_from_{name}"] = sum(hits) / len(hits) if hits else None
    prompts = [[word for word in message[1:3] if word != END] for message in test[:300].tolist()]
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        completions = [typed + model.complete(typed, temperature) for typed in prompts]
        row[f"eval/loops_{name}"] = sum(map(is_loop, completions)) / len(completions)
    words, a = test[:1000, :-1].flatten(), vocabulary.index("a") if "a" in vocabulary else UNK
    with torch.no_grad():
        rare = model.output.predict(model(test[:1000, :-1])[0].flatten(0, 1)) == UNK
    shares = {"eval/rare_next": rare[words != END], "eval/rare_after_a": rare[words == a]}
    return row | {name: found.float().mean().item() for name, found in shares.items()}


def main():
    args = tyro.cli(Args, description=__doc__)
    if args.run_dir is None:
        raise SystemExit("needs --run-dir")
    train(args)
    rows, test, vocabulary = load_data(args)
    model = ChatRNN(len(vocabulary), args.width).eval()
    model.load_state_dict(torch.load(args.run_dir / "model.pt", map_location="cpu", weights_only=True)["model"])
    add_to_last_row(
        args.run_dir, {"eval/floor": None if args.data else grammar_floor()} | judge(model, rows, test, vocabulary)
    )


if __name__ == "__main__":
    main()
