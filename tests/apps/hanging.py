"""An application that hangs on request, in every way there is.

``/for?seconds=S`` takes that long and answers, ``/held?fifo=PATH`` when that FIFO was opened for writing and closed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

import prefork


def sleep(_environ: dict[str, Any]) -> None:
    while True:
        time.sleep(60)  # hangs: sleep


def loop(_environ: dict[str, Any]) -> None:
    while True:
        pass  # hangs: loop


def lock(_environ: dict[str, Any]) -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()  # hangs: lock


def receive(_environ: dict[str, Any]) -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)  # hangs: receive


def body(environ: dict[str, Any]) -> None:
    environ["wsgi.input"].read()  # hangs: body


def in_c(_environ: dict[str, Any]) -> None:
    sum(range(10**12))  # hangs: in_c


def stubborn(_environ: dict[str, Any]) -> None:
    while True:
        try:
            sleep(_environ)
        except BaseException:  # noqa: BLE001
            pass


def stream(_environ: dict[str, Any]) -> Iterator[bytes]:
    yield b"begun"
    sleep(_environ)


def last(environ: dict[str, Any]) -> list[bytes]:
    query = parse_qs(environ["QUERY_STRING"])
    if "more" in query:
        prefork.extend_deadline(float(query["more"][0]))
    time.sleep(float(query["seconds"][0]))  # hangs: last
    return [str(os.getpid()).encode()]


def held(environ: dict[str, Any]) -> None:
    with open(parse_qs(environ["QUERY_STRING"])["fifo"][0], "rb") as fifo:
        fifo.read()  # hangs: held


_HANGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "/sleep": sleep,
    "/loop": loop,
    "/lock": lock,
    "/receive": receive,
    "/body": body,
    "/in_c": in_c,
    "/stubborn": stubborn,
    "/stream": stream,
    "/for": last,
    "/held": held,
}


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    hang = _HANGS.get(environ["PATH_INFO"])
    found = None if hang is None else hang(environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"] if found is None else found
