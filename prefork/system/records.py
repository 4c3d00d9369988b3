"""What stands in the slots of a scoreboard, as the master reads it: a request, an account, and the sum of all accounts.

Workers wrote all of it. What cannot be true counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from prefork.system.peers import Process

__all__ = ["BELIEVABLE", "BOUNDS", "LONGEST", "Account", "SlotRecord", "Totals", "counted", "in_seconds"]

BOUNDS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Seconds: the upper bounds of the histograms' buckets, the same for all. One more bucket is for what is longer."""

BELIEVABLE: Final = 2**48
"""No counter gets there, though there is room for 64 bits, and no sum of seconds."""

LONGEST: Final = 2.0**31
"""Seconds: no request takes that long."""


class SlotRecord(NamedTuple):  # one is made for each worker, whenever the status is wanted: a tuple is made fastest
    """One slot as the master read it: a claim by the worker, not a fact."""

    requests: int
    started: float
    generation: int
    method: str
    uri: str
    extension: float = 0.0  # seconds that the request may take on top of its limits
    waited: float | None = None  # seconds that it had waited for a worker; None: unknown
    length: int | None = None  # bytes of its body, as announced; None: unknown
    peer: Process | str | None = None  # who connected; None: unknown


class Account(NamedTuple):
    """What the requests of one slot came to, as its workers said."""

    received: int = 0  # bytes of bodies that applications read
    sent: int = 0  # bytes of bodies
    last: float = 0.0  # seconds that the last request took; 0 before its worker has served one


@dataclass(frozen=True, slots=True)
class Totals:
    """What all workers there ever were came to. Counts of histograms are by bucket (`BOUNDS`), not cumulated."""

    requests: int  # begun
    counters: tuple[int, ...]  # `prefork.policy.model` names them
    received: int
    sent: int
    ran: tuple[int, ...]  # requests by how long they ran, until their responses were sent
    ran_seconds: float
    waited: tuple[int, ...]  # requests by how long they had waited, of those of which that is known
    waited_seconds: float


def counted(counts: Iterable[int]) -> tuple[int, ...]:
    """The same counters, as far as they can be true."""
    return tuple([count if count < BELIEVABLE else 0 for count in counts])


def in_seconds(total: float) -> float:
    """The same sum, if it can be true."""
    return total if 0.0 <= total < BELIEVABLE else 0.0  # NaN neither
