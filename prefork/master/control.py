"""The door for orders: the master's side of its control socket.

It is one more thing the loop attends to, and bounded in every direction, because the master must not wait for anybody:

* so many clients at once, each with so many seconds to say its one order and to take the answer; nobody is read from
  or written to but when the kernel says that it does not block;
* who may speak is who the kernel says: the server's own user, or root;
* what may be said is `prefork.system.control`'s; everything else is answered with an error.

The socket is made anew where it was deleted, as the pools' are: with its directory, mostly.

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

from prefork.errors import ConfigurationError, PreforkError, ProtocolError
from prefork.log import Logger
from prefork.master.loop import Master
from prefork.master.reload import Outcome, Reloads
from prefork.master.report import describe_episodes, describe_listeners, describe_server, describe_slow, note_look
from prefork.master.scaling import Scaling
from prefork.master.stack_report import look_at_all, look_at_one
from prefork.master.taps import Taps
from prefork.policy.lifecycle import Command
from prefork.system.birth import Birthmark
from prefork.system.control import LARGEST_ORDER, Order, encode_answer, open_door, read_order
from prefork.system.peers import peer_of

__all__ = ["Door"]

_MOST_CLIENTS: Final = 16
_LOOK: Final = 1.0  # seconds between two looks at our own path
_PATIENCE: Final = 5.0  # seconds for an order to arrive, and again for its answer to be taken

_Answer = dict[str, Any] | None  # None: later


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
        self._reloads: Reloads | None = None
        self._scaling: Scaling | None = None
        self._clients: set[_Client] = set()
        self._leavers: list[_Client] = []
        self._commands: dict[str, Callable[[Order, _Client], _Answer]] = {
            "ping": lambda _order, _client: describe_listeners(master),
            "status": self._status,
            "stop": self._stop,
            "reopen-logs": self._reopen_logs,
            "reload": self._reload,
            "scale": self._scale,
            "stacks": self._stacks,
            "slow": lambda _order, _client: describe_slow(master),
            "tap": self._tap,
            "saturation": lambda _order, _client: describe_episodes(master),
        }
        self._taps = Taps(master)
        self._open = False  # whether the loop attends to the door
        self._closed_until = 0.0
        self._look_at = 0.0
        self._trouble = ""  # why the socket could not be made anew, as last told
        master.at_beat(self._beat)

    def offer(self, reloads: Reloads | None, scaling: Scaling | None) -> None:
        """Let these take orders to reload and to scale; before the master runs."""
        self._reloads, self._scaling = reloads, scaling

    def close(self) -> None:
        """The end: no process of ours is left but this one. Whoever waits for that is told."""
        for client in self._leavers:
            client.pieces = encode_answer({"ok": True})
            client.end.setblocking(True)
            client.end.settimeout(_PATIENCE / 5)
            self._send(client)
        self._taps.close(time.monotonic())
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
        if not data or client.until is None:  # it has hung up, or says more than its one order
            self._drop(client)
            return
        try:
            answer = self._obey(read_order(data), client)
        except ProtocolError as problem:
            answer = {"ok": False, "error": str(problem)}
        if answer is not None:
            self._answer(client, answer, now)

    def _obey(self, order: Order, client: _Client) -> _Answer:
        if order.socket is not None and order.socket not in {
            hands.holdings.listener.path for hands in self._master.pools
        }:
            raise ProtocolError(f"this server (pid {os.getpid()}) does not serve {order.socket}")
        answer = self._commands[order.command](order, client)
        return None if answer is None else {"ok": True, **answer}

    def _status(self, _order: Order, _client: _Client) -> _Answer:
        now = time.monotonic()
        note_look(self._master, now)
        return describe_server(self._master, now)

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

    def _reload(self, _order: Order, client: _Client) -> _Answer:
        if self._reloads is None:
            raise ProtocolError("nobody here takes orders to reload")
        client.until = None
        told = partial(self._reloaded, client)
        self._reloads.order(told, cause="reload", peer_pid=client.pid, peer_uid=client.uid)
        return None

    def _reloaded(self, client: _Client, outcome: Outcome) -> None:
        if client not in self._clients:
            return  # it did not wait for that
        if outcome.error:
            answer = {"ok": False, "error": outcome.error, "traceback": outcome.traceback}
        else:
            answer = {"ok": True, "seconds": outcome.seconds, "generations": outcome.generations}
        self._answer(client, answer, time.monotonic())

    def _scale(self, order: Order, client: _Client) -> _Answer:
        if self._scaling is None or not order.scales:
            raise ProtocolError("expected at least one number to change")
        try:
            pools = self._scaling.order(order.scales, peer_pid=client.pid, peer_uid=client.uid)
        except ConfigurationError as error:
            raise ProtocolError(str(error)) from None
        client.until = None
        self._scaling.settle(pools, partial(self._scaled, client, pools), time.monotonic())
        return None

    def _scaled(self, client: _Client, pools: dict[str, dict[str, Any]], error: str) -> None:
        if client in self._clients:
            answer = {"ok": False, "error": error} if error else {"ok": True, "pools": pools}
            self._answer(client, answer, time.monotonic())

    def _stacks(self, order: Order, client: _Client) -> _Answer:
        now = time.monotonic()
        client.until = now + _PATIENCE
        told = partial(self._stacks_seen, client)
        if order.pid is None:
            look_at_all(self._master, told, now)
        else:
            look_at_one(self._master, order.pid, told, now)
        return None

    def _stacks_seen(self, client: _Client, found: dict[str, Any]) -> None:
        if client in self._clients:
            self._answer(client, {"ok": True, **found}, time.monotonic())

    def _tap(self, order: Order, client: _Client) -> _Answer:
        self._taps.begin(client, order.tap, client.end, time.monotonic(), peer_pid=client.pid, peer_uid=client.uid)
        client.until = None  # it is over when it hangs up
        return None

    def _answer(self, client: _Client, answer: dict[str, Any], now: float) -> None:
        client.until = now + _PATIENCE
        client.pieces = encode_answer(answer)
        self._write(client, now)

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
        if now >= self._look_at:
            self._look_at = now + _LOOK
            self._heal()
        for client in [client for client in self._clients if client.until is not None and client.until <= now]:
            self._drop(client)
        for client in [client for client in self._clients if client in self._taps.lapsed()]:
            self._drop(client)
        wanted = len(self._clients) - len(self._taps) < _MOST_CLIENTS and now >= self._closed_until
        if wanted and not self._open:
            self._master.attend(self._door, self._accept)
        elif self._open and not wanted:
            self._master.dismiss(self._door)
        self._open = wanted

    def _heal(self) -> None:
        if not self._mark.is_gone:
            return
        path = self._mark.path
        try:
            door, mark = open_door(path)
        except PreforkError as problem:
            if str(problem) != self._trouble:
                self._trouble = str(problem)
                message = "no orders can be given until it can be made anew"
                self._logger.warning("control_socket_lost", path=path, error=self._trouble, message=message)
            return
        self._master.dismiss(self._door)
        self._door.close()
        self._door, self._mark, self._open, self._trouble = door, mark, False, ""
        self._logger.info("control_socket_renewed", path=path)

    def _drop(self, client: _Client) -> None:
        self._taps.end(client, time.monotonic())
        self._master.dismiss(client.end)
        client.end.close()
        self._clients.discard(client)
        if client in self._leavers:
            self._leavers.remove(client)
