"""Whether the kernel ran out of memory: a SIGKILL from nobody may have been its out-of-memory killer.

The kernel counts whom it killed, in the memory controller's files of the cgroup that the process was in: ``oom_kill``
in ``memory.events`` (cgroup v2; with those of all cgroups below) or in ``memory.oom_control`` (v1, since Linux 4.13).
It does so for every cause, a limit of that cgroup, of one above it, or of the machine, and it counts before it kills.
Where a process is in no such cgroup, ``oom_kill`` in /proc/vmstat counts for the whole machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["OomWatch", "find_counter"]

_PROC: Final = Path("/proc")
_KEY: Final = "oom_kill"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class OomWatch:
    """Compares the count with what is explained already. Nothing is counted by a kernel that has no such file."""

    def __init__(self, counter: Path | None) -> None:
        self._counter = counter
        self._explained = _read(counter) or 0

    @classmethod
    def of_this_process(cls) -> OomWatch:
        """For the cgroup of this process, which its children share unless somebody moves them."""
        return cls(find_counter(_PROC))

    def explain(self) -> str:
        """Of a process that was killed by SIGKILL and that we did not kill: why, if the kernel did; else "".

        To be called once for each. Where several died and the kernel killed fewer, those are named that come first.
        The words do not change from one to the next: deaths are counted by them.
        """
        count = _read(self._counter)
        if count is None or count <= self._explained:
            return ""
        self._explained += 1
        return f"out of memory, killed by the kernel ({_KEY} in {self._counter})"


def find_counter(proc: Path) -> Path | None:
    """The file that counts for this process, by what ``proc`` says of cgroups and mounts; None if there is none."""
    for candidate in (*_candidates(proc), proc / "vmstat"):
        if _read(candidate) is not None:
            return candidate
    return None


def _candidates(proc: Path) -> Iterator[Path]:
    """The cgroup's own file, in every place where the memory controller's tree is mounted."""
    paths = dict(_memberships(proc))
    for kind, root, place in _mounts(proc):
        path = paths.get(kind)
        if path is None:
            continue
        # What is mounted may be a part of the tree only, as in a container without a cgroup namespace.
        below = os.path.relpath(path, root)
        name = "memory.events" if kind == "cgroup2" else "memory.oom_control"
        if below != ".." and not below.startswith("../"):
            yield Path(place, below, name)


def _memberships(proc: Path) -> Iterator[tuple[str, str]]:
    """The paths of this process in the trees that matter, by the kind of tree: /proc/self/cgroup, cgroups(7)."""
    for line in _lines(proc / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _mounts(proc: Path) -> Iterator[tuple[str, str, str]]:
    """Mounted trees, as (kind, what of it is mounted, where): /proc/self/mountinfo, proc(5)."""
    for line in _lines(proc / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup2" or "memory" in kind[2].split(","):
            yield kind[0], _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(text: str) -> str:
    """Blanks and backslashes are written in octal there."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _read(counter: Path | None) -> int | None:
    """The count; None where there is none to read."""
    for line in () if counter is None else _lines(counter):
        key, _, value = line.partition(" ")
        if key == _KEY and value.isdigit():
            return int(value)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
