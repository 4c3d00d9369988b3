"""Bookkeeping: what each thing that happens leaves in the books."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefork.errors import PreforkError
from prefork.master.pool import Pool
from prefork.policy.model import Ended, PoolView, Worker, Zygote, ZygoteState

FAILURE = PreforkError("cannot")


def books(inherited: bool = False) -> Pool:
    return Pool(
        "www", "app:app", max_children=4, slots=64, boot_timeout=60.0, graceful_timeout=25.0, inherited=inherited
    )


def ends(pool: Pool) -> tuple[Ended, ...]:
    return pool.view(b"", None, None).ended


def test_a_new_pool_is_empty() -> None:
    """Nobody, nothing open, nothing proved."""
    assert books(inherited=True).view(b"\0" * 64, 3, 100) == PoolView(
        name="www",
        max_children=4,
        slots=64,
        boot_timeout=60.0,
        graceful_timeout=25.0,
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
        lambda pool: pool.zygote_ready(loaded=True, unfit=False, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0, loaded=True),
        True,
    ),
    (
        "ready without it",
        lambda pool: pool.zygote_ready(loaded=False, unfit=False, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0),
        False,
    ),
    (
        "unfit",
        lambda pool: pool.zygote_ready(loaded=True, unfit=True, now=9.0),
        Zygote(1, ZygoteState.READY, 5.0, 9.0, loaded=True, unfit=True),
        True,
    ),
    ("failed", lambda pool: pool.zygote_failed(FAILURE, 9.0), Zygote(1, ZygoteState.FAILED, 5.0, 9.0), False),
    ("leaving", lambda pool: pool.zygote_leaving(9.0), Zygote(1, ZygoteState.LEAVING, 5.0, 9.0), False),
]


@pytest.mark.parametrize(("happens", "zygote", "verified"), [z[1:] for z in ZYGOTES], ids=[z[0] for z in ZYGOTES])
def test_the_zygotes_life(happens: Callable[[Pool], None], zygote: Zygote | None, verified: bool) -> None:
    """Its state, since when, and whether the application has been seen to load."""
    pool = books()
    pool.zygote_started(77, 5.0)
    happens(pool)
    view = pool.view(b"", None, None)
    assert (view.zygote, view.verified, pool.zygote_pid, pool.generation) == (zygote, verified, 77, 1)
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
    assert pool.zygote_ended() == before
    assert (pool.zygote, pool.zygote_pid) == (None, 0)
    assert (ends(pool), ends(pool)) == ((ended,), ())


def test_what_happens_to_a_zygote_that_is_gone_is_nothing() -> None:
    """A late message changes no book, except that a failure is kept."""
    pool = books()
    pool.zygote_ready(loaded=True, unfit=False, now=1.0)
    pool.zygote_leaving(1.0)
    assert pool.zygote_ended() is None
    assert pool.view(b"", None, None) == books().view(b"", None, None)
    pool.zygote_failed(FAILURE, 1.0)
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
    pool.forked(3, 2.0)
    assert (pool.generation, pool.workers[3].generation) == (2, 2)


def test_a_workers_life() -> None:
    """Each step changes one thing."""
    pool = books()
    pool.zygote_started(70, 1.0)
    steps: list[Callable[[], None]] = [
        lambda: pool.forked(5, 2.0),
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
        Worker(5, 1, 2.0, 99, 3.0, listening=True),
        Worker(5, 1, 2.0, 99, 3.0, listening=True, retired=4.0),
        Worker(5, 1, 2.0, 99, 3.0, listening=True, retired=4.0, signals=1, signalled=5.0),
        Worker(5, 1, 2.0, 99, 3.0, listening=True, retired=4.0, signals=2, signalled=6.0),
        Worker(5, 1, 2.0, 99, 3.0, listening=True, retired=4.0, signals=2, signalled=6.0, terminated=7.0),
    ]


def test_a_ready_worker_proves_the_application() -> None:
    """As a zygote that loaded it does; one that failed keeps its failure for the start."""
    pool = books()
    pool.forked(0, 1.0)
    pool.forked(1, 1.0)
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
    pool.forked(5, 2.0)
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
    pool.forked(5, 2.0)
    pool.adopted(5, 99)
    pool.ready(5, 3.0)
    if retired:
        pool.retired(5, 4.0)
    pool.ended(99, expected=bool(expected))
    assert ends(pool) == (Ended(3.0, expected=bool(told)),)


def test_a_worker_that_never_came() -> None:
    """Frees its slot and counts as an end; a slot that is free already is none."""
    pool = books()
    pool.forked(5, 2.0)
    pool.not_forked(5)
    pool.not_forked(5)
    pool.forked(6, 2.0)
    pool.retired(6, 3.0)
    pool.not_forked(6)
    assert (pool.workers, ends(pool)) == ({}, (Ended(None, expected=False), Ended(None, expected=True)))


def test_a_view_stays_what_it_was() -> None:
    """Whatever happens after it was taken."""
    pool = books()
    pool.zygote_started(70, 1.0)
    pool.forked(5, 2.0)
    view = pool.view(b"x", 1, 2)
    zygote, workers = view.zygote, view.workers
    pool.zygote_ready(loaded=True, unfit=False, now=3.0)
    pool.adopted(5, 99)
    pool.forked(6, 3.0)
    assert (view.zygote, view.workers) == (zygote, workers)
    assert view.workers == (Worker(5, 1, 2.0),)
