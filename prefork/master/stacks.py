"""The stacks of a pool's workers, for whoever wants to see one: asked for, forced where nobody answers, read.

A worker that is asked answers within a millisecond or so, unless it hangs in C or has no processor. After `PATIENCE`
one that hangs is forced (`prefork.system.stacks`); one that has not run meanwhile, or that somebody stopped, is not:
its frames may be in the midst of a change. The master never waits for any of this; it looks again at times it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Final

from prefork.master.holdings import Holdings
from prefork.master.pool import Pool
from prefork.system.processes import FORCE_SIGNAL, LOOK_SIGNAL
from prefork.system.stacks import Activity, Stack, activity, clear_page, page_size, read_stack

__all__ = ["GIVE_UP", "PATIENCE", "Stacks", "Then"]

PATIENCE: Final = 0.1
"""Seconds for an answer; then the stack is forced."""

GIVE_UP: Final = 0.2
"""Seconds for a forced stack; then there is none, if its worker has run meanwhile."""

_STARVING: Final = 2.0
"""Seconds for an answer, or for a forced stack, from a worker that gets no processor."""

_HAS_RUN: Final = 0.02
"""Seconds of processor time in which a worker that can answer does so."""

_SETTLED: Final = 0.003
"""Seconds without another byte after which a stack is whole: it is not written at once."""

_NEVER: Final = float("inf")

_LOOKS: Final = (0.001, 0.003, 0.01, 0.03)
"""When to look for an answer, in seconds after the question, before the last moment."""

Then = Callable[[Stack | None], None]
"""What to call with the stack; with None where there is none to be had."""


@dataclass(slots=True)
class _Question:
    """A stack that is wanted."""

    slot: int
    pid: int
    asked: float
    before: Activity | None
    askers: list[Then]
    forced: float | None = None
    looks: Iterator[float] = field(default_factory=lambda: iter(_LOOKS))
    look_at: float = 0.0
    size: int = 0  # of what was written so far

    @property
    def begun(self) -> float:
        """When it was asked, or then forced."""
        return self.asked if self.forced is None else self.forced

    @property
    def patience(self) -> float:
        """For how long nothing is suspected since."""
        return PATIENCE if self.forced is None else GIVE_UP


class Stacks:
    """The stacks of one pool's workers."""

    def __init__(self, pool: Pool, holdings: Holdings, signal: Callable[[int, int], None]) -> None:
        self._pool = pool
        self._holdings = holdings
        self._signal = signal  # pid, number
        self._open: dict[int, _Question] = {}

    def request(self, slot: int, then: Then, now: float) -> None:
        """Call ``then`` with the stack of the worker in a slot, soon. Who asks while one is awaited gets the same."""
        pid, page = self._pool.pid_in(slot), self._holdings.pages.get(slot)
        question = self._open.get(slot)
        if question is not None and question.pid == pid:
            question.askers.append(then)
            return
        if question is not None:
            self._close(question, None)  # it was about the worker before
        if not pid or page is None:
            then(None)
            return
        clear_page(page)
        self._holdings.control.dump(slot)
        self._signal(pid, LOOK_SIGNAL)
        question = self._open[slot] = _Question(slot, pid, now, activity(pid), [then])
        self._set(question, now)

    @property
    def sought(self) -> Container[int]:
        """The slots whose stack is awaited."""
        return self._open.keys()

    def tend(self, now: float) -> float:
        """Look at what is awaited; returns when to look again."""
        for question in [question for question in self._open.values() if question.look_at <= now]:
            self._look(question, now)
        return min((question.look_at for question in self._open.values()), default=_NEVER)

    def _look(self, question: _Question, now: float) -> None:
        page = self._holdings.pages.get(question.slot)
        if page is None or self._pool.pid_in(question.slot) != question.pid:
            self._close(question, None)  # it has ended
            return
        size = page_size(page)
        if size and (size == question.size or now >= question.begun + _STARVING):  # some never cease to write
            self._close(question, read_stack(page, forced=question.forced is not None))
        elif size:
            question.size, question.look_at = size, now + _SETTLED
        elif now < question.begun + question.patience:
            self._set(question, now)
        else:
            self._insist(question, now)

    def _insist(self, question: _Question, now: float) -> None:
        """It has not answered in time. Why?"""
        before, after = question.before, activity(question.pid)
        if after is None or after.stopped or now >= question.begun + _STARVING:
            self._close(question, None)
        elif before is not None and after.waits_for_processor and after.ran - before.ran < _HAS_RUN:
            question.look_at = now + PATIENCE
        elif question.forced is not None:
            self._close(question, None)
        else:
            question.forced, question.before = now, after
            question.looks = iter(_LOOKS)
            self._signal(question.pid, FORCE_SIGNAL)
            self._set(question, now)

    def _set(self, question: _Question, now: float) -> None:
        """When to look next: a few times soon, and at the last moment."""
        for after in question.looks:
            if question.begun + after > now:
                question.look_at = question.begun + after
                return
        question.look_at = max(question.begun + question.patience, now)

    def _close(self, question: _Question, stack: Stack | None) -> None:
        del self._open[question.slot]
        for then in question.askers:
            then(stack)
