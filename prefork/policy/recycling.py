"""Why a worker is due to be replaced: it has served enough, grown too large, lived long enough, or stands still."""

from __future__ import annotations

from typing import Final

from prefork.policy.model import Rules, Worker

__all__ = ["GRACE_FOR_MEMORY", "GRACE_FOR_STOPPED", "LIFETIME_SPREAD", "due"]

LIFETIME_SPREAD: Final = 0.1
"""Share of max_lifetime that chance takes off it: workers forked together are not replaced together."""

GRACE_FOR_STOPPED: Final = 1.0
"""Seconds that a worker may be stopped (SIGSTOP) before another takes its place."""

GRACE_FOR_MEMORY: Final = 10.0
"""Seconds of life of a worker that is too large: where its successor will soon be as large, that is the brake."""

_FAR_BEYOND: Final = 2
"""Times max_memory: who has grown to that is replaced before the grace is over."""


def due(worker: Worker, rules: Rules, now: float) -> str:
    """Why a worker that is ready has to be replaced; "" if it need not be."""
    if worker.stopped is not None and now - worker.stopped > GRACE_FOR_STOPPED:
        return f"stopped for {now - worker.stopped:.1f} s (SIGSTOP)"
    if worker.spent:
        return worker.spent
    age = now - (worker.forked if worker.ready is None else worker.ready)
    if rules.max_memory is not None and worker.memory > rules.max_memory:
        runs_away = 0 < worker.newborn <= rules.max_memory and worker.memory >= _FAR_BEYOND * rules.max_memory
        if runs_away or age >= GRACE_FOR_MEMORY:
            return f"max_memory ({rules.max_memory} bytes): {worker.memory}"
    if rules.max_lifetime is not None and age >= rules.max_lifetime * (1.0 - LIFETIME_SPREAD * worker.luck):
        return f"max_worker_lifetime ({rules.max_lifetime:g} s)"
    return ""
