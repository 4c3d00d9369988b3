"""What a server remembers of its saturations, for lines of nginx's log that were written meanwhile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from prefork.cli.nginx_log import Complaint
from prefork.cli.past import culprit_of, span_of

__all__ = ["Episode", "recall"]

_SECOND: Final = timedelta(seconds=1)  # nginx writes whole ones, by a clock that it looks at now and then


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which every worker of a pool was busy and connections waited, in local time, as nginx writes it."""

    begun: datetime
    ended: datetime | None  # None: it lasts
    upstreams: frozenset[str]  # the names by which a proxy knows the pool
    file: str  # the last part of a path by which it may know it as well; "": none
    text: str  # "12:00:01–12:00:12: 47 of 50 in shop/db.py:88 fetch_user"

    def covers(self, complaint: Complaint) -> bool:
        """Whether a complaint is about this pool, and from this time."""
        upstream = complaint.upstream
        if upstream not in self.upstreams and not (self.file and os.path.basename(upstream) == self.file):
            return False
        return self.begun - _SECOND <= complaint.time and (self.ended is None or complaint.time <= self.ended + _SECOND)


def recall(answer: Mapping[str, Any], *, meant: bool) -> list[Episode]:
    """The episodes in a server's answer to ``saturation``.

    ``meant``  this server was named: a socket of the same name at another path is its own, since a path is another one
               in another mount namespace, or in the log of another machine
    """
    ways = ("socket", "path", "address")
    names = {pool["pool"]: {pool[way] for way in ways if pool.get(way)} for pool in answer["pools"]}
    files = {pool["pool"]: os.path.basename(pool["path"] or "") if meant else "" for pool in answer["pools"]}
    return [_episode(each, frozenset(names[each["pool"]]), files[each["pool"]]) for each in answer["episodes"]]


def _episode(each: Mapping[str, Any], upstreams: frozenset[str], file: str) -> Episode:
    begun = datetime.fromtimestamp(each["start"])  # noqa: DTZ006 - as nginx
    ended = None if each["seconds"] is None else begun + timedelta(seconds=each["seconds"])
    culprit = culprit_of(each)
    return Episode(begun, ended, upstreams, file, span_of(each) + (f": {culprit}" if culprit else ""))
