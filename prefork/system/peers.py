"""Who is at the other end of a connection, as the kernel says: a process, of a Unix socket; an address, of TCP.

In as few bytes as it can be written by a worker: 12 are the kernel's struct ucred (unix(7)), 6 and 18 an address of
IPv4 or IPv6 with its port, in network order; none at all: unknown.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["PEER_ROOM", "UCRED", "Process", "ask_peer", "pack_address", "peer_of", "unpack_peer"]

UCRED: Final = struct.Struct("@iII")
"""struct ucred: pid, uid, gid."""

PEER_ROOM: Final = 18
"""The most bytes that a peer is written in."""

_IPV4_SIZE: Final = 6


class Process(NamedTuple):
    """Who called connect(2): the process and its effective user and group at that moment, as our namespaces know them.

    A pid of 0 is a process of another namespace.
    """

    pid: int
    uid: int
    gid: int


def ask_peer(connection: socket.socket) -> bytes:
    """The process at the other end of a Unix socket, packed (SO_PEERCRED, unix(7)). Raises OSError."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)


def peer_of(connection: socket.socket) -> Process:
    """The process at the other end of a Unix socket. Raises OSError."""
    return Process(*UCRED.unpack(ask_peer(connection)))


def pack_address(host: str, port: int) -> bytes:
    """Who connected by TCP, packed, from an address as accept(2) tells it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]) + port.to_bytes(2, "big")


@lru_cache(maxsize=256)  # nearly always one of nginx's few processes
def unpack_peer(packed: bytes) -> Process | str | None:
    """A process, or an address with its port, as "127.0.0.1:80" or "[::1]:80"; None: unknown, or what cannot be."""
    if len(packed) == UCRED.size:
        process = Process(*UCRED.unpack(packed))
        return process if process.pid >= 0 else None
    port = int.from_bytes(packed[-2:], "big")
    if len(packed) == _IPV4_SIZE:
        return f"{socket.inet_ntop(socket.AF_INET, packed[:-2])}:{port}"
    if len(packed) == PEER_ROOM:
        return f"[{socket.inet_ntop(socket.AF_INET6, packed[:-2])}]:{port}"
    return None
