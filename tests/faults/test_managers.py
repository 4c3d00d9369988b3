"""The managers with the real server: how soon a pool grows, and how it shrinks, under clients that lose nothing."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from harness import Nginx, Server, stretch, wait_until
from harness.crowd import Crowd

SINE: Final = float(os.environ.get("PREFORK_TEST_SINE", "10"))
"""Seconds of sine load; two minutes by command."""

DYNAMIC: Final = ("--pm", "dynamic", "--max-children", "32", "--start-servers", "2")
QUICK: Final = ("--process-idle-timeout", "300ms")


def at_once(ask: Callable[[], object], number: int) -> list[float]:
    """So many clients ask at the same moment; how long each has waited for its answer."""
    ready = threading.Barrier(number + 1)
    waited: list[float] = []

    def client() -> None:
        ready.wait()
        begun = time.monotonic()
        ask()
        waited.append(time.monotonic() - begun)

    clients = [threading.Thread(target=client) for _ in range(number)]
    for thread in clients:
        thread.start()
    ready.wait()
    for thread in clients:
        thread.join()
    return waited


@contextmanager
def counted(server: Server) -> Iterator[set[int]]:
    """The pids of all workers that are seen meanwhile, looked at all the time."""
    seen: set[int] = set(server.workers())
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            seen.update(server.workers())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def answers(nginx: Nginx, path: str, body: str) -> Callable[[int], str]:
    """A client for `Crowd`."""

    def ask(_number: int) -> str:
        response = nginx.fetch(path=path)
        assert (response.status, response.text) == (200, body)
        return body

    return ask


@pytest.mark.nginx
def test_a_crowd_is_answered_in_little_more_than_its_own_time(folder: Path) -> None:
    """32 requests of one second at once, two workers at the start, 32 allowed: 1.3 s (php-fpm: 5.0 s).

    One try of six has to do, and on a machine that has others to serve the 0.3 s are as much longer as all work is.
    Then the pool shrinks to its spares, one by one, and a client that asks all the time notices nothing.
    """
    options = (*DYNAMIC, *QUICK, "--max-spare-servers", "4")
    with Server("faulty", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        tries: list[tuple[float, float]] = []  # the longest wait, and what it may be
        while not tries or (all(longest >= limit for longest, limit in tries) and len(tries) < 6):
            wait_until(lambda: len(server.workers()) <= 4)
            busy = stretch()
            waited = at_once(lambda: nginx.fetch(path="/slow?s=1"), 32)
            assert len(waited) == 32
            tries.append((max(waited), 1.0 + 0.3 * max(busy, stretch())))
            with Crowd(answers(nginx, "/hello", "hello"), clients=1) as crowd:
                wait_until(lambda: len(server.workers()) == 4)
                crowd.wait(50)
            assert crowd.lost == []
        assert any(longest < limit for longest, limit in tries), tries
        assert nginx.errors() == []
        assert server.find("saturated") == []
        assert server.find("worker_died") == []


def test_a_pool_on_demand_has_workers_while_somebody_needs_them(folder: Path) -> None:
    """Nobody at the start; one for each connection that waits; nobody again after process_idle_timeout; and anew."""
    with Server("faulty", "--pm", "ondemand", "--max-children", "8", *QUICK, folder=folder) as server:
        assert server.workers() == []
        for number in (1, 6):
            with counted(server) as seen:
                waited = at_once(lambda: server.ask(path="/slow?s=0.5"), number)
                assert len(waited) == number
                wait_until(lambda: server.workers() == [])
            # Clients that a busy machine makes late may find a worker that is free again.
            assert number // 2 < len(seen) <= number
        assert server.find("worker_died") == []


@pytest.mark.nginx
def test_a_sleeping_pool_on_demand_loses_no_client(folder: Path) -> None:
    """One request after the other, each just when the worker of the one before is about to leave, or has left."""
    options = ("--pm", "ondemand", "--max-children", "4", "--process-idle-timeout", "100ms")
    with Server("faulty", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        chance, pause = random.Random(4), threading.Event()
        for _ in range(30):
            response = nginx.fetch(path="/hello")
            assert (response.status, response.text) == (200, "hello")
            pause.wait(chance.uniform(0.08, 0.25))
        assert nginx.errors() == []
        assert server.find("worker_died") == []


def test_blips_cost_no_forks_to_speak_of(folder: Path) -> None:
    """Thirty connections at once, of less than a millisecond each, ten times: as many workers as before, or a few more.

    Ten milliseconds after the last idle worker was taken the master looks once more. Whom a busy machine makes wait for
    longer is no blip, and may well need another worker: what is over by then counts.
    """
    with Server("faulty", *DYNAMIC, folder=folder) as server:
        wait_until(lambda: len(server.workers()) == 2)
        pause, begun, blips, forks = threading.Event(), time.monotonic(), 0, 0
        with counted(server) as seen:
            while blips < 10 and time.monotonic() - begun < 60:
                before = len(seen)
                times: list[float] = []

                def ask(times: list[float] = times) -> None:
                    times.append(time.monotonic())
                    server.ask(path="/hello")
                    times.append(time.monotonic())

                assert len(at_once(ask, 30)) == 30
                pause.wait(0.3)
                if max(times) - min(times) < 0.01:
                    blips += 1
                    forks += len(seen) - before
        assert blips > 0
        assert forks <= 5


def test_where_each_worker_loads_for_itself_the_pool_grows_as_well(folder: Path) -> None:
    """An import that leaves a thread: said with what it costs; and the crowd has its answers all the same."""
    with Server("faulty", *DYNAMIC, folder=folder, env={"FAULTY_THREAD": "1"}) as server:
        refused = server.wait_event("preload_refused")
        assert refused["reasons"] == ["threads are running: left-behind"]
        assert refused["import_seconds"] > 0
        assert "memory that workers could have shared" in refused["message"]
        busy = stretch()
        with counted(server) as seen:
            waited = at_once(lambda: server.ask(path="/slow?s=1"), 12)
        assert len(waited) == 12
        assert len(seen) >= 12
        # One after the other on two workers they would have taken six seconds; ten more have to be loaded, on two CPUs.
        assert max(waited) < 1.0 + max(4.0, 10 * refused["import_seconds"]) * max(busy, stretch())


def test_a_pool_that_is_too_small_is_told_once(folder: Path) -> None:
    """With numbers, when it begins and when it ends; and counted each time."""
    with Server("faulty", "--pm", "dynamic", "--max-children", "2", folder=folder) as server:
        for episode in (1, 2):
            assert len(at_once(lambda: server.ask(path="/slow?s=0.4"), 6)) == 6
            left = server.wait_event("saturation_ended", count=episode)
            reached = server.find("saturated")[-1]
            assert len(server.find("saturated")) == episode
            assert (reached["max_children"], left["max_children"]) == (2, 2)
            assert 1 <= reached["waiting"] <= left["peak"] <= 4
            assert 0.2 < left["lasted"] < 5.0


@pytest.mark.nginx
@pytest.mark.slow
def test_a_sine_costs_few_forks(folder: Path) -> None:
    """Between 1 and 8 requests at work, in waves of eight seconds: all have their answers, and few workers are forked.

    ``PREFORK_TEST_SINE=120`` is the two minutes of the promise: fewer than 30 forks in each.
    """
    options = ("--pm", "dynamic", "--max-children", "16", "--max-spare-servers", "4", "--process-idle-timeout", "4s")
    with Server("faulty", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        problems: list[str] = []

        def ask() -> None:
            response = nginx.fetch(path="/slow?s=0.2")
            if (response.status, response.text) != (200, "slept"):
                problems.append(f"{response.status} {response.text}")

        begun, chance, pause = time.monotonic(), random.Random(8), threading.Event()
        clients: list[threading.Thread] = []
        with counted(server) as seen:
            while (passed := time.monotonic() - begun) < SINE:
                busy = 1 + 7 * (1 - math.cos(2 * math.pi * passed / 8)) / 2
                pause.wait(chance.expovariate(busy / 0.2))
                clients.append(threading.Thread(target=ask))
                clients[-1].start()
            for client in clients:
                client.join()
        assert problems == []
        assert len(clients) > SINE * 10
        assert len(seen) <= 30 * max(1.0, SINE / 60)
        assert nginx.errors() == []
        assert server.find("worker_died") == []
