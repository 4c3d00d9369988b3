"""How long requests may take: tables of single looks, and whole lives of requests on a simulated clock."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.views import NAME, NOW, decide, pool_of, worker_of
from prefork.policy.deadlines import AGAIN, LAST_LOOK, LONGEST_LOOK, LOOK_EVERY, STACKS_A_SECOND, is_due, watch
from prefork.policy.model import (
    Action,
    DumpStack,
    Kill,
    Limits,
    Overdue,
    Phase,
    PoolMemory,
    PoolView,
    Retire,
    Rules,
    Running,
    SignalRetired,
    SlowUnseen,
    TimeOut,
)

NUMBER = 7
ALL: dict[str, Any] = {"slow": 10.0, "soft": 20.0, "hard": 30.0}
NEVER = math.inf


def look(
    *requests: Running, done: Iterable[tuple[int, Overdue]] = (), workers: int = 1, **limits: float | None
) -> tuple[Limits, Any, Any]:
    """One look at a pool that runs these requests: what is remembered, done, and when to look again, from now on."""
    pool = pool_of(*(worker_of(slot) for slot in range(workers)), running=requests, **limits)
    memory, actions, at = watch(pool, PoolMemory(failures=3, limits=Limits(dict(done))), NOW)
    assert memory.failures == 3
    assert memory.limits.look_at == at
    return memory.limits, actions, round(at - NOW, 6)


def running(age: float, *, slot: int = 0, number: int = NUMBER, extended: float = 0.0, sought: bool = False) -> Running:
    return Running(slot, number, NOW - age, extended, sought)


DUMP, LAST, STOP = DumpStack(NAME, 0, NUMBER), DumpStack(NAME, 0, NUMBER, last=True), TimeOut(NAME, 0, NUMBER)
END = Kill(NAME, 0, "request_terminate_timeout (30 s)", NUMBER)


@pytest.mark.parametrize(
    ("age", "extended", "limits", "actions", "again"),
    [
        # nothing is due; the next look is when something may be
        (0.0, 0.0, ALL, [], 10.0),
        (9.5, 0.0, ALL, [], 0.5),
        (9.999, 0.0, ALL, [], 0.1),
        (9.0, 0.0, {"soft": 20.0}, [], 11.0),
        (9.0, 0.0, {"hard": 30.0}, [], 30.0 - 9.0 - LAST_LOOK),
        # slow
        (10.0, 0.0, ALL, [DUMP], 10.0),
        (10.0, 0.0, {"slow": 10.0}, [DUMP], 10.0),
        # stopped
        (20.0, 0.0, {"soft": 20.0}, [STOP], 1.0),
        (20.0, 0.0, ALL, [DUMP, STOP], 1.0),
        # ended: the stack comes first
        (29.6, 0.0, {"hard": 30.0}, [LAST], LAST_LOOK),
        (29.9, 0.0, {"hard": 30.0}, [LAST], LAST_LOOK),
        (99.0, 0.0, {"hard": 30.0}, [LAST], LAST_LOOK),
        (99.0, 0.0, ALL, [LAST, DUMP, STOP], LAST_LOOK),
        (0.0, 0.0, {"hard": 0.4}, [], 0.2),
        (0.2, 0.0, {"hard": 0.4}, [LAST], 0.2),
        # more time was asked for: each limit is that much later
        (20.0, 15.0, ALL, [], 5.0),
        (25.0, 15.0, ALL, [DUMP], 10.0),
        (99.0, 1e300, ALL, [], 10.0),
        # what cannot be is no extension
        (20.0, -5.0, {"soft": 20.0}, [STOP], 1.0),
        (20.0, math.nan, {"soft": 20.0}, [STOP], 1.0),
        (20.0, math.inf, {"soft": 20.0}, [STOP], 1.0),
    ],
)
def test_one_look(age: float, extended: float, limits: dict[str, Any], actions: list[Action], again: float) -> None:
    """At a request about which nothing was done so far."""
    assert look(running(age, extended=extended), **limits)[1:] == (actions, pytest.approx(again))


@pytest.mark.parametrize(
    ("age", "done", "limits", "actions", "again"),
    [
        # that it is slow is shown once
        (11.0, Overdue(NUMBER, 0.0, shown=True), ALL, [], 9.0),
        # stopped: again every second
        (20.5, Overdue(NUMBER, 0.0, told=NOW - 0.5), {"soft": 20.0}, [], 0.5),
        (21.0, Overdue(NUMBER, 0.0, told=NOW - AGAIN), {"soft": 20.0}, [STOP], 1.0),
        # ended: a while after its stack was asked for, and at its time
        (29.8, Overdue(NUMBER, 0.0, ending=NOW - 0.2), {"hard": 30.0}, [], 0.2),
        (30.1, Overdue(NUMBER, 0.0, ending=NOW - 0.2), {"hard": 30.0}, [], 0.2),
        (30.0, Overdue(NUMBER, 0.0, ending=NOW - LAST_LOOK), {"hard": 30.0}, [END], 30.0 - LAST_LOOK),
        (30.0, Overdue(NUMBER, 0.0, ending=NOW - LAST_LOOK), ALL, [END], 10.0),
        (31.0, Overdue(NUMBER, 0.0, ending=NOW - 1, killed=True), ALL, [], 10.0),
        # the time that was asked for meanwhile counts, also for one whose end was near
        (30.0, Overdue(NUMBER, 0.0, ending=NOW - LAST_LOOK), {"hard": 40.0}, [], 10.0 - LAST_LOOK),
        # what was done about another request in the slot says nothing about this one
        (10.0, Overdue(NUMBER - 1, 0.0, shown=True, told=NOW, killed=True), ALL, [DUMP], 10.0),
        (1.0, Overdue(NUMBER - 1, 0.0, shown=True, told=NOW, killed=True), ALL, [], 9.0),
    ],
)
def test_another_look(age: float, done: Overdue, limits: dict[str, Any], actions: list[Action], again: float) -> None:
    """At a request about which something was done, or at its successor."""
    assert look(running(age), done=[(0, done)], **limits)[1:] == (actions, pytest.approx(again))


@pytest.mark.parametrize(
    ("asked", "sought", "actions", "again"),
    [
        (0.2, True, [], LAST_LOOK - 0.2),
        (LAST_LOOK, True, [], LOOK_EVERY),
        (LONGEST_LOOK - 0.05, True, [], 0.1),
        (LONGEST_LOOK, True, [END], 30.0 - LAST_LOOK),
        (LAST_LOOK, False, [END], 30.0 - LAST_LOOK),
    ],
)
def test_the_end_waits_for_the_last_stack(asked: float, sought: bool, actions: list[Action], again: float) -> None:
    """While it is sought, within reason: a worker that gets no processor cannot show it at once."""
    done = Overdue(NUMBER, 0.0, ending=NOW - asked)
    assert look(running(31.0, sought=sought), done=[(0, done)], hard=30.0)[1:] == (actions, pytest.approx(again))


def test_what_is_remembered() -> None:
    """Only of requests about which something was done; of those that have ended, nothing."""
    kept = Overdue(NUMBER, seen=NOW - 5, shown=True)
    remembered, _, _ = look(
        running(11.0), running(1.0, slot=1), done=[(0, kept), (1, kept), (2, kept)], workers=3, **ALL
    )
    assert remembered.requests == {0: kept, 1: kept}
    remembered, _, _ = look(running(11.0), running(1.0, slot=1), workers=2, **ALL)
    assert remembered.requests == {0: Overdue(NUMBER, seen=NOW, shown=True)}
    assert look(done=[(0, kept)], **ALL)[0].requests == {}


@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, 0.0, NOW + 1, NOW - 101, 1e308, -1e308])
def test_a_start_that_cannot_be_is_when_it_was_first_seen(since: float) -> None:
    """Neither does a liar live for ever, nor is a worker killed for a request older than itself."""
    request = Running(0, NUMBER, since, 0.0)
    remembered, actions, _ = look(request, hard=30.0)
    assert (actions, remembered.requests) == ([], {0: Overdue(NUMBER, seen=NOW)})
    actions = look(request, done=[(0, Overdue(NUMBER, seen=NOW - 29.0))], hard=30.0)[1]
    assert actions == []
    assert look(request, done=[(0, Overdue(NUMBER, seen=NOW - 30.0))], hard=30.0)[1] == [LAST]


def test_nobody_is_asked_who_is_not_there() -> None:
    """A slot without a worker, or with one that has not been seen yet."""
    assert look(running(99.0, slot=5), **ALL)[1] == []
    pool = pool_of(worker_of(0, pid=0), running=(running(99.0),), **ALL)
    assert watch(pool, PoolMemory(), NOW)[1] == []


# when there is nothing to look at


@pytest.mark.parametrize("phase", [Phase.KILLING, Phase.ENDED])
def test_nobody_is_timed_who_is_being_killed(phase: Phase) -> None:
    """The end is near anyway."""
    pool = replace(pool_of(worker_of(), running=(running(99.0),), **ALL), phase=phase)
    assert watch(pool, PoolMemory(), NOW) == (PoolMemory(), [], NEVER)


def test_without_limits_nobody_looks() -> None:
    """Neither asks for what runs, nor plans to."""
    pool = pool_of(worker_of(), running=(running(99.0),))
    assert watch(pool, PoolMemory(), NOW) == (PoolMemory(), [], NEVER)
    assert not is_due(Rules(), PoolMemory(), NOW)


def test_between_two_looks_nothing_is_done() -> None:
    """What was not looked at is not judged, and nothing is forgotten."""
    memory = PoolMemory(limits=Limits({0: Overdue(NUMBER, 0.0)}, (10.0, 20.0, 30.0), NOW + 5))
    assert watch(pool_of(worker_of(), **ALL), memory, NOW) == (memory, [], NOW + 5)


@pytest.mark.parametrize(
    ("limits", "look_at", "due"),
    [
        ((10.0, None, None), NOW + 0.1, False),
        ((10.0, None, None), NOW, True),
        ((), NOW + 100, True),  # never looked
        ((None, 10.0, None), NOW + 100, True),  # the limits were changed by a reload
    ],
)
def test_when_to_look(limits: tuple[float | None, ...], look_at: float, due: bool) -> None:
    """When something may be due, and when the limits are others."""
    assert is_due(Rules(slow=10.0), PoolMemory(limits=Limits(limits=limits, look_at=look_at)), NOW) is due


def test_a_thousand_requests_are_looked_at_more_seldom() -> None:
    """The master's time is bounded: some three looks a second."""
    workers = [worker_of(slot) for slot in range(1_000)]
    pool = replace(pool_of(workers[0], **ALL), workers=tuple(workers))
    requests = tuple(running(9.999, slot=slot) for slot in range(1_000))
    for count, pause in ((1_000, 0.3), (10, LOOK_EVERY)):
        _, _, at = watch(replace(pool, running=requests[:count]), PoolMemory(), NOW)
        assert at - NOW == pytest.approx(pause)


