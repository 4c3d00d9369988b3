"""Processes that somebody stopped (SIGSTOP): noticed, told, and left to the policy.

A stopped worker looks idle for ever and accepts nothing; what it has in hand stands still. The policy puts another
in its place. A zygote holds nothing, nor does a worker that is not ready: they are killed, and the next are started
where the pool serves. At a start, and in what a reload brings, such a death is like any other: that of a worker, or of
a zygote that imports, ends the start, and either rejects the reload. An application that stops itself would otherwise
be tried again for ever.

A terminal's Ctrl-Z stops the whole process group, the master too. When it goes on, its clock has, and so has everybody
else: the stops that it knows of begin anew with the first look after such a pause.
"""

from __future__ import annotations

from typing import Final

from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.policy.model import Kill, KillZygote
from prefork.policy.plan import HEARTBEAT
from prefork.policy.recycling import GRACE_FOR_STOPPED
from prefork.system import processes

__all__ = ["Stops"]

_AWAY: Final = 2 * HEARTBEAT
"""Seconds between two looks after which the master itself must have stood still."""

_STOPPED: Final = "stopped by somebody (SIGSTOP)"


class Stops:
    """Looks after all pools of a master, once a round of its loop."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._zygotes: dict[int, float] = {}  # since when, by pid
        self._told: set[int] = set()  # pids
        self._last = 0.0

    def beat(self, now: float) -> float | None:
        """Look at what has changed; returns when a stop will have lasted long enough to matter, if there is one."""
        was_away, self._last = now - self._last > _AWAY, now
        changes = dict(processes.stops())
        due = []
        for hands in self._master.pools:
            due += self._look_at_workers(hands, changes, now, was_away)
            due += self._look_at_zygotes(hands, changes, now, was_away)
        living = {pid for hands in self._master.pools for pid in _pids(hands)}
        self._told &= living
        self._zygotes = {pid: since for pid, since in self._zygotes.items() if pid in living}
        return min(due, default=None)

    def _look_at_workers(self, hands: Performer, changes: dict[int, bool], now: float, was_away: bool) -> list[float]:
        due = []
        for worker in list(hands.pool.workers.values()):
            since = _since(worker.stopped, changes.get(worker.pid), now, was_away)
            if since != worker.stopped:
                hands.pool.stopped(worker.slot, since)
            if since is None:
                if worker.pid in self._told:
                    self._told.discard(worker.pid)
                    hands.logger.info("worker_continued", slot=worker.slot, pid=worker.pid)
            elif now - since <= GRACE_FOR_STOPPED:
                due.append(since + GRACE_FOR_STOPPED)
            elif worker.ready is None:
                hands.perform(Kill(hands.pool.name, worker.slot, _STOPPED), now)
            elif worker.pid not in self._told:
                self._told.add(worker.pid)
                hands.logger.warning(
                    "worker_stopped",
                    slot=worker.slot,
                    pid=worker.pid,
                    message="somebody stopped it (SIGSTOP); another takes its place, and it leaves when it is "
                    "continued (SIGCONT)",
                )
        return due

    def _look_at_zygotes(self, hands: Performer, changes: dict[int, bool], now: float, was_away: bool) -> list[float]:
        due = []
        for generation in hands.pool.zygotes:
            pid = hands.pool.zygote_pid(generation)
            since = _since(self._zygotes.pop(pid, None), changes.get(pid), now, was_away)
            if since is None:
                continue
            if now - since <= GRACE_FOR_STOPPED:
                self._zygotes[pid] = since
                due.append(since + GRACE_FOR_STOPPED)
            else:
                hands.perform(KillZygote(hands.pool.name, generation, _STOPPED), now)
        return due


def _since(before: float | None, changed: bool | None, now: float, was_away: bool) -> float | None:
    """Since when a process is stopped: as before, unless that has changed, or nobody was there to see it."""
    if changed is False:
        return None
    if changed or (before is not None and was_away):
        return now
    return before


def _pids(hands: Performer) -> list[int]:
    zygotes = [hands.pool.zygote_pid(generation) for generation in hands.pool.zygotes]
    return [*zygotes, *(worker.pid for worker in hands.pool.workers.values())]
