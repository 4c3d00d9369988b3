"""Whether nginx can connect to a socket, told at the start instead of by a 502 later.

connect(2) to a Unix socket needs ``x`` on every directory on the way and write permission on the socket. nginx's
workers are looked up in /proc, and the rule is applied to what the kernel says they are: their uid, gid and
supplementary groups. A group that nginx's user was added to since counts only after nginx itself is restarted: its
workers take their groups when they start.

The verdict says what is known and no more: processes hidden from us, a container of nginx's own and directories that
we may not look into are *unknown*. Security modules are not looked at.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from prefork.system.birth import Access
from prefork.system.identity import by_mode, group_name, user_name
from prefork.system.paths import ENTER, WRITE, Person, Step, first_refusal, walk

__all__ = ["NginxWorker", "Reach", "Verdict", "diagnose", "find_workers"]

_COMM: Final = b"nginx"
_TITLE: Final = b"nginx: worker process"
_LEAVING: Final = b"nginx: worker process is shutting down"
_USUAL_USERS: Final = ("www-data", "nginx", "http", "www")  # Debian; nginx.org, Fedora, Alpine; Arch; BSD habits
_NUMBERS: Final = (b"Uid", b"Gid", b"Groups")
_FILE_SYSTEM: Final = 3  # real, effective, saved, and the one that file access is judged by, proc_pid_status(5)
_NOTE: Final = 4096  # more than any file that is read here needs


class Reach(Enum):
    """Can nginx connect?"""

    OK = auto()
    BLOCKED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, a sentence for people, and what to do about it (empty if nothing)."""

    reach: Reach
    sentence: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.sentence}. {self.mend}" if self.mend else self.sentence


@dataclass(frozen=True, slots=True)
class NginxWorker:
    """One running worker process of nginx, as /proc shows it."""

    pid: int
    gid: int
    person: Person

    def __str__(self) -> str:
        return f"nginx (running as {user_name(self.person.uid)})"


@dataclass(frozen=True, slots=True)
class _Socket:
    """What stands at the path, or will."""

    path: str
    mode: int
    uid: int
    gid: int
    file: Step | None  # None: not there yet
    passed: bool = False  # by another process, which decides over its mode and owner

    def admits(self, person: Person) -> bool:
        if self.file is not None:
            return person.may(self.file, WRITE)
        return person.granted(self.mode, self.uid, self.gid, WRITE)

    def __str__(self) -> str:
        return f"mode {stat.S_IMODE(self.mode):04o}, {user_name(self.uid)}:{group_name(self.gid)}"


def diagnose(
    path: str, access: Access | None = None, workers: Iterable[NginxWorker] | None = None, *, passed: bool = False
) -> Verdict:
    """Whether nginx can connect to the socket at an absolute ``path``.

    With ``access``, to one that is yet to be made there. ``workers`` are those of all the nginx that run, unless given.
    ``passed``: another process made it.
    """
    workers = list(find_workers() if workers is None else workers)
    try:
        return _diagnose(_look(path, passed) if access is None else _foresee(path, access), workers)
    except OSError as problem:
        return Verdict(Reach.UNKNOWN, f"whether nginx can connect is unknown: {problem.filename}: {problem.strerror}")


def _diagnose(target: _Socket, workers: list[NginxWorker]) -> Verdict:
    near = [worker for worker in workers if _shares_root(worker.pid)]
    if not near:
        return _without_nginx(target, workers, _USUAL_USERS)
    near = [worker for worker in near if worker.person.uid] or near
    verdicts = [_judge(target, str(worker), worker.person, worker.gid, worker.pid) for worker in near]
    # Several servers may run here; one that gets through is the one this socket is for. root's always does, which
    # says nothing of the others.
    return min(verdicts, key=lambda verdict: (Reach.OK, Reach.BLOCKED, Reach.UNKNOWN).index(verdict.reach))


