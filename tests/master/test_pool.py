"""Bookkeeping: what each thing that happens leaves in the books."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefork.errors import PreforkError
from prefork.master.pool import Pool
from prefork.policy.model import Ended, Phase, PoolView, Rules, Worker, Zygote, ZygoteState

FAILURE = PreforkError("cannot")
RULES = Rules(max_children=4)
OTHER_RULES = Rules(max_children=7)


def books(inherited: bool = False) -> Pool:
    return Pool("www", "app:app", rules=RULES, slots=64, inherited=inherited)


def ends(pool: Pool) -> tuple[Ended, ...]:
    return pool.view(Phase.SERVING, 0.0, b"", None, None).ended


def test_a_new_pool_is_empty() -> None:
    """Nobody, nothing open, nothing proved."""
    assert books(inherited=True).view(Phase.BOOTING, 7.0, b"\0" * 64, 3, 100) == PoolView(
        name="www",
        rules=RULES,
        phase=Phase.BOOTING,
        phase_since=7.0,
        slots=64,
        workers=(),
        states=b"\0" * 64,
        zygote=None,
        inherited=True,
        waiting=3,
        limit=100,
    )


ZYGOTES: list[tuple[str, Callable[[Pool], None], Zygote | None, bool]] = [
    ("started", lambda pool: None, Zygote(1, ZygoteState.LOADING, 5.0, 5.0), False),
    (
        "ready with the application",
        lambda pool: pool.zygote_ready(1, loaded=True, unfit=False, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0, loaded=True),
        True,
    ),
    (
        "ready without it",
        lambda pool: pool.zygote_ready(1, loaded=False, unfit=False, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0),
        False,
    ),
    (
        "unfit",
        lambda pool: pool.zygote_ready(1, loaded=True, unfit=True, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0, loaded=True, unfit=True),
        True,
    ),
    ("failed", lambda pool: pool.zygote_failed(1, FAILURE, 9.0), Zygote(1, ZygoteState.FAILED, 5.0, 9.0), False),
    ("leaving", lambda pool: pool.zygote_leaving(1, 9.0), Zygote(1, ZygoteState.LEAVING, 5.0, 9.0), False),
]


@pytest.mark.parametrize(("happens", "zygote", "verified"), [z[1:] for z in ZYGOTES], ids=[z[0] for z in ZYGOTES])
def test_the_zygotes_life(happens: Callable[[Pool], None], zygote: Zygote | None, verified: bool) -> None:
    """Its state, since when, and whether the application has been seen to load."""
    pool = books()
    pool.zygote_started(77, 5.0)
    happens(pool)
    view = pool.view(Phase.SERVING, 0.0, b"", None, None)
    assert (view.zygote, view.verified, pool.zygote_pid(1), pool.generation) == (zygote, verified, 77, 1)
    assert pool.failure is (FAILURE if zygote is not None and zygote.state is ZygoteState.FAILED else None)


@pytest.mark.parametrize(
    ("happens", "ended"),
    [
        (ZYGOTES[0][1], Ended(None, expected=False)),
        (ZYGOTES[1][1], Ended(9.0, expected=False)),
        (ZYGOTES[4][1], Ended(None, expected=False)),
        (ZYGOTES[5][1], Ended(None, expected=True)),
    ],
)
def test_the_zygotes_end(happens: Callable[[Pool], None], ended: Ended) -> None:
    """Told once, with since when it was ready; expected only if it was asked to leave."""
    pool = books()
    pool.zygote_started(77, 5.0)
    happens(pool)
    before = pool.zygote
    assert pool.zygote_ended(1) == before
    assert (pool.zygote, pool.zygote_pid(1)) == (None, 0)
    assert (ends(pool), ends(pool)) == ((ended,), ())


def test_what_happens_to_a_zygote_that_is_gone_is_nothing() -> None:
    """A late message changes no book, except that a failure is kept."""
    pool = books()
    pool.zygote_ready(1, loaded=True, unfit=False, now=1.0)
    pool.zygote_leaving(1, 1.0)
    assert pool.zygote_ended(1) is None
    assert pool.view(Phase.SERVING, 0.0, b"", None, None) == books().view(Phase.SERVING, 0.0, b"", None, None)
    pool.zygote_failed(1, FAILURE, 1.0)
    assert (pool.zygote, pool.failure) == (None, FAILURE)


def test_a_start_that_failed_counts_as_an_end() -> None:
    """So that the back-off sees it."""
    pool = books()
    pool.start_failed(FAILURE)
    assert (pool.failure, ends(pool)) == (FAILURE, (Ended(None, expected=False),))


def test_generations_are_counted() -> None:
    """Each zygote is a new one, and a worker is of the zygote's that was there when it was asked for."""
    pool = books()
    for pid in (70, 71):
        pool.zygote_started(pid, 1.0)
    pool.forked(3, 2, 2.0)
    assert (pool.generation, pool.current, pool.workers[3].generation) == (2, 2, 2)