# many slow requests at once


def test_so_many_stacks_a_second() -> None:
    """The others are counted and told when the second is over, whatever happens then; the next second has its own."""
    count = STACKS_A_SECOND + 5
    workers = [worker_of(slot) for slot in range(2 * count)]
    memory, told = PoolMemory(), []
    slow = tuple(running(10.0, slot=slot) for slot in range(count))
    for after, more in ((0.0, ()), (0.5, (running(9.5, slot=count),)), (1.0, ())):
        pool = pool_of(*workers, running=slow + more, **ALL)
        memory, actions, at = watch(pool, memory, NOW + after)
        told.append((sum(isinstance(action, DumpStack) for action in actions), actions[-1:], round(at - NOW, 3)))
    assert told[0][::2] == (STACKS_A_SECOND, 1.0)
    assert told[1][::2] == (0, 1.0)
    assert told[2][:2] == (0, [SlowUnseen(NAME, 6)])
    another = tuple(running(8.0, slot=slot) for slot in range(count, 2 * count))
    memory, actions, _ = watch(pool_of(*workers, running=another, **ALL), memory, NOW + 2.0)
    assert sum(isinstance(action, DumpStack) for action in actions) == STACKS_A_SECOND


def test_a_second_that_nobody_looked_at_is_told_with_the_next_slow_request() -> None:
    """Before its stack is asked for."""
    memory = PoolMemory(limits=Limits(second=NOW - 5, stacks=STACKS_A_SECOND, unseen=3))
    _, actions, _ = watch(pool_of(worker_of(), running=(running(10.0),), **ALL), memory, NOW)
    assert actions == [SlowUnseen(NAME, 3), DUMP]


