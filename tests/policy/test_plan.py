"""The whole policy: each rule where rules meet, and what holds of every plan, by Hypothesis."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.simulator import Script, Simulator, check
from policy.views import NAME, NOW, decide, pool_of, slots_of, snapshot_of, states_of, worker_of, zygote_of
from prefork.policy.lifecycle import Command
from prefork.policy.model import (
    IDLE,
    RETIRING,
    RUNNING,
    Abandon,
    Action,
    Commit,
    End,
    Ended,
    Fork,
    Kill,
    KillZygote,
    Listen,
    Memory,
    OpenListener,
    Phase,
    PoolMemory,
    PoolView,
    QueueEnded,
    QueueFull,
    ReleaseZygote,
    Retire,
    Rules,
    Saturated,
    ShutListener,
    SignalRetired,
    StartZygote,
    Terminate,
    Worker,
    Zygote,
    ZygoteState,
)
from prefork.policy.plan import HEARTBEAT, plan

LOADING, READY, FAILED, LEAVING = ZygoteState.LOADING, ZygoteState.READY, ZygoteState.FAILED, ZygoteState.LEAVING
BOOTING, SERVING, DRAINING, KILLING = Phase.BOOTING, Phase.SERVING, Phase.DRAINING, Phase.KILLING
BACKING_OFF = PoolMemory(failures=3, not_before=NOW + 0.2)


def test_a_pool_in_order_is_left_alone() -> None:
    """Everybody idle, nothing in the queue: no action, and the next look at the heartbeat."""
    decision = decide(pool_of(worker_of(0), worker_of(1)))
    assert (decision.actions, decision.wake_at) == ((), NOW + HEARTBEAT)


def test_without_pools_there_is_nothing_to_do() -> None:
    """Serving nobody waits for the next beat."""
    decision = decide(phase=SERVING)
    assert (decision.actions, decision.wake_at, decision.memory) == ((), NOW + HEARTBEAT, Memory({}))


# the zygote

KILL_LOADING = KillZygote(NAME, 1, "stopped while loading the application")
KILL_SLOW = KillZygote(NAME, 1, "boot_timeout (60 s)")
KILL_UNFIT = KillZygote(NAME, 1, "unfit to fork from")
KILL_LATE = KillZygote(NAME, 1, "did not end in order")
BLANK = StartZygote(NAME, load=False)
LATE = {"changed": NOW - 5}

ZYGOTES: list[tuple[str, Phase, Zygote | None, PoolMemory, list[Action], float]] = [
    ("none, booting", BOOTING, None, PoolMemory(), [StartZygote(NAME, load=True)], 0.0),
    ("none, serving", SERVING, None, PoolMemory(), [StartZygote(NAME, load=True)], 0.0),
    ("none, backing off", SERVING, None, BACKING_OFF, [], NOW + 0.2),
    ("none, draining", DRAINING, None, PoolMemory(), [], NOW + 1),
    ("none, killing", KILLING, None, PoolMemory(), [], NOW + 1),
    ("loading", BOOTING, zygote_of(LOADING, started=NOW - 59.5), PoolMemory(), [], NOW + 0.5),
    ("loading for too long", BOOTING, zygote_of(LOADING, started=NOW - 60), PoolMemory(), [KILL_SLOW], NOW + 1),
    ("loading, draining", DRAINING, zygote_of(LOADING, started=NOW), PoolMemory(), [KILL_LOADING], NOW + 1),
    ("loading, killing", KILLING, zygote_of(LOADING), PoolMemory(), [KillZygote(NAME, 1, "stopped at once")], NOW + 1),
    ("unfit", SERVING, zygote_of(unfit=True), PoolMemory(), [KILL_UNFIT, BLANK], NOW + 1),
    ("unfit, backing off", SERVING, zygote_of(unfit=True), BACKING_OFF, [], NOW + 0.2),
    ("unfit, draining", DRAINING, zygote_of(unfit=True), PoolMemory(), [KILL_UNFIT], NOW + 1),
    ("failed", SERVING, zygote_of(FAILED, changed=NOW - 4.5), PoolMemory(), [], NOW + 0.5),
    ("failed, hanging", SERVING, zygote_of(FAILED, **LATE), PoolMemory(), [KILL_LATE], NOW + 1),
    ("leaving", DRAINING, zygote_of(LEAVING, changed=NOW - 4.5), PoolMemory(), [], NOW + 0.5),
    ("leaving, hanging", DRAINING, zygote_of(LEAVING, **LATE), PoolMemory(), [KILL_LATE], NOW + 1),
    ("ready, draining", DRAINING, zygote_of(), PoolMemory(), [ReleaseZygote(NAME, 1)], NOW + 1),
    ("ready, killing", KILLING, zygote_of(), PoolMemory(), [KillZygote(NAME, 1, "stopped at once")], NOW + 1),
]


@pytest.mark.parametrize(
    ("phase", "zygote", "memory", "actions", "wake_at"), [z[1:] for z in ZYGOTES], ids=[z[0] for z in ZYGOTES]
)
def test_the_zygote(
    phase: Phase,
    zygote: Zygote | None,
    memory: PoolMemory,
    actions: list[Action],
    wake_at: float,
) -> None:
    """Started where the back-off allows it, replaced when unfit, killed when late, released at the end."""
    pool = pool_of(zygote=zygote, max_children=1, verified=False, open=False)
    decision = decide(pool, phase=phase, since=NOW - 5, memory=memory)
    assert [action for action in decision.actions if action != End()] == actions
    if wake_at:
        assert decision.wake_at == pytest.approx(wake_at)


def test_a_zygote_stays_while_workers_drain() -> None:
    """They may all die with connections still waiting; only after graceful_timeout nobody is forked any more."""
    pool = pool_of(worker_of(), shut=True)
    assert ReleaseZygote(NAME, 1) not in decide(pool, phase=DRAINING, since=NOW - 24).actions
    assert ReleaseZygote(NAME, 1) in decide(pool, phase=DRAINING, since=NOW - 25).actions


def test_connections_that_wait_for_nobody_get_a_worker_even_while_draining() -> None:
    """The last worker died, two connections wait: two forks; and the zygote is not released."""
    pool = pool_of(max_children=4, shut=True, waiting=2)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == (Fork(NAME, 0, 1), Fork(NAME, 1, 1))


DEAD: list[tuple[str, dict[str, Any], list[Action]]] = [
    ("nobody left", {}, [StartZygote(NAME, load=True)]),
    ("nobody left, and nobody waits", {"waiting": 0}, [End()]),
    ("nobody left, and nobody could ever connect", {"open": False, "shut": False}, [End()]),
    ("enough are left", {"workers": (worker_of(),)}, []),
    ("too few are left", {"workers": (worker_of(),), "waiting": 2}, [StartZygote(NAME, load=True)]),
    ("it loads", {"zygote": zygote_of(LOADING, started=NOW)}, []),
    ("it loads, and is needed no more", {"zygote": zygote_of(LOADING, started=NOW), "waiting": 0}, [KILL_LOADING]),
    ("it loads for too long", {"zygote": zygote_of(LOADING, started=NOW - 60)}, [KILL_SLOW]),
    ("it is unfit", {"zygote": zygote_of(unfit=True)}, [KILL_UNFIT, BLANK]),
]


@pytest.mark.parametrize(("changes", "actions"), [row[1:] for row in DEAD], ids=[row[0] for row in DEAD])
def test_who_waits_is_answered_though_everybody_died(changes: dict[str, Any], actions: list[Action]) -> None:
    """While a pool drains its zygote is replaced, too, if connections wait for workers that it does not have."""
    facts = {"zygote": None, "max_children": 4, "shut": True, "waiting": 1, **changes}
    pool = pool_of(*facts.pop("workers", ()), **facts)
    assert [
        action for action in decide(pool, phase=DRAINING, since=NOW - 1).actions if action != ShutListener(NAME)
    ] == actions


def test_who_waits_is_answered_until_graceful_timeout() -> None:
    """A zygote that cannot be started is tried again with patience, and not for ever."""
    pool = pool_of(zygote=None, shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW - 1, memory=BACKING_OFF).actions == ()
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == (StartZygote(NAME, load=True),)
    assert decide(pool, phase=DRAINING, since=NOW - 25).actions == (End(),)


def test_a_worker_that_was_forked_while_draining_may_start() -> None:
    """It is not killed for not being ready while connections wait for it, and then gets the listener."""
    starting = worker_of(0, forked=NOW, ready=None, listener=0)
    pool = pool_of(starting, max_children=4, shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == ()
    ready = worker_of(0, forked=NOW, ready=NOW, listener=0)
    pool = pool_of(ready, max_children=4, shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW - 1).actions == (Listen(NAME, 0),)


@pytest.mark.parametrize(
    ("facts", "killed"),
    [
        ({"pid": 0, "forked": NOW - 60}, True),
        ({"pid": 0, "forked": NOW - 59}, False),
        ({"pid": 7, "forked": NOW - 60}, False),
        ({"pid": 0, "forked": NOW - 60, "generation": 0}, False),
    ],
)
def test_a_zygote_that_does_not_fork_is_replaced(facts: dict[str, Any], killed: bool) -> None:
    """A worker that never showed within boot_timeout is given up, and the zygote that owes it with it."""
    pool = pool_of(worker_of(0, ready=None, listener=0, **facts))
    actions = decide(pool).actions
    assert (KillZygote(NAME, 1, "forked nobody within boot_timeout (60 s)") in actions) is killed


@pytest.mark.parametrize("phase", [SERVING, DRAINING])
def test_zygotes_of_earlier_generations_end_in_order_or_are_killed(phase: Phase) -> None:
    """They were told to; five seconds are enough."""
    leaving = (zygote_of(LEAVING, generation=2, changed=NOW - 4.5), zygote_of(LEAVING, generation=3, **LATE))
    decision = decide(pool_of(worker_of(), leaving=leaving, shut=True, waiting=None), phase=phase, since=NOW)
    assert decision.actions == (KillZygote(NAME, 3, "did not end in order"),)
    assert decision.wake_at == pytest.approx(NOW + 0.5)


def test_all_zygotes_are_killed_at_once() -> None:
    """Also one that a reload was bringing, and those of earlier generations; and the end waits for them."""
    zygotes = {"coming": zygote_of(LOADING, generation=5), "leaving": (zygote_of(LEAVING, generation=2),)}
    killed = decide(pool_of(**zygotes), phase=KILLING).actions
    assert killed == tuple(KillZygote(NAME, generation, "stopped at once") for generation in (1, 5, 2))
    for name, zygote in zygotes.items():
        assert End() not in decide(pool_of(zygote=None, **{name: zygote}), phase=KILLING).actions


def test_a_stop_gives_up_what_a_reload_was_bringing() -> None:
    """It was not of use to anybody yet."""
    pool = pool_of(worker_of(), coming=zygote_of(READY, generation=5), shut=True, waiting=1)
    assert decide(pool, phase=DRAINING, since=NOW).actions == (
        KillZygote(NAME, 5, "stopped while loading the application"),
    )


# reloads

RELOADING = Phase.RELOADING


def test_a_reload_brings_its_generation_beside_the_one_that_serves() -> None:
    """The pool goes on as before."""
    decision = decide(pool_of(worker_of(), reloads=True, max_children=2), phase=RELOADING)
    assert decision.actions == (StartZygote(NAME, load=True, coming=True), Fork(NAME, 1, 1))


def test_a_pool_that_is_added_has_nothing_but_what_is_coming() -> None:
    """No zygote of its own, no worker, no listener before the commit."""
    pool = pool_of(reloads=True, open=False, zygote=None, verified=False)
    assert decide(pool, phase=RELOADING).actions == (StartZygote(NAME, load=True, coming=True),)


def test_two_forks_of_one_plan_have_two_slots() -> None:
    """One for the reload and one for the pool; both count."""
    coming = zygote_of(generation=5)
    pool = pool_of(reloads=True, coming=coming, max_children=1, surge=5)
    assert decide(pool, phase=RELOADING).actions == (Fork(NAME, 0, 5), Fork(NAME, 1, 1))


def test_a_reload_that_is_proven_is_committed_last() -> None:
    """After everything else; and one that was rejected is abandoned."""
    coming = zygote_of(generation=5)
    pool = pool_of(worker_of(0), worker_of(1, generation=5, listener=0), reloads=True, coming=coming, max_children=1)
    assert decide(pool, phase=RELOADING).actions == (Commit(),)
    assert decide(replace(pool, rejected=True), phase=RELOADING).actions == (Abandon("pool www"),)
    after = pool_of(*pool.workers, zygote=coming, cutoff=5, max_children=1)
    assert decide(after).actions[:2] == (Listen(NAME, 1), Retire(NAME, 0))


def test_a_worker_that_is_coming_is_no_worker_yet() -> None:
    """It gets no listener and is not sized, and its boot_timeout is the reload's; but it is a process."""
    coming = worker_of(1, generation=5, listener=0, forked=NOW - 99, ready=None)
    pool = pool_of(worker_of(0), coming, coming=zygote_of(generation=5), max_children=1)
    assert decide(pool).actions == ()
    outdated = pool_of(worker_of(0), coming, coming=zygote_of(generation=5), max_children=1, surge=1, cutoff=2)
    assert decide(outdated).actions == ()


