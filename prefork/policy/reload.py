"""Replacing the code of every pool as one transaction: what it needs next, and when it is decided.

A pool that takes part has a *coming* zygote beside the one that forks its workers. It loads the application, forks one
worker, and that worker is ready: the pool is proven. When every pool is, the reload is committed; when one is rejected,
it is abandoned, and nothing has changed. Nothing is tried twice: whoever asked for the reload hears what went wrong.

Until the commit a coming worker gets no listener. It counts as a process, and as nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prefork.policy.model import (
    FINISHING,
    IDLE,
    READING,
    STOPPED_LOADING,
    Abandon,
    Action,
    Commit,
    Fork,
    Kill,
    KillZygote,
    Phase,
    PoolView,
    Retire,
    Rules,
    Snapshot,
    StartZygote,
    Worker,
    Zygote,
    ZygoteState,
)

__all__ = ["LINGERS", "bring", "coming_workers", "is_coming", "is_outdated", "is_proven", "silent_at", "verdict"]

LINGERS: Final = 0.3
"""Seconds after which a worker that was asked to leave takes no further request from a connection that was kept."""

_NEVER: Final = float("inf")
_LOOK_AGAIN: Final = 0.1


def is_coming(pool: PoolView, worker: Worker) -> bool:
    """Whether a worker was forked by the coming zygote."""
    return pool.coming is not None and worker.generation == pool.coming.generation


def coming_workers(pool: PoolView) -> list[Worker]:
    """The workers that the coming zygote has forked, and that nobody has asked to leave."""
    return [worker for worker in pool.workers if is_coming(pool, worker) and worker.retired is None]


def is_outdated(worker: Worker, cutoff: int, listener: int) -> bool:
    """Whether a worker runs code that was replaced, or listens where clients do not come any more."""
    return worker.generation < cutoff or 0 < worker.listener < listener


def is_proven(pool: PoolView) -> bool:
    """Whether the coming generation has a worker that could take requests."""
    coming = pool.coming
    return (
        coming is not None
        and coming.state is ZygoteState.READY
        and not coming.unfit
        and not _is_overtaken(pool, coming)
        and any(worker.ready is not None for worker in coming_workers(pool))
    )


def verdict(snapshot: Snapshot) -> Commit | Abandon | None:
    """How a reload ends; None: it goes on, or there is none."""
    pools = [pool for pool in snapshot.pools if pool.reloads]
    if snapshot.phase is not Phase.RELOADING:
        return None
    rejected = [pool.name for pool in pools if pool.rejected]
    if rejected:
        return Abandon(f"pool {', '.join(rejected)}")
    return Commit() if all(is_proven(pool) for pool in pools) else None


def bring(pool: PoolView, now: float) -> tuple[tuple[Action, ...], float]:
    """What the coming generation of a pool needs now, and when to look again."""
    coming = pool.coming
    if pool.rejected:
        return (), _NEVER
    if coming is None:
        return (StartZygote(pool.name, load=True, coming=True),), _NEVER
    if _is_overtaken(pool, coming):
        # The zygote of the code before died meanwhile and was replaced, which is a generation of its own. Workers are
        # told apart by the order of generations, so what is coming has to be the last that forks any. One that does
        # not get so far changes nothing: if it did, a zygote that cannot start would keep its own mend from coming.
        return (*_discard(pool, coming), StartZygote(pool.name, load=True, coming=True)), _NEVER
    rules = pool.rules if pool.coming_rules is None else pool.coming_rules
    late = f"boot_timeout ({rules.boot_timeout:g} s)"
    match coming.state:
        case ZygoteState.LOADING if now >= coming.started + rules.boot_timeout:
            return (KillZygote(pool.name, coming.generation, late),), now + _LOOK_AGAIN
        case ZygoteState.LOADING:
            return (), coming.started + rules.boot_timeout
        case ZygoteState.READY if coming.unfit:
            return (*_discard(pool, coming), StartZygote(pool.name, load=False, coming=True)), _NEVER
        case ZygoteState.READY:
            return _prove(pool, rules, late, now)
        case _:
            return (), _NEVER


def _prove(pool: PoolView, rules: Rules, late: str, now: float) -> tuple[tuple[Action, ...], float]:
    """The first worker of the coming generation.

    It is allowed beyond all surge: workers that leave may take as long as their requests, and no reload waits for that.
    """
    coming = pool.coming
    assert coming is not None
    workers = coming_workers(pool)
    if not workers:
        used = {worker.slot for worker in pool.workers}
        slot = next((slot for slot in range(pool.slots) if slot not in used), None)
        if slot is not None:
            return (Fork(pool.name, slot, coming.generation, canary=rules.canary),), now + rules.boot_timeout
        if now < coming.changed + rules.boot_timeout:
            return (), now + _LOOK_AGAIN
        reason = f"no slot was free for its first worker within {late}"
        return (KillZygote(pool.name, coming.generation, reason),), now + _LOOK_AGAIN
    loading = [worker for worker in workers if worker.ready is None]
    overdue = [worker for worker in loading if now >= worker.forked + rules.boot_timeout]
    if overdue:
        return tuple(Kill(pool.name, worker.slot, late) for worker in overdue), now + _LOOK_AGAIN
    return (), min((worker.forked + rules.boot_timeout for worker in loading), default=_NEVER)


def _is_overtaken(pool: PoolView, coming: Zygote) -> bool:
    """Whether a later generation of the code before has workers, or could fork some."""
    if any(worker.generation > coming.generation for worker in pool.workers):
        return True
    zygote = pool.zygote
    return zygote is not None and zygote.generation > coming.generation and zygote.state is ZygoteState.READY


def _discard(pool: PoolView, coming: Zygote) -> tuple[Action, ...]:
    """Give up a coming zygote and what it has forked, without giving up the reload."""
    actions: list[Action] = [KillZygote(pool.name, coming.generation, STOPPED_LOADING)]
    for worker in coming_workers(pool):
        actions += [Retire(pool.name, worker.slot), Kill(pool.name, worker.slot, STOPPED_LOADING)]
    return tuple(actions)


def silent_at(workers: Iterable[Worker], states: bytes, cutoff: int, listener: int, now: float) -> float | None:
    """From when on no outdated worker of a pool begins another request, as far as can be seen: ``now``, or later.

    None while one of them is still to be asked to leave, or waits for connections. To be believed, the states have to
    be read a moment (a store's way from one processor to another) after the last of them was asked: a worker says that
    it waits before it looks whether it has to leave.
    """
    silent = now
    for worker in workers:
        if not is_outdated(worker, cutoff, listener):
            continue
        state = states[worker.slot]
        if worker.retired is None or (worker.listening and state == IDLE):
            return None
        if worker.listening and state in (READING, FINISHING):
            # A peer that keeps its connection may send its next request for a moment yet.
            silent = max(silent, worker.retired + LINGERS)
    return silent
