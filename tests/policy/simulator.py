"""A shell without a system: it performs what is planned in simulated time, as the master, the kernel and a world of
applications would.

It keeps its books with the real `Pool`. What its processes do is drawn by a test (`Script`): zygotes that load, cannot
load, are unfit, hang or die, workers that are slow to come, never come, stop hearing or lie in the scoreboard. After
each plan it checks what must hold of every plan (`check`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prefork.errors import PreforkError
from prefork.master.pool import Pool
from prefork.policy import lifecycle
from prefork.policy.lifecycle import Command
from prefork.policy.model import (
    FREE,
    IDLE,
    RETIRING,
    RUNNING,
    STARTING,
    Abandon,
    Action,
    Commit,
    Decision,
    End,
    Fork,
    Kill,
    KillZygote,
    Listen,
    Memory,
    OpenListener,
    Phase,
    PoolView,
    QueueEnded,
    QueueFull,
    ReleaseZygote,
    Retire,
    Rules,
    SampleStacks,
    Saturated,
    SaturationEnded,
    ShutListener,
    SignalRetired,
    Snapshot,
    StartZygote,
    Terminate,
    Worker,
    Zygote,
)
from prefork.policy.plan import HEARTBEAT, plan

__all__ = ["Script", "Simulator", "check"]

_DEATH: Final = 0.001
_MOST_PLANS_AT_ONE_MOMENT: Final = 20


@dataclass(frozen=True, slots=True)
class Script:
    """What the world does: each iterator is asked once per process."""

    zygotes: Iterator[str]  # ready, blank, unfit, fails, hangs, dies, refused, deaf (ready, but forks nobody)
    workers: Iterator[str]  # good, slow, crashes, hangs, lost, stuck (never ends a request), leaves
    garbage: Iterator[bytes] | None = None  # what the scoreboard shows instead of the truth
    load: float = 0.5  # seconds a zygote or an importing worker takes
    heard: Iterator[bool] = field(default_factory=lambda: itertools.repeat(True))  # whether a reminder arrives
    waiting: Iterator[int] = field(default_factory=lambda: itertools.repeat(0))


def check(snapshot: Snapshot, decision: Decision) -> None:
    """What holds of every plan, whatever was seen."""
    actions = decision.actions
    assert math.isfinite(decision.wake_at)
    assert decision.wake_at <= snapshot.now + HEARTBEAT
    assert actions or decision.wake_at > snapshot.now, "a plan without actions that wants to be asked again at once"
    for pool in snapshot.pools:
        mine = [
            action for action in actions if not isinstance(action, End | Commit | Abandon) and action.pool == pool.name
        ]
        held = {worker.slot for worker in pool.workers}
        forks = [action.slot for action in mine if isinstance(action, Fork)]
        assert sorted(set(forks)) == sorted(forks), "two forks for one slot"
        assert not held & set(forks), "a fork for a slot in use"
        assert all(0 <= slot < pool.slots for slot in forks)
        named = [a.slot for a in mine if isinstance(a, Listen | Retire | SignalRetired | Terminate | Kill)]
        assert set(named) <= held, "an action for a slot without a worker"
        _check_staff(pool, mine)
        times = Counter(type(action) for action in mine)
        assert times[StartZygote] <= 1
        assert times[KillZygote] <= 1
        assert all(action.reason for action in mine if isinstance(action, Kill | KillZygote))
        for slot in held:
            ladder = [a for a in mine if isinstance(a, Kill | Terminate | SignalRetired) and a.slot == slot]
            assert len(ladder) <= 1, "two rungs of the ladder at once"
            killed = [index for index, a in enumerate(mine) if isinstance(a, Kill) and a.slot == slot]
            assert not killed or not any(getattr(later, "slot", None) == slot for later in mine[killed[0] + 1 :])


def _check_staff(pool: PoolView, mine: Sequence[Action]) -> None:
    """How many there are, who takes connections, and who leaves for whom."""
    forks = [action for action in mine if isinstance(action, Fork)]
    listens = [action.slot for action in mine if isinstance(action, Listen)]
    retired = {action.slot for action in mine if isinstance(action, Retire)}
    active = [worker for worker in pool.workers if worker.retired is None]
    of_use = [w for w in active if w.listener == pool.listener or (not w.listener and w.generation >= pool.cutoff)]
    most = pool.rules.max_children + max(1, pool.rules.surge)
    if of_use or len(forks) > 1:
        others = [fork for fork in forks if pool.coming is None or fork.generation != pool.coming.generation]
        assert len(forks) - len(others) <= 1, "more than one to prove a generation"
        assert not others or len(pool.workers) + len(forks) <= most, "too many processes"
    if pool.phase not in (Phase.SERVING, Phase.RELOADING):
        return
    taking = {w.slot for w in active if w.listener == pool.listener and pool.states[w.slot] != RETIRING}
    stranded = bool(pool.behind) and not any(0 < worker.listener != pool.listener for worker in active)
    after = len(taking - retired) + len(listens) - (stranded and bool(listens))
    assert after <= pool.rules.max_children, "more than max_children take connections"
    if any(pool.coming is None or fork.generation != pool.coming.generation for fork in forks):
        assert len(taking & retired) <= len(listens), "the pool shrinks and grows at once"
    ready = {worker.slot for worker in active if worker.ready is not None and not worker.listener}
    assert set(listens) <= ready, "a listener for somebody who is not ready"


class Simulator:
    """One pool from its start to its end, in simulated seconds."""

    def __init__(
        self,
        script: Script,
        *,
        max_children: int = 4,
        inherited: bool = False,
        silent: bool = False,
    ) -> None:
        self.script = script
        self.wakes = not (inherited or silent)
        self.pool = Pool(
            "www",
            "app:application",
            rules=Rules(max_children=max_children, boot_timeout=3.0, graceful_timeout=5.0),
            slots=16,
            inherited=inherited,
            silent=silent,
        )
        self.now = 1_000.0
        self.phase = Phase.BOOTING
        self.phase_since = self.now
        self.memory = Memory()
        self.states = bytearray([FREE] * 16)
        self.performed: list[tuple[float, Action]] = []
        self._kinds: dict[int, str] = {}  # of workers, by pid
        self._zygotes: dict[int, str] = {}  # kinds, by generation
        self._pids = itertools.count(100)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._wake_at = self.now
        self._at_this_moment = 0

    # the world's clock

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def command(self, command: Command) -> None:
        """What a signal does."""
        phase = lifecycle.step(self.phase, command)
        if phase is not self.phase:
            self.phase, self.phase_since = phase, self.now

    def run(self, seconds: float) -> None:
        """Let so much time pass, or less if the server ends before."""
        end = self.now + seconds
        while self.phase is not Phase.ENDED:
            due = min(self._wake_at, self._events[0][0] if self._events else math.inf)
            if due > end:
                self.now = end
                return
            if due > self.now:
                self.now, self._at_this_moment = due, 0
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self._plan()

    def _plan(self) -> None:
        self._at_this_moment += 1
        assert self._at_this_moment <= _MOST_PLANS_AT_ONE_MOMENT, "the loop spins"
        self._notice()
        states = bytes(self.states) if self.script.garbage is None else next(self.script.garbage)
        waiting = next(self.script.waiting) if self.pool.open else None
        view = self.pool.view(self.phase, self.phase_since, states, waiting, None if waiting is None else 2)
        snapshot = Snapshot(self.now, self.phase, self.phase_since, (view,))
        decision = plan(snapshot, self.memory)
        check(snapshot, decision)
        self.memory = decision.memory
        self._wake_at = decision.wake_at
        for action in decision.actions:
            self.performed.append((self.now, action))
            self._perform(action)

    def _notice(self) -> None:
        if self.pool.open:
            self.command(Command.SERVES)
        failure, self.pool.failure = self.pool.failure, None
        if failure is not None:
            self.command(Command.FAILED)

    def _perform(self, action: Action) -> None:
        match action:
            case StartZygote():
                self._start_zygote(action.load)
                self._wake_at = self.now
            case KillZygote():
                self.after(_DEATH, lambda generation=action.generation: self._zygote_gone(generation))  # type: ignore[misc]
            case ReleaseZygote():
                self._release_zygote(action.generation)
            case OpenListener():
                self.pool.open = True
                self._wake_at = self.now
            case ShutListener():
                self.pool.shut = True
                self._wake_at = self.now
                self._drain()
            case Fork():
                self._fork(action.slot, action.generation)
            case QueueFull() | QueueEnded() | Saturated() | SampleStacks() | SaturationEnded():
                pass
            case End():
                self.command(Command.EMPTY)
            case Listen() | Retire() | SignalRetired() | Terminate() | Kill():
                self._perform_on_worker(action, self.pool.workers[action.slot])
            case _:
                raise AssertionError(f"not in this world: {action}")

    # zygotes

    def _start_zygote(self, load: bool) -> None:
        kind = next(self.script.zygotes)
        if kind == "refused":
            self.pool.start_failed(PreforkError("cannot fork"))
            return
        if kind in ("ready", "unfit") and not load:
            kind = "blank"
        generation = self.pool.zygote_started(next(self._pids), self.now)
        self._zygotes[generation] = kind
        if kind == "dies":
            self.after(self.script.load, lambda: self._zygote_gone(generation))
        elif kind != "hangs":
            self.after(self.script.load, lambda: self._zygote_speaks(generation, kind))

    def _zygote_speaks(self, generation: int, kind: str) -> None:
        if generation not in self.pool.zygotes:
            return
        if kind == "fails":
            self.pool.zygote_failed(generation, PreforkError("cannot import"), self.now)
            self.after(_DEATH, lambda: self._zygote_gone(generation))
        else:
            self.pool.zygote_ready(generation, loaded=kind != "blank", unfit=kind == "unfit", now=self.now)

    def _zygote_gone(self, generation: int) -> None:
        zygote: Zygote | None = self.pool.zygote_ended(generation)
        if zygote is None:
            return
        if zygote.state.value == "loading":
            self.pool.failure = PreforkError("ended while importing")
        for worker in list(self.pool.workers.values()):
            if not worker.pid and worker.generation == generation:  # the end of its channel went with the zygote
                self.pool.not_forked(worker.slot)

    def _release_zygote(self, generation: int) -> None:
        self.pool.zygote_leaving(generation, self.now)
        if self._zygotes[generation] != "deaf":
            self.after(_DEATH, lambda: self._zygote_gone(generation))

    # workers

    def _fork(self, slot: int, generation: int) -> None:
        self.pool.forked(slot, generation, self.now)
        self.states[slot] = STARTING
        kind = next(self.script.workers)
        if self._zygotes[generation] != "deaf" and kind != "lost":
            self.after(_DEATH, lambda: self._worker_comes(slot, self.pool.workers.get(slot), kind))

    def _worker_comes(self, slot: int, expected: Worker | None, kind: str) -> None:
        if expected is None or expected.pid:
            return
        pid = next(self._pids)
        self._kinds[pid] = kind
        self.pool.adopted(slot, pid)
        blank = self._zygotes[expected.generation] == "blank"
        if kind == "crashes":
            self.after(self.script.load if blank else _DEATH, lambda: self._worker_gone(pid))
        elif kind != "hangs":
            self.after(self.script.load if blank or kind == "slow" else _DEATH, lambda: self._worker_ready(pid))

    def _worker_ready(self, pid: int) -> None:
        slot = self.pool.slot_of(pid)
        if slot is not None and self.pool.workers[slot].ready is None:
            self.pool.ready(slot, self.now)
            if self.pool.workers[slot].retired is not None:
                self.after(_DEATH, lambda: self._worker_gone(pid))

    def _worker_gone(self, pid: int) -> None:
        slot = self.pool.slot_of(pid)
        if slot is not None:
            self.pool.ended(pid, expected=self.pool.shut)
            self.states[slot] = FREE

    def _drain(self) -> None:
        """A listener that was shut wakes everybody once its queue is empty."""
        for worker in self.pool.workers.values():
            if worker.listening and self._kinds[worker.pid] != "stuck" and self.wakes:
                self.after(0.2, lambda pid=worker.pid: self._worker_gone(pid))  # type: ignore[misc]

    def _perform_on_worker(self, action: Listen | Retire | SignalRetired | Terminate | Kill, worker: Worker) -> None:
        slot, pid = worker.slot, worker.pid
        match action:
            case Listen():
                self.pool.listening(slot)
                self.states[slot] = RUNNING if self._kinds[pid] == "stuck" else IDLE
                if self._kinds[pid] == "leaves":
                    self.after(2.0, lambda: self._deserts(pid))
                if self.pool.shut:
                    self._drain()
            case Retire():
                self.pool.retired(slot, self.now)
                if worker.ready is not None and not worker.listening:
                    self.after(_DEATH, lambda: self._worker_gone(pid))
            case SignalRetired():
                self.pool.signalled(slot, self.now)
                if next(self.script.heard) and worker.listening and self._kinds.get(pid) != "stuck":
                    self.after(_DEATH, lambda: self._worker_gone(pid))
            case Terminate():
                self.pool.terminated(slot, self.now)
            case Kill():
                if pid:
                    self.after(_DEATH, lambda: self._worker_gone(pid))
                else:
                    self.pool.not_forked(slot)
                    self.states[slot] = FREE

    def _deserts(self, pid: int) -> None:
        slot = self.pool.slot_of(pid)
        if slot is not None:
            self.states[slot] = RETIRING
            self.after(1.0, lambda: self._worker_gone(pid))
