"""Chat model: data, probabilities and completions against plain recursions; training down to the grammar's entropy."""

import csv
import gzip
import io
import math

import numpy as np
import pytest
import torch

from benchmarks.chat_judge import message_nats
from benchmarks.kneser_ney import KneserNey
from gen import chat_rnn
from gen.chat_rnn import END, UNK, Args, ChatRNN, UsageError, clean, load_data, make_batches, make_chat, train

SMALL = {"width": 12}


def model_and_rows(n=30, num_words=40, dropout=0.0):
    torch.manual_seed(0)
    model = ChatRNN(num_words, **SMALL, dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that probabilities differ
    rows = torch.zeros(n, 21, dtype=torch.long)
    for i, row in enumerate(rows):
        length = 20 if i < 3 else 2 + i % 9
        row[1 : length + 1] = torch.randint(1, num_words, (length,))
    return model, rows


def log_probs(model, words):
    """log p of every word after END and these words, word by word through the LSTM."""
    state, hidden = None, None
    for word in [END, *words]:
        hidden, state = model(torch.tensor([[word]]), state)
    return model.output.log_prob(hidden[0])[0]


def test_messages_are_read_cleaned_cut_and_split_by_time(tmp_path):
    lines = [" ".join(f"w{i}" for i in range(25))] * 6 + ["four\ttwo"] * 4 + ["One, two three!"] * 30 + ["single"] * 9
    lines += ["late four one"] * 4 + ["late one\u2028three"]
    for path, write in ((tmp_path / "chat.txt", open), (tmp_path / "chat.txt.gz", gzip.open)):
        with write(path, "wb") as file:
            file.write(("\r\n".join(lines) + "\n").encode())
        rows, test, vocabulary = load_data(Args(data=path, batch_size=4))
        assert rows.shape == (40, 21)
        assert len(test) == 5
        assert vocabulary[:5] == ["<eos>", "<unk>", "two", "one", "three"]  # by frequency, then by the alphabet
        assert "four" not in vocabulary and "late" not in vocabulary and "w19" in vocabulary and "w20" not in vocabulary
        assert test[-1, :5].tolist() == [END, UNK, 3, 4, END] and test[-2, 1:4].tolist() == [UNK, UNK, 3]
        assert (rows[0] != END).sum() == 20
    assert load_data(Args(data=path, batch_size=4, max_vocabulary=22))[2] == vocabulary[:22]
    assert clean(" It's 2 o'clock\x85now") == ["its", "2", "oclock", "now"]


def test_an_epoch_takes_every_message_once_in_batches_of_equal_length():
    torch.manual_seed(0)
    rows = torch.zeros(1000, 21, dtype=torch.long)
    for i, row in enumerate(rows):
        row[1 : 3 + i % 17] = i + 2
    batches = make_batches(rows, 8)
    assert torch.equal(torch.cat(batches)[:, 1].sort().values, torch.arange(1000) + 2)
    lengths = [(batch != END).sum(1) for batch in batches]
    assert sum(int(length.max() - length.min()) for length in lengths) / len(batches) < 1.5
    means = torch.stack([(batch != END).sum(1).float().mean() for batch in make_batches(rows[:400], 8)])
    assert abs(float(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1])) < 0.5


def test_the_probabilities_of_all_words_sum_to_one():
    model, _ = model_and_rows()
    assert log_probs(model, [3, 7]).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_batch_costs_what_its_words_cost_one_by_one_and_padding_nothing():
    model, rows = model_and_rows()
    costs = []
    for row in rows.tolist():
        words = [word for word in row[1:] if word != END]
        targets = [*words, END][:20]  # the end is not predicted after 20 words
        costs += [-log_probs(model, words[:t])[target].item() for t, target in enumerate(targets)]
    assert model.nll(rows).tolist() == pytest.approx(costs, abs=1e-4)


def test_dropout_is_between_the_layers_and_around_them():
    model, rows = model_and_rows(dropout=0.5)
    assert not torch.equal(model.nll(rows), model.nll(rows))
    assert model.lstm.dropout == 0.5
    model.lstm.dropout = 0.0
    whole, seen = model.lstm(model.embedding(rows))[0], []
    with model.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        model(rows)
    assert 0.45 < (seen[0] == 0).float().mean() < 0.55  # before the first layer
    hidden = torch.stack([model(rows)[0] for _ in range(400)])
    assert 0.45 < (hidden == 0).float().mean() < 0.55  # after the last layer
    model.dropout.eval()
    assert torch.equal(model(rows)[0], whole)
    assert torch.equal(model.eval().nll(rows), model.nll(rows))


def test_greedy_completions_take_the_most_likely_word_and_samples_follow_the_probabilities():
    model, _ = model_and_rows()
    words = [3, 7]
    while len(words) < 20:
        scores = log_probs(model, words)
        scores[UNK] = -math.inf
        if (word := int(scores.argmax())) == END:
            break
        words.append(word)
    assert model.complete([3, 7], 0.0) == words[2:]
    torch.manual_seed(0)
    n, temperature = 3000, 0.7
    first = [[*model.complete([5] * 18, temperature), END][0] for _ in range(n)]
    p = log_probs(model, [5] * 18)
    p[UNK] = -math.inf
    p = (p / temperature).softmax(0)
    for word in p.topk(3).indices.tolist():
        assert abs(first.count(word) / n - float(p[word])) < 4 * 0.5 / n**0.5
    assert UNK not in first and len(model.complete([5] * 19, 1.0)) <= 1


