# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic>=2.6", "tyro>=0.9.2"]
# ///
"""Collect chat messages for gen/chat_rnn.py: read IRC channels, clean what is said, append a line per message.

    python gen/chat_collect.py --file chat.txt --channels CHANNEL
    python gen/chat_collect.py --file chat.txt --channels ubuntu --server irc.libera.chat --nick NICK

Twitch's chat is IRC and can be read without an account: its nicknames justinfan and a number are anonymous. A message
is kept in lower case with letters, digits and single spaces only; one of fewer than two words is dropped. It is
written at once, so that Ctrl-C loses nothing, and a lost connection is opened again.

Frans 2016 (http://kvfrans.com/simulating-twitch-chat-with-a-recurrent-neural-network/): the scraper and its cleaning.
RFC 2812: the protocol. Difference: words are cleaned before they are counted, not after.
"""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass


@dataclass(config={"allow_inf_nan": False})
class Args:
    file: Path
    """text file to append to"""
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    """channels to read, with or without #"""
    server: str = "irc.chat.twitch.tv"
    """IRC server"""
    port: Annotated[int, Field(ge=1, le=65535)] = 6697
    """its port"""
    tls: bool = True
    """encrypt the connection and check the server's certificate"""
    nick: str = "justinfan12345"
    """nickname; justinfan and a number is an anonymous reader of Twitch"""
    max_messages: NonNegativeInt = 0
    """number of messages to stop after; 0: never"""


def clean(text: str) -> str | None:
    """Lower case, letters, digits and single spaces; None for fewer than two words."""
    words = re.sub(r"[^0-9a-z ]", "", re.sub(r"\s", " ", text).lower()).split()
    return " ".join(words) if len(words) >= 2 else None


def parse_line(line: str) -> tuple[str, list[str]]:
    """An IRC line "@tags :sender COMMAND middle :last one" -> its command and parameters."""
    match = re.fullmatch(r"(?:@\S* +)?(?::\S* +)?(\S+)(.*)", line)
    if not match:
        return "", []
    middle, colon, last = match[2].partition(" :")
    return match[1].upper(), middle.split() + ([last] if colon else [])


def read_lines(connection: socket.socket) -> Iterator[str]:
    """The server's lines, however the bytes arrive, until it closes the connection."""
    rest = b""
    while data := connection.recv(65536):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > 2**16:
            raise ConnectionError("this is no IRC server")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")


def read_messages(args: Args) -> Iterator[str | None]:
    """What is said in the channels, and None when they have been joined. Raises OSError when the connection ends."""
    with socket.create_connection((args.server, args.port), timeout=30) as plain:
        context = ssl.create_default_context() if args.tls else None
        with context.wrap_socket(plain, server_hostname=args.server) if context else plain as connection:
            connection.settimeout(600)  # servers send a PING every few minutes
            connection.sendall(f"NICK {args.nick}\r\nUSER {args.nick} 0 * :{args.nick}\r\n".encode())
            for line in read_lines(connection):
                command, parameters = parse_line(line)
                if command == "PING":
                    connection.sendall(f"PONG :{parameters[-1] if parameters else ''}\r\n".encode())
                elif command == "001":  # welcome
                    channels = ",".join(f"#{channel.lower().lstrip('#')}" for channel in args.channels)
                    connection.sendall(f"JOIN {channels}\r\n".encode())
                elif command == "366":  # end of a channel's list of names
                    yield None
                elif command == "PRIVMSG" and parameters and parameters[0].startswith("#"):
                    yield parameters[-1].removeprefix("\x01ACTION ")
                elif command == "ERROR" or (re.fullmatch(r"[45]\d\d", command) and command not in ("421", "422")):
                    raise ConnectionError(" ".join([command, *parameters]))  # no such channel, bad nickname, ...
    raise ConnectionError("the server closed the connection")


def collect(args: Args) -> int:
    """Append cleaned messages to args.file until there are --max-messages; returns how many."""
    count, joined, wait = 0, False, 1
    try:
        file = args.file.open("a+b", buffering=0)
    except OSError as error:
        raise UsageError(f"--file {args.file}: {error.strerror}") from None
    with file:
        if file.tell() and args.file.read_bytes()[-1:] != b"\n":
            file.write(b"\n")  # the last writer was interrupted
        while True:
            try:
                for message in read_messages(args):
                    if message is None:
                        print(f"reading {' '.join(args.channels)}; Ctrl-C ends it", flush=True)
                        joined, wait = True, 1
                    elif text := clean(message):
                        file.write(f"{text}\n".encode())
                        count += 1
                        if count == args.max_messages:
                            return count
            except OSError as error:
                if not joined:
                    raise UsageError(f"--server {args.server}: {error}; check --port, --tls, --channels") from None
                print(f"connection lost ({error}); {count} messages so far, trying again in {wait} s", flush=True)
                time.sleep(wait)
                wait = min(2 * wait, 60)


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


if __name__ == "__main__":
    try:
        print(f"{collect(tyro.cli(Args, description=__doc__))} messages appended")
    except (UsageError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the messages so far are in the file") from None
