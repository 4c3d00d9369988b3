"""The way into the background: what a daemon keeps, what it loses, and what its launcher is told.

Everything runs in interpreters of their own: a launcher forks. Daemons write what they find to a file.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, alive, started, wait_until

PRELUDE = """
import fcntl, json, os, select, signal, socket, sys, time
from prefork.errors import *
from prefork.system.daemon import Heard, Link, fill_standard_streams, launch, redirect_output

def note(**facts):
    with open(sys.argv[1] + ".draft", "w") as file:
        json.dump(facts, file)
    os.rename(sys.argv[1] + ".draft", sys.argv[1])

def wait(link):
    select.select([link], [], [])
    return link.hear()

def begin(keep=()):
    link = launch(keep)
    if link is None:
        sys.exit(0)
    return link
"""


def launching(folder: Path, body: str, **options: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    """A launcher; whatever happens in the block, it ends with it."""
    # Warnings are errors, but for what a short script leaves open at its end.
    env = {"PYTHONWARNINGS": "error,ignore::ResourceWarning", **options.pop("env", {})}
    command = [sys.executable, "-c", PRELUDE + body, str(folder / "facts")]
    return started(*command, folder=folder, env=env, start_new_session=True, **options)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The launcher's status, and what it said; its pipes end only when no daemon holds them."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def launch(folder: Path, body: str, **options: Any) -> tuple[int, str]:
    """A launcher from its beginning to its end."""
    with launching(folder, body, **options) as process:
        return finish(process)


def printed(folder: Path, body: str) -> tuple[str, str]:
    """What such a process prints."""
    with launching(folder, body) as process:
        return process.communicate(timeout=PATIENCE)


def facts(folder: Path, timeout: float = PATIENCE) -> dict[str, Any]:
    wait_until((folder / "facts").exists, timeout)
    found: dict[str, Any] = json.loads((folder / "facts").read_text())
    return found


def test_a_daemon_is_detached_and_keeps_what_the_operator_set(folder: Path) -> None:
    """Its own session and parent, no terminal; umask, directory, limits and environment as they were."""
    body = """
link = begin()
streams = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
facts = dict(pid=os.getpid(), session=os.getsid(0), group=os.getpgrp(), umask=os.umask(0), cwd=os.getcwd())
facts |= dict(streams=streams, variable=os.environ["OF_THE_OPERATOR"])
facts |= dict(handlers=[str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGTTIN)])
link.serving()
facts["heard"] = wait(link).name
note(**facts)
"""
    with launching(folder, body, umask=0o027, env={"OF_THE_OPERATOR": "kept"}) as process:
        assert finish(process) == (0, "")
    found = facts(folder)
    assert found["pid"] not in (found["session"], process.pid)
    assert found["session"] == found["group"] != process.pid
    assert (found["umask"], found["cwd"], found["variable"]) == (0o027, str(folder), "kept")
    assert found["streams"] == [os.devnull] * 3
    assert found["handlers"] == ["0", "0"]
    assert found["heard"] == "ACKNOWLEDGED"


def test_only_what_is_named_stays_open(folder: Path) -> None:
    """A listener keeps its number; whatever else the starter had left open is closed."""
    body = """
listener, other = socket.socket(), socket.socket()
inodes = [os.fstat(held.fileno()).st_ino for held in (listener, other)]
link = begin([listener.fileno()])
paths = [f"/proc/self/fd/{number}" for number in range(3, 100)]
there = {os.stat(path).st_ino for path in paths if os.path.exists(path)}
note(kept=os.fstat(listener.fileno()).st_ino == inodes[0], closed=inodes[1] not in there, count=len(there))
link.serving()
wait(link)
"""
    assert launch(folder, body) == (0, "")
    assert facts(folder) == {"kept": True, "closed": True, "count": 2}


def test_everything_stays_open_where_all_is_kept(folder: Path) -> None:
    """A program that brought its application may have files open that it needs."""
    body = """
with open("data", "w") as data:
    link = launch(None)
    if link is None:
        sys.exit(0)
    data.write("written by the daemon")
link.serving()
wait(link)
note(done=True)
"""
    assert launch(folder, body) == (0, "")
    facts(folder)
    assert (folder / "data").read_text() == "written by the daemon"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_listener_on_a_standard_stream_stays_there(folder: Path, number: int) -> None:
    """As supervisor passes one on 0: it is not replaced by /dev/null."""
    body = f"""
