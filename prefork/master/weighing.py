"""How much memory each worker has for itself, where ``max_memory`` bounds it.

It is looked at when the worker is ready, and once a second; in pools of many hundred every few seconds.
"""

from __future__ import annotations

from typing import Final

from prefork.master.loop import Master
from prefork.master.pool import Pool
from prefork.system.memory import private_memory

__all__ = ["Weighing"]

_BEAT: Final = 1.0

_AT_ONCE: Final = 200
"""Workers of a pool that are looked at in one second, some 15 µs each: in a larger one they take turns."""


class Weighing:
    """Tells the pools of a master what their workers weigh."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._look_at = 0.0
        self._turn = 0

    def beat(self, now: float) -> None:
        """Once a round of the loop."""
        pools = [hands.pool for hands in self._master.pools if hands.pool.rules.max_memory is not None]
        for pool in pools:
            newborn = [worker for worker in pool.workers.values() if worker.ready is not None and not worker.newborn]
            for worker in newborn[:_AT_ONCE]:
                pool.weighs(worker.slot, private_memory(worker.pid))
        if now < self._look_at:
            return
        self._look_at = now + _BEAT
        self._turn += 1
        for pool in pools:
            self._weigh(pool)

    def _weigh(self, pool: Pool) -> None:
        workers = [worker for worker in pool.workers.values() if worker.pid]
        turns = -(-len(workers) // _AT_ONCE)
        for worker in workers:
            if worker.slot % turns == self._turn % turns:
                pool.weighs(worker.slot, private_memory(worker.pid))
