"""From one mode and owner to another, on a file that clients connect to all the while.

chmod(2) and chown(2) are two calls, so a file that gets another mode and another owner passes through states that are
neither. None of them admits anybody whom both ends refuse, and none refuses anybody whom both ends admit: the way
there is searched among all that there are (forty states). There is one wherever the owner may do at least what the
group may, and the group what others may; elsewhere a state on the way may refuse, and still none admits.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from prefork.errors import AddressInUse
from prefork.system.birth import Access, Birthmark
from prefork.system.paths import WRITE, Person

__all__ = ["Rights", "check_regrant", "regrant", "steps"]

_WRITERS: Final = (0o200, 0o020, 0o002)  # to connect is to write, unix(7)
_ALL_WRITERS: Final = sum(_WRITERS)
_SOMEBODY: Final = -1  # neither the owner before nor the one after


@dataclass(frozen=True, slots=True)
class Rights:
    """Permission bits, owner and group of a file."""

    mode: int
    owner: int
    group: int

    @classmethod
    def of(cls, status: os.stat_result) -> Rights:
        """Those that a file has."""
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def admits(self, person: Person) -> bool:
        """Whether this person may connect."""
        return person.granted(self.mode, self.owner, self.group, WRITE)


def steps(before: Rights, after: Rights) -> list[Rights]:
    """The states on the way and at its end. Each is one chmod(2) or one chown(2) from the one before it."""
    people = _people(before, after)
    either = {person: before.admits(person) or after.admits(person) for person in people}
    both = {person: before.admits(person) and after.admits(person) for person in people}

    def tight(state: Rights) -> bool:
        return all(either[person] for person in people if state.admits(person))

    def seamless(state: Rights) -> bool:
        return tight(state) and all(state.admits(person) for person in people if both[person])

    return _shortest(before, after, seamless, tight) or _shortest(before, after, tight, tight)


def _people(before: Rights, after: Rights) -> list[Person]:
    """Everybody for whom the two can differ."""
    both = (before.group, after.group)
    groups = [frozenset(some) for count in range(3) for some in itertools.combinations(both, count)]
    return [Person(uid, some) for uid in {before.owner, after.owner, _SOMEBODY} for some in groups]


def _shortest(
    before: Rights, after: Rights, passable: Callable[[Rights], bool], glimpsed: Callable[[Rights], bool]
) -> list[Rights]:
    """The way with the fewest steps over states that are passable; empty if there is none, or no need.

    One chown(2) changes the owner a moment before the group (setattr_copy, fs/attr.c), and who looks just then must
    find a state that may be ``glimpsed``.
    """
    common = before.mode & after.mode & ~_ALL_WRITERS
    writers = (sum(some) for count in range(4) for some in itertools.combinations(_WRITERS, count))
    modes = [after.mode, *(common | some for some in writers)]
    hands = list(itertools.product((after.owner, before.owner), (after.group, before.group)))
    ways: list[list[Rights]] = [[]]
    seen = {before}
    for way in ways:  # grows while it is walked: nearer states come first
        here = way[-1] if way else before
        if here == after:
            return way
        following = [replace(here, mode=mode) for mode in modes]
        following += [
            replace(here, owner=owner, group=group) for owner, group in hands if glimpsed(replace(here, owner=owner))
        ]
        for state in following:
            if state not in seen and passable(state):
                seen.add(state)
                ways.append([*way, state])
    return []


def check_regrant(mark: Birthmark, access: Access) -> None:
    """See that `regrant` would be allowed, by doing it to a file without a name. Raises `PermissionProblem`."""
    try:
        status = os.lstat(mark.path)
        wanted = _wanted(mark.path, access)
    except OSError:
        return  # it has vanished: its successor is born with what it shall have
    if not mark.matches(status):
        return
    now = Rights.of(status)
    trial = os.memfd_create("prefork-trial", os.MFD_CLOEXEC)
    try:
        _walk(f"/proc/self/fd/{trial}", Rights.of(os.fstat(trial)), [now, *steps(now, wanted)])
    except OSError as problem:
        raise access.problem(problem.strerror) from None
    finally:
        os.close(trial)


def regrant(mark: Birthmark, access: Access) -> None:
    """Give the living file at ``mark`` this mode, owner and group. Nothing, if the path leads elsewhere by now.

    Raises `PermissionProblem`; the file is then never more open than it was or shall be.
    """
    try:
        with mark.pin() as pin:
            now = Rights.of(os.fstat(pin))
            _walk(f"/proc/self/fd/{pin}", now, steps(now, _wanted(mark.path, access)))
    except (AddressInUse, FileNotFoundError, NotADirectoryError):
        return
    except OSError as problem:
        raise access.problem(problem.strerror) from None


def _wanted(path: str, access: Access) -> Rights:
    """What ``access`` comes to. An owner or group that is not named is the maker's, as a new file has them."""
    directory = os.stat(os.path.dirname(path))
    makers = directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()
    return Rights(
        access.mode,
        os.geteuid() if access.owner is None else access.owner,
        makers if access.group is None else access.group,
    )


def _walk(file: str, here: Rights, way: list[Rights]) -> None:
    for there in way:
        if (there.owner, there.group) != (here.owner, here.group):
            os.chown(file, there.owner, there.group)
        if there.mode != here.mode:
            os.chmod(file, there.mode)
        here = there
