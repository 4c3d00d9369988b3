"""The rig: nginx in front, wrk before that, and a look at what a process tree has cost.

CPU time is read from the kernel's per-process CPU clocks, in nanoseconds, for every living process of the tree, plus
what the tree's ended children are charged with in /proc/PID/stat (in clock ticks; zero while nobody ends). Both are
user and system time together.

What everybody else on the machine used meanwhile is the difference between the processors' busy time and that of the
rig itself; it says how far a run can be trusted, since neighbours cost a server its caches.
"""

from __future__ import annotations

import http.client
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = [
    "Load",
    "Problem",
    "Tree",
    "busy",
    "find",
    "free_port",
    "load",
    "nginx",
    "probe",
    "stopping",
    "wait_for",
    "wait_for_quiet",
]

_PATIENCE = 30.0  # seconds; for what takes far less than one
_PARAMS = Path("/etc/nginx/fastcgi_params")
_TICKS = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: a clock id is the inverted pid, shifted, and the kind of clock

_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
{servers}
}}
"""
_SERVER = "    server {{ listen 127.0.0.1:{port}; location / {{ include {params}; fastcgi_pass unix:{socket}; }} }}"


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
    end = time.monotonic() + _PATIENCE
    while not fact():
        if time.monotonic() > end:
            raise Problem(f"not within {_PATIENCE:.0f} s: {what}")
        time.sleep(0.01)


@contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process when done with it."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def nginx(folder: Path, sockets: Mapping[int, Path]) -> Iterator[Tree]:
    """One nginx with one worker and stock parameters; every port leads to a socket."""
    folder.mkdir()
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    servers = "\n".join(_SERVER.format(port=port, params=_PARAMS, socket=path) for port, path in sockets.items())
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(user=user, folder=folder, servers=servers))
    command = [find("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with stopping(subprocess.Popen(command, stdin=subprocess.DEVNULL)) as process:
        for port in sockets:
            wait_for(partial(_connects, port), "nginx listens")
        yield Tree(process.pid)


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def probe(port: int) -> tuple[int, bytes]:
    """One request: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    cpu: float  # what wrk itself used, in seconds
    complaint: str  # empty if every answer was good


def load(port: int, seconds: int) -> Load:
    """Four connections, one thread, for that long."""
    command = [find("wrk"), "-t1", "-c4", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    begin, before = time.monotonic(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _PATIENCE, check=False)
    counted = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    if done.returncode or counted is None:
        raise Problem(f"wrk failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    bad = re.search(r"(Non-2xx.*|Socket errors.*)", done.stdout)
    taken = float(counted[2]) * {"ms": 0.001, "s": 1, "m": 60}[counted[3]]
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(int(counted[1]), min(taken, time.monotonic() - begin), used, bad[1].strip() if bad else "")


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
        parents: dict[int, int] = {}
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


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5) numbers it 3); empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
