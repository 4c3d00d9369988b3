"""When the listen queue of a pool is full, and since when.

``listen(2)`` with a limit of n admits n + 1 waiting connections on a Unix socket; from then on connect(2) fails with
EAGAIN, which nginx logs as "11: Resource temporarily unavailable". The refused connects leave no trace at the
listener, so their number is not known and none is invented: what can be said is for how long at least the queue was
seen full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from prefork.policy.model import IDLE, Action, PoolMemory, PoolView, QueueEnded, QueueFull

__all__ = ["LOOK_AGAIN", "RunningRequest", "describe", "everyone_busy", "watch"]

LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at the queue while no worker is idle: some 50 µs of system time each."""

_GROUPS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """What one worker says it is doing."""

    method: str
    uri: str
    seconds: float


def everyone_busy(pool: PoolView) -> bool:
    """No worker of an open pool says that it waits in accept(2)."""
    return pool.open and not any(
        pool.states[worker.slot] == IDLE for worker in pool.workers if worker.listening and worker.retired is None
    )


def watch(pool: PoolView, memory: PoolMemory, now: float) -> tuple[PoolMemory, tuple[Action, ...]]:
    """Follow one pool's queue; returns what to remember and what to report."""
    if pool.waiting is None or pool.limit is None:
        return memory, ()
    if pool.waiting > pool.limit:
        peak = max(memory.full_peak, pool.waiting)
        if memory.full_since is not None:
            return replace(memory, full_seen=now, full_peak=peak), ()
        remembered = replace(memory, full_since=now, full_seen=now, full_peak=peak)
        return remembered, (QueueFull(pool.name, pool.waiting, pool.limit),)
    if memory.full_since is None:
        return memory, ()
    ended = QueueEnded(pool.name, memory.full_seen - memory.full_since, memory.full_peak, pool.limit)
    return replace(memory, full_since=None, full_peak=0), (ended,)


def describe(requests: list[RunningRequest]) -> list[str]:
    """Running requests grouped by method and path, the largest group first: "47 × GET /orders, 2.1–9.8 s"."""
    groups: dict[tuple[str, str], list[float]] = {}
    for request in requests:
        path = request.uri.partition("?")[0]
        groups.setdefault((request.method, path), []).append(request.seconds)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    lines = []
    for (method, path), seconds in ordered[:_GROUPS_SHOWN]:
        shortest, longest = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
        span = shortest if shortest == longest else f"{shortest}–{longest}"
        lines.append(f"{len(seconds)} × {method} {path}, {span} s")
    if len(ordered) > _GROUPS_SHOWN:
        others = sum(len(seconds) for _, seconds in ordered[_GROUPS_SHOWN:])
        lines.append(f"{others} others")
    return lines
