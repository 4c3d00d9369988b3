"""What is believed of what processes say, with real channels and real processes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from master.hands import NOW, Hands, Speaker, hands_of, speaker
from prefork.errors import ApplicationError
from prefork.master.hear import hear
from prefork.master.holdings import Channel
from prefork.policy.model import FREE, STARTING, Ended, Phase, ZygoteState
from prefork.system.channel import Kind, open_pair


def ended(hands: Hands) -> tuple[Ended, ...]:
    return hands.pool.view(Phase.SERVING, 0.0, b"", None, None).ended


def known(hands: Hands, channel: Channel) -> bool:
    """Whether the channel is still listened to."""
    held = hands.holdings.zygotes.get(1) if channel.slot is None else hands.holdings.workers.get(channel.slot)
    assert (held is channel) == (channel in hands.watched) == (channel.end.fileno() >= 0)
    return held is channel


# workers


def test_a_workers_first_words() -> None:
    """HELLO makes it known by the kernel's pid, READY ready."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as worker:
            worker.says(Kind.HELLO, '{"pid": 1}')
            hear(hands, channel, NOW)
            assert (hands.pool.workers[5].pid, hands.pool.slot_of(worker.pid)) == (worker.pid, 5)
            worker.says(Kind.READY)
            hear(hands, channel, NOW + 1)
            assert (hands.pool.workers[5].ready, hands.pool.verified) == (NOW + 1, True)
            assert (known(hands, channel), hands.log.events) == (True, [])


def test_words_that_come_together_are_heard_together() -> None:
    """And then the end, which leaves an adopted worker to be reaped."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as worker:
            worker.says(Kind.HELLO)
            worker.says(Kind.READY)
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
            hear(hands, channel, NOW)
        assert (hands.pool.workers[5].ready, known(hands, channel), ended(hands)) == (NOW, False, ())


@pytest.mark.parametrize(("limit", "reason"), [(1000, "max_requests (1000)"), (0, "max_requests (of before)")])
def test_a_worker_that_has_served_enough_says_so_once(limit: int, reason: str) -> None:
    """In our words, whatever it says besides; it goes on until it is asked to leave."""
    with hands_of(max_requests=limit) as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as worker:
            worker.says(Kind.HELLO)
            worker.says(Kind.READY)
            hear(hands, channel, NOW)
            hands.pool.listening(5)
            worker.says(Kind.SPENT, '{"reason": "mine"}')
            hear(hands, channel, NOW)
            assert (hands.pool.workers[5].spent, known(hands, channel)) == (reason, True)
            worker.says(Kind.SPENT)
            hear(hands, channel, NOW)
            assert not known(hands, channel)


def test_a_worker_that_cannot_load_says_why() -> None:
    """The failure is kept for the start, and told at once when the pool serves already; the zygote is not blamed."""
    for serving in (False, True):
        with hands_of() as hands:
            hands.pool.zygote_started(1, NOW - 5)
            hands.pool.zygote_ready(1, loaded=False, unfit=False, now=NOW - 4)
            hands.pool.open = serving
            channel, end = hands.worker_in(5)
            with speaker(end) as worker:
                worker.says(Kind.HELLO)
                worker.says(Kind.FAILED, '{"message": "no module", "traceback": "Traceback …"}')
                hear(hands, channel, NOW)
            failure = hands.pool.failure
            assert isinstance(failure, ApplicationError)
            assert (str(failure), failure.traceback) == ("no module", "Traceback …")
            assert hands.pool.workers[5].failed
            assert hands.pool.zygote is not None
            assert hands.pool.zygote.state is ZygoteState.READY
            told = [("error", "application_failed", {"error": "no module", "traceback": "Traceback …"})]
            assert hands.log.events == (told if serving else [])


@pytest.mark.parametrize("body", ["{}", '{"message": null}', '{"message": [1], "traceback": {"a": NaN}}'])
def test_a_failure_of_any_shape_is_text(body: str) -> None:
    """What should be text is made text, and cut."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as worker:
            worker.says(Kind.HELLO)
            worker.says(Kind.FAILED, body)
            hear(hands, channel, NOW)
        assert isinstance(hands.pool.failure, ApplicationError)
        assert len(str(hands.pool.failure)) < 100


