"""A cgroup with a limit to its memory, for processes that shall run out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from prefork.system.oom import find_counter

__all__ = ["limited_memory"]

# As tests/run knows it: most containers have none to give.
_NEEDED: Final = "needs a cgroup with a limit to its memory"


@contextmanager
def limited_memory(size: int) -> Iterator[Path]:
    """The folder of a cgroup below our own that may use that many bytes; skips where none can be made.

    A process joins it by writing 0 into its file cgroup.procs. It must be empty again at the end.
    """
    own = find_counter(Path("/proc"))
    if own is None or own.name == "vmstat":
        pytest.skip(f"{_NEEDED}: this process is in none")
    folder = own.parent / f"prefork-test-{os.getpid()}"
    limit = "memory.max" if own.name == "memory.events" else "memory.limit_in_bytes"
    try:
        folder.mkdir()
    except OSError as problem:
        pytest.skip(f"{_NEEDED}: {problem}")
    try:
        try:
            (folder / limit).write_text(str(size))
        except OSError as problem:
            pytest.skip(f"{_NEEDED}: {problem}")
        for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", size)):
            if (folder / name).exists():
                (folder / name).write_text(str(value))
        yield folder
    finally:
        folder.rmdir()
