"""How many connections wait in the queue of a listening Unix socket, asked of the kernel (sock_diag(7)).

* One request for one inode, no dump of all sockets: 20 to 70 microseconds, and no privilege needed.
* A socket that the kernel does not know here (closed, or of another network namespace) and a netlink that is
  forbidden or filtered away are *unknown*: None, never an invented 0.
* A full queue shows one connection more than its limit: listen(2) with n admits n + 1.

/proc/net/unix is no substitute, it has no queue lengths.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["QueueReading", "SocketDiagnosis"]

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_NLM_F_REQUEST: Final = 1
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
_ANY_STATE: Final = 0xFFFFFFFF
_SHOW_RQLEN: Final = 0x10  # linux/unix_diag.h
_RQLEN: Final = 4
_NO_COOKIE: Final = 0xFFFFFFFF
_TCP_LISTEN: Final = 10  # net/tcp_states.h, shared by Unix sockets

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION: Final = struct.Struct("=BBHIIIII")  # unix_diag_req: family, protocol, pad, states, inode, show, cookie
_ANSWER: Final = struct.Struct("=BBBBIII")  # unix_diag_msg: family, type, state, pad, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length with header, type
_LENGTHS: Final = struct.Struct("=II")  # unix_diag_rqlen: waiting, limit (for a listener)

_REPLY_ROOM: Final = 8192
_STALE_REPLIES: Final = 8  # answers to earlier questions that were given up
_PATIENCE: Final = 0.05  # seconds; the kernel answers within sendto(2); this is for the day it does not


@dataclass(frozen=True, slots=True)
class QueueReading:
    """The accept queue at one moment: connections waiting, and the limit given to listen(2)."""

    waiting: int
    limit: int

    @property
    def full(self) -> bool:
        """Whether the next connect is refused with EAGAIN."""
        return self.waiting > self.limit


class SocketDiagnosis:
    """One netlink socket, kept open, for as many questions as one likes. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._sequence = 0
        self._netlink: socket.socket | None
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError:
            self._netlink = None  # forbidden (seccomp) or not built in
            return
        self._netlink.settimeout(_PATIENCE)

    def queue(self, inode: int) -> QueueReading | None:
        """The queue of the listening Unix socket with this inode (``fstat``), or None where it is unknown."""
        if self._netlink is None or not 0 < inode <= 0xFFFFFFFF:
            return None
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        try:
            self._netlink.sendto(_question(inode, self._sequence), (0, 0))
            answer = self._wait_answer(self._netlink)
        except OSError:
            return None
        return None if answer is None else _parse(answer, inode)

    def close(self) -> None:
        """Close the netlink socket; every later question is answered with None."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _wait_answer(self, netlink: socket.socket) -> bytes | None:
        """The kernel's reply to the last question; `TimeoutError` (an OSError) when there is none in time."""
        for _ in range(_STALE_REPLIES):
            reply, sender = netlink.recvfrom(_REPLY_ROOM)
            if sender[0] == 0 and len(reply) >= _HEADER.size and _HEADER.unpack_from(reply)[3] == self._sequence:
                return reply
        return None


def _question(inode: int, sequence: int) -> bytes:
    body = _QUESTION.pack(socket.AF_UNIX, 0, 0, _ANY_STATE, inode, _SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE)
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0) + body


def _parse(reply: bytes, inode: int) -> QueueReading | None:
    """The lengths in a reply. None for an error (ENOENT: no such socket) and for what is no listening socket."""
    length, kind, _, _, _ = _HEADER.unpack_from(reply)
    end = min(length, len(reply))
    offset = _HEADER.size + _ANSWER.size
    if kind != _SOCK_DIAG_BY_FAMILY or end < offset:
        return None
    family, _, state, _, found, _, _ = _ANSWER.unpack_from(reply, _HEADER.size)
    if (family, state, found) != (socket.AF_UNIX, _TCP_LISTEN, inode):
        return None
    while offset + _ATTRIBUTE.size <= end:
        size, name = _ATTRIBUTE.unpack_from(reply, offset)
        if name == _RQLEN and size >= _ATTRIBUTE.size + _LENGTHS.size and offset + size <= end:
            return QueueReading(*_LENGTHS.unpack_from(reply, offset + _ATTRIBUTE.size))
        offset += max((size + 3) & ~3, _ATTRIBUTE.size)
    return None
