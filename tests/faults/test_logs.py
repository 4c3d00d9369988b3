"""Logs of the real server: rotated under load, full, gone, stopped, taken away. Serving goes on; nothing is torn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Server, alive, children, connect, environment, fastcgi, run, wait_until

NOISY = """
import os, sys
def application(environ, start_response):
    for _ in range(int(environ["QUERY_STRING"] or 0)):
        environ["wsgi.errors"].write("e" * 200 + "\\n")
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def write_app(folder: Path, source: str = NOISY) -> str:
    (folder / "noisy.py").write_text(source)
    return "noisy"


def ask_often(server: Server, times: int, failures: list[object]) -> threading.Thread:
    def ask() -> None:
        for number in range(times):
            answer = server.ask(path=f"/{number}")
            if (answer.status, answer.complete) != (200, True):
                failures.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


USERS = [
    pytest.param((), id="same user"),
    pytest.param(("--user", "nobody"), marks=pytest.mark.root, id="another user"),
]


@pytest.mark.parametrize("user", USERS)
def test_logs_rotate_under_load_without_a_lost_or_torn_line(folder: Path, user: tuple[str, ...]) -> None:
    """Renamed and reopened again and again while requests come in: a line for each, whole, and nobody restarted.

    With another user's workers in a directory that they may not even enter.
    """
    logs = folder / "logs"
    logs.mkdir(mode=0o700)
    options = ("--workers", "3", "--access-log", str(logs / "a.log"), "--error-log", str(logs / "e.log"))
    failures: list[object] = []
    with LogServer(write_app(folder), *options, *user, folder=folder) as server:
        before = server.wait_workers(3)
        threads = [ask_often(server, 400, failures) for _ in range(3)]
        rounds = 0
        while any(thread.is_alive() for thread in threads) or rounds < 5:
            rounds += 1
            (logs / "a.log").rename(logs / f"a.{rounds}")
            server.send(signal.SIGUSR1)
            wait_until((logs / "a.log").exists)
        for thread in threads:
            thread.join()
        assert sorted(server.workers()) == sorted(before)
    lines = [line for path in logs.glob("a.*") for line in path.read_text().splitlines()]
    assert failures == []
    assert len(lines) == 1200
    whole = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "GET /\d+ HTTP/1\.1" 200 \d+ "-" "-"')
    assert [line for line in lines if whole.fullmatch(line) is None] == []
    assert rounds >= 5


class LogServer(Server):
    """A server whose error log is a file: it serves when its socket is there."""

    def wait_ready(self, timeout: float = 30.0) -> Any:
        assert self.path is not None
        wait_until(lambda: can_connect(self.address), timeout)
        return {}