listener = socket.socket(socket.AF_UNIX)
inode = os.fstat(listener.fileno()).st_ino
os.dup2(listener.fileno(), {number})
link = begin([{number}])
note(kept=os.fstat({number}).st_ino == inode)
link.serving()
wait(link)
"""
    assert launch(folder, body)[0] == 0
    assert facts(folder) == {"kept": True}


def test_standard_streams_that_were_closed(folder: Path) -> None:
    """They are filled before anything is opened, so that no file of ours takes their number."""
    body = """
for number in range(3):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
fill_standard_streams()
streams = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
usable = [sys.stdin.read(), sys.stdout.write("x"), sys.stderr.write("x")]
link = begin()
note(streams=streams, usable=usable, fine=os.readlink("/proc/self/fd/0"))
link.serving()
wait(link)
"""
    assert launch(folder, body) == (0, "")
    assert facts(folder) == {"streams": [os.devnull] * 3, "usable": ["", 1, 1], "fine": os.devnull}


def test_output_goes_where_it_is_led(folder: Path) -> None:
    """Both streams, also what a program prints that knows nothing of Python."""
    body = """
link = begin()
redirect_output(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
print("out", flush=True)
os.system("echo program >&2")
link.serving()
wait(link)
note(done=True)
"""
    assert launch(folder, body) == (0, "")
    facts(folder)
    assert (folder / "log").read_text() == "out\nprogram\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("AddressInUse('taken')", 69, ["AddressInUse taken"]),
        ("PermissionProblem('no')", 77, ["PermissionProblem no"]),
        ("ConfigurationError('bad')", 78, ["ConfigurationError bad"]),
        ("PreforkError('odd')", 70, ["PreforkError odd"]),
        ("ApplicationError('broken', 'the trace')", 78, ["ApplicationError broken", "the trace"]),
        ("ConfigurationError('é\\udcff' * 100_000)", 78, ["ConfigurationError éé", "left out"]),
    ],
)
def test_a_failure_is_the_launchers(folder: Path, error: str, status: int, said: list[str]) -> None:
    """The same exception is raised there, with its status and the application's traceback, whatever its size."""
    body = f"""
try:
    link = begin()
except PreforkError as error:
    print(type(error).__name__, str(error).replace(chr(92) + "udcff", "").replace(chr(0xdcff), ""), file=sys.stderr)
    print(getattr(error, "traceback", ""), file=sys.stderr)
    sys.exit(error.exit_status)
link.failed({error})
"""
    found, text = launch(folder, body, env={"PYTHONIOENCODING": "utf-8"})
    assert found == status
    assert [part for part in said if part not in text] == []


def test_a_mistake_of_ours_arrives_with_its_traceback(folder: Path) -> None:
    """Anything else is 70."""
    body = """
try:
    link = begin()
except PreforkError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
link.failed(ZeroDivisionError("division"), "Traceback: line 1")
"""
    assert launch(folder, body) == (70, "division\nTraceback: line 1\n")


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_daemon_that_ends_without_a_word(folder: Path, end: str) -> None:
    """Is no success; and no zombie stays of the way there."""
    body = f"""
try:
    link = begin()
except PreforkError as error:
    print(error, file=sys.stderr)
    try:
        print(os.waitpid(-1, os.WNOHANG), file=sys.stderr)
    except ChildProcessError:
        pass
    sys.exit(error.exit_status)
{end}
"""
    assert launch(folder, body) == (
        70, "the server ended before it served, and could not say why: see its error log\n"
    )  # fmt: skip


WAITS = """
try:
    link = launch([])
except KeyboardInterrupt:
    sys.exit(130)
if link is None:
    sys.exit(0)
with open("pid", "w") as file:
    file.write(str(os.getpid()))
os.rename("pid", "daemon")
heard = wait(link)
note(heard=heard.name)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_launcher_that_leaves_early_is_missed(folder: Path, number: int, status: int) -> None:
    """Killed or interrupted while it waits: the daemon learns that nobody knows of it."""
    with launching(folder, WAITS) as process:
        wait_until((folder / "daemon").exists)
        process.send_signal(number)
        assert finish(process) == (status, "")
    assert facts(folder) == {"heard": "GONE"}
    wait_until(lambda: not alive(int((folder / "daemon").read_text())))


LINGERS = WAITS.replace("note(", "time.sleep(0.2); note(")


def test_an_interrupted_launcher_waits_for_the_end(folder: Path) -> None:
    """When the prompt is back, nothing runs any more."""
    with launching(folder, LINGERS) as process:
        wait_until((folder / "daemon").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert (folder / "facts").exists()
        assert finish(process) == (130, "")


INTERRUPTS = """
import functools, operator, _thread
launcher, real_recv = os.getpid(), socket.socket.recv

def interrupt():
    os.kill(launcher, signal.SIGINT)

def in_the_launcher(call):
    return lambda: os.getpid() == launcher and call()

def in_the_process_between(call):
    return lambda: os.getppid() == launcher and call()

def when_the_daemon_is_there():
    while not os.path.exists("daemon"):
        time.sleep(0.001)
    interrupt()

def recv(line, size):
    receive = functools.partial(real_recv, line, size)
    if os.getpid() != launcher:
        return receive()
    socket.socket.recv = real_recv
    # Both are called from C: the interpreter looks for signals before and after, and not in between.
    return list(map(operator.call, [_thread.interrupt_main, receive]))[1]
"""


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("os.register_at_fork(before=in_the_launcher(interrupt))", id="before-the-fork"),
        pytest.param(
            "os.register_at_fork(after_in_parent=in_the_launcher(when_the_daemon_is_there))", id="after-the-fork"
        ),
        pytest.param("os.register_at_fork(before=in_the_process_between(interrupt))", id="before-there-is-a-daemon"),
        pytest.param(
            "os.register_at_fork(before=in_the_process_between(lambda: os.killpg(0, signal.SIGINT)))",
            id="all-of-the-terminal",
        ),
        pytest.param("socket.socket.recv = recv", id="before-the-wait"),
    ],
)
def test_an_interrupt_is_obeyed_at_every_moment(folder: Path, moment: str) -> None:
    """Also where the interpreter drops what it raises, or does not look for it: within a fork, and before a wait."""
    with launching(folder, f"{INTERRUPTS}{moment}\n{LINGERS}") as process:
        assert process.wait(PATIENCE) == 130
        assert facts(folder, timeout=0.0) == {"heard": "GONE"}
        assert finish(process) == (130, "")


@pytest.mark.parametrize("order", ["interrupt, send", "send, interrupt"])
def test_an_interrupt_with_the_acknowledgement_comes_too_late(folder: Path, order: str) -> None:
    """The launcher reports what the daemon does: it serves."""
    body = f"""
send, launcher = socket.socket.send, os.getpid()
def both(line, *arguments):
    if os.getpid() != launcher:
        return send(line, *arguments)
    interrupt = lambda *_: os.kill(launcher, signal.SIGINT)
    for call in ({order}):
        call(line, *arguments)
socket.socket.send = both
link = begin()
link.serving()
note(heard=wait(link).name)
"""
    assert launch(folder, body) == (0, "")
    assert facts(folder) == {"heard": "ACKNOWLEDGED"}


def test_a_report_that_nobody_hears(folder: Path) -> None:
    """Is no failure; that it was not heard is."""
    body = """
above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link = Link(below)
print(link.hear().name)
above.close()
link.serving("line")
link.failed(PreforkError("x"))
print(link.hear().name)
link.close()
link.serving()
print(link.hear().name)
"""
    assert printed(folder, body) == ("NOTHING\nGONE\nGONE\n", "")


def test_without_a_process_to_be_had(folder: Path) -> None:
    """fork(2) fails, or is forbidden: an error, no descriptor left open, and signals come through as before."""
    body = """
def state():
    return os.listdir("/proc/self/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, ())
before = state()
for refusal in (BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("forbidden")):
    def refuse():
        raise refusal
    os.fork = refuse
    try:
        launch([])
    except Exception as error:
        print(type(error).__name__, error, state() == before)
"""
    expected = "PreforkError cannot fork: Resource temporarily unavailable True\nRuntimeError forbidden True\n"
    assert printed(folder, body) == (expected, "")


def test_a_daemon_that_cannot_detach(folder: Path) -> None:
    """The launcher says why."""
    body = """
os.setsid = lambda: os.rmdir("/nowhere")
try:
    launch([])
except PreforkError as error:
    print(error, file=sys.stderr)
"""
    status, said = launch(folder, body)
    assert (status, said.startswith("cannot become a daemon: [Errno 2]")) == (0, True)


def test_a_person_sees_the_banner(folder: Path) -> None:
    """On a terminal the launcher shows the lines it was sent; elsewhere it is silent."""
    above, below = pty.openpty()
    body = "link = begin()\nlink.serving('one', 'two')\nwait(link)\n"
    with launching(folder, body, stderr=below) as process:
        os.close(below)
        assert process.wait(PATIENCE) == 0
    shown = b""
    while shown.count(b"\n") < 2:  # a terminal may hand it over in pieces
        shown += os.read(above, 100)
    assert shown == b"one\r\ntwo\r\n"
    os.close(above)
