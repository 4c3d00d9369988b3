from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from harness import wait_until
from prefork import hooks
from prefork.errors import ClientDisconnected, ProtocolError
from prefork.policy.model import BAD_REQUESTS, READING, RUNNING, WRITING
from prefork.protocol import fastcgi_records as records
from prefork.protocol.fastcgi_client import ResponseReader, encode_request, encode_stdin
from prefork.system.untaken import untaken
from prefork.worker import connection
from prefork.worker.limits import Limits
from wire import EOF, PATIENCE, PLAIN, Answer, Client, Desk, get, hello, post, resident

HEAD = {"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/x"}
ABORT = records.encode_header(records.ABORT_REQUEST, 1, 0)


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body: bytes = environ["wsgi.input"].read(-1) if "CONTENT_LENGTH" not in environ else b""
    if "CONTENT_LENGTH" in environ:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", list(PLAIN))
    return [body]


# -- connections that are no requests


def test_a_probe_is_no_event(desk: Desk) -> None:
    """A connection that closes without a byte is not worth a word."""
    with desk.client(desk.exchange(hello)):
        pass
    assert desk.log.events == []


@pytest.mark.parametrize("data", [b"\x00\x10\x00\x00", b"70:CONTENT_LENGTH"])
def test_another_protocol_is_told_so(desk: Desk, data: bytes) -> None:
    """uwsgi_pass and scgi_pass get a 400 that names fastcgi_pass; the log does too."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(data)
        answer = b""
        while piece := client.socket.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"fastcgi_pass" in answer
    assert "fastcgi_pass" in desk.log.named("protocol_refused")[0]["reason"]
    assert desk.scoreboard.total(BAD_REQUESTS) == 1


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\xff\xff", b"\x80"])
def test_noise_is_closed_and_logged(desk: Desk, data: bytes) -> None:
    """Nothing is answered to what could not read it. The log says whose it was."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(data)
        assert client.socket.recv(1) == b""
    assert desk.log.loud == ["protocol_refused"]
    assert desk.log.named("protocol_refused")[0]["peer"] == (os.getpid(), os.geteuid(), os.getegid())


def test_garbage_after_a_good_beginning_is_closed(desk: Desk) -> None:
    """Where no request is known there is nothing to answer. The log says whose it was."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(b"\x01\x01\x00\x00\x00\x08\x00\x00" + bytes(8))
        assert client.receive() == b""
    assert desk.log.loud == ["bad_request"]
    assert desk.log.named("bad_request")[0]["peer"] == (os.getpid(), os.geteuid(), os.getegid())


def test_a_head_that_never_ends(desk: Desk) -> None:
    """A client that stops within the head is answered 408 when its time is over."""
    with desk.client(desk.exchange(hello, Limits(header_timeout=0.05)), encode_request(HEAD)[:-8]) as client:
        answer = client.answer()
    assert (answer.status, answer.ended) == ("408 Request Timeout", True)
    assert desk.log.loud == ["header_timeout"]
    assert desk.log.named("header_timeout")[0]["peer"] == (os.getpid(), os.geteuid(), os.getegid())


def test_a_client_that_leaves_within_the_head(desk: Desk) -> None:
    """Nobody's fault: a debug event."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request(HEAD)[:-8])
    assert desk.log.loud == []
    assert desk.log.named("client_disconnected")


def test_a_descriptor_that_is_no_socket(desk: Desk) -> None:
    """Logged; the worker lives."""
    exchange = desk.exchange(hello)
    exchange.serve(10_000)
    assert desk.log.loud == ["connection_unusable"]
    assert not exchange.leave


# -- heads that are refused


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"REQUEST_METHOD": "G T"}, "400 Bad Request"),
        ({"CONTENT_LENGTH": "+5"}, "400 Bad Request"),
        ({"HTTP_X": "\0"}, "400 Bad Request"),
        ({"HTTP_X": "x" * 2_000}, "431 Request Header Fields Too Large"),
        ({f"HTTP_{i}": "" for i in range(120)}, "431 Request Header Fields Too Large"),
        ({f"HTTP_{i}": "" for i in range(11)}, "431 Request Header Fields Too Large"),
    ],
)
@pytest.mark.parametrize("body", [b"", bytes(3_000_000)])
def test_a_bad_head_is_answered(desk: Desk, params: dict[str, str], status: str, body: bytes) -> None:
    """The proxy gets a whole response, never a reset, even while it still sends; the application never runs."""
    exchange = desk.exchange(lambda environ, start_response: pytest.fail("ran"), Limits(1_500, 10))
    with desk.client(exchange) as client:
        client.send(encode_request({**HEAD, **params}))
        _send_what_is_taken(client.socket, encode_stdin(body) if body else EOF)
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.answer()
    assert (answer.status, answer.ended) == (status, True)
    assert answer.body == f"{status}\n".encode()
    assert desk.log.loud == ["bad_request"]
    assert desk.scoreboard.total(BAD_REQUESTS) == 1


