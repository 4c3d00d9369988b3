"""A worker's tap: what it tells of each request, what it masks, and that it never gets into anybody's way."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from prefork.policy.model import SOFT_TIMEOUTS
from prefork.system.tap import BODIES, LARGEST_MESSAGE, ON, UNMASKED, TapPair, receive
from prefork.worker.door import Door
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from prefork.worker.tap import EXCERPT
from wire import EOF, PATIENCE, PLAIN, Answer, Client, Desk, get, hello, post

SECRET = "hunter2"


class Tapped:
    """A desk whose traffic is looked at."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.pair = TapPair()

    def exchange(
        self, application: Callable[..., Any], limits: Limits | None = None, door: Door | None = None
    ) -> Exchange:
        tap = self.pair.writing.fileno()
        made = Exchange(
            application, self.desk.slot, self.desk.log, limits or Limits(), multiprocess=True, tap=tap, door=door
        )
        self.desk.exchanges.append(made)
        return made

    def look(self, flags: int = 0) -> None:
        self.desk.control.tap(ON | flags)

    @contextmanager
    def client(
        self, application: Callable[..., Any], limits: Limits | None = None, sent: bytes = b""
    ) -> Iterator[Client]:
        with self.desk.client(self.exchange(application, limits), sent) as client:
            yield client

    def ask(self, application: Callable[..., Any], request: bytes, limits: Limits | None = None) -> Answer:
        with self.client(application, limits) as client:
            client.send(request)
            return client.answer()

    def told(self) -> list[dict[str, Any]]:
        """All messages so far."""
        found = []
        while (message := receive(self.pair.reading)) is not None:
            assert message[1] == os.getpid()
            found.append(json.loads(message[0]))
        return found


@pytest.fixture
def tapped(desk: Desk) -> Iterator[Tapped]:
    made = Tapped(desk)
    yield made
    made.pair.close()


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body: bytes = environ["wsgi.input"].read()
    start_response("200 OK", list(PLAIN))
    return [body]


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return [message["what"] for message in told]


# -- what is told


def test_nothing_without_the_byte(tapped: Tapped) -> None:
    """Off is off; and one that is taken back in the midst of a request ends at once."""
    tapped.ask(hello, get())
    assert tapped.told() == []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        tapped.desk.control.tap(0)
        return hello(environ, start_response)

    tapped.look()
    tapped.ask(application, get())
    assert kinds(tapped.told()) == ["request"]


def test_a_request(tapped: Tapped) -> None:
    """Who asks for what, with all parameters; and what came of it."""
    tapped.look()
    tapped.ask(hello, get(REQUEST_URI="/orders?page=2", HTTP_HOST="shop", REQUEST_ID="abc", X_OWN="1"))
    request, answer = tapped.told()
    assert (request["what"], request["slot"], request["number"], request["id"]) == ("request", 3, 1, "abc")
    assert (request["method"], request["uri"], request["protocol"]) == ("GET", "/orders?page=2", "fastcgi")
    assert request["peer"] == [os.getpid(), os.geteuid(), os.getegid()]
    fields = dict(request["fields"])
    assert (fields["HTTP_HOST"], fields["X_OWN"], fields["REQUEST_METHOD"]) == ("shop", "1", "GET")
    assert not any("." in name for name in fields)
    assert (answer["what"], answer["number"], answer["id"], answer["uri"]) == ("answer", 1, "abc", "/orders?page=2")
    assert (answer["status"], answer["end"], answer["bytes"], answer["read"]) == ("200 OK", "complete", 5, 0)
    assert answer["fields"] == [["Content-Type", "text/plain"], ["Content-Length", "5"]]
    assert 0 <= answer["seconds"] < PATIENCE
    assert request["time"] <= answer["time"]
    assert "text" not in answer


def test_http(tapped: Tapped) -> None:
    """Only what was sent: headers, none of the variables made of them; the address on TCP."""
    tapped.look()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
        ours.connect(listener.getsockname())
        theirs, address = listener.accept()
        exchange = tapped.exchange(hello, door=Door("auto", [], [], listener))
        server = threading.Thread(target=exchange.serve, args=(theirs.detach(), address))
        server.start()
        ours.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\nX-Odd: \xe4\r\nConnection: close\r\n\r\n")
        while ours.recv(65_536):
            pass
        server.join(PATIENCE)
        name = "{}:{}".format(*ours.getsockname())
    request, answer = tapped.told()
    assert (request["protocol"], request["peer"]) == ("http", name)
    assert request["fields"] == [["HTTP_HOST", "x"], ["HTTP_X_ODD", "ä"], ["HTTP_CONNECTION", "close"]]
    assert answer["status"] == "200 OK"
    assert ["Connection", "close"] in answer["fields"]


