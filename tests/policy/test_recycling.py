"""Why a worker is due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NOW, worker_of
from prefork.policy.model import Rules
from prefork.policy.recycling import GRACE_FOR_MEMORY, LIFETIME_SPREAD, due

LIMITED = Rules(max_memory=1_000, max_lifetime=60.0)
YOUNG = {"forked": NOW - 13, "ready": NOW - 12}


@pytest.mark.parametrize(
    ("rules", "facts", "reason"),
    [
        (Rules(), {}, ""),
        (Rules(), {"memory": 10**12}, ""),
        (LIMITED, {}, "max_worker_lifetime (60 s)"),
        (LIMITED, YOUNG, ""),
        (LIMITED, {**YOUNG, "memory": 1_000}, ""),
        (LIMITED, {**YOUNG, "memory": 1_001}, "max_memory (1000 bytes): 1001"),
        (LIMITED, {"ready": NOW - 9, "memory": 2_002, "newborn": 1_001}, ""),
        (LIMITED, {"ready": NOW - 9, "memory": 2_002}, ""),
        (LIMITED, {"ready": NOW - 9, "memory": 1_999, "newborn": 1_000}, ""),
        (LIMITED, {"ready": NOW - 9, "memory": 2_000, "newborn": 1_000}, "max_memory (1000 bytes): 2000"),
        (LIMITED, {"ready": NOW - 10, "memory": 1_001, "newborn": 1_001}, "max_memory (1000 bytes): 1001"),
        (LIMITED, {"ready": NOW - 60}, "max_worker_lifetime (60 s)"),
        (LIMITED, {"ready": NOW - 59}, ""),
        (LIMITED, {"ready": NOW - 54, "luck": 1.0}, "max_worker_lifetime (60 s)"),
        (LIMITED, {"ready": None, "forked": NOW - 60}, "max_worker_lifetime (60 s)"),
        (Rules(), {"spent": "max_requests (500)"}, "max_requests (500)"),
        (Rules(), {"stopped": NOW - 1.0}, ""),
        (Rules(), {"stopped": NOW - 1.5}, "stopped for 1.5 s (SIGSTOP)"),
        (LIMITED, {"stopped": NOW - 2, "spent": "enough", "memory": 10**6}, "stopped for 2.0 s (SIGSTOP)"),
        (LIMITED, {"spent": "enough", "memory": 10**6}, "enough"),
    ],
)
def test_each_reason(rules: Rules, facts: dict[str, Any], reason: str) -> None:
    """One that is stopped cannot do anything, then it is heard itself; without a limit nothing is due."""
    assert due(worker_of(0, **facts), rules, NOW) == reason


@given(memory=st.integers(1_001, 1_999), newborn=st.integers(0, 1_999), age=st.floats(0, 20))
def test_a_limit_that_is_too_low_has_a_brake(memory: int, newborn: int, age: float) -> None:
    """What an application needs after its first requests may be a little too much: its workers last a while even so."""
    reason = due(worker_of(0, ready=NOW - age, memory=memory, newborn=newborn), Rules(max_memory=1_000), NOW)
    assert bool(reason) == (NOW - (NOW - age) >= GRACE_FOR_MEMORY)


@given(luck=st.floats(0, 1), age=st.floats(0, 200))
def test_a_lifetime_ends_within_its_last_tenth(luck: float, age: float) -> None:
    """Never after the limit, which is a maximum, and never before nine tenths of it."""
    reason = due(worker_of(0, ready=NOW - age, luck=luck), Rules(max_lifetime=100.0), NOW)
    assert reason or age < 100.0
    assert not reason or age >= 100.0 * (1 - LIFETIME_SPREAD) - 1e-6