def _send_what_is_taken(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except BrokenPipeError:
        pass


# -- bodies


def test_a_client_that_is_reset_within_the_body(desk: Desk) -> None:
    """ECONNRESET is a client that left: an OSError in the application, a debug event."""
    with desk.client(desk.exchange(read_all)) as client:
        ask = records.encode_record(records.GET_VALUES, 0, b"")
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "9"}) + ask)
        select.select([client.socket], [], [], PATIENCE)  # the answer is there, and stays unread
    assert desk.log.loud == []


def test_garbage_behind_a_kept_request(desk: Desk) -> None:
    """What cannot be understood ends the connection, after the answer."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request(HEAD, keep_conn=True) + b"\x09 garbage")
        assert client.answer().body == b"hello"
    assert desk.log.loud == []


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("size", [0, 1, 5, 65_536, 3_000_000])
def test_bodies_with_and_without_length(desk: Desk, size: int, length: int | None) -> None:
    """The application reads all of it, and then the end."""
    body = os.urandom(size)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        digest = hashlib.sha256()
        while piece := stream.read(50_000):
            digest.update(piece)
        assert [stream.read(1), stream.readline()] == [b"", b""]
        start_response("200 OK", list(PLAIN))
        return [digest.hexdigest().encode()]

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(post(body, length))
        assert client.answer().body == hashlib.sha256(body).hexdigest().encode()
    assert desk.log.loud == []


def test_the_length_is_never_waited_beyond(desk: Desk) -> None:
    """With all declared bytes there, read() returns although the stream has not ended."""
    with desk.client(desk.exchange(echo)) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "2"}) + encode_stdin(b"ab"))
        client.until(lambda reader: reader.ended)
        assert client.reader.stdout.endswith(b"ab")
        client.send(EOF)


def test_a_body_beyond_its_length_is_cut(desk: Desk) -> None:
    """The application sees what was declared; the log knows."""
    answer = desk.ask(echo, post(b"abcdef", 4))
    assert answer.body == b"abcd"
    assert desk.log.named("body_surplus")[0]["size"] == 2


def read_all(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    while environ["wsgi.input"].read(65_536):
        pass
    return hello(environ, start_response)


@pytest.mark.parametrize("ending", [EOF, b""])
def test_a_short_body_is_an_error_at_once(desk: Desk, ending: bytes) -> None:
    """Fewer bytes than CONTENT_LENGTH: ClientDisconnected in the application, 400 to whoever still listens."""
    caught: list[BaseException] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(100)
        except OSError as error:
            caught.append(error)
            raise
        raise AssertionError

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "100"}) + encode_stdin(b"abc") + ending)
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.answer()
    assert answer.status == "400 Bad Request"
    assert isinstance(caught[0], ClientDisconnected)
    assert "3" in str(caught[0])
    assert desk.log.loud == ["body_refused"]


def test_an_application_may_answer_a_short_body_itself(desk: Desk) -> None:
    """It is an OSError like any other; what it makes of it is sent."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(100)
        except OSError:
            start_response("422 Come Again", list(PLAIN))
        return [b"short"]

    answer = desk.ask(validator(application), post(b"abc", 100))
    assert (answer.status, answer.body) == ("422 Come Again", b"short")
    assert desk.log.loud == []


def test_a_failure_because_of_a_short_body_is_the_clients(desk: Desk) -> None:
    """An exception that was raised from ours is no application failure."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(100)
        except OSError as error:
            raise ValueError("unreadable") from error
        raise AssertionError

    assert desk.ask(application, post(b"abc", 100)).status == "400 Bad Request"
    assert desk.log.loud == ["body_refused"]


def test_a_failure_beside_a_short_body_is_the_applications(desk: Desk) -> None:
    """An exception of its own is logged with its traceback, whatever the client did."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(100)
        except OSError:
            pass
        raise KeyError("unrelated")

    desk.ask(application, post(b"abc", 100))
    assert desk.log.loud == ["request_failed"]