# sizes


def test_a_pool_on_demand_serves_without_a_worker() -> None:
    """When its zygote holds the application; otherwise one worker has to show that it can be loaded."""
    proven = pool_of(pm="ondemand", max_children=4, open=False)
    assert decide(proven, phase=BOOTING).actions == (OpenListener(NAME),)
    assert decide(replace(proven, verified=False), phase=BOOTING).actions == (Fork(NAME, 0, 1),)
    for zygote in (None, zygote_of(LOADING, started=NOW), zygote_of(unfit=True)):
        assert OpenListener(NAME) not in decide(replace(proven, zygote=zygote), phase=BOOTING).actions
    static = pool_of(max_children=4, open=False)
    assert OpenListener(NAME) not in decide(static, phase=BOOTING).actions


def test_a_watched_listener_is_the_loops_to_watch() -> None:
    """By the name of its pool; and then the queue need not be looked at often."""
    watched = decide(pool_of(pm="ondemand", max_children=4))
    assert (watched.watch, watched.wake_at) == (frozenset({NAME}), NOW + HEARTBEAT)
    came = decide(pool_of(pm="ondemand", max_children=4, waiting=2))
    assert (came.watch, came.actions) == (frozenset(), (Fork(NAME, 0, 1), Fork(NAME, 1, 1)))
    assert decide(pool_of(worker_of())).watch == frozenset()


