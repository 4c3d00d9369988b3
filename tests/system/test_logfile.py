"""Logs that never make anybody wait: whole lines, or counted losses."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import run_apart
from harness.processes import environment
from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system import logplaces
from prefork.system.logfile import ERROR, LogFile, far_up
from prefork.system.logplaces import adopt, open_anew, open_log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reader and writer, as a shell makes them: both blocking."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            pass


def anew(descriptor: int) -> LogFile:
    """The log that standard error would be, if it were this descriptor."""
    return LogFile(logplaces._own_description(descriptor), "stderr")


def drain(reader: int) -> bytes:
    os.set_blocking(reader, False)
    taken = b""
    try:
        while data := os.read(reader, 1 << 20):
            taken += data
    except BlockingIOError:
        pass
    return taken


def fill(log: LogFile, line: bytes) -> int:
    """Write until a line is lost; how many were not."""
    count = 0
    while not log.lost:
        log.write(line)
        count += 1
    return count - 1


# --- files


def test_a_new_file_is_for_its_owner_and_group(tmp_path: Path) -> None:
    """0640, opened for appending and for nothing else."""
    log = open_log(str(tmp_path / "a.log"), "access_log")
    log.write(b"one\n")
    log.write(b"two\n")
    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(os.stat(tmp_path / "a.log").st_mode) == 0o640
    flags = fcntl.fcntl(log.fileno(), fcntl.F_GETFL)
    assert (flags & os.O_APPEND, flags & os.O_ACCMODE) == (os.O_APPEND, os.O_WRONLY)
    assert not os.get_inheritable(log.fileno())
    log.close()


def test_an_old_file_is_added_to(tmp_path: Path) -> None:
    """Its mode and its content are left alone."""
    path = tmp_path / "a.log"
    path.write_bytes(b"old\n")
    path.chmod(0o600)
    log = open_log(str(path), "access_log")
    log.write(b"new\n")
    log.close()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"old\nnew\n", 0o600)


def test_another_file_gets_behind_the_same_number(tmp_path: Path) -> None:
    """And whoever follows goes along, unless he has gone elsewhere."""
    old, new = (open_anew(str(tmp_path / name), "error_log") for name in ("old", "new"))
    follower, other = os.dup(old), os.open(os.devnull, os.O_WRONLY)
    log = LogFile(old, "log", str(tmp_path / "old"))
    log.followers = (follower, other)
    log.write(b"1\n")
    log.replace(new)
    log.write(b"2\n")
    os.write(follower, b"3\n")
    assert log.fileno() == old
    assert (tmp_path / "old").read_bytes() == b"1\n"
    assert (tmp_path / "new").read_bytes() == b"2\n3\n"
    assert stat.S_ISCHR(os.fstat(other).st_mode)
    assert not os.get_inheritable(log.fileno())
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(new)
    for descriptor in (follower, other):
        os.close(descriptor)
    log.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "prefork-test", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
def test_a_full_disk_tears_no_line(small_disk: Path) -> None:
    """What does not fit is counted and taken back; when there is room again, writing goes on and the loss is told."""
    told: list[tuple[str, int, str]] = []
    log = open_log(str(small_disk / "a.log"), "access_log")
    log.on_loss = lambda log: told.append(("lost", log.lost, log.problem))
    log.on_recovery = lambda log: told.append(("works", log.lost, log.problem))
    line = b"x" * 999 + b"\n"
    written = fill(log, line)
    log.write(line)
    assert (small_disk / "a.log").read_bytes() == line * written
    os.truncate(small_disk / "a.log", 0)
    log.write(b"after\n")
    assert (small_disk / "a.log").read_bytes() == b"after\n"
    assert told == [("lost", 1, "No space left on device"), ("works", 2, "No space left on device")]
    log.close()


def test_a_file_at_its_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: as a full disk, and no signal kills (SIGXFSZ is ignored by Python)."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = open_log(str(tmp_path / "a.log"), "access_log")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        written = fill(log, b"x" * 299 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (written, (tmp_path / "a.log").stat().st_size) == (3, 900)
    assert log.problem == os.strerror(errno.EFBIG)
    log.close()


# --- pipes and terminals


def test_a_full_pipe_stops_nobody(pipe: tuple[int, int]) -> None:
    """Lines are lost whole, counted, and told when the reader is back; the parent's description stays blocking."""
    reader, writer = pipe
    log = anew(writer)
    told: list[int] = []
    log.on_recovery = lambda log: told.append(log.lost)
    line = b"x" * 299 + b"\n"
    written = fill(log, line)
    log.write(line)
    assert os.get_blocking(writer)
    assert drain(reader) == line * written
    log.write(b"again\n")
    assert (told, drain(reader)) == ([2], b"again\n")
    log.close()