def test_bodies_over_the_limit(desk: Desk) -> None:
    """413, at the head when it is declared, in the middle when it is not."""
    limits = Limits(max_body_size=100_000)
    refused = desk.ask(lambda environ, start_response: pytest.fail("ran"), post(bytes(100_001)), limits)
    assert refused.status[:3] == "413"
    assert desk.ask(read_all, post(bytes(100_001), None), limits).status[:3] == "413"
    assert desk.log.loud == ["body_too_large", "body_refused"]
    assert desk.ask(read_all, post(bytes(100_000), None), limits).status == "200 OK"
    assert desk.ask(read_all, post(bytes(100_000)), limits).status == "200 OK"


def test_a_body_that_stalls(desk: Desk) -> None:
    """408 when the client stops sending for longer than it may."""
    with desk.client(desk.exchange(read_all, Limits(body_timeout=0.05))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "100"}) + encode_stdin(b"abc"))
        client.until(lambda reader: reader.ended)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().status == "408 Request Timeout"
    assert desk.log.loud == ["body_refused"]


def test_a_malformed_record_within_the_body(desk: Desk) -> None:
    """The application gets an error, the client 400, the worker lives."""
    with desk.client(desk.exchange(read_all)) as client:
        client.send(encode_request(HEAD) + encode_stdin(b"abc") + b"\x07 no record at all")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().status == "400 Bad Request"
    assert "version 1" in desk.log.named("body_refused")[0]["reason"]


def test_memory_stays_flat(desk: Desk) -> None:
    """100 MB in and 100 MB out at once cost less than 8 MB."""
    piece = bytes(1_000_000)
    grown: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        before = resident()
        start_response("200 OK", list(PLAIN))
        while received := environ["wsgi.input"].read(100_000):
            yield received
            grown.append(resident() - before)

    def send() -> None:
        for _ in range(100):
            client.send(encode_stdin(piece))
        client.send(EOF)

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "100000000"}))
        sender = threading.Thread(target=send)
        sender.start()
        size = 0
        while client.receive():
            size += len(client.reader.stdout)
            client.reader.stdout.clear()
            client.raw = b""
        sender.join()
    assert size > 100_000_000
    assert max(grown) < 8_000_000


# -- responses


def test_each_piece_arrives_before_the_next_is_made(desk: Desk) -> None:
    """A generator's piece is with the client while the next one is still waited for."""
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"one"
        assert go.wait(PATIENCE)
        environ["wsgi.errors"].write("between\n")
        yield b"two"

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(get())
        client.until(lambda reader: reader.stdout.endswith(b"one"))
        go.set()
        client.until(lambda reader: reader.stdout.endswith(b"two"))
        assert client.reader.stderr == b"between\n"
        assert client.answer().ended


class Endless:
    """A response without an end that knows whether it was closed."""

    def __init__(self, piece: bytes) -> None:
        self.piece = piece
        self.closed = 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> bytes:
        return self.piece

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("size", [1, 100, 100_000, 500_000])
def test_a_client_that_leaves_within_the_response(desk: Desk, size: int) -> None:
    """close() is called, and it is nobody's error."""
    result = Endless(bytes(size))

    def application(environ: dict[str, Any], start_response: Any) -> Endless:
        start_response("200 OK", list(PLAIN))
        return result

    with desk.client(desk.exchange(application)) as client:
        client.send(get())
        client.receive()
    assert result.closed == 1
    assert desk.log.loud == []
    assert desk.log.named("client_disconnected")


def test_an_application_that_ignores_the_lost_client(desk: Desk) -> None:
    """write() raises an OSError; swallowing it changes nothing."""
    raised = 0

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        nonlocal raised
        write = start_response("200 OK", list(PLAIN))
        for _ in range(50):
            try:
                write(bytes(100_000))
            except OSError:
                raised += 1
        return [b"more"]

    with desk.client(desk.exchange(application)) as client:
        client.send(get())
        client.receive()
    assert raised > 1
    assert desk.log.loud == []


