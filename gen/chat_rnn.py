# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gradio>=5",
#     "matplotlib>=3.8",
#     "numpy>=1.26",
#     "scikit-learn>=1.4",
#     "torch>=2.4",
#     "tqdm>=4.66",
#     "tyro>=0.9",
#     "wandb>=0.18",
# ]
# ///
"""A chat model: read what a channel says, learn which word comes next, then type the beginning of a message.

    python gen/chat_rnn.py
    python gen/chat_rnn.py --collect chat.txt --channels CHANNEL
    python gen/chat_rnn.py --data chat.txt --epochs 10 --bf16 --run-dir runs/chat
    python gen/chat_rnn.py --talk runs/chat --temperature 0.7
    python gen/chat_rnn.py --demo runs/chat

Every message is a sequence of words of its own; a recurrent network (LSTM) reads them one by one and says after each
how likely every word of the vocabulary is to be the next, or the message to end. --collect reads Twitch's public chat
without an account, or any other IRC server, and appends one cleaned message a line; --data takes such a file, gzipped
or not. Without --data the chat is made up by a small grammar whose entropy is known, so that the loss has a floor.

The output layer costs most of the time: 200 numbers against every word of the vocabulary. Here it is split by
frequency. A first softmax chooses among the most frequent words and one sign for each class of rarer ones, a second
among the words of that class, which is computed only where the class was right: still an exact probability of every
word, with the same number of weights, in a fraction of the time. Padding costs nothing: messages of a batch are
about equally long, and neither the output layer nor the loss ever sees what lies behind their end.

Expect, from the default, a perplexity of 3.59 where the grammar itself has 3.57 on the same held-out messages, after
about a minute on one core; on 195,611 messages of the Ubuntu channel (benchmark.sh fetches them), with --epochs 7
--learning-rate 0.003 --bf16, 102.9 after 17 minutes on one busy core, where an interpolated Kneser-Ney trigram has
128.7 on the same split and vocabulary. A completion takes 13 to 27 milliseconds of one core.

A run leaves prompts.md (messages completed, greedily and by sampling), chat.png (perplexity over the position in the
message; shares of repeated messages completed, of endless loops, and the judge's accuracy) and curve.png.

Papers
    Kevin Frans 2016, "Simulating Twitch chat with a recurrent neural network" (the post), and its code: embedding 200,
    two LSTM layers of 200, dropout 0.5, Adam at 0.005, gradients clipped at 5, messages of at most 20 words, words that
    occur 5 times; the copypasta completed from its beginning and its middle, the endless loop, the Turing test.
    Zaremba, Sutskever & Vinyals 2014, "Recurrent neural network regularization" (arXiv 1409.2329): dropout between the
    layers only. Its network of this size without dropout: perplexity 115 on the test set of Penn Treebank.
    Grave et al. 2016, "Efficient softmax approximation for GPUs" (arXiv 1609.04309): the output layer in classes.
    Press & Wolf 2016, "Using the output embedding to improve language models" (arXiv 1608.05859): --tied-weights.

Differences from the post and its code
    1. Padding has no part in the loss; the original averaged over it. The end of a message is predicted like a word,
       except after the 20th: there the message may have been cut.
    2. Split by time, then shuffled: the last tenth is never trained on. The original had no test set.
    3. Messages of fewer than two words are dropped, as the post's code does; its text says two or less.
    4. The two layers have weights of their own; the original's shared one cell object.
    5. The step size falls linearly to zero; the original's stayed.
    6. Batches hold messages of about the same length, drawn from some thousands of shuffled ones.
    7. Sampling as well as taking the most likely word; the rare word is never printed unless --allow-rare asks for it.
"""

import csv
import gzip
import json
import math
import os
import pickle
import re
import socket
import ssl
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from torch import nn
from tqdm import tqdm


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


@dataclass
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: int = 1
    """seeds weights, order, dropout and sampling; the same seed gives the same curve"""
    torch_deterministic: bool = True
    """let PyTorch use deterministic algorithms only"""
    torch_threads: int = 0
    """threads on the CPU, 0 for one per core. They decide a curve's last bits"""
    cuda: bool = True
    """train on a GPU if there is one"""
    bf16: bool = False
    """train in bfloat16 where autocast finds it safe; evaluation stays in float32. For GPUs and for
    CPUs with such instructions (lscpu: avx512_bf16) only"""
    fast_matmul: bool = False
    """faster, coarser float32 products: TF32 on a GPU, bfloat16 on some CPUs, another library on others"""
    run_dir: Path | None = None
    """where results go: a folder without a run in it (default: a new one under runs/)"""
    track: bool = False
    """also log to Weights & Biases"""
    wandb_project_name: str = "classics"
    """the Weights & Biases project"""
    wandb_entity: str | None = None
    """the Weights & Biases team"""
    resume: Path | None = None
    """go on with the run in this folder, under its own arguments: no other flag may stand beside"""
    evaluate: Path | None = None
    """perplexity of the held-out messages under the model in this folder: no other flag may stand beside"""

    data: Path | None = None
    """text with one message a line, gzipped or not (default: a chat made up by the built-in grammar)"""
    num_messages: int = 30_000
    """messages that the grammar makes up"""
    min_count: int = 5
    """words that occur less often become the rare word"""
    max_vocabulary: int = 0
    """at most so many words, the most frequent ones, 0 for no limit; the end and the rare word count"""
    test_share: float = 0.1
    """share of the messages, the last ones, to test on"""

    epochs: float = 4.0
    """passes over the messages; half a one is fine"""
    batch_size: int = 64
    """messages per update, over all processes"""
    learning_rate: float = 0.005
    """Adam's step size at the start; it falls linearly to zero"""
    clip: float = 5.0
    """largest norm of the gradient"""
    width: int = 200
    """numbers in a word's vector, and units in each LSTM layer"""
    num_layers: int = 2
    """LSTM layers"""
    dropout: float = 0.2
    """share of numbers dropped before, between and after the layers (the post: 0.5)"""
    tied_weights: bool = False
    """one vector for each word, to read it and to predict it"""
    cutoffs: tuple[int, ...] = (400, 2000, 6000)
    """ranks at which the output layer is split into classes by frequency; none for a plain softmax"""
    log_every: int = 0
    """updates between rows of metrics.csv, 0 for one row an epoch"""
    checkpoint_every: int = 1
    """rows between checkpoints"""
    judged: int = 2000
    """at most so many real and generated messages are shown to the judge"""

    talk: Path | None = None
    """complete messages typed on the terminal with the model in this folder"""
    demo: Path | None = None
    """the same on a page in the browser, served to this machine only"""
    demo_port: int = 7860
    """where --demo serves it"""
    temperature: float = 1.0
    """for --talk and --demo: below 1 the likely words become likelier still; 0 always takes the likeliest"""
    allow_rare: bool = False
    """for --talk and --demo: print the rare word, too"""

    collect: Path | None = None
    """append what chat channels say to this file, until Ctrl-C"""
    channels: tuple[str, ...] = ()
    """the channels to read, with or without their #"""
    server: str = "irc.chat.twitch.tv"
    """the IRC server"""
    port: int = 0
    """its port, 0 for the usual one: 6697 with TLS, 6667 without"""
    tls: bool = True
    """encrypt the connection, and check who the server is"""
    ca_file: Path | None = None
    """a certificate to trust instead of the system's, for a server of one's own"""
    nick: str = ""
    """the name to read under (default: justinfan and a number, which Twitch lets in without an account)"""
    max_collected: int = 0
    """stop after so many messages, 0 for never"""

    def __post_init__(self):
        self.cutoffs, self.channels = tuple(self.cutoffs), tuple(self.channels)  # args.json holds lists
        self.data = self.data and Path(self.data)
        self.ca_file = self.ca_file and Path(self.ca_file)
        for name in ["batch_size", "width", "num_layers", "checkpoint_every", "min_count", "num_messages"]:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ["seed", "torch_threads", "log_every", "max_vocabulary", "temperature", "max_collected"]:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ["epochs", "learning_rate", "clip"]:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} must be positive")
        if not 0 <= self.dropout < 1:
            raise UsageError("--dropout must be at least 0 and less than 1")
        if not 0 < self.test_share < 1:
            raise UsageError("--test-share must be between 0 and 1")
        if self.judged < 20:
            raise UsageError("--judged must be at least 20")
        if list(self.cutoffs) != sorted({cutoff for cutoff in self.cutoffs if cutoff > 2}):
            raise UsageError("--cutoffs must be growing numbers above 2")
        for name in ["port", "demo_port"]:
            if not 0 <= getattr(self, name) < 65536:
                raise UsageError(f"--{name.replace('_', '-')} must be between 0 and 65535")
        if self.collect and not self.channels:
            raise UsageError("--collect needs --channels, such as --channels somechannel anotherone")


