from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.errors import ClientDisconnected, RequestTimeout
from prefork.policy.model import CLIENT_TIMEOUTS, RUNNING, WRITING
from prefork.policy.pace import Pace
from prefork.system.peers import unpack_peer
from prefork.worker import connection as module
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


def give_patience(connection: Connection, seconds: float) -> None:
    connection._write_timeout = seconds
    connection._output = None


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
    give_patience(connection, PATIENCE)
    buffers: list[bytes | memoryview] = [os.urandom(size) for size in sizes]
    expected = b"".join(buffers)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(drained(ours, len(expected))))
    reader.start()
    connection.send(buffers, len(expected))
    reader.join(PATIENCE)
    assert got == [expected]


def test_send_gives_up(pair: tuple[Connection, socket.socket], desk: Desk) -> None:
    """A peer that takes nothing for write_timeout is gone, and counted; the slot says running again."""
    connection, _ = pair
    with pytest.raises(ClientDisconnected, match=r"took nothing of the response and is 0\.05 s behind"):
        connection.send([bytes(60_000)] * 20, 1_200_000)
    assert connection.stalled
    assert desk.scoreboard.state(desk.slot.number) == RUNNING
    assert desk.scoreboard.total(CLIENT_TIMEOUTS) == 1


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
    give_patience(connection, PATIENCE)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(drained(ours, size)))
    reader.start()
    with path.open("rb") as file:
        assert connection.send_file(file.fileno(), 0, size) == size
        reader.join(PATIENCE)
        give_patience(connection, 0.05)
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
    for call in (connection.receive, lambda: connection.send([b"x"], 1)):
        with pytest.raises(ClientDisconnected, match="closed"):
            call()
    assert connection.ask_peer() == b""
    connection.close()


def test_who_connected(pair: tuple[Connection, socket.socket]) -> None:
    """Asked for once, and known to the end; told by who accepted, where that says it; else unknown."""
    connection, _ = pair
    this = (os.getpid(), os.geteuid(), os.getegid())
    assert unpack_peer(connection.ask_peer()) == this
    connection.close()
    assert unpack_peer(connection.ask_peer()) == this
    connection.begin(peer=b"told")
    assert connection.ask_peer() == b"told"
    connection.begin()
    assert connection.ask_peer() == b""
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


# -- slow peers, by a clock of their own


