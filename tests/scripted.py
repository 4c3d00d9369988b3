"""A server of one connection that says what a test tells it to, however wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from prefork.protocol import fastcgi_records as records

Script = Callable[[socket.socket], None]

END = records.encode_end_request(1, records.REQUEST_COMPLETE)


def stdout(data: bytes) -> bytes:
    return records.encode_stream(records.STDOUT, 1, data)


def stderr(data: bytes) -> bytes:
    return records.encode_stream(records.STDERR, 1, data)


def read_request(connection: socket.socket) -> bytes:
    """Everything up to the end of STDIN."""
    data = b""
    end = records.encode_header(records.STDIN, 1, 0)
    while not data.endswith(end):
        chunk = connection.recv(65_536)
        assert chunk, "the client left before its request was whole"
        data += chunk
    return data


def body_of(request: bytes) -> bytes:
    """What a request carried on STDIN."""
    body = b""
    while request:
        kind, length, padding = request[1], int.from_bytes(request[4:6], "big"), request[6]
        if kind == records.STDIN:
            body += request[8 : 8 + length]
        request = request[8 + length + padding :]
    return body


@contextlib.contextmanager
def serving(path: Path, script: Script) -> Iterator[None]:
    """Listen at a path and run the script with the first connection; its failures are the test's."""
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # shut down: nobody came
        try:
            with connection:
                script(connection)
        except BaseException as problem:  # noqa: BLE001 - raised again in the test's own thread
            problems.append(problem)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes an accept that nobody came for
            thread.join()
    if problems:
        raise problems[0]


def answering(data: bytes) -> Script:
    """A script that reads the request and sends these bytes."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)

    return script


def values(connection: socket.socket) -> None:
    """A script that answers FastCGI's own question."""
    question = connection.recv(4096)
    assert question[1] == records.GET_VALUES
    connection.sendall(
        records.encode_record(records.GET_VALUES_RESULT, 0, records.encode_pairs([(b"FCGI_MAX_CONNS", b"1")]))
    )
