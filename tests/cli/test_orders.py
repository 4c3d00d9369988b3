"""Finding a server and giving it orders: every way in which it may not answer."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apart import NOBODY, run_apart
from prefork.cli import orders
from prefork.cli.console import Failure
from prefork.cli.orders import Door, find_door, give
from prefork.system.control import open_door

Script = Callable[[socket.socket], None]


@contextlib.contextmanager
def master(path: Path, script: Script) -> Iterator[Door]:
    """A control socket at a path; whoever comes meets the script, in a thread of its own."""
    door, mark = open_door(str(path))
    door.setblocking(True)

    def serve() -> None:
        while True:
            try:
                end, _ = door.accept()
            except OSError:
                return
            with end, contextlib.suppress(OSError):
                script(end)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Door(str(path))
    finally:
        door.shutdown(socket.SHUT_RDWR)
        thread.join()
        door.close()
        mark.unlink()


def saying(*pieces: bytes, heard: list[bytes] | None = None) -> Script:
    """A script that hears one order and says these pieces."""

    def script(end: socket.socket) -> None:
        data = end.recv(5000)
        if heard is not None:
            heard.append(data)
        for piece in pieces:
            end.send(piece)

    return script


def server(path: str | None = None, name: str | None = None, pid: int = 7, address: str | None = None) -> Script:
    pools = [{"pool": "www", "socket": name or path, "path": path, "file": None, "address": address or path}]
    return saying(json.dumps({"ok": True, "pid": pid, "phase": "serving", "pools": pools}).encode())


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places where servers are looked for, which the test fills."""
    found: list[Path] = []
    monkeypatch.setattr(orders, "find_doors", lambda _environ: [str(path) for path in found])
    return found


def failure(call: Callable[[], object]) -> str:
    with pytest.raises(Failure) as caught:
        call()
    return str(caught.value)


# giving


def test_an_answer(folder: Path) -> None:
    """In as many pieces as it takes; what was said is the order, with the socket the server is known by."""
    heard: list[bytes] = []
    with master(folder / "c.sock", saying(b'{"ok": tr', b'ue, "pid": 1}', heard=heard)) as door:
        assert give(door, "ping") == {"pid": 1}
        assert give(Door(door.path, "/app.sock"), "stop", now=True) == {"pid": 1}
    assert json.loads(heard[0]) == {"command": "ping"}
    assert json.loads(heard[1]) == {"command": "stop", "now": True, "socket": "/app.sock"}


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (
            [],
            f"it has ended, has too much to do, or does not take orders from the user {pwd.getpwuid(os.geteuid())[0]}",
        ),
        ([b'{"ok": tr'], "the answer is broken"),
        ([b"\xff"], "the answer is broken"),
        ([b"[]"], "the answer is broken"),
        ([b"{}"], "the answer is broken"),
        ([b"[" * 60_000], "the answer is broken"),
        ([b'{"ok": false, "error": "no\\u001b[31m"}'], "no\\x1b[31m"),
        ([b'{"ok": 1}'], "the server refused, and did not say why"),
    ],
)
def test_no_answer(folder: Path, pieces: list[bytes], message: str) -> None:
    """Closed at once, cut off, nonsense, or an error, which commands no terminal."""
    with master(folder / "c.sock", saying(*pieces)) as door:
        assert message in failure(lambda: give(door, "ping"))


def test_a_reset(folder: Path) -> None:
    """A server that ends without reading."""
    with master(folder / "c.sock", lambda end: None) as door:
        assert "c.sock: the" in failure(lambda: give(door, "ping"))


def test_a_server_that_hangs(folder: Path) -> None:
    """The patience has an end, also when a little is said now and then."""
    released = threading.Event()

    def hang(end: socket.socket) -> None:
        end.recv(5000)
        end.send(b"{")
        released.wait()

    with master(folder / "c.sock", hang) as door:
        message = failure(lambda: give(door, "ping", patience=0.05))
        released.set()
    assert message.endswith("no answer within 0.05 s: the server hangs, or is stopped")


