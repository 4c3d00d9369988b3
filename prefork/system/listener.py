"""The listening socket of a pool: claimed before the application is loaded, opened when it is ready.

Birth: `Listener.claim` checks everything that can be known (`Listener.prepare` does that alone), takes the lock and
probes; nothing exists at the path yet. `Listener.open` binds and listens: the path exists only when it serves. A failed
`open` leaves nothing behind.

* The final path is bound directly: a socket that is renamed later shows its first name in ss(8) for ever.
* The socket is unlinked only while the path still leads to the inode that we bound.
* An abstract name has no file, hence no lock and no mode: binding it, before it listens, is the claim. So is a port's,
  as far as TCP lets one: of two that bind it at the same moment, the second to listen fails.
* An inherited socket belongs to its giver and is only used (see `prefork.system.handover`).

Life: mode, owner and backlog change under the clients' hands (`Listener.apply`). A path that was deleted is bound anew
by a new listener (`Listener.renew`); the old one gives way, which loses nobody: who waits in its queue is still
accepted, and who waits for room there is led to the path, hence to the new one, by the kernel (unix_stream_connect
looks the name up again, net/unix/af_unix.c).

A process that forks keeps the claim to itself, record locks are not inherited: so claim after daemonizing.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from prefork.errors import ConfigurationError, PermissionProblem, PreforkError
from prefork.system import tcp
from prefork.system.abstract import claim_name
from prefork.system.address import Address, AddressKind, parse_address
from prefork.system.backlog import clamp
from prefork.system.birth import Access, Birthmark, bind_path
from prefork.system.handover import adopt
from prefork.system.ownership import PathLock
from prefork.system.paths import absolute
from prefork.system.place import check_length, check_place, warn_of_place
from prefork.system.probe import clear_path, look_at
from prefork.system.regrant import check_regrant, regrant
from prefork.system.sockdiag import QueueReading, SocketDiagnosis

__all__ = ["Address", "AddressKind", "Change", "Listener", "Standing", "parse_address"]


class Standing(Enum):
    """What a listener's path leads to."""

    OURS = auto()  # to the listener, or it needs no path
    GONE = auto()  # to nothing
    TAKEN = auto()  # to something else
    HIDDEN = auto()  # a directory on the way may not be entered any more


