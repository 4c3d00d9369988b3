"""Where the workers of a pool stand: the stacks of many at once, for a report or for an order.

Bounded: so many workers, spread over all that are busy, and so long. Who has not answered by then is counted with what
his slot says he runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from prefork.master.holdings import Holdings
from prefork.master.pool import Pool
from prefork.master.stacks import Stacks
from prefork.policy.culprits import Places, Sighting, culprit, request_text
from prefork.policy.model import FINISHING, IDLE, READING, RUNNING, WRITING, Worker
from prefork.policy.saturation import RunningRequest
from prefork.system.stacks import Stack

__all__ = ["LONGER", "MOST", "TIME", "Look", "Sample", "Sampler", "spread"]

MOST: Final = 64
"""Workers that are looked at, of one pool at once."""

TIME: Final = 0.4
"""Seconds for all answers: who hangs in C is forced within 0.3."""

LONGER: Final = 2.2
"""Seconds where fewer than half have answered by then: workers that compute, and are too many for the processors."""

_NEVER: Final = float("inf")

_T = TypeVar("_T")

_AT_WORK: Final = (RUNNING, WRITING, FINISHING)

# What a worker does that has no call of the application on its stack, where its state says it.
_DOING: Final = {
    READING: "a wait for the rest of a request's head",
    WRITING: "a wait for a client to take its response",
    FINISHING: "what comes after a response",
}
_BETWEEN: Final = "the pause between two requests"
_NOWHERE: Final = "no call of the application"
_SILENT: Final = "an unknown place (no answer)"


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one worker."""

    slot: int
    pid: int
    state: int
    stack: Stack | None
    number: int  # of the request it ran; 0: not known, or none
    request: RunningRequest | None

    def sighting(self, places: Places) -> Sighting:
        """For the grouping."""
        call = None if self.stack is None else culprit(self.stack.frames, places)
        doing = None if self.stack is None else _DOING.get(self.state)
        known = call is not None or doing is not None
        if doing is None:
            doing = _SILENT if self.stack is None else _NOWHERE if self.state == RUNNING else _BETWEEN
        request = self.request
        if request is None:
            return Sighting(self.number, call, doing, known)
        return Sighting(self.number, call, doing, known, request_text(request.method, request.uri), request.seconds)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a pool. ``busy`` workers there were, of so many ``workers``; not all of them were looked at."""

    workers: int
    busy: int
    looks: tuple[Look, ...]

    def sightings(self, places: Places) -> dict[int, Sighting]:
        """By pid, for the grouping."""
        return {look.pid: look.sighting(places) for look in self.looks}


@dataclass(slots=True)
class _Asked:
    """A worker whose stack is awaited: what it ran when it was asked."""

    pid: int
    number: int
    request: RunningRequest | None


@dataclass(slots=True)
class _Round:
    """One sample that is being taken."""

    workers: int
    busy: int
    begun: float
    then: list[Callable[[Sample, float], None]]
    awaited: dict[int, _Asked] = field(default_factory=dict)  # by slot
    looks: list[Look] = field(default_factory=list)


class Sampler:
    """Looks at the busy workers of one pool, one sample at a time."""

    def __init__(self, pool: Pool, holdings: Holdings, stacks: Stacks) -> None:
        self._pool = pool
        self._holdings = holdings
        self._stacks = stacks
        self._round: _Round | None = None

    def take(self, then: Callable[[Sample, float], None], now: float) -> None:
        """Call ``then`` from `tend`, with what is seen and the time. Who asks while a sample is taken gets the same."""
        if self._round is not None:
            self._round.then.append(then)
            return
        workers = [worker for worker in self._pool.workers.values() if worker.listening and worker.pid]
        states = self._holdings.scoreboard.states()
        busy = [worker for worker in workers if states[worker.slot] != IDLE]
        taken = self._round = _Round(len(workers), len(busy), now, [then])
        for worker in spread(sorted(busy, key=lambda worker: worker.slot), MOST):
            taken.awaited[worker.slot] = self._ask(worker, now)
        for slot in list(taken.awaited):
            self._stacks.request(slot, partial(self._answered, taken, slot), now)

    def look_at(self, worker: Worker, then: Callable[[Look], None], now: float) -> None:
        """Call ``then`` with what is seen of one worker, busy or not."""
        slot, asked = worker.slot, self._ask(worker, now)
        self._stacks.request(slot, lambda stack: then(self._understand(slot, asked, stack)), now)

    def tend(self, now: float) -> float:
        """End a sample that is complete, or has taken its time; returns when to look again."""
        taken = self._round
        if taken is None:
            return _NEVER
        if taken.awaited:
            patience = TIME if len(taken.awaited) <= len(taken.looks) else LONGER
            if now < taken.begun + patience:
                return taken.begun + (TIME if now < taken.begun + TIME else LONGER)
        self._round = None
        for slot, asked in taken.awaited.items():
            taken.looks.append(self._understand(slot, asked, None))
        taken.awaited = {}
        sample = Sample(taken.workers, taken.busy, tuple(sorted(taken.looks, key=lambda look: look.slot)))
        for then in taken.then:
            then(sample, now)
        return _NEVER

    def _ask(self, worker: Worker, now: float) -> _Asked:
        """What a worker says it runs, before it is asked where it stands."""
        holdings, slot = self._holdings, worker.slot
        if holdings.scoreboard.state(slot) not in _AT_WORK:
            return _Asked(worker.pid, 0, None)  # its slot still shows the request before
        return _Asked(worker.pid, self._number(slot), holdings.running(slot, now))

    def _answered(self, taken: _Round, slot: int, stack: Stack | None) -> None:
        asked = taken.awaited.pop(slot, None)
        if asked is not None:
            taken.looks.append(self._understand(slot, asked, stack))

    def _understand(self, slot: int, asked: _Asked, stack: Stack | None) -> Look:
        """What a stack and the slot say together; the worker may have gone on in between."""
        state, current = self._holdings.scoreboard.state(slot), self._number(slot)
        if stack is None or stack.forced or (not stack.number and state == FINISHING):
            number = asked.number if asked.number == current else 0
        else:
            number = stack.number
        request = None
        if number == asked.number:
            request = asked.request
        elif number and number == current:
            request = self._holdings.running(slot, time.monotonic())  # it began after the question
        return Look(slot, asked.pid, state, stack, number, request)

    def _number(self, slot: int) -> int:
        request = self._holdings.scoreboard.deadline(slot)
        return 0 if request is None else request[0]


def spread(workers: Sequence[_T], most: int) -> list[_T]:
    """At most so many of them, evenly."""
    if len(workers) <= most:
        return list(workers)
    return [workers[index * len(workers) // most] for index in range(most)]
