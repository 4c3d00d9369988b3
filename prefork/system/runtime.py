"""Where servers keep their control sockets, so that both sides look in the same places.

The first of these that is there and may be written to: the directory that systemd made for the unit
($RUNTIME_DIRECTORY), /run/prefork for root, the user's own ($XDG_RUNTIME_DIR). Each server's socket bears its pid.
What a server that was killed has left there is removed by the next one that starts.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prefork.errors import PreforkError
from prefork.system.probe import Found, probe

__all__ = ["choose_path", "find_doors", "sweep"]

_FOR_ROOT: Final = Path("/run/prefork")
_SERVICES: Final = Path("/run")  # where systemd makes the directories of units
_NAME: Final = re.compile(r"prefork-([1-9][0-9]{0,9})\.sock")
_MOST_FOUND: Final = 256


def choose_path(environ: Mapping[str, str], *, root: Path = _FOR_ROOT) -> str | None:
    """The path for this process's control socket; None where there is no directory for it."""
    for directory in _own_directories(environ, root):
        if directory == root:
            with suppress(OSError):
                directory.mkdir(mode=0o755, exist_ok=True)
        if _is_ours(directory):
            return str(directory / f"prefork-{os.getpid()}.sock")
    return None


def sweep(directory: Path) -> None:
    """Remove the sockets of servers that do not run any more."""
    for path in _doors_in(directory):
        found = _NAME.fullmatch(path.name)
        # Both: one that is being born does not listen yet, and one of another pid namespace is not in /proc.
        if found and not Path("/proc", found[1]).exists():
            with suppress(OSError, PreforkError):
                if path.is_socket() and probe(str(path), socket.SOCK_SEQPACKET).found is Found.DEAD:
                    path.unlink()


def find_doors(environ: Mapping[str, str], *, root: Path = _FOR_ROOT, services: Path = _SERVICES) -> list[str]:
    """The paths of what may be control sockets, in all places where servers keep them; dead ones too."""
    places = [*_own_directories(environ, root), root]
    with suppress(OSError):
        places += sorted(path for path in services.iterdir() if path.is_dir())
    found: dict[str, None] = {}
    for place in places:
        found.update(dict.fromkeys(str(path) for path in _doors_in(place)))
    return list(found)[:_MOST_FOUND]


def _own_directories(environ: Mapping[str, str], root: Path) -> Iterator[Path]:
    of_unit = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]  # systemd.exec(5): several, with colons between
    if of_unit.startswith("/"):
        yield Path(of_unit)
    if os.geteuid() == 0:
        yield root
    of_user = environ.get("XDG_RUNTIME_DIR", "")
    if of_user.startswith("/"):
        yield Path(of_user)


def _is_ours(directory: Path) -> bool:
    """Whether we may make a socket there, and nobody but us and root could take it away."""
    try:
        status = directory.stat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        return False
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (not shared or bool(status.st_mode & stat.S_ISVTX)) and os.access(directory, os.W_OK | os.X_OK)


def _doors_in(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return sorted(Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name))
    except OSError:
        return []
