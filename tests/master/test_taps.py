"""Taps as the master gives them: the descriptor, the byte, one at a time, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from master.hands import SLOTS, Hands, hands_of
from prefork.errors import ProtocolError
from prefork.master.taps import Taps
from prefork.policy.model import IDLE
from prefork.system.control import Wish
from prefork.system.scoreboard import Slot
from prefork.system.tap import BODIES, ON, UNMASKED, borrow, lend, receive

NOW = 1000.0


class Master:
    """As far as taps know one."""

    def __init__(self, *pools: Hands) -> None:
        self.pools = pools


@contextmanager
def client() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(the client's end, the master's)."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        theirs.settimeout(5)
        ours.setblocking(False)
        yield theirs, ours


def byte(hands: Hands) -> int:
    """As a worker sees it."""
    board, control = hands.holdings.scoreboard.descriptor, hands.holdings.control.descriptor
    return Slot(0, SLOTS, board, control, -1, 1, IDLE).tap


def taps_of(*pools: Hands) -> Taps:
    return Taps(Master(*pools))  # type: ignore[arg-type]


def begin(taps: Taps, who: str, end: socket.socket, wish: Wish | None = None) -> None:
    taps.begin(who, wish or Wish(), end, NOW, peer_pid=7, peer_uid=0)


def answer_of(end: socket.socket) -> tuple[dict[str, Any], socket.socket]:
    answer, reading = borrow(end, 65_536)
    assert reading is not None
    return json.loads(answer), reading


@pytest.mark.parametrize(
    ("wish", "flags", "level"),
    [
        (Wish(), ON, "info"),
        (Wish(bodies=True), ON | BODIES, "info"),
        (Wish("www", unmasked=True), ON | UNMASKED, "warning"),
    ],
)
def test_a_tap(wish: Wish, flags: int, level: str) -> None:
    """Its client reads what workers write from then on; the log says who, and whether secrets are shown."""
    with hands_of() as hands, client() as (theirs, ours):
        taps = taps_of(hands)
        assert byte(hands) == 0
        hands.holdings.tap.writing.send(b"left by the one before")
        begin(taps, "a", ours, wish)
        answer, reading = answer_of(theirs)
        assert (answer["ok"], answer["pool"], answer["pid"]) == (True, "www", os.getpid())
        assert (byte(hands), len(taps)) == (flags, 1)
        with reading:
            assert receive(reading) is None
            hands.holdings.tap.writing.send(b"a")
            assert receive(reading) == (b"a", os.getpid())
            hands.holdings.tap.writing.send(b"not read")
            taps.end("a", NOW + 2)
            taps.end("a", NOW + 3)
            taps.end("somebody else", NOW + 3)
            assert (byte(hands), len(taps), receive(reading)) == (0, 0, None)
        facts = {"peer_pid": 7, "peer_uid": 0}
        assert hands.log.events == [
            (level, "tap_begun", {**facts, "bodies": wish.bodies, "unmasked": wish.unmasked}),
            ("info", "tap_ended", {**facts, "seconds": 2.0}),
        ]


def test_workers_tell_before_the_client_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told that the tap has begun sees the very next request."""
    seen = []

    def handing_over(end: socket.socket, answer: bytes, reading: socket.socket) -> None:
        seen.append(byte(hands))
        lend(end, answer, reading)

    monkeypatch.setattr("prefork.master.taps.lend", handing_over)
    with hands_of() as hands, client() as (_, ours):
        begin(taps_of(hands), "a", ours, Wish(bodies=True))
    assert seen == [ON | BODIES]


def test_one_at_a_time() -> None:
    """The second is told who the first is, and may have it afterwards; another pool is another tap."""
    with hands_of() as one, hands_of() as two, client() as (first, ours), client() as (_, other):
        two.pool.name = "api"
        taps = taps_of(one, two)
        begin(taps, "a", ours, Wish("www"))
        with pytest.raises(ProtocolError, match=r"pool www is tapped by pid 7 \(uid 0\) already"):
            begin(taps, "b", other, Wish("www"))
        begin(taps, "b", other, Wish("api", bodies=True))
        assert (byte(one), byte(two), len(taps)) == (ON, ON | BODIES, 2)
        taps.end("a", NOW)
        assert (byte(one), byte(two)) == (0, ON | BODIES)
        begin(taps, "c", ours, Wish("www"))
        answer_of(first)[1].close()


def test_which_pool() -> None:
    """The only one needs no name; of several one is named, and it must exist."""
    with hands_of() as one, hands_of() as two, client() as (_, ours):
        two.pool.name = "api"
        for wish, pools in ((Wish(), (one, two)), (Wish("shop"), (one, two)), (Wish(), ())):
            with pytest.raises(ProtocolError, match="expected the name of one pool"):
                begin(taps_of(*pools), "a", ours, wish)
        assert (byte(one), byte(two)) == (0, 0)


def test_a_client_that_is_gone_already() -> None:
    """Nothing is switched on for it."""
    with hands_of() as hands, client() as (theirs, ours):
        theirs.close()
        taps = taps_of(hands)
        with pytest.raises(ProtocolError, match="could not be handed over"):
            begin(taps, "a", ours)
        assert (byte(hands), len(taps), hands.log.events) == (0, 0, [])


def test_a_pool_that_is_removed() -> None:
    """Its client has to go, and nothing of the pool is touched any more."""
    with hands_of() as hands, client() as (_, ours):
        taps = taps_of(hands)
        begin(taps, "a", ours)
        assert taps.lapsed() == []
        taps._master = Master()  # type: ignore[assignment]
        assert taps.lapsed() == ["a"]
        hands.holdings.control.tap(ON)
        taps.end("a", NOW)
        assert byte(hands) == ON
        assert hands.log.names() == ["tap_begun", "tap_ended"]


def test_a_pair_that_a_worker_has_broken() -> None:
    """Is said, and the next zygote is given another."""
    with hands_of() as hands, client() as (_, ours):
        taps = taps_of(hands)
        broken = hands.holdings.tap
        broken.writing.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError, match="a reload mends it"):
            begin(taps, "a", ours)
        hands.holdings.gifts(0)
        assert hands.holdings.tap is not broken
        begin(taps, "a", ours)
        assert byte(hands) == ON


def test_the_end_of_the_server() -> None:
    """Every tap is said to have ended."""
    with hands_of() as hands, client() as (_, ours):
        taps = taps_of(hands)
        begin(taps, "a", ours)
        taps.close(NOW + 1)
        assert (len(taps), hands.log.names()) == (0, ["tap_begun", "tap_ended"])
