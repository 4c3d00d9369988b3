"""What an application may say in the head of its response. Everything else is an exception that names the culprit.

Refused: a status that is not a final one (1xx, other than three digits), header names that are no tokens, CR, LF and
NUL anywhere, text outside latin-1, ``Status`` (a second one would win) and the hop-by-hop fields, which belong to the
connection between the proxy and its client.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

__all__ = ["USUAL_STATUSES", "check_fields", "check_status"]

_STATUS: Final = re.compile(r"[2-9][0-9][0-9](?: [^\x00\r\n]*)?")
# The usual ones need no look at their letters.
USUAL_STATUSES: Final = frozenset(f"{status.value} {status.phrase}" for status in HTTPStatus if status >= 200)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2

# RFC 9110 section 7.6.1 and PEP 3333 "Other HTTP Features"; Status is CGI's (RFC 3875 section 6.3.3).
_FORBIDDEN: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "status",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)
# The fields that nearly every response is made of need no look at their letters.
_ORDINARY: Final = frozenset(
    (
        "Accept-Ranges",
        "Allow",
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Range",
        "Content-Security-Policy",
        "Content-Type",
        "Cross-Origin-Opener-Policy",
        "Date",
        "ETag",
        "Expires",
        "Last-Modified",
        "Link",
        "Location",
        "Pragma",
        "Referrer-Policy",
        "Server",
        "Set-Cookie",
        "Strict-Transport-Security",
        "Vary",
        "WWW-Authenticate",
        "X-Accel-Buffering",
        "X-Accel-Redirect",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "X-Request-ID",
        "X-XSS-Protection",
    )
)


def check_status(status: Any) -> str:
    """The status, if it is one."""
    if not isinstance(status, str):
        raise TypeError(f"the status must be a str like '200 OK', found {type(status).__name__}")
    if status not in USUAL_STATUSES and (_STATUS.fullmatch(status) is None or not _is_latin(status)):
        raise ValueError(f"the status must be a final one like '200 OK', found {status[:80]!r}")
    return status


def check_fields(headers: Any, *, may_have_length: bool) -> tuple[str, int]:
    """The header lines, each ending in CR LF, and what Content-Length says (-1: there is none).

    With ``may_have_length=False`` Content-Length is left out (RFC 9110 section 8.6: never with 204).
    """
    if type(headers) is not list:
        headers = list(headers)
    length = -1
    lines: list[str] = []
    for field in headers:
        # Not "for name, value": compiled code would go through an iterator for every pair.
        pair: tuple[Any, ...] = field if type(field) is tuple else tuple(field)
        if len(pair) != 2:
            raise TypeError(f"a header must be a tuple of name and value, found {field!r:.80}")
        name: Any = pair[0]
        value: Any = pair[1]
        if name not in _ORDINARY and (name == "Content-Length" or _check_name(name)):
            repeated = length >= 0
            length = _check_length(name, value, length)
            if repeated or not may_have_length:
                continue
        elif type(value) is not str:
            _check_value(name, value)
        lines.append(f"{name}: {value}\r\n")
    text = "".join(lines)
    # Three searches of the whole instead of three of every value; names are clean already.
    if (
        text.count("\r") != len(lines)
        or text.count("\n") != len(lines)
        or "\0" in text
        or not (text.isascii() or _is_latin(text))
    ):
        for name, value in headers:
            _check_value(name, value)
        raise ValueError("a header changes its value while it is looked at")
    return text, length if may_have_length else -1


def _is_latin(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _check_name(name: Any) -> bool:
    """Whether this field is Content-Length; an exception if it is none that an application may set."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, found {type(name).__name__} ({name!r:.80})")
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"a header's name must be a token (RFC 9110), found {name[:80]!r}")
    lower = name.lower()
    if lower in _FORBIDDEN:
        raise ValueError(f"the header {name} is not the application's to set: it belongs to the server or the proxy")
    return lower == "content-length"


def _check_value(name: str, value: Any) -> None:
    """An exception unless this value may be sent."""
    if not isinstance(value, str):
        raise TypeError(f"the header {name} must be a str, found {type(value).__name__} ({value!r:.80})")
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"the header {name} contains CR, LF or NUL: {value[:80]!r}")
    if not _is_latin(value):
        raise ValueError(f"the header {name} contains characters outside latin-1 (PEP 3333): {value[:80]!r}")


def _check_length(name: str, value: Any, known: int) -> int:
    """The number that Content-Length says; ``known`` is what it said before, or -1."""
    if type(value) is not str:
        _check_value(name, value)
    digits: str = value
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        _check_value(name, value)
        raise ValueError(f"the header Content-Length must be a decimal number, found {digits[:80]!r}")
    length = int(digits)
    if known not in (-1, length):
        raise ValueError(f"the header Content-Length was given twice: {known} and {length}")
    return length
