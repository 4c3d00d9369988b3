"""When the proxy took a request, as it says in a header (``X-Request-Start``) or parameter (``REQUEST_START``).

Written with or without ``t=``, in seconds with a fraction (nginx: ``t=${msec}``), milliseconds (13 digits) or
microseconds (16 digits; Apache: ``t=%t``). There is no standard; these are what is found in the field.

What makes no sense is *unknown*, never a reason to refuse a request: another spelling, a moment in the future, or one
that is longer ago than any proxy waits.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LONGEST", "UNKNOWN", "parse", "waited"]

UNKNOWN: Final = -1.0

LONGEST: Final = 3_600.0
"""Seconds that a request may be believed to have waited. nginx gives up after one minute unless told otherwise."""

_EARLY: Final = 1.0  # by how much two clocks may differ: such a request has not waited

_STAMP: Final = re.compile(r"(?:t=)?([0-9]{1,16})(\.[0-9]{1,9})?", re.ASCII)
_UNITS: Final = {10: 1.0, 13: 1e3, 16: 1e6}  # digits before the point: how many make a second; 2001 to 2286


def parse(text: str) -> float:
    """The moment, in seconds since 1970; `UNKNOWN` for what is none."""
    if len(text) == 16 and text[12] == "." and text.startswith("t="):  # nginx, without the expression
        digits = text[2:12] + text[13:]
        if digits.isdecimal() and digits.isascii():
            return int(digits) / 1e3
    found = _STAMP.fullmatch(text)
    if found is None:
        return UNKNOWN
    unit = _UNITS.get(len(found[1]))
    return UNKNOWN if unit is None else float(found[1] + (found[2] or "")) / unit


def waited(start: float, now: float) -> float:
    """How many seconds lie between the two, at least 0; `UNKNOWN` where that cannot be."""
    seconds = now - start
    if start < 0.0 or seconds < -_EARLY or seconds > LONGEST:
        return UNKNOWN
    return max(0.0, seconds)
