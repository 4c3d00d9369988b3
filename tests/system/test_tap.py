"""The pair that a tap goes through: whole messages, named writers, bounded losses, nothing that a writer could do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from prefork.system.tap import ENDED, LARGEST_MESSAGE, TapPair, borrow, lend, receive

FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


@pytest.fixture
def pair() -> Iterator[TapPair]:
    made = TapPair()
    yield made
    made.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_are_whole_and_have_a_writer(pair: TapPair) -> None:
    """As they were sent, with the pid that the kernel knows; the largest one, too, and one of nothing at all."""
    assert receive(pair.reading) is None
    for data in (b"a", b"", b"x" * LARGEST_MESSAGE):
        pair.writing.send(data, FLAGS)
        assert receive(pair.reading) == (data, os.getpid())
    assert receive(pair.reading) is None


def test_a_child_is_named_by_the_kernel(pair: TapPair) -> None:
    """Not by what it says."""
    child = os.fork()
    if child == 0:
        pair.writing.send(b"I am 1", FLAGS)
        os._exit(0)
    os.waitpid(child, 0)
    assert receive(pair.reading) == (b"I am 1", child)


def test_nobody_waits(pair: TapPair) -> None:
    """What does not fit is refused at once; emptied, the pair takes as much again."""
    sent = []
    for _ in range(2):
        sent.append(0)
        with suppress(BlockingIOError):
            while sent[-1] < 100_000:
                pair.writing.send(b"x" * 1000, FLAGS)
                sent[-1] += 1
        pair.empty()
        assert receive(pair.reading) is None
    assert 100_000 > sent[0] == sent[1] > 100


def test_descriptors_that_come_along_are_not_taken(pair: TapPair) -> None:
    """They are gone before they are ours."""
    before = descriptors()
    for _ in range(3):
        socket.send_fds(pair.writing, [b"look"], [0, 1, 2])
    assert receive(pair.reading) == (b"look", os.getpid())
    pair.empty()
    assert (receive(pair.reading), descriptors()) == (None, before)


def test_nothing_can_be_said_to_workers(pair: TapPair) -> None:
    """The writing end reads an end, whoever has the other."""
    with pytest.raises(BrokenPipeError):
        pair.reading.send(b"do this", FLAGS)
    assert pair.writing.recv(100, FLAGS) == b""
    assert not pair.is_broken


def test_a_worker_can_break_it(pair: TapPair) -> None:
    """Which is seen, and ends what is read."""
    pair.writing.send(b"last", FLAGS)
    pair.writing.shutdown(socket.SHUT_WR)
    assert pair.is_broken
    assert receive(pair.reading) == (b"last", os.getpid())
    assert receive(pair.reading) == ENDED
    pair.empty()


def test_an_end_is_when_nobody_can_write(pair: TapPair) -> None:
    """Also one of a process that was given the reading end."""
    reading = os.dup(pair.reading.fileno())
    pair.close()
    with socket.socket(fileno=reading) as ours:
        assert receive(ours) == ENDED


def test_lend_and_borrow(pair: TapPair) -> None:
    """The reading end goes over a connection with an answer; an answer without one is told apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        lend(ours, b"here", pair.reading)
        answer, reading = borrow(theirs, 100)
        assert answer == b"here"
        assert reading is not None
        with reading:
            assert not reading.get_inheritable()
            pair.writing.send(b"a", FLAGS)
            assert receive(reading) == (b"a", os.getpid())
        ours.send(b"refused")
        assert borrow(theirs, 100) == (b"refused", None)
