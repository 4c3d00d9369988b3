"""What lies in the queues of a Unix socket, asked of the kernel (sock_diag(7)): connections, or bytes.

* One request for one inode, no dump of all sockets: 20 to 70 microseconds, and no privilege needed.
* A socket that the kernel does not know here (closed, or of another network namespace) and a netlink that is
  forbidden or filtered away are *unknown*: None, never an invented 0.
* A full queue shows one connection more than its limit: listen(2) with n admits n + 1.

/proc/net/unix is no substitute, it has no queue lengths.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["QueueReading", "SocketDiagnosis"]

_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_ERROR: Final = struct.Struct("=i")  # what follows the header of such a one: a negative errno
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
_ANY_STATE: Final = 0xFFFFFFFF
_SHOW_PEER: Final = 0x04  # linux/unix_diag.h
_SHOW_RQLEN: Final = 0x10
_PEER: Final = 2
_RQLEN: Final = 4
_NO_COOKIE: Final = 0xFFFFFFFF
_TCP_ESTABLISHED: Final = 1  # net/tcp_states.h, shared by Unix sockets
_TCP_LISTEN: Final = 10

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION: Final = struct.Struct("=BBHIIIII")  # unix_diag_req: family, protocol, pad, states, inode, show, cookie
_ANSWER: Final = struct.Struct("=BBBBIII")  # unix_diag_msg: family, type, state, pad, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length with header, type
_LENGTHS: Final = struct.Struct("=II")  # unix_diag_rqlen: waiting, limit; of a connection: bytes to read, memory sent
_INODE: Final = struct.Struct("=I")

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
    """One netlink socket, kept open, for as many questions as one likes. Not for use by two threads at once.

    ``problem`` says why the last question that was not answered was not, for a log.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._sequence = 0
        self._netlink: socket.socket | None
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError as error:
            self.problem = f"socket(AF_NETLINK): {error.strerror}"
            self._netlink = None  # forbidden (seccomp) or not built in
            return
        self._netlink.settimeout(_PATIENCE)

    def queue(self, inode: int) -> QueueReading | None:
        """The queue of the listening Unix socket with this inode (``fstat``), or None where it is unknown."""
        answer = self._ask(inode, _SHOW_RQLEN)
        return None if answer is None else _parse(answer, inode)

    def untaken(self, inode: int) -> int | None:
        """How many bytes the peer of the connected Unix socket with this inode has yet to receive; None: unknown."""
        answer = self._ask(inode, _SHOW_PEER)
        found = None if answer is None else _find(answer, inode, _TCP_ESTABLISHED, _PEER)
        if found is None or len(found) < _INODE.size:
            return None
        (peer,) = _INODE.unpack_from(found)
        answer = self._ask(peer, _SHOW_RQLEN)
        found = None if answer is None else _find(answer, peer, _TCP_ESTABLISHED, _RQLEN)
        return None if found is None or len(found) < _LENGTHS.size else int(_LENGTHS.unpack_from(found)[0])

    def _ask(self, inode: int, show: int) -> bytes | None:
        if self._netlink is None or not 0 < inode <= 0xFFFFFFFF:
            return None
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        try:
            self._netlink.sendto(_question(inode, self._sequence, show), (0, 0))
            answer = self._wait_answer(self._netlink)
        except OSError as error:
            self.problem = f"netlink: {error.strerror or 'no answer'}"
            return None
        if answer is not None and _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
            self.problem = f"sock_diag: {_refusal(answer)}"
        return answer

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


def _refusal(reply: bytes) -> str:
    if len(reply) < _HEADER.size + _ERROR.size:
        return "an error"
    return os.strerror(abs(_ERROR.unpack_from(reply, _HEADER.size)[0]))


def _question(inode: int, sequence: int, show: int = _SHOW_RQLEN) -> bytes:
    body = _QUESTION.pack(socket.AF_UNIX, 0, 0, _ANY_STATE, inode, show, _NO_COOKIE, _NO_COOKIE)
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0) + body


def _parse(reply: bytes, inode: int) -> QueueReading | None:
    """The lengths in a reply. None for an error (ENOENT: no such socket) and for what is no listening socket."""
    found = _find(reply, inode, _TCP_LISTEN, _RQLEN)
    return None if found is None or len(found) < _LENGTHS.size else QueueReading(*_LENGTHS.unpack_from(found))


def _find(reply: bytes, inode: int, wanted: int, attribute: int) -> bytes | None:
    """An attribute in a reply about this socket. None for an error, and for a socket in another state."""
    length, kind, _, _, _ = _HEADER.unpack_from(reply)
    end = min(length, len(reply))
    offset = _HEADER.size + _ANSWER.size
    if kind != _SOCK_DIAG_BY_FAMILY or end < offset:
        return None
    family, _, state, _, found, _, _ = _ANSWER.unpack_from(reply, _HEADER.size)
    if (family, state, found) != (socket.AF_UNIX, wanted, inode):
        return None
    while offset + _ATTRIBUTE.size <= end:
        size, name = _ATTRIBUTE.unpack_from(reply, offset)
        if name == attribute and size >= _ATTRIBUTE.size and offset + size <= end:
            return reply[offset + _ATTRIBUTE.size : offset + size]
        offset += max((size + 3) & ~3, _ATTRIBUTE.size)
    return None
