"""Episodes of a full listen queue."""

from __future__ import annotations

from typing import Any

import pytest

from policy.views import NAME, NOW, pool_of, states_of, worker_of
from prefork.policy.model import (
    FINISHING,
    FREE,
    IDLE,
    READING,
    RETIRING,
    RUNNING,
    STARTING,
    WRITING,
    Action,
    PoolMemory,
    QueueEnded,
    QueueFull,
)
from prefork.policy.saturation import RunningRequest, describe, everyone_busy, watch

IN_EPISODE = PoolMemory(failures=3, full_since=NOW - 4, full_seen=NOW - 1, full_peak=12)


@pytest.mark.parametrize("state", [FREE, STARTING, READING, RUNNING, WRITING, FINISHING, RETIRING, 8, 255])
def test_whatever_is_not_idle_is_busy(state: int) -> None:
    """A byte outside the vocabulary counts as busy, which costs a look at the queue and nothing else."""
    worker = worker_of(0)
    assert everyone_busy(pool_of(worker, states=states_of([worker], {0: state})))


@pytest.mark.parametrize(
    ("changes", "of_worker", "busy"),
    [
        ({}, {}, False),
        ({"open": False}, {}, False),
        ({}, {"listening": False}, True),
        ({}, {"retired": NOW}, True),
        ({"states": bytes([RUNNING]) + bytes([IDLE]) * 63}, {}, True),  # a slot without a worker says idle
    ],
)
def test_who_counts_as_idle(changes: dict[str, Any], of_worker: dict[str, Any], busy: bool) -> None:
    """Only a worker that holds the listener, was not asked to leave, and says so; a closed pool has nobody busy."""
    assert everyone_busy(pool_of(worker_of(0, **of_worker), **changes)) is busy


@pytest.mark.parametrize(
    ("waiting", "limit", "before", "after", "reports"),
    [
        # unknown: nothing begins, nothing ends
        (None, 10, PoolMemory(), PoolMemory(), ()),
        (11, None, PoolMemory(), PoolMemory(), ()),
        (None, None, IN_EPISODE, IN_EPISODE, ()),
        # n + 1 connections fit, so a queue that stands at its limit is not full
        (10, 10, PoolMemory(), PoolMemory(), ()),
        (0, 10, PoolMemory(), PoolMemory(), ()),
        # the beginning is reported once
        (11, 10, PoolMemory(), PoolMemory(0, 0.0, NOW, NOW, 11), (QueueFull(NAME, 11, 10),)),
        (11, 10, IN_EPISODE, PoolMemory(3, 0.0, NOW - 4, NOW, 12), ()),
        (13, 10, IN_EPISODE, PoolMemory(3, 0.0, NOW - 4, NOW, 13), ()),
        # the end says how long it was *seen* full: from the first to the last full look
        (10, 10, IN_EPISODE, PoolMemory(3, 0.0, None, NOW - 1, 0), (QueueEnded(NAME, 3.0, 12, 10),)),
        (0, 0, IN_EPISODE, PoolMemory(3, 0.0, None, NOW - 1, 0), (QueueEnded(NAME, 3.0, 12, 0),)),
    ],
)
def test_an_episode(
    waiting: int | None, limit: int | None, before: PoolMemory, after: PoolMemory, reports: tuple[Action, ...]
) -> None:
    """Begins when the queue is seen over its limit, ends when it is not, and leaves the rest of the memory alone."""
    assert watch(pool_of(worker_of(), waiting=waiting, limit=limit), before, NOW) == (after, reports)


def test_two_episodes_do_not_share_a_peak() -> None:
    """What the first saw is forgotten when the second begins."""
    pool = [pool_of(waiting=waiting, limit=1) for waiting in (50, 0, 2, 0)]
    memory = PoolMemory()
    told: list[Action] = []
    for second, view in enumerate(pool):
        memory, reports = watch(view, memory, NOW + second)
        told += reports
    assert told == [
        QueueFull(NAME, 50, 1),
        QueueEnded(NAME, 0.0, 50, 1),
        QueueFull(NAME, 2, 1),
        QueueEnded(NAME, 0.0, 2, 1),
    ]


def test_requests_are_grouped_by_method_and_path() -> None:
    """The largest group first, the query left out, the span of their ages; equal ages are one number."""
    running = [
        RunningRequest("GET", "/orders?id=1", 2.14),
        RunningRequest("POST", "/orders", 0.5),
        RunningRequest("GET", "/orders?id=2", 9.81),
        RunningRequest("GET", "/a", 1.0),
    ]
    assert describe(running) == ["2 × GET /orders, 2.1–9.8 s", "1 × GET /a, 1.0 s", "1 × POST /orders, 0.5 s"]


def test_few_groups_are_shown() -> None:
    """Five lines, and how many others there are; five groups need no sixth line; nothing is nothing."""
    running = [RunningRequest("GET", f"/{number}", 1.0) for number in range(5)]
    others = [RunningRequest("GET", "/x", 1.0), RunningRequest("GET", "/y", 1.0)]
    assert describe(running) == [f"1 × GET /{number}, 1.0 s" for number in range(5)]
    assert describe(running + others)[5:] == ["2 others"]
    assert describe([]) == []
