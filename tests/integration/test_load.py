"""Many requests at once through the real nginx: each answered, each run once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import Nginx, Server

pytestmark = pytest.mark.nginx

WORKERS = ("--workers", "4")


@pytest.mark.parametrize("keepalive", [0, 8], ids=["fastcgi_pass", "fastcgi_keep_conn"])
def test_a_thousand_posts_at_a_hundred_at_once(folder: Path, keepalive: int) -> None:
    """1,000 POSTs, 100 at once, against 4 workers: all answered, each run exactly once, no worker lost.

    With fastcgi_keep_conn nginx offers to keep its connections, which is where a server that closes them loses POSTs.
    """
    with (
        Server("parts", *WORKERS, folder=folder, env={"PARTS_FOLDER": str(folder)}) as server,
        Nginx(server.address, folder=folder, keepalive=keepalive) as nginx,
        ThreadPoolExecutor(100) as clients,
    ):
        workers = server.wait_workers(4)
        body = b"x" * 1000
        numbers = range(1000)
        statuses = clients.map(lambda number: nginx.fetch("POST", f"/echo?{number}", body=body).status, numbers)
        assert Counter(statuses) == {200: 1000}
        assert sorted((folder / "echoed").read_text().split(), key=int) == [str(number) for number in numbers]
        assert nginx.errors() == []
        assert server.workers() == workers
        assert [event for event in server.events if event["level"] == "error"] == []
