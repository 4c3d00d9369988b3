"""What is said to a service manager, in the protocol of sd_notify(3): datagrams to the socket in NOTIFY_SOCKET.

Nothing here waits or raises. A message about the server's state that cannot be sent now (the manager is busy, or is
being replaced) is kept and sent before the next one, so that it is late and never lost; a line of status or a sign of
life is not, since the next one says the same.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

__all__ = ["Notifier"]

_LONGEST_STATUS: Final = 1_000
_MOST_OWED: Final = 16


class Notifier:
    """Speaks to the manager at ``address``: a path, or a name that begins with ``@``; to nobody if it is empty.

    ``watchdog`` is how many seconds of silence the manager takes for a hang; None: it does not watch.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self.watched = watchdog
        self.problem = ""  # why the last message could not be sent; empty if it was
        self._address = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
        self._socket: socket.socket | None = None
        self._owed: deque[bytes] = deque(maxlen=_MOST_OWED)

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """For the manager that an environment names; ``pid`` is the process that it was meant for."""
        address = environ.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@") or len(address) < 2:
            address = ""
        micros = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watched = meant and micros.isascii() and micros.isdigit() and int(micros) > 0
        return cls(address, int(micros) / 1e6 if address and watched else None)

    def __bool__(self) -> bool:
        """Whether there is a manager to speak to."""
        return bool(self._address)

    def ready(self) -> None:
        """The start, or a reload, is over: it serves."""
        self._state("READY=1", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, whatever came of it."""
        self._state("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._state("STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for a person; whether it was sent."""
        line = " ".join(text.split())[:_LONGEST_STATUS]
        return self._say(f"STATUS={line}".encode("utf-8", "replace"))

    def watchdog(self) -> None:
        """A sign of life."""
        self._say(b"WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """It is still starting, or stopping: give it this long from now, if it had less."""
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}".encode())

    def settle(self) -> None:
        """Try again to send what is owed."""
        while self._owed and self._send(self._owed[0]):
            self._owed.popleft()

    def close(self) -> None:
        """Say no more."""
        self._owed.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _state(self, *lines: str) -> None:
        if self:
            self._owed.append("\n".join(lines).encode())
            self.settle()

    def _say(self, message: bytes) -> bool:
        self.settle()
        return not self._owed and self._send(message)

    def _send(self, message: bytes) -> bool:
        if not self:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(message, socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            self.problem = error.strerror or str(error)
            return False
        self.problem = ""
        return True
