"""The loop when something in it goes wrong: what is contained, and what is not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from master.hands import NOW, Hands, Recorder, speaker
from prefork.errors import PreforkError
from prefork.master.faults import AGAIN, Faults
from prefork.master.loop import Master
from prefork.policy.lifecycle import Command
from prefork.policy.model import Phase, StartZygote
from prefork.system import processes
from prefork.system.channel import Kind

ROUNDS = 5


class Mistake(Exception):
    """Something that nobody has thought of."""


class Story:
    """A master that runs in this process, and is stopped from a beat."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The test run has children of its own, and they are not the master's to reap.
        monkeypatch.setattr(processes, "reap", lambda _before: [])
        monkeypatch.setattr(processes, "become_subreaper", lambda _wanted=True: None)
        self.log = Recorder()
        self.master = Master(self.log)  # type: ignore[arg-type]
        self.asked: list[StartZygote] = []  # and no process is started
        self.hands = Hands()
        self.hands.holdings.listener.open()
        self.hands.pool.open = True
        self.hands._methods[StartZygote] = lambda action, _now: self.asked.append(action)
        self.master.add(self.hands)
        self.served: list[float] = []  # when the rounds began in which it served

    def run(self, rounds: int = ROUNDS) -> int:
        """So many rounds in which it serves, and then the end."""

        def beat(now: float) -> float:
            if self.master.phase is Phase.SERVING:
                self.served.append(now)
                if len(self.served) == rounds:
                    self.master.order(Command.INT)
            return now  # the next round comes at once

        self.master.at_beat(beat)
        return self.master.run()

    @property
    def faults(self) -> list[str]:
        return [facts["error"] for _, event, facts in self.log.events if event == "master_fault"]


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(monkeypatch)


def fails(text: str) -> Callable[..., Any]:
    def call(*_: object) -> None:
        raise Mistake(text)

    return call


