from __future__ import annotations

import pytest

from prefork.protocol import detect
from prefork.protocol.detect import FASTCGI, HTTP, SCGI, TLS, UNKNOWN, UWSGI

FIRST_BYTES = {0x01: FASTCGI, 0x00: UWSGI, 0x16: TLS, 0x0D: HTTP, 0x0A: HTTP}
FIRST_BYTES |= dict.fromkeys(b"123456789", SCGI)
FIRST_BYTES |= dict.fromkeys(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", HTTP)


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte_is_decided(first: int) -> None:
    """Each of the 256 first bytes belongs to exactly the protocol that the table gives it, or to none."""
    assert detect.detect(first) == FIRST_BYTES.get(first, UNKNOWN)


@pytest.mark.parametrize(("first", "directive"), [(ord("G"), "proxy_pass"), (0, "uwsgi_pass"), (ord("4"), "scgi_pass")])
def test_a_wrong_nginx_directive_is_named_to_the_log_and_to_the_client(first: int, directive: str) -> None:
    """Whoever wrote the wrong *_pass reads which one is right, in the log and in a complete HTTP answer."""
    refusal = detect.refuse(detect.detect(first), first)
    assert directive in refusal.reason
    assert "fastcgi_pass" in refusal.reason
    head, body = refusal.answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert refusal.reason.encode() in body


def test_tls_and_noise_get_a_reason_but_no_answer() -> None:
    """A peer that could not read HTTP gets none; the log says what was found."""
    assert detect.refuse(TLS, 0x16).answer == b""
    assert "tls" in detect.refuse(TLS, 0x16).reason
    assert detect.refuse(UNKNOWN, 0xFE) == ("this socket speaks FastCGI, whose first byte is 0x01, found 0xfe", b"")