def test_kept_connections(tapped: Tapped) -> None:
    """Each request by itself, with the connection it came over."""
    tapped.look()
    with tapped.client(hello) as client:
        for number in range(2):
            head = get(REQUEST_URI=f"/{number}")
            client.send(head[:10] + b"\x01" + head[11:])  # KEEP_CONN
            client.until(lambda reader: reader.ended)
            client.reader = type(client.reader)()
        client.socket.shutdown(socket.SHUT_WR)
        client.wait_for_end()
    told = tapped.told()
    assert kinds(told) == ["request", "answer"] * 2
    assert [message["uri"] for message in told] == ["/0", "/0", "/1", "/1"]
    assert [message["number"] for message in told] == [1, 1, 2, 2]
    assert told[0]["connection"] == told[2]["connection"]


def test_a_response_that_goes_on(tapped: Tapped) -> None:
    """Its head is told when it begins, not with its end."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("206 Partial", list(PLAIN))
        yield b"a" * 10
        seen.extend(tapped.told())
        yield b"b" * 20

    seen: list[dict[str, Any]] = []
    tapped.look(BODIES)
    tapped.ask(application, get())
    assert kinds(seen) == ["request", "head"]
    assert (seen[1]["status"], seen[1]["fields"]) == ("206 Partial", [["Content-Type", "text/plain"]])
    (answer,) = tapped.told()
    assert "status" not in answer
    assert (answer["bytes"], answer["text"], answer["end"]) == (30, "a" * 10 + "b" * 20, "complete")


def test_files(tapped: Tapped) -> None:
    """What leaves by sendfile is counted, and read where bodies are asked for."""
    size = 200_000

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the wrapper closes it
        file.write(b"0123456789" * (size // 10))
        file.seek(5)
        start_response("200 OK", list(PLAIN))
        return environ["wsgi.file_wrapper"](file)

    for flags in (0, BODIES):
        tapped.look(flags)
        answer = tapped.ask(application, get())
        assert len(answer.body) == size - 5
        *_, told = tapped.told()
        assert (told["bytes"], told["end"]) == (size - 5, "complete")
        if flags:
            assert told["text"] == ("5678901234" * 1000)[:EXCERPT]
            assert not told["whole"]
        else:
            assert "text" not in told


def test_bodies(tapped: Tapped) -> None:
    """As far as the application reads them, 4 KiB of each at most; sizes in any case."""
    long = bytes(range(256)) * 100
    tapped.look(BODIES)
    tapped.ask(echo, post(b"short \xff"))
    request, body, answer = tapped.told()
    assert (request["length"], body["what"], body["text"], body["whole"]) == (7, "body", "short \xff", True)
    assert (answer["read"], answer["bytes"], answer["text"], answer["whole"]) == (7, 7, "short \xff", True)
    tapped.ask(echo, post(long))
    request, body, answer = tapped.told()
    assert (body["text"], body["whole"]) == (long[:EXCERPT].decode("latin-1"), False)
    assert (answer["text"], answer["whole"], answer["read"]) == (body["text"], False, len(long))
    tapped.ask(hello, post(long))
    assert kinds(tapped.told()) == ["request", "answer"]  # nobody read it
    tapped.look()
    tapped.ask(echo, post(long))
    request, answer = tapped.told()
    assert (request["length"], answer["read"], answer["bytes"]) == (len(long), len(long), len(long))
    assert "text" not in answer


def test_a_body_is_told_before_the_request_is_over(tapped: Tapped) -> None:
    """One that hangs after it has read can be seen with what it read."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(3)
        seen.extend(tapped.told())
        return hello(environ, start_response)

    seen: list[dict[str, Any]] = []
    tapped.look(BODIES)
    tapped.ask(application, post(b"abc"))
    assert kinds(seen) == ["request", "body"]


# -- how it ended


