from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.errors import ClientDisconnected
from prefork.policy.model import RUNNING
from prefork.worker.connection import Connection
from wire import PATIENCE, Desk


@pytest.fixture
def pair(desk: Desk) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    connection = Connection(theirs.detach(), desk.slot, 0.05)
    connection.begin()
    yield connection, ours
    connection.close()
    connection.forget()
    ours.close()


def drained(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(1 << 20)
        assert piece
        data += piece
    return data


def test_receive_waits_no_longer_than_allowed(pair: tuple[Connection, socket.socket]) -> None:
    """The patience is for all waits together, not for each."""
    connection, ours = pair
    connection.allow(0.05)
    ours.send(b"a")
    assert connection.receive() == b"a"
    with pytest.raises(ClientDisconnected, match=r"sent nothing for 0\.05 s"):
        connection.receive()
    assert connection.timed_out
    with pytest.raises(ClientDisconnected):
        connection.receive()
    connection.allow(PATIENCE)
    ours.send(b"b")
    assert connection.receive() == b"b"


def test_receive_now(pair: tuple[Connection, socket.socket]) -> None:
    """None: nothing yet. Empty: never again."""
    connection, ours = pair
    assert connection.receive_now() is None
    ours.shutdown(socket.SHUT_WR)
    assert connection.receive_now() == b""


@pytest.mark.parametrize("sizes", [[0], [10, 0, 20], [60_000], [400_000], [300_000] * 5, [3] * 5_000, [100] * 30_000])
def test_send_sends_everything_in_order(pair: tuple[Connection, socket.socket], sizes: list[int], desk: Desk) -> None:
    """One buffer or thousands, however often the socket is full in between."""
    connection, ours = pair
    connection._write_timeout = PATIENCE
    buffers: list[bytes | memoryview] = [os.urandom(size) for size in sizes]
    expected = b"".join(buffers)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(drained(ours, len(expected))))
    reader.start()
    connection.send(buffers, len(expected))
    reader.join(PATIENCE)
    assert got == [expected]


def test_send_gives_up(pair: tuple[Connection, socket.socket], desk: Desk) -> None:
    """A peer that takes nothing for write_timeout is gone; the slot says running again."""
    connection, _ = pair
    with pytest.raises(ClientDisconnected, match="took nothing"):
        connection.send([bytes(60_000)] * 20, 1_200_000)
    with pytest.raises(ClientDisconnected, match="took nothing"):
        connection.send([bytes(10)], 10)
    assert desk.scoreboard.state(desk.slot.number) == RUNNING


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_send_to_a_peer_that_left_raises_no_signal(pair: tuple[Connection, socket.socket], size: int) -> None:
    """MSG_NOSIGNAL: an application may have given SIGPIPE back its default."""
    connection, ours = pair
    ours.close()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with pytest.raises(ClientDisconnected, match="Broken pipe"):
            connection.send([bytes(size)], size)
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_receive_from_a_peer_that_left_with_data_unread(pair: tuple[Connection, socket.socket]) -> None:
    """ECONNRESET is a lost client, too."""
    connection, ours = pair
    connection.send([b"unread"], 6)
    ours.close()
    with pytest.raises(ClientDisconnected, match="reset"):
        connection.receive()


def test_send_file(pair: tuple[Connection, socket.socket], tmp_path: Path) -> None:
    """A piece of a file, and less when the file ends before."""
    connection, ours = pair
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5_000))
    with path.open("rb") as file:
        assert connection.send_file(file.fileno(), 1_000, 2_000) == 2_000
        assert connection.send_file(file.fileno(), 4_000, 2_000) == 1_000
    assert drained(ours, 3_000) == path.read_bytes()[1_000:3_000] + path.read_bytes()[4_000:]


