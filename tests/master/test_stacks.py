"""Whose stack is wanted: asked, forced or given up, by a clock of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from master.hands import NOW, Hands, hands_of
from prefork.master import stacks
from prefork.master.stacks import GIVE_UP, PATIENCE, Stacks
from prefork.system.processes import FORCE_SIGNAL, LOOK_SIGNAL
from prefork.system.stacks import Activity, Stack, open_page

SLOT = 3
PID = 4_000
NEVER = float("inf")
ANSWER = b'request 7 r\n  File "/app.py", line 5 in view\n'
FORCED = b'Current thread 0x1 (most recent call first):\n  File "/app.py", line 5 in view\n'


class Bench:
    """The stacks of a pool with one worker, whose part the test plays."""

    def __init__(self, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hands = hands
        self.signals: list[tuple[int, int]] = []
        self.got: list[Stack | None] = []
        self.activity: Activity | None = Activity("S", 1.0)
        monkeypatch.setattr(stacks, "activity", lambda _pid: self.activity)
        self.stacks = Stacks(hands.pool, hands.holdings, lambda pid, number: self.signals.append((pid, number)))
        _, self.end = hands.worker_in(SLOT)
        hands.pool.adopted(SLOT, PID)
        self.page = hands.holdings.pages[SLOT] = open_page()

    def request(self) -> None:
        self.stacks.request(SLOT, self.got.append, NOW)

    def pass_time(self, start: float, end: float) -> None:
        """Look whenever it wants to be looked at, from one moment to another, after NOW."""
        at = NOW + start
        while at <= NOW + end:
            again = self.stacks.tend(at)
            assert again > at
            at = again


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with make(monkeypatch) as made:
        yield made


@contextmanager
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with hands_of() as hands:
        made = Bench(hands, monkeypatch)
        yield made
        made.end.close()


def test_who_is_asked_answers(bench: Bench) -> None:
    """The control page says that it is wanted, a signal that it shall look; what it writes is handed on, whole."""
    assert bench.stacks.tend(NOW) == NEVER
    os.write(bench.page, b"of long ago")
    bench.request()
    assert bench.signals == [(PID, LOOK_SIGNAL)]
    assert os.fstat(bench.page).st_size == 0
    bench.pass_time(0.0, 0.002)
    os.write(bench.page, ANSWER[:20])
    at = bench.stacks.tend(NOW + 0.01)
    os.write(bench.page, ANSWER[20:])
    at = bench.stacks.tend(at)
    assert bench.got == []  # it may go on writing
    assert bench.stacks.tend(at) == NEVER
    (stack,) = bench.got
    assert stack is not None
    assert (stack.number, str(stack), stack.forced) == (7, "/app.py:5 view", False)
    assert bench.signals == [(PID, LOOK_SIGNAL)]


def test_who_asks_meanwhile_gets_the_same(bench: Bench) -> None:
    """One question at a time; each asker is called once."""
    bench.request()
    bench.request()
    os.write(bench.page, ANSWER)
    bench.pass_time(0.0, 0.1)
    assert len(bench.got) == 2
    assert bench.got[0] is bench.got[1] is not None
    assert bench.signals == [(PID, LOOK_SIGNAL)]


def test_who_asks_about_a_worker_that_was_replaced_is_told(bench: Bench) -> None:
    """There is no stack of the one before, and the question about the new one is another."""
    bench.request()
    bench.hands.pool.not_forked(SLOT)
    bench.hands.pool.forked(SLOT, 1, NOW)
    bench.hands.pool.adopted(SLOT, PID + 1)
    bench.request()
    assert bench.got == [None]
    os.write(bench.page, ANSWER)
    bench.pass_time(0.0, 0.1)
    assert [str(stack) for stack in bench.got[1:]] == ["/app.py:5 view"]
    assert bench.signals == [(PID, LOOK_SIGNAL), (PID + 1, LOOK_SIGNAL)]


def test_who_hangs_is_forced(bench: Bench) -> None:
    """After a while of silence, and not before."""
    bench.request()
    bench.pass_time(0.0, PATIENCE - 0.001)
    assert bench.signals == [(PID, LOOK_SIGNAL)]
    bench.pass_time(PATIENCE, PATIENCE)
    assert bench.signals[1:] == [(PID, FORCE_SIGNAL)]
    os.write(bench.page, FORCED)
    bench.pass_time(PATIENCE, PATIENCE + 0.1)
    (stack,) = bench.got
    assert stack is not None
    assert (stack.forced, str(stack)) == (True, "/app.py:5 view")


def test_who_runs_and_does_not_answer_is_forced(bench: Bench) -> None:
    """It had a processor all the time: what it does there is C."""
    bench.activity = Activity("R", 1.0)
    bench.request()
    bench.activity = Activity("R", 1.0 + PATIENCE)
    bench.pass_time(0.0, PATIENCE)
    assert bench.signals[1:] == [(PID, FORCE_SIGNAL)]


def test_who_has_no_processor_is_waited_for(bench: Bench) -> None:
    """Its answer may come as soon as it runs; by force, its frames might be read in the midst of a change."""
    bench.activity = Activity("R", 1.0)
    bench.request()
    bench.pass_time(0.0, 1.5)
    assert (bench.signals, bench.got) == ([(PID, LOOK_SIGNAL)], [])
    os.write(bench.page, ANSWER)
    bench.pass_time(1.5, 1.7)
    assert len(bench.got) == 1
    assert bench.got[0] is not None


@pytest.mark.parametrize(
    ("activity", "after"),
    [
        (Activity("T", 1.0), PATIENCE),  # stopped: both signals would come at once when it goes on
        (Activity("Z", 1.0), PATIENCE),
        (None, PATIENCE),
        (Activity("R", 1.0), 2.1),
    ],
)
def test_who_cannot_answer_is_given_up(bench: Bench, activity: Activity | None, after: float) -> None:
    """And never forced."""
    bench.activity = activity
    bench.request()
    bench.pass_time(0.0, after)
    assert (bench.got, bench.signals) == ([None], [(PID, LOOK_SIGNAL)])
    assert bench.stacks.tend(NOW + after) == NEVER


def test_who_is_not_even_moved_by_force_is_given_up(bench: Bench) -> None:
    """In the kernel, uninterruptibly."""
    bench.request()
    bench.pass_time(0.0, PATIENCE + GIVE_UP - 0.001)
    assert bench.got == []
    bench.pass_time(PATIENCE + GIVE_UP, PATIENCE + GIVE_UP + 0.001)
    assert bench.got == [None]


def test_who_has_no_processor_when_it_is_forced_is_waited_for(bench: Bench) -> None:
    """The signal is delivered when it runs; not for ever."""
    bench.request()
    bench.activity = Activity("R", 2.0)
    bench.pass_time(0.0, PATIENCE)
    assert bench.signals[1:] == [(PID, FORCE_SIGNAL)]
    assert SLOT in bench.stacks.sought
    bench.pass_time(PATIENCE, 1.5)
    assert bench.got == []
    os.write(bench.page, FORCED)
    bench.pass_time(1.5, 1.7)
    assert [str(stack) for stack in bench.got] == ["/app.py:5 view"]
    assert SLOT not in bench.stacks.sought
    bench.activity = Activity("S", 2.0)
    bench.request()
    bench.activity = Activity("R", 3.0)
    bench.pass_time(0.0, 2.0)
    assert bench.got[1:] == []
    bench.pass_time(2.0, 2.3)
    assert bench.got[1:] == [None]


def test_who_never_ceases_to_write_is_read_all_the_same(bench: Bench) -> None:
    """What there is after two seconds."""
    bench.request()
    at = NOW
    while not bench.got:
        os.write(bench.page, ANSWER)
        at = bench.stacks.tend(at)
        assert at < NOW + 3 or bench.got
    (stack,) = bench.got
    assert stack is not None
    assert str(stack) == "/app.py:5 view"


def test_who_ends_meanwhile_has_no_stack(bench: Bench) -> None:
    """Nor has its successor in the slot, who was never asked."""
    bench.request()
    bench.hands.pool.ended(PID, expected=False)
    bench.hands.holdings.free_slot(SLOT)
    bench.pass_time(0.0, 0.01)
    assert bench.got == [None]
    bench.hands.holdings.prepare_slot(SLOT)
    bench.hands.pool.forked(SLOT, 1, NOW)
    bench.hands.pool.adopted(SLOT, PID + 1)
    bench.hands.holdings.open_page(SLOT)
    bench.request()
    bench.hands.pool.ended(PID + 1, expected=False)
    bench.hands.pool.forked(SLOT, 1, NOW)
    bench.hands.pool.adopted(SLOT, PID + 2)
    os.write(bench.hands.holdings.pages[SLOT], ANSWER)
    bench.pass_time(0.0, 0.01)
    assert bench.got == [None, None]


@pytest.mark.parametrize("slot", [SLOT + 1, SLOT + 2])
def test_nobody_has_no_stack(bench: Bench, slot: int) -> None:
    """A slot without a worker, and one whose worker is not known yet."""
    bench.hands.pool.forked(SLOT + 2, 1, NOW)
    bench.hands.holdings.open_page(SLOT + 2)
    bench.stacks.request(slot, bench.got.append, NOW)
    assert (bench.got, bench.signals, bench.stacks.tend(NOW)) == ([None], [], NEVER)
