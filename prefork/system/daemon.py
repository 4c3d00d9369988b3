"""Going into the background: a daemon that is detached, and a launcher that waits for the truth.

`launch` forks. The child detaches itself with python-daemon: a session of its own, no controlling terminal, standard
streams from and to /dev/null, no descriptor that was not asked for. What an operator has set stays: umask,
working directory, limits, environment. The launcher stays in the foreground and ends only when it knows.

Between the two runs one sequenced-packet socket, and the protocol is a handshake, so that there is no moment at which
the launcher reports one thing and the server does another:

    daemon → launcher   serving, or why not
    launcher → daemon   acknowledged

* A daemon that hears the end of the line before the acknowledgement has lost its launcher (killed, interrupted) and
  is to stop: nobody would know that it runs.
* A launcher that hears the end of the line before a report has lost its daemon, and says so.
* An interrupt (Ctrl-C) takes the start back from the fork to the acknowledgement, at whatever moment it comes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any, Final

from prefork.errors import (
    AddressInUse,
    ApplicationError,
    ConfigurationError,
    PermissionProblem,
    PreforkError,
)
from prefork.system.channel import shorten

__all__ = ["Heard", "Link", "fill_standard_streams", "launch", "redirect_output"]

_ACKNOWLEDGED: Final = b"ok"
_LARGEST_REPORT: Final = 200_000  # what one message may hold: net.core.wmem_default is 212,992
_LONGEST_TEXT: Final = 60_000
_FAREWELL: Final = 10.0  # seconds an interrupted launcher waits for the end of what it started
_BEAT: Final = 0.5  # seconds after which a signal is seen that came just before a wait began
_STREAMS: Final = ("stdin", "stdout", "stderr")
_LAST_STREAM: Final = 2

_BY_STATUS: Final = {kind.exit_status: kind for kind in (AddressInUse, PermissionProblem, ConfigurationError)}


class Heard(Enum):
    """What the daemon hears from its launcher."""

    NOTHING = auto()
    ACKNOWLEDGED = auto()  # the launcher knows that we serve, and has left
    GONE = auto()  # it left without knowing


class Link:
    """The daemon's end of the line to its launcher. Nothing here raises because the launcher is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.setblocking(False)

    def fileno(self) -> int:
        """Readable when `hear` has something to tell."""
        return self._end.fileno()

    def serving(self, *lines: str) -> None:
        """Tell the launcher that every pool serves; ``lines`` are for its reader, if that is a person."""
        self._send({"lines": [shorten(line, 2_000) for line in lines[:64]]})

    def failed(self, error: BaseException, traceback: str = "") -> None:
        """Tell the launcher why nothing is served. It raises the same, if it is one of ours."""
        status = error.exit_status if isinstance(error, PreforkError) else PreforkError.exit_status
        traceback = error.traceback if isinstance(error, ApplicationError) else traceback
        self._send(
            {
                "status": status,
                "message": shorten(str(error), _LONGEST_TEXT),
                "traceback": shorten(traceback, _LONGEST_TEXT),
            }
        )

    def hear(self) -> Heard:
        """What came from the launcher, without waiting."""
        try:
            data = self._end.recv(len(_ACKNOWLEDGED))
        except BlockingIOError:
            return Heard.NOTHING
        except OSError:
            return Heard.GONE
        return Heard.ACKNOWLEDGED if data == _ACKNOWLEDGED else Heard.GONE

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _send(self, report: dict[str, Any]) -> None:
        with suppress(OSError):
            self._end.send(json.dumps(report).encode(), socket.MSG_NOSIGNAL)


