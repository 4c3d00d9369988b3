"""What is done about requests that take too long: signals, events, and who is spared at the last moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from master.hands import NOW, SLOTS, Hands, Recorder, hands_of
from prefork.master import stacks
from prefork.master.deaths import bury
from prefork.policy.model import FINISHING, IDLE, RUNNING, WRITING, DumpStack, Kill, Running, SlowUnseen, TimeOut
from prefork.system.processes import LOOK_SIGNAL
from prefork.system.scoreboard import Slot
from prefork.system.stacks import Activity

SLOT = 3
PID = 4_000
ANSWER = b'request 2 the-id\n  File "/app.py", line 5 in view\n'
REASON = "request_terminate_timeout (30 s)"


@dataclass
class Bench:
    """A pool with one worker, whose part the test plays: it runs the second request of its slot for ten seconds."""

    hands: Hands
    slot: Slot
    signals: list[tuple[int, int, str | None]]

    def perform(self, action: Any, answer: bytes = b"", seconds: float = 0.5) -> None:
        """Do it, and let some time pass in which the worker may answer."""
        self.hands.perform(action, NOW)
        os.write(self.hands.holdings.pages[SLOT], answer)
        at = NOW
        while at <= NOW + seconds:
            at = self.hands.overtime.stacks.tend(at)

    @property
    def log(self) -> Recorder:
        return self.hands.log


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    signals: list[tuple[int, int, str | None]] = []

    def send(_self: Hands, pid: int, number: int, reason: str | None = None) -> None:
        signals.append((pid, number, reason))

    monkeypatch.setattr(Hands, "_send_signal", send)
    with hands_of() as hands:
        held = hands.holdings
        _, end = hands.worker_in(SLOT)
        held.open_page(SLOT)
        hands.pool.adopted(SLOT, PID)
        slot = Slot(SLOT, SLOTS, held.scoreboard.descriptor, held.control.descriptor, -1, 1, IDLE)
        slot.begin(RUNNING, "GET", "/before", NOW - 20)
        slot.begin(RUNNING, "POST", "/slow?a=b", NOW - 10)
        yield Bench(hands, slot, signals)
        end.close()


FACTS = {"method": "POST", "uri": "/slow?a=b", "elapsed": 10.0, "slot": SLOT, "pid": PID, "request": 2}


def test_a_slow_request_is_reported_with_its_stack(bench: Bench) -> None:
    """When it has answered; once."""
    bench.perform(DumpStack("www", SLOT, 2), ANSWER)
    expected = {**FACTS, "request_id": "the-id", "stack": "→ /app.py:5 view"}
    assert bench.log.events == [("warning", "request_slow", expected)]
    assert bench.signals == [(PID, LOOK_SIGNAL, None)]
    assert bench.hands.ledger.slow == 1


def test_a_forced_stack_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of this request: nothing else can have begun."""
    monkeypatch.setattr(stacks, "activity", lambda _pid: Activity("S", 1.0))
    bench.hands.perform(DumpStack("www", SLOT, 2), NOW)
    at = NOW
    while len(bench.signals) < 2:
        at = bench.hands.overtime.stacks.tend(at)
    os.write(bench.hands.holdings.pages[SLOT], b'Current thread\n  File "/app.py", line 5 in view\n')
    while not bench.log.events:
        at = bench.hands.overtime.stacks.tend(at)
    assert bench.log.events == [("warning", "request_slow", {**FACTS, "stack": "→ /app.py:5 view", "forced": True})]


@pytest.mark.parametrize("answer", [b"", ANSWER.replace(b"request 2", b"request 3"), b"request 0 \n"])
def test_a_slow_request_is_reported_without_another_ones_stack(bench: Bench, answer: bytes) -> None:
    """It has ended before the answer, or there was none."""
    bench.perform(DumpStack("www", SLOT, 2), answer, seconds=5)
    assert bench.log.events == [("warning", "request_slow", {**FACTS, "stack": ""})]


def test_a_slow_client_is_told_apart(bench: Bench) -> None:
    """Where the worker's stack has no frame of the application, the event says so: that is no stack unknown."""
    bench.perform(DumpStack("www", SLOT, 2), b"request 2 the-id\n")
    ((_, _, facts),) = bench.log.events
    assert facts.pop("message").startswith("no Python code of the application runs")
    assert facts == {**FACTS, "request_id": "the-id", "stack": ""}


def test_a_slowlog_of_its_own(bench: Bench) -> None:
    """And back in the error log, when a reload takes it away."""
    slowlog = Recorder()
    bench.hands.overtime.report_to(slowlog)  # type: ignore[arg-type]
    bench.perform(DumpStack("www", SLOT, 2), ANSWER)
    bench.perform(SlowUnseen("www", 5))
    assert slowlog.names() == ["request_slow", "requests_slow"]
    assert slowlog.events[1][2]["count"] == 5
    assert bench.hands.ledger.slow == 6
    bench.hands.overtime.report_to(None)
    bench.perform(DumpStack("www", SLOT, 2), ANSWER)
    assert bench.log.names() == ["request_slow"]