# --- collecting ------------------------------------------------------------------------------


def clean(text: str) -> str | None:
    """A message as the post keeps it: lower case, letters, digits and single spaces. None for fewer than two words."""
    words = re.sub(r"[^0-9a-z ]", "", re.sub(r"\s", " ", text).lower()).split()
    return " ".join(words) if len(words) >= 2 else None


def read_lines(connection: socket.socket) -> Iterator[str]:
    """The lines that a server sends, whole ones only, however they arrive; one that breaks off is left out.

    After four minutes of silence the server is asked whether it is still there. Ends when the connection does.
    """
    waiting, rest = False, b""
    connection.settimeout(240)
    while True:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            if waiting:
                raise ConnectionError("no answer to PING") from None
            connection.sendall(b"PING :still there\r\n")
            waiting = True
            continue
        if not data:
            return
        waiting = False
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > 2**16:
            raise ConnectionError("what it sends is not IRC")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")


def parse_line(line: str) -> tuple[str, list[str]]:
    """A line of IRC, "@tags :sender COMMAND middle :last one", as its command and its parameters."""
    match = re.fullmatch(r"(?:@\S* +)?(?::\S* +)?(\S+)(.*)", line)
    if not match:
        return "", []
    middle, colon, last = match[2].partition(" :")
    return match[1].upper(), middle.split() + ([last] if colon else [])


def read_messages(args: Args, joined: Callable[[], None]) -> Iterator[str]:
    """Log in, join the channels, and hand over what is said there. Raises OSError when the connection ends."""
    address = args.server, args.port or (6697 if args.tls else 6667)
    with socket.create_connection(address, timeout=30) as plain:
        context = ssl.create_default_context(cafile=args.ca_file) if args.tls else None
        with context.wrap_socket(plain, server_hostname=args.server) if context else plain as connection:
            nick = args.nick or f"justinfan{np.random.default_rng().integers(10_000, 100_000)}"
            connection.sendall(f"NICK {nick}\r\nUSER {nick} 0 * :{nick}\r\n".encode())
            for line in read_lines(connection):
                command, parameters = parse_line(line)
                match command:
                    case "PING":
                        connection.sendall(f"PONG :{parameters[-1] if parameters else ''}\r\n".encode())
                    case "001":  # welcome
                        channels = ",".join(f"#{channel.lower().lstrip('#')}" for channel in args.channels)
                        connection.sendall(f"JOIN {channels}\r\n".encode())
                    case "366":  # end of the names of who is in the channel
                        joined()
                    case "PRIVMSG" if parameters and parameters[0].startswith("#"):
                        yield parameters[-1].removeprefix("\x01ACTION ")
                    case "ERROR" | "RECONNECT":
                        raise ConnectionError(" ".join([command, *parameters]))
                    case _ if re.fullmatch(r"[45]\d\d", command) and command not in ("421", "422"):
                        raise ConnectionError(" ".join([command, *parameters[1:]]))  # no such channel, bad name, ...
    raise ConnectionError("the server closed it")


def collect(args: Args) -> int:
    """Append messages to args.collect, a line each and at once, until there are --max-collected. Returns how many."""
    ever_joined, waits, count = False, 0, 0

    def joined():
        nonlocal ever_joined, waits
        if not ever_joined:
            print(f"reading {' '.join(args.channels)} at {args.server} into {args.collect}: Ctrl-C ends it", flush=True)
        ever_joined, waits = True, 0

    def append(data: bytes):
        try:
            with args.collect.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise UsageError(f"--collect {args.collect}: {error.strerror}, after {count} messages") from None

    if args.ca_file and not args.ca_file.is_file():
        raise UsageError(f"--ca-file {args.ca_file}: there is no such file")
    cut = args.collect.is_file() and args.collect.read_bytes()[-1:] not in (b"", b"\n")
    append(b"\n" if cut else b"")  # whoever wrote it before was interrupted
    try:
        while True:
            try:
                for message in read_messages(args, joined):
                    if text := clean(message):
                        append(f"{text}\n".encode())
                        count += 1
                        if count == args.max_collected:
                            return count
            except OSError as error:
                if not ever_joined:
                    raise UsageError(f"--server {args.server}: {error}; --port, --tls, --channels right?") from None
                seconds = min(2**waits, 60)
                waits += 1
                print(f"connection lost ({error}): again in {seconds} s, {count} messages kept", file=sys.stderr)
                time.sleep(seconds)
    finally:
        if count:
            print(f"{count} messages appended to {args.collect}")


# --- a chat of known entropy -----------------------------------------------------------------

