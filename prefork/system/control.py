"""Orders to a running master: the vocabulary, and how it is carried.

One order a connection, over a SOCK_SEQPACKET Unix socket: messages keep their borders, no HTTP client or proxy can be
talked into speaking it, and the kernel says who is at the other end (SO_PEERCRED). The order is one small message;
the answer is JSON in as many messages as it takes, and ends with the connection.

    {"command": "status"}                   →  {"ok": true, …}
    {"command": "stop", "now": true}        →  {"ok": true} when the last process is gone
    {"command": "stop", "socket": "/a.sock"}   refused by a server that does not serve this socket
    {"command": "reload"}                   →  {"ok": true, …} when it is done; else why not, and "traceback"
    {"command": "scale", "scales": [[null, "max_children", "8"]]}
    {"command": "tap", "tap": [null, true, false]}   →  {"ok": true, …} with a descriptor; until one side hangs up
    {"command": "stacks", "pid": 4711}      →  {"ok": true, …} soon; without a pid: all that are busy
    anything else                           →  {"ok": false, "error": "…"}
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Final

from prefork.errors import ProtocolError
from prefork.system.birth import Access, Birthmark, bind_path
from prefork.system.place import check_place
from prefork.system.probe import clear_path

__all__ = [
    "COMMANDS",
    "LARGEST_ORDER",
    "Order",
    "Scale",
    "Wish",
    "connect",
    "encode_answer",
    "encode_order",
    "open_door",
    "read_order",
]

COMMANDS: Final = ("ping", "status", "stop", "reopen-logs", "reload", "scale", "stacks", "slow", "saturation", "tap")
LARGEST_ORDER: Final = 4096  # bytes

_MODE: Final = 0o600
_BACKLOG: Final = 16
_PIECE: Final = 32 * 1024  # of an answer; far below the send buffer of a Unix socket (net.core.wmem_default)


@dataclass(frozen=True, slots=True)
class Scale:
    """One number for one pool; the only pool, if none is named."""

    pool: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a pool's traffic is to be shown; of the only pool, if none is named."""

    pool: str | None = None
    bodies: bool = False
    unmasked: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants. ``socket`` is the path of a listener it takes the server to have; None: it does not say."""

    command: str
    now: bool = False
    socket: str | None = None
    scales: tuple[Scale, ...] = ()
    pid: int | None = None  # of the process that is meant
    tap: Wish = Wish()


def encode_order(order: Order) -> bytes:
    """An order as the message that carries it."""
    body: dict[str, Any] = {"command": order.command}
    if order.now:
        body["now"] = True
    if order.socket is not None:
        body["socket"] = order.socket
    if order.scales:
        body["scales"] = [[scale.pool, scale.name, scale.value] for scale in order.scales]
    if order.pid is not None:
        body["pid"] = order.pid
    if order.command == "tap":
        body["tap"] = [order.tap.pool, order.tap.bodies, order.tap.unmasked]
    return json.dumps(body).encode()


def read_order(data: bytes) -> Order:
    """The order in a message from a stranger. Raises `ProtocolError` for everything that is none."""
    if len(data) > LARGEST_ORDER:
        raise ProtocolError(f"an order has at most {LARGEST_ORDER} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError('expected an order in JSON, such as {"command": "status"}') from None
    if not isinstance(body, dict) or not body.keys() <= {"command", "now", "socket", "scales", "pid", "tap"}:
        raise ProtocolError('expected an object with "command", and perhaps "now", "socket", "scales", "pid" and "tap"')
    command, now, path = body.get("command"), body.get("now", False), body.get("socket")
    if command not in COMMANDS:
        raise ProtocolError(f"expected one of the commands {', '.join(COMMANDS)}")
    if not isinstance(now, bool) or not isinstance(path, str | None):
        raise ProtocolError('expected true or false for "now", and text for "socket"')
    pid = body.get("pid")
    if isinstance(pid, bool) or not isinstance(pid, int | None):
        raise ProtocolError('expected a number for "pid"')
    return Order(command, now, path, _read_scales(body.get("scales", [])), pid, _read_wish(body.get("tap")))


def _read_scales(said: object) -> tuple[Scale, ...]:
    scales = []
    for item in said if isinstance(said, list) else [None]:
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str | None)):
            raise ProtocolError('expected a list of [pool or null, name, value] for "scales"')
        pool, name, value = item
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ProtocolError('expected a list of [pool or null, name, value] for "scales"')
        scales.append(Scale(pool, name, value))
    return tuple(scales)


def _read_wish(said: object) -> Wish:
    if said is None:
        return Wish()
    if isinstance(said, list) and len(said) == 3:
        pool, bodies, unmasked = said
        if isinstance(pool, str | None) and isinstance(bodies, bool) and isinstance(unmasked, bool):
            return Wish(pool, bodies, unmasked)
    raise ProtocolError('expected [pool or null, bodies, unmasked] for "tap"')


def encode_answer(body: dict[str, Any]) -> list[bytes]:
    """An answer as the messages that carry it."""
    data = json.dumps(body).encode()
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]


def open_door(path: str) -> tuple[socket.socket, Birthmark]:
    """A listening control socket at an absolute ``path``, mode 0600 from the first moment, non-blocking.

    Raises `AddressInUse` where a live one stands (a dead one is replaced), and what `check_place` raises.
    """
    check_place(path, "control socket")
    clear_path(path, socket.SOCK_SEQPACKET)
    door, mark = bind_path(path, Access(_MODE), socket.SOCK_SEQPACKET)
    door.listen(_BACKLOG)
    door.setblocking(False)
    return door, mark


def connect(path: str) -> socket.socket:
    """A connection to the control socket at ``path``. Raises OSError; never waits for a full queue."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        client.connect(path)
    except BaseException:
        client.close()
        raise
    client.setblocking(True)
    return client