def test_a_saturation_is_told() -> None:
    """Once it has lasted; and it is looked at often meanwhile."""
    worker = worker_of()
    pool = pool_of(worker, states=states_of([worker], {0: RUNNING}), waiting=3)
    first = decide(pool)
    assert (first.actions, first.wake_at) == ((), NOW + 0.05)
    later = plan(snapshot_of(pool, now=NOW + 0.2), first.memory)
    assert later.actions == (Saturated(NAME, 3, 100, 1, since=NOW, peak=3),)


FORKS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("all that are missing", {"max_children": 3}, [1, 2]),
    ("no more than 32 at once", {"max_children": 40}, list(range(1, 33))),
    ("no more than there are slots", {"max_children": 40, "slots": 3}, [1, 2]),
    ("none without a zygote", {"max_children": 3, "zygote": None}, []),
    ("none from one that loads", {"max_children": 3, "zygote": zygote_of(LOADING, started=NOW)}, []),
    ("none from an unfit one", {"max_children": 3, "zygote": zygote_of(unfit=True)}, []),
    ("none from one that leaves", {"max_children": 3, "zygote": zygote_of(LEAVING, changed=NOW)}, []),
    ("none if nobody is missing", {"max_children": 1}, []),
]


@pytest.mark.parametrize(("changes", "slots"), [f[1:] for f in FORKS], ids=[f[0] for f in FORKS])
def test_forks(changes: dict[str, Any], slots: list[int]) -> None:
    """Free slots from the lowest up, as many as are missing, from a zygote that can."""
    assert slots_of(Fork, decide(pool_of(worker_of(0), **changes)).actions) == slots