@pytest.mark.parametrize(
    "action", [DumpStack("www", SLOT, 2), DumpStack("www", SLOT, 2, last=True), TimeOut("www", SLOT, 2)]
)
@pytest.mark.parametrize("state", [IDLE, FINISHING, RUNNING])
def test_a_request_that_has_ended_is_left_alone(bench: Bench, action: Any, state: int) -> None:
    """Its worker does something else by now, perhaps the next one."""
    if state == RUNNING:
        bench.slot.begin(RUNNING, "GET", "/next", NOW)
    bench.slot.enter(state)
    bench.perform(action)
    assert (bench.log.events, bench.signals, bench.slot.timeout, bench.slot.dump) == ([], [], 0, 0)


@pytest.mark.parametrize("state", [RUNNING, WRITING])
def test_the_worker_is_told_which_request_must_stop(bench: Bench, state: int) -> None:
    """Through the control page, and by a signal; its leaving is expected from then on, and no failure."""
    bench.slot.enter(state)
    bench.perform(TimeOut("www", SLOT, 2))
    assert (bench.slot.timeout, bench.signals) == (2, [(PID, LOOK_SIGNAL, None)])
    assert bury(bench.hands, PID, 0, NOW + 1)
    assert bench.log.names() == ["worker_left"]
    assert [ended.expected for ended in bench.hands.pool._ended] == [True]
    bench.hands.holdings.prepare_slot(SLOT)
    assert bench.slot.timeout == 0
    assert SLOT not in bench.hands.holdings.timed_out


def test_a_worker_is_killed_with_its_last_stack(bench: Bench) -> None:
    """The stack comes with the event of the end, the reason with the signal."""
    bench.perform(DumpStack("www", SLOT, 2, last=True), ANSWER)
    assert bench.log.events == []
    bench.signals.clear()
    bench.hands.perform(Kill("www", SLOT, REASON, 2), NOW + 1)
    facts = {**FACTS, "elapsed": 11.0, "reason": REASON, "stack": "→ /app.py:5 view"}
    assert bench.log.events == [("error", "request_terminated", facts)]
    assert bench.signals == [(PID, signal.SIGKILL, REASON)]


def test_a_worker_is_killed_without_a_stack(bench: Bench) -> None:
    """If there was none to be had, or it was another request's."""
    bench.hands.perform(DumpStack("www", SLOT, 2, last=True), NOW)
    bench.hands.perform(Kill("www", SLOT, REASON, 2), NOW)
    assert bench.log.events[0][2]["stack"] == ""
    bench.slot.begin(RUNNING, "GET", "/next", NOW)
    bench.hands.perform(Kill("www", SLOT, REASON, 3), NOW + 31)
    assert bench.log.events[1][2]["stack"] == ""
    assert [number for _, number, _ in bench.signals if number == signal.SIGKILL] == [signal.SIGKILL] * 2


@pytest.mark.parametrize("state", [IDLE, FINISHING, RUNNING])
def test_a_request_that_ends_at_the_last_moment_saves_its_worker(bench: Bench, state: int) -> None:
    """Nothing is killed, nothing is said."""
    bench.perform(DumpStack("www", SLOT, 2, last=True), ANSWER)
    if state == RUNNING:
        bench.slot.begin(RUNNING, "GET", "/next", NOW)
    bench.slot.enter(state)
    bench.signals.clear()
    bench.hands.perform(Kill("www", SLOT, REASON, 2), NOW + 1)
    assert (bench.log.events, bench.signals) == ([], [])


def test_a_liar_is_killed_all_the_same(bench: Bench) -> None:
    """One that says that its request begins tomorrow."""
    bench.slot.begin(RUNNING, "GET", "/", NOW + 86_400)
    bench.hands.perform(Kill("www", SLOT, REASON, 3), NOW)
    assert bench.signals == [(PID, signal.SIGKILL, REASON)]
    assert bench.log.events[0][2]["elapsed"] == 0.0


def test_what_runs_is_what_they_say(bench: Bench) -> None:
    """The busy ones, for the policy; nothing of one that has begun no request, or is just beginning one."""
    held = bench.hands.holdings
    assert held.requests(held.scoreboard.states()) == (Running(SLOT, 2, NOW - 10, 0.0),)
    assert held.requests(held.scoreboard.states(), {SLOT}) == (Running(SLOT, 2, NOW - 10, 0.0, sought=True),)
    bench.slot.extend(5.0)
    bench.slot.enter(WRITING)
    assert [request.extended for request in held.requests(held.scoreboard.states())] == [5.0]
    held.scoreboard.set_state(SLOT + 1, RUNNING)
    assert len(held.requests(held.scoreboard.states())) == 1
    bench.slot.enter(FINISHING)
    assert held.requests(held.scoreboard.states()) == ()
