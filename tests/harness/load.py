"""A mixed load on a server: what a site does all day, while something happens to the server behind it.

The application is ``mixed`` of tests/apps; usually nginx stands between, with its connections kept. Clients are gentle,
some milliseconds between two requests, as they stand for load and are not to make it. Every request is remembered with
its moments, who answered it and what was wrong with the answer, so that a test can ask what it likes afterwards.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from harness.clients import Address, fetch
from harness.processes import PATIENCE, wait_until
from harness.speed import Pulse

__all__ = ["Load", "Sample"]

_PAUSE: Final = 0.01
_DOWNLOAD: Final = 300_000
_DOWNLOAD_SECONDS: Final = 0.3
_LARGEST_POST: Final = 200_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: ``kind`` (get, post, download, long), its moments (monotonic), and what came of it."""

    kind: str
    began: float
    ended: float
    release: str = ""  # who answered: of which release, and which process
    worker: str = ""
    problem: str = ""  # nothing came, or not what should: how it is described
    lost: bool = False  # nothing came

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def __str__(self) -> str:
        return (
            f"{self.kind} at {self.began:.3f}, {self.seconds:.3f} s, release {self.release}: {self.problem or 'good'}"
        )


class Load:
    """Clients that ask until the block ends: ``short`` of them for what takes no time, ``long`` for long requests.

    ``seconds``  of a long request
    ``address``  where to: nginx's, or a socket that is spoken to in HTTP
    """

    def __init__(self, address: Address, *, short: int = 4, long: int = 2, seconds: float = 3.0) -> None:
        self._address = address
        self._seconds = seconds
        self._over = threading.Event()
        self._changed = threading.Lock()
        self._samples: list[Sample] = []
        self._pulse = Pulse()
        self._threads = [threading.Thread(target=self._mix, args=(number,), daemon=True) for number in range(short)]
        self._threads += [threading.Thread(target=self._wait_long, daemon=True) for _ in range(long)]

    # what came of it

    @property
    def samples(self) -> list[Sample]:
        """Everything so far."""
        with self._changed:
            return list(self._samples)

    @property
    def lost(self) -> list[str]:
        """The requests that were not answered."""
        return [str(sample) for sample in self.samples if sample.lost]

    @property
    def wrong(self) -> list[str]:
        """Those that were answered with something else than they should."""
        return [str(sample) for sample in self.samples if sample.problem and not sample.lost]

    def slow(self, limit: float) -> list[str]:
        """The short ones that took longer than ``limit`` seconds, and not because the machine stood still meanwhile."""
        return [
            str(sample)
            for sample in self.samples
            if sample.kind in ("get", "post")
            and sample.seconds > limit + self._pulse.stalled(sample.began, sample.ended)
        ]

    def stale(self, since: float, release: str) -> list[str]:
        """Those that began after ``since`` and were answered by any other release than this one."""
        return [str(sample) for sample in self.samples if sample.began > since and sample.release not in ("", release)]

    def assert_well(self, slow: float = 1.0) -> None:
        """Nothing lost, nothing wrong, and no short request that had to wait for a long one."""
        assert (self.lost, self.wrong, self.slow(slow)) == ([], [], [])

    def wait(self, more: int, kind: str = "") -> None:
        """Until that many more requests were answered, of that kind if one is given, or one went wrong."""

        def count() -> int:
            return sum(kind in ("", sample.kind) for sample in self.samples)

        before = count()
        wait_until(lambda: count() >= before + more or self.lost or self.wrong, what=f"{more} more answers {kind}")

    # the clients

    def __enter__(self) -> Self:
        self._pulse.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let everybody have the answer that they wait for, and ask no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE + self._seconds)
        self._pulse.stop()
        assert not any(thread.is_alive() for thread in self._threads), "a client waits for an answer that does not come"

    def _mix(self, number: int) -> None:
        chance = random.Random(number)
        kinds: list[Callable[[random.Random], None]] = [self._get, self._get, self._get, self._post, self._download]
        while not self._over.is_set():
            chance.choice(kinds)(chance)
            self._over.wait(_PAUSE)

    def _wait_long(self) -> None:
        while not self._over.is_set():
            self._ask("long", "GET", f"/wait?s={self._seconds}", b"", lambda body: body == b"waited")

    def _get(self, _chance: random.Random) -> None:
        self._ask("get", "GET", "/", b"", lambda body: body == b"here")

    def _post(self, chance: random.Random) -> None:
        body = chance.randbytes(chance.choice((1, 100, 20_000, _LARGEST_POST)))
        digest = hashlib.sha256(body).hexdigest().encode()
        self._ask("post", "POST", "/echo", body, lambda answer: answer == digest)

    def _download(self, _chance: random.Random) -> None:
        block = hashlib.sha256(str(_DOWNLOAD).encode()).digest()
        whole = block * (_DOWNLOAD // len(block)) + block[: _DOWNLOAD % len(block)]
        path = f"/download?size={_DOWNLOAD}&s={_DOWNLOAD_SECONDS}"
        self._ask("download", "GET", path, b"", lambda body: body == whole)

    def _ask(self, kind: str, method: str, path: str, body: bytes, is_right: Callable[[bytes], bool]) -> None:
        began = time.monotonic()
        try:
            answer = fetch(self._address, method, path, body=body or None, timeout=PATIENCE + self._seconds)
        except (OSError, http.client.HTTPException) as problem:
            sample = Sample(kind, began, time.monotonic(), problem=f"{type(problem).__name__} {problem}", lost=True)
        else:
            release, worker = (answer.headers.get(name, "") for name in ("X-Release", "X-Worker"))
            if answer.status != 200:
                found, lost = f"status {answer.status}", answer.status >= 500
            else:
                found, lost = ("" if is_right(answer.body) else f"{len(answer.body)} bytes, not the right ones"), False
            sample = Sample(kind, began, time.monotonic(), release, worker, found, lost)
        with self._changed:
            self._samples.append(sample)
