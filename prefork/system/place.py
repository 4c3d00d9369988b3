"""The directory in which a socket shall live, before anything is made there.

Everything that bind(2) would answer with a bare errno is told here in words: the component at fault, what it is,
and the command that mends it. No mend gives away a directory that exists, which may be the system's: it makes a new
one.
"""

from __future__ import annotations

import os
import shlex
import stat
from typing import Final

from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.identity import group_name, user_name
from prefork.system.paths import walk

__all__ = ["check_length", "check_place", "create", "own_directory", "warn_of_place"]

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


def check_place(path: str, what: str = "socket") -> None:
    """See that a socket can be made at the absolute ``path``, by this process. ``what`` names it in messages.

    Raises `ConfigurationError` (too long, directory missing, no directory) or `PermissionProblem` (may not enter or
    write it), naming the first component at fault.
    """
    check_length(path, f"{what} path")
    directory = os.path.dirname(path)
    try:
        for step in walk(directory):
            if not stat.S_ISDIR(step.status.st_mode):
                raise ConfigurationError(f"{step.path}, on the way to the {what} {path}, is no directory")
    except FileNotFoundError as problem:
        raise _missing(problem.filename, directory, what) from None
    except PermissionError as problem:
        raise _refused(os.path.dirname(problem.filename), "enter", path, what) from None
    except OSError as problem:
        raise ConfigurationError(f"the {what}'s directory {directory} cannot be used: {problem.strerror}") from None
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise PermissionProblem(
            f"the {what}'s directory {directory} is on a read-only file system: choose another, as /run"
        )
    raise _refused(directory, "write to", path, what)


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


def own_directory(path: str, parent: str = "/run", setting: str = "RuntimeDirectory") -> str:
    """The mend for a file that may not be made at ``path``: a new directory below ``parent``, or one that is ours.

    ``setting`` is what systemd makes such a directory by.
    """
    file = os.path.basename(path) or "prefork"
    stem = file.partition(".")[0] or "prefork"
    for name in (stem, f"prefork-{stem}", f"prefork-{stem}-{user_name(os.geteuid())}"):
        directory = os.path.join(parent, name)
        if not os.path.lexists(directory):
            break
        if os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return f"name {directory}/{file}, where it may"
    else:
        return f"name a place in a directory of its own, below {parent}"
    return (
        f"make a directory of its own, as root {_install(directory)} (systemd: {setting}={name}), and name "
        f"{directory}/{file}"
    )


def create(directory: str) -> str:
    """The mend for a ``directory`` that does not exist: the command that makes it, and whether root must run it."""
    above = directory
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    ours = os.access(above, os.W_OK | os.X_OK, effective_ids=True)
    return f"create it{'' if ours else ', as root,'} with {_install(directory)}"


def _install(directory: str) -> str:
    me, mine = user_name(os.geteuid()), group_name(os.getegid())
    return f"`install -d -o {me} -g {mine} -m 0755 {shlex.quote(directory)}`"


def _missing(component: str, directory: str, what: str) -> ConfigurationError:
    start = f"the {what}'s directory {directory} does not exist"
    if component != directory:
        start += f" ({component} is missing)"
    systemd = ""
    for prefix in ("/run/", "/var/run/"):
        if directory.startswith(prefix):
            systemd = f", or RuntimeDirectory={directory.removeprefix(prefix)} in the systemd unit"
    return ConfigurationError(f"{start}: {create(directory)}{systemd}")


def _refused(directory: str, verb: str, path: str, what: str) -> PermissionProblem:
    status = os.stat(directory)
    return PermissionProblem(
        f"{user_name(os.geteuid())} may not {verb} {directory} (mode {stat.S_IMODE(status.st_mode):04o}, "
        f"{user_name(status.st_uid)}:{group_name(status.st_gid)}), where the {what} shall be: {own_directory(path)}"
    )
