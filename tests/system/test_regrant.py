"""The way from one mode and owner to another: every state on it, in theory and on a living file."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from apart import NOBODY, run_apart
from prefork.errors import PermissionProblem
from prefork.system.birth import Access, Birthmark, bind_path
from prefork.system.paths import Person
from prefork.system.regrant import Rights, check_regrant, regrant, steps

WRITERS = [sum(some) for count in range(4) for some in itertools.combinations((0o200, 0o020, 0o002), count)]
DESCENDING = [0o200, 0o220, 0o222, 0]
EVERYBODY = [
    Person(uid, frozenset(groups)) for uid in (1, 2, 3) for groups in ((), (11,), (12,), (11, 12), (13,), (11, 12, 13))
]
CHANGES = [
    pytest.param(Rights(0o660, 1, 11), Rights(0o660, 1, 11), 0, id="none"),
    pytest.param(Rights(0o660, 1, 11), Rights(0o666, 1, 11), 1, id="wider"),
    pytest.param(Rights(0o660, 1, 11), Rights(0o660, 2, 12), 1, id="handed-over"),
    pytest.param(Rights(0o660, 1, 11), Rights(0o600, 2, 11), 2, id="handed-over-and-narrower"),
    pytest.param(Rights(0o600, 1, 11), Rights(0o660, 2, 12), 3, id="handed-over-and-wider"),
    pytest.param(Rights(0o660, 1, 12), Rights(0o600, 2, 11), 3, id="a-member-becomes-the-owner"),
]


def everything() -> Iterator[tuple[Rights, Rights]]:
    for before, after in itertools.product(WRITERS, repeat=2):
        for owner, group in itertools.product((1, 2), (11, 12)):
            yield Rights(0o440 | before, 1, 11), Rights(0o500 | after, owner, group)


def glimpse(here: Rights, there: Rights) -> Rights:
    """What may be seen in the middle of a chown(2)."""
    return replace(here, owner=there.owner)


def test_no_state_on_any_way_admits_whom_both_ends_refuse() -> None:
    """Every change there is, every kind of person; and each state is one call away from the one before."""
    for before, after in everything():
        here = before
        for state in steps(before, after):
            assert (state.mode == here.mode) or (state.owner, state.group) == (here.owner, here.group)
            for seen, person in itertools.product((glimpse(here, state), state), EVERYBODY):
                if seen.admits(person):
                    assert before.admits(person) or after.admits(person), (before, seen, after, person)
            here = state
        assert here == after


def test_no_state_refuses_whom_both_ends_admit() -> None:
    """Wherever the group may do no more than the owner, and others no more than the group."""
    for before, after in everything():
        if {before.mode & 0o222, after.mode & 0o222} <= set(DESCENDING):
            for state in steps(before, after):
                for person in EVERYBODY:
                    if before.admits(person) and after.admits(person):
                        assert state.admits(person), (before, state, after, person)


@pytest.mark.parametrize(("before", "after", "count"), CHANGES)
def test_no_more_calls_than_needed(before: Rights, after: Rights, count: int) -> None:
    """One where one will do; the last of these would refuse the new owner, or admit his group, on any shorter way."""
    assert len(steps(before, after)) == count


@contextmanager
def watched(path: str, note: Callable[[os.stat_result], object]) -> Iterator[None]:
    """Look at a path from another thread for as long as the block lasts."""
    over, looked = threading.Event(), threading.Event()

    def look() -> None:
        while not over.is_set():
            note(os.lstat(path))
            looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        looked.wait()
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def accepting(listener: socket.socket) -> Iterator[None]:
    """Accept and close whatever comes for as long as the block lasts."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def born(folder: Path) -> Iterator[Birthmark]:
    """A listening socket of root's, 0660."""
    listener, mark = bind_path(str(folder / "app.sock"), Access(0o660))
    listener.listen(64)
    yield mark
    listener.close()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_mode_changes_at_once(born: Birthmark, umask: int) -> None:
    """From one to the other and back, under any umask, in one call."""
    seen: set[int] = set()
    before = os.umask(umask)
    try:
        with watched(born.path, lambda status: seen.add(stat.S_IMODE(status.st_mode))):
            for mode in (0o600, 0o666, 0o660):
                check_regrant(born, Access(mode))
                regrant(born, Access(mode))
                assert stat.S_IMODE(os.lstat(born.path).st_mode) == mode
    finally:
        os.umask(before)
    assert seen <= {0o600, 0o666, 0o660}


@pytest.mark.root
def test_the_living_file_takes_no_other_way(born: Birthmark) -> None:
    """Looked at after every call, and from another thread all the while: only the states that were worked out."""
    seen: set[Rights] = set()
    glimpsed: set[Rights] = set()

    def look(_frame: FrameType, event: str, _argument: Any) -> None:
        if event == "c_return":
            seen.add(Rights.of(os.lstat(born.path)))

    allowed = {Rights(0o660, 0, 0)}
    middles = set()
    ends = [Access(0o666, NOBODY, 33), Access(0o600, 33, 1), Access(0o660, NOBODY, 33), Access(0o660)]
    before = Rights(0o660, 0, 0)
    for end in ends:
        after = Rights(end.mode, end.owner or 0, end.group or 0)
        for state in steps(before, after):
            middles.add(glimpse(before, state))
            allowed.add(state)
            before = state
    with watched(born.path, lambda status: glimpsed.add(Rights.of(status))):
        for end in ends:
            sys.setprofile(look)
            try:
                regrant(born, end)
            finally:
                sys.setprofile(None)
    assert seen == allowed
    assert glimpsed <= allowed | middles
    assert Rights.of(os.lstat(born.path)) == Rights(0o660, 0, 0)


