"""TCP, from the command line to the client: through nginx, and without one."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Nginx, Server, connect, fastcgi, fetch, run

GET = b"GET /echo?%b HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    (folder / "noted").mkdir()
    return {"PARTS_FOLDER": str(folder / "noted")}


@pytest.fixture
def server(folder: Path, env: dict[str, str]) -> Iterator[Server]:
    with Server("parts", "--max-children", "2", folder=folder, socket="127.0.0.1:0", env=env) as running:
        yield running


def port_of(server: Server) -> tuple[str, int]:
    """Where it really listens."""
    return server.port


def noted(server: Server) -> list[str]:
    """The requests that reached the application."""
    return (server.folder / "noted" / "echoed").read_text().split()


@pytest.mark.nginx
@pytest.mark.parametrize("protocol", ["http", "http/1.0"])
def test_through_nginx(server: Server, protocol: str) -> None:
    """Bodies arrive, and answers that break are seen as broken: by a missing last chunk, or by a reset."""
    host, port = port_of(server)
    with Nginx(f"{host}:{port}", folder=server.folder, protocol=protocol) as nginx:
        assert nginx.fetch("POST", "/echo", body=b"x" * 100_000).text.startswith("100000 ")
        assert nginx.errors() == []
        for path in ("/breaks", "/short"):
            with pytest.raises(http.client.HTTPException):
                nginx.fetch("GET", path)


def test_a_second_request_never_reaches_the_application(server: Server) -> None:
    """Over a real socket, whatever hides it: the answer to the first, or 400, and the end."""
    chunked = b"POST /echo?%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    streams = [
        GET % b"good1" + GET % b"bad",
        chunked % b"bad" + b"Content-Length: 3\r\n\r\n0\r\n\r\n" + GET % b"bad",
        chunked % b"good2" + b"\r\n0\r\n\r\n" + GET % b"bad",
        chunked % b"bad" + b"\r\n0\n\n" + GET % b"bad",
        b"GET /echo?bad HTTP/1.1\r\nHost : x\r\n\r\n" + GET % b"bad",
    ]
    for stream in streams:
        with connect(port_of(server)) as client:
            client.sendall(stream)
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
        assert answer.count(b"HTTP/1.1 ") == 1
    assert fetch(port_of(server), "GET", "/echo?last").status == 200
    assert noted(server) == ["good1", "good2", "last"]


def test_a_stop_loses_nobody_who_waits(server: Server) -> None:
    """All that were connected when the server was told to stop are answered; later ones are not kept waiting."""
    clients = [connect(port_of(server)) for _ in range(20)]
    held = [clients[0], clients[1]]  # they occupy both workers
    for client in held:
        client.sendall(b"POST /echo?held HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    server.send(signal.SIGTERM)
    server.wait_event("stopping")
    for client in held:
        client.sendall(b"x")
    for client in clients[2:]:
        client.sendall(GET % b"waited")
    for client in clients:
        with client:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.wait_exit() == 0
    with pytest.raises(ConnectionRefusedError):
        connect(port_of(server))


def test_an_idle_server_stops_at_once(server: Server) -> None:
    """Workers that wait in accept(2) are woken."""
    assert server.stop(timeout=5) == 0


def test_a_port_in_use(server: Server) -> None:
    """Exit status 69, and who listens there."""
    host, port = port_of(server)
    done = run(sys.executable, "-m", "prefork", "prefork.demo", "--socket", f"{host}:{port}", folder=server.folder)
    assert done.returncode == 69
    assert f"{host}:{port} is in use by a live server, pid {server.pid}" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--socket", "0.0.0.0:0", "--protocol", "fastcgi"), 78, "expected allowed_addresses"),
        (("--socket", "x.sock", "--allowed-addresses", "10.0.0.1"), 78, "who may connect to a Unix socket"),
        (("--socket", "nowhere.invalid:80"), 78, "cannot be resolved"),
    ],
)
def test_what_cannot_be_meant(folder: Path, words: tuple[str, ...], status: int, message: str) -> None:
    """Refused before anything is started, with the mend."""
    # Where no name server answers, the resolver gives up after a second, resolv.conf(5).
    env = {"RES_OPTIONS": "timeout:1 attempts:1"}
    done = run(sys.executable, "-m", "prefork", "prefork.demo", *words, folder=folder, env=env)
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr


def test_fastcgi_for_those_who_may(folder: Path, env: dict[str, str]) -> None:
    """With allowed_addresses a port speaks FastCGI; to others it says nothing at all."""
    options = ["--protocol", "fastcgi", "--workers", "1"]
    with Server("parts", *options, folder=folder, socket="127.0.0.1:0", env=env) as server:
        assert fastcgi(port_of(server), "POST", "/echo", body=b"x").status == 200
    options += ["--allowed-addresses", "127.0.0.2,10.0.0.0/8"]
    with Server("parts", *options, folder=folder, socket="0.0.0.0:0", env=env) as server:
        with connect(("127.0.0.1", port_of(server)[1])) as client:
            assert client.recv(1) == b""
        server.wait_event("address_refused", address="127.0.0.1", refused=1)


def test_an_inherited_port(folder: Path, env: dict[str, str]) -> None:
    """fd://N may be TCP; it stays its giver's, who may go on using it."""
    with socket.create_server(("127.0.0.1", 0)) as giver:
        address = giver.getsockname()
        number = giver.fileno()
        with Server("parts", folder=folder, socket=f"fd://{number}", pass_fds=[number], env=env) as server:
            assert fetch(address, "POST", "/echo", body=b"x").status == 200
            assert server.stop() == 0
        with connect(address):
            giver.accept()[0].close()


@pytest.mark.parametrize("where", ["127.0.0.1:0", None])
def test_preforkctl_speaks_http(folder: Path, env: dict[str, str], where: str | None) -> None:
    """To a port by itself, to a path when it is told; a body of unknown length goes in chunks."""
    with Server("parts", "--protocol", "http", "--workers", "1", folder=folder, socket=where, env=env) as server:
        address = str(server.find("serving")[0]["socket"])
        control = "from prefork.cli.control import main; raise SystemExit(main())"
        command = [sys.executable, "-c", control, "get", "--socket", address, "--include", "/echo"]
        command += [] if where else ["--protocol", "http"]
        (folder / "body").write_bytes(b"x" * 70_000)
        done = run(*command, "--data", str(folder / "body"), folder=folder)
        assert (done.returncode, done.stdout.startswith("200 OK\n"), "70000 " in done.stdout) == (0, True, True), done
        reading, writing = os.pipe()
        feeder = threading.Thread(target=_feed, args=(writing,))
        feeder.start()
        with open(reading, "rb") as pipe:
            done = run(*command, "--data", "-", folder=folder, stdin=pipe)
        feeder.join()
        assert (done.returncode, "50000 " in done.stdout) == (0, True), done


def _feed(descriptor: int) -> None:
    with open(descriptor, "wb") as pipe:
        pipe.write(b"y" * 50_000)
