"""How long a request has waited for a worker, by the stamp of its proxy, and whether that was too long.

The proxy's clock is compared with ours, both of them as the calendar has it. On one machine they are the same; when it
is set (or the machine slept) while requests wait, their stamps mean nothing, and none of those is refused. Against
another machine's clock nothing helps but to keep both right.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final, final

from prefork.protocol import request_start
from prefork.protocol.request_start import UNKNOWN

__all__ = ["QueueTime"]

_STEP: Final = 0.5  # seconds: the difference of two clocks changes by less than this as long as nobody sets one


@final
class QueueTime:
    """What one worker knows of the waiting of its requests; ``timeout`` in seconds, None for however long.

    ``waited`` is what the last one is known to have waited, `UNKNOWN` if that is not known. ``refused`` counts
    those that were refused for it.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = math.inf if timeout is None else timeout
        self.retry_after = 1 if timeout is None else max(1, math.ceil(timeout))  # seconds: when such a queue is over
        self.waited = UNKNOWN
        self.refused = 0
        self._offset = time.time() - time.monotonic()
        self._since = 0.0  # stamps before this moment come from a clock that was set since

    def measure(self, environ: dict[str, Any], monotonic: float) -> None:
        """Find out how long a request has waited until now, and tell the application if that is known."""
        self.waited = UNKNOWN
        if "REQUEST_START" not in environ and "HTTP_X_REQUEST_START" not in environ:
            return
        stamp: str = environ.get("REQUEST_START") or environ.get("HTTP_X_REQUEST_START") or ""
        now = time.time()
        offset = now - monotonic
        if abs(offset - self._offset) > _STEP:
            self._offset = offset
            self._since = now
        start = request_start.parse(stamp)
        self.waited = UNKNOWN if start < self._since else request_start.waited(start, now)
        if self.waited != UNKNOWN:
            environ["prefork.queue_seconds"] = self.waited
