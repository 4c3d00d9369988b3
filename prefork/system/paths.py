"""The kernel's rule of access, worked out for somebody else.

access(2) answers for the calling process alone. Here the question is what another identity may do: the workers'
user before they are forked, nginx's workers as seen by a master without privileges.

* The way to a file is walked as path_resolution(7) does it: every directory on the way needs ``x``, symbolic
  links are followed and need nothing themselves.
* Owner, named users (acl(5)), groups, others: the first class that matches decides, even where a later one
  would have granted. uid 0 passes everywhere (CAP_DAC_OVERRIDE is assumed).
* Not looked at: security modules, file systems that map user ids, namespaces.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["ENTER", "READ", "WRITE", "Person", "Step", "absolute", "first_refusal", "walk"]

READ: Final = 4
WRITE: Final = 2
ENTER: Final = 1  # execute, for a file

_MAX_LINKS: Final = 40  # MAXSYMLINKS, linux/namei.h

# The on-disk form of an ACL, linux/posix_acl_xattr.h: version, then (tag, permissions, id) entries.
_ACL_ATTRIBUTE: Final = "system.posix_acl_access"
_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_VERSION: Final = 2
_USER: Final = 0x02
_GROUP_OWNER: Final = 0x04
_GROUP: Final = 0x08
_MASK: Final = 0x10
_GROUP_CLASS: Final = (_GROUP_OWNER, _GROUP)


_HERE: Final = re.compile(r"(?<=/)(?:\./)+")


def absolute(path: str, base: str | None = None) -> str:
    """``path`` from ``base`` (the current directory), without components ".", which mean nothing.

    ".." stays: after a symbolic link it is the parent of where that leads. A current directory that was deleted is
    not missed where ``path`` is whole.
    """
    if base is None:
        base = "" if os.path.isabs(path) else os.getcwd()
    return _HERE.sub("", os.path.join(base, path))


@dataclass(frozen=True, slots=True)
class Step:
    """One directory on the way, or the file at its end: the real path and its lstat(2)."""

    path: str
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody to whom access is granted or refused; ``groups`` holds the primary one too."""

    uid: int
    groups: frozenset[int]

    def triad(self, status: os.stat_result) -> str:
        """Which of the mode's three triads is this person's, as chmod(1) calls it: u, g or o."""
        if self.uid == status.st_uid:
            return "u"
        return "g" if status.st_gid in self.groups else "o"

    def may(self, step: Step, wanted: int) -> bool:
        """Whether every bit of ``wanted`` (READ, WRITE, ENTER) is granted at this step."""
        acl = _read_acl(step)
        return self.granted(step.status.st_mode, step.status.st_uid, step.status.st_gid, wanted, acl)

    def granted(
        self, mode: int, owner: int, group: int, wanted: int, acl: tuple[tuple[int, int, int], ...] = ()
    ) -> bool:
        """The rule itself, for a file that need not exist. ``acl`` holds (tag, permissions, id) entries."""
        if self.uid == 0:
            return True
        if self.uid == owner:
            return _covers(mode >> 6, wanted)
        # With an ACL the mode's group bits are its mask, and the owning group has an entry of its own.
        mask = mode >> 3
        for tag, permissions, number in acl:
            if tag == _USER and number == self.uid:
                return _covers(permissions & mask, wanted)
        classes = [
            permissions
            for tag, permissions, number in acl or ((_GROUP_OWNER, 7, group),)
            if tag in _GROUP_CLASS and (group if tag == _GROUP_OWNER else number) in self.groups
        ]
        if classes:
            return any(_covers(permissions & mask, wanted) for permissions in classes)
        return _covers(mode, wanted)


def walk(path: str) -> Iterator[Step]:
    """Every directory that the resolution of an absolute ``path`` enters, in order, then what it leads to.

    Raises the ``OSError`` of lstat(2), its ``filename`` naming the component, where the walk cannot go on.
    """
    pending = path.split("/")[::-1]
    here = "/"
    links = 0
    yield Step(here, os.stat(here))
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            yield Step(here, os.lstat(here))
            continue
        there = os.path.join(here, name)
        status = os.lstat(there)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), there)
            target = os.readlink(there)
            here = "/" if target.startswith("/") else here
            pending.extend(target.split("/")[::-1])
            continue
        here = there
        yield Step(here, status)


def first_refusal(path: str, person: Person, wanted: int) -> Step | None:
    """The first step towards ``path`` that ``person`` is refused, or None if all of ``wanted`` is granted at its end.

    Raises ``OSError`` as `walk` does, but only after everything before that point was found passable.
    """
    steps = walk(path)
    step = next(steps)
    while True:
        try:
            following = next(steps, None)
        except OSError:
            if not person.may(step, ENTER):
                return step
            raise
        if not person.may(step, wanted if following is None else ENTER):
            return step
        if following is None:
            return None
        step = following


def _covers(permissions: int, wanted: int) -> bool:
    return permissions & wanted == wanted


def _read_acl(step: Step) -> tuple[tuple[int, int, int], ...]:
    try:
        raw = os.getxattr(step.path, _ACL_ATTRIBUTE, follow_symlinks=False)
    except OSError:
        return ()  # ENODATA, ENOTSUP: the mode is all there is
    return _parse_acl(raw)


def _parse_acl(raw: bytes) -> tuple[tuple[int, int, int], ...]:
    """The entries of an ACL; none where the form is one that we do not know."""
    if len(raw) < _ACL_HEADER.size or _ACL_HEADER.unpack_from(raw)[0] != _ACL_VERSION:
        return ()
    entries = raw[_ACL_HEADER.size :]
    return tuple(_ACL_ENTRY.iter_unpack(entries[: len(entries) // _ACL_ENTRY.size * _ACL_ENTRY.size]))
