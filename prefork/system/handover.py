"""Listening sockets that another process opened and handed to us: found by what it says of them, and taken over.

Three ways to be told which descriptor it is:

* ``fd://N``: by number.
* ``systemd``: LISTEN_FDS descriptors from 3 on, for the process LISTEN_PID, with the names in LISTEN_FDNAMES
  (sd_listen_fds(3)).
* ``starter``: Server::Starter's SERVER_STARTER_PORT, as "/run/app.sock=3;0.0.0.0:8000=4".

Such a socket belongs to its giver. It is used as it is: checked, made blocking (workers sleep in accept(2)) and
close-on-exec; never unlinked, never shut down, its mode and owner never touched. Everything that is wrong with it
is told before the application is loaded, in terms of what the giver must do.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from prefork.errors import ConfigurationError
from prefork.system.address import STARTER, SYSTEMD, Address, AddressKind

__all__ = ["FOR_US", "Passed", "adopt", "find", "follow", "left_over", "passed_by", "same_socket"]

FOR_US: Final = frozenset(
    {
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "SERVER_STARTER_PORT",
        "SERVER_STARTER_GENERATION",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)
"""Variables by which a parent speaks to the server: an application that found them would answer in its place."""

_NAMED_BY_PID: Final = ("LISTEN_PID", "WATCHDOG_PID")
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START
_MOST_PASSED: Final = 1_000
_UNNAMED: Final = "unknown"  # what sd_listen_fds_with_names(3) calls them
_FIRST_FREE: Final = 3  # the standard streams stay what every program expects them to be
_FAMILIES: Final = {socket.AF_UNIX: "Unix", socket.AF_INET: "TCP", socket.AF_INET6: "TCP"}

_BY_SYSTEMD: Final = (
    "systemd passes listeners to a service that is started by a .socket unit (systemctl start NAME.socket) or names "
    "one in Sockets=, and to the command after systemd-socket-activate -l ADDRESS"
)
_BY_STARTER: Final = "start_server passes them: start_server --path=/run/mysite/app.sock -- prefork-serve …"


@dataclass(frozen=True, slots=True)
class Passed:
    """One descriptor that a parent says it passed, and what it calls it."""

    descriptor: int
    name: str

    def __str__(self) -> str:
        """For a list of what there is: number, name and address."""
        return f'fd {self.descriptor} called "{self.name}" ({_place(self.descriptor)})'


def find(address: Address, pool: str, environ: Mapping[str, str], pid: int) -> Address:
    """The same address, with the number of the descriptor that the giver chose; others are given back as they are.

    Without a name, it is the only one that was passed, or by systemd the one that is called as the pool is. ``pid`` is
    the process that the environment was meant for. Raises `ConfigurationError`.
    """
    if address.kind is not AddressKind.INHERITED or not address.giver:
        return address
    passed = passed_by(address.giver, environ, pid)
    wanted = address.name
    if not wanted:
        if len(passed) == 1:
            return replace(address, descriptor=passed[0].descriptor)
        wanted = pool if address.giver == SYSTEMD else ""
    found = [each for each in passed if each.name == wanted]
    if len(found) != 1:
        raise ConfigurationError(f"socket {address}: {_mend(address, pool, found, passed)}")
    return replace(address, descriptor=found[0].descriptor)


def passed_by(giver: str, environ: Mapping[str, str], pid: int) -> tuple[Passed, ...]:
    """All that ``giver`` says it passed to the process ``pid``. Raises `ConfigurationError` if that is nothing."""
    return _from_starter(environ) if giver == STARTER else _from_systemd(environ, pid)


def follow(environ: MutableMapping[str, str], before: int) -> None:
    """Where the environment speaks to the process ``before``, whose work this one goes on with, let it speak to us."""
    for name in _NAMED_BY_PID:
        if environ.get(name) == str(before):
            environ[name] = str(os.getpid())


def left_over(environ: Mapping[str, str], pid: int, used: Sequence[int]) -> list[tuple[str, Passed]]:
    """The sockets that were passed and are none of ``used``, each with its giver."""
    found: list[tuple[str, Passed]] = []
    for giver in (SYSTEMD, STARTER):
        with suppress(ConfigurationError):  # nothing was passed, or not to us
            found += [(giver, each) for each in passed_by(giver, environ, pid) if _is_socket(each.descriptor)]
    return [(giver, each) for giver, each in found if not any(same_socket(each.descriptor, one) for one in used)]


def same_socket(one: int, other: int) -> bool:
    """Whether two descriptors are one socket. One that is not open is no other's."""
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def _from_systemd(environ: Mapping[str, str], pid: int) -> tuple[Passed, ...]:
    text, meant = environ.get("LISTEN_FDS"), environ.get("LISTEN_PID")
    if text is None or meant is None:
        missing = "LISTEN_FDS" if text is None else "LISTEN_PID"
        raise ConfigurationError(f"socket {SYSTEMD}: nothing was passed ({missing} is not set): {_BY_SYSTEMD}")
    if meant != str(pid):
        raise ConfigurationError(
            f"socket {SYSTEMD}: what was passed is for the process {meant} (LISTEN_PID) and this is {pid}: a program "
            "between systemd and the server, as a shell script, must exec it instead of starting it"
        )
    count = _number(text)
    if not 1 <= count <= _MOST_PASSED:
        raise ConfigurationError(f"socket {SYSTEMD}: LISTEN_FDS={text}: expected how many were passed: {_BY_SYSTEMD}")
    names = environ.get("LISTEN_FDNAMES", ":".join([_UNNAMED] * count)).split(":")
    if len(names) != count:
        raise ConfigurationError(
            f"socket {SYSTEMD}: LISTEN_FDNAMES={':'.join(names)} has {len(names)} names and LISTEN_FDS={text}: "
            "expected as many names, or none"
        )
    return tuple(Passed(_FIRST_PASSED + place, name) for place, name in enumerate(names))


