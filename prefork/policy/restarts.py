"""When a start has failed, how long to wait before the next.

A worker or zygote that ends before it was ready, or so soon after that it cannot have been of use, is a failed
start. The first failure costs nothing (a stray kill is not a crash loop), from the second on the wait doubles up to
half a minute. One start that lasts ends the series, as in Erlang's restart intensity. Ends that come while a wait is
on belong to starts from before it and lengthen nothing: thirty workers killed at one stroke are no long series.

Besides, deaths are counted, whatever was useful before. Nearly as many as the pool may have workers, which one stroke
may kill, are made up for at once, and all of them within a second; beyond that `MADE_UP_A_SECOND`: an application that
dies of every request costs so many forks a second, however many workers it has and however long they waited for their
request, and in the first second not more than ten, or as many as it has workers. Those that we kill for a request
that takes too long are not counted: the limit itself says how many that can be.

What is remembered is said of some code: at the commit of a reload it is forgotten, so that the mend of a crash loop
does not wait for the crash loop.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from prefork.policy.model import PoolMemory

__all__ = [
    "FIRST_WAIT",
    "LONGEST_WAIT",
    "LONGEST_WAIT_FOR_READY",
    "MADE_UP_A_SECOND",
    "USEFUL_LIFE",
    "after_end",
    "after_use",
    "are_dying",
    "count_death",
    "forget",
    "held_back",
]

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 30.0
LONGEST_WAIT_FOR_READY: Final = 1.0
"""The same after the death of one that was ready: a request that kills its worker must not take the others' turn."""

USEFUL_LIFE: Final = 1.0
"""Seconds a process must have been ready for before its end says nothing about its start."""

_A_FEW: Final = 2.0

MADE_UP_A_SECOND: Final = 5.0
"""Deaths that a second makes up for, beyond as many as the pool may have workers."""


def forget(memory: PoolMemory, cutoff: int) -> PoolMemory:
    """The memory of a pool whose code begins with the generation ``cutoff``: nothing, where that was replaced."""
    if memory.cutoff == cutoff:
        return memory
    return replace(memory, failures=0, not_before=0.0, deaths=0.0, deaths_at=0.0, cutoff=cutoff)


def count_death(memory: PoolMemory, workers: int, now: float) -> PoolMemory:
    """A process of a pool that may have so many ``workers`` has died."""
    return replace(memory, deaths=min(2.0 * workers, _left(memory, now) + 1.0), deaths_at=now)


def held_back(memory: PoolMemory, workers: int, now: float) -> int:
    """How many of the workers that are missing shall not be forked yet."""
    at_once = min(float(workers), max(MADE_UP_A_SECOND, workers - MADE_UP_A_SECOND))
    return math.ceil(max(0.0, _left(memory, now) - at_once))


def are_dying(memory: PoolMemory, now: float) -> bool:
    """Whether so many have died lately that the lack of workers is no want of more."""
    return _left(memory, now) > _A_FEW


def _left(memory: PoolMemory, now: float) -> float:
    return max(0.0, memory.deaths - MADE_UP_A_SECOND * (now - memory.deaths_at))


def after_end(memory: PoolMemory, ready: float | None, now: float) -> PoolMemory:
    """A process that was ready since ``ready`` (None: never) has ended."""
    if ready is not None and now - ready >= USEFUL_LIFE:
        return replace(memory, failures=0, not_before=0.0)
    if now < memory.not_before:
        return memory
    longest = LONGEST_WAIT if ready is None else LONGEST_WAIT_FOR_READY
    wait = min(longest, FIRST_WAIT * 2.0 ** min(memory.failures - 1, 16)) if memory.failures else 0.0
    return replace(memory, failures=memory.failures + 1, not_before=now + wait)


def after_use(memory: PoolMemory) -> PoolMemory:
    """A process has lived long enough to be of use."""
    return replace(memory, failures=0, not_before=0.0)