def test_send_file_that_sendfile_refuses(pair: tuple[Connection, socket.socket]) -> None:
    """A file that can be read but not sent (EINVAL, much of /proc) is read; one that can be neither has nothing."""
    connection, ours = pair
    with open("/proc/self/cmdline", "rb") as file:
        content = file.read()
        with pytest.raises(OSError, match="Invalid argument"):
            os.sendfile(ours.fileno(), file.fileno(), 0, 10)
        assert connection.send_file(file.fileno(), 2, 5) == 5
        assert connection.send_file(file.fileno(), 0, 1 << 20) == len(content)
    assert drained(ours, 5 + len(content)) == content[2:7] + content
    directory = os.open("/", os.O_RDONLY)
    assert connection.send_file(directory, 0, 10) == 0
    os.close(directory)


@pytest.mark.parametrize("size", [8_000_000])
def test_send_file_waits_for_room(pair: tuple[Connection, socket.socket], tmp_path: Path, size: int) -> None:
    """A slow reader gets all of it; one that reads nothing is given up."""
    connection, ours = pair
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    connection._write_timeout = PATIENCE
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(drained(ours, size)))
    reader.start()
    with path.open("rb") as file:
        assert connection.send_file(file.fileno(), 0, size) == size
        reader.join(PATIENCE)
        connection._write_timeout = 0.05
        with pytest.raises(ClientDisconnected, match="took nothing"):
            connection.send_file(file.fileno(), 0, size)
    assert got == [path.read_bytes()]


def test_send_file_to_a_peer_that_left(pair: tuple[Connection, socket.socket], tmp_path: Path) -> None:
    """A lost client like any other."""
    connection, ours = pair
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    ours.close()
    with path.open("rb") as file, pytest.raises(ClientDisconnected, match="Broken pipe"):
        connection.send_file(file.fileno(), 0, 100)


def test_wait_for_close(pair: tuple[Connection, socket.socket]) -> None:
    """What the peer sent instead, or nothing: time over, closed, reset."""
    connection, ours = pair
    assert connection.wait_for_close(0.001) == b""
    ours.send(b"more")
    assert connection.wait_for_close(PATIENCE) == b"more"
    connection.send([b"unread"], 6)
    ours.close()
    assert connection.wait_for_close(PATIENCE) == b""
    connection.close()
    assert connection.wait_for_close(PATIENCE) == b""


def test_swallow_ends_with_the_peer(pair: tuple[Connection, socket.socket]) -> None:
    """What is still sent is thrown away; the peer sees the end of our output meanwhile."""
    connection, ours = pair
    ours.send(b"x" * 1_000)
    ours.shutdown(socket.SHUT_WR)
    connection.swallow()
    assert ours.recv(1) == b""
    ours.close()
    connection.swallow()  # gone: nothing to do


def test_shut_output_of_a_lost_connection(pair: tuple[Connection, socket.socket]) -> None:
    """Nothing is raised; on a closed one nothing is done."""
    connection, _ = pair
    unconnected = socket.socket()
    os.dup2(unconnected.fileno(), connection.descriptor)
    unconnected.close()
    connection.shut_output()
    connection.close()
    connection.shut_output()


def test_a_closed_connection_cannot_be_used(pair: tuple[Connection, socket.socket]) -> None:
    """Every call says that it is closed; closing again does nothing."""
    connection, _ = pair
    connection.close()
    for call in (connection.receive, connection.credentials, lambda: connection.send([b"x"], 1)):
        with pytest.raises(ClientDisconnected, match="closed"):
            call()
    connection.close()


def test_a_number_is_used_again(pair: tuple[Connection, socket.socket]) -> None:
    """The next connection with the same descriptor is another one, blocking as it came."""
    connection, _ = pair
    ours_again, theirs = socket.socketpair()
    connection.close()
    serial = connection.serial
    os.dup2(theirs.fileno(), connection.descriptor)
    theirs.close()
    connection.begin()
    assert connection.serial == serial + 1
    connection.send([b"hi"], 2)
    assert ours_again.recv(10) == b"hi"
    ours_again.close()