def test_forks_that_did_not_fit_are_asked_for_soon() -> None:
    """A tenth of a beat later."""
    assert decide(pool_of(worker_of(0), max_children=40)).wake_at == pytest.approx(NOW + 0.1)


def test_forks_wait_for_the_back_off() -> None:
    """Until its very end, and not longer."""
    pool = pool_of(worker_of(0), max_children=2)
    early = decide(pool, memory=BACKING_OFF)
    assert (early.actions, early.wake_at) == ((), NOW + 0.2)
    assert decide(pool, memory=PoolMemory(failures=3, not_before=NOW)).actions == (Fork(NAME, 1, 1),)


def test_new_code_does_not_pay_for_the_failures_of_the_code_before() -> None:
    """What was remembered of its starts and deaths is forgotten at the commit, and only then."""
    memory = PoolMemory(failures=9, not_before=NOW + 30, deaths=40.0, deaths_at=NOW, cutoff=1)
    held = decide(pool_of(max_children=2, cutoff=1), memory=memory)
    assert (held.actions, held.memory.of(NAME).failures) == ((), 9)
    fresh = decide(pool_of(max_children=2, cutoff=2, zygote=zygote_of(generation=2)), memory=memory)
    assert slots_of(Fork, fresh.actions) == [0, 1]
    assert fresh.memory.of(NAME) == PoolMemory(cutoff=2, sizing=fresh.memory.of(NAME).sizing)


