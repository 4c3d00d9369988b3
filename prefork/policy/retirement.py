"""The ladder a leaving worker goes down: reminded, terminated, killed.

A retired worker is signalled only while its slot says that it waits in accept(2): the application's own system calls
are not interrupted. A signal that lands just before accept(2) is missed, so it is repeated, soon at first and then
once a second; the repeat is the mechanism, not the exception.

graceful_timeout is for what was asked for: a stop, or an end of the code that was replaced. Who leaves for another
reason (it is recycled, its socket was deleted) and is at work may finish that; what ends a hang is
request_terminate_timeout.
"""

from __future__ import annotations

from typing import Final

from prefork.policy import scaling
from prefork.policy.model import (
    FINISHING,
    IDLE,
    READING,
    RUNNING,
    STOPPED_AT_ONCE,
    STOPPED_LOADING,
    WRITING,
    Action,
    Kill,
    Phase,
    PoolView,
    SignalRetired,
    Terminate,
    Worker,
)

__all__ = ["TERMINATE_TO_KILL", "step_down"]

_AT_WORK: Final = (READING, RUNNING, WRITING, FINISHING)

_FIRST_REMINDER: Final = 0.02
_LAST_REMINDER: Final = 1.0

TERMINATE_TO_KILL: Final = 1.0
"""Seconds between SIGTERM and SIGKILL."""


def _next_signal(worker: Worker) -> float:
    if worker.signals == 0:
        return worker.signalled
    return worker.signalled + min(_LAST_REMINDER, _FIRST_REMINDER * 2.0 ** min(worker.signals - 1, 10))


def _may_finish(pool: PoolView, worker: Worker) -> bool:
    if pool.phase is Phase.DRAINING or worker.generation < pool.cutoff or worker.stopped is not None:
        return False
    return pool.states[worker.slot] in _AT_WORK


def step_down(pool: PoolView, worker: Worker, now: float) -> tuple[tuple[Action, ...], float]:
    """What a worker that has to go needs now, and when to look again."""
    if pool.phase is Phase.KILLING:
        return (Kill(pool.name, worker.slot, STOPPED_AT_ONCE),), now + _LAST_REMINDER
    if worker.ready is None and pool.phase is Phase.DRAINING and scaling.draining_size(pool, now) == 0:
        return (Kill(pool.name, worker.slot, STOPPED_LOADING),), now + _LAST_REMINDER
    if worker.terminated is not None:
        due = worker.terminated + TERMINATE_TO_KILL
        if now < due:
            return (), due
        still = " while stopped (SIGSTOP)" if worker.stopped is not None else ""
        reason = f"graceful_timeout ({pool.rules.graceful_timeout:g} s){still}"
        return (Kill(pool.name, worker.slot, reason),), now + _LAST_REMINDER
    asked = pool.phase_since if pool.phase is Phase.DRAINING else worker.retired
    limit = (now if asked is None else asked) + pool.rules.graceful_timeout
    if now >= limit and _may_finish(pool, worker):
        return (), now + _LAST_REMINDER
    if now >= limit:
        return (Terminate(pool.name, worker.slot),), now + TERMINATE_TO_KILL
    if worker.retired is None or pool.states[worker.slot] != IDLE:
        return (), limit
    due = _next_signal(worker)
    if now >= due:
        return (SignalRetired(pool.name, worker.slot),), now + _FIRST_REMINDER
    return (), min(due, limit)
