"""Where root can be led, and where not."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY
from prefork.system.opening import Untrusted, open_file

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture(autouse=True)
def no_descriptor_stays() -> Iterator[None]:
    """Whatever happens on the way."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def write(path: Path | str) -> None:
    descriptor = open_file(str(path), FLAGS, 0o640)
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    os.close(descriptor)


@pytest.mark.root
def test_a_strangers_link_above_the_file_is_not_followed(tmp_path: Path) -> None:
    """Nothing is made where it leads, and it is named."""
    site, secret = tmp_path / "mysite", tmp_path / "cron.d"
    site.mkdir()
    secret.mkdir()
    (site / "log").symlink_to(secret)
    os.chown(site, NOBODY, NOBODY)
    write(site / "log" / "access")  # root's own link
    assert (secret / "access").read_bytes() == b"x"
    os.lchown(site / "log", NOBODY, NOBODY)
    with pytest.raises(Untrusted, match="log, on the way to it, is a symbolic link that root did not make"):
        write(site / "log" / "other")
    assert os.listdir(secret) == ["access"]


@pytest.mark.root
def test_a_strangers_link_in_the_place_of_the_file(tmp_path: Path) -> None:
    """Neither, be it the file itself or where root's own link leads."""
    (tmp_path / "a.log").symlink_to(tmp_path / "shadow")
    (tmp_path / "b.log").symlink_to("a.log")
    os.lchown(tmp_path / "a.log", NOBODY, NOBODY)
    with pytest.raises(Untrusted, match="it is a symbolic link that root did not make"):
        write(tmp_path / "a.log")
    with pytest.raises(Untrusted, match=r"a\.log, on the way to it, is"):
        write(tmp_path / "b.log")
    assert not (tmp_path / "shadow").exists()


@pytest.mark.root
def test_a_second_name_of_a_file_of_root(tmp_path: Path) -> None:
    """In a directory of others it may be one they gave it; their own file they may name as they like."""
    (tmp_path / "shadow").write_bytes(b"")
    site = tmp_path / "mysite"
    site.mkdir()
    os.link(tmp_path / "shadow", site / "log")
    write(site / "log")
    os.chown(site, NOBODY, NOBODY)
    with pytest.raises(Untrusted, match="a file with a second name"):
        write(site / "log")
    os.chown(site, 0, 0)
    site.chmod(0o1777)
    with pytest.raises(Untrusted, match="a file with a second name"):
        write(site / "log")
    assert (tmp_path / "shadow").read_bytes() == b"x"
    os.chown(site, NOBODY, NOBODY)
    os.chown(site / "log", NOBODY, NOBODY)
    write(site / "log")
    assert (tmp_path / "shadow").read_bytes() == b"xx"


@pytest.mark.parametrize("way", ["real/log", "link/log", "real/../link/./log", "up/real/log", "absolute", "real//log"])
def test_ways_that_are_nobodys_trap(tmp_path: Path, way: str) -> None:
    """Links of one's own, relative and absolute, and the directory above; a new file has the mode asked for."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "up").symlink_to("real/..")
    (tmp_path / "absolute").symlink_to(tmp_path / "link" / "log")
    write(f"{tmp_path}/{way}")
    assert (tmp_path / "real" / "log").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "real" / "log").stat().st_mode) == 0o640


def test_what_is_not_to_be_opened(tmp_path: Path) -> None:
    """The errors are those of open(2)."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "nowhere").symlink_to("not/there")
    (tmp_path / "up").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for way, number in {
        "file/log": errno.ENOTDIR,
        "round": errno.ELOOP,
        "nowhere": errno.ENOENT,
        "no/log": errno.ENOENT,
        "up": errno.EISDIR,
        "..": errno.EISDIR,
        "socket": errno.ENXIO,
    }.items():
        with pytest.raises(OSError, match=r"^\[Errno") as caught:
            write(tmp_path / way)
        assert (way, caught.value.errno) == (way, number)
        assert not isinstance(caught.value, Untrusted)
    with pytest.raises(IsADirectoryError):
        write("/")


def test_what_proc_calls_a_link(tmp_path: Path) -> None:
    """/dev/stdout may be a pipe, which has no path that one could walk."""
    reader, writer = os.pipe()
    (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{writer}")
    write(tmp_path / "stdout")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    os.close(writer)


@pytest.mark.root
def test_who_is_not_root_follows_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel asks him everywhere whether he may."""
    (tmp_path / "a.log").symlink_to("there")
    os.lchown(tmp_path / "a.log", NOBODY, NOBODY)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    write(tmp_path / "a.log")
    assert (tmp_path / "there").read_bytes() == b"x"
