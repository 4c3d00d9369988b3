"""An application for the tests of bodies: it arrives piece by piece, breaks off, lies about its length, is closed.

What a test must know from inside the worker goes through files in ``PARTS_FOLDER``: a FIFO lets the test release each
piece, and lines appended to files say what happened, each written by one write(2).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.validate import validator

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["application"]

FOLDER = Path(os.environ["PARTS_FOLDER"])
TEXT = ("Content-Type", "text/plain")


def note(name: str, line: str) -> None:
    descriptor = os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def pieces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Each piece waits for a line from the FIFO ``release``."""
    start_response("200 OK", [TEXT])
    with open(FOLDER / "release") as release:
        for number, _ in enumerate(release):
            yield f"piece {number}\n".encode()


class Endless:
    """A body without an end, which notes that it was closed."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 65_536

    def close(self) -> None:
        note("closed", "closed")


def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return Endless()


def breaks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Fails after its first bytes are on their way."""
    start_response("200 OK", [TEXT])
    yield b"x" * 200_000
    raise RuntimeError("broken on purpose")


def short(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Promises more than it gives."""
    start_response("200 OK", [TEXT, ("Content-Length", "100000")])
    return [b"x" * 50_000]


def fails(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Fails before it said anything."""
    raise RuntimeError("failed on purpose")


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the body's size and hash, and notes the request."""
    digest, size = hashlib.sha256(), 0
    while chunk := environ["wsgi.input"].read(65_536):
        digest.update(chunk)
        size += len(chunk)
    note("echoed", environ.get("QUERY_STRING", ""))
    body = f"{size} {digest.hexdigest()}\n".encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def who(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The process that answers: pid, real, effective and saved user and group, umask."""
    umask = os.umask(0)
    os.umask(umask)
    body = f"{os.getpid()} {os.getresuid()} {os.getresgid()} {umask:o}\n".encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


PAGES: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/pieces": pieces,
    "/endless": endless,
    "/breaks": breaks,
    "/short": short,
    "/fails": fails,
    "/echo": echo,
    "/who": who,
}


def route(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return PAGES[environ["PATH_INFO"]](environ, start_response)


application = validator(route)
