"""Saturation with the real server: whatever holds the workers, the first group names the application's line."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Nginx, Server, connect, control, encode_request, fetch, read_response, wait_until
from prefork.cli.orders import find_door, give
from prefork.policy.saturation import LASTS

_DATABASE = """
import fcntl
import functools
import itertools
import os

import orm


def traced(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper


def wait_for_lock(name):
    with open(name) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # the lock


@traced
@traced
def fetch_user(name):
    return [orm.User.get(name) for _ in "x"]  # the database


def add_up(name):
    return all(map(os.access, itertools.repeat(name + ".held"), itertools.repeat(os.F_OK)))  # the loop


def crunch(name):
    total = 0
    while not is_free(name):  # the code
        total += sum(range(1_000))
    return total


def is_free(name):
    with open(name) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


class Reports:
    def monthly(self):
        import heavy  # the import
        return heavy

    def yearly(self):
        from shop import archive  # the other import
        return archive
"""

_APPLICATION = """
from shop import db

def application(environ, start_response):
    work, _, name = environ["PATH_INFO"][1:].partition("/")
    if work == "lock":
        db.wait_for_lock(environ["QUERY_STRING"])
    elif work == "orm":
        db.fetch_user(environ["QUERY_STRING"])
    elif work == "loop":
        db.add_up(environ["QUERY_STRING"])
    elif work == "crunch":
        db.crunch(environ["QUERY_STRING"])
    elif work == "import":
        getattr(db.Reports(), name)()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"fine"]
"""

_ORM = """
import fcntl

class User:
    @classmethod
    def get(cls, name):
        with open(name) as file:
            cls._wait(file)

    @staticmethod
    def _wait(file):
        fcntl.flock(file, fcntl.LOCK_SH)
"""

_HEAVY = """
import fcntl

with open("lock") as file:
    fcntl.flock(file, fcntl.LOCK_SH)
