"""How much memory a process has for itself."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["private_memory"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def private_memory(pid: int) -> int:
    """Bytes that are in memory and no file's: proc(5), statm, resident less shared. 0 where nobody can tell.

    Pages that a fork shares with its parent until one of them writes to them count as well.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as text:
            _, resident, shared, *_ = text.read().split()
    except (OSError, ValueError):  # it has ended
        return 0
    return max(0, int(resident) - int(shared)) * _PAGE
