"""Listening on TCP."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from prefork.errors import AddressInUse, ConfigurationError, PermissionProblem
from prefork.system import tcp
from prefork.system.listener import Listener, parse_address
from prefork.system.sockdiag import QueueReading, SocketDiagnosis

LOOPBACK = parse_address("127.0.0.1:0")


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A listener on a free port, open."""
    made = Listener.claim(LOOPBACK)
    made.open()
    yield made
    made.close()


def connect(listener: Listener) -> socket.socket:
    host, _, port = listener.port.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), 5)


def accepting(listener: Listener) -> socket.socket:
    """As a worker has it: another descriptor of the same socket."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def test_a_port_serves_only_when_it_is_opened() -> None:
    """Claimed, it refuses connections: there is nobody yet who could answer. Opened, it takes them."""
    claimed = Listener.claim(LOOPBACK)
    with pytest.raises(ConnectionRefusedError):
        connect(claimed)
    claimed.open()
    with connect(claimed), accepting(claimed) as worker:
        connection, _ = worker.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert (claimed.path, claimed.is_tcp, claimed.is_public) == (None, True, False)
    claimed.close()
    assert claimed.port == ""


def test_who_says_nothing_is_left_to_the_kernel(listener: Listener) -> None:
    """Until it says something: nobody is handed a connection that he would have to wait for, nor does it queue."""
    listener.await_words()
    with connect(listener) as silent, connect(listener) as other, accepting(listener) as worker:
        worker.settimeout(5)
        for client in (other, silent):
            client.sendall(b"x")
            with worker.accept()[0] as connection:
                assert connection.getpeername() == client.getsockname()
            assert tcp.queue(worker) == QueueReading(0, listener.backlog)


def test_a_kernel_that_does_not_wait_for_words_is_no_error() -> None:
    """The listener serves as well without: a socket that knows no such option stands for it."""
    with socket.socket(socket.AF_UNIX) as other:
        tcp.await_words(other)


def test_a_live_server_is_in_the_way(listener: Listener) -> None:
    """The port of a live server cannot be claimed, and the error names him: this process, here."""
    with pytest.raises(AddressInUse, match="asked for twice in one server"):
        Listener.claim(parse_address(listener.port))


def test_another_process_is_named(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    """Where /proc tells who listens, the message does."""
    monkeypatch.setattr(tcp, "find_holder", lambda sockets: 4711 if sockets else None)
    with pytest.raises(AddressInUse, match=r"is in use by a live server, pid 4711: stop that one first"):
        Listener.claim(parse_address(listener.port))


def test_two_that_start_at_once() -> None:
    """Both can bind, one listens; the other learns of it when it opens, and holds nothing afterwards."""
    first = Listener.claim(LOOPBACK)
    second = Listener.claim(parse_address(first.port))
    first.open()
    with pytest.raises(AddressInUse):
        second.open()
    assert second.port == ""
    first.close()


def test_connections_that_linger_are_no_obstacle(listener: Listener) -> None:
    """After a stop the port can be had again at once (SO_REUSEADDR)."""
    with connect(listener), accepting(listener) as worker:
        worker.accept()[0].close()  # this side closes first: TIME_WAIT here
    address = parse_address(listener.port)
    listener.close()
    again = Listener.claim(address)
    again.open()
    again.close()


def test_ipv6_is_ipv6_alone() -> None:
    """An IPv6 listener takes no IPv4, so that both can have a pool of their own; it is written with brackets.

    A kernel without IPv6 is told in words.
    """
    if not Path("/proc/net/if_inet6").exists():
        with pytest.raises(PermissionProblem, match=r"\[::\]:0 cannot be claimed: Address family not supported"):
            Listener.claim(parse_address("[::]:0"))
        return
    made = Listener.claim(parse_address("[::]:0"))
    made.open()
    assert made.port.startswith("[::]:")
    assert made.is_public
    with accepting(made) as worker:
        assert worker.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    made.close()


def test_an_address_of_another_machine() -> None:
    """What cannot be bound is said with what can."""
    with pytest.raises(ConfigurationError, match=r"no address 192\.0\.2\.1.*0\.0\.0\.0 for every IPv4"):
        Listener.claim(parse_address("192.0.2.1:8000"))


def test_a_name_that_means_nothing() -> None:
    """A name is resolved at the start, and one that cannot be is an error of the configuration."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.invalid cannot be resolved"):
        Listener.claim(parse_address("nowhere.invalid:8000"))


