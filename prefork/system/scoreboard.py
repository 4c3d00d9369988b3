"""The two shared pages between a master and the workers of one pool.

The **scoreboard** is written by workers and read by the master: one slot a worker. The **control page** goes the
other way: written by the master, read by workers once per request. Neither has a lock.

* Both are memfds sealed against shrinking and growing: a worker that could truncate one would kill the master
  with SIGBUS at its next look. The control page is also sealed against future writes, so that no process but the
  master, whose mapping is older than the seal, can ever write to it (``F_SEAL_FUTURE_WRITE``, Linux 5.1).
* The master believes nothing it reads here. States out of range count as busy, text is decoded leniently, and no
  process identity is taken from these bytes.
* Counters outlive the worker that wrote them: the next one in the slot goes on counting.

Layout of the scoreboard: the state bytes of all slots side by side (so that "is anyone idle?" is one ``find``),
then one record a slot. Layout of the control page: the doorbell byte, the log epoch, later the retire byte of every
slot.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["ControlPage", "Scoreboard", "Slot", "SlotRecord", "slots_for"]

# Linux uapi/linux/fcntl.h; Python names only the first four, and only since 3.8.
_F_SEAL_SEAL: Final = 1
_F_SEAL_SHRINK: Final = 2
_F_SEAL_GROW: Final = 4
_F_SEAL_FUTURE_WRITE: Final = 16

_MINIMUM_SLOTS: Final = 64

# sequence (odd while being written), requests begun, start of the request (monotonic seconds), generation,
# then method and URI with their lengths.
_RECORD: Final = struct.Struct("<QQdIHH16s464s")
_METHOD_ROOM: Final = 16
_URI_ROOM: Final = 464
_RECORD_SIZE: Final = 512
_SEQUENCE: Final = struct.Struct("<Q")
_REQUESTS: Final = struct.Struct("<8xQ496x")  # of a whole record
_TORN_READ_TRIES: Final = 4
_BELIEVABLE: Final = 2**48  # counters, in 64 bits: no worker gets there

_CONTROL_HEADER: Final = 64


def slots_for(max_children: int) -> int:
    """How many slots a pool gets: room for four generations, 64 at least, decided once."""
    return max(_MINIMUM_SLOTS, 4 * max_children)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """One slot as the master read it: a claim by the worker, not a fact."""

    requests: int
    started: float
    generation: int
    method: str
    uri: str


def _memfd(name: str, size: int) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def _seal(descriptor: int, seals: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)


class Scoreboard:
    """The master's view of what its workers say they do."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._states_room = -(-slots // 64) * 64
        self.descriptor = _memfd("prefork-scoreboard", self._states_room + slots * _RECORD_SIZE)
        _seal(self.descriptor, 0)
        self._page = mmap.mmap(self.descriptor, 0)

    def state(self, slot: int) -> int:
        """The state byte of a slot, whatever a worker put there (0 to 255)."""
        return self._page[slot]

    def states(self) -> bytes:
        """A copy of all the state bytes, slot 0 first."""
        return self._page[: self.slots]

    def set_state(self, slot: int, state: int) -> None:
        """Only for slots without a living worker: before its fork and after its end."""
        self._page[slot] = state

    def read(self, slot: int) -> SlotRecord:
        """A slot's record; a record that is being rewritten at every try is returned as last seen."""
        offset = self._states_room + slot * _RECORD_SIZE
        for _ in range(_TORN_READ_TRIES):
            before, requests, started, generation, method_length, uri_length, method, uri = _RECORD.unpack_from(
                self._page, offset
            )
            (after,) = _SEQUENCE.unpack_from(self._page, offset)
            if before == after and before % 2 == 0:
                break
        return SlotRecord(
            requests=requests,
            started=started,
            generation=generation,
            method=method[: min(method_length, _METHOD_ROOM)].decode("latin-1"),
            uri=uri[: min(uri_length, _URI_ROOM)].decode("latin-1"),
        )

    def total_requests(self) -> int:
        """Requests begun in all slots, by all workers there ever were."""
        with memoryview(self._page) as page, page[self._states_room :] as records:
            return sum(requests for (requests,) in _REQUESTS.iter_unpack(records))

    def close(self) -> None:
        """Give the page back; workers keep theirs."""
        self._page.close()
        os.close(self.descriptor)


