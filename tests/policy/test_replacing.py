"""Who is forked, who gets the listener, who leaves."""

from __future__ import annotations

from typing import Any

import pytest

from policy.views import NAME, NOW, decide, pool_of, slots_of, states_of, worker_of, zygote_of
from prefork.policy.model import RUNNING, Action, Fork, Listen, PoolView, Retire
from prefork.policy.replacing import forks, free_slots, is_stranded, rearrange, room
from prefork.policy.roster import Roster

READY = {"listener": 0, "forked": NOW - 1, "ready": NOW - 0.5, "generation": 2}
LOADING = {**READY, "ready": None}
OLD, NEW = {"generation": 1}, {"generation": 2}


def arranged(pool: PoolView, size: int) -> tuple[list[Action], bool]:
    return rearrange(pool, Roster(pool, NOW), size)


def test_a_ready_worker_gets_the_listener_where_one_is_missing() -> None:
    """Nobody leaves for it."""
    pool = pool_of(worker_of(0, **NEW), worker_of(1, **READY), worker_of(2, **LOADING), cutoff=2)
    assert arranged(pool, 3) == ([Listen(NAME, 1)], False)


@pytest.mark.parametrize(
    ("facts", "reason"), [(OLD, ""), ({**NEW, "spent": "max_requests (10)"}, "max_requests (10)")], ids=["old", "due"]
)
def test_a_successor_takes_over_in_one_plan(facts: dict[str, Any], reason: str) -> None:
    """It listens, and the one it replaces is asked to leave: outdated, or due and told why."""
    pool = pool_of(worker_of(0, **facts), worker_of(1, **NEW), worker_of(2, **READY), cutoff=2)
    assert arranged(pool, 2) == ([Listen(NAME, 2), Retire(NAME, 0, reason)], False)


def test_as_many_are_replaced_as_successors_are_ready() -> None:
    """No more; and the outdated before the due."""
    old = [worker_of(0, **NEW, spent="enough"), worker_of(1, **OLD), worker_of(2, **OLD), worker_of(3, **OLD)]
    new = [worker_of(4, **READY), worker_of(5, **READY), worker_of(6, **LOADING)]
    pool = pool_of(*old, *new, cutoff=2)
    assert arranged(pool, 4) == ([Listen(NAME, 4), Retire(NAME, 3), Listen(NAME, 5), Retire(NAME, 2)], False)


def test_a_successor_that_nobody_needs_any_more_leaves_again() -> None:
    """The pool shrank while it started: it never listens."""
    pool = pool_of(worker_of(0, **NEW), worker_of(1, **READY), cutoff=2)
    assert arranged(pool, 1) == ([Retire(NAME, 1)], False)


def test_who_leaves_when_the_pool_shrinks() -> None:
    """Outdated, due, then those that have nothing in hand, the youngest first."""
    workers = [
        worker_of(0, **NEW, forked=NOW - 50),
        worker_of(1, **NEW, forked=NOW - 10),
        worker_of(2, **NEW, forked=NOW - 5),
        worker_of(3, **NEW, spent="x", forked=NOW - 90),
        worker_of(4, **OLD, forked=NOW - 99),
        worker_of(5, **NEW, forked=NOW - 10),
    ]
    pool = pool_of(*workers, states=states_of(workers, {2: RUNNING}), cutoff=2)
    order = [4, 3, 5, 1, 0, 2]
    for size in range(7):
        actions, shrinks = arranged(pool, size)
        assert slots_of(Retire, actions) == order[: 6 - size]
        assert shrinks is (size < 6)
    assert Retire(NAME, 3, "x") in arranged(pool, 4)[0]


def test_shrinking_and_replacing_at_once() -> None:
    """Of three outdated workers one is too many, and one has its successor."""
    pool = pool_of(*(worker_of(slot, **OLD) for slot in range(3)), worker_of(3, **READY), cutoff=2)
    assert arranged(pool, 2) == ([Retire(NAME, 2), Listen(NAME, 3), Retire(NAME, 1)], True)


def test_a_plan_that_shrinks_forks_nobody() -> None:
    """The successors of those that stay come with the next one."""
    pool = pool_of(*(worker_of(slot, **OLD) for slot in range(3)), cutoff=2, max_children=2)
    first = decide(pool)
    assert (slots_of(Retire, first.actions), slots_of(Fork, first.actions)) == ([2], [])
    assert first.wake_at == NOW


def test_who_is_of_no_use_leaves_at_once() -> None:
    """Deserters, and those whose code was replaced before they listened."""
    workers = [worker_of(0, **NEW), worker_of(1, **{**READY, **OLD}), worker_of(2, **{**LOADING, **OLD})]
    pool = pool_of(*workers, states=states_of(workers, {0: 7}), cutoff=2)
    assert arranged(pool, 1) == ([Retire(NAME, 0), Retire(NAME, 1), Retire(NAME, 2)], False)


