"""How long requests took, out of buckets."""

from __future__ import annotations

import bisect
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.cli.latency import difference, limits, spell_latency, spell_seconds
from prefork.system.records import BOUNDS


def histogram(*counts: int) -> dict[str, Any]:
    return {"bounds": [0.1, 1.0, 10.0], "counts": list(counts), "sum": 1.0}


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((10, 0, 0, 0), 0.5, (0.0, 0.1)),
        ((10, 0, 0, 0), 1.0, (0.0, 0.1)),
        ((5, 5, 0, 0), 0.5, (0.0, 0.1)),
        ((0, 10, 0, 0), 0.5, (0.1, 1.0)),
        ((98, 0, 2, 0), 0.99, (1.0, 10.0)),
        ((0, 0, 0, 7), 0.5, (10.0, None)),
        ((0, 0, 0, 0), 0.5, None),
    ],
)
def test_limits(counts: tuple[int, ...], share: float, expected: object) -> None:
    """The bounds of the bucket; beyond the last bound, no upper one; without any request, nothing."""
    assert limits(histogram(*counts), share) == expected


@given(seconds=st.lists(st.floats(0, 100), min_size=1, max_size=50), share=st.sampled_from((0.5, 0.99, 1.0)))
def test_a_time_lies_within_its_limits(seconds: list[float], share: float) -> None:
    """Whatever the requests took."""
    counts = [0] * (len(BOUNDS) + 1)
    for each in seconds:
        counts[bisect.bisect_left(BOUNDS, each)] += 1
    found = limits({"bounds": BOUNDS, "counts": counts, "sum": sum(seconds)}, share)
    assert found is not None
    low, high = found
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    assert low <= true <= (math.inf if high is None else high)


def test_what_came_between_two_looks() -> None:
    """Never less than nothing; all there was, when there is no earlier look."""
    assert difference(histogram(5, 4, 3, 2), histogram(5, 1, 4, 0)) == {**histogram(0, 3, 0, 2), "sum": 0.0}
    assert difference(histogram(1, 0, 0, 0), None) == histogram(1, 0, 0, 0)
    assert (difference(None, histogram(1, 0, 0, 0)), limits(None, 0.5), spell_latency(None)) == (None, None, "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4 ms"), (0.012, "12 ms"), (0.31, "0.31 s"), (4.23, "4.2 s"), (31.4, "31 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert spell_seconds(seconds) == text


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((98, 0, 2, 0), "median below 100 ms, 99 % within 10 s"),
        ((0, 98, 2, 0), "median 100 ms to 1 s, 99 % within 10 s"),
        ((0, 0, 2, 0), "median 1 to 10 s, 99 % within 10 s"),
        ((0, 0, 98, 2), "median 1 to 10 s, more than 1 % over 10 s"),
        ((0, 0, 0, 9), "median over 10 s, more than 1 % over 10 s"),
        ((0, 0, 1, 0), "1.0 s (one request)"),
        ((0, 0, 0, 0), ""),
    ],
)
def test_a_histogram_in_words(counts: tuple[int, ...], text: str) -> None:
    """Nothing that the buckets do not say; one request's time is the sum."""
    assert spell_latency(histogram(*counts)) == text