def test_a_workers_life() -> None:
    """Each step changes one thing."""
    pool = books()
    pool.zygote_started(70, 1.0)
    steps: list[Callable[[], None]] = [
        lambda: pool.forked(5, 1, 2.0),
        lambda: pool.adopted(5, 99),
        lambda: pool.ready(5, 3.0),
        lambda: pool.listening(5),
        lambda: pool.retired(5, 4.0),
        lambda: pool.signalled(5, 5.0),
        lambda: pool.signalled(5, 6.0),
        lambda: pool.terminated(5, 7.0),
    ]
    seen = []
    for step in steps:
        step()
        seen.append(pool.workers[5])
    assert seen == [
        Worker(5, 1, 2.0),
        Worker(5, 1, 2.0, 99),
        Worker(5, 1, 2.0, 99, 3.0),
        Worker(5, 1, 2.0, 99, 3.0, listener=1),
        Worker(5, 1, 2.0, 99, 3.0, listener=1, retired=4.0),
        Worker(5, 1, 2.0, 99, 3.0, listener=1, retired=4.0, signals=1, signalled=5.0),
        Worker(5, 1, 2.0, 99, 3.0, listener=1, retired=4.0, signals=2, signalled=6.0),
        Worker(5, 1, 2.0, 99, 3.0, listener=1, retired=4.0, signals=2, signalled=6.0, terminated=7.0),
    ]


def test_a_ready_worker_proves_the_application() -> None:
    """As a zygote that loaded it does; one that failed keeps its failure for the start."""
    pool = books()
    pool.forked(0, 1, 1.0)
    pool.forked(1, 1, 1.0)
    pool.failed(1, FAILURE)
    assert (pool.verified, pool.failure, pool.workers[1].failed, pool.workers[0].failed) == (
        False,
        FAILURE,
        True,
        False,
    )
    pool.ready(0, 2.0)
    assert pool.verified


def test_workers_are_found_by_pid_from_their_hello_to_their_end() -> None:
    """Neither before nor after, and a stranger never."""
    pool = books()
    pool.forked(5, 1, 2.0)
    found = [pool.slot_of(99)]
    pool.adopted(5, 99)
    found.append(pool.slot_of(99))
    worker = pool.workers[5]
    assert (pool.ended(99, expected=False), pool.ended(99, expected=False)) == (worker, None)
    found.append(pool.slot_of(99))
    assert (found, pool.workers, ends(pool)) == ([None, 5, None], {}, (Ended(None, expected=False),))


@pytest.mark.parametrize(("retired", "expected", "told"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)])
def test_which_ends_are_expected(retired: int, expected: int, told: int) -> None:
    """Those of workers that were asked to leave, and those that whoever reaped them says so of."""
    pool = books()
    pool.forked(5, 1, 2.0)
    pool.adopted(5, 99)
    pool.ready(5, 3.0)
    if retired:
        pool.retired(5, 4.0)
    pool.ended(99, expected=bool(expected))
    assert ends(pool) == (Ended(3.0, expected=bool(told)),)


def test_a_worker_that_never_came() -> None:
    """Frees its slot and counts as an end; a slot that is free already is none."""
    pool = books()
    pool.forked(5, 1, 2.0)
    pool.not_forked(5)
    pool.not_forked(5)
    pool.forked(6, 1, 2.0)
    pool.retired(6, 3.0)
    pool.not_forked(6)
    assert (pool.workers, ends(pool)) == ({}, (Ended(None, expected=False), Ended(None, expected=True)))


