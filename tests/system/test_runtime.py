"""Where control sockets are: both sides look in the same places, and what is dead is swept away."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.system.control import open_door
from prefork.system.runtime import choose_path, find_doors, sweep

NAME = f"prefork-{os.getpid()}.sock"


def test_the_units_own_directory_comes_first(folder: Path) -> None:
    """The first of several, as systemd writes them."""
    (folder / "unit").mkdir()
    environ = {"RUNTIME_DIRECTORY": f"{folder}/unit:/elsewhere", "XDG_RUNTIME_DIR": str(folder)}
    assert choose_path(environ, root=folder / "root") == f"{folder}/unit/{NAME}"


def test_the_users_directory_comes_last(folder: Path) -> None:
    """When there is no other that we may write to; a relative or missing one is none."""
    root = folder / "none" / "root"  # cannot be made
    environ = {"RUNTIME_DIRECTORY": "relative", "XDG_RUNTIME_DIR": str(folder)}
    assert choose_path(environ, root=root) == f"{folder}/{NAME}"
    assert choose_path({"XDG_RUNTIME_DIR": "relative"}, root=root) is None
    assert choose_path({"XDG_RUNTIME_DIR": f"{folder}/none"}, root=root) is None
    assert choose_path({}, root=root) is None


@pytest.mark.root
def test_roots_directory_is_made(folder: Path) -> None:
    """/run/prefork exists only once somebody needs it."""
    assert choose_path({"XDG_RUNTIME_DIR": str(folder)}, root=folder / "prefork") == f"{folder}/prefork/{NAME}"
    assert (folder / "prefork").is_dir()


def test_a_directory_where_others_may_write_is_none(folder: Path) -> None:
    """They could put their own socket in the place of ours. A sticky one, as /tmp, is safe."""
    (folder / "open").mkdir()
    environ = {"RUNTIME_DIRECTORY": str(folder / "open")}
    for mode, good in ((0o777, False), (0o770, False), (0o1777, True), (0o755, True)):
        (folder / "open").chmod(mode)
        found = choose_path(environ, root=folder / "none" / "root")
        assert (found is not None) is good


@pytest.mark.root
def test_a_directory_of_another_user_is_none(folder: Path) -> None:
    """Neither for root, nor where we may not write."""
    os.chown(folder, NOBODY, NOBODY)
    assert choose_path({"RUNTIME_DIRECTORY": str(folder)}, root=folder / "none" / "root") is None
    os.chown(folder, 0, 0)
    script = "from prefork.system.runtime import choose_path\nprint(choose_path({'RUNTIME_DIRECTORY': sys.argv[1]}))"
    assert run_apart(script, str(folder), user=NOBODY) == "None"


def test_what_can_be_found(folder: Path) -> None:
    """In the directories of units, of root and of the user, each once; nothing else that lies there."""
    for name in ("services/mysite", "root", "user"):
        (folder / name).mkdir(parents=True)
        (folder / name / "prefork-7.sock").touch()
        (folder / name / "prefork-x.sock").touch()
    environ = {"XDG_RUNTIME_DIR": str(folder / "user"), "RUNTIME_DIRECTORY": str(folder / "services" / "mysite")}
    found = find_doors(environ, root=folder / "root", services=folder / "services")
    assert sorted(found) == [f"{folder}/{name}/prefork-7.sock" for name in ("root", "services/mysite", "user")]
    assert find_doors({}, root=folder / "none", services=folder / "none") == []


def test_the_dead_are_swept(folder: Path) -> None:
    """A socket that refuses, of a pid that is gone. The living, other names, and what is no socket, stay."""
    for name in ("prefork-999999999.sock", f"prefork-{os.getpid()}.sock", "other.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(folder / name))
    (folder / "prefork-999999998.sock").touch()
    door, mark = open_door(str(folder / "prefork-999999997.sock"))  # of another pid namespace
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "prefork-999999996.sock"))
        other.listen()
        sweep(folder)
    mark.unlink()
    door.close()
    left = {"prefork-999999998.sock", "prefork-999999996.sock", f"prefork-{os.getpid()}.sock", "other.sock"}
    assert set(os.listdir(folder)) == left
