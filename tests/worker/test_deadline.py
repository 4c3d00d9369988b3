"""The soft limit in the worker: where a timeout is raised, where it waits, what becomes of the answer."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import prefork
from harness import PACKAGE_ROOT, REPOSITORY, UNMEASURED, run
from prefork import hooks
from prefork.errors import RequestTimeout
from prefork.policy.model import RUNNING, SOFT_TIMEOUTS
from prefork.worker.deadline import Deadline
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from wire import PLAIN, Answer, Client, Desk, get, hello, post

SHORT = 0.05  # seconds; a limit that passes while the test looks on

_COUNT = int(os.environ.get("PREFORK_TEST_TIMEOUTS", "1000"))


@pytest.mark.timeout(300)
def test_at_random_moments(folder: Path) -> None:
    """Applications of every kind: close() is called in each, and no exception ever passes through our own code."""
    script = str(REPOSITORY / "tests" / "worker" / "timeouts.py")
    env = {"PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), str(REPOSITORY / "tests")]), **UNMEASURED}
    done = run(sys.executable, script, str(_COUNT), str(time.time_ns()), folder=folder, env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["timeouts"] >= _COUNT
    # Each way in which one can end was taken.
    assert all(result[outcome] > _COUNT / 100 for outcome in ("504", "broken off", "raised by the signal", "answered"))


class Watched:
    """An exchange in this thread whose requests are watched as the master does, by signals."""

    def __init__(self, desk: Desk, application: Callable[..., Any], soft: float) -> None:
        self.desk = desk
        self.told: list[tuple[float, float]] = []  # before and after each timeout was raised
        self.exchange: Exchange = desk.exchange(application, Limits(request_timeout=soft))

    def ask(self, request: bytes, every: float = 0.01) -> Answer:
        """Serve one request here; from its begin on, it is told ``every`` so many seconds that it must stop."""
        self.desk.control.time_out(3, self.desk.slot.requests + 1)
        before = signal.signal(signal.SIGALRM, self._interrupt)
        signal.setitimer(signal.ITIMER_REAL, every, every)
        try:
            return self._serve(request)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _serve(self, request: bytes) -> Answer:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(request)
            client = Client(ours, threading.current_thread())
            self.exchange.serve(theirs.detach())
            return client.answer()

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        before = time.monotonic()
        try:
            self.exchange.deadline.interrupt(frame)
        except RequestTimeout:
            self.told.append((before, time.monotonic()))
            raise


def hang() -> None:
    """Until somebody raises."""
    while True:
        time.sleep(0.001)


def test_a_hanging_application_is_answered_504(desk: Desk) -> None:
    """One event with its own traceback, one count, and the worker takes no more connections."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        hang()

    watched = Watched(desk, application, SHORT)
    answer = watched.ask(get(REQUEST_URI="/hang"))
    assert (answer.status, answer.body, answer.ended) == ("504 Gateway Timeout", b"504 Gateway Timeout\n", True)
    (event,) = desk.log.named("request_timeout")
    assert (event["method"], event["uri"], event["caught"], event["request_timeout"]) == ("GET", "/hang", False, SHORT)
    assert event["elapsed"] >= SHORT
    assert "in hang" in event["traceback"]
    assert "prefork/worker/deadline.py" not in event["traceback"]  # the handler of the signal is no news
    last = event["traceback"].splitlines()[-1]
    said = re.fullmatch(r"prefork\.errors\.RequestTimeout: the request has run for (\d+\.\d) s; it may .*", last)
    assert said is not None
    assert 0 < float(said[1]) <= event["elapsed"] + 0.1
    assert desk.log.loud == ["request_timeout"]
    assert (watched.exchange.leave, desk.scoreboard.total(SOFT_TIMEOUTS)) == (True, 1)


def test_a_response_that_began_is_broken_off(desk: Desk) -> None:
    """The client must not take it for whole; close() is called."""
    closed = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            yield b"some"
            hang()

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return Result()

    watched = Watched(desk, application, SHORT)
    with pytest.raises(prefork.ProtocolError):  # it is no FastCGI any more: nginx logs an error and closes
        watched.ask(get())
    assert (closed, desk.log.loud, watched.exchange.leave) == ([True], ["request_timeout"], True)


