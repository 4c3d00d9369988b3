"""The status pages of a real server: quick when nothing else is, honest when something is wrong, read-only always."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from harness import Nginx, Server, control, fetch, replace, wait_until
from harness.clients import connect, encode_request


@contextmanager
def watched(folder: Path, *options: str, app: str = "faulty") -> Iterator[tuple[Server, str]]:
    """A server, and the path of its status pages."""
    pages = str(folder / "status.sock")
    with Server(app, "--status-listen", pages, *options, folder=folder) as server:
        server.wait_event("serving", count=2)
        yield server, pages
    assert not os.path.exists(pages)


def status(pages: str, query: str = "json&full") -> dict[str, Any]:
    answer = fetch(pages, path=f"/status?{query}")
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    return found


def end(server: Server) -> None:
    """Stop it without waiting for its requests."""
    server.send(signal.SIGINT)
    server.wait_event("stopping")
    server.send(signal.SIGINT)
    server.wait_exit()


def _connected(server: Server) -> socket.socket | None:
    try:
        return connect(server.address)
    except BlockingIOError:
        return None


@contextmanager
def occupied(server: Server, count: int, path: str) -> Iterator[None]:
    """So many requests, running or waiting; dropped at the end."""
    clients = []
    try:
        for _ in range(count):
            # A queue that has no room yet: whoever is to be busy has not accepted.
            client = wait_until(lambda: _connected(server), what="room in the queue")
            client.sendall(encode_request("GET", path))
            clients.append(client)
        yield
    finally:
        for client in clients:
            client.close()


def test_it_answers_at_once_while_every_worker_is_busy_and_the_queue_is_full(folder: Path) -> None:
    """Within 50 ms, over and over, with what is so: who runs what, and how many wait."""
    with watched(folder, "--workers", "2", "--backlog", "3") as (server, pages):
        server.wait_workers(4)  # two, and the two that show them
        with occupied(server, 6, "/slow?s=20"):
            wait_until(lambda: status(pages)["listen queue"] == 4, what="a full queue in the status")
            took = []
            for _ in range(20):
                began = time.monotonic()
                found = status(pages)
                took.append(time.monotonic() - began)
            assert min(took) < 0.05
            assert (found["active processes"], found["idle processes"], found["listen queue len"]) == (2, 0, 3)
            assert {process["request uri"] for process in found["processes"]} == {"/slow?s=20"}
            assert {process["state"] for process in found["processes"]} == {"Running"}
            assert wait_until(lambda: status(pages)["queue full episodes"])
            families = text_string_to_metric_families(fetch(pages, path="/metrics").text)  # type: ignore[no-untyped-call]
            waiting = {family.name: family.samples[0].value for family in families if family.samples}
            assert waiting["prefork_listen_queue"] == waiting["phpfpm_listen_queue"] == 4
            end(server)


def test_it_is_to_be_read_only(folder: Path) -> None:
    """No request to it changes anything, and it shows the pools of the operator alone."""
    with watched(folder, "--workers", "1") as (server, pages):
        assert fetch(pages, "POST", "/status", body=b"x").status == 405
        assert fetch(pages, path="/nothing").status == 404
        assert [status(pages)["pool"]] == ["www"]
        assert server.running


def test_what_happened_is_shown(folder: Path) -> None:
    """A worker's death with its cause and request, and a slow request with the line where it stood."""
    with watched(folder, "--workers", "2", "--request-slowlog-timeout", "100ms") as (server, pages):
        with connect(server.address) as client:
            client.sendall(encode_request("GET", "/die"))
            assert client.recv(1) == b""
        uri = f"/hold?fifo={folder}/fifo"
        os.mkfifo(folder / "fifo")
        with connect(server.address) as client:
            client.sendall(encode_request("GET", uri))
            with open(folder / "fifo", "wb"):  # opened when the worker reads from it
                wait_until(lambda: json.loads(fetch(pages, path="/recent").body)["slow"], what="a slow request")
        wait_until(lambda: status(pages)["slow requests"] and status(pages)["deaths"], what="both in the status")
        assert status(pages)["deaths"] == {"killed by SIGKILL": 1}
        recent = json.loads(fetch(pages, path="/recent").body)
        assert [(death["pool"], death["request"]) for death in recent["deaths"]] == [("www", "GET /die")]
        (slow,) = recent["slow"]
        assert (slow["method"], slow["uri"]) == ("GET", uri)
        assert "faulty.py" in slow["stack"]
        assert " hold" in slow["stack"]


def test_health_is_that_of_the_clients(folder: Path) -> None:
    """503 with the reason while the path is somebody else's, 200 again when it is ours."""
    with watched(folder, "--workers", "1") as (server, pages):
        assert fetch(pages, path="/healthz").text == "ok\n"
        assert server.path is not None
        replace(server.path, "somebody else's")
        wait_until(lambda: fetch(pages, path="/healthz").status == 503, what="a bad health")
        assert f"pool www: {server.path} does not lead to the socket" in fetch(pages, path="/healthz").text
        server.path.unlink()
        wait_until(lambda: fetch(pages, path="/healthz").status == 200, what="a good health")


def test_a_stopped_master_is_no_healthy_one(folder: Path) -> None:
    """The pages are served without it; what they show is old, and they say so."""
    with watched(folder, "--workers", "1") as (server, pages):
        wait_until(lambda: fetch(pages, path="/healthz").status == 200, what="a master that has said it serves")
        server.send(signal.SIGSTOP)
        try:
            answer = wait_until(lambda: (found := fetch(pages, path="/healthz")).status == 503 and found)
            assert "the master has said nothing for" in answer.text
            assert status(pages)["pool"] == "www"
        finally:
            server.send(signal.SIGCONT)
        wait_until(lambda: fetch(pages, path="/healthz").status == 200, what="a good health")


