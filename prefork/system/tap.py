"""What a tap goes through: one pair of Unix sockets a pool, from its workers to whoever looks.

* The pair is made with the pool, because workers cannot be given anything later; each has the writing end from its
  birth. What is written is dropped where it does not fit, and nobody ever waits.
* The reading end is lent to one process at a time. The master keeps it, and never reads but to empty it.
* SOCK_SEQPACKET: a message arrives as a whole or not at all, and only room in the buffer decides, not the small
  number of datagrams that a namespace allows in a queue (net.unix.max_dgram_qlen).
* The kernel names the writer of each message (SO_PASSCRED). Everything else in it is a stranger's word: the
  application has the writing end, too.
"""

from __future__ import annotations

import array
import os
import select
import socket
from contextlib import suppress
from typing import Final

from prefork.system.peers import UCRED

__all__ = ["BODIES", "ENDED", "LARGEST_MESSAGE", "ON", "UNMASKED", "TapPair", "borrow", "lend", "receive"]

# What the control page asks of the workers; `ON` with the others or without.
ON: Final = 1
BODIES: Final = 2
UNMASKED: Final = 4

LARGEST_MESSAGE: Final = 64 * 1024  # bytes; far below the smallest buffer there is (net.core.wmem_default)

ENDED: Final = (b"", -1)
"""What `receive` returns when nobody can write any more."""

_BUFFER: Final = 2 * 1024**2  # bytes, where we may have them; else net.core.wmem_max
_SO_SNDBUFFORCE: Final = 32  # Linux, socket(7): needs CAP_NET_ADMIN
_ROOM: Final = socket.CMSG_SPACE(UCRED.size)  # for credentials: descriptors that somebody sends along are discarded
_MOST_LEFT: Final = 16_384  # messages; more than the largest buffer holds


class TapPair:
    """The two ends, as the master holds them."""

    def __init__(self) -> None:
        reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading.setblocking(False)
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        reading.shutdown(socket.SHUT_WR)  # nobody talks to workers this way
        try:
            writing.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        except OSError:
            writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.reading = reading
        self.writing = writing

    @property
    def is_broken(self) -> bool:
        """Whether somebody who had the writing end has shut it down, which cannot be undone."""
        poll = select.poll()
        poll.register(self.reading, select.POLLRDHUP)
        return bool(poll.poll(0))

    def empty(self) -> None:
        """Throw away what nobody has read, within bounds: a worker may be writing without end."""
        with suppress(OSError):
            for _ in range(_MOST_LEFT):
                if not self.reading.recvmsg_into([bytearray(1)], _ROOM, socket.MSG_DONTWAIT)[1]:
                    return

    def close(self) -> None:
        """Give both ends back; others may have them still."""
        self.reading.close()
        self.writing.close()


def receive(reading: socket.socket) -> tuple[bytes, int] | None:
    """The next message and the pid of who wrote it (0: a process that is not known here); None if there is none now.

    Never waits.
    """
    try:
        data, ancillary, _, _ = reading.recvmsg(LARGEST_MESSAGE, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return ENDED
    pid = -1  # an empty message is legal, and has credentials; the end has none
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(payload) == UCRED.size:
            pid = UCRED.unpack(payload)[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
            for descriptor in received:
                os.close(descriptor)
    return data, pid


def lend(connection: socket.socket, answer: bytes, reading: socket.socket) -> None:
    """Send the reading end along with an answer, to a client that has nothing to read yet. Raises OSError."""
    socket.send_fds(connection, [answer], [reading.fileno()], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def borrow(connection: socket.socket, size: int) -> tuple[bytes, socket.socket | None]:
    """The answer of at most ``size`` bytes, and the reading end if it came along. Raises OSError."""
    data, descriptors, _, _ = socket.recv_fds(connection, size, 1)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # Python 3.11's recv_fds ignores its flags
    return data, socket.socket(fileno=descriptors[0]) if descriptors else None
