"""The listen queue that overflows: what nginx sees, what ss(8) sees, and what our log says."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from faults.test_stop import queue_length
from harness import Nginx, Response, Server, wait_until


@pytest.mark.nginx
@pytest.mark.tool("ss")
def test_five_of_six_are_served_and_the_log_names_what_held_the_workers(folder: Path) -> None:
    """Backlog 2, two workers, 3-second requests, six clients 50 ms apart, each of them when the one before has come.

    Two run, three wait (listen(2) with n admits n + 1), one is refused with EAGAIN. ss shows the configured path
    with its queue and limit; the log says that the queue was full, for how long, and what the workers ran.
    """
    options = ("--workers", "2", "--backlog", "2")
    with Server("faulty", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        server.wait_workers(2)
        answers: list[Response] = []
        ends: list[float] = []

        def visit(number: int) -> None:
            answer = nginx.fetch(path=f"/slow?s=3&began={folder}/{number}")
            if answer.status == 200:
                ends.append(time.monotonic())
            answers.append(answer)

        def has_come(number: int) -> bool:
            return (folder / str(number)).exists() if number < 2 else queue_length(server.address) == number - 1

        clients = [threading.Thread(target=visit, args=(number,)) for number in range(6)]
        pace, moments = threading.Event(), []
        for number, client in enumerate(clients):
            moments.append(time.monotonic())
            client.start()
            pace.wait(0.05)
            wait_until(lambda number=number: number == 5 or has_come(number))  # type: ignore[misc]
        full = server.wait_event("queue_full")
        shown = subprocess.run(["ss", "-xl"], capture_output=True, text=True, check=True).stdout
        (line,) = [line.split() for line in shown.splitlines() if server.address in line.split()]
        for client in clients:
            client.join()
        ended = server.wait_event("queue_full_ended")

        assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 200, 502]
        assert [line for line in nginx.errors() if "(11: Resource temporarily unavailable)" in line]
        assert line[1:5] == ["LISTEN", "3", "2", server.address]
        assert {name: full[name] for name in ("pool", "waiting", "limit", "busy", "workers")} == {
            "pool": "www",
            "waiting": 3,
            "limit": 2,
            "busy": 2,
            "workers": 2,
        }
        assert [group.split(",")[0] for group in full["running"]] == ["2 × GET /slow"]
        assert (ended["peak"], ended["limit"]) == (3, 2)
        # Full from the fifth client until who has answered first takes the next one, a moment later.
        assert min(ends) - moments[5] - 0.8 < ended["full_for"] <= min(ends) - moments[4] + 0.5