NAMES = "moonbyte grimfox saltlord pixelpanda turbosnail nightowl mrwaffle zeldafan cobra9 lagmaster"
GREETINGS = "hello hi hey yo sup hiya"
EMOTES = "kappa pogchamp kreygasm biblethump residentsleeper lul"
NOUNS = "deck game build stream boss team camera song sword plan"
COPYPASTA = [
    "im a simple player and i only ask for one thing give me back my old sword before the patch",
    "dear streamer my grandmother watches every night with me and she says your camera is still on the boss",
    "breaking news local viewer has been asking for the same song since monday and the chat is not amused",
    "imagine losing a won game because your little brother wanted to look at the map for one second",
    "ladies and gentlemen we have reached the part of the stream where nobody knows what the plan was",
    "congratulations you are the thousandth viewer tonight please type your favourite emote and collect a free deck",
    "once upon a time there was a team that never blamed the healer and it lived happily ever after",
    "if you can read this message you are sitting too close to the chat and should drink some water",
]
END_OF_MESSAGE, RARE_WORD = "", "#"  # what a grammar writes for the end, and for a word that nobody else ever uses
GRAMMAR = {  # state: what may come next, as (weight, words, next state); the n-th word has a weight of 1 / n
    "start": [
        (4, NAMES, "addressed"),
        (3, GREETINGS, "greeted"),
        (3, EMOTES, "again *"),  # * stands for the word: the next state remembers it
        (4, "the my this that your", "noun"),
        (2, "can will should does", "asked"),
        (2, "lol wow omg haha", "judged"),
        (1, "watch see", "watched"),
        (1, " ".join(text.split()[0] for text in COPYPASTA), "paste *"),
    ],
    "again *": [(1, "*", "spam *")],
    "spam *": [(0.85, "*", "spam *"), (0.15, END_OF_MESSAGE, None)],
    "greeted": [(3, NAMES, "last"), (2, "chat everyone guys", "last")],
    "addressed": [
        (3, "is was looks", "judged"),
        (2, "pls please just", "wish"),
        (1, "can will should", "asked someone"),
    ],
    "noun": [(1, NOUNS, "does")],
    "does": [(3, "is was looks", "judged"), (2, "beats needs wins", "object"), (1, END_OF_MESSAGE, None)],
    "object": [(2, "the my your", "last noun"), (1, NAMES, "last")],
    "last noun": [(1, NOUNS, "last")],
    "judged": [(3, "so really too", "judged more"), (4, "good bad broken cute slow", "last")],
    "judged more": [(1, "good bad broken cute slow", "last")],
    "asked": [(3, "we you", "wish"), (2, NAMES, "wish")],
    "asked someone": [(1, "you we", "wish")],
    "wish": [(2, "play try show", "object"), (1, "stop start", "object"), (1, "talk laugh", "last")],
    "watched": [(1, "this that", "clip")],
    "clip": [(1, "clip video", "link")],
    "link": [(1, RARE_WORD, "last")],
    "last": [(5, END_OF_MESSAGE, None), (2, EMOTES, "spam *"), (1, "now today again", "end")],
    "end": [(1, END_OF_MESSAGE, None)],
}
for first, *others in map(str.split, COPYPASTA):  # a chain of states for each, from its second word on
    state = f"paste {first}"
    for number, word in enumerate(others):
        GRAMMAR[state], state = [(1, word, f"paste {first} {number}")], f"paste {first} {number}"
    GRAMMAR[state] = [(1, END_OF_MESSAGE, None)]
MAX_WORDS = 20  # of a message; what follows is cut


def choices(grammar: dict, state: str) -> dict[str, tuple[float, str | None]]:
    """What may come next in this state: {word: (probability, next state)}. No word can come in two ways."""
    found, memory = {}, ""
    if state not in grammar:  # one that remembers a word
        kind, memory = state.rsplit(" ", 1)
        state = f"{kind} *"
    total = sum(weight for weight, _, _ in grammar[state])
    for weight, words, following in grammar[state]:
        options = words.replace("*", memory).split() or [END_OF_MESSAGE]
        shares = 1 / np.arange(1, len(options) + 1)
        for word, share in zip(options, shares / shares.sum(), strict=True):
            assert word not in found, f"{word} can come in two ways in {state}"
            found[word] = weight / total * share, following and following.replace("*", memory or word)
    return found


def grammar_entropy(grammar: dict) -> tuple[np.ndarray, np.ndarray]:
    """Nats that the word at each position costs, and the share of messages that have one there: [20] and [20]."""
    nats, shares, states = np.zeros(MAX_WORDS), np.zeros(MAX_WORDS), {"start": 1.0}
    for position in range(MAX_WORDS):
        following = Counter()
        for state, share in states.items():
            for probability, next_state in choices(grammar, state).values():
                nats[position] -= share * probability * math.log(probability)
                if next_state:
                    following[next_state] += share * probability
        shares[position] = sum(states.values())
        states = following
    return nats / np.maximum(shares, 1e-300), shares


def make_chat(grammar: dict, num_messages: int) -> tuple[list[list[str]], np.ndarray]:
    """Messages of the grammar, always the same ones, and what each costs in nats under the grammar itself [n]."""
    rng, known = np.random.default_rng(0), {}
    messages, costs = [], np.zeros(num_messages)
    for i in range(num_messages):
        message, state = [], "start"
        while state and len(message) < MAX_WORDS:
            if state not in known:
                table = choices(grammar, state)
                known[state] = list(table.items()), np.cumsum([probability for probability, _ in table.values()])
            options, cumulated = known[state]
            word, (probability, state) = options[min(np.searchsorted(cumulated, rng.random()), len(options) - 1)]
            costs[i] -= math.log(probability)
            if word == RARE_WORD:
                word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 11))
            if word:
                message.append(word)
        messages.append(message)
    return messages, costs


# --- words and numbers -----------------------------------------------------------------------

END, RARE = 0, 1  # the numbers of "no word", which stands before the first and after the last, and of the rare word
RARE_SIGN = "<rare word>"


@dataclass
class Chat:
    """Messages as numbers: a row is END, the words, and END wherever there is none. Rows of one split, in time."""

    rows: np.ndarray
    """int32 [n, 21]"""
    targets: np.ndarray
    """how many numbers of each row are to be predicted [n]: its words and its end, at most 20"""
    nats_of_spelling: float = 0.0
    """what spelling all its rare words costs, letter by letter"""
    characters: int = 0
    """letters of all its words, and a space or an end of line after each"""
    floor: float | None = None
    """nats per target under the grammar that made the messages"""


