"""Rounds of runs: every server started afresh, asked once, loaded, asked again, looked at and stopped.

In each round the servers take turns under each workload, A B A B, so that whatever else the machine does hits all of
them alike. A run that others on the machine disturbed is repeated while there is time to spare; the quietest counts.
The time is bounded: a round that would go beyond it is not begun, though the first always is.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.figures import Run
from benchmarks.kit import environment
from benchmarks.machine import Problem, Tree, busy, stopping, wait_for, wait_for_quiet
from benchmarks.rig import Load, Site, last_line, load, probe
from benchmarks.servers import Server, fill
from benchmarks.workloads import Workload, takes_part

__all__ = ["QUIET", "TRIES", "Bench", "Pace", "Results", "measure"]

QUIET: Final = 0.1  # of one processor: what others may use in a run that need not be repeated
TRIES: Final = 3

_WARM_UP: Final = 1  # seconds
_STARTING: Final = 1.0  # seconds that a start and a stop take, looks included; most need half of it
_QUIET_PATIENCE: Final = 3.0  # seconds to wait for a quiet moment

Results = dict[str, dict[str, list[Run]]]  # by workload and server


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured, and until when at the latest (monotonic seconds)."""

    rounds: int
    seconds: int
    deadline: float

    @property
    def run(self) -> float:
        """Seconds that one run takes, roughly."""
        return self.seconds + _WARM_UP + _STARTING


@dataclass(frozen=True, slots=True)
class Bench:
    """Where it happens: the working directory, nginx, each server's site, and the words of their commands."""

    folder: Path
    front: Tree
    sites: Mapping[str, Site]
    words: Mapping[str, str]
    say: Callable[[str], None] = field(default=print)


def measure(bench: Bench, servers: Sequence[Server], workloads: Sequence[Workload], pace: Pace) -> Results:
    """All rounds."""
    pairs = [(workload, server) for workload in workloads for server in servers if takes_part(server, workload)]
    results: Results = {workload.name: {} for workload, _ in pairs}
    for number in range(pace.rounds):
        begin = time.monotonic()
        if number and begin + len(pairs) * pace.run > pace.deadline:
            bench.say(f"the time is up after {number} of {pace.rounds} rounds")
            break
        for done, (workload, server) in enumerate(pairs):
            left = ((pace.rounds - number) * len(pairs) - done - 1) * pace.run
            runs = results[workload.name].setdefault(server.name, [])
            runs.append(_quietest(bench, workload, server, pace, left, f"round {number + 1}"))
    return results


def _quietest(bench: Bench, workload: Workload, server: Server, pace: Pace, left: float, label: str) -> Run:
    """Measure until the rest of the machine was quiet meanwhile, a few times at most, if there is time to spare."""
    runs: list[Run] = []
    for run in _tries(bench, workload, server, pace, left):
        runs.append(run)
        figures = f"{run.rate:9,.0f} requests/s {run.cost:9.2f} µs" if run.requests else ""
        bench.say(f"{label}  {workload.name:9} {server.name:24}{figures}  others {run.others:4.0%}  {run.invalid}")
        if run.invalid or run.others <= QUIET:
            return run
    return min(runs, key=lambda run: run.others)


def _tries(bench: Bench, workload: Workload, server: Server, pace: Pace, left: float) -> Iterator[Run]:
    for number in range(TRIES):
        spare = pace.deadline - time.monotonic() - left - pace.run
        if number and spare < 0:
            return
        wait_for_quiet(QUIET, min(_QUIET_PATIENCE, max(0.0, spare)))
        yield _measured(bench, workload, server, pace.seconds)


def _measured(bench: Bench, workload: Workload, server: Server, seconds: int) -> Run:
    """One server, started, loaded and stopped."""
    site = bench.sites[server.name]
    site.socket.unlink(missing_ok=True)
    log = bench.folder / "access.log"
    log.unlink(missing_ok=True)
    words = {**bench.words, "socket": str(site.socket), "module": workload.module, "log": str(log)}
    words |= {"size": str(workload.size), "folder": str(bench.folder)}
    said = bench.folder / "server.log"
    with said.open("wb") as output:
        process = _started(server, workload, words, output.fileno())
    run = _observed(process, bench, site.port, workload, seconds)
    if run.invalid:
        return replace(run, invalid=f"{run.invalid} {last_line(said)}".strip())
    if workload.logged and (lines := _lines(log) or _lines(said)) < run.requests:
        return replace(run, invalid=f"{lines} lines logged for {run.requests} requests")
    return run


def _observed(process: subprocess.Popen[bytes], bench: Bench, port: int, workload: Workload, seconds: int) -> Run:
    """The life of a server that has just been started; it has ended afterwards."""
    with stopping(process):
        try:
            wait_for(lambda: process.poll() is not None or not probe(port, workload), "it answers rightly")
            if process.poll() is not None:
                raise Problem(f"it ended with status {process.returncode}:")
            load(port, workload, _WARM_UP, bench.folder)
            return _loaded(Tree(process.pid), bench, port, workload, seconds)
        except Problem as problem:
            return Run(invalid=str(problem))


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _started(server: Server, workload: Workload, words: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    for name, content in server.files.items():
        Path(words["folder"], name).write_text(fill(content, words))
    options = server.logged if workload.logged else server.quiet
    return subprocess.Popen(
        [fill(part, words) for part in (*server.command, *(options or ()))],
        cwd=words["folder"],
        env=environment(**{name: fill(value, words) for name, value in server.environment.items()}),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )


def _loaded(tree: Tree, bench: Bench, port: int, workload: Workload, seconds: int) -> Run:
    """The measured part: nothing but wrk between the two looks at the clocks."""
    wrong = probe(port, workload)
    processes = tree.pids()
    everything, ahead, begin = busy(), bench.front.cpu(), tree.cpu()
    seen = load(port, workload, seconds, bench.folder)
    cpu, ahead, everything = tree.cpu() - begin, bench.front.cpu() - ahead, busy() - everything
    memory = tree.memory()
    same = bool(processes) and tree.pids() == processes
    invalid = _verdict(seen, same) or wrong or probe(port, workload)
    others = max(0.0, everything - cpu - ahead - seen.cpu) / seconds
    return Run(seen.requests, seen.seconds, cpu, memory, others, invalid)


def _verdict(seen: Load, same: bool) -> str:
    if not same:
        return "a process of the server ended or was born during the run"
    return seen.complaint or ("" if seen.requests else "no request was answered")
