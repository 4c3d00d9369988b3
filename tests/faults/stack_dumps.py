"""Take the stacks of busy workers, one after the other and several at once, while they serve. Prints JSON.

Through the control socket of the real server, as ``preforkctl stacks PID`` does. Arguments: how many stacks of workers
that were at a request, a folder for the server, and options for it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import Server, fastcgi
from harness.crowd import Crowd
from prefork.cli.console import Failure
from prefork.cli.orders import Door, give

WORKERS = 8
CLIENTS = 16
ASKERS = 12


class Tally:
    """What came of the questions."""

    def __init__(self, wanted: int) -> None:
        self.counts: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self._wanted = wanted
        self._changed = threading.Lock()

    def add(self, stack: dict[str, Any]) -> None:
        frames = stack["frames"]
        kind = "silent" if not stack["answered"] else "idle" if not frames else "forced" if stack["forced"] else "asked"
        with self._changed:
            self.counts[kind] += 1
            if frames:
                self.places[frames[0]["function"]] += 1

    @property
    def taken(self) -> int:
        """Stacks of workers that were at a request."""
        return self.counts["asked"] + self.counts["forced"]

    @property
    def done(self) -> bool:
        """Enough of them, and of either kind: which workers hang in C just when they are asked is chance."""
        return self.taken >= self._wanted and self.counts["asked"] > 0 and self.counts["forced"] > 0


def ask(server: Server, door: Door, tally: Tally) -> None:
    """Take stacks of workers by chance until there are enough of them."""
    pids = server.workers()
    while not tally.done:
        try:
            answer = give(door, "stacks", pid=random.choice(pids), patience=30.0)
        except Failure:  # it has died, which is what this is about
            pids = server.workers()
            continue
        tally.add(answer["pools"][0]["stacks"][0])


def main(wanted: int, folder: Path, *options: str) -> None:
    control = folder / "control.sock"
    words = ("--workers", str(WORKERS), "--control-socket", str(control), "--request-slowlog-timeout", "0", *options)

    def request(number: int) -> str:
        answer = fastcgi(str(folder / "app.sock"), path=f"/{number}")
        assert (answer.status, answer.text) == (200, str(number)), answer
        return "good"

    with Server("busy", *words, folder=folder) as server:
        server.wait_workers(WORKERS)
        tally, began = Tally(wanted), time.monotonic()
        with Crowd(request, CLIENTS) as crowd, ThreadPoolExecutor(ASKERS) as askers:
            for asker in [askers.submit(ask, server, Door(str(control)), tally) for _ in range(ASKERS)]:
                asker.result()
        seconds = time.monotonic() - began
        deaths = [event["cause"] for event in server.find("worker_died")]
    result = {
        "taken": tally.taken,
        **{kind: tally.counts[kind] for kind in ("asked", "forced", "idle", "silent")},
        "places": len(tally.places),
        "seconds": round(seconds, 1),
        "requests": crowd.answered,
        "lost": crowd.lost[:10],
        "deaths": deaths,
    }
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