def test_a_client_that_reads_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is free again after write_timeout, and it said meanwhile that it was writing."""
    states: list[int] = []

    def looked_at(sock: socket.socket) -> int:
        """Asked for whenever a client that takes nothing was waited for."""
        states.append(desk.scoreboard.state(3))
        return untaken(sock)

    result = Endless(bytes(1_000_000))

    class Watched(Endless):
        def close(self) -> None:
            states.append(desk.scoreboard.state(3))
            result.close()

    def application(environ: dict[str, Any], start_response: Any) -> Endless:
        start_response("200 OK", list(PLAIN))
        return Watched(result.piece)

    monkeypatch.setattr(connection, "untaken", looked_at)
    with desk.client(desk.exchange(application, Limits(write_timeout=0.2))) as client:
        client.send(get())
        client.wait_for_end()
    *meanwhile, afterwards = states
    assert (set(meanwhile), afterwards, result.closed) == ({WRITING}, RUNNING, 1)
    assert "took nothing" in desk.log.named("client_disconnected")[0]["reason"]


@pytest.mark.parametrize("size", [10, 5_000_000])
@pytest.mark.parametrize("answer", [1, 300_000])
def test_an_early_answer_reaches_a_client_that_still_sends(desk: Desk, size: int, answer: int) -> None:
    """A body that nobody reads is drained, so that the proxy sees our response and no reset."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", list(PLAIN))
        return [bytes(answer)]

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": str(size)}))
        sender = threading.Thread(target=client.send, args=(encode_stdin(bytes(size)) + EOF,))
        sender.start()
        got = client.answer()
        sender.join()
    assert (got.status, len(got.body), got.ended) == ("403 Forbidden", answer, True)
    assert desk.log.loud == []


def test_the_drain_ends_with_the_body(desk: Desk) -> None:
    """Nobody waits for a client that has sent everything to close."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request(HEAD))
        client.until(lambda reader: reader.ended)
        client.send(encode_stdin(bytes(500)) + EOF)
        client.wait_for_end()


def test_the_drain_is_bounded(desk: Desk) -> None:
    """A client that sends for ever is cut off."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request(HEAD))
        record = encode_stdin(bytes(65_535)) * 16
        with pytest.raises(ConnectionError):
            send_for_ever(client, record)
        client.wait_for_end()


def send_for_ever(client: Client, data: bytes) -> None:
    while True:
        client.send(data)


# -- one request per connection, and the exceptions


def test_the_ending_of_a_connection_to_keep(desk: Desk) -> None:
    """END_REQUEST and an empty STDERR in the same write; when the client closes, so do we."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request({**HEAD, "REQUEST_METHOD": "GET"}, keep_conn=True) + EOF)
        assert client.receive().endswith(records.ending(1, True))
    assert desk.log.loud == []


def test_a_connection_that_is_kept_by_its_client_ends_soon(desk: Desk) -> None:
    """After 200 ms an idle one is closed by us."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request({**HEAD, "REQUEST_METHOD": "GET"}, keep_conn=True) + EOF)
        assert client.answer().ended


@pytest.mark.parametrize("first", ["read", "unread"])
def test_a_request_that_arrives_instead_of_the_close_is_served(desk: Desk, first: str) -> None:
    """A reused connection loses nothing, whatever the request before left over."""
    application = validator(echo) if first == "read" else hello
    with desk.client(desk.exchange(application)) as client:
        for identifier in (1, 1, 7):
            client.reader = ResponseReader(identifier)
            head = encode_request({**HEAD, "CONTENT_LENGTH": "5"}, keep_conn=True, request_id=identifier)
            client.send(head + encode_stdin(b"hello", identifier) + encode_stdin(b"", identifier))
            client.until(lambda reader: reader.ended)
            assert client.reader.stdout.endswith(b"hello")
    assert desk.log.loud == []