@pytest.mark.parametrize("used", [0, 1, 100, 40_000])
@pytest.mark.parametrize("size", [5_000, 30_000, 60_000, 100_000])
def test_a_long_line_is_whole_or_lost(pipe: tuple[int, int], used: int, size: int) -> None:
    """Beyond PIPE_BUF a write may be cut: it is not begun where the whole would not fit."""
    reader, writer = pipe
    log = anew(writer)
    log.write(b"u" * used)
    line = b"x" * size + b"\n"
    log.write(line)
    found = drain(reader)[used:]
    assert found in (b"", line)
    assert (found == b"") == (log.lost == 1)
    assert found or used + size > 20_000
    log.close()


def test_a_reader_that_left(pipe: tuple[int, int]) -> None:
    """EPIPE: counted, no signal."""
    reader, writer = pipe
    log = anew(writer)
    os.close(reader)
    log.write(b"x\n")
    assert (log.lost, log.problem) == (1, "Broken pipe")
    log.close()


def test_a_terminal_that_was_stopped() -> None:
    """Ctrl-S: nobody waits for Ctrl-Q."""
    above, terminal = os.openpty()
    log = anew(terminal)
    log.write(b"one\n")
    assert b"one" in os.read(above, 100)
    termios.tcflow(terminal, termios.TCOOFF)
    fill(log, b"x" * 100 + b"\n")
    assert os.get_blocking(terminal)
    termios.tcflow(terminal, termios.TCOON)
    drain(above)
    log.write(b"two\n")
    assert b"two" in drain(above)
    log.close()
    os.close(terminal)
    os.close(above)


