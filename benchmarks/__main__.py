"""`python -m benchmarks`: what a request costs with prefork and with its peers, side by side in one run.

Installs what it needs where it may, starts nginx and each server in turn, loads it with wrk, and writes tables and
charts to benchmarks/results. What is missing is named and left out. See benchmarks/README.md for how to read it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.figures import summarize
from benchmarks.kit import CHECKOUT, Kit, install_system_packages
from benchmarks.machine import Problem, find, free_port
from benchmarks.measuring import Bench, Pace, Results, measure
from benchmarks.report import Report, about, as_json, as_markdown, charts
from benchmarks.rig import Site, nginx, user
from benchmarks.servers import REFERENCES, SERVERS, Server
from benchmarks.workloads import DOWNLOAD_SIZE, WORKLOADS, Workload, text

_HERE: Final = CHECKOUT / "benchmarks"
_QUICK: Final = frozenset(("hello", "browser"))

_Named = TypeVar("_Named", Server, Workload)


def main() -> int:
    """Measure, print, and write the results down; 1 if a server answered wrongly or nothing could be measured."""
    words = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers and folders go with us
    servers = _chosen(SERVERS, words.servers)
    workloads = _chosen(WORKLOADS, words.workloads or (_QUICK if words.quick else ()))
    install_system_packages(frozenset(server.needs for server in servers))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefork-bench-")))
        cache = words.cache.absolute() if words.cache else work / "kit"
        cache.mkdir(parents=True, exist_ok=True)
        try:
            find("wrk"), find("nginx")
            kit = Kit(cache)
            kit.prepare()
            versions = _provided(kit, servers)
            here = tuple(server for server in servers if server.name in versions)
            pace = _pace(words)
            results = _measured(work, kit, here, workloads, pace)
        except Problem as problem:
            print(f"nothing can be measured: {problem}", file=sys.stderr)
            return 1
    absent = tuple(server.name for server in servers if server.name not in versions)
    report = _report(here, absent, versions, workloads, results, pace)
    _write(report, words.output, words.name)
    return int(any(row.invalid for table in report.tables for row in table.rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--servers", type=_words, default=(), metavar="A;B", help="names or their beginnings, separated by semicolons")
    add("--workloads", type=_words, default=(), metavar="A;B", help=", ".join(each.name for each in WORKLOADS))
    add("--rounds", type=int, choices=range(1, 21), metavar="N", help="every server once in each (3; quick: 2)")
    add("--seconds", type=int, choices=range(1, 31), metavar="N", help="of load in each run (2; quick: 1)")
    add(
        "--minutes",
        type=float,
        default=None,
        metavar="N",
        help="begin no round that would end later (15; quick: 3)",
    )
    add("--quick", action="store_true", help="hello and browser only, in short")
    add("--cache", type=Path, metavar="DIR", help="keep what is installed and built here")
    add("--output", type=Path, default=_HERE / "results", metavar="DIR", help="benchmarks/results")
    add("--name", default="latest", help="of the files: NAME.md, NAME.json, NAME-WORKLOAD.svg (latest)")
    return parser.parse_args()


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(";") if word.strip())


def _chosen(table: Iterable[_Named], names: Iterable[str]) -> tuple[_Named, ...]:
    """Those whose name begins with one of the names; all, if there are none."""
    beginnings, known = tuple(names), tuple(table)
    for beginning in beginnings:
        if not any(each.name.startswith(beginning) for each in known):
            raise SystemExit(f"{beginning!r} is none of: {'; '.join(each.name for each in known)}")
    return tuple(each for each in known if not beginnings or each.name.startswith(beginnings))


def _pace(words: argparse.Namespace) -> Pace:
    rounds = words.rounds or (2 if words.quick else 3)
    seconds = words.seconds or (1 if words.quick else 2)
    return Pace(rounds, seconds, time.monotonic() + 60 * (words.minutes or (3 if words.quick else 15)))


def _provided(kit: Kit, servers: Sequence[Server]) -> dict[str, str]:
    """The versions of the servers that can run here; of the others, one line each."""
    versions, absent = {}, {}
    for server in servers:
        if server.needs not in versions and server.needs not in absent:
            print(f"preparing {server.needs}", file=sys.stderr, flush=True)
            try:
                versions[server.needs] = kit.provide(server.needs)
            except Problem as problem:
                absent[server.needs] = str(problem)
        if server.needs in absent:
            print(f"without {server.name}: {absent[server.needs]}", file=sys.stderr, flush=True)
    return {server.name: versions[server.needs] for server in servers if server.needs in versions}


def _measured(work: Path, kit: Kit, servers: Sequence[Server], workloads: Sequence[Workload], pace: Pace) -> Results:
    folder = work / "run"
    shutil.copytree(_HERE / "apps", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "download.bin").write_bytes(text(DOWNLOAD_SIZE))
    sites = {
        server.name: Site(free_port(), folder / f"{number}.sock", server.front) for number, server in enumerate(servers)
    }
    django = CHECKOUT / "examples" / "django_site"
    words = {**kit.words, "user": user(), "applications": f"{folder}:{django}"}
    with nginx(work / "nginx", folder, list(sites.values())) as front:
        bench = Bench(folder, front, sites, words, partial(print, file=sys.stderr, flush=True))
        return measure(bench, servers, workloads, pace)


def _report(
    servers: tuple[Server, ...],
    absent: Sequence[str],
    versions: dict[str, str],
    workloads: Iterable[Workload],
    results: Results,
    pace: Pace,
) -> Report:
    # A constant cannot be everything that was asked for.
    kept = tuple(workload for workload in workloads if results.get(workload.name))
    done = max((len(runs) for found in results.values() for runs in found.values()), default=0)
    notes = about(done, pace.seconds, absent)
    tables = tuple(summarize(workload.name, results[workload.name], REFERENCES) for workload in kept)
    return Report(_command(), notes, servers, versions, kept, tables, results)


def _command() -> str:
    """How this was called, without places."""
    shown, skipped = ["python -m benchmarks"], False
    for word in sys.argv[1:]:
        place = word.startswith(("--cache", "--output", "--name"))
        if not place and not skipped:
            shown.append(f"'{word}'" if " " in word or ";" in word else word)
        skipped = place and "=" not in word
    return " ".join(shown)


def _write(report: Report, folder: Path, name: str) -> None:
    """All files of this name, in place of what an earlier run of that name left."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.svg"):
        old.unlink()
    table = as_markdown(report, name)
    (folder / f"{name}.md").write_text(table)
    (folder / f"{name}.json").write_text(as_json(report))
    for workload, drawing in charts(report).items():
        (folder / f"{name}-{workload}.svg").write_text(drawing)
    print(table)


if __name__ == "__main__":
    sys.exit(main())