def test_a_kept_connection_with_an_unread_body_is_closed(desk: Desk) -> None:
    """What is left of a body could be taken for a request; the proxy does not keep such a connection either."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "9"}, keep_conn=True))
        client.until(lambda reader: reader.ended)
        client.send(encode_stdin(bytes(9)) + EOF)
        assert client.answer().ended


def test_management_records_and_second_requests_are_answered_while_the_application_runs(desk: Desk) -> None:
    """GET_VALUES, an unknown type and a second id, in the middle of a body."""
    ask = records.encode_record(records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MAX_CONNS", b"")]))
    other = encode_request(HEAD, request_id=2) + encode_stdin(b"", 2)
    with desk.client(desk.exchange(validator(echo), Limits(max_connections=8))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "4"}) + encode_stdin(b"ab"))
        client.send(ask + records.encode_record(88, 0, b"") + other)
        client.until(lambda reader: reader.values and reader.unknown_types)
        client.send(encode_stdin(b"cd") + EOF)
        answer = client.answer()
    assert client.reader.values == {"FCGI_MAX_CONNS": "8"}
    assert client.reader.unknown_types == [88]
    assert answer.body == b"abcd"
    assert records.encode_end_request(2, records.CANT_MPX_CONN) in answer.raw


_ASK = records.encode_record(records.GET_VALUES, 0, records.encode_pairs([(b"FCGI_MPXS_CONNS", b"")]))
_STRANGE = records.encode_record(88, 0, b"")


@pytest.mark.parametrize("keep_conn", [False, True])
def test_what_arrives_with_a_head_is_answered_before_the_application_runs(desk: Desk, keep_conn: bool) -> None:
    """GET_VALUES, an unknown type and a second id, in one piece with a request whose body nobody reads."""
    begin = records.encode_begin_request(1, records.RESPONDER, records.KEEP_CONN if keep_conn else 0)
    other = encode_request(HEAD, request_id=2) + encode_stdin(b"", 2)
    head = encode_request(HEAD, keep_conn=keep_conn)
    assert head.startswith(begin)
    with desk.client(desk.exchange(hello)) as client:
        client.send(_ASK + begin + other + _STRANGE + head[len(begin) :] + EOF)
        answer = client.answer()
    replies = (
        records.encode_values_result(records.encode_pairs([(b"FCGI_MPXS_CONNS", b"")]), {b"FCGI_MPXS_CONNS": b"0"})
        + records.encode_end_request(2, records.CANT_MPX_CONN)
        + records.encode_unknown_type(88)
    )
    assert answer.raw.startswith(replies)
    assert (answer.status, answer.body, answer.ended) == ("200 OK", b"hello", True)
    assert desk.log.loud == []


@pytest.mark.parametrize("body", [EOF, encode_stdin(b"unread") + EOF])
@pytest.mark.parametrize("keep_conn", [False, True])
def test_what_arrives_with_the_end_of_a_request_is_answered(desk: Desk, keep_conn: bool, body: bytes) -> None:
    """A second id in one piece with a request and behind it is told that it is not served; a question is answered."""
    other = encode_request(HEAD, request_id=2) + encode_stdin(b"", 2)
    with desk.client(desk.exchange(hello)) as client:
        client.send(encode_request(HEAD, keep_conn=keep_conn) + body + other + _STRANGE)
        answer = client.answer()
    assert (answer.status, answer.body, answer.ended) == ("200 OK", b"hello", True)
    assert answer.raw.endswith(records.encode_end_request(2, records.CANT_MPX_CONN) + records.encode_unknown_type(88))
    assert desk.log.loud == []


def test_values_without_a_request(desk: Desk) -> None:
    """A connection may ask and go."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(records.encode_record(records.GET_VALUES, 0, b""))
        client.until(lambda _: client.raw)
    assert desk.log.loud == []


def test_another_role(desk: Desk) -> None:
    """UNKNOWN_ROLE, and the connection ends."""
    with desk.client(desk.exchange(hello)) as client:
        client.send(records.encode_begin_request(1, records.FILTER))
        assert client.answer().protocol_status == records.UNKNOWN_ROLE


# -- aborts


def test_an_abort_within_the_body(desk: Desk) -> None:
    """The application gets ClientDisconnected, the proxy END_REQUEST and nothing else."""
    with desk.client(desk.exchange(validator(read_all))) as client:
        client.send(encode_request({**HEAD, "CONTENT_LENGTH": "9"}) + encode_stdin(b"abc") + ABORT)
        answer = client.answer()
    assert (answer.ended, answer.status) == (True, "")
    assert desk.log.loud == []


@pytest.mark.parametrize("body", [EOF, b"", encode_stdin(b"unread")])
def test_an_abort_within_a_streaming_response(desk: Desk, body: bytes) -> None:
    """Noticed between two pieces; close() is called, the response ends. Not looked for behind an unread body."""
    result = Endless(b"x")

    def application(environ: dict[str, Any], start_response: Any) -> Endless:
        start_response("200 OK", list(PLAIN))
        return result

    with desk.client(desk.exchange(application)) as client:
        client.send(encode_request(HEAD) + body)
        client.receive()
        client.send(ABORT)
        if b"unread" not in body:
            client.until(lambda reader: reader.ended)
    assert result.closed == 1
    assert desk.log.loud == []


def test_a_half_closed_client_gets_its_response(desk: Desk) -> None:
    """shutdown(SHUT_WR) after the request is legal, and no sign of leaving."""
    turns = 0

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        nonlocal turns
        start_response("200 OK", list(PLAIN))
        for _ in range(3_000):
            turns += 1
            yield b"x" * 100

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(get())
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.answer()
    assert (len(answer.body), answer.ended, turns) == (300_000, True, 3_000)


