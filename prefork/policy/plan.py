"""`plan`: the whole policy of the master, one pure function over a snapshot.

It asks each rule in turn (boot, sizes, retirement, the queue) and puts their answers together. It decides; it does
not do: the loop performs what it returns.
"""

from __future__ import annotations

from typing import Final

from prefork.policy import restarts, retirement, saturation, scaling
from prefork.policy.model import (
    STOPPED_AT_ONCE,
    STOPPED_LOADING,
    Action,
    Decision,
    End,
    Fork,
    Kill,
    KillZygote,
    Listen,
    Memory,
    OpenListener,
    Phase,
    PoolMemory,
    PoolView,
    ReleaseZygote,
    Retire,
    ShutListener,
    Snapshot,
    StartZygote,
    Zygote,
    ZygoteState,
)

__all__ = ["HEARTBEAT", "plan"]

HEARTBEAT: Final = 1.0
"""The longest wait of the master, in seconds: whatever a hint has missed is seen at the next beat."""

_ZYGOTE_GRACE: Final = 5.0
"""Seconds a zygote has for its exit handlers; it holds no connection."""


class _Draft:
    """What is being decided for one pool."""

    def __init__(self, pool: PoolView, memory: PoolMemory, now: float) -> None:
        self.pool = pool
        self.memory = memory
        self.actions: list[Action] = []
        self.killed: set[int] = set()  # slots; whoever is killed is asked for nothing else
        self.wake_at = now + HEARTBEAT

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)


def plan(snapshot: Snapshot, memory: Memory) -> Decision:
    """Decide what to do now, what to remember, and when to look again."""
    drafts = [_Draft(pool, memory.of(pool.name), snapshot.now) for pool in snapshot.pools]
    for draft in drafts:
        _count_failures(draft, snapshot)
        _supervise_zygote(draft, snapshot)
        _size(draft, snapshot)
        _listen(draft, snapshot)
        _see_off(draft, snapshot)
        _watch_queue(draft, snapshot)
    actions = [action for draft in drafts for action in draft.actions]
    if snapshot.phase is Phase.BOOTING and all(_can_serve(pool) for pool in snapshot.pools):
        # Every pool has a worker that could accept: only now does any path appear, so a start that fails leaves none.
        actions += [OpenListener(pool.name) for pool in snapshot.pools if not pool.open]
    if snapshot.phase in (Phase.DRAINING, Phase.KILLING) and not any(
        pool.workers or pool.zygote for pool in snapshot.pools
    ):
        actions.append(End())
    return Decision(
        actions=tuple(actions),
        memory=Memory({draft.pool.name: draft.memory for draft in drafts}),
        wake_at=min((draft.wake_at for draft in drafts), default=snapshot.now + HEARTBEAT),
    )


def _can_serve(pool: PoolView) -> bool:
    return any(worker.ready is not None for worker in pool.workers)


def _count_failures(draft: _Draft, snapshot: Snapshot) -> None:
    for ended in draft.pool.ended:
        if not ended.expected:
            draft.memory = restarts.after_end(draft.memory, ended.ready, snapshot.now)
    zygote = draft.pool.zygote
    if zygote is None or zygote.state is not ZygoteState.READY or len(draft.pool.workers) < draft.pool.max_children:
        return  # a start is still owed: workers that have long been there say nothing about it
    ready = [zygote.changed, *(worker.ready for worker in draft.pool.workers)]
    if all(since is not None and snapshot.now - since >= restarts.USEFUL_LIFE for since in ready):
        draft.memory = restarts.after_use(draft.memory)


def _supervise_zygote(draft: _Draft, snapshot: Snapshot) -> None:
    pool, now = draft.pool, snapshot.now
    if pool.zygote is None:
        if snapshot.phase in (Phase.BOOTING, Phase.SERVING):
            if now >= draft.memory.not_before:
                draft.actions.append(StartZygote(pool.name, load=True))
            draft.wake(draft.memory.not_before)
    elif snapshot.phase is Phase.KILLING:
        draft.actions.append(KillZygote(pool.name, STOPPED_AT_ONCE))
    else:
        _step_zygote(draft, pool.zygote, snapshot)