def test_the_youngest_of_too_many_retire() -> None:
    """And nobody is forked; the next plan follows at once, because it reminds them."""
    pool = pool_of(worker_of(0, forked=NOW - 1), worker_of(1), worker_of(2, forked=NOW - 2), max_children=1)
    decision = decide(pool)
    assert (decision.actions, decision.wake_at) == ((Retire(NAME, 0), Retire(NAME, 2)), NOW)


def test_a_deserter_is_taken_at_its_word() -> None:
    """A worker that says it leaves is retired, and another is forked at once."""
    worker = worker_of(0)
    assert decide(pool_of(worker, states=states_of([worker], {0: RETIRING}))).actions == (
        Retire(NAME, 0),
        Fork(NAME, 1, 1),
    )


# failures


def test_ends_that_were_not_expected_count() -> None:
    """And those that were do not; the memory says from when on there may be another start."""
    ended = (Ended(None, expected=False), Ended(NOW - 1, expected=True), Ended(None, expected=False))
    memory = decide(pool_of(ended=ended, max_children=1)).memory.of(NAME)
    assert (memory.failures, memory.not_before) == (2, NOW + 0.1)


@pytest.mark.parametrize(
    ("workers", "zygote", "forgiven"),
    [
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(), True),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 0.9)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=None)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1)], zygote_of(), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(changed=NOW - 0.9), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], zygote_of(LOADING, started=NOW), False),
        ([worker_of(0, ready=NOW - 1), worker_of(1, ready=NOW - 1)], None, False),
    ],
)
def test_a_full_house_that_lasts_ends_the_series(workers: list[Worker], zygote: Zygote | None, forgiven: bool) -> None:
    """When every worker there should be, and the zygote, has been ready for a second, the failures are history.

    Workers alone do not end it: those that serve on say nothing about why the next zygote fails.
    """
    before = PoolMemory(failures=5, not_before=NOW - 3)
    memory = decide(pool_of(*workers, max_children=2, zygote=zygote), memory=before).memory.of(NAME)
    assert memory.failures == (0 if forgiven else 5)


# listeners


def test_no_listener_opens_before_every_pool_has_a_worker() -> None:
    """The path of the first does not appear while the second may still fail."""
    one = pool_of(worker_of(0, listener=0), open=False)
    other = pool_of(worker_of(0, forked=NOW, ready=None, listener=0), name="other", open=False)
    assert decide(one, other, phase=BOOTING).actions == ()
    other = pool_of(worker_of(0, listener=0), name="other", open=False)
    assert decide(one, other, phase=BOOTING).actions == (OpenListener(NAME), OpenListener("other"))
    opened = pool_of(worker_of(0), open=True)
    assert decide(opened, other, phase=BOOTING).actions == (OpenListener("other"),)


@pytest.mark.parametrize(
    ("facts", "changes", "listens"),
    [
        ({}, {}, True),
        ({"ready": None}, {}, False),
        ({"listener": 1}, {}, False),
        ({"retired": NOW}, {}, False),
    ],
)
def test_who_gets_the_listener(facts: dict[str, Any], changes: dict[str, Any], listens: bool) -> None:
    """A ready worker that has none yet and was not asked to leave, once it is open."""
    pool = pool_of(worker_of(0, **{"listener": 0, "forked": NOW, **facts}), **changes)
    assert (Listen(NAME, 0) in decide(pool).actions) is listens
    assert (Listen(NAME, 0) in decide(pool, phase=DRAINING).actions) is listens
    closed = decide(replace(pool, open=False), phase=BOOTING)
    assert Listen(NAME, 0) not in closed.actions


def test_a_worker_that_does_not_get_ready_is_killed() -> None:
    """At boot_timeout, not before, and is asked for nothing else in that plan."""
    pool = pool_of(worker_of(0, forked=NOW - 59.9, ready=None, listener=0), open=False)
    early = decide(pool, phase=BOOTING)
    assert early.actions == ()
    assert early.wake_at == pytest.approx(NOW + 0.1)
    for phase in (BOOTING, DRAINING, KILLING):
        late = worker_of(0, forked=NOW - 60, ready=None, listener=0)
        pool = pool_of(late, open=False, zygote=None, waiting=None)
        told = [action for action in decide(pool, phase=phase).actions if getattr(action, "slot", None) == 0]
        assert told == [Kill(NAME, 0, "boot_timeout (60 s)")]


# stopping


