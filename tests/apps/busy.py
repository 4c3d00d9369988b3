"""An application that is always at something else: what a stack may be taken of, at any moment.

Its frames change all the time: deep recursion, generators, comprehensions, exceptions, C that calls Python, C that does
not let go, C that lets go of the interpreter, imports, threads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any


def recursion() -> int:
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + down(depth - 1)

    return sum(down(60) for _ in range(20))


def generators() -> int:
    def chain(depth: int) -> Iterable[int]:
        if depth == 0:
            yield from range(20)
        else:
            yield from chain(depth - 1)

    return sum(x for _ in range(5) for x in chain(20))


def exceptions() -> int:
    caught = 0
    for number in range(400):
        try:
            try:
                raise ValueError(number)
            finally:
                caught += 1
        except ValueError as error:
            caught += len(error.args)
    return caught


def callbacks() -> list[int]:
    """C that calls Python, and Python that calls C."""

    def compare(one: int, other: int) -> int:
        return (one > other) - (one < other)

    return sorted((number * 7_919 % 1_009 for number in range(600)), key=functools.cmp_to_key(compare))


def texts() -> str:
    data = {str(number): [number] * 5 for number in range(200)}
    return re.sub(r"\d+", lambda found: found[0][::-1], json.dumps(json.loads(json.dumps(data))))


def lets_go() -> bytes:
    """Without the interpreter's lock."""
    return hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1_000) + zlib.compress(b"abc" * 20_000)


def imports() -> None:
    for name in ("colorsys", "this_is_no_module", "stringprep"):
        sys.modules.pop(name, None)
        try:
            importlib.import_module(name)
        except ImportError:
            pass


def threads() -> None:
    running = [threading.Thread(target=exceptions) for _ in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def pauses() -> None:
    time.sleep(0.02)


def numbers_in(seconds: float) -> int:
    """How many numbers this machine adds up in so much processor time: machines differ by five times and more.

    At its best, of five tries: a processor that has just been idle, or is shared, begins slowly.
    """

    def add() -> float:
        began = time.thread_time()
        sum(range(1_000_000))
        return max(time.thread_time() - began, 0.001)

    return int(1_000_000 * seconds / min(add() for _ in range(5)))


HELD = numbers_in(0.25)


def holds() -> int:
    """In C, and with the interpreter's lock, for longer than anybody waits for an answer."""
    return sum(range(HELD))


WORK: tuple[Callable[[], Any], ...] = (
    recursion,
    generators,
    exceptions,
    callbacks,
    texts,
    lets_go,
    imports,
    threads,
    pauses,
)
HELD_ONE_IN = 300


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    number = int(environ["PATH_INFO"][1:] or 0)
    work = holds if number % HELD_ONE_IN == HELD_ONE_IN - 1 else WORK[number % len(WORK)]
    work()
    body = str(number).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