def find_workers() -> Iterator[NginxWorker]:
    """Worker processes of nginx, as far as /proc shows them, without those that are shutting down."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (worker := _recognise(name)) is not None:
            yield worker


def _recognise(pid: str) -> NginxWorker | None:
    try:
        if _read(pid, "comm").rstrip(b"\n") != _COMM:
            return None
        title = _read(pid, "cmdline")
        if not title.startswith(_TITLE) or title.startswith(_LEAVING):
            return None
        return _read_worker(int(pid))
    except (OSError, KeyError):
        return None  # gone, or hidden (hidepid)


def _read(pid: str, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as text:
        return text.read(_NOTE)


def _read_worker(pid: int) -> NginxWorker:
    lines = (line.partition(b":") for line in _read(str(pid), "status").splitlines())
    fields = {name: [int(word) for word in rest.split()] for name, _, rest in lines if name in _NUMBERS}
    gid = fields[b"Gid"][_FILE_SYSTEM]
    return NginxWorker(pid, gid, Person(fields[b"Uid"][_FILE_SYSTEM], frozenset((gid, *fields[b"Groups"]))))


def _look(path: str, passed: bool) -> _Socket:
    *_, step = walk(path)
    return _Socket(path, step.status.st_mode, step.status.st_uid, step.status.st_gid, step, passed)


def _foresee(path: str, access: Access) -> _Socket:
    directory = os.stat(os.path.dirname(path))
    born_in = directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()
    uid = os.geteuid() if access.owner is None else access.owner
    gid = born_in if access.group is None else access.group
    return _Socket(path, access.mode, uid, gid, None)


def _judge(target: _Socket, who: str, person: Person, gid: int, pid: int | None) -> Verdict:
    directory = os.path.dirname(target.path)
    refusal = first_refusal(directory, person, ENTER)
    if refusal is not None:
        status = refusal.status
        looks = f"mode {stat.S_IMODE(status.st_mode):04o}, {user_name(status.st_uid)}:{group_name(status.st_gid)}"
        return Verdict(
            Reach.BLOCKED,
            f"{who} cannot reach {target.path}: it may not enter {refusal.path} ({looks})",
            f"Put the socket where it may enter, as under /run{by_mode(refusal, person, 'x')}",
        )
    if pid is not None and not _sees_same(pid, directory):
        return Verdict(
            Reach.BLOCKED,
            f"{who} cannot reach {target.path}: its {directory} is another directory (a mount namespace, PrivateTmp=)",
            "Put the socket under /run",
        )
    if target.admits(person):
        return Verdict(Reach.OK, f"{who} can connect to {target.path} ({target})")
    return Verdict(Reach.BLOCKED, f"{who} may not connect to {target.path} ({target})", _admission(target, person, gid))


def _admission(target: _Socket, person: Person, gid: int) -> str:
    """How a socket with the wrong mode or group is opened to ``person``."""
    if target.passed:
        return f"Whoever passed it sets mode and group (systemd: SocketMode=0660, SocketGroup={group_name(gid)})"
    if person.uid == target.uid or target.gid in person.groups:
        return f"Its mode forbids it: --socket-mode {stat.S_IMODE(target.mode) | 0o220:o}"
    mode = "" if target.mode & 0o020 else f" --socket-mode {stat.S_IMODE(target.mode) | 0o060:o}"
    mend = f"Give the socket to its group: --socket-group {group_name(gid)}{mode}"
    if os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        me = user_name(os.geteuid())
        mend += f" (after usermod -aG {group_name(gid)} {me}, and a new login of {me})"
    if target.gid == 0:
        return mend  # nobody should be told to join root's group
    joins = f"usermod -aG {group_name(target.gid)} {user_name(person.uid)}"
    return f"{mend}; or {joins} and restart nginx, whose workers take their groups when they start"


def _without_nginx(target: _Socket, elsewhere: list[NginxWorker], users: tuple[str, ...]) -> Verdict:
    """Nobody to ask: what the distribution's user for nginx could do."""
    if elsewhere:
        reason = f"{elsewhere[0]} has another root directory, a container's perhaps (pid {elsewhere[0].pid})"
    else:
        reason = "no worker process of nginx is to be seen"
    for name in users:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        person = Person(entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))
        guess = _judge(target, f"the user {name}", person, entry.pw_gid, None)
        return Verdict(Reach.UNKNOWN, f"{reason}; {guess.sentence}", guess.mend)
    return Verdict(Reach.UNKNOWN, f"{reason}; the socket {target.path} has {target}")


def _shares_root(pid: int) -> bool:
    """Whether a process has our root directory; taken for granted where we may not look (ptrace(2) rights)."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/"))
    except OSError:
        return True


def _sees_same(pid: int, directory: str) -> bool:
    """Whether a process finds the same directory at this path; taken for granted where we may not look."""
    real = os.path.realpath(directory)  # a link would be resolved against our own root
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root{real}"), os.stat(real))
    except PermissionError:
        return True
    except OSError:
        return not os.path.isdir(f"/proc/{pid}")  # a process that has gone has no say
