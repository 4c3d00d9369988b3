"""Clients that hold on to a worker: one that never ends its head, one that trickles its body, one that does not read.

With the real server and one worker: it is free again in time, and the next request, which waited behind them in the
queue, is served. Those that are slow and steady are served to the end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import PATIENCE, Nginx, Pulse, Server, connect, encode_request, wait_until
from prefork.worker.connection import DRAIN_SECONDS

pytestmark = pytest.mark.nginx

PROTOCOLS = pytest.mark.parametrize("protocol", ["fastcgi", "http"])
UNBUFFERED = "fastcgi_buffering off; fastcgi_request_buffering off;"

TIMEOUT = 0.5  # seconds, for head, body and response
RATE = 1_000  # bytes a second, for body and response
OPTIONS = (
    *("--workers", "1", "--header-timeout", f"{TIMEOUT}s", "--body-timeout", f"{TIMEOUT}s"),
    *("--write-timeout", f"{TIMEOUT}s", "--body-min-rate", f"{RATE}", "--write-min-rate", f"{RATE}"),
)

FASTCGI_HEAD = encode_request("POST", "/echo", body=bytes(1_000))
HTTP_HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    (folder / "noted").mkdir()
    with Server("parts", *OPTIONS, folder=folder, env={"PARTS_FOLDER": str(folder / "noted")}) as running:
        yield running


def proxy(server: Server, protocol: str) -> Nginx:
    return Nginx(server.address, folder=server.folder, protocol=protocol, location=UNBUFFERED)


class Dripping:
    """Sends byte by byte, until it is told to stop or the other side has had enough."""

    def __init__(self, connection: socket.socket, data: bytes, pause: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(connection, data, pause))
        self._thread.start()

    def _run(self, connection: socket.socket, data: bytes, pause: float) -> None:
        for position in range(len(data)):
            try:
                connection.send(data[position : position + 1])
            except OSError:
                return
            if self._stop.wait(pause):
                return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


@contextmanager
def dripping(connection: socket.socket, data: bytes, pause: float) -> Iterator[None]:
    drip = Dripping(connection, data, pause)
    try:
        yield
    finally:
        drip.stop()


@pytest.mark.parametrize("head", [FASTCGI_HEAD[:200], HTTP_HEAD], ids=["fastcgi", "http"])
def test_slowloris(server: Server, head: bytes) -> None:
    """A head byte by byte holds the one worker for its timeout, and the drain of two seconds, not for ever."""
    with proxy(server, "fastcgi") as nginx, connect(server.address) as connection:
        began = time.monotonic()
        connection.sendall(head[:20])
        with dripping(connection, head[20:], TIMEOUT / 10):
            assert nginx.fetch(path="/who").status == 200
            took = time.monotonic() - began
            assert b"408 Request Timeout" in connection.recv(1_000)
    assert TIMEOUT <= took < TIMEOUT + DRAIN_SECONDS + 10
    server.wait_event("header_timeout")


def test_connections_that_say_nothing(server: Server) -> None:
    """Closed without an answer: nobody knows which protocol they would have spoken."""
    with proxy(server, "fastcgi") as nginx, connect(server.address) as connection:
        assert nginx.fetch(path="/who").status == 200
        assert connection.recv(1) == b""
    server.wait_event("header_timeout")


@PROTOCOLS
def test_a_body_that_trickles(server: Server, protocol: str) -> None:
    """A byte now and then, each well within the timeout: answered 408, and the next one is served."""
    with proxy(server, protocol) as nginx, connect(nginx.address) as connection:
        began = time.monotonic()
        connection.sendall(HTTP_HEAD + b"\r\n")
        with dripping(connection, bytes(1_000), TIMEOUT / 5):
            server.wait_event("body_refused", status=408)
            took = time.monotonic() - began
            assert connection.recv(1_000).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert nginx.fetch(path="/who").status == 200
    assert TIMEOUT <= took < TIMEOUT + 10


@PROTOCOLS
def test_a_slow_and_steady_body(server: Server, protocol: str) -> None:
    """More than the rate, for several timeouts: taken to the end."""
    pieces = 600

    def send() -> tuple[bytes, float]:
        """The answer, and for how long the machine stood still meanwhile: then this client was not steady."""
        answer = b""
        with connect(nginx.address) as connection, Pulse() as pulse:
            began = time.monotonic()
            connection.sendall(HTTP_HEAD.replace(b"1000", b"%d" % (50 * pieces)) + b"Connection: close\r\n\r\n")
            pause = threading.Event()
            with contextlib.suppress(ConnectionError):  # refused
                for _ in range(pieces):
                    connection.sendall(bytes(50))  # at most 20,000 bytes a second
                    pause.wait(0.0025)
            assert time.monotonic() - began > 2 * TIMEOUT or server.find("body_refused")
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(65_536):
                    answer += data
            return answer, pulse.stalled(began, time.monotonic())

    with proxy(server, protocol) as nginx:
        answer, stalled = send()
        refused = len(server.find("body_refused")) if stalled > TIMEOUT / 2 else 0
        if refused:
            answer, _ = send()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n%d " % (50 * pieces) in answer
    assert len(server.find("body_refused")) == refused


def closed(server: Server, times: int = 1) -> bool:
    """Whether the application's result was closed, each time."""
    path = server.folder / "noted" / "closed"
    return path.exists() and path.read_text() == "closed\n" * times


