"""benchmarks/figures.py: medians, ratios, and what one wrong run does."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figures, Run, Table, summarize

pytestmark = pytest.mark.once


def runs(*costs: float, rate: float = 1000.0) -> list[Run]:
    """Runs of two seconds at that rate, with these costs in microseconds."""
    return [Run(int(2 * rate), 2.0, cost * 2 * rate / 1e6, 1_000_000, 0.05) for cost in costs]


def row(table: Table, server: str) -> Figures:
    return next(row for row in table.rows if row.server == server)


def test_a_run() -> None:
    """A run of 4,000 requests in two seconds with 80 ms of CPU: 2,000 a second, 20 µs each."""
    run = Run(4_000, 2.0, 0.08)
    assert run.rate == 2000.0
    assert run.cost == pytest.approx(20.0)


def test_medians() -> None:
    """Costs and rates are medians; the span is that of the costs; others are the worst."""
    found = [*runs(30.0, rate=900), *runs(10.0, rate=1100), *runs(20.0), Run(1, 1.0, 21e-6, 3_000_000, 0.4)]
    table = summarize("hello", {"A": found}, ("A",))
    assert row(table, "A").cost == pytest.approx(20.5)
    assert row(table, "A").rate == pytest.approx(950.0)
    assert row(table, "A").lowest == pytest.approx(10.0)
    assert row(table, "A").highest == pytest.approx(30.0)
    assert row(table, "A").memory == 1_000_000
    assert row(table, "A").others == 0.4


def test_ratios_within_a_round() -> None:
    """The ratio is the median of the rounds' ratios: a round in which everything was slow spoils nothing."""
    table = summarize("hello", {"A": runs(10.0, 100.0, 10.0), "B": runs(20.0, 200.0, 21.0)}, ("A",))
    assert row(table, "A").ratio == pytest.approx(1.0)
    assert row(table, "B").ratio == pytest.approx(2.0)


def test_a_round_that_one_of_them_lacks() -> None:
    """Rounds are compared as far as both have them."""
    table = summarize("hello", {"A": runs(10.0), "B": runs(20.0, 50.0)}, ("A",))
    assert row(table, "B").ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("names", "references", "expected"),
    [
        (("A", "B"), ("A", "B"), "A"),
        (("B",), ("A", "B"), "B"),
        (("C",), ("A", "B"), ""),
    ],
)
def test_the_first_reference_there_is(names: tuple[str, ...], references: tuple[str, ...], expected: str) -> None:
    """Ratios are to the first reference that took part; without any there are none."""
    table = summarize("hello", {name: runs(10.0) for name in names}, references)
    assert table.reference == expected
    assert [row.ratio is None for row in table.rows] == [not expected] * len(names)


def test_one_wrong_run() -> None:
    """One invalid run makes a server's figures invalid, and it is no reference any more."""
    bad = [*runs(10.0), Run(invalid="expected 200, found 502")]
    table = summarize("hello", {"A": bad, "B": runs(20.0, 20.0)}, ("A", "B"))
    assert row(table, "A") == Figures("A", invalid="expected 200, found 502")
    assert table.reference == "B"
    assert row(table, "B").ratio == pytest.approx(1.0)


def test_a_server_that_never_ran() -> None:
    """A server without a run has no figures, and says so."""
    assert summarize("hello", {"A": []}, ("A",)).rows == (Figures("A", invalid="never ran"),)