def test_a_listener_of_our_own_wakes_its_workers_itself() -> None:
    """It is shut once, and nobody is retired while anything waits or may wait: the queue is answered first."""
    assert decide(pool_of(worker_of(), waiting=1), phase=DRAINING, since=NOW).actions == (ShutListener(NAME),)
    assert decide(pool_of(worker_of(), shut=True, waiting=1), phase=DRAINING, since=NOW).actions == ()
    assert decide(pool_of(worker_of(), shut=True, waiting=None), phase=DRAINING, since=NOW).actions == ()


def test_who_is_still_there_when_the_queue_is_empty_is_told_to_leave() -> None:
    """A peer that keeps its connection busy with one request after another must not keep its worker."""
    told = decide(pool_of(worker_of(), shut=True, waiting=0), phase=DRAINING, since=NOW).actions
    assert told == (Retire(NAME, 0),)


@pytest.mark.parametrize("changes", [{"inherited": True}, {"open": False}])
def test_others_have_to_be_asked(changes: dict[str, Any]) -> None:
    """Workers of an inherited listener, or of one that never opened, would wait for ever."""
    told = decide(pool_of(worker_of(0), worker_of(1, retired=NOW), shut=True, **changes), phase=DRAINING).actions
    assert slots_of(Retire, told) == [0]


def test_a_listener_whose_end_is_silent_is_watched() -> None:
    """TCP: workers are asked to leave when it is shut and nobody waits any more, and not a moment before."""
    busy = pool_of(worker_of(), silent=True, waiting=2)
    assert decide(busy, phase=DRAINING, since=NOW).actions == (ShutListener(NAME),)
    waited = decide(replace(busy, shut=True), phase=DRAINING, since=NOW)
    assert (slots_of(Retire, waited.actions), waited.wake_at < NOW + 0.1) == ([], True)
    for waiting in (0, None):
        done = decide(replace(busy, shut=True, waiting=waiting), phase=DRAINING, since=NOW)
        assert slots_of(Retire, done.actions) == [0]


def test_the_end() -> None:
    """When no process of any pool is left, and only when stopping."""
    nobody, somebody, zygote = pool_of(zygote=None, shut=True), pool_of(worker_of(), zygote=None), pool_of()
    for phase in (DRAINING, KILLING):
        assert decide(nobody, phase=phase).actions == (End(),)
        assert End() not in decide(nobody, somebody, phase=phase).actions
        assert End() not in decide(zygote, nobody, phase=phase).actions
    for phase in (BOOTING, SERVING):
        assert End() not in decide(nobody, phase=phase).actions


# the queue


def test_a_full_queue_is_reported_and_watched() -> None:
    """The episode is remembered from plan to plan, and looked at again soon."""
    decision = decide(pool_of(worker_of(), waiting=101))
    assert (decision.actions, decision.wake_at) == ((QueueFull(NAME, 101, 100),), NOW + 0.05)
    after = plan(snapshot_of(pool_of(worker_of()), now=NOW + 1), decision.memory)
    assert after.actions == (QueueEnded(NAME, 0.0, 101, 100),)


def test_while_everybody_is_busy_the_queue_is_looked_at_often() -> None:
    """Twenty times a second."""
    worker = worker_of()
    assert decide(pool_of(worker, states=states_of([worker], {0: RUNNING}))).wake_at == NOW + 0.05


# anything at all

MOMENTS = st.floats(NOW - 200, NOW)


@st.composite
def workers_of_any_kind(draw: st.DrawFn) -> tuple[Worker, ...]:
    """Up to a dozen workers in any condition, possible or not."""
    return tuple(
        Worker(
            slot=slot,
            generation=draw(st.integers(0, 3)),
            forked=draw(MOMENTS),
            pid=draw(st.sampled_from([0, 500 + slot])),
            ready=draw(st.none() | MOMENTS),
            listener=draw(st.integers(0, 2)),
            retired=draw(st.none() | MOMENTS),
            signals=draw(st.integers(0, 1_000)),
            signalled=draw(MOMENTS),
            terminated=draw(st.none() | MOMENTS),
        )
        for slot in draw(st.lists(st.integers(0, 15), unique=True, max_size=12))
    )


