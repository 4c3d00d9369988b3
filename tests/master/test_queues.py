"""The length of a listen queue: the kernel's word, or none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from master.hands import Hands, hands_of
from prefork.master.queues import Queues
from prefork.system.sockdiag import QueueReading, SocketDiagnosis


@pytest.fixture
def hands() -> Iterator[Hands]:
    with hands_of() as hands:
        hands.holdings.listener.open()
        yield hands


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a sandbox."""
    real = socket.socket

    def make(family: int, *rest: Any) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", make)


def test_the_kernel_is_asked(hands: Hands) -> None:
    """Its word is taken, and nothing is said."""
    queues = Queues()
    assert queues.read(hands) == QueueReading(0, hands.holdings.listener.backlog)
    queues.close()
    assert hands.log.events == []


@pytest.mark.usefixtures("forbidden")
def test_what_is_unknown_is_said_once(hands: Hands) -> None:
    """A reason and the mend; however often it is asked for, and for each pool."""
    queues = Queues()
    with hands_of() as other:
        other.pool.name = "other"
        other.holdings.listener.open()
        for _ in range(10):
            assert (queues.read(hands), queues.read(other)) == (None, None)
        for pool in (hands, other):
            ((level, event, facts),) = pool.log.events
            assert (level, event) == ("warning", "queue_unknown")
            assert facts["socket"] == str(pool.holdings.listener)
            assert facts["reason"] == "socket(AF_NETLINK): Address family not supported by protocol"
            assert "AF_NETLINK" in facts["message"]
    queues.close()


def test_a_kernel_that_is_late_once_is_not_told_of(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three misses in a row are something else."""
    queues = Queues()
    answers: list[QueueReading | None] = [None, None, QueueReading(1, 9)] * 3 + [None] * 3
    monkeypatch.setattr(SocketDiagnosis, "queue", lambda _self, _inode: answers.pop(0))
    for _ in range(9):
        queues.read(hands)
    assert hands.log.events == []
    for _ in range(3):
        queues.read(hands)
    assert hands.log.names() == ["queue_unknown"]
    queues.close()


def test_why_the_kernel_does_not_know() -> None:
    """As it says it: of a socket that is not there, or not in this network namespace."""
    diagnosis = SocketDiagnosis()
    with socket.socket(socket.AF_UNIX) as gone:
        inode = os.fstat(gone.fileno()).st_ino
    assert diagnosis.queue(inode) is None
    assert diagnosis.problem == "sock_diag: No such file or directory"
    diagnosis.close()
