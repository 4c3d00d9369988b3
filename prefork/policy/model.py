"""The nouns of the policy: what the master knows, and what it may decide to do.

Everything here is a value. The master's loop takes a `Snapshot`, `plan` looks at it and returns a `Decision`, and the
loop performs its actions. Nothing here knows a descriptor, a clock or a process: ``now`` is a number like the others.
Times are monotonic seconds, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

__all__ = [
    "FINISHING",
    "FREE",
    "IDLE",
    "READING",
    "RETIRING",
    "RUNNING",
    "STARTING",
    "STOPPED_AT_ONCE",
    "STOPPED_LOADING",
    "WRITING",
    "Action",
    "Decision",
    "End",
    "Ended",
    "Fork",
    "Kill",
    "KillZygote",
    "Listen",
    "Memory",
    "OpenListener",
    "Phase",
    "PoolMemory",
    "PoolView",
    "QueueEnded",
    "QueueFull",
    "ReleaseZygote",
    "Retire",
    "ShutListener",
    "SignalRetired",
    "SlotState",
    "Snapshot",
    "StartZygote",
    "Terminate",
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
    listening: bool = False  # was given the listener
    retired: float | None = None  # when it was asked to leave
    signals: int = 0  # how often it was reminded of that
    signalled: float = 0.0
    terminated: float | None = None  # when it was sent SIGTERM


@dataclass(frozen=True, slots=True)
class Ended:
    """A process of the pool that has ended since the last plan."""

    ready: float | None  # since when it had been ready; None: never was
    expected: bool  # it had been asked to leave


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at one moment, with the limits its operator set."""

    name: str
    max_children: int
    slots: int
    boot_timeout: float
    graceful_timeout: float
    workers: tuple[Worker, ...]
    states: bytes  # one byte a slot, written by the workers: believed only where a lie does no harm
    zygote: Zygote | None
    open: bool = False  # the listener accepts connections
    shut: bool = False  # the listener refuses them again, for good
    inherited: bool = False  # the listener belongs to somebody else
    silent: bool = False  # the listener's end wakes no worker (TCP): they are retired when nobody waits any more
    verified: bool = False  # the application was loaded once, by this generation or another
    ended: tuple[Ended, ...] = ()
    waiting: int | None = None  # connections in the listen queue; None: unknown
    limit: int | None = None  # what listen(2) was given


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that `plan` may look at."""

    now: float
    phase: Phase
    phase_since: float
    pools: tuple[PoolView, ...]


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What the policy itself wants to remember of a pool from one plan to the next."""

    failures: int = 0  # consecutive starts that came to nothing
    not_before: float = 0.0  # no fork before this moment
    full_since: float | None = None  # since when the listen queue was seen full
    full_seen: float = 0.0  # when it was last seen full
    full_peak: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy remembers, by pool name."""

    pools: Mapping[str, PoolMemory] = field(default_factory=dict)

    def of(self, name: str) -> PoolMemory:
        """A pool's memory; a new pool has none."""
        return self.pools.get(name, PoolMemory())


# Actions: each is one thing the shell knows how to do.


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Start the next generation's zygote."""

    pool: str
    load: bool  # let it load the application, as far as the operator allows


@dataclass(frozen=True, slots=True)
class KillZygote:
    """Kill a zygote; it holds no connection."""

    pool: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseZygote:
    """Tell a zygote to end in order."""

    pool: str


@dataclass(frozen=True, slots=True)
class OpenListener:
    """Bind and listen: the application is ready."""

    pool: str


@dataclass(frozen=True, slots=True)
class ShutListener:
    """Refuse new connections for good; those in the queue are still accepted."""

    pool: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Ask the zygote for a worker in a free slot."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Listen:
    """Give a ready worker the listener."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask a worker to leave before its next accept(2)."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class SignalRetired:
    """Interrupt the accept(2) of an idle worker that was asked to leave."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM: the application's own handler, if it installed one, gets its chance."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL, and say why."""

    pool: str
    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class QueueFull:
    """Report that the listen queue is full, and what the workers run meanwhile."""

    pool: str
    waiting: int
    limit: int


@dataclass(frozen=True, slots=True)
class QueueEnded:
    """Report that a full queue has room again."""

    pool: str
    full_for: float
    peak: int
    limit: int


@dataclass(frozen=True, slots=True)
class End:
    """Nothing is left to supervise."""


Action = (
    StartZygote
    | KillZygote
    | ReleaseZygote
    | OpenListener
    | ShutListener
    | Fork
    | Listen
    | Retire
    | SignalRetired
    | Terminate
    | Kill
    | QueueFull
    | QueueEnded
    | End
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, what to remember, and when to look again at the latest."""

    actions: tuple[Action, ...]
    memory: Memory
    wake_at: float
