"""Text into values: what an operator may write for a duration, a size, a mode and the rest.

Each function here makes a reader: it takes the text of one value and returns the value, or raises ``ValueError``
with a phrase that says what was expected ("a duration such as 250ms, 30s or 5m, …"). Who asked, under which name,
and what was found is for the caller to add. Digits are ASCII digits: what Python calls a number elsewhere
(``1_000``, ``٣``, ``nan``) is none in a configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

__all__ = [
    "Reader",
    "checked",
    "choice",
    "duration",
    "limit",
    "matching",
    "network",
    "number",
    "octal",
    "optional",
    "share",
    "size",
    "spell_duration",
    "spell_octal",
    "spell_share",
    "spell_size",
    "spell_switch",
    "spell_unlimited",
    "switch",
    "unlimited",
]

Reader = Callable[[str], object]

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|m|h|)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
# poll(2) counts milliseconds in a signed int: 24.8 days are the longest wait there is.
_LONGEST: Final = 24 * 86_400.0

_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGT]?)", re.ASCII)
_BYTES: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_LARGEST: Final = 1024**4

_SWITCHES: Final = {"on": True, "true": True, "yes": True, "1": True} | {
    "off": False, "false": False, "no": False, "0": False
}  # fmt: skip

_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_ZERO: Final = re.compile(r"0+(?:\.0+)?(?:ms|s|m|h|[KMGT]|)", re.ASCII | re.IGNORECASE)
# Not "1": that is one request to gunicorn, and everything to others.
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%|(0|0?\.[0-9]{1,8}|1\.0)", re.ASCII)
_OCTAL: Final = re.compile(r"(?:0o)?([0-7]{1,6})", re.ASCII)


def duration(*, least: float = 0.0) -> Callable[[str], float]:
    """Seconds as a float, from ``250ms``, ``30s``, ``5m``, ``1h`` or a bare number of seconds."""
    expected = f"a duration such as 250ms, 30s, 5m or plain seconds, from {spell_duration(least)} to 24 days"

    def read(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise ValueError(expected)
        seconds = float(found[1]) * _SECONDS[found[2]]
        if not least <= seconds <= _LONGEST:
            raise ValueError(expected)
        return seconds

    return read


def size(*, least: int, most: int = _LARGEST) -> Callable[[str], int]:
    """Bytes as an int, from ``4096``, ``64K``, ``256M`` or ``1G`` (powers of 1024, either case)."""
    expected = f"a size such as 64K, 256M or plain bytes, from {spell_size(least)} to {spell_size(most)}"

    def read(text: str) -> int:
        found = _SIZE.fullmatch(text.upper())
        if found is None:
            raise ValueError(expected)
        value = int(found[1]) * _BYTES[found[2]]
        if not least <= value <= most:
            raise ValueError(expected)
        return value

    return read


def number(least: int, most: int) -> Callable[[str], int]:
    """A decimal number within bounds."""
    expected = f"a number from {least} to {most}"

    def read(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
            raise ValueError(expected)
        return int(text)

    return read


def share(text: str) -> float:
    """A part of a whole from 0.0 to 1.0, written ``10%`` or ``0.1``."""
    found = _SHARE.fullmatch(text)
    value = 2.0 if found is None else float(found[1]) / 100 if found[1] else float(found[2])
    if value > 1.0:
        raise ValueError("a share such as 10% or 0.1, from 0% to 100%")
    return value


def octal(most: int) -> Callable[[str], int]:
    """Permission bits, written in octal: ``0660``, ``660`` or ``0o660``."""
    expected = f"octal digits from 0 to 0{most:o}, as chmod(1) takes them"

    def read(text: str) -> int:
        found = _OCTAL.fullmatch(text)
        if found is None or int(found[1], 8) > most:
            raise ValueError(expected)
        return int(found[1], 8)

    return read


def choice(*words: str) -> Callable[[str], str]:
    """One of a few words, spelled exactly."""
    expected = f"{', '.join(words[:-1])} or {words[-1]}"

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(expected)
        return text

    return read


def switch(text: str) -> bool:
    """``on`` or ``off``, also ``true``, ``yes``, ``1`` and their opposites, in either case."""
    if text.lower() not in _SWITCHES:
        raise ValueError("on or off")
    return _SWITCHES[text.lower()]


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """Text that matches the whole pattern, unchanged."""
    compiled = re.compile(pattern)

    def read(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(expected)
        return text

    return read


def checked(judge: Callable[[str], object]) -> Callable[[str], str]:
    """Text that ``judge`` does not object to, unchanged."""

    def read(text: str) -> str:
        judge(text)
        return text

    return read


def network(*words: str) -> Callable[[str], str]:
    """An address or a network, as written, or one of these words."""
    others = "".join(f", or {word}" for word in words)
    expected = f"an address or a network, as 10.0.0.7, 10.0.0.0/8 or fd00::/8{others}"

    def read(text: str) -> str:
        try:
            if text not in words:
                ipaddress.ip_network(text)
            return text
        except ValueError:
            raise ValueError(expected) from None

    return read


def optional(read: Reader) -> Reader:
    """What ``read`` takes, or ``off``, which gives ``None``."""

    def read_or_off(text: str) -> object:
        if text == "off":
            return None
        try:
            return read(text)
        except ValueError as problem:
            raise ValueError(f"{problem}, or off") from None

    return read_or_off


def limit(read: Reader) -> Reader:
    """What ``read`` takes, or ``off`` or a zero of any unit, which give ``None``."""
    read_or_off = optional(read)

    def read_or_none(text: str) -> object:
        return None if _ZERO.fullmatch(text) else read_or_off(text)

    return read_or_none


def unlimited(read: Callable[[str], int]) -> Callable[[str], int]:
    """What ``read`` takes, or ``unlimited`` (or -1), which gives -1."""

    def read_or_unlimited(text: str) -> int:
        if text in ("unlimited", "-1"):
            return -1
        try:
            return read(text)
        except ValueError as problem:
            raise ValueError(f"{problem}, or unlimited") from None

    return read_or_unlimited


def spell_duration(seconds: float) -> str:
    """The shortest way to write a duration: ``25s``, ``250ms``, ``5m``."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:.12g}ms"
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:.12g}m"
    return f"{seconds:.12g}s"


def spell_share(value: float) -> str:
    """As a percentage: ``10%``."""
    return f"{value * 100:.12g}%"


def spell_octal(value: int) -> str:
    """As chmod(1) takes it: ``0660``."""
    return f"{value:04o}"


def spell_switch(value: bool) -> str:
    """``on`` or ``off``."""
    return "on" if value else "off"


def spell_size(value: int) -> str:
    """The shortest way to write a size: ``64K``, ``256M``, ``1000``."""
    unit = next((unit for unit, factor in reversed(_BYTES.items()) if value and value % factor == 0), "")
    return f"{value // _BYTES[unit]}{unit}"


def spell_unlimited(value: int) -> str:
    """A size, or ``unlimited`` for -1."""
    return "unlimited" if value == -1 else spell_size(value)
