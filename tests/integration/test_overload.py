"""Twice as much as can be done, and clients that wait no longer than two seconds: whom does the work go to?

Four workers do twenty requests a second; forty come, for eight seconds. After four, whoever is next has waited for as
long as he will. A server that runs whatever lies in its queue works for clients that have left. One that skips those
runs the next, who is about to leave as well. Only one that refuses who waited too long is always in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import UNMEASURED, Nginx, Pulse, Server

pytestmark = [pytest.mark.nginx, pytest.mark.once, pytest.mark.slow]

SECONDS = 8
RATE = 40
PATIENCE = 2.0

STAMPED = 'fastcgi_param REQUEST_START "t=$msec";'
SETTINGS = {
    "unaware": (("--no-skip-abandoned",), ""),
    "skipping": ((), ""),
    "refusing": (("--queue-timeout", "1.5s"), STAMPED),
}


@dataclass
class Clients:
    """What became of a server's clients, by their numbers."""

    left: dict[int, float] = field(default_factory=dict)  # when each was answered or gave up
    statuses: dict[int, int] = field(default_factory=dict)  # only of those that were answered

    async def come(self, address: tuple[str, int]) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(SECONDS * RATE):
                await asyncio.sleep(began + number / RATE - time.monotonic())
                group.create_task(self._ask(number, address))

    async def _ask(self, number: int, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET /?{number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        with contextlib.suppress(TimeoutError):
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            self.statuses[number] = int(answer.split(maxsplit=2)[1])
        self.left[number] = time.monotonic()
        writer.close()


@dataclass(frozen=True)
class Shares:
    """Shares of the application's time."""

    awaited: float  # that went to requests whose client was there when they were begun
    answered: float  # that went to requests whose client got the answer


def shares(ledger: Path, clients: Clients) -> Shares:
    total = awaited = answered = 0.0
    for line in ledger.read_text().splitlines():
        number, began, ended = line.split()
        seconds = float(ended) - float(began)
        total += seconds
        if clients.left[int(number)] > float(began):
            awaited += seconds
        if clients.statuses.get(int(number)) == 200:
            answered += seconds
    assert total > 0.8 * SECONDS * RATE / 2 * 0.2, "the workers were idle"
    return Shares(awaited / total, answered / total)


async def _all(groups: dict[str, Clients], addresses: dict[str, tuple[str, int]]) -> None:
    await asyncio.gather(*(groups[name].come(addresses[name]) for name in groups))


@dataclass(frozen=True)
class Play:
    """How it went."""

    found: dict[str, Shares]
    skipped: dict[str, int]
    statuses: dict[str, Counter[int]]
    stalled: float  # seconds for which the machine stood still

    @property
    def is_good(self) -> bool:
        """Whether the work went to those that it should go to."""
        aware = (self.found[name].awaited for name in ("skipping", "refusing"))
        return min(*aware, self.found["refusing"].answered) >= 0.9


def test_whom_the_work_goes_to(folder: Path) -> None:
    """Skipping the abandoned, none of it goes to who has left; refusing the late, all of it is answered in time.

    In time is 0.3 s: where the machine has stood still for that long, there is one try more.
    """
    play = play_in(folder / "first")
    if not play.is_good and play.stalled > 0.3:
        play = play_in(folder / "second")
    assert play.is_good, play
    assert play.found["unaware"].awaited < 0.7

    assert play.skipped["skipping"] > 0
    assert play.skipped["unaware"] == play.skipped["refusing"] == 0
    statuses = play.statuses
    assert set(statuses["unaware"]) == set(statuses["skipping"]) == {200}
    assert set(statuses["refusing"]) == {200, 503}
    assert statuses["refusing"][200] > statuses["skipping"][200]


def play_in(folder: Path) -> Play:
    """All clients of all servers, once."""
    folder.mkdir(mode=0o755)
    servers, addresses = {}, {}
    groups = {name: Clients() for name in SETTINGS}
    with ExitStack() as stack:
        for name, (options, location) in SETTINGS.items():
            place = folder / name
            place.mkdir(mode=0o755)
            server = Server(
                *("ledger", "--workers", "4", "--log-level", "debug", "--graceful-timeout", "100ms", *options),
                folder=place,
                env={"LEDGER": str(place / "ledger"), **UNMEASURED},
            )
            servers[name] = stack.enter_context(server)
            addresses[name] = stack.enter_context(Nginx(server.address, folder=place, location=location)).address
        began = time.monotonic()
        with Pulse() as pulse:
            asyncio.run(_all(groups, addresses))
        return Play(
            {name: shares(folder / name / "ledger", groups[name]) for name in SETTINGS},
            {name: len(servers[name].find("request_abandoned")) for name in SETTINGS},
            {name: Counter(groups[name].statuses.values()) for name in SETTINGS},
            pulse.stalled(began, time.monotonic()),
        )
