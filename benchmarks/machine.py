"""A look at processes: what a tree of them has cost, what memory it holds, and what the rest of the machine did.

CPU time is read from the kernel's per-process CPU clocks, in nanoseconds, for every living process of the tree, plus
what the tree's ended children are charged with in /proc/PID/stat (in clock ticks; zero while nobody ends). Both are
user and system time together. Memory is PSS: what is shared counts by its share.

What everybody else on the machine used meanwhile is the difference between the processors' busy time and that of the
rig itself; it says how far a run can be trusted, since neighbours cost a server its caches.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["PATIENCE", "Problem", "Tree", "busy", "find", "free_port", "stopping", "wait_for", "wait_for_quiet"]

PATIENCE: Final = 30.0  # seconds; for what takes far less than one

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED: Final = 2  # linux/posix-timers.h: a clock id is the inverted pid, shifted, and the kind of clock


class Problem(Exception):
    """Why something cannot be measured, in one line."""


def find(tool: str) -> str:
    """The path of a command. Raises `Problem`."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise Problem(f"{tool} is not installed")
    return found


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe_socket:
        port: int = probe_socket.getsockname()[1]
        return port


def wait_for(fact: Callable[[], object], what: str) -> None:
    """Wait until something is so. Raises `Problem`."""
    end = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > end:
            raise Problem(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.01)


@contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process when done with it."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_quiet(share: float, patience: float) -> None:
    """Wait until the machine has used less than that share of one processor for half a second, or no longer."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = busy()
        time.sleep(0.5)
        if busy() - before <= share * 0.5:
            return


def busy() -> float:
    """Seconds that all processors together were not idle, since the machine started (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


class Tree:
    """A process and all it has forked."""

    def __init__(self, root: int) -> None:
        self._root = root

    def pids(self) -> frozenset[int]:
        """The living processes of the tree."""
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                fields = _stat(int(name))
                if fields and fields[0] not in "ZX":
                    parents[int(name)] = int(fields[1])
        found = {self._root} & parents.keys()
        while new := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= new
        return frozenset(found)

    def cpu(self) -> float:
        """Seconds of CPU that the tree has used so far, its ended and reaped members included."""
        total = 0.0
        for pid in self.pids():
            fields = _stat(pid)
            if fields:
                total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
                total += (int(fields[13]) + int(fields[14])) / _TICKS
        return total

    def memory(self) -> int:
        """Bytes of memory, PSS, that the tree holds (proc(5), smaps_rollup)."""
        total = 0
        for pid in self.pids():
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
        return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5) numbers it 3); empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
