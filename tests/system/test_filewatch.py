"""Files that are unlinked, renamed, replaced; and those to which nothing happens."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import run_apart
from prefork.system.filewatch import FileWatch


@pytest.fixture
def watch() -> Iterator[FileWatch]:
    watch = FileWatch()
    yield watch
    watch.close()


@pytest.fixture
def path(folder: Path) -> Iterator[str]:
    """A socket that is open for as long as the test lasts."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "app.sock"))
        yield str(folder / "app.sock")


def told(watch: FileWatch) -> bool:
    """Whether something happened since this was last asked: the kernel tells before the call returns that did it."""
    happened = bool(select.select([watch], [], [], 0)[0])
    watch.take()
    return happened


def test_what_happens_to_a_socket_is_told(watch: FileWatch, path: str) -> None:
    """Each way in which it can lose its path; once, until the next time."""
    assert watch.add(path)
    assert not told(watch)
    os.rename(path, path + ".aside")
    assert told(watch)
    assert not told(watch)
    os.rename(path + ".aside", path)
    assert told(watch)
    Path(path + ".other").touch()
    os.rename(path + ".other", path)
    assert told(watch)


def test_a_deletion_is_told_though_the_socket_is_open(watch: FileWatch, path: str) -> None:
    """Its successor is watched after it was added, and not before."""
    watch.add(path)
    os.unlink(path)
    assert told(watch)
    Path(path).touch()
    os.unlink(path)
    assert not told(watch)
    Path(path).touch()
    watch.add(path)
    os.unlink(path)
    assert told(watch)


def test_neighbours_and_clients_are_not_told_of(watch: FileWatch, folder: Path, path: str) -> None:
    """However busy the directory is, and the socket."""
    watch.add(path)
    for number in range(100):
        (folder / str(number)).touch()
        (folder / str(number)).unlink()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect_ex(path)
        os.lstat(path)
    assert not told(watch)


def test_a_link_is_not_followed(watch: FileWatch, folder: Path, path: str) -> None:
    """What it leads to is somebody else's."""
    (folder / "link").symlink_to(path)
    assert watch.add(str(folder / "link"))
    os.unlink(path)
    assert not told(watch)
    (folder / "link").unlink()
    assert told(watch)


def test_nothing_cannot_be_watched(watch: FileWatch, folder: Path) -> None:
    """Neither where there is no file, nor after the end."""
    assert not watch.add(str(folder / "nothing"))
    watch.close()
    watch.close()
    assert (watch.works, watch.fileno()) == (False, -1)
    assert not watch.add(str(folder))
    watch.take()


def test_without_room_for_it_nothing_is_told(path: str) -> None:
    """As where too many instances are in use."""
    script = (
        "import resource\n"
        "from prefork.system.filewatch import FileWatch\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))\n"
        "watch = FileWatch()\n"
        "print(watch.works, watch.add(sys.argv[1]))\n"
        "watch.close()\n"
    )
    assert run_apart(script, path) == "False False"


def test_no_program_that_is_executed_has_it(watch: FileWatch) -> None:
    """It is the master's alone."""
    assert not os.get_inheritable(watch.fileno())