class Simulation:
    """A peer that takes so many bytes at certain moments, and a clock that runs only while it is waited for."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch, rate: int, block: int) -> None:
        self.now = 1_000.0
        self.buffer = 200_000  # bytes that lie in the socket
        self.taken = 0.0
        self.rate = rate
        self.block = block  # bytes that it takes at once
        self.asked = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "untaken", self.untaken)
        monkeypatch.setattr(connection, "_writable", self)

    def untaken(self, _socket: object) -> int:
        self.asked += 1
        whole = int(self.taken) // self.block * self.block
        return max(0, self.buffer - whole)

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """Writable when three quarters were taken, as a Unix socket is."""
        room = (150_000 - self.taken) / self.rate if self.rate else float("inf")
        waited = max(0.0, min(milliseconds / 1000, room))
        self.now += waited
        self.taken += waited * self.rate
        return [(0, 4)] if room <= milliseconds / 1000 else []


@pytest.fixture
def slow(desk: Desk) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    connection = Connection(theirs.detach(), desk.slot, 30.0, 500)
    connection.begin()
    yield connection
    connection.close()
    connection.forget()
    ours.close()


@pytest.mark.parametrize(("rate", "block"), [(501, 1), (1_000, 1), (1_000, 10_000), (5_000, 36_864), (2_000_000, 1)])
def test_a_slow_and_steady_peer_is_waited_for(
    slow: Connection, monkeypatch: pytest.MonkeyPatch, rate: int, block: int
) -> None:
    """Until there is room again, be that five minutes; only who needs them is measured."""
    peer = Simulation(slow, monkeypatch, rate, block)
    slow._wait_for_room()
    assert peer.now - 1_000 == pytest.approx(150_000 / rate)
    assert not slow.stalled
    assert (peer.asked == 0) == (rate > 1_000_000)


@pytest.mark.parametrize(
    ("rate", "least", "most", "reason"),
    [
        (0, 30.0, 30.1, "nothing of the response and is 30 s behind"),
        (1, 30.0, 31.0, "less than 500 bytes a second of the response and is 30 s behind"),
        (250, 59.0, 62.0, "less than 500 bytes a second"),
    ],
)
def test_a_peer_that_is_too_slow_is_given_up(
    slow: Connection, monkeypatch: pytest.MonkeyPatch, rate: int, least: float, most: float, reason: str
) -> None:
    """After the timeout and what it earned; without asking the kernel all the time."""
    peer = Simulation(slow, monkeypatch, rate, 1)
    with pytest.raises(ClientDisconnected, match=reason):
        slow._wait_for_room()
    assert least <= peer.now - 1_000 <= most
    assert slow.stalled
    assert peer.asked < 100
    assert reason in slow.complaint


def test_the_lag_is_kept_from_one_wait_to_the_next(slow: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not from one connection to the next."""
    for _ in range(2):
        slow.begin()
        peer = Simulation(slow, monkeypatch, 0, 1)
        pauses = iter([20.0, 20.0])

        def poll(milliseconds: float, peer: Simulation = peer, pauses: Iterator[float] = pauses) -> list[int]:
            """Nothing is taken, and yet there is room after 20 s: somebody else's buffer."""
            if milliseconds < 1_000:
                peer.now += milliseconds / 1000
                return []
            wanted = next(pauses)
            peer.now += min(wanted, milliseconds / 1000)
            return [0] if wanted <= milliseconds / 1000 else []

        monkeypatch.setattr(peer, "poll", poll)
        slow._wait_for_room()
        with pytest.raises(ClientDisconnected):
            slow._wait_for_room()
        assert peer.now - 1_000 == pytest.approx(30.0, abs=0.3)


