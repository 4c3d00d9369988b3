"""One page on which a master publishes what it knows, for whoever shows it: written by one, read by many, no lock.

A memory file, sealed against every change of size and, but for the master's older mapping, against writing
(``F_SEAL_FUTURE_WRITE``, Linux 5.1). A reader that wants fresh news rings an eventfd and waits a moment for what was
begun after that (CLOCK_MONOTONIC is the same for all); a master that does not answer in time is shown as of its last
word, and never waits for anybody itself.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Final

from prefork.errors import PreforkError
from prefork.system.bell import silence
from prefork.system.controlpage import sealed_memory

__all__ = ["Bulletin", "BulletinReader", "borrow", "lend"]

# Sequence (odd while the text changes), length, when it was begun in nanoseconds. Written one number by one store:
# `pack_into` fills its room with zeros first.
_HEADER: Final = struct.Struct("@QQQ")
_SEQUENCE: Final = struct.Struct("@Q")
_BEGUN: Final = struct.Struct("@16xQ")

_ROOM: Final = 16 * 1024**2
"""Bytes of address space; memory is taken by what is written."""

_lent: tuple[int, int] | None = None

_TRIES: Final = 50
_PAUSE: Final = 0.001


class Bulletin:
    """The master's end."""

    def __init__(self, room: int = _ROOM) -> None:
        self.descriptor, self._page = sealed_memory("prefork-bulletin", room, for_reading=True)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._header = memoryview(self._page).cast("Q")
        self._room = room - _HEADER.size
        self._sequence = 0

    def publish(self, text: bytes, begun: int) -> None:
        """Put this in the place of what was there. Raises ValueError for more than there is room for.

        ``begun`` is `time.monotonic_ns` before it was put together: who asks for news is content with what was begun
        later. A fact may be as old as the look at it, as whoever writes it says.
        """
        if len(text) > self._room:
            raise ValueError(f"{len(text)} bytes; there is room for {self._room}")
        self._header[0] = self._sequence + 1
        self._header[1] = len(text)
        self._header[2] = begun
        self._page[_HEADER.size : _HEADER.size + len(text)] = text
        self._sequence += 2
        self._header[0] = self._sequence

    def answer(self) -> None:
        """Silence the bell, without ever waiting."""
        silence(self.bell)

    def close(self) -> None:
        """Give the page back; readers keep theirs."""
        self._header.release()
        self._page.close()
        os.close(self.descriptor)
        os.close(self.bell)


def lend(descriptor: int, bell: int) -> None:
    """For a process that was given a bulletin: where `borrow` finds it."""
    global _lent
    _lent = (descriptor, bell)


def borrow() -> BulletinReader:
    """A reader of the bulletin that this process was given. Raises PreforkError where it was given none."""
    if _lent is None:
        raise PreforkError("this process was given nothing to show: it is no worker of a pool that shows the status")
    return BulletinReader(*_lent)


class BulletinReader:
    """A reader's end, by the descriptors it was given. Keeps a mapping, closes nothing."""

    def __init__(self, descriptor: int, bell: int) -> None:
        self._page = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        self._bell = bell

    def read(self, patience: float = 0.0) -> bytes | None:
        """What was published last; None where nothing was. Asks for news first and waits so many seconds for them."""
        if patience > 0:
            self._refresh(patience)
        for _ in range(_TRIES):
            before, length, _ = _HEADER.unpack_from(self._page, 0)
            if before % 2 == 0:
                text = self._page[_HEADER.size : _HEADER.size + min(length, len(self._page))]
                (after,) = _SEQUENCE.unpack_from(self._page, 0)
                if before == after:
                    return text if before else None
            time.sleep(_PAUSE)
        return None

    def _refresh(self, patience: float) -> None:
        asked = time.monotonic_ns()
        try:
            os.eventfd_write(self._bell, 1)
        except OSError:
            return
        end = asked + int(patience * 1e9)
        while time.monotonic_ns() < end:
            (begun,) = _BEGUN.unpack_from(self._page, 0)
            if begun >= asked:
                return
            time.sleep(_PAUSE)
