"""A pool's hands over real pages, channels and children, with a log that can be read back."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from prefork.config.model import Config, PoolConfig
from prefork.master.holdings import Channel, Holdings
from prefork.master.launch import Launch
from prefork.master.perform import Performer
from prefork.master.pool import Pool
from prefork.master.rules import rules_of
from prefork.system.channel import Kind, open_pair
from prefork.system.listener import Listener, parse_address

__all__ = ["NOW", "SLOTS", "Hands", "Recorder", "Speaker", "descriptors_left", "hands_of", "speaker"]

NOW: Final = 1_000.0
SLOTS: Final = 64
_names = itertools.count()

_SPEAK: Final = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
other = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else end
for line in sys.stdin:
    which, _, data = line.strip().partition(" ")
    (end if which == "own" else other).send(bytes.fromhex(data))
    print(flush=True)
"""


class Recorder:
    """A logger that remembers: (level, event, numbers)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **facts: Any) -> None:
        self.events.append(("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.events.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.events.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.events.append(("error", event, facts))

    def names(self) -> list[str]:
        return [event for _, event, _ in self.events]


class Hands(Performer):
    """A performer whose surroundings can be looked at."""

    def __init__(self, max_children: int = 4, **options: Any) -> None:
        address = f"@prefork-test-{os.getpid()}-{next(_names)}"
        config = PoolConfig(app="app:application", socket=address, max_children=max_children, **options)
        pool = Pool(
            "www",
            "app:application",
            rules=rules_of(config),
            slots=SLOTS,
            inherited=False,
        )
        self.log = Recorder()
        self.watched: list[Channel] = []
        super().__init__(
            pool,
            Holdings(Listener.claim(parse_address(address)), SLOTS),
            Launch(Config(pools=(config,)), config, None, "/", "/", (1024, 1024), lambda _gifts, _app: None),
            self.log,  # type: ignore[arg-type]
            lambda _hands, channel: self.watched.append(channel),
            lambda _hands, channel: self.watched.remove(channel),
        )

    def zygote_with(self, pid: int) -> tuple[Channel, socket.socket]:
        """A zygote that has been started, as process ``pid``; its channel, and the end that is its own."""
        above, below = open_pair()
        self.pool.zygote_started(pid, NOW - 1)
        self.holdings.zygotes[1] = Channel(above, None, 1)
        self.watched.append(self.holdings.zygotes[1])
        return self.holdings.zygotes[1], below

    def worker_in(self, slot: int) -> tuple[Channel, socket.socket]:
        """A worker that was asked for; its channel, and the end that is its own."""
        above, below = open_pair()
        channel = Channel(above, slot, 1)
        self.holdings.prepare_slot(slot)
        self.holdings.workers[slot] = channel
        self.watched.append(channel)
        self.pool.forked(slot, 1, NOW - 1)
        return channel, below


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """As if this process could have so many more descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in itertools.count() if not os.path.exists(f"/proc/self/fd/{number}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def hands_of(**options: Any) -> Iterator[Hands]:
    """Hands, and everything they hold let go at the end."""
    hands = Hands(**options)
    try:
        yield hands
    finally:
        hands.holdings.close()


class Speaker:
    """A child of this process that says what it is told to say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def says(self, kind: Kind | int, body: str = "{}", *, raw: bytes | None = None, to: str = "own") -> None:
        """Send a message, and wait until it is sent."""
        data = bytes((kind,)) + body.encode() if raw is None else raw
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(to, data.hex(), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "\n"


@contextmanager
def speaker(end: socket.socket, other: socket.socket | None = None) -> Iterator[Speaker]:
    """A child that holds this end of a channel, and perhaps somebody else's; ours are closed."""
    ends = [held.fileno() for held in (end, other) if held is not None]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SPEAK, *map(str, ends)],
        pass_fds=ends,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    end.close()
    if other is not None:
        other.close()
    with process:
        yield Speaker(process)
        process.kill()
