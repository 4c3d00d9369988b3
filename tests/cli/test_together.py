"""The two commands together: prefork-serve serves the demo, preforkctl asks it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, environment

PROGRAM = "import sys; from prefork.cli.control import main; sys.exit(main())"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("demo")
    with Server("prefork.demo", "--workers", "2", folder=folder) as server:
        yield server


def control(server: Server, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        input=data,
        capture_output=True,
        env=environment({"SOCK_PATH": server.address}),
        check=False,
    )


def test_wait(server: Server) -> None:
    """A server that says it serves does."""
    done = control(server, "wait")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_front_page(server: Server) -> None:
    """The demo's front page comes with its headers, as text for a terminal."""
    done = control(server, "get", "/", "--include")
    assert done.returncode == 0
    assert done.stdout.startswith(b"200 OK\nContent-Type: text/plain; charset=utf-8\n")
    assert b"Answered by worker " in done.stdout


def test_environ(server: Server) -> None:
    """What is asked arrives at the application as a web server would have sent it."""
    lines = control(server, "get", "/env?a=b", "-H", "X-Test: 1").stdout.decode().splitlines()
    expected = {"PATH_INFO = '/env'", "SCRIPT_NAME = ''", "QUERY_STRING = 'a=b'", "HTTP_X_TEST = '1'"}
    assert expected <= set(lines)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_upload(size: int, server: Server, tmp_path: Path) -> None:
    """A body arrives whole, with its length from a file and without one from a pipe."""
    data = os.urandom(size)
    (tmp_path / "data").write_bytes(data)
    expected = f"bytes {size}\nsha256 {hashlib.sha256(data).hexdigest()}\n".encode()
    assert control(server, "get", "/upload", "--data", str(tmp_path / "data")).stdout == expected
    assert control(server, "get", "/upload", "--data", "-", "--method", "PUT", data=data).stdout == expected


def test_download(server: Server) -> None:
    """A streamed answer arrives whole."""
    done = control(server, "get", "/stream?n=100&kb=64")
    assert done.returncode == 0
    assert len(done.stdout) == 100 * 65_536


def test_crash(server: Server) -> None:
    """A worker that dies is a broken response here, a log event there, and nothing to the next request."""
    done = control(server, "get", "/crash")
    assert done.returncode == 1
    assert b"the server closed the connection before the end of the response" in done.stderr
    assert server.wait_event("worker_died")["cause"] == "killed by SIGABRT"
    assert control(server, "wait").returncode == 0
    assert control(server, "get", "/").returncode == 0
