"""The shared pages: what a worker can do to them, what the master makes of it."""

from __future__ import annotations

import fcntl
import itertools
import math
import mmap
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.processes import PATIENCE, environment
from prefork.policy.model import FREE, IDLE, READING, RUNNING, STARTING, WRITING
from prefork.system.controlpage import WAITING, ControlPage
from prefork.system.peers import PEER_ROOM, UCRED, Process
from prefork.system.records import BOUNDS, Account, SlotRecord, Totals
from prefork.system.scoreboard import Scoreboard, Slot, slots_for

SLOTS = 70  # more than one row of 64 state bytes
ROOM = 128  # so the records begin here
RECORD = 960
REQUEST = struct.Struct("@QQdddqIHH16s440sB18s")  # what a record begins with; counters follow


@dataclass(slots=True)
class Pages:
    """Both pages and a doorbell, as a master holds them."""

    board: Scoreboard
    control: ControlPage
    bell: int

    def slot(self, number: int = 0, generation: int = 1) -> Slot:
        """A worker's view."""
        return Slot(number, SLOTS, self.board.descriptor, self.control.descriptor, self.bell, generation, IDLE)

    def rung(self) -> bool:
        """Whether somebody rang; silences the bell."""
        try:
            return os.eventfd_read(self.bell) > 0
        except BlockingIOError:
            return False


@pytest.fixture
def pages() -> Iterator[Pages]:
    pages = Pages(Scoreboard(SLOTS), ControlPage(SLOTS), os.eventfd(0, os.EFD_NONBLOCK))
    yield pages
    pages.board.close()
    pages.control.close()
    os.close(pages.bell)


def in_a_worker(script: str, descriptor: int) -> str:
    """What another process of the same user prints that inherited the descriptor as ``fd``."""
    prelude = "import fcntl, mmap, os, sys\nfd = int(sys.argv[1])\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + script, str(descriptor)],
        pass_fds=[descriptor],
        env=environment({}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("max_children", "slots"), [(1, 64), (16, 64), (17, 68), (32, 128), (1_000, 4_000)])
def test_the_number_of_slots(max_children: int, slots: int) -> None:
    """Four generations fit, and 64 at least."""
    assert slots_for(max_children) == slots


# seals

TRUNCATE = """
for size in (0, 1, 1 << 20):
    for name in (fd, os.open(f"/proc/self/fd/{fd}", os.O_RDWR)):
        try:
            os.ftruncate(name, size)
        except PermissionError:
            print("refused", end=" ")
try:
    open(f"/proc/self/fd/{fd}", "wb")
except PermissionError:
    print("refused", end=" ")
"""


@pytest.mark.parametrize("page", ["board", "control"])
def test_no_process_can_change_the_size(pages: Pages, page: str) -> None:
    """A page cut short would kill the master with SIGBUS: neither the descriptor nor a reopened one cuts it."""
    assert in_a_worker(TRUNCATE, getattr(pages, page).descriptor) == " ".join(["refused"] * 7)
    assert pages.board.states() == bytes(SLOTS)
    pages.control.retire(SLOTS - 1, True)


@pytest.mark.parametrize("page", ["board", "control"])
def test_the_seals_are_sealed(pages: Pages, page: str) -> None:
    """No worker can add one: a page sealed against writing would stop all the others."""
    add = "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)"
    script = f"try:\n    {add}\nexcept PermissionError:\n    print('refused')"
    assert in_a_worker(script, getattr(pages, page).descriptor) == "refused"
    pages.slot().enter(RUNNING)


CONTROL_WRITES = """
again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
for name in (fd, again):
    for attempt in (
        lambda: mmap.mmap(name, 0),
        lambda: mmap.mmap(name, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE),
        lambda: os.write(name, b"x"),
        lambda: os.pwrite(name, b"x", 64),
        lambda: os.posix_fallocate(name, 0, 1 << 20),
    ):
        try:
            attempt()
        except PermissionError:
            print("refused", end=" ")
read_only = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
print(read_only[64])
"""


