"""How much of what was sent over a connection its other end has not taken yet.

A socket is writable again only when most of its buffer is free (three quarters of a Unix socket's 208 KiB), and the
buffer is given back in blocks of up to 36 KiB: by that alone, a peer that takes a thousand bytes a second, steadily,
seems to stand still for minutes. So the kernel is asked.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from typing import Final

from prefork.system.sockdiag import SocketDiagnosis

__all__ = ["untaken"]

_INT: Final = struct.Struct("=i")


def untaken(connection: socket.socket) -> int:
    """Bytes that were sent and that the peer has not received.

    To the byte on a Unix socket, where the peer runs in the same network namespace. Elsewhere the answer to SIOCOUTQ
    (unix(7), tcp(7)): what TCP was not yet told to have arrived, or a Unix socket's memory, which falls by a block.
    """
    if connection.family == socket.AF_UNIX:
        diagnosis = SocketDiagnosis()  # made for one question, so that no descriptor is kept
        found = diagnosis.untaken(os.fstat(connection.fileno()).st_ino)
        diagnosis.close()
        if found is not None:
            return found
    answer: bytes = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_INT.size))  # SIOCOUTQ's other name
    return int(_INT.unpack(answer)[0])
