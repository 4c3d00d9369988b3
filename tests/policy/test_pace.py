"""How slow is too slow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.policy.pace import Pace

DAY = 86_400

Moves = Iterable[tuple[float, int]]  # seconds of waiting, and what is moved then


def endured(pace: Pace, moves: Moves) -> float | None:
    """How long a client that moves like this is waited for until its time is over; None: it never is."""
    total = 0.0
    for seconds, size in moves:
        patience = pace.left
        if seconds > patience:
            pace.waited(patience)
            return total + patience
        pace.waited(seconds)
        pace.moved(size)
        total += seconds
    return None


@pytest.mark.parametrize(
    ("moves", "seconds"),
    [
        (repeat((60.0, 1), DAY), 30.0),  # nothing within the timeout
        (repeat((29.0, 1), DAY), pytest.approx(30.0, abs=0.1)),  # a byte every 29 s, and what it earns: 2 ms
        (repeat((1.0, 1), DAY), pytest.approx(30.0, abs=0.1)),  # a byte a second
        (repeat((1.0, 250), DAY), pytest.approx(60.0, abs=1.0)),  # half of the rate: half a second a second
        (repeat((1.0, 490), DAY), pytest.approx(1_500.0, abs=50.0)),  # a little less than the rate
        (repeat((1.0, 500), DAY), None),  # the rate
        (repeat((0.001, 1), DAY), None),  # twice the rate, in single bytes
        (repeat((29.0, 14_500), DAY), None),  # the rate, in blocks
        (repeat((31.0, 1_000_000), DAY), 30.0),  # longer than the timeout, whatever comes then
        ([(0.1, 100_000_000), *repeat((29.0, 1), DAY)], pytest.approx(30.1, abs=0.1)),  # haste is not saved up
        (
            [*repeat((5.0, 1), 5), (1.0, 50_000), *repeat((29.0, 1), DAY)],
            pytest.approx(56.0, abs=0.1),
        ),  # but mends what was
    ],
)
def test_how_long_a_client_is_waited_for(moves: Moves, seconds: object) -> None:
    """With a timeout of 30 s and 500 bytes a second."""
    assert endured(Pace(30.0, 500), moves) == seconds


@pytest.mark.parametrize(("gap", "seconds"), [(29.0, None), (31.0, 30.0)])
def test_without_a_rate_a_byte_is_enough(gap: float, seconds: float | None) -> None:
    """Then only the timeout counts, between two pieces."""
    assert endured(Pace(30.0, 0), repeat((gap, 1), DAY)) == seconds


def test_nothing_moved_is_nothing_earned() -> None:
    """Nor is what seems to have flowed back."""
    for rate in (0, 500):
        pace = Pace(30.0, rate)
        pace.waited(10.0)
        pace.moved(0)
        pace.moved(-5_000)
        assert pace.left == 20.0


@pytest.mark.parametrize(
    ("moves", "still"), [([(30.0, 0)], True), ([(10.0, 0), (20.0, 0)], True), ([(29.0, 1)], False)]
)
def test_who_stands_still(moves: list[tuple[float, int]], still: bool) -> None:
    """Nothing for the whole timeout is told apart from too little."""
    pace = Pace(30.0, 500)
    for seconds, size in moves:
        pace.waited(seconds)
        pace.moved(size)
    assert pace.stands_still is still


GAPS = st.floats(0.0, 30.0)


@given(st.lists(st.tuples(GAPS, st.integers(0, 10_000))), st.floats(0.1, 60.0), st.integers(1, 10_000))
def test_the_time_is_bounded_by_what_was_moved(moves: list[tuple[float, int]], timeout: float, rate: int) -> None:
    """Never more than the timeout and a second for every min_rate bytes; never less than the timeout."""
    seconds = endured(Pace(timeout, rate), [*moves, (10 * timeout, 0)])
    assert seconds is not None
    assert seconds <= timeout + sum(size for _, size in moves) / rate + 1e-6
    assert seconds >= timeout - 1e-6


@given(st.lists(st.tuples(GAPS, st.integers(0, 5_000))), st.integers(1, 10_000))
def test_whoever_keeps_the_rate_is_never_cut_off(moves: list[tuple[float, int]], rate: int) -> None:
    """However irregular, as long as no gap is as long as the timeout."""
    fast = [(gap, int(gap * rate) + 1 + more) for gap, more in moves]
    assert endured(Pace(30.001, rate), fast) is None
