"""What a process has used of the machine so far, as the kernel counts it (proc(5)). It need not be ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from prefork.system.memory import private_memory

__all__ = ["Load", "load_of"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_USER_TIME: Final = 11  # fields of stat, counted behind the name
_SYSTEM_TIME: Final = 12


@dataclass(frozen=True, slots=True)
class Load:
    """Processor time of all its threads, in seconds to a hundredth, and bytes of memory (`private_memory`)."""

    cpu_seconds: float
    memory: int


def load_of(pid: int) -> Load | None:
    """What a process has used; None for one that has ended, or where /proc hides it."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1_000).rpartition(b")")[2].split()
        ticks = int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])
    except (OSError, ValueError, IndexError):
        return None
    memory = private_memory(pid)
    return Load(ticks / _TICKS, memory) if memory else None
