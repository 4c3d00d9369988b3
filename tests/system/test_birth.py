"""How a socket file comes into the world, watched at every step."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from apart import NOBODY, run_apart
from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.birth import Access, Birthmark, bind_path


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "app.sock")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666, 0o777, 0o200])
def test_the_mode_is_exact_under_every_umask(path: str, umask: int, mode: int) -> None:
    """The file has the mode that was asked for, and the umask is afterwards what it was."""
    before = os.umask(umask)
    try:
        listener, _ = bind_path(path, Access(mode))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    listener.close()
    assert stat.S_IMODE(os.lstat(path).st_mode) == mode


@pytest.mark.root
def test_no_group_holds_permissions_that_were_not_meant_for_it(path: str) -> None:
    """After every single call on the way the file is what it shall be, or narrower, and nobody can connect."""
    seen = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return" and os.path.lexists(path):
            status = os.lstat(path)
            with socket.socket(socket.AF_UNIX) as client:
                refused = client.connect_ex(path) != 0
            seen.add((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, refused))

    sys.setprofile(look)
    try:
        listener, _ = bind_path(path, Access(0o660, NOBODY, 33))
    finally:
        sys.setprofile(None)
    listener.close()
    assert seen == {(0o600, 0, 0, True), (0o600, NOBODY, 33, True), (0o660, NOBODY, 33, True)}


@pytest.mark.parametrize("mode", [0, -1, 0o1000, 0o4755])
def test_a_mode_out_of_range_is_refused(mode: int) -> None:
    """Permission bits and nothing else; a mode of 0 admits nobody."""
    with pytest.raises(ConfigurationError, match="expected an octal mode"):
        Access.check(mode, None, None)


def test_names_are_resolved_and_unknown_ones_refused() -> None:
    """Names and numbers alike; what is not given stays unchanged."""
    assert Access.check(None, None, None) == Access(0o660, None, None)
    assert Access.check(0o600, str(os.geteuid()), str(os.getegid())) == Access(0o600, os.geteuid(), os.getegid())
    for owner, group in (("no-such-user", None), (None, "no-such-group")):
        with pytest.raises(ConfigurationError, match=r"there is no (user|group) 'no-such-"):
            Access.check(None, owner, group)


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "group", "heirs", "join"),
    [
        ("", "daemon", "group daemon", True),
        ("root", "", "owner root", False),
        ("root", "root", "owner root and group root", False),
    ],
)
def test_what_only_root_can_give_is_refused_to_others(owner: str, group: str, heirs: str, join: bool) -> None:
    """Before anything exists: who, to whom, and what mends it."""
    script = (
        "from prefork.system.birth import Access\nprint(Access.check(None, sys.argv[1] or None, sys.argv[2] or None))"
    )
    answer = run_apart(script, owner, group, user=NOBODY)
    assert answer.startswith(f"PermissionProblem nobody cannot give the socket to {heirs}: only root ")
    assert ("group's members may" in answer) is join
    assert ("usermod -aG daemon nobody" in answer) is join
    assert run_apart(script, "nobody", "nogroup", user=NOBODY).startswith("Access(mode=432,")


@pytest.mark.root
@pytest.mark.tool("setpriv")
@pytest.mark.parametrize("capability", ["chown", "fowner"])
def test_a_root_that_lacks_the_capability_leaves_nothing_behind(path: str, capability: str) -> None:
    """As in containers that drop it: an error, and no socket."""
    script = "from prefork.system.birth import *\nprint(bind_path(sys.argv[1], Access(0o660, 1, 1)))"
    less = ("setpriv", "--inh-caps", f"-{capability}", "--bounding-set", f"-{capability}")
    message = run_apart(script, path, command=less)
    assert message.startswith("PermissionProblem root cannot give the socket to owner daemon and group daemon: ")
    assert not os.path.lexists(path)


def test_an_occupied_path_is_left_alone(path: str) -> None:
    """Whatever came between claim and birth stays."""
    Path(path).write_text("precious")
    with pytest.raises(AddressInUse, match="now something stands there"):
        bind_path(path, Access())
    assert Path(path).read_text() == "precious"


def test_what_the_kernel_refuses_is_said(folder: Path) -> None:
    """A directory that vanished between claim and birth."""
    with pytest.raises(PermissionProblem, match="cannot be made: No such file"):
        bind_path(str(folder / "gone" / "app.sock"), Access())


def test_only_the_file_that_was_born_is_unlinked(path: str) -> None:
    """Not its successor of the same name; and nothing happens when it is gone."""
    listener, mark = bind_path(path, Access())
    os.rename(path, path + ".aside")
    successor, its_mark = bind_path(path, Access())
    mark.unlink()
    assert its_mark.matches(os.lstat(path))
    its_mark.unlink()
    its_mark.unlink()
    assert not os.path.lexists(path)
    listener.close()
    successor.close()


@pytest.mark.root
def test_a_link_in_the_place_of_the_file_is_not_followed(folder: Path, path: str) -> None:
    """Whoever may write to the directory cannot make root give away another file."""
    from prefork.system.birth import _hand_over

    victim = folder / "victim"
    victim.touch(mode=0o600)
    listener, mark = bind_path(path, Access())
    os.rename(path, path + ".aside")
    os.symlink(victim, path)
    with pytest.raises(AddressInUse, match="replaced"):
        _hand_over(mark, Access(0o666, NOBODY, NOBODY))
    os.unlink(path)
    with pytest.raises(PermissionProblem):
        _hand_over(Birthmark(path, 0, 0), Access(0o666, NOBODY, NOBODY))
    listener.close()
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o600)


@pytest.mark.root
def test_a_file_that_is_no_new_socket_of_ours_is_not_given_away(folder: Path, path: str) -> None:
    """Whoever is quick can exchange the file before its birthmark is taken: the mark alone proves nothing."""
    from prefork.system.birth import _hand_over

    def refused(name: str | Path) -> bool:
        before = os.lstat(name)
        mark = Birthmark(str(name), before.st_dev, before.st_ino)
        with pytest.raises(AddressInUse, match="replaced"):
            _hand_over(mark, Access(0o666, NOBODY, NOBODY))
        after = os.lstat(name)
        return (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)

    victim = folder / "shadow"
    victim.touch(mode=0o600)
    assert refused(victim)
    listener, mark = bind_path(path, Access())
    os.link(path, folder / "other")
    assert refused(path)
    os.unlink(folder / "other")
    os.chown(path, 1, 1)
    assert refused(path)
    os.chown(path, 0, 0)
    _hand_over(mark, Access(0o666, NOBODY, NOBODY))
    assert os.lstat(path).st_uid == NOBODY
    listener.close()
