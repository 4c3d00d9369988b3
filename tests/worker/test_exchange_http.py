"""HTTP through a worker's exchange: what the client gets, what the application sees, and who runs at all."""

from __future__ import annotations

import io
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from wsgiref.validate import validator

import pytest

from harness.processes import wait_until
from prefork.errors import ClientDisconnected
from prefork.policy.model import REFUSED_PEERS
from prefork.protocol.http1 import CONTINUE
from prefork.worker import transfer
from prefork.worker.door import Door
from prefork.worker.exchange import Exchange
from prefork.worker.limits import Limits
from wire import PATIENCE, PLAIN, Desk, hello

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"

Application = Callable[[dict[str, Any], Any], Any]


def post(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    declared = b"Content-Length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", declared, *fields, b"", body])


class Answer:
    """A whole HTTP response, its connection closed."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = lines[0].removeprefix("HTTP/1.1 ")
        self.fields = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65_536):
        data += piece
    return data


@contextmanager
def served(exchange: Exchange, address: Any = "", sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection that the exchange serves in a thread; at the end it must have let go of it.

    What was ``sent`` is there before the exchange looks.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    ours.sendall(sent)
    server = threading.Thread(target=exchange.serve, args=(theirs.detach(), address), daemon=True)
    server.start()
    try:
        yield ours
    finally:
        ours.close()
        server.join(PATIENCE)
        assert not server.is_alive(), "the exchange does not end"


def ask(desk: Desk, application: Application, request: bytes, limits: Limits | None = None) -> Answer:
    with served(desk.exchange(application, limits)) as client:
        client.sendall(request)
        return Answer(read_all(client))


def never(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    pytest.fail("the application ran")


def pieces(*chunks: bytes, status: str = "200 OK", fields: list[tuple[str, str]] = PLAIN) -> Application:
    """An application that yields these pieces."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(status, list(fields))
        yield from chunks

    return application


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body: bytes = environ["wsgi.input"].read(-1)
    start_response("200 OK", list(PLAIN))
    return [body]


# -- responses


def test_hello(desk: Desk) -> None:
    """A list is sent with its length, Date and Connection: close; nothing else is added."""
    answer = ask(desk, hello, GET)
    assert (answer.status, answer.body) == ("200 OK", b"hello")
    assert answer.fields.pop("Date").endswith(" GMT")
    assert answer.fields == {"Content-Type": "text/plain", "Content-Length": "5", "Connection": "close"}
    assert desk.log.loud == []