@pytest.mark.parametrize(("behind", "leaves"), [(None, False), (3, False), (0, True)])
def test_workers_of_an_earlier_listener_stay_until_its_queue_is_empty(behind: int | None, leaves: bool) -> None:
    """They are no part of the size, so their successors need not wait for them."""
    pool = pool_of(worker_of(0), worker_of(1, **READY), listener=2, behind=behind, max_children=1)
    assert arranged(pool, 1) == ([Retire(NAME, 0)] * leaves + [Listen(NAME, 1)], False)
    assert slots_of(Fork, decide(pool_of(worker_of(0), listener=2, behind=behind)).actions) == [1]


def test_a_stranded_queue_has_a_worker_of_its_own() -> None:
    """One more than the size is forked, and the next that is ready is its; there is no second one."""
    pool = pool_of(worker_of(0, listener=2), listener=2, behind=1, max_children=1)
    assert is_stranded(pool, Roster(pool, NOW))
    assert slots_of(Fork, decide(pool).actions) == [1]
    two = [worker_of(1, **READY), worker_of(2, **READY)]
    pool = pool_of(worker_of(0, listener=2), *two, listener=2, behind=1, max_children=1)
    assert arranged(pool, 1) == ([Listen(NAME, 1), Retire(NAME, 2)], False)
    served = pool_of(worker_of(0, listener=2), worker_of(1), listener=2, behind=1)
    assert not is_stranded(served, Roster(served, NOW))
    assert not is_stranded(pool_of(behind=0), Roster(pool_of(), NOW))


@pytest.mark.parametrize(
    ("max_children", "surge", "processes", "left"),
    [(4, 4, 4, 4), (4, 2, 5, 1), (4, 2, 6, 0), (4, 0, 4, 1), (4, 0, 5, 0), (2, 1, 9, -6)],
)
def test_room_for_successors(max_children: int, surge: int, processes: int, left: int) -> None:
    """All processes count, also those that leave; one is always allowed above max_children."""
    workers = [worker_of(slot, retired=NOW if slot else None) for slot in range(processes)]
    pool = pool_of(*workers, max_children=max_children, surge=surge)
    assert room(pool, Roster(pool, NOW)) == left


def test_where_nobody_takes_connections_there_is_room_for_one() -> None:
    """However many still leave; who comes already is that one."""
    leaving = [worker_of(slot, retired=NOW) for slot in range(9)]
    pool = pool_of(*leaving, max_children=2, surge=1)
    assert room(pool, Roster(pool, NOW)) == 1
    pool = pool_of(*leaving, worker_of(9, **LOADING), max_children=2, surge=1)
    assert room(pool, Roster(pool, NOW)) == -7


def test_free_slots_are_the_lowest_first() -> None:
    """Also a retired worker holds its slot until it is gone, and one that is planned."""
    pool = pool_of(worker_of(0), worker_of(2, retired=NOW), slots=6)
    assert free_slots(pool) == [1, 3, 4, 5]
    assert free_slots(pool, [3, 5]) == [1, 4]


@pytest.mark.parametrize(
    ("missing", "planned", "changes", "slots"),
    [
        (2, (), {}, [1, 2]),
        (9, (), {}, [1, 2, 3, 4, 5, 6, 7]),
        (9, (1, 2), {}, [3, 4, 5, 6, 7]),
        (9, (), {"slots": 3}, [1, 2]),
        (99, (), {"max_children": 60}, list(range(1, 33))),
        (9, (), {"max_children": 1, "surge": 0}, [1]),
        (9, (1,), {"max_children": 1, "surge": 0}, []),
    ],
)
def test_forks(missing: int, planned: tuple[int, ...], changes: dict[str, Any], slots: list[int]) -> None:
    """As many as are missing, fit, and one plan may have."""
    pool = pool_of(worker_of(0), **{"max_children": 4, "surge": 4, **changes})
    told = forks(pool, zygote_of(generation=5), Roster(pool, NOW), missing, planned)
    assert told == [Fork(NAME, slot, 5) for slot in slots]


def test_the_first_worker_of_all_is_the_canary() -> None:
    """Only where there is one, and only until it has answered."""
    for canary, verified, told in ((True, False, True), (True, True, False), (False, False, False)):
        pool = pool_of(canary=canary, verified=verified)
        assert forks(pool, zygote_of(), Roster(pool, NOW), 1) == [Fork(NAME, 0, 1, canary=told)]
