"""What came out, for people and for machines: Markdown, JSON, charts. No name of a machine, no path."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.chart import Bar, Panel, chart
from benchmarks.figures import Figures, Run, Table
from benchmarks.measuring import QUIET, TRIES
from benchmarks.servers import REFERENCES, Server
from benchmarks.workloads import Workload

__all__ = ["Report", "about", "as_json", "as_markdown", "charts"]

_MEGABYTE: Final = 1_048_576
_HEAD: Final = (
    "| server | requests/s | CPU µs/request | lowest – highest | ratio | PSS MB | others |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything there is to tell. ``versions`` by server; ``notes`` are what one must know to read the rest."""

    command: str
    notes: tuple[str, ...]
    servers: tuple[Server, ...]
    versions: Mapping[str, str]
    workloads: tuple[Workload, ...]
    tables: tuple[Table, ...]
    runs: Mapping[str, Mapping[str, Sequence[Run]]]


def about(rounds: int, seconds: int, absent: Sequence[str]) -> tuple[str, ...]:
    """What one must know to read the tables."""
    kernel = ".".join(platform.release().split(".")[:2])
    machine = f"{os.cpu_count()} cores, Linux {kernel}, CPython {platform.python_version()}"
    notes = {
        machine: "nginx with 1 worker and stock parameters, wrk with 1 thread and 4 connections, 1 worker a server, "
        "Unix sockets.",
        "Figures": f"medians of {rounds} rounds of {seconds} s after a second of warm-up; the servers take turns, each "
        "started afresh.",
        "CPU": "user and system time of the server's whole process tree, from the kernel's per-process clocks.",
        "Ratio": "the median of the rounds' own ratios of CPU per request, to the first of "
        f"{'; '.join(REFERENCES)} that took part. Only ratios within one run mean something.",
        "PSS": "memory of the same tree after the load; what processes share is counted by its share.",
        "Others": "the part of one processor that the rest of the machine used in the worst of the runs; each run is "
        f"the quietest of up to {TRIES}, the first below {QUIET:.0%}.",
    }
    if absent:
        notes["Could not be had"] = f"{'; '.join(absent)}."
    return tuple(f"{key}: {value}" for key, value in notes.items())


def as_markdown(report: Report, name: str) -> str:
    """The tables, each with its chart, then how every server was run."""
    lines = [f"Made by `{report.command}`.", "", *(f"* {note}" for note in report.notes), ""]
    for table, workload in zip(report.tables, report.workloads, strict=True):
        lines += [f"## {workload.name}: {workload.what}", "", _HEAD, *map(_row, table.rows), ""]
        lines += [_compared(table), "", f"![{workload.name}]({name}-{workload.name}.svg)", ""]
    lines += ["## The servers", "", "| server | version | to nginx | |", "|---|---|---|---|"]
    for server in report.servers:
        lines.append(f"| {server.name} | {report.versions[server.name]} | {server.front.value} | {server.what} |")
    lines += ["", "Their commands, without and with what an access log adds:", "", "```"]
    for server in report.servers:
        lines.append(" ".join(_shown(part) for part in (*server.command, *server.quiet)))
        if server.logged is not None:
            lines.append("    logged: " + " ".join(map(_shown, server.logged)))
    return "\n".join([*lines, "```", ""])


def _shown(part: str) -> str:
    return f"'{part}'" if " " in part else part


def _row(row: Figures) -> str:
    if row.invalid:
        return f"| {row.server} | invalid: {row.invalid.replace('|', '/')} | | | | | |"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    digits = 1 if row.cost < 1000 else 0
    span = f"{row.lowest:,.{digits}f} – {row.highest:,.{digits}f}"
    return (
        f"| {row.server} | {row.rate:,.0f} | **{row.cost:,.{digits}f}** | {span} | {ratio} "
        f"| {row.memory / _MEGABYTE:.1f} | {row.others:.0%} |"
    )


def _compared(table: Table) -> str:
    if not table.reference:
        return "No ratios: none of the servers they could be to took part."
    return f"Ratios of CPU per request are to {table.reference}."


def charts(report: Report) -> dict[str, str]:
    """A chart a workload, by the workload's name: CPU, rate and memory."""
    return {
        workload.name: _chart(workload, [row for row in table.rows if not row.invalid])
        for table, workload in zip(report.tables, report.workloads, strict=True)
    }


def _chart(workload: Workload, rows: Sequence[Figures]) -> str:
    def bar(row: Figures, value: float, *ends: float) -> Bar:
        low, high = ends or (value, value)
        return Bar(row.server, value, low, high, stands_out=row.server.startswith("prefork"))

    costs = [bar(row, row.cost, row.lowest, row.highest) for row in rows]
    rates = [bar(row, row.rate) for row in rows]
    memory = [bar(row, row.memory / _MEGABYTE) for row in rows]
    return chart(
        (
            Panel(
                f"{workload.name}: CPU per request",
                "microseconds, the server's whole process tree; less is better; line: lowest to highest",
                tuple(sorted(costs, key=lambda bar: bar.value)),
                digits=1,
            ),
            Panel(
                f"{workload.name}: requests per second",
                "through one nginx, 4 connections; more is better",
                tuple(sorted(rates, key=lambda bar: -bar.value)),
            ),
            Panel(
                f"{workload.name}: memory",
                "megabytes (PSS) of the process tree after the load; less is better",
                tuple(sorted(memory, key=lambda bar: bar.value)),
                digits=1,
            ),
        )
    )


def as_json(report: Report) -> str:
    """The same for machines, every run included."""
    document: dict[str, Any] = {
        "command": report.command,
        "notes": report.notes,
        "versions": dict(report.versions),
        "tables": [asdict(table) for table in report.tables],
        "runs": {
            workload: {server: [asdict(run) for run in runs] for server, runs in found.items()}
            for workload, found in report.runs.items()
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
