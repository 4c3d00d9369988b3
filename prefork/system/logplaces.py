"""Where logs go, and how they are opened: a path, standard output or error, the system's syslog.

Logs are opened by the master, as the user who started it, and handed to the processes below as descriptors: who
serves the requests needs no right to the log's directory. A file that does not exist is made with mode 0640.

Root follows no symbolic link that somebody else made, see `prefork.system.opening`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from typing import Final

from prefork.errors import ConfigurationError, PermissionProblem, PreforkError
from prefork.system.identity import user_name
from prefork.system.logfile import LogFile, far_up
from prefork.system.opening import Untrusted, open_file
from prefork.system.place import create, own_directory

__all__ = ["STANDARD", "SYSLOG", "SYSLOG_SOCKET", "adopt", "is_at", "look_at", "open_anew", "open_log"]

STANDARD: Final = {"stderr": 2, "-": 1}
SYSLOG: Final = "syslog"
SYSLOG_SOCKET: Final = "/dev/log"

_MODE: Final = 0o640
_FLAGS: Final = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def open_log(place: str, option: str) -> LogFile:
    """Open a log: "stderr", "-" (standard output), "syslog" or a path.

    ``option`` is who asks for it, for the messages. Raises `ConfigurationError` or `PermissionProblem`.
    """
    if place in STANDARD:
        return LogFile(_own_description(STANDARD[place]), _name(place))
    if place == SYSLOG:
        return LogFile(_connect(SYSLOG_SOCKET, option), SYSLOG, syslog=SYSLOG_SOCKET)
    path = os.path.abspath(place)
    return LogFile(open_anew(path, option), _name(place), path)


def is_at(log: LogFile, place: str) -> bool:
    """Whether a log that `open_log` opened is the one that would be opened at this place."""
    if place in STANDARD or place == SYSLOG:
        return not log.path and log.name == _name(place)
    return log.path == os.path.abspath(place)


def look_at(place: str, option: str) -> None:
    """See that `open_log` would open this, without making anything. Raises as it does."""
    if place in STANDARD:
        return
    if place == SYSLOG:
        os.close(_connect(SYSLOG_SOCKET, option))
        return
    path = os.path.abspath(place)
    if os.path.exists(path):
        os.close(open_anew(path, option))
        return
    directory = os.path.dirname(path)
    if os.path.islink(path) or not os.path.isdir(directory):
        raise _explain(path, option, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise _explain(path, option, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def adopt(descriptor: int, place: str) -> LogFile:
    """A log that was opened by the master, under a number where the application will not meet it."""
    log = LogFile(far_up(descriptor), _name(place), syslog=SYSLOG_SOCKET if place == SYSLOG else "")
    os.close(descriptor)
    return log


def _name(place: str) -> str:
    return "stdout" if place == "-" else place


def open_anew(path: str, option: str) -> int:
    """Open the file at an absolute path, or make it; returns a descriptor.

    Raises `ConfigurationError` or `PermissionProblem`, naming the path and the mend.
    """
    try:
        # For writing only: an application that finds the descriptor may not read what others wrote.
        return _open(path, os.O_WRONLY)
    except OSError as problem:
        if problem.errno != errno.ENXIO:
            raise _explain(path, option, problem) from None
    try:
        # A named pipe that nobody reads yet, fifo(7): its lines wait for whoever will. A socket says ENXIO again.
        return _open(path, os.O_RDWR)
    except OSError as problem:
        if problem.errno == errno.EACCES:
            raise PermissionProblem(
                f"{option} {path} cannot be opened: it is a named pipe that nobody reads, and who may only write to it "
                f"cannot hold it open: start its reader first, or let {user_name(os.geteuid())} read it"
            ) from None
        raise _explain(path, option, problem) from None


def _open(path: str, access: int) -> int:
    return open_file(path, _FLAGS | access, _MODE)


def _explain(path: str, option: str, problem: OSError) -> PreforkError:
    directory = os.path.dirname(path)
    start = f"{option} {path} cannot be opened: "
    if isinstance(problem, Untrusted):
        return PermissionProblem(f"{start}{problem.strerror}")
    match problem.errno:
        case errno.ENOENT if os.path.isdir(directory):
            return ConfigurationError(f"{start}it is a symbolic link to where there is nothing")
        case errno.ENOENT | errno.ENOTDIR:
            return ConfigurationError(f"{start}there is no directory {directory}: {create(directory)}")
        case errno.EISDIR:
            return ConfigurationError(f"{start}it is a directory; name a file in it, as {path}/prefork.log")
        case errno.ENXIO:
            return ConfigurationError(
                f"{start}it is a socket; stderr, - (standard output) and syslog are written as such"
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return PermissionProblem(f"{start}{problem.strerror}; {_elsewhere(path)}")
    return ConfigurationError(f"{start}{problem.strerror}")


def _elsewhere(path: str) -> str:
    """The mend for a file that may not be opened."""
    me = user_name(os.geteuid())
    if os.path.isfile(path):
        owner = user_name(os.stat(path).st_uid)
        return f"it is {owner}'s, and {me} may not write to it: name another file, or start as {owner}"
    return f"{me} may not make it: {own_directory(path, '/var/log', 'LogsDirectory')}"


def _own_description(number: int) -> int:
    """A description of our own of what standard output or error is, where that matters."""
    try:
        mode = os.fstat(number).st_mode
    except OSError:  # started with it closed: there is nobody to tell
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(number)):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            # By this name open(2) makes a new description of the same pipe or terminal (proc(5)).
            return os.open(f"/proc/self/fd/{number}", flags)
        except OSError:
            pass  # it belongs to another user, from before a su(1)
        try:
            os.tcgetpgrp(number)  # raises unless it is the terminal of our session, tty(4)
            return os.open("/dev/tty", flags)
        except OSError:
            pass  # written with more care, see LogFile
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)


def _connect(path: str, option: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(path)
        except OSError as problem:
            raise ConfigurationError(
                f"{option} is syslog, and there is none at {path} ({problem.strerror}): "
                "start a syslog daemon, or let the log go to stderr or a file"
            ) from None
        return fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
