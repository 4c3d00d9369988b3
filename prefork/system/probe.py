"""What is at a Unix socket's address: nothing, a dead socket, or a live server, and whose.

* A probe is a connect that sends nothing, and it never waits. A full queue is as alive as an accepting server.
* Only a socket that refuses connections is ever removed, and nothing that is no socket.
* Pids come from the kernel: SO_PEERCRED names the process that called listen(2); where the queue is full, and nobody
  connects, /proc tells who holds the listener, as far as it lets us look.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem, PreforkError
from prefork.system.identity import user_name
from prefork.system.peers import peer_of

__all__ = [
    "DYING",
    "ORPHANED",
    "Finding",
    "Found",
    "Patience",
    "clear_path",
    "describe",
    "describe_pid",
    "find_holder",
    "find_listener_pid",
    "in_use",
    "is_orphan",
    "look_at",
    "probe",
]

_LISTENS: Final = 0x10000  # __SO_ACCEPTCON, linux/net.h: in the flags column of /proc/net/unix

_FORMS: Final = {
    stat.S_IFREG: "a plain file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
}

_EXITING: Final = 4  # PF_EXITING, linux/sched.h

# Seconds. kill(2) returns before its victim has gone, and a server that stops may be in its last moment.
DYING: Final = 0.2
# After kill -9 of a master its workers die by their death signal, within milliseconds on an idle machine, but until
# then they hold its listener.
ORPHANED: Final = 2.0
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.16


class Found(Enum):
    """What a probe met."""

    NOTHING = auto()
    DEAD = auto()  # a socket that nobody listens on
    LIVE = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """A probe's answer. ``pid`` called listen(2): None where the queue was full, 0 in another pid namespace."""

    found: Found
    pid: int | None = None