def test_a_failure_nested_to_the_limit_is_survived() -> None:
    """Whatever depth the JSON reader takes, the text of it can be made too, or it is garbage: nothing is raised."""
    for depth in [*range(10, 40_000, 611), *range(850, 1_010)]:
        with hands_of() as hands:
            channel, end = hands.worker_in(5)
            hands.pool.adopted(5, os.getpid())
            end.send(bytes((Kind.FAILED,)) + b'{"message": ' + b"[" * depth + b"]" * depth + b"}")
            hear(hands, channel, NOW)
            end.close()
            assert (hands.pool.failure is not None) == known(hands, channel)


BAD: dict[str, tuple[list[tuple[Kind | int, str, bytes | None]], str, int]] = {
    # what is said, the kind that the log names, how much had been heard
    "garbage": ([(0, "", b"garbage")], "malformed", 1),
    "nothing": ([(0, "", b"")], "malformed", 1),
    "an order": ([(Kind.FORK, "{}", None)], "malformed", 1),
    "ready before hello": ([(Kind.READY, "{}", None)], "READY", 1),
    "failed before hello": ([(Kind.FAILED, "{}", None)], "FAILED", 1),
    "a zygote's word": ([(Kind.NOT_FORKED, "{}", None)], "NOT_FORKED", 1),
    "hello twice": ([(Kind.HELLO, "{}", None)] * 2, "HELLO", 2),
    "ready twice": ([(Kind.HELLO, "{}", None), (Kind.READY, "{}", None), (Kind.READY, "{}", None)], "READY", 3),
    "failed after ready": (
        [(Kind.HELLO, "{}", None), (Kind.READY, "{}", None), (Kind.FAILED, "{}", None)],
        "FAILED",
        3,
    ),
    "spent before it listens": (
        [(Kind.HELLO, "{}", None), (Kind.READY, "{}", None), (Kind.SPENT, "{}", None)],
        "SPENT",
        3,
    ),
    "failed for ever": ([(Kind.HELLO, "{}", None), *[(Kind.FAILED, "{}", None)] * 8], "FAILED", 9),
    "zygote's word after hello": ([(Kind.HELLO, "{}", None), (Kind.NOT_FORKED, "{}", None)], "NOT_FORKED", 2),
}


@pytest.mark.parametrize(("says", "kind", "heard"), BAD.values(), ids=BAD.keys())
def test_who_says_what_he_may_not_is_not_listened_to(
    says: list[tuple[Kind | int, str, bytes | None]], kind: str, heard: int
) -> None:
    """The channel is dropped. A known worker stays in the books until it is reaped; another one's slot is free."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as worker:
            for what, body, raw in says:
                worker.says(what, body, raw=raw)
            hear(hands, channel, NOW)
            refused = ("warning", "message_refused", {"slot": 5, "pid": worker.pid, "kind": kind, "heard": heard})
            assert hands.log.events == [refused]
            assert not known(hands, channel)
            adopted = says[0][0] is Kind.HELLO
            assert (hands.pool.slot_of(worker.pid) == 5, 5 in hands.pool.workers) == (adopted, adopted)
            assert hands.holdings.scoreboard.state(5) == (STARTING if adopted else FREE)
            assert ended(hands) == (() if adopted else (Ended(None, expected=False),))


def test_a_stranger_is_not_adopted() -> None:
    """A process that is no child of ours cannot be a worker: here, ourselves."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        end.send(bytes((Kind.HELLO,)) + b"{}")
        hear(hands, channel, NOW)
        end.close()
        assert (5 in hands.pool.workers, hands.log.names()) == (False, ["message_refused"])


def test_the_zygote_is_no_worker() -> None:
    """Though it is a child of ours and holds the end."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        with speaker(end) as zygote:
            hands.zygote_with(zygote.pid)[1].close()
            zygote.says(Kind.HELLO)
            hear(hands, channel, NOW)
        assert (5 in hands.pool.workers, hands.log.names()) == (False, ["message_refused"])


def test_a_worker_cannot_be_two() -> None:
    """One that was adopted says hello for a slot whose worker has not come yet: it stays in its own."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        other, others_end = hands.worker_in(6)
        with speaker(end, others_end) as worker:
            worker.says(Kind.HELLO)
            hear(hands, channel, NOW)
            worker.says(Kind.HELLO, to="other")
            hear(hands, other, NOW)
            assert (hands.pool.slot_of(worker.pid), sorted(hands.pool.workers), known(hands, other)) == (5, [5], False)


