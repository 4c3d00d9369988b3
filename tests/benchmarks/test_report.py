"""benchmarks/report.py: the tables as people and programs read them."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import Run, summarize
from benchmarks.report import Report, about, as_json, as_markdown, charts
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

pytestmark = pytest.mark.once

FLOOR, OURS = SERVERS[0], SERVERS[1]


def report(**runs: Run) -> Report:
    """One workload, one round: of the floor, and of ours."""
    found = {FLOOR.name: [runs["floor"]], OURS.name: [runs["ours"]]}
    table = summarize(WORKLOADS[0].name, found, (FLOOR.name,))
    versions = {FLOOR.name: "floor.c", OURS.name: "prefork 9.9"}
    return Report("python -m benchmarks", ("note",), (FLOOR, OURS), versions, WORKLOADS[:1], (table,), {"hello": found})


GOOD = {"floor": Run(20_000, 1.0, 0.2, 1_048_576, 0.04), "ours": Run(10_000, 1.0, 0.15, 20_971_520, 0.5)}


def test_a_row() -> None:
    """A row has rate, cost, span, ratio, memory and disturbance; below the table stands what ratios are to."""
    text = as_markdown(report(**GOOD), "mine")
    assert f"| {OURS.name} | 10,000 | **15.0** | 15.0 – 15.0 | 1.50 | 20.0 | 50% |" in text
    assert "Ratios of CPU per request are to C loop." in text
    assert "![hello](mine-hello.svg)" in text
    assert f"| {OURS.name} | prefork 9.9 | FastCGI |" in text


def test_an_invalid_row() -> None:
    """A server that answered wrongly is shown with the reason and without a figure, and is in no chart."""
    found = report(floor=GOOD["floor"], ours=Run(invalid="a|b"))
    assert f"| {OURS.name} | invalid: a/b | | | | | |" in as_markdown(found, "mine")
    assert OURS.name not in charts(found)["hello"]


def test_nothing_to_compare_with() -> None:
    """Without any reference the report says so in place of ratios."""
    found = report(floor=Run(invalid="no"), ours=GOOD["ours"])
    assert "No ratios" in as_markdown(found, "mine")


def test_for_machines() -> None:
    """The JSON has every run and every figure."""
    document = json.loads(as_json(report(**GOOD)))
    assert document["runs"]["hello"][FLOOR.name][0]["requests"] == 20_000
    assert document["tables"][0]["rows"][1]["ratio"] == pytest.approx(1.5)
    assert document["versions"][OURS.name] == "prefork 9.9"


def test_what_is_absent_is_named() -> None:
    """Servers that could not be had stand in the notes."""
    assert about(3, 2, ["bjoern", "php-fpm"])[-1] == "Could not be had: bjoern; php-fpm."
    assert not any("Could not" in note for note in about(3, 2, []))