POOLS = st.builds(
    PoolView,
    name=st.just(NAME),
    rules=st.builds(
        Rules,
        max_children=st.integers(1, 40),
        boot_timeout=st.floats(0.001, 100),
        graceful_timeout=st.floats(0, 100),
    ),
    phase=st.sampled_from(Phase),
    phase_since=MOMENTS,
    slots=st.just(16),
    workers=workers_of_any_kind(),
    states=st.binary(min_size=16, max_size=16),
    zygote=st.none()
    | st.builds(
        Zygote,
        generation=st.integers(1, 3),
        state=st.sampled_from(ZygoteState),
        started=MOMENTS,
        changed=MOMENTS,
        loaded=st.booleans(),
        unfit=st.booleans(),
    ),
    open=st.booleans(),
    shut=st.booleans(),
    inherited=st.booleans(),
    silent=st.booleans(),
    verified=st.booleans(),
    ended=st.lists(st.builds(Ended, st.none() | MOMENTS, st.booleans()), max_size=40).map(tuple),
    waiting=st.none() | st.integers(0, 2**32),
    limit=st.none() | st.integers(0, 2**32),
)
MEMORIES = st.builds(
    PoolMemory,
    failures=st.integers(0, 10**9),
    not_before=st.floats(0, NOW + 30),
    full_since=st.none() | MOMENTS,
    full_seen=MOMENTS,
    full_peak=st.integers(0, 2**32),
)


@given(pool=POOLS, phase=st.sampled_from(Phase), since=MOMENTS, memory=MEMORIES)
def test_every_plan_keeps_the_rules(pool: PoolView, phase: Phase, since: float, memory: PoolMemory) -> None:
    """Whatever is in the snapshot, and whatever bytes in the scoreboard: `check`; the back-off stays within 30 s."""
    snapshot = snapshot_of(pool, phase=phase, since=since)
    decision = plan(snapshot, Memory({NAME: memory}))
    check(snapshot, decision)
    assert decision.memory.of(NAME).not_before <= NOW + 30


@given(pool=POOLS, phase=st.sampled_from(Phase), since=MOMENTS, memory=MEMORIES)
def test_a_plan_depends_on_its_arguments_alone(pool: PoolView, phase: Phase, since: float, memory: PoolMemory) -> None:
    """The same snapshot and memory give the same decision."""
    snapshot = snapshot_of(pool, phase=phase, since=since)
    assert plan(snapshot, Memory({NAME: memory})) == plan(snapshot, Memory({NAME: memory}))


# whole lives

ZYGOTE_KINDS = ["ready", "blank", "unfit", "fails", "hangs", "dies", "refused", "deaf"]
WORKER_KINDS = ["good", "good", "slow", "crashes", "hangs", "lost", "stuck", "leaves"]


def _for_ever(kinds: list[str]) -> Iterator[str]:
    return itertools.chain(kinds, itertools.repeat(kinds[-1]))


@st.composite
def lives(draw: st.DrawFn) -> Simulator:
    """A pool whose processes do whatever processes do."""
    garbage = draw(st.lists(st.binary(min_size=16, max_size=16), max_size=5))
    script = Script(
        zygotes=_for_ever(draw(st.lists(st.sampled_from(ZYGOTE_KINDS), min_size=1, max_size=6))),
        workers=_for_ever(draw(st.lists(st.sampled_from(WORKER_KINDS), min_size=1, max_size=12))),
        garbage=itertools.cycle(garbage) if garbage else None,
        load=draw(st.sampled_from([0.01, 0.5, 2.9])),
        heard=itertools.cycle(draw(st.lists(st.booleans(), min_size=1, max_size=5))),
        waiting=itertools.cycle(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))),
    )
    inherited, silent = draw(st.booleans()), draw(st.booleans())
    return Simulator(script, max_children=draw(st.integers(1, 6)), inherited=inherited, silent=silent)


@settings(max_examples=300, deadline=None)
@given(life=lives(), before=st.floats(0, 40), stop=st.sampled_from([Command.TERM, Command.QUIT, Command.INT]))
def test_a_graceful_stop_ends(life: Simulator, before: float, stop: Command) -> None:
    """Whenever it comes and whatever the processes do: within graceful_timeout and a few seconds nobody is left.

    On the way every plan keeps the rules, and the loop never spins.
    """
    life.run(before)
    life.command(stop)
    life.run(5.0 + 7.0)
    assert life.phase is Phase.ENDED
    assert (life.pool.workers, life.pool.zygote) == ({}, None)


@settings(max_examples=200, deadline=None)
@given(life=lives(), before=st.floats(0, 40), draining=st.floats(0, 6))
def test_a_second_int_ends_it_now(life: Simulator, before: float, draining: float) -> None:
    """Within a second of the second one, whoever hangs."""
    life.run(before)
    life.command(Command.INT)
    life.run(draining)
    life.command(Command.INT)
    life.run(1.5)
    assert life.phase is Phase.ENDED
    assert (life.pool.workers, life.pool.zygote) == ({}, None)


