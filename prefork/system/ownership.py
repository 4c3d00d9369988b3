"""The claim on a socket's path: a lock in a file beside it.

* It is a POSIX record lock: the kernel frees it whatever way the holder dies, it survives exec, and F_GETLK names
  the holder's pid. The file's text is for people. The file is opened once and never unlinked: a lock on an unlinked
  file is no lock. So where somebody else unlinked it, a new one is made and locked.
* Closing *any* descriptor of the file drops the lock, and the locks of one process never conflict with each other.
  So a second claim in one process is found before the file is opened, by comparing it with all that is open.
* The lock keeps servers of this kind apart. It says nothing about others: for these there is the probe.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from typing import Final

from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.identity import user_name
from prefork.system.probe import DYING, Found, Patience, describe_pid, in_use, probe

__all__ = ["PathLock", "holder_of", "read_notes"]

_SUFFIX: Final = ".lock"
_LONGEST_NOTES: Final = 4096

_FLOCK: Final = struct.Struct("hhqqi")  # struct flock, fcntl(2): type, whence, start, length, pid


def read_notes(socket_path: str) -> dict[str, str]:
    """What the last server at a path wrote down beside it, whether it runs or not. Raises OSError.

    Not for a server's own file: closing a descriptor of it would give up the claim.
    """
    descriptor = os.open(socket_path + _SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        text = os.fsdecode(os.read(descriptor, _LONGEST_NOTES))
    finally:
        os.close(descriptor)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def holder_of(socket_path: str) -> int | None:
    """The pid of the server that claims a path, 0 or less if it has none here; None if none does. Raises OSError."""
    descriptor = os.open(socket_path + _SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


class PathLock:
    """The claim of this process on one socket path, held until `close` or death.

    A holder who may be about to die is waited for, unless the caller is not ``patient``.
    """

    def __init__(self, socket_path: str, *, patient: bool = True) -> None:
        self.path = socket_path + _SUFFIX
        self._socket_path = socket_path
        self._facts: dict[str, object] = {"pid": os.getpid(), "socket": socket_path}
        self.descriptor = self._acquire(DYING if patient else 0.0)
        self.note()

    def note(self, **facts: object) -> None:
        """Write these down in the file, besides pid and path: for people, and for preforkctl."""
        self._facts |= facts
        text = "".join(f"{name}={value}\n" for name, value in self._facts.items())
        with suppress(OSError):  # a full disk: the text is for people, the lock is what counts
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, os.fsencode(text), 0)

    @property
    def stands(self) -> bool:
        """Whether the path still leads to the file that we hold: elsewhere, another server could claim it."""
        return _leads_to(self.path, self.descriptor)

    def renew(self) -> None:
        """Lock the file that stands there now, or a new one, with the same notes. Never waits.

        Raises as the making of a lock does; the old one is then still held.
        """
        renewed = self._acquire(0.0)
        os.close(self.descriptor)
        self.descriptor = renewed
        self.note()

    def close(self) -> None:
        """Give the claim up. The file stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _acquire(self, patience: float) -> int:
        """The descriptor of the file at the path, locked."""
        while True:
            if _is_open_here(self.path):
                raise AddressInUse(
                    f"{self._socket_path} is asked for twice in one server: every pool needs its own socket"
                )
            descriptor = _open_lock_file(self.path, self._socket_path)
            try:
                _check_lock_file(self.path, descriptor)
                self._lock(descriptor, patience)
                locked = _leads_to(self.path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if locked:
                return descriptor
            os.close(descriptor)  # somebody deleted it meanwhile

    def _lock(self, descriptor: int, seconds: float) -> None:
        patience = Patience()
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
                holder = _holder(descriptor)
            except OSError as problem:
                raise ConfigurationError(
                    f"{self.path} cannot be locked ({problem.strerror}): put the socket on a local file system, as /run"
                ) from problem
            if not patience.wait(seconds):
                raise AddressInUse(
                    f"{self._socket_path} is claimed by a running server, {describe_pid(holder)}, which holds "
                    f"{self.path}: stop that one first, or choose another path"
                )


def _leads_to(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _holder(descriptor: int) -> int | None:
    """The pid of a conflicting lock's holder, 0 or less where it has none here; None if the lock is free."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _is_open_here(path: str) -> bool:
    try:
        wanted = os.lstat(path)
        names = os.listdir("/proc/self/fd")
    except OSError:
        return False
    for name in names:
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(name)), wanted):
                return True
    return False


def _open_lock_file(path: str, socket_path: str) -> int:
    # First without O_CREAT: with it, fs.protected_regular refuses even root a file of another user's in /tmp.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            return os.open(path, flags | os.O_CREAT, 0o600)
    except PermissionError:
        finding = probe(socket_path)
        if finding.found is Found.LIVE:
            raise in_use(socket_path, finding) from None
        owner = user_name(os.lstat(path).st_uid) if os.path.lexists(path) else "nobody"
        raise PermissionProblem(
            f"the lock file {path} belongs to {owner} and {user_name(os.geteuid())} may not open it: a server ran here "
            f"as {owner}. Start as that user, or, if none runs any more, remove the file"
        ) from None
    except OSError as problem:
        mend = "; it is no plain file: remove it" if problem.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO) else ""
        raise ConfigurationError(f"the lock file {path} cannot be opened: {problem.strerror}{mend}") from None


def _check_lock_file(path: str, descriptor: int) -> None:
    """A second name of the file could be anybody's /etc/passwd, and we are about to write into it."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise ConfigurationError(f"the lock file {path} is not a plain file of one name: remove it")
