"""Room for signals that come at once: their handlers run one on top of the other.

The interpreter's handlers run on the thread's alternate stack (sigaltstack(2)) where it has one, and faulthandler
gives one of some 12 KB to the first thread. The frame of one signal takes 3 KB and more, by the width of the vector
registers: with six different ones in a row the process dies of SIGSEGV. That many meet a worker that was stopped,
or did not run, for a moment: from a terminal, a service manager, the master, and children of the application.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["make_room"]

_SIZE: Final = 512 * 1024
"""Bytes: for all 64 signals on any processor. Only what is used of it takes memory."""

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = (ctypes.c_size_t,)


class _Stack(ctypes.Structure):
    """stack_t, sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def make_room() -> None:
    """Give this thread a large stack for signals, in the place of what faulthandler gave it before.

    To be called once in a process, which keeps it to the very end: the interpreter is gone before its handlers are.
    Where the system refuses, everything stays as it was.
    """
    memory = _libc.malloc(_SIZE)
    if memory is not None:
        _libc.sigaltstack(ctypes.byref(_Stack(memory, 0, _SIZE)), None)
