"""What the master says of its pools: what its workers claim, if it can be believed, and what the kernel counts."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from master.hands import NOW, SLOTS, Hands, hands_of
from prefork.cli import status as cli
from prefork.cli import top
from prefork.master import loads
from prefork.master.loads import Loads
from prefork.master.loop import Master
from prefork.master.report import describe_recent, describe_server, find_problems, note_look
from prefork.policy.model import ABANDONED, IDLE, READING, REFUSED_PEERS, RUNNING, SOFT_TIMEOUTS, STARTING, Phase
from prefork.status.fields import FIELDS
from prefork.status.openmetrics import as_openmetrics
from prefork.status.render import as_html, as_json, as_text, as_xml
from prefork.system.bulletin import Bulletin
from prefork.system.controlpage import WATCHED
from prefork.system.load import Load, load_of
from prefork.system.peers import UCRED, pack_address
from prefork.system.records import BOUNDS
from prefork.system.scoreboard import Slot

WORKERS = (0, 3, 63)

# https://www.php.net/manual/en/fpm.status.php, in the order of its page
PHP_FPM_PROCESS = (
    "pid",
    "state",
    "start time",
    "start since",
    "requests",
    "request duration",
    "request method",
    "request uri",
    "content length",
    "user",
    "script",
    "last request cpu",
    "last request memory",
)


class Server:
    """What a report needs of a master."""

    def __init__(self, *pools: Hands) -> None:
        self.pools = pools
        self.phase = Phase.SERVING
        self.started = time.time()


def slot_of(hands: Hands, number: int) -> Slot:
    """A worker's view of its pages."""
    held = hands.holdings
    return Slot(number, SLOTS, held.scoreboard.descriptor, held.control.descriptor, -1, 1, IDLE)


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    """A pool with three workers, all of which are this process."""
    with hands_of() as hands:
        ends = []
        for number in WORKERS:
            ends.append(hands.worker_in(number)[1])
            hands.pool.adopted(number, os.getpid())
        yield hands
        for end in ends:
            end.close()


def describe(hands: Hands) -> dict[str, Any]:
    """The pool, as a client gets it."""
    found = describe_server(Server(hands), NOW)  # type: ignore[arg-type]
    pool: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))["pools"][0]
    return pool