# in the whole plan


def test_the_plan_looks_and_wakes() -> None:
    """Its actions are the plan's, and it is awake when the next is due."""
    decision = decide(pool_of(worker_of(), running=(running(19.8),), **ALL))
    assert decision.actions == (DUMP,)
    assert decision.wake_at == pytest.approx(NOW + 0.2)


def test_who_is_killed_is_asked_for_nothing_else() -> None:
    """Not even to leave."""
    worker = worker_of(retired=NOW - 5)
    done = {0: Overdue(NUMBER, 0.0, ending=NOW - 1)}
    pool = pool_of(worker, running=(running(31.0),), hard=30.0)
    decision = decide(pool, memory=PoolMemory(limits=Limits(done, (None, None, 30.0))))
    assert [action for action in decision.actions if isinstance(action, Kill | SignalRetired | Retire)] == [END]


# whole lives


@dataclass
class Life:
    """One request: where, when, how long, and when it asks for how much more time."""

    slot: int
    begin: float
    length: float
    asks: float
    more: float


@dataclass
class Deed:
    """What was done about a request, when, and how old it was, less what it had asked for."""

    what: str
    at: float
    age: float


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    """One request after the other in each of three slots."""
    found = []
    for slot in range(3):
        at = NOW + draw(st.floats(0.0, 3.0))
        for _ in range(draw(st.integers(1, 4))):
            length = draw(st.sampled_from([0.01, 0.5, 1.0, 3.0, 8.0]) | st.floats(0.0, 8.0))
            found.append(Life(slot, at, length, draw(st.floats(0.0, 8.0)), draw(st.sampled_from([0.0, 0.7, 3.0]))))
            at += length + draw(st.floats(0.001, 2.0))
    return found


