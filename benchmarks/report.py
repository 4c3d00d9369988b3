"""Numbers into a table: medians over the rounds, and ratios to the floor of the same round."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "Run", "as_json", "as_markdown", "machine", "rows"]


@dataclass(frozen=True, slots=True)
class Run:
    """One server under load for a few seconds."""

    requests: int
    seconds: float
    cpu: float  # seconds, the server's whole process tree
    others: float  # processors that other processes of the machine kept busy meanwhile
    invalid: str = ""  # why this run says nothing, if so

    @property
    def microseconds(self) -> float:
        """CPU time of one request."""
        return self.cpu / self.requests * 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """One server over all rounds. A figure is None when a run was invalid, or the floor is missing."""

    name: str
    what: str
    rate: float | None
    cpu: float | None
    lowest: float | None
    highest: float | None
    ratio: float | None
    others: float | None
    invalid: str = ""


def rows(what: Mapping[str, str], runs: Mapping[str, Sequence[Run]], floor: str) -> list[Row]:
    """A row a server. The ratio is the median of the rounds' own ratios, so that a noisy round spoils no other."""
    return [_row(name, what[name], found, runs.get(floor, ())) for name, found in runs.items()]


def _row(name: str, what: str, runs: Sequence[Run], floor: Sequence[Run]) -> Row:
    invalid = next((run.invalid for run in runs if run.invalid), "" if runs else "never ran")
    if invalid:
        return Row(name, what, None, None, None, None, None, None, invalid)
    costs = [run.microseconds for run in runs]
    pairs = [(run, base) for run, base in zip(runs, floor, strict=False) if not base.invalid]
    return Row(
        name,
        what,
        rate=statistics.median(run.requests / run.seconds for run in runs),
        cpu=statistics.median(costs),
        lowest=min(costs),
        highest=max(costs),
        ratio=statistics.median(run.microseconds / base.microseconds for run, base in pairs) if pairs else None,
        others=max(run.others for run in runs),
    )


def machine() -> str:
    """What the figures were taken on, without saying where."""
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores, Linux {kernel}, CPython {platform.python_version()}"


def as_markdown(table: Sequence[Row], notes: Sequence[str]) -> str:
    """The table, with what one must know to read it."""
    lines = [
        "| server | requests/s | CPU µs/request | lowest – highest | ratio to the floor | others |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        if row.rate is None:
            lines.append(f"| {row.name} | invalid: {row.invalid} | | | | |")
            continue
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(
            f"| {row.name} | {row.rate:,.0f} | **{row.cpu:.1f}** | {row.lowest:.1f} – {row.highest:.1f} | {ratio} "
            f"| {row.others:.0%} |"
        )
    return "\n".join(
        [*lines, "", *(f"* {note}" for note in notes), *(f"* {row.name}: {row.what}" for row in table), ""]
    )


def as_json(table: Sequence[Row], runs: Mapping[str, Sequence[Run]], notes: Sequence[str]) -> str:
    """The same for machines, every run included."""
    document: dict[str, Any] = {
        "notes": list(notes),
        "rows": [asdict(row) for row in table],
        "runs": {name: [asdict(run) for run in found] for name, found in runs.items()},
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