def fake_names(*hosts: str) -> Any:
    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        kinds = [socket.AF_INET6 if ":" in name else socket.AF_INET for name in hosts]
        return [(kind, socket.SOCK_STREAM, 6, "", (name, port)) for kind, name in zip(kinds, hosts, strict=True)]

    return getaddrinfo


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv4 is served, and the log says what is not."""
    monkeypatch.setattr(socket, "getaddrinfo", fake_names("::1", "127.0.0.1"))
    made = Listener.claim(parse_address("localhost:0"))
    assert made.port.startswith("127.0.0.1:")
    assert made.warnings == ("localhost has other addresses, which are not served: ::1",)
    made.close()


def test_a_name_that_no_resolver_takes() -> None:
    """Longer than a name may be, it is not even asked for."""
    name = "a" * 64 + ".example.com"
    with pytest.raises(ConfigurationError, match=f"{name} cannot be resolved"):
        tcp.bind_port(parse_address(f"{name}:8000"))


def test_two_spellings_of_one_address(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what they come to, and the port; a name that comes to nothing is another address."""
    port = listener.port.rpartition(":")[2]
    bound = Listener.claim(parse_address("127.0.0.1:0"))
    fixed = Listener(parse_address(f"127.0.0.1:{port}"), listener.access, 1)
    fixed._socket = socket.socket(fileno=os.dup(listener.fileno()))
    try:
        monkeypatch.setattr(socket, "getaddrinfo", fake_names("::1", "127.0.0.1"))
        assert fixed.is_at(parse_address(f"localhost:{port}"))
        assert not fixed.is_at(parse_address("localhost:1"))
        assert bound.is_at(parse_address("localhost:0"))
        monkeypatch.setattr(socket, "getaddrinfo", fake_names("::1"))
        assert not fixed.is_at(parse_address(f"localhost:{port}"))
        monkeypatch.undo()
        assert not fixed.is_at(parse_address(f"127.0.0.2:{port}"))
        assert not fixed.is_at(parse_address(f"{'a' * 64}:{port}"))
    finally:
        fixed.close()
        bound.close()


def test_addresses_that_cannot_both_be_listened_at(listener: Listener) -> None:
    """Every address, and one of them; not two that differ, nor two ports, nor a port that the kernel chooses."""
    port = listener.port.rpartition(":")[2]
    assert listener.overlaps(parse_address(f"0.0.0.0:{port}"))
    assert listener.overlaps(parse_address(listener.port))
    assert not listener.overlaps(parse_address("0.0.0.0:0"))
    assert not listener.overlaps(parse_address(f"127.0.0.2:{port}"))
    assert not listener.overlaps(parse_address(f"[::]:{port}"))
    assert not listener.overlaps(parse_address(f"{'a' * 64}:{port}"))
    assert not listener.overlaps(parse_address("/run/app.sock"))
    everywhere = Listener.claim(parse_address("0.0.0.0:0"))
    with closing(everywhere):
        assert everywhere.overlaps(parse_address(f"127.0.0.1:{everywhere.port.rpartition(':')[2]}"))
    assert not Listener.prepare(LOOPBACK).overlaps(parse_address(f"0.0.0.0:{port}"))


@pytest.mark.parametrize(
    ("code", "part"),
    [(errno.EACCES, "start as root"), (errno.ENOBUFS, "cannot be made: No buffer")],
)
def test_a_port_that_is_refused(monkeypatch: pytest.MonkeyPatch, code: int, part: str) -> None:
    """What the kernel refuses is said in words."""

    class Refused(socket.socket):
        def bind(self, _name: object) -> None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(PermissionProblem, match=part):
        tcp.bind_port(LOOPBACK)


def test_access_is_for_files() -> None:
    """A port has no mode."""
    with pytest.raises(ConfigurationError, match="socket_mode means nothing"):
        Listener.claim(LOOPBACK, mode=0o600)


def test_the_last_day(listener: Listener) -> None:
    """Who waits is still served; nobody new gets in, where the kernel grants that; it tells how many wait."""
    with closing(SocketDiagnosis()) as diagnosis, accepting(listener) as worker, connect(listener) as early:
        # The client is told that it is connected, and then the listener.
        wait_until(lambda: listener.queue(diagnosis) == QueueReading(1, listener.backlog))
        listener.shut()
        listener.shut()
        if os.geteuid() == 0:  # others may be forbidden to attach a filter
            late = socket.socket()
            late.settimeout(0.05)
            with late, pytest.raises(TimeoutError):
                late.connect(worker.getsockname())
        early.sendall(b"x")
        served, _ = worker.accept()
        with served:
            assert served.recv(1) == b"x"
        assert listener.queue(diagnosis) == QueueReading(0, listener.backlog)
        worker.setblocking(False)
        with pytest.raises(BlockingIOError):
            worker.accept()


def test_a_queue_that_is_not_told() -> None:
    """What is no TCP socket has no such queue."""
    with socket.socket(socket.AF_UNIX) as other:
        assert tcp.queue(other) is None


def test_an_inherited_port_is_left_alone() -> None:
    """It belongs to its giver, and takes connections after our end as before."""
    with socket.create_server(("127.0.0.1", 0)) as giver:
        given = Listener.claim(parse_address(f"fd://{giver.fileno()}"))
        given.open()
        given.shut()
        with connect(given), accepting(given) as worker:
            worker.accept()[0].close()
        given.close()
