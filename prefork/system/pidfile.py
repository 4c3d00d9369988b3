"""The file that names the master's process, for scripts that want to signal it.

* It is checked at the start and written when every pool serves: whoever sees it can rely on a server behind it.
* It appears whole (rename(2)) and with mode 0644, whatever the umask.
* One that names a live process other than ours is never replaced; one that was left behind is. A process that is
  younger than the file is not the one that the file means: pids are used again.
* It is removed at the end only if it is still ours. It proves nothing: the lock beside the socket does.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import Final

from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.identity import user_name
from prefork.system.paths import absolute
from prefork.system.place import own_directory

__all__ = ["PidFile"]

_MODE: Final = 0o644
_LONGEST: Final = 64  # bytes; a pid has seven digits
# How much younger than the file a process has to be: both times come from clocks that tick in hundredths, and the
# clock may have been stepped a little at the start of the machine.
_YOUNGER: Final = 2.0


class PidFile:
    """A pid file for this process. ``path`` is followed from where the process is now."""

    def __init__(self, path: str) -> None:
        self.path = absolute(path)
        self._written: tuple[int, int] | None = None

    def check(self) -> None:
        """See that it can be written. Changes nothing.

        Raises `AddressInUse` where it names a live process, `PermissionProblem` or `ConfigurationError` where it
        cannot be made.
        """
        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            what = "is no directory" if os.path.lexists(directory) else "does not exist"
            raise ConfigurationError(
                f"the pid file's directory {directory} {what}: create it with `install -d {directory}`, or put the "
                "file where one is, as /run"
            )
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionProblem(
                f"{user_name(os.geteuid())} may not write to {directory}, where the pid file {self.path} shall be: "
                f"{own_directory(self.path)}"
            )
        self._check_present()

    def write(self) -> None:
        """Put this process's pid there. Raises as `check` does."""
        self._check_present()
        draft = f"{self.path}.{os.getpid()}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(draft)  # left by a predecessor of the same number
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, b"%d\n" % os.getpid())
                os.fchmod(descriptor, _MODE)
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            os.rename(draft, self.path)
        except OSError as problem:
            with suppress(OSError):
                os.unlink(draft)
            raise PermissionProblem(f"the pid file {self.path} cannot be written: {problem.strerror}") from problem
        self._written = status.st_dev, status.st_ino

    def remove(self) -> None:
        """Remove it, if it is the file that we wrote."""
        with suppress(OSError):  # gone, or out of our reach by now
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._written:
                os.unlink(self.path)
        self._written = None

    def _check_present(self) -> None:
        """Look at what is there: nothing, or the pid of a process that has ended, is fine."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        except OSError as problem:
            what = "is a symbolic link" if problem.errno == errno.ELOOP else f"cannot be read: {problem.strerror}"
            raise ConfigurationError(f"the pid file {self.path} {what}; remove it, or choose another path") from None
        try:
            status = os.fstat(descriptor)
            text = os.read(descriptor, _LONGEST) if stat.S_ISREG(status.st_mode) else b"no file"
        finally:
            os.close(descriptor)
        words = text.split()
        if words and (len(words) > 1 or not words[0].isdigit()):
            raise ConfigurationError(
                f"{self.path} holds no pid, so it is no pid file, and was left alone: remove it, or choose another path"
            )
        pid = int(words[0]) if words else 0
        if pid not in (0, os.getpid()) and _is_meant(pid, status.st_mtime):
            raise AddressInUse(
                f"the pid file {self.path} names pid {pid}, which is alive: stop that server first, or, if it is "
                "none, remove the file"
            )


def _is_meant(pid: int, written: float) -> bool:
    """Whether a process ``pid`` lives that was there when its number was written."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as text:
            fields = text.read(4096).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    if fields[0] in (b"Z", b"X"):
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5)
    return time.time() - age <= written + _YOUNGER