def test_a_view_stays_what_it_was() -> None:
    """Whatever happens after it was taken."""
    pool = books()
    pool.zygote_started(70, 1.0)
    pool.forked(5, 1, 2.0)
    view = pool.view(Phase.SERVING, 0.0, b"x", 1, 2)
    zygote, workers = view.zygote, view.workers
    pool.zygote_ready(1, loaded=True, unfit=False, now=3.0)
    pool.adopted(5, 99)
    pool.forked(6, 1, 3.0)
    assert (view.zygote, view.workers) == (zygote, workers)
    assert view.workers == (Worker(5, 1, 2.0),)


# generations


def reloading() -> Pool:
    """A pool that serves with generation 1, whose reload has brought generation 2."""
    pool = books()
    pool.zygote_started(70, 1.0)
    pool.zygote_ready(1, loaded=True, unfit=False, now=2.0)
    pool.forked(0, 1, 2.0)
    pool.reload_begun(OTHER_RULES)
    pool.zygote_started(71, 3.0, coming=True)
    return pool


def seen(pool: Pool) -> PoolView:
    return pool.view(Phase.RELOADING, 0.0, b"", None, None)


def test_what_is_coming_stands_beside_what_serves() -> None:
    """Its rules, too; the pool's own are as they were."""
    view = seen(reloading())
    assert (view.zygote, view.coming, view.leaving) == (
        Zygote(1, ZygoteState.READY, 1.0, 2.0, loaded=True),
        Zygote(2, ZygoteState.LOADING, 3.0, 3.0),
        (),
    )
    assert (view.reloads, view.rejected, view.rules, view.coming_rules) == (True, False, RULES, OTHER_RULES)


def test_a_commit() -> None:
    """What was coming is what serves, and workers of earlier generations run replaced code."""
    pool = reloading()
    assert pool.committed("new:app") == 1
    view = seen(pool)
    assert view.zygote is not None
    assert (view.zygote.generation, view.coming, view.cutoff) == (2, None, 2)
    assert [zygote.generation for zygote in view.leaving] == [1]
    assert (view.reloads, view.rules, view.coming_rules, pool.app_name) == (False, OTHER_RULES, None, "new:app")
    assert pool.codes_draining == 0
    pool.retired(0, 9.0)
    assert pool.codes_draining == 1


def test_failed_starts_of_the_code_that_serves() -> None:
    """Those of a coming generation, or of the code before, are others; one that gets ready, or a commit, ends it."""
    pool, failure = reloading(), PreforkError("no")
    pool.fails(2, failure)
    assert (pool.failed_starts, pool.last_failure) == (0, None)
    pool.committed("new:app")
    pool.fails(1, failure)
    assert pool.failed_starts == 0
    pool.fails(2, failure)
    pool.start_failed(failure)
    assert (pool.failed_starts, pool.last_failure) == (2, failure)
    pool.forked(5, 1, 9.0)
    pool.ready(5, 9.0)
    assert pool.failed_starts == 2
    pool.forked(6, 2, 9.0)
    pool.ready(6, 9.0)
    assert (pool.failed_starts, pool.last_failure) == (0, None)
    pool.start_failed(failure)
    pool.reload_begun(RULES)
    pool.zygote_started(72, 9.0, coming=True)
    pool.committed("newer:app")
    assert (pool.failed_starts, pool.last_failure) == (0, None)


def test_codes_that_drain_are_counted_and_not_generations() -> None:
    """A zygote that died and was replaced is a generation, and no other code; who was not asked to leave serves."""
    pool = books()
    for slot, generation in enumerate((1, 2, 4, 3)):
        pool.forked(slot, generation, 1.0)
        if slot < 3:
            pool.retired(slot, 1.0)
    for last in (2, 4):
        while pool.generation < last:
            pool.zygote_started(70, 1.0)
        pool.zygote_started(71, 1.0, coming=True)
        pool.committed("app")
    assert (pool.cutoff, pool.codes_draining) == (5, 2)
    pool.not_forked(0)
    assert pool.codes_draining == 2
    pool.not_forked(1)
    assert pool.codes_draining == 1


