"""systemd's part of a server's life: listeners it passed, and what it is told, by its real tools where they run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Load, Nginx, Server, connect, environment, fastcgi, run, wait_until
from integration.handing import held, passed, release, wait_release

TELLS = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}


# listeners


@pytest.mark.tool("systemd-socket-activate")
def test_a_service_is_started_by_its_first_connection(folder: Path) -> None:
    """By the real tool: what waited for the start is answered, and no application finds what was told to the server."""
    path = folder / "activated.sock"
    variables = environment({})
    told = [f"--setenv={name}" for name in ("PYTHONPATH", "PYTHONWARNINGS")]
    tool = [
        "systemd-socket-activate",
        "-l",
        str(path),
        "--fdname=web",
        *told,
        *(f"-E{n}" for n in _coverage(variables)),
    ]
    with _ended(Server("handed", "--workers", "2", folder=folder, socket="systemd:web", parent=tool).start()) as server:
        with wait_until(lambda: _connected(path), what="a socket that listens") as first:
            first.sendall(b"GET /environ HTTP/1.0\r\n\r\n")
            serving = server.wait_ready()
            found = json.loads(_all(first).partition(b"\r\n\r\n")[2])
        assert serving["socket"] == "systemd:web"
        assert TELLS & found.keys() == set()
        assert fastcgi(str(path), path="/").body == b"1"
        assert server.stop() == 0
    assert path.exists()  # it is systemd's


def _connected(path: Path) -> socket.socket | None:
    try:
        return connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):  # not bound yet, or bound and about to listen
        return None


def _coverage(variables: dict[str, str]) -> list[str]:
    return [name for name in variables if name.startswith("COV")]


def _all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


@contextlib.contextmanager
def _ended(server: Server) -> Iterator[Server]:
    """A server that has not served yet."""
    try:
        yield server
    except BaseException:
        server.kill()
        print(server.text, file=sys.stderr)  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        if server.running:
            server.kill()
    server.assert_nothing_left()


def test_two_pools_each_find_the_socket_with_their_name(folder: Path) -> None:
    """``systemd`` alone, in both."""
    pool = 'app = "handed"\nsocket = "systemd"\nworkers = 1\n'
    (folder / "two.toml").write_text(f'[pool.api]\n{pool}[pool.web]\n{pool}env = {{HANDED_VERSION = "version"}}\n')
    release(folder, "web")
    with (
        held(f"{folder}/a.sock") as api,
        held(f"{folder}/w.sock") as web,
        passed(web, api, names="web:api") as how,
    ):
        command = [*how["parent"], sys.executable, "-m", "prefork", "--config", "two.toml", "--log-format", "json"]
        process = subprocess.Popen(
            command, cwd=folder, env=environment({}), pass_fds=how["pass_fds"], stderr=subprocess.PIPE, text=True
        )
        with process:
            assert process.stderr is not None
            said: list[str] = []
            while '"serving"' not in "".join(said[-1:]):
                said.append(process.stderr.readline())
                assert said[-1], said
            try:
                assert fastcgi(f"{folder}/w.sock").body == b"web"
                assert fastcgi(f"{folder}/a.sock").body == b"1"
            finally:
                process.terminate()
                process.communicate()
        assert process.returncode == 0


def test_a_reload_finds_what_was_passed(folder: Path) -> None:
    """A pool that is added takes its socket, also one that had it before; the other keeps its own."""
    pool = 'app = "handed"\nsocket = "systemd"\nworkers = 1\n'
    web, both = f"[pool.web]\n{pool}", f"[pool.web]\n{pool}[pool.api]\n{pool}"
    config = folder / "pools.toml"
    config.write_text(web)
    with (
        held(f"{folder}/w.sock") as first,
        held(f"{folder}/a.sock") as second,
        passed(first, second, names="web:api") as how,
        Server("", "--config", str(config), folder=folder, socket="systemd", **how) as server,
    ):
        server.wait_event("listener_unused", descriptor=4)
        for count in (1, 2):
            config.write_text(both)
            server.send(signal.SIGHUP)
            server.wait_event("pool_added", count=count, pool="api")
            assert [fastcgi(f"{folder}/{name}.sock").body for name in "wa"] == [b"1", b"1"]
            config.write_text(web)
            server.send(signal.SIGHUP)
            server.wait_event("pool_removed", count=count, pool="api")
            assert fastcgi(f"{folder}/w.sock").body == b"1"
        assert server.find("reload_failed") == []


@pytest.mark.parametrize(
    ("socket_", "names", "parts"),
    [
        ("systemd", "a:b", ('fd 3 called "a"', "a.sock", 'none is called as the pool is, "www"')),
        ("systemd:c", "a:b", ('none is called "c"', "FileDescriptorName=c")),
        ("systemd:a", "a:a", ('2 sockets called "a"',)),
    ],
)
def test_what_does_not_fit_is_78(folder: Path, socket_: str, names: str, parts: tuple[str, ...]) -> None:
    """With a list of what was passed, before anything is started."""
    with held(f"{folder}/a.sock") as a, held(f"{folder}/b.sock") as b, passed(a, b, names=names) as how:
        command = [*how["parent"], sys.executable, "-m", "prefork", "handed", "--socket", socket_]
        done = run(*command, folder=folder, pass_fds=how["pass_fds"])
    assert done.returncode == 78, done.stderr
    assert [part for part in parts if part not in done.stderr] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "env", "part"),
    [
        (["--socket", "systemd"], {}, "nothing was passed (LISTEN_FDS is not set)"),
        (["--socket", "systemd"], {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "is for the process 1 (LISTEN_PID)"),
        (["--socket", "starter"], {}, "SERVER_STARTER_PORT is not set"),
        (["--socket", "starter"], {"SERVER_STARTER_PORT": "/x=77"}, "fd 77 is not open"),
        (["--socket", "systemd:a", "--socket-mode", "0600"], {}, "belongs to its giver"),
        (["--socket", "systemd:a", "--socket", "systemd:a"], {}, "is said twice"),
    ],
)
def test_what_was_not_passed_is_78(folder: Path, options: list[str], env: dict[str, str], part: str) -> None:
    """The sentence names what is missing, in the foreground and for the background."""
    command = [sys.executable, "-m", "prefork", "handed", *options]
    for more in ([], ["--daemonize", "--error-log", "log"]):
        done = run(*command, *more, folder=folder, env=env)
        assert (done.returncode, part in done.stderr, "Traceback" in done.stderr) == (78, True, False), done.stderr


def test_one_socket_cannot_serve_two_pools(folder: Path) -> None:
    """Whatever names lead to it."""
    with held(f"{folder}/a.sock") as listener, passed(listener) as how:
        command = [
            *how["parent"],
            sys.executable,
            "-m",
            "prefork",
            "handed",
            "--socket",
            "systemd",
            "--socket",
            "fd://3",
        ]
        done = run(*command, folder=folder, pass_fds=how["pass_fds"])
    assert done.returncode == 78
    assert "systemd and fd://3 are the same socket: each pool needs a listener of its own" in done.stderr


def test_a_listener_that_nobody_uses_is_told(folder: Path) -> None:
    """Its clients would wait for ever."""
    with (
        held(f"{folder}/a.sock") as a,
        held(f"{folder}/b.sock") as b,
        passed(a, b, names="www:spare") as how,
        Server("handed", folder=folder, socket="systemd", **how) as server,
    ):
        event = server.wait_event("listener_unused")
        assert (event["descriptor"], event["name"]) == (4, "spare")
        assert f"{folder}/b.sock" in event["message"]
        assert "systemd:spare" in event["message"]


def test_the_background_keeps_what_was_passed(folder: Path) -> None:
    """LISTEN_PID names the launcher; the daemon goes on with what was meant for it."""
    log, pid_file, path = folder / "log", folder / "pid", f"{folder}/a.sock"
    options = ["--daemonize", "--error-log", str(log), "--pid-file", str(pid_file), "--workers", "1"]
    with held(path) as listener, passed(listener) as how:
        command = [*how["parent"], sys.executable, "-m", "prefork", "handed", "--socket", "systemd", *options]
        done = run(*command, folder=folder, pass_fds=how["pass_fds"])
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(fastcgi(path, path="/environ").body)
        assert TELLS & found.keys() == set()
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: '"stopped"' in log.read_text())
        wait_until(lambda: not pid_file.exists())


@pytest.mark.nginx
def test_restarts_under_a_socket_that_systemd_holds_lose_nothing(folder: Path) -> None:
    """Under a mixed load through nginx and beside it: none refused, none lost, each release answers in its time."""
    path = f"{folder}/held.sock"
    with (
        held(path) as listener,
        passed(listener, names="web") as how,
        Nginx(path, folder=folder, keepalive=4) as nginx,
        Load(nginx.address, short=6, long=2, seconds=5.0) as through,
        Load(path, short=4, long=0) as direct,
    ):
        for release in ("1", "2", "3"):
            (folder / "release").write_text(release)
            with Server("mixed", "--workers", "6", folder=folder, socket="systemd:web", **how):
                wait_release(through, release)
                wait_release(direct, release)
                if release == "3":  # nobody comes after it
                    through.stop()
                    direct.stop()
        for load in (through, direct):
            assert (load.lost, load.wrong) == ([], [])
        assert {sample.kind for sample in through.samples} == {"get", "post", "download", "long"}
        assert nginx.errors() == []


# what it is told


class Manager:
    """The socket that systemd listens to for its services, and all it heard, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self._heard: list[tuple[float, str]] = []

    def heard(self, word: str = "") -> list[tuple[float, str]]:
        """When, and what: all messages so far that begin so."""
        while True:
            try:
                self._heard.append((time.monotonic(), self.socket.recv(65_536).decode()))
            except BlockingIOError:
                return [(at, message) for at, message in self._heard if message.startswith(word)]

    def wait(self, word: str, count: int = 1) -> str:
        """The message, as soon as so many of them have come."""
        found = wait_until(lambda: len(found := self.heard(word)) >= count and found, what=f"{word} in {self._heard}")
        return str(found[-1][1])


