"""Collecting chat: the cleaning, lines however they arrive, lost connections, TLS."""

import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from gen import chat_collect
from gen.chat_collect import Args, UsageError, clean, collect, parse_line, read_lines

WELCOME = b":s 001 me :Welcome\r\n:s 353 me = #chat :me\r\n:s 366 me #chat :End\r\n"


def test_messages_are_cleaned_as_the_post_does():
    assert clean("  Hello\tTHERE,   it's 2 o'clock!\x01 ") == "hello there its 2 oclock"
    assert clean("one\u2028two \x1dthree\x1d") == "one two three"
    assert clean("Kappa") is None and clean("!!! ?") is None and clean("") is None


@pytest.mark.parametrize(
    "line, command, parameters",
    [
        (":a!b@c PRIVMSG #chat :hello : there", "PRIVMSG", ["#chat", "hello : there"]),
        ("@badge=1;x=2 :a!b@c privmsg #chat word", "PRIVMSG", ["#chat", "word"]),
        ("PING :x y", "PING", ["x y"]),
        (":s 005 me KEY:3 :are supported", "005", ["me", "KEY:3", "are supported"]),
        (":s 433 * me :Nickname is already in use", "433", ["*", "me", "Nickname is already in use"]),
        ("", "", []),
    ],
)
def test_a_line_is_its_command_and_parameters(line, command, parameters):
    assert parse_line(line) == (command, parameters)


def test_lines_are_whole_however_the_bytes_arrive():
    ours, theirs = socket.socketpair()
    with ours:
        for piece in (b"first\r\nsec", b"ond \xc3", b"\xa4\r", b"\nthird\nbroken off"):
            theirs.sendall(piece)
        theirs.close()
        assert list(read_lines(ours)) == ["first", "second ä", "third"]
    ours, theirs = socket.socketpair()
    threading.Thread(target=theirs.sendall, args=[b"x" * 200_000], daemon=True).start()
    with ours, pytest.raises(ConnectionError, match="no IRC"):
        list(read_lines(ours))


def scripted_server(*conversations, context=None):
    """A server that sends these bytes to one connection after another, and closes; its port, and what it was told."""
    server, heard = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        for pieces in conversations:
            connection, _ = server.accept()
            try:
                connection = context.wrap_socket(connection, server_side=True) if context else connection
            except ssl.SSLError:  # refused by the client
                continue
            connection.settimeout(5)
            heard.append(connection.recv(1000))
            for piece in pieces:
                connection.sendall(piece)
                heard[-1] += connection.recv(1000) if b"PING" in piece or b"001" in piece else b""
            connection.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], heard


def test_a_lost_connection_is_opened_again_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    naps = []
    monkeypatch.setattr(chat_collect.time, "sleep", naps.append)
    port, heard = scripted_server(
        [WELCOME, b":a!b@c PRIVMSG #chat :First message!\r\nPING :42\r\n", b":a!b@c PRIVMSG me :not public\r\n"],
        [b":s 433 * me :Nickname is already in use\r\n"],
        [b":s 433 * me :Nickname is already in use\r\n"],
        [WELCOME, b":a!b@c PRIVMSG #chat :word\r\n:a!b@c PRIVMSG #chat :\x01ACTION waves back\x01\r\n"],
        [WELCOME, b":a!b@c PRIVMSG #chat :third one\r\n:a!b@c PRIVMSG #chat :too many\r\n"],
    )
    path = tmp_path / "chat.txt"
    path.write_text("an interrupted li")
    args = Args(file=path, server="127.0.0.1", port=port, tls=False, max_messages=3, channels=("chat", "#B"))
    assert collect(args) == 3
    assert path.read_text() == "an interrupted li\nfirst message\nwaves back\nthird one\n"
    assert b"NICK justinfan12345\r\nUSER justinfan12345 " in heard[0]
    assert b"JOIN #chat,#b\r\n" in heard[0] and b"PONG :42\r\n" in heard[0]
    assert naps == [1, 2, 4, 1]  # longer after a failure, short again after a success
    assert "already in use" in capsys.readouterr().out


def test_a_message_is_in_the_file_at_once(tmp_path, monkeypatch):
    def interrupted(args):
        yield None
        yield "one message"
        assert args.file.read_text() == "one message\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_collect, "read_messages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(Args(file=tmp_path / "chat.txt", channels=("chat",)))
    assert (tmp_path / "chat.txt").read_text() == "one message\n"


def test_a_wrong_server_channel_or_file_is_named_and_not_tried_again(tmp_path):
    flags = {"file": tmp_path / "chat.txt", "channels": ("nowhere",), "server": "127.0.0.1", "tls": False}
    port, _ = scripted_server([b":s 001 me :Welcome\r\n", b":s 403 me #nowhere :No such channel\r\n"])
    with pytest.raises(UsageError, match=r"--server .*No such channel"):
        collect(Args(port=port, **flags))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match="--server"):
        collect(Args(port=port, **flags))
    with pytest.raises(UsageError, match="--file"):
        collect(Args(port=port, **flags | {"file": tmp_path}))
    for name, bad in (("channels", ()), ("port", 0)):
        with pytest.raises(ValueError, match=name):
            Args(**flags | {name: bad})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_is_checked(tmp_path, monkeypatch):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    command += ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run(command, capture_output=True, check=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    port, _ = scripted_server([], [WELCOME, b":a!b@c PRIVMSG #chat :in secret\r\n"], context=context)
    args = Args(file=tmp_path / "chat.txt", server="localhost", port=port, max_messages=1, channels=("chat",))
    with pytest.raises(UsageError, match="certificate"):
        collect(args)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert collect(args) == 1 and args.file.read_text() == "in secret\n"
