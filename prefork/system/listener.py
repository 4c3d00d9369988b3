"""The listening socket of a pool: claimed before the application is loaded, opened when it is ready.

Birth: `Listener.claim` checks everything that can be known (`Listener.prepare` does that alone), takes the lock and
probes; nothing exists at the path yet. `Listener.open` binds and listens: the path exists only when it serves. A failed
`open` leaves nothing behind.

* The final path is bound directly: a socket that is renamed later shows its first name in ss(8) for ever.
* The socket is unlinked only while the path still leads to the inode that we bound.
* An abstract name has no file, hence no lock and no mode: binding it, before it listens, is the claim. So is a port's,
  as far as TCP lets one: of two that bind it at the same moment, the second to listen fails.
* An inherited socket belongs to its giver and is only used (see `prefork.system.handover`).

A process that forks keeps the claim to itself, record locks are not inherited: so claim after daemonizing.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import Final

from prefork.errors import ConfigurationError, PermissionProblem, PreforkError
from prefork.system import tcp
from prefork.system.address import Address, AddressKind, parse_address
from prefork.system.birth import Access, Birthmark, bind_path
from prefork.system.handover import adopt
from prefork.system.ownership import PathLock
from prefork.system.paths import absolute
from prefork.system.place import check_length, check_place, warn_of_place
from prefork.system.probe import (
    DYING,
    ORPHANED,
    Finding,
    Found,
    Patience,
    clear_path,
    in_use,
    is_orphan,
    look_at,
    probe,
)
from prefork.system.sockdiag import QueueReading, SocketDiagnosis

__all__ = ["Address", "AddressKind", "Listener", "parse_address"]

_SOMAXCONN: Final = "/proc/sys/net/core/somaxconn"
_LARGEST_BACKLOG: Final = 2**31 - 1  # an int, listen(2)


class Listener:
    """One listening socket and the claim on its address. Made by `claim`."""

    def __init__(self, address: Address, access: Access, backlog: int) -> None:
        self.address = address
        self.access = access
        self.backlog = backlog  # as the kernel will apply it
        self.path: str | None = None  # in the file system, absolute; None for an abstract or unnamed socket
        self.warnings: tuple[str, ...] = ()  # for the log, once
        self._lock: PathLock | None = None
        self._socket: socket.socket | None = None
        self._birthmark: Birthmark | None = None

    @classmethod
    def prepare(
        cls,
        address: Address,
        *,
        mode: int | None = None,
        owner: str | None = None,
        group: str | None = None,
        backlog: int = 4096,
    ) -> Listener:
        """A listener that is not claimed yet, after everything was looked at that can be without leaving a trace.

        ``mode`` (0660), ``owner`` and ``group`` (names or numbers; the process's own) are for paths only. ``backlog``
        is clamped to net.core.somaxconn, with a warning. A live server at the address is no obstacle here. Raises
        `PermissionProblem` and `ConfigurationError`.
        """
        if address.kind is not AddressKind.PATH:
            _refuse_access(address, mode=mode, owner=owner, group=group)
        allowed, clamped = _clamp(backlog)
        listener = cls(address, Access.check(mode, owner, group), allowed)
        if address.kind is AddressKind.ABSTRACT:
            check_length(address.name, "abstract name")
        elif address.kind is AddressKind.PATH:
            listener.path = absolute(address.name)
            check_place(listener.path)
            look_at(listener.path)
        if not listener.inherited:
            listener.warnings = clamped + (warn_of_place(listener.path) if listener.path else ())
        return listener

    @classmethod
    def claim(
        cls,
        address: Address,
        *,
        mode: int | None = None,
        owner: str | None = None,
        group: str | None = None,
        backlog: int = 4096,
    ) -> Listener:
        """Make ``address`` ours, and find everything that would be in the way of `open`.

        Arguments and errors as in `prepare`; besides, `AddressInUse` for a live server or another claim. Takes up to
        two seconds after the kill -9 of a predecessor whose children still hold its socket.
        """
        listener = cls.prepare(address, mode=mode, owner=owner, group=group, backlog=backlog)
        try:
            listener._claim()  # noqa: SLF001 - of this class
        except OSError as problem:  # EMFILE, ENFILE, ENOMEM: nothing that was asked for is wrong
            listener.close()
            raise PermissionProblem(f"the socket {address} cannot be claimed: {problem.strerror}") from problem
        except BaseException:
            listener.close()
            raise
        return listener

    def __str__(self) -> str:
        chosen = self.address.kind is AddressKind.TCP and self.address.port == 0
        return (self.port if chosen else "") or self.address.text

    @property
    def inherited(self) -> bool:
        """Whether the socket belongs to whoever passed it to us."""
        return self.address.kind is AddressKind.INHERITED

    @property
    def is_tcp(self) -> bool:
        """Whether clients connect by TCP. Only after `claim`."""
        return self._socket is not None and self._socket.family != socket.AF_UNIX

    @property
    def is_public(self) -> bool:
        """Whether other machines can connect. Only after `claim`."""
        return self._socket is not None and self.is_tcp and not tcp.is_loopback(self._socket)

    @property
    def port(self) -> str:
        """The TCP address as it was bound, whatever name the operator gave it; empty for others."""
        if self._socket is None or not self.is_tcp:
            return ""
        host, number = self._socket.getsockname()[:2]
        return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"

    @property
    def inode(self) -> int:
        """The socket's own inode, by which sock_diag knows it (not the file's). Only after `open`."""
        return os.fstat(self.fileno()).st_ino

    def queue(self, diagnosis: SocketDiagnosis) -> QueueReading | None:
        """How many wait to be accepted, and how many may; None where the kernel does not tell. Only after `open`."""
        if self._socket is not None and self.is_tcp:
            return tcp.queue(self._socket)
        return diagnosis.queue(self.inode)

    def fileno(self) -> int:
        """The descriptor that workers accept from. Only after `open`."""
        if self._socket is None:
            raise PreforkError(f"the socket {self} is not open")
        return self._socket.fileno()

    def open(self) -> None:
        """Bind and listen: from here clients queue. An inherited socket does already."""
        if self.inherited:
            return
        if self.path is not None and self._lock is not None:
            self._socket, self._birthmark = bind_path(self.path, self.access)
        if self._socket is None:
            raise PreforkError(f"the socket {self} was closed")
        try:
            self._socket.listen(self.backlog)
        except BaseException as problem:
            late = isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE
            taken = tcp.in_use(self.address, self._socket.getsockname()) if late else None
            self._unlink()
            self.close()
            if taken is not None:
                raise taken from None
            raise

    @property
    def file(self) -> tuple[int, int] | None:
        """Device and inode of the socket's file, where we made one."""
        return (self._birthmark.device, self._birthmark.inode) if self._birthmark is not None else None

    def note_control(self, control: str) -> None:
        """Write down, beside a path of our own, where this server takes orders ("off": nowhere)."""
        if self._lock is not None:
            self._lock.note(pid=os.getpid(), socket=self.path, control=control)

    def shut(self) -> None:
        """The final stop. Repeating it does nothing.

        New connects are refused; those in the queue can still be accepted, and after the last one accept(2) fails
        with EINVAL in every process. The path goes, if it is still ours. An inherited socket is left alone:
        shutdown(2) acts on the socket, whoever else holds it. On TCP nothing fails: see `tcp.refuse_new`.
        """
        if self.inherited or self._socket is None:
            return
        if self.is_tcp:
            tcp.refuse_new(self._socket)
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._unlink()

    def close(self) -> None:
        """Close what is open here, and give up the claim. Unlinks nothing: that is `shut`'s."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _claim(self) -> None:
        if self.inherited:
            self._socket = adopt(self.address.descriptor)
            name = self._socket.getsockname()  # bytes if abstract, empty if unnamed
            self.path = name if isinstance(name, str) and name.startswith("/") else None
            if self.is_tcp:
                tcp.no_delay(self._socket)
        elif self.address.kind is AddressKind.TCP:
            self._socket, warnings = tcp.bind_port(self.address)
            self.warnings += warnings
        elif self.address.kind is AddressKind.ABSTRACT:
            self._socket = _claim_name(self.address.name)
        elif self.path is not None:
            self._lock = PathLock(self.path)
            clear_path(self.path)

    def _unlink(self) -> None:
        if self._birthmark is not None:
            self._birthmark.unlink()
            self._birthmark = None


def _claim_name(name: str) -> socket.socket:
    """An abstract name, bound but not yet listening: by connecting, nobody can tell it from a free one."""
    address = "\0" + name
    patience = Patience()
    finding: Finding | None = None
    while True:
        claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claimed.bind(address)
            return claimed
        except OSError as problem:
            claimed.close()
            if problem.errno != errno.EADDRINUSE:
                raise PermissionProblem(f"the socket @{name} cannot be made: {problem}") from problem
        finding = finding or probe(address)
        # Bound and refusing is a server that is being born, hence nobody's orphan.
        orphan = finding.found is Found.LIVE and is_orphan(finding)
        if not patience.wait(ORPHANED if orphan else DYING):
            raise in_use(address, finding)


def _clamp(backlog: int) -> tuple[int, tuple[str, ...]]:
    """The backlog as listen(2) will apply it, and the warning that goes with a smaller one."""
    if backlog < 1:
        raise ConfigurationError(f"backlog {backlog}: expected the number of connections that may wait, 1 or more")
    try:
        with open(_SOMAXCONN) as text:
            limit = int(text.read())
    except (OSError, ValueError):
        limit = _LARGEST_BACKLOG
    if backlog <= limit:
        return backlog, ()
    warning = (
        f"backlog {backlog} is more than the kernel allows, net.core.somaxconn = {limit}: {limit} is used "
        f"(sysctl -w net.core.somaxconn={backlog} raises it)"
    )
    return limit, (warning,)


def _refuse_access(address: Address, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            why = "belongs to its giver" if address.kind is AddressKind.INHERITED else "has no file"  # abstract, TCP
            raise ConfigurationError(f"the socket {address} {why}: socket_{name} means nothing for it, leave it out")
