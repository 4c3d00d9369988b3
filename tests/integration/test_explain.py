"""What `preforkctl explain` makes of lines that the real nginx writes when the real things go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from harness import Nginx, Server, environment, wait_until

_PROGRAM = "import sys; from prefork.cli.control import main; sys.exit(main())"

pytestmark = pytest.mark.nginx


def explained(nginx: Nginx) -> dict[str, int]:
    """How often each kind of complaint is found in nginx's log, by the command itself."""
    return {finding["kind"]: finding["count"] for finding in findings(nginx)}


def findings(nginx: Nginx) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", _PROGRAM, "explain", "--json"]
    done = subprocess.run(
        command, input=nginx.error_log, capture_output=True, text=True, env=environment({}), timeout=30, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


_APPLICATION = """
import os, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [("X-Long", "x" * 20_000)] if path == "/big" else []
    if path == "/die":
        os.kill(os.getpid(), 9)
    if path in ("/slow", "/slower"):
        time.sleep(1 if path == "/slow" else 4)
    start_response("200 OK", headers)
    return fail() if path == "/fail" else [b"fine"]

def fail():
    yield b"half of it"
    raise RuntimeError("told to fail")
"""


def serving(folder: Path, *options: str) -> Server:
    (folder / "sick.py").write_text(_APPLICATION)
    return Server("sick", "--workers", "1", *options, folder=folder)


def test_no_socket_and_a_dead_one(folder: Path) -> None:
    """Before the start there is no file; after a kill -9 there is one, and nobody behind it."""
    server = serving(folder)
    with Nginx(server.address, folder=folder) as nginx:
        assert nginx.fetch().status == 502
        assert explained(nginx) == {"no_socket": 1}
        with server:
            assert nginx.fetch().status == 200
            server.kill()
        assert nginx.fetch().status == 502
        assert explained(nginx) == {"no_socket": 1, "refused": 1}
        Path(server.address).unlink()


@pytest.mark.root
def test_a_socket_that_nginx_may_not_write_to(folder: Path) -> None:
    folder.chmod(0o755)
    options = ("--socket-mode", "600")
    with serving(folder, *options) as server, Nginx(server.address, folder=folder, user="www-data") as nginx:
        assert nginx.fetch().status == 502
        assert explained(nginx) == {"forbidden": 1}


def test_workers_that_die_and_answers_that_nginx_does_not_like(folder: Path) -> None:
    """A killed worker, an application that fails half-way, a head beyond the buffer, an answer beyond the patience."""
    with (
        serving(folder) as server,
        Nginx(server.address, folder=folder, location="fastcgi_read_timeout 3s;") as nginx,
    ):
        assert nginx.fetch(path="/die").status == 502
        assert explained(nginx).keys() in ({"closed_early"}, {"reset"})
        with pytest.raises(HTTPException):
            nginx.fetch(path="/fail")
        wait_until(lambda: explained(nginx).get("broken_off"), what="nginx's line about a broken response")
        assert nginx.fetch(path="/big").status == 502
        assert explained(nginx)["header_too_big"] == 1
        assert nginx.fetch(path="/slower").status == 504
        assert explained(nginx)["answer_timed_out"] == 1


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_a_timeout_is_about_the_socket(folder: Path, protocol: str) -> None:
    """With HTTP, nginx runs socket and URI together there."""
    patience = "fastcgi_read_timeout 250ms;"
    with (
        serving(folder) as server,
        Nginx(server.address, folder=folder, protocol=protocol, location=patience) as nginx,
    ):
        assert nginx.fetch(path="/slow?a=b:c").status == 504
        assert [(each["kind"], each["upstream"]) for each in findings(nginx)] == [("answer_timed_out", server.address)]


def test_a_queue_that_overflows(folder: Path) -> None:
    with serving(folder, "--backlog", "1") as server, Nginx(server.address, folder=folder) as nginx:
        clients = [threading.Thread(target=lambda: nginx.fetch(path="/slow")) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert explained(nginx).keys() == {"queue_full"}
