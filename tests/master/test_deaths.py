"""What is made of a process that has ended."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from master.hands import NOW, SLOTS, Hands, hands_of
from prefork.errors import ApplicationError
from prefork.master.deaths import bury
from prefork.master.perform import Coming
from prefork.policy.model import (
    FINISHING,
    FREE,
    IDLE,
    READING,
    RETIRING,
    RUNNING,
    STARTING,
    WRITING,
    Ended,
    Phase,
    ZygoteState,
)
from prefork.system.scoreboard import Slot

ZYGOTE, WORKER, SLOT = 700, 800, 5
EXIT_3 = 3 << 8
SLOW = "boot_timeout (60 s)"


def ended(hands: Hands) -> tuple[Ended, ...]:
    return hands.pool.view(Phase.SERVING, 0.0, b"", None, None).ended


def with_zygote(hands: Hands, state: ZygoteState, *, unfit: bool = False) -> None:
    _, end = hands.zygote_with(ZYGOTE)
    end.close()
    match state:
        case ZygoteState.READY:
            hands.pool.zygote_ready(1, loaded=True, unfit=unfit, now=NOW)
        case ZygoteState.FAILED:
            hands.pool.zygote_failed(1, ApplicationError("said why"), NOW)
        case ZygoteState.LEAVING:
            hands.pool.zygote_leaving(1, NOW)
        case ZygoteState.LOADING:
            pass


def with_worker(hands: Hands, *, ready: bool = True, state: int = IDLE, runs: bool = False) -> None:
    _, end = hands.worker_in(SLOT)
    end.close()
    hands.pool.adopted(SLOT, WORKER)
    if ready:
        hands.pool.ready(SLOT, NOW - 0.5)
    board = hands.holdings.scoreboard
    slot = Slot(SLOT, SLOTS, board.descriptor, hands.holdings.control.descriptor, -1, 1, IDLE)
    if runs:
        slot.begin(state, "GET", "/slow?s=9", NOW - 0.25)
    slot.enter(state)


def test_a_stranger_is_not_ours() -> None:
    """An orphan that the sub-reaper reaped: nothing happens."""
    with hands_of() as hands:
        with_zygote(hands, ZygoteState.READY)
        with_worker(hands)
        assert bury(hands, 999, 0, NOW) is False
        assert (hands.log.events, ended(hands), len(hands.watched)) == ([], (), 2)


# the zygote

DIED = {"pid": ZYGOTE, "generation": 1}
ZYGOTES: list[tuple[str, ZygoteState, int, str | None, list[tuple[str, str]], str]] = [
    # state, status, our reason, what is logged, the failure
    ("ready, killed", ZygoteState.READY, 9, None, [("warning", "killed by SIGKILL")], ""),
    ("ready, ended", ZygoteState.READY, 0, None, [("warning", "exit status 0")], ""),
    (
        "loading, crashed",
        ZygoteState.LOADING,
        signal.SIGSEGV | 0x80,
        None,
        [("warning", "killed by SIGSEGV (core dumped)")],
        "app:application: the process that was importing it ended: killed by SIGSEGV (core dumped)",
    ),
    (
        "loading, exited",
        ZygoteState.LOADING,
        EXIT_3,
        None,
        [("warning", "exit status 3")],
        "app:application: the process that was importing it ended: exit status 3",
    ),
    (
        "loading, too slow",
        ZygoteState.LOADING,
        9,
        SLOW,
        [("warning", f"killed by SIGKILL: {SLOW}")],
        f"app:application: importing it took longer than {SLOW}; mend the import, or allow more with --boot-timeout",
    ),
    (
        "loading, ended before it could be killed",
        ZygoteState.LOADING,
        EXIT_3,
        SLOW,
        [("warning", "exit status 3")],
        "app:application: the process that was importing it ended: exit status 3",
    ),
    ("stopped at once", ZygoteState.READY, 9, "stopped at once", [("debug", "killed by SIGKILL: stopped at once")], ""),
    ("failed, as it said", ZygoteState.FAILED, 78 << 8, None, [], "said why"),
    ("left", ZygoteState.LEAVING, 0, None, [], ""),
]


@pytest.mark.parametrize(
    ("state", "status", "reason", "told", "failure"), [z[1:] for z in ZYGOTES], ids=[z[0] for z in ZYGOTES]
)
def test_a_zygote(
    state: ZygoteState, status: int, reason: str | None, told: list[tuple[str, str]], failure: str
) -> None:
    """Out of the books with its channel; the cause is logged unless it was known, and is the start's failure if it was
    loading.
    """
    with hands_of() as hands:
        with_zygote(hands, state)
        if reason is not None:
            hands.holdings.kill_reasons[ZYGOTE] = reason
        assert bury(hands, ZYGOTE, status, NOW) is True
        assert hands.log.events == [(level, "zygote_died", {**DIED, "cause": cause}) for level, cause in told]
        assert str(hands.pool.failure or "") == failure
        assert (hands.pool.zygote, hands.pool.zygote_pid(1), hands.holdings.zygotes, hands.watched) == (None, 0, {}, [])
        assert hands.holdings.kill_reasons == {}
        ready = NOW if state is ZygoteState.READY else None
        assert ended(hands) == (Ended(ready, expected=state is ZygoteState.LEAVING),)


def test_an_unfit_zygote_goes_in_silence() -> None:
    """It was killed on purpose."""
    with hands_of() as hands:
        with_zygote(hands, ZygoteState.READY, unfit=True)
        assert bury(hands, ZYGOTE, 9, NOW) is True
        assert (hands.log.events, hands.pool.zygote) == ([], None)


def test_a_zygote_whose_channel_was_dropped_before() -> None:
    """Is buried all the same."""
    with hands_of() as hands:
        with_zygote(hands, ZygoteState.READY)
        hands.drop(hands.holdings.zygotes[1])
        assert bury(hands, ZYGOTE, 9, NOW) is True
        assert (hands.log.names(), hands.pool.zygote) == (["zygote_died"], None)


def test_an_import_that_took_too_long_shows_where_it_stood() -> None:
    """What the watchdog wrote is the failure's traceback."""
    with hands_of() as hands:
        with_zygote(hands, ZygoteState.LOADING)
        page = b'Timeout (0:00:48)!\nThread 0x1 (most recent call first):\n  File "/srv/app.py", line 3 in <module>\n'
        os.write(hands.holdings.stacks, page)
        hands.holdings.kill_reasons[ZYGOTE] = SLOW
        bury(hands, ZYGOTE, 9, NOW)
        assert isinstance(hands.pool.failure, ApplicationError)
        assert 'File "/srv/app.py", line 3 in <module>' in hands.pool.failure.traceback


