"""Fuzzing of everything that reads bytes of strangers: a parser raises ProtocolError or nothing.

A run of the suite takes seconds. ``PREFORK_FUZZ=100000`` sets the number of examples for a longer one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol import codec
from prefork.protocol import fastcgi_records as records
from prefork.protocol.codec import HeadLimits
from prefork.protocol.fastcgi import Reader
from prefork.protocol.fastcgi_client import ResponseReader, encode_request, encode_stdin
from prefork.protocol.fastcgi_params import decode_parameters
from prefork.worker.limits import Limits
from wire import Desk, hello

EXAMPLES: Final = int(os.environ.get("PREFORK_FUZZ", "300"))
LIMITS: Final = HeadLimits(2_000, 20)

thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

_SEEDS: Final = [
    encode_request({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/", "HTTP_COOKIE": "x" * 200}) + encode_stdin(b""),
    encode_request({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "5"}, keep_conn=True, request_id=300)
    + encode_stdin(b"hello", 300)
    + encode_stdin(b"", 300),
    records.encode_record(records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MPXS_CONNS", b"")])),
    records.encode_begin_request(1, records.FILTER, records.KEEP_CONN),
    records.encode_begin_request(1) + records.encode_header(records.ABORT_REQUEST, 1, 0),
]

_INTERESTING: Final = st.sampled_from([0, 1, 2, 7, 8, 9, 127, 128, 255])
_RECORD = st.builds(
    lambda version, kind, identifier, length, padding, content: (
        bytes((version, kind))
        + identifier.to_bytes(2, "big")
        + length.to_bytes(2, "big")
        + bytes((padding, 0))
        + content
    ),
    st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0, 255]),
    st.integers(0, 12),
    st.sampled_from([0, 1, 1, 1, 2, 300, 65_535]),
    st.sampled_from([0, 0, 1, 8, 8, 300, 65_535]),
    _INTERESTING,
    st.binary(max_size=30),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid stream with some of its bytes changed, removed, doubled, or replaced by made-up records."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(_SEEDS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["set", "remove", "insert", "double", "record", "header"]))
        if how == "set" and at < len(data):
            data[at] = draw(_INTERESTING)
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 20))]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=10))
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 60))]
        elif how == "header" and at < len(data):
            data[at - at % 8 + draw(st.integers(0, 7)) % 8 : at - at % 8 + 8] = draw(st.binary(max_size=8))
        else:
            data[at:at] = draw(_RECORD)
    return bytes(data)


_STREAMS = mutated() | st.lists(_RECORD, max_size=12).map(b"".join) | st.binary(max_size=300)


def events(chunks: list[bytes]) -> tuple[list[Any], bytes]:
    """A reader's events, pieces of bodies joined, and its replies; requests are answered when their body has ended."""
    reader = Reader(LIMITS)
    seen: list[Any] = []
    replies = b""
    try:
        for chunk in chunks:
            reader.receive(chunk)
            while (event := reader.next_event()) != codec.NEED_DATA:
                if event == codec.REQUEST:
                    assert reader.request is not None
                    seen.append((reader.identifier, reader.keep_connection, reader.request.environ))
                elif event == codec.BODY and isinstance(seen[-1], bytes):
                    seen[-1] += reader.piece
                elif event == codec.BODY:
                    seen.append(reader.piece)
                else:
                    seen.append(event)
                    reader.release()
            replies += reader.take_replies()
            assert len(reader._data) - reader._offset <= records.MAX_CONTENT
    except ProtocolError as error:
        seen.append(str(error))
        replies += reader.take_replies()
    return seen, replies


@given(_STREAMS, st.data())
@thorough
def test_reader(stream: bytes, data: st.DataObject) -> None:
    """Only ProtocolError is raised, and the way the bytes are cut makes no difference."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    split = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = events([stream])
    assert events(split) == whole
    assert events([stream[i : i + 1] for i in range(len(stream))]) == whole


@given(st.binary(max_size=200))
@thorough
def test_parameters(data: bytes) -> None:
    """Only ProtocolError is raised."""
    try:
        environ = decode_parameters(data, 100)
    except ProtocolError:
        return
    assert all("\0" not in name + value for name, value in environ.items())


@given(_STREAMS)
@thorough
def test_response_reader(stream: bytes) -> None:
    """The client's side as well."""
    try:
        ResponseReader().receive(stream)
    except ProtocolError:
        pass


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


@given(stream=_STREAMS, half=st.booleans())
@settings(thorough, max_examples=max(50, EXAMPLES // 4))
def test_exchange(desk: Desk, stream: bytes, half: bool) -> None:
    """A worker survives any client, answers within its timeouts, and never blames itself or the application."""
    if not desk.exchanges:
        desk.exchange(hello, Limits(2_000, 20, 1_000, header_timeout=0.01, body_timeout=0.01, write_timeout=0.01))
    (exchange,) = desk.exchanges
    desk.log.events.clear()
    ours, theirs = socket.socketpair()
    ours.sendall(stream)
    if half:
        ours.shutdown(socket.SHUT_WR)
    else:
        ours.close()
    exchange.serve(theirs.detach())
    assert not exchange.leave
    assert not {"exchange_failed", "request_failed"} & set(desk.log.loud), desk.log.events
    if half:
        answer = b""
        try:
            while piece := ours.recv(65_536):
                answer += piece
        except ConnectionResetError:
            pass
        ours.close()
        if not answer.startswith(b"HTTP/1.1 "):
            assert_records(answer)


def assert_records(answer: bytes) -> None:
    """Whole records of types that an application may send."""
    while answer:
        assert answer[0] == records.VERSION
        assert answer[1] in (
            records.END_REQUEST,
            records.STDOUT,
            records.STDERR,
            records.GET_VALUES_RESULT,
            records.UNKNOWN_TYPE,
        )
        size = records.HEADER_SIZE + int.from_bytes(answer[4:6], "big") + answer[6]
        assert size <= len(answer)
        answer = answer[size:]
