"""When the listen queue of a pool is full, or its workers are too few, and since when.

``listen(2)`` with a limit of n admits n + 1 waiting connections on a Unix socket; from then on connect(2) fails with
EAGAIN, which nginx logs as "11: Resource temporarily unavailable". The refused connects leave no trace at the
listener, so their number is not known and none is invented: what can be said is for how long at least the queue was
seen full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from prefork.policy.model import (
    Action,
    Phase,
    PoolMemory,
    PoolView,
    QueueEnded,
    QueueFull,
    SampleStacks,
    Saturated,
    Saturation,
    SaturationEnded,
)
from prefork.policy.roster import Roster

__all__ = [
    "EPISODES_A_MINUTE",
    "LASTS",
    "LOOK_AGAIN",
    "OVER",
    "RunningRequest",
    "describe",
    "watch",
    "watch_workers",
]

LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at the queue while no worker is idle: some 50 µs of system time each."""

LASTS: Final = 0.1
"""Seconds for which nobody must have been idle while connections wait, to be an episode.

It must be so at each look, every `LOOK_AGAIN` seconds or more often. A crowd of short requests is gone by then, which
waits for nothing but its turn; and what holds the workers of a pool, holds them for longer.
"""

OVER: Final = 1.0
"""Seconds without a waiting connection that end an episode: one that goes on and off is one."""

EPISODES_A_MINUTE: Final = 10
"""That are reported, for one pool. The others are counted, and the next report says how many they were."""

_LOOKS: Final = (1.0, 3.0, 10.0, 30.0)
_THEN_EVERY: Final = 30.0
"""When stacks are looked at again, in seconds after an episode began: often while it is new, seldom when it stays."""

_GROUPS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """What one worker says it is doing."""

    method: str
    uri: str
    seconds: float


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


def watch_workers(
    pool: PoolView, roster: Roster, memory: PoolMemory, now: float
) -> tuple[PoolMemory, tuple[Action, ...]]:
    """Follow whether max_children are enough: they are not while all of them are busy and connections wait.

    Returns what to remember and what to do. Where the length of the queue is unknown there is nothing to report.
    """
    before, limit = memory.saturation, pool.rules.max_children
    at_work = len(roster.taking) >= limit and not roster.idle + roster.entering
    if at_work and pool.waiting and pool.phase in (Phase.SERVING, Phase.RELOADING):
        after, actions = _go_on(pool, pool.waiting, before, now)
    elif before.since is None or (before.begun is not None and now - before.seen < OVER):
        return memory, ()
    else:
        after, actions = _end(pool, before, before.since)
    return replace(memory, saturation=after), actions


def _go_on(pool: PoolView, waiting: int, before: Saturation, now: float) -> tuple[Saturation, tuple[Action, ...]]:
    """Nobody is idle, and so many wait."""
    full = pool.limit is not None and waiting > pool.limit
    full_for = before.full_for + (now - before.full_seen if full and before.full_seen is not None else 0.0)
    after = replace(
        before,
        since=now if before.since is None else before.since,
        seen=now,
        peak=max(before.peak, waiting),
        full_for=full_for,
        full_seen=now if full else None,
    )
    if before.since is None or now - before.since < LASTS:
        return after, ()
    if before.begun is None:
        return _begin(pool, waiting, after, before.since, now)
    if after.quiet or now < before.begun + _look_after(before.samples):
        return after, ()
    return replace(after, samples=before.samples + 1), (SampleStacks(pool.name, after.peak, full_for),)


def _begin(
    pool: PoolView, waiting: int, state: Saturation, since: float, now: float
) -> tuple[Saturation, tuple[Action, ...]]:
    """It has lasted long enough to be an episode."""
    if now >= state.minute + 60.0:
        state = replace(state, minute=now, told=0)
    quiet = state.told >= EPISODES_A_MINUTE
    told, untold = (state.told, state.untold + 1) if quiet else (state.told + 1, 0)
    after = replace(state, begun=now, quiet=quiet, told=told, untold=untold)
    begun = Saturated(
        pool.name,
        waiting,
        pool.limit,
        pool.rules.max_children,
        since,
        state.peak,
        state.full_for,
        untold=0 if quiet else state.untold,
        quiet=quiet,
    )
    return after, (begun,)


def _end(pool: PoolView, before: Saturation, since: float) -> tuple[Saturation, tuple[Action, ...]]:
    """It is over; if it was never an episode, without a word."""
    after = Saturation(minute=before.minute, told=before.told, untold=before.untold)
    if before.begun is None:
        return after, ()
    lasted = before.seen - since
    ended = SaturationEnded(
        pool.name, lasted, before.peak, pool.limit, pool.rules.max_children, before.full_for, before.quiet
    )
    return after, (ended,)


def _look_after(samples: int) -> float:
    """Seconds from the begin of an episode until stacks are looked at again, after so many times."""
    if samples < len(_LOOKS):
        return _LOOKS[samples]
    return _LOOKS[-1] + _THEN_EVERY * (samples + 1 - len(_LOOKS))


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
        lines.append(f"{others} other{'s' if others != 1 else ''}")
    return lines
