"""Mistakes of ours that must not end a server that serves: what became of them in the log."""

from __future__ import annotations

import time
import traceback
from typing import Final

from prefork.log import Logger

__all__ = ["AGAIN", "Faults"]

AGAIN: Final = 60.0
"""Seconds until the same fault is logged once more, with how often it came in between."""

_PAUSE: Final = 0.05
"""Seconds after a round of the loop in which something failed: what fails in every round must not keep a processor
busy."""

_MESSAGE: Final = "a mistake in prefork: the server serves on, but this was not done; please report it"


class Faults:
    """The faults of one master. What fails in one place of the source, in one way, is the same fault."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._told: dict[object, tuple[float, int]] = {}  # when, and how often it has come since
        self._new = False

    def tell(self, error: Exception, now: float) -> None:
        """Log a fault, unless it was logged a short time ago."""
        self._new = True
        place = traceback.extract_tb(error.__traceback__)[-1:]
        same = (type(error), *((frame.filename, frame.lineno) for frame in place))
        told_at, missed = self._told.get(same, (-AGAIN, 0))
        if now < told_at + AGAIN:
            self._told[same] = told_at, missed + 1
            return
        self._told[same] = now, 0
        trace = "".join(traceback.format_exception(error))
        text = f"{type(error).__name__}: {error}"
        self._logger.error("master_fault", error=text, repeated=missed, traceback=trace, message=_MESSAGE)

    def pause(self) -> None:
        """At the end of a round: a short pause if something failed in it."""
        if self._new:
            self._new = False
            time.sleep(_PAUSE)