def test_a_worker_cannot_speak_for_another() -> None:
    """READY from another pid than the adopted one's is refused."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        again = socket.socket(fileno=os.dup(end.fileno()))
        with speaker(end) as worker:
            worker.says(Kind.HELLO)
            again.send(bytes((Kind.READY,)) + b"{}")
            hear(hands, channel, NOW)
            assert hands.pool.workers[5].ready is None
            assert hands.log.events[-1][2]["pid"] == os.getpid()
        again.close()


def test_an_end_without_hello_frees_the_slot() -> None:
    """Nobody is to be reaped, so this is where it is noticed."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        end.close()
        hear(hands, channel, NOW)
        assert (hands.pool.workers, known(hands, channel), hands.holdings.scoreboard.state(5)) == ({}, False, FREE)
        ((level, event, facts),) = hands.log.events
        assert (level, event, facts["slot"]) == ("warning", "worker_not_started", 5)
        assert facts["cause"].startswith("it could not be forked, or ended before it could be heard; the limits on")
        assert ended(hands) == (Ended(None, expected=False),)


def test_a_word_of_a_worker_that_is_forgotten() -> None:
    """Its slot is in no book: refused, and nothing else."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        hands.pool.not_forked(5)
        end.send(bytes((Kind.HELLO,)) + b"{}")
        hear(hands, channel, NOW)
        end.close()
        assert (hands.pool.workers, hands.log.names(), known(hands, channel)) == ({}, ["message_refused"], False)


def test_descriptors_do_not_come_up() -> None:
    """A worker that sends some has sent a message, and the master has nothing more open than before."""
    with hands_of() as hands:
        channel, end = hands.worker_in(5)
        hands.pool.adopted(5, os.getpid())
        before = os.listdir("/proc/self/fd")
        socket.send_fds(end, [bytes((Kind.READY,)) + b"{}"], [0, 1, 2])
        hear(hands, channel, NOW)
        assert (hands.pool.workers[5].ready, os.listdir("/proc/self/fd")) == (NOW, before)
        end.close()


def test_a_talker_does_not_keep_the_others_waiting() -> None:
    """So many messages at once, and the rest in the next turn."""
    with hands_of() as hands:
        channel, end = hands.zygote_with(os.getpid())
        hands.pool.zygote_ready(1, loaded=True, unfit=False, now=NOW)
        for _ in range(100):
            end.send(bytes((Kind.NOT_FORKED,)) + b"{}")
        hear(hands, channel, NOW)
        turns = [len(hands.log.events)]
        hear(hands, channel, NOW)
        assert [*turns, len(hands.log.events)] == [64, 100]
        end.close()


# the zygote


@contextmanager
def zygote(hands: Hands) -> Iterator[tuple[Channel, Speaker]]:
    """A zygote that loads the application, as far as the books know."""
    channel, end = hands.zygote_with(0)
    with speaker(end) as talker:
        hands.pool._zygote_pids[1] = talker.pid
        yield channel, talker


READY: list[tuple[str, str, bool, bool, str]] = [
    ("with the application", '{"loaded": true, "unfit": []}', True, False, "zygote_ready"),
    ("without it", '{"loaded": false, "unfit": []}', False, False, "zygote_ready"),
    ("unfit", '{"loaded": true, "unfit": ["threads are running: t"]}', True, True, "preload_refused"),
    ("in other words", '{"loaded": 1, "unfit": "threads"}', False, False, "zygote_ready"),
    ("in none", "{}", False, False, "zygote_ready"),
    ("in odd reasons", '{"loaded": true, "unfit": [null, {"a": 1}, NaN]}', True, True, "preload_refused"),
]


@pytest.mark.parametrize(("body", "loaded", "unfit", "told"), [r[1:] for r in READY], ids=[r[0] for r in READY])
def test_a_zygote_is_ready(body: str, loaded: bool, unfit: bool, told: str) -> None:
    """What it says of itself is taken only in the shape it has to have."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        talker.says(Kind.READY, body)
        hear(hands, channel, NOW)
        found = hands.pool.zygote
        assert found is not None
        assert (found.state, found.loaded, found.unfit) == (ZygoteState.READY, loaded, unfit)
        assert (hands.log.names(), known(hands, channel), hands.pool.verified) == ([told], True, loaded)
        if told == "zygote_ready":
            said = hands.log.events[0][2]["message"]
            assert said.startswith("application imported in ") is loaded
            assert (said == "each worker imports the application") is not loaded