def test_systemd_is_told_when_it_serves_and_when_it_stops(folder: Path) -> None:
    """READY only with the socket there and a worker behind it; then what it does, while it does it."""
    manager = Manager(f"@prefork-test-{os.getpid()}")
    os.mkfifo(folder / "import")
    (folder / "late.py").write_text("open('import').read()\nfrom handed import application\n")
    env = {"NOTIFY_SOCKET": manager.address}
    server = Server("late", "--workers", "2", folder=folder, env=env)
    with manager.socket, _ended(server.start()):
        assert manager.wait("STATUS=") == "STATUS=loading late"
        assert manager.wait("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=30000000"
        assert manager.heard("READY") == []
        (folder / "import").write_text("")
        assert manager.wait("READY=1") == f"READY=1\nMAINPID={server.pid}"
        assert b"NOTIFY_SOCKET" not in server.ask(path="/environ").body
        manager.wait("STATUS=2 workers: 0 busy, 2 idle, 0 waiting")
        with connect(server.address):
            manager.wait("STATUS=2 workers: 1 busy, 1 idle, 0 waiting")
        assert server.stop() == 0
        manager.wait("STOPPING=1")
    words = [message.partition("=")[0] for _, message in manager._heard]
    assert (words.count("READY"), words.count("STOPPING")) == (1, 1)
    assert words.index("READY") < words.index("STOPPING")


def test_systemd_is_told_of_reloads(folder: Path) -> None:
    """By signal and by order; what begins after READY is answered by the new code; a failure is over as soon."""
    manager = Manager(f"{folder}/notify")
    env = {"NOTIFY_SOCKET": manager.address, **release(folder, "0")}
    control = [sys.executable, "-c", "import sys; from prefork.cli.control import main; sys.exit(main())"]
    with manager.socket, Server("handed", "--control-socket", "c.sock", folder=folder, env=env) as server:
        manager.wait("READY=1")
        for version, how in (("1", "signal"), ("2", "order"), ("3", "signal")):
            release(folder, version)
            before = time.monotonic_ns() // 1000
            if how == "signal":
                server.send(signal.SIGHUP)
            else:
                assert run(*control, "--control", "c.sock", "reload", folder=folder).returncode == 0
            reloading = manager.wait("RELOADING=1", int(version))
            assert int(reloading.partition("MONOTONIC_USEC=")[2]) >= before
            manager.wait("READY=1", int(version) + 1)
            assert server.ask().text == version
        (folder / "version").unlink()
        server.send(signal.SIGHUP)
        manager.wait("READY=1", 5)
        wait_until(lambda: any("the last reload failed: " in message for _, message in manager.heard("STATUS=")))
        assert server.ask().text == "3"


def test_a_start_that_fails_is_never_ready(folder: Path) -> None:
    """And nobody waits for a manager that is not there."""
    manager = Manager(f"{folder}/notify")
    with manager.socket:
        done = run(
            *(sys.executable, "-m", "prefork", "handed", "--socket", "app.sock"),
            folder=folder,
            env={"NOTIFY_SOCKET": manager.address, "HANDED_VERSION": "missing"},
        )
        assert done.returncode == 78
        assert manager.heard("READY") == []
    with Server("handed", folder=folder, env={"NOTIFY_SOCKET": f"{folder}/nobody"}) as server:
        server.wait_event("manager_not_told", error="No such file or directory")
        assert server.ask().status == 200


def six_beats(manager: Manager) -> float:
    """Seconds until the watchdog has heard of the master six times more."""
    begun = time.monotonic()
    manager.wait("WATCHDOG=1", len(manager.heard("WATCHDOG=1")) + 6)
    return time.monotonic() - begun


def test_a_watchdog_hears_of_the_master_until_it_hangs(folder: Path) -> None:
    """At half of its time, which is shorter than the loop's own rhythm; from a master that is stopped, nothing."""
    manager = Manager(f"{folder}/notify")
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with manager.socket, Server("handed", "--workers", "1", folder=folder, env=env) as server:
        manager.wait("READY")
        took = [six_beats(manager)]
        assert took[0] > 2.3  # every half second
        while min(took) >= 5.5 and len(took) < 3:  # as the loop's own rhythm would be, or a busy machine
            took.append(six_beats(manager))
        assert min(took) < 5.5
        server.send(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        silent = len(manager.heard("WATCHDOG=1"))
        assert server.ask(path="/slow?s=0.9").status == 200  # workers serve on, the master does not
        assert len(manager.heard("WATCHDOG=1")) == silent
        server.send(signal.SIGCONT)
        manager.wait("WATCHDOG=1", silent + 1)
