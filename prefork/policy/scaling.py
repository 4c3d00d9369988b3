"""How many workers a pool should have: php-fpm's managers, as arithmetic.

In this version the manager is ``static``: always ``max_children``. While the server drains it is as many as there are
connections still waiting, so that a queue outlives even the loss of every worker.
"""

from __future__ import annotations

from typing import Final

from prefork.policy.model import RETIRING, Phase, PoolView, Snapshot, Worker

__all__ = ["MAX_SPAWN_AT_ONCE", "active", "deserters", "desired", "free_slots", "surplus"]

MAX_SPAWN_AT_ONCE: Final = 32
"""Forks asked for in one plan (php-fpm's max_spawn_rate)."""


def active(pool: PoolView) -> list[Worker]:
    """The workers that take connections, or will."""
    return [worker for worker in pool.workers if worker.retired is None]


def desired(pool: PoolView, snapshot: Snapshot) -> int:
    """How many active workers the pool should have now."""
    match snapshot.phase:
        case Phase.BOOTING:
            # A zygote without the application is no proof that it can be loaded: one worker has to show it first.
            return pool.max_children if pool.verified else 1
        case Phase.SERVING:
            return pool.max_children
        case Phase.DRAINING if not pool.inherited and snapshot.now < snapshot.phase_since + pool.graceful_timeout:
            return min(pool.max_children, pool.waiting or 0)
        case _:
            return 0


def free_slots(pool: PoolView) -> list[int]:
    """The slots nobody uses, lowest first."""
    used = {worker.slot for worker in pool.workers}
    return [slot for slot in range(pool.slots) if slot not in used]


def surplus(pool: PoolView, size: int) -> list[Worker]:
    """Which active workers should retire for the pool to shrink to ``size``: the youngest."""
    return sorted(active(pool), key=lambda worker: (worker.forked, worker.slot))[size:]


def deserters(pool: PoolView) -> set[int]:
    """Slots of workers that say they are leaving though nobody asked them: they take no connection any more."""
    return {worker.slot for worker in active(pool) if worker.listening and pool.states[worker.slot] == RETIRING}