"""


@pytest.fixture
def site(folder: Path) -> Path:
    """An application with a library, and a lock that the test holds when it likes."""
    packages = folder / "lib" / "site-packages"
    (folder / "shop").mkdir()
    (packages / "orm").mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "db.py").write_text(_DATABASE)
    (folder / "shop" / "wsgi.py").write_text(_APPLICATION)
    (folder / "shop" / "archive.py").write_text(_HEAVY)
    (packages / "orm" / "__init__.py").write_text(_ORM)
    (packages / "heavy.py").write_text(_HEAVY)
    (folder / "lock").touch()
    return folder


def serving(site: Path, workers: int, *options: str, pm: str = "static") -> Server:
    words = ("--pm", pm, "--max-children", str(workers), "--pythonpath", "lib/site-packages", *options)
    return Server("shop.wsgi:application", *words, folder=site)


@contextmanager
def held(server: Server, workers: int, paths: Sequence[str]) -> Iterator[None]:
    """So many requests, of which as many as there are workers run before the others come.

    Those that want the lock, or loop while it is held, run until the end of this block. All are answered.
    """
    lock = server.folder / "lock"
    with open(lock) as file, ExitStack() as stack:
        fcntl.flock(file, fcntl.LOCK_EX)
        stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        (server.folder / "lock.held").touch()
        stack.callback((server.folder / "lock.held").unlink)
        clients = [ask(server, f"{path}?{lock}") for path in paths[:workers]]
        wait_until(lambda: running(server) == len(clients), what="workers that are busy")
        clients += [ask(server, f"{path}?{lock}") for path in paths[workers:]]
        yield
    statuses = []
    for client in clients:
        with client:
            statuses.append(read_response(client).status)
    assert statuses == [200] * len(paths)


def ask(server: Server, path: str) -> socket.socket:
    """A client that has asked."""
    client = connect(server.address)
    client.sendall(encode_request(path=path))
    return client


def running(server: Server) -> int:
    """How many workers run a request."""
    (pool,) = give(find_door(None, server.address, {}), "status")["pools"]
    return [process["state"] for process in pool["processes"]].count("Running")


def asked(server: Server, *words: str) -> Any:
    """What preforkctl answers, as JSON."""
    return json.loads(control(server.folder, "--socket", server.address, *words, "--json").stdout)


def said(server: Server, *words: str) -> list[str]:
    """What preforkctl prints."""
    return control(server.folder, "--socket", server.address, *words).stdout.splitlines()


def place(mark: str, function: str) -> str:
    """Where it says so in the source."""
    line = next(number for number, line in enumerate(_DATABASE.splitlines(), 1) if line.endswith(f"# {mark}"))
    return f"shop/db.py:{line} {function}"


CULPRITS = [
    ("/lock", place("the lock", "wait_for_lock")),
    ("/orm", place("the database", "fetch_user")),
    ("/loop", place("the loop", "add_up")),
    ("/import/monthly", place("the import", "Reports.monthly")),
    ("/import/yearly", place("the other import", "Reports.yearly")),
]


@pytest.mark.parametrize("pm", ["static", "dynamic"])
@pytest.mark.parametrize(("path", "expected"), CULPRITS, ids=[path for path, _ in CULPRITS])
def test_the_line_that_holds_the_workers(site: Path, pm: str, path: str, expected: str) -> None:
    """A lock, a library under decorators, a loop in C, an import: of the application, innermost, all of them there."""
    with serving(site, 3, pm=pm) as server:
        with held(server, 3, [path] * 5):
            event = server.wait_event("saturated")
        (group,) = event["groups"]
        assert group.startswith(f"3 of 3 in {expected}, ")
        assert group.endswith(f" s, e.g. GET {path}")
        assert event["message"] == "every worker is busy and connections wait"
        assert (event["workers"], event["busy"], event["max_children"]) == (3, 3, 3)
        assert 1 <= event["waiting"] <= event["peak"] <= 5
        ended = server.wait_event("saturation_ended")
        assert ended["groups"][0].startswith(f"3 of 3 in {expected}, ")
        assert (ended["workers"], ended["full_for"]) == (3, 0.0)
        assert 0.1 <= ended["lasted"] < 60.0


@pytest.mark.root
@pytest.mark.parametrize(("path", "expected"), CULPRITS[1:3], ids=["asked", "forced"])
def test_workers_of_another_user(site: Path, path: str, expected: str) -> None:
    """Their stacks are as good as anybody's, asked for or forced."""
    site.chmod(0o755)
    with serving(site, 2, "--user", "nobody") as server, held(server, 2, [path] * 4):
        event = server.wait_event("saturated")
        assert event["groups"][0].startswith(f"2 of 2 in {expected}, ")


def test_a_loop_of_many_lines_is_one_culprit(site: Path) -> None:
    """Whichever of its lines each worker is at."""
    with serving(site, 3) as server, held(server, 3, ["/crunch"] * 5):
        event = server.wait_event("saturated")
        counts = [int(group.split()[0]) for group in event["groups"] if "shop/db.py" in group]
        assert sum(counts) == 3
        assert len(counts) <= 2  # the function, and the one it calls


def test_two_culprits(site: Path) -> None:
    """Six of ten and four of ten, in this order, each with its own line and example."""
    with serving(site, 10) as server, held(server, 10, ["/orm"] * 4 + ["/lock"] * 6):
        with held_more(server, 3):
            event = server.wait_event("saturated")
        assert [group.split(", ")[0] for group in event["groups"]] == [
            f"6 of 10 in {place('the lock', 'wait_for_lock')}",
            f"4 of 10 in {place('the database', 'fetch_user')}",
        ]
        assert [group.split(", e.g. ")[1] for group in event["groups"]] == ["GET /lock", "GET /orm"]


@contextmanager
def held_more(server: Server, count: int) -> Iterator[None]:
    """So many clients that have connected, and wait."""
    clients = [connect(server.address) for _ in range(count)]
    try:
        yield
    finally:
        for client in clients:
            client.close()


