"""`python -m benchmarks`: CPU and requests per second of several servers, side by side in one run.

Every round starts each server afresh, asks it once, loads it for a few seconds through the same nginx, asks it again
and stops it; the servers take turns within a round, so that whatever else the machine does hits all of them alike.
Only the ratios within one run mean something. It takes the standard library, nginx and wrk; a contender that is
missing is left out, with one line that says so. Rounds that others on the machine disturbed are repeated, within
reason.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.hello import BODY
from benchmarks.machine import Problem, Tree, busy, find, free_port, load, nginx, probe, stopping, wait_for
from benchmarks.report import Run, as_json, as_markdown, disturbance, machine, quietest, rows
from benchmarks.servers import Floor, Prefork, Server, Uwsgi

_HERE = Path(__file__).resolve().parent
_WARM_UP = 1  # seconds
_QUIET = 0.1  # processors that others may keep busy in a round that counts
_TRIES = 4  # times as many rounds as wanted, in the hope of quiet ones


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
        rounds = _rounds(folder, servers, words.rounds, words.seconds)
    kept = quietest(rounds, words.rounds)
    runs = {server.name: [runs[server.name] for runs in kept] for server in servers}
    table = rows({server.name: server.what for server in servers}, runs, Floor.name)
    notes = _notes(words, len(rounds), max(map(disturbance, kept)))
    text = as_markdown(table, notes)
    print(text)
    if words.name:
        results = _HERE / "results"
        results.mkdir(exist_ok=True)
        (results / f"{words.name}.md").write_text(text)
        (results / f"{words.name}.json").write_text(as_json(table, runs, notes))
    return 0 if all(not row.invalid for row in table) else 1


def _notes(words: argparse.Namespace, tried: int, others: float) -> list[str]:
    setting = (
        f"{machine()}; nginx with 1 worker and stock fastcgi_params, wrk with 1 thread and 4 connections, "
        "1 worker a server, a 14-byte answer"
    )
    method = (
        f"medians of {words.rounds} rounds of {words.seconds} s, the servers taking turns; CPU is user and system time "
        "of the server's whole process tree, from the kernel's per-process CPU clocks (nanoseconds)"
    )
    noise = (
        f"the {words.rounds} quietest of {tried} rounds: other processes kept at most {others:.0%} of a processor busy"
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


def _rounds(folder: Path, servers: list[Server], wanted: int, seconds: int) -> list[dict[str, Run]]:
    """Rounds until enough were quiet, or enough is enough."""
    sockets = {server.name: folder / f"{number}.sock" for number, server in enumerate(servers)}
    ports = {server.name: free_port() for server in servers}
    rounds: list[dict[str, Run]] = []
    with nginx(folder / "nginx", {ports[name]: path for name, path in sockets.items()}) as front:
        while sum(disturbance(runs) <= _QUIET for runs in rounds) < wanted and len(rounds) < _TRIES * wanted:
            runs: dict[str, Run] = {}
            for server in servers:
                run = _measure(server, folder, sockets[server.name], ports[server.name], front, seconds)
                runs[server.name] = run
                figures = (
                    f"{run.requests / run.seconds:9,.0f} requests/s {run.microseconds:8.2f} µs" if run.seconds else ""
                )
                others = f"others {run.others:4.0%}"
                print(f"round {len(rounds) + 1:2}  {server.name:20}{figures}  {others}  {run.invalid}", file=sys.stderr)
            rounds.append(runs)
    return rounds


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
