"""How long the request at hand may take (``request_timeout``), and where its application may be told that it is over.

The worker measures nothing. The master watches; when a request has taken too long, it writes its number into the
control page and signals, once a second while that request runs. The handler of that signal calls
`Deadline.interrupt`, and that raises `RequestTimeout`, but only into code of the application: an exception in the midst
of ours would break a response in two, or lose the ``close()`` that is owed to the application's result.

Whose code runs is told by marks, which are set wherever one calls the other. Where it is ours, the timeout is
*pending*, and raised when ours returns to the application; and ours never waits for the client beyond the deadline
(`Connection.until`). Marks are needed because compiled code has no frames; the frames are looked at because plain code
can be interrupted between a call and its mark.
"""

from __future__ import annotations

import time
from types import FrameType, TracebackType
from typing import Any, Final, final

from prefork.errors import RequestTimeout
from prefork.system.scoreboard import Slot
from prefork.system.stacks import is_ours
from prefork.worker.connection import Connection

__all__ = ["Deadline", "strip"]

_A_YEAR: Final = 366 * 86_400

# Frames of ours into which the timeout may be raised wherever no mark is set: what happens there between two marks is
# one call of the application's code, and nothing is lost with its outcome.
_OPEN: Final = frozenset({"FileWrapper.__next__", "Response._send_each", "Worker._accept"})


@final
class Deadline:
    """The deadline of one worker's requests, one after the other.

    ``number`` is the request that the application runs, 0 while it runs none. ``in_server`` says that our code runs in
    between, ``inside`` how many calls of the application into our code have not returned (its other threads may call
    as well).
    """

    def __init__(self, slot: Slot, soft: float | None = None) -> None:
        self.number = 0
        self.in_server = True
        self.inside = 0
        self.pending = False
        self._began = 0.0
        self._connection: Connection | None = None
        self._slot = slot
        self._soft = 0.0 if soft is None else soft

    def begin(self, connection: Connection, began: float) -> None:
        """The application is about to get the request that was published last. To be ended by `end`."""
        self.in_server = True
        self.inside = 0
        self.pending = False
        self._began = began
        self._connection = connection
        if self._soft > 0.0:
            connection.until = began + self._soft
        self.number = self._slot.requests

    def end(self) -> None:
        """The application has done all it had to do for its request."""
        self.number = 0
        self.in_server = True
        connection = self._connection
        if connection is not None:
            connection.until = 0.0
            self._connection = None

    def extend(self, seconds: Any) -> None:
        """``environ["prefork.extend_deadline"]``: see `prefork.hooks.extend_deadline`."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"extend_deadline() takes a number of seconds, found {type(seconds).__name__}")
        if not 0 < seconds < _A_YEAR:
            raise ValueError(f"extend_deadline() takes more than 0 and less than {_A_YEAR} seconds, found {seconds!r}")
        connection = self._connection
        if connection is None:
            raise RuntimeError("extend_deadline() needs a request that is being served; there is none")
        self._slot.extend(float(seconds))
        if connection.until > 0.0:
            connection.until += seconds

    def leave(self) -> None:
        """A call of the application into our code returns: the other half of ``inside += 1``."""
        self.inside -= 1
        if self.pending:
            self.returned()

    def returned(self) -> None:
        """A call returned while a timeout is pending: raise that, if it returns to the application's code."""
        if self.inside == 0 and not self.in_server:
            self.stop()

    def stop(self) -> None:
        """Raise what is pending."""
        connection = self._connection
        if connection is not None:
            error = connection.time_out(self._reason())
            self.pending = False
            raise error

    def tell_peer(self) -> None:
        """For the signal's handler: publish who connected for the request at hand. Nobody may have asked before."""
        if self._connection is not None:
            self._slot.tell_peer(self._connection.ask_peer())

    def interrupt(self, frame: FrameType | None) -> None:
        """For the signal's handler: raise `RequestTimeout` if the request's time is over and ``frame`` may take it."""
        connection = self._connection
        if connection is None or self.number == 0 or self._slot.timeout != self.number:
            return
        if not 0.0 < connection.until <= time.monotonic():  # it was given more time a moment ago, or told just now
            return
        if self.in_server or self.inside > 0 or _is_closed(frame):
            self.pending = True
        else:
            self.stop()

    def _reason(self) -> str:
        allowed = self._soft + self._slot.extension
        ran = time.monotonic() - self._began
        return f"the request has run for {ran:.1f} s; it may take {allowed:g} s (request_timeout)"


def _is_closed(frame: FrameType | None) -> bool:
    if frame is None:
        return True
    code = frame.f_code
    return is_ours(code.co_filename) and code.co_qualname not in _OPEN


def strip(error: BaseException | None) -> None:
    """Cut the tracebacks of timeouts off below the application's last frame: the handler of the signal is no news."""
    for _ in range(20):  # chains may be cyclic
        if error is None:
            return
        if isinstance(error, RequestTimeout):
            _cut(error.__traceback__)
        error = error.__cause__ or error.__context__


def _cut(trace: TracebackType | None) -> None:
    last: TracebackType | None = None
    while trace is not None:
        if not is_ours(trace.tb_frame.f_code.co_filename):
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None
