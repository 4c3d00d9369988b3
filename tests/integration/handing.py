"""What the tests of listeners that somebody else owns have in common."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import REPOSITORY, Load, fastcgi, wait_until

__all__ = ["by_socket", "held", "passed", "recipe", "release", "wait_release"]

_PASSED_FROM = 60  # well above what systemd's numbers begin with

_AFTER_FORK = """
import os, sys
numbers, names, *command = sys.argv[1:]
for place, number in enumerate(numbers.split(","), start=3):
    os.dup2(int(number), place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(numbers.count(",") + 1)}
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execvp(command[0], command)
"""


@contextlib.contextmanager
def held(path: str, backlog: int = 128) -> Iterator[socket.socket]:
    """A listening socket whose owner is the test, as systemd would be."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(backlog)
        yield listener


@contextlib.contextmanager
def passed(*listeners: socket.socket, names: str = "") -> Iterator[dict[str, Any]]:
    """How a ``Server`` is started so that it gets these listeners as systemd passes them: from 3 on, by LISTEN_*.

    Another program takes systemd's part after its fork: it is the process that becomes the server and knows its pid.
    """
    numbers = [fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, _PASSED_FROM) for listener in listeners]
    told = [",".join(map(str, numbers)), names]
    try:
        yield {"parent": [sys.executable, "-I", "-S", "-c", _AFTER_FORK, *told], "pass_fds": numbers}
    finally:
        for number in numbers:
            os.close(number)


def by_socket(path: str) -> Callable[[int], str]:
    """What a client of a `Crowd` asks of ``handed``, without nginx; the version that answered."""

    def ask(number: int) -> str:
        body = b""
        if number % 4 == 0:
            response = fastcgi(path, "GET", f"/slow?s={(number % 5) / 20}")
        elif number % 2:
            body = bytes([number % 251]) * (number * 7919 % 100_000 + 1)
            response = fastcgi(path, "POST", "/", body=body)
        else:
            response = fastcgi(path, "GET", "/")
        assert (response.status, response.complete) == (200, True)
        version, _, digest = response.text.partition(" ")
        assert digest == (f"{len(body)} {hashlib.sha256(body).hexdigest()}" if body else ""), response.text
        return version

    return ask


def recipe(part: str, changes: Mapping[str, str]) -> str:
    """The block of docs/running.md that contains ``part``, with words of it replaced."""
    text = (REPOSITORY / "docs" / "running.md").read_text()
    (found,) = [block for block in re.findall(r"^```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if part in block]
    for before, after in changes.items():
        assert before in found, before
        found = found.replace(before, after)
    return str(found)


def release(folder: Path, version: str) -> dict[str, str]:
    """Put a version of the application in place; the environment by which it finds it."""
    file = folder / "version"
    (folder / "version.new").write_text(version)
    (folder / "version.new").rename(file)
    return {"HANDED_VERSION": str(file)}


def wait_release(load: Load, name: str, more: int = 20) -> None:
    """Until that many more requests were answered by that release of ``mixed``, or one was lost."""

    def count() -> int:
        return sum(sample.release == name for sample in load.samples)

    before = count()
    wait_until(lambda: count() >= before + more or load.lost or load.wrong, what=f"{more} answers of release {name}")