def test_what_can_be_asked_while_it_lasts_and_afterwards(site: Path) -> None:
    """Stacks of all and of one; the episode, now and past; slow requests; the status; the page's list."""
    pages = str(site / "status.sock")
    options = ("--request-slowlog-timeout", "300ms", "--status-listen", pages)
    line = place("the database", "fetch_user")
    with serving(site, 2, *options) as server:
        with held(server, 2, ["/orm"] * 4):
            server.wait_event("saturated")
            head, first, _, worker, *frames = said(server, "stacks")
            assert head == "www: 2 of 2 workers busy, 2 waiting in the queue"
            assert first.startswith(f"  2 of 2 in {line}, ")
            assert f"GET /orm?{site}/lock for " in worker
            assert frames[0] == "    orm/__init__.py:12 User._wait"
            assert f"  → {line}" in [frame.replace("fetch_user.<locals>.<listcomp>", "fetch_user") for frame in frames]
            pid = min(pid for pid, title in server.titles().items() if title.startswith("prefork: worker shop"))
            (one,) = asked(server, "stacks", str(pid))["pools"][0]["stacks"]
            assert (one["pid"], one["state"], one["method"], one["forced"]) == (pid, "Running", "GET", False)
            assert one["frames"][one["culprit"]]["shown"] == "shop/db.py"
            refused = control(site, "--socket", server.address, "stacks", str(server.pid), status=1)
            assert refused.stderr == f"preforkctl: {server.pid} is no worker of this server\n"
            now, culprit = said(server, "saturation")
            assert "–now  www: every worker busy (it lasts), at most " in now
            assert culprit.startswith(f"    2 of 2 in {line}, ")
            (pool,) = asked(server, "status")["pools"]
            assert pool["saturated since"] > 0
            assert (pool["saturation episodes"], pool["max children reached"]) == (1, 1)
            wait_until(lambda: [each["seconds"] for each in recent(pages)] == [None])
            assert recent(pages)[0]["groups"][0]["where"] == line
            server.wait_event("request_slow", count=2)
        server.wait_event("saturation_ended")
        past, culprit = said(server, "saturation")
        assert re.search(r"www: every worker busy \(\d+\.\d s\), at most [2-4] of \d+ waiting$", past)
        assert culprit.startswith(f"    2 of 2 in {line}, ")
        slow = said(server, "slow")
        assert re.search(rf"www: GET /orm\?{site}/lock ran for \d+\.\d", slow[0])
        assert "      orm/__init__.py:12 User._wait" in slow
        assert f"    → {line}" in [frame.replace("fetch_user.<locals>.<listcomp>", "fetch_user") for frame in slow]
        assert asked(server, "status")["pools"][0]["saturated since"] is None
        wait_until(lambda: [each["seconds"] is None for each in recent(pages)] == [False])
        assert said(server, "stacks") == ["www: 0 of 2 workers busy, 0 waiting in the queue"]


def recent(pages: str) -> list[dict[str, Any]]:
    """The episodes as the page gets them."""
    found: list[dict[str, Any]] = json.loads(fetch(pages, path="/recent").body)["episodes"]
    return found


def test_clients_that_hold_the_workers(site: Path) -> None:
    """No line of the application is to blame where all workers wait for the rest of a head."""
    with serving(site, 2, "--header-timeout", "60s") as server:
        with held_more(server, 5) as _:
            event = server.wait_event("saturated")
        assert event["groups"] == ["2 of 2 in a wait for the rest of a request's head"]
        server.wait_event("saturation_ended")


def test_strangers_text(site: Path) -> None:
    """A path is whatever a client sent: wherever it is told, it is printable, and short."""
    with serving(site, 1) as server:
        with held(server, 1, ["/lock/\x1b[2J\n<b>" + "x" * 2_000] * 2):
            (group,) = server.wait_event("saturated")["groups"]
            told = [*said(server, "stacks"), *said(server, "saturation")]
        assert group.split("e.g. ")[1].startswith("GET /lock/\\x1b[2J\\n<b>xxx")
        assert group.isprintable()
        assert len(group) < 250
        assert all(line.isprintable() and len(line) < 250 for line in told)


