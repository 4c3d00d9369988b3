"""How a socket file comes into the world: with the right owner and mode before anybody can connect.

bind(2) makes the file, listen(2) lets clients in. In between it gets its owner, group and mode. A file that shall
have another owner or group than its maker is born with the owner's bits alone, so that at no moment a group that
was not meant holds permissions on it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.identity import find_group, find_user, group_name, user_name

__all__ = ["Access", "Birthmark", "bind_path"]

_DEFAULT_MODE: Final = 0o660
_OWNER_BITS: Final = 0o700
_UNCHANGED: Final = -1  # chown(2)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: the mode, owner and group of the file (None: its maker's)."""

    mode: int = _DEFAULT_MODE
    owner: int | None = None
    group: int | None = None

    @classmethod
    def check(cls, mode: int | None, owner: str | None, group: str | None) -> Access:
        """What the operator asked for, names resolved, and found possible.

        Raises `ConfigurationError` (mode, unknown names), `PermissionProblem` (chown(2) would be refused).
        """
        if mode is not None and not 0 < mode <= 0o777:
            raise ConfigurationError(f"socket_mode {mode:o}: expected an octal mode from 1 to 777, as 660")
        access = cls(
            _DEFAULT_MODE if mode is None else mode,
            None if owner is None else _number("socket_owner", find_user, owner),
            None if group is None else _number("socket_group", find_group, group),
        )
        if os.geteuid() != 0:
            mine = {None, os.getegid(), *os.getgroups()}
            if access.owner not in (None, os.geteuid()):
                raise access.problem("only root may")
            if access.group not in mine:
                raise access.problem("only root and the group's members may")
        return access

    @property
    def changes_hands(self) -> bool:
        """Whether the file shall belong to somebody else than its maker."""
        return self.owner is not None or self.group is not None

    def problem(self, reason: str | None) -> PermissionProblem:
        """The error for a chown(2) or chmod(2) that is refused."""
        me = user_name(os.geteuid())
        owner = "" if self.owner is None else user_name(self.owner)
        group = "" if self.group is None else group_name(self.group)
        names = {"owner": owner, "group": group}
        heirs = " and ".join(f"{kind} {name}" for kind, name in names.items() if name)
        options = " and ".join(f"socket_{kind}" for kind, name in names.items() if name)
        join = f", or join the group (usermod -aG {group} {me}, then log in anew)" if group and not owner else ""
        return PermissionProblem(
            f"{me} cannot give the socket to {heirs}: {reason}; start as root with the user option{join}, "
            f"or leave {options} out"
        )


def _number(option: str, find: Callable[[str], int], text: str) -> int:
    try:
        return find(text)
    except ConfigurationError as problem:
        problem.args = (f"{option}: {problem}",)
        raise


@dataclass(frozen=True, slots=True)
class Birthmark:
    """The file that our bind(2) made: what must still be at the path before it is touched again."""

    path: str
    device: int
    inode: int

    def matches(self, status: os.stat_result) -> bool:
        """Whether this is the same file."""
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    @property
    def is_gone(self) -> bool:
        """Whether nothing stands at the path, not even another file."""
        return not os.path.lexists(self.path)

    def unlink(self) -> None:
        """Remove the file, if it is still this one."""
        with suppress(OSError):  # gone, or the directory was taken from us: nothing is left that we could remove
            if self.matches(os.lstat(self.path)):
                os.unlink(self.path)

    @contextmanager
    def pin(self) -> Iterator[int]:
        """A descriptor of the file itself, for changes through /proc/self/fd.

        Whoever may write to the directory could put a link to /etc/shadow in its place between two calls that name
        the path. Raises `AddressInUse` where the path leads to another file, OSError where it leads nowhere.
        """
        descriptor = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not self.matches(os.fstat(descriptor)):
                raise AddressInUse(f"{self.path} was replaced by another file")
            yield descriptor
        finally:
            os.close(descriptor)


def bind_path(
    path: str, access: Access, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[socket.socket, Birthmark]:
    """A socket bound to ``path``, not yet listening, with owner and mode as they shall be. Or an error, and nothing.

    Raises `AddressInUse` where something stands at the path, `PermissionProblem` where the kernel refuses.
    """
    try:
        listener = socket.socket(socket.AF_UNIX, kind)
    except OSError as problem:  # EMFILE, ENFILE, ENOMEM
        raise PermissionProblem(f"the socket {path} cannot be made: {problem.strerror}") from problem
    try:
        # The file takes the mode of the socket's own inode, less the umask (unix_bind_bsd, net/unix/af_unix.c).
        os.fchmod(listener.fileno(), access.mode & _OWNER_BITS if access.changes_hands else access.mode)
        with _no_umask():
            listener.bind(path)
        status = os.lstat(path)
        mark = Birthmark(path, status.st_dev, status.st_ino)
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{path} was free when it was claimed, and now something stands there") from None
        raise PermissionProblem(f"the socket {path} cannot be made: {problem.strerror}") from problem
    try:
        if access.changes_hands:
            _hand_over(mark, access)
    except BaseException:
        mark.unlink()
        listener.close()
        raise
    return listener, mark


@contextmanager
def _no_umask() -> Iterator[None]:
    """The umask belongs to the whole process: it is 0 for one bind(2) and not a line longer."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _hand_over(mark: Birthmark, access: Access) -> None:
    """Give the new file its owner, group and mode."""
    try:
        with mark.pin() as pin:
            status = os.fstat(pin)
            # The birthmark was taken by name: what is no new socket of ours was put there before it was.
            if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                raise AddressInUse(f"{mark.path} was replaced by another file while it was made")
            owner = _UNCHANGED if access.owner is None else access.owner
            group = _UNCHANGED if access.group is None else access.group
            os.chown(f"/proc/self/fd/{pin}", owner, group)
            os.chmod(f"/proc/self/fd/{pin}", access.mode)
    except OSError as problem:
        raise access.problem(problem.strerror) from None
