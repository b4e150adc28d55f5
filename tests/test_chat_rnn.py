"""Chat model: its probabilities against brute force, a grammar of known entropy, nltk, a real IRC server, a browser."""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nltk.lm import KneserNeyInterpolated

from benchmarks import kneser_ney, ubuntu_chat
from gen import chat_rnn
from gen.chat_rnn import END, GRAMMAR, MAX_WORDS, RARE, Args, Chat, ChatRNN, Order, UsageError, complete, losses, train

CLOCKS = {"charts/SPS", "time/elapsed", "time/completion"}
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("no_figures")
SMALL = {"num_messages": 600, "width": 12, "num_layers": 1, "cutoffs": (20, 60), "judged": 20, "torch_threads": 1}


@pytest.fixture
def no_figures(monkeypatch, request):
    """Matplotlib and scikit-learn take longer than the trainings of these tests: one of them looks at the figures."""
    if "leaves_its_pictures" in request.node.name:
        return
    monkeypatch.setattr(chat_rnn, "draw_chat", lambda *_: None)
    monkeypatch.setattr(chat_rnn.Run, "plot", lambda *_: None)
    if "judge" not in request.node.name:
        monkeypatch.setattr(chat_rnn, "judge", lambda *_: 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that has learned the grammar well enough to talk."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = {"num_messages": 5000, "width": 64, "num_layers": 1, "epochs": 5, "batch_size": 32, "dropout": 0.0}
    row = train(Args(**flags, learning_rate=0.01, cutoffs=(50,), judged=300, torch_threads=1, run_dir=folder))
    return folder, row


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(num_words=30, seed=0, **flags):
    """A small model with random weights, far from uniform."""
    args = Args(**{"width": 6, "cutoffs": (5, 12)} | flags)
    torch.manual_seed(seed)
    model = ChatRNN(num_words, args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) * 0.5)
    return model, args


def random_chat(num_words=30, n=40, seed=0):
    rng = np.random.default_rng(seed)
    rows, lengths = np.zeros((n, MAX_WORDS + 1), np.int32), rng.integers(2, MAX_WORDS + 1, n)
    for row, length in zip(rows, lengths, strict=True):
        row[1 : length + 1] = rng.integers(1, num_words, length)
    return Chat(rows, np.minimum(lengths + 1, MAX_WORDS))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- the grammar -----------------------------------------------------------------------------

TOY = {
    "start": [(3, "a b", "again *"), (1, "c", "last")],
    "again *": [(1, "*", "last"), (1, "d", "again *")],
    "last": [(1, "", None), (2, "e f g", "end")],
    "end": [(1, "", None)],
}


def test_the_entropy_of_a_grammar_is_that_of_all_its_messages_written_out(monkeypatch):
    monkeypatch.setattr(chat_rnn, "MAX_WORDS", 6)

    def write_out(state, words, probability):
        if state is None or len(words) == 6:
            yield words, probability
            return
        for word, (share, following) in chat_rnn.choices(TOY, state).items():
            yield from write_out(following, [*words, word], probability * share)

    messages = list(write_out("start", [], 1.0))
    assert len({tuple(words) for words, _ in messages}) == len(messages) > 20
    probabilities = np.array([probability for _, probability in messages])
    assert probabilities.sum() == pytest.approx(1)
    nats, shares = chat_rnn.grammar_entropy(TOY)
    assert (nats * shares).sum() == pytest.approx(-(probabilities * np.log(probabilities)).sum())
    lengths = np.array([len(words) for words, _ in messages])
    assert shares.tolist() == pytest.approx([(probabilities * (lengths > k)).sum() for k in range(6)])
    assert dict(chat_rnn.choices(TOY, "start"))["a"] == (pytest.approx(0.75 / 1.5), "again a")
    assert dict(chat_rnn.choices(TOY, "again b"))["b"] == (0.5, "last")


def test_what_its_messages_cost_is_their_probability_and_on_the_average_its_entropy():
    messages, costs = chat_rnn.make_chat(GRAMMAR, 3000)
    for message, cost in list(zip(messages, costs, strict=True))[:300]:
        state, nats = "start", 0.0
        for word in [*message, ""][:MAX_WORDS]:
            options = chat_rnn.choices(GRAMMAR, state)
            probability, state = options[word if word in options else "#"]
            nats -= math.log(probability)
        assert nats == pytest.approx(cost)
        assert 2 <= len(message) <= MAX_WORDS
    nats, shares = chat_rnn.grammar_entropy(GRAMMAR)
    assert costs.mean() == pytest.approx((nats * shares).sum(), abs=4 * costs.std() / 3000**0.5)
    pasted = [" ".join(message) for message in messages if " ".join(message) in chat_rnn.COPYPASTA]
    assert len(set(pasted)) == 8 and 0.03 < len(pasted) / 3000 < 0.08
    assert all(8 <= len(text.split()) <= MAX_WORDS for text in chat_rnn.COPYPASTA)
    words = {word for text in chat_rnn.COPYPASTA for word in text.split()}
    assert all(chat_rnn.clean(text) == text for text in [*chat_rnn.COPYPASTA, " ".join(sorted(words))])


