"""The Date field of a response (RFC 9110, section 5.6.7), made once a second at most, in English in every locale."""

from __future__ import annotations

import time
from typing import Final, final

__all__ = ["HttpDate"]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@final
class HttpDate:
    """Now, as HTTP writes it."""

    _second: int = -1
    _text: str = ""

    def now(self) -> str:
        """The date and time in the preferred format."""
        second = int(time.time())
        if second != self._second:
            t = time.gmtime(second)
            self._text = (
                f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
                f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
            )
            self._second = second
        return self._text
