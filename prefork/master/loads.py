"""What the workers of a pool use, looked at by turns: a look costs system calls, and a pool may have a thousand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from prefork.system.load import Load, load_of

__all__ = ["Loads"]

_AT_ONCE: Final = 64
_EVERY: Final = 1.0  # seconds; the status may be asked for more often


class Loads:
    """The figures of one pool. Each worker's are as old as its last turn; before the first they are unknown."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._known: dict[int, Load | None] = {}  # by pid, the one looked at longest ago first

    def look(self, pids: Collection[int], now: float) -> None:
        """Look at some of these processes and forget all others, unless that was done a moment ago."""
        if now < self._look_at:
            return
        self._look_at = now + _EVERY
        present = set(pids)
        known = {pid: load for pid, load in self._known.items() if pid in present}
        turns = [pid for pid in pids if pid not in known] + list(known)
        for pid in turns[:_AT_ONCE]:
            known.pop(pid, None)
            known[pid] = load_of(pid)
        self._known = known

    def of(self, pid: int) -> Load | None:
        """What a process used when it was last looked at; None: unknown."""
        return self._known.get(pid)