def test_who_goes_on_is_told_again(desk: Desk) -> None:
    """Every time, until it ends; it is counted once, and the worker leaves though the answer is the application's."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        for _ in range(2):
            with suppress(RequestTimeout):
                hang()
        return hello(environ, start_response)

    watched = Watched(desk, application, SHORT)
    assert watched.ask(get()).body == b"hello"
    (first, _), (_, second) = watched.told
    assert 0.9 <= second - first < 5
    (event,) = desk.log.named("request_timeout")
    assert event["caught"] is True
    assert "in hang" in event["traceback"]
    assert (watched.exchange.leave, desk.scoreboard.total(SOFT_TIMEOUTS)) == (True, 1)


def test_what_comes_of_it_is_a_timeout_too(desk: Desk) -> None:
    """An application that fails because of it is answered 504 as well; one that fails for itself is not."""

    def clumsy(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            hang()
        finally:
            raise RuntimeError("while cleaning up")

    def forgetful(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            hang()
        except RequestTimeout:
            pass
        raise RuntimeError("for itself")

    assert Watched(desk, clumsy, SHORT).ask(get()).status == "504 Gateway Timeout"
    assert "while cleaning up" in desk.log.named("request_timeout")[0]["traceback"]
    assert desk.log.loud == ["request_timeout"]
    assert Watched(desk, forgetful, SHORT).ask(get()).status == "500 Internal Server Error"
    assert desk.log.loud[1:] == ["request_timeout", "request_failed"]


def test_an_application_may_raise_it_for_itself(desk: Desk) -> None:
    """Which is a failure like any other."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise RequestTimeout("mine")

    exchange = desk.exchange(application)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().status == "500 Internal Server Error"
    assert (desk.log.loud, exchange.leave) == (["request_failed"], True)


# who is not told


@pytest.mark.parametrize("number", [0, 2, 4])
def test_another_request_is_not_meant(desk: Desk, number: int) -> None:
    """The number in the control page is of the one before, the one after, or none."""
    exchange = desk.exchange(hello, Limits(request_timeout=1e-6))
    desk.slot.begin(RUNNING, "GET", "/", 0.0)
    desk.slot.begin(RUNNING, "GET", "/", 0.0)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        desk.control.time_out(3, number)
        exchange.deadline.interrupt(sys._getframe())
        return hello(environ, start_response)

    exchange._application = application
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"
    assert not exchange.leave


def test_between_requests_nobody_is_told(desk: Desk) -> None:
    """Neither what runs after the response nor the next request."""
    seen: list[str] = []

    def later() -> None:
        exchange.deadline.interrupt(sys._getframe())
        seen.append("ran")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["prefork.after_response"](later)
        return hello(environ, start_response)

    exchange = desk.exchange(application, Limits(request_timeout=1e-6))
    desk.control.time_out(3, 1)
    with desk.client(exchange) as client:
        client.send(get())
        client.answer()
        client.wait_for_end()
    exchange.deadline.interrupt(sys._getframe())
    assert (seen, exchange.leave, desk.log.loud) == (["ran"], False, [])


def test_a_pool_without_the_limit_tells_nobody(desk: Desk) -> None:
    """Whatever stands in the control page."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        exchange.deadline.interrupt(sys._getframe())
        return hello(environ, start_response)

    exchange = desk.exchange(application)
    desk.control.time_out(3, 1)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"


# our own waits


@pytest.mark.parametrize(
    "call", [lambda body: body.read(), lambda body: body.readline(), lambda body: body.readlines(), list]
)
def test_a_wait_for_the_body_ends_with_the_request(desk: Desk, call: Callable[[Any], Any]) -> None:
    """No signal is needed: our own wait knows the deadline."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        call(environ["wsgi.input"])

    with desk.client(desk.exchange(application, Limits(request_timeout=SHORT))) as client:
        client.send(post(b"abc", 10)[:-8])
        client.until(lambda reader: reader.ended)
    assert client.raw.find(b"504 Gateway Timeout") > 0
    assert desk.log.loud == ["request_timeout"]


def test_a_wait_for_room_ends_with_the_request(desk: Desk) -> None:
    """A client that takes nothing of the response holds it no longer than it may take."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return [bytes(10_000_000)]

    exchange = desk.exchange(application, Limits(request_timeout=SHORT))
    with desk.client(exchange) as client:
        client.send(get())
        client.wait_for_end()
    assert (desk.log.loud, exchange.leave) == (["request_timeout"], True)


def test_the_application_may_clean_up(desk: Desk) -> None:
    """A moment after it was told it can still write an answer of its own."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except RequestTimeout:
            start_response("503 Service Unavailable", list(PLAIN))
        return [b"too much"]

    with desk.client(desk.exchange(application, Limits(request_timeout=SHORT))) as client:
        client.send(post(b"abc", 10)[:-8])
        client.until(lambda reader: reader.ended)
    assert b"too much" in client.raw
    assert desk.log.named("request_timeout")[0]["caught"] is True


# where our code runs


