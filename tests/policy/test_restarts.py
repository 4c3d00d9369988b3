"""Back-off after failed starts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NOW
from prefork.policy.model import PoolMemory
from prefork.policy.restarts import FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_FOR_READY, USEFUL_LIFE, after_end, after_use

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