@PROTOCOLS
def test_a_client_that_does_not_read(server: Server, protocol: str) -> None:
    """Given up when all the buffers on the way are full; the application's result is closed."""
    with proxy(server, protocol) as nginx, connect(nginx.address) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        event = server.wait_event("write_timeout", uri="/endless")
        assert event["reason"].startswith("the client took ")
        assert wait_until(lambda: closed(server))
        assert nginx.fetch(path="/who").status == 200


@pytest.mark.parametrize("size", [0, 1])
def test_a_reader_of_nothing_or_of_single_bytes(server: Server, size: int) -> None:
    """Without a proxy that reads ahead: given up within the timeout, whatever it nibbles."""
    pause = threading.Event()
    with proxy(server, "fastcgi") as nginx, connect(server.address) as connection, Pulse() as pulse:
        began = time.monotonic()
        connection.sendall(encode_request(path="/endless"))
        while not server.find("write_timeout"):
            if size:
                connection.recv(size)
            pause.wait(TIMEOUT / 25)  # at most 50 bytes a second
            assert time.monotonic() < began + PATIENCE
        (event,) = server.find("write_timeout")
        stood_still = not size or pulse.stalled(began, time.monotonic()) > TIMEOUT / 2
        wanted = "nothing" if stood_still and "nothing" in event["reason"] else "less than 1000 bytes a second"
        assert event["reason"] == f"the client took {wanted} of the response and is {TIMEOUT:g} s behind"
        assert wait_until(lambda: closed(server))
        assert nginx.fetch(path="/who").status == 200


def test_a_slow_and_steady_reader(server: Server) -> None:
    """It needs many timeouts to make room in the socket, and is not given up."""
    pause = threading.Event()

    def read() -> float:
        """For how long the machine stood still meanwhile: then this client was not steady."""
        with connect(server.address) as connection, Pulse() as pulse:
            connection.sendall(encode_request(path="/endless"))
            began, taken = time.monotonic(), 0
            while time.monotonic() < began + 6 * TIMEOUT:
                taken += len(connection.recv(200))  # at most 10,000 bytes a second
                pause.wait(0.02)
            assert taken < 156_000, "there was room, and nothing is shown"
            return pulse.stalled(began, time.monotonic())

    stalled = read()
    given_up = len(server.find("write_timeout")) if stalled > TIMEOUT / 2 else 0
    if given_up:
        read()
    assert len(server.find("write_timeout")) == given_up
    assert wait_until(lambda: closed(server, 1 + given_up))
    assert os.path.exists(server.address)
