"""Log events of prefork: one name, the pool, and numbers; one line, one write.

structlog is used without its global configuration, which belongs to the application: the logger is built from its
parts, and the application may call ``structlog.configure`` as it likes.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import structlog

__all__ = ["LEVELS", "Logger", "make_logger"]

LEVELS: Final = ("debug", "info", "warning", "error")

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
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=False,
    ).bind(**bound)
    return logger


def flush_standard_streams() -> None:
    """Flush what Python itself has buffered, before a process of ours ends without finalization."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
