"""The door for orders: the master's side of its control socket.

It is one more thing the loop attends to, and bounded in every direction, because the master must not wait for anybody:

* so many clients at once, each with so many seconds to say its one order and to take the answer; nobody is read from
  or written to but when the kernel says that it does not block;
* who may speak is who the kernel says: the server's own user, or root;
* what may be said is `prefork.system.control`'s; everything else is answered with an error.

A client that asked for the stop gets its answer when the last process is gone, in `close`.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from prefork.errors import ProtocolError
from prefork.log import Logger
from prefork.master.loop import Master
from prefork.master.report import describe_listeners, describe_server
from prefork.policy.lifecycle import Command
from prefork.system.birth import Birthmark
from prefork.system.control import LARGEST_ORDER, Order, encode_answer, peer_of, read_order

__all__ = ["Door"]

_MOST_CLIENTS: Final = 16
_PATIENCE: Final = 5.0  # seconds for an order to arrive, and again for its answer to be taken

_Answer = dict[str, Any] | None  # None: later, in `close`


@dataclass(slots=True, eq=False)
class _Client:
    """One connection: what it is sent, and until when it is endured (None: it waits for us)."""

    end: socket.socket
    until: float | None
    pid: int
    uid: int
    pieces: list[bytes] = field(default_factory=list)


class Door:
    """Takes orders for a master. Made before it runs, closed after."""

    def __init__(self, master: Master, door: socket.socket, mark: Birthmark, logger: Logger) -> None:
        self._master = master
        self._door = door
        self._mark = mark
        self._logger = logger
        self._clients: set[_Client] = set()
        self._leavers: list[_Client] = []
        self._commands: dict[str, Callable[[Order, _Client], _Answer]] = {
            "ping": lambda _order, _client: describe_listeners(master),
            "status": lambda _order, _client: describe_server(master, time.monotonic()),
            "stop": self._stop,
            "reopen-logs": self._reopen_logs,
        }
        self._open = False  # whether the loop attends to the door
        self._closed_until = 0.0
        master.at_beat(self._beat)

    def close(self) -> None:
        """The end: no process of ours is left but this one. Whoever waits for that is told."""
        for client in self._leavers:
            client.pieces = encode_answer({"ok": True})
            client.end.setblocking(True)
            client.end.settimeout(_PATIENCE / 5)
            self._send(client)
        for client in list(self._clients):
            client.end.close()
        self._clients.clear()
        self._door.close()
        self._mark.unlink()

    def _accept(self, now: float) -> None:
        try:
            end, _ = self._door.accept()
        except BlockingIOError:
            return  # it has left again
        except OSError as problem:  # no descriptor is to be had: it stays in the queue
            self._logger.warning("order_not_taken", error=problem.strerror)
            self._closed_until = now + _PATIENCE
            return
        peer = peer_of(end)
        if peer.uid not in (0, os.geteuid()):
            self._logger.warning("order_refused", peer_pid=peer.pid, peer_uid=peer.uid, message="neither root nor us")
            end.close()
            return
        end.setblocking(False)
        client = _Client(end, now + _PATIENCE, peer.pid, peer.uid)
        self._clients.add(client)
        self._master.attend(end, partial(self._read, client))

    def _read(self, client: _Client, now: float) -> None:
        try:
            data = client.end.recv(LARGEST_ORDER + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or client in self._leavers:  # it has hung up, or says more than its one order
            self._drop(client)
            return
        try:
            answer = self._obey(read_order(data), client)
        except ProtocolError as problem:
            answer = {"ok": False, "error": str(problem)}
        if answer is not None:
            client.until = now + _PATIENCE
            client.pieces = encode_answer(answer)
            self._write(client, now)

    def _obey(self, order: Order, client: _Client) -> _Answer:
        if order.socket is not None and order.socket not in {
            hands.holdings.listener.path for hands in self._master.pools
        }:
            raise ProtocolError(f"this server (pid {os.getpid()}) does not serve {order.socket}")
        answer = self._commands[order.command](order, client)
        return None if answer is None else {"ok": True, **answer}

    def _stop(self, order: Order, client: _Client) -> _Answer:
        client.until = None
        self._leavers.append(client)
        command = Command.STOP_NOW if order.now else Command.STOP
        self._master.order(command, peer_pid=client.pid, peer_uid=client.uid)
        return None

    def _reopen_logs(self, _order: Order, _client: _Client) -> _Answer:
        problems = self._master.reopen_logs()
        if problems:
            raise ProtocolError("; ".join(problems))
        return {}

    def _write(self, client: _Client, _now: float) -> None:
        """Send what the client takes now; it is done when it has all of it."""
        if self._send(client):
            self._drop(client)
        else:
            self._master.attend(client.end, partial(self._write, client), selectors.EVENT_WRITE)

    def _send(self, client: _Client) -> bool:
        """Whether nothing is left to send, or nobody to send it to."""
        while client.pieces:
            try:
                client.end.send(client.pieces[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                return True
            del client.pieces[0]
        return True

    def _beat(self, now: float) -> None:
        """Once a round: whoever takes too long has to go, and the door is open while there is room."""
        for client in [client for client in self._clients if client.until is not None and client.until <= now]:
            self._drop(client)
        wanted = len(self._clients) < _MOST_CLIENTS and now >= self._closed_until
        if wanted and not self._open:
            self._master.attend(self._door, self._accept)
        elif self._open and not wanted:
            self._master.dismiss(self._door)
        self._open = wanted

    def _drop(self, client: _Client) -> None:
        self._master.dismiss(client.end)
        client.end.close()
        self._clients.discard(client)
        if client in self._leavers:
            self._leavers.remove(client)
