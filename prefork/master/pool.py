"""Bookkeeping of one pool: who is in which slot, and what is known of him. No system call, no decision.

Every method is one thing that happened. The records are values (`Worker`, `Zygote`), replaced rather than changed, so
that a view taken for the policy stays what it was.
"""

from __future__ import annotations

from dataclasses import replace

from prefork.errors import PreforkError
from prefork.policy.model import Ended, PoolView, Worker, Zygote, ZygoteState

__all__ = ["Pool"]


class Pool:
    """The master's memory of one pool."""

    def __init__(
        self,
        name: str,
        app_name: str,
        *,
        max_children: int,
        slots: int,
        boot_timeout: float,
        graceful_timeout: float,
        inherited: bool,
        silent: bool = False,
    ) -> None:
        self.name = name
        self.app_name = app_name
        self.max_children = max_children
        self.slots = slots
        self.generation = 0
        self.workers: dict[int, Worker] = {}
        self.zygote: Zygote | None = None
        self.zygote_pid = 0
        self.failure: PreforkError | None = None  # why the last start came to nothing
        self.open = False
        self.shut = False
        self.verified = False
        self.waiting: int | None = None  # in the listen queue, when it was last looked at
        self.most_waiting = 0
        self.limit: int | None = None
        self._slot_of: dict[int, int] = {}
        self._ended: list[Ended] = []
        self._boot_timeout = boot_timeout
        self._graceful_timeout = graceful_timeout
        self._inherited = inherited
        self._silent = silent

    # the zygote

    def zygote_started(self, pid: int, now: float) -> None:
        """A zygote of a new generation was started."""
        self.generation += 1
        self.zygote = Zygote(self.generation, ZygoteState.LOADING, started=now, changed=now)
        self.zygote_pid = pid

    def start_failed(self, failure: PreforkError) -> None:
        """A zygote could not even be started."""
        self.failure = failure
        self._ended.append(Ended(None, expected=False))

    def zygote_ready(self, *, loaded: bool, unfit: bool, now: float) -> None:
        """It can fork; ``loaded`` says that its workers will start with the application."""
        if self.zygote is not None:
            self.zygote = replace(self.zygote, state=ZygoteState.READY, loaded=loaded, unfit=unfit, changed=now)
            self.verified = self.verified or loaded

    def zygote_failed(self, failure: PreforkError, now: float) -> None:
        """It cannot load the application."""
        if self.zygote is not None:
            self.zygote = replace(self.zygote, state=ZygoteState.FAILED, changed=now)
        self.failure = failure

    def zygote_leaving(self, now: float) -> None:
        """It was told to end."""
        if self.zygote is not None:
            self.zygote = replace(self.zygote, state=ZygoteState.LEAVING, changed=now)

    def zygote_ended(self) -> Zygote | None:
        """It is gone; returns what was known of it."""
        zygote, self.zygote, self.zygote_pid = self.zygote, None, 0
        if zygote is not None:
            ready = zygote.changed if zygote.state is ZygoteState.READY else None
            self._ended.append(Ended(ready, expected=zygote.state is ZygoteState.LEAVING))
        return zygote

    # workers

    def forked(self, slot: int, now: float) -> None:
        """A worker was asked for."""
        self.workers[slot] = Worker(slot=slot, generation=self.generation, forked=now)

    def not_forked(self, slot: int) -> None:
        """The worker that was asked for never came, or ended before anybody knew it."""
        worker = self.workers.pop(slot, None)
        if worker is not None:
            self._slot_of.pop(worker.pid, None)
            self._ended.append(Ended(worker.ready, expected=worker.retired is not None))

    def adopted(self, slot: int, pid: int) -> None:
        """The worker said hello, and its pid is a child of ours."""
        self.workers[slot] = replace(self.workers[slot], pid=pid)
        self._slot_of[pid] = slot

    def ready(self, slot: int, now: float) -> None:
        """The worker has the application."""
        self.workers[slot] = replace(self.workers[slot], ready=now)
        self.verified = True

    def failed(self, slot: int, failure: PreforkError) -> None:
        """The worker cannot load the application."""
        self.workers[slot] = replace(self.workers[slot], failed=True)
        self.failure = failure

    def listening(self, slot: int) -> None:
        """The worker was given the listener."""
        self.workers[slot] = replace(self.workers[slot], listening=True)

    def retired(self, slot: int, now: float) -> None:
        """The worker was asked to leave."""
        self.workers[slot] = replace(self.workers[slot], retired=now)

    def signalled(self, slot: int, now: float) -> None:
        """The worker was reminded of that."""
        worker = self.workers[slot]
        self.workers[slot] = replace(worker, signals=worker.signals + 1, signalled=now)

    def terminated(self, slot: int, now: float) -> None:
        """The worker was sent SIGTERM."""
        self.workers[slot] = replace(self.workers[slot], terminated=now)

    def pid_in(self, slot: int | None) -> int:
        """The pid of the worker in a slot, with None the zygote's; 0 where it is not known."""
        if slot is None:
            return self.zygote_pid
        worker = self.workers.get(slot)
        return worker.pid if worker is not None else 0

    def slot_of(self, pid: int) -> int | None:
        """The slot of an adopted worker."""
        return self._slot_of.get(pid)

    def ended(self, pid: int, *, expected: bool) -> Worker | None:
        """An adopted worker is gone; returns what was known of it."""
        slot = self._slot_of.pop(pid, None)
        if slot is None:
            return None
        worker = self.workers.pop(slot)
        self._ended.append(Ended(worker.ready, expected=expected or worker.retired is not None))
        return worker

    def view(self, states: bytes, waiting: int | None, limit: int | None) -> PoolView:
        """What the policy gets to see. Ends are told once."""
        ended, self._ended = tuple(self._ended), []
        self.waiting, self.limit = waiting, limit
        self.most_waiting = max(self.most_waiting, waiting or 0)
        return PoolView(
            name=self.name,
            max_children=self.max_children,
            slots=self.slots,
            boot_timeout=self._boot_timeout,
            graceful_timeout=self._graceful_timeout,
            workers=tuple(self.workers.values()),
            states=states,
            zygote=self.zygote,
            open=self.open,
            shut=self.shut,
            inherited=self._inherited,
            silent=self._silent,
            verified=self.verified,
            ended=ended,
            waiting=waiting,
            limit=limit,
        )