def test_a_stream(desk: Desk) -> None:
    """An iterator is chunked for HTTP/1.1, and ends with the connection for HTTP/1.0; empty pieces are no ends."""
    answer = ask(desk, pieces(b"ab", b"", b"c"), GET)
    assert (answer.fields["Transfer-Encoding"], answer.body) == ("chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    answer = ask(desk, pieces(b"ab", b"", b"c"), GET_10)
    assert ("Transfer-Encoding" in answer.fields, answer.body) == (False, b"abc")
    assert ask(desk, pieces(), GET).body == b"0\r\n\r\n"


def test_a_declared_length_is_kept(desk: Desk) -> None:
    """With Content-Length nothing is chunked; what is beyond it is cut off and logged."""
    answer = ask(desk, pieces(b"abc", b"def", fields=[("Content-Length", "4")]), GET)
    assert (answer.body, "Transfer-Encoding" in answer.fields) == (b"abcd", False)
    assert desk.log.loud == ["response_length"]


@pytest.mark.parametrize(
    ("request_head", "status"), [(HEAD, "200 OK"), (GET, "204 No Content"), (GET, "304 Not Modified")]
)
@pytest.mark.parametrize("chunks", [(b"body",), (), (b"b", b"ody")])
def test_no_body(desk: Desk, request_head: bytes, status: str, chunks: tuple[bytes, ...]) -> None:
    """HEAD, 204 and 304: the head, and not a byte of what the application gave."""
    for application in (pieces(*chunks, status=status, fields=[]), lambda e, s: s(status, []) and [*chunks]):
        answer = ask(desk, application, request_head)
        assert (answer.status, answer.body, "Transfer-Encoding" in answer.fields) == (status, b"", False)


def test_head_has_the_length_of_get(desk: Desk) -> None:
    """What GET would say of the body, HEAD says as well."""
    assert ask(desk, hello, HEAD).fields["Content-Length"] == "5"


def test_the_errors_stream_stays_here(desk: Desk) -> None:
    """HTTP has no way to the proxy's error log: what the application complains about is in ours."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("oh\n")
        return hello(environ, start_response)

    assert ask(desk, application, GET).raw.endswith(b"\r\n\r\nhello")
    assert desk.log.named("wsgi_errors")[0]["message"] == "oh"


@pytest.mark.parametrize("declared", [True, False])
def test_a_file(desk: Desk, declared: bool) -> None:
    """A real file leaves by sendfile(2), with its length."""
    content = os.urandom(300_000)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the server
        file.write(content)
        file.seek(0)
        start_response("200 OK", [("Content-Length", str(len(content)))] if declared else [])
        return environ["wsgi.file_wrapper"](file)

    answer = ask(desk, application, GET)
    assert (answer.fields["Content-Length"], answer.body) == ("300000", content)


def test_a_file_that_shrinks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is not made up: the response ends short of its length."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the server
        file.write(bytes(500_000))
        file.seek(0)
        real = os.fstat
        number = file.fileno()
        larger = os.stat_result([*real(number)[:6], 600_000, *real(number)[7:10]])
        monkeypatch.setattr(os, "fstat", lambda one: larger if one == number else real(one))
        start_response("200 OK", list(PLAIN))
        return environ["wsgi.file_wrapper"](file)

    answer = ask(desk, application, GET)
    assert (answer.fields["Content-Length"], len(answer.body)) == ("600000", 500_000)
    assert desk.log.loud == ["response_length"]


# -- responses that break


def breaks(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield b"some"
    raise RuntimeError("on purpose")


def test_a_broken_stream_has_no_last_chunk(desk: Desk) -> None:
    """HTTP/1.1: it just ends, which no client takes for the whole."""
    assert ask(desk, breaks, GET).body == b"4\r\nsome\r\n"
    assert desk.log.loud == ["request_failed"]


def test_a_broken_stream_without_chunks_has_no_end(desk: Desk) -> None:
    """HTTP/1.0 over a Unix socket: the connection stays open until the client gives up; the worker does not wait."""
    exchange = desk.exchange(breaks)
    with served(exchange) as client:
        client.sendall(GET_10)
        received = b""
        while not received.endswith(b"some"):
            received += client.recv(100)
        with served(exchange) as other:
            other.sendall(GET)
            assert read_all(other).endswith(b"some\r\n")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(PATIENCE)
    assert ask(desk, hello, GET).status == "200 OK"


@pytest.mark.parametrize("limits", [Limits(write_timeout=0.05), Limits(request_timeout=0.05)])
def test_a_stream_without_chunks_that_was_read_too_slowly_has_no_end(desk: Desk, limits: Limits) -> None:
    """HTTP/1.0 over a Unix socket: what a client has of it by then must not look like all of it."""

    def endless(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        while True:
            yield bytes(100_000)

    exchange = desk.exchange(endless, limits)
    with served(exchange) as client:
        client.sendall(GET_10)
        wait_until(lambda: set(desk.log.loud) & {"request_timeout", "write_timeout"} and exchange._connection is None)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            read_all(client)
        client.settimeout(PATIENCE)


def test_a_broken_stream_by_tcp_is_reset(desk: Desk) -> None:
    """HTTP/1.0 over TCP: a reset, after what was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.settimeout(PATIENCE)
        connection, address = listener.accept()
        exchange = Exchange(breaks, desk.slot, desk.log, Limits(), multiprocess=True, door=Door(listener=listener))
        client.sendall(GET_10)
        exchange.serve(connection.detach(), address)
        exchange.close()
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_response_shorter_than_its_length(desk: Desk) -> None:
    """It ends where the application did, and the log says so."""
    assert ask(desk, pieces(b"ab", fields=[("Content-Length", "5")]), GET).body == b"ab"
    assert desk.log.loud == ["response_length"]


def fails(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise RuntimeError("secret")


def test_a_failure_before_the_response(desk: Desk) -> None:
    """500 without details; to HEAD without a body."""
    answer = ask(desk, fails, GET)
    assert (answer.status, answer.body) == ("500 Internal Server Error", b"500 Internal Server Error\n")
    assert ask(desk, fails, HEAD).body == b""


# -- bodies


def test_bodies_both_ways(desk: Desk) -> None:
    """Counted and chunked, small and larger than any buffer."""
    for size in (0, 1, 65_536, 2_000_000):
        body = os.urandom(size)
        assert ask(desk, echo, post(body)).body == body
        chunked = b"%x\r\n%b\r\n" % (size, body) if size else b""
        request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + b"0\r\nA: b\r\n\r\n"
        assert ask(desk, echo, request).body == body
    assert desk.log.loud == []


def test_the_environ_is_what_pep_3333_says(desk: Desk) -> None:
    """wsgiref's validator is content, also with a chunked body and with no path at all."""
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return hello(environ, start_response)

    request = b"POST http://h HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert ask(desk, validator(application), request).status == "200 OK"
    assert (seen["PATH_INFO"], seen["HTTP_HOST"], seen["wsgi.url_scheme"]) == ("/", "h", "http")
    assert seen["prefork.peer"].pid == os.getpid()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_ends_too_early(desk: Desk, chunked: bool) -> None:
    """An error in the application at once, 400 to whoever still listens."""
    caught: list[BaseException] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(-1)
        except OSError as error:
            caught.append(error)
            raise
        raise AssertionError

    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"
    with served(desk.exchange(application)) as client:
        client.sendall(request if chunked else post(b"abc", length=9))
        client.shutdown(socket.SHUT_WR)
        assert Answer(read_all(client)).status == "400 Bad Request"
    assert isinstance(caught[0], ClientDisconnected)


def test_a_body_that_is_malformed(desk: Desk) -> None:
    """Chunks that are none reach the application as an error, and the client as 400."""
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n"
    assert ask(desk, echo, request).status == "400 Bad Request"
    assert desk.log.named("body_refused")


def test_a_body_that_is_too_large(desk: Desk) -> None:
    """413, before the application where the length says it, else inside it; what the client still sends is drained."""
    limits = Limits(max_body_size=1_000)
    assert ask(desk, never, post(bytes(5_000)), limits).status.startswith("413")
    chunk = b"3e9\r\n" + bytes(1_001) + b"\r\n"
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 100 + b"0\r\n\r\n"
    assert ask(desk, echo, request, limits).status.startswith("413")


def test_an_unread_body_does_not_cost_the_response(desk: Desk) -> None:
    """An early answer arrives whole although megabytes of the body were never read."""
    with served(desk.exchange(hello)) as client:
        sender = threading.Thread(target=client.sendall, args=(post(bytes(5_000_000)),))
        sender.start()
        assert Answer(read_all(client)).body == b"hello"
        sender.join()


def test_a_head_that_never_ends(desk: Desk) -> None:
    """A client that stops within the head is answered 408 when its time is over."""
    with served(desk.exchange(never, Limits(header_timeout=0.05)), sent=GET[:-2]) as client:
        assert Answer(read_all(client)).status == "408 Request Timeout"
    assert desk.log.loud == ["header_timeout"]


def test_a_body_that_never_comes(desk: Desk) -> None:
    """A client that stops within the body is answered 408."""
    assert ask(desk, echo, post(b"", length=5), Limits(body_timeout=0.05)).status == "408 Request Timeout"


# -- 100-continue


def test_continue_when_the_application_reads(desk: Desk) -> None:
    """Not before: the application may refuse by the head alone."""
    reading, go = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        reading.set()
        assert go.wait(PATIENCE)
        return echo(environ, start_response)

    with served(desk.exchange(application)) as client:
        client.sendall(post(b"", b"Expect: 100-continue", length=5))
        assert reading.wait(PATIENCE)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(PATIENCE)
        go.set()
        assert client.recv(len(CONTINUE)) == CONTINUE
        client.sendall(b"hello")
        answer = read_all(client)
    assert b"100 Continue" not in answer
    assert Answer(answer).body == b"hello"


def test_no_continue_to_who_is_answered(desk: Desk) -> None:
    """An application that answers without reading sends its answer alone, also when it reads afterwards."""

    def late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hel"
        yield environ["wsgi.input"].read(2)

    for application in (hello, late):
        with served(desk.exchange(application)) as client:
            client.sendall(post(b"", b"Expect: 100-continue", length=2))
            received = b""
            while not received.endswith(b"hel"):
                received += client.recv(1)
            client.sendall(b"lo")
            received += read_all(client)
        assert (received.count(b"HTTP/1.1 "), received[-5:]) == (1, b"hello")


# -- one request, and whose

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

SMUGGLED = {
    "a pipelined request": GET + GET,
    "a request in the unread body": post(GET),
    "a request behind a body": post(b"abc") + GET,
    "both lengths": CHUNKED.replace(b"Host", b"Content-Length: 6\r\nHost") + b"0\r\n\r\n" + GET,
    "TE in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + GET,
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 50\r\n\r\n" + GET,
    "an obfuscated coding": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n" + GET,
    "a coding behind a tab": CHUNKED.replace(b": chunked", b":\tchunked") + b"0\r\n\r\n" + GET,
    "a size that wraps": CHUNKED + b"10000000000000000\r\n" + GET,
    "a lone LF in a size": CHUNKED + b"0\n\n" + GET,
    "a bad head, then a good one": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + GET,
}


@pytest.mark.parametrize("stream", SMUGGLED.values(), ids=SMUGGLED)
@pytest.mark.parametrize("reads", [True, False])
def test_a_second_request_never_reaches_the_application(desk: Desk, stream: bytes, reads: bool) -> None:
    """Whatever is behind, inside or hidden in a request: one response at most, one run at most, then the end."""
    runs = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        runs.append(environ["REQUEST_METHOD"])
        return echo(environ, start_response) if reads else hello(environ, start_response)

    with served(desk.exchange(application)) as client:
        client.sendall(stream)
        client.shutdown(socket.SHUT_WR)
        raw = read_all(client)
    assert len(runs) <= 1
    assert sum(raw.count(b"HTTP/1.1 %d" % kind) for kind in (2, 4, 5)) == 1


def test_endless_surplus_does_not_hold_the_response(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never stops sending behind its request gets its stream; what it sends is not kept."""
    monkeypatch.setattr(transfer, "_LOOK_EVERY", 0.0)
    stop = threading.Event()

    def flood(client: socket.socket) -> None:
        try:
            while not stop.is_set():
                client.sendall(bytes(65_536))
        except OSError:
            pass

    with served(desk.exchange(pieces(*[b"x"] * 50))) as client:
        client.sendall(GET)
        sender = threading.Thread(target=flood, args=(client,))
        sender.start()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += client.recv(65_536)
        stop.set()
        client.shutdown(socket.SHUT_RDWR)
        sender.join()
    assert received.count(b"1\r\nx\r\n") == 50


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /" + b"a" * 3_000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 3_000, 431),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_a_bad_head_is_answered(desk: Desk, data: bytes, status: int) -> None:
    """Short and plain, before the application, with one event."""
    answer = ask(desk, never, data, Limits(2_000, 10))
    assert answer.status == f"{status} {HTTPStatus(status).phrase}"
    assert answer.body == f"{answer.status}\n".encode()
    assert desk.log.loud == ["bad_request"]


# -- who may come in


def exchange_at(desk: Desk, application: Application, listener: socket.socket, **rules: Any) -> Exchange:
    made = Exchange(
        application, desk.slot, desk.log, Limits(), multiprocess=True, door=Door(listener=listener, **rules)
    )
    desk.exchanges.append(made)
    return made


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_strangers_are_turned_away(desk: Desk, port: socket.socket) -> None:
    """Closed without a word, and counted; the log hears of the first, and whenever their number has doubled."""
    exchange = exchange_at(desk, never, port, allowed_addresses=["10.0.0.0/8"])
    for _ in range(5):
        with served(exchange, ("192.0.2.1", 1)) as client:
            assert client.recv(1) == b""
    assert [fields["refused"] for fields in desk.log.named("address_refused")] == [1, 2, 4]
    assert desk.scoreboard.total(REFUSED_PEERS) == 5


def test_a_port_takes_no_parameters_from_strangers(desk: Desk, port: socket.socket) -> None:
    """FastCGI on a TCP listener is refused unless it was asked for; the log says what nginx should say."""
    with served(exchange_at(desk, never, port), ("127.0.0.1", 1)) as client:
        client.sendall(b"\x01\x01\x00\x01\x00\x08\x00\x00")
        assert client.recv(1) == b""
    assert "it must say proxy_pass http://" in desk.log.named("protocol_refused")[0]["reason"]


def test_a_client_by_tcp(desk: Desk, port: socket.socket) -> None:
    """Its address is in the environ; what names a process of this machine is there, and empty."""
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        return hello(environ, start_response)

    with served(exchange_at(desk, application, port), ("192.0.2.1", 4711)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        read_all(client)
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("192.0.2.1", "4711")
    assert seen["prefork.peer"] is None
    assert desk.scoreboard.read(3).peer == "192.0.2.1:4711"


def test_a_bad_client_by_tcp(desk: Desk, port: socket.socket) -> None:
    """The log has its address."""
    with served(exchange_at(desk, never, port), ("2001:db8::7", 4711)) as client:
        client.sendall(b"GET / HTTP/9.9\r\n\r\n")
        read_all(client)
    assert desk.log.named("bad_request")[0]["peer"] == "[2001:db8::7]:4711"


def test_a_socket_for_fastcgi_alone(desk: Desk) -> None:
    """HTTP there is answered 400 with the directive that is right."""
    exchange = Exchange(never, desk.slot, desk.log, Limits(), multiprocess=True, door=Door("fastcgi"))
    with served(exchange) as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        assert b"it must say fastcgi_pass" in read_all(client)
    exchange.close()


def test_a_file_like_object(desk: Desk) -> None:
    """What is no real file is read and chunked."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))
        return environ["wsgi.file_wrapper"](io.BytesIO(b"abc"))

    assert ask(desk, application, GET).body == b"3\r\nabc\r\n0\r\n\r\n"
