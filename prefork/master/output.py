"""What the application prints, as log events: pipes in the place of standard output and error (``catch_output``).

Each process has its own two, so it is known who spoke without believing anybody. The pipes are read in the master's
loop, a piece at a time; one that is full makes whoever prints into it wait for the master, never the master for it.
A pipe stays open until the last process that holds it is gone: a program that a worker started may speak after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from prefork.log import Logger
from prefork.system.channel import Place
from prefork.system.logfile import LogFile

__all__ = ["Outputs", "standard_streams"]

_AT_ONCE: Final = 2_048
"""Read from one pipe before the others get their turn: it may be a thousand lines."""

_FULL_PIPE: Final = 65_536
"""What a pipe holds, pipe(7): read before one is let go."""

_LONGEST_LINE: Final = 8_192
"""What is longer becomes several events: bytes of a line kept while its end has not come."""

_MOST_STRAYS: Final = 256
"""Pipes whose process is gone, kept open by programs it left behind. Beyond this the oldest is closed: they must not
use up the master's descriptors."""


class _Pipe:
    """One stream of one process."""

    def __init__(self, stream: str, place: int) -> None:
        self.stream = stream
        self.place = place
        self.pid = 0
        self.stray = False  # its process is gone: what is still said is said by programs that it started
        self.end, self.to_give = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.end, False)  # this end's description is ours alone
        self.rest = b""


class Outputs:
    """The pipes of one pool."""

    def __init__(
        self,
        logger: Logger,
        attend: Callable[[Any, Callable[[float], None]], None],
        dismiss: Callable[[Any], None],
        pid_in: Callable[[int], int],
    ) -> None:
        self._logger = logger
        self._attend = attend
        self._dismiss = dismiss
        self._pid_in = pid_in  # the pid in a place; 0 while it is not known
        self._pipes: list[_Pipe] = []

    def open(self, place: int) -> tuple[int, int]:
        """New pipes for the process in a place: the ends to give away, standard output's first.

        A place is a slot, or the negative generation of a zygote. The caller closes them when they are given. Raises
        OSError.
        """
        made: list[_Pipe] = []
        try:
            for stream in ("stdout", "stderr"):
                made.append(_Pipe(stream, place))
                self._attend(made[-1].end, partial(self._attended, made[-1]))
        except OSError:
            for pipe in made:
                self._dismiss(pipe.end)
                os.close(pipe.end)
                os.close(pipe.to_give)
            raise
        self.leave(place)  # whoever was there before: who comes now is not its process
        self._pipes += made
        return made[0].to_give, made[1].to_give

    def leave(self, place: int) -> None:
        """The process in a place is gone; to be called while its pid is still known."""
        for pipe in self._pipes:
            if pipe.place == place and not pipe.stray:
                self._identify(pipe)
                pipe.stray = True
        strays = [pipe for pipe in self._pipes if pipe.stray]
        for pipe in strays[: max(0, len(strays) - _MOST_STRAYS)]:
            self._let_go(pipe)

    def _identify(self, pipe: _Pipe) -> None:
        if not pipe.pid and not pipe.stray:
            pipe.pid = self._pid_in(pipe.place)

    def _attended(self, pipe: _Pipe, _now: float) -> None:
        self._read(pipe)

    def _read(self, pipe: _Pipe) -> bool:
        """Read a piece; False when there is none now."""
        try:
            data = os.read(pipe.end, _AT_ONCE)
        except BlockingIOError:
            return False
        self._identify(pipe)
        if not data:
            self._close(pipe)
            return False
        *lines, rest = (pipe.rest + data).split(b"\n")
        for line in lines:
            if line:
                self._say(pipe, line)
        while len(rest) > _LONGEST_LINE:
            self._say(pipe, rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        pipe.rest = rest
        return True

    def _say(self, pipe: _Pipe, line: bytes) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
        for start in range(0, len(text), _LONGEST_LINE):
            report = self._logger.warning if pipe.stream == "stderr" else self._logger.info
            facts: dict[str, Any] = {"stream": pipe.stream, "pid": pipe.pid or None}
            if pipe.place >= 0:
                facts["slot"] = pipe.place
            report("output", message=text[start : start + _LONGEST_LINE], **facts)

    def _close(self, pipe: _Pipe) -> None:
        if pipe.rest:
            self._say(pipe, pipe.rest)
        self._pipes.remove(pipe)
        self._dismiss(pipe.end)
        os.close(pipe.end)

    def _let_go(self, pipe: _Pipe) -> None:
        for _ in range(_FULL_PIPE // _AT_ONCE):
            if not self._read(pipe):
                break
        if pipe in self._pipes:
            self._close(pipe)

    def close(self) -> None:
        """Log what has been printed so far, and let go of everything."""
        for pipe in list(self._pipes):
            self._let_go(pipe)


def standard_streams(logs: Mapping[Place, LogFile], output: tuple[int, ...]) -> dict[int, int]:
    """What a process prints to, by number; nothing where that is what we print to. ``output`` is `Outputs.open`'s."""
    if output:
        return {1: output[0], 2: output[1]}
    error_log = logs.get(Place.ERROR_LOG)
    return {2: error_log.fileno()} if error_log is not None and error_log.path and error_log.is_file else {}
