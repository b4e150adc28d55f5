"""195,611 messages of the Ubuntu channel, fetched once from their public repository; then the command that needs them.

    python benchmarks/ubuntu_chat.py
    python benchmarks/ubuntu_chat.py gen/chat_rnn.py --data data/ubuntu-irc.txt.gz

The training part of github.com/jkkummerfeld/irc-disentanglement (Kummerfeld et al. 2019, "A large-scale corpus for
conversation disentanglement", CC BY 4.0), in the order of time; what joins, leaves and repeats within the same minute
is left out. They are kept as data/ubuntu-irc.txt.gz, and their digest is checked before they are moved there.
"""

import gzip
import hashlib
import io
import re
import runpy
import sys
import tarfile
import urllib.request
from pathlib import Path

COMMIT = "82ed04f9627a45d0d6f2ec3c8683c88eb408a0d5"
URL = f"https://github.com/jkkummerfeld/irc-disentanglement/archive/{COMMIT}.tar.gz"
SHA256 = "8ed2b6c9e9596d11008636c896408aafea49f1dd4d5ee76509ee4a897ede97f8"  # of the messages, a line each
PATH = Path("data", "ubuntu-irc.txt.gz")


def read_messages(archive: bytes) -> str:
    """The messages of an archive of the repository, one a line."""
    days, messages = {}, []
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            if match := re.search(r"data/train/([^/]*)\.raw\.txt$", member.name):
                days[match[1]] = files.extractfile(member).read().decode("utf-8", "replace")
    for day in sorted(days):
        for line in dict.fromkeys(days[day].split("\n")):  # each once: minute, name and words
            match = re.match(r"\[\d\d:\d\d\] <[^>]+> (.*)", line)
            if match and match[1].strip():
                messages.append(match[1].strip())
    return "".join(f"{message}\n" for message in messages)


def fetch():
    """Put the messages there."""
    with urllib.request.urlopen(URL, timeout=60) as file:
        text = read_messages(file.read()).encode()
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise SystemExit(f"{PATH} is not there, and {URL} holds other messages")
    PATH.parent.mkdir(parents=True, exist_ok=True)
    part = PATH.with_suffix(".part")
    part.write_bytes(gzip.compress(text))
    part.replace(PATH)


if __name__ == "__main__":
    if not PATH.exists():
        fetch()
    if sys.argv[1:]:
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
