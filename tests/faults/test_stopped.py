"""Processes that somebody stops: an idle one is noticed and replaced; a Ctrl-Z of everybody does no harm."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from harness import Crowd, Server, wait_until
from prefork.system.processes import FORCE_SIGNAL, LOOK_SIGNAL


def ask_hello(server: Server) -> str:
    return server.ask(path="/hello", timeout=30.0).text


def state(pid: int) -> str:
    """One letter, proc(5): T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("pm", ["static", "dynamic"])
def test_a_stopped_worker_is_replaced_and_leaves_when_it_goes_on(folder: Path, pm: str) -> None:
    """It looks idle and accepts nothing: another takes its place, no request waits for it, and it leaves in order."""
    with Server("faulty", "--pm", pm, "--max-children", "2", folder=folder) as server:
        first, second = server.wait_workers(2)
        with Crowd(lambda _: ask_hello(server), clients=2) as crowd:
            crowd.wait(10)
            os.kill(first, signal.SIGSTOP)
            stopped = server.wait_event("worker_stopped")
            assert stopped["pid"] == first
            assert "stopped for" in server.wait_event("worker_recycled", pid=first)["reason"]
            wait_until(lambda: len({*server.workers()} - {first, second}) == 1)
            crowd.wait(10)
            os.kill(first, signal.SIGCONT)
            wait_until(lambda: first not in server.titles())
            crowd.wait(10)
        assert crowd.lost == []
        assert server.find("worker_died") == []


def test_a_request_in_a_stopped_worker_is_answered_when_it_goes_on(folder: Path) -> None:
    """It was replaced, and has graceful_timeout to end what it has in hand."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    with Server("faulty", "--workers", "1", folder=folder) as server:
        (worker,) = server.wait_workers(1)
        answers: list[str] = []
        client = threading.Thread(target=lambda: answers.append(server.ask(path=f"/hold?fifo={fifo}").text))
        client.start()
        writer = os.open(fifo, os.O_WRONLY)  # returns when the worker reads
        os.kill(worker, signal.SIGSTOP)
        server.wait_event("worker_recycled", pid=worker)
        assert ask_hello(server) == "hello"
        os.kill(worker, signal.SIGCONT)
        server.wait_event("worker_continued", pid=worker)
        os.close(writer)
        client.join()
        assert answers == ["held"]
        wait_until(lambda: worker not in server.titles())
        assert server.find("worker_died") == []


def test_a_worker_that_stays_stopped_is_killed(folder: Path) -> None:
    """After graceful_timeout, with that reason."""
    with Server("faulty", "--workers", "2", "--graceful-timeout", "300ms", folder=folder) as server:
        first, _ = server.wait_workers(2)
        os.kill(first, signal.SIGSTOP)
        died = server.wait_event("worker_died")
        assert (died["pid"], died["cause"]) == (
            first,
            "killed by SIGKILL: graceful_timeout (0.3 s) while stopped (SIGSTOP)",
        )
        assert ask_hello(server) == "hello"


def test_a_worker_that_is_stopped_before_it_is_ready_is_killed(folder: Path) -> None:
    """It holds nothing, and what it is waited for would wait for boot_timeout: another takes its place at once."""
    (folder / "halting.py").write_text(
        "import os, pathlib, signal, time, prefork\n"
        "from prefork.demo import application\n"
        "@prefork.on_worker_start\n"
        "def halt(worker):\n"
        "    if worker.slot == 1 and not os.path.exists('halted'):\n"
        "        pathlib.Path('halted').touch()\n"
        "        while not os.path.exists('app.sock'):  # it serves, by the other worker\n"
        "            time.sleep(0.01)\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    with Server("halting", "--workers", "2", folder=folder) as server:
        died = server.wait_event("worker_died")
        assert (died["slot"], died["cause"]) == (1, "killed by SIGKILL: stopped by somebody (SIGSTOP)")
        assert died["pid"] not in server.wait_workers(2)
        assert server.find("worker_stopped") == []
        assert server.ask().status == 200


def test_a_stopped_zygote_is_replaced(folder: Path) -> None:
    """It holds nothing and forks nobody: it is killed, the next generation forks."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        workers = server.wait_workers(2)
        zygote = next(pid for pid, title in server.titles().items() if title.startswith("prefork: zygote"))
        os.kill(zygote, signal.SIGSTOP)
        assert server.wait_event("zygote_died")["cause"] == "killed by SIGKILL: stopped by somebody (SIGSTOP)"
        server.wait_event("zygote_ready", generation=2)
        assert sorted(server.workers()) == sorted(workers)
        assert ask_hello(server) == "hello"


def test_ctrl_z_and_fg(folder: Path) -> None:
    """A stop of the whole process group, for longer than any patience: all go on as if nothing had been."""
    with Server("faulty", "--workers", "3", folder=folder) as server:
        workers = server.wait_workers(3)
        assert ask_hello(server) == "hello"
        family = [server.pid, *server.titles()]
        os.killpg(server.pid, signal.SIGSTOP)
        wait_until(lambda: {state(pid) for pid in family} == {"T"})
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() > begun + 2.5)  # longer than a stop of one worker may last
        os.killpg(server.pid, signal.SIGCONT)
        for _ in range(10):
            assert ask_hello(server) == "hello"
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() > begun + 1.5)  # as long as it would take to do harm
        assert sorted(server.workers()) == sorted(workers)
        assert [event for event in server.events if event["event"].startswith(("worker_", "zygote_died"))] == []


def test_signals_that_wait_for_a_stopped_worker(folder: Path) -> None:
    """A terminal, a service manager and the master may all have spoken meanwhile: it hears them at once and lives."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    with Server("faulty", "--workers", "1", folder=folder) as server:
        (worker,) = server.wait_workers(1)
        assert ask_hello(server) == "hello"
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: state(worker) == "T")
        for number in [*numbers, LOOK_SIGNAL, FORCE_SIGNAL]:
            os.kill(worker, number)
        os.kill(worker, signal.SIGCONT)
        assert ask_hello(server) == "hello"
        assert server.stop() == 0
        assert server.find("worker_died") == []
