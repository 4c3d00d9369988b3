"""How many workers: each rule of the managers by itself. How they do under load: test_load."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NOW, pool_of, states_of, worker_of, zygote_of
from prefork.policy import scaling
from prefork.policy.model import IDLE, RUNNING, STARTING, Phase, PoolView, Shortage, Sizing, Zygote, ZygoteState
from prefork.policy.roster import Roster

DYNAMIC = {"pm": "dynamic", "max_children": 10, "min_spare": 2, "max_spare": 4, "start": 3, "idle_timeout": 10.0}
ONDEMAND = {"pm": "ondemand", "max_children": 10, "idle_timeout": 10.0}


def pool_with(idle: int, busy: int, **changes: Any) -> PoolView:
    """A pool of so many workers."""
    workers = [worker_of(slot) for slot in range(idle + busy)]
    states = states_of(workers, dict.fromkeys(range(busy), RUNNING))
    return pool_of(*workers, **{"states": states, **changes})


def resized(pool: PoolView, sizing: Sizing, now: float = NOW) -> tuple[Sizing, float]:
    return scaling.resize(pool, Roster(pool, now), sizing, now)


def size_of(pool: PoolView, sizing: Sizing, now: float = NOW) -> int | None:
    return resized(pool, sizing, now)[0].size


def short(since: float, looked: float, wanted: int, size: int) -> Sizing:
    return Sizing(size=size, shortage=Shortage(NOW - since, NOW - looked, wanted), lows=((NOW - 1, 0),))


# other phases


@pytest.mark.parametrize(
    ("rules", "verified", "size"),
    [
        ({"pm": "static", "max_children": 8}, True, 8),
        ({"pm": "static", "max_children": 8}, False, 1),
        (DYNAMIC, True, 3),
        (DYNAMIC, False, 1),
        ({**DYNAMIC, "start": 99}, True, 10),
        ({**DYNAMIC, "start": 0}, True, 1),
        (ONDEMAND, True, 0),
        (ONDEMAND, False, 1),
    ],
)
def test_the_size_at_boot(rules: dict[str, Any], verified: bool, size: int) -> None:
    """One to show that the application can be loaded; then what the manager starts with."""
    assert scaling.boot_size(pool_of(verified=verified, **rules)) == size


@pytest.mark.parametrize(
    ("phase", "changes", "size"),
    [
        (Phase.SERVING, {"waiting": 3}, 0),
        (Phase.DRAINING, {"waiting": 0}, 0),
        (Phase.DRAINING, {"waiting": None}, 0),
        (Phase.DRAINING, {"waiting": 3}, 3),
        (Phase.DRAINING, {"waiting": 3, "behind": 2}, 5),
        (Phase.DRAINING, {"waiting": 300}, 8),
        (Phase.DRAINING, {"waiting": 3, "inherited": True}, 0),
        (Phase.DRAINING, {"waiting": 3, "graceful_timeout": 4.0}, 0),
        (Phase.KILLING, {"waiting": 3}, 0),
        (Phase.ENDED, {"waiting": 3}, 0),
    ],
)
def test_the_size_while_stopping(phase: Phase, changes: dict[str, Any], size: int) -> None:
    """As many as still wait, for as long as there is patience."""
    pool = pool_of(**{"max_children": 8, "phase": phase, "phase_since": NOW - 4, **changes})
    assert scaling.draining_size(pool, NOW) == size


# serving


def test_static_is_always_max_children() -> None:
    """Whatever it was, whoever waits."""
    assert resized(pool_with(1, 0, max_children=7, waiting=100), Sizing(size=3)) == (Sizing(size=7), math.inf)


@pytest.mark.parametrize(
    ("rules", "workers", "size"), [(DYNAMIC, 0, 3), (DYNAMIC, 5, 5), (ONDEMAND, 0, 0), (ONDEMAND, 2, 2)]
)
def test_a_pool_without_memory_begins_with_what_it_has(rules: dict[str, Any], workers: int, size: int) -> None:
    """But with no fewer than at boot."""
    assert size_of(pool_with(workers, 0, **rules), Sizing()) == size


def test_fewer_max_children_count_at_once() -> None:
    """Also below what is wanted."""
    assert size_of(pool_with(0, 9, **{**DYNAMIC, "max_children": 4}), Sizing(size=9)) == 4


def test_a_shortage_is_looked_at_twice() -> None:
    """Nothing happens at the first look, nor before the second is due; then the smaller number counts."""
    pool = pool_with(0, 3, **DYNAMIC, waiting=4)
    first, again = resized(pool, Sizing(size=3))
    assert (first.size, first.shortage, again) == (3, Shortage(NOW, NOW, 7), NOW + scaling.LOOK_TWICE)
    early, again = resized(pool, first, NOW + 0.004)
    assert (early.size, early.shortage) == (3, first.shortage)
    assert again == pytest.approx(NOW + scaling.LOOK_TWICE)
    assert size_of(pool, first, NOW + 0.011) == 7
    assert size_of(replace(pool, waiting=6), first, NOW + 0.011) == 7
    assert size_of(replace(pool, waiting=0), first, NOW + 0.011) == 3


@pytest.mark.parametrize(
    ("before", "waiting", "size"),
    [(13, 10, 13), (12, 10, 12), (14, 10, 11), (15, 10, 8), (17, 10, 3), (30, 10, 3)],
)
def test_what_falls_is_followed_down(before: int, waiting: int, size: int) -> None:
    """Three are busy: one less in 10 ms makes three less in 30, and whoever is gone by then needs none."""
    sizing = short(0.01, 0.00999, before, 3)
    assert size_of(pool_with(0, 3, **{**DYNAMIC, "max_children": 40}, waiting=waiting), sizing, NOW + 0.0001) == size


def test_what_falls_for_long_is_not_followed_any_more() -> None:
    """By then it is chance, and there is a shortage; the spares are wanted as well."""
    assert size_of(pool_with(0, 3, **DYNAMIC, waiting=3), short(0.2, 0.01, 7, 3)) == 8


@pytest.mark.parametrize(("since", "size"), [(0.04, 4), (0.06, 5)])
def test_spares_must_lack_for_a_moment(since: float, size: int) -> None:
    """A twentieth of a second; connections that wait have them at once."""
    assert size_of(pool_with(1, 3, **DYNAMIC), short(since, 0.01, 3, 4)) == size


def test_nobody_is_spare_beyond_the_ceiling() -> None:
    """min_spare may be larger than max_children has become, by an order."""
    pool = pool_with(0, 1, **{**DYNAMIC, "min_spare": 8, "max_children": 2})
    assert size_of(pool, short(1, 0.01, 1, 1)) == 2


def test_the_first_worker_on_demand_is_not_waited_for() -> None:
    """With nobody there nothing gets better by a second look."""
    assert size_of(pool_with(0, 0, **ONDEMAND, waiting=3), Sizing(size=0)) == 3


def test_a_connection_is_not_counted_twice_while_its_worker_comes_to_accept() -> None:
    """Six wait, six were forked for them and given the listener; that none of them accepts yet calls for nobody."""
    workers = [worker_of(slot) for slot in range(6)]
    pool = pool_of(*workers, states=states_of(workers, dict.fromkeys(range(6), STARTING)), waiting=6, **ONDEMAND)
    sizing = Sizing(size=6)
    for look in range(10):
        sizing, _ = resized(pool, sizing, NOW + look * scaling.LOOK_TWICE)
        assert sizing.size == 6
    assert not scaling.watches(replace(pool, waiting=None), Roster(pool, NOW), NOW, 0.0)
    unread = replace(pool, waiting=None, readable=True)
    assert size_of(unread, Sizing(size=6)) == 6


def test_without_a_reading_the_listener_counts_for_one() -> None:
    """When it was readable, and nobody is idle; there is no second look then."""
    blind = {**ONDEMAND, "waiting": None, "limit": None}
    assert size_of(pool_with(0, 2, **blind, readable=True), Sizing(size=2)) == 3
    assert size_of(pool_with(0, 2, **blind), Sizing(size=2)) == 2
    assert size_of(pool_with(1, 1, **blind, readable=True), Sizing(size=2)) == 2


def test_nobody_on_demand_is_replaced_for_himself() -> None:
    """A worker that died, or could not be forked, is missed only where connections wait."""
    assert size_of(pool_with(1, 1, **ONDEMAND), Sizing(size=4)) == 2
    assert size_of(pool_with(0, 2, **ONDEMAND, waiting=1), Sizing(size=4)) == 3
    coming = pool_of(worker_of(0), worker_of(1, listener=0, ready=None), **ONDEMAND)
    assert size_of(coming, Sizing(size=4)) == 4
    assert size_of(pool_with(1, 1, **DYNAMIC), Sizing(size=4)) == 4


def test_the_spawn_rate() -> None:
    """What a second allows at once; then it wears off."""
    rules = {**ONDEMAND, "max_children": 100, "spawn_rate": 8}
    crowd = pool_with(0, 0, **rules, waiting=50)
    sizing, again = resized(crowd, Sizing(size=0))
    assert (sizing.size, sizing.grown, again) == (8, 8, NOW + scaling.LOOK_TWICE)
    everybody = pool_with(0, 8, **rules, waiting=42)
    later = replace(sizing, shortage=Shortage(NOW, NOW, 50))
    held, again = resized(everybody, later, NOW + 0.02)
    assert held.size == 8
    assert again == pytest.approx(NOW + 0.125)
    assert size_of(everybody, later, NOW + 0.5) == 12
    assert size_of(everybody, later, NOW + 60) == 16


def test_the_lowest_number_of_idle_workers_counts() -> None:
    """Within the hold; and one leaves at a time, after a pause."""
    rested = Sizing(size=8, lows=((NOW - 10, 6), (NOW - 1, 7)))
    pool = pool_with(8, 0, **DYNAMIC)
    sizing, again = resized(pool, rested)
    assert (sizing.size, sizing.shrunk, again) == (7, NOW, NOW + 1)
    assert [low for _, low in sizing.lows] == [5, 6, 7]
    fewer = pool_with(7, 0, **DYNAMIC)
    assert resized(fewer, sizing, NOW + 0.5) == (sizing, NOW + 1)
    assert size_of(fewer, sizing, NOW + 1) == 6
    for lows in (((NOW - 10, 4), (NOW - 1, 7)), ((NOW - 9, 7),)):
        assert size_of(pool, replace(rested, lows=lows)) == 8
    assert size_of(pool_with(8, 0, **ONDEMAND), replace(rested, lows=((NOW - 10, 1),))) == 7


def test_many_that_are_too_many_leave_faster() -> None:
    """All of them within about one more hold, one every 50 ms at most."""
    pool = pool_with(30, 0, **{**ONDEMAND, "max_children": 40})
    rested = Sizing(size=30, lows=((NOW - 10, 30),))
    assert resized(pool, rested)[1] == pytest.approx(NOW + 10 / 30)
    quick = pool_with(30, 0, **{**ONDEMAND, "max_children": 40, "idle_timeout": 0.1})
    assert resized(quick, rested)[1] == pytest.approx(NOW + 0.05)


@pytest.mark.parametrize("changes", [{"waiting": 3}, {"spawning": True}, {"missing": True}])
def test_nobody_leaves_while_somebody_comes(changes: dict[str, Any]) -> None:
    """Or is owed."""
    coming = worker_of(9, listener=0, ready=None)
    workers = [worker_of(slot) for slot in range(8)]
    pool = pool_of(*workers, *([coming] if "spawning" in changes else []), **DYNAMIC)
    size = 9 if "missing" in changes else 8
    if "waiting" in changes:
        pool = replace(pool, waiting=20)
    assert size_of(pool, Sizing(size=size, lows=((NOW - 10, 8),))) == size


def test_the_window_moves_on() -> None:
    """In tenths of the hold; whatever is older than the hold is forgotten, and a dip is remembered at once."""
    sizing = Sizing(size=8)
    for second in range(30):
        sizing, _ = resized(pool_with(8, 0, **{**DYNAMIC, "max_spare": 10}), sizing, NOW + second)
    assert len(sizing.lows) == 11
    assert sizing.lows[0][0] == NOW + 19
    dipped, _ = resized(pool_with(1, 7, **{**DYNAMIC, "max_spare": 10}), sizing, NOW + 29.5)
    assert min(low for _, low in dipped.lows) == 1
    quiet, _ = resized(pool_with(8, 0, **{**DYNAMIC, "max_spare": 10}), dipped, NOW + 500)
    assert [low for _, low in quiet.lows] == [1, 8], "a look long after still covers the time between"


# watching


@pytest.mark.parametrize(
    ("changes", "watches"),
    [
        ({}, True),
        ({"pm": "dynamic"}, True),
        ({"pm": "static"}, False),
        ({"phase": Phase.RELOADING}, True),
        ({"phase": Phase.DRAINING}, False),
        ({"open": False}, False),
        ({"max_children": 2}, False),
        ({"waiting": 1}, False),
        ({"waiting": None}, True),
        ({"readable": True}, False),
        ({"zygote": None}, False),
        ({"zygote": zygote_of(ZygoteState.LOADING)}, False),
        ({"zygote": zygote_of(unfit=True)}, False),
    ],
)
def test_when_the_listener_is_watched(changes: dict[str, Any], watches: bool) -> None:
    """Only where the next connection would wait, and a fork would help: it is level-triggered, and would spin."""
    pool = pool_with(0, 2, **{**ONDEMAND, **changes})
    assert scaling.watches(pool, Roster(pool, NOW), NOW, 0.0) is watches


def test_a_listener_is_not_watched_where_somebody_accepts_soon() -> None:
    """Idle, or coming; nor while the back-off lasts."""
    idle = pool_with(1, 2, **ONDEMAND)
    coming = pool_of(worker_of(0, listener=0, ready=None), **ONDEMAND)
    assert not scaling.watches(idle, Roster(idle, NOW), NOW, 0.0)
    assert not scaling.watches(coming, Roster(coming, NOW), NOW, 0.0)
    nobody = pool_with(0, 0, **ONDEMAND)
    assert scaling.watches(nobody, Roster(nobody, NOW), NOW, NOW)
    assert not scaling.watches(nobody, Roster(nobody, NOW), NOW, NOW + 0.1)


# anything at all

SIZINGS = st.builds(
    Sizing,
    size=st.none() | st.integers(0, 100),
    shortage=st.none() | st.builds(Shortage, st.just(NOW - 1), st.floats(NOW - 1, NOW), st.integers(0, 99)),
    grown=st.floats(0, 100),
    grown_at=st.floats(NOW - 10, NOW),
    lows=st.lists(st.integers(0, 20), max_size=12).map(
        lambda lows: tuple((NOW - 12 + second, low) for second, low in enumerate(lows))
    ),
    shrunk=st.floats(NOW - 10, NOW),
)
ZYGOTES = st.none() | st.builds(zygote_of, st.sampled_from(ZygoteState), unfit=st.booleans())


@given(
    rules=st.sampled_from([DYNAMIC, ONDEMAND, {"pm": "static", "max_children": 10}]),
    states=st.lists(st.sampled_from([IDLE, RUNNING, 255]), max_size=12),
    sizing=SIZINGS,
    waiting=st.none() | st.integers(0, 50),
    readable=st.booleans(),
    zygote=ZYGOTES,
)
def test_a_size_is_between_nobody_and_everybody(
    rules: dict[str, Any], states: list[int], sizing: Sizing, waiting: int | None, readable: bool, zygote: Zygote | None
) -> None:
    """It shrinks by one at a time where the limits stay; and the next look lies ahead."""
    workers = [worker_of(slot) for slot in range(len(states))]
    pool = pool_of(*workers, states=bytes(states), waiting=waiting, readable=readable, zygote=zygote, **rules)
    after, again = resized(pool, sizing)
    assert after.size is not None
    assert 0 <= after.size <= 10
    assert again > NOW
    if rules is DYNAMIC and sizing.size is not None:
        assert after.size >= min(sizing.size, 10) - 1
