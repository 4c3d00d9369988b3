"""Back-off after failed starts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NAME, NOW, decide, pool_of, slots_of, states_of, worker_of
from prefork.policy.model import RUNNING, Ended, Fork, PoolMemory, Shortage, Sizing
from prefork.policy.restarts import (
    FIRST_WAIT,
    LONGEST_WAIT,
    LONGEST_WAIT_FOR_READY,
    MADE_UP_A_SECOND,
    USEFUL_LIFE,
    after_end,
    after_use,
    count_death,
    held_back,
)

# The nth consecutive failure, and the wait that follows it.
WAITS = [
    (1, 0.0),
    (2, 0.1),
    (3, 0.2),
    (4, 0.4),
    (5, 0.8),
    (6, 1.6),
    (7, 3.2),
    (8, 6.4),
    (9, 12.8),
    (10, 25.6),
    (11, 30),
]


@pytest.mark.parametrize(("failures", "wait"), [*WAITS, (12, 30.0), (100, 30.0), (100_000, 30.0)])
def test_the_wait_after_each_failure(failures: int, wait: float) -> None:
    """Nothing after the first, then doubling from 0.1 s up to half a minute, and no further."""
    memory = after_end(PoolMemory(failures=failures - 1), None, NOW)
    assert memory.failures == failures
    assert memory.not_before == pytest.approx(NOW + wait)


@pytest.mark.parametrize(
    ("life", "failures"), [(None, 1), (0.0, 1), (USEFUL_LIFE - 0.01, 1), (USEFUL_LIFE, 0), (3_600.0, 0)]
)
def test_what_counts_as_a_failed_start(life: float | None, failures: int) -> None:
    """One that was never ready, or for less than a second."""
    memory = after_end(PoolMemory(), None if life is None else NOW - life, NOW)
    assert memory.failures == failures


def test_one_that_lived_ends_the_series() -> None:
    """The end of a process that had been of use forgives the failures before it, and the wait."""
    memory = PoolMemory(failures=9, not_before=NOW + 20, full_since=NOW, full_peak=7)
    assert after_end(memory, NOW - USEFUL_LIFE, NOW) == PoolMemory(full_since=NOW, full_peak=7)
    assert after_use(memory) == PoolMemory(full_since=NOW, full_peak=7)


def test_many_ends_at_one_stroke_are_no_series() -> None:
    """Thirty workers killed together cost a tenth of a second, not half a minute."""
    memory = PoolMemory()
    for _ in range(30):
        memory = after_end(memory, None, NOW)
    assert (memory.failures, memory.not_before) == (2, NOW + FIRST_WAIT)


@given(
    pauses=st.lists(st.floats(0, 100), min_size=1, max_size=60),
    lives=st.lists(st.none() | st.floats(0, 0.999), min_size=60, max_size=60),
)
def test_the_wait_is_bounded_and_never_shrinks_in_a_series(pauses: list[float], lives: list[float | None]) -> None:
    """In a series of failures the moment of the next try never moves back, nor beyond 30 s ahead."""
    memory, now, seen = PoolMemory(), NOW, [0.0]
    for pause, life in zip(pauses, lives, strict=False):
        now = max(now + pause, memory.not_before)
        memory = after_end(memory, None if life is None else now - life, now)
        assert 0.0 <= memory.not_before - now <= LONGEST_WAIT
        seen.append(memory.not_before)
    assert all(earlier <= later for earlier, later in pairwise(seen))


def test_a_worker_that_was_ready_holds_up_the_next_for_a_second_at_most() -> None:
    """A request that kills whoever takes it is no reason to leave the others without workers."""
    memory, now = PoolMemory(), 0.0
    for _ in range(20):
        memory = after_end(memory, now, now)
        assert memory.not_before - now <= LONGEST_WAIT_FOR_READY
        now = max(now, memory.not_before)
    assert memory.not_before - now == 0


@pytest.mark.parametrize("workers", [1, 4, 8, 10, 32, 200])
def test_a_stroke_is_made_up_for_within_a_second(workers: int) -> None:
    """Everybody is killed at once: nearly all come back at once, all of them within a second."""
    memory = PoolMemory()
    for _ in range(workers):
        memory = count_death(memory, workers, NOW)
    assert held_back(memory, workers, NOW) <= MADE_UP_A_SECOND
    assert held_back(memory, workers, NOW + 1.0) == 0


@pytest.mark.parametrize("workers", [1, 4, 8, 10, 32])
def test_ten_forks_a_second_or_as_many_as_there_are_workers(workers: int) -> None:
    """Every worker dies as soon as it is there: in no second are more forked, and later it is half of that."""
    memory, alive, forked = PoolMemory(), workers, []
    for tick in range(3_000):
        now = NOW + tick / 1_000
        for _ in range(alive):
            memory = count_death(memory, workers, now)
        alive = max(0, workers - held_back(memory, workers, now))
        forked += [now] * alive
    for start in range(2):
        first = [moment for moment in forked if NOW + start <= moment < NOW + start + 1]
        assert len(first) <= max(10, workers) + 1
    assert len([moment for moment in forked if moment >= NOW + 2]) <= MADE_UP_A_SECOND + 1


def test_as_many_deaths_as_workers_are_made_up_for_at_once() -> None:
    """Whatever one stroke can kill; what dies beyond that waits, and no longer than the pool is large."""
    memory = PoolMemory()
    held = []
    for _ in range(12):
        memory = count_death(memory, 4, NOW)
        held.append(held_back(memory, 4, NOW))
    assert held == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert [held_back(memory, 4, NOW + after) for after in (0.1, 0.3, 0.5, 0.7, 0.9, 9.0)] == [4, 3, 2, 1, 0, 0]
    assert held_back(count_death(memory, 4, NOW + 2), 4, NOW + 2) == 0


@given(
    workers=st.integers(1, 100),
    lives=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200),
)
def test_forks_a_second_are_bounded(workers: int, lives: list[float]) -> None:
    """However long each of them lived: a pool's worth of forks, five a second, and one that was owed."""
    memory, now, forked = PoolMemory(), NOW, 0
    alive = workers
    for life in lives:
        now += life
        memory = count_death(memory, workers, now)
        alive -= 1
        forks = max(0, workers - alive - held_back(memory, workers, now))
        alive, forked = alive + forks, forked + forks
        assert forked <= workers + MADE_UP_A_SECOND * (now - NOW) + 1
        if not alive:
            break


