"""Who may come in, and what may be spoken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from prefork.worker.door import Door


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


FCGI, LETTER, DIGIT, UWSGI, TLS = 1, ord("G"), ord("4"), 0, 0x16


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("auto", {FCGI: "fastcgi", LETTER: "http", DIGIT: "", UWSGI: "", TLS: ""}),
        ("fastcgi", {FCGI: "fastcgi", LETTER: "", DIGIT: "", UWSGI: "", TLS: ""}),
        ("http", {FCGI: "", LETTER: "http", DIGIT: "http", UWSGI: "", TLS: ""}),
    ],
)
def test_what_a_unix_socket_speaks(protocol: str, expected: dict[int, str]) -> None:
    """Both by the first byte, or the one that it was told; where it is HTTP alone, HTTP answers to any text."""
    door = Door(protocol)
    assert {first: door.by_first_byte[first] for first in expected} == expected


def test_a_port_speaks_http(port: socket.socket) -> None:
    """CGI parameters from strangers are not taken unless somebody asked for it."""
    assert (Door(listener=port).by_first_byte[FCGI], Door(listener=port).by_first_byte[LETTER]) == ("", "http")
    assert Door("fastcgi", listener=port).by_first_byte[FCGI] == "fastcgi"


def test_who_may_connect(port: socket.socket) -> None:
    """The networks of allowed_addresses; everybody without them. An address mapped into IPv6 is its IPv4 self."""
    door = Door(allowed_addresses=["10.0.0.0/8", "fd00::/8", "127.0.0.1"], listener=port)
    for host, admitted in {
        "10.1.2.3": True,
        "::ffff:10.1.2.3": True,
        "fd00::1%eth0": True,
        "127.0.0.1": True,
        "127.0.0.2": False,
        "192.0.2.1": False,
        "fe80::1": False,
    }.items():
        assert door.admits((host, 1)) is admitted, host
        assert door.admits((host, 1)) is admitted, host  # from memory
    assert Door(listener=port).admits(("192.0.2.1", 1))
    assert Door().admits("")


def test_what_is_remembered_is_bounded(port: socket.socket) -> None:
    """Verdicts about many addresses do not pile up."""
    door = Door(allowed_addresses=["10.0.0.0/8"], listener=port)
    assert all(door.admits((f"10.0.{a}.{b}", 1)) for a in range(10) for b in range(250))


def test_who_is_believed(port: socket.socket) -> None:
    """Peers of a Unix socket by the word unix, others by their network; "none" is nobody."""
    assert Door().origin("").trusted
    assert not Door(forwarded_allow=["127.0.0.0/8"]).origin("").trusted
    assert not Door(forwarded_allow=["none"]).origin("").trusted
    door = Door(forwarded_allow=["unix", "127.0.0.0/8", "::1"], listener=port)
    assert [door.origin((host, 9)).trusted for host in ("127.0.0.1", "::1", "192.0.2.1")] == [True, True, False]


def test_where_a_connection_comes_from(port: socket.socket) -> None:
    """By TCP from its address, to the listener's own; by a Unix socket from nowhere that has a number."""
    origin = Door(listener=port).origin(("::ffff:192.0.2.1", 4711))
    host, number = port.getsockname()
    assert (origin.address, origin.port) == ("192.0.2.1", "4711")
    assert (origin.server_name, origin.server_port) == (host, str(number))
    origin = Door().origin("")
    assert (origin.address, origin.port, origin.server_name, origin.server_port) == ("", "", "localhost", "")
