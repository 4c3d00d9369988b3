"""Whom the application runs as: users and groups by name or number, and the step that cannot be taken back.

* A number needs no entry in passwd or group; a user without an entry has no primary group, and unless one is named,
  that of nobody.
* `become` sets groups, then gid, then uid (each needs the privilege that the last one gives up), all three ids of
  each kind, and then proves that root is gone. It is called between fork and exec, never in a process that goes on
  as root.
* Without root nothing can change: asking for another identity is an error, asking for the one we have is not.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from typing import Final

import setproctitle

from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.paths import ENTER, READ, Person, Step, first_refusal, walk

__all__ = [
    "Identity",
    "become",
    "by_mode",
    "check_readable",
    "find_group",
    "find_user",
    "group_name",
    "resolve",
    "root_warning",
    "set_title",
    "user_name",
]

_LARGEST_ID: Final = 2**32 - 2  # 2^32 - 1 is "leave unchanged" to chown(2) and setresuid(2)
_NO_GROUP: Final = 65_534  # nogroup, or nobody: the kernel's own stand-in for a group that is none (overflowgid)


# Of the system or a user: the top of the tree, what is right below its branches, and these as a whole.
_NOT_OURS: Final = re.compile(
    r"/[^/]*|/(?!srv/|opt/|tmp/)[^/]+/[^/]+|/(?:boot|dev|etc|proc|root|run|sys|usr)/.*", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to run as: numbers for the kernel, names for people. ``groups`` holds the primary one too."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    user: str
    group: str

    @property
    def person(self) -> Person:
        """The same, as the rule of access sees it."""
        return Person(self.uid, frozenset((self.gid, *self.groups)))


def find_user(text: str) -> int:
    """The uid of a user given by name or number. Raises `ConfigurationError` for an unknown name."""
    number = _number(text, "user")
    if number is not None:
        return number
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ConfigurationError(
            f"there is no user {text!r}: create it (useradd --system {text}), or give an existing name or a number"
        ) from None


def find_group(text: str) -> int:
    """The gid of a group given by name or number. Raises `ConfigurationError` for an unknown name."""
    number = _number(text, "group")
    if number is not None:
        return number
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"there is no group {text!r}: create it (groupadd --system {text}), or give an existing name or a number"
        ) from None


def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group's name, or the number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def resolve(user: str | None, group: str | None) -> Identity | None:
    """The identity that ``user`` and ``group`` ask for; None where the process has it already.

    Raises `ConfigurationError` for unknown names and `PermissionProblem` where only root could change identity.
    """
    if user is None and group is None:
        return None
    uid = os.geteuid() if user is None else find_user(user)
    gid = _primary_group(uid, user) if group is None else find_group(group)
    if os.geteuid() != 0:
        _check_unchanged(uid, gid)
        return None
    try:
        groups = tuple(sorted({gid, *os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)}))
    except KeyError:
        groups = (gid,)
    return Identity(uid, gid, groups, user_name(uid), group_name(gid))


def become(identity: Identity) -> None:
    """Take on ``identity`` for good, and prove it. Raises `PermissionProblem`; the process must then not go on."""
    uid, gid = identity.uid, identity.gid
    try:
        os.setgroups(identity.groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as problem:
        raise PermissionProblem(
            f"cannot become user {identity.user} (uid {uid}, gid {gid}): {problem.strerror}; "
            "start as root with CAP_SETUID and CAP_SETGID, or as that user and without the user option"
        ) from problem
    _prove(identity)


def check_readable(identity: Identity | None, path: str, what: str, *, read_only: bool = False) -> None:
    """See that ``identity`` (None: the process as it is) can reach and read ``path``, a file or a directory.

    A file that is executable must be so for ``identity``, unless it is ``read_only``. ``what`` names it in messages
    ("the interpreter"). Raises `PermissionProblem` naming the first component on the way that refuses,
    `ConfigurationError` where the path does not exist.
    """
    person = _ourselves() if identity is None else identity.person
    name = user_name(person.uid)
    whole = os.path.abspath(path)
    try:
        *_, end = walk(whole)
        wanted = READ if read_only else _wanted(end.status)
    except OSError:
        wanted = READ  # what is on the way will tell more
    try:
        refusal = first_refusal(whole, person, wanted)
    except OSError as problem:
        raise ConfigurationError(f"{what} {path} cannot be used: {problem.filename}: {problem.strerror}") from None
    if refusal is None:
        return
    verb, bits = _lacking(refusal, person, wanted)
    raise PermissionProblem(
        f"{what} {path} is out of reach for user {name}: it may not {verb} {refusal.path} ({_looks(refusal)}). "
        f"Mend: put {what} where user {name} can read it, as below /srv{by_mode(refusal, person, bits)}"
    )


def by_mode(refusal: Step, person: Person, bits: str) -> str:
    """The second mend of a refusal, a change of mode (", or chmod …"); none for what is the system's or a home."""
    path = refusal.path
    try:
        home = pwd.getpwuid(refusal.status.st_uid).pw_dir
    except KeyError:
        home = ""
    if path == home or _NOT_OURS.fullmatch(path):
        return ""
    return f", or chmod {person.triad(refusal.status)}+{bits} {path}"


