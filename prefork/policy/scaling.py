"""How many workers a pool shall have: php-fpm's managers, as arithmetic.

``static`` has max_children, always. ``dynamic`` keeps some idle workers, ``ondemand`` none that nobody needs. Both
grow when more is wanted than there is: workers that are busy, connections that wait, and the spares.

* What is wanted is looked at twice, `LOOK_TWICE` apart, and the smaller number counts; where it falls, it is followed
  down for `AHEAD`: a crowd of short requests that is gone before a new worker could start needs none.
* Spares are for what comes next, so a lack of them must last a little longer (`SPARES_PATIENCE`).
* A pool grows by spawn_rate workers a second at most; what one second allows may be taken at once.

They shrink by the *lowest* number of idle workers within idle_timeout: with more than max_spare (dynamic) or more than
none (ondemand), one worker is too many. One at a time leaves, all that are too many within about one more
idle_timeout. A single worker's age says nothing: accept(2) is first in, first out, so none of them ever looks idle.

The size is remembered, not counted anew: a worker that dies, or is to be replaced, is still one of it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from prefork.policy.model import Phase, PoolView, Rules, Shortage, Sizing, ZygoteState
from prefork.policy.roster import Roster

__all__ = ["AHEAD", "FALL_PATIENCE", "LOOK_TWICE", "SPARES_PATIENCE", "boot_size", "draining_size", "resize", "watches"]

LOOK_TWICE: Final = 0.01
"""Seconds between the two looks at what is wanted."""

AHEAD: Final = 0.03
"""Seconds for which a fall of what is wanted is followed down: about what a new worker needs to be of use."""

FALL_PATIENCE: Final = 0.1
"""Seconds of shortage after which a fall between two looks is taken for chance, and not followed any more."""

SPARES_PATIENCE: Final = 0.05
"""Seconds for which spares must have been lacking."""

_BUCKETS: Final = 10
"""Parts into which idle_timeout is cut to remember the lowest number of idle workers."""

_LEAST_BUCKET: Final = 0.1
"""Seconds between two looks at who is idle, at least, however short idle_timeout is."""

_SLOWEST_SHRINK: Final = 1.0
_FASTEST_SHRINK: Final = 0.05
"""Seconds between two workers that leave because they are too many."""


def boot_size(pool: PoolView) -> int:
    """How many workers a pool has before it serves."""
    if not pool.verified:
        return 1  # somebody has to show that the application can be loaded, and answers its canary
    match pool.rules.pm:
        case "static":
            return pool.rules.max_children
        case "dynamic":
            return min(max(1, pool.rules.start), pool.rules.max_children)
        case _:
            return 0


def draining_size(pool: PoolView, now: float) -> int:
    """How many workers a pool needs that is being stopped: as many as wait, so that a queue outlives all workers."""
    if pool.phase is not Phase.DRAINING or pool.inherited or now >= pool.phase_since + pool.rules.graceful_timeout:
        return 0
    return min(pool.rules.max_children, (pool.waiting or 0) + (pool.behind or 0))


def watches(pool: PoolView, roster: Roster, now: float, not_before: float) -> bool:
    """Whether the listener itself shall wake the master: nobody would accept at once, and somebody could be forked.

    A listener is readable for as long as a connection waits, so this must end with the first one: what then is wanted
    is known.
    """
    return (
        pool.phase in (Phase.SERVING, Phase.RELOADING)
        and pool.open
        and pool.rules.pm != "static"
        and roster.idle + roster.entering + roster.coming == 0
        and len(roster.taking) < pool.rules.max_children
        and not pool.waiting
        and not pool.readable
        and now >= not_before
        and pool.zygote is not None
        and pool.zygote.state is ZygoteState.READY
        and not pool.zygote.unfit
    )


def resize(pool: PoolView, roster: Roster, sizing: Sizing, now: float) -> tuple[Sizing, float]:
    """Decide how many workers a pool shall have while it serves; returns what to remember and when to look again.

    The size is in what is returned, and is never None there.
    """
    rules = pool.rules
    if rules.pm == "static":
        return Sizing(size=rules.max_children), math.inf
    size = min(_size_before(pool, roster, sizing), rules.max_children)
    sizing = _remember_idle(replace(sizing, size=size), roster, rules, now)
    spares = min(rules.min_spare, rules.max_children) if rules.pm == "dynamic" else 0
    wanted = roster.busy + _waiting(pool, roster)
    if rules.pm == "ondemand" and not roster.coming and len(roster.taking) < size:
        # Whoever is missing was not asked for just now: he died, or could not be forked. Nobody needs him for himself.
        size = max(len(roster.taking), min(size, wanted))
        sizing = replace(sizing, size=size)
    if size < rules.max_children and wanted + spares > size:
        if pool.waiting is None and pool.readable:
            return _grow_to(replace(sizing, shortage=None), wanted, rules, now)  # there will not be a second look
        return _grow(sizing, wanted, spares, rules, now)
    return _shrink(replace(sizing, shortage=None), roster, rules, now)


def _size_before(pool: PoolView, roster: Roster, sizing: Sizing) -> int:
    if sizing.size is not None:
        return sizing.size
    return max(boot_size(pool), len(roster.taking) + roster.coming)


def _waiting(pool: PoolView, roster: Roster) -> int:
    """How many connections wait. Where the queue cannot be read: one, when the listener said so."""
    if pool.waiting is not None:
        return pool.waiting
    return 1 if pool.readable and not roster.idle + roster.entering else 0


def _grow(sizing: Sizing, wanted: int, spares: int, rules: Rules, now: float) -> tuple[Sizing, float]:
    assert sizing.size is not None
    before = sizing.shortage
    if before is None:
        sizing = replace(sizing, shortage=Shortage(since=now, looked=now, wanted=wanted))
        # Without a single worker nothing can get better by itself.
        return (sizing, now + LOOK_TWICE) if sizing.size else _grow_to(sizing, wanted, rules, now)
    if now < before.looked + LOOK_TWICE:
        return sizing, before.looked + LOOK_TWICE
    lasts = now - before.since
    sizing = replace(sizing, shortage=Shortage(since=before.since, looked=now, wanted=wanted))
    fallen = before.wanted - wanted
    if fallen > 0 and lasts < FALL_PATIENCE:
        wanted = max(0, wanted - int(fallen * AHEAD / (now - before.looked)))
    size = min(wanted, before.wanted)
    if lasts >= SPARES_PATIENCE:
        size += spares
    return _grow_to(sizing, size, rules, now)


def _grow_to(sizing: Sizing, size: int, rules: Rules, now: float) -> tuple[Sizing, float]:
    """Grow as far as the rate allows."""
    assert sizing.size is not None
    more = min(size, rules.max_children) - sizing.size
    if more <= 0:
        return sizing, now + LOOK_TWICE
    grown = max(0.0, sizing.grown - rules.spawn_rate * (now - sizing.grown_at))
    allowed = min(more, int(rules.spawn_rate - grown))
    if allowed <= 0:
        return sizing, now + max(LOOK_TWICE, (grown + 1 - rules.spawn_rate) / rules.spawn_rate)
    return replace(sizing, size=sizing.size + allowed, grown=grown + allowed, grown_at=now), now + LOOK_TWICE


def _remember_idle(sizing: Sizing, roster: Roster, rules: Rules, now: float) -> Sizing:
    """Take this look into the lowest number of idle workers."""
    lows = sizing.lows
    if not lows or now >= lows[-1][0] + rules.idle_timeout / _BUCKETS:
        oldest = next((n for n in range(len(lows) - 1) if lows[n + 1][0] > now - rules.idle_timeout), len(lows) - 1)
        return replace(sizing, lows=(*lows[max(0, oldest) :], (now, roster.idle)))
    since, low = lows[-1]
    return sizing if low <= roster.idle else replace(sizing, lows=(*lows[:-1], (since, roster.idle)))


def _shrink(sizing: Sizing, roster: Roster, rules: Rules, now: float) -> tuple[Sizing, float]:
    assert sizing.size is not None
    spare = min(rules.max_spare, rules.max_children) if rules.pm == "dynamic" else 0
    if sizing.size <= spare or roster.coming or len(roster.taking) != sizing.size:
        return sizing, math.inf
    excess = min(low for _, low in sizing.lows) - spare
    if excess <= 0:
        return sizing, now + max(_LEAST_BUCKET, rules.idle_timeout / _BUCKETS)
    pause = min(_SLOWEST_SHRINK, max(_FASTEST_SHRINK, rules.idle_timeout / excess))
    at = max(sizing.lows[0][0] + rules.idle_timeout, sizing.shrunk + pause)
    if now < at:
        return sizing, at
    lows = tuple((since, low - 1) for since, low in sizing.lows)
    return replace(sizing, size=sizing.size - 1, lows=lows, shrunk=now), now + pause
