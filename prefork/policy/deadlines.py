"""How long requests may take: which of them are slow, which must stop, which are ended.

Three limits, each counted from the request's begin, and each moved by what the application asked for
(``prefork.extend_deadline``):

* ``request_slowlog_timeout``: once, its stack is reported;
* ``request_timeout``: its application is told to stop, again every second while it does not;
* ``request_terminate_timeout``: its worker is killed. A moment before, its stack is looked at for the last time.

The master looks at what runs only when something may be due: nothing that begins after a look is due before the
smallest limit has passed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefork.policy.model import (
    Action,
    DumpStack,
    Kill,
    Limits,
    Overdue,
    Phase,
    PoolMemory,
    PoolView,
    Rules,
    Running,
    SlowUnseen,
    TimeOut,
)

__all__ = ["AGAIN", "LAST_LOOK", "LONGEST_LOOK", "LOOK_EVERY", "STACKS_A_SECOND", "is_due", "watch"]

AGAIN: Final = 1.0
"""Seconds after which an application that goes on is told again."""

LAST_LOOK: Final = 0.4
"""Seconds before the kill at which the last stack is asked for: enough to be answered, by force if need be."""

LONGEST_LOOK: Final = 4.0
"""Seconds for which the kill waits at most while that stack is still sought, from a worker that gets no processor."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks, at least."""

_LOOK_AT_ONE: Final = 0.0003
"""The same for each request that runs: a thousand of them are looked at three times a second."""

STACKS_A_SECOND: Final = 10
"""Of slow requests, for one pool. The others are counted."""

_NEVER: Final = float("inf")


def is_due(rules: Rules, memory: PoolMemory, now: float) -> bool:
    """Whether the next view of a pool must tell what its workers run."""
    limits = _limits(rules)
    if limits == _NONE:
        return False
    return now >= memory.limits.look_at or limits != memory.limits.limits


def watch(pool: PoolView, memory: PoolMemory, now: float) -> tuple[PoolMemory, list[Action], float]:
    """What is to be done about requests that take long, and when to look at them again."""
    limits = _limits(pool.rules)
    if limits == _NONE or pool.phase in (Phase.KILLING, Phase.ENDED):
        return memory, [], _NEVER
    if pool.running is None:
        return memory, [], memory.limits.look_at
    look = _Look(pool, memory.limits, now)
    for request in pool.running:
        look.at(request)
    look.report_unseen()
    pause = max(LOOK_EVERY, len(pool.running) * _LOOK_AT_ONE)
    look_at = max(now + pause, look.next)
    remembered = Limits(look.requests, limits, look_at, look.second, look.stacks, look.unseen)
    return replace(memory, limits=remembered), look.actions, look_at


_NONE: Final = (None, None, None)


def _limits(rules: Rules) -> tuple[float | None, ...]:
    return (rules.slow, rules.soft, rules.hard)


class _Look:
    """One look at all that a pool's workers run."""

    def __init__(self, pool: PoolView, before: Limits, now: float) -> None:
        self.actions: list[Action] = []
        self.requests: dict[int, Overdue] = {}
        self.second, self.stacks, self.unseen = before.second, before.stacks, before.unseen
        self._pool = pool.name
        self._now = now
        self._before = before.requests
        self._forked = {worker.slot: worker.forked for worker in pool.workers if worker.pid}
        rules = pool.rules
        self._slow, self._soft, self._hard = (
            _NEVER if limit is None else limit for limit in (rules.slow, rules.soft, rules.hard)
        )
        self._last_look = self._hard - min(LAST_LOOK, self._hard / 2)
        self._first = min(self._slow, self._soft, self._last_look)
        self.next = now + self._first  # of a request that begins a moment from now

    def at(self, request: Running) -> None:
        """Look at one request."""
        forked = self._forked.get(request.slot)
        if forked is None:
            return  # nobody that could be asked or signalled
        now, before = self._now, self._before.get(request.slot)
        if before is not None and before.number != request.number:
            before = None
        # The worker wrote these numbers. A time that cannot be is replaced by that of our own first look.
        since = request.since
        if not forked <= since <= now:
            before = before or Overdue(request.number, seen=now)
            since = before.seen
        if 0.0 < request.extended < _NEVER:
            since += request.extended
        if before is None:
            if now < since + self._first:
                self.next = min(self.next, since + self._first)
                return
            before = Overdue(request.number, seen=now)
        self.requests[request.slot] = self._judge(request.slot, before, since, sought=request.sought)

    def _judge(self, slot: int, done: Overdue, since: float, *, sought: bool) -> Overdue:
        if self._is_over(since + self._last_look):
            done = self._end(slot, done, since + self._hard, sought=sought)
            if done.killed:
                return done
        elif done.ending is not None:
            done = replace(done, ending=None)  # it was given more time in the meantime
        if self._is_over(since + self._slow) and not done.shown:
            self._show(slot, done.number)
            done = replace(done, shown=True)
        if self._is_over(since + self._soft) and (done.told is None or self._is_over(done.told + AGAIN)):
            self.actions.append(TimeOut(self._pool, slot, done.number))
            done = replace(done, told=self._now)
            self.next = min(self.next, self._now + AGAIN)
        return done

    def _is_over(self, moment: float) -> bool:
        """Whether a moment has come; else it is looked at again then."""
        if self._now >= moment:
            return True
        self.next = min(self.next, moment)
        return False

    def _show(self, slot: int, number: int) -> None:
        if self._now >= self.second + 1.0:
            self.report_unseen()
            self.second, self.stacks = self._now, 0
        if self.stacks < STACKS_A_SECOND:
            self.stacks += 1
            self.actions.append(DumpStack(self._pool, slot, number))
        else:
            self.unseen += 1

    def report_unseen(self) -> None:
        """Tell how many slow requests were only counted, once their second is over."""
        if self.unseen and self._is_over(self.second + 1.0):
            self.actions.append(SlowUnseen(self._pool, self.unseen))
            self.unseen = 0

    def _end(self, slot: int, done: Overdue, at: float, *, sought: bool) -> Overdue:
        """Look at the stack of a request that is over ``at`` this moment, and then kill its worker."""
        if done.killed:
            return done
        asked = done.ending
        if asked is None:
            asked = self._now
            self.actions.append(DumpStack(self._pool, slot, done.number, last=True))
            done = replace(done, ending=asked)
        if not self._is_over(max(at, asked + LAST_LOOK)):
            return done
        if sought and not self._is_over(asked + LONGEST_LOOK):
            self.next = min(self.next, self._now + LOOK_EVERY)
            return done
        reason = f"request_terminate_timeout ({self._hard:g} s)"
        self.actions.append(Kill(self._pool, slot, reason, done.number))
        return replace(done, killed=True)
