"""The server in the background: the launcher ends with the truth, and the daemon is a server like any other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, REPOSITORY, alive, environment, fastcgi, run, wait_until

SERVE = (sys.executable, "-m", "prefork")


class Yard:
    """A folder in which servers run in the background. Whatever is still alive at the end is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "error.log"
        self.pid_file = folder / "server.pid"
        self.socket = folder / "app.sock"

    def command(self, app: str, *options: str) -> list[str]:
        return [*SERVE, app, "--socket", str(self.socket), "--workers", "2", *self.own, *options]

    @property
    def own(self) -> list[str]:
        files = ["--error-log", str(self.log), "--pid-file", str(self.pid_file), "--control-socket", "c.sock"]
        return ["--daemonize", *files]

    def start(self, app: str, *options: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        return run(*self.command(app, *options), folder=self.folder, **keywords)

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def events(self, name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from prefork.cli.control import main; sys.exit(main())"
        return run(sys.executable, "-c", program, "--control", "c.sock", *words, folder=self.folder)

    def stop(self) -> None:
        pid = self.pid
        done = self.control("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not alive(pid)


@pytest.fixture
def yard(folder: Path) -> Iterator[Yard]:
    found = Yard(folder)
    yield found
    if found.log.exists():
        for event in found.events("starting"):
            if alive(event["pid"]):
                os.kill(event["pid"], signal.SIGKILL)


def test_it_serves_when_the_launcher_has_ended(yard: Yard) -> None:
    """0, silently, with the pid file, a detached session, no terminal; and it stops without a trace."""
    done = yard.start("prefork.demo")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert fastcgi(str(yard.socket)).status == 200
    pid = yard.pid
    assert yard.events("starting")[0]["pid"] == pid
    assert os.getsid(pid) != os.getsid(0)
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] == [os.devnull, *[str(yard.log)] * 2]
    assert Path(f"/proc/{pid}/cwd").resolve() == yard.folder
    yard.stop()
    assert [path.name for path in yard.folder.iterdir() if path.name not in ("app.sock.lock", "error.log")] == []
    assert len(yard.events("stopped")) == 1


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_is_the_operators(yard: Yard, umask: int) -> None:
    """For the application, too, and the pid file is readable all the same."""
    (yard.folder / "mask.py").write_text(
        "import os\n"
        "def app(environ, start_response):\n"
        "    mask = os.umask(0)\n"
        "    start_response('200 OK', [])\n"
        "    return [oct(mask).encode()]\n"
    )
    assert yard.start("mask", umask=umask).returncode == 0
    assert fastcgi(str(yard.socket)).body == oct(umask).encode()
    assert yard.pid_file.stat().st_mode & 0o777 == 0o644
    yard.stop()


def test_a_broken_application_is_78_with_its_traceback(yard: Yard) -> None:
    """On the launcher's standard error, as the foreground would say it; the log has it as well."""
    (yard.folder / "broken.py").write_text("def connect():\n    raise RuntimeError('no database')\nconnect()\n")
    done = yard.start("broken")
    front = run(*SERVE, "broken", "--socket", str(yard.socket), folder=yard.folder)
    assert done.returncode == front.returncode == 78
    assert "RuntimeError: no database" in done.stderr
    assert done.stderr == "".join(line for line in front.stderr.splitlines(True) if not line.startswith("{"))
    assert "no database" in yard.events("not_started")[0]["traceback"]
    assert not yard.pid_file.exists()
    assert not yard.socket.exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--error-log", "stderr"], 78, "error"),
        (["--error-log", "/nowhere/error.log"], 78, "there is no directory /nowhere"),
        (["--pid-file", "/nowhere/server.pid"], 78, "the pid file's directory /nowhere does not exist"),
        (["--pid-file", "one"], 69, "names pid 1, which is alive"),
        (["--control-socket", "/nowhere/c.sock"], 78, "the control socket's directory /nowhere does not exist"),
        (["--socket-group", "no-such-group"], 78, "no-such-group"),
        (["--socket", "fd://9"], 78, "fd 9 is not open"),
    ],
)
def test_what_cannot_be_is_said_by_the_launcher(yard: Yard, options: list[str], status: int, said: str) -> None:
    """Before anything is started, and nothing is left behind."""
    (yard.folder / "one").write_text("1\n")
    done = yard.start("prefork.demo", *options)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (status, True, False), done.stderr
    assert not yard.socket.exists()


def test_an_address_in_use_is_69(yard: Yard) -> None:
    """The claim is the daemon's; the launcher tells who has it already."""
    assert yard.start("prefork.demo").returncode == 0
    second = yard.start("prefork.demo", "--pid-file", str(yard.folder / "second.pid"))
    assert second.returncode == 69
    assert f"pid {yard.pid}" in second.stderr
    assert yard.events("not_started") == []  # the log is that of the server that has the address
    yard.stop()


