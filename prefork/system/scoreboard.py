"""The page of shared memory on which the workers of one pool tell what they do: one slot a worker, no lock.

Written by workers, read by the master; the other way goes the control page (`prefork.system.controlpage`).

* Sealed against shrinking and growing: a worker that could truncate it would kill the master with SIGBUS at its next
  look.
* The master believes nothing it reads here. States out of range count as busy, text is decoded leniently, and no
  process identity is taken from these bytes.
* Counters outlive the worker that wrote them: the next one in the slot goes on counting. What cannot be true (a
  count beyond all counting, a sum that is no number) counts as 0.

Layout: the state bytes of all slots side by side (so that "is anyone idle?" is one ``find``), then one record a slot:
the request at hand, counters, and the account of the requests that are over: bytes, seconds, and two histograms with
the same `BOUNDS`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from bisect import bisect_left
from typing import Final

from prefork.system.controlpage import CONTROL_HEADER, DOORBELL, TAP, control_size, rows, sealed_memory
from prefork.system.peers import PEER_ROOM, unpack_peer
from prefork.system.records import BELIEVABLE, BOUNDS, LONGEST, Account, SlotRecord, Totals, counted, in_seconds

__all__ = ["Scoreboard", "Slot", "slots_for"]

_MINIMUM_SLOTS: Final = 64

# A record, in native order and sizes: its sequence (odd while the request is being written), requests begun; start of
# the request (monotonic seconds), how much longer it may take, how long it had waited, the length of its body,
# generation, method, URI and peer with their lengths; then the counters; then the account.
#
# What the sequence does not guard is stored through a memoryview of numbers, one number by one store, and loaded the
# same way. Neither holds for a struct: `pack_into` fills its room with zeros first, and what is not native is copied
# byte by byte; a counter that drops to 0 for a moment looks like a restart to whoever collects it.
_SEQUENCE: Final = struct.Struct("@Q")
_LOWEST_BYTE: Final = 0 if sys.byteorder == "little" else 7
_BEGUN: Final = struct.Struct(f"@d8xdqIHH16s440sB{PEER_ROOM}s")  # written when a request begins; nothing extended yet
_BEGUN_AT: Final = 16
_WHOLE: Final = struct.Struct(f"@QQdddqIHH16s440sB{PEER_ROOM}s")
_DEADLINE: Final = struct.Struct("@QQdd")
_METHOD_ROOM: Final = 16
_URI_ROOM: Final = 440
_PEER_AT: Final = 512
_COUNTERS_AT: Final = 536
_COUNTERS: Final = struct.Struct("@16Q")
_RECORD_SIZE: Final = 960
_REQUESTS: Final = struct.Struct(f"@8xQ{_RECORD_SIZE - 16}x")  # of a whole record
_TORN_READ_TRIES: Final = 8
_SHORTEST: Final = 0.001  # the first of the bounds, which most requests keep

# The account: bytes of bodies received and sent, seconds of all requests and of the last one, seconds of all waiting,
# the counts of both histograms.
_ACCOUNT_AT: Final = 664
_BUCKETS: Final = 16
_ACCOUNT: Final = struct.Struct("@QQdd")
_ENTIRE_ACCOUNT: Final = struct.Struct("@QQddd32Q")
_TOTALS: Final = struct.Struct("@8xQ520x16QQQd8xd32Q")  # of a whole record

_NUMBER: Final = struct.Struct("@Q")

# Where a record's numbers stand, counted in numbers.
_SEQUENCE_WORD: Final = 0
_REQUESTS_WORD: Final = 1
_EXTENSION_WORD: Final = 3
_COUNTERS_WORD: Final = _COUNTERS_AT // 8
_RECEIVED_WORD: Final = _ACCOUNT_AT // 8
_SENT_WORD: Final = _RECEIVED_WORD + 1
_RAN_WORD: Final = _RECEIVED_WORD + 2
_LAST_WORD: Final = _RECEIVED_WORD + 3
_WAITED_WORD: Final = _RECEIVED_WORD + 4
_RAN_COUNTS_WORD: Final = _RECEIVED_WORD + 5
_WAITED_COUNTS_WORD: Final = _RAN_COUNTS_WORD + _BUCKETS


def slots_for(max_children: int) -> int:
    """How many slots a pool gets: room for four generations, 64 at least, decided once."""
    return max(_MINIMUM_SLOTS, 4 * max_children)


class Scoreboard:
    """The master's view of what its workers say they do."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._states_room = rows(slots)
        size = self._states_room + slots * _RECORD_SIZE
        self.descriptor, self._page = sealed_memory("prefork-scoreboard", size, for_reading=False)
        self._used = 0  # slots from here on never had a worker

    def state(self, slot: int) -> int:
        """The state byte of a slot, whatever a worker put there (0 to 255)."""
        return self._page[slot]

    def states(self) -> bytes:
        """A copy of all the state bytes, slot 0 first."""
        return self._page[: self.slots]

    def set_state(self, slot: int, state: int) -> None:
        """Only for slots without a living worker: before its fork and after its end."""
        self._used = max(self._used, slot + 1)
        self._page[slot] = state

    def read(self, slot: int) -> SlotRecord:
        """A slot's record; a record that is being rewritten at every try is returned as last seen."""
        offset = self._states_room + slot * _RECORD_SIZE
        page = self._page
        for _ in range(_TORN_READ_TRIES):
            (before,) = _SEQUENCE.unpack_from(page, offset)
            record = page[offset : offset + _WHOLE.size]
            if before % 2 == 0 and _SEQUENCE.unpack_from(page, offset)[0] == before:
                break
        _, requests, started, extension, waited, length, generation, *texts = _WHOLE.unpack(record)
        method_length, uri_length, method, uri, peer_length, peer = texts
        return SlotRecord(
            requests=requests if requests < BELIEVABLE else 0,
            started=started,
            generation=generation,
            method=method[:method_length].decode("latin-1"),
            uri=uri[:uri_length].decode("latin-1"),
            extension=extension,
            waited=waited if 0.0 <= waited < LONGEST else None,
            length=length if 0 <= length < BELIEVABLE else None,
            peer=unpack_peer(peer[:peer_length]),
        )

    def deadline(self, slot: int) -> tuple[int, float, float] | None:
        """Number and start of a slot's request, and its extension; None while the record is being rewritten.

        As `read`, at a quarter of the price: for a look at all busy workers, several times a second.
        """
        offset = self._states_room + slot * _RECORD_SIZE
        before, number, started, extension = _DEADLINE.unpack_from(self._page, offset)
        if before % 2 or _SEQUENCE.unpack_from(self._page, offset)[0] != before:
            return None
        return number, started, extension

    def counters(self, slot: int) -> tuple[int, ...]:
        """A slot's counters, as its workers counted (`prefork.policy.model` names them); 0 for one beyond belief."""
        return counted(_COUNTERS.unpack_from(self._page, self._states_room + slot * _RECORD_SIZE + _COUNTERS_AT))

    def total(self, counter: int) -> int:
        """One counter of all slots, by all workers there ever were."""
        before = _COUNTERS_AT + counter * _NUMBER.size
        one = struct.Struct(f"<{before}xQ{_RECORD_SIZE - before - _NUMBER.size}x")
        with memoryview(self._page) as page, page[self._states_room :] as records:
            return sum(count for (count,) in one.iter_unpack(records) if count < BELIEVABLE)

    def total_requests(self) -> int:
        """Requests begun in all slots, by all workers there ever were."""
        with memoryview(self._page) as page, page[self._states_room :] as records:
            return sum(requests for (requests,) in _REQUESTS.iter_unpack(records) if requests < BELIEVABLE)

    def account(self, slot: int) -> Account:
        """What the requests of a slot came to, by all workers it ever had."""
        at = self._states_room + slot * _RECORD_SIZE + _ACCOUNT_AT
        received, sent, _, last = _ACCOUNT.unpack_from(self._page, at)
        return Account(
            received if received < BELIEVABLE else 0,
            sent if sent < BELIEVABLE else 0,
            last if 0.0 <= last < LONGEST else 0.0,
        )

    def totals(self) -> Totals:
        """All that is counted, of all slots, in one go."""
        with memoryview(self._page) as page:
            end = self._states_room + max(1, self._used) * _RECORD_SIZE
            with page[self._states_room : end] as records:
                columns = list(zip(*_TOTALS.iter_unpack(records), strict=True))
        counts = [sum(counted(column)) for column in (*columns[:19], *columns[21:])]
        ran, waited = (sum(map(in_seconds, column)) for column in columns[19:21])
        return Totals(
            requests=counts[0],
            counters=tuple(counts[1:17]),
            received=counts[17],
            sent=counts[18],
            ran=tuple(counts[19 : 19 + _BUCKETS]),
            ran_seconds=ran,
            waited=tuple(counts[19 + _BUCKETS :]),
            waited_seconds=waited,
        )

    def close(self) -> None:
        """Give the page back; workers keep theirs."""
        self._page.close()
        os.close(self.descriptor)


