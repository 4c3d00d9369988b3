"""Bodies on their way through the real nginx: piece by piece, cut off by the client, broken by the application."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Nginx, Server, connect, wait_until

pytestmark = pytest.mark.nginx

PROTOCOLS = pytest.mark.parametrize("protocol", ["fastcgi", "http"])
KEEPING = pytest.mark.parametrize(
    ("protocol", "keepalive"),
    [("fastcgi", 0), ("fastcgi", 4), ("http", 0), ("http", 4), ("http/1.0", 0)],
    ids=["fastcgi_pass", "fastcgi_keep_conn", "proxy_pass", "keepalive", "http/1.0"],
)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    (folder / "noted").mkdir()
    os.mkfifo(folder / "noted" / "release")
    with Server("parts", "--max-children", "2", folder=folder, env={"PARTS_FOLDER": str(folder / "noted")}) as running:
        yield running


@PROTOCOLS
def test_a_generator_arrives_piece_by_piece(server: Server, protocol: str) -> None:
    """With fastcgi_buffering off the client holds each piece before the application makes the next."""
    with Nginx(server.address, folder=server.folder, protocol=protocol, location="fastcgi_buffering off;") as nginx:
        connection = http.client.HTTPConnection(*nginx.address, timeout=30)
        connection.request("GET", "/pieces")
        with open(server.folder / "noted" / "release", "w") as release:
            release.write("go\n")
            release.flush()
            response = connection.getresponse()
            for number in range(5):
                assert response.readline() == f"piece {number}\n".encode()
                if number < 4:
                    release.write("go\n")
                    release.flush()
        assert response.read() == b""  # the FIFO's end is the body's
        connection.close()


@KEEPING
def test_a_client_that_leaves(server: Server, protocol: str, keepalive: int) -> None:
    """The body of a response whose client went away is closed, once, and the worker serves on."""
    closed = server.folder / "noted" / "closed"
    with Nginx(server.address, folder=server.folder, protocol=protocol, keepalive=keepalive) as nginx:
        with connect(nginx.address) as connection:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100_000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert wait_until(lambda: closed.exists() and closed.read_text()) == "closed\n"
        assert [nginx.fetch("POST", "/echo", body=b"x").status for _ in range(4)] == [200] * 4
    assert server.stop() == 0
    assert closed.read_text() == "closed\n"
    assert server.find("request_failed") == []


@KEEPING
@pytest.mark.parametrize("path", ["/breaks", "/short"])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_response_that_ends_early_is_seen_as_broken(
    server: Server, path: str, buffering: str, protocol: str, keepalive: int
) -> None:
    """A client never takes a truncated response for a whole one; the worker that sent it serves on."""
    # Over a Unix socket HTTP/1.0 has no sign for it: what nginx sees is that nothing more comes.
    location = f"fastcgi_buffering {buffering}; fastcgi_read_timeout 2s;"
    ways: dict[str, Any] = {"protocol": protocol, "keepalive": keepalive, "location": location}
    with Nginx(server.address, folder=server.folder, **ways) as nginx:
        with pytest.raises(http.client.HTTPException):
            nginx.fetch("GET", path)
        assert nginx.errors() != []
        assert nginx.fetch("POST", "/echo", body=b"x").status == 200


@PROTOCOLS
def test_an_application_that_fails_first(server: Server, protocol: str) -> None:
    """An exception before the response began is a 500 that tells the client nothing, and one event that tells all."""
    with Nginx(server.address, folder=server.folder, protocol=protocol) as nginx:
        answer = nginx.fetch("GET", "/fails")
    assert answer.status == 500
    assert b"purpose" not in answer.body
    (event,) = [event for event in server.events if "failed on purpose" in str(event.get("traceback"))]
    assert (event["method"], event["uri"]) == ("GET", "/fails")


@PROTOCOLS
def test_a_body_cut_short_by_the_client(server: Server, protocol: str) -> None:
    """A client that leaves in the middle of its upload costs nothing but that request."""
    location = "fastcgi_request_buffering off;"
    with Nginx(server.address, folder=server.folder, protocol=protocol, location=location) as nginx:
        with connect(nginx.address) as connection:
            connection.sendall(b"POST /echo?cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhalf")
        assert nginx.fetch("POST", "/echo?whole", body=b"whole").status == 200
    assert server.stop() == 0
    assert (server.folder / "noted" / "echoed").read_text() == "whole\n"
