"""The readers of files and lines, over content cut and changed at random: what comes back has its shape, or one message
names the file."""

import gzip
import importlib
import io
import socket
import tarfile
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen import chat_collect, chat_rnn

MNIST = [
    *("gen.nice", "gen.vae", "gen.iwae", "gen.draw", "gen.pixelcnn", "gen.gan", "gen.infogan", "gen.vae_gan"),
    *("algos.es_mnist", "algos.node_perturbation_mnist", "algos.reinforce_mnist"),
]
CIFAR10 = ["gen.pixelcnn", "gen.gan", "gen.vae_gan", "gen.realnvp", "gen.revnet", "gen.deconvnet"]
FILES = {
    "train-images-idx3-ubyte.gz": gzip.compress(bytes(16) + bytes(range(256)) * 49),  # 16 images
    "t10k-images-idx3-ubyte.gz": gzip.compress(bytes(16) + bytes(range(256)) * 49),
    "train-labels-idx1-ubyte.gz": gzip.compress(bytes(8) + bytes(range(10)) + bytes(6)),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(bytes(8) + bytes(range(10)) + bytes(6)),
}


def cifar10() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = 2 * 3073
            tar.addfile(member, io.BytesIO((bytes([3]) + bytes(3072)) * 2))
    return archive.getvalue()


FILES["cifar-10-binary.tar.gz"] = cifar10()
few = settings(max_examples=15, deadline=2000, derandomize=True, suppress_health_check=list(HealthCheck))


def changed(content: bytes) -> st.SearchStrategy[bytes]:
    """Content cut, one byte of it changed or repeated, or anything at all, compressed or not."""
    place = st.integers(0, len(content) - 1)
    return st.one_of(
        place.map(lambda i: content[:i]),
        st.tuples(place, st.integers(0, 255)).map(lambda x: content[: x[0]] + bytes([x[1]]) + content[x[0] + 1 :]),
        place.map(lambda i: content[:i] + content[i : i + 1] + content[i:]),
        st.binary(max_size=2000),
        st.binary(max_size=2000).map(gzip.compress),
    )


@pytest.mark.parametrize(
    "module, dataset", [*((module, "mnist") for module in MNIST), *((module, "cifar10") for module in CIFAR10)]
)
def test_a_damaged_data_set_is_named_or_read(module, dataset, tmp_path):
    script = importlib.import_module(module)
    load = getattr(script, "load_images", None) or script.load_data
    names = [name for name in FILES if name.startswith("cifar") == (dataset == "cifar10")]
    args = script.Args(dataset=dataset, data_dir=tmp_path)

    @few
    @given(st.data())
    def check(data):
        damaged = data.draw(st.sampled_from(names))
        for name in names:
            (tmp_path / name).write_bytes(data.draw(changed(FILES[name])) if name == damaged else FILES[name])
        try:
            loaded, message = load(args), ""
        except script.UsageError as error:
            loaded, message = [], str(error)
        tensors = [loaded] if isinstance(loaded, torch.Tensor) else [x for x in loaded if isinstance(x, torch.Tensor)]
        assert str(tmp_path / damaged) in message or (tensors and all(len(x) <= 16 for x in tensors))

    check()


@few
@given(changed(b"how do i install this\nno idea try the wiki\n" * 9), st.sampled_from([".txt", ".gz"]))
def test_a_chat_of_any_bytes_becomes_words_or_a_message(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("chat") / f"chat{suffix}"
    path.write_bytes(content)
    try:
        messages, complaint = chat_rnn.read_chat(path), ""
    except chat_rnn.UsageError as error:
        messages, complaint = [], str(error)
    assert not complaint or str(path) in complaint
    assert all(word.isascii() and word.isalnum() and word == word.lower() for words in messages for word in words)
    assert all(chat_collect.clean(" ".join(words)) == " ".join(words) for words in messages)


@few
@given(st.text(st.characters(blacklist_characters="\n"), max_size=500))
def test_any_line_of_a_server_is_a_command_with_parameters(line):
    command, parameters = chat_collect.parse_line(line)
    assert " " not in command and all(isinstance(parameter, str) for parameter in parameters)


@few
@given(st.binary(max_size=3000), st.integers(1, 700))
def test_lines_are_the_same_however_the_bytes_arrive(content, size):
    ours, theirs = socket.socketpair()

    def send():
        with theirs:
            for start in range(0, len(content), size):
                theirs.sendall(content[start : start + size])

    thread = threading.Thread(target=send)
    thread.start()
    with ours:
        lines = list(chat_collect.read_lines(ours))
    thread.join()
    assert lines == [line.decode("utf-8", "replace").rstrip("\r") for line in content.split(b"\n")[:-1]]
