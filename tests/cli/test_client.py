"""Connecting and conversing: every way not to reach a server, and both directions at once."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from prefork.cli.client import _reason, client_address, connect, received
from prefork.cli.console import Failure
from prefork.errors import ConfigurationError, UsageError
from prefork.protocol.fastcgi_client import encode_stdin


def test_address() -> None:
    """Paths and abstract names lead to a server."""
    assert [client_address(text).name for text in ("/a.sock", "@name")] == ["/a.sock", "name"]


def test_no_address() -> None:
    """A descriptor is the server's own affair, and what is no address is refused as everywhere."""
    with pytest.raises(UsageError, match="fd://3 names a descriptor of the server's"):
        client_address("fd://3")
    with pytest.raises(ConfigurationError, match="expected host and port"):
        client_address(":80")


def reason(path: object) -> str:
    with pytest.raises(Failure) as caught:
        connect(client_address(str(path)))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_missing(folder: Path) -> None:
    """No file, and no directory on the way to it."""
    assert reason(folder / "app.sock") == "there is no such file: the server is not started, or listens elsewhere"
    (folder / "file").touch()
    assert reason(folder / "file" / "app.sock") == "a part of this path is a file, not a directory"


def test_dead(folder: Path) -> None:
    """A socket that nobody listens on, by path and by name."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "app.sock"))
        assert reason(folder / "app.sock") == "nobody listens: the server has ended, or is about to"
    assert reason(f"@{folder}") == "nobody listens: the server has ended, or is about to"


def test_full(folder: Path) -> None:
    """A full queue refuses at once, as it refuses a web server; nobody is kept waiting."""
    path = str(folder / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        assert reason(path).startswith("the queue is full: every worker is busy")


def test_other_type(folder: Path) -> None:
    """A datagram socket is no server of ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(folder / "app.sock"))
        assert reason(folder / "app.sock") == "this is a socket of another type (datagram or seqpacket)"


def test_too_long(folder: Path) -> None:
    """A path that no socket can have."""
    assert reason(folder / ("x" * 120)) == "AF_UNIX path too long; the kernel takes 107 bytes"


def test_other_reasons(folder: Path) -> None:
    """Whatever else the kernel says is passed on in its own words."""
    (folder / "loop").symlink_to("loop")
    assert reason(folder / "loop") == "Too many levels of symbolic links"


def test_no_permission() -> None:
    """A socket that may not be written to is named as such, with what it takes."""
    # The kernel's answer is made up here: it refuses root nothing, and other users may not reach this interpreter.
    assert _reason(PermissionError(errno.EACCES, "Permission denied")).startswith("permission denied: it takes write")


def test_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port is connected to; one where nobody listens, or that swallows everything, is said to be such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = "127.0.0.1:{1}".format(*listener.getsockname())
        with connect(client_address(text)) as connection:
            assert connection.getblocking()
    assert reason(text) == "nobody listens there: is the server started, and on this port?"

    def swallow(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", swallow)
    assert reason(text).startswith("nothing answers")


def test_abstract(folder: Path) -> None:
    """An abstract name is reached without a file; the connection blocks."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{folder}")
        listener.listen()
        with connect(client_address(f"@{folder}")) as connection:
            assert connection.getblocking()


# --- conversing -------------------------------------------------------------------------------------------------------


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65_536):
        data += chunk
    return data


def test_both_directions_at_once(folder: Path) -> None:
    """A body larger than every buffer passes while an answer as large comes back: neither side waits for the other."""
    size = 4_000_000
    (folder / "body").write_bytes(bytes(size))
    ours, theirs = socket.socketpair()

    def echo() -> None:
        with theirs:
            tail = b""
            while not tail.endswith(encode_stdin(b"")):
                data = theirs.recv(65_536)
                tail = (tail + data)[-8:]
                theirs.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    descriptor = os.open(folder / "body", os.O_RDONLY)
    with ours:
        answer = sum(len(data) for data in received(ours, b"opening", descriptor, encode_stdin, 60.0))
    os.close(descriptor)
    thread.join()
    assert answer >= size


def test_no_body() -> None:
    """Without a body the request still has its end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pieces = received(ours, b"opening", None, encode_stdin, 60.0)
        theirs.sendall(b"answer")
        assert next(pieces) == b"answer"
        theirs.shutdown(socket.SHUT_WR)
        assert list(pieces) == []
        ours.shutdown(socket.SHUT_WR)
        assert read_all(theirs) == b"opening" + encode_stdin(b"")


def test_body_in_pieces() -> None:
    """A body comes as it is made: a pipe that is silent holds up nothing but itself."""
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pieces = received(ours, b"", reading, encode_stdin, 60.0)
        os.write(writing, b"one")
        theirs.sendall(b"first")
        assert next(pieces) == b"first"
        os.write(writing, b"two")
        os.close(writing)
        theirs.shutdown(socket.SHUT_WR)
        assert list(pieces) == []
    os.close(reading)


def test_early_answer(folder: Path) -> None:
    """A peer that answers and closes without hearing the body out has answered all the same."""
    (folder / "body").write_bytes(bytes(4_000_000))
    ours, theirs = socket.socketpair()
    theirs.sendall(b"enough")
    theirs.shutdown(socket.SHUT_RD)  # our sending fails with EPIPE, their sending does not
    descriptor = os.open(folder / "body", os.O_RDONLY)
    with ours, theirs:
        pieces = received(ours, b"opening", descriptor, encode_stdin, 60.0)
        assert next(pieces) == b"enough"
        theirs.sendall(b", thanks")
        assert next(pieces) == b", thanks"
        theirs.shutdown(socket.SHUT_WR)
        assert list(pieces) == []
    os.close(descriptor)
