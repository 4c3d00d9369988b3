"""Listening sockets that another process opened and handed to us: ``fd://N``.

Such a socket belongs to its giver. It is used as it is: checked, made blocking (workers sleep in accept(2)) and
close-on-exec; never unlinked, never shut down, its mode and owner never touched. Everything that is wrong with it
is told before the application is loaded, in terms of what the giver must do.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from typing import Final

from prefork.errors import ConfigurationError

__all__ = ["adopt"]

_FIRST_FREE: Final = 3  # the standard streams stay what every program expects them to be
_FAMILIES: Final = {socket.AF_UNIX: "Unix", socket.AF_INET: "TCP", socket.AF_INET6: "TCP"}


def adopt(descriptor: int) -> socket.socket:
    """Take over the listening stream socket, Unix or TCP, that was inherited as ``descriptor``.

    One on a standard stream (supervisor's fcgi-program uses 0) moves to a number above, with /dev/null in its place.
    Raises `ConfigurationError` for anything else; the descriptor is then left as it was.
    """
    _check_open(descriptor)
    listener = socket.socket(fileno=descriptor)
    try:
        _check_listening(listener)
    except ConfigurationError:
        listener.detach()  # not ours to close
        raise
    if descriptor < _FIRST_FREE:
        listener = _move_up(listener)
    listener.set_inheritable(False)
    listener.setblocking(True)  # PEP 446 and O_NONBLOCK, which is shared with the giver: workers block in accept(2)
    return listener


def _check_open(descriptor: int) -> None:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        raise ConfigurationError(
            f"fd {descriptor} is not open: the parent must pass it (without close-on-exec) to the process it starts"
        ) from None
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"fd {descriptor} is open but no socket: expected a listening socket, Unix or TCP")


def _check_listening(listener: socket.socket) -> None:
    descriptor = listener.fileno()
    kind = _FAMILIES.get(listener.family)
    if kind is None:
        raise ConfigurationError(
            f"fd {descriptor} is a socket of address family {int(listener.family)}: expected Unix or TCP"
        )
    if listener.type != socket.SOCK_STREAM:
        protocol = "Unix socket" if kind == "Unix" else "socket of the internet"
        raise ConfigurationError(
            f"fd {descriptor} is a {protocol} of type {socket.SocketKind(listener.type).name}: expected SOCK_STREAM "
            "(systemd: ListenStream=)"
        )
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigurationError(
            f"fd {descriptor} is a {kind} stream socket that does not listen: the parent must call listen() on it, "
            "and pass the listener, not a connection (systemd: Accept=no)"
        )


def _move_up(listener: socket.socket) -> socket.socket:
    stream = listener.detach()
    moved = socket.socket(fileno=fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, stream)
    os.close(null)
    return moved
