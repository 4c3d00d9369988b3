"""What a web server tells an application about a request, and what it is told back: the parameters, and the head.

Pure: from words to parameters, from bytes to a status, headers and a body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from prefork.errors import ProtocolError, UsageError

__all__ = ["OWN_HOST", "Answer", "complaint", "request_params"]

OWN_HOST: Final = "localhost"
"""The host that is asked, unless a header names another."""

# RFC 9110, 5.6.2: what a header's name and a method are made of.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET_SAFE: Final = "!#$%&'()*+,/:;=?@[]~"
_LARGEST_HEAD: Final = 1_048_576  # far beyond what any web server takes
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_BODILESS: Final = (204, 304)


def request_params(method: str, target: str, headers: Iterable[str], length: int | None, body: bool) -> dict[str, str]:
    """The parameters nginx's stock ``fastcgi_params`` would send for this request, as latin-1 text.

    ``target`` is a path with perhaps a query, ``headers`` are lines of ``Name: value``, ``length`` is that of the
    body where it is known. Raises `UsageError` for a method, a target or a header that is none.
    """
    if not _TOKEN.fullmatch(method):
        raise UsageError(f"--method: expected a word such as GET or POST, found {method!r}")
    if not target.startswith("/"):
        raise UsageError(f"PATH: expected a path that begins with /, found {target!r}")
    uri = quote(target.partition("#")[0], safe=_TARGET_SAFE, errors="surrogateescape")
    path, _, query = uri.partition("?")
    script = unquote_to_bytes(path).decode("latin-1")
    params = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "preforkctl",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": OWN_HOST,
        "SERVER_ADDR": "127.0.0.1",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "0",
        "REQUEST_SCHEME": "http",
        "REQUEST_METHOD": method,
        "REQUEST_URI": uri,
        "DOCUMENT_URI": script,
        "SCRIPT_NAME": script,
        "QUERY_STRING": query,
        "CONTENT_TYPE": "application/octet-stream" if body else "",
        "CONTENT_LENGTH": "" if length is None else str(length),
        "HTTP_HOST": OWN_HOST,
        "HTTP_USER_AGENT": "preforkctl",
        "HTTP_ACCEPT": "*/*",
    }
    for header in headers:
        key, value = _header_param(header)
        params[key] = value
    return params


def _header_param(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not _TOKEN.fullmatch(name) or any(character in value for character in "\r\n\0"):
        raise UsageError(f"-H: expected NAME:VALUE on one line, found {header!r}")
    key = name.upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = "HTTP_" + key
    return key, value.strip().encode("utf-8", "surrogateescape").decode("latin-1")


class Answer:
    """A CGI response, taken apart as it arrives: the head, then the body.

    ``status`` is 0 until the head is complete; then it is what ``Status`` says, else 302 with a ``Location`` and 200
    without (RFC 3875, 6.2). ``received`` counts the bytes of the body; ``ends_line`` is whether the
    last of them ends a line.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers: list[tuple[str, str]] = []
        self.received = 0
        self.ends_line = False
        self._head = bytearray()

    def take(self, data: bytes) -> bytes:
        """Take some output of the application and return what of it is body. Raises `ProtocolError`."""
        if not self.status:
            self._head += data
            end = _END_OF_HEAD.search(self._head)
            if end is None:
                if len(self._head) > _LARGEST_HEAD:
                    raise ProtocolError(f"expected the end of the response's head within {_LARGEST_HEAD} bytes")
                return b""
            data = bytes(self._head[end.end() :])
            self._read_head(self._head[: end.start()].decode("latin-1"))
        self.received += len(data)
        if data:
            self.ends_line = data.endswith(b"\n")
        return data

    def find(self, name: str) -> str | None:
        """A header's value, the first if there are several."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def _read_head(self, head: str) -> None:
        for line in head.split("\n"):
            name, colon, value = line.rstrip("\r").partition(":")
            if not colon or not _TOKEN.fullmatch(name):
                raise ProtocolError(f"expected a header line, found {line!r}")
            self.headers.append((name, value.strip()))
        status = self.find("status") or ("302 Found" if self.find("location") else "200 OK")
        if not (status[:3].isascii() and status[:3].isdigit() and len(status[:3]) == 3):
            raise ProtocolError(f"expected a status of three digits, found {status!r}")
        self.headers = [(name, value) for name, value in self.headers if name.lower() != "status"]
        self.status, self.reason = int(status[:3]), status[3:].strip()


def complaint(method: str, answer: Answer) -> str | None:
    """What is wrong with an answer that has ended: with its head, or with the length of its body."""
    if not answer.status:
        return "the response ended before its head did"
    length = answer.find("content-length")
    if length is None or method == "HEAD" or answer.status in _BODILESS:
        return None
    if not (length.isascii() and length.isdigit()):
        return f"expected a number as Content-Length, found {length!r}"
    if int(length) != answer.received:
        return f"the body has {answer.received} bytes, but its Content-Length is {length}"
    return None
