"""The page of shared memory on which a master tells the workers of one pool what it wants of them.

Written by the master, read by workers once per request, without a lock. Sealed against shrinking, growing and future
writes: no process but the master, whose mapping is older than the seal, can ever write to it (``F_SEAL_FUTURE_WRITE``,
Linux 5.1).

Layout: the doorbell byte, the log epoch, whether somebody waits, the tap, whether somebody looks at the status; then
the retire bytes of all slots, their dump bytes, and for each slot the number of the request that must stop.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Final

__all__ = [
    "CONTROL_HEADER",
    "DOORBELL",
    "LOG_EPOCH",
    "TAP",
    "WAITING",
    "WATCHED",
    "ControlPage",
    "control_size",
    "rows",
    "sealed_memory",
]

CONTROL_HEADER: Final = 64
"""Bytes before the retire bytes."""

# Where the bytes for all workers stand.
DOORBELL: Final = 0
LOG_EPOCH: Final = 1
WAITING: Final = 2
TAP: Final = 3
WATCHED: Final = 4

# Linux uapi/linux/fcntl.h; Python names only the first four, and only since 3.8.
_F_SEAL_SEAL: Final = 1
_F_SEAL_SHRINK: Final = 2
_F_SEAL_GROW: Final = 4
_F_SEAL_FUTURE_WRITE: Final = 16

_NUMBER: Final = struct.Struct("@Q")


def rows(slots: int) -> int:
    """The room of one byte a slot, in whole cache lines."""
    return -(-slots // 64) * 64


def control_size(slots: int) -> int:
    """All of it, in bytes."""
    return CONTROL_HEADER + 2 * rows(slots) + slots * _NUMBER.size


def sealed_memory(name: str, size: int, *, for_reading: bool) -> tuple[int, mmap.mmap]:
    """A memory file whose size nobody can change, and our mapping; others can only read, if that is what it is for."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        page = mmap.mmap(descriptor, 0)  # it has a descriptor of its own
    except OSError:
        os.close(descriptor)
        raise
    seals = _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL | (_F_SEAL_FUTURE_WRITE if for_reading else 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor, page


class ControlPage:
    """What the master tells all workers of a pool without waking any of them."""

    def __init__(self, slots: int) -> None:
        self.descriptor, self._page = sealed_memory("prefork-control", control_size(slots), for_reading=True)
        self._dumps_at = CONTROL_HEADER + rows(slots)
        self._timeouts_at = CONTROL_HEADER + 2 * rows(slots)

    def arm_doorbell(self, armed: bool) -> None:
        """Ask the worker that takes the last idle slot to ring. Arm first, then look: a hint, not a promise."""
        self._page[DOORBELL] = armed

    def renew_logs(self) -> None:
        """Tell all workers that logs were opened anew, after the descriptors were sent to them."""
        self._page[LOG_EPOCH] = (self._page[LOG_EPOCH] + 1) % 256

    def wait(self, waiting: bool) -> None:
        """Tell all workers whether connections wait in the listen queue."""
        self._page[WAITING] = waiting

    def watch(self, watched: bool) -> None:
        """Tell all workers whether somebody looks at the status, and wants what costs a system call a request."""
        self._page[WATCHED] = watched

    def tap(self, flags: int) -> None:
        """Tell all workers whether somebody looks at their traffic, and how (`prefork.system.tap`); 0: nobody."""
        self._page[TAP] = flags

    def retire(self, slot: int, retire: bool) -> None:
        """Tell the worker in a slot to leave before its next accept(2), or clear that for the next worker."""
        self._page[CONTROL_HEADER + slot] = retire

    def dump(self, slot: int) -> None:
        """Tell the worker in a slot to write its stack, each time anew."""
        self._page[self._dumps_at + slot] = (self._page[self._dumps_at + slot] + 1) % 256

    def time_out(self, slot: int, number: int) -> None:
        """Tell the worker in a slot which request must stop; 0 for none."""
        _NUMBER.pack_into(self._page, self._timeouts_at + slot * _NUMBER.size, number)

    def close(self) -> None:
        """Give the page back; workers keep theirs."""
        self._page.close()
        os.close(self.descriptor)
