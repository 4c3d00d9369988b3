"""The application to try a server on: ``prefork-serve prefork.demo --socket ./demo.sock``.

Every path is there to keep or to break one promise on purpose: answer, be slow, hang, crash, show the environment,
take an upload, stream a download. Plain WSGI from the standard library; it runs under any WSGI server. It tells
everything about its surroundings to everybody, so it is no application for the public.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["application"]

_CHUNK: Final = 65_536
# Long enough for every timeout one would set in front of an application, short enough to be over one day.
_LONGEST_SLEEP: Final = 3_600.0
_MOST_PIECES: Final = 1_000_000
_LARGEST_PIECE: Final = 1_024  # KiB

_VARY: Final = ("Vary", "Accept")
_STYLE: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<meta name=color-scheme content='light dark'>"
    "<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:2rem auto;padding:0 1rem}"
    "td{padding:.1rem 1rem .1rem 0;vertical-align:top}</style>"
)


class _BadRequest(Exception):
    """The request asks for something that cannot be; the message goes to the client."""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI application: one small page a path, 404 for the rest."""
    path = environ.get("PATH_INFO") or "/"
    page = _PAGES.get(path)
    if page is None:
        # PEP 3333 hands the bytes of the path over as latin-1; browsers mean UTF-8.
        shown = path.encode("latin-1", "replace").decode("utf-8", "replace")
        return _text(start_response, "404 Not Found", f"No page {shown!r} here. There are: {', '.join(_PAGES)}\n")
    try:
        return page(environ, start_response)
    except _BadRequest as problem:
        return _text(start_response, "400 Bad Request", f"{problem}\n")


def _front(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if "text/html" not in environ.get("HTTP_ACCEPT", ""):  # a terminal
        lines = "".join(f"{link:<17}{what}\n" for link, what in _CONTENTS)
        return _text(start_response, "200 OK", f"It works. Answered by {_worker(environ)}.\n\n{lines}", _VARY)
    here = escape(environ.get("SCRIPT_NAME", ""), quote=True)
    rows = "".join(
        f"<tr><td><a href='{here}{escape(link)}'>{escape(link)}</a><td>{escape(what)}" for link, what in _CONTENTS
    )
    return _html(
        start_response,
        f"<title>prefork demo</title><h1>It works</h1><p>Answered by {escape(_worker(environ))}.<table>{rows}</table>",
        _VARY,
    )


def _slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    seconds = _number(environ, "s", default=1.0, most=_LONGEST_SLEEP)
    time.sleep(seconds)
    return _text(start_response, "200 OK", f"Slept {seconds:g} s in {_worker(environ)}.\n")


def _hang(_environ: WSGIEnvironment, _start_response: StartResponse) -> Iterable[bytes]:
    while True:
        time.sleep(_LONGEST_SLEEP)


def _crash(_environ: WSGIEnvironment, _start_response: StartResponse) -> Iterable[bytes]:
    # SIGABRT, as a failed assertion in a C extension: no exception, no exit handler, no flushed buffer.
    os.abort()  # pragma: no cover - nobody lives to record this line


def _show(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _text(start_response, "200 OK", "".join(f"{key} = {environ[key]!r}\n" for key in sorted(environ)))


def _upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    method = environ["REQUEST_METHOD"]
    if method in ("GET", "HEAD"):
        return _html(
            start_response,
            "<title>prefork demo: upload</title><h1>Upload</h1>"
            "<form method=post enctype=multipart/form-data><input type=file name=file> <button>Send</button></form>"
            "<p>The whole body is counted and hashed, a form's boundaries too. "
            "<code>curl -T FILE</code> sends the file alone.",
        )
    if method not in ("POST", "PUT"):
        return _text(
            start_response, "405 Method Not Allowed", "POST or PUT a body here.\n", ("Allow", "GET, HEAD, POST, PUT")
        )
    digest = hashlib.sha256()
    size = 0
    for chunk in _body(environ):
        digest.update(chunk)
        size += len(chunk)
    return _text(start_response, "200 OK", f"bytes {size}\nsha256 {digest.hexdigest()}\n")


def _stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    count = int(_number(environ, "n", default=10, most=_MOST_PIECES))
    size = int(_number(environ, "kb", default=0, most=_LARGEST_PIECE)) * 1024
    pause = _number(environ, "s", default=0, most=_LONGEST_SLEEP)
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return _pieces(count, size, pause)


def _pieces(count: int, size: int, pause: float) -> Iterator[bytes]:
    for number in range(count):
        if number and pause:
            time.sleep(pause)
        # Padded with dots, the newline last: every piece of a size differs from every other.
        yield b"piece %d" % number + b"\n".rjust(size - len(b"piece %d" % number), b".")


def _body(environ: WSGIEnvironment) -> Iterator[bytes]:
    """The request's body in chunks; it ends at CONTENT_LENGTH unless the server marks the end itself."""
    body = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        while chunk := body.read(_CHUNK):
            yield chunk
        return
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit()):
        raise _BadRequest(f"CONTENT_LENGTH: expected a number, found {length!r}")
    missing = int(length)
    while missing and (chunk := body.read(min(missing, _CHUNK))):
        missing -= len(chunk)
        yield chunk
    if missing:
        raise _BadRequest(f"the body ended {missing} bytes before its CONTENT_LENGTH of {length}")


def _number(environ: WSGIEnvironment, name: str, *, default: float, most: float) -> float:
    """The query's number of that name, between 0 and ``most``."""
    text = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get(name, [str(default)])[-1]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:  # false for NaN as well
        raise _BadRequest(f"{name}: expected a number from 0 to {most:g}, found {text!r}")
    return value


def _worker(environ: WSGIEnvironment) -> str:
    """Who answers, as far as the server says it."""
    slot = environ.get("prefork.worker_slot")
    return f"process {os.getpid()}" if slot is None else f"worker {slot} (process {os.getpid()})"


def _text(start_response: StartResponse, status: str, body: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    return _send(start_response, status, "text/plain; charset=utf-8", body, headers)


def _html(start_response: StartResponse, body: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    return _send(start_response, "200 OK", "text/html; charset=utf-8", f"{_STYLE}{body}\n", headers)


def _send(
    start_response: StartResponse, status: str, kind: str, body: str, headers: Iterable[tuple[str, str]]
) -> Iterable[bytes]:
    data = body.encode("utf-8", "backslashreplace")
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(data))), *headers])
    return [data]


_PAGES: Final[dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]]] = {
    "/": _front,
    "/slow": _slow,
    "/hang": _hang,
    "/crash": _crash,
    "/env": _show,
    "/upload": _upload,
    "/stream": _stream,
}

_CONTENTS: Final = (
    ("/slow?s=2", "answers after that many seconds"),
    ("/hang", "never answers: holds its worker until somebody ends it"),
    ("/crash", "kills its worker with SIGABRT; the next request finds another"),
    ("/env", "what the server tells the application"),
    ("/upload", "counts and hashes what is sent there (POST, PUT)"),
    ("/stream?n=5&s=1", "five pieces, a second apart; kb= gives the size of a piece in KiB"),
)
