"""What the master knows, published for whoever shows it: once a second, and at once when a reader asks for news.

It is lines of JSON: the document, and then for each of its pools the processes, which are most of it and which few ask
for. Publishing costs time in proportion to the workers, so it happens only where somebody may read (a status pool,
or a pool that shows its own), and ten times a second at most, however often the bell is rung.

What workers do is looked at when it is put together. How many connections wait is that of the last look, in the round
before: the queue is counted for the plan, and is not counted once more for whoever reads.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from prefork.log import Logger
from prefork.master.loop import Master
from prefork.master.report import describe_pools, describe_recent, find_problems, note_look
from prefork.system.bulletin import Bulletin

__all__ = ["Publisher"]

_EVERY: Final = 1.0
_AT_MOST: Final = 0.1


class Publisher:
    """Publishes for a master that runs. Made before it does, closed after."""

    def __init__(self, master: Master, bulletin: Bulletin, logger: Logger) -> None:
        self._master = master
        self._bulletin = bulletin
        self._logger = logger
        self._published = 0.0
        self._rung = False
        self._failing = False
        master.at_serving(self._begin)
        master.at_beat(self._beat)

    def _begin(self) -> None:
        self._master.attend(self._bulletin.bell, self._ring)

    def _ring(self, now: float) -> None:
        self._bulletin.answer()
        note_look(self._master, now)
        self._rung = True

    def _beat(self, now: float) -> float | None:
        """Publish what is due; returns when it will be again."""
        if not any(hands.holdings.bulletin is not None for hands in self._master.pools):
            return None
        due = self._published + (_AT_MOST if self._rung else _EVERY)
        if now < due:
            return due
        self._publish(now)
        return now + _EVERY

    def _publish(self, now: float) -> None:
        begun = time.monotonic_ns()
        document: dict[str, Any] = {
            "pools": describe_pools(self._master, now),
            "recent": describe_recent(self._master),
            "problems": find_problems(self._master, now),
            "published": time.monotonic(),
        }
        processes = [pool.pop("processes") for pool in document["pools"]]
        self._published, self._rung = now, False
        try:
            self._bulletin.publish("\n".join(map(_encode, [document, *processes])).encode(), begun)
            self._failing = False
        except ValueError as error:  # beyond its room
            if not self._failing:
                self._logger.error("status_not_published", error=str(error))
            self._failing = True


def _encode(value: object) -> str:
    return json.dumps(value, allow_nan=False)
