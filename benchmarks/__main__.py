"""`python -m benchmarks`: CPU and requests per second of several servers, side by side in one run.

Every round starts each server afresh, asks it once, loads it for a few seconds through the same nginx, asks it again
and stops it; the servers take turns within a round, so that whatever else the machine does hits all of them alike.
Only the ratios within one run mean something. It takes the standard library, nginx and wrk; a contender that is
missing is left out, with one line that says so. A run that others on the machine disturbed is repeated, within reason.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.hello import BODY
from benchmarks.machine import (
    Problem,
    Tree,
    busy,
    find,
    free_port,
    load,
    nginx,
    probe,
    stopping,
    wait_for,
    wait_for_quiet,
)
from benchmarks.report import Run, as_json, as_markdown, machine, rows
from benchmarks.servers import Floor, Prefork, Server, Uwsgi

_HERE = Path(__file__).resolve().parent
_WARM_UP = 1  # seconds
_QUIET = 0.1  # of one processor: what others may use in a run that need not be repeated
_QUIET_PATIENCE = 5.0  # seconds to wait for such a moment before a run
_TRIES = 4


def main() -> int:
    """Measure, print, and write the results down."""
    words = _arguments()
    try:
        find("wrk"), find("nginx")
    except Problem as problem:
        print(f"nothing can be measured: {problem}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        folder = Path(name)
        shutil.copy(_HERE / "hello.py", folder)
        servers = _prepared(folder, words)
        if not servers:
            return 1
        runs = _rounds(folder, servers, words.rounds, words.seconds)
    table = rows({server.name: server.what for server in servers}, runs, Floor.name)
    notes = _notes(words.rounds, words.seconds)
    text = as_markdown(table, notes)
    print(text)
    if words.name:
        results = _HERE / "results"
        results.mkdir(exist_ok=True)
        (results / f"{words.name}.md").write_text(text)
        (results / f"{words.name}.json").write_text(as_json(table, runs, notes))
    return 0 if all(not row.invalid for row in table) else 1


def _notes(rounds: int, seconds: int) -> list[str]:
    setting = (
        f"{machine()}; nginx with 1 worker and stock fastcgi_params, wrk with 1 thread and 4 connections, "
        "1 worker a server, a 14-byte answer"
    )
    method = (
        f"medians of {rounds} rounds of {seconds} s, the servers taking turns; CPU is user and system time "
        "of the server's whole process tree, from the kernel's per-process CPU clocks (nanoseconds)"
    )
    noise = (
        "others: the part of one processor that the rest of the machine used in the worst of the runs; "
        f"each run is the quietest of up to {_TRIES}, the first below {_QUIET:.0%}"
    )
    return [setting, method, noise]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21), metavar="N", help="rounds (5)")
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 31), metavar="N", help="of load (3)")
    parser.add_argument("--name", default="", help="write benchmarks/results/NAME.md and .json")
    parser.add_argument("--compiled", type=Path, metavar="DIR", help="a compiled build made before with pip --target")
    parser.add_argument("--plain", type=Path, metavar="DIR", help="a plain build made before")
    return parser.parse_args()


def _prepared(folder: Path, words: argparse.Namespace) -> list[Server]:
    """The servers that can run here; of the others, one line each."""
    wanted: dict[str, Callable[[], Server]] = {
        Floor.name: Floor,
        Uwsgi.name: Uwsgi,
        "prefork, compiled": lambda: Prefork(compiled=True, build=words.compiled),
        "prefork, plain": lambda: Prefork(compiled=False, build=words.plain),
    }
    servers = []
    for name, make in wanted.items():
        try:
            server = make()
            server.prepare(folder)
            servers.append(server)
        except Problem as problem:
            print(f"without {name}: {problem}", file=sys.stderr)
    return servers


def _rounds(folder: Path, servers: list[Server], rounds: int, seconds: int) -> dict[str, list[Run]]:
    sockets = {server.name: folder / f"{number}.sock" for number, server in enumerate(servers)}
    ports = {server.name: free_port() for server in servers}
    runs: dict[str, list[Run]] = {server.name: [] for server in servers}
    with nginx(folder / "nginx", {ports[name]: path for name, path in sockets.items()}) as front:
        for number in range(1, rounds + 1):
            for server in servers:
                run = _quietest(
                    partial(_measure, server, folder, sockets[server.name], ports[server.name], front, seconds),
                    f"round {number:2}  {server.name:20}",
                )
                runs[server.name].append(run)
    return runs


def _quietest(measure: Callable[[], Run], label: str) -> Run:
    """Measure until the rest of the machine was quiet meanwhile, or a few times."""
    runs: list[Run] = []
    while len(runs) < _TRIES and not (runs and runs[-1].others <= _QUIET):
        wait_for_quiet(_QUIET, _QUIET_PATIENCE)
        run = measure()
        runs.append(run)
        figures = f"{run.requests / run.seconds:9,.0f} requests/s {run.microseconds:8.2f} µs" if run.seconds else ""
        print(f"{label}{figures}  others {run.others:4.0%}  {run.invalid}", file=sys.stderr)
        if run.invalid:  # never papered over by a better one
            return run
    return min(runs, key=lambda run: run.others)


def _measure(server: Server, folder: Path, socket: Path, port: int, front: Tree, seconds: int) -> Run:
    """One server, started, loaded and stopped."""
    socket.unlink(missing_ok=True)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.command(socket),
            cwd=folder,
            env=server.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    with stopping(process):
        try:
            wait_for(lambda: socket.exists() or process.poll() is not None, "the socket is there")
            wait_for(lambda: process.poll() is not None or probe(port)[0] == 200, "it answers 200")
            if process.poll() is not None:
                raise Problem(f"it ended with status {process.returncode}:")
            load(port, _WARM_UP)
            return _loaded(Tree(process.pid), front, port, seconds)
        except Problem as problem:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            return Run(0, 0, 0, 0, f"{problem} {''.join(last)}".strip())


def _loaded(tree: Tree, front: Tree, port: int, seconds: int) -> Run:
    """The measured part: nothing but wrk between the two looks at the clocks."""
    good = (200, BODY)
    answers = [probe(port)]
    processes = tree.pids()
    everything, ahead, begin = busy(), front.cpu(), tree.cpu()
    seen = load(port, seconds)
    cpu, ahead, everything = tree.cpu() - begin, front.cpu() - ahead, busy() - everything
    invalid = seen.complaint
    if tree.pids() != processes or not processes:
        invalid = "a process of the server ended or was born during the run"
    elif not seen.requests:
        invalid = "no request was answered"
    else:
        answers.append(probe(port))
        invalid = invalid or next((f"expected {good}, found {answer}" for answer in answers if answer != good), "")
    others = max(0.0, everything - cpu - ahead - seen.cpu) / seconds
    return Run(seen.requests, seen.seconds, cpu, others, invalid)


if __name__ == "__main__":
    sys.exit(main())