def test_a_body_that_arrives_while_the_response_streams_is_kept(desk: Desk) -> None:
    """Looking for an abort loses nothing of the body."""
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"start "
        assert go.wait(PATIENCE)
        yield b"looked "
        yield environ["wsgi.input"].read(100)

    with desk.client(desk.exchange(validator(application))) as client:
        client.send(encode_request(HEAD))
        client.until(lambda reader: reader.stdout.endswith(b"start "))
        client.send(encode_stdin(b"ab") + encode_stdin(b"cd") + EOF)
        go.set()
        assert client.answer().body == b"start looked abcd"


# -- faults of the application


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, BaseException])
@pytest.mark.parametrize("late", [False, True])
def test_what_is_no_exception_ends_the_worker_after_the_answer(
    desk: Desk, error: type[BaseException], late: bool
) -> None:
    """500, or a visibly broken response; logged; and the worker takes no more."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        if late:
            yield b"x"
        raise error(3)

    exchange = desk.exchange(application)
    with desk.client(exchange) as client:
        client.send(get())
        if late:
            with pytest.raises(ProtocolError):
                client.answer()
        else:
            assert client.answer().status == "500 Internal Server Error"
    assert exchange.leave
    assert error.__name__ in desk.log.named("request_failed")[0]["traceback"]


def test_an_ordinary_exception_does_not(desk: Desk) -> None:
    """A bug in one view is no reason to lose a warm worker."""
    assert desk.ask(lambda environ, start_response: 1 / 0, get()).status[:3] == "500"
    assert not desk.exchanges[0].leave


class Nasty(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise SystemExit


def test_an_exception_that_cannot_be_described(desk: Desk) -> None:
    """Even that is answered and logged."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise Nasty

    assert desk.ask(application, get()).status[:3] == "500"
    assert "Nasty" in desk.log.named("request_failed")[0]["traceback"]


def test_an_application_that_closes_our_descriptor(desk: Desk) -> None:
    """The client gets nothing, a descriptor of somebody else is not closed, the worker lives."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        os.close(descriptor)
        os.dup2(null, descriptor)
        return hello(environ, start_response)

    null = os.open(os.devnull, os.O_RDWR)
    ours, theirs = socket.socketpair()
    exchange = desk.exchange(application)
    ours.sendall(get())
    descriptor = theirs.detach()
    exchange.serve(descriptor)
    assert ours.recv(100) == b""
    assert "the application closed descriptor" in str(desk.log.events)
    os.close(descriptor)  # still open: it is the application's
    os.close(null)
    ours.close()


def test_an_application_that_closes_our_descriptor_and_nothing_else(desk: Desk) -> None:
    """The same, when the number stays free."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        os.close(descriptor)
        raise ValueError

    ours, theirs = socket.socketpair()
    ours.sendall(get())
    descriptor = theirs.detach()
    desk.exchange(application).serve(descriptor)
    assert ours.recv(100) == b""
    ours.close()


def test_a_default_timeout_of_the_application_changes_nothing(desk: Desk) -> None:
    """socket.setdefaulttimeout is the application's business."""
    socket.setdefaulttimeout(0.001)
    try:
        exchange = desk.exchange(hello)
    finally:
        socket.setdefaulttimeout(None)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"


class Alarm(Exception):
    pass


def test_an_exception_from_a_signal_handler_within_a_response(desk: Desk) -> None:
    """Raised in the middle of a record, it leaves nothing that could be understood: logged, and closed."""

    def ring(*_: object) -> None:
        raise Alarm

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield large[:1]
        ringing.start()
        yield large

    def ring_in_the_middle() -> None:
        """When it waits for room, a part of the record has been sent."""
        wait_until(lambda: desk.scoreboard.state(3) == WRITING)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    large = bytes(5_000_000)
    ringing = threading.Thread(target=ring_in_the_middle)
    ours, theirs = socket.socketpair()
    ours.sendall(get())
    exchange = desk.exchange(application)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        exchange.serve(theirs.detach())
    finally:
        signal.signal(signal.SIGALRM, before)
    ringing.join()
    assert "Alarm" in desk.log.named("request_failed")[0]["traceback"]
    assert not exchange.leave
    reader = ResponseReader()
    while data := ours.recv(1 << 20):
        reader.receive(data)
    assert not reader.ended
    ours.close()


# -- what the worker knows and tells


def test_the_slot_says_what_runs(desk: Desk) -> None:
    """Method, URI and the number of requests, from the moment the head is complete."""
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((desk.scoreboard.state(3), desk.scoreboard.read(3)))
        return hello(environ, start_response)

    desk.ask(application, get(REQUEST_URI="/a?b"))
    state, record = seen[0]
    assert (state, record.method, record.uri, record.requests) == (RUNNING, "GET", "/a?b", 1)


