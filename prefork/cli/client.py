"""A web server's side of the socket: connecting as nginx does, and talking FastCGI over it.

Connecting never waits, because nginx's does not: what would be a 502 there is an error here, in words.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Final

from prefork.cli.console import Failure
from prefork.config.values import spell_duration
from prefork.errors import UsageError
from prefork.system.address import Address, AddressKind, parse_address

__all__ = ["client_address", "connect", "received"]

_CHUNK: Final = 65_536
_CONNECT_SECONDS: Final = 10.0  # TCP alone has to wait for the other side


def client_address(text: str) -> Address:
    """The address to connect to. Raises `ConfigurationError` for what is no address, `UsageError` for fd://N."""
    address = parse_address(text)
    if address.kind is AddressKind.INHERITED:
        raise UsageError(f"{text} names a descriptor of the server's; expected the path or @name that leads to it")
    return address


def connect(address: Address) -> socket.socket:
    """A connected stream socket that blocks. Raises `Failure`."""
    if address.kind is AddressKind.TCP:
        return _connect_port(address)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(("\0" if address.kind is AddressKind.ABSTRACT else "") + address.name)
    except OSError as problem:
        connection.close()
        raise Failure(f"{address}: {_reason(problem)}") from problem
    connection.setblocking(True)
    return connection


def received(
    connection: socket.socket, opening: bytes, body: int | None, encode: Callable[[bytes], bytes], patience: float
) -> Iterator[bytes]:
    """Send a request and yield what comes back meanwhile and afterwards, until the peer closes.

    ``opening`` is everything before the body, ``body`` a descriptor to read that from, or None, ``encode`` how a piece
    of it is sent (``b""``: its end). A peer that stops listening may still have answered, so an error in sending only
    ends the sending. Raises `Failure` when the connection breaks, or the peer is silent for ``patience`` seconds while
    it is its turn.
    """
    connection.setblocking(False)
    outgoing = bytearray(opening) + (encode(b"") if body is None else b"")
    while True:
        poller = select.poll()
        poller.register(connection, select.POLLIN | (select.POLLOUT if outgoing else 0))
        if body is not None and not outgoing:
            poller.register(body, select.POLLIN)
        its_turn = body is None or bool(outgoing)
        ready = dict(poller.poll(patience * 1000 if its_turn else None))
        if not ready:
            raise Failure(f"no answer for {spell_duration(patience)}: every worker is busy, or the application hangs")
        happened = ready.get(connection.fileno(), 0)
        if happened & ~select.POLLOUT:
            try:
                data = connection.recv(_CHUNK)
            except ConnectionError as problem:
                raise Failure(f"the connection broke: {problem.strerror}") from None
            if not data:
                return
            yield data
        if body is not None and body in ready:
            chunk = os.read(body, _CHUNK)
            outgoing += encode(chunk)
            body = body if chunk else None
        elif happened & select.POLLOUT:
            try:
                del outgoing[: connection.send(outgoing)]
            except (BrokenPipeError, ConnectionResetError):
                outgoing.clear()
                body = None


def _connect_port(address: Address) -> socket.socket:
    try:
        connection = socket.create_connection((address.name, address.port), _CONNECT_SECONDS)
    except TimeoutError:
        raise Failure(f"{address}: nothing answers: the host is down, or drops what is sent to this port") from None
    except ConnectionRefusedError:
        raise Failure(f"{address}: nobody listens there: is the server started, and on this port?") from None
    except OSError as problem:
        raise Failure(f"{address}: {_reason(problem)}") from problem
    connection.settimeout(None)
    return connection


def _reason(problem: OSError) -> str:
    if problem.errno is None:  # raised by the socket module itself
        return f"{problem}; the kernel takes 107 bytes"
    return _REASONS.get(problem.errno) or os.strerror(problem.errno)


_REASONS: Final = {
    errno.ENOENT: "there is no such file: the server is not started, or listens elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a directory",
    errno.ECONNREFUSED: "nobody listens: the server has ended, or is about to",
    errno.EAGAIN: "the queue is full: every worker is busy, and as many connections wait as the backlog allows "
    "(nginx answers 502 to this)",
    errno.EACCES: "permission denied: it takes write permission on the socket, and x on every directory above it",
    errno.EPROTOTYPE: "this is a socket of another type (datagram or seqpacket)",
}