def test_two_pools_from_a_file(yard: Yard) -> None:
    """The example: 0 only when both serve, and 78 with the reason when one cannot."""
    example = (REPOSITORY / "examples" / "two-pools.toml").read_text()
    (yard.folder / "good.toml").write_text(example)
    done = run(*SERVE, "--config", "good.toml", *yard.own, folder=yard.folder)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("first.sock", "second.sock"):
        assert fastcgi(str(yard.folder / name)).status == 200
    yard.stop()
    before, _, after = example.rpartition('"prefork.demo"')
    (yard.folder / "bad.toml").write_text(f'{before}"no_such_module"{after}')
    done = run(*SERVE, "--config", "bad.toml", *yard.own, folder=yard.folder)
    assert done.returncode == 78
    assert "no_such_module" in done.stderr
    assert not (yard.folder / "first.sock").exists()


def test_an_inherited_listener_is_kept(yard: Yard) -> None:
    """fd://N means the same number before and after."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(yard.socket))
        listener.listen(8)
        number = listener.fileno()
        command = yard.command("prefork.demo")
        command[command.index("--socket") + 1] = f"fd://{number}"
        assert run(*command, folder=yard.folder, pass_fds=[number]).returncode == 0
        assert fastcgi(str(yard.socket)).status == 200
        yard.stop()
        assert yard.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_without_its_launcher_a_start_is_given_up(yard: Yard, number: signal.Signals) -> None:
    """Nobody would know that it runs."""
    (yard.folder / "hangs.py").write_text("import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    with subprocess.Popen(
        yard.command("hangs"), cwd=yard.folder, env=environment({}), stderr=subprocess.PIPE
    ) as launcher:
        wait_until((yard.folder / "importing").exists)
        pid = yard.events("starting")[0]["pid"]
        launcher.send_signal(number)
        assert launcher.wait(PATIENCE) == (130 if number == signal.SIGINT else -number)
        wait_until(lambda: not alive(pid))
    assert len(yard.events("launcher_gone")) == 1
    assert not yard.pid_file.exists()


def test_a_daemon_that_is_killed_while_it_starts(yard: Yard) -> None:
    """Is no success of the launcher's."""
    (yard.folder / "hangs.py").write_text("import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    with subprocess.Popen(
        yard.command("hangs"), cwd=yard.folder, env=environment({}), stderr=subprocess.PIPE, text=True
    ) as launcher:
        wait_until((yard.folder / "importing").exists)
        os.kill(yard.events("starting")[0]["pid"], signal.SIGKILL)
        _, said = launcher.communicate(timeout=PATIENCE)
    expected = "prefork-serve: the server ended before it served, and could not say why: see its error log\n"
    assert (launcher.returncode, said) == (70, expected)


def test_a_start_that_is_stopped_is_no_success(yard: Yard) -> None:
    """The server ends in order, but it never served."""
    (yard.folder / "hangs.py").write_text("import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    with subprocess.Popen(
        yard.command("hangs"), cwd=yard.folder, env=environment({}), stderr=subprocess.PIPE, text=True
    ) as launcher:
        wait_until((yard.folder / "importing").exists)
        assert yard.control("stop").returncode == 0
        _, said = launcher.communicate(timeout=PATIENCE)
    assert (launcher.returncode, said) == (70, "prefork-serve: the server was stopped before it served\n")


def test_a_program_that_serves_a_callable_goes_on_in_the_launcher(yard: Yard) -> None:
    """serve(…, daemonize=True) returns 0 there; the daemon never comes back to the program."""
    program = (
        "import os, prefork\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'mine']\n"
        f"status = prefork.serve(application, socket={str(yard.socket)!r}, max_children=2, daemonize=True,\n"
        f"                       error_log={str(yard.log)!r}, pid_file={str(yard.pid_file)!r},\n"
        "                       control_socket='c.sock')\n"
        "print(status, os.getpid(), flush=True)\n"
    )
    done = run(sys.executable, "-c", program, folder=yard.folder)
    assert (done.returncode, done.stderr) == (0, "")
    status, launcher = map(int, done.stdout.split())
    assert (status, launcher == yard.pid) == (0, False)
    assert fastcgi(str(yard.socket)).body == b"mine"
    yard.stop()


def test_the_foreground_writes_a_pid_file_too(yard: Yard) -> None:
    """With the pid of the process that was started; gone when it has ended."""
    options = ["--socket", str(yard.socket), "--workers", "1", "--pid-file", str(yard.pid_file)]
    with subprocess.Popen(
        [*SERVE, "prefork.demo", *options], cwd=yard.folder, env=environment({}), stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(yard.pid_file.exists)
            assert (yard.pid, yard.socket.exists()) == (server.pid, True)
            server.terminate()
            assert server.wait(PATIENCE) == 0
            assert not yard.pid_file.exists()
        finally:
            server.kill()


def test_a_kill_leaves_a_pid_file_that_the_next_start_replaces(yard: Yard) -> None:
    """kill -9 cannot be cleaned up after; nobody has to do it by hand."""
    assert yard.start("prefork.demo").returncode == 0
    first = yard.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first))
    assert yard.pid == first
    assert yard.start("prefork.demo").returncode == 0
    assert yard.pid != first
    yard.stop()
