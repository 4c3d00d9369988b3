"""What processes print, from their pipes to events."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.master import output
from prefork.master.output import Outputs


class Hands:
    """The master's loop, as far as it matters here."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.calls: dict[int, Callable[[float], None]] = {}
        self.pids: dict[int | None, int] = {-1: 5, 0: 10, 1: 11}
        self.outputs = Outputs(self, self.attend, self.dismiss, lambda slot: self.pids.get(slot, 0))  # type: ignore[arg-type]

    def info(self, event: str, **facts: Any) -> None:
        assert event == "output"
        self.events.append(facts)

    warning = info

    def attend(self, source: int, call: Callable[[float], None]) -> None:
        self.calls[source] = call

    def dismiss(self, source: int) -> None:
        self.calls.pop(source, None)

    def turn(self) -> list[str]:
        """Once round all pipes; the lines since the last time."""
        self.events.clear()
        for call in list(self.calls.values()):
            call(0.0)
        return [event["message"] for event in self.events]


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands()
    yield hands
    hands.outputs.close()
    assert hands.calls == {}


def test_lines_are_joined_and_cut(hands: Hands) -> None:
    """A line is one event however it arrives; one without an end is not kept beyond its bound."""
    out, err = hands.outputs.open(0)
    os.write(out, b"one\ntw")
    assert hands.turn() == ["one"]
    os.write(out, b"o\r\n\n")
    assert hands.turn() == ["two"]  # an empty line is no event
    os.write(out, b"x" * 10_000)
    assert [line for _ in range(5) for line in hands.turn()] == ["x" * 8_192]
    os.write(out, b"\xffend\n")
    assert hands.turn() == ["x" * 1_808 + "\\xffend"]
    assert hands.events == [{"message": hands.events[0]["message"], "stream": "stdout", "pid": 10, "slot": 0}]
    os.write(err, b"no end")
    assert hands.turn() == []
    os.close(err)
    assert hands.turn() == ["no end"]
    os.close(out)
    assert hands.turn() == []
    assert hands.calls == {}


def test_a_piece_at_a_time(hands: Hands) -> None:
    """Who prints a lot does not keep the others waiting."""
    out, err = hands.outputs.open(0)
    os.write(out, b"0123456\n" * 5_000)
    assert len(hands.turn()) == 2_048 // 8
    os.close(out)
    os.close(err)


def test_who_speaks(hands: Hands) -> None:
    """The zygote has no slot; who spoke in a slot before is not its next worker."""
    first = hands.outputs.open(1)
    zygote = hands.outputs.open(-1)
    os.write(zygote[0], b"z\n")
    assert hands.turn() == ["z"]
    assert hands.events[0] == {"message": "z", "stream": "stdout", "pid": 5}
    second = hands.outputs.open(1)
    hands.pids |= {1: 22, -1: 6}
    os.write(first[0], b"old\n")
    os.write(second[0], b"new\n")
    assert hands.turn() == ["old", "new"]
    assert [(event["pid"], event["slot"]) for event in hands.events] == [(11, 1), (22, 1)]
    for end in (*first, *second, *zygote):
        os.close(end)


def test_what_was_printed_last_is_logged(hands: Hands) -> None:
    """Closing reads what is there, all of it, and waits for nobody."""
    out, err = hands.outputs.open(0)
    os.write(out, b"y" * 40_000 + b"\nlast")
    hands.outputs.close()
    assert [len(event["message"]) for event in hands.events] == [8_192] * 4 + [7_232, 4]
    os.close(out)
    os.close(err)


def test_programs_that_outlive_their_workers_do_not_pile_up(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of what is left behind are let go, with all that was printed by then; no living process loses its."""
    monkeypatch.setattr(output, "_MOST_STRAYS", 6)
    living = {slot: hands.outputs.open(slot) for slot in (-1, *range(1, 20))}
    first = hands.outputs.open(0)
    os.write(first[0], b"last words\n" * 1_000)
    ends = [end for _ in range(5) for end in hands.outputs.open(0)]
    assert len(hands.calls) == 2 * len(living) + 2 + 6
    assert [event["message"] for event in hands.events] == ["last words"] * 1_000
    for slot, (out, err) in living.items():
        hands.events.clear()
        os.write(out, b"here\n")
        hands.turn()
        assert [event.get("slot", -1) for event in hands.events] == [slot]
        os.close(out)
        os.close(err)
    for end in (*first, *ends):
        os.close(end)


def test_the_buried_leave_strays(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by their pid for as long as they print, also when their slot is empty."""
    monkeypatch.setattr(output, "_MOST_STRAYS", 2)
    first, second = hands.outputs.open(0), hands.outputs.open(1)
    hands.outputs.leave(0)
    hands.pids.clear()
    os.write(first[0], b"old\n")
    assert hands.turn() == ["old"]
    assert (hands.events[0]["pid"], hands.events[0]["slot"]) == (10, 0)
    hands.outputs.leave(0)  # once is enough
    hands.outputs.leave(1)
    assert len(hands.calls) == 2
    for end in (*first, *second):
        os.close(end)


def test_a_program_that_prints_without_end_does_not_hold_the_end_up(hands: Hands) -> None:
    """What a pipe can hold is read when it is let go, and no more."""
    out, err = hands.outputs.open(0)
    os.write(out, b"x" * 2_047 + b"\n")
    say = hands.outputs._say

    def say_and_print_more(*what: Any) -> None:
        say(*what)
        os.write(out, b"x" * 2_047 + b"\n")

    hands.outputs._say = say_and_print_more  # type: ignore[method-assign, assignment]
    hands.outputs.close()
    assert len(hands.events) == 65_536 // 2_048
    os.close(out)
    os.close(err)


def test_without_descriptors_there_is_an_error(hands: Hands) -> None:
    """And nothing stays open: not even the first of the two pipes."""
    before = sorted(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        for free in (1, 3):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                hands.outputs.open(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("refused", [0, 1])
def test_pipes_that_cannot_be_attended_leave_nothing(hands: Hands, refused: int) -> None:
    """epoll_ctl(2) may refuse the first or the second of them; who was there before is not let go of."""
    before = os.listdir("/proc/self/fd")
    really, calls = hands.attend, iter(range(3))

    def attend(source: int, call: Callable[[float], None]) -> None:
        if next(calls) == refused:
            raise OSError(errno.ENOSPC, "no watch is left")
        really(source, call)

    hands.outputs._attend = attend
    with pytest.raises(OSError, match="no watch is left"):
        hands.outputs.open(0)
    assert os.listdir("/proc/self/fd") == before
    assert hands.calls == {}