# workers

FACTS = {"slot": SLOT, "pid": WORKER, "age": 1.0}
REQUEST = {"request": "GET /slow?s=9", "elapsed": 0.25}


@pytest.mark.parametrize(
    ("status", "reason", "state", "runs", "facts"),
    [
        (signal.SIGSEGV, None, IDLE, False, {"cause": "killed by SIGSEGV"}),
        (signal.SIGSEGV, None, RUNNING, True, {"cause": "killed by SIGSEGV", **REQUEST}),
        (EXIT_3, None, WRITING, True, {"cause": "exit status 3", **REQUEST}),
        (EXIT_3, None, READING, True, {"cause": "exit status 3"}),
        (EXIT_3, None, FINISHING, True, {"cause": "exit status 3"}),
        (EXIT_3, None, IDLE, True, {"cause": "exit status 3"}),
        (EXIT_3, None, 255, True, {"cause": "exit status 3"}),
        (
            9,
            "graceful_timeout (25 s)",
            RUNNING,
            True,
            {"cause": "killed by SIGKILL: graceful_timeout (25 s)", **REQUEST},
        ),
        (0, "graceful_timeout (25 s)", IDLE, False, {"cause": "exit status 0"}),
    ],
)
def test_a_worker_that_died(status: int, reason: str | None, state: int, runs: bool, facts: dict[str, Any]) -> None:
    """One event with the cause, our own reason if we killed it, and the request if it says that it was running one."""
    with hands_of() as hands:
        with_worker(hands, state=state, runs=runs)
        if reason is not None:
            hands.holdings.kill_reasons[WORKER] = reason
        assert bury(hands, WORKER, status, NOW) is True
        assert hands.log.events == [("warning", "worker_died", {**FACTS, **facts})]
        assert (hands.pool.workers, hands.holdings.workers, hands.watched) == ({}, {}, [])
        assert (hands.holdings.scoreboard.state(SLOT), hands.pool.failure) == (FREE, None)
        ours = reason is not None and os.WIFSIGNALED(status)
        assert ended(hands) == (Ended(NOW - 0.5, expected=False, ours=ours),)


