"""A reload as a transaction: what a coming generation gets, when it is proven, and when old code is silent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NAME, NOW, pool_of, snapshot_of, states_of, worker_of, zygote_of
from prefork.policy.model import (
    FINISHING,
    IDLE,
    READING,
    RETIRING,
    RUNNING,
    STARTING,
    STOPPED_LOADING,
    WRITING,
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
    StartZygote,
    Worker,
    ZygoteState,
)
from prefork.policy.reload import LINGERS, bring, coming_workers, is_coming, is_outdated, is_proven, silent_at, verdict
from prefork.worker.exchange import CLOSE_SECONDS

LOADING, READY, FAILED, LEAVING = ZygoteState.LOADING, ZygoteState.READY, ZygoteState.FAILED, ZygoteState.LEAVING
NEVER = float("inf")
FRESH = {"generation": 2, "started": NOW - 1, "changed": NOW - 1}
SERVING = worker_of(0)
COMING = worker_of(1, generation=2, listener=0, forked=NOW - 1, ready=None)
PROVEN = worker_of(1, generation=2, listener=0, forked=NOW - 1, ready=NOW)


def reloading(*workers: Worker, **changes: Any) -> PoolView:
    """A pool that a reload wants a coming generation of, with one worker that serves and these."""
    return pool_of(SERVING, *workers, **{"reloads": True, "max_children": 1, "surge": 1, **changes})


GETS: list[tuple[str, PoolView, tuple[Action, ...], float]] = [
    ("nothing yet: a zygote", reloading(), (StartZygote(NAME, load=True, coming=True),), NEVER),
    ("rejected: nothing more", reloading(rejected=True), (), NEVER),
    ("loading: patience", reloading(coming=zygote_of(LOADING, **FRESH)), (), NOW + 59),
    (
        "loading too long: killed",
        reloading(coming=zygote_of(LOADING, generation=2, started=NOW - 60)),
        (KillZygote(NAME, 2, "boot_timeout (60 s)"),),
        NOW + 0.1,
    ),
    (
        "loading too long by its own rules",
        reloading(coming=zygote_of(LOADING, **FRESH), coming_rules=Rules(boot_timeout=1.0)),
        (KillZygote(NAME, 2, "boot_timeout (1 s)"),),
        NOW + 0.1,
    ),
    ("said why it cannot", reloading(coming=zygote_of(FAILED, **FRESH)), (), NEVER),
    ("leaving", reloading(coming=zygote_of(LEAVING, **FRESH)), (), NEVER),
    (
        "unfit: an empty one",
        reloading(coming=zygote_of(READY, unfit=True, **FRESH)),
        (KillZygote(NAME, 2, STOPPED_LOADING), StartZygote(NAME, load=False, coming=True)),
        NEVER,
    ),
    ("ready: a worker", reloading(coming=zygote_of(READY, **FRESH)), (Fork(NAME, 1, 2),), NOW + 60),
    (
        "ready: one with a canary, where the new rules have one",
        reloading(coming=zygote_of(READY, **FRESH), coming_rules=Rules(canary=True)),
        (Fork(NAME, 1, 2, canary=True),),
        NOW + 60,
    ),
    (
        "no canary, where only the old rules have one",
        reloading(coming=zygote_of(READY, **FRESH), coming_rules=Rules(), canary=True),
        (Fork(NAME, 1, 2),),
        NOW + 60,
    ),
    (
        "a worker more even without a surge",
        reloading(coming=zygote_of(READY, **FRESH), surge=0),
        (Fork(NAME, 1, 2),),
        NOW + 60,
    ),
    (
        "one beyond all surge: those that are leaving may stay for as long as their requests last",
        reloading(worker_of(1, retired=NOW - 1), coming=zygote_of(READY, **FRESH)),
        (Fork(NAME, 2, 2),),
        NOW + 60,
    ),
    ("no slot: patience", reloading(coming=zygote_of(READY, **FRESH), slots=1), (), NOW + 0.1),
    (
        "no slot for too long: rejected",
        reloading(coming=zygote_of(READY, generation=2, changed=NOW - 60), slots=1),
        (KillZygote(NAME, 2, "no slot was free for its first worker within boot_timeout (60 s)"),),
        NOW + 0.1,
    ),
    ("a worker loads: patience", reloading(COMING, coming=zygote_of(READY, **FRESH)), (), NOW + 59),
    (
        "a worker loads too long",
        reloading(COMING, coming=zygote_of(READY, **FRESH), coming_rules=Rules(boot_timeout=1.0)),
        (Kill(NAME, 1, "boot_timeout (1 s)"),),
        NOW + 0.1,
    ),
    ("a worker is ready: nothing", reloading(PROVEN, coming=zygote_of(READY, **FRESH)), (), NEVER),
    (
        "overtaken by another zygote of the code before",
        reloading(PROVEN, coming=zygote_of(READY, **FRESH), zygote=zygote_of(READY, generation=3)),
        (
            KillZygote(NAME, 2, STOPPED_LOADING),
            Retire(NAME, 1),
            Kill(NAME, 1, STOPPED_LOADING),
            StartZygote(NAME, load=True, coming=True),
        ),
        NEVER,
    ),
    (
        "not by one that has yet to come to something",
        reloading(COMING, coming=zygote_of(READY, **FRESH), zygote=zygote_of(LOADING, generation=3)),
        (),
        NOW + 59,
    ),
    (
        "nor by one that could not",
        reloading(coming=zygote_of(LOADING, **FRESH), zygote=zygote_of(FAILED, generation=3)),
        (),
        NOW + 59,
    ),
    (
        "overtaken by the workers of one that is gone again",
        reloading(worker_of(2, generation=3), coming=zygote_of(LOADING, **FRESH), zygote=None),
        (KillZygote(NAME, 2, STOPPED_LOADING), StartZygote(NAME, load=True, coming=True)),
        NEVER,
    ),
]


@pytest.mark.parametrize(("pool", "actions", "wake_at"), [row[1:] for row in GETS], ids=[row[0] for row in GETS])
def test_what_a_coming_generation_gets(pool: PoolView, actions: tuple[Action, ...], wake_at: float) -> None:
    """One step at a time, and when to look again."""
    assert bring(pool, NOW) == (actions, wake_at)


def test_who_is_coming() -> None:
    """Workers of that very generation; those that were asked to leave are not counted on."""
    leaving = worker_of(3, generation=2, retired=NOW)
    pool = reloading(COMING, leaving, coming=zygote_of(READY, **FRESH))
    assert [is_coming(pool, worker) for worker in pool.workers] == [False, True, True]
    assert coming_workers(pool) == [COMING]
    assert not is_coming(reloading(COMING), COMING)


PROOFS = [
    ("nobody", None, (), False),
    ("no worker", zygote_of(READY, **FRESH), (), False),
    ("one that loads", zygote_of(READY, **FRESH), (COMING,), False),
    ("one that is ready", zygote_of(READY, **FRESH), (PROVEN,), True),
    ("one that was asked to leave", zygote_of(READY, **FRESH), (worker_of(1, generation=2, retired=NOW),), False),
    ("one of another generation", zygote_of(READY, **FRESH), (worker_of(1),), False),
    ("a zygote that is leaving", zygote_of(LEAVING, **FRESH), (PROVEN,), False),
    ("a zygote that is unfit", zygote_of(READY, unfit=True, **FRESH), (PROVEN,), False),
    ("overtaken", zygote_of(READY, **FRESH), (PROVEN, worker_of(2, generation=3)), False),
]


@pytest.mark.parametrize(("coming", "workers", "proven"), [row[1:] for row in PROOFS], ids=[row[0] for row in PROOFS])
def test_what_proves_a_generation(coming: Any, workers: tuple[Worker, ...], proven: bool) -> None:
    """A zygote that can fork, and one worker that could take requests."""
    assert is_proven(reloading(*workers, coming=coming)) is proven


def test_the_verdict() -> None:
    """All or nothing: committed when every pool is proven, abandoned when one is rejected, and only in a reload."""
    proven = reloading(PROVEN, coming=zygote_of(READY, **FRESH))
    waiting = reloading(coming=zygote_of(READY, **FRESH))
    rejected = reloading(rejected=True, name="other")
    apart = pool_of(SERVING)

    def of(*pools: PoolView, phase: Phase = Phase.RELOADING) -> Commit | Abandon | None:
        return verdict(snapshot_of(*pools, phase=phase))

    assert of(proven, proven, apart) == Commit()
    assert of(proven, waiting) is None
    assert of(waiting, rejected, proven) == Abandon("pool other")
    assert [of(proven, phase=phase) for phase in Phase if phase is not Phase.RELOADING] == [None] * 5
    assert of(rejected, phase=Phase.SERVING) is None


SILENCES = [
    ("waits for connections", {"retired": NOW - 9.0}, IDLE, None),
    ("was not asked to leave", {}, RUNNING, None),
    ("runs", {"retired": NOW - 9.0}, RUNNING, NOW),
    ("writes", {"retired": NOW}, WRITING, NOW),
    ("leaves", {"retired": NOW}, RETIRING, NOW),
    ("has just been asked, while it read", {"retired": NOW}, READING, NOW + LINGERS),
    ("has just been asked, while its peer could go on", {"retired": NOW - 0.1}, FINISHING, NOW - 0.1 + LINGERS),
    ("has been asked long ago", {"retired": NOW - 9.0}, FINISHING, NOW),
    ("has no listener", {"retired": NOW, "listener": 0}, STARTING, NOW),
    ("has no listener, and says that it waits", {"retired": NOW, "listener": 0}, IDLE, NOW),
]


@pytest.mark.parametrize(("facts", "state", "at"), [row[1:] for row in SILENCES], ids=[row[0] for row in SILENCES])
def test_when_an_outdated_worker_is_silent(facts: dict[str, Any], state: int, at: float | None) -> None:
    """When it can take no other request; whoever is not outdated does not matter."""
    old, new = worker_of(0, **facts), worker_of(1, generation=2)
    states = states_of((old, new), {0: state})
    assert silent_at((old, new), states, 2, 1, NOW) == at
    assert silent_at((old, new), states, 1, 1, NOW) == NOW
    assert silent_at((new, old, new), states, 2, 1, NOW) == at


def test_a_worker_of_an_earlier_listener_is_outdated() -> None:
    """Whatever code it runs; one without a listener is only by its code."""
    assert [is_outdated(worker_of(listener=listener), 1, 2) for listener in (0, 1, 2)] == [False, True, False]
    assert [is_outdated(worker_of(generation=generation), 2, 1) for generation in (1, 2, 3)] == [True, False, False]


@given(
    states=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    retired=st.lists(st.none() | st.floats(NOW - 10, NOW), min_size=4, max_size=4),
    generations=st.lists(st.integers(1, 3), min_size=4, max_size=4),
)
def test_nobody_who_could_accept_is_silent(
    states: list[int], retired: list[float | None], generations: list[int]
) -> None:
    """As long as one outdated worker has not been asked to leave, or says that it waits, there is no silence."""
    workers = [
        worker_of(slot, retired=since, generation=generation)
        for slot, (since, generation) in enumerate(zip(retired, generations, strict=True))
    ]
    dangerous = any(
        worker.generation < 3 and (worker.retired is None or states[worker.slot] == IDLE) for worker in workers
    )
    at = silent_at(workers, bytes(states), 3, 1, NOW)
    assert (at is None) == dangerous
    assert at is None or NOW <= at <= NOW + LINGERS


def test_the_wait_for_peers_that_keep_their_connection_is_long_enough() -> None:
    """Longer than a worker listens to one, with room for a machine that has much to do."""
    assert LINGERS > CLOSE_SECONDS * 1.4