def test_the_slot_says_reading_between_kept_requests(desk: Desk) -> None:
    """A connection whose next request has begun is being read."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        client.send(encode_request(HEAD)[:9])  # it is there when the answer has gone, however late that is
        return hello(environ, start_response)

    with desk.client(desk.exchange(application)) as client:
        client.send(encode_request({**HEAD}, keep_conn=True) + EOF)
        client.until(lambda reader: reader.ended)
        while desk.scoreboard.state(3) != READING:
            assert client.server.is_alive()


def test_peer(desk: Desk) -> None:
    """The process that connected, as attributes and as a sequence; gone with the connection."""
    peers: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        peers.append(environ["prefork.peer"])
        start_response("200 OK", list(PLAIN))
        if environ["QUERY_STRING"]:
            return [b""]
        peer = peers[-1]
        return [repr([peer.pid, peer.uid, peer.gid, list(peer), peer[0], peer[-1], len(peer), repr(peer)]).encode()]

    exchange = desk.exchange(application)
    for query in ("", "later"):
        with desk.client(exchange) as client:
            client.send(get(QUERY_STRING=query))
            answer = client.answer()
        if not query:
            pid, uid, gid = os.getpid(), os.geteuid(), os.getegid()
            text = f"Peer(pid={pid}, uid={uid}, gid={gid})"
            assert answer.body == repr([pid, uid, gid, [pid, uid, gid], pid, gid, 3, text]).encode()
    assert peers[0].pid == os.getpid()  # known before the end
    with pytest.raises(ClientDisconnected):
        _ = peers[1].pid
    assert repr(peers[1]) == "Peer(closed)"
    with desk.client(exchange) as client:
        client.send(get())
        client.answer()
        with pytest.raises(ClientDisconnected):
            _ = peers[1].pid


@pytest.mark.parametrize("watched", [True, False])
def test_who_connected_is_asked_for_while_somebody_looks(desk: Desk, watched: bool) -> None:
    """For the status; else it would be one more system call a request."""
    desk.control.watch(watched)
    desk.ask(hello, get())
    assert desk.scoreboard.read(3).peer == ((os.getpid(), os.geteuid(), os.getegid()) if watched else None)


def test_who_connected_can_be_told_later(desk: Desk) -> None:
    """As a worker does that is asked for its stack; of a request at hand, and of no other."""
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(desk.scoreboard.read(3).peer)
        exchange.deadline.tell_peer()
        seen.append(desk.scoreboard.read(3).peer)
        return hello(environ, start_response)

    exchange = desk.exchange(application)
    for _ in range(2):
        with desk.client(exchange) as client:
            client.send(get())
            client.answer()
    assert seen == [None, (os.getpid(), os.geteuid(), os.getegid())] * 2
    exchange.deadline.tell_peer()


def test_after_response(desk: Desk) -> None:
    """Callables run in order when the client has everything; a failing one is logged and stops none."""
    client_is_done = threading.Event()
    ran: list[str] = []

    def first() -> None:
        assert client_is_done.wait(PATIENCE)
        ran.append("first")
        hooks.after_response(lambda: ran.append("third"))

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["prefork.after_response"](first)
        hooks.after_response(lambda: 1 / 0)
        hooks.after_response(lambda: ran.append("second"))
        return hello(environ, start_response)

    exchange = desk.exchange(validator(application))
    with desk.client(exchange) as client:
        client.send(get())
        assert client.answer().body == b"hello"
        client_is_done.set()
    assert ran == ["first", "second", "third"]
    assert "ZeroDivisionError" in desk.log.named("after_response_failed")[0]["traceback"]
    assert not exchange.leave


def test_after_response_that_exits(desk: Desk) -> None:
    """SystemExit there ends the worker, as it does in the application."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["prefork.after_response"](sys.exit)
        return hello(environ, start_response)

    assert desk.ask(application, get()).body == b"hello"
    assert desk.exchanges[0].leave


def test_after_response_needs_a_request(desk: Desk) -> None:
    """At any other time it is an error that says so."""
    exchange = desk.exchange(hello)
    with pytest.raises(RuntimeError, match="there is none"):
        hooks.after_response(print)
    exchange.close()
    with pytest.raises(RuntimeError, match="no worker"):
        hooks.after_response(print)


def test_abandon(desk: Desk) -> None:
    """A forked child lets go: not a byte is sent by it, and no callable runs in it."""
    ran: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["prefork.after_response"](lambda: ran.append(True))
        exchange.abandon()  # as os.register_at_fork does in a child
        return hello(environ, start_response)

    exchange = desk.exchange(application)
    with desk.client(exchange) as client:
        client.send(get())
        assert client.receive() == b""
    assert ran == []