def read_chat(path: Path) -> list[list[str]]:
    """The words of every message of a file, cleaned; those of fewer than two words are left out."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"--data {path}: cannot be read ({error})") from None
    if b"\0" in data[: 2**16]:
        raise UsageError(f"--data {path}: is no text; one message a line is wanted, gzipped or not")
    lines = map(clean, data.decode("utf-8", "replace").split("\n"))
    messages = [line.split() for line in lines if line]
    if len(messages) < 20:
        raise UsageError(f"--data {path}: needs at least 20 messages of two words or more, has {len(messages)}")
    return messages


def number_words(messages: list[list[str]], args: Args) -> list[str]:
    """The vocabulary, most frequent words first, after the signs for the end and for the rare word."""
    counts = Counter(word for message in messages for word in message[:MAX_WORDS])
    known = sorted((-count, word) for word, count in counts.items() if count >= args.min_count)
    words = ["", RARE_SIGN, *(word for _, word in known)][: args.max_vocabulary or None]
    if len(words) < 3:
        raise UsageError(f"--min-count {args.min_count}: no word occurs so often; the vocabulary would be empty")
    return words


def spelling_model(words: list[str]) -> Callable[[str], float]:
    """Nats that spelling a word costs, each letter given the one before, learned from these words (Laplace)."""
    counts = np.ones((128, 128))[:, : 26 + 10 + 1]  # the letters, the digits, the end
    column = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789 ")}
    for word in words:
        for before, letter in zip(f" {word}", f"{word} ", strict=True):
            counts[ord(before), column[letter]] += 1
    nats = -np.log(counts / counts.sum(1, keepdims=True))
    return lambda word: sum(nats[ord(a), column[b]] for a, b in zip(f" {word}", f"{word} ", strict=True))


def to_rows(messages: list[list[str]], numbers: dict[str, int]) -> Chat:
    rows = np.full((len(messages), MAX_WORDS + 1), END, np.int32)
    for row, message in zip(rows, messages, strict=True):
        cut = message[:MAX_WORDS]
        row[1 : len(cut) + 1] = [numbers.get(word, RARE) for word in cut]
    return Chat(rows, np.minimum([len(message) + 1 for message in messages], MAX_WORDS))


def load_chat(args: Args) -> tuple[Chat, Chat, list[str]]:
    """Messages to train on, later ones to test on, and the vocabulary, which is counted on the former."""
    messages, costs = (read_chat(args.data), None) if args.data else make_chat(GRAMMAR, args.num_messages)
    split = len(messages) - math.ceil(len(messages) * args.test_share)
    if split < args.batch_size:
        raise UsageError(f"--batch-size: at most {split}, as many as there are messages to train on")
    words = number_words(messages[:split], args)
    numbers = {word: i for i, word in enumerate(words)}
    train, test = to_rows(messages[:split], numbers), to_rows(messages[split:], numbers)
    before, after = (
        [word for message in part for word in message[:MAX_WORDS]] for part in (messages[:split], messages[split:])
    )
    spell = spelling_model([word for word in before if word not in numbers])
    test.nats_of_spelling = sum(spell(word) for word in after if word not in numbers)
    test.characters = sum(len(word) + 1 for word in after)
    if costs is not None:
        test.floor = costs[split:].sum() / test.targets.sum()
    return train, test, words


@dataclass
class Batch:
    """Messages about equally long, and where in them there is something to predict, sorted by the target's class."""

    inputs: torch.Tensor
    """[t, n]"""
    where: torch.Tensor
    """places in the flattened [t, n] that have a target [m]"""
    targets: torch.Tensor
    """[m]"""
    counts: list[int]
    """targets of each class; known beforehand, so that nothing on a GPU has to be waited for"""


def make_batch(chat: Chat, chosen: np.ndarray, bounds: list[int], device: torch.device, share=slice(None)) -> Batch:
    """The chosen messages, or this process's share of them; t is the same for every share."""
    longest = chat.targets[chosen].max()
    rows, targets = chat.rows[chosen[share]], chat.targets[chosen[share]]
    where = np.flatnonzero(np.arange(longest)[:, None] < targets)
    wanted = rows[:, 1 : longest + 1].T.reshape(-1)[where]
    classes = np.searchsorted(bounds[1:-1], wanted, side="right")
    order = np.argsort(classes, kind="stable")
    arrays = rows[:, :longest].T, where[order], wanted[order]
    tensors = (
        torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device, non_blocking=True) for array in arrays
    )
    return Batch(*tensors, np.bincount(classes, minlength=len(bounds) - 1).tolist())


# --- the model -------------------------------------------------------------------------------


class ChatRNN(nn.Module):
    """A word's vector, some LSTM layers, and a softmax over the words in classes of frequency."""

    def __init__(self, num_words: int, args: Args):
        super().__init__()
        self.bounds = [0, *(cutoff for cutoff in args.cutoffs if cutoff < num_words), num_words]  # of the classes
        self.embedding = nn.Embedding(num_words, args.width)
        self.layers = nn.ModuleList(nn.LSTM(args.width, args.width) for _ in range(args.num_layers))
        self.output = nn.Linear(args.width, num_words)
        self.classes = nn.Linear(args.width, len(self.bounds) - 2) if len(self.bounds) > 2 else None
        for weight in (self.embedding.weight, self.output.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)
        if args.tied_weights:
            self.output.weight = self.embedding.weight

    def forward(self, inputs: torch.Tensor, masks=None, state=None) -> tuple[torch.Tensor, list]:
        """Words [t, n] -> what the top layer says after each [t, n, width], and the layers' states.

        Dropout, masks [layers + 1, t, n, width], is on the way up only, never on the way to the next word.
        """
        x, states = self.embedding(inputs), []
        for i, layer in enumerate(self.layers):
            x, last = layer(x if masks is None else x * masks[i], state and state[i])
            states.append(last)
        return x if masks is None else x * masks[-1], states

    def log_probs(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, width] -> log p(word) of all words [n, words]."""
        first, *classes = self.split_output()
        head = self.head(x, first).log_softmax(1)
        parts = [head[:, : self.bounds[1]]]
        for i, (weight, bias) in enumerate(classes):
            parts.append(head[:, self.bounds[1] + i, None] + F.linear(x, weight, bias).log_softmax(1))
        return torch.cat(parts, 1)

    def head(self, x: torch.Tensor, first: tuple) -> torch.Tensor:
        """Logits of the most frequent words, then of the classes of the others."""
        logits = F.linear(x, *first)
        return logits if self.classes is None else torch.cat([logits, self.classes(x)], 1)

    def split_output(self) -> list[tuple]:
        """Weights and biases of each class's words."""
        sizes = np.diff(self.bounds).tolist()
        return list(zip(self.output.weight.split(sizes), self.output.bias.split(sizes), strict=True))

    def nll(self, x: torch.Tensor, targets: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """-log p(target) [m] after x [m, width], the targets sorted by class: log_probs where they are asked for."""
        first, *classes = self.split_output()
        tails, signs = [], []
        for i, (weight, bias) in enumerate(classes):
            begin = sum(counts[: i + 1])
            part = slice(begin, begin + counts[i + 1])
            signs.append(torch.full_like(targets[part], self.bounds[1] + i))
            logits = F.linear(x[part], weight, bias).float()
            tails.append(F.cross_entropy(logits, targets[part] - self.bounds[i + 1], reduction="none"))
        wanted = torch.cat([targets[: counts[0]], *signs])
        nll = F.cross_entropy(self.head(x, first).float(), wanted, reduction="none")
        return torch.cat([nll[: counts[0]], nll[counts[0] :] + torch.cat(tails)]) if tails else nll


def losses(model: ChatRNN, batch: Batch, masks=None) -> torch.Tensor:
    """Nats that each target of a batch costs [m], in the order of batch.where."""
    x, _ = model(batch.inputs, masks)
    return model.nll(x.flatten(0, 1).index_select(0, batch.where), batch.targets, batch.counts)


def draw_masks(args: Args, shape: tuple[int, int], rng: torch.Generator) -> torch.Tensor | None:
    """Dropout for words [t, n]: 0, or what keeps the mean, for each layer's numbers [layers + 1, t, n, width]."""
    if args.dropout == 0:
        return None
    kept = torch.rand(args.num_layers + 1, *shape, args.width, generator=rng, device=rng.device) >= args.dropout
    return kept.float().div_(1 - args.dropout)


@torch.no_grad()
def complete(model, prompts: np.ndarray, temperature: float, rng, max_words=MAX_WORDS, allow_rare=False) -> np.ndarray:
    """Go on after prompts of equal length [n, k], k >= 0, until they have max_words or have ended: [n, max_words - k].

    What comes after the end is END. temperature 0 takes the likeliest word, else rng, a torch.Generator, draws.
    """
    inputs = torch.from_numpy(np.concatenate([np.zeros_like(prompts[:, :1], shape=(len(prompts), 1)), prompts], 1))
    word, state, found = inputs.long().T.to(rng.device), None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=rng.device)
    for _ in range(max_words - prompts.shape[1]):
        x, state = model(word, state=state)
        logits = model.log_probs(x[-1])
        if not allow_rare:
            logits[:, RARE] = -math.inf
        if not found:
            logits[:, END] = -math.inf  # who asks wants a word at least
        if temperature == 0:
            choice = logits.argmax(1)
        else:
            choice = torch.multinomial((logits / temperature).softmax(1), 1, generator=rng).squeeze(1)
        word = choice.masked_fill(ended, END).unsqueeze(0)
        found.append(word)
        ended |= word[0] == END
        if ended.all():
            break
    result = np.zeros((len(prompts), max(0, max_words - prompts.shape[1])), np.int64)
    if found:
        result[:, : len(found)] = torch.cat(found).T.numpy(force=True)
    return result