def probe(address: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Finding:
    """Connect to a Unix address (abstract ones begin with NUL), without waiting.

    Raises `AddressInUse` for a socket of another type and `PermissionProblem` where we may not connect.
    """
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as client:
        try:
            client.connect(address)
        except BlockingIOError:
            return Finding(Found.LIVE)  # EAGAIN: the queue is full, connect(2)
        except ConnectionRefusedError:
            return Finding(Found.DEAD)
        except FileNotFoundError:
            return Finding(Found.NOTHING)
        except PermissionError:
            raise PermissionProblem(
                f"{address} exists, and {user_name(os.geteuid())} may not connect to find out whether it is alive: "
                "run as its owner, or remove it if its server is gone"
            ) from None
        except OSError as problem:
            if problem.errno != errno.EPROTOTYPE:
                raise ConfigurationError(f"{address!r} cannot be probed: {problem.strerror}") from problem
            raise AddressInUse(
                f"{_printable(address)} is in use by a Unix socket of another type than {kind.name}: "
                "choose another address"
            ) from None
        return Finding(Found.LIVE, peer_of(client).pid)


def look_at(path: str) -> os.stat_result | None:
    """What stands at ``path``, None for nothing. Raises `ConfigurationError` for anything that is no socket."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    _check_socket(path, status)
    return status


def describe(path: str) -> str:
    """What stands at ``path``, in words, for whoever did not put it there. Never waits, never raises."""
    try:
        status = os.lstat(path)
        if not stat.S_ISSOCK(status.st_mode):
            return _FORMS.get(stat.S_IFMT(status.st_mode), "a file that is no socket")
        finding = probe(path)
    except AddressInUse:
        return "a socket of another type"
    except PreforkError:
        return "a socket to which we may not connect"
    except OSError as problem:
        return f"nothing that could be looked at ({problem.strerror})"
    if finding.found is Found.LIVE:
        return f"the socket of a live server, {describe_pid(finding.pid)}"
    return "a socket that nobody listens on"


def clear_path(path: str, kind: socket.SocketKind = socket.SOCK_STREAM, *, patient: bool = True) -> None:
    """See that nothing stands at ``path``, removing a dead socket. The lock must be held.

    A server that has just been killed is waited for, unless the caller is not ``patient``.

    Raises `AddressInUse` for a live server, `ConfigurationError` for anything that is no socket.
    """
    status = look_at(path)
    if status is None:
        return
    finding = probe(path, kind)
    patience = Patience(patient)
    while finding.found is Found.LIVE:
        if not is_orphan(finding) or not patience.wait(ORPHANED):
            raise in_use(path, finding)
        if not _bound_to(path, listening=True):  # only now, as each connect stays in the queue of a busy server
            finding = probe(path, kind)
    if finding.found is Found.DEAD:
        _remove(path, status)


class Patience:
    """Pauses that grow, and an end to them; none at all for whoever is not ``patient``, as a master that serves."""

    def __init__(self, patient: bool = True) -> None:
        self._patient = patient
        self._start = time.monotonic()
        self._pause = _FIRST_PAUSE

    def wait(self, seconds: float) -> bool:
        """Pause once; False, without a pause, when so many ``seconds`` have passed in all."""
        if not self._patient or time.monotonic() >= self._start + seconds:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


def is_orphan(finding: Finding) -> bool:
    """Whether a live listener may be what a killed server's children still hold for a moment.

    Its listen(2) was called by a process that is gone; or a full queue hides who that was.
    """
    return finding.pid is None or (finding.pid > 0 and not _runs(finding.pid))


def in_use(address: str, finding: Finding) -> AddressInUse:
    """The error for a live server at ``address``."""
    pid = finding.pid or find_listener_pid(address)
    if pid == os.getpid():
        return AddressInUse(f"{_printable(address)} is asked for twice in one server: every pool needs its own socket")
    full = " (its queue is full)" if finding == Finding(Found.LIVE, None) else ""
    return AddressInUse(
        f"{_printable(address)} is in use by a live server, {describe_pid(pid)}{full}: stop that one first, "
        "or choose another address"
    )


def find_listener_pid(address: str) -> int | None:
    """The process that holds what is bound to ``address``, the oldest if several do; None if hidden from us."""
    # Accepted connections bear the listener's name too. Where nothing listens, the name is only claimed yet.
    owners = _bound_to(address, listening=True) or _bound_to(address, listening=False)
    return find_holder(owners)


def find_holder(sockets: set[str]) -> int | None:
    """The process that has one of these sockets (as /proc/PID/fd shows them) open; the oldest, None if hidden."""
    return min((pid for pid in _pids() if _holds(pid, sockets)), default=None) if sockets else None


def _bound_to(address: str, *, listening: bool) -> set[str]:
    """The sockets with the name ``address`` that listen, or that do not, as /proc/PID/fd shows them."""
    name = os.fsencode(_printable(address))
    try:
        with open("/proc/net/unix", "rb") as table:
            rows = [row.rstrip(b"\n").split(None, 7) for row in table]
    except OSError:
        return set()
    bound = [row for row in rows if row[7:] == [name]]
    return {f"socket:[{int(row[6])}]" for row in bound if bool(int(row[3], 16) & _LISTENS) is listening}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _holds(pid: int, links: set[str]) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        with suppress(OSError):
            if os.readlink(f"{directory}/{name}") in links:
                return True
    return False


def _runs(pid: int) -> bool:
    """Whether a process lives: not one that is exiting, whose locks may be gone already, and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as text:
            state, _, _, _, _, _, flags = text.read(4096).rpartition(b")")[2].split()[:7]  # proc_pid_stat(5)
    except (FileNotFoundError, ProcessLookupError):  # ESRCH: it ended between open(2) and read(2)
        return False
    except OSError:
        return True
    return state not in (b"Z", b"X") and not int(flags) & _EXITING


def _check_socket(path: str, status: os.stat_result) -> None:
    if stat.S_ISSOCK(status.st_mode):
        return
    if stat.S_ISLNK(status.st_mode):
        what = f"is a symbolic link to {os.readlink(path)}: name the socket itself"
    elif stat.S_ISDIR(status.st_mode):
        what = f"is a directory: name a file in it, as {path}/app.sock"
    else:
        what = "is a file, not a socket: move it away, or choose another path"
    raise ConfigurationError(f"{path} {what}. It was left alone")


def _remove(path: str, status: os.stat_result) -> None:
    """Unlink the dead socket that was probed, and nothing that took its place since."""
    try:
        if os.path.samestat(os.lstat(path), status):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise PermissionProblem(
            f"the dead socket {path} of {user_name(status.st_uid)} cannot be removed: {problem.strerror}; remove it"
        ) from None


def _printable(address: str) -> str:
    return "@" + address[1:] if address.startswith("\0") else address


def describe_pid(pid: int | None) -> str:
    """How a message names a process that may be hidden."""
    return f"pid {pid}" if pid is not None and pid > 0 else "pid unknown (another user's or another container's)"
