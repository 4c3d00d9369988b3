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

_SIGNALS: Final = 64

_HANDLER: Final = 8 * 1024
"""Bytes for what a handler needs beside the frame; also for a frame of a kernel that does not tell how large it is."""

_AT_MINSIGSTKSZ: Final = 51
"""getauxval(3): how large the frame of a signal is on this processor; 0 where the kernel does not tell."""

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = (ctypes.c_size_t,)
_libc.free.restype = None
_libc.free.argtypes = (ctypes.c_void_p,)
_libc.getauxval.restype = ctypes.c_ulong
_libc.getauxval.argtypes = (ctypes.c_ulong,)


class _Stack(ctypes.Structure):
    """stack_t, sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc.sigaltstack.restype = ctypes.c_int
_libc.sigaltstack.argtypes = (ctypes.POINTER(_Stack), ctypes.POINTER(_Stack))


def make_room() -> None:
    """Give this thread a large stack for signals, in the place of what faulthandler gave it before.

    To be called once in a process, which keeps it to the very end: the interpreter is gone before its handlers are.
    It has room for every signal at once; only what is used of it takes memory. Where the system refuses, everything
    stays as it was.
    """
    size = _SIGNALS * (_libc.getauxval(_AT_MINSIGSTKSZ) + _HANDLER)
    memory = _libc.malloc(size)
    if memory is not None and _libc.sigaltstack(ctypes.byref(_Stack(memory, 0, size)), None) != 0:
        _libc.free(memory)