def test_an_application_that_fails(tapped: Tapped) -> None:
    """By what exception, and that the answer is not its own."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError(SECRET)

    tapped.look()
    tapped.ask(application, get())
    _, answer = tapped.told()
    assert (answer["status"], answer["own"], answer["failure"]) == ("500 Internal Server Error", True, "LookupError")
    assert (answer["end"], answer["bytes"]) == ("complete", len("500 Internal Server Error\n"))
    assert SECRET not in str(answer)


def test_a_response_that_breaks_off(tapped: Tapped) -> None:
    """It began, and did not end."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"a"
        raise LookupError

    tapped.look()
    with tapped.client(application) as client:
        client.send(get())
        while client.socket.recv(65_536):
            pass
    assert kinds(told := tapped.told()) == ["request", "head", "answer"]
    assert (told[-1]["end"], told[-1]["failure"], told[-1]["bytes"]) == ("broken off", "LookupError", 1)


def test_a_client_that_leaves(tapped: Tapped) -> None:
    """While it is answered."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        gone.wait(PATIENCE)
        for _ in range(1000):
            yield b"a" * 65_536

    gone = threading.Event()
    tapped.look()
    with tapped.client(application) as client:
        client.send(get())
        client.socket.close()
        gone.set()
        client.wait_for_end()
    assert tapped.told()[-1]["end"] == "client left"


def test_a_request_that_takes_too_long(tapped: Tapped) -> None:
    """It was timed out, whatever was answered."""
    exchange: list[Exchange] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        return hello(environ, start_response)

    tapped.look()
    exchange.append(tapped.exchange(application, Limits(request_timeout=0.05)))
    with tapped.desk.client(exchange[0]) as client:
        client.send(post(b"", length=5)[: -len(EOF)])  # and the body never comes
        client.answer()
    answer = tapped.told()[-1]
    assert (answer["end"], answer["status"], answer["own"]) == ("timed out", "504 Gateway Timeout", True)
    assert tapped.desk.scoreboard.total(SOFT_TIMEOUTS) == 1


# -- what is not run


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"70:CONTENT_LENGTH", "400 Bad Request", "fastcgi_pass"),
        (b"GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "Host"),
        (b"\x01\x01\x00\x00\x00\x08\x00\x00" + bytes(8), "", "BEGIN_REQUEST"),
        (get()[:20], "", "left before the end"),
    ],
)
def test_what_is_no_request(tapped: Tapped, data: bytes, status: str, reason: str) -> None:
    """With the reason, and who sent it."""
    tapped.look()
    with tapped.client(hello) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(65_536):
            pass
    (told,) = tapped.told()
    assert (told["what"], told["status"]) == ("refused", status)
    assert reason in told["reason"]
    assert told["peer"][0] == os.getpid()
    assert "uri" not in told


def test_a_head_that_comes_too_slowly(tapped: Tapped) -> None:
    """Not even a byte, and not all of it."""
    tapped.look()
    for data in (b"", get()[:30]):
        with tapped.client(hello, Limits(header_timeout=0.05), data) as client:
            client.wait_for_end()
    first, second = tapped.told()
    assert (first["status"], second["status"]) == ("", "408 Request Timeout")
    assert "sent nothing for 0.05 s" in first["reason"]


def test_requests_that_are_refused(tapped: Tapped) -> None:
    """Too large, and too late."""
    tapped.look()
    tapped.ask(hello, post(b"x" * 100), Limits(max_body_size=10))
    tapped.ask(hello, get(REQUEST_URI="/late", REQUEST_START=f"t={time.time() - 9:.3f}"), Limits(queue_timeout=1.0))
    large, late = tapped.told()
    assert (large["status"][:4], large["method"]) == ("413 ", "POST")
    assert (late["status"], late["uri"]) == ("503 Service Unavailable", "/late")
    assert "queue_timeout" in late["reason"]
    assert dict(late["fields"])["REQUEST_URI"] == "/late"


def test_clients_that_left_while_they_waited(tapped: Tapped) -> None:
    """Are told as what they are."""
    tapped.look()
    tapped.desk.control.wait(True)
    ours, theirs = socket.socketpair()
    ours.sendall(get())
    ours.close()
    tapped.exchange(hello).serve(theirs.detach())
    (told,) = tapped.told()
    assert (told["what"], told["status"], told["reason"]) == ("refused", "", "its client left while it waited")


# -- secrets


def test_secrets_do_not_leave_the_worker(tapped: Tapped) -> None:
    """In headers, parameters, URIs, responses and bodies; unmasked, all of them do."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        fields = [("Set-Cookie", f"sid={SECRET}"), ("Location", f"/?token={SECRET}"), ("X-Api-Key", SECRET)]
        start_response("302 Found", [*PLAIN, *fields])
        return [f'{{"access_token": "{SECRET}"}}'.encode()]

    names: dict[str, Any] = {
        "HTTP_COOKIE": f"sid={SECRET}",
        "HTTP_AUTHORIZATION": f"Bearer {SECRET}",
        "HTTP_REFERER": f"https://a/?password={SECRET}",
        "QUERY_STRING": f"password={SECRET}",
        "REQUEST_URI": f"/?password={SECRET}",
        "DATABASE_PASSWORD": SECRET,
    }
    request = post(f"user=me&password={SECRET}".encode(), **names)
    tapped.look(BODIES)
    tapped.ask(application, request)
    told = tapped.told()
    assert kinds(told) == ["request", "body", "answer"]
    assert SECRET not in json.dumps(told)
    assert told[1]["text"] == "user=me&password=***"
    assert [pair for pair in told[2]["fields"] if pair[0] == "Set-Cookie"] == [["Set-Cookie", "sid=***"]]
    tapped.look(BODIES | UNMASKED)
    tapped.ask(application, request)
    for message, secrets in zip(tapped.told(), (len(names) + 1, 2, 5), strict=True):  # each says the URI, too
        assert json.dumps(message).count(SECRET) == secrets


