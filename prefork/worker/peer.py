"""Who is at the other end of a Unix socket, for the application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from prefork.errors import ClientDisconnected
from prefork.system.peers import UCRED
from prefork.worker.connection import Connection

__all__ = ["Peer"]


@final
class Peer:
    """``environ["prefork.peer"]``: the process at the other end, normally nginx. Asked for when first used.

    Has ``pid``, ``uid`` and ``gid``, and is a sequence of the three. Raises `ClientDisconnected` when it is used for
    the first time after the connection was closed.
    """

    __slots__ = ("_connection", "_known", "_serial")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._serial = connection.serial
        self._known: tuple[int, int, int] | None = None

    def _ask(self) -> tuple[int, int, int]:
        known = self._known
        if known is None:
            packed = self._connection.ask_peer() if self._serial == self._connection.serial else b""
            if not packed:
                raise ClientDisconnected("the connection is closed")
            known = self._known = UCRED.unpack(packed)
        return known

    @property
    def pid(self) -> int:
        """The process that called connect(2), as this process's pid namespace knows it (0: not at all)."""
        return self._ask()[0]

    @property
    def uid(self) -> int:
        """Its effective user at that moment."""
        return self._ask()[1]

    @property
    def gid(self) -> int:
        """Its effective group at that moment."""
        return self._ask()[2]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return self._ask()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ask())

    def __repr__(self) -> str:
        try:
            return "Peer(pid={}, uid={}, gid={})".format(*self._ask())
        except OSError:
            return "Peer(closed)"
