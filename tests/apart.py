"""Python that must run in a process of its own: another server, another user, a user that cannot come back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from harness.processes import environment

NOBODY: Final = 65534

_PRELUDE = """
import os, socket, sys
from prefork.errors import PreforkError
from prefork.system.listener import Listener, parse_address

def ready(text="ready"):
    print(text, flush=True)

def hold():
    sys.stdin.read()
"""


def run_apart(script: str, *arguments: str, user: int | None = None, command: tuple[str, ...] = ()) -> str:
    """What ``script`` prints; it must exit with 0. A PreforkError is printed as its class's name and message."""
    body = "\n".join("    " + line for line in script.splitlines())
    whole = f"{_PRELUDE}\ntry:\n{body}\nexcept PreforkError as problem:\n    print(type(problem).__name__, problem)"
    done = subprocess.run(
        [*command, sys.executable, "-c", whole, *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
        text=True,
        cwd="/",
        env=environment({}),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    return done.stdout.strip()


@contextmanager
def living(script: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs ``script`` as far as its ready() and is there until the end: with the line it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment({}),
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        assert line, "the script ended before it was ready"
        yield process, line
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
