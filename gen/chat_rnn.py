# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "pydantic>=2.6", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""LSTM language model of chat messages: it reads a message word by word and predicts the next word, or the end.

    python gen/chat_rnn.py
    python gen/chat_rnn.py --data chat.txt --epochs 10 --run-dir runs/chat
    python gen/chat_rnn.py --talk runs/chat --temperature 0.7

Each message is a sequence of its own, of at most 20 words. --data is a text with one message a line, such as
chat_collect.py writes; without it a small grammar makes up the messages, whose entropy is known
(benchmarks/chat_judge.py). --talk completes what is typed on the terminal, gen/chat_demo.py on a page.

Frans 2016 (http://kvfrans.com/simulating-twitch-chat-with-a-recurrent-neural-network/): data, sizes, Adam, clipping.
Zaremba et al. 2014, "Recurrent neural network regularization" (arXiv 1409.2329): dropout on non-recurrent
connections. Grave et al. 2016, "Efficient softmax approximation for GPUs" (arXiv 1609.04309): adaptive softmax, with
rare words in clusters: normalized, and much faster than one softmax over all words.
Differences from the post's code: 1. Padding has no part in the loss, the end of a message is predicted like a word. 2.
The last tenth of the messages is held out. 3. Dropout of 0.2, not 0.5. 4. The learning rate falls linearly to 0. 5. A
completion is sampled, and never contains <unk>.
"""

import csv
import gzip
import json
import math
import random
import re
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
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

    data: Path | None = None
    """text with one message a line, gzipped if it ends in .gz; default: messages of the built-in grammar"""
    max_vocabulary: PositiveInt = 50_000
    """vocabulary size, with <eos> and <unk>: the most frequent of the words that occur at least five times"""
    epochs: PositiveInt = 4
    """passes over the messages"""
    batch_size: PositiveInt = 64
    """messages per update"""
    learning_rate: PositiveFloat = 5e-3
    """Adam's learning rate, annealed to 0"""
    width: Annotated[int, Field(ge=1, le=4096)] = 200
    """size of the embedding and of the two LSTM layers"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """dropout before, between and after the layers"""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """of sampling in --talk; 0 takes the most likely word"""
    talk: Path | None = None
    """complete the messages typed on the terminal with this run's model, and do not train"""


# --- data ------------------------------------------------------------------------------------

MAX_WORDS = 20
END, UNK = 0, 1  # END also stands before the first word and pads
WORDS = {
    "NAME": "moonbyte grimfox saltlord pixelpanda turbosnail nightowl mrwaffle zeldafan cobra9 lagmaster",
    "HELLO": "hello hi hey yo sup hiya",
    "EMOTE": "kappa pogchamp kreygasm biblethump residentsleeper lul",
    "NOUN": "deck game build stream boss team camera song sword plan",
    "VERB": "play try show stop start",
    "JUDGE": "good bad broken cute slow",
}
TEMPLATES = {  # and how often each is used
    "HELLO NAME": 3,
    "HELLO chat EMOTE": 2,
    "EMOTE EMOTE EMOTE": 3,
    "NAME is JUDGE": 4,
    "the NOUN is so JUDGE EMOTE": 3,
    "NAME pls VERB the NOUN again": 3,
    "im a simple player and i only ask for one thing give me back my old sword before the patch": 1,
    "dear streamer my grandmother watches every night with me and she says your camera is still on the boss": 1,
    "imagine losing a won game because your little brother wanted to look at the map for one second": 1,
}


def make_chat(n: int = 10_000) -> list[list[str]]:
    """n messages of the grammar, the same ones for every seed."""
    rng = random.Random(0)
    templates = rng.choices(list(TEMPLATES), list(TEMPLATES.values()), k=n)
    return [[rng.choice(WORDS.get(token, token).split()) for token in template.split()] for template in templates]


def clean(text: str) -> list[str]:
    """The words of a message: lower case, letters and digits."""
    return re.sub("[^0-9a-z ]", "", re.sub(r"\s", " ", text).lower()).split()


def read_chat(path: Path) -> list[list[str]]:
    """The messages of a file, of two words or more."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
    except Exception as error:  # missing, or a damaged archive
        raise UsageError(f"--data {path}: {error}") from None
    return [message for message in map(clean, text.split("\n")) if len(message) >= 2]


def load_data(args: Args) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Training and test messages [n, 21] as word indices, END first, and the vocabulary; the last tenth is the test."""
    messages = read_chat(args.data) if args.data else make_chat()
    split = len(messages) * 9 // 10
    counts = Counter(word for message in messages[:split] for word in message[:MAX_WORDS])
    frequent = sorted((-count, word) for word, count in counts.items() if count >= 5)
    vocabulary = ["<eos>", "<unk>", *(word for _, word in frequent)][: args.max_vocabulary]
    if len(vocabulary) < 20 or split < args.batch_size:
        raise UsageError(f"--data: {split} messages and {len(vocabulary)} frequent words to train on are too few")
    index = {word: i for i, word in enumerate(vocabulary)}
    ids = [[END, *(index.get(word, UNK) for word in message[:MAX_WORDS])] for message in messages]
    rows = torch.tensor([row + [END] * (MAX_WORDS + 1 - len(row)) for row in ids])
    return rows[:split], rows[split:], vocabulary


def make_batches(rows: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """An epoch of batches [n, 21] in random order; each holds messages of about the same length."""
    order, lengths = torch.randperm(len(rows)).to(rows.device), (rows != END).sum(1)
    pools = [pool[lengths[pool].argsort()] for pool in order.split(50 * batch_size)]
    batches = [batch for pool in pools for batch in pool.split(batch_size)]
    return [rows[batches[i]] for i in torch.randperm(len(batches))]


# --- the model -------------------------------------------------------------------------------


class ChatRNN(nn.Module):
    """Word indices [n, t] -> hidden states [n, t, width], from which `output` predicts each next word."""

    def __init__(self, num_words: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(num_words, width), nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=dropout)
        cutoffs = [num_words // 50 + 2, num_words // 10 + 3, num_words // 3 + 4]  # frequent words first
        self.output = nn.AdaptiveLogSoftmaxWithLoss(width, num_words, cutoffs, div_value=1.0)

    def forward(self, x: torch.Tensor, state=None) -> tuple[torch.Tensor, tuple]:
        hidden, state = self.lstm(self.dropout(self.embedding(x)), state)
        return self.dropout(hidden), state

    def nll(self, rows: torch.Tensor) -> torch.Tensor:
        """-log p of the words and ends of messages [n, 21], in nats [m], without padding."""
        lengths = ((rows != END).sum(1) + 1).clamp(max=MAX_WORDS)  # after 20 words no end is predicted
        t = int(lengths.max())
        mask = torch.arange(t, device=rows.device) < lengths[:, None]
        hidden, _ = self(rows[:, :t])
        return -self.output(hidden[mask], rows[:, 1 : t + 1][mask]).output

    @torch.no_grad()
    def complete(self, words: list[int], temperature: float) -> list[int]:
        """The rest of a message that begins with these words: samples until its end, at most 20 words."""
        x, state, added = torch.tensor([[END, *words]], device=self.embedding.weight.device), None, []
        while len(words) + len(added) < MAX_WORDS:
            hidden, state = self(x, state)
            log_probs = self.output.log_prob(hidden[:, -1])[0]
            log_probs[UNK] = -math.inf
            word = (log_probs / max(temperature, 1e-6)).softmax(0).multinomial(1)  # at 0 the most likely one
            if word == END:
                break
            added.append(word.item())
            x = word.view(1, 1)
        return added


# --- training and talking --------------------------------------------------------------------


def train(args: Args) -> dict:
    """Train, or --talk; returns the last row of metrics.csv."""
    if args.talk:
        return talk(args)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    rows, test, vocabulary = load_data(args)
    rows, test = rows.to(device), test.to(device)
    model = ChatRNN(len(vocabulary), args.width, args.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.epochs * math.ceil(len(rows) / args.batch_size))
    words_per_batch = args.batch_size * ((rows != END).sum(1) + 1).clamp(max=MAX_WORDS).float().mean()
    run, start, words = Run(args, args.data.stem if args.data else "grammar"), time.perf_counter(), 0
    (run.dir / "vocabulary.json").write_text(json.dumps(vocabulary))

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        losses = []
        for batch in make_batches(rows, args.batch_size):
            nll = model.nll(batch)
            optimizer.zero_grad()
            (nll.sum() / words_per_batch).backward()  # with nll.mean(), words of short messages would count more
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            anneal.step()
            losses.append(nll.detach())
            words += len(nll)
        model.eval()
        with torch.no_grad():
            nll = torch.cat([model.nll(batch) for batch in test.split(500)]).mean().item()
        model.train()
        row = {
            "global_step": epoch * len(rows),
            "charts/epoch": epoch,
            "losses/nll": torch.cat(losses).mean().item(),
            "eval/nll": nll,
            "eval/perplexity": math.exp(min(nll, 50)),
            "charts/SPS": words / (time.perf_counter() - start),  # words and ends
        }
        run.log(row)
        torch.save({"model": model.state_dict()}, run.dir / "model.pt")

    save_curve(run, "eval/perplexity", "messages")
    run.close("curve.png")
    print(f"perplexity {row['eval/perplexity']:.2f} of {len(test):,} held-out messages: {run.dir}")
    return row


def talk(args: Args) -> dict:
    """Complete what is typed, line by line, until the input ends."""
    try:
        flags = json.loads((args.talk / "args.json").read_text())
        vocabulary = json.loads((args.talk / "vocabulary.json").read_text())
        model = ChatRNN(len(vocabulary), flags["width"])
        model.load_state_dict(torch.load(args.talk / "model.pt", map_location="cpu", weights_only=True)["model"])
    except Exception as error:  # missing, damaged, or another program's files
        raise UsageError(f"--talk {args.talk}: no run of chat_rnn.py ({type(error).__name__})") from None
    torch.manual_seed(args.seed)
    index = {word: i for i, word in enumerate(vocabulary)}
    if sys.stdin is None:
        raise UsageError("--talk: needs an open standard input to read messages from")
    sys.stdin.reconfigure(errors="replace")
    print("> ", end="", flush=True)
    for line in sys.stdin:
        typed = clean(line)
        added = model.complete([index.get(word, UNK) for word in typed], args.temperature)
        print(" ".join([*typed, *(vocabulary[i] for i in added)]), end="\n> ", flush=True)
    return {}


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
