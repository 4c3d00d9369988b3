"""The nouns of the policy: what the master knows, and what it may decide to do.

Everything here is a value. The master's loop takes a `Snapshot`, `plan` looks at it and returns a `Decision`, and the
loop performs its actions. Nothing here knows a descriptor, a clock or a process: ``now`` is a number like the others.
Times are monotonic seconds, durations are seconds.

What may be decided stands in `policy.actions`, what is remembered in `policy.memory`; both are to be had here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from prefork.policy.actions import (
    Abandon,
    Action,
    Commit,
    DumpStack,
    End,
    Fork,
    Kill,
    KillZygote,
    Listen,
    OpenListener,
    QueueEnded,
    QueueFull,
    ReleaseZygote,
    Retire,
    SampleStacks,
    Saturated,
    SaturationEnded,
    ShutListener,
    SignalRetired,
    SlowUnseen,
    StartZygote,
    Terminate,
    TimeOut,
)
from prefork.policy.memory import Limits, Memory, Overdue, PoolMemory, Saturation, Shortage, Sizing

__all__ = [
    "ABANDONED",
    "BAD_REQUESTS",
    "CLIENT_TIMEOUTS",
    "FINISHING",
    "FREE",
    "IDLE",
    "QUEUE_TIMEOUTS",
    "READING",
    "REFUSED_PEERS",
    "RETIRING",
    "RUNNING",
    "SOFT_TIMEOUTS",
    "STARTING",
    "STOPPED_AT_ONCE",
    "STOPPED_LOADING",
    "WRITING",
    "Abandon",
    "Action",
    "Commit",
    "Decision",
    "DumpStack",
    "End",
    "Ended",
    "Fork",
    "Kill",
    "KillZygote",
    "Limits",
    "Listen",
    "Memory",
    "OpenListener",
    "Overdue",
    "Phase",
    "PoolMemory",
    "PoolView",
    "QueueEnded",
    "QueueFull",
    "ReleaseZygote",
    "Retire",
    "Rules",
    "Running",
    "SampleStacks",
    "Saturated",
    "Saturation",
    "SaturationEnded",
    "Shortage",
    "ShutListener",
    "SignalRetired",
    "Sizing",
    "SlotState",
    "SlowUnseen",
    "Snapshot",
    "StartZygote",
    "Terminate",
    "TimeOut",
    "Worker",
    "Zygote",
    "ZygoteState",
]

# The numbers are the bytes in the scoreboard. They are plain integers because compiled code loads an
# integer constant for nothing and an enum member through two dictionaries.
FREE: Final = 0
STARTING: Final = 1
IDLE: Final = 2
READING: Final = 3
RUNNING: Final = 4
WRITING: Final = 5
FINISHING: Final = 6
RETIRING: Final = 7


# The counters of a slot, by their places in its record; there is room for 16.
ABANDONED: Final = 0  # requests not run, because whoever sent them had left
QUEUE_TIMEOUTS: Final = 1  # requests not run, because they had waited too long
CLIENT_TIMEOUTS: Final = 2  # clients that were too slow: head, body or response
SOFT_TIMEOUTS: Final = 3  # requests stopped by request_timeout
BAD_REQUESTS: Final = 4  # heads that could not be understood
REFUSED_PEERS: Final = 5  # connections from whom may not connect


STOPPED_AT_ONCE: Final = "stopped at once"
"""The reason for a kill that the operator asked for."""


STOPPED_LOADING: Final = "stopped while loading the application"
"""The same, for a process that had nothing else to do yet."""


class SlotState(IntEnum):
    """What the worker in a slot is doing, by its own account."""

    FREE = FREE  # no worker
    STARTING = STARTING  # forked, not yet accepting
    IDLE = IDLE  # blocked in accept(2)
    READING = READING  # accepted, reading the request's head
    RUNNING = RUNNING  # the application runs
    WRITING = WRITING  # waiting for the client to take the response
    FINISHING = FINISHING  # answered; draining, lingering or running after_response callables
    RETIRING = RETIRING  # left the accept loop, running its exit handlers


class Phase(Enum):
    """The life of the whole server."""

    BOOTING = "booting"  # applications are being imported; no socket exists yet
    SERVING = "serving"
    RELOADING = "reloading"  # serving, while the next generation is loaded and tried
    DRAINING = "draining"  # stopping: no new connection, what waits is answered
    KILLING = "killing"  # stopping now: whoever is left is killed
    ENDED = "ended"


class ZygoteState(Enum):
    """The life of a zygote."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # said why it cannot load the application; about to end
    LEAVING = "leaving"  # told to end


