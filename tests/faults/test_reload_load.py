"""Reloads while a site is used: nothing lost, nothing answered by old code, nobody waits for anybody.

``PREFORK_TEST_RELOADS=200 PREFORK_TEST_RELOADS_LONG=5`` makes it as many, and the long requests so many seconds long; a
run of the suite is content with less.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final, Self

import pytest

from harness import UNMEASURED, Load, Nginx, Server, children, control, fetch, run, wait_until

pytestmark = [pytest.mark.nginx, pytest.mark.slow]

RELOADS: Final = int(os.environ.get("PREFORK_TEST_RELOADS", "20"))
LONG: Final = float(os.environ.get("PREFORK_TEST_RELOADS_LONG", "1"))
WORKERS: Final = 8
SURGE: Final = 8


class Count:
    """The greatest number of processes of a server at any moment, looked at all the time."""

    def __init__(self, server: Server) -> None:
        self.most = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.is_set():
            titles = self._server.titles().values()
            self.most = max(self.most, sum(title.startswith("prefork: worker") for title in titles))
            self._over.wait(0.02)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.timeout(60 + RELOADS * 5)
@pytest.mark.parametrize(("pm", "reloads"), [("dynamic", RELOADS), ("static", RELOADS // 4)])
def test_reloads_under_load(folder: Path, pm: str, reloads: int) -> None:
    """Each changes the answer, under a mixed load through nginx with its connections kept."""
    release = folder / "release"
    release.write_text("0")
    # For every nginx that runs on this machine, of other tests, too: it would be warned of one that may not connect.
    options = ("--pm", pm, "--max-children", str(WORKERS), "--reload-surge", str(SURGE), "--socket-mode", "0666")
    with (
        Server("mixed", *options, "--control-socket", "c.sock", folder=folder, env=UNMEASURED) as server,
        Nginx(server.address, folder=folder, keepalive=8) as nginx,
        Count(server) as count,
        Load(nginx.address, short=4, long=2, seconds=LONG) as load,
    ):
        load.wait(50)
        done = []
        for number in range(1, reloads + 1):
            release.write_text(str(number))
            before = fetch(nginx.address).headers["X-Release"]
            assert before == str(number - 1)
            control(folder, "--control", "c.sock", "reload")
            done.append((time.monotonic(), str(number)))
            assert fetch(nginx.address).headers["X-Release"] == str(number)
        load.wait(20)
        load.stop()
        load.assert_well()
        for (since, name), (until, _) in zip(done, [*done[1:], (time.monotonic(), "")], strict=True):
            later = {sample.release for sample in load.samples if since < sample.began < until} - {""}
            assert {int(other) for other in later} <= {int(name), int(name) + 1}
        assert count.most <= WORKERS + SURGE
        assert len(server.find("reloaded")) == reloads
        assert nginx.errors() == []
        quiet = {"running_as_root", "socket_warning"}
        assert [
            event for event in server.events if event["level"] in ("warning", "error") and event["event"] not in quiet
        ] == []
    assert children(os.getpid()) == []


def kill_anybody(server: Server, over: threading.Event, longest: float) -> None:
    """Workers and zygotes, of whatever generation, at random moments until it is over; so many seconds apart."""
    chance = random.Random(7)
    while not over.wait(chance.uniform(0.05, longest)):
        titles = server.titles()
        zygotes = [pid for pid, title in titles.items() if title.startswith("prefork: zygote")]
        for pid in chance.sample(chance.choice((zygotes, list(titles))) or [0], 1):
            try:
                os.kill(pid or server.workers()[0], signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                continue  # it has ended meanwhile


def test_reloads_while_anybody_is_killed(folder: Path) -> None:
    """Some of them fail, and say so; those that do not, are done. Afterwards everything is as it should be."""
    release = folder / "release"
    release.write_text("0")
    order = [sys.executable, "-c", "import sys; from prefork.cli.control import main; sys.exit(main())"]
    began = time.monotonic()
    with (
        Server("mixed", "--max-children", "6", "--control-socket", "c.sock", folder=folder, env=UNMEASURED) as server,
        Nginx(server.address, folder=folder, keepalive=4) as nginx,
        Load(nginx.address, short=2, long=1, seconds=0.5) as load,
    ):
        over = threading.Event()
        started = time.monotonic() - began  # who starts more slowly is killed less often: some shall get through
        killer = threading.Thread(target=kill_anybody, args=(server, over, max(0.4, started / 2)))
        killer.start()
        for number in range(1, 9):
            release.write_text(str(number))
            done = run(*order, "--control", "c.sock", "reload", folder=folder)
            since = time.monotonic()
            if done.returncode == 0:
                load.wait(8)
                assert load.stale(since, str(number)) == []
            else:
                assert "killed by SIGKILL" in done.stderr or "ended before it could be heard" in done.stderr
        over.set()
        killer.join()
        release.write_text("last")
        control(folder, "--control", "c.sock", "reload")
        assert fetch(nginx.address).headers["X-Release"] == "last"
        load.stop()
        assert load.wrong == []
        assert len(load.lost) <= len(server.find("worker_died"))
        wait_until(lambda: sum(title.startswith("prefork: zygote") for title in server.titles().values()) == 1)