def shows_itself(nginx: Nginx) -> bool:
    """Whether a pool's own status is so fresh that it shows who asks for it: a master that is busy keeps nobody."""
    found = json.loads(nginx.fetch(path="/-/status?json&full").body)
    assert (found["pool"], found["total processes"]) == ("www", 2)
    running = [one for one in found["processes"] if one["state"] == "Running"]
    asked = [(one["request uri"], is_nginx(one["peer"])) for one in running]
    return asked == [("/-/status?json&full", True)]


def is_nginx(peer: list[int] | None) -> bool:
    """Whether this is a process of nginx that lives: a status that is old may show one before it, or none yet."""
    try:
        return peer is not None and Path(f"/proc/{peer[0]}/cmdline").read_text().startswith("nginx: worker")
    except FileNotFoundError:
        return False


@pytest.mark.nginx
def test_a_pool_shows_itself_at_paths_of_its_own(folder: Path) -> None:
    """As php-fpm's pm.status_path and ping.path: before the application, through nginx, by FastCGI and HTTP."""
    options = ("--status-path", "/-/status", "--ping-path", "/-/ping", "--ping-response", "here I am")
    with Server("faulty", *options, "--workers", "2", folder=folder) as server:
        for protocol in ("fastcgi", "http"):
            with Nginx(server.address, folder=folder, protocol=protocol) as nginx:
                assert nginx.fetch(path="/-/ping").text == "here I am"
                wait_until(lambda: shows_itself(nginx), what="a status that shows the request it answers")
                assert nginx.fetch(path="/-/status").text.startswith("pool:                 www\n")
                assert nginx.fetch(path="/whoami").status == 200


def test_who_connected_is_known_of_a_worker_whose_stack_was_looked_at(folder: Path) -> None:
    """Nobody looked when its request began; what begins later says it by itself."""
    with (
        Server("faulty", "--workers", "2", "--control-socket", "control.sock", folder=folder) as server,
        occupied(server, 1, "/slow?s=20"),
    ):
        busy = wait_until(lambda: [one for one in processes(folder) if one["state"] == "Running"])[0]
        assert busy["peer"] is None
        control(folder, "--control", "control.sock", "stacks", str(busy["pid"]))
        with occupied(server, 1, "/slow?s=20"):
            expected = [[os.getpid(), os.geteuid(), os.getegid()]] * 2
            wait_until(lambda: [one["peer"] for one in processes(folder)] == expected, what="both of them")
        end(server)


def processes(folder: Path) -> list[dict[str, Any]]:
    """As preforkctl sees them."""
    done = control(folder, "--control", "control.sock", "status", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["pools"][0]["processes"]
    return found


def test_who_connects_and_says_nothing_holds_nobody_up(folder: Path) -> None:
    """A browser connects in advance, a scanner to see what is there: more of them than workers show the pages."""
    with Server("faulty", "--status-listen", "127.0.0.1:0", folder=folder) as server, ExitStack() as stack:
        server.wait_event("serving", count=2)
        silent = [stack.enter_context(socket.create_connection(server.port)) for _ in range(6)]
        began = time.monotonic()
        assert fetch(server.port, path="/healthz").status == 200
        assert time.monotonic() - began < 4.0  # header_timeout of that pool: 5 s
        silent[0].sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert silent[0].makefile("rb").read().endswith(b"pong")


def test_many_workers(folder: Path) -> None:
    """The page of two hundred workers is quick, too."""
    with watched(folder, "--workers", "200", app="prefork.demo") as (_, pages):
        wait_until(lambda: status(pages)["total processes"] == 200, 60.0, "200 workers")
        took = []
        for _ in range(10):
            began = time.monotonic()
            assert len(status(pages)["processes"]) == 200
            took.append(time.monotonic() - began)
        assert min(took) < 0.05


_DOM_TIME = "8000"  # milliseconds of the page's own time


def page_of(url: str, folder: Path) -> str:
    """What the page has become in a browser, after its scripts have run for a while."""
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={folder}/chromium", f"--virtual-time-budget={_DOM_TIME}", "--dump-dom", url),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.tool("chromium")
@pytest.mark.once
@pytest.mark.timeout(200)
def test_the_live_page_in_a_browser(folder: Path) -> None:
    """It draws workers and queue from what the server says, under its own strict policy, and loads nothing else."""
    options = ("--status-listen", "127.0.0.1:0", "--workers", "3", "--backlog", "2")
    with Server("faulty", *options, folder=folder) as server:
        server.wait_event("serving", count=2)
        with occupied(server, 6, "/slow?s=300&<b>"):
            wait_until(lambda: fetch(server.port, path="/status").text.count("listen queue:         3"))
            page = page_of("http://{}:{}/".format(*server.port), folder)
            assert "queue full: 3 wait, newcomers are refused" in page
            assert page.count('role="gridcell"') == 3
            assert "/slow?s=300&amp;&lt;b&gt;" in page
            assert (
                "<b>" not in page.partition("<main>")[2].partition("Running longest now")[2].partition("</section>")[0]
            )
            assert 'class="limit"' in page
            saturation = page.partition('<section id="saturation"')[2].partition("</section>")[0]
            assert saturation.startswith(' class="lasts"')
            assert "faulty.py:" in saturation  # the culprit
            assert page.index('id="saturation"') < page.index(
                'id="grid"'
            )  # at a glance, however many workers there are
            end(server)