def test_nobody_there(folder: Path) -> None:
    """No file, a dead socket, a socket of another kind, no socket; and somebody else's."""
    path = folder / "c.sock"
    assert failure(lambda: give(Door(str(path)), "ping")) == f"{path}: there is no such control socket"
    assert "no such file: the server has ended" in failure(lambda: give(Door(str(path), "/app.sock"), "ping"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
        named = Door(str(path), "/app.sock")
        assert failure(lambda: give(named, "ping")) == (
            f"/app.sock: its control socket {path}: nobody listens: the server has ended"
        )
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert "this is no control socket" in failure(lambda: give(Door(str(path)), "ping"))
    assert "c.sock" in failure(lambda: give(Door("x" * 200 + "c.sock"), "ping"))


@pytest.mark.root
def test_somebody_elses(folder: Path) -> None:
    """Neither its control socket nor its lock file is ours to use."""
    script = (
        "from prefork.cli.orders import *\nfrom prefork.cli.console import Failure\n"
        "try:\n    print(give(find_door(*[None if word == '-' else word for word in sys.argv[1:]], {}), 'ping'))\n"
        "except Failure as problem:\n    print(problem)"
    )
    with master(folder / "c.sock", server()):
        said = run_apart(script, str(folder / "c.sock"), "-", user=NOBODY)
        assert "permission denied: only the user who started the server, and root" in said
        (folder / "app.sock.lock").touch(mode=0o600)
        said = run_apart(script, "-", str(folder / "app.sock"), user=NOBODY)
        assert said.startswith(f"{folder}/app.sock.lock: permission denied")


# finding


def test_by_its_control_socket() -> None:
    """Whatever else was named."""
    assert find_door("/c.sock", "/app.sock", {}) == Door("/c.sock")


def test_by_the_socket_it_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file says where it takes orders; a relative path counts from here."""
    (folder / "app.sock.lock").write_text(f"pid=1\nsocket={folder}/app.sock\ncontrol=/c.sock\n")
    monkeypatch.chdir(folder)
    for name in ("app.sock", "./app.sock", str(folder / "app.sock")):
        assert find_door(None, name, {}) == Door("/c.sock", f"{folder}/app.sock")


def test_a_server_without_one(folder: Path) -> None:
    """Says so in its lock file; while it runs, how it is asked and stopped."""
    lock = folder / "app.sock.lock"
    lock.write_text("pid=12\x1b\nsocket=/x\ncontrol=off\n")
    message = failure(lambda: find_door(None, str(folder / "app.sock"), {}))
    assert "(pid 12\\x1b) had no control socket, and has ended" in message
    hold = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        message = failure(lambda: find_door(None, str(folder / "app.sock"), {}))
        holder.communicate(b"\n")
    assert message.endswith(f"until then get and wait ask it by its own, and `kill -TERM {holder.pid}` stops it")


@pytest.mark.parametrize("lock", [None, "pid=1\nsocket=/x\n", "\0\xff"])
def test_a_socket_without_a_word_beside_it(folder: Path, doors: list[Path], lock: str | None) -> None:
    """It was inherited: the servers themselves say who serves it."""
    served = str(folder / "app.sock")
    if lock is not None:
        (folder / "app.sock.lock").write_text(lock)
    with master(folder / "1.sock", server("/other.sock")), master(folder / "2.sock", server(served, "fd://3")) as right:
        doors += [folder / "1.sock", folder / "2.sock", folder / "none.sock"]
        assert find_door(None, served, {}) == right
        assert find_door(None, "fd://3", {}) == right
        assert failure(lambda: find_door(None, "@none", {})) == (
            f"@none: no server that takes orders from us serves this. Running: pid 7 on /other.sock; pid 7 on {served}"
        )
    assert failure(lambda: find_door(None, "@none", {})).endswith("serves this; is it started?")


@pytest.mark.parametrize("address", ["@passed", "127.0.0.1:8000"])
def test_a_socket_that_was_passed(folder: Path, doors: list[Path], address: str) -> None:
    """It is known by what clients connect to, whatever its server calls it."""
    with (
        master(folder / "1.sock", server("/other.sock")),
        master(folder / "2.sock", server(None, "systemd", address=address)) as right,
    ):
        doors += [folder / "1.sock", folder / "2.sock"]
        assert find_door(None, address, {}) == right
        assert find_door(None, "systemd", {}) == right
        assert f"(pid 7: {address})" in failure(lambda: find_door(None, None, {}))


def test_the_only_one(folder: Path, doors: list[Path]) -> None:
    """None, one, several; those that answer nonsense do not count."""
    assert failure(lambda: find_door(None, None, {})).startswith("no server's control socket was found in $RUN")
    with master(folder / "1.sock", server("/a.sock")) as first, master(folder / "2.sock", saying(b'{"ok": true}')):
        doors += [folder / "1.sock", folder / "2.sock"]
        assert find_door(None, None, {}) == first
        with master(folder / "3.sock", server("/b\x1b.sock", pid=8)):
            doors.append(folder / "3.sock")
            assert failure(lambda: find_door(None, None, {})) == (
                "several servers run; name one:\n"
                f"  --control {folder}/1.sock  (pid 7: /a.sock)\n"
                f"  --control {folder}/3.sock  (pid 8: /b\\x1b.sock)"
            )


def test_the_real_places(folder: Path) -> None:
    """Are looked at, whatever runs on this machine."""
    with master(folder / "prefork-1.sock", server("/mine.sock")) as door:
        found = orders._running({"RUNTIME_DIRECTORY": str(folder)})
    answer: dict[str, Any] = found[door]
    assert answer["pools"][0]["path"] == "/mine.sock"
    assert os.path.basename(door.path) == "prefork-1.sock"