def _step_zygote(draft: _Draft, zygote: Zygote, snapshot: Snapshot) -> None:
    pool, now = draft.pool, snapshot.now
    draining = snapshot.phase is Phase.DRAINING
    match zygote.state:
        case ZygoteState.LOADING if draining:
            draft.actions.append(KillZygote(pool.name, STOPPED_LOADING))
        case ZygoteState.LOADING if now >= zygote.started + pool.boot_timeout:
            draft.actions.append(KillZygote(pool.name, f"boot_timeout ({pool.boot_timeout:g} s)"))
        case ZygoteState.LOADING:
            draft.wake(zygote.started + pool.boot_timeout)
        case ZygoteState.READY if zygote.unfit:
            _replace_unfit(draft, draining, now)
        case ZygoteState.READY if draining:
            # It stays while workers do: they may all die, and the queue still has to be answered.
            over = now >= snapshot.phase_since + pool.graceful_timeout
            if (over or not pool.workers) and scaling.desired(pool, snapshot) == 0:
                draft.actions.append(ReleaseZygote(pool.name))
        case ZygoteState.READY if _owes_a_worker(pool, zygote, now):
            draft.actions.append(KillZygote(pool.name, f"forked nobody within boot_timeout ({pool.boot_timeout:g} s)"))
        case ZygoteState.LEAVING | ZygoteState.FAILED if now >= zygote.changed + _ZYGOTE_GRACE:
            draft.actions.append(KillZygote(pool.name, "did not end in order"))
        case ZygoteState.LEAVING | ZygoteState.FAILED:
            draft.wake(zygote.changed + _ZYGOTE_GRACE)


def _replace_unfit(draft: _Draft, draining: bool, now: float) -> None:
    name = draft.pool.name
    if draining:
        draft.actions.append(KillZygote(name, "unfit to fork from"))
    elif now >= draft.memory.not_before:
        draft.actions += [KillZygote(name, "unfit to fork from"), StartZygote(name, load=False)]
    else:
        draft.wake(draft.memory.not_before)


def _owes_a_worker(pool: PoolView, zygote: Zygote, now: float) -> bool:
    """A worker that was asked for long ago never showed: a fork handler of the application hangs, perhaps."""
    return any(
        not worker.pid and worker.generation == zygote.generation and now >= worker.forked + pool.boot_timeout
        for worker in pool.workers
    )


def _size(draft: _Draft, snapshot: Snapshot) -> None:
    pool, now = draft.pool, snapshot.now
    size = scaling.desired(pool, snapshot)
    missing = size - len(scaling.active(pool))
    if snapshot.phase is Phase.SERVING:
        leaving = {worker.slot for worker in scaling.surplus(pool, size)} | scaling.deserters(pool)
        draft.actions += [Retire(pool.name, slot) for slot in sorted(leaving)]
        if leaving:
            draft.wake(now)  # they are reminded, and replaced, by the next plan
    if missing <= 0 or pool.zygote is None or pool.zygote.state is not ZygoteState.READY or pool.zygote.unfit:
        return
    if now < draft.memory.not_before:
        draft.wake(draft.memory.not_before)
        return
    slots = scaling.free_slots(pool)[: min(missing, scaling.MAX_SPAWN_AT_ONCE)]
    draft.actions += [Fork(pool.name, slot) for slot in slots]
    if len(slots) < missing:
        draft.wake(now + HEARTBEAT / 10)


def _listen(draft: _Draft, snapshot: Snapshot) -> None:
    pool, now = draft.pool, snapshot.now
    for worker in pool.workers:
        if worker.ready is not None:
            if pool.open and not worker.listening and worker.retired is None:
                draft.actions.append(Listen(pool.name, worker.slot))
        elif now >= worker.forked + pool.boot_timeout:
            draft.actions.append(Kill(pool.name, worker.slot, f"boot_timeout ({pool.boot_timeout:g} s)"))
            draft.killed.add(worker.slot)
        else:
            draft.wake(worker.forked + pool.boot_timeout)


def _see_off(draft: _Draft, snapshot: Snapshot) -> None:
    pool = draft.pool
    workers = [worker for worker in pool.workers if worker.slot not in draft.killed]
    if snapshot.phase is Phase.DRAINING:
        if pool.open and not pool.shut:
            draft.actions.append(ShutListener(pool.name))
        # A Unix listener of our own wakes its workers when its queue is empty, but not one whose peer keeps its
        # connection busy. One of TCP has to be watched until then; somebody else's is left as it is; and workers that
        # were never given one would wait for it.
        drained = pool.shut and (pool.waiting == 0 or (pool.silent and not pool.waiting))
        if pool.silent and not drained:
            draft.wake(snapshot.now + saturation.LOOK_AGAIN)
        draft.actions += [
            Retire(pool.name, worker.slot)
            for worker in workers
            if worker.retired is None and (pool.inherited or not pool.open or drained)
        ]
    for worker in workers:
        if worker.retired is not None or snapshot.phase in (Phase.DRAINING, Phase.KILLING):
            actions, wake_at = retirement.step_down(pool, worker, snapshot)
            draft.actions += actions
            draft.wake(wake_at)


def _watch_queue(draft: _Draft, snapshot: Snapshot) -> None:
    draft.memory, reports = saturation.watch(draft.pool, draft.memory, snapshot.now)
    draft.actions += reports
    if saturation.everyone_busy(draft.pool) or draft.memory.full_since is not None:
        draft.wake(snapshot.now + saturation.LOOK_AGAIN)