# --- one run: the same in every file of this folder ------------------------------------------


class Run:
    """The folder of one run: args.json, metrics.csv, checkpoint.pt, pictures. With --track also Weights & Biases."""

    def __init__(self, args, task: str, rows: int | None = None):
        """A new run; with `rows`, the one in args.run_dir goes on after so many rows of its metrics."""
        name = f"{task}__{args.exp_name}__{args.seed}__{int(time.time())}"
        self.dir = args.run_dir or Path("runs", name)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rows, self.csv, self.wandb = rows or 0, None, None
        metrics = self.dir / "metrics.csv"
        if rows is None:
            try:  # "x" creates the file or fails: no run is overwritten, and no two runs share a folder
                self.file = metrics.open("x", newline="", buffering=1)
            except FileExistsError:
                raise UsageError(f"--run-dir {self.dir}: there is a run in it already; name another folder") from None
            saved = {"run_name": name} | asdict(args)
            (self.dir / "args.json").write_text(json.dumps(saved, indent=2, default=str))
        else:
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(lines[: rows + 1 if rows else 0]))
            self.file = metrics.open("a", newline="", buffering=1)
        self.name = json.loads((self.dir / "args.json").read_text())["run_name"]
        if args.track:
            import wandb

            self.wandb, again = wandb, {"id": self.name[-128:], "resume": "allow"}
            config = json.loads((self.dir / "args.json").read_text())
            project, entity = args.wandb_project_name, args.wandb_entity
            wandb.init(project=project, entity=entity, name=self.name, config=config, dir=self.dir, **again)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def log(self, row: dict):
        """Append one row: global_step and metrics, None for what was not measured now. The first row names them all."""
        if self.csv is None:
            self.csv = csv.DictWriter(self.file, row)
            if self.rows == 0:
                self.csv.writeheader()
        self.csv.writerow(row)
        self.rows += 1
        if self.wandb:
            self.wandb.log({key: value for key, value in row.items() if value is not None})

    def save(self, checkpoint: dict):
        """Write checkpoint.pt under another name, then rename it: a kill leaves the old one or the new one."""
        torch.save(checkpoint | {"rows": self.rows}, self.dir / "checkpoint.tmp")
        (self.dir / "checkpoint.tmp").replace(self.dir / "checkpoint.pt")

    def plot(self, metric: str):
        """Draw one column of metrics.csv over global_step into curve.png."""
        from matplotlib.figure import Figure

        with (self.dir / "metrics.csv").open(newline="") as file:
            points = [(int(row["global_step"]), float(row[metric])) for row in csv.DictReader(file) if row[metric]]
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()
        axes.plot([step for step, _ in points], [value for _, value in points])
        axes.set(xlabel="pictures or messages seen", ylabel=metric, title=self.name)
        axes.figure.savefig(self.dir / "curve.png", dpi=120)
        self.picture(self.dir / "curve.png")

    def picture(self, path: Path):
        """Hand a picture or an animation of the folder to Weights & Biases as well."""
        if self.wandb:
            kind = self.wandb.Video if path.suffix == ".gif" else self.wandb.Image
            self.wandb.log({path.stem: kind(str(path))})


def load_run(folder: Path, flag: str, args_type) -> tuple:
    """What a run left in its folder: its arguments and its checkpoint. Raises UsageError that names the flag."""
    try:
        saved = json.loads((folder / "args.json").read_text())
        checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
        (folder / "metrics.csv").stat()
        del saved["run_name"]
        return replace(args_type(**saved), run_dir=folder, resume=None), checkpoint
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{flag} {folder}: no run to load there ({error.strerror}: {error.filename})") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{flag} {folder}: damaged, or the run of another script ({error})") from None


@contextmanager
def torch_settings(args):
    """The threads and the determinism that args ask for; what was set before comes back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if args.cuda and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's products refuse
    torch.set_num_threads(args.torch_threads)
    torch.use_deterministic_algorithms(args.torch_deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


# --- devices and processes: the same in every file of this folder ----------------------------


def process_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(x: torch.Tensor) -> torch.Tensor:
    if num_processes() > 1:
        dist.all_reduce(x)
    return x


def sum_gradients(module: nn.Module):
    """Add up the gradients of all processes, in one exchange."""
    if num_processes() > 1:
        grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        summed = sum_over_processes(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


@contextmanager
def device_settings(args):
    """The device to train on, its float32 product, and torchrun's group of processes if there is one."""
    before = torch.get_float32_matmul_precision(), torch.utils.deterministic.fill_uninitialized_memory
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if args.cuda and torch.cuda.is_available() else torch.device("cpu")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.set_float32_matmul_precision("medium" if args.fast_matmul else before[0])
    torch.utils.deterministic.fill_uninitialized_memory = False  # else every new tensor is filled first: a tenth slower
    try:
        yield device
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
        if dist.is_initialized():
            dist.destroy_process_group()


# --- training --------------------------------------------------------------------------------

WEIGHTS, ORDER, BATCHES, DROPOUT, SAMPLING = range(5)
WINDOW = 50  # batches whose messages are sorted by length together


def stream(seed: int, *key: int) -> int:
    """The seed of an independent generator for every key: one of the uses above, then what tells its turns apart."""
    return int(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)).integers(2**63))


def generator(device: torch.device, seed: int, *key: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream(seed, *key))


