"""Requests into parameters, responses into heads and bodies."""

from __future__ import annotations

import pytest

from prefork.cli.cgi import Answer, complaint, request_params
from prefork.errors import ProtocolError, UsageError


def params(target: str = "/", *headers: str, method: str = "GET") -> dict[str, str]:
    return request_params(method, target, headers, None, False)


@pytest.mark.parametrize(
    ("target", "script", "uri", "query"),
    [
        ("/", "/", "/", ""),
        ("/a/b?x=1&y=%20", "/a/b", "/a/b?x=1&y=%20", "x=1&y=%20"),
        ("/a%20b", "/a b", "/a%20b", ""),
        ("/a b?c d", "/a b", "/a%20b?c%20d", "c%20d"),
        ("/größe", "/grÃ¶Ã\x9fe", "/gr%C3%B6%C3%9Fe", ""),
        ("/\udcff", "/ÿ", "/%FF", ""),
        ("/?a?b", "/", "/?a?b", "a?b"),
        ("/a#fragment", "/a", "/a", ""),
        ("//x/../y", "//x/../y", "//x/../y", ""),
    ],
)
def test_target(target: str, script: str, uri: str, query: str) -> None:
    """The path is decoded once into bytes, shown as latin-1; the URI is what a web server got; fragments stay home."""
    found = params(target)
    assert (script, script, uri, query) == (
        found["SCRIPT_NAME"],
        found["DOCUMENT_URI"],
        found["REQUEST_URI"],
        found["QUERY_STRING"],
    )


def test_headers() -> None:
    """Headers become HTTP_ parameters, the two about the body their own; later ones win, ours can be replaced."""
    found = params("/", "X-Test: größe ", "content-type:text/plain", "Host: example.org", "X-Empty:", "A:b:c")
    assert found["HTTP_X_TEST"] == "größe".encode().decode("latin-1")
    assert found["CONTENT_TYPE"] == "text/plain"
    assert found["HTTP_HOST"] == "example.org"
    assert found["HTTP_X_EMPTY"] == ""
    assert found["HTTP_A"] == "b:c"
    assert "HTTP_CONTENT_TYPE" not in found


def test_body() -> None:
    """A body has a type unless told otherwise, and a length where it is known."""
    assert params()["CONTENT_LENGTH"] == params()["CONTENT_TYPE"] == ""
    found = request_params("POST", "/", (), 5, True)
    assert (found["CONTENT_LENGTH"], found["CONTENT_TYPE"]) == ("5", "application/octet-stream")
    assert request_params("POST", "/", (), None, True)["CONTENT_LENGTH"] == ""


@pytest.mark.parametrize("header", ["", "X", ":a", "X Y: a", "X: a\nY: b", "X: a\0", "Ü: a"])
def test_bad_header(header: str) -> None:
    """What is no header is refused instead of sent."""
    with pytest.raises(UsageError, match="-H: expected NAME:VALUE on one line, found "):
        params("/", header)


@pytest.mark.parametrize("method", ["", "GET /", "G\nET"])
def test_bad_method(method: str) -> None:
    """A method is one word."""
    with pytest.raises(UsageError, match="--method: expected a word such as GET or POST"):
        params("/", method=method)


@pytest.mark.parametrize("target", ["", "index", "http://localhost/", "*"])
def test_bad_target(target: str) -> None:
    """A path begins with a slash."""
    with pytest.raises(UsageError, match="PATH: expected a path that begins with /"):
        params(target)


# --- answers ----------------------------------------------------------------------------------------------------------

RESPONSE = b"Status: 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nNot it\n"


def test_answer() -> None:
    """A head ends at the empty line; what follows is the body."""
    answer = Answer()
    assert answer.take(RESPONSE) == b"Not it\n"
    assert (answer.status, answer.reason, answer.received) == (404, "Not Found", 7)
    assert answer.headers == [("Content-Type", "text/plain"), ("Content-Length", "7")]
    assert complaint("GET", answer) is None


def test_answer_byte_by_byte() -> None:
    """However it is split, it is the same answer."""
    answer = Answer()
    assert b"".join(answer.take(RESPONSE[index : index + 1]) for index in range(len(RESPONSE))) == b"Not it\n"
    assert (answer.status, answer.received) == (404, 7)


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"A: b\n\n", 200, "OK"),
        (b"Location: /x\r\n\r\n", 302, "Found"),
        (b"Status: 201\r\nLocation: /x\r\n\r\n", 201, ""),
        (b"status: 200 All right\n\r\n", 200, "All right"),
    ],
)
def test_status(head: bytes, status: int, reason: str) -> None:
    """Without Status it is 302 with a Location, else 200; bare line feeds will do."""
    answer = Answer()
    answer.take(head)
    assert (status, reason) == (answer.status, answer.reason)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "expected a header line, found 'HTTP/1.1 200 OK"),
        (b"Status: OK\r\n\r\n", "expected a status of three digits, found 'OK'"),
        (b"Status: 20\r\n\r\n", "expected a status of three digits, found '20'"),
        (b"\xb2: a\r\n\r\n", "expected a header line"),
        (b"x" * 1_048_577, "expected the end of the response's head within 1048576 bytes"),
    ],
)
def test_bad_head(head: bytes, message: str) -> None:
    """A head that is none is a broken response."""
    with pytest.raises(ProtocolError, match=message):
        Answer().take(head)


@pytest.mark.parametrize(
    ("response", "method", "message"),
    [
        (b"A: b", "GET", "the response ended before its head did"),
        (b"", "GET", "the response ended before its head did"),
        (b"A: b\n\nbody", "GET", None),
        (b"Content-Length: 4\n\nbody", "GET", None),
        (b"Content-Length: 5\n\nbody", "GET", "the body has 4 bytes, but its Content-Length is 5"),
        (b"Content-Length: 5\n\n", "HEAD", None),
        (b"Status: 304\nContent-Length: 5\n\n", "GET", None),
        (b"Content-Length: x\n\n", "GET", "expected a number as Content-Length, found 'x'"),
    ],
)
def test_complaint(response: bytes, method: str, message: str | None) -> None:
    """An answer that has ended is whole, or it is said what is missing."""
    answer = Answer()
    answer.take(response)
    assert message == complaint(method, answer)
