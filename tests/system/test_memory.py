"""What a process weighs: what it wrote to, and not what it only maps."""

from __future__ import annotations

import mmap
import os
import subprocess

from prefork.system.memory import private_memory

SIZE = 32 * 1024**2


def test_what_is_written_weighs() -> None:
    """Anonymous memory counts once it is touched, and no longer when it is given back."""
    before = private_memory(os.getpid())
    held = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, SIZE, mmap.PAGESIZE):
        held[start] = 1
    assert private_memory(os.getpid()) >= before + SIZE * 9 // 10
    held.close()
    assert private_memory(os.getpid()) < before + SIZE // 2


def test_who_has_ended_weighs_nothing() -> None:
    """Nor does a zombie, nor nobody."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert private_memory(process.pid) == 0
    assert (private_memory(process.pid), private_memory(-1)) == (0, 0)
