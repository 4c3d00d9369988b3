"""A client of the control socket: finding the server that is meant, telling it one thing, and hearing it out.

The server is found by its control socket (``--control``), or by the socket it serves: the lock file beside it says
where orders are taken. Where neither is named, it is the only server that runs and will talk to us; of several, none.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from prefork.cli.console import Failure, printable
from prefork.system.address import AddressKind, parse_address
from prefork.system.control import Order, Scale, Wish, connect, encode_order
from prefork.system.identity import user_name
from prefork.system.ownership import holder_of, read_notes
from prefork.system.paths import absolute
from prefork.system.peers import peer_of
from prefork.system.runtime import find_doors
from prefork.system.tap import borrow

__all__ = ["Door", "find_door", "give", "tapped"]

_PATIENCE: Final = 5.0  # seconds for an answer that takes no work
_GLANCE: Final = 1.0  # seconds for each of those that are only looked at
_LAST_STEP: Final = 2.0  # seconds between a server's last word and its end
_PIECE: Final = 65_536
_LARGEST_ANSWER: Final = 64 * 1024**2

_NONE: Final = """\
no server's control socket was found in $RUNTIME_DIRECTORY, /run/prefork, /run/* and $XDG_RUNTIME_DIR; one that runs
without (its log said no_control_socket) is asked by its socket (get, wait)"""
_HOW: Final = """\
name one:
  --socket /run/mysite/app.sock    the path it serves (SOCK_PATH, PREFORK_SOCKET)
  --control /run/mysite/orders     its control socket, where it was started with one of its own"""


@dataclass(frozen=True, slots=True)
class Door:
    """A server's control socket. ``socket`` is the path it is known by: it is asked whether that is its own."""

    path: str
    socket: str | None = None


def find_door(control: str | None, served: str | None, environ: Mapping[str, str]) -> Door:
    """The control socket of the server that is meant. Raises `Failure`."""
    if control is not None:
        return Door(control)
    if served is None:
        return _only(_running(environ))
    address = parse_address(served)
    if address.kind is AddressKind.PATH:
        path = absolute(address.name)
        noted = _noted(path)
        if noted is not None:
            return noted
        names = {path, os.path.abspath(path), served}
    else:
        names = {served}
    # No file that could say it: a socket that was inherited, or has no path.
    running = _running(environ)
    answers = {
        door: answer
        for door, answer in running.items()
        if any({pool.get("socket"), pool.get("path"), pool.get("address")} & names for pool in answer["pools"])
    }
    if not answers:
        others = "; ".join(f"pid {answer.get('pid')} on {_sockets(answer)}" for answer in running.values())
        hint = f". Running: {others}" if others else "; is it started?"
        raise Failure(f"{printable(served)}: no server that takes orders from us serves this{hint}")
    return _only(answers)


def give(
    door: Door,
    command: str,
    *,
    now: bool = False,
    scales: tuple[Scale, ...] = (),
    pid: int | None = None,
    patience: float | None = _PATIENCE,
    late: str = "the server hangs, or is stopped",
) -> dict[str, Any]:
    """Give one order and return the answer, without its "ok". Raises `Failure` for every other outcome.

    ``patience`` in seconds; None waits as long as it takes. ``late`` says what its end means. After "stop" the
    server's process is gone, too.
    """
    with _reach(door) as connection:
        try:
            connection.send(encode_order(Order(command, now, door.socket, scales, pid)), socket.MSG_NOSIGNAL)
            data = _hear(connection, patience)
        except TimeoutError:
            raise Failure(f"{door.path}: no answer within {_spell(patience)}: {late}") from None
        except OSError as problem:
            raise Failure(f"{door.path}: the connection broke: {problem.strerror}") from None
        pid = peer_of(connection).pid
    answer = _understand(door, data)
    if command == "stop":
        _see_off(pid)
    return answer


@contextmanager
def tapped(door: Door, wish: Wish) -> Iterator[tuple[dict[str, Any], socket.socket, socket.socket]]:
    """Look at the traffic of a pool: the answer, the connection that keeps it so, and where the traffic is read.

    Raises `Failure`.
    """
    with _reach(door) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.send(encode_order(Order("tap", socket=door.socket, tap=wish)), socket.MSG_NOSIGNAL)
            data, reading = borrow(connection, _PIECE)
        except TimeoutError:
            raise Failure(
                f"{door.path}: no answer within {_spell(_PATIENCE)}: the server hangs, or is stopped"
            ) from None
        except OSError as problem:
            raise Failure(f"{door.path}: the connection broke: {problem.strerror}") from None
        answer = _understand(door, data)
        if reading is None:
            raise Failure(f"{door.path}: the answer is broken: it came without what to read from")
        with reading:
            yield answer, connection, reading


