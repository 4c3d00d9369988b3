"""kill -9 of anybody at random moments under load: only what he had in hand is lost, and he is replaced.

``PREFORK_TEST_KILLS=30`` sets for how many seconds workers are killed; a run of the suite takes a few.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from harness import Event, Load, Nginx, Server, wait_until

pytestmark = pytest.mark.nginx

SECONDS = float(os.environ.get("PREFORK_TEST_KILLS", "3"))
PAUSES = (0.02, 0.4)  # seconds between two kills
KEPT = 8  # upstream connections that nginx keeps


def zygote(server: Server) -> int:
    """The pid of the zygote."""
    return next(pid for pid, title in server.titles().items() if title.startswith("prefork: zygote"))


def kill_workers(server: Server, seconds: float) -> int:
    """Kill workers at random for that long; how many there were."""
    chance, pause, killed = random.Random(seconds), threading.Event(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        victims = server.workers()
        if victims:
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue  # it was killed before, and is reaped now
            killed += 1
        pause.wait(chance.uniform(*PAUSES))
    return killed


def had_answered(died: Event, load: Load) -> bool:
    """Whether a client has the whole answer to the request that a worker died at: it was killed a moment after that."""
    moment = datetime.fromisoformat(died["timestamp"]).timestamp() - time.time() + time.monotonic()
    begun = moment - died["elapsed"]
    return any(
        sample.worker == str(died["pid"]) and not sample.problem and sample.began - 0.01 < begun < sample.ended
        for sample in load.samples
    )


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize("pm", ["static", "dynamic"])
def test_only_what_a_killed_worker_had_in_hand_is_lost(folder: Path, pm: str) -> None:
    """At most one request each; nothing is answered wrongly or twice, and afterwards everything is as before."""
    with (
        Server("mixed", "--pm", pm, "--max-children", "8", folder=folder) as server,
        Nginx(server.address, folder=folder, keepalive=KEPT) as nginx,
    ):
        master = server.pid
        with Load(nginx.address, long=2, seconds=1.0) as load:
            load.wait(50)
            killed = kill_workers(server, SECONDS)
            good_before = sum(not sample.problem for sample in load.samples)
            wait_until(lambda: sum(not sample.problem for sample in load.samples) > good_before + 100)
            assert killed > SECONDS
            assert len(load.lost) <= killed
            assert load.wrong == []
        assert (server.pid, server.running, len(server.find("zygote_died"))) == (master, True, 0)
        died = server.find("worker_died")
        assert {event["cause"] for event in died} <= {"killed by SIGKILL"}
        assert len(died) + len(server.find("worker_not_started")) <= killed
        # Whose request was logged is somebody's who lost it, unless the answer had left already.
        assert sum("request" in event and not had_answered(event, load) for event in died) <= len(load.lost)
        with Load(nginx.address, long=0) as load:
            load.wait(50)
        load.assert_well()


@pytest.mark.timeout(120)
def test_a_killed_zygote_costs_nothing(folder: Path) -> None:
    """Whoever serves serves on, the next generation forks, and no request is lost or waits."""
    with (
        Server("mixed", "--pm", "static", "--max-children", "4", folder=folder) as server,
        Nginx(server.address, folder=folder, keepalive=KEPT) as nginx,
    ):
        with Load(nginx.address, short=2, long=1, seconds=0.5) as load:
            for generation in (2, 3, 4):
                load.wait(20)
                os.kill(zygote(server), signal.SIGKILL)
                server.wait_event("zygote_ready", generation=generation)
            load.wait(20)
        load.assert_well()
        assert [event["cause"] for event in server.find("zygote_died")] == ["killed by SIGKILL"] * 3
        assert server.find("worker_died") == []
        (worker, *_) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len({*server.workers()} - {worker}) == 4)
