"""Log events of prefork: one name, the pool, and numbers; one line, one write (for people, a traceback below it).

structlog is used without its global configuration, which belongs to the application: the logger is built from its
parts, and the application may call ``structlog.configure`` as it likes. Where the lines go, and what becomes of those
that cannot be written, is the business of `prefork.system.logfile`. All events are named in docs/events.md.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import MutableMapping
from functools import partial
from typing import Any, Final

import structlog

from prefork.system.channel import shorten
from prefork.system.logfile import DEBUG, ERROR, INFO, WARNING, LogFile
from prefork.system.zone import in_zone, keep_zone

__all__ = ["LEVELS", "Logger", "make_logger", "report_losses", "watch_losses"]

LEVELS: Final = ("debug", "info", "warning", "error")

_FIRST: Final = ("timestamp", "level", "event", "pool")

# Bytes of one value. Even an event with a long traceback fits the pipe that a log may be (64 KiB, pipe(7)).
_LONGEST_VALUE: Final = 32_000

Logger = structlog.typing.FilteringBoundLogger


class _LineWriter:
    """The last step: a rendered event becomes a line of the log. structlog calls the method of the event's level."""

    def __init__(self, log: LogFile) -> None:
        self.debug = partial(self._write, log, DEBUG)
        self.info = partial(self._write, log, INFO)
        self.warning = partial(self._write, log, WARNING)
        self.error = self.critical = partial(self._write, log, ERROR)

    @staticmethod
    def _write(log: LogFile, severity: int, message: str) -> None:
        log.write(message.encode("utf-8", "backslashreplace") + b"\n", severity)


def _within_bounds(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST_VALUE // 8:
            event[key] = shorten(value, _LONGEST_VALUE)
    return event


def _local_time(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """In the zone that the server was started in, whatever the application makes of its own."""
    event["timestamp"] = in_zone(time.time()).isoformat(timespec="milliseconds")
    return event


def _in_reading_order(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how grave, what; then the pool; then the numbers."""
    first = {key: event[key] for key in _FIRST if key in event}
    return {**first, **event}


def _for_people(*, colors: bool) -> Any:
    """The event and its message, then the fields in the order in which they were said. What has lines of its own (a
    traceback, a stack, groups of workers) stands below, indented and without control characters, so that no line of it
    can pass for an event.
    """
    render = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)

    def spell(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        traceback = event.pop("traceback", None) or event.pop("stack", None) or ""
        if "message" in event:
            event["event"] = f"{event['event']}: {_printable(str(event.pop('message')))}"
        lines = [*event.pop("groups", ()), *traceback.split("\n")]
        below = "".join(f"\n    {_printable(line)}" for line in lines if line)
        for key, value in event.items():
            if isinstance(value, str) and not value.isprintable():
                event[key] = _Quoted(value)
        return str(render(logger, method, event)) + below

    return spell


class _Quoted:
    """A text that is shown as Python spells it, for a renderer that quotes where there are blanks."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _in_json() -> Any:
    """One object; what could command a terminal is escaped in it, for those who only look at the file."""
    render = structlog.processors.JSONRenderer(ensure_ascii=False)

    def spell(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        line = str(render(logger, method, event))
        return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)

    return spell


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def make_logger(log: LogFile, *, level: str = "info", format: str = "auto", **bound: Any) -> Logger:
    """A logger that writes to ``log``, console style on a terminal and JSON elsewhere (``format="auto"``).

    ``bound`` stands in every event (the pool's name, for one).
    """
    keep_zone()  # before an application can change it
    terminal = os.isatty(log.fileno())
    console = terminal if format == "auto" else format == "console"
    renderer: Any = _for_people(colors=terminal and not os.environ.get("NO_COLOR")) if console else _in_json()
    logger: Logger = structlog.wrap_logger(
        _LineWriter(log),
        processors=[
            structlog.processors.add_log_level,
            # A terminal's reader wants the clock on his wall; a log that is collected, one that has no zone.
            _local_time if console else structlog.processors.TimeStamper(fmt="iso", utc=True),
            _within_bounds,
            _in_reading_order,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=False,
    ).bind(**bound)
    return logger


def report_losses(log: LogFile, logger: Logger) -> None:
    """Say how many lines could not be written to ``log``, if any; where that cannot be written either, keep count."""
    count, problem = log.lost, log.problem
    if not count:
        return
    log.lost = 0
    logger.warning("log_lines_lost", count=count, log=log.name, error=problem, pid=os.getpid())
    if log.lost:
        log.lost = count


def watch_losses(log: LogFile, logger: Logger, *, own: bool) -> None:
    """Report the losses of ``log`` when it works again; when they begin as well, unless it is the logger's ``own``."""

    def begun(log: LogFile) -> None:
        logger.warning("log_not_writable", log=log.name, error=log.problem, pid=os.getpid())

    log.on_loss = None if own else begun
    log.on_recovery = partial(report_losses, logger=logger)