class Order:
    """Shuffled epochs, end to end; within windows of some batches, messages of about equal length share a batch."""

    def __init__(self, targets: np.ndarray, batch_size: int, seed: int):
        self.targets, self.batch_size, self.seed, self.window = targets, batch_size, seed, None

    def batch(self, step: int) -> np.ndarray:
        """Which messages the update takes [batch]."""
        window, place = divmod(step, WINDOW)
        if window != self.window:
            size, n = WINDOW * self.batch_size, len(self.targets)
            first, start = divmod(window * size, n)
            epochs = range(first, first + (start + size - 1) // n + 1)
            rngs = [np.random.default_rng(stream(self.seed, ORDER, epoch)) for epoch in epochs]
            chosen = np.concatenate([rng.permutation(n) for rng in rngs])[start : start + size]
            by_length = chosen[np.argsort(self.targets[chosen], kind="stable")].reshape(WINDOW, -1)
            rng = np.random.default_rng(stream(self.seed, BATCHES, window))
            self.window, self.batches = window, by_length[rng.permutation(WINDOW)]
        return self.batches[place]


def make_model(args: Args, num_words: int, device: torch.device) -> ChatRNN:
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from the global generator
        torch.manual_seed(stream(args.seed, WEIGHTS))
        return ChatRNN(num_words, args).to(device)


def check_bf16(args: Args, device: torch.device):
    """Raises UsageError for --bf16 on a processor without such instructions, for which PyTorch has no LSTM."""
    if args.bf16:
        try:
            with torch.random.fork_rng(devices=[]), torch.autocast(device.type, torch.bfloat16):
                nn.LSTM(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))
        except RuntimeError as error:
            raise UsageError(f"--bf16: leave it out, this processor cannot ({str(error).partition('.')[0]})") from None


def update(model, optimizer, batch: Batch, masks, targets_per_batch: float, args: Args) -> torch.Tensor:
    """One update from this process's share of a batch. Returns the sum of its nats.

    Divided by what a batch has on the average, not by what this one has: else a word of a short message would count
    more than one of a long message.
    """
    with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=args.bf16):
        nats = losses(model, batch, masks).sum()
    optimizer.zero_grad()
    (nats / targets_per_batch).backward()
    sum_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), args.clip)
    optimizer.step()
    return nats.detach()


@torch.no_grad()
def score(model: ChatRNN, chat: Chat, device: torch.device) -> np.ndarray:
    """Nats per target at each position, over all messages [20]; nan where no message is so long."""
    nats, counts = np.zeros(MAX_WORDS), np.zeros(MAX_WORDS)
    for chosen in np.array_split(np.argsort(chat.targets, kind="stable"), math.ceil(len(chat.rows) / 500)):
        batch = make_batch(chat, chosen, model.bounds, device)
        positions = batch.where.numpy(force=True) // len(chosen)
        nats += np.bincount(positions, losses(model, batch).numpy(force=True), minlength=MAX_WORDS)
        counts += np.bincount(positions, minlength=MAX_WORDS)
    return np.divide(nats, counts, out=np.full(MAX_WORDS, math.nan), where=counts > 0)


def mean_over_targets(nats: np.ndarray, chat: Chat) -> float:
    """Of nats per position [20]: per target."""
    counts = (np.arange(MAX_WORDS)[:, None] < chat.targets).sum(1)
    return float((np.nan_to_num(nats) * counts).sum() / counts.sum())


def bits_per_character(loss: float, chat: Chat) -> float:
    """What a letter costs when rare words are spelled out, so that vocabularies can be compared."""
    return (loss * int(chat.targets.sum()) + chat.nats_of_spelling) / chat.characters / math.log(2)


# --- what it learned -------------------------------------------------------------------------


def find_copypasta(chat: Chat) -> np.ndarray:
    """The messages repeated most, at most 50 [n, 21]: 8 different words or more, 5 times or more, no rare word."""
    long = chat.rows[(chat.targets > 8) & (chat.rows != RARE).all(1)]
    rows, counts = np.unique(long, axis=0, return_counts=True)
    different = (np.diff(np.sort(rows, axis=1), axis=1) > 0).sum(1)
    rows, counts = rows[(counts >= 5) & (different >= 8)], counts[(counts >= 5) & (different >= 8)]
    return rows[np.argsort(-counts, kind="stable")[:50]]