def fill_standard_streams() -> None:
    """Open /dev/null where a standard stream is closed, or its number would be taken by the next file that is opened.

    To be called before anything else is opened.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        os.set_inheritable(descriptor, True)
        name = _STREAMS[descriptor]
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115 - kept open
    os.close(descriptor)


def launch(keep: Iterable[int] | None) -> Link | None:
    """Fork a daemon. There it returns the line to the launcher; in the launcher it waits, and returns None.

    ``keep`` are the descriptors that the daemon keeps; with None it keeps all that are open. Its standard streams lead
    to /dev/null, until `redirect_output`.

    In the launcher, None means that every pool serves. Otherwise it raises what the server said, or `PreforkError`
    where it ended without a word. A KeyboardInterrupt passes when the daemon has ended, too.
    """
    above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):  # what is buffered must not be written twice
        with suppress(OSError, ValueError):
            stream.flush()
    before = _hold_signals()
    try:
        middle = os.fork()
    except BaseException as problem:  # as an audit hook may raise anything
        above.close()
        below.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if isinstance(problem, OSError):
            raise PreforkError(f"cannot fork: {problem.strerror}") from problem
        raise
    if middle:
        below.close()
        with above:
            _wait(above, middle, before)
        return None
    above.close()
    link = Link(below)
    try:
        _detach(None if keep is None else set(keep), below.fileno())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException as error:  # noqa: BLE001 - a child must not run its parent's code, whatever happens
        link.failed(PreforkError(f"cannot become a daemon: {error}"))
        os._exit(PreforkError.exit_status)
    return link


def redirect_output(descriptor: int) -> None:
    """Make this the standard output and error: what the application prints, and what the interpreter complains of."""
    for stream in (1, 2):
        os.dup2(descriptor, stream)


def _detach(keep: set[int] | None, link: int) -> None:
    from daemon import DaemonContext  # only whoever becomes one pays for it

    kept = {int(name) for name in os.listdir("/proc/self/fd")} if keep is None else keep
    # A listener that was passed as a standard stream stays where it is until it is claimed, and is moved then.
    streams = [_stream(number, keep or set()) for number in range(_LAST_STREAM + 1)]
    DaemonContext(
        umask=_umask(),
        working_directory=os.curdir,
        prevent_core=False,
        detach_process=True,
        signal_map={},
        files_preserve=[*kept, link],
        **dict(zip(_STREAMS, streams, strict=True)),
    ).open()
    for stream in streams:
        stream.close()


def _stream(number: int, keep: set[int]) -> IO[bytes]:
    """What python-daemon shall put in the place of a standard stream: it wants an object that has a descriptor."""
    return open(number if number in keep else os.devnull, "r+b", buffering=0, closefd=number not in keep)


def _umask() -> int:
    """The umask of this process, read without changing it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Umask":
            return int(value, 8)
    raise PreforkError("/proc/self/status has no Umask: expected Linux 4.7 or later")


def _hold_signals() -> set[int]:
    """Let all signals wait; returns those that had to before. Raises what the handler of an earlier one raises.

    Python drops an exception that a signal raises within os.fork(), where modules have functions called at a fork; and
    after it neither process is yet where an exception would be understood.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    return before


def _wait(line: socket.socket, middle: int, before: set[int]) -> None:
    """The launcher's part, from the fork until the daemon serves, or has failed. Signals are held, and let through."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        said = _receive(line)
        _reap(middle)
        if not said:
            raise PreforkError("the server ended before it served, and could not say why: see its error log")
        report: dict[str, Any] = json.loads(said)
        if "status" in report:
            raise _error(report)
        _hold_signals()
    except KeyboardInterrupt:
        _end_together(line, middle)
        raise
    with suppress(OSError):
        line.send(_ACKNOWLEDGED, socket.MSG_NOSIGNAL)
    with suppress(KeyboardInterrupt):  # too late: it serves
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if sys.stderr is not None and sys.stderr.isatty():
            print(*report["lines"], sep="\n", file=sys.stderr, flush=True)  # noqa: T201 - the launcher's is a person


def _receive(line: socket.socket) -> bytes:
    """The daemon's report; empty when it has none."""
    line.settimeout(_BEAT)
    while True:
        try:
            return line.recv(_LARGEST_REPORT)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""


def _end_together(line: socket.socket, middle: int) -> None:
    """Hang up, and wait for the end of what was started. A second interrupt does not wait."""
    line.shutdown(socket.SHUT_WR)
    line.settimeout(_FAREWELL)
    with suppress(TimeoutError):
        with suppress(ConnectionError):
            while line.recv(_LARGEST_REPORT):
                pass
        _reap(middle)


def _reap(middle: int) -> None:
    """The process that forked the daemon has ended, or does so now."""
    with suppress(ChildProcessError):
        os.waitpid(middle, 0)


def _error(report: dict[str, Any]) -> PreforkError:
    message, traceback, status = report["message"], report["traceback"], report["status"]
    if traceback and status == ApplicationError.exit_status:
        return ApplicationError(message, traceback)
    if traceback:
        return PreforkError(f"{message}\n{traceback}")
    return _BY_STATUS.get(status, PreforkError)(message)