def test_a_zygote_that_cannot_load_says_why() -> None:
    """Its failure is the pool's."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        talker.says(Kind.FAILED, '{"message": "no module", "traceback": "Traceback …"}')
        hear(hands, channel, NOW)
        assert hands.pool.zygote is not None
        assert (hands.pool.zygote.state, str(hands.pool.failure)) == (ZygoteState.FAILED, "no module")
        assert known(hands, channel)


@pytest.mark.parametrize("kind", [Kind.READY, Kind.FAILED])
def test_a_zygote_that_was_given_up_may_finish_its_word(kind: Kind) -> None:
    """It said so before it was killed: that changes nothing, and is no offence."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        hands.pool.zygote_leaving(1, NOW)
        talker.says(kind)
        hear(hands, channel, NOW)
        assert (known(hands, channel), hands.log.events, hands.pool.failure) == (True, [], None)
        assert hands.pool.zygotes[1].state is ZygoteState.LEAVING


def test_a_fork_that_failed_is_reported() -> None:
    """With the reason, as text and cut; the slot is freed by the end of its channel, not by this word."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        hands.worker_in(5)[1].close()
        talker.says(Kind.NOT_FORKED, '{"slot": 5, "error": "Cannot allocate memory"}')
        talker.says(Kind.NOT_FORKED, '{"slot": {}, "error": "%s"}' % ("x" * 30_000))
        hear(hands, channel, NOW)
        assert [facts["error"] for _, _, facts in hands.log.events] == ["Cannot allocate memory", "x" * 20_000]
        assert (list(hands.pool.workers), known(hands, channel)) == ([5], True)


@pytest.mark.parametrize(
    ("first", "then", "raw"),
    [
        (None, Kind.HELLO, None),
        (None, 0, b"garbage"),
        (Kind.READY, Kind.READY, None),
        (Kind.READY, Kind.FAILED, None),
        (Kind.FAILED, Kind.READY, None),
    ],
)
def test_a_zygote_that_is_not_understood_is_killed(first: Kind | None, then: Kind | int, raw: bytes | None) -> None:
    """Nobody could ask it for a fork any more: it goes, and another takes its place."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        if first is not None:
            talker.says(first)
        talker.says(then, raw=raw)
        hear(hands, channel, NOW)
        ended = os.waitid(os.P_PID, talker.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGKILL)
        assert (known(hands, channel), hands.log.names()[-1]) == (False, "message_refused")
        assert hands.holdings.kill_reasons == {talker.pid: "not understood any more"}


def test_only_the_zygote_speaks_for_the_zygote() -> None:
    """Not a process that came by its channel; and not after it is gone."""
    with hands_of() as hands:
        channel, end = hands.zygote_with(0)
        hands.pool._zygote_pids[1] = 0
        end.send(bytes((Kind.READY,)) + b"{}")
        hear(hands, channel, NOW)
        assert hands.pool.zygote is not None
        assert (hands.pool.zygote.state, known(hands, channel)) == (ZygoteState.LOADING, False)
        end.close()
        above, end = open_pair()
        late = Channel(above, None, 1)
        hands.watched.append(late)
        hands.pool.zygote_ended(1)
        hands.pool._zygote_pids[1] = os.getpid()
        hands.perform = lambda action, now: None  # type: ignore[method-assign]
        end.send(bytes((Kind.READY,)) + b"{}")
        hear(hands, late, NOW)
        end.close()
        assert hands.log.names() == ["message_refused"] * 2


def test_the_end_of_a_zygotes_channel_says_nothing() -> None:
    """It is reaped like any other child; until then it is in the books."""
    with hands_of() as hands, zygote(hands) as (channel, talker):
        os.kill(talker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, talker.pid, os.WEXITED | os.WNOWAIT)
        hear(hands, channel, NOW)
        assert (known(hands, channel), hands.pool.zygote_pid(1), hands.log.events) == (False, talker.pid, [])