_LIMIT = st.none() | st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0])


@given(lives(), _LIMIT, _LIMIT, _LIMIT, st.floats(0.0, 0.3))
def test_lives(requests: list[Life], slow: float | None, soft: float | None, hard: float | None, late: float) -> None:
    """Whatever runs: nothing happens to a request before its time or after its end, and all that is due happens."""
    workers = [worker_of(slot) for slot in range(3)]
    memory, now = PoolMemory(), NOW
    done: dict[tuple[int, int], list[Deed]] = {}
    ended: set[tuple[int, int]] = set()  # by us
    end = max(life.begin + life.length for life in requests) + 2.0
    while now < end:
        living = {}
        for number, life in enumerate(requests, 1):
            key = (life.slot, number)
            if life.begin <= now < life.begin + life.length and key not in ended:
                living[key] = Running(life.slot, number, life.begin, life.more if now >= life.begin + life.asks else 0)
        rules = {"slow": slow, "soft": soft, "hard": hard}
        view: PoolView = pool_of(*workers, **rules)
        if is_due(view.rules, memory, now):
            view = replace(view, running=tuple(living.values()))
        memory, actions, at = watch(view, memory, now)
        for action in actions:
            assert isinstance(action, DumpStack | TimeOut | Kill)
            key = (action.slot, action.number)
            assert key in living
            what = type(action).__name__ + ("+" if isinstance(action, DumpStack) and action.last else "")
            age = now - living[key].since - living[key].extended
            done.setdefault(key, []).append(Deed(what, now, age))
            if isinstance(action, Kill):
                ended.add(key)
        assert at > now
        now = min(at, now + 1.0) + late
    for number, life in enumerate(requests, 1):
        _judge(life, done.get((life.slot, number), []), (slow, soft, hard), late)


def _judge(
    life: Life,
    done: list[Deed],
    limits: tuple[float | None, float | None, float | None],
    late: float,
) -> None:
    slow, soft, hard = (NEVER if limit is None else limit for limit in limits)
    shown, last, told, killed = (
        [deed for deed in done if deed.what == wanted] for wanted in ("DumpStack", "DumpStack+", "TimeOut", "Kill")
    )
    # Never too early, and each as often as it should be.
    assert all(deed.age >= slow - 1e-9 for deed in shown)
    assert all(deed.age >= soft - 1e-9 for deed in told)
    assert all(deed.age >= hard - 1e-9 for deed in killed)
    pauses = [after.at - before.at for before, after in itertools.pairwise(told)]
    assert all(pause >= AGAIN - 1e-9 for pause in pauses)
    assert (len(shown) <= 1, len(killed) <= 1) == (True, True)
    assert not killed or last[-1].at <= killed[0].at - LAST_LOOK + 1e-9
    # Never later than two looks, for a request that lasts so long and asks for nothing.
    if life.more == 0.0:
        margin = 2 * (LOOK_EVERY + late) + 1e-9
        lived = life.length if not killed else killed[0].age
        assert shown or lived <= slow + margin
        assert told or lived <= soft + margin
        assert killed or lived <= hard + LAST_LOOK + margin
        assert all(pause <= AGAIN + margin for pause in pauses)
