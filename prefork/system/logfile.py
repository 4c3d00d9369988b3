"""One log as a process writes to it: a line is one write(2), nothing is ever waited for, what is lost is counted.

* A file is written in append mode, so that the lines of many processes never mix (open(2), O_APPEND). A line that a
  full disk cut short is taken back.
* A pipe or terminal may have a reader that stopped (Ctrl-S, a full pipe). It is written through a description that is
  non-blocking for us alone; O_NONBLOCK is never set on one that we share with whoever started us. A line longer than
  PIPE_BUF is written only where there is room for the whole of it (pipe(7)): a piece would run into the next line.
* A terminal is written in the background as well, also where it stops those who do (stty tostop).
* The descriptor keeps its number for life; `LogFile.replace` puts another file behind it (dup2(2) is atomic), so a
  log is renewed at any moment, also from a signal handler.
* An application may close descriptors that are not its own. Ours are far up, where no other file gets its number by
  being opened, and a write that finds it closed says so (`LogFile.stolen`).

How logs come to be open is the business of `prefork.system.logplaces`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import termios
import time
from collections.abc import Callable
from typing import Final, final

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "LogFile", "far_up"]

# Severities of syslog(3).
ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6
DEBUG: Final = 7

_DAEMON: Final = 3 << 3  # facility, syslog(3)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_PIPE_BUF: Final = select.PIPE_BUF
_PAGE: Final = 4096
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

_FILE: Final = 0  # a regular file, or a device that is no terminal
_OURS: Final = 1  # a pipe, non-blocking
_SHARED: Final = 2  # a pipe that could not be opened anew
_SOCKET: Final = 3
_TERMINAL: Final = 4  # non-blocking, or, where it could not be opened anew, shared

# A terminal that says POLLOUT has room for one of these: pseudo terminals give theirs by the 256 bytes (tty_buffer.c),
# and after each run of plain characters they look anew (process_output_block, n_tty.c).
_PIECE: Final = re.compile(rb"[^\x00-\x1f\x7f]{1,256}|[\x00-\x1f\x7f]")

# The highest numbers below what select(2) can watch, or below the limit of this process.
_TOP: Final = 1024
_ROOM_AT_TOP: Final = 32


def far_up(descriptor: int) -> int:
    """A duplicate with a number that no open(2) of the application will get; the original stays open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    top = _TOP if soft == resource.RLIM_INFINITY else min(soft, _TOP)
    for lowest in (top - _ROOM_AT_TOP, 0):
        try:
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, max(3, lowest))
        except OSError as problem:
            if problem.errno not in (errno.EMFILE, errno.EINVAL) or lowest <= 0:
                raise
    raise AssertionError("unreachable")


def _kind_of(descriptor: int) -> int:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _SOCKET
    if stat.S_ISCHR(mode) and os.isatty(descriptor):
        return _TERMINAL
    if stat.S_ISFIFO(mode):
        return _SHARED if os.get_blocking(descriptor) else _OURS
    return _FILE