@dataclass(frozen=True, slots=True)
class Change:
    """What `Listener.apply` does to a living listener: found possible by `Listener.check_change`."""

    access: Access
    backlog: int
    warnings: tuple[str, ...] = ()


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
        self._found: Birthmark | None = None  # the file of an inherited socket: to be looked at, never to be touched

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
        allowed, clamped = clamp(backlog)
        listener = cls(address, _access(address, mode, owner, group), allowed)
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
        patient: bool = True,
    ) -> Listener:
        """Make ``address`` ours, and find everything that would be in the way of `open`.

        Arguments and errors as in `prepare`; besides, `AddressInUse` for a live server or another claim. Takes up to
        two seconds after the kill -9 of a predecessor whose children still hold its socket, if ``patient``.
        """
        listener = cls.prepare(address, mode=mode, owner=owner, group=group, backlog=backlog)
        try:
            listener._claim(patient)  # noqa: SLF001 - of this class
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
    def limit(self) -> int | None:
        """How many may wait, as we gave it to listen(2). None: its giver did, and only the kernel can tell."""
        return None if self.inherited else self.backlog

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
    def entrance(self) -> str | None:
        """What clients connect to, as the option names it; None for a passed socket without a name. After `claim`."""
        if self.path or self.port or not self.inherited or self._socket is None:
            return self.path or self.port or str(self)
        name = self._socket.getsockname()
        return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else None

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
            self._lock.note(control=control)

    def is_at(self, address: Address) -> bool:
        """Whether this is the listener that an address asks for, however that is spelled."""
        if address.kind is not self.address.kind:
            return False
        if address.kind is AddressKind.PATH:
            return absolute(address.name) == self.path
        if address.kind is AddressKind.INHERITED:
            return address.descriptor == self.address.descriptor
        if address.kind is AddressKind.TCP and self._socket is not None and address.port == self.address.port:
            return address.name == self.address.name or tcp.is_the_host(self._socket, address)
        return (address.name, address.port) == (self.address.name, self.address.port)

    def overlaps(self, address: Address) -> bool:
        """Whether this one keeps another listener from an address, by TCP: the two are one, or one holds the other."""
        if address.kind is not AddressKind.TCP or self._socket is None or not self.is_tcp:
            return False
        return tcp.overlaps(self._socket, address)

    def standing(self) -> Standing:
        """What the path leads to now: one lstat(2). The inode is ours for as long as the socket is open."""
        mark = self._birthmark or self._found
        if mark is None:
            return Standing.OURS
        try:
            return Standing.OURS if mark.matches(os.lstat(mark.path)) else Standing.TAKEN
        except (FileNotFoundError, NotADirectoryError):
            return Standing.GONE
        except OSError:
            return Standing.HIDDEN

    @property
    def is_claimed(self) -> bool:
        """Whether no other server can claim the path: the lock file is where it was. True where none is needed."""
        return self._lock is None or self._lock.stands

    def claim_again(self) -> None:
        """Make the lock file anew, where it was deleted. Never waits; raises PreforkError."""
        if not self.is_claimed and self._lock is not None:
            self._lock.renew()

    def renew(self) -> Listener:
        """A listener that serves the path anew, which leads to nothing; the claim goes over to it.

        This one has to `give_way`. Raises PreforkError, and then nothing has changed. Never waits.
        """
        if self.path is None or self._lock is None:
            raise PreforkError(f"the socket {self} is not ours to be made anew")
        check_place(self.path)
        self.claim_again()
        successor = Listener(self.address, self.access, self.backlog)
        successor.path = self.path
        successor._socket, successor._birthmark = bind_path(self.path, self.access)
        try:
            successor._socket.listen(self.backlog)
        except OSError as problem:
            successor._unlink()
            successor.close()
            raise PermissionProblem(f"the socket {self} cannot be made: {problem.strerror}") from problem
        successor._lock, self._lock, self._birthmark = self._lock, None, None
        return successor

    def await_words(self) -> None:
        """On a port of our own, take only connections whose clients have said something. Only after `claim`."""
        if self._socket is not None and self.is_tcp and not self.inherited:
            tcp.await_words(self._socket)

    def check_change(
        self, *, mode: int | None = None, owner: str | None = None, group: str | None = None, backlog: int = 4096
    ) -> Change:
        """What `apply` would do for these options, which mean what they mean to `prepare`; nothing is done.

        Raises `ConfigurationError` and `PermissionProblem` for all that could be refused.
        """
        if self.address.kind is not AddressKind.PATH:
            _refuse_access(self.address, mode=mode, owner=owner, group=group)
        allowed, clamped = clamp(backlog)
        access = _access(self.address, mode, owner, group)
        if self._birthmark is not None:
            check_regrant(self._birthmark, access)
        return Change(access, allowed, () if self.inherited else clamped)

    def apply(self, change: Change) -> None:
        """Give the living listener another mode, owner and backlog. Nobody is refused meanwhile who may connect.

        An inherited one is left as it is. Raises `PermissionProblem` for what was possible when it was checked.
        """
        if self.inherited:
            return
        self.access, self.backlog = change.access, change.backlog  # of those that are bound anew, too
        if self._socket is not None and self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._socket.listen(change.backlog)  # a longer queue takes in at once who waits for room
        if self._birthmark is not None:
            regrant(self._birthmark, change.access)

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

    def give_way(self) -> None:
        """Another listener is served from now on: as `shut`, and without a claim. The queue can still be served."""
        self.shut()
        self._release()

    def close(self) -> None:
        """Close what is open here, and give up the claim. Unlinks nothing: that is `shut`'s."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _claim(self, patient: bool) -> None:
        if self.inherited:
            self._socket = adopt(self.address.descriptor)
            name = self._socket.getsockname()  # bytes if abstract, empty if unnamed
            self.path = name if isinstance(name, str) and name.startswith("/") else None
            self._found = _mark_of(self.path)
            if self.is_tcp:
                tcp.no_delay(self._socket)
        elif self.address.kind is AddressKind.TCP:
            self._socket, warnings = tcp.bind_port(self.address)
            self.warnings += warnings
        elif self.address.kind is AddressKind.ABSTRACT:
            self._socket = claim_name(self.address.name, patient=patient)
        elif self.path is not None:
            self._lock = PathLock(self.path, patient=patient)
            clear_path(self.path, patient=patient)

    def _unlink(self) -> None:
        if self._birthmark is not None:
            self._birthmark.unlink()
            self._birthmark = None


def _mark_of(path: str | None) -> Birthmark | None:
    """The socket that stands at a path."""
    try:
        status = os.lstat(path or "")
    except OSError:
        return None
    return Birthmark(path or "", status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None


def _access(address: Address, mode: int | None, owner: str | None, group: str | None) -> Access:
    """`Access.check`, whose complaints are told with the socket that they are about."""
    try:
        return Access.check(mode, owner, group)
    except PreforkError as problem:
        name = absolute(address.name) if address.kind is AddressKind.PATH else str(address)
        problem.args = (f"socket {name}: {problem}",)
        raise


def _refuse_access(address: Address, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            why = "belongs to its giver" if address.kind is AddressKind.INHERITED else "has no file"  # abstract, TCP
            raise ConfigurationError(f"the socket {address} {why}: socket_{name} means nothing for it, leave it out")