def test_a_word_that_can_come_in_two_ways_is_refused():
    with pytest.raises(AssertionError, match="two ways"):
        chat_rnn.choices({"start": [(1, "a b", "x"), (1, "b", "y")]}, "start")


# --- words and numbers -----------------------------------------------------------------------


def test_messages_are_cleaned_as_the_post_does():
    assert chat_rnn.clean("  Hello, WORLD!!  it's\t4:20 ") == "hello world its 420"
    assert chat_rnn.clean("¯\\_(ツ)_/¯ Kappa Kappa") == "kappa kappa"
    assert chat_rnn.clean("Kappa ...") is None and chat_rnn.clean("") is None


def test_the_vocabulary_is_counted_where_it_trains_and_the_split_is_by_time(tmp_path):
    lines = ["one two three"] * 10 + ["four two"] * 4 + ["one five"] * 5 + ["late four here", "late one three"]
    path = tmp_path / "chat.txt.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n!\n").encode()))
    args = Args(data=path, test_share=2 / 21, batch_size=4)
    before, after, words = chat_rnn.load_chat(args)
    assert words == ["", "<rare word>", "one", "two", "three", "five"]  # four: 4 times so far, late: never yet
    assert len(before.rows) == 19 and len(after.rows) == 2
    assert after.rows[1, :5].tolist() == [END, RARE, 2, 4, END] and after.targets.tolist() == [4, 4]
    assert chat_rnn.load_chat(Args(data=path, test_share=0.1, batch_size=4, max_vocabulary=4))[2] == words[:4]
    path.write_bytes("\r\n".join(["an \x1ditalic\x1d\u2028word\x85"] * 20).encode())  # one message a line, not more
    assert chat_rnn.read_chat(path) == [["an", "italic", "word"]] * 20
    long = chat_rnn.to_rows([["one"] * 25, ["one"] * 20, ["one"] * 19], {"one": 2})
    assert long.targets.tolist() == [20, 20, 20] and (long.rows[:2, 1:] == 2).all() and long.rows[2, 20] == END


def test_bits_per_character_charge_every_letter_of_the_text(tmp_path):
    """Rare words are spelled, each letter given the one before: 36 letters and digits and the end may follow."""
    path = tmp_path / "chat.txt"
    path.write_text("\n".join(["aa bb"] * 30 + ["aa xyx", "bb zz"] * 5 + ["aa xzx", "aa bb"]) + "\n")
    args = Args(data=path, test_share=2 / 42, batch_size=4, min_count=6)
    _, test, words = chat_rnn.load_chat(args)
    assert words[2:] == ["aa", "bb"]
    pairs = Counter()
    for word in ["xyx", "zz"] * 5:
        pairs.update(zip(f" {word}", f"{word} ", strict=True))
    firsts = Counter(a for a, _ in pairs.elements())
    nats = -sum(math.log((pairs[a, b] + 1) / (firsts[a] + 37)) for a, b in zip(" xzx", "xzx ", strict=True))
    assert test.nats_of_spelling == pytest.approx(nats) and test.characters == len("aa xzx\naa bb\n")
    bits = chat_rnn.bits_per_character(0.7, test)
    assert bits == pytest.approx((0.7 * 6 + nats) / 13 / math.log(2))


