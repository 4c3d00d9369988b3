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
# The usual ones, with their numbers, need no look at their letters.
USUAL_STATUSES: Final = {f"{status.value} {status.phrase}": str(status.value) for status in HTTPStatus if status >= 200}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_MAX_LENGTH_DIGITS: Final = 18

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
# The fields that say the same in many responses, and nothing that is one client's alone.
_LASTING: Final = frozenset(
    (
        "Accept-Ranges",
        "Allow",
        "Cache-Control",
        "Content-Encoding",
        "Content-Language",
        "Content-Security-Policy",
        "Content-Type",
        "Cross-Origin-Opener-Policy",
        "Pragma",
        "Referrer-Policy",
        "Server",
        "Strict-Transport-Security",
        "Vary",
        "X-Accel-Buffering",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "X-XSS-Protection",
    )
)
# The names that nearly every response is made of need no look at their letters.
_ORDINARY: Final = _LASTING | frozenset(
    (
        "Content-Disposition",
        "Content-Range",
        "Date",
        "ETag",
        "Expires",
        "Last-Modified",
        "Link",
        "Location",
        "Set-Cookie",
        "WWW-Authenticate",
        "X-Accel-Redirect",
        "X-Request-ID",
    )
)
# Fields that were found in order, as `_read_field` returned them: most say the same in many responses. Never more than
# so many, no line longer than so many characters.
_KNOWN: Final[dict[Any, tuple[str, int]]] = {}
_MOST_KNOWN: Final = 256
_LONGEST_KNOWN: Final = 256


def check_status(status: Any) -> str:
    """The status, if it is one."""
    if not isinstance(status, str):
        raise TypeError(f"the status must be a str like '200 OK', found {type(status).__name__}")
    if status not in USUAL_STATUSES and (_STATUS.fullmatch(status) is None or not _is_latin(status)):
        raise ValueError(f"the status must be a final one like '200 OK', found {status[:80]!r}")
    return status


def check_fields(headers: Any, may_have_length: bool) -> tuple[str, int]:
    """The header lines, each ending in CR LF, and what Content-Length says (-1: there is none).

    With ``may_have_length=False`` Content-Length is left out (RFC 9110 section 8.6: never with 204).
    """
    if type(headers) is not list:
        headers = list(headers)
    length = -1
    lines: list[str] = []
    for field in headers:
        try:
            known = _KNOWN.get(field)
        except TypeError:  # not hashable: it is no tuple, or not one of two str
            known = None
        # A str of another class may equal a known one, and yet show itself as something else.
        if known is None or not type(field[0]) is type(field[1]) is str:
            known = _read_field(field)
        line, declared = known
        if declared >= 0:
            if length >= 0:
                if length != declared:
                    raise ValueError(f"the header Content-Length was given twice: {length} and {declared}")
                continue
            length = declared
            if not may_have_length:
                continue
        lines.append(line)
    return "".join(lines), length if may_have_length else -1


def _read_field(field: Any) -> tuple[str, int]:
    """A field's line, and what it declares if it is Content-Length, else -1; an exception unless it may be sent."""
    # Not "name, value = field": compiled code would go through an iterator for every pair.
    pair: tuple[Any, ...] = field if type(field) is tuple else tuple(field)
    if len(pair) != 2:
        raise TypeError(f"a header must be a tuple of name and value, found {field!r:.80}")
    name: Any = pair[0]
    value: Any = pair[1]
    declared = -1
    if name not in _ORDINARY and (name == "Content-Length" or _check_name(name)):
        declared = _read_length(name, value)
    elif type(value) is not str:
        _check_value(name, value)
    text = f"{name}: {value}"
    if not (text.isascii() and text.isprintable()):
        _check_value(name, value)
        if "\r" in text or "\n" in text or "\0" in text or not _is_latin(text):
            raise ValueError("a header shows itself as something else than its value")
    read = (f"{text}\r\n", declared)
    if type(name) is type(value) is str and name in _LASTING and len(text) <= _LONGEST_KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[name, value] = read
    return read


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


def _read_length(name: str, value: Any) -> int:
    """The number that Content-Length says."""
    if type(value) is not str:
        _check_value(name, value)
    digits: str = value
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_LENGTH_DIGITS):
        _check_value(name, value)
        raise ValueError(f"the header Content-Length must be a decimal number, found {digits[:80]!r}")
    return int(digits)