def root_warning(identity: Identity | None) -> str | None:
    """What to tell an operator whose application is about to run as root; None if it is not."""
    uid = os.geteuid() if identity is None else identity.uid
    if uid != 0:
        return None
    return (
        "the application will run as root: whoever takes it over owns this machine. "
        "Give it a user of its own: --user app --group app"
    )


def set_title(title: str) -> None:
    """What ps(1) and top(1) show for this process."""
    setproctitle.setproctitle(title)


def _number(text: str, what: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) > _LARGEST_ID:
        raise ConfigurationError(f"{what} {text} is no {what} number: expected 0 to {_LARGEST_ID}")
    return int(text)


def _primary_group(uid: int, user: str | None) -> int:
    if user is None:
        return os.getegid()
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:  # the group of the same number may be anybody's, root's must not be kept
        return _NO_GROUP if os.geteuid() == 0 else os.getegid()


def _check_unchanged(uid: int, gid: int) -> None:
    mine = os.geteuid(), os.getegid()
    if (uid, gid) != mine:
        raise PermissionProblem(
            f"only root can run the application as user {user_name(uid)}, group {group_name(gid)}: this process is "
            f"{user_name(mine[0])}, {group_name(mine[1])}. Start it as root, or leave user and group out"
        )


def _prove(identity: Identity) -> None:
    uid, gid = identity.uid, identity.gid
    taken = (*os.getresuid(), *os.getresgid(), *sorted(os.getgroups()))
    if taken != (uid, uid, uid, gid, gid, gid, *sorted(identity.groups)):
        raise PermissionProblem(f"asked to become {identity}, the kernel made it {taken}")
    if uid == 0:
        return
    try:
        os.setresuid(0, 0, 0)  # the capability to change back can survive in odd securebits(7)
    except PermissionError:
        return
    raise PermissionProblem(
        f"user {identity.user} could become root again: the process keeps CAP_SETUID across the change; "
        "start it without ambient capabilities and keep-caps"
    )


def _ourselves() -> Person:
    return Person(os.geteuid(), frozenset((os.getegid(), *os.getgroups())))


def _wanted(status: os.stat_result) -> int:
    if stat.S_ISDIR(status.st_mode):
        return READ | ENTER
    return ENTER if status.st_mode & 0o111 else READ


def _looks(step: Step) -> str:
    status = step.status
    return f"mode {stat.S_IMODE(status.st_mode):04o}, {user_name(status.st_uid)}:{group_name(status.st_gid)}"


def _lacking(refusal: Step, person: Person, wanted: int) -> tuple[str, str]:
    """What is refused, as a verb, and the mode bits that would grant it."""
    if not stat.S_ISDIR(refusal.status.st_mode):
        return ("read", "r") if wanted == READ else ("execute", "rx")
    return ("read", "rx") if person.may(refusal, ENTER) else ("enter", "x")