@final
class LogFile:
    """A log that is open. ``name`` is what the operator calls it; ``path`` where it can be opened anew, or empty.

    ``lost`` counts the lines that could not be written since the last report, ``problem`` says why in words.
    ``before`` is called before every line (it may renew the log), ``on_loss`` at the first line that is lost,
    ``on_recovery`` when one is written after losses.
    """

    def __init__(self, descriptor: int, name: str, path: str = "", *, syslog: str = "") -> None:
        self.name = name
        self.path = path
        self.syslog = syslog  # the path of the socket, if this is one
        self.lost: int = 0
        self.problem = ""
        self.stolen = False
        self.before: Callable[[], None] | None = None
        self.on_loss: Callable[[LogFile], None] | None = None
        self.on_recovery: Callable[[LogFile], None] | None = None
        self.followers: tuple[int, ...] = ()  # numbers that shall mean the same file, as 2 for standard error
        self._torn = False
        self._descriptor: int = descriptor
        self._socket: socket.socket | None = None
        self._look()

    def _look(self) -> None:
        self._kind: int = _kind_of(self._descriptor)
        self._is_pipe = stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        if self._kind == _SOCKET:
            blocking = os.get_blocking(self._descriptor)
            self._socket = socket.socket(fileno=self._descriptor)
            # As it is, whatever the application's socket.setdefaulttimeout() says.
            self._socket.settimeout(None if blocking else 0.0)

    def fileno(self) -> int:
        """The number of the descriptor."""
        return self._descriptor

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        try:
            return stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        except OSError:
            return False

    def write(self, line: bytes, severity: int = INFO) -> None:
        """Write one line, which ends in a line feed. Never waits, never raises for what the other side does."""
        if self.before is not None:
            self.before()
        if self.syslog:
            line = self._as_datagram(line, severity)
        elif self._torn:
            line = b"\n" + line
        try:
            if self._kind <= _OURS:
                if self._is_pipe and len(line) > _PIPE_BUF:
                    self._check_room(len(line))
                written: int = os.write(self._descriptor, line)
            else:
                written = self._put(line)
        except OSError as problem:
            self._lose(problem)
            return
        if written < len(line):
            self._written_in_part(line, written)
        elif self.lost or self._torn:
            self._torn = False
            self._recover()

    def _put(self, line: bytes) -> int:
        """The less usual places."""
        if self._kind == _TERMINAL:
            return self._put_on_terminal(line)
        if self._socket is None:
            return self._put_shared(line)
        try:
            return self._socket.send(line, _SEND_FLAGS)
        except OSError as problem:
            # The syslog daemon was started anew: its socket is another one (unix(7)).
            if not self.syslog or problem.errno not in (errno.ECONNREFUSED, errno.ENOTCONN):
                raise
            self._socket.connect(self.syslog)
            return self._socket.send(line, _SEND_FLAGS)

    def _put_shared(self, line: bytes) -> int:
        if self._is_pipe and len(line) > _PIPE_BUF:
            self._check_room(len(line))
        try:
            return os.pwritev(self._descriptor, [line], -1, os.RWF_NOWAIT)
        except OSError as problem:
            if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE):
                raise
        # A kernel before 6.4: look, then write what fits by what the look says.
        return self._put_in_pieces([line[start : start + _PIPE_BUF] for start in range(0, len(line), _PIPE_BUF)])

    def _put_on_terminal(self, line: bytes) -> int:
        # Who blocks SIGTTOU may write from the background; who only handles it would be asked again for ever.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            if os.get_blocking(self._descriptor):
                return self._put_in_pieces(_PIECE.findall(line))
            return os.write(self._descriptor, line)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _put_in_pieces(self, pieces: list[bytes]) -> int:
        """Write each for which there is room; returns how much that was. BlockingIOError where it is nothing."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        done = 0
        for piece in pieces:
            if not waiting.poll(0):
                break
            try:
                done += os.write(self._descriptor, piece)
            except OSError:
                if not done:
                    raise
                break
        if not done:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return done

    def _check_room(self, size: int) -> None:
        """Raise BlockingIOError unless that many bytes fit in the pipe now. A page may be half used."""
        capacity = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
        used = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)))[0]
        if size > capacity - min(capacity, 2 * used + _PAGE * (used > 0)):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _as_datagram(self, line: bytes, severity: int) -> bytes:
        """What syslog(3) would send; the months are English by RFC 3164, whatever the locale."""
        now = time.localtime()
        when = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        return f"<{_DAEMON | severity}>{when} prefork[{os.getpid()}]: ".encode() + line.rstrip(b"\n")

    def _written_in_part(self, line: bytes, written: int) -> None:
        if self._kind != _FILE:
            self._torn = True
            self._lose(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            return
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as problem:
            self._torn = not self._take_back(written)
            self._lose(problem)
            return
        self._torn = False
        if self.lost:
            self._recover()

    def _take_back(self, count: int) -> bool:
        """Remove what was written of a line. It is the end of the file: where there is no room, nobody adds to it."""
        try:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - count)
        except OSError:  # a device, or a file that somebody else cut meanwhile
            return False
        return True

    def _lose(self, problem: OSError) -> None:
        first = self.lost == 0
        self.lost += 1
        self.problem = problem.strerror or str(problem)
        if problem.errno == errno.EBADF:
            self.stolen = True
        if first and self.on_loss is not None:
            self.on_loss(self)

    def _recover(self) -> None:
        if self.lost and self.on_recovery is not None:
            self.on_recovery(self)

    def replace(self, descriptor: int) -> None:
        """Go on in another file; ``descriptor`` is closed, the number stays. Followers that still follow go along."""
        try:
            old = os.fstat(self._descriptor)
            for number in self.followers:
                if os.path.samestat(old, os.fstat(number)):
                    os.dup2(descriptor, number)
        except OSError:
            pass  # closed by the application: its own decision for standard error, and a new start for the log
        if descriptor != self._descriptor:  # as it may be where the application closed ours
            os.dup2(descriptor, self._descriptor, inheritable=False)
            os.close(descriptor)
        self.stolen = False
        self._torn = False
        self._look()

    def start_over(self) -> None:
        """In a forked process that goes on writing: its parent's losses are the parent's to report."""
        self.lost = 0

    def forget(self) -> None:
        """In a process that the application forked: let go of the log; what is still said goes to standard error."""
        self.before = self.on_loss = self.on_recovery = None
        self.syslog = ""
        self.lost = 0
        self._release()
        self._descriptor = 2
        self._kind, self._is_pipe, self._socket = _FILE, False, None

    def close(self) -> None:
        """Close it; to be called once."""
        self._release()

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.detach()
        try:
            os.close(self._descriptor)
        except OSError:
            pass  # the application was faster
