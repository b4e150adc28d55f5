"""The chat page: the same network as in training, word for word, and a completion in a browser."""

import inspect
import json
import shutil

import pytest
import torch

from gen import chat_demo as demo
from gen import chat_rnn
from gen.chat_demo import Args, UsageError, answer, load, make_page, serve

CHROMIUM = shutil.which("chromium")
FLAGS = {"width": 8}
VOCABULARY = ["<eos>", "<unk>", *(f"word{i}" for i in range(28))]


@pytest.fixture
def run_dir(tmp_path):
    """What a run of chat_rnn.py leaves, with large random weights, so that its choices are far apart."""
    torch.manual_seed(2)
    model = chat_rnn.ChatRNN(len(VOCABULARY), **FLAGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-2, 2)
        model.output.head.weight[0] = 0  # a message does not end at once
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(FLAGS))
    (folder / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    torch.save({"model": model.state_dict()}, folder / "model.pt")
    return folder


def test_what_is_copied_from_training_is_the_same_word_for_word():
    for name in ("__init__", "forward", "complete"):
        theirs, ours = (getattr(module.ChatRNN, name) for module in (chat_rnn, demo))
        assert inspect.getsource(theirs) == inspect.getsource(ours)
    assert inspect.getsource(demo.clean) == inspect.getsource(chat_rnn.clean)
    assert (demo.MAX_WORDS, demo.END, demo.UNK) == (chat_rnn.MAX_WORDS, chat_rnn.END, chat_rnn.UNK)


def test_trainings_weights_complete_the_same_message_here(run_dir):
    model, vocabulary = load(run_dir)
    trained = chat_rnn.ChatRNN(len(VOCABULARY), **FLAGS).eval()
    trained.load_state_dict(torch.load(run_dir / "model.pt", weights_only=True)["model"])
    completions = set()
    for typed in ([], [7, 3], [2] * 6, *([word] for word in range(2, 20))):
        text = " ".join(VOCABULARY[i] for i in typed)
        added = [VOCABULARY[i] for i in trained.complete(typed, 0.0)]
        assert answer(model, vocabulary, f" {text.upper()}!", 0.0) == " ".join([*text.split(), *added])
        completions.add(tuple(added))
    assert len(completions) > 1
    rest = [VOCABULARY[i] for i in trained.complete([chat_rnn.UNK], 0.0)]
    assert answer(model, vocabulary, "unheard", 0.0).split() == ["unheard", *rest]
    words = answer(model, vocabulary, "never seen", 1.0).split()
    assert words[:2] == ["never", "seen"] and set(words[2:]) <= set(VOCABULARY[2:])
    assert len(answer(model, vocabulary, "word1 " * 50, 1.0).split()) <= 20
    assert len(answer(model, vocabulary, "x" * 10_000, 0.0).split()[0]) == demo.MAX_CHARACTERS
    assert "<" not in answer(model, vocabulary, "<b>word1</b>", 0.0)


def test_the_page_is_for_this_machine_only(run_dir, monkeypatch):
    settings = {}
    monkeypatch.setattr("gradio.Blocks.launch", lambda page, **given: settings.update(given))
    serve(Args(model=run_dir))
    assert settings == {"server_name": "127.0.0.1"}


def test_a_folder_that_cannot_be_used_is_named(run_dir, tmp_path):
    with pytest.raises(UsageError, match="--model"):
        serve(Args(model=tmp_path / "nowhere"))
    (run_dir / "args.json").write_text(json.dumps(FLAGS | {"width": 16}))
    with pytest.raises(UsageError, match="--model"):
        load(run_dir)


@pytest.mark.timeout(600)  # a browser takes its time on a busy machine
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's chromium")
def test_somebody_types_and_reads_the_completion_in_a_browser(run_dir, tmp_path, monkeypatch):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shipped, asked = demo.answer, []
    monkeypatch.setattr(demo, "answer", lambda *given: asked.append(given[2:]) or shipped(*given))
    app = make_page(*load(run_dir))
    _, url, _ = app.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    assert url.startswith("http://127.0.0.1:")
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            page.get_by_label("you").fill("word1 word4")
            page.get_by_role("button", name="Complete").click()
            page.wait_for_function("document.querySelectorAll('textarea')[1].value.startsWith('word1 word4')")
            browser.close()
    finally:
        app.close()
    assert asked == [("word1 word4", 0.7)]
