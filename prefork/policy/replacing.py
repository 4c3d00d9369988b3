"""Which workers are forked, which get the listener, and which leave, so that the pool comes to its size.

A worker that runs replaced code (outdated) or has to be recycled (due) has its successor first: one more is forked
while there are no more than max_children + surge processes, and when that is ready it gets the listener, and in the
same plan the other is asked to leave. So never more than max_children take connections, and never fewer than there
should be. Workers on an earlier listener take none of the new connections: they are no part of the size, and stay
until their queue is empty.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from prefork.policy.model import IDLE, Action, Fork, Listen, PoolView, Retire, Worker, Zygote
from prefork.policy.roster import Roster

__all__ = ["MAX_FORKS_AT_ONCE", "forks", "free_slots", "is_stranded", "rearrange", "room"]

MAX_FORKS_AT_ONCE: Final = 32
"""Forks asked for in one plan: the zygote takes some milliseconds for each."""


def is_stranded(pool: PoolView, roster: Roster) -> bool:
    """Connections wait at an earlier listener, and everybody who accepted there is gone.

    The next worker that is given a listener is given that one.
    """
    return bool(pool.behind) and not roster.strays


def rearrange(pool: PoolView, roster: Roster, size: int) -> tuple[list[Action], bool]:
    """Who gets the listener and who leaves, and whether somebody leaves because the pool shrinks."""
    going = [*roster.deserters, *roster.misfits, *(roster.strays if pool.behind == 0 else ())]
    actions: list[Action] = [Retire(pool.name, worker.slot) for worker in going]
    taking = len(roster.taking)
    order: list[Worker] = []  # those that leave first, first
    if taking > size or (roster.wings and (roster.outdated or roster.due)):
        order = _leaving_order(pool, roster)
    shrinks = taking > size
    while taking > size:
        actions.append(_retire(pool, roster, order.pop(0)))
        taking -= 1
    replaceable = len(roster.outdated) + len(roster.due) - (len(roster.taking) - taking)
    stranded = is_stranded(pool, roster)
    for worker in roster.wings:
        if stranded or taking < size:
            actions.append(Listen(pool.name, worker.slot))
            taking += not stranded
            stranded = False
        elif replaceable > 0:
            actions += [Listen(pool.name, worker.slot), _retire(pool, roster, order.pop(0))]
            replaceable -= 1
        else:
            actions.append(Retire(pool.name, worker.slot))
    return actions, shrinks


def _leaving_order(pool: PoolView, roster: Roster) -> list[Worker]:
    """Outdated first, then due; then those that have nothing in hand, the youngest first."""
    outdated = {worker.slot for worker in roster.outdated}

    def rank(worker: Worker) -> tuple[bool, bool, bool, float, int]:
        slot = worker.slot
        return slot not in outdated, slot not in roster.due, pool.states[slot] != IDLE, -worker.forked, -slot

    return sorted(roster.taking, key=rank)


def _retire(pool: PoolView, roster: Roster, worker: Worker) -> Retire:
    return Retire(pool.name, worker.slot, roster.due.get(worker.slot, ""))


def room(pool: PoolView, roster: Roster) -> int:
    """How many more processes the pool may have. A pool without anybody who takes connections may always have one."""
    left = pool.rules.max_children + max(1, pool.rules.surge) - len(pool.workers)
    return left if roster.taking or roster.coming else max(1, left)


def free_slots(pool: PoolView, planned: Collection[int] = ()) -> list[int]:
    """The slots nobody uses or is ``planned`` for, lowest first."""
    used = {worker.slot for worker in pool.workers}.union(planned)
    return [slot for slot in range(pool.slots) if slot not in used]


def forks(pool: PoolView, zygote: Zygote, roster: Roster, missing: int, planned: Collection[int] = ()) -> list[Action]:
    """As many of the missing workers as may be forked now, in the lowest free slots.

    ``planned``: the slots of those that are forked for a reload at the same time.
    """
    number = min(missing, room(pool, roster) - len(planned), MAX_FORKS_AT_ONCE)
    canary = pool.rules.canary and not pool.verified
    slots = free_slots(pool, planned)[: max(0, number)]
    return [Fork(pool.name, slot, zygote.generation, canary) for slot in slots]