def test_a_pause_of_ours_is_not_the_peers(slow: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was stopped for an hour while it waited has not waited for an hour."""
    peer = Simulation(slow, monkeypatch, 0, 1)
    began = peer.poll

    def poll(milliseconds: float) -> list[tuple[int, int]]:
        if milliseconds > 1_000:
            peer.now += 3_600.0
            peer.rate = 100_000
        return began(milliseconds)

    monkeypatch.setattr(peer, "poll", poll)
    slow._wait_for_room()
    assert not slow.stalled


def test_a_descriptor_that_was_stolen_while_we_waited(slow: Connection) -> None:
    """A lost client, not a fault of ours."""
    closed = socket.socket(socket.AF_UNIX)
    os.dup2(closed.fileno(), slow.descriptor)
    closed.close()
    os.close(slow.descriptor)
    with pytest.raises(ClientDisconnected, match="the application closed descriptor"):
        slow._untaken()
    assert slow.stolen


# -- bodies


def test_a_body_by_its_pace(pair: tuple[Connection, socket.socket], desk: Desk) -> None:
    """What comes is received; then the time is over, for good and counted once."""
    connection, ours = pair
    pace = Pace(0.05, 500)
    ours.send(b"ab")
    assert connection.receive_body(pace) == b"ab"
    for _ in range(2):
        with pytest.raises(ClientDisconnected, match=r"sent nothing of its body and is 0\.05 s behind"):
            connection.receive_body(pace)
    assert connection.timed_out
    assert desk.scoreboard.total(CLIENT_TIMEOUTS) == 1
    ours.shutdown(socket.SHUT_WR)
    assert connection.receive_body(pace) == b""


def test_a_body_that_crawls(pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte every 29 s is too slow for 500 a second, and a reason of its own."""
    connection, ours = pair
    now = [1_000.0]

    class Crawler:
        def poll(self, milliseconds: float) -> list[int]:
            now[0] += min(29.0, milliseconds / 1000)
            if milliseconds < 29_000:
                return []
            ours.send(b"x")
            return [0]

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(connection, "_readable", Crawler())
    pace = Pace(30.0, 500)
    assert connection.receive_body(pace) == b"x"
    with pytest.raises(ClientDisconnected, match="sent less than 500 bytes a second of its body and is 30 s behind"):
        connection.receive_body(pace)
    assert now[0] - 1_000 == pytest.approx(30.0, abs=0.1)


# -- the end of the request's own time


@pytest.mark.parametrize("left", [-1.0, 0.0, 0.02])
def test_no_wait_outlasts_the_request(pair: tuple[Connection, socket.socket], desk: Desk, left: float) -> None:
    """Neither for the body nor for room; the client is not to blame."""
    connection, ours = pair
    give_patience(connection, PATIENCE)
    size = 600_000
    for wait in (lambda: connection.receive_body(Pace(PATIENCE, 500)), lambda: connection.send([bytes(size)], size)):
        end = connection.until = time.monotonic() + left
        with pytest.raises(RequestTimeout, match="request_timeout"):
            wait()
        assert end <= time.monotonic() < end + PATIENCE
    assert (connection.timed_out, connection.stalled) == (False, False)
    assert desk.scoreboard.total(CLIENT_TIMEOUTS) == 0
    assert desk.scoreboard.state(desk.slot.number) == RUNNING
    connection.until = 0.0
    ours.send(b"x")
    assert connection.receive_body(Pace(PATIENCE, 500)) == b"x"


def test_a_client_that_is_too_slow_before_the_request_is(pair: tuple[Connection, socket.socket]) -> None:
    """The smaller of the two decides."""
    connection, _ = pair
    connection.until = time.monotonic() + PATIENCE
    with pytest.raises(ClientDisconnected, match="took nothing"):
        connection.send([bytes(1_000_000)], 1_000_000)
    with pytest.raises(ClientDisconnected, match="sent nothing"):
        connection.receive_body(Pace(0.05, 500))


def test_a_request_with_a_deadline_waits_for_a_fast_peer(pair: tuple[Connection, socket.socket], desk: Desk) -> None:
    """As one without."""
    connection, ours = pair
    give_patience(connection, PATIENCE)
    connection.until = time.monotonic() + PATIENCE
    states: list[int] = []

    def read() -> None:
        while desk.scoreboard.state(desk.slot.number) != WRITING:
            pass
        states.append(WRITING)
        drained(ours, 1_000_000)

    reader = threading.Thread(target=read)
    reader.start()
    connection.send([bytes(1_000_000)], 1_000_000)
    reader.join(PATIENCE)
    assert states == [WRITING]


# -- who has left


@pytest.mark.parametrize(
    ("deed", "gone"),
    [("nothing", False), ("send", False), ("half-close", False), ("close", True), ("send and close", True)],
)
def test_who_has_left(pair: tuple[Connection, socket.socket], deed: str, gone: bool) -> None:
    """Who has closed; not who only has nothing more to say."""
    connection, ours = pair
    if "send" in deed:
        ours.send(b"request")
    if deed == "half-close":
        ours.shutdown(socket.SHUT_WR)
    if "and close" in deed or deed == "close":
        ours.close()
    assert connection.is_abandoned() is gone


@pytest.mark.parametrize("reset", [False, True])
def test_who_has_left_by_tcp(desk: Desk, reset: bool) -> None:
    """Only a reset tells: a closed connection and a half-closed one look the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection = Connection(accepted.detach(), desk.slot, 0.05)
    connection.begin()
    client.close()
    assert connection.wait_for_close(PATIENCE) == b""  # until it is known here
    assert connection.is_abandoned() is reset
    connection.close()
    connection.forget()
