"""The way through a server's sockets, step by step, and the wait for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.cli import pinging
from prefork.cli.console import Failure
from prefork.cli.orders import Door
from prefork.cli.pinging import only_address, ping_through, wait_for_server
from scripted import serving, values


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "app.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    """A listening socket at the path that nobody accepts from."""
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(path))
        found.listen(8)
        yield found


def pool(path: Path | None, socket: str = "", file: list[int] | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "pool": "www",
        "socket": socket or str(path),
        "path": None if path is None else str(path),
        "file": file,
        "address": None if path is None else str(path),
        "protocol": "fastcgi",
        **facts,
    }


def answer(*pools: dict[str, Any], pid: int | None = None, phase: str = "serving") -> dict[str, Any]:
    return {"pid": os.getpid() if pid is None else pid, "phase": phase, "pools": list(pools)}


def file_of(path: Path) -> list[int]:
    return [path.stat().st_dev, path.stat().st_ino]


def failure(*arguments: Any) -> str:
    with pytest.raises(Failure) as caught:
        ping_through(*arguments)
    return str(caught.value)


def test_a_worker_that_answers(path: Path) -> None:
    """Through an inherited listener, which has no file that could be compared."""
    with serving(path, values):
        ping_through(answer(pool(path, "fd://3")), None, 5.0)


def test_nobody_answers(path: Path, listener: socket.socket) -> None:
    """Ours, and every worker stuck."""
    assert "no worker answers" in failure(answer(pool(path, file=file_of(path))), None, 0.05)


def test_gone_replaced_or_somebody_elses(path: Path, listener: socket.socket) -> None:
    """Told apart before anything is sent."""
    ours = file_of(path)
    assert f"pid {os.getpid()} listens here, not the server, pid 1" in failure(
        answer(pool(path, file=ours), pid=1), None, 5.0
    )
    assert "no longer the socket that pid" in failure(answer(pool(path, file=[0, 0])), None, 5.0)
    path.unlink()
    assert "the server's socket is gone: No such file" in failure(answer(pool(path, file=ours)), None, 5.0)
    assert "there is no such file" in failure(answer(pool(path, "fd://3")), None, 5.0)


def test_an_unnamed_socket() -> None:
    """Nothing leads to it from outside."""
    assert "nothing leads to it from here" in failure(answer(pool(None, "fd://3")), None, 5.0)


def test_only_the_one_that_was_named(path: Path, folder: Path) -> None:
    """Of several pools; all of them where none was."""
    missing = pool(folder / "missing.sock")
    for served in (str(path), os.path.relpath(path)):
        with serving(path, values):
            ping_through(answer(missing, pool(path)), served, 5.0)
        path.unlink()
    with serving(path, values):
        ping_through(answer(missing, {**pool(path, "systemd"), "path": None}), str(path), 5.0)
    assert "missing.sock" in failure(answer(missing), None, 5.0)


def test_waiting_for_a_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not found, then booting, then serving through its sockets: 0; or the last reason when the time is up."""
    found: Iterator[dict[str, Any] | None] = iter([None, answer(phase="booting"), answer(pool(path))])

    def give(*_arguments: Any, **_options: Any) -> dict[str, Any]:
        following = next(found)
        if following is None:
            raise Failure("not yet")
        return following

    monkeypatch.setattr(pinging, "find_door", lambda *_: Door("/c.sock"))
    monkeypatch.setattr(pinging, "give", give)
    with serving(path, values):
        assert wait_for_server("/c.sock", {}, 30.0) == 0
    found = iter([answer(phase="draining", pid=5)] * 9)
    with pytest.raises(Failure, match="not serving after 50ms: pid 5 is draining"):
        wait_for_server("/c.sock", {}, 0.05)


def test_the_only_address(path: Path) -> None:
    """Of a server that has one; for the others it has to be named, or there is none."""
    nameless = {**pool(None, "fd://3"), "address": None}
    assert only_address(answer(nameless, pool(path))) == str(path)
    with pytest.raises(Failure, match=f"name one:\n  --socket {path}\n  --socket {path}2"):
        only_address(answer(pool(path), pool(Path(f"{path}2"))))
    with pytest.raises(Failure, match="they were inherited, and have no names"):
        only_address(answer(nameless))
