"""Connections that wait for their peers to give them up."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from prefork.worker.limbo import MAX_KEPT, Limbo


@pytest.fixture
def limbo() -> Iterator[Limbo]:
    made = Limbo()
    yield made
    made.close()


def kept_pair(limbo: Limbo) -> socket.socket:
    """A connection that is kept; the peer's end of it."""
    ours, theirs = socket.socketpair()
    with theirs:
        limbo.keep(theirs.fileno())
    return ours


def ended(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def test_a_connection_outlives_its_descriptor(limbo: Limbo) -> None:
    """The peer sees no end until it leaves itself; then nothing is kept for it."""
    with kept_pair(limbo) as first, kept_pair(limbo) as second:
        limbo.release()
        assert (ended(first), ended(second), len(limbo.kept)) == (False, False, 2)
        first.close()
        limbo.release()
        assert (ended(second), len(limbo.kept)) == (False, 1)
        limbo.close()
        assert (ended(second), limbo.kept) == (True, [])


def test_there_are_never_many(limbo: Limbo) -> None:
    """Beyond MAX_KEPT the one goes that has waited longest."""
    peers = [kept_pair(limbo) for _ in range(MAX_KEPT + 1)]
    assert [ended(peer) for peer in peers] == [True] + [False] * MAX_KEPT
    for peer in peers:
        peer.close()


def test_without_a_number_to_spare(limbo: Limbo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where descriptors have run out, nothing is kept and nothing fails."""
    limbo.keep(10_000)
    assert limbo.kept == []


def test_kept_connections_are_not_inherited(limbo: Limbo) -> None:
    """A program that the application starts does not hold them."""
    with kept_pair(limbo):
        assert not os.get_inheritable(limbo.kept[0])
