"""Which protocol a connection speaks, by its first byte; and what to tell the ones that are not served.

FastCGI begins with its version, 1. The other beginnings are recognised so that someone who wrote ``proxy_pass``
where ``fastcgi_pass`` is needed reads that, in the log and in the browser, and not "malformed record".
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FASTCGI", "HTTP", "SCGI", "TLS", "UNKNOWN", "UWSGI", "Refusal", "detect", "refuse"]

FASTCGI: Final = "fastcgi"
UWSGI: Final = "uwsgi"
SCGI: Final = "scgi"
HTTP: Final = "http"
TLS: Final = "tls"
UNKNOWN: Final = "unknown"

_NEAREST: Final = {UWSGI: "uwsgi_pass", SCGI: "scgi_pass", HTTP: "proxy_pass", TLS: "proxy_pass https://"}


class Refusal(NamedTuple):
    """Why a connection is not served (for the log), and the bytes to send before it is closed (may be none)."""

    reason: str
    answer: bytes


def detect(first: int) -> str:
    """The protocol that begins with this byte."""
    if first == 0x01:
        return FASTCGI
    if first == 0x00:
        return UWSGI  # modifier1, 0 for a WSGI request
    if 0x31 <= first <= 0x39:
        return SCGI  # a netstring's length, which has no leading zero
    if 0x41 <= first <= 0x5A or first in (0x0D, 0x0A):
        return HTTP  # a method, or the empty line that RFC 9112 section 2.2 lets precede one
    if first == 0x16:
        return TLS  # a handshake record, RFC 8446 section 5.1
    return UNKNOWN


def refuse(protocol: str, first: int) -> Refusal:
    """What to log and what to answer to a connection that does not speak FastCGI.

    uwsgi and SCGI clients accept a response with an HTTP status line, so they get the same answer as HTTP ones.
    """
    directive = _NEAREST.get(protocol)
    if directive is None:
        return Refusal(f"this socket speaks FastCGI, whose first byte is 0x01, found 0x{first:02x}", b"")
    reason = f"this socket speaks FastCGI, found {protocol}: where nginx says {directive} it must say fastcgi_pass"
    if protocol == TLS:
        return Refusal(reason, b"")
    body = f"Bad Request: {reason}.\n".encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return Refusal(reason, head.encode() + body)
