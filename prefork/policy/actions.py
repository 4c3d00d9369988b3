"""What the policy may decide to do: each action is one thing that the shell knows how to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Abandon",
    "Action",
    "Commit",
    "DumpStack",
    "End",
    "Fork",
    "Kill",
    "KillZygote",
    "Listen",
    "OpenListener",
    "QueueEnded",
    "QueueFull",
    "ReleaseZygote",
    "Retire",
    "SampleStacks",
    "Saturated",
    "SaturationEnded",
    "ShutListener",
    "SignalRetired",
    "SlowUnseen",
    "StartZygote",
    "Terminate",
    "TimeOut",
]


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Start the next generation's zygote."""

    pool: str
    load: bool  # let it load the application, as far as the operator allows
    coming: bool = False  # for a reload: beside the one that forks the workers now, with the settings to come


@dataclass(frozen=True, slots=True)
class KillZygote:
    """Kill the zygote of a generation; it holds no connection."""

    pool: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseZygote:
    """Tell the zygote of a generation to end in order."""

    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the coming generation of every pool the current one: settings, listeners, zygotes."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give the reload up: whatever is coming is killed, and nothing has changed."""

    reason: str


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
    """Ask the zygote of a generation for a worker in a free slot."""

    pool: str
    slot: int
    generation: int
    canary: bool = False  # it has to answer the canary's request before it counts as ready


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
    reason: str = ""  # why, for the log; "": the pool shrinks or the server stops


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
    number: int = 0  # only while it runs this request; 0: whatever it does


@dataclass(frozen=True, slots=True)
class DumpStack:
    """Find out where a worker stands, because its request takes long."""

    pool: str
    slot: int
    number: int  # of the request
    last: bool = False  # it is about to be killed; else it is slow, and that is reported


@dataclass(frozen=True, slots=True)
class TimeOut:
    """Tell a worker that the application must stop what it does for this request."""

    pool: str
    slot: int
    number: int


@dataclass(frozen=True, slots=True)
class SlowUnseen:
    """Report that more requests were slow than stacks were asked for."""

    pool: str
    count: int


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
class Saturated:
    """Connections wait though max_children workers are at work: find out where these stand, and report it."""

    pool: str
    waiting: int
    limit: int | None  # of the queue
    max_children: int
    since: float
    peak: int
    full_for: float = 0.0
    untold: int = 0  # episodes since the last report that were only counted
    quiet: bool = False  # count this one, too


@dataclass(frozen=True, slots=True)
class SampleStacks:
    """It lasts: look again where the workers stand."""

    pool: str
    peak: int
    full_for: float


@dataclass(frozen=True, slots=True)
class SaturationEnded:
    """Report that max_children workers are enough again."""

    pool: str
    lasted: float
    peak: int
    limit: int | None  # of the queue
    max_children: int
    full_for: float = 0.0
    quiet: bool = False  # nobody was told that it began


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
    | DumpStack
    | TimeOut
    | SlowUnseen
    | QueueFull
    | QueueEnded
    | Saturated
    | SampleStacks
    | SaturationEnded
    | Commit
    | Abandon
    | End
)
