"""The harness itself: nginx, the clients and the process facts, against a FastCGI responder of thirty lines."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Nginx, alive, encode_request, fastcgi, memory
from harness.clients import record
from harness.processes import PATIENCE, listens
from harness.server import _Log


def _read_request(connection: socket.socket) -> bytes:
    """The STDIN of one request; its end is the empty STDIN record."""
    body = b""
    with connection.makefile("rb") as stream:
        while header := stream.read(8):
            _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", header)
            content = stream.read(length)
            stream.read(padding)
            if kind == 5:
                if not content:
                    break
                body += content
    return body


def _answer(body: bytes) -> bytes:
    output = b"Status: 201 Made\r\nContent-Type: text/plain\r\n\r\n" + body.upper()
    parts = [record(6, output[start : start + 8192], padding=3) for start in range(0, len(output), 8192)]
    return b"".join(parts) + record(6, b"") + record(3, bytes(8))


def _truncated(body: bytes) -> bytes:
    return record(6, b"Status: 200 OK\r\n\r\nhalf a resp") + b"\xff" * 8


@contextmanager
def _responder(path: Path, answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A FastCGI responder at that path; one thread, one connection at a time."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # EINVAL: shut down
                    return
                with connection:
                    connection.sendall(answer(_read_request(connection)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(path)
        finally:
            listener.shutdown(socket.SHUT_RD)
            thread.join()


@pytest.mark.nginx
def test_nginx_passes_a_request_on(folder: Path) -> None:
    """A request through nginx reaches the socket and its answer comes back whole."""
    with _responder(folder / "app.sock", _answer) as address, Nginx(address, folder=folder) as nginx:
        response = nginx.fetch("POST", "/", body=b"hello")
        assert (response.status, response.body, nginx.errors()) == (201, b"HELLO", [])


@pytest.mark.nginx
@pytest.mark.parametrize("keepalive", [0, 4])
def test_a_broken_response_is_seen_as_broken(folder: Path, keepalive: int) -> None:
    """A response that breaks off is no whole response at the client, and nginx's error log says so."""
    with (
        _responder(folder / "app.sock", _truncated) as address,
        Nginx(address, folder=folder, keepalive=keepalive) as nginx,
    ):
        with pytest.raises(http.client.HTTPException):
            nginx.fetch()
        assert len(nginx.errors()) == 1


def test_fastcgi_client(folder: Path) -> None:
    """The client's encoder and decoder agree with the responder's."""
    with _responder(folder / "app.sock", _answer) as address:
        response = fastcgi(address, "POST", body=b"x" * 100_000)
    assert (response.status, response.headers) == (201, {"Content-Type": "text/plain"})
    assert response.body == b"X" * 100_000
    assert (response.complete, response.broken) == (True, False)


def test_fastcgi_client_notices_a_broken_response(folder: Path) -> None:
    """Bytes that are no record, and a missing END_REQUEST, are told apart from a whole response."""
    with _responder(folder / "app.sock", _truncated) as address:
        response = fastcgi(address)
    assert (response.body, response.complete, response.broken) == (b"half a resp", False, True)


def test_long_names_have_four_byte_lengths() -> None:
    """Names and values above 127 bytes are encoded with the long form of their length."""
    assert b"\x04\x80\x00\x01\x00LONG" + b"v" * 256 in encode_request(params={"LONG": "v" * 256})


def test_process_facts() -> None:
    """A living process is alive, with memory; one that has been waited for is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert alive(process.pid)
        assert memory(process.pid) > 0
        process.kill()
        process.wait()
        assert not alive(process.pid)
    assert alive(os.getpid())


@pytest.mark.parametrize(("family", "address"), [("UNIX", ""), ("INET", ("127.0.0.1", 0))])
def test_who_listens(family: str, address: object) -> None:
    """A bound socket is not enough; and nobody listens who has ended."""
    script = f"import socket; s = socket.socket(socket.AF_{family}); s.bind({address!r}); "
    script += "print(flush=True); input(); s.listen(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for expected in (False, True):
            process.stdout.readline()
            assert listens(process.pid) is expected
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(PATIENCE)
    assert not listens(process.pid)


def test_what_was_written_is_seen() -> None:
    """At once, however far the thread that reads has come; and the last line needs no end."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as file:
        log = _Log(stream)
        for number in range(1000):
            file.write(b"line %d\n" % number)
            assert log.lines()[-1] == f"line {number}"
        file.write(b"half a line")
        assert len(log.lines()) == 1000
        file.close()
        assert log.lines()[1000:] == ["half a line"]
        assert log.wait_end(PATIENCE)
        log.close()