def _noted(path: str) -> Door | None:
    """What the lock file beside a path says; None where there is none, or it says nothing of orders."""
    try:
        notes = read_notes(path)
    except PermissionError:
        raise Failure(
            f"{path}.lock: permission denied: only the user who started the server, and root, may give it orders"
        ) from None
    except OSError:
        return None
    control = notes.get("control")
    if control == "off":
        raise Failure(f"{path}: {_silent(path, notes.get('pid', 'unknown'))}")
    return None if control is None else Door(control, notes.get("socket", path))


def _silent(path: str, noted: str) -> str:
    """What is known of a server that takes no orders."""
    pid = None
    with suppress(OSError):
        pid = holder_of(path)
    if pid is None:
        return f"the server that claimed it last (pid {printable(noted)}) had no control socket, and has ended"
    stop = f"`kill -TERM {pid}` stops it" if pid > 0 else "signals stop it, from its own pid namespace"
    return (
        "its server has no control socket, over which orders go: start it with "
        f"--control-socket PATH; until then get and wait ask it by its own, and {stop}"
    )


def _running(environ: Mapping[str, str]) -> dict[Door, dict[str, Any]]:
    """The servers that answer us, with what they say of themselves."""
    found = {}
    for path in find_doors(environ):
        door = Door(path)
        with suppress(Failure, KeyError, TypeError):
            answer = give(door, "ping", patience=_GLANCE)
            found[door] = {**answer, "pools": list(answer["pools"])}
    return found


def _only(found: Mapping[Door, dict[str, Any]]) -> Door:
    if not found:
        raise Failure(f"{_NONE}; {_HOW}")
    if len(found) == 1:
        return next(iter(found))
    lines = [
        f"  --control {door.path}  (pid {answer.get('pid')}: {_sockets(answer)})" for door, answer in found.items()
    ]
    raise Failure("several servers run; name one:\n" + "\n".join(lines))


def _sockets(answer: Mapping[str, Any]) -> str:
    return ", ".join(printable(str(pool.get("address") or pool.get("socket"))) for pool in answer["pools"])


def _reach(door: Door) -> socket.socket:
    try:
        return connect(door.path)
    except OSError as problem:
        reason = _REASONS.get(problem.errno or 0) or problem.strerror or str(problem)
        if problem.errno == errno.ENOENT and door.socket is None:
            reason = "there is no such control socket"
        where = door.path if door.socket is None else f"{door.socket}: its control socket {door.path}"
        raise Failure(f"{printable(where)}: {reason}") from None


def _hear(connection: socket.socket, patience: float | None) -> bytes:
    """All messages up to the end of the connection. Raises TimeoutError, OSError."""
    end = None if patience is None else time.monotonic() + patience
    data = bytearray()
    while len(data) <= _LARGEST_ANSWER:
        connection.settimeout(None if end is None else max(end - time.monotonic(), 0.001))
        try:
            piece = connection.recv(_PIECE)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return bytes(data)


def _understand(door: Door, data: bytes) -> dict[str, Any]:
    if not data:
        raise Failure(
            f"{door.path}: the server closed the connection without an answer: it has ended, has too much to do, or "
            f"does not take orders from the user {user_name(os.geteuid())}"
        )
    try:
        answer = json.loads(data)
        good = answer.pop("ok")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise Failure(f"{door.path}: the answer is broken: it is not prefork's, or was cut off") from None
    if good is not True:
        said = str(answer.get("traceback") or "").splitlines()
        raise Failure(
            printable(str(answer.get("error", "the server refused, and did not say why"))),
            "\n".join(printable(line) for line in said),
        )
    return dict(answer)


def _see_off(pid: int) -> None:
    """Wait for the last moment of a process that has said its last word."""
    with suppress(OSError, ValueError):  # of another pid namespace, or gone
        handle = os.pidfd_open(pid)
        try:
            select.select([handle], [], [], _LAST_STEP)
        finally:
            os.close(handle)


def _spell(patience: float | None) -> str:
    return f"{patience:g} s"


_REASONS: Final = {
    errno.ENOENT: "there is no such file: the server has ended",
    errno.ECONNREFUSED: "nobody listens: the server has ended",
    errno.EAGAIN: "it has as many clients as it takes",
    errno.EACCES: "permission denied: only the user who started the server, and root, may give it orders",
    errno.EPROTOTYPE: "this is no control socket; --socket names the one that is served",
    errno.ENOTSOCK: "this is no socket",
}