def test_a_worker_that_left_by_itself() -> None:
    """In order, after a request that failed: it is no death, and counts as a start that came to nothing."""
    with hands_of() as hands:
        with_worker(hands, state=RETIRING, runs=True)
        hands.pool.listening(SLOT)
        assert bury(hands, WORKER, 0, NOW) is True
        ((level, event, facts),) = hands.log.events
        assert (level, event, facts.pop("reason").partition(":")[0], facts) == (
            "info",
            "worker_left",
            "by itself",
            FACTS,
        )
        assert (hands.ledger.deaths, list(hands.ledger.dead_workers)) == ({}, [])
        assert (hands.pool.workers, ended(hands)) == ({}, (Ended(NOW - 0.5, expected=False),))


@pytest.mark.parametrize(
    ("status", "state", "listening"), [(0, RUNNING, True), (EXIT_3, RETIRING, True), (0, RETIRING, False)]
)
def test_a_worker_that_did_not_leave(status: int, state: int, listening: bool) -> None:
    """It ended in the middle of a request, with a status of its own, or before it served."""
    with hands_of() as hands:
        with_worker(hands, state=state, runs=True)
        if listening:
            hands.pool.listening(SLOT)
        bury(hands, WORKER, status, NOW)
        assert hands.log.names() == ["worker_died"]
        assert sum(hands.ledger.deaths.values()) == 1


@pytest.mark.parametrize(
    ("retired", "shut", "status", "event", "expected"),
    [
        (True, False, 0, ("debug", "worker_left"), True),
        (False, True, 0, ("debug", "worker_left"), True),
        (True, True, 0, ("debug", "worker_left"), True),
        (False, False, 0, ("warning", "worker_died"), False),
        (True, False, EXIT_3, ("warning", "worker_died"), True),
        (False, True, EXIT_3, ("warning", "worker_died"), False),
    ],
)
def test_leaving_and_dying(retired: bool, shut: bool, status: int, event: tuple[str, str], expected: bool) -> None:
    """Whoever was asked to leave, or finds the listener shut, may end with 0; any other end is a death."""
    with hands_of() as hands:
        with_worker(hands)
        hands.pool.shut = shut
        if retired:
            hands.pool.retired(SLOT, NOW - 0.1)
        bury(hands, WORKER, status, NOW)
        assert [told[:2] for told in hands.log.events] == [event]
        assert ended(hands) == (Ended(NOW - 0.5, expected=expected),)


class Oom:
    """Knows of one process that the kernel killed."""

    def __init__(self) -> None:
        self.words = ["out of memory"]

    def explain(self) -> str:
        return self.words.pop() if self.words else ""


@pytest.mark.parametrize(
    ("status", "reason", "cause"),
    [
        (9, None, "killed by SIGKILL: out of memory"),
        (9, "graceful_timeout (25 s)", "killed by SIGKILL: graceful_timeout (25 s)"),
        (signal.SIGSEGV, None, "killed by SIGSEGV"),
        (9 << 8, None, "exit status 9"),
    ],
)
def test_whom_the_kernel_killed(status: int, reason: str | None, cause: str) -> None:
    """A SIGKILL that is not ours is explained by its count; whatever else somebody died of is not looked up there."""
    with hands_of() as hands:
        with_worker(hands)
        if reason is not None:
            hands.holdings.kill_reasons[WORKER] = reason
        oom = Oom()
        assert bury(hands, WORKER, status, NOW, oom) is True  # type: ignore[arg-type]
        assert hands.log.events[0][2]["cause"] == cause
        assert (oom.words == []) is cause.endswith("out of memory")


def test_a_stranger_whom_the_kernel_killed() -> None:
    """A child of the application explains no death of ours, and the count is left to who may need it."""
    with hands_of() as hands:
        oom = Oom()
        assert bury(hands, 999, 9, NOW, oom) is False  # type: ignore[arg-type]
        assert oom.words


def test_a_worker_that_ends_while_it_loads() -> None:
    """Is the start's failure, unless a better one is known already."""
    with hands_of() as hands:
        with_worker(hands, ready=False, state=STARTING)
        bury(hands, WORKER, EXIT_3, NOW)
        assert str(hands.pool.failure) == "app:application: the process that was importing it ended: exit status 3"
    with hands_of() as hands:
        with_worker(hands, ready=False, state=STARTING)
        known = ApplicationError("known")
        hands.pool.failure = known
        bury(hands, WORKER, EXIT_3, NOW)
        assert hands.pool.failure is known


