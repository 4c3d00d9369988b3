"""What the policy itself wants to remember from one plan to the next; the loop keeps it, and looks at nothing in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "Limits",
    "Memory",
    "Overdue",
    "PoolMemory",
    "Saturation",
    "Shortage",
    "Sizing",
]


@dataclass(frozen=True, slots=True)
class Shortage:
    """More workers are wanted than the pool has: since when, and what was wanted at the last look."""

    since: float
    looked: float
    wanted: int  # workers that are busy, and connections that wait


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the managers remember of a pool."""

    size: int | None = None  # workers it shall have; None: not decided yet
    shortage: Shortage | None = None
    grown: float = 0.0  # workers it grew by lately: this wears off by spawn_rate a second
    grown_at: float = 0.0  # when that was reckoned
    lows: tuple[tuple[float, int], ...] = ()  # the lowest number of idle workers since each moment, oldest first
    shrunk: float = 0.0  # when it last shrank


@dataclass(frozen=True, slots=True)
class Overdue:
    """What was done about one request that takes long."""

    number: int
    seen: float  # when it was first looked at
    shown: bool = False  # that it is slow was told
    told: float | None = None  # when its application was last told to stop
    ending: float | None = None  # when its last stack was asked for
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What is remembered of a pool's requests and of how long they may take."""

    requests: Mapping[int, Overdue] = field(default_factory=dict)  # by slot: those about which something was done
    limits: tuple[float | None, ...] = ()  # slow, soft, hard, at the last look
    look_at: float = 0.0  # nothing can be due before
    second: float = 0.0  # when the second began in which stacks are counted
    stacks: int = 0  # asked for in that second, because their requests were slow
    unseen: int = 0  # slow requests beyond what is asked for in a second


@dataclass(frozen=True, slots=True)
class Saturation:
    """What is remembered of a pool whose workers are all busy while connections wait, and of the times before."""

    since: float | None = None  # when it began; None: it is not so
    seen: float = 0.0  # when it was last seen
    peak: int = 0  # the longest queue meanwhile
    full_for: float = 0.0  # how long the queue was seen at its limit meanwhile
    full_seen: float | None = None  # when it was at its limit, if it was at the last look
    begun: float | None = None  # when it had lasted long enough to be an episode
    quiet: bool = False  # one of too many: it is counted, and nothing is said of it
    samples: int = 0  # how often the stacks were looked at again
    minute: float = 0.0  # when the minute began in which episodes are counted
    told: int = 0  # episodes that were reported in that minute
    untold: int = 0  # episodes that were not, since the last that was


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What the policy itself wants to remember of a pool from one plan to the next."""

    failures: int = 0  # consecutive starts that came to nothing
    not_before: float = 0.0  # no fork before this moment
    full_since: float | None = None  # since when the listen queue was seen full
    full_seen: float = 0.0  # when it was last seen full
    full_peak: int = 0
    saturation: Saturation = Saturation()
    sizing: Sizing = Sizing()
    deaths: float = 0.0  # processes that died of late, less those that time has made up for
    deaths_at: float = 0.0  # when that was counted
    cutoff: int = 0  # the first generation of the code that all this is said of
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy remembers, by pool name."""

    pools: Mapping[str, PoolMemory] = field(default_factory=dict)

    def of(self, name: str) -> PoolMemory:
        """A pool's memory; a new pool has none."""
        return self.pools.get(name, PoolMemory())
