"""How slow a client may be: it may take as long as it needs, as long as it does not stand still or crawl."""

from __future__ import annotations

from typing import final

__all__ = ["Pace"]


@final
class Pace:
    """One direction of one request's traffic: the body as it comes, or the response as it is taken.

    A client *lags* by the seconds for which it was waited for, and catches up one second with every ``min_rate`` bytes
    that it moved; it can be level, never ahead. When it lags ``timeout`` seconds behind, its time is over. So one that
    stands still has ``timeout`` seconds, one that is slower than ``min_rate`` bytes a second not much more, one at
    that rate or above as long as it likes, and nobody saves up time for later. With ``min_rate`` 0 a single byte makes
    it level. (Apache's mod_reqtimeout measures likewise, but lets time be saved up.)
    """

    def __init__(self, timeout: float, min_rate: int) -> None:
        self.timeout = timeout
        self.min_rate = min_rate
        self.lag = 0.0
        self._still = 0.0  # seconds of waiting since something moved

    @property
    def left(self) -> float:
        """How many seconds it may be waited for now, if nothing moves meanwhile."""
        return self.timeout - self.lag

    @property
    def stands_still(self) -> bool:
        """Whether nothing at all has moved within the timeout."""
        return self._still >= 0.99 * self.timeout  # a sum of measured times

    def waited(self, seconds: float) -> None:
        """The client was waited for."""
        self.lag += seconds
        self._still += seconds

    def moved(self, size: int) -> None:
        """The client moved so many bytes."""
        if size > 0:
            self.lag = max(0.0, self.lag - size / self.min_rate) if self.min_rate else 0.0
            self._still = 0.0
