"""How many workers, and which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NOW, pool_of, snapshot_of, states_of, worker_of
from prefork.policy import scaling
from prefork.policy.model import IDLE, RETIRING, RUNNING, Phase


@pytest.mark.parametrize(
    ("phase", "changes", "expected"),
    [
        (Phase.BOOTING, {"verified": False}, 1),
        (Phase.BOOTING, {"verified": True}, 8),
        (Phase.SERVING, {"verified": False}, 8),
        (Phase.SERVING, {"verified": True}, 8),
        (Phase.DRAINING, {"waiting": 0}, 0),
        (Phase.DRAINING, {"waiting": None}, 0),
        (Phase.DRAINING, {"waiting": 3}, 3),
        (Phase.DRAINING, {"waiting": 300}, 8),
        (Phase.DRAINING, {"waiting": 3, "inherited": True}, 0),
        (Phase.DRAINING, {"waiting": 3, "graceful_timeout": 4.0}, 0),
        (Phase.KILLING, {"waiting": 3}, 0),
        (Phase.ENDED, {"waiting": 3}, 0),
    ],
)
def test_the_size_of_a_static_pool(phase: Phase, changes: dict[str, Any], expected: int) -> None:
    """One to show that the application can be loaded; then all; while stopping as many as still wait."""
    pool = pool_of(**{"max_children": 8, **changes})
    assert scaling.desired(pool, snapshot_of(pool, phase=phase, since=NOW - 4)) == expected


def test_active_are_those_nobody_asked_to_leave() -> None:
    """A retired worker takes no connection, so it counts for nothing."""
    pool = pool_of(worker_of(0), worker_of(1, retired=NOW), worker_of(2, ready=None, listening=False))
    assert [worker.slot for worker in scaling.active(pool)] == [0, 2]


def test_free_slots_are_the_lowest_first() -> None:
    """Also a retired worker holds its slot until it is gone."""
    pool = pool_of(worker_of(0), worker_of(2, retired=NOW), slots=5)
    assert scaling.free_slots(pool) == [1, 3, 4]


def test_the_youngest_are_the_surplus() -> None:
    """Among equals those in the higher slots; retired ones are not counted."""
    pool = pool_of(
        worker_of(0, forked=NOW - 1),
        worker_of(1, forked=NOW - 9),
        worker_of(2, forked=NOW - 9),
        worker_of(3, forked=NOW - 20, retired=NOW),
    )
    assert [[worker.slot for worker in scaling.surplus(pool, size)] for size in range(4)] == [
        [1, 2, 0],
        [2, 0],
        [0],
        [],
    ]


def test_deserters_say_that_they_leave_and_were_not_asked() -> None:
    """Neither one that was asked, nor one that has no listener yet, nor one that works."""
    workers = worker_of(0), worker_of(1, retired=NOW), worker_of(2, listening=False), worker_of(3), worker_of(4)
    states = states_of(workers, {0: RETIRING, 1: RETIRING, 2: RETIRING, 3: IDLE, 4: RUNNING})
    assert scaling.deserters(pool_of(*workers, states=states)) == {0}


@given(
    ages=st.lists(st.floats(0, 1_000), max_size=20),
    size=st.integers(0, 25),
)
def test_surplus_and_the_rest_are_the_whole(ages: list[float], size: int) -> None:
    """Exactly so many retire that ``size`` stay, and none that stays is younger than one that goes."""
    pool = pool_of(*(worker_of(slot, forked=NOW - age) for slot, age in enumerate(ages)))
    going = scaling.surplus(pool, size)
    staying = [worker for worker in pool.workers if worker not in going]
    assert len(staying) == min(size, len(ages))
    assert max((worker.forked for worker in staying), default=0) <= min((w.forked for w in going), default=NOW)
