"""Listening on TCP: names resolved once, at the start; a port bound before the application is loaded; its last day.

* One listener a pool: a name that has several addresses gets the first, IPv4 before IPv6, and a warning. An IPv6
  socket takes IPv6 alone (IPV6_V6ONLY), whatever the machine's default.
* SO_REUSEADDR: connections of a predecessor that still linger are no obstacle; a live listener is.
* TCP_NODELAY is set on the listener, from which Linux hands it on to every connection.
* A listening TCP socket cannot be shut down: that, as its close, resets whoever waits in its queue. So at the end new
  connections are dropped on arrival, and the socket is closed when its queue has been served.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import Any, Final

from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.address import Address
from prefork.system.probe import describe_pid, find_holder
from prefork.system.sockdiag import QueueReading

__all__ = [
    "await_words",
    "bind_port",
    "in_use",
    "is_loopback",
    "is_the_host",
    "no_delay",
    "overlaps",
    "queue",
    "refuse_new",
]

_ANY: Final = {"0.0.0.0", "::"}
_LISTENS: Final = "0A"  # TCP_LISTEN, net/tcp_states.h, as in the column st of /proc/net/tcp
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
# struct tcp_info, linux/tcp.h. Of a listener, tcpi_unacked is its queue and tcpi_sacked the limit of that.
_INFO_SIZE: Final = 104
_LENGTHS: Final = struct.Struct("=II")
_LENGTHS_AT: Final = 24
_SILENT_FOR: Final = 60  # seconds
_DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)  # struct sock_filter: BPF_RET | BPF_K, nothing


def bind_port(address: Address) -> tuple[socket.socket, tuple[str, ...]]:
    """A socket bound to a TCP address, not yet listening, and the warnings that go with it.

    Raises `AddressInUse`, `PermissionProblem` and `ConfigurationError`.
    """
    family, name, warnings = _resolve(address)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        no_delay(bound)
        bound.bind(name)
    except OSError as problem:
        bound.close()
        raise _explain(address, name, problem) from None
    return bound, warnings


def _resolve(address: Address) -> tuple[int, Any, tuple[str, ...]]:
    try:
        found = socket.getaddrinfo(
            address.name, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as problem:  # the latter for a label that is too long, or empty
        why = problem.strerror if isinstance(problem, socket.gaierror) else "no possible name"
        raise ConfigurationError(
            f"socket {address}: {address.name} cannot be resolved ({why}): name an address of this machine"
        ) from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    names = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    others = f"{address.name} has other addresses, which are not served: {', '.join(names[1:])}"
    return found[0][0], found[0][4], (others,) if names[1:] else ()


def is_the_host(bound: socket.socket, address: Address) -> bool:
    """Whether a socket is bound to what the host of an address comes to; False if it comes to nothing."""
    try:
        family, name, _ = _resolve(address)
    except ConfigurationError:
        return False
    return bool(family == bound.family and name[0] == bound.getsockname()[0])


def overlaps(bound: socket.socket, address: Address) -> bool:
    """Whether a socket that listens keeps others from the port of an address; False if that cannot be resolved."""
    try:
        family, name, _ = _resolve(address)
    except ConfigurationError:
        return False
    host, port = bound.getsockname()[:2]
    return bool(family == bound.family and port == address.port and (name[0] == host or _ANY & {name[0], host}))


def _explain(address: Address, name: Any, problem: OSError) -> Exception:
    if problem.errno == errno.EADDRINUSE:
        return in_use(address, name)
    if problem.errno == errno.EACCES:
        return PermissionProblem(
            f"socket {address}: ports below net.ipv4.ip_unprivileged_port_start are root's: start as root with the "
            "user option, or choose a higher port"
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            f"socket {address}: this machine has no address {name[0]}: name one of its own, 0.0.0.0 for every IPv4 "
            "address or [::] for every IPv6 one"
        )
    return PermissionProblem(f"the socket {address} cannot be made: {problem.strerror}")


def in_use(address: Address, name: Any) -> AddressInUse:
    """The error for a port that somebody listens on, naming him where /proc lets us see him."""
    pid = find_holder(_listening_on(int(name[1])))
    if pid == os.getpid():
        return AddressInUse(f"{address} is asked for twice in one server: every pool needs its own socket")
    return AddressInUse(
        f"{address} is in use by a live server, {describe_pid(pid)}: stop that one first, or choose another port"
    )


def _listening_on(port: int) -> set[str]:
    """The sockets that listen on this port, as /proc/PID/fd shows them."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table, encoding="ascii") as rows:
            for row in rows:
                columns = row.split()
                if columns[3] == _LISTENS and columns[1].rpartition(":")[2] == f"{port:04X}":
                    found.add(f"socket:[{columns[9]}]")
    return found


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    host = str(listener.getsockname()[0])
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def no_delay(listener: socket.socket) -> None:
    """What is sent on the connections of this listener leaves at once."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def await_words(listener: socket.socket) -> None:
    """Whoever connects and says nothing stays with the kernel: for a minute, if it is not told to let go before.

    Where the kernel has no such thing, silent connections are served like others.
    """
    with suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SILENT_FOR)


def refuse_new(listener: socket.socket) -> None:
    """The last day: new connections are dropped as they arrive, whichever process has the socket; who waits may stay.

    To their clients it is as if the packets were lost: they try again, until the close refuses them. A kernel may
    forbid the filter to whoever is not root (EPERM); then newcomers are served as well, until the queue is empty once.
    """
    instructions = ctypes.create_string_buffer(_DROP_ALL)
    program = struct.pack("HL", 1, ctypes.addressof(instructions))  # struct sock_fprog
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def queue(listener: socket.socket) -> QueueReading | None:
    """How many wait to be accepted, and the limit; None where the kernel does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
        return QueueReading(*_LENGTHS.unpack_from(info, _LENGTHS_AT))
    except (OSError, struct.error):
        return None
