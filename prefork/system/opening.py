"""Opening a file by a path on which root trusts nobody but root.

In a directory that belongs to somebody else every name may become a symbolic link at any moment, and root, who would
follow it, could be led to any file of the system. So root goes along the path a component at a time, each relative to
the descriptor of the directory before (path_resolution(7), openat(2)), and follows a link only if root made it. Nobody
can exchange what a descriptor stands for between the look and the step.

A hard link leads away as well, where the kernel lets strangers make one (proc_sys_fs(5), protected_hardlinks). In a
directory where others than root may write, a file of more than one name is opened only if it belongs to the
directory's owner, who could write to it without us.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

__all__ = ["Untrusted", "open_file"]

_MOST_LINKS: Final = 40  # as the kernel's own, path_resolution(7)
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(OSError):
    """What root refuses; ``strerror`` says it in words."""


def open_file(path: str, flags: int, mode: int) -> int:
    """As os.open of an absolute path; as root, over no link that somebody else made. Raises OSError, `Untrusted`."""
    if os.geteuid() != 0:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    place = os.open("/", _LOOK | os.O_DIRECTORY)
    links = 0
    try:
        left = _components(path)
        while True:
            name = left.pop(0) if left else "."
            if not left:
                found = _open_last(place, name, flags | os.O_CLOEXEC, mode)
                if found is not None:
                    return found
            following = os.open(name, _LOOK, dir_fd=place)
            target = _link(following, name, path)
            if target is None:
                os.close(place)
                place = following
                continue
            links += 1
            magic = _leads_on_by_itself(following)
            os.close(following)
            if magic and not left:
                return os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=place)
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            left = _components(target) + left
            if target.startswith("/"):
                os.close(place)
                place = os.open("/", _LOOK | os.O_DIRECTORY)
    finally:
        os.close(place)


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _open_last(directory: int, name: str, flags: int, mode: int) -> int | None:
    """Open, or make, what the last component names; None if that is a symbolic link."""
    try:
        found = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        return None
    status, around = os.fstat(found), os.fstat(directory)
    others = around.st_uid != 0 or around.st_mode & _OTHERS_MAY_WRITE
    theirs = status.st_uid == around.st_uid != 0
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and others and not theirs:
        os.close(found)
        raise Untrusted(
            errno.EMLINK,
            "it is a file with a second name (a hard link), in a directory where others than root may write: "
            "name a file of one name",
        )
    return found


def _link(descriptor: int, name: str, path: str) -> str | None:
    """Where this leads; None if it is no symbolic link. Closes the descriptor where it refuses."""
    status = os.fstat(descriptor)
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid == 0:
        return os.readlink("", dir_fd=descriptor)
    os.close(descriptor)
    what = "it" if name == os.path.basename(path) else f"{name}, on the way to it,"
    raise Untrusted(
        errno.ELOOP, f"{what} is a symbolic link that root did not make, and root follows none: name the file itself"
    )


def _leads_on_by_itself(link: int) -> bool:
    """Whether it is one of /proc, as /dev/stdout ends in: what it says need not be a path (proc(5), fd)."""
    try:
        return os.fstat(link).st_dev == os.stat("/proc").st_dev
    except OSError:
        return False
