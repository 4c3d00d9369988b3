"""The listen queue that overflows: what nginx sees, what ss(8) sees, and what our log says."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from harness import Nginx, Response, Server, wait_until


@pytest.mark.nginx
@pytest.mark.tool("ss")
def test_five_of_six_are_served_and_the_log_names_what_held_the_workers(folder: Path) -> None:
    """Backlog 2, two workers, 3-second requests, six clients 50 ms apart.

    Two run, three wait (listen(2) with n admits n + 1), one is refused with EAGAIN. ss shows the configured path
    with its queue and limit; the log says that the queue was full, for how long, and what the workers ran.
    """
    options = ("--workers", "2", "--backlog", "2")
    with Server("faulty", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        wait_until(lambda: len(server.workers()) == 2)
        answers: list[Response] = []
        clients = [threading.Thread(target=lambda: answers.append(nginx.fetch(path="/slow?s=3"))) for _ in range(6)]
        pace = threading.Event()
        for client in clients:
            client.start()
            pace.wait(0.05)
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
        # Full from the fifth client, 200 ms after the first, until the first answer, 3 s after it.
        assert 2.0 < ended["full_for"] <= 3.0
