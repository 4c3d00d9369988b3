"""Messages between the master and the processes below it: the whole vocabulary, and how it is carried.

A channel is a SOCK_SEQPACKET pair of Unix sockets: messages keep their borders, the end of a process is an end of
file. Trust goes one way:

* **Down** (master to zygote or worker) a message may carry descriptors.
* **Up** it may not. The master's receive buffer has room for one ``ucred`` and nothing else, so descriptors that a
  worker sends are discarded by the kernel (unix(7), MSG_CTRUNC) before they exist. The sender's pid is the one the
  kernel attached (SO_PASSCRED), never one that stands in the message.

What the master receives is input from strangers: malformed messages are told apart here (`Garbage`) and cost their
sender the channel.
"""

from __future__ import annotations

import array
import json
import os
import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from prefork.system.peers import UCRED

__all__ = [
    "ENDED",
    "LARGEST_MESSAGE",
    "Kind",
    "Message",
    "Order",
    "Place",
    "open_pair",
    "receive_order",
    "receive_report",
    "send",
    "shorten",
    "weight",
]

# Far below the default send buffer of a Unix socket (212,992 bytes, net.core.wmem_default), so one message always fits.
LARGEST_MESSAGE: Final = 64 * 1024
_MOST_DESCRIPTORS: Final = 4

_ROOM_FOR_CREDENTIALS: Final = socket.CMSG_SPACE(UCRED.size)
_ROOM_FOR_DESCRIPTORS: Final = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)


class Kind(IntEnum):
    """Every message there is."""

    # down
    SETTINGS = 1  # to a zygote, once: what to load, and how
    FORK = 2  # to a zygote: make a worker for this slot; carries its end of its channel, and what it is given besides
    LISTEN = 3  # to a worker that is ready: the descriptor to accept on
    LEAVE = 4  # to a worker that has no listener yet, or to a zygote: end in order
    LOGS = 5  # to all: logs that were opened anew, by the names in the body; carries their descriptors

    # up
    READY = 16  # from a zygote or worker: the application is loaded
    FAILED = 17  # from a zygote or worker: it cannot be loaded, and why
    NOT_FORKED = 18  # from a zygote: fork(2) failed for this slot
    HELLO = 19  # from a worker: first sign of life, sent as a child of the master
    SPENT = 20  # from a worker: it has begun as many requests as it should (max_requests)


class Place(IntEnum):
    """Where a freshly exec'ed zygote finds what the master gave it."""

    CHANNEL = 3
    SCOREBOARD = 4
    CONTROL = 5
    DOORBELL = 6
    STACKS = 7
    ERROR_LOG = 8
    ACCESS_LOG = 9  # where there is one
    BULLETIN = 10  # where somebody shows the status
    BULLETIN_BELL = 11
    TAP = 12  # the writing end


@dataclass(frozen=True, slots=True)
class Order:
    """A message from above."""

    kind: Kind
    body: dict[str, Any]
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message from below. ``kind`` is None for one that no process of ours would send."""

    kind: Kind | None
    body: dict[str, Any]
    pid: int


ENDED: Final = Message(None, {"ended": True}, 0)
"""What `receive_report` returns when no process holds the other end any more."""

_UP: Final = frozenset({Kind.READY, Kind.FAILED, Kind.NOT_FORKED, Kind.HELLO, Kind.SPENT})


def open_pair() -> tuple[socket.socket, socket.socket]:
    """A new channel: (the master's end, non-blocking; the end to give away)."""
    above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    above.setblocking(False)
    above.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return above, below


def send(
    channel: socket.socket, kind: Kind, body: dict[str, Any] | None = None, descriptors: tuple[int, ...] = ()
) -> None:
    """Send one message, or raise OSError (BlockingIOError where a non-blocking channel is full)."""
    data = bytes((kind,)) + _encode(body or {})
    if len(data) > LARGEST_MESSAGE:
        raise ValueError(f"a message of {len(data)} bytes; at most {LARGEST_MESSAGE} fit")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive_order(channel: socket.socket, *, wait: bool = True) -> Order | None:
    """The next message from above; None when the master is gone.

    Waits for one, or with ``wait=False`` raises BlockingIOError where there is none.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    data, ancillary, _, _ = channel.recvmsg(LARGEST_MESSAGE, _ROOM_FOR_DESCRIPTORS, flags)
    if not data:
        return None
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return Order(Kind(data[0]), json.loads(data[1:]), tuple(descriptors))


def receive_report(channel: socket.socket) -> Message | None:
    """The next message from below, None when there is none now, ENDED when there will never be one.

    Never raises for what a sender did.
    """
    try:
        data, ancillary, _, _ = channel.recvmsg(LARGEST_MESSAGE, _ROOM_FOR_CREDENTIALS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return ENDED
    except OSError:  # nothing there (EAGAIN), or no memory to take it with: another time
        return None
    pid = _sender(ancillary)
    # An empty message is legal on SOCK_SEQPACKET and looks like the end of file, except that the kernel attaches
    # credentials to a message and none (pid 0) to the end.
    if not data:
        return Message(None, {}, pid) if pid else ENDED
    try:
        kind = Kind(data[0])
        body = json.loads(data[1:])
    except (ValueError, RecursionError):
        return Message(None, {}, pid)
    if kind not in _UP or not isinstance(body, dict):
        return Message(None, {}, pid)
    return Message(kind, body, pid)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    pid = 0
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(payload) == UCRED.size:
            pid = UCRED.unpack(payload)[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            # No room was offered for these; should a kernel ever deliver some, they must not stay open.
            received = array.array("i")
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
            for descriptor in received:
                os.close(descriptor)
    return pid


def shorten(text: str, most: int = 19_000) -> str:
    """Cut a long text in its middle to ``most`` bytes of a message: a traceback's ends matter most.

    Three texts of the default length fit one message, whatever characters they are made of.
    """
    if weight(text) <= most:
        return text
    head, tail = text[: most // 2], text[-(most // 2) :]
    while weight(head) + weight(tail) > most:
        head, tail = head[: len(head) * 3 // 4], tail[len(tail) // 4 + 1 :]
    return f"{head}\n  … {len(text) - len(head) - len(tail)} characters left out …\n{tail}"


def weight(body: object) -> int:
    """The bytes that a body, or a text in one, takes in a message."""
    return len(_encode(body))


def _encode(value: object) -> bytes:
    # A lone surrogate (an undecodable byte of a path) leaves as backslash-u, which is how JSON writes it anyway.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