@pytest.mark.parametrize(
    ("ended", "forks"),
    [
        (Ended(NOW - 9, expected=False), 0),
        (Ended(NOW - 9, expected=False, ours=True), 4),
        (Ended(NOW - 9, expected=True), 4),
    ],
)
def test_which_deaths_hold_back_forks(ended: Ended, forks: int) -> None:
    """Those of processes that nobody ended; after as many as there may be workers, and for a fifth of a second each."""
    before = PoolMemory(deaths=8.0, deaths_at=NOW)
    empty = pool_of(max_children=4, ended=(ended,))
    decision = decide(empty, memory=before if not ended.expected and not ended.ours else PoolMemory())
    assert len(slots_of(Fork, decision.actions)) == forks
    if not forks:
        assert NOW < decision.wake_at <= NOW + 1 / MADE_UP_A_SECOND


@pytest.mark.parametrize(("deaths", "size"), [(0.0, 6), (2.0, 6), (3.0, 2)])
def test_a_pool_whose_workers_die_does_not_grow(deaths: float, size: int) -> None:
    """What waits for want of living workers does not ask for more of them."""
    workers = [worker_of(slot) for slot in range(2)]
    busy = pool_of(
        *workers,
        max_children=8,
        pm="dynamic",
        states=states_of(workers, {0: RUNNING, 1: RUNNING}),
        waiting=4,
    )
    shortage = Shortage(since=NOW - 0.02, looked=NOW - 0.02, wanted=6)
    memory = PoolMemory(deaths=deaths, deaths_at=NOW, sizing=Sizing(size=2, shortage=shortage))
    assert decide(busy, memory=memory).memory.of(NAME).sizing.size == size