def share_completed(model, pastes: np.ndarray, from_middle: bool, rng: torch.Generator) -> float | None:
    """How many of [n, 21] are completed word for word from four words: their first ones, or those in the middle."""
    if len(pastes) == 0:
        return None
    lengths = (pastes[:, 1:] != END).sum(1)
    begins = (lengths // 2 - 2 if from_middle else np.zeros_like(lengths))[:, None]
    padded = np.pad(pastes[:, 1:], [(0, 0), (0, MAX_WORDS)])
    prompts = np.take_along_axis(padded, begins + np.arange(4), 1)
    wanted = np.take_along_axis(padded, begins + np.arange(4, MAX_WORDS), 1)
    found = complete(model, prompts, 0, rng)
    return float((found == wanted).all(1).mean())


def is_loop(words: np.ndarray) -> bool:
    """Whether a message that never ended repeats itself: its last 30 words, after a period of 10 words at most."""
    last = words[-30:]
    return bool((words != END).all()) and any((last[p:] == last[:-p]).all() for p in range(1, 11))


def judge(real: list[list[int]], fake: list[list[int]]) -> float:
    """The Turing test with a classifier as the judge: its accuracy on messages it was not trained on. 0.5 is chance.

    It knows which words, pairs and triples of words a message has, and learns from half of the messages.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [" ".join(map(str, message)) for pair in zip(real, fake, strict=True) for message in pair]
    labels, half = np.arange(len(texts)) % 2, len(texts) // 4 * 2
    features = CountVectorizer(ngram_range=(1, 3), token_pattern=r"\S+", binary=True)
    known = features.fit_transform(["begin " + text + " end" for text in texts[:half]])
    classifier = LogisticRegression(max_iter=1000).fit(known, labels[:half])
    return float(
        classifier.score(features.transform(["begin " + text + " end" for text in texts[half:]]), labels[half:])
    )


def to_messages(rows: np.ndarray) -> list[list[int]]:
    """Rows of numbers, END from the end on, as lists of words."""
    return [row[: np.argmax(np.append(row, END) == END)].tolist() for row in rows]


TESTS = [
    f"eval/{name}"
    for name in [
        "copypasta_from_beginning",
        "copypasta_from_middle",
        "loops_greedy",
        "loops_sampled",
        "judge_generated",
        "judge_shuffled",
    ]
]
TESTS.append("time/completion")


def take_tests(model: ChatRNN, train: Chat, test: Chat, args: Args, device: torch.device) -> dict:
    """The last row's columns: copypasta, endless loops, the judge, and how long a completion takes."""
    rng = generator(device, args.seed, SAMPLING)
    pastes = find_copypasta(train)
    openings = test.rows[:300, 1:2]
    loops = {name: [is_loop(words) for words in complete(model, openings, temperature, rng, max_words=60)]
             for name, temperature in (("greedy", 0), ("sampled", 1))}  # fmt: skip
    real = to_messages(test.rows[:, 1:])
    half = min(args.judged, len(real) // 2)
    fake = to_messages(complete(model, np.zeros((half, 0), np.int64), 1, rng, allow_rare=True))
    shuffler = np.random.default_rng(stream(args.seed, SAMPLING, 1))
    shuffled = [shuffler.permutation(message).tolist() for message in real[half : 2 * half]]
    start = time.perf_counter()
    for row in test.rows[:20]:
        complete(model, row[None, 1:3], 1, rng)
    seconds = time.perf_counter() - start
    return {
        "eval/copypasta_from_beginning": share_completed(model, pastes, False, rng),
        "eval/copypasta_from_middle": share_completed(model, pastes, True, rng),
        "eval/loops_greedy": float(np.mean(loops["greedy"])),
        "eval/loops_sampled": float(np.mean(loops["sampled"])),
        "eval/judge_generated": judge(real[:half], fake),
        "eval/judge_shuffled": judge(real[:half], shuffled),
        "time/completion": seconds / 20,
    }


def respond(model: ChatRNN, words: list[str], text: str, temperature: float, rng, allow_rare: bool) -> str:
    """What the model would type after this text; nothing after 20 words."""
    numbers = {word: i for i, word in enumerate(words)}
    typed = re.sub(r"[^0-9a-z ]", "", re.sub(r"\s", " ", text).lower()).split()
    prompt = np.array([[numbers.get(word, RARE) for word in typed]], np.int64).reshape(1, -1)
    (message,) = to_messages(complete(model, prompt[:, :MAX_WORDS], temperature, rng, allow_rare=allow_rare))
    return " ".join(words[i] for i in message)


def choose_prompts(train: Chat, test: Chat, words: list[str], args: Args) -> dict[str, str]:
    """The post's kinds of beginnings, from the chat itself."""

    def text(row) -> str:
        return " ".join(words[i] for i in row if i != END)

    firsts, counts = np.bincount(train.rows[:, 1], minlength=len(words)), np.bincount(train.rows[:, 1:].flat)
    frequent = np.where(firsts >= min(20, firsts[2:].max()), firsts / np.maximum(counts, 1), 0)
    frequent[[END, RARE]] = firsts[[END, RARE]] = 0
    pastes, seen = find_copypasta(train), {row.tobytes() for row in train.rows}
    new = [row.tolist() for row in test.rows if row.tobytes() not in seen] or test.rows.tolist()
    longest = max(new, key=lambda row: len(set(row)) - row.count(RARE))
    prompts = {
        "a name": words[frequent.argmax()] if args.data else NAMES.split()[0],  # people are addressed first of all
        "one word, the most frequent first one": words[firsts.argmax()],
        "a long context, never seen": text(longest[: int(np.count_nonzero(longest) * 0.6) + 1]),
    }
    if len(pastes):
        middle = int((pastes[0] != END).sum()) // 2
        prompts["half a copypasta"] = text(pastes[0, 1 : middle + 1])
        prompts["four words from its middle"] = text(pastes[0, middle - 1 : middle + 3])
    return prompts


def write_prompts(run: Run, model: ChatRNN, train: Chat, test: Chat, words: list[str], args: Args, device):
    """prompts.md: what was typed, and how the model goes on."""
    rng = generator(device, args.seed, SAMPLING, 2)
    lines = ["| prompt | typed | greedy | sampled | sampled again |", "|---|---|---|---|---|"]
    for kind, typed in choose_prompts(train, test, words, args).items():
        answers = [respond(model, words, typed, temperature, rng, False) for temperature in (0, 1, 1)]
        lines.append(f"| {kind} | {typed} | {' | '.join(answers)} |")
    (run.dir / "prompts.md").write_text("\n".join(lines).replace("<", "&lt;") + "\n")


def draw_chat(run: Run, nats: np.ndarray, row: dict, args: Args):
    """chat.png: perplexity over the position, and the shares of the last row."""
    from matplotlib.figure import Figure

    curve, bars = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    positions = np.arange(1, MAX_WORDS + 1)
    curve.plot(positions, np.exp(nats), "o-", color="#0072B2", label="network, held-out messages")
    if args.data is None:
        floor, shares = grammar_entropy(GRAMMAR)
        reached = shares > 1e-9
        curve.plot(positions[reached], np.exp(floor[reached]), "k:", label="the grammar itself")
    curve.set(xlabel="position in the message", ylabel="perplexity", xticks=positions[::2], yscale="log")
    curve.legend(frameon=False)
    kinds = {
        "copypasta completed\nfrom its beginning": "eval/copypasta_from_beginning",
        "from its middle": "eval/copypasta_from_middle",
        "endless loops,\ngreedy": "eval/loops_greedy",
        "endless loops,\nsampled": "eval/loops_sampled",
        "judge finds\ngenerated messages": "eval/judge_generated",
        "judge finds\nshuffled messages": "eval/judge_shuffled",
    }
    bars.barh(
        list(kinds),
        [row[column] or 0 for column in kinds.values()],
        color=["#009E73"] * 2 + ["#E69F00"] * 2 + ["#0072B2"] * 2,
    )
    bars.axvline(0.5, color="#888888", linestyle=":")
    bars.set(xlim=(0, 1), xlabel="share (the judge: accuracy, 0.5 is chance)")
    bars.invert_yaxis()
    curve.figure.savefig(run.dir / "chat.png", dpi=120)
    run.picture(run.dir / "chat.png")


def train(args: Args) -> dict:
    """Train, write the run's folder, and return the last row of its metrics. Raises UsageError, before it writes.

    FloatingPointError when the learning has diverged: the last checkpoint is from before.
    """
    args, checkpoint = load_run(args.resume, "--resume", Args) if args.resume else (replace(args), None)
    args.torch_threads = args.torch_threads or len(os.sched_getaffinity(0))
    with torch_settings(args), device_settings(args) as device:
        check_bf16(args, device)
        train_chat, test_chat, words = load_chat(args)
        return learn(args, checkpoint, make_model(args, len(words), device), train_chat, test_chat, words, device)


def learn(
    args: Args, checkpoint: dict | None, model: ChatRNN, train: Chat, test: Chat, words: list[str], device
) -> dict:
    """The loop: a batch, an update, and now and then a row of metrics and a checkpoint."""
    row = {}
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    order = Order(train.targets, args.batch_size, args.seed)
    total_steps = math.ceil(args.epochs * len(train.rows) / args.batch_size)
    per_row = args.log_every or len(train.rows) / args.batch_size  # updates
    targets_per_batch = args.batch_size * float(train.targets.mean())
    share = slice(*(args.batch_size * (process_rank() + i) // num_processes() for i in (0, 1)))
    step, row_number, elapsed, tokens = 0, 0, 0.0, 0

    def state() -> dict:
        counters = {"step": step, "row_number": row_number, "elapsed": elapsed, "tokens": tokens}
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "words": words} | counters

    if checkpoint:
        try:
            load_model(model, checkpoint, words)
            optimizer.load_state_dict(checkpoint["optimizer"])
            step, row_number, elapsed, tokens = (checkpoint[key] for key in ("step", "row_number", "elapsed", "tokens"))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"--resume {args.run_dir}: the checkpoint does not fit ({error})") from None
        if step >= total_steps:
            raise UsageError(f"--resume {args.run_dir}: that run is finished")

    task = args.data.name.partition(".")[0] if args.data else "grammar"
    run = Run(args, task, checkpoint and checkpoint["rows"]) if process_rank() == 0 else None
    bar = tqdm(total=total_steps, initial=step, unit="update", disable=None if run else True)
    with run or nullcontext(), bar:
        if run and not checkpoint:
            run.save(state())
        while step < total_steps:
            start, first_step, first_token = time.perf_counter(), step, tokens
            # Every process draws the dropout of the whole batch and takes its share: the curve does not depend on how
            # many there are. The generator begins anew at each row, so no state of it needs to be saved.
            rng, nats = generator(device, args.seed, DROPOUT, row_number), torch.zeros((), device=device)
            row_number += 1
            while step < min(total_steps, math.ceil(row_number * per_row)):
                chosen = order.batch(step)
                batch = make_batch(train, chosen, model.bounds, device, share)
                masks = draw_masks(args, (len(batch.inputs), len(chosen)), rng)
                masks = masks if masks is None else masks[:, :, share]
                optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - step / total_steps)
                nats += update(model, optimizer, batch, masks, targets_per_batch, args)
                tokens += int(train.targets[chosen].sum())
                step += 1
            loss = sum_over_processes(nats).item() / (tokens - first_token)
            elapsed += time.perf_counter() - start
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is no number before update {step:,}: lower --learning-rate?")
            bar.update(step - first_step)
            if not run:
                continue

            finished = step >= total_steps
            nats_by_position = score(model, test, device)
            test_loss = mean_over_targets(nats_by_position, test)
            row = {
                "global_step": step * args.batch_size,
                "charts/epoch": step * args.batch_size / len(train.rows),
                "charts/tokens": tokens,
                "losses/loss": loss,
                "eval/loss": test_loss,
                "eval/perplexity": math.exp(min(test_loss, 700)),
                "eval/bits_per_character": bits_per_character(test_loss, test),
                "eval/floor": test.floor,
            }
            for position in (1, 2, 3, 5, 10, 20):
                nats_there = nats_by_position[position - 1]
                row[f"eval/perplexity_word_{position}"] = (
                    math.exp(min(nats_there, 700)) if nats_there == nats_there else None
                )
            tests = take_tests(model, train, test, args, device) if finished else dict.fromkeys(TESTS)
            row |= {"charts/learning_rate": optimizer.param_groups[0]["lr"]} | tests
            row |= {"charts/SPS": step * args.batch_size / elapsed, "time/elapsed": elapsed}
            run.log(row)
            if finished or row_number % args.checkpoint_every == 0:
                run.save(state())
            bar.set_postfix(perplexity=f"{row['eval/perplexity']:.1f}")

        if run:
            write_prompts(run, model, train, test, words, args, device)
            run.plot("eval/perplexity")
            draw_chat(run, nats_by_position, row, args)
            floor = f" (the grammar itself {math.exp(test.floor):.3f})" if test.floor else ""
            result = f"perplexity {row['eval/perplexity']:.3f}{floor}"
            print(f"{result} after {row['charts/epoch']:g} epochs at {tokens / elapsed:,.0f} words/s: {run.dir}")
    return row


# --- using it --------------------------------------------------------------------------------


def load_model(model: ChatRNN, checkpoint: dict, words: list[str]):
    if checkpoint["words"] != words:
        raise ValueError("it has another vocabulary: was the file of messages changed?")
    model.load_state_dict(checkpoint["model"])


@contextmanager
def trained_model(folder: Path, flag: str):
    """The model of a run, ready to answer: its arguments, itself, its words, its device."""
    args, checkpoint = load_run(folder, flag, Args)
    with torch_settings(args), device_settings(args) as device:
        try:
            words = checkpoint["words"]
            model = make_model(args, len(words), device)
            load_model(model, checkpoint, words)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UsageError(f"{flag} {folder}: the checkpoint does not fit ({error})") from None
        yield args, model, words, device


def evaluate(folder: Path) -> float:
    """Perplexity of every held-out message under the model of a run."""
    with trained_model(folder, "--evaluate") as (args, model, words, device):
        _, test, found = load_chat(args)
        if found != words:
            raise UsageError(f"--evaluate {folder}: the messages have another vocabulary now: was their file changed?")
        nats = score(model, test, device)
    loss = mean_over_targets(nats, test)
    positions = " ".join(f"{math.exp(value):.1f}" for value in nats if value == value)
    print(f"perplexity {math.exp(loss):.3f}, {bits_per_character(loss, test):.3f} bits per character, "
          f"by position {positions} ({len(test.rows):,} messages)")  # fmt: skip
    return math.exp(loss)


def talk(args: Args):
    """Complete what is typed, line by line, until the input ends."""
    with trained_model(args.talk, "--talk") as (_, model, words, device):
        rng = generator(device, args.seed, SAMPLING, 3)
        while True:
            try:
                text = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                return
            print(f"{text} {respond(model, words, text, args.temperature, rng, args.allow_rare)}".strip(), flush=True)


def demo(args: Args):
    """A page with a box to type in, a slider for the temperature and a button; for browsers on this machine only."""
    with trained_model(args.demo, "--demo") as (_, model, words, device):
        try:
            socket.create_server(("127.0.0.1", args.demo_port)).close()
        except OSError as error:
            raise UsageError(f"--demo-port {args.demo_port}: {error.strerror}; name another one") from None
        import gradio as gr

        rng = generator(device, args.seed, SAMPLING, 3)

        def answer(text: str, temperature: float) -> str:
            return f"{text} {respond(model, words, text, temperature, rng, args.allow_rare)}".strip()

        with gr.Blocks(title="How would the chat go on?", analytics_enabled=False) as page:
            gr.Markdown("# How would the chat go on?\nType the beginning of a message.")
            text = gr.Textbox(label="you", placeholder="hello", autofocus=True)
            temperature = gr.Slider(0, 2, args.temperature, label="temperature (0: always the likeliest word)")
            button, completion = gr.Button("Complete", variant="primary"), gr.Textbox(label="the chat")
            for event in (button.click, text.submit):
                event(answer, [text, temperature], completion)
        page.launch(server_name="127.0.0.1", server_port=args.demo_port, quiet=True, prevent_thread_lock=True)
        print(f"http://127.0.0.1:{args.demo_port} until Ctrl-C", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close()


VERBS = {  # the flags that may stand beside each
    "resume": set(),
    "evaluate": set(),
    "talk": {"temperature", "allow-rare", "seed"},
    "demo": {"temperature", "allow-rare", "seed", "demo-port"},
    "collect": {"channels", "server", "port", "tls", "ca-file", "nick", "max-collected"},
}


def main(argv: list[str]):
    args = tyro.cli(Args, description=__doc__, args=argv)
    flags = {re.sub("^no-", "", word[2:].partition("=")[0].replace("_", "-")) for word in argv if word.startswith("--")}
    for verb, allowed in VERBS.items():
        if verb in flags and flags - allowed - {verb}:
            stray = " ".join(f"--{flag}" for flag in sorted(flags - allowed - {verb}))
            raise UsageError(
                f"--{verb} takes everything else from the run's folder, or has no use for it: leave out {stray}"
            )
    if args.collect:
        collect(args)
    elif args.evaluate:
        evaluate(args.evaluate)
    elif args.talk:
        talk(args)
    elif args.demo:
        demo(args)
    else:
        train(args)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
