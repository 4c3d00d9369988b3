"""What has happened to a pool since the server was started: how often, and of each kind the last ones.

For whoever shows it. Bounded in every direction: a server that has trouble for months must not grow by it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Ledger"]

_KEPT: Final = 50
_MOST_CAUSES: Final = 64
_OTHERS: Final = "other causes"
_LONGEST: Final = 16_384  # characters of a stack that is kept


class Ledger:
    """The book of one pool. Times of events are Unix times: they are for people."""

    def __init__(self) -> None:
        self.most_active = 0
        self.slow = 0  # requests longer than request_slowlog_timeout
        self.terminated = 0  # requests whose worker was killed for them
        self.queue_full = 0
        self.queue_full_seconds = 0.0  # of those times that are over
        self.queue_full_for = 0.0  # of the one that lasts, up to the last look at which it did
        self.saturations = 0  # times that no worker was idle and clients waited
        self.saturated_since: float | None = None  # Unix time; None: it is not so
        self.reloads = 0
        self.failed_reloads = 0
        self.deaths: dict[str, int] = {}  # by cause
        self.slow_requests: deque[Mapping[str, Any]] = deque(maxlen=_KEPT)
        self.dead_workers: deque[Mapping[str, Any]] = deque(maxlen=_KEPT)
        self.episodes: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def was_active(self, workers: int) -> None:
        """So many workers were busy at once."""
        self.most_active = max(self.most_active, workers)

    def died(self, cause: str, *, pid: int, slot: int, request: str) -> None:
        """A worker has ended that nobody had asked to; ``request`` is what it ran, if anything."""
        known = cause if cause in self.deaths or len(self.deaths) < _MOST_CAUSES else _OTHERS
        self.deaths[known] = self.deaths.get(known, 0) + 1
        self.dead_workers.append({"time": time.time(), "cause": cause, "pid": pid, "slot": slot, "request": request})

    def was_slow(self, facts: Mapping[str, Any], stack: str) -> None:
        """A request was slow; ``facts`` are those of the event ``request_slow``."""
        self.slow_requests.append(
            {
                "time": time.time(),
                "seconds": facts["elapsed"],
                "method": facts["method"],
                "uri": facts["uri"],
                "id": facts.get("request_id", ""),
                "pid": facts["pid"],
                "slot": facts["slot"],
                "stack": stack[:_LONGEST],
            }
        )

    def episode(self, start: float, peak: int, limit: int | None) -> dict[str, Any]:
        """A saturation that has begun; what is returned is for whoever follows it to fill in."""
        record: dict[str, Any] = {
            "start": start,
            "seconds": None,  # while it lasts
            "peak": peak,
            "limit": limit,
            "full_seconds": 0.0,
            "workers": 0,  # that were looked at
            "groups": [],
            "waited": "",
        }
        self.episodes.append(record)
        return record

    @property
    def full_seconds(self) -> float:
        """How long the listen queue was full, at least: it only grows."""
        return self.queue_full_seconds + self.queue_full_for

    def queue_ended(self, seconds: float) -> None:
        """The listen queue, which was full for so long, has room again."""
        self.queue_full_seconds += seconds
        self.queue_full_for = 0.0
