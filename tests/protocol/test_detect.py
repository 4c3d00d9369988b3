from __future__ import annotations

import pytest

from prefork.protocol import detect
from prefork.protocol.detect import FASTCGI, HTTP, SCGI, TLS, UNKNOWN, UWSGI

FIRST_BYTES = {0x01: FASTCGI, 0x00: UWSGI, 0x16: TLS, 0x0D: HTTP, 0x0A: HTTP}
FIRST_BYTES |= dict.fromkeys(b"123456789", SCGI)
FIRST_BYTES |= dict.fromkeys(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", HTTP)
BOTH = (FASTCGI, HTTP)


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte_is_decided(first: int) -> None:
    """Each of the 256 first bytes belongs to exactly the protocol that the table gives it, or to none."""
    assert detect.detect(first) == FIRST_BYTES.get(first, UNKNOWN)


@pytest.mark.parametrize("first", range(256))
def test_what_is_read_as_http(first: int) -> None:
    """Letters and line ends; where nothing else is spoken, every printable character, so that it is answered 400."""
    assert detect.may_be_http(first, alone=False) == (FIRST_BYTES.get(first) == HTTP)
    assert detect.may_be_http(first, alone=True) == (FIRST_BYTES.get(first) == HTTP or 0x20 <= first <= 0x7E)


@pytest.mark.parametrize(
    ("speaks", "first", "found", "right"),
    [
        (BOTH, 0, "uwsgi_pass", "fastcgi_pass or proxy_pass http://"),
        (BOTH, ord("4"), "scgi_pass", "fastcgi_pass or proxy_pass http://"),
        ((FASTCGI,), ord("G"), "proxy_pass http://", "fastcgi_pass"),
        ((HTTP,), 0, "uwsgi_pass", "proxy_pass http://"),
    ],
)
def test_a_wrong_nginx_directive_is_named_to_the_log_and_to_the_client(
    speaks: tuple[str, ...], first: int, found: str, right: str
) -> None:
    """Whoever wrote the wrong *_pass reads which one is right, in the log and in a complete HTTP answer."""
    refusal = detect.refuse(speaks, first)
    assert refusal.reason.endswith(f"where nginx says {found} it must say {right}")
    head, body = refusal.answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert refusal.reason.encode() in body


def test_who_could_not_read_it_gets_a_reason_but_no_answer() -> None:
    """A peer that could not read HTTP gets none; the log says what was found."""
    assert detect.refuse(BOTH, 0x16).answer == b""
    assert "tls" in detect.refuse(BOTH, 0x16).reason
    assert detect.refuse((HTTP,), 1).answer == b""
    assert "fastcgi_pass" in detect.refuse((HTTP,), 1).reason
    assert detect.refuse(BOTH, 0xFE) == (
        "this socket speaks FastCGI and HTTP, found a connection that begins with 0xfe",
        b"",
    )