def test_the_cost_of_a_message_under_the_grammar_is_minus_its_log_frequency():
    messages = [tuple(message) for message in make_chat(20_000)]
    assert make_chat() == make_chat()
    for message in (("hello", "moonbyte"), ("kappa", "kappa", "kappa"), ("moonbyte", "is", "good"), messages[-1]):
        p = math.exp(-message_nats(list(message)))
        assert abs(messages.count(message) / 20_000 - p) < 4 * (p / 20_000) ** 0.5
    assert message_nats(["hello", "hello"]) == math.inf


def test_counting_gives_probabilities_that_sum_to_one():
    triples = torch.randint(0, 20, (400, 3), generator=torch.Generator().manual_seed(0)).numpy()
    model = KneserNey(triples, 20)
    for before in [triples[0, :2], triples[1, :2], (0, 0)]:
        p = model.probability(np.array([(*before, word) for word in range(20)]))
        assert p.sum() == pytest.approx(1)
        assert (p > 0).all()


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "charts/SPS"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("chat") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_rnn, "make_chat", lambda: make_chat(4000))
        train(Args(run_dir=run_dir, width=48, epochs=4, batch_size=24, learning_rate=0.02, dropout=0.05, cuda=False))
    return run_dir


def test_it_learns_the_grammar_almost_to_its_entropy(trained):
    test = make_chat(4000)[3600:]
    floor = sum(map(message_nats, test)) / sum(min(len(message) + 1, 20) for message in test)
    last = rows_of(trained)[-1]
    assert floor < float(last["eval/nll"]) < 1.3 * floor
    assert float(last["eval/perplexity"]) == pytest.approx(math.exp(float(last["eval/nll"])))
    assert {p.name for p in trained.iterdir()} == {
        *("args.json", "metrics.csv", "model.pt", "vocabulary.json", "curve.png")
    }


def test_talk_completes_what_is_typed_whatever_the_bytes(trained, monkeypatch, capsys):
    typed = io.TextIOWrapper(io.BytesIO(b"Imagine losing a\nzz\xffz\n" + b"hello " * 30 + b"\n\nthe dec"))
    monkeypatch.setattr("sys.stdin", typed)
    assert train(Args(talk=trained, temperature=0.0)) == {}
    first, second, third, *_ = capsys.readouterr().out.replace("> ", "").splitlines()
    assert first == "imagine losing a won game because your little brother wanted to look at the map for one second"
    assert second.startswith("zzz")
    assert third == " ".join(["hello"] * 30)


def test_the_seed_decides_every_number_and_the_learning_rate_falls_to_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_rnn, "make_chat", lambda: make_chat(400))
    steps, step = [], torch.optim.Adam.step

    def recorded(self, *args, **kwargs):
        group = self.param_groups[0]
        steps.append((group["lr"], torch.cat([p.grad.flatten() for p in group["params"]]).norm().item()))
        return step(self, *args, **kwargs)

    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: clip(parameters, limit / 500))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, epochs=2, cuda=False, seed=seed, **SMALL))
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") != rows_of(tmp_path / "c")
    rates, norms = zip(*steps[: len(steps) // 3], strict=True)
    assert list(rates) == pytest.approx([0.005 * (1 - i / len(rates)) for i in range(len(rates))])
    assert max(norms) < 0.0101


def test_every_word_counts_alike_and_held_out_messages_are_measured_without_dropout(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_rnn, "make_chat", lambda: make_chat(400))
    losses, weights, nll = [], [], ChatRNN.nll

    def recorded(self, batch):
        losses.append((torch.is_grad_enabled(), self.training, nll(self, batch)))
        if self.training:
            losses[-1][2].register_hook(weights.append)  # the gradient of the loss by each word's
        return losses[-1][2]

    args = Args(run_dir=tmp_path / "run", epochs=2, cuda=False, dropout=0.5, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(ChatRNN, "nll", recorded)
        row = train(args)
    trained = [loss for learns, training, loss in losses if learns and training]
    assert row["losses/nll"] == pytest.approx(torch.cat(trained[len(trained) // 2 :]).mean().item(), abs=1e-5)
    assert all(learns == training for learns, training, _ in losses)
    train_rows, test, _ = load_data(args)
    words = sum(min((row != END).sum().item() + 1, 20) for row in train_rows)
    assert torch.allclose(torch.cat(weights), torch.tensor(len(train_rows) / args.batch_size / words))
    model = ChatRNN(len(load_data(args)[2]), **SMALL, dropout=0.5).eval()
    model.load_state_dict(torch.load(tmp_path / "run/model.pt", weights_only=True)["model"])
    assert row["eval/nll"] == pytest.approx(model.nll(test).mean().item(), abs=1e-5)


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "few.txt").write_text("one two\n" * 5)
    packed = gzip.compress(b"one two\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(packed[:20])
    (tmp_path / "broken.gz").write_bytes(packed[:12] + b"\xff" * 20)
    for name, word in {
        "nowhere.txt": "No such file",
        "few.txt": "too few",
        "cut.gz": "",
        "broken.gz": "",
        ".": "directory",
    }.items():
        with pytest.raises(UsageError, match=f"--data.*{word}"):
            train(Args(data=tmp_path / name, run_dir=tmp_path / "run"))
    for content in (None, "{}", "["):
        if content:
            (tmp_path / "args.json").write_text(content)
            (tmp_path / "vocabulary.json").write_text("[]")
        with pytest.raises(UsageError, match="--talk"):
            train(Args(talk=tmp_path))
    for name, bad in (("dropout", 1.0), ("epochs", 0), ("temperature", -1.0)):
        with pytest.raises(ValueError, match=name):
            Args(**{name: bad})
    assert not (tmp_path / "run").exists()
