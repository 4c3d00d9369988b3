"""`plan`: the whole policy of the master, one pure function over a snapshot.

It asks each rule in turn (failures, zygotes, the reload, the size, who listens and who leaves, the queue) and puts
their answers together. It decides; it does not do: the loop performs what it returns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefork.policy import deadlines, reload, replacing, restarts, retirement, saturation, scaling
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
    Sizing,
    Snapshot,
    StartZygote,
    Zygote,
    ZygoteState,
)
from prefork.policy.roster import Roster

__all__ = ["HEARTBEAT", "plan"]

HEARTBEAT: Final = 1.0
"""The longest wait of the master, in seconds: whatever a hint has missed is seen at the next beat."""

_ZYGOTE_GRACE: Final = 5.0
"""Seconds a zygote has for its exit handlers; it holds no connection."""

_SOON: Final = 0.1
"""Seconds until what did not fit into one plan is looked at again."""


class _Draft:
    """What is being decided for one pool."""

    def __init__(self, pool: PoolView, memory: PoolMemory, now: float) -> None:
        self.pool = pool
        self.memory = memory
        self.now = now
        self.roster = Roster(pool, now)
        self.actions: list[Action] = []
        self.killed: set[int] = set()  # slots; whoever is killed is asked for nothing else
        self.watched = False
        self.wake_at = now + HEARTBEAT

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)


def plan(snapshot: Snapshot, memory: Memory) -> Decision:
    """Decide what to do now, what to remember, and when to look again."""
    drafts = [_Draft(pool, memory.of(pool.name), snapshot.now) for pool in snapshot.pools]
    for draft in drafts:
        _count_failures(draft)
        if snapshot.phase is Phase.RELOADING and draft.pool.reloads:
            _bring(draft)
            if not draft.pool.open:
                continue  # it is being added: until the commit it has nothing but what is coming
        _supervise_zygote(draft)
        _supervise_others(draft)
        _size(draft)
        _forgive(draft)
        _staff(draft)
        _give_up_late_ones(draft)
        _watch_requests(draft)
        _see_off(draft)
        _watch_queue(draft)
    actions = [action for draft in drafts for action in draft.actions]
    if snapshot.phase is Phase.BOOTING and all(_can_serve(pool) for pool in snapshot.pools):
        # Every pool has a worker that could accept: only now does any path appear, so a start that fails leaves none.
        actions += [OpenListener(pool.name) for pool in snapshot.pools if not pool.open]
    verdict = reload.verdict(snapshot)
    if verdict is not None:
        actions.append(verdict)
    stopping = snapshot.phase in (Phase.DRAINING, Phase.KILLING)
    if stopping and not any(_is_alive(pool) or _is_owed(pool, snapshot.now) for pool in snapshot.pools):
        actions.append(End())
    return Decision(
        actions=tuple(actions),
        memory=Memory({draft.pool.name: draft.memory for draft in drafts}),
        wake_at=min((draft.wake_at for draft in drafts), default=snapshot.now + HEARTBEAT),
        watch=frozenset(draft.pool.name for draft in drafts if draft.watched),
    )


def _can_serve(pool: PoolView) -> bool:
    if any(worker.ready is not None for worker in pool.workers):
        return True
    return pool.verified and scaling.boot_size(pool) == 0 and _can_fork(pool.zygote)


def _can_fork(zygote: Zygote | None) -> bool:
    return zygote is not None and zygote.state is ZygoteState.READY and not zygote.unfit


def _is_alive(pool: PoolView) -> bool:
    return bool(pool.workers or pool.zygote or pool.coming or pool.leaving)


def _is_owed(pool: PoolView, now: float) -> bool:
    """Whether connections wait for workers, though the pool is being stopped."""
    return pool.open and scaling.draining_size(pool, now) > 0


# failures


def _count_failures(draft: _Draft) -> None:
    draft.memory = restarts.forget(draft.memory, draft.pool.cutoff)
    for ended in draft.pool.ended:
        if not ended.expected:
            draft.memory = restarts.after_end(draft.memory, ended.ready, draft.now)
            if not ended.ours:
                draft.memory = restarts.count_death(draft.memory, draft.pool.rules.max_children, draft.now)


def _forgive(draft: _Draft) -> None:
    """A pool that has all it should have, for long enough, has come through."""
    zygote, roster, now = draft.pool.zygote, draft.roster, draft.now
    if not draft.memory.failures or zygote is None or not _can_fork(zygote):
        return
    if roster.loading or roster.lasting < (draft.memory.sizing.size or 0):
        return  # a start is still owed: workers that have long been there say nothing about it
    ready = [zygote.changed, *(worker.ready for worker in (*roster.taking, *roster.wings))]
    if all(since is not None and now - since >= restarts.USEFUL_LIFE for since in ready):
        draft.memory = restarts.after_use(draft.memory)


# zygotes


def _bring(draft: _Draft) -> None:
    actions, wake_at = reload.bring(draft.pool, draft.now)
    draft.actions += actions
    draft.wake(wake_at)


def _supervise_zygote(draft: _Draft) -> None:
    pool = draft.pool
    if pool.zygote is None:
        if pool.phase in (Phase.BOOTING, Phase.SERVING, Phase.RELOADING) or _is_short(draft):
            if draft.now >= draft.memory.not_before:
                draft.actions.append(StartZygote(pool.name, load=True))
            draft.wake(draft.memory.not_before)
    elif pool.phase is Phase.KILLING:
        draft.actions.append(KillZygote(pool.name, pool.zygote.generation, STOPPED_AT_ONCE))
    else:
        _step_zygote(draft, pool.zygote)


def _is_short(draft: _Draft) -> bool:
    """Whether more connections wait than there are workers, though the pool is being stopped."""
    return _is_owed(draft.pool, draft.now) and _present(draft.roster) < scaling.draining_size(draft.pool, draft.now)


def _step_zygote(draft: _Draft, zygote: Zygote) -> None:
    pool, now = draft.pool, draft.now
    draining = pool.phase is Phase.DRAINING
    useless = draining and not _is_short(draft)
    match zygote.state:
        case ZygoteState.LOADING if useless:
            draft.actions.append(KillZygote(pool.name, zygote.generation, STOPPED_LOADING))
        case ZygoteState.LOADING if now >= zygote.started + pool.rules.boot_timeout:
            draft.actions.append(
                KillZygote(pool.name, zygote.generation, f"boot_timeout ({pool.rules.boot_timeout:g} s)")
            )
        case ZygoteState.LOADING:
            draft.wake(zygote.started + pool.rules.boot_timeout)
        case ZygoteState.READY if zygote.unfit:
            _replace_unfit(draft, zygote, useless)
        case ZygoteState.READY if draining:
            # It stays while workers do: they may all die, and the queue still has to be answered.
            over = now >= pool.phase_since + pool.rules.graceful_timeout
            if (over or not pool.workers) and scaling.draining_size(pool, now) == 0:
                draft.actions.append(ReleaseZygote(pool.name, zygote.generation))
        case ZygoteState.READY if _owes_a_worker(pool, zygote, now):
            reason = f"forked nobody within boot_timeout ({pool.rules.boot_timeout:g} s)"
            draft.actions.append(KillZygote(pool.name, zygote.generation, reason))
        case ZygoteState.LEAVING | ZygoteState.FAILED:
            _end_leaving(draft, zygote)


def _end_leaving(draft: _Draft, zygote: Zygote) -> None:
    if draft.now >= zygote.changed + _ZYGOTE_GRACE:
        draft.actions.append(KillZygote(draft.pool.name, zygote.generation, "did not end in order"))
    else:
        draft.wake(zygote.changed + _ZYGOTE_GRACE)


def _replace_unfit(draft: _Draft, zygote: Zygote, useless: bool) -> None:
    name = draft.pool.name
    if useless:
        draft.actions.append(KillZygote(name, zygote.generation, "unfit to fork from"))
    elif draft.now >= draft.memory.not_before:
        draft.actions += [KillZygote(name, zygote.generation, "unfit to fork from"), StartZygote(name, load=False)]
    else:
        draft.wake(draft.memory.not_before)


def _owes_a_worker(pool: PoolView, zygote: Zygote, now: float) -> bool:
    """A worker that was asked for long ago never showed: a fork handler of the application hangs, perhaps."""
    return any(
        not worker.pid and worker.generation == zygote.generation and now >= worker.forked + pool.rules.boot_timeout
        for worker in pool.workers
    )


def _supervise_others(draft: _Draft) -> None:
    """The zygotes of earlier generations, and at a stop also the one that was coming."""
    pool = draft.pool
    if pool.coming is not None and pool.phase in (Phase.DRAINING, Phase.KILLING):
        reason = STOPPED_AT_ONCE if pool.phase is Phase.KILLING else STOPPED_LOADING
        draft.actions.append(KillZygote(pool.name, pool.coming.generation, reason))
    for zygote in pool.leaving:
        if pool.phase is Phase.KILLING:
            draft.actions.append(KillZygote(pool.name, zygote.generation, STOPPED_AT_ONCE))
        else:
            _end_leaving(draft, zygote)


# workers


def _size(draft: _Draft) -> None:
    """How many workers the pool shall have."""
    pool, memory = draft.pool, draft.memory
    if pool.phase is Phase.BOOTING:
        draft.memory = replace(memory, sizing=Sizing(size=scaling.boot_size(pool)))
    elif pool.phase in (Phase.SERVING, Phase.RELOADING):
        sizing, wake_at = scaling.resize(pool, draft.roster, memory.sizing, draft.now)
        before = memory.sizing.size
        if before is not None and (sizing.size or 0) > before and restarts.are_dying(memory, draft.now):
            sizing = replace(sizing, size=min(before, pool.rules.max_children))
        draft.memory = replace(memory, sizing=sizing)
        draft.wake(wake_at)
        draft.watched = scaling.watches(pool, draft.roster, draft.now, memory.not_before)


def _staff(draft: _Draft) -> None:
    """Bring the pool to its size: who listens, who leaves, who is forked."""
    pool, roster = draft.pool, draft.roster
    if pool.phase in (Phase.SERVING, Phase.RELOADING):
        size = draft.memory.sizing.size or 0
        actions, shrinks = replacing.rearrange(pool, roster, size)
        draft.actions += actions
        if any(isinstance(action, Retire) for action in actions):
            draft.wake(draft.now)  # they are reminded, and replaced, by the next plan
        if not shrinks:
            _fork(draft, size + replacing.is_stranded(pool, roster) - roster.lasting)
    else:
        if pool.open:
            draft.actions += [Listen(pool.name, worker.slot) for worker in roster.wings]
        _fork(draft, _size_otherwise(draft) - _present(roster))


def _present(roster: Roster) -> int:
    """Workers that accept connections or will, from whichever listener."""
    return len(roster.taking) + len(roster.strays) + roster.coming


def _size_otherwise(draft: _Draft) -> int:
    if draft.pool.phase is Phase.BOOTING:
        return draft.memory.sizing.size or 0
    return scaling.draining_size(draft.pool, draft.now)


def _fork(draft: _Draft, missing: int) -> None:
    zygote = draft.pool.zygote
    if missing <= 0 or zygote is None or not _can_fork(zygote):
        return
    if draft.now < draft.memory.not_before:
        draft.wake(draft.memory.not_before)
        return
    held_back = restarts.held_back(draft.memory, draft.pool.rules.max_children, draft.now)
    if held_back:
        draft.wake(draft.now + 1.0 / restarts.MADE_UP_A_SECOND)
        missing = max(0, missing - held_back)
    planned = [action.slot for action in draft.actions if isinstance(action, Fork)]
    forks = replacing.forks(draft.pool, zygote, draft.roster, missing, planned)
    draft.actions += forks
    if len(forks) < missing:
        draft.wake(draft.now + _SOON)


def _give_up_late_ones(draft: _Draft) -> None:
    """Who is not ready within boot_timeout; those that a reload brings are its own."""
    pool = draft.pool
    for worker in draft.roster.unready:
        late = worker.forked + pool.rules.boot_timeout
        if draft.now >= late:
            draft.actions.append(Kill(pool.name, worker.slot, f"boot_timeout ({pool.rules.boot_timeout:g} s)"))
            draft.killed.add(worker.slot)
        else:
            draft.wake(late)


def _watch_requests(draft: _Draft) -> None:
    draft.memory, actions, wake_at = deadlines.watch(draft.pool, draft.memory, draft.now)
    draft.actions += actions
    draft.killed |= {action.slot for action in actions if isinstance(action, Kill)}
    draft.wake(wake_at)


def _see_off(draft: _Draft) -> None:
    pool, now = draft.pool, draft.now
    workers = [worker for worker in pool.workers if worker.slot not in draft.killed]
    if pool.phase is Phase.DRAINING:
        if pool.open and not pool.shut:
            draft.actions.append(ShutListener(pool.name))
        # A Unix listener of our own wakes its workers when its queue is empty, but not one whose peer keeps its
        # connection busy. One of TCP has to be watched until then; somebody else's is left as it is; and workers that
        # were never given one would wait for it.
        drained = pool.shut and not pool.behind and (pool.waiting == 0 or (pool.silent and not pool.waiting))
        if pool.silent and not drained:
            draft.wake(now + saturation.LOOK_AGAIN)
        draft.actions += [
            Retire(pool.name, worker.slot)
            for worker in workers
            if worker.retired is None and (pool.inherited or not pool.open or drained)
        ]
    stopping = pool.phase in (Phase.DRAINING, Phase.KILLING)
    for worker in workers:
        if stopping or worker.retired is not None:
            actions, wake_at = retirement.step_down(pool, worker, now)
            draft.actions += actions
            draft.wake(wake_at)


# the queue


def _watch_queue(draft: _Draft) -> None:
    pool, roster = draft.pool, draft.roster
    draft.memory, reports = saturation.watch(pool, draft.memory, draft.now)
    draft.actions += reports
    draft.memory, reports = saturation.watch_workers(pool, roster, draft.memory, draft.now)
    draft.actions += reports
    unseen = pool.open and not roster.idle and not draft.watched
    if unseen or draft.memory.full_since is not None or draft.memory.saturation.since is not None:
        draft.wake(draft.now + saturation.LOOK_AGAIN)
