"""Requests that waited for a worker: too long by their proxy's stamp, or longer than their client."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.policy.access_format import parse
from prefork.policy.model import ABANDONED, QUEUE_TIMEOUTS
from prefork.protocol.codec import plain_text
from prefork.protocol.fastcgi_client import encode_request, encode_stdin
from prefork.protocol.request_start import UNKNOWN
from prefork.system.logplaces import open_log
from prefork.worker.accesslog import AccessLog
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from prefork.worker.queueing import QueueTime
from wire import EOF, Desk, get, hello, post, stamp

LATE_AFTER_20 = Limits(queue_timeout=20.0)  # so much later nothing comes to a worker here by itself


class Watched:
    """An application that remembers its requests."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environs.append(environ)
        return hello(environ, start_response)


# -- the time in the queue


class Clocks:
    """Two clocks that are set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_700_000_000.0
        self.monotonic = 500.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def is_late(queue: QueueTime, environ: dict[str, Any]) -> bool:
    """As an exchange judges."""
    queue.measure(environ, time.monotonic())
    return queue.waited > queue.timeout


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize(
    ("environ", "waited", "late"),
    [
        ({"REQUEST_START": "t=1699999999.000"}, 1.0, False),
        ({"REQUEST_START": "t=1699999998.000"}, 2.0, False),
        ({"REQUEST_START": "t=1699999997.900"}, 2.1, True),
        ({"HTTP_X_REQUEST_START": "1699999997900"}, 2.1, True),
        ({"REQUEST_START": "t=1699999999.000", "HTTP_X_REQUEST_START": "1"}, 1.0, False),  # the proxy's own word counts
        ({"REQUEST_START": "", "HTTP_X_REQUEST_START": "t=1699999997.900"}, 2.1, True),
        ({"REQUEST_START": "t=1700000000.500"}, 0.0, False),
    ],
)
def test_what_is_late(clocks: Clocks, environ: dict[str, Any], waited: float, late: bool) -> None:
    """By the stamp, in whatever it came; the application may know how long."""
    queue = QueueTime(2.0)
    assert is_late(queue, environ) is late
    assert environ["prefork.queue_seconds"] == queue.waited == pytest.approx(waited, abs=1e-6)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"REQUEST_START": ""},
        {"REQUEST_START": "yesterday"},
        {"REQUEST_START": "t=1600000000.000"},
        {"REQUEST_START": "t=1800000000.000"},
        {"HTTP_X_REQUEST_START": "t=1699999997.9, t=1699999997.9"},
    ],
)
def test_what_is_not_known_is_not_late(clocks: Clocks, environ: dict[str, Any]) -> None:
    """And nothing is said of it to the application."""
    before = dict(environ)
    queue = QueueTime(2.0)
    assert not is_late(queue, environ)
    assert (environ, queue.waited) == (before, UNKNOWN)


@pytest.mark.parametrize("step", [-3_000.0, -5.0, 5.0, 30.0, 3_000.0])
def test_a_clock_that_was_set_makes_nobody_late(clocks: Clocks, step: float) -> None:
    """What was stamped before that is not judged; what is stamped afterwards is."""
    queue = QueueTime(2.0)
    clocks.pass_by(100.0)
    before = stamp(0.1)
    clocks.wall += step
    clocks.pass_by(0.2)
    for _ in range(3):
        assert not is_late(queue, {"REQUEST_START": before})
        clocks.pass_by(0.5)
    after = stamp(0.0)
    clocks.pass_by(2.5)
    assert is_late(queue, {"REQUEST_START": after})


def test_a_clock_that_is_adjusted_is_no_step(clocks: Clocks) -> None:
    """Both run at the same pace, however they are slewed."""
    queue = QueueTime(2.0)
    for _ in range(10):
        clocks.pass_by(3_600.0)
        assert is_late(queue, {"REQUEST_START": stamp(3.0)})


@pytest.mark.parametrize(("timeout", "seconds"), [(0.1, 1), (1.0, 1), (1.5, 2), (30.0, 30)])
def test_when_to_come_back(timeout: float, seconds: int) -> None:
    """When a queue as long as may be is over, in whole seconds (RFC 9110, section 10.2.3)."""
    assert QueueTime(timeout).retry_after == seconds


# -- requests that waited too long


@contextmanager
def access_log(folder: Path) -> Iterator[tuple[AccessLog, Callable[[], list[str]]]]:
    """An access log, and its lines so far."""
    path = folder / "access.log"
    file = open_log(str(path), "access_log")
    log = AccessLog(file, parse('"%m %U" %s %B %L'), (), pool="www", slot=3, parent=77)
    yield log, lambda: path.read_text().splitlines()
    file.close()


def exchange_of(desk: Desk, application: Any, limits: Limits, log: AccessLog | None = None) -> Exchange:
    made = Exchange(application, desk.slot, desk.log, limits, multiprocess=True, access_log=log)
    desk.exchanges.append(made)
    return made


@pytest.mark.parametrize("name", ["REQUEST_START", "HTTP_X_REQUEST_START"])
def test_a_late_request_is_refused_unrun(desk: Desk, tmp_path: Path, name: str) -> None:
    """503 and when to come back; counted, logged, in the access log."""
    application = Watched()
    with access_log(tmp_path) as (log, lines):
        with desk.client(exchange_of(desk, application, LATE_AFTER_20, log)) as client:
            client.send(get(REQUEST_ID="r-1", **{name: stamp(22.5)}))
            answer = client.answer()
        assert lines() == [f'"GET /" 503 {len(plain_text(503))} r-1']
    assert (answer.status, answer.body, answer.ended) == ("503 Service Unavailable", plain_text(503), True)
    assert answer.field("Retry-After") == "20"
    assert application.environs == []
    assert desk.scoreboard.total(QUEUE_TIMEOUTS) == 1
    assert desk.scoreboard.total_requests() == 0
    (event,) = desk.log.named("queue_timeout")
    assert 22.5 <= event.pop("waited") < 60.0
    assert event == {"queue_timeout": 20.0, "refused": 1, "method": "GET", "uri": "/", "request_id": "r-1"}


def test_a_late_request_in_http(desk: Desk) -> None:
    """By its header."""
    application = Watched()
    with desk.client(desk.exchange(application, LATE_AFTER_20)) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Start: {stamp(22.5)}\r\n\r\n".encode())
        received = b""
        while data := client.socket.recv(65_536):
            received += data
    assert received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 20\r\n" in received
    assert application.environs == []


def test_a_late_head_request_has_no_body(desk: Desk) -> None:
    """As any answer to HEAD."""
    answer = desk.ask(hello, get(REQUEST_METHOD="HEAD", REQUEST_START=stamp(22.5)), LATE_AFTER_20)
    assert (answer.status, answer.body) == ("503 Service Unavailable", b"")


def test_an_early_request_is_run(desk: Desk) -> None:
    """And may know how long it waited."""
    application = Watched()
    assert desk.ask(application, get(REQUEST_START=stamp(0.5)), LATE_AFTER_20).status == "200 OK"
    assert 0.5 <= application.environs[0]["prefork.queue_seconds"] < 20.0
    assert desk.ask(application, get(), LATE_AFTER_20).status == "200 OK"
    assert desk.ask(application, get(REQUEST_START=stamp(22.5))).status == "200 OK"  # nobody asked for a limit
    assert ["prefork.queue_seconds" in environ for environ in application.environs] == [True, False, True]
    assert desk.log.loud == []


def test_a_late_body_is_not_left_unread(desk: Desk) -> None:
    """The proxy gets our answer, and no reset while it still sends."""
    with desk.client(desk.exchange(Watched(), LATE_AFTER_20)) as client:
        client.send(
            encode_request({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3000000", "REQUEST_START": stamp(22.5)})
        )
        client.send(encode_stdin(bytes(3_000_000)) + EOF)
        answer = client.answer()
    assert (answer.status, answer.ended) == ("503 Service Unavailable", True)


def test_a_kept_connection_ends_as_after_any_answer(desk: Desk) -> None:
    """A request that arrives instead of the close is served."""
    with desk.client(desk.exchange(hello, LATE_AFTER_20)) as client:
        head = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/"}
        client.send(encode_request({**head, "REQUEST_START": stamp(22.5)}, keep_conn=True) + EOF)
        client.until(lambda reader: reader.ended)
        assert b"503" in client.reader.stdout
        client.reader = type(client.reader)(1)
        client.send(encode_request({**head, "REQUEST_START": stamp(0.5)}, keep_conn=True) + EOF)
        client.until(lambda reader: reader.ended)
        assert client.reader.stdout.endswith(b"hello")


def test_many_late_requests_are_few_events(desk: Desk) -> None:
    """The first, and each time that their number has doubled; all are counted."""
    exchange = desk.exchange(Watched(), LATE_AFTER_20)
    for _ in range(9):
        with desk.client(exchange) as client:
            client.send(get(REQUEST_START=stamp(22.5)))
            client.answer()
    assert [event["refused"] for event in desk.log.named("queue_timeout")] == [1, 2, 4, 8]
    assert desk.scoreboard.total(QUEUE_TIMEOUTS) == 9


def test_errors_of_the_request_before_are_not_told_of_a_late_one(desk: Desk) -> None:
    """What an application wrote to wsgi.errors too late belongs to nobody."""
    kept: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append(environ["wsgi.errors"])
        return hello(environ, start_response)

    exchange = desk.exchange(application, LATE_AFTER_20)
    for ago in (0.0, 22.5):
        with desk.client(exchange) as client:
            client.send(get(REQUEST_START=stamp(ago)))
            answer = client.answer()
        kept[0].write("late\n")
    assert (answer.status, answer.stderr) == ("503 Service Unavailable", b"")


# -- requests that nobody awaits


@pytest.mark.parametrize(
    ("waiting", "limits", "runs", "answered"),
    [(True, Limits(), 0, "499 0"), (False, Limits(), 1, "200 5"), (True, Limits(skip_abandoned=False), 1, "200 5")],
)
def test_an_abandoned_request(
    desk: Desk, tmp_path: Path, waiting: bool, limits: Limits, runs: int, answered: str
) -> None:
    """Is not run while others wait: counted, logged, in the access log as 499."""
    desk.control.wait(waiting)
    application = Watched()
    ours, theirs = socket.socketpair()
    ours.sendall(get(REQUEST_ID="r-1"))
    ours.close()
    with access_log(tmp_path) as (log, lines):
        exchange_of(desk, application, limits, log).serve(theirs.detach())
        assert lines() == [f'"GET /" {answered} r-1']
    assert len(application.environs) == runs
    skipped = 1 - runs
    assert desk.scoreboard.total(ABANDONED) == skipped
    assert desk.scoreboard.total_requests() == runs
    assert desk.log.loud == []
    assert desk.log.named("request_abandoned") == [{"method": "GET", "uri": "/", "request_id": "r-1"}] * skipped


@pytest.mark.parametrize("half_closed", [False, True])
def test_who_still_waits_is_served(desk: Desk, half_closed: bool) -> None:
    """A client that ended only its own sending waits for its answer."""
    desk.control.wait(True)
    application = Watched()
    with desk.client(desk.exchange(application)) as client:
        client.send(post(b"body"))
        if half_closed:
            client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().status == "200 OK"
    assert desk.scoreboard.total(ABANDONED) == 0


def test_the_descriptor_is_free_again(desk: Desk) -> None:
    """Also of those that nobody awaits."""
    desk.control.wait(True)
    exchange = desk.exchange(Watched())
    for _ in range(3):
        ours, theirs = socket.socketpair()
        ours.sendall(get())
        ours.close()
        descriptor = theirs.detach()
        exchange.serve(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert desk.scoreboard.total(ABANDONED) == 3
    assert not exchange.leave