def test_what_comes_while_our_code_runs_waits_until_it_returns(desk: Desk) -> None:
    """Marks alone carry that: no frame of ours is innermost here, as none is in compiled code."""
    innermost = sys._getframe()
    calls: list[str] = []

    class Headers(list[Any]):
        """Ours looks at these in the midst of start_response."""

        def __iter__(self) -> Any:
            exchange.deadline.interrupt(innermost)
            calls.append("in start_response")
            return super().__iter__()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            start_response("200 OK", Headers(PLAIN))
        except RequestTimeout:
            calls.append("raised")
            raise

    exchange = desk.exchange(application, Limits(request_timeout=1e-6))
    desk.control.time_out(3, 1)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().status == "504 Gateway Timeout"
    assert calls[-1] == "raised"
    assert len(calls) > 1


def test_close_is_never_interrupted(desk: Desk) -> None:
    """Not even where the application's own code is innermost."""
    calls: list[str] = []

    class Result(list[bytes]):
        def close(self) -> None:
            exchange.deadline.interrupt(sys._getframe())
            calls.append("closed")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return Result([b"hello"])

    exchange = desk.exchange(application, Limits(request_timeout=1e-6))
    desk.control.time_out(3, 1)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"
    assert (calls, desk.log.loud) == (["closed"], [])


def test_the_log_is_never_interrupted(desk: Desk) -> None:
    """A line of wsgi.errors is written whole; the timeout comes when the call returns."""
    calls: list[str] = []

    class Log:
        def __getattr__(self, level: str) -> Callable[..., None]:
            def log(event: str, **fields: Any) -> None:
                exchange.deadline.interrupt(sys._getframe())
                calls.append(event)

            return log

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.errors"].write("a line\n")
        raise AssertionError("the timeout was lost")

    exchange = Exchange(application, desk.slot, Log(), Limits(request_timeout=1e-6), multiprocess=True)
    desk.exchanges.append(exchange)
    desk.control.time_out(3, 1)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().status == "504 Gateway Timeout"
    assert calls == ["wsgi_errors", "request_timeout"]


# more time


def test_more_time(desk: Desk) -> None:
    """What was asked for counts for this request, for each of its waits, and not for the next."""
    seen: list[float] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/long":
            hooks.extend_deadline(10)
            environ["prefork.extend_deadline"](20.5)
        exchange.deadline.interrupt(sys._getframe())
        seen.append(desk.slot.extension)
        return hello(environ, start_response)

    exchange = desk.exchange(application, Limits(request_timeout=1e-6))
    for number, path in enumerate(("/long", "/short"), 1):
        desk.control.time_out(3, number)
        with desk.client(exchange) as client:
            client.send(get(SCRIPT_NAME=path))
            status = client.answer().status
        assert status == ("200 OK" if path == "/long" else "504 Gateway Timeout")
    assert seen == [30.5]
    assert desk.scoreboard.deadline(3)[2] == 0.0  # type: ignore[index]


def test_more_time_for_a_client(desk: Desk) -> None:
    """A wait that the limit would have cut short goes on."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["prefork.extend_deadline"](60)
        body = environ["wsgi.input"].read()
        start_response("200 OK", list(PLAIN))
        return [body]

    with desk.client(desk.exchange(application, Limits(request_timeout=1e-6))) as client:
        whole = post(b"abc")
        client.send(whole[:-8])
        time.sleep(0.02)  # longer than the limit: nothing shall happen in it
        client.send(whole[-8:])
        assert client.answer().body == b"abc"


@pytest.mark.parametrize("seconds", [0, -1, -0.0, float("nan"), float("inf"), 1e300, 366 * 86_400])
def test_no_such_time(desk: Desk, seconds: float) -> None:
    """Neither less than there is, nor for ever."""
    with pytest.raises(ValueError, match="extend_deadline\\(\\) takes more than 0 and less than"):
        Deadline(desk.slot).extend(seconds)


@pytest.mark.parametrize("seconds", ["60", None, True, [1]])
def test_no_number(desk: Desk, seconds: Any) -> None:
    """Which is a mistake in the program."""
    with pytest.raises(TypeError, match="a number of seconds, found"):
        Deadline(desk.slot).extend(seconds)


def test_no_request(desk: Desk) -> None:
    """Before the first, between two, and where there is no worker."""
    with pytest.raises(RuntimeError, match="there is none"):
        Deadline(desk.slot).extend(1)
    exchange = desk.exchange(hello)
    with desk.client(exchange) as client:
        client.send(get())
        client.answer()
    with pytest.raises(RuntimeError, match="there is none"):
        hooks.extend_deadline(1)
    exchange.close()
    with pytest.raises(RuntimeError, match="this process is no worker"):
        hooks.extend_deadline(1)