def test_a_fault_of_the_server_does_not_leave_serve(desk: Desk) -> None:
    """What nobody thought of is logged, and ends this worker, not the caller."""
    exchange = desk.exchange(hello)
    ours, theirs = socket.socketpair()
    ours.sendall(get())
    desk.scoreboard.close()
    desk.slot._counts.release()
    exchange.serve(theirs.detach())
    assert exchange.leave
    assert "Traceback" in desk.log.named("exchange_failed")[0]["traceback"]
    assert ours.recv(100) == b""
    ours.close()
    desk.scoreboard = type(desk.scoreboard)(64)


SYSTEM_CALLS = """
import os, socket, sys
from wire import Desk, get, hello
desk = Desk()
desk.control.wait(sys.argv[2] == "waiting")
exchange = desk.exchange(hello)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
for turn in range(4):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(get())
    os.write(2, b"begin")
    descriptor, _ = listener._accept()
    exchange.serve(descriptor)
    os.write(2, b"end")
    assert client.recv(1000).startswith(bytes((1, 6)))
    client.close()
"""


@pytest.mark.tool("strace")
@pytest.mark.parametrize(("queue", "looks"), [("empty", []), ("waiting", ["poll"])])
def test_system_calls(tmp_path: Any, queue: str, looks: list[str]) -> None:
    """A small request costs accept, recv, send and close, and nothing else; one look at its client if others wait."""
    trace = tmp_path / "trace"
    command = ["strace", "-o", str(trace), sys.executable, "-c", SYSTEM_CALLS, str(tmp_path / "s"), queue]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    calls = [line.split("(")[0] if "begin" not in line else "begin" for line in trace.read_text().splitlines()]
    last = len(calls) - 1 - calls[::-1].index("begin")
    assert calls[last + 1 : last + 6 + len(looks)] == ["accept4", "recvfrom", *looks, "sendto", "close", "write"]


def test_answers_are_whole(desk: Desk) -> None:
    """The helper itself: an answer has a status, fields and a body."""
    answer = desk.ask(hello, get())
    assert isinstance(answer, Answer)
    assert (answer.status, answer.fields[0], answer.body) == ("200 OK", ("Content-Type", "text/plain"), b"hello")


# -- what an application kept of a request that is over


@pytest.mark.parametrize("how", ["broken", "whole", "failed"])
def test_a_kept_write_does_not_reach_the_next_client(desk: Desk, how: str) -> None:
    """Connections of one number follow each other; whatever the one before left behind is dead."""
    kept: list[Any] = []
    outcomes: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if not kept:
            write = start_response("200 OK", list(PLAIN))
            kept.append(write)
            if how != "failed":
                write(b"first")
            if how != "whole":
                raise RuntimeError("told to fail")
            return []
        try:
            kept[0](b"STOLEN")
            outcomes.append("nothing")
        except ClientDisconnected:
            outcomes.append("refused")
        return hello(environ, start_response)

    exchange = desk.exchange(application)
    answers = []
    for _ in range(2):
        with desk.client(exchange) as client, contextlib.suppress(ProtocolError):  # the first may be broken on purpose
            client.send(get())
            answers.append(client.answer())
    assert answers[-1].status == "200 OK"
    assert b"STOLEN" not in answers[-1].raw
    assert answers[-1].body == b"hello"
    assert outcomes in (["nothing"], ["refused"])


def test_a_kept_write_takes_nothing_from_the_next_client(desk: Desk) -> None:
    """Nor does it look for what its own client may have sent: what comes now is the body of another request."""
    kept: list[Any] = []
    running, sent = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if not kept:
            kept.append(start_response("200 OK", list(PLAIN)))
            kept[0](b"first")
            raise RuntimeError("told to fail")
        running.set()
        assert sent.wait(PATIENCE)
        with pytest.raises(ClientDisconnected):
            kept[0](b"STOLEN")
        body: bytes = environ["wsgi.input"].read()
        start_response("200 OK", list(PLAIN))
        return [body]

    exchange = desk.exchange(application, Limits(body_timeout=1.0))
    with desk.client(exchange) as client, contextlib.suppress(ProtocolError):
        client.send(get())
        client.answer()
    with desk.client(exchange) as client:
        client.send(encode_request({"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/", "CONTENT_LENGTH": "4"}))
        assert running.wait(PATIENCE)
        client.send(encode_stdin(b"body") + EOF)
        sent.set()
        assert client.answer().body == b"body"
