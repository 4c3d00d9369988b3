"""Actions on real channels and processes: what is done, and what is noted of it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.processes import environment
from master.hands import NOW, SLOTS, Hands, descriptors_left, hands_of, speaker
from prefork.master.holdings import Channel
from prefork.master.launch import Launch
from prefork.master.perform import Performer
from prefork.policy import model
from prefork.policy.model import (
    FINISHING,
    FREE,
    IDLE,
    READING,
    RUNNING,
    STARTING,
    WRITING,
    Abandon,
    Commit,
    End,
    Ended,
    Fork,
    Kill,
    Listen,
    OpenListener,
    Phase,
    QueueEnded,
    QueueFull,
    ReleaseZygote,
    Retire,
    ShutListener,
    StartZygote,
    ZygoteState,
)
from prefork.system.channel import Kind, Order, Place, receive_order
from prefork.system.controlpage import LOG_EPOCH
from prefork.system.logplaces import open_log
from prefork.system.scoreboard import Slot


@contextmanager
def adopted(hands: Hands, slot: int) -> Iterator[int]:
    """A living worker in a slot: its pid."""
    _, end = hands.worker_in(slot)
    with speaker(end) as worker:
        hands.pool.adopted(slot, worker.pid)
        yield worker.pid


def slot_of(hands: Hands, number: int) -> Slot:
    held = hands.holdings
    return Slot(number, SLOTS, held.scoreboard.descriptor, held.control.descriptor, held.doorbell.descriptor, 1, IDLE)


def test_every_action_can_be_done() -> None:
    """All but those of the whole server."""
    with hands_of() as hands:
        assert set(hands._methods) == set(typing.get_args(model.Action)) - {End, Commit, Abandon}


def test_a_fork_is_asked_for() -> None:
    """The zygote gets the slot and the worker's end of a channel; the slot is prepared and in the books."""
    with hands_of() as hands:
        _, zygote = hands.zygote_with(os.getpid())
        hands.holdings.control.retire(3, True)
        hands.perform(Fork("www", 3, 1), NOW)
        order = receive_order(zygote)
        assert order is not None
        assert (order.kind, order.body, len(order.descriptors)) == (
            Kind.FORK,
            {"slot": 3, "canary": False, "requests": 0},
            2,
        )
        os.write(order.descriptors[1], b"a stack")
        assert os.pread(hands.holdings.pages[3], 10, 0) == b"a stack"
        os.close(order.descriptors[1])
        with socket.socket(fileno=order.descriptors[0]) as workers:
            workers.send(b"x")
            assert hands.holdings.workers[3].end.recv(10) == b"x"
        assert (hands.holdings.scoreboard.state(3), slot_of(hands, 3).retire) == (STARTING, False)
        assert (hands.pool.workers[3].forked, hands.pool.workers[3].pid) == (NOW, 0)
        assert hands.watched[-1] is hands.holdings.workers[3]
        zygote.close()


def test_a_fork_that_nobody_hears_leaves_nothing() -> None:
    """Without a zygote, or with one that is gone: no worker in the books, no channel, a free slot."""
    before = os.listdir("/proc/self/fd")
    with hands_of() as hands:
        held = os.listdir("/proc/self/fd")
        hands.perform(Fork("www", 3, 1), NOW)
        _, zygote = hands.zygote_with(os.getpid())
        zygote.close()
        hands.perform(Fork("www", 3, 1), NOW)
        assert (hands.pool.workers, hands.holdings.workers) == ({}, {})
        assert hands.holdings.scoreboard.state(3) == FREE
        assert hands.log.names() == ["message_not_sent"]
        assert len(os.listdir("/proc/self/fd")) == len(held) + 1  # the zygote's channel
    assert os.listdir("/proc/self/fd") == before


