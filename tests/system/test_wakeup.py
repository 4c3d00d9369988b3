"""Signals as a readable descriptor, with real signals."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from prefork.system.wakeup import Wakeup

WATCHED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup(WATCHED)
    yield wakeup
    wakeup.close()


def readable(wakeup: Wakeup) -> bool:
    return select.select([wakeup], [], [], 0)[0] == [wakeup]


def test_nothing_has_come(wakeup: Wakeup) -> None:
    """A quiet descriptor, and nothing to take, which does not wait."""
    assert (readable(wakeup), wakeup.take()) == (False, [])


def test_signals_are_taken_once_in_their_order(wakeup: Wakeup) -> None:
    """The descriptor is readable until they are taken."""
    for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
        signal.raise_signal(number)
    assert readable(wakeup)
    assert wakeup.take() == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]
    assert (readable(wakeup), wakeup.take()) == (False, [])


def test_a_signal_ends_a_wait(wakeup: Wakeup) -> None:
    """Also one that was sent from outside while select sleeps."""
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    assert select.select([wakeup], [], [], 30)[0] == [wakeup]
    assert wakeup.take() == [signal.SIGUSR1]


def test_a_full_pipe_loses_no_signal(wakeup: Wakeup) -> None:
    """A flood of SIGCHLD fills the pipe; the SIGUSR2 that comes then is told all the same, and the pipe is emptied."""
    os.write(wakeup._write, bytes(1 << 20))
    with pytest.raises(BlockingIOError):
        os.write(wakeup._write, b"\0")
    signal.raise_signal(signal.SIGUSR2)
    assert wakeup.take() == [signal.SIGUSR2]
    assert not readable(wakeup)


def test_a_flood_of_one_signal_keeps_no_other_out(wakeup: Wakeup) -> None:
    """It takes no memory without end; a second one still counts twice, and another kind is told."""
    for _ in range(1_000):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGUSR2)
    assert wakeup.take() == [signal.SIGUSR1] * 16 + [signal.SIGUSR2] * 2
    signal.raise_signal(signal.SIGUSR1)
    assert wakeup.take() == [signal.SIGUSR1]


@pytest.mark.parametrize("count", [4095, 4096, 4097])
def test_any_number_of_bytes_is_read(wakeup: Wakeup, count: int) -> None:
    """Around the size of one read, too."""
    os.write(wakeup._write, bytes(count))
    assert wakeup.take() == []
    assert not readable(wakeup)


def test_close_restores_what_was_there() -> None:
    """Handlers, dispositions, the interpreter's own wakeup descriptor; and no descriptor stays open."""
    before = os.listdir("/proc/self/fd")
    reader, writer = os.pipe2(os.O_NONBLOCK)

    def earlier(_number: int, _frame: object) -> None:
        pass

    found = [
        signal.signal(signal.SIGUSR1, earlier),
        signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        signal.signal(signal.SIGCHLD, signal.SIG_DFL),
    ]
    found_descriptor = signal.set_wakeup_fd(writer)
    Wakeup(WATCHED).close()
    assert [signal.getsignal(number) for number in WATCHED] == [earlier, signal.SIG_IGN, signal.SIG_DFL]
    assert signal.set_wakeup_fd(found_descriptor) == writer
    for number, handler in zip(WATCHED, found, strict=True):
        signal.signal(number, handler)
    os.close(reader)
    os.close(writer)
    assert os.listdir("/proc/self/fd") == before


def test_only_the_main_thread_can_watch() -> None:
    """Elsewhere it is a ValueError that leaves nothing behind."""
    before = os.listdir("/proc/self/fd")
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            Wakeup(WATCHED)
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [type(error) for error in raised] == [ValueError]
    assert os.listdir("/proc/self/fd") == before