# --- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoffs", [(), (5,), (5, 12), (5, 12, 90)])
@pytest.mark.parametrize("tied_weights", [False, True])
def test_every_words_probability_is_its_class_times_its_share_of_it(cutoffs, tied_weights):
    model, _ = make(cutoffs=cutoffs, tied_weights=tied_weights)
    assert (model.output.weight is model.embedding.weight) == tied_weights
    x = torch.randn(50, 6, generator=generator())
    log_p = model.log_probs(x)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(50), atol=1e-5)
    logits = F.linear(x, model.output.weight, model.output.bias).double()
    bounds = [0, *(cutoff for cutoff in cutoffs if cutoff < 30), 30]
    signs = model.classes(x).double() if len(bounds) > 2 else logits[:, :0]
    head = torch.cat([logits[:, : bounds[1]], signs], 1)
    for word in range(30):
        k = next(i for i in range(len(bounds)) if word < bounds[i + 1])
        expected = head[:, bounds[1] + k - 1] if k else head[:, word]
        expected = expected - head.logsumexp(1)
        if k:
            expected = expected + logits[:, word] - logits[:, bounds[k] : bounds[k + 1]].logsumexp(1)
        assert torch.allclose(log_p[:, word].double(), expected, atol=1e-5)
    targets = torch.randint(30, (50,), generator=generator(1)).sort().values
    counts = np.histogram(targets.numpy(), bounds)[0].tolist()
    counts[-1] = 50 - sum(counts[:-1])
    assert torch.allclose(model.nll(x, targets, counts), -log_p.gather(1, targets[:, None]).squeeze(1), atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_batch_costs_what_its_messages_cost_one_by_one_and_padding_nothing(num_layers):
    model, _ = make(num_layers=num_layers)
    chat = random_chat()
    found = 0.0
    for row, count in zip(chat.rows, chat.targets, strict=True):
        state = None
        for t in range(count):
            x, state = model(torch.tensor([[int(row[t])]]), state=state)
            found -= model.log_probs(x[0])[0, row[t + 1]].item()
    batch = chat_rnn.make_batch(chat, np.arange(40), model.bounds, CPU)
    assert len(batch.targets) == chat.targets.sum() == sum(batch.counts)
    assert losses(model, batch).sum().item() == pytest.approx(found, rel=1e-5)
    by_position = chat_rnn.score(model, chat, CPU)
    assert chat_rnn.mean_over_targets(by_position, chat) == pytest.approx(found / chat.targets.sum(), rel=1e-5)
    firsts = model.log_probs(model(torch.zeros(1, 1, dtype=torch.long))[0][0])[0, chat.rows[:, 1].astype(int)]
    assert by_position[0] == pytest.approx(-firsts.mean().item(), rel=1e-5)


def test_dropout_hides_numbers_between_the_layers_and_keeps_their_mean():
    args = Args(dropout=0.3, width=50, num_layers=2)
    masks = chat_rnn.draw_masks(args, (7, 40), generator())
    assert masks.shape == (3, 7, 40, 50) and masks.mean().item() == pytest.approx(1, abs=0.02)
    assert (masks == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert chat_rnn.draw_masks(Args(dropout=0.0), (7, 40), generator()) is None
    model, args = make(num_layers=2, dropout=0.5)
    inputs = torch.randint(30, (7, 4), generator=generator())
    masks = chat_rnn.draw_masks(args, (7, 4), generator())
    x = model.embedding(inputs)
    for layer, mask in zip(model.layers, masks, strict=False):
        x = layer(x * mask)[0]
    assert torch.allclose(model(inputs, masks)[0], x * masks[2])


def test_every_epoch_takes_each_message_once_and_batches_are_about_equally_long():
    targets = np.random.default_rng(0).integers(3, 21, 1000)
    order = Order(targets, 8, 3)
    batches = [order.batch(step) for step in range(1000)]  # 8 epochs in 20 windows
    counts = np.bincount(np.concatenate(batches), minlength=1000)
    assert (counts == 8).all()
    spread = np.mean([np.ptp(targets[batch]) for batch in batches])
    assert spread < 1.5 < np.mean([np.ptp(part) for part in np.array_split(targets, 125)])
    lengths = [targets[batch].mean() for batch in batches[:50]]
    assert abs(np.corrcoef(lengths, np.arange(50))[0, 1]) < 0.5  # not from the short ones to the long ones
    assert np.array_equal(order.batch(70), batches[70])  # any update can be asked for, as after --resume
    assert not np.array_equal(Order(targets, 8, 4).batch(0), batches[0])


def test_an_update_follows_the_clipped_gradient_of_the_nats_per_target():
    model, args = make(clip=0.01, dropout=0.0)
    chat = random_chat()
    batch = chat_rnn.make_batch(chat, np.arange(40), model.bounds, CPU)
    (losses(model, batch).sum() / 100).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    chat_rnn.update(model, optimizer, batch, None, 100, args)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert gradient.norm() > 0.1
    assert torch.allclose(before - after, gradient * 0.01 / gradient.norm(), atol=1e-5)


# --- completing ------------------------------------------------------------------------------


def test_greedy_completions_take_the_likeliest_word_and_sampled_ones_follow_the_probabilities():
    model, _ = make(num_words=8, cutoffs=(4,))
    prompts = np.array([[2, 3], [5, 6]])
    greedy = complete(model, prompts, 0, generator(), max_words=6)
    assert greedy.shape == (2, 4)
    for prompt, words in zip(prompts.tolist(), greedy.tolist(), strict=True):
        for i, word in enumerate(words):
            if i and words[i - 1] == END:
                assert word == END
                continue
            log_p = model.log_probs(model(torch.tensor([[0, *prompt, *words[:i]]]).T)[0][-1])[0].detach()
            log_p[RARE] = -math.inf
            log_p[END] = log_p[END] if i else -math.inf
            assert word == log_p.argmax()
    for temperature in (1.0, 0.5):
        drawn = complete(model, np.repeat(prompts[:1], 20_000, 0), temperature, generator(), max_words=3)[:, 0]
        log_p = model.log_probs(model(torch.tensor([[0, 2, 3]]).T)[0][-1])[0].detach() / temperature
        log_p[[END, RARE]] = -math.inf
        assert np.bincount(drawn, minlength=8) / 20_000 == pytest.approx(log_p.softmax(0).numpy(), abs=0.015)


def test_the_rare_word_is_printed_only_when_asked_for():
    model, _ = make()
    with torch.no_grad():
        model.output.bias[RARE] = 20.0
    prompts = np.zeros((50, 0), np.int64)
    for temperature in (0, 1):
        assert (complete(model, prompts, temperature, generator()) != RARE).all()
        assert (complete(model, prompts, temperature, generator(), allow_rare=True) == RARE).any()


def test_a_message_that_repeats_itself_without_end_is_a_loop():
    assert chat_rnn.is_loop(np.array([7, 8] + [5] * 58)) and chat_rnn.is_loop(np.array([9] * 3 + [4, 5, 6] * 19))
    assert not chat_rnn.is_loop(np.array([5] * 59 + [END]))
    assert not chat_rnn.is_loop(np.arange(2, 62)) and not chat_rnn.is_loop(np.tile(np.arange(2, 14), 5))


def test_copypasta_are_the_long_messages_that_come_again():
    texts = {tuple(range(2, 12)): 7, tuple(range(3, 22)): 9, tuple(range(2, 9)): 9, (5,) * 12: 20}
    texts |= {tuple(range(20, 30)): 4, (RARE, *range(2, 12)): 9}
    lines = [list(text) for text, count in texts.items() for _ in range(count)]
    chat = chat_rnn.to_rows(lines, {i: i for i in range(40)})
    found = chat_rnn.find_copypasta(chat)
    assert chat_rnn.to_messages(found[:, 1:]) == [list(range(3, 22)), list(range(2, 12))]


def test_completed_means_word_for_word_to_the_end(monkeypatch):
    pastes = chat_rnn.to_rows([list(range(2, 12)), list(range(12, 31))], {i: i for i in range(40)}).rows
    asked = []

    def model_that_counts(model, prompts, temperature, rng):
        asked.append((prompts.tolist(), temperature))
        found = prompts[:, -1:] + np.arange(1, 17)
        ends = np.array([[12], [31 if len(asked) != 2 else 29]])
        return np.where(found < ends, found, END)

    monkeypatch.setattr(chat_rnn, "complete", model_that_counts)
    assert chat_rnn.share_completed(None, pastes, False, None) == 1.0
    assert chat_rnn.share_completed(None, pastes, True, None) == 0.5
    assert chat_rnn.share_completed(None, pastes[:0], True, None) is None
    assert asked == [([[2, 3, 4, 5], [12, 13, 14, 15]], 0), ([[5, 6, 7, 8], [19, 20, 21, 22]], 0)]


def test_the_judge_tells_what_differs_and_guesses_where_nothing_does():
    messages, _ = chat_rnn.make_chat(GRAMMAR, 1600)
    shuffler = np.random.default_rng(0)
    shuffled = [shuffler.permutation(message).tolist() for message in messages[800:]]
    assert chat_rnn.judge(messages[:800], messages[800:]) == pytest.approx(0.5, abs=0.06)
    assert chat_rnn.judge(messages[:800], shuffled) > 0.75
    assert chat_rnn.judge([["a", "b"]] * 20, [["b", "a"]] * 20) == 1.0


# --- counting --------------------------------------------------------------------------------


def test_kneser_ney_equals_nltk_on_500_messages():
    args = Args(num_messages=700, test_share=0.1, min_count=2)
    before, after, words = chat_rnn.load_chat(args)
    before = Chat(before.rows[:500], before.targets[:500])
    model, size = kneser_ney.KneserNey(before, len(words), 0.1), len(words)
    grams = []
    for row in before.rows.tolist():
        words_and_end = row[1 : row.index(END, 1) + 1] if END in row[1:] else row[1:]
        message = ["<s>", "<s>", *map(str, words_and_end)]
        for i in range(2, len(message)):
            grams += [tuple(message[i - n : i + 1]) for n in range(3)]
    theirs = KneserNeyInterpolated(3, discount=0.1)
    theirs.fit([grams], vocabulary_text=[*map(str, range(size)), "<s>"])
    triples = kneser_ney.trigrams(after)
    assert len(triples) == after.targets.sum()
    rng = np.random.default_rng(0)
    unseen = rng.integers(0, size, (40, 3))  # contexts that were never seen, among others
    for before2, last, word in [*triples[rng.choice(len(triples), 80, replace=False)].tolist(), *unseen.tolist()]:
        found = model.probability(np.array([[before2, last, word]])).item()
        context = ["<s>" if i == END else str(i) for i in (before2, last)]
        assert found == pytest.approx(theirs.unmasked_score(str(word), tuple(context)), rel=1e-9)


def test_kneser_ney_sums_to_one_with_discounts_of_its_own():
    before, after, words = chat_rnn.load_chat(Args(num_messages=900, min_count=2))
    model = kneser_ney.KneserNey(before, len(words))
    for context in [(END, END), *after.rows[:4, 1:3].tolist(), (5, 4), (3, 3)]:
        triples = np.array([[*context, word] for word in range(len(words))])
        assert model.probability(triples).sum() == pytest.approx(1)
    once, twice = (model.trigrams.counts == 1).sum(), (model.trigrams.counts == 2).sum()
    assert model.trigrams.discount == once / (once + 2 * twice) != model.bigrams.discount


def test_the_ubuntu_messages_are_taken_out_of_the_archive_and_their_digest_checked(tmp_path, monkeypatch):
    days = {
        "2005": "[10:00] <b> later,  here \n=== x has joined\n[10:00] <b> later,  here \n[10:01] <b> later,  here\n",
        "2004": "[23:59] <a> first\n[00:00] <a>  \n",
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in days.items():
            for kind in ("raw", "ascii"):
                info = tarfile.TarInfo(f"irc/data/train/{name}.{kind}.txt")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    (tmp_path / "irc.tar.gz").write_bytes(file.getvalue())
    assert ubuntu_chat.read_messages(file.getvalue()) == "first\nlater,  here\nlater,  here\n"
    path = tmp_path / "data/chat.txt.gz"
    with pytest.raises(SystemExit, match="other messages"):
        ubuntu_chat.fetch(path, tmp_path / "irc.tar.gz")
    assert not path.exists()
    digest = hashlib.sha256(b"first\nlater,  here\nlater,  here\n").hexdigest()
    monkeypatch.setattr(ubuntu_chat, "SHA256", digest)
    ubuntu_chat.fetch(path, tmp_path / "irc.tar.gz")
    assert gzip.decompress(path.read_bytes()).startswith(b"first\n")

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(ubuntu_chat.urllib.request, "urlopen", fail)
    ubuntu_chat.fetch(path)  # it is there
    with pytest.raises(SystemExit, match=r"no network.*Without a network"):
        ubuntu_chat.fetch(tmp_path / "elsewhere")


# --- collecting ------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def irc_server(tmp_path_factory):
    """Debian's ngircd, in plain text and, where it can, with TLS: ports of both, and the certificate or None."""
    program = shutil.which("ngircd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no ngircd here: apt-get install ngircd")
    folder = tmp_path_factory.mktemp("ngircd")
    folder.chmod(0o755)
    plain, tls, certificate = free_port(), free_port(), None
    config = f"[Global]\nName = irc.test.local\nInfo = test\nListen = 127.0.0.1\nPorts = {plain}\n"
    config += "[Limits]\nMaxNickLength = 20\nMaxConnectionsIP = 0\n[Options]\nDNS = no\nIdent = no\nPAM = no\n"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if "SSL" in said and shutil.which("openssl"):
        certificate = folder / "cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
        subprocess.run([*command, "-keyout", folder / "key.pem", "-out", certificate], capture_output=True, check=True)
        (folder / "key.pem").chmod(0o644)
        config += f"[SSL]\nCertFile = {certificate}\nKeyFile = {folder / 'key.pem'}\nPorts = {tls}\n"
    (folder / "ngircd.conf").write_text(config)
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen([program, "-n", "-f", folder / "ngircd.conf"], stdout=log, stderr=log)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", plain), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    else:
        process.kill()
        pytest.fail((folder / "log.txt").read_text())
    yield plain, tls, certificate
    process.terminate()
    process.wait()


class Talker:
    """Somebody else in the channel."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rwb")
        self.send(f"NICK {name}", f"USER {name} 0 * :{name}")
        self.wait_for(" 001 ")
        self.send("JOIN #chat")
        self.wait_for(" 366 ")

    def send(self, *lines):
        self.file.write("".join(f"{line}\r\n" for line in lines).encode())
        self.file.flush()

    def wait_for(self, what):
        for line in self.file:
            if line.startswith(b"PING"):
                self.send(line.decode().strip().replace("PING", "PONG"))
            if what in line.decode():
                return
        raise AssertionError(what)

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.mark.parametrize("tls", [False, True])
def test_it_collects_what_a_real_server_says(tls, irc_server, tmp_path, capsys):
    plain, secure, certificate = irc_server
    if tls and certificate is None:
        pytest.skip("this ngircd has no TLS, or there is no openssl to make a certificate")
    path = tmp_path / "chat.txt"
    path.write_text("collected before")  # and interrupted in the middle of a line
    flags = {"server": "localhost" if tls else "127.0.0.1", "port": secure if tls else plain, "tls": tls}
    flags |= {"ca_file": certificate} if tls else {}
    args = Args(collect=path, channels=("#Chat",), nick=f"reader{tls:d}", max_collected=3, **flags)
    collector = threading.Thread(target=chat_rnn.collect, args=[args])
    talker = Talker(plain, f"talker{tls:d}")
    collector.start()
    talker.wait_for("JOIN")
    talker.send(
        "PRIVMSG #chat :Hello, World :)", "PRIVMSG #chat :one-word", "PRIVMSG #chat :\x01ACTION waves twice\x01"
    )
    talker.send(f"PRIVMSG reader{tls:d} :only for you", "PRIVMSG #chat :it's the LAST one")
    collector.join(20)
    talker.close()
    assert not collector.is_alive()
    assert path.read_text() == "collected before\nhello world\nwaves twice\nits the last one\n"
    assert "3 messages appended" in capsys.readouterr().out


def test_a_certificate_that_nobody_trusts_is_refused(irc_server, tmp_path):
    _, secure, certificate = irc_server
    if certificate is None:
        pytest.skip("this ngircd has no TLS, or there is no openssl to make a certificate")
    with pytest.raises(UsageError, match=r"--server localhost: .*CERTIFICATE_VERIFY_FAILED"):
        chat_rnn.collect(Args(collect=tmp_path / "chat.txt", channels=("chat",), server="localhost", port=secure))


def test_what_the_server_refuses_is_said_in_one_line(irc_server, tmp_path):
    flags = {"channels": ("chat",), "server": "127.0.0.1", "tls": False}
    with pytest.raises(UsageError, match=r"--server 127\.0\.0\.1: 432 "):
        chat_rnn.collect(Args(collect=tmp_path / "a", port=irc_server[0], nick="9lives", **flags))
    with pytest.raises(UsageError, match=r"--server 127\.0\.0\.1: .*refused"):
        chat_rnn.collect(Args(collect=tmp_path / "a", port=free_port(), **flags))
    assert (tmp_path / "a").read_bytes() == b""
    with pytest.raises(UsageError, match=r"--collect .*directory, after 0 messages"):
        chat_rnn.collect(Args(collect=tmp_path, port=irc_server[0], **flags))
    with pytest.raises(UsageError, match="--ca-file nowhere"):
        chat_rnn.collect(Args(collect=tmp_path / "a", ca_file=Path("nowhere"), **flags))


WELCOME = b":s 001 me :hi\r\n:s 422 me :no message of the day\r\n:s 366 me #chat :end\r\n"


def scripted_server(*conversations):
    """A server that sends these bytes to one connection after another, piece by piece, and closes; what it was told."""
    server, heard = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        for pieces in conversations:
            connection, _ = server.accept()
            connection.settimeout(5)
            heard.append(connection.recv(1000))
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.03)
                heard[-1] += connection.recv(1000) if b"PING" in piece or b"001" in piece else b""
            connection.close()
        server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return server.getsockname()[1], heard


def test_a_line_that_breaks_off_loses_nothing_that_was_said_before(tmp_path, monkeypatch, capsys):
    naps = []
    monkeypatch.setattr(chat_rnn.time, "sleep", lambda seconds, sleep=time.sleep: (naps.append(seconds), sleep(0.02)))
    cut = b":a!b@c PRIVMSG #chat :first message \xc3\xa4\r\n@badge=1;x=2 :a!b@c PRIV"
    port, heard = scripted_server(
        [WELCOME + cut, b"MSG #chat :second mess", b"age\r\nPING :42\r\n", b":a!b@c PRIVMSG #chat :this one is lo"],
        [b":s 433 * me :Nickname is already in use\r\n"],
        [WELCOME, b":tmi RECONNECT\r\n"],
        [WELCOME, b":a!b@c PRIVMSG #chat :back again\r\n"],
    )
    path = tmp_path / "chat.txt"
    flags = {"server": "127.0.0.1", "port": port, "tls": False, "max_collected": 3, "channels": ("chat", "#B")}
    assert chat_rnn.collect(Args(collect=path, **flags)) == 3
    assert path.read_text() == "first message\nsecond message\nback again\n"
    assert re.match(rb"NICK justinfan\d{5}\r\nUSER justinfan", heard[0])
    assert b"JOIN #chat,#b\r\n" in heard[0] and b"PONG :42\r\n" in heard[0]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all("connection lost" in line and "2 messages kept" in line for line in said)
    assert "already in use" in said[1] and "RECONNECT" in said[2]
    assert [nap for nap in naps if nap >= 1] == [1, 2, 1]  # longer after a failure, shorter after a success


def test_every_message_is_in_the_file_at_once_and_ctrl_c_keeps_them(tmp_path, monkeypatch):
    path = tmp_path / "chat.txt"

    def interrupted(args, joined):
        joined()
        yield "one message"
        assert path.read_text() == "one message\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_rnn, "read_messages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat_rnn.collect(Args(collect=path, channels=("chat",)))
    assert path.read_text() == "one message\n"

    def full(args, joined):
        joined()
        path.unlink()
        path.mkdir()  # as good as a full disk
        yield "another message"

    monkeypatch.setattr(chat_rnn, "read_messages", full)
    with pytest.raises(UsageError, match=r"--collect .*after 0 messages"):  # and not "connection lost"
        chat_rnn.collect(Args(collect=path, channels=("chat",)))


def test_silence_is_asked_about_once_and_then_given_up():
    class Silent:
        sent, settimeout = b"", lambda *_: None

        def sendall(self, data):
            self.sent += data

        def recv(self, size):
            raise TimeoutError

    silent = Silent()
    with pytest.raises(ConnectionError, match="no answer"):
        next(chat_rnn.read_lines(silent))
    assert silent.sent.count(b"PING") == 1


# --- training --------------------------------------------------------------------------------


def test_it_learns_the_grammar_and_its_copypasta_and_leaves_its_pictures(trained, tmp_path):
    folder, row = trained
    assert row["eval/floor"] < row["eval/loss"] < 1.06 * row["eval/floor"]
    assert row["eval/copypasta_from_beginning"] >= 0.75 and row["eval/copypasta_from_middle"] is not None
    assert row["eval/loops_sampled"] < 0.02
    names = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "chat.png", "prompts.md"}
    train(Args(**SMALL, epochs=0.5, run_dir=tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    table = (folder / "prompts.md").read_text().splitlines()
    assert len(table) == 7 and all(line.count("|") == 6 for line in table)
    pasted = [line.split(" | ") for line in table if "half a copypasta" in line]
    assert any(f"{cells[1]} {cells[2]}" in chat_rnn.COPYPASTA for cells in pasted)
    assert "rare" not in "".join(table)


def test_an_update_does_not_depend_on_how_the_batch_is_shared_out(tmp_path):
    """Two processes, as torchrun starts them, write the rows that one writes."""
    flags = SMALL | {"epochs": 0.6, "log_every": 2, "num_layers": 2, "tied_weights": True}
    train(Args(**flags, run_dir=tmp_path / "one"))
    port = free_port()
    processes = []
    for rank in range(2):
        process = os.fork()
        if process == 0:
            status = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                train(Args(**flags, run_dir=tmp_path / "two"))
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        training = [key for key in a if a[key] and key.startswith(("losses", "eval/loss", "eval/perpl", "charts"))]
        assert all(float(a[key]) == pytest.approx(float(b[key]), rel=1e-4) for key in training)


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL, epochs=0.5, log_every=3, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert (tmp_path / "a/prompts.md").read_text() == (tmp_path / "b/prompts.md").read_text()
    assert len(rows(tmp_path / "a")) == 2


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    flags = SMALL | {"epochs": 1.5, "log_every": 3, "checkpoint_every": 2}
    train(Args(**flags, run_dir=tmp_path / "whole"))
    log, logged = chat_rnn.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(chat_rnn.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**flags, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 5
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "half"))
    assert all(torch.equal(whole[key], half[key]) for key in whole)


def test_the_step_size_falls_linearly_to_zero(tmp_path):
    train(Args(**SMALL, epochs=1.0, log_every=1, run_dir=tmp_path / "run"))
    rates = [float(row["charts/learning_rate"]) for row in rows(tmp_path / "run")]
    assert rates == pytest.approx([0.005 * (1 - step / 9) for step in range(9)])


def test_evaluate_repeats_the_perplexity_of_the_last_row(trained, capsys):
    folder, row = trained
    assert chat_rnn.evaluate(folder) == pytest.approx(row["eval/perplexity"], rel=1e-6)
    assert f"perplexity {row['eval/perplexity']:.3f}" in capsys.readouterr().out


def test_bfloat16_is_refused_before_anything_is_written_where_the_processor_cannot(tmp_path, monkeypatch):
    def cannot(*_):
        raise RuntimeError("could not create a primitive descriptor for the LSTM. Run workload with ...")

    monkeypatch.setattr(chat_rnn.nn.LSTM, "forward", cannot)
    with pytest.raises(UsageError, match="--bf16: leave it out"):
        train(Args(**SMALL, bf16=True, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_bfloat16_learns_what_float32_learns(tmp_path):
    try:
        chat_rnn.check_bf16(Args(bf16=True), torch.device("cpu"))
    except UsageError as error:
        pytest.skip(str(error))
    found = [train(Args(**SMALL, epochs=2, bf16=bf16, run_dir=tmp_path / str(bf16))) for bf16 in (False, True)]
    assert found[0]["eval/loss"] != found[1]["eval/loss"]
    assert found[1]["eval/loss"] == pytest.approx(found[0]["eval/loss"], rel=0.02)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_rnn, "losses", lambda model, batch, masks: model.output.bias[batch.targets] * math.nan)
    with pytest.raises(FloatingPointError, match="no number"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


# --- talking ---------------------------------------------------------------------------------


def test_talk_completes_every_line_until_the_input_ends(trained, monkeypatch, capsys):
    folder, row = trained
    paste = chat_rnn.COPYPASTA[0].split()
    typed = [" ".join(paste[:5]).upper() + "!", "unheardofword", "", " ".join(paste)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(typed)))
    chat_rnn.talk(Args(talk=folder, temperature=0.0))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{typed[0]} {' '.join(paste[5:])}"
    assert len(said) == 4 and len(said[1].split()) > 1 and "<rare" not in "".join(said)
    assert said[3].split() == paste  # twenty words are a message
    assert row["time/completion"] < 5


def test_somebody_types_presses_and_reads_the_completion_in_a_browser(trained):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    folder, _ = trained
    port, paste = free_port(), chat_rnn.COPYPASTA[2].split()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            chat_rnn.demo(Args(demo=folder, demo_port=port, temperature=0.0))
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        with pytest.raises(UsageError, match=f"--demo-port {port}: Address already in use"):
            chat_rnn.demo(Args(demo=folder, demo_port=port))
        with sync_api.sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_label("you", exact=True).fill(" ".join(paste[:6]))
            page.get_by_role("button", name="Complete").click()
            answer = page.get_by_label("the chat", exact=True)
            sync_api.expect(answer).to_have_value(" ".join(paste), timeout=20_000)
    finally:
        os.kill(process, signal.SIGINT)
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 130


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"epochs": 0.0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 541, "num_messages": 600}, "--batch-size: at most 540"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"dropout": 1.0}, "--dropout"),
        ({"clip": math.nan}, "--clip"),
        ({"test_share": 1.0}, "--test-share"),
        ({"cutoffs": (30, 20)}, "--cutoffs"),
        ({"cutoffs": (1,)}, "--cutoffs"),
        ({"min_count": 10**6, "num_messages": 600}, "--min-count 1000000: no word"),
        ({"temperature": -0.1}, "--temperature"),
        ({"port": 70_000}, "--port"),
        ({"collect": Path("x")}, "--channels"),
        ({"data": Path("nowhere")}, "--data nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"", "needs at least 20 messages"),
        (b"word\n" * 100, "needs at least 20 messages"),
        (bytes(range(256)) * 9, "is no text"),
        (gzip.compress(b"a b\n" * 99)[:-9], "cannot be read"),
        (gzip.compress(bytes(999)), "is no text"),
    ],
    ids=["empty", "single words", "binary", "cut gzip", "binary gzip"],
)
def test_a_file_that_is_no_chat_is_refused(data, complaint, tmp_path):
    (tmp_path / "chat").write_bytes(data)
    with pytest.raises(UsageError, match=f"--data .*chat.*{complaint}"):
        train(Args(data=tmp_path / "chat", run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_used_says_so(tmp_path):
    verbs = {
        "--resume": lambda: train(Args(resume=tmp_path / "run")),
        "--evaluate": lambda: chat_rnn.evaluate(tmp_path / "run"),
        "--talk": lambda: chat_rnn.talk(Args(talk=tmp_path / "run")),
        "--demo": lambda: chat_rnn.demo(Args(demo=tmp_path / "run")),
    }
    for flag, verb in verbs.items():
        with pytest.raises(UsageError, match=f"{flag} .*no run to load"):
            verb()
    train(Args(**SMALL, epochs=0.2, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, epochs=0.2, run_dir=tmp_path / "run"))
    saved = tmp_path / "run/args.json"
    kept = saved.read_text()
    saved.write_text(json.dumps(json.loads(kept) | {"width": 4}))
    for verb in verbs.values():
        with pytest.raises(UsageError, match="does not fit"):
            verb()
    saved.write_text(json.dumps(json.loads(kept) | {"num_messages": 500}))
    with pytest.raises(UsageError, match="another vocabulary"):
        chat_rnn.evaluate(tmp_path / "run")
    saved.write_text(json.dumps({"run_name": "x", "latent_dim": 4}))
    with pytest.raises(UsageError, match="run of another script"):
        chat_rnn.talk(Args(talk=tmp_path / "run"))


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--resume", "x", "--seed", "1"], "leave out --seed"),
        (["--talk", "x", "--epochs=2"], "leave out --epochs"),
        (["--collect", "x", "--channels", "c", "--no-cuda"], "leave out --cuda"),
        (["--talk", "x", "--temperature", "0.5", "--allow-rare", "--seed", "3"], "no run to load"),
        (["--demo", "x", "--demo_port", "80"], "no run to load"),
    ],
)
def test_flags_that_a_verb_has_no_use_for_are_refused(flags, complaint):
    with pytest.raises(UsageError, match=complaint):
        chat_rnn.main(flags)
