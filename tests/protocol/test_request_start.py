"""The stamp of the proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.protocol.request_start import LONGEST, UNKNOWN, parse, waited

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("t=1700000000.123", 1_700_000_000.123),  # nginx: t=${msec}
        ("1700000000.123", 1_700_000_000.123),  # nginx: $msec
        ("1700000000", NOW),
        ("t=1700000000", NOW),
        ("1700000000123", 1_700_000_000.123),  # milliseconds: Heroku's router
        ("t=1700000000123", 1_700_000_000.123),
        ("1700000000123.5", 1_700_000_000.1235),
        ("t=1700000000123456", 1_700_000_000.123456),  # microseconds: Apache's %t
        ("1700000000123456", 1_700_000_000.123456),
        ("9999999999", 9_999_999_999.0),
        ("0000000001", 1.0),
    ],
)
def test_what_is_found_in_the_field(text: str, start: float) -> None:
    """Told apart by the number of digits."""
    assert parse(text) == pytest.approx(start, abs=1e-6)


@given(milliseconds=st.integers(0, 10**13 - 1))
def test_what_nginx_writes_is_what_others_write(milliseconds: int) -> None:
    """The short way to the same number, to the last bit."""
    text = f"{milliseconds // 1_000:010}.{milliseconds % 1_000:03}"
    assert parse(f"t={text}") == parse(text) == float(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "t=", "-", "t", "now", "t=t=1700000000", "T=1700000000", "x=1700000000", "t =1700000000", " 1700000000"),
        *(
            "-1700000000",
            "t=-1700000000",
            "+1700000000",
            "1e9",
            "0x65",
            "inf",
            "nan",
            "1_700_000_000",
            "1700000000.",
            ".",
        ),
        *("1700000000,123", "1700000000.12.3", "t=1700000000, t=1700000001", "1700000000 123", "1700000000\n"),
        *("1", "170000000", "17000000000", "170000000012", "17000000001234", "17000000001234567", "9" * 400),
        *("t=1700000000.1x3", "t=17_0000000.123", "t=170000000٠.123", "t=1700000000.-12", "t=+700000000.123"),
        *("1700000000.1234567890", "١٧٠٠٠٠٠٠٠٠", "1700000000.¹"),
    ],
)
def test_what_is_no_stamp(text: str) -> None:
    """Unknown, and no error."""
    assert parse(text) == UNKNOWN


@given(st.text() | st.text("t=.0123456789", max_size=24))
def test_any_text_is_a_moment_or_unknown(text: str) -> None:
    """Nothing a client sends raises, or makes a wait of what was none."""
    start = parse(text)
    assert start == UNKNOWN or 0 <= start < 1e10
    assert waited(start, NOW) == UNKNOWN or 0 <= waited(start, NOW) <= LONGEST


@given(st.integers(1_000_000_000, 9_999_999_999), st.integers(0, 999_999))
def test_every_unit_says_the_same(seconds: int, fraction: int) -> None:
    """Seconds with a fraction, milliseconds, microseconds."""
    start = seconds + fraction / 1e6
    assert parse(f"{seconds}.{fraction:06}") == pytest.approx(start, abs=1e-5)
    assert parse(f"t={seconds}{fraction // 1_000:03}") == pytest.approx(start, abs=1.1e-3)
    assert parse(f"t={seconds}{fraction:06}") == pytest.approx(start, abs=1e-5)


@pytest.mark.parametrize(
    ("start", "seconds"),
    [
        (NOW, 0.0),
        (NOW - 2.5, 2.5),
        (NOW + 0.9, 0.0),  # two clocks are never quite the same
        (NOW + 1.1, UNKNOWN),
        (NOW + 1e9, UNKNOWN),
        (NOW - LONGEST, LONGEST),
        (NOW - LONGEST - 1, UNKNOWN),
        (0.0, UNKNOWN),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_how_long_it_waited(start: float, seconds: float) -> None:
    """Neither the future nor another age is believed."""
    assert waited(start, NOW) == seconds
    assert waited(UNKNOWN, 1.0) == UNKNOWN
