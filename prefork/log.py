"""Log events of prefork: one name, the pool, and numbers; one line, one write.

structlog is used without its global configuration, which belongs to the application: the logger is built from its
parts, and the application may call ``structlog.configure`` as it likes.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

__all__ = ["LEVELS", "Logger", "make_logger"]

LEVELS: Final = ("debug", "info", "warning", "error")

_FIRST: Final = ("timestamp", "level", "event", "pool")

Logger = structlog.typing.FilteringBoundLogger


class _LineWriter:
    """The last step: one ``write(2)`` a line, so that lines of many processes never mix (PIPE_BUF, pipe(7))."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def msg(self, message: str) -> None:
        data = message.encode("utf-8", "backslashreplace") + b"\n"
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # nobody is left to tell

    debug = info = warning = error = critical = log = exception = msg


def _in_reading_order(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how grave, what; then the pool; then the numbers."""
    first = {key: event[key] for key in _FIRST if key in event}
    return {**first, **event}


def make_logger(*, level: str = "info", format: str = "auto", descriptor: int = 2, **bound: Any) -> Logger:
    """A logger that writes to ``descriptor``, console style on a terminal and JSON elsewhere (``format="auto"``).

    ``bound`` stands in every event (the pool's name, for one).
    """
    console = os.isatty(descriptor) if format == "auto" else format == "console"
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    logger: Logger = structlog.wrap_logger(
        _LineWriter(descriptor),
        processors=[
            structlog.processors.add_log_level,
            # A terminal's reader wants the clock on his wall; a log that is collected, one that has no zone.
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            _in_reading_order,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=False,
    ).bind(**bound)
    return logger