class ControlPage:
    """What the master tells all workers of a pool without waking any of them."""

    def __init__(self, slots: int) -> None:
        self.descriptor = _memfd("prefork-control", _CONTROL_HEADER + slots)
        self._page = mmap.mmap(self.descriptor, 0)
        _seal(self.descriptor, _F_SEAL_FUTURE_WRITE)

    def arm_doorbell(self, armed: bool) -> None:
        """Ask the worker that takes the last idle slot to ring. Arm first, then look: a hint, not a promise."""
        self._page[0] = armed

    def renew_logs(self) -> None:
        """Tell all workers that logs were opened anew, after the descriptors were sent to them."""
        self._page[1] = (self._page[1] + 1) % 256

    def retire(self, slot: int, retire: bool) -> None:
        """Tell the worker in a slot to leave before its next accept(2), or clear that for the next worker."""
        self._page[_CONTROL_HEADER + slot] = retire

    def close(self) -> None:
        """Give the page back; workers keep theirs."""
        self._page.close()
        os.close(self.descriptor)


class Slot:
    """A worker's own slot, and its view of the control page.

    The only writer of that slot. Every method is a few stores into shared memory: no system call, except the
    eventfd write when the doorbell rings.
    """

    def __init__(
        self, number: int, slots: int, scoreboard: int, control: int, doorbell: int, generation: int, idle: int
    ) -> None:
        self.number = number
        self._slots = slots
        self._page = mmap.mmap(scoreboard, 0)
        self._control = mmap.mmap(control, 0, prot=mmap.PROT_READ)
        self._doorbell = doorbell
        self._idle = idle
        self._idle_byte = bytes((idle,))
        self._generation = generation
        self._offset = -(-slots // 64) * 64 + number * _RECORD_SIZE
        sequence, requests = struct.unpack_from("<QQ", self._page, self._offset)
        # Whatever the last one left: a count that cannot be true must not overflow its field in our hands.
        self._sequence: int = (sequence + sequence % 2) % _BELIEVABLE
        self._requests: int = requests % _BELIEVABLE

    @property
    def retire(self) -> bool:
        """Whether the master wants this worker to leave before its next accept(2)."""
        return self._control[_CONTROL_HEADER + self.number] != 0

    @property
    def log_epoch(self) -> int:
        """Changes whenever logs were opened anew."""
        return self._control[1]

    @property
    def requests(self) -> int:
        """Requests begun in this slot, by this worker and those before it."""
        return self._requests

    def enter(self, state: int) -> None:
        """Publish what this worker does now."""
        self._page[self.number] = state

    def leave_idle(self, state: int) -> None:
        """Publish the end of idleness; rings the doorbell if nobody else is idle and the master armed it."""
        self._page[self.number] = state
        if self._control[0] and self._page.find(self._idle_byte, 0, self._slots) < 0:
            try:
                os.eventfd_write(self._doorbell, 1)
            except BlockingIOError:
                pass  # it rings already, as often as an eventfd can count

    def begin(self, state: int, method: str, uri: str, now: float) -> None:
        """Publish that a request begins: what, and when (monotonic seconds). Over-long text is cut."""
        self._requests += 1
        self._sequence += 2
        method_bytes = method.encode("latin-1", "replace")
        uri_bytes = uri.encode("latin-1", "replace")
        page = self._page
        # Odd while the record changes, even again when it is whole: a reader that saw the same even number
        # before and after has not read a torn record. (x86 keeps the stores in order; elsewhere a torn record
        # is shown now and then, which is all that can come of it.)
        _SEQUENCE.pack_into(page, self._offset, self._sequence - 1)
        _RECORD.pack_into(
            page,
            self._offset,
            self._sequence - 1,
            self._requests,
            now,
            self._generation,
            min(len(method_bytes), _METHOD_ROOM),
            min(len(uri_bytes), _URI_ROOM),
            method_bytes,
            uri_bytes,
        )
        _SEQUENCE.pack_into(page, self._offset, self._sequence)
        page[self.number] = state

    def forget(self) -> None:
        """Unmap both pages and go on writing to a private one: in a child that the application forked."""
        size = len(self._page)
        self._page.close()
        self._control.close()
        self._page = mmap.mmap(-1, size)
        self._control = mmap.mmap(-1, _CONTROL_HEADER + self._slots)
