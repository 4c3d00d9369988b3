"""From runs to figures: medians over the rounds, and ratios within each round. Pure.

A ratio is the median of the rounds' own ratios, so that a noisy round spoils no other. One wrong run makes all of a
server's figures for that workload invalid: nothing is papered over by better ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Figures", "Run", "Table", "summarize"]


@dataclass(frozen=True, slots=True)
class Run:
    """One server under one workload for a few seconds."""

    requests: int = 0
    seconds: float = 0.0
    cpu: float = 0.0  # seconds, the server's whole process tree
    memory: int = 0  # bytes, the same, after the load
    others: float = 0.0  # processors that the rest of the machine kept busy meanwhile
    invalid: str = ""  # why this run says nothing, if so

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of CPU for one request."""
        return self.cpu / self.requests * 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """One server under one workload, over all rounds. ``ratio`` is None where there is nothing to compare with."""

    server: str
    rate: float = 0.0
    cost: float = 0.0
    lowest: float = 0.0  # of the costs
    highest: float = 0.0
    ratio: float | None = None  # of the costs
    memory: float = 0.0
    others: float = 0.0  # in the worst of the runs
    invalid: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """All servers under one workload; ``reference`` is the one that ratios are to, empty if none could be."""

    workload: str
    reference: str
    rows: tuple[Figures, ...]


def summarize(workload: str, runs: Mapping[str, Sequence[Run]], references: Sequence[str]) -> Table:
    """The table of one workload; ratios are to the first of the references whose runs are all good."""
    reference = next((name for name in references if runs.get(name) and not _complaint(runs[name])), "")
    rows = tuple(_figures(server, found, runs.get(reference, ())) for server, found in runs.items())
    return Table(workload, reference, rows)


def _complaint(runs: Sequence[Run]) -> str:
    return next((run.invalid for run in runs if run.invalid), "")


def _figures(server: str, runs: Sequence[Run], reference: Sequence[Run]) -> Figures:
    invalid = _complaint(runs) or ("" if runs else "never ran")
    if invalid:
        return Figures(server, invalid=invalid)
    costs = [run.cost for run in runs]
    # A round that the run of time cut short may have one without the other.
    ratios = [run.cost / base.cost for run, base in zip(runs, reference, strict=False)]
    return Figures(
        server,
        rate=statistics.median(run.rate for run in runs),
        cost=statistics.median(costs),
        lowest=min(costs),
        highest=max(costs),
        ratio=statistics.median(ratios) if ratios else None,
        memory=statistics.median(run.memory for run in runs),
        others=max(run.others for run in runs),
    )
