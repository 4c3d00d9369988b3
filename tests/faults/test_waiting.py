"""Requests that wait for a worker: those that waited too long are refused, those that nobody awaits are dropped."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Nginx, Server, connect, encode_request, read_response, wait_until

# As the documentation has them.
STAMPS = {
    "fastcgi": 'fastcgi_param REQUEST_START "t=$msec";',
    "http": 'proxy_set_header X-Request-Start "t=${msec}";',
}


@contextmanager
def held(server: Server) -> Iterator[None]:
    """The one worker is busy until the end of this block."""
    fifo = server.folder / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, path=f"/hold?fifo={fifo}")
        with open(fifo, "wb"):  # opened when the worker reads from it
            yield
        assert answer.result().text == "held"


def logged(folder: Path) -> list[str]:
    """The statuses in the access log."""
    return [line.split('" ')[1].split()[0] for line in (folder / "access.log").read_text().splitlines()]


@pytest.mark.nginx
@pytest.mark.parametrize("protocol", list(STAMPS))
def test_a_request_that_waited_too_long(folder: Path, protocol: str) -> None:
    """503 and Retry-After through nginx, and the application never sees it; one that did not wait is run."""
    # So long that on a busy machine, too, nobody waits for it who has not to wait for a worker.
    options = ("--workers", "1", "--queue-timeout", "2s", "--access-log", str(folder / "access.log"))
    with (
        Server("faulty", *options, folder=folder) as server,
        Nginx(server.address, folder=folder, protocol=protocol, location=STAMPS[protocol]) as nginx,
        ThreadPoolExecutor(1) as pool,
    ):
        assert nginx.fetch(path="/hello").status == 200
        ran = folder / "ran"
        with held(server):
            late = pool.submit(nginx.fetch, path=f"/slow?s=0&began={ran}")
            server.wait_event("saturated")
            threading.Event().wait(2.1)
        answer = late.result()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        event = server.wait_event("queue_timeout", refused=1)
        assert 2.0 < event["waited"] < 30
        assert not ran.exists()
        assert nginx.fetch(path="/hello").status == 200
        wait_until(lambda: logged(folder) == ["200", "200", "503", "200"])


SKIPPING = [("--skip-abandoned", 0, "499"), ("--no-skip-abandoned", 3, "200")]


@pytest.mark.parametrize(("skip", "runs", "status"), SKIPPING)
def test_requests_whose_clients_left(folder: Path, skip: str, runs: int, status: str) -> None:
    """Dropped, as they were asked to be; who still waits is served, and who ended only its sending as well."""
    options = ("--workers", "1", skip, "--log-level", "debug", "--access-log", str(folder / "access.log"))
    with Server("faulty", *options, folder=folder) as server:
        with held(server):
            for number in range(3):
                with connect(server.address) as connection:
                    connection.sendall(encode_request(path=f"/slow?s=0&began={folder}/ran-{number}"))
            half, whole = connect(server.address), connect(server.address)
            half.sendall(encode_request(path="/hello"))
            half.shutdown(socket.SHUT_WR)
            whole.sendall(encode_request(path="/hello"))
            server.wait_event("saturated")
        with half, whole:
            assert [read_response(connection).text for connection in (half, whole)] == ["hello", "hello"]
        assert len(list(folder.glob("ran-*"))) == runs
        wait_until(lambda: len(server.find("request_abandoned")) == 3 - runs)
        wait_until(lambda: logged(folder) == ["200", *[status] * 3, "200", "200"])
