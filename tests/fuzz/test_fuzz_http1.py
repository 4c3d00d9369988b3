"""Fuzzing of HTTP: the reader raises ProtocolError or nothing, agrees with llhttp, and never serves twice.

``PREFORK_FUZZ=100000`` sets the number of examples for a longer run.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from httptools import HttpParserError, HttpRequestParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol import codec
from prefork.protocol.codec import HeadLimits
from prefork.protocol.http1 import Origin, Reader
from prefork.worker.limits import Limits
from wire import Desk, hello

EXAMPLES: Final = int(os.environ.get("PREFORK_FUZZ", "300"))
LIMITS: Final = HeadLimits(2_000, 20)
ORIGIN: Final = Origin("", "", True, "localhost", "")

thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

_SEEDS: Final = [
    b"GET /a%20b?q HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST http://y/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nX-Forwarded-For: 1.2.3.4, ::1\r\nX-Forwarded-Proto: https\r\n\r\n",
]
_PARTS: Final = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"0", b"ffff", b"\x80", b"%00", b"5\r\n"),
        *(b"chunked", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: z\r\n", b"\r\n\r\n"),
        *(b"HTTP/1.0", *_SEEDS),
    ]
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes] = _SEEDS) -> bytes:
    """A valid message, perhaps two, with some of its bytes removed, doubled, or joined by others."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["remove", "insert", "double", "random"]))
        if how == "remove":
            del data[at : at + draw(st.integers(1, 20))]
        elif how == "insert":
            data[at:at] = draw(_PARTS)
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 60))]
        else:
            data[at:at] = draw(st.binary(max_size=10))
    return bytes(data)


def cut(draw: Any, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def outcome(chunks: list[bytes]) -> list[tuple[str, Any]]:
    """Requests with their environ, bodies joined, the end, errors."""
    reader = Reader(LIMITS, ORIGIN, lambda: "now")
    found: list[tuple[str, Any]] = []
    body = b""
    try:
        for chunk in chunks:
            reader.receive(chunk)
            while (event := reader.next_event()) != codec.NEED_DATA:
                if event == codec.REQUEST:
                    assert reader.request is not None
                    found.append(("request", reader.request.environ))
                elif event == codec.BODY:
                    body += reader.piece
                else:
                    found.append(("body", body))
    except ProtocolError as error:
        found.append(("error", error.status))
    return found


@thorough
@given(st.data())
def test_the_reader_raises_protocol_errors_only(data: st.DataObject) -> None:
    """Whatever comes, however it is cut: the same requests, the same bodies, or the same refusal."""
    stream = data.draw(mutated() | st.binary(max_size=200))
    whole = outcome([stream])
    assert outcome(cut(data.draw, stream)) == whole
    assert outcome([stream[index : index + 1] for index in range(len(stream))]) == whole
    assert len([kind for kind, _ in whole if kind == "request"]) < 2


class Parsed:
    """What llhttp makes of a message."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


@thorough
@given(mutated(_SEEDS[1:3]))
def test_no_more_lenient_than_llhttp(stream: bytes) -> None:
    """A message that is taken whole, llhttp takes as well, with the same body and the same end."""
    found = outcome([stream])
    if [kind for kind, _ in found] != ["request", "body"]:
        return
    parsed = Parsed()
    parser = HttpRequestParser(parsed)
    while stream.startswith(b"\r\n"):
        stream = stream[2:]
    for index in range(len(stream)):
        try:
            parser.feed_data(stream[index : index + 1])
        except HttpParserError as error:
            raise AssertionError(f"llhttp refuses what was taken: {error}") from error
        if parsed.complete:
            break
    assert parsed.complete
    assert parsed.body == found[1][1]


@thorough
@given(mutated() | st.binary(max_size=100))
def test_a_worker_survives_everything(stream: bytes) -> None:
    """Whatever a client sends, it is answered or closed, the application runs once at most, the worker lives."""
    runs = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        runs.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    desk = Desk()
    try:
        exchange = desk.exchange(application, Limits(2_000, 20, header_timeout=5, body_timeout=5))
        with desk.client(exchange) as client:
            client.send(stream)
            client.socket.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := client.socket.recv(65_536):
                answer += piece
        assert len(runs) < 2
        assert answer.count(b"HTTP/1.1 ") - answer.count(b"HTTP/1.1 100") < 2
        assert not exchange.leave
    finally:
        desk.close()
