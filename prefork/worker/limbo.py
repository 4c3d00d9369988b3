"""Connections that must not be closed, because their end would be taken for the end of a response.

To an HTTP/1.0 client a response without a Content-Length ends with its connection. One that breaks off is told apart
by a reset on TCP; a Unix socket has none. So such a connection stays open until its peer, who hears nothing more, gives
it up (nginx after proxy_read_timeout), and only then is it closed. `MAX_KEPT` at most are kept, the oldest goes first.
"""

from __future__ import annotations

import fcntl
import os
import select
from typing import Final, final

__all__ = ["MAX_KEPT", "Limbo"]

MAX_KEPT: Final = 32


@final
class Limbo:
    """The connections that wait for their peers to give them up."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def keep(self, descriptor: int) -> None:
        """Keep a connection open, under another number, after its own descriptor is closed."""
        self.release()
        try:
            self.kept.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
        except OSError:
            return  # no number left: the peer takes the response for whole
        if len(self.kept) > MAX_KEPT:
            os.close(self.kept.pop(0))

    def release(self) -> None:
        """Close those whose peers have gone."""
        poll = select.poll()
        for descriptor in self.kept:
            poll.register(descriptor, 0)  # POLLHUP and POLLERR are always told
        for descriptor, _ in poll.poll(0):
            self.kept.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Close all."""
        while self.kept:
            os.close(self.kept.pop())
