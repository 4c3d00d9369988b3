"""When a start has failed, how long to wait before the next.

A worker or zygote that ends before it was ready, or so soon after that it cannot have been of use, is a failed
start. The first failure costs nothing (a stray kill is not a crash loop), from the second on the wait doubles up to
half a minute. One start that lasts ends the series, as in Erlang's restart intensity. Ends that come while a wait is
on belong to starts from before it and lengthen nothing: thirty workers killed at one stroke are no long series.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefork.policy.model import PoolMemory

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "LONGEST_WAIT_FOR_READY", "USEFUL_LIFE", "after_end", "after_use"]

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 30.0
LONGEST_WAIT_FOR_READY: Final = 1.0
"""The same after the death of one that was ready: a request that kills its worker must not take the others' turn."""

USEFUL_LIFE: Final = 1.0
"""Seconds a process must have been ready for before its end says nothing about its start."""


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