def test_what_the_workers_counted(hands: Hands) -> None:
    """In the pool of all workers there ever were, in the process of the present one; a request at hand in detail."""
    before = slot_of(hands, 3)
    before.begin(RUNNING, "GET", "/", NOW - 9)
    before.wait(0.02)
    before.finish(0.3, 1_000, 2_000)
    hands.holdings.prepare_slot(3)
    slot = slot_of(hands, 3)
    slot.begin(RUNNING, "GET", "/", NOW - 8)
    slot.finish(2.0, 10, 20)
    for counter in (ABANDONED, REFUSED_PEERS, REFUSED_PEERS, SOFT_TIMEOUTS):
        slot.count(counter)
    slot.begin(RUNNING, "POST", "/orders", NOW - 1.5, 0.25, 70)
    pool = describe(hands)
    assert set(pool) - {"processes"} <= {field.key for field in FIELDS}
    assert (pool["accepted conn"], pool["bytes received"], pool["bytes sent"]) == (3, 1_010, 2_020)
    assert (pool["abandoned requests"], pool["refused peers"], pool["timeouts"]["soft"]) == (1, 2, 1)
    ran, waited = pool["request seconds"], pool["queue seconds"]
    assert ran["bounds"] == waited["bounds"] == list(BOUNDS)
    assert {BOUNDS[index]: count for index, count in enumerate(ran["counts"]) if count} == {0.5: 1, 2.5: 1}
    assert {BOUNDS[index]: count for index, count in enumerate(waited["counts"]) if count} == {0.025: 1}
    assert (len(ran["counts"]), ran["sum"], waited["sum"]) == (len(BOUNDS) + 1, 2.3, 0.02)
    process = next(process for process in pool["processes"] if process["slot"] == 3)
    expected = {
        "state": "Running",
        "requests": 2,
        "request duration": 1_500_000,
        "request queue duration": 250_000,
        "content length": 70,
        "last request duration": 2_000_000,
        "bytes received": 10,
        "bytes sent": 20,
    }
    assert {key: process[key] for key in expected} == expected
    slot.enter(READING)
    (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
    found = [process[key] for key in ("request duration", "request queue duration", "content length", "request uri")]
    assert (found, process["last request duration"]) == ([None, None, None, None], 2_000_000)


def test_an_idle_process_shows_the_request_before(hands: Hands) -> None:
    """As php-fpm's page does; its own, not one of the worker that had the slot before it."""
    names = ("request duration", "request method", "request uri", "content length", "request queue duration")
    slot = slot_of(hands, 3)
    slot.begin(RUNNING, "POST", "/orders", NOW - 1.5, 0.25, 70)
    slot.finish(2.0, 10, 20)
    slot.enter(IDLE)
    for expected in ([2_000_000, "POST", "/orders", 70, 250_000], [None] * 5):
        (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
        assert [process[name] for name in names] == expected
        hands.holdings.prepare_slot(3)
        slot_of(hands, 3).enter(IDLE)


def test_when_a_request_began(hands: Hands) -> None:
    """By the clock on the wall, while it runs and afterwards."""
    slot = slot_of(hands, 3)
    slot.begin(RUNNING, "GET", "/", NOW - 90)
    for state in (RUNNING, IDLE):
        slot.enter(state)
        before = time.time()
        (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
        assert before - 90.01 <= process["request start"] <= time.time() - 89.99


def test_who_connected(hands: Hands) -> None:
    """A process or an address, while the request runs and afterwards; unknown of a worker that has had none."""
    slot = slot_of(hands, 3)
    for packed, expected in ((UCRED.pack(640, 33, 34), [640, 33, 34]), (pack_address("10.0.0.7", 80), "10.0.0.7:80")):
        slot.begin(RUNNING, "GET", "/", NOW - 1, peer=packed)
        for state in (RUNNING, IDLE):
            slot.enter(state)
            (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
            assert process["peer"] == expected
    hands.holdings.prepare_slot(3)
    (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
    assert process["peer"] is None


def test_the_limit_of_a_socket_that_was_passed_is_the_kernels_to_tell(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not, the limit is unknown: our own backlog is that of our own sockets only."""
    assert (hands.pool.limit, describe(hands)["listen queue len"]) == (None, hands.holdings.listener.backlog)
    monkeypatch.setattr(type(hands.holdings.listener), "inherited", True)
    assert describe(hands)["listen queue len"] is None


def test_a_process_has_php_fpms_fields_in_their_order(hands: Hands) -> None:
    """All of them: what there is none of, or what is not known of one request, is None."""
    process = describe(hands)["processes"][0]
    assert tuple(process)[: len(PHP_FPM_PROCESS)] == PHP_FPM_PROCESS
    assert process["script"] == describe(hands)["application"]
    assert [process[name] for name in ("user", "last request cpu", "last request memory")] == [None] * 3


def test_what_the_kernel_counts(hands: Hands) -> None:
    """Of each worker: processor time and memory."""
    process = describe(hands)["processes"][0]
    assert 0.0 < process["cpu seconds"] <= sum(os.times()[:2]) + 0.1
    assert 2**20 < process["memory"] < 2**40


@pytest.mark.parametrize("started", [math.nan, math.inf, -math.inf, -1e308, NOW + 1])
def test_a_start_that_cannot_be_is_no_request(hands: Hands, started: float) -> None:
    """And the numbers that belong to it are not shown, either."""
    slot = slot_of(hands, 3)
    slot.begin(RUNNING, "GET", "/", started, 0.5, 70)
    (process,) = (process for process in describe(hands)["processes"] if process["slot"] == 3)
    shown = {key: process[key] for key in process if key.startswith("request ") or key == "content length"}
    assert set(shown.values()) == {None}
    slot.enter(IDLE)


# -- what the kernel counts, by turns


def test_a_process_is_looked_at() -> None:
    """It has used something; one that has ended has not, nor is one that never was."""
    assert load_of(os.getpid()) is not None
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert load_of(pid) is None
    os.waitpid(pid, 0)
    assert (load_of(pid), load_of(-1)) == (None, None)


@pytest.mark.parametrize(("workers", "looks"), [(1, 1), (64, 1), (65, 2), (1_000, 16)])
def test_all_have_their_turn(monkeypatch: pytest.MonkeyPatch, workers: int, looks: int) -> None:
    """64 at once; nobody twice before everybody was looked at; who left is forgotten."""
    asked: list[int] = []

    def look(pid: int) -> Load:
        asked.append(pid)
        return Load(len(asked), pid)

    monkeypatch.setattr(loads, "load_of", look)
    found, pids = Loads(), list(range(1, workers + 1))
    for second in range(looks):
        assert found.of(pids[-1]) is None
        for moment in (0.0, 0.5):
            found.look(pids, NOW + second + moment)
    assert all(found.of(pid) is not None for pid in pids)
    assert len(asked) == min(64, workers) * looks
    assert sorted(asked[:workers]) == pids
    found.look(pids, NOW + looks)
    assert len(asked) == min(64, workers) * (looks + 1)
    found.look([workers + 1], NOW + looks + 1)
    assert [found.of(pid) is None for pid in (1, workers, workers + 1)] == [True, True, False]


# -- whatever workers write there

_NUMBERS = [0, 1, 255, 2**31, 2**48 - 1, 2**48, 2**52, 2**63, 2**64 - 1, 0x7FF0000000000000, 0x7FF8000000000000]


def scribble(hands: Hands, seed: int) -> None:
    """Random bytes, or telling ones, all over the scoreboard."""
    dice = random.Random(seed)
    with mmap.mmap(hands.holdings.scoreboard.descriptor, 0) as page:
        size = len(page)
        if seed % 3 == 0:
            page[:] = dice.randbytes(size)
        elif seed % 3 == 1:
            page[:] = b"".join(dice.choice(_NUMBERS).to_bytes(8, "little") for _ in range(size // 8))
        else:
            page[:] = bytes([dice.randrange(256)]) * size
        if seed % 2:  # everybody seems to run something that can be read
            page[:SLOTS] = bytes([RUNNING]) * SLOTS


@given(seed=st.integers(0, 2**64))
def test_no_bytes_mislead_whoever_looks(hands: Hands, seed: int) -> None:
    """In every format: no exception, no more than so many bytes, nothing that is no number."""
    scribble(hands, seed)
    server: Any = Server(hands)
    found = describe_server(server, NOW)
    document = json.loads(json.dumps(found, allow_nan=False))
    pools = document["pools"]
    for shown in (as_json(pools, full=True), as_text(pools, full=True), as_xml(pools, full=True)):
        assert len(shown) < 100_000
    assert len(as_html(pools, full=True)) < 100_000
    assert list(text_string_to_metric_families(as_openmetrics(pools)))  # type: ignore[no-untyped-call]
    assert cli.as_text(document).isprintable() or all(map(str.isprintable, cli.as_text(document).split("\n")))
    assert top.frame(top.Look(document, NOW), None, chosen=0, width=80, height=25, colour=True)
    (pool,) = pools
    assert 0 <= pool["accepted conn"] < SLOTS * 2**48
    assert sum(pool["request seconds"]["counts"]) < SLOTS * 16 * 2**48
    for process in pool["processes"]:
        numbers = [*process.values(), *(process["peer"] if isinstance(process["peer"], list) else ())]
        assert all(value is None or isinstance(value, str | list) or value >= 0 for value in numbers)
    find_problems(server, NOW)
    describe_recent(server)
    bulletin = Bulletin()
    bulletin.publish(json.dumps(document, allow_nan=False).encode(), 1)
    bulletin.close()
    hands.holdings.requests(hands.holdings.scoreboard.states())


def test_workers_that_start_were_never_active() -> None:
    """What counts as the most that were busy at once takes connections."""
    with hands_of() as hands, ExitStack() as ends:
        master = Master(hands.log)  # type: ignore[arg-type]
        ends.callback(master._queues.close)
        ends.callback(master._selector.close)
        master.add(hands)
        for number in (0, 1):
            hands.worker_in(number)[1].close()
            hands.pool.adopted(number, os.getpid())
            slot_of(hands, number).enter(STARTING)
        master._snapshot(NOW)
        assert describe(hands)["max active processes"] == 0
        hands.pool.listening(1)  # and it was only just told so
        assert describe(hands)["max active processes"] == 0
        slot_of(hands, 1).begin(RUNNING, "GET", "/", NOW)
        assert describe(hands)["max active processes"] == 1
        master._snapshot(NOW)
        slot_of(hands, 1).enter(IDLE)
        assert describe(hands)["max active processes"] == 1


def test_workers_are_told_that_somebody_looks_for_a_minute() -> None:
    """What costs a system call a request is told from the next round on, and a minute after the last look no more."""
    with hands_of() as hands, ExitStack() as ends:
        master = Master(hands.log)  # type: ignore[arg-type]
        ends.callback(master._queues.close)
        ends.callback(master._selector.close)
        master.add(hands)
        slot = slot_of(hands, 0)
        told = []
        for now, look in ((NOW, False), (NOW + 1, True), (NOW + 40, True), (NOW + 99, False), (NOW + 101, False)):
            if look:
                note_look(master, now)
            master._snapshot(now)
            told.append(slot.control[WATCHED])
        assert told == [0, 1, 1, 1, 0]