@dataclass(frozen=True, slots=True)
class Zygote:
    """The process that forks a pool's workers."""

    generation: int
    state: ZygoteState
    started: float
    changed: float = 0.0  # when it entered its state
    loaded: bool = False  # holds the application: its workers start ready
    unfit: bool = False  # loaded it, but must not be forked from (threads, connections)


@dataclass(frozen=True, slots=True)
class Worker:
    """The master's own knowledge of a worker; what the worker says of itself is in `PoolView.states`."""

    slot: int
    generation: int
    forked: float
    pid: int = 0  # 0: not seen yet; nobody may be signalled by a pid that was not adopted
    ready: float | None = None  # when it had the application
    failed: bool = False  # said why it cannot load the application
    listener: int = 0  # the number of the listener it was given; 0: none yet
    spent: str = ""  # why it asks to be replaced (max_requests), in its own words
    memory: int = 0  # private bytes, when last looked at; 0: unknown
    newborn: int = 0  # the same, before it served anybody
    stopped: float | None = None  # since when it is stopped (SIGSTOP)
    luck: float = 0.0  # 0 to 1, drawn at its fork: spreads what would come at once
    retired: float | None = None  # when it was asked to leave
    signals: int = 0  # how often it was reminded of that
    signalled: float = 0.0
    terminated: float | None = None  # when it was sent SIGTERM

    @property
    def listening(self) -> bool:
        """Whether it was given a listener."""
        return self.listener > 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A process of the pool that has ended since the last plan."""

    ready: float | None  # since when it had been ready; None: never was
    expected: bool  # it had been asked to leave
    ours: bool = False  # we killed it, once it had been ready: no death of its own


@dataclass(frozen=True, slots=True)
class Running:
    """A request that a worker says it runs."""

    slot: int
    number: int  # of the request, counted in this slot
    since: float  # when it began
    extended: float = 0.0  # seconds that the application asked for on top of its limits
    sought: bool = False  # whether its stack is being looked for


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator asked for, as far as the policy needs it; a reload or an order puts others in their place."""

    pm: str = "static"  # static, dynamic, ondemand
    max_children: int = 1
    min_spare: int = 1
    max_spare: int = 1
    start: int = 1  # workers at the start, with dynamic
    spawn_rate: int = 32  # forks a second
    idle_timeout: float = 10.0  # how long idleness must last before a pool shrinks
    surge: int = 1  # processes allowed above max_children while some are being replaced
    boot_timeout: float = 60.0
    graceful_timeout: float = 25.0
    max_memory: int | None = None  # private bytes of a worker
    max_lifetime: float | None = None  # of a worker
    canary: bool = False  # the first worker of a generation has a request to answer before it counts as ready
    slow: float | None = None  # request_slowlog_timeout
    soft: float | None = None  # request_timeout
    hard: float | None = None  # request_terminate_timeout


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at one moment, with the limits its operator set."""

    name: str
    rules: Rules
    phase: Phase  # a pool that a reload adds or removes is not where the server is
    phase_since: float
    slots: int
    workers: tuple[Worker, ...]
    states: bytes  # one byte a slot, written by the workers: believed only where a lie does no harm
    zygote: Zygote | None  # forks the workers
    coming: Zygote | None = None  # of a reload that is under way
    coming_rules: Rules | None = None  # that it brings
    leaving: tuple[Zygote, ...] = ()  # of earlier generations
    reloads: bool = False  # a reload wants a coming generation
    rejected: bool = False  # the coming generation has failed
    cutoff: int = 0  # workers of generations before this one run code that was replaced
    listener: int = 1  # the number of the current listener
    open: bool = False  # the listener accepts connections
    shut: bool = False  # the listener refuses them again, for good
    inherited: bool = False  # the listener belongs to somebody else
    silent: bool = False  # the listener's end wakes no worker (TCP): they are retired when nobody waits any more
    verified: bool = False  # the application was loaded once, by this generation or another
    ended: tuple[Ended, ...] = ()
    waiting: int | None = None  # connections in the listen queue; None: unknown
    readable: bool = False  # the listener was watched (`Decision.watch`), and a connection came
    limit: int | None = None  # what listen(2) was given
    behind: int | None = None  # connections in the queues of earlier listeners; None: there are none, or unknown
    running: tuple[Running, ...] | None = None  # None: not looked at this time


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that `plan` may look at."""

    now: float
    phase: Phase
    phase_since: float
    pools: tuple[PoolView, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, what to remember, and when to look again at the latest."""

    actions: tuple[Action, ...]
    memory: Memory
    wake_at: float
    watch: frozenset[str] = frozenset()  # pools whose listener shall wake the master, as nobody would accept at once