def test_who_looks_may_change_meanwhile(tapped: Tapped) -> None:
    """A request that began under an unmasked tap is masked for the next."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        tapped.look()
        start_response("200 OK", [*PLAIN, ("Set-Cookie", f"sid={SECRET}")])
        return [SECRET.encode()]

    tapped.look(BODIES | UNMASKED)
    tapped.ask(application, get(REQUEST_URI=f"/?token={SECRET}"))
    request, answer = tapped.told()
    assert SECRET in str(request)
    assert SECRET not in str(answer)


# -- in nobody's way


def test_what_does_not_fit_is_counted(tapped: Tapped) -> None:
    """Nothing waits; the next message that fits says how many are missing."""
    tapped.look()
    exchange = tapped.exchange(hello)
    missing = 0
    for size in (30_000, 1):
        with suppress(BlockingIOError):
            while True:
                tapped.pair.writing.send(b"x" * size, socket.MSG_DONTWAIT)
    for _ in range(3):
        with tapped.desk.client(exchange) as client:
            client.send(get())
            assert client.answer().body == b"hello"
            missing += 2
    tapped.pair.empty()
    for expected in ([missing, 0], [0, 0]):
        with tapped.desk.client(exchange) as client:
            client.send(get())
            client.answer()
        assert [message.get("lost", 0) for message in tapped.told()] == expected


def test_long_texts_fit(tapped: Tapped) -> None:
    """Values are cut, and what remains is counted; every message fits, of whatever characters it is made."""
    tapped.look(BODIES | UNMASKED)
    for character in ("x", "ä", "\x01"):
        value = character * 3000
        tapped.ask(hello, get(REQUEST_URI="/" + value, **{f"HTTP_X{number}": value for number in range(20)}))
        while (message := receive(tapped.pair.reading)) is not None:
            assert len(message[0]) <= LARGEST_MESSAGE
            told = json.loads(message[0])
            assert told["uri"].endswith("…")
            if told["what"] == "request":
                assert told["left_out"] >= 8
                assert all(len(value) <= 2049 for _, value in told["fields"])


def test_the_application_may_close_it(tapped: Tapped) -> None:
    """Even open something else there: nothing of the traffic is written into that, and requests go on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = os.dup(tapped.pair.writing.fileno())
    tapped.look()
    exchange = Exchange(hello, tapped.desk.slot, tapped.desk.log, Limits(), multiprocess=True, tap=descriptor)
    os.dup2(theirs.fileno(), descriptor)
    with tapped.desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    os.close(descriptor)
    with tapped.desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"
    exchange.close()
    ours.close()
    theirs.close()


def test_nobody_has_the_other_end(tapped: Tapped) -> None:
    """Requests go on."""
    tapped.look()
    tapped.pair.reading.close()
    assert tapped.ask(hello, get()).body == b"hello"
