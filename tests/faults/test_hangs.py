"""Requests that hang: seen, stopped, ended, by the real server behind the real nginx."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import UNMEASURED, Nginx, Server, connect, encode_request, read_response, wait_until

pytestmark = [pytest.mark.nginx]

APPLICATION = Path(__file__).parents[1] / "apps" / "hanging.py"


def line_of(function: str) -> int:
    """The number of the line in which a function of the application hangs."""
    lines = APPLICATION.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# hangs: {function}")]
    return number


@pytest.mark.parametrize("function", ["sleep", "loop", "lock", "receive", "body"])
def test_a_hang_in_python_is_a_504(folder: Path, function: str) -> None:
    """The traceback names the line it hung in; the worker answers, leaves, and is replaced."""
    with (
        Server("hanging", "--workers", "1", "--request-timeout", "0.3s", folder=folder) as server,
        Nginx(server.address, folder=folder, location="fastcgi_request_buffering off;") as nginx,
    ):
        (worker,) = server.wait_workers(1)
        began = time.monotonic()
        if function == "body":
            assert _ask_with_half_a_body(nginx) == 504
        else:
            response = nginx.fetch(path=f"/{function}")
            assert (response.status, response.body) == (504, b"504 Gateway Timeout\n")
        event = server.wait_event("request_timeout")
        assert (event["uri"], event["request_timeout"], event["caught"]) == (f"/{function}", 0.3, False)
        assert 0.3 <= event["elapsed"] <= time.monotonic() - began
        last = [line for line in event["traceback"].splitlines() if str(APPLICATION) in line][-1]
        number = line_of(function)
        assert last in {f'  File "{APPLICATION}", line {each}, in {function}' for each in (number - 1, number)}
        assert wait_until(lambda: worker not in server.workers() and server.workers())
        assert nginx.fetch(path="/").body == b"hello"
        assert not server.find("worker_died")
        assert not server.find("request_slow")


def _ask_with_half_a_body(nginx: Nginx) -> int:
    """The status that a client gets who never sends all of its body."""
    with connect(nginx.address) as client:
        client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status


def test_a_response_that_hangs_in_its_midst_is_broken_off(folder: Path) -> None:
    """The client must not take it for whole."""
    with (
        Server("hanging", "--workers", "1", "--request-timeout", "0.3s", folder=folder) as server,
        Nginx(server.address, folder=folder, location="fastcgi_buffering off;") as nginx,
    ):
        with nginx.open(path="/stream") as response:
            assert response.status == 200
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        server.wait_event("request_timeout")


def test_a_hang_in_c_is_ended_and_its_stack_is_known(folder: Path) -> None:
    """File, line and function in the log, the reason with the death, a new worker at once; nginx answers 502."""
    options = ("--workers", "1", "--request-timeout", "0.2s", "--request-terminate-timeout", "1s")
    with (
        Server("hanging", *options, folder=folder, env=UNMEASURED) as server,
        Nginx(server.address, folder=folder) as nginx,
    ):
        began = time.monotonic()
        assert nginx.fetch(path="/in_c").status == 502
        waited = time.monotonic() - began
        assert 1.0 <= waited < 10
        ended = server.wait_event("request_terminated")
        (line, *_) = ended["stack"].splitlines()
        assert line == f"→ {APPLICATION}:{line_of('in_c')} in_c"
        assert (ended["forced"], ended["method"], ended["uri"]) == (True, "GET", "/in_c")
        assert 1.0 <= ended["elapsed"] <= waited
        died = server.wait_event("worker_died")
        assert died["cause"] == "killed by SIGKILL: request_terminate_timeout (1 s)"
        assert died["request"] == "GET /in_c"
        assert nginx.fetch(path="/").body == b"hello"


def test_an_application_that_will_not_stop_is_ended(folder: Path) -> None:
    """It was told, caught that, and went on."""
    options = ("--workers", "1", "--request-timeout", "0.2s", "--request-terminate-timeout", "1.5s")
    with (
        Server("hanging", *options, folder=folder, env=UNMEASURED) as server,
        Nginx(server.address, folder=folder) as nginx,
    ):
        assert nginx.fetch(path="/stubborn").status == 502
        ended = server.wait_event("request_terminated")
        assert "stubborn" in ended["stack"]
        assert "forced" not in ended
        assert nginx.fetch(path="/").body == b"hello"


def test_a_slow_request_is_reported_and_not_disturbed(folder: Path) -> None:
    """Once, with its stack, into a file of its own, which is opened anew like the other logs."""
    slowlog, path = folder / "slow.log", f"/held?fifo={folder}/fifo"
    os.mkfifo(folder / "fifo")
    options = ("--workers", "2", "--request-slowlog-timeout", "0.2s", "--slowlog", str(slowlog))
    took: list[float] = []
    with Server("hanging", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:

        def ask_until_told() -> None:
            with ThreadPoolExecutor(1) as client:
                began = time.monotonic()
                answer = client.submit(nginx.fetch, path=path)
                with open(folder / "fifo", "wb"):  # opened when the worker reads from it
                    wait_until(lambda: path in slowlog.read_text(), what="a slow request in the log")
                assert answer.result().status == 200
                took.append(time.monotonic() - began)

        ask_until_told()
        slowlog.rename(folder / "slow.log.1")
        server.send(signal.SIGUSR1)
        server.wait_event("logs_reopened", logs=[str(slowlog)])
        ask_until_told()
        assert takes_no_time(nginx, "/for?seconds=0", 0.2) not in slowlog.read_text()
        assert not server.find("request_slow")
        assert not server.find("request_timeout")
    (first,) = events_of(folder / "slow.log.1", path)
    (second,) = events_of(slowlog, path)
    for event, longest in zip((first, second), took, strict=True):
        assert (event["event"], event["uri"], event["pool"]) == ("request_slow", path, "www")
        number = line_of("held")
        assert event["stack"].splitlines()[0] in {f"→ {APPLICATION}:{each} held" for each in (number - 1, number)}
        assert 0.2 <= event["elapsed"] <= longest
        assert event["request_id"]


def events_of(log: Path, uri: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, log.read_text().splitlines()) if event["uri"] == uri]


def takes_no_time(nginx: Nginx, path: str, limit: float) -> str:
    """Ask for something that takes no time, until it took less than that many seconds; what was asked for then."""
    uris = (f"{path}&try={number}" for number in itertools.count())

    def quick(uri: str) -> bool:
        began = time.monotonic()
        assert nginx.fetch(path=uri).status == 200
        return time.monotonic() - began < limit

    return str(wait_until(lambda: quick(uri := next(uris)) and uri, what=f"an answer within {limit} s"))


def test_by_default_slow_requests_are_reported_and_nothing_is_stopped(folder: Path) -> None:
    """After ten seconds, in the error log."""
    with Server("hanging", "--workers", "1", folder=folder, env=UNMEASURED) as server:
        with connect(server.address) as client:
            client.sendall(encode_request(path="/sleep", params={"PATH_INFO": "/sleep"}))
            began = time.monotonic()
            assert server.wait_event("request_slow")["uri"] == "/sleep"
            assert time.monotonic() - began > 9
        server.send(signal.SIGINT)
        server.wait_event("stopping")
        server.send(signal.SIGINT)
        assert server.wait_exit() == 0


def test_requests_that_end_in_time_are_never_hit(folder: Path) -> None:
    """Many that last nearly as long as they may, and many short ones after them in the same workers."""
    options = ("--workers", "8", "--request-timeout", "0.5s", "--request-terminate-timeout", "1.5s")
    with Server("hanging", *options, folder=folder, env=UNMEASURED) as server:

        def ask(number: int) -> tuple[int, bool]:
            seconds, began = 0.3 if number % 2 else 0.0, time.monotonic()
            status = server.ask(path=f"/for?seconds={seconds}", params={"PATH_INFO": "/for"}).status
            return status, time.monotonic() - began < 0.5

        with ThreadPoolExecutor(8) as clients:
            found = Counter(clients.map(ask, range(120)))
        assert {status for status, in_time in found if in_time} == {200}
        assert {status for status, _ in found} <= {200, 504}
        # What a busy machine makes too long is none that ends in time.
        assert len(server.find("request_timeout")) <= found[200, False] + found[504, False]
        names = {event["event"] for event in server.events}
        assert not names & {"request_terminated", "worker_died"}


def test_one_limit_hits_one_request(folder: Path) -> None:
    """The next one in the same slot, and those beside it, are served."""
    options = ("--workers", "2", "--request-timeout", "0.3s")
    with Server("hanging", *options, folder=folder) as server, Nginx(server.address, folder=folder) as nginx:
        statuses: list[int] = []
        served = 0

        def hang() -> None:
            while len(statuses) < 5 or served <= 5:
                statuses.append(nginx.fetch(path="/sleep").status)

        hanging = threading.Thread(target=hang)
        hanging.start()
        while hanging.is_alive():
            began = time.monotonic()
            good = nginx.fetch(path="/for?seconds=0.05").status == 200
            served += good
            assert good or time.monotonic() - began >= 0.3  # on a busy machine one of these may last so long, too
        hanging.join()
        assert set(statuses) == {504}
        assert len(server.find("request_timeout", uri="/sleep")) == len(statuses)
        assert nginx.errors() == []


def test_more_time_for_one_request(folder: Path) -> None:
    """prefork.extend_deadline moves every limit of the request that asks for it."""
    limits = ("--request-slowlog-timeout", "0.5s", "--request-timeout", "0.6s", "--request-terminate-timeout", "2.5s")
    with Server("hanging", "--workers", "1", *limits, folder=folder, env=UNMEASURED) as server:

        def ask(path: str) -> int:
            return server.ask(path=path, params={"PATH_INFO": "/for"}).status

        assert ask("/for?seconds=3&more=30") == 200
        assert not server.find("request_slow")
        assert ask("/for?seconds=30&more=0.1") == 504
        assert server.wait_event("request_timeout")["elapsed"] >= 0.7


def test_hundreds_that_are_slow_at_once_do_not_flood_the_log(folder: Path) -> None:
    """Ten stacks a second; the rest is a number."""
    count = 30
    options = ("--workers", str(count), "--request-slowlog-timeout", "2s")
    with Server("hanging", *options, folder=folder, env=UNMEASURED) as server:
        server.wait_workers(count)
        clients = [connect(server.address) for _ in range(count)]
        for client in clients:
            client.sendall(encode_request(path="/for?seconds=5", params={"PATH_INFO": "/for"}))
        unseen = server.wait_event("requests_slow")
        shown = server.find("request_slow")
        assert 10 <= len(shown) < count
        assert unseen["count"] <= count - 10
        assert all(event["stack"] for event in shown)
        assert {read_response(client).status for client in clients} == {200}
        total = sum(event["count"] for event in server.find("requests_slow")) + len(server.find("request_slow"))
        assert total == count
        for client in clients:
            client.close()
