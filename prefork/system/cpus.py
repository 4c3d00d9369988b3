"""How many CPUs this process may really use: its affinity, and the quota of its control groups.

A container's limit ("--cpus 1.5") is a quota of the CPU controller (cgroups(7)), not an affinity: sched_getaffinity(2)
still names every CPU of the machine. The quota of each group from our own up to the root counts, the smallest of them
decides. What cannot be read is no limit: a wrong guess must not be smaller than the machine.

* Version 2: ``cpu.max`` holds "QUOTA PERIOD" in microseconds, or "max PERIOD".
* Version 1: ``cpu.cfs_quota_us`` (-1: none) and ``cpu.cfs_period_us`` below the mount of the ``cpu`` controller.
* In a container the path in /proc/self/cgroup may be the host's: the mount's root is then our own group.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["Cpus", "usable_cpus"]

_MOUNT: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_FIRST_VERSION_MOUNTS: Final[tuple[str, ...]] = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
_SECOND_VERSION_MOUNTS: Final[tuple[str, ...]] = (".", "unified")  # alone; beside version 1, as systemd has it


@dataclass(frozen=True, slots=True)
class Cpus:
    """What was found. ``quota`` is in CPUs (1.5), None where there is none; ``present`` is the machine's number."""

    affinity: int
    present: int
    quota: float | None = None

    @property
    def usable(self) -> int:
        """Whole CPUs that can be kept busy, 1 at least; a part of one counts as one."""
        if self.quota is None:
            return self.affinity
        return max(1, min(self.affinity, math.ceil(self.quota)))

    def __str__(self) -> str:
        found = f"{self.usable} usable CPU{'s' if self.usable != 1 else ''}"
        limits = []
        if self.affinity != self.present:
            limits.append(f"affinity: {self.affinity} of {self.present}")
        if self.quota is not None and self.quota < self.affinity:
            limits.append(f"cgroup quota: {self.quota:g} of {self.affinity}")
        return f"{found} ({', '.join(limits)})" if limits else found


def usable_cpus(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> Cpus:
    """What the scheduler and the control groups allow this process now."""
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for group in _groups(membership, mount) if (quota := _quota(group)) is not None]
    return Cpus(affinity, max(affinity, os.cpu_count() or 1), min(quotas, default=None))


def _groups(membership: Path, mount: Path) -> Iterator[Path]:
    """The directories of our control groups that may hold a CPU quota, each with all above it."""
    try:
        lines = membership.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:
            mounts = _SECOND_VERSION_MOUNTS
        elif "cpu" in controllers.split(","):
            mounts = _FIRST_VERSION_MOUNTS
        else:
            continue
        path = PurePosixPath("/", name).relative_to("/")
        for place in mounts:
            yield from (mount / place / step for step in (path, *path.parents))


def _quota(group: Path) -> float | None:
    """The quota of one group in CPUs; None where there is none, or nothing to read."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        given = int((group / "cpu.cfs_quota_us").read_text())
        return None if given <= 0 else given / int((group / "cpu.cfs_period_us").read_text())
    return None
