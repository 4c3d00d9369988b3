"""How fast this machine is at this moment, for the few promises in seconds that it has a part in."""

from __future__ import annotations

import math
import sys
import threading
import time
from pathlib import Path
from typing import Final, Self

from harness.processes import run

__all__ = ["Pulse", "boot_timeout", "stretch"]

_BEAT: Final = 0.02
_LATE: Final = 0.02
"""Seconds: by less, nobody notices that a beat is late."""


def stretch() -> float:
    """How much longer than on an idle machine work takes at this moment: wall-clock time by processor time."""
    begun, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < 0.1:
        pass
    return max(1.0, (time.perf_counter() - begun) / 0.1)


def boot_timeout(folder: Path) -> int:
    """Seconds in which any application that does not hang is loaded: two, where the machine is not slow or busy."""
    began = time.monotonic()
    assert run(sys.executable, "-c", "import prefork.zygote, prefork.worker.loop", folder=folder).returncode == 0
    return max(2, math.ceil(10 * (time.monotonic() - began)))


class Pulse:
    """For how long the machine kept somebody waiting who had nothing to do but to wake up, in the block."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._late: list[tuple[float, float]] = []  # when, and by how much
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_BEAT):
            now = time.monotonic()
            if now - before > _BEAT + _LATE:
                self._late.append((now, now - before - _BEAT))
            before = now

    def stalled(self, since: float, until: float) -> float:
        """Seconds of stalls between two moments, monotonic."""
        return sum(min(late, until - since) for at, late in list(self._late) if since < at and at - late < until)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
