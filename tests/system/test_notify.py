"""What a service manager hears, on a real socket: every word, nothing twice, nothing that waits."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from prefork.system.notify import Notifier

US = 4242


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """All messages so far."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65_536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, folder: Path) -> Iterator[Manager]:
    found = Manager(f"{folder}/notify" if request.param == "path" else f"@prefork-test-{os.getpid()}")
    with found.socket:
        yield found


def test_every_word(manager: Manager) -> None:
    """As sd_notify(3) spells it, by a path and by an abstract name."""
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.address}, US)
    assert notifier
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    assert notifier.status("two\nlines   and more")
    notifier.watchdog()
    notifier.extend(30)
    ready, reloading, *rest = manager.heard()
    assert ready == f"READY=1\nMAINPID={os.getpid()}"
    word, _, micros = reloading.partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before <= int(micros) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert rest == ["STOPPING=1", "STATUS=two lines and more", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"]
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "watched"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "4242"}, 0.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_who_is_watched(environ: Mapping[str, str], watched: float | None) -> None:
    """Only the process that is named, and only for a time that is one."""
    assert Notifier.of({"NOTIFY_SOCKET": "/run/n", **environ}, US).watched == watched
    assert Notifier.of(environ, US).watched is None


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "vsock:2:9"}])
def test_without_a_manager_nothing_is_said(environ: Mapping[str, str]) -> None:
    """And nothing is opened."""
    descriptors = len(os.listdir("/proc/self/fd"))
    notifier = Notifier.of(environ, US)
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    assert not notifier.status("busy")
    notifier.watchdog()
    notifier.extend(1)
    notifier.settle()
    assert (bool(notifier), notifier.problem) == (False, "")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    notifier.close()


def test_a_manager_that_is_away_hears_of_states_later(folder: Path) -> None:
    """In their order; the status and signs of life of that time are gone, as nobody needs them."""
    notifier = Notifier.of({"NOTIFY_SOCKET": f"{folder}/notify"}, US)
    notifier.reloading()
    assert notifier.problem == "No such file or directory"
    notifier.watchdog()
    assert not notifier.status("lost")
    notifier.ready()
    manager = Manager(f"{folder}/notify")
    with manager.socket:
        assert notifier.status("found")
        assert [message.partition("\n")[0] for message in manager.heard()] == ["RELOADING=1", "READY=1", "STATUS=found"]
        assert notifier.problem == ""
    notifier.close()


def test_a_manager_that_does_not_read_makes_nobody_wait(folder: Path) -> None:
    """Its queue is full: what cannot be sent is kept, a bounded number of it, and sent when there is room."""
    manager = Manager(f"{folder}/notify")
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.address}, US)
    with manager.socket:
        full = 0
        while notifier.status("x"):
            full += 1
            assert full < 100_000
        notifier.stopping()
        assert "temporarily unavailable" in notifier.problem
        for _ in range(1_000):
            notifier.ready()
        manager.heard()
        heard: list[str] = []
        for _ in range(16):  # the kernel holds few at a time
            notifier.settle()
            heard += manager.heard()
        assert heard == [f"READY=1\nMAINPID={os.getpid()}"] * 16
    notifier.close()
