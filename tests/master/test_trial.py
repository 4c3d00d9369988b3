"""The import that --check tries: what it hears, and that nobody is left."""

from __future__ import annotations

import math
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, children, environment, wait_until
from prefork.config.model import Config, PoolConfig
from prefork.errors import ApplicationError, ConfigurationError, PermissionProblem, PreforkError
from prefork.master import trial
from prefork.master.holdings import Holdings
from prefork.master.launch import Launch
from prefork.master.trial import check_places, try_import
from prefork.system.channel import Kind, Message, Place
from prefork.system.listener import Listener, parse_address

BROKEN = "import os\nraise LookupError('the reason')\n"


@pytest.fixture
def holdings(folder: Path) -> Iterator[Holdings]:
    held = Holdings(Listener.prepare(parse_address(str(folder / "app.sock"))), 1)
    yield held
    held.close()


def attempt(folder: Path, holdings: Holdings, program: str, **options: object) -> None:
    """Try to import a program as the module ``app``; whatever comes of it, nobody and nothing is left."""
    (folder / "app.py").write_text(program)
    pool = PoolConfig(**{"app": "app", "socket": "@unused", "boot_timeout": PATIENCE, **options})  # type: ignore[arg-type]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def never(*_: object) -> None:
        raise AssertionError("no callable was given")

    before = children(os.getpid())
    try:
        try_import(Launch(Config(pools=(pool,)), pool, None, str(folder), str(folder), files, never), holdings)
    finally:
        assert children(os.getpid()) == before
        assert sorted(path.name for path in folder.iterdir() if path.name != "seen") == ["app.py"]


def application(extra: str = "") -> str:
    return f"def application(environ, start_response): ...\n{extra}\n"


def test_good(folder: Path, holdings: Holdings) -> None:
    """An application that can be imported is; its exit handlers run, and no byte code is written."""
    seen = folder / "seen"
    attempt(
        folder, holdings, application(f"import atexit, pathlib\natexit.register(pathlib.Path({str(seen)!r}).touch)")
    )
    assert seen.exists()


@pytest.mark.parametrize("options", [{"preload": "never"}, {"warmup": ("/",)}])
def test_whatever_the_pool_does_later(options: dict[str, object], folder: Path, holdings: Holdings) -> None:
    """It is imported here also where each worker would import it, and nothing is requested from it."""
    with pytest.raises(ApplicationError, match="the reason"):
        attempt(folder, holdings, BROKEN, **options)


def test_not_requested(folder: Path, holdings: Holdings) -> None:
    """A warm-up is for a server that is to serve."""
    attempt(folder, holdings, "def application(environ, start_response):\n    open('seen', 'w')\n", warmup=("/",))
    assert not (folder / "seen").exists()


def test_broken(folder: Path, holdings: Holdings) -> None:
    """One that cannot is told with its own traceback."""
    with pytest.raises(ApplicationError, match=r"^app: importing it raised LookupError: the reason") as caught:
        attempt(folder, holdings, BROKEN)
    assert 'app.py", line 2, in <module>' in caught.value.traceback


@pytest.mark.parametrize(
    ("ending", "cause"), [("os._exit(3)", "exit status 3"), ("os.kill(os.getpid(), 9)", "killed by SIGKILL")]
)
def test_gone(ending: str, cause: str, folder: Path, holdings: Holdings) -> None:
    """One whose import ends the process is told with how that ended."""
    with pytest.raises(ApplicationError, match=f"^app: the process that was importing it ended: {cause}$"):
        attempt(folder, holdings, f"import os\n{ending}\n")


