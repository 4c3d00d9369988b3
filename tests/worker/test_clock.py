"""The Date field."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from prefork.worker.clock import HttpDate


@pytest.mark.parametrize("second", [0.0, 86_399.9, 951_782_400.5, 4_102_444_799.0])
def test_the_format(monkeypatch: pytest.MonkeyPatch, second: float) -> None:
    """As the standard library writes it, for the first day, a leap day and the last second of a century."""
    monkeypatch.setattr(time, "time", lambda: second)
    assert HttpDate().now() == formatdate(int(second), usegmt=True)


def test_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made anew with every second, and only then."""
    now = 10.0
    monkeypatch.setattr(time, "time", lambda: now)
    date = HttpDate()
    first = date.now()
    now = 10.9
    assert date.now() is first
    now = 11.0
    assert date.now() == formatdate(11, usegmt=True)
