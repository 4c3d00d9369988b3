"""Each worker in its list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NOW, pool_of, states_of, worker_of, zygote_of
from prefork.policy.model import IDLE, RETIRING, RUNNING, STARTING, Worker
from prefork.policy.roster import Roster

LISTS = ("taking", "outdated", "loading", "wings", "misfits", "strays", "deserters", "unready")


@pytest.mark.parametrize(
    ("facts", "state", "lists", "idle"),
    [
        ({"generation": 2, "listener": 3}, IDLE, ["taking"], 1),
        ({"generation": 2, "listener": 3}, RUNNING, ["taking"], 0),
        ({"generation": 2, "listener": 3}, 255, ["taking"], 0),
        ({"generation": 2, "listener": 3, "stopped": NOW - 0.1}, IDLE, ["taking"], 0),
        ({"generation": 2, "listener": 3}, RETIRING, ["deserters"], 0),
        ({"generation": 1, "listener": 3}, IDLE, ["taking", "outdated"], 1),
        ({"generation": 1, "listener": 3}, RETIRING, ["deserters"], 0),
        ({"generation": 2, "listener": 2}, IDLE, ["strays"], 0),
        ({"generation": 1, "listener": 1}, RETIRING, ["strays"], 0),
        ({"generation": 2, "listener": 0, "ready": None}, IDLE, ["loading", "unready"], 0),
        ({"generation": 2, "listener": 0}, IDLE, ["wings"], 0),
        ({"generation": 1, "listener": 0}, IDLE, ["misfits"], 0),
        ({"generation": 1, "listener": 0, "ready": None}, IDLE, ["misfits", "unready"], 0),
        ({"generation": 2, "listener": 3, "retired": NOW}, IDLE, [], 0),
        ({"generation": 2, "listener": 0, "ready": None, "retired": NOW}, IDLE, ["unready"], 0),
        # of the generation that a reload brings
        ({"generation": 7, "listener": 0}, IDLE, [], 0),
        ({"generation": 7, "listener": 0, "ready": None}, IDLE, [], 0),
    ],
)
def test_where_a_worker_stands(facts: dict[str, Any], state: int, lists: list[str], idle: int) -> None:
    """By its generation, its listener, and what it says; the listener counts most, then the code."""
    worker = worker_of(0, **facts)
    pool = pool_of(worker, states=states_of([worker], {0: state}), cutoff=2, listener=3, coming=zygote_of(generation=7))
    roster = Roster(pool, NOW)
    assert [name for name in LISTS if getattr(roster, name)] == lists
    assert (roster.idle, roster.due) == (idle, {})


def test_who_is_about_to_accept_is_neither_idle_nor_busy() -> None:
    """It was given the listener, and the connection that it will take still waits: counted as busy, that is two."""
    workers = [worker_of(slot) for slot in range(4)]
    states = states_of(workers, {0: STARTING, 1: RUNNING, 2: STARTING})
    stopped = [*workers[:2], worker_of(2, stopped=NOW - 1), workers[3]]
    roster = Roster(pool_of(*workers, states=states), NOW)
    assert (len(roster.taking), roster.idle, roster.entering, roster.busy) == (4, 1, 2, 1)
    roster = Roster(pool_of(*stopped, states=states), NOW)
    assert (roster.idle, roster.entering, roster.busy) == (1, 1, 2)


def test_who_is_due() -> None:
    """Of those with the last code that take connections, each with its reason; the others leave anyway."""
    workers = (
        worker_of(0, generation=2, spent="a"),
        worker_of(1, generation=1, spent="b"),
        worker_of(2, generation=2, listener=0, spent="c"),
        worker_of(3, generation=2),
    )
    roster = Roster(pool_of(*workers, cutoff=2), NOW)
    assert roster.due == {0: "a"}
    assert (len(roster.taking), roster.busy, roster.coming, roster.lasting) == (3, 0, 1, 2)


@given(
    st.lists(
        st.builds(
            worker_of,
            generation=st.integers(1, 3),
            listener=st.integers(0, 2),
            ready=st.none() | st.just(NOW),
            retired=st.none() | st.just(NOW),
            spent=st.sampled_from(["", "x"]),
        ),
        max_size=8,
    ),
    st.binary(min_size=8, max_size=8),
)
def test_nobody_stands_in_two_places(workers: list[Worker], states: bytes) -> None:
    """Whoever is in no list was asked to leave, or is of the generation that comes."""
    placed = [worker_of(slot, **{f: getattr(w, f) for f in FIELDS}) for slot, w in enumerate(workers)]
    pool = pool_of(*placed, states=states, cutoff=2, listener=2, coming=zygote_of(generation=3))
    roster = Roster(pool, NOW)
    places = [*roster.taking, *roster.loading, *roster.wings, *roster.misfits, *roster.strays, *roster.deserters]
    assert sorted(worker.slot for worker in places) == [
        worker.slot for worker in placed if worker.retired is None and worker.generation != 3
    ]
    assert {worker.slot for worker in roster.outdated} | set(roster.due) <= {worker.slot for worker in roster.taking}
    assert roster.lasting >= 0
    assert roster.busy >= 0


FIELDS = ("generation", "listener", "ready", "retired", "spent")
