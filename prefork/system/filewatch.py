"""A descriptor that becomes readable when one of some files is unlinked, renamed or replaced (inotify(7)).

It is a hint: where the kernel has no room for it (fs.inotify.max_user_instances), or the directory was renamed, or
nothing is told for another reason, a look at the path now and then has to do. The files themselves are watched, not
their directory, which may be as busy as /tmp.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final

__all__ = ["FileWatch"]

# sys/inotify.h. The number of names is one of a file's attributes: unlink(2) is IN_ATTRIB while somebody has it open.
_IN_ATTRIB: Final = 0x004
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_IN_DONT_FOLLOW: Final = 0x02000000
_EVENTS: Final = _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_DONT_FOLLOW

_ROOM: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Watches files by the inodes that their paths lead to when `add` is called."""

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def works(self) -> bool:
        """Whether there is a descriptor at all."""
        return self._descriptor >= 0

    def fileno(self) -> int:
        """Readable when something happened; -1 where it does not work."""
        return self._descriptor

    def add(self, path: str) -> bool:
        """Watch the file that stands at ``path`` now, not one that a link there leads to; whether that is possible."""
        return self.works and bool(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), _EVENTS) >= 0)

    def take(self) -> None:
        """What happened is known: not readable until the next time."""
        with suppress(OSError):  # EAGAIN: that was all
            while os.read(self._descriptor, _ROOM):
                pass

    def close(self) -> None:
        """Watch nothing any more."""
        if self.works:
            os.close(self._descriptor)
            self._descriptor = -1