def test_no_process_but_the_master_writes_the_control_page(pages: Pages) -> None:
    """Neither by a mapping nor by write(2), reopened or not; it can be read, and the master still writes."""
    pages.control.retire(0, True)
    assert in_a_worker(CONTROL_WRITES, pages.control.descriptor) == " ".join([*["refused"] * 10, "1"])


def test_a_mapping_for_reading_cannot_become_one_for_writing(pages: Pages) -> None:
    """mprotect(2) on a worker's own view of the control page is refused."""
    script = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(None, 4096, 1, 1, fd, 0)\n"
        "print(libc.mprotect(ctypes.c_void_p(at), 4096, 3), ctypes.get_errno())"
    )
    assert in_a_worker(script, pages.control.descriptor) == "-1 13"


@pytest.mark.parametrize("page", ["board", "control"])
def test_the_pages_do_not_cross_an_exec_by_themselves(pages: Pages, page: str) -> None:
    """They are passed on by name, or not at all."""
    assert fcntl.fcntl(getattr(pages, page).descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


# what a worker says


def test_a_request_is_published(pages: Pages) -> None:
    """State, number, start, generation, method, URI, peer arrive as they were said; the neighbours are untouched."""
    slot = pages.slot(69, generation=7)
    slot.begin(RUNNING, "POST", "/orders?id=1", 12.5, 0.25, 70, UCRED.pack(640, 33, 34))
    assert pages.board.read(69) == SlotRecord(1, 12.5, 7, "POST", "/orders?id=1", 0.0, 0.25, 70, Process(640, 33, 34))
    assert pages.board.states() == bytes(69) + bytes([RUNNING])
    assert pages.board.read(68) == SlotRecord(0, 0.0, 0, "", "", 0.0, 0.0, 0)


def test_states_are_seen_as_they_change(pages: Pages) -> None:
    """Each state is one byte of its slot, seen by both sides."""
    slot = pages.slot(3)
    seen = []
    for state in (IDLE, READING, RUNNING, WRITING):
        slot.enter(state)
        seen.append((pages.board.state(3), pages.board.states()[3]))
    pages.board.set_state(3, FREE)
    seen.append((pages.board.state(3), pages.board.states()[3]))
    assert seen == [(state, state) for state in (IDLE, READING, RUNNING, WRITING, FREE)]


@pytest.mark.parametrize(
    ("method", "uri", "shown_method", "shown_uri"),
    [
        ("", "", "", ""),
        ("M" * 16, "u" * 440, "M" * 16, "u" * 440),
        ("M" * 17, "u" * 441, "M" * 16, "u" * 440),
        ("M" * 100_000, "u" * 100_000, "M" * 16, "u" * 440),
        ("GET", "/caf\xe9\x00\xff", "GET", "/caf\xe9\x00\xff"),
        ("GET", "/\u20ac\udc80", "GET", "/??"),
    ],
)
def test_text_is_cut_and_never_refused(pages: Pages, method: str, uri: str, shown_method: str, shown_uri: str) -> None:
    """What is too long is cut; what is no latin-1 (no environ holds such) shows as a question mark."""
    pages.slot().begin(RUNNING, method, uri, 1.0)
    record = pages.board.read(0)
    assert (record.method, record.uri) == (shown_method, shown_uri)


def test_counters_outlive_their_worker(pages: Pages) -> None:
    """The next one in the slot goes on counting."""
    first = pages.slot()
    for _ in range(3):
        first.begin(RUNNING, "GET", "/", 1.0)
    second = pages.slot(generation=2)
    assert second.requests == 3
    second.begin(RUNNING, "GET", "/", 2.0)
    assert pages.board.read(0) == SlotRecord(4, 2.0, 2, "GET", "/")
    assert pages.board.total_requests() == 4


def test_all_slots_together(pages: Pages) -> None:
    """What was begun anywhere, whatever a madman left elsewhere in his record."""
    assert pages.board.total_requests() == 0
    for number in (0, 3):
        slot = pages.slot(number)
        for _ in range(number + 2):
            slot.begin(RUNNING, "GET", "/" * 600, 1.0)
    scribble(pages.board, 1, b"\xff" * 8 + bytes(8) + b"\xff" * (RECORD - 16))
    assert pages.board.total_requests() == 7


@pytest.mark.parametrize(
    "left", [b"\xff" * RECORD, b"\xfe" * RECORD, b"\x00" * 8 + b"\xff" * (RECORD - 8), b"\x01" + bytes(RECORD - 1)]
)
def test_what_a_madman_left_does_not_stop_his_successor(pages: Pages, left: bytes) -> None:
    """Counters at their very end are begun anew rather than overflow, and the next record is whole."""
    scribble(pages.board, 0, left)
    slot = pages.slot()
    for _ in range(3):
        slot.begin(RUNNING, "GET", "/", 1.0)
    record = pages.board.read(0)
    assert (record.method, record.uri, record.started, record.requests) == ("GET", "/", 1.0, slot.requests)


# how long a request may take


def test_who_connected_may_be_told_later(pages: Pages) -> None:
    """Of the request at hand; the next begins without."""
    slot = pages.slot(69)
    for packed, expected in (
        (UCRED.pack(640, 33, 34), Process(640, 33, 34)),
        (b"\0" * PEER_ROOM, "[::]:0"),
        (b"", None),
    ):
        slot.begin(RUNNING, "GET", "/", 12.5)
        assert pages.board.read(69).peer is None
        slot.tell_peer(packed)
        assert pages.board.read(69).peer == expected


def test_a_request_may_be_given_more_time(pages: Pages) -> None:
    """Each extension is added; the next request has none."""
    slot = pages.slot(69)
    slot.begin(RUNNING, "GET", "/", 12.5)
    seen = [pages.board.deadline(69)]
    for seconds in (1.5, 30.0):
        slot.extend(seconds)
        seen.append(pages.board.deadline(69))
    assert seen == [(1, 12.5, 0.0), (1, 12.5, 1.5), (1, 12.5, 31.5)]
    assert (slot.extension, pages.board.read(69)) == (31.5, SlotRecord(1, 12.5, 1, "GET", "/", 31.5))
    slot.begin(RUNNING, "GET", "/", 13.0)
    assert (slot.extension, pages.board.deadline(69)) == (0.0, (2, 13.0, 0.0))


def test_what_is_being_rewritten_is_not_taken_for_a_request(pages: Pages) -> None:
    """Half of one request and half of the next would be a request that is long overdue."""
    scribble(pages.board, 1, REQUEST.pack(7, 5, 1.0, 0.0, -1.0, -1, 2, 3, 1, b"GET", b"/", 0, b""))
    assert pages.board.deadline(1) is None
    scribble(pages.board, 1, REQUEST.pack(8, 5, 1.0, 0.0, -1.0, -1, 2, 3, 1, b"GET", b"/", 0, b""))
    assert pages.board.deadline(1) == (5, 1.0, 0.0)


# counters


def test_counters_are_counted_by_slot_and_in_all(pages: Pages) -> None:
    """Each for itself; neither requests nor other counters are touched, and the next worker goes on counting."""
    first, last = pages.slot(0), pages.slot(69)
    for counter in (0, 15, 15):
        first.count(counter)
    last.begin(RUNNING, "GET", "/", 1.0)
    last.count(15)
    pages.slot(69, generation=2).count(15)
    assert pages.board.counters(0) == (1, *[0] * 14, 2)
    assert pages.board.counters(69) == (*[0] * 15, 2)
    assert [pages.board.total(counter) for counter in (0, 1, 15)] == [1, 0, 4]
    assert (pages.board.total_requests(), pages.board.read(69).uri) == (1, "/")


def test_a_counter_beyond_belief_counts_nothing(pages: Pages) -> None:
    """Neither in the totals nor for the successor, who begins anew."""
    pages.slot(0).count(3)
    scribble(pages.board, 1, b"\xff" * RECORD)
    assert (pages.board.counters(1), pages.board.total(3)) == ((0,) * 16, 1)
    pages.slot(1).count(3)
    assert (pages.board.counters(1)[3], pages.board.total(3)) == (1, 2)


# the account


def by_bucket(**counts: int) -> tuple[int, ...]:
    """The counts of a histogram: ``_3=1`` is one in bucket 3."""
    return tuple(counts.get(f"_{bucket}", 0) for bucket in range(len(BOUNDS) + 1))


def test_requests_come_into_the_account(pages: Pages) -> None:
    """Bytes, seconds and both histograms, for the slot and in all; the next worker goes on, without a last request."""
    for number in (0, 69):
        pages.board.set_state(number, STARTING)
    first, last = pages.slot(0), pages.slot(69)
    first.begin(RUNNING, "GET", "/", 1.0)
    first.count(3)
    first.wait(0.75)
    first.finish(0.25, 10, 2_000)
    first.finish(0.001, 0, 5)
    last.move(0, 21)
    assert pages.board.account(0) == Account(10, 2_005, 0.001)
    assert pages.board.account(69) == Account(0, 21, 0.0)
    expected = Totals(
        requests=1,
        counters=(0, 0, 0, 1, *[0] * 12),
        received=10,
        sent=2_026,
        ran=by_bucket(_0=1, _7=1),
        ran_seconds=0.251,
        waited=by_bucket(_9=1),
        waited_seconds=0.75,
    )
    assert pages.board.totals() == expected
    second = pages.slot(0, generation=2)
    assert pages.board.totals() == expected
    assert pages.board.account(0) == Account(10, 2_005, 0.0)
    second.finish(61.0, 1, 1)
    second.wait(0.0)
    assert pages.board.account(0) == Account(11, 2_006, 61.0)
    assert pages.board.totals().ran == by_bucket(_0=1, _7=1, _15=1)
    assert pages.board.totals().waited == by_bucket(_0=1, _9=1)


@pytest.mark.parametrize("bucket", range(len(BOUNDS)))
def test_a_bucket_ends_with_its_bound(pages: Pages, bucket: int) -> None:
    """What is as long as a bound is within it, as collectors have it."""
    pages.board.set_state(0, STARTING)
    slot = pages.slot(0)
    for seconds in (BOUNDS[bucket], math.nextafter(BOUNDS[bucket], math.inf)):
        slot.finish(seconds, 0, 0)
        slot.wait(seconds)
    totals = pages.board.totals()
    assert totals.ran == totals.waited == by_bucket(**{f"_{bucket}": 1, f"_{bucket + 1}": 1})


def test_an_account_beyond_belief_counts_nothing(pages: Pages) -> None:
    """Neither in the totals nor for the successor, who begins anew; the neighbour's is not touched."""
    for number in (0, 1, 2):
        pages.board.set_state(number, STARTING)
    pages.slot(0).finish(0.5, 1, 2)
    nothing = [struct.pack("<d", value) for value in (math.nan, -1.0, math.inf, -math.inf, 2.0**60)]
    for lie in (b"\xff" * 8, *nothing):
        scribble(pages.board, 1, lie * (RECORD // 8))
        totals = pages.board.totals()
        assert (totals.received, totals.sent, totals.ran) == (1, 2, by_bucket(_8=1))
        assert (totals.ran_seconds, totals.waited_seconds, totals.requests) == (0.5, 0.0, 0)
        assert pages.board.account(1) == Account()
        assert (pages.board.read(1).waited, pages.board.read(1).length) == (None, None)
    pages.slot(1).finish(0.5, 3, 4)
    assert pages.board.account(1) == Account(3, 4, 0.5)
    assert pages.board.totals().ran == by_bucket(_8=2)


def test_slots_that_never_had_a_worker_have_no_account(pages: Pages) -> None:
    """Whatever stands there, and when nobody has any."""
    scribble(pages.board, 5, b"\x01" * RECORD)
    assert pages.board.totals().requests == 0
    pages.board.set_state(4, STARTING)
    assert pages.board.totals().requests == 0


WRITER = """
import itertools, os
from prefork.system.scoreboard import Slot
slot = Slot(0, 70, *map(int, sys.argv[1:3]), -1, 1, 2)
print(flush=True)
for number in itertools.count():
    letter = chr(ord("a") + number % 26)
    slot.begin(4, letter * 16, letter * (1 + number % 440), float(number), float(number % 60), number)
    slot.finish(0.001 * (number % 100), 1, 1)
"""


def test_what_is_read_while_a_worker_writes(pages: Pages) -> None:
    """No exception; no counter goes back, not even for a moment; a record is whole, unless its writer stands still.

    (It has no processor then: this one writes without a pause, so that happens in the midst of a record, too. Where it
    shares one with the reader, nearly every look is such a one.)
    """
    pages.board.set_state(0, STARTING)
    page = mmap.mmap(pages.board.descriptor, 0)
    descriptors = [pages.board.descriptor, pages.control.descriptor]
    command = [sys.executable, "-c", "import sys\n" + WRITER, *map(str, descriptors)]
    with subprocess.Popen(command, pass_fds=descriptors, env=environment({}), stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen: dict[bool, set[int]] = {True: set(), False: set()}
        last = Counter[str]()
        looks, end = 0, time.monotonic() + PATIENCE
        while looks < 20_000 or len(seen[True]) <= 100:
            assert time.monotonic() < end, seen
            looks += 1
            before = page[ROOM : ROOM + 8]  # its sequence
            record = pages.board.read(0)
            stood_still = all(page[ROOM : ROOM + 8] == before for _ in range(100))
            totals, account = pages.board.totals(), pages.board.account(0)
            if record.requests:
                number = record.requests - 1
                whole = (record.started, record.length, len(record.uri)) == (number, number, 1 + number % 440)
                whole = whole and len({*record.method, *record.uri}) == 1
                if whole or not stood_still:
                    seen[whole].add(number)
            now = Counter(
                record=record.requests,
                requests=totals.requests,
                received=totals.received,
                sent=account.sent,
                ran=sum(totals.ran),
                first=totals.ran[0],
                seconds=int(totals.ran_seconds),
            )
            assert last <= now
            last = now
        writer.kill()
    page.close()
    assert len(seen[False]) < len(seen[True]) / 2


# the doorbell and the retire flag


@pytest.mark.parametrize(
    ("armed", "other", "rings"),
    [(True, RUNNING, True), (True, FREE, True), (True, IDLE, False), (False, RUNNING, False), (False, IDLE, False)],
)
def test_the_doorbell(pages: Pages, armed: bool, other: int, rings: bool) -> None:
    """The worker that takes the last idle slot rings if the master armed it, and nobody else does."""
    pages.control.arm_doorbell(armed)
    pages.slot(69).enter(other)
    slot = pages.slot(0)
    slot.enter(IDLE)
    slot.leave_idle(READING)
    assert (pages.rung(), pages.board.state(0)) == (rings, READING)


def test_an_idle_byte_beyond_the_slots_counts_for_nobody(pages: Pages) -> None:
    """The rest of the row of state bytes is not asked."""
    writable = mmap.mmap(pages.board.descriptor, 0)
    writable[SLOTS] = IDLE
    pages.control.arm_doorbell(True)
    pages.slot(0).leave_idle(READING)
    assert pages.rung()


def test_the_retire_flag_is_for_one_slot(pages: Pages) -> None:
    """Seen at once by the worker in it, by no other, and gone when the master clears it."""
    slots = [pages.slot(number) for number in range(3)]
    pages.control.retire(1, True)
    assert [slot.retire for slot in slots] == [False, True, False]
    pages.control.retire(1, False)
    assert [slot.retire for slot in slots] == [False, False, False]


def test_a_stack_is_wanted_of_one_slot(pages: Pages) -> None:
    """Its byte changes each time, for as long as anybody likes, and no other's does."""
    slots = [pages.slot(number) for number in (0, 68, 69)]
    seen = []
    for _ in range(300):
        pages.control.dump(68)
        seen.append(slots[1].dump)
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert (slots[0].dump, slots[2].dump) == (0, 0)


def test_the_request_that_must_stop(pages: Pages) -> None:
    """Its number is seen by the worker in the slot, whole, and by no other."""
    slots = [pages.slot(number) for number in (0, 68, 69)]
    pages.control.time_out(69, 2**48 + 1)
    pages.control.time_out(68, 7)
    assert [slot.timeout for slot in slots] == [0, 7, 2**48 + 1]
    pages.control.time_out(69, 0)
    assert [slot.timeout for slot in slots] == [0, 7, 0]
    assert [slot.retire for slot in slots] == [False] * 3


def test_whether_somebody_waits_is_told_to_all(pages: Pages) -> None:
    """One byte for the whole pool."""
    slots = [pages.slot(number) for number in (0, 69)]
    assert [slot.control[WAITING] for slot in slots] == [0, 0]
    pages.control.wait(True)
    assert [slot.control[WAITING] for slot in slots] == [1, 1]
    pages.control.wait(False)
    assert [slot.control[WAITING] for slot in slots] == [0, 0]


def test_a_copy_forgets(pages: Pages) -> None:
    """After `forget` nothing that the copy does reaches the shared pages, and nothing it does fails."""
    slot = pages.slot(1)
    slot.begin(RUNNING, "GET", "/before", 1.0)
    pages.control.retire(1, True)
    slot.forget()
    slot.begin(WRITING, "GET", "/after", 2.0)
    slot.extend(9.0)
    slot.count(0)
    slot.wait(1.0)
    slot.finish(1.0, 1, 1)
    slot.enter(IDLE)
    assert (slot.retire, pages.board.state(1), pages.board.read(1).uri) == (False, RUNNING, "/before")
    assert (slot.dump, slot.timeout, slot.control[WAITING]) == (0, 0, 0)
    assert (pages.board.deadline(1), pages.board.total(0)) == ((1, 1.0, 0.0), 0)
    assert pages.board.account(1) == Account()


# what the master makes of anything


def scribble(board: Scoreboard, slot: int, record: bytes) -> None:
    """Write a record, or its beginning, as a worker could."""
    page = mmap.mmap(board.descriptor, 0)
    page[ROOM + slot * RECORD : ROOM + slot * RECORD + len(record)] = record
    page.close()


@pytest.fixture(scope="module")
def board() -> Iterator[Scoreboard]:
    board = Scoreboard(SLOTS)
    yield board
    board.close()


@given(record=st.binary(min_size=RECORD, max_size=RECORD), slot=st.integers(0, SLOTS - 1))
def test_any_bytes_can_be_read(board: Scoreboard, record: bytes, slot: int) -> None:
    """Numbers within their fields, text of bounded length, and no exception, whatever the bytes are."""
    scribble(board, slot, record)
    read = board.read(slot)
    assert 0 <= read.requests < 2**48
    assert 0 <= read.generation < 2**32
    assert (len(read.method) <= 16, len(read.uri) <= 440) == (True, True)
    assert all(0 <= count < 2**48 for count in board.counters(slot))
    board.set_state(SLOTS - 1, FREE)
    totals = board.totals()
    assert all(0 <= count < SLOTS * 2**48 for count in (totals.requests, totals.sent, *totals.ran, *totals.waited))
    assert all(0.0 <= total < SLOTS * 2.0**48 for total in (totals.ran_seconds, totals.waited_seconds))
    account = board.account(slot)
    assert (0 <= account.received < 2**48, 0 <= account.sent < 2**48, 0.0 <= account.last < 2.0**31) == (True,) * 3
    seen = board.deadline(slot)
    assert (seen is None) == (record[0] % 2 == 1)
    assert seen is None or 0 <= seen[0] < 2**64


@pytest.mark.parametrize("started", [math.nan, math.inf, -math.inf, -1e308, 1e308, 5e-324, -0.0])
def test_any_number_can_be_a_start(board: Scoreboard, started: float) -> None:
    """It is handed on as it is: whoever uses it judges it."""
    scribble(board, 0, REQUEST.pack(0, 1, started, 0.0, -1.0, -1, 1, 3, 1, b"GET", b"/", 0, b""))
    assert struct.pack("<d", board.read(0).started) == struct.pack("<d", started)


def test_a_record_that_never_gets_whole_is_read_all_the_same(board: Scoreboard) -> None:
    """A worker that died while it wrote leaves an odd sequence: the record is shown as it stands, after a few tries."""
    scribble(board, 0, REQUEST.pack(7, 5, 1.0, 0.0, -1.0, -1, 2, 3, 4, b"GET", b"/torn", 0, b""))
    assert board.read(0) == SlotRecord(5, 1.0, 2, "GET", "/tor")


@pytest.mark.parametrize("left", [0, 1, 0xFD, 0xFE, 0xFF, 0x1_0000_FFFE, 2**48 - 1, 2**64 - 1])
def test_whole_records_have_even_sequences_that_only_grow(pages: Pages, left: int) -> None:
    """Whatever the last worker left, and across every carry: nobody mistakes one record for the next."""
    scribble(pages.board, 0, struct.pack("<Q", left))
    slot = pages.slot()
    page = mmap.mmap(pages.board.descriptor, 0)
    last = -1
    for number in range(600):
        slot.begin(RUNNING, "GET", f"/{number}", 1.0)
        (sequence,) = struct.unpack("<Q", page[ROOM : ROOM + 8])
        assert sequence % 2 == 0
        assert sequence == (last + 2 if last >= 0 else sequence)
        assert pages.board.read(0).uri == f"/{number}"
        last = sequence
    page.close()


@pytest.mark.parametrize("length", [0, 3, 16, 17, 65_535])
def test_a_length_beyond_its_field_is_the_whole_field(board: Scoreboard, length: int) -> None:
    """It never reads into the next record."""
    texts = (b"M" * 16, b"u" * 440, min(length, 255), b"p" * 18)
    scribble(board, 0, REQUEST.pack(2, 1, 1.0, 0.0, -1.0, -1, 1, length, length, *texts))
    read = board.read(0)
    assert (len(read.method), len(read.uri)) == (min(length, 16), min(length, 440))
    assert read.peer == (f"[{':'.join(['7070'] * 8)}]:28784" if length >= 18 else None)


def test_every_byte_is_a_state(board: Scoreboard) -> None:
    """0 to 255, as the worker put it there."""
    page = mmap.mmap(board.descriptor, 0)
    page[:SLOTS] = bytes(range(256 - SLOTS, 256))
    assert [board.state(slot) for slot in range(SLOTS)] == list(board.states()) == list(range(256 - SLOTS, 256))
    page[:SLOTS] = bytes(SLOTS)


def test_close_gives_everything_back() -> None:
    """No descriptor is left, and a worker's own view goes on."""
    before = os.listdir("/proc/self/fd")
    board, control = Scoreboard(64), ControlPage(64)
    slot = Slot(0, 64, board.descriptor, control.descriptor, -1, 1, IDLE)
    board.close()
    control.close()
    slot.enter(RUNNING)
    assert slot.retire is False
    del slot
    assert os.listdir("/proc/self/fd") == before