class Slot:
    """A worker's own slot, and its view of the control page.

    ``requests`` are those begun in this slot, by this worker and those before it. ``control`` is the control page, for
    whoever looks at a byte of it in every request; a fork replaces it.

    The only writer of that slot. Every method is a few stores into shared memory; only the doorbell is a system call.
    """

    def __init__(
        self, number: int, slots: int, scoreboard: int, control: int, doorbell: int, generation: int, idle: int
    ) -> None:
        self.number = number
        self._slots = slots
        self.control = mmap.mmap(control, 0, prot=mmap.PROT_READ)
        self._doorbell = doorbell
        self._idle = idle
        self._idle_byte = bytes((idle,))
        self._generation = generation
        self._record_at = rows(slots) + number * _RECORD_SIZE
        self._begun_at = self._record_at + _BEGUN_AT
        self._lowest_at = self._record_at + _LOWEST_BYTE  # of the sequence
        self._write_to(mmap.mmap(scoreboard, 0))
        self._retire_at = CONTROL_HEADER + number
        self._dump_at = CONTROL_HEADER + rows(slots) + number
        self._timeout_at = CONTROL_HEADER + 2 * rows(slots) + number * _NUMBER.size
        sequence, requests = self._counts[_SEQUENCE_WORD], self._counts[_REQUESTS_WORD]
        # Whatever the last one left: a count that cannot be true must not overflow its field in our hands.
        # The first record then ends in a carry, and writes all bytes of the sequence.
        self._sequence: int = (sequence % BELIEVABLE | 0xFF) - 1
        self.requests: int = requests if requests < BELIEVABLE else 0
        self._method = ""  # the last one, and as it is written
        self._method_bytes = b""
        self._counters: list[int] = list(counted(_COUNTERS.unpack_from(self._page, self._record_at + _COUNTERS_AT)))
        received, sent, ran, _, waited, *counts = _ENTIRE_ACCOUNT.unpack_from(self._page, self._record_at + _ACCOUNT_AT)
        self._received: int
        self._sent: int
        self._received, self._sent = counted((received, sent))
        self._ran_seconds: float = in_seconds(ran)
        self._waited_seconds: float = in_seconds(waited)
        self._ran: list[int] = list(counted(counts[:_BUCKETS]))
        self._waited: list[int] = list(counted(counts[_BUCKETS:]))
        self._clear_account()
        self.extension = 0.0  # how much longer the request at hand may take, all together

    def _write_to(self, page: mmap.mmap) -> None:
        self._page = page
        record = memoryview(page)[self._record_at : self._record_at + _RECORD_SIZE]
        self._counts = record.cast("Q")
        self._sums = record.cast("d")

    @property
    def retire(self) -> bool:
        """Whether the master wants this worker to leave before its next accept(2)."""
        return self.control[self._retire_at] != 0

    @property
    def tap(self) -> int:
        """How somebody looks at the traffic (`prefork.system.tap`); 0: nobody does."""
        return self.control[TAP]

    @property
    def dump(self) -> int:
        """Changes whenever the master wants to see this worker's stack."""
        return self.control[self._dump_at]

    @property
    def timeout(self) -> int:
        """The number of the request that must stop; 0: none."""
        number: int = _NUMBER.unpack_from(self.control, self._timeout_at)[0]
        return number

    def enter(self, state: int) -> None:
        """Publish what this worker does now."""
        self._page[self.number] = state

    def offer(self) -> bool:
        """Publish that this worker waits for a connection; False if the master wants it to leave instead."""
        # In this order: once the flag is set, who does not say that it waits takes no connection any more.
        self._page[self.number] = self._idle
        return self.control[self._retire_at] == 0

    def leave_idle(self, state: int) -> None:
        """Publish the end of idleness; rings the doorbell if nobody else is idle and the master armed it."""
        self._page[self.number] = state
        if self.control[DOORBELL] and self._page.find(self._idle_byte, 0, self._slots) < 0:
            try:
                os.eventfd_write(self._doorbell, 1)
            except BlockingIOError:
                pass  # it rings already, as often as an eventfd can count

    def begin(
        self, state: int, method: str, uri: str, now: float, waited: float = -1.0, length: int = -1, peer: bytes = b""
    ) -> None:
        """Publish that a request begins: what, and when (monotonic seconds). Over-long text is cut.

        ``waited`` are the seconds that it had to wait for that, ``length`` the bytes of its body; negative if unknown.
        ``peer`` is who connected (`prefork.system.peers`), or empty.
        """
        self.requests += 1
        self.extension = 0.0
        if method != self._method:
            self._method = method
            self._method_bytes = method.encode("latin-1", "replace")[:_METHOD_ROOM]
        method_bytes = self._method_bytes
        uri_bytes = uri.encode() if uri.isascii() else uri.encode("latin-1", "replace")
        if len(uri_bytes) > _URI_ROOM:
            uri_bytes = uri_bytes[:_URI_ROOM]
        page = self._page
        lowest = self._lowest_at
        last = self._sequence & 0xFF
        self._sequence += 2
        # Odd while the record changes, even again when it is whole: a reader that saw the same even number
        # before and after has not read a torn record. (x86 keeps the stores in order; elsewhere a torn record
        # is shown now and then, which is all that can come of it.) The lowest byte is enough but for a carry.
        page[lowest] = last + 1
        self._counts[_REQUESTS_WORD] = self.requests
        _BEGUN.pack_into(
            page,
            self._begun_at,
            now,
            waited,
            length,
            self._generation,
            len(method_bytes),
            len(uri_bytes),
            method_bytes,
            uri_bytes,
            len(peer),
            peer,
        )
        if last < 0xFE:
            page[lowest] = last + 2
        else:
            self._counts[_SEQUENCE_WORD] = self._sequence
        page[self.number] = state

    def tell_peer(self, peer: bytes) -> None:
        """Publish who connected, packed, of a request that has begun without."""
        at = self._record_at + _PEER_AT
        self._page[at + 1 : at + 1 + len(peer)] = peer
        self._page[at] = len(peer)  # last: until then there is none

    def extend(self, seconds: float) -> None:
        """Publish that the request at hand may take so much longer, on top of what it may already."""
        self.extension += seconds
        self._sums[_EXTENSION_WORD] = self.extension

    def count(self, counter: int) -> None:
        """Count one more of something (`prefork.policy.model` names the counters)."""
        self._counters[counter] += 1
        self._counts[_COUNTERS_WORD + counter] = self._counters[counter]

    def finish(self, seconds: float, received: int, sent: int) -> None:
        """Put a request that was run into the account: how long that took, and the bytes of its bodies."""
        bucket = 0 if seconds <= _SHORTEST else bisect_left(BOUNDS, seconds)
        count = self._ran[bucket] + 1
        self._ran[bucket] = count
        self._counts[_RAN_COUNTS_WORD + bucket] = count
        self._ran_seconds += seconds
        sums = self._sums
        sums[_RAN_WORD] = self._ran_seconds
        sums[_LAST_WORD] = seconds
        if sent:
            self._sent += sent
            self._counts[_SENT_WORD] = self._sent
        if received:
            self.move(received, 0)

    def move(self, received: int, sent: int) -> None:
        """Put bytes of bodies into the account."""
        if received:
            self._received += received
            self._counts[_RECEIVED_WORD] = self._received
        if sent:
            self._sent += sent
            self._counts[_SENT_WORD] = self._sent

    def wait(self, seconds: float) -> None:
        """Put into the account how long a request had waited for a worker, run or not; negative if that is unknown."""
        if seconds < 0.0:
            return
        bucket = bisect_left(BOUNDS, seconds)
        count = self._waited[bucket] + 1
        self._waited[bucket] = count
        self._counts[_WAITED_COUNTS_WORD + bucket] = count
        self._waited_seconds += seconds
        self._sums[_WAITED_WORD] = self._waited_seconds

    def _clear_account(self) -> None:
        """Say what is believed of the account that was found; the last request was another worker's."""
        for index, number in enumerate((self._received, self._sent)):
            self._counts[_RECEIVED_WORD + index] = number
        for index, seconds in enumerate((self._ran_seconds, 0.0, self._waited_seconds), 2):
            self._sums[_RECEIVED_WORD + index] = seconds
        for index, count in enumerate((*self._ran, *self._waited), 5):
            self._counts[_RECEIVED_WORD + index] = count

    def forget(self) -> None:
        """Unmap both pages and go on writing to a private one: in a child that the application forked."""
        size = len(self._page)
        self._counts.release()
        self._sums.release()
        self._page.close()
        self.control.close()
        self._write_to(mmap.mmap(-1, size))
        self.control = mmap.mmap(-1, control_size(self._slots))