def test_a_reload_that_is_given_up() -> None:
    """Everything is as it was, but for a zygote that has to go."""
    pool = reloading()
    assert pool.given_up(5.0) == 2
    view = seen(pool)
    assert (view.zygote, view.coming, view.cutoff) == (pool.zygotes[1], None, 0)
    assert view.leaving == (Zygote(2, ZygoteState.LEAVING, 3.0, 5.0),)
    assert (view.reloads, view.rules, view.coming_rules) == (False, RULES, None)


def fail_in_worker(pool: Pool) -> None:
    pool.forked(5, 2, 4.0)
    pool.failed(5, FAILURE)


REJECTIONS: list[tuple[str, Callable[[Pool], object]]] = [
    ("its zygote says why", lambda pool: pool.zygote_failed(2, FAILURE, 4.0)),
    ("it could not be started", lambda pool: pool.start_failed(FAILURE, coming=True)),
    ("its worker says why", fail_in_worker),
    ("somebody says why for it", lambda pool: pool.fails(2, FAILURE)),
]


@pytest.mark.parametrize("happens", [row[1] for row in REJECTIONS], ids=[row[0] for row in REJECTIONS])
def test_what_rejects_a_generation(happens: Callable[[Pool], object]) -> None:
    """The first reason counts; it is no failure of the pool, and no end that its back-off would see."""
    pool = reloading()
    happens(pool)
    pool.fails(2, PreforkError("later"))
    assert (pool.rejection, pool.failure, seen(pool).rejected) == (FAILURE, None, True)
    assert ends(pool) == ()


def test_ends_of_what_is_coming_are_not_the_pools() -> None:
    """Neither its zygote's nor its workers'; those of the others are, meanwhile."""
    pool = reloading()
    pool.forked(5, 2, 4.0)
    pool.adopted(5, 99)
    assert pool.ended(99, expected=False) is not None
    pool.forked(5, 2, 4.0)
    pool.not_forked(5)
    pool.zygote_ended(2)
    assert ends(pool) == ()
    pool.zygote_ended(1)
    assert ends(pool) == (Ended(2.0, expected=False),)


def test_a_worker_that_is_coming_verifies_nothing() -> None:
    """Its code does not serve yet."""
    pool = books()
    pool.zygote_started(71, 1.0, coming=True)
    pool.zygote_ready(1, loaded=True, unfit=False, now=2.0)
    pool.forked(0, 1, 2.0)
    pool.ready(0, 3.0)
    assert not pool.verified
    pool.committed("app")
    assert pool.verified


def test_a_canary_has_to_answer_first() -> None:
    """A zygote that holds the application proves nothing where a worker has to answer."""
    pool = Pool("www", "app:app", rules=Rules(canary=True), slots=64, inherited=False)
    pool.zygote_started(70, 1.0)
    pool.zygote_ready(1, loaded=True, unfit=False, now=2.0)
    assert not pool.verified
    pool.forked(0, 1, 2.0)
    pool.ready(0, 3.0)
    assert pool.verified


def test_one_that_comes_after_another() -> None:
    """Of two that were started for one reload, or for one pool, the last counts; the other is on its way out."""
    pool = reloading()
    pool.zygote_started(72, 4.0, coming=True)
    pool.zygote_started(73, 5.0)
    view = seen(pool)
    assert view.coming is not None
    assert view.zygote is not None
    assert (view.coming.generation, view.zygote.generation) == (3, 4)
    assert [(zygote.generation, zygote.state) for zygote in view.leaving] == [
        (1, ZygoteState.LEAVING),
        (2, ZygoteState.LEAVING),
    ]
    assert [pool.generation_of(pid) for pid in (70, 71, 72, 73, 74)] == [1, 2, 3, 4, None]
    assert [pool.pid_in(place) for place in (-1, -4, -5, 0, 9)] == [70, 73, 0, 0, 0]


def test_it_is_empty_when_nobody_is_left() -> None:
    """Neither a worker nor a zygote, of whatever generation."""
    pool = reloading()
    left = [pool.is_empty]
    pool.not_forked(0)
    left.append(pool.is_empty)
    pool.zygote_ended(1)
    left.append(pool.is_empty)
    pool.zygote_ended(2)
    assert [*left, pool.is_empty] == [False, False, False, True]
