"""The ladder a leaving worker goes down: reminded, terminated, killed.

A retired worker is signalled only while its slot says that it waits in accept(2): the application's own system calls
are not interrupted. A signal that lands just before accept(2) is missed, so it is repeated, soon at first and then
once a second; the repeat is the mechanism, not the exception.
"""

from __future__ import annotations

from typing import Final

from prefork.policy import scaling
from prefork.policy.model import (
    IDLE,
    STOPPED_AT_ONCE,
    STOPPED_LOADING,
    Action,
    Kill,
    Phase,
    PoolView,
    SignalRetired,
    Snapshot,
    Terminate,
    Worker,
)

__all__ = ["TERMINATE_TO_KILL", "step_down"]

_FIRST_REMINDER: Final = 0.02
_LAST_REMINDER: Final = 1.0

TERMINATE_TO_KILL: Final = 1.0
"""Seconds between SIGTERM and SIGKILL."""


def _next_signal(worker: Worker) -> float:
    if worker.signals == 0:
        return worker.signalled
    return worker.signalled + min(_LAST_REMINDER, _FIRST_REMINDER * 2.0 ** min(worker.signals - 1, 10))


def step_down(pool: PoolView, worker: Worker, snapshot: Snapshot) -> tuple[tuple[Action, ...], float]:
    """What a worker that has to go needs now, and when to look again."""
    now = snapshot.now
    if snapshot.phase is Phase.KILLING:
        return (Kill(pool.name, worker.slot, STOPPED_AT_ONCE),), now + _LAST_REMINDER
    if worker.ready is None and snapshot.phase is Phase.DRAINING and scaling.desired(pool, snapshot) == 0:
        return (Kill(pool.name, worker.slot, STOPPED_LOADING),), now + _LAST_REMINDER
    if worker.terminated is not None:
        due = worker.terminated + TERMINATE_TO_KILL
        if now < due:
            return (), due
        return (Kill(pool.name, worker.slot, f"graceful_timeout ({pool.graceful_timeout:g} s)"),), now + _LAST_REMINDER
    asked = snapshot.phase_since if snapshot.phase is Phase.DRAINING else worker.retired
    limit = (now if asked is None else asked) + pool.graceful_timeout
    if now >= limit:
        return (Terminate(pool.name, worker.slot),), now + TERMINATE_TO_KILL
    if worker.retired is None or pool.states[worker.slot] != IDLE:
        return (), limit
    due = _next_signal(worker)
    if now >= due:
        return (SignalRetired(pool.name, worker.slot),), now + _FIRST_REMINDER
    return (), min(due, limit)
