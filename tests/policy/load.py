"""A pool under load, in simulated time: connections that come, a kernel's queue, workers that take their time.

The workers are well behaved (`policy.simulator` has the others); what is looked at here is how many of them there are.
accept(2) is first in, first out; the zygote forks one after the other; the doorbell, the listener and the queue are
read as the master's loop does it. Every plan is checked by `check`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from policy.simulator import check
from prefork.master.pool import Pool
from prefork.policy.model import (
    FREE,
    IDLE,
    RUNNING,
    STARTING,
    Action,
    Commit,
    Fork,
    Listen,
    Memory,
    OpenListener,
    Phase,
    Retire,
    Rules,
    SampleStacks,
    Saturated,
    SaturationEnded,
    SignalRetired,
    Snapshot,
    StartZygote,
    Worker,
)
from prefork.policy.plan import plan
from prefork.policy.saturation import LOOK_AGAIN

__all__ = ["Load"]

_NOTICED: Final = 0.0002  # until the master has seen what woke it, or a process what it was told
_FORK: Final = 0.003  # of the zygote, one after the other
_BOOT: Final = 0.002  # from its fork until a worker is ready
_SLOTS: Final = 256


class Load:
    """One pool that boots and then serves what a test sends."""

    def __init__(
        self, *, loads_alone: float | None = None, readable: bool = True, max_requests: int = 0, **rules: Any
    ) -> None:
        """``loads_alone``: seconds a worker takes to load the application, where the zygote could not.

        ``readable``: whether the kernel tells the length of its queue. ``max_requests``: as the option, without chance.
        """
        self.pool = Pool("www", "app:application", rules=Rules(**rules), slots=_SLOTS, inherited=False)
        self.now = 0.0
        self.phase = Phase.BOOTING
        self.memory = Memory()
        self.states = bytearray([FREE] * _SLOTS)
        self.forks: list[float] = []
        self.retirements: list[float] = []
        self.reports: list[Saturated | SaturationEnded] = []
        self.latencies: list[float] = []
        self.most_processes = 0
        self.plans = 0
        self._boot = _BOOT if loads_alone is None else loads_alone
        self._loaded = loads_alone is None
        self._readable = readable
        self._max_requests = max_requests
        self._served: dict[int, int] = {}  # by slot
        # By number of listener: connections (when it came, how long it takes), and slots, whoever waits longest first.
        self._queues: defaultdict[int, deque[tuple[float, float]]] = defaultdict(deque)
        self._accepting: defaultdict[int, deque[int]] = defaultdict(deque)
        self._told: set[int] = set()  # slots of those that have to leave
        self._zygote_free = 0.0
        self._armed = False
        self._arm_at = 0.0
        self._watched = False
        self._wake_at = 0.0
        self._plan_at = math.inf
        self._order = itertools.count()
        self._pids = itertools.count(100)
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    # what a test does and sees

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (moment, next(self._order), event))

    def send(self, number: int, seconds: float) -> None:
        """So many connections come at once, now, with a request each that takes so long."""
        for _ in range(number):
            if self._accepting[self.pool.listener]:
                self._take(self._accepting[self.pool.listener].popleft(), self.now, seconds)
            else:
                self._queues[self.pool.listener].append((self.now, seconds))
        self._look_at_listener()

    def change(self, **rules: Any) -> None:
        """Other limits, as by an order."""
        self.pool.rules = replace(self.pool.rules, **rules)
        self._wake()

    def reload(self, **rules: Any) -> None:
        """Begin to replace the code, and the limits with it."""
        self.pool.reload_begun(replace(self.pool.rules, **rules))
        self.phase = Phase.RELOADING
        self._wake()

    def replace_listener(self) -> None:
        """New connections come to another listener; the one before refuses them."""
        before = self.pool.listener
        self.pool.listener_replaced(inherited=False, silent=False)
        while self._accepting[before]:
            self._leave(self._accepting[before].popleft())
        self._wake()

    @property
    def taking(self) -> int:
        """Workers that take connections."""
        return sum(worker.listening and worker.retired is None for worker in self.pool.workers.values())

    @property
    def generations(self) -> set[int]:
        """Those of all living workers."""
        return {worker.generation for worker in self.pool.workers.values()}

    @property
    def unanswered(self) -> int:
        """Connections that wait."""
        return sum(len(queue) for queue in self._queues.values())

    def most_forks(self, seconds: float, since: float = 0.0) -> int:
        """The most forks within any ``seconds`` in a row, of those after ``since``."""
        forks = [at for at in self.forks if at >= since]
        return max((sum(at <= other < at + seconds for other in forks) for at in forks), default=0)

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            due = min(self._wake_at, self._plan_at, self._events[0][0] if self._events else math.inf)
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            if min(self._wake_at, self._plan_at) <= self.now:
                self._plan()

    # the master

    def _wake(self) -> None:
        self._plan_at = min(self._plan_at, self.now + _NOTICED)

    def _plan(self) -> None:
        self.plans += 1
        self._plan_at = math.inf
        if self.pool.open and self.phase is Phase.BOOTING:
            self.phase = Phase.SERVING
        if self.pool.open and self.now >= self._arm_at:
            self._armed = True
        waiting = len(self._queues[self.pool.listener]) if self.pool.open and self._readable else None
        limit = None if waiting is None else 4096
        earlier = [len(queue) for number, queue in self._queues.items() if number < self.pool.listener]
        behind = sum(earlier) if earlier else None
        view = self.pool.view(self.phase, 0.0, bytes(self.states), waiting, limit, behind)
        snapshot = Snapshot(self.now, self.phase, 0.0, (view,))
        decision = plan(snapshot, self.memory)
        check(snapshot, decision)
        self.memory = decision.memory
        # As the loop: a bell that is not armed yet must not be forgotten, or nobody would ring before the next beat.
        self._wake_at = min(decision.wake_at, self._arm_at if self._arm_at > self.now else math.inf)
        self._watched = bool(decision.watch)
        for action in decision.actions:
            self._perform(action)
        self._look_at_listener()
        self.most_processes = max(self.most_processes, len(self.pool.workers))

    def _look_at_listener(self) -> None:
        if self._watched and self._queues[self.pool.listener]:
            self._watched = False
            self.pool.readable = True
            self._wake()

    def _perform(self, action: Action) -> None:
        match action:
            case StartZygote():
                generation = self.pool.zygote_started(next(self._pids), self.now, coming=action.coming)
                self.at(self.now + 0.3, lambda: self._zygote_ready(generation))
            case Commit():
                self.pool.zygote_ended(self.pool.committed("app:application"))
                self.phase = Phase.SERVING
                self._wake()
            case OpenListener():
                self.pool.open = True
                self._wake_at = self.now
            case Fork():
                self.forks.append(self.now)
                self.pool.forked(action.slot, action.generation, self.now, luck=(action.slot % 10) / 10)
                self.states[action.slot] = STARTING
                self._zygote_free = max(self.now, self._zygote_free) + _FORK
                self.at(self._zygote_free, lambda: self._comes(action.slot))
            case Listen():
                owed = [number for number, queue in self._queues.items() if number < self.pool.listener and queue]
                served = self.pool.listeners_served
                self.pool.listening(action.slot, next((number for number in owed if number not in served), None))
                self.at(self.now + _NOTICED, self._if_alive(action.slot, self._accept))
            case Retire():
                self._retire(self.pool.workers[action.slot])
            case SignalRetired():
                self.pool.signalled(action.slot, self.now)
                accepting = self._accepting[self.pool.workers[action.slot].listener]
                if action.slot in accepting:
                    accepting.remove(action.slot)
                    self._leave(action.slot)
            case Saturated() | SaturationEnded():
                self.reports.append(action)
            case SampleStacks():
                pass
            case _:
                raise AssertionError(f"not in this world: {action}")

    def _retire(self, worker: Worker) -> None:
        self.retirements.append(self.now)
        self._told.add(worker.slot)
        self.pool.retired(worker.slot, self.now)
        if worker.ready is not None and not worker.listening:
            self._leave(worker.slot)

    # the processes

    def _zygote_ready(self, generation: int) -> None:
        self.pool.zygote_ready(generation, loaded=self._loaded, unfit=False, now=self.now)
        self._wake()

    def _comes(self, slot: int) -> None:
        self.pool.adopted(slot, next(self._pids))
        self.at(self.now + self._boot, lambda: self._ready(slot))
        self._wake()

    def _ready(self, slot: int) -> None:
        self.pool.ready(slot, self.now)
        if slot in self._told:
            self._leave(slot)
        self._wake()

    def _accept(self, slot: int) -> None:
        """The worker is done with whatever it did, and looks for a connection."""
        listener = self.pool.workers[slot].listener
        if slot in self._told:
            self._leave(slot)
        elif self._queues[listener]:
            self._take(slot, *self._queues[listener].popleft())
        elif listener < self.pool.listener:
            self._leave(slot)  # it refuses connections and is empty: accept(2) fails
        else:
            self.states[slot] = IDLE
            self._accepting[listener].append(slot)

    def _take(self, slot: int, came: float, seconds: float) -> None:
        self.states[slot] = RUNNING
        if IDLE not in self.states and self._armed:
            self._armed = False
            self._arm_at = self.now + LOOK_AGAIN
            self._wake()
        self.at(self.now + seconds, self._if_alive(slot, lambda slot: self._answered(slot, came)))

    def _answered(self, slot: int, came: float) -> None:
        self.latencies.append(self.now - came)
        self._served[slot] = self._served.get(slot, 0) + 1
        if self._served[slot] == self._max_requests:
            self.pool.spent(slot, f"max_requests ({self._max_requests})")
            self._wake()
        self._accept(slot)

    def _leave(self, slot: int) -> None:
        self.at(self.now + _NOTICED, self._if_alive(slot, self._gone))

    def _if_alive(self, slot: int, step: Callable[[int], None]) -> Callable[[], None]:
        """A step of the worker that is in a slot now: whoever comes after it does not take it."""
        pid = self.pool.pid_in(slot)
        return lambda: step(slot) if self.pool.pid_in(slot) == pid else None

    def _gone(self, slot: int) -> None:
        self.most_processes = max(self.most_processes, len(self.pool.workers))
        self._told.discard(slot)
        self._served.pop(slot, None)
        self.states[slot] = FREE
        self.pool.ended(self.pool.workers[slot].pid, expected=False)
        self._wake()

    def kill(self, number: int) -> int:
        """Somebody kills a worker; returns how many requests are lost with it."""
        living = [worker.slot for worker in self.pool.workers.values() if worker.listening]
        if not living:
            return 0
        slot = living[number % len(living)]
        working = self.states[slot] == RUNNING
        accepting = self._accepting[self.pool.workers[slot].listener]
        if slot in accepting:
            accepting.remove(slot)
        self._gone(slot)
        return int(working)

    def strand(self) -> None:
        """All workers are killed."""
        while self.kill(0) or any(worker.listening for worker in self.pool.workers.values()):
            pass
