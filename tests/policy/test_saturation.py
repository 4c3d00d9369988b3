"""Episodes of a full listen queue, and of workers that are all busy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NAME, NOW, pool_of, states_of, worker_of
from prefork.policy.model import (
    RUNNING,
    Action,
    Phase,
    PoolMemory,
    PoolView,
    QueueEnded,
    QueueFull,
    SampleStacks,
    Saturated,
    Saturation,
    SaturationEnded,
)
from prefork.policy.roster import Roster
from prefork.policy.saturation import EPISODES_A_MINUTE, LASTS, RunningRequest, describe, watch, watch_workers

IN_EPISODE = PoolMemory(failures=3, full_since=NOW - 4, full_seen=NOW - 1, full_peak=12)


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
    assert describe(running + others[:1])[5:] == ["1 other"]
    assert describe([]) == []


# workers


def at_work(waiting: int | None, *, idle: int = 0, **changes: Any) -> PoolView:
    """Three workers, all of them busy but so many, and so many connections that wait."""
    workers = [worker_of(slot) for slot in range(3)]
    states = states_of(workers, dict.fromkeys(range(3 - idle), RUNNING))
    return pool_of(*workers, states=states, waiting=waiting, **changes)


def watched(pool: PoolView, memory: PoolMemory, now: float = NOW) -> tuple[PoolMemory, tuple[Action, ...]]:
    return watch_workers(pool, Roster(pool, now), memory, now)


class Story:
    """A pool as it is looked at, one moment after the other."""

    def __init__(self, memory: PoolMemory | None = None) -> None:
        self.memory = PoolMemory(failures=3) if memory is None else memory

    def look(self, after: float, waiting: int | None, **changes: Any) -> tuple[Action, ...]:
        self.memory, actions = watched(at_work(waiting, **changes), self.memory, NOW + after)
        assert replace(self.memory, saturation=Saturation()) == PoolMemory(failures=3)
        return actions


@pytest.mark.parametrize(
    "pool",
    [
        at_work(0),
        at_work(None),
        at_work(4, idle=1),
        at_work(4, max_children=4),
        at_work(4, phase=Phase.DRAINING),
        at_work(4, phase=Phase.BOOTING),
    ],
)
def test_what_is_no_saturation(pool: PoolView) -> None:
    """Nobody waits, or nobody knows; somebody is idle; there is room; the server does not serve."""
    assert watched(pool, PoolMemory(failures=3)) == (PoolMemory(failures=3), ())


def test_an_episode_of_all_workers() -> None:
    """Told when it has lasted a tenth of a second, looked at again, and told when nobody has waited for a second."""
    story = Story()
    assert story.look(0, 4, phase=Phase.RELOADING) == ()
    assert story.look(0.05, 6) == ()
    assert story.look(0.11, 5) == (Saturated(NAME, 5, 100, 3, since=NOW, peak=6),)
    assert story.look(1.0, 9) == ()
    assert story.look(1.12, 2) == (SampleStacks(NAME, peak=9, full_for=0.0),)
    assert story.look(2.0, 2) == ()
    assert story.look(2.9, 0) == ()
    assert story.memory.saturation.since == NOW
    assert story.look(3.0, 0) == (SaturationEnded(NAME, 2.0, 9, 100, 3),)
    assert story.look(3.1, 0) == ()
    assert story.memory.saturation == Saturation(minute=NOW + 0.11, told=1)


def test_a_moment_is_no_episode() -> None:
    """It ends without a word, and leaves nothing."""
    story = Story()
    for after in (0.0, 0.2, 0.4):
        assert story.look(after, 4) == ()
        assert story.look(after + 0.09, 4) == ()
        assert story.look(after + 0.1, 0) == ()
        assert story.memory == PoolMemory(failures=3)


def test_one_that_goes_on_and_off_is_one() -> None:
    """The queue may vanish for less than a second; also by a worker that is idle for a moment."""
    story = Story()
    story.look(0, 4)
    assert len(story.look(0.1, 4)) == 1
    for after in (0.9, 1.7, 2.5):
        assert story.look(after, 0) == ()
        assert story.look(after + 0.1, 4, idle=1) == ()
        assert len(story.look(after + 0.19, 4)) <= 1
    (ended,) = story.look(3.75, 0)
    assert isinstance(ended, SaturationEnded)
    assert ended.lasted == pytest.approx(2.69)


def test_stacks_are_looked_at_less_and_less_often() -> None:
    """After 1, 3, 10 and 30 s, and then twice a minute."""
    story = Story()
    looked = []
    for step in range(3_000):
        after = step / 20
        if any(isinstance(action, SampleStacks) for action in story.look(after, 4)):
            looked.append(after - 0.1)
    assert looked == pytest.approx([1, 3, 10, 30, 60, 90, 120])


def test_how_long_the_queue_was_full() -> None:
    """As it was seen: between two looks that both found it so."""
    story = Story()
    for after, waiting in ((0, 11), (0.125, 12), (0.25, 10), (0.5, 11), (0.75, 11), (1.0, 3)):
        story.look(after, waiting, limit=10)
    assert story.memory.saturation.full_for == 0.375
    assert story.look(2.0, 0, limit=10) == (SaturationEnded(NAME, 1.0, 12, 10, 3, 0.375),)
    unlimited = Story()
    for after in (0.0, 0.125):
        unlimited.look(after, 11, limit=None)
    assert unlimited.look(2, 0, limit=None) == (SaturationEnded(NAME, 0.125, 11, None, 3),)


def test_a_flood_of_episodes_is_counted() -> None:
    """Ten are told in a minute; the next that is, in another minute, says how many there were meanwhile."""
    story = Story()
    told: list[Action] = []
    for number in range(50):
        for after, waiting in ((0.0, 4), (0.1, 4), (0.2, 4), (1.2, 0)):
            told += story.look(number * 1.5 + after, waiting)
    begun = [action for action in told if isinstance(action, Saturated)]
    ended = [action for action in told if isinstance(action, SaturationEnded)]
    assert [action.quiet for action in begun] == [False] * 10 + [True] * 30 + [False] * 10
    assert [action.quiet for action in ended] == [action.quiet for action in begun]
    assert [action.untold for action in begun if not action.quiet] == [0] * 10 + [30] + [0] * 9
    assert [action for action in told if isinstance(action, SampleStacks)] == []


def test_nobody_looks_at_the_stacks_of_an_episode_that_is_only_counted() -> None:
    """However long it lasts."""
    story = Story(PoolMemory(failures=3, saturation=Saturation(minute=NOW, told=EPISODES_A_MINUTE)))
    actions = [action for step in range(800) for action in story.look(step / 20, 4)]
    assert actions == [Saturated(NAME, 4, 100, 3, since=NOW, peak=4, quiet=True)]


@given(
    st.lists(
        st.tuples(st.floats(0.001, 3), st.none() | st.integers(0, 20), st.integers(0, 1), st.none() | st.just(10)),
        max_size=60,
    )
)
def test_whatever_happens_begins_and_ends_in_turn(
    looks: list[tuple[float, int | None, int, int | None]],
) -> None:
    """No end without a begin; numbers that are possible; few that are told, and none that is not counted."""
    story, after = Story(), 0.0
    lasting: Saturated | None = None
    told: list[float] = []
    for pause, waiting, idle, limit in looks:
        after += pause
        for action in story.look(after, waiting, idle=idle, limit=limit):
            if isinstance(action, Saturated):
                assert lasting is None
                assert 0 < action.waiting <= action.peak
                assert NOW + after - action.since >= LASTS
                lasting = action
                told += [] if action.quiet else [after]
            elif isinstance(action, SampleStacks):
                assert lasting is not None
                assert not lasting.quiet
                assert action.peak >= lasting.peak
            else:
                assert isinstance(action, SaturationEnded)
                assert lasting is not None
                assert (action.quiet, action.peak >= lasting.peak) == (lasting.quiet, True)
                assert 0 <= action.full_for <= action.lasted <= after
                lasting = None
    for begin in told:
        assert sum(begin <= at < begin + 60 for at in told) <= 2 * EPISODES_A_MINUTE
