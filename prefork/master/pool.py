"""Bookkeeping of one pool: who is in which slot, and what is known of him. No system call, no decision.

Every method is one thing that happened. The records are values (`Worker`, `Zygote`), replaced rather than changed, so
that a view taken for the policy stays what it was.

A pool may have several zygotes, told apart by their generations: the *current* one forks its workers, that of a reload
is *coming*, and those of earlier generations, or of a reload that was given up, are leaving.
"""

from __future__ import annotations

import bisect
from dataclasses import replace

from prefork.errors import PreforkError
from prefork.policy.model import IDLE, STARTING, Ended, Phase, PoolView, Rules, Running, Worker, Zygote, ZygoteState

__all__ = ["Pool"]


class Pool:
    """The master's memory of one pool."""

    def __init__(
        self,
        name: str,
        app_name: str,
        *,
        rules: Rules,
        slots: int,
        inherited: bool,
        silent: bool = False,
    ) -> None:
        self.name = name
        self.app_name = app_name
        self.rules = rules
        self.slots = slots
        self.phase: Phase | None = None  # its own, where it is not the server's: it is being added or removed
        self.phase_since = 0.0
        self.generation = 0  # the last that was begun
        self.current = 0  # the generation whose zygote forks the workers
        self.coming = 0  # that of a reload; 0: none yet
        self.reloads = False
        self.coming_rules: Rules | None = None
        self.rejection: PreforkError | None = None  # why the coming generation has failed
        self.workers: dict[int, Worker] = {}
        self.zygotes: dict[int, Zygote] = {}
        self.failure: PreforkError | None = None  # why the last start came to nothing
        self.failed_starts = 0  # of the code that serves, since one of its workers was last ready
        self.last_failure: PreforkError | None = None  # of these
        self.open = False
        self.shut = False
        self.verified = False
        self.waiting: int | None = None  # in the listen queue, when it was last looked at
        self.most_waiting: int | None = None  # None: as long as that is unknown
        self.limit: int | None = None
        self.readable = False  # the listener was watched, and a connection came
        self.ceilings = 0  # how often max_children workers were too few
        self.listener = 1  # the number of the current one
        self._cutoffs: list[int] = []  # the first generation of each code, but the very first
        self._zygote_pids: dict[int, int] = {}
        self._slot_of: dict[int, int] = {}
        self._ended: list[Ended] = []
        self._inherited = inherited
        self._silent = silent

    # the zygotes

    @property
    def zygote(self) -> Zygote | None:
        """The current one."""
        return self.zygotes.get(self.current)

    def zygote_pid(self, generation: int) -> int:
        """The pid of a generation's zygote; 0: there is none."""
        return self._zygote_pids.get(generation, 0)

    def generation_of(self, pid: int) -> int | None:
        """The generation whose zygote a process is."""
        return next((generation for generation, known in self._zygote_pids.items() if known == pid), None)

    def zygote_started(self, pid: int, now: float, *, coming: bool = False) -> int:
        """A zygote of a new generation was started; returns its generation."""
        self.generation += 1
        self.zygotes[self.generation] = Zygote(self.generation, ZygoteState.LOADING, started=now, changed=now)
        self._zygote_pids[self.generation] = pid
        if coming:
            self.zygote_leaving(self.coming, now)
            self.coming = self.generation
        else:
            self.zygote_leaving(self.current, now)  # one that was there is unfit, and killed
            self.current = self.generation
        return self.generation

    def start_failed(self, failure: PreforkError, *, coming: bool = False) -> None:
        """A zygote could not even be started."""
        if coming:
            self.rejection = self.rejection or failure
        else:
            self._fails(failure)
            self._ended.append(Ended(None, expected=False))

    def fails(self, generation: int, failure: PreforkError) -> None:
        """A generation cannot be started, which is why its reload fails, or the start does."""
        if self._is_coming(generation):
            self.rejection = self.rejection or failure
        elif generation < self.cutoff:
            self.failure = failure
        else:
            self._fails(failure)

    def _fails(self, failure: PreforkError) -> None:
        self.failure = self.last_failure = failure
        self.failed_starts += 1

    def _starts(self) -> None:
        self.failed_starts, self.last_failure = 0, None

    def zygote_ready(self, generation: int, *, loaded: bool, unfit: bool, now: float) -> None:
        """It can fork; ``loaded`` says that its workers will start with the application."""
        self._change_zygote(generation, state=ZygoteState.READY, loaded=loaded, unfit=unfit, changed=now)
        if generation == self.current and loaded and not self.rules.canary:
            self.verified = True

    def zygote_failed(self, generation: int, failure: PreforkError, now: float) -> None:
        """It cannot load the application."""
        self._change_zygote(generation, state=ZygoteState.FAILED, changed=now)
        self.fails(generation, failure)

    def zygote_leaving(self, generation: int, now: float) -> None:
        """It was told to end, or is given up."""
        self._change_zygote(generation, state=ZygoteState.LEAVING, changed=now)

    def zygote_ended(self, generation: int) -> Zygote | None:
        """It is gone; returns what was known of it."""
        zygote = self.zygotes.pop(generation, None)
        self._zygote_pids.pop(generation, None)
        if zygote is not None and not self._is_coming(generation):
            ready = zygote.changed if zygote.state is ZygoteState.READY else None
            self._ended.append(Ended(ready, expected=zygote.state is ZygoteState.LEAVING))
        return zygote

    def _change_zygote(self, generation: int, **changes: object) -> None:
        if generation in self.zygotes:
            self.zygotes[generation] = replace(self.zygotes[generation], **changes)  # type: ignore[arg-type]

    # reloads

    @property
    def cutoff(self) -> int:
        """Workers of generations before this one run code that was replaced."""
        return self._cutoffs[-1] if self._cutoffs else 0

    @property
    def codes_draining(self) -> int:
        """How many codes that were replaced are still run by somebody who was asked to leave."""
        return len(
            {
                bisect.bisect(self._cutoffs, worker.generation)
                for worker in self.workers.values()
                if worker.generation < self.cutoff and worker.retired is not None
            }
        )

    def reload_begun(self, rules: Rules) -> None:
        """It takes part in a reload that brings these rules."""
        self.reloads, self.coming_rules, self.rejection = True, rules, None

    def committed(self, app_name: str) -> int:
        """The coming generation is the current one; returns the generation that is not any more."""
        before, self.current, self.coming = self.current, self.coming, 0
        self._cutoffs.append(self.current)
        self.rules = self.coming_rules or self.rules
        self.app_name, self.verified = app_name, True
        self.phase = None
        self._starts()
        self._reload_over()
        return before

    def given_up(self, now: float) -> int:
        """The reload is over for it, and has changed nothing; returns the generation that was coming."""
        generation, self.coming = self.coming, 0
        self.zygote_leaving(generation, now)
        self._reload_over()
        return generation

    def _reload_over(self) -> None:
        self.reloads, self.coming_rules, self.rejection = False, None, None

    def _is_coming(self, generation: int) -> bool:
        return generation == self.coming > 0

    def enters(self, phase: Phase, now: float) -> None:
        """It goes its own way: it is added (BOOTING), removed (DRAINING), or given up (KILLING)."""
        self.phase, self.phase_since = phase, now

    @property
    def is_empty(self) -> bool:
        """Whether no process of it is left."""
        return not self.workers and not self.zygotes

    # workers

    def forked(self, slot: int, generation: int, now: float, luck: float = 0.0) -> None:
        """A worker was asked for."""
        self.workers[slot] = Worker(slot=slot, generation=generation, forked=now, luck=luck)

    def not_forked(self, slot: int) -> None:
        """The worker that was asked for never came, or ended before anybody knew it."""
        worker = self.workers.pop(slot, None)
        if worker is not None:
            self._slot_of.pop(worker.pid, None)
            self._note_end(worker, expected=False)

    def adopted(self, slot: int, pid: int) -> None:
        """The worker said hello, and its pid is a child of ours."""
        self.workers[slot] = replace(self.workers[slot], pid=pid)
        self._slot_of[pid] = slot

    def ready(self, slot: int, now: float) -> None:
        """The worker has the application."""
        self.workers[slot] = replace(self.workers[slot], ready=now)
        generation = self.workers[slot].generation
        if not self._is_coming(generation):
            self.verified = True
            if generation >= self.cutoff:
                self._starts()

    def failed(self, slot: int, failure: PreforkError) -> None:
        """The worker cannot load the application."""
        self.workers[slot] = replace(self.workers[slot], failed=True)
        self.fails(self.workers[slot].generation, failure)

    def spent(self, slot: int, reason: str) -> None:
        """The worker asks to be replaced."""
        self.workers[slot] = replace(self.workers[slot], spent=reason)

    def weighs(self, slot: int, memory: int) -> None:
        """The worker's private memory was looked at, in bytes."""
        worker = self.workers[slot]
        newborn = worker.newborn or (memory if worker.ready is not None else 0)
        self.workers[slot] = replace(worker, memory=memory, newborn=newborn)

    def stopped(self, slot: int, since: float | None) -> None:
        """Somebody stopped the worker (SIGSTOP), at that time; None: it goes on."""
        self.workers[slot] = replace(self.workers[slot], stopped=since)

    def listening(self, slot: int, listener: int | None = None) -> None:
        """The worker was given the current listener, or an earlier one by its number."""
        self.workers[slot] = replace(self.workers[slot], listener=self.listener if listener is None else listener)

    def listener_replaced(self, *, inherited: bool, silent: bool) -> None:
        """Another listener is the current one."""
        self.listener += 1
        self._inherited, self._silent = inherited, silent

    @property
    def listeners_served(self) -> frozenset[int]:
        """The numbers of the listeners that workers accept from, and go on accepting from."""
        return frozenset(worker.listener for worker in self.workers.values() if worker.retired is None)

    def serves_earlier(self, slot: int) -> bool:
        """Whether the worker was given a listener that is not the current one any more: it ends with its queue."""
        return 0 < self.workers[slot].listener < self.listener

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

    def pid_in(self, place: int) -> int:
        """The pid of the worker in a slot, or with a negative number of that generation's zygote; 0: not known."""
        if place < 0:
            return self.zygote_pid(-place)
        worker = self.workers.get(place)
        return worker.pid if worker is not None else 0

    @property
    def awaited(self) -> list[int]:
        """The slots of workers that were asked for, and are not known by a pid yet."""
        return [slot for slot, worker in self.workers.items() if not worker.pid]

    def slot_of(self, pid: int) -> int | None:
        """The slot of an adopted worker."""
        return self._slot_of.get(pid)

    def ended(self, pid: int, *, expected: bool, ours: bool = False) -> Worker | None:
        """An adopted worker is gone, by ``ours`` if we killed it; returns what was known of it."""
        slot = self._slot_of.pop(pid, None)
        if slot is None:
            return None
        worker = self.workers.pop(slot)
        self._note_end(worker, expected=expected, ours=ours and worker.ready is not None)
        return worker

    def _note_end(self, worker: Worker, *, expected: bool, ours: bool = False) -> None:
        """An end of the coming generation says nothing about the workers that serve; what it means, `fails` hears."""
        if not self._is_coming(worker.generation):
            self._ended.append(Ended(worker.ready, expected=expected or worker.retired is not None, ours=ours))

    def active(self, states: bytes) -> int:
        """How many workers do something; those that start, and take no connections yet, do not count."""
        return sum(worker.listening and states[worker.slot] not in (IDLE, STARTING) for worker in self.workers.values())

    def view(
        self,
        phase: Phase,
        phase_since: float,
        states: bytes,
        waiting: int | None,
        limit: int | None,
        behind: int | None = None,
        running: tuple[Running, ...] | None = None,
    ) -> PoolView:
        """What the policy gets to see. Ends are told once."""
        ended, self._ended = tuple(self._ended), []
        readable, self.readable = self.readable, False
        self.waiting, self.limit = waiting, limit
        if waiting is not None:
            self.most_waiting = max(self.most_waiting or 0, waiting)
        return PoolView(
            name=self.name,
            rules=self.rules,
            phase=phase,
            phase_since=phase_since,
            slots=self.slots,
            workers=tuple(self.workers.values()),
            states=states,
            zygote=self.zygote,
            coming=self.zygotes.get(self.coming),
            coming_rules=self.coming_rules,
            leaving=tuple(
                zygote for zygote in self.zygotes.values() if zygote.generation not in (self.current, self.coming)
            ),
            reloads=self.reloads,
            rejected=self.rejection is not None,
            cutoff=self.cutoff,
            listener=self.listener,
            open=self.open,
            shut=self.shut,
            inherited=self._inherited,
            silent=self._silent,
            verified=self.verified,
            ended=ended,
            waiting=waiting,
            readable=readable,
            limit=limit,
            behind=behind,
            running=running,
        )
