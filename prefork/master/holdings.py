"""What the master holds open for one pool: the listener, the shared pages, the doorbell, and a channel a process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefork.master.output import Outputs
from prefork.policy.model import FREE, STARTING
from prefork.policy.saturation import RunningRequest
from prefork.system.channel import Place
from prefork.system.listener import Listener
from prefork.system.logfile import LogFile
from prefork.system.scoreboard import ControlPage, Scoreboard
from prefork.system.stacks import open_page

__all__ = ["Channel", "Doorbell", "Holdings"]


@dataclass(slots=True)
class Channel:
    """The master's end of a channel. ``slot`` is None for the zygote's."""

    end: socket.socket
    slot: int | None
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
        """Silence it, without ever waiting.

        O_NONBLOCK is not enough: that flag belongs to the open file, which every worker shares and may change.
        """
        try:
            os.preadv(self.descriptor, [bytearray(8)], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError:  # EOPNOTSUPP: an eventfd before Linux 5.8
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.descriptor)


class Holdings:
    """Every descriptor of one pool, and what is done with them besides processes."""

    def __init__(self, listener: Listener, slots: int, logs: Mapping[Place, LogFile] | None = None) -> None:
        self.listener = listener
        self.logs: Mapping[Place, LogFile] = logs or {}
        self.outputs: Outputs | None = None  # where what the application prints is caught
        self.scoreboard = Scoreboard(slots)
        self.control = ControlPage(slots)
        self.doorbell = Doorbell()
        self.stacks = open_page()
        self.zygote: Channel | None = None
        self.workers: dict[int, Channel] = {}
        self.kill_reasons: dict[int, str] = {}
        self.requests_before: dict[int, int] = {}  # by slot: what its counter said when its worker was asked for

    def gifts(self, channel: int) -> dict[int, int]:
        """What a zygote is given: the place where it finds each thing, and our descriptor of it."""
        return {
            Place.CHANNEL: channel,
            Place.SCOREBOARD: self.scoreboard.descriptor,
            Place.CONTROL: self.control.descriptor,
            Place.DOORBELL: self.doorbell.descriptor,
            Place.STACKS: self.stacks,
            **{place: log.fileno() for place, log in self.logs.items()},
        }

    def output_of(self, slot: int | None) -> tuple[int, ...]:
        """Standard output and error for a process that is about to be made, to be closed when it has them.

        None of them where nothing is caught. Raises OSError.
        """
        return () if self.outputs is None else self.outputs.open(slot)

    def leave_output(self, slot: int | None) -> None:
        """The process in a slot (None: the zygote) has ended; to be called while its pid is still known."""
        if self.outputs is not None:
            self.outputs.leave(slot)

    def prepare_slot(self, slot: int) -> None:
        """Before a fork: whatever the last worker left must not be taken for the new one's word."""
        self.control.retire(slot, False)
        self.requests_before[slot] = self.scoreboard.read(slot).requests
        self.scoreboard.set_state(slot, STARTING)

    def free_slot(self, slot: int) -> None:
        """After an end."""
        self.scoreboard.set_state(slot, FREE)

    def running(self, slot: int, now: float) -> RunningRequest | None:
        """What the worker in a slot says it runs; None if nothing."""
        record = self.scoreboard.read(slot)
        # The worker wrote these numbers: NaN and the far future must not reach a log line or a comparison.
        seconds = now - record.started
        if not record.method or not 0.0 <= seconds < float("inf"):
            return None
        return RunningRequest(record.method, record.uri, seconds)

    def close(self) -> None:
        """Let go of everything. The lock file stays, as a file."""
        for channel in (self.zygote, *self.workers.values()):
            if channel is not None:
                channel.end.close()
        self.scoreboard.close()
        self.control.close()
        os.close(self.doorbell.descriptor)
        os.close(self.stacks)
        if self.outputs is not None:
            self.outputs.close()
        self.listener.close()