def _from_starter(environ: Mapping[str, str]) -> tuple[Passed, ...]:
    text = environ.get("SERVER_STARTER_PORT", "")
    if not text:
        raise ConfigurationError(f"socket {STARTER}: SERVER_STARTER_PORT is not set: {_BY_STARTER}")
    passed = []
    for entry in text.split(";"):
        name, _, number = entry.rpartition("=")
        if not name or _number(number) < 0:
            raise ConfigurationError(
                f"socket {STARTER}: SERVER_STARTER_PORT={text}: expected address=descriptor;…, found {entry!r}"
            )
        passed.append(Passed(_number(number), name))
    return tuple(passed)


def _number(text: str) -> int:
    """A descriptor's number, or how many there are; -1 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _mend(address: Address, pool: str, found: Sequence[Passed], passed: Sequence[Passed]) -> str:
    """Why it is not clear which one is meant, and what to write."""
    there = "; ".join(str(each) for each in passed)
    if len(found) > 1:
        first, *_ = found
        return (
            f'{len(found)} sockets called "{first.name}" were passed: {there}; expected a .socket unit for each, with '
            f"a FileDescriptorName= of its own, or the number, as fd://{first.descriptor}"
        )
    if address.giver == STARTER:
        missing = f"none of them is {address.name}" if address.name else "more than one"
        return f"passed were {there}: {missing}; expected the address as it stands there, as starter:{passed[0].name}"
    if address.name:
        return (
            f'passed were {there}: none is called "{address.name}"; expected one of these names, or '
            f"FileDescriptorName={address.name} in its .socket unit"
        )
    return (
        f'passed were {there}: none is called as the pool is, "{pool}"; expected systemd:NAME with one of these names '
        "(FileDescriptorName= in a .socket unit gives another)"
    )


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _place(descriptor: int) -> str:
    """Where clients of a passed socket connect, as far as that can be seen."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            name = listener.getsockname()
    except OSError:
        return "no open socket"
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else str(name) or "unnamed"


def adopt(descriptor: int) -> socket.socket:
    """Take over the listening stream socket, Unix or TCP, that was inherited as ``descriptor``: a copy of it.

    The number itself stays its giver's, and open, but for a standard stream (supervisor's fcgi-program uses 0), which
    becomes /dev/null. Raises `ConfigurationError` for anything else; the descriptor is then left as it was.
    """
    _check_open(descriptor)
    listener = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))
    try:
        _check_listening(listener, descriptor)
    except ConfigurationError:
        listener.close()
        raise
    if descriptor < _FIRST_FREE:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(descriptor, False)
    listener.setblocking(True)  # O_NONBLOCK is shared with the giver: workers block in accept(2)
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


def _check_listening(listener: socket.socket, descriptor: int) -> None:
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
