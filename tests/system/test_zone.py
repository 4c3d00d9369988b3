"""The zone of the server: found as the C library finds it, and kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from prefork.system.zone import in_zone, keep_zone, show_time

SUMMER, WINTER = 1_690_000_000, 1_700_000_000


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    keep_zone.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    keep_zone.cache_clear()


def enter(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    if name is None:
        monkeypatch.delenv("TZ", raising=False)
    else:
        monkeypatch.setenv("TZ", name)
    time.tzset()


@pytest.mark.parametrize(
    "name",
    [
        *(None, "", "UTC", "Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Asia/Kolkata", "EST5EDT"),
        *("CET-1CEST", "no/such", "America", "/etc/passwd"),
    ],
)
def test_as_the_c_library_has_it(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """However it is written, and in summer as in winter; what has no file is left to the process."""
    enter(monkeypatch, name)
    for moment in (SUMMER, WINTER):
        there = time.localtime(moment)
        assert show_time(moment, "%F %T %z %s %%s") == time.strftime(f"%F %T %z {moment} %%s", there)
        assert in_zone(moment) == datetime.fromtimestamp(moment, UTC)
    assert (keep_zone() is None) is (name in ("CET-1CEST", "no/such", "America", "/etc/passwd"))


def test_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that changes its zone, as Django does, changes no line of ours."""
    enter(monkeypatch, "Europe/Berlin")
    keep_zone()
    enter(monkeypatch, "America/New_York")
    assert time.localtime(SUMMER).tm_gmtoff == -4 * 3600
    assert (show_time(SUMMER, "%z"), show_time(WINTER, "%z")) == ("+0200", "+0100")
