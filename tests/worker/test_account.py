"""What the requests of a worker come to, in its slot: bytes, seconds, and how long they had waited."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest

from prefork.policy.model import STARTING
from prefork.protocol.codec import plain_text
from prefork.system.records import BOUNDS, Totals
from prefork.worker.limits import Limits
from wire import Desk, get, hello, post, stamp


def totals(desk: Desk) -> Totals:
    """All that the worker counted."""
    desk.scoreboard.set_state(desk.slot.number, STARTING)
    return desk.scoreboard.totals()


def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Read so much of the body, and answer with that."""
    body = environ["wsgi.input"].read(int(environ["HTTP_X_READ"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def streams(_environ: dict[str, Any], start_response: Any) -> Any:
    """Answer in pieces."""
    start_response("200 OK", [])
    yield from (b"x" * size for size in (10, 0, 200, 3_000))


def fails(_environ: dict[str, Any], _start_response: Any) -> list[bytes]:
    """Answer nothing."""
    raise ValueError("as intended")


ERROR = len(plain_text(500))


@pytest.mark.parametrize(
    ("application", "sent", "came", "went"),
    [
        (hello, get(), 0, 5),
        (hello, get(REQUEST_METHOD="HEAD"), 0, 0),
        (streams, get(), 0, 3_210),
        (fails, get(), 0, ERROR),
        (fails, get(REQUEST_METHOD="HEAD"), 0, 0),
        (reads, post(b"b" * 1_000, HTTP_X_READ="-1"), 1_000, 1_000),
        (hello, post(b"b" * 1_000), 0, 5),
    ],
)
def test_the_bytes_of_bodies(desk: Desk, application: Any, sent: bytes, came: int, went: int) -> None:
    """Of the request's body what the application took, of the response's what was sent; no heads."""
    desk.ask(application, sent)
    desk.ask(application, sent)
    found = totals(desk)
    assert (found.received, found.sent, found.requests) == (2 * came, 2 * went, 2)
    assert (sum(found.ran), sum(found.waited)) == (2, 0)


def test_how_long_requests_run(desk: Desk) -> None:
    """From the end of the head until the response is sent, in the bucket of that, and for the last one by itself."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        time.sleep(float(environ["HTTP_X_SECONDS"]))
        return hello(environ, start_response)

    began = time.monotonic()
    for seconds in ("0", "0.06", "0.011"):
        desk.ask(application, get(HTTP_X_SECONDS=seconds))
    passed = time.monotonic() - began
    found = totals(desk)
    assert 0.071 <= found.ran_seconds <= passed
    assert sum(found.ran) == 3
    assert sum(found.ran[BOUNDS.index(0.05) + 1 :]) >= 1
    assert sum(found.ran[BOUNDS.index(0.01) + 1 :]) >= 2
    assert 0.011 <= desk.scoreboard.account(desk.slot.number).last <= passed


def test_how_long_requests_had_waited(desk: Desk) -> None:
    """By the proxy's stamp, where there is one that makes sense; also of those that are refused for it."""
    limits = Limits(queue_timeout=20.0)
    for field in (stamp(0.3), stamp(7.0), stamp(25.0), "yesterday", ""):
        desk.ask(hello, get(REQUEST_START=field), limits)
    desk.ask(hello, get(), limits)
    found = totals(desk)
    assert (found.requests, sum(found.ran)) == (5, 5)
    assert 32.3 <= found.waited_seconds < 50.0
    assert sum(found.waited) == 3
    assert sum(found.waited[BOUNDS.index(0.25) + 1 :]) == 3
    assert sum(found.waited[BOUNDS.index(5.0) + 1 :]) == 2
    assert found.sent == 5 * 5 + len(plain_text(503))


def test_the_request_at_hand_tells_how_long_it_had_waited(desk: Desk) -> None:
    """And how long its body is; neither is known of one that does not say."""
    seen = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(desk.scoreboard.read(desk.slot.number))
        return hello(environ, start_response)

    desk.ask(application, post(b"body", REQUEST_START=stamp(2.0)))
    desk.ask(application, get())
    assert seen[0].waited is not None
    assert 2.0 <= seen[0].waited < 20.0
    assert (seen[0].length, seen[1].length, seen[1].waited) == (4, None, None)


def test_who_left_had_waited_as_well(desk: Desk) -> None:
    """Otherwise the longest waits would be those that nobody hears of."""
    desk.control.wait(True)
    ours, theirs = socket.socketpair()
    ours.sendall(get(REQUEST_START=stamp(3.0)))
    ours.close()
    desk.exchange(hello).serve(theirs.detach())
    found = totals(desk)
    assert (found.requests, sum(found.waited), sum(found.ran), found.sent) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("sent", "status", "requests"),
    [(post(b"b" * 100), 413, 1), (b"GET / HTTP/1.1\r\n\r\n", 400, 0), (b"\x01\x01\x00\x01\xff\xff", 0, 0)],
)
def test_answers_of_our_own_are_bytes_and_no_seconds(desk: Desk, sent: bytes, status: int, requests: int) -> None:
    """They would make the application look faster than it is."""
    ours, theirs = socket.socketpair()
    ours.sendall(sent)
    ours.shutdown(socket.SHUT_WR)
    desk.exchange(hello, Limits(max_body_size=10)).serve(theirs.detach())
    ours.close()
    found = totals(desk)
    assert (found.requests, sum(found.ran), found.ran_seconds) == (requests, 0, 0.0)
    assert found.sent == (len(plain_text(status)) if status else 0)


def test_a_child_of_the_application_counts_nothing(desk: Desk) -> None:
    """Its slot is another's."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        pid = os.fork()
        if pid == 0:
            desk.slot.forget()
            desk.slot.finish(1.0, 1, 1)
            desk.slot.wait(1.0)
            os._exit(0)
        os.waitpid(pid, 0)
        return hello(environ, start_response)

    desk.ask(application, get())
    found = totals(desk)
    assert (found.received, found.sent, sum(found.ran), sum(found.waited)) == (0, 5, 1, 0)
