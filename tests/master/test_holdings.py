"""What the master holds for a pool."""

from __future__ import annotations

import math
import mmap
import os
import select
import socket
import struct
import tty

import pytest

from harness.processes import PATIENCE
from master.hands import NOW, SLOTS, descriptors_left, hands_of
from prefork.master.holdings import Doorbell, Holdings
from prefork.policy.model import FREE, IDLE, RETIRING, RUNNING, STARTING
from prefork.policy.saturation import RunningRequest
from prefork.system.channel import Place
from prefork.system.listener import Listener, parse_address
from prefork.system.scoreboard import Slot


def slot_of(held: Holdings, number: int) -> Slot:
    return Slot(number, SLOTS, held.scoreboard.descriptor, held.control.descriptor, held.doorbell.descriptor, 1, IDLE)


def test_a_slot_is_prepared_and_freed() -> None:
    """A new worker finds neither its predecessor's state nor the wish that it may leave; a free slot says so."""
    with hands_of() as hands:
        holdings = hands.holdings
        slot = slot_of(holdings, 3)
        holdings.control.retire(3, True)
        slot.enter(RETIRING)
        holdings.prepare_slot(3)
        assert (holdings.scoreboard.state(3), slot.retire) == (STARTING, False)
        holdings.free_slot(3)
        assert holdings.scoreboard.states() == bytes([FREE] * SLOTS)


def test_what_a_worker_runs() -> None:
    """Method, URI and age as it says; nothing before its first request."""
    with hands_of() as hands:
        assert hands.holdings.running(3, NOW) is None
        slot_of(hands.holdings, 3).begin(RUNNING, "GET", "/slow", NOW - 2.5)
        assert hands.holdings.running(3, NOW) == RunningRequest("GET", "/slow", 2.5)


@pytest.mark.parametrize("started", [math.nan, math.inf, -math.inf, NOW + 0.1, 1e308, math.nextafter(NOW, math.inf)])
def test_a_time_that_cannot_be_is_no_request(started: float) -> None:
    """Neither NaN nor infinity nor the future reaches a log line."""
    with hands_of() as hands:
        slot_of(hands.holdings, 3).begin(RUNNING, "GET", "/", started)
        assert hands.holdings.running(3, NOW) is None


@pytest.mark.parametrize("byte", range(0, 256, 5))
def test_any_bytes_are_a_request_or_none(byte: int) -> None:
    """A whole page of one byte: nothing is raised, and an age is a finite number that is not negative."""
    with hands_of() as hands:
        page = mmap.mmap(hands.holdings.scoreboard.descriptor, 0)
        page[:] = bytes([byte]) * len(page)
        struct.pack_into("<d", page, 64 + 16, NOW - 1e300 if byte % 2 else -1e308)
        for slot in range(SLOTS):
            running = hands.holdings.running(slot, NOW)
            assert running is None or 0 <= running.seconds < math.inf


def test_a_zygote_is_given_what_it_expects() -> None:
    """Each place has its descriptor, and no other."""
    with hands_of() as hands:
        gifts = hands.holdings.gifts(42)
        names = {Place(place).name: os.readlink(f"/proc/self/fd/{gift}") for place, gift in gifts.items() if gift != 42}
        assert gifts[Place.CHANNEL] == 42
        absent = {Place.ERROR_LOG, Place.ACCESS_LOG, Place.BULLETIN, Place.BULLETIN_BELL}  # only where there are some
        assert set(gifts) == set(Place) - absent
        assert names.pop("TAP").startswith("socket:")
        assert names == {
            "SCOREBOARD": "/memfd:prefork-scoreboard (deleted)",
            "CONTROL": "/memfd:prefork-control (deleted)",
            "DOORBELL": "anon_inode:[eventfd]",
            "STACKS": "/memfd:prefork-stacks (deleted)",
        }


def test_the_doorbell_is_answered_once_or_for_nothing() -> None:
    """However often it rang; a bell that did not ring does not make the master wait."""
    with hands_of() as hands:
        bell = hands.holdings.doorbell
        bell.answer()
        for _ in range(3):
            os.eventfd_write(bell.fileno(), 1)
        bell.answer()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(bell.fileno())


def test_a_bell_that_a_worker_made_blocking_holds_nobody() -> None:
    """O_NONBLOCK is shared with the workers: one that clears it, and reads what it rang, cannot stop the master."""
    with hands_of() as hands:
        bell = hands.holdings.doorbell
        os.set_blocking(bell.fileno(), True)
        bell.answer()
        os.eventfd_write(bell.fileno(), 1)
        bell.answer()
        bell.answer()


@pytest.mark.parametrize("rung", [b"", b"12345678"])
def test_a_bell_of_an_older_kernel_is_answered(rung: bytes) -> None:
    """Where a single read cannot be told not to wait, as with a terminal, the descriptor's own flag has to do."""
    above, below = os.openpty()
    os.set_blocking(below, False)
    tty.setraw(below)
    if rung:
        os.write(above, rung)
        assert select.select([below], [], [], PATIENCE)[0] == [below]
    Doorbell(below).answer()
    with pytest.raises(BlockingIOError):
        os.read(below, 1)
    os.close(above)
    os.close(below)


def test_holdings_that_cannot_be_had_leave_no_descriptor() -> None:
    """However many there are left, until there are enough: two pages with a mapping each, bell, stacks, and a pair."""
    listener = Listener.claim(parse_address(f"@prefork-short-{os.getpid()}"))
    before = os.listdir("/proc/self/fd")
    for short in range(8):
        with pytest.raises(OSError, match="Too many open files"), descriptors_left(short):
            Holdings(listener, SLOTS)
        assert os.listdir("/proc/self/fd") == before
    with descriptors_left(8):
        holdings = Holdings(listener, SLOTS)
    holdings.close()


def test_a_broken_tap_is_replaced_where_descriptors_are_left() -> None:
    """Else it stays broken, which costs nobody anything but a tap; it is replaced next time."""
    with hands_of() as hands:
        holdings = hands.holdings
        broken = holdings.tap
        broken.writing.shutdown(socket.SHUT_WR)
        with descriptors_left(1):
            assert holdings.gifts(42)[Place.TAP] == broken.writing.fileno()
        assert (holdings.tap, holdings.tap.is_broken) == (broken, True)
        assert holdings.gifts(42)[Place.TAP] == holdings.tap.writing.fileno()
        assert (holdings.tap is broken, holdings.tap.is_broken, broken.writing.fileno()) == (False, False, -1)


def test_closing_leaves_no_descriptor() -> None:
    """Whatever was held, channels included."""
    before = os.listdir("/proc/self/fd")
    with hands_of() as hands:
        ends = [hands.zygote_with(1)[1], hands.worker_in(0)[1], hands.worker_in(7)[1]]
        hands.holdings.listener.open()
    for end in ends:
        assert end.recv(1) == b""
        end.close()
    assert os.listdir("/proc/self/fd") == before
