"""Signals as one more readable descriptor, so that the master has exactly one place where it waits.

A handler only notes the signal's number; the byte that the interpreter's own C handler writes to the descriptor
(`signal.set_wakeup_fd`) ends the wait. The bytes are not used as the numbers: the pipe may be full of SIGCHLD when a
SIGTERM comes, and then only the note is left. Notes have a bound: what is sent without end is the same wish.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final

__all__ = ["Wakeup"]

_MOST_OF_ONE: Final = 16
"""Notes of one signal between two looks. A second SIGINT means more than the first; a seventeenth no more."""


class Wakeup:
    """Watches signals from construction until `close`, which restores what was there before.

    Raises ValueError when not constructed in the main thread (a rule of CPython's signal module).
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._noted: deque[signal.Signals] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, Any] = {}
        try:
            self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        except ValueError:
            os.close(self._read)
            os.close(self._write)
            raise
        for number in signals:
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._noted.count(signal.Signals(number)) < _MOST_OF_ONE:
            self._noted.append(signal.Signals(number))

    def fileno(self) -> int:
        """Readable when a signal may have come."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals that came since the last call, oldest first."""
        try:
            while len(os.read(self._read, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._noted:
            taken.append(self._noted.popleft())
        return taken

    def close(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)