def can_connect(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def events_in(path: Path, name: str) -> list[dict[str, Any]]:
    return [event for line in path.read_text().splitlines() if (event := json.loads(line))["event"] == name]


def test_an_idle_worker_lets_a_rotated_file_go(folder: Path) -> None:
    """Not only at its next request: the file's space would not be free until then. Nor does anybody else hold it."""
    access, error = folder / "a.log", folder / "e.log"
    options = ("--workers", "2", "--access-log", str(access), "--error-log", str(error))
    with LogServer(write_app(folder), *options, folder=folder) as server:
        server.wait_workers(2)
        access.rename(folder / "old-a")
        error.rename(folder / "old-e")
        server.send(signal.SIGUSR1)
        for pid in (server.pid, *server.titles()):
            wait_until(lambda pid=pid: not any("old-" in link for link in links_of(pid)), what=f"{links_of(pid)}")  # type: ignore[misc]
            assert str(error) in links_of(pid)
        assert [event["logs"] for event in events_in(error, "logs_reopened")] == [[str(error), str(access)]]
        server.ask()
        wait_until(lambda: access.read_text().count("\n") == 1)


def links_of(pid: int) -> list[str]:
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def test_a_log_directory_that_disappears(folder: Path) -> None:
    """Serving goes on, reopening says what is wrong and keeps the old file; when the directory is back, all is well."""
    logs = folder / "logs"
    logs.mkdir()
    with Server(write_app(folder), "--workers", "1", "--access-log", str(logs / "a.log"), folder=folder) as server:
        worker = server.wait_workers(1)
        shutil.rmtree(logs)
        assert server.ask().status == 200
        server.send(signal.SIGUSR1)
        problem = server.wait_event("log_not_reopened")["error"]
        assert f"there is no directory {logs}: create it with `install -d -o " in problem
        assert server.ask().status == 200
        logs.mkdir()
        server.send(signal.SIGUSR1)
        server.wait_event("logs_reopened", logs=[str(logs / "a.log")])
        assert server.ask(path="/again").status == 200
        wait_until(lambda: "GET /again " in (logs / "a.log").read_text())
        assert server.workers() == worker


@pytest.mark.root
def test_a_full_disk(folder: Path) -> None:
    """Every request is answered; the trouble is told when it begins and when it ends, with the number of lines lost."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "prefork-test", str(disk)], check=True)
    try:
        log = disk / "a.log"
        options = ("--workers", "1", "--access-log", str(log), "--access-log-format", "%m %{HTTP_X}e")
        with Server(write_app(folder), *options, "--access-log-suppress", "/quiet", folder=folder) as server:
            for number in range(40):
                assert server.ask(params={"HTTP_X": str(number) * 3_000}).status == 200
            server.ask(path="/quiet")  # it comes after the line of the one before
            begun = server.wait_event("log_not_writable", log=str(log))
            assert begun["error"] == "No space left on device"
            kept = log.read_text().splitlines()
            assert all(re.fullmatch(r"GET (\d+)\1{2999}", line) for line in kept)
            log.write_text("")
            assert server.ask(params={"HTTP_X": "after"}).status == 200
            lost = server.wait_event("log_lines_lost", log=str(log))
            assert lost["count"] + len(kept) == 40
            assert log.read_text() == "GET after\n"  # its line comes before the report
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def server_into(folder: Path, output: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose standard error is this descriptor, which nobody may be reading."""
    command = [sys.executable, "-m", "prefork", write_app(folder), "--socket", f"{folder}/app.sock", *options]
    process = subprocess.Popen(
        command, cwd=folder, env=environment({}), stdin=subprocess.DEVNULL, stderr=output, start_new_session=True
    )
    try:
        wait_until(lambda: can_connect(f"{folder}/app.sock"))
        yield process
        process.terminate()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_full_log_pipe(folder: Path) -> None:
    """Nobody reads: workers and master go on. Read again, every line is whole, and the lost ones are counted."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        with server_into(folder, writer, "--workers", "2", "--log-format", "json") as process:
            os.close(writer)
            for _ in range(20):
                assert fastcgi(f"{folder}/app.sock", path="/?50").status == 200
            os.kill(process.pid, signal.SIGHUP)  # the master has something to say as well
            received = [json.loads(stream.readline()) for _ in range(3)]
            collected: list[bytes] = []
            thread = threading.Thread(target=lambda: collected.extend(stream))
            thread.start()
            for _ in range(4):  # each worker speaks once more
                assert fastcgi(f"{folder}/app.sock", path="/?1").status == 200
        thread.join()
    received += [json.loads(line) for line in collected]
    said = sum(event["event"] == "wsgi_errors" for event in received)
    lost = sum(event["count"] for event in received if event["event"] == "log_lines_lost")
    assert lost > 0
    assert said + lost >= 20 * 50
    assert lost <= 20 * 50 + 4 + 10


def test_a_terminal_that_was_stopped(folder: Path) -> None:
    """Ctrl-S in the terminal of the server: requests are answered, and a stop is obeyed."""
    above, terminal = os.openpty()
    try:
        with server_into(folder, terminal, "--workers", "1"):
            termios.tcflow(terminal, termios.TCOOFF)
            for _ in range(30):
                assert fastcgi(f"{folder}/app.sock", path="/?100").status == 200
    finally:
        termios.tcflow(terminal, termios.TCOON)
        os.close(terminal)
        os.close(above)


PRINTING = """
import os, subprocess, sys
print("imported")
def application(environ, start_response):
    print("to stdout", environ["PATH_INFO"])
    sys.stderr.write("to stderr\\n")
    subprocess.run(["sh", "-c", "echo from a program"], check=True)
    os.write(1, b"x" * 20_000 + b"\\n" + b"\\xff\\n" + b"no end")
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_what_the_application_prints_is_logged(folder: Path) -> None:
    """Line by line, with the stream, the process and its slot; long lines are cut, ends that never came are added."""
    with Server(write_app(folder, PRINTING), "--workers", "1", "--catch-output", folder=folder) as server:
        imported = server.wait_event("output", message="imported")
        assert "slot" not in imported
        assert (imported["stream"], imported["level"]) == ("stdout", "info")
        pid = int(server.ask(path="/a").text)
        facts = {"pid": pid, "slot": 0}
        server.wait_event("output", message="to stdout /a", stream="stdout", **facts)
        server.wait_event("output", message="to stderr", stream="stderr", level="warning", **facts)
        server.wait_event("output", message="from a program", stream="stdout", **facts)
        server.wait_event("output", message="\\xff", **facts)
    assert len(server.find("output", message="imported")) == 1
    printed = [event["message"] for event in server.find("output", stream="stdout", **facts)]
    assert [len(text) for text in printed if text.startswith("xxx")] == [8192, 8192, 3616]
    assert "".join(printed).count("x") == 20_000 + 1  # and the one of \\xff
    assert "no end" in printed


FLOODING = """
import os
def application(environ, start_response):
    for _ in range(200):
        os.write(2, (b"y" * 99 + b"\\n") * 100)
    start_response("200 OK", [])
    return [b""]
"""


def test_an_application_that_prints_without_end_does_not_stop_the_master(folder: Path) -> None:
    """Four megabytes at once: all of it is logged or counted as lost, and a stop in the middle is obeyed."""
    with Server(write_app(folder, FLOODING), "--workers", "2", "--catch-output", folder=folder) as server:
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(server.ask().status)) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.wait_event("output", count=100)
        server.send(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.wait_exit() == 0
        assert answers == [200, 200]
        found = len(server.find("output", message="y" * 99))
        lost = sum(event["count"] for event in server.find("log_lines_lost"))
        assert found <= 40_000 <= found + lost


CLOSING = """
import os
def application(environ, start_response):
    if environ["PATH_INFO"] == "/close":
        os.closerange(100, 2_000)
        with open("own", "a") as own:
            own.write("mine")
            own.flush()
            environ["wsgi.errors"].write("gone\\n")
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_an_application_that_closes_what_is_not_its_own(folder: Path) -> None:
    """Nothing of ours is written into a file of its own; the worker is replaced by one that has its logs."""
    log = folder / "a.log"
    options = ("--workers", "1", "--access-log", str(log), "--access-log-format", "%U")
    with Server(write_app(folder, CLOSING), *options, folder=folder) as server:
        (before,) = server.wait_workers(1)
        assert server.ask(path="/close").status == 200
        wait_until(lambda: server.workers() not in ([], [before]))
        assert int(server.ask(path="/after").text) != before
        assert (folder / "own").read_text() == "mine"
        wait_until(lambda: log.read_text() == "/after\n")


def test_standard_output_as_the_access_log(folder: Path) -> None:
    """``-``, as containers want it; a reader that stopped stops nobody."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        options = ("--workers", "1", "--access-log", "-", "--access-log-format", "json")
        with Server(write_app(folder), *options, folder=folder, stdout=writer) as server:
            os.close(writer)
            server.ask(path="/x")
            line = json.loads(stream.readline())
            assert (line["event"], line["uri"], line["status"]) == ("access", "/x", 200)
            for _ in range(60):
                assert server.ask(params={"HTTP_USER_AGENT": "u" * 4_000}).status == 200
            server.wait_event("log_not_writable", log="stdout")
        (lost,) = server.find("log_lines_lost", log="stdout")  # told at the end, as nobody read until then
        kept = [json.loads(text)["status"] for text in stream]
        assert kept == [200] * len(kept)
        assert len(kept) + lost["count"] == 60


@pytest.mark.root
@pytest.mark.skipif(os.path.exists("/dev/log"), reason="this system has a syslog of its own")
def test_syslog(folder: Path) -> None:
    """Events and access lines, a datagram each; without a syslog there is no start."""
    options = ("--workers", "1", "--error-log", "syslog", "--access-log", "syslog", "--access-log-format", "%U")
    server = LogServer(write_app(folder), *options, folder=folder).start()
    assert server.wait_exit() == 78
    assert "error_log is syslog, and there is none at /dev/log" in server.text
    server.assert_nothing_left()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind("/dev/log")
        try:
            received: list[str] = []
            reader = threading.Thread(target=lambda: received.extend(iter(lambda: daemon.recv(65_536).decode(), "")))
            reader.start()  # all the time: the queue of such a socket may have room for ten
            with LogServer(write_app(folder), *options, folder=folder) as server:
                server.ask(path="/a/page")
            daemon.shutdown(socket.SHUT_RD)  # what is in the queue is still read
            reader.join()
        finally:
            os.unlink("/dev/log")
    assert any(text.startswith("<30>") and '"event": "serving"' in text for text in received)
    assert any(text.startswith("<30>") and text.endswith(": /a/page") for text in received)


def test_a_log_that_cannot_be_opened_is_no_start(folder: Path) -> None:
    """78, the path and the mend; nothing was claimed or made."""
    for option in ("--access-log", "--error-log"):
        server = Server(write_app(folder), option, str(folder / "no" / "a.log"), folder=folder).start()
        assert server.wait_exit() == 78
        assert f"-m 0755 {folder / 'no'}`" in server.text
        server.assert_nothing_left()


def test_suppressed_paths(folder: Path) -> None:
    """A health check that is well is not worth a line."""
    log = folder / "a.log"
    options = ("--workers", "1", "--access-log", str(log), "--access-log-format", "%r")
    with Server(write_app(folder), *options, "--access-log-suppress", "/ping", folder=folder) as server:
        for path in ("/ping", "/other", "/ping?1"):
            server.ask(path=path)
        wait_until(lambda: log.read_text() == "/other\n/ping\n")


def test_a_socket_as_standard_error(folder: Path) -> None:
    """As systemd connects it to its journal: lines arrive, and it is no connection that the import left behind."""
    with socket.socket(socket.AF_UNIX) as journal, socket.socket(socket.AF_UNIX) as ours:
        journal.bind(f"{folder}/journal")
        journal.listen()
        ours.connect(f"{folder}/journal")
        theirs, _ = journal.accept()
        with theirs, theirs.makefile("rb") as stream:
            with server_into(folder, ours.fileno(), "--workers", "1", "--log-format", "json"):
                ours.close()
                assert fastcgi(f"{folder}/app.sock", path="/?1").status == 200
            events = {event["event"]: event for event in map(json.loads, stream)}
    assert events["zygote_ready"]["loaded"] is True
    assert {"serving", "wsgi_errors", "stopped"} <= events.keys()
    assert "preload_refused" not in events


def test_in_the_background_everything_follows(folder: Path) -> None:
    """Standard output and error of a daemon are its error log, in the master as in the workers; renewed with it."""
    log, pid_file = folder / "e.log", folder / "pid"
    command = [sys.executable, "-m", "prefork", write_app(folder, PRINTING), "--socket", f"{folder}/app.sock"]
    command += ["--daemonize", "--error-log", str(log), "--pid-file", str(pid_file), "--workers", "1"]
    done = run(*command, folder=folder)
    assert done.returncode == 0, done.stderr
    pid = int(pid_file.read_text())
    try:
        log.rename(folder / "old.log")
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: log.exists() and events_of(log, "logs_reopened"))
        for process in (pid, *children(pid)):
            wait_until(lambda process=process: f"{folder}/old.log" not in links_of(process))  # type: ignore[misc]
        assert fastcgi(f"{folder}/app.sock").status == 200
        wait_until(lambda: b"from a program\n" in log.read_bytes())
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))


def events_of(path: Path, name: str) -> list[str]:
    """As `events_in`, where the application writes into the same file."""
    return [line for line in path.read_text(errors="replace").splitlines() if f'"event": "{name}"' in line]
