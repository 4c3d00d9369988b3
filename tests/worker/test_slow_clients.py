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
from prefork.worker.limits import Limits
from wire import EOF, PATIENCE, PLAIN, Desk, get, hello, post

HEAD = {"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/x", "CONTENT_LENGTH": "1000"}
HTTP_HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"

SHORT = 0.05
# A byte now and then is too slow for this, whatever is written at once is not.
RATE = 10_000
SLOW = Limits(header_timeout=SHORT, body_timeout=SHORT, write_timeout=SHORT, body_min_rate=RATE, write_min_rate=RATE)


def read_all(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = 0
    while piece := environ["wsgi.input"].read(100):
        size += len(piece)
    start_response("200 OK", list(PLAIN))
    return [b"%d" % size]


def trickle(sock: socket.socket, data: bytes, pause: float) -> None:
    """Send byte by byte until somebody has had enough."""
    done = threading.Event()
    for position in range(len(data)):
        try:
            sock.send(data[position : position + 1])
        except OSError:
            return
        done.wait(pause)


def timeouts(desk: Desk) -> int:
    return desk.scoreboard.total(CLIENT_TIMEOUTS)


# -- heads


def test_a_client_that_says_nothing(desk: Desk) -> None:
    """Closed when its time is over: there is nobody to answer yet."""
    with desk.client(desk.exchange(hello, SLOW)) as client:
        assert client.socket.recv(1) == b""
    assert desk.log.loud == ["header_timeout"]
    assert timeouts(desk) == 1


@pytest.mark.parametrize(
    ("head", "answer"),
    [(encode_request(HEAD), b"Status: 408 Request Timeout\r\n"), (HTTP_HEAD, b"HTTP/1.1 408 Request Timeout\r\n")],
)
def test_a_head_byte_by_byte(desk: Desk, head: bytes, answer: bytes) -> None:
    """The time is for all of it: each byte on its own would come soon enough."""
    began = time.monotonic()
    with desk.client(desk.exchange(hello, Limits(header_timeout=4 * SHORT))) as client:
        client.send(head[:20])
        sender = threading.Thread(target=trickle, args=(client.socket, head[20:-1], SHORT / 5))
        sender.start()
        assert answer in client.socket.recv(65_536)
        assert time.monotonic() - began >= 4 * SHORT
        client.socket.close()
        sender.join(PATIENCE)
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
def test_a_body_byte_by_byte(desk: Desk, head: bytes, body: bytes, answer: bytes) -> None:
    """ClientDisconnected in the application, again whenever it asks, 408 to the client, counted once."""
    seen: list[BaseException] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for _ in range(2):
            try:
                environ["wsgi.input"].read()
            except ClientDisconnected as error:
                seen.append(error)
        raise seen[-1]

    with desk.client(desk.exchange(application, SLOW)) as client:
        client.send(head)
        sender = threading.Thread(target=trickle, args=(client.socket, body, SHORT / 2))
        sender.start()
        assert answer in client.socket.recv(65_536)
        client.socket.close()
        sender.join(PATIENCE)
    assert len(seen) == 2
    assert "less than 10000 bytes a second of its body" in str(seen[0])
    assert desk.log.loud == ["body_refused"]
    assert timeouts(desk) == 1


def test_a_slow_and_steady_body(desk: Desk) -> None:
    """It may take many times the timeout."""
    limits = Limits(body_timeout=0.5, body_min_rate=10)
    with desk.client(desk.exchange(read_all, limits)) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "200"}))
        began = time.monotonic()
        trickle(client.socket, encode_stdin(bytes(200)), 0.005)
        client.send(EOF)
        assert client.answer().body == b"200"
        assert time.monotonic() - began > 2 * limits.body_timeout
    assert desk.log.loud == []
    assert timeouts(desk) == 0


def test_an_application_that_thinks_is_no_slow_client(desk: Desk) -> None:
    """Between two reads, and between two pieces of its response: nobody waits for the client meanwhile."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        stream = environ["wsgi.input"]
        for size in (400, 600):
            time.sleep(3 * SHORT)
            assert len(stream.read(size)) == size
        start_response("200 OK", list(PLAIN))
        for _ in range(2):
            yield bytes(100_000)
            time.sleep(3 * SHORT)

    with desk.client(desk.exchange(application, SLOW)) as client:
        client.send(encode_request(HEAD) + encode_stdin(bytes(1_000)) + EOF)
        assert len(client.answer().body) == 200_000
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


@pytest.mark.parametrize("takes", [b"nothing", b"a byte at a time"])
def test_a_client_that_hardly_takes_anything(desk: Desk, takes: bytes) -> None:
    """It is given up, counted and logged; the application's result is closed."""
    result = Result()
    with desk.client(desk.exchange(stream(result), SLOW)) as client:
        client.send(get(REQUEST_ID="r-1"))
        while client.server.is_alive():
            if takes != b"nothing":
                client.socket.recv(1)
            client.server.join(SHORT / 5)
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
    with desk.client(desk.exchange(stream(result), SLOW)) as client:
        client.send(get())
        client.socket.recv(1)
    assert result.closed == 1
    assert desk.log.loud == []
    assert timeouts(desk) == 0


def test_a_slow_and_steady_reader(desk: Desk) -> None:
    """It gets everything, although there is room for more only every second or so."""
    limits = Limits(write_timeout=0.5, write_min_rate=20_000)
    size = 400_000

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        return [bytes(size)]

    pause = threading.Event()
    with desk.client(desk.exchange(application, limits)) as client:
        client.send(get())
        while not client.reader.ended:
            assert client.receive(2_000), "the connection was given up"
            pause.wait(0.01)
        assert bytes(client.reader.stdout).endswith(bytes(size))
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
