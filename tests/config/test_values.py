"""Readers: every way to write a value, and everything that only looks like one."""

from __future__ import annotations

import pytest

from prefork.config.values import (
    choice,
    duration,
    limit,
    matching,
    number,
    octal,
    optional,
    share,
    size,
    spell_duration,
    spell_share,
    spell_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("12", 12.0),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("0", 0.0),
        ("24.0h", 86_400.0),
        ("576h", 24 * 86_400.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    """A duration is a decimal number with ms, s, m, h or nothing, which means seconds."""
    assert seconds == duration()(text)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "+1", "1e3", "nan", "inf", "1 s", " 1", "1d", "1S", "1_0", "٣s", "1.", "577h", "1s\n"]
)
def test_no_duration(text: str) -> None:
    """Anything else is none: signs, exponents, blanks, other units, other digits, and what poll(2) cannot wait."""
    with pytest.raises(ValueError, match="a duration such as 250ms"):
        duration()(text)


def test_shortest_duration() -> None:
    """A duration may have a least value, which the message names."""
    assert duration(least=0.1)("100ms") == 0.1
    with pytest.raises(ValueError, match="from 100ms to 24 days"):
        duration(least=0.1)("99ms")


@pytest.mark.parametrize(
    ("text", "value"), [("4096", 4096), ("64K", 65_536), ("64k", 65_536), ("256M", 2**28), ("1G", 2**30), ("1T", 2**40)]
)
def test_size(text: str, value: int) -> None:
    """A size is a number of bytes, or of units of a power of 1024."""
    assert value == size(least=0)(text)


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "1KB", "1 K", "0x10", "٣", "2T", "9" * 19, "1K\n"])
def test_no_size(text: str) -> None:
    """Anything else is none, and neither is more than a tebibyte."""
    with pytest.raises(ValueError, match="64K, 256M or plain bytes, from 0 to 1T"):
        size(least=0)(text)


def test_bounded_size() -> None:
    """Both bounds of a size belong to it, and the message names them."""
    read = size(least=1024, most=65_536)
    assert read("1K") == 1024
    assert read("64K") == 65_536
    for text in ("1023", "65537"):
        with pytest.raises(ValueError, match="from 1K to 64K"):
            read(text)


def test_number() -> None:
    """A number has both its bounds, and decimal ASCII digits only."""
    read = number(1, 10)
    assert [read("1"), read("10"), read("007")] == [1, 10, 7]
    for text in ("", "0", "11", "-1", "+1", "1.0", "0x1", "1_0", "٣", "many", "1\n", "9" * 5000):
        with pytest.raises(ValueError, match="a number from 1 to 10"):
            read(text)


@pytest.mark.parametrize(("text", "value"), [("0660", 0o660), ("660", 0o660), ("0o660", 0o660), ("0", 0), ("777", 511)])
def test_octal(text: str, value: int) -> None:
    """Modes are octal however many zeros lead."""
    assert value == octal(0o777)(text)


@pytest.mark.parametrize("text", ["", "0680", "1777", "-1", "rw", "0x1ff", "0o", "٣"])
def test_not_octal(text: str) -> None:
    """No other digits, no other notation, no bits beyond the most."""
    with pytest.raises(ValueError, match="octal digits from 0 to 0777"):
        octal(0o777)(text)


def test_choice() -> None:
    """One of the words, spelled exactly."""
    read = choice("auto", "always", "never")
    assert read("always") == "always"
    for text in ("", "Always", "alway"):
        with pytest.raises(ValueError, match="auto, always or never"):
            read(text)


def test_matching() -> None:
    """The whole text has to match, to its last line break."""
    read = matching("[a-z]+", "letters")
    assert read("abc") == "abc"
    for text in ("", "abc\n", "a1"):
        with pytest.raises(ValueError, match="letters"):
            read(text)


def test_optional() -> None:
    """``off`` is no value at all; the message offers it beside the others."""
    read = optional(number(1, 2))
    assert read("off") is None
    assert read("2") == 2
    with pytest.raises(ValueError, match="a number from 1 to 2, or off"):
        read("3")


@pytest.mark.parametrize("text", ["off", "0", "0s", "0ms", "00.0m", "0K"])
def test_limit_that_is_none(text: str) -> None:
    """``off`` and every zero are no limit, as in php-fpm."""
    assert limit(duration(least=0.01))(text) is None


def test_limit() -> None:
    """Anything else is what the reader says."""
    read = limit(duration(least=0.01))
    assert read("10ms") == 0.01
    for text in ("", "1ms", "0x", "-0", "Off"):
        with pytest.raises(ValueError, match="from 10ms to 24 days, or off"):
            read(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("10%", 0.1), ("0%", 0.0), ("100%", 1.0), ("12.5%", 0.125), ("0", 0.0), ("0.1", 0.1), (".25", 0.25), ("1.0", 1.0)],
)
def test_share(text: str, value: float) -> None:
    """A share is a percentage, or a fraction as Python writes one."""
    assert value == share(text)
    assert share(spell_share(value)) == value


@pytest.mark.parametrize("text", ["", "%", "1", "10", "101%", "1.1", "-1%", "1e-1", "10 %", "٣%", "0.1%%", "10%\n"])
def test_no_share(text: str) -> None:
    """A bare whole number is none: to some it is a count, to others a percentage."""
    with pytest.raises(ValueError, match=r"a share such as 10% or 0\.1, from 0% to 100%"):
        share(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.25, "250ms"), (25.0, "25s"), (90.0, "90s"), (60.0, "1m"), (1.5, "1.5s")]
)
def test_spelled_duration(seconds: float, text: str) -> None:
    """A duration is written in the unit that is shortest, and reads back as itself."""
    assert text == spell_duration(seconds)
    assert seconds == duration()(text)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1000, "1000"), (65_536, "64K"), (2**30, "1G"), (2**40, "1T")])
def test_spelled_size(value: int, text: str) -> None:
    """A size is written in the largest unit that divides it, and reads back as itself."""
    assert text == spell_size(value)
    assert value == size(least=0)(text)