def test_somebody_else_speaks(folder: Path, holdings: Holdings) -> None:
    """Only the word of the process itself counts, not that of one which the application forked."""
    stranger = (
        "import os, socket\n"
        "if not os.fork():\n"
        f"    socket.socket(fileno={int(Place.CHANNEL)}).send(bytes([{int(Kind.READY)}]) + b'{{}}')\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    with pytest.raises(ApplicationError, match="the reason"):
        attempt(folder, holdings, stranger + BROKEN)


def test_hangs(folder: Path, holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes too long is told with where it hangs."""
    hear, began = trial._hear, time.monotonic()

    def hear_when_it_hangs(channel: socket.socket, pid: int, end: float) -> Message | None:
        """However long it takes a busy machine to get there."""
        wait_until(lambda: b" in <module>" in os.pread(holdings.stacks, 10_000, 0))  # with its stack
        return hear(channel, pid, end)

    attempt(folder, holdings, application())
    enough = math.ceil(4 * (time.monotonic() - began))  # for this machine to come to the import, and more
    monkeypatch.setattr(trial, "_hear", hear_when_it_hangs)
    with pytest.raises(ApplicationError, match=rf"importing it took longer than boot_timeout \({enough} s\)") as caught:
        attempt(folder, holdings, "import signal\nsignal.pause()\n", boot_timeout=float(enough))
    assert 'app.py", line 2 in <module>' in caught.value.traceback


def test_does_not_want_to_end(folder: Path, holdings: Holdings) -> None:
    """A thread that never ends keeps nobody waiting for long."""
    attempt(folder, holdings, application("import threading\nthreading.Thread(target=threading.Event().wait).start()"))


def test_no_process_to_be_had(folder: Path, holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that fails says so."""

    def refuse(*_: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Launch, "start", refuse)
    with pytest.raises(PreforkError, match="cannot fork: Resource temporarily unavailable"):
        attempt(folder, holdings, application())


def test_interrupted(folder: Path) -> None:
    """Whoever kills the check kills what it tries."""
    (folder / "app.py").write_text("import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()\n")
    command = [sys.executable, "-m", "prefork", "app", "--socket", "app.sock", "--check"]
    with subprocess.Popen(
        command, cwd=folder, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as check:
        assert check.stdout is not None
        assert int(check.stdout.readline()) in children(check.pid)
        check.kill()
        assert check.stdout.read() == b""  # its end: whoever held it is gone


# --- places -----------------------------------------------------------------------------------------------------------


def places(**options: Any) -> Config:
    own = {name: options.pop(name) for name in ("access_log", "slowlog") if name in options}
    return Config(pools=(PoolConfig(app="app", socket="@unused", name="shop", **own),), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"error_log": "-", "access_log": "-"},
        {"error_log": "new", "access_log": "new", "slowlog": "new", "pid_file": "pid", "control_socket": "control"},
        {"error_log": "old", "control_socket": "off"},
        {"pid_file": "ours"},
        {"control_socket": "socket"},
    ],
)
def test_places(options: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that can be made, or are there and belong to a server that runs, are fine; none is made."""
    monkeypatch.chdir(folder)

    def looks() -> dict[str, tuple[int, ...]]:
        """All but when each was last read."""
        found = {path.name: path.lstat() for path in folder.iterdir()}
        return {
            name: (stat.st_ino, stat.st_mode, stat.st_nlink, stat.st_size, stat.st_mtime_ns)
            for name, stat in found.items()
        }

    (folder / "old").write_text("a line\n")
    (folder / "ours").write_text(str(os.getppid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind("socket")
        before = looks()
        check_places(places(**options))
        assert looks() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error_log": "missing/log"}, "error_log {0}/missing/log cannot be opened: there is no directory {0}/missing"),
        ({"error_log": "."}, "error_log {0} cannot be opened: it is a directory"),
        ({"error_log": "link"}, "error_log {0}/link cannot be opened: it is a symbolic link to where there is nothing"),
        ({"access_log": "socket"}, "access_log of pool shop: {0}/socket cannot be opened: it is a socket"),
        ({"slowlog": "missing/slow"}, "slowlog of pool shop: {0}/missing/slow cannot be opened: there is no directory"),
        ({"pid_file": "missing/pid"}, "the pid file's directory {0}/missing does not exist"),
        ({"pid_file": "text"}, "{0}/text holds no pid, so it is no pid file"),
        ({"control_socket": "missing/c"}, "the control socket's directory {0}/missing does not exist"),
        ({"control_socket": "text"}, "{0}/text is a file, not a socket"),
    ],
)
def test_wrong_places(options: dict[str, str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be made is told with its path and the mend."""
    monkeypatch.chdir(folder)
    (folder / "text").write_text("no pid\n")
    (folder / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        before = sorted(folder.iterdir())
        with pytest.raises(ConfigurationError) as caught:
            check_places(places(**options))
    assert message.format(folder) in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_syslog_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a system log that nobody reads."""
    monkeypatch.setattr("prefork.system.logplaces.SYSLOG_SOCKET", "/nonexistent")
    with pytest.raises(ConfigurationError, match="error_log is syslog, and there is none at /nonexistent"):
        check_places(places(error_log="syslog"))


def test_syslog(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there is sent nothing."""
    path = str(folder / "log")
    monkeypatch.setattr("prefork.system.logplaces.SYSLOG_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        check_places(places(error_log="syslog"))
        with pytest.raises(BlockingIOError):
            daemon.recv(1, socket.MSG_DONTWAIT)


def test_forbidden_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory where no file may be made is a matter of permissions."""
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    with pytest.raises(PermissionProblem, match=r"Permission denied; .* may not make it: "):
        check_places(places(error_log=str(folder / "log")))
