"""The time zone that the server was started in, for times that people read.

An application may change the zone of its process (Django does, by TIME_ZONE and tzset(3)); the lines of one log are
all to be of one zone. So it is read once, from where the C library has it: $TZ, else /etc/localtime.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

__all__ = ["in_zone", "keep_zone", "show_time"]


@cache
def keep_zone() -> tzinfo | None:
    """The zone of the first call, with its changes in summer; later calls return the same, in forks as well.

    None where it cannot be kept (a rule as in POSIX, "CET-1CEST", has no file): times are then the process's own.
    """
    name = os.environ.get("TZ", "/etc/localtime").removeprefix(":")
    now = time.time()
    try:
        with open(os.path.join(os.environ.get("TZDIR", "/usr/share/zoneinfo"), name or "UTC"), "rb") as file:
            zone = ZoneInfo.from_file(file)
        offset = datetime.fromtimestamp(now, zone).utcoffset()
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, what is lost is a comfort
        return None
    same = offset is not None and offset.total_seconds() == time.localtime(now).tm_gmtoff
    return zone if same else None


def in_zone(moment: float) -> datetime:
    """A Unix time in the zone that is kept."""
    return datetime.fromtimestamp(moment, UTC).astimezone(keep_zone())


def show_time(moment: float, format: str) -> str:
    """A Unix time as strftime(3) shows it."""
    # The C library would take the zone of the process for %s.
    return in_zone(moment).strftime(re.sub("%.", lambda found: _plain(found.group(), moment), format))


def _plain(token: str, moment: float) -> str:
    return str(int(moment)) if token == "%s" else token