@pytest.mark.parametrize("step", ["event", "beat", "signal", "phase", "tend", "perform"])
def test_what_fails_while_it_serves_does_not_end_it(story: Story, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, with its traceback; what comes after it in the round is done, and the stop is in order."""
    master, hands, fail = story.master, story.hands, fails(step)
    match step:
        case "event":
            master.at_serving(lambda: master.attend(hands.holdings.doorbell, fail))
            master.at_serving(lambda: os.eventfd_write(hands.holdings.doorbell.fileno(), 1))
        case "beat":
            master.at_serving(lambda: master.at_beat(fail))
        case "signal":
            master.at_signal(signal.SIGHUP, fail)
            master.at_serving(lambda: os.kill(os.getpid(), signal.SIGHUP))
        case "phase":
            master.at_phase(fail)
        case "tend":
            master.at_serving(lambda: monkeypatch.setattr(hands, "tend", fail))
        case "perform":
            monkeypatch.setitem(hands._methods, StartZygote, fail)
    phases: list[Phase] = []
    master.at_phase(phases.append)
    assert story.run() == 0
    assert story.faults == [f"Mistake: {step}"]
    (facts,) = [facts for _, event, facts in story.log.events if event == "master_fault"]
    assert facts["traceback"].rstrip().endswith(f"Mistake: {step}")
    assert "in call" in facts["traceback"]
    assert len(story.served) == ROUNDS
    assert phases == [Phase.SERVING, Phase.DRAINING, Phase.ENDED]
    assert (hands.pool.shut, bool(story.asked)) == (True, step != "perform")


def test_what_fails_for_ever_takes_no_processor(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round in which something failed is followed by a pause, any other by none."""
    pauses: list[float] = []
    monkeypatch.setattr("prefork.master.faults.time.sleep", pauses.append)
    failing = iter((True, False, True))
    story.master.at_serving(lambda: story.master.at_beat(lambda _now: fails("now")() if next(failing, False) else None))
    assert story.run() == 0
    assert len(pauses) == 2
    assert all(0 < pause < 1 for pause in pauses)


@pytest.mark.parametrize("error", [PreforkError("no room"), Mistake("a bug")])
@pytest.mark.parametrize("where", ["at_serving", "at_beat"])
def test_a_start_that_goes_wrong_fails(story: Story, error: Exception, where: str) -> None:
    """Before it serves nothing is hidden."""

    def call(*_: object) -> None:
        raise error

    if where == "at_serving":
        story.master.at_serving(call)
    else:
        story.master.at_beat(call)
    with pytest.raises(type(error), match=str(error)):
        story.run()
    assert (story.faults, story.served) == ([], [])


def test_the_failure_of_a_pool_ends_the_start(story: Story) -> None:
    """As the pool has told it, also when something else fails on the way out."""
    story.hands.pool.open = False
    story.hands.pool.failure = PreforkError("cannot be imported")
    story.master.at_phase(fails("phase"))
    with pytest.raises(PreforkError, match="cannot be imported"):
        story.run()
    assert story.faults == ["Mistake: phase"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_mistake_passes(story: Story, kind: type[BaseException]) -> None:
    """Who wants the process to end, ends it."""

    def call(_now: float) -> None:
        raise kind

    story.master.at_serving(lambda: story.master.at_beat(call))
    with pytest.raises(kind):
        story.run()
    assert story.faults == []


def test_a_fault_is_told_once_a_minute() -> None:
    """With how often it came since; another place, or another kind, is another fault."""
    log = Recorder()
    faults = Faults(log)  # type: ignore[arg-type]

    def come(now: float, kind: type[Exception] = Mistake) -> int:
        before = len(log.events)
        try:
            raise kind("here")
        except kind as error:
            faults.tell(error, now)
        return len(log.events) - before

    assert [come(NOW + after) for after in (0, 1, AGAIN - 0.1, AGAIN, AGAIN + 1, 3 * AGAIN)] == [1, 0, 0, 1, 0, 1]
    assert [facts["repeated"] for _, _, facts in log.events] == [0, 2, 1]
    assert come(NOW + 3 * AGAIN, ValueError) == 1
    assert {(level, event) for level, event, _ in log.events} == {("error", "master_fault")}


# descriptors that are closed while their events wait


def test_an_event_of_what_was_closed_reaches_nobody(story: Story) -> None:
    """Two are ready at once, and each one's event ends the other: one is heard, none is asked for its number."""
    ends = [socket.socketpair() for _ in range(2)]
    heard: list[int] = []

    def ended(which: int, _now: float) -> None:
        heard.append(which)
        story.master.dismiss(ends[1 - which][0])
        ends[1 - which][0].close()
        story.master.dismiss(ends[1 - which][0])  # once more: it is no socket any longer
        story.master.dismiss(ends[which][0])

    for which, (ours, theirs) in enumerate(ends):
        story.master.attend(ours, lambda now, which=which: ended(which, now))  # type: ignore[misc]
        theirs.close()
    assert story.run() == 0
    assert (len(heard), story.faults) == (1, [])
    ends[heard[0]][0].close()


def test_an_event_does_not_reach_who_has_the_number_now(story: Story) -> None:
    """A descriptor that an earlier event of the round has opened anew waits for an event of its own."""
    ends = [socket.socketpair() for _ in range(2)]
    others: list[socket.socket] = []
    heard: list[str] = []

    def ended(which: int, _now: float) -> None:
        heard.append("first")
        for ours, _ in ends:
            story.master.dismiss(ours)
        number = ends[1 - which][0].fileno()
        ends[1 - which][0].close()
        others.extend(socket.socketpair())
        assert others[0].fileno() == number
        story.master.attend(others[0], lambda _now: heard.append("stranger"))

    for which, (ours, theirs) in enumerate(ends):
        story.master.attend(ours, lambda now, which=which: ended(which, now))  # type: ignore[misc]
        theirs.close()
    assert story.run() == 0
    assert (heard, story.faults) == (["first"], [])
    for end in (*others, *(ours for ours, _ in ends)):
        end.close()


def test_a_listener_that_cannot_be_watched_is_tried_again(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll_ctl(2) may refuse (fs.epoll.max_user_watches): it is not taken for watched."""
    listener, names = story.hands.holdings.listener, frozenset({"www"})
    with monkeypatch.context() as patch:
        patch.setattr(story.master, "attend", fails("full"))
        with pytest.raises(Mistake):
            story.master._watch_listeners(names)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + str(listener)[1:])
        assert story.master._selector.select(0) == []
        story.master._watch_listeners(names)
        assert [key.fileobj for key, _ in story.master._selector.select(0)] == [listener]
    story.master._release()


def test_before_a_child_is_reaped_its_own_channel_is_read(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said since the round began would be lost; an orphan of the application may be a worker that is awaited.

    And no other: the channels of workers who are known are not read for it.
    """
    heard: list[int | None] = []
    monkeypatch.setattr("prefork.master.hear.hear", lambda _hands, channel, _now: heard.append(channel.slot))
    hands = story.hands
    with ExitStack() as ends:
        ends.callback(hands.holdings.close)
        ends.callback(story.master._queues.close)
        ends.callback(story.master._selector.close)
        ends.enter_context(hands.zygote_with(50)[1])
        for slot in (0, 1, 2):
            ends.enter_context(hands.worker_in(slot)[1])
        hands.pool.adopted(0, 60)
        for pid in (50, 60, 99):
            story.master._hear_last_words(pid)
    assert heard == [None, 0, 1, 2]


def test_a_zygote_that_says_why_it_fails_and_ends_in_the_same_round_is_heard(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that cannot be imported: the start fails with its reason, not with an exit status."""
    pool = story.hands.pool
    pool.open = False
    channel, end = story.hands.zygote_with(0)
    with speaker(end) as zygote:
        pool._zygote_pids[channel.generation] = zygote.pid
        story.master.watch(story.hands, channel)
        ended = [(zygote.pid, 78 << 8)]

        def reap(before_each: Callable[[int], None]) -> list[tuple[int, int]]:
            """As if it had said so, and ended, just after the channels were read."""
            if not ended:
                return []
            zygote.says(Kind.FAILED, '{"message": "importing it raised RuntimeError: no database"}')
            before_each(zygote.pid)
            return [ended.pop()]

        monkeypatch.setattr(processes, "reap", reap)
        with pytest.raises(PreforkError, match="no database"):
            story.master.run()
