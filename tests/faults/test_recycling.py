"""Workers that have served enough, grown too large or lived long enough: replaced, the successor first."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import UNMEASURED, Load, Nginx, Server, fastcgi, wait_until

GROWING = """\
HELD = []
def application(environ, start_response):
    if environ["PATH_INFO"] == "/grow":
        HELD.append(b"x" * 200_000_000)
    start_response("200 OK", [])
    return [b"%d" % len(HELD)]
"""


@pytest.mark.nginx
@pytest.mark.timeout(200)
@pytest.mark.parametrize("pm", ["static", "dynamic"])
def test_a_number_of_requests(folder: Path, pm: str) -> None:
    """Under load: nothing lost, nobody waits, each worker serves about as many as it should, and not one less."""
    options = ("--pm", pm, "--max-children", "4", "--max-requests", "40", "--max-requests-jitter", "50%")
    with (
        Server("mixed", *options, folder=folder, env=UNMEASURED) as server,
        Nginx(server.address, folder=folder, keepalive=4) as nginx,
        Load(nginx.address, short=3, long=1, seconds=0.5) as load,
    ):
        server.wait_event("worker_recycled", count=8, timeout=120.0)
        load.stop()
        load.assert_well()
        assert {event["reason"] for event in server.find("worker_recycled")} == {"max_requests (40)"}
        assert nginx.errors() == []
        assert len(load.samples) >= 8 * 20
        assert server.find("worker_died") == []


def test_a_lifetime(folder: Path) -> None:
    """Also of one that nobody asks for anything; and there is always somebody to answer."""
    with Server("faulty", "--workers", "1", "--max-worker-lifetime", "1s", folder=folder) as server:
        seen = set(server.wait_workers(1))
        while len(server.find("worker_recycled")) < 3:
            assert server.ask(path="/slow?s=0").status == 200
            seen |= set(server.workers())
        assert len(seen) >= 3
        assert server.find("worker_recycled")[0]["reason"] == "max_worker_lifetime (1 s)"


def test_an_amount_of_memory(folder: Path) -> None:
    """One that keeps what it is given is replaced, and its memory with it: at twice the limit however young it is."""
    (folder / "growing.py").write_text(GROWING)
    with Server("growing", "--workers", "1", "--max-memory", "80M", folder=folder) as server:
        (worker,) = server.wait_workers(1)
        assert fastcgi(server.address, path="/grow").text == "1"
        reason = server.wait_event("worker_recycled", timeout=8.0)["reason"]
        assert reason.startswith("max_memory (83886080 bytes): 2")
        wait_until(lambda: worker not in server.workers())
        assert fastcgi(server.address).text == "0"
