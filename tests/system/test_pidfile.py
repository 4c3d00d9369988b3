"""The pid file: what it promises, whom it respects, and what becomes of it."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system.pidfile import PidFile


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "server.pid"


@pytest.fixture
def other() -> Iterator[int]:
    """A process that lives, and is not ours."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_it_appears_whole_and_readable(path: Path, umask: int) -> None:
    """With our pid and mode 0644 whatever the umask, and nothing else in the directory."""
    before = os.umask(umask)
    try:
        file = PidFile(str(path))
        file.check()
        assert not path.exists()
        file.write()
    finally:
        os.umask(before)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{os.getpid()}\n", 0o644)
    assert os.listdir(path.parent) == [path.name]
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize("left", ["", "\n", "999999999\n", "{own}", "{dead}\n"])
def test_what_was_left_behind_is_replaced(path: Path, left: str) -> None:
    """A pid of nobody, our own, none at all."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    path.write_text(left.format(own=os.getpid(), dead=process.pid))
    file = PidFile(str(path))
    file.check()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_zombie_is_nobody(path: Path) -> None:
    """It has ended, though nobody has looked."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        path.write_text(f"{process.pid}\n")
        PidFile(str(path)).check()


def test_the_file_of_a_live_process_is_respected(path: Path, other: int) -> None:
    """69, at the start and again at the moment of writing."""
    path.write_text(f"{other}\n")
    for act in (PidFile(str(path)).check, PidFile(str(path)).write):
        with pytest.raises(AddressInUse, match=f"names pid {other}, which is alive: stop that server first"):
            act()
    assert path.read_text() == f"{other}\n"
    assert os.listdir(path.parent) == [path.name]


def test_a_pid_that_was_used_again(path: Path, other: int) -> None:
    """A process younger than the file is not the one it means."""
    path.write_text(f"{other}\n")
    os.utime(path, (time.time() - 3600,) * 2)
    PidFile(str(path)).check()


@pytest.mark.parametrize("content", ["root:x:0:0:root:/root:/bin/bash\n", "12 13\n", "-1\n", "x"])
def test_other_files_are_left_alone(path: Path, content: str) -> None:
    """Whoever mistypes a path loses no file."""
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="holds no pid, so it is no pid file"):
        PidFile(str(path)).check()
    assert path.read_text() == content


def test_what_is_no_file(path: Path) -> None:
    """Directories, pipes and links are not followed, opened for ever, or replaced."""
    path.mkdir()
    with pytest.raises(ConfigurationError, match="holds no pid"):
        PidFile(str(path)).check()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="holds no pid"):
        PidFile(str(path)).check()
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="is a symbolic link; remove it"):
        PidFile(str(path)).check()


def test_a_directory_that_is_missing_or_none(folder: Path) -> None:
    """Found at the start, with the mend."""
    with pytest.raises(ConfigurationError, match=f"directory {folder}/none does not exist: create it with `install -d"):
        PidFile(str(folder / "none" / "pid")).check()
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match=f"directory {folder}/file is no directory"):
        PidFile(str(folder / "file" / "pid")).check()


@pytest.mark.root
def test_a_directory_of_somebody_else(path: Path) -> None:
    """Found at the start, too."""
    script = "from prefork.system.pidfile import PidFile\nPidFile(sys.argv[1]).check()"
    said = run_apart(script, str(path), user=NOBODY)
    assert said.startswith(f"PermissionProblem nobody may not write to {path.parent}")
    assert "make a directory of its own, as root `install -d -o nobody -g nogroup -m 0755 /run/" in said
    path.write_text("1\n")
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert "cannot be read: Permission denied" in run_apart(script, str(path), user=NOBODY)


def test_a_write_that_fails_leaves_nothing(path: Path) -> None:
    """The directory went away since it was looked at."""
    file = PidFile(str(path))
    file.check()
    path.parent.rename(f"{path.parent}.moved")
    try:
        with pytest.raises(PermissionProblem, match="cannot be written: No such file or directory"):
            file.write()
    finally:
        Path(f"{path.parent}.moved").rename(path.parent)


def test_a_draft_of_an_earlier_life_is_no_obstacle(path: Path) -> None:
    """Killed between two system calls, and the pid used again."""
    Path(f"{path}.{os.getpid()}").write_text("half")
    PidFile(str(path)).write()
    assert os.listdir(path.parent) == [path.name]


def test_only_our_own_file_is_removed(path: Path) -> None:
    """Somebody else's in its place stays; one that is gone is no trouble; none is removed that was not written."""
    file = PidFile(str(path))
    file.write()
    path.unlink()
    file.remove()
    file.write()
    path.rename(path.with_suffix(".kept"))
    path.write_text("1\n")
    file.remove()
    PidFile(str(path)).remove()
    assert path.read_text() == "1\n"


def test_a_relative_path_counts_from_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the process goes later."""
    monkeypatch.chdir(path.parent)
    file = PidFile(path.name)
    monkeypatch.chdir("/")
    file.write()
    assert path.exists()