@pytest.mark.root
@pytest.mark.parametrize(
    ("before", "after", "user", "groups"),
    [
        (Access(0o660, 0, NOBODY), Access(0o600, NOBODY, 0), NOBODY, [NOBODY]),
        (Access(0o600, NOBODY, 0), Access(0o660, 0, NOBODY), NOBODY, [NOBODY]),
        (Access(0o666), Access(0o660, 33, NOBODY), 1, [NOBODY]),
    ],
    ids=["group-to-owner", "owner-to-group", "others-to-group"],
)
def test_who_may_connect_before_and_after_may_all_the_while(
    folder: Path, before: Access, after: Access, user: int, groups: list[int]
) -> None:
    """A user without a rest connects over and over while the file goes to and fro; no connect is refused."""
    path = str(folder / "app.sock")
    listener, mark = bind_path(path, before)
    listener.listen(4096)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setresgid(groups[0], groups[0], groups[0])
            os.setresuid(user, user, user)
            status = hammer(path, tell)
        finally:
            os._exit(status)
    os.close(tell)
    with listener, accepting(listener):
        os.read(told, 1)
        for end in [after, before] * 200:
            regrant(mark, end)
        os.unlink(path)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(told)


def hammer(path: str, tell: int) -> int:
    """Connect until the path is gone: 0 if every connect before that was taken; 2 if nobody was let in."""
    count = 0
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            refused = client.connect_ex(path)
        if refused == errno.ENOENT:
            return 0 if count else 2
        if refused:
            return 3
        count += 1
        if count == 1:
            os.write(tell, b"x")


def test_another_file_at_the_path_is_left_alone(born: Birthmark) -> None:
    """Whatever took the place of ours: a file, a link, or nothing."""
    places: list[Callable[[], None]] = [
        lambda: Path(born.path).touch(0o640),
        lambda: os.symlink("victim", born.path),
        lambda: None,
    ]
    for put in places:
        os.unlink(born.path) if os.path.lexists(born.path) else None
        put()
        Path(born.path).with_name("victim").touch(0o640)
        regrant(born, Access(0o666))
        check_regrant(born, Access(0o666))
        assert stat.S_IMODE(Path(born.path).with_name("victim").stat().st_mode) == 0o640
        if os.path.lexists(born.path) and not os.path.islink(born.path):
            assert stat.S_IMODE(os.lstat(born.path).st_mode) == 0o640


@pytest.mark.root
def test_who_is_not_named_is_the_maker(folder: Path, born: Birthmark) -> None:
    """As for a new file: the process's own user and group, or the directory's group where that is set-gid."""
    regrant(born, Access(0o660, NOBODY, 33))
    regrant(born, Access(0o660))
    assert os.lstat(born.path)[4:6] == (0, 0)
    os.chown(folder, 0, 33)
    folder.chmod(0o2755)
    regrant(born, Access(0o660))
    assert os.lstat(born.path)[4:6] == (0, 33)


REGRANT = """
from prefork.system.birth import *
from prefork.system.regrant import *
listener, mark = bind_path(sys.argv[1], Access(0o660))
wanted = Access(0o600, *(int(each) if each else None for each in sys.argv[2:4]))
check_regrant(mark, wanted)
regrant(mark, wanted)
listener.close()
print("done")
"""


@pytest.mark.root
@pytest.mark.tool("setpriv")
def test_what_the_system_refuses_is_found_before_anything_is_changed(folder: Path) -> None:
    """A root that may not give files away, and a user; what each may do is done."""
    path = str(folder / "app.sock")
    less = ("setpriv", "--inh-caps", "-chown", "--bounding-set", "-chown")
    message = run_apart(REGRANT, path, "1", "", command=less)
    assert message.startswith("PermissionProblem root cannot give the socket to owner daemon: ")
    assert Rights.of(os.lstat(path)) == Rights(0o660, 0, 0)
    os.unlink(path)
    folder.chmod(0o777)
    message = run_apart(REGRANT, path, "", "1", user=NOBODY)
    assert message.startswith("PermissionProblem nobody cannot give the socket to group daemon: ")
    assert Rights.of(os.lstat(path)) == Rights(0o660, NOBODY, NOBODY)
    os.unlink(path)
    assert run_apart(REGRANT, path, "", str(NOBODY), user=NOBODY) == "done"
    assert Rights.of(os.lstat(path)) == Rights(0o600, NOBODY, NOBODY)


@pytest.mark.root
def test_what_another_put_at_the_path_is_not_asked_about(folder: Path) -> None:
    """A user's socket was replaced by a file of root's: whether that could be changed is of no interest."""
    path = str(folder / "app.sock")
    folder.chmod(0o777)
    script = REGRANT.replace(
        "check_regrant", "os.unlink(mark.path); os.symlink('/etc/passwd', mark.path)\ncheck_regrant", 1
    )
    assert run_apart(script, path, "", str(NOBODY), user=NOBODY) == "done"
    assert os.readlink(path) == "/etc/passwd"


def test_a_refusal_while_it_is_done_is_ours(born: Birthmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was allowed when it was checked, and is not any more."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(PermissionProblem, match="Operation not permitted"):
        regrant(born, Access(0o600))