def test_a_crowd_of_short_requests_is_no_saturation(site: Path) -> None:
    """Twice as many as there are workers, again and again: of those that were short, on this machine, ten."""
    shorts = longs = 0
    with serving(site, 4) as server:
        while shorts < 10:
            began = time.monotonic()
            clients = [ask(server, "/") for _ in range(8)]
            for client in clients:
                with client:
                    assert read_response(client).status == 200
            if time.monotonic() - began < LASTS:
                shorts += 1
            else:
                longs += 1
        assert len(server.find("saturated")) <= longs
        if not longs:
            assert asked(server, "status")["pools"][0]["saturation episodes"] == 0
            assert said(server, "saturation") == ["no pool was saturated since the server was started"]


def test_ping_through_fails_while_every_worker_is_stuck(site: Path) -> None:
    """As a client would fare."""
    with serving(site, 2) as server:
        words = ("--socket", server.address, "ping", "--through", "--timeout")
        with held(server, 2, ["/lock"] * 3):
            server.wait_event("saturated")
            assert server.address in control(site, *words, "300ms", status=1).stderr
            control(site, "--socket", server.address, "ping")
        control(site, *words, "20s")


def test_the_demo_shows_where_it_hangs(folder: Path) -> None:
    """It comes with the server, and is an application like others."""
    with (
        Server("prefork.demo", "--workers", "1", "--request-slowlog-timeout", "300ms", folder=folder) as server,
        connect(server.address) as client,
    ):
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        event = server.wait_event("request_slow")
        try:
            assert "prefork/demo.py:" in event["stack"]
            assert event["stack"].endswith(" application")
            _, first, _, worker, frame, *_ = said(server, "stacks")
            assert re.match(r"  1 of 1 in prefork/demo.py:\d+ _hang, .* s, e.g. GET /hang$", first)
            assert "GET /hang for " in worker
            assert re.fullmatch(r"  → prefork/demo.py:\d+ _hang", frame)
        finally:
            os.kill(event["pid"], signal.SIGKILL)
        assert client.recv(1) == b""


@pytest.mark.nginx
def test_nginx_complains_and_explain_knows_why(site: Path) -> None:
    """Lines of its log that fall into the episode are matched with it, and with what held the workers."""
    with (
        serving(site, 2, "--backlog", "1") as server,
        Nginx(server.address, folder=site) as nginx,
    ):
        log = str(nginx.folder / "error.log")
        with held(server, 2, ["/lock"] * 2):
            with held_more(server, 2):
                server.wait_event("saturated")
                assert nginx.fetch().status == 502
            text = " ".join(" ".join(said(server, "explain", log)).split())
            assert f"–now: 2 of 2 in {place('the lock', 'wait_for_lock')} (1 of these lines)" in text
        server.wait_event("saturation_ended")
        (finding,) = asked(server, "explain", log)["findings"]
        assert finding["kind"] == "queue_full"
        ((when, count),) = finding["saturations"].items()
        assert when.endswith(f": 2 of 2 in {place('the lock', 'wait_for_lock')}")
        assert count == 1


@pytest.mark.nginx
def test_how_long_requests_had_waited(site: Path) -> None:
    """By the stamps of the proxy: told at the end, when those that waited have been begun."""
    with (
        serving(site, 2) as server,
        Nginx(server.address, folder=site, location='fastcgi_param REQUEST_START "t=$msec";') as nginx,
        ThreadPoolExecutor() as visitors,
    ):
        with held(server, 2, ["/lock"] * 2):
            answers = [visitors.submit(nginx.fetch) for _ in range(3)]
            begun = server.wait_event("saturated")
        assert [answer.result().status for answer in answers] == [200] * 3
        ended = server.wait_event("saturation_ended")
        assert "waited" not in begun
        longest = float(ended["waited"].removesuffix(" s").split("–")[-1])
        assert 0.1 <= longest <= ended["lasted"] + 1.0
        assert f"    requests had waited {ended['waited']}" in said(server, "saturation")
