"""Clients that are too slow in sending or in taking, by raw bytes: what they get, what the application sees."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.errors import ClientDisconnected
from prefork.policy.model import CLIENT_TIMEOUTS
from prefork.protocol.fastcgi_client import encode_request, encode_stdin
from prefork.system.untaken import untaken
from prefork.worker import connection
from prefork.worker.limits import Limits
from wire import EOF, PATIENCE, PLAIN, Client, Desk, get, hello, post

HEAD = {"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/x", "CONTENT_LENGTH": "1000", "HTTP_COOKIE": "c" * 1_000}
HTTP_HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nCookie: %b\r\nContent-Length: 1000\r\n\r\n" % (b"c" * 1_000)

SHORT = 0.05
# A byte now and then is too slow for this, whatever is written at once is not.
RATE = 10_000
SLOW = Limits(body_timeout=SHORT, write_timeout=SHORT, body_min_rate=RATE, write_min_rate=RATE)


class Clock:
    """The worker's clock, which every look at it moves by ``step`` seconds: so much has passed after each wait.

    How long this machine took for it is nobody's slowness.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now = 1_000.0
        self.step = step
        monkeypatch.setattr(time, "monotonic", self)

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def read_all(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = 0
    while piece := environ["wsgi.input"].read(100):
        size += len(piece)
    start_response("200 OK", list(PLAIN))
    return [b"%d" % size]


def trickle(sock: socket.socket, data: bytes) -> int:
    """Send byte by byte until somebody has had enough; how many were sent."""
    pause = threading.Event()
    for position in range(len(data)):
        pause.wait(0.002)  # for the worker, to come to wait for the byte
        try:
            sock.send(data[position : position + 1])
        except OSError:
            return position
    return len(data)


def timeouts(desk: Desk) -> int:
    return desk.scoreboard.total(CLIENT_TIMEOUTS)


# -- heads


def test_a_client_that_says_nothing(desk: Desk) -> None:
    """Closed when its time is over: there is nobody to answer yet."""
    with desk.client(desk.exchange(hello, Limits(header_timeout=SHORT))) as client:
        assert client.socket.recv(1) == b""
    assert desk.log.loud == ["header_timeout"]
    assert timeouts(desk) == 1


@pytest.mark.parametrize(
    ("head", "answer"),
    [(encode_request(HEAD), b"Status: 408 Request Timeout\r\n"), (HTTP_HEAD, b"HTTP/1.1 408 Request Timeout\r\n")],
)
def test_a_head_byte_by_byte(desk: Desk, head: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for all of it: each byte on its own would come soon enough."""
    clock = Clock(monkeypatch, PATIENCE / 5)
    began = clock.now
    with desk.client(desk.exchange(hello, Limits(header_timeout=PATIENCE)), head[:20]) as client:
        assert trickle(client.socket, head[20:-1]) < len(head[20:-1])
        assert answer in client.socket.recv(65_536)
    assert clock.now - began >= PATIENCE
    assert desk.log.loud == ["header_timeout"]
    assert timeouts(desk) == 1


# -- bodies


@pytest.mark.parametrize(
    ("head", "body", "answer"),
    [
        (encode_request(HEAD), encode_stdin(bytes(1_000)), b"Status: 408 Request Timeout\r\n"),
        (HTTP_HEAD, bytes(1_000), b"HTTP/1.1 408 Request Timeout\r\n"),
    ],
)
def test_a_body_byte_by_byte(
    desk: Desk, head: bytes, body: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ClientDisconnected in the application, again whenever it asks, 408 to the client, counted once."""
    seen: list[BaseException] = []
    Clock(monkeypatch, PATIENCE / 5)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for _ in range(2):
            try:
                environ["wsgi.input"].read()
            except ClientDisconnected as error:
                seen.append(error)
        raise seen[-1]

    limits = Limits(body_timeout=PATIENCE, body_min_rate=RATE)
    with desk.client(desk.exchange(application, limits), head) as client:
        assert trickle(client.socket, body) < len(body)
        assert answer in client.socket.recv(65_536)
    assert len(seen) == 2
    assert "less than 10000 bytes a second of its body" in str(seen[0])
    assert desk.log.loud == ["body_refused"]
    assert timeouts(desk) == 1


def test_a_slow_and_steady_body(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take many times the timeout."""
    limits = Limits(body_timeout=PATIENCE, body_min_rate=3)
    clock = Clock(monkeypatch, 0.25)
    with desk.client(desk.exchange(read_all, limits)) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "400"}))
        began = clock.now
        body = encode_stdin(bytes(400))
        assert trickle(client.socket, body) == len(body)
        client.send(EOF)
        assert client.answer().body == b"400"
        assert clock.now - began > 2 * limits.body_timeout
    assert desk.log.loud == []
    assert timeouts(desk) == 0


def test_an_application_that_thinks_is_no_slow_client(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two reads, and between two pieces of its response: nobody waits for the client meanwhile."""
    clock = Clock(monkeypatch, 0.0)

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        stream = environ["wsgi.input"]
        for size in (400, 600):
            clock.now += 3 * PATIENCE
            assert len(stream.read(size)) == size
        start_response("200 OK", list(PLAIN))
        for _ in range(2):
            yield bytes(400_000)  # more than a socket takes: it has to be waited for
            clock.now += 3 * PATIENCE

    limits = Limits(body_timeout=PATIENCE, write_timeout=PATIENCE, body_min_rate=RATE, write_min_rate=RATE)
    with desk.client(desk.exchange(application, limits)) as client:
        client.send(encode_request(HEAD) + encode_stdin(bytes(400)))
        client.send(encode_stdin(bytes(600)) + EOF)
        assert len(client.answer().body) == 800_000
    assert desk.log.loud == []
    assert timeouts(desk) == 0


# -- responses


class Result:
    """A response without end that says when it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    def close(self) -> None:
        self.closed += 1


def stream(result: Result) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Result:
        start_response("200 OK", list(PLAIN))
        return result

    return application


def take(client: Client, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client take so many bytes whenever the worker, having waited, looks how much it has taken."""

    def look(sock: socket.socket) -> int:
        client.receive(size)
        return untaken(sock)

    monkeypatch.setattr(connection, "untaken", look)


@pytest.mark.parametrize("takes", [b"nothing", b"a byte at a time"])
def test_a_client_that_hardly_takes_anything(desk: Desk, takes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, counted and logged; the application's result is closed."""
    result = Result()
    with desk.client(desk.exchange(stream(result), SLOW)) as client:
        if takes != b"nothing":
            take(client, 1, monkeypatch)
        client.send(get(REQUEST_ID="r-1"))
        client.wait_for_end()
    assert result.closed == 1
    assert desk.log.loud == ["write_timeout"]
    (event,) = desk.log.named("write_timeout")
    wanted = "nothing" if takes == b"nothing" else "less than 10000 bytes a second"
    assert event.pop("reason") == f"the client took {wanted} of the response and is {SHORT:g} s behind"
    assert event == {"method": "GET", "uri": "/", "request_id": "r-1"}
    assert timeouts(desk) == 1


def test_a_client_that_left_is_not_slow(desk: Desk) -> None:
    """Nobody's fault."""
    result = Result()
    with desk.client(desk.exchange(stream(result))) as client:
        client.send(get())
        client.socket.recv(1)
    assert result.closed == 1
    assert desk.log.loud == []
    assert timeouts(desk) == 0


def test_a_slow_and_steady_reader(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets everything, although there is room for more only after several times the timeout."""
    limits = Limits(write_timeout=SHORT, write_min_rate=RATE)
    size = 400_000

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        return [bytes(size)]

    with desk.client(desk.exchange(application, limits)) as client:
        take(client, 10_000, monkeypatch)
        client.send(get())
        client.wait_for_end()
        assert len(client.answer().body) == size
    assert desk.log.loud == []
    assert timeouts(desk) == 0


def test_too_slow_in_both_directions(desk: Desk) -> None:
    """Each is counted."""

    def application(environ: dict[str, Any], start_response: Any) -> Result:
        with pytest.raises(ClientDisconnected):
            environ["wsgi.input"].read()
        start_response("200 OK", list(PLAIN))
        return result

    result = Result()
    with desk.client(desk.exchange(application, SLOW)) as client:
        client.send(post(b"abc", 100)[:-8])
        client.wait_for_end()
    assert desk.log.loud == ["write_timeout"]
    assert timeouts(desk) == 2