@pytest.mark.parametrize("kernel", ["with RWF_NOWAIT", "without"])
def test_what_cannot_be_opened_anew_is_written_with_care(
    pipe: tuple[int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe of another user, from before a su(1): shared, blocking, and still nobody waits."""
    reader, writer = pipe

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    if kernel == "without":
        monkeypatch.setattr(os, "pwritev", refuse)
    log = LogFile(os.dup(writer), "stderr")
    line = b"x" * 299 + b"\n"
    written = fill(log, line)
    log.write(b"x" * 5_000 + b"\n")
    assert os.get_blocking(writer)
    assert drain(reader) == line * written
    log.write(b"y" * 5_000 + b"\n")
    assert drain(reader) == b"y" * 5_000 + b"\n"
    log.close()


def test_a_shared_terminal_is_written_with_care() -> None:
    """A terminal knows no RWF_NOWAIT: it is looked at before each piece."""
    above, terminal = os.openpty()
    log = LogFile(os.dup(terminal), "stderr")
    log.write(b"one\n")
    assert b"one" in os.read(above, 100)
    termios.tcflow(terminal, termios.TCOOFF)
    log.write(b"two\n")
    assert log.lost == 1
    termios.tcflow(terminal, termios.TCOON)
    log.close()
    os.close(terminal)
    os.close(above)


@pytest.mark.parametrize("size", [1, 50, 100, 299, 700, 1000, 3000, 5000])
@pytest.mark.parametrize("text", [b"x", b"xy\tz\r", b"\xc3\xa9\n", b"\x1b[31mred\x1b[0m" + b"=" * 300])
def test_a_shared_terminal_that_nobody_reads(size: int, text: bytes) -> None:
    """Room for something is not room for a line: what does not fit is lost, and nobody waits; then it goes on."""
    above, terminal = os.openpty()
    log = LogFile(os.dup(terminal), "stderr")
    signal.setitimer(signal.ITIMER_REAL, 20)  # ends this process, should it block
    try:
        fill(log, (text * size)[:size] + b"\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert (os.get_blocking(terminal), log.problem) == (True, os.strerror(errno.EAGAIN))
    while drain(above):
        pass
    log.write(b"again\n")
    assert drain(above).endswith(b"again\r\n")
    log.close()
    os.close(terminal)
    os.close(above)


_IN_THE_BACKGROUND = """
import fcntl, os, signal, sys, termios
from prefork.system.logfile import LogFile
from prefork.system.logplaces import _own_description
from prefork.system.wakeup import Wakeup
user, own = map(int, sys.argv[1:])
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
modes = termios.tcgetattr(2)
modes[3] |= termios.TOSTOP
termios.tcsetattr(2, termios.TCSANOW, modes)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.setpgid(0, 0)
if user:
    os.setuid(user)
wakeup = Wakeup((signal.SIGTTOU,))
signal.alarm(20)
log = LogFile(_own_description(2) if own else os.dup(2), "stderr")
log.write(b"line\\n")
mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(os.get_blocking(log.fileno()), log.lost, wakeup.take(), mask)
"""


@pytest.mark.root
@pytest.mark.parametrize("user", [0, 65534])
@pytest.mark.parametrize("own", [0, 1])
def test_a_terminal_seen_from_the_background(user: int, own: int) -> None:
    """With stty tostop the kernel asks who writes to stop, for ever: we are let through, and nobody is signalled.

    After a su(1) within the session the terminal is opened by its other name, /dev/tty.
    """
    above, terminal = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _IN_THE_BACKGROUND, str(user), str(own)],
        check=False,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
        text=True,
    )
    assert drain(above) == b"line\r\n"
    assert (done.returncode, done.stdout) == (0, f"{not own} 0 [] set()\n")
    os.close(terminal)
    os.close(above)


def test_a_named_pipe_waits_for_its_reader(tmp_path: Path) -> None:
    """It can be a log before anybody reads it."""
    os.mkfifo(tmp_path / "pipe")
    log = open_log(str(tmp_path / "pipe"), "error_log")
    log.write(b"early\n")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"early\n"
    os.close(reader)
    log.close()


# --- sockets and syslog


def test_a_full_socket_stops_nobody() -> None:
    """What systemd gives a service as its standard error; the line that was cut is not run into by the next."""
    above, below = socket.socketpair()
    with above, below:
        log = anew(below.fileno())
        fill(log, b"x" * 9_999 + b"\n")
        assert os.get_blocking(below.fileno())
        drain(above.fileno())
        log.write(b"again\n")
        assert drain(above.fileno()).split(b"\n")[-2] == b"again"
        log.close()


def test_syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram a line, as syslog(3) sends them; a daemon that was started anew is found again."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(logplaces, "SYSLOG_SOCKET", path)
    with pytest.raises(ConfigurationError, match=r"error_log is syslog, and there is none at .*/log"):
        open_log("syslog", "error_log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        log = open_log("syslog", "error_log")
        log.write(b'{"event": "died"}\n', ERROR)
        text = daemon.recv(1000).decode()
        assert text.startswith("<27>")  # daemon.err
        assert text.endswith(f' prefork[{os.getpid()}]: {{"event": "died"}}')
    os.unlink(path)
    log.write(b"nobody\n")
    assert log.lost == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        taken = adopt(os.dup(log.fileno()), "syslog")
        taken.write(b"somebody\n")
        assert daemon.recv(1000).endswith(b": somebody")
        taken.close()
    log.close()


# --- places that are no logs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "it is a directory; name a file in it"),
        (lambda path: path.symlink_to(path.parent / "no" / "where"), "a symbolic link to where there is nothing"),
        (lambda path: path.parent.rmdir(), "there is no directory .*: create it with `install -d -o "),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, make: object, message: str) -> None:
    """A message that names the option, the path, what is there, and the mend."""
    path = tmp_path / "logs" / "a.log"
    path.parent.mkdir()
    make(path)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=f"access_log {path} cannot be opened: .*{message}"):
        open_log(str(path), "access_log")


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    """Neither is /dev/stderr, where that is one: there is a word for it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(ConfigurationError, match="it is a socket; stderr, - "):
            open_log(str(tmp_path / "s"), "error_log")


@pytest.mark.root
def test_root_follows_no_strangers_link(tmp_path: Path) -> None:
    """In a directory of the application's user it could lead to any file."""
    link = tmp_path / "a.log"
    link.symlink_to(tmp_path / "shadow")
    open_log(str(link), "access_log").close()
    assert (tmp_path / "shadow").exists()
    os.lchown(link, 65534, 65534)
    with pytest.raises(PermissionProblem, match="a symbolic link that root did not make"):
        open_log(str(link), "access_log")


def test_a_directory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """77, and a directory of its own; nobody is let into one that exists."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionProblem, match=r"may not make it: .* as root `install -d .* /var/log/a` "):
        open_log(str(tmp_path / "a.log"), "access_log")


# --- what an application may do to it


def test_the_number_is_far_away(tmp_path: Path) -> None:
    """No file that is opened later gets it, also where the limit is low."""
    with open(tmp_path / "a", "w") as file:
        high = far_up(file.fileno())
        assert high >= min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - 32
        os.close(high)
    script = (
        "import resource\n"
        "from prefork.system.logfile import far_up\n"
        "lowest = os.dup(1)\n"
        "os.close(lowest)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "print(lowest < 32, far_up(1) == lowest)"
    )
    assert run_apart(script) == "True True"


def test_a_log_that_was_closed_is_found_out(tmp_path: Path) -> None:
    """EBADF: lost, and said so."""
    log = open_log(str(tmp_path / "a.log"), "access_log")
    os.close(log.fileno())
    log.write(b"x\n")
    assert (log.lost, log.stolen) == (1, True)
    log.replace(open_anew(str(tmp_path / "a.log"), "access_log"))
    log.write(b"y\n")
    assert (tmp_path / "a.log").read_bytes() == b"y\n"
    assert not log.stolen
    log.close()


def test_a_child_of_the_application_lets_go(tmp_path: Path) -> None:
    """What it still says goes to its standard error, and the file is not held open."""
    log = open_log(str(tmp_path / "a.log"), "access_log")
    log.before = lambda: pytest.fail("looked")
    number = log.fileno()
    log.forget()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    assert log.fileno() == 2


def test_before_every_line_there_is_a_look(tmp_path: Path) -> None:
    """The line goes where the log is after it."""
    log = open_log(str(tmp_path / "old"), "access_log")
    log.before = lambda: log.replace(open_anew(str(tmp_path / "new"), "access_log"))
    log.write(b"x\n")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()) == (b"", b"x\n")
    log.close()


def test_pipe_buf_is_what_linux_says() -> None:
    """pipe(7); the rules above count on it."""
    assert select.PIPE_BUF == 4096
