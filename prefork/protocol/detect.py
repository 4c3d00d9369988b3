"""Which protocol a connection speaks, by its first byte; and what to tell the ones that are not served.

FastCGI begins with its version, 1, HTTP with the letters of a method. The other beginnings are recognised so that
someone who wrote ``uwsgi_pass``, or ``fastcgi_pass`` to a socket that speaks HTTP alone, reads that, in the log and in
the browser, and not "malformed record".
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FASTCGI", "HTTP", "SCGI", "TLS", "UNKNOWN", "UWSGI", "Refusal", "detect", "may_be_http", "refuse"]

FASTCGI: Final = "fastcgi"
UWSGI: Final = "uwsgi"
SCGI: Final = "scgi"
HTTP: Final = "http"
TLS: Final = "tls"
UNKNOWN: Final = "unknown"

_TITLES: Final = {FASTCGI: "FastCGI", HTTP: "HTTP"}
_DIRECTIVES: Final = {
    FASTCGI: "fastcgi_pass",
    UWSGI: "uwsgi_pass",
    SCGI: "scgi_pass",
    HTTP: "proxy_pass http://",
    TLS: "proxy_pass https://",
}


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
    if 0x41 <= first <= 0x5A or 0x61 <= first <= 0x7A or first in (0x0D, 0x0A):
        return HTTP  # a method, or the empty line that RFC 9112 section 2.2 lets precede one
    if first == 0x16:
        return TLS  # a handshake record, RFC 8446 section 5.1
    return UNKNOWN


def may_be_http(first: int, alone: bool) -> bool:
    """Whether HTTP is to be made of what begins with this byte, if only to answer 400.

    Where HTTP is spoken ``alone`` that is every character a person might type.
    """
    found = detect(first)
    return found == HTTP or (alone and found in (SCGI, UNKNOWN) and 0x20 <= first <= 0x7E)


def refuse(speaks: tuple[str, ...], first: int) -> Refusal:
    """What to log and what to answer to a connection that speaks none of the protocols of this socket.

    uwsgi and SCGI clients accept a response with an HTTP status line, so they get the same answer as HTTP ones.
    """
    protocol = detect(first)
    served = " and ".join(_TITLES[name] for name in speaks)
    directive = _DIRECTIVES.get(protocol)
    if directive is None:
        return Refusal(f"this socket speaks {served}, found a connection that begins with 0x{first:02x}", b"")
    right = " or ".join(_DIRECTIVES[name] for name in speaks)
    reason = f"this socket speaks {served}, found {protocol}: where nginx says {directive} it must say {right}"
    if protocol in (TLS, FASTCGI):
        return Refusal(reason, b"")
    body = f"Bad Request: {reason}.\n".encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return Refusal(reason, head.encode() + body)
