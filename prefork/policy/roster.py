"""The workers of a pool, by what they are to it now: looked at once a plan, and once each."""

from __future__ import annotations

from prefork.policy.model import IDLE, RETIRING, STARTING, PoolView, Worker
from prefork.policy.recycling import due

__all__ = ["Roster"]


class Roster:
    """Who takes connections, who will, and who has to go. Whoever was asked to leave does neither.

    A worker of the generation that a reload brings is in none of the lists: until the commit it is a process and
    nothing else.
    """

    def __init__(self, pool: PoolView, now: float) -> None:
        self.taking: list[Worker] = []  # accept from the current listener
        self.idle = 0  # of these, those that say they wait
        self.entering = 0  # of these, those that were given the listener and have not come to accept yet
        self.outdated: list[Worker] = []  # of these, those that run code that was replaced
        self.due: dict[int, str] = {}  # of these, why others are to be replaced, by slot
        self.loading: list[Worker] = []  # not ready yet
        self.wings: list[Worker] = []  # ready, but without a listener
        self.misfits: list[Worker] = []  # neither of use nor at work: their code was replaced before they listened
        self.strays: list[Worker] = []  # on an earlier listener: there until its queue is empty
        self.deserters: list[Worker] = []  # say that they leave though nobody asked them
        self.unready: list[Worker] = []  # everybody who has not got ready yet, also who was asked to leave
        current, cutoff = pool.listener, pool.cutoff
        reserved = pool.coming.generation if pool.coming is not None else -1
        for worker in pool.workers:
            if worker.generation == reserved:
                continue
            if worker.ready is None:
                self.unready.append(worker)
            if worker.retired is not None:
                continue
            if worker.listener == current:
                self._enter_listening(pool, worker, now)
            elif worker.listener:
                self.strays.append(worker)
            elif worker.generation < cutoff:
                self.misfits.append(worker)
            elif worker.ready is None:
                self.loading.append(worker)
            else:
                self.wings.append(worker)

    def _enter_listening(self, pool: PoolView, worker: Worker, now: float) -> None:
        state = pool.states[worker.slot]
        if state == RETIRING:
            self.deserters.append(worker)
            return
        self.taking.append(worker)
        if state == IDLE and worker.stopped is None:
            self.idle += 1
        elif state == STARTING and worker.stopped is None:
            self.entering += 1
        if worker.generation < pool.cutoff:
            self.outdated.append(worker)
        elif reason := due(worker, pool.rules, now):
            self.due[worker.slot] = reason

    @property
    def busy(self) -> int:
        """Workers that take connections and have one now."""
        return len(self.taking) - self.idle - self.entering

    @property
    def coming(self) -> int:
        """Workers that will take connections."""
        return len(self.loading) + len(self.wings)

    @property
    def lasting(self) -> int:
        """Workers that take connections, or will, and need no successor."""
        return len(self.taking) - len(self.outdated) - len(self.due) + self.coming