def test_a_worker_that_said_why_is_not_mourned_twice() -> None:
    """Its own words have been reported."""
    with hands_of() as hands:
        with_worker(hands, ready=False, state=STARTING)
        failure = ApplicationError("no module")
        hands.pool.failed(SLOT, failure)
        bury(hands, WORKER, 78 << 8, NOW)
        assert (hands.log.events, hands.pool.failure, ended(hands)) == ([], failure, (Ended(None, expected=False),))


def test_a_worker_whose_channel_was_dropped_before() -> None:
    """Is buried all the same."""
    with hands_of() as hands:
        with_worker(hands)
        hands.drop(hands.holdings.workers[SLOT])
        assert bury(hands, WORKER, 9, NOW) is True
        assert (hands.pool.workers, hands.log.names()) == ({}, ["worker_died"])


def with_coming(hands: Hands, *, ready: bool) -> None:
    """A pool that serves with generation 1, and generation 2 of a reload with its first worker, not listening."""
    with_zygote(hands, ZygoteState.READY)
    hands.take(Coming(hands.launch, hands.pool.rules, {}))
    hands.pool.zygote_started(ZYGOTE + 1, NOW, coming=True)
    hands.pool.zygote_ready(2, loaded=True, unfit=False, now=NOW)
    hands.holdings.prepare_slot(SLOT)
    hands.pool.forked(SLOT, 2, NOW)
    hands.pool.adopted(SLOT, WORKER)
    if ready:
        hands.pool.ready(SLOT, NOW)


@pytest.mark.parametrize(
    ("loaded", "error"),
    [
        (
            True,
            f"a new worker was not ready within {SLOW}: on_worker_start or the canary takes longer; mend that",
        ),
        (
            False,
            f"importing it took longer than {SLOW}; mend the import",
        ),
    ],
)
def test_a_worker_that_is_not_ready_in_time(loaded: bool, error: str) -> None:
    """It imports where its zygote has not; else its hooks or the canary are late. The stack is from its own page."""
    with hands_of() as hands:
        with_zygote(hands, ZygoteState.LOADING)
        hands.pool.zygote_ready(1, loaded=loaded, unfit=False, now=NOW)
        with_worker(hands, ready=False, state=STARTING)
        os.write(hands.holdings.stacks, b'Timeout!\n  File "/another.py", line 1 in before\n')
        os.write(hands.holdings.open_page(SLOT), b'Timeout!\n  File "/shop/db.py", line 7 in connect\n')
        hands.holdings.kill_reasons[WORKER] = SLOW
        bury(hands, WORKER, signal.SIGKILL, NOW)
        failure = hands.pool.failure
        assert isinstance(failure, ApplicationError)
        assert str(failure) == f"app:application: {error}, or allow more with --boot-timeout"
        assert failure.traceback == '  File "/shop/db.py", line 7 in connect'


@pytest.mark.parametrize("who", ["zygote", "worker"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_death_of_what_is_coming_rejects_it(who: str, ready: bool) -> None:
    """Whoever it is, and whether it was ready or not; the pool that serves has nothing to do with it."""
    with hands_of() as hands:
        with_coming(hands, ready=ready)
        assert bury(hands, ZYGOTE + 1 if who == "zygote" else WORKER, signal.SIGKILL, NOW)
        process = (
            "the process that was importing it ended" if who == "zygote" else "a new worker ended before it could serve"
        )
        assert str(hands.pool.rejection) == f"app:application: {process}: killed by SIGKILL"
        assert (hands.pool.failure, ended(hands), hands.log.names()) == (None, (), [f"{who}_died"])


@pytest.mark.parametrize("ready", [True, False])
def test_what_was_given_up_dies_quietly(ready: bool) -> None:
    """It was killed on purpose, and had nothing in hand."""
    with hands_of() as hands:
        with_coming(hands, ready=ready)
        sent: list[int] = []

        def send_signal(pid: int, _number: int, reason: str | None = None) -> None:
            sent.append(pid)
            hands.holdings.kill_reasons[pid] = reason or ""

        hands._send_signal = send_signal  # type: ignore[method-assign, assignment]
        hands.give_up(NOW)
        assert sent == [ZYGOTE + 1, WORKER]
        for pid in sent:
            assert bury(hands, pid, signal.SIGKILL, NOW)
        assert [(level, event) for level, event, _ in hands.log.events] == [("debug", "worker_left")]
        assert (hands.pool.rejection, hands.pool.workers, list(hands.pool.zygotes)) == (None, {}, [1])
        assert all(end.expected for end in ended(hands))
