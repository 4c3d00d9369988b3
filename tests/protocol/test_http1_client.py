"""The client's side of HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.errors import ProtocolError
from prefork.protocol.http1_client import ResponseReader, encode_body, encode_request

PARAMS = {
    "REQUEST_METHOD": "POST",
    "REQUEST_URI": "/a?b",
    "SERVER_NAME": "s",
    "CONTENT_TYPE": "t",
    "CONTENT_LENGTH": "",
    "HTTP_HOST": "h",
    "HTTP_X_Y": "",
}


def test_a_request() -> None:
    """Fields under the names of HTTP, everything that is CGI's left out, the body's length said or chunked."""
    head = b"POST /a?b HTTP/1.1\r\nContent-Type: t\r\nHost: h\r\nX-Y: \r\n%bConnection: close\r\n\r\n"
    assert encode_request(PARAMS, body=False) == head % b""
    assert encode_request(PARAMS, body=True) == head % b"Transfer-Encoding: chunked\r\n"
    counted = encode_request({**PARAMS, "CONTENT_LENGTH": "5"}, body=True)
    assert b"\r\nContent-Length: 5\r\n" in counted
    assert b"chunked" not in counted


def test_a_body() -> None:
    """As it is, or in chunks."""
    assert [encode_body(data, chunked=False) for data in (b"ab", b"")] == [b"ab", b""]
    assert [encode_body(data, chunked=True) for data in (b"ab", b"")] == [b"2\r\nab\r\n", b"0\r\n\r\n"]


def read(data: bytes, method: str = "GET", cut: int = 0) -> tuple[bytes, bool]:
    reader = ResponseReader(method)
    for part in (data[:cut], data[cut:]):
        reader.receive(part)
    reader.closed()
    return bytes(reader.stdout), reader.ended


COUNTED = b"200 OK\r\nContent-Length: %d\r\n\r\nhi"
UPGRADE = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"

ANSWERS = {
    "counted": (b"HTTP/1.1 " + COUNTED % 2, b"Status: " + COUNTED % 2, True),
    "short": (b"HTTP/1.1 " + COUNTED % 3, b"Status: " + COUNTED % 3, False),
    "chunked": (
        b"HTTP/1.1 404 Not here\r\nTransfer-Encoding: chunked\r\nA:b\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"Status: 404 Not here\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\nhi",
        True,
    ),
    "broken": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"Status: 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        False,
    ),
    "until the end": (b"HTTP/1.1 200 OK\r\nStatus: 500\r\n\r\nhi", b"Status: 200 OK\r\n\r\nhi", True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"Status: 204 No Content\r\n\r\n",
        True,
    ),
    "no head": (b"HTTP/1.1 200 OK\r\nContent-Le", b"", False),
    "nothing": (b"", b"", False),
}


@pytest.mark.parametrize(("data", "output", "ended"), ANSWERS.values(), ids=ANSWERS)
def test_answers(data: bytes, output: bytes, ended: bool) -> None:
    """They become CGI output, whole or not, however they arrive."""
    assert {read(data, cut=cut) for cut in range(len(data) + 1)} == {(output, ended)}


def test_an_answer_to_head() -> None:
    """Its length is that of a body which does not come."""
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD")[1]


@pytest.mark.parametrize("data", [b"\x01\x03\0\x01", UPGRADE])
def test_no_answers(data: bytes) -> None:
    """What is no HTTP, or leaves it, is an error."""
    with pytest.raises(ProtocolError):
        read(data)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_whatever_comes(data: bytes) -> None:
    """Nothing but ProtocolError is raised."""
    try:
        read(b"HTTP/1.1 200 OK\r\n" + data)
    except ProtocolError:
        pass
