"""The example Flask application, and the one in plain WSGI, through the real nginx."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from harness import REPOSITORY, Nginx, Server, memory

pytestmark = pytest.mark.nginx

EXAMPLES = REPOSITORY / "examples"
MEGABYTE = 1_048_576


@pytest.fixture(scope="module")
def server(module_folder: Path) -> Iterator[Server]:
    options = ("--chdir", str(EXAMPLES / "flask_app"), "--max-children", "1")
    with Server("validated:flask_app()", *options, folder=module_folder) as running:
        yield running


@pytest.fixture(scope="module", params=["fastcgi", "http"])
def served(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Server, Nginx]]:
    """One server behind both of nginx's ways to it."""
    # Unbuffered both ways: what the client sends and the application yields passes nginx as it comes.
    location = "fastcgi_buffering off; fastcgi_request_buffering off;"
    with Nginx(server.address, folder=server.folder, protocol=request.param, location=location) as nginx:
        yield server, nginx
        assert nginx.errors() == []


def test_form_and_session(served: tuple[Server, Nginx]) -> None:
    """A posted form ends in the session, and the next page knows it."""
    _, nginx = served
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = nginx.fetch("POST", "/greet", body="name=Zo%C3%AB", headers=kind)
    assert (answer.status, answer.headers["Location"]) == (302, "/")
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert "Hello, <b>Zoë</b>." in nginx.fetch(headers={"Cookie": cookie}).text


def test_streamed_upload(served: tuple[Server, Nginx]) -> None:
    """50 MB, sent chunked, so without a Content-Length, arrive whole in a worker whose memory stays flat."""
    server, nginx = served
    assert nginx.fetch("PUT", "/upload", body=b"warm").status == 200
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # VmHWM begins anew, proc(5)
    before = memory(worker)
    chunks = [bytes([number]) * MEGABYTE for number in range(50)]
    answer = nginx.fetch("PUT", "/upload", body=iter(chunks))
    expected = hashlib.sha256(b"".join(chunks)).hexdigest()
    assert json.loads(answer.text) == {"size": 50 * MEGABYTE, "sha256": expected}
    assert memory(worker, "VmHWM") - before < 8 * MEGABYTE


def test_streamed_download(served: tuple[Server, Nginx]) -> None:
    """50 MB yielded in pieces arrive whole and in order."""
    _, nginx = served
    digest = hashlib.sha256()
    with nginx.open("GET", "/download?mb=50") as response:
        body: IO[bytes] = response
        while chunk := body.read(MEGABYTE):
            digest.update(chunk)
    assert digest.hexdigest() == hashlib.sha256(b"".join(bytes([n]) * MEGABYTE for n in range(50))).hexdigest()


def test_error_page(served: tuple[Server, Nginx]) -> None:
    """Flask's own error answer comes through as it is."""
    _, nginx = served
    assert nginx.fetch("GET", "/download?mb=9999").status == 400


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_plain_wsgi(folder: Path, protocol: str) -> None:
    """The plain example answers, and its line is written after the response."""
    chdir = str(EXAMPLES / "plain_wsgi")
    with (
        Server("validated:plain_wsgi()", "--chdir", chdir, "--workers", "1", folder=folder) as server,
        Nginx(server.address, folder=folder, protocol=protocol) as nginx,
    ):
        assert nginx.fetch("GET", "/hello").body == b"Hello from worker 0\n"
        server.wait_line("answered GET /hello")
