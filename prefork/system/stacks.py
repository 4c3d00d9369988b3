"""Where a process stands, told by itself into a page that the master can read.

While the application is imported a watchdog of the interpreter (`faulthandler.dump_traceback_later`, a thread in C
that needs no GIL) writes the stack shortly before the master's patience ends: an import that hangs, in Python or in C,
is then reported with the line it hangs in. The page is a memory file opened for appending, made by the master.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["open_page", "read_page", "watched_import"]

_SHARE: Final = 0.8
"""The share of the time limit after which the stack is written."""

_SOONEST: Final = 0.001  # faulthandler wants more than nothing

_MOST: Final = 32 * 1024

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line \d+ in .*$')
_OURS: Final = str(Path(__file__).parents[1]) + os.sep


def open_page() -> int:
    """A new page; returns its descriptor."""
    descriptor = os.memfd_create("prefork-stacks", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


@contextlib.contextmanager
def watched_import(page: int, limit: float) -> Iterator[None]:
    """Write the stacks of this process to ``page`` if the block lasts nearly ``limit`` seconds."""
    faulthandler.dump_traceback_later(max(_SOONEST, limit * _SHARE), file=page)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def read_page(page: int) -> str:
    """What was written since the last call, without frames of prefork and of the import system; "" if nothing was."""
    try:
        data = os.pread(page, _MOST, 0)
        os.ftruncate(page, 0)
    except OSError:  # sealed by whoever else holds it
        return ""
    lines = data.decode("utf-8", "replace").splitlines()
    kept = [line for line in lines[1:] if not _is_plumbing(line)]
    return "\n".join(kept) if any(_FRAME.match(line) for line in kept) else ""


def _is_plumbing(line: str) -> bool:
    frame = _FRAME.match(line)
    if frame is None:
        return False
    file = frame["file"]
    return file.startswith((_OURS, "<frozen importlib", "<string>")) or file.endswith("importlib/__init__.py")
