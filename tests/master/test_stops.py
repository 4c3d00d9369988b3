"""Stopped processes, by a clock that the test has: when they are told, and what a pause of the master itself does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from master.hands import NOW, Hands, hands_of
from prefork.master.stops import Stops
from prefork.system import processes

WORKER, SLOT = 4_000_001, 3


class Master:
    """What `Stops` looks at of one."""

    def __init__(self, *pools: Hands) -> None:
        self.pools = pools


class Family:
    """What has changed among the children since the last look."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, bool]] = []

    def look(self) -> list[tuple[int, bool]]:
        changes, self.changes = self.changes, []
        return changes


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    family = Family()
    monkeypatch.setattr(processes, "stops", family.look)
    return family


@pytest.fixture
def hands() -> Iterator[Hands]:
    """A pool with one worker that serves."""
    with hands_of() as hands:
        _, end = hands.worker_in(SLOT)
        end.close()
        hands.pool.adopted(SLOT, WORKER)
        hands.pool.ready(SLOT, NOW)
        yield hands


def stops_of(hands: Hands) -> Stops:
    stops = Stops(Master(hands))  # type: ignore[arg-type]
    assert stops.beat(NOW) is None
    return stops


def since(hands: Hands) -> float | None:
    return hands.pool.workers[SLOT].stopped


def test_a_stop_that_lasts(hands: Hands, family: Family) -> None:
    """The policy learns of it at once, the log when it has lasted, once; and again when it is over."""
    stops = stops_of(hands)
    family.changes = [(WORKER, True)]
    assert stops.beat(NOW + 1) == NOW + 2
    assert since(hands) == NOW + 1
    assert stops.beat(NOW + 1.6) == NOW + 2
    assert hands.log.names() == []
    assert stops.beat(NOW + 2.1) is None
    assert stops.beat(NOW + 3.1) is None
    assert hands.log.names() == ["worker_stopped"]
    family.changes = [(WORKER, False)]
    assert stops.beat(NOW + 4) is None
    assert since(hands) is None
    assert hands.log.names() == ["worker_stopped", "worker_continued"]
    family.changes = [(WORKER, False)]
    stops.beat(NOW + 4.1)
    assert len(hands.log.events) == 2


def test_a_stop_that_does_not_last(hands: Hands, family: Family) -> None:
    """Nobody needs to read of it; neither of one that is over before it is seen."""
    stops = stops_of(hands)
    family.changes = [(WORKER, True)]
    stops.beat(NOW + 0.1)
    family.changes = [(WORKER, False)]
    assert stops.beat(NOW + 0.9) is None
    family.changes = [(WORKER, True), (WORKER, False), (4_000_009, True)]
    assert stops.beat(NOW + 1.5) is None
    assert (since(hands), hands.log.names()) == (None, [])


def test_a_second_stop_begins_anew(hands: Hands, family: Family) -> None:
    """It was continued in between, though nobody looked then."""
    stops = stops_of(hands)
    for moment in (NOW + 0.1, NOW + 1.0):
        family.changes = [(WORKER, True)]
        assert stops.beat(moment) == moment + 1
    assert stops.beat(NOW + 1.5) == NOW + 2.0
    assert hands.log.names() == []


def test_a_pause_of_the_master(hands: Hands, family: Family) -> None:
    """The terminal stopped everybody, and let everybody go on, the master a moment before the worker."""
    stops = stops_of(hands)
    family.changes = [(WORKER, True)]
    stops.beat(NOW + 0.5)
    assert stops.beat(NOW + 600) == NOW + 601
    assert since(hands) == NOW + 600
    family.changes = [(WORKER, False)]
    assert stops.beat(NOW + 600.01) is None
    assert (since(hands), hands.log.names()) == (None, [])


def test_a_pause_of_the_master_that_the_worker_outlasts(hands: Hands, family: Family) -> None:
    """Somebody stopped the worker for itself as well: that is seen, only later."""
    stops = stops_of(hands)
    family.changes = [(WORKER, True)]
    stops.beat(NOW + 0.5)
    stops.beat(NOW + 600)
    stops.beat(NOW + 601.1)
    assert hands.log.names() == ["worker_stopped"]


def test_a_stopped_worker_that_ends(hands: Hands, family: Family) -> None:
    """Who comes after it, even with the same pid, is another."""
    stops = stops_of(hands)
    family.changes = [(WORKER, True)]
    stops.beat(NOW + 0.5)
    stops.beat(NOW + 1.6)
    hands.pool.ended(WORKER, expected=False)
    assert stops.beat(NOW + 2) is None
    hands.pool.forked(SLOT, 1, NOW + 2)
    hands.pool.adopted(SLOT, WORKER)
    hands.pool.ready(SLOT, NOW + 2)
    family.changes = [(WORKER, True)]
    assert stops.beat(NOW + 3) == NOW + 4
    stops.beat(NOW + 4.1)
    assert hands.log.names() == ["worker_stopped", "worker_stopped"]


@pytest.mark.parametrize("kind", ["zygote", "worker that is not ready"])
def test_who_holds_nothing(family: Family, kind: str) -> None:
    """One that is stopped for as long is killed; one that goes on before is not."""
    with hands_of() as hands, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _, end = hands.zygote_with(process.pid) if kind == "zygote" else hands.worker_in(SLOT)
        end.close()
        if kind != "zygote":
            hands.pool.adopted(SLOT, process.pid)
        stops = stops_of(hands)
        family.changes = [(process.pid, True)]
        assert stops.beat(NOW + 1) == NOW + 2
        family.changes = [(process.pid, False)]
        assert stops.beat(NOW + 1.9) is None
        assert stops.beat(NOW + 2.5) is None
        assert process.poll() is None
        family.changes = [(process.pid, True)]
        assert stops.beat(NOW + 3) == NOW + 4
        assert stops.beat(NOW + 4.1) is None
        assert process.wait() == -signal.SIGKILL
        assert hands.holdings.kill_reasons == {process.pid: "stopped by somebody (SIGSTOP)"}
        assert hands.log.names() == []
