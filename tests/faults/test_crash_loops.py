"""Applications that do nothing but die: bounded forks, growing pauses, and a master that has nothing to do with it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from harness import UNMEASURED, Event, Server, wait_until

WORKERS = 8
MOST_A_SECOND = 10.0
SECONDS = 3.0  # of dying
CALM = 0.1  # of a CPU, for the master: a hundredth of it is what one sees


def processor_time(pid: int) -> float:
    """The seconds of CPU that a process has used, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def moments(events: list[Event]) -> list[float]:
    return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]


def pauses(server: Server) -> list[float]:
    """Seconds between two deaths."""
    return [later - earlier for earlier, later in pairwise(moments(server.find("worker_died")))]


@contextmanager
def asking(server: Server, path: str, clients: int = 16) -> Iterator[None]:
    """Clients that ask for something again and again, whatever comes of it."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                server.ask(path=path, timeout=30.0)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    # Whoever waits in the queue now is answered by the workers to come.
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("pm", ["static", "dynamic"])
def test_an_application_that_dies_of_every_request(folder: Path, pm: str) -> None:
    """All workers are replaced at once, once; from then on no more than a few a second, and the master is calm."""
    options = ("--pm", pm, "--max-children", str(WORKERS), "--graceful-timeout", "2s")
    with Server("faulty", *options, folder=folder, env=UNMEASURED) as server:
        begun, used = time.monotonic(), processor_time(server.pid)
        with asking(server, "/die"):
            wait_until(lambda: time.monotonic() > begun + SECONDS)  # how long it lasts is what this is about
            server.wait_event("worker_died", count=WORKERS + 6)
            died = moments(server.find("worker_died"))
            lasted = time.monotonic() - begun
            busy = (processor_time(server.pid) - used) / lasted
            server.send(signal.SIGINT)
            server.send(signal.SIGINT)
            assert server.wait_exit() == 0
        forks = len(died) - WORKERS  # at least: those that died first were there before
        assert 5 < forks < MOST_A_SECOND * lasted
        later = [moment for moment in died if moment > died[0] + 1.0]
        assert len(later) <= MOST_A_SECOND / 2 * (lasted + 1), "it does not slow down"
        assert busy < CALM
        assert {event["event"] for event in server.events if event["level"] == "error"} == set()


@pytest.mark.parametrize("pm", ["static", "dynamic"])
def test_workers_that_die_while_they_load(folder: Path, pm: str) -> None:
    """The pauses grow and grow; mended, the pool is as it was, and the master has slept meanwhile."""
    (folder / "dies.py").write_text(
        "import os, pathlib\n"
        "if pathlib.Path('broken').exists(): os._exit(3)\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
    )
    options = ("--pm", pm, "--max-children", str(WORKERS), "--preload", "never")
    with Server("dies", *options, folder=folder, env=UNMEASURED) as server:
        start = WORKERS if pm == "static" else 3
        workers = server.wait_workers(start)
        wait_until(lambda: server.ask().body == b"hello")
        (folder / "broken").touch()
        begun, used = time.monotonic(), processor_time(server.pid)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: time.monotonic() > begun + SECONDS)
        wait_until(lambda: max(pauses(server), default=0.0) > 0.7, what="a longer pause")
        died = moments(server.find("worker_died"))
        lasted = time.monotonic() - begun
        busy = (processor_time(server.pid) - used) / lasted
        assert len(died) - start < MOST_A_SECOND * lasted
        assert busy < CALM
        (folder / "broken").unlink()
        assert server.ask().body == b"hello"
        server.wait_workers(start)
