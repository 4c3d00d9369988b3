"""What the master holds open for one pool: the listener, the shared pages, the doorbell, and a channel a process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from prefork.master.loads import Loads
from prefork.master.output import Outputs
from prefork.policy.model import FREE, RUNNING, STARTING, WRITING, Running
from prefork.policy.saturation import RunningRequest
from prefork.system.bell import silence
from prefork.system.bulletin import Bulletin
from prefork.system.channel import Place
from prefork.system.controlpage import ControlPage
from prefork.system.listener import Listener
from prefork.system.logfile import LogFile
from prefork.system.records import LONGEST, Account, SlotRecord
from prefork.system.scoreboard import Scoreboard
from prefork.system.sockdiag import SocketDiagnosis
from prefork.system.stacks import open_page
from prefork.system.tap import TapPair

__all__ = ["Channel", "Doorbell", "Holdings", "as_running"]


@dataclass(slots=True)
class Channel:
    """The master's end of a channel. ``slot`` is None for a zygote's."""

    end: socket.socket
    slot: int | None
    generation: int
    heard: int = 0  # messages so far: no process of ours has more than a handful to say


@dataclass(slots=True)
class Doorbell:
    """An eventfd that the worker rings which takes the last idle slot, if it was armed."""

    descriptor: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    arm_at: float = 0.0

    def fileno(self) -> int:
        """Readable once it was rung."""
        return self.descriptor

    def answer(self) -> None:
        """Silence it, without ever waiting."""
        silence(self.descriptor)


class Holdings:
    """Every descriptor of one pool, and what is done with them besides processes."""

    def __init__(self, listener: Listener, slots: int, logs: Mapping[Place, LogFile] | None = None) -> None:
        self.listener = listener
        self.earlier: dict[int, Listener] = {}  # by number: replaced, and perhaps with connections in their queues
        self._queued: dict[int, int | None] = {}  # of these: how many, when they were last counted; None: unknown
        self._looked_after: set[int] = set()  # of these: numbers of those that somebody served since
        self.logs: Mapping[Place, LogFile] = logs or {}
        self.outputs: Outputs | None = None  # where what the application prints is caught
        with contextlib.ExitStack() as undo:  # descriptors may be short: then nothing stays open
            self.scoreboard = Scoreboard(slots)
            undo.callback(self.scoreboard.close)
            self.control = ControlPage(slots)
            undo.callback(self.control.close)
            self.doorbell = Doorbell()
            undo.callback(os.close, self.doorbell.descriptor)
            self.stacks = open_page()
            undo.callback(os.close, self.stacks)
            self.tap = TapPair()
            undo.pop_all()
        self.bulletin: Bulletin | None = None  # what the pool may show of the server; the master's
        self.zygotes: dict[int, Channel] = {}  # by generation
        self.workers: dict[int, Channel] = {}  # by slot
        self.pages: dict[int, int] = {}  # by slot: where its worker writes its stack
        self.timed_out: set[int] = set()  # slots whose workers were told that a request took too long: they will leave
        self.kill_reasons: dict[int, str] = {}
        self.requests_before: dict[int, int] = {}  # by slot: what its counter said when its worker was asked for
        self.account_before: dict[int, Account] = {}  # the same of its account
        self.loads = Loads()
        self.watched_until = 0.0  # monotonic; somebody looks at the status

    def replace_listener(self, number: int, successor: Listener) -> None:
        """Put an open listener in the place of the current one, which has this ``number`` and is kept for its queue."""
        self.listener.give_way()
        self.earlier[number], self.listener = self.listener, successor

    def count_earlier(self, diagnosis: SocketDiagnosis, served: Collection[int] = ()) -> int | None:
        """The connections in the queues of earlier listeners; None if there are none, or where one is unknown.

        What waits at an inherited one is its owner's. Where the kernel does not tell, somebody may wait at one that
        nobody has ``served`` since it was replaced: it counts as one. Whoever serves it goes on until its end.
        """
        self._looked_after |= self.earlier.keys() & set(served)
        self._queued = {number: self._count(number, listener, diagnosis) for number, listener in self.earlier.items()}
        counts = list(self._queued.values())
        known = [count for count in counts if count is not None]
        return sum(known) if counts and len(known) == len(counts) else None

    def _count(self, number: int, listener: Listener, diagnosis: SocketDiagnosis) -> int | None:
        if listener.inherited:
            return 0
        reading = listener.queue(diagnosis)
        if reading is not None:
            return reading.waiting
        return None if number in self._looked_after else 1

    def listener_owed(self, served: Collection[int]) -> int | None:
        """The number of an earlier listener at which connections wait, and none of those that are ``served``."""
        return next((number for number, count in self._queued.items() if count and number not in served), None)

    def close_earlier(self, served: Collection[int]) -> None:
        """Close the earlier listeners that are done with: nobody waits there, and they are not ``served`` any more.

        Only what was counted since it was replaced: before, somebody may wait, and it may still wake the master.
        """
        done = [number for number, count in self._queued.items() if not count and number not in served]
        for number in done:
            del self._queued[number]
            self._looked_after.discard(number)
            self.earlier.pop(number).close()

    @property
    def channels(self) -> list[Channel]:
        """Those to all processes of the pool."""
        return [*self.zygotes.values(), *self.workers.values()]

    def gifts(self, channel: int, logs: Mapping[Place, LogFile] | None = None) -> dict[int, int]:
        """What a zygote is given: the place where it finds each thing, and our descriptor of it.

        ``logs`` are those of the pool, unless it brings its own.
        """
        if self.tap.is_broken:  # by the application: the next generation has another chance
            with contextlib.suppress(OSError):  # no descriptors: nobody serves the worse for it
                broken, self.tap = self.tap, TapPair()
                broken.close()
        return {
            Place.CHANNEL: channel,
            Place.SCOREBOARD: self.scoreboard.descriptor,
            Place.CONTROL: self.control.descriptor,
            Place.DOORBELL: self.doorbell.descriptor,
            Place.STACKS: self.stacks,
            Place.TAP: self.tap.writing.fileno(),
            **self._bulletin(),
            **{place: log.fileno() for place, log in (self.logs if logs is None else logs).items()},
        }

    def _bulletin(self) -> dict[int, int]:
        if self.bulletin is None:
            return {}
        return {Place.BULLETIN: self.bulletin.descriptor, Place.BULLETIN_BELL: self.bulletin.bell}

    def output_of(self, place: int) -> tuple[int, ...]:
        """Standard output and error for a process that is about to be made, to be closed when it has them.

        It gets a place: a slot, or the negative generation of a zygote. Nothing where nothing is caught. Raises
        OSError.
        """
        return () if self.outputs is None else self.outputs.open(place)

    def leave_output(self, place: int) -> None:
        """The process in a place has ended; to be called while its pid is still known."""
        if self.outputs is not None:
            self.outputs.leave(place)

    def open_page(self, slot: int) -> int:
        """A page for the stack of the worker that is about to be made in a slot. Raises OSError."""
        self._close_page(slot)  # of a fork that came to nothing
        self.pages[slot] = open_page()
        return self.pages[slot]

    def _close_page(self, slot: int) -> None:
        page = self.pages.pop(slot, None)
        if page is not None:
            os.close(page)

    def prepare_slot(self, slot: int) -> None:
        """Before a fork: whatever the last worker left must not be taken for the new one's word."""
        self.control.retire(slot, False)
        self.control.time_out(slot, 0)
        self.requests_before[slot] = self.scoreboard.read(slot).requests
        self.account_before[slot] = self.scoreboard.account(slot)
        self.scoreboard.set_state(slot, STARTING)

    def free_slot(self, slot: int) -> None:
        """After an end."""
        self.scoreboard.set_state(slot, FREE)
        self.timed_out.discard(slot)
        self._close_page(slot)

    def requests(self, states: bytes, sought: Container[int] = ()) -> tuple[Running, ...]:
        """What the workers in these states say they run, for the policy, which believes no number of it.

        ``sought`` are the slots whose stack is being looked for.
        """
        found = []
        for slot, state in enumerate(states):
            if state in (RUNNING, WRITING):
                request = self.scoreboard.deadline(slot)
                if request is not None and request[0]:
                    found.append(Running(slot, *request, slot in sought))
        return tuple(found)

    def runs(self, slot: int, number: int) -> bool:
        """Whether the worker in a slot says that it runs the request of this number."""
        request = self.scoreboard.deadline(slot)
        return self.scoreboard.state(slot) in (RUNNING, WRITING) and request is not None and request[0] == number

    def running(self, slot: int, now: float) -> RunningRequest | None:
        """What the worker in a slot says it runs; None if nothing."""
        return as_running(self.scoreboard.read(slot), now)

    def close(self) -> None:
        """Let go of everything. The lock file stays, as a file."""
        for channel in self.channels:
            channel.end.close()
        self.scoreboard.close()
        self.control.close()
        os.close(self.doorbell.descriptor)
        os.close(self.stacks)
        self.tap.close()
        for slot in list(self.pages):
            self._close_page(slot)
        if self.outputs is not None:
            self.outputs.close()
        for listener in (self.listener, *self.earlier.values()):
            listener.close()


def as_running(record: SlotRecord, now: float) -> RunningRequest | None:
    """The request of a record, running; None if it cannot be one."""
    # The worker wrote these numbers: NaN, the future, the dawn of time reach no log line and no comparison.
    seconds = now - record.started
    if not record.method or not 0.0 <= seconds < LONGEST:
        return None
    return RunningRequest(record.method, record.uri, seconds)