def test_a_quiet_life() -> None:
    """One zygote, a fork for each worker, each given the listener once; shut, retired, released and ended in order."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"])), max_children=3)
    life.run(30)
    life.command(Command.TERM)
    life.run(30)
    assert [type(action) for _, action in life.performed] == [
        StartZygote, Fork, Fork, Fork, OpenListener, Listen, Listen, Listen, ShutListener,
        Retire, Retire, Retire, ReleaseZygote, End,
    ]  # fmt: skip
    assert life.now < 1_000 + 30 + 1


def test_an_application_that_cannot_be_forked_is_served_all_the_same() -> None:
    """The unfit zygote is replaced by a blank one, once, and each worker loads for itself."""
    life = Simulator(Script(zygotes=_for_ever(["unfit"]), workers=_for_ever(["good"])), max_children=2)
    life.run(30)
    assert [action for _, action in life.performed if isinstance(action, StartZygote)] == [
        StartZygote(NAME, load=True),
        StartZygote(NAME, load=False),
    ]
    assert life.phase is SERVING
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_a_first_start_that_fails_ends_the_server() -> None:
    """Without a listener ever having been opened."""
    for kind in ("fails", "dies", "refused", "hangs"):
        life = Simulator(Script(zygotes=_for_ever([kind]), workers=_for_ever(["good"])))
        life.run(10)
        assert life.phase is Phase.ENDED, kind
        assert not [action for _, action in life.performed if isinstance(action, OpenListener | Fork)]


@pytest.mark.parametrize("kind", ["fails", "dies", "refused", "hangs"])
def test_a_later_start_that_fails_is_tried_again_with_patience(kind: str) -> None:
    """The server lives on; within ten minutes there are few tries, the last of them half a minute apart or less."""
    life = Simulator(Script(zygotes=_for_ever(["ready", kind]), workers=_for_ever(["good"])), max_children=2)
    life.run(10)
    life._zygote_gone(life.pool.current)
    life.run(600)
    starts = [at for at, action in life.performed if isinstance(action, StartZygote)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert life.phase is SERVING
    assert len(starts) < 35
    assert 25 < pauses[-1] < 36
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_workers_that_crash_at_once_are_forked_with_patience() -> None:
    """All of them, all the time: the tries thin out to one round in half a minute."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good", "crashes"])), max_children=4)
    life.run(600)
    rounds = sorted({at for at, action in life.performed if isinstance(action, Fork)})
    assert life.phase is SERVING
    assert len(rounds) < 35
    assert 25 < rounds[-1] - rounds[-2] <= 31


def test_a_stroke_of_the_pen_does_not_cost_half_a_minute() -> None:
    """All workers die at once, and for good reason only once: a second later they are all back."""
    life = Simulator(Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"])), max_children=6)
    life.run(0.6)
    for worker in list(life.pool.workers.values()):
        life.after(0, partial(life._worker_gone, worker.pid))
    life.run(1)
    assert [worker.listening for worker in life.pool.workers.values()] == [True] * 6


def test_a_zygote_that_stops_forking_is_replaced() -> None:
    """Its workers serve on, a new generation forks what is missing."""
    script = Script(zygotes=_for_ever(["ready", "deaf", "ready"]), workers=_for_ever(["good"]))
    life = Simulator(script, max_children=2)
    life.run(10)
    life._zygote_gone(life.pool.current)
    life._worker_gone(next(iter(life.pool.workers.values())).pid)
    life.run(10)
    assert life.pool.generation == 3
    assert [worker.listening for worker in life.pool.workers.values()] == [True, True]


def test_retirement_meets_a_worker_that_hears_one_reminder_in_ten() -> None:
    """The repeat is the mechanism: it leaves within seconds, and is neither terminated nor killed."""
    heard = itertools.cycle([False] * 6 + [True])
    script = Script(zygotes=_for_ever(["ready"]), workers=_for_ever(["good"]), heard=heard)
    life = Simulator(script, max_children=1, inherited=True)
    life.run(10)
    life.command(Command.TERM)
    life.run(2)
    assert life.phase is Phase.ENDED
    assert sum(isinstance(action, SignalRetired) for _, action in life.performed) == 7
    assert not [action for _, action in life.performed if isinstance(action, Terminate | Kill)]
    assert life.states[0] != IDLE