def test_a_zygote_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many descriptors are left, and if its channel cannot be watched: the start has failed, and no more."""
    started: list[dict[int, int]] = []

    def start(_launch: Launch, gifts: dict[int, int]) -> int:
        started.append(gifts)
        return 4_000

    monkeypatch.setattr(Launch, "start", start)
    with hands_of() as hands:
        before = os.listdir("/proc/self/fd")
        hands.holdings.tap.writing.shutdown(socket.SHUT_WR)  # even then: it would be replaced
        for short in range(2):
            with descriptors_left(short):
                hands.perform(StartZygote("www", load=True), NOW)
            assert str(hands.pool.failure) == "cannot fork: Too many open files"
            assert os.listdir("/proc/self/fd") == before
        really = hands._watch

        def watch(_hands: Performer, _channel: Channel) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        hands._watch = watch
        hands.perform(StartZygote("www", load=True), NOW)
        assert str(hands.pool.failure) == "cannot fork: No space left on device"
        assert os.listdir("/proc/self/fd") == before
        assert (started, hands.watched, hands.holdings.zygotes) == ([], [], {})
        assert [event for event in hands.log.names() if event != "debug"] == ["zygote_not_started"] * 3
        hands._watch = really
        with descriptors_left(2):
            hands.perform(StartZygote("www", load=True), NOW)
        (channel,) = hands.holdings.zygotes.values()
        assert (len(started), hands.watched, hands.pool.zygote_pid(channel.generation)) == (1, [channel], 4_000)


def test_a_worker_is_given_the_listener() -> None:
    """The very socket; one that cannot be told stays without."""
    with hands_of() as hands:
        hands.perform(OpenListener("www"), NOW)
        _, end = hands.worker_in(3)
        hands.perform(Listen("www", 3), NOW)
        order = receive_order(end)
        assert order is not None
        assert [os.fstat(got).st_ino for got in order.descriptors] == [hands.holdings.listener.inode]
        os.close(order.descriptors[0])
        assert (order.kind, hands.pool.workers[3].listening, hands.pool.open) == (Kind.LISTEN, True, True)
        _, gone = hands.worker_in(4)
        gone.close()
        hands.perform(Listen("www", 4), NOW)
        assert hands.pool.workers[4].listening is False
        end.close()


@pytest.mark.parametrize("listening", [True, False])
def test_a_worker_is_asked_to_leave(listening: bool) -> None:
    """By the control page; by a message, too, if it waits for one."""
    with hands_of() as hands:
        _, end = hands.worker_in(3)
        if listening:
            hands.pool.listening(3)
        hands.perform(Retire("www", 3), NOW)
        end.setblocking(False)
        if listening:
            with pytest.raises(BlockingIOError):
                receive_order(end)
        else:
            assert receive_order(end) == Order(Kind.LEAVE, {})
        assert (slot_of(hands, 3).retire, hands.pool.workers[3].retired) == (True, NOW)
        end.close()


def test_a_worker_is_killed() -> None:
    """The reason is kept until it is buried; the books wait for that."""
    with hands_of() as hands, adopted(hands, 3) as pid:
        hands.perform(Kill("www", 3, "boot_timeout (60 s)"), NOW)
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        assert end.si_status == signal.SIGKILL
        assert (hands.holdings.kill_reasons, list(hands.pool.workers)) == ({pid: "boot_timeout (60 s)"}, [3])


def test_a_worker_that_nobody_knows_is_given_up() -> None:
    """Its slot is free at once; it would find its channel closed. The channel may be gone already."""
    for dropped in (False, True):
        with hands_of() as hands:
            channel, end = hands.worker_in(3)
            if dropped:
                hands.drop(channel)
            hands.perform(Kill("www", 3, "boot_timeout (60 s)"), NOW)
            assert end.recv(1) == b""
            assert (hands.pool.workers, hands.holdings.workers, hands.watched) == ({}, {}, [])
            assert hands.holdings.scoreboard.state(3) == FREE
            assert hands.log.events == [("warning", "worker_not_started", {"slot": 3, "cause": "boot_timeout (60 s)"})]
            assert hands.pool.view(Phase.SERVING, 0.0, b"", None, None).ended == (Ended(None, expected=False),)
            end.close()


def test_a_zygote_is_released() -> None:
    """It is told, and on its way from then on; one that cannot be told, too: its time is running."""
    for known in (True, False):
        with hands_of() as hands:
            channel, zygote = hands.zygote_with(os.getpid())
            if not known:
                hands.drop(channel)
            hands.perform(ReleaseZygote("www", 1), NOW)
            assert receive_order(zygote) == (Order(Kind.LEAVE, {}) if known else None)
            assert hands.pool.zygote is not None
            assert (hands.pool.zygote.state, hands.pool.zygote.changed) == (ZygoteState.LEAVING, NOW)
            zygote.close()


def test_a_listener_is_opened_and_shut() -> None:
    """Clients can connect in between."""
    with hands_of() as hands:
        hands.perform(OpenListener("www"), NOW)
        name = "\0" + str(hands.holdings.listener)[1:]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
        hands.perform(ShutListener("www"), NOW)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(name)
        assert (hands.pool.open, hands.pool.shut, hands.log.names()) == (True, True, [])


def test_a_full_queue_is_reported_with_what_runs() -> None:
    """Only what a worker works at now: a slot still shows the request before while the next is being read."""
    with hands_of() as hands:
        for number, state in enumerate((IDLE, READING, RUNNING, WRITING, FINISHING, 255)):
            hands.worker_in(number)[1].close()
            hands.pool.listening(number)
            slot = slot_of(hands, number)
            slot.begin(state, "GET", f"/{number}", NOW - 2)
        hands.worker_in(9)[1].close()
        hands.perform(QueueFull("www", 12, 10), NOW)
        hands.perform(QueueEnded("www", 1.23456, 14, 10), NOW + 2)
        (_, full, facts), (_, over, later) = hands.log.events
        assert (full, over) == ("queue_full", "queue_full_ended")
        assert facts["running"] == ["1 × GET /2, 2.0 s", "1 × GET /3, 2.0 s", "1 × GET /4, 2.0 s"]
        assert {key: facts[key] for key in ("waiting", "limit", "busy", "workers")} == {
            "waiting": 12,
            "limit": 10,
            "busy": 5,
            "workers": 6,
        }
        assert {key: later[key] for key in ("full_for", "peak", "limit")} == {
            "full_for": 1.235,
            "peak": 14,
            "limit": 10,
        }


def test_a_signal_for_somebody_who_is_gone_is_none() -> None:
    """Reaped by the program that we are a library of, or never known."""
    with hands_of() as hands:
        with adopted(hands, 3) as pid:
            pass
        hands._send_signal(pid, signal.SIGTERM)
        hands._send_signal(0, signal.SIGTERM)
        assert hands.log.events == []


def test_a_signal_that_is_not_allowed_is_reported() -> None:
    """A worker that became another user's by executing a setuid program does not take the master with it."""
    script = """
import os
from master.hands import hands_of
with hands_of() as hands:
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    hands._send_signal(1, 0)
    print(hands.log.events)
"""
    paths = environment({})["PYTHONPATH"] + os.pathsep + str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment({"PYTHONPATH": paths}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    facts = {"pid": 1, "signal": 0, "error": "Operation not permitted"}
    assert done.stdout == f"{[('error', 'signal_not_sent', facts)]}\n"


def test_renewed_logs_are_owed_until_everybody_has_them(tmp_path: Path) -> None:
    """Who cannot be told now is told later, also who is born meanwhile with the old ones; there is one warning."""
    with hands_of() as hands:
        log = open_log(str(tmp_path / "log"), "error_log")
        hands.holdings.logs = {Place.ERROR_LOG: log}
        _, zygote = hands.zygote_with(os.getpid())
        _, worker = hands.worker_in(1)
        busy: set[int | None] = {None, 1}
        really = hands._tell

        def tell(channel: Channel, kind: Kind, *rest: Any) -> bool:
            return not (kind is Kind.LOGS and channel.slot in busy) and really(channel, kind, *rest)

        hands._tell = tell  # type: ignore[method-assign, assignment]
        hands.renew_logs()
        epoch = slot_of(hands, 1).control[LOG_EPOCH]
        hands.perform(Fork("www", 3, 1), NOW)
        busy.add(3)
        assert [hands.settle_logs() for _ in range(3)] == [False] * 3
        assert hands.log.names() == ["logs_not_handed_out"]
        assert hands.log.events[0][2]["slots"] == [1, 3]
        assert slot_of(hands, 1).control[LOG_EPOCH] == epoch
        busy.clear()
        assert [hands.settle_logs() for _ in range(2)] == [True, False]
        assert slot_of(hands, 1).control[LOG_EPOCH] == epoch + 1
        kinds = []
        for end in (zygote, zygote, worker):
            order = receive_order(end, wait=False)
            assert order is not None
            kinds.append(order.kind)
            os.close(order.descriptors[0])
            if order.kind is Kind.LOGS:
                assert order.body == {"logs": [Place.ERROR_LOG]}
        assert kinds == [Kind.FORK, Kind.LOGS, Kind.LOGS]
        busy |= {None, 1, 3}
        hands.renew_logs()
        hands.drop(hands.holdings.workers[1])
        hands.drop(hands.holdings.workers[3])
        busy.clear()
        assert hands.settle_logs()
        assert hands._owed == []
        zygote.close()
        worker.close()
        log.close()
