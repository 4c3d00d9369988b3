"""The directory in which a socket shall live, before anything is made there.

Everything that bind(2) would answer with a bare errno is told here in words: the component at fault, what it is,
and the command that mends it.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.identity import group_name, user_name
from prefork.system.paths import walk

__all__ = ["check_length", "check_place", "warn_of_place"]

# sun_path, unix(7): 108 bytes with the NUL that ends a path or begins an abstract name.
_LONGEST: Final = 107

# What systemd-tmpfiles(8) and tmpreaper(8) empty from time to time.
_CLEANED: Final = ("/tmp", "/var/tmp")


def check_length(name: str, what: str) -> None:
    """Raise `ConfigurationError` for a path or abstract name that does not fit into a socket address."""
    length = len(os.fsencode(name))
    if length > _LONGEST:
        raise ConfigurationError(
            f"the {what} {name} is {length} bytes long, and a Unix socket's may have at most {_LONGEST}: "
            "choose a shorter one, as /run/app/app.sock"
        )


def check_place(path: str) -> None:
    """See that a socket can be made at the absolute ``path``, by this process.

    Raises `ConfigurationError` (too long, directory missing, no directory) or `PermissionProblem` (may not enter or
    write it), naming the first component at fault.
    """
    check_length(path, "socket path")
    directory = os.path.dirname(path)
    try:
        for step in walk(directory):
            if not stat.S_ISDIR(step.status.st_mode):
                raise ConfigurationError(f"{step.path}, on the way to the socket {path}, is no directory")
    except FileNotFoundError as problem:
        raise _missing(problem.filename, directory) from None
    except PermissionError as problem:
        raise _refused(os.path.dirname(problem.filename), "enter") from None
    except OSError as problem:
        raise ConfigurationError(f"the socket's directory {directory} cannot be used: {problem.strerror}") from None
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise PermissionProblem(
            f"the socket's directory {directory} is on a read-only file system: choose another, as /run"
        )
    raise _refused(directory, "write to")


def warn_of_place(path: str) -> tuple[str, ...]:
    """Warnings about a directory that is emptied by others now and then."""
    real = os.path.realpath(os.path.dirname(path))
    for place in _CLEANED:
        if real == place or real.startswith(place + "/"):
            warning = (
                f"{path} lies under {place}, which systemd-tmpfiles cleans and PrivateTmp= hides from nginx: "
                "prefer a directory under /run (systemd: RuntimeDirectory=)"
            )
            return (warning,)
    return ()


def _missing(component: str, directory: str) -> ConfigurationError:
    me, mine = user_name(os.geteuid()), group_name(os.getegid())
    what = f"the socket's directory {directory} does not exist"
    if component != directory:
        what += f" ({component} is missing)"
    systemd = ""
    for prefix in ("/run/", "/var/run/"):
        if directory.startswith(prefix):
            systemd = f", or RuntimeDirectory={directory.removeprefix(prefix)} in the systemd unit"
    return ConfigurationError(f"{what}: create it with `install -d -o {me} -g {mine} -m 0755 {directory}`{systemd}")


def _refused(directory: str, verb: str) -> PermissionProblem:
    status = os.stat(directory)
    me, mine = user_name(os.geteuid()), group_name(os.getegid())
    return PermissionProblem(
        f"{me} may not {verb} {directory} (mode {stat.S_IMODE(status.st_mode):04o}, "
        f"{user_name(status.st_uid)}:{group_name(status.st_gid)}), where the socket shall be: "
        f"`install -d -o {me} -g {mine} -m 0755 {directory}` as root gives it to {me}"
    )
